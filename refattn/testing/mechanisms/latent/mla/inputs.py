"""Inputs for multi-head latent attention: sizes of every proportion, caches that are part full, scores that a scale decides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.cache import HeldLatents
from refattn.heads import Rope
from refattn.latent import MultiHeadLatentParams, latents_of
from refattn.positions import YaRN
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.latent.mla.probes import exact_numbers, probes
from refattn.testing.mechanisms.positions.inputs import scalings

ROPE = Rope(base=100.0)  # few pairs turn visibly at the base of 10000


def layer(draw: Draw, b=2, n=7, e=12, h=3, r=9, dr=4, dn=6, dv=5, out=10, rq=None, q_scale=1.5):
    """Tokens and weights of a layer in which no two sizes are equal; scores are a few units large."""

    def matrix(rows, columns, scale=1.0):
        return draw.normal(rows, columns, scale=scale * rows**-0.5)

    def gain(width):
        return draw.round(draw.rng.choice([-1.0, 1.0], width) * draw.rng.uniform(0.5, 1.5, width))

    compressed = {} if rq is None else {"w_dq": matrix(e, rq), "q_norm": gain(rq)}
    params = MultiHeadLatentParams(
        w_dkv=matrix(e, r + dr, 2.0),
        kv_norm=gain(r),
        w_ukv=matrix(r, h * (dn + dv)),
        w_o=matrix(h * dv, out),
        w_q=matrix(e if rq is None else rq, h * (dn + dr), q_scale),
        **compressed,
    )
    return {"x": draw.normal(*([b] if b else []), n, e), "params": params, "heads": h, "rope": ROPE}


def held(draw: Draw, m: int, given: dict, shift=0) -> HeldLatents:
    """A cache of m random tokens of the same layer, at positions from `shift` on."""
    x = given["x"]
    before = draw.normal(*x.shape[:-2], m, x.shape[-1])
    rope = given.get("rope", Rope())
    parts = latents_of(before, given["params"], positions=shift + np.arange(m), rope=rope, eps=given.get("eps", 1e-6))
    return HeldLatents(*map(draw.round, parts))


# --- random ---------------------------------------------------------------------------------------------------------


def random_layer(draw: Draw) -> dict:
    """A random call of multi_head_latent_attention: every size, caches, masks, positions, both forms."""
    n, b = draw.between(1, draw.pick(9, 30)), draw.between(0, 3)
    m = draw.between(1, draw.pick(12, 60)) if draw.chance(0.3) else 0
    given = _random_layer(draw, b, n)
    given["absorbed"] = draw.chance(0.5)
    given["rope"] = _random_rope(draw)
    if draw.chance(0.3):
        given["scale"] = draw.pick(0.2, 0.6, 1.0, -0.3)
    if draw.chance(0.3):
        given["eps"] = draw.pick(1e-5, 1e-3, 0.1, 1e-8)
    if m:
        given["cache"] = held(draw, m, given)
    elif draw.chance(0.5):
        given["positions"] = draw.between(0, draw.pick(90, 3000)) + np.cumsum(draw.integers(1, 3, n))
    if draw.chance(0.4):
        given["mask"] = draw.pick(masks.causal(), masks.causal() & masks.window(3, 0))
    elif draw.chance(0.5):
        given["mask"] = draw.where(0.7, *draw.pick((), given["x"].shape[:-2]), n, m + n)
    return given


def random_tokens(draw: Draw) -> dict:
    """A random call of latents_of."""
    n = draw.between(1, draw.pick(9, 40))
    given = _random_layer(draw, draw.between(0, 3), n)
    start = draw.between(1, 3000)
    kept = {"x": given["x"], "params": given["params"], "rope": _random_rope(draw), "positions": start + np.arange(n)}
    return kept | ({"eps": draw.pick(1e-5, 1e-3, 0.1)} if draw.chance(0.3) else {})


def _random_layer(draw, b, n):
    """No two of the parts of a head need have the same size."""
    return layer(
        draw, b=b, n=n, e=draw.between(2, draw.pick(12, 40)), h=draw.between(1, 5), r=draw.between(1, draw.pick(24, 70)),
        dr=2 * draw.pick(2, 3, 4, draw.between(0, 9)), dn=draw.between(1, draw.pick(6, 24)), dv=draw.between(1, draw.pick(8, 24)),
        out=draw.between(1, 30), rq=draw.between(2, 24) if draw.chance(0.5) else None, q_scale=2.0 ** draw.between(-1, 2),
    )  # fmt: skip


def _random_rope(draw):
    return Rope(draw.pick(100.0, 50.0, 1000.0, 10000.0), draw.pick("interleaved", "interleaved", "half"))


# --- directed -------------------------------------------------------------------------------------------------------


def layers(draw: Draw, effort: str) -> Iterator[Case]:
    """Sizes, scales, rotations, masks and caches, each both explicit and absorbed."""
    directed = (sizes, scales, norms, rotations, some_masks, decoding, exact_numbers, probes, memory_layouts)
    for cases in directed:
        for name, clause, given in cases(draw):
            yield name, (clause,), given
            yield f"{name}_absorbed", (clause, "MLA-ABSORBED"), {**given, "absorbed": True}
    if effort != "smoke":
        for absorbed in (False, True):
            x = {**layer(draw, b=0, n=259, e=16, h=2, r=8), "mask": masks.causal(), "absorbed": absorbed}
            yield f"long{'_absorbed' * absorbed}", ("MLA-OUT",), x
            large = layer(draw, b=0, n=3, e=48, h=2, r=512, dr=64, dn=128, dv=96, rq=72)
            yield f"large{'_absorbed' * absorbed}", ("MLA-OUT",), {**large, "absorbed": absorbed}


def sizes(draw: Draw):
    """Every proportion of the parts: kills orders of columns, heads and parts, and sizes that are taken for each other."""
    yield "plain", "MLA-QUERY", layer(draw)
    yield "compressed", "MLA-QUERY", layer(draw, rq=8)
    yield "compressed_wide", "MLA-QUERY", layer(draw, rq=21)
    yield "one_head", "MLA-OUT", layer(draw, h=1)
    yield "seven_heads", "MLA-OUT", layer(draw, h=7, dr=2, dn=3, dv=2)
    yield "one_token", "MLA-OUT", layer(draw, n=1)
    yield "no_batch", "MLA-OUT", layer(draw, b=0)
    more_axes = layer(draw)
    yield "more_axes", "MLA-OUT", {**more_axes, "x": draw.normal(2, 3, 5, 12)}
    yield "wide_values", "MLA-OUT", layer(draw, dn=3, dv=11)
    yield "narrow_values", "MLA-OUT", layer(draw, dn=7, dv=1)
    yield "equal_parts", "MLA-OUT", layer(draw, r=6, dr=6, dn=6, dv=6, h=2)
    yield "narrow_latents", "MLA-OUT", layer(draw, r=2)
    yield "wide_latents", "MLA-OUT", layer(draw, r=40)
    yield "without_rope", "MLA-ROPE", layer(draw, dr=0)
    yield "two_rope", "MLA-ROPE", layer(draw, dr=2)
    yield "wide_rope", "MLA-ROPE", layer(draw, dr=22, dn=3)
    yield "only_rope", "MLA-ROPE", layer(draw, dn=0, dr=6)
    yield "as_deepseek", "MLA-OUT", layer(draw, b=1, n=5, e=40, h=4, r=64, dr=8, dn=16, dv=16, rq=24)


def scales(draw: Draw):
    """Latents much longer than a head: what divides by √(R + Dr), √R, √Dn or √(Dn + Dv) is far off."""
    for name, given in (
        ("latents_longer", layer(draw, r=60, dr=2, dn=6, q_scale=3.0)),
        ("latents_shorter", layer(draw, r=2, dr=8, dn=6, q_scale=3.0)),
        ("rope_longer", layer(draw, dr=16, dn=4, q_scale=3.0)),
    ):
        yield f"scale_{name}", "MLA-SCALE", given
    for name, scale in (("given", 0.75), ("small", 0.03125), ("negative", -0.5), ("zero", 0.0)):
        yield f"scale_{name}", "MLA-SCALE", {**layer(draw), "scale": scale}
    yield "scale_compressed", "MLA-SCALE", {**layer(draw, rq=8), "scale": 1.25, "mask": masks.causal()}


def norms(draw: Draw):
    """Tokens of very different sizes, and an eps that counts: kills norms left out, misplaced or with another eps."""
    for name, scale in (("large", 8.0), ("small", 0.125)):
        x = layer(draw, b=0, rq=8)
        yield f"{name}_tokens", "MLA-NORM", {**x, "x": draw.round(x["x"] * scale), "mask": masks.causal()}
    x = layer(draw, b=0, n=9, rq=8)
    uneven = 2.0 ** (np.arange(9) % 5 - 3.0)
    yield "uneven_tokens", "MLA-NORM", {**x, "x": draw.round(x["x"] * uneven[:, None])}
    yield "eps", "MLA-NORM", {**layer(draw, rq=8), "eps": 0.5}
    yield "eps_decides", "MLA-NORM", {**x, "x": draw.round(x["x"] * 2.0**-9), "eps": 1e-5}
    yield "no_eps", "MLA-NORM", {**layer(draw, b=0), "eps": 0.0}


def rotations(draw: Draw):
    """Positions in disorder and far out, both layouts, scalings: kills pairs, parts and positions that are exchanged."""
    at = {"positions": np.array([3, 17, 18, 40, 41, 5, 90])}
    yield "positions", "MLA-ROPE", {**layer(draw, b=0, rq=8), **at}
    yield "positions_causal", "MLA-ROPE", {**layer(draw, b=0, rq=8), **at, "mask": masks.causal()}
    yield "positions_far", "MLA-ROPE", {**layer(draw), "positions": 1000 + 3 * np.arange(7)}
    of_batch = np.stack([np.arange(7) + 2, np.arange(7)[::-1] * 5])
    yield "positions_of_batch", "MLA-ROPE", {**layer(draw, b=2), "positions": of_batch}
    default = layer(draw, dr=8)
    del default["rope"]
    yield "rope_default", "MLA-ROPE", {**default, "positions": np.arange(7) * 40}
    wide = {"dr": 8, "q_scale": 2.5}
    yield "rope_decides", "MLA-ROPE", {**layer(draw, dn=1, **wide), "positions": np.arange(7) * 2}
    yield "rope_half", "MLA-ROPE", {**layer(draw, **wide), "rope": Rope(100.0, "half")}
    yield "rope_part", "MLA-ROPE", {**layer(draw, **wide), "rope": Rope(100.0, rotary_dim=4)}
    for name, scaling in scalings().items():
        given = {**layer(draw, **wide), "rope": Rope(100.0, scaling=scaling), "positions": np.arange(7) * 9}
        yield f"rope_{name}", "MLA-ROPE", given
    turned = Rope(100.0, scaling=YaRN(8.0, 64, attention_factor=1.0))
    yield "rope_yarn_scale", "MLA-ROPE", {**layer(draw, **wide), "rope": turned, "scale": 0.5}


def some_masks(draw: Draw):
    """Rules and arrays, for all sequences and for each: kills a mask turned, dropped, or laid on the wrong axis."""
    n = 7
    causal = np.tril(np.ones((n, n), dtype=bool))
    yield "causal", "MLA-OUT", {**layer(draw), "mask": masks.causal()}
    yield "causal_array", "MLA-OUT", {**layer(draw), "mask": causal}
    yield "window", "MLA-OUT", {**layer(draw, rq=8), "mask": masks.causal() & masks.window(2, 0)}
    lengths = np.array([3, 7])
    padding = np.arange(n) < lengths[:, None, None]
    yield "padding", "MLA-OUT", {**layer(draw), "mask": np.broadcast_to(padding, (2, n, n)).copy()}
    yield "padding_causal", "MLA-OUT", {**layer(draw), "mask": padding & causal}
    yield "as_many_heads", "MLA-OUT", {**layer(draw, b=3, h=3), "mask": draw.rng.random((3, n, n)) < 0.6}
    empty = draw.rng.random((n, n)) < 0.6
    empty[[2, 5]] = False
    yield "empty_row", "MLA-OUT", {**layer(draw, b=0), "mask": empty}
    yield "one_key", "MLA-OUT", {**layer(draw), "mask": np.arange(n) == (np.arange(n)[:, None] + 3) % n}
    documents = masks.causal() & masks.documents(np.array([0, 0, 0, 1, 1, 2, 2]))
    yield "documents", "MLA-OUT", {**layer(draw, b=0), "mask": documents}


def decoding(draw: Draw):
    """New tokens over a cache: kills positions that start at 0, latents normed twice and keys rotated twice."""
    for n, m in ((1, 5), (1, 37), (2, 11), (3, 131), (3, 0), (9, 4)):
        x = layer(draw, n=n, rq=8 if n > 1 else None)
        yield f"decode_{n}_over_{m}", "MLA-CACHE", {**x, "cache": held(draw, m, x)}
    x = layer(draw, n=2)
    yield "decode_window", "MLA-CACHE", {**x, "cache": held(draw, 13, x), "mask": masks.causal() & masks.window(4, 0)}
    left = np.ones((2, 2, 15), dtype=bool)
    left[0, :, :6], left[:, 0, 14] = False, False
    yield "decode_padding", "MLA-CACHE", {**x, "cache": held(draw, 13, x), "mask": left}
    shifted = {"cache": held(draw, 13, x, shift=20), "positions": 33 + np.arange(2)}
    yield "decode_positions", "MLA-CACHE", {**x, **shifted}
    lines = {"cache": held(draw, 13, x), "positions": np.array([[13, 14], [7, 8]])}
    yield "decode_positions_of_batch", "MLA-CACHE", {**x, **lines, "mask": left}
    yield "decode_scale", "MLA-SCALE", {**x, "cache": held(draw, 37, x), "scale": 0.75}
    half = {**layer(draw, n=1, dr=8), "rope": Rope(50.0, "half")}
    yield "decode_half", "MLA-CACHE", {**half, "cache": held(draw, 9, half)}
    stale = held(draw, 13, x)
    spoiled = HeldLatents(*(part.copy() for part in stale))
    spoiled.latents[0, :6], spoiled.rope_keys[0, :6] = np.nan, np.inf
    yield "decode_stale", "ATTN-ABSENT", {**x, "cache": spoiled, "mask": left}


def memory_layouts(draw: Draw):
    """Weights as a framework stores them, outputs first, seen transposed: kills kernels that ignore strides."""
    x = layer(draw, rq=8)
    turned = (w if w.ndim < 2 else np.ascontiguousarray(w.T).T for w in x["params"])
    yield "strides_weights", "MLA-OUT", {**x, "params": MultiHeadLatentParams(*turned)}
    yield "strides_tokens", "MLA-OUT", {**x, "x": np.ascontiguousarray(np.swapaxes(x["x"], 0, 1)).swapaxes(0, 1)}


def tokens_to_keep(draw: Draw, effort: str) -> Iterator[Case]:
    """What is cached: sizes of both parts, positions, rotations, tokens of any size."""

    def tokens(**changes):
        given = layer(draw, **changes)
        return {name: given[name] for name in ("x", "params", "rope")}

    at = {"positions": np.array([3, 17, 18, 40, 41, 5, 90])}
    plain = {**tokens(), **at}
    yield "plain", ("MLA-CACHE",), plain
    yield "without_rope", ("MLA-CACHE",), {**tokens(dr=0), **at}
    yield "wide_rope", ("MLA-ROPE",), {**tokens(dr=22), **at}
    yield "one_latent", ("MLA-NORM",), {**tokens(r=1), **at}
    yield "large", ("MLA-CACHE",), {**tokens(b=0, e=40, r=512, dr=64), **at}
    yield "one_token", ("MLA-CACHE",), {**tokens(n=1), "positions": np.array([1000])}
    yield "positions_of_batch", ("MLA-ROPE",), {**tokens(), "positions": np.stack([np.arange(7), np.arange(7) * 9])}
    yield "half", ("MLA-ROPE",), {**tokens(dr=8), **at, "rope": Rope(100.0, "half")}
    for name, scaling in scalings().items():
        yield name, ("MLA-ROPE",), {**tokens(dr=8), **at, "rope": Rope(100.0, scaling=scaling)}
    yield "rope_part", ("MLA-ROPE",), {**tokens(dr=8), **at, "rope": Rope(100.0, rotary_dim=4)}
    yield "compressed", ("MLA-CACHE",), {**tokens(rq=8), **at}
    default = {**tokens(dr=8), **at}
    del default["rope"]
    yield "rope_default", ("MLA-ROPE",), default
    yield "eps", ("MLA-NORM",), {**plain, "eps": 0.5}
    for name, scale in (("large", 8.0), ("small", 2.0**-9)):
        yield f"{name}_tokens", ("MLA-NORM",), {**plain, "x": draw.round(plain["x"] * scale), "eps": 1e-5}
    yield "zeros", ("MLA-NORM",), {**plain, "x": np.zeros_like(plain["x"])}
