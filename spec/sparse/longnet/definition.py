"""LongNet's dilated attention: in how many branches a query and a key meet."""

from ...exact import concat
from ...tiled.definition import dense_mask as dense_mask
from ..keys import counts_by, functions


def meetings(i, j, segments, dilations, offsets, causal):
    def takes_part(x, w, r, a):
        return x % w % r == a

    return sum(
        i // w == j // w and takes_part(i, w, r, a) and takes_part(j, w, r, a) and (j <= i or not causal)
        for w, r, a in zip(segments, dilations, offsets, strict=True)
    )


def of_heads(q, k, segments, dilations, offsets, causal=False, **positions):
    """A table for each head, as offsets are of heads."""
    heads = q.shape[-3] if len(q.shape) > 2 else 1

    def offset(head, b, r):
        if offsets == "paper":
            return head % r
        if offsets == "code":
            return [a for a in range(r) for _ in range(-(-heads // r))][head]
        return offsets[b] if isinstance(offsets[b], int) else list(offsets[b])[head]

    own = {"segments": segments, "dilations": dilations, "causal": causal}
    tables = [
        counts_by(meetings)(q, k, **own, offsets=[offset(h, b, r) for b, r in enumerate(dilations)], **positions)
        for h in range(heads)
    ]
    if len(q.shape) < 3:
        return tables[0]
    return concat(*(t.reshaped(*t.shape[:-2], 1, *t.shape[-2:]) for t in tables), axis=-3)


FUNCTIONS, SECOND = functions("longnet_attention", of_heads)
