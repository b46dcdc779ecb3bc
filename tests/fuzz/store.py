"""An instance as one .npz file, so that a failure can be replayed by one command."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from certify.graph import store
from certify.spec.property import Clause, Property
from certify.spec.query import Case
from certify.spec.regions import Region
from tests.fuzz.generate import Instance


def save(instance: Instance, path: Path) -> None:
    """Write the instance to `path`."""
    with tempfile.TemporaryDirectory() as folder:
        store.save(instance.graph, Path(folder) / "graph")
        graph = (Path(folder) / "graph").read_bytes()
    arrays: dict[str, np.ndarray] = {"graph": np.frombuffer(graph, np.uint8), "seed": np.array(instance.seed)}
    for i, case in enumerate(instance.cases):
        region = case.region
        arrays[f"{i}.lower"], arrays[f"{i}.upper"] = region.lower, region.upper
        if region.norm is not None:
            arrays[f"{i}.center"], arrays[f"{i}.ball"] = region.center, np.array([region.radius, region.norm])
        for k, c in enumerate(case.property.clauses):
            arrays |= {f"{i}.{k}.matrix": c.matrix, f"{i}.{k}.offset": c.offset, f"{i}.{k}.strict": c.strict}
    np.savez(path, **arrays)


def load(path: Path) -> Instance:
    """Read what `save` wrote."""
    with np.load(path) as data, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "graph").write_bytes(data["graph"].tobytes())
        graph = store.load(Path(folder) / "graph")
        cases = []
        while f"{len(cases)}.lower" in data:
            i, clauses = len(cases), []
            while (key := f"{i}.{len(clauses)}") + ".matrix" in data:
                clauses.append(Clause(data[f"{key}.matrix"], data[f"{key}.offset"], data[f"{key}.strict"]))
            region = Region(data[f"{i}.lower"], data[f"{i}.upper"])
            if f"{i}.ball" in data:
                radius, norm = data[f"{i}.ball"].tolist()
                region = Region(region.lower, region.upper, data[f"{i}.center"], radius, norm)
            cases.append(Case(region, Property(tuple(clauses))))
        return Instance(graph, tuple(cases), int(data["seed"]))
