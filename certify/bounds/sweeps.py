"""Backward passes and whole ascents of many rows by the compiled sweep, for the networks that it covers.

The same numbers as `certify.bounds.linear` and `certify.bounds.optimise` compute in torch, up to rounding, with
one difference: a row is left as soon as it is closed or without hope, by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from certify.bounds.program import Program, program
from certify.graph.evaluate import Network
from certify.native import library
from certify.native.products import compiled, field_of
from certify.relax.elementwise import Lines
from certify.spec.inputset import InputSet
from certify.threads import for_kernels

SLICE = 4e9
"""Operations between two looks at the budget, nearly."""

WORTH_THREADS = 5e7
"""Operations from which a call is shared between threads: a millisecond or so."""

STAGES = (3, 8)
"""Steps behind which the rows that are done make room for others."""


class Splits(Protocol):
    """The splits of B domains, as in `certify.bounds.linear`."""

    node: Tensor
    index: Tensor
    point: Tensor
    sign: Tensor


class Schedule(Protocol):
    """Rates and steps, as in `certify.bounds.optimise`."""

    steps: int
    lines: float
    multipliers: float
    decay: float
    trial: int | None


@dataclass(frozen=True, eq=False)
class Swept:
    """What a backward pass leaves of rows (B, S): the input's coefficients (B, S, d), constants, least values over
    the boxes, and the coefficients {e: (B, S, *N)} of what each ReLU makes; the first and the last if asked for."""

    input: Tensor | None
    constant: Tensor
    least: Tensor
    kept: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Ascended:
    """Where an ascent ended: the last pass, the highest bounds (B, S), and what was moved: lower slopes
    {e: (B, S, *N)} and multipliers (B, S, D)."""

    last: Swept
    best: Tensor
    slopes: dict[int, Tensor]
    multipliers: Tensor


def sweeper(network: Network, inputs: InputSet, last: int | None = None) -> Sweeper | None:
    """The sweeps of this network, or of what node `last` depends on, over these regions; None if the kernels do not
    cover it."""
    kernels = compiled(inputs.lower) if inputs.norm is None else None
    found = None if kernels is None else program(network, len(network.graph.nodes) - 1 if last is None else last)
    return None if found is None else Sweeper(kernels, found, inputs.lower.contiguous(), inputs.upper.contiguous())


@dataclass(frozen=True, eq=False)
class Sweeper:
    """A network's program, and the boxes lower, upper (B, d) that it is to run on."""

    kernels: library.Library
    program: Program
    lower: Tensor
    upper: Tensor

    def nodes(self) -> set[int]:
        """The ReLU nodes."""
        return {layer.node for layer in self.program.layers}

    def covers(self, lines: Mapping[int, Lines]) -> bool:
        """Whether these lines, which may be those of other nodes too, are all that a pass needs."""
        return all(layer.node in lines for layer in self.program.layers)

    def back(
        self,
        start: Tensor,
        offset: Tensor,
        lines: Mapping[int, Lines],
        splits: Splits | None = None,
        multipliers: Tensor | None = None,
        *,
        pick: Tensor | None = None,
        form: bool = True,
        keep: bool = False,
    ) -> Swept:
        """The rows start (B or 1, S, n), with constants offset (B or 1, S), back through these lines. `pick` (B, k)
        takes k of the shared S rows for each domain. Raises MemoryError."""
        if pick is not None:
            offset = offset[0][pick]
        run = _Run(self, start, offset, form)
        for layer in self.program.layers:
            run.add_layer(lines[layer.node], keep)
        given = run.begin()
        given.shared = all(lines[layer.node].lower_slope.shape[1] == 1 for layer in self.program.layers)
        if pick is not None:
            (given.pick,) = run.held(pick.contiguous())
        if splits is not None and splits.node.shape[1]:
            given.depth = splits.node.shape[1]
            given.layer, given.place, given.bent, given.sign = run.held(*self._placed(splits))
            (given.multiplier,) = run.held(multipliers.contiguous())
        run.on(torch.arange(run.offset.numel()))
        return run.result

    def ascend(
        self,
        start: Tensor,
        offset: Tensor,
        lines: dict[int, Lines],
        splits: Splits | None,
        multipliers: Tensor,
        schedule: Schedule,
        threshold: float,
        stop: Callable[[], bool],
    ) -> Ascended:
        """Raise the bounds of the rows start (B or 1, S, n) with constants offset (B or 1, S) by projected Adam, from
        these lines and multipliers (B, S, D). Raises MemoryError."""
        batch, clauses = len(self.lower), start.shape[1]
        run = _Run(self, start, offset, form=True)
        slopes = {}
        for layer in self.program.layers:
            slope = lines[layer.node].lower_slope
            slope = slope.expand(batch, clauses, *slope.shape[2:]).clone(memory_format=torch.contiguous_format)
            slopes[layer.node] = slope
            run.add_layer(lines[layer.node]._replace(lower_slope=slope), keep=True, move=True)
        best = start.new_full((batch, clauses), -torch.inf)
        done = torch.zeros(batch, clauses, dtype=torch.uint8)
        multipliers = multipliers.clone(memory_format=torch.contiguous_format)
        given = run.begin()
        given.ascend, given.steps = 1, schedule.steps
        given.trial = -1 if schedule.trial is None else schedule.trial
        given.threshold, given.decay = threshold, schedule.decay
        given.rate, given.multiplier_rate = schedule.lines, schedule.multipliers
        given.best, given.initial, given.done = run.held(best, torch.empty_like(best), done)
        if splits is not None and splits.node.shape[1]:
            given.depth = splits.node.shape[1]
            given.layer, given.place, given.bent, given.sign = run.held(*self._placed(splits))
            moments = (torch.zeros_like(multipliers), torch.zeros_like(multipliers), torch.ones_like(multipliers))
            given.multiplier, given.mean, given.square, given.scale = run.held(multipliers, *moments)
        for given.first, given.until in _stages(schedule.steps):
            if given.first and stop():
                break
            for chunk in run.chunks((done.flatten() == 0).nonzero().squeeze(1), given.until - given.first + 1):
                if stop():
                    given.until = given.first
                run.on(chunk, given.until - given.first + 1)
        return Ascended(run.result, best, slopes, multipliers)

    def _placed(self, splits: Splits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each split the layer (or -1), where its neuron stands, its point and its sign: (B, D) each."""
        layer = torch.full_like(splits.node, -1, dtype=torch.int32)
        place = torch.zeros_like(layer)
        for k, here in enumerate(self.program.layers):
            own = (splits.node == here.read) & (splits.node != 0) & (splits.sign != 0)  # those of node 0 cut the box
            layer = torch.where(own, k, layer)
            place = torch.where(own, here.place[splits.index.clamp_max(len(here.place) - 1)], place)
        return layer.contiguous(), place.contiguous(), splits.point.contiguous(), splits.sign.contiguous()


@dataclass(eq=False)
class _Run:
    """The struct that the kernel is given, and all that it points to."""

    sweeper: Sweeper
    start: Tensor  # (B or 1, any, n)
    offset: Tensor  # (B or 1, S)
    form: InitVar[bool]
    layers: list[library.Layer] = field(default_factory=list)
    result: Swept = field(init=False)
    _held: list[object] = field(default_factory=list)
    _given: library.Sweep = field(init=False)

    def __post_init__(self, form: bool) -> None:
        self.offset = self.offset.expand(len(self.sweeper.lower), -1).contiguous()
        input = self.offset.new_empty(*self.offset.shape, self.sweeper.lower.shape[1]) if form else None
        self.result = Swept(input, torch.empty_like(self.offset), torch.empty_like(self.offset), {})

    def held(self, *tensors: Tensor) -> list[int]:
        """Pointers to contiguous tensors, which stay where they are."""
        self._held += tensors
        return [t.data_ptr() for t in tensors]

    def add_layer(self, line: Lines, keep: bool, move: bool = False) -> None:
        """The lines of the next ReLU, each (B or 1, S or 1, *N); if they are to `move`, with a lower slope
        (B, S, *N)."""
        layer = self.sweeper.program.layers[len(self.layers)]
        shape = line.upper_slope.shape[1:]
        own = library.Layer(len(layer.place), layer.kept, layer.place.data_ptr())
        own.lower_slope, lower = field_of(line.lower_slope, shape)
        own.upper_slope, upper = field_of(line.upper_slope, shape)
        own.upper_shift, shift = field_of(line.upper_shift, shape)
        self._held += (lower, upper, shift)
        if keep:
            kept = self.offset.new_zeros(*self.offset.shape, *line.upper_slope.shape[2:])
            self.result.kept[layer.node] = kept
            (own.coefficients,) = self.held(kept)
        if move:
            moments = (torch.zeros_like(line.lower_slope) for _ in range(2))
            own.slope, own.mean, own.square = self.held(line.lower_slope, *moments)
        self.layers.append(own)

    def begin(self) -> library.Sweep:
        """The struct of one backward pass, once all layers are there."""
        program, sweeper, found = self.sweeper.program, self.sweeper, self.result
        given = self._given = library.Sweep()
        given.clauses, given.vectors = self.offset.shape[1], program.vectors
        given.inputs, given.outputs, given.room = sweeper.lower.shape[1], len(program.output_place), program.room
        given.start, given.form, given.point = program.start, program.form, program.point
        given.input_place, given.output_place = program.input_place.data_ptr(), program.output_place.data_ptr()
        given.lower, given.upper = sweeper.lower.data_ptr(), sweeper.upper.data_ptr()
        given.rows, rows = field_of(self.start, self.start.shape[1:])
        _, given.offset = self.held(rows, self.offset)
        back, forth = program.back.array, program.forth.array
        given.back_count, given.forth_count, given.layer_count = len(back), len(forth), len(self.layers)
        given.back, given.forth = back, forth
        given.layers = (library.Layer * len(self.layers))(*self.layers)
        if found.input is not None:
            (given.input,) = self.held(found.input)
        given.constant, given.value = self.held(found.constant, found.least)
        return given

    def chunks(self, rows: Tensor, passes: int) -> tuple[Tensor, ...]:
        """Positions of rows, as many at a time as a slice of time allows."""
        return rows.split(max(64, int(SLICE / (self.sweeper.program.operations * passes + 1))))

    def on(self, rows: Tensor, passes: int = 1) -> None:
        """Run the kernel on these rows, numbered b * S + s. Raises MemoryError."""
        much = self.sweeper.program.operations * len(rows) * passes > WORTH_THREADS
        self._given.threads = for_kernels() if much else 1
        self._given.count, self._given.row = len(rows), rows.data_ptr()
        self.sweeper.kernels.call("sweep", self._given)


def _stages(steps: int) -> Iterator[tuple[int, int]]:
    first = 0
    for until in (*(s for s in STAGES if s < steps), steps):
        yield first, until
        first = until
