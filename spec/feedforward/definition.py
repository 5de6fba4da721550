"""Activations, for one number; feed-forward networks and packed gates."""

from ..exact import exact, inf, isinf, isnan, lift, mp, mpf

# --- activations ----------------------------------------------------------------------------------------------------


def phi(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def tanh_argument(x):
    return mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)


ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, mpf(0)),
    "squared_relu": lambda x: max(x, mpf(0)) ** 2,
    "gelu": lambda x: x * phi(x),
    "gelu_tanh": lambda x: x * sigmoid(2 * tanh_argument(x)),
    "quick_gelu": lambda x: x * sigmoid(mpf("1.702") * x),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": mp.tanh,
    "softplus": lambda x: mp.log1p(mp.exp(x)),
}
LIMITS = {name: (mpf(0), inf) for name in ACTIVATIONS} | {  # at -infinity and at +infinity
    "identity": (-inf, inf),
    "sigmoid": (mpf(0), mpf(1)),
    "tanh": (mpf(-1), mpf(1)),
}


# --- a second formulation of each, which must agree before a vector is written --------------------------------------


def phi_by_gamma(x):
    """x²/2 has a gamma distribution with shape 1/2."""
    inside = mp.gammainc(mpf(1) / 2, 0, x * x / 2, regularized=True)
    return (1 + mp.sign(x) * inside) / 2


def sigmoid_by_tanh(x):
    return (1 + mp.tanh(x / 2)) / 2


def tanh_by_exponentials(x):
    return 1 - 2 / (mp.exp(2 * x) + 1)


def half_sum(x):
    return (x + abs(x)) / 2


SECOND_ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": half_sum,
    "squared_relu": lambda x: x * half_sum(x),
    "gelu": lambda x: x * phi_by_gamma(x),
    "gelu_tanh": lambda x: x / 2 * (1 + tanh_by_exponentials(tanh_argument(x))),
    "quick_gelu": lambda x: x * sigmoid_by_tanh(mpf("1.702") * x),
    "silu": lambda x: x * sigmoid_by_tanh(x),
    "sigmoid": sigmoid_by_tanh,
    "tanh": tanh_by_exponentials,
    "softplus": lambda x: half_sum(x) + mp.log(1 + mp.exp(-abs(x))),
}


def at(function, limits, x):
    if isnan(x):
        return x
    if isinf(x):
        return limits[x > 0]
    return function(exact(x))


# --- networks -------------------------------------------------------------------------------------------------------


def linear(x, w, b=None):
    return x @ w if b is None else x @ w + b


def feed_forward(x, f, w_in, b_in, w_out, b_out):
    return linear(linear(x, w_in, b_in).map(f), w_out, b_out)


def gated_feed_forward(x, f, w_gate, w_up, w_out, b_gate=None, b_up=None, b_out=None):
    return linear(linear(x, w_gate, b_gate).map(f) * linear(x, w_up, b_up), w_out, b_out)


def by_units(x, f, w_in, b_in, w_out, b_out, factor=None):
    """The output as a sum over hidden units, each of which writes its row of w_out."""

    def token(x):
        out = [exact(b_out[c]) if b_out else mpf(0) for c in range(w_out.shape[1])]
        for unit in range(w_in.shape[1]):
            weight = f(one_unit(x, w_in, b_in, unit)) * (factor(x, unit) if factor else 1)
            out = [value + weight * exact(w_out[unit][c]) for c, value in enumerate(out)]
        return out

    return lift(token, (1,), x)


def gated_by_units(x, f, w_gate, w_up, w_out, b_gate=None, b_up=None, b_out=None):
    return by_units(x, f, w_gate, b_gate, w_out, b_out, factor=lambda x, unit: one_unit(x, w_up, b_up, unit))


def one_unit(x, w, b, unit):
    total = exact(b[unit]) if b else mpf(0)
    for i, value in enumerate(x):
        total += exact(value) * exact(w[i][unit])
    return total


# --- packed gates ---------------------------------------------------------------------------------------------------


def split_gate(packed, gate_order):
    f = packed.shape[-1] // 2
    first, last = (slice(0, 2 * f, 2), slice(1, None, 2)) if gate_order == "interleaved" else (slice(f), slice(f, None))
    gate, up = (last, first) if gate_order == "second" else (first, last)
    return packed[..., gate], packed[..., up]


def split_gate_by_removal(packed, gate_order):
    """Numbers are taken from a list one after the other, and each goes to the part whose turn it is."""

    def split(row):
        rest, gate, up = [exact(value) for value in row], [], []
        half = len(rest) // 2
        while rest:
            taken = len(gate) + len(up)
            own = {"first": taken < half, "second": taken >= half, "interleaved": len(gate) == len(up)}[gate_order]
            (gate if own else up).append(rest.pop(0))
        return gate, up

    return lift(split, (1,), packed)


# --- by the names of arguments --------------------------------------------------------------------------------------


def _elementwise(table, name):
    def over(x, approximate=None):
        chosen = f"{name}_{approximate}" if approximate else name
        return {"out": x.map(lambda value: at(table[chosen], LIMITS[chosen], value))}

    return over


def _network(table, function, default):
    def over(x, params, activation=default):
        return {"out": function(x, table[activation], **params["fields"])}

    return over


def _split(split):
    def over(packed, gate_order):
        gate, up = split(packed, gate_order)
        return {"gate": gate, "up": up}

    return over


def _functions(table, network, gated, split):
    names = [name for name in table if name not in ("identity", "gelu_tanh")]
    return {name: _elementwise(table, name) for name in names} | {
        "feed_forward": _network(table, network, "relu"),
        "gated_feed_forward": _network(table, gated, "silu"),
        "feedforward.split_gate": _split(split),
    }


FUNCTIONS = _functions(ACTIVATIONS, feed_forward, gated_feed_forward, split_gate)
SECOND = _functions(SECOND_ACTIVATIONS, by_units, gated_by_units, split_gate_by_removal)
