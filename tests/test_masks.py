"""Properties of masks: each rule against sets of keys written out, and what holds for every rule."""

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import masks
from refattn.masks import Mask
from spec.masks import definition
from tests.strategies import rng


def dense(library, mask, n, m, **options):
    """The dense form by way of `library`; positions are moved there, and without any the result is asked for there."""
    options.setdefault("like", np.zeros(1))
    function = lambda mask, **options: mask.dense(n, m, **options)
    result = library.call(function, mask, **options)
    assert result.dtype == bool
    return result


def rows(mask, n, m, **options):
    """The keys of each query, as a list of lists."""
    return [np.flatnonzero(row).tolist() for row in mask.dense(n, m, **options)]


def table(*lines):
    return np.array([[cell == "1" for cell in line] for line in lines])


# --- every rule by hand ---------------------------------------------------------------------------------------------

BY_HAND = [
    pytest.param(masks.causal(), ["11110", "11111"], marks=pytest.mark.clause("MASK-CAUSAL", "MASK-ALIGN"), id="causal"),
    pytest.param(
        masks.causal(), ["00", "00", "00", "10", "11"],
        marks=pytest.mark.clause("MASK-ALIGN", "MASK-EMPTY"), id="causal, more queries than keys",
    ),
    pytest.param(masks.window(1, 2), ["11100", "11110", "01111", "00111", "00011"], marks=pytest.mark.clause("MASK-WINDOW"), id="window"),
    pytest.param(masks.window(None, 0), ["100", "110", "111"], marks=pytest.mark.clause("MASK-WINDOW"), id="open window"),
    pytest.param(
        masks.dilated(2, 1, 2), ["1010000", "0101000", "1010100", "0101010", "1010101", "0101010", "0010101"],
        marks=pytest.mark.clause("MASK-DILATED"), id="dilated",
    ),
    pytest.param(
        masks.dilated(None, 0, 3), ["10010", "01001"],
        marks=pytest.mark.clause("MASK-DILATED"), id="dilated without a bound",
    ),
    pytest.param(
        masks.block(3), ["000", "000", "111", "111", "111"],
        marks=pytest.mark.clause("MASK-BLOCK", "MASK-EMPTY"), id="block below position 0",
    ),
    pytest.param(masks.block(2), ["11000", "11000", "00110", "00110", "00001"], marks=pytest.mark.clause("MASK-BLOCK"), id="block"),
    pytest.param(
        masks.neighbours(2), ["1111000", "1111000", "1111110", "1111110", "0011111", "0011111", "0000111"],
        marks=pytest.mark.clause("MASK-NEIGHBOURS"), id="neighbours",
    ),
    pytest.param(
        masks.neighbours(1, 0, 2), ["1110", "0111", "0011", "0001"],
        marks=pytest.mark.clause("MASK-NEIGHBOURS"), id="neighbours after",
    ),
    pytest.param(
        masks.chunked(3), ["1000000", "1100000", "1110000", "0001000", "0001100", "0001110", "0000001"],
        marks=pytest.mark.clause("MASK-CHUNKED"), id="chunked",
    ),
    pytest.param(
        masks.strided(3), ["00111100", "10011110", "01001111"],
        marks=pytest.mark.clause("MASK-STRIDED"), id="strided",
    ),
    pytest.param(
        masks.fixed(3, 2), ["01111100", "01101110", "01101111"],
        marks=pytest.mark.clause("MASK-FIXED"), id="fixed",
    ),
    pytest.param(
        masks.global_tokens([3, 1]), ["0101", "1111", "0101", "1111"],
        marks=pytest.mark.clause("MASK-GLOBAL"), id="global tokens",
    ),
    pytest.param(masks.global_tokens([]), ["00", "00"], marks=pytest.mark.clause("MASK-GLOBAL"), id="no global tokens"),
    pytest.param(masks.prefix(2), ["1100", "1100", "1110", "1111"], marks=pytest.mark.clause("MASK-PREFIX"), id="prefix"),
    pytest.param(masks.padding(2), ["1100", "1100"], marks=pytest.mark.clause("MASK-PADDING"), id="padding"),
    pytest.param(masks.padding(2, 1), ["0110"], marks=pytest.mark.clause("MASK-PADDING"), id="padding on the left"),
    pytest.param(
        masks.documents([5, 5, -1, 5]), ["1101", "0010", "1101"],
        marks=pytest.mark.clause("MASK-DOCUMENTS"), id="documents",
    ),
    pytest.param(
        masks.documents([1, 2], [2, 2, 1]), ["001", "110"],
        marks=pytest.mark.clause("MASK-DOCUMENTS"), id="documents of another sequence",
    ),
    pytest.param(
        masks.tree([-1, 0, 0, 1, 2], 1), ["100000", "110000", "111000", "110100", "111010", "110101"],
        marks=pytest.mark.clause("MASK-TREE"), id="tree",
    ),
    pytest.param(masks.tree([], 2), ["10", "11"], marks=pytest.mark.clause("MASK-TREE"), id="tree without nodes"),
    pytest.param(masks.everything(), ["111", "111"], marks=pytest.mark.clause("MASK-ALGEBRA"), id="everything"),
]  # fmt: skip

POSITIONS = {"documents of another sequence": {"q_positions": np.array([0, 1])}}


@pytest.mark.clause("MASK-POLARITY")
@pytest.mark.parametrize(("mask", "lines"), BY_HAND)
def test_by_hand(library, mask, lines, request):
    want = table(*lines)
    positions = next((p for name, p in POSITIONS.items() if name in request.node.callspec.id), {})
    np.testing.assert_array_equal(dense(library, mask, *want.shape, **positions), want)


@pytest.mark.clause("MASK-WINDOW", "MASK-CHUNKED", "MASK-NEIGHBOURS", "MASK-FIXED", "MASK-ALIGN")
def test_golden_constants():
    """Row sizes and rows that were observed in public implementations."""
    count = lambda mask: mask.dense(7, 7).sum(axis=-1).tolist()
    assert count(masks.window(2, 0)) == [1, 2, 3, 3, 3, 3, 3]
    assert count(masks.window(3, 3)) == [4, 5, 6, 7, 6, 5, 4]
    assert count(masks.window(2, 2)) == [3, 4, 5, 5, 5, 4, 3]
    assert count(masks.chunked(3)) == [1, 2, 3, 1, 2, 3, 1]
    blocks = rows(masks.neighbours(3, 1, 0) & masks.causal(), 12, 12)  # lucidrains/local-attention
    ends = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (3, 6), (3, 7), (3, 8), (6, 9), (6, 10), (6, 11)]
    assert blocks == [list(range(first, last + 1)) for first, last in ends]
    fixed = rows(masks.fixed(4), 10, 10)
    assert (fixed[9], fixed[6], fixed[3]) == ([3, 7, 8, 9], [3, 4, 5, 6], [0, 1, 2, 3])
    causal = masks.causal()
    assert rows(causal, 2, 5, q_positions=[0, 1]) == [[0], [0, 1]]  # torch is_causal
    assert rows(causal, 2, 5) == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]  # torch causal_lower_right
    assert rows(causal, 5, 2) == [[], [], [], [0], [0, 1]]


@pytest.mark.clause("MASK-NEIGHBOURS", "MASK-GLOBAL", "MASK-ALGEBRA")
def test_bigbird_and_its_causal_layout_by_blocks():
    """BigBird without random blocks; one position a block."""
    ends = masks.global_tokens([0, 5])
    assert rows(masks.neighbours(1) | ends, 6, 6) == [
        [0, 1, 2, 3, 4, 5], [0, 1, 2, 5], [0, 1, 2, 3, 5], [0, 2, 3, 4, 5], [0, 3, 4, 5], [0, 1, 2, 3, 4, 5],
    ]  # fmt: skip
    causal = (masks.neighbours(1) | masks.global_tokens([0])) & masks.causal()
    found = rows(causal, 6, 6)
    assert [len(keys) for keys in found] == [1, 2, 3, 3, 3, 3]
    assert found[5] == [0, 4, 5]


# --- identities between rules ---------------------------------------------------------------------------------------


def same(library, a, b, n, m, **options):
    np.testing.assert_array_equal(dense(library, a, n, m, **options), dense(library, b, n, m, **options))


sizes = st.integers(0, 9)
steps = st.integers(1, 5)
reaches = st.none() | st.integers(0, 5)


@pytest.mark.clause("MASK-WINDOW", "MASK-CAUSAL", "MASK-DILATED")
@given(n=sizes, m=sizes, left=reaches, right=reaches, step=steps)
def test_windows(library, n, m, left, right, step):
    same(library, masks.window(None, 0), masks.causal(), n, m)
    same(library, masks.window(None, None), masks.everything(), n, m)
    same(library, masks.window(n + m, n + m), masks.everything(), n, m)
    same(library, masks.window(left, 0), masks.window(left, right) & masks.causal(), n, m)
    same(library, masks.window(left, right), masks.window(left, None) & masks.window(None, right), n, m)
    same(library, masks.dilated(left, right, 1), masks.window(left, right), n, m)
    far = [None if side is None else side * step for side in (left, right)]
    same(library, masks.dilated(left, right, step), masks.dilated(None, None, step) & masks.window(*far), n, m)
    forward = dense(library, masks.window(left, right), n, n)
    np.testing.assert_array_equal(forward[::-1, ::-1], dense(library, masks.window(right, left), n, n))
    np.testing.assert_array_equal(forward.T, dense(library, masks.window(right, left), n, n))


@pytest.mark.clause("MASK-DILATED")
@given(length=st.integers(0, 20), left=st.integers(0, 4), right=st.integers(0, 4), step=steps)
def test_a_dilated_window_is_one_plain_window_a_remainder(library, length, left, right, step):
    whole = dense(library, masks.dilated(left, right, step), length, length)
    for a in range(step):
        part = whole[a::step, a::step]
        np.testing.assert_array_equal(part, dense(library, masks.window(left, right), *part.shape))
    remainder = np.arange(length) % step
    assert not whole[remainder[:, None] != remainder].any()


@pytest.mark.clause("MASK-BLOCK", "MASK-CHUNKED", "MASK-NEIGHBOURS", "MASK-FIXED", "MASK-STRIDED")
@given(n=sizes, m=sizes, size=steps, before=st.integers(0, 3), after=st.integers(0, 3))
def test_blocks(library, n, m, size, before, after):
    same(library, masks.chunked(size), masks.block(size) & masks.causal(), n, m)
    same(library, masks.neighbours(size, 0, 0), masks.block(size), n, m)
    same(library, masks.neighbours(1, before, after), masks.window(before, after), n, m)
    same(library, masks.block(m + n + 1), masks.everything(), min(n, m), m)
    same(library, masks.fixed(size, size), masks.causal(), n, m)
    same(library, masks.fixed(size, 1) & masks.block(size), masks.chunked(size), n, m)
    same(library, masks.strided(1), masks.causal(), n, m)
    same(library, masks.strided(size), masks.window(size, 0) | masks.dilated(None, 0, size), n, m)
    same(library, masks.strided(size), masks.window(size - 1, 0) | masks.dilated(None, 0, size), n, m)


@pytest.mark.clause("MASK-STRIDED")
@given(length=st.integers(1, 40), stride=st.integers(1, 9))
def test_strided_counts_each_key_once_and_reaches_all_in_two_hops(library, length, stride):
    i = np.arange(length)
    whole = dense(library, masks.strided(stride), length, length)
    np.testing.assert_array_equal(whole.sum(axis=-1), np.minimum(i, stride) + 1 + np.maximum(0, i // stride - 1))
    near = masks.window(stride, 0).dense(length, length).astype(int)
    far = masks.dilated(None, 0, stride).dense(length, length).astype(int)
    for hops in (far @ near, near @ far):
        np.testing.assert_array_equal(hops > 0, masks.causal().dense(length, length))


@pytest.mark.clause("MASK-PREFIX", "MASK-PADDING", "MASK-GLOBAL", "MASK-DOCUMENTS", "MASK-TREE")
@given(m=st.integers(1, 8), n=st.integers(1, 8), length=st.integers(0, 9), start=st.integers(0, 4))
def test_rules_with_data(library, m, n, length, start):
    n = min(n, m)
    same(library, masks.prefix(0), masks.causal(), n, m)
    same(library, masks.prefix(m), masks.everything(), n, m)
    same(library, masks.prefix(length), masks.causal() | masks.padding(length), n, m)
    same(library, masks.padding(length, start), masks.padding(length + start) & ~masks.padding(start), n, m)
    same(library, masks.global_tokens(list(range(m))), masks.everything(), n, m)
    same(library, masks.documents([4] * m), masks.everything(), n, m)
    same(library, masks.documents(list(range(m))), masks.window(0, 0), n, m)
    same(library, masks.documents([x // 3 for x in range(m)]), masks.block(3), n, m)
    same(library, masks.documents(list(range(m)), [start] * m), masks.Mask(lambda i, j: (i == start) & (j == j)), n, m)
    nodes = max(m - start, 0)
    same(library, masks.tree(list(range(-1, nodes - 1)), m - nodes), masks.causal(), n, m)
    same(
        library,
        masks.tree([-1] * nodes, m - nodes),
        masks.causal() & (masks.padding(m - nodes) | masks.window(0, 0)),
        n,
        m,
    )
    symmetric = dense(library, masks.global_tokens([start, length]), m, m)
    np.testing.assert_array_equal(symmetric, symmetric.T)


@pytest.mark.clause("MASK-TREE")
@given(seed=rng, nodes=st.integers(0, 9), start=st.integers(0, 3))
def test_a_node_sees_what_its_parent_sees_and_itself(library, seed, nodes, start):
    draw = np.random.default_rng(seed)
    parents = np.array([draw.integers(-1, t) for t in range(nodes)], dtype=np.int64)
    whole = dense(library, masks.tree(parents, start), start + nodes, start + nodes)
    led = dense(library, masks.tree(parents[None, None], start), start + nodes, start + nodes)
    np.testing.assert_array_equal(led[0, 0], whole)
    for t, parent in enumerate(parents):
        above = whole[start + parent] if parent >= 0 else np.arange(start + nodes) < start
        np.testing.assert_array_equal(whole[start + t], above | (np.arange(start + nodes) == start + t))


# --- what holds for every rule --------------------------------------------------------------------------------------


@st.composite
def expressions(draw, length, lead=True):
    """A random rule over positions 0 to length - 1 and what combines it, some of it with data a sequence and a head."""
    integer = lambda least, most: draw(st.integers(least, most))

    def data(least, most, *own):
        shape = draw(st.sampled_from([(), (3,), (2, 1), (2, 3)])) if lead else ()
        values = np.random.default_rng(draw(rng)).integers(least, most + 1, size=(*shape, *own))
        return values if draw(st.booleans()) else values.tolist()

    def parents():
        shape = draw(st.sampled_from([(), (2, 1)])) if lead else ()
        numbers = np.random.default_rng(draw(rng)).random((*shape, length - 1))
        return (numbers * (np.arange(length - 1) + 1)).astype(np.int64) - 1

    def leaf():
        name = draw(st.sampled_from(
            ["causal", "window", "dilated", "block", "neighbours", "chunked", "strided", "fixed", "everything",
             "global_tokens", "prefix", "padding", "documents", "tree"]
        ))  # fmt: skip
        size = integer(1, 4)
        return getattr(masks, name)(*{
            "window": lambda: (draw(reaches), draw(reaches)),
            "dilated": lambda: (draw(reaches), draw(reaches), size),
            "block": lambda: (size,),
            "neighbours": lambda: (size, integer(0, 2), integer(0, 2)),
            "chunked": lambda: (size,),
            "strided": lambda: (size,),
            "fixed": lambda: (size, integer(1, size)),
            "global_tokens": lambda: (data(0, length, integer(0, 3)),),
            "prefix": lambda: (data(0, length),),
            "padding": lambda: (data(0, length), data(0, 2)),
            "documents": lambda: (data(0, 2, length),),
            "tree": lambda: (parents(), 1),
        }.get(name, tuple)())  # fmt: skip

    mask = leaf()
    for _ in range(integer(0, 3)):
        other = leaf()
        mask = draw(st.sampled_from([lambda a, b: a & b, lambda a, b: a | b, lambda a, b: ~a, lambda a, b: b & ~a]))(
            mask, other
        )
    return mask


LENGTH = 7


@pytest.mark.clause("MASK-TILES", "MASK-POSITIONS", "MASK-DATA")
@given(mask=expressions(LENGTH), n=st.integers(0, LENGTH), m=st.integers(0, LENGTH), seed=rng)
def test_tiles_give_the_dense_form(library, mask, n, m, seed):
    """Over random rules and random cuts; n is at most m, so that data cover every position."""
    n = min(n, m)
    whole = dense(library, mask, n, m)
    assert whole.shape[-2:] == (n, m)
    draw = np.random.default_rng(seed)
    q_cuts, k_cuts = (np.sort(draw.integers(0, size + 1, size=draw.integers(0, 4))) for size in (n, m))
    for q in np.split(np.arange(n), q_cuts):
        for k in np.split(np.arange(m), k_cuts):
            tile = library.call(lambda mask, q, k: mask.block(q, k), mask, q + m - n, k)
            np.testing.assert_array_equal(tile, whole[..., q, :][..., k])


@pytest.mark.clause("MASK-POSITIONS")
@given(mask=expressions(LENGTH), seed=rng)
def test_positions_may_come_in_any_order_and_repeat(library, mask, seed):
    whole = dense(library, mask, LENGTH, LENGTH)
    draw = np.random.default_rng(seed)
    q, k = draw.integers(0, LENGTH, size=5), draw.integers(0, LENGTH, size=9)
    found = dense(library, mask, 5, 9, q_positions=q, k_positions=k)
    np.testing.assert_array_equal(found, whole[..., q, :][..., k])
    np.testing.assert_array_equal(
        dense(library, mask, 5, 9, q_positions=q[::-1], k_positions=k[::-1]), found[..., ::-1, ::-1]
    )


@pytest.mark.clause("MASK-POSITIONS", "MASK-DATA")
@given(mask=expressions(LENGTH), seed=rng)
def test_admits_pairs_that_were_gathered(library, mask, seed):
    """Each query with keys of its own, as sparse attention asks."""
    whole = dense(library, mask, LENGTH, LENGTH)
    k = np.random.default_rng(seed).integers(0, LENGTH, size=(LENGTH, 4))
    found = library.call(lambda mask, i, j: mask.admits(i, j), mask, np.arange(LENGTH)[:, None], k)
    found = np.broadcast_to(found, (*whole.shape[:-2], LENGTH, 4))
    np.testing.assert_array_equal(found, np.take_along_axis(whole, np.broadcast_to(k, found.shape), axis=-1))


def as_rule(mask):
    """The dictionary that the definition takes."""
    if mask.parts:
        return {"rule": mask.name, "of": [as_rule(part) for part in mask.parts]}
    plain = {name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in mask.arguments.items()}
    return {"rule": mask.name, **plain}


@pytest.mark.clause("MASK-POLARITY", "MASK-ALGEBRA", "MASK-DATA", "MASK-ALIGN")
@pytest.mark.parametrize("one_row", [definition.row, definition.row_by_sets])
@given(mask=expressions(LENGTH), n=st.integers(0, LENGTH), m=st.integers(1, LENGTH))
def test_the_definition_agrees(one_row, mask, n, m):
    n = min(n, m)
    want = definition.dense(as_rule(mask), n, m, one_row=one_row)
    found = mask.dense(n, m)
    assert found.shape == want.shape
    assert found.reshape(-1).tolist() == [bool(x) for x in want.data]


@pytest.mark.clause("MASK-ALGEBRA", "MASK-EMPTY")
@given(a=expressions(LENGTH), b=expressions(LENGTH), n=st.integers(1, LENGTH))
def test_the_algebra_of_rules(library, a, b, n):
    m = LENGTH
    of_a, of_b = dense(library, a, n, m), dense(library, b, n, m)
    np.testing.assert_array_equal(dense(library, a & b, n, m), of_a & of_b)
    np.testing.assert_array_equal(dense(library, a | b, n, m), of_a | of_b)
    np.testing.assert_array_equal(dense(library, ~a, n, m), ~of_a)
    np.testing.assert_array_equal(dense(library, a & masks.everything(), n, m), of_a)
    assert not dense(library, a & ~a, n, m).any()


@pytest.mark.clause("MASK-DATA")
@given(mask=expressions(LENGTH), n=st.integers(1, LENGTH))
def test_each_index_of_the_data_is_as_if_alone(library, mask, n):
    def at(rule, b, h):
        own = {"tokens": 1, "ids": 1, "parents": 1}
        pick = {}
        for name, value in rule.arguments.items():
            pick[name] = value
            if isinstance(value, list | np.ndarray):
                value = np.asarray(value, dtype=np.int64)
                pick[name] = np.broadcast_to(value, (2, 3, *value.shape[value.ndim - own.get(name, 0) :]))[b, h]
        return rule.with_arguments(**pick)

    whole = np.broadcast_to(dense(library, mask, n, LENGTH), (2, 3, n, LENGTH))
    for b in range(2):
        for h in range(3):
            alone = mask.rewritten(lambda rule, b=b, h=h: at(rule, b, h))
            np.testing.assert_array_equal(whole[b, h], dense(library, alone, n, LENGTH))


@pytest.mark.clause("MASK-ALIGN")
@given(mask=expressions(LENGTH, lead=False), n=st.integers(0, LENGTH), m=st.integers(0, LENGTH))
def test_queries_are_the_last_positions(library, mask, n, m):
    n = min(n, m)
    whole = dense(library, mask, m, m)
    np.testing.assert_array_equal(dense(library, mask, n, m), whole[m - n :])
    explicit = dense(library, mask, n, m, q_positions=np.arange(m - n, m), k_positions=np.arange(m))
    np.testing.assert_array_equal(explicit, whole[m - n :])


LEAVES = [
    masks.causal(), masks.window(2, 1), masks.dilated(1, 2, 3), masks.block(4), masks.neighbours(4, 1, 1),
    masks.chunked(4), masks.strided(4), masks.fixed(4, 2),
]  # fmt: skip


@pytest.mark.clause("MASK-POSITIONS")
@pytest.mark.parametrize("mask", LEAVES, ids=repr)
@pytest.mark.parametrize("shift", [2**24, 2**40, -(2**40), -12])
def test_far_from_zero(library, mask, shift):
    """A shift by a multiple of every size changes nothing, beyond 32 bits and below 0."""
    near = np.arange(24, 48)
    want = dense(library, mask, 24, 24, q_positions=near, k_positions=near)
    np.testing.assert_array_equal(
        dense(library, mask, 24, 24, q_positions=near + 3 * shift, k_positions=near + 3 * shift), want
    )


@pytest.mark.clause("MASK-POSITIONS", "MASK-WINDOW", "MASK-DILATED")
def test_reaches_beyond_every_integer_are_no_bound(library):
    far = np.array([2**60, 0, -(2**60)])
    for mask in (masks.window(2**70, 2**63), masks.dilated(None, 2**62, 2) | masks.dilated(2**62, 2**62, 4)):
        assert dense(library, mask, 3, 1, q_positions=far).all()
    far = np.array([2**40, -(2**40)])
    keys = lambda mask: dense(library, mask, 1, 2, k_positions=far).tolist()
    assert keys(masks.prefix(2**40 + 1)) == [[True, True]]
    assert keys(masks.padding(1, 2**40)) == [[True, False]]
    assert keys(masks.global_tokens([2**40])) == [[True, False]]


@pytest.mark.clause("MASK-CAUSAL", "MASK-TILES")
@given(seed=rng)
def test_steps_of_a_cache_give_the_rows_of_the_whole(library, seed):
    """Queries in chunks over a growing number of keys, without positions: the last of so many."""
    draw = np.random.default_rng(seed)
    mask = masks.causal() & masks.window(int(draw.integers(0, 5)), 0)
    whole = dense(library, mask, 9, 9)
    at = 0
    while at < 9:
        n = int(draw.integers(1, 10 - at))
        np.testing.assert_array_equal(dense(library, mask, n, at + n), whole[at : at + n, : at + n])
        at += n


# --- shapes, libraries, kinds of data -------------------------------------------------------------------------------


@pytest.mark.clause("MASK-ALIGN", "MASK-POLARITY")
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1)])
@given(mask=expressions(3))
def test_no_queries_or_no_keys(library, mask, n, m):
    positions = {"q_positions": np.arange(n)} if n > m else {}
    assert dense(library, mask, n, m, **positions).shape[-2:] == (n, m)


@pytest.mark.clause("MASK-DATA")
@pytest.mark.parametrize(
    ("of", "values"),
    [(masks.global_tokens, [[2, 0], [1, 1]]), (masks.prefix, [3, 1]), (masks.padding, [0, 4]),
     (masks.documents, [[0, 1, 1, 0], [2, 2, 0, 0]]), (masks.tree, [[-1, 0, 0, 1], [-1, -1, 1, 0]])],
)  # fmt: skip
def test_lists_arrays_and_views_are_the_same_data(library, of, values):
    want = dense(library, of(values), 2, 4)
    assert want.shape == (2, 2, 4)
    frozen = np.array(values, dtype=np.int32)
    frozen.flags.writeable = False
    reversed_view = np.array(values)[::-1].copy()[::-1]
    for data in (np.array(values), frozen, np.array(values, dtype=np.uint8 if np.min(values) >= 0 else np.int8), reversed_view, tuple(values)):  # fmt: skip
        mask = of(library.array(data) if isinstance(data, np.ndarray) else data)
        np.testing.assert_array_equal(dense(library, mask, 2, 4), want)
        alone = library.numpy(mask.dense(2, 4))  # nothing but the rule's data says which library
        np.testing.assert_array_equal(alone, want)
    np.testing.assert_array_equal(dense(library, masks.prefix(np.int64(2)), 2, 4), masks.prefix(2).dense(2, 4))


@pytest.mark.clause("MASK-DATA")
def test_the_result_lives_beside_what_it_was_made_from(library):
    like, positions = library.array(np.zeros(1)), library.array(np.arange(3))
    lengths = library.array(np.array([1, 2]))
    for result in (
        masks.causal().dense(3, 3, like=like),
        masks.causal().dense(3, 3, q_positions=positions),
        masks.causal().dense(3, 3, k_positions=positions),
        masks.causal().block(positions, [0, 1]),
        masks.causal().block([0], [1], like=like),
        (masks.causal() & ~masks.padding(lengths)).dense(3, 3),
        (masks.causal() | masks.global_tokens([0])).dense(3, 3, like=like),
    ):
        assert type(result) is type(like)
        assert library.device is None or result.device == library.device


def test_the_result_can_be_written_to():
    for mask in (masks.causal(), masks.padding(2), masks.padding([1, 2]), masks.everything(), masks.global_tokens([0])):
        result = mask.dense(3, 4)
        result[...] = True
        assert result.all()


@pytest.mark.clause("MASK-POSITIONS", "MASK-DATA")
@pytest.mark.parametrize("lead_q", [(2, 1), (3,), (1, 3), ()])
@pytest.mark.parametrize("lead_k", [(2, 1), (3,), (1, 3), ()])
@pytest.mark.parametrize(
    "mask",
    [
        masks.causal() & masks.padding(np.array([[6], [1]])),
        masks.prefix(np.array([4, 0, 2])),
        masks.window(0, 0) | masks.global_tokens(np.array([[[4, 2]], [[0, 0]]])),
        masks.documents(np.array([[0, 0, 1, 1, 0, 2], [0, 1, 0, 1, 0, 1], [3, 3, 3, 3, 3, 3]])),
        masks.tree(np.array([[[-1, 0, 1, 2, 3]], [[-1, 0, 0, 2, 2]]]), 1),
    ],
    ids=["padding", "prefix", "global", "documents", "tree"],
)
def test_positions_with_leading_axes(library, mask, lead_q, lead_k):
    draw = np.random.default_rng(7)
    q, k = draw.integers(0, 6, size=(*lead_q, 4)), draw.integers(0, 6, size=(*lead_k, 5))
    found = dense(library, mask, 4, 5, q_positions=q, k_positions=k)
    whole = np.broadcast_to(mask.dense(6, 6), (2, 3, 6, 6))
    found, q, k = (np.broadcast_to(x, (2, 3, *x.shape[-own:])) for x, own in ((found, 2), (q, 1), (k, 1)))
    for b in range(2):
        for h in range(3):
            np.testing.assert_array_equal(found[b, h], whole[b, h][q[b, h]][:, k[b, h]])


# --- errors ---------------------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: masks.window(-1, 0), ValueError, "left is -1; it must be at least 0, or None where the side is unbounded"),
    (lambda: masks.window(0, 1.5), TypeError, "right must be an integer, not 1.5"),
    (lambda: masks.window(True, 0), TypeError, "left must be an integer, not True"),
    (lambda: masks.dilated(1, -2, 3), ValueError, "right is -2"),
    (lambda: masks.dilated(1, 1, 0), ValueError, "dilation is 0; it must be at least 1"),
    (lambda: masks.block(0), ValueError, "size is 0; it must be at least 1"),
    (lambda: masks.chunked(0), ValueError, "size is 0"),
    (lambda: masks.neighbours(0), ValueError, "size is 0"),
    (lambda: masks.neighbours(2, -1), ValueError, "before is -1; it must be at least 0"),
    (lambda: masks.neighbours(2, 1, -1), ValueError, "after is -1"),
    (lambda: masks.strided(0), ValueError, "stride is 0"),
    (lambda: masks.fixed(0), ValueError, "stride is 0"),
    (lambda: masks.fixed(3, 0), ValueError, "summary is 0; it must be at least 1"),
    (lambda: masks.fixed(3, 4), ValueError, r"summary is 4; it must be at most stride \(3\)"),
    (lambda: masks.global_tokens(3), ValueError, "tokens is a single number; it must be a list, or an array"),
    (lambda: masks.global_tokens([-1]), ValueError, "tokens holds a number below 0"),
    (lambda: masks.global_tokens([0.5]), TypeError, "tokens must hold integers, not float64"),
    (lambda: masks.global_tokens([[0], [1, 2]]), ValueError, "tokens must be a full array; its rows have different len"),
    (lambda: masks.prefix(-1), ValueError, "lengths holds a number below 0"),
    (lambda: masks.prefix(np.ones(2)), TypeError, "lengths has dtype float64; it must be an integer dtype"),
    (lambda: masks.padding([2, -1]), ValueError, "lengths holds a number below 0"),
    (lambda: masks.padding(2, "x"), TypeError, "starts must hold integers"),
    (lambda: masks.padding([1, 2], [1, 2, 3]), ValueError, r"do not broadcast: lengths \(2,\), starts \(3,\)"),
    (lambda: masks.documents(1), ValueError, "ids is a single number"),
    (lambda: masks.documents([0], 1), ValueError, "k_ids is a single number"),
    (lambda: masks.documents([True, False]), TypeError, "ids must hold integers, not bool"),
    (lambda: masks.tree(0), ValueError, "parents is a single number"),
    (lambda: masks.tree([-2]), ValueError, "parents holds a number below -1"),
    (lambda: masks.tree([-1, 1]), ValueError, "parents must be smaller than the node's own index, or -1 for a root"),
    (lambda: masks.tree([-1], -1), ValueError, "prefix is -1"),
    (lambda: masks.causal().dense(-1, 2), ValueError, "n is -1; it must be at least 0"),
    (lambda: masks.causal().dense(2, -1), ValueError, "m is -1; it must be at least 0"),
    (lambda: masks.causal().dense(1, 2.0), TypeError, "m must be an integer, not 2.0"),
    (lambda: masks.causal().dense(2, 2, q_positions=[0, 1, 2]), ValueError,
     r"q_positions has shape \(3,\); it must be \(..., N=2\)"),
    (lambda: masks.causal().dense(2, 2, k_positions=np.int64(1)), ValueError,
     r"k_positions has shape \(\); it must be \(..., M=2\)"),
    (lambda: masks.causal().dense(2, 2, q_positions=np.zeros(2)), TypeError, "q_positions has dtype float64"),
    (lambda: masks.causal().dense(1, 1, q_positions=np.zeros((3, 1), dtype=int), k_positions=np.zeros((2, 1), dtype=int)),
     ValueError, r"leading axes do not broadcast: q_positions \(3,\), k_positions \(2,\)"),
    (lambda: masks.causal().block(3, [1]), ValueError, r"q_positions has shape \(\); it must be \(..., N\)"),
    (lambda: masks.causal().block([3], 1), ValueError, r"k_positions has shape \(\); it must be \(..., M\)"),
    (lambda: masks.causal().admits(3, 4), TypeError, "i is a int; it must be a NumPy or CuPy array"),
    (lambda: masks.causal().admits(np.arange(3), np.arange(3)[:, None]), ValueError, r"i has shape \(3,\); it must be"),
    (lambda: masks.causal().admits(np.arange(3)[:, None], np.arange(3)), ValueError, r"j has shape \(3,\); it must be"),
    (lambda: masks.documents([0, 1]).dense(3, 3), ValueError, "ids covers positions 0 to 1, but a query lies outside"),
    (lambda: masks.documents([0, 1], [0]).dense(2, 2), ValueError, "k_ids covers positions 0 to 0, but a key lies outside"),
    (lambda: masks.documents([0, 1]).dense(2, 1), ValueError, "but a query lies outside"),
    (lambda: masks.tree([-1, 0], 1).dense(1, 4), ValueError, r"the tree of parents ends at position 2 \(prefix \+ T - 1, for T parents\), but a query"),
    (lambda: masks.tree([-1, 0], 1).dense(1, 4, q_positions=[0]), ValueError, "but a key lies past it"),
    (lambda: (masks.padding([1, 2]) & masks.prefix([1, 2, 3])).dense(2, 2), ValueError,
     r"shapes of two rules do not broadcast: padding\(lengths=\[1, 2\], starts=0\) \(2, 1, 2\), prefix"),
    (lambda: masks.padding([1, 2]).dense(1, 1, q_positions=np.zeros((3, 1), dtype=int)), ValueError,
     r"leading axes do not broadcast: lengths \(2,\), starts \(\), q_positions \(3,\)"),
    (lambda: masks.documents([[0], [1]]).dense(1, 1, q_positions=np.zeros((3, 1), dtype=int)), ValueError,
     r"leading axes do not broadcast: ids \(2,\), positions \(3,\)"),
    (lambda: Mask(lambda i, j: j - i).dense(1, 1), TypeError, "the rule's result has dtype int64; it must be bool"),
    (lambda: Mask(lambda i, j: True).dense(1, 1), TypeError, "the rule's result is a bool; it must be an array"),
]  # fmt: skip


@pytest.mark.clause("MASK-REFUSE")
@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=[message[:50] for _, _, message in REFUSED])
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("combine", [operator.and_, operator.or_], ids=["and", "or"])
def test_a_rule_does_not_combine_with_an_array(library, combine):
    for array in (library.array(np.ones((2, 2), dtype=bool)), np.ones(2, dtype=bool), True, None):
        for pair in ((masks.causal(), array), (array, masks.causal())):
            # array-api-strict answers for itself where its array comes first
            with pytest.raises(
                TypeError, match=r"a rule combines with rules|Expected Array or Python scalar; got .*Mask"
            ):
                combine(*pair)


@pytest.mark.clause("MASK-REFUSE")
def test_arrays_of_two_libraries_are_refused():
    strict = pytest.importorskip("array_api_strict")
    lengths, positions = strict.asarray([1, 2]), strict.asarray([0, 1])
    with pytest.raises(TypeError, match="lengths is a array_api_strict"):
        masks.padding(lengths).dense(2, 2, like=np.zeros(1))
    with pytest.raises(TypeError, match="lengths is a numpy"):
        masks.padding(np.array([1, 2])).dense(2, 2, q_positions=positions)
    with pytest.raises(TypeError, match="k_positions is a numpy"):
        masks.causal().dense(2, 2, q_positions=positions, k_positions=np.arange(2))
    with pytest.raises(TypeError, match="q_positions is a array_api_strict"):
        masks.causal().dense(2, 2, q_positions=positions, like=np.zeros(1))
    with pytest.raises(TypeError, match=r"tokens is a .*Foreign"):
        masks.global_tokens(type("Foreign", (), {"dtype": "int64", "shape": (1,)})())


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (masks.causal() & ~masks.window(2, None), "(causal() & ~window(left=2, right=None))"),
        (masks.global_tokens([0]) | masks.prefix(np.array([[1], [2]])),
         "(global_tokens(tokens=[0]) | prefix(lengths=<2 x 1 array>))"),
        (masks.padding(np.int64(3)), "padding(lengths=3, starts=0)"),
        (Mask(lambda i, j: j > i), "Mask()"),
    ],
)  # fmt: skip
def test_repr(mask, text):
    assert repr(mask) == text


# --- mask arguments -------------------------------------------------------------------------------------------------


@pytest.mark.clause("MASK-POLARITY")
def test_a_mask_argument_is_a_rule_or_a_boolean_array(library):
    like = library.array(np.zeros(1))
    visible = lambda mask: library.numpy(masks.visible(mask, 2, 3, like=like))
    assert masks.visible(None, 2, 3, like=like) is None
    np.testing.assert_array_equal(visible(masks.causal()), [[1, 1, 0], [1, 1, 1]])
    for shape in ((2, 3), (1, 3), (2, 1), (3,), (5, 2, 3), ()):
        array = library.array(np.ones(shape, dtype=bool))
        assert masks.visible(array, 2, 3, like=like) is array
    found = masks.visible(masks.causal(), 2, 3, q_positions=[0, 1], k_positions=[2, 1, 0], like=like)
    np.testing.assert_array_equal(library.numpy(found), [[0, 0, 1], [0, 1, 1]])


@pytest.mark.clause("MASK-REFUSE")
@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        ([[True]], TypeError, "mask is a list; it must be a boolean array or a rule of refattn.masks"),
        (np.zeros((2, 3)), TypeError, "mask has dtype float64; a mask is boolean .* an additive term goes in bias"),
        (np.ones((2, 3), dtype=int), TypeError, "mask has dtype int64"),
        (
            np.ones((2, 4), dtype=bool),
            ValueError,
            r"mask has shape \(2, 4\); it must broadcast to \(..., N=2, M=3\): M",
        ),
        (np.ones((4, 3), dtype=bool), ValueError, "N differs"),
    ],
)
def test_a_wrong_mask_argument_is_refused(mask, kind, message):
    with pytest.raises(kind, match=message):
        masks.visible(mask, 2, 3, like=np.zeros(1))


@pytest.mark.clause("MASK-ALGEBRA")
def test_python_and_would_drop_a_rule_and_is_refused():
    with pytest.raises(TypeError, match="has no truth value: combine rules with"):
        masks.causal() and masks.window(1, 0)
