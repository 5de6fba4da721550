"""Inputs for the norms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.recipes import RECIPES, Draw, Recipe, count


def _norm_recipes(clause, parameters, more=lambda draw: ()):
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
        yield "far_offset", (clause,), case(draw.normal(3, 37) + 1000.0)
        yield "two_scales", (clause,), case(draw.normal(3, 5, 11) * np.array([1e-3, 1.0, 100.0])[:, None, None])
        yield "square", (clause,), case(draw.normal(7, 7) * 2.0 ** np.arange(-3, 4)[:, None] + 1.0)
        x = draw.normal(5, 5)
        yield "square_first_axis", ("NORM-AXES",), {"x": x, **parameters(draw, 5), "axis": 0}
        x = draw.normal(3, 5, 7)
        for name, axis in (("middle", 1), ("last_two", (-2, -1)), ("ends", (0, 2))):
            axes = tuple(n % 3 for n in (axis if isinstance(axis, tuple) else (axis,)))
            shape = tuple(x.shape[n] for n in axes)
            yield f"axis_{name}", ("NORM-AXES",), {"x": x, **parameters(draw, shape), "axis": axis}
        yield from more(draw)
        for number in range(count(effort, 2, 12, 100)):
            x = draw.normal(draw.between(1, 6), draw.between(1, 130), scale=2.0 ** draw.between(-6, 6))
            yield f"random_{number:04}", (clause,), case(x)

    return generate


def _sizes(e):
    return e if isinstance(e, tuple) else (e,)


def _unit_offset(draw):
    x = draw.normal(3, 7)
    yield "unit_offset", ("RMSNORM-OFFSET",), {"x": x, "gamma": draw.normal(7), "unit_offset": True}


RECIPES["layer_norm"] = _norm_recipes(
    "LAYERNORM-OUT", lambda draw, e: {"gamma": draw.normal(*_sizes(e)), "beta": draw.normal(*_sizes(e))}
)
RECIPES["rms_norm"] = _norm_recipes(
    "RMSNORM-OUT", lambda draw, e: {"gamma": draw.normal(*_sizes(e))}, more=_unit_offset
)
