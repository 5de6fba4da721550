"""Properties of multi-head latent attention, and its cases in `check`: they accuse no kernel that is written independently
(tests/kernels/mla.py), and find mistakes that are no variants."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refattn
from refattn import masks
from refattn.cache import LatentKVCache
from refattn.heads import Rope
from refattn.latent import latents_of, multi_head_latent_attention
from refattn.testing.bounds import bound
from refattn.testing.distances import distance
from refattn.testing.inputs import Draw, Seeded, cases
from refattn.testing.layouts import cast
from refattn.testing.mechanisms.latent.mla import held, layer
from refattn.testing.profiles import profile
from refattn.testing.vectors import results
from tests.kernels.mla import kernel, turned

B, N, H, R, DR, DN, DV = 2, 7, 3, 8, 4, 6, 5
ROPE = Rope(base=50.0)
OF_LAYER = {"b": B, "n": N, "e": 10, "h": H, "r": R, "dr": DR, "dn": DN, "dv": DV, "out": 11}
COMPRESSED, PLAIN = (layer(Draw(Seeded(6)), **OF_LAYER, rq=rq) for rq in (9, None))
X, W = COMPRESSED["x"], COMPRESSED["params"]
OPTIONS = {"heads": H, "rope": ROPE}
WEIGHTS = pytest.mark.parametrize("w", [W, PLAIN["params"]], ids=["compressed", "plain"])
FORMS = pytest.mark.parametrize("absorbed", [False, True], ids=["explicit", "absorbed"])


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.clause("MLA-ABSORBED", "MLA-SCALE")
@WEIGHTS
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.causal() & masks.window(2, 0)], ids=str)
def test_absorbed_is_explicit(library, w, mask):
    explicit, absorbed = (
        library.call(multi_head_latent_attention, X, w, **OPTIONS, mask=mask, absorbed=form) for form in (False, True)
    )
    close(absorbed, explicit)


@pytest.mark.clause("MLA-OUT", "MLA-ROPE", "MLA-NORM", "MLA-QUERY")
@WEIGHTS
def test_it_is_multi_head_attention_with_unequal_heads(w):
    at = np.array([3, 4, 9, 11, 12, 40, 41])
    latents, shared = latents_of(X, w, positions=at, rope=ROPE)
    q = X @ w.w_q if w.w_dq is None else refattn.rms_norm(X @ w.w_dq, w.q_norm) @ w.w_q
    heads = []
    for h in range(H):
        own = q[..., h * (DN + DR) : (h + 1) * (DN + DR)]
        own = np.concatenate([own[..., :DN], ROPE(own[..., DN:], at)], axis=-1)
        up = latents @ w.w_ukv[:, h * (DN + DV) : (h + 1) * (DN + DV)]
        keys = np.concatenate([up[..., :DN], shared], axis=-1)
        heads.append(refattn.attention(own, keys, up[..., DN:], masks.causal()))
    got = multi_head_latent_attention(X, w, **OPTIONS, mask=masks.causal(), positions=at)
    close(got, np.concatenate(heads, axis=-1) @ w.w_o)


@pytest.mark.clause("MLA-CACHE")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=N), st.booleans())
def test_blocks_through_the_cache_are_the_whole(sizes, absorbed):
    whole = multi_head_latent_attention(X, W, **OPTIONS, mask=masks.causal())
    ends = [end for end in np.cumsum(sizes) if end < N]
    cache, parts = LatentKVCache(), []
    for block in np.split(X, ends, axis=1):
        parts.append(multi_head_latent_attention(block, W, **OPTIONS, cache=cache, absorbed=absorbed))
    close(np.concatenate(parts, axis=1), whole)
    assert cache.nbytes == B * N * (R + DR) * 8
    cache.truncate(4)
    close(multi_head_latent_attention(X[:, 4:], W, **OPTIONS, cache=cache), whole[:, 4:])
    cache.reorder([1, 1])
    close(*cache.append(np.zeros((B, 0, R)), np.zeros((B, 0, DR))).latents)


@pytest.mark.clause("MLA-CACHE")
def test_held_latents_are_as_a_cache_gives_them():
    """Appending to the snapshot is appending to a cache that got the same before, and the snapshot stays as it was."""
    draw, cache = Draw(Seeded(0)), LatentKVCache()
    before, new = held(draw, 5, COMPRESSED), held(draw, 3, COMPRESSED)
    cache.append(*before)
    assert (cache.length, str(cache.mask)) == (before.length, str(before.mask))
    for _ in range(2):
        for mine, theirs in zip(before.append(*new), cache.append(*new), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        cache.truncate(5)
    assert before.length == 5


@pytest.mark.clause("MLA-ROPE")
def test_only_differences_of_positions_matter(library):
    near, far = (
        library.call(multi_head_latent_attention, X, W, **OPTIONS, positions=start + np.arange(N))
        for start in (0, 1000)
    )
    close(near, far, 1e-9)


@pytest.mark.clause("MLA-NORM")
def test_the_shared_key_is_not_normalised_and_latents_do_not_feel_their_size():
    scaled = W._replace(w_dkv=W.w_dkv * np.where(np.arange(R + DR) < R, 3.0, 2.0))
    (c, k), (scaled_c, scaled_k) = (latents_of(X, w, positions=np.arange(N), eps=0.0) for w in (W, scaled))
    close(scaled_c, c)
    close(scaled_k, 2.0 * k)


@pytest.mark.clause("MLA-OUT")
@FORMS
@pytest.mark.parametrize("lead", [(), (1,), (B,)])
def test_a_mask_is_for_all_heads(library, absorbed, lead):
    mask = np.random.default_rng(3).random((*lead, N, N)) < 0.6
    mask[..., 2, :] = False
    got = library.call(multi_head_latent_attention, X, W, **OPTIONS, mask=mask, absorbed=absorbed)
    assert (got[:, 2] == 0).all()
    for b, own in enumerate(np.broadcast_to(mask, (B, N, N))):
        close(got[b], multi_head_latent_attention(X[b], W, **OPTIONS, mask=own, absorbed=absorbed))


BAD_WEIGHTS = [
    ({"w_dkv": W.w_dkv[:, : R - 1]}, r"kv_norm has shape \(8,\); R must be 1 to 7, the columns of w_dkv"),
    ({"w_dkv": W.w_dkv[1:]}, r"w_dkv has shape \(9, 12\); it must be \(E, R\+Dr\) with E = 10, as in x"),
    ({"w_ukv": W.w_ukv[1:]}, r"w_ukv has shape \(7, 33\); it must be \(R, H·\(Dn\+Dv\)\) with R = 8, as in kv_norm"),
    ({"w_q": W.w_q[:, 1:]}, "w_q has 29 columns"),
    ({"w_o": W.w_o[1:]}, "w_o has 14 rows, which must be H·Dv = 15"),
    ({"w_o": W.w_o[0]}, r"w_o has shape \(11,\); it must be \(H·Dv, E_out\)"),
    ({"q_norm": None}, "w_dq and q_norm must be given together"),
]


@pytest.mark.clause("MLA-REFUSE")
@pytest.mark.parametrize(("change", "says"), BAD_WEIGHTS)
def test_weights_that_do_not_agree_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        multi_head_latent_attention(X, W._replace(**change), heads=H)


BAD = {
    "mask has shape .* it is for all heads": [
        {"mask": np.ones(shape, dtype=bool)} for shape in ((B, 1, N, 1), (5, N, 1), (5, B, N, 1))
    ],
    "M differs": [{"mask": np.ones((9, 9), dtype=bool)}],
    "mask is a list": [{"mask": [[True]]}],
    "mask has dtype float64": [{"mask": np.ones((N, N))}],
    r"mask has leading axes \(5, 2, 3\); those of x and its heads are \(2, 3\)": [
        {"mask": masks.padding(np.full((5, 1, 1), 3))}
    ],
    "ids covers positions 0 to 1": [{"mask": masks.documents([0, 1])}],
    "index 5 is out of bounds": [{"mask": masks.Mask(lambda i, j: np.zeros((1, 1))[5], "mine")}],
    r"positions has shape .*; it must be": [
        {"positions": x} for x in (np.arange(2), np.zeros((5, N), dtype=int), np.array(1))
    ],
    "scale must be a real number": [{"scale": "x"}],
}


@pytest.mark.clause("MLA-REFUSE", "CACHE-MISUSE")
@FORMS
@pytest.mark.parametrize(("error", "wrong"), [(error, wrong) for error, all_of in BAD.items() for wrong in all_of])
@pytest.mark.parametrize("before", [0, 3])
def test_a_refused_call_leaves_the_cache_as_it_was(absorbed, error, wrong, before):
    cache, untouched = LatentKVCache(), LatentKVCache()
    for each in (cache, untouched) if before else ():
        multi_head_latent_attention(X[:, :before], W, **OPTIONS, cache=each)
    # Of an empty cache the refused tokens do not fix the dtype either.
    x, w = (X, W) if before else cast((X, W), "float32")
    with pytest.raises((TypeError, ValueError, IndexError), match=error):
        multi_head_latent_attention(x, w, **OPTIONS, cache=cache, absorbed=absorbed, **wrong)
    assert (cache.length, cache.nbytes) == (untouched.length, untouched.nbytes)
    after = (multi_head_latent_attention(X, W, **OPTIONS, cache=each) for each in (cache, untouched))
    np.testing.assert_array_equal(*after)


# --- the cases in `check`: golden vectors take no part --------------------------------------------------------------

ATTEND, LATENTS = "latent.multi_head_latent_attention", "latent.latents_of"
LEAST = 4.0  # a mistake must be this many bounds away to count as found


@functools.lru_cache(4)
def bounded(function, precision, seed=0, effort="smoke"):
    """Every case as a kernel gets it, with its bounds."""
    chosen = profile(precision)
    with np.errstate(all="ignore"):
        return [
            (name, cast(arguments, chosen.out.name), bound(function, chosen, **arguments))
            for name, _, arguments in cases(function, fmt=chosen.out.name, effort=effort, seed=seed)
        ]


def away(function, call, arguments, limits):
    """How far a kernel is from the reference, in bounds; infinitely where a shape differs."""
    with np.errstate(all="ignore"):
        got = results(function, call(**arguments))
    pairs = [(np.asarray(got[name], dtype=float), limit) for name, limit in limits.items()]
    if any(x.shape != limit.value.shape for x, limit in pairs):
        return np.inf
    return max(distance(x, limit.value, np.broadcast_to(limit.hard, x.shape)) for x, limit in pairs)


def not_accused(function, precision, seed=0, effort="smoke", form=None):
    call = kernel(profile(precision).out.name, form)[function]
    far = {name: away(function, call, *case) for name, *case in bounded(function, precision, seed, effort)}
    assert {name: share for name, share in far.items() if not share <= 1} == {}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", [ATTEND, LATENTS])
def test_no_correct_kernel_is_accused(function, precision):
    not_accused(function, precision)


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "explicit", "absorbed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("function", [ATTEND, LATENTS])
def test_no_correct_kernel_is_accused_by_many_seeds(function, precision, form):
    """Whichever form the kernel takes: both are the same function, and the bound of either holds for the other."""
    for seed in range(100, 160 if form is None else 110):
        not_accused(function, precision, seed, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16/eager", "float16/eager", "float32/eager"])
def test_a_finer_kernel_than_promised_is_not_accused(precision):
    for seed in range(3):
        not_accused(ATTEND, precision, seed, "standard")


def of_weights(change):
    return lambda given: {"params": given["params"]._replace(**change(given["params"], given))}


def of_rope(**fields):
    return lambda given: {"rope": given["rope"]._replace(**fields)}


def of_cache(change):
    return lambda given: {"cache": given["cache"]._replace(**change(given["cache"], given))}


def normed_again(cache, given):
    c = cache.latents / np.sqrt(np.mean(cache.latents**2, axis=-1, keepdims=True) + given.get("eps", 1e-6))
    return {"latents": (c * given["params"].kv_norm).astype(c.dtype)}


def square_array(mask):
    return isinstance(mask, np.ndarray) and mask.shape[-1] == mask.shape[-2]


MISTAKES = {  # what was there when it is made, and what the kernel takes instead; None: as if it had not been given
    "the mask is ignored": ("mask", lambda given: {"mask": None}),
    "the mask is turned": (
        "mask", lambda given: {"mask": np.swapaxes(given["mask"], -1, -2)} if square_array(given["mask"]) else {}
    ),
    "the cache is ignored": ("cache", lambda given: {"cache": None, "mask": None}),
    "positions are ignored": ("positions", lambda given: {"positions": None}),
    "positions start at 0 behind a cache": ("cache", lambda given: {"positions": np.arange(given["x"].shape[-2])}),
    "cached latents are normed again": ("cache", of_cache(normed_again)),
    "cached keys are rotated again": (
        "cache", of_cache(lambda cache, given: {"rope_keys": turned(cache.rope_keys, np.arange(cache.length), given["rope"])})
    ),
    "eps is ignored": ("eps", lambda given: {"eps": None}),
    "the rotation's options are ignored": ("rope", lambda given: {"rope": None}),
    "scaling of the rotation is ignored": ("rope", of_rope(scaling=None)),
    "part of the key is to turn, all does": ("rope", of_rope(rotary_dim=None)),
    "the absorbed form has a scale of its own": (
        "absorbed",
        lambda given: {"scale": given["params"].w_dkv.shape[1] ** -0.5} if given["absorbed"] and "scale" not in given else {},
    ),
    "the latents' gain is left out": ("params", of_weights(lambda p, given: {"kv_norm": np.ones_like(p.kv_norm)})),
    "the queries' gain is left out": (
        "params", of_weights(lambda p, given: {} if p.q_norm is None else {"q_norm": np.ones_like(p.q_norm)})
    ),
    "the features of the shared key are shifted": (
        "params",
        of_weights(lambda p, given: {"w_dkv": np.concatenate(
            [p.w_dkv[:, : len(p.kv_norm)], np.roll(p.w_dkv[:, len(p.kv_norm) :], 1, axis=1)], axis=1)}),
    ),
    "heads come out in reverse": (
        "params",
        of_weights(lambda p, given: {"w_o": np.concatenate(np.split(p.w_o, given["heads"])[::-1])}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cases_find_other_mistakes(precision, mistake):
    needs, change = MISTAKES[mistake]

    def wrong(**given):
        taken = given | (change(given) if given.get(needs) is not None else {})
        return kernel(precision)[ATTEND](**{name: x for name, x in taken.items() if x is not None})

    assert any(away(ATTEND, wrong, *case) >= LEAST for _, *case in bounded(ATTEND, precision))
