"""Data sets, the zoo of saved models, and the script that trains them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
import re
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from certify.errors import BadOption, CertifyError, MalformedNetwork
from models import data, zoo
from models.layers import Normalise
from training import digits

SHARED = Path(os.environ.get("CERTIFY_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
CARD = zoo.Card("digits", "none", None, 0.1, "none")
DESCRIPTIONS = {
    "mlp": zoo.Description("mlp", {"shape": [1, 4, 4], "classes": 3, "hidden": [5], "mean": [0.5], "std": [0.2]}),
    "cnn": zoo.Description("cnn", {"shape": [2, 8, 8], "classes": 3, "channels": [2, 3], "hidden": 4}),
    "resnet": zoo.Description(
        "resnet", {"shape": [3, 8, 8], "classes": 4, "channels": [2, 4], "blocks": 2, "mean": [0.1] * 3, "std": [2] * 3}
    ),
}


def write_idx(path: Path, values: np.ndarray) -> None:
    raw = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist(folder: Path, suffix: str, seed: int = 0) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    parts = {}
    for part, count in (("train", 5), ("t10k", 3)):
        parts[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        parts[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, count, dtype=np.uint8)
    for name, values in parts.items():
        write_idx(folder / (name + suffix), values)
    return parts


# data


def test_digits_are_deterministic_images_in_the_unit_range():
    one, two = data.load("digits"), data.load("digits")
    assert one.shape == (1, 8, 8)
    assert one.classes == 10
    assert len(one.x_train) + len(one.x_test) == 1797
    for part in (one.x_train, one.x_test):
        assert part.dtype == np.float32
        assert part.min() == 0
        assert part.max() == 1
    assert np.array_equal(one.x_test, two.x_test)
    assert np.array_equal(one.y_train, two.y_train)
    assert np.bincount(one.y_test, minlength=10).min() >= 15  # every class is tested


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("nested", [True, False])
def test_mnist_is_read_from_its_idx_files(tmp_path, suffix, nested):
    parts = write_mnist(tmp_path / "mnist" if nested else tmp_path, suffix)
    found = data.load("mnist", tmp_path)
    assert found.x_train.shape == (5, 1, 28, 28)
    assert np.array_equal(found.x_test[:, 0] * np.float32(255), parts["t10k-images-idx3-ubyte"])
    assert np.array_equal(found.y_train, parts["train-labels-idx1-ubyte"])


def test_the_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path / "fashion-mnist", ".gz")
    monkeypatch.setenv(data.FOLDER_VARIABLE, str(tmp_path))
    assert data.load("fashion-mnist").x_test.shape == (3, 1, 28, 28)


def test_a_missing_file_is_named_with_its_source(tmp_path, monkeypatch):
    monkeypatch.delenv(data.FOLDER_VARIABLE, raising=False)
    with pytest.raises(data.MissingData, match=data.FOLDER_VARIABLE):
        data.load("mnist")
    with pytest.raises(data.MissingData, match="does not exist"):
        data.load("mnist", tmp_path / "absent")
    write_mnist(tmp_path, ".gz")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(data.MissingData, match=r"t10k-labels-idx1-ubyte\[\.gz\] is missing[\s\S]*fgnt/mnist"):
        data.load("mnist", tmp_path)
    with pytest.raises(data.MissingData, match=r"data_batch_1\.bin is missing[\s\S]*cs\.toronto\.edu"):
        data.load("cifar10", tmp_path)
    with pytest.raises(BadOption, match="no data set"):
        data.load("cifar100")


@pytest.mark.parametrize("damage", ["truncated gzip", "truncated idx", "wrong magic", "fewer labels"])
def test_damaged_idx_files_are_named(tmp_path, damage):
    parts = write_mnist(tmp_path, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    raw = path.read_bytes()
    if damage == "truncated gzip":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "truncated idx":
        path.write_bytes(gzip.compress(gzip.decompress(raw)[:-1]))
    elif damage == "wrong magic":
        path.write_bytes(gzip.compress(b"\0\0\x0d\3" + gzip.decompress(raw)[4:]))
    else:
        write_idx(tmp_path / "train-labels-idx1-ubyte.gz", parts["train-labels-idx1-ubyte"][:-1])
    with pytest.raises(data.MissingData, match="train"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize("layout", ["cifar-10-batches-bin", "parts"])
def test_cifar10_is_read_from_binary_batches(tmp_path, layout):
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (12, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    if layout == "parts":
        (tmp_path / "cifar10").mkdir()
        (tmp_path / "cifar10" / "train_first10.bin.gz").write_bytes(gzip.compress(records[:10].tobytes()))
        (tmp_path / "cifar10" / "test_first2.bin.gz").write_bytes(gzip.compress(records[10:].tobytes()))
    else:
        (tmp_path / layout).mkdir()
        for i in range(5):
            (tmp_path / layout / f"data_batch_{i + 1}.bin").write_bytes(records[2 * i : 2 * i + 2].tobytes())
        (tmp_path / layout / "test_batch.bin").write_bytes(records[10:].tobytes())
    found = data.load("cifar10", tmp_path)
    assert np.array_equal(found.x_train.reshape(10, -1) * np.float32(255), records[:10, 1:])
    assert np.array_equal(found.y_test, records[10:, 0])
    assert found.x_test[0, 2, 3, 4] == np.float32(records[10, 1 + 2048 + 3 * 32 + 4] / np.float32(255))


def test_damaged_batches_are_named(tmp_path):
    (tmp_path / "train_x.bin.gz").write_bytes(gzip.compress(b"\x0b" * 3073))
    with pytest.raises(data.MissingData, match=r"train_x\.bin\.gz is not a binary batch"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_the_real_files_hold_all_classes(name):
    if not (SHARED / "datasets").is_dir():
        pytest.skip(f"{SHARED / 'datasets'} is not there")
    found = data.load(name, SHARED / "datasets")
    assert found.classes == 10
    assert found.x_test.max() == 1
    assert 0.1 < found.x_train.mean() < 0.6
    assert len(np.unique(found.y_test[:1000])) == 10


def test_own_data(tmp_path):
    path = tmp_path / "own.npz"
    x, y = np.random.default_rng(0).random((4, 3)), np.array([0, 2, 1, 1], np.int32)
    np.savez(path, x=x, y=y)
    found = data.load(str(path))
    assert np.array_equal(found.x_test, x.astype(np.float32))
    assert found.classes == 3
    assert found.x_train.shape == (0, 3)
    np.savez(path, x=np.full((1, 2), 51, np.uint8), y=[0])
    assert np.array_equal(data.load(str(path)).x_test, np.full((1, 2), np.float32(51) / np.float32(255)))


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((2, 3))},
        {"x": np.zeros((2, 3)), "y": np.zeros(3, int)},
        {"x": np.zeros((2, 3)), "y": np.zeros(2)},
        {"x": np.zeros((2, 3), complex), "y": np.zeros(2, int)},
        {"x": np.full((2, 3), np.nan), "y": np.zeros(2, int)},
        {"x": np.full((2, 3), 1e300), "y": np.zeros(2, int)},
        {"x": np.zeros((2, 3)), "y": np.array([0, -1])},
        {"x": np.zeros((0, 3)), "y": np.zeros(0, int)},
        {"x": np.array([[None], [1]]), "y": np.zeros(2, int)},
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_own_data_is_refused(tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(data.MissingData, match=r"own\.npz"):
        data.load(str(path))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(data.MissingData, match=r"own\.npz"):
        data.load(str(path))
    with pytest.raises(data.MissingData, match="does not exist"):
        data.load(str(tmp_path / "absent.npz"))


# zoo


@cache
def part_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x (N, *shape) and y (N,) of the named data, from this machine's folder of data or the shared one."""
    own = os.environ.get(data.FOLDER_VARIABLE)
    try:
        found = data.load(name, own or SHARED / "datasets")
    except data.MissingData as error:
        pytest.skip(f"{name} is not here: {error}")
    return torch.from_numpy(found.x_test), torch.from_numpy(found.y_test)


@pytest.mark.parametrize("name", zoo.names())
def test_saved_models_have_their_cards(name):
    weights = (zoo.SAVED / f"{name}.safetensors").read_bytes()
    entries = json.loads((zoo.SAVED / f"{name}.json").read_text())
    module, found = zoo.load(name), zoo.card(name)
    assert entries["name"] == name
    assert entries["sha256"] == hashlib.sha256(weights).hexdigest()
    assert len(weights) <= zoo.LARGEST
    assert not module.training
    assert found.data in data.NAMES
    assert found.method
    assert found.command.startswith((f"python -m training.digits {name}", f"certify train --data {found.data} "))
    assert found.measured
    assert all(0 <= m.certified <= m.attacked <= m.clean <= 1 for m in found.measured)
    assert {m.norm for m in found.measured} <= {"inf", "2", "1"}


@pytest.mark.parametrize("name", zoo.names())
def test_saved_models_are_as_accurate_as_their_cards_say(name):
    module, found = zoo.load(name), zoo.card(name)
    x, y = part_of(found.data)
    most = max(m.samples for m in found.measured) if len(x) > 1000 else len(x)
    with torch.no_grad():
        right = (module(x[:most]).argmax(1) == y[:most]).double()
    for measured in found.measured:
        assert right[: measured.samples].mean().item() == pytest.approx(measured.clean, abs=1e-4)
    # of all test data, where they are few; else of those that were asked about, by chance a little more or less
    assert right.mean().item() == pytest.approx(found.clean_accuracy, abs=1e-3 if most == len(x) else 0.05)


def test_the_package_holds_all_of_them():
    settings = (Path(zoo.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'models = ["saved/*"]' in settings.splitlines()
    assert {p.stem for p in zoo.SAVED.iterdir()} == set(zoo.names())
    assert {p.suffix for p in zoo.SAVED.iterdir()} == {".safetensors", ".json"}


def test_a_trained_model_is_put_among_the_saved_ones(tmp_path, monkeypatch, run):
    shelf = tmp_path / "saved"
    shelf.mkdir()
    path = saved(tmp_path)
    monkeypatch.setattr(zoo, "SAVED", shelf)
    place = zoo.add(path, "halves-mlp.1", shelf)
    assert zoo.names() == ["halves-mlp.1"]
    assert zoo.card("halves-mlp.1") == CARD
    assert json.loads(place.with_suffix(".json").read_text())["name"] == "halves-mlp.1"
    zoo.measure(place, zoo.Measured(0.1, "inf", 10, 0.9, 0.8, 0.7, "counted"))
    assert zoo.add(path, "halves-mlp.1", shelf) == place  # the same again changes nothing
    assert len(zoo.card("halves-mlp.1").measured) == 1
    listed = run("inspect")
    assert listed.status == 0, listed.err
    assert re.search(r"halves-mlp.1 .* 80.0% +70.0%", listed.out)
    (line,) = run("inspect", "--json").out.splitlines()
    assert json.loads(line)["measured"][0]["certified"] == 0.7
    for name in ("../halves", "Halves", "", "a--b"):
        with pytest.raises(BadOption, match="no name"):
            zoo.add(path, name, shelf)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(BadOption, match="another model"):
        zoo.add(saved(other), "halves-mlp.1", shelf)
    monkeypatch.setattr(zoo, "LARGEST", 10)
    with pytest.raises(BadOption, match="too many"):
        zoo.add(path, "large", shelf)
    path.with_suffix(".json").unlink()
    with pytest.raises(BadOption, match="no card"):
        zoo.add(path, "bare", shelf)


def test_the_demonstration_has_its_models():
    assert set(zoo.names()) >= {r.name for r in digits.recipes()}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_model_comes_back_as_it_was_saved(name, tmp_path):
    description = DESCRIPTIONS[name]
    torch.manual_seed(1)
    module = description.build().double().eval()
    path = tmp_path / "m.safetensors"
    zoo.save(description, module, path, CARD)
    found = zoo.read(path)
    x = torch.rand(2, *description.shape, dtype=torch.float64)
    assert torch.equal(found.module(x), module(x))
    assert found.description == description
    assert found.card == CARD
    assert not any(p.requires_grad for p in found.module.parameters())
    path.with_suffix(".json").unlink()  # a file without its card is read all the same
    assert zoo.read(path).card is None
    assert torch.equal(zoo.load_file(path)(x), module(x))


def test_normalisation_is_part_of_the_network():
    x = torch.rand(2, 3, 4, 5)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 4.0])
    expected = (x - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(Normalise(mean.tolist(), std.tolist())(x), expected)


def saved(folder: Path) -> Path:
    path = folder / "m.safetensors"
    zoo.save(DESCRIPTIONS["mlp"], DESCRIPTIONS["mlp"].build(), path, CARD)
    return path


def test_changed_weights_are_noticed(tmp_path):
    path = saved(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(MalformedNetwork, match="sha256"):
        zoo.read(path)


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1])
def test_truncated_weights_are_refused(tmp_path, size):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MalformedNetwork, match=r"m\.safetensors is not a safetensors file"):
        zoo.read(path)


def rewritten(path: Path, description: dict, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    tensors = safetensors.torch.load_file(path) if tensors is None else tensors
    path.with_suffix(".json").unlink(missing_ok=True)
    safetensors.torch.save_file(tensors, path, {"certify": json.dumps(description)})
    return path


@pytest.mark.parametrize(
    "description",
    [
        {"architecture": "transformer", "arguments": {"shape": [1, 4, 4], "classes": 3}},
        {"architecture": "mlp", "arguments": {"shape": [1, 4, 4], "classes": 3, "hidden": [10**12]}},
        {"architecture": "mlp", "arguments": {"shape": [1, 4, 4], "classes": 3, "depth": 1}},
        {"architecture": "mlp", "arguments": {"shape": [1, -4, 4], "classes": 3}},
        {"architecture": "mlp", "arguments": {"classes": 3}},
        {"architecture": "mlp"},
        [],
    ],
)
def test_descriptions_that_do_not_fit_are_refused(tmp_path, description):
    with pytest.raises(MalformedNetwork):
        zoo.read(rewritten(saved(tmp_path), description))


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(MalformedNetwork, match="does not say how to build"):
        zoo.read(path)


def test_a_damaged_card_is_refused(tmp_path):
    path = saved(tmp_path)
    for text in ("{", "[]", json.dumps({"data": "digits"})):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(MalformedNetwork, match=r"m\.json is not the card"):
            zoo.read(path)


class Armed:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.pkl", "m.safetensors", "m"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("write", [torch.save, pickle.dump])
def test_pickles_are_refused_unread(tmp_path, name, protocol, write):
    path, mark = tmp_path / name, tmp_path / "mark"
    with path.open("wb") as file:
        write(Armed(mark), file, **{"pickle_protocol" if write is torch.save else "protocol": protocol})
    with pytest.raises(MalformedNetwork, match=r"torch\.export\.save[\s\S]*torch\.onnx\.export"):
        zoo.read(path)
    assert not mark.exists()


def test_weights_whose_length_begins_as_a_pickle_does_are_read(tmp_path):
    path = saved(tmp_path)
    tensors, size = safetensors.torch.load_file(path), path.read_bytes()[0]
    description = json.dumps({"architecture": "mlp", "arguments": DESCRIPTIONS["mlp"].arguments})
    while size != 0x80:  # the header is padded to eight bytes, so its length takes this value soon
        description += "        "
        path.with_suffix(".json").unlink(missing_ok=True)
        safetensors.torch.save_file(tensors, path, {"certify": description})
        size = path.read_bytes()[0]
    assert path.read_bytes()[1] <= pickle.HIGHEST_PROTOCOL
    assert zoo.read(path).description == DESCRIPTIONS["mlp"]


def test_absent_models_are_refused(tmp_path):
    with pytest.raises(BadOption, match="digits-mlp"):
        zoo.load("absent")
    with pytest.raises(MalformedNetwork, match="cannot be read"):
        zoo.read(tmp_path / "absent.safetensors")
    with pytest.raises(BadOption, match="safetensors"):
        zoo.save(DESCRIPTIONS["mlp"], DESCRIPTIONS["mlp"].build(), tmp_path / "m.pt", CARD)


# training


def test_interval_training_bounds_hold_on_samples():
    torch.manual_seed(0)
    network = DESCRIPTIONS["cnn"].build()
    x, y = torch.rand(3, 2, 8, 8), torch.tensor([0, 1, 2])
    worst = digits._worst_logits(network, x, y, 0.05)
    for _ in range(200):
        point = (x + 0.05 * torch.empty_like(x).uniform_(-1, 1).sign()).clamp(0, 1)
        logits = network(point)
        assert (logits - logits.gather(1, y[:, None]) <= worst + 1e-5).all()


def test_training_is_repeatable_and_learns():
    recipe = replace(next(r for r in digits.recipes() if r.name == "digits-mlp"), epochs=3)
    found = data.load("digits")
    one, two = digits.train(recipe, found), digits.train(recipe, found)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert digits.accuracy(one, found) > 0.6


def test_refusals_are_ours():
    assert issubclass(data.MissingData, CertifyError)
