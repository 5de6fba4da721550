"""Longformer: the attention of each query, near or global."""

from ...exact import Tensor, lift, mpf, tensor
from ...gradients.definition import OF_ATTENTION, differentiated, size_of_query, with_lse, with_scale
from ...masks.definition import window
from ...tiled.definition import dense_mask as dense_mask
from ..keys import attention_by, closed_vjp, listed, positions, weighed

OWN = ("global_q", "global_k", "global_v")


def tokens_of(global_tokens):
    return global_tokens if isinstance(global_tokens, Tensor) else tensor(global_tokens, "int64")


def is_global(position, tokens):
    return position >= 0 and position in list(tokens)


def near(q, k, left, right, global_tokens, q_positions=None, k_positions=None):
    """Once for each key of the window and each global one."""

    def cells(tokens, i, j):
        seen = [window(x, y, left, right) or is_global(y, tokens) for x in i for y in j]
        return Tensor((len(i), len(j)), [int(x) for x in seen])

    return lift(
        cells, (1, 1, 1), tokens_of(global_tokens), *positions(q.shape[-2], k.shape[-2], q_positions, k_positions)
    )


def everything(q, k, **given):
    """Once for each key."""
    n, m = q.shape[-2], k.shape[-2]
    return Tensor((n, m), [1] * (n * m))


def by_query(core, q, k, global_tokens, q_positions, of_near, of_global):
    """For each query, global or not, one of two results (..., N) with `core` - 1 more axes."""

    def rows(tokens, i, a, b):
        chosen = [y if is_global(x, tokens) else z for x, y, z in zip(i, b, a, strict=True)]
        return Tensor(a.shape, [x for row in chosen for x in row] if core > 1 else chosen)

    i, _ = positions(q.shape[-2], k.shape[-2], q_positions)
    return lift(rows, (1, 1, core, core), tokens_of(global_tokens), i, of_near, of_global)


def longformer(one_query):
    """Both kinds of queries by themselves; of either those are taken that are of that kind."""
    of_near, of_global = attention_by(one_query, near), attention_by(one_query, everything)

    def attention(q, k, v, left, right, global_tokens, global_q=None, global_k=None, global_v=None, q_positions=None,
                  **options):  # fmt: skip
        own = [like if x is None else x for x, like in ((global_q, q), (global_k, k), (global_v, v))]
        a = of_near(q, k, v, left=left, right=right, global_tokens=global_tokens, q_positions=q_positions, **options)
        b = of_global(*own, q_positions=q_positions, **options)
        core = {"out": 2, "lse": 1}
        return {name: by_query(core[name], q, k, global_tokens, q_positions, a[name], b[name]) for name in a}

    return attention


def longformer_vjp(d_out, q, k, v, left, right, global_tokens, global_q=None, global_k=None, global_v=None, d_lse=None,
                   q_positions=None, **options):  # fmt: skip
    """The formulas of attention for either kind of queries, where the other kind has no cotangents."""
    own = {"q": global_q, "k": global_k, "v": global_v}
    zeros = lambda x: None if x is None else x.map(lambda _: mpf(0))
    kinds = {True: [], False: []}
    for name, x, core in (("d_out", d_out, 2), ("d_lse", d_lse, 1)):
        for of_global in kinds:
            pair = (zeros(x), x) if of_global else (x, zeros(x))
            found = None if x is None else by_query(core, q, k, global_tokens, q_positions, *pair)
            kinds[of_global].append((name, found))
    local = {"q": q, "k": k, "v": v}
    far = {name: local[name] if x is None else x for name, x in own.items()}
    options["q_positions"] = q_positions
    a = closed_vjp(near)(**local, left=left, right=right, global_tokens=global_tokens, **dict(kinds[False]), **options)
    b = closed_vjp(everything)(**far, **dict(kinds[True]), **options)
    found = {name: a[name] + b[name] for name in a if name not in own or own[name] is None}
    for name, x in own.items():
        if x is not None:
            found |= {name: a[name], f"global_{name}": b[name]}
    return found


def gradients(function):
    """By differences, for all inputs."""
    vjp = differentiated(with_lse(function), OF_ATTENTION + OWN, {"d_out": "out", "d_lse": "lse"})
    return with_scale(vjp, size_of_query)


NAME = "sparse.longformer_attention"
FUNCTIONS = {NAME: longformer(weighed), f"{NAME}_vjp": gradients(longformer(weighed))}
SECOND = {NAME: longformer(listed), f"{NAME}_vjp": longformer_vjp}
