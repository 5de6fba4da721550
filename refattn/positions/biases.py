"""Positions as biases of the scores: ALiBi, and the relative position buckets of T5."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np  # without an array argument the result is a NumPy array

from refattn import arguments, backend
from refattn.masks import positions_of


def alibi_slopes(heads, *, like=None):
    r"""The slopes of ALiBi: how fast each head's bias falls with distance.

    .. math:: m_h = 2^{-8h/H}, \qquad h = 1, \ldots, H

    Parameters
    ----------
    heads : int
        H. Where it is no power of two: the slopes of the power of two P below it, then every second one
        (first, third, ...) of those for 2P, H - P of them.
    like : floating-point array of any shape, optional
        An array whose library, device and dtype the result shares. Default: float64 NumPy.

    Returns
    -------
    out : array (H,)

    Notes
    -----
    Clauses: ALIBI-SLOPES. Source: Press et al. 2022, section 3; other than powers of two: their code.

    Examples
    --------
    >>> alibi_slopes(6)
    array([0.25      , 0.0625    , 0.015625  , 0.00390625, 0.5       ,
           0.125     ])
    """
    heads = backend.integer("heads", heads, least=1)
    arguments.room(100 * heads, heads=heads)  # while they are Python numbers
    xp, like = backend.floating(like=np.empty(0) if like is None else like)
    power = 1 << (heads.bit_length() - 1)
    exponents = [8.0 * h / power for h in range(1, power + 1)]
    exponents += [8.0 * (2 * h + 1) / (2 * power) for h in range(heads - power)]
    return backend.asarray(xp, [2.0**-e for e in exponents], like, like.dtype)


@backend.ieee
def alibi_bias(slopes, n, m, *, q_positions=None, k_positions=None):
    r"""The bias of ALiBi, for the argument `bias` of `attention`.

    .. math:: b_{hij} = -m_h\, |p_i - p_j|

    Parameters
    ----------
    slopes : array (..., H)
        One a query head: `alibi_slopes(heads)`, or a model's own.
    n, m : int
        Numbers of queries and keys.
    q_positions, k_positions : int array that broadcasts to (..., H, N), (..., H, M), optional
        (N,), or (B, 1, N) for each batch. Default: keys 0 to M - 1,
        queries the last N of M.

    Returns
    -------
    out : array (..., H, N, M)
        Never positive, and not scaled by 1/√D.

    Raises
    ------
    TypeError, ValueError
        Slopes are not floating-point (..., H); positions are not integers (..., N), (..., M).

    Notes
    -----
    Time and memory O(H N M). Clauses: ALIBI-BIAS, ALIBI-ALIGN. Source: Press et al. 2022, section 3. The bias
    m_h p_j, without the query's position, gives the same causal outputs and other log-sum-exps.

    Examples
    --------
    >>> alibi_bias(alibi_slopes(8), 2, 3)[0]
    array([[-0.5,  0. , -0.5],
           [-1. , -0.5,  0. ]])
    """
    xp, slopes = backend.floating(slopes=slopes)
    backend.rank("slopes", slopes, 1, "(..., H)")
    n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
    arguments.room(24 * n * m * max(1, slopes.shape[-1]), n=n, m=m)
    nearness = -xp.abs(_relative(slopes, n, m, q_positions, k_positions))
    backend.broadcast("leading axes", slopes=slopes.shape, **{"q_positions and k_positions": nearness.shape[:-2]})
    return slopes[..., None, None] * backend.cast(nearness, slopes.dtype)


def relative_position_bucket(relative, *, bidirectional=True, buckets=32, max_distance=128):
    r"""The bucket of T5 for a relative position: near distances one by one, far ones in growing steps.

    .. math:: \beta(a) = \begin{cases} a & a < e \\
        \min\left(e + \left\lfloor (n - e) \frac{\ln(a/e)}{\ln(d/e)} \right\rfloor, n - 1\right) & a \ge e \end{cases}

    Parameters
    ----------
    relative : int array (...)
        Key position minus query position r.
    bidirectional : bool, default True
        True: a = |r|, n is half of `buckets`, and keys after the query (r > 0) take the second half.
        False: a = max(-r, 0), n is `buckets`, and all keys after the query share bucket 0.
    buckets : int, default 32
    max_distance : int, default 128
        The d above, greater than e = ⌊n/2⌋.

    Returns
    -------
    out : int64 array (...)

    Raises
    ------
    TypeError, ValueError
        `relative` is not an integer array; fewer than two buckets a direction; max_distance not above e.

    Notes
    -----
    The thresholds are found with whole numbers, so no rounded logarithm decides at a boundary. Time O(size log n).
    Clauses: T5-BUCKET, T5-CAUSAL, T5-EXACT, T5-REFUSE. Source: Raffel et al. 2020, section 2.1, and their code.

    Examples
    --------
    >>> import numpy as np
    >>> relative_position_bucket(np.array([-128, -8, -1, 0, 1, 8, 128]))
    array([15,  8,  1,  0, 17, 24, 31])
    """
    xp = backend.array("relative", relative)
    relative = backend.integers(xp, relative, relative=relative)
    backend.near(xp, relative=relative)
    bidirectional = backend.flag("bidirectional", bidirectional)
    buckets, max_distance = backend.integer("buckets", buckets), backend.integer("max_distance", max_distance)
    n = buckets // 2 if bidirectional else buckets
    if n < 2 or (bidirectional and buckets % 2):
        raise ValueError(f"buckets is {buckets}; it must be at least 2 a direction, and even if bidirectional")
    if max_distance <= n // 2:
        raise ValueError(f"max_distance is {max_distance}; it must be above {n // 2}, where distances begin to share")
    if (n - n // 2) * max_distance.bit_length() > _MOST_DIGITS:
        raise ValueError(
            f"buckets is {buckets} and max_distance {max_distance}; their thresholds would take numbers of more than"
            f" {_MOST_DIGITS} binary digits"
        )
    starts = backend.asarray(xp, _bucket_starts(n, max_distance), relative, xp.int64)
    zero = xp.zeros_like(relative)
    distance = xp.abs(relative) if bidirectional else xp.maximum(-relative, zero)
    bucket = xp.searchsorted(starts, xp.reshape(distance, (-1,)), side="right")
    bucket = backend.cast(xp.reshape(bucket, relative.shape), xp.int64)
    return xp.where(relative > 0, bucket + n, bucket) if bidirectional else bucket


def t5_bias(table, n, m, *, q_positions=None, k_positions=None, bidirectional=True, max_distance=128):
    r"""The relative position bias of T5, for the argument `bias` of `attention`.

    .. math:: b_{hij} = t_{\beta(p_j - p_i),\, h}

    Parameters
    ----------
    table : array (buckets, H)
        Learned; one for all layers in T5, whose scores have scale 1.
    n, m : int
        Numbers of queries and keys.
    q_positions, k_positions : int array that broadcasts to (..., H, N), (..., H, M), optional
        (N,), or (B, 1, N) for each batch. Default: keys 0 to M - 1, queries the last N of M.
    bidirectional, max_distance
        As for `relative_position_bucket`; `bidirectional` is False in a decoder.

    Returns
    -------
    out : array (..., H, N, M)

    Raises
    ------
    TypeError, ValueError
        The table is not floating-point (buckets, H); otherwise as for `relative_position_bucket`.

    Notes
    -----
    Time and memory O(H N M). Clauses: T5-BIAS, T5-ALIGN. Source: Raffel et al. 2020, section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> t5_bias(np.array([[0.0], [1.0], [2.0], [3.0]]), 1, 3, bidirectional=False, max_distance=8)
    array([[[2., 1., 0.]]])
    """
    xp, table = backend.floating(table=table)
    if table.ndim != 2:
        raise ValueError(f"table has shape {tuple(table.shape)}; it must be (buckets, H)")
    buckets, heads = table.shape
    n, m = backend.integer("n", n, least=0), backend.integer("m", m, least=0)
    arguments.room(32 * n * m * max(1, heads), n=n, m=m)
    relative = _relative(table, n, m, q_positions, k_positions)  # (..., N, M)
    try:
        bucket = relative_position_bucket(
            relative, bidirectional=bidirectional, buckets=buckets, max_distance=max_distance
        )
    except ValueError as error:
        raise ValueError(f"table has {buckets} rows: {error}") from None
    backend.broadcast("leading axes", heads=(heads,), **{"q_positions and k_positions": relative.shape[:-2]})
    index = bucket * heads + backend.arange(xp, 0, heads, table)[:, None, None]  # (..., H, N, M) in the flat table
    return xp.reshape(xp.take(xp.reshape(table, (-1,)), xp.reshape(index, (-1,))), index.shape)


_MOST_DIGITS = 2**14


def _bucket_starts(n, max_distance):
    """The least distance of each bucket but the first, found with whole numbers.

    Their powers have n/2 times the digits of a distance, which `_MOST_DIGITS` keeps to a second of work.
    """
    e = n // 2
    steps = n - e  # distance a is t steps or more beyond e where (a/e)^steps >= (d/e)^t
    return list(range(1, e + 1)) + [
        bisect_left(range(max_distance), max_distance**t * e ** (steps - t), key=lambda a: a**steps)
        for t in range(1, steps)
    ]


def _relative(like, n, m, q_positions, k_positions):
    """Key position minus query position, int64 (..., N, M); by default the queries are the last N of M."""
    q, k = positions_of(n, m, q_positions, k_positions, like=like)
    return k[..., None, :] - q[..., :, None]
