"""The reference evaluator of ONNX: each operator as the specification's own NumPy code computes it."""

from dataclasses import replace

import onnx
from onnx.reference import ReferenceEvaluator

from refattn.testing.adapters.base import STEPWISE
from refattn.testing.adapters.onnx_operators import OnnxAdapter
from refattn.testing.profiles import PROFILES
from refattn.testing.rounding import Format

# q and k are each multiplied by √scale, which rounds them twice: the square root, and the product.
_TWICE = Format("float16, rounded twice", 10, -14, 65504.0)
_SCALED_OPERANDS = replace(PROFILES["float16/eager"], name="float16/eager, q and k scaled", operands=_TWICE)


class OnnxReference(OnnxAdapter):
    """onnx.reference.ReferenceEvaluator."""

    asked = False  # its list of known deviations was measured without cases inside limits
    name = "onnx"
    version = onnx.__version__

    def __init__(self):
        super().__init__(_evaluator)

    def profile(self, function, dtype):
        """float16 is computed in float16, but for the norms, which are defined to be computed in float32."""
        if dtype != "float16" or function.endswith("norm"):
            return super().profile(function, dtype)
        return _SCALED_OPERANDS if function.endswith("attention") else STEPWISE


def _evaluator(model):
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(model))
    return lambda feeds: evaluator.run(None, feeds)


def adapter(name=None) -> OnnxReference:
    """The adapter."""
    return OnnxReference()
