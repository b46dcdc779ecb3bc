"""Linear bounds by backward propagation: CROWN (Zhang et al. 2018), DeepPoly (Singh et al. 2019), beta-CROWN.

A row a asks for a lower bound of <a, value of some node>. Walking from that node to the input, an
affine operator replaces a by its adjoint (Xu et al. 2020, section 3.2) and an elementwise operator
replaces its output by the line below it where the coefficient is positive and the line above it where
negative. What remains is a linear form of the input, minimised over the region in closed form.

Rows are tensors (B, S, *N). While all domains still share them, B is one: work is multiplied by the
number of domains only behind the first relaxed operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from certify.bounds import sweeps
from certify.bounds.base import NodeBounds, flat
from certify.graph.evaluate import Network
from certify.native import products
from certify.relax.elementwise import LINES, Lines
from certify.relax.product import Planes
from certify.spec.inputset import InputSet


@dataclass(frozen=True, eq=False)
class Splits:
    """Up to D neuron splits of each of B domains; all fields (B, D).

    `sign` is +1 where the value of `index` (flat) of graph node `node` is >= `point`, -1 where it is
    <= `point`, and 0 where the entry is unused.
    """

    node: Tensor
    index: Tensor
    point: Tensor
    sign: Tensor

    def nodes(self) -> list[int]:
        """The graph nodes that any domain splits."""
        return self._nodes

    @cached_property
    def _nodes(self) -> list[int]:
        return torch.unique(self.node[self.sign != 0]).tolist()

    def select(self, rows: Tensor | slice) -> Splits:
        """The splits of the domains `rows`."""
        return Splits(self.node[rows], self.index[rows], self.point[rows], self.sign[rows])

    def only(self, entries: Tensor) -> Splits:
        """Of every domain's splits those at `entries` (positions or a mask (D,))."""
        return Splits(self.node[:, entries], self.index[:, entries], self.point[:, entries], self.sign[:, entries])

    def extended(self, node: Tensor, index: Tensor, point: Tensor, sign: Tensor) -> Splits:
        """One split more behind each domain's own; all arguments (B,)."""
        pairs = ((self.node, node), (self.index, index), (self.point, point), (self.sign, sign))
        return Splits(*(torch.cat([old, new.unsqueeze(1).to(old.dtype)], 1) for old, new in pairs))

    def restrict(self, bounds: NodeBounds, batch: int) -> NodeBounds:
        """Bounds shared by all domains (batch 1) or not, cut by each domain's own splits."""
        found = dict(bounds)
        for v in self.nodes():
            lower, upper = (flat(b.expand(batch, *b.shape[1:]), 1).clone() for b in bounds[v])
            here = self.node == v
            for side, sign, reduce in ((lower, 1, "amax"), (upper, -1, "amin")):
                active = here & (self.sign == sign)
                fill = torch.full_like(self.point, -sign * torch.inf)
                index = torch.where(active, self.index, 0)  # the others may lie beyond this node's size
                side.scatter_reduce_(1, index, torch.where(active, self.point, fill), reduce)
            found[v] = (lower.reshape(batch, *bounds[v][0].shape[1:]), upper.reshape(batch, *bounds[v][1].shape[1:]))
        return found


def no_splits(like: Tensor) -> Splits:
    """The empty splits of as many domains as `like` (B, ...) has, with its type and device."""
    number = like.new_zeros(len(like), 0)
    return Splits(number.long(), number.long(), number, number)


@dataclass(frozen=True, eq=False)
class Form:
    """What a backward pass leaves: value >= <input, x> + constant for every x of the domain.

    `input` (B, S, d), `constant` (B, S); `kept` has, per elementwise node, the rows (B, S, *N) that
    arrived at its output, where they were asked for.
    """

    input: Tensor
    constant: Tensor
    kept: dict[int, Tensor]

    def minimum(self, inputs: InputSet) -> Tensor:
        """(B, S): the least value of the form over each region."""
        return inputs.minimum(self.input) + self.constant

    def select(self, domains: Tensor) -> Form:
        """The forms of `domains` (positions)."""
        kept = {e: _pick(a, domains) for e, a in self.kept.items()}
        return Form(_pick(self.input, domains), _pick(self.constant, domains), kept)


def _pick(t: Tensor, domains: Tensor) -> Tensor:
    """t of these domains, which may all share one entry."""
    return t if t.shape[0] == 1 else t[domains]


def lines_of(
    network: Network, bounds: NodeBounds, nodes: Mapping[int, Tensor] | tuple[int, ...]
) -> dict[int, Lines | Planes]:
    """Relaxing lines (B, 1 or S, *N) of the elementwise `nodes`, given bounds on what they read.

    Where `nodes` maps to tensors (B, 1 or S, *N), these are the lines' parameters.
    """
    found = {}
    for e in nodes:
        node = network.graph.nodes[e]
        lower, upper = bounds[node.inputs[0]]
        slope = nodes[e] if isinstance(nodes, Mapping) else None
        found[e] = LINES[node.op](node.op, lower.unsqueeze(1), upper.unsqueeze(1), slope)
    return found


def propagate(
    network: Network,
    start: dict[int, Tensor],
    constant: Tensor,
    lines: Mapping[int, Lines | Planes],
    *,
    splits: Splits | None = None,
    multipliers: Tensor | None = None,
    choose: Tensor | None = None,
    keep: bool = False,
) -> Form:
    """Propagate the rows `start` {node: (B or 1, S, *N)}, with constants (B or 1, S), to the input.

    `lines` must hold every elementwise node before the start nodes. `multipliers` (B, S, D), not
    negative, belong to `splits`. `choose` (B, k) picks, for every domain, k of the S shared rows; it is
    applied where domains begin to differ. Sound if the lines enclose their operators on all values
    reachable in the domain.
    """
    graph = network.graph
    rows = dict(start)
    kept: dict[int, Tensor] = {}
    split_nodes = set(splits.nodes()) if splits is not None else set()
    for i in range(max(max(rows), *split_nodes) if split_nodes else max(rows), 0, -1):
        a = rows.pop(i, None)
        if a is None:
            if i not in split_nodes:
                continue
            a = constant.new_zeros(*constant.shape, *graph.nodes[i].shape)  # only splits speak of this node
        if i in split_nodes:
            a, constant = _apply_splits(a, constant, i, splits, multipliers)
        node = graph.nodes[i]
        if network.functions[i] is not None:
            if choose is not None:
                pending = {**rows, i: a}
                rows, constant = _choose(pending, constant, choose)
                a, choose = rows.pop(i), None
            if keep:
                kept[i] = a
            a, constant = _relax(a, constant, lines[i])
            _add(rows, node.inputs[0], a)
            continue
        joined = a.flatten(0, 1)
        term = network.maps[i].bias_term(joined)
        if term is not None:
            constant = constant + term.view(a.shape[:2])
        for j, back in zip(node.inputs, network.maps[i].adjoint(joined), strict=True):
            _add(rows, j, back.reshape(*a.shape[:2], *graph.nodes[j].shape))
    if choose is not None:
        rows, constant = _choose(rows, constant, choose)
    final = rows.get(0)
    if final is None:
        final = constant.new_zeros(*constant.shape, graph.input_size)
    return Form(flat(final, 2), constant, kept)


def least(
    network: Network,
    node: int,
    rows: Tensor,
    constant: Tensor,
    lines: Mapping[int, Lines],
    inputs: InputSet,
    choose: Tensor | None = None,
) -> Tensor:
    """(B or 1, S): the least values over the regions of the forms that `propagate` finds for rows (B or 1, S, *N) of
    one node, or (B, k) for those that `choose` takes."""
    sweeper = sweeps.sweeper(network, inputs, node)
    if sweeper is not None and sweeper.covers(lines):
        return sweeper.back(rows, constant, lines, pick=choose, form=False).least
    return propagate(network, {node: rows}, constant, lines, choose=choose).minimum(inputs)


def _add(rows: dict[int, Tensor], node: int, a: Tensor) -> None:
    rows[node] = rows[node] + a if node in rows else a


def _relax(a: Tensor, constant: Tensor, lines: Lines | Planes) -> tuple[Tensor, Tensor]:
    """Replace a nonlinear output by its lines: coefficient and constant in terms of what it reads."""
    if isinstance(lines, Planes):
        a, shift = lines.pull(a)
        return a, constant + shift
    compiled = products.relax(a, lines)
    if compiled is not None:
        return compiled[0], constant + compiled[1]
    negative = a.clamp_max(0)
    constant = constant + _inner(negative, lines.upper_shift)
    if not _is_zero(lines.lower_shift):
        constant = constant + _inner(a - negative, lines.lower_shift)
    return torch.addcmul(a * lines.lower_slope, negative, lines.upper_slope - lines.lower_slope), constant


def _is_zero(shift: Tensor) -> bool:
    """A shift given as a plain zero (ReLU's lower lines all pass through the origin)."""
    return shift.dim() == 0


def _inner(a: Tensor, shift: Tensor) -> Tensor:
    """sum over *N of a * shift: (B, S, *N), (B, 1 or S, *N) -> (B, S)."""
    if shift.shape[1] == 1 and shift.shape[2:] == a.shape[2:]:
        return torch.matmul(flat(a, 2), flat(shift, 2).transpose(1, 2)).squeeze(-1)
    return flat(a * shift, 2).sum(-1)


def _choose(rows: dict[int, Tensor], constant: Tensor, choose: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Each domain's own rows (B, k, ...) out of shared ones (1, S, ...)."""
    return {i: a[0][choose] for i, a in rows.items()}, constant[0][choose]


def _apply_splits(a: Tensor, constant: Tensor, node: int, splits: Splits, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Add the Lagrangian terms -multiplier * sign * (value - point) of the splits of `node`."""
    here = splits.sign * (splits.node == node)
    amount = here.unsqueeze(1) * multipliers
    spread = flat(a.expand(amount.shape[0], *a.shape[1:]), 2)
    index = splits.index.masked_fill(here == 0, 0)  # the others may lie beyond this node's size
    moved = spread.scatter_add(2, index.unsqueeze(1).expand_as(amount), -amount)
    return moved.reshape(*moved.shape[:2], *a.shape[2:]), constant + (amount * splits.point.unsqueeze(1)).sum(-1)
