"""PyTorch networks: a module, or a file of torch.export.save, as a graph.

torch.export turns the module into a list of ATen operators; what depends on constants only is computed
by torch itself, the rest goes through the table in `torch_table`. The graph keeps full shapes, with
the batch axis of size one.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from certify.errors import MalformedNetwork, UnsupportedOp
from certify.frontends import torch_functions, torch_moves, torch_rules, torch_steps
from certify.frontends.imported import Imported, compare
from certify.frontends.pt2 import first_line, read_pt2
from certify.frontends.torch_steps import EXACT, LOGICAL, TRUTHS, WHOLE
from certify.frontends.torch_table import RULES
from certify.graph import steps
from certify.graph.build import GraphBuilder, NotLowered, Var
from certify.graph.ir import Graph, Port

if TYPE_CHECKING:
    from torch.export import ExportedProgram

WHO = "torch.export frontend"
RULE_MODULES = (torch_functions, torch_moves, torch_rules, torch_steps)  # importing them fills the table of rules
_TYPES = {torch.float32: "float32", torch.float64: "float64"}
_WIDE = (torch.int32, torch.int64)  # hold all that networks round and count
_CAST = "aten._to_copy.default"
_PLAIN = ("_operator", "math")  # modules whose functions on constants are computed as they are
_KEPT = ("index", "indices", "condition", "attn_mask")  # arguments that are no numbers to compute with
_EXAMPLE = "give one float32 or float64 tensor per input, each with a batch axis of size one, such as x[:1]"


class ModuleSource:
    """The original module, asked in its own type, one input at a time. `name` says what was asked."""

    def __init__(self, module: Callable[..., Any], ports: Sequence[Port], name: str) -> None:
        self.module, self.ports, self.name = module, tuple(ports), name

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """y (n,) float64, all outputs flattened and joined, for x (d,) float64."""
        parts = np.split(np.asarray(x, np.float64).reshape(-1), np.cumsum([p.size for p in self.ports])[:-1])
        inputs = (
            torch.from_numpy(part.astype(port.dtype)).reshape(port.shape)
            for part, port in zip(parts, self.ports, strict=True)
        )
        with torch.no_grad():
            outputs = tree_leaves(self.module(*inputs))
        return np.concatenate([y.detach().to(torch.float64).reshape(-1).numpy() for y in outputs])


def from_module(
    module: nn.Module, example: Tensor | tuple[Tensor, ...], *, name: str = "", check: bool = True
) -> Imported:
    """The graph of `module` in eval mode, for inputs of the example's shapes and types.

    `example` is a tensor, or a tuple of them for several inputs, each with a batch axis of size one. The
    module itself is left as it is; a copy on the processor is exported and asked again later. With `check`,
    the graph is compared with it on random inputs. `name` is for messages; the default is the class's.

    Raises MalformedNetwork (an example or a module that cannot be used, weights that are not finite),
    UnsupportedOp naming all operators without a rule, and ImportMismatch.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.dtype not in _TYPES or x.dim() < 1 or x.shape[0] != 1:
            said = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise MalformedNetwork(f"example input {i} is {said}", _EXAMPLE)
    name = name or type(module).__name__
    inputs = tuple(x.detach().cpu() for x in inputs)
    try:
        module = copy.deepcopy(module).cpu().eval().requires_grad_(False)
        with torch.no_grad():
            module(*(x.clone() for x in inputs))  # says more clearly than a trace what does not fit
            program = torch.export.export(module, inputs)
    except Exception as error:  # anything that the user's own code may raise
        raise MalformedNetwork(
            f"{name} cannot be traced on the example: {type(error).__name__}: {first_line(error)}",
            "its forward must run on the example and not branch on values; see the documentation of torch.export",
        ) from error
    return _imported(program, module, f"{name} (torch, {_types(inputs)})", check)


def from_pt2(path: str | Path, *, check: bool = True) -> Imported:
    """The graph of a file of torch.export.save. Raises as `from_module`, and for files that could run code."""
    program = read_pt2(path)
    return _imported(program, program.module(), f"{Path(path).name} (torch)", check)


def _types(inputs: Sequence[Tensor]) -> str:
    return ", ".join(dict.fromkeys(_TYPES[x.dtype] for x in inputs))


def _imported(program: ExportedProgram, module: Callable[..., Any], name: str, check: bool) -> Imported:
    graph = _Lowering(program, name).graph()
    imported = Imported(graph, ModuleSource(module, graph.inputs, name))
    if check:
        compare(imported.graph, imported.source)
    return imported


def _decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program over core operators, without in-place ones; those that have a rule are left whole."""
    table = torch.export.default_decompositions()
    for op in [op for op in table if str(op) in RULES]:
        table.pop(op)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch to itself, about its own tree type
        return program.run_decompositions(table)


class _Missing:
    """Stands for a value that is not computed, because an operator before it is not supported."""


class _Lowering:
    """Walks an exported program once. A constant's value is a tensor (or number), a variable's a `Var`."""

    def __init__(self, program: ExportedProgram, name: str) -> None:
        self.name = name
        self.program = _decomposed(program)
        self.missing: list[tuple[str, str]] = []
        self.values: dict[fx.Node, Any] = {}
        self.builder = self._enter()

    def graph(self) -> Graph:
        """The graph of the program's outputs. Raises UnsupportedOp naming all operators without a rule."""
        for node in self.program.graph.nodes:
            if node.op in ("call_function", "get_attr"):
                self.values[node] = self._value(node)
        if self.missing:
            raise UnsupportedOp(WHO, self.missing, "build the network without them")
        results = self.program.graph.output_node().args[0]
        kinds = [spec.kind.name for spec in self.program.graph_signature.output_specs]
        if not {"USER_OUTPUT", "USER_INPUT_MUTATION"}.issuperset(kinds):  # in-place work on an input does no harm
            raise MalformedNetwork(f"{self.name} changes its own state when it runs", "export it in eval mode")
        nodes = [n for n, kind in zip(results, kinds, strict=True) if kind == "USER_OUTPUT"]
        held = (*_TYPES, *_WIDE, torch.bool)
        wrong = [str(n) for n in nodes if not isinstance(n, fx.Node) or _dtype(n) not in held]
        if wrong or not nodes:
            raise MalformedNetwork(
                f"{self.name} returns {', '.join(wrong) or 'nothing'}", "return tensors of numbers only"
            )
        outputs = [_operand(self.values[n], n.name, "Tensor", _dtype(n)) for n in nodes]
        ports = [Port(n.name, y.shape, _TYPES.get(_dtype(n), "float32")) for n, y in zip(nodes, outputs, strict=True)]
        try:
            return self.builder.build(outputs, ports)
        except ValueError as error:
            raise MalformedNetwork(f"{self.name}: {error}") from error

    def _enter(self) -> GraphBuilder:
        """A builder with the program's inputs; these and all stored tensors get their values."""
        inputs, ports = [], []
        state = {**self.program.state_dict, **self.program.constants}
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind.name == "USER_INPUT":
                inputs.append(node)
                ports.append(self._port(node))
                continue
            value = state[spec.target]
            learnt = spec.kind.name == "PARAMETER"  # a mask may hold minus infinity, which a softmax leaves out
            if isinstance(value, Tensor) and not (value.isfinite() | (value.isneginf() & (not learnt))).all():
                raise MalformedNetwork(
                    f"{self.name}: {spec.target!r} holds NaN or infinity", "train or export it again"
                )
            self.values[node] = value.detach() if isinstance(value, Tensor) else value
        if not ports:
            raise MalformedNetwork(f"{self.name} has no input", _EXAMPLE)
        builder = GraphBuilder(ports)
        self.values.update(zip(inputs, builder.inputs, strict=True))
        return builder

    def _port(self, node: fx.Node) -> Port:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dtype not in _TYPES or value.dim() < 1 or value.shape[0] != 1:
            said = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise MalformedNetwork(f"{self.name}: input {node.name!r} is {said}", f"export it again; {_EXAMPLE}")
        return Port(node.name, tuple(value.shape), _TYPES[value.dtype])

    def _value(self, node: fx.Node) -> Any:
        """The value of one node; what is not supported is noted in `missing`, so that all of it can be named."""
        inputs = [self.values[n] for n in node.all_input_nodes]
        lost = any(v is _Missing for v in inputs)
        if node.op == "get_attr":  # a part of the program that a higher-order operator calls
            return _Missing
        if node.target is operator.getitem:
            found = _Missing if lost else self.values[node.args[0]][node.args[1]]
            return self._note(f"{node.args[0].target} (its result {node.args[1]})", node) if found is None else found
        if not lost and not any(map(_varies, inputs)):
            return self._constant(node)
        rule = RULES.get(str(node.target))
        if rule is None and str(node.target) != _CAST:
            return self._note(str(node.target), node)
        if lost:
            return _Missing
        return self._variable(node, rule)

    def _note(self, what: str, node: fx.Node) -> type[_Missing]:
        self.missing.append((what, _place(node)))
        return _Missing

    def _constant(self, node: fx.Node) -> Any:
        """What torch computes from constants alone."""
        if not str(node.target).startswith("aten.") and getattr(node.target, "__module__", "") not in _PLAIN:
            return self._note(str(node.target), node)
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            return self._note(f"{node.target} (random)", node)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        try:
            with torch.no_grad():
                return node.target(*args, **kwargs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise MalformedNetwork(f"{self.name}: node {_place(node)!r}: {error}") from error

    def _variable(self, node: fx.Node, rule: Callable[..., Any] | None) -> Any:
        """What the graph computes: new nodes at its end."""
        dtype, name = _dtype(node), str(node.target)
        if name == _CAST:
            return self._cast(node)
        if name in LOGICAL and any(_dtype(n) != torch.bool for n in node.all_input_nodes):
            return self._note(f"{node.target} (of numbers)", node)
        known = dtype is None or dtype in _TYPES or (dtype == torch.bool and name in TRUTHS)
        if not known and not (dtype in (*_WIDE, torch.bool) and name in EXACT | WHOLE):
            return self._note(f"{node.target} (in {dtype})", node)
        computed = _dtype(node.all_input_nodes[0]) if dtype == torch.bool else dtype  # comparisons: of the arguments
        computed = computed if computed in _TYPES else None
        args = []
        for i, slot in enumerate(node.target._schema.arguments):
            given = node.args[i] if i < len(node.args) else node.kwargs.get(slot.name, slot.default_value)
            args.append(_operand(fx.node.map_arg(given, self.values.__getitem__), slot.name, str(slot.type), computed))
        try:
            found = rule(self.builder.at(_place(node)), *args)
        except NotLowered as error:
            return self._note(f"{node.target} ({error})", node)
        except ValueError as error:
            raise MalformedNetwork(f"{self.name}: node {_place(node)!r}: {error}") from error
        return torch.from_numpy(np.array(found)).to(dtype) if isinstance(found, np.ndarray) else found

    def _cast(self, node: fx.Node) -> Any:
        """To truth values: whether it is not 0. To whole numbers: towards zero, none being too large for the type."""
        x, source, wanted = self.values[node.args[0]], _dtype(node.args[0]), _dtype(node)
        builder = self.builder.at(_place(node))
        if wanted in _TYPES or source == wanted:
            return x
        if wanted == torch.bool:
            return steps.compare(builder, "ne", x, np.float64(0))
        if wanted in _WIDE:
            return steps.truncated(builder, x) if source in _TYPES else x
        return self._note(f"{node.target} (in {wanted})", node)


def _varies(value: Any) -> bool:
    return isinstance(value, Var) or (isinstance(value, tuple | list) and any(map(_varies, value)))


def _dtype(node: fx.Node) -> torch.dtype | None:
    """The type of a node's (first) tensor; None if it has none."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    return value.dtype if isinstance(value, Tensor) else None


def _operand(value: Any, name: str, kind: str, dtype: torch.dtype | None) -> Any:
    """The argument `name`, of this kind in the schema, as the rules want it.

    Numbers and whole numbers' tensors are rounded to the operator's type, as torch does.
    """
    if isinstance(value, tuple | list):
        return [_operand(v, name, kind, dtype) for v in value]
    if isinstance(value, Tensor):
        converted = value.dim() == 0 if value.dtype in _TYPES else name not in _KEPT
        value = value.to(dtype) if converted and dtype is not None else value
        return value.detach().cpu().numpy()
    if isinstance(value, int | float) and not isinstance(value, bool) and dtype is not None:
        rounded = np.asarray(value, _TYPES[dtype])
        return rounded if "Tensor" in kind else float(rounded) if "number" in kind or name == "value" else value
    return value


def _place(node: fx.Node) -> str:
    """Where a node comes from: the path of its module, if it is known, and its own name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return f"{path}/{node.name}" if path else node.name
