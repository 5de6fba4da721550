"""LongNet's dilated attention: segments of several lengths, each attended to in steps, and merged."""

from __future__ import annotations

from refattn import backend, masks
from refattn.sparse.parts import EVERY, Part, attend, attend_vjp, first_of_consecutive, of_heads
from refattn.sparse.rules import checked_rule


def longnet_attention(q, k, v, segments, dilations, mask=None, *, offsets, causal=False, **options):
    r"""Attention in branches, merged by their log-sum-exp: in a branch every r-th position of a segment sees the others.

    .. math:: o_i = \sum_b \frac{e^{L^b_i}}{\sum_a e^{L^a_i}} o^b_i
        = \sum_j \frac{m_{ij} e^{s_{ij}}}{\sum_l m_{il} e^{s_{il}}} v_j, \qquad
        m_{ij} = \#\{ b : \lfloor u_j / w_b \rfloor = \lfloor t_i / w_b \rfloor,\
        (u_j \bmod w_b) \bmod r_b = (t_i \bmod w_b) \bmod r_b = a_b \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    segments, dilations : list of int
        The w and r above, a number for each branch.
    mask : rule of `refattn.masks`, optional
        What restricts it further.
    offsets : str, or list
        The a above: which positions of a segment take part in a branch.
        "paper" : h mod r for head h.
        "code" : heads in r groups one after the other, group a has a: microsoft/torchscale.
        A list has for each branch a number from 0 to r - 1 for all heads, or a list of H.
    causal : bool, default False
        Whether keys after the query's own position are left out.
    **options
        As for `tiled_attention`, which has tiles beside.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
        A query that takes part in no branch has 0.
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where the mask is no rule, a segment or a dilation is below 1, an offset is not below
        its dilation, or their numbers differ.

    Notes
    -----
    A multiset: a key that two branches hold counts twice, so it equals attention with a bias of ln m. Time
    O(N Σ w / r² (D + Dv)), memory beside the results O(N); where positions are given and not consecutive, r² times as much time.
    Clauses: LONGNET-BRANCH, LONGNET-MULTISET, LONGNET-SEGMENT, LONGNET-OFFSETS, LONGNET-NONE, LONGNET-OPTIONS,
    LONGNET-COST, LONGNET-REFUSE.
    Source: Ding et al. 2023 (LongNet), sections 2.2 and 2.3; microsoft/torchscale, dilated_attention.py.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> longnet_attention(x, x, np.eye(4), [2, 4], [1, 2], offsets=[0, 0])[2]  # key 2 counts twice
    array([0.25, 0.  , 0.5 , 0.25])
    """
    parts = _branches(segments, dilations, offsets, causal)
    return attend(q, k, v, parts, checked_rule(mask), **options)


def longnet_attention_vjp(d_out, q, k, v, segments, dilations, mask=None, *, offsets, causal=False, **options):
    """The gradients of LongNet's attention, those through the shares of the branches included.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, segments, dilations, mask, offsets, causal
        As for `longnet_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `longnet_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `longnet_attention`. Clauses: LONGNET-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of each branch.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> longnet_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), [2, 4], [1, 2], offsets=[0, 0]).v[:, 0]
    array([1.25, 0.75, 1.25, 0.75])
    """
    parts = _branches(segments, dilations, offsets, causal)
    return attend_vjp(d_out, q, k, v, parts, checked_rule(mask), **options)


RULES = {  # the offset of a head of H in a branch of dilation r
    "paper": lambda head, heads, r: head % r,
    "code": lambda head, heads, r: head // -(-heads // r),
}


def _branches(segments, dilations, offsets, causal):
    """What makes parts of a problem: for each branch and head the positions that take part, within each segment."""
    causal = backend.flag("causal", causal)
    named = isinstance(offsets, str) and backend.choice("offsets", offsets, tuple(RULES))
    given = {"segments": segments, "dilations": dilations} | ({} if named else {"offsets": offsets})
    for name, x in given.items():
        if not isinstance(x, list | tuple) or not isinstance(segments, list | tuple) or len(x) != len(segments):
            raise ValueError(f"{name} is {backend.shown(x)}; it must be a list, as long as segments: a branch an entry")
    segments = [backend.integer("segments", w, least=1) for w in segments]
    dilations = [backend.integer("dilations", r, least=1) for r in dilations]

    def branches(of):
        for b, (width, step) in enumerate(zip(segments, dilations, strict=True)):
            for head, offset in _by_rule(of, offsets, step) if named else of_heads(of, offsets=offsets[b]):
                if not 0 <= offset < step:
                    raise ValueError(f"offsets holds {offset} for a dilation of {step}; it must be 0 to {step - 1}")
                yield from _of_branch(of, head, width, step, offset, causal)

    return branches


def _by_rule(of, rule, step):
    """(head, offset) for each head; where there are no heads, that of the first."""
    heads = of.lead[-1] if of.lead else 1
    found = [RULES[rule](head, heads, step) for head in range(heads)]
    return [(None, found[0])] if len({*found}) == 1 else list(enumerate(found))


def _of_branch(of, head, width, step, offset, causal):
    """The positions of all segments are one slice where the step divides their length; else each segment has its own."""
    rule = masks.chunked(width) if causal else masks.block(width)
    first = first_of_consecutive(of)
    if first is None:
        part_of = lambda x: x % width % step == offset
        yield Part(head, EVERY, EVERY, rule & masks.Mask(lambda i, j: part_of(i) & part_of(j)), width)
        return
    k_first = of.spaced[0]
    spans = [(min(first, k_first) // width * width, max(first + of.n, k_first + of.m))]
    if width % step:
        spans = [(start, start + width) for start in range(*spans[0], width)]
    for start, stop in spans:
        rows, keys = (_slice(start + offset, stop, step, own, x) for own, x in ((first, of.n), (k_first, of.m)))
        if rows.start < rows.stop:
            yield Part(head, rows, keys, rule, -(-width // step))


def _slice(start, stop, step, first, count):
    """Of places that stand at consecutive positions from `first` on those at positions start, start + step, ... below stop."""
    start, stop = start - first, min(stop - first, count)
    return slice(min(start if start >= 0 else start % step, max(stop, 0)), max(stop, 0), step)
