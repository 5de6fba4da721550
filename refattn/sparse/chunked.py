"""Chunked attention: the keys of a query's own chunk, so far."""

from __future__ import annotations

from refattn import masks
from refattn.sparse.rules import by_rule
from refattn.tiled import tiled_attention, tiled_attention_vjp


def chunked_attention(q, k, v, size, mask=None, **options):
    r"""Attention of every query to the keys of its own chunk of `size` positions, up to its own position.

    .. math:: o_i = \sum_{j \in S_i} \frac{e^{s_{ij}}}{\sum_{l \in S_i} e^{s_{il}}} v_j, \qquad
        S_i = \{ j : \lfloor u_j / C \rfloor = \lfloor t_i / C \rfloor, u_j \le t_i \}

    Parameters
    ----------
    q : array (..., H, N, D) or (N, D)
        Queries.
    k : array (..., G, M, D) or (M, D)
        Keys, H a multiple of G.
    v : array (..., G, M, Dv) or (M, Dv)
        Values.
    size : int
        Positions a chunk; chunks begin at position 0.
    mask : rule of `refattn.masks`, optional
        What restricts it further.
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
        As for `tiled_attention`; and where the mask is no rule, or the size is below 1.

    See Also
    --------
    refattn.masks.chunked : the rule that it applies. A set: no key counts twice.

    Notes
    -----
    Time O(N C (D + Dv)), memory O(C) beside the results.
    Clauses: CHUNK-KEYS, CHUNK-POSITIONS, CHUNK-OPTIONS, CHUNK-COST, CHUNK-REFUSE.
    Source: Meta 2025 (Llama 4), the layers with chunked attention.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((5, 2))
    >>> chunked_attention(x, x, np.arange(5.0)[:, None], 3)[:, 0]
    array([0. , 0.5, 1. , 3. , 3.5])
    """
    rule = masks.chunked(size)
    return tiled_attention(q, k, v, **by_rule(rule, mask, rule.arguments["size"], options))


def chunked_attention_vjp(d_out, q, k, v, size, mask=None, **options):
    """The gradients of chunked attention.

    Parameters
    ----------
    d_out : array (..., H, N, Dv) or (N, Dv)
        Cotangent of the output.
    q, k, v, size, mask
        As for `chunked_attention`.
    **options
        As for `tiled_attention_vjp`.

    Returns
    -------
    AttentionGradients
        (q, k, v, bias, sinks, scale), each of the shape of its input.

    Raises
    ------
    TypeError, ValueError
        As for `chunked_attention` and `tiled_attention_vjp`.

    Notes
    -----
    Time and memory as for `chunked_attention`. Clauses: CHUNK-GRADIENT.
    Source: Dao et al. 2022 (FlashAttention), appendix B.4, over the keys of the chunk.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((3, 2))
    >>> chunked_attention_vjp(np.ones((3, 1)), x, x, np.ones((3, 1)), 2).v[:, 0]  # weights 1; 1/2, 1/2; 1
    array([1.5, 0.5, 1. ])
    """
    rule = masks.chunked(size)
    return tiled_attention_vjp(d_out, q, k, v, **by_rule(rule, mask, rule.arguments["size"], options))
