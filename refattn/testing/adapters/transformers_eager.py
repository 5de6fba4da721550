"""Hugging Face transformers: the eager attention of Llama-like models, with its rotary positions, norm and activations.

Masks are made as the models make them: rules and boolean masks by masking_utils, which turns them into additive ones.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import transformers
from transformers import masking_utils
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb, eager_attention_forward

from refattn.testing.adapters.base import STEPWISE, STEPWISE_BFLOAT16, Unsupported
from refattn.testing.adapters.frameworks import unavailable
from refattn.testing.adapters.pytorch import TorchBase
from refattn.testing.adapters.translation import attention_call, trailing

_EAGER = "eager_attention_forward"
_STEPWISE = {"float16": STEPWISE, "bfloat16": STEPWISE_BFLOAT16}
_GELU = {None: "gelu", "tanh": "gelu_pytorch_tanh"}


class Transformers(TorchBase):
    """eager_attention_forward of modeling_llama, which most models of transformers copy, and what stands around it."""

    asked = False  # its list of known deviations was measured without cases inside limits
    name = "transformers"
    version = transformers.__version__

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "attention_stages": self.attention_stages,
            "attention_weights": self.attention_weights,
            "positions.rotate": self.rotate,
            "rms_norm": self.rms_norm,
            "gelu": self.gelu,
            "quick_gelu": partial(self.on_numpy, ACT2FN["quick_gelu"]),
            "relu": partial(self.on_numpy, ACT2FN["relu"]),
            "squared_relu": partial(self.on_numpy, ACT2FN["relu2"]),
            "silu": partial(self.on_numpy, ACT2FN["silu"]),
            "sigmoid": partial(self.on_numpy, ACT2FN["sigmoid"]),
            "tanh": partial(self.on_numpy, ACT2FN["tanh"]),
        }

    def dtypes(self, function):
        """Those that models are run in."""
        return ("float32", "bfloat16", "float16")

    def profile(self, function, dtype):
        """Scores and weights are stored in the dtype of the inputs; rotation and quick_gelu are steps in it."""
        if function in ("positions.rotate", "quick_gelu", "squared_relu", "rms_norm"):
            return _STEPWISE.get(dtype, dtype)
        return f"{dtype}/eager" if "attention" in function else dtype

    def environment(self):
        """Of torch, and its version."""
        return {"torch": torch.__version__, **super().environment()}

    def attention(self, q, k, v, mask=None, *, grouped=False, **options):
        """eager_attention_forward."""
        return self._stages(q, k, v, mask, grouped=grouped, **options)["out"]

    def attention_stages(self, q, k, v, mask=None, **options):
        """The weights that it returns, and its output."""
        return self._stages(q, k, v, mask, **options)

    def attention_weights(self, q, k, mask=None, **options):
        """The weights that it returns."""
        return self._stages(q, k, k, mask, **options)["weights"]

    def _stages(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        if dropout is not None:
            raise Unsupported(f"{_EAGER} draws its dropout itself")
        unavailable(_EAGER, softcap=softcap or None, sinks=sinks, log_sum_exp=return_lse)
        x = attention_call(q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped)
        q4, k4, v4, bias4 = map(self.tensor, (x.q, x.k, x.v, x.bias))
        term = bias4
        if x.mask is not None:
            term = self._additive(torch.tensor(x.mask), x.q.shape[0], x.q.shape[2], x.k.shape[2], q4.dtype)
            term = term if bias4 is None else term + bias4
        module = torch.nn.Module().eval()
        module.num_key_value_groups = x.q.shape[1] // max(x.k.shape[1], 1)
        scale = x.q.shape[-1] ** -0.5 if scale is None else float(scale)  # as LlamaAttention sets it
        with torch.inference_mode():
            out, weights = eager_attention_forward(module, q4, k4, v4, term, scale)
        weights = x.restore(self.numpy(weights))
        return {"weights": weights, "dropout": weights, "out": x.restore(self.numpy(out.transpose(1, 2)))}

    def _additive(self, allowed, batch, n, m, dtype):
        """A boolean mask as masking_utils makes it additive; those of single heads as models do it themselves."""
        if allowed.shape[1] > 1 or n == 0 or m == 0:
            return torch.where(allowed, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)
        table = allowed[:, 0].expand(batch, n, m)
        return masking_utils.eager_mask(
            batch, n, m, mask_function=lambda b, h, i, j: table[b, i, j], dtype=dtype, use_vmap=True
        )

    def rotate(self, x, cos, sin, *, layout="interleaved", rotary_dim=None):
        """apply_rotary_pos_emb, whose tables hold every angle twice; a part of the features is rotated by its caller."""
        if layout != "half":
            raise Unsupported("apply_rotary_pos_emb of Llama has the half layout only")
        if rotary_dim not in (None, x.shape[-1]):
            raise Unsupported("apply_rotary_pos_emb of Llama rotates every feature")
        heads = self.tensor(x)[None]
        cos, sin = (self.tensor(np.concatenate([table, table], axis=-1)) for table in (cos, sin))
        with torch.inference_mode():
            return self.numpy(apply_rotary_pos_emb(heads, heads, cos, sin, 0)[0][0])

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """LlamaRMSNorm."""
        unavailable("LlamaRMSNorm", unit_offset=unit_offset)
        if trailing(axis, x) != x.ndim - 1:
            raise Unsupported("LlamaRMSNorm normalises the last axis")
        layer = LlamaRMSNorm(x.shape[-1], eps=float(eps))
        tensor = self.tensor(x)
        weight = torch.ones(x.shape[-1]) if gamma is None else self.tensor(gamma)
        layer.weight = torch.nn.Parameter(weight.to(tensor.dtype))
        with torch.inference_mode():
            return self.numpy(layer(tensor))

    def gelu(self, x, approximate=None):
        """The activation 'gelu', or 'gelu_pytorch_tanh'."""
        if approximate not in _GELU:
            raise Unsupported(f"no activation of transformers is gelu approximated by {approximate!r}")
        return self.on_numpy(ACT2FN[_GELU[approximate]], x)


def adapter(name=None) -> Transformers:
    """The adapter."""
    return Transformers()
