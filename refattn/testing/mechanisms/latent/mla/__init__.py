"""Multi-head latent attention, and what its cache keeps: how their calls are drawn, and made by hand where chance is too kind."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from refattn import masks
from refattn.cache import HeldLatents
from refattn.heads import Rope
from refattn.latent import MultiHeadLatentParams, latents_of, multi_head_latent_attention
from refattn.testing.inputs import Case, Draw
from refattn.testing.mechanisms.positions.inputs import scalings
from refattn.testing.subject import Subject

DISORDER = {"positions": np.array([3, 17, 18, 40, 41, 5, 90])}


def layer(draw: Draw, b=2, n=7, e=12, h=3, r=9, dr=4, dn=6, dv=5, out=10, rq=None, q_scale=1.5):
    """Tokens and weights of a layer in which no two sizes are equal; scores are a few units large, and most pairs turn visibly."""

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
    return {"x": draw.normal(*([b] if b else []), n, e), "params": params, "heads": h, "rope": Rope(base=100.0)}


def held(draw: Draw, m: int, given: dict, shift=0) -> HeldLatents:
    """A cache of m random tokens of the same layer, at positions from `shift` on."""
    *lead, _, width = given["x"].shape
    before = draw.normal(*lead, m, width)
    options = {"rope": given["rope"], "eps": given.get("eps", 1e-6)}
    return HeldLatents(*map(draw.round, latents_of(before, given["params"], positions=shift + np.arange(m), **options)))


# --- random ---------------------------------------------------------------------------------------------------------


def random_layer(draw: Draw) -> dict:
    """A random call of multi_head_latent_attention: every size, caches, masks, positions, both forms."""
    n, m = draw.between(1, draw.pick(9, 30)), draw.between(1, draw.pick(12, 60)) if draw.chance(0.3) else 0
    given = _any_layer(draw, n) | {"absorbed": draw.chance(0.5)}
    if draw.chance(0.3):
        given["scale"] = draw.pick(0.2, 0.6, 1.0, -0.3)
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
    return _kept(_any_layer(draw, n)) | {"positions": draw.between(1, 3000) + np.arange(n)}


def _any_layer(draw, n):
    """No two of the parts of a head need have the same size."""
    given = layer(
        draw, b=draw.between(0, 3), n=n, e=draw.between(2, draw.pick(12, 40)), h=draw.between(1, 5),
        r=draw.between(1, draw.pick(24, 70)), dr=2 * draw.pick(2, 3, 4, draw.between(0, 9)),
        dn=draw.between(1, draw.pick(6, 24)), dv=draw.between(1, draw.pick(8, 24)), out=draw.between(1, 30),
        rq=draw.between(2, 24) if draw.chance(0.5) else None, q_scale=2.0 ** draw.between(-1, 2),
    )  # fmt: skip
    given["rope"] = Rope(draw.pick(100.0, 50.0, 1000.0, 10000.0), draw.pick("interleaved", "interleaved", "half"))
    return given | ({"eps": draw.pick(1e-5, 1e-3, 0.1, 1e-8)} if draw.chance(0.3) else {})


def _kept(given):
    """Of a call of the layer what latents_of takes too."""
    return {name: given[name] for name in ("x", "params", "rope", "eps", "positions") if name in given}


# --- directed -------------------------------------------------------------------------------------------------------


def layers(draw: Draw, effort: str) -> Iterator[Case]:
    """Random layers, and those in which certain mistakes cannot hide, each both explicit and absorbed."""
    directed = (mixed, options, rotations, decoding, memory_layouts, exact_numbers, by_scale)
    for cases in (*directed, *([large] if effort != "smoke" else [])):
        for name, clause, given in cases(draw):
            yield name, (clause,), {**given, "absorbed": False}
            yield f"{name}_absorbed", (clause, "MLA-ABSORBED"), {**given, "absorbed": True}


def large(draw: Draw):
    """Many tokens, and the widths of real layers."""
    yield "long", "MLA-OUT", layer(draw, b=0, n=259, e=16, h=2, r=8) | {"mask": masks.causal()}
    yield "large", "MLA-OUT", layer(draw, b=0, n=3, e=48, h=2, r=512, dr=64, dn=128, dv=96, rq=72)


def mixed(draw: Draw):
    """So many random layers that a run of few cases, too, sees orders of columns, heads and parts, and misplaced norms."""
    for number in range(8):
        yield f"mixed_{number}", "MLA-OUT", random_layer(draw)


def options(draw: Draw):
    """Parts that are missing, an eps and a scale that count, masks for each sequence: what is seldom drawn."""
    yield "plain", "MLA-QUERY", layer(draw)
    yield "compressed", "MLA-QUERY", layer(draw, rq=8)
    yield "only_rope", "MLA-ROPE", layer(draw, dn=0, dr=6)
    yield "without_rope", "MLA-ROPE", layer(draw, dr=0)
    yield "eps", "MLA-NORM", layer(draw, rq=8) | {"eps": 0.5}
    small = layer(draw, b=0, rq=8)
    yield "eps_decides", "MLA-NORM", {**small, "x": draw.round(small["x"] * 2.0**-9), "eps": 1e-5}
    yield "scale_negative", "MLA-SCALE", layer(draw) | {"scale": -0.5}
    yield "scale_zero", "MLA-SCALE", layer(draw) | {"scale": 0.0}
    for_each = draw.where(0.6, 3, 7, 7)
    for_each[0, [2, 5]] = False
    yield "as_many_sequences_as_heads", "MLA-OUT", layer(draw, b=3, h=3) | {"mask": for_each}
    yield "window", "MLA-OUT", layer(draw, rq=8) | {"mask": masks.causal() & masks.window(2, 0)}
    packed = masks.causal() & masks.documents(np.array([0, 0, 0, 1, 1, 2, 2]))
    yield "documents", "MLA-OUT", layer(draw, b=0) | {"mask": packed}


def turns():
    """Positions of seven tokens in disorder, far out and of each of two sequences; both layouts, parts, every scaling."""
    yield "positions", DISORDER
    yield "positions_far", {"positions": 1000 + 3 * np.arange(7)}
    yield "positions_of_batch", {"positions": np.stack([np.arange(7) + 2, np.arange(7)[::-1] * 5])}
    ropes = {"half": Rope(100.0, "half"), "part": Rope(100.0, rotary_dim=4)}
    ropes |= {name: Rope(100.0, scaling=scaling) for name, scaling in scalings().items()}
    for name, rope in ropes.items():
        yield f"rope_{name}", {**DISORDER, "rope": rope}


def rotations(draw: Draw):
    """Kills pairs, parts and positions that are exchanged, and options of the rotation that are ignored."""
    for name, given in turns():
        yield name, "MLA-ROPE", layer(draw, dr=8, q_scale=2.5) | given
    yield "positions_causal", "MLA-ROPE", layer(draw, b=0, rq=8) | DISORDER | {"mask": masks.causal()}
    default = layer(draw, dr=8) | {"positions": np.arange(7) * 40}
    del default["rope"]
    yield "rope_default", "MLA-ROPE", default


def decoding(draw: Draw):
    """New tokens over a cache: kills positions that start at 0, latents normed twice and keys rotated twice."""
    for n, m in ((1, 5), (1, 37), (2, 11), (3, 131), (3, 0), (9, 4)):
        x = layer(draw, n=n, rq=8 if n > 1 else None)
        yield f"decode_{n}_over_{m}", "MLA-CACHE", {**x, "cache": held(draw, m, x)}
    x = layer(draw, n=2)
    before, left = {"cache": held(draw, 13, x)}, np.ones((2, 2, 15), dtype=bool)
    left[0, :, :6], left[:, 0, 14] = False, False
    yield "decode_window", "MLA-CACHE", x | before | {"mask": masks.causal() & masks.window(4, 0)}
    yield "decode_padding", "MLA-CACHE", x | before | {"mask": left}
    yield "decode_scale", "MLA-SCALE", x | before | {"scale": 0.75}
    yield "decode_positions", "MLA-CACHE", {**x, "cache": held(draw, 13, x, shift=20), "positions": 33 + np.arange(2)}
    of_batch = {"positions": np.array([[13, 14], [7, 8]]), "mask": left}
    yield "decode_positions_of_batch", "MLA-CACHE", x | before | of_batch
    half = layer(draw, n=1, dr=8) | {"rope": Rope(50.0, "half")}
    yield "decode_half", "MLA-CACHE", {**half, "cache": held(draw, 9, half)}
    stale = HeldLatents(*(part.copy() for part in before["cache"]))
    stale.latents[0, :6], stale.rope_keys[0, :6] = np.nan, np.inf
    yield "decode_stale", "ATTN-ABSENT", {**x, "cache": stale, "mask": left}


def memory_layouts(draw: Draw):
    """Weights as a framework stores them, outputs first, seen transposed: kills kernels that ignore strides."""
    x = layer(draw, rq=8)
    turned = (w if w.ndim < 2 else np.ascontiguousarray(w.T).T for w in x["params"])
    yield "strides_weights", "MLA-OUT", {**x, "params": MultiHeadLatentParams(*turned)}
    yield "strides_tokens", "MLA-OUT", {**x, "x": np.ascontiguousarray(np.swapaxes(x["x"], 0, 1)).swapaxes(0, 1)}


def exact_numbers(draw: Draw):
    """Latents of ±1 and integer weights: a correct result is exact, and any other is far off."""
    n, h, r, dr, dn, dv = 6, 2, 4, 2, 3, 5
    params = MultiHeadLatentParams(
        w_dkv=np.concatenate([draw.rng.choice([-2.0, 2.0], (n, r)), draw.integers(-3, 3, n, dr)], axis=1),
        kv_norm=np.array([1.0, 2.0, -1.0, 0.5]),
        w_ukv=draw.integers(-3, 3, r, h * (dn + dv)).astype(np.float64),
        w_o=np.eye(h * dv),
        w_q=np.zeros((n, h * (dn + dr))),
    )
    x = {"x": np.eye(n), "params": params, "heads": h, "eps": 0.0}
    yield "integers_equal", "MLA-OUT", {**x, "mask": np.arange(n) // 4 == np.arange(n)[:, None] % 2}
    one = {"mask": np.arange(n) == np.array([5, 0, 3, 1, 4, 2])[:, None]}
    w_q = draw.integers(-3, 3, *params.w_q.shape).astype(np.float64)
    yield "integers_one_key", "MLA-OUT", {**x, "params": params._replace(w_q=w_q), **one}


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


def tokens_to_keep(draw: Draw, effort: str) -> Iterator[Case]:
    """What is cached: sizes of both parts, rotations, tokens of any size."""
    for name, given in turns():
        yield name, ("MLA-ROPE",), _kept(layer(draw, dr=8) | given)
    plain = _kept(layer(draw)) | DISORDER
    yield "plain", ("MLA-CACHE",), plain
    yield "rope_default", ("MLA-ROPE",), {"x": plain["x"], "params": plain["params"], **DISORDER}
    for name, sizes in {"without_rope": {"dr": 0}, "one_latent": {"r": 1}, "large": {"r": 512, "dr": 64}}.items():
        yield name, ("MLA-NORM",), _kept(layer(draw, **sizes)) | DISORDER
    yield "one_token", ("MLA-CACHE",), _kept(layer(draw, n=1)) | {"positions": np.array([1000])}
    yield "eps", ("MLA-NORM",), plain | {"eps": 0.5}
    for name, scale in (("large_tokens", 8.0), ("small_tokens", 2.0**-9), ("zeros", 0.0)):
        yield name, ("MLA-NORM",), plain | {"x": draw.round(plain["x"] * scale), "eps": 1e-5}


MULTI_HEAD_LATENT_ATTENTION = Subject(
    multi_head_latent_attention,
    random_layer,
    "MLA-OUT",
    layers,
    parts=("attention", "rms_norm", "rope"),
    whole=("cache",),
)
LATENTS_OF = Subject(latents_of, random_tokens, "MLA-CACHE", tokens_to_keep, parts=("rms_norm", "rope"))
