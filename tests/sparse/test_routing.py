"""Routing attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import routing_attention, routing_attention_vjp, routing_members
from tests.derivatives import assert_derivative
from tests.sparse.test_gather import close, qkv
from tests.strategies import floats_for, rng

LENGTH = st.sampled_from([1, 2, 3, 5, 8, 13])


def some_clusters(seed, n, *lead, clusters=3, width=4):
    """Tokens in any order, each once in a cluster, with empty places."""
    draw = np.random.default_rng(seed)
    order = np.argsort(draw.random((*lead, clusters, n)), axis=-1)[..., :width]
    return np.where(draw.random(order.shape) < 0.8, order, -1)


def held(members, n):
    return np.any(members[..., None] == np.arange(n), axis=-2)  # (..., C, N)


@pytest.mark.clause(
    "ROUTING-KEYS", "ROUTING-MEAN", "ROUTING-NONE", "ROUTING-MASK", "ROUTING-OPTIONS", "ROUTING-GRADIENT"
)
@given(seed=rng, n=LENGTH, heads=st.sampled_from([(), (3,), (2, 3)]), causal=st.booleans())
def test_it_is_the_mean_of_attention_in_each_cluster(library, seed, n, heads, causal):
    """Forward and backward, with every option, clusters of each head and sequence."""
    (q, k, v), members = qkv(seed, n, n), some_clusters(seed, n, *heads)
    rule = masks.padding(np.array([[n], [max(1, n - 2)]])) & (masks.causal() if causal else masks.everything())
    options = {"softcap": 2.0, "scale": -0.4, "sinks": floats_for(seed + 5, (3,)), "bias": floats_for(seed, (n, n))}
    options["dropout"] = (np.random.default_rng(seed).random((3, n, n)) < 0.7, 0.25)
    there = held(members, n)
    often = there.sum(axis=-2)[..., None]
    d_out, wanted, sums = floats_for(seed + 9, v.shape), 0.0, None
    for c in range(members.shape[-2]):
        allowed = rule.dense(n, n) & there[..., c, :, None] & there[..., c, None, :]
        wanted = wanted + attention(q, k, v, allowed, **options)
        found = attention_vjp(d_out / np.maximum(often, 1), q, k, v, allowed, **options)
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    got = library.call(routing_attention, q, k, v, members, rule, **options)
    close([got], [wanted / np.maximum(often, 1)])
    assert np.all(np.where(often == 0, np.asarray(got), 0.0) == 0)
    close(library.call(routing_attention_vjp, d_out=d_out, q=q, k=k, v=v, members=members, mask=rule, **options), sums)


@pytest.mark.clause("ROUTING-KEYS")
@given(seed=rng, n=LENGTH)
def test_clusters_that_do_not_overlap_are_a_mask(seed, n):
    """One cluster of all tokens is attention; the order in a cluster makes no difference."""
    q, k, v = qkv(seed, n, n)
    order = np.random.default_rng(seed).permutation(n)[None]
    close([routing_attention(q, k, v, order)], [attention(q, k, v)])
    of_each = np.random.default_rng(seed).integers(0, 3, n)
    members = np.stack([np.where(of_each == c, np.arange(n), -1) for c in range(3)])
    close([routing_attention(q, k, v, members)], [attention(q, k, v, of_each[:, None] == of_each)])
    close([routing_attention(q, k, v, members[:, ::-1])], [routing_attention(q, k, v, members)])


@pytest.mark.clause("ROUTING-KEYS")
@given(seed=rng)
def test_query_heads_may_share_keys(library, seed):
    q, (_, k, v) = floats_for(seed, (2, 4, 7, 4)), qkv(seed + 1, 7, 7, lead=(2, 2))
    members = some_clusters(seed, 7, 4)
    got = library.call(routing_attention, q, k, v, members)
    for h in range(4):
        close([got[:, h]], [routing_attention(q[:, h], k[:, h // 2], v[:, h // 2], members[h])])


@pytest.mark.clause("ROUTING-KEYS", "ROUTING-NONE")
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300])
def test_a_token_in_no_common_cluster_has_no_influence(poison):
    """To the last bit."""
    (q, k, v), members = qkv(5, 11, 11), some_clusters(6, 11)
    there, clean = held(members, 11), routing_attention(q, k, v, members)
    together = np.any(there[:, :, None] & there[:, None, :], axis=0)
    for j in range(11):
        changed = [x.copy() for x in (k, v)]
        for x in changed:
            x[..., j, :] = poison
        with np.errstate(all="ignore"):
            got = routing_attention(q, *changed, members)
        np.testing.assert_array_equal(got[..., ~together[:, j], :], clean[..., ~together[:, j], :])


@pytest.mark.clause("ROUTING-MASK", "ROUTING-MEMBERS")
def test_a_later_token_has_no_weight_but_an_influence():
    """With given members nothing earlier changes; with those chosen among all tokens earlier ones do."""
    x, centroids = floats_for(1, (16, 4)), floats_for(2, (3, 4))
    changed, rule = x.copy(), masks.causal()
    changed[-1] = 9.0 * centroids[0]
    members = routing_members(x, centroids, 5)
    out = routing_attention(x, x, x, members, rule)
    np.testing.assert_array_equal(routing_attention(x, changed, changed, members, rule)[:-1], out[:-1])
    moved = routing_attention(x, x, x, routing_members(changed, centroids, 5), rule)
    assert np.any(np.abs(moved - out)[:-1] > 1e-3)


@pytest.mark.clause("ROUTING-MEMBERS")
@given(seed=rng, width=st.integers(1, 12))
def test_members_are_the_nearest(library, seed, width):
    x, centroids = floats_for(seed, (2, 9, 4)), floats_for(seed + 1, (3, 4))
    got = np.asarray(library.call(routing_members, x, centroids, width))
    products = centroids @ np.swapaxes(x, -1, -2)
    assert got.shape == (2, 3, min(width, 9))
    least = np.take_along_axis(products, got, axis=-1).min(axis=-1)
    others = np.where(held(got[..., None, :], 9)[..., 0, :], -np.inf, products)
    assert np.all(others.max(axis=-1) <= least)
    assert np.all(np.diff(got, axis=-1) > 0)


@pytest.mark.clause("ROUTING-GRADIENT", "ROUTING-COST")
@given(seed=rng)
def test_gradients_are_derivatives(seed):
    q, k, v = qkv(seed, 7, 7, lead=(4,))
    arguments = {"q": q, "k": k[::2], "v": v[::2], "bias": floats_for(seed, (7, 7)), "sinks": floats_for(seed, (4,))}
    members, d_out = some_clusters(seed, 7, 4), floats_for(seed + 8, (4, 7, 3))
    value = lambda **x: np.sum(d_out * routing_attention(**x, members=members))
    found = routing_attention_vjp(d_out, **arguments, members=members)
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed)


@pytest.mark.clause("ROUTING-REFUSE")
def test_errors_name_what_is_wrong():
    (q, k, v), members = qkv(1, 7, 7), some_clusters(2, 7)
    with pytest.raises(ValueError, match="members name a token twice in one cluster"):
        routing_attention(q, k, v, np.array([[1, 2, 1]]))
    for wrong in (7, -2):
        with pytest.raises(ValueError, match="they must be tokens, 0 to 6, or -1"):
            routing_attention(q, k, v, np.array([[1, wrong]]))
    with pytest.raises(TypeError, match="members has dtype float64; it must be an integer dtype"):
        routing_attention(q, k, v, members.astype(float))
    with pytest.raises(ValueError, match="k has 6 tokens, q has 7: clusters are of the same tokens"):
        routing_attention(q, k[..., 1:, :], v, members)
    with pytest.raises(ValueError, match="leading axes"):
        routing_attention(q, k, v, np.zeros((4, 2, 1), dtype=int))
    with pytest.raises(TypeError, match=r"it must be a rule of refattn\.masks"):
        routing_attention(q, k, v, members, np.ones((7, 7), dtype=bool))
    with pytest.raises(ValueError, match="d_out has shape"):
        routing_attention_vjp(v[..., 1:, :], q, k, v, members)
    with pytest.raises(ValueError, match="centroids has D = 3, x has 4"):
        routing_members(q, np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match="width is 0; it must be at least 1"):
        routing_members(q, np.zeros((2, 4)), 0)
