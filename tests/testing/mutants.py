"""Somebody else's kernels, each with one mistake: plain NumPy in float32, written without the variants at hand.

`ATTENTION`, `GROUPED`, `OTHERS` are name -> callable, or name -> (reference function, callable). `check` must find
every one of them broken. What the mistakes are was taken from reports of real bugs.
"""

import math

import numpy as np

from refattn import masks

F = np.float32
MINUS = F(-np.inf)


class Kernel:
    """A right kernel, stage by stage; a mutant replaces a stage."""

    def __call__(self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
                 q_positions=None, k_positions=None, return_lse=False):  # fmt: skip
        with np.errstate(all="ignore"):
            self.o = {"bias": bias, "scale": scale, "softcap": softcap, "sinks": sinks, "dropout": dropout,
                      "mask": mask, "return_lse": return_lse, "q_positions": q_positions}  # fmt: skip
            q, k, v = (np.asarray(x, F) for x in (q, k, v))
            q, k, v = self.inputs(q, k, v)
            self.q, self.k, self.v = q, k, v
            n, m = q.shape[-2], k.shape[-2]
            lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
            s = self.scores(q, k)
            if softcap:
                s = self.cap(s, F(softcap))
            if bias is not None:
                s = self.biased(s, np.asarray(bias, F))
            seen = self.seen(mask, n, m, q_positions, k_positions)
            seen = np.broadcast_to(True if seen is None else seen, np.broadcast_shapes(s.shape, np.shape(seen)))
            s = self.masked(np.broadcast_to(s, np.broadcast_shapes(s.shape, seen.shape)), seen)
            top = self.peak(s.max(axis=-1, keepdims=True, initial=-np.inf))
            safe = np.where(np.isneginf(top), F(0), top)
            w = self.exp(s - safe)
            total = w.sum(axis=-1, keepdims=True)
            lse = self.lse(safe, total, s)
            w = self.normalised(w, total, safe, None if sinks is None else np.asarray(sinks, F)[..., None, None])
            if dropout is not None:
                w = self.dropped(w, np.asarray(dropout[0]), F(dropout[1]))
            out = self.out(w, v, seen)
            out = np.broadcast_to(out, (*np.broadcast_shapes(lead, out.shape[:-2]), *out.shape[-2:])).astype(F)
            lse = np.broadcast_to(lse, (*out.shape[:-1], 1))
            out, lse = self.finish(out, lse, s, seen)
            return (out, lse[..., 0]) if return_lse else out

    def inputs(self, q, k, v):
        return q, k, v

    def factor(self):
        scale = self.o["scale"]
        return F(1 / math.sqrt(self.q.shape[-1]) if scale is None else scale)

    def scores(self, q, k):
        return self.factor() * (q @ np.swapaxes(k, -1, -2))

    def cap(self, s, c):
        return c * np.tanh(s / c)

    def biased(self, s, b):
        return np.where(np.isneginf(b), MINUS, s + b)

    def seen(self, mask, n, m, qp, kp):
        if isinstance(mask, masks.Mask):
            return self.rule(mask, n, m, qp, kp)
        return mask

    def rule(self, mask, n, m, qp, kp):
        return mask.dense(n, m, q_positions=qp, k_positions=kp)

    def masked(self, s, seen):
        return np.where(seen, s, MINUS)

    def peak(self, top):
        return top

    def exp(self, x):
        return np.exp(x)

    def lse(self, top, total, s):
        return np.log(total) + top

    def normalised(self, w, total, top, z):
        if z is not None:
            joint = np.maximum(top, z)
            joint = np.where(np.isneginf(joint), F(0), joint)
            w, total = w * np.exp(top - joint), total * np.exp(top - joint) + np.exp(z - joint)
        return w / np.where(total == 0, F(1), total)

    def dropped(self, w, keep, rate):
        return np.where(keep, w / (F(1) - rate), F(0))

    def out(self, w, v, seen):
        bad = ~np.isfinite(v)
        if not bad.any():
            return w @ v
        present = (np.broadcast_to(seen, w.shape) & (w > 0)).astype(F)
        clean = w @ np.where(bad, F(0), v)
        for value in (np.inf, -np.inf, np.nan):
            hit = present @ (np.isnan(v) if np.isnan(value) else v == value).astype(F) > 0
            clean = np.where(hit, clean + F(value), clean)
        return clean

    def finish(self, out, lse, s, seen):
        return out, lse


ATTENTION: dict = {}


def mutant(name, **stages):
    """Register a kernel in which some stages are replaced; a stage gets the kernel first."""
    ATTENTION[name] = type(name, (Kernel,), stages)()


def leaf(mask, name):
    """The rule called `name` in a mask, if there is one."""
    if mask.name == name:
        return mask
    return next((found for part in mask.parts if (found := leaf(part, name)) is not None), None)


def rebuilt(mask, name, make):
    """The mask with the rule called `name` made anew from its arguments."""
    if mask.name == name:
        return make(**mask.arguments)
    if not mask.parts:
        return mask
    parts = [rebuilt(part, name, make) for part in mask.parts]
    if mask.name == "not":
        return ~parts[0]
    return parts[0] & parts[1] if mask.name == "and" else parts[0] | parts[1]


def rule_of(name, make):
    """A stage `rule` in which one kind of rule is read differently."""

    def rule(self, mask, n, m, qp, kp):
        return rebuilt(mask, name, make).dense(n, m, q_positions=qp, k_positions=kp)

    return rule


def fill(value):
    return lambda self, s, seen: np.where(seen, s, F(value))


# --- empty rows, fills, maxima --------------------------------------------------------------------------------------

mutant("empty_row_nan", normalised=lambda self, w, total, top, z: w / total)
mutant("fill_1e4", masked=fill(-1e4))
mutant("fill_1e5", masked=fill(-1e5))
mutant("fill_1e9", masked=fill(-1e9))
mutant("fill_5e4", masked=fill(-5e4))
mutant("fill_finfo_min", masked=fill(np.finfo(F).min))
mutant("fill_finfo_min_07", masked=fill(-0.7 * np.finfo(F).max))
mutant("fill_finfo_min_float16", masked=fill(-65504))
mutant("fill_100", masked=fill(-100))
mutant("fill_added", masked=lambda self, s, seen: s + np.where(seen, F(0), np.finfo(F).min))
mutant("fill_added_1e4", masked=lambda self, s, seen: s + np.where(seen, F(0), F(-1e4)))
mutant("fill_added_twice", masked=lambda self, s, seen: s + 2 * np.where(seen, F(0), np.finfo(F).min))
mutant("minus_infinity_added", masked=lambda self, s, seen: s + np.where(seen, F(0), MINUS))
mutant("minus_infinity_times", masked=lambda self, s, seen: s + (~seen).astype(F) * MINUS)
mutant("mask_multiplies", masked=lambda self, s, seen: s * seen)
mutant("mask_after_softmax", masked=lambda self, s, seen: s, out=lambda self, w, v, seen: (w * seen) @ np.nan_to_num(v))
mutant("mask_plus_infinity", masked=lambda self, s, seen: np.where(seen, s, F(np.inf)))
mutant("max_from_zero", peak=lambda self, top: np.maximum(top, F(0)))
mutant("max_from_minus_1e4", peak=lambda self, top: np.maximum(top, F(-1e4)))
mutant("max_from_minus_5e4", peak=lambda self, top: np.maximum(top, F(-5e4)))
mutant("max_from_1e_38", peak=lambda self, top: np.maximum(top, F(1e-38)))
mutant("no_max", peak=lambda self, top: np.zeros_like(top))
mutant("max_of_everything", peak=lambda self, top: np.full_like(top, top.max() if top.size else 0))
mutant("clamped_scores", masked=lambda self, s, seen: np.where(seen, np.clip(s, -100, 100), MINUS))
mutant("clamped_exponent", exp=lambda self, x: np.exp(np.maximum(x, F(-10))) * (x > -np.inf))
mutant("eps_in_denominator", normalised=lambda self, w, total, top, z: w / (total + F(1e-3)))
mutant(
    "zero_scores_masked", scores=lambda self, q, k: (lambda s: np.where(s == 0, MINUS, s))(Kernel.scores(self, q, k))
)
mutant(
    "mean_on_empty_row",
    finish=lambda self, out, lse, s, seen: (
        np.where(np.isneginf(s).all(-1, keepdims=True), self.v.mean(-2, keepdims=True) if self.v.shape[-2] else 0, out),
        lse,
    ),
)
mutant(
    "one_on_empty_row",
    finish=lambda self, out, lse, s, seen: (
        np.where(np.isneginf(s).all(-1, keepdims=True) if s.shape[-1] else False, F(1), out),
        lse,
    ),
)
mutant("lse_plus_infinity", finish=lambda self, out, lse, s, seen: (out, np.where(np.isneginf(lse), F(np.inf), lse)))
mutant("lse_zero_on_empty_row", finish=lambda self, out, lse, s, seen: (out, np.where(np.isneginf(lse), F(0), lse)))
mutant("lse_nan_on_empty_row", finish=lambda self, out, lse, s, seen: (out, np.where(np.isneginf(lse), F(np.nan), lse)))
mutant("lse_finite_on_empty_row", finish=lambda self, out, lse, s, seen: (out, np.maximum(lse, F(-49993.98))))
mutant("no_keys_nan", finish=lambda self, out, lse, s, seen: (out if s.shape[-1] else out + F(np.nan), lse))

# --- masks ----------------------------------------------------------------------------------------------------------


def dense_only(change):
    """A stage `seen` that changes masks given as arrays."""

    def seen(self, mask, n, m, qp, kp):
        return change(self, mask) if isinstance(mask, np.ndarray) else Kernel.seen(self, mask, n, m, qp, kp)

    return seen


def _on_heads(self, mask):
    if mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[0] == self.q.shape[1]:
        return mask[:, 0]
    return mask


def _tiled(self, mask):
    if mask.ndim == 4 and mask.shape[1] == 1 and self.q.ndim == 4:
        b, h = self.q.shape[:2]
        return np.tile(np.broadcast_to(mask, (b, 1, *mask.shape[2:]))[:, 0], (h, 1, 1)).reshape(b, h, *mask.shape[2:])
    return mask


mutant("polarity", seen=lambda self, mask, *rest: None if mask is None else ~Kernel.seen(self, mask, *rest))
mutant("mask_ignored", seen=lambda self, *rest: None)
mutant("mask_array_ignored", seen=dense_only(lambda self, mask: None))
mutant("mask_batch_on_heads", seen=dense_only(_on_heads))
mutant("mask_tiled", seen=dense_only(_tiled))
mutant("mask_first_batch", seen=dense_only(lambda self, mask: mask[:1] if mask.ndim > 2 else mask))
mutant("mask_first_head", seen=dense_only(lambda self, mask: mask[:, :1] if mask.ndim == 4 else mask))
mutant("mask_first_row", seen=dense_only(lambda self, mask: mask[..., :1, :]))
mutant(
    "mask_transposed",
    seen=dense_only(
        lambda self, mask: np.swapaxes(mask, -1, -2) if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2] else mask
    ),
)
mutant(
    "mask_last_column_lost",
    seen=dense_only(lambda self, mask: mask | (np.arange(mask.shape[-1]) == mask.shape[-1] - 1)),
)
mutant("mask_any_over_batch", seen=dense_only(lambda self, mask: mask.any(0, keepdims=True) if mask.ndim > 2 else mask))
mutant(
    "and_becomes_or",
    rule=lambda self, mask, n, m, qp, kp: ((mask.parts[0] | mask.parts[1]) if mask.name == "and" else mask).dense(
        n, m, q_positions=qp, k_positions=kp
    ),
)
mutant(
    "only_first_rule",
    rule=lambda self, mask, n, m, qp, kp: (mask.parts[0] if mask.name == "and" else mask).dense(
        n, m, q_positions=qp, k_positions=kp
    ),
)
mutant(
    "only_second_rule",
    rule=lambda self, mask, n, m, qp, kp: (mask.parts[1] if mask.name == "and" else mask).dense(
        n, m, q_positions=qp, k_positions=kp
    ),
)
mutant(
    "top_left",
    rule=lambda self, mask, n, m, qp, kp: mask.dense(
        n, m, q_positions=np.arange(n) if qp is None else qp, k_positions=kp
    ),
)
mutant(
    "top_left_if_wide",
    rule=lambda self, mask, n, m, qp, kp: mask.dense(
        n, m, q_positions=np.arange(n) if qp is None and n < m else qp, k_positions=kp
    ),
)
mutant(
    "top_left_if_tall",
    rule=lambda self, mask, n, m, qp, kp: mask.dense(
        n, m, q_positions=np.arange(n) if qp is None and n > m else qp, k_positions=kp
    ),
)
mutant(
    "decode_sees_first_key_only",
    rule=lambda self, mask, n, m, qp, kp: mask.dense(
        n, m, q_positions=np.zeros(1, int) if qp is None and n == 1 else qp, k_positions=kp
    ),
)
mutant(
    "tall_sees_everything",
    rule=lambda self, mask, n, m, qp, kp: (
        np.ones((n, m), bool) if n > m else mask.dense(n, m, q_positions=qp, k_positions=kp)
    ),
)
mutant("positions_ignored", rule=lambda self, mask, n, m, qp, kp: mask.dense(n, m))
mutant("causal_strict", rule=rule_of("causal", lambda: masks.window(None, 0) & ~masks.window(0, 0)))
mutant("causal_one_more", rule=rule_of("causal", lambda: masks.window(None, 1)))
mutant("causal_never", rule=rule_of("causal", masks.everything))
mutant("causal_reversed", rule=rule_of("causal", lambda: masks.window(0, None)))
mutant(
    "window_plus_one",
    rule=rule_of("window", lambda left, right: masks.window(left + 1 if left is not None else None, right)),
)
mutant(
    "window_minus_one",
    rule=rule_of("window", lambda left, right: masks.window(max(left - 1, 0) if left is not None else None, right)),
)
mutant(
    "window_right_plus_one",
    rule=rule_of("window", lambda left, right: masks.window(left, right + 1 if right is not None else None)),
)
mutant("window_symmetric", rule=rule_of("window", lambda left, right: masks.window(left, left)))
mutant("window_right_ignored", rule=rule_of("window", lambda left, right: masks.window(left, 0)))
mutant("window_right_unbounded", rule=rule_of("window", lambda left, right: masks.window(left, None)))
mutant("window_left_ignored", rule=rule_of("window", lambda left, right: masks.window(None, right)))
mutant("window_swapped", rule=rule_of("window", lambda left, right: masks.window(right, left)))
mutant("window_zero_unbounded", rule=rule_of("window", lambda left, right: masks.window(left or None, right or None)))
mutant(
    "window_needs_causal",
    rule=lambda self, mask, n, m, qp, kp: (
        mask
        if leaf(mask, "causal") is not None or leaf(mask, "window") is None
        else rebuilt(mask, "window", lambda **_: masks.everything())
    ).dense(n, m, q_positions=qp, k_positions=kp),
)
mutant(
    "window_rounded_to_16",
    rule=rule_of("window", lambda left, right: masks.window(left if left is None else -(-left // 16) * 16, right)),
)
mutant(
    "padding_one_more", rule=rule_of("padding", lambda lengths, starts: masks.padding(np.asarray(lengths) + 1, starts))
)
mutant(
    "padding_one_less",
    rule=rule_of("padding", lambda lengths, starts: masks.padding(np.maximum(np.asarray(lengths) - 1, 0), starts)),
)
mutant(
    "padding_of_first",
    rule=rule_of("padding", lambda lengths, starts: masks.padding(np.asarray(lengths).reshape(-1)[0], starts)),
)
mutant("padding_lost", rule=rule_of("padding", lambda **_: masks.everything()))


def lost(what, when):
    """A stage `__call__` in which an option disappears when another is given."""

    def call(self, q, k, v, mask=None, **o):
        options = {"mask": mask, **o}
        given = options.get(when) is not None and options.get(when) is not False
        if what == "causal":
            if given and isinstance(mask, masks.Mask):
                options["mask"] = rebuilt(mask, "causal", masks.everything)
        elif given:
            options[what] = None
        return Kernel.__call__(self, q, k, v, **options)

    return call


for _what in ("causal", "mask", "bias", "scale", "softcap", "sinks", "dropout"):
    for _when in ("mask", "bias", "scale", "softcap", "sinks", "dropout", "return_lse"):
        if _what != _when and (_what, _when) != ("causal", "mask"):
            mutant(f"{_what}_lost_with_{_when}", __call__=lost(_what, _when))
mutant(
    "causal_lost_in_3d",
    rule=lambda self, mask, n, m, qp, kp: (
        mask if self.q.ndim == 4 else rebuilt(mask, "causal", masks.everything)
    ).dense(n, m, q_positions=qp, k_positions=kp),
)
mutant(
    "causal_if_no_mask",
    seen=lambda self, mask, n, m, *rest: (
        np.tri(n, m, m - n, dtype=bool) if mask is None and n > 1 else Kernel.seen(self, mask, n, m, *rest)
    ),
)
mutant(
    "causal_if_square",
    seen=lambda self, mask, n, m, *rest: (
        np.tri(n, m, dtype=bool) if mask is None and n == m > 1 else Kernel.seen(self, mask, n, m, *rest)
    ),
)

# --- scores, scale, cap, bias ---------------------------------------------------------------------------------------

mutant("scale_one", factor=lambda self: F(1 if self.o["scale"] is None else self.o["scale"]))
mutant("scale_1_over_d", factor=lambda self: F(1 / self.q.shape[-1] if self.o["scale"] is None else self.o["scale"]))
mutant("scale_default_always", factor=lambda self: F(1 / math.sqrt(self.q.shape[-1])))
mutant("scale_or_default", factor=lambda self: F(self.o["scale"] or 1 / math.sqrt(self.q.shape[-1])))
mutant(
    "scale_dv",
    factor=lambda self: F(1 / math.sqrt(max(self.v.shape[-1], 1)) if self.o["scale"] is None else self.o["scale"]),
)
mutant(
    "scale_m",
    factor=lambda self: F(1 / math.sqrt(max(self.k.shape[-2], 1)) if self.o["scale"] is None else self.o["scale"]),
)
mutant("scale_absolute", factor=lambda self: F(abs(Kernel.factor(self))))
mutant("scale_twice", factor=lambda self: Kernel.factor(self) ** 2)
mutant("scale_divides", factor=lambda self: F(1) / Kernel.factor(self))
mutant("scale_bf16", factor=lambda self: F(np.round(Kernel.factor(self) * 2**9) / 2**9 + 2**-10))
mutant("scale_root_on_both", factor=lambda self: np.sqrt(Kernel.factor(self)) ** 2)
mutant("scale_with_log2e", factor=lambda self: Kernel.factor(self) * F(1.4426950408889634))
mutant("exp2", exp=lambda self, x: np.exp2(x))
mutant(
    "scale_after_bias",
    scores=lambda self, q, k: q @ np.swapaxes(k, -1, -2),
    biased=lambda self, s, b: (s + b) * self.factor(),
)
mutant("last_feature_lost", scores=lambda self, q, k: self.factor() * (q[..., :-1] @ np.swapaxes(k[..., :-1], -1, -2)))
mutant(
    "features_of_8",
    scores=lambda self, q, k: (
        self.factor()
        * (q[..., : max(q.shape[-1] // 8 * 8, 1)] @ np.swapaxes(k[..., : max(q.shape[-1] // 8 * 8, 1)], -1, -2))
    ),
)
mutant(
    "scores_float16",
    scores=lambda self, q, k: self.factor() * (q @ np.swapaxes(k, -1, -2)).astype(np.float16).astype(F),
)
mutant(
    "scores_transposed",
    scores=lambda self, q, k: (lambda s: np.swapaxes(s, -1, -2) if s.shape[-1] == s.shape[-2] else s)(
        Kernel.scores(self, q, k)
    ),
)
mutant("cap_ignored", cap=lambda self, s, c: s)
mutant("cap_s_tanh_s", cap=lambda self, s, c: s * np.tanh(s))
mutant("cap_without_factor", cap=lambda self, s, c: np.tanh(s / c))
mutant("cap_clip", cap=lambda self, s, c: np.clip(s, -c, c))
mutant("cap_sigmoid", cap=lambda self, s, c: c * (2 / (1 + np.exp(-s / c)) - 1))
mutant(
    "cap_after_mask",
    cap=lambda self, s, c: s,
    masked=lambda self, s, seen: (lambda x, c: F(c) * np.tanh(x / F(c)) if c else x)(
        np.where(seen, s, MINUS), self.o["softcap"]
    ),
)
mutant(
    "cap_after_bias",
    cap=lambda self, s, c: s,
    masked=lambda self, s, seen: np.where(
        seen, (lambda x, c: F(c) * np.tanh(x / F(c)) if c else x)(s, self.o["softcap"]), MINUS
    ),
)
mutant(
    "cap_before_scale",
    scores=lambda self, q, k: q @ np.swapaxes(k, -1, -2) if self.o["softcap"] else Kernel.scores(self, q, k),
    cap=lambda self, s, c: self.factor() * c * np.tanh(s / c),
)
mutant("bias_ignored", biased=lambda self, s, b: s)
mutant("bias_subtracted", biased=lambda self, s, b: np.where(np.isneginf(b), MINUS, s - b))
mutant("bias_twice", biased=lambda self, s, b: Kernel.biased(self, s, 2 * b))
mutant("bias_scaled", biased=lambda self, s, b: Kernel.biased(self, s, self.factor() * b))
mutant("bias_unscaled", biased=lambda self, s, b: Kernel.biased(self, s, b / self.factor()))
mutant("bias_leaks_nan", biased=lambda self, s, b: s + b)
mutant("bias_threshold", biased=lambda self, s, b: np.where(b < -1e4, MINUS, s + b))
mutant("bias_first_head", biased=lambda self, s, b: Kernel.biased(self, s, b[..., :1, :, :] if b.ndim > 2 else b))
mutant("bias_first_batch", biased=lambda self, s, b: Kernel.biased(self, s, b[:1] if b.ndim == 4 else b))
mutant("bias_first_row", biased=lambda self, s, b: Kernel.biased(self, s, b[..., :1, :] if b.ndim > 1 else b))
mutant("bias_infinite_dropped", biased=lambda self, s, b: s + np.where(np.isneginf(b), F(0), b))
mutant(
    "bias_log2e_overflow",
    biased=lambda self, s, b: Kernel.biased(self, s, b) * F(1.4426950408889634),
    exp=lambda self, x: np.exp2(x) if self.o["bias"] is not None else np.exp(x),
    normalised=lambda self, w, total, top, z: w / total,
)
mutant("bias_as_mask", biased=lambda self, s, b: np.where(b < 0, MINUS, s))

# --- sinks, dropout, lse --------------------------------------------------------------------------------------------

mutant("sink_ignored", normalised=lambda self, w, total, top, z: Kernel.normalised(self, w, total, top, None))
mutant(
    "sink_after_shift",
    normalised=lambda self, w, total, top, z: (
        Kernel.normalised(self, w, total, top, None) if z is None else w / (total + np.exp(z))
    ),
)
mutant(
    "sink_as_one",
    normalised=lambda self, w, total, top, z: (
        Kernel.normalised(self, w, total, top, None) if z is None else w / (total + F(1))
    ),
)
mutant(
    "sink_scaled",
    normalised=lambda self, w, total, top, z: Kernel.normalised(
        self, w, total, top, None if z is None else z * self.factor()
    ),
)
mutant(
    "sink_first",
    normalised=lambda self, w, total, top, z: Kernel.normalised(
        self, w, total, top, None if z is None else z.reshape(-1)[0].reshape(1, 1)
    ),
)
mutant(
    "sink_reversed",
    normalised=lambda self, w, total, top, z: Kernel.normalised(
        self, w, total, top, None if z is None or z.ndim < 3 else z[..., ::-1, :, :]
    ),
)
mutant(
    "sink_minus",
    normalised=lambda self, w, total, top, z: Kernel.normalised(self, w, total, top, None if z is None else -z),
)
mutant(
    "sink_to_mean",
    out=lambda self, w, v, seen: (
        Kernel.out(self, w, v, seen)
        + (0 if self.o["sinks"] is None else (1 - w.sum(-1, keepdims=True)) * np.nan_to_num(v).mean(-2, keepdims=True))
    ),
)
mutant(
    "sink_in_lse",
    finish=lambda self, out, lse, s, seen: (
        out,
        lse if self.o["sinks"] is None else np.logaddexp(lse, np.asarray(self.o["sinks"], F)[..., None, None]),
    ),
)
mutant("dropout_ignored", dropped=lambda self, w, keep, rate: w)
mutant("dropout_unscaled", dropped=lambda self, w, keep, rate: w * keep)
mutant("dropout_over_rate", dropped=lambda self, w, keep, rate: w * keep / rate)
mutant("dropout_times_keep", dropped=lambda self, w, keep, rate: w * keep * (1 - rate))
mutant("dropout_inverted", dropped=lambda self, w, keep, rate: w * ~keep / (1 - rate))
mutant(
    "dropout_renormalised",
    dropped=lambda self, w, keep, rate: w * keep / np.maximum((w * keep).sum(-1, keepdims=True), 1e-30),
)
mutant("lse_base_2", lse=lambda self, top, total, s: np.log2(total) + top / F(math.log(2)))
mutant("lse_log2_plus_max", lse=lambda self, top, total, s: np.log2(total) + top)
mutant("lse_times_ln2", lse=lambda self, top, total, s: Kernel.lse(self, top, total, s) * F(math.log(2)))
mutant("lse_plus_ln2", lse=lambda self, top, total, s: Kernel.lse(self, top, total, s) + F(math.log(2)))
mutant("lse_without_max", lse=lambda self, top, total, s: np.log(total))
mutant("lse_max", lse=lambda self, top, total, s: np.where(total == 0, MINUS, top))
mutant("lse_sum", lse=lambda self, top, total, s: total)
mutant("lse_negative", lse=lambda self, top, total, s: -Kernel.lse(self, top, total, s))
mutant("lse_unscaled", lse=lambda self, top, total, s: Kernel.lse(self, top, total, s) / self.factor())
mutant(
    "lse_bfloat16",
    lse=lambda self, top, total, s: (
        Kernel.lse(self, top, total, s).astype(F).view(np.uint32) & np.uint32(0xFFFF0000)
    ).view(F),
)
mutant("lse_float16", lse=lambda self, top, total, s: Kernel.lse(self, top, total, s).astype(np.float16).astype(F))
mutant(
    "lse_heads_last", finish=lambda self, out, lse, s, seen: (out, np.swapaxes(lse, -2, -3) if lse.ndim > 2 else lse)
)
mutant(
    "lse_heads_last_reshaped",
    finish=lambda self, out, lse, s, seen: (out, np.swapaxes(lse, -2, -3).reshape(lse.shape) if lse.ndim > 2 else lse),
)
mutant(
    "lse_of_heads_reversed", finish=lambda self, out, lse, s, seen: (out, lse[..., ::-1, :, :] if lse.ndim > 2 else lse)
)

# --- keys, tiles, indices, layout -----------------------------------------------------------------------------------


def hidden(which):
    """A stage `masked` that hides some keys from everybody."""
    return lambda self, s, seen: np.where(seen & ~which(np.arange(s.shape[-1]), s.shape[-1]), s, MINUS)


def online(tile, forget_output=True, forget_total=True, starts=None):
    """A stage `finish` by an online softmax that forgets to rescale."""

    def finish(self, out, lse, s, seen):
        if self.o["dropout"] is not None or self.o["sinks"] is not None or not np.isfinite(self.v).all():
            return out, lse
        m = s.shape[-1]
        top = np.full((*s.shape[:-1], 1), MINUS)
        total, acc = np.zeros_like(top), np.zeros((*s.shape[:-1], self.v.shape[-1]), F)
        for start in range(0, m, tile):
            part = s[..., start : start + tile]
            new = np.maximum(top, part.max(-1, keepdims=True))
            safe = np.where(np.isneginf(new), F(0), new)
            w, old = np.exp(part - safe), np.exp(top - safe)
            total = total * (1 if forget_total else old) + w.sum(-1, keepdims=True)
            acc = acc * (1 if forget_output else old) + w @ self.v[..., start : start + tile, :]
            top = new
        return acc / np.where(total == 0, F(1), total), lse

    return finish


mutant("last_key_lost", masked=hidden(lambda j, m: j == m - 1))
mutant("last_key_lost_if_odd", masked=hidden(lambda j, m: (j == m - 1) & (m % 2 == 1)))
mutant("first_key_lost", masked=hidden(lambda j, m: j == 0))
mutant("tail_of_32_lost", masked=hidden(lambda j, m: (j >= m // 32 * 32) & (m > 32)))
mutant("tail_of_64_lost", masked=hidden(lambda j, m: (j >= m // 64 * 64) & (m > 64)))
mutant("tail_of_128_lost", masked=hidden(lambda j, m: (j >= m // 128 * 128) & (m > 128)))
mutant("only_first_page", masked=hidden(lambda j, m: j >= 64))
mutant("only_first_1024_keys", masked=hidden(lambda j, m: j >= 1024))
mutant("second_page_lost", masked=hidden(lambda j, m: (j >= 16) & (j < 32)))
mutant(
    "own_key_lost",
    masked=lambda self, s, seen: np.where(
        seen & ~np.eye(*s.shape[-2:], s.shape[-1] - s.shape[-2], dtype=bool), s, MINUS
    ),
)
mutant("rescale_forgotten_16", finish=online(16))
mutant("rescale_forgotten_64", finish=online(64))
mutant("rescale_of_output_forgotten_16", finish=online(16, forget_total=False))
mutant("rescale_of_output_forgotten_64", finish=online(64, forget_total=False))
mutant("rescale_of_sum_forgotten_64", finish=online(64, forget_output=False))
mutant(
    "index_int8",
    inputs=lambda self, q, k, v: (q, k[..., np.arange(k.shape[-2]) % 256, :], v[..., np.arange(k.shape[-2]) % 256, :]),
)
mutant("value_index_int8", inputs=lambda self, q, k, v: (q, k, v[..., np.arange(k.shape[-2]) % 256, :]))
mutant(
    "offset_int16",
    inputs=lambda self, q, k, v: (
        q,
        np.take(k.reshape(*k.shape[:-2], -1), np.arange(k.shape[-2] * k.shape[-1]) % 2**16, axis=-1).reshape(k.shape),
        v,
    ),
)
mutant(
    "offset_int8",
    inputs=lambda self, q, k, v: (
        q,
        np.take(k.reshape(*k.shape[:-2], -1), np.arange(k.shape[-2] * k.shape[-1]) % 2**8, axis=-1).reshape(k.shape),
        v,
    ),
)
mutant("query_index_int5", inputs=lambda self, q, k, v: (q[..., np.arange(q.shape[-2]) % 32, :], k, v))
mutant("values_shifted", inputs=lambda self, q, k, v: (q, k, np.roll(v, 1, axis=-2)))
mutant("keys_reversed", inputs=lambda self, q, k, v: (q, k[..., ::-1, :], v))
mutant("heads_swapped_in_v", inputs=lambda self, q, k, v: (q, k, v[..., ::-1, :, :] if v.ndim > 2 else v))
mutant("batch_swapped_in_k", inputs=lambda self, q, k, v: (q, k[::-1] if k.ndim > 3 else k, v))
mutant("first_batch_for_all", inputs=lambda self, q, k, v: (q, np.broadcast_to(k[:1], k.shape) if k.ndim > 3 else k, v))
mutant(
    "zero_after_first_batch",
    finish=lambda self, out, lse, s, seen: (
        out * (np.arange(out.shape[0]) == 0)[:, None, None, None] if out.ndim == 4 else out,
        lse,
    ),
)
mutant(
    "last_query_zero",
    finish=lambda self, out, lse, s, seen: (
        out * (np.arange(out.shape[-2]) < out.shape[-2] - (out.shape[-2] > 16))[:, None],
        lse,
    ),
)
mutant(
    "last_column_zero",
    finish=lambda self, out, lse, s, seen: (
        out * (np.arange(out.shape[-1]) < max(out.shape[-1] - out.shape[-1] % 8, 1)),
        lse,
    ),
)
mutant(
    "dv_is_d",
    finish=lambda self, out, lse, s, seen: (
        np.concatenate([out, np.zeros((*out.shape[:-1], max(self.q.shape[-1] - out.shape[-1], 0)), F)], -1)[
            ..., : self.q.shape[-1]
        ],
        lse,
    ),
)
mutant(
    "softmax_over_queries", normalised=lambda self, w, total, top, z: w / np.maximum(w.sum(-2, keepdims=True), 1e-30)
)
mutant("not_normalised", normalised=lambda self, w, total, top, z: w)
mutant(
    "normalised_twice",
    normalised=lambda self, w, total, top, z: (
        Kernel.normalised(self, w, total, top, z) / np.where(total == 0, 1, total)
    ),
)
mutant("relu_attention", exp=lambda self, x: np.where(np.isneginf(x), F(0), np.maximum(1 + x, 0)))
mutant(
    "zero_padding_counts",
    normalised=lambda self, w, total, top, z: Kernel.normalised(
        self, w, total + (-w.shape[-1] % 16) * np.exp(-top), top, z
    ),
)
mutant("poison_multiplied", out=lambda self, w, v, seen: w @ v)
mutant("poison_cleaned", out=lambda self, w, v, seen: w @ np.nan_to_num(v, nan=0, posinf=0, neginf=0))
mutant(
    "weights_bfloat16",
    out=lambda self, w, v, seen: Kernel.out(
        self, (w.astype(F).view(np.uint32) & np.uint32(0xFFFF0000)).view(F), v, seen
    ),
)
mutant(
    "accumulates_float16",
    out=lambda self, w, v, seen: (
        (w.astype(np.float16) @ np.nan_to_num(v).astype(np.float16)).astype(F)
        if w.size < 4000
        else Kernel.out(self, w, v, seen)
    ),
)
mutant("output_float16", finish=lambda self, out, lse, s, seen: (out.astype(np.float16).astype(F), lse))


def _bshd(self, q, k, v, mask=None, **o):
    if q.ndim == 4 and mask is None and q.shape[:-1] == k.shape[:-1] and not set(o) - {"scale", "softcap"}:
        return np.swapaxes(Kernel.__call__(self, *(np.swapaxes(x, 1, 2) for x in (q, k, v)), **o), 1, 2)
    return Kernel.__call__(self, q, k, v, mask, **o)


mutant("heads_as_tokens", __call__=_bshd)


def ignoring_strides(*which):
    """A kernel that reads some operands' memory as if it were contiguous."""

    def call(self, q, k, v, *args, **o):
        def flat(x):
            if not isinstance(x, np.ndarray) or x.size == 0 or x.flags.c_contiguous:
                return x
            base = x
            while isinstance(base.base, np.ndarray):
                base = base.base
            memory = base.reshape(-1) if base.flags.c_contiguous else np.asarray(base).ravel(order="K")
            return np.resize(memory, x.shape)

        q, k, v = (flat(x) if name in which else x for name, x in zip("qkv", (q, k, v), strict=True))
        return Kernel.__call__(self, q, k, v, *args, **o)

    return call


mutant("strides_ignored_q", __call__=ignoring_strides("q"))
mutant("strides_ignored_k", __call__=ignoring_strides("k"))
mutant("strides_ignored_v", __call__=ignoring_strides("v"))


def _second_call_differs(self, *args, **o):
    self.calls = getattr(self, "calls", 0) + 1
    out = Kernel.__call__(self, *args, **o)
    return out if self.calls % 2 or isinstance(out, tuple) else out * F(1.0001)


def _writes_to_queries(self, q, *args, **o):
    out = Kernel.__call__(self, q, *args, **o)
    q *= F(0.5)
    return out


mutant("not_deterministic", __call__=_second_call_differs)
mutant("writes_to_queries", __call__=_writes_to_queries)
