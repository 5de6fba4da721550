"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head, spiked
from ...exact import Tensor, nan, tensor
from ...masks.cases import CAUSAL
from ...vectors import call, case, grid
from ..inputs import grouped

LAYOUT = bools("100", "110", "101")
OF_HEADS = Tensor((2, 1, 3, 3), [int(c) for c in "100110101" + "111010011"], "bool")
ONE = one_head("block one", 4, 8)
GROUPED = grouped("block group")

CASES = [
    case(
        "block_attention.basic.0001: BLOCK-KEYS BLOCK-LAST BLOCK-COST; Blocks",
        call("sparse.block_attention", **inputs("block", b=1, h=2, n=8, m=8), layout=LAYOUT, size=3, return_lse=True),
        "block/layout_transposed block/short_block_filled",
        comment="The last block has two keys.",
    ),
    case(
        "block_attention.align.0001: BLOCK-ALIGN; Blocks CausalAlignment",
        call("sparse.block_attention", **ONE, layout=LAYOUT, size=3, return_lse=True),
        "block/top_left",
        comment="Places 4 to 7: two of the second block, two of the third.",
    ),
    case(
        "block_attention.tall.0001: BLOCK-ALIGN; Blocks EmptyRow",
        call(
            "sparse.block_attention", **one_head("block tall", 5, 3), layout=bools("10", "11"), size=2, return_lse=True
        ),
        comment="More queries than keys: the first two stand before the first place.",
    ),
    case(
        "block_attention.empty.0001: BLOCK-KEYS; Blocks EmptyRow",
        call(
            "sparse.block_attention", **one_head("block empty", 4, 4), layout=bools("00", "10"), size=2, return_lse=True
        ),
        comment="A block of queries that has no keys.",
    ),
    case(
        "block_attention.causal.0001: BLOCK-MASK BLOCK-HEADS; Blocks CausalAlignment",
        call(
            "sparse.block_attention", **inputs("block causal", b=2, h=1, n=8, m=8), layout=OF_HEADS, size=3, mask=CAUSAL
        ),
        "block/mask_of_blocks block/layout_of_first",
    ),
    case(
        "block_attention.options.0001: BLOCK-OPTIONS; Blocks AllOptions GroupedHeads",
        call(
            "sparse.block_attention",
            **GROUPED,
            layout=LAYOUT,
            size=3,
            bias=grid("block options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "block_attention.absent.0001: BLOCK-KEYS; Blocks Poison",
        call(
            "sparse.block_attention",
            **{**ONE, "k": spiked(ONE["k"], {9: nan, 12: nan}), "v": spiked(ONE["v"], {6: nan, 9: nan})},
            layout=bools("111", "101", "101"),
            size=3,
        ),
        comment="The second block of keys, which no query here sees, holds NaN.",
    ),
    case(
        "block_attention.refuse.0001: BLOCK-REFUSE; WrongInput",
        call("sparse.block_attention", **ONE, layout=LAYOUT, size=2),
        comment="Eight keys are four blocks of two.",
    ),
    case(
        "block_attention_vjp.basic.0001: BLOCK-GRADIENT; Blocks Gradient",
        call(
            "sparse.block_attention_vjp",
            d_out=grid("block vjp d_out", (3, 2), bits=5),
            **one_head("block vjp", 3, 5, d=2),
            layout=bools("100", "010", "101"),
            size=2,
            mask=CAUSAL,
            d_lse=grid("block vjp d_lse", (3,), bits=5),
        ),
    ),
]
