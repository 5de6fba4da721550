"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import CAUSAL, padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped

GROUPED = grouped("longformer group", n=6, m=8)
ONE = one_head("longformer one", 6, 9)
SQUARE = inputs("longformer", b=2, h=1, n=7, m=7)
SMALL = {"d_out": grid("longformer vjp d_out", (4, 2), bits=5), **one_head("longformer vjp", 4, 5, d=2)}


def own(of, seed):
    """Global projections of the shapes of the local ones."""
    bits = {"q": 5, "k": 6, "v": 5}
    return {f"global_{x}": grid(f"longformer {seed} global {x}", of[x].shape, bits=bits[x]) for x in bits}


CASES = [
    case(
        "longformer_attention.basic.0001: LONGFORMER-KEYS LONGFORMER-GLOBAL LONGFORMER-ONCE LONGFORMER-COST; GlobalTokens Window",
        call(
            "sparse.longformer_attention",
            **SQUARE,
            left=2,
            right=1,
            global_tokens=integers(0, 4),
            **own(SQUARE, "basic"),
            return_lse=True,
        ),
        "longformer/counted_twice longformer/local_projections longformer/local_values longformer/global_keys_for_all "
        "longformer/rows_near longformer/columns_missing longformer/forgotten longformer/half_window",
        comment="A start token and one amid the others, which is in the windows of its neighbours.",
    ),
    case(
        "longformer_attention.chunks.0001: LONGFORMER-KEYS; GlobalTokens Window",
        call("sparse.longformer_attention", **SQUARE, left=2, right=2, global_tokens=integers(0)),
        "longformer/neighbouring_chunks",
    ),
    case(
        "longformer_attention.shared.0001: LONGFORMER-GLOBAL LONGFORMER-KEYS; GlobalTokens Window",
        call("sparse.longformer_attention", **ONE, left=1, right=0, global_tokens=integers(1, 5, 8), return_lse=True),
        "longformer/places",
        comment="Six queries at positions 3 to 8, two of them global, without projections of their own: a mask.",
    ),
    case(
        "longformer_attention.tokens.0001: LONGFORMER-TOKENS LONGFORMER-ONCE; GlobalTokens Repeats",
        call(
            "sparse.longformer_attention",
            **SQUARE,
            left=1,
            right=1,
            global_tokens=integers([[5, -1, 5]], [[3, 1, -1]]),
            **own(SQUARE, "tokens"),
            return_lse=True,
        ),
        "longformer/empty_is_first longformer/empty_is_last longformer/tokens_of_first longformer/tokens_counted",
        comment="Sequences with one global token, which is listed twice, and with two.",
    ),
    case(
        "longformer_attention.mask.0001: LONGFORMER-MASK; GlobalTokens Window",
        call(
            "sparse.longformer_attention",
            **SQUARE,
            left=2,
            right=2,
            global_tokens=integers(0, 3),
            mask=padding(lengths=integers([5], [7])),
            **own(SQUARE, "mask"),
            return_lse=True,
        ),
        "longformer/mask_near_only",
    ),
    case(
        "longformer_attention.causal.0001: LONGFORMER-MASK; GlobalTokens CausalAlignment",
        call(
            "sparse.longformer_attention",
            **ONE,
            left=2,
            right=0,
            global_tokens=integers(0, 5),
            mask=CAUSAL,
            **own(ONE, "causal"),
            return_lse=True,
        ),
        "longformer/mask_near_only",
        comment="A language model: global tokens see what came before them, and are seen by what comes after.",
    ),
    case(
        "longformer_attention.empty.0001: LONGFORMER-MASK LONGFORMER-TOKENS; GlobalTokens EmptyRow",
        call(
            "sparse.longformer_attention",
            **one_head("longformer empty", 5, 3),
            left=0,
            right=0,
            global_tokens=integers(-1, 2),
            mask=CAUSAL,
            return_lse=True,
        ),
        comment="The first two queries stand at positions -2 and -1, and -1 is no global token.",
    ),
    case(
        "longformer_attention.options.0001: LONGFORMER-OPTIONS; GlobalTokens AllOptions GroupedHeads",
        call(
            "sparse.longformer_attention",
            **GROUPED,
            left=1,
            right=1,
            global_tokens=integers(0, 6),
            **own(GROUPED, "options"),
            bias=grid("longformer options b", (4, 6, 8), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            dropout=dropped(bools(*["11011011", "10110111"] * 3), 0.25),
            return_lse=True,
        ),
    ),
    case(
        "longformer_attention.absent.0001: LONGFORMER-KEYS LONGFORMER-GLOBAL; GlobalTokens Poison",
        call(
            "sparse.longformer_attention",
            **{
                **ONE,
                "q": spiked(ONE["q"], {6: nan}),
                "k": spiked(ONE["k"], {0: nan}),
                "v": spiked(ONE["v"], {0: nan}),
            },
            left=2,
            right=0,
            global_tokens=integers(5),
            **{x: spiked(y, {0: nan}) if x == "global_q" else y for x, y in own(ONE, "absent").items()},
            return_lse=True,
        ),
        comment="NaN in a key before all windows, in the local query of the global token, and in a global query that is not one.",
    ),
    case(
        "longformer_attention.refuse.0001: LONGFORMER-REFUSE LONGFORMER-TOKENS; WrongInput",
        call("sparse.longformer_attention", **ONE, left=1, right=1, global_tokens=integers(-2, 3)),
        comment="There is no position -2.",
    ),
    case(
        "longformer_attention.refuse.0002: LONGFORMER-REFUSE; WrongInput",
        call("sparse.longformer_attention", **ONE, left=1, right=1, global_tokens=integers(3), global_q=ONE["k"]),
        comment="As many global queries as there are keys.",
    ),
    case(
        "longformer_attention_vjp.basic.0001: LONGFORMER-GRADIENT; GlobalTokens Gradient",
        call(
            "sparse.longformer_attention_vjp",
            **SMALL,
            left=1,
            right=0,
            global_tokens=integers(0, 3),
            **own(SMALL, "vjp"),
            d_lse=grid("longformer vjp d_lse", (4,), bits=5),
        ),
        "gradient/of_global_rows_near",
        comment="Positions 1 to 4: one query is global, and key 0 is, without a query.",
    ),
    case(
        "longformer_attention_vjp.shared.0001: LONGFORMER-GRADIENT; GlobalTokens Gradient Softcap",
        call(
            "sparse.longformer_attention_vjp",
            **SMALL,
            left=0,
            right=1,
            global_tokens=integers(2, 4),
            softcap=2.0,
            mask=CAUSAL,
            global_v=own(SMALL, "shared vjp")["global_v"],
        ),
        comment="Global values of their own, with the local queries and keys.",
    ),
]
