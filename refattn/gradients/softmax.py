"""The gradients of softmax, log-sum-exp and merge."""

import math
from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients.sums import InputGradient, checked_cotangent, summed_to
from refattn.softmax import merge, shares, softmax, state_of


class MergeGradients(NamedTuple):
    """What `merge_vjp` returns: a gradient for each argument of `merge`.

    Attributes
    ----------
    out_a, lse_a, out_b, lse_b : array (..., N, Dv), (..., N), (..., N, Dv), (..., N)
    """

    out_a: Any
    lse_a: Any
    out_b: Any
    lse_b: Any


@backend.ieee
def softmax_vjp(d_out, x, axis=-1, where=None):
    r"""The gradient of softmax.

    .. math:: \bar x_j = p_j \Big(\bar p_j - \sum_l p_l \bar p_l\Big)

    Parameters
    ----------
    d_out : array (..., M)
        Cotangent of the result, of its shape.
    x, axis, where
        As for `softmax`.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input. An absent entry has gradient 0, and its cotangent counts for nothing.

    Raises
    ------
    TypeError, ValueError
        As for `softmax`; and where d_out has another shape than its result.

    Notes
    -----
    Time and memory O(size of x). Clauses: GRAD-SOFTMAX, GRAD-ABSENT, GRAD-BROADCAST, GRAD-REFUSE.
    Source: Bridle 1990, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> softmax_vjp(np.array([1.0, 0.0]), np.array([0.0, 0.0])).x
    array([ 0.25, -0.25])
    """
    xp, d_out, x = backend.floating(d_out=d_out, x=x)
    p = softmax(x, axis=axis, where=where)
    axis = backend.axis(axis, x) - x.ndim  # from the end, where it stays if `where` adds axes in front
    checked_cotangent("d_out", d_out, "softmax(x)", p.shape)
    present = _present(xp, x, where)
    d_out = xp.where(present, d_out, 0.0)
    d_x = p * (d_out - xp.sum(p * d_out, axis=axis, keepdims=True))
    return InputGradient(summed_to(xp, xp.where(present, d_x, 0.0), x.shape))


@backend.ieee
def logsumexp_vjp(d_out, x, axis=-1, where=None):
    r"""The gradient of log-sum-exp: the softmax, times the cotangent.

    .. math:: \bar x_j = p_j \bar L

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result, of its shape; where nothing is present it counts for nothing.
    x, axis, where
        As for `logsumexp`.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `logsumexp`; and where d_out has another shape than its result.

    Notes
    -----
    Time and memory O(size of x). Clauses: GRAD-SOFTMAX, GRAD-LSE, GRAD-ABSENT, GRAD-EMPTY, GRAD-BROADCAST, GRAD-REFUSE.
    Source: Blanchard, Higham & Higham 2021, eq. 1.3 and 1.4.

    Examples
    --------
    >>> import numpy as np
    >>> logsumexp_vjp(np.array(1.0), np.array([0.0, 0.0])).x
    array([0.5, 0.5])
    """
    xp, d_out, x = backend.floating(d_out=d_out, x=x)
    p = softmax(x, axis=axis, where=where)
    axis = p.ndim + backend.axis(axis, x) - x.ndim  # `where` may add axes in front
    checked_cotangent("d_out", d_out, "logsumexp(x)", (*p.shape[:axis], *p.shape[axis + 1 :]))
    d_x = p * xp.expand_dims(d_out, axis=axis)
    return InputGradient(summed_to(xp, xp.where(_present(xp, x, where), d_x, 0.0), x.shape))


@backend.ieee
def merge_vjp(d_out, out_a, lse_a, out_b, lse_b, *, d_lse=None):
    r"""The gradients of the merge of two partial results.

    .. math:: \bar o_a = e^{L_a - L} \bar o, \qquad
        \bar L_a = e^{L_a - L} \big(\bar o \cdot (o_a - o) + \bar L\big), \qquad \text{and alike for } b

    Parameters
    ----------
    d_out : array (..., N, Dv)
        Cotangent of the merged output.
    out_a, lse_a, out_b, lse_b
        As for `merge`.
    d_lse : array (..., N), optional
        Cotangent of the merged log-sum-exp.

    Returns
    -------
    MergeGradients
        (out_a, lse_a, out_b, lse_b), each of the shape of its input. A part that is absent, with lse -infinity, has
        gradients 0.

    Raises
    ------
    TypeError, ValueError
        As for `merge`; and where a cotangent has another shape than its result.

    Notes
    -----
    Time O(N Dv). Clauses: GRAD-MERGE, GRAD-LSE, GRAD-ABSENT, GRAD-BROADCAST, GRAD-REFUSE.
    Source: derived from Milakov & Gimelshein 2018, section 3.1, in spec/gradients.

    Examples
    --------
    >>> import numpy as np
    >>> half = merge_vjp(np.ones((1, 1)), np.array([[1.0]]), np.array([0.0]), np.array([[3.0]]), np.array([0.0]))
    >>> float(half.out_a[0, 0]), float(half.lse_a[0]), float(half.lse_b[0])
    (0.5, -0.5, 0.5)
    """
    xp, d_out, d_lse, out_a, lse_a, out_b, lse_b = backend.floating(
        d_out=d_out, d_lse=d_lse, out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b, optional="d_lse"
    )
    out, lse = merge(out_a, lse_a, out_b, lse_b)
    checked_cotangent("d_out", d_out, "the merged out", out.shape)
    checked_cotangent("d_lse", d_lse, "the merged lse", lse.shape)

    share_a, share_b, *_ = shares(xp, state_of(xp, out_a, lse_a), state_of(xp, out_b, lse_b))

    def part(out_part, lse_part, share):
        present, share = lse_part != -math.inf, share[..., 0]
        d_share = xp.sum(d_out * (out_part - out), axis=-1)
        d_share = d_share if d_lse is None else d_share + d_lse
        d_out_part = xp.where(present[..., None], share[..., None] * d_out, 0.0)
        d_lse_part = xp.where(present, share * d_share, 0.0)
        return summed_to(xp, d_out_part, out_part.shape), summed_to(xp, d_lse_part, lse_part.shape)

    return MergeGradients(*part(out_a, lse_a, share_a), *part(out_b, lse_b, share_b))


def _present(xp, x, where):
    present = x != -math.inf
    return present if where is None else present & where
