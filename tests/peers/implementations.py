"""Real implementations on a CPU, as their users call them, behind the reference's signature and on their own axes.

What an implementation has no argument for is Unsupported; nothing is repaired. Causality and windows are passed by the
implementation's own arguments where it has them, other rules as an array.
"""

import functools
import operator
import warnings

import numpy as np

from refattn.masks import Mask
from refattn.testing.adapters import Unsupported


def has_no(name, **options):
    """Refuse options that were given and that the implementation has no argument for."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise Unsupported(f"{name} has no {option}")


def split(mask, n, m, native):
    """(causal, window, array) of a mask: the rules that the implementation has arguments for, and the rest."""
    if not isinstance(mask, Mask):
        return False, None, mask
    rules = list(_conjunction(mask))
    own = {rule.name: rule for rule in rules if rule.name in native}
    rest = [rule for rule in rules if rule.name not in native]
    window = None if "window" not in own else (own["window"].arguments["left"], own["window"].arguments["right"])
    dense = functools.reduce(operator.and_, rest).dense(n, m) if rest else None
    if dense is not None and dense.ndim == 2:
        dense = dense[None, None]
    return "causal" in own, window, dense


def _conjunction(mask):
    if mask.name == "and":
        for part in mask.parts:
            yield from _conjunction(part)
    else:
        yield mask


def one_term(mask, bias, name):
    """Mask and bias for an argument that takes either."""
    if mask is not None and bias is not None:
        raise Unsupported(f"{name} has one argument for mask and bias")
    return bias if mask is None else mask


# --- torch ----------------------------------------------------------------------------------------------------------


def torch_sdpa(backend=None):
    """scaled_dot_product_attention, by one of its kernels or by the one that it chooses."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    chosen = list(SDPBackend.__members__.values()) if backend is None else getattr(SDPBackend, backend)

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("scaled_dot_product_attention", softcap=softcap, sinks=sinks, dropout=dropout, lse=return_lse)
        causal, _, dense = split(mask, q.shape[-2], k.shape[-2], ("causal",))
        term = one_term(dense, bias, "scaled_dot_product_attention")
        context = torch.no_grad() if backend is None else sdpa_kernel(chosen)
        with context:
            return torch.nn.functional.scaled_dot_product_attention(
                *map(torch.tensor, (q, k, v)),
                attn_mask=None if term is None else torch.tensor(term),
                is_causal=causal,
                scale=scale,
                enable_gqa=q.shape[1] != k.shape[1],
            ).numpy()

    return attention


def torch_multihead(weights=True):
    """torch.nn.MultiheadAttention with projections that do nothing; (B, N, H, D)."""
    import torch

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("MultiheadAttention", scale=scale, softcap=softcap, sinks=sinks, dropout=dropout, lse=return_lse)
        b, n, heads, d = q.shape
        m, width = k.shape[1], heads * d
        _, _, dense = split(mask, n, m, ())
        term = one_term(dense, bias, "MultiheadAttention")
        if term is not None and term.ndim == 4:
            term = np.broadcast_to(term, (b, heads, n, m)).reshape(b * heads, n, m)
        if k.shape[2] != heads or v.shape[-1] != d:
            raise Unsupported("MultiheadAttention has heads of one number and one size")
        layer = torch.nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        eye = torch.eye(width)
        with torch.no_grad():
            layer.in_proj_weight.copy_(torch.cat([eye, eye, eye]))
            layer.out_proj.weight.copy_(eye)
            joined = (torch.tensor(x).reshape(b, x.shape[1], -1) for x in (q, k, v))
            out, _ = layer(*joined, attn_mask=None if term is None else torch.tensor(term), need_weights=weights)
        return out.reshape(b, n, heads, -1).numpy()

    return attention


def torch_flex():
    """flex_attention as it runs without torch.compile; masks by mask_mod, biases by score_mod."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("flex_attention", softcap=softcap, sinks=sinks, dropout=dropout)
        b, heads, n, _ = q.shape
        m = k.shape[-2]
        _, _, dense = split(mask, n, m, ())
        block_mask = score_mod = None
        if dense is not None:
            table = torch.tensor(np.broadcast_to(dense, (b, heads, n, m)).copy())
            block_mask = create_block_mask(lambda b, h, i, j: table[b, h, i, j], b, heads, n, m, device="cpu")
        if bias is not None:
            added = torch.tensor(np.broadcast_to(bias, (b, heads, n, m)).copy())

            def score_mod(score, b, h, i, j):
                return score + added[b, h, i, j]

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # it says that it was not compiled
            result = flex_attention(
                *map(torch.tensor, (q, k, v)), score_mod=score_mod, block_mask=block_mask, scale=scale,
                enable_gqa=heads != k.shape[1], return_lse=return_lse,
            )  # fmt: skip
        return tuple(x.numpy() for x in result) if return_lse else result.numpy()

    return attention


def transformers_eager():
    """eager_attention_forward of Llama with masks of masking_utils."""
    import torch
    from transformers import masking_utils
    from transformers.models.llama.modeling_llama import eager_attention_forward

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("eager_attention_forward", softcap=softcap, sinks=sinks, dropout=dropout, lse=return_lse)
        n, m = q.shape[-2], k.shape[-2]
        causal, window, dense = split(mask, n, m, ("causal", "window"))
        rules = []
        if window is not None and (causal or not window[1]):
            rules.append(masking_utils.sliding_window_causal_mask_function(window[0]))
        elif window is not None:
            rules.append(masking_utils.sliding_window_bidirectional_mask_function(window[0]))
        elif causal:
            rules.append(masking_utils.causal_mask_function)
        if dense is not None:
            table = torch.tensor(dense)
            if table.dtype != torch.bool or table.ndim != 4:
                raise Unsupported(f"masks of {table.dtype} with {table.ndim} axes")
            table = table.expand(q.shape[0], q.shape[1], n, m) if table.shape[1] > 1 else table.expand(-1, 1, n, m)
            rules.append(lambda b, h, i, j: table[b, h, i - (m - n), j])
        term = None if bias is None else torch.tensor(bias)
        if rules:
            term = masking_utils.eager_mask(
                q.shape[0], n, m, q_offset=m - n, mask_function=masking_utils.and_masks(*rules), use_vmap=True
            )
            if dense is not None and dense.shape[1] > 1:
                raise Unsupported("masks of masking_utils are one for all heads")
        if rules and bias is not None:
            raise Unsupported("eager_attention_forward has one argument for mask and bias")
        module = torch.nn.Module()
        module.num_key_value_groups = q.shape[1] // k.shape[1]
        scale = q.shape[-1] ** -0.5 if scale is None else scale  # as LlamaAttention has it
        with torch.no_grad():
            out, _ = eager_attention_forward(module, *map(torch.tensor, (q, k, v)), term, scale)
        return out.transpose(1, 2).numpy()

    return attention


# --- jax, keras, mlx ------------------------------------------------------------------------------------------------


def jax_dpa():
    """jax.nn.dot_product_attention; (B, N, H, D)."""
    import jax
    import jax.numpy as jnp

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("jax.nn.dot_product_attention", softcap=softcap, sinks=sinks, dropout=dropout)
        n, m = q.shape[1], k.shape[1]
        causal, window, dense = split(mask, n, m, ("causal", "window"))
        if window is not None:
            window = tuple(n + m if side is None else side for side in window)
        result = jax.nn.dot_product_attention(
            *map(jnp.asarray, (q, k, v)), bias=None if bias is None else jnp.asarray(bias),
            mask=None if dense is None else jnp.asarray(dense), scale=scale, is_causal=causal,
            local_window_size=window, return_residual=return_lse,
        )  # fmt: skip
        if return_lse:
            return np.asarray(result[0]), np.swapaxes(np.asarray(result[1]), 1, 2)
        return np.asarray(result)

    return attention


def _keras():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    return keras


def keras_ops():
    """keras.ops.dot_product_attention; (B, N, H, D)."""
    keras = _keras()

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("keras.ops.dot_product_attention", sinks=sinks, dropout=dropout, lse=return_lse)
        causal, _, dense = split(mask, q.shape[1], k.shape[1], ("causal",))
        return np.asarray(
            keras.ops.dot_product_attention(
                q,
                k,
                v,
                bias=bias,
                mask=dense,
                scale=scale,
                is_causal=causal,
                flash_attention=False,
                attn_logits_soft_cap=softcap,
            )
        )

    return attention


def keras_layer(scores=False):
    """keras.layers.MultiHeadAttention with projections that do nothing; (B, N, H, D)."""
    keras = _keras()

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no(
            "MultiHeadAttention", bias=bias, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout, lse=return_lse
        )
        b, n, heads, d = q.shape
        m, d_v = k.shape[1], v.shape[-1]
        causal, window, dense = split(mask, n, m, ("causal", "window"))
        if window is not None and window[0] is None:
            raise Unsupported("sliding_window is one number")
        if k.shape[2] != heads:
            raise Unsupported("MultiHeadAttention has as many key/value heads as query heads")
        layer = keras.layers.MultiHeadAttention(
            heads, d, d_v, use_bias=False, output_shape=heads * d_v, sliding_window=window and window[0],
            flash_attention=False,
        )  # fmt: skip
        joined = [x.reshape(b, x.shape[1], -1) for x in (q, k, v)]
        layer.build(*(x.shape for x in (joined[0], joined[2], joined[1])))
        width = heads * d
        layer.set_weights([
            np.eye(width).reshape(width, heads, d), np.eye(width).reshape(width, heads, d),
            np.eye(heads * d_v).reshape(heads * d_v, heads, d_v), np.eye(heads * d_v).reshape(heads, d_v, heads * d_v),
        ])  # fmt: skip
        if dense is not None and dense.ndim == 4 and dense.shape[1] == 1:
            dense = dense[:, 0]  # its masks are (B, N, M); the axis of heads is its own
        out = layer(
            joined[0], joined[2], joined[1], attention_mask=dense, use_causal_mask=causal,
            return_attention_scores=scores,
        )  # fmt: skip
        return np.asarray(out[0] if scores else out).reshape(b, n, heads, d_v)

    return attention


def mlx_fast():
    """mlx.core.fast.scaled_dot_product_attention on the CPU."""
    import mlx.core as mx

    mx.set_default_device(mx.cpu)

    def attention(
        q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None, return_lse=False
    ):
        has_no("mlx.fast.scaled_dot_product_attention", softcap=softcap, dropout=dropout, lse=return_lse)
        causal, _, dense = split(mask, q.shape[-2], k.shape[-2], ("causal",))
        term = one_term(dense, bias, "mlx.fast.scaled_dot_product_attention")
        if causal and term is not None:
            raise Unsupported("mask is 'causal' or an array")
        options = {} if scale is None else {"scale": scale}
        term = "causal" if causal else None if term is None else mx.array(term)
        return np.array(
            mx.fast.scaled_dot_product_attention(
                *map(mx.array, (q, k, v)),
                mask=term,
                sinks=None if sinks is None else mx.array(sinks.reshape(-1)),
                **options,
            )
        )

    return attention


# --- onnx -----------------------------------------------------------------------------------------------------------


def onnx_attention(evaluator, opset):
    """The operator Attention of one opset, by either evaluator."""
    import importlib

    adapter = importlib.import_module(f"refattn.testing.adapters.{evaluator}").adapter()
    adapter._opset = opset

    def attention(q, k, v, mask=None, *, dropout=None, sinks=None, **options):
        has_no("the operator Attention", sinks=sinks, dropout=dropout)
        causal, window, dense = split(mask, q.shape[-2], k.shape[-2], ("causal", *(["window"] if opset >= 25 else [])))
        if options.pop("return_lse", False):
            raise Unsupported("the operator Attention has no log-sum-exp")
        bias, scale, softcap = (options.pop(name, None) for name in ("bias", "scale", "softcap"))
        term = one_term(dense, bias, "the operator Attention")
        attributes = {"is_causal": 1} if causal else {}
        if window is not None:
            left, right = (-1 if side is None else side for side in window)
            attributes |= {"left_window_size": left, "right_window_size": right}
        attributes |= {} if scale is None else {"scale": float(scale)}
        attributes |= {} if softcap is None else {"softcap": float(softcap)}
        return adapter._run("Attention", [q, k, v, term], opset=opset, **attributes)[0]

    return attention


# preset -> (what makes the kernel, its axes)
MEASURED = {
    "torch.sdpa": (torch_sdpa, "bhnd"),
    "torch.sdpa.math": (functools.partial(torch_sdpa, "MATH"), "bhnd"),
    "torch.sdpa.cpu_flash": (functools.partial(torch_sdpa, "FLASH_ATTENTION"), "bhnd"),
    "torch.nn.MultiheadAttention": (torch_multihead, "bnhd"),
    "torch.nn.MultiheadAttention.no_weights": (functools.partial(torch_multihead, False), "bnhd"),
    "torch.flex_attention": (torch_flex, "bhnd"),
    "transformers.eager": (transformers_eager, "bhnd"),
    "jax.dpa": (jax_dpa, "bnhd"),
    "keras.ops": (keras_ops, "bnhd"),
    "keras.MultiHeadAttention": (keras_layer, "bnhd"),
    "keras.MultiHeadAttention.scores": (functools.partial(keras_layer, True), "bnhd"),
    "mlx": (mlx_fast, "bhnd"),
    "onnx.attention_23": (functools.partial(onnx_attention, "onnx_reference", 23), "bhnd"),
    "onnx.attention_24": (functools.partial(onnx_attention, "onnx_reference", 24), "bhnd"),
    "onnx.attention_25": (functools.partial(onnx_attention, "onnx_reference", 25), "bhnd"),
    "onnxruntime": (functools.partial(onnx_attention, "onnx_runtime", 24), "bhnd"),
}
