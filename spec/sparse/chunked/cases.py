"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head
from ...exact import tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers

CASES = [
    case(
        "chunked_attention.basic.0001: CHUNK-KEYS CHUNK-COST; Blocks",
        call("sparse.chunked_attention", **inputs("chunked", b=1, h=2, n=7, m=7), size=3, return_lse=True),
    ),
    case(
        "chunked_attention.align.0001: CHUNK-POSITIONS; Blocks CausalAlignment",
        call("sparse.chunked_attention", **one_head("chunked align", 4, 9), size=3, return_lse=True),
        "chunked/top_left",
        comment="Positions 5 to 8: the last of one chunk and a whole one.",
    ),
    case(
        "chunked_attention.tall.0001: CHUNK-POSITIONS; Blocks EmptyRow",
        call("sparse.chunked_attention", **one_head("chunked tall", 5, 3), size=2, return_lse=True),
        comment="More queries than keys: the first two lie below position 0, and see no key.",
    ),
    case(
        "chunked_attention.positions.0001: CHUNK-POSITIONS; Blocks Ring",
        call(
            "sparse.chunked_attention",
            **one_head("chunked ring", 2, 5),
            size=4,
            q_positions=integers(13, 14),
            k_positions=integers(15, 11, 12, 13, 14),
        ),
    ),
    case(
        "chunked_attention.options.0001: CHUNK-OPTIONS; Blocks AllOptions GroupedHeads",
        call(
            "sparse.chunked_attention",
            q=grid("chunked group q", (4, 5, 3), bits=5),
            k=grid("chunked group k", (2, 7, 3), bits=6),
            v=grid("chunked group v", (2, 7, 2), bits=5),
            size=4,
            mask=padding(5, 1),
            bias=grid("chunked options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "chunked_attention.refuse.0001: CHUNK-REFUSE; WrongInput",
        call("sparse.chunked_attention", **one_head("chunked refuse", 3, 3), size=0),
    ),
    case(
        "chunked_attention.refuse.0002: CHUNK-REFUSE; WrongInput",
        call("sparse.chunked_attention", **one_head("chunked refuse", 3, 3), size=2, mask=bools("111")),
        comment="A mask that is an array.",
    ),
    case(
        "chunked_attention_vjp.basic.0001: CHUNK-GRADIENT; Blocks Gradient",
        call(
            "sparse.chunked_attention_vjp",
            d_out=grid("chunked vjp d_out", (3, 2), bits=5),
            **one_head("chunked vjp", 3, 4, d=2),
            size=2,
            d_lse=grid("chunked vjp d_lse", (3,), bits=5),
        ),
    ),
]
