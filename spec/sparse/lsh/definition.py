"""LSH attention: how often each token meets each other in the chunks of all rounds."""

from ...exact import Tensor, exact, inf, lift, mp, mpf
from ...gradients.closed import FUNCTIONS as CLOSED
from ...gradients.definition import differentiated, with_lse, with_scale
from ...tiled.definition import dense_mask as dense_mask_of_pairs
from ..keys import attention_by, closed_vjp, listed, weighed

EPS = {"rms": mpf("1e-6"), "l2": mpf("1e-24")}


def key(row, kind):
    """A token at a fixed length."""
    row = [exact(x) for x in row]
    squares = mp.fsum(x * x for x in row)
    length = mp.sqrt((squares / len(row) if kind == "rms" else squares) + EPS[kind])
    return [x / length for x in row]


def keys(qk, kind):
    return lift(lambda row: key(row, kind), (1,), qk)


def chunk_of(buckets, chunk):
    """The chunk in which each token stands, of the rounds one after the other, and how many there are."""
    n = buckets.shape[-1]
    of_round = -(-n // chunk)
    place = lambda row, i: sum((row[j], j) < (row[i], i) for j in range(n))
    return [[r * of_round + place(row, i) // chunk for i in range(n)] for r, row in enumerate(buckets)], of_round * len(
        buckets
    )


def meetings(buckets, chunk, before, after):
    """How often token i meets token j."""
    own, ring = chunk_of(buckets, chunk)
    n, steps = buckets.shape[-1], range(-min(before, ring), min(after, ring) + 1)
    return [
        [sum((a[i] + s - b[j]) % ring == 0 for a in own for b in own for s in steps) for j in range(n)]
        for i in range(n)
    ]


def dense_mask(qk, mask, positions=None, **_):
    return dense_mask_of_pairs(qk, qk, mask, positions, positions)


def counts(qk, buckets, mask, bias, positions, chunk, before, after, causal):
    """How often key j counts for query i."""
    n = qk.shape[-2]
    at = Tensor((n,), range(n), "int64") if positions is None else positions
    allowed = dense_mask(qk, mask, positions)

    def of_tokens(buckets, allowed, bias, at):
        met = meetings(buckets, chunk, before, after)
        seen = lambda i, j: (allowed is None or allowed[i][j]) and not (causal and at[j] > at[i])
        there = lambda i, j: seen(i, j) and (bias is None or bias[i][j] != -inf)
        rows = [[met[i][j] if seen(i, j) else 0 for j in range(n)] for i in range(n)]
        for i in range(n):
            if any(met[i][j] and there(i, j) for j in range(n) if j != i):
                rows[i][i] = 0
        return Tensor((n, n), [x for row in rows for x in row])

    whole = None if bias is None else bias.broadcast((*bias.shape[:-2], n, n))
    return lift(of_tokens, (2, 2, 2, 1), buckets, allowed, whole, at)


def lsh_by(one_query):
    """LSH attention as attention over a multiset of keys."""

    def lsh_attention(
        qk, v, buckets, mask=None, *, chunk, before=1, after=0, causal=False, key_norm="rms", bias=None, positions=None,
        **options,
    ):  # fmt: skip
        table = counts(qk, buckets, mask, bias, positions, chunk, before, after, causal)
        return attention_by(one_query, lambda *_, **__: table)(qk, keys(qk, key_norm), v, bias=bias, **options)

    return lsh_attention


lsh_attention, lsh_by_lists = lsh_by(weighed), lsh_by(listed)


def lsh_vjp(
    d_out, qk, v, buckets, mask=None, *, chunk, before=1, after=0, causal=False, key_norm="rms", bias=None,
    positions=None, **options,
):  # fmt: skip
    """The formulas of attention, and of the norm for what the keys get."""
    table = counts(qk, buckets, mask, bias, positions, chunk, before, after, causal)
    of_attention = closed_vjp(lambda *_, **__: table)
    found = of_attention(d_out, qk, keys(qk, key_norm), v, bias=bias, **options)
    d = qk.shape[-1]
    length, eps = (mpf(1), EPS["rms"]) if key_norm == "rms" else (1 / mp.sqrt(d), EPS["l2"] / d)
    of_key = CLOSED["rms_norm_vjp"](d_out=length * found.pop("k"), x=qk, gamma=None, eps=eps)
    return {"qk": found.pop("q") + of_key["x"], **found}


def lsh_buckets(x, rotations):
    """The first of the largest products, those with the negative axes after the others."""

    def of_round(x, rotation):
        turned = x @ rotation
        return [nearest([*row, *(-y for y in row)]) for row in turned]

    nearest = lambda products: products.index(max(products))
    return {"buckets": by_rounds(of_round, x, rotations)}


def buckets_by_angle(x, rotations):
    """The axis, or its opposite, at the least angle: of equal ones the first."""

    def of_round(x, rotation):
        axes = [list(column) for column in rotation.T] + [[-y for y in column] for column in rotation.T]
        distance = lambda row, axis: -mp.fsum(exact(a) * exact(b) for a, b in zip(row, axis, strict=True))
        return [sorted(range(len(axes)), key=lambda n: (distance(row, axes[n]), n))[0] for row in x]

    return {"buckets": by_rounds(of_round, x, rotations)}


def by_rounds(of_round, x, rotations):
    found = lift(lambda x, r: [[int(b) for b in of_round(x, one)] for one in r], (2, 3), x, rotations)
    return Tensor(found.shape, [int(b) for b in found.data], "int64")


def derivatives(function):
    inputs, results = ("qk", "v", "bias", "sinks", "scale"), {"d_out": "out", "d_lse": "lse"}
    return with_scale(differentiated(with_lse(function), inputs, results), lambda given: given["qk"].shape[-1])


FUNCTIONS = {
    "sparse.lsh_attention": lsh_attention,
    "sparse.lsh_attention_vjp": derivatives(lsh_attention),
    "sparse.lsh_buckets": lsh_buckets,
}
SECOND = {
    "sparse.lsh_attention": lsh_by_lists,
    "sparse.lsh_attention_vjp": lsh_vjp,
    "sparse.lsh_buckets": buckets_by_angle,
}
