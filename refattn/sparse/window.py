"""Sliding window attention: the keys around a query's own position."""

from __future__ import annotations

from typing import NamedTuple

from refattn import backend, masks
from refattn.sparse.rules import by_rule, keys_of
from refattn.tiled import tiled_attention, tiled_attention_vjp


def window_attention(q, k, v, left, right, mask=None, **options):
    r"""Attention of every query to the keys from `left` positions before its own to `right` positions after it.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : t_i - \mathrm{left} \le u_j \le t_i + \mathrm{right} \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    left, right : int or None
        How many positions beside the query's own, on either side; None is unbounded. `window_sides` finds them for
        'a window of W'.
    mask : rule of `refattn.masks`, optional
        What restricts it further: `padding(lengths)`, `documents(ids)`, `causal()`.
    **options
        As for `tiled_attention`.

    Returns
    -------
    out : array (..., H, N, Dv) or (N, Dv)
    lse : array (..., H, N) or (N,)
        If `return_lse`; as for `attention`.

    Raises
    ------
    TypeError, ValueError
        As for `tiled_attention`; and where the mask is no rule, or a side is below 0.

    See Also
    --------
    refattn.masks.window : the rule that it applies. A set: no key counts twice.
    refattn.cache.RollingKVCache : the last keys, for one token after the other.

    Notes
    -----
    Time O(N (left + right) (D + Dv)), memory O(left + right) beside the results.
    Clauses: WINDOW-KEYS, WINDOW-ALIGN, WINDOW-ENDS, WINDOW-LOCAL, WINDOW-OPTIONS, WINDOW-COST, WINDOW-REFUSE.
    Source: Beltagy et al. 2020 (Longformer), section 3.1; both sides inclusive as in FlashAttention-2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((5, 2))
    >>> window_attention(x, x, np.arange(5.0)[:, None], 1, 0)[:, 0]
    array([0. , 0.5, 1.5, 2.5, 3.5])
    """
    rule = masks.window(left, right)
    return tiled_attention(q, k, v, **by_rule(rule, mask, keys_of(rule), options))


def window_attention_vjp(d_out, q, k, v, left, right, mask=None, **options):
    """The gradients of sliding window attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, left, right, mask
        As for `window_attention`.
    **options
        As for `tiled_attention_vjp`.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `window_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `window_attention`, about 2.5 times as long. Clauses: WINDOW-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of the window.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((3, 2))
    >>> window_attention_vjp(np.ones((3, 1)), x, x, np.ones((3, 1)), 1, 0).v[:, 0]  # weights 1; 1/2, 1/2; 1/2, 1/2
    array([1.5, 1. , 0.5])
    """
    rule = masks.window(left, right)
    return tiled_attention_vjp(d_out, q, k, v, **by_rule(rule, mask, keys_of(rule), options))


class Sides(NamedTuple):
    """The two sides of a window.

    Attributes
    ----------
    left, right : int
    """

    left: int
    right: int


_SIDES = {
    "tokens": lambda size: Sides(size - 1, 0),
    "before": lambda size: Sides(size, 0),
    "each_side": lambda size: Sides(size, size),
    "both_sides": lambda size: Sides(size // 2, size // 2),
    "each_side_exclusive": lambda size: Sides(size - 1, size - 1),
    "both_sides_exact": lambda size: Sides((size + 1) // 2 - 1, size // 2),
}


def window_sides(size, meaning) -> Sides:
    """What 'a window of W' comes to as `left` and `right`, which six groups of models and libraries mean differently.

    Parameters
    ----------
    size : int
        The W, at least 1.
    meaning : str
        "tokens" : W keys, the query's own the last: transformers' causal models, mistral-inference, gpt-oss, Gemma.
        "before" : W keys and the own: Mistral's paper, local-attention's exact window, JAX with is_causal.
        "each_side" : W on either side: transformers' bidirectional models, allenai/longformer, the radius of ETC, LongT5.
        "both_sides" : W // 2 on either side: Longformer's paper, transformers' attention_window.
        "each_side_exclusive" : W - 1 on either side: transformers' bidirectional Gemma 3.
        "both_sides_exact" : W keys in all, on both sides: transformers' T5Gemma 2.

    Returns
    -------
    Sides

    Raises
    ------
    TypeError, ValueError
        The size is no integer of at least 1, or the meaning has no such name.

    Notes
    -----
    Clauses: WINDOW-SIDES, WINDOW-REFUSE. Source: the sources named.

    Examples
    --------
    >>> window_sides(4096, "tokens")
    Sides(left=4095, right=0)
    """
    return _SIDES[backend.choice("meaning", meaning, tuple(_SIDES))](backend.integer("size", size, least=1))
