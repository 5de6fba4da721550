"""replay: any case again by its id, saved, or shrunk to a program; and the cases of self-consistency."""

import numpy as np
import pytest

import refattn
from refattn.cli import main
from refattn.testing import adapters, consistency, replay
from refattn.testing.adapters import CallableAdapter
from refattn.testing.checking import all_cases, check, run_case

TARGET = "tests.testing.test_checking:top_left"


@pytest.mark.parametrize("step", [51, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("function", ["attention", "grouped_query_attention", "softmax", "attention_vjp"])
def test_ids_are_unique_and_give_the_same_case_again(function, step):
    adapter = CallableAdapter(refattn.attention, function)
    cases = list(all_cases(adapter, None, "standard", 3))
    assert len({case.id for case in cases}) == len(cases)
    for case in cases[::step]:
        again = replay.find(adapter, case.id, "standard", 3)
        for name, value in case.arguments.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(again.arguments[name], value)


@pytest.mark.parametrize(
    ("case_id", "message"),
    [
        ("attention.causal_wid.float32", "did you mean attention.causal_wide.float32"),
        ("attention.causal_wide.float64", "did you mean attention.causal_wide.float32"),
        ("nothing like it", "its functions are attention"),
    ],
)
def test_an_unknown_id_is_answered_with_the_nearest(case_id, message, capsys):
    assert main(["replay", case_id, "--impl", TARGET]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_case_of_another_effort_is_said_to_be_one(capsys):
    adapter = adapters.get(TARGET)
    few = {case.id for case in all_cases(adapter, None, "smoke", 0)}
    only_standard = next(case.id for case in all_cases(adapter, None, "standard", 0) if case.id not in few)
    assert main(["replay", only_standard, TARGET, "--effort", "smoke"]) == 2
    assert "add --effort standard" in capsys.readouterr().err


def test_replay_prints_what_is_given_and_what_comes_of_it(capsys, tmp_path):
    path = tmp_path / "case.data"
    assert main(["replay", "attention.causal_wide.float32", "--impl", TARGET, "--save", str(path)]) == 1
    text = capsys.readouterr().out
    assert "q            float32 (2, 3, 5, 8)" in text
    assert "mask         causal()" in text
    assert "BROKEN: causal/top_left (clause ATTN-ALIGN)" in text
    saved = np.load(path)
    got = refattn.attention(saved["input.q"], saved["input.k"], saved["input.v"], saved["input.mask"])
    np.testing.assert_allclose(got, saved["want.out"], rtol=1e-12)
    assert saved["bound.out"].shape == saved["want.out"].shape
    assert (saved["bound.out"] > 0).all()
    assert main(["replay", "attention.causal_wide.float32", "refattn:attention"]) == 0
    assert "HOLDS" in capsys.readouterr().out
    assert main(["replay", "attention.self.poison.float32", "refattn:attention"]) == 0
    assert main(["replay", "attention.causal_wide.float32"]) == 2


def test_the_smallest_case_is_small_and_its_program_fails_in_the_same_way(capsys):
    assert main(["replay", "attention.causal_wide.float32", "--impl", TARGET, "--minimize"]) == 1
    text = capsys.readouterr().out
    program = text[text.index("# the smallest case found") :]
    with pytest.raises(AssertionError, match="causal/top_left"):
        exec(compile(program, "program", "exec"), {})
    adapter = adapters.get(TARGET)
    least = replay.minimized(adapter, run_case(adapter, replay.find(adapter, "attention.causal_wide.float32"))).case
    q, k, v = (least.arguments[name] for name in "qkv")
    assert (q.shape, k.shape, v.shape) == ((1, 1), (2, 1), (2, 1)), "one query, two keys, and nothing else"


def test_an_axis_is_halved_and_then_shortened_by_one_at_either_end():
    cuts = {size: [(kept.start, kept.stop) for kept in replay._cuts(size)] for size in range(6)}
    assert cuts == {
        0: [],
        1: [],
        2: [(0, 1), (1, 2)],
        3: [(0, 1), (1, 3), (0, 2)],
        4: [(0, 2), (2, 4), (0, 3), (1, 4)],
        5: [(0, 2), (2, 5), (0, 4), (1, 5)],
    }


def test_numbers_are_made_whole_or_eighths():
    x = np.array([0.3, -1.6, np.nan, np.inf])
    np.testing.assert_array_equal(replay._round(x, 0), [0.0, -2.0, np.nan, np.inf])
    np.testing.assert_array_equal(replay._round(x, 1), [0.25, -1.625, np.nan, np.inf])
    for kept in (np.array([2.0, np.nan]), np.array([1, 2]), "causal"):
        assert replay._round(kept, 0) is kept


def test_options_go_first_then_axes_one_letter_at_a_time_then_ones_then_digits():
    x = {"q": np.full((1, 2, 5, 4), 0.3), "k": np.ones((1, 2, 7, 4)), "v": np.ones((1, 2, 7, 3)), "scale": 2.0}
    shapes = [{n: np.shape(a) for n, a in smaller.items()} for smaller in replay._smaller(x)]
    whole = {n: np.shape(a) for n, a in x.items()}
    assert shapes[0] == {n: shape for n, shape in whole.items() if n != "scale"}
    changed = [{n: shape for n, shape in found.items() if shape != whole[n]} for found in shapes[1:]]
    heads = {"q": (1, 1, 5, 4), "k": (1, 1, 7, 4), "v": (1, 1, 7, 3)}
    assert changed[:2] == [heads, heads]
    assert changed[2:6] == [{"q": (1, 2, n, 4)} for n in (2, 3, 4, 4)]
    assert changed[6:10] == [{"k": (1, 2, m, 4), "v": (1, 2, m, 3)} for m in (3, 4, 6, 6)]
    assert changed[10:14] == [{"q": (1, 2, 5, d), "k": (1, 2, 7, d)} for d in (2, 2, 3, 3)]
    assert changed[14:17] == [{"v": (1, 2, 7, d)} for d in (1, 2, 2)]
    assert changed[17:] == [{"q": (2, 5, 4), "k": (2, 7, 4), "v": (2, 7, 3)}, {}, {}]
    assert [smaller["q"].flat[0] for smaller in replay._smaller(x)][-2:] == [0.0, 0.25]


def test_what_holds_is_not_minimized():
    adapter = CallableAdapter(refattn.attention)
    result = run_case(adapter, replay.find(adapter, "attention.causal_wide.float32"))
    assert replay.minimized(adapter, result) is result


def inconsistent(kind):
    """Kernels that are right but for what they must not depend on."""

    def kernel(q, k, v, mask=None, *, scale=None, **options):
        out = refattn.attention(q, k, v, mask, scale=scale, **options)
        bent = np.float32(1 + 2.0**-23)
        first, *rest = out if isinstance(out, tuple) else (out,)
        if kind == "poison":
            first = first * bent if (k == -7).any() else first
        if kind == "prefix":
            first = first * (1 + 0.01 * (q.shape[-2] == 1))
        if kind == "permutation":
            first = first + 0.01 * v[..., :1, :].mean()
        if kind == "batch" and first.ndim == 4 and first.shape[0] > 1:
            first = first[[0, *range(first.shape[0] - 1)]]
        if kind == "heads":
            first = first * bent if first.ndim == 4 and np.all(q[:, -1] == 0.5) else first
        if kind == "rescaling":
            first = first * bent if scale == 0.3125 else first
        if kind == "strides" and not v.flags.c_contiguous:
            first = np.roll(first, 1, axis=-1)
        return (first, *rest) if rest else first

    return kernel


EVERYWHERE = [name for name, relation in consistency.RELATIONS.items() if relation.everywhere]  # others: test_limits.py


@pytest.mark.parametrize("relation", EVERYWHERE)
def test_each_relation_finds_the_kernel_that_breaks_it(relation):
    report = check(inconsistent(relation), only="attention.self.*", layout="reference")
    broken = {r.case.relation: r for r in report.results if r.status == "broken"}
    assert relation in broken
    assert broken[relation].clause == consistency.RELATIONS[relation].clause
    assert "would be right" in broken[relation].message


def test_the_reference_agrees_with_itself_in_every_precision():
    for precision in ("float64", "float32", "float16", "bfloat16"):
        report = check(refattn.attention, precision=precision, only="attention.self.*")
        assert report.ok
        assert len(report.results) == len(EVERYWHERE)
