"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..masks.cases import CAUSAL, all_of, padding, window
from ..vectors import call, case, grid, integers, params


def grouped(seed, b=2, h=6, g=2, n=3, m=5, d=4, dv=2):
    """q, k, v with fewer key/value heads than query heads; logits of a few units."""
    return {
        "q": grid(f"{seed} q", (b, h, n, d), bits=6),
        "k": grid(f"{seed} k", (b, g, m, d), bits=6),
        "v": grid(f"{seed} v", (b, g, m, dv), bits=5),
    }


def weights(seed, e, h, g, d, dv, out, e_kv=None, biases=True, **more):
    """MultiHeadParams; more: q_norm, k_norm."""
    e_kv = e if e_kv is None else e_kv
    shapes = {"w_q": (e, h * d), "w_k": (e_kv, g * d), "w_v": (e_kv, g * dv), "w_o": (h * dv, out)}
    if biases:
        shapes |= {"b_q": (h * d,), "b_k": (g * d,), "b_v": (g * dv,), "b_o": (out,)}
    fields = {name: grid(f"{seed} {name}", shape, bits=7) for name, shape in shapes.items()}
    return params("MultiHeadParams", **fields | more)


def packed(seed, e, h, g, d, dv, out):
    width = (h + g) * d + g * dv
    shapes = {"w_qkv": (e, width), "w_o": (h * dv, out), "b_qkv": (width,), "b_o": (out,)}
    return params(
        "PackedMultiHeadParams", **{name: grid(f"{seed} {name}", shape, bits=7) for name, shape in shapes.items()}
    )


def tokens(seed, *shape):
    return grid(f"{seed} x", shape, bits=6)


def bools(shape, text):
    return Tensor(shape, [int(c) for c in text if c in "01"], "bool")


def gains(seed, size):
    """Gains from 1/4 to 4, no two neighbours equal."""
    return Tensor((size,), [2.0 ** ((5 * n + len(seed)) % 5 - 2) * (1 + n % 3 / 4) for n in range(size)])


def rotary(**options):
    return params("heads.Rope", **options)


PER_SEQUENCE = bools((2, 1, 3, 5), "11010 00111 10011  01101 11100 01011")

CASES = [
    case(
        "split_heads.basic.0001: HEADS-SPLIT; HeadLayout",
        call("split_heads", x=grid("split", (2, 3, 8)), heads=4),
        "heads/features_first heads/no_transpose",
    ),
    case(
        "split_heads.ratio.0001: HEADS-RATIO; WrongInput",
        call("split_heads", x=grid("split ratio", (3, 10)), heads=4),
        comment="A width of 10 for 4 heads.",
    ),
    case(
        "merge_heads.basic.0001: HEADS-MERGE; HeadLayout",
        call("merge_heads", x=grid("merge", (2, 4, 3, 2))),
        "heads/features_first heads/no_transpose",
    ),
    # --- grouped queries --------------------------------------------------------------------------------------------
    case(
        "grouped_query_attention.basic.0001: HEADS-GROUP; GroupedHeads",
        call("grouped_query_attention", **grouped("basic", n=2, m=4, d=3), return_lse=True),
        "gqa/tiled gqa/repeat_sequence_axis",
        comment="6 query heads over 2: heads 0 to 2 read the first.",
    ),
    case(
        "grouped_query_attention.basic.0002: HEADS-GROUP; GroupedHeads",
        call(
            "grouped_query_attention",
            **grouped("three", b=1, h=6, g=3, n=2, m=4, d=3, dv=2),
            mask=CAUSAL,
            return_lse=True,
        ),
        "gqa/tiled gqa/group_is_kv_heads gqa/repeat_sequence_axis",
        comment="6 over 3: the group is not as large as the number of key/value heads.",
    ),
    case(
        "grouped_query_attention.one.0001: HEADS-GROUP HEADS-MQA; MultiQuery",
        call("grouped_query_attention", **grouped("one", h=3, g=1, n=2, m=4)),
        comment="One key/value head, with its axis.",
    ),
    case(
        "grouped_query_attention.all.0001: HEADS-GROUP; HeadLayout",
        call("grouped_query_attention", **grouped("all", b=1, h=3, g=3, n=4, m=4, d=2)),
        "heads/bshd_as_bhsd",
        comment="As many key/value heads as query heads, and as many keys as queries.",
    ),
    case(
        "grouped_query_attention.options.0001: HEADS-OPTIONS HEADS-GROUP; HeadOptions GroupedHeads",
        call(
            "grouped_query_attention",
            **grouped("options"),
            mask=PER_SEQUENCE,
            bias=grid("options b", (6, 1, 5), bits=5),
            softcap=3.0,
            scale=0.75,
            sinks=tensor([0.5, -1.0, 2.0, 1.5, -0.25, 3.0]),
            dropout=params(
                "Dropout",
                keep=bools(
                    (6, 3, 5),
                    "110111011011101 011110111101111 101111110111011111011101111110 101010111111101 111110111010111",
                ),
                rate=0.25,
            ),
            return_lse=True,
        ),
        "gqa/tiled gqa/sinks_by_group gqa/mask_on_groups mask/tiled_over_heads",
        comment="A mask for each of the 2 sequences (as many as key/value heads); all else for each query head.",
    ),
    case(
        "grouped_query_attention.options.0002: HEADS-OPTIONS; HeadOptions",
        call(
            "grouped_query_attention",
            **grouped("lengths", b=1, h=4, g=2, n=3, m=5),
            mask=all_of(CAUSAL, padding(integers(1005, 1003, 1004, 1002))),
            q_positions=integers([1004, 1002, 1003], [1004, 1002, 1003], [1003, 1001, 1004], [1001, 1004, 1000]),
            k_positions=integers(1000, 1001, 1002, 1003, 1004),
        ),
        "gqa/tiled",
        comment="A rule whose lengths, and positions, differ by query head.",
    ),
    case(
        "grouped_query_attention.nothing.0001: HEADS-GROUP; EmptyRow",
        call(
            "grouped_query_attention",
            q=grid("nothing q", (4, 2, 3)),
            k=Tensor((2, 0, 3), []),
            v=Tensor((2, 0, 2), []),
            sinks=tensor([0.5, 1.0, -1.0, 2.0]),
            return_lse=True,
        ),
        comment="M = 0.",
    ),
    case(
        "grouped_query_attention.ratio.0001: HEADS-RATIO; WrongInput",
        call("grouped_query_attention", **grouped("ratio", b=1, h=6, g=4, n=1, m=2, d=2, dv=1)),
        comment="6 query heads over 4.",
    ),
    case(
        "grouped_query_attention.ratio.0002: HEADS-RATIO; WrongInput",
        call("grouped_query_attention", **grouped("fewer", b=1, h=2, g=6, n=1, m=2, d=2, dv=1)),
        comment="Fewer query heads than key/value heads.",
    ),
    case(
        "grouped_query_attention.refuse.0001: HEADS-OPTIONS; WrongInput",
        call("grouped_query_attention", **grouped("sinks", n=1, m=2, d=2, dv=1), sinks=tensor([0.5, -1.0])),
        comment="A sink for each key/value head.",
    ),
    case(
        "grouped_query_attention.refuse.0002: HEADS-OPTIONS; WrongInput",
        call(
            "grouped_query_attention", **grouped("mask by group", n=1, m=3, d=2, dv=1), mask=bools((2, 1, 3), "110 011")
        ),
        comment="A mask for each key/value head, or for each sequence without the axis of heads.",
    ),
    case(
        "multi_query_attention.basic.0001: HEADS-MQA HEADS-OPTIONS; MultiQuery",
        call(
            "multi_query_attention",
            q=grid("mqa q", (2, 3, 2, 4), bits=6),
            k=grid("mqa k", (2, 5, 4), bits=6),
            v=grid("mqa v", (2, 5, 3), bits=5),
            mask=CAUSAL,
            sinks=tensor([0.5, -1.0, 2.0]),
            return_lse=True,
        ),
    ),
    case(
        "multi_query_attention.refuse.0001: HEADS-MQA; WrongInput",
        call("multi_query_attention", **grouped("mqa axis", h=3, g=1, n=1, m=2, d=2, dv=1)),
        comment="Keys with a head axis, which would broadcast against the batch.",
    ),
    # --- with projections -------------------------------------------------------------------------------------------
    case(
        "multi_head_attention.self.0001: MHA-PROJECT MHA-CROSS; Basic HeadLayout",
        call(
            "multi_head_attention",
            x_q=tokens("self", 2, 3, 5),
            x_kv=None,
            params=weights("self", 5, 4, 4, 3, 2, 6),
            heads=4,
        ),
        "heads/features_first heads/no_transpose mha/scale_from_width mha/output_bias_dropped mha/input_biases_dropped",
        comment="Self-attention with every bias; no two sizes equal.",
    ),
    case(
        "multi_head_attention.self.0002: MHA-PROJECT; Basic",
        call(
            "multi_head_attention",
            x_q=tokens("plain", 4, 3),
            x_kv=None,
            params=weights("plain", 3, 2, 2, 2, 2, 3, biases=False),
            heads=2,
            mask=CAUSAL,
        ),
        "heads/features_first",
        comment="One sequence, no bias, causal.",
    ),
    case(
        "multi_head_attention.grouped.0001: MHA-PROJECT HEADS-GROUP; GroupedHeads",
        call(
            "multi_head_attention",
            x_q=tokens("grouped", 4, 5),
            x_kv=None,
            params=weights("grouped", 5, 6, 2, 2, 3, 2),
            heads=6,
            kv_heads=2,
            mask=CAUSAL,
        ),
        "gqa/tiled heads/no_transpose",
    ),
    case(
        "multi_head_attention.packed.0001: MHA-PACKED; PackedWeights",
        call(
            "multi_head_attention",
            x_q=tokens("packed", 2, 3, 4),
            x_kv=None,
            params=packed("packed", 4, 4, 2, 3, 2, 3),
            heads=4,
            kv_heads=2,
        ),
        "mha/packed_by_group",
        comment="4 heads of 3 for queries, 2 of 3 for keys, 2 of 2 for values: 22 columns.",
    ),
    case(
        "multi_head_attention.packed.0002: MHA-PACKED MHA-CROSS; PackedWeights CrossAttention",
        call(
            "multi_head_attention",
            x_q=tokens("packed cross q", 2, 3, 4),
            x_kv=tokens("packed cross kv", 2, 5, 4),
            params=packed("packed cross", 4, 2, 2, 3, 3, 4),
            heads=2,
        ),
        "mha/packed_by_group mha/second_sequence_ignored",
        comment="Packed weights in cross-attention: the key and value columns meet the second sequence.",
    ),
    case(
        "multi_head_attention.cross.0001: MHA-CROSS MHA-OPTIONS; CrossAttention MaskAxes",
        call(
            "multi_head_attention",
            x_q=tokens("cross q", 2, 3, 4),
            x_kv=tokens("cross kv", 2, 5, 6),
            params=weights("cross", 4, 2, 2, 3, 2, 3, e_kv=6),
            heads=2,
            mask=PER_SEQUENCE,
        ),
        "mask/polarity mask/tiled_over_heads mask/over_heads",
        comment="Sequences of different length and width; a mask for each of 2 sequences, and as many heads.",
    ),
    case(
        "multi_head_attention.options.0001: MHA-OPTIONS; HeadOptions CrossAttention",
        call(
            "multi_head_attention",
            x_q=tokens("all options", 2, 3, 4),
            x_kv=tokens("all options kv", 2, 5, 4),
            params=weights("all options", 4, 4, 2, 3, 2, 3),
            heads=4,
            kv_heads=2,
            mask=all_of(CAUSAL, window(3, 0)),
            q_positions=integers([1004, 1002, 1003], [1000, 1004, 1001]),
            k_positions=integers(1000, 1001, 1002, 1003, 1004),
            bias=grid("all options b", (4, 1, 5), bits=5),
            scale=0.875,
            softcap=2.5,
            sinks=tensor([0.5, -1.0, 2.0, 1.25]),
            dropout=params(
                "Dropout",
                keep=bools((4, 3, 5), "110111011011101 011110111101111 101111110111011 111011101111110"),
                rate=0.125,
            ),
        ),
        "gqa/tiled mha/positions_ignored mha/scale_from_width",
        comment="Every option at once; positions differ by sequence and are far from 0.",
    ),
    case(
        "multi_head_attention.empty.0001: MHA-OPTIONS MHA-PROJECT; EmptyRow",
        call(
            "multi_head_attention",
            x_q=tokens("empty", 3, 4),
            x_kv=None,
            params=weights("empty", 4, 2, 2, 2, 2, 3),
            heads=2,
            mask=bools((3, 3), "110 000 011"),
        ),
        "mask/polarity mha/output_bias_dropped",
        comment="The second query may attend to nothing: its row is the output bias.",
    ),
    case(
        "multi_head_attention.qk_norm.0001: MHA-QKNORM; QKNorm",
        call(
            "multi_head_attention",
            x_q=tokens("norm", 2, 3, 4),
            x_kv=None,
            params=weights("norm", 4, 4, 2, 3, 1, 2, q_norm=gains("q", 3), k_norm=gains("key", 3)),
            heads=4,
            kv_heads=2,
            qk_norm_eps=0.125,
        ),
        "mha/no_qk_norm mha/qk_norm_over_width mha/qk_norm_before_bias",
        comment="Gains of one head's size, and an eps that matters.",
    ),
    case(
        "multi_head_attention.qk_norm.0002: MHA-QKNORM; QKNorm",
        call(
            "multi_head_attention",
            x_q=tokens("wide norm", 2, 3, 4),
            x_kv=None,
            params=weights("wide norm", 4, 4, 2, 3, 1, 2, q_norm=gains("q", 12), k_norm=gains("key", 6)),
            heads=4,
            kv_heads=2,
        ),
        "mha/no_qk_norm mha/qk_norm_by_head",
        comment="Gains of the whole width.",
    ),
    case(
        "multi_head_attention.rope.0001: MHA-ROPE MHA-QKNORM; RotaryOrder QKNorm",
        call(
            "multi_head_attention",
            x_q=tokens("rope", 2, 5, 3),
            x_kv=None,
            params=weights("rope", 3, 2, 1, 4, 2, 2, q_norm=gains("q", 4), k_norm=gains("key", 4)),
            heads=2,
            kv_heads=1,
            mask=CAUSAL,
            rope=rotary(layout="half", base=100.0),
        ),
        "mha/rope_before_norm mha/rope_ignored mha/rope_over_heads mha/no_qk_norm",
        comment="Gains differ within a rotated pair, so that norm and rotation do not commute.",
    ),
    case(
        "multi_head_attention.rope.0002: MHA-ROPE MHA-OPTIONS; RotaryOrder",
        call(
            "multi_head_attention",
            x_q=tokens("rope far q", 2, 3, 3),
            x_kv=tokens("rope far kv", 2, 5, 3),
            params=weights("rope far", 3, 2, 1, 6, 2, 4),
            heads=2,
            kv_heads=1,
            q_positions=integers([712, 40, 700], [3, 9, 2]),
            k_positions=integers([700, 701, 702, 39, 703], [0, 1, 2, 3, 4]),
            rope=rotary(layout="interleaved", base=1000.0, rotary_dim=4),
        ),
        "mha/positions_ignored mha/rope_counts_from_zero mha/rope_over_heads",
        comment="Positions differ by sequence, and only 4 of 6 features are rotated.",
    ),
    case(
        "multi_head_attention.rope.0003: MHA-ROPE; RotaryOrder",
        call(
            "multi_head_attention",
            x_q=tokens("rope decode q", 2, 4),
            x_kv=tokens("rope decode kv", 5, 4),
            params=weights("rope decode", 4, 2, 2, 4, 3, 5, biases=False),
            heads=2,
            mask=CAUSAL,
            rope=rotary(layout="half"),
        ),
        "mha/rope_counts_from_zero mha/rope_ignored",
        comment="2 queries over 5 keys without positions: they are the last 2.",
    ),
    case(
        "multi_head_attention.refuse.0001: MHA-REFUSE; WrongInput",
        call(
            "multi_head_attention",
            x_q=tokens("refuse", 2, 3),
            x_kv=None,
            params=weights("refuse", 4, 2, 2, 2, 1, 2),
            heads=2,
        ),
        comment="Weights for a width of 4, inputs of width 3.",
    ),
    case(
        "multi_head_attention.refuse.0002: MHA-REFUSE; WrongInput",
        call(
            "multi_head_attention",
            x_q=tokens("refuse", 2, 3),
            x_kv=None,
            params=weights("refuse o", 3, 4, 2, 2, 1, 2),
            heads=2,
        ),
        comment="Weights for 4 heads over 2 used with 2 over 2: head sizes differ.",
    ),
    case(
        "multi_head_attention.refuse.0003: MHA-REFUSE; WrongInput",
        call(
            "multi_head_attention",
            x_q=tokens("refuse", 2, 2),
            x_kv=None,
            params=weights("refuse norm", 2, 2, 2, 3, 1, 2, q_norm=gains("q", 2)),
            heads=2,
        ),
        comment="A gain of 2 for a head size of 3.",
    ),
    case(
        "multi_head_attention.refuse.0004: MHA-REFUSE; WrongInput",
        call(
            "multi_head_attention",
            x_q=tokens("refuse", 2, 2),
            x_kv=None,
            params=packed("refuse packed", 2, 4, 2, 3, 2, 2),
            heads=2,
            kv_heads=2,
        ),
        comment="22 packed columns are not 2·D + 2·D + 2·Dv with 2·Dv = 8.",
    ),
    case(
        "multi_head_attention.refuse.0005: HEADS-RATIO; WrongInput",
        call(
            "multi_head_attention",
            x_q=tokens("refuse", 2, 2),
            x_kv=None,
            params=weights("refuse g", 2, 3, 2, 2, 1, 2),
            heads=3,
            kv_heads=2,
        ),
        comment="3 heads over 2.",
    ),
]
