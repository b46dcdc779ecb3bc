"""A query: an original network, its graph, and the cases that must all hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from certify.errors import MalformedSpec
from certify.graph.ir import Graph
from certify.spec.property import Property
from certify.spec.regions import Region

Array = np.ndarray

_FIT = "regions are over the network's flattened inputs, properties over its flattened outputs"


class Source(Protocol):
    """The original network, asked again before anything is called falsified."""

    name: str

    def __call__(self, x: Array) -> Array:
        """y (n,) float64, all outputs flattened and joined, for x (d,) float64, cast to the input's own type."""
        ...


@dataclass(frozen=True, eq=False)
class Case:
    """Over this region, this property must hold."""

    region: Region
    property: Property


@dataclass(frozen=True, eq=False)
class Query:
    """Do all `cases` hold of the network? `source` is the original callable, `graph` its import."""

    source: Source
    graph: Graph
    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        n, d = self.graph.output_size, self.graph.input_size
        if not self.cases:
            raise MalformedSpec("the query has no case: nothing would be proved", "give at least one region")
        for case in self.cases:
            if case.region.size != d:
                raise MalformedSpec(f"the region has {case.region.size} inputs, the network {d}", _FIT)
            if not case.property.clauses:
                raise MalformedSpec("a property has no clause: nothing would be proved", "say what is unsafe")
            for c in case.property.clauses:
                if c.matrix.shape[1] not in (n, n + d):
                    raise MalformedSpec(f"the property is over {c.matrix.shape[1]} outputs, the network has {n}", _FIT)

    @cached_property
    def reads_input(self) -> bool:
        """Whether some clause speaks of inputs as well as outputs."""
        n = self.graph.output_size
        return any(c.matrix.shape[1] != n for case in self.cases for c in case.property.clauses)

    @cached_property
    def spec_hash(self) -> str:
        return spec_hash(self.cases)


def spec_hash(cases: Sequence[Case]) -> str:
    """sha256 of regions and clauses, as float64 values."""
    parts: list[bytes] = []
    headers: dict[tuple, bytes] = {}  # made once: there may be many small arrays

    def add(array: Array) -> None:
        kind = array.dtype, array.shape
        if kind not in headers:
            headers[kind] = f"{array.dtype.str}{array.shape}".encode()
        parts.append(headers[kind])
        parts.append(array.tobytes())

    for case in cases:
        region = case.region
        add(region.lower)
        add(region.upper)
        if region.norm is not None:
            add(region.center)
            add(np.array([region.radius, region.norm]))
        parts.append(f"clauses {len(case.property.clauses)}".encode())
        for c in case.property.clauses:
            add(c.matrix)
            add(c.offset)
            add(c.strict)
    return hashlib.sha256(b"".join(parts)).hexdigest()
