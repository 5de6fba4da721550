"""Variants of attention in which one option makes another disappear, and masks and biases laid on the wrong axes."""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.testing.mechanisms.attention.variants import evaluate, exponentials
from refattn.testing.mechanisms.masks.variants import evaluated, holds, replaced
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.steps import Then


def _needs(*conditions):
    if not all(conditions):
        raise NotApplicable


def _given(options, name):
    value = options.get(name)
    return value is not None and value is not False


# --- one option lost with another -----------------------------------------------------------------------------------

_OPTIONS = {
    "return_lse": "the log-sum-exp is asked for",
    "scale": "a scale is given",
    "bias": "a bias is given",
    "softcap": "a cap is given",
    "sinks": "a sink is given",
    "dropout": "dropout is on",
}


def _causal_lost(option):
    def call(q, k, v, mask=None, **options):
        _needs(isinstance(mask, masks.Mask), _given(options, option))
        return evaluate(q, k, v, replaced(mask, "causal", masks.everything), **options)

    return call


def _lost(lost, option):
    def call(q, k, v, mask=None, **options):
        _needs(_given(options, lost), mask is not None if option == "mask" else _given(options, option))
        return evaluate(q, k, v, mask, **{**options, lost: None})

    return call


def _mask_lost(option):
    def call(q, k, v, mask=None, **options):
        _needs(mask is not None, _given(options, option))
        return evaluate(q, k, v, None, **options)

    return call


for _name, _when in _OPTIONS.items():
    _call = _causal_lost(_name)
    _call.__doc__ = f"Causality is dropped as soon as {_when}."
    _seen = ["keras-team/keras#23038"] if _name in ("return_lse", "dropout") else []
    variant(f"causal/lost_with_{_name}", "ATTN-MASK", "attention", seen=_seen)(_call)
    _call = _mask_lost(_name)
    _call.__doc__ = f"The mask is dropped as soon as {_when}."
    variant(f"mask/lost_with_{_name}", "ATTN-MASK", "attention")(_call)

for _lost_name, _clause in (
    ("bias", "ATTN-BIAS"),
    ("scale", "ATTN-SCALE"),
    ("softcap", "ATTN-SOFTCAP"),
    ("sinks", "ATTN-SINK"),
    ("dropout", "ATTN-DROPOUT"),
):
    for _name, _when in {"mask": "a mask is given", **_OPTIONS}.items():
        if _name != _lost_name:
            _call = _lost(_lost_name, _name)
            _call.__doc__ = f"{_lost_name.capitalize()} is dropped as soon as {_when}."
            variant(f"{_lost_name}/lost_with_{_name}", _clause, "attention")(_call)


@variant("causal/lost_without_heads", "ATTN-BROADCAST", "attention", seen=["keras-team/keras#23038"])
def causal_lost_without_heads(q, k, v, mask=None, **options):
    """Causality is dropped for inputs that have not four axes."""
    _needs(isinstance(mask, masks.Mask), q.ndim != 4)
    return evaluate(q, k, v, replaced(mask, "causal", masks.everything), **options)


@variant("causal/assumed", "ATTN-MASK", "attention", seen=["kyegomez/OpenMythos#2", "osaurus-ai/vmlx-swift#185"])
def causal_assumed(q, k, v, mask=None, **options):
    """Without a mask the kernel is causal."""
    _needs(mask is None, k.shape[-2] > 0, max(q.shape[-2], k.shape[-2]) > 1)
    return evaluate(q, k, v, masks.causal(), **options)


@variant("causal/assumed_top_left", "ATTN-MASK", "attention", seen=["kyegomez/OpenMythos#2"])
def causal_assumed_top_left(q, k, v, mask=None, **options):
    """Without a mask the kernel is causal, and counts its queries from 0."""
    _needs(mask is None, k.shape[-2] > 0, q.shape[-2] != k.shape[-2])
    return evaluate(q, k, v, masks.causal(), **{**options, "q_positions": np.arange(q.shape[-2]), "k_positions": None})


@variant(
    "mask/top_left",
    "ATTN-ALIGN",
    "attention",
    seen=["jax.nn.dot_product_attention"],
    advice="pass q_positions=arange(N)",
)
def mask_top_left(q, k, v, mask=None, *, q_positions=None, **options):
    """Every rule takes query i to be at position i, although queries are the last N of M."""
    _needs(isinstance(mask, masks.Mask), q_positions is None, q.shape[-2] != k.shape[-2])
    _needs(mask.parts)  # a single rule is the business of causal/top_left or window/top_left
    return evaluate(q, k, v, mask, q_positions=np.arange(q.shape[-2]), **options)


@variant("mask/offset_negated", "ATTN-ALIGN", "attention", seen=["memory-efficient-attention-pytorch"])
def mask_offset_negated(q, k, v, mask=None, *, q_positions=None, **options):
    """Query i sits at position i - (M - N) instead of i + (M - N): the offset has the wrong sign."""
    _needs(isinstance(mask, masks.Mask), q_positions is None, q.shape[-2] != k.shape[-2])
    offset = k.shape[-2] - q.shape[-2]
    return evaluate(q, k, v, mask, q_positions=np.arange(q.shape[-2]) - offset, **options)


@variant("window/lost_alone", "ATTN-MASK", "attention", seen=["jax-ml/jax#32300"])
def window_lost_alone(q, k, v, mask=None, **options):
    """A window is ignored where no other rule goes with it."""
    _needs(isinstance(mask, masks.Mask), mask.name == "window" if isinstance(mask, masks.Mask) else False)
    return evaluate(q, k, v, None, **options)


@variant("window/lost_with_causal", "ATTN-MASK", "attention")
def window_lost_with_causal(q, k, v, mask=None, **options):
    """A window is ignored where causality goes with it."""
    _needs(isinstance(mask, masks.Mask))
    _needs(holds(mask, "causal"))
    return evaluate(q, k, v, replaced(mask, "window", lambda **given: masks.everything()), **options)


# --- masks and biases on the wrong axes -----------------------------------------------------------------------------


def _four(x):
    return isinstance(x, np.ndarray) and x.ndim == 4


def _as_array(q, k, mask, options):
    """The mask as a kernel gets it that takes arrays: rules in their dense form, positions having had their effect."""
    if not isinstance(mask, masks.Mask):
        return mask
    given = (options.pop(name, None) for name in ("q_positions", "k_positions"))
    return evaluated(mask, q.shape[-2], k.shape[-2], **dict(zip(("q_positions", "k_positions"), given, strict=True)))


@variant("mask/first_entry_for_all", "ATTN-BROADCAST", "attention", seen=["pytorch/pytorch#139462"])
def mask_first_entry(q, k, v, mask=None, **options):
    """The mask of the first batch entry serves all of them."""
    mask = _as_array(q, k, mask, options)
    _needs(isinstance(mask, np.ndarray), np.ndim(mask) > 2 and mask.shape[0] > 1)
    return evaluate(q, k, v, mask[:1], **options)


@variant("mask/first_head_for_all", "ATTN-BROADCAST", "attention", seen=["ml-explore/mlx#2096"])
def mask_first_head(q, k, v, mask=None, **options):
    """The mask of the first head serves all of them."""
    mask = _as_array(q, k, mask, options)
    _needs(isinstance(mask, np.ndarray), np.ndim(mask) > 2 and mask.shape[-3] > 1)
    return evaluate(q, k, v, mask[..., :1, :, :], **options)


@variant("mask/first_query_for_all", "ATTN-BROADCAST", "attention")
def mask_first_query(q, k, v, mask=None, **options):
    """The mask of the first query serves all of them, as a mask of keys would."""
    mask = _as_array(q, k, mask, options)
    _needs(isinstance(mask, np.ndarray), np.ndim(mask) > 1 and mask.shape[-2] > 1)
    return evaluate(q, k, v, mask[..., :1, :], **options)


@variant("mask/tiled_over_heads", "ATTN-BROADCAST", "attention", seen=["lucidrains/graph-transformer-pytorch#2"])
def mask_tiled(q, k, v, mask=None, **options):
    """Batch and heads are folded into one axis and masks tiled instead of repeated, so that sequences swap masks."""
    mask = _as_array(q, k, mask, options)
    _needs(_four(mask) and mask.shape[1] == 1 and mask.shape[0] > 1, q.ndim == 4, q.shape[1] > 1)
    count = mask.shape[0]
    over = mask[np.arange(count * q.shape[1]) % count, 0].reshape(count, q.shape[1], *mask.shape[-2:])
    return evaluate(q, k, v, over, **options)


@variant("mask/transposed", "ATTN-MASK", "attention", seen=["keras-team/keras-io#1046"])
def mask_transposed(q, k, v, mask=None, **options):
    """The mask's axes of queries and keys are exchanged, which no shape shows where N = M."""
    mask = _as_array(q, k, mask, options)
    _needs(isinstance(mask, np.ndarray), np.ndim(mask) > 1 and mask.shape[-1] == mask.shape[-2] > 1)
    return evaluate(q, k, v, np.swapaxes(mask, -1, -2), **options)


@variant("padding/on_queries", "ATTN-MASK", "attention", seen=["hyunwoongko/transformer#40"])
def padding_on_queries(q, k, v, mask=None, **options):
    """Padding hides queries instead of keys: its axes are exchanged, and -1e4 makes the mean of a row that is hidden."""
    _needs(isinstance(mask, masks.Mask) and mask.name == "padding", q.shape[-2] == k.shape[-2])
    allowed = np.swapaxes(_as_array(q, k, mask, options), -1, -2)
    return evaluate(q, k, v, None, scored=Then(lambda s: np.where(allowed, s, -1e4)), **options)


@variant("mask/after_softmax", "ATTN-MASK", "attention", seen=["lucidrains/memory-compressed-attention#2"])
def mask_after_softmax(q, k, v, mask=None, **options):
    """The mask zeroes weights after the softmax, which excluded keys have taken their share of."""
    _needs(mask is not None, options.get("sinks") is None)
    given = {name: options.pop(name, None) for name in ("q_positions", "k_positions")}
    allowed = masks.visible(mask, q.shape[-2], k.shape[-2], like=q, **given)
    late = Then(lambda found: (np.where(allowed, found[0], 0.0), found[1]))
    return evaluate(q, k, v, None, weighted=late, **options)


@variant("mask/infinity_times_zero", "ATTN-MASK", "attention", seen=["onnx/onnx#8068"])
def mask_infinity_times_zero(q, k, v, mask=None, **options):
    """The mask becomes a bias as (1 - mask) times -infinity: NaN where it allows."""
    _needs(mask is not None)

    def broken(xp, s, allowed):
        return np.where(np.broadcast_to(allowed, np.broadcast_shapes(np.shape(allowed), s.shape)), np.nan, -np.inf)

    of_numbers = exponentials(peak=lambda m: np.where(np.isnan(m), 0.0, m))
    return evaluate(q, k, v, mask, masked=broken, shifted_exp=of_numbers, **options)


@variant("fill/two_lowest", "ATTN-EMPTY", "attention", seen=["huggingface/transformers#26137"])
def fill_two_lowest(q, k, v, mask=None, **options):
    """Two masks each add the lowest finite number: a row of which both exclude every key is NaN."""
    _needs(isinstance(mask, masks.Mask))
    _needs(mask.name == "and")
    given = {name: options.pop(name, None) for name in ("q_positions", "k_positions")}
    a, b = (masks.visible(part, q.shape[-2], k.shape[-2], like=q, **given) for part in mask.parts)
    lowest = np.where(a, 0.0, -1e30) + np.where(b, 0.0, -1e30)

    def add(xp, s, allowed):
        return np.where(lowest == -2e30, -np.inf, np.where(lowest < 0, -1e30, s))

    def divide(out, lse, weights, s):
        nothing = np.isneginf(s).all(axis=-1)
        return np.where(nothing[..., None], np.nan, out), np.where(nothing, np.nan, lse)

    return evaluate(q, k, v, a & b, masked=add, finish=divide, **options)


@variant(
    "fill/lowest_added", "ATTN-EMPTY", "attention", seen=["transformers eager attention (masking_utils.eager_mask)"]
)
def fill_lowest_added(q, k, v, mask=None, **options):
    """The lowest finite number is added to excluded scores: NaN there leaks, a row without any key is the mean."""
    _needs(mask is not None)
    return evaluate(q, k, v, mask, masked=lambda xp, s, allowed: s + np.where(allowed, 0.0, -1e30), **options)


@variant("bias/batch_on_heads", "ATTN-BROADCAST", "attention", seen=["ml-explore/mlx-lm#1903"])
def bias_batch_on_heads(q, k, v, mask=None, *, bias=None, **options):
    """A bias for each batch entry is laid over the heads."""
    _needs(_four(bias) and bias.shape[1] == 1 and bias.shape[0] > 1, q.ndim == 4)
    return evaluate(q, k, v, mask, bias=bias[np.arange(q.shape[1]) % bias.shape[0], 0], **options)


@variant("bias/first_entry_for_all", "ATTN-BROADCAST", "attention")
def bias_first_entry(q, k, v, mask=None, *, bias=None, **options):
    """The bias of the first batch entry serves all of them."""
    _needs(_four(bias) and bias.shape[0] > 1)
    return evaluate(q, k, v, mask, bias=bias[:1], **options)


@variant("bias/first_head_for_all", "ATTN-BROADCAST", "attention", seen=["ml-explore/mlx#2096"])
def bias_first_head(q, k, v, mask=None, *, bias=None, **options):
    """The bias of the first head serves all of them."""
    _needs(bias is not None and bias.ndim > 2 and bias.shape[-3] > 1)
    return evaluate(q, k, v, mask, bias=bias[..., :1, :, :], **options)


@variant("bias/transposed", "ATTN-BIAS", "attention")
def bias_transposed(q, k, v, mask=None, *, bias=None, **options):
    """The bias's axes of queries and keys are exchanged, which no shape shows where N = M."""
    _needs(bias is not None and bias.ndim > 1 and bias.shape[-1] == bias.shape[-2] > 1)
    return evaluate(q, k, v, mask, bias=np.swapaxes(bias, -1, -2), **options)


def _biased(change):
    def call(q, k, v, mask=None, *, bias=None, **options):
        _needs(bias is not None)
        added = lambda xp, s, b: np.where(np.isneginf(b), -np.inf, change(s, b))
        return evaluate(q, k, v, mask, bias=bias, biased=added, **options)

    return call


@variant("bias/negated", "ATTN-BIAS", "attention", seen=["meta-pytorch/attention-gym#86"])
def bias_negated(*args, **kwargs):
    """The bias is subtracted."""
    return _biased(lambda s, b: s - b)(*args, **kwargs)


@variant("bias/twice", "ATTN-BIAS", "attention")
def bias_twice(*args, **kwargs):
    """The bias is added twice, as by a caller and a kernel that both think it theirs."""
    return _biased(lambda s, b: s + 2.0 * b)(*args, **kwargs)


@variant("bias/multiplies", "ATTN-BIAS", "attention")
def bias_multiplies(*args, **kwargs):
    """The bias multiplies the scores."""
    return _biased(lambda s, b: s * b)(*args, **kwargs)


@variant("bias/low_excludes", "ATTN-BIAS", "attention")
def bias_low_excludes(*args, **kwargs):
    """A finite bias of -1e4 or less excludes its key: a row of such biases comes out as zeros."""
    return _biased(lambda s, b: np.where(b <= -1e4, -np.inf, s + b))(*args, **kwargs)


@variant("bias/lowest_overflows", "ATTN-BIAS", "attention", seen=["pytorch/pytorch#109517"])
def bias_lowest_overflows(q, k, v, mask=None, *, bias=None, **options):
    """Scores are multiplied by log2(e) in float32 before their maximum is taken: the lowest number overflows to NaN."""
    _needs(bias is not None)

    def overflowing(xp, s, b):
        with np.errstate(over="ignore"):
            wide = np.isneginf(((s + b) * np.log2(np.e)).astype(np.float32))
        return np.where(wide, -np.inf, s + b)

    def divide(out, lse, weights, s):
        return np.where(np.isneginf(lse)[..., None], np.nan, out), np.where(np.isneginf(lse), np.nan, lse)

    return evaluate(q, k, v, mask, bias=bias, biased=overflowing, finish=divide, **options)
