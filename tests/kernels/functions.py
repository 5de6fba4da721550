"""Correct kernels of the other functions that have bounds, each in the styles in which it is written."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.special import erf, erfc

from refattn.feedforward import FeedForwardParams, GatedFeedForwardParams
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to
from tests.kernels.arithmetic import SUMS, Arithmetic
from tests.kernels.attention import LN2, LOG2E
from tests.kernels.cases import KINDS, input_format

FUNCTIONS = (
    "softmax", "logsumexp", "merge", "layer_norm", "rms_norm", "positions.rotate", "rope", "gelu", "silu", "quick_gelu",
    "sigmoid", "softplus", "feed_forward", "gated_feed_forward",
)  # fmt: skip


class FunctionCase(NamedTuple):
    """Arguments of a reference function, exact in the format of the inputs, and what a correct kernel returns."""

    function: str
    precision: str
    kind: str
    style: dict[str, Any]
    arguments: dict[str, Any]
    results: dict[str, np.ndarray]

    def __str__(self):
        options = ", ".join(f"{key}={value}" for key, value in self.style.items())
        return f"{self.function} {self.precision} {self.kind}: {options}"


def draw_function(function: str, precision: str, seed: int) -> FunctionCase:
    """A random problem for one function, computed by a kernel of a random style."""
    draw = np.random.default_rng([seed, FUNCTIONS.index(function), sum(map(ord, precision))])
    chosen, kind = profile(precision), KINDS[seed % len(KINDS)]
    sums = [s for s in SUMS if s not in ("fused", "truncated")]
    style = {
        "sums": str(draw.choice(sums)),
        "exponent": str(draw.choice(["e", "2", "2 fused"])),
        "division": str(draw.choice(["end", "reciprocal"])),
        "exp_error": float(draw.choice([0.0, 0.5])),
    }
    machine = Arithmetic(chosen, style["sums"], style["exp_error"], seed)
    fmt = chosen.out.name if function in ("layer_norm", "rms_norm") else input_format(precision)
    with np.errstate(all="ignore"):
        arguments, results = _KERNELS[function](machine, style, draw, kind, fmt)
    return FunctionCase(function, precision, kind, style, arguments, results)


def _rows(draw, kind, fmt, *shape, scale=True):
    """Rows of one kind, exact in a format."""
    x = draw.normal(size=shape) * (2.0 ** draw.integers(-4, 4) if scale else 1.0)
    if kind == "heavy tails":
        x = np.clip(draw.standard_t(3, size=shape), -60, 60)
    elif kind == "all negative":
        x = -np.abs(x) - 1.0
    elif kind == "dominated":
        x[..., draw.integers(shape[-1])] += 40.0
    elif kind == "offset values":
        x = x + 30 * np.abs(x).max()
    elif kind == "shifted scores":
        x = x + draw.choice([200.0, -200.0])
    elif kind == "ties":
        x = np.broadcast_to(x[..., :1], shape) + 0.0
    elif kind == "nearly flat":
        x = x * 2.0**-8
    elif kind == "tiny":
        x = x * 2.0**-12
    elif kind == "large":
        x = x * 8.0
    elif kind == "integers":
        x = np.rint(x)
    return round_to(np.clip(x, -400, 400), fmt)


def _power(machine, style, x, top):
    """e^(x - top), to base e or 2; fused: x log2(e) - top log2(e) with one rounding."""
    number = machine.number
    top = np.where(np.isneginf(top), number(0), top)
    if style["exponent"] == "e":
        return machine.exp(x - top)
    if style["exponent"] == "2" or number is np.float64:
        return machine.exp((x - top) * number(LOG2E), "2")
    shifted = x.astype(np.float64) * np.float64(number(LOG2E)) - np.float64(number(LOG2E)) * top
    return machine.exp(shifted.astype(number), "2")


def _softmax(machine, style, draw, kind, fmt):
    x, where = _rows(draw, kind, fmt, 5, int(draw.integers(1, 300))), None
    if draw.random() < 0.3:
        where = draw.random(x.shape) < 0.6
    low = np.where(True if where is None else where, x, -np.inf).astype(machine.number)
    e = _power(machine, style, low, low.max(axis=-1, keepdims=True))
    total = machine.sum(e)
    total = np.where(total == 0, machine.number(1), total)
    p = e * (machine.number(1) / total) if style["division"] == "reciprocal" else e / total
    return {"x": x, **({} if where is None else {"where": where})}, {"out": machine.out(p)}


def _logsumexp(machine, style, draw, kind, fmt):
    x = _rows(draw, kind, fmt, 5, int(draw.integers(1, 300)))
    low = x.astype(machine.number)
    tile, top, total = int(draw.integers(1, x.shape[-1] + 1)), np.full((5, 1), -np.inf, machine.number), 0
    for start in range(0, x.shape[-1], tile):  # online
        part = low[..., start : start + tile]
        new = np.maximum(top, part.max(axis=-1, keepdims=True))
        total = total * _power(machine, style, top, new) + machine.sum(_power(machine, style, part, new))
        top = new
    if style["exponent"] == "e":
        lse = np.log(total) + top
    else:
        lse = np.log2(total) * machine.number(LN2) + top
    return {"x": x}, {"out": machine.out(lse[..., 0])}


def _merge(machine, style, draw, kind, fmt):
    fmt = "float64" if machine.number is np.float64 else "float32"  # partial results stay in the accumulator's format
    n, d = int(draw.integers(1, 9)), int(draw.integers(1, 65))
    arguments = {
        "out_a": _rows(draw, kind, fmt, n, d), "lse_a": _rows(draw, "gaussian", fmt, n),
        "out_b": _rows(draw, kind, fmt, n, d), "lse_b": _rows(draw, kind, fmt, n),
    }  # fmt: skip
    if draw.random() < 0.3:
        arguments["lse_b"][draw.integers(n)] = -np.inf
    out_a, lse_a, out_b, lse_b = (x.astype(machine.number) for x in arguments.values())
    top = np.maximum(lse_a, lse_b)
    a, b = _power(machine, style, lse_a, top)[:, None], _power(machine, style, lse_b, top)[:, None]
    total = a + b
    if style["division"] == "end":
        out = (a * out_a + b * out_b) / total
    else:
        out = out_a * (a / total) + out_b * (b / total)
    return arguments, {"out": machine.out(out), "lse": (np.log(total[:, 0]) + top).astype(np.float64)}


def _store(machine, x):
    return machine.narrow(x, machine.profile.scores)


def _moments(machine, how, x):
    """Mean and variance: in two passes, by Welford's running mean, or by merging the moments of halves (Chan)."""
    number, n = machine.number, x.shape[-1]
    if how == "two passes":
        mean = machine.sum(x) / number(n)
        return mean, machine.sum((x - mean) ** 2) / number(n)
    mean, squares = x[..., :1], np.zeros_like(x[..., :1])
    for i in range(1, n):
        step = x[..., i : i + 1] - mean
        mean = mean + step / number(i + 1)
        squares = squares + step * (x[..., i : i + 1] - mean)
    return mean, squares / number(n)


def _inverse_root(machine, x):
    return machine.inexact((1.0 / np.sqrt(x.astype(np.float64))).astype(machine.number))


def _gains(draw, fmt, n):
    return (None if draw.random() < 0.3 else round_to(draw.normal(size=n), fmt) for _ in range(2))


def _layer_norm(machine, style, draw, kind, fmt):
    x = _rows(draw, kind, fmt, 4, int(draw.integers(1, 130)))
    gamma, beta = _gains(draw, fmt, x.shape[-1])
    eps = float(draw.choice([1e-5, 1e-12, 1e-2]))
    style["moments"] = str(draw.choice(["two passes", "welford"]))
    low = x.astype(machine.number)
    mean, variance = _moments(machine, style["moments"], low)
    y = _store(machine, (low - mean) * _inverse_root(machine, variance + machine.number(eps)))
    if gamma is not None:
        y = y * gamma.astype(machine.number)
    if beta is not None:
        y = _store(machine, y) + beta.astype(machine.number)
    return {"x": x, "gamma": gamma, "beta": beta, "eps": eps}, {"out": machine.out(y)}


def _rms_norm(machine, style, draw, kind, fmt):
    x = _rows(draw, kind, fmt, 4, int(draw.integers(1, 130)))
    gamma, _ = _gains(draw, fmt, x.shape[-1])
    eps, offset = float(draw.choice([1e-6, 1e-2])), bool(draw.integers(2)) and gamma is not None
    low, number = x.astype(machine.number), machine.number
    square = machine.sum(low * low) / number(x.shape[-1])
    y = _store(machine, low * _inverse_root(machine, square + number(eps)))
    if gamma is not None:
        y = y * (number(1) + gamma.astype(number) if offset else gamma.astype(number))
    return {"x": x, "gamma": gamma, "eps": eps, "unit_offset": offset}, {"out": machine.out(y)}


def _turn(machine, x, cos, sin, layout):
    chosen = machine.profile
    keep = (lambda y: machine.narrow(y, chosen.out)) if chosen.order == "eager" else (lambda y: y)
    x, cos, sin = (y.astype(machine.number) for y in (x, cos, sin))
    cos, sin = keep(cos), keep(sin)
    half = x.shape[-1] // 2
    pair = (x[..., 0::2], x[..., 1::2]) if layout == "interleaved" else (x[..., :half], x[..., half:])
    a, b = pair
    first, second = keep(a * cos) - keep(b * sin), keep(a * sin) + keep(b * cos)
    out = np.empty_like(x)
    if layout == "interleaved":
        out[..., 0::2], out[..., 1::2] = first, second
    else:
        out[..., :half], out[..., half:] = first, second
    return machine.out(out)


def _rotate(machine, style, draw, kind, fmt):
    fmt = machine.profile.out
    n, half = int(draw.integers(1, 7)), int(draw.integers(1, 33))
    x, angles = _rows(draw, kind, fmt, 2, n, 2 * half), draw.uniform(-9, 9, size=(n, half))
    cos, sin = round_to(np.cos(angles), fmt), round_to(np.sin(angles), fmt)
    layout = str(draw.choice(["interleaved", "half"]))
    return {"x": x, "cos": cos, "sin": sin, "layout": layout}, {"out": _turn(machine, x, cos, sin, layout)}


def _rope(machine, style, draw, kind, fmt):
    fmt, number = machine.profile.out, machine.number
    n, half = int(draw.integers(1, 7)), int(draw.integers(1, 33))
    x = _rows(draw, kind, fmt, 2, n, 2 * half)
    positions = draw.integers(0, 10 ** int(draw.integers(1, 6)), size=n)
    base, layout = float(draw.choice([100.0, 10000.0, 500000.0])), str(draw.choice(["interleaved", "half"]))
    exponent = np.arange(0, 2 * half, 2).astype(number) / number(2 * half)
    theta = number(1) / number(base) ** exponent if style["division"] == "end" else number(base) ** -exponent
    angles = (positions.astype(number)[:, None] * theta).astype(np.float64)
    out = _turn(machine, x, np.cos(angles), np.sin(angles), layout)
    return {"x": x, "positions": positions, "base": base, "layout": layout}, {"out": out}


def _of(machine, function, x):
    """A special function, correctly rounded."""
    return function(x.astype(np.float64)).astype(machine.number)


def _sigmoid(machine, x, style):
    e = machine.exp(-x) if style["exponent"] == "e" else machine.exp(-x * machine.number(LOG2E), "2")
    return machine.number(1) / (machine.number(1) + e)


def _gelu(machine, x, style):
    number = machine.number
    if style["approximate"] == "tanh":
        z = number(math.sqrt(2 / math.pi)) * (x + number(0.044715) * x * x * x)
        if style["exponent"] == "e":
            return number(0.5) * x * (number(1) + machine.inexact(_of(machine, np.tanh, z)))
        return x * _sigmoid(machine, number(2) * z, style)
    if style["exponent"] == "e":
        return number(0.5) * x * (number(1) + _of(machine, erf, x / number(math.sqrt(2))))
    return number(0.5) * x * _of(machine, erfc, -x / number(math.sqrt(2)))


def _softplus(machine, x, style):
    number = machine.number
    if style["exponent"] == "e":
        return np.maximum(x, number(0)) + _of(machine, np.log1p, machine.exp(-np.abs(x)))
    threshold = number(20 if number is np.float32 else 40)  # beyond it ln(1 + e^x) - x is below half a unit
    return np.where(x > threshold, x, _of(machine, np.log, number(1) + machine.exp(np.minimum(x, threshold))))


_ACTIVATIONS: dict[str, Callable] = {
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": lambda machine, x, style: x * _sigmoid(machine, x, style),
    "quick_gelu": lambda machine, x, style: x * _sigmoid(machine, machine.number(1.702) * x, style),
}


def _activation(name):
    def kernel(machine, style, draw, kind, fmt):
        x = np.clip(_rows(draw, kind, machine.profile.out, 3, 50), -80, 80)
        style["approximate"] = "tanh" if draw.integers(2) else None
        options = {"approximate": style["approximate"]} if name == "gelu" else {}
        return {"x": x, **options}, {"out": machine.out(_ACTIVATIONS[name](machine, x.astype(machine.number), style))}

    return kernel


def _linear(machine, x, w, b):
    """x w + b; operands are rounded where the profile says so."""
    x, w = machine.narrow(x, machine.profile.operands), machine.narrow(w, machine.profile.operands)
    y = machine.product(x, w)
    return y if b is None else y + b


def _networks(gated):
    def kernel(machine, style, draw, kind, fmt):
        e, f, out = (int(draw.integers(1, 48)) for _ in range(3))
        style |= {"approximate": None, "activation": str(draw.choice(["gelu", "silu"]))}
        kind = kind if kind not in ("shifted scores", "offset values", "dominated") else "gaussian"  # no overflow
        x = _rows(draw, kind, fmt, 4, e) * (2.0**-4 if fmt.startswith("float8") else 1.0)  # hidden units fit e4m3

        def weights(*shape):
            return round_to(draw.normal(size=shape) / math.sqrt(shape[0]), fmt)

        bias = draw.random() < 0.5
        shapes = {"w_in": (e, f), "b_in": (f,), "w_out": (f, out), "b_out": (out,)}
        if gated:
            shapes = {
                "w_gate": (e, f),
                "w_up": (e, f),
                "w_out": (f, out),
                "b_gate": (f,),
                "b_up": (f,),
                "b_out": (out,),
            }
        given = {n: weights(*shape) if n.startswith("w") or bias else None for n, shape in shapes.items()}
        low = {n: None if w is None else w.astype(machine.number) for n, w in given.items()}
        x_low, act = x.astype(machine.number), _ACTIVATIONS[style["activation"]]
        if gated:
            gate = act(machine, _store(machine, _linear(machine, x_low, low["w_gate"], low["b_gate"])), style)
            hidden = _store(machine, gate) * _store(machine, _linear(machine, x_low, low["w_up"], low["b_up"]))
        else:
            hidden = act(machine, _store(machine, _linear(machine, x_low, low["w_in"], low["b_in"])), style)
        hidden = machine.narrow(hidden, machine.profile.weights)
        y = _linear(machine, hidden, low["w_out"], low["b_out"])
        params = (GatedFeedForwardParams if gated else FeedForwardParams)(**given)
        return {"x": x, "params": params, "activation": style["activation"]}, {"out": machine.out(y)}

    return kernel


_KERNELS: dict[str, Callable] = {
    "softmax": _softmax,
    "logsumexp": _logsumexp,
    "merge": _merge,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "positions.rotate": _rotate,
    "rope": _rope,
    "feed_forward": _networks(False),
    "gated_feed_forward": _networks(True),
    **{name: _activation(name) for name in _ACTIVATIONS},
}
