"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import inputs, one_head, spiked
from ...exact import nan, tensor
from ...vectors import call, case, grid, rule
from ..inputs import grouped

ONE = one_head("moba one 48", 5, 11)
GROUPED = grouped("moba group 95", m=9)
# Means 1, 1, 2, 1: the first two and the last are equal.
TIED = {
    "q": tensor([[1.0], [0.5], [1.0], [0.0]]),
    "k": tensor([[3.0], [-1.0], [0.0], [2.0], [2.0], [2.0], [1.0], [1.0], [-1.0], [0.5]]),
    "v": grid("moba ties v", (10, 2), bits=5),
}

CASES = [
    case(
        "moba_blocks.basic.0001: MOBA-CHOICE MOBA-OWN MOBA-PAST; Blocks",
        call("sparse.moba_blocks", q=ONE["q"], k=ONE["k"], size=2, kept=3),
        "moba/own_beside moba/least moba/all_past",
    ),
    case(
        "moba_blocks.ties.0001: MOBA-TIES MOBA-CHOICE; Blocks",
        call("sparse.moba_blocks", q=TIED["q"], k=TIED["k"], size=2, kept=3),
        "moba/last_of_ties",
        comment="Small integers, exact in every format: the means are 1, 1, 2, 1, and one query is 0.",
    ),
    case(
        "moba_blocks.heads.0001: MOBA-HEADS; Blocks GroupedHeads",
        call("sparse.moba_blocks", q=GROUPED["q"], k=GROUPED["k"], size=2, kept=2),
        "moba/choice_of_first_head",
    ),
    case(
        "moba_attention.basic.0001: MOBA-KEYS MOBA-CHOICE MOBA-OWN MOBA-COST; Blocks",
        call("sparse.moba_attention", **inputs("moba", b=1, h=2, n=9, m=9), size=2, kept=2, return_lse=True),
        "moba/own_beside moba/not_past moba/least moba/one_more moba/first_keys moba/all_past",
    ),
    case(
        "moba_attention.one.0001: MOBA-OWN; Blocks",
        call("sparse.moba_attention", **inputs("moba only", b=1, h=2, n=7, m=7), size=3, kept=1, return_lse=True),
        "moba/own_beside moba/all_past_of_one moba/not_past",
        comment="One block is the own one: attention is causal within each block.",
    ),
    case(
        "moba_attention.ties.0001: MOBA-TIES; Blocks",
        call("sparse.moba_attention", **TIED, size=2, kept=2, return_lse=True),
        "moba/last_of_ties",
    ),
    case(
        "moba_attention.decode.0001: MOBA-PAST MOBA-KEYS; Blocks CausalAlignment",
        call("sparse.moba_attention", **ONE, size=2, kept=3, return_lse=True),
        "moba/top_left",
    ),
    case(
        "moba_attention.tall.0001: MOBA-PAST; Blocks EmptyRow",
        call("sparse.moba_attention", **one_head("moba tall", 5, 3), size=2, kept=1, return_lse=True),
        comment="More queries than keys: the first two stand before the first place.",
    ),
    case(
        "moba_attention.options.0001: MOBA-OPTIONS MOBA-MASK MOBA-HEADS; Blocks AllOptions GroupedHeads",
        call(
            "sparse.moba_attention",
            **GROUPED,
            size=2,
            kept=2,
            mask=rule("padding", lengths=tensor(8, "int64")),
            bias=grid("moba options b", (4, 5, 9), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
        "moba/choice_of_first_head",
    ),
    case(
        "moba_attention.future.0001: MOBA-PAST; Blocks Poison",
        call(
            "sparse.moba_attention",
            **{
                **one_head("moba future", 2, 9),
                "k": spiked(one_head("moba future", 2, 9)["k"], {24: nan}),
                "v": spiked(one_head("moba future", 2, 9)["v"], {16: nan}),
            },
            size=3,
            kept=2,
            mask=rule("padding", lengths=tensor(8, "int64")),
        ),
        comment="The last key, behind one query and left out of the other by the mask, is NaN; its block is never a past one.",
    ),
    case(
        "moba_attention.refuse.0001: MOBA-REFUSE; WrongInput",
        call("sparse.moba_attention", **ONE, size=2, kept=0),
    ),
    case(
        "moba_attention_vjp.basic.0001: MOBA-GRADIENT; Blocks Gradient",
        call(
            "sparse.moba_attention_vjp",
            d_out=grid("moba vjp d_out", (5, 2), bits=5),
            **one_head("moba vjp 43", 5, 7, d=2),
            size=2,
            kept=2,
            d_lse=grid("moba vjp d_lse", (5,), bits=5),
        ),
    ),
]
