"""Inputs for the activations and the networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.feedforward import FeedForwardParams, GatedFeedForwardParams
from refattn.testing.recipes import RECIPES, Draw, Recipe, count, recipe


def _activation_recipes(clause, **options):
    def generate(draw: Draw, effort: str) -> Iterator[Recipe]:
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0])
        yield "special", ("ACT-RANGE",), {"x": special, **options}
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


@recipe("feed_forward")
def feed_forward_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Every activation, with and without biases; square weights, which may be transposed unnoticed."""

    def network(e, f, out, biased=True):
        bias = (draw.normal(f), draw.normal(out)) if biased else (None, None)
        return FeedForwardParams(draw.normal(e, f, scale=0.5), bias[0], draw.normal(f, out, scale=0.5), bias[1])

    for activation in ("relu", "gelu", "silu"):
        x = draw.normal(2, 3, 5)
        yield activation, ("FFN-OUT",), {"x": x, "params": network(5, 7, 5), "activation": activation}
    yield "no_biases", ("FFN-OUT",), {"x": draw.normal(3, 5), "params": network(5, 7, 5, biased=False)}
    yield "square", ("FFN-OUT",), {"x": draw.normal(5, 5), "params": network(5, 5, 5)}
    yield "narrower", ("FFN-OUT",), {"x": draw.normal(3, 5), "params": network(5, 11, 3)}


@recipe("gated_feed_forward")
def gated_feed_forward_recipes(draw: Draw, effort: str) -> Iterator[Recipe]:
    """Gate and up of different numbers: kills an exchange of the two, and activations of the wrong one."""

    def network(biased):
        weights = {"w_gate": draw.normal(5, 7), "w_up": draw.normal(5, 7), "w_out": draw.normal(7, 5, scale=0.5)}
        biases = {"b_gate": draw.normal(7), "b_up": draw.normal(7), "b_out": draw.normal(5)} if biased else {}
        return GatedFeedForwardParams(**weights, **biases)

    for activation in ("silu", "gelu", "relu"):
        for biased in (False, True):
            name = f"{activation}{'_biased' if biased else ''}"
            yield name, ("GLU-OUT",), {"x": draw.normal(3, 5), "params": network(biased), "activation": activation}
    square = GatedFeedForwardParams(*(draw.normal(5, 5, scale=0.5) for _ in range(3)))
    yield "square", ("GLU-OUT",), {"x": draw.normal(5, 5), "params": square}
