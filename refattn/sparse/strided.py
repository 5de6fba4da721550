"""Strided attention of the Sparse Transformer: the keys before a query, and every stride-th key."""

from __future__ import annotations

from refattn import backend, masks
from refattn.sparse.parts import EVERY, Part, at_remainder, attend, attend_vjp, first_of_consecutive, named_for_heads
from refattn.sparse.rules import checked_rule

PARTS = ("merged", "local", "strided")


def strided_attention(q, k, v, stride, mask=None, *, part="merged", **options):
    r"""Attention of every query to the last `stride` positions and its own, to every `stride`-th before, or to both.

    .. math:: A^1_i = \{ j : t_i - l \le u_j \le t_i \}, \qquad A^2_i = \{ j : u_j \le t_i,\ (t_i - u_j) \bmod l = 0 \}; \qquad
        S_i = A^1_i \cup A^2_i,\quad A^1_i \quad \text{or} \quad A^2_i

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    stride : int
        The l above. Cost is least where it is about the square root of M.
    mask : rule of `refattn.masks`, optional
        What restricts it further.
    part : str, or list of H str, default "merged"
        "merged" : both sets in one head, as one set.
        "local" : the first set.
        "strided" : the second set.
        A name for each head makes separate heads; "local" in one layer and "strided" in the next alternates them.
    **options
        As for `tiled_attention`, which has tiles beside.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where the mask is no rule, the stride is below 1, or a part has no such name.

    See Also
    --------
    refattn.masks.strided : the rule of the merged head. A set: no key counts twice.

    Notes
    -----
    The second set is `stride` causal sequences side by side, on slices with that step. Time O(N (l + M / l) (D + Dv)), memory
    beside the results O(N); where positions are given and not consecutive, time as for attention.
    The released code has one key fewer in the first set: `window_attention(q, k, v, stride - 1, 0)`. In the merged head
    that makes no difference.
    Clauses: STRIDED-LOCAL, STRIDED-FAR, STRIDED-MERGED, STRIDED-PART, STRIDED-OPTIONS, STRIDED-COST, STRIDED-REFUSE.
    Source: Child et al. 2019 (Sparse Transformer), sections 4.2 and 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((8, 2))
    >>> strided_attention(x, x, np.eye(8), 3).round(1)[7]
    array([0. , 0.2, 0. , 0. , 0.2, 0.2, 0.2, 0.2])
    """
    return attend(q, k, v, _sets(stride, part), checked_rule(mask), **options)


def strided_attention_vjp(d_out, q, k, v, stride, mask=None, *, part="merged", **options):
    """The gradients of strided attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, stride, mask, part
        As for `strided_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `strided_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `strided_attention`. Clauses: STRIDED-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each set.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> strided_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 2, part="strided").v[:, 0]
    array([1.5, 1.5, 0.5, 0.5])
    """
    return attend_vjp(d_out, q, k, v, _sets(stride, part), checked_rule(mask), **options)


def _sets(stride, part):
    """What makes parts of a problem: those of each head."""
    stride = backend.integer("stride", stride, least=1)
    return lambda of: [x for head, name in named_for_heads(of, part, PARTS) for x in _of_heads(of, head, stride, name)]


def _of_heads(of, head, stride, part):
    """A window, and for each remainder the keys that have it: in a merged head those that are not in the window."""
    near = masks.window(stride, 0)
    if part != "strided":
        yield Part(head, EVERY, EVERY, near, stride + 1)
    if part == "local":
        return
    first = first_of_consecutive(of)
    if first is None:
        far = masks.dilated(None, 0, stride)
        yield Part(head, EVERY, EVERY, far if part == "strided" else far & ~near, None)
        return
    rule = masks.causal() if part == "strided" else ~masks.window(stride, None)
    for row in range(min(stride, of.n)):
        yield Part(head, slice(row, None, stride), at_remainder(of, first + row, stride), rule, None)
