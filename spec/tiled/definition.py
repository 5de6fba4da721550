"""Attention by states that combine, one query of one head at a time; and what moves between two memories."""

from itertools import pairwise
from math import ceil, prod

from ..attention.definition import attention as dense_attention
from ..attention.definition import biased, capped, matrix, over_heads, score
from ..exact import Tensor, concat, exact, inf, isinf, lift, mp, mpf
from ..gradients.definition import FUNCTIONS as GRADIENTS
from ..gradients.definition import SECOND as GRADIENTS_AGAIN
from ..heads.definition import after_sink, given_to_query_heads
from ..masks.definition import dense
from ..softmax.definition import merge_row

# --- states: the maximum m, the sum l, the sums a ---------------------------------------------------------------------

NOTHING = (-inf, mpf(0), None)


def combined(one, other):
    """The state of the union of two disjoint sets of keys."""
    (m_a, l_a, a_a), (m_b, l_b, a_b) = one, other
    if m_a == -inf or m_b == -inf:
        return other if m_a == -inf else one
    m = max(m_a, m_b)
    by_a, by_b = mp.exp(m_a - m), mp.exp(m_b - m)
    return m, by_a * l_a + by_b * l_b, [weighed(by_a, x) + weighed(by_b, y) for x, y in zip(a_a, a_b, strict=True)]


def weighed(factor, x):
    return x if isinf(x) or x != x else factor * x


def of_one_key(s, value):
    return (-inf, mpf(0), None) if s == -inf else (s, mpf(1), [x if isinf(x) or x != x else exact(x) for x in value])


def query_by_tiles(tile):
    """One query whose keys pass by, `tile` of them at a time."""

    def one_query(q_i, k, v, allowed, bias, sink, keep, scale, softcap, rate):
        columns = v.shape[-1]

        def state_of(j):
            s = biased(capped(score(q_i, k[j], scale), softcap), bias[j]) if allowed[j] else -inf
            value = v[j] if keep[j] else [0.0] * columns
            return of_one_key(s, [x if isinf(x) or x != x else exact(x) / (1 - exact(rate)) for x in value])

        state = NOTHING
        for start in range(0, len(k), tile):
            of_tile = NOTHING
            for j in range(start, min(start + tile, len(k))):
                of_tile = combined(of_tile, state_of(j))
            state = combined(state, of_tile)
        m, l, a = state
        if m == -inf:
            return [mpf(0)] * columns, -inf
        lse = m + mp.log(l)
        share = 1 / (1 + mp.exp(exact(sink) - lse)) if sink != -inf else mpf(1)
        return [weighed(share / l, x) for x in a], lse

    return one_query


def same_heads(q, k, v):
    """k and v with a head for each query head."""
    shared = len(q.shape) > 2 and len(k.shape) > 2 and k.shape[-3] not in (1, q.shape[-3])
    return (given_to_query_heads(x, q.shape[-3]) if shared else x for x in (k, v))


def tiled_attention(q, k, v, mask=None, *, q_tile=None, k_tile=3, return_lse=False, **options):
    k, v = same_heads(q, k, v)
    return named(by_queries(query_by_tiles(k_tile), q, k, v, mask, **options), return_lse)


def by_queries(
    one_query, q, k, v, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None,
    k_positions=None,
):  # fmt: skip
    visible, dropout = dense_mask(q, k, mask, q_positions, k_positions), drawn(q, k, dropout)
    scale = 1 / mp.sqrt(q.shape[-1]) if scale is None else scale
    return over_heads(one_query, q, k, v, visible, bias, sinks, dropout, scale, softcap)


def drawn(q, k, dropout):
    """Dropout with draws that are a rule of positions as an array."""
    if not dropout:
        return dropout
    fields = dropout["fields"]
    return {"params": "Dropout", "fields": {"keep": dense_mask(q, k, fields["keep"]), "rate": fields["rate"]}}


def named(results, return_lse):
    return dict(zip(("out", "lse"), results, strict=True)) if return_lse else {"out": results[0]}


def attention_at_once(
    q, k, v, mask=None, *, q_tile=None, k_tile=None, splits=None, tree=None, return_lse=False, **options
):
    k, v = same_heads(q, k, v)
    found = dense_attention(q, k, v, mask, **{**options, "dropout": drawn(q, k, options.get("dropout"))})
    return {name: found[name] for name in (("out", "lse") if return_lse else ("out",))}


# --- parts ------------------------------------------------------------------------------------------------------------


def edges(splits, m):
    return [0, *splits, m] if isinstance(splits, list) else [m * n // splits for n in range(splits + 1)]


def split_attention(q, k, v, mask=None, *, splits, tree="balanced", sinks=None, return_lse=False, **options):
    k, v = same_heads(q, k, v)
    cuts = edges(splits, k.shape[-2])
    visible = dense_mask(q, k, mask, **options)
    rest = {
        name: x for name, x in options.items() if name not in ("q_positions", "k_positions", "bias", "q_tile", "k_tile")
    }
    parts = []
    for start, stop in pairwise(cuts):
        own = {"mask": of_keys(visible, start, stop), "bias": of_keys(matrix(options.get("bias")), start, stop)}
        if rest.get("dropout"):
            fields = rest["dropout"]["fields"]
            keep = {"keep": of_keys(matrix(fields["keep"]), start, stop), "rate": fields["rate"]}
            own["dropout"] = {"params": "Dropout", "fields": keep}
        parts.append(dense_attention(q, k[..., start:stop, :], v[..., start:stop, :], **{**rest, **own}))

    def merged(node):
        if not isinstance(node, list):
            return parts[node]["out"], parts[node]["lse"]
        return lift(merge_row, (1, 0, 1, 0), *merged(node[0]), *merged(node[1]))

    out, lse = merged(nested(tree, len(parts)))
    if sinks is not None:
        out = after_sink(out, lse, sinks)
    return named((out, lse), return_lse)


def dense_mask(q, k, mask, q_positions=None, k_positions=None, q_offsets=None, k_offsets=None, **_):
    """A mask argument, rule or array, as a bool Tensor."""
    if q_offsets is not None:
        return same_sequence(q, k, mask, q_offsets, q_offsets if k_offsets is None else k_offsets)
    if isinstance(mask, dict):
        return dense(mask, q.shape[-2], k.shape[-2], q_positions, k_positions)
    return matrix(mask)


def nested(tree, count):
    """An order of merges as nested lists of part numbers."""
    if tree == "sequential":
        order = 0
        for number in range(1, count):
            order = [order, number]
        return order
    if tree == "balanced":
        halves = lambda a, b: a if b - a == 1 else [halves(a, (a + b) // 2), halves((a + b) // 2, b)]
        return halves(0, count)
    return tree


def of_keys(table, start, stop):
    """The columns of some keys, unless there is one for all."""
    return table if table is None or table.shape[-1] == 1 else table[..., start:stop]


# --- packed sequences -------------------------------------------------------------------------------------------------


def packed_attention(
    q, k, v, q_offsets, k_offsets=None, mask=None, return_lse=False, q_tile=None, k_tile=None, **options
):
    """Each sequence for itself, and zeros after the last."""
    k_offsets = q_offsets if k_offsets is None else k_offsets
    k, v = same_heads(q, k, v)
    results = [
        by_queries(query_by_tiles(1), q[..., a:b, :], k[..., c:d, :], v[..., c:d, :], mask, **options)
        for (a, b), (c, d) in zip(pairwise(q_offsets), pairwise(k_offsets), strict=True)
    ]
    *lead, total, _ = q.shape
    rest, columns = (*lead, total - q_offsets[-1]), v.shape[-1]
    results.append((Tensor((*rest, columns), [mpf(0)] * prod(rest) * columns), Tensor(rest, [-inf] * prod(rest))))
    out, lse = zip(*results, strict=True)
    return named((concat(*out, axis=-2), concat(*lse)), return_lse)


def packed_as_one(q, k, v, q_offsets, k_offsets=None, mask=None, return_lse=False, q_tile=None, k_tile=None, **options):
    """All tokens at once: a query sees a key of its own sequence if the rule says so of their positions in it."""
    k, v = same_heads(q, k, v)
    visible = dense_mask(q, k, mask, q_offsets=q_offsets, k_offsets=k_offsets)
    found = dense_attention(q, k, v, visible, **options)
    return {name: found[name] for name in (("out", "lse") if return_lse else ("out",))}


def same_sequence(q, k, mask, q_offsets, k_offsets):
    cells = []
    for i in range(q.shape[-2]):
        for j in range(k.shape[-2]):
            own, seen = sequence(i, q_offsets), False
            if own is not None and own == sequence(j, k_offsets):
                position = i - q_offsets[own + 1] + k_offsets[own + 1] - k_offsets[own]
                seen = mask is None or dense(mask, 1, 1, [position], [j - k_offsets[own]]).data[0]
            cells.append(int(seen))
    return Tensor((q.shape[-2], k.shape[-2]), cells, "bool")


def sequence(token, offsets):
    """Which sequence a token belongs to."""
    return next((b for b, (start, stop) in enumerate(pairwise(offsets)) if start <= token < stop), None)


# --- gradients --------------------------------------------------------------------------------------------------------


def _without_tiles(functions):
    """The gradients are those of attention; what is said about tiles does not matter."""

    def tiled_attention_vjp(q, k, q_tile=None, k_tile=None, **arguments):
        grouped = len(q.shape) > 2 and k.shape[-3] not in (1, q.shape[-3])
        return functions["grouped_query_attention_vjp" if grouped else "attention_vjp"](q=q, k=k, **arguments)

    return tiled_attention_vjp


# --- what is moved between a slow memory and a fast one ---------------------------------------------------------------


def attention_io(n, m, d, fast_memory, order="queries_outside"):
    """Count while walking through the loops."""
    k_tile = ceil(mpf(fast_memory) / (4 * d))
    q_tile = min(k_tile, d)
    loads = stores = 0
    if order == "standard":
        loads, stores = loads + n * d + m * d, stores + n * m  # S = Q Kᵀ
        loads, stores = loads + n * m, stores + n * m  # P = softmax(S)
        loads, stores = loads + n * m + m * d, stores + n * d  # O = P V
        q_tile = k_tile = 0
    elif order == "keys_outside":
        for j in range(0, m, k_tile):
            loads += 2 * d * len(range(j, min(j + k_tile, m)))
            for i in range(0, n, q_tile):
                height = len(range(i, min(i + q_tile, n)))
                loads += height * (d + d + 2)  # q, out, m, l
                stores += height * (d + 2)
    else:
        for i in range(0, n, q_tile):
            height = len(range(i, min(i + q_tile, n)))
            loads += height * d
            for j in range(0, m, k_tile):
                loads += 2 * d * len(range(j, min(j + k_tile, m)))
            stores += height * (d + 1)  # out, lse
    return counts(loads, stores, q_tile, k_tile)


def attention_io_by_formula(n, m, d, fast_memory, order="queries_outside"):
    k_tile = -(-fast_memory // (4 * d))
    q_tile = min(k_tile, d)
    if order == "standard":
        return counts(n * d + 2 * m * d + 2 * n * m, 2 * n * m + n * d, 0, 0)
    if order == "keys_outside":
        passes = -(-m // k_tile)
        return counts(2 * m * d + passes * n * (2 * d + 2), passes * n * (d + 2), q_tile, k_tile)
    return counts(n * d + -(-n // q_tile) * 2 * m * d, n * (d + 1), q_tile, k_tile)


def counts(*numbers):
    names = ("loads", "stores", "q_tile", "k_tile")
    return {name: Tensor((), [int(x)], "int64") for name, x in zip(names, numbers, strict=True)}


FUNCTIONS = {
    "tiled_attention": tiled_attention,
    "split_attention": split_attention,
    "packed_attention": packed_attention,
    "tiled_attention_vjp": _without_tiles(GRADIENTS),
    "attention_io": attention_io,
}
SECOND = {
    "tiled_attention": attention_at_once,
    "split_attention": attention_at_once,
    "packed_attention": packed_as_one,
    "tiled_attention_vjp": _without_tiles(GRADIENTS_AGAIN),
    "attention_io": attention_io_by_formula,
}
