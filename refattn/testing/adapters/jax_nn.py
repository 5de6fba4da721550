"""JAX: jax.nn.dot_product_attention, and the activations of jax.nn."""

import contextlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from refattn.testing.adapters import STEPWISE, Adapter, Unsupported
from refattn.testing.adapters.translation import attention_call


class Jax(Adapter):
    """jax.nn under jit, with the implementation that JAX chooses itself."""

    name = "jax"
    version = jax.__version__

    def __init__(self):
        super().__init__()
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "softmax": partial(self._masked, jax.nn.softmax),
            "logsumexp": partial(self._masked, jax.nn.logsumexp),
            "gelu": self.gelu,
            "relu": partial(self._elementwise, jax.nn.relu),
            "silu": partial(self._elementwise, jax.nn.silu),
            "sigmoid": partial(self._elementwise, jax.nn.sigmoid),
            "softplus": partial(self._elementwise, jax.nn.softplus),
            "tanh": partial(self._elementwise, jax.nn.tanh),
        }

    def dtypes(self, function):
        """Those that NumPy has too; on the CPU, XLA has no product of float16 that dot_product_attention asks for."""
        narrow = () if function.endswith("attention") and jax.default_backend() == "cpu" else ("float16",)
        return ("float32", "float64", *narrow)

    def profile(self, function, dtype):
        """dot_product_attention does its softmax in float32 whatever it is given, and rounds the weights after it."""
        if function.endswith("attention"):
            return "float16/eager" if dtype == "float16" else "float32/eager"
        return STEPWISE if dtype == "float16" else dtype

    def environment(self):
        """The device and the precision of matrix products."""
        return {"device": jax.default_backend(), "matmul precision": str(jax.config.jax_default_matmul_precision)}

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """dot_product_attention; causality and windows are its own, any other mask and a bias are arrays."""
        for name, value in (("softcap", softcap or None), ("sinks", sinks), ("dropout", dropout)):
            if value is not None:
                raise Unsupported(f"jax.nn.dot_product_attention has no {name}")
        if k.shape[-1] != v.shape[-1] and k.shape[-1] == q.shape[-1]:
            raise Unsupported("jax.nn.dot_product_attention takes no values of another head size than the keys'")
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal", "window"),
        )  # fmt: skip
        window = None
        if x.window is not None:
            everything = q.shape[-2] + k.shape[-2]  # a side without a bound has to be a number
            window = tuple(everything if side is None else side for side in x.window)
        result = _run(
            jax.nn.dot_product_attention,
            *(np.swapaxes(part, 1, 2) for part in (x.q, x.k, x.v)),
            x.bias,
            x.mask,
            scale=None if scale is None else float(scale),
            is_causal=x.causal,
            local_window_size=window,
            return_residual=return_lse,
        )
        out, *lse = result if return_lse else (result,)
        out = x.restore(np.swapaxes(out, 1, 2))
        return (out, x.restore(np.swapaxes(lse[0], 1, 2))) if return_lse else out

    def gelu(self, x, approximate=None):
        """gelu."""
        if approximate not in (None, "tanh"):
            raise Unsupported(f"jax.nn.gelu has no approximation {approximate!r}")
        return _run(jax.nn.gelu, x, approximate=approximate == "tanh")

    def _elementwise(self, function, x):
        return _run(function, x)

    def _masked(self, function, x, axis=-1, where=None):
        return _run(function, x, axis=axis, arrays={} if where is None else {"where": where})


def _run(function, *args, arrays=None, **options):
    """The function on NumPy arrays, as users call it: under jit, in float64 only if an input is."""
    named = arrays or {}
    wide = any(x is not None and x.dtype == np.float64 for x in (*args, *named.values()))
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        args = tuple(None if x is None else jnp.asarray(x) for x in args)
        result = _compiled(function, **options)(*args, **{name: jnp.asarray(x) for name, x in named.items()})
        return jax.tree.map(np.asarray, result)


@cache
def _compiled(function, **options):
    return jax.jit(partial(function, **options))


def adapter(name=None) -> Jax:
    """The adapter."""
    return Jax()
