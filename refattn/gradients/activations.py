"""The gradients of activations: each is the cotangent times the derivative, element by element."""

import math
from collections.abc import Callable

from refattn import backend
from refattn.feedforward import relu, sigmoid
from refattn.gradients.sums import InputGradient, checked_cotangent


def identity_vjp(d_out, x):
    """The gradient of `identity`: the cotangent itself."""
    _, d_out, _ = _checked(d_out, x)
    return InputGradient(d_out)


@backend.ieee
def relu_vjp(d_out, x):
    r"""The gradient of the rectified linear unit: the cotangent where x > 0, else 0.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input. At x = 0 the derivative is 0, that from the left.

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, or d_out has another shape than x.

    Notes
    -----
    Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-REFUSE. Source: Nair & Hinton 2010; 0 at 0 as in torch and jax.

    Examples
    --------
    >>> import numpy as np
    >>> relu_vjp(np.array([5.0, 5.0, 5.0]), np.array([-2.0, 0.0, 3.0])).x
    array([0., 0., 5.])
    """
    xp, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * xp.where(x > 0, 1.0, relu(x)))  # relu, so that NaN stays NaN


@backend.ieee
def squared_relu_vjp(d_out, x):
    r"""The gradient of the squared rectified linear unit: 2 max(x, 0) times the cotangent.

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    Clauses: GRAD-ACT. Source: So et al. 2021 (Primer), section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> squared_relu_vjp(np.array([1.0, 1.0]), np.array([-2.0, 3.0])).x
    array([0., 6.])
    """
    _, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * (2.0 * relu(x)))


@backend.ieee
def sigmoid_vjp(d_out, x):
    r"""The gradient of the sigmoid: σ(x) σ(-x) times the cotangent.

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    σ (1 - σ) as it is written would have no digit left for large x. Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-ACT-TAIL.
    Source: Dauphin et al. 2017.

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid_vjp(np.array([1.0, 1.0]), np.array([0.0, 50.0])).x
    array([2.50000000e-01, 1.92874985e-22])
    """
    xp, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * sigmoid_slope(xp, x))


@backend.ieee
def tanh_vjp(d_out, x):
    r"""The gradient of the hyperbolic tangent: 1 - tanh² times the cotangent.

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    Evaluated as 4 σ(2x) σ(-2x): the difference would have no digit left for large x. Clauses: GRAD-ACT, GRAD-ACT-RANGE,
    GRAD-ACT-TAIL. Source: the derivative of sinh / cosh.

    Examples
    --------
    >>> import numpy as np
    >>> tanh_vjp(np.array([1.0, 1.0]), np.array([0.0, 25.0])).x
    array([1.00000000e+00, 7.71499939e-22])
    """
    xp, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * tanh_slope(xp, x))


@backend.ieee
def softplus_vjp(d_out, x):
    r"""The gradient of softplus: σ(x) times the cotangent.

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-ACT-TAIL. Source: Dugas et al. 2001.

    Examples
    --------
    >>> import numpy as np
    >>> softplus_vjp(np.array([1.0, 1.0, 1.0]), np.array([-1000.0, 0.0, 1000.0])).x
    array([0. , 0.5, 1. ])
    """
    _, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * sigmoid(x))


@backend.ieee
def silu_vjp(d_out, x):
    r"""The gradient of SiLU: σ(x) + x σ(x) σ(-x), times the cotangent.

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-ACT-TAIL. Source: Ramachandran et al. 2017, section 5.

    Examples
    --------
    >>> import numpy as np
    >>> silu_vjp(np.array([1.0, 1.0]), np.array([0.0, 1000.0])).x
    array([0.5, 1. ])
    """
    xp, d_out, x = _checked(d_out, x)
    return InputGradient(d_out * (sigmoid(x) + _weighted(xp, x, sigmoid_slope(xp, x))))


@backend.ieee
def gelu_vjp(d_out, x, approximate=None):
    r"""The gradient of GELU, of the exact function or of the approximation with tanh.

    .. math:: \Phi(x) + \frac{x}{\sqrt{2\pi}} e^{-x^2 / 2}, \qquad
        \sigma(z) + x\, \sigma(z)\, \sigma(-z)\, \sqrt{\tfrac{8}{\pi}} (1 + 3 \cdot 0.044715\, x^2), \qquad
        z = \sqrt{\tfrac{8}{\pi}} (x + 0.044715\, x^3)

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x, approximate
        As for `gelu`: the derivative is that of the function that was used.

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `gelu`; and where d_out has another shape than x.

    Notes
    -----
    Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-ACT-TAIL, GRAD-REFUSE. Source: Hendrycks & Gimpel 2016, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> gelu_vjp(np.array([1.0, 1.0]), np.array([-1.0, 1.0])).x.round(6)
    array([-0.083315,  1.083315])
    >>> gelu_vjp(np.array([1.0, 1.0]), np.array([-1.0, 1.0]), approximate="tanh").x.round(6)
    array([-0.082964,  1.082964])
    """
    xp, d_out, x = _checked(d_out, x)
    backend.choice("approximate", approximate, (None, "tanh"))
    if approximate is None:
        density = xp.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
        return InputGradient(d_out * (backend.special(xp, "ndtr")(x) + _weighted(xp, x, density)))
    root = math.sqrt(8.0 / math.pi)
    z = root * (x + 0.044715 * x * x * x)
    inner = root * (x + 3.0 * 0.044715 * x * x * x)  # x dz/dx
    return InputGradient(d_out * (sigmoid(z) + _weighted(xp, inner, sigmoid_slope(xp, z))))


@backend.ieee
def quick_gelu_vjp(d_out, x):
    r"""The gradient of the approximation of GELU by a sigmoid: σ(1.702 x) + 1.702 x σ(1.702 x) σ(-1.702 x).

    Errors are those of `relu_vjp`.

    Parameters
    ----------
    d_out : array (...)
        Cotangent of the result.
    x : array (...)

    Returns
    -------
    InputGradient
        (x,), of the shape of its input.

    Notes
    -----
    Clauses: GRAD-ACT, GRAD-ACT-RANGE, GRAD-ACT-TAIL. Source: Hendrycks & Gimpel 2016, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> quick_gelu_vjp(np.array([1.0, 1.0]), np.array([0.0, 1.0])).x.round(6)
    array([0.5    , 1.06778])
    """
    xp, d_out, x = _checked(d_out, x)
    z = 1.702 * x
    return InputGradient(d_out * (sigmoid(z) + _weighted(xp, z, sigmoid_slope(xp, z))))


def gelu_tanh_vjp(d_out, x):
    """`gelu_vjp(d_out, x, approximate="tanh")`: see there."""
    return gelu_vjp(d_out, x, approximate="tanh")


ACTIVATION_VJPS: dict[str, Callable] = {
    function.__name__.removesuffix("_vjp"): function
    for function in (
        identity_vjp,
        relu_vjp,
        gelu_vjp,
        gelu_tanh_vjp,
        quick_gelu_vjp,
        silu_vjp,
        squared_relu_vjp,
        softplus_vjp,
        sigmoid_vjp,
        tanh_vjp,
    )
}


def sigmoid_slope(xp, x):
    """σ(x) σ(-x), accurate relative to its own size in both tails. [GRAD-ACT-TAIL]"""
    small = xp.exp(-xp.abs(x))
    return small / ((1.0 + small) * (1.0 + small))


def tanh_slope(xp, x):
    """1 - tanh², accurate relative to its own size in both tails. [GRAD-ACT-TAIL]"""
    return 4.0 * sigmoid_slope(xp, 2.0 * x)


def _weighted(xp, x, weight):
    """x · weight, for a weight that falls faster than x grows: infinity times 0 is 0. [GRAD-ACT-RANGE]"""
    return xp.where(weight == 0, 0.0, x * weight)


def _checked(d_out, x):
    xp, d_out, x = backend.floating(d_out=d_out, x=x)
    checked_cotangent("d_out", d_out, "x", x.shape)
    return xp, d_out, x
