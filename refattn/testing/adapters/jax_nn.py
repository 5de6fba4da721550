"""JAX: jax.nn.dot_product_attention with its gradients, and the activations of jax.nn."""

from __future__ import annotations

import contextlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from refattn.testing.adapters.base import STEPWISE, STEPWISE_BFLOAT16, Unsupported
from refattn.testing.adapters.frameworks import FrameworkAdapter, unavailable
from refattn.testing.adapters.translation import attention_call

_DPA = "jax.nn.dot_product_attention"
# Every shape is compiled anew. The same program, translated without LLVM's optimisations and without fusing emitters,
# takes a fifth of the time, differs within rounding, and gets the same verdicts (tests/peers/test_jax_compiled.py).
_QUICKLY = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_multi_thread_eigen": False,
}


class Jax(FrameworkAdapter):
    """jax.nn under jit, with the implementation that JAX chooses itself.

    Parameters
    ----------
    optimised : bool
        Compile as JAX does unless it is told: five times as slow.
    """

    asked = False  # XLA ends the process at some sizes in float16, so it is called with none that nobody chose
    name = "jax"
    version = jax.__version__

    def __init__(self, optimised=False):
        super().__init__()
        self.options = None if optimised or jax.default_backend() != "cpu" else _QUICKLY
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "attention_vjp": self.attention_vjp,
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
        """Those of its users; on the CPU, XLA has no product of float16 that dot_product_attention asks for."""
        if function.endswith("_vjp"):
            return ("float32", "float64")
        narrow = (
            ("bfloat16",)
            if function.endswith("attention") and jax.default_backend() == "cpu"
            else ("bfloat16", "float16")
        )
        return ("float32", "float64", *narrow)

    def profile(self, function, dtype):
        """dot_product_attention does its softmax in float32 whatever it is given, and rounds the weights after it."""
        if "attention" in function:
            return f"{dtype}/eager" if dtype in ("float16", "bfloat16") else "float32/eager"
        return {"float16": STEPWISE, "bfloat16": STEPWISE_BFLOAT16}.get(dtype, dtype)

    def environment(self):
        """The device, the precision of matrix products, and how it is compiled."""
        return {
            "device": jax.default_backend(),
            "matmul precision": str(jax.config.jax_default_matmul_precision),
            "compiled": "as JAX does"
            if self.options is None
            else "quickly, " + ", ".join(map("{0[0]}={0[1]}".format, self.options.items())),
        }

    def tensor(self, x):
        """An array; float32 becomes bfloat16 in a call in bfloat16."""
        if x is None:
            return None
        return jnp.asarray(x, dtype=jnp.bfloat16 if self.narrow and x.dtype == np.float32 else None)

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """dot_product_attention; causality and windows are its own, any other mask and a bias are arrays."""
        unavailable(_DPA, softcap=softcap or None, sinks=sinks, dropout=dropout)
        x, rules = self._translated(q, k, v, mask, bias, q_positions, k_positions, grouped)
        result = self._run(
            jax.nn.dot_product_attention,
            *(np.swapaxes(part, 1, 2) for part in (x.q, x.k, x.v)),
            x.bias,
            x.mask,
            scale=None if scale is None else float(scale),
            return_residual=return_lse,
            **rules,
        )
        out, *lse = result if return_lse else (result,)
        out = x.restore(np.swapaxes(out, 1, 2))
        return (out, x.restore(np.swapaxes(lse[0], 1, 2))) if return_lse else out

    def attention_vjp(
        self, d_out, q, k, v, mask=None, *, d_lse=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None,
    ):  # fmt: skip
        """jax.vjp of dot_product_attention. Its log-sum-exp has no gradient by design."""
        unavailable(_DPA, softcap=softcap or None, sinks=sinks, dropout=dropout, gradient_of_log_sum_exp=d_lse)
        x, rules = self._translated(q, k, v, mask, bias, q_positions, k_positions, False)
        given = {name: value for name, value in (("q", q), ("k", k), ("v", v), ("bias", bias)) if value is not None}
        given["scale"] = np.asarray(q.shape[-1] ** -0.5 if scale is None else scale, dtype=q.dtype)
        shapes = tuple((name, getattr(x, name).shape) for name in given if name != "scale")
        found = self._run(
            _pulled, d_out.reshape(x.q.shape[:3] + v.shape[-1:]), x.mask, arrays=given,
            lead=q.shape[:-2], shapes=shapes, rules=tuple(rules.items()),
        )  # fmt: skip
        return found

    def _translated(self, q, k, v, mask, bias, q_positions, k_positions, grouped):
        if k.shape[-1] != v.shape[-1] and k.shape[-1] == q.shape[-1]:
            raise Unsupported(f"{_DPA} takes no values of another head size than the keys'")
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped,
            native=("causal", "window"),
        )  # fmt: skip
        window = None
        if x.window is not None:
            everything = q.shape[-2] + k.shape[-2]  # a side without a bound has to be a number
            window = tuple(everything if side is None else side for side in x.window)
        return x, {"is_causal": x.causal, "local_window_size": window}

    def gelu(self, x, approximate=None):
        """gelu."""
        if approximate not in (None, "tanh"):
            raise Unsupported(f"jax.nn.gelu has no approximation {approximate!r}")
        return self._run(jax.nn.gelu, x, approximate=approximate == "tanh")

    def _elementwise(self, function, x):
        return self._run(function, x)

    def _masked(self, function, x, axis=-1, where=None):
        return self._run(function, x, axis=axis, arrays={} if where is None else {"where": where})

    def _run(self, function, *args, arrays=None, **options):
        """The function on NumPy arrays, as users call it: under jit, in float64 only if an input is."""
        named = arrays or {}
        wide = any(x is not None and x.dtype == np.float64 for x in (*args, *named.values()))
        with jax.enable_x64(True) if wide else contextlib.nullcontext():
            compiled = _compiled(function, self.options is None, **options)
            result = compiled(*map(self.tensor, args), **{name: self.tensor(x) for name, x in named.items()})
            return jax.tree.map(_numpy, result)


def _numpy(x):
    return np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x)


def _pulled(d_out, mask, *, scale, lead, shapes, rules, **given):
    """The gradients by q, k, v, bias and scale of their own shapes, before they are laid out in four axes."""

    def call(inputs, scale):
        parts = {}
        for name, shape in shapes:
            whole = (
                jnp.broadcast_to(inputs[name], (*lead, *inputs[name].shape[-2:])) if name != "bias" else inputs[name]
            )
            parts[name] = jnp.reshape(whole, shape)
        q, k, v = (jnp.swapaxes(parts[name], 1, 2) for name in "qkv")
        return jnp.swapaxes(
            jax.nn.dot_product_attention(q, k, v, parts.get("bias"), mask, scale=scale, **dict(rules)), 1, 2
        )

    _, pull = jax.vjp(call, given, scale)
    gradients, d_scale = pull(d_out)
    return {**gradients, "scale": d_scale}


@cache
def _compiled(function, optimised, **options):
    return jax.jit(partial(function, **options), compiler_options=None if optimised else _QUICKLY)


def adapter(name=None) -> Jax:
    """The adapter."""
    return Jax()
