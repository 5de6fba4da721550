"""Rotary position embedding."""

from __future__ import annotations

from refattn import backend
from refattn.positions.scaling import rope_frequencies
from refattn.positions.tables import interleave


def rope(x, positions, *, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    r"""Rotary position embedding: pair i of the features, at position p, turned by the angle pθ_i.

    .. math:: (a, b) \mapsto (a \cos p\theta_i - b \sin p\theta_i,\; a \sin p\theta_i + b \cos p\theta_i),
        \qquad \theta_i = b^{-2i/R}

    Parameters
    ----------
    x : array (..., N, D)
        Queries or keys.
    positions : int or float array (..., N)
        Leading axes broadcast with those of x: with heads (N,) or (B, 1, N).
    base : float, default 10000
        The base of the frequencies.
    layout : {"interleaved", "half"}
        Pair i is features (2i, 2i + 1), or (i, i + R/2).
    rotary_dim : int, default D
        R: the first R features are rotated, the others returned as they are. Even.
    scaling : Linear, NTK, DynamicNTK, YaRN, Llama3, LongRoPE or dict, optional
        For contexts longer than the model was trained on; a dict is read by `scaling_from_config`.

    Returns
    -------
    out : array (..., N, D)

    Raises
    ------
    TypeError, ValueError
        x is not floating-point, positions are not (..., N), R is odd or above D, or the scaling is out of range.

    See Also
    --------
    rotate : with given cosines and sines.

    Notes
    -----
    Time and memory O(N D). Queries and keys must be rotated alike; then their scores depend on q position minus
    k position alone. Clauses: ROPE-ROTATION, ROPE-FREQUENCY, ROPE-LAYOUT, ROPE-PARTIAL, ROPE-POSITION, ROPE-PRECISION,
    ROPE-FACTOR, ROPE-REFUSE.
    Source: Su et al. 2021, eq. 15 and 34; "half": the code of GPT-NeoX; partial: GPT-J and GPT-NeoX.

    Examples
    --------
    >>> import numpy as np
    >>> rope(np.array([[1.0, 0.0]]), [1]).round(3)
    array([[0.54 , 0.841]])
    """
    xp, x = backend.floating(x=x)
    rotary_dim = _rotary_dim(rotary_dim, x)
    frequencies, attention_factor = rope_frequencies(rotary_dim, base=base, scaling=scaling)
    positions = backend.reals(xp, x, positions=positions)
    if positions.ndim == 0 or positions.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"positions has shape {tuple(positions.shape)}, x {tuple(x.shape)}:"
            f" they must be (..., N={x.shape[-2]}) and (..., N={x.shape[-2]}, D)"
        )
    angles = positions[..., None] * backend.asarray(xp, frequencies.tolist(), x, xp.float64)  # (..., N, R/2)
    cos = backend.cast(attention_factor * xp.cos(angles), x.dtype)
    sin = backend.cast(attention_factor * xp.sin(angles), x.dtype)
    return rotate(x, cos, sin, layout=layout, rotary_dim=rotary_dim)


@backend.ieee
def rotate(x, cos, sin, *, layout="interleaved", rotary_dim=None):
    r"""Pairs of features turned by given angles: the rotation of `rope` with its own tables.

    .. math:: (a, b) \mapsto (a\,c_i - b\,s_i,\; a\,s_i + b\,c_i)

    Parameters
    ----------
    x : array (..., N, D)
    cos, sin : array (..., N, R/2)
        Column i belongs to pair i, so the two halves of a table may differ, as for positions in two dimensions.
    layout : {"interleaved", "half"}
        Pair i is features (2i, 2i + 1), or (i, i + R/2).
    rotary_dim : int, default D
        R: the first R features are rotated, the others returned as they are. Even.

    Returns
    -------
    out : array (..., N, D)

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point; tables are not (..., N, R/2); R is odd or above D.

    Notes
    -----
    Time and memory O(N D). Clauses: ROPE-ROTATION, ROPE-LAYOUT, ROPE-PARTIAL, ROPE-TABLES, ROPE-REFUSE.
    Source: Su et al. 2021, eq. 34.

    Examples
    --------
    >>> import numpy as np
    >>> rotate(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), layout="half")
    array([[-3.,  2.,  1.,  4.]])
    """
    xp, x, cos, sin = backend.floating(x=x, cos=cos, sin=sin)
    backend.choice("layout", layout, ("interleaved", "half"))
    rotary_dim = _rotary_dim(rotary_dim, x)
    for name, table in (("cos", cos), ("sin", sin)):
        if table.ndim < 2 or tuple(table.shape[-2:]) != (x.shape[-2], rotary_dim // 2):
            raise ValueError(
                f"{name} has shape {tuple(table.shape)}; it must be"
                f" (..., N={x.shape[-2]}, rotary_dim/2={rotary_dim // 2}): one column for each pair of x"
            )
    try:
        lead = backend.broadcast("leading axes", x=x.shape[:-2], cos=cos.shape[:-2], sin=sin.shape[:-2])
    except ValueError as error:
        raise ValueError(f"{error}; for x (B, H, N, D) give positions or tables for (B, 1, N)") from None

    a, b = split_pairs(xp, x, layout, rotary_dim)
    first, second = a * cos - b * sin, a * sin + b * cos
    rotated = interleave(xp, first, second) if layout == "interleaved" else xp.concat([first, second], axis=-1)
    rest = xp.broadcast_to(x[..., rotary_dim:], (*lead, x.shape[-2], x.shape[-1] - rotary_dim))
    return xp.concat([rotated, rest], axis=-1)


def split_pairs(xp, x, layout, rotary_dim):
    """The first and the second feature of every pair that is turned, (..., N, R/2) each."""
    turned, half = x[..., :rotary_dim], rotary_dim // 2
    if layout == "interleaved":
        pairs = xp.reshape(turned, (*x.shape[:-1], half, 2))
        return pairs[..., 0], pairs[..., 1]
    return turned[..., :half], turned[..., half:]


def _rotary_dim(rotary_dim, x):
    backend.rank("x", x, 2, "(..., N, D)")
    d = x.shape[-1]
    rotary_dim = d if rotary_dim is None else backend.integer("rotary_dim", rotary_dim, least=0)
    if rotary_dim % 2 or rotary_dim > d:
        raise ValueError(
            f"rotary_dim is {rotary_dim}, x has shape {tuple(x.shape)}: it must be even and at most D={d} in (..., N, D)"
        )
    return rotary_dim
