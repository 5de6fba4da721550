"""Random calls of multi-head latent attention, for the naming of its variants: sizes and options in which each differs."""

import numpy as np

from refattn import masks
from refattn.cache import HeldLatents
from refattn.heads import Rope
from refattn.latent import MultiHeadLatentParams


def _layer(d):
    """Tokens, weights and the rotation; no two of the parts of a head need have the same size."""
    e, h, r, rq = d.size(4, 12), d.size(2, 4), d.size(3, 24), d.size(3, 12)
    dr, dn, dv = 2 * d.size(2, 4), d.pick(2, 4, 6, 3, 5), d.size(2, 8)
    compressed = d.chance(0.6)

    def matrix(rows, columns, scale=1.0):
        return d.normal(rows, columns, scale=scale * rows**-0.5)

    extra = {"w_dq": matrix(e, rq, 2.0), "q_norm": d.rng.uniform(0.5, 1.5, rq)} if compressed else {}
    params = MultiHeadLatentParams(
        w_dkv=matrix(e, r + dr, 2.0),
        kv_norm=d.rng.uniform(0.5, 1.5, r) * d.pick(-1.0, 1.0),
        w_ukv=matrix(r, h * (dn + dv)),
        w_o=matrix(h * dv, d.size(3, 10)),
        w_q=matrix(rq if compressed else e, h * (dn + dr), d.pick(1.0, 2.0, 3.0)),
        **extra,
    )
    lead, n = d.pick((), (2,), (3,)), d.size(3, 9)
    rope = Rope(float(d.pick(50.0, 1000.0)), d.pick("interleaved", "interleaved", "interleaved", "half"))
    return {"x": d.normal(*lead, n, e), "params": params, "rope": rope}, h


def multi_head_latent_attention(d):
    given, heads = _layer(d)
    *lead, n, _ = given["x"].shape
    given |= {"heads": heads, "absorbed": d.chance(0.5)}
    m = n
    if d.chance(0.25):
        p, held = given["params"], d.size(1, 12)
        r = p.kv_norm.shape[0]
        given["cache"] = HeldLatents(d.normal(*lead, held, r), d.normal(*lead, held, p.w_dkv.shape[1] - r, scale=2.0))
        m += held
    elif d.chance(0.5):
        given["positions"] = d.size(0, 90) + np.cumsum(d.integers(1, 3, n))
    if d.chance(0.35):
        given["mask"] = d.pick(masks.causal(), masks.causal() & masks.window(3, 0))
    elif d.chance(0.4):
        given["mask"] = d.rng.random((*d.pick((), tuple(lead)), n, m)) < 0.7
    if d.chance(0.3):
        given["scale"] = float(d.pick(0.2, 0.6, 1.0, -0.3))
    if d.chance(0.2):
        given["eps"] = float(d.pick(1e-3, 1e-5, 0.1))
    return given


def latents_of(d):
    given, _ = _layer(d)
    return {**given, "positions": d.size(1, 2000) + np.arange(given["x"].shape[-2])}


DRAWN_MLA = {
    "latent.multi_head_latent_attention": multi_head_latent_attention,
    "latent.latents_of": latents_of,
}
