"""Keras 3: keras.ops.dot_product_attention, keras.layers.MultiHeadAttention, norms and activations."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial

import numpy as np

from refattn.heads import PackedMultiHeadParams
from refattn.masks import Mask
from refattn.testing.adapters.base import STEPWISE, STEPWISE_BFLOAT16, Unsupported
from refattn.testing.adapters.frameworks import FrameworkAdapter, unavailable
from refattn.testing.adapters.translation import attention_call

if "keras" not in sys.modules:
    # Who has chosen a backend keeps it. Else it is NumPy, which is always there and where Keras' own code does all;
    # the file that Keras writes by itself names one that may not be installed.
    os.environ.setdefault("KERAS_BACKEND", "numpy")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

_OP, _LAYER = "keras.ops.dot_product_attention", "keras.layers.MultiHeadAttention"


class Keras(FrameworkAdapter):
    """keras.ops and keras.layers on the backend that Keras runs on; the name says which where it is not NumPy."""

    asked = False  # its list of known deviations was measured without cases inside limits

    version = keras.__version__

    def __init__(self):
        super().__init__()
        backend = keras.backend.backend()
        self.name = "keras" if backend == "numpy" else f"keras.{backend}"
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "multi_head_attention": self.multi_head_attention,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "softmax": partial(self._reduced, keras.ops.softmax),
            "logsumexp": partial(self._reduced, keras.ops.logsumexp),
            "gelu": self.gelu,
            "relu": partial(self._elementwise, keras.ops.relu),
            "silu": partial(self._elementwise, keras.ops.silu),
            "sigmoid": partial(self._elementwise, keras.ops.sigmoid),
            "softplus": partial(self._elementwise, keras.ops.softplus),
            "tanh": partial(self._elementwise, keras.ops.tanh),
        }

    def dtypes(self, function):
        """What Keras has; its layers make weights of a policy, float32."""
        return ("float32",) if function == "multi_head_attention" else ("float32", "bfloat16", "float16")

    def profile(self, function, dtype):
        """Softmax of attention is float32, its weights are rounded after it; everything else is steps in the dtype.

        So are, in float16, the sums of NumPy's einsum.
        """
        if "attention" in function and not (dtype == "float16" and self.name == "keras"):
            return f"{dtype}/eager"
        return {"float16": STEPWISE, "bfloat16": STEPWISE_BFLOAT16}.get(dtype, dtype)

    def environment(self):
        """The backend."""
        return {"backend": keras.backend.backend(), "floatx": keras.config.floatx()}

    def tensor(self, x):
        """A tensor of the backend; float32 becomes bfloat16 in a call in bfloat16."""
        if x is None:
            return None
        narrow = self.narrow and x.dtype == np.float32
        return keras.ops.convert_to_tensor(x, dtype="bfloat16" if narrow else x.dtype.name)

    def numpy(self, x):
        """A NumPy array; bfloat16 becomes float32, which holds it."""
        x = keras.ops.convert_to_numpy(x)
        return x.astype(np.float32) if x.dtype.name == "bfloat16" else x

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """dot_product_attention; causality is its own flag, any other mask and a bias are arrays."""
        unavailable(_OP, softcap_but_on_a_TPU=softcap or None, sinks=sinks, dropout=dropout, log_sum_exp=return_lse)
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal",),
        )  # fmt: skip
        out = keras.ops.dot_product_attention(
            *(self.tensor(np.ascontiguousarray(np.swapaxes(part, 1, 2))) for part in (x.q, x.k, x.v)),
            bias=self.tensor(x.bias),
            mask=self.tensor(x.mask),
            scale=None if scale is None else float(scale),
            is_causal=x.causal,
            flash_attention=False,
        )
        return x.restore(np.swapaxes(self.numpy(out), 1, 2))

    def multi_head_attention(
        self, x_q, x_kv, params, *, heads, kv_heads=None, mask=None, rope=None, bias=None, scale=None, softcap=None,
        sinks=None, dropout=None, q_positions=None, k_positions=None, qk_norm_eps=1e-6,
    ):  # fmt: skip
        """The layer, its masks as Keras has them, (B, N, M) or with a causality of its own."""
        unavailable(
            _LAYER, rope=rope, bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout,
            norm_of_queries=params.q_norm, norm_of_keys=params.k_norm, positions=q_positions,
        )  # fmt: skip
        if kv_heads not in (None, heads):
            raise Unsupported(f"{_LAYER} has as many key/value heads as query heads")
        x_kv = x_q if x_kv is None else x_kv
        lead = x_q.shape[:-2]
        if isinstance(params, PackedMultiHeadParams):
            params = params.unpack(heads)
        causal = isinstance(mask, Mask) and mask.name == "causal"
        if isinstance(mask, Mask) and not causal:
            mask = mask.dense(x_q.shape[-2], x_kv.shape[-2])
        if mask is not None and not causal:
            if mask.ndim > 2 and mask.shape[-3] != 1:
                raise Unsupported("masks of the layer are one for all heads")
            mask = np.broadcast_to(mask, (*lead, 1, *mask.shape[-2:]))[..., 0, :, :].reshape(-1, *mask.shape[-2:])
        queries, keys = (x.reshape(-1, *x.shape[-2:]) for x in (x_q, x_kv))
        size, value_size = params.w_q.shape[-1] // heads, params.w_v.shape[-1] // heads
        layer = keras.layers.MultiHeadAttention(
            heads, size, value_size, use_bias=params.b_q is not None, output_shape=params.w_o.shape[-1],
            flash_attention=False,
        )  # fmt: skip
        layer.build(queries.shape, keys.shape, keys.shape)
        weights = []
        for name in ("q", "k", "v"):
            matrix, offset = getattr(params, f"w_{name}"), getattr(params, f"b_{name}")
            weights.append(matrix.reshape(matrix.shape[0], heads, -1))
            weights += [] if offset is None else [offset.reshape(heads, -1)]
        weights.append(params.w_o.reshape(heads, value_size, -1))
        weights += [] if params.b_o is None else [params.b_o]
        layer.set_weights(weights)
        out = layer(
            self.tensor(queries),
            self.tensor(keys),
            attention_mask=None if causal else self.tensor(mask),
            use_causal_mask=causal,
        )
        return self.numpy(out).reshape(*lead, *out.shape[1:])

    def layer_norm(self, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        """layer_normalization, as the layer of that name calls it."""
        weights = [self.tensor(w) for w in (gamma, beta)]
        return self.numpy(keras.ops.layer_normalization(self.tensor(x), *weights, axis=axis, epsilon=float(eps)))

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """rms_normalization, as the layer of that name calls it."""
        unavailable("rms_normalization", unit_offset=unit_offset)
        return self.numpy(
            keras.ops.rms_normalization(self.tensor(x), self.tensor(gamma), axis=axis, epsilon=float(eps))
        )

    def gelu(self, x, approximate=None):
        """gelu."""
        if approximate not in (None, "tanh"):
            raise Unsupported(f"keras.ops.gelu has no approximation {approximate!r}")
        return self.numpy(keras.ops.gelu(self.tensor(x), approximate=approximate == "tanh"))

    def _elementwise(self, function, x):
        return self.numpy(function(self.tensor(x)))

    def _reduced(self, function, x, axis=-1, where=None):
        unavailable(function.__name__, mask=where)
        return self.numpy(function(self.tensor(x), axis=axis))


def adapter(name=None) -> Keras:
    """The adapter."""
    return Keras()
