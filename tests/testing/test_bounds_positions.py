"""A correct low-precision rotation stays within its bound, and the bound is not much wider than it has to be."""

import numpy as np
import pytest
from mpmath import mpf

from refattn.positions import Linear, Llama3, YaRN, rope_frequencies
from refattn.testing.bounds import bound
from refattn.testing.profiles import profile
from refattn.testing.rounding import round_to
from spec.exact import Tensor
from spec.positions import definition

NAMES = ["float64", "float32", "tf32", "float16", "bfloat16", "bfloat16/eager", "float16/eager"]
SCALINGS = [None, None, Linear(4.0), YaRN(16.0, 1024), YaRN(32.0, 2048, truncate=False), Llama3(8.0, 1.0, 4.0, 1024)]


def draw_case(seed, name):
    """Random arguments, exact in the format of the results."""
    draw = np.random.default_rng(seed)
    n, d = int(draw.integers(1, 6)), 2 * int(draw.integers(1, 17))
    x = round_to(draw.normal(size=(2, n, d)) * 10.0 ** draw.integers(-2, 3), profile(name).out)
    far = 10 ** int(draw.integers(1, 6))
    p = draw.integers(-far, far, size=n)
    options = {
        "base": float(draw.choice([100.0, 10000.0, 500000.0])),
        "layout": str(draw.choice(["interleaved", "half"])),
        "rotary_dim": 2 * int(draw.integers(1, d // 2 + 1)),
        "scaling": SCALINGS[draw.integers(len(SCALINGS))],
    }
    if options["rotary_dim"] == 2:
        options["base"] = 10000.0
    return x, p, options


def scaled_in(number, rotary_dim, base, scaling):
    """Frequencies computed in `number` all the way, as kernels do."""
    i = np.arange(0, rotary_dim, 2).astype(number)
    theta = number(1) / number(base) ** (i / number(rotary_dim))
    if scaling is None:
        return theta
    f = number(scaling.factor)
    if isinstance(scaling, Linear):
        return theta / f
    if isinstance(scaling, Llama3):
        low, high = number(scaling.low_frequency_factor), number(scaling.high_frequency_factor)
        turns = number(scaling.original_length) / (number(2 * np.pi) / theta)
        kept = np.clip((turns - low) / (high - low), number(0), number(1))
    else:
        exact = rope_frequencies(rotary_dim, base=base, scaling=scaling).frequencies
        plain = rope_frequencies(rotary_dim, base=base).frequencies
        kept = ((exact / plain - 1 / scaling.factor) / (1 - 1 / scaling.factor)).astype(number)
    return (number(1) - kept) * (theta / f) + kept * theta


def kernel(name, x, cos, sin, layout, rotary_dim):
    """A rotation in float32 (float64 for float64), rounded at the end, or in the eager order at every step."""
    chosen = profile(name)
    number = np.float64 if name == "float64" else np.float32
    keep = (lambda y: round_to(y, chosen.out).astype(number)) if chosen.order == "eager" else (lambda y: y)
    x, cos, sin = x.astype(number), keep(cos.astype(number)), keep(sin.astype(number))
    turned = x[..., :rotary_dim]
    if layout == "interleaved":
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = np.split(turned, 2, axis=-1)
    first = keep(a * cos) - keep(b * sin)
    second = keep(a * sin) + keep(b * cos)
    out = np.array(x, dtype=np.float64)
    if layout == "interleaved":
        out[..., 0:rotary_dim:2], out[..., 1:rotary_dim:2] = first, second
    else:
        out[..., :rotary_dim] = np.concatenate([first, second], axis=-1)
    return round_to(out, chosen.out)


def rope_kernel(name, x, p, base, layout, rotary_dim, scaling):
    number = np.float64 if name == "float64" else np.float32
    theta = scaled_in(number, rotary_dim, base, scaling)
    angles = p.astype(number)[:, None] * theta
    factor = number(rope_frequencies(rotary_dim, base=base, scaling=scaling).attention_factor)
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    assert cos.dtype == number
    return kernel(name, x, cos, sin, layout, rotary_dim)


def used(got, limit):
    """The largest share of the bound that a result uses."""
    difference = np.abs(got - limit.value)
    return np.max(np.where(difference == 0, 0.0, difference / np.where(limit.hard == 0, 1e-300, limit.hard)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.clause("ROPE-PRECISION", "ROPE-ROTATION")
def test_a_correct_rope_is_within_its_bound(name):
    shares = []
    for seed in range(300):
        x, p, options = draw_case(seed, name)
        limit = bound("rope", profile(name), x, p, **options)["out"]
        shares.append(used(rope_kernel(name, x, p, **options), limit))
    assert max(shares) <= 1.0
    assert name == "float64" or max(shares) >= 0.3  # in float64 the oracle's roundings are the kernel's own


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.clause("ROPE-TABLES")
def test_a_correct_rotation_is_within_its_bound(name):
    shares = []
    for seed in range(300):
        x, p, options = draw_case(seed, name)
        layout, rotary_dim = options["layout"], options["rotary_dim"]
        angles = p[:, None] * rope_frequencies(rotary_dim).frequencies
        cos, sin = round_to(np.cos(angles), profile(name).out), round_to(np.sin(angles), profile(name).out)
        limit = bound("positions.rotate", profile(name), x, cos, sin, layout=layout, rotary_dim=rotary_dim)["out"]
        shares.append(used(kernel(name, x, cos, sin, layout, rotary_dim), limit))
    assert max(shares) <= 1.0
    if name != "float64":
        assert np.median(shares) >= 0.2
        assert max(shares) >= 0.4


@pytest.mark.clause("ROPE-PRECISION")
def test_the_oracle_itself_is_within_half_the_bound_of_float64():
    for seed in range(40):
        x, p, options = draw_case(seed, "float64")
        limit = bound("rope", profile("float64"), x, p, **options)["out"]
        scaling = options["scaling"]
        named = scaling and {"params": f"positions.{type(scaling).__name__}", "fields": scaling._asdict()}
        data = Tensor(x.shape, x.ravel().tolist()), Tensor(p.shape, p.tolist(), "int64")
        exact = definition.rope(*data, **{**options, "scaling": named})["out"]
        off = [abs(mpf(v) - e) for v, e in zip(limit.value.ravel().tolist(), exact.data, strict=True)]
        assert (np.array(off, dtype=float) <= limit.hard.ravel() / 2).all()


@pytest.mark.clause("ROPE-PARTIAL")
def test_unrotated_features_have_no_room():
    x, p, _ = draw_case(1, "bfloat16")
    x = np.concatenate([x, x], axis=-1)
    limit = bound("rope", profile("bfloat16"), x, p, rotary_dim=2)["out"]
    assert not limit.hard[..., 2:].any()
    assert (limit.hard[..., :2] > 0).all()


@pytest.mark.clause("ROPE-PRECISION")
def test_where_the_frequency_is_one_the_angle_has_no_error():
    x = np.array([[1.0, 0.5, 1.0, 0.5]])
    near, far = (bound("rope", profile("float32"), x, np.array([p]))["out"].hard[0] for p in (1, 10**6))
    assert far[:2].max() < 4 * near[:2].max()
    assert far[2:].max() > 1000 * near[2:].max()


def test_angles_of_bfloat16_are_outside():
    x, p = np.ones((1, 8)), np.array([701])
    limit = bound("rope", profile("bfloat16"), x, p)["out"]
    angles = round_to(p[:, None] * round_to(rope_frequencies(8).frequencies, "bfloat16"), "bfloat16")
    assert used(kernel("bfloat16", x, np.cos(angles), np.sin(angles), "interleaved", 8), limit) > 4


def test_slopes_of_alibi_by_steps_in_float32_conform():
    """Powers and reciprocals, each rounded correctly, and powers of a rounded base, as transformers and others take them."""
    from refattn.testing import compare

    def reciprocals(heads, n):
        slopes = np.float32(1) / np.exp2(np.arange(1, n + 1) * (8 / n)).astype(np.float32)
        return slopes if n == heads else np.concatenate([slopes[1::2], slopes[::2]])

    for heads, n in ((12, 16), (66, 128), (64, 64)):
        (found,) = compare(reciprocals(heads, n)[:heads], "alibi_slopes", heads)
        assert found.ok, str(found)
    base = np.float32(2 ** (-8 / 64))
    assert compare(base ** np.arange(1, 65, dtype=np.float32), "alibi_slopes", 64)[0].ok
    assert not compare(reciprocals(66, 128)[:66] * np.float32(1 + 1e-4), "alibi_slopes", 66)[0].ok
