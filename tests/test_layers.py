"""Imports go only downward through the layers, heavy modules stay out of `import certify`."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("certify", "attacks", "training", "models", "benchmarks")

# From the ground up. A module may import its own layer and those below it; which modules a name covers is
# decided by the longest match. `attacks` and `models` are below certify's engine: they know nothing of it.
LAYERS = (
    ("certify.errors", "certify.numerics", "certify.budget", "certify.memory", "certify.strategy", "certify.threads"),
    ("certify.device",),
    ("certify.native",),
    ("attacks", "models"),
    ("certify.graph",),
    ("certify.spec", "certify.frontends"),
    ("certify.passes",),
    ("certify.evidence", "certify.verdict"),
    ("certify.check",),
    ("certify.relax",),
    ("certify.solvers",),
    ("certify.bounds",),
    ("certify.falsify", "certify.mip", "certify.bab", "certify.lipschitz", "certify.smoothing"),
    ("training",),
    ("certify.plan", "certify.verifier", "certify.api", "certify.exact", "certify.extreme"),
    ("certify",),  # certify/__init__.py: what the package shows of all this
    ("benchmarks",),
    ("certify.commands", "certify.cli", "certify.__main__"),
)
CHECK_MAY = (
    "certify.check",
    "certify.errors",
    "certify.numerics",
    "certify.graph.ir",
    "certify.graph.sparse",
    "certify.graph.ops",
    "certify.graph.store",
    "certify.graph.rules",
    "certify.spec",
    "certify.evidence",
    "certify.verdict",
)
HEAVY = ("matplotlib", "sklearn", "scipy", "onnxruntime", "onnx", "typer", "rich", "torch.export", "highspy", "sympy",
         "cvxpy", "pulp", "statsmodels", "pandas", "optuna", "tensorboard")  # fmt: skip


@dataclass(frozen=True)
class Edge:
    """`importer` imports `target`: at the module's top, or lazily inside a function."""

    importer: str
    target: str
    line: int
    lazy: bool


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def edges() -> tuple[Edge, ...]:
    """Every import of every module. `from package import name` leads to the module package.name if there is one.

    Imports under `if TYPE_CHECKING` do not run and are left out.
    """
    return tuple(edge for name, path in MODULES.items() for edge in edges_of(name, path.read_text(encoding="utf-8")))


def edges_of(name: str, text: str) -> list[Edge]:
    found: list[Edge] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child, lazy)
            return
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative imports hide the layer"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = [w if w in MODULES else str(node.module) for w in whole]
        found.extend(Edge(name, target, node.lineno, lazy) for target in targets)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(text), False)
    return found


def under(module: str, *prefixes: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in prefixes)


def layer(module: str) -> int:
    matches = [(len(name), rank) for rank, names in enumerate(LAYERS) for name in names if under(module, name)]
    assert matches, f"{module} has no layer: add it to LAYERS"
    rank = max(matches)[1]
    assert LAYERS[rank] != ("certify",) or module == "certify", f"{module} has no layer: add it to LAYERS"
    return rank


def ours(module: str) -> bool:
    return under(module, *PACKAGES)


def shown(bad: list[Edge]) -> str:
    return "\n".join(f"{MODULES[e.importer].relative_to(ROOT)}:{e.line}: {e.importer} imports {e.target}" for e in bad)


def test_the_reader_of_imports_sees_all_kinds() -> None:
    text = "import a.b\nif TYPE_CHECKING:\n    import c\nelse:\n    import d\n"
    text += "def f():\n    from certify.graph import ir, x\n"
    assert [(e.target, e.line, e.lazy) for e in edges_of("m", text)] == [
        ("a.b", 1, False),
        ("d", 5, False),
        ("certify.graph.ir", 7, True),
        ("certify.graph", 7, True),
    ]


def test_imports_go_downward() -> None:
    bad = [e for e in edges() if ours(e.target) and layer(e.target) > layer(e.importer)]
    assert not bad, shown(bad)


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for e in edges():
        if e.target in graph and not e.lazy and e.target != e.importer:
            graph[e.importer].add(e.target)
    while leaves := [name for name, targets in graph.items() if not targets]:
        for name in leaves:
            del graph[name]
        for targets in graph.values():
            targets.difference_update(leaves)
    assert not graph, f"import cycle among {sorted(graph)}"


def test_check_is_an_island() -> None:
    standard = sys.stdlib_module_names
    bad = [
        e
        for e in edges()
        if under(e.importer, "certify.check")
        and not under(e.target, *CHECK_MAY, "numpy")
        and e.target.split(".")[0] not in standard
    ]
    assert not bad, shown(bad)


def test_check_runs_without_torch() -> None:
    names = [name for name in MODULES if under(name, "certify.check")]
    code = f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_attacks_import_torch_only() -> None:
    allowed = {*sys.stdlib_module_names, "torch", "attacks"}
    bad = [e for e in edges() if under(e.importer, "attacks") and e.target.split(".")[0] not in allowed]
    assert not bad, shown(bad)


def test_models_know_nothing_of_the_engine() -> None:
    bad = [
        e
        for e in edges()
        if under(e.importer, "models") and ours(e.target) and not under(e.target, "models", "certify.errors")
    ]
    assert not bad, shown(bad)


def test_training_never_drags_in_search() -> None:
    may = ("training", "attacks", "models", "certify.errors", "certify.device", "certify.graph", "certify.spec",
           "certify.relax", "certify.bounds", "certify.lipschitz")  # fmt: skip
    bad = [e for e in edges() if under(e.importer, "training") and ours(e.target) and not under(e.target, *may)]
    assert not bad, shown(bad)


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("highspy", ("certify.solvers.highs",)),
        ("pulp", ("certify.solvers.external",)),
        ("cvxpy", ("certify.bounds.sdp", "certify.lipschitz.sdp")),
        ("typer", ("certify.cli", "certify.commands")),
        ("rich", ("certify.commands",)),
        ("matplotlib", ("certify.commands", "benchmarks")),
        ("onnxruntime", ("certify.frontends",)),
        ("sklearn", ("models",)),
        ("statsmodels", ("certify.smoothing",)),
        ("optuna", ("training.search",)),
    ],
)
def test_a_library_has_one_owner(library: str, owners: tuple[str, ...]) -> None:
    bad = [e for e in edges() if under(e.target, library) and not under(e.importer, *owners)]
    assert not bad, shown(bad)


@pytest.mark.parametrize("module", ["certify", "certify.budget", "certify.verdict", "certify.spec.query"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_import_certify_needs_no_torch() -> None:
    code = "import sys, certify; certify.ball([0.5], 0.1), certify.robust(0, 2); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, atexit\n"
        "from certify.cli import main\n"
        "heavy = {'torch', 'onnx', 'rich', 'matplotlib'}\n"
        "atexit.register(lambda: print(*sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "verify" in done.stdout
    assert done.stderr.split() == []
