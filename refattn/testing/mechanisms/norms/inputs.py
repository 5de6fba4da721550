"""Inputs for the norms: rows of every size, far from 0, with a spike; every axis; an epsilon that matters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn.testing.inputs import Case, Draw
from refattn.testing.tails import WIDE, needled


def rows(draw: Draw) -> dict:
    """Rows normalised over their last axes: of any size, or far from 0, or with a spike, or all 0; perhaps with an eps."""
    shape = draw.between(2, 4), draw.between(2, 5), draw.pick(*(draw.between(3, most) for most in (12, 130)), *WIDE)
    x = draw.normal(*shape)
    kind = draw.pick("plain", "small", "large", "offset", "spike", "zeros")
    if kind in ("small", "large"):
        x *= draw.pick(1e-2, 1e-3) if kind == "small" else draw.pick(10.0, 100.0)
    if kind == "offset":
        x += draw.pick(8.0, 3000.0)
    if kind == "spike":
        x[..., 1] = 1000.0
    if kind == "zeros":
        x[0] = 0.0
    axis = draw.pick(-1, -1, -1, (-2, -1))
    given = {"x": x, "gamma": draw.normal(*_sizes(x, axis)), "axis": axis}
    return given | ({"eps": draw.pick(1e-5, 1e-3, 1e-6)} if draw.chance(0.5) else {})


def _sizes(x, axis):
    axes = {n % x.ndim for n in (axis if isinstance(axis, tuple) else (axis,))}
    return [size for n, size in enumerate(x.shape) if n in axes]


def layer_norm(draw: Draw) -> dict:
    """A random call of layer_norm."""
    given = rows(draw)
    return given | ({"beta": draw.normal(*given["gamma"].shape)} if draw.chance(0.7) else {})


def rms_norm(draw: Draw) -> dict:
    """A random call of rms_norm."""
    return rows(draw) | ({"unit_offset": True} if draw.chance(0.3) else {})


def depths(draw: Draw) -> dict:
    """A random call of deepnorm_constants."""
    layers = {"encoder_layers": draw.between(1, 12), "decoder_layers": draw.pick(3, 5, 9)}
    return {"part": draw.pick("encoder", "decoder"), **layers}


def layer_norms(draw: Draw, effort: str) -> Iterator[Case]:
    """Directed cases of layer_norm."""

    def case(x, axis=-1, **rest):
        weights = {name: draw.normal(*_sizes(x, axis)) for name in ("gamma", "beta")}
        return {"x": x, **weights, "axis": axis, **rest}

    yield from _norms(draw, "LAYERNORM-OUT", case)


def rms_norms(draw: Draw, effort: str) -> Iterator[Case]:
    """Directed cases of rms_norm."""

    def case(x, axis=-1, **rest):
        return {"x": x, "gamma": draw.normal(*_sizes(x, axis)), "axis": axis, **rest}

    yield from _norms(draw, "RMSNORM-OUT", case)
    yield "unit_offset", ("RMSNORM-OFFSET",), case(draw.normal(3, 7), unit_offset=True)


def _norms(draw, clause, case):
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
    for width in WIDE:  # a mean far from 0, so that zeros in its place are seen
        yield f"wide_{width}", (clause,), case(needled(draw.normal(2, width) + 2.0))
    yield "square", (clause,), case(draw.normal(7, 7) * 2.0 ** np.arange(-3, 4)[:, None] + 1.0)
    yield "square_first_axis", ("NORM-AXES",), case(draw.normal(5, 5), axis=0)
    for name, axis in (("middle", 1), ("last_two", (-2, -1)), ("ends", (0, 2))):
        yield f"axis_{name}", ("NORM-AXES",), case(draw.normal(3, 5, 7), axis=axis)
