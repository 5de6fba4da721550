"""torch.nn.MultiheadAttention with projections that do nothing, so that it is attention of its heads."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from refattn.testing.adapters.base import Unsupported
from refattn.testing.adapters.frameworks import unavailable
from refattn.testing.adapters.pytorch import TorchBase
from refattn.testing.adapters.translation import attention_call

_MHA = "torch.nn.MultiheadAttention"


class TorchMultiHead(TorchBase):
    """multi_head_attention_forward, which the layer calls, asked for its weights as the layer is unless it is told."""

    asked = False  # its list of known deviations was measured without cases inside limits
    name = "torch.mha"

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "attention_stages": self._stages,
            "attention_weights": self.attention_weights,
        }

    def dtypes(self, function):
        """All that it has on a CPU."""
        return ("float32", "float64", "float16", "bfloat16")

    def profile(self, function, dtype):
        """Scores and weights are stored, and the scaled queries too."""
        return f"{dtype}/eager"

    def attention(self, q, k, v, mask=None, **options):
        """The output; the projections are unit matrices, which change no number."""
        return self._stages(q, k, v, mask, **options)["out"]

    def attention_weights(self, q, k, mask=None, **options):
        """The weights of the heads."""
        return self._stages(q, k, k, mask, **options)["weights"]

    def _stages(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False,
    ):  # fmt: skip
        if dropout is not None:
            raise Unsupported(f"{_MHA} draws its dropout itself")
        unavailable(_MHA, scale=scale, softcap=softcap or None, sinks=sinks, log_sum_exp=return_lse)
        if q.shape[-1] != v.shape[-1]:
            raise Unsupported(f"{_MHA} has heads of one size")
        x = attention_call(q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions)
        batch, heads, n, size = x.q.shape
        width = heads * size

        def joined(part):  # (B, H, N, D) as (N, B, H D)
            return self.tensor(np.transpose(part, (2, 0, 1, 3)).reshape(part.shape[2], batch, part.shape[1] * size))

        term = x.term()
        if term is not None:  # True means left out
            term = ~term if term.dtype == bool else term
            term = self.tensor(np.broadcast_to(term, (batch, heads, n, k.shape[-2])).reshape(batch * heads, n, -1))
        q3, k3, v3 = map(joined, (x.q, x.k, x.v))
        eye = torch.eye(width, dtype=q3.dtype)
        with torch.inference_mode():
            out, weights = F.multi_head_attention_forward(
                q3, k3, v3, width, heads, torch.cat([eye, eye, eye]), None, None, None, False, 0.0, eye, None,
                training=False, attn_mask=term, need_weights=True, average_attn_weights=False,
            )  # fmt: skip
        out = out.reshape(n, batch, heads, size).permute(1, 2, 0, 3)
        weights = x.restore(self.numpy(weights))
        return {"weights": weights, "dropout": weights, "out": x.restore(self.numpy(out))}


def adapter(name=None) -> TorchMultiHead:
    """The adapter."""
    return TorchMultiHead()
