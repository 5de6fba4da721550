"""Scaled dot-product attention, one query of one head at a time."""

from ..exact import Tensor, exact, inf, isinf, lift, mp, mpf
from ..masks.definition import dense
from ..softmax.definition import merge_row

STAGES = ("scores", "softcap", "bias", "mask", "weights", "dropout", "out", "lse")


def score(q_i, k_j, scale):
    return exact(scale) * mp.fsum(exact(a) * exact(b) for a, b in zip(q_i, k_j, strict=True))


def capped(s, softcap):
    return s if not softcap else exact(softcap) * mp.tanh(s / exact(softcap))


def biased(s, b):
    return -inf if b == -inf else s + exact(b)


def query(q_i, k, v, allowed, bias, sink, keep, scale, softcap, rate):
    """Every stage for one query: what attention is, before anybody makes it fast."""
    scores = [score(q_i, k_j, scale) for k_j in k]
    after_cap = [capped(s, softcap) for s in scores]
    after_bias = [biased(s, bias[j]) for j, s in enumerate(after_cap)]
    masked = [s if allowed[j] else -inf for j, s in enumerate(after_bias)]

    J = [j for j, s in enumerate(masked) if s != -inf]
    total = mp.fsum(mp.exp(masked[j]) for j in J)
    denominator = total + (mp.exp(exact(sink)) if sink != -inf else 0)
    weights = [mp.exp(masked[j]) / denominator if j in J else mpf(0) for j in range(len(k))]
    dropped = [p / (1 - exact(rate)) if keep[j] else mpf(0) for j, p in enumerate(weights)]
    out = [mixed((dropped[j], v[j][c]) for j in J if keep[j]) for c in range(v.shape[-1])]
    lse = mp.log(total) if J else -inf
    return scores, after_cap, after_bias, masked, weights, dropped, out, lse


def mixed(terms):
    """Σ p v with p > 0, where v may be infinite or NaN."""
    total = mpf(0)
    for p, x in terms:
        total = total + (x if isinf(x) or x != x else p * exact(x))
    return total


def query_by_merging(q_i, k, v, allowed, bias, sink, keep, scale, softcap, rate):
    """The same by merging one key after the other, and the sink at the end."""
    columns = v.shape[-1]
    out, lse = [mpf(0)] * columns, -inf
    for j in range(len(k)):
        s = biased(capped(score(q_i, k[j], scale), softcap), bias[j])
        if allowed[j] and s != -inf:
            value = [exact(x) / (1 - exact(rate)) for x in v[j]] if keep[j] else [mpf(0)] * columns
            out, lse = merge_row(out, lse, value, s)
    if sink != -inf and lse != -inf:
        out = [o / (1 + mp.exp(exact(sink) - lse)) for o in out]
    return out, lse


def over_heads(one_query, q, k, v, visible, bias, sinks, dropout, scale, softcap):
    n, m = q.shape[-2], k.shape[-2]
    keep, rate = (dropout["fields"]["keep"], dropout["fields"]["rate"]) if dropout else (None, 0.0)

    def row(table, i, default):
        """Row i of a table (N, M) whose axes may be 1, or m times the default."""
        if table is None:
            return [default] * m
        cells = table[0 if table.shape[0] == 1 else i]
        return [cells[0 if cells.shape[0] == 1 else j] for j in range(m)]

    def head(q, k, v, visible, bias, sink, keep):
        sink = -inf if sink is None else sink
        rows = [
            one_query(q[i], k, v, row(visible, i, 1), row(bias, i, 0.0), sink, row(keep, i, 1), scale, softcap, rate)
            for i in range(n)
        ]
        if not rows:  # no query: the stages are empty, and as wide as they would have been
            rows, widths = [], ([m] * 6 if one_query is query else []) + [v.shape[-1], None]
            return tuple(Tensor((0,) if width is None else (0, width), []) for width in widths)
        return tuple(column_of(column) for column in zip(*rows, strict=True))

    return lift(head, (2, 2, 2, 2, 2, 0, 2), q, k, v, visible, matrix(bias), sinks, matrix(keep))


def column_of(results):
    """One result of every query as a Tensor, also where there is no key."""
    if isinstance(results[0], list):
        return Tensor((len(results), len(results[0])), [x for row in results for x in row])
    return Tensor((len(results),), results)


def matrix(t):
    """A table with at least the axes (N, M), which may be 1."""
    return None if t is None else t.reshaped(*(1,) * (2 - len(t.shape)), *t.shape)


def dense_mask(q, k, mask=None, q_positions=None, k_positions=None, **_):
    """A mask argument, rule or array, as a bool Tensor."""
    if isinstance(mask, dict):
        return dense(mask, q.shape[-2], k.shape[-2], q_positions, k_positions)
    return matrix(mask)


def _function(one_query, names):
    def attention(
        q, k, v, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False,
    ):  # fmt: skip
        visible = dense_mask(q, k, mask, q_positions, k_positions)
        scale = 1 / mp.sqrt(q.shape[-1]) if scale is None else scale
        results = over_heads(one_query, q, k, v, visible, bias, sinks, dropout, scale, softcap)
        found = dict(zip(STAGES if one_query is query else ("out", "lse"), results, strict=True))
        return {name: found[name] for name in names(return_lse) if name in found}

    return attention


def _weights(q, k, **options):
    values = Tensor((*k.shape[:-1], 1), [0.0] * (len(k.data) // k.shape[-1]))
    return {"out": _function(query, lambda _: STAGES)(q, k, values, **options)["dropout"]}


def _out(return_lse):
    return ("out", "lse") if return_lse else ("out",)


attention = _function(query, lambda _: ("out", "lse"))  # for the mechanisms that build on this one

FUNCTIONS = {
    "attention": _function(query, _out),
    "attention_stages": _function(query, lambda _: STAGES),
    "attention_weights": _weights,
}
SECOND = {
    "attention": _function(query_by_merging, _out),
    "attention_stages": _function(query_by_merging, lambda _: ("out", "lse")),
}
