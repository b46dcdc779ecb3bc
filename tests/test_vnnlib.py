"""The VNN-LIB reader: random formulas against direct evaluation, real files, and every refusal."""

from __future__ import annotations

import csv
import gzip
import itertools
import os
import re
import warnings
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import EmptyRegion, MalformedSpec
from certify.spec import normal_form, tokens
from certify.spec.gather import EmptyDisjunct
from certify.spec.printer import print_vnnlib, print_vnnlib2
from certify.spec.property import robust
from certify.spec.query import Case, spec_hash
from certify.spec.regions import ball
from certify.spec.terms import NotFloat, round_down, round_up, row
from certify.spec.tokens import Scanner
from certify.spec.vnnlib import parse_vnnlib, read_vnnlib
from certify.spec.vnnlib2 import Parser

SHARED = Path(os.environ.get("CERTIFY_SHARED") or Path(__file__).resolve().parents[1].parent / "shared") / "vnncomp"


def declared(inputs: int, outputs: int) -> str:
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


def boxed(body: str, inputs: int = 1, outputs: int = 1, half: str = "1") -> str:
    bounds = "".join(f"(assert (<= X_{i} {half}))\n(assert (>= X_{i} -{half}))\n" for i in range(inputs))
    return declared(inputs, outputs) + bounds + body


def unsafe(cases, x, y) -> bool:
    """Whether the cases call the input x with the output y a counterexample."""
    for case in cases:
        widths = {clause.matrix.shape[1] for clause in case.property.clauses}
        assert widths <= {len(y), len(y) + len(x)}
        assert len(widths) == 1
        z = np.concatenate([y, x])[: widths.pop()]
        if case.region.contains(x) and any(clause.unsafe(z) for clause in case.property.clauses):
            return True
    return False


# -- random formulas, evaluated directly

NAMES = ["X_0", "X_1", "Y_0", "Y_1"]
CONSTANTS = ["0", "-0.0", "1", "-1", "0.5", "-0.25", "2", "15e-1", "(- 1)", "(/ 1 2)", "(/ -3 4)"]


def value_of(text: str) -> Fraction:
    inner = re.fullmatch(r"\((.) (\S+) ?(\S*)\)", text)
    if inner is None:
        return Fraction(text)
    return -Fraction(inner[2]) if inner[1] == "-" else Fraction(inner[2]) / Fraction(inner[3])


@st.composite
def linear(draw, depth: int = 2):
    """(text, function of the point)."""
    kind = draw(st.sampled_from(["variable", "constant", "+", "-", "*", "/"] if depth else ["variable", "constant"]))
    if kind == "variable":
        name = draw(st.sampled_from(NAMES))
        return name, lambda point: point[name]
    if kind == "constant":
        text = draw(st.sampled_from(CONSTANTS))
        return text, lambda point: value_of(text)
    if kind in "+-":
        parts = draw(st.lists(linear(depth - 1), min_size=1, max_size=3))
        text = f"({kind} {' '.join(t for t, _ in parts)})"
        if kind == "+":
            return text, lambda point: sum(f(point) for _, f in parts)
        return (
            text,
            lambda point: (
                -parts[0][1](point) if len(parts) == 1 else parts[0][1](point) - sum(f(point) for _, f in parts[1:])
            ),
        )
    inner, function = draw(linear(depth - 1))
    if kind == "/":
        factor = draw(st.sampled_from(["2", "-4", "0.5"]))
        return f"(/ {inner} {factor})", lambda point: function(point) / value_of(factor)
    factor = draw(st.sampled_from(CONSTANTS))
    text = f"(* {factor} {inner})" if draw(st.booleans()) else f"(* {inner} {factor})"
    return text, lambda point: function(point) * value_of(factor)


HOLDS = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
}


@st.composite
def atom(draw):
    op = draw(st.sampled_from(list(HOLDS)))
    if draw(st.booleans()):  # what the short cuts read
        name = draw(st.sampled_from(NAMES))
        other = draw(st.sampled_from(NAMES + CONSTANTS[:8]))
        right = (lambda point: point[other]) if other in NAMES else (lambda point: value_of(other))
        return f"({op} {name} {other})", lambda point: HOLDS[op](point[name], right(point))
    parts = draw(st.lists(linear(), min_size=2, max_size=3))
    text = f"({op} {' '.join(t for t, _ in parts)})"
    return text, lambda point: all(HOLDS[op](f(point), g(point)) for (_, f), (_, g) in itertools.pairwise(parts))


@st.composite
def formula(draw, depth: int = 3):
    kind = draw(
        st.sampled_from(["atom", "atom", "and", "or", "and", "or", "not", "true", "false"] if depth else ["atom"])
    )
    if kind == "atom":
        return draw(atom())
    if kind in ("true", "false"):
        return kind, lambda point: kind == "true"
    if kind == "not":
        text, function = draw(formula(depth - 1))
        return f"(not {text})", lambda point: not function(point)
    parts = draw(st.lists(formula(depth - 1), min_size=0, max_size=3))
    join = all if kind == "and" else any
    return f"({kind} {' '.join(t for t, _ in parts)})", lambda point: join(f(point) for _, f in parts)


GRID = [Fraction(n, 4) for n in (-9, -8, -6, -4, -2, -1, 0, 1, 2, 3, 4, 6, 8)]


@settings(max_examples=300, deadline=None)
@given(st.lists(formula(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_cases_mean_what_the_formula_says(assertions, seed):
    body = "\n".join(f"(assert {text})" for text, _ in assertions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyDisjunct)
        cases = parse_vnnlib(boxed(body, 2, 2, "2"), 2, 2, allow_empty=True)
    boxes = [(case.region.lower.tobytes(), case.region.upper.tobytes()) for case in cases]
    assert len(set(boxes)) == len(boxes), "one case per box"
    random = np.random.default_rng(seed)
    ends = {float(v) for case in cases for v in (*case.region.lower, *case.region.upper)}
    values = GRID + [Fraction(v) for v in sorted(ends)]
    for _ in range(60):
        point = {name: values[random.integers(len(values))] for name in NAMES}
        expected = all(abs(point[n]) <= 2 for n in NAMES[:2]) and all(f(point) for _, f in assertions)
        x, y = (np.array([float(point[n]) for n in names]) for names in (NAMES[:2], NAMES[2:]))
        assert unsafe(cases, x, y) == expected, (body, point)


@settings(max_examples=60, deadline=None)
@given(st.lists(formula(), min_size=1, max_size=3), st.integers(1, 40), st.booleans(), st.booleans())
def test_layout_and_blocks_do_not_matter(assertions, block, crlf, one_line):
    text = boxed("\n".join(f"(assert {t})" for t, _ in assertions), 2, 2, "2")
    loose = re.sub(r"([()])", r" \1 ", text)
    loose = loose if one_line else loose.replace(" ", " ; ) (or\n", 40)
    loose = loose.replace("\n", " " if one_line else "\r\n" if crlf else "\n")
    pieces = [loose[i : i + block] for i in range(0, len(loose), block)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyDisjunct)
        expected = spec_hash(parse_vnnlib(text, 2, 2, allow_empty=True))
        assert spec_hash(parse_vnnlib(loose, 2, 2, allow_empty=True)) == expected
        assert spec_hash(parse_vnnlib(loose.splitlines(), 2, 2, allow_empty=True)) == expected
    assert "".join(tokens.whole_tokens(pieces)) == loose


@settings(max_examples=100, deadline=None)
@given(st.lists(formula(), min_size=1, max_size=3))
def test_what_is_printed_is_read_as_it_was(assertions):
    text = boxed("\n".join(f"(assert {t})" for t, _ in assertions), 2, 2, "1.1e-5")
    network = "(declare-network f (declare-input A real [2]) (declare-output B real [1, 2]))"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyDisjunct)
        cases = parse_vnnlib(text, 2, 2, allow_empty=True)
    if not cases:
        with pytest.raises(MalformedSpec, match="no case"):
            list(print_vnnlib(cases, 2, 2))
        return
    printed = list(print_vnnlib(cases, 2, 2))
    assert spec_hash(parse_vnnlib(printed, 2, 2)) == spec_hash(cases)
    assert list(print_vnnlib(parse_vnnlib(printed, 2, 2), 2, 2)) == printed
    declared = Parser(Scanner([f"<2.0>) {network} (assert"])).declarations()
    second = list(print_vnnlib2(cases, declared))
    assert spec_hash(parse_vnnlib(second, 2, 2)) == spec_hash(cases)


def test_a_ball_cannot_be_printed():
    case = Case(ball([0.0], 1.0, 2), robust(0, 2))
    with pytest.raises(MalformedSpec, match="ball"):
        list(print_vnnlib([case], 1, 2))


# -- what cases look like


def test_alternatives_with_one_box_are_clauses_of_one_case():
    (case,) = parse_vnnlib(boxed("(assert (or (<= Y_0 Y_1) (and (<= Y_1 0.5) (> Y_0 0.25))))", 1, 2), 1, 2)
    first, second = case.property.clauses
    assert (case.region.lower[0], case.region.upper[0]) == (-1, 1)
    assert first.matrix.tolist() == [[1, -1]]
    assert first.offset.tolist() == [0]
    assert second.matrix.tolist() == [[0, 1], [-1, 0]]
    assert second.offset.tolist() == [0.5, -0.25]
    assert second.strict.tolist() == [False, True]


def test_boxes_in_alternatives_meet_the_common_box():
    body = "(assert (or (and (>= X_0 0) (<= Y_0 1)) (and (<= X_0 0) (<= Y_0 2)) (and (>= X_0 -0.0) (<= Y_0 3))))"
    upper, lower = parse_vnnlib(boxed(body), 1, 1)
    assert [c.offset[0] for c in upper.property.clauses] == [1, 3]
    assert (upper.region.lower[0], upper.region.upper[0]) == (0, 1)
    assert not np.signbit(upper.region.lower[0])
    assert (lower.region.lower[0], lower.region.upper[0]) == (-1, 0)


def test_an_alternative_without_outputs_is_a_counterexample_as_it_stands():
    (case,) = parse_vnnlib(boxed(""), 1, 1)
    (clause,) = case.property.clauses
    assert clause.matrix.tolist() == [[0]]
    assert clause.unsafe(np.array([123.0]))


def test_an_equality_of_outputs_is_two_rows_and_one_of_an_input_a_point():
    (case,) = parse_vnnlib(boxed("(assert (= Y_0 Y_1))(assert (= 0.25 X_0))", 1, 2), 1, 2)
    assert case.property.clauses[0].matrix.tolist() == [[1, -1], [-1, 1]]
    assert case.region.lower.tolist() == case.region.upper.tolist() == [0.25]


def test_a_strict_bound_of_an_input_is_kept_beside_the_closed_box():
    (case,) = parse_vnnlib(boxed("(assert (< X_0 0.5))(assert (<= Y_0 1))"), 1, 1)
    assert case.region.upper[0] == 0.5
    assert not unsafe([case], np.array([0.5]), np.array([0.0]))
    assert unsafe([case], np.array([0.4375]), np.array([0.0]))


def test_a_bound_that_float64_cannot_hold_is_rounded_outward_and_kept_as_a_row():
    (case,) = parse_vnnlib(boxed("(assert (<= (* 3 X_0) 1))"), 1, 1)
    assert Fraction(case.region.upper[0]) > Fraction(1, 3)
    assert not unsafe([case], case.region.upper, np.array([0.0]))
    assert unsafe([case], np.nextafter(case.region.upper, 0), np.array([0.0]))


@pytest.mark.parametrize("literal", ["1e-99999999999999999999", "0e99999999999999999999"])
def test_a_literal_next_to_zero_is_zero_whatever_its_exponent(literal):
    (case,) = parse_vnnlib(boxed(f"(assert (<= (+ Y_0 {literal}) (/ {literal} 3)))"), 1, 1)
    assert case.property.clauses[0].offset[0] == 0


@pytest.mark.parametrize("literal", ["0.1", "-1e-3", "1e-400", ".5", "5.", "+2.5E+2"])
def test_a_literal_is_the_nearest_float(literal):
    (case,) = parse_vnnlib(boxed(f"(assert (<= Y_0 {literal}))"), 1, 1)
    assert case.property.clauses[0].offset[0] == float(literal)


def test_a_quotient_of_constants_is_the_nearest_float():
    (case,) = parse_vnnlib(boxed("(assert (<= Y_0 (/ 1 3)))(assert (>= Y_0 (/ (- 0.1) 0.3)))"), 1, 1)
    assert case.property.clauses[0].offset.tolist() == [1 / 3, 1 / 3]


finite = st.floats(-1e6, 1e6, allow_subnormal=False).filter(bool).map(Fraction)
rational = st.builds(Fraction, st.integers(-50, 50).filter(bool), st.integers(1, 50)) | finite


@given(st.dictionaries(st.integers(0, 3), rational, min_size=1), rational | st.just(Fraction(0)))
def test_rows_are_exact_or_grow(coefficients, offset):
    try:
        found = row(coefficients, offset, False)
    except NotFloat:
        assert len(coefficients) > 1  # one variable always fits
        return
    terms = dict(found.terms)
    column = min(coefficients)
    scale = Fraction(terms[column]) / coefficients[column]
    assert scale > 0
    assert {c: Fraction(v) for c, v in terms.items()} == {c: v * scale for c, v in coefficients.items()}
    assert Fraction(np.nextafter(found.offset, -np.inf)) < offset * scale <= Fraction(found.offset)


@given(rational)
def test_directed_rounding(value):
    assert Fraction(round_down(value)) <= value <= Fraction(round_up(value))
    assert round_up(value) <= np.nextafter(round_down(value), np.inf)


# -- size and depth


@pytest.mark.parametrize("depth", [10_000])
@pytest.mark.parametrize(
    ("before", "inside", "after"),
    [
        ("(and (>= Y_0 0) ", "(<= Y_0 1)", ")"),
        ("(not ", "(<= Y_0 1)", ")"),
        ("(and (or ", "(<= Y_0 1)", "))"),
        ("(or (and ", "(<= Y_0 1)", "))"),
    ],
)
def test_deep_conditions(depth, before, inside, after):
    (case,) = parse_vnnlib(boxed(f"(assert {before * depth}{inside}{after * depth})"), 1, 1)
    assert unsafe([case], np.zeros(1), np.array([0.5]))


def test_deep_terms():
    (case,) = parse_vnnlib(boxed(f"(assert (<= {'(+ 1 ' * 10_000}Y_0{')' * 10_000} 0))"), 1, 1)
    assert case.property.clauses[0].offset[0] == -10_000


def test_independent_boxes_are_not_multiplied():
    count = 400
    boxes = " ".join(f"(and (>= X_0 {i}) (<= X_0 {i}.5))" for i in range(count))
    again = " ".join(f"(and (>= X_0 {i}.25) (<= X_0 {i}.75) (<= Y_0 {i}))" for i in range(count))
    text = declared(1, 1) + f"(assert (or {boxes}))\n(assert (or {again}))\n"
    cases = parse_vnnlib(text, 1, 1)
    assert [(c.region.lower[0], c.region.upper[0]) for c in cases] == [(i + 0.25, i + 0.5) for i in range(count)]
    assert [c.property.clauses[0].offset[0] for c in cases] == list(range(count))


@pytest.mark.parametrize(
    "body",
    [
        "(assert (or (<= Y_0 1) (<= Y_0 2)))\n" * 40,
        "(assert (and " + "(or (<= Y_0 1) (<= Y_0 2)) " * 40 + "))",
        "(assert (not (or " + "(= Y_0 1) " * 40 + ")))",
        "(assert " + "(and (<= Y_0 1) (or (<= Y_0 2) " * 5000 + "(<= Y_0 3)" + "))" * 5000 + ")",
    ],
)
def test_what_would_explode_is_refused(body, monkeypatch):
    monkeypatch.setattr(normal_form, "CONJUNCTS", 10_000)
    monkeypatch.setattr(normal_form, "WORK", 1_000_000)
    with pytest.raises(MalformedSpec, match="too large") as caught:
        parse_vnnlib(boxed(body), 1, 1)
    assert caught.value.line >= 5


@pytest.mark.parametrize("line_end", ["\n", "\r\n", " "])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_longer_than_a_block(tmp_path, monkeypatch, line_end, packed):
    monkeypatch.setattr(tokens, "BLOCK", 1 << 10)
    count = 3000
    lines = [f"(and (>= X_0 {i}) (<= X_0 {i}.5) (<= Y_0 {i}))" for i in range(count)]
    text = (declared(1, 1) + "(assert (or " + "\n".join(lines) + "))").replace("\n", line_end)
    path = tmp_path / ("p.vnnlib.gz" if packed else "p.vnnlib")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    cases = read_vnnlib(path, 1, 1)
    assert [c.region.lower[0] for c in cases] == list(range(count))
    path.write_bytes((text + ")").encode())
    with pytest.raises(MalformedSpec, match="without its") as caught:
        read_vnnlib(path, 1, 1)
    place = tokens.Place(1, 1).past(text)
    assert (caught.value.line, caught.value.column) == place


# -- refusals

HEAD = boxed("")  # four lines


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "empty"),
        ("; nothing\n\n", 3, 1, "empty"),
        (HEAD + "(assert (<= Y_0 1)", 5, 1, "never closed"),
        (HEAD + "(assert\n  (or (<= Y_0 1)\n", 6, 3, "never closed"),
        (HEAD + "(assert (", 5, 9, "never closed"),
        (HEAD + "(assert (<= (", 5, 13, "never closed"),
        (HEAD + "(", 5, 1, "never closed"),
        (HEAD + "(set-info :x", 5, 1, "never closed"),
        ("(declare-const", 1, 1, "never closed"),
        (HEAD + "(assert (<= Y_0 1)\n(assert (<= Y_0 1))", 6, 2, "line 5, column 1"),
        (HEAD + "(assert (<= Y_0 1)))", 5, 20, "without its"),
        (HEAD + " X_0", 5, 2, "outside"),
        (HEAD + "(foo)", 5, 2, "unknown command 'foo'"),
        (HEAD + "(assert (xor (<= Y_0 1)))", 5, 10, "unknown operator 'xor'"),
        (HEAD + "(assert (<= (sin Y_0) 1))", 5, 14, "unknown operator 'sin'"),
        (HEAD + "(assert (+ Y_0 1))", 5, 10, "a number where a condition"),
        (HEAD + "(assert Y_0)", 5, 9, "not a condition"),
        (HEAD + "(assert)", 5, 1, "0 conditions"),
        (HEAD + "(assert (<= Y_0 1) (<= Y_0 2))", 5, 1, "2 conditions"),
        (HEAD + "(assert (not))", 5, 9, "0 conditions"),
        (HEAD + "(assert (<= Y_0))", 5, 9, "fewer than two"),
        (HEAD + "(assert (<= (-) Y_0))", 5, 13, "too few"),
        (HEAD + "(assert (<= 0\n (* Y_0 2 X_0)))", 6, 2, "multiplied"),
        (HEAD + "(assert (<= 0 (/ 2 X_0)))", 5, 15, "divided"),
        (HEAD + "(assert (<= 0 (/ Y_0 0)))", 5, 15, "division by zero"),
        (HEAD + "(assert (<= 0 Z_0))", 5, 15, "'Z_0' is neither"),
        (HEAD + "(assert (<= X_1 0))", 5, 13, "X_1 is not declared"),
        (HEAD + "(assert (or (<= Y_0 Y_7)))", 5, 21, "Y_7 is not declared"),
        ("(assert (<= X_0 0))", 1, 13, "X_0 is not declared"),
        (HEAD + "(declare-const X_0 Real)", 5, 16, "second time"),
        (HEAD + "(declare-const X_1 Real)", 5, 16, "X_1 would be input number 2, but the network has 1 input"),
        (HEAD + "(declare-fun Y_7 () Real)", 5, 14, "Y_7 would be output number 8, but the network has 1 output"),
        (HEAD + "(declare-const foo Real)", 5, 16, "not the name"),
        (HEAD + "(declare-const X_00 Real)", 5, 16, "not the name"),
        ("(declare-const X_0 Int)", 1, 20, "'Int' instead of 'Real'"),
        ("(declare-fun X_0 Real)", 1, 18, "'Real' instead of '('"),
        (HEAD + "(assert (<= X_0 1e999))", 5, 17, "not finite"),
        (HEAD + "(assert (or (<= Y_0 -1e999)))", 5, 21, "not finite"),
        (HEAD + "(assert (<= 1e999 (* 2 Y_0)))", 5, 13, "not finite"),
        (HEAD + "(assert (<= nan Y_0))", 5, 13, "neither a number"),
        (HEAD + "(assert (<= (/ 1e300 1e-300) Y_0))", 5, 13, "not finite"),
        (HEAD + "(assert (<= (+ (* 0.1 Y_0) (* 0.7 Y_0) X_0) 0))", 5, 9, "more digits"),
        ("(declare-const X_0 Real)\n", 2, 1, "0 outputs are declared, the network has 1 (Y_0"),
        (declared(1, 1) + "(assert (<= X_0 1))", 3, 20, "X_0 has no lower bound"),
        (declared(1, 1) + "(assert (>= X_0 1))(assert (or (<= X_0 3) (<= Y_0 3)))", 3, 43, "X_0 has no upper bound"),
    ],
)
def test_refusals_name_the_place(text, line, column, says):
    with pytest.raises(MalformedSpec, match=re.escape(says)) as caught:
        parse_vnnlib(text, 1, 1, path="some.vnnlib")
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"some.vnnlib:{caught.value.line}:{caught.value.column}: ")
    assert caught.value.remedy


def test_a_message_stays_short():
    with pytest.raises(MalformedSpec, match="neither a number") as caught:
        parse_vnnlib(HEAD + f"(assert (<= Y_0 {'a' * 10_000}))", 1, 1)
    assert len(str(caught.value)) < 500


def test_missing_declarations_name_both_numbers():
    text = declared(4, 1) + "".join(f"(assert (= X_{i} 0))" for i in range(4))
    with pytest.raises(MalformedSpec, match=r"4 inputs are declared, the network has 5 \(X_4 is missing\)") as caught:
        parse_vnnlib(text, 5, 1)
    assert (caught.value.line, caught.value.column) == (4, 1)


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        ("\n(assert (<= X_0 -2))", 6, 1),
        ("(assert (or (<= X_0 -2)\n (and (>= X_0 3) (<= Y_0 1))))", 6, 2),
        ("(assert (and (>= X_0 0.5)\n (<= X_0 0.25)))", 6, 2),
        ("(assert false)", 5, 9),
        ("(assert (or))", 5, 9),
        ("(assert (not (<= 1 2)))", 5, 14),
        ("(assert (< X_0 -1))", 5, 20),  # seen when all is read
        ("(assert (or (<= X_0 -0.5) (<= X_0 -0.75)))(assert (or (>= X_0 0) (>= X_0 1)))", 5, 66),
    ],
)
def test_specifications_without_any_input(body, line, column):
    with pytest.raises(EmptyRegion) as caught:
        parse_vnnlib(boxed(body), 1, 1, path="p")
    assert (caught.value.line, caught.value.column) == (line, column)
    assert caught.value.remedy
    assert parse_vnnlib(boxed(body), 1, 1, allow_empty=True) == []


@pytest.mark.parametrize(
    ("body", "column"),
    [
        ("(assert (or (<= Y_0 1) (and (<= X_0 -2) (<= Y_0 0))))", 24),
        ("(assert (or (<= Y_0 1) (and (<= X_0 0) (>= X_0 0.5) (<= Y_0 0))))", 40),
        ("(assert (or (<= Y_0 1) (< X_0 -1)))", 24),
    ],
)
def test_empty_alternatives_are_left_out_with_a_warning(body, column):
    with pytest.warns(EmptyDisjunct, match=f"^p:5:{column}: .*1 empty"):
        (case,) = parse_vnnlib(boxed(body), 1, 1, path="p")
    assert len(case.property.clauses) == 1


def test_files_that_cannot_be_read(tmp_path):
    text = boxed("(assert (<= Y_0 1))").encode()
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress(text)[:-12])
    with pytest.raises(MalformedSpec, match=r"p\.vnnlib\.gz: .*cut off"):
        read_vnnlib(path, 1, 1)
    damaged = bytearray(gzip.compress(text))
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(MalformedSpec, match="damaged"):
        read_vnnlib(path, 1, 1)
    path.write_bytes(text[:30] + b"\xff" + text[30:])
    with pytest.raises(MalformedSpec, match="UTF-8") as caught:
        read_vnnlib(path, 1, 1)
    assert (caught.value.line, caught.value.column) == (2, 6)
    with pytest.raises(MalformedSpec, match="cannot be read"):
        read_vnnlib(tmp_path, 1, 1)
    with pytest.raises(MalformedSpec, match="cannot be read"):
        read_vnnlib(tmp_path / "none.vnnlib", 1, 1)
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert len(read_vnnlib(path, 1, 1)) == 1


def test_commands_without_meaning_are_skipped():
    text = '(set-logic QF_LRA)\n(set-info :source |a ( b|)(set-info :x "( ;")\n' + HEAD + "(check-sat)(get-model)"
    assert len(parse_vnnlib(text, 1, 1)) == 1
    assert len(parse_vnnlib(text.replace("declare-const X_0", "declare-fun X_0 ()"), 1, 1)) == 1


# -- the development set


def size(shape: str) -> int:
    return prod(int(n) for n in re.findall(r"(?:^|x)(\d+)(?=x|$)", shape))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the vnncomp development set is not beside the repository")
def test_the_development_set():
    with open(SHARED / "networks.csv") as file:
        sizes = {r["file"]: (size(r["input_shape"]), size(r["output_shape"])) for r in csv.DictReader(file)}
    with open(SHARED / "instances.csv") as file:
        needed = {(r["category"], r["vnnlib"], sizes[f"{r['category']}/{r['onnx']}"]) for r in csv.DictReader(file)}
    boxes: dict[str, list[int]] = {}
    clauses: dict[str, list[int]] = {}
    for category, name, (inputs, outputs) in needed:
        cases = read_vnnlib(SHARED / category / name, inputs, outputs)
        boxes.setdefault(category, []).append(len(cases))
        clauses.setdefault(category, []).append(max(len(c.property.clauses) for c in cases))
        boxes[name], clauses[name] = [len(cases)], [sum(len(c.property.clauses) for c in cases)]
        assert all(c.matrix.shape[1] == outputs for case in cases for c in case.property.clauses)
    assert boxes["vnnlib/prop_6.vnnlib"] == [2]  # a choice of two input boxes
    assert clauses["vnnlib/prop_6.vnnlib"] == [8]  # each with four ways to be unsafe
    assert boxes["vnnlib/lindex_3000.vnnlib.gz"] == [3000]
    assert clauses["vnnlib/lindex_3000.vnnlib.gz"] == [6000]
    several = {category for category in boxes if "/" not in category and max(boxes[category]) > 1}
    assert several == {"acasxu", "nn4sys"}
    alternatives = {"acasxu": 4, "cifar10_resnet": 9, "lsnc": 17, "metaroom": 19, "ml4acopf": 236, "traffic_signs": 42}
    assert {category: max(clauses[category]) for category in alternatives} == alternatives
