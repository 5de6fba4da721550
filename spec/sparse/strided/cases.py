"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped

GROUPED = grouped("strided group")
ONE = one_head("strided one", 5, 11)

CASES = [
    case(
        "strided_attention.basic.0001: STRIDED-MERGED STRIDED-COST; SparseTransformer",
        call("sparse.strided_attention", **inputs("strided", b=1, h=2, n=8, m=8), stride=3, return_lse=True),
        "strided/overlap_twice strided/mean_of_sets",
    ),
    case(
        "strided_attention.local.0001: STRIDED-LOCAL; SparseTransformer",
        call("sparse.strided_attention", **ONE, stride=3, part="local", return_lse=True),
        "strided/local_of_code strided/other_set",
    ),
    case(
        "strided_attention.far.0001: STRIDED-FAR; SparseTransformer CausalAlignment",
        call("sparse.strided_attention", **ONE, stride=4, part="strided", return_lse=True),
        "strided/columns strided/by_index strided/other_set",
        comment="Positions 6 to 10: the remainder of a query is that of its position, not of its index.",
    ),
    case(
        "strided_attention.tall.0001: STRIDED-FAR STRIDED-LOCAL; SparseTransformer EmptyRow",
        call("sparse.strided_attention", **one_head("strided tall", 6, 3), stride=2, return_lse=True),
        comment="More queries than keys: the first three lie below position 0, and see no key.",
    ),
    case(
        "strided_attention.parts.0001: STRIDED-PART; SparseTransformer GroupedHeads",
        call("sparse.strided_attention", **GROUPED, stride=2, part=["local", "strided", "merged", "local"]),
        "strided/part_of_first_head",
    ),
    case(
        "strided_attention.positions.0001: STRIDED-FAR STRIDED-MERGED; SparseTransformer Ring",
        call(
            "sparse.strided_attention",
            **one_head("strided ring", 2, 6),
            stride=2,
            q_positions=integers(13, 14),
            k_positions=integers(15, 10, 11, 12, 13, 14),
        ),
        "strided/overlap_twice strided/mean_of_sets",
    ),
    case(
        "strided_attention.options.0001: STRIDED-OPTIONS; SparseTransformer AllOptions GroupedHeads",
        call(
            "sparse.strided_attention",
            **GROUPED,
            stride=2,
            mask=padding(5, 1),
            bias=grid("strided options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "strided_attention.absent.0001: STRIDED-MERGED; SparseTransformer Poison",
        call(
            "sparse.strided_attention",
            **{**ONE, "k": spiked(ONE["k"], {0: nan, 6: nan}), "v": spiked(ONE["v"], {1: nan, 5: nan})},
            stride=4,
            part="local",
        ),
        comment="Keys 0 and 2, which are hidden from all queries but for key 2 from the first, hold NaN.",
    ),
    case(
        "strided_attention.refuse.0001: STRIDED-REFUSE; WrongInput",
        call("sparse.strided_attention", **one_head("strided refuse", 3, 3), stride=0),
    ),
    case(
        "strided_attention.refuse.0002: STRIDED-REFUSE; WrongInput",
        call("sparse.strided_attention", **GROUPED, stride=2, part=["local", "strided"]),
        comment="Two parts, four heads.",
    ),
    case(
        "strided_attention.refuse.0003: STRIDED-REFUSE; WrongInput",
        call("sparse.strided_attention", **one_head("strided refuse", 3, 3), stride=2, mask=bools("111")),
    ),
    case(
        "strided_attention_vjp.basic.0001: STRIDED-GRADIENT; SparseTransformer Gradient",
        call(
            "sparse.strided_attention_vjp",
            d_out=grid("strided vjp d_out", (3, 2), bits=5),
            **one_head("strided vjp", 3, 5, d=2),
            stride=2,
            d_lse=grid("strided vjp d_lse", (3,), bits=5),
        ),
    ),
    case(
        "strided_attention_vjp.heads.0001: STRIDED-GRADIENT STRIDED-PART; SparseTransformer Gradient GroupedHeads Sink",
        call(
            "sparse.strided_attention_vjp",
            d_out=grid("strided vjp heads d_out", (2, 3, 2), bits=5),
            q=grid("strided vjp heads q", (2, 3, 2), bits=5),
            k=grid("strided vjp heads k", (1, 5, 2), bits=6),
            v=grid("strided vjp heads v", (1, 5, 2), bits=5),
            stride=2,
            part=["merged", "strided"],
            sinks=tensor([0.5, -1.0]),
        ),
    ),
]
