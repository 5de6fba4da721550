"""How many bytes a cache needs, by formula."""

from __future__ import annotations

from refattn import arguments, backend


def cache_nbytes(
    tokens, *, layers=1, kv_heads=1, head_dim=None, value_dim=None, itemsize=2, window=None, first=None, recent=None,
    page_size=None, bits=None, group=None, residual=None, latent_dim=None, rope_dim=None,
):  # fmt: skip
    r"""Bytes that the cache of one sequence needs after a number of tokens.

    =============================  ==========================================================
    cache                          bytes
    =============================  ==========================================================
    all tokens                     L N G (D + Dv) e
    window W (`window`)            L min(N, W) G (D + Dv) e
    sinks (`first`, `recent`)      L min(N, s + r) G (D + Dv) e
    pages of S (`page_size`)       L ⌈N/S⌉ S G (D + Dv) e
    MLA (`latent_dim`)             L N (R + Dr) e
    codes of b bits                L G (Nk (bD/8 + 2De/g) + (N - Nk) D e + Nv (bDv/8 + 2Dv e/g) + (N - Nv) Dv e)
    =============================  ==========================================================

    with Nk = N - N mod R quantised keys and Nv = max(N - R, 0) quantised values.

    Parameters
    ----------
    tokens : int
        N.
    layers, kv_heads, head_dim, value_dim : int
        L, G, D and Dv (default D). G = 1 is multi-query attention, G = H multi-head attention.
    itemsize : int, default 2
        e: bytes of a number in full precision.
    window, first, recent, page_size, bits, group, residual, latent_dim, rope_dim : int, optional
        Of the cache, as in the table; `residual` is R, `latent_dim` the width of the latent.

    Returns
    -------
    out : int

    Raises
    ------
    TypeError, ValueError
        They are no integers or out of range; options of two kinds of cache are given, or one that the kind has not.

    Notes
    -----
    Clauses: CACHE-BYTES. Source: Shazeer 2019 (multi-query attention); DeepSeek-AI 2024 (DeepSeek-V2), table 1; the
    papers of the caches.

    Examples
    --------
    >>> cache_nbytes(4096, layers=32, kv_heads=8, head_dim=128)  # Llama 3 8B in bfloat16: 512 MiB
    536870912
    >>> cache_nbytes(4096, layers=61, latent_dim=512, rope_dim=64)
    287834112
    """
    n = backend.integer("tokens", tokens, least=0)
    layers, kv_heads = backend.integer("layers", layers, least=1), backend.integer("kv_heads", kv_heads, least=1)
    itemsize = backend.integer("itemsize", itemsize, least=1)
    _one_kind(window=window, recent=recent, page_size=page_size, bits=bits, latent_dim=latent_dim)
    if latent_dim is None:
        arguments.unused("latent_dim", rope_dim=rope_dim)
    else:
        arguments.unused("keys and values, not with latent_dim", head_dim=head_dim, value_dim=value_dim)
    if recent is None:
        arguments.unused("recent", first=first)
    if bits is None:
        arguments.unused("bits", group=group, residual=residual)

    if latent_dim is not None:
        width = backend.integer("latent_dim", latent_dim, least=1)
        width += 0 if rope_dim is None else backend.integer("rope_dim", rope_dim, least=0)
        return layers * n * width * itemsize
    if head_dim is None:
        raise ValueError("head_dim must be given (or latent_dim, for multi-head latent attention)")
    d = backend.integer("head_dim", head_dim, least=0)
    dv = d if value_dim is None else backend.integer("value_dim", value_dim, least=0)
    if bits is not None:
        if group is None:
            raise ValueError("group must be given with bits: the entries that share a scale and a zero")
        bits, group = backend.one_of_integers("bits", bits, (4, 8)), backend.integer("group", group, least=1)
        residual = 0 if residual is None else backend.integer("residual", residual, least=0)
        if residual % group or dv % group:
            raise ValueError(
                f"group is {group}; it must divide residual, which is {residual}, and value_dim (default head_dim), which is {dv}"
            )
        keys, values = n - n % max(residual, 1), max(n - residual, 0)
        key_bytes = keys * -(-d * bits // 8) + keys // group * 2 * d * itemsize + (n - keys) * d * itemsize
        value_bytes = values * (-(-dv * bits // 8) + dv // group * 2 * itemsize) + (n - values) * dv * itemsize
        return layers * kv_heads * (key_bytes + value_bytes)
    if window is not None:
        n = min(n, backend.integer("window", window, least=1))
    elif recent is not None:
        kept = 0 if first is None else backend.integer("first", first, least=0)
        n = min(n, kept + backend.integer("recent", recent, least=1))
    elif page_size is not None:
        page_size = backend.integer("page_size", page_size, least=1)
        n = -(-n // page_size) * page_size
    return layers * n * kv_heads * (d + dv) * itemsize


def _one_kind(**kinds):
    """A cache is of one kind: at most one of the options that say which is given."""
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; they are of different caches, so that one goes alone")
