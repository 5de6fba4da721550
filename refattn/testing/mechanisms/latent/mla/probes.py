"""Layers made by hand for multi-head latent attention: what a correct kernel gives is known beforehand, and sharp."""

from __future__ import annotations

import numpy as np

from refattn.heads import Rope
from refattn.latent import MultiHeadLatentParams
from refattn.testing.inputs import Draw


def exact_numbers(draw: Draw):
    """Latents of ±1 and integer weights: a correct result is exact, and any other is far off."""

    def integers(*shape):
        return draw.rng.integers(-3, 4, size=shape).astype(np.float64)

    n, h, r, dr, dn, dv = 6, 2, 4, 2, 3, 5
    signs = draw.rng.choice([-2.0, 2.0], (n, r))
    params = MultiHeadLatentParams(
        w_dkv=np.concatenate([signs, integers(n, dr)], axis=1),
        kv_norm=np.array([1.0, 2.0, -1.0, 0.5]),
        w_ukv=integers(r, h * (dn + dv)),
        w_o=np.eye(h * dv),
        w_q=np.zeros((n, h * (dn + dr))),
    )
    x = {"x": np.eye(n), "params": params, "heads": h, "eps": 0.0}
    yield "integers_equal", "MLA-OUT", {**x, "mask": np.arange(n) // 4 == np.arange(n)[:, None] % 2}
    one = np.arange(n) == np.array([5, 0, 3, 1, 4, 2])[:, None]
    yield "integers_one_key", "MLA-OUT", {**x, "params": params._replace(w_q=integers(n, h * (dn + dr))), "mask": one}


def probes(draw: Draw):
    """Scores that come from latents alone, from positions alone, or that the scale alone decides.

    Kills whatever moves a score: keys from another head's columns, a pair or a part taken for another, a position off.
    """
    yield from by_latent(draw)
    yield from by_position(draw)
    yield from by_scale(draw)


def _pointed(draw: Draw, n=8, dr=8, dv=3, h=2):
    """n tokens, one-hot, whose latents are the tokens; the queries of each head point at another token's key."""
    eye, none = np.eye(n), np.zeros((n, dr))
    targets = np.array([[3, 0, 7, 5, 1, 6, 2, 4], [6, 4, 1, 7, 0, 2, 5, 3]])
    up = [part for _ in range(h) for part in (eye, draw.normal(n, dv))]
    queries = [part for head in range(h) for part in (4.0 * eye[targets[head]], none)]
    return MultiHeadLatentParams(
        w_dkv=np.concatenate([eye, none], axis=1),
        kv_norm=np.ones(n),
        w_ukv=np.concatenate(up, axis=1),
        w_o=np.eye(h * dv),
        w_q=np.concatenate(queries, axis=1),
    )


def by_latent(draw: Draw):
    """Each head finds its key by the part without positions, which must not turn."""
    params = _pointed(draw)
    x = {"x": np.eye(8), "params": params, "heads": 2, "rope": Rope(100.0)}
    yield "by_latent", "MLA-OUT", x
    signs = np.array([[1.0]])
    while len(signs) < 8:  # orthogonal rows of ±1: a norm takes a factor away and leaves the signs
        signs = np.block([[signs, signs], [signs, -signs]])
    compressed = params._replace(w_dq=signs / 4.0, q_norm=np.ones(8), w_q=signs.T / 8.0 @ params.w_q)
    at = np.array([3, 17, 18, 40, 41, 55, 90, 91])
    yield "by_latent_compressed", "MLA-ROPE", {**x, "params": compressed, "positions": at}


def by_position(draw: Draw):
    """All keys are the same before they turn, and each head looks back by some steps."""
    n, dr, params = 8, 8, _pointed(draw)
    ahead = np.tile([1.0, 0.0], dr // 2)
    back = [6.0 * Rope(8.0)(ahead[None], np.array([-steps]))[0] for steps in (1, 3)]
    columns = [part for head in range(2) for part in (np.zeros(n), back[head])]
    params = params._replace(
        w_dkv=np.concatenate([np.eye(n), np.tile(ahead, (n, 1))], axis=1),
        w_q=draw.round(np.tile(np.concatenate(columns), (n, 1))),
    )
    x = {"x": np.eye(n), "params": params, "heads": 2, "rope": Rope(8.0)}
    yield "by_position", "MLA-ROPE", x
    yield "by_position_far", "MLA-ROPE", {**x, "positions": 500 + np.arange(n)}


def by_scale(draw: Draw):
    """Two tokens with opposite keys and values: the output is tanh(4τ), and little else can go wrong.

    R + Dr, Dn, Dv, Dn + Dv and Dn + Dr are far apart. Keys have a mean square of 16, which a norm would take away.
    """
    r, dr, dn, dv = 240, 16, 2, 64
    opposite = np.array([[1.0], [-1.0]])
    params = MultiHeadLatentParams(
        w_dkv=np.concatenate([np.tile(opposite, r), np.tile(4.0 * opposite, dr)], axis=1),
        kv_norm=np.ones(r),
        w_ukv=np.concatenate([np.zeros((r, dn)), np.eye(r, dv)], axis=1),
        w_o=np.eye(dv, 5),
        w_q=np.concatenate([np.zeros((2, dn)), np.full((2, dr), 0.0625)], axis=1),
    )
    x = {"x": np.eye(2), "params": params, "heads": 1, "positions": np.zeros(2, dtype=np.int64), "eps": 0.0}
    yield "scale_decides", "MLA-SCALE", x
    yield "scale_decides_given", "MLA-SCALE", {**x, "scale": 0.0625}
