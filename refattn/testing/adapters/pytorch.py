"""PyTorch on the CPU: scaled_dot_product_attention with its gradients, and functional norms and activations."""

from __future__ import annotations

import contextlib
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from refattn.testing.adapters.base import STEPWISE, STEPWISE_BFLOAT16, Unsupported
from refattn.testing.adapters.frameworks import FrameworkAdapter, unavailable
from refattn.testing.adapters.translation import attention_call, trailing

_SDPA = "scaled_dot_product_attention"


class TorchBase(FrameworkAdapter):
    """What every adapter of PyTorch shares."""

    version = torch.__version__

    def call(self, function, dtype):
        """The function on one thread: for inputs so small, waiting for others takes many times as long."""
        return partial(_on_one_thread, super().call(function, dtype))

    def environment(self):
        """The device and the kernels that are allowed."""
        return {
            "device": "cpu",
            "threads": 1,
            "float32 matmul precision": torch.get_float32_matmul_precision(),
        }

    def tensor(self, x):
        """A tensor; float32 becomes bfloat16 in a call in bfloat16."""
        if x is None:
            return None
        tensor = torch.tensor(np.ascontiguousarray(x) if any(step < 0 for step in x.strides) else x)
        return tensor.to(torch.bfloat16) if self.narrow and tensor.dtype == torch.float32 else tensor

    def numpy(self, tensor):
        """A NumPy array; bfloat16 becomes float32, which holds it."""
        tensor = tensor.detach()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    def on_numpy(self, function, x, **options):
        """A function of one tensor."""
        with torch.inference_mode():
            return self.numpy(function(self.tensor(x), **options))


def _on_one_thread(call, *args, **kwargs):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call(*args, **kwargs)
    finally:
        torch.set_num_threads(before)


class Torch(TorchBase):
    """torch.nn.functional, with the kernel that PyTorch chooses itself."""

    name = "torch"

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "attention_vjp": self.attention_vjp,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "softmax": partial(self._reduced, torch.softmax),
            "logsumexp": partial(self._reduced, torch.logsumexp),
            "gelu": self.gelu,
            "relu": partial(self.on_numpy, F.relu),
            "silu": partial(self.on_numpy, F.silu),
            "sigmoid": partial(self.on_numpy, torch.sigmoid),
            "softplus": partial(self.on_numpy, F.softplus),
            "tanh": partial(self.on_numpy, torch.tanh),
        }

    def dtypes(self, function):
        """All that it has on a CPU; gradients in the two wide ones."""
        narrow = () if function.endswith("_vjp") else ("float16", "bfloat16")
        return ("float32", "float64", *narrow)

    def profile(self, function, dtype):
        """logsumexp of the narrow formats is made of operations on them."""
        if function == "logsumexp":
            return {"float16": STEPWISE, "bfloat16": STEPWISE_BFLOAT16}.get(dtype, dtype)
        return dtype

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """scaled_dot_product_attention; causal() alone is is_causal, anything else attn_mask."""
        if dropout is not None:
            raise Unsupported(f"{_SDPA} draws its dropout itself")
        unavailable(_SDPA, softcap=softcap or None, sinks=sinks, log_sum_exp=return_lse)
        x = self._translated(q, k, v, mask, bias, q_positions, k_positions, grouped)
        with torch.inference_mode():
            tensors = [self.tensor(part) for part in (x.q, x.k, x.v)]
            out = self._sdpa(tensors, self.tensor(x.term()), x.causal, scale, grouped)
        return x.restore(self.numpy(out))

    def attention_vjp(
        self, d_out, q, k, v, mask=None, *, d_lse=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None,
    ):  # fmt: skip
        """Automatic differentiation of scaled_dot_product_attention; its scale is a number and has no gradient."""
        if dropout is not None:
            raise Unsupported(f"{_SDPA} draws its dropout itself")
        unavailable(_SDPA, softcap=softcap or None, sinks=sinks, log_sum_exp=d_lse)
        leaves = {name: self.tensor(x) for name, x in (("q", q), ("k", k), ("v", v), ("bias", bias)) if x is not None}
        for leaf in leaves.values():
            leaf.requires_grad_(True)
        x = self._translated(q, k, v, mask, bias, q_positions, k_positions, False)
        lead = np.broadcast_shapes(d_out.shape[:-2], *(leaf.shape[:-2] for leaf in leaves.values()))
        parts = [leaves[name].expand(*lead, *leaves[name].shape[-2:]).reshape(getattr(x, name).shape) for name in "qkv"]
        term = self.tensor(x.mask)
        if bias is not None:
            term = leaves["bias"].expand(*lead, q.shape[-2], k.shape[-2]).reshape(*x.q.shape[:3], k.shape[-2])
            term = term if x.mask is None else torch.where(self.tensor(x.mask), term, -torch.inf)
        out = self._sdpa(parts, term, x.causal, scale, False)
        found = torch.autograd.grad(out, list(leaves.values()), self.tensor(d_out).reshape(out.shape))
        return {name: self.numpy(gradient) for name, gradient in zip(leaves, found, strict=True)}

    def _translated(self, q, k, v, mask, bias, q_positions, k_positions, grouped):
        return attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal",), together=False,  # is_causal beside attn_mask is documented as an error
        )  # fmt: skip

    def _sdpa(self, q_k_v, term, causal, scale, grouped):
        with self.kernels():
            return F.scaled_dot_product_attention(
                *q_k_v, attn_mask=term, is_causal=causal, scale=None if scale is None else float(scale),
                enable_gqa=grouped,
            )  # fmt: skip

    def kernels(self):
        """A context in which the kernels that this target is about are chosen."""
        return contextlib.nullcontext()

    def layer_norm(self, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        """layer_norm."""
        shape = x.shape[trailing(axis, x) :]
        weights = {"weight": self.tensor(gamma), "bias": self.tensor(beta)}
        return self.on_numpy(partial(F.layer_norm, normalized_shape=shape, eps=float(eps), **weights), x)

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """rms_norm."""
        unavailable("rms_norm", unit_offset=unit_offset)
        shape = x.shape[trailing(axis, x) :]
        return self.on_numpy(partial(F.rms_norm, normalized_shape=shape, weight=self.tensor(gamma), eps=float(eps)), x)

    def gelu(self, x, approximate=None):
        """gelu."""
        return self.on_numpy(F.gelu, x, approximate="none" if approximate is None else approximate)

    def _reduced(self, function, x, axis=-1, where=None):
        unavailable(function.__name__, mask=where)
        return self.on_numpy(function, x, dim=axis)


class TorchMath(Torch):
    """scaled_dot_product_attention by SDPBackend.MATH, which also gives its weights and takes dropout as a mask."""

    name = "torch.math"

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "attention_stages": self.attention_stages,
            "attention_weights": self.attention_weights,
            "attention_vjp": self.attention_vjp,
        }

    def kernels(self):
        """The backend MATH alone."""
        return sdpa_kernel(SDPBackend.MATH)

    def attention(self, q, k, v, mask=None, *, dropout=None, **options):
        """As for torch; with dropout, the operator that the backend calls, which takes what was drawn."""
        if dropout is None:
            return super().attention(q, k, v, mask, **options)
        if options.pop("grouped", False):
            raise Unsupported(f"{_SDPA} draws its dropout itself")
        return self.attention_stages(q, k, v, mask, dropout=dropout, **options)["out"]

    def attention_weights(self, q, k, mask=None, **options):
        """The weights that the backend returns beside its output."""
        if options.get("dropout") is not None:
            raise Unsupported(f"{_SDPA} returns no weights after dropout")
        return self.attention_stages(q, k, k, mask, **options)["weights"]

    def attention_stages(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False,
    ):  # fmt: skip
        """The weights (those that multiply v) and the output of aten::_scaled_dot_product_attention_math."""
        unavailable(_SDPA, softcap=softcap or None, sinks=sinks, log_sum_exp=return_lse)
        x = self._translated(q, k, v, mask, bias, q_positions, k_positions, False)
        keep, rate = (None, 0.0) if dropout is None else dropout
        if keep is not None:
            keep = torch.tensor(np.broadcast_to(keep, (*q.shape[:-1], k.shape[-2])).copy()).reshape(*x.q.shape[:3], -1)
        q4, k4, v4, term = map(self.tensor, (x.q, x.k, x.v, x.term()))
        if term is not None and term.dtype == torch.bool:  # scaled_dot_product_attention does this before it calls
            term = torch.where(term, torch.zeros((), dtype=q4.dtype), -torch.inf)
        with torch.inference_mode():
            out, weights = torch.ops.aten._scaled_dot_product_attention_math(
                q4, k4, v4, attn_mask=term, dropout_p=float(rate),
                is_causal=x.causal, dropout_mask=keep, scale=None if scale is None else float(scale),
            )  # fmt: skip
        stages = {"out": x.restore(self.numpy(out))}
        if dropout is None:  # beside a mask for dropout it returns weights that are not yet divided
            stages["weights"] = stages["dropout"] = x.restore(self.numpy(weights))
        return stages


def adapter(name="torch") -> Torch:
    """The adapter."""
    return TorchMath() if name == "torch.math" else Torch()
