"""More of somebody else's code with one mistake each: grouped heads, masks, positions, norms, networks, softmax, merge."""

import math

import numpy as np
from scipy.special import erf

from refattn import masks
from tests.testing.mutants import Kernel, rebuilt

OTHERS: dict = {}  # (reference function, name) -> callable


def wrong(function, name, call=None):
    """Register a mutant of a reference function."""

    def register(call):
        OTHERS[function, name] = call
        return call

    return register if call is None else register(call)


# --- grouped heads --------------------------------------------------------------------------------------------------


def grouped(pick, sinks=lambda z, h, g: z, mask=lambda m, h, g: m):
    def call(q, k, v, m=None, *, mask_=None, **o):
        h, g = q.shape[-3], k.shape[-3]
        k, v = pick(k, h, g), pick(v, h, g)
        if o.get("sinks") is not None:
            o["sinks"] = sinks(np.asarray(o["sinks"]), h, g)
        m = mask(o.pop("mask", m), h, g)
        return Kernel()(q, k, v, m, **o)

    return call


def taking(index):
    return lambda x, h, g: np.take(x, [index(i, h, g) for i in range(h)], axis=-3)


right = taking(lambda i, h, g: i // (h // g))
wrong("grouped_query_attention", "tiled", grouped(taking(lambda i, h, g: i % g)))
wrong("grouped_query_attention", "divided_by_kv_heads", grouped(taking(lambda i, h, g: min(i // g, g - 1))))
wrong("grouped_query_attention", "first_head_only", grouped(taking(lambda i, h, g: 0)))
wrong("grouped_query_attention", "reversed", grouped(taking(lambda i, h, g: g - 1 - i // (h // g))))
wrong("grouped_query_attention", "mean_of_heads", grouped(lambda x, h, g: np.repeat(x.mean(-3, keepdims=True), h, -3)))
wrong(
    "grouped_query_attention",
    "repeats_tokens",
    grouped(lambda x, h, g: np.repeat(x, h // g, axis=-2).reshape(*x.shape[:-3], h, *x.shape[-2:])),
)
wrong(
    "grouped_query_attention",
    "sinks_repeated",
    grouped(right, sinks=lambda z, h, g: np.repeat(z, h // g, axis=-1)[..., :h] if z.ndim else z),
)
wrong(
    "grouped_query_attention",
    "sinks_of_group",
    grouped(right, sinks=lambda z, h, g: np.repeat(z[..., :: h // g], h // g, axis=-1) if z.ndim else z),
)
wrong(
    "grouped_query_attention",
    "mask_on_groups",
    grouped(
        right,
        mask=lambda m, h, g: (
            np.repeat(m[:, 0], h // g, axis=0)
            if isinstance(m, np.ndarray) and m.ndim == 4 and m.shape[:2] == (g, 1) and g > 1
            else m
        ),
    ),
)
wrong(
    "grouped_query_attention",
    "scale_of_all_heads",
    lambda q, k, v, mask=None, **o: grouped(right)(
        q, k, v, mask, **{**o, "scale": o.get("scale") or 1 / math.sqrt(q.shape[-1] * q.shape[-3])}
    ),
)

# --- masks ----------------------------------------------------------------------------------------------------------


def read_as(rule, make):
    return lambda self, n, m, **o: (
        rebuilt(self, rule, make).dense(n, m, **o) & np.ones(self.dense(n, m, **o).shape, bool)
    )


for _name, _rule, _make in (
    ("causal_strict", "causal", lambda: masks.window(None, 0) & ~masks.window(0, 0)),
    ("causal_reversed", "causal", lambda: masks.window(0, None)),
    ("window_exclusive", "window", lambda left, right: masks.window(None if left is None else max(left - 1, 0), right)),
    ("window_wide", "window", lambda left, right: masks.window(None if left is None else left + 1, right)),
    ("window_total", "window", lambda left, right: masks.window(None if left is None else left // 2, right)),
    ("window_both", "window", lambda left, right: masks.window(left, left)),
    ("window_swapped", "window", lambda left, right: masks.window(right, left)),
    ("padding_inclusive", "padding", lambda lengths, starts: masks.padding(np.asarray(lengths) + 1, starts)),
    ("padding_starts_ignored", "padding", lambda lengths, starts: masks.padding(lengths)),
    ("prefix_inclusive", "prefix", lambda lengths: masks.prefix(np.asarray(lengths) + 1)),
    ("prefix_ignored", "prefix", lambda lengths: masks.causal()),
    ("prefix_sees_all", "prefix", lambda lengths: masks.everything()),
    ("documents_ignored", "documents", lambda **_: masks.everything()),
    ("block_half", "block", lambda size: masks.block(max(size // 2, 1))),
    ("chunked_whole", "chunked", masks.block),
    ("chunked_window", "chunked", lambda size: masks.window(size - 1, 0)),
    ("neighbours_one_side", "neighbours", lambda size, before, after: masks.neighbours(size, before, 0)),
    ("dilated_dense", "dilated", lambda left, right, dilation: masks.window(left, right)),
    ("dilated_gap", "dilated", lambda left, right, dilation: masks.dilated(left, right, dilation + 1)),
    ("strided_local", "strided", lambda stride: masks.window(stride, 0)),
    ("fixed_local", "fixed", lambda stride, summary: masks.chunked(stride)),
    ("global_lost", "global_tokens", lambda tokens: ~masks.everything()),
    ("tree_chain", "tree", lambda parents, prefix: masks.causal()),
):
    wrong("Mask.dense", _name, read_as(_rule, _make))
wrong("Mask.dense", "inverted", lambda self, n, m, **o: ~self.dense(n, m, **o))
wrong("Mask.dense", "top_left", lambda self, n, m, **o: self.dense(n, m, **{"q_positions": np.arange(n), **o}))
wrong("Mask.dense", "positions_ignored", lambda self, n, m, **o: self.dense(n, m))
wrong(
    "Mask.dense",
    "float32_positions",
    lambda self, n, m, **o: self.dense(
        n, m, **{key: np.asarray(x, np.float32).astype(np.int64) for key, x in o.items() if x is not None}
    ),
)
wrong(
    "Mask.dense",
    "or_for_and",
    lambda self, n, m, **o: (self.parts[0] | self.parts[1] if self.name == "and" else self).dense(n, m, **o),
)

# --- positions ------------------------------------------------------------------------------------------------------


def rotated(pairs=None, angle=None, turn=lambda c, s: (c, s), rest=lambda x: x):
    """Rotation by hand, with replaceable pairs, angles and directions."""

    def call(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
        if scaling is not None:
            from refattn import rope

            return rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)
        r = x.shape[-1] if rotary_dim is None else rotary_dim
        half = r // 2
        i = np.arange(half)
        a, b = pairs(i, half, layout) if pairs else ((2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + half))
        p = np.asarray(positions, dtype=np.float64)[..., None]
        theta = angle(p, i, r, base, x.shape[-1]) if angle else p * base ** (-2.0 * i / r)
        c, s = turn(np.cos(theta), np.sin(theta))
        shape = np.broadcast_shapes(x.shape[:-1], theta.shape[:-1])
        out = np.array(np.broadcast_to(rest(x), (*shape, x.shape[-1])), dtype=np.float64)
        x = np.broadcast_to(x, out.shape).astype(np.float64)
        out[..., a], out[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
        return out.astype(np.float32)

    return call


def bf16(x):
    return (np.asarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


for _name, _call in {
    "pairs_swapped": rotated(
        pairs=lambda i, half, layout: (i, i + half) if layout == "interleaved" else (2 * i, 2 * i + 1)
    ),
    "always_half": rotated(pairs=lambda i, half, layout: (i, i + half)),
    "always_interleaved": rotated(pairs=lambda i, half, layout: (2 * i, 2 * i + 1)),
    "turned_back": rotated(turn=lambda c, s: (c, -s)),
    "sin_for_cos": rotated(turn=lambda c, s: (s, c)),
    "base_ignored": rotated(angle=lambda p, i, r, base, d: p * 10000.0 ** (-2.0 * i / r)),
    "head_dim_in_exponent": rotated(angle=lambda p, i, r, base, d: p * base ** (-2.0 * i / d)),
    "exponent_i": rotated(angle=lambda p, i, r, base, d: p * base ** (-1.0 * i / r)),
    "from_one": rotated(angle=lambda p, i, r, base, d: (p + 1) * base ** (-2.0 * i / r)),
    "arange": rotated(
        angle=lambda p, i, r, base, d: (np.zeros_like(p) + np.arange(p.shape[-2])[:, None]) * base ** (-2.0 * i / r)
    ),
    "relative_to_first": rotated(angle=lambda p, i, r, base, d: (p - p[..., :1, :]) * base ** (-2.0 * i / r)),
    "bfloat16_angles": rotated(angle=lambda p, i, r, base, d: bf16(bf16(p) * bf16(base ** (-2.0 * i / r)))),
    "bfloat16_frequencies": rotated(angle=lambda p, i, r, base, d: p * bf16(base ** (-2.0 * i / r))),
    "degrees": rotated(angle=lambda p, i, r, base, d: np.radians(p * base ** (-2.0 * i / r))),
    "last_pair_still": rotated(angle=lambda p, i, r, base, d: p * base ** (-2.0 * i / r) * (i < r // 2 - 1 + (r == 2))),
    "rest_zero": rotated(rest=lambda x: 0 * x),
}.items():
    wrong("rope", _name, _call)


def by_tables(change):
    def call(x, cos, sin, layout="interleaved", rotary_dim=None):
        from refattn.positions import rotate

        return change(rotate, x, cos, sin, layout, rotary_dim)

    return call


wrong("positions.rotate", "turned_back", by_tables(lambda f, x, c, s, la, r: f(x, c, -s, layout=la, rotary_dim=r)))
wrong(
    "positions.rotate",
    "pairs_swapped",
    by_tables(
        lambda f, x, c, s, la, r: f(x, c, s, layout="half" if la == "interleaved" else "interleaved", rotary_dim=r)
    ),
)
wrong(
    "positions.rotate",
    "first_half_of_tables",
    by_tables(
        lambda f, x, c, s, la, r: f(
            x,
            np.concatenate([c[..., : (c.shape[-1] + 1) // 2]] * 2, -1)[..., : c.shape[-1]],
            np.concatenate([s[..., : (s.shape[-1] + 1) // 2]] * 2, -1)[..., : s.shape[-1]],
            layout=la,
            rotary_dim=r,
        )
    ),
)
wrong(
    "positions.rotate",
    "first_row_of_tables",
    by_tables(lambda f, x, c, s, la, r: f(x, 0 * c + c[..., :1, :], 0 * s + s[..., :1, :], layout=la, rotary_dim=r)),
)
wrong("alibi_slopes", "geometric", lambda heads, like=None: 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads))
wrong("alibi_slopes", "from_one", lambda heads, like=None: 2.0 ** (-8.0 * np.arange(heads) / heads))


def distances(slopes, n, m, q_positions=None, k_positions=None):
    q = np.arange(m - n, m) if q_positions is None else np.asarray(q_positions)
    k = np.arange(m) if k_positions is None else np.asarray(k_positions)
    return np.asarray(slopes)[..., None, None], (k[..., None, :] - q[..., :, None]).astype(float)


def alibi(change):
    return lambda slopes, n, m, q_positions=None, k_positions=None: (lambda slope, d: change(slope, d))(
        *distances(slopes, n, m, q_positions, k_positions)
    )


wrong("alibi_bias", "sign", alibi(lambda slope, d: slope * np.abs(d)))
wrong("alibi_bias", "signed", alibi(lambda slope, d: slope * d))
wrong("alibi_bias", "squared", alibi(lambda slope, d: -slope * d * d))
wrong("alibi_bias", "off_by_one", alibi(lambda slope, d: -slope * (np.abs(d) + 1)))
wrong(
    "alibi_bias",
    "top_left",
    lambda slopes, n, m, q_positions=None, k_positions=None: alibi(lambda slope, d: -slope * np.abs(d))(
        slopes, n, m, np.arange(n) if q_positions is None else q_positions, k_positions
    ),
)


def bucket(relative, bidirectional=True, buckets=32, max_distance=128, *, flip=1, clamp=True, log=np.log, past=True):
    relative = flip * np.asarray(relative)
    n = buckets // 2 if bidirectional else buckets
    side = n * (relative > 0) if bidirectional else 0
    a = np.abs(relative) if bidirectional else np.maximum(-relative if past else relative, 0)
    exact = n // 2
    far = exact + (log(np.maximum(a, 1) / exact) / math.log(max_distance / exact) * (n - exact) + 1e-9).astype(np.int64)
    return side + np.where(a < exact, a, np.minimum(far, n - 1) if clamp else far)


for _name, _change in {
    "sign": {"flip": -1}, "unclamped": {"clamp": False}, "future": {"past": False}, "log2": {"log": np.log2},
}.items():  # fmt: skip
    wrong("relative_position_bucket", _name, lambda *a, _change=_change, **o: bucket(*a, **o, **_change))

# --- norms ----------------------------------------------------------------------------------------------------------


def normed(
    eps_at="inside", ddof=0, centre=True, over=None, gain=lambda g: g, offset=True, power=0.5, fixed=None, default=1e-5
):
    def call(x, gamma, beta=None, *, eps=default, axis=-1, unit_offset=False):
        x = np.asarray(x, np.float64)
        axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple | list) else (axis,)))
        taken = axes if over is None else over(axes, x.ndim)
        eps = eps if fixed is None else fixed
        with np.errstate(all="ignore"):
            y = x - x.mean(taken, keepdims=True) if centre else x
            count = np.prod([x.shape[a] for a in taken]) - ddof
            v = (y**2).sum(taken, keepdims=True) / count
            root = {"inside": (v + eps) ** power, "outside": v**power + eps, "none": v**power,
                    "max": np.maximum(v**power, eps)}[eps_at]  # fmt: skip
            y = y / root
        shape = tuple(x.shape[a] if a in axes else 1 for a in range(x.ndim))
        if gamma is not None:
            y = y * gain(np.reshape(gamma, shape) + (1 if unit_offset else 0))
        return (y if beta is None or not offset else y + np.reshape(beta, shape)).astype(np.float32)

    return call


_LAST, _ALL = (lambda axes, n: (n - 1,)), (lambda axes, n: tuple(range(n)))
for _name, _options in {
    "eps_outside": {"eps_at": "outside"}, "no_eps": {"eps_at": "none"}, "eps_maximum": {"eps_at": "max"},
    "eps_fixed": {"fixed": 1e-8}, "unbiased": {"ddof": 1}, "last_axis": {"over": _LAST}, "all_axes": {"over": _ALL},
    "no_gain": {"gain": lambda g: 1.0}, "gain_plus_one": {"gain": lambda g: 1 + g}, "variance": {"power": 1.0},
}.items():  # fmt: skip
    wrong("layer_norm", _name, normed(**_options))
    wrong("rms_norm", _name, normed(**_options, centre=False, default=1e-6))
wrong("layer_norm", "uncentred", normed(centre=False))
wrong("layer_norm", "no_offset", normed(offset=False))
wrong(
    "layer_norm",
    "float16_statistics",
    lambda x, gamma, beta=None, **o: normed()(np.asarray(x, np.float16).astype(np.float32), gamma, beta, **o),
)
wrong("rms_norm", "centred", normed(default=1e-6))


@wrong("rms_norm", "offset_ignored")
def offset_ignored(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    return normed(centre=False)(x, gamma, eps=eps, axis=axis)


# --- networks -------------------------------------------------------------------------------------------------------


def quietly(f):
    def call(x, **o):
        with np.errstate(all="ignore"):
            return f(np.asarray(x, np.float64))

    return call


for _function, _name, _f in (
    ("gelu", "tanh_for_exact", lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ("gelu", "exact_for_tanh", lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    ("gelu", "sigmoid", lambda x: x / (1 + np.exp(-1.702 * x))),
    ("gelu", "no_root", lambda x: 0.5 * x * (1 + erf(x))),
    ("gelu", "cdf_only", lambda x: 0.5 * (1 + erf(x / math.sqrt(2)))),
    ("gelu", "constant_0_0447", lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3)))),
    ("silu", "sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ("silu", "negated", lambda x: x / (1 + np.exp(x))),
    ("silu", "hard", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("silu", "naive", lambda x: x * np.exp(x) / (1 + np.exp(x))),
    ("relu", "absolute", np.abs),
    ("relu", "six", lambda x: np.clip(x, 0, 6)),
    ("relu", "nan_lost", lambda x: np.fmax(x, 0)),
    ("squared_relu", "square", lambda x: x * x),
    ("quick_gelu", "silu", lambda x: x / (1 + np.exp(-x))),
    ("sigmoid", "naive", lambda x: np.exp(x) / (1 + np.exp(x))),
    ("softplus", "naive", lambda x: np.log(1 + np.exp(x))),
    ("softplus", "threshold_8", lambda x: np.where(x > 8, x, np.log1p(np.exp(x)))),
    ("tanh", "clipped", lambda x: np.clip(x, -1, 1)),
):
    wrong(_function, _name, quietly(_f))


def act(name, x):
    from refattn.feedforward import ACTIVATIONS

    return ACTIVATIONS[name](x)


def plus(x, b):
    return x if b is None else x + b


for _name, _f in {
    "swapped": lambda g, u, a: act(a, u) * g,
    "of_product": lambda g, u, a: act(a, g * u),
    "both": lambda g, u, a: act(a, g) * act(a, u),
    "sum": lambda g, u, a: act(a, g) + u,
    "no_up": lambda g, u, a: act(a, g),
    "up_plus_one": lambda g, u, a: act(a, g) * (u + 1),
    "always_silu": lambda g, u, a: act("silu", g) * u,
    "always_gelu": lambda g, u, a: act("gelu", g) * u,
}.items():
    wrong(
        "gated_feed_forward",
        _name,
        lambda x, params, *, activation="silu", _f=_f: plus(
            _f(plus(x @ params.w_gate, params.b_gate), plus(x @ params.w_up, params.b_up), activation) @ params.w_out,
            params.b_out,
        ),
    )
for _name, _f in {
    "bias_after": lambda x, p, a: plus(plus(act(a, x @ p.w_in), p.b_in) @ p.w_out, p.b_out),
    "no_first_bias": lambda x, p, a: plus(act(a, x @ p.w_in) @ p.w_out, p.b_out),
    "no_second_bias": lambda x, p, a: act(a, plus(x @ p.w_in, p.b_in)) @ p.w_out,
    "activated_twice": lambda x, p, a: act(a, plus(act(a, plus(x @ p.w_in, p.b_in)) @ p.w_out, p.b_out)),
    "linear": lambda x, p, a: plus(plus(x @ p.w_in, p.b_in) @ p.w_out, p.b_out),
    "always_relu": lambda x, p, a: plus(act("relu", plus(x @ p.w_in, p.b_in)) @ p.w_out, p.b_out),
    "residual": lambda x, p, a: x + plus(act(a, plus(x @ p.w_in, p.b_in)) @ p.w_out, p.b_out),
}.items():
    wrong("feed_forward", _name, lambda x, params, *, activation="relu", _f=_f: _f(x, params, activation))

# --- softmax and merge ----------------------------------------------------------------------------------------------


def soft(weigh):
    def call(x, axis=-1, where=None):
        x = np.asarray(x, np.float64)
        with np.errstate(all="ignore"):
            return weigh(x if where is None else np.where(where, x, -np.inf), axis)

    return call


def _safe(w, axis):
    total = w.sum(axis, keepdims=True)
    return w / np.where(total == 0, 1, total)


def _shifted(x, axis, floor=-np.inf):
    m = np.maximum(x.max(axis, keepdims=True, initial=-np.inf), floor)
    return x - np.where(np.isneginf(m), 0, m)


for _name, _f in {
    "no_shift": lambda x, axis: _safe(np.exp(x), axis),
    "zero_peak": lambda x, axis: _safe(np.exp(_shifted(x, axis, 0)), axis),
    "peak_1e4": lambda x, axis: _safe(np.exp(_shifted(x, axis, -1e4)), axis),
    "peak_5e4": lambda x, axis: _safe(np.exp(_shifted(x, axis, -5e4)), axis),
    "base_2": lambda x, axis: _safe(np.exp2(_shifted(x, axis)), axis),
    "nan_on_empty": lambda x, axis: (lambda w: w / w.sum(axis, keepdims=True))(np.exp(_shifted(x, axis))),
    "filled": lambda x, axis: _safe(np.exp(_shifted(np.maximum(x, -1e9), axis)), axis),
    "last_axis": lambda x, axis: _safe(np.exp(_shifted(x, -1)), -1),
    "undivided": lambda x, axis: np.exp(_shifted(x, axis)),
    "one_more": lambda x, axis: (lambda w: w / (1 + w.sum(axis, keepdims=True)))(np.exp(_shifted(x, axis))),
    "eps": lambda x, axis: (lambda w: w / (1e-3 + w.sum(axis, keepdims=True)))(np.exp(_shifted(x, axis))),
}.items():
    wrong("softmax", _name, soft(_f))


def _log(x, axis, base=1.0, floor=-np.inf, empty=-np.inf, back=True):
    m = np.maximum(x.max(axis, keepdims=True, initial=-np.inf), floor)
    safe = np.where(np.isfinite(m), m, 0)
    lse = (np.log(np.exp(x - safe).sum(axis, keepdims=True)) + (safe if back else 0)) / base
    return np.squeeze(np.where(np.isneginf(m), empty, lse), axis)


for _name, _options in {
    "base_2": {"base": math.log(2)}, "zero_peak": {"floor": 0.0}, "empty_plus": {"empty": np.inf},
    "empty_finite": {"empty": -5e4}, "empty_nan": {"empty": np.nan}, "no_peak_back": {"back": False},
}.items():  # fmt: skip
    wrong("logsumexp", _name, soft(lambda x, axis, _options=_options: _log(x, axis, **_options)))
wrong("logsumexp", "no_shift", soft(lambda x, axis: np.log(np.exp(x).sum(axis))))
wrong("logsumexp", "max", soft(lambda x, axis: x.max(axis, initial=-np.inf)))


def merged(weights, lse=lambda a, b: np.logaddexp(a, b)):
    def call(out_a, lse_a, out_b, lse_b):
        with np.errstate(all="ignore"):
            wa, wb = weights(np.asarray(lse_a, np.float64), np.asarray(lse_b, np.float64))
            return wa[..., None] * out_a + wb[..., None] * out_b, lse(lse_a, lse_b)

    return call


def _mass(a, b, exp=np.exp, guard=True):
    m = np.maximum(a, b)
    m = np.where(np.isneginf(m), 0, m) if guard else m
    ea, eb = exp(a - m), exp(b - m)
    total = np.where(ea + eb == 0, 1, ea + eb) if guard else ea + eb
    return ea / total, eb / total


for _name, _call in {
    "average": merged(lambda a, b: (0 * np.exp(a) + 0.5, 0 * np.exp(b) + 0.5)),
    "swapped": merged(lambda a, b: _mass(b, a)),
    "base_2_exp": merged(lambda a, b: _mass(a, b, np.exp2)),
    "no_guard": merged(lambda a, b: _mass(a, b, guard=False)),
    "no_shift": merged(lambda a, b: (np.exp(a) / (np.exp(a) + np.exp(b)), np.exp(b) / (np.exp(a) + np.exp(b)))),
    "sum": merged(lambda a, b: (np.ones_like(a), np.ones_like(b))),
    "lse_max": merged(_mass, np.maximum),
    "lse_base_2": merged(_mass, lambda a, b: np.logaddexp2(a, b)),
    "larger_wins": merged(lambda a, b: ((a >= b).astype(float), (a < b).astype(float))),
}.items():
    wrong("merge", _name, _call)
