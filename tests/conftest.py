"""What several tests share: small networks and properties as files, and the way to run the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: more threads only wait for one another
settings.register_profile("certify", deadline=None)
settings.load_profile("certify")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with benchmark instances and data sets, which is not part of the repository."""
    beside = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("CERTIFY_SHARED", beside))
    if not folder.is_dir():
        pytest.skip("the shared folder with benchmark instances is not here; name it in CERTIFY_SHARED")
    return folder


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command of `certify` in this process."""
    from certify.cli import main

    def command(*arguments: object) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else 0, out, err)

    return command


def save_onnx(path: Path, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write the ReLU network of these layers (weight (out, in), bias (out,)) as an ONNX file; returns its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, last = [], [], "x"
    for i, (weight, bias) in enumerate(layers):
        constants += [numpy_helper.from_array(a.astype(np.float32), f"{n}{i}") for n, a in (("w", weight), ("b", bias))]
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"z{i}"], f"gemm{i}", transB=1))
        last = f"z{i}"
        if i < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"a{i}"], f"relu{i}"))
            last = f"a{i}"
    sizes = (layers[0][0].shape[1], layers[-1][0].shape[0])
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in zip(("x", last), sizes, strict=True)
    ]
    graph = helper.make_graph(nodes, "net", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """y = (|x_0| + |x_1|, x_0 - x_1), made of ReLUs, as net.onnx."""
    first = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    second = np.array([[1, 1, 1, 1], [1, -1, -1, 1]])
    return save_onnx(tmp_path / "net.onnx", [(first, np.zeros(4)), (second, np.zeros(2))])


def vnnlib(path: Path, box: Sequence[tuple[float, float]], unsafe: str, outputs: int = 2) -> Path:
    """Write a property: the inputs' bounds and the condition on them and the outputs that is unsafe."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(box))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(box):
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    path.write_text("\n".join([*lines, f"(assert {unsafe})", ""]))
    return path


@pytest.fixture
def holds(tmp_path: Path) -> Path:
    """True of `network`: on [-1, 1]^2, y_0 stays below 2.5."""
    return vnnlib(tmp_path / "holds.vnnlib", [(-1, 1), (-1, 1)], "(>= Y_0 2.5)")


@pytest.fixture
def fails(tmp_path: Path) -> Path:
    """False of `network`: near the corners of [-1, 1]^2, y_0 is above 1.5."""
    return vnnlib(tmp_path / "fails.vnnlib", [(-1, 1), (-1, 1)], "(>= Y_0 1.5)")
