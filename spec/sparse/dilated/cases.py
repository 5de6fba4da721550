"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped

GROUPED = grouped("dilated group")
ONE = one_head("dilated one", 4, 9)

CASES = [
    case(
        "dilated_attention.basic.0001: DILATED-KEYS DILATED-STEP DILATED-COST; DilatedWindow",
        call(
            "sparse.dilated_attention",
            **inputs("dilated", b=1, h=2, n=7, m=7),
            left=2,
            right=1,
            dilation=2,
            return_lse=True,
        ),
    ),
    case(
        "dilated_attention.align.0001: DILATED-STEP; DilatedWindow CausalAlignment",
        call("sparse.dilated_attention", **ONE, left=1, right=0, dilation=3, return_lse=True),
        "dilated/by_index",
        comment="Positions 5 to 8: the remainder of a query is that of its position, not of its index.",
    ),
    case(
        "dilated_attention.open.0001: DILATED-KEYS; DilatedWindow",
        call("sparse.dilated_attention", **one_head("dilated open", 3, 7), left=None, right=0, dilation=2),
    ),
    case(
        "dilated_attention.tall.0001: DILATED-STEP; DilatedWindow EmptyRow",
        call(
            "sparse.dilated_attention", **one_head("dilated tall", 6, 3), left=1, right=0, dilation=2, return_lse=True
        ),
        comment="More queries than keys: the first three lie below position 0, and see no key.",
    ),
    case(
        "dilated_attention.heads.0001: DILATED-HEADS; DilatedWindow GroupedHeads",
        call("sparse.dilated_attention", **GROUPED, left=1, right=1, dilation=integers(1, 2, 3, 2)),
        "dilated/of_first_head",
    ),
    case(
        "dilated_attention.positions.0001: DILATED-STEP; DilatedWindow Ring",
        call(
            "sparse.dilated_attention",
            **one_head("dilated ring", 2, 5),
            left=1,
            right=0,
            dilation=2,
            q_positions=integers(13, 14),
            k_positions=integers(15, 11, 12, 13, 14),
        ),
    ),
    case(
        "dilated_attention.options.0001: DILATED-OPTIONS; DilatedWindow AllOptions GroupedHeads",
        call(
            "sparse.dilated_attention",
            **GROUPED,
            left=2,
            right=1,
            dilation=2,
            mask=padding(5, 1),
            bias=grid("dilated options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "dilated_attention.absent.0001: DILATED-KEYS; DilatedWindow Poison",
        call(
            "sparse.dilated_attention",
            **{**ONE, "k": spiked(ONE["k"], {12: nan, 13: nan, 14: nan}), "v": spiked(ONE["v"], {8: nan, 9: nan})},
            left=1,
            right=0,
            dilation=5,
        ),
        comment="Key 4 lies amid all windows, and in none.",
    ),
    case(
        "dilated_attention.refuse.0001: DILATED-REFUSE; WrongInput",
        call("sparse.dilated_attention", **one_head("dilated refuse", 3, 3), left=1, right=0, dilation=0),
    ),
    case(
        "dilated_attention.refuse.0002: DILATED-REFUSE; WrongInput",
        call("sparse.dilated_attention", **GROUPED, left=1, right=0, dilation=integers(1, 2)),
        comment="Two dilations, four heads.",
    ),
    case(
        "dilated_attention.refuse.0003: DILATED-REFUSE; WrongInput",
        call(
            "sparse.dilated_attention",
            **one_head("dilated refuse", 3, 3),
            left=1,
            right=0,
            dilation=2,
            mask=bools("111"),
        ),
    ),
    case(
        "dilated_attention_vjp.basic.0001: DILATED-GRADIENT; DilatedWindow Gradient",
        call(
            "sparse.dilated_attention_vjp",
            d_out=grid("dilated vjp d_out", (3, 2), bits=5),
            **one_head("dilated vjp", 3, 5, d=2),
            left=1,
            right=0,
            dilation=2,
            d_lse=grid("dilated vjp d_lse", (3,), bits=5),
        ),
    ),
    case(
        "dilated_attention_vjp.heads.0001: DILATED-GRADIENT DILATED-HEADS; DilatedWindow Gradient GroupedHeads Sink",
        call(
            "sparse.dilated_attention_vjp",
            d_out=grid("dilated vjp heads d_out", (2, 3, 2), bits=5),
            q=grid("dilated vjp heads q", (2, 3, 2), bits=5),
            k=grid("dilated vjp heads k", (1, 4, 2), bits=6),
            v=grid("dilated vjp heads v", (1, 4, 2), bits=5),
            left=1,
            right=0,
            dilation=integers(1, 2),
            sinks=tensor([0.5, -1.0]),
        ),
    ),
]
