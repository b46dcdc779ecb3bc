"""Properties of several networks: what they ask against a slow reading of the text, and what is answered."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.commands.standard import answer
from certify.errors import BadOption, CertifyError, EmptyRegion, MalformedNetwork, MalformedSpec
from certify.frontends.question import Question, ask
from certify.graph.evaluate import evaluate
from certify.spec.gather import EmptyDisjunct
from certify.verdict import Grade, Reason, Unknown, Verdict, Verified
from tests import vnnlib_reference
from tests.conftest import Ran, save_onnx

Certify = Callable[..., Ran]
RNG = np.random.default_rng(0)
F = [(RNG.integers(-2, 3, (3, 2)) / 2, np.array([0.5, 0, -0.5])), (RNG.integers(-2, 3, (2, 3)) / 2, np.zeros(2))]
G = [(w + 0.125 * (RNG.random(w.shape) < 0.3), b) for w, b in F]

DECLARED = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-hidden H real [3] "a0") (declare-output Y real [1,2]))
(declare-network g (isomorphic-to f) (declare-input A real [1,2]) (declare-output B real [1,2]))
"""
BOX = "(assert (and (<= -1 X[0,0] 1) (<= -1 X[0,1] 1) (<= -1 A[0,0] 1) (<= -1 A[0,1] 1)))\n"
NAMES = (
    [f"{t}[0,{i}]" for t in "XA" for i in range(2)],
    [*(f"H[{i}]" for i in range(3)), *(f"{t}[0,{i}]" for t in "YB" for i in range(2))],
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {"f": save_onnx(folder / "f.onnx", F), "g": save_onnx(folder / "g.onnx", G)}


def forward(layers: list, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hidden, output): all numbers are small multiples of powers of two, so this is exact."""
    hidden = np.maximum(layers[0][0] @ x + layers[0][1], 0)
    return hidden, layers[1][0] @ hidden + layers[1][1]


def written(folder: Path, text: str) -> Path:
    path = folder / "p.vnnlib"
    path.write_text(text)
    return path


def unsafe(question: Question, x: np.ndarray) -> bool:
    """Whether the joint original makes x a counterexample."""
    y = question.source(x)
    for case in question.cases:
        z = np.concatenate([y, x])
        if case.region.contains(x) and any(c.unsafe(z[: c.matrix.shape[1]]) for c in case.property.clauses):
            return True
    return False


numbers = st.sampled_from(["0", "1", "-2", "0.5", "1.25"])
terms = st.recursive(
    st.sampled_from([*NAMES[0], *NAMES[1]]) | numbers,
    lambda t: st.builds("({} {} {})".format, st.sampled_from("+-*"), t, t),
    max_leaves=3,
)
conditions = st.recursive(
    st.builds("({} {} {})".format, st.sampled_from(["<=", "<", ">", ">=", "==", "!="]), terms, terms),
    lambda f: st.builds("({} {} {})".format, st.sampled_from(["and", "or"]), f, f),
    max_leaves=3,
)


@settings(max_examples=25, deadline=None)
@given(conditions, st.sampled_from(["", "(== X[0,0] A[0,0])", "(== A[0,1] X[0,0]) (== X[0,0] X[0,1])"]), st.integers(0))
def test_a_question_means_what_its_text_says(files: dict[str, Path], tmp_path_factory, condition, equal, seed) -> None:
    text = f"{DECLARED}{BOX}(assert (and {equal or '(<= 0 1)'} {condition}))"
    path = written(tmp_path_factory.mktemp("p"), text)
    reference = vnnlib_reference.read(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyDisjunct)
        question = ask(files, path, allow_empty=True)
    index = np.arange(4) if question.shared is None else question.shared.index
    rng = np.random.default_rng(seed)
    for _ in range(12):
        x = rng.integers(-4, 5, question.graph.input_size) / 4
        every = x[index]
        (hidden, first), (_, second) = forward(F, every[:2]), forward(G, every[2:])
        y = question.source(x)
        assert y[:7].tolist() == [*hidden, *first, *second]
        np.testing.assert_allclose(evaluate(question.graph, x[None])[0], y, rtol=1e-12, atol=1e-12)
        values = dict(zip([*NAMES[0], *NAMES[1]], map(Fraction, [*every, *y[:7]]), strict=True))
        assert unsafe(question, x) == reference.unsafe(values), (condition, values)
    if equal and question.cases:
        assert question.graph.input_size == 4 - equal.count("==")


def test_a_product_that_float64_cannot_hold_is_no_number(files: dict[str, Path], tmp_path: Path) -> None:
    question = ask(files, written(tmp_path, f"{DECLARED}{BOX}(assert (>= (* X[0,0] X[0,0] X[0,1]) Y[0,0]))"))
    assert question.source(np.array([0.5, 0.25, 0, 0]))[7] == 0.0625
    assert np.isnan(question.source(np.array([1 / 3, 1 / 3, 0, 0]))[7])


@pytest.mark.parametrize("equal", [True, False])
def test_inputs_that_do_not_meet_leave_nothing(files: dict[str, Path], tmp_path: Path, equal: bool) -> None:
    apart = "(assert (and (<= -1 X[0,0] 0) (<= 0 A[0,0] 1) (<= -1 X[0,1] 1) (<= 0.5 A[0,1] 1)))"
    rows = "(assert (and (== X[0,0] A[0,0]) (== X[0,1] A[0,1]) (<= (+ A[0,1] X[0,0]) 0.25) (<= Y[0,0] 9)))"
    question = ask(files, written(tmp_path, DECLARED + apart + (rows if equal else "(assert (<= Y[0,0] 9))")))
    if equal:
        assert question.cases[0].region.lower.tolist() == [0, 0.5]
        assert question.cases[0].region.upper.tolist() == [0, 1]
    assert question.graph.input_size == (2 if equal else 4)


def test_inputs_stay_apart_where_their_coefficients_cannot_be_added(files: dict[str, Path], tmp_path: Path) -> None:
    row = "(assert (and (== X[0,0] A[0,0]) (<= (+ (* 1e17 X[0,0]) (* 0.1 A[0,0])) Y[0,0])))"
    question = ask(files, written(tmp_path, DECLARED + BOX + row))
    assert question.shared is None
    x = np.array([-0.5, 0.25, -0.5, 0])
    assert unsafe(question, x)
    assert not unsafe(question, np.array([-0.5, 0.25, -0.25, 0]))


def test_bounds_that_share_no_point_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    chain = "(== X[0,0] A[0,0]) (== A[0,0] A[0,1]) (<= X[0,0] -0.5) (>= A[0,1] 0.5)"
    path = written(tmp_path, f"{DECLARED}{BOX}(assert (and {chain} (<= Y[0,0] 9)))")
    with pytest.raises(EmptyRegion, match="holds for no input"):
        ask(files, path)
    assert ask(files, path, allow_empty=True).cases == ()


# -- what is answered


def near(gap: str) -> str:
    equal = "".join(f"(assert (== X[0,{i}] A[0,{i}]))\n" for i in range(2))
    return f"{DECLARED}{BOX}{equal}(assert (or (> Y[0,0] (+ B[0,0] {gap})) (< (+ Y[0,0] {gap}) B[0,0])))\n"


def gap() -> float:
    """The largest difference of the first outputs over a grid."""
    grid = [np.array([i, j]) / 8 for i in range(-8, 9) for j in range(-8, 9)]
    return max(abs(forward(F, x)[1][0] - forward(G, x)[1][0]) for x in grid)


def test_equivalent_networks_are_proved_and_replayed(run: Certify, files: dict[str, Path], tmp_path: Path) -> None:
    largest = gap()
    assert largest > 0
    out, path = tmp_path / "run", written(tmp_path, near(str(largest + 0.25)))
    named = [word for name, file in files.items() for word in ("--network", f"{name}={file}")]
    assert run("verify", path, *named, "--out", out, "--timeout", 60) == Ran(0, "unsat\n", "")
    assert run("check", out).status == 0
    path.write_text(near(str(largest + 0.125)))
    assert "another property" in run("check", out).err


def test_a_witness_names_all_variables(run: Certify, files: dict[str, Path], tmp_path: Path) -> None:
    path, result, folder = written(tmp_path, near(str(gap() / 2))), tmp_path / "result", tmp_path / "values"
    field = repr([(name, str(file)) for name, file in files.items()])
    plain = run("verify", field, path, "--result", result, "--timeout", 60)
    assert plain.status == 1
    named = [word for name, file in files.items() for word in ("--network", f"{name}={file}")]
    ran = run("verify", path, *named, "--timeout", 60)
    assert ran.status == 0
    assert ran.out == result.read_text()
    assert run("verify", path, *named, "--serialise-assignments", folder) == Ran(0, "sat\n", "")
    word, *lines = ran.out.splitlines()
    assert word == "sat"
    headers = ["X real [1,2]", "H real [3]", "Y real [1,2]", "A real [1,2]", "B real [1,2]"]
    assert [line for line in lines if " " in line] == headers
    starts = [lines.index(h) for h in headers] + [len(lines)]
    values = {h[0]: [float(v) for v in lines[a + 1 : b]] for h, a, b in zip(headers, starts, starts[1:], strict=False)}
    assert values["X"] == values["A"]
    shown = [line.split(" = ") for line in plain.out.splitlines()[1:]]
    assert [(name.strip(), float(value)) for name, value in shown] == list(
        zip(NAMES[0], [*values["X"], *values["A"]], strict=True)
    )
    hidden, y = forward(F, np.array(values["X"]))
    np.testing.assert_allclose([*values["H"], *values["Y"]], [*hidden, *y], atol=1e-6)
    assert abs(values["Y"][0] - values["B"][0]) > gap() / 2
    for name, shape in (("X", (1, 2)), ("H", (3,)), ("B", (1, 2))):
        tensor = onnx.TensorProto.FromString((folder / f"{name}.pb").read_bytes())
        array = onnx.numpy_helper.to_array(tensor)
        assert (array.shape, array.dtype) == (shape, np.float32)
        assert array.reshape(-1).tolist() == values[name]


def test_hidden_nodes_by_the_name_of_their_node(files: dict[str, Path], tmp_path: Path) -> None:
    text = (
        DECLARED.split("(declare-network g")[0].replace('"a0"', '"gemm0"')
        + "(assert (and (<= -1 X[0,0] 1) (<= -1 X[0,1] 1) (<= H[0] 0)))"
    )
    question = ask(files["f"], written(tmp_path, text))
    x = np.array([0.5, -1])
    assert question.source(x).tolist() == [*(F[0][0] @ x + F[0][1]), *forward(F, x)[1]]
    again = ask(files["f"], written(tmp_path, text.replace('"gemm0"', '"z1"').replace("H real [3]", "H real [2]")))
    assert again.source(x).tolist() == [*forward(F, x)[1], *forward(F, x)[1]]


def several_ports(path: Path) -> Path:
    """Inputs a (1, 2) and b (1, 3); outputs a + 1 and 2 b."""
    helper, shapes = onnx.helper, {"a": [1, 2], "b": [1, 3], "c": [1, 2], "d": [1, 3]}
    ports = {n: helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()}
    constants = [onnx.numpy_helper.from_array(np.float32([v]), n) for n, v in (("one", 1), ("two", 2))]
    nodes = [helper.make_node("Add", ["a", "one"], ["c"]), helper.make_node("Mul", ["b", "two"], ["d"])]
    graph = helper.make_graph(nodes, "g", [ports["a"], ports["b"]], [ports["c"], ports["d"]], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_ports_by_order_and_by_name(tmp_path: Path) -> None:
    net = several_ports(tmp_path / "n.onnx")
    by_order = (
        "(declare-input P real [1,2]) (declare-input Q real [3])"
        "(declare-output R real [2]) (declare-output S real [1,3])"
    )
    by_name = (
        '(declare-input Q real [3] "b") (declare-input P real [1,2] "a")'
        '(declare-output S real [1,3] "d") (declare-output R real [2] "c")'
    )
    bounds = "".join(f"(assert (<= 0 {n} 1))" for n in ("P[0,0]", "P[0,1]", "Q[0]", "Q[1]", "Q[2]"))
    text = "(vnnlib-version <2.0>)(declare-network n {})" + bounds + "(assert (>= R[1] S[0,2]))"
    first = ask(net, written(tmp_path, text.format(by_order)))
    second = ask(net, written(tmp_path, text.format(by_name)))
    x = np.arange(5) / 8
    assert first.source(x).tolist() == [1, 1.125, 0.5, 0.75, 1]
    assert second.source(np.concatenate([x[2:], x[:2]])).tolist() == [0.5, 0.75, 1, 1, 1.125]
    assert unsafe(first, x)
    assert unsafe(second, np.concatenate([x[2:], x[:2]]))
    with pytest.raises(MalformedSpec, match="Q has the shape"):
        ask(
            net,
            written(
                tmp_path,
                text.format(by_order.replace("Q real [3]", "Q real [2]")).replace("(assert (<= 0 Q[2] 1))", ""),
            ),
        )


# -- what the standard demands to be refused


@pytest.mark.parametrize(
    ("change", "named", "says"),
    [
        ((), "f", "no file is given for the network g"),
        ((), "fgh", "network h, which is not declared"),
        (("isomorphic-to", "equal-to"), "fg", "g, which is equal to f"),
        (("X real", "X float32"), "fg", "X has the type float32"),
        (("X real", "X int64"), "fg", "X has the type int64"),
        (('"a0"', '"nowhere"'), "fg", "no value or node of it is called 'nowhere'"),
        (("H real [3]", "H real [4]"), "fg", "H has the shape"),
        (("<2.0>", "<2.1>"), "fg", "2:17"),
    ],
)
def test_the_standard_form_refuses(
    run: Certify, files: dict[str, Path], tmp_path: Path, change: tuple[str, ...], named: str, says: str
) -> None:
    text = near("9")
    text = "\n" + (text.replace(*change, 1) if change else text)
    words = [word for n in named for word in ("--network", f"{n}={files.get(n, files['g'])}")]
    ran = run("verify", written(tmp_path, text), *words)
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err


def test_types_that_the_network_does_not_have(files: dict[str, Path], tmp_path: Path) -> None:
    text = near("9").replace("X real", "X float64").replace("Y real", "Y float32")
    with pytest.raises(MalformedSpec, match=r"one comparison|X has the type float64"):
        ask(files, written(tmp_path, text))
    floats = re.sub("real", "float32", near("9"))
    assert ask(files, written(tmp_path, floats)).graph.input_size == 2  # certify's own form: about real arithmetic


def test_networks_given_in_ways_that_do_not_fit(run: Certify, files: dict[str, Path], tmp_path: Path) -> None:
    path = written(tmp_path, near("9"))
    for words in (
        ["x.onnx", path, "--network", "f=x"],
        [path, "--network", "f"],
        [path, "--network", "f=a", "--network", "f=b"],
        ["[('f',", path],
        [files["f"], path],
    ):
        ran = run("verify", *words)
        assert (ran.status, ran.out) == (2, ""), words
        assert "remedy" in ran.err
    one = written(tmp_path, "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= 0 X_0 1))")
    with pytest.raises(BadOption, match="speaks of one network"):
        ask(files, one)
    with pytest.raises((MalformedNetwork, CertifyError), match="only the nodes of an ONNX file"):
        ask("digits-mlp", written(tmp_path, DECLARED.split("(declare-network g")[0] + "(assert (<= H[0] 1))"))


def test_what_is_supported(run: Certify) -> None:
    from certify.commands.supports import ANSWERS, ASKED

    theories = {
        "hidden-node-theories": "H",
        "multiple-network-theories": "MNET",
        "arithmetic-complexity-theories": "POLY",
    }
    for name in (*ASKED, *ANSWERS):
        ran = run("supports", f"--{name}")
        assert (ran.status, ran.err) == (0, "")
        assert theories.get(name, "") in ran.out.split() or name not in theories
        assert run("capabilities", f"--{name}") == ran
    assert {"Conv", "Relu", "Gemm"} <= set(run("supports", "--onnx-operators").out.split())
    assert run("supports", "--vnnlib-versions").out == "1.0\n2.0\n"
    assert run("supports", "--colours").status == 2


def test_a_list_of_instances_may_name_several_networks(run: Certify, files: dict[str, Path], tmp_path: Path) -> None:
    written(tmp_path, near("9"))
    for name, file in files.items():
        (tmp_path / f"{name}.onnx").write_bytes(file.read_bytes())
    (tmp_path / "list.csv").write_text("\"[('f', 'f.onnx'), ('g', 'g.onnx')]\",p.vnnlib,60\n")
    out, evidence = tmp_path / "results.csv", tmp_path / "evidence"
    ran = run("batch", tmp_path / "list.csv", "--out", out, "--evidence", evidence)
    assert ran.status == 0
    assert ran.out.startswith("verified")
    assert run("check", evidence).status == 0


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (Unknown(Reason.TIMEOUT), "timed-out"),
        (Unknown(Reason.INTERRUPTED), "unknown"),
        (Verified(None, Grade.VACUOUS), "unsat"),
    ],
)
def test_the_words_of_the_standard(verdict: Verdict, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(verdict, None, None) == 0
    assert capsys.readouterr().out == f"{word}\n"


def test_a_property_of_the_first_version_in_the_standard_form(run: Certify, network: Path, fails: Path) -> None:
    ran = run("verify", fails, "--network", f"any={network}")
    word, *lines = ran.out.splitlines()
    assert (word, lines[0], lines[3], len(lines)) == ("sat", "X real [2]", "Y real [2]", 6)
    assert sum(abs(float(v)) for v in lines[1:3]) >= 1.5
