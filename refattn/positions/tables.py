"""Position encodings that are added to embeddings: sinusoidal and learned."""

from __future__ import annotations

import math

import numpy as np  # without an array argument the result is a NumPy array

from refattn import arguments, backend
from refattn.positions.scaling import powers


def sinusoidal(positions, dim, *, base=10000.0, layout="interleaved"):
    r"""Sinusoidal position encodings, to be added to embeddings.

    .. math:: e_{p,2i} = \sin(p\,\theta_i), \qquad e_{p,2i+1} = \cos(p\,\theta_i), \qquad \theta_i = b^{-2i/D}

    Parameters
    ----------
    positions : int or float array (...)
        Any numbers: negative and fractional ones too. A list of them gives a NumPy array.
    dim : int
        D, the number of columns. Where it is odd, the last cosine is left out.
    base : float, default 10000
        The b above.
    layout : {"interleaved", "half", "tensor2tensor"}
        "half" has the same columns in another order: all sines, then all cosines. "tensor2tensor" has that order and
        other frequencies, b^(-i/(K-1)) with K = ⌊D/2⌋, so that the last is exactly 1/b; an odd D ends with zeros.

    Returns
    -------
    out : array (..., D)
        float64; float32 for float32 positions.

    Raises
    ------
    TypeError, ValueError
        Positions are not numbers; dim is negative; base is not positive; an unknown layout.

    Notes
    -----
    Time and memory O(N D). Clauses: SINUSOIDAL-TABLE, SINUSOIDAL-HALF, SINUSOIDAL-TENSOR2TENSOR.
    Source: Vaswani et al. 2017, section 3.5; "half": the code of Transformer-XL; "tensor2tensor": the code of
    Tensor2Tensor, then fairseq, which differ from their paper.

    Examples
    --------
    >>> sinusoidal([0, 1], 2).round(3)
    array([[0.   , 1.   ],
           [0.841, 0.54 ]])
    """
    backend.choice("layout", layout, ("interleaved", "half", "tensor2tensor"))
    dim = backend.integer("dim", dim, least=0)
    base = backend.number("base", base, positive=True)
    like = positions if hasattr(positions, "dtype") else np.empty(0)
    xp = backend.namespace(positions=like)
    positions = backend.reals(xp, like, positions=positions)
    arguments.room(_BYTES_A_NUMBER * dim * max(1, math.prod(positions.shape)), dim=dim)
    if layout == "tensor2tensor":
        count = dim // 2
        frequencies = powers(base, [-i / max(count - 1, 1) for i in range(count)])
    else:
        count = (dim + 1) // 2
        frequencies = powers(base, [-2 * i / dim for i in range(count)])

    angles = positions[..., None] * backend.asarray(xp, frequencies, positions, xp.float64)
    sin, cos = xp.sin(angles), xp.cos(angles)
    if layout == "interleaved":
        table = interleave(xp, sin, cos)[..., :dim]
    else:
        columns = [sin, cos[..., : dim // 2]]
        if layout == "tensor2tensor" and dim % 2:
            columns.append(xp.zeros_like(positions)[..., None])
        table = xp.concat(columns, axis=-1)
    kind = backend.dtype_name(like)
    return backend.cast(table, xp.float32) if "float" in kind and kind != "float64" else table


def learned_positions(table, positions, *, offset=0):
    """Rows of a learned table of position encodings.

    Parameters
    ----------
    table : array (L, E)
        One row a position.
    positions : int array (...)
        Or an int, or a list of ints.
    offset : int, default 0
        Position p has row p + offset; 2 in OPT and BART, whose first rows are for padding.

    Returns
    -------
    out : array (..., E)

    Raises
    ------
    TypeError, ValueError
        The table is not (L, E); positions are not integers, or fall outside the table: they neither wrap nor clamp.

    Notes
    -----
    Time and memory O(N E). Clauses: LEARNED-LOOKUP, LEARNED-RANGE. Source: Gehring et al. 2017, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> learned_positions(np.array([[0.0], [0.5], [0.25]]), [2, 1])
    array([[0.25],
           [0.5 ]])
    """
    xp, table = backend.floating(table=table)
    if table.ndim != 2:
        raise ValueError(f"table has shape {tuple(table.shape)}; it must be (L, E)")
    offset = backend.integer("offset", offset)
    rows = backend.integers(xp, table, positions=positions)
    flat = xp.reshape(rows, (-1,))
    if flat.shape[0]:
        first, last = int(xp.min(flat)) + offset, int(xp.max(flat)) + offset  # Python integers: they do not wrap
        if first < 0 or last >= table.shape[0]:
            raise ValueError(
                f"positions + offset run from {first} to {last}; table has rows 0 to {table.shape[0] - 1} (L in (L, E))"
            )
        flat = flat + offset
    return xp.reshape(xp.take(table, flat, axis=0), (*rows.shape, table.shape[1]))


_BYTES_A_NUMBER = 40  # of a table while it is made: Python's frequencies, angles, sines and cosines


def interleave(xp, a, b):
    pairs = xp.stack([a, b], axis=-1)
    return xp.reshape(pairs, (*a.shape[:-1], 2 * a.shape[-1]))
