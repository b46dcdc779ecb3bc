"""Data sets of images as arrays, read from their standard files; nothing is downloaded.

`digits` comes with scikit-learn; `mnist`, `fashion-mnist` and `cifar10` are read from a folder;
a path that ends in .npz is read as the user's own data. Where a file is missing, the message says where it can be had.

Terms: the digits are those of the UCI repository (CC BY 4.0); MNIST is LeCun's and Cortes's (CC BY-SA 3.0),
Fashion-MNIST Zalando's (MIT); CIFAR-10 comes without a licence, its authors ask to cite Krizhevsky 2009.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from certify.errors import BadOption, CertifyError

Array = np.ndarray
FOLDER_VARIABLE = "CERTIFY_DATA"
NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")
_HOME = {
    "mnist": "the four files of MNIST, mirrored for example in github.com/fgnt/mnist",
    "fashion-mnist": "the four files of github.com/zalandoresearch/fashion-mnist",
    "cifar10": "the binary version (md5 c32a1d4ab5d03f1284b67883e8d87530) from www.cs.toronto.edu/~kriz/cifar.html",
}
_SHA256 = {  # of the files as they are once unpacked
    ("mnist", "train-images-idx3-ubyte"): "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ("mnist", "train-labels-idx1-ubyte"): "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ("mnist", "t10k-images-idx3-ubyte"): "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ("mnist", "t10k-labels-idx1-ubyte"): "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ("fashion-mnist", "train-images-idx3-ubyte"): "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ("fashion-mnist", "train-labels-idx1-ubyte"): "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ("fashion-mnist", "t10k-images-idx3-ubyte"): "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ("fashion-mnist", "t10k-labels-idx1-ubyte"): "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class MissingData(CertifyError):
    """A data set, or a file of it, that cannot be found or read."""


@dataclass(frozen=True, eq=False)
class Data:
    """x (N, *shape) float32, in [0, 1] for images; y (N,) int64, the classes. Either part may be empty."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x_test.shape[1:]

    @property
    def classes(self) -> int:
        return 1 + int(max(self.y_train.max(initial=0), self.y_test.max(initial=0)))


def load(name: str, folder: str | Path | None = None) -> Data:
    """The data set `name` (one of NAMES, or a path FILE.npz).

    `folder`, or else the environment variable CERTIFY_DATA, holds the files or a subfolder `name` with them.
    Raises MissingData naming the file that is not there and where it can be had, or that cannot be read.
    """
    if name == "digits":
        return _digits()
    if name.endswith(".npz"):
        return _own(Path(name))
    if name not in NAMES:
        raise BadOption(f"no data set is called {name!r}", f"use one of {', '.join(NAMES)}, or a file FILE.npz")
    place = _folder(name, folder)
    if name == "cifar10":
        train = _batches(place, [f"data_batch_{i}.bin" for i in range(1, 6)], "train*.bin.gz")
        return Data(*train, *_batches(place, ["test_batch.bin"], "test*.bin.gz"))
    return Data(*_images(place, name, "train"), *_images(place, name, "t10k"))


def _digits() -> Data:
    """1797 handwritten digits, 1 x 8 x 8, grey levels 0..16; every seventh is a test image."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingData(
            "the digits come with scikit-learn, which is not installed", "pip install scikit-learn"
        ) from (error)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    y = y.astype(np.int64)
    test = np.arange(len(y)) % 7 == 6
    return Data(x[~test], y[~test], x[test], y[test])


def _own(path: Path) -> Data:
    """Arrays x (N, *shape) and y (N,) of an .npz file, as test data. Bytes are divided by 255."""
    remedy = "save it with numpy.savez(path, x=x, y=y): x (N, *shape) as floats or bytes, y (N,) as integers"
    if not path.is_file():
        raise MissingData(f"{path} does not exist", remedy)
    try:
        with np.load(path, allow_pickle=False) as archive:
            x, y = archive["x"], archive["y"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise MissingData(f"{path} does not hold arrays x and y: {error}", remedy) from error
    if x.dtype == np.uint8:
        x = x / np.float32(255)
    if x.dtype.kind != "f" or y.dtype.kind not in "iu" or y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or not len(y):
        raise MissingData(f"{path}: x is {x.dtype} {x.shape}, y is {y.dtype} {y.shape}", remedy)
    x = x.astype(np.float32)
    if not np.isfinite(x).all() or (y < 0).any():
        raise MissingData(f"{path}: x holds values that are not finite float32 numbers, or y negative classes", remedy)
    return Data(x[:0], y[:0].astype(np.int64), x, y.astype(np.int64))


def _folder(name: str, folder: str | Path | None) -> Path:
    given = folder or os.environ.get(FOLDER_VARIABLE)
    remedy = f"get {_HOME[name]}, put it into a folder {name}/ and name the folder above it in {FOLDER_VARIABLE}"
    if not given:
        raise MissingData(f"{name} is not part of the package, and no data folder is given", remedy)
    root = Path(given)
    if not root.is_dir():
        raise MissingData(f"{name}: the data folder {root} does not exist", remedy)
    nested = (root / name, root / name / "cifar-10-batches-bin", root / "cifar-10-batches-bin")
    return next((p for p in nested if p.is_dir() and any(p.iterdir())), root)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise MissingData(f"{path} cannot be read: {error}", "get the file again") from error


def _images(folder: Path, name: str, part: str) -> tuple[Array, Array]:
    x = _idx(folder, name, f"{part}-images-idx3-ubyte", 3)
    y = _idx(folder, name, f"{part}-labels-idx1-ubyte", 1)
    if len(x) != len(y):
        raise MissingData(f"{folder}: {len(x)} {part} images, but {len(y)} labels", f"get {_HOME[name]}")
    return x[:, None] / np.float32(255), y.astype(np.int64)


def _idx(folder: Path, name: str, file: str, ndim: int) -> Array:
    """The bytes of an IDX file, plain or gzipped: two zeros, the type 8, ndim, then the sizes, big-endian."""
    path = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    if path is None:
        known = _SHA256.get((name, file))
        note = f"; unpacked, its sha256 is {known}" if known else ""
        raise MissingData(f"{name}: {folder / file}[.gz] is missing", f"get {_HOME[name]}{note}")
    data = _read(path)
    head = 4 + 4 * ndim
    if len(data) < head or data[:4] != bytes((0, 0, 8, ndim)):
        raise MissingData(f"{path} is not an IDX file of bytes with {ndim} axes", f"get {_HOME[name]}")
    shape = struct.unpack(f">{ndim}I", data[4:head])
    values = np.frombuffer(data, np.uint8, offset=head)
    if values.size != np.prod(shape, dtype=object):
        raise MissingData(f"{path}: {values.size} bytes for the shape {shape}: truncated?", f"get {_HOME[name]}")
    return values.reshape(shape)


def _batches(folder: Path, files: Sequence[str], pattern: str) -> tuple[Array, Array]:
    """Records of one label byte and 3 x 32 x 32 bytes, from `files` or else from what matches `pattern`."""
    missing = [f for f in files if not (folder / f).is_file()]
    paths = [folder / f for f in files] if not missing else sorted(folder.glob(pattern))
    if not paths:
        raise MissingData(f"cifar10: {folder / missing[0]} is missing", f"get {_HOME['cifar10']}")
    records = []
    for path in paths:
        data = np.frombuffer(_read(path), np.uint8)
        if not data.size or data.size % 3073 or data[::3073].max() > 9:
            raise MissingData(f"{path} is not a binary batch of CIFAR-10", f"get {_HOME['cifar10']}")
        records.append(data.reshape(-1, 3073))
    joined = np.concatenate(records)
    return joined[:, 1:].reshape(-1, 3, 32, 32) / np.float32(255), joined[:, 0].astype(np.int64)
