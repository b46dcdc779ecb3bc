"""Reading ONNX files: protocol buffer -> graph, checked against onnxruntime.

Nodes are visited in the file's order. What depends on no input is computed at once, by the reference
implementation that comes with onnx; everything else goes through the rules of `onnx_ops` and
`onnx_layers`. A symbolic batch axis becomes one; all other axes must be fixed.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from certify.errors import MalformedNetwork, UnsupportedOp
from certify.frontends.imported import Imported, compare
from certify.frontends.onnx_layers import LAYERS
from certify.frontends.onnx_moves import MOVES
from certify.frontends.onnx_node import FLOATS, Held, OnnxNode, Table
from certify.frontends.onnx_ops import OPS
from certify.frontends.onnx_ports import Ports, with_ports
from certify.frontends.onnx_recurrent import RECURRENT
from certify.frontends.onnx_source import OnnxSource
from certify.frontends.onnx_steps import STEPS, made_of
from certify.graph.build import GraphBuilder, NotLowered, Operand, Var
from certify.graph.ir import Graph, Port

Array = np.ndarray

RULES = Table({**OPS, **MOVES, **STEPS, **LAYERS, **RECURRENT})
AS_IT_IS = Ports()
OLDEST = 7
NO_FOLDING = frozenset({"If", "Loop", "Scan", "Multinomial", "Bernoulli"}) | {
    f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")
}
"""Operators whose result is not a function of their listed inputs."""

EXACT = frozenset({*MOVES, "Cast", "CastLike", "Where", "DequantizeLinear", "Greater", "GreaterOrEqual", "Less"})
EXACT |= {"LessOrEqual", "Equal"}
"""Operators that mean the same for whole numbers, which others cut off or let wrap around."""

OURS = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators that the reference implementation computes in new operator sets only."""

REEXPORT = "export the network again, or copy the file again"


def from_onnx(path: str | Path, *, check: bool = True, ports: Ports = AS_IT_IS) -> Imported:
    """The network in `path` (.onnx, or gzip of one), compared with onnxruntime unless `check` is False; with other
    inputs' order and outputs than the file's own, if `ports` says so.

    Raises MalformedNetwork, UnsupportedOp (naming all unsupported operators) or ImportMismatch.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MalformedNetwork(f"{path}: cannot be read: {error.strerror}", "check the path") from error
    return from_bytes(data, str(path), folder=path.parent, check=check, ports=ports)


def from_bytes(
    data: bytes, name: str, *, folder: str | Path = "", check: bool = True, ports: Ports = AS_IT_IS
) -> Imported:
    """As `from_onnx`, for a model held in memory; `name` is for messages, `folder` holds external data."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise MalformedNetwork(f"{name}: the gzip file is damaged: {error}", REEXPORT) from error
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise MalformedNetwork(f"{name}: this is not an ONNX file, or only a part of one", REEXPORT) from error
    if not model.HasField("graph") or not model.opset_import:
        raise MalformedNetwork(f"{name}: the file holds no ONNX graph", REEXPORT)
    if ports != AS_IT_IS:
        model = with_ports(model, name, ports)
        data = model.SerializeToString()
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = _Walk(model, name, str(folder)).graph()
    imported = Imported(graph, OnnxSource(data, name, str(folder), graph))
    if check:
        compare(imported.graph, imported.source)
    return imported


@dataclass(frozen=True)
class _Unknown:
    """The value of a variable that an unsupported operator would have computed."""


Value = Operand | _Unknown


@dataclass
class _Walk:
    """One pass over a model's nodes."""

    model: onnx.ModelProto
    name: str
    folder: str
    values: dict[str, Value] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)  # what variables hold, if it is not plain numbers

    def graph(self) -> Graph:
        proto = self.model.graph
        self.opset = self._opset()
        self.stored = {t.name: t for t in proto.initializer}
        if proto.sparse_initializer:
            raise MalformedNetwork(f"{self.name}: sparse initialisers are not supported", "store them as dense tensors")
        ports = [self._port(p) for p in proto.input if p.name not in self.stored]
        if not ports:
            raise MalformedNetwork(f"{self.name}: the network has no input", "initialisers do not count as inputs")
        if not proto.output:
            raise MalformedNetwork(f"{self.name}: the network has no output")
        builder = GraphBuilder(ports)
        self.held |= {p.name: Held.WHOLE for p in ports if p.dtype not in FLOATS.values()}
        self.values |= {p.name: v for p, v in zip(ports, builder.inputs, strict=True)}
        for i, node in enumerate(needed(proto)):
            self._visit(builder, node, node.name or f"{node.op_type} #{i}")
        if self.missing:
            raise UnsupportedOp(
                "onnx frontend", self.missing, "replace these operators, or verify the part of the network before them"
            )
        outputs = [self._value(p.name, "the output") for p in proto.output]
        types = [FLOATS.get(p.type.tensor_type.elem_type, "float32") for p in proto.output]
        ends = [Port(p.name, o.shape, t) for p, o, t in zip(proto.output, outputs, types, strict=True)]
        try:
            return builder.build(outputs, ends)
        except ValueError as error:
            raise MalformedNetwork(f"{self.name}: {error}") from error

    def _opset(self) -> int:
        versions = [o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")]
        newest = onnx.defs.onnx_opset_version()
        if not versions or not OLDEST <= max(versions) <= newest:
            what = f"{self.name}: operator set {max(versions, default='unknown')} is not one of {OLDEST} to {newest}"
            raise MalformedNetwork(what, "convert it with onnx.version_converter, or install a newer onnx")
        return max(versions)

    def _port(self, info: onnx.ValueInfoProto) -> Port:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise MalformedNetwork(f"{self.name}: input {info.name!r} has no shape", "export with fixed shapes")
        shape = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.dim_value <= 0 and axis:
                label = f" ({dim.dim_param!r})" if dim.dim_param else ""
                raise MalformedNetwork(
                    f"{self.name}: input {info.name!r} has no fixed size on axis {axis}{label}",
                    "fix it, for example with python -m onnxruntime.tools.make_dynamic_shape_fixed",
                )
            shape.append(dim.dim_value if dim.dim_value > 0 else 1)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind in "OSUbc":
            raise MalformedNetwork(f"{self.name}: input {info.name!r} holds {dtype}, not numbers")
        return Port(info.name, tuple(shape), str(dtype))

    def _value(self, name: str, reader: str) -> Value:
        """The value called `name`: computed, an input's or an initialiser's (read when first asked for)."""
        if name not in self.values:
            if name not in self.stored:
                raise MalformedNetwork(f"{self.name}: {reader} reads {name!r}, which nothing computes before", REEXPORT)
            self.values[name] = self._tensor(self.stored[name])
        return self.values[name]

    def _tensor(self, tensor: onnx.TensorProto) -> Array:
        try:
            return numpy_helper.to_array(tensor, self.folder)
        except Exception as error:  # onnx raises many types here, all about the file
            raise MalformedNetwork(f"{self.name}: tensor {tensor.name!r} cannot be read: {error}", REEXPORT) from error

    def _visit(self, builder: GraphBuilder, node: onnx.NodeProto, label: str) -> None:
        """Compute the outputs of one node, or note that it is not supported."""
        inputs = [self._value(name, f"node {label!r}") if name else None for name in node.input]
        found: Sequence[Value] = [_Unknown()] * len(node.output)
        try:
            found = self._outputs(builder.at(label), node, inputs)
        except NotLowered as reason:
            self.missing.append((f"{node.op_type} ({reason})" if str(reason) else node.op_type, label))
        except (ValueError, IndexError, KeyError) as error:
            what = f"{self.name}: node {label!r} ({node.op_type}): {error}"
            raise MalformedNetwork(
                what, "check the node's operands and attributes, or train or export it again"
            ) from error
        self.values.update(zip(node.output, found, strict=False))

    def _outputs(self, builder: GraphBuilder, node: onnx.NodeProto, inputs: list[Value | None]) -> Sequence[Value]:
        standard = node.domain in ("", "ai.onnx")
        unknown = any(isinstance(x, _Unknown) for x in inputs)
        varies = unknown or any(isinstance(x, Var) for x in inputs)
        if standard and node.op_type not in NO_FOLDING | OURS and not varies:
            return _fold(node, inputs, self.opset)
        rule = RULES.get(node.op_type) if standard else None
        if rule is None:
            raise NotLowered("" if standard else f"of domain {node.domain}")
        if node.op_type not in EXACT and any(self.held.get(name) is Held.WHOLE for name in node.input):
            raise NotLowered("of integers")
        if unknown:
            return [_Unknown()] * len(node.output)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        held = [
            Held.of(x.dtype) if isinstance(x, np.ndarray) else self.held.get(name, Held.NUMBERS)
            for name, x in zip(node.input, inputs, strict=True)
        ]
        seen = OnnxNode(builder, node.op_type, self.opset, inputs, held, node.output, attributes)
        found = rule(seen)
        found = found if isinstance(found, list | tuple) else [found]
        self.held |= {name: made_of(seen) for name, x in zip(node.output, found, strict=False) if isinstance(x, Var)}
        return found


def needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, in order."""
    wanted = {o.name for o in graph.output}
    found = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            wanted.update(name for a in node.attribute if a.HasField("g") for m in a.g.node for name in m.input)
            found.append(node)
    return found[::-1]


def _fold(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """The outputs of a node whose inputs are constants, by onnx's reference implementation."""
    if node.op_type == "Constant" and node.attribute[0].name == "value":
        return [numpy_helper.to_array(node.attribute[0].t)]
    from onnx.reference import ReferenceEvaluator

    try:
        found = ReferenceEvaluator(_alone(node, opset)).run(
            None, {name: x for name, x in zip(node.input, inputs, strict=True) if name}
        )
    except Exception as error:  # whatever the implementation raises, the node cannot be computed
        raise ValueError(f"its constant value cannot be computed: {error}") from error
    return [np.asarray(x) for x in found]


def _alone(node: onnx.NodeProto, opset: int) -> onnx.ModelProto:
    """A model of one node; the reference implementation asks for no types."""
    model = onnx.ModelProto(ir_version=10, opset_import=[onnx.OperatorSetIdProto(version=opset)])
    model.graph.node.append(node)
    model.graph.input.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    return model
