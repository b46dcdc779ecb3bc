"""The intermediate graph: frozen nodes in topological order, one input, one output.

A network with several inputs or outputs is held as one: the inputs are flattened and joined in
their order into node 0 and cut apart behind it, the outputs flattened and joined in the last node.
`Graph.inputs` and `Graph.outputs` remember the original ports.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from certify.graph.ops import Input, Nonlinear, Op


@dataclass(frozen=True)
class Port:
    """One input or output of the original network: its name, its shape and its NumPy type name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator applied to earlier nodes. `shape` is *N, without certify's batch axis."""

    op: Op
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    name: str

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, eq=False)
class Graph:
    """A network: `nodes[0]` is the `Input`, `nodes[-1]` the output; inputs of a node come before it."""

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __post_init__(self) -> None:
        if not self.nodes or not isinstance(self.nodes[0].op, Input):
            raise ValueError("node 0 of a graph must be its Input")
        for i, node in enumerate(self.nodes):
            if isinstance(node.op, Input) and i:
                raise ValueError(f"node {i} ({node.name!r}) is a second Input")
            if any(not 0 <= j < i for j in node.inputs):
                raise ValueError(f"node {i} ({node.name!r}) reads a later node")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.nodes[0].shape

    @property
    def input_size(self) -> int:
        return self.nodes[0].size

    @property
    def output_size(self) -> int:
        return self.nodes[-1].size

    @cached_property
    def nonlinear(self) -> tuple[int, ...]:
        """Indices of the nodes that are not affine, in order."""
        return tuple(i for i, n in enumerate(self.nodes) if isinstance(n.op, Nonlinear))

    @cached_property
    def readers(self) -> tuple[tuple[int, ...], ...]:
        """For every node, the nodes that read it (once per reader)."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in dict.fromkeys(node.inputs):
                found[j].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def hash(self) -> str:
        """sha256 of structure and weights (not of the nodes' names)."""
        digest = hashlib.sha256()
        for node in self.nodes:
            attributes, arrays = split_fields(node.op)
            head = [type(node.op).__name__, node.inputs, node.shape, attributes, sorted(arrays)]
            digest.update(json.dumps(head).encode())
            for key in sorted(arrays):
                array = np.ascontiguousarray(arrays[key])
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(array.data)
        ports = [[p.shape, p.dtype] for p in (*self.inputs, *self.outputs)]
        digest.update(json.dumps(ports).encode())
        return digest.hexdigest()


def split_fields(op: Op) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """An operator's parameters as (what JSON can hold, arrays)."""
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        else:
            plain[field.name] = value
    return plain, arrays
