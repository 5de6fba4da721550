"""Heads: which numbers belong to which head, which keys it reads, and the projections around it."""

from ..attention.definition import attention as attention_over_axes
from ..attention.definition import dense_mask as dense_mask_of_attention
from ..attention.definition import matrix
from ..exact import Tensor, exact, indices, inf, lift, mp, mpf
from ..positions.definition import rope as rope_over_tokens
from ..positions.definition import rope_by_complex_numbers


def split_heads(x, heads):
    """(..., N, H·D) to (..., H, N, D)."""
    *lead, n, width = x.shape
    size = width // heads
    values = dict(zip(indices(x.shape), x.data, strict=True))
    shape = (*lead, heads, n, size)
    return Tensor(shape, [values[(*b, i, h * size + d)] for *b, h, i, d in indices(shape)])


def merge_heads(x):
    """(..., H, N, D) to (..., N, H·D)."""
    *lead, heads, n, size = x.shape
    values = dict(zip(indices(x.shape), x.data, strict=True))
    shape = (*lead, n, heads * size)
    return Tensor(shape, [values[(*b, c // size, i, c % size)] for *b, i, c in indices(shape)])


def head_read_by(h, heads, kv_heads):
    return h // (heads // kv_heads)


def given_to_query_heads(x, heads):
    """(..., G, M, D) to (..., H, M, D): what each query head reads."""
    kv_heads = x.shape[-3]

    def pick(x):
        return Tensor(
            (heads, *x.shape[1:]), [a for h in range(heads) for a in x[head_read_by(h, heads, kv_heads)].data]
        )

    return lift(pick, (3,), x)


def grouped_query_attention(q, k, v, **options):
    heads = q.shape[-3]
    return attention_over_axes(q, given_to_query_heads(k, heads), given_to_query_heads(v, heads), **options)


def with_head_axis(x):
    """(..., M, D) to (..., 1, M, D)."""
    return Tensor((*x.shape[:-2], 1, *x.shape[-2:]), x.data, x.dtype)


def multi_query_attention(q, k, v, **options):
    return grouped_query_attention(q, with_head_axis(k), with_head_axis(v), **options)


# --- with projections -----------------------------------------------------------------------------------------------


def projected(x, w, b):
    """x W + b for every token; x (..., N, E), W (E, C)."""

    def tokens(x):
        rows = [
            mp.fsum(exact(x[i][e]) * exact(w[e][c]) for e in range(w.shape[0])) + (exact(b[c]) if b is not None else 0)
            for i in range(x.shape[0])
            for c in range(w.shape[1])
        ]
        return Tensor((x.shape[0], w.shape[1]), rows)

    return lift(tokens, (2,), x)


def rms_norm(x, gain, eps):
    """Every row divided by the root of its mean square, times the gain; x (..., D)."""

    def row(x):
        mean = mp.fsum(exact(a) ** 2 for a in x) / len(x)
        return Tensor(x.shape, [exact(a) / mp.sqrt(mean + exact(eps)) * exact(g) for a, g in zip(x, gain, strict=True)])

    return lift(row, (1,), x)


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
    over_heads = Tensor((*positions.shape[:-1], 1, positions.shape[-1]), positions.data, positions.dtype)
    return turn(x, over_heads, **options["fields"])["out"]


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
            fields[f"w_{name}"] = columns(w, first, last)
            fields[f"b_{name}"] = None if b is None else Tensor((last - first,), b.data[first:last])
    return dict.fromkeys(("b_q", "b_k", "b_v", "b_o", "q_norm", "k_norm")) | fields


def columns(w, first, last):
    return Tensor((w.shape[0], last - first), [row[c] for row in w for c in range(first, last)])


def rows(w, first, last):
    return Tensor((last - first, w.shape[1]), [x for e in range(first, last) for x in w[e]])


def positions_of(x_q, x_kv, q_positions, k_positions):
    """The positions that were given, else 0 to M - 1 for keys and the last N of them for queries."""
    n, m = x_q.shape[-2], x_kv.shape[-2]
    if q_positions is None:
        q_positions = Tensor((n,), range(m - n, m), "int64")
    if k_positions is None:
        k_positions = Tensor((m,), range(m), "int64")
    return q_positions, k_positions


def dense_mask(mask=None, q_positions=None, k_positions=None, **arguments):
    """A mask argument, rule or array, as a bool Tensor; positions of tokens hold for every head."""
    if "x_q" not in arguments:
        return dense_mask_of_attention(
            arguments["q"], arguments["k"], mask, q_positions=q_positions, k_positions=k_positions
        )
    x_q, x_kv = arguments["x_q"], arguments["x_kv"]
    x_kv = x_q if x_kv is None else x_kv
    q_positions, k_positions = (
        None if p is None else Tensor((*p.shape[:-1], 1, p.shape[-1]), p.data, p.dtype)
        for p in (q_positions, k_positions)
    )
    return dense_mask_of_attention(x_q, x_kv, mask, q_positions=q_positions, k_positions=k_positions)


def multi_head_attention(
    x_q, x_kv, params, heads, kv_heads=None, mask=None, rope=None, q_positions=None, k_positions=None,
    qk_norm_eps=1e-6, **options,
):  # fmt: skip
    x_kv, kv_heads = x_q if x_kv is None else x_kv, heads if kv_heads is None else kv_heads
    p = unpacked(params, heads, kv_heads)
    mask = dense_mask(x_q=x_q, x_kv=x_kv, mask=mask, q_positions=q_positions, k_positions=k_positions)
    i, j = positions_of(x_q, x_kv, q_positions, k_positions)
    q = rotated(normalised_heads(projected(x_q, p["w_q"], p["b_q"]), heads, p["q_norm"], qk_norm_eps), i, rope)
    k = rotated(normalised_heads(projected(x_kv, p["w_k"], p["b_k"]), kv_heads, p["k_norm"], qk_norm_eps), j, rope)
    v = split_heads(projected(x_kv, p["w_v"], p["b_v"]), kv_heads)
    out = grouped_query_attention(q, k, v, mask=mask, **options)["out"]
    return projected(merge_heads(out), p["w_o"], p["b_o"])


# --- second formulations --------------------------------------------------------------------------------------------
# Grouped queries: the query heads of a group are more queries of its key/value head, and the sink scales the result.
# Multi-head attention: each head by itself from its own columns of the weights, values projected after they are mixed,
# and the outputs of the heads summed.


def split_heads_by_slices(x, heads):
    size = x.shape[-1] // heads

    def tokens(x):
        return Tensor(
            (heads, len(x), size), [a for h in range(heads) for row in x for a in row.data[h * size :][:size]]
        )

    return lift(tokens, (2,), x)


def merge_heads_by_slices(x):
    def tokens(x):
        heads, n, size = x.shape
        return Tensor((n, heads * size), [a for i in range(n) for h in range(heads) for a in x[h][i]])

    return lift(tokens, (3,), x)


def folded(table, heads, kv_heads, n, m):
    """A table on (..., H, N, M) as one on (..., G, H/G·N, M), or (..., 1, H/G·N, M)."""
    if table is None:
        return None
    table = matrix(table)
    while len(table.shape) < 3:
        table = Tensor((1, *table.shape), table.data, table.dtype)
    group = heads // kv_heads

    def block(t):
        def cell(h, i, j):
            return t[h if t.shape[0] > 1 else 0][i if t.shape[1] > 1 else 0][j if t.shape[2] > 1 else 0]

        cells = [cell(h, i, j) for h in range(heads) for i in range(n) for j in range(m)]
        return Tensor((kv_heads, group * n, m), cells, table.dtype)

    result = lift(block, (3,), table)
    return Tensor(result.shape, result.data, table.dtype)


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
    q = Tensor((*lead, kv_heads, heads // kv_heads * n, size), q.data)
    found = attention_over_axes(q, k, v, dropout=dropout, **folds, **options)

    def unfold(t, tail):
        return Tensor((*t.shape[: len(t.shape) - 2 - len(tail)], heads, n, *tail), t.data)

    out, lse = unfold(found["out"], v.shape[-1:]), unfold(found["lse"], ())

    def share(o, L, z):
        kept = mpf(0) if L == -inf else mpf(1) if z == -inf else 1 / (1 + mp.exp(exact(z) - L))
        return Tensor(o.shape, [kept * x if L != -inf else mpf(0) for x in o])

    if sinks is not None:
        out = lift(share, (1, 0, 0), out, lse, Tensor((*sinks.shape, 1), sinks.data))
    return {"out": out, "lse": lse}


def multi_head_attention_by_heads(
    x_q, x_kv, params, heads, kv_heads=None, mask=None, rope=None, q_positions=None, k_positions=None,
    qk_norm_eps=1e-6, bias=None, sinks=None, dropout=None, **options,
):  # fmt: skip
    x_kv, kv_heads = x_q if x_kv is None else x_kv, heads if kv_heads is None else kv_heads
    p = unpacked(params, heads, kv_heads)
    mask = dense_mask(x_q=x_q, x_kv=x_kv, mask=mask, q_positions=q_positions, k_positions=k_positions)
    i, j = positions_of(x_q, x_kv, q_positions, k_positions)
    size, v_size = p["w_q"].shape[1] // heads, p["w_v"].shape[1] // kv_heads
    ones = Tensor((*x_kv.shape[:-1], 1), [1.0] * (len(x_kv.data) // x_kv.shape[-1]))
    mixable = lift(lambda a, b: Tensor((len(a) + 1,), a.data + b.data), (1, 1), x_kv, ones)
    total = None
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
        w_v = columns(p["w_v"], g * v_size, (g + 1) * v_size)
        b_v = p["b_v"].data[g * v_size :][:v_size] if p["b_v"] is not None else [0.0] * v_size
        with_bias = Tensor((w_v.shape[0] + 1, v_size), w_v.data + b_v)
        w = projected(with_bias, rows(p["w_o"], h * v_size, (h + 1) * v_size), None)  # W_v and W_o in one matrix
        part = projected(mixed, w, p["b_o"] if h == 0 else None)
        total = (
            part if total is None else Tensor(part.shape, [a + b for a, b in zip(total.data, part.data, strict=True)])
        )
    return total


def turned(x, positions, options):
    """One head (..., N, D) rotated as complex numbers."""
    return x if options is None else rope_by_complex_numbers(x, positions, **options["fields"])["out"]


def one_head(x, w, b, gain, first, size, eps):
    """One head of queries or keys, from its own columns, with the norm by the length of the vector."""
    own = projected(x, columns(w, first, first + size), None if b is None else Tensor((size,), b.data[first:][:size]))
    if gain is None:
        return own
    whole = own if len(gain) == size else projected(x, w, b)
    gains = gain.data if len(gain) == size else gain.data[first:][:size]

    def token(own, whole):
        length = mp.norm(list(whole.data) + [mp.sqrt(exact(eps) * len(whole))])
        return Tensor(own.shape, [a * mp.sqrt(len(whole)) / length * exact(g) for a, g in zip(own, gains, strict=True)])

    return lift(token, (1, 1), own, whole)


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
        lambda q, k, v, **options: grouped_query_attention_by_folding(
            q, with_head_axis(k), with_head_axis(v), **options
        )
    ),
    "multi_head_attention": _out(multi_head_attention_by_heads),
}
