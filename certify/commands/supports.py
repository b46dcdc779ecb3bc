"""`certify supports`: what of VNN-LIB's standard is covered, one capability at a time, in the standard's words."""

from __future__ import annotations

from typing import Annotated

import typer

from certify.commands.terminal import emit
from certify.errors import BadOption

ANSWERS = {
    "onnx-element-types": ("real",),  # floating-point types would promise proofs about rounded arithmetic
    "vnnlib-versions": ("1.0", "2.0"),
    "hidden-node-theories": ("NH", "H"),
    "multiple-input-output-theories": ("SIO", "MIO"),
    "multiple-network-theories": ("SNET", "MENET", "MINET", "MNET"),
    "multiple-node-comparison-theories": ("SNC", "MNC"),
    "arithmetic-complexity-theories": ("BND", "OUTC", "LIN", "POLY"),
    "optimised-disjunctive-reasoning": ("false",),  # conditions become a disjunctive normal form
    "serialise-assignments": ("true",),
    "unsat-proofs": ("false",),  # certify's proofs have a format of their own: certify verify --out
}
"""Capability -> what is printed, a line each."""

ASKED = ("onnx-opset-versions", "onnx-operators")
"""Capabilities whose answer is looked up."""


def supports(
    capability: Annotated[
        str, typer.Argument(metavar="--CAPABILITY", help=f"One of {', '.join(f'--{n}' for n in (*ASKED, *ANSWERS))}.")
    ],
) -> None:
    """Say what is supported, as VNN-LIB's standard asks for it.

    Exit status: 0, or 2 for a capability that the standard does not know.
    """
    name = capability.removeprefix("--")
    if name == "onnx-opset-versions":
        import onnx

        from certify.frontends.onnx import OLDEST

        lines = (str(OLDEST), str(onnx.defs.onnx_opset_version()))
    elif name == "onnx-operators":
        from certify.frontends.onnx import RULES

        lines = tuple(sorted({"Constant", *RULES}))
    elif name in ANSWERS:
        lines = ANSWERS[name]
    else:
        from certify.commands.options import did_you_mean

        raise BadOption(f"{capability} is no capability of the standard", did_you_mean(name, (*ASKED, *ANSWERS)))
    emit("\n".join(lines))
