"""BigBird: what holds whatever the numbers are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.attention import attention
from refattn.gradients import attention_vjp
from refattn.sparse import bigbird_attention, bigbird_attention_vjp, bigbird_blocks, block_attention
from tests.derivatives import assert_derivative, weighted
from tests.sparse.test_window import close, qkv
from tests.strategies import floats_for, rng

length = st.integers(1, 19)
sizes = st.integers(1, 5)


def blocks_of(m, size, extra=0):
    return max(0, -(-(m - extra) // size))


def some_table(seed, *lead, blocks, most=4):
    draw = np.random.default_rng(seed)
    return draw.integers(-1, max(1, blocks), (*lead, max(0, blocks - 2), draw.integers(0, most)))


def counts(n, m, size, table, extra=0, repeats="once"):
    """How often each query has each key, written out."""
    found, last = np.zeros((*table.shape[:-2], n, m)), blocks_of(m, size, extra) - 1
    for index in np.ndindex(*table.shape[:-2], n, m):
        *lead, i, j = index
        place = m - n + i
        b, c = (place - extra) // size, (j - extra) // size
        if min(place, j) < extra or b in (0, last):
            found[index] = place >= 0
        elif place >= 0:
            named = table[(*lead, b - 1)].tolist().count(c)
            found[index] = (c in (0, last) or abs(b - c) <= 1) + named
    return np.minimum(found, 1) if repeats == "once" else found


@pytest.mark.clause(
    "BIGBIRD-KEYS", "BIGBIRD-GLOBAL", "BIGBIRD-RANDOM", "BIGBIRD-REPEATS", "BIGBIRD-EXTRA", "BIGBIRD-ALIGN",
    "BIGBIRD-MASK", "BIGBIRD-OPTIONS", "BIGBIRD-GRADIENT",
)  # fmt: skip
@pytest.mark.parametrize("repeats", ["once", "count"])
@given(seed=rng, n=length, m=length, size=sizes, extra=st.integers(0, 3), heads=st.sampled_from([(), (2,)]))
def test_it_is_attention_over_a_set_or_a_multiset(library, repeats, seed, n, m, size, extra, heads):
    q, k, v = qkv(seed, n, m)
    table = some_table(seed, *heads, blocks=blocks_of(m, size, extra))
    rule, options = masks.causal() | masks.padding(max(1, m - 2)), {"softcap": 2.0, "sinks": np.array([0.5, -1.0])}
    options |= {"dropout": (np.random.default_rng(seed).random((2, n, m)) < 0.7, 0.25)}
    bias, count = floats_for(seed, (2, n, m)), counts(n, m, size, table, extra, repeats)
    dense = {"q": q, "k": k, "v": v, "mask": rule.dense(n, m) & (count > 0), **options}
    dense |= {"bias": bias + np.log(np.maximum(count, 1.0))}
    given = {"q": q, "k": k, "v": v, "size": size, "random_blocks": table, "mask": rule, "extra": extra}
    given |= {"repeats": repeats, "bias": bias, **options}
    out, lse = library.call(bigbird_attention, **given, return_lse=True)
    close((out, lse), attention(**dense, return_lse=True))
    cotangents = {"d_out": floats_for(seed + 5, (2, n, 3)), "d_lse": floats_for(seed + 6, (2, n))}
    wanted = attention_vjp(**dense, **cotangents)
    close(library.call(bigbird_attention_vjp, **given, **cotangents), wanted)
    close(bigbird_attention_vjp(**given, **cotangents, out=out, lse=lse), wanted)


@pytest.mark.clause("BIGBIRD-KEYS")
def test_the_blocks_of_six_as_the_code_has_them():
    none = np.full((4, 1), -1)
    found = bigbird_attention(np.zeros((6, 2)), np.zeros((6, 2)), np.eye(6), 1, none)
    rows = [np.flatnonzero(row).tolist() for row in found]
    assert rows == [[*range(6)], [0, 1, 2, 5], [0, 1, 2, 3, 5], [0, 2, 3, 4, 5], [0, 3, 4, 5], [*range(6)]]


@pytest.mark.clause("BIGBIRD-REPEATS")
def test_a_table_of_zeros_is_the_first_block_four_times():
    """What transformers computes in evaluation: three random blocks that are all block 0."""
    x = np.zeros((6, 2))
    found = bigbird_attention(x, x, np.eye(6), 1, np.zeros((4, 3), dtype=int), repeats="count")
    np.testing.assert_allclose(found[2], np.array([4, 1, 1, 1, 0, 1]) / 8)


@pytest.mark.clause("BIGBIRD-KEYS", "BIGBIRD-RANDOM")
@given(seed=rng, n=length, size=sizes)
def test_with_all_blocks_in_the_table_it_is_attention_and_as_a_layout_it_is_block_sparse(seed, n, size):
    q, k, v = qkv(seed, n, n)
    blocks = blocks_of(n, size)
    every = np.broadcast_to(np.arange(blocks), (max(0, blocks - 2), blocks))
    close([bigbird_attention(q, k, v, size, every)], [attention(q, k, v)])
    table = some_table(seed, blocks=blocks)
    layout = counts(blocks, blocks, 1, table) > 0
    close([bigbird_attention(q, k, v, size, table)], [block_attention(q, k, v, layout, size)])


@pytest.mark.clause("BIGBIRD-GRADIENT")
@given(seed=rng)
def test_gradients_are_derivatives(seed):
    q, (_, k, v) = floats_for(seed, (4, 6, 4)), qkv(seed + 1, 6, 8)
    arguments = {"q": q, "k": k, "v": v, "bias": floats_for(seed, (6, 8)), "sinks": floats_for(seed + 2, (4,))}
    fixed = {"size": 1, "extra": 1, "repeats": "count"}
    fixed |= {"random_blocks": some_table(seed, 4, blocks=7)}
    cotangents = floats_for(seed + 8, (4, 6, 3)), floats_for(seed + 9, (4, 6))
    value = lambda **x: weighted(bigbird_attention(**x, **fixed, return_lse=True), cotangents)
    found = bigbird_attention_vjp(cotangents[0], **arguments, **fixed, d_lse=cotangents[1])
    assert_derivative(value, arguments, {name: getattr(found, name) for name in arguments}, seed)


@pytest.mark.clause("BIGBIRD-KEYS", "BIGBIRD-RANDOM")
def test_another_table_changes_only_queries_of_middle_blocks(library):
    q, k, v = qkv(3, 20, 20)
    none, one = np.full((8, 1), -1), np.full((8, 1), -1)
    one[3] = 8
    a, b = (library.call(bigbird_attention, q, k, v, 2, table) for table in (none, one))
    changed = np.any(abs(a - b) > 1e-9, axis=(0, 2))
    assert np.flatnonzero(changed).tolist() == [8, 9]


@pytest.mark.clause("BIGBIRD-MASK")
def test_under_causality_nothing_that_follows_is_seen(library):
    q, k, v = qkv(3, 12, 12)
    table = some_table(1, blocks=6)
    clean = library.call(bigbird_attention, q, k, v, 2, table, masks.causal())
    for x in (q, k, v):
        x[:, 7:] = np.nan
    got = library.call(bigbird_attention, q, k, v, 2, table, masks.causal())
    np.testing.assert_array_equal(got[:, :7], clean[:, :7])


@pytest.mark.clause("BIGBIRD-RANDOM", "BIGBIRD-REPEATS")
@given(seed=rng, blocks=st.integers(0, 12), count=st.integers(0, 5), lead=st.sampled_from([(), (2,), (2, 3)]))
def test_drawn_tables_have_no_block_twice(seed, blocks, count, lead):
    table = bigbird_blocks(np.random.default_rng(seed), blocks, count, lead)
    assert table.shape == (*lead, max(0, blocks - 2), count)
    assert np.all(counts(blocks, blocks, 1, table, repeats="count") <= 1)
    for b in range(1, blocks - 1):
        free = sum(0 < c < blocks - 1 and abs(b - c) > 1 for c in range(blocks))
        assert np.all((table[..., b - 1, :] >= 0).sum(axis=-1) == min(free, count))


@pytest.mark.clause("BIGBIRD-COST")
def test_the_table_is_as_large_as_it_is_said():
    """Nothing of R rows and R columns: a hundred thousand blocks, of which the queries are in the last few."""
    q, (_, k, v) = floats_for(0, (3, 4)), qkv(1, 1, 100_000, lead=())
    table = np.full((99_998, 1), 7)
    got = bigbird_attention(q, k, v, 1, table)
    keys = [0, 7, 99_996, 99_997, 99_998, 99_999]
    close([got[0]], [attention(q[:1], k[keys], v[keys])[0]])


@pytest.mark.clause("BIGBIRD-REFUSE")
def test_errors_name_what_is_wrong():
    q, k, v = qkv(1, 3, 7)
    table = np.zeros((2, 1), dtype=int)
    with pytest.raises(
        ValueError, match="random_blocks has 3 rows; 7 keys, 0 of them extra, are 4 blocks of 2: it must"
    ):
        bigbird_attention(q, k, v, 2, np.zeros((3, 1), dtype=int))
    for wrong in (4, -2):
        with pytest.raises(ValueError, match=r"they must be blocks, 0 to 3, or -1 for none"):
            bigbird_attention(q, k, v, 2, table + wrong)
    with pytest.raises(TypeError, match="random_blocks has dtype float64; it must be an integer dtype"):
        bigbird_attention(q, k, v, 2, np.zeros((2, 1)))
    with pytest.raises(ValueError, match="leading axes"):
        bigbird_attention(q, k, v, 2, np.zeros((3, 2, 1), dtype=int))
    with pytest.raises(ValueError, match=r"random_blocks has leading axes \(3, 1\); they must broadcast to those of q"):
        bigbird_attention(q, k, v, 2, np.zeros((3, 1, 2, 1), dtype=int))
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        bigbird_attention(q, k, v, 0, table)
    with pytest.raises(ValueError, match="repeats is 'refuse'; it must be one of 'once', 'count'"):
        bigbird_attention(q, k, v, 2, table, repeats="refuse")
    with pytest.raises(TypeError, match=r"mask is an array \(7,\) of bool; it must be a rule"):
        bigbird_attention(q, k, v, 2, table, np.ones(7, dtype=bool))
