"""Trees under construction: whether they lie in memory or in files, and whole or in part, evidence is the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import fields
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certify.bab.column import Column
from certify.bab.engine import Proofs, spans
from certify.bab.tree import TreeBuilder
from certify.errors import CertifyError
from certify.evidence import Tree

Array = np.ndarray
SEEDS = st.integers(0, 2**32 - 1)


@given(sizes=st.lists(st.integers(0, 9), max_size=12), most=st.integers(0, 300), width=st.integers(0, 4))
def test_columns_hold_what_was_appended(sizes: list[int], most: int, width: int) -> None:
    column, expected = Column(np.int32, (width,), most), np.zeros((0, width), np.int32)
    for size in sizes:
        values = np.arange(size * width).reshape(size, width) + len(expected)
        before = column.view
        copy = before.copy()
        column.extend(values)
        np.testing.assert_array_equal(before, copy)
        expected = np.concatenate([expected, values])
        np.testing.assert_array_equal(column.view, expected)
        assert len(column) == len(expected)
        assert column.bytes <= 2 * most


@pytest.mark.parametrize("most", [0, 100, 10_000])
def test_columns_can_be_changed_where_they_lie(most: int) -> None:
    column = Column(np.dtype([("a", "i4"), ("b", "f8", (2,))]), (), most)
    for value in range(5):
        records = np.zeros(7, column.dtype)
        records["a"], records["b"] = value, -1
        column.extend(records)
        column.view["b"][::2] = value
    assert column.view["a"].tolist() == [v for v in range(5) for _ in range(7)]
    assert (column.view["b"][::2] == 4).all()
    assert (column.view["b"][1::2] == -1).all()


def test_a_file_that_cannot_be_written_is_refused() -> None:
    column = Column(np.float64, (), 8)
    column.extend(np.zeros(1))
    with (
        patch.object(tempfile, "TemporaryFile", side_effect=OSError(28, "No space left on device")),
        pytest.raises(CertifyError, match="TMPDIR"),
    ):
        column.extend(np.zeros(1))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_spans(pairs: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    assert spans(starts, starts + lengths).tolist() == [x for a, n in pairs for x in range(a, a + n)]


class Grown:
    """A random tree and its proofs, as a search would build it: batches of leaves are proved, or split."""

    def __init__(self, seed: int, memory: int) -> None:
        rng = np.random.default_rng(seed)
        sloped = np.zeros(3, np.int32) + 4, np.arange(3)
        self.builder = TreeBuilder(0, (0,), 2, sloped, memory=memory)
        depth, leaves = {0: 0}, [0]
        self.parts: list[tuple[Array, Tree]] = []
        for _ in range(6):
            rng.shuffle(leaves)
            closed, rows = np.sort(leaves[: len(leaves) // 3]), np.array(leaves[len(leaves) // 3 :][:8], np.int32)
            leaves = [leaf for leaf in leaves if leaf not in closed and leaf not in rows]
            if len(closed):
                proofs = self.builder.prove(closed.astype(np.int32), self._random(rng, [depth[r] for r in closed]))
                self.builder.accept(proofs[::2])
                self.parts.append((proofs, self.builder.part(proofs)))
            node = rng.integers(0, 4, len(rows))
            children = self.builder.split(rows, node, rng.integers(0, 9, len(rows)), rng.standard_normal(len(rows)))
            for side in children:
                depth |= {int(c): depth[int(r)] + int(v > 0) for c, r, v in zip(side, rows, node, strict=True)}
                leaves += side.tolist()
        self.count = sum(len(proofs) for proofs, _ in self.parts)

    @staticmethod
    def _random(rng: np.random.Generator, depths: list[int]) -> Proofs:
        count = len(depths)
        slopes, offsets = rng.integers(0, 256, (count, 3), np.uint8), np.cumsum([0, *depths])
        clause, weights = np.zeros(count, np.int32), rng.random((count, 2))
        return Proofs(np.arange(count), clause, weights, slopes, rng.random(offsets[-1]), offsets)


def _same(a: Tree, b: Tree) -> None:
    for field in fields(Tree):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


@given(seed=SEEDS, memory=st.sampled_from([0, 1, 50, 400]))
def test_memory_does_not_change_the_evidence(seed: int, memory: int) -> None:
    large, small = Grown(seed, 1 << 30), Grown(seed, memory)
    rng = np.random.default_rng(seed)
    some = np.flatnonzero(rng.random(large.count) < 0.7)
    for proofs in (np.arange(large.count), some, some[::-1]):
        _same(large.builder.tree(proofs), small.builder.tree(proofs))
    for (_, a), (_, b) in zip(large.parts, small.parts, strict=True):
        _same(a, b)
    every_other = np.concatenate([np.zeros(0, np.int64), *(proofs[::2] for proofs, _ in large.parts)])
    np.testing.assert_array_equal(large.builder.accepted, every_other)
    np.testing.assert_array_equal(small.builder.accepted, every_other)


def _paths(tree: Tree) -> Iterator[tuple]:
    """Of every proof: the splits on its path, with the side taken and whether the anchor lies there; and itself."""
    parent = {}
    for row in np.flatnonzero(tree.node >= 0).tolist():
        parent |= {int(tree.below[row]): (row, -1), int(tree.above[row]): (row, 1)}
    for p, leaf in enumerate(tree.leaf.tolist()):
        path, row, anchor = [], leaf, int(tree.anchor[leaf])
        while row:
            up, side = parent[row]
            path.append((tree.node[up], tree.index[up], tree.point[up], side, anchor == row))
            row = up
        mine = slice(tree.offsets[p], tree.offsets[p + 1])
        yield path, tree.multipliers[mine].tolist(), tree.slopes[p].tolist(), tree.weights[p].tolist()


@given(seed=SEEDS)
def test_a_part_has_the_whole_paths_of_its_proofs(seed: int) -> None:
    grown = Grown(seed, 1 << 30)
    whole = list(_paths(grown.builder.tree(np.arange(grown.count))))
    for proofs, part in grown.parts:
        assert list(_paths(part)) == [whole[p] for p in proofs.tolist()]
        split = part.node >= 0
        named = np.concatenate([part.below[split], part.above[split]])
        assert sorted(named.tolist()) == list(range(1, len(part.node)))
