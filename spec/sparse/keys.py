"""What every sparse mechanism states: how often a query attends to a key. Attention follows from that, in two ways.

0 is never, 1 once; more makes a multiset of the keys. A count m has the effect of a bias of log m.
"""

from ..attention.definition import biased, dense_mask, query
from ..exact import Tensor, concat, lift, mp, mpf, tensor
from ..gradients.closed import FUNCTIONS as CLOSED
from ..gradients.definition import of_attention
from ..tiled.definition import by_queries, named, same_heads


def positions(n, m, q_positions=None, k_positions=None):
    """Where none are given the queries are the last n of m."""
    return (
        Tensor((n,), range(m - n, m), "int64") if q_positions is None else tensor(q_positions, "int64"),
        Tensor((m,), range(m), "int64") if k_positions is None else tensor(k_positions, "int64"),
    )


def counts_by(count):
    """A table (..., N, M) of counts from a function of a pair of positions."""

    def counts(q, k, q_positions=None, k_positions=None, **own):
        n, m = q.shape[-2], k.shape[-2]
        cells = lambda i, j: Tensor((n, m), [int(count(x, y, **own)) for x in i for y in j])
        return lift(cells, (1, 1), *positions(n, m, q_positions, k_positions))

    return counts


def by_head(count, q, k, positions, **own):
    """The table of a function of a pair of positions; of arguments that are lists each head has its own, and a table."""
    lists = {name: list(x) for name, x in own.items() if not isinstance(x, int | str | None)}
    if not lists:
        return counts_by(count)(q, k, **positions, **own)
    heads = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    tables = [counts_by(count)(q, k, **positions, **own | given) for given in heads]
    return concat(*(t.reshaped(*t.shape[:-2], 1, *t.shape[-2:]) for t in tables), axis=-3)


def weighed(q_i, k, v, counts, bias, *options):
    """A key that counts m times has m times the weight."""
    more = [biased(mp.log(c), b) if c else mpf(0) for c, b in zip(counts, bias, strict=True)]
    return query(q_i, k, v, counts, more, *options)[-2:]


def listed(q_i, k, v, counts, bias, sink, keep, *options):
    """Every key as often as it counts, and no other."""
    own = [j for j, c in enumerate(counts) for _ in range(int(c))]
    rows = lambda t: Tensor((len(own), t.shape[-1]), [x for j in own for x in t[j]])
    return query(q_i, rows(k), rows(v), [1] * len(own), [bias[j] for j in own], sink, [keep[j] for j in own], *options)[
        -2:
    ]


def attention_by(one_query, counts):
    """Attention over the keys that `counts` gives from the mechanism's own arguments."""

    def attention(
        q, k, v, mask=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None, q_positions=None,
        k_positions=None, return_lse=False, **given,
    ):  # fmt: skip
        table = masked(counts(q, k, q_positions=q_positions, k_positions=k_positions, **given), q, k, mask,
                       q_positions, k_positions)  # fmt: skip
        k, v = same_heads(q, k, v)
        return named(by_queries(one_query, q, k, v, table, bias, scale, softcap, sinks, dropout), return_lse)

    return attention


def masked(table, q, k, mask, q_positions, k_positions):
    """The counts, 0 where a further mask excludes the pair."""
    allowed = dense_mask(q, k, mask, q_positions, k_positions)
    return table if allowed is None else table * allowed


def closed_vjp(counts):
    """The formulas of attention, over the keys that count, each as often as it does."""

    def vjp(d_out, q, k, v, mask=None, bias=None, q_positions=None, k_positions=None, d_lse=None, scale=None,
            softcap=None, sinks=None, dropout=None, **given):  # fmt: skip
        table = masked(counts(q, k, q_positions=q_positions, k_positions=k_positions, **given), q, k, mask,
                       q_positions, k_positions)  # fmt: skip
        more = table.map(lambda c: mp.log(c) if c else mpf(0))
        grouped = len(q.shape) > 2 and k.shape[-3] not in (1, q.shape[-3])
        function = CLOSED["grouped_query_attention_vjp" if grouped else "attention_vjp"]
        found = function(
            d_out=d_out, q=q, k=k, v=v, mask=Tensor(table.shape, [int(c > 0) for c in table.data], "bool"),
            bias=more if bias is None else bias + more, d_lse=d_lse, scale=scale, softcap=softcap, sinks=sinks,
            dropout=dropout,
        )  # fmt: skip
        if bias is None:
            found.pop("bias", None)
        return found

    return vjp


def functions(name, counts):
    """FUNCTIONS and SECOND of a mechanism whose keys are counted: its attention, and the gradients by differences."""
    first, second = (attention_by(one_query, counts) for one_query in (weighed, listed))
    return (
        {f"sparse.{name}": first, f"sparse.{name}_vjp": of_attention(first)},
        {f"sparse.{name}": second, f"sparse.{name}_vjp": closed_vjp(counts)},
    )
