"""A checker of results as VNN-COMP's is: it reads the file, asks onnxruntime, and decides in exact arithmetic.

It knows nothing of certify: the property is read by `vnnlib_reference`, the networks are run by onnxruntime, of what
the result says of outputs and hidden nodes only their place and number count.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from tests import vnnlib_reference

HEADER = re.compile(r"(\w+) (\w+) \[([\d,]*)\]")
DECLARED = re.compile(r"\(declare-(input|hidden|output) (\w+) (\w+) \[([\d, ]*)\](?: \"([^\"]+)\")?\)")


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()


def outputs(network: Path, inputs: list[np.ndarray], hidden: list[str]) -> list[np.ndarray]:
    """What onnxruntime answers: hidden values by name, then the outputs; inputs are flat."""
    raw = network.read_bytes()
    model = onnx.ModelProto.FromString(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    names = [*hidden, *(o.name for o in model.graph.output)]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in hidden)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {}
    for port, x in zip(session.get_inputs(), inputs, strict=True):
        kind = {"tensor(float)": np.float32, "tensor(double)": np.float64}[port.type]
        feed[port.name] = x.astype(kind).reshape([n if isinstance(n, int) else 1 for n in port.shape])
    return [y.reshape(-1) for y in session.run(names, feed)]


def first_version(result: str, prop: str, network: Path) -> bool:
    """Whether the result, behind its first line, is a counterexample: ((X_0 v) ... (Y_0 v) ...)."""
    meant = vnnlib_reference.read(prop)
    body = result.split("\n", 1)[1].strip()
    assert body.startswith("((") and body.endswith("))")  # noqa: PT018
    pairs = re.findall(r"\(([XY]_\d+) ([^\s()]+)\)", body)
    assert [name for name, _ in pairs] == [*meant.inputs, *meant.outputs]
    x = np.array([float(value) for _, value in pairs[: len(meant.inputs)]])
    (y,) = outputs(network, [x], [])
    values = dict(zip([*meant.inputs, *meant.outputs], [*x.tolist(), *y.tolist()], strict=True))
    return meant.unsafe({name: Fraction(value) for name, value in values.items()})


def second_version(result: str, prop: str, networks: Mapping[str, Path]) -> bool:
    """The same for a property of version 2.0, and files by the names of all declared networks."""
    meant = vnnlib_reference.read(prop)
    lines = result.splitlines()[1:]
    values: dict[str, Fraction] = {}
    for part in re.split(r"\(declare-network ", prop)[1:]:
        name = part.split()[0]
        inputs, declared = [], DECLARED.findall(part)
        for kind, variable, type_, shape, _ in declared:
            header = HEADER.fullmatch(lines.pop(0))
            assert header is not None
            assert header.groups() == (variable, type_, shape.replace(" ", "")), header[0]
            count = prod(int(n) for n in shape.split(",")) if shape.strip() else 1
            numbers, lines = [float(line) for line in lines[:count]], lines[count:]
            if kind == "input":
                inputs.append(np.array(numbers))
        hidden = [node for kind, *_, node in declared if kind == "hidden"]
        found = [*inputs, *outputs(networks[name], inputs, hidden)]
        order = [v for k in ("input", "hidden", "output") for kind, v, *_ in declared if kind == k]
        for variable, array in zip(order, found, strict=True):
            entries = [n for n in meant.types if n.split("[")[0] == variable]
            values |= dict(zip(entries, map(Fraction, array.tolist()), strict=True))
    assert lines == []
    return meant.unsafe(values)
