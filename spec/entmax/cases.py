"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, inf, nan, tensor
from ..vectors import call, case, grid

ROWS = grid("entmax rows", (2, 3, 5), bits=6)  # 2 x 3 rows of 5, a few units wide
NEAR = grid("entmax near", (3, 6), bits=7)
LARGE = tensor([[200.0, 201.0, 199.0], [-1000.0, -1004.0, -1000.0], [-59904.0, -60160.0, -59904.0]])
HOLES = {
    "x": tensor([[0.5, -inf, 0.75, -0.25], [3.0, nan, inf, 2.75], [-inf, -inf, -inf, -inf]]),
    "where": tensor([[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]], dtype="bool"),
}

CASES = [
    case(
        "entmax.rows.0001: ENTMAX-NORMAL ENTMAX-ZERO; SparseWeights Basic",
        call("entmax", x=ROWS),
        "entmax/softmax entmax/not_halved entmax/wide_support entmax/thresholded_softmax",
    ),
    case(
        "entmax.alpha.0001: ENTMAX-NORMAL; SparseWeights",
        call("entmax", x=NEAR, alpha=1.25),
        "entmax/alpha_ignored entmax/softmax",
        comment="Between softmax and the closed form.",
    ),
    case(
        "entmax.alpha.0002: ENTMAX-NORMAL; SparseWeights",
        call("entmax", x=NEAR, alpha=1.75),
        "entmax/alpha_ignored",
    ),
    case(
        "entmax.alpha.0003: ENTMAX-NORMAL ENTMAX-ZERO; SparseWeights",
        call("entmax", x=NEAR, alpha=3.0),
        "entmax/alpha_ignored",
        comment="Sparser than sparsemax.",
    ),
    case(
        "entmax.alpha.0004: ENTMAX-NORMAL ENTMAX-TWO; SparseWeights",
        call("entmax", x=ROWS, alpha=2.0),
        "entmax/alpha_ignored entmax/narrow_support entmax/wide_support",
    ),
    case("entmax.one.0001: ENTMAX-ONE; SparseWeights", call("entmax", x=NEAR, alpha=1.0), "entmax/alpha_ignored"),
    case(
        "entmax.ties.0001: ENTMAX-ZERO; SparseWeights Ties",
        call("entmax", x=tensor([[1.0, 1.0, 0.203125, -3.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 1.5]])),
        "entmax/first_of_ties",
    ),
    case(
        "entmax.axis.0001: ENTMAX-NORMAL; SparseWeights OtherAxis",
        call("entmax", x=ROWS, axis=1),
        "entmax/last_axis",
    ),
    case(
        "entmax.large.0001: ENTMAX-SHIFT; SparseWeights LargeLogits",
        call("entmax", x=LARGE),
        "entmax/padded_with_zero",
    ),
    case(
        "entmax.absent.0001: ENTMAX-ABSENT ENTMAX-EMPTY; SparseWeights Poison EmptyRow",
        call("entmax", **HOLES),
        "entmax/absent_is_zero entmax/empty_row_uniform",
    ),
    case(
        "entmax.absent.0002: ENTMAX-ABSENT ENTMAX-EMPTY; SparseWeights Poison EmptyRow",
        call("entmax", **HOLES, alpha=1.25),
        "entmax/empty_row_uniform",
    ),
    case("entmax.nothing.0001: ENTMAX-EMPTY; EmptyRow", call("entmax", x=Tensor((3, 0), []))),
    case(
        "entmax.refuse.0001: ENTMAX-REFUSE; WrongInput",
        call("entmax", x=NEAR, alpha=0.5),
        comment="Below 1 every entry has a weight, and the power is another one.",
    ),
    case(
        "sparsemax.rows.0001: ENTMAX-TWO ENTMAX-ZERO; SparseWeights Basic",
        call("sparsemax", x=ROWS),
        "sparsemax/clipped",
    ),
    case(
        "sparsemax.axis.0001: ENTMAX-TWO; SparseWeights OtherAxis",
        call("sparsemax", x=ROWS, axis=0),
    ),
    case(
        "sparsemax.absent.0001: ENTMAX-TWO ENTMAX-ABSENT ENTMAX-EMPTY; SparseWeights Poison EmptyRow",
        call("sparsemax", **HOLES),
    ),
    case(
        "entmax_vjp.basic.0001: ENTMAX-GRADIENT; SparseWeights Gradient",
        call("entmax_vjp", d_out=grid("entmax d", (3, 6), bits=5), x=NEAR),
        "gradient/of_softmax gradient/support_unweighted gradient/mean_of_all",
    ),
    case(
        "entmax_vjp.alpha.0001: ENTMAX-GRADIENT; SparseWeights Gradient OtherAxis",
        call("entmax_vjp", d_out=grid("entmax d alpha", (3, 6), bits=5), x=NEAR, alpha=1.25, axis=0),
        "gradient/of_softmax",
    ),
    case(
        "entmax_vjp.absent.0001: ENTMAX-GRADIENT ENTMAX-ABSENT; SparseWeights Gradient Poison EmptyRow",
        call(
            "entmax_vjp",
            d_out=tensor([[0.5, nan, 2.0, inf], [1.0, nan, inf, -2.0], [1.0, nan, 3.0, 4.0]]),
            **HOLES,
        ),
        comment="The cotangent of an entry of weight 0 counts for nothing.",
    ),
    case(
        "sparsemax_vjp.basic.0001: ENTMAX-GRADIENT ENTMAX-TWO; SparseWeights Gradient",
        call("sparsemax_vjp", d_out=grid("sparsemax d", (3, 6), bits=5), x=NEAR),
    ),
]
