"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import inf, nan, tensor
from ..vectors import call, case, grid, params

NEAR = [0.0, 0.0625, 0.5, 0.75, 1.0, 1.5, 2.25, 2.75, 4.0]  # the three GELUs differ most at 0.75, 2.25 and 2.75
POINTS = tensor([NEAR, [-x for x in NEAR]])
TAIL = tensor([-5.0, -7.5, -10.0, -20.0, -32.0])
RANGE = tensor([[-64.0, 64.0, -9984.0, 9984.0], [-59904.0, 59904.0, inf, -inf], [nan, 0.0, 64.0, 1.0]])


def activation(name, clause, at_points, in_range, kind="points", **options):
    """An activation near 0, in its negative tail, and over the whole range."""

    def of(number, x, clauses, flag, catches="", comment=""):
        head = f"{name}.{kind}.{number:04}: {clause}{clauses}; {flag}"
        return case(head, call(name, x=x, **options), catches, comment=comment)

    flat = name in ("relu", "squared_relu", "tanh")  # exactly 0 for negative x, or far from it
    comment = "Results down to 1e-225: compare them relative to their own size."
    return [
        of(1, POINTS, "", "WhichGelu" if "gelu" in name else "Basic", at_points),
        *([] if flat else [of(2, TAIL, " ACT-TAIL", "Tails", comment=comment)]),
        of(3, RANGE, " ACT-RANGE", "Tails", in_range),
    ]


def plain(**fields):
    return params("FeedForwardParams", **fields)


def gated(**fields):
    return params("GatedFeedForwardParams", **fields)


X = grid("ffn x", (2, 3, 5), bits=6)
FFN = {
    "w_in": grid("ffn w_in", (5, 7), bits=6),
    "b_in": grid("ffn b_in", (7,), bits=6),
    "w_out": grid("ffn w_out", (7, 5), bits=6),
    "b_out": grid("ffn b_out", (5,), bits=6),
}
SQUARE = {
    "w_in": grid("square w_in", (5, 5), bits=6),
    "b_in": None,
    "w_out": grid("square w_out", (5, 5), bits=6),
    "b_out": None,
}
GLU = {
    "w_gate": grid("glu w_gate", (5, 7), bits=6),
    "w_up": grid("glu w_up", (5, 7), bits=6),
    "w_out": grid("glu w_out", (7, 5), bits=6),
}
GLU_BIASES = {
    "b_gate": grid("glu b_gate", (7,), bits=6),
    "b_up": grid("glu b_up", (7,), bits=6),
    "b_out": grid("glu b_out", (5,), bits=6),
}
PACKED = grid("packed", (3, 8))


def network(name, function, params, flag, catches, **options):
    clause = "FFN-OUT" if function == "feed_forward" else "GLU-OUT"
    head = f"{function}.{name}: {clause} FFN-TOKENWISE; {flag}"
    return case(head, call(function, x=X, params=params, **options), catches)


def packed(order, *others):
    catches = " ".join(f"packed_gate/{other}" for other in others)
    head = f"split_gate.{order}.0001: GLU-PACKED; GateOrder"
    return case(head, call("feedforward.split_gate", packed=PACKED, gate_order=order), catches)


def refused(number, function, comment, **arguments):
    head = f"{function.rpartition('.')[2]}.refuse.{number:04}: FFN-REFUSE; WrongInput"
    return case(head, call(function, **arguments), comment=comment)


ZERO_TIMES = "activation/infinity_times_zero"

CASES = [
    *activation("relu", "ACT-RELU", "relu/leaky", "relu/leaky relu/nan_dropped"),
    *activation(
        "squared_relu", "ACT-SQUARED-RELU", "squared_relu/unrectified squared_relu/relu", "squared_relu/unrectified"
    ),
    *activation("gelu", "ACT-GELU", "gelu/tanh gelu/quick gelu/without_root_2", ZERO_TIMES),
    *activation(
        "gelu",
        "ACT-GELU-TANH",
        "gelu/exact_for_tanh gelu/quick gelu/cube_without_x",
        ZERO_TIMES,
        kind="tanh",
        approximate="tanh",
    ),
    *activation("quick_gelu", "ACT-QUICK-GELU", "quick_gelu/exact quick_gelu/silu", ZERO_TIMES),
    *activation("silu", "ACT-SILU", "silu/sigmoid silu/quick_gelu", f"{ZERO_TIMES} silu/naive_overflow"),
    *activation("sigmoid", "ACT-SIGMOID", "sigmoid/hard", "sigmoid/naive_overflow"),
    *activation("tanh", "ACT-TANH", "tanh/sigmoid", "tanh/naive_overflow"),
    *activation("softplus", "ACT-SOFTPLUS", "softplus/relu", "softplus/naive_overflow"),
    case(
        "softplus.middle.0001: ACT-SOFTPLUS; Tails",
        call("softplus", x=tensor([3.0, 5.0, 7.0, 8.5, 9.0, 10.0, 11.0, 12.0])),
        "softplus/relu",
        comment="Where softplus is nearly x and not yet x.",
    ),
    network(
        "relu.0001",
        "feed_forward",
        plain(**FFN),
        "Basic",
        "ffn/bias_dropped ffn/bias_after_activation ffn/activated_output ffn/output_bias_dropped ffn/not_activated",
    ),
    network("gelu.0001", "feed_forward", plain(**FFN), "OtherActivation", "ffn/activation_ignored", activation="gelu"),
    network("square.0001", "feed_forward", plain(**SQUARE), "SquareWeights", "ffn/weights_transposed"),
    network(
        "silu.0001",
        "gated_feed_forward",
        gated(**GLU),
        "GateOrder",
        "glu/gate_order glu/activation_of_product glu/clamped_plus_one glu/both_activated glu/up_ignored glu/sum "
        "glu/not_activated",
    ),
    network(
        "sigmoid.0001",
        "gated_feed_forward",
        gated(**GLU, **GLU_BIASES),
        "OtherActivation",
        "glu/gate_order glu/activation_ignored glu/bias_dropped",
        activation="sigmoid",
    ),
    network(
        "identity.0001",
        "gated_feed_forward",
        gated(**GLU),
        "OtherActivation",
        "glu/activation_ignored",
        activation="identity",
    ),
    network(
        "gelu_tanh.0001",
        "gated_feed_forward",
        gated(**GLU),
        "OtherActivation",
        "glu/activation_ignored",
        activation="gelu_tanh",
    ),
    packed("first", "second", "interleaved"),
    packed("second", "first", "interleaved"),
    packed("interleaved", "first", "second"),
    refused(1, "feed_forward", "w_in is transposed.", x=X, params=plain(**{**FFN, "w_in": grid("ffn w_in", (7, 5))})),
    refused(
        2,
        "feed_forward",
        "One bias for all units is not broadcast.",
        x=X,
        params=plain(**{**FFN, "b_in": tensor([0.5])}),
    ),
    refused(3, "feed_forward", "There is no such activation.", x=X, params=plain(**FFN), activation="swish_1"),
    refused(
        1,
        "gated_feed_forward",
        "Gate and up differ in width.",
        x=X,
        params=gated(**{**GLU, "w_up": grid("up", (5, 6))}),
    ),
    refused(1, "feedforward.split_gate", "An odd number of columns.", packed=grid("odd", (3, 7)), gate_order="first"),
    refused(2, "feedforward.split_gate", "There is no such order.", packed=PACKED, gate_order="last"),
]
