"""ONNX Runtime on the CPU."""

import onnxruntime

from refattn.testing.adapters.base import STEPWISE
from refattn.testing.adapters.onnx_operators import OnnxAdapter

_SILENT = 4  # fatal errors only: what it refuses is raised as an exception as well


class OnnxRuntime(OnnxAdapter):
    """onnxruntime with the CPU execution provider."""

    name = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self):
        super().__init__(_evaluator)

    def dtypes(self, function):
        """What it has kernels for."""
        known = super().dtypes(function)
        return tuple(d for d in known if d != "float64") if function in ("gelu", "softplus") else known

    def profile(self, function, dtype):
        """In float16, attention stores its scores in it, and the activations with a sigmoid compute in it."""
        if dtype == "float16" and function.endswith("attention"):
            return "float16/eager"
        if dtype == "float16" and function in ("sigmoid", "silu", "quick_gelu"):
            return STEPWISE
        return super().profile(function, dtype)

    def environment(self):
        """The execution provider."""
        return {**super().environment(), "provider": "CPUExecutionProvider"}


def _evaluator(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def adapter(name=None) -> OnnxRuntime:
    """The adapter."""
    return OnnxRuntime()
