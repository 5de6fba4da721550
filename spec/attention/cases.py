"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, inf, nan, tensor
from ..vectors import Case, grid

CAUSAL = {"rule": "causal"}


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
    Case(
        "attention.basic.0001",
        "attention",
        {**inputs("basic"), "return_lse": True},
        clauses=["ATTN-OUT", "ATTN-SCALE", "ATTN-LSE", "ATTN-VALUES"],
        flags=["Basic"],
        catches=["scale/one_over_d", "scale/none", "scale/twice", "lse/base_2", "lse/unscaled", "keys/last_dropped"],
    ),
    Case(
        "attention.scale.0001",
        "attention",
        {**inputs("scale"), "scale": 0.1875, "bias": grid("scale b", (5, 7), bits=6), "return_lse": True},
        clauses=["ATTN-SCALE", "ATTN-BIAS", "ATTN-ORDER"],
        flags=["OtherScale", "Bias"],
        catches=["scale/ignored", "bias/scaled", "bias/ignored", "exponent/base_2"],
    ),
    Case(
        "attention.scale.0002",
        "attention",
        {**one_head("negative scale", 3, 5), "scale": -0.75},
        clauses=["ATTN-SCALE"],
        flags=["OtherScale"],
        comment="A negative scale: the square root of it cannot be moved onto q and k.",
        catches=["scale/square_root_on_both"],
    ),
    Case(
        "attention.scale.0003",
        "attention",
        {**one_head("zero scale", 2, 3), "scale": 0.0, "return_lse": True},
        clauses=["ATTN-SCALE"],
        flags=["OtherScale"],
        comment="Scale 0 means equal weights; it is not 'no scale given'.",
        catches=["scale/ignored"],
    ),
    Case(
        "attention.causal.0001",
        "attention",
        {**inputs("causal"), "mask": CAUSAL, "return_lse": True},
        clauses=["ATTN-ALIGN", "ATTN-MASK"],
        flags=["CausalAlignment"],
        comment="5 queries are the last 5 of 7 positions.",
        catches=["causal/top_left", "causal/strict", "causal/one_more", "mask/ignored"],
    ),
    Case(
        "attention.causal.0002",
        "attention",
        {**inputs("causal tall", n=7, m=5, d=3), "mask": CAUSAL, "return_lse": True},
        clauses=["ATTN-ALIGN", "ATTN-EMPTY"],
        flags=["CausalAlignment", "EmptyRow"],
        comment="7 queries over 5 keys: the first two lie before every key.",
        catches=[
            "causal/top_left",
            "empty_row/nan",
            "empty_row/mean",
            "empty_row/lse_plus_infinity",
            "empty_row/lse_finite",
        ],
    ),
    Case(
        "attention.causal.0003",
        "attention",
        {**one_head("decode", 1, 6), "mask": CAUSAL},
        clauses=["ATTN-ALIGN"],
        flags=["CausalAlignment"],
        comment="One step of decoding: the query sees everything.",
        catches=["causal/top_left"],
    ),
    Case(
        "attention.causal.0004",
        "attention",
        {**needles(4, 6, [3, 4, 0, 5]), "mask": CAUSAL},
        clauses=["ATTN-ALIGN", "ATTN-MASK"],
        flags=["CausalAlignment", "Needle"],
        comment="Queries 0 and 1 are aligned with keys that lie just beyond what they may see, 3 with the last key.",
        catches=["causal/one_more", "causal/top_left", "keys/last_dropped", "mask/ignored"],
    ),
    Case(
        "attention.window.0001",
        "attention",
        {
            **needles(4, 8, [1, 1, 3, 7]),
            "mask": {"rule": "and", "of": [CAUSAL, {"rule": "window", "left": 3, "right": 0}]},
        },
        clauses=["ATTN-MASK", "ATTN-ALIGN"],
        flags=["Window", "Needle"],
        comment="Queries at positions 4 to 7: at the left edge, just beyond it, at the edge again, and at themselves.",
        catches=["window/one_more_left", "window/one_fewer_left", "window/top_left"],
    ),
    Case(
        "attention.window.0002",
        "attention",
        {**inputs("window"), "mask": {"rule": "window", "left": 2, "right": 1}, "return_lse": True},
        clauses=["ATTN-MASK", "ATTN-ALIGN"],
        flags=["Window"],
        catches=["window/one_more_left", "window/one_fewer_left", "window/top_left", "window/right_ignored"],
    ),
    Case(
        "attention.positions.0001",
        "attention",
        {
            **inputs("positions", n=3, m=5, d=4),
            "mask": {"rule": "and", "of": [CAUSAL, {"rule": "window", "left": 40, "right": 0}]},
            "q_positions": tensor([1000, 1003, 990], dtype="int64"),
            "k_positions": tensor([959, 960, 1000, 963, 1001], dtype="int64"),
        },
        clauses=["ATTN-ALIGN", "ATTN-MASK"],
        flags=["FarPositions", "Window"],
        comment="Positions far from 0 and out of order, as a rolling cache holds them.",
        catches=["positions/ignored", "window/one_more_left"],
    ),
    Case(
        "attention.mask.0001",
        "attention",
        {
            **inputs("mask", b=2, h=3, n=4, m=5, d=7),
            "mask": Tensor((2, 1, 4, 5), [int(c) for c in "1101000000011111000111100101110010101000"], "bool"),
            "return_lse": True,
        },
        clauses=["ATTN-MASK", "ATTN-EMPTY", "ATTN-BROADCAST"],
        flags=["DenseMask", "EmptyRow"],
        comment="One mask a batch entry; the second query of the first may attend to nothing.",
        catches=[
            "mask/polarity",
            "mask/multiplies",
            "mask/ignored",
            "mask/batch_on_heads",
            "fill/minus_1e4",
            "empty_row/mean",
            "empty_row/nan",
            "empty_row/lse_plus_infinity",
        ],
    ),
    Case(
        "attention.mask.0002",
        "attention",
        {
            **inputs("two masks", b=3, h=2, n=4, m=6, d=5),
            "mask": {
                "rule": "and",
                "of": [CAUSAL, {"rule": "padding", "lengths": tensor([[6], [4], [3]], dtype="int64"), "starts": 0}],
            },
        },
        clauses=["ATTN-MASK", "ATTN-ALIGN"],
        flags=["DenseMask", "CausalAlignment"],
        comment="Padding and causality together; the lengths differ by batch entry.",
        catches=["causal/lost_with_mask", "mask/lost_with_causal", "causal/top_left"],
    ),
    Case(
        "attention.absent.0001",
        "attention",
        {**POISONED_K, "mask": WITHOUT_2_AND_4, "return_lse": True},
        clauses=["ATTN-ABSENT"],
        flags=["Poison"],
        comment="Excluded keys hold NaN, infinities and a large number.",
        catches=["mask/adds"],
    ),
    Case(
        "attention.absent.0002",
        "attention",
        {**POISONED_V, "mask": WITHOUT_2_AND_4, "return_lse": True},
        clauses=["ATTN-ABSENT"],
        flags=["Poison"],
        comment="Excluded values hold NaN and infinities.",
        catches=["values/multiplied_by_zero"],
    ),
    Case(
        "attention.absent.0003",
        "attention",
        {**POISONED_V, "mask": bools("11110", "11011", "10010")},
        clauses=["ATTN-ABSENT", "ATTN-OUT"],
        flags=["Poison"],
        comment="Some of those values may be attended to: their rows are infinite or NaN, the last row is not.",
        catches=["values/cleaned"],
    ),
    Case(
        "attention.bias.0001",
        "attention",
        {
            **inputs("bias", b=2, h=3, n=2, m=5, d=4),
            "bias": grid("bias b", (3, 1, 5), bits=5),
            "return_lse": True,
        },
        clauses=["ATTN-BIAS", "ATTN-LSE", "ATTN-BROADCAST"],
        flags=["Bias"],
        catches=["bias/scaled", "bias/ignored", "lse/before_bias"],
    ),
    Case(
        "attention.bias.0002",
        "attention",
        {
            **POISONED_K,
            "v": POISONED_V["v"],
            "bias": tensor([[0.5, -1.0, -inf, 0.25, -inf], [-inf] * 5, [0.0, -2.0, -inf, 1.5, -inf]]),
            "return_lse": True,
        },
        clauses=["ATTN-BIAS", "ATTN-ABSENT", "ATTN-EMPTY"],
        flags=["Bias", "Poison", "EmptyRow"],
        comment="A bias of -infinity excludes as a mask does, poison and empty row included.",
        catches=["bias/infinity_adds"],
    ),
    Case(
        "attention.softcap.0001",
        "attention",
        {
            **inputs("softcap", n=3, m=5, d=4, bits=4),
            "softcap": 2.5,
            "bias": grid("softcap b", (3, 5), bits=5),
            "mask": bools("11011", "01110", "10111"),
            "return_lse": True,
        },
        clauses=["ATTN-SOFTCAP", "ATTN-ORDER"],
        flags=["Softcap", "LargeLogits"],
        comment="Logits well beyond the cap; bias and mask come after it.",
        catches=[
            "softcap/after_mask",
            "softcap/after_bias",
            "softcap/ignored",
            "softcap/s_tanh_s",
            "softcap/before_scale",
        ],
    ),
    Case(
        "attention.softcap.0002",
        "attention",
        {**one_head("softcap zero", 2, 3), "softcap": 0.0},
        clauses=["ATTN-SOFTCAP"],
        flags=["Softcap"],
        comment="A cap of 0 is none.",
        catches=["softcap/zero_divides"],
    ),
    Case(
        "attention.sink.0001",
        "attention",
        {
            **inputs("sink", b=2, h=3, n=4, m=5, d=7),
            "sinks": tensor([0.75, -2.0, 3.0]),
            "mask": bools("11010", "00000", "01111", "10001"),
            "scale": 0.25,
            "return_lse": True,
        },
        clauses=["ATTN-SINK", "ATTN-LSE", "ATTN-EMPTY"],
        flags=["Sink", "EmptyRow"],
        catches=[
            "sink/ignored",
            "sink/after_shift",
            "sink/in_lse",
            "sink/scaled",
            "sink/as_key_with_mean_value",
        ],
    ),
    Case(
        "attention.sink.0002",
        "attention",
        {**one_head("sink far", 2, 3), "sinks": Tensor((), [-inf]), "scale": 1.5},
        clauses=["ATTN-SINK"],
        flags=["Sink", "OtherScale"],
        comment="A sink of -infinity is none.",
        catches=["scale/ignored"],
    ),
    Case(
        "attention.dropout.0001",
        "attention",
        {
            **inputs("dropout", n=3, m=5, d=4),
            "dropout": {"params": "Dropout", "fields": {"keep": bools("11011", "00110", "10111"), "rate": 0.125}},
            "return_lse": True,
        },
        clauses=["ATTN-DROPOUT"],
        flags=["Dropout"],
        catches=["dropout/one_over_rate", "dropout/not_rescaled", "dropout/renormalised", "dropout/ignored"],
    ),
    Case(
        "attention.large.0001",
        "attention",
        {
            "q": tensor([[64.0, -32.0], [-64.0, -60.0], [0.5, 0.25]]),
            "k": tensor([[30.0, 40.0], [31.0, 40.0], [30.5, 41.0], [-30.0, 2.0]]),
            "v": tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0], [0.5, 0.5, 0.5]]),
            "scale": 1.0,
            "return_lse": True,
        },
        clauses=["ATTN-OUT", "ATTN-LSE"],
        flags=["LargeLogits"],
        comment="Scores of hundreds and thousands, of both signs.",
        catches=["peak/none"],
    ),
    Case(
        "attention.large.0002",
        "attention",
        {
            "q": tensor([[-240.0, -224.0], [-248.0, -252.0]]),
            "k": tensor([[128.0, 120.0], [126.0, 123.0], [130.0, 117.0]]),
            "v": tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0]]),
            "scale": 1.0,
            "return_lse": True,
        },
        clauses=["ATTN-OUT", "ATTN-LSE"],
        flags=["LargeLogits"],
        comment="All scores lie below -5e4, where sentinels have been mistaken for the maximum.",
        catches=["peak/from_zero", "fill/minus_5e4", "peak/none"],
    ),
    Case(
        "attention.nothing.0001",
        "attention",
        {**one_head("no keys", 3, 0), "k": Tensor((0, 3), []), "v": Tensor((0, 2), []), "return_lse": True},
        clauses=["ATTN-EMPTY"],
        flags=["EmptyRow"],
        comment="M = 0.",
    ),
    Case(
        "attention.nothing.0002",
        "attention",
        {**one_head("no queries", 0, 3), "mask": CAUSAL, "return_lse": True},
        clauses=["ATTN-EMPTY"],
        flags=["EmptyRow"],
        comment="N = 0.",
    ),
    Case(
        "attention.broadcast.0001",
        "attention",
        {
            "q": grid("broadcast q", (3, 2, 2, 4), bits=5),
            "k": grid("broadcast k", (2, 5, 4), bits=6),
            "v": grid("broadcast v", (3, 1, 5, 3), bits=5),
            "bias": grid("broadcast b", (5,), bits=5),
        },
        clauses=["ATTN-BROADCAST", "ATTN-VALUES"],
        flags=["Broadcast"],
        catches=["bias/ignored"],
    ),
    Case(
        "attention_weights.sink.0001",
        "attention_weights",
        {
            **{name: x for name, x in inputs("weights", b=2, h=3, n=4, m=5, d=7).items() if name != "v"},
            "mask": {"rule": "window", "left": 2, "right": 0},
            "sinks": tensor([[0.5], [-1.0]]),
        },
        clauses=["ATTN-WEIGHTS", "ATTN-SINK"],
        flags=["Sink", "Window"],
        catches=["sink/ignored", "weights/transposed_mask"],
    ),
    Case(
        "attention_stages.all.0001",
        "attention_stages",
        {
            **inputs("stages", b=2, h=1, n=3, m=4, d=5, dv=2, bits=5),
            "mask": {"rule": "and", "of": [CAUSAL, {"rule": "window", "left": 2, "right": 0}]},
            "bias": tensor([[0.5, -1.0, -inf, 0.25]]),
            "scale": 0.375,
            "softcap": 3.0,
            "sinks": tensor([0.25]),
            "dropout": {"params": "Dropout", "fields": {"keep": bools("1101", "1110", "0111"), "rate": 0.25}},
        },
        clauses=["ATTN-ORDER", "ATTN-SOFTCAP", "ATTN-BIAS", "ATTN-SINK", "ATTN-DROPOUT"],
        flags=["AllOptions"],
        comment="Every option at once, stage by stage: the first stage that differs is where a kernel leaves the path.",
    ),
    Case(
        "attention.refuse.0001",
        "attention",
        {**one_head("refuse d", 2, 3), "k": grid("refuse k", (3, 4))},
        clauses=["ATTN-REFUSE"],
        flags=["WrongInput"],
        comment="Head sizes differ.",
        refuses=True,
    ),
    Case(
        "attention.refuse.0002",
        "attention",
        {**one_head("refuse m", 2, 3), "v": grid("refuse v", (4, 2))},
        clauses=["ATTN-REFUSE"],
        flags=["WrongInput"],
        comment="Four values for three keys.",
        refuses=True,
    ),
    Case(
        "attention.refuse.0003",
        "attention",
        {**one_head("refuse mask", 2, 3), "mask": bools("1111", "1111")},
        clauses=["ATTN-REFUSE"],
        flags=["WrongInput"],
        comment="A mask for four keys.",
        refuses=True,
    ),
    Case(
        "attention.refuse.0004",
        "attention",
        {**one_head("refuse cap", 2, 3), "softcap": -1.0},
        clauses=["ATTN-REFUSE"],
        flags=["WrongInput"],
        comment="A negative cap.",
        refuses=True,
    ),
    Case(
        "attention.refuse.0005",
        "attention",
        {
            **one_head("refuse rate", 2, 3),
            "dropout": {"params": "Dropout", "fields": {"keep": bools("111", "111"), "rate": 1.0}},
        },
        clauses=["ATTN-REFUSE"],
        flags=["WrongInput"],
        comment="A dropout rate of 1.",
        refuses=True,
    ),
]
