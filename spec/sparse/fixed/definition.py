"""Fixed attention of the Sparse Transformer: the own block, the summaries of blocks, or the union."""

from ...tiled.definition import dense_mask as dense_mask
from ..keys import by_head, functions


def in_sets(i, j, stride, summary, sub_block, part):
    local = j <= i and i // stride == j // stride
    of_block = stride - 1 - j % stride  # how many positions after it the block has
    at = j <= i and of_block // summary == sub_block
    return {"local": local, "summary": at, "merged": local or at}[part]


def of_heads(q, k, stride, summary=1, sub_block=0, part="merged", **positions):
    return by_head(in_sets, q, k, positions, stride=stride, summary=summary, sub_block=sub_block, part=part)


FUNCTIONS, SECOND = functions("fixed_attention", of_heads)
