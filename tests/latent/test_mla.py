"""Properties of multi-head latent attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refattn
from refattn import masks
from refattn.cache import LatentKVCache
from refattn.heads import Rope
from refattn.latent import MultiHeadLatentParams, latents_of, multi_head_latent_attention

B, N, E, H, R, DR, DN, DV, RQ, OUT = 2, 7, 10, 3, 8, 4, 6, 5, 9, 11
ROPE = Rope(base=50.0)


def weights(seed, compressed=True, latent=R):
    draw = np.random.default_rng(seed)
    inner = RQ if compressed else E
    extra = (draw.normal(size=(E, RQ)), draw.normal(size=RQ)) if compressed else (None, None)
    return MultiHeadLatentParams(
        draw.normal(size=(E, latent + DR)),
        draw.normal(size=latent),
        draw.normal(size=(latent, H * (DN + DV))),
        draw.normal(size=(H * DV, OUT)),
        draw.normal(size=(inner, H * (DN + DR))) / 4,
        *extra,
    )


X = np.random.default_rng(5).normal(size=(B, N, E))
W = weights(6)


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.clause("MLA-ABSORBED", "MLA-SCALE")
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "mask", [None, masks.causal(), masks.causal() & masks.window(2, 0)], ids=["all", "causal", "window"]
)
def test_absorbed_is_explicit(library, compressed, mask):
    w = weights(7, compressed)
    options = {"heads": H, "rope": ROPE, "mask": mask}
    explicit = library.call(multi_head_latent_attention, X, w, **options)
    close(library.call(multi_head_latent_attention, X, w, absorbed=True, **options), explicit)
    assert explicit.shape == (B, N, OUT)


@pytest.mark.clause("MLA-OUT", "MLA-ROPE", "MLA-NORM", "MLA-QUERY")
@pytest.mark.parametrize("compressed", [True, False])
def test_it_is_multi_head_attention_with_unequal_heads(compressed):
    w = weights(8, compressed)
    at = np.array([3, 4, 9, 11, 12, 40, 41])
    latents, shared = latents_of(X, w, positions=at, rope=ROPE)
    close(latents, refattn.rms_norm((X @ w.w_dkv)[..., :R], w.kv_norm))
    q = X @ w.w_q if not compressed else refattn.rms_norm(X @ w.w_dq, w.q_norm) @ w.w_q
    heads = []
    for h in range(H):
        own = q[..., h * (DN + DR) : (h + 1) * (DN + DR)]
        own = np.concatenate([own[..., :DN], refattn.rope(own[..., DN:], at, base=50.0)], axis=-1)
        up = latents @ w.w_ukv[:, h * (DN + DV) : (h + 1) * (DN + DV)]
        keys = np.concatenate([up[..., :DN], shared], axis=-1)
        heads.append(refattn.attention(own, keys, up[..., DN:], masks.causal(), q_positions=at, k_positions=at))
    wanted = np.concatenate(heads, axis=-1) @ w.w_o
    got = multi_head_latent_attention(X, w, heads=H, rope=ROPE, mask=masks.causal(), positions=at)
    close(got, wanted)


@pytest.mark.clause("MLA-CACHE")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=N), st.booleans())
def test_blocks_through_the_cache_are_the_whole(sizes, absorbed):
    whole = multi_head_latent_attention(X, W, heads=H, rope=ROPE, mask=masks.causal())
    cache, start, parts = LatentKVCache(), 0, []
    for size in [*sizes, N]:
        block = X[:, start : min(start + size, N)]
        if block.shape[1]:
            parts.append(multi_head_latent_attention(block, W, heads=H, rope=ROPE, cache=cache, absorbed=absorbed))
        start = min(start + size, N)
    close(np.concatenate(parts, axis=1), whole)
    assert cache.nbytes == B * N * (R + DR) * 8
    cache.truncate(4)
    again = multi_head_latent_attention(X[:, 4:], W, heads=H, rope=ROPE, cache=cache)
    close(again, whole[:, 4:])
    cache.reorder([1, 1])
    close(
        cache.append(np.zeros((B, 0, R)), np.zeros((B, 0, DR))).latents[0],
        cache.append(np.zeros((B, 0, R)), np.zeros((B, 0, DR))).latents[1],
    )


@pytest.mark.clause("MLA-ROPE")
def test_only_differences_of_positions_matter(library):
    at = np.arange(N)
    moved = library.call(multi_head_latent_attention, X, W, heads=H, rope=ROPE, positions=at + 1000)
    close(moved, library.call(multi_head_latent_attention, X, W, heads=H, rope=ROPE, positions=at), 1e-9)


@pytest.mark.clause("MLA-NORM")
def test_the_shared_key_is_not_normalised_and_latents_do_not_feel_its_size():
    larger = W._replace(w_dkv=np.concatenate([W.w_dkv[:, :R], 2.0 * W.w_dkv[:, R:]], axis=1))
    at = np.arange(N)
    close(latents_of(X, larger, positions=at)[1], 2.0 * latents_of(X, W, positions=at)[1])
    scaled = W._replace(w_dkv=np.concatenate([3.0 * W.w_dkv[:, :R], W.w_dkv[:, R:]], axis=1))
    close(latents_of(X, scaled, positions=at, eps=0.0)[0], latents_of(X, W, positions=at, eps=0.0)[0])


def test_dtypes_and_masks_for_each_sequence(library):
    mask = np.random.default_rng(0).random((B, N, N)) < 0.6
    mask[0, 2] = False
    got = library.call(multi_head_latent_attention, X, W, heads=H, rope=ROPE, mask=mask)
    assert (got[0, 2] == 0).all()
    for b in range(B):
        close(got[b], multi_head_latent_attention(X[b], W, heads=H, rope=ROPE, mask=mask[b]))
    narrow = MultiHeadLatentParams(*(w.astype(np.float32) for w in W))
    assert library.call(multi_head_latent_attention, X.astype(np.float32), narrow, heads=H).dtype == np.float32


@pytest.mark.clause("MLA-REFUSE")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"w_dkv": W.w_dkv[:, : R - 1]}, r"kv_norm has shape \(8,\); R must be 1 to 7, the columns of w_dkv"),
        ({"w_dkv": W.w_dkv[1:]}, r"w_dkv has shape \(9, 12\); it must be \(E, R\+Dr\) with E = 10, as in x"),
        (
            {"w_ukv": W.w_ukv[1:]},
            r"w_ukv has shape \(7, 33\); it must be \(R, H·\(Dn\+Dv\)\) with R = 8, as in kv_norm",
        ),
        ({"w_q": W.w_q[:, 1:]}, "w_q has 29 columns"),
        ({"w_o": W.w_o[1:]}, "w_o has 14 rows, which must be H·Dv = 15"),
        ({"q_norm": None}, "w_dq and q_norm must be given together"),
    ],
)
def test_weights_that_do_not_agree_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        multi_head_latent_attention(X, W._replace(**change), heads=H)


BAD_MASKS = {
    "heads": (np.ones((B, 1, N, 1), dtype=bool), "mask has shape .* it is for all heads"),
    "more sequences": (np.ones((5, N, 1), dtype=bool), "mask has shape .* it is for all heads"),
    "more axes": (np.ones((5, B, N, 1), dtype=bool), "mask has shape .* it is for all heads"),
    "other keys": (np.ones((9, 9), dtype=bool), "M differs"),
    "list": ([[True]], "mask is a list"),
    "numbers": (np.ones((N, N)), "mask has dtype float64"),
    "rule's data": (
        masks.padding(np.full((5, 1, 1), 3)),
        r"mask has leading axes \(5, 2, 3\); those of x and its heads are \(2, 3\)",
    ),
}
BAD = [
    *({"mask": mask, "error": error} for mask, error in BAD_MASKS.values()),
    {"mask": masks.documents([0, 1]), "error": "ids covers positions 0 to 1"},
    {"mask": masks.Mask(lambda i, j: np.zeros((1, 1))[5], "mine"), "error": "index 5 is out of bounds"},
    {"positions": np.arange(2), "error": r"positions has shape \(2,\); it must be"},
    {"positions": np.zeros((5, N), dtype=int), "error": r"positions has shape \(5, 7\); it must be"},
    {"positions": np.array(1), "error": r"positions has shape \(\); it must be"},
    {"scale": "x", "error": "scale must be a real number"},
]


@pytest.mark.clause("MLA-REFUSE", "CACHE-MISUSE")
@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("wrong", BAD, ids=[str(n) for n in range(len(BAD))])
@pytest.mark.parametrize("held", [0, 3])
def test_a_refused_call_leaves_the_cache_as_it_was(absorbed, wrong, held):
    wrong = dict(wrong)
    error = wrong.pop("error")
    cache, untouched = LatentKVCache(), LatentKVCache()
    if held:
        for each in (cache, untouched):
            multi_head_latent_attention(X[:, :held], W, heads=H, cache=each, rope=ROPE)
    x, w = X, W
    if not held:  # the refused tokens do not fix the dtype either
        x, w = x.astype(np.float32), MultiHeadLatentParams(*(part.astype(np.float32) for part in W))
    with pytest.raises((TypeError, ValueError, IndexError), match=error):
        multi_head_latent_attention(x, w, heads=H, cache=cache, rope=ROPE, absorbed=absorbed, **wrong)
    assert (cache.length, cache.nbytes) == (untouched.length, untouched.nbytes)
    after = (multi_head_latent_attention(X, W, heads=H, cache=each, rope=ROPE) for each in (cache, untouched))
    np.testing.assert_array_equal(*after)


@pytest.mark.clause("MLA-OUT")
@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("lead", [(), (1,), (B,)])
def test_a_mask_is_for_all_heads(library, absorbed, lead):
    mask = np.random.default_rng(3).random((*lead, N, N)) < 0.6
    got = library.call(multi_head_latent_attention, X, W, heads=H, mask=mask, rope=ROPE, absorbed=absorbed)
    assert got.shape == (B, N, OUT)
    for b in range(B):
        own = np.broadcast_to(mask, (B, N, N))[b]
        close(got[b], multi_head_latent_attention(X[b], W, heads=H, mask=own, rope=ROPE, absorbed=absorbed))
