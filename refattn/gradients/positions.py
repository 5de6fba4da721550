"""The gradients of rotary position embedding."""

from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients.sums import InputGradient, checked_cotangent, summed_to
from refattn.positions import rope, rotate
from refattn.positions.rotary import split_pairs


class RotateGradients(NamedTuple):
    """What `rotate_vjp` returns: a gradient for each array.

    Attributes
    ----------
    x : array (..., N, D)
    cos, sin : array (..., N, R/2)
    """

    x: Any
    cos: Any
    sin: Any


def rope_vjp(d_out, x, positions, **options):
    r"""The gradient of rotary position embedding: every pair turned back.

    .. math:: \bar x = f R_{-p\theta} \bar y, \qquad y = f R_{p\theta} x

    where f is the attention factor of a scaling, else 1.

    Parameters
    ----------
    d_out : array (..., N, D)
        Cotangent of the result.
    x, positions, **options
        As for `rope`.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input: summed over axes that positions added to it.

    Raises
    ------
    TypeError, ValueError
        As for `rope`; and where d_out has another shape than the result.

    Notes
    -----
    The rotation is linear, so the values of x do not matter. Time and memory O(N D). Clauses: GRAD-ROPE,
    GRAD-BROADCAST, GRAD-REFUSE. Source: Su et al. 2021, eq. 34: the transpose of a rotation is its inverse.

    Examples
    --------
    >>> import numpy as np
    >>> rope_vjp(np.array([[0.54, 0.841]]), np.zeros((1, 2)), [1]).x.round(3)
    array([[ 0.999, -0.   ]])
    """
    xp, d_out, x = backend.floating(d_out=d_out, x=x)
    positions = backend.reals(xp, x, positions=positions)
    checked_cotangent("d_out", d_out, "the result", rope(x, positions, **options).shape)
    return InputGradient(summed_to(xp, rope(d_out, -positions, **options), x.shape))


@backend.ieee
def rotate_vjp(d_out, x, cos, sin, *, layout="interleaved", rotary_dim=None):
    r"""The gradients of a rotation by given tables.

    .. math:: (\bar a, \bar b) = (c\, \bar y_0 + s\, \bar y_1,\; c\, \bar y_1 - s\, \bar y_0), \qquad
        \bar c = a\, \bar y_0 + b\, \bar y_1, \qquad \bar s = a\, \bar y_1 - b\, \bar y_0

    Parameters
    ----------
    d_out : array (..., N, D)
        Cotangent of the result.
    x, cos, sin, layout, rotary_dim
        As for `positions.rotate`.

    Returns
    -------
    RotateGradients
        (x, cos, sin), each of the shape of its input: summed over the axes that were broadcast.

    Raises
    ------
    TypeError, ValueError
        As for `positions.rotate`; and where d_out has another shape than the result.

    Notes
    -----
    Time and memory O(N D). Clauses: GRAD-ROPE, GRAD-BROADCAST, GRAD-REFUSE. Source: Su et al. 2021, eq. 34.

    Examples
    --------
    >>> import numpy as np
    >>> rotate_vjp(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0]]), np.array([[1.0]]))
    RotateGradients(x=array([[ 0., -1.]]), cos=array([[3.]]), sin=array([[-4.]]))
    """
    xp, d_out, x, cos, sin = backend.floating(d_out=d_out, x=x, cos=cos, sin=sin)
    options = {"layout": layout, "rotary_dim": rotary_dim}
    checked_cotangent("d_out", d_out, "the result", rotate(x, cos, sin, **options).shape)

    d_x = rotate(d_out, cos, -sin, **options)
    turned = 2 * cos.shape[-1]
    a, b = split_pairs(xp, x, layout, turned)
    d_first, d_second = split_pairs(xp, d_out, layout, turned)
    return RotateGradients(
        summed_to(xp, d_x, x.shape),
        summed_to(xp, a * d_first + b * d_second, cos.shape),
        summed_to(xp, a * d_second - b * d_first, sin.shape),
    )
