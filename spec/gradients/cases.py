"""The inputs of the golden vectors; definition.py says what comes out."""

from ..attention.cases import bools, dropped, one_head, spiked
from ..exact import Tensor, inf, nan, tensor
from ..heads.cases import gains, rotary, tokens, weights
from ..heads.cases import packed as packed_weights
from ..masks.cases import CAUSAL, all_of, window
from ..vectors import call, case, grid, integers, params


def small(seed, lead=(), n=3, m=5, d=3, dv=2, d_lse=False):
    """q, k, v of one head for each leading index, and cotangents; no two sizes equal."""
    arguments = {
        "d_out": grid(f"{seed} d_out", (*lead, n, dv)),
        "q": grid(f"{seed} q", (*lead, n, d), bits=5),
        "k": grid(f"{seed} k", (*lead, m, d), bits=6),
        "v": grid(f"{seed} v", (*lead, m, dv)),
    }
    return arguments | ({"d_lse": grid(f"{seed} d_lse", (*lead, n))} if d_lse else {})


HOLES = bools("11010", "10010", "01000")  # no query attends to keys 2 and 4
SPARSE = bools("11011", "00000", "01110")  # query 1 attends to nothing
POISONED = one_head("poisoned", 3, 5)
POISONED |= {"d_out": grid("poisoned d_out", (3, 2)), "d_lse": grid("poisoned d_lse", (3,))}


def ignored_rows(seed, row=1):
    """Inputs whose query `row` holds NaN and infinities, its cotangents too."""
    found = small(seed, d_lse=True)
    found["q"] = spiked(found["q"], {3 * row: nan, 3 * row + 1: inf})
    found["d_out"] = spiked(found["d_out"], {2 * row: nan, 2 * row + 1: -inf})
    found["d_lse"] = spiked(found["d_lse"], {row: nan})
    return found


def grouped(seed, h=6, g=2, n=2, m=3, d=2, dv=3):
    return {
        "d_out": grid(f"{seed} d_out", (h, n, dv)),
        "q": grid(f"{seed} q", (h, n, d), bits=5),
        "k": grid(f"{seed} k", (g, m, d), bits=6),
        "v": grid(f"{seed} v", (g, m, dv)),
    }


def rows(seed, *shape, **others):
    """x and a cotangent of its shape."""
    return {"d_out": grid(f"{seed} d_out", shape), "x": grid(f"{seed} x", shape, bits=5), **others}


def network(kind, seed, e, f, out, bias=True):
    """Parameters of a feed-forward network, gated or not."""
    shapes = {"w_in": (e, f), "b_in": (f,), "w_out": (f, out), "b_out": (out,)}
    if kind == "GatedFeedForwardParams":
        shapes = {"w_gate": (e, f), "w_up": (e, f), "w_out": (f, out), "b_gate": (f,), "b_up": (f,), "b_out": (out,)}
    fields = {name: grid(f"{seed} {name}", shape, bits=6) for name, shape in shapes.items()}
    if not bias:
        fields |= {name: None for name in fields if name.startswith("b_")}
    return params(kind, **fields)


def activation(name, near="", far="", **options):
    """An activation around 0 and at both sides, and in the tails."""
    x = tensor([-6.0, -2.5, -1.0, -0.25, -0.0, 0.0, 0.125, 0.75, 1.5, 5.0])
    tails = tensor([-inf, -100.0, -20.0, 20.0, 100.0, inf, nan])
    d_tails = tensor([1.5, 1.0, -2.0, 0.5, 1.0, -3.0, 1.0])
    label = f"{name}_vjp{'_tanh' if options else ''}"
    return [
        case(
            f"{label}.near.0001: GRAD-ACT; Basic Gradient",
            call(f"{name}_vjp", d_out=grid(f"{name} near", x.shape), x=x, **options),
            near,
        ),
        case(
            f"{label}.far.0001: GRAD-ACT GRAD-ACT-RANGE GRAD-ACT-TAIL; Tails Gradient",
            call(f"{name}_vjp", d_out=d_tails, x=tails, **options),
            far,
            comment="Infinities have the limit of the derivative.",
        ),
    ]


ATTENTION = [
    case(
        "attention_vjp.basic.0001: GRAD-EXACT GRAD-SCALE; Basic Gradient",
        call("attention_vjp", **small("basic")),
        "gradient/causal_assumed causal/assumed causal/assumed_top_left",
    ),
    case(
        "attention_vjp.values.0001: GRAD-EXACT; Gradient",
        call("attention_vjp", **small("values", n=2, m=3, d=2, dv=4)),
        "gradient/delta_over_d",
        comment="Values wider than queries: the sum of d_out and out runs over Dv columns, not D.",
    ),
    case(
        "attention_vjp.scale.0001: GRAD-SCALE GRAD-BIAS; Gradient OtherScale Bias",
        call("attention_vjp", **small("scale"), scale=0.1875, bias=grid("scale b", (3, 5), bits=6)),
        "gradient/q_unscaled gradient/k_unscaled gradient/k_scaled_twice gradient/default_scale "
        "gradient/scale_of_scaled_scores gradient/bias_scaled gradient/bias_ignored",
    ),
    case(
        "attention_vjp.scale.0002: GRAD-SCALE; Gradient OtherScale",
        call("attention_vjp", **small("zero scale"), scale=0.0),
        "gradient/q_unscaled gradient/k_unscaled gradient/default_scale",
        comment="Scale 0: queries and keys have gradient 0, the scale has not.",
    ),
    case(
        "attention_vjp.causal.0001: GRAD-MASK GRAD-ABSENT; Gradient CausalAlignment",
        call("attention_vjp", **small("causal", (2,)), mask=CAUSAL),
        "gradient/causal_top_left causal/top_left",
    ),
    case(
        "attention_vjp.causal.0002: GRAD-EMPTY GRAD-MASK; Gradient CausalAlignment EmptyRow",
        call("attention_vjp", **small("tall", n=5, m=3, d_lse=True), mask=CAUSAL),
        "gradient/mask_forgotten gradient/causal_top_left causal/top_left mask/ignored",
        comment="Queries 0 and 1 lie before every key.",
    ),
    case(
        "attention_vjp.empty.0001: GRAD-EMPTY GRAD-SINK; Gradient EmptyRow Poison",
        call("attention_vjp", **ignored_rows("ignored"), mask=SPARSE, sinks=Tensor((), [0.5])),
        "gradient/sink_sign gradient/sink_ignored gradient/empty_row_nan gradient/empty_row_mean "
        "gradient/multiplied_by_zero",
        comment="Query 1 attends to nothing; it and its cotangents hold NaN and infinities.",
    ),
    case(
        "attention_vjp.absent.0001: GRAD-ABSENT; Gradient Poison",
        call(
            "attention_vjp",
            **POISONED | {"k": spiked(POISONED["k"], {6: nan, 7: inf, 8: -inf, 12: 30720.0})},
            mask=HOLES,
        ),
        comment="Excluded keys hold NaN, infinities and a large number.",
    ),
    case(
        "attention_vjp.absent.0002: GRAD-ABSENT; Gradient Poison",
        call("attention_vjp", **POISONED | {"v": spiked(POISONED["v"], {4: nan, 5: inf, 8: -inf})}, mask=HOLES),
        "gradient/scale_of_scaled_scores",
        comment="Excluded values hold NaN and infinities.",
    ),
    case(
        "attention_vjp.absent.0003: GRAD-ABSENT GRAD-BIAS GRAD-EMPTY; Gradient Poison Bias EmptyRow",
        call(
            "attention_vjp",
            **POISONED
            | {
                "k": spiked(POISONED["k"], {6: nan, 7: inf, 8: -inf}),
                "v": spiked(POISONED["v"], {4: nan, 5: inf, 8: -inf}),
            },
            bias=tensor([[0.5, -1.0, -inf, 0.25, -inf], [-inf] * 5, [0.0, -2.0, -inf, 1.5, -inf]]),
        ),
        "gradient/lse_ignored gradient/lse_sign gradient/lse_base_2 gradient/delta_missing "
        "gradient/empty_row_mean gradient/multiplied_by_zero",
        comment="A bias of -infinity excludes as a mask does; its own gradient is 0.",
    ),
    case(
        "attention_vjp.bias.0001: GRAD-BIAS GRAD-BROADCAST; Gradient Bias Broadcast",
        call("attention_vjp", **small("bias", (2, 3), n=2, m=3, d=2, dv=1), bias=grid("bias b", (3, 1, 3), bits=5)),
        "gradient/delta_missing",
        comment="One bias a head and key, for both batch entries and all queries.",
    ),
    case(
        "attention_vjp.softcap.0001: GRAD-SOFTCAP GRAD-BIAS GRAD-SCALE; Gradient Softcap Bias",
        call(
            "attention_vjp",
            **small("softcap", d_lse=True) | {"q": grid("softcap q", (3, 3), bits=4)},
            softcap=2.5,
            bias=grid("softcap b", (3, 5), bits=6),
            mask=bools("11011", "01110", "10111"),
        ),
        "gradient/softcap_omitted gradient/softcap_of_biased gradient/softcap_squared_once "
        "gradient/bias_through_cap gradient/bias_ignored gradient/lse_ignored gradient/lse_sign "
        "gradient/lse_base_2 gradient/mask_forgotten",
    ),
    case(
        "attention_vjp.sink.0001: GRAD-SINK GRAD-LSE GRAD-EMPTY; Gradient Sink EmptyRow LseGradient",
        call(
            "attention_vjp",
            **small("sink", (2,), d_lse=True),
            sinks=tensor([0.75, -1.0]),
            mask=bools("11010", "00000", "01111"),
            scale=0.25,
        ),
        "gradient/k_scaled_twice gradient/lse_with_sink gradient/empty_row_nan gradient/sink_gate_constant",
    ),
    case(
        "attention_vjp.sink.0002: GRAD-SINK; Gradient Sink",
        call("attention_vjp", **small("no sink"), sinks=Tensor((), [-inf])),
        "gradient/sink_unweighted gradient/last_features_missing",
        comment="A sink of -infinity is none, and its gradient is 0.",
    ),
    case(
        "attention_vjp.lse.0001: GRAD-LSE GRAD-BIAS; Gradient LseGradient",
        call("attention_vjp", **small("lse", d_lse=True), bias=grid("lse b", (5,), bits=6)),
        "gradient/bias_not_reduced",
    ),
    case(
        "attention_vjp.dropout.0001: GRAD-DROPOUT GRAD-LSE; Gradient Dropout LseGradient",
        call("attention_vjp", **small("dropout", d_lse=True), dropout=dropped(bools("11011", "00110", "10111"), 0.125)),
        "gradient/delta_undropped gradient/dropout_by_rate gradient/dropout_not_rescaled "
        "gradient/dropout_forgotten gradient/dropout_other_draws gradient/values_undropped",
    ),
    case(
        "attention_vjp.all.0001: GRAD-EXACT GRAD-MASK GRAD-SOFTCAP GRAD-SINK GRAD-DROPOUT GRAD-LSE; "
        "Gradient AllOptions Window",
        call(
            "attention_vjp",
            **small("all", (2,), d_lse=True),
            mask=all_of(CAUSAL, window(2, 0)),
            bias=tensor([[0.5, -1.0, -inf, 0.25, 0.75]]),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -0.5]),
            dropout=dropped(bools("11011", "10101", "01111"), 0.25),
            q_positions=integers(10, 12, 13),
            k_positions=integers(9, 12, 10, 13, 11),
        ),
        "gradient/softcap_omitted gradient/softcap_of_biased gradient/softcap_squared_once gradient/bias_mean "
        "gradient/bias_through_cap gradient/bias_scaled gradient/lse_with_sink gradient/delta_undropped "
        "gradient/dropout_by_rate gradient/dropout_not_rescaled gradient/dropout_forgotten "
        "gradient/dropout_other_draws gradient/values_undropped gradient/sink_sign gradient/sink_ignored "
        "gradient/sink_unweighted gradient/sink_left_out gradient/last_features_missing",
    ),
    case(
        "attention_vjp.broadcast.0001: GRAD-BROADCAST GRAD-SINK; Gradient Broadcast",
        call(
            "attention_vjp",
            d_out=grid("broadcast d_out", (3, 2, 2, 1)),
            q=grid("broadcast q", (2, 2, 2), bits=5),
            k=grid("broadcast k", (1, 3, 2), bits=6),
            v=grid("broadcast v", (3, 1, 3, 1)),
            bias=grid("broadcast b", (3, 1, 1, 1)),
            sinks=tensor([0.5]),
        ),
        "gradient/bias_not_reduced gradient/bias_mean gradient/sink_left_out",
    ),
    case(
        "attention_vjp.broadcast.0002: GRAD-BROADCAST GRAD-LSE; Gradient Broadcast",
        call(
            "attention_vjp",
            d_out=grid("broadcast again d_out", (2, 2, 2), bits=5),
            d_lse=grid("broadcast again d_lse", (2, 2), bits=5),
            q=grid("broadcast again q", (2, 2), bits=5),
            k=grid("broadcast again k", (3, 2), bits=6),
            v=grid("broadcast again v", (2, 3, 2), bits=5),
        ),
        "gradient/lse_ignored",
        comment="Only v has the leading axis; lse has the output's, and so has its cotangent.",
    ),
    case(
        "attention_vjp.nothing.0001: GRAD-EMPTY; Gradient EmptyRow",
        call("attention_vjp", **small("no keys", m=0, d_lse=True), sinks=Tensor((), [0.5])),
        comment="M = 0.",
    ),
    case(
        "attention_vjp.nothing.0002: GRAD-EMPTY; Gradient EmptyRow",
        call("attention_vjp", **small("no queries", n=0, d_lse=True)),
        comment="N = 0: keys and values have gradient 0.",
    ),
    case(
        "attention_vjp.nothing.0003: GRAD-EXACT; Gradient",
        call("attention_vjp", **small("no features", d=0), scale=1.0),
        comment="D = 0: every score is 0.",
    ),
    case(
        "attention_vjp.refuse.0001: GRAD-REFUSE; Gradient WrongInput",
        call("attention_vjp", **small("refuse") | {"d_out": grid("refuse d", (3, 3))}),
        comment="A cotangent of three columns for an output of two.",
    ),
    case(
        "attention_vjp.refuse.0002: GRAD-REFUSE; Gradient WrongInput",
        call("attention_vjp", **small("refuse"), d_lse=grid("refuse lse", (3, 1))),
        comment="A cotangent of lse with an axis too many.",
    ),
]

HEADS = [
    case(
        "grouped_query_attention_vjp.basic.0001: GRAD-GROUP GRAD-EXACT GRAD-LSE; Gradient GroupedHeads",
        call("grouped_query_attention_vjp", **grouped("grouped"), d_lse=grid("grouped lse", (6, 2)), mask=CAUSAL),
        "gradient/group_mean gradient/group_last_head gradient/group_not_summed gradient/group_interleaved",
        comment="Six query heads over two key/value heads: groups of three.",
    ),
    case(
        "grouped_query_attention_vjp.options.0001: GRAD-GROUP GRAD-BIAS GRAD-SINK GRAD-SOFTCAP GRAD-DROPOUT; "
        "Gradient GroupedHeads",
        call(
            "grouped_query_attention_vjp",
            **grouped("grouped options", h=4),
            bias=grid("grouped b", (4, 1, 3)),
            sinks=tensor([0.5, -1.0, 0.25, 1.0]),
            softcap=2.0,
            dropout=dropped(bools("110", "011"), 0.25),
        ),
        "gradient/group_mean gradient/group_last_head gradient/group_not_summed gradient/group_interleaved",
    ),
    case(
        "grouped_query_attention_vjp.refuse.0001: GRAD-REFUSE; Gradient WrongInput",
        call("grouped_query_attention_vjp", **grouped("refuse") | {"d_out": grid("refuse d", (2, 2, 3))}),
        comment="A cotangent for the two key/value heads in place of the six query heads.",
    ),
    case(
        "multi_query_attention_vjp.basic.0001: GRAD-GROUP; Gradient MultiQuery",
        call(
            "multi_query_attention_vjp",
            d_out=grid("multi d_out", (3, 2, 2)),
            q=grid("multi q", (3, 2, 3), bits=5),
            k=grid("multi k", (4, 3), bits=6),
            v=grid("multi v", (4, 2)),
        ),
    ),
    case(
        "multi_head_attention_vjp.self.0001: GRAD-MHA GRAD-GROUP GRAD-LINEAR; Gradient PackedWeights",
        call(
            "multi_head_attention_vjp",
            d_out=grid("self d_out", (3, 2)),
            x_q=tokens("self", 3, 3),
            x_kv=None,
            params=packed_weights("self", e=3, h=4, g=2, d=2, dv=1, out=2),
            heads=4,
            kv_heads=2,
            mask=CAUSAL,
            rope=rotary(layout="half"),
        ),
        "gradient/queries_only gradient/biases_ignored",
        comment="The one sequence asks and is asked: both parts of its gradient add up.",
    ),
    case(
        "multi_head_attention_vjp.cross.0001: GRAD-MHA GRAD-RMSNORM GRAD-ROPE GRAD-BROADCAST; Gradient QKNorm",
        call(
            "multi_head_attention_vjp",
            d_out=grid("cross d_out", (2, 3, 2)),
            x_q=tokens("cross q", 2, 3, 3),
            x_kv=tokens("cross kv", 4, 2),
            params=weights(
                "cross", e=3, h=2, g=1, d=2, dv=1, out=2, e_kv=2, q_norm=gains("q", 2), k_norm=gains("kk", 2)
            ),
            heads=2,
            kv_heads=1,
            rope=rotary(),
            bias=grid("cross b", (2, 3, 4)),
            sinks=tensor([0.5, -0.25]),
            softcap=4.0,
            scale=0.5,
            q_positions=integers(3, 5, 9),
            k_positions=integers(0, 4, 2, 7),
        ),
        "gradient/norm_gains_ignored",
        comment="One sequence is asked by two; queries and keys are normalised head by head.",
    ),
    case(
        "multi_head_attention_vjp.wide_norm.0001: GRAD-MHA GRAD-RMSNORM; Gradient QKNorm",
        call(
            "multi_head_attention_vjp",
            d_out=grid("wide d_out", (2, 3)),
            x_q=tokens("wide", 2, 3),
            x_kv=None,
            params=weights(
                "wide", e=3, h=2, g=2, d=1, dv=2, out=3, biases=False, q_norm=gains("q", 2), k_norm=gains("kk", 2)
            ),
            heads=2,
        ),
        "gradient/queries_only gradient/norm_gains_ignored",
        comment="Gains of the whole width, and no biases.",
    ),
]

PIECES = [
    case(
        "softmax_vjp.basic.0001: GRAD-SOFTMAX; Basic Gradient OtherAxis",
        call("softmax_vjp", **rows("softmax", 2, 3, 4, axis=1)),
        "gradient/softmax_diagonal gradient/softmax_last_axis",
    ),
    case(
        "softmax_vjp.wide.0001: GRAD-SOFTMAX; Gradient Tiles",
        call("softmax_vjp", **rows("softmax wide", 2, 70)),
        "gradient/tail_unsummed",
        comment="70 entries: a block of 64 and a rest.",
    ),
    case(
        "softmax_vjp.absent.0001: GRAD-SOFTMAX GRAD-ABSENT; Gradient Poison EmptyRow",
        call(
            "softmax_vjp",
            d_out=spiked(grid("softmax absent d", (3, 4)), {1: nan, 4: nan, 5: inf, 6: nan, 7: nan}),
            x=spiked(grid("softmax absent x", (3, 4)), {1: nan, 11: -inf}),
            where=bools("1011", "0000", "1111"),
        ),
        "gradient/softmax_diagonal gradient/softmax_absent_leaks",
    ),
    case(
        "softmax_vjp.broadcast.0001: GRAD-SOFTMAX GRAD-BROADCAST; Gradient Broadcast",
        call(
            "softmax_vjp",
            d_out=grid("softmax wide d", (2, 3)),
            x=grid("softmax wide x", (3,)),
            where=bools("110", "011"),
        ),
    ),
    case(
        "logsumexp_vjp.basic.0001: GRAD-SOFTMAX GRAD-LSE; Gradient OtherAxis",
        call("logsumexp_vjp", d_out=grid("lse d", (2, 4)), x=grid("lse x", (2, 3, 4), bits=5), axis=1),
        "gradient/lse_of_base_2",
    ),
    case(
        "logsumexp_vjp.empty.0001: GRAD-SOFTMAX GRAD-EMPTY GRAD-ABSENT; Gradient Poison EmptyRow",
        call(
            "logsumexp_vjp",
            d_out=tensor([0.5, nan, 2.0]),
            x=spiked(grid("lse empty x", (3, 4)), {1: nan, 11: -inf}),
            where=bools("1011", "0000", "1111"),
        ),
        "gradient/lse_of_base_2 gradient/lse_empty_nan",
    ),
    case(
        "merge_vjp.basic.0001: GRAD-MERGE GRAD-LSE GRAD-ABSENT; Gradient MergeEmpty UnequalMerge",
        call(
            "merge_vjp",
            d_out=grid("merge d", (3, 2)),
            out_a=grid("merge a", (3, 2)),
            lse_a=tensor([0.5, -1.0, 3.0]),
            out_b=grid("merge b", (3, 2)),
            lse_b=tensor([1.25, 4.0, -inf]),
            d_lse=grid("merge dl", (3,)),
        ),
        "gradient/merge_weights_constant gradient/merge_lse_ignored",
    ),
    case(
        "merge_vjp.absent.0001: GRAD-MERGE GRAD-ABSENT; Gradient MergeEmpty Poison",
        call(
            "merge_vjp",
            d_out=grid("merge absent d", (2, 2)),
            out_a=tensor([[nan, inf], [0.5, 2.0]]),
            lse_a=tensor([-inf, -inf]),
            out_b=tensor([[1.5, -3.0], [nan, 1.0]]),
            lse_b=tensor([0.75, -inf]),
        ),
        "gradient/merge_no_guard",
    ),
    case(
        "layer_norm_vjp.basic.0001: GRAD-LAYERNORM; Basic Gradient Epsilon",
        call(
            "layer_norm_vjp", **rows("layer", 2, 3, 4), gamma=gains("layer", 4), beta=grid("layer beta", (4,)), eps=0.25
        ),
        "gradient/layer_norm_mean_constant gradient/layer_norm_variance_constant "
        "gradient/layer_norm_gain_forgotten gradient/layer_norm_eps_default gradient/gain_ignored "
        "gradient/offset_ignored",
    ),
    case(
        "layer_norm_vjp.axes.0001: GRAD-LAYERNORM; Gradient OtherAxis",
        call("layer_norm_vjp", **rows("layer axes", 2, 3, 4), gamma=Tensor((2, 4), gains("axes", 8).data), axis=[0, 2]),
        "gradient/layer_norm_gain_forgotten",
    ),
    case(
        "layer_norm_vjp.plain.0001: GRAD-LAYERNORM; Gradient",
        call("layer_norm_vjp", **rows("layer plain", 2, 5), gamma=None),
        "gradient/layer_norm_mean_constant gradient/layer_norm_variance_constant",
        comment="Neither gain nor offset.",
    ),
    case(
        "layer_norm_vjp.wide.0001: GRAD-LAYERNORM; Gradient Tiles",
        call("layer_norm_vjp", **rows("layer wide", 2, 70), gamma=gains("layer wide", 70)),
        "gradient/tail_dropped gradient/tail_unsummed",
        comment="70 entries: a block of 64 and a rest.",
    ),
    case(
        "layer_norm_vjp.refuse.0001: GRAD-REFUSE; Gradient WrongInput",
        call("layer_norm_vjp", **rows("layer refuse", 2, 3) | {"d_out": grid("layer refuse d", (3,))}, gamma=None),
        comment="A cotangent for one row of two.",
    ),
    case(
        "rms_norm_vjp.basic.0001: GRAD-RMSNORM; Basic Gradient Epsilon",
        call("rms_norm_vjp", **rows("rms", 2, 3, 4), gamma=gains("rms", 4), eps=0.25),
        "gradient/rms_norm_constant gradient/rms_norm_centred gradient/gain_ignored",
    ),
    case(
        "rms_norm_vjp.offset.0001: GRAD-RMSNORM; Gradient UnitOffset OtherAxis",
        call(
            "rms_norm_vjp",
            **rows("rms offset", 3, 2, 2),
            gamma=Tensor((3, 2), gains("off", 6).data),
            axis=[0, 1],
            unit_offset=True,
        ),
        "gradient/rms_norm_constant gradient/rms_norm_centred gradient/rms_norm_offset_forgotten",
    ),
    case(
        "rms_norm_vjp.wide.0001: GRAD-RMSNORM; Gradient Tiles",
        call("rms_norm_vjp", **rows("rms wide", 2, 70), gamma=gains("rms wide", 70)),
        "gradient/tail_dropped gradient/tail_unsummed",
        comment="70 entries: a block of 64 and a rest.",
    ),
    *activation("relu", near="gradient/relu_one_at_zero"),
    *activation("squared_relu", far="gradient/squared_relu_without_2", near="gradient/squared_relu_without_2"),
    *activation("gelu", near="gradient/other_gelu"),
    *activation("gelu", near="gradient/other_gelu", approximate="tanh"),
    *activation("quick_gelu", far="gradient/quick_gelu_without_factor", near="gradient/quick_gelu_without_factor"),
    *activation("silu", far="gradient/silu_sigmoid_only", near="gradient/silu_sigmoid_only"),
    *activation("sigmoid", near="gradient/sigmoid_of_output", far="gradient/sigmoid_of_output"),
    *activation("tanh", near="gradient/tanh_without_square", far="gradient/tanh_without_square gradient/tanh_cancels"),
    *activation("softplus", near="gradient/softplus_of_minus", far="gradient/softplus_of_minus"),
    case(
        "linear_vjp.basic.0001: GRAD-LINEAR; Basic Gradient",
        call(
            "gradients.linear_vjp",
            d_out=grid("linear d", (2, 3, 2)),
            x=grid("linear x", (2, 3, 4)),
            w=grid("linear w", (4, 2)),
            b=tensor([1.0, 2.0]),
        ),
        "gradient/mean_over_tokens gradient/first_sequence_only gradient/bias_ignored",
    ),
    case(
        "feed_forward_vjp.basic.0001: GRAD-FFN GRAD-LINEAR; Gradient",
        call(
            "feed_forward_vjp",
            d_out=grid("ffn d", (2, 2, 4)),
            x=grid("ffn x", (2, 2, 3)),
            params=network("FeedForwardParams", "ffn", 3, 5, 4),
        ),
        "gradient/activation_forgotten gradient/biases_ignored",
    ),
    case(
        "feed_forward_vjp.gelu.0001: GRAD-FFN GRAD-ACT; Gradient",
        call(
            "feed_forward_vjp",
            d_out=grid("ffn gelu d", (2, 3)),
            x=grid("ffn gelu x", (2, 2)),
            params=network("FeedForwardParams", "ffn gelu", 2, 4, 3, bias=False),
            activation="gelu",
        ),
        "gradient/activation_forgotten gradient/activation_of_output",
        comment="No biases.",
    ),
    case(
        "gated_feed_forward_vjp.basic.0001: GRAD-GLU GRAD-LINEAR; Gradient",
        call(
            "gated_feed_forward_vjp",
            d_out=grid("glu d", (2, 2)),
            x=grid("glu x", (2, 3)),
            params=network("GatedFeedForwardParams", "glu", 3, 4, 2),
        ),
        "gradient/gate_and_up_exchanged gradient/gate_constant gradient/biases_ignored",
    ),
    case(
        "rope_vjp.basic.0001: GRAD-ROPE; Gradient FarPositions",
        call("rope_vjp", d_out=grid("rope d", (2, 3, 6)), x=grid("rope x", (2, 3, 6)), positions=integers(1000, 3, 17)),
        "gradient/not_turned_back",
    ),
    case(
        "rope_vjp.broadcast.0001: GRAD-ROPE GRAD-BROADCAST; Gradient Broadcast",
        call(
            "rope_vjp",
            d_out=grid("rope wide d", (2, 3, 2, 6)),
            x=grid("rope wide x", (3, 2, 6)),
            positions=Tensor((2, 1, 2), [5, 70, 2, 9], "int64"),
            layout="half",
            rotary_dim=4,
            base=500.0,
            scaling=params("positions.YaRN", factor=4.0, original_length=64),
        ),
        "gradient/attention_factor_divides",
        comment="Some features only, with YaRN's attention factor; positions add a batch axis, over which x sums.",
    ),
    case(
        "rotate_vjp.basic.0001: GRAD-ROPE GRAD-BROADCAST; Gradient Broadcast",
        call(
            "gradients.rotate_vjp",
            d_out=grid("rotate d", (2, 3, 5)),
            x=grid("rotate x", (2, 3, 5)),
            cos=grid("rotate cos", (3, 2), bits=6),
            sin=grid("rotate sin", (3, 2), bits=6),
            layout="half",
            rotary_dim=4,
        ),
        "gradient/tables_not_turned_back gradient/sine_sign",
    ),
    case(
        "rotate_vjp.interleaved.0001: GRAD-ROPE GRAD-BROADCAST; Gradient Broadcast",
        call(
            "gradients.rotate_vjp",
            d_out=grid("turn d", (3, 2, 4)),
            x=grid("turn x", (2, 4)),
            cos=grid("turn cos", (3, 2, 2), bits=6),
            sin=grid("turn sin", (2, 2), bits=6),
        ),
        "gradient/sine_sign",
    ),
    case(
        "checkpoint_vjp.basic.0001: GRAD-CHECKPOINT; Gradient",
        call(
            "gradients.checkpoint_vjp",
            d_out=grid("chain d", (2, 3)),
            x=grid("chain x", (2, 3)),
            blocks=["silu", "softmax", "tanh", "gelu", "softplus"],
            every=2,
        ),
        "gradient/recomputed_from_wrong_block",
    ),
]

CASES = ATTENTION + HEADS + PIECES
