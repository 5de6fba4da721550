"""The reference evaluator of ONNX: each operator as the specification's own NumPy code computes it."""

import onnx
from onnx.reference import ReferenceEvaluator

from refattn.testing.adapters import STEPWISE
from refattn.testing.adapters.onnx_operators import OnnxAdapter


class OnnxReference(OnnxAdapter):
    """onnx.reference.ReferenceEvaluator."""

    name = "onnx"
    version = onnx.__version__

    def __init__(self):
        super().__init__(_evaluator)

    def profile(self, function, dtype):
        """float16 is computed in float16, but for the norms, which are defined to be computed in float32."""
        if dtype != "float16" or function.endswith("norm"):
            return super().profile(function, dtype)
        return "float16/eager" if function.endswith("attention") else STEPWISE


def _evaluator(model):
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))
    return lambda feeds: evaluator.run(None, feeds)


def adapter() -> OnnxReference:
    """The adapter."""
    return OnnxReference()
