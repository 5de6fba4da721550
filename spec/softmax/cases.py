"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, inf, nan, tensor
from ..vectors import call, case, grid

ROWS = grid("softmax rows", (2, 3, 5), scale=4)  # 2 x 3 rows of 5, none of the sizes equal
WIDE = grid("softmax wide", (2, 70))  # more than a kernel takes at once, with a rest

CASES = [
    case("softmax.rows.0001: SOFTMAX-NORMAL; Basic", call("softmax", x=ROWS), "softmax/base_2"),
    case("softmax.axis.0001: SOFTMAX-NORMAL; OtherAxis", call("softmax", x=ROWS, axis=1), "softmax/last_axis"),
    case(
        "softmax.wide.0001: SOFTMAX-NORMAL; Tiles",
        call("softmax", x=WIDE),
        "softmax/tail_dropped softmax/tail_zeros",
        comment="70 entries: a block of 64 and a rest.",
    ),
    case(
        "softmax.large.0001: SOFTMAX-SHIFT SOFTMAX-NORMAL; LargeLogits",
        call(
            "softmax", x=tensor([[1000.0, 1004.0, 996.0], [-1000.0, -1004.0, -996.0], [-59904.0, -60160.0, -59904.0]])
        ),
        "softmax/no_shift softmax/peak_from_zero softmax/finite_fill softmax/peak_of_everything softmax/one_more",
        comment="The first row overflows without the shift by the maximum, the others underflow.",
    ),
    case(
        "softmax.absent.0001: SOFTMAX-ABSENT SOFTMAX-EMPTY; Poison EmptyRow",
        call(
            "softmax",
            x=tensor([[0.5, -inf, 2.0, -1.0], [3.0, nan, inf, -0.25], [-inf, -inf, -inf, -inf]]),
            where=tensor([[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype="bool"),
        ),
        "softmax/where_adds softmax/empty_row_uniform softmax/empty_row_nan",
    ),
    case(
        "softmax.nothing.0001: SOFTMAX-EMPTY; EmptyRow",
        call("softmax", x=Tensor((3, 0), [])),
        comment="An axis of length 0.",
    ),
    case(
        "logsumexp.rows.0001: LSE-NATURAL; Basic", call("logsumexp", x=ROWS), "lse/base_2 lse/maximum_missing lse/mean"
    ),
    case(
        "logsumexp.axis.0001: LSE-NATURAL; OtherAxis", call("logsumexp", x=ROWS, axis=0), "lse/base_2 lse/maximum_only"
    ),
    case("logsumexp.wide.0001: LSE-NATURAL; Tiles", call("logsumexp", x=WIDE), "lse/tail_dropped lse/tail_zeros"),
    case(
        "logsumexp.large.0001: LSE-SHIFT LSE-NATURAL; LargeLogits",
        call("logsumexp", x=tensor([[1000.0, 1004.0, 1000.0], [-1000.0, -1004.0, -1000.0]])),
        "lse/no_shift lse/base_2",
    ),
    case(
        "logsumexp.absent.0001: LSE-EMPTY SOFTMAX-ABSENT; EmptyRow Poison",
        call(
            "logsumexp",
            x=tensor([[0.5, nan, 2.0], [-inf, -inf, -inf], [7.0, 1.0, inf]]),
            where=tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]], dtype="bool"),
        ),
        "lse/empty_is_plus_infinity lse/empty_is_finite",
    ),
    case(
        "logsumexp.infinite.0001: LSE-NATURAL; LargeLogits",
        call("logsumexp", x=tensor([[inf, 0.0, -1.5], [-inf, 2.0, inf]])),
        "lse/infinite_is_nan",
        comment="A logit of +infinity.",
    ),
    case(
        "merge.unequal.0001: MERGE-UNION MERGE-ORDER; UnequalMerge",
        call(
            "merge",
            out_a=grid("merge a", (3, 4)),
            lse_a=tensor([0.5, 6.0, -3.0]),
            out_b=grid("merge b", (3, 4)),
            lse_b=tensor([3.5, -2.0, -2.75]),
        ),
        "merge/average merge/base_2 merge/weights_swapped merge/sum merge/lse_of_larger merge/lse_sum",
    ),
    case(
        "merge.large.0001: MERGE-UNION LSE-SHIFT; LargeLogits",
        call(
            "merge",
            out_a=grid("merge a", (2, 3)),
            lse_a=tensor([1000.0, -1000.0]),
            out_b=grid("merge b", (2, 3)),
            lse_b=tensor([1004.0, -996.0]),
        ),
        "merge/average merge/no_shift",
    ),
    case(
        "merge.empty.0001: MERGE-IDENTITY; MergeEmpty",
        call(
            "merge",
            out_a=tensor([[1.5, -2.0], [nan, inf], [0.0, 0.0]]),
            lse_a=tensor([0.25, -inf, -inf]),
            out_b=tensor([[0.0, 0.0], [4.0, 0.5], [0.0, 0.0]]),
            lse_b=tensor([-inf, -3.0, -inf]),
        ),
        "merge/no_guard",
        comment="Row 0: b is empty. Row 1: a is empty and holds garbage. Row 2: both are empty.",
    ),
]
