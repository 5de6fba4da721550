"""How large a tolerance: pairs that accuse no correct kernel, are as tight as they can be, and what they let pass."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.cli import main
from refattn.testing import bound, compare, round_to, tolerance
from refattn.testing.profiles import profile
from refattn.testing.roundoff import Bound
from refattn.testing.tolerances import TIERS, Pair, Spread, _spread
from refattn.testing.variants import variants


def numbers(*shape, seed=0, precision="bfloat16"):
    return round_to(np.random.default_rng(seed).normal(size=shape), precision)


def cancelling():
    """Two huge values that cancel in one row make its bound huge, and the tolerance for all others with it."""
    q, k, v = (numbers(12, 8, seed=seed) for seed in range(3))
    v[0], v[1], q[1] = 1024.0, -1024.0, 0.0
    return (q, k, v), {"mask": masks.window(1, 0)}


def problems():
    yield refattn.attention, *cancelling(), "bfloat16"
    yield refattn.attention, tuple(numbers(2, 9, 16)), {"return_lse": False}, "float32"
    yield refattn.rms_norm, (numbers(5, 32), numbers(32, seed=1)), {}, "float16"
    yield refattn.rms_norm_vjp, (numbers(5, 32), numbers(5, 32, seed=2), numbers(32, seed=1)), {}, "float32"
    yield refattn.attention, tuple(numbers(3, 2, 7, 8)), {"mask": masks.causal(), "return_lse": True}, "bfloat16"


def problem(number):
    function, args, kwargs, precision = list(problems())[number]
    return (
        function,
        args if len(args) != 2 or function is not refattn.attention else (*args, args[1]),
        kwargs,
        precision,
    )


@pytest.mark.parametrize("number", range(5))
def test_pairs_cover_the_bound_everywhere_and_no_smaller_one_does(number):
    function, args, kwargs, precision = problem(number)
    found = tolerance(function, *args, precision=precision, **kwargs)
    limits = bound(function, precision, *args, **kwargs)
    assert found.results.keys() == limits.keys()
    for name, b in limits.items():
        finite = np.isfinite(b.value)
        want = np.abs(b.value[finite])
        for tier, limit in (("hard", b.hard), ("statistical", b.statistical)):
            if limit is None:
                assert tier not in found.results[name].pairs
                continue
            limit = np.broadcast_to(limit, b.value.shape)[finite]
            pair = found.results[name].pairs[tier]
            assert np.all(limit <= pair.atol + pair.rtol * want)
            assert np.any(limit > 0.9 * (pair.atol + pair.rtol * want)), "two digits are rounded up, no more"
            assert limit.max() <= pair.atol_alone <= 1.1 * limit.max()
            assert pair.atol + pair.rtol * want.mean() <= pair.atol_alone, "rtol is used where it helps"
            assert found.results[name].bounds[tier][-1] == limit.max()


def test_what_a_pair_lets_pass_passes_it_and_is_seen_by_the_bound():
    args, kwargs = cancelling()
    found = tolerance(refattn.attention, *args, precision="bfloat16", **kwargs)
    assert "keys/last_dropped" in found.passed["hard"]
    assert set(found.passed["hard"]) < set(found.seen["hard"])
    pair, want = found.results["out"].pairs["hard"], refattn.attention(*args, **kwargs)
    assert 0 < pair.atol < 0.6 * pair.atol_alone, "rtol is used where it helps"
    by_name = {v.name: v for v in variants("attention")}
    for name in found.seen["hard"]:
        got = by_name[name].call(*args, **kwargs)
        assert np.allclose(got, want, atol=pair.atol, rtol=pair.rtol, equal_nan=True) == (name in found.passed["hard"])
        judged = compare(got, refattn.attention, *args, precision="bfloat16", tier="hard", explain=False, **kwargs)
        assert not judged[0].ok
    text = str(found)
    assert f"lets pass {len(found.passed['hard'])} of the {len(found.seen['hard'])} known bugs" in text
    assert "keys/last_dropped" in text
    assert f"out: atol={pair.atol:.2g}, rtol={pair.rtol:.2g}" in text


def test_rows_without_keys_and_nothing_at_all_have_tolerances_too():
    q, k, v = numbers(3, 4, 8)
    hidden = np.zeros((4, 4), dtype=bool)
    found = tolerance("attention", q, k, v, mask=hidden, precision="float32", return_lse=True)
    assert found.results["lse"].largest == 0.0, "of -infinity no number can be said"
    empty = tolerance(refattn.attention, q[:0], k, v, precision="float32")
    assert empty.results["out"] == Spread(
        0, 0.0, 0.0, dict.fromkeys(TIERS, (0.0,) * 4), dict.fromkeys(TIERS, Pair(0.0, 0.0, 0.0))
    )
    assert "these inputs show none of the known bugs" in str(empty)


def test_a_spread_is_of_the_finite_elements():
    value = np.array([3.0, -4.0, np.inf, np.nan, 0.0])
    found = _spread(Bound(value, np.array([1.0, 2.0, 9.0, 9.0, 0.5])))
    assert (found.size, found.largest, found.rms) == (5, 4.0, np.sqrt(25 / 3))
    assert found.bounds == {"hard": pytest.approx((1.0, 1.8, 1.98, 2.0))}
    (pair,) = found.pairs.values()
    assert pair.atol_alone == 2.0


def test_bounds_take_a_function_and_the_name_of_a_precision():
    x = numbers(3, 8).astype(np.float32)
    by_function = bound(refattn.softmax, "float16", x)["out"]
    by_name = bound("softmax", profile("float16"), x.astype(np.float64))["out"]
    assert np.array_equal(by_function.hard, by_name.hard)
    with pytest.raises(ValueError, match="precision is 'half'; it must be a Profile or one of float64"):
        bound(refattn.softmax, "half", x)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "q=2x5x8", "k=2x9x8", "v=2x9x4", "--mask", "causal() & window(3, 0)", "--option", "scale=0.5"],
        ["rms_norm", "--shape", "x=4x16", "gamma=16", "--precision", "float16"],
        ["rope", "--shape", "x=4x6x8", "positions=6"],
    ],
)
def test_the_command_draws_inputs_of_given_sizes(arguments, capsys):
    assert main(["tolerance", *arguments]) == 0
    said = capsys.readouterr().out
    assert "tightest tolerance, hard bound" in said
    assert said.startswith("inputs: ")
    assert "x" in said.splitlines()[0].removeprefix("inputs: "), "the sizes"


def test_the_command_reads_the_inputs_of_a_case(tmp_path, capsys):
    path = tmp_path / "case.npz"
    assert main(["replay", "attention.causal.0002.float32", "refattn:attention", "--save", str(path)]) == 0
    capsys.readouterr()
    assert main(["tolerance", "attention", "--inputs", str(path)]) == 0
    assert "known bugs that the bound sees" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["attentoin"], "did you mean attention"),
        (["rope"], "rope needs x, positions"),
        (["attention", "--shape", "q=3x"], "it must be like q=8x128x64"),
        (["attention", "--shape", "x=3x4"], "attention takes no x"),
        (["attention", "--shape", "q=99999999x99999", "k=1", "v=1"], "an array of more than"),
        (["attention", "--inputs", "no-such-file.npz"], "no-such-file.npz"),
        (["attention", "--inputs", __file__], "is no archive of np.savez"),
        (["attention", "--precision", "half"], "precision is 'half'"),
        (["attention", "--mask", "casual"], "casual"),
        (["attention", "--option", "scale=big"], "it must be like scale=0.1"),
        (["attention", "--shape", "q=2x2", "k=2x3", "v=2x2"], "head size"),
    ],
)
def test_wrong_usage_is_one_line(arguments, says, capsys):
    assert main(["tolerance", *arguments]) == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
