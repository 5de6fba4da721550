"""LSH attention: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp, rms_norm_vjp
from refattn.norms import rms_norm
from refattn.sparse import groups, lsh_attention, lsh_attention_vjp, lsh_buckets
from tests.derivatives import assert_derivative, weighted
from tests.sparse.test_gather import close
from tests.strategies import floats_for, rng

LENGTH = st.sampled_from([1, 2, 3, 5, 8, 13, 20])


def tokens(seed, n, lead=(2, 3), d=4, dv=3):
    return floats_for(seed, (*lead, n, d)), floats_for(seed + 1, (*lead, n, dv))


def some_buckets(seed, n, *lead, rounds=2, count=3):
    return np.random.default_rng(seed).integers(0, count, (*lead, rounds, n))


def counted(buckets, chunk, before=1, after=0):
    """How often token i meets token j in the chunks of (rounds, N) buckets, one sorted list after the other."""
    n, chunks = buckets.shape[-1], []
    found = np.zeros((n, n))
    for row in buckets:
        order = sorted(range(n), key=lambda i: (row[i], i))
        chunks += [order[start : start + chunk] for start in range(0, n, chunk)]
    for c, rows in enumerate(chunks):
        for step in range(-min(before, len(chunks)), min(after, len(chunks)) + 1):
            for i in rows:
                for j in chunks[(c + step) % len(chunks)]:
                    found[i, j] += 1
    return found


def alone_last(count, allowed=True):
    """Those that are seen, and a token itself only where it sees no other."""
    count = count * allowed
    others = count * (1 - np.eye(count.shape[-1]))
    return np.where(others.sum(axis=-1, keepdims=True) > 0, others, count)


def key_of(x, kind):
    length = np.mean(x * x, axis=-1, keepdims=True) + 1e-6 if kind == "rms" else np.sum(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(length)


@pytest.mark.clause("LSH-KEYS", "LSH-SORT", "LSH-RING", "LSH-LAST", "LSH-ROUNDS", "LSH-OWN", "LSH-NORM", "LSH-GRADIENT")
@pytest.mark.clause("LSH-CAUSAL", "LSH-MASK", "LSH-OPTIONS")
@given(
    seed=rng, n=LENGTH, chunk=st.integers(1, 7), rounds=st.integers(1, 3), before=st.integers(0, 2),
    after=st.integers(0, 2), causal=st.booleans(), kind=st.sampled_from(["rms", "l2"]),
)  # fmt: skip
def test_it_is_attention_over_a_multiset(library, seed, n, chunk, rounds, before, after, causal, kind):
    """Forward and backward, with every option, lengths that no chunk divides, data of each sequence and head."""
    (qk, v), buckets = tokens(seed, n), some_buckets(seed, n, 3, rounds=rounds)
    rule = masks.padding(np.array([[n], [max(1, n - 2)]]))
    allowed = rule.dense(n, n) & (np.tri(n, dtype=bool) | (not causal))
    count = np.stack([counted(own, chunk, before, after) for own in buckets])
    count = np.stack([alone_last(count, allowed[b]) for b in range(2)])
    options = {"softcap": 2.0, "scale": 0.7, "sinks": floats_for(seed + 2, (3,))}
    own = {"chunk": chunk, "before": before, "after": after, "causal": causal, "key_norm": kind}
    bias, more = floats_for(seed + 3, (n, n)), np.log(np.maximum(count, 1.0))
    keep = (np.random.default_rng(seed).random((3, n, n)) < 0.7, 0.25)
    got = library.call(lsh_attention, qk, v, buckets, rule, **own, **options, bias=bias, dropout=keep, return_lse=True)
    dense = {"mask": count > 0, "bias": bias + more, "dropout": keep, **options}
    close(got, attention(qk, key_of(qk, kind), v, **dense, return_lse=True))

    cotangents = {"d_out": floats_for(seed + 4, v.shape), "d_lse": np.where(got[1] == -np.inf, 0.0, 1.0)}
    found = library.call(
        lsh_attention_vjp,
        qk=qk,
        v=v,
        buckets=buckets,
        mask=rule,
        **own,
        **options,
        bias=bias,
        dropout=keep,
        **cotangents,
    )
    wanted = attention_vjp(q=qk, k=key_of(qk, kind), v=v, **dense, **cotangents)
    length, eps = (1.0, 1e-6) if kind == "rms" else (0.5, 0.0)
    through = rms_norm_vjp(length * wanted.k, qk, None, eps=eps).x
    close(
        found,
        (wanted.q + through, wanted.v, wanted.bias.sum(axis=(0, 1)), wanted.sinks, wanted.scale),
    )


@pytest.mark.clause("LSH-KEYS", "LSH-OWN", "LSH-RING")
@given(seed=rng, n=LENGTH)
def test_one_chunk_is_attention_to_all_others(seed, n):
    """And with the chunk before it, itself again, every key counts twice: the same output, lse larger by ln 2."""
    (qk, v), buckets = tokens(seed, n), some_buckets(seed, n, rounds=1)
    others = ~np.eye(n, dtype=bool) if n > 1 else np.ones((1, 1), dtype=bool)
    wanted = attention(qk, rms_norm(qk, None), v, others, return_lse=True)
    close(lsh_attention(qk, v, buckets, chunk=max(n, 3), before=0, return_lse=True), wanted)
    close(lsh_attention(qk, v, buckets, chunk=n, return_lse=True), (wanted[0], wanted[1] + np.log(2.0)))


@pytest.mark.clause("LSH-OWN", "LSH-CAUSAL")
def test_the_first_token_has_its_own_value():
    (qk, v), buckets = tokens(3, 20), some_buckets(4, 20)
    out, lse = lsh_attention(qk, v, buckets, chunk=4, causal=True, return_lse=True)
    close([out[..., 0, :]], [v[..., 0, :]])
    own = np.sum(qk[..., 0, :] * rms_norm(qk, None)[..., 0, :], axis=-1) / 2.0
    close([lse[..., 0]], [own + np.log(counted(buckets, 4)[0, 0])])


@pytest.mark.clause("LSH-ROUNDS")
def test_a_key_counts_once_more_than_there_are_rounds_at_most():
    """Beside the first chunk of a round stands one of another round, which may hold the same token."""
    most = max(counted(some_buckets(seed, 12, rounds=2), 3).max() for seed in range(40))
    assert most == 3


@pytest.mark.clause("LSH-SORT")
@given(seed=rng, n=LENGTH)
def test_only_the_order_of_buckets_counts(seed, n):
    (qk, v), buckets = tokens(seed, n), some_buckets(seed, n)
    wanted = lsh_attention(qk, v, buckets, chunk=3)
    np.testing.assert_array_equal(lsh_attention(qk, v, 7 * buckets - 9, chunk=3), wanted)


@pytest.mark.clause("LSH-KEYS", "LSH-MASK")
@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e300])
def test_a_token_that_is_not_seen_has_no_influence(poison):
    """To the last bit, with the same buckets; where the scale is no power of 2, a query that is not finite moves that bit."""
    (qk, v), buckets = tokens(5, 13), some_buckets(6, 13)
    clean = lsh_attention(qk, v, buckets, chunk=3, causal=True, return_lse=True)
    seen = alone_last(counted(buckets, 3), np.tri(13)) > 0
    for j in range(13):
        changed = [x.copy() for x in (qk, v)]
        for x in changed:
            x[..., j, :] = poison
        with np.errstate(all="ignore"):
            got = lsh_attention(*changed, buckets, chunk=3, causal=True, return_lse=True)
        others = ~seen[:, j] & (np.arange(13) != j)
        for a, b in zip(got, clean, strict=True):
            np.testing.assert_array_equal(a[:, :, others], b[:, :, others])


@pytest.mark.clause("LSH-CAUSAL", "LSH-HASH")
def test_a_later_token_has_no_weight_but_an_influence():
    """With given buckets nothing earlier changes; with those of the changed token the order does, and so do chunks."""
    (qk, v), rotations = tokens(7, 32, lead=()), np.random.default_rng(8).normal(size=(1, 4, 4))
    buckets, changed = lsh_buckets(qk, rotations), qk.copy()
    changed[-1] = -changed[-1]
    out = lsh_attention(qk, v, buckets, chunk=4, causal=True)
    np.testing.assert_array_equal(lsh_attention(changed, v, buckets, chunk=4, causal=True)[:-1], out[:-1])
    moved = lsh_attention(changed, v, lsh_buckets(changed, rotations), chunk=4, causal=True)
    assert np.any(np.abs(moved - out)[:-1] > 1e-3, axis=-1).sum() > 5


@pytest.mark.clause("LSH-HASH")
@given(seed=rng)
def test_buckets_are_those_of_directions(library, seed):
    x, rotations = floats_for(seed, (2, 9, 4)), floats_for(seed + 1, (3, 4, 5))
    buckets = library.call(lsh_buckets, x, rotations)
    assert buckets.shape == (2, 3, 9)
    np.testing.assert_array_equal(lsh_buckets(4.0 * x, rotations), buckets)
    np.testing.assert_array_equal(lsh_buckets(-x, rotations), (np.asarray(buckets) + 5) % 10)
    more = floats_for(seed + 2, (3, 4, 2))
    np.testing.assert_array_equal(lsh_buckets(x, [rotations, more]), buckets + 10 * lsh_buckets(x, more))


@pytest.mark.clause("LSH-GRADIENT")
@given(seed=rng, kind=st.sampled_from(["rms", "l2"]))
def test_gradients_are_derivatives(seed, kind):
    (qk, v), buckets = tokens(seed, 9, lead=(2,)), some_buckets(seed, 9)
    own = {"buckets": buckets, "chunk": 2, "causal": True, "key_norm": kind}
    arguments = {"qk": qk, "v": v, "bias": floats_for(seed, (9, 9)), "sinks": floats_for(seed, (2,)), "scale": 0.4}
    d_out, d_lse = floats_for(seed + 8, v.shape), floats_for(seed + 9, v.shape[:-1])
    value = lambda **x: weighted(lsh_attention(**x, **own, return_lse=True), (d_out, d_lse))
    found = lsh_attention_vjp(d_out, **arguments, **own, d_lse=d_lse)
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed, tolerance=1e-7)


@pytest.mark.clause("LSH-OPTIONS")
def test_bias_and_draws_may_be_functions_of_positions():
    (qk, v), buckets = tokens(3, 11), some_buckets(4, 11, 3)
    slopes, at = np.array([0.5, 1.0, 2.0])[:, None, None], 3 * np.arange(11)[::-1] + 20
    options = {"positions": at, "causal": True, "chunk": 3}
    got = lsh_attention(
        qk, v, buckets, **options, bias=lambda i, j: -slopes * abs(i - j), dropout=(masks.window(20, 2), 0.5)
    )
    distance = np.abs(at[:, None] - at)
    tables = {
        "bias": -slopes * distance,
        "dropout": (masks.window(20, 2).dense(11, 11, q_positions=at, k_positions=at), 0.5),
    }
    close([got], [lsh_attention(qk, v, buckets, **options, **tables)])


@pytest.mark.clause("LSH-COST")
def test_groups_in_chunks(monkeypatch):
    (qk, v), buckets = tokens(3, 29), some_buckets(4, 29, 2, 1)
    whole = lsh_attention(qk, v, buckets, chunk=4, causal=True, return_lse=True)
    d_out = floats_for(9, v.shape)
    gradients = lsh_attention_vjp(d_out, qk, v, buckets, chunk=4, causal=True)
    monkeypatch.setattr(groups, "ROOM", 1)
    close(lsh_attention(qk, v, buckets, chunk=4, causal=True, return_lse=True), whole)
    close(lsh_attention_vjp(d_out, qk, v, buckets, chunk=4, causal=True), gradients)


@pytest.mark.clause("LSH-REFUSE")
def test_errors_name_what_is_wrong():
    (qk, v), buckets = tokens(1, 7), some_buckets(2, 7)
    with pytest.raises(TypeError, match="buckets has dtype float64; it must be an integer dtype"):
        lsh_attention(qk, v, buckets.astype(float), chunk=2)
    with pytest.raises(ValueError, match=r"buckets has shape \(2, 6\), qk has 7 tokens: both must be of N tokens"):
        lsh_attention(qk, v, buckets[:, 1:], chunk=2)
    with pytest.raises(ValueError, match=r"buckets has no round; it must be \(\.\.\., rounds, N\)"):
        lsh_attention(qk, v, buckets[:0], chunk=2)
    with pytest.raises(ValueError, match="v has shape"):
        lsh_attention(qk, v[..., 1:, :], buckets, chunk=2)
    for name, least in (("chunk", 1), ("before", 0), ("after", 0)):
        with pytest.raises(ValueError, match=f"{name} is {least - 1}; it must be at least {least}"):
            lsh_attention(qk, v, buckets, **{"chunk": 2, name: least - 1})
    with pytest.raises(ValueError, match="key_norm is 'none'; it must be one of 'rms', 'l2'"):
        lsh_attention(qk, v, buckets, chunk=2, key_norm="none")
    with pytest.raises(TypeError, match=r"it must be a rule of refattn\.masks"):
        lsh_attention(qk, v, buckets, np.ones((7, 7), dtype=bool), chunk=2)
    with pytest.raises(
        ValueError, match=r"sinks has shape \(4, 2, 3\); it must broadcast to the leading axes \(2, 3\)"
    ):
        lsh_attention(qk, v, buckets, chunk=2, sinks=np.zeros((4, 2, 3)))
    with pytest.raises(ValueError, match="leading axes"):
        lsh_attention(qk, v, np.zeros((2, 2, 7), dtype=int), chunk=2)
    with pytest.raises(ValueError, match="out and lse are the results of lsh_attention"):
        lsh_attention_vjp(v, qk, v, buckets, chunk=2, out=v)
    with pytest.raises(ValueError, match=r"rotations has shape \(1, 3, 2\); it must be \(\.\.\., rounds, D=4, B / 2\)"):
        lsh_buckets(qk, np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="rotations is an empty list"):
        lsh_buckets(qk, [])
