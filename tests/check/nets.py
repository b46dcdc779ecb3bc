"""Small networks, and proofs about them made by the simplest means: split until the checker is content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from certify.check.checker import Checker
from certify.evidence import DEFAULT, Tree, TreeProof, single_leaf
from certify.graph import ops
from certify.graph.ir import Graph, Node, Port
from certify.spec.property import Property, clause
from certify.spec.query import Case, spec_hash
from certify.spec.regions import box
from tests import exact

Array = np.ndarray


def chain(size: int, *operators: tuple[ops.Op, tuple[int, ...]]) -> Graph:
    """A graph in which each operator reads the one before it."""
    nodes = [Node(ops.Input(), (), (size,), "x")]
    for op, shape in operators:
        nodes.append(Node(op, (len(nodes) - 1,), shape, f"n{len(nodes)}"))
    return Graph(tuple(nodes), (Port("x", (size,)),), (Port("y", nodes[-1].shape),))


def mlp(rng: np.random.Generator, sizes: Sequence[int], activation: ops.Elementwise | None = None) -> Graph:
    """A random fully connected network with float32 weights."""
    layers: list[tuple[ops.Op, tuple[int, ...]]] = []
    for into, out in pairwise(sizes):
        weight = rng.standard_normal((out, into)).astype(np.float32) * np.float32(np.sqrt(2 / into))
        layers.append((ops.Linear(weight, (0.3 * rng.standard_normal(out)).astype(np.float32)), (out,)))
        layers.append((activation or ops.Relu(), (out,)))
    return chain(sizes[0], *layers[:-1])


def split_nodes(graph: Graph) -> tuple[int, ...]:
    """The nodes that elementwise operators read: those that neuron splits and refinement are about."""
    return tuple(dict.fromkeys(graph.nodes[e].inputs[0] for e in graph.nonlinear))


@dataclass
class Grower:
    """Grows a tree for one clause, one split at a time."""

    node: list[int]
    index: list[int]
    point: list[float]
    below: list[int]
    above: list[int]
    anchor: list[int]

    @classmethod
    def root(cls) -> Grower:
        return cls([-1], [0], [0.0], [0], [0], [0])

    def split(self, row: int, node: int, index: int, point: float) -> None:
        """Row becomes a split; children of input splits are their own anchors."""
        first = len(self.node)
        for child in (first, first + 1):
            self.node.append(-1)
            self.index.append(0)
            self.point.append(0.0)
            self.below.append(0)
            self.above.append(0)
            self.anchor.append(child if node == 0 else self.anchor[row])
        self.node[row], self.index[row], self.point[row] = node, index, point
        self.below[row], self.above[row] = first, first + 1

    def depths(self) -> list[int]:
        """Neuron splits above each row."""
        found = [0] * len(self.node)
        for row, v in enumerate(self.node):
            if v >= 0:
                for child in (self.below[row], self.above[row]):
                    found[child] = found[row] + (v > 0)
        return found

    def tree(self, case: int, clause: int, width: int, rng: np.random.Generator, graph: Graph, largest: float) -> Tree:
        """One proof per leaf, with random multipliers up to `largest` and random slopes where they may be given."""
        leaves = np.array([r for r, v in enumerate(self.node) if v == -1], np.int32)
        counts = np.array(self.depths())[leaves]
        free = [e for e in graph.nonlinear if isinstance(graph.nodes[e].op, ops.Relu | ops.LeakyRelu | ops.Abs)]
        every = np.array([(e, k) for e in free for k in range(graph.nodes[e].size)], np.int64).reshape(-1, 2)
        slopes = rng.integers(0, DEFAULT, (len(leaves), len(every)), np.uint8)
        slopes[rng.random(slopes.shape) < 0.7] = DEFAULT
        return Tree(
            case=case,
            clauses=(clause,),
            node=np.array(self.node, np.int32),
            index=np.array(self.index, np.int64),
            point=np.array(self.point),
            below=np.array(self.below, np.int32),
            above=np.array(self.above, np.int32),
            anchor=np.array(self.anchor, np.int32),
            leaf=leaves,
            clause=np.full(len(leaves), clause, np.int32),
            weights=np.ones((len(leaves), width)),
            sloped_node=every[:, 0].astype(np.int32),
            sloped_neuron=every[:, 1],
            slopes=slopes,
            multipliers=largest * rng.random(int(counts.sum())),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )


def random_tree(
    rng: np.random.Generator, graph: Graph, case: Case, splits: int, clause: int = 0, largest: float = 0.1
) -> Tree:
    """A tree of random splits, of inputs and of neurons, with random proofs."""
    grower = Grower.root()
    for _ in range(splits):
        row = int(rng.choice([r for r, v in enumerate(grower.node) if v == -1]))
        node = int(rng.choice([0, *split_nodes(graph)]))
        index = int(rng.integers(graph.nodes[node].size))
        point = 0.0
        if node == 0:
            point = float(rng.uniform(case.region.lower[index], case.region.upper[index]))
        grower.split(row, node, index, point)
    return grower.tree(0, clause, len(case.property.clauses[clause].offset), rng, graph, largest)


DRAWS = 8


def accepted_of_draws(grower: Grower, checker: Checker, graph: Graph, rng: np.random.Generator) -> tuple[Tree, Array]:
    """The tree with, for every leaf, the first of some random proofs that the checker accepts, and for which
    leaves there was one."""
    best, done = None, None
    for draw in range(DRAWS):
        tree = grower.tree(0, 0, 1, rng, graph, 0.0 if draw == 0 else 10.0 ** rng.uniform(-1.5, 0.5))
        accepted = checker.accept(tree)
        if best is None:
            best, done = tree, accepted
            continue
        for p in np.flatnonzero(accepted & ~done):
            mine = slice(tree.offsets[p], tree.offsets[p + 1])
            best.multipliers[mine] = tree.multipliers[mine]
            best.slopes[p] = tree.slopes[p]
        done = done | accepted
    return best, done


def prove(graph: Graph, case: Case, *, inputs: bool, rounds: int = 9, seed: int = 0) -> TreeProof | None:
    """Split every leaf for which no random proof is accepted (the longest input, or the next neuron), until
    none is left; None if that takes too long. For cases of one clause with one row."""
    rng = np.random.default_rng(seed)
    refined = split_nodes(graph)
    checker = Checker(graph, (case,), refined)
    grower = Grower.root()
    neurons = [(v, k) for v in refined for k in range(graph.nodes[v].size)]
    boxes = {0: (case.region.lower, case.region.upper)}
    for _ in range(rounds):
        tree, accepted = accepted_of_draws(grower, checker, graph, rng)
        if accepted.all():
            return TreeProof((tree,), refined, graph.hash, spec_hash((case,)))
        for row in tree.leaf[~accepted].tolist():
            lower, upper = boxes[row]
            first = len(grower.node)
            if inputs:
                axis = int(np.argmax(upper - lower))
                middle = float((lower[axis] + upper[axis]) / 2)
                grower.split(row, 0, axis, middle)
                cut = np.arange(len(lower)) == axis
                boxes[first], boxes[first + 1] = (
                    (lower, np.where(cut, middle, upper)),
                    (np.where(cut, middle, lower), upper),
                )
            else:
                depth = grower.depths()[row]
                if depth == len(neurons):
                    return None
                grower.split(row, *neurons[depth], 0.0)
                boxes[first] = boxes[first + 1] = lower, upper
    return None


def proved_case(
    inputs: bool, least_leaves: int, make: Callable[[int], tuple[Graph, Case]]
) -> tuple[Graph, Case, TreeProof]:
    """The first of make(0), make(1), ... that takes a proof of at least so many leaves."""
    for seed in range(40):
        graph, case = make(seed)
        proof = prove(graph, case, inputs=inputs)
        if proof is not None and len(proof.trees[0].leaf) >= least_leaves:
            return graph, case, proof
    raise AssertionError("no network needs such a proof")


def case_with_margin(graph: Graph, rng: np.random.Generator, share: float) -> Case:
    """A case of one half-space whose exact least margin is about `share` of the output's spread."""
    center = rng.uniform(-0.5, 0.5, graph.input_size)
    region = box(center - 0.4, center + 0.4)
    row = rng.standard_normal((1, graph.output_size))
    lowest, highest = exact.minimum(graph, region, row[0]), -exact.minimum(graph, region, -row[0])
    offset = float(lowest) - share * float(highest - lowest)
    return Case(region, Property((clause(row, [offset]),)))


def small_case(seed: int) -> tuple[Graph, Case]:
    rng = np.random.default_rng(seed)
    graph = mlp(rng, [2, 4, 4, 2])
    return graph, case_with_margin(graph, rng, 0.1)


def one_leaf(graph: Graph, case: Case, weights: Array | None = None) -> TreeProof:
    """The proof without any split, for all clauses of one case."""
    clauses = tuple(range(len(case.property.clauses)))
    widest = max(len(c.offset) for c in case.property.clauses)
    if weights is None:
        weights = np.array([np.arange(widest) < len(c.offset) for c in case.property.clauses], np.float64)
    tree = single_leaf(0, clauses, weights)
    return TreeProof((tree,), split_nodes(graph), graph.hash, spec_hash((case,)))
