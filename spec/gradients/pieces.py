"""Derivatives of softmax, merge, norms, activations, networks and rotations as formulas: partial derivatives written
out, summed with the cotangents in plain loops."""

from math import prod

from ..exact import Tensor, exact, indices, inf, isinf, isnan, mp, mpf
from ..feedforward.definition import SECOND_ACTIVATIONS, linear
from ..positions.definition import pairs, scaled_frequencies
from ..softmax.definition import logsumexp_row, present, softmax_row_by_differences
from .sums import Sums, element

# --- softmax --------------------------------------------------------------------------------------------------------


def along(shape, axis):
    """For every index of the other axes: the places of a row."""
    axis %= len(shape)
    for outer in indices([1 if n == axis else size for n, size in enumerate(shape)]):
        yield [tuple(i if n == axis else o for n, o in enumerate(outer)) for i in range(shape[axis])]


def rows_of(x, axis, where, shape):
    """For every row: the places of its entries, those that are present, and their softmax."""
    for places in along(shape, axis):
        row = [element(x, *place) for place in places]
        admitted = None if where is None else [element(where, *place) for place in places]
        yield places, present(row, admitted), softmax_row_by_differences(row, admitted)


def softmax_vjp(d_out, x, axis=-1, where=None):
    found = Sums(x=x)
    for places, J, p in rows_of(x, axis % len(x.shape) - len(x.shape), where, d_out.shape):
        for j in J:
            partial = (exact(element(d_out, *places[i])) * p[i] * ((i == j) - p[j]) for i in J)
            found.add("x", places[j], mp.fsum(partial))
    return found.tensors()


def logsumexp_vjp(d_out, x, axis=-1, where=None):
    found = Sums(x=x)
    axis = axis % len(x.shape) - len(x.shape)  # from the end
    shape = list(d_out.shape)
    shape.insert(len(shape) + 1 + axis, x.shape[axis])
    for places, J, p in rows_of(x, axis, where, shape):
        for j in J:
            rest = [i for n, i in enumerate(places[j]) if n != len(shape) + axis]
            found.add("x", places[j], exact(element(d_out, *rest)) * p[j])
    return found.tensors()


def merge_vjp(d_out, out_a, lse_a, out_b, lse_b, d_lse=None):
    parts = {"a": (out_a, lse_a), "b": (out_b, lse_b)}
    found = Sums(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    for *lead, c in indices(d_out.shape):
        lses = {name: exact(element(lse, *lead)) for name, (_, lse) in parts.items()}
        total = logsumexp_row(list(lses.values()))
        shares = {name: mp.exp(L - total) for name, L in lses.items() if L != -inf}
        outs = {name: exact(element(parts[name][0], *lead, c)) for name in shares}
        w = exact(element(d_out, *lead, c))
        for name, share in shares.items():
            found.add(f"out_{name}", (*lead, c), share * w)
            others = mp.fsum(shares[other] * (outs[name] - outs[other]) for other in shares if other != name)
            found.add(f"lse_{name}", tuple(lead), share * w * others)
            if c == 0 and d_lse is not None:
                found.add(f"lse_{name}", tuple(lead), share * exact(element(d_lse, *lead)))
    return found.tensors()


# --- norms ----------------------------------------------------------------------------------------------------------


def norm_vjp(centred, default):
    """∂y_i/∂x_j = γ_i (δ_ij - 1/n)/s - γ_i y_i y_j / (n s), without the mean where none is subtracted."""

    def vjp(d_out, x, gamma, beta=None, eps=default, axis=-1, unit_offset=False):
        axes = [n % len(x.shape) for n in (axis if isinstance(axis, list) else [axis])]
        found = Sums(x=x, gamma=gamma, beta=beta)
        for outer in indices([1 if n in axes else size for n, size in enumerate(x.shape)]):
            inner = list(indices([x.shape[n] for n in axes]))
            places = [tuple(i[axes.index(n)] if n in axes else o for n, o in enumerate(outer)) for i in inner]
            values = [exact(element(x, *p)) for p in places]
            weights = [exact(element(d_out, *p)) for p in places]
            gains = [mpf(1) if gamma is None else exact(element(gamma, *i)) + (1 if unit_offset else 0) for i in inner]
            n = len(values)
            mean = mp.fsum(values) / n if centred else 0
            s = mp.sqrt(mp.fsum((a - mean) ** 2 for a in values) / n + exact(eps))
            y = [(a - mean) / s for a in values]
            for j in range(n):
                partial = (
                    gains[i] * ((i == j) - (mpf(1) / n if centred else 0) - y[i] * y[j] / n) / s for i in range(n)
                )
                found.add("x", places[j], mp.fsum(w * d for w, d in zip(weights, partial, strict=True)))
                found.add("gamma", inner[j], weights[j] * y[j])
                found.add("beta", inner[j], weights[j])
        return found.tensors()

    return vjp


# --- activations and networks ---------------------------------------------------------------------------------------


def logistic(x):
    return (1 + mp.tanh(x / 2)) / 2


def gelu_tanh_slope(x):
    root, cubic = mp.sqrt(2 / mp.pi), mpf("0.044715")
    t = mp.tanh(root * (x + cubic * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * root * (1 + 3 * cubic * x**2)


SLOPES = {
    "identity": lambda x: mpf(1),
    "relu": lambda x: mpf(x > 0),
    "squared_relu": lambda x: 2 * x if x > 0 else mpf(0),
    "gelu": lambda x: mp.ncdf(x) + x * mp.npdf(x),
    "gelu_tanh": gelu_tanh_slope,
    "quick_gelu": lambda x: logistic(a := mpf("1.702") * x) * (1 + a * logistic(-a)),
    "silu": lambda x: logistic(x) * (1 + x * logistic(-x)),
    "sigmoid": lambda x: 1 / (2 + 2 * mp.cosh(x)),
    "tanh": lambda x: 1 / mp.cosh(x) ** 2,
    "softplus": logistic,
}


def elementwise(name):
    def vjp(d_out, x, approximate=None):
        f = SLOPES[f"{name}_{approximate}" if approximate else name]

        def slope(x):
            if isnan(x) or (x == inf and name == "squared_relu"):
                return x
            if isinf(x):
                return mp.nint(f(mpf(10) ** 6 * mp.sign(x)))  # the limit, 0 or 1
            return f(exact(x))

        return {"x": d_out * x.map(slope)}

    return vjp


def linear_vjp(d_out, x, w, b=None):
    """y = x w + b: ∂L/∂x = dy wᵀ, ∂L/∂w = xᵀ dy and ∂L/∂b = Σ dy over all tokens."""
    tokens, d = in_rows(x), in_rows(d_out)
    ones = Tensor((1, len(d)), [1] * len(d))
    found = {"x": (d @ w.T).reshaped(*x.shape), "w": tokens.T @ d}
    return found if b is None else found | {"b": (ones @ d).reshaped(*b.shape)}


def in_rows(t):
    """Every token a row."""
    return t.reshaped(prod(t.shape[:-1]), t.shape[-1])


def feed_forward_vjp(d_out, x, params, activation="relu"):
    """The chain rule from the output to the input."""
    p = params["fields"]
    f, slope = SECOND_ACTIVATIONS[activation], SLOPES[activation]
    z = linear(x, p["w_in"], p["b_in"])
    last = linear_vjp(d_out, z.map(f), p["w_out"], p["b_out"])
    first = linear_vjp(last["x"] * z.map(slope), x, p["w_in"], p["b_in"])
    return {"x": first["x"]} | of_params(p, {"in": first, "out": last})


def gated_feed_forward_vjp(d_out, x, params, activation="silu"):
    """The product passes to either side what the other side is."""
    p = {"b_gate": None, "b_up": None, "b_out": None, **params["fields"]}
    f, slope = SECOND_ACTIVATIONS[activation], SLOPES[activation]
    z, up = linear(x, p["w_gate"], p["b_gate"]), linear(x, p["w_up"], p["b_up"])
    last = linear_vjp(d_out, z.map(f) * up, p["w_out"], p["b_out"])
    gate = linear_vjp(last["x"] * up * z.map(slope), x, p["w_gate"], p["b_gate"])
    other = linear_vjp(last["x"] * z.map(f), x, p["w_up"], p["b_up"])
    return {"x": gate["x"] + other["x"]} | of_params(p, {"gate": gate, "up": other, "out": last})


def of_params(p, layers):
    """Gradients of parameters under the names of their set; `layers` has those of a weight 'w' and a bias 'b' each."""
    parts = {name: name.split("_") for name, t in p.items() if t is not None}
    return {f"params.{name}": layers[layer][kind] for name, (kind, layer) in parts.items()}


# --- rotation -------------------------------------------------------------------------------------------------------


def rotate_vjp(d_out, x, cos, sin, layout="interleaved", rotary_dim=None):
    R = x.shape[-1] if rotary_dim is None else rotary_dim
    found = Sums(x=x, cos=cos, sin=sin)
    for lead in indices(d_out.shape[:-1]):
        for i, (j, k) in enumerate(pairs(layout, R)):
            d_j, d_k = (exact(element(d_out, *lead, place)) for place in (j, k))
            a, b = (exact(element(x, *lead, place)) for place in (j, k))
            c, s = exact(element(cos, *lead, i)), exact(element(sin, *lead, i))
            found.add("x", (*lead, j), c * d_j + s * d_k)
            found.add("x", (*lead, k), c * d_k - s * d_j)
            found.add("cos", (*lead, i), a * d_j + b * d_k)
            found.add("sin", (*lead, i), a * d_k - b * d_j)
        for place in range(R, x.shape[-1]):
            found.add("x", (*lead, place), exact(element(d_out, *lead, place)))
    return found.tensors()


def rope_vjp(d_out, x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    R = x.shape[-1] if rotary_dim is None else rotary_dim
    theta, factor = scaled_frequencies(R, base, scaling)
    tables = [
        Tensor((*positions.shape, R // 2), [factor * turn(exact(p) * t) for p in positions.data for t in theta])
        for turn in (mp.cos, mp.sin)
    ]
    return {"x": rotate_vjp(d_out, x, *tables, layout, rotary_dim)["x"]}
