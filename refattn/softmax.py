"""Softmax, log-sum-exp, and the merge of partial results: the algebra under every attention."""

import math
from typing import Any, NamedTuple

from refattn import backend


@backend.ieee
def softmax(x, axis=-1, where=None):
    r"""Softmax along an axis, over the entries that are present.

    .. math:: p_j = e^{x_j} / \sum_{l \in J} e^{x_l}

    Parameters
    ----------
    x : array (..., M)
        Logits; for another axis of any shape. An entry of -inf is absent.
    axis : int, default -1
        The axis that is normalised.
    where : bool array that broadcasts to (..., M), optional
        True where an entry is present. Absent entries contribute nothing, whatever they hold.

    Returns
    -------
    out : array (..., M)
        Of the shape of x broadcast with `where`: weights that sum to 1 along `axis`; zeros where nothing is present.

    Raises
    ------
    TypeError, ValueError
        `x` is not floating-point, `where` not boolean, or the two do not broadcast.

    Notes
    -----
    Time and memory O(size of x). Clauses: SOFTMAX-NORMAL, SOFTMAX-SHIFT, SOFTMAX-ABSENT, SOFTMAX-EMPTY.
    Source: Bridle 1990; the shift by the maximum: Blanchard, Higham & Higham 2021.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([1000.0, 1000.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    xp, x = backend.floating(x=x)
    axis = backend.axis(axis, x) - x.ndim  # from the end, where it stays if `where` adds axes in front
    weights, total, _ = shifted_exp(xp, _present(xp, x, where), axis)
    return weights / divisor(xp, total)  # an empty row stays zero [SOFTMAX-EMPTY]


@backend.ieee
def logsumexp(x, axis=-1, where=None):
    r"""Natural logarithm of the sum of exponentials along an axis.

    .. math:: \mathrm{lse} = \ln \sum_{j \in J} e^{x_j}

    Parameters
    ----------
    x : array (..., M)
        Logits; for another axis of any shape. An entry of -inf is absent.
    axis : int, default -1
        The axis that is summed.
    where : bool array that broadcasts to (..., M), optional
        True where an entry is present.

    Returns
    -------
    out : array (...)
        Of the shape of x broadcast with `where`, without `axis`; -inf where nothing is present.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`.

    Notes
    -----
    Time and memory O(size of x). Clauses: LSE-NATURAL, LSE-SHIFT, LSE-EMPTY, SOFTMAX-ABSENT.
    Source: Blanchard, Higham & Higham 2021, eq. 1.3.

    Examples
    --------
    >>> import numpy as np
    >>> float(logsumexp(np.array([0.0, 0.0])))  # ln 2
    0.6931471805599453
    """
    xp, x = backend.floating(x=x)
    axis = backend.axis(axis, x) - x.ndim  # from the end, where it stays if `where` adds axes in front
    _, total, peak = shifted_exp(xp, _present(xp, x, where), axis)
    return xp.squeeze(level(xp, total, peak), axis=axis)


@backend.ieee
def merge(out_a, lse_a, out_b, lse_b):
    r"""Merge the attention over two disjoint sets of keys into the attention over their union.

    .. math:: L = \ln(e^{L_a} + e^{L_b}), \qquad o = e^{L_a - L} o_a + e^{L_b - L} o_b

    Parameters
    ----------
    out_a, out_b : array (..., N, Dv)
        Outputs over either set.
    lse_a, lse_b : array (..., N)
        Natural log-sum-exp of the scores of either set.

    Returns
    -------
    out : array (..., N, Dv)
    lse : array (..., N)

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, or their shapes do not agree.

    Notes
    -----
    Commutative and associative, with identity (0, -inf); a part whose lse is -inf is absent whatever its
    output holds. Time O(N Dv). Clauses: MERGE-UNION, MERGE-IDENTITY, MERGE-ORDER.
    Source: Milakov & Gimelshein 2018, section 3.1; Ye et al. 2025 (FlashInfer), section 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> out, lse = merge(np.array([[1.0]]), np.array([0.0]), np.array([[3.0]]), np.array([0.0]))
    >>> float(out[0, 0])
    2.0
    """
    xp, out_a, lse_a, out_b, lse_b = backend.floating(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        backend.rank(f"out_{name}", out, 1, "(..., N, Dv)")
        if tuple(out.shape[:-1]) != tuple(lse.shape):
            raise ValueError(
                f"lse_{name} has shape {tuple(lse.shape)}, out_{name} has shape {tuple(out.shape)}:"
                " they must be (..., N) and (..., N, Dv)"
            )
    if out_a.shape[-1] != out_b.shape[-1]:
        raise ValueError(
            f"out_b has {out_b.shape[-1]} columns, out_a has {out_a.shape[-1]}: both are Dv in (..., N, Dv)"
        )
    backend.broadcast("leading axes", lse_a=lse_a.shape, lse_b=lse_b.shape)

    state = merged_states(xp, state_of(xp, out_a, lse_a), state_of(xp, out_b, lse_b))
    return state.out, level(xp, state.total, state.peak)[..., 0]


class State(NamedTuple):
    """What is known of the softmax over some keys; peak + ln(total) alone would have no digits for ln(total) at huge scores.

    Attributes
    ----------
    out : array (..., N, Dv)
        The values mixed by their weights; 0 without keys.
    peak : array (..., N, 1)
        The largest score; -infinity or any number without keys.
    total : array (..., N, 1)
        Σ exp(score - peak); 0 without keys.
    """

    out: Any
    peak: Any
    total: Any


def state_of(xp, out, lse):
    """The state that a pair of output (..., N, Dv) and log-sum-exp (..., N) stands for."""
    lse = lse[..., None]
    absent = lse == -math.inf
    out = xp.where(absent, 0.0, out)  # absent, not multiplied by zero [MERGE-IDENTITY]
    return State(out, lse, xp.where(absent, 0.0, xp.ones_like(lse)))


def merged_states(xp, a, b) -> State:
    """The state of two disjoint sets of keys together."""
    share_a, share_b, peak, total = shares(xp, a, b)
    return State(share_of(xp, share_a, a.out) + share_of(xp, share_b, b.out), peak, total)


def shares(xp, a, b):
    """How much of the weight either state has, (..., N, 1) each, and peak and total of both together."""
    peak = _zero_if_absent(xp, xp.maximum(a.peak, b.peak))
    of_a, of_b = a.total * xp.exp(a.peak - peak), b.total * xp.exp(b.peak - peak)
    total = of_a + of_b
    return of_a / divisor(xp, total), of_b / divisor(xp, total), peak, total


def share_of(xp, share, out):
    """share · out, where a share that is too small for the format still has an infinite value."""
    return xp.where(xp.isfinite(out) | xp.isnan(share), share * out, out)


def sink_shares(xp, peak, total, sinks):
    """What a sink leaves to the keys, and what it takes: sigmoid(lse - sink) and the rest; 0 and 0 without keys.

    The peak is compared with the sink first: lse has no digits for ln(total) where scores are huge.
    """
    ahead = xp.where(total == 0, -math.inf, (peak - sinks) + xp.log(total))
    left, taken = 1.0 / (1.0 + xp.exp(-ahead)), 1.0 / (1.0 + xp.exp(ahead))
    return left, xp.where(total == 0, 0.0, taken)


def shifted_exp(xp, x, axis):
    """exp(x - peak), its sum and the peak along an axis; peak is 0 where every entry is -inf."""
    if x.shape[axis] == 0:
        peak = total = xp.sum(x, axis=axis, keepdims=True)  # zeros: the maximum of nothing has no value
        return x, total, peak
    peak = _zero_if_absent(xp, xp.max(x, axis=axis, keepdims=True))
    weights = xp.exp(x - peak)
    return weights, xp.sum(weights, axis=axis, keepdims=True), peak


def level(xp, total, peak):
    """Log-sum-exp from what `shifted_exp` returns."""
    return xp.where(peak == math.inf, math.inf, xp.log(total) + peak)  # inf - inf has made the sum NaN


def divisor(xp, total):
    """What divides by the sum of a row's weights; 1 for an empty row, which so stays zero."""
    return xp.where(total == 0, 1.0, total)


def _zero_if_absent(xp, peak):
    return xp.where(peak == -math.inf, 0.0, peak)  # -inf - (-inf) would be NaN


def _present(xp, x, where):
    if where is None:
        return x
    backend.boolean(xp, where=where)
    backend.broadcast("shapes", x=x.shape, where=where.shape)
    return xp.where(where, x, -math.inf)
