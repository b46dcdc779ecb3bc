"""The original of an ONNX import: the file's own bytes, run by onnxruntime."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from certify.errors import MalformedNetwork
from certify.graph.ir import Graph

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray


class OnnxSource:
    """A `certify.spec.query.Source` that asks onnxruntime, on one thread; the session is made at the first call.

    x (d,) float64 is cut into the graph's input ports and cast to their types; all outputs are flattened
    and joined. Raises MalformedNetwork if onnxruntime cannot run the file.
    """

    def __init__(self, data: bytes, path: str, folder: str, graph: Graph) -> None:
        self.name = f"onnxruntime on {path}"
        self.path, self.folder = path, folder
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._data: bytes | None = data

    @cached_property
    def session(self) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if self.folder:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", self.folder)
        try:
            session = onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise self._refusal(error) from error
        self._data = None  # the session holds its own copy
        return session

    def __call__(self, x: Array) -> Array:
        x = np.asarray(x, np.float64).reshape(-1)
        parts = np.split(x, np.cumsum([p.size for p in self.inputs])[:-1])
        feed = {p.name: part.reshape(p.shape).astype(p.dtype) for p, part in zip(self.inputs, parts, strict=True)}
        session = self.session
        try:
            found = session.run([p.name for p in self.outputs], feed)
        except Exception as error:  # as above
            raise self._refusal(error) from error
        return np.concatenate([np.asarray(y, np.float64).reshape(-1) for y in found])

    def _refusal(self, error: Exception) -> MalformedNetwork:
        reason = str(error).strip().split("\n")[0]
        return MalformedNetwork(
            f"{self.path}: onnxruntime cannot run it: {reason}", "export it for an older operator set"
        )
