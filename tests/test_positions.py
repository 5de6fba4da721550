"""Properties of position encodings: tables, rotations, scalings, ALiBi, T5 buckets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refattn import positions
from refattn.attention import attention
from refattn.masks import causal
from refattn.positions import (
    NTK,
    DynamicNTK,
    Linear,
    Llama3,
    LongRoPE,
    YaRN,
    alibi_bias,
    alibi_slopes,
    learned_positions,
    relative_position_bucket,
    rope,
    rope_frequencies,
    rotate,
    scaling_from_config,
    sinusoidal,
    t5_bias,
)
from tests.strategies import floats_for, rng

layouts = st.sampled_from(["interleaved", "half"])
even = st.sampled_from([2, 4, 6, 10])
whole = st.integers(-3000, 3000)
SCALINGS = [
    Linear(4.0),
    NTK(4.0),
    DynamicNTK(4.0, 512, 2048),
    YaRN(8.0, 1024),
    YaRN(8.0, 1024, truncate=False),
    Llama3(8.0, 1.0, 4.0, 1024),
    LongRoPE([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0], 512, 4096, 700),
]
kinds = pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)


def close(a, b, atol=1e-11):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def score(q, k):
    return np.sum(q * k, axis=-1)


# --- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.clause("SINUSOIDAL-TABLE")
def test_sinusoids_by_hand(library):
    table = library.call(sinusoidal, np.array([[0, 1], [2, 3]]), 4, base=100.0)
    assert table.shape == (2, 2, 4)
    close(table[0, 0], [0, 1, 0, 1])
    close(table[1, 1], [math.sin(3), math.cos(3), math.sin(0.3), math.cos(0.3)], 1e-15)


@pytest.mark.clause("SINUSOIDAL-TABLE", "SINUSOIDAL-HALF", "SINUSOIDAL-TENSOR2TENSOR")
@given(
    p=whole,
    q=whole,
    shift=whole,
    dim=even,
    layout=st.sampled_from(["interleaved", "half", "tensor2tensor"]),
)
def test_sinusoids_have_one_norm_and_products_of_differences(library, p, q, shift, dim, layout):
    a, b, c, d = library.call(sinusoidal, np.array([p, q, p + shift, q + shift]), dim, layout=layout)
    close(a @ a, dim / 2)
    close(a @ b, c @ d)


@pytest.mark.clause("SINUSOIDAL-HALF")
@pytest.mark.parametrize("dim", [0, 1, 2, 7, 8])
def test_half_is_interleaved_with_columns_permuted(library, dim):
    p = np.array([3, -50, 900])
    interleaved = library.call(sinusoidal, p, dim)
    half = library.call(sinusoidal, p, dim, layout="half")
    assert interleaved.shape == (3, dim)
    np.testing.assert_array_equal(half, np.concatenate([interleaved[:, 0::2], interleaved[:, 1::2]], axis=1))


@pytest.mark.clause("SINUSOIDAL-TABLE")
def test_an_odd_dimension_ends_with_a_sine(library):
    odd = library.call(sinusoidal, np.array([5]), 3)[0]
    close(odd, [math.sin(5), math.cos(5), math.sin(5 * 10000 ** (-2 / 3))], 1e-15)


@pytest.mark.clause("SINUSOIDAL-TENSOR2TENSOR")
def test_tensor2tensor_ends_at_the_base_exactly(library):
    table = library.call(sinusoidal, np.array([10000.0]), 7, layout="tensor2tensor")[0]
    angles = [10000.0, 100.0, 1.0]
    close(table, [*np.sin(angles), *np.cos(angles), 0.0])
    table = library.call(sinusoidal, np.array([[100.0], [7.0]]), 4, layout="tensor2tensor")
    close(table[0, 0], [math.sin(100), math.sin(0.01), math.cos(100), math.cos(0.01)])
    assert table.shape == (2, 1, 4)


@pytest.mark.clause("SINUSOIDAL-TABLE")
def test_sinusoids_are_as_wide_as_their_positions(library):
    for dtype, want in (("int64", "float64"), ("float64", "float64"), ("float32", "float32")):
        assert library.call(sinusoidal, np.array([7, 8], dtype=dtype), 4).dtype == want
    wide = sinusoidal(np.array([7.0]), 4)
    np.testing.assert_array_equal(sinusoidal(np.array([7.0], dtype=np.float32), 4), wide.astype(np.float32))
    np.testing.assert_array_equal(sinusoidal([7.0], 4), wide)


@pytest.mark.clause("LEARNED-LOOKUP")
@given(seed=rng, offset=st.integers(-2, 3))
def test_learned_rows(library, seed, offset):
    table = floats_for(seed, (7, 3))
    rows = np.random.default_rng(seed).integers(0, 7, size=(2, 4))
    got = library.call(learned_positions, table, rows - offset, offset=offset)
    np.testing.assert_array_equal(got, table[rows])


@pytest.mark.clause("LEARNED-LOOKUP")
def test_learned_positions_of_nothing(library):
    assert library.call(learned_positions, np.zeros((3, 2)), np.zeros((4, 0), dtype=np.int64)).shape == (4, 0, 2)


@pytest.mark.clause("LEARNED-RANGE")
@pytest.mark.parametrize("position", [-1, 5, 7])
def test_positions_outside_the_table_are_refused(library, position):
    with pytest.raises(ValueError, match=r"positions \+ offset run from .* table has rows 0 to 6"):
        library.call(learned_positions, np.zeros((7, 2)), np.array([2, position]), offset=2 if position > 0 else 0)


# --- rotation -------------------------------------------------------------------------------------------------------


@pytest.mark.clause("ROPE-ROTATION", "ROPE-LAYOUT", "ROPE-TABLES")
def test_quarter_turns_by_hand(library):
    x = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    cos, sin = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])  # the first pair by 90 degrees, the second not
    got = library.call(rotate, x, cos, sin, rotary_dim=4)
    np.testing.assert_array_equal(got, [[-2.0, 1.0, 3.0, 4.0, 5.0]])
    got = library.call(rotate, x, cos, sin, rotary_dim=4, layout="half")
    np.testing.assert_array_equal(got, [[-3.0, 2.0, 1.0, 4.0, 5.0]])


@pytest.mark.clause("ROPE-FREQUENCY", "ROPE-ROTATION")
@given(seed=rng, p=whole, layout=layouts)
def test_pairs_are_complex_numbers_turned(library, seed, p, layout):
    x = floats_for(seed, (1, 6))
    got = library.call(rope, x, np.array([p]), base=50.0, layout=layout)[0]
    first, second = (slice(0, 6, 2), slice(1, 6, 2)) if layout == "interleaved" else (slice(0, 3), slice(3, 6))
    z = (x[0, first] + 1j * x[0, second]) * np.exp(1j * p * 50.0 ** (-np.arange(3) / 3))
    close(got[first] + 1j * got[second], z)


@pytest.mark.clause("ROPE-ROTATION")
@given(seed=rng, layout=layouts, dim=even, a=whole, b=whole)
def test_a_rotation_keeps_norms_composes_and_starts_from_nothing(library, seed, layout, dim, a, b):
    x = floats_for(seed, (3, dim))

    def turned(x, p):
        return library.call(rope, x, np.full(3, p), layout=layout)

    np.testing.assert_array_equal(turned(x, 0), x)
    close(np.linalg.norm(turned(x, a), axis=-1), np.linalg.norm(x, axis=-1))
    close(turned(turned(x, a), b), turned(x, a + b))
    close(turned(turned(x, a), -a), x)


@pytest.mark.clause("ROPE-POSITION")
@given(seed=rng, layout=layouts, dim=even, p=whole, q=whole, shift=whole, scaled=st.booleans())
def test_scores_depend_on_the_difference_alone(library, seed, layout, dim, p, q, shift, scaled):
    x, y = floats_for(seed, (2, 1, dim))
    scaling = Linear(3.0) if scaled else None

    def turned(x, p):
        return library.call(rope, x, np.array([p]), layout=layout, scaling=scaling)

    close(score(turned(x, p), turned(y, q)), score(turned(x, p + shift), turned(y, q + shift)))
    close(score(turned(x, p), turned(y, q)), score(turned(x, p - q), y))


@pytest.mark.clause("ROPE-POSITION")
def test_scores_do_depend_on_the_difference():
    x, y = floats_for(1, (2, 1, 6))
    scores = [float(score(rope(x, [p]), y)[0]) for p in range(50)]
    assert len({round(s, 9) for s in scores}) == 50


@pytest.mark.clause("ROPE-LAYOUT")
@given(seed=rng, dim=even, p=whole)
def test_the_layouts_differ_by_a_permutation_of_features(library, seed, dim, p):
    x = floats_for(seed, (1, dim))
    order = [*range(0, dim, 2), *range(1, dim, 2)]
    half = library.call(rope, x[:, order], np.array([p]), layout="half")
    np.testing.assert_array_equal(half, library.call(rope, x, np.array([p]))[:, order])


@pytest.mark.clause("ROPE-PARTIAL", "ROPE-FREQUENCY")
@given(seed=rng, layout=layouts, rotary_dim=st.sampled_from([0, 2, 4, 6]), p=whole)
def test_partial_rotation_is_rotation_of_a_slice(library, seed, layout, rotary_dim, p):
    x = floats_for(seed, (1, 7))
    x[0, 6] = np.nan
    got = library.call(rope, x, np.array([p]), layout=layout, rotary_dim=rotary_dim)
    np.testing.assert_array_equal(got[:, rotary_dim:], x[:, rotary_dim:])
    alone = library.call(rope, np.ascontiguousarray(x[:, :rotary_dim]), np.array([p]), layout=layout)
    np.testing.assert_array_equal(got[:, :rotary_dim], alone)


@pytest.mark.clause("ROPE-POSITION")
@given(seed=rng, layout=layouts)
def test_batch_head_and_row_are_rotated_one_by_one(library, seed, layout):
    x = floats_for(seed, (2, 3, 5, 4))
    p = np.random.default_rng(seed).integers(-100, 2000, size=(2, 1, 5))
    got = library.call(rope, x, p, layout=layout)
    for b, h, n in np.ndindex(2, 3, 5):
        np.testing.assert_array_equal(got[b, h, n], rope(x[b, h, n][None], p[b, :, n], layout=layout)[0])


@pytest.mark.clause("ROPE-POSITION")
def test_positions_bring_leading_axes_of_their_own(library):
    x = floats_for(0, (3, 4))
    got = library.call(rope, x, np.array([[1, 2, 3], [4, 5, 6]]), rotary_dim=2)
    assert got.shape == (2, 3, 4)
    np.testing.assert_array_equal(got[1], rope(x, [4, 5, 6], rotary_dim=2))


@pytest.mark.clause("ROPE-PRECISION")
def test_neighbours_far_out_are_distinct_in_every_dtype(library):
    p = np.array([2**20 + 1, 2**20 + 2])
    want = rope(np.tile([1.0, 0.0], (2, 1)), p)
    close(want, [[math.cos(n), math.sin(n)] for n in p.tolist()])
    for dtype in ("float64", "float32"):
        got = library.call(rope, np.tile(np.array([1.0, 0.0], dtype=dtype), (2, 1)), p)
        assert got.dtype == dtype
        close(got, want, 4 * np.finfo(dtype).eps)


@pytest.mark.clause("ROPE-PRECISION")
def test_float32_and_float16_data_have_the_angles_of_float64():
    x = floats_for(3, (4, 8))
    p = np.array([2355, 100_003, 2**24 + 1, 1])
    for dtype in (np.float32, np.float16):
        narrow = rope(x.astype(dtype), p)
        assert narrow.dtype == np.float32
        close(narrow, rope(x.astype(dtype).astype(np.float64), p), 2e-6)


@pytest.mark.clause("ROPE-TABLES")
@given(seed=rng, layout=layouts)
def test_rope_is_rotate_by_its_own_tables(library, seed, layout):
    x, p = floats_for(seed, (5, 8)), np.arange(5) * 37 - 60
    angles = p[:, None] * rope_frequencies(6).frequencies
    got = library.call(rotate, x, np.cos(angles), np.sin(angles), layout=layout, rotary_dim=6)
    close(got, library.call(rope, x, p, layout=layout, rotary_dim=6), 1e-14)


@pytest.mark.clause("ROPE-ROTATION")
def test_strided_reversed_and_empty_inputs(library):
    x = floats_for(5, (2, 6, 8))
    p = np.array([5, 1, 9, 4, 0, 7])
    want = rope(x, p)
    x.flags.writeable = p.flags.writeable = False
    if library.name == "numpy":
        np.testing.assert_array_equal(rope(x[:, ::-1], p[::-1])[:, ::-1], want)
        wide = np.zeros((2, 6, 16))
        wide[..., ::2] = x
        np.testing.assert_array_equal(rope(wide[..., ::2], p), want)
        np.testing.assert_array_equal(rope(x.transpose(1, 0, 2).copy().transpose(1, 0, 2), p), want)
    np.testing.assert_array_equal(library.call(rope, x, p), want)
    assert library.call(rope, np.zeros((2, 0, 4)), np.zeros(0, dtype=np.int64)).shape == (2, 0, 4)
    assert library.call(rope, np.zeros((2, 3, 0)), np.arange(3)).shape == (2, 3, 0)


# --- scaling --------------------------------------------------------------------------------------------------------


@pytest.mark.clause("ROPE-FREQUENCY")
def test_frequencies_by_hand():
    theta, factor = rope_frequencies(8)
    close(theta, [1.0, 0.1, 0.01, 0.001], 1e-16)
    assert factor == 1.0
    assert rope_frequencies(2, base=3.0).frequencies.tolist() == [1.0]


@pytest.mark.clause(
    "ROPE-LINEAR", "ROPE-NTK", "ROPE-DYNAMIC", "ROPE-YARN", "ROPE-LLAMA3", "ROPE-LONGROPE", "ROPE-FACTOR"
)
@pytest.mark.parametrize(
    "scaling",
    [
        Linear(1.0),
        NTK(1.0),
        DynamicNTK(8.0, 512, 512),
        DynamicNTK(8.0, 512, 100),
        YaRN(1.0, 512),
        Llama3(1.0, 1.0, 4.0, 512),
        LongRoPE([1.0] * 4, [1.0] * 4, 512, 512, 9000),
        {"rope_type": "default"},
    ],
    ids=str,
)
def test_factor_one_changes_nothing(scaling):
    plain, scaled = rope_frequencies(8), rope_frequencies(8, scaling=scaling)
    np.testing.assert_allclose(scaled.frequencies, plain.frequencies, rtol=1e-15)
    assert scaled.attention_factor == 1.0


@pytest.mark.clause("ROPE-LINEAR", "ROPE-NTK", "ROPE-DYNAMIC", "ROPE-YARN", "ROPE-LLAMA3", "ROPE-LONGROPE")
@kinds
def test_scaled_frequencies_fall_and_lie_between_kept_and_divided(scaling):
    plain, (scaled, _) = rope_frequencies(8).frequencies, rope_frequencies(8, scaling=scaling)
    assert (np.diff(scaled) < 0).all()
    most = {DynamicNTK: 13.0, LongRoPE: 8.0}.get(type(scaling)) or scaling.factor  # 13 = 4 · 2048/512 - 3
    assert (scaled <= plain * (1 + 1e-15)).all()
    assert (scaled >= plain / most * (1 - 1e-15)).all()
    assert not np.allclose(scaled, plain)


@pytest.mark.clause("ROPE-LINEAR")
@given(seed=rng, p=whole, factor=st.sampled_from([1.5, 2.0, 8.0]))
def test_linear_scaling_divides_positions(library, seed, p, factor):
    x = floats_for(seed, (1, 6))
    got = library.call(rope, x, np.array([p]), scaling=Linear(factor))
    close(got, library.call(rope, x, np.array([p / factor])))


@pytest.mark.clause("ROPE-NTK")
@given(dim=st.sampled_from([4, 6, 64]), factor=st.floats(1.0, 64.0), base=st.sampled_from([100.0, 10000.0, 5e5]))
def test_ntk_keeps_the_first_frequency_and_divides_the_last(dim, factor, base):
    scaled = rope_frequencies(dim, base=base, scaling=NTK(factor)).frequencies
    plain = rope_frequencies(dim, base=base).frequencies
    assert scaled[0] == 1.0
    np.testing.assert_allclose(scaled[-1], plain[-1] / factor, rtol=1e-14)
    stretched = rope_frequencies(dim, base=base * factor ** (dim / (dim - 2))).frequencies
    np.testing.assert_allclose(scaled, stretched, rtol=1e-13)


@pytest.mark.clause("ROPE-DYNAMIC")
def test_dynamic_ntk_grows_from_one():
    def last(length):
        return rope_frequencies(4, scaling=DynamicNTK(2.0, 512, length)).frequencies[-1]

    plain = rope_frequencies(4).frequencies[-1]
    assert last(100) == last(512) == plain
    np.testing.assert_allclose(plain / last(513), 1 + 2 / 512, rtol=1e-14)
    np.testing.assert_allclose(plain / last(1024), 3.0, rtol=1e-14)  # 2 · 2 - 1


@pytest.mark.clause("ROPE-YARN")
@given(
    dim=st.sampled_from([64, 96, 128]),
    factor=st.sampled_from([2.0, 16.0, 40.0]),
    original=st.sampled_from([2048, 4096, 8192]),
    truncate=st.booleans(),
)
def test_yarn_keeps_fast_frequencies_and_divides_slow_ones(dim, factor, original, truncate):
    base = 10000.0
    plain = rope_frequencies(dim, base=base).frequencies
    scaled, _ = rope_frequencies(dim, base=base, scaling=YaRN(factor, original, truncate=truncate))
    turns = original * plain / (2 * math.pi)
    step = base ** (2 / dim) if truncate else 1.0  # truncation moves the ends by less than one index
    fast, slow = turns > 32 * step, turns < 1 / step
    assert fast.any()
    assert slow.any()
    np.testing.assert_array_equal(scaled[fast], plain[fast])
    np.testing.assert_array_equal(scaled[slow], plain[slow] / factor)
    middle = ~(turns >= 32) & ~(turns <= 1)
    assert (scaled[middle] < plain[middle]).all()
    assert (scaled[middle] > plain[middle] / factor).all()
    ratio = (scaled / plain)[middle]
    np.testing.assert_allclose(np.diff(ratio, 2), 0.0, atol=1e-13)  # linear in the index


@pytest.mark.clause("ROPE-YARN")
def test_yarn_of_a_degenerate_ramp_is_a_step():
    scaling = YaRN(4.0, 1024, beta_fast=20.0, beta_slow=20.0, truncate=False)
    theta = rope_frequencies(64, scaling=scaling).frequencies / rope_frequencies(64).frequencies
    assert set(theta.tolist()) == {1.0, 0.25}


@pytest.mark.clause("ROPE-YARN")
def test_the_ramp_of_yarn_ends_at_the_number_of_features_less_one():
    # 32 turns over 512 positions are at index 8 ln(512/64π) / (2 ln 10) = 1.6, one turn at 7.6: from 1 to 7, not 8 or 3
    scaled, plain = (rope_frequencies(8, base=10.0, scaling=s).frequencies for s in (YaRN(4.0, 512), None))
    close(scaled / plain, [1, 1, 1 - 0.75 / 6, 1 - 1.5 / 6], 1e-15)


@pytest.mark.clause("ROPE-FACTOR", "ROPE-YARN")
def test_attention_factors_by_hand():
    def factor(scaling):
        return rope_frequencies(8, scaling=scaling).attention_factor

    f = math.exp(5.0)
    close(factor(YaRN(f, 1024)), 1.5, 1e-15)
    close(factor(YaRN(f, 1024, mscale=2.0, mscale_all_dim=1.0)), 2.0 / 1.5, 1e-15)
    close(factor(YaRN(f, 1024, mscale=0.7, mscale_all_dim=0.7)), 1.0, 1e-15)
    assert factor(YaRN(f, 1024, attention_factor=0.75)) == 0.75
    ones = [1.0] * 4
    close(factor(LongRoPE(ones, ones, 16, 64, 16)), math.sqrt(1.5), 1e-15)
    assert factor(LongRoPE(ones, ones, 16, 16, 900)) == factor(LongRoPE(ones, ones, 16, 4, 900)) == 1.0
    assert factor(LongRoPE(ones, ones, 16, 64, 900, attention_factor=1.25)) == 1.25


@pytest.mark.clause("ROPE-FACTOR")
@given(seed=rng, layout=layouts)
def test_the_attention_factor_scales_rotated_features_only(library, seed, layout):
    x = floats_for(seed, (3, 10))
    p = np.array([0, 77, 4000])
    scaled = YaRN(8.0, 1024, attention_factor=1.5)
    got = library.call(rope, x, p, layout=layout, rotary_dim=8, scaling=scaled)
    plain = library.call(rope, x, p, layout=layout, rotary_dim=8, scaling=scaled._replace(attention_factor=1.0))
    close(got[:, :8], 1.5 * plain[:, :8])
    np.testing.assert_array_equal(got[:, 8:], x[:, 8:])
    close(got[0, :8], 1.5 * x[0, :8])


@pytest.mark.clause("ROPE-LLAMA3")
@given(factor=st.sampled_from([2.0, 8.0, 32.0]), low=st.sampled_from([1.0, 2.0]), high=st.sampled_from([4.0, 8.0]))
def test_llama3_is_continuous_and_keeps_what_turns_often(factor, low, high):
    original = 8192
    for turns, share in ((low, 0.0), (high, 1.0), ((low + high) / 2, 0.5)):
        # a base that puts the second frequency of four features at just this number of turns
        for nudge in (1 - 1e-9, 1.0, 1 + 1e-9):
            theta = 2 * math.pi * turns * nudge / original
            scaling = Llama3(factor, low, high, original)
            scaled = rope_frequencies(4, base=theta**-2, scaling=scaling).frequencies[1]
            np.testing.assert_allclose(scaled, theta * (share + (1 - share) / factor), rtol=1e-7)
    scaled = rope_frequencies(64, base=5e5, scaling=Llama3(factor, low, high, original)).frequencies
    plain = rope_frequencies(64, base=5e5).frequencies
    turns = original * plain / (2 * math.pi)
    np.testing.assert_array_equal(scaled[turns > high], plain[turns > high])
    np.testing.assert_array_equal(scaled[turns < low], plain[turns < low] / factor)


@pytest.mark.clause("ROPE-LONGROPE")
def test_longrope_takes_the_long_list_beyond_the_original_length(library):
    short, long = np.array([1.0, 2.0]), np.array([4.0, 8.0])
    plain = rope_frequencies(4).frequencies
    for length, factors in ((100, short), (512, short), (513, long)):
        scaling = library.array(LongRoPE(short, long, 512, 1024, length))
        np.testing.assert_allclose(rope_frequencies(4, scaling=scaling).frequencies, plain / factors, rtol=1e-15)


@pytest.mark.clause("ROPE-REFUSE")
def test_scalings_from_model_configurations():
    read = scaling_from_config
    assert read({"rope_type": "default"}) is None
    assert read({"type": "linear", "factor": 2.0}) == Linear(2.0)
    config = {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "mscale": 1.0,
        "mscale_all_dim": 0.5,
        "truncate": False,
        "beta_slow": None,
    }
    assert read(config) == YaRN(40.0, 4096, beta_fast=16, mscale=1.0, mscale_all_dim=0.5, truncate=False)
    config = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert read(config) == Llama3(8.0, 1.0, 4.0, 8192)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 512}
    assert read(dynamic, length=700) == DynamicNTK(2.0, 512, 700)
    config = {
        "rope_type": "longrope",
        "short_factor": [1.0],
        "long_factor": [2.0],
        "original_max_position_embeddings": 512,
    }
    want = LongRoPE([1.0], [2.0], 512, 2048, 700)
    assert read({**config, "factor": 4.0}, length=700) == want
    assert read({**config, "max_position_embeddings": 2048}, length=700) == want
    x = floats_for(0, (2, 4))
    np.testing.assert_array_equal(
        rope(x, [3, 9], scaling={"rope_type": "linear", "factor": 4.0}), rope(x, [3, 9], scaling=Linear(4.0))
    )
    with pytest.raises(ValueError, match=r"'dynamic' needs length; give it by scaling_from_config"):
        read(dynamic)
    with pytest.raises(ValueError, match=r"has no rope_theta .*rope_theta is the argument base"):
        read({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6})
    with pytest.raises(ValueError, match="rope_type is 'proportional'"):
        read({"rope_type": "proportional"})
    with pytest.raises(ValueError, match=r"rope_type is 'default' with keys \['factor'\]"):
        read({"factor": 2.0})


@pytest.mark.clause("ROPE-REFUSE")
@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (Linear(0.5), "factor is 0.5; it must be at least 1"),
        (Llama3(8.0, 0.0, 4.0, 8192), "low_frequency_factor is 0.0; it must be positive"),
        (Llama3(8.0, -2.0, -1.0, 8192), "low_frequency_factor is -2.0; it must be positive"),
        (Llama3(8.0, 1.0, -1.0, 8192), "high_frequency_factor is -1.0; it must be positive"),
        (LongRoPE([1.0] * 4, [1.0] * 4, 512, 1024, 512, -1.0), "attention_factor is -1.0; it must be positive"),
        (NTK(float("nan")), "factor is nan; it must be finite"),
        (DynamicNTK(2.0, 0, 512), "original_length is 0; it must be at least 2"),
        (DynamicNTK(2.0, 512, 0.5), "length must be an integer"),
        (YaRN(2.0, 1024, beta_fast=1.0, beta_slow=32.0), "leave no ramp: it would run from index"),
        (YaRN(2.0, 1024, beta_fast=0.0), "beta_fast is 0.0; it must be positive"),
        (YaRN(2.0, 1024, attention_factor=0.0), "attention_factor is 0.0; it must be positive"),
        (Llama3(8.0, 4.0, 4.0, 8192), r"low_frequency_factor is 4.0; it must be below high_frequency_factor \(4.0\)"),
        (LongRoPE([1.0], [1.0] * 4, 512, 1024, 512), r"short_factors has shape \(1,\).*rotary_dim/2 = 4 numbers"),
        (LongRoPE([1.0] * 4, [1.0] * 3, 512, 1024, 513), r"long_factors has shape \(3,\)"),
        (LongRoPE([1.0, 0.0, 1.0, 1.0], [1.0] * 4, 512, 1024, 512), "short_factors is 0.0; it must be positive"),
        ("yarn", "scaling is a str; it must be one of Linear, NTK"),
    ],
    ids=str,
)
def test_scalings_out_of_range_are_refused(scaling, message):
    with pytest.raises((TypeError, ValueError), match=message):
        rope_frequencies(8, scaling=scaling)


# --- ALiBi ----------------------------------------------------------------------------------------------------------


@pytest.mark.clause("ALIBI-SLOPES")
@pytest.mark.parametrize("heads", range(1, 21))
def test_slopes(heads):
    slopes = alibi_slopes(heads)
    power = max(p for p in (1, 2, 4, 8, 16) if p <= heads)
    assert slopes.shape == (heads,)
    assert slopes.dtype == np.float64
    exponents = [8 * h / power for h in range(1, power + 1)] + [4 * h / power for h in range(1, 2 * power, 2)]
    np.testing.assert_allclose(-np.log2(slopes), exponents[:heads], rtol=1e-14)


@pytest.mark.clause("ALIBI-SLOPES")
def test_golden_slopes():
    exponents = [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]
    np.testing.assert_allclose(np.log2(alibi_slopes(12)), np.negative(exponents), rtol=1e-15)
    assert alibi_slopes(8)[0] == 0.5
    assert alibi_slopes(1).tolist() == [2.0**-8]


@pytest.mark.clause("ALIBI-SLOPES")
def test_slopes_beside_an_array(library):
    like = library.array(np.zeros(3, dtype=np.float32))
    slopes = alibi_slopes(6, like=like)
    assert slopes.dtype == like.dtype
    assert type(slopes) is type(like)
    np.testing.assert_array_equal(library.numpy(slopes), alibi_slopes(6).astype(np.float32))


@pytest.mark.clause("ALIBI-BIAS", "ALIBI-ALIGN")
def test_alibi_by_hand(library):
    bias = library.call(alibi_bias, np.array([0.5, 2.0]), 2, 3)
    np.testing.assert_array_equal(bias[0], [[-0.5, 0, -0.5], [-1, -0.5, 0]])
    np.testing.assert_array_equal(bias[1], 4 * bias[0])
    assert library.call(alibi_bias, np.array([0.5, 2.0], dtype=np.float32), 2, 3).dtype == np.float32


@pytest.mark.clause("ALIBI-BIAS")
@given(seed=rng, shift=whole)
def test_alibi_falls_with_distance_and_ignores_shifts(library, seed, shift):
    draw = np.random.default_rng(seed)
    q, k = draw.integers(-50, 50, size=(2, 1, 3)), draw.integers(-50, 50, size=4)
    slopes = draw.random(5)
    bias = library.call(alibi_bias, slopes, 3, 4, q_positions=q, k_positions=k)
    assert bias.shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(bias, -slopes[:, None, None] * np.abs(q[..., None] - k))
    moved = library.call(alibi_bias, slopes, 3, 4, q_positions=q + shift, k_positions=k + shift)
    np.testing.assert_array_equal(moved, bias)


@pytest.mark.clause("ALIBI-ALIGN", "T5-ALIGN")
@given(n=st.integers(0, 4), m=st.integers(0, 6), bidirectional=st.booleans())
def test_queries_are_the_last_positions(library, n, m, bidirectional):
    slopes, table = np.array([0.5, 0.25]), floats_for(0, (8, 2))
    q, k = np.arange(m - n, m), np.arange(m)
    np.testing.assert_array_equal(
        library.call(alibi_bias, slopes, n, m),
        library.call(alibi_bias, slopes, n, m, q_positions=q, k_positions=k),
    )
    got = library.call(t5_bias, table, n, m, bidirectional=bidirectional)
    assert got.shape == (2, n, m)
    np.testing.assert_array_equal(
        got, library.call(t5_bias, table, n, m, q_positions=q, k_positions=k, bidirectional=bidirectional)
    )


@pytest.mark.clause("ALIBI-ALIGN", "T5-ALIGN")
def test_decoding_step_by_step_has_the_rows_of_the_whole(library):
    slopes, table = alibi_slopes(3), floats_for(0, (8, 3))
    whole_alibi = library.call(alibi_bias, slopes, 6, 6)
    whole_t5 = library.call(t5_bias, table, 6, 6, bidirectional=False)
    for m in range(1, 7):
        step = library.call(alibi_bias, slopes, 1, m)
        np.testing.assert_array_equal(step[:, 0], whole_alibi[:, m - 1, :m])
        step = library.call(t5_bias, table, 1, m, bidirectional=False)
        np.testing.assert_array_equal(step[:, 0], whole_t5[:, m - 1, :m])


@pytest.mark.clause("ALIBI-BIAS")
def test_leaving_out_the_query_position_moves_only_logsumexp():
    draw = np.random.default_rng(0)
    q, k, v = draw.normal(size=(3, 2, 4, 6))
    slopes = alibi_slopes(2)
    keys_only = slopes[:, None, None] * np.arange(4)
    a, lse_a = attention(q, k, v, causal(), bias=alibi_bias(slopes, 4, 4), return_lse=True)
    b, lse_b = attention(q, k, v, causal(), bias=np.broadcast_to(keys_only, (2, 4, 4)), return_lse=True)
    close(a, b)
    close(lse_b - lse_a, slopes[:, None] * np.arange(4))


# --- T5 -------------------------------------------------------------------------------------------------------------


def bucket_by_definition(r, bidirectional, buckets, max_distance):
    """As the formula reads, with a margin for the rounding of the logarithm at a boundary."""
    first = 0
    if bidirectional:
        buckets //= 2
        first, r = (buckets if r > 0 else 0), -abs(r)
    a, e = max(-r, 0), buckets // 2
    if a < e:
        return first + a
    far = e + math.floor(math.log(a / e) / math.log(max_distance / e) * (buckets - e) + 1e-9)
    return first + min(far, buckets - 1)


@pytest.mark.clause("T5-BUCKET", "T5-CAUSAL", "T5-EXACT")
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (4, 3), (64, 1024), (18, 100), (30, 16)])
def test_buckets_are_those_of_the_definition(library, bidirectional, buckets, max_distance):
    relative = np.arange(-300, 301)
    got = library.call(
        relative_position_bucket, relative, bidirectional=bidirectional, buckets=buckets, max_distance=max_distance
    )
    want = [bucket_by_definition(r, bidirectional, buckets, max_distance) for r in relative.tolist()]
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, want)


@pytest.mark.clause("T5-BUCKET", "T5-CAUSAL")
def test_golden_thresholds(library):
    a = np.arange(0, 400)
    both = library.call(relative_position_bucket, -a)
    first = {int(b): int(a[both == b][0]) for b in set(both.tolist())}
    assert [first[b] for b in range(8, 16)] == [8, 12, 16, 23, 32, 46, 64, 91]
    one = library.call(relative_position_bucket, -a, bidirectional=False)
    first = [int(a[one == b][0]) for b in range(32)]
    assert first == [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
    small = library.call(relative_position_bucket, np.array([1, 2, 0, -1]))
    np.testing.assert_array_equal(small, [17, 18, 0, 1])
    assert 16 not in library.call(relative_position_bucket, np.arange(-500, 501))


@pytest.mark.clause("T5-BUCKET", "T5-CAUSAL")
@given(
    buckets=st.sampled_from([4, 8, 14, 32, 128]),
    extra=st.integers(1, 5000),
    bidirectional=st.booleans(),
    scale=st.sampled_from([1, 1000, 2**40]),
)
def test_buckets_rise_with_distance_and_stay_in_the_table(buckets, extra, bidirectional, scale):
    a = np.arange(0, 400) * scale
    n = buckets // 2 if bidirectional else buckets
    options = {"bidirectional": bidirectional, "buckets": buckets, "max_distance": n // 2 + extra}
    before = relative_position_bucket(-a, **options)
    after = relative_position_bucket(a[1:], **options)
    assert (np.diff(before) >= 0).all()
    assert before[0] == 0
    assert before.max() <= n - 1
    np.testing.assert_array_equal(after, before[1:] + n if bidirectional else 0 * after)
    assert relative_position_bucket(np.array(-n // 2 - extra), **options) == n - 1


@pytest.mark.clause("T5-EXACT")
@pytest.mark.parametrize("steps", [2, 4, 16, 32])
def test_boundaries_that_are_whole_numbers_open_their_bucket(steps):
    # e = steps and d = 3^steps e: bucket e + t opens at 3^t e exactly
    n = 2 * steps
    d = 3**steps * steps
    for t in range(1, steps):
        a = np.array([3**t * steps - 1, 3**t * steps])
        got = relative_position_bucket(-a, bidirectional=False, buckets=n, max_distance=d)
        np.testing.assert_array_equal(got, [steps + t - 1, steps + t])


@pytest.mark.clause("T5-BIAS")
@given(seed=rng, bidirectional=st.booleans())
def test_t5_bias_is_the_table_at_the_bucket(library, seed, bidirectional):
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(8, 3))
    q, k = draw.integers(-40, 40, size=(2, 1, 4)), draw.integers(-40, 40, size=5)
    options = {"bidirectional": bidirectional, "max_distance": 20}
    got = library.call(t5_bias, table, 4, 5, q_positions=q, k_positions=k, **options)
    assert got.shape == (2, 3, 4, 5)
    for b, h, i, j in np.ndindex(2, 3, 4, 5):
        bucket = bucket_by_definition(int(k[j] - q[b, 0, i]), bidirectional, 8, 20)
        assert got[b, h, i, j] == table[bucket, h]


@pytest.mark.clause("T5-BIAS")
def test_t5_bias_has_the_dtype_of_its_table_and_the_defaults_of_its_buckets(library):
    table = np.arange(32.0)[:, None]
    near = library.call(relative_position_bucket, np.arange(-20, 21))
    np.testing.assert_array_equal(library.call(t5_bias, table, 1, 41, q_positions=np.array([20]))[0, 0], near)
    assert library.call(t5_bias, np.zeros((4, 2), dtype=np.float32), 2, 3, max_distance=9).dtype == np.float32


# --- errors ---------------------------------------------------------------------------------------------------------


def test_errors_of_tables():
    with pytest.raises(ValueError, match="layout is 'concatenated'; it must be one of 'interleaved', 'half'"):
        sinusoidal([1], 4, layout="concatenated")
    with pytest.raises(ValueError, match="dim is -2; it must be at least 0"):
        sinusoidal([1], -2)
    with pytest.raises(ValueError, match=r"base is 0.0; it must be positive"):
        sinusoidal([1], 4, base=0.0)
    with pytest.raises(TypeError, match="positions has dtype bool; it must be integer or floating-point"):
        sinusoidal(np.array([True]), 4)
    with pytest.raises(ValueError, match=r"table has shape \(3,\); it must be \(L, E\)"):
        learned_positions(np.zeros(3), [1])
    with pytest.raises(TypeError, match="positions has dtype float64; it must be an integer dtype"):
        learned_positions(np.zeros((3, 2)), np.array([1.0]))


@pytest.mark.clause("ROPE-REFUSE")
def test_errors_of_rotations():
    x = np.zeros((2, 3, 5, 8))
    with pytest.raises(TypeError, match="x has dtype int64; it must be floating-point"):
        rope(np.zeros((5, 8), dtype=np.int64), np.arange(5))
    with pytest.raises(ValueError, match=r"x has shape \(8,\); it must be \(..., N, D\)"):
        rope(np.zeros(8), [1])
    with pytest.raises(ValueError, match=r"positions has shape \(4,\), x \(2, 3, 5, 8\): they must be \(..., N=5\)"):
        rope(x, np.arange(4))
    with pytest.raises(ValueError, match=r"positions has shape \(\), x"):
        rope(x, 3)
    with pytest.raises(ValueError, match=r"leading axes do not broadcast.*positions or tables for \(B, 1, N\)"):
        rope(x, np.zeros((2, 5), dtype=np.int64))
    with pytest.raises(ValueError, match=r"rotary_dim is 7, x has shape .*: it must be even and at most D=8"):
        rope(x, np.arange(5), rotary_dim=7)
    with pytest.raises(ValueError, match="rotary_dim is 10"):
        rope(x, np.arange(5), rotary_dim=10)
    with pytest.raises(ValueError, match="rotary_dim is -2; it must be at least 0"):
        rotate(x, np.zeros((5, 4)), np.zeros((5, 4)), rotary_dim=-2)
    with pytest.raises(ValueError, match="rotary_dim is 5"):
        rope(np.zeros((5, 5)), np.arange(5))
    with pytest.raises(ValueError, match="rotary_dim is 5; it must be even"):
        rope_frequencies(5)
    with pytest.raises(ValueError, match="layout is 'neox'"):
        rope(x, np.arange(5), layout="neox")
    with pytest.raises(ValueError, match=r"cos has shape \(5, 8\); it must be \(..., N=5, rotary_dim/2=4\)"):
        rotate(x, np.zeros((5, 8)), np.zeros((5, 8)))
    with pytest.raises(ValueError, match=r"sin has shape \(1, 4\)"):
        rotate(x, np.zeros((5, 4)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"base is 1.0; YaRN needs a base above 1"):
        rope_frequencies(8, base=1.0, scaling=YaRN(2.0, 1024))
    with pytest.raises(ValueError, match="leave no ramp"):  # 1.5 is above 1, but too small for any
        rope_frequencies(8, base=1.5, scaling=YaRN(2.0, 1024))
    with pytest.raises(ValueError, match=r"base is 0.0; it must be positive"):
        rope_frequencies(8, base=0.0)
    with pytest.raises(ValueError, match="rotary_dim is -2; it must be at least 0"):
        rope_frequencies(-2)


@pytest.mark.clause("T5-REFUSE")
def test_errors_of_biases():
    with pytest.raises(ValueError, match="heads is 0; it must be at least 1"):
        alibi_slopes(0)
    with pytest.raises(TypeError, match="slopes is a int; it must be a NumPy or CuPy array"):
        alibi_bias(8, 2, 3)
    with pytest.raises(ValueError, match=r"slopes has shape \(\); it must be \(..., H\)"):
        alibi_bias(np.array(0.5), 2, 3)
    with pytest.raises(ValueError, match=r"q_positions has shape \(3,\); it must be \(..., N=2\)"):
        alibi_bias(np.ones(4), 2, 3, q_positions=np.arange(3))
    with pytest.raises(
        ValueError, match=r"leading axes do not broadcast: slopes \(4,\), q_positions and k_positions \(3,\)"
    ):
        alibi_bias(np.ones(4), 2, 3, q_positions=np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(ValueError, match=r"k_positions has shape \(2,\); it must be \(..., M=3\)"):
        t5_bias(np.ones((8, 4)), 2, 3, k_positions=np.arange(2))
    with pytest.raises(
        ValueError, match=r"leading axes do not broadcast: heads \(4,\), q_positions and k_positions \(3,\)"
    ):
        t5_bias(np.ones((8, 4)), 2, 3, q_positions=np.zeros((3, 2), dtype=np.int64), max_distance=9)
    with pytest.raises(ValueError, match=r"table has shape \(8,\); it must be \(buckets, H\)"):
        t5_bias(np.ones(8), 2, 3)
    for n, m, name in ((-1, 3, "n"), (2, -1, "m")):
        with pytest.raises(ValueError, match=f"{name} is -1; it must be at least 0"):
            alibi_bias(np.ones(4), n, m)
    q, k = np.zeros((2, 1, 2), dtype=np.int64), np.zeros((3, 1, 3), dtype=np.int64)
    with pytest.raises(ValueError, match=r"do not broadcast: q_positions \(2, 1\), k_positions \(3, 1\)"):
        alibi_bias(np.ones(4), 2, 3, q_positions=q, k_positions=k)
    with pytest.raises(TypeError, match="relative is a int; it must be a NumPy or CuPy array"):
        relative_position_bucket(3)
    with pytest.raises(TypeError, match="relative has dtype float64; it must be an integer dtype"):
        relative_position_bucket(np.zeros(2))
    for buckets, bidirectional in ((1, False), (2, True), (7, True)):
        with pytest.raises(ValueError, match=f"buckets is {buckets}; it must be at least 2 a direction, and even"):
            relative_position_bucket(np.zeros(2, dtype=np.int64), buckets=buckets, bidirectional=bidirectional)
    with pytest.raises(ValueError, match="max_distance is 8; it must be above 8"):
        relative_position_bucket(np.zeros(2, dtype=np.int64), max_distance=8)


def test_names_of_the_module():
    assert all(hasattr(positions, name) for name in positions.__all__)
