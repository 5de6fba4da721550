"""Heads: split and merged, grouped-query, multi-query and multi-head attention, self and cross."""

from typing import Any, NamedTuple

from refattn import arguments, backend
from refattn.attention import attention, check_shapes, checked_dropout
from refattn.feedforward import linear
from refattn.masks import visible
from refattn.norms import rms_norm
from refattn.positions import rope as rotate_positions


class MultiHeadParams(NamedTuple):
    """The weights of multi-head attention; they multiply from the right, x @ w + b.

    Attributes
    ----------
    w_q : array (E, H·D)
    w_k : array (E_kv, G·D)
        E_kv is the width of x_kv; for self-attention it is E.
    w_v : array (E_kv, G·Dv)
    w_o : array (H·Dv, E_out)
    b_q, b_k, b_v, b_o : array (H·D,), (G·D,), (G·Dv,), (E_out,), optional
    q_norm, k_norm : array (D,) or (H·D,), (D,) or (G·D,), optional
        Gains of RMSNorm on the queries and keys of every head (Qwen3, Gemma 3). Of the other shape they
        normalise the whole width before it is split (OLMo 2), which is not the same.
    """

    w_q: Any
    w_k: Any
    w_v: Any
    w_o: Any
    b_q: Any = None
    b_k: Any = None
    b_v: Any = None
    b_o: Any = None
    q_norm: Any = None
    k_norm: Any = None


class PackedMultiHeadParams(NamedTuple):
    """The same weights with the projections of queries, keys and values in one matrix.

    Attributes
    ----------
    w_qkv : array (E, H·D + G·D + G·Dv)
        All queries' columns, then all keys', then all values'. torch's `in_proj_weight` is its transpose.
    w_o : array (H·Dv, E_out)
    b_qkv, b_o : array (H·D + G·D + G·Dv,), (E_out,), optional
    q_norm, k_norm
        As for `MultiHeadParams`.
    """

    w_qkv: Any
    w_o: Any
    b_qkv: Any = None
    b_o: Any = None
    q_norm: Any = None
    k_norm: Any = None

    def unpack(self, heads, kv_heads=None):
        """The weights one by one, as views: D and Dv follow from the shapes of w_qkv and w_o.

        Parameters
        ----------
        heads : int
            H.
        kv_heads : int, optional
            G; default H.

        Returns
        -------
        MultiHeadParams

        Raises
        ------
        ValueError
            The columns are no H·D + G·D + G·Dv with H·Dv rows of w_o.

        Notes
        -----
        Clauses: MHA-PACKED. Source: the layout of torch.nn.MultiheadAttention.

        Examples
        --------
        >>> import numpy as np
        >>> PackedMultiHeadParams(np.zeros((4, 12)), np.zeros((8, 4))).unpack(heads=4, kv_heads=1).w_q.shape
        (4, 8)
        """
        heads, kv_heads = _head_counts(heads, kv_heads)
        backend.floating(**self._asdict(), optional="b_qkv b_o q_norm k_norm")
        _matrix("w_qkv", self.w_qkv, "(E, H·D + G·D + G·Dv)")
        _matrix("w_o", self.w_o, "(H·Dv, E_out)")
        values = _columns("w_o", self.w_o.shape[0], heads, "rows", "H·Dv") * kv_heads
        columns = self.w_qkv.shape[1]
        width = (columns - values) // (heads + kv_heads)  # D
        if width < 1 or width * (heads + kv_heads) + values != columns:
            raise ValueError(
                f"w_qkv has {columns} columns; with H={heads}, G={kv_heads} and Dv={values // kv_heads}"
                " (from the rows of w_o) they must be H·D + G·D + G·Dv, for these heads and kv_heads"
            )
        ends = heads * width, (heads + kv_heads) * width
        _vector("b_qkv", self.b_qkv, columns, "the columns of w_qkv")
        b_q, b_k, b_v = (None,) * 3 if self.b_qkv is None else _cut(self.b_qkv, *ends)
        w_q, w_k, w_v = _cut(self.w_qkv, *ends)
        return MultiHeadParams(w_q, w_k, w_v, self.w_o, b_q, b_k, b_v, self.b_o, self.q_norm, self.k_norm)


class Rope(NamedTuple):
    """Rotary positions for `multi_head_attention`: `refattn.rope` with its options chosen.

    Attributes
    ----------
    base, layout, rotary_dim, scaling
        As for `refattn.rope`.

    Examples
    --------
    >>> import numpy as np
    >>> Rope(layout="half")(np.ones((1, 2)), np.array([0]))
    array([[1., 1.]])
    """

    base: float = 10000.0
    layout: str = "interleaved"
    rotary_dim: Any = None
    scaling: Any = None

    def __call__(self, x, positions):
        """`x` (..., N, D) rotated by its positions (..., N)."""
        return rotate_positions(x, positions, **self._asdict())


def split_heads(x, heads):
    """The width of every token as heads: head h holds features h·D to (h + 1)·D - 1.

    Parameters
    ----------
    x : array (..., N, H·D)
    heads : int
        H.

    Returns
    -------
    out : array (..., H, N, D)
        May share memory with `x`.

    Raises
    ------
    TypeError, ValueError
        `x` is not floating-point, or its width is no multiple of H.

    Notes
    -----
    Clauses: HEADS-SPLIT, HEADS-RATIO. Source: Vaswani et al. 2017, section 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> split_heads(np.array([[0.0, 1.0, 2.0, 3.0]]), heads=2)
    array([[[0., 1.]],
    <BLANKLINE>
           [[2., 3.]]])
    """
    xp, x = backend.floating(x=x)
    heads = backend.integer("heads", heads, least=1)
    backend.rank("x", x, 2, "(..., N, H·D)")
    width = _columns("x", x.shape[-1], heads, "features", "H·D")
    return xp.moveaxis(xp.reshape(x, (*x.shape[:-1], heads, width)), -2, -3)


def merge_heads(x):
    """The heads of every token side by side: the inverse of `split_heads`.

    Parameters
    ----------
    x : array (..., H, N, D)

    Returns
    -------
    out : array (..., N, H·D)

    Raises
    ------
    TypeError, ValueError
        `x` is not floating-point, or has fewer than three axes.

    Notes
    -----
    Clauses: HEADS-MERGE. Source: Vaswani et al. 2017, section 3.2.2: Concat(head_1, ..., head_h).

    Examples
    --------
    >>> import numpy as np
    >>> merge_heads(np.array([[[0.0, 1.0]], [[2.0, 3.0]]]))
    array([[0., 1., 2., 3.]])
    """
    xp, x = backend.floating(x=x)
    backend.rank("x", x, 3, "(..., H, N, D)")
    heads, _, width = x.shape[-3:]
    x = xp.moveaxis(x, -3, -2)
    return xp.reshape(x, (*x.shape[:-2], heads * width))


def grouped_query_attention(
    q,
    k,
    v,
    mask=None,
    *,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    return_lse=False,
):
    r"""Attention in which H query heads share G key/value heads; keys and values are not repeated in memory.

    .. math:: o_h = \mathrm{attention}(q_h, k_g, v_g), \qquad g = \lfloor h / (H / G) \rfloor

    Parameters
    ----------
    q : array (..., H, N, D)
        Queries.
    k : array (..., G, M, D)
        Keys; H is a multiple of G. G = H is multi-head attention, G = 1 multi-query attention.
    v : array (..., G, M, Dv)
        Values.
    mask : bool array that broadcasts to (..., H, N, M), or rule of `refattn.masks`, optional
        A head axis has H entries or 1, never G: of the bias, of dropout and of positions, too.
    bias : array that broadcasts to (..., H, N, M), optional
    dropout : Dropout or (keep, rate), optional
    sinks : array that broadcasts to (..., H), optional
        One learned logit for each query head.
    q_positions, k_positions : int array that broadcasts to (..., H, N), (..., H, M), optional
        For a mask rule. Default: keys 0 to M - 1, queries the last N of M.
    scale, softcap, return_lse
        As for `attention`.

    Returns
    -------
    out : array (..., H, N, Dv)
    lse : array (..., H, N)
        If `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As for `attention`; and where H is no multiple of G, or another argument's head axis is neither H nor 1.

    See Also
    --------
    multi_query_attention : keys and values without a head axis.

    Notes
    -----
    Time O(H N M (D + Dv)), memory O(H N M) beside the inputs: a cache of keys and values is smaller by H / G, the
    arithmetic is that of H heads. Clauses: HEADS-GROUP, HEADS-RATIO, HEADS-OPTIONS.
    Source: Ainslie et al. 2023 (GQA), section 2.2; the order of heads as in torch scaled_dot_product_attention
    (enable_gqa=True), FlashAttention and the errata of the ONNX Attention operator (onnx/onnx#7274).

    Examples
    --------
    >>> import numpy as np
    >>> q, k, v = np.zeros((4, 1, 3)), np.zeros((2, 5, 3)), np.ones((2, 5, 1)) * np.array([1.0, 2.0])[:, None, None]
    >>> grouped_query_attention(q, k, v)[:, 0, 0]
    array([1., 1., 2., 2.])
    """
    return_lse = backend.flag("return_lse", return_lse)
    xp, q, k, v, bias, sinks = backend.floating(q=q, k=k, v=v, bias=bias, sinks=sinks, optional="bias sinks")
    given, _ = grouped_arguments(xp, q, k, v, mask, bias, sinks, dropout, q_positions, k_positions)
    out, lse = attention(**given, scale=scale, softcap=softcap, return_lse=True)
    heads, n = q.shape[-3:-1]
    out = xp.reshape(out, (*out.shape[:-4], heads, *out.shape[-2:]))
    if not return_lse:
        return out
    return out, xp.reshape(lse, (*lse.shape[:-3], heads, n))


def multi_query_attention(q, k, v, mask=None, **options):
    r"""Attention in which all query heads share one key/value head.

    .. math:: o_h = \mathrm{attention}(q_h, k, v)

    Parameters
    ----------
    q : array (..., H, N, D)
        Queries.
    k : array (..., M, D)
        Keys, without a head axis.
    v : array (..., M, Dv)
        Values, without a head axis.
    mask, **options
        As for `grouped_query_attention`.

    Returns
    -------
    out : array (..., H, N, Dv)
    lse : array (..., H, N)
        If `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As for `grouped_query_attention`; and where k or v has as many axes as q.

    Notes
    -----
    The same as `grouped_query_attention` with G = 1. Clauses: HEADS-MQA.
    Source: Shazeer 2019, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> multi_query_attention(np.zeros((4, 1, 3)), np.zeros((5, 3)), np.ones((5, 2))).shape
    (4, 1, 2)
    """
    q, k, v = one_key_head(q, k, v)
    return grouped_query_attention(q, k[..., None, :, :], v[..., None, :, :], mask, **options)


def one_key_head(q, k, v):
    """The arguments of multi-query attention, checked: keys and values have no head axis."""
    _, q, k, v = backend.floating(q=q, k=k, v=v)
    backend.rank("q", q, 3, "(..., H, N, D)")
    for name, x, shape in (("k", k, "(..., M, D)"), ("v", v, "(..., M, Dv)")):
        backend.rank(name, x, 2, shape)
        if x.ndim >= q.ndim:  # its head axis would broadcast against a batch axis, silently [HEADS-MQA]
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, q has {tuple(q.shape)}: {name} must be {shape},"
                " without a head axis, so it has fewer axes than q (grouped_query_attention takes G key/value heads)"
            )
    return q, k, v


def multi_head_attention(
    x_q,
    x_kv,
    params,
    *,
    heads,
    kv_heads=None,
    mask=None,
    rope=None,
    bias=None,
    scale=None,
    softcap=None,
    sinks=None,
    dropout=None,
    q_positions=None,
    k_positions=None,
    qk_norm_eps=None,
):
    r"""Multi-head attention with its projections: self-attention, cross-attention, grouped-query or multi-query.

    .. math:: \mathrm{out} = [o_0 \, \| \cdots \| \, o_{H-1}] \, W_o + b_o, \qquad
        o_h = \mathrm{attention}(q_h, k_g, v_g), \qquad g = \lfloor h / (H / G) \rfloor

    .. math:: q = x_q W_q + b_q, \qquad k = x_{kv} W_k + b_k, \qquad v = x_{kv} W_v + b_v

    Queries and keys are then normalised, where gains are given, and after that rotated, where `rope` is given.

    Parameters
    ----------
    x_q : array (..., N, E)
        The sequence that asks.
    x_kv : array (..., M, E_kv) or None
        The sequence that is asked. None: `x_q` itself, self-attention.
    params : MultiHeadParams or PackedMultiHeadParams
    heads : int
        H.
    kv_heads : int, optional
        G, of which H is a multiple; default H.
    mask : bool array that broadcasts to (..., H, N, M), or rule of `refattn.masks`, optional
        Arrays broadcast from the right, so that one for each sequence of a batch
        has shape (B, 1, N, M), not (B, N, M).
    bias : array that broadcasts to (..., H, N, M), optional
    dropout : Dropout or (keep, rate), optional
    rope : callable, optional
        `rope(x, positions)` rotates x (..., H, N, D) at positions (..., 1, N): a `refattn.heads.Rope`, or
        `functools.partial(refattn.rope, layout="half")`, or one of your own. Values are not rotated.
    scale : float, default 1/√D
    softcap : float, optional
    sinks : array that broadcasts to (..., H), optional
        One learned logit for each query head.
    q_positions, k_positions : int array (..., N), (..., M), optional
        Positions of the tokens, without a head axis, for `rope` and for a mask rule. Default: keys 0 to M - 1, queries
        the last N of M.
    qk_norm_eps : float, default 1e-6
        The eps of RMSNorm on queries and keys; goes with gains for them.

    Returns
    -------
    out : array (..., N, E_out)

    Raises
    ------
    TypeError, ValueError
        As for `grouped_query_attention`; and where weights do not fit the inputs or one another.

    Notes
    -----
    Time O(N E H D + M E_kv G (D + Dv) + H N M (D + Dv)). A query that may attend to nothing yields b_o.
    Gains stored as offsets from 1 (Gemma) are passed as 1 + w.
    Clauses: MHA-PROJECT, MHA-PACKED, MHA-CROSS, MHA-QKNORM, MHA-ROPE, MHA-OPTIONS, MHA-REFUSE.
    Source: Vaswani et al. 2017, section 3.2.2; RMSNorm on queries and keys: Qwen3 (Yang et al. 2025), section 2, and
    over the whole width OLMo 2 (2025).

    Examples
    --------
    >>> import numpy as np
    >>> eye = np.eye(2)
    >>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
    >>> multi_head_attention(x, None, MultiHeadParams(0 * eye, eye, eye, eye), heads=2)
    array([[2., 3.],
           [2., 3.]])
    """
    xp, heads, kv_heads, x_q, x_kv, params, bias, sinks, q_positions, k_positions = multi_head_arguments(
        x_q, x_kv, params, heads, kv_heads, bias, sinks, q_positions, k_positions
    )
    qk_norm_eps = checked_norm_eps(qk_norm_eps, params)
    arguments.function("rope", rope, "x", "positions")
    n, m = x_q.shape[-2], x_kv.shape[-2]

    q = linear(xp, x_q, params.w_q, params.b_q)  # (..., N, H·D)
    k = linear(xp, x_kv, params.w_k, params.b_k)  # (..., M, G·D)
    v = split_heads(linear(xp, x_kv, params.w_v, params.b_v), kv_heads)  # (..., G, M, Dv)
    q = normalised_heads(q, heads, params.q_norm, qk_norm_eps)  # (..., H, N, D)
    k = normalised_heads(k, kv_heads, params.k_norm, qk_norm_eps)  # (..., G, M, D)
    if rope is not None:  # after the norm, whose gains would not commute with it [MHA-ROPE]
        q = rope(q, backend.arange(xp, m - n, m, x_q) if q_positions is None else q_positions)
        k = rope(k, backend.arange(xp, 0, m, x_q) if k_positions is None else k_positions)
    out = grouped_query_attention(
        q,
        k,
        v,
        mask,
        bias=bias,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
        dropout=dropout,
        q_positions=q_positions,
        k_positions=k_positions,
    )
    return linear(xp, merge_heads(out), params.w_o, params.b_o)


# --- projections ----------------------------------------------------------------------------------------------------


def multi_head_arguments(x_q, x_kv, params, heads, kv_heads, bias, sinks, q_positions, k_positions):
    """The arguments of `multi_head_attention` checked and in one dtype, after their array library."""
    heads, kv_heads = _head_counts(heads, kv_heads)
    if isinstance(arguments.params(params, MultiHeadParams, PackedMultiHeadParams), PackedMultiHeadParams):
        params = params.unpack(heads, kv_heads)
    x_kv = x_q if x_kv is None else x_kv
    xp, x_q, x_kv, bias, sinks, *arrays = backend.floating(
        x_q=x_q, x_kv=x_kv, bias=bias, sinks=sinks, **params._asdict(), optional=f"bias sinks {OPTIONAL_WEIGHTS}"
    )
    params = MultiHeadParams(*arrays)
    _check_params(x_q, x_kv, params, heads, kv_heads)
    # One sequence has one set of positions, whatever the head. [MHA-OPTIONS]
    q_positions = _positions(xp, "q_positions", q_positions, x_q.shape[-2], "N", x_q)
    k_positions = _positions(xp, "k_positions", k_positions, x_kv.shape[-2], "M", x_q)
    return xp, heads, kv_heads, x_q, x_kv, params, bias, sinks, q_positions, k_positions


def checked_norm_eps(eps, params):
    """The eps of the norms of queries and keys, which must be there if it is given."""
    if eps is None:
        return 1e-6
    if params.q_norm is None and params.k_norm is None:
        arguments.unused("q_norm or k_norm in params", qk_norm_eps=eps)
    return backend.number("qk_norm_eps", eps, least=0)


def normalised_heads(x, heads, gain, eps):
    """Heads with RMSNorm over each of them, or over the whole width before it is split, as the gain's shape says."""
    if gain is None:
        return split_heads(x, heads)
    if gain.shape[0] == x.shape[-1]:
        return split_heads(rms_norm(x, gain, eps=eps), heads)
    return rms_norm(split_heads(x, heads), gain, eps=eps)


def _positions(xp, name, positions, count, letter, like):
    """Positions (..., N) with a head axis, (..., 1, N)."""
    if positions is None:
        return None
    positions = backend.integers(xp, like, **{name: positions})
    if positions.ndim == 0 or positions.shape[-1] != count:
        raise ValueError(f"{name} has shape {tuple(positions.shape)}; it must be (..., {letter}={count})")
    return positions[..., None, :]


def _check_params(x_q, x_kv, params, heads, kv_heads):
    backend.rank("x_q", x_q, 2, "(..., N, E)")
    backend.rank("x_kv", x_kv, 2, "(..., M, E_kv)")
    shapes = {"w_q": "(E, H·D)", "w_k": "(E_kv, G·D)", "w_v": "(E_kv, G·Dv)", "w_o": "(H·Dv, E_out)"}
    for name, shape in shapes.items():
        _matrix(name, getattr(params, name), shape)
    for name, x, of, letter in (("w_q", x_q, "x_q", "E"), ("w_k", x_kv, "x_kv", "E_kv"), ("w_v", x_kv, "x_kv", "E_kv")):
        rows = getattr(params, name).shape[0]
        if rows != x.shape[-1]:
            raise ValueError(f"{name} has {rows} rows, {of} has {x.shape[-1]} features: both are {letter}")
    width = _columns("w_q", params.w_q.shape[1], heads, "columns", "H·D")
    k_width = _columns("w_k", params.w_k.shape[1], kv_heads, "columns", "G·D")
    if k_width != width:
        raise ValueError(
            f"w_k has {params.w_k.shape[1]} columns for G={kv_heads}, w_q has {params.w_q.shape[1]} for H={heads}:"
            f" their head sizes {k_width} and {width} are both D, with heads = {heads} and kv_heads = {kv_heads}"
        )
    v_width = _columns("w_v", params.w_v.shape[1], kv_heads, "columns", "G·Dv")
    if params.w_o.shape[0] != heads * v_width:
        raise ValueError(
            f"w_o has {params.w_o.shape[0]} rows; it must have H·Dv = {heads}·{v_width} = {heads * v_width}"
        )
    for of in ("q", "k", "v", "o"):
        _vector(f"b_{of}", getattr(params, f"b_{of}"), getattr(params, f"w_{of}").shape[1], f"the columns of w_{of}")
    for name, gain, total, letter in (
        ("q_norm", params.q_norm, heads * width, "H"),
        ("k_norm", params.k_norm, kv_heads * width, "G"),
    ):
        if gain is not None and tuple(gain.shape) not in ((width,), (total,)):
            raise ValueError(
                f"{name} has shape {tuple(gain.shape)}; it must be (D,) = ({width},) or ({letter}·D,) = ({total},)"
            )


OPTIONAL_WEIGHTS = "b_q b_k b_v b_o q_norm k_norm"


def _matrix(name, w, shape):
    if w.ndim != 2:
        raise ValueError(f"{name} has shape {tuple(w.shape)}; it must be {shape}")


def _vector(name, b, size, meaning):
    if b is not None and tuple(b.shape) != (size,):
        raise ValueError(f"{name} has shape {tuple(b.shape)}; it must be ({size},), {meaning}")


def _columns(name, size, heads, what, letters):
    """The size of one of `heads` equal parts."""
    if size % heads:
        raise ValueError(f"{name} has {size} {what}; they are {letters}, a multiple of {heads} heads")
    return size // heads


def _cut(x, first, second):
    return x[..., :first], x[..., first:second], x[..., second:]


# --- groups ---------------------------------------------------------------------------------------------------------


def grouped_arguments(xp, q, k, v, mask, bias, sinks, dropout, q_positions, k_positions):
    """The arguments of `attention` with the head axis as (G, H/G), and the function that regroups an axis so."""
    keep, rate = checked_dropout(dropout)
    heads, kv_heads = _grouping(q, k, v)
    n, m = q.shape[-2], k.shape[-2]
    mask = visible(mask, n, m, q_positions=q_positions, k_positions=k_positions, like=q)
    backend.boolean(xp, **{"dropout keep": keep})
    for name, x, place in (("bias", bias, -3), ("mask", mask, -3), ("dropout keep", keep, -3), ("sinks", sinks, -1)):
        _head_axis(name, x, place, heads)
    # With one key/value head only: shapes are checked as the caller knows them, before they are regrouped.
    lead = check_shapes(q, k[..., :1, :, :], v[..., :1, :, :], bias, sinks)[2]
    if mask is not None:
        backend.broadcast("leading axes", mask=mask.shape[:-2], q_k_v=lead)
    if keep is not None:
        backend.fits_scores("dropout keep", keep, n, m)
        backend.broadcast("leading axes", weights=lead, keep=keep.shape[:-2])

    def grouped(x, place):
        return None if x is None else _regrouped(xp, x, place, kv_heads)

    given = {
        "q": grouped(q, -3),  # (..., G, H/G, N, D)
        "k": k[..., None, :, :],  # (..., G, 1, M, D): every query head of the group reads the same key/value head
        "v": v[..., None, :, :],
        "mask": grouped(mask, -3),
        "bias": grouped(bias, -3),
        "sinks": grouped(sinks, -1),
        "dropout": None if keep is None else (grouped(keep, -3), rate),
    }
    return given, grouped


def _head_counts(heads, kv_heads):
    heads = backend.integer("heads", heads, least=1)
    kv_heads = heads if kv_heads is None else backend.integer("kv_heads", kv_heads, least=1)
    if heads % kv_heads:
        raise ValueError(f"heads is {heads}, kv_heads is {kv_heads}: H must be a multiple of G")
    return heads, kv_heads


def _grouping(q, k, v):
    """H and G from the shapes."""
    for name, x, shape in (("q", q, "(..., H, N, D)"), ("k", k, "(..., G, M, D)"), ("v", v, "(..., G, M, Dv)")):
        backend.rank(name, x, 3, shape)
    backend.broadcast("axes before the heads", q=q.shape[:-3], k=k.shape[:-3], v=v.shape[:-3])
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if v.shape[-3] != kv_heads:
        raise ValueError(
            f"v has {v.shape[-3]} heads, k has {kv_heads}: both are G in (..., G, M, D) and (..., G, M, Dv)"
        )
    if heads == 0 or kv_heads == 0 or heads % kv_heads:
        raise ValueError(
            f"q has {heads} heads, k has {kv_heads}: H in (..., H, N, D) must be a multiple of G in (..., G, M, D)"
        )
    return heads, kv_heads


def _head_axis(name, x, place, heads):
    """Check that an argument's head axis, if it has one, holds one entry for each query head, or one for all."""
    if x is not None and x.ndim >= -place and x.shape[place] not in (1, heads):
        shape = "(..., H)" if place == -1 else "(..., H, N, M)"
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; it must broadcast to {shape},"
            f" where H={heads} is the number of query heads"
        )


def _regrouped(xp, x, place, kv_heads):
    """The head axis H of an array as two axes, (G, H/G); 1 becomes (1, 1), and an array without heads stays."""
    if x.ndim < -place:
        return x
    split = (1, 1) if x.shape[place] == 1 else (kv_heads, x.shape[place] // kv_heads)
    place += x.ndim
    return xp.reshape(x, (*x.shape[:place], *split, *x.shape[place + 1 :]))
