"""Sparsemax and entmax: normalised as softmax is, with a weight of exactly 0 for entries far enough below the largest."""

from __future__ import annotations

import math

from refattn import backend
from refattn.gradients.sums import InputGradient, checked_cotangent, summed_to
from refattn.softmax import divisor, shifted_exp


def sparsemax(x, axis=-1, where=None):
    r"""The point of the probability simplex that is nearest to the logits: 0 below a threshold, linear above it.

    .. math:: p_j = [x_j - \tau]_+, \qquad \sum_j p_j = 1

    Parameters
    ----------
    x, axis, where
        As for `softmax`.

    Returns
    -------
    out : array (..., M)
        Of the shape of x broadcast with `where`: weights that sum to 1 along `axis`; zeros where nothing is present.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`.

    Notes
    -----
    `entmax` with alpha 2. Time O(M log M) a row, memory O(size of x). Clauses: ENTMAX-TWO, ENTMAX-SHIFT, ENTMAX-ABSENT,
    ENTMAX-EMPTY, ENTMAX-REFUSE. Source: Martins & Astudillo 2016, proposition 1 and algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> sparsemax(np.array([1.0, 1.0, 0.25, -3.0]))
    array([0.5, 0.5, 0. , 0. ])
    """
    return entmax(x, 2.0, axis, where)


@backend.ieee
def entmax(x, alpha=1.5, axis=-1, where=None):
    r"""Softmax with another exponential, which is 0 from a threshold on; the more so the larger alpha is.

    .. math:: p_j = [(\alpha - 1) x_j - \tau]_+^{1 / (\alpha - 1)}, \qquad \sum_j p_j = 1

    Parameters
    ----------
    x : array (..., M)
        Logits; for another axis of any shape. An entry of -inf is absent.
    alpha : float, default 1.5
        At least 1: 1 is softmax, 2 sparsemax.
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
        As for `softmax`; and where alpha is no number of at least 1.

    See Also
    --------
    sparsemax : alpha 2.
    refattn.sparse.entmax_attention : attention with these weights.

    Notes
    -----
    By sorting for alpha 1.5 and 2, time O(M log M) a row; by bisection for others, some 60 exponentials an entry.
    Memory O(size of x). No log-sum-exp goes with it: parts of a row cannot be merged.
    Clauses: ENTMAX-NORMAL, ENTMAX-SHIFT, ENTMAX-ABSENT, ENTMAX-EMPTY, ENTMAX-ONE, ENTMAX-TWO, ENTMAX-REFUSE.
    Source: Peters, Niculae & Martins 2019, eq. 9 and 10, algorithms 1 and 2; Correia et al. 2019.

    Examples
    --------
    >>> import numpy as np
    >>> entmax(np.array([2.0, 2.0, -1.0])), entmax(np.array([0.0, -np.inf]), alpha=1.25)
    (array([0.5, 0.5, 0. ]), array([1., 0.]))
    """
    xp, x = backend.floating(x=x)
    alpha = backend.number("alpha", alpha, least=1)
    axis = backend.axis(axis, x) - x.ndim  # from the end, where it stays if `where` adds axes in front
    if where is not None:
        backend.boolean(xp, where=where)
        backend.broadcast("shapes", x=x.shape, where=where.shape)
        x = xp.where(where, x, -math.inf)
    return xp.moveaxis(weights_of_rows(xp, xp.moveaxis(x, axis, -1), alpha), -1, axis)


@backend.ieee
def entmax_vjp(d_out, x, alpha=1.5, axis=-1, where=None):
    r"""The gradient of entmax, by its weights p alone.

    .. math:: \bar x_j = u_j \Big(\bar p_j - \frac{\sum_l u_l \bar p_l}{\sum_l u_l}\Big), \qquad
        u_j = p_j^{2 - \alpha} \text{ where } p_j > 0, \text{ else } 0

    Parameters
    ----------
    d_out : array (..., M)
        Cotangent of the result, of its shape.
    x, alpha, axis, where
        As for `entmax`.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input. An entry of weight 0 has gradient 0, and its cotangent counts for nothing.

    Raises
    ------
    TypeError, ValueError
        As for `entmax`; and where d_out has another shape than its result.

    Notes
    -----
    Time and memory as for `entmax`. Clauses: ENTMAX-GRADIENT, ENTMAX-REFUSE.
    Source: Peters, Niculae & Martins 2019, proposition 2.

    Examples
    --------
    >>> import numpy as np
    >>> entmax_vjp(np.array([1.0, 0.0, 8.0]), np.array([2.0, 2.0, -1.0])).x
    array([ 0.35355339, -0.35355339, -0.        ])
    """
    xp, d_out, x = backend.floating(d_out=d_out, x=x)
    p = entmax(x, alpha, axis, where)
    axis = backend.axis(axis, x) - x.ndim
    checked_cotangent("d_out", d_out, "entmax(x)", p.shape)
    return InputGradient(summed_to(xp, gradient_of_rows(xp, d_out, p, float(alpha), axis), x.shape))


def sparsemax_vjp(d_out, x, axis=-1, where=None):
    """The gradient of sparsemax: on the support the cotangent without its mean there, elsewhere 0.

    Parameters
    ----------
    d_out : array (..., M)
        Cotangent of the result, of its shape.
    x, axis, where
        As for `sparsemax`.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `sparsemax`; and where d_out has another shape than its result.

    Notes
    -----
    Time and memory as for `sparsemax`. Clauses: ENTMAX-GRADIENT, ENTMAX-TWO.
    Source: Martins & Astudillo 2016, section 2.5.

    Examples
    --------
    >>> import numpy as np
    >>> sparsemax_vjp(np.array([1.0, 0.0, 8.0]), np.array([2.0, 2.0, -1.0])).x
    array([ 0.5, -0.5, -0. ])
    """
    return entmax_vjp(d_out, x, 2.0, axis, where)


# --- the steps, along the last axis ---------------------------------------------------------------------------------


def weights_of_rows(xp, x, alpha):
    """Entmax along the last axis; an entry of -inf is absent."""
    if alpha == 1:
        weights, total, _ = shifted_exp(xp, x, axis=-1)
        return weights / divisor(xp, total)
    if x.shape[-1] == 0:
        return x
    peak = xp.max(x, axis=-1, keepdims=True)
    level = (alpha - 1.0) * (x - xp.where(peak == -math.inf, 0.0, peak))
    undefined = xp.any(xp.isnan(level), axis=-1, keepdims=True)
    level = xp.where(level > -1.0, level, -1.0)  # no threshold lies lower: these have no weight
    find = by_sorting if alpha in (1.5, 2.0) else by_bisection
    p = xp.where(level > -1.0, find(xp, level, alpha), 0.0)
    return xp.where(undefined, math.nan, p)


def by_sorting(xp, level, alpha):
    """The threshold is that of the k largest for the largest k that have none of them below it."""
    z = -xp.sort(-level, axis=-1)
    k = backend.cast(backend.arange(xp, 1, z.shape[-1] + 1, z), z.dtype)
    mean = backend.running_sums(xp, z) / k
    if alpha == 2.0:
        tau = mean - 1.0 / k
    else:
        spread = backend.running_sums(xp, z * z) - k * mean * mean  # Σ (z - mean)²
        tau = mean - xp.sqrt(xp.where(spread < 1.0, 1.0 - spread, 0.0) / k)
    tau = xp.max(xp.where(tau <= z, tau, -1.0), axis=-1, keepdims=True)
    root = xp.where(level > tau, level - tau, 0.0)
    return root if alpha == 2.0 else root * root


def by_bisection(xp, level, alpha):
    """The weight P of the largest entry lies between 1 / M and 1, and the others follow from it."""
    high = xp.ones_like(level[..., :1])
    low = high / level.shape[-1]
    for _ in range(xp.finfo(level.dtype).bits):
        middle = low + (high - low) / 2
        enough = xp.sum(beside(xp, level, middle, alpha), axis=-1, keepdims=True) >= 1.0
        low, high = xp.where(enough, low, middle), xp.where(enough, middle, high)
    weights = beside(xp, level, high, alpha)
    return weights / xp.sum(weights, axis=-1, keepdims=True)  # beyond alpha 2 no P gives just 1: roots have steep ends


def beside(xp, level, peak, alpha):
    """The weights beside the largest one: (P^(α - 1) + level)^(1 / (α - 1)), where that is no root of a negative number."""
    more = (alpha - 1.0) * xp.log(peak)  # the threshold is -e^more
    if alpha < 2.0:
        root = xp.log1p(xp.where(level + xp.expm1(more) > -1.0, level + xp.expm1(more), -1.0))
    else:
        root = xp.log(xp.where(level + xp.exp(more) > 0.0, level + xp.exp(more), 0.0))
    return xp.exp(root / (alpha - 1.0))


def gradient_of_rows(xp, d_out, p, alpha, axis=-1):
    """The gradient of the logits from the weights and their cotangent."""
    seen = p > 0.0
    slope = xp.where(seen, p, 1.0) ** (2.0 - alpha)
    slope = xp.where(seen, slope, 0.0)
    d_out = xp.where(seen, d_out, 0.0)
    total = divisor(xp, xp.sum(slope, axis=axis, keepdims=True))
    d_x = slope * (d_out - xp.sum(slope * d_out, axis=axis, keepdims=True) / total)
    return xp.where(xp.isnan(p), math.nan, d_x)
