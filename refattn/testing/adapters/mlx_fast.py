"""MLX on the CPU: mlx.core.fast and the activations of mlx.nn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from refattn.testing.adapters.base import STEPWISE, STEPWISE_BFLOAT16, Unsupported
from refattn.testing.adapters.frameworks import FrameworkAdapter, unavailable
from refattn.testing.adapters.translation import attention_call, trailing
from refattn.testing.profiles import PROFILES
from refattn.testing.rounding import FORMATS, Format

# The queries are multiplied by the scale in their own dtype, to which the scale was rounded before.
_SCALED = {
    name: replace(
        PROFILES[f"{name}/eager"], name=f"{name}/eager, q scaled", operands=Format(f"{name}, rounded twice", *f)
    )
    for name, f in {"float16": (10, -14, 65504.0), "bfloat16": (7, -126, FORMATS["bfloat16"].largest)}.items()
}
_SDPA = "mlx.core.fast.scaled_dot_product_attention"


class Mlx(FrameworkAdapter):
    """mlx.core.fast; on a CPU its functions run as the operations that they are made of."""

    name = "mlx"
    version = mx.__version__

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "rope": self.rope,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "softmax": partial(self._reduced, mx.softmax),
            "logsumexp": partial(self._reduced, mx.logsumexp),
            "gelu": self.gelu,
            "quick_gelu": partial(self._elementwise, nn.gelu_fast_approx),
            "relu": partial(self._elementwise, nn.relu),
            "squared_relu": partial(self._elementwise, nn.relu2),
            "silu": partial(self._elementwise, nn.silu),
            "sigmoid": partial(self._elementwise, mx.sigmoid),
            "softplus": partial(self._elementwise, nn.softplus),
            "tanh": partial(self._elementwise, mx.tanh),
        }

    def dtypes(self, function):
        """Those that models are run in."""
        return ("float32", "bfloat16", "float16")

    def profile(self, function, dtype):
        """The scaled queries are rounded, and scores and weights; everything else is steps in the dtype of the inputs."""
        if "attention" in function:
            return _SCALED.get(dtype, f"{dtype}/eager")
        return {"float16": STEPWISE, "bfloat16": STEPWISE_BFLOAT16}.get(dtype, dtype)

    def environment(self):
        """The device."""
        return {"device": "cpu"}

    def tensor(self, x):
        """An array; float32 becomes bfloat16 in a call in bfloat16."""
        if x is None:
            return None
        array = mx.array(np.ascontiguousarray(x))
        return array.astype(mx.bfloat16) if self.narrow and array.dtype == mx.float32 else array

    def numpy(self, x):
        """A NumPy array; bfloat16 becomes float32, which holds it."""
        return np.array(x.astype(mx.float32) if x.dtype == mx.bfloat16 else x)

    def _run(self, function, *args, **options):
        with mx.stream(mx.cpu):
            return self.numpy(function(*map(self.tensor, args), **options))

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """scaled_dot_product_attention; causal() alone is the mask "causal", anything else an array."""
        unavailable(_SDPA, softcap=softcap or None, dropout=dropout, log_sum_exp=return_lse)
        if sinks is not None and sinks.ndim > 1:
            raise Unsupported(f"sinks of {_SDPA} are one for each head")
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal",), together=False,
        )  # fmt: skip
        term = "causal" if x.causal else self.tensor(x.term())
        scale = q.shape[-1] ** -0.5 if scale is None else float(scale)  # it has no default, and must be given
        out = self._run(
            mx.fast.scaled_dot_product_attention, x.q, x.k, x.v, scale=scale, mask=term, sinks=self.tensor(sinks)
        )
        return x.restore(out)

    def rope(self, x, positions, *, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
        """rope, whose positions count on from an offset."""
        unavailable("mlx.core.fast.rope", scaling=scaling)
        positions = np.asarray(positions)
        offset = int(positions.flat[0]) if positions.size else 0
        if positions.ndim != 1 or not np.array_equal(positions, offset + np.arange(x.shape[-2])):
            raise Unsupported("positions of mlx.core.fast.rope follow one another")
        whole = x.reshape(1, -1, *x.shape[-2:])
        dims = x.shape[-1] if rotary_dim is None else rotary_dim
        out = self._run(
            mx.fast.rope, whole, dims=dims, traditional=layout == "interleaved", base=float(base), scale=1.0,
            offset=offset,
        )  # fmt: skip
        return out.reshape(x.shape)

    def layer_norm(self, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        """layer_norm, of the last axis."""
        if trailing(axis, x) != x.ndim - 1:
            raise Unsupported("mlx.core.fast.layer_norm normalises the last axis")
        return self._run(mx.fast.layer_norm, x, gamma, beta, eps=float(eps))

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """rms_norm, of the last axis."""
        unavailable("mlx.core.fast.rms_norm", unit_offset=unit_offset)
        if trailing(axis, x) != x.ndim - 1:
            raise Unsupported("mlx.core.fast.rms_norm normalises the last axis")
        return self._run(mx.fast.rms_norm, x, gamma, eps=float(eps))

    def gelu(self, x, approximate=None):
        """gelu, or gelu_approx."""
        if approximate not in (None, "tanh"):
            raise Unsupported(f"mlx.nn has no gelu approximated by {approximate!r}")
        return self._run(nn.gelu if approximate is None else nn.gelu_approx, x)

    def _elementwise(self, function, x):
        return self._run(function, x)

    def _reduced(self, function, x, axis=-1, where=None):
        unavailable(function.__name__, mask=where)
        return self._run(function, x, axis=axis)


def adapter(name=None) -> Mlx:
    """The adapter."""
    return Mlx()
