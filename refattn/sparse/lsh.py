"""LSH attention (Reformer): tokens are sorted by a hash, and each attends to its own chunk of that order and those beside it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from refattn import backend, masks
from refattn.gradients.norms import rms_norm_vjp
from refattn.gradients.sums import checked_cotangent, summed_to
from refattn.norms import rms_norm
from refattn.softmax import divisor, level, share_of, shifted_exp, sink_shares
from refattn.sparse.groups import Groups, attend, attend_vjp, sees
from refattn.sparse.places import numbers_at, places_of, rows_at
from refattn.sparse.rules import both, checked_rule

EPS = {"rms": 1e-6, "l2": 1e-12}  # of trax and transformers; of lucidrains' and torch's normalize


@backend.ieee
def lsh_attention(
    qk, v, buckets, mask=None, *, chunk, before=1, after=0, causal=False, key_norm="rms", sinks=None, positions=None,
    return_lse=False, **options,
):  # fmt: skip
    r"""Attention of every token to those that a hash has put near it, with keys that are the queries at unit length.

    .. math:: o_i = \sum_j \frac{m_{ij} e^{s_{ij}}}{\sum_l m_{il} e^{s_{il}}} v_j, \qquad
        s_{ij} = \frac{x_i \cdot \hat x_j}{\sqrt D}, \qquad
        \hat x_j = \frac{x_j}{\sqrt{\frac{1}{D} \lVert x_j \rVert^2 + \varepsilon}}

    A round sorts the tokens by bucket, and those of a bucket by their place, and cuts them into chunks. :math:`m_{ij}` is
    how often :math:`j`, over all rounds, stands in the chunk of :math:`i`, in the `before` chunks before it or in the
    `after` chunks after it: a multiset. The chunks of all rounds are one ring: before the first chunk of a round is the last
    one of the round before, and before the first of all the last of all. A token attends to itself only if it sees no other.

    Parameters
    ----------
    qk : array (..., H, N, D) or (N, D)
        The x above: queries, and keys before they are normalised.
    v : array (..., H, N, Dv) or (N, Dv)
        Values.
    buckets : int array that broadcasts to (..., H, rounds, N)
        The bucket of each token in each round, as `lsh_buckets` finds them; only their order counts.
    mask : rule of `refattn.masks`, optional
        Leaves out keys: `padding(lengths)`.
    chunk : int
        Tokens a chunk; the last chunk of a round has those that are left.
    before, after : int, default 1 and 0
        Chunks on either side, as many as the ring has at most.
    causal : bool, default False
        Whether a token sees none at a later position. Its output depends on later tokens all the same: they take part in
        the sorting.
    key_norm : "rms" or "l2", default "rms"
        "rms" is the formula above with ε = 1e-6, as in trax and transformers; "l2" divides by max(‖x‖, 1e-12), as in
        reformer-pytorch: scores that are √D times smaller.
    sinks : array that broadcasts to (..., H), optional
        As for `attention`.
    positions : int array (..., N), optional
        Those of rules and functions; default 0 to N - 1.
    return_lse : bool, default False
    **options
        As for `tiled_attention`, which has tiles beside: scale, softcap, bias and dropout.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`: ln Σ m e^s, without the sink.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where buckets are no integers or for another number of tokens, chunk is below 1, before or
        after below 0, key_norm is neither, or the mask is no rule.

    See Also
    --------
    lsh_buckets : buckets from random rotations.

    Notes
    -----
    Time O(rounds N (chunk (before + 1 + after) (D + Dv) + log N)), memory O(rounds N Dv). NaN in a token stays with those
    that see it, as long as buckets are the same; a hash of NaN is another one.
    Implementations write -1e5 in the place of a token's score with itself; lse is then about that where it sees no other.
    Clauses: LSH-KEYS, LSH-SORT, LSH-RING, LSH-LAST, LSH-ROUNDS, LSH-OWN, LSH-NORM, LSH-CAUSAL, LSH-MASK, LSH-OPTIONS,
    LSH-COST, LSH-REFUSE. Source: Kitaev et al. 2020 (Reformer), section 2, as in trax and transformers.

    Examples
    --------
    >>> import numpy as np
    >>> x, buckets = np.zeros((4, 2)), np.array([[1, 0, 1, 0]])
    >>> lsh_attention(x, np.arange(4.0)[:, None], buckets, chunk=2, before=0)[:, 0]
    array([2., 3., 0., 1.])
    """
    return_lse = backend.flag("return_lse", return_lse)
    of = _hashed(qk, v, buckets, mask, chunk, before, after, causal, key_norm, sinks, positions, options)
    out, lse = of.merged(*attend(**of.arguments))
    if of.sinks is not None:
        out = share_of(of.xp, _shares(of, lse)[0], out)
    return (out, lse) if return_lse else out


@backend.ieee
def lsh_attention_vjp(
    d_out, qk, v, buckets, mask=None, *, chunk, before=1, after=0, causal=False, key_norm="rms", sinks=None,
    positions=None, d_lse=None, out=None, lse=None, **options,
):  # fmt: skip
    """The gradients of LSH attention; the buckets have none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    qk, v, buckets, mask, chunk, before, after, causal, key_norm, sinks, positions
        As for `lsh_attention`.
    d_lse : array (..., H, N) or (N,), optional
        Cotangent of lse.
    out, lse : array (..., H, N, Dv) or (N, Dv), (..., H, N) or (N,), optional
        What `lsh_attention` returned; without them they are computed again.
    **options
        As for `tiled_attention_vjp`, which has tiles beside: scale, softcap, bias and dropout.

    Returns
    -------
    LSHGradients
        (qk, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `lsh_attention`; and where a cotangent has another shape than its result, or only one of out and lse is given.

    Notes
    -----
    qk gets what attention gives to its queries and, through the normalisation, what it gives to its keys.
    Time and memory as for `lsh_attention`, about 2.5 times as long. Clauses: LSH-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of all rounds.

    Examples
    --------
    >>> import numpy as np
    >>> x, buckets = np.zeros((4, 2)), np.array([[1, 0, 1, 0]])
    >>> lsh_attention_vjp(np.arange(4.0)[:, None], x, np.ones((4, 1)), buckets, chunk=2, before=0).v[:, 0]
    array([2., 3., 0., 1.])
    """
    if (out is None) != (lse is None):
        raise ValueError("out and lse are the results of lsh_attention with these arguments: give both, or neither")
    own = {"chunk": chunk, "before": before, "after": after, "causal": causal, "key_norm": key_norm}
    own |= {"sinks": sinks, "positions": positions}
    if out is None:
        out, lse = lsh_attention(qk, v, buckets, mask, return_lse=True, **own, **options)
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, d_lse, out, lse, qk, v, table, sinks = backend.floating(
        d_out=d_out, d_lse=d_lse, out=out, lse=lse, qk=qk, v=v, bias=table, sinks=sinks,
        optional="d_lse out lse bias sinks",
    )  # fmt: skip
    of = _hashed(qk, v, buckets, mask, options=options | ({} if table is None else {"bias": table}), **own)
    for name, x, core in (("d_out", d_out, 2), ("out", out, 2), ("d_lse", d_lse, 1), ("lse", lse, 1)):
        checked_cotangent(name, x, "its result", (*of.lead, *(qk.shape[-2], v.shape[-1])[:core]))
    d_sinks = None
    if sinks is not None:
        left, taken = _shares(of, lse)
        d_sinks = summed_to(xp, xp.sum(-taken * d_out * out, axis=(-2, -1)), sinks.shape)
        d_out = left * d_out
    found = attend_vjp(d_out, **of.arguments, d_lse=d_lse, out=out, lse=lse)
    through_key = rms_norm_vjp(of.length * found["k"], qk, None, eps=of.eps).x
    d_bias = None if table is None else xp.reshape(found["bias"], table.shape)
    return LSHGradients(found["q"] + through_key, found["v"], d_bias, d_sinks, found["scale"])


class LSHGradients(NamedTuple):
    """What `lsh_attention_vjp` returns; bias and sinks are None where they were not given, bias also where it was a function.

    Attributes
    ----------
    qk : array (..., H, N, D) or (N, D)
    v : array (..., H, N, Dv) or (N, Dv)
    bias : array that broadcasts to (..., H, N, M), or None
    sinks : array that broadcasts to (..., H), or None
    scale : array ()
    """

    qk: Any
    v: Any
    bias: Any
    sinks: Any
    scale: Any


def lsh_buckets(x, rotations):
    r"""The buckets of tokens by random rotations: the nearest of the axes, in either direction, after each of them.

    .. math:: h(x) = \operatorname{argmax} [x R; -x R], \qquad h = \sum_f h_f \prod_{g < f} B_g

    Parameters
    ----------
    x : array (..., N, D)
        Queries that are keys too.
    rotations : array (..., rounds, D, B / 2), or a list of them
        Normal numbers, drawn outside: B buckets. Of a list each gives one digit of the bucket, the first the least, so that
        B is a product.

    Returns
    -------
    buckets : int64 array (..., rounds, N)

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point, the list is empty, or a rotation has another size than x.

    Notes
    -----
    Time O(rounds N D B / 2). Of equal products the first is taken. A token at any positive length has the same bucket.
    Clauses: LSH-HASH, LSH-REFUSE. Source: Andoni et al. 2015; Kitaev et al. 2020 (Reformer), section 2, the list in trax
    and transformers.

    Examples
    --------
    >>> import numpy as np
    >>> lsh_buckets(np.array([[3.0, 1.0], [-3.0, 1.0], [1.0, -2.0]]), np.eye(2)[None])
    array([[0, 2, 3]])
    """
    digits = list(rotations) if isinstance(rotations, list | tuple) else [rotations]
    if not digits:
        raise ValueError("rotations is an empty list; it must hold one array or more")
    buckets, count = 0, 1
    for n, rotation in enumerate(digits):
        name = f"rotations[{n}]" if len(digits) > 1 else "rotations"
        xp, x, rotation = backend.floating(x=x, **{name: rotation})
        backend.rank("x", x, 2, "(..., N, D)")
        backend.rank(name, rotation, 3, "(..., rounds, D, B / 2)")
        if rotation.shape[-2] != x.shape[-1] or not rotation.shape[-1]:
            raise ValueError(
                f"{name} has shape {tuple(rotation.shape)}; it must be (..., rounds, D={x.shape[-1]}, B / 2)"
            )
        backend.broadcast("leading axes", x=x.shape[:-2], **{name: rotation.shape[:-3]})
        turned = x[..., None, :, :] @ rotation
        nearest = xp.argmax(xp.concat([turned, -turned], axis=-1), axis=-1)
        buckets, count = buckets + count * backend.cast(nearest, xp.int64), count * 2 * rotation.shape[-1]
    return buckets


class _Hashed(NamedTuple):
    """The arguments of LSH attention, checked.

    Attributes
    ----------
    arguments : dict
        Those of attention in groups.
    where : int array (..., rounds, N)
        Where each token stands in the groups of each round, in a row.
    lead : tuple
        The leading axes of the results.
    sinks : array or None
    length, eps : float
        The key is length x / sqrt(mean x^2 + eps).
    """

    xp: Any
    arguments: dict
    where: Any
    lead: tuple
    sinks: Any
    length: float
    eps: float

    def places(self, lse):
        """Where in an array of all groups, as (..., R, W), each token stands in each round."""
        lead, shape = lse.shape[:-2], (*lse.shape[:-2], *self.where.shape[-2:])
        return places_of(self.xp, lead, lse.shape[-2] * lse.shape[-1], self.xp.broadcast_to(self.where, shape))

    def merged(self, out, lse):
        """Output and lse of each token from those of all groups."""
        xp, places = self.xp, self.places(lse)
        out, lse = rows_at(xp, out, places), numbers_at(xp, lse, places)  # (..., rounds, N, Dv), (..., rounds, N)
        weights, total, peak = shifted_exp(xp, lse, axis=-2)
        share = (weights / divisor(xp, total))[..., None]
        return xp.sum(share_of(xp, share, out), axis=-3), level(xp, total, peak)[..., 0, :]


def _hashed(qk, v, buckets, mask, chunk, before, after, causal, key_norm, sinks, positions, options) -> _Hashed:
    chunk, before, after = (
        backend.integer(name, x, least=least)
        for name, x, least in (("chunk", chunk, 1), ("before", before, 0), ("after", after, 0))
    )
    causal, mask = backend.flag("causal", causal), checked_rule(mask)
    backend.choice("key_norm", key_norm, tuple(EPS))
    xp, qk, v, sinks = backend.floating(qk=qk, v=v, sinks=sinks, optional="sinks")
    backend.rank("qk", qk, 2, "(..., N, D)")
    backend.rank("v", v, 2, "(..., N, Dv)")
    buckets = backend.integers(xp, qk, buckets=buckets)
    backend.rank("buckets", buckets, 2, "(..., rounds, N)")
    n, d = qk.shape[-2:]
    for name, x, size in (("v", v, v.shape[-2]), ("buckets", buckets, buckets.shape[-1])):
        if size != n:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, qk has {n} tokens: both must be of N tokens")
    if not d:
        raise ValueError("qk has D = 0 in (..., N, D): keys are normalised, so D must be at least 1")
    if not buckets.shape[-2]:
        raise ValueError("buckets has no round; it must be (..., rounds, N)")
    lead = backend.broadcast("leading axes", qk=qk.shape[:-2], v=v.shape[:-2], buckets=buckets.shape[:-2])
    if sinks is not None and backend.broadcast("leading axes", sinks=sinks.shape, qk_v_buckets=lead) != lead:
        raise ValueError(f"sinks has shape {tuple(sinks.shape)}; it must broadcast to the leading axes {lead}")
    length, eps = (1.0, EPS["rms"]) if key_norm == "rms" else (1.0 / math.sqrt(d), EPS["l2"] ** 2 / d)
    where, near = _near(xp, buckets, chunk, before, after)
    arguments = {"q": qk, "k": length * rms_norm(qk, None, eps=eps), "v": v, "groups": near}
    arguments |= {"mask": both(masks.causal(), mask) if causal else mask, **options}
    arguments |= {"q_positions": positions, "k_positions": positions}
    of = _Hashed(xp, arguments, where, lead, sinks, length, eps)
    return of._replace(arguments=arguments | {"groups": near._replace(own=_alone(of))})


def _near(xp, buckets, chunk, before, after):
    """Where each token stands in the order of each round, and each chunk with the chunks that it looks at."""
    (*lead, rounds, n), chunk = buckets.shape, max(1, min(chunk, buckets.shape[-1]))
    chunks = -(-n // chunk)
    before, after = min(before, rounds * chunks), min(after, rounds * chunks)
    order = backend.stable_argsort(xp, buckets)
    first = chunks * chunk * backend.arange(xp, 0, rounds, order)[:, None]
    where = first + backend.stable_argsort(xp, order)
    none = backend.full(xp, (*lead, rounds, chunks * chunk - n), -1, order)
    ring = xp.reshape(xp.concat([order, none], axis=-1), (*lead, rounds * chunks, chunk))
    beside = [xp.roll(ring, steps, axis=-2) for steps in range(before, -after - 1, -1)]
    return where, Groups(ring, xp.concat(beside, axis=-1))


def _alone(of: _Hashed):
    """The tokens (..., N) that see no other in any round."""
    near = of.arguments["groups"]
    found = sees(**of.arguments | {"groups": near._replace(own=of.where[..., 0, :] < 0)})
    return ~of.xp.any(numbers_at(of.xp, found, of.places(found)), axis=-2)


def _shares(of: _Hashed, lse):
    """What the sink leaves to the keys, and what it takes."""
    total = backend.cast(lse[..., None] != -math.inf, lse.dtype)
    return sink_shares(of.xp, lse[..., None], total, of.sinks[..., None, None])
