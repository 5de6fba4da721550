"""What follows from a result: sizes of tiles, and numbers with which a kernel computes whatever is given."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.testing import compare
from refattn.testing.diagnosis import FITS
from refattn.testing.rounding import round_to
from refattn.testing.variants import families, variants


def inputs(seed, n, m, d=8, dv=4, lead=(2,), kv_heads=None):
    rng = np.random.default_rng(seed)
    kv = lead if kv_heads is None else (*lead[:-1], kv_heads)
    shapes = {"q": (*lead, n, d), "k": (*kv, m, d), "v": (*kv, m, dv)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def first_of(got, function, **given):
    """The explanation that leads, for each wrong result."""
    wrong = [c for c in compare(got, function, **given) if not c.ok]
    assert wrong
    return [c.explanations[0] for c in wrong]


SLIDING = masks.causal() & masks.window(37, 0)
TILES = [
    ("tail/dropped", 48, {}),
    ("tail/dropped", 6, {}),
    ("tail/zeros", 200, {}),
    ("tail/zeros", 256, {"return_lse": True, "mask": masks.causal()}),
    ("tail/zeros", 72, {"bias": np.linspace(-1, 1, 130)[None]}),
    ("tile/one_too_many", 32, {"mask": masks.causal()}),
    ("softcap/after_padding", 64, {"softcap": 2.0}),
    ("rescale/missing", 56, {"scale": 1.5}),
    ("rescale/output_missing", 24, {"scale": 1.5, "mask": SLIDING}),
    ("mask/of_last_row", 4, {"mask": masks.causal()}),
    ("mask/of_last_row", 64, {"mask": SLIDING}),
    ("mask/of_first_row", 40, {"mask": masks.causal()}),
    ("window/by_tiles", (16, 16), {"mask": SLIDING}),
    ("window/by_tiles", (64, 32), {"mask": masks.window(20, 20)}),
    ("mask/by_tiles", (24, 24), {"mask": masks.causal()}),
    ("tile/last_left_out", 32, {"mask": masks.causal()}),
    ("tile/first_left_out", 80, {"mask": masks.window(90, 0)}),
]


def member(name, function, value):
    return next(make(f.member(value)) for f, make in families(function) if f.example.name == name)


@pytest.mark.parametrize(("name", "tile", "options"), TILES, ids=lambda x: str(x) if not isinstance(x, dict) else "")
def test_the_size_of_a_tile_is_found(name, tile, options):
    given = {**inputs(1, 100, 130), **options}
    for e in first_of(member(name, "attention", tile).call(**given), "attention", **given):
        assert e.name == name
        assert tile in (e.variant.value, *e.variant.others)
        assert str(e.variant.value if isinstance(tile, int) else tile[0]) in e.variant.meaning


@pytest.mark.parametrize("function", ["grouped_query_attention", "tiled_attention", "split_attention"])
def test_the_size_of_a_tile_is_found_in_what_is_built_on_attention(function):
    given = {**inputs(2, 9, 77, lead=(1, 3), kv_heads=1), "mask": np.arange(77) % 5 != 3}
    given |= {"splits": 3} if function == "split_attention" else {}
    got = member("tail/zeros", "attention", 72).call(**{name: x for name, x in given.items() if name != "splits"})
    (e,) = first_of(got, function, **given)
    assert (e.name, e.variant.value) == ("tail/zeros", 72)
    weights = {"q": given["q"], "k": np.repeat(given["k"], 3, axis=-3)}
    got = member("tail/dropped", "attention_weights", 72).call(**weights)
    (e,) = first_of(got, "attention_weights", **weights)
    assert e.name == "tail/dropped"
    assert (e.variant.value, e.variant.others) == (8, (24, 72, 6))  # 77 keys: any of these leaves 72


def test_a_large_size_is_found_on_one_head_in_half_precision():
    given = {name: np.asarray(round_to(x, "bfloat16")) for name, x in inputs(3, 250, 300).items()}
    given["mask"] = masks.causal()
    got = round_to(member("mask/of_last_row", "attention", 120).call(**given), "bfloat16")
    (e,) = first_of(got, "attention", precision="bfloat16", **given)
    assert (e.name, e.variant.value) == ("mask/of_last_row", 120)


def test_without_a_size_that_fits_the_example_stands_for_its_family():
    given = inputs(4, 5, 40)
    (wrong,) = compare(refattn.attention(**given) + 1.0, "attention", **given)
    assert not [e for e in wrong.explanations if e.fit <= FITS]
    assert len(wrong.explanations) == len({e.name for e in wrong.explanations})


def test_a_family_is_registered_by_one_example():
    for function in {v.function for v in variants()}:
        listed = {v.name for v in variants(function)}
        assert {f.example.name for f, _ in families(function)} <= listed
