"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, inputs, one_head, spiked
from ...exact import Tensor, inf, nan, tensor
from ...masks.cases import CAUSAL
from ...vectors import call, case, grid
from ..inputs import grouped

ONE = one_head("topk one", 5, 7)
GROUPED = grouped("topk group")
# Scores of integers, equal here and there; a scale of 1 rounds nothing.
TIED = {
    "q": tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]),
    "k": tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [2.0, 0.0], [1.0, 1.0], [2.0, -1.0], [0.0, 0.0]]),
    "v": grid("topk tied v", (7, 2), bits=5),
    "scale": 1.0,
}
LEVELS = tensor([[1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 2.0], [0.0] * 7, [3.0, 1.0, 1.0, -1.0, 1.0, 1.0, 0.0], [-2.0] * 7])
AGAINST = tensor([[float((3 * i + 5 * j) % 7) for j in range(7)] for i in range(5)])
SMALL = {"d_out": grid("topk vjp d_out", (3, 2), bits=5), **one_head("topk vjp", 3, 5, d=2)}

CASES = [
    case(
        "topk_attention.basic.0001: TOPK-KEYS TOPK-WEIGHTS TOPK-HEADS TOPK-COST; BestKeys",
        call("sparse.topk_attention", **inputs("topk", b=1, h=2), kept=3, return_lse=True),
        "topk/one_fewer topk/one_more topk/largest_magnitude topk/one_choice_for_heads topk/choice_of_first_head "
        "topk/choice_of_weights",
    ),
    case(
        "topk_attention.one.0001: TOPK-KEYS; BestKeys",
        call("sparse.topk_attention", **ONE, kept=1, return_lse=True),
        "topk/one_more",
        comment="One key: its value, and its score as the log-sum-exp.",
    ),
    case(
        "topk_attention.all.0001: TOPK-KEYS; BestKeys",
        call("sparse.topk_attention", **ONE, kept=9, return_lse=True),
        comment="More than there are: attention to all.",
    ),
    case(
        "topk_attention.ties.0001: TOPK-TIES; BestKeys Ties",
        call("sparse.topk_attention", **TIED, kept=2, return_lse=True),
        "topk/keeps_ties topk/last_of_ties",
        comment="Scores are small integers, which no format and no order of summation rounds.",
    ),
    case(
        "topk_attention.ties.0002: TOPK-TIES TOPK-SCORES; BestKeys Ties",
        call("sparse.topk_attention", **one_head("topk levels", 4, 7), kept=3, scores=LEVELS, return_lse=True),
        "topk/keeps_ties topk/last_of_ties topk/scores_ignored topk/scores_attend",
    ),
    case(
        "topk_attention.causal.0001: TOPK-MASK TOPK-FEWER; BestKeys CausalAlignment",
        call("sparse.topk_attention", **one_head("topk causal", 6, 6), kept=3, mask=CAUSAL, return_lse=True),
        "topk/mask_after_choice topk/absent_kept",
    ),
    case(
        "topk_attention.empty.0001: TOPK-FEWER TOPK-MASK; BestKeys EmptyRow DenseMask",
        call(
            "sparse.topk_attention",
            **one_head("topk empty", 3, 5),
            kept=2,
            mask=bools("00000", "00100", "11011"),
            return_lse=True,
        ),
        "topk/absent_kept topk/mask_after_choice",
    ),
    case(
        "topk_attention.scores.0001: TOPK-SCORES TOPK-HEADS; BestKeys GroupedHeads",
        call("sparse.topk_attention", **GROUPED, kept=3, scores=AGAINST, mask=CAUSAL, return_lse=True),
        "topk/scores_ignored topk/scores_attend topk/mask_after_choice",
        comment="An indexer's scores, which all heads share; four query heads over two key/value heads.",
    ),
    case(
        "topk_attention.absent.0001: TOPK-SCORES TOPK-MASK; BestKeys Poison EmptyRow",
        call(
            "sparse.topk_attention",
            **{**ONE, "k": spiked(ONE["k"], {0: nan, 20: nan}), "v": spiked(ONE["v"], {0: nan, 13: nan})},
            kept=3,
            mask=bools(*["0111110"] * 5),
            scores=Tensor(
                (5, 7),
                [
                    -inf if (i, j) in ((1, 2), (1, 3), (1, 4)) or i == 3 else x
                    for i, row in enumerate(AGAINST)
                    for j, x in enumerate(row)
                ],
            ),
            return_lse=True,
        ),
        comment="Keys whose score is -infinity are never kept; what the mask excludes holds NaN.",
    ),
    case(
        "topk_attention.order.0001: TOPK-ORDER; BestKeys Bias Softcap OtherScale",
        call(
            "sparse.topk_attention",
            **ONE,
            kept=2,
            scale=-0.75,
            softcap=2.0,
            bias=grid("topk bias", (5, 7), bits=5),
            return_lse=True,
        ),
        "topk/before_bias",
    ),
    case(
        "topk_attention.options.0001: TOPK-OPTIONS; BestKeys AllOptions GroupedHeads",
        call(
            "sparse.topk_attention",
            **GROUPED,
            kept=4,
            mask=CAUSAL,
            bias=grid("topk options b", (4, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            dropout=dropped(bools(*["1101101", "1011011"] * 2, "1110111"), 0.25),
            return_lse=True,
        ),
        comment="A sink takes no place among the kept; dropout takes from those that are.",
    ),
    case(
        "topk_attention.refuse.0001: TOPK-REFUSE; WrongInput",
        call("sparse.topk_attention", **ONE, kept=0),
        comment="No key is kept.",
    ),
    case(
        "topk_attention.refuse.0002: TOPK-REFUSE; WrongInput",
        call("sparse.topk_attention", **ONE, kept=2, scores=LEVELS),
        comment="Scores for four queries, and there are five.",
    ),
    case(
        "topk_attention_vjp.basic.0001: TOPK-GRADIENT; BestKeys Gradient",
        call("sparse.topk_attention_vjp", **SMALL, kept=2, d_lse=grid("topk vjp d_lse", (3,), bits=5)),
        "gradient/of_all_keys",
    ),
    case(
        "topk_attention_vjp.scores.0001: TOPK-GRADIENT TOPK-SCORES; BestKeys Gradient Softcap",
        call(
            "sparse.topk_attention_vjp",
            **SMALL,
            kept=2,
            scores=tensor([[1.0, 1.0, 0.0, 1.0, 0.0], [0.0, 2.0, 1.0, 2.0, -1.0], [-inf, 3.0, -inf, -inf, -inf]]),
            softcap=2.0,
        ),
        "gradient/of_all_keys",
        comment="No query keeps key 4, and the last has one key alone.",
    ),
]
