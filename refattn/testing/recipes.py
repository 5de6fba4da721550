"""Directed and random inputs: each recipe is made so that certain mistakes cannot hide.

A recipe yields (name, clauses, arguments). Sizes are pairwise different; numbers are rounded to the dtype that the
implementation will get, so that it and the oracle see the same ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import numpy as np

from refattn import masks
from refattn.testing.rounding import round_to

Recipe = tuple[str, tuple[str, ...], dict]
RECIPES: dict[str, Callable[..., Iterator[Recipe]]] = {}


def recipes(function: str, *, fmt: str, effort: str, seed: int) -> Iterator[Recipe]:
    """The cases of one function, rounded to a format; the same seed gives the same cases."""
    if function not in RECIPES:
        return
    key = zlib.crc32(f"{function} {fmt}".encode())
    draw = Draw(np.random.default_rng([seed, key]), fmt)
    for name, clauses, arguments in RECIPES[function](draw, effort):
        if all(np.isfinite(draw.round(x)).all() for x in arguments.values() if isinstance(x, np.ndarray) and _sound(x)):
            yield name, clauses, {key: draw.round(x) for key, x in arguments.items()}


def _sound(x):
    """Whether an array is meant to be finite (poison is not)."""
    return x.dtype.kind == "f" and np.isfinite(x).all()


class Draw:
    """Random numbers that a format holds exactly."""

    def __init__(self, rng, fmt):
        self.rng, self.fmt = rng, fmt

    def round(self, x):
        """Floating-point arrays rounded to the format; anything else as it is."""
        return round_to(x, self.fmt) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    def normal(self, *shape, scale=1.0):
        return self.round(self.rng.normal(size=shape) * scale)

    def heavy(self, *shape, scale=1.0):
        return self.round(np.clip(self.rng.standard_t(3, size=shape), -60, 60) * scale)

    def between(self, low, high):
        return int(self.rng.integers(low, high + 1))


def _recipe(*functions):
    def register(generator):
        RECIPES.update(dict.fromkeys(functions, generator))
        return generator

    return register


def count(effort, smoke, standard, full):
    """How many cases an effort asks for."""
    return {"smoke": smoke, "standard": standard, "full": full}[effort]


def aligned(draw, n, m, d, targets):
    """Queries aligned with the keys `targets`, which alone get nearly all the weight if they may be attended to."""
    k = draw.rng.normal(size=(m, d))
    k /= np.sqrt(np.sum(k**2, axis=-1, keepdims=True))
    q = 24.0 * np.sqrt(d) * k[np.asarray(targets) % m]
    v = draw.rng.normal(size=(m, 3)) + 4.0 * np.where(np.arange(m)[:, None] % 2, 1.0, -1.0)
    return {"q": draw.round(q)[None, None], "k": draw.round(k)[None, None], "v": draw.round(v)[None, None]}


def _plain(draw, b=2, h=3, n=5, m=7, d=8, dv=8, q_scale=1.0):
    return {"q": draw.normal(b, h, n, d, scale=q_scale), "k": draw.normal(b, h, m, d), "v": draw.normal(b, h, m, dv)}


@_recipe("attention")
def attention_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Needles at every boundary, extreme scores, poison, empty rows, and random shapes with random options."""
    yield "square", ("ATTN-OUT",), _plain(draw, n=7, m=7)
    yield "decode", ("ATTN-OUT",), _plain(draw, n=1, m=67, d=16, dv=16)
    yield "wide", ("ATTN-OUT",), _plain(draw, n=5, m=131, d=17, dv=17)
    yield "tall", ("ATTN-OUT",), _plain(draw, n=67, m=11, d=33, dv=33)
    yield "values", ("ATTN-VALUES",), _plain(draw, d=8, dv=5)
    yield "one_key", ("ATTN-OUT",), _plain(draw, n=5, m=1)
    yield "causal_square", ("ATTN-MASK",), {**_plain(draw, n=37, m=37), "mask": masks.causal()}
    yield "causal_wide", ("ATTN-ALIGN",), {**_plain(draw, n=5, m=37), "mask": masks.causal()}
    yield "causal_tall", ("ATTN-EMPTY",), {**_plain(draw, n=9, m=5), "mask": masks.causal()}
    edges = [36, 35, 20, 19, 21, 0, 16, 15]
    for left, name in ((16, "window_edge"), (15, "window_block")):
        rule = masks.causal() & masks.window(left, 0)
        yield name, ("ATTN-MASK",), {**aligned(draw, 37, 37, 16, [*range(29), *edges]), "mask": rule}
        before = [max(i - left - 1, 0) for i in range(37)]
        yield f"{name}_beyond", ("ATTN-MASK",), {**aligned(draw, 37, 37, 16, before), "mask": rule}
    beyond = [min(i + 1, 40) for i in range(41)]
    yield "causal_beyond", ("ATTN-MASK",), {**aligned(draw, 41, 41, 16, beyond), "mask": masks.causal()}
    yield "last_key", ("ATTN-OUT",), aligned(draw, 3, 129, 16, [128, 127, 64])
    yield "first_key", ("ATTN-OUT",), aligned(draw, 3, 129, 16, [0, 1, 63])
    lengths = np.array([[5], [37]])
    yield "padding", ("ATTN-MASK",), {**_plain(draw, n=7, m=37), "mask": masks.padding(lengths).dense(7, 37)}
    both = masks.causal() & masks.padding(np.array([[37], [20]]))
    yield "causal_and_padding", ("ATTN-MASK",), {**_plain(draw, n=37, m=37), "mask": both}

    x = _plain(draw, n=5, m=7)
    holes = np.ones((5, 7), dtype=bool)
    holes[:, 2] = False
    holes[3] = False
    yield "empty_row", ("ATTN-EMPTY",), {**x, "mask": holes}
    some = np.ones((5, 7), dtype=bool)
    some[:, 2] = False
    for poison, name in ((np.nan, "nan"), (np.inf, "inf")):
        for place in ("k", "v"):
            poisoned = x[place].copy()
            poisoned[..., 2, :] = poison
            yield f"poison_{place}_{name}", ("ATTN-ABSENT",), {**x, place: poisoned, "mask": some}
    yield "no_keys", ("ATTN-EMPTY",), _plain(draw, n=5, m=0)
    yield "no_queries", ("ATTN-EMPTY",), _plain(draw, n=0, m=5)

    yield "scale", ("ATTN-SCALE",), {**_plain(draw), "scale": 0.3}
    yield "scale_negative", ("ATTN-SCALE",), {**_plain(draw), "scale": -0.5}
    yield "scale_zero", ("ATTN-SCALE",), {**_plain(draw), "scale": 0.0}
    yield "bias", ("ATTN-BIAS",), {**_plain(draw), "bias": draw.normal(2, 3, 5, 7, scale=2.0), "scale": 0.3}
    row = draw.normal(5, 7)
    row[:, 2] = -np.inf
    yield "bias_excludes", ("ATTN-BIAS",), {**_plain(draw), "bias": row}
    yield "softcap", ("ATTN-SOFTCAP",), {**_plain(draw, q_scale=8.0), "softcap": 4.0}
    yield "softcap_masked", ("ATTN-ORDER",), {**_plain(draw, q_scale=8.0), "softcap": 4.0, "mask": some}
    capped = {**_plain(draw, q_scale=8.0), "softcap": 4.0, "bias": draw.normal(5, 7, scale=4.0)}
    yield "softcap_biased", ("ATTN-ORDER",), capped
    yield "sinks", ("ATTN-SINK",), {**_plain(draw), "sinks": draw.normal(3, scale=2.0)}
    keep = draw.rng.random((2, 3, 5, 7)) < 0.75
    yield "dropout", ("ATTN-DROPOUT",), {**_plain(draw), "dropout": (keep, 0.25)}
    yield "lse", ("ATTN-LSE",), {**_plain(draw), "return_lse": True}

    far = {
        "q": draw.round(-np.abs(draw.normal(1, 2, 5, 16)) - 4),
        "k": draw.round(np.abs(draw.normal(1, 2, 7, 16)) + 4),
    }
    yield "all_negative", ("ATTN-OUT",), {**far, "v": draw.normal(1, 2, 7, 8), "scale": 1.0}
    shift = draw.round(np.full((5, 7), -30000.0))
    yield "shifted_down", ("ATTN-OUT",), {**_plain(draw), "bias": shift}
    yield "shifted_up", ("ATTN-OUT",), {**_plain(draw), "bias": -shift}
    peaked = _plain(draw, n=5, m=67, d=16, dv=8, q_scale=6.0)
    yield (
        "peaked",
        ("ATTN-OUT",),
        {**peaked, "v": draw.round(peaked["v"] * 2.0 ** draw.rng.integers(-3, 4, (2, 3, 67, 1)))},
    )
    yield "offset_values", ("ATTN-OUT",), {**peaked, "v": draw.round(peaked["v"] + 30.0)}
    yield "ties", ("ATTN-OUT",), {**_plain(draw, m=67), "k": np.zeros((2, 3, 67, 8))}
    heavy = {"q": draw.heavy(1, 2, 5, 16), "k": draw.heavy(1, 2, 37, 16), "v": draw.heavy(1, 2, 37, 8)}
    yield "heavy_tails", ("ATTN-OUT",), heavy
    if effort != "smoke":
        yield "flat_long", ("ATTN-OUT",), _plain(draw, b=1, h=2, n=3, m=4099, d=16, dv=8, q_scale=0.05)
    if effort == "full":
        yield "long", ("ATTN-OUT",), _plain(draw, b=1, h=1, n=5, m=32771, d=64, dv=64)

    for number in range(count(effort, 4, 24, 400)):
        yield f"random_{number:04}", ("ATTN-OUT",), random_attention(draw)


def random_attention(draw: Draw) -> dict:
    """Random sizes and options; the sizes that could be confused differ."""
    b, h, d, dv = draw.between(1, 3), draw.between(1, 4), draw.between(1, 80), draw.between(1, 40)
    n, m, dv = draw.between(1, 40), draw.between(1, 150), d if draw.rng.random() < 0.5 else dv
    arguments = _plain(draw, b, h, n, m, d, dv, q_scale=2.0 ** draw.between(-3, 2))
    if draw.rng.random() < 0.5:
        arguments["scale"] = float((abs(draw.rng.normal()) + 0.05) / np.sqrt(d))  # its sign has cases of its own
    choice = draw.between(0, 4)
    if choice == 1 and n == m:
        arguments["mask"] = masks.causal()
    elif choice >= 2:
        allowed = draw.rng.random((b, 1, n, m)) < 0.7
        allowed[..., draw.between(0, m - 1)] = True
        arguments["mask"] = allowed
    elif draw.rng.random() < 0.5:
        arguments["bias"] = draw.normal(1, h, n, m, scale=2.0)
    if draw.rng.random() < 0.2:
        arguments["softcap"] = float(2.0 ** draw.between(0, 5))
    return arguments


@_recipe("grouped_query_attention")
def grouped_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Groups that are neither one head nor all heads, so that no order of heads can hide."""

    def grouped(b, h, g, n, m, d, dv):
        return {"q": draw.normal(b, h, n, d), "k": draw.normal(b, g, m, d), "v": draw.normal(b, g, m, dv)}

    yield "six_over_two", ("HEADS-GROUP",), grouped(1, 6, 2, 5, 7, 8, 8)
    yield "six_over_three", ("HEADS-GROUP",), grouped(2, 6, 3, 5, 11, 8, 8)
    yield "multi_query", ("HEADS-GROUP",), grouped(2, 4, 1, 5, 7, 8, 8)
    yield "causal", ("HEADS-GROUP",), {**grouped(2, 6, 3, 7, 7, 8, 8), "mask": masks.causal()}
    for number in range(count(effort, 1, 8, 60)):
        g, r = draw.between(2, 3), draw.between(2, 3)
        sizes = (
            draw.between(1, 3),
            g * r,
            g,
            draw.between(1, 20),
            draw.between(1, 50),
            draw.between(1, 40),
            draw.between(1, 20),
        )
        yield f"random_{number:04}", ("HEADS-GROUP",), grouped(*sizes)


@_recipe("softmax", "logsumexp")
def softmax_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Scores of both signs and every size, rows with absent entries, axes."""
    yield "plain", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7)}
    yield "first_axis", ("SOFTMAX-NORMAL",), {"x": draw.normal(3, 5, 7), "axis": 0}
    yield "large", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) + 30000.0)}
    yield "all_negative", ("SOFTMAX-SHIFT",), {"x": draw.round(draw.normal(3, 7, scale=4.0) - 30000.0)}
    holes = draw.normal(3, 7)
    holes[0, 2] = -np.inf
    yield "absent", ("SOFTMAX-ABSENT",), {"x": holes}
    holes = holes.copy()
    holes[1] = -np.inf
    yield "empty_row", ("SOFTMAX-EMPTY",), {"x": holes}
    for number in range(count(effort, 2, 12, 100)):
        shape = draw.between(1, 5), draw.between(1, 200)
        yield f"random_{number:04}", ("SOFTMAX-NORMAL",), {"x": draw.normal(*shape, scale=2.0 ** draw.between(-3, 5))}


def _norm_recipes(clause, parameters):
    def generate(draw: Draw, effort: str) -> Iterator[Recipe]:
        def case(x, **rest):
            return {"x": draw.round(x), **parameters(draw, x.shape[-1]), **rest}

        yield "plain", (clause,), case(draw.normal(3, 5, 7))
        yield "small", (clause,), case(draw.normal(3, 37, scale=2.0**-10))
        yield "eps_matters", (clause,), case(draw.normal(3, 37, scale=2.0**-8), eps=1e-3)
        spike = draw.normal(3, 37)
        spike[:, 5] = 1000.0
        yield "spike", (clause,), case(spike)
        yield "zeros", (clause,), case(np.zeros((2, 7)))
        yield "offset", (clause,), case(draw.normal(3, 37) + 8.0)
        for number in range(count(effort, 2, 12, 100)):
            x = draw.normal(draw.between(1, 6), draw.between(1, 130), scale=2.0 ** draw.between(-6, 6))
            yield f"random_{number:04}", (clause,), case(x)

    return generate


RECIPES["layer_norm"] = _norm_recipes(
    "LAYERNORM-OUT", lambda draw, e: {"gamma": draw.normal(e), "beta": draw.normal(e)}
)
RECIPES["rms_norm"] = _norm_recipes("RMSNORM-OUT", lambda draw, e: {"gamma": draw.normal(e)})


def _activation_recipes(clause, **options):
    def generate(draw: Draw, effort: str) -> Iterator[Recipe]:
        yield "around_zero", (clause,), {"x": draw.round(np.linspace(-1, 1, 41)), **options}
        yield "tails", (clause,), {"x": draw.round(np.linspace(-12, 12, 97)), **options}
        yield (
            "extreme",
            (clause,),
            {"x": draw.round(np.array([-30000.0, -500.0, -100.0, 0.0, 100.0, 500.0, 30000.0])), **options},
        )
        for number in range(count(effort, 1, 4, 40)):
            yield (
                f"random_{number:04}",
                (clause,),
                {"x": draw.normal(3, 67, scale=2.0 ** draw.between(-4, 4)), **options},
            )

    return generate


def _gelu_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    for approximate in (None, "tanh"):
        for name, clauses, arguments in _activation_recipes("ACT-GELU" if approximate is None else "ACT-GELU-TANH")(
            draw, effort
        ):
            yield f"{approximate or 'exact'}_{name}", clauses, {**arguments, "approximate": approximate}


RECIPES["gelu"] = _gelu_recipes
RECIPES |= {
    name: _activation_recipes("ACT-" + name.replace("_", "-").upper())
    for name in ("relu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh")
}


@_recipe("positions.rotate")
def rotate_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Tables of angles far from 0, both layouts, all and some of the features."""

    def tables(n, half):
        angles = draw.rng.uniform(-400, 400, size=(n, half))
        return {"cos": draw.round(np.cos(angles)), "sin": draw.round(np.sin(angles))}

    for layout in ("interleaved", "half"):
        yield f"{layout}_whole", ("ROPE-LAYOUT",), {"x": draw.normal(2, 3, 5, 8), **tables(5, 4), "layout": layout}
        partial = {"x": draw.normal(2, 3, 5, 14), **tables(5, 3), "layout": layout, "rotary_dim": 6}
        yield f"{layout}_partial", ("ROPE-PARTIAL",), partial
        for number in range(count(effort, 1, 4, 40)):
            n, half = draw.between(1, 40), draw.between(1, 40)
            arguments = {"x": draw.normal(2, 3, n, 2 * half), **tables(n, half), "layout": layout}
            yield f"{layout}_random_{number:04}", ("ROPE-LAYOUT",), arguments
