"""Attention to the best keys: how they are chosen; given keys are attended to as everywhere."""

from ...attention.definition import matrix, over_heads, query
from ...exact import Tensor, inf, lift, mp
from ...tiled.definition import dense_mask as dense_mask
from ...tiled.definition import same_heads
from ..keys import functions


def ordered(r, kept):
    """The first in the order of scores, the largest first and equals by their index."""
    order = sorted((-x, j) for j, x in enumerate(r) if x != -inf)
    return {j for _, j in order[:kept]}


def counted(r, kept):
    """Each key of which fewer than `kept` are ahead."""
    ahead = lambda j: sum(x > r[j] or (x == r[j] and l < j) for l, x in enumerate(r))
    return {j for j in range(len(r)) if r[j] != -inf and ahead(j) < kept}


def chosen(
    best, q, k, v, kept, mask, scores, bias=None, scale=None, softcap=None, q_positions=None, k_positions=None, **_
):
    """Which keys (..., N, M) each query keeps."""
    visible, (k, v) = dense_mask(q, k, mask, q_positions, k_positions), same_heads(q, k, v)
    scale = 1 / mp.sqrt(q.shape[-1]) if scale is None else scale
    s = over_heads(query, q, k, v, visible, bias, None, None, scale, softcap)[3]

    def row(s_i, r_i):
        r = [-inf if s == -inf else s if r_i is None else r_i[0 if len(r_i) == 1 else j] for j, s in enumerate(s_i)]
        own = best(r, kept)
        return [int(j in own) for j in range(len(r))]

    if scores is None:
        return lift(lambda s_i: row(s_i, None), (1,), s)
    return lift(row, (1, 1), s, matrix(scores))


def after_choice(function, best):
    """A function of attention over given keys, with those that are chosen from its arguments."""

    def with_best(q, k, v, kept, mask=None, scores=None, **given):
        table = chosen(best, q, k, v, kept, mask, scores, **given)
        return function(q=q, k=k, v=v, table=Tensor(table.shape, table.data, "int64"), **given)

    return with_best


GIVEN, AGAIN = functions("topk_attention", lambda q, k, table, **_: table)
FUNCTIONS = {name: after_choice(function, ordered) for name, function in GIVEN.items()}
SECOND = {name: after_choice(function, counted) for name, function in AGAIN.items()}
