"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import CAUSAL
from ...vectors import call, case, grid, integers
from ..inputs import grouped

LISTS = integers([0, 3, -1], [4, 1, 2], [-1, 2, -1], [5, 6, 0], [3, 4, 1])
TWICE = integers([0, 3, 3], [4, 4, 4], [1, 2, -1], [5, 6, 5], [3, -1, -1])
OF_HEADS = integers(
    [[0, 3], [4, -1], [2, 6], [1, 5], [6, 0]],
    [[5, 1], [2, 3], [-1, 4], [0, 6], [3, 2]],
    [[-1, 2], [6, 5], [1, 3], [4, 0], [2, 1]],
    [[6, 4], [0, 1], [5, 2], [3, -1], [4, 6]],
)
GROUPED = grouped("gather group")
ONE = one_head("gather one", 5, 7)
SMALL = {"d_out": grid("gather vjp d_out", (3, 2), bits=5), **one_head("gather vjp", 3, 4, d=2)}

CASES = [
    case(
        "gather_attention.basic.0001: GATHER-KEYS GATHER-EMPTY GATHER-COST; GivenKeys",
        call("sparse.gather_attention", **inputs("gather", b=1, h=2), indices=LISTS, return_lse=True),
        "gather/empty_is_last gather/empty_is_first gather/one_list_for_all",
    ),
    case(
        "gather_attention.empty.0001: GATHER-EMPTY; GivenKeys EmptyRow",
        call(
            "sparse.gather_attention",
            **one_head("gather empty", 2, 3),
            indices=integers([-1, -1], [-1, 1]),
            return_lse=True,
        ),
        "gather/empty_is_last gather/empty_is_first",
    ),
    case(
        "gather_attention.once.0001: GATHER-REPEATS; GivenKeys Repeats",
        call("sparse.gather_attention", **ONE, indices=TWICE, repeats="once", return_lse=True),
        "gather/repeats_counted",
    ),
    case(
        "gather_attention.count.0001: GATHER-REPEATS; GivenKeys Repeats",
        call("sparse.gather_attention", **ONE, indices=TWICE, repeats="count", return_lse=True),
        "gather/repeats_once",
        comment="A multiset: attention with a bias of the logarithm of how often a key is named.",
    ),
    case(
        "gather_attention.heads.0001: GATHER-AXES; GivenKeys GroupedHeads",
        call("sparse.gather_attention", **GROUPED, indices=OF_HEADS),
        "gather/list_of_first_head",
        comment="Four query heads with a list each, over two key/value heads.",
    ),
    case(
        "gather_attention.options.0001: GATHER-OPTIONS; GivenKeys AllOptions GroupedHeads",
        call(
            "sparse.gather_attention",
            **GROUPED,
            indices=LISTS,
            mask=CAUSAL,
            bias=grid("gather options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            dropout=dropped(bools(*["1101101", "1011011"] * 2, "1110111"), 0.25),
            return_lse=True,
        ),
    ),
    case(
        "gather_attention.absent.0001: GATHER-KEYS GATHER-EMPTY; GivenKeys Poison",
        call(
            "sparse.gather_attention",
            **{**ONE, "k": spiked(ONE["k"], {0: nan, 20: nan}), "v": spiked(ONE["v"], {0: nan, 13: nan})},
            indices=integers([1, 2, -1], [-1, 4, 1], [3, -1, -1], [5, 2, 4], [1, 3, 5]),
        ),
        comment="The first and the last key, where an empty place might point, hold NaN.",
    ),
    case(
        "gather_attention.refuse.0001: GATHER-REFUSE GATHER-REPEATS; WrongInput",
        call("sparse.gather_attention", **ONE, indices=TWICE),
        comment="A key named twice.",
    ),
    case(
        "gather_attention.refuse.0002: GATHER-REFUSE; WrongInput",
        call("sparse.gather_attention", **one_head("gather refuse", 1, 3), indices=integers([1, 3])),
        comment="There is no key 3.",
    ),
    case(
        "gather_attention_vjp.basic.0001: GATHER-GRADIENT; GivenKeys Gradient",
        call(
            "sparse.gather_attention_vjp",
            **SMALL,
            indices=integers([0, 3], [3, -1], [1, 3]),
            d_lse=grid("gather vjp d_lse", (3,), bits=5),
        ),
        "gradient/of_last_list",
        comment="Key 3 is in every list, key 2 in none.",
    ),
    case(
        "gather_attention_vjp.count.0001: GATHER-GRADIENT GATHER-REPEATS; GivenKeys Gradient Repeats Softcap",
        call(
            "sparse.gather_attention_vjp",
            **SMALL,
            indices=integers([0, 3, 3], [2, -1, 2], [1, 3, 0]),
            repeats="count",
            softcap=2.0,
        ),
    ),
]
