"""torch.nn.attention.flex_attention as it runs without torch.compile: masks by mask_mod, the rest by score_mod."""

from __future__ import annotations

import contextlib
import warnings
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.attention.flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from refattn.testing.adapters.base import Unsupported
from refattn.testing.adapters.pytorch import TorchBase
from refattn.testing.adapters.translation import attention_call


class TorchFlex(TorchBase):
    """flex_attention. Softcap and bias are a score_mod, as its documentation writes them; masks are a mask_mod."""

    asked = False  # its list of known deviations was measured without cases inside limits
    name = "torch.flex"

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
        }

    def dtypes(self, function):
        """All that it has on a CPU."""
        return ("float32", "float64", "float16", "bfloat16")

    def profile(self, function, dtype):
        """Not compiled, it stores its scores; those of the narrow formats and their softmax are float32."""
        return f"{dtype}/eager" if dtype in ("float32", "float64") else dtype

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """flex_attention with the rules as its user writes them: by positions, the queries last."""
        for name, value in (("sinks", sinks), ("dropout", dropout)):
            if value is not None:
                raise Unsupported(f"flex_attention has no {name}")
        x = attention_call(q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped)
        shape = (*x.q.shape[:3], x.k.shape[2])
        with warnings.catch_warnings(), torch.no_grad(), _without_tracing():
            warnings.simplefilter("ignore")  # it says that it was not compiled
            result = flex_attention(
                *map(self.tensor, (x.q, x.k, x.v)),
                score_mod=self._score_mod(x.bias, softcap, shape),
                block_mask=self._block_mask(x.mask, shape),
                scale=None if scale is None else float(scale),
                enable_gqa=grouped,
                return_lse=return_lse,
            )
        if return_lse:
            return tuple(x.restore(self.numpy(part)) for part in result)
        return x.restore(self.numpy(result))

    def _block_mask(self, mask, shape):
        if mask is None:
            return None
        table = np.broadcast_to(mask, shape)
        return _block_mask(table.tobytes(), shape)

    def _score_mod(self, bias, softcap, shape):
        if bias is None and not softcap:
            return None
        added = None if bias is None else self.tensor(np.broadcast_to(bias, shape).copy())

        def score_mod(score, b, h, i, j):
            score = softcap * torch.tanh(score / softcap) if softcap else score
            return score if added is None else score + added[b, h, i, j]

        return score_mod


@lru_cache(maxsize=4)  # making one takes longer than the attention, and each case is run twice
def _block_mask(table, shape):
    allowed = torch.tensor(np.frombuffer(table, dtype=bool).reshape(shape).copy())
    return create_block_mask(lambda b, h, i, j: allowed[b, h, i, j], *shape, device="cpu")


@contextlib.contextmanager
def _without_tracing():
    """Its own switch for debugging: the same operator, not traced anew for each shape, which takes 50 times as long."""
    before = flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        yield
    finally:
        flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = before


def adapter(name=None) -> TorchFlex:
    """The adapter."""
    return TorchFlex()
