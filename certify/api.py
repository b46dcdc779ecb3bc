"""The engine from Python: `verify` for a verdict, `bound` for numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn

from certify import verifier
from certify.bounds.method import BoundMethod, at_once
from certify.bounds.methods import IntervalBounds, LinearBounds
from certify.bounds.rows import Rows
from certify.budget import Budget
from certify.device import device_of
from certify.errors import BadOption, MalformedNetwork, MalformedSpec
from certify.frontends.imported import Imported
from certify.frontends.load import load_network
from certify.frontends.question import Question, ask
from certify.graph.evaluate import Network
from certify.spec.inputset import InputSet, stack
from certify.spec.property import Property
from certify.spec.query import Case, Query
from certify.spec.regions import ArrayLike, Region, as_array
from certify.strategy import Strategy
from certify.verdict import Verdict
from certify.verifier import Report

Array = np.ndarray
AnyNetwork = nn.Module | Imported | str | Path
Example = Tensor | tuple[Tensor, ...]
T = TypeVar("T")


@overload
def verify(
    network: AnyNetwork,
    region: Region,
    property: Property,
    *,
    example: Example | None = ...,
    strategy: Strategy | None = ...,
    timeout: float | None = ...,
    progress: Report | None = ...,
) -> Verdict: ...


@overload
def verify(
    network: AnyNetwork,
    region: Sequence[Region],
    property: Property | Sequence[Property],
    *,
    example: Example | None = ...,
    strategy: Strategy | None = ...,
    timeout: float | None = ...,
    progress: Report | None = ...,
) -> list[Verdict]: ...


@overload
def verify(
    network: AnyNetwork | Mapping[str, str | Path],
    region: None = ...,
    *,
    property: str | Path,
    example: Example | None = ...,
    strategy: Strategy | None = ...,
    timeout: float | None = ...,
    progress: Report | None = ...,
) -> Verdict: ...


def verify(
    network: AnyNetwork | Mapping[str, str | Path],
    region: Region | Sequence[Region] | None = None,
    property: Property | Sequence[Property] | str | Path | None = None,
    *,
    example: Example | None = None,
    strategy: Strategy | None = None,
    timeout: float | None = None,
    progress: Report | None = None,
) -> Verdict | list[Verdict]:
    """Whether the property holds of the network's output for every input of the region.

    `network` is a torch module, a network file, the name of a saved model, or what `load_network` made of one of
    them, which saves the import where many queries follow. A module needs an `example` input, with a batch axis
    of one; without it, the shape of the arrays that the region was made of stands for one input.

    `region` and `property` come in three forms:

    - one region (`box`, `ball`) and one property (`robust`, `targeted`, or `Property` of clauses that are unsafe);
    - a data set: a sequence of regions, with one property for all or one for each. They are bounded in one batch,
      and the answer is a list of verdicts;
    - no region, and the path of a VNN-LIB file as the property. If it declares several networks, `network` is their
      files by name: {"f": "f.onnx", "g": "g.onnx"}.

    `timeout` is in seconds, for the whole call. Verified carries a proof that the independent checker accepted,
    Falsified an input of the region that was replayed on the original network.

    Raises CertifyError, which names the remedy: MalformedNetwork, UnsupportedOp, ImportMismatch, MalformedSpec,
    EmptyRegion, BadOption.
    """
    budget = Budget(timeout)
    if isinstance(property, str | Path):
        if region is not None:
            raise BadOption("a VNN-LIB file says itself what its region is", "leave the region out")
        question = _question(network, example, property)
        query = Query(question.source, question.graph, question.cases)
        return verifier.verify(query, strategy, budget, progress)
    if region is None or property is None:
        raise BadOption(
            "there is nothing to verify without a region and a property",
            "give both, such as certify.ball(x, 0.1) and certify.robust(label, classes), or a VNN-LIB file as property",
        )
    regions = _several(region, Region, "region")
    properties = _several(property, Property, "property")
    alone = isinstance(region, Region)
    if alone and len(properties) > 1:
        raise MalformedSpec(f"there are {len(properties)} properties for one region", "join their clauses in one")
    properties = properties * len(regions) if isinstance(property, Property) else properties
    if len(properties) != len(regions):
        raise MalformedSpec(
            f"there are {len(regions)} regions and {len(properties)} properties", "give one property, or one for each"
        )
    imported = _imported(network, example, regions)
    query = _query(imported, [Case(r, p) for r, p in zip(regions, properties, strict=True)])
    verdicts = verifier.verify_each(query, strategy, budget, progress)
    return verdicts[0] if alone else verdicts


@dataclass(frozen=True, eq=False)
class Bound:
    """What the network's output lies between, over each of B regions: lower and upper (B, S), float64.

    `nodes` are the bounds (B, *N) on values within the network that they rest on, by graph node.
    """

    lower: Array
    upper: Array
    nodes: dict[int, tuple[Array, Array]]


def bound(
    network: AnyNetwork,
    region: Region | Sequence[Region],
    rows: ArrayLike | None = None,
    *,
    method: BoundMethod | None = None,
    example: Example | None = None,
    device: str = "cpu",
    memory: int = 2 << 30,
    timeout: float | None = None,
) -> Bound:
    """Bounds on rows of the network's output over one or several regions, without search and without a claim.

    They are computed in float64 that rounds to nearest, not outward, and nobody checks them: use `verify` for a
    claim. `rows` (S, n) are linear combinations of the n flattened outputs (default: the outputs themselves, S = n);
    rows (S, n + d) speak of the d inputs too. `method` is `IntervalBounds()`, `ZonotopeBounds()`, `WongKolterBounds()`,
    `LpBounds(neurons)` or, the default, `LinearBounds(slopes, steps)`; interval arithmetic tightens what the others
    find. `network` and `example` are as in `verify`; about `memory` bytes are used at once. After `timeout` seconds no
    value within the network is tightened any more, and the rest is bounded with what there is.

    Raises CertifyError as `verify` does; UnsupportedOp names all operators that the method does not cover.
    """
    budget = Budget(timeout, memory)
    regions = _several(region, Region, "region")
    method = method or LinearBounds()
    place = device_of(device)
    imported = _imported(network, example, regions)
    graph = imported.graph
    method.require(graph)
    matrix = _rows(rows, graph.output_size, graph.input_size)
    for one in regions:
        if one.size != graph.input_size:
            raise MalformedSpec(f"the region has {one.size} inputs, the network {graph.input_size}", _SHAPES)
    compiled = Network(graph, torch.float64, place)
    both = torch.from_numpy(np.concatenate([matrix, -matrix])).to(place)[None, :, None]
    offset = both.new_zeros(both.shape[:3])
    asked = Rows(both, offset, torch.ones_like(offset, dtype=torch.bool))
    numbers: list[int] = []
    parts: list[Bound] = []
    with torch.no_grad():
        for members, inputs in stack(regions, compiled.dtype, compiled.device):
            size = at_once(compiled, memory)
            for first in range(0, len(members), size):
                chosen = members[first : first + size]
                parts.append(_bound(compiled, inputs.select(slice(first, first + size)), asked, method, budget))
                numbers += chosen
    return _joined(parts, np.argsort(numbers))


def _bound(network: Network, inputs: InputSet, rows: Rows, method: BoundMethod, budget: Budget) -> Bound:
    found = method(network, inputs, rows, budget=budget)
    plain = IntervalBounds()(network, inputs, rows, within=found.nodes, budget=budget)
    lower = torch.maximum(found.lower, plain.lower).squeeze(-1).cpu().numpy()
    count = lower.shape[1] // 2
    batch = len(inputs)
    nodes = {v: tuple(b.expand(batch, *b.shape[1:]).cpu().numpy() for b in found.nodes[v]) for v in found.nodes}
    return Bound(lower[:, :count], -lower[:, count:], nodes)


def _joined(parts: list[Bound], order: Array) -> Bound:
    def join(arrays: list[Array]) -> Array:
        return np.concatenate(arrays)[order]

    nodes = {v: tuple(join([p.nodes[v][side] for p in parts]) for side in (0, 1)) for v in parts[0].nodes}
    return Bound(join([p.lower for p in parts]), join([p.upper for p in parts]), nodes)


_SHAPES = "regions are over the network's flattened inputs, rows over its flattened outputs"


def _rows(rows: ArrayLike | None, outputs: int, inputs: int) -> Array:
    """(S, n or n + d)."""
    if rows is None:
        return np.eye(outputs)
    matrix = np.atleast_2d(as_array(rows, "a matrix of rows"))
    if matrix.ndim != 2 or matrix.shape[1] not in (outputs, outputs + inputs) or not len(matrix):
        raise MalformedSpec(f"rows of shape {matrix.shape} do not fit the network's {outputs} outputs", _SHAPES)
    if not np.isfinite(matrix).all():
        raise MalformedSpec("a row has an entry that is not finite", "give finite coefficients")
    return matrix


def _query(imported: Imported, cases: Sequence[Case]) -> Query:
    return Query(imported.source, imported.graph, tuple(cases))


def _several(given: T | Sequence[T], kind: type[T], what: str) -> list[T]:
    """One or several objects as a list. Raises BadOption for anything else."""
    found = [given] if isinstance(given, kind) else list(given) if isinstance(given, Sequence) else None
    if found is None or not found or not all(isinstance(one, kind) for one in found):
        named = type(given).__name__
        raise BadOption(f"the {what} is a {named}", f"give a certify.{kind.__name__}, or a sequence of some")
    return found


def _question(network: AnyNetwork | Mapping[str, str | Path], example: Example | None, prop: str | Path) -> Question:
    if isinstance(network, str | Path | Mapping):
        return ask(network, prop)
    imported = _imported(network, example, ())
    return ask("the network", prop, load=lambda _: imported)


def _imported(network: AnyNetwork, example: Example | None, regions: Sequence[Region]) -> Imported:
    """The network's import; a module without an example gets one of the first region's shape."""
    if isinstance(network, Imported):
        return network
    if not isinstance(network, nn.Module) or example is not None or not regions or regions[0].shape is None:
        return load_network(network, example)
    shape = (1, *regions[0].shape)
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    try:
        return load_network(network, torch.zeros(shape, dtype=dtype))
    except MalformedNetwork as error:
        remedy = f"if an input is not of shape {shape}, as the region's arrays say, give an example, such as x[:1]"
        raise MalformedNetwork(error.what, f"{error.remedy}; {remedy}" if error.remedy else remedy) from error
