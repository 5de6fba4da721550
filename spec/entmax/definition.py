"""Sparsemax and entmax, for one row of numbers: which entries have a weight, then the threshold that makes their sum 1."""

from ..exact import Tensor, exact, lift, move_axis, mp, mpf
from ..gradients.definition import differentiated
from ..softmax.definition import present, softmax_row, softmax_row_by_differences


def power(t, alpha):
    """[t]₊ to the power 1 / (α - 1)."""
    return t ** (1 / (exact(alpha) - 1)) if t > 0 else mpf(0)


def entmax_row(x, alpha, where=None):
    if alpha == 1:
        return softmax_row(x, where)
    z = {j: (exact(alpha) - 1) * exact(x[j]) for j in present(x, where)}
    support = [j for j in z if mp.fsum(power(z[l] - z[j], alpha) for l in z) < 1]
    if not support:
        return [mpf(0)] * len(x)
    tau = threshold([z[j] for j in support], alpha)
    return [power(z[j] - tau, alpha) if j in support else mpf(0) for j in range(len(x))]


def threshold(z, alpha):
    """Where the weights of a support sum to 1: by halving, then by Newton's method, which doubles the digits."""
    low, high = max(z) - 1, min(z)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mp.fsum(power(x - middle, alpha) for x in z) >= 1 else (low, middle)
    tau, s = low, 1 / (exact(alpha) - 1)
    for _ in range(6):
        roots = [x - tau for x in z]
        tau += (mp.fsum(t**s for t in roots) - 1) / mp.fsum(s * t ** (s - 1) for t in roots)
    return tau


# --- a second formulation of each -------------------------------------------------------------------------------------


def entmax_row_in_order(x, alpha, where=None):
    """From the largest entry on: closed forms where there are, else the weight of the largest by halving."""
    J = present(x, where)
    if alpha == 1 or not J:
        return softmax_row_by_differences(x, where)
    z = sorted((exact(x[j]) * (exact(alpha) - 1) for j in J), reverse=True)
    if alpha not in (1.5, 2):
        tau = z[0] - of_largest(z, alpha)
    for k in range(1, len(z) + 1 if alpha in (1.5, 2) else 0):
        mean = mp.fsum(z[:k]) / k
        spread = mp.fsum((y - mean) ** 2 for y in z[:k])
        own = mean - (mpf(1) / k if alpha == 2 else mp.sqrt(max(1 - spread, 0) / k))
        if own < z[k - 1]:
            tau = own
    return [power((exact(alpha) - 1) * exact(x[j]) - tau, alpha) if j in J else mpf(0) for j in range(len(x))]


def of_largest(z, alpha):
    """P^(α - 1), P the weight of the largest entry."""
    with mp.workdps(4 * mp.dps):
        low, high = mpf(1) / (2 * len(z)), mpf(1)
        for _ in range(10 * mp.dps // 3):
            middle = (low + high) / 2
            more = mp.fsum(power(middle ** (exact(alpha) - 1) + y - z[0], alpha) for y in z) >= 1
            low, high = (low, middle) if more else (middle, high)
        return high ** (exact(alpha) - 1)


def entmax_row_vjp(d_out, x, alpha, where=None):
    """The formula of the gradient."""
    p = entmax_row_in_order(x, alpha, where)
    u = [w ** (2 - exact(alpha)) if w > 0 else mpf(0) for w in p]
    total = mp.fsum(u)
    mean = mp.fsum(a * exact(d) for a, d in zip(u, d_out, strict=True) if a) / total if total else mpf(0)
    return [a * (exact(d) - mean) if a else mpf(0) for a, d in zip(u, d_out, strict=True)]


# --- over any leading axes ----------------------------------------------------------------------------------------------


def over_rows(row):
    def function(x, alpha=1.5, axis=-1, where=None):
        x, where = move_axis(x, axis, -1), None if where is None else move_axis(where, axis, -1)
        return {"out": move_axis(lift(lambda x, where: row(x, alpha, where), (1, 1), x, where), -1, axis)}

    return function


def over_rows_vjp(d_out, x, alpha=1.5, axis=-1, where=None):
    d_out, x, where = (None if t is None else move_axis(t, axis, -1) for t in (d_out, x, where))
    found = lift(lambda d, x, where: entmax_row_vjp(d, x, alpha, where), (1, 1, 1), d_out, x, where)
    if found.shape != x.shape:  # x was broadcast along axes in front
        size = len(x.data)
        found = Tensor(x.shape, [mp.fsum(found.data[n::size]) for n in range(size)])
    return {"x": move_axis(found, -1, axis)}


def with_two(function):
    return lambda **arguments: function(alpha=2.0, **arguments)


entmax = over_rows(entmax_row)
FUNCTIONS = {
    "entmax": entmax,
    "sparsemax": with_two(entmax),
    "entmax_vjp": differentiated(entmax, ("x",)),
    "sparsemax_vjp": with_two(differentiated(entmax, ("x",))),
}
SECOND = {
    "entmax": over_rows(entmax_row_in_order),
    "sparsemax": with_two(over_rows(entmax_row_in_order)),
    "entmax_vjp": over_rows_vjp,
    "sparsemax_vjp": with_two(over_rows_vjp),
}
