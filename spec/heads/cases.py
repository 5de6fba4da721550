"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..vectors import Case, grid

CAUSAL = {"rule": "causal"}


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
    return {"params": "MultiHeadParams", "fields": fields | more}


def packed(seed, e, h, g, d, dv, out):
    width = (h + g) * d + g * dv
    shapes = {"w_qkv": (e, width), "w_o": (h * dv, out), "b_qkv": (width,), "b_o": (out,)}
    return {
        "params": "PackedMultiHeadParams",
        "fields": {name: grid(f"{seed} {name}", shape, bits=7) for name, shape in shapes.items()},
    }


def tokens(seed, *shape):
    return grid(f"{seed} x", shape, bits=6)


def bools(shape, text):
    return Tensor(shape, [int(c) for c in text if c in "01"], "bool")


def integers(*values):
    return tensor(list(values), dtype="int64")


def gains(seed, size):
    """Gains from 1/4 to 4, no two neighbours equal."""
    return Tensor((size,), [2.0 ** ((5 * n + len(seed)) % 5 - 2) * (1 + n % 3 / 4) for n in range(size)])


def rotary(**options):
    return {"params": "heads.Rope", "fields": options}


PER_SEQUENCE = bools((2, 1, 3, 5), "11010 00111 10011  01101 11100 01011")

CASES = [
    Case(
        "split_heads.basic.0001",
        "split_heads",
        {"x": grid("split", (2, 3, 8)), "heads": 4},
        clauses=["HEADS-SPLIT"],
        flags=["HeadLayout"],
        catches=["heads/features_first", "heads/no_transpose"],
    ),
    Case(
        "split_heads.ratio.0001",
        "split_heads",
        {"x": grid("split ratio", (3, 10)), "heads": 4},
        clauses=["HEADS-RATIO"],
        flags=["WrongInput"],
        comment="A width of 10 for 4 heads.",
        refuses=True,
    ),
    Case(
        "merge_heads.basic.0001",
        "merge_heads",
        {"x": grid("merge", (2, 4, 3, 2))},
        clauses=["HEADS-MERGE"],
        flags=["HeadLayout"],
        catches=["heads/features_first", "heads/no_transpose"],
    ),
    # --- grouped queries --------------------------------------------------------------------------------------------
    Case(
        "grouped_query_attention.basic.0001",
        "grouped_query_attention",
        {**grouped("basic", n=2, m=4, d=3), "return_lse": True},
        clauses=["HEADS-GROUP"],
        flags=["GroupedHeads"],
        comment="6 query heads over 2: heads 0 to 2 read the first.",
        catches=["gqa/tiled", "gqa/repeat_sequence_axis"],
    ),
    Case(
        "grouped_query_attention.basic.0002",
        "grouped_query_attention",
        {**grouped("three", b=1, h=6, g=3, n=2, m=4, d=3, dv=2), "mask": CAUSAL, "return_lse": True},
        clauses=["HEADS-GROUP"],
        flags=["GroupedHeads"],
        comment="6 over 3: the group is not as large as the number of key/value heads.",
        catches=["gqa/tiled", "gqa/group_is_kv_heads", "gqa/repeat_sequence_axis"],
    ),
    Case(
        "grouped_query_attention.one.0001",
        "grouped_query_attention",
        grouped("one", h=3, g=1, n=2, m=4),
        clauses=["HEADS-GROUP", "HEADS-MQA"],
        flags=["MultiQuery"],
        comment="One key/value head, with its axis.",
    ),
    Case(
        "grouped_query_attention.all.0001",
        "grouped_query_attention",
        grouped("all", b=1, h=3, g=3, n=4, m=4, d=2),
        clauses=["HEADS-GROUP"],
        flags=["HeadLayout"],
        comment="As many key/value heads as query heads, and as many keys as queries.",
        catches=["heads/bshd_as_bhsd"],
    ),
    Case(
        "grouped_query_attention.options.0001",
        "grouped_query_attention",
        {
            **grouped("options"),
            "mask": PER_SEQUENCE,
            "bias": grid("options b", (6, 1, 5), bits=5),
            "softcap": 3.0,
            "scale": 0.75,
            "sinks": tensor([0.5, -1.0, 2.0, 1.5, -0.25, 3.0]),
            "dropout": {
                "params": "Dropout",
                "fields": {
                    "keep": bools(
                        (6, 3, 5),
                        "110111011011101 011110111101111 101111110111011"
                        "111011101111110 101010111111101 111110111010111",
                    ),
                    "rate": 0.25,
                },
            },
            "return_lse": True,
        },
        clauses=["HEADS-OPTIONS", "HEADS-GROUP"],
        flags=["HeadOptions", "GroupedHeads"],
        comment="A mask for each of the 2 sequences (as many as key/value heads); all else for each query head.",
        catches=["gqa/tiled", "gqa/sinks_by_group", "gqa/mask_on_groups", "mask/tiled_over_heads"],
    ),
    Case(
        "grouped_query_attention.options.0002",
        "grouped_query_attention",
        {
            **grouped("lengths", b=1, h=4, g=2, n=3, m=5),
            "mask": {
                "rule": "and",
                "of": [CAUSAL, {"rule": "padding", "lengths": integers(1005, 1003, 1004, 1002), "starts": 0}],
            },
            "q_positions": integers([1004, 1002, 1003], [1004, 1002, 1003], [1003, 1001, 1004], [1001, 1004, 1000]),
            "k_positions": integers(1000, 1001, 1002, 1003, 1004),
        },
        clauses=["HEADS-OPTIONS"],
        flags=["HeadOptions"],
        comment="A rule whose lengths, and positions, differ by query head.",
        catches=["gqa/tiled"],
    ),
    Case(
        "grouped_query_attention.nothing.0001",
        "grouped_query_attention",
        {
            "q": grid("nothing q", (4, 2, 3)),
            "k": Tensor((2, 0, 3), []),
            "v": Tensor((2, 0, 2), []),
            "sinks": tensor([0.5, 1.0, -1.0, 2.0]),
            "return_lse": True,
        },
        clauses=["HEADS-GROUP"],
        flags=["EmptyRow"],
        comment="M = 0.",
    ),
    Case(
        "grouped_query_attention.ratio.0001",
        "grouped_query_attention",
        grouped("ratio", b=1, h=6, g=4, n=1, m=2, d=2, dv=1),
        clauses=["HEADS-RATIO"],
        flags=["WrongInput"],
        comment="6 query heads over 4.",
        refuses=True,
    ),
    Case(
        "grouped_query_attention.ratio.0002",
        "grouped_query_attention",
        grouped("fewer", b=1, h=2, g=6, n=1, m=2, d=2, dv=1),
        clauses=["HEADS-RATIO"],
        flags=["WrongInput"],
        comment="Fewer query heads than key/value heads.",
        refuses=True,
    ),
    Case(
        "grouped_query_attention.refuse.0001",
        "grouped_query_attention",
        {**grouped("sinks", n=1, m=2, d=2, dv=1), "sinks": tensor([0.5, -1.0])},
        clauses=["HEADS-OPTIONS"],
        flags=["WrongInput"],
        comment="A sink for each key/value head.",
        refuses=True,
    ),
    Case(
        "grouped_query_attention.refuse.0002",
        "grouped_query_attention",
        {**grouped("mask by group", n=1, m=3, d=2, dv=1), "mask": bools((2, 1, 3), "110 011")},
        clauses=["HEADS-OPTIONS"],
        flags=["WrongInput"],
        comment="A mask for each key/value head, or for each sequence without the axis of heads.",
        refuses=True,
    ),
    Case(
        "multi_query_attention.basic.0001",
        "multi_query_attention",
        {
            "q": grid("mqa q", (2, 3, 2, 4), bits=6),
            "k": grid("mqa k", (2, 5, 4), bits=6),
            "v": grid("mqa v", (2, 5, 3), bits=5),
            "mask": CAUSAL,
            "sinks": tensor([0.5, -1.0, 2.0]),
            "return_lse": True,
        },
        clauses=["HEADS-MQA", "HEADS-OPTIONS"],
        flags=["MultiQuery"],
    ),
    Case(
        "multi_query_attention.refuse.0001",
        "multi_query_attention",
        grouped("mqa axis", h=3, g=1, n=1, m=2, d=2, dv=1),
        clauses=["HEADS-MQA"],
        flags=["WrongInput"],
        comment="Keys with a head axis, which would broadcast against the batch.",
        refuses=True,
    ),
    # --- with projections -------------------------------------------------------------------------------------------
    Case(
        "multi_head_attention.self.0001",
        "multi_head_attention",
        {"x_q": tokens("self", 2, 3, 5), "x_kv": None, "params": weights("self", 5, 4, 4, 3, 2, 6), "heads": 4},
        clauses=["MHA-PROJECT", "MHA-CROSS"],
        flags=["Basic", "HeadLayout"],
        comment="Self-attention with every bias; no two sizes equal.",
        catches=[
            "heads/features_first",
            "heads/no_transpose",
            "mha/scale_from_width",
            "mha/output_bias_dropped",
            "mha/input_biases_dropped",
        ],
    ),
    Case(
        "multi_head_attention.self.0002",
        "multi_head_attention",
        {
            "x_q": tokens("plain", 4, 3),
            "x_kv": None,
            "params": weights("plain", 3, 2, 2, 2, 2, 3, biases=False),
            "heads": 2,
            "mask": CAUSAL,
        },
        clauses=["MHA-PROJECT"],
        flags=["Basic"],
        comment="One sequence, no bias, causal.",
        catches=["heads/features_first"],
    ),
    Case(
        "multi_head_attention.grouped.0001",
        "multi_head_attention",
        {
            "x_q": tokens("grouped", 4, 5),
            "x_kv": None,
            "params": weights("grouped", 5, 6, 2, 2, 3, 2),
            "heads": 6,
            "kv_heads": 2,
            "mask": CAUSAL,
        },
        clauses=["MHA-PROJECT", "HEADS-GROUP"],
        flags=["GroupedHeads"],
        catches=["gqa/tiled", "heads/no_transpose"],
    ),
    Case(
        "multi_head_attention.packed.0001",
        "multi_head_attention",
        {
            "x_q": tokens("packed", 2, 3, 4),
            "x_kv": None,
            "params": packed("packed", 4, 4, 2, 3, 2, 3),
            "heads": 4,
            "kv_heads": 2,
        },
        clauses=["MHA-PACKED"],
        flags=["PackedWeights"],
        comment="4 heads of 3 for queries, 2 of 3 for keys, 2 of 2 for values: 22 columns.",
        catches=["mha/packed_by_group"],
    ),
    Case(
        "multi_head_attention.packed.0002",
        "multi_head_attention",
        {
            "x_q": tokens("packed cross q", 2, 3, 4),
            "x_kv": tokens("packed cross kv", 2, 5, 4),
            "params": packed("packed cross", 4, 2, 2, 3, 3, 4),
            "heads": 2,
        },
        clauses=["MHA-PACKED", "MHA-CROSS"],
        flags=["PackedWeights", "CrossAttention"],
        comment="Packed weights in cross-attention: the key and value columns meet the second sequence.",
        catches=["mha/packed_by_group", "mha/second_sequence_ignored"],
    ),
    Case(
        "multi_head_attention.cross.0001",
        "multi_head_attention",
        {
            "x_q": tokens("cross q", 2, 3, 4),
            "x_kv": tokens("cross kv", 2, 5, 6),
            "params": weights("cross", 4, 2, 2, 3, 2, 3, e_kv=6),
            "heads": 2,
            "mask": PER_SEQUENCE,
        },
        clauses=["MHA-CROSS", "MHA-OPTIONS"],
        flags=["CrossAttention", "MaskAxes"],
        comment="Sequences of different length and width; a mask for each of 2 sequences, and as many heads.",
        catches=["mask/polarity", "mask/tiled_over_heads", "mask/over_heads"],
    ),
    Case(
        "multi_head_attention.options.0001",
        "multi_head_attention",
        {
            "x_q": tokens("all options", 2, 3, 4),
            "x_kv": tokens("all options kv", 2, 5, 4),
            "params": weights("all options", 4, 4, 2, 3, 2, 3),
            "heads": 4,
            "kv_heads": 2,
            "mask": {"rule": "and", "of": [CAUSAL, {"rule": "window", "left": 3, "right": 0}]},
            "q_positions": integers([1004, 1002, 1003], [1000, 1004, 1001]),
            "k_positions": integers(1000, 1001, 1002, 1003, 1004),
            "bias": grid("all options b", (4, 1, 5), bits=5),
            "scale": 0.875,
            "softcap": 2.5,
            "sinks": tensor([0.5, -1.0, 2.0, 1.25]),
            "dropout": {
                "params": "Dropout",
                "fields": {
                    "keep": bools((4, 3, 5), "110111011011101 011110111101111 101111110111011 111011101111110"),
                    "rate": 0.125,
                },
            },
        },
        clauses=["MHA-OPTIONS"],
        flags=["HeadOptions", "CrossAttention"],
        comment="Every option at once; positions differ by sequence and are far from 0.",
        catches=["gqa/tiled", "mha/positions_ignored", "mha/scale_from_width"],
    ),
    Case(
        "multi_head_attention.empty.0001",
        "multi_head_attention",
        {
            "x_q": tokens("empty", 3, 4),
            "x_kv": None,
            "params": weights("empty", 4, 2, 2, 2, 2, 3),
            "heads": 2,
            "mask": bools((3, 3), "110 000 011"),
        },
        clauses=["MHA-OPTIONS", "MHA-PROJECT"],
        flags=["EmptyRow"],
        comment="The second query may attend to nothing: its row is the output bias.",
        catches=["mask/polarity", "mha/output_bias_dropped"],
    ),
    Case(
        "multi_head_attention.qk_norm.0001",
        "multi_head_attention",
        {
            "x_q": tokens("norm", 2, 3, 4),
            "x_kv": None,
            "params": weights("norm", 4, 4, 2, 3, 1, 2, q_norm=gains("q", 3), k_norm=gains("key", 3)),
            "heads": 4,
            "kv_heads": 2,
            "qk_norm_eps": 0.125,
        },
        clauses=["MHA-QKNORM"],
        flags=["QKNorm"],
        comment="Gains of one head's size, and an eps that matters.",
        catches=["mha/no_qk_norm", "mha/qk_norm_over_width", "mha/qk_norm_before_bias"],
    ),
    Case(
        "multi_head_attention.qk_norm.0002",
        "multi_head_attention",
        {
            "x_q": tokens("wide norm", 2, 3, 4),
            "x_kv": None,
            "params": weights("wide norm", 4, 4, 2, 3, 1, 2, q_norm=gains("q", 12), k_norm=gains("key", 6)),
            "heads": 4,
            "kv_heads": 2,
        },
        clauses=["MHA-QKNORM"],
        flags=["QKNorm"],
        comment="Gains of the whole width.",
        catches=["mha/no_qk_norm", "mha/qk_norm_by_head"],
    ),
    Case(
        "multi_head_attention.rope.0001",
        "multi_head_attention",
        {
            "x_q": tokens("rope", 2, 5, 3),
            "x_kv": None,
            "params": weights("rope", 3, 2, 1, 4, 2, 2, q_norm=gains("q", 4), k_norm=gains("key", 4)),
            "heads": 2,
            "kv_heads": 1,
            "mask": CAUSAL,
            "rope": rotary(layout="half", base=100.0),
        },
        clauses=["MHA-ROPE", "MHA-QKNORM"],
        flags=["RotaryOrder", "QKNorm"],
        comment="Gains differ within a rotated pair, so that norm and rotation do not commute.",
        catches=["mha/rope_before_norm", "mha/rope_ignored", "mha/rope_over_heads", "mha/no_qk_norm"],
    ),
    Case(
        "multi_head_attention.rope.0002",
        "multi_head_attention",
        {
            "x_q": tokens("rope far q", 2, 3, 3),
            "x_kv": tokens("rope far kv", 2, 5, 3),
            "params": weights("rope far", 3, 2, 1, 6, 2, 4),
            "heads": 2,
            "kv_heads": 1,
            "q_positions": integers([712, 40, 700], [3, 9, 2]),
            "k_positions": integers([700, 701, 702, 39, 703], [0, 1, 2, 3, 4]),
            "rope": rotary(layout="interleaved", base=1000.0, rotary_dim=4),
        },
        clauses=["MHA-ROPE", "MHA-OPTIONS"],
        flags=["RotaryOrder"],
        comment="Positions differ by sequence, and only 4 of 6 features are rotated.",
        catches=["mha/positions_ignored", "mha/rope_counts_from_zero", "mha/rope_over_heads"],
    ),
    Case(
        "multi_head_attention.rope.0003",
        "multi_head_attention",
        {
            "x_q": tokens("rope decode q", 2, 4),
            "x_kv": tokens("rope decode kv", 5, 4),
            "params": weights("rope decode", 4, 2, 2, 4, 3, 5, biases=False),
            "heads": 2,
            "mask": CAUSAL,
            "rope": rotary(layout="half"),
        },
        clauses=["MHA-ROPE"],
        flags=["RotaryOrder"],
        comment="2 queries over 5 keys without positions: they are the last 2.",
        catches=["mha/rope_counts_from_zero", "mha/rope_ignored"],
    ),
    Case(
        "multi_head_attention.refuse.0001",
        "multi_head_attention",
        {"x_q": tokens("refuse", 2, 3), "x_kv": None, "params": weights("refuse", 4, 2, 2, 2, 1, 2), "heads": 2},
        clauses=["MHA-REFUSE"],
        flags=["WrongInput"],
        comment="Weights for a width of 4, inputs of width 3.",
        refuses=True,
    ),
    Case(
        "multi_head_attention.refuse.0002",
        "multi_head_attention",
        {"x_q": tokens("refuse", 2, 3), "x_kv": None, "params": weights("refuse o", 3, 4, 2, 2, 1, 2), "heads": 2},
        clauses=["MHA-REFUSE"],
        flags=["WrongInput"],
        comment="Weights for 4 heads over 2 used with 2 over 2: head sizes differ.",
        refuses=True,
    ),
    Case(
        "multi_head_attention.refuse.0003",
        "multi_head_attention",
        {
            "x_q": tokens("refuse", 2, 2),
            "x_kv": None,
            "params": weights("refuse norm", 2, 2, 2, 3, 1, 2, q_norm=gains("q", 2)),
            "heads": 2,
        },
        clauses=["MHA-REFUSE"],
        flags=["WrongInput"],
        comment="A gain of 2 for a head size of 3.",
        refuses=True,
    ),
    Case(
        "multi_head_attention.refuse.0004",
        "multi_head_attention",
        {
            "x_q": tokens("refuse", 2, 2),
            "x_kv": None,
            "params": packed("refuse packed", 2, 4, 2, 3, 2, 2),
            "heads": 2,
            "kv_heads": 2,
        },
        clauses=["MHA-REFUSE"],
        flags=["WrongInput"],
        comment="22 packed columns are not 2·D + 2·D + 2·Dv with 2·Dv = 8.",
        refuses=True,
    ),
    Case(
        "multi_head_attention.refuse.0005",
        "multi_head_attention",
        {
            "x_q": tokens("refuse", 2, 2),
            "x_kv": None,
            "params": weights("refuse g", 2, 3, 2, 2, 1, 2),
            "heads": 3,
            "kv_heads": 2,
        },
        clauses=["HEADS-RATIO"],
        flags=["WrongInput"],
        comment="3 heads over 2.",
        refuses=True,
    ),
]
