"""The gradients of LayerNorm and RMSNorm."""

from typing import Any, NamedTuple

from refattn import backend
from refattn.gradients.sums import checked_cotangent
from refattn.norms import checked_axes, checked_offset, fitted, mean_over


class LayerNormGradients(NamedTuple):
    """What `layer_norm_vjp` returns; gamma and beta are None where they were not given.

    Attributes
    ----------
    x : array (..., E)
    gamma, beta : array (E,) or None
    """

    x: Any
    gamma: Any
    beta: Any


class RMSNormGradients(NamedTuple):
    """What `rms_norm_vjp` returns; gamma is None where it was not given.

    Attributes
    ----------
    x : array (..., E)
    gamma : array (E,) or None
    """

    x: Any
    gamma: Any


@backend.ieee
def layer_norm_vjp(d_out, x, gamma, beta=None, *, eps=1e-5, axis=-1):
    r"""The gradients of LayerNorm.

    .. math:: \bar x = r \left(g - \tfrac{1}{n} \sum_i g_i - \hat x\, \tfrac{1}{n} \sum_i g_i \hat x_i\right), \qquad
        g = \gamma \bar y, \qquad \hat x = r (x - \mu), \qquad r = (\sigma^2 + \varepsilon)^{-1/2}

    .. math:: \bar\gamma = \sum \bar y\, \hat x, \qquad \bar\beta = \sum \bar y

    where the last two sums run over the axes that are not normalised.

    Parameters
    ----------
    d_out : array (..., E)
        Cotangent of the result, of its shape.
    x, gamma, beta, eps, axis
        As for `layer_norm`.

    Returns
    -------
    LayerNormGradients
        (x, gamma, beta), each of the shape of its input, or None.

    Raises
    ------
    TypeError, ValueError
        As for `layer_norm`; and where d_out has another shape than x.

    Notes
    -----
    Time and memory O(size of x). Clauses: GRAD-LAYERNORM, GRAD-BROADCAST, GRAD-REFUSE.
    Source: derived from Ba, Kiros & Hinton 2016, eq. 3 and 4, in spec/gradients.

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm_vjp(np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 6.0]), None, eps=0.0).x.round(3)
    array([ 0.176, -0.22 ,  0.044])
    """
    xp, d_out, x, gamma, beta = backend.floating(d_out=d_out, x=x, gamma=gamma, beta=beta, optional="gamma beta")
    axes = checked_axes(axis, x)
    gain = fitted(xp, "gamma", gamma, x, axes)
    fitted(xp, "beta", beta, x, axes)
    eps = backend.number("eps", eps, least=0)
    checked_cotangent("d_out", d_out, "x", x.shape)

    centred = x - mean_over(xp, x, axes)
    centred = centred - mean_over(xp, centred, axes)  # what rounding left of the mean, as in layer_norm
    r = 1.0 / xp.sqrt(mean_over(xp, centred * centred, axes) + eps)
    normal = r * centred
    g = d_out if gain is None else gain * d_out
    d_x = r * (g - mean_over(xp, g, axes) - normal * mean_over(xp, g * normal, axes))
    return LayerNormGradients(
        d_x,
        None if gamma is None else _over_the_rest(xp, d_out * normal, axes),
        None if beta is None else _over_the_rest(xp, d_out, axes),
    )


@backend.ieee
def rms_norm_vjp(d_out, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    r"""The gradients of RMSNorm.

    .. math:: \bar x = r \left(g - \hat x\, \tfrac{1}{n} \sum_i g_i \hat x_i\right), \qquad
        g = \gamma \bar y, \qquad \hat x = r x, \qquad r = \left(\tfrac{1}{n} \sum_i x_i^2 + \varepsilon\right)^{-1/2}

    Parameters
    ----------
    d_out : array (..., E)
        Cotangent of the result, of its shape.
    x, gamma, eps, axis, unit_offset
        As for `rms_norm`. With `unit_offset` the gain in g is 1 + gamma; the gradient by gamma is the same.

    Returns
    -------
    RMSNormGradients
        (x, gamma), each of the shape of its input, or None.

    Raises
    ------
    TypeError, ValueError
        As for `rms_norm`; and where d_out has another shape than x.

    Notes
    -----
    Time and memory O(size of x). Clauses: GRAD-RMSNORM, GRAD-BROADCAST, GRAD-REFUSE.
    Source: Zhang & Sennrich 2019, section 4.2, eq. 9; with eps in spec/gradients.

    Examples
    --------
    >>> import numpy as np
    >>> rms_norm_vjp(np.array([1.0, 0.0]), np.array([1.0, 7.0]), None, eps=0.0).x  # at a right angle to x
    array([ 0.196, -0.028])
    """
    xp, d_out, x, gamma = backend.floating(d_out=d_out, x=x, gamma=gamma, optional="gamma")
    axes = checked_axes(axis, x)
    gain = fitted(xp, "gamma", gamma, x, axes)
    eps, unit_offset = backend.number("eps", eps, least=0), checked_offset(unit_offset, gamma)
    checked_cotangent("d_out", d_out, "x", x.shape)

    r = 1.0 / xp.sqrt(mean_over(xp, x * x, axes) + eps)
    normal = r * x
    if gain is None:
        g = d_out
    else:
        g = (1.0 + gain if unit_offset else gain) * d_out
    d_x = r * (g - normal * mean_over(xp, g * normal, axes))
    return RMSNormGradients(d_x, None if gamma is None else _over_the_rest(xp, d_out * normal, axes))


def _over_the_rest(xp, x, axes):
    """The sum over the axes that are not normalised: of the shape of gamma and beta."""
    rest = tuple(n for n in range(x.ndim) if n not in axes)
    return xp.sum(x, axis=rest) if rest else x
