"""The one way in: what each kind of file becomes, and what is refused."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from certify.errors import BadOption, MalformedNetwork
from certify.frontends.load import load_network
from certify.graph import store
from certify.graph.evaluate import evaluate
from models import zoo

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


X = torch.tensor([[[0.1, -0.2], [0.7, 2.0]]])


def written(kind: str, folder: Path) -> Path | nn.Module:
    path = folder / f"net{kind}"
    if kind == "":
        return module()
    if kind == ".pt2":
        torch.export.save(torch.export.export(module(), (X,)), path)
    elif kind == ".npz":
        store.save(load_network(module(), X).graph, path)
    else:
        plain = folder / "net.onnx"
        torch.onnx.export(module(), (X,), plain, dynamo=False, verbose=False)
        if kind == ".onnx.gz":
            path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["", ".pt2", ".npz", ".onnx", ".onnx.gz"])
@pytest.mark.parametrize("as_text", [True, False])
def test_every_kind_is_the_same_network(tmp_path, kind, as_text):
    network = written(kind, tmp_path)
    network = str(network) if as_text and isinstance(network, Path) else network
    imported = load_network(network, X) if kind == "" else load_network(network)
    with torch.no_grad():
        expected = module()(X)[0].numpy()
    assert imported.graph.input_size == 4
    flat = X.reshape(1, -1).double().numpy()
    np.testing.assert_allclose(evaluate(imported.graph, flat)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(imported.source(flat[0]), expected, rtol=1e-5, atol=1e-6)


def test_a_saved_graph_is_its_own_original(tmp_path):
    imported = load_network(written(".npz", tmp_path))
    assert "certify's own float64 evaluation" in imported.source.name
    x = np.random.default_rng(0).standard_normal((5, 4))
    np.testing.assert_array_equal(
        [imported.source(row) for row in x], [evaluate(imported.graph, r[None])[0] for r in x]
    )


def test_saved_models_by_name_and_by_file():
    by_name = load_network("digits-mlp")
    by_file = load_network(zoo.SAVED / "digits-mlp.safetensors")
    assert by_name.graph.hash == by_file.graph.hash
    assert by_name.graph.inputs[0].shape == (1, 1, 8, 8)
    assert by_name.source.name.startswith("digits-mlp")
    x = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        expected = zoo.load("digits-mlp")(x)[0].numpy()
    np.testing.assert_array_equal(by_name.source(x.reshape(-1).double().numpy()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_models_keep_their_type(tmp_path, dtype):
    description = zoo.Description("mlp", {"shape": [2, 3], "classes": 2, "hidden": [4]})
    path = tmp_path / "own.safetensors"
    zoo.save(description, description.build().to(dtype), path, zoo.Card("none", "none", None, 0.0, "none"))
    assert load_network(path).graph.inputs[0].dtype == str(dtype).removeprefix("torch.")


def test_a_module_needs_an_example():
    with pytest.raises(BadOption, match="example"):
        load_network(module())


class Armed:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".bin", ""])
@pytest.mark.parametrize("write", [torch.save, pickle.dump])
def test_pickles_are_refused_unread(tmp_path, suffix, write):
    path, mark = tmp_path / f"net{suffix}", tmp_path / "mark"
    with path.open("wb") as file:
        write(Armed(mark), file)
    with pytest.raises(MalformedNetwork, match=r"is a pickle[\s\S]*torch\.onnx\.export"):
        load_network(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".onnx", ".onnx.gz", ".pt2", ".npz", ".safetensors"])
def test_a_pickle_under_another_suffix_is_refused_unread(tmp_path, suffix):
    path, mark = tmp_path / f"net{suffix}", tmp_path / "mark"
    for write in (torch.save, pickle.dump):
        with path.open("wb") as file:
            write(Armed(mark), file)
        with pytest.raises(MalformedNetwork):
            load_network(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".onnx", ".onnx.gz", ".pt2", ".npz", ".safetensors", ".txt", ".gz", ""])
@pytest.mark.parametrize("content", [None, b"", b"hello", b"PK\x03\x04", bytes(200)])
def test_files_that_are_no_networks_are_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"net{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MalformedNetwork, match="net"):
        load_network(path)


def test_unknown_names_list_what_is_known():
    with pytest.raises(MalformedNetwork, match=r"no network digits-mpl[\s\S]*\.onnx[\s\S]*digits-mlp"):
        load_network("digits-mpl")


def test_a_folder_is_refused(tmp_path):
    for suffix in ("", ".onnx", ".pt2", ".npz", ".safetensors"):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(MalformedNetwork):
            load_network(tmp_path / f"folder{suffix}")
