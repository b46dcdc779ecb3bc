"""Random networks of all smooth operators and products: what the checker proves holds, for any parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certify.check.bounds import propagate
from certify.check.linear import Network, Pass
from certify.graph.build import GraphBuilder, Var
from certify.graph.evaluate import Network as Compiled
from certify.graph.ir import Graph, Port
from certify.graph.softmax import softmax


def _network(rng: np.random.Generator) -> Graph:
    """Three rounds of an affine map and an operator, with a branch that joins again, and an affine map at the end."""
    build = GraphBuilder([Port("x", (3,))])

    def affine(x: Var, size: int) -> Var:
        weight = rng.standard_normal((size, x.shape[0])) / np.sqrt(x.shape[0])
        return build.linear(x, weight, rng.standard_normal(size))

    operators = [
        build.sin,
        build.cos,
        build.square,
        build.tanh,
        build.relu,
        build.floor,
        lambda x: build.exp(build.clip(x, -4.0, 4.0)),
        lambda x: build.reciprocal(build.scale(build.square(x), 1.0, 0.5)),
        lambda x: build.reciprocal(build.scale(build.exp(build.clip(x, -4.0, 2.0)), -1.0, -0.25)),
        lambda x: softmax(build, x, 0),
        lambda x: build.mul(x, affine(x, x.shape[0])),
        lambda x: build.mul(affine(x, 1), x),
        lambda x: build.power(build.tanh(x), 3),
        lambda x: build.reshape(build.matmul(build.reshape(x, (2, 2)), build.reshape(affine(x, 4), (2, 2))), (4,)),
    ]
    x = build.inputs[0]
    for _ in range(3):
        z = affine(x, 4)
        x = operators[rng.integers(len(operators))](z)
        if rng.random() < 0.4:
            x = build.add(x, operators[rng.integers(len(operators))](z))
    return build.build([affine(x, 2)], [Port("y", (2,))])


@pytest.mark.parametrize("seed", range(60))
def test_what_is_proved_holds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        monkeypatch.setattr("certify.check.bounds.MOST_INPUTS", 0)
    graph = _network(rng)
    width = rng.choice([0.0, 1e-12, 1e-3, 0.05, 0.4])
    center = rng.standard_normal((2, 3))
    lower, upper = center - width * rng.random((2, 3)), center + width * rng.random((2, 3))
    network = Network(graph)
    refined = tuple({graph.nodes[e].inputs[0] for e in graph.nonlinear} if seed % 2 else ())
    with np.errstate(all="ignore"):
        bounds = propagate(network, lower, upper, refined=refined, thorough=seed % 4 == 1)
        lines = {}
        for e in graph.nonlinear:
            v, rule, size = graph.nodes[e].inputs[0], network.rules[e], bounds.lower[e].shape
            free = np.where(rng.random(size) < 0.3, np.nan, rng.choice([0.0, 1.0, rng.random()], size))
            lines[e] = rule.lines(bounds.lower[v], bounds.upper[v], free if rule.free_slope else None)
        rows = rng.standard_normal((2, 4, 2))
        work = Pass(network, bounds, rows.shape[:2])
        work.put(len(graph.nodes) - 1, rows)
        work.run(lines, {})
        proved = work.lower(lower, upper, None)
    x = np.concatenate([lower[:, None], upper[:, None], rng.uniform(lower[:, None], upper[:, None], (2, 200, 3))], 1)
    compiled = Compiled(graph, torch.float64)
    for k in range(2):
        values = compiled.values(torch.from_numpy(x[k]))
        for value, low, high in zip(values, bounds.lower, bounds.upper, strict=True):
            slack = 1e-10 * (1 + np.abs(value.numpy()))  # of the float64 samples
            assert (value.numpy() >= low[min(k, len(low) - 1)] - slack).all()
            assert (value.numpy() <= high[min(k, len(high) - 1)] + slack).all()
        y = values[-1].numpy() @ rows[k].T
        assert not (proved[k] > y + 1e-10 * (1 + np.abs(y))).any()
    if 0 < width < 1e-6 and not any(type(n.op).__name__ == "Floor" for n in graph.nodes):
        assert (np.abs(y - proved[k]) < 1e-6 * (1 + np.abs(y))).all()  # on a tiny box nearly nothing is lost
