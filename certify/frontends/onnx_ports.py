"""Other inputs' order, and other outputs, of an ONNX model: what VNN-LIB 2.0 asks of it by the names in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import onnx

from certify.errors import MalformedNetwork

LISTED = 8  # names that a message lists


class Ports(NamedTuple):
    """Names in an ONNX file: the order of its inputs (empty: as they are), hidden values that become outputs, and
    the outputs behind these (empty: all, as they are)."""

    inputs: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def with_ports(model: onnx.ModelProto, name: str, ports: Ports) -> onnx.ModelProto:
    """The model with these inputs and outputs.

    A hidden value goes by its own name, or by that of its node where this has one output. Raises MalformedNetwork,
    with the file's `name`, for names that the file does not have.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(onnx.shape_inference.infer_shapes(model) if ports.hidden else model)
    graph = changed.graph
    stored = {t.name for t in graph.initializer}
    given = {p.name: p for p in graph.input if p.name not in stored}
    own = {p.name: p for p in graph.output}
    if ports.inputs and sorted(ports.inputs) != sorted(given):
        what = f"{name}: its inputs are {_list(given)}, not {_list(ports.inputs)}"
        raise MalformedNetwork(what, "correct the names in the property")
    if ports.outputs and sorted(ports.outputs) != sorted(own):
        what = f"{name}: its outputs are {_list(own)}, not {_list(ports.outputs)}"
        raise MalformedNetwork(what, "correct the names in the property")
    infos = _hidden(graph, name, ports.hidden, own) if ports.hidden else []
    kept = [p for p in graph.input if p.name in stored]
    _replace(graph.input, [*(given[n] for n in ports.inputs or given), *kept])
    _replace(graph.output, [*infos, *(own[n] for n in ports.outputs or own)])
    return changed


def _hidden(
    graph: onnx.GraphProto, name: str, hidden: Sequence[str], own: Mapping[str, onnx.ValueInfoProto]
) -> list[onnx.ValueInfoProto]:
    """What is known of the hidden values; one that is an output already is copied under another name."""
    values = {n for node in graph.node for n in node.output if n}
    nodes = {node.name: node.output[0] for node in graph.node if node.name and len(node.output) == 1}
    chosen = [n if n in values else nodes.get(n, "") for n in hidden]
    if "" in chosen:
        what = f"{name}: no value or node of it is called {hidden[chosen.index('')]!r}"
        raise MalformedNetwork(what, f"it has {_list(sorted(values))}")
    if len(set(chosen)) < len(chosen):
        raise MalformedNetwork(f"{name}: {_list(hidden)} name one value twice", "declare each hidden node once")
    known = {info.name: info for info in (*graph.value_info, *graph.output)}
    infos = []
    for n in chosen:
        info = onnx.ValueInfoProto()
        info.CopyFrom(known.get(n, onnx.ValueInfoProto(name=n)))
        info.name = _copied(graph, n) if n in own else n
        infos.append(info)
    return infos


def _copied(graph: onnx.GraphProto, value: str) -> str:
    """The name of a copy of a value."""
    name = f"{value}/hidden"
    graph.node.append(onnx.helper.make_node("Identity", [value], [name]))
    return name


def _replace(field: list[onnx.ValueInfoProto], values: Sequence[onnx.ValueInfoProto]) -> None:
    kept = []
    for value in values:
        kept.append(onnx.ValueInfoProto())
        kept[-1].CopyFrom(value)
    del field[:]
    field.extend(kept)


def _list(names: Iterable[str]) -> str:
    names = [repr(n) for n in names]
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
