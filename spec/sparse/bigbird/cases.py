"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import CAUSAL
from ...vectors import call, case, grid, integers
from ..inputs import grouped

TABLE = integers([3, 4], [4, -1], [1, 0], [1, 2])  # of six blocks
OVER = integers([2, 4], [5, 5], [0, 1], [4, 2])
OF_HEADS = integers([[3], [5], [1], [2]], [[4], [4], [-1], [1]])
ONE = one_head("bigbird one", 7, 11)
GROUPED = grouped("bigbird group", n=7, m=11)
SMALL = {"d_out": grid("bigbird vjp d_out", (5, 2), bits=5), **one_head("bigbird vjp", 5, 6, d=2)}

CASES = [
    case(
        "bigbird_attention.basic.0001: BIGBIRD-KEYS BIGBIRD-GLOBAL BIGBIRD-RANDOM BIGBIRD-ALIGN BIGBIRD-COST; Blocks GlobalTokens",
        call(
            "sparse.bigbird_attention",
            **inputs("bigbird", b=1, h=2, n=11, m=11),
            size=2,
            random_blocks=TABLE,
            return_lse=True,
        ),
        "bigbird/no_random bigbird/rows_near bigbird/first_block_only bigbird/empty_is_last bigbird/table_of_all_rows "
        "bigbird/table_of_zeros bigbird/no_global",
        comment="Six blocks, of which the last has one key.",
    ),
    case(
        "bigbird_attention.heads.0001: BIGBIRD-RANDOM BIGBIRD-ALIGN; Blocks",
        call(
            "sparse.bigbird_attention", **inputs("bigbird heads", b=1, h=2, n=7, m=11), size=2, random_blocks=OF_HEADS
        ),
        "bigbird/table_of_first_head bigbird/top_left",
        comment="Seven queries at places 4 to 10.",
    ),
    case(
        "bigbird_attention.once.0001: BIGBIRD-REPEATS; Blocks Repeats",
        call("sparse.bigbird_attention", **ONE, size=2, random_blocks=OVER, return_lse=True),
        "bigbird/counted",
        comment="Blocks that are near, global or named twice.",
    ),
    case(
        "bigbird_attention.count.0001: BIGBIRD-REPEATS; Blocks Repeats",
        call("sparse.bigbird_attention", **ONE, size=2, random_blocks=OVER, repeats="count", return_lse=True),
        "bigbird/once",
    ),
    case(
        "bigbird_attention.extra.0001: BIGBIRD-EXTRA; Blocks GlobalTokens",
        call(
            "sparse.bigbird_attention",
            **inputs("bigbird extra", b=1, h=1, n=10, m=10),
            size=2,
            extra=1,
            random_blocks=integers([3], [-1], [1]),
            return_lse=True,
        ),
        "bigbird/extra_in_blocks",
    ),
    case(
        "bigbird_attention.tall.0001: BIGBIRD-ALIGN BIGBIRD-MASK; Blocks EmptyRow CausalAlignment",
        call(
            "sparse.bigbird_attention",
            **one_head("bigbird tall", 7, 5),
            size=1,
            random_blocks=integers([3], [-1], [1]),
            mask=CAUSAL,
            return_lse=True,
        ),
        comment="The first two queries stand before the first place.",
    ),
    case(
        "bigbird_attention.options.0001: BIGBIRD-OPTIONS; Blocks AllOptions GroupedHeads",
        call(
            "sparse.bigbird_attention",
            **GROUPED,
            size=2,
            random_blocks=TABLE,
            mask=CAUSAL,
            bias=grid("bigbird options b", (4, 7, 11), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            return_lse=True,
        ),
    ),
    case(
        "bigbird_attention.absent.0001: BIGBIRD-KEYS; Blocks Poison",
        call(
            "sparse.bigbird_attention",
            **{
                "q": grid("bigbird absent q", (2, 3)),
                "k": spiked(grid("bigbird absent k", (4, 3)), {3: nan}),
                "v": grid("bigbird absent v", (4, 2)),
            },
            size=1,
            random_blocks=integers([-1], [0]),
        ),
        comment="Key 1 holds NaN: the last query, a global one, meets it, and the one before it does too.",
    ),
    case(
        "bigbird_attention.refuse.0001: BIGBIRD-REFUSE; WrongInput",
        call("sparse.bigbird_attention", **ONE, size=2, random_blocks=integers([3], [4])),
        comment="Six blocks have four rows.",
    ),
    case(
        "bigbird_attention.refuse.0002: BIGBIRD-REFUSE; WrongInput",
        call("sparse.bigbird_attention", **ONE, size=2, random_blocks=integers([3], [4], [6], [1])),
        comment="There is no block 6.",
    ),
    case(
        "bigbird_attention_vjp.basic.0001: BIGBIRD-GRADIENT; Blocks Gradient Repeats",
        call(
            "sparse.bigbird_attention_vjp",
            **SMALL,
            size=1,
            random_blocks=integers([4], [-1], [3], [0]),
            repeats="count",
            d_lse=grid("bigbird vjp d_lse", (5,), bits=5),
        ),
    ),
]
