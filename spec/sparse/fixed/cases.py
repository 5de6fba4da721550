"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped

GROUPED = grouped("fixed group")
ONE = one_head("fixed one", 5, 11)

CASES = [
    case(
        "fixed_attention.basic.0001: FIXED-MERGED FIXED-COST; SparseTransformer",
        call("sparse.fixed_attention", **inputs("fixed", b=1, h=2, n=10, m=10), stride=4, return_lse=True),
        "fixed/overlap_twice",
        comment="The last block has two keys, and no summary.",
    ),
    case(
        "fixed_attention.basic.0002: FIXED-MERGED; SparseTransformer",
        call("sparse.fixed_attention", **ONE, stride=4, summary=2),
        "fixed/overlap_twice fixed/mean_of_sets",
    ),
    case(
        "fixed_attention.local.0001: FIXED-LOCAL; SparseTransformer CausalAlignment",
        call("sparse.fixed_attention", **ONE, stride=4, part="local", return_lse=True),
        "fixed/block_whole",
        comment="Positions 6 to 10: blocks begin at position 0, and not with the queries.",
    ),
    case(
        "fixed_attention.summary.0001: FIXED-SUMMARY; SparseTransformer EmptyRow",
        call("sparse.fixed_attention", **one_head("fixed summary", 8, 8), stride=3, part="summary", return_lse=True),
        "fixed/sub_blocks_from_start",
        comment="Queries before the first summary see no key.",
    ),
    case(
        "fixed_attention.tall.0001: FIXED-LOCAL FIXED-SUMMARY; SparseTransformer EmptyRow",
        call("sparse.fixed_attention", **one_head("fixed tall", 6, 3), stride=2, return_lse=True),
        comment="More queries than keys: the first three lie below position 0, and see no key.",
    ),
    case(
        "fixed_attention.sub_blocks.0001: FIXED-SUB-BLOCK; SparseTransformer GroupedHeads",
        call("sparse.fixed_attention", **GROUPED, stride=4, sub_block=integers(0, 1, 2, 3)),
        "fixed/sub_block_of_first_head",
        comment="Four heads that read four positions of a block, as in the released code.",
    ),
    case(
        "fixed_attention.sub_blocks.0002: FIXED-SUB-BLOCK FIXED-SUMMARY; SparseTransformer",
        call("sparse.fixed_attention", **ONE, stride=5, summary=2, sub_block=1, part="summary"),
        "fixed/sub_blocks_from_start",
        comment="Positions 1 and 2, 6 and 7: position 0 of a block is in none.",
    ),
    case(
        "fixed_attention.parts.0001: FIXED-PART; SparseTransformer GroupedHeads",
        call("sparse.fixed_attention", **GROUPED, stride=2, part=["local", "summary", "merged", "local"]),
        "fixed/part_of_first_head",
    ),
    case(
        "fixed_attention.positions.0001: FIXED-SUMMARY FIXED-MERGED; SparseTransformer Ring",
        call(
            "sparse.fixed_attention",
            **one_head("fixed ring", 2, 6),
            stride=3,
            q_positions=integers(13, 14),
            k_positions=integers(15, 10, 11, 12, 13, 14),
        ),
    ),
    case(
        "fixed_attention.options.0001: FIXED-OPTIONS; SparseTransformer AllOptions GroupedHeads",
        call(
            "sparse.fixed_attention",
            **GROUPED,
            stride=3,
            summary=2,
            mask=padding(5, 1),
            bias=grid("fixed options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "fixed_attention.absent.0001: FIXED-MERGED; SparseTransformer Poison",
        call(
            "sparse.fixed_attention",
            **{**ONE, "k": spiked(ONE["k"], {0: nan, 7: nan}), "v": spiked(ONE["v"], {1: nan, 4: nan})},
            stride=4,
        ),
        comment="Keys 0 and 2, which no query here sees, hold NaN.",
    ),
    case(
        "fixed_attention.refuse.0001: FIXED-REFUSE; WrongInput",
        call("sparse.fixed_attention", **one_head("fixed refuse", 3, 3), stride=2, summary=3),
    ),
    case(
        "fixed_attention.refuse.0002: FIXED-REFUSE; WrongInput",
        call("sparse.fixed_attention", **one_head("fixed refuse", 3, 3), stride=4, summary=2, sub_block=2),
        comment="Blocks of four hold two sub-blocks of two.",
    ),
    case(
        "fixed_attention.refuse.0003: FIXED-REFUSE; WrongInput",
        call("sparse.fixed_attention", **GROUPED, stride=2, part=["local", "summary"]),
        comment="Two parts, four heads.",
    ),
    case(
        "fixed_attention.refuse.0004: FIXED-REFUSE; WrongInput",
        call("sparse.fixed_attention", **one_head("fixed refuse", 3, 3), stride=2, mask=bools("111")),
    ),
    case(
        "fixed_attention_vjp.basic.0001: FIXED-GRADIENT; SparseTransformer Gradient",
        call(
            "sparse.fixed_attention_vjp",
            d_out=grid("fixed vjp d_out", (3, 2), bits=5),
            **one_head("fixed vjp", 3, 5, d=2),
            stride=2,
            d_lse=grid("fixed vjp d_lse", (3,), bits=5),
        ),
    ),
    case(
        "fixed_attention_vjp.heads.0001: FIXED-GRADIENT FIXED-PART; SparseTransformer Gradient GroupedHeads Sink",
        call(
            "sparse.fixed_attention_vjp",
            d_out=grid("fixed vjp heads d_out", (2, 3, 2), bits=5),
            q=grid("fixed vjp heads q", (2, 3, 2), bits=5),
            k=grid("fixed vjp heads k", (1, 5, 2), bits=6),
            v=grid("fixed vjp heads v", (1, 5, 2), bits=5),
            stride=3,
            sub_block=integers(0, 1),
            part=["merged", "summary"],
            sinks=tensor([0.5, -1.0]),
        ),
    ),
]
