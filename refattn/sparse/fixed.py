"""Fixed attention of the Sparse Transformer: the own block so far, and the summary positions of the blocks before."""

from __future__ import annotations

from refattn import backend, masks
from refattn.sparse.parts import (
    EVERY,
    Part,
    at_remainder,
    attend,
    attend_vjp,
    by_head,
    keys_are_consecutive,
    named_for_heads,
    of_heads,
)
from refattn.sparse.rules import checked_rule

PARTS = ("merged", "local", "summary")


def fixed_attention(q, k, v, stride, summary=1, mask=None, *, sub_block=0, part="merged", **options):
    r"""Attention of every query to its own block so far, to `summary` positions of each block, or to both.

    .. math:: A^1_i = \{ j : u_j \le t_i,\ \lfloor u_j / l \rfloor = \lfloor t_i / l \rfloor \}, \qquad
        A^2_i = \{ j : u_j \le t_i,\ l - (b + 1) c \le u_j \bmod l < l - b c \}; \qquad
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
        The l above, positions a block; blocks begin at position 0. Cost is least where it is about the square root of M.
    summary : int, default 1
        The c above, positions of a block that later blocks attend to.
    mask : rule of `refattn.masks`, optional
        What restricts it further.
    sub_block : int, or int array (H,), default 0
        The b above: which positions those are, in steps of c from the end of a block, the same for all heads or one for each.
    part : str, or list of H str, default "merged"
        "merged" : both sets in one head, as one set.
        "local" : the first set.
        "summary" : the second set.
        A name for each head makes separate heads; "local" in one layer and "summary" in the next alternates them.
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
        As for `tiled_attention`; and where the mask is no rule, the stride or the summary is below 1, sub-blocks reach
        beyond a block or are those of another number of heads, or a part has no such name.

    See Also
    --------
    refattn.masks.fixed : the rule of the merged head with the last positions. A set: no key counts twice.

    Notes
    -----
    Each summary position is a slice of keys with step l. Time O(N (l + c M / l) (D + Dv)), memory beside the results O(N);
    where positions of keys are given and not consecutive, time as for attention.
    The released code is `part="merged"` with sub-blocks h mod `num_verts`, and a stride and a summary of whole tiles.
    Clauses: FIXED-LOCAL, FIXED-SUMMARY, FIXED-MERGED, FIXED-SUB-BLOCK, FIXED-PART, FIXED-OPTIONS, FIXED-COST,
    FIXED-REFUSE.
    Source: Child et al. 2019 (Sparse Transformer), sections 4.2 and 4.3; openai/sparse_attention, attention.py.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((10, 2))
    >>> fixed_attention(x, x, np.eye(10), 4)[9]
    array([0.  , 0.  , 0.  , 0.25, 0.  , 0.  , 0.  , 0.25, 0.25, 0.25])
    """
    return attend(q, k, v, _sets(stride, summary, sub_block, part), checked_rule(mask), **options)


def fixed_attention_vjp(d_out, q, k, v, stride, summary=1, mask=None, *, sub_block=0, part="merged", **options):
    """The gradients of fixed attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, stride, summary, mask, sub_block, part
        As for `fixed_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `fixed_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `fixed_attention`. Clauses: FIXED-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each set.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> fixed_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 2, part="local").v[:, 0]
    array([1.5, 0.5, 1.5, 0.5])
    """
    return attend_vjp(d_out, q, k, v, _sets(stride, summary, sub_block, part), checked_rule(mask), **options)


def _sets(stride, summary, sub_block, part):
    """What makes parts of a problem: those of each head."""
    stride, summary = backend.integer("stride", stride, least=1), backend.integer("summary", summary, least=1)
    if summary > stride:
        raise ValueError(f"summary is {summary}; it must be at most stride ({stride})")

    def sets(of):
        for head, name, block in by_head(named_for_heads(of, part, PARTS), of_heads(of, sub_block=sub_block)):
            if not 0 <= block < stride // summary:
                raise ValueError(
                    f"sub_block is {block}; it must be from 0 to {stride // summary - 1}: blocks of {stride} hold"
                    f" {stride // summary} times {summary} positions"
                )
            start = stride - (block + 1) * summary
            yield from _of_heads(of, head, stride, range(start, start + summary), name)

    return sets


def _of_heads(of, head, stride, places, part):
    """The own block, and for each place of the summary the keys that have it: in a merged head those of earlier blocks."""
    if part != "summary":
        yield Part(head, EVERY, EVERY, masks.chunked(stride), stride)
    if part == "local":
        return
    rule = masks.causal() if part == "summary" else masks.causal() & ~masks.block(stride)
    if not keys_are_consecutive(of):
        among = masks.Mask(lambda i, j: (j % stride >= places.start) & (j % stride < places.stop))
        yield Part(head, EVERY, EVERY, rule & among, None)
        return
    for place in places:
        yield Part(head, EVERY, at_remainder(of, place, stride), rule, None)
