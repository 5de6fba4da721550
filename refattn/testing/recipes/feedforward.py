"""Inputs for the activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.recipes import RECIPES, Draw, Recipe, count


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
