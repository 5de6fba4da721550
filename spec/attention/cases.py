"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, inf, nan, tensor
from ..masks.cases import CAUSAL, all_of, padding, window
from ..vectors import call, case, grid, integers, params


def inputs(seed, b=2, h=3, n=5, m=7, d=4, dv=2, bits=6):
    """q, k, v with no two sizes equal; logits of a few units."""
    return {
        "q": grid(f"{seed} q", (b, h, n, d), bits=bits - 1),
        "k": grid(f"{seed} k", (b, h, m, d), bits=bits),
        "v": grid(f"{seed} v", (b, h, m, dv), bits=5),
    }


def one_head(seed, n, m, d=3, dv=2, bits=6):
    """q, k, v without leading axes."""
    return {
        "q": grid(f"{seed} q", (n, d), bits=bits - 1),
        "k": grid(f"{seed} k", (m, d), bits=bits),
        "v": grid(f"{seed} v", (m, dv), bits=5),
    }


def needles(n, m, targets):
    """Each query is aligned with one key, which alone gets nearly all the weight if it may be attended to.

    Keys are the 2^t corners of a cube, so that the aligned key's score leads by at least 16; values tell keys apart.
    """
    corner = [[1.0 if (j >> t) & 1 else -1.0 for t in range(5)] for j in range(m)]
    return {
        "q": tensor([[8.0 * x for x in corner[target]] for target in targets[:n]]),
        "k": tensor(corner),
        "v": tensor([[float(j), 8.0 - j] for j in range(m)]),
        "scale": 1.0,
    }


def bools(*rows):
    return tensor([[int(c) for c in row] for row in rows], dtype="bool")


def dropped(keep, rate):
    return params("Dropout", keep=keep, rate=rate)


def spiked(t, entries):
    """A copy of a tensor with some numbers replaced."""
    data = list(t.data)
    for place, value in entries.items():
        data[place] = value
    return Tensor(t.shape, data, t.dtype)


POISONED = one_head("poison", 3, 5)
POISONED_K = {**POISONED, "k": spiked(POISONED["k"], {6: nan, 7: inf, 8: -inf, 12: 30720.0})}
POISONED_V = {**POISONED, "v": spiked(POISONED["v"], {4: nan, 5: inf, 8: -inf})}
WITHOUT_2_AND_4 = bools("11010", "10010", "01000")

CASES = [
    case(
        "attention.basic.0001: ATTN-OUT ATTN-SCALE ATTN-LSE ATTN-VALUES; Basic",
        call("attention", **inputs("basic"), return_lse=True),
        "scale/one_over_d scale/none scale/twice lse/base_2 lse/unscaled keys/last_dropped "
        "causal/assumed_top_left values/one_later values/size_of_keys scale/inverted lse/negated tail/dropped "
        "tail/zeros",
    ),
    case(
        "attention.scale.0001: ATTN-SCALE ATTN-BIAS ATTN-ORDER; OtherScale Bias",
        call("attention", **inputs("scale"), scale=0.1875, bias=grid("scale b", (5, 7), bits=6), return_lse=True),
        "scale/ignored bias/scaled bias/ignored exponent/base_2 scale/lost_with_bias scale/on_weights",
    ),
    case(
        "attention.scale.0002: ATTN-SCALE; OtherScale",
        call("attention", **one_head("negative scale", 3, 5), scale=-0.75),
        "scale/square_root_on_both scale/absolute",
        comment="A negative scale: the square root of it cannot be moved onto q and k.",
    ),
    case(
        "attention.scale.0003: ATTN-SCALE; OtherScale",
        call("attention", **one_head("zero scale", 2, 3), scale=0.0, return_lse=True),
        "scale/ignored scale/lost_with_return_lse scores/zero_excluded scale/zero_is_default lse/maximum_only",
        comment="Scale 0 means equal weights; it is not 'no scale given'.",
    ),
    case(
        "attention.causal.0001: ATTN-ALIGN ATTN-MASK; CausalAlignment",
        call("attention", **inputs("causal"), mask=CAUSAL, return_lse=True),
        "causal/top_left causal/strict causal/one_more mask/ignored mask/infinity_times_zero mask/of_last_row "
        "mask/of_first_row mask/by_tiles tile/last_left_out tile/first_left_out tile/one_too_many",
        comment="5 queries are the last 5 of 7 positions.",
    ),
    case(
        "attention.causal.0002: ATTN-ALIGN ATTN-EMPTY; CausalAlignment EmptyRow",
        call("attention", **inputs("causal tall", n=7, m=5, d=3), mask=CAUSAL, return_lse=True),
        "causal/top_left empty_row/nan empty_row/mean empty_row/lse_plus_infinity empty_row/lse_finite "
        "causal/lost_with_return_lse mask/lost_with_return_lse mask/after_softmax keys/first_dropped "
        "features/last_dropped softmax/over_queries lse/sum_only lse/before_mask lse/constant_added",
        comment="7 queries over 5 keys: the first two lie before every key.",
    ),
    case(
        "attention.causal.0003: ATTN-ALIGN; CausalAlignment",
        call("attention", **one_head("decode", 1, 6), mask=CAUSAL),
        "causal/top_left",
        comment="One step of decoding: the query sees everything.",
    ),
    case(
        "attention.causal.0004: ATTN-ALIGN ATTN-MASK; CausalAlignment Needle",
        call("attention", **needles(4, 6, [3, 4, 0, 5]), mask=CAUSAL),
        "causal/one_more causal/top_left keys/last_dropped mask/ignored causal/lost_with_scale "
        "mask/lost_with_scale scale/lost_with_mask causal/lost_without_heads features/tail_of_8_dropped",
        comment="Queries 0 and 1 are aligned with keys that lie just beyond what they may see, 3 with the last key.",
    ),
    case(
        "attention.window.0001: ATTN-MASK ATTN-ALIGN; Window Needle",
        call("attention", **needles(4, 8, [1, 1, 3, 7]), mask=all_of(CAUSAL, window(3, 0))),
        "mask/top_left window/one_more_left window/one_fewer_left window/top_left peak/of_first_key",
        comment="Queries at positions 4 to 7: at the left edge, just beyond it, at the edge again, and at themselves.",
    ),
    case(
        "attention.window.0002: ATTN-MASK ATTN-ALIGN; Window",
        call("attention", **inputs("window"), mask=window(2, 1), return_lse=True),
        "window/one_more_left window/one_fewer_left window/top_left window/right_ignored window/lost_alone "
        "window/by_tiles tile/first_left_out tile/last_left_out weights/float8_without_prescale",
    ),
    case(
        "attention.positions.0001: ATTN-ALIGN ATTN-MASK; FarPositions Window",
        call(
            "attention",
            **inputs("positions", n=3, m=5, d=4),
            mask=all_of(CAUSAL, window(40, 0)),
            q_positions=integers(1000, 1003, 990),
            k_positions=integers(959, 960, 1000, 963, 1001),
        ),
        "positions/ignored window/one_more_left window/lost_with_causal",
        comment="Positions far from 0 and out of order, as a rolling cache holds them.",
    ),
    case(
        "attention.mask.0001: ATTN-MASK ATTN-EMPTY ATTN-BROADCAST; DenseMask EmptyRow",
        call(
            "attention",
            **inputs("mask", b=2, h=3, n=4, m=5, d=7),
            mask=Tensor((2, 1, 4, 5), [int(c) for c in "1101000000011111000111100101110010101000"], "bool"),
            return_lse=True,
        ),
        "mask/polarity mask/multiplies mask/ignored mask/batch_on_heads fill/lowest_added fill/minus_1e4 "
        "empty_row/mean empty_row/nan empty_row/lse_plus_infinity mask/first_entry_for_all "
        "mask/first_query_for_all mask/tiled_over_heads",
        comment="One mask a batch entry; the second query of the first may attend to nothing.",
    ),
    case(
        "attention.mask.0002: ATTN-MASK ATTN-ALIGN; DenseMask CausalAlignment",
        call(
            "attention",
            **inputs("two masks", b=3, h=2, n=4, m=6, d=5),
            mask=all_of(CAUSAL, padding(integers([6], [4], [3]))),
        ),
        "causal/lost_with_mask mask/lost_with_causal causal/top_left",
        comment="Padding and causality together; the lengths differ by batch entry.",
    ),
    case(
        "attention.absent.0001: ATTN-ABSENT; Poison",
        call("attention", **POISONED_K, mask=WITHOUT_2_AND_4, return_lse=True),
        "mask/adds",
        comment="Excluded keys hold NaN, infinities and a large number.",
    ),
    case(
        "attention.absent.0002: ATTN-ABSENT; Poison",
        call("attention", **POISONED_V, mask=WITHOUT_2_AND_4, return_lse=True),
        "values/multiplied_by_zero",
        comment="Excluded values hold NaN and infinities.",
    ),
    case(
        "attention.absent.0003: ATTN-ABSENT ATTN-OUT; Poison",
        call("attention", **POISONED_V, mask=bools("11110", "11011", "10010")),
        "values/cleaned keys/last_twice softmax/not_divided scale/size_of_values scale/size_of_both "
        "scale/number_of_keys exponent/log2e_twice",
        comment="Some of those values may be attended to: their rows are infinite or NaN, the last row is not.",
    ),
    case(
        "attention.bias.0001: ATTN-BIAS ATTN-LSE ATTN-BROADCAST; Bias",
        call(
            "attention",
            **inputs("bias", b=2, h=3, n=2, m=5, d=4),
            bias=grid("bias b", (3, 1, 5), bits=5),
            return_lse=True,
        ),
        "bias/scaled bias/ignored lse/before_bias bias/multiplies",
    ),
    case(
        "attention.bias.0002: ATTN-BIAS ATTN-ABSENT ATTN-EMPTY; Bias Poison EmptyRow",
        call(
            "attention",
            **POISONED_K | {"v": POISONED_V["v"]},
            bias=tensor([[0.5, -1.0, -inf, 0.25, -inf], [-inf] * 5, [0.0, -2.0, -inf, 1.5, -inf]]),
            return_lse=True,
        ),
        "bias/infinity_adds bias/lost_with_return_lse bias/lowest_overflows",
        comment="A bias of -infinity excludes as a mask does, poison and empty row included.",
    ),
    case(
        "attention.softcap.0001: ATTN-SOFTCAP ATTN-ORDER; Softcap LargeLogits",
        call(
            "attention",
            **inputs("softcap", n=3, m=5, d=4, bits=4),
            softcap=2.5,
            bias=grid("softcap b", (3, 5), bits=5),
            mask=bools("11011", "01110", "10111"),
            return_lse=True,
        ),
        "softcap/after_mask softcap/after_bias softcap/ignored softcap/s_tanh_s softcap/before_scale "
        "softcap/lost_with_mask softcap/lost_with_return_lse softcap/lost_with_bias bias/negated lse/tokens_first "
        "lse/before_softcap softcap/after_padding",
        comment="Logits well beyond the cap; bias and mask come after it.",
    ),
    case(
        "attention.softcap.0002: ATTN-SOFTCAP; Softcap",
        call("attention", **one_head("softcap zero", 2, 3), softcap=0.0),
        "softcap/zero_divides softcap/zero_flattens",
        comment="A cap of 0 is none.",
    ),
    case(
        "attention.sink.0001: ATTN-SINK ATTN-LSE ATTN-EMPTY; Sink EmptyRow",
        call(
            "attention",
            **inputs("sink", b=2, h=3, n=4, m=5, d=7),
            sinks=tensor([0.75, -2.0, 3.0]),
            mask=bools("11010", "00000", "01111", "10001"),
            scale=0.25,
            return_lse=True,
        ),
        "sink/ignored sink/after_shift sink/in_lse sink/scaled sink/as_key_with_mean_value mask/lost_with_sinks "
        "scale/lost_with_sinks sinks/lost_with_mask sinks/lost_with_return_lse sinks/lost_with_scale sink/zero "
        "sink/negated sink/base_2 sink/first_for_all sink/value_of_first_key sink/not_in_maximum",
    ),
    case(
        "attention.sink.0002: ATTN-SINK; Sink OtherScale",
        call("attention", **one_head("sink far", 2, 3), sinks=Tensor((), [-inf]), scale=1.5),
        "scale/ignored",
        comment="A sink of -infinity is none.",
    ),
    case(
        "attention.dropout.0001: ATTN-DROPOUT; Dropout",
        call(
            "attention",
            **inputs("dropout", n=3, m=5, d=4),
            dropout=dropped(bools("11011", "00110", "10111"), 0.125),
            return_lse=True,
        ),
        "dropout/one_over_rate dropout/not_rescaled dropout/renormalised dropout/ignored "
        "dropout/lost_with_return_lse dropout/inverted dropout/times_rate dropout/on_scores dropout/in_lse "
        "dropout/before_sum",
    ),
    case(
        "attention.dropout.0002: ATTN-DROPOUT ATTN-EMPTY; Dropout CausalAlignment",
        call(
            "attention",
            **inputs("all dropped", n=3, m=5, d=4),
            mask=CAUSAL,
            dropout=dropped(bools("00011", "01001", "11010"), 0.25),
            return_lse=True,
        ),
        "dropout/nan_where_all_dropped",
        comment="The first query sees three keys, which are all dropped: zeros, and the log-sum-exp of what it sees.",
    ),
    case(
        "attention.padding.0001: ATTN-MASK; DenseMask",
        call("attention", **inputs("padding", n=5, m=5, d=4), mask=padding(3)),
        "padding/on_queries mask/transposed",
        comment="As many queries as keys: padding hides keys, whoever asks.",
    ),
    case(
        "attention.large.0001: ATTN-OUT ATTN-LSE; LargeLogits",
        call(
            "attention",
            q=tensor([[64.0, -32.0], [-64.0, -60.0], [0.5, 0.25]]),
            k=tensor([[30.0, 40.0], [31.0, 40.0], [30.5, 41.0], [-30.0, 2.0]]),
            v=tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0], [0.5, 0.5, 0.5]]),
            scale=1.0,
            return_lse=True,
        ),
        "peak/none causal/assumed lse/maximum_missing",
        comment="Scores of hundreds and thousands, of both signs.",
    ),
    case(
        "attention.large.0002: ATTN-OUT ATTN-LSE; LargeLogits",
        call(
            "attention",
            q=tensor([[-240.0, -224.0], [-248.0, -252.0]]),
            k=tensor([[128.0, 120.0], [126.0, 123.0], [130.0, 117.0]]),
            v=tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0]]),
            scale=1.0,
            return_lse=True,
        ),
        "peak/from_zero fill/minus_5e4 peak/none peak/minus_1e4",
        comment="All scores lie below -5e4, where sentinels have been mistaken for the maximum.",
    ),
    case(
        "attention.options.0001: ATTN-ORDER ATTN-MASK ATTN-BIAS ATTN-SCALE ATTN-SOFTCAP ATTN-SINK ATTN-DROPOUT; "
        "AllOptions",
        call(
            "attention",
            **inputs("options", b=2, h=3, n=4, m=6, d=5, dv=2, bits=5),
            mask=all_of(CAUSAL, window(3, 2)),
            bias=grid("options b", (3, 4, 6), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.5, -0.25, 2.0]),
            dropout=dropped(bools("110111", "101101", "111011", "011110"), 0.25),
            return_lse=True,
        ),
        "causal/lost_with_bias mask/lost_with_bias causal/lost_with_softcap mask/lost_with_softcap "
        "causal/lost_with_sinks causal/lost_with_dropout mask/lost_with_dropout bias/lost_with_mask "
        "bias/lost_with_scale bias/lost_with_softcap bias/lost_with_sinks bias/lost_with_dropout "
        "scale/lost_with_softcap scale/lost_with_dropout softcap/lost_with_scale softcap/lost_with_sinks "
        "softcap/lost_with_dropout sinks/lost_with_softcap sinks/lost_with_dropout dropout/lost_with_mask "
        "dropout/lost_with_scale dropout/lost_with_bias dropout/lost_with_softcap dropout/lost_with_sinks "
        "bias/first_head_for_all softcap/factor_missing softcap/not_divided softcap/clips softcap/scaled_twice "
        "sink/capped dropout/times_kept_share",
        comment="Every option at once, so that one which is lost beside another is missed.",
    ),
    case(
        "attention.axes.0001: ATTN-BROADCAST ATTN-MASK ATTN-BIAS ATTN-LSE ATTN-SINK; EqualSizes DenseMask Bias",
        call(
            "attention",
            **inputs("axes", b=3, h=3, n=3, m=3, d=5, dv=4),
            mask=Tensor((3, 1, 3, 3), [int(c) for c in "110011011101110111011111101"], "bool"),
            bias=grid("axes b", (3, 1, 3, 3), bits=6),
            sinks=tensor([0.5, -1.0, 2.0]),
            return_lse=True,
        ),
        "sinks/lost_with_bias mask/transposed bias/batch_on_heads bias/first_entry_for_all bias/transposed "
        "sink/twice sink/on_batch",
        comment="B = H = N = M = 3: no shape shows that axes were exchanged.",
    ),
    case(
        "attention.axes.0002: ATTN-BROADCAST ATTN-MASK; Broadcast DenseMask",
        call(
            "attention",
            **inputs("axes heads", b=2, h=3, n=2, m=5, d=4, dv=3),
            mask=Tensor((1, 3, 2, 5), [int(c) for c in "110110111010101011011111001101"], "bool"),
            bias=grid("axes heads b", (3, 1, 1), bits=5),
        ),
        "mask/first_head_for_all",
        comment="A mask of its own for each head, and a bias (H, 1, 1) that shifts whole heads and so changes nothing.",
    ),
    case(
        "attention.axes.0003: ATTN-OUT ATTN-BROADCAST; EqualSizes",
        call("attention", **inputs("axes tokens", b=2, h=3, n=4, m=4, d=5, dv=5), scale=0.5),
        "heads/bshd_as_bhsd",
        comment="As many queries as keys and nothing else: attention over heads instead of tokens would pass every check"
        " of shapes.",
    ),
    case(
        "attention.bias.0003: ATTN-BIAS ATTN-EMPTY; Bias LargeLogits",
        call(
            "attention",
            **one_head("bias low", 3, 4, dv=3),
            bias=tensor([[-28672.0] * 4, [-28672.0, 0.0, -12288.0, 0.5], [0.5, -0.25, 0.0, 1.0]]),
            return_lse=True,
        ),
        "bias/twice bias/low_excludes lse/times_ln_2",
        comment="A finite bias excludes nothing, however low: the first row is as if it had none.",
    ),
    case(
        "attention.bias.0004: ATTN-BIAS ATTN-EMPTY; Bias LargeLogits",
        call("attention", **one_head("bias lowest", 2, 1, dv=3), bias=tensor([[-(2.0**127) * (2 - 2.0**-7)], [0.5]])),
        comment="The lowest number of bfloat16 in a whole row is finite: the row is not empty, its one key has all the weight.",
        wide=True,
    ),
    case(
        "attention.mask.0003: ATTN-EMPTY ATTN-MASK; EmptyRow Window",
        call(
            "attention",
            **inputs("mask tall", b=2, h=1, n=7, m=4, d=3),
            mask=all_of(CAUSAL, window(1, 0)),
            return_lse=True,
        ),
        "fill/two_lowest",
        comment="Two rules that both exclude every key of the first queries.",
    ),
    case(
        "attention.mask.0004: ATTN-MASK; Basic",
        call("attention", **inputs("no mask", b=1, h=2, n=4, m=6, d=3), return_lse=True),
        comment="No mask means none: nothing is causal unless it is said.",
    ),
    case(
        "attention.causal.0005: ATTN-ALIGN ATTN-BROADCAST; CausalAlignment",
        call("attention", **one_head("causal alone", 4, 6), mask=CAUSAL, return_lse=True),
        "mask/offset_negated",
        comment="No axes for batch and heads.",
    ),
    case(
        "attention.window.0003: ATTN-MASK; Window",
        call("attention", **one_head("window all", 5, 5), mask=window(4, 0)),
        comment="A window as long as the sequence is plain causality.",
    ),
    case(
        "attention.large.0003: ATTN-OUT ATTN-LSE; LargeLogits",
        call(
            "attention",
            q=tensor([[-160.0, -128.0], [-144.0, -136.0]]),
            k=tensor([[64.0, 60.0], [63.0, 61.0], [65.0, 58.0]]),
            v=tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0]]),
            scale=1.0,
            return_lse=True,
        ),
        "lse/bfloat16",
        comment="All scores lie between -5e4 and -1e4.",
    ),
    case(
        "attention.large.0004: ATTN-OUT ATTN-SCALE; LargeLogits",
        call(
            "attention",
            q=tensor([[240.0, 96.0], [-224.0, 128.0]]),
            k=tensor([[256.0, 192.0], [240.0, 200.0], [248.0, 180.0]]),
            v=tensor([[61440.0, -3.0], [61440.0, 5.0], [61440.0, 1.0]]),
            scale=2.0**-13,
        ),
        "scores/overflow_float16 values/overflow_float16",
        comment="Products and sums of values beyond 65,504, the largest number of float16; scores and output are below it.",
    ),
    case(
        "attention.long.0001: ATTN-OUT ATTN-LSE; ManyKeys",
        call(
            "attention",
            q=tensor([[1.0, 0.5], [0.75, -0.25]]),
            k=Tensor(
                (259, 2), [x for j in range(259) for x in ((j % 7 - 3) / 4 + (j // 16) / 4, (j * 5 % 11 - 5) / 4)]
            ),
            v=Tensor((259, 2), [x for j in range(259) for x in (float(j % 17 - 8), (j * 3 % 13 - 6) / 2)]),
            return_lse=True,
        ),
        "keys/index_wraps_256 values/index_wraps_256 keys/index_sign_256 rescale/missing rescale/output_missing "
        "tail/dropped tail/zeros",
        comment="259 keys whose scores grow: more than an index of 8 bits counts, no multiple of any tile.",
    ),
    case(
        "attention.nothing.0001: ATTN-EMPTY; EmptyRow",
        call(
            "attention",
            **one_head("no keys", 3, 0) | {"k": Tensor((0, 3), []), "v": Tensor((0, 2), [])},
            return_lse=True,
        ),
        comment="M = 0.",
    ),
    case(
        "attention.nothing.0002: ATTN-EMPTY; EmptyRow",
        call("attention", **one_head("no queries", 0, 3), mask=CAUSAL, return_lse=True),
        comment="N = 0.",
    ),
    case(
        "attention.broadcast.0001: ATTN-BROADCAST ATTN-VALUES; Broadcast",
        call(
            "attention",
            q=grid("broadcast q", (3, 2, 2, 4), bits=5),
            k=grid("broadcast k", (2, 5, 4), bits=6),
            v=grid("broadcast v", (3, 1, 5, 3), bits=5),
            bias=grid("broadcast b", (5,), bits=5),
        ),
        "bias/ignored",
    ),
    case(
        "attention.broadcast.0002: ATTN-BROADCAST ATTN-LSE; Broadcast",
        call(
            "attention",
            q=grid("broadcast again q", (2, 1, 4), bits=5),
            k=grid("broadcast again k", (3, 4), bits=6),
            v=grid("broadcast again v", (3, 1, 3, 2), bits=5),
            return_lse=True,
        ),
        comment="Only v has the first axis: lse repeats along it.",
    ),
    case(
        "attention_weights.sink.0001: ATTN-WEIGHTS ATTN-SINK; Sink Window",
        call(
            "attention_weights",
            **{name: x for name, x in inputs("weights", b=2, h=3, n=4, m=5, d=7).items() if name != "v"},
            mask=window(2, 0),
            sinks=tensor([[0.5], [-1.0]]),
        ),
        "sink/ignored weights/transposed_mask",
    ),
    case(
        "attention_stages.all.0001: ATTN-ORDER ATTN-SOFTCAP ATTN-BIAS ATTN-SINK ATTN-DROPOUT; AllOptions",
        call(
            "attention_stages",
            **inputs("stages", b=2, h=1, n=3, m=4, d=5, dv=2, bits=5),
            mask=all_of(CAUSAL, window(2, 0)),
            bias=tensor([[0.5, -1.0, -inf, 0.25]]),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25]),
            dropout=dropped(bools("1101", "1110", "0111"), 0.25),
        ),
        comment="Every option at once, stage by stage: the first stage that differs is where a kernel leaves the path.",
    ),
    case(
        "attention.refuse.0001: ATTN-REFUSE; WrongInput",
        call("attention", **one_head("refuse d", 2, 3) | {"k": grid("refuse k", (3, 4))}),
        comment="Head sizes differ.",
    ),
    case(
        "attention.refuse.0002: ATTN-REFUSE; WrongInput",
        call("attention", **one_head("refuse m", 2, 3) | {"v": grid("refuse v", (4, 2))}),
        comment="Four values for three keys.",
    ),
    case(
        "attention.refuse.0003: ATTN-REFUSE; WrongInput",
        call("attention", **one_head("refuse mask", 2, 3), mask=bools("1111", "1111")),
        comment="A mask for four keys.",
    ),
    case(
        "attention.refuse.0004: ATTN-REFUSE; WrongInput",
        call("attention", **one_head("refuse cap", 2, 3), softcap=-1.0),
        comment="A negative cap.",
    ),
    case(
        "attention.refuse.0005: ATTN-REFUSE; WrongInput",
        call("attention", **one_head("refuse rate", 2, 3), dropout=dropped(bools("111", "111"), 1.0)),
        comment="A dropout rate of 1.",
    ),
]
