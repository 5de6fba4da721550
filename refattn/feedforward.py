"""Activations, the feed-forward network and its gated form."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from refattn import arguments, backend


class FeedForwardParams(NamedTuple):
    """The weights of a feed-forward network; they multiply from the right, x @ w + b.

    Attributes
    ----------
    w_in : array (E, F)
    b_in : array (F,) or None
    w_out : array (F, E_out)
        E_out is E wherever a residual is added.
    b_out : array (E_out,) or None
    """

    w_in: Any
    b_in: Any
    w_out: Any
    b_out: Any


class GatedFeedForwardParams(NamedTuple):
    """The weights of a gated feed-forward network; they multiply from the right.

    Attributes
    ----------
    w_gate : array (E, F)
        Its product passes through the activation: `gate_proj` or `w1` in Llama.
    w_up : array (E, F)
        Its product does not: `up_proj` or `w3`.
    w_out : array (F, E_out)
        `down_proj` or `w2`.
    b_gate, b_up, b_out : array (F,), (F,), (E_out,), optional
    """

    w_gate: Any
    w_up: Any
    w_out: Any
    b_gate: Any = None
    b_up: Any = None
    b_out: Any = None


class GateAndUp(NamedTuple):
    """What `split_gate` returns.

    Attributes
    ----------
    gate : array (..., F)
        The part that passes through the activation.
    up : array (..., F)
        The part that does not.
    """

    gate: Any
    up: Any


# --- activations ----------------------------------------------------------------------------------------------------


@backend.ieee
def relu(x):
    r"""Rectified linear unit: max(x, 0).

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)
        NaN stays NaN.

    Raises
    ------
    TypeError
        `x` is not floating-point.

    Notes
    -----
    Clauses: ACT-RELU, ACT-RANGE. Source: Nair & Hinton 2010.

    Examples
    --------
    >>> import numpy as np
    >>> relu(np.array([-2.0, 3.0]))
    array([0., 3.])
    """
    xp, x = backend.floating(x=x)
    return _relu(xp, x)


@backend.ieee
def squared_relu(x):
    r"""Squared rectified linear unit: max(x, 0)².

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Clauses: ACT-SQUARED-RELU, ACT-RANGE. Source: So et al. 2021 (Primer), section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> squared_relu(np.array([-2.0, 3.0]))
    array([0., 9.])
    """
    xp, x = backend.floating(x=x)
    return _relu(xp, x) * _relu(xp, x)


@backend.ieee
def sigmoid(x):
    r"""Logistic sigmoid: 1 / (1 + exp(-x)).

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Accurate relative to its own size in both tails. Clauses: ACT-SIGMOID, ACT-RANGE, ACT-TAIL.
    Source: Dauphin et al. 2017 (the gate of GLU).

    Examples
    --------
    >>> import numpy as np
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    xp, x = backend.floating(x=x)
    return _sigmoid(xp, x)


@backend.ieee
def tanh(x):
    r"""Hyperbolic tangent.

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Clauses: ACT-TANH, ACT-RANGE. Source: the array library's own.

    Examples
    --------
    >>> import numpy as np
    >>> tanh(np.array([0.0, 1000.0]))
    array([0., 1.])
    """
    xp, x = backend.floating(x=x)
    return xp.tanh(x)


@backend.ieee
def softplus(x):
    r"""Softplus: ln(1 + exp(x)).

    .. math:: \max(x, 0) + \ln(1 + e^{-|x|})

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Clauses: ACT-SOFTPLUS, ACT-RANGE, ACT-TAIL. Source: Dugas et al. 2001.

    Examples
    --------
    >>> import numpy as np
    >>> softplus(np.array([-1000.0, 0.0, 1000.0]))
    array([0.00000000e+00, 6.93147181e-01, 1.00000000e+03])
    """
    xp, x = backend.floating(x=x)
    return _relu(xp, x) + xp.log1p(xp.exp(-xp.abs(x)))


@backend.ieee
def silu(x):
    r"""Sigmoid linear unit, also called Swish: x · sigmoid(x).

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Clauses: ACT-SILU, ACT-RANGE, ACT-TAIL. Source: Hendrycks & Gimpel 2016, section 2; Ramachandran et al. 2017
    (Swish with β = 1).

    Examples
    --------
    >>> import numpy as np
    >>> silu(np.array([0.0, 1000.0]))
    array([   0., 1000.])
    """
    xp, x = backend.floating(x=x)
    return _weighted(xp, x, _sigmoid(xp, x))


@backend.ieee
def gelu(x, approximate=None):
    r"""Gaussian error linear unit: x · Φ(x), or the approximation with tanh. The two are not interchangeable.

    .. math:: x\, \Phi(x) = \tfrac{x}{2} \left(1 + \mathrm{erf}\tfrac{x}{\sqrt 2}\right), \qquad
        \tfrac{x}{2} \left(1 + \tanh\left(\sqrt{\tfrac{2}{\pi}} (x + 0.044715\, x^3)\right)\right)

    Parameters
    ----------
    x : array (...)
    approximate : {None, "tanh"}, default None
        None is the exact function: torch's default, Hugging Face's "gelu". "tanh" is the default of jax.nn.gelu, and
        Hugging Face's "gelu_new", "gelu_fast" and "gelu_pytorch_tanh". They differ by up to 4.7e-4.

    Returns
    -------
    out : array (...)

    Raises
    ------
    TypeError, ValueError
        `x` is not floating-point, or `approximate` is something else.

    Notes
    -----
    Accurate relative to its own size in the negative tail, where 1 + erf and 1 + tanh have no digit left: Φ is the
    special function ndtr, and (1 + tanh z) / 2 is sigmoid(2z). Clauses: ACT-GELU, ACT-GELU-TANH, ACT-RANGE, ACT-TAIL.
    Source: Hendrycks & Gimpel 2016, section 2.

    Examples
    --------
    >>> import numpy as np
    >>> gelu(np.array([-1.0, 1.0])).round(6)
    array([-0.158655,  0.841345])
    >>> gelu(np.array([-1.0, 1.0]), approximate="tanh").round(6)
    array([-0.158808,  0.841192])
    """
    xp, x = backend.floating(x=x)
    backend.choice("approximate", approximate, (None, "tanh"))
    if approximate is None:
        return _weighted(xp, x, backend.special(xp, "ndtr")(x))
    return _weighted(xp, x, _sigmoid(xp, math.sqrt(8.0 / math.pi) * (x + 0.044715 * x * x * x)))


@backend.ieee
def quick_gelu(x):
    r"""The approximation of GELU by a sigmoid: x · sigmoid(1.702 x). It is off by up to 0.02.

    Errors are those of `relu`.

    Parameters
    ----------
    x : array (...)

    Returns
    -------
    out : array (...)

    Notes
    -----
    Clauses: ACT-QUICK-GELU, ACT-RANGE, ACT-TAIL. Source: Hendrycks & Gimpel 2016, section 2; used by CLIP.

    Examples
    --------
    >>> import numpy as np
    >>> quick_gelu(np.array([-1.0, 1.0])).round(6)
    array([-0.154204,  0.845796])
    """
    xp, x = backend.floating(x=x)
    return _weighted(xp, x, _sigmoid(xp, 1.702 * x))


def gelu_tanh(x):
    """`gelu(x, approximate="tanh")`: see there."""
    return gelu(x, approximate="tanh")


def identity(x):
    """x itself: the activation of a linear or bilinear network."""
    backend.floating(x=x)
    return x


ACTIVATIONS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        identity,
        relu,
        gelu,
        gelu_tanh,
        quick_gelu,
        silu,
        squared_relu,
        softplus,
        sigmoid,
        tanh,
    )
}


def _relu(xp, x):
    return xp.where(x < 0, 0.0, x)  # not a maximum: NaN stays NaN in every library


def _sigmoid(xp, x):
    small = xp.exp(-xp.abs(x))  # never overflows, and keeps its digits in either tail
    return xp.where(x < 0, small, 1.0) / (1.0 + small)


def _weighted(xp, x, weight):
    """x · weight, for a weight that falls faster than x grows: -infinity times 0 is 0."""
    return xp.where(weight == 0, -0.0, x * weight)


# --- networks -------------------------------------------------------------------------------------------------------


@backend.ieee
def feed_forward(x, params, *, activation=relu):
    r"""The position-wise feed-forward network.

    .. math:: y = f(x W_\mathrm{in} + b_\mathrm{in}) W_\mathrm{out} + b_\mathrm{out}

    Parameters
    ----------
    x : array (..., E)
        Tokens; each is treated by itself.
    params : FeedForwardParams
        w_in (E, F), b_in (F,) or None, w_out (F, E_out), b_out (E_out,) or None.
    activation : callable or str, default relu
        A function of an array of the same library, or a name in `ACTIVATIONS`.

    Returns
    -------
    out : array (..., E_out)

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, shapes do not fit, or the activation has no such name.

    Notes
    -----
    Time O(F (E + E_out)) a token. Clauses: FFN-OUT, FFN-TOKENWISE, FFN-REFUSE.
    Source: Vaswani et al. 2017, eq. 2 (ReLU); Devlin et al. 2019 (GELU).

    Examples
    --------
    >>> import numpy as np
    >>> params = FeedForwardParams(np.array([[1.0, -1.0]]), None, np.array([[1.0], [1.0]]), None)
    >>> feed_forward(np.array([[-3.0], [2.0]]), params)  # relu(x) + relu(-x)
    array([[3.],
           [2.]])
    """
    function = activation_of(activation)
    xp, x, *weights = backend.floating(
        x=x, **arguments.params(params, FeedForwardParams)._asdict(), optional="b_in b_out"
    )
    p = check_weights(x, FeedForwardParams(*weights))
    return linear(xp, function(linear(xp, x, p.w_in, p.b_in)), p.w_out, p.b_out)


@backend.ieee
def gated_feed_forward(x, params, *, activation=silu):
    r"""The gated feed-forward network: GLU and its relatives.

    .. math:: y = \left(f(x W_\mathrm{gate} + b_\mathrm{gate}) \odot (x W_\mathrm{up} + b_\mathrm{up})\right)
        W_\mathrm{out} + b_\mathrm{out}

    Parameters
    ----------
    x : array (..., E)
        Tokens; each is treated by itself.
    params : GatedFeedForwardParams
        w_gate and w_up (E, F), w_out (F, E_out), b_gate and b_up (F,) or None, b_out (E_out,) or None. For weights
        that hold gate and up in one matrix see `split_gate`.
    activation : callable or str, default silu
        Applied to the gate alone, as a function of an array of the same library or a name in `ACTIVATIONS`: sigmoid
        is GLU, identity the bilinear form, relu ReGLU, gelu GEGLU, silu SwiGLU.

    Returns
    -------
    out : array (..., E_out)

    Raises
    ------
    TypeError, ValueError
        As for `feed_forward`.

    Notes
    -----
    Time O(F (2E + E_out)) a token: with F two thirds of the ungated width it costs the same. Clauses: GLU-OUT,
    FFN-TOKENWISE, FFN-REFUSE. Source: Shazeer 2020, eq. 5 and 6 (without biases); Dauphin et al. 2017, eq. 1.

    Examples
    --------
    >>> import numpy as np
    >>> one = np.array([[1.0]])
    >>> gated_feed_forward(np.array([[2.0], [3.0]]), GatedFeedForwardParams(one, one, one), activation="identity")
    array([[4.],
           [9.]])
    """
    function = activation_of(activation)
    xp, x, *weights = backend.floating(
        x=x, **arguments.params(params, GatedFeedForwardParams)._asdict(), optional="b_gate b_up b_out"
    )
    p = check_gated_weights(x, GatedFeedForwardParams(*weights))
    gated = function(linear(xp, x, p.w_gate, p.b_gate)) * linear(xp, x, p.w_up, p.b_up)
    return linear(xp, gated, p.w_out, p.b_out)


def split_gate(packed, gate_order):
    """The gate and the up projection out of one matrix, or one bias, that holds both.

    Parameters
    ----------
    packed : array (..., 2·F)
        Both, along the last axis.
    gate_order : {"first", "second", "interleaved"}
        Where the gate is: in the first half (`gate_up_proj` of Hugging Face's Mixtral), in the second (torch's
        `glu`, diffusers, x-transformers), or in the even columns (gpt-oss).

    Returns
    -------
    GateAndUp
        (gate, up): `GatedFeedForwardParams(*split_gate(w, "first"), w_out)`.

    Raises
    ------
    TypeError, ValueError
        `packed` is not floating-point, has no even number of columns, or `gate_order` is another word.

    Notes
    -----
    Clauses: GLU-PACKED, FFN-REFUSE. Source: the code of Hugging Face transformers 5.23 and torch 2.13.

    Examples
    --------
    >>> import numpy as np
    >>> split_gate(np.array([1.0, 2.0, 3.0, 4.0]), "interleaved")
    GateAndUp(gate=array([1., 3.]), up=array([2., 4.]))
    """
    _, packed = backend.floating(packed=packed)
    backend.choice("gate_order", gate_order, ("first", "second", "interleaved"))
    backend.rank("packed", packed, 1, "(..., 2F)")
    if packed.shape[-1] % 2:
        raise ValueError(f"packed has shape {tuple(packed.shape)}; it must be (..., 2F), with an even last axis")
    half = packed.shape[-1] // 2
    if gate_order == "interleaved":
        return GateAndUp(packed[..., 0::2], packed[..., 1::2])
    halves = packed[..., :half], packed[..., half:]
    return GateAndUp(*halves) if gate_order == "first" else GateAndUp(*halves[::-1])


def linear(xp, x, w, b):
    """x w + b."""
    y = xp.matmul(x, w)
    return y if b is None else y + b


def activation_of(activation):
    """An activation by name, or the caller's own."""
    if callable(activation):
        return arguments.function("activation", activation, "x")
    return ACTIVATIONS[backend.choice("activation", activation, tuple(ACTIVATIONS))]


def check_weights(x, params):
    """The weights of a feed-forward network, which fit the tokens and each other."""
    backend.rank("x", x, 1, "(..., E)")
    _check("x", x, "w_in", params.w_in, params.b_in, "E", "F")
    _check("w_in", params.w_in, "w_out", params.w_out, params.b_out, "F", "E_out")
    return params


def check_gated_weights(x, params):
    """The weights of a gated feed-forward network, which fit the tokens and each other."""
    backend.rank("x", x, 1, "(..., E)")
    w_gate, w_up = params.w_gate, params.w_up
    _check("x", x, "w_gate", w_gate, params.b_gate, "E", "F")
    _check("x", x, "w_up", w_up, params.b_up, "E", "F")
    if w_up.shape[1] != w_gate.shape[1]:
        raise ValueError(f"w_up has {w_up.shape[1]} columns, w_gate has {w_gate.shape[1]}: both are F in (E, F)")
    _check("w_gate", w_gate, "w_out", params.w_out, params.b_out, "F", "E_out")
    return params


def _check(before, x, name, w, b, rows, columns):
    """Check that a weight takes the last axis of what comes before it, and that its bias fits."""
    size = x.shape[-1]
    if w.ndim != 2 or w.shape[0] != size:
        raise ValueError(
            f"{name} has shape {tuple(w.shape)}, {before} has shape {tuple(x.shape)}:"
            f" {name} must be ({rows}, {columns}) with {rows} = {size}"
        )
    if b is not None and tuple(b.shape) != (w.shape[1],):
        bias = f"b{name[1:]}"
        raise ValueError(
            f"{bias} has shape {tuple(b.shape)}, {name} has shape {tuple(w.shape)}:"
            f" {bias} must be ({columns},) with {columns} = {w.shape[1]}"
        )
