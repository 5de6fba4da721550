"""Random calls of the reference functions: sizes and options drawn so that every variant gets its turn to differ."""

import numpy as np

import refattn
from refattn import masks
from refattn.feedforward import ACTIVATIONS, FeedForwardParams, GatedFeedForwardParams
from refattn.heads import MultiHeadParams, PackedMultiHeadParams, Rope
from refattn.positions import NTK, DynamicNTK, Linear, Llama3, LongRoPE, YaRN


class Drawn:
    """Random sizes, arrays and options."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def chance(self, p):
        return self.rng.random() < p

    def size(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def normal(self, *shape, scale=1.0):
        return self.rng.normal(size=shape) * scale

    def integers(self, low, high, shape):
        return self.rng.integers(low, high + 1, size=shape)


def _rules(d, b, n, m, h=1):
    """A mask rule."""
    reach = d.size(1, 5)
    ids = np.sort(d.integers(0, 3, (b, 1, m)), axis=-1)
    lengths = d.integers(1, m, (b, 1))
    starts = d.integers(0, max(m // 3, 1), (b, 1))
    stride = d.size(2, 5)
    tokens = d.rng.choice(m, size=min(2, m), replace=False)
    prefix = d.size(0, min(2, m - 1))
    parents = np.array([-1, *(d.size(-1, j - 1) for j in range(1, m - prefix))])
    lead = (b, h) if b == h else (b, 1)
    return {
        "causal": masks.causal(),
        "window": masks.window(reach, d.size(0, 2)),
        "left": masks.window(reach, None),
        "sliding": masks.causal() & masks.window(reach, 0),
        "dilated": masks.dilated(reach, d.size(0, 2), d.size(2, 3)),
        "block": masks.block(stride),
        "neighbours": masks.neighbours(stride, 1, d.size(0, 1)),
        "chunked": masks.chunked(stride),
        "strided": masks.strided(stride),
        "fixed": masks.fixed(stride, d.size(1, stride)),
        "global": masks.causal() & masks.window(reach, 0) | masks.global_tokens(tokens),
        "prefix": masks.prefix(lengths),
        "prefix window": masks.prefix(lengths) & masks.window(reach, reach),
        "padding": masks.padding(lengths),
        "left padding": masks.padding(lengths, starts),
        "both": masks.causal() & masks.padding(lengths),
        "documents": masks.documents(ids),
        "returning": masks.documents(d.integers(0, 2, (m,))),
        "two sequences": masks.documents(d.integers(0, 2, (m,)), d.integers(0, 2, (m,))),
        "of heads": masks.padding(d.integers(1, m, lead)),
        "packed": masks.documents(ids) & masks.causal(),
        "images": (masks.causal() | masks.documents(ids)) & masks.window(reach, reach),
        "or and": masks.global_tokens(tokens) | masks.causal() & masks.window(reach, 0),
        "not": masks.causal() & ~masks.window(1, 0),
        "tree": masks.tree(parents, prefix=prefix),
    }


_NEED_DATA = ("documents", "packed", "returning", "two sequences", "images")  # for every position, also those below 0


def _mask(d, b, h, n, m):
    if d.chance(0.25):
        return None
    if d.chance(0.35) and m:
        lead = d.pick((b, 1), (b, h), (1, h), ())
        dense = d.rng.random((*lead, n, m)) < 0.6
        if d.chance(0.5):
            dense[..., d.size(0, n - 1), :] = False
        return dense
    rules = _rules(d, b, n, m, h)
    if n > m:  # the first queries have positions for which documents have no data
        rules = {name: rule for name, rule in rules.items() if name not in _NEED_DATA}
    return rules[d.pick(*rules)]


def attention(d, grouped=False):
    b, h, n, m = d.size(1, 3), d.size(1, 4), d.size(1, 9), d.size(1, 21)
    if d.chance(0.15):
        m = d.size(257, 300)
    elif d.chance(0.2):
        m = d.size(22, 150)
    if d.chance(0.25) and m < 30:
        n = m
    if d.chance(0.1):
        n = m + d.size(1, 4) if m < 30 else n
    if d.chance(0.2):
        n = h
    if d.chance(0.2):
        b = h
    size, dv = d.size(2, 20), d.size(1, 12)
    dv = size if d.chance(0.4) else dv
    g = h
    if grouped:
        g = d.size(1, 3)
        h = g * d.size(1, 3)
    q, k, v = d.normal(b, h, n, size, scale=d.pick(1, 1, 3)), d.normal(b, g, m, size), d.normal(b, g, m, dv)
    if d.chance(0.1) and not grouped:
        q, k, v, b, h = q[0, 0], k[0, 0], v[0, 0], 1, 1
    given = {"q": q, "k": k, "v": v, "mask": _mask(d, b, h, n, m), "return_lse": d.chance(0.5)}
    if q.ndim == 2 and given["mask"] is not None:
        given["mask"] = masks.causal()
    if d.chance(0.35):
        given["scale"] = float(d.pick(0.3, 0.11, -0.4, 0.0, 1.0, 2.0))
    if d.chance(0.35):
        lead = () if q.ndim == 2 else d.pick((b, 1), (1, h), (h,), (), (b, h))
        given["bias"] = d.normal(*lead, n, m, scale=2.0)
        if d.chance(0.3):
            given["bias"][..., d.size(0, m - 1)] = -np.inf
        elif d.chance(0.1):
            given["bias"][..., 0, :] = d.pick(-(2.0**15), -3.3895313892515355e38)
    if d.chance(0.3):
        given["softcap"] = float(d.pick(0.0, 0.7, 1.5, 4.0))
    if d.chance(0.3):
        given["sinks"] = d.normal(h) if q.ndim > 2 else np.asarray(d.normal())
    if d.chance(0.25):
        given["dropout"] = (d.rng.random((n, m)) < 0.7, 0.25)
    if isinstance(given["mask"], masks.Mask) and d.chance(0.2) and not masks_with_data(given["mask"]):
        given["q_positions"] = d.size(3, 90) + np.arange(n)
        given["k_positions"] = d.size(0, 90) + np.arange(m)
    if given["mask"] is not None and d.chance(0.15):
        place, j = d.pick("k", "v"), d.size(0, m - 1)
        given[place] = given[place].copy()
        given[place][..., j, :] = d.pick(np.nan, np.inf)
    if d.chance(0.08):  # scores far from 0
        given["bias"] = np.full((n, m), d.pick(-3e4, -2e4, -7e4, 3e4)) + d.normal(n, m)
    if d.chance(0.05):  # products that float16 cannot hold
        given |= {"q": given["q"] * 300, "k": given["k"] * 300, "scale": 1e-5}
    if d.chance(0.05):
        given["v"] = given["v"] * 20000
    return given


def masks_with_data(mask):
    return any(isinstance(x, np.ndarray) for x in mask._data())


def attention_weights(d):
    given = attention(d)
    return {name: x for name, x in given.items() if name not in ("v", "return_lse")}


def multi_head(d):
    b, n, e = d.size(1, 3), d.size(2, 7), d.pick(4, 6, 8)
    kv_heads = d.size(1, 3)
    heads = kv_heads * d.size(1, 3)
    size, dv = 2 * d.size(1, 3), d.size(2, 5)
    cross = d.chance(0.4)
    m = d.size(2, 9) if cross else n
    biased = d.chance(0.6)
    w = {"q": (e, heads * size), "k": (e, kv_heads * size), "v": (e, kv_heads * dv), "o": (heads * dv, e)}
    fields = {f"w_{name}": d.normal(*shape, scale=shape[0] ** -0.5) for name, shape in w.items()}
    fields |= {f"b_{name}": d.normal(shape[1]) if biased else None for name, shape in w.items()}
    norm = d.pick(None, "head", "width")
    if norm:
        fields["q_norm"] = d.normal(size if norm == "head" else heads * size)
        fields["k_norm"] = d.normal(size if norm == "head" else kv_heads * size)
    params = MultiHeadParams(**fields)
    if d.chance(0.4) and not cross:
        packed = {"w_qkv": np.concatenate([params.w_q, params.w_k, params.w_v], axis=1), "w_o": params.w_o}
        packed["b_qkv"] = np.concatenate([params.b_q, params.b_k, params.b_v]) if biased else None
        params = PackedMultiHeadParams(**packed, b_o=params.b_o)
    if d.chance(0.2):
        b = heads
    given = {"x_q": d.normal(b, n, e), "x_kv": d.normal(b, m, e) if cross else None, "params": params, "heads": heads}
    given["kv_heads"] = kv_heads
    given["mask"] = _mask(d, b, heads, n, m)
    if d.chance(0.2):
        given["bias"] = d.normal(heads, n, m, scale=2.0)
    if d.chance(0.2):
        given["dropout"] = (d.rng.random((n, m)) < 0.7, 0.25)
    if d.chance(0.4):
        given["rope"] = Rope(layout=d.pick("interleaved", "half"))
    if d.chance(0.3):
        given["scale"] = 0.3
    if d.chance(0.3) and not (isinstance(given["mask"], masks.Mask) and masks_with_data(given["mask"])):
        given["q_positions"], given["k_positions"] = 5 + np.arange(n), 3 + np.arange(m)
    if d.chance(0.2):
        given["softcap"] = 1.5
    if d.chance(0.2):
        given["sinks"] = d.normal(heads)
    return given


def mask_dense(d):
    b, n, m = d.size(1, 3), d.size(1, 9), d.size(3, 20)
    if d.chance(0.3):
        n = m
    rules = _rules(d, b, n, m, h=b)
    if n > m:
        rules = {name: rule for name, rule in rules.items() if name not in _NEED_DATA}
    mask = rules[d.pick(*rules)]
    given = {"self": mask, "n": n, "m": m}
    if d.chance(0.3) and not masks_with_data(mask):
        start = d.pick(0, 3, 40, 2**24, 2**31 - 5)
        given |= {"q_positions": start + np.arange(n) + d.size(0, 3), "k_positions": start + np.arange(m)}
    return given


def _logits(d):
    x = d.normal(d.size(2, 4), d.size(2, 30), scale=d.pick(1, 4)) + d.pick(
        0.0, 0.0, 0.0, 3e4, -3e4, -7e4, 200.0, -800.0
    )
    given = {"x": x, "axis": d.pick(-1, -1, 0)}
    if d.chance(0.3):
        given["where"] = d.rng.random(x.shape) < 0.7
        if d.chance(0.5):
            given["where"][0] = False
            given["where"][:, 0] = False
    elif d.chance(0.3):
        x[0, 1] = d.pick(np.inf, -np.inf)
        x[1] = d.pick(0.5, -np.inf)
    if "where" in given and d.chance(0.5):
        x[~given["where"]] = np.nan
    return given


def _parts(d):
    n, dv = d.size(2, 6), d.size(1, 5)
    shift = d.pick(0.0, 0.0, 0.0, 800.0, -800.0)
    lse_a, lse_b = d.normal(n, scale=2.0) + shift, d.normal(n, scale=2.0) + shift
    if d.chance(0.4):
        lse_a[0] = -np.inf
        lse_b[: d.size(1, n)] = -np.inf
    out_a, out_b = (np.where(np.isneginf(x)[:, None], 0.0, d.normal(n, dv)) for x in (lse_a, lse_b))
    return {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}


def _normed(offset):
    def draw(d):
        shape = (d.size(2, 4), d.size(2, 5), d.size(3, 12))
        x = d.normal(*shape, scale=d.pick(1.0, 1e-2, 1e-3, 100.0)) + d.pick(0.0, 0.0, 8.0, 3000.0)
        if d.chance(0.2):
            x[0] = 0.0
        if d.chance(0.2):
            x[..., 1] = 1000.0
        axis = d.pick(-1, -1, -1, (-2, -1), 1, (0, 1))
        axes = tuple(n % 3 for n in (axis if isinstance(axis, tuple) else (axis,)))
        size = tuple(shape[n] for n in axes)
        given = {"x": x, "gamma": d.normal(*size), "axis": axis}
        if offset and d.chance(0.7):
            given["beta"] = d.normal(*size)
        if not offset and d.chance(0.3):
            given["unit_offset"] = True
        if d.chance(0.5):
            given["eps"] = float(d.pick(1e-5, 1e-3, 1e-6, 1e-12))
        return given

    return draw


def _rope(d):
    b, n, size = d.size(1, 3), d.size(1, 6), 2 * d.size(3, 12)
    start = d.pick(1, 50, 3000, 100_000)
    given = {"x": d.normal(b, 2, n, size), "positions": start + np.arange(n), "layout": d.pick("interleaved", "half")}
    if d.chance(0.3):
        given["positions"] = (start + d.integers(0, 900, (b, 1, n))).astype(np.int64)
    if d.chance(0.4):
        given["rotary_dim"] = 2 * d.size(1, size // 2)
    if d.chance(0.3):
        given["base"] = float(d.pick(500.0, 500000.0))
    if d.chance(0.6):
        half = given.get("rotary_dim", size) // 2
        given["scaling"] = d.pick(
            Linear(4.0), NTK(4.0), DynamicNTK(4.0, 64, 100), YaRN(8.0, 512), YaRN(8.0, 512, truncate=False),
            YaRN(8.0, 512, attention_factor=1.5),
            Llama3(8.0, 1.0, 4.0, 512), LongRoPE(tuple(1 + 0.1 * np.arange(half)), tuple(2.0 + np.arange(half)), 64, 128, d.pick(32, 128)),
        )  # fmt: skip
    return given


def _rotate(d):
    n, half = d.size(1, 6), d.size(2, 8)
    angles = d.rng.uniform(-400, 400, size=(n, half))
    given = {"x": d.normal(2, n, 2 * half + d.pick(0, 4)), "cos": np.cos(angles), "sin": np.sin(angles)}
    return {**given, "layout": d.pick("interleaved", "half"), "rotary_dim": 2 * half}


def _line(d):
    x = d.normal(3, 17, scale=d.pick(1.0, 3.0, 300.0))
    if d.chance(0.3):
        x[0, :3] = [np.nan, np.inf, -np.inf]
    return {"x": x}


def _feed_forward(d):
    e, f = d.size(2, 5), d.size(3, 7)
    f = e if d.chance(0.3) else f
    biased = d.chance(0.7)
    params = FeedForwardParams(
        d.normal(e, f), d.normal(f) if biased else None, d.normal(f, e), d.normal(e) if biased else None
    )
    return {"x": d.normal(3, e), "params": params, "activation": str(d.pick(*sorted(ACTIVATIONS)))}


def _gated(d):
    e, f = d.size(2, 5), d.size(3, 7)
    biased = d.chance(0.7)
    fields = {"w_gate": d.normal(e, f, scale=2.0), "w_up": d.normal(e, f, scale=2.0), "w_out": d.normal(f, e)}
    if biased:
        fields |= {"b_gate": d.normal(f), "b_up": d.normal(f), "b_out": d.normal(e)}
    return {
        "x": d.normal(3, e, scale=2.0),
        "params": GatedFeedForwardParams(**fields),
        "activation": d.pick("silu", "gelu", "relu"),
    }


def _t5(d):
    both = d.chance(0.5)
    n, m = d.size(1, 9), d.size(1, 200)
    given = {"table": d.normal(32, 2), "n": n, "m": m, "bidirectional": both}
    if d.chance(0.3):
        given |= {"q_positions": np.arange(n) + 7, "k_positions": np.arange(m)}
    return given


def _bucket(d):
    given = {"relative": np.arange(-300, 300), "bidirectional": d.chance(0.5)}
    return given | d.pick({}, {"buckets": 16, "max_distance": 64}, {"max_distance": 256})


def _alibi(d):
    n, m = d.size(1, 6), d.size(1, 9)
    given = {"slopes": refattn.alibi_slopes(d.size(1, 12)), "n": n, "m": m}
    return given | ({"q_positions": 5 + np.arange(n), "k_positions": np.arange(m)} if d.chance(0.3) else {})


def _table(d):
    return {
        "positions": d.size(0, 40) + np.arange(d.size(2, 9)), "dim": d.size(3, 16),
        "layout": d.pick("interleaved", "half", "tensor2tensor"),
    }  # fmt: skip


def _split(d):
    heads, size = d.size(2, 4), d.size(2, 5)
    return {"x": d.normal(2, d.size(2, 6), heads * size), "heads": heads}


DRAWN = {
    "attention": attention,
    "grouped_query_attention": lambda d: attention(d, grouped=True),
    "attention_weights": attention_weights,
    "multi_head_attention": multi_head,
    "Mask.dense": mask_dense,
    "softmax": _logits,
    "logsumexp": _logits,
    "merge": _parts,
    "layer_norm": _normed(True),
    "rms_norm": _normed(False),
    "rope": _rope,
    "positions.rotate": _rotate,
    "positions.rope_frequencies": lambda d: {"rotary_dim": 2 * d.size(4, 40), "scaling": YaRN(8.0, d.pick(512, 4096))},
    "feed_forward": _feed_forward,
    "gated_feed_forward": _gated,
    "feedforward.split_gate": lambda d: {
        "packed": d.normal(3, 2 * d.size(2, 6)), "gate_order": d.pick("first", "second", "interleaved")
    },
    "gelu": lambda d: {**_line(d), "approximate": d.pick(None, "tanh")},
    **dict.fromkeys(("relu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh"), _line),
    "t5_bias": _t5,
    "relative_position_bucket": _bucket,
    "alibi_slopes": lambda d: {"heads": d.size(1, 24)},
    "alibi_bias": _alibi,
    "sinusoidal": _table,
    "learned_positions": lambda d: {"table": d.normal(20, 5), "positions": d.integers(0, 15, (4,)), "offset": d.pick(0, 2)},
    "split_heads": _split,
    "merge_heads": lambda d: {"x": d.normal(2, d.size(2, 4), d.size(2, 6), d.size(2, 5))},
    "deepnorm_constants": lambda d: {
        "part": d.pick("encoder", "decoder"), "encoder_layers": d.size(1, 12), "decoder_layers": d.pick(3, 5, 9)
    },
    "testing.round_to": lambda d: {"x": d.normal(40) * 2.0**-3, "fmt": d.pick("bfloat16", "float16", "float32")},
}  # fmt: skip
