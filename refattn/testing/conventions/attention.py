"""The decision points of attention.

Values are rows of an identity, so that an output shows the weights themselves. Every head has its own multiple of it.
"""

from __future__ import annotations

import numpy as np

from refattn import masks
from refattn.attention import Dropout
from refattn.masks import Mask
from refattn.testing.conventions import Answer, Point
from refattn.testing.mechanisms.masks.variants import replaced

D = 16  # 1/√D is exact in binary
NATIVE = ("causal", "window")  # rules for which implementations have an argument of their own


# --- directed arguments ---------------------------------------------------------------------------------------------


def _drawn(seed, *shape):
    return np.random.default_rng(seed).integers(-2, 3, size=shape) / 2.0


def call(n=5, m=5, *, heads=2, kv_heads=None, v_heads=None, d_v=D, **options):
    """Arguments (1, H, N, D): drawn queries and keys, values that tell keys and heads apart."""
    kv_heads = heads if kv_heads is None else kv_heads
    v_heads = kv_heads if v_heads is None else v_heads
    q = _drawn(2017, 1, heads, n, D)
    k = _drawn(2020, 1, kv_heads, m, D)
    v = np.arange(1.0, v_heads + 1)[None, :, None, None] * np.eye(m, d_v)
    return {"q": q, "k": k, "v": v, **options}


def _alike_keys():
    """Scores of 0, whatever the scale is."""
    arguments = call()
    return {**arguments, "q": np.zeros_like(arguments["q"])}


def _mask(n=5, m=5):
    """A mask that leaves every query a key, and is neither triangular nor its own transpose."""
    mask = (np.arange(n)[:, None] * 3 + np.arange(m) * 2) % 5 < 3
    return mask[None, None]


def _bias(n=5, m=5):
    return _drawn(2021, 1, 2, n, m)


def _no_key_for(row):
    mask = np.ones((1, 1, 5, 5), dtype=bool)
    mask[..., row, :] = False
    return mask


def _poisoned(name, how):
    """A call in which key 1 is excluded and holds NaN; `how` names the argument that excludes it."""
    arguments = call()
    arguments[name][..., 1, :] = np.nan
    keep = np.ones((1, 1, 5, 5), dtype=bool)
    keep[..., 1] = False
    return {**arguments, **({"mask": keep} if how == "mask" else {"bias": np.where(keep, 0.0, -np.inf)})}


def _low_scores():
    """Scores of -65,536 for every key but the last, which the mask excludes and which has 0."""
    arguments = call()
    arguments["q"] = np.zeros_like(arguments["q"])
    arguments["k"] = np.zeros_like(arguments["k"])
    arguments["q"][..., 0] = 512.0
    arguments["k"][..., :-1, 0] = -512.0
    return {**arguments, "mask": np.broadcast_to(np.arange(5) < 4, (1, 1, 5, 5)).copy()}


def _rank_3():
    """A mask of three axes where the first may be the batch or the heads: both are 2."""
    arguments = call()
    q, k, v = (np.concatenate([x, x], axis=0) for x in (arguments["q"], arguments["k"], arguments["v"]))
    mask = np.concatenate([_mask()[0], _mask()[0, :, ::-1]], axis=0)
    return {"q": q, "k": k, "v": v, "mask": mask}


# --- what a call depends on -----------------------------------------------------------------------------------------


def rules(arguments) -> set[str]:
    """The names of the rules in the mask; of an array: 'array'."""
    mask = arguments.get("mask")
    if mask is None:
        return set()
    return set(_names(mask)) if isinstance(mask, Mask) else {"array"}


def _names(mask):
    if mask.name == "not" or not mask.parts:  # causality inside a NOT is no causality
        yield mask.name
        return
    for part in mask.parts:
        yield from _names(part)


def _given(*names):
    return lambda a: all(a.get(name) is not None and a.get(name) is not False for name in names)


def _masked(a):
    return bool(rules(a) - {*NATIVE, "everything"})


def _sizes(a):
    return a["q"].shape[-2], a["k"].shape[-2]


def _heads(a, name):
    return a[name].shape[-3] if a[name].ndim > 2 else 1


def _counted(a):
    """Whether the alignment is left to the implementation."""
    return a.get("q_positions") is None and a.get("k_positions") is None


def _causal(compare):
    return lambda a: "causal" in rules(a) and _counted(a) and compare(*_sizes(a))


def _rows_without_key(a):
    if a.get("mask") is None:
        return False
    positions = {name: a.get(name) for name in ("q_positions", "k_positions")}
    allowed = masks.visible(a["mask"], *_sizes(a), **positions, like=a["q"])
    return bool((~np.broadcast_to(allowed, (*allowed.shape[:-2], *_sizes(a))).any(axis=-1)).any())


def _rows_without_bias(a):
    return _given("bias")(a) and bool(np.isneginf(a["bias"]).all(axis=-1).any())


def _windows(mask):
    """The (left, right) of every window in a mask."""
    if isinstance(mask, Mask):
        if mask.name == "window":
            yield mask.arguments["left"], mask.arguments["right"]
        for part in mask.parts:
            yield from _windows(part)


def _looks_ahead(a):
    return any(right for _, right in _windows(a.get("mask")))


def _is_odd(x):
    return x is not None and not np.isfinite(x).all()


# --- rewriting what the reference refuses ---------------------------------------------------------------------------


def _mask_is(change):
    def rewrite(arguments):
        mask = arguments.get("mask")
        if isinstance(mask, np.ndarray) and mask.dtype.kind in "iu":
            return {**arguments, **change(mask)}
        return arguments

    return rewrite


def _integers():
    return call(mask=_mask().astype(np.int64))


def _rank_3_of_batch(arguments):
    mask = arguments.get("mask")
    if isinstance(mask, np.ndarray) and mask.ndim == 3 and arguments["q"].ndim == 4:
        return {**arguments, "mask": mask[:, None]}
    return arguments


def _left_on_both_sides(arguments):
    """A window with the left reach on both sides, for those whose causal windows count the query's own on the left."""
    if not _looks_ahead(arguments):
        return arguments
    both = replaced(arguments["mask"], "window", lambda left, right: masks.window(left + 1, left))
    return {**arguments, "mask": both}


def _all(test):
    return lambda x: bool(test(x).all())


def _finite_and_low(lse):
    return bool(np.isfinite(lse).all() and (lse < -1e3).all())


def _a(name, meaning, *variants, **more):
    return Answer(name, meaning, variants, **more)


def _p(name, title, clause, ask, exercised, *answers, **more):
    return Point(name, title, clause, "attention", ask, exercised, answers, **more)


_LEAKS = "NaN there is NaN in the output"
_MASK, _BIAS, _LSE = ("mask/boolean", None), ("bias/added", None), ("lse/base", None)

# In the order in which they are asked, and in which their variants are applied: what a mask means comes before where
# its rules lie, and the size of a window before its anchor.
POINTS = (
    # --- scale and shapes
    _p("mask/default", "without a mask", "ATTN-MASK", _alike_keys,
       lambda a: a.get("mask") is None,
       _a("none", "every key is seen"), _a("causal", "causal", "causal/assumed")),
    _p("scale/default", "the scale, if none is given", "ATTN-SCALE", call,
       lambda a: a.get("scale") is None,
       _a("root", "1/√D"), _a("one", "1", "scale/none"), _a("one_over_d", "1/D", "scale/one_over_d")),
    _p("scale/negative", "a negative scale", "ATTN-SCALE", lambda: call(scale=-0.5),
       lambda a: a.get("scale") is not None and a["scale"] < 0,
       _a("legal", "legal"), _a("nan", "NaN: √scale on q and k", "scale/square_root_on_both"),
       _a("ignored", "ignored", "scale/ignored"), _a("absolute", "taken as positive", "scale/absolute")),
    _p("values/size", "values of another head size", "ATTN-VALUES", lambda: call(d_v=24),
       lambda a: a["v"].shape[-1] != a["q"].shape[-1], _a("own", "legal")),
    _p("keys/none", "no keys (M = 0)", "ATTN-EMPTY", lambda: call(3, 0),
       lambda a: a["k"].shape[-2] == 0, _a("zero", "zeros"), _a("nan", "NaN", "empty_row/nan")),
    _p("heads/groups", "query head h of H reads", "HEADS-GROUP", lambda: call(heads=4, kv_heads=2),
       lambda a: _heads(a, "q") != _heads(a, "k") and _heads(a, "k") > 1,
       _a("block", "h // (H/G)"), _a("tiled", "h mod G", "gqa/tiled")),
    _p("heads/values", "keys and values of different heads", "HEADS-RATIO",
       lambda: call(heads=4, kv_heads=2, v_heads=4),
       lambda a: _heads(a, "k") != _heads(a, "v"),
       _a("refuses", "refused"), _a("independent", "each group its own")),
    # --- masks
    _p("mask/boolean", "True in a boolean mask", "ATTN-MASK", lambda: call(mask=_mask()), _masked,
       _a("attends", "may attend"), _a("excludes", "masked out", "mask/polarity"),
       _a("ignored", "ignored", "mask/ignored")),
    _p("mask/rank_3", "a mask of three axes", "ATTN-BROADCAST", _rank_3,
       lambda a: rules(a) == {"array"} and a["mask"].ndim == 3 and a["q"].ndim == 4,
       _a("heads", "one a head"), _a("batch", "one a sequence", rewrite=_rank_3_of_batch), needs=(_MASK,)),
    _p("mask/integer", "an integer mask", "ATTN-REFUSE", _integers,
       lambda a: rules(a) == {"array"} and a["mask"].dtype.kind in "iu",
       _a("refuses", "refused"),
       _a("boolean", "as truth values", rewrite=_mask_is(lambda mask: {"mask": mask != 0})),
       _a("added", "added to the scores", rewrite=_mask_is(lambda mask: {"mask": None, "bias": mask * 1.0})),
       needs=(_MASK,)),
    _p("mask/empty_row", "a query that the mask leaves no key", "ATTN-EMPTY", lambda: call(mask=_no_key_for(2)),
       lambda a: _masked(a) and _rows_without_key(a),
       _a("zero", "zeros"), _a("nan", "NaN", "empty_row/nan"), _a("mean", "mean of all values", "empty_row/mean"),
       needs=(_MASK,)),
    _p("mask/poison_key", "NaN in an excluded key", "ATTN-ABSENT", lambda: _poisoned("k", "mask"),
       lambda a: a.get("mask") is not None and _is_odd(a["k"]),
       _a("absent", "absent"), _a("leaks", _LEAKS, "mask/adds"), needs=(_MASK,)),
    _p("mask/poison_value", "NaN in an excluded value", "ATTN-ABSENT", lambda: _poisoned("v", "mask"),
       lambda a: a.get("mask") is not None and _is_odd(a["v"]),
       _a("absent", "absent"), _a("leaks", _LEAKS, "values/multiplied_by_zero"), needs=(_MASK,)),
    _p("mask/low_scores", "scores below -60,000 beside an excluded key", "ATTN-ABSENT", _low_scores,
       lambda a: False,
       _a("kept", "as any others"), _a("minus_1e4", "lose to a fill of -1e4", "fill/minus_1e4"),
       _a("minus_5e4", "give zeros: the maximum starts at -5e4", "fill/minus_5e4"), needs=(_MASK,)),
    # --- bias
    _p("bias/added", "a bias", "ATTN-BIAS", lambda: call(bias=_bias()), _given("bias"),
       _a("as_is", "added after the scale"), _a("scaled", "scaled too", "bias/scaled"),
       _a("ignored", "ignored", "bias/ignored")),
    _p("bias/empty_row", "a query whose biases are all -∞", "ATTN-BIAS",
       lambda: call(bias=np.where(_no_key_for(2), 0.0, -np.inf)), _rows_without_bias,
       _a("zero", "zeros"), _a("nan", "NaN", "empty_row/nan"),
       needs=(_BIAS,)),
    _p("bias/poison_key", "NaN in a key that a bias of -∞ excludes", "ATTN-BIAS", lambda: _poisoned("k", "bias"),
       lambda a: _given("bias")(a) and _is_odd(a["k"]),
       _a("absent", "absent"), _a("leaks", _LEAKS, "bias/infinity_adds"), needs=(_BIAS,)),
    # --- causality
    _p("causal/square", "causal, as many queries as keys", "MASK-CAUSAL", lambda: call(mask=masks.causal()),
       _causal(lambda n, m: True),
       _a("own_too", "own position and before"), _a("strict", "before the own position", "causal/strict"),
       _a("one_more", "one beyond the own position", "causal/one_more"), _a("ignored", "ignored", "causal/ignored")),
    _p("causal/mask", "causal and a mask", "ATTN-MASK",
       lambda: call(mask=masks.causal() & masks.padding(np.full((1, 1), 3))),
       lambda a: "causal" in rules(a) and (_masked(a) or a.get("bias") is not None),
       _a("both", "both apply"), _a("mask_wins", "causality is dropped", "causal/lost_with_mask"),
       _a("causal_wins", "the mask is dropped", "mask/lost_with_causal"),
       needs=(("causal/square", None), _MASK)),
    _p("causal/fewer_queries", "causal, fewer queries than keys: aligned", "ATTN-ALIGN",
       lambda: call(3, 7, mask=masks.causal()), _causal(lambda n, m: n < m),
       _a("bottom_right", "bottom right"), _a("top_left", "top left", "causal/top_left"),
       needs=(("causal/square", None),)),
    _p("causal/more_queries", "causal, more queries than keys: aligned", "ATTN-ALIGN",
       lambda: call(7, 3, mask=masks.causal()), _causal(lambda n, m: n > m),
       _a("bottom_right", "bottom right"), _a("top_left", "top left", "causal/top_left"),
       needs=(("causal/square", None),), part=lambda out: out[..., 4:, :]),
    _p("causal/empty_row", "a query before the first key", "ATTN-EMPTY", lambda: call(7, 3, mask=masks.causal()),
       lambda a: not _masked(a) and _rows_without_key(a),
       _a("zero", "zeros"), _a("nan", "NaN", "empty_row/nan"), _a("mean", "mean of all values", "empty_row/mean"),
       needs=(("causal/more_queries", "bottom_right"),), part=lambda out: out[..., :4, :]),
    # --- window
    _p("window/left", "a window's left number", "MASK-WINDOW",
       lambda: call(mask=masks.window(2, 0) & masks.causal()), lambda a: any(left is not None for left, _ in _windows(a.get("mask"))),
       _a("inclusive", "keys before the query"), _a("exclusive", "counts the query's own", "window/one_fewer_left"),
       _a("one_more", "one key more", "window/one_more_left"),
       _a("ignored", "ignored", "window/lost_with_causal")),
    _p("window/right", "a window's right number", "MASK-WINDOW", lambda: call(mask=masks.window(2, 3)),
       lambda a: _looks_ahead(a) or ("causal" not in rules(a) and any(right == 0 for _, right in _windows(a.get("mask")))),
       _a("inclusive", "keys after the query"), _a("symmetric", "ignored: as left", "window/symmetric"),
       _a("symmetric_inclusive", "ignored: as left, without the query's own", rewrite=_left_on_both_sides),
       _a("causal", "ignored: none after", "window/right_ignored"), _a("one_more", "one key more", "window/one_more_right"),
       needs=(("window/left", None),)),
    _p("window/anchor", "window, fewer queries than keys: aligned", "ATTN-ALIGN",
       lambda: call(3, 7, mask=masks.window(2, 0)), lambda a: "window" in rules(a) and _counted(a) and a["q"].shape[-2] != a["k"].shape[-2],
       _a("bottom_right", "bottom right"), _a("top_left", "top left", "window/top_left"),
       needs=(("window/left", None),)),
    # --- softcap, sinks, dropout
    _p("softcap/mask", "softcap and mask", "ATTN-ORDER", lambda: call(softcap=0.5, mask=_mask()),
       lambda a: bool(a.get("softcap")) and _masked(a),
       _a("before", "cap first"), _a("after", "cap last: excluded keys leak", "softcap/after_mask"),
       _a("ignored", "no cap", "softcap/ignored"), needs=(_MASK,)),
    _p("softcap/causal", "softcap and causality", "ATTN-ORDER", lambda: call(softcap=0.5, mask=masks.causal()),
       lambda a: bool(a.get("softcap")) and not _masked(a),
       _a("before", "cap first"), _a("after", "cap last: excluded keys leak", "softcap/after_mask"),
       _a("ignored", "no cap", "softcap/ignored"), needs=(("causal/square", None),)),
    _p("softcap/bias", "softcap and bias", "ATTN-ORDER", lambda: call(softcap=0.5, bias=2 * _bias()),
       lambda a: bool(a.get("softcap")) and a.get("bias") is not None,
       _a("before", "cap first"), _a("after", "bias first", "softcap/after_bias"), needs=(_BIAS,)),
    _p("sink/weights", "a learned sink", "ATTN-SINK", lambda: call(sinks=np.array([0.5, 2.0])), _given("sinks"),
       _a("denominator", "joins the denominator"), _a("ignored", "ignored", "sink/ignored"),
       _a("scaled", "scaled as scores are", "sink/scaled")),
    _p("dropout/kept", "dropout: kept weights", "ATTN-DROPOUT",
       lambda: call(dropout=Dropout(_mask() | _mask()[..., ::-1, :], 0.25)), _given("dropout"),
       _a("over_kept", "divided by 1 - rate"), _a("not_rescaled", "left as they are", "dropout/not_rescaled"),
       _a("renormalised", "divided by their sum", "dropout/renormalised"),
       _a("ignored", "nothing is dropped", "dropout/ignored")),
    # --- log-sum-exp
    _p("lse/base", "the log-sum-exp", "ATTN-LSE", lambda: call(return_lse=True), _given("return_lse"),
       _a("e", "natural"), _a("two", "to base 2", "lse/base_2"), result="lse"),
    _p("lse/bias", "the log-sum-exp with a bias", "ATTN-LSE", lambda: call(return_lse=True, bias=_bias()),
       _given("return_lse", "bias"), _a("included", "includes it"), result="lse", needs=(_LSE, _BIAS)),
    _p("lse/empty_row", "the log-sum-exp of a query without a key", "ATTN-EMPTY",
       lambda: call(7, 3, mask=masks.causal(), return_lse=True),
       lambda a: _given("return_lse")(a) and not _masked(a) and _rows_without_key(a),
       _a("minus_infinity", "-∞", shows=_all(np.isneginf)),
       _a("plus_infinity", "+∞", "empty_row/lse_plus_infinity", shows=_all(np.isposinf)),
       _a("finite", "a large negative number", shows=_finite_and_low),
       result="lse", needs=(_LSE, ("causal/more_queries", "bottom_right")), part=lambda lse: lse[..., :4]),
    _p("lse/masked_row", "the log-sum-exp of a query that the mask leaves no key", "ATTN-EMPTY",
       lambda: call(mask=_no_key_for(2), return_lse=True),
       lambda a: _given("return_lse")(a) and _masked(a) and _rows_without_key(a),
       _a("minus_infinity", "-∞", shows=_all(np.isneginf)),
       _a("plus_infinity", "+∞", "empty_row/lse_plus_infinity", shows=_all(np.isposinf)),
       _a("finite", "a large negative number", shows=_finite_and_low),
       result="lse", needs=(_LSE, _MASK), part=lambda lse: lse[..., 2:3]),
    _p("lse/sink", "the log-sum-exp with a sink", "ATTN-LSE",
       lambda: call(sinks=np.array([0.5, 2.0]), return_lse=True), _given("sinks", "return_lse"),
       _a("without", "leaves it out"), _a("included", "includes it", "sink/in_lse"),
       result="lse", needs=(_LSE, ("sink/weights", None))),
)  # fmt: skip
