"""Properties of attention over tiles and over parts of the keys: equal to attention, whatever the tiles."""

import contextlib
import contextvars
import functools
import gc
import math
import time
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refattn import grouped_query_attention, masks
from refattn.attention import Dropout, attention
from refattn.masks.reach import Interval
from refattn.testing import check
from refattn.tiled import attention_io, split_attention, tiled_attention, tiled_attention_vjp, workspace
from refattn.tiled.problem import K_TILE, Q_TILE, _clipped, _rounded, problem_of
from tests.strategies import floats_for, rng

N, M = 7, 11
tiles = st.sampled_from([1, 2, 3, 4, 6, 7, 11, 64])
RULES = [
    masks.causal(),
    masks.everything(),
    masks.window(3, 1),
    masks.window(None, 2),
    masks.window(2, None),
    masks.causal() & masks.window(4, 0),
    masks.dilated(2, 1, 3),
    masks.dilated(3, 0, 1),
    masks.block(3),
    masks.neighbours(2, before=1, after=0),
    masks.neighbours(2, before=0, after=2),
    masks.chunked(4),
    masks.strided(3),
    masks.fixed(4, 2),
    masks.prefix(np.array([[2], [5]])),
    masks.prefix(3),
    masks.padding(np.array([[11], [4]]), np.array([[0], [3]])),
    masks.padding(5),
    masks.documents([0] * 4 + [1] * 5 + [0] * 2),
    masks.global_tokens([1, 9]),
    masks.tree([-1, 0, 0, 1], prefix=7),
    ~masks.causal(),
    ~masks.window(1, 1),
    ~(masks.causal() | masks.global_tokens([2])),
    masks.window(1, 0) | masks.padding(2),
    masks.block(4) | masks.window(0, 0),
    masks.window(0, 0) & masks.global_tokens([3]),
    masks.window(0, 0) & ~masks.everything(),
    ~masks.everything() | ~masks.everything(),
    ~masks.padding(4, 3),
]


def qkv(seed, lead=(2, 3), n=N, m=M, d=4, dv=3, scale=1.0):
    shapes = ((*lead, n, d), (*lead, m, d), (*lead, m, dv))
    return tuple(floats_for(seed + number, shape, scale) for number, shape in enumerate(shapes))


def some_mask(seed, *shape):
    return np.random.default_rng(seed).random(shape) < 0.6


def options_for(seed, n=N, m=M):
    """Every option at once."""
    draw = np.random.default_rng(seed)
    bias = floats_for(seed, (3, 1, m) if seed % 2 else (n, m))
    bias[..., draw.integers(m)] = -np.inf
    return {
        "bias": bias,
        "scale": float(draw.normal()),
        "softcap": [None, 0.0, 2.0][seed % 3],
        "sinks": floats_for(seed, (3,)),
        "dropout": Dropout(some_mask(seed, 2, 1, n, m), 0.25),
    }


def close(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.clause("TILED-EQUAL", "TILED-RESCALE")
@given(seed=rng, q_tile=tiles, k_tile=tiles, rule=st.sampled_from([None, *RULES]))
def test_any_tiles_give_attention(library, seed, q_tile, k_tile, rule):
    q, k, v = qkv(seed, scale=3.0)
    options = {**options_for(seed), "return_lse": True}
    close(
        library.call(tiled_attention, q, k, v, rule, q_tile=q_tile, k_tile=k_tile, **options),
        library.call(attention, q, k, v, rule, **options),
    )


@pytest.mark.clause("TILED-EQUAL")
@given(seed=rng, q_tile=tiles, k_tile=tiles)
def test_a_mask_may_be_an_array(library, seed, q_tile, k_tile):
    q, k, v = qkv(seed)
    mask = some_mask(seed, *[(M,), (1, M), (N, 1), (N, M), (2, 1, N, M), (5, 1, 1, N, M)][seed % 6])
    close(
        library.call(tiled_attention, q, k, v, mask, q_tile=q_tile, k_tile=k_tile, return_lse=True),
        library.call(attention, q, k, v, mask, return_lse=True),
    )


@pytest.mark.clause("TILED-EQUAL", "TILED-SKIP")
@given(
    seed=rng,
    q_tile=tiles,
    k_tile=tiles,
    rule=st.sampled_from([masks.causal() & masks.window(3, 0), ~masks.causal(), masks.block(3)]),
)
def test_positions_may_be_any(library, seed, q_tile, k_tile, rule):
    q, k, v = qkv(seed)
    draw = np.random.default_rng(seed)
    order = 990 + draw.permutation(M) if seed % 2 else np.arange(-3, M - 3)
    positions = {"q_positions": draw.integers(985, 1005, (2, 1, N)) if seed % 2 else np.arange(N), "k_positions": order}
    close(
        library.call(tiled_attention, q, k, v, rule, q_tile=q_tile, k_tile=k_tile, return_lse=True, **positions),
        library.call(attention, q, k, v, rule, return_lse=True, **positions),
    )


@pytest.mark.clause("TILED-EQUAL", "TILED-SKIP")
@given(q_tile=tiles, k_tile=tiles, step=st.integers(1, 4), start=st.integers(-9, 9), rule=st.sampled_from(RULES))
def test_positions_may_be_evenly_spaced(q_tile, k_tile, step, start, rule):
    if any(isinstance(x, np.ndarray | list) for x in rule._data()):
        return  # of positions that it does not know
    q, k, v = qkv(4)
    positions = {"q_positions": start + np.arange(N) * step, "k_positions": np.arange(M) * step - 3}
    close(
        tiled_attention(q, k, v, rule, q_tile=q_tile, k_tile=k_tile, return_lse=True, **positions),
        attention(q, k, v, rule, return_lse=True, **positions),
    )


@pytest.mark.clause("TILED-EQUAL", "TILED-SKIP")
@given(seed=rng, q_tile=tiles, k_tile=tiles, poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
def test_excluded_keys_have_no_influence(library, seed, q_tile, k_tile, poison):
    q, k, v = qkv(seed)
    mask = some_mask(seed, N, M)
    mask[:, 3] = False
    tiled = {"q_tile": q_tile, "k_tile": k_tile, "return_lse": True}
    clean = library.call(tiled_attention, q, k, v, mask, **tiled)
    k[..., 3, :] = v[..., 3, :] = poison
    for a, b in zip(library.call(tiled_attention, q, k, v, mask, **tiled), clean, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.clause("TILED-EQUAL")
@given(seed=rng, q_tile=tiles, k_tile=tiles, dropped=st.booleans())
def test_infinite_and_nan_values_reach_those_who_see_them(library, seed, q_tile, k_tile, dropped):
    q, k, v = qkv(seed)
    places = np.random.default_rng(seed)
    for value in (np.nan, np.inf, -np.inf, np.inf):
        v[places.integers(2), places.integers(3), places.integers(M), places.integers(3)] = value
    mask = some_mask(seed, N, M)
    options = {"dropout": (some_mask(seed + 1, N, M), 0.5)} if dropped else {"sinks": np.zeros(3)}
    close(
        [library.call(tiled_attention, q, k, v, mask, q_tile=q_tile, k_tile=k_tile, **options)],
        [library.call(attention, q, k, v, mask, **options)],
    )


@pytest.mark.clause("TILED-RESCALE")
@pytest.mark.parametrize("shift", [0.0, -6e4, 6e4, -1e300])
def test_scores_may_lie_anywhere(library, shift):
    q, k, v = qkv(3)
    bias = np.full((N, M), shift)
    out, lse = library.call(tiled_attention, q, k, v, bias=bias, k_tile=2, return_lse=True)
    np.testing.assert_allclose(out, library.call(attention, q, k, v, bias=bias), rtol=1e-9)
    assert np.isfinite(lse).all()


@pytest.mark.clause("TILED-EQUAL")
@given(seed=rng)
def test_leading_axes_broadcast(library, seed):
    q, k, v = floats_for(seed, (2, 1, N, 4)), floats_for(seed + 1, (3, M, 4)), floats_for(seed + 2, (5, 1, 3, M, 2))
    options = {"bias": floats_for(seed, (3, N, 1)), "sinks": floats_for(seed, (2, 1)), "return_lse": True}
    mask = some_mask(seed, 2, 1, 1, M)
    want = library.call(attention, q, k, v, mask, **options)
    got = library.call(tiled_attention, q, k, v, mask, q_tile=3, k_tile=4, **options)
    assert [x.shape for x in got] == [x.shape for x in want]
    close(got, want)


@pytest.mark.clause("TILED-EQUAL")
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_large_heads_are_taken_one_by_one(lead):
    """With full tiles the leading axes are looped over, with small heads they are stacked: the same."""
    q, k, v = qkv(5, lead=lead, n=Q_TILE + 1, m=K_TILE + 1, d=2, dv=1)
    rule = masks.causal() & (masks.padding(np.array([[7], [K_TILE]])) if lead else masks.everything())
    options = (
        {"sinks": np.zeros(3), "bias": floats_for(1, (3, 1, K_TILE + 1)), "return_lse": True}
        if lead
        else {"return_lse": True}
    )
    assert len(list(problem_of(q, k, v, rule).indices())) == math.prod(lead)
    close(tiled_attention(q, k, v, rule, **options), attention(q, k, v, rule, **options))


@pytest.mark.clause("TILED-EQUAL", "TILED-SKIP")
@pytest.mark.parametrize(
    "rule",
    [
        masks.padding(np.array([[900], [30]])) & masks.causal(),
        masks.padding(np.array([[900], [30]]), np.array([0, 100, 7])),
        masks.prefix(np.array([[3], [700]])) | masks.global_tokens(np.array([[[1]], [[800]]])),
        ~masks.documents(np.stack([np.arange(1030) // 100, np.arange(1030) // 7])[:, None]),
        masks.tree(np.array([[[-1, 0, 1]], [[-1, 0, 0]]]), prefix=1027),
    ],
    ids=repr,
)
def test_data_of_each_sequence_are_its_own(library, rule):
    """Heads that are taken one by one see the data of their own sequence."""
    q, k, v = qkv(6, n=300, m=1030, d=2, dv=1)
    close(
        library.call(tiled_attention, q, k, v, rule, return_lse=True),
        library.call(attention, q, k, v, rule, return_lse=True),
    )


@pytest.mark.clause("TILED-EQUAL")
@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_nothing(library, n, m):
    q, k, v = qkv(1, n=n, m=m)
    for call in (tiled_attention, split_attention):
        options = {"splits": 2} if call is split_attention else {}
        out, lse = library.call(call, q, k, v, masks.causal(), sinks=np.zeros(3), return_lse=True, **options)
        assert out.shape == (2, 3, n, 3)
        assert (out == 0).all()
        assert np.isneginf(lse).all()
        assert lse.shape == (2, 3, n)


@pytest.mark.clause("TILED-GROUP")
@settings(max_examples=15)  # many small tiles are slow on the strict library
@given(seed=rng, kv_heads=st.sampled_from([1, 2, 3, 6]), q_tile=tiles, k_tile=tiles)
def test_heads_share_keys_and_values(library, seed, kv_heads, q_tile, k_tile):
    q = floats_for(seed, (2, 6, N, 4))
    k, v = floats_for(seed + 1, (2, kv_heads, M, 4)), floats_for(seed + 2, (2, kv_heads, M, 3))
    options = {"bias": floats_for(seed, (6, 1, M)), "sinks": floats_for(seed, (6,)), "return_lse": True}
    want = library.call(grouped_query_attention, q, k, v, masks.causal(), **options)
    close(library.call(tiled_attention, q, k, v, masks.causal(), q_tile=q_tile, k_tile=k_tile, **options), want)
    close(library.call(split_attention, q, k, v, masks.causal(), splits=3, **options), want)


@pytest.mark.clause("TILED-GROUP")
def test_heads_that_share_keys_may_have_positions_of_their_own(library):
    q, k, v = floats_for(0, (6, N, 4)), floats_for(1, (2, M, 4)), floats_for(2, (2, M, 3))
    options = {"q_positions": np.arange(6 * N).reshape(6, N) % M, "return_lse": True}
    want = library.call(grouped_query_attention, q, k, v, masks.causal(), **options)
    close(library.call(tiled_attention, q, k, v, masks.causal(), **options), want)


@pytest.mark.clause("TILED-FUNCTION")
@settings(max_examples=15)  # many small tiles are slow on the strict library
@given(seed=rng, q_tile=tiles, k_tile=tiles)
def test_bias_and_draws_may_be_functions_of_positions(library, seed, q_tile, k_tile):
    q, k, v = qkv(seed)
    slopes = library.array(np.array([0.5, 0.25, 0.125])[:, None, None])
    xp = library.xp

    def bias(i, j):
        return -slopes * xp.astype(xp.abs(i - j), xp.float64)

    def keep(i, j):
        return (5 * i + 3 * j) % 4 != 0

    i, j = np.arange(M - N, M)[:, None], np.arange(M)
    table, draws = -np.array([0.5, 0.25, 0.125])[:, None, None] * np.abs(i - j), (5 * i + 3 * j) % 4 != 0
    want = library.call(attention, q, k, v, bias=table, dropout=(draws, 0.25), return_lse=True)
    functions = {"bias": bias, "dropout": (keep, 0.25), "q_tile": q_tile, "k_tile": k_tile, "return_lse": True}
    close(library.call(tiled_attention, q, k, v, **functions), want)
    close(library.call(split_attention, q, k, v, splits=[2, 5], **functions), want)
    rule = masks.block(3)
    want = library.call(attention, q, k, v, dropout=(rule.dense(N, M), 0.25))
    close([library.call(tiled_attention, q, k, v, dropout=(rule, 0.25), k_tile=k_tile)], [want])


@pytest.mark.clause("TILED-SKIP")
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize(("first", "last"), [(0, 0), (2, 5), (6, 10), (4, 4), (0, 10)])
def test_reach_tells_the_truth(rule, first, last):
    """Nothing visible lies outside `may`, nothing hidden inside `must`."""
    try:
        visible = rule.block(np.arange(first, last + 1), np.arange(M))
    except ValueError:  # data that do not cover such positions
        pytest.skip("the rule has no data for these positions")
    visible = visible.reshape(-1, last - first + 1, M)
    found = rule.reach(first, last)
    for j in range(M):
        inside = Interval(j, j)
        if (found.may & inside).empty:
            assert not visible[..., j].any(), f"{j} is visible, {found}"
        if found.must & inside == inside:
            assert visible[..., j].all(), f"{j} is hidden, {found}"


@pytest.mark.clause("TILED-SKIP")
@pytest.mark.parametrize(
    ("low", "high", "keys"),
    [(-9, 99, (5, 20)), (7, 9, (7, 10)), (5, 19, (5, 20)), (19, 30, (19, 20)), (8, 8, (8, 9))]
    + [(20, 30, (5, 5)), (0, 4, (5, 5)), (9, 8, (5, 5)), (math.inf, -math.inf, (5, 5))],
)
def test_an_interval_of_positions_is_cut_to_the_keys_that_are_there(low, high, keys):
    assert _clipped(Interval(low, high), (0, 1), 5, 20) == keys
    assert _clipped(Interval(low + 100, high + 100), (100, 1), 5, 20) == keys
    for more in (0, 1, 2) if low <= high else (0,):  # every third position: what lies between belongs to no key
        assert _clipped(Interval(3 * low + 100 - more, 3 * high + 100 + more), (100, 3), 5, 20) == keys


@pytest.mark.clause("TILED-SKIP")
@pytest.mark.parametrize(
    ("keys", "rounded"),
    [((10, 300), (64, 256)), ((5, 300), (5, 256)), ((10, 500), (64, 500)), ((64, 256), (64, 256))]
    + [((65, 127), (127, 127)), ((10, 60), (60, 60)), ((70, 200), (128, 192))],
)
def test_what_is_seen_by_all_ends_at_multiples_of_64_or_where_keys_end(keys, rounded):
    assert _rounded(keys, 5, 500) == rounded


@pytest.mark.clause("TILED-SKIP")
@pytest.mark.parametrize(
    ("rule", "share"),
    [(masks.causal(), 0.5), (masks.window(63, 0), 1 / 16), (masks.chunked(128), 1 / 16), (~masks.causal(), 0.5)],
)
def test_what_the_mask_leaves_out_is_not_worked_on(rule, share):
    """The pairs that are worked on are those that may attend, and one tile more a row of tiles."""
    n, tile = 1024, 64
    x = np.zeros((n, 1))
    problem = problem_of(x, x, x, rule, q_tile=tile, k_tile=tile)
    worked_on = sum(
        tile * (keys.stop - keys.start) for rows in problem.query_tiles() for keys, _ in problem.key_tiles(rows)
    )
    assert worked_on <= (share + 2 * tile / n) * n * n
    whole = sum(allowed is None for rows in problem.query_tiles() for _, allowed in problem.key_tiles(rows))
    assert whole > 0 or rule.name != "causal"


@pytest.mark.clause("TILED-MEMORY")
@pytest.mark.parametrize("rule", [None, masks.causal(), masks.documents(np.arange(6000) // 1000)], ids=repr)
def test_memory_does_not_grow_with_queries_times_keys(rule):
    q, k, v = (x.astype(np.float32) for x in qkv(1, lead=(), n=6000, m=6000, d=8, dv=8))
    tile = 500
    options = {"bias": lambda i, j: 0.5 * (i - j), "q_tile": tile, "k_tile": tile}
    tracemalloc.start()
    try:
        out = tiled_attention(q, k, v, rule, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    threads = 8
    assert peak <= out.nbytes + threads * 40 * tile * tile + 64 * 6000 + 1_000_000  # N M floats alone are 144 MB


def test_the_same_arguments_give_the_same_bits():
    q, k, v = qkv(2, n=1500, m=1500, d=8)
    first = tiled_attention(q, k, v, masks.causal())
    for _ in range(3):
        np.testing.assert_array_equal(tiled_attention(q, k, v, masks.causal()), first)


class Control:
    """threadpoolctl's controller, as far as it is used; it notes what it was asked for."""

    def __init__(self):
        self.asked = []

    @contextlib.contextmanager
    def limit(self, **options):
        self.asked.append(options)
        yield


@pytest.fixture
def control(monkeypatch):
    control = Control()
    monkeypatch.setattr(workspace, "_thread_control", lambda: control)
    monkeypatch.setattr(workspace, "_cores", lambda: 3)
    return control


def test_threads_give_the_same_bits(control, monkeypatch):
    """Tiles of queries forward, heads that share nothing backward."""
    q, k, v = qkv(2, n=700, m=1500, d=8)
    options = {"sinks": np.zeros(3), "dropout": (masks.block(7), 0.25)}
    v[0, 1, 3, 1] = np.inf
    threads = tiled_attention(q, k, v, masks.causal(), **options)
    gradients = tiled_attention_vjp(threads, q, k, v, masks.causal(), **options)
    assert control.asked == [{"limits": 1, "user_api": "blas"}] * 2
    monkeypatch.setattr(workspace, "_thread_control", lambda: None)
    np.testing.assert_array_equal(tiled_attention(q, k, v, masks.causal(), **options), threads)
    for a, b in zip(tiled_attention_vjp(threads, q, k, v, masks.causal(), **options), gradients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_task_leaves_the_cores_to_matrix_products(control):
    tiled_attention(*qkv(2))
    assert control.asked == []


def test_an_error_on_a_thread_is_raised(control):
    def wrong(i, j):
        if i.shape[-2] > 1 and j.shape[-1] > 1:
            raise RuntimeError("no bias for you")
        return 0.0 * (i - j)

    with pytest.raises(RuntimeError, match="no bias for you"):
        tiled_attention(*qkv(2, n=700), bias=wrong, q_tile=64)


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize("where", ["bias", "keep", "mask", "progress"])
@pytest.mark.parametrize("error", [IndexError, RuntimeError, KeyboardInterrupt])
def test_any_error_of_the_callers_functions_is_raised(request, threads, where, error):
    if threads:
        request.getfixturevalue("control")

    def wrong(i, j):
        if where == "progress" or (
            i.shape[-2] > 1 and j.shape[-1] > 1
        ):  # the first looks are at one row and one column
            raise error("mine")
        return i >= j if where != "bias" else 0.0 * (i - j)

    option = {
        "bias": {"bias": wrong},
        "keep": {"dropout": (wrong, 0.5)},
        "mask": {"mask": masks.Mask(wrong, "mine")},
        "progress": {"progress": wrong},
    }[where]
    q, k, v = qkv(2, n=700)
    calls = [tiled_attention, functools.partial(tiled_attention_vjp, np.zeros((2, 3, 700, 3)))]
    for call in calls if where != "progress" else calls[:1]:
        with pytest.raises(error, match="mine"):
            call(q, k, v, q_tile=64, **option)


def test_after_an_error_nobody_waits_for_the_rest(control):
    done = []

    def progress(number, total):
        done.append(number)
        time.sleep(0.001)
        if number == 1:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        tiled_attention(*qkv(2, lead=(), n=600), q_tile=1, progress=progress)
    assert len(done) < 300


def test_the_callers_context_holds_on_threads(control):
    def bias(i, j):
        assert variable.get() == "mine"
        return 0.0 * (i - j)

    variable = contextvars.ContextVar("variable", default="nobody's")
    variable.set("mine")
    tiled_attention(*qkv(2, n=700), bias=bias, q_tile=64)


class Library:
    """A library of matrix products with a number of threads, and threadpoolctl's way to hold it to fewer."""

    threads = 4

    def limit(self, limits, user_api):
        before, self.threads = self.threads, limits
        return SimpleNamespace(__enter__=lambda: None, __exit__=lambda *_: setattr(self, "threads", before))


def test_callers_at_once_leave_the_library_of_products_as_it_was(monkeypatch):
    library = Library()
    monkeypatch.setattr(workspace, "_thread_control", lambda: library)
    held = workspace._OneThreadAProduct()
    held.__enter__()
    with held:
        held.__exit__(None, None, None)  # the first leaves before the second
        assert library.threads == 1
    assert library.threads == 4
    with pytest.raises(ValueError, match="mine"), held:
        raise ValueError("mine")
    assert library.threads == 4


def test_a_child_process_has_all_threads_and_can_use_them(monkeypatch):
    library = Library()
    monkeypatch.setattr(workspace, "_thread_control", lambda: library)
    held = workspace._OneThreadAProduct()
    with held:
        held._lock.acquire()  # by a thread that the child has not
        held.after_fork()
        assert library.threads == 4
        with held:
            assert library.threads == 1
        assert library.threads == 4
    assert library.threads == 4
    with held:
        assert library.threads == 1


@pytest.mark.parametrize("threads", [True, False])
def test_progress_counts_tiles_of_queries(request, threads):
    if threads:
        request.getfixturevalue("control")
    q, k, v = qkv(2, lead=(), n=100)
    for call in (tiled_attention, functools.partial(tiled_attention_vjp, np.zeros((100, 3)))):
        told = []
        call(q, k, v, q_tile=30, progress=lambda done, total, told=told: told.append((done, total)))
        assert sorted(told) == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes(dtype):
    q, k, v = (x.astype(dtype) for x in qkv(4))
    out, lse = tiled_attention(q, k, v, masks.causal(), k_tile=3, bias=lambda i, j: 0.5 * (i - j), return_lse=True)
    assert out.dtype == lse.dtype == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize(
    "target, function, options",
    [
        (tiled_attention, "attention", {"q_tile": 4, "k_tile": 5}),
        pytest.param(split_attention, "attention", {"splits": 3}, marks=pytest.mark.slow),
        pytest.param(tiled_attention, "grouped_query_attention", {"q_tile": 3, "k_tile": 4}, marks=pytest.mark.slow),
    ],
)
def test_tiled_and_split_attention_pass_the_check_of_attention(target, function, options):
    def kernel(q, k, v, mask=None, **others):
        return target(q, k, v, mask, **options, **others)

    report = check(kernel, function, effort="smoke")
    broken = [r for r in report.results if r.status != "holds" and r.deviation != "accepts wrong input"]
    assert not broken, broken[0].message


# --- parts ------------------------------------------------------------------------------------------------------------


def trees(parts):
    """Nested pairs of part numbers in any order."""
    return st.permutations(range(parts)).flatmap(
        lambda order: st.randoms(use_true_random=False).map(lambda r: _paired(order, r))
    )


def _paired(order, random):
    nodes = list(order)
    while len(nodes) > 1:
        place = random.randrange(len(nodes) - 1)
        nodes[place : place + 2] = [(nodes[place], nodes[place + 1])]
    return nodes[0]


@pytest.mark.clause("SPLIT-MERGE", "SPLIT-TREE", "SPLIT-SINK")
@settings(max_examples=15)  # many small tiles are slow on the strict library
@given(data=st.data(), seed=rng, rule=st.sampled_from([None, *RULES]))
def test_any_parts_in_any_order_give_attention(library, data, seed, rule):
    q, k, v = qkv(seed, scale=2.0)
    cuts = sorted(data.draw(st.lists(st.integers(0, M), max_size=4)))
    tree = data.draw(trees(len(cuts) + 1))
    options = {**options_for(seed), "return_lse": True}
    got = library.call(split_attention, q, k, v, rule, splits=cuts, tree=tree, **options)
    close(got, library.call(attention, q, k, v, rule, **options))
    for a, b in zip(library.call(split_attention, q, k, v, rule, splits=cuts, tree=tree, **options), got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.clause("SPLIT-MERGE", "SPLIT-TREE")
@pytest.mark.parametrize("splits", [1, 2, 3, 11, 13, [], [0], [11], [4, 4, 9]])
@pytest.mark.parametrize("tree", ["balanced", "sequential"])
def test_parts_by_number_or_place(library, splits, tree):
    q, k, v = qkv(8)
    mask = some_mask(1, 2, 1, N, M)
    close(
        library.call(split_attention, q, k, v, mask, splits=splits, tree=tree, return_lse=True),
        library.call(attention, q, k, v, mask, return_lse=True),
    )


@pytest.mark.clause("SPLIT-TREE")
def test_the_tree_is_followed():
    """Scores so far apart that only the order of merges decides what is lost."""
    q, k = np.array([[1.0]]), np.array([[0.0], [0.0], [0.0], [0.0]])
    v = np.array([[1e16], [1.0], [-1e16], [1.0]])
    balanced = split_attention(q, k, v, splits=4, tree=((0, 2), (1, 3)))
    lost = split_attention(q, k, v, splits=4, tree=(((0, 1), 2), 3))
    np.testing.assert_array_equal(balanced, [[0.5]])
    assert lost[0, 0] != 0.5


# --- arguments ----------------------------------------------------------------------------------------------------------

GOOD = dict(zip("qkv", qkv(16), strict=True))


@pytest.mark.clause("TILED-REFUSE")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": [1.0]}, TypeError, "q is a list; it must be a NumPy or CuPy array"),
        ({"k": np.zeros((M, 5))}, ValueError, "k has head size 5, q has 4"),
        ({"v": np.zeros((4, 2))}, ValueError, "v has 4 keys, k has 11"),
        (
            {"q": np.zeros((2, 3, N, 4)), "k": np.zeros((2, 2, M, 4))},
            ValueError,
            r"do not broadcast: q \(2, 3\), k \(2, 2\)",
        ),
        ({"q": np.zeros((2, 6, N, 4)), "v": np.zeros((2, 2, M, 3))}, ValueError, "do not broadcast"),
        ({"mask": np.ones((N, M))}, TypeError, "mask has dtype float64; a mask is boolean"),
        ({"mask": np.ones((N, 5), dtype=bool)}, ValueError, "M differs"),
        ({"mask": np.ones((4, 1, N, M), dtype=bool)}, ValueError, r"leading axes do not broadcast: mask \(4, 1\)"),
        ({"mask": masks.documents([1, 2, 3])}, ValueError, "ids covers positions 0 to 2"),
        ({"mask": masks.padding(np.zeros((4, 1), dtype=int))}, ValueError, r"mask \(4, 1\)"),
        ({"bias": np.zeros((N, 5))}, ValueError, "M differs"),
        ({"bias": lambda i, j: 1.0}, ValueError, "the function given for bias returns 1.0"),
        ({"bias": lambda i, j: i > j}, TypeError, "bias returns bool; it must return floating-point numbers"),
        ({"dropout": (lambda i, j: i - j, 0.5)}, TypeError, "dropout returns int64; it must return truth values"),
        ({"bias": lambda i, j: np.zeros((4, 1, 1, 1))}, ValueError, r"leading axes do not broadcast: bias \(4, 1\)"),
        ({"dropout": (np.ones((N, 5), dtype=bool), 0.5)}, ValueError, "dropout keep has shape .*: M differs"),
        ({"dropout": (np.ones((N, M)), 0.5)}, TypeError, "keep has dtype float64"),
        ({"dropout": 0.5}, TypeError, "dropout must be a pair"),
        ({"sinks": np.zeros(4)}, ValueError, "sinks"),
        ({"softcap": -1.0}, ValueError, "softcap is -1.0"),
        ({"scale": "big"}, TypeError, "scale must be a real number"),
        ({"q_tile": 0}, ValueError, "q_tile is 0; it must be at least 1"),
        ({"k_tile": 2.0}, TypeError, "k_tile must be an integer, not 2.0"),
        ({"mask": masks.causal(), "q_positions": np.arange(5)}, ValueError, "q_positions has shape"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        tiled_attention(**{**GOOD, **change})


@pytest.mark.clause("SPLIT-REFUSE")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"splits": 0}, ValueError, "splits is 0; it must be at least 1"),
        ({"splits": [3, 2]}, ValueError, r"splits is \[3, 2\]; it must be a number of parts, or ascending places"),
        ({"splits": [12]}, ValueError, "between 0 and M = 11"),
        ({"splits": [-1]}, ValueError, "between 0 and M = 11"),
        ({"splits": 2, "tree": "best"}, ValueError, "tree is 'best'"),
        ({"splits": 2, "tree": (0, 0)}, ValueError, "hold each of the parts 0 to 1 once"),
        ({"splits": 3, "tree": (0, 1, 2)}, ValueError, "nested pairs"),
        ({"splits": 2, "tree": (0, "1")}, ValueError, "nested pairs"),
    ],
)
def test_wrong_parts_are_named(change, error, message):
    with pytest.raises(error, match=message):
        split_attention(**{**GOOD, **change})


# --- what is moved ------------------------------------------------------------------------------------------------------


class FastMemory:
    """A memory that counts what comes in and goes out, and what it holds at most."""

    def __init__(self):
        self.held, self.loads, self.stores, self.most = {}, 0, 0, 0

    def load(self, name, x):
        self.loads += x.size
        self.hold(name, x.copy())
        return self.held[name]

    def hold(self, name, x):
        self.held[name] = x
        self.most = max(self.most, sum(part.size for part in self.held.values()))

    def store(self, x, place, name):
        x[place] = self.held.pop(name)
        self.stores += x[place].size


def through_fast_memory(q, k, v, counted):
    """FlashAttention with every number that is used taken through the fast memory; the result and the memory."""
    (n, d), m, fast = q.shape, len(k), FastMemory()
    out, peak, total = np.zeros((n, d)), np.full((n, 1), -np.inf), np.zeros((n, 1))
    for j in range(0, m, counted.k_tile):
        keys = slice(j, j + counted.k_tile)
        own_k, own_v = fast.load("k", k[keys]), fast.load("v", v[keys])
        for i in range(0, n, counted.q_tile):
            rows = slice(i, i + counted.q_tile)
            own_q, o, a, b = (fast.load(x, y[rows]) for x, y in zip("qoml", (q, out, peak, total), strict=True))
            s = own_q @ own_k.T
            higher = np.maximum(a, s.max(axis=1, keepdims=True))
            p, shrink = np.exp(s - higher), np.exp(a - higher)
            grown = shrink * b + p.sum(axis=1, keepdims=True)
            fast.hold("o", (shrink * b * o + p @ own_v) / grown)
            fast.hold("m", higher)
            fast.hold("l", grown)
            for name, x in zip("oml", (out, peak, total), strict=True):
                fast.store(x, rows, name)
    return out, fast


@pytest.mark.clause("IO-KEYS-OUTSIDE", "IO-TILES")
@pytest.mark.parametrize(("n", "m", "d", "size"), [(13, 17, 4, 48), (16, 16, 4, 64), (5, 40, 3, 12), (40, 5, 2, 100)])
def test_the_model_counts_what_an_algorithm_moves(n, m, d, size):
    q, k, v = qkv(1, lead=(), n=n, m=m, d=d, dv=d)
    counted = attention_io(n, m, d, size, order="keys_outside")
    out, fast = through_fast_memory(q, k, v, counted)
    np.testing.assert_allclose(out, attention(q, k, v, scale=1.0), rtol=1e-12, atol=1e-12)
    assert (fast.loads, fast.stores) == (counted.loads, counted.stores)
    assert fast.most <= 4 * d * counted.k_tile + 2 * counted.q_tile  # beside the tile of scores: S, and a little


@pytest.mark.clause("IO-QUERIES-OUTSIDE")
@given(n=st.integers(1, 40), m=st.integers(1, 40), d=st.integers(1, 6), rows=st.integers(1, 30))
def test_queries_outside_move_keys_once_a_tile(n, m, d, rows):
    counted = attention_io(n, m, d, 4 * d * rows)
    q_tile = min(rows, d)
    assert (counted.q_tile, counted.k_tile) == (q_tile, rows)
    x = [np.zeros((length, d)) for length in (n, m, m)]
    problem = problem_of(*x, q_tile=q_tile, k_tile=rows)
    moved = 0
    for tile in problem.query_tiles():
        moved += d * (tile.stop - tile.start)
        moved += sum(2 * d * (keys.stop - keys.start) for keys, _ in problem.key_tiles(tile))
    assert (counted.loads, counted.stores) == (moved, n * (d + 1))


@pytest.mark.clause("IO-STANDARD", "IO-TILES")
def test_traffic_falls_with_the_size_of_the_fast_memory():
    """Theorem 2: Θ(N² D² / S) against Θ(N D + N²), so that tiles win from S of some D² on."""
    n, d = 4096, 64
    standard = sum(attention_io(n, n, d, 4 * d, order="standard")[:2])
    assert standard == 4 * n * d + 4 * n * n
    sizes = [4 * d * rows for rows in (1, 2, 4, 8, 16, 32, 64)]
    for order in ("keys_outside", "queries_outside"):
        moved = [sum(attention_io(n, n, d, size, order=order)[:2]) for size in sizes]
        for less, more, size in zip(moved[1:], moved, sizes, strict=False):
            assert 0.45 < less / more < 0.6
            assert 4 <= more * size / (n * n * d * d) <= 16
        assert moved[0] > standard > moved[-1]


@pytest.mark.clause("IO-TILES")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fast_memory": 15}, ValueError, "fast_memory is 15; it must hold 4 d = 16 numbers"),
        ({"n": -1}, ValueError, "n is -1"),
        ({"d": 0}, ValueError, "d is 0"),
        ({"m": 1.5}, TypeError, "m must be an integer"),
        ({"order": "best"}, ValueError, "order is 'best'"),
    ],
)
def test_wrong_sizes_are_named(change, error, message):
    with pytest.raises(error, match=message):
        attention_io(**{"n": 3, "m": 5, "d": 4, "fast_memory": 32, **change})


@pytest.mark.clause("TILED-MEMORY")
@pytest.mark.parametrize("options", [{}, {"mask": masks.padding(np.array([[3], [2]]))}])
def test_nothing_keeps_the_arguments_after_a_call(options):
    """Not until the garbage collector finds a circle of references, which may be many calls later."""
    q, k, v = qkv(1)
    left = weakref.ref(k)
    gc.disable()
    try:
        tiled_attention(q, k, v, **options)
        tiled_attention_vjp(np.ones(v.shape[:2] + (N, v.shape[-1])), q, k, v, **options)
        del k
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("steps", [(1, 1), (2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize(
    "mask",
    [
        *[rule for rule in RULES if rule.name not in ("documents", "tree")],
        ~masks.window(3, 3),
        masks.window(4, 0) | masks.causal(),
        masks.chunked(5) & masks.window(6, 0),
    ],
    ids=repr,
)
def test_a_tile_that_stands_for_others_is_theirs(mask, steps):
    """Many small tiles at one distance: one of them is evaluated, where a rule decides by distance and steps are equal."""
    draw = np.random.default_rng(0)
    n, m = 37, 70
    q, k, v = (draw.normal(size=(size, 4)) for size in (n, m, m))
    at = {"q_positions": 20 + steps[0] * np.arange(n), "k_positions": steps[1] * np.arange(m)}
    found = tiled_attention(q, k, v, mask, q_tile=4, k_tile=16, **at)
    np.testing.assert_allclose(found, attention(q, k, v, mask, **at), atol=1e-13)
