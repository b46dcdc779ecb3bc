"""Saving a graph to one file and reading it back; nothing in the file is executed."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from certify.errors import MalformedNetwork
from certify.graph.ir import Graph, Node, Port, split_fields
from certify.graph.ops import registered
from certify.graph.shapes import infer_shape

FORMAT = 1


def save(graph: Graph, path: str | Path) -> None:
    """Write `graph` to `path` as an .npz archive: a JSON header and the constants as stored."""
    arrays: dict[str, np.ndarray] = {}
    nodes = []
    for i, node in enumerate(graph.nodes):
        plain, constants = split_fields(node.op)
        for key, value in constants.items():
            arrays[f"{i}.{key}"] = value
        nodes.append(
            {
                "op": type(node.op).__name__,
                "inputs": node.inputs,
                "shape": node.shape,
                "name": node.name,
                "plain": plain,
                "arrays": sorted(constants),
            }
        )
    header = {
        "format": FORMAT,
        "hash": graph.hash,
        "nodes": nodes,
        "inputs": [asdict(p) for p in graph.inputs],
        "outputs": [asdict(p) for p in graph.outputs],
    }
    with open(path, "wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def load(path: str | Path) -> Graph:
    """Read a graph that `save` wrote.

    Raises MalformedNetwork if the file is not one, holds a node of a shape that its operator does not give, or does
    not hash to what it says.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            known = registered()
            nodes = []
            for i, entry in enumerate(header["nodes"]):
                parameters = {k: _tuples(v) for k, v in entry["plain"].items()}
                parameters |= {k: archive[f"{i}.{k}"] for k in entry["arrays"]}
                op = known[entry["op"]](**parameters)
                read, shape = tuple(entry["inputs"]), tuple(entry["shape"])
                if i and infer_shape(op, [nodes[j].shape for j in read], shape) != shape:
                    raise ValueError(f"node {i} cannot have the shape {shape}")
                nodes.append(Node(op, read, shape, entry["name"]))
            inputs, outputs = (
                tuple(Port(p["name"], tuple(p["shape"]), p["dtype"]) for p in header[side])
                for side in ("inputs", "outputs")
            )
            graph = Graph(tuple(nodes), inputs, outputs)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or of another kind"
        raise MalformedNetwork(f"{path} is not a graph saved by certify: {why}", "save it again") from error
    if graph.hash != header["hash"]:
        raise MalformedNetwork(f"{path}: the graph does not hash to what its header says", "save it again")
    return graph


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
