"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped

GROUPED = grouped("longnet group")
ONE = one_head("longnet one", 6, 11)
TWO = {"segments": [3, 6], "dilations": [1, 2]}

CASES = [
    case(
        "longnet_attention.basic.0001: LONGNET-BRANCH LONGNET-MULTISET LONGNET-COST; Repeats",
        call(
            "sparse.longnet_attention", **inputs("longnet", b=1, h=2, n=8, m=8), **TWO, offsets=[0, 1], return_lse=True
        ),
        "longnet/counted_once longnet/mean_of_branches",
    ),
    case(
        "longnet_attention.causal.0001: LONGNET-BRANCH LONGNET-MULTISET; Repeats CausalAlignment",
        call("sparse.longnet_attention", **ONE, **TWO, offsets=[0, 0], causal=True, return_lse=True),
        "longnet/counted_once",
        comment="Positions 5 to 10.",
    ),
    case(
        "longnet_attention.segment.0001: LONGNET-SEGMENT LONGNET-NONE; Blocks EmptyRow",
        call("sparse.longnet_attention", **ONE, segments=[5], dilations=[2], offsets=[1], return_lse=True),
        "longnet/remainder_of_position",
        comment="The step does not divide the segment: positions 1, 3, 6 and 8 take part.",
    ),
    case(
        "longnet_attention.segment.0002: LONGNET-SEGMENT; Blocks",
        call("sparse.longnet_attention", **one_head("longnet segment", 7, 7), segments=[4], dilations=[1], offsets=[0]),
        "longnet/segment_filled",
        comment="The last segment has three keys.",
    ),
    case(
        "longnet_attention.paper.0001: LONGNET-OFFSETS; GroupedHeads",
        call("sparse.longnet_attention", **GROUPED, segments=[4, 8], dilations=[1, 2], offsets="paper"),
        "longnet/heads_in_groups",
    ),
    case(
        "longnet_attention.code.0001: LONGNET-OFFSETS; GroupedHeads",
        call("sparse.longnet_attention", **GROUPED, segments=[4, 8], dilations=[1, 2], offsets="code"),
        "longnet/heads_in_turn",
    ),
    case(
        "longnet_attention.offsets.0001: LONGNET-OFFSETS; GroupedHeads",
        call("sparse.longnet_attention", **GROUPED, segments=[4, 6], dilations=[1, 3], offsets=[0, [2, 0, 1, 2]]),
        "longnet/offsets_of_first_head",
    ),
    case(
        "longnet_attention.zero.0001: LONGNET-NONE LONGNET-MULTISET; Repeats",
        call(
            "sparse.longnet_attention",
            **one_head("longnet zero", 4, 4) | {"q": tensor([[0.0] * 3] * 4)},
            segments=[1, 2],
            dilations=[1, 1],
            offsets=[0, 0],
        ),
        "longnet/zero_is_absent",
        comment="A branch of one key with a score of 0 has a log-sum-exp of 0, and takes part.",
    ),
    case(
        "longnet_attention.positions.0001: LONGNET-SEGMENT; Ring",
        call(
            "sparse.longnet_attention",
            **one_head("longnet ring", 2, 6),
            **TWO,
            offsets=[0, 1],
            q_positions=integers(13, 14),
            k_positions=integers(15, 10, 11, 12, 13, 14),
        ),
        "longnet/counted_once",
    ),
    case(
        "longnet_attention.options.0001: LONGNET-OPTIONS; AllOptions GroupedHeads",
        call(
            "sparse.longnet_attention",
            **GROUPED,
            **TWO,
            offsets="paper",
            mask=padding(5, 1),
            bias=grid("longnet options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "longnet_attention.absent.0001: LONGNET-BRANCH; Poison",
        call(
            "sparse.longnet_attention",
            **{**ONE, "k": spiked(ONE["k"], {0: nan, 7: nan}), "v": spiked(ONE["v"], {2: nan, 4: nan})},
            segments=[3],
            dilations=[1],
            offsets=[0],
            causal=True,
        ),
        comment="Keys 0 to 2, whose segment no query here is in, hold NaN.",
    ),
    case(
        "longnet_attention.refuse.0001: LONGNET-REFUSE; WrongInput",
        call("sparse.longnet_attention", **ONE, segments=[4], dilations=[2], offsets=[2]),
        comment="A dilation of 2 has offsets 0 and 1.",
    ),
    case(
        "longnet_attention.refuse.0002: LONGNET-REFUSE; WrongInput",
        call("sparse.longnet_attention", **ONE, segments=[4, 8], dilations=[2], offsets=[0, 0]),
    ),
    case(
        "longnet_attention.refuse.0003: LONGNET-REFUSE; WrongInput",
        call("sparse.longnet_attention", **ONE, segments=[4], dilations=[1], offsets=[0], mask=bools("1" * 11)),
    ),
    case(
        "longnet_attention_vjp.basic.0001: LONGNET-GRADIENT; Gradient Repeats",
        call(
            "sparse.longnet_attention_vjp",
            d_out=grid("longnet vjp d_out", (4, 2), bits=5),
            **one_head("longnet vjp", 4, 5, d=2),
            segments=[2, 4],
            dilations=[1, 2],
            offsets=[0, 0],
            d_lse=grid("longnet vjp d_lse", (4,), bits=5),
        ),
        "gradient/constant_shares",
    ),
    case(
        "longnet_attention_vjp.heads.0001: LONGNET-GRADIENT LONGNET-OFFSETS; Gradient GroupedHeads Sink",
        call(
            "sparse.longnet_attention_vjp",
            d_out=grid("longnet vjp heads d_out", (2, 3, 2), bits=5),
            q=grid("longnet vjp heads q", (2, 3, 2), bits=5),
            k=grid("longnet vjp heads k", (1, 5, 2), bits=6),
            v=grid("longnet vjp heads v", (1, 5, 2), bits=5),
            segments=[2, 4],
            dilations=[1, 2],
            offsets="paper",
            causal=True,
            sinks=tensor([0.5, -1.0]),
        ),
    ),
]
