"""Routing attention: the mean over clusters, each a small attention."""

from ...exact import Tensor, lift, mpf
from ...gradients.definition import differentiated, size_of_query, with_scale
from ...tiled.definition import dense_mask as dense_mask
from ..keys import attention_by, closed_vjp, listed, weighed


def together(n, members, c):
    """Which pairs of n tokens are in cluster c."""

    def table(lists):
        own = set(lists[c])
        return Tensor((n, n), [int(i in own and j in own) for i in range(n) for j in range(n)])

    return lift(table, (2,), members)


def share_of_each(n, members):
    """One over the number of clusters of each token, (..., N, 1)."""

    def shares(lists):
        return [[mpf(1) / max(1, sum(i in list(row) for row in lists))] for i in range(n)]

    return lift(shares, (2,), members)


def routing_by(one_query):
    def routing_attention(q, k, v, members, **options):
        n = q.shape[-2]
        found = [
            attention_by(one_query, lambda *_, c=c, **__: together(n, members, c))(q, k, v, **options)["out"]
            for c in range(members.shape[-2])
        ]
        return {"out": sum(found[1:], found[0]) * share_of_each(n, members)}

    return routing_attention


routing_attention, routing_by_lists = routing_by(weighed), routing_by(listed)


def routing_vjp(d_out, q, k, v, members, **options):
    """The formulas of attention in each cluster, summed."""
    n, sums = q.shape[-2], {}
    d_out = d_out * share_of_each(n, members)
    for c in range(members.shape[-2]):
        found = closed_vjp(lambda *_, c=c, **__: together(n, members, c))(d_out, q, k, v, **options)
        sums = {name: x + sums[name] if name in sums else x for name, x in found.items()}
    return sums


def routing_members(x, centroids, width):
    """Sorted by product, the largest first, then by place."""

    def members(x, centroids):
        products = centroids @ x.T
        order = lambda row: sorted(range(len(x)), key=lambda i: (-row[i], i))
        return [sorted(order(list(row))[:width]) for row in products]

    return as_places(lift(members, (2, 2), x, centroids))


def members_by_rank(x, centroids, width):
    """Those that fewer than `width` others come before."""

    def members(x, centroids):
        found = []
        for row in centroids @ x.T:
            before = lambda i, row=row: sum(row[j] > row[i] or (row[j] == row[i] and j < i) for j in range(len(row)))
            found.append([i for i in range(len(row)) if before(i) < width])
        return found

    return as_places(lift(members, (2, 2), x, centroids))


def as_places(found):
    return {"members": Tensor(found.shape, [int(i) for i in found.data], "int64")}


INPUTS = ("q", "k", "v", "bias", "sinks", "scale")
FUNCTIONS = {
    "sparse.routing_attention": routing_attention,
    "sparse.routing_attention_vjp": with_scale(differentiated(routing_attention, INPUTS), size_of_query),
    "sparse.routing_members": routing_members,
}
SECOND = {
    "sparse.routing_attention": routing_by_lists,
    "sparse.routing_attention_vjp": routing_vjp,
    "sparse.routing_members": members_by_rank,
}
