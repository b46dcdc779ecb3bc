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

from certify.errors import UnsupportedOp
from certify.frontends.onnx import from_bytes
from certify.graph.shapes import Shape
from tests.test_onnx import RNG, agrees, draw, ints, model, node, one

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


def test_masks_of_minus_infinity_leave_entries_of_a_softmax_out() -> None:
    """The mask is added, chosen by a condition, or scaled and moved about before the softmax reads it."""
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    back = node("Softmax", ["t"])
    agrees(model([node("Add", ["x", "m"], "t"), back], {"x": (1, 2, 3, 3)}, {"m": mask}), 2)
    chosen = [node("Where", ["c", "x", "m"], "t"), node("Softmax", ["t"], axis=1)]
    agrees(model(chosen, {"x": (2, 3, 3)}, {"c": np.isfinite(mask).T, "m": np.float32(-np.inf)}), 2)
    moved = [
        *(node("Add", ["x", "m"], "a"), node("Reshape", ["a", "r"], "b"), node("Div", ["b", "d"], "c")),
        *(node("Transpose", ["c"], "e", perm=[0, 2, 1]), node("Add", ["e", "n"], "f"), node("Softmax", ["f"], axis=1)),
    ]
    constants = {"m": mask, "r": ints(2, 3, 3), "d": np.float32(3), "n": np.float32([[[0.0], [-np.inf], [1.0]]])}
    agrees(model(moved, {"x": (1, 2, 3, 3)}, constants), 2)
    for last in ("Relu", "LogSoftmax", "Neg"):
        with pytest.raises(UnsupportedOp, match="minus infinity"):
            from_bytes(model([node("Add", ["x", "m"], "t"), node(last, ["t"])], {"x": (1, 3, 3)}, {"m": mask}), "m")
    with pytest.raises(UnsupportedOp, match="a row is masked out"):
        from_bytes(model([node("Add", ["x", "m"], "t"), back], {"x": (1, 3, 3)}, {"m": mask[:, 1:2] + mask.T}), "m")


def test_entries_by_their_places() -> None:
    for shape in SHAPES[:2]:
        for axis in axes_of(shape):
            index = np.array([-1, 0]).reshape([2 if a == axis % len(shape) else 1 for a in range(len(shape))])
            agrees(one("GatherElements", shape, index, axis=axis), 1)
            agrees(one("ScatterElements", shape, index, draw(*index.shape), axis=axis, opset=16), 1)
    points, given = np.array([[1, 2], [0, -1], [1, 2]]), node("Mul", ["x", "x"], "s")
    agrees(one("GatherND", (2, 3, 2), points), 1)
    agrees(model([given, node("ScatterND", ["x", "p", "g"])], {"x": (2, 3), "g": (3,)}, {"p": points}), 1)
    agrees(model([given, node("ScatterND", ["c", "p", "x"])], {"x": (1, 2)}, {"c": draw(3, 2), "p": ints(1)[None]}), 1)
    for size, mode in itertools.product((1, 2), ("DCR", "CRD")):
        agrees(one("DepthToSpace", (1, 8, 2, 3), blocksize=size, mode=mode, opset=13), 1)
    agrees(one("SpaceToDepth", (1, 2, 4, 6), blocksize=2), 1)
    for upper, k in itertools.product((0, 1), (None, np.array(-1), np.array(1))):
        agrees(one("Trilu", (1, 3, 4), k, upper=upper), 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16])
def test_quantised_numbers(dtype: type) -> None:
    """Of variables and of stored weights, with one scale or one for each channel."""
    for shape, axis in (((2, 3), None), ((1, 3, 2), 1), ((2, 3), -1)):
        count = () if axis is None else (3,)
        scale, zero = np.float32(0.02 + 0.1 * RNG.random(count)), RNG.integers(0, 9, count).astype(dtype)
        attributes = {} if axis is None else {"axis": axis}
        constants = {"s": scale, "z": zero, "w": RNG.integers(0, 99, shape).astype(dtype)}
        for names in (["s", "z"], ["s"]) if dtype is np.uint8 else (["s", "z"],):
            back = node("DequantizeLinear", ["q", *names], "d", **attributes)
            there = [node("QuantizeLinear", ["x", *names], "q", **attributes), back, node("Add", ["d", "x"])]
            agrees(model(there, {"x": shape}, constants, opset=21), 2)
        stored = [node("DequantizeLinear", ["w", "s", "z"], "d", **attributes), node("Mul", ["d", "x"])]
        agrees(model(stored, {"x": shape}, constants, opset=21), 1)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_of_the_largest_and_casts(op: str) -> None:
    for shape in SHAPES:
        for axis, keep, last in itertools.product(axes_of(shape), (0, 1), (0, 1)):
            place = node(op, ["r"], "p", axis=axis, keepdims=keep, select_last_index=last)
            ties = [node("Round", ["x"], "r"), place, node("Cast", ["p"], to=1)]
            agrees(model(ties, {"x": shape}), 2)
    truths = [
        *(node("Cast", ["x"], "i", to=7), node("Equal", ["i", "one"], "e"), node("Cast", ["e"], "w", to=6)),
        *(node("Cast", ["w"], "f", to=1), node("Cast", ["i"], "t", to=9), node("Xor", ["t", "e"], "o")),
        *(node("Where", ["o", "f", "x"], "z"), node("CastLike", ["z", "x"])),
    ]
    agrees(model(truths, {"x": (2, 3)}, {"one": np.array(1)}))
    halves = [
        *(node("Greater", ["x", "o"], "c"), node("Where", ["c", "a", "b"], "w")),
        *(node("Div", ["w", "b"], "d"), node("Cast", ["d"], to=1)),
    ]
    constants = {"o": np.float32(0), "a": ints(3), "b": ints(2)}
    with pytest.raises(UnsupportedOp, match="of integers"):  # 3 / 2 is 1
        from_bytes(model(halves, {"x": (1, 2)}, constants), "halves")


def test_functions_that_exports_contain() -> None:
    for op, attributes in [
        *(("Softsign", {}), ("Sinh", {}), ("Cosh", {}), ("ThresholdedRelu", {"alpha": 0.3})),
        *(
            ("Shrink", {"lambd": 0.4, "bias": 0.1}),
            ("Shrink", {"lambd": 0.2}),
        ),
        *(("ReduceLogSumExp", {"axes": [1]}), ("ReduceLogSumExp", {"keepdims": 0})),
        *(("ReduceProd", {"axes": [-1], "keepdims": 0}), ("ReduceProd", {})),
    ]:
        agrees(one(op, (2, 3), **attributes), 1)
    agrees(model([node("Exp", ["x"], "e"), node("ReduceLogSum", ["e"], axes=[0])], {"x": (2, 3)}), 1)
    agrees(model([node("Pow", ["b", "x"])], {"x": (2, 3)}, {"b": np.float32([0.5, 2, 3])}), 1)
    agrees(model([node("Mod", ["x", "d"], fmod=1)], {"x": (2, 3)}, {"d": np.float32([0.5, -0.75, 2])}), 2)
    for equation, shapes in (("ij,jk,kl->il", ((2, 3), (3, 2), (2, 2))), ("...i,...i->...", ((2, 2, 3), (2, 2, 3)))):
        inputs = {f"x{i}": s for i, s in enumerate(shapes)}
        agrees(model([node("Einsum", list(inputs), equation=equation)], inputs), 1)
    for coordinate, inside in itertools.product(("half_pixel", "align_corners", "asymmetric"), (0, 1)):
        for scales in ([1, 1, 2, 1.5], [1, 1, 0.6, 1]):
            options = {"coordinate_transformation_mode": coordinate, "exclude_outside": inside, "cubic_coeff_a": -0.5}
            agrees(one("Resize", (1, 1, 5, 4), None, np.float32(scales), mode="cubic", **options), 1)


@pytest.mark.parametrize(("op", "names"), [("RNN", ["Relu"]), ("GRU", ["Relu", "Sigmoid"]), ("LSTM", ["Tanh"] * 3)])
def test_recurrent_layers_with_other_activations(op: str, names: list[str]) -> None:
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    constants = {"w": draw(2, gates * 2, 3), "r": draw(2, gates * 2, 2), "b": draw(2, gates * 4)}
    curves = [*names, *names[::-1]]
    layer = node(op, ["x", "w", "r", "b"], hidden_size=2, direction="bidirectional", activations=curves)
    agrees(model([layer], {"x": (3, 1, 3)}, constants), 2)
