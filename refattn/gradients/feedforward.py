"""The gradients of linear projections and feed-forward networks."""

import math
from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.feedforward import (
    ACTIVATIONS,
    FeedForwardParams,
    GatedFeedForwardParams,
    activation_of,
    check_gated_weights,
    check_weights,
    linear,
    relu,
    silu,
)
from refattn.gradients.activations import ACTIVATION_VJPS
from refattn.gradients.sums import checked_cotangent


class LinearGradients(NamedTuple):
    """What `linear_vjp` returns; b is None where it was not given.

    Attributes
    ----------
    x : array (..., E)
    w : array (E, C)
    b : array (C,) or None
    """

    x: Any
    w: Any
    b: Any


class FeedForwardGradients(NamedTuple):
    """What `feed_forward_vjp` and `gated_feed_forward_vjp` return.

    Attributes
    ----------
    x : array (..., E)
    params : FeedForwardParams or GatedFeedForwardParams
        As the parameters are: a gradient for each array, None for a bias that is None.
    """

    x: Any
    params: Any


@backend.ieee
def linear_vjp(d_out, x, w, b=None):
    r"""The gradients of a linear projection, x w + b.

    .. math:: \bar x = \bar y\, W^\top, \qquad \bar W = \sum_t x_t^\top \bar y_t, \qquad \bar b = \sum_t \bar y_t

    where the sums run over all tokens.

    Parameters
    ----------
    d_out : array (..., C)
        Cotangent of the result.
    x : array (..., E)
    w : array (E, C)
    b : array (C,), optional

    Returns
    -------
    LinearGradients
        (x, w, b), each of the shape of its input, or None.

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, or shapes do not fit.

    Notes
    -----
    Time O(E C) a token. Clauses: GRAD-LINEAR, GRAD-REFUSE. Source: the derivative of a matrix product.

    Examples
    --------
    >>> import numpy as np
    >>> linear_vjp(np.array([[1.0], [1.0]]), np.array([[3.0], [4.0]]), np.array([[2.0]]))
    LinearGradients(x=array([[2.],
           [2.]]), w=array([[7.]]), b=None)
    """
    xp, d_out, x, w, b = backend.floating(d_out=d_out, x=x, w=w, b=b, optional="b")
    backend.rank("x", x, 1, "(..., E)")
    if w.ndim != 2 or w.shape[0] != x.shape[-1]:
        raise ValueError(
            f"w has shape {tuple(w.shape)}, x has shape {tuple(x.shape)}: w must be (E, C) with E = {x.shape[-1]}"
        )
    if b is not None and tuple(b.shape) != (w.shape[1],):
        raise ValueError(f"b has shape {tuple(b.shape)}; it must be (C,) = ({w.shape[1]},), the columns of w")
    checked_cotangent("d_out", d_out, "x w", (*x.shape[:-1], w.shape[1]))
    tokens = math.prod(x.shape[:-1])
    rows, d_rows = xp.reshape(x, (tokens, x.shape[-1])), xp.reshape(d_out, (tokens, w.shape[1]))
    return LinearGradients(
        xp.matmul(d_out, xp.matrix_transpose(w)),
        xp.matmul(xp.matrix_transpose(rows), d_rows),
        None if b is None else xp.sum(d_rows, axis=0),
    )


@backend.ieee
def feed_forward_vjp(d_out, x, params, *, activation=relu, activation_vjp=None):
    r"""The gradients of the feed-forward network; the hidden layer is computed again.

    Parameters
    ----------
    d_out : array (..., E_out)
        Cotangent of the result.
    x, params, activation
        As for `feed_forward`.
    activation_vjp : callable, optional
        For an activation of your own: `activation_vjp(d_out, x)` returns the gradient by x, alone or as the first field
        of a tuple. Activations of refattn need none.

    Returns
    -------
    FeedForwardGradients
        (x, params).

    Raises
    ------
    TypeError, ValueError
        As for `feed_forward`; where d_out has another shape than the result; and where the activation is none of
        refattn's and has no vjp.

    Notes
    -----
    Time O(F (E + E_out)) a token, three times that of the forward pass. Clauses: GRAD-FFN, GRAD-LINEAR, GRAD-ACT,
    GRAD-REFUSE. Source: the chain rule on Vaswani et al. 2017, eq. 2.

    Examples
    --------
    >>> import numpy as np
    >>> from refattn import FeedForwardParams
    >>> params = FeedForwardParams(np.array([[1.0, -1.0]]), None, np.array([[1.0], [1.0]]), None)
    >>> feed_forward_vjp(np.array([[1.0], [1.0]]), np.array([[-3.0], [2.0]]), params).x  # of relu(x) + relu(-x) = |x|
    array([[-1.],
           [ 1.]])
    """
    function, function_vjp = _activation(activation, activation_vjp)
    xp, d_out, x, *weights = backend.floating(
        d_out=d_out, x=x, **arguments.params(params, FeedForwardParams)._asdict(), optional="b_in b_out"
    )
    p = check_weights(x, FeedForwardParams(*weights))
    checked_cotangent("d_out", d_out, "the result", (*x.shape[:-1], p.w_out.shape[1]))

    before = linear(xp, x, p.w_in, p.b_in)  # (..., F)
    after = linear_vjp(d_out, function(before), p.w_out, p.b_out)
    first = linear_vjp(function_vjp(after.x, before), x, p.w_in, p.b_in)
    return FeedForwardGradients(first.x, FeedForwardParams(first.w, first.b, after.w, after.b))


@backend.ieee
def gated_feed_forward_vjp(d_out, x, params, *, activation=silu, activation_vjp=None):
    r"""The gradients of the gated feed-forward network; the hidden layer is computed again.

    Parameters
    ----------
    d_out : array (..., E_out)
        Cotangent of the result.
    x, params, activation
        As for `gated_feed_forward`.
    activation_vjp : callable, optional
        As for `feed_forward_vjp`.

    Returns
    -------
    FeedForwardGradients
        (x, params), with params GatedFeedForwardParams.

    Raises
    ------
    TypeError, ValueError
        As for `feed_forward_vjp`.

    Notes
    -----
    Time O(F (2E + E_out)) a token, three times that of the forward pass. Clauses: GRAD-GLU, GRAD-LINEAR, GRAD-ACT,
    GRAD-REFUSE. Source: the chain rule on Shazeer 2020, eq. 5 and 6.

    Examples
    --------
    >>> import numpy as np
    >>> from refattn import GatedFeedForwardParams
    >>> one = np.array([[1.0]])
    >>> params = GatedFeedForwardParams(one, one, one)
    >>> gated_feed_forward_vjp(np.array([[1.0]]), np.array([[3.0]]), params, activation="identity").x  # of x²
    array([[6.]])
    """
    function, function_vjp = _activation(activation, activation_vjp)
    xp, d_out, x, *weights = backend.floating(
        d_out=d_out, x=x, **arguments.params(params, GatedFeedForwardParams)._asdict(), optional="b_gate b_up b_out"
    )
    p = check_gated_weights(x, GatedFeedForwardParams(*weights))
    checked_cotangent("d_out", d_out, "the result", (*x.shape[:-1], p.w_out.shape[1]))

    before, up = linear(xp, x, p.w_gate, p.b_gate), linear(xp, x, p.w_up, p.b_up)  # (..., F)
    gate = function(before)
    out = linear_vjp(d_out, gate * up, p.w_out, p.b_out)
    d_gate = linear_vjp(function_vjp(out.x * up, before), x, p.w_gate, p.b_gate)
    d_up = linear_vjp(out.x * gate, x, p.w_up, p.b_up)
    return FeedForwardGradients(
        d_gate.x + d_up.x, GatedFeedForwardParams(d_gate.w, d_up.w, out.w, d_gate.b, d_up.b, out.b)
    )


def _activation(activation, vjp):
    """A function and its vector-Jacobian product, both of one array."""
    arguments.function("activation_vjp", vjp, "d_out", "x")
    activation = activation_of(activation)
    if vjp is None:
        vjp = next((ACTIVATION_VJPS[name] for name, known in ACTIVATIONS.items() if known is activation), None)
    if vjp is None:
        raise ValueError(
            f"activation is {backend.shown(activation)}, none of refattn's: give its vector-Jacobian product as activation_vjp"
        )
    return activation, _alone(vjp)


def _alone(vjp):
    def of_one_array(d_out, x):
        gradient = vjp(d_out, x)
        return gradient[0] if isinstance(gradient, tuple) else gradient

    return of_one_array
