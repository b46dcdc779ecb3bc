"""The ONNX frontend against onnxruntime on a generated matrix: operators x attributes x operator sets x shapes.

`tests.test_onnx` has the cases that somebody thought of; here every axis, from either end, meets every rank, and every
pair of shapes that broadcast meets every operator of two arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.graph.shapes import Shape
from tests.test_onnx import agrees, draw, ints, model, node, one

SHAPES: tuple[Shape, ...] = ((1, 3), (2, 3, 2), (1, 2, 3, 2))
OPSETS = (11, 13, 18)
PAIRS: tuple[tuple[Shape, Shape], ...] = (
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((1, 2, 3), (2, 1)),
    ((2, 3), ()),
    ((1,), (2, 2)),
)
BROADCASTING = ("Add", "Sub", "Mul", "Max", "Min")


def axes_of(shape: Shape) -> Iterator[int]:
    yield from range(-len(shape), len(shape))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"])
def test_reductions(op: str) -> None:
    for shape, opset, keep in itertools.product(SHAPES, OPSETS, (0, 1)):
        every = [(a,) for a in axes_of(shape)] + [tuple(range(1, len(shape))), (0, -1)]
        for axes in every[opset % 3 :: 3]:  # a third of them in each operator set, all of them in the three
            as_input = opset >= (13 if op == "ReduceSum" else 18)
            given = (ints(*axes),) if as_input else ()
            attributes = {} if as_input else {"axes": list(axes)}
            if len(shape) == len(axes) and not keep:
                continue
            agrees(one(op, shape, *given, opset=opset, keepdims=keep, **attributes), 1)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_along_each_axis(op: str) -> None:
    """Before operator set 13, all axes from the given one on are one."""
    for shape, opset in itertools.product(SHAPES, (11, 13)):
        for axis in axes_of(shape):
            agrees(one(op, shape, opset=opset, axis=axis), 1)
        agrees(one(op, shape, opset=opset), 1)


@pytest.mark.parametrize("op", [*BROADCASTING, "Div"])
def test_broadcasting(op: str) -> None:
    for a, b in [*PAIRS, *((b, a) for a, b in PAIRS)]:
        constant = draw(*b)
        if op == "Div":
            constant = np.asarray(np.sign(constant) * (np.abs(constant) + 0.5), np.float32)
        agrees(model([node(op, ["x", "c"])], {"x": a}, {"c": constant}), 1)
        if op != "Div":
            agrees(model([node(op, ["c", "x"])], {"x": a}, {"c": constant}), 1)
            if min(len(a), len(b)):
                agrees(model([node(op, ["x", "z"])], {"x": a, "z": b}), 1)


@pytest.mark.parametrize("op", ["Div", "Pow"])
def test_operators_of_positive_variables(op: str) -> None:
    for a, b in PAIRS:
        right = node("Exp", ["z"], "e") if op == "Div" else node("Identity", ["z"], "e")
        if op == "Div" and b:
            agrees(model([right, node(op, ["x", "e"])], {"x": a, "z": b}), 1)
        for power in (2.0, 3.0, 0.5, -1.0) if op == "Pow" else ():
            base = [node("Exp", ["x"], "e"), node("Pow", ["e", "p"])]
            agrees(model(base, {"x": a}, {"p": np.full(b, power, np.float32)}), 1)


def test_moving_entries_along_each_axis() -> None:
    for shape in SHAPES:
        for axis in axes_of(shape):
            n = shape[axis]
            agrees(one("Gather", shape, np.array([n - 1, 0, -1]), axis=axis), 1)
            agrees(one("Gather", shape, np.array(n - 1), axis=axis), 1)
            agrees(model([node("Concat", ["x", "x"], axis=axis)], {"x": shape}), 1)
            agrees(one("Slice", shape, ints(-1), ints(-n - 1), ints(axis), ints(-1)), 1)
            agrees(one("Slice", shape, ints(0), ints(1 << 40), ints(axis), ints(2)), 1)
            parts = [f"p{i}" for i in range(n)]
            back = [node("Split", ["x"], parts, axis=axis), node("Concat", parts[::-1], axis=axis)]
            agrees(model(back, {"x": shape}, opset=11), 1)
            agrees(one("CumSum", shape, np.array(axis), opset=14), 1)
        for axis in range(len(shape) + 1):
            agrees(one("Flatten", shape, axis=axis), 1)
            agrees(one("Unsqueeze", shape, ints(axis), opset=13), 1)
            agrees(one("Unsqueeze", shape, opset=11, axes=[axis]), 1)
        for order in itertools.permutations(range(len(shape))):
            agrees(one("Transpose", shape, perm=list(order)), 1)
        single = [i for i, n in enumerate(shape) if n == 1]
        for opset in (11, 13):
            given, attributes = ((ints(*single),), {}) if opset >= 13 else ((), {"axes": single})
            if single:
                agrees(one("Squeeze", shape, *given, opset=opset, **attributes), 1)


def test_normalisations_of_each_rank() -> None:
    for rank in (2, 3, 4):
        shape = (1, 4, 3, 2)[:rank]
        stored = (draw(4), draw(4), draw(4), np.abs(draw(4)) + 0.5)
        agrees(one("BatchNormalization", shape, *stored, opset=14, epsilon=1e-3), 1)
        for axis in axes_of(shape):
            tail = shape[axis:]
            agrees(one("LayerNormalization", shape, draw(*tail), draw(*tail), axis=axis, epsilon=1e-2), 1)
            agrees(one("LayerNormalization", shape, draw(*tail), axis=axis), 1)
        if rank > 2:
            agrees(one("InstanceNormalization", shape, draw(4), draw(4)), 1)
            for groups in (1, 2, 4):
                agrees(one("GroupNormalization", shape, draw(4), draw(4), opset=21, num_groups=groups), 1)


@settings(max_examples=25)
@given(data=st.data())
def test_products_of_tensors_of_any_rank(data: st.DataObject) -> None:
    """MatMul of two variables, or with a constant on either side, over axes that broadcast."""
    lead = data.draw(st.lists(st.integers(1, 2), max_size=2))
    other = [data.draw(st.sampled_from([1, n])) for n in lead][data.draw(st.integers(0, len(lead))) :]
    m, k, n = (data.draw(st.integers(1, 3)) for _ in range(3))
    left, right = (*lead, m, k), (*other, k, n)
    if data.draw(st.booleans()):
        left, right = (*other, m, k), (*lead, k, n)
    kind = data.draw(st.sampled_from(["variables", "left", "right"]))
    inputs = {"x": left, "z": right}
    fixed = {"left": "x", "right": "z"}.get(kind)
    constants = {fixed: draw(*inputs.pop(fixed))} if fixed else {}
    agrees(model([node("MatMul", ["x", "z"])], inputs, constants), 1)
