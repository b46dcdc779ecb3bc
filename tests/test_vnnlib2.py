"""VNN-LIB 2.0 against the same specifications in version 1.0, and the errors of what is malformed."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import CertifyError, MalformedSpec
from certify.spec.products import Products
from certify.spec.query import spec_hash
from certify.spec.vnnlib import parse_vnnlib

HEAD = """; a comment
(vnnlib-version <2.0>)
(declare-network f
  (declare-input X Real [1, 2])
  (declare-input A real [1])
  (declare-output Y Real [2,1])
)
"""
OLD = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "Y_0", "Y_1"))
NAMES = {"X_0": "X[0,0]", "X_1": "X[0,1]", "X_2": "A[0]", "Y_0": "Y[0,0]", "Y_1": "Y[1,0]"}
BOX = "(and (<= -1 X_0 1) (<= -2 X_1 0.5) (>= X_2 0) (<= X_2 0.25))"

numbers = st.sampled_from(["0", "1", "-2", "0.5", "1.25"])
linear = st.recursive(
    st.sampled_from(list(NAMES)) | numbers,
    lambda t: (
        st.builds("(+ {} {})".format, t, t)
        | st.builds("(- {} {})".format, t, t)
        | st.builds("(* {} {})".format, numbers, t)
    ),
    max_leaves=4,
)
conditions = st.recursive(
    st.builds("({} {} {})".format, st.sampled_from(["<=", "<", ">", ">=", "="]), linear, linear),
    lambda f: st.builds("({} {} {})".format, st.sampled_from(["and", "or"]), f, f),
    max_leaves=5,
)


def new(text: str) -> str:
    """An assertion of version 1.0 in version 2.0."""
    for old, name in NAMES.items():
        text = text.replace(old, name)
    return HEAD + re.sub(r"\(= ", "(== ", text)


@settings(max_examples=60, deadline=None)
@given(conditions)
def test_both_versions_say_the_same(condition: str) -> None:
    text = f"(assert {BOX}) (assert {condition})"
    try:
        expected = parse_vnnlib(OLD + text, 3, 2, allow_empty=True)
    except CertifyError as error:
        with pytest.raises(type(error)):
            parse_vnnlib(new(text), 3, 2, allow_empty=True)
        return
    assert spec_hash(parse_vnnlib(new(text), 3, 2, allow_empty=True)) == spec_hash(expected)


def test_what_is_not_equal_is_less_or_more() -> None:
    one = parse_vnnlib(new(f"(assert {BOX}) (assert (!= Y_0 Y_1))"), 3, 2)
    other = parse_vnnlib(OLD + f"(assert {BOX}) (assert (not (= Y_0 Y_1)))", 3, 2)
    assert spec_hash(one) == spec_hash(other)
    assert len(one[0].property.clauses) == 2


BODY = f"(assert {BOX})"
TWO = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-hidden H real [3] "h") (declare-output Y real [2]))
(declare-network g COPY (declare-input A real [1,2]) (declare-hidden K real [3] "h") (declare-output B real [2]))
(assert (and (<= -1 X[0,0] 1) (<= -1 X[0,1] 1) (== X[0,0] A[0,0]) (== X[0,1] A[0,1]) (<= Y[0] B[1])))
"""
EQUAL, LIKE = TWO.replace("COPY", "(equal-to f)"), TWO.replace("COPY", "(isomorphic-to f)")


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (HEAD.replace("2.0", "3.0"), "<3.0>", 2),
        (new(BODY).replace("[1, 2]", "[1, 3]"), "4 entries", 3),
        (HEAD.replace("[2,1]", "[2,x]"), "no shape", 6),
        (HEAD.replace("[2,1]", "[2 1]"), "no shape", 6),
        (HEAD.replace("[2,1]", "[2,0]"), "0 entries", 6),
        (HEAD.replace("A real", "A int7"), "no type", 5),
        (HEAD.replace("A real", "X real"), "second time", 5),
        (HEAD + "(assert (<= X[0] 1))", "no entry of X", 8),
        (HEAD + "(assert (<= X[0,2] 1))", "no entry of X", 8),
        (HEAD + "(assert (<= X[0 1] 1))", "neither a number", 8),
        (HEAD + "(assert (<= X[0,] 1))", "neither a number", 8),
        (HEAD + f"(assert (<= X[0,{'1' * 5000}] 1))", "neither a number", 8),
        (HEAD + "(assert (<= Z[0] 1))", "neither a number", 8),
        (HEAD + "(assert (<= X[0,0 1))", "never closed", 8),
        (HEAD + "(assert (= X[0,0] 1))", "unknown operator", 8),
        (HEAD + "(assert (<= (* X[0,0] A[0]) 1))", "linear", 8),
        (HEAD.replace("A real", "A float32") + "(assert (<= (+ X[0,0] 1) A[0]))", "one comparison", 8),
        (HEAD + "(check-sat)", "unknown command", 8),
        (new(BODY) + "(declare-network g (declare-input Z real [1]))", "behind an assertion", 8),
        (new(BODY) + ")", "without its", 8),
        (HEAD, "nothing is asserted", 8),
        ("(vnnlib-version <2.0>)\n(assert (<= 1 2))", "comes first", 2),
        (HEAD[: HEAD.rindex(")")], "never closed", 3),
        ("(vnnlib-version <2.0>)", "no network", 1),
        ("(vnnlib-version <2.0>)\n(declare-network f (declare-input X real [1]))", "no output", 2),
        (EQUAL.replace("(declare-network g", "(declare-network f"), "second network", 3),
        (EQUAL.replace("equal-to f", "equal-to h"), "no network declared before", 3),
        (EQUAL.replace("equal-to f)", "equal-to f) (isomorphic-to f)"), "two networks", 3),
        (EQUAL.replace("A real [1,2]", "A real [2]"), "A is not like X", 3),
        (LIKE.replace("K real [3]", "K real [4]"), "K is not like H", 3),
        (EQUAL.replace("B real", "B float32"), "B is not like Y", 3),
        (EQUAL.replace("B real [2])", "B real [1]) (declare-output C real [1])"), "2 outputs", 3),
        (EQUAL.replace('"h"', "", 1), "names no node", 2),
        (EQUAL.replace("[1,2])", '[1,2] "x")', 1), "name all of them, or none", 2),
        (EQUAL.replace("(declare-output Y real [2])", ""), "no output", 2),
        (EQUAL.replace("input A", "output Q real [2]) (declare-input A"), "an input behind an output", 3),
        (EQUAL + "(assert (<= (+ X[0,0] B[0] H[3]) 1))", "no entry of H", 5),
        (EQUAL.replace("(== X[0,1] A[0,1])", ""), r"A\[0,1\] has no lower bound", 5),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_at_their_place(text: str, message: str, line: int) -> None:
    sizes = (4, 10) if "declare-hidden" in text else (3, 2)
    with pytest.raises(MalformedSpec, match=message) as refused:
        parse_vnnlib(text, *sizes, path="f.vnnlib")
    assert refused.value.line == line
    assert refused.value.column


def test_a_copy_is_declared_of_the_first_network_only() -> None:
    third = "(declare-network k (equal-to g) (declare-input C real [1,2]) (declare-output D real [2]))\n(assert"
    with pytest.raises(MalformedSpec, match="itself declared as a copy") as refused:
        parse_vnnlib(EQUAL.replace("(assert", third, 1), 6, 12)
    assert (refused.value.line, refused.value.column) == (4, 30)


def test_types_of_isomorphic_networks_may_differ() -> None:
    text = LIKE.replace("K real", "K float32")
    assert len(parse_vnnlib(text, 4, 10)) == 1


def test_bounds_are_implied_by_inequalities_between_inputs() -> None:
    (case,) = parse_vnnlib(EQUAL.replace("(== X[0,1] A[0,1])", "(<= 0.1 (* 3 A[0,1])) (<= A[0,1] X[0,1])"), 4, 10)
    assert case.region.lower.tolist()[:3] == [-1, -1, -1]
    assert case.region.upper.tolist() == [1, 1, 1, 1]
    assert 3 * Fraction(case.region.lower[3]) <= Fraction(0.1) < 3 * Fraction(np.nextafter(case.region.lower[3], 1))


def test_products_are_columns_between_outputs_and_inputs() -> None:
    products = Products()
    square = "(assert (and (<= (* X_0 X_0) 1) (<= (* 2 Y_0 (+ X_0 3 Y_1)) X_1)))"
    (case,) = parse_vnnlib(new(BODY + square), 3, 2, products=products)
    assert sorted(products.factors) == [(0, 1), (0, 2), (2, 2)]  # Y_0 Y_1, Y_0 X_0, X_0^2
    (clause,) = case.property.clauses
    columns = {2 + products.factors.index(f): c for f, c in (((0, 1), 2.0), ((0, 2), 2.0))} | {0: 6.0, 6: -1.0}
    assert {c: v for c, v in enumerate(clause.matrix[1]) if v} == columns
    assert clause.matrix.shape == (2, 2 + 3 + 3)


@pytest.mark.parametrize(
    ("term", "says"),
    [
        ("(* " + "X_0 " * 17 + ")", "more than 16"),
        ("(* 1e300 X_0 " + "1e300 " * 1000 + ")", "thousands of digits"),
        ("(+ " + " ".join(f"(/ X_0 {n})" for n in range(10_001, 40_001, 2)) + ")", "thousands of digits"),
    ],
)
def test_terms_that_would_take_all_time_are_refused(term: str, says: str) -> None:
    with pytest.raises(MalformedSpec, match=says):
        parse_vnnlib(new(f"{BODY} (assert (<= {term} 1))"), 3, 2, products=Products())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.sampled_from(["", "(", ")", "[", "]", ",", "0", "X", "\x00", "; "]), st.integers(0, 3))
def test_damaged_files_never_crash_the_reader(at: int, text: str, cut: int) -> None:
    whole = new(f"(assert {BOX}) (assert (or (<= (+ Y_0 (* 2 X_1)) 1) (> Y_1 Y_0)))")
    at %= len(whole)
    with contextlib.suppress(CertifyError):
        assert parse_vnnlib(whole[:at] + text + whole[at + cut :], 3, 2)
