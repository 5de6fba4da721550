"""The decision points of rotary embedding, norms, gelu and gated feed-forward networks."""

from __future__ import annotations

import numpy as np

from refattn.feedforward import GatedFeedForwardParams
from refattn.testing.conventions import Answer, Point

# What a variant that was found amounts to, said by arguments of the reference: the next points are asked on top of it.
AS_ARGUMENTS: dict[str, dict] = {
    "rope/half_pairing": {"layout": "half"},
    "rms_norm/unit_offset_always": {"unit_offset": True},
    "gelu/tanh": {"approximate": "tanh"},
}


def _drawn(seed, *shape):
    return np.random.default_rng(seed).integers(-4, 5, size=shape) / 2.0


def _rows(**options):
    """Rows of which the last is so small that an epsilon of 1e-6 shows."""
    x = np.concatenate([_drawn(1, 3, 8), 2.0**-10 * np.array([[1.0, -1.0] * 4])])
    return {"x": x, "gamma": 1.0 + _drawn(2, 8) / 4, **options}


def _gates():
    return {
        "x": _drawn(3, 4, 8),
        "params": GatedFeedForwardParams(_drawn(4, 8, 6) / 2, _drawn(5, 8, 6) / 2, _drawn(6, 6, 8), None, None, None),
    }


def _p(function, name, title, clause, ask, *answers):
    return Point(name, title, clause, function, ask, lambda a: True, tuple(Answer(n, m, v) for n, m, *v in answers))


_ROTATED = {"x": _drawn(7, 5, 16), "positions": np.arange(3, 8)}
_POINTS = np.array([-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])

POINTS = (
    _p("rope", "rope/pairing", "features that are rotated together", "ROPE-LAYOUT", lambda: dict(_ROTATED),
       ("interleaved", "(2i, 2i + 1)"), ("half", "(i, i + R/2)", "rope/half_pairing"),
       ("reversed", "(2i, 2i + 1), the other way round", "rope/negated_sin"),
       ("ignored", "positions count from 0", "rope/positions_from_zero"),
       ("from_one", "positions count from 1", "rope/positions_from_one")),
    _p("rope", "rope/partial", "a rotation of 8 of 16 features", "ROPE-PARTIAL", lambda: {**_ROTATED, "rotary_dim": 8},
       ("own", "the first 8, frequencies over 8"), ("head_dim", "frequencies over 16", "rope/frequencies_over_head_dim"),
       ("last", "the last 8", "rope/rotates_last"), ("ignored", "all 16", "rope/rotary_dim_ignored")),
    _p("rope", "rope/base", "a base of 100", "ROPE-FREQUENCY", lambda: {**_ROTATED, "base": 100.0},
       ("given", "as given"), ("ignored", "ignored: 10,000", "rope/base_ignored")),
    _p("positions.rotate", "rotate/pairing", "features that are rotated together", "ROPE-LAYOUT",
       lambda: {"x": _drawn(7, 5, 8), "cos": _drawn(8, 5, 4), "sin": _drawn(9, 5, 4)},
       ("interleaved", "(2i, 2i + 1)"), ("half", "(i, i + R/2)", "rope/other_pairing"),
       ("reversed", "(2i, 2i + 1), the other way round", "rope/negated_sin")),
    _p("layer_norm", "layer_norm/gain", "the gain", "NORM-AFFINE", lambda: _rows(beta=_drawn(3, 8)),
       ("gamma", "γ"), ("one_plus", "1 + γ", "layer_norm/unit_offset_always"),
       ("beta_too", "on β too", "layer_norm/beta_scaled"), ("dropped", "none", "layer_norm/gamma_dropped")),
    _p("layer_norm", "layer_norm/eps", "epsilon", "NORM-EPS", lambda: _rows(eps=4.0),
       ("inside", "under the root"), ("outside", "added to the root", "layer_norm/eps_outside_root"),
       ("ignored", "another than was given", "layer_norm/eps_ignored"), ("dropped", "none", "layer_norm/eps_dropped")),
    _p("layer_norm", "layer_norm/variance", "the variance", "LAYERNORM-VARIANCE", _rows,
       ("biased", "over E"), ("unbiased", "over E - 1", "layer_norm/unbiased_variance"),
       ("uncentred", "of x, not x - mean", "layer_norm/uncentred")),
    _p("rms_norm", "rms_norm/gain", "the gain", "RMSNORM-OFFSET", _rows,
       ("gamma", "γ"), ("one_plus", "1 + γ", "rms_norm/unit_offset_always"),
       ("dropped", "none", "rms_norm/gamma_dropped")),
    _p("rms_norm", "rms_norm/eps", "epsilon", "NORM-EPS", lambda: _rows(eps=4.0),
       ("inside", "under the root"), ("outside", "added to the root", "rms_norm/eps_outside_root"),
       ("clamp", "the least root", "rms_norm/eps_clamp"),
       ("ignored", "another than was given", "rms_norm/eps_ignored"), ("dropped", "none", "rms_norm/eps_dropped")),
    _p("rms_norm", "rms_norm/mean", "the mean square", "RMSNORM-OUT", _rows,
       ("mean", "of x"), ("centred", "of x - mean", "rms_norm/centred"),
       ("sum", "a sum, not a mean", "rms_norm/sum_of_squares")),
    _p("gelu", "gelu/function", "gelu, if nothing else is asked for", "ACT-GELU", lambda: {"x": _POINTS},
       ("erf", "x Φ(x), by erf"), ("tanh", "by tanh", "gelu/tanh"), ("quick", "x sigmoid(1.702 x)", "gelu/quick")),
    _p("gelu", "gelu/approximate", 'gelu, approximate="tanh"', "ACT-GELU-TANH",
       lambda: {"x": _POINTS, "approximate": "tanh"},
       ("tanh", "by tanh"), ("erf", "x Φ(x), by erf", "gelu/exact_for_tanh")),
    _p("gated_feed_forward", "glu/gate", "the activation is applied to", "GLU-OUT", _gates,
       ("gate", "the gate"), ("up", "the up projection", "glu/gate_order"),
       ("product", "the product", "glu/activation_of_product"), ("both", "both", "glu/both_activated"),
       ("nothing", "neither", "glu/not_activated")),
)  # fmt: skip
