"""LayerNorm, RMSNorm, and the constants of DeepNorm."""

import itertools
import math
from typing import NamedTuple

from refattn import arguments, backend


class DeepNormConstants(NamedTuple):
    """What `deepnorm_constants` returns: Python floats, so that they never widen a float32 array.

    Attributes
    ----------
    alpha : float
        The factor of the residual in layer_norm(alpha · x + f(x)).
    beta : float
        The factor of the initial weights of the feed-forward network and of w_v and w_o (not of w_q and w_k).
    """

    alpha: float
    beta: float


@backend.ieee
def layer_norm(x, gamma, beta=None, *, eps=1e-5, axis=-1):
    r"""Layer normalisation: mean 0 and variance 1, then a gain and an offset for each entry.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} \gamma + \beta, \qquad
        \mu = \frac{1}{n} \sum_i x_i, \qquad \sigma^2 = \frac{1}{n} \sum_i (x_i - \mu)^2

    Parameters
    ----------
    x : array (..., E)
        For another axis of any shape.
    gamma, beta : array (E,) or None
        Gain and offset; their shape is that of the normalised axes: (N, E) for axis=(-2, -1), (N,) for axis=-2. None is a gain of 1, an offset of 0.
    eps : float, default 1e-5
        Added to the variance inside the root; at least 0. BERT uses 1e-12. A row without spread gives beta; with eps=0
        it is 0/0, NaN.
    axis : int or tuple of int, default -1
        The axes that are normalised together, in increasing order. An integer is one axis, not where the axes begin.

    Returns
    -------
    out : array (..., E)
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, gamma or beta has another shape than the normalised axes, axis names an
        axis that is not there, twice, or out of order, or eps is negative.

    Notes
    -----
    Time and memory O(size of x). The variance is taken of x - μ, in a second pass: the difference of E[x²] and μ²
    loses every digit where the spread is small beside the mean. Squares overflow for deviations beyond 1e19 in float32.
    Clauses: LAYERNORM-OUT, LAYERNORM-VARIANCE, LAYERNORM-SHIFT, NORM-EPS, NORM-SCALE, NORM-AXES, NORM-AFFINE,
    NORM-REFUSE. Source: Ba, Kiros & Hinton 2016, eq. 3 and 4; eps as in torch.

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm(np.array([1.0, 3.0]), gamma=np.array([1.0, 2.0]), eps=0.0)
    array([-1.,  2.])
    """
    xp, x, gamma, beta = backend.floating(x=x, gamma=gamma, beta=beta, optional="gamma beta")
    axes = checked_axes(axis, x)
    gamma, beta = fitted(xp, "gamma", gamma, x, axes), fitted(xp, "beta", beta, x, axes)
    eps = backend.number("eps", eps, least=0)

    centred = x - mean_over(xp, x, axes)
    centred = centred - mean_over(xp, centred, axes)  # what rounding left of the mean, however large it was
    y = centred / xp.sqrt(mean_over(xp, centred * centred, axes) + eps)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@backend.ieee
def rms_norm(x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
    r"""Root mean square normalisation: mean square 1, then a gain for each entry. No mean is subtracted.

    .. math:: y = \frac{x}{\sqrt{\frac{1}{n} \sum_i x_i^2 + \varepsilon}} \gamma

    Parameters
    ----------
    x : array (..., E)
        For another axis of any shape.
    gamma : array (E,) or None
        Gain; its shape is that of the normalised axes, as in `layer_norm`. None is a gain of 1.
    eps : float, default 1e-6
        Added to the mean square inside the root; at least 0. A row of zeros gives 0; with eps=0 it is 0/0, NaN.
    axis : int or tuple of int, default -1
        The axes that are normalised together, in increasing order.
    unit_offset : bool, default False
        The gain is 1 + gamma (Gemma), so that gamma = 0 is no gain.

    Returns
    -------
    out : array (..., E)
        Of the shape of x.

    Raises
    ------
    TypeError, ValueError
        As for `layer_norm`.

    Notes
    -----
    Time and memory O(size of x). Squares overflow for entries beyond 1e19 in float32. Clauses: RMSNORM-OUT,
    RMSNORM-OFFSET, NORM-EPS, NORM-SCALE, NORM-AXES, NORM-AFFINE, NORM-REFUSE.
    Source: Zhang & Sennrich 2019, eq. 4; unit_offset: Gemma Team 2024, their code.

    Examples
    --------
    >>> import numpy as np
    >>> rms_norm(np.array([1.0, 7.0]), gamma=np.array([1.0, 2.0]), eps=0.0)
    array([0.2, 2.8])
    """
    xp, x, gamma = backend.floating(x=x, gamma=gamma, optional="gamma")
    axes = checked_axes(axis, x)
    gamma = fitted(xp, "gamma", gamma, x, axes)
    eps, unit_offset = backend.number("eps", eps, least=0), checked_offset(unit_offset, gamma)

    y = x / xp.sqrt(mean_over(xp, x * x, axes) + eps)
    if gamma is None:
        return y
    return y * (1.0 + gamma) if unit_offset else y * gamma


def deepnorm_constants(part, *, encoder_layers=0, decoder_layers=0):
    r"""The constants of DeepNorm: x becomes LayerNorm(α x + f(x)), and β scales the initial weights.

    ================================  ==================  ===================
    part (N encoder, M decoder)       α                   β
    ================================  ==================  ===================
    encoder alone                     (2N)^(1/4)          (8N)^(-1/4)
    decoder alone                     (2M)^(1/4)          (8M)^(-1/4)
    encoder, with a decoder           0.81 (N⁴M)^(1/16)   0.87 (N⁴M)^(-1/16)
    decoder, with an encoder          (3M)^(1/4)          (12M)^(-1/4)
    ================================  ==================  ===================

    Parameters
    ----------
    part : {"encoder", "decoder"}
        Whose constants are wanted.
    encoder_layers, decoder_layers : int, default 0
        N and M: layers of the whole model; 0 where it has no such part.

    Returns
    -------
    DeepNormConstants
        (alpha, beta).

    Raises
    ------
    TypeError, ValueError
        `part` is another word, or the model has no layers of that part.

    Notes
    -----
    α = 1 is Post-LN. torchscale sets β = 1.15 (N⁴M)^(-1/16) in an encoder with a decoder: it divides by what the paper
    multiplies with. Clauses: DEEPNORM-CONSTANTS. Source: Wang et al. 2022 (DeepNet), figure 2.

    Examples
    --------
    >>> deepnorm_constants("decoder", decoder_layers=8)
    DeepNormConstants(alpha=2.0, beta=0.3535533905932738)
    """
    backend.choice("part", part, ("encoder", "decoder"))
    n = backend.integer("encoder_layers", encoder_layers, least=0)
    m = backend.integer("decoder_layers", decoder_layers, least=0)
    own = n if part == "encoder" else m
    if own == 0:
        raise ValueError(f"{part}_layers is 0; the {part} of a model must have at least 1")
    if n == 0 or m == 0:
        return DeepNormConstants((2.0 * own) ** 0.25, (8.0 * own) ** -0.25)
    if part == "decoder":
        return DeepNormConstants((3.0 * m) ** 0.25, (12.0 * m) ** -0.25)
    depth = (float(n) ** 4 * m) ** 0.0625
    return DeepNormConstants(0.81 * depth, 0.87 / depth)


def checked_offset(unit_offset, gamma):
    """Whether 1 is added to the gain, which must be given if so."""
    if backend.flag("unit_offset", unit_offset) and gamma is None:
        arguments.unused("gamma", unit_offset=unit_offset)
    return unit_offset


def mean_over(xp, x, axes):
    """The mean over some axes, which stay with length 1 (of nothing: NaN, of which no entry is left to see)."""
    return xp.sum(x, axis=axes, keepdims=True) / float(math.prod(x.shape[n] for n in axes))


def checked_axes(axis, x):
    """One axis or several, as a tuple of increasing indices from 0."""
    listed = axis if isinstance(axis, tuple | list) else (axis,)
    axes = tuple(backend.axis(n, x) for n in listed)
    if not axes or any(a >= b for a, b in itertools.pairwise(axes)):
        raise ValueError(f"axis is {axis}; it must name one axis or several, each once and in increasing order")
    return axes


def fitted(xp, name, weight, x, axes):
    """A gain or offset of the shape of the normalised axes, with axes of length 1 for the others."""
    if weight is None:
        return None
    shape = tuple(x.shape[n] for n in axes)
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}, x has shape {tuple(x.shape)}:"
            f" {name} must have the shape of the normalised axes, {shape}, which axis says"
        )
    return xp.reshape(weight, tuple(x.shape[n] if n in axes else 1 for n in range(x.ndim)))
