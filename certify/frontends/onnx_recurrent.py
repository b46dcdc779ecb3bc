"""Rules for ONNX's recurrent layers, unrolled over the sequence, whose length the network's shapes fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from certify.frontends.onnx_node import OnnxNode, Table
from certify.graph.build import Array, GraphBuilder, NotLowered, Operand

RECURRENT = Table()
Curve = Callable[[GraphBuilder, Operand], Operand]
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
CURVES: dict[str, Curve] = {"Tanh": GraphBuilder.tanh, "Sigmoid": GraphBuilder.sigmoid, "Relu": GraphBuilder.relu}


class Weights(NamedTuple):
    """Of one direction: per gate (hidden, inputs), (hidden, hidden), (hidden,), (hidden,)."""

    read: Array
    recur: Array
    bias: Array
    bias_recur: Array


class State(NamedTuple):
    """What is handed on to the next step, (batch, hidden) each; `cell` is LSTM's own."""

    hidden: Operand
    cell: Operand


class Variant(NamedTuple):
    """The activations, in the standard's order, and whether GRU's reset gate acts behind the product."""

    curves: Sequence[Curve]
    late: bool


Step = Callable[[GraphBuilder, Operand, State, Weights, Variant], State]


def _term(b: GraphBuilder, x: Operand, hidden: Operand, w: Weights, gate: int) -> Operand:
    """What one gate sees: W x + R h + both biases."""
    seen = b.linear(x, w.read[gate], w.bias[gate].astype(np.float64) + w.bias_recur[gate])
    return b.add(seen, b.linear(hidden, w.recur[gate]))


def _rnn(b: GraphBuilder, x: Operand, state: State, w: Weights, how: Variant) -> State:
    return State(how.curves[0](b, _term(b, x, state.hidden, w, 0)), state.cell)


def _gru(b: GraphBuilder, x: Operand, state: State, w: Weights, how: Variant) -> State:
    """Gates z, r, h."""
    gate_curve, curve = how.curves
    z, r = (gate_curve(b, _term(b, x, state.hidden, w, gate)) for gate in (0, 1))
    if how.late:
        kept = b.mul(r, b.linear(state.hidden, w.recur[2], w.bias_recur[2]))
        new = curve(b, b.add(b.linear(x, w.read[2], w.bias[2]), kept))
    else:
        new = curve(b, _term(b, x, b.mul(r, state.hidden), w, 2))
    return State(b.add(new, b.mul(z, b.sub(state.hidden, new))), state.cell)


def _lstm(b: GraphBuilder, x: Operand, state: State, w: Weights, how: Variant) -> State:
    """Gates i, o, f, c."""
    gate_curve, curve, last = how.curves
    i, o, f = (gate_curve(b, _term(b, x, state.hidden, w, gate)) for gate in (0, 1, 2))
    new = curve(b, _term(b, x, state.hidden, w, 3))
    cell = b.add(b.mul(f, state.cell), b.mul(i, new))
    return State(b.mul(o, last(b, cell)), cell)


STEPS: dict[str, Step] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


@RECURRENT("RNN", "GRU", "LSTM")
def _recurrent(n: OnnxNode) -> Sequence[Operand]:
    """Y (length, directions, batch, hidden), and the last states (directions, batch, hidden)."""
    b, x = n.builder, n.operand(0)
    _refuse_variants(n, x)
    weights = _weights(n)
    batch, hidden = x.shape[1], weights[0].recur.shape[-1]
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[n.text("direction", "forward")]
    starts = [n.get(i) if n.get(i) is not None else np.zeros((len(backward), batch, hidden)) for i in (5, 6)]
    late, curves, own = bool(n.attribute("linear_before_reset", 0)), _curves(n, len(backward)), len(USUAL[n.op])
    sequences, ends = [], []
    for d, turned in enumerate(backward):
        state = State(*(b.squeeze(b.select(s, 0, np.array([d])), [0]) for s in starts))
        found: dict[int, Operand] = {}
        for t in range(x.shape[0])[:: -1 if turned else 1]:
            here = b.squeeze(b.select(x, 0, np.array([t])), [0])
            state = STEPS[n.op](b, here, state, weights[d], Variant(curves[d * own : (d + 1) * own], late))
            found[t] = state.hidden
        sequences.append(b.stack([found[t] for t in range(x.shape[0])], 0))
        ends.append(state)
    last = [b.stack([s.hidden for s in ends], 0), b.stack([s.cell for s in ends], 0)]
    return [b.stack(sequences, 1), *last[: 2 if n.op == "LSTM" else 1]]


def _weights(n: OnnxNode) -> list[Weights]:
    """One per direction."""
    read, recur, gates = n.need(1), n.need(2), GATES[n.op]
    hidden = recur.shape[-1]
    given = n.constant(3)
    bias = np.zeros((len(read), 2 * gates * hidden), read.dtype) if given is None else given
    return [
        Weights(
            read[d].reshape(gates, hidden, -1),
            recur[d].reshape(gates, hidden, hidden),
            *bias[d].reshape(2, gates, hidden),
        )
        for d in range(len(read))
    ]


def _refuse_variants(n: OnnxNode, x: Operand) -> None:
    lengths = n.constant(4)
    if n.attribute("clip", 0) or n.attribute("input_forget", 0) or n.attribute("layout", 0) or n.get(7) is not None:
        raise NotLowered("with clip, input_forget, layout or peepholes")
    if lengths is not None and lengths.size and (lengths != x.shape[0]).any():
        raise NotLowered("of sequences shorter than the input")


def _curves(n: OnnxNode, directions: int) -> list[Curve]:
    """The activations of all directions, one's after the other's."""
    names = [a.decode() if isinstance(a, bytes) else a for a in n.attribute("activations", [])]
    names = names or USUAL[n.op] * directions
    if not set(names) <= CURVES.keys() or len(names) != len(USUAL[n.op]) * directions:
        raise NotLowered(f"with {', '.join(names)}")
    return [CURVES[name] for name in names]
