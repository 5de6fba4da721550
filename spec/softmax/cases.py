"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, inf, nan, tensor
from ..vectors import Case, grid

ROWS = grid("softmax rows", (2, 3, 5), scale=4)  # 2 x 3 rows of 5, none of the sizes equal

CASES = [
    Case(
        "softmax.rows.0001",
        "softmax",
        {"x": ROWS},
        clauses=["SOFTMAX-NORMAL"],
        flags=["Basic"],
        catches=["softmax/base_2"],
    ),
    Case(
        "softmax.axis.0001",
        "softmax",
        {"x": ROWS, "axis": 1},
        clauses=["SOFTMAX-NORMAL"],
        flags=["OtherAxis"],
        catches=["softmax/last_axis"],
    ),
    Case(
        "softmax.large.0001",
        "softmax",
        {"x": tensor([[1000.0, 1004.0, 996.0], [-1000.0, -1004.0, -996.0], [-59904.0, -60160.0, -59904.0]])},
        clauses=["SOFTMAX-SHIFT", "SOFTMAX-NORMAL"],
        flags=["LargeLogits"],
        comment="The first row overflows without the shift by the maximum, the others underflow.",
        catches=["softmax/no_shift", "softmax/peak_from_zero", "softmax/finite_fill"],
    ),
    Case(
        "softmax.absent.0001",
        "softmax",
        {
            "x": tensor([[0.5, -inf, 2.0, -1.0], [3.0, nan, inf, -0.25], [-inf, -inf, -inf, -inf]]),
            "where": tensor([[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype="bool"),
        },
        clauses=["SOFTMAX-ABSENT", "SOFTMAX-EMPTY"],
        flags=["Poison", "EmptyRow"],
        catches=["softmax/where_adds", "softmax/empty_row_uniform", "softmax/empty_row_nan"],
    ),
    Case(
        "softmax.nothing.0001",
        "softmax",
        {"x": Tensor((3, 0), [])},
        clauses=["SOFTMAX-EMPTY"],
        flags=["EmptyRow"],
        comment="An axis of length 0.",
    ),
    Case(
        "logsumexp.rows.0001",
        "logsumexp",
        {"x": ROWS},
        clauses=["LSE-NATURAL"],
        flags=["Basic"],
        catches=["lse/base_2"],
    ),
    Case(
        "logsumexp.axis.0001",
        "logsumexp",
        {"x": ROWS, "axis": 0},
        clauses=["LSE-NATURAL"],
        flags=["OtherAxis"],
        catches=["lse/base_2"],
    ),
    Case(
        "logsumexp.large.0001",
        "logsumexp",
        {"x": tensor([[1000.0, 1004.0, 1000.0], [-1000.0, -1004.0, -1000.0]])},
        clauses=["LSE-SHIFT", "LSE-NATURAL"],
        flags=["LargeLogits"],
        catches=["lse/no_shift", "lse/base_2"],
    ),
    Case(
        "logsumexp.absent.0001",
        "logsumexp",
        {
            "x": tensor([[0.5, nan, 2.0], [-inf, -inf, -inf], [7.0, 1.0, inf]]),
            "where": tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]], dtype="bool"),
        },
        clauses=["LSE-EMPTY", "SOFTMAX-ABSENT"],
        flags=["EmptyRow", "Poison"],
        catches=["lse/empty_is_plus_infinity", "lse/empty_is_finite"],
    ),
    Case(
        "logsumexp.infinite.0001",
        "logsumexp",
        {"x": tensor([[inf, 0.0, -1.5], [-inf, 2.0, inf]])},
        clauses=["LSE-NATURAL"],
        flags=["LargeLogits"],
        comment="A logit of +infinity.",
        catches=["lse/infinite_is_nan"],
    ),
    Case(
        "merge.unequal.0001",
        "merge",
        {
            "out_a": grid("merge a", (3, 4)),
            "lse_a": tensor([0.5, 6.0, -3.0]),
            "out_b": grid("merge b", (3, 4)),
            "lse_b": tensor([3.5, -2.0, -2.75]),
        },
        clauses=["MERGE-UNION", "MERGE-ORDER"],
        flags=["UnequalMerge"],
        catches=["merge/average", "merge/base_2"],
    ),
    Case(
        "merge.large.0001",
        "merge",
        {
            "out_a": grid("merge a", (2, 3)),
            "lse_a": tensor([1000.0, -1000.0]),
            "out_b": grid("merge b", (2, 3)),
            "lse_b": tensor([1004.0, -996.0]),
        },
        clauses=["MERGE-UNION", "LSE-SHIFT"],
        flags=["LargeLogits"],
        catches=["merge/average", "merge/no_shift"],
    ),
    Case(
        "merge.empty.0001",
        "merge",
        {
            "out_a": tensor([[1.5, -2.0], [nan, inf], [0.0, 0.0]]),
            "lse_a": tensor([0.25, -inf, -inf]),
            "out_b": tensor([[0.0, 0.0], [4.0, 0.5], [0.0, 0.0]]),
            "lse_b": tensor([-inf, -3.0, -inf]),
        },
        clauses=["MERGE-IDENTITY"],
        flags=["MergeEmpty"],
        comment="Row 0: b is empty. Row 1: a is empty and holds garbage. Row 2: both are empty.",
        catches=["merge/no_guard"],
    ),
]
