"""Softmax, log-sum-exp and merge, for one row of numbers."""

from ..exact import exact, inf, lift, move_axis, mp, mpf


def present(x, where):
    """The entries that take part: those that `where` admits and that are not -inf."""
    return [j for j in range(len(x)) if (where is None or where[j]) and x[j] != -inf]


def softmax_row(x, where=None):
    J = present(x, where)
    total = mp.fsum(mp.exp(exact(x[j])) for j in J)
    return [mp.exp(exact(x[j])) / total if j in J else mpf(0) for j in range(len(x))]


def logsumexp_row(x, where=None):
    J = present(x, where)
    return mp.log(mp.fsum(mp.exp(exact(x[j])) for j in J)) if J else -inf


def merge_row(out_a, lse_a, out_b, lse_b):
    parts = [(out, lse) for out, lse in ((out_a, lse_a), (out_b, lse_b)) if lse != -inf]
    if not parts:
        return [mpf(0) for _ in out_a], -inf
    lse = mp.log(mp.fsum(mp.exp(exact(L)) for _, L in parts))
    out = [mp.fsum(mp.exp(exact(L) - lse) * exact(o[c]) for o, L in parts) for c in range(len(out_a))]
    return out, lse


# --- a second formulation of each, which must agree before a vector is written --------------------------------------


def softmax_row_by_differences(x, where=None):
    J = present(x, where)
    return [1 / mp.fsum(mp.exp(exact(x[l]) - exact(x[j])) for l in J) if j in J else mpf(0) for j in range(len(x))]


def logsumexp_row_one_at_a_time(x, where=None):
    lse = -inf
    for j in present(x, where):
        a, b = (exact(x[j]), lse) if lse == -inf or x[j] > lse else (lse, exact(x[j]))
        lse = a if b == -inf else a + mp.log1p(mp.exp(b - a))
    return lse


def merge_row_by_sums(out_a, lse_a, out_b, lse_b):
    mass = [mp.exp(exact(L)) if L != -inf else mpf(0) for L in (lse_a, lse_b)]
    total = mass[0] + mass[1]
    if total == 0:
        return [mpf(0) for _ in out_a], -inf
    numerator = [
        (mass[0] * exact(a) if mass[0] else 0) + (mass[1] * exact(b) if mass[1] else 0)
        for a, b in zip(out_a, out_b, strict=True)
    ]
    return [x / total for x in numerator], mp.log(total)


# --- over any leading axes ------------------------------------------------------------------------------------------


def _rows(row, reduces):
    def over(x, axis=-1, where=None):
        x = move_axis(x, axis, -1)
        out = lift(row, (1, 1), x, None if where is None else move_axis(where, axis, -1))
        return {"out": out if reduces else move_axis(out, -1, axis)}

    return over


def _merge(row):
    def over(out_a, lse_a, out_b, lse_b):
        out, lse = lift(row, (1, 0, 1, 0), out_a, lse_a, out_b, lse_b)
        return {"out": out, "lse": lse}

    return over


FUNCTIONS = {
    "softmax": _rows(softmax_row, reduces=False),
    "logsumexp": _rows(logsumexp_row, reduces=True),
    "merge": _merge(merge_row),
}
SECOND = {
    "softmax": _rows(softmax_row_by_differences, reduces=False),
    "logsumexp": _rows(logsumexp_row_one_at_a_time, reduces=True),
    "merge": _merge(merge_row_by_sums),
}
