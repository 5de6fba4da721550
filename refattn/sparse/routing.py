"""Routing attention: attention inside clusters of tokens, which may overlap."""

from __future__ import annotations

from refattn import backend
from refattn.gradients import AttentionGradients
from refattn.gradients.sums import checked_cotangent
from refattn.sparse.groups import Groups, attend, attend_vjp, lead_of
from refattn.sparse.places import added, places_of
from refattn.sparse.rules import checked_rule


@backend.ieee
def routing_attention(q, k, v, members, mask=None, **options):
    r"""Attention of the tokens of each cluster to one another, and for each token the mean over its clusters.

    .. math:: o_i = \frac{1}{\lvert \{ c : i \in S_c \} \rvert} \sum_{c : i \in S_c} \sum_{j \in S_c}
        \frac{e^{s_{ij}}}{\sum_{l \in S_c} e^{s_{il}}} v_j

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, N, D) or (N, D)
        Keys of the same tokens, H a multiple of G.
    v : array (..., G, N, Dv) or (N, Dv)
        Values.
    members : int array that broadcasts to (..., H, C, W)
        The S above, the tokens of each of C clusters in any order, -1 where a cluster has fewer than W: `routing_members`
        takes those nearest to a centroid.
    mask : rule of `refattn.masks`, optional
        What restricts it further: `causal()`, which is one of positions. The output depends on later tokens all the same,
        where members were chosen among all of them.
    **options
        As for `tiled_attention`, which has tiles and the log-sum-exp beside. A sink takes its share in every cluster.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
        0 for a token in no cluster.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where there are more or fewer queries than keys, members are no integers from -1 to N - 1 or
        one stands twice in a cluster, or the mask is no rule.

    Notes
    -----
    A mean of softmaxes: neither a set of keys nor a multiset, unless no token is in two clusters. Then it is attention under
    a mask. Time O(C W² (D + Dv)), memory beside the results O(C W Dv).
    Clauses: ROUTING-KEYS, ROUTING-MEAN, ROUTING-NONE, ROUTING-MASK, ROUTING-OPTIONS, ROUTING-COST, ROUTING-REFUSE.
    Source: Roy et al. 2021 (Routing Transformer), section 4; the mean as in lucidrains/routing-transformer.

    Examples
    --------
    >>> import numpy as np
    >>> x, members = np.zeros((4, 2)), np.array([[0, 2], [2, 1]])
    >>> routing_attention(x, x, np.array([[2.0], [4.0], [8.0], [9.0]]), members)[:, 0]
    array([5. , 6. , 5.5, 0. ])
    """
    xp, members = _checked(q, k, members)
    out, _ = attend(q, k, v, Groups(members, members), checked_rule(mask), **options)
    (*lead, _, _, dv), n = out.shape, q.shape[-2]
    places = places_of(xp, tuple(lead), n, xp.broadcast_to(xp.where(members < 0, 0, members), out.shape[:-1]))
    return added(xp, out, places, (*lead, n, dv)) / _often(xp, members, n, out)


@backend.ieee
def routing_attention_vjp(d_out, q, k, v, members, mask=None, **options):
    """The gradients of routing attention; the members have none.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, members, mask
        As for `routing_attention`.
    **options
        As for `routing_attention`.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `routing_attention`; and where the cotangent has another shape than the output.

    Notes
    -----
    Time and memory as for `routing_attention`. Clauses: ROUTING-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each cluster.

    Examples
    --------
    >>> import numpy as np
    >>> x, members = np.zeros((4, 2)), np.array([[0, 2], [2, 1]])
    >>> routing_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), members).v[:, 0]
    array([0.75, 0.75, 1.5 , 0.  ])
    """
    table = None if callable(options.get("bias")) else options.get("bias")
    xp, d_out, q, k, v, table, sinks = backend.floating(
        d_out=d_out, q=q, k=k, v=v, bias=table, sinks=options.get("sinks"), optional="bias sinks"
    )
    xp, members = _checked(q, k, members)
    clusters, mask = Groups(members, members), checked_rule(mask)
    options = options | {"sinks": sinks} | ({} if table is None else {"bias": table})
    checked_cotangent("d_out", d_out, "the output", (*lead_of(q, k, v, clusters, mask, **options), *v.shape[-1:]))
    found = attend_vjp(d_out / _often(xp, members, q.shape[-2], d_out), q, k, v, clusters, mask, **options)
    found["bias"] = None if table is None else xp.reshape(found["bias"], table.shape)
    return AttentionGradients(**dict.fromkeys(AttentionGradients._fields) | found)


def routing_members(x, centroids, width):
    r"""The tokens of each cluster: those with the largest products with its centroid.

    Parameters
    ----------
    x : array (..., N, D)
        Tokens, normalised as the model does it.
    centroids : array (..., C, D)
    width : int
        Tokens a cluster; all of them, where there are fewer.

    Returns
    -------
    members : int64 array (..., C, W)
        In the order of their places. A token may be in several clusters, or in none.

    Raises
    ------
    TypeError, ValueError
        Arguments are not floating-point or of different sizes, or the width is below 1.

    Notes
    -----
    Time O(N C D) and a sort. Of equal products the first are taken. Whether a token is in a cluster depends on all tokens, later
    ones among them. Clauses: ROUTING-MEMBERS, ROUTING-REFUSE. Source: Roy et al. 2021 (Routing Transformer), section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> routing_members(np.array([[1.0], [3.0], [-2.0], [2.0]]), np.array([[1.0], [-1.0]]), 2)
    array([[1, 3],
           [0, 2]])
    """
    xp, x, centroids = backend.floating(x=x, centroids=centroids)
    width = backend.integer("width", width, least=1)
    backend.rank("x", x, 2, "(..., N, D)")
    backend.rank("centroids", centroids, 2, "(..., C, D)")
    if x.shape[-1] != centroids.shape[-1]:
        raise ValueError(f"centroids has D = {centroids.shape[-1]}, x has {x.shape[-1]}: both are D in (..., D)")
    backend.broadcast("leading axes", x=x.shape[:-2], centroids=centroids.shape[:-2])
    nearest = backend.stable_argsort(xp, -(centroids @ xp.matrix_transpose(x)))[..., : min(width, x.shape[-2])]
    return xp.sort(nearest, axis=-1)


def _checked(q, k, members):
    """The members as integers: tokens that there are, each once in a cluster."""
    xp, q, k = backend.floating(q=q, k=k)
    backend.rank("q", q, 2, "(..., N, D)")
    backend.rank("k", k, 2, "(..., N, D)")
    n, members = q.shape[-2], backend.integers(xp, q, members=members)
    if k.shape[-2] != n:
        raise ValueError(f"k has {k.shape[-2]} tokens, q has {n}: clusters are of the same tokens, N in (..., N, D)")
    backend.rank("members", members, 2, "(..., C, W)")
    if 0 not in members.shape and bool(xp.any((members < -1) | (members >= n))):
        raise ValueError(
            f"members reach from {int(xp.min(members))} to {int(xp.max(members))}; they must be tokens, 0 to {n - 1}, or -1"
        )
    backend.broadcast("leading axes", members=members.shape[:-2], q=q.shape[:-2])
    ascending = xp.sort(members, axis=-1)
    if bool(xp.any((ascending[..., 1:] == ascending[..., :-1]) & (ascending[..., 1:] >= 0))):
        raise ValueError("members name a token twice in one cluster; each must stand there once")
    return xp, members[..., :0] if n == 0 else members


def _often(xp, members, n, like):
    """In how many clusters each token is, (..., N, 1), and 1 where in none."""
    lead = members.shape[:-2]
    there = backend.cast(members >= 0, like.dtype)
    found = added(xp, there, places_of(xp, lead, n, xp.where(members < 0, 0, members)), (*lead, n))
    return xp.where(found == 0, 1.0, found)[..., None]
