"""The original of an ONNX import: the file's own bytes, run by onnxruntime."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from certify.errors import MalformedNetwork
from certify.graph.ir import Graph

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator
    from onnxruntime import InferenceSession

Array = np.ndarray


class OnnxSource:
    """A `certify.spec.query.Source` that asks onnxruntime, on one thread; the session is made at the first call.

    x (d,) float64 is cut into the graph's input ports and cast to their types; all outputs are flattened
    and joined. A file of an operator set newer than onnxruntime's is run by onnx's reference implementation.
    Raises MalformedNetwork if the file cannot be run.
    """

    def __init__(self, data: bytes, path: str, folder: str, graph: Graph) -> None:
        self.path, self.folder = path, folder
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self._data: bytes | None = data
        self._runner = "onnxruntime"

    @property
    def name(self) -> str:
        return f"{self._runner} on {self.path}"

    @cached_property
    def session(self) -> InferenceSession | ReferenceEvaluator:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if self.folder:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", self.folder)
        try:
            session = onnxruntime.InferenceSession(self._data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            if "ValidateOpset" not in str(error):
                raise self._refusal(error) from error
            session = self._reference()
        self._data = None  # the session holds its own copy
        return session

    def _reference(self) -> ReferenceEvaluator:
        from onnx import external_data_helper, load_from_string
        from onnx.reference import ReferenceEvaluator

        model = load_from_string(self._data)
        external_data_helper.load_external_data_for_model(model, self.folder)
        self._runner = "onnx's reference implementation"
        return ReferenceEvaluator(model)

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
        remedy = "check the file, or export it for an older operator set"
        return MalformedNetwork(f"{self.path}: {self._runner} cannot run it: {reason}", remedy)
