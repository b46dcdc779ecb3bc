"""One way in for every kind of network: a module, a file, or the name of a saved model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from certify.errors import BadOption, MalformedNetwork
from certify.frontends.imported import Imported
from certify.graph.evaluate import Network
from certify.graph.ir import Graph

KINDS = ".onnx, .onnx.gz, .pt2 (torch.export.save), .safetensors (models.zoo) or .npz (a graph saved by certify)"

TRAINED = "model.safetensors"  # in the folder that `certify train` leaves


def import_libraries(network: str | Path) -> None:
    """Import what reading such a file will need. It takes a second, which is no part of the reading."""
    onnx = str(network).endswith((".onnx", ".onnx.gz"))
    for module in ("certify.frontends.onnx", "onnxruntime") if onnx else ("certify.frontends.torch_export",):
        import_module(module)
    import_module("numpy.ma")  # which np.unique imports when it is first called


class GraphSource:
    """A saved graph as its own original: its evaluation in float64."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.network, self.name = Network(graph, torch.float64), f"{name} (certify's own float64 evaluation)"

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """y (n,) float64 for x (d,) float64."""
        with torch.no_grad():
            return self.network(torch.from_numpy(np.array(x, np.float64).reshape(1, -1)))[0].numpy()


def load_network(network: str | Path | nn.Module, example: Tensor | tuple[Tensor, ...] | None = None) -> Imported:
    """The graph of a network and its original to ask again.

    `network` is a torch module (`example` then gives one input, or a tuple of several, with a batch axis of
    size one), a file of one of KINDS, told by its suffix, a folder of `certify train`, or the name of a saved model.

    Raises MalformedNetwork (pickles and unknown files among others), UnsupportedOp, ImportMismatch, BadOption.
    """
    if isinstance(network, nn.Module):
        from certify.frontends.torch_export import from_module

        if example is None:
            raise BadOption("a torch module comes without its input's shape", "give an example, such as x[:1]")
        return from_module(network, example)
    path = Path(network)
    if (path / TRAINED).is_file():
        path = path / TRAINED
    if path.name.endswith((".onnx", ".onnx.gz")):
        from certify.frontends.onnx import from_onnx

        return from_onnx(path)
    if path.suffix == ".pt2":
        from certify.frontends.torch_export import from_pt2

        return from_pt2(path)
    if path.suffix == ".npz":
        from certify.graph.store import load

        graph = load(path)
        return Imported(graph, GraphSource(graph, path.name))
    return _from_zoo(path)


def _from_zoo(path: Path) -> Imported:
    """A safetensors file or the name of a saved model; refuses everything else."""
    from certify.frontends.torch_export import from_module
    from models import zoo

    if str(path) in zoo.names():
        path = zoo.SAVED / f"{path}.safetensors"
    zoo.refuse_pickle(path)
    if path.suffix != ".safetensors":
        what = f"{path} is not a kind of network file that is known" if path.exists() else f"there is no network {path}"
        saved = f", or one of the saved models {', '.join(zoo.names())}"
        raise MalformedNetwork(what, f"give a file {KINDS}{saved}")
    saved = zoo.read(path)
    dtype = next((p.dtype for p in saved.module.parameters()), torch.float32)
    return from_module(saved.module, torch.zeros(1, *saved.description.shape, dtype=dtype), name=path.stem)
