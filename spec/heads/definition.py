"""Heads: which numbers belong to which head, which keys it reads, and the projections around it."""

from ..attention.definition import attention as attention_over_axes
from ..attention.definition import dense_mask as dense_mask_of_attention
from ..attention.definition import matrix
from ..exact import Tensor, concat, exact, inf, lift, move_axis, mp, mpf
from ..feedforward.definition import linear
from ..norms.definition import rms_norm
from ..positions.definition import last_positions, rope_by_complex_numbers
from ..positions.definition import rope as rope_over_tokens


def split_heads(x, heads):
    """(..., N, H·D) to (..., H, N, D)."""
    *lead, n, width = x.shape
    return move_axis(x.reshaped(*lead, n, heads, width // heads), -2, -3)


def merge_heads(x):
    """(..., H, N, D) to (..., N, H·D)."""
    *lead, heads, n, size = x.shape
    return move_axis(x, -3, -2).reshaped(*lead, n, heads * size)


def head_read_by(h, heads, kv_heads):
    return h // (heads // kv_heads)


def given_to_query_heads(x, heads):
    """(..., G, M, D) to (..., H, M, D): what each query head reads."""
    read = [head_read_by(h, heads, x.shape[-3]) for h in range(heads)]
    return concat(*(x[..., g : g + 1, :, :] for g in read), axis=-3)


def grouped_query_attention(q, k, v, **options):
    heads = q.shape[-3]
    return attention_over_axes(q, given_to_query_heads(k, heads), given_to_query_heads(v, heads), **options)


def with_axis(t, place):
    """The same with an axis of length 1 before place -1 or -2."""
    return t.reshaped(*t.shape[:place], 1, *t.shape[place:])


def multi_query_attention(q, k, v, **options):
    return grouped_query_attention(q, with_axis(k, -2), with_axis(v, -2), **options)


# --- with projections -----------------------------------------------------------------------------------------------


def normalised_heads(x, heads, gain, eps):
    """Split and normalise: over each head, or over the whole width, as the gain is long."""
    if gain is None:
        return split_heads(x, heads)
    if len(gain) == x.shape[-1]:
        return split_heads(rms_norm(x, gain, eps), heads)
    return rms_norm(split_heads(x, heads), gain, eps)


def rotated(x, positions, options, turn=rope_over_tokens):
    """Heads (..., H, N, D) rotated by the positions (..., N) of their tokens."""
    if options is None:
        return x
    return turn(x, with_axis(positions, -1), **options["fields"])["out"]


def unpacked(params, heads, kv_heads):
    """The fields of MultiHeadParams; packed columns are queries', then keys', then values'."""
    fields = dict(params["fields"])
    if params["params"] == "PackedMultiHeadParams":
        w, b = fields.pop("w_qkv"), fields.pop("b_qkv", None)
        values = fields["w_o"].shape[0] // heads * kv_heads
        size = (w.shape[1] - values) // (heads + kv_heads)
        ends = {
            "q": (0, heads * size),
            "k": (heads * size, w.shape[1] - values),
            "v": (w.shape[1] - values, w.shape[1]),
        }
        for name, (first, last) in ends.items():
            fields[f"w_{name}"] = w[:, first:last]
            fields[f"b_{name}"] = None if b is None else b[first:last]
    return dict.fromkeys(("b_q", "b_k", "b_v", "b_o", "q_norm", "k_norm")) | fields


def dense_mask(mask=None, q_positions=None, k_positions=None, **arguments):
    """A mask argument, rule or array, as a bool Tensor; positions of tokens hold for every head."""
    if "x_q" not in arguments:
        return dense_mask_of_attention(
            arguments["q"], arguments["k"], mask, q_positions=q_positions, k_positions=k_positions
        )
    x_q, x_kv = arguments["x_q"], arguments["x_kv"]
    x_kv = x_q if x_kv is None else x_kv
    q_positions, k_positions = (None if p is None else with_axis(p, -1) for p in (q_positions, k_positions))
    return dense_mask_of_attention(x_q, x_kv, mask, q_positions=q_positions, k_positions=k_positions)


def multi_head_attention(
    x_q, x_kv, params, heads, kv_heads=None, mask=None, rope=None, q_positions=None, k_positions=None,
    qk_norm_eps=1e-6, **options,
):  # fmt: skip
    x_kv, kv_heads = x_q if x_kv is None else x_kv, heads if kv_heads is None else kv_heads
    p = unpacked(params, heads, kv_heads)
    mask = dense_mask(x_q=x_q, x_kv=x_kv, mask=mask, q_positions=q_positions, k_positions=k_positions)
    i, j = last_positions(x_q.shape[-2], x_kv.shape[-2], q_positions, k_positions)
    q = rotated(normalised_heads(linear(x_q, p["w_q"], p["b_q"]), heads, p["q_norm"], qk_norm_eps), i, rope)
    k = rotated(normalised_heads(linear(x_kv, p["w_k"], p["b_k"]), kv_heads, p["k_norm"], qk_norm_eps), j, rope)
    v = split_heads(linear(x_kv, p["w_v"], p["b_v"]), kv_heads)
    out = grouped_query_attention(q, k, v, mask=mask, **options)["out"]
    return linear(merge_heads(out), p["w_o"], p["b_o"])


# --- second formulations --------------------------------------------------------------------------------------------
# Grouped queries: the query heads of a group are more queries of its key/value head, and the sink scales the result.
# Multi-head attention: each head by itself from its own columns of the weights, values projected after they are mixed,
# and the outputs of the heads summed.


def split_heads_by_slices(x, heads):
    size = x.shape[-1] // heads
    return concat(*(with_axis(x[..., h * size : (h + 1) * size], -2) for h in range(heads)), axis=-3)


def merge_heads_by_slices(x):
    *lead, heads, n, size = x.shape
    return concat(*(x[..., h : h + 1, :, :].reshaped(*lead, n, size) for h in range(heads)))


def folded(table, heads, kv_heads, n, m):
    """A table on (..., H, N, M) as one on (..., G, H/G·N, M), or (..., 1, H/G·N, M)."""
    if table is None:
        return None
    table = matrix(table)
    lead = table.shape[:-3]
    return table.broadcast((*lead, heads, n, m)).reshaped(*lead, kv_heads, heads // kv_heads * n, m)


def grouped_query_attention_by_folding(q, k, v, mask=None, bias=None, sinks=None, dropout=None, **options):
    *lead, heads, n, size = q.shape
    kv_heads, m = k.shape[-3:-1]
    mask = dense_mask(
        q=q, k=k, mask=mask, q_positions=options.pop("q_positions", None), k_positions=options.pop("k_positions", None)
    )
    if dropout:
        keep = folded(dropout["fields"]["keep"], heads, kv_heads, n, m)
        dropout = {"fields": {"keep": keep, "rate": dropout["fields"]["rate"]}}
    folds = {name: folded(t, heads, kv_heads, n, m) for name, t in (("mask", mask), ("bias", bias))}
    q = q.reshaped(*lead, kv_heads, heads // kv_heads * n, size)
    found = attention_over_axes(q, k, v, dropout=dropout, **folds, **options)

    def unfold(t, tail):
        return t.reshaped(*t.shape[: len(t.shape) - 2 - len(tail)], heads, n, *tail)

    out, lse = unfold(found["out"], v.shape[-1:]), unfold(found["lse"], ())

    return {"out": out if sinks is None else after_sink(out, lse, sinks), "lse": lse}


def after_sink(out, lse, sinks):
    """The output with one more logit in every denominator; sinks have an entry for each head, or one."""

    def share(o, L, z):
        kept = mpf(1) if -inf in (L, z) else 1 / (1 + mp.exp(exact(z) - L))
        return [kept * x for x in o]

    return lift(share, (1, 0, 0), out, lse, sinks.reshaped(*sinks.shape, 1))


def multi_head_attention_by_heads(
    x_q, x_kv, params, heads, kv_heads=None, mask=None, rope=None, q_positions=None, k_positions=None,
    qk_norm_eps=1e-6, bias=None, sinks=None, dropout=None, **options,
):  # fmt: skip
    x_kv, kv_heads = x_q if x_kv is None else x_kv, heads if kv_heads is None else kv_heads
    p = unpacked(params, heads, kv_heads)
    mask = dense_mask(x_q=x_q, x_kv=x_kv, mask=mask, q_positions=q_positions, k_positions=k_positions)
    i, j = last_positions(x_q.shape[-2], x_kv.shape[-2], q_positions, k_positions)
    size, v_size = p["w_q"].shape[1] // heads, p["w_v"].shape[1] // kv_heads
    mixable = concat(x_kv, Tensor((*x_kv.shape[:-1], 1), [1.0] * (len(x_kv.data) // x_kv.shape[-1])))
    parts = []
    for h in range(heads):
        g = head_read_by(h, heads, kv_heads)
        q, k = (
            turned(
                one_head(x, p[f"w_{name}"], p[f"b_{name}"], p[f"{name}_norm"], head * size, size, qk_norm_eps), t, rope
            )
            for x, name, head, t in ((x_q, "q", h, i), (x_kv, "k", g, j))
        )
        drop = dropout and {"fields": {**dropout["fields"], "keep": of_head(dropout["fields"]["keep"], h, 2)}}
        mixed = attention_over_axes(
            q, k, mixable, mask=of_head(mask, h, 2), bias=of_head(bias, h, 2), sinks=of_head(sinks, h, 0),
            dropout=drop, **options,
        )["out"]  # fmt: skip
        w_v = p["w_v"][:, g * v_size : (g + 1) * v_size]
        b_v = p["b_v"][g * v_size : (g + 1) * v_size] if p["b_v"] is not None else Tensor((v_size,), [0.0] * v_size)
        w_o = p["w_o"][h * v_size : (h + 1) * v_size]
        w = concat(w_v, with_axis(b_v, -1), axis=0) @ w_o  # values and output in one matrix
        parts.append(linear(mixed, w, p["b_o"] if h == 0 else None))
    return sum(parts)


def turned(x, positions, options):
    """One head (..., N, D) rotated as complex numbers."""
    return x if options is None else rope_by_complex_numbers(x, positions, **options["fields"])["out"]


def one_head(x, w, b, gain, first, size, eps):
    """One head of queries or keys, from its own columns, with the norm by the length of the vector."""
    own = linear(x, w[:, first : first + size], None if b is None else b[first : first + size])
    if gain is None:
        return own
    whole = own if len(gain) == size else linear(x, w, b)
    gains = gain if len(gain) == size else gain[first : first + size]

    def length(token):
        return [mp.norm([*token, mp.sqrt(exact(eps) * len(token))]) / mp.sqrt(len(token))]

    return own / lift(length, (1,), whole) * gains


def of_head(t, h, core):
    """The part of an argument on (..., H, core) that belongs to one head."""
    if t is None or len(t.shape) <= core:
        return t
    return lift(lambda t: t[h if t.shape[0] > 1 else 0], (core + 1,), t)


def _out(function):
    return lambda *args, **kwargs: {"out": function(*args, **kwargs)}


def _asked(function):
    def call(*args, return_lse=False, **kwargs):
        found = function(*args, **kwargs)
        return found if return_lse else {"out": found["out"]}

    return call


FUNCTIONS = {
    "split_heads": _out(split_heads),
    "merge_heads": _out(merge_heads),
    "grouped_query_attention": _asked(grouped_query_attention),
    "multi_query_attention": _asked(multi_query_attention),
    "multi_head_attention": _out(multi_head_attention),
}
SECOND = {
    "split_heads": _out(split_heads_by_slices),
    "merge_heads": _out(merge_heads_by_slices),
    "grouped_query_attention": _asked(grouped_query_attention_by_folding),
    "multi_query_attention": _asked(
        lambda q, k, v, **options: grouped_query_attention_by_folding(q, with_axis(k, -2), with_axis(v, -2), **options)
    ),
    "multi_head_attention": _out(multi_head_attention_by_heads),
}
