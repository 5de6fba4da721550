"""PyTorch on the CPU: scaled_dot_product_attention, and functional norms and activations."""

from functools import partial

import torch
import torch.nn.functional as F

from refattn.testing.adapters import STEPWISE, Adapter, Unsupported
from refattn.testing.adapters.translation import attention_call, trailing


class Torch(Adapter):
    """torch.nn.functional, with the kernel that PyTorch chooses itself."""

    name = "torch"
    version = torch.__version__

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "softmax": partial(self._reduced, torch.softmax),
            "logsumexp": partial(self._reduced, torch.logsumexp),
            "gelu": self.gelu,
            "relu": partial(_on_numpy, F.relu),
            "silu": partial(_on_numpy, F.silu),
            "sigmoid": partial(_on_numpy, torch.sigmoid),
            "softplus": partial(_on_numpy, F.softplus),
            "tanh": partial(_on_numpy, torch.tanh),
        }

    def dtypes(self, function):
        """Those that NumPy has too."""
        return ("float32", "float64", "float16")

    def profile(self, function, dtype):
        """logsumexp of float16 is made of operations on float16."""
        return STEPWISE if function == "logsumexp" and dtype == "float16" else dtype

    def environment(self):
        """The device and the kernels that are allowed."""
        return {
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "float32 matmul precision": torch.get_float32_matmul_precision(),
        }

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """scaled_dot_product_attention; causal() alone is is_causal, anything else attn_mask."""
        if dropout is not None:
            raise Unsupported("scaled_dot_product_attention draws its dropout itself")
        missing = {"softcap": softcap or None, "sinks": sinks, "log-sum-exp": return_lse or None}
        for name, value in missing.items():
            if value is not None:
                raise Unsupported(f"scaled_dot_product_attention has no {name}")
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal",), together=False,  # is_causal beside attn_mask is documented as an error
        )  # fmt: skip
        term = x.term()
        with torch.inference_mode():
            out = F.scaled_dot_product_attention(
                torch.tensor(x.q),
                torch.tensor(x.k),
                torch.tensor(x.v),
                attn_mask=None if term is None else torch.tensor(term),
                is_causal=x.causal,
                scale=None if scale is None else float(scale),
                enable_gqa=grouped,
            )
        return x.restore(out.numpy())

    def layer_norm(self, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        """layer_norm."""
        shape = x.shape[trailing(axis, x) :]
        weights = [None if w is None else torch.tensor(w) for w in (gamma, beta)]
        with torch.inference_mode():
            return F.layer_norm(torch.tensor(x), shape, *weights, eps=float(eps)).numpy()

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """rms_norm."""
        if unit_offset:
            raise Unsupported("rms_norm has no unit offset")
        shape = x.shape[trailing(axis, x) :]
        weight = None if gamma is None else torch.tensor(gamma)
        with torch.inference_mode():
            return F.rms_norm(torch.tensor(x), shape, weight, eps=float(eps)).numpy()

    def gelu(self, x, approximate=None):
        """gelu."""
        return _on_numpy(F.gelu, x, approximate="none" if approximate is None else approximate)

    def _reduced(self, function, x, axis=-1, where=None):
        if where is not None:
            raise Unsupported(f"{function.__name__} has no mask")
        return _on_numpy(function, x, dim=axis)


def _on_numpy(function, x, **options):
    with torch.inference_mode():
        return function(torch.tensor(x), **options).numpy()


def adapter() -> Torch:
    """The adapter."""
    return Torch()
