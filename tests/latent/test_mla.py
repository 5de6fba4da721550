"""Properties of multi-head latent attention, and its cases in `check`: they accuse no kernel that is written independently
(tests/kernels/mla.py), and find mistakes that are no variants."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.cache import LatentKVCache
from refattn.heads import Rope
from refattn.latent import multi_head_latent_attention
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.layouts import cast
from refattn.testing.mechanisms.latent.mla import layer
from tests.judged import accused, away, judged
from tests.kernels.mla import kernel

B, N, H, R, DR = 2, 7, 3, 8, 4
ROPE = Rope(base=50.0)
COMPRESSED, PLAIN = (layer(Draw(Seeded(6)), b=B, n=N, e=10, h=H, r=R, dr=DR, out=11, rq=rq) for rq in (9, None))
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


FOR_ALL_HEADS, SHAPE_OF_POSITIONS = "mask has shape .* it is for all heads", r"positions has shape .*; it must be"
BAD = [
    ({"mask": np.ones((B, 1, N, 1), dtype=bool)}, FOR_ALL_HEADS),
    ({"mask": np.ones((5, N, 1), dtype=bool)}, FOR_ALL_HEADS),
    ({"mask": np.ones((5, B, N, 1), dtype=bool)}, FOR_ALL_HEADS),
    ({"mask": np.ones((9, 9), dtype=bool)}, "M differs"),
    ({"mask": np.ones((N, N))}, "mask has dtype float64"),
    (
        {"mask": masks.padding(np.full((5, 1, 1), 3))},
        r"leading axes \(5, 2, 3\); those of x and its heads are \(2, 3\)",
    ),
    ({"mask": masks.documents([0, 1])}, "ids covers positions 0 to 1"),
    ({"mask": masks.Mask(lambda i, j: np.zeros((1, 1))[5], "mine")}, "index 5 is out of bounds"),
    ({"positions": np.arange(2)}, SHAPE_OF_POSITIONS),
    ({"positions": np.zeros((5, N), dtype=int)}, SHAPE_OF_POSITIONS),
    ({"positions": np.array(1)}, SHAPE_OF_POSITIONS),
    ({"scale": "x"}, "scale must be a real number"),
]


@pytest.mark.clause("MLA-REFUSE", "CACHE-MISUSE")
@FORMS
@pytest.mark.parametrize(("wrong", "says"), BAD)
@pytest.mark.parametrize("before", [0, 3])
def test_a_refused_call_leaves_the_cache_as_it_was(absorbed, wrong, says, before):
    cache, untouched = LatentKVCache(), LatentKVCache()
    for each in (cache, untouched) if before else ():
        multi_head_latent_attention(X[:, :before], W, **OPTIONS, cache=each)
    # Of an empty cache the refused tokens do not fix the dtype either.
    x, w = (X, W) if before else cast((X, W), "float32")
    with pytest.raises((TypeError, ValueError, IndexError), match=says):
        multi_head_latent_attention(x, w, **OPTIONS, cache=cache, absorbed=absorbed, **wrong)
    assert (cache.length, cache.nbytes) == (untouched.length, untouched.nbytes)
    after = (multi_head_latent_attention(X, W, **OPTIONS, cache=each) for each in (cache, untouched))
    np.testing.assert_array_equal(*after)


# --- the cases in `check`: golden vectors take no part --------------------------------------------------------------

ATTEND, LATENTS = "latent.multi_head_latent_attention", "latent.latents_of"
LEAST = 4.0  # a mistake must be this many bounds away to count as found


@functools.cache
def first(function, precision):
    """The cases of seed 0, with bounds that are computed once for several tests."""
    return list(judged(function, precision))


@pytest.mark.clause("MLA-OUT", "MLA-ROPE", "MLA-NORM", "MLA-QUERY")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("function", [ATTEND, LATENTS])
def test_no_correct_kernel_is_accused(function, precision):
    assert accused(function, kernel(precision)[function], first(function, precision)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "explicit", "absorbed"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("function", [ATTEND, LATENTS])
def test_no_correct_kernel_is_accused_by_many_seeds(function, precision, form):
    """Whichever form the kernel takes: both are the same function, and the bound of either holds for the other."""
    for seed in range(100, 160 if form is None else 110):
        assert accused(function, kernel(precision, form)[function], judged(function, precision, seed)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16/eager", "float16/eager", "float32/eager"])
def test_a_finer_kernel_than_promised_is_not_accused(precision):
    for seed in range(3):
        call = kernel(precision.partition("/")[0])[ATTEND]
        assert accused(ATTEND, call, judged(ATTEND, precision, seed, "standard")) == {}


def of_weights(change):
    return lambda given: {"params": given["params"]._replace(**change(given["params"], given))}


def of_rope(**fields):
    return lambda given: {"rope": given["rope"]._replace(**fields)}


def square_array(mask):
    return isinstance(mask, np.ndarray) and mask.shape[-1] == mask.shape[-2]


MISTAKES = {  # that are no variants: what must be given, and what the kernel takes instead, None as if it were not given
    "the mask is ignored": ("mask", lambda given: {"mask": None}),
    "the mask is turned": (
        "mask", lambda given: {"mask": np.swapaxes(given["mask"], -1, -2)} if square_array(given["mask"]) else {}
    ),
    "the cache is ignored": ("cache", lambda given: {"cache": None, "mask": None}),
    "positions are ignored": ("positions", lambda given: {"positions": None}),
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
        "params", of_weights(lambda p, given: {"w_o": np.concatenate(np.split(p.w_o, given["heads"])[::-1])})
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cases_find_other_mistakes(precision, mistake):
    needs, change = MISTAKES[mistake]

    def wrong(**given):
        taken = given | (change(given) if given.get(needs) is not None else {})
        return kernel(precision)[ATTEND](**{name: x for name, x in taken.items() if x is not None})

    with np.errstate(all="ignore"):
        assert any(away({"out": wrong(**given)}, limits) >= LEAST for _, given, limits in first(ATTEND, precision))
