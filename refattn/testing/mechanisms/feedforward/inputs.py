"""Inputs for the activations and the networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from refattn.feedforward import ACTIVATIONS, FeedForwardParams, GatedFeedForwardParams
from refattn.testing.inputs import Case, Draw

# --- activations ----------------------------------------------------------------------------------------------------


def line(draw: Draw) -> dict:
    """Random numbers of any size."""
    return {"x": draw.normal(3, draw.pick(17, 67), scale=draw.pick(1.0, 3.0, 16.0, 2.0**-4))}


def line_for_gelu(draw: Draw) -> dict:
    """The same, exact or by tanh."""
    return {**line(draw), "approximate": draw.pick(None, "tanh")}


def lines(clause: str, **options) -> Callable[[Draw, str], Iterator[Case]]:
    """Directed cases of an activation: around 0, in the tails, far out, NaN and infinities."""

    def cases(draw: Draw, effort: str) -> Iterator[Case]:
        far = np.array([-30000.0, -500.0, -100.0, 0.0, 100.0, 500.0, 30000.0])
        yield "special", ("ACT-RANGE",), {"x": np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0]), **options}
        yield "around_zero", (clause,), {"x": draw.round(np.linspace(-1, 1, 41)), **options}
        yield "tails", (clause,), {"x": draw.round(np.linspace(-12, 12, 97)), **options}
        yield "extreme", (clause,), {"x": draw.round(far), **options}

    return cases


def lines_for_gelu(draw: Draw, effort: str) -> Iterator[Case]:
    """The same of both forms."""
    for approximate in (None, "tanh"):
        clause = "ACT-GELU" if approximate is None else "ACT-GELU-TANH"
        for name, clauses, arguments in lines(clause, approximate=approximate)(draw, effort):
            yield f"{approximate or 'exact'}_{name}", clauses, arguments


# --- networks -------------------------------------------------------------------------------------------------------


def packed(draw: Draw) -> dict:
    """A random call of split_gate."""
    return {"packed": draw.normal(3, 2 * draw.between(2, 6)), "gate_order": draw.pick("first", "second", "interleaved")}


def network(draw: Draw) -> dict:
    """A random call of feed_forward; the weights may be square."""
    e, f = draw.between(2, 5), draw.between(3, 7)
    f = e if draw.chance(0.3) else f
    b_in, b_out = (draw.normal(f), draw.normal(e)) if draw.chance(0.7) else (None, None)
    params = FeedForwardParams(draw.normal(e, f), b_in, draw.normal(f, e), b_out)
    return {"x": draw.normal(3, e), "params": params, "activation": draw.pick(*sorted(ACTIVATIONS))}


def gated(draw: Draw) -> dict:
    """A random call of gated_feed_forward."""
    e, f = draw.between(2, 5), draw.between(3, 7)
    fields = {"w_gate": draw.normal(e, f, scale=2.0), "w_up": draw.normal(e, f, scale=2.0), "w_out": draw.normal(f, e)}
    if draw.chance(0.7):
        fields |= {"b_gate": draw.normal(f), "b_up": draw.normal(f), "b_out": draw.normal(e)}
    params = GatedFeedForwardParams(**fields)
    return {"x": draw.normal(3, e, scale=2.0), "params": params, "activation": draw.pick("silu", "gelu", "relu")}


def networks(draw: Draw, effort: str) -> Iterator[Case]:
    """Every activation, with and without biases; square weights, which may be transposed unnoticed."""

    def layers(e, f, out, biased=True):
        bias = (draw.normal(f), draw.normal(out)) if biased else (None, None)
        return FeedForwardParams(draw.normal(e, f, scale=0.5), bias[0], draw.normal(f, out, scale=0.5), bias[1])

    for activation in ("relu", "gelu", "silu"):
        x = draw.normal(2, 3, 5)
        yield activation, ("FFN-OUT",), {"x": x, "params": layers(5, 7, 5), "activation": activation}
    yield "no_biases", ("FFN-OUT",), {"x": draw.normal(3, 5), "params": layers(5, 7, 5, biased=False)}
    yield "square", ("FFN-OUT",), {"x": draw.normal(5, 5), "params": layers(5, 5, 5)}
    yield "narrower", ("FFN-OUT",), {"x": draw.normal(3, 5), "params": layers(5, 11, 3)}


def gated_networks(draw: Draw, effort: str) -> Iterator[Case]:
    """Gate and up of different numbers: kills an exchange of the two, and activations of the wrong one."""

    def layers(biased):
        weights = {"w_gate": draw.normal(5, 7), "w_up": draw.normal(5, 7), "w_out": draw.normal(7, 5, scale=0.5)}
        biases = {"b_gate": draw.normal(7), "b_up": draw.normal(7), "b_out": draw.normal(5)} if biased else {}
        return GatedFeedForwardParams(**weights, **biases)

    for activation in ("silu", "gelu", "relu"):
        for biased in (False, True):
            name = f"{activation}{'_biased' if biased else ''}"
            yield name, ("GLU-OUT",), {"x": draw.normal(3, 5), "params": layers(biased), "activation": activation}
    square = GatedFeedForwardParams(*(draw.normal(5, 5, scale=0.5) for _ in range(3)))
    yield "square", ("GLU-OUT",), {"x": draw.normal(5, 5), "params": square}
