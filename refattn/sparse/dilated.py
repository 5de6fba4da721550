"""Dilated window attention: a window with gaps."""

from __future__ import annotations

from refattn import masks
from refattn.sparse.parts import EVERY, Part, at_remainder, attend, attend_vjp, first_of_consecutive, of_heads
from refattn.sparse.rules import checked_rule, keys_of


def dilated_attention(q, k, v, left, right, dilation, mask=None, **options):
    r"""Attention of every query to every `dilation`-th key around its own position.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : u_j = t_i + r c, -\mathrm{left} \le c \le \mathrm{right} \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    left, right : int or None
        How many steps on either side; None is unbounded.
    dilation : int, or int array (H,)
        The r above, the step from one key to the next, the same for all heads or one for each; 1 is a plain window.
    mask : rule of `refattn.masks`, optional
        What restricts it further.
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
        As for `tiled_attention`; and where the mask is no rule, a side is below 0, or a dilation is below 1.

    See Also
    --------
    refattn.masks.dilated : the rule that it applies. A set: no key counts twice.

    Notes
    -----
    Positions of different remainders modulo r never meet, so these are r windows side by side, on slices with step r.
    Time O(N (left + right) (D + Dv)), memory O(left + right) beside the results; where positions are given and not
    consecutive, r times as much.
    Clauses: DILATED-KEYS, DILATED-STEP, DILATED-HEADS, DILATED-OPTIONS, DILATED-COST, DILATED-REFUSE.
    Source: Beltagy et al. 2020 (Longformer), section 3.1, with the dilation as a step, as in its code.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((6, 2))
    >>> dilated_attention(x, x, np.arange(6.0)[:, None], 1, 0, 3)[:, 0]
    array([0. , 1. , 2. , 1.5, 2.5, 3.5])
    """
    return attend(q, k, v, _windows(left, right, dilation), checked_rule(mask), **options)


def dilated_attention_vjp(d_out, q, k, v, left, right, dilation, mask=None, **options):
    """The gradients of dilated window attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, left, right, dilation, mask
        As for `dilated_attention`.
    **options
        As for `tiled_attention_vjp`, which has tiles beside.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `dilated_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `dilated_attention`. Clauses: DILATED-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of the window.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((4, 2))
    >>> dilated_attention_vjp(np.ones((4, 1)), x, x, np.ones((4, 1)), 1, 0, 2).v[:, 0]
    array([1.5, 1.5, 0.5, 0.5])
    """
    return attend_vjp(d_out, q, k, v, _windows(left, right, dilation), checked_rule(mask), **options)


def _windows(left, right, dilation):
    """What makes parts of a problem: for each head and remainder a window over the positions with that remainder."""

    def windows(of):
        return [part for head, step in of_heads(of, dilation=dilation) for part in _of_heads(of, head, step)]

    def _of_heads(of, head, step):
        rule = masks.dilated(left, right, step)
        width = keys_of(rule)
        first = first_of_consecutive(of)
        if step == 1 or first is None:
            every = None if width is None else (width - 1) * step + 1
            yield Part(head, EVERY, EVERY, rule, every)
            return
        sides = (rule.arguments[side] for side in ("left", "right"))
        steps = [None if side is None else side * step for side in sides]
        for row in range(min(step, of.n)):
            keys = at_remainder(of, first + row, step)
            yield Part(head, slice(row, None, step), keys, masks.window(*steps), width)

    return windows
