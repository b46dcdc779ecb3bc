"""VNN-LIB 2.0 against the same specifications in version 1.0, and the errors of what is malformed."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certify.errors import CertifyError, MalformedSpec
from certify.spec.query import spec_hash
from certify.spec.vnnlib import parse_vnnlib

HEAD = """; a comment
(vnnlib-version <2.0>)
(declare-network f
  (declare-input X Real [1, 2])
  (declare-input A float32 [1])
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


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (HEAD.replace("2.0", "3.0"), "<3.0>", 2),
        (HEAD.replace("[1, 2]", "[1, 3]"), "4 entries", 3),
        (HEAD.replace("[2,1]", "[2,x]"), "no shape", 6),
        (HEAD.replace("float32", "int8"), "no type", 5),
        (HEAD.replace("A float", "X float"), "second time", 5),
        (HEAD + "(assert (<= X[0] 1))", "no entry of X", 8),
        (HEAD + "(assert (<= X[0,2] 1))", "no entry of X", 8),
        (HEAD + "(assert (<= Z[0] 1))", "neither a number", 8),
        (HEAD + "(assert (<= X[0,0 1))", "never closed", 8),
        (HEAD + "(assert (= X[0,0] 1))", "unknown operator", 8),
        (HEAD + "(assert (<= (* X[0,0] A[0]) 1))", "linear", 8),
        (HEAD + "(declare-network g (declare-input Z Real [1]))", "second network", 8),
        (HEAD.replace("[2,1])", '[2,1]) (declare-hidden H Real [3] "h")'), "declare-hidden", 6),
        (HEAD + "(check-sat)", "unknown command", 8),
        ("(vnnlib-version <2.0>)\n(assert (<= 1 2))", "comes first", 2),
        (HEAD[: HEAD.rindex(")")], "never closed", 3),
        ("(vnnlib-version <2.0>)", "no network", 1),
    ],
)
def test_malformed_files_are_refused_at_their_place(text: str, message: str, line: int) -> None:
    with pytest.raises(MalformedSpec, match=message) as refused:
        parse_vnnlib(text, 3, 2, path="f.vnnlib")
    assert refused.value.line == line


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.sampled_from(["", "(", ")", "[", "]", ",", "0", "X", "\x00", "; "]), st.integers(0, 3))
def test_damaged_files_never_crash_the_reader(at: int, text: str, cut: int) -> None:
    whole = new(f"(assert {BOX}) (assert (or (<= (+ Y_0 (* 2 X_1)) 1) (> Y_1 Y_0)))")
    at %= len(whole)
    with contextlib.suppress(CertifyError):
        assert parse_vnnlib(whole[:at] + text + whole[at + cut :], 3, 2)
