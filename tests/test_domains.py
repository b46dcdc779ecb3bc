"""Open domains: in what order they come back, what of them is kept, and that none is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from certify.bab.domains import Domains, Pool, Siblings, Start
from certify.bounds.linear import Splits
from certify.evidence import LEVELS
from certify.spec.inputset import InputSet

SEEDS = st.integers(0, 2**32 - 1)


def boxes(rows: list[int], rng: np.random.Generator) -> Domains:
    """Domains of a search over boxes; every field of each tells its row."""
    row = torch.tensor(rows)
    lower = torch.as_tensor(rng.integers(-9, 9, len(rows)), dtype=torch.float32)
    ends = row.float().unsqueeze(1).repeat(1, 2)
    return Domains(row % 3, row, lower, InputSet(ends, ends + 1))


def start(rng: np.random.Generator, count: int, columns: int) -> Start:
    """Random splits, with unused columns anywhere."""
    sign = rng.integers(-1, 2, (count, columns))
    node, index = rng.integers(1, 9, (count, columns)), rng.integers(0, 2**31, (count, columns))
    numbers = [torch.as_tensor(rng.random((count, n)), dtype=torch.float32) for n in (columns, columns, 2)]
    parameters = torch.as_tensor(rng.integers(0, LEVELS + 1, (count, 5), np.uint8))
    splits = Splits(torch.as_tensor(node), torch.as_tensor(index), numbers[0], torch.as_tensor(sign).float())
    return Start(splits, numbers[1], numbers[2], parameters)


def siblings(rows: list[int], rng: np.random.Generator) -> Siblings:
    """Pairs of domains of a search over neurons, numbered by `rows`, an even number."""
    count = len(rows) // 2
    lower = torch.as_tensor(rng.integers(-9, 9, count), dtype=torch.float32)
    parents = Domains(
        torch.arange(count), torch.zeros(count, dtype=torch.long), lower, start=start(rng, count, 3).packed()
    )
    node, index = torch.as_tensor(rng.integers(1, 9, (2, count)))
    return Siblings(parents, node, index, torch.as_tensor(rng.random(count)).float(), torch.tensor(rows).reshape(-1, 2))


def path(domains: Domains, i: int) -> list[tuple]:
    """The splits of a domain and their multipliers, in order."""
    s, multipliers = domains.start.splits, domains.start.multipliers
    columns = zip(*(t[i].tolist() for t in (s.node, s.index, s.point, s.sign, multipliers)), strict=True)
    return [c for c in columns if c[3]]


@given(seed=SEEDS, paired=st.booleans(), moves=st.lists(st.integers(-7, 7), max_size=30))
def test_a_pool_is_a_stack(seed: int, paired: bool, moves: list[int]) -> None:
    """Beside a plain list: what is pushed last comes first, once each, and the totals are always right."""
    rng, pool, expected, fresh = np.random.default_rng(seed), Pool(), [], 0
    for move in moves:
        if move > 0:
            rows = list(range(fresh, fresh := fresh + (2 * move if paired else move)))
            batch = siblings(rows, rng) if paired else boxes(rows, rng)
            pool.push(batch)
            lower = batch.domains().lower.tolist()
            expected.append(list(zip(rows, lower, strict=True)))
        elif move and expected:
            taken = pool.pop(-move)
            got = list(zip(taken.row.tolist(), taken.lower.tolist(), strict=True))
            wanted = []
            while expected and len(wanted) < -move:
                count = -move - len(wanted)
                count += count % 2 if paired else 0
                wanted += expected[-1][:count]
                expected[-1] = expected[-1][count:]
                if not expected[-1]:
                    expected.pop()
            assert got == wanted
            if not paired:
                assert taken.inputs.lower[:, 0].tolist() == taken.row.tolist()
        left = [lower for layer in expected for _, lower in layer]
        assert len(pool) == len(left)
        assert pool.lower == min(left, default=float("inf"))
        assert (pool.bytes > 0) == bool(left)


def test_an_unknown_bound_is_no_bound() -> None:
    pool = Pool()
    pool.push(boxes([0, 1], np.random.default_rng(0)))
    pool.push(replace(boxes([2, 3], np.random.default_rng(0)), lower=torch.tensor([1.0, float("nan")])))
    assert pool.lower == float("-inf")


@given(seed=SEEDS, count=st.integers(1, 5), columns=st.integers(0, 5))
def test_packing_keeps_the_paths(seed: int, count: int, columns: int) -> None:
    given_ = Domains(*[torch.zeros(count)] * 3, start=start(np.random.default_rng(seed), count, columns))
    packed = given_.start.packed()
    back = replace(given_, start=packed.unpacked())
    assert [path(back, i) for i in range(count)] == [path(given_, i) for i in range(count)]
    assert packed.splits.sign.shape[1] == max(len(path(given_, i)) for i in range(count))
    for a, b in zip(back.start.tensors()[5:], given_.start.tensors()[5:], strict=True):
        assert torch.equal(a, b)
    assert [t.dtype for t in back.start.tensors()] == [t.dtype for t in given_.start.tensors()]


@given(seed=SEEDS, count=st.integers(1, 5))
def test_siblings_are_the_parent_and_one_split(seed: int, count: int) -> None:
    pairs = siblings(list(range(2 * count)), np.random.default_rng(seed))
    parents, children = replace(pairs.parents, start=pairs.parents.start.unpacked()), pairs.domains()
    assert len(children) == 2 * count
    for i in range(2 * count):
        p = i // 2
        cut = (int(pairs.node[p]), int(pairs.index[p]), float(pairs.point[p]), (-1.0, 1.0)[i % 2], 0.0)
        assert path(children, i) == [*path(parents, p), cut]
        for mine, own in ((children.start.weights, parents.start.weights), (children.lower, parents.lower)):
            assert torch.equal(mine[i], own[p])
        assert torch.equal(children.start.parameters[i], parents.start.parameters[p])


def test_mixed_depths_are_taken_together() -> None:
    """Deep domains over shallow ones, taken at once and packed again, do not make the shallow ones longer."""
    rng, pool = np.random.default_rng(5), Pool()
    batches = [siblings([0, 1, 2, 3], rng), siblings([4, 5], rng)]
    for batch in batches:
        pool.push(batch)
    taken = pool.pop(6)
    alone = [(d, i) for batch in reversed(batches) for d in [batch.domains()] for i in range(len(d))]
    assert [path(taken, i) for i in range(6)] == [path(d, i) for d, i in alone]
    depths = [len(path(taken, i)) for i in range(6)]
    assert taken.start.packed().splits.sign.shape[1] == max(depths)


@pytest.mark.parametrize("paired", [False, True])
def test_what_was_taken_is_let_go(paired: bool) -> None:
    """A layer that is taken bit by bit holds at most about twice what is left of it."""
    pool, rng = Pool(), np.random.default_rng(1)
    rows = list(range(256))
    pool.push(siblings(rows, rng) if paired else boxes(rows, rng))
    whole = pool.bytes
    while len(pool):
        assert pool.bytes <= 2 * whole * len(pool) / 256 + 1
        storage = _storage(pool)
        assert storage <= 2 * whole * len(pool) / 256 + 1
        pool.pop(2)


def _storage(pool: Pool) -> int:
    """Bytes of the storages behind a pool's tensors, each counted once."""
    found: dict[int, int] = {}

    def note(t: Tensor | None) -> None:
        if t is not None:
            found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()

    for layer in pool._layers[1:]:
        batch = layer.batch
        domains = batch.parents if isinstance(batch, Siblings) else batch
        if isinstance(batch, Siblings):
            for t in (batch.node, batch.index, batch.point, batch.rows):
                note(t)
        for t in (domains.tree, domains.row, domains.lower, *(domains.start.tensors() if domains.start else ())):
            note(t)
        if domains.inputs is not None:
            note(domains.inputs.lower)
            note(domains.inputs.upper)
    return sum(found.values())
