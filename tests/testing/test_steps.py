"""A function of the reference with a step replaced: there and nowhere else."""

import numpy as np
import pytest

import refattn
from refattn import masks
from refattn.attention import attention_stages, capped
from refattn.testing.steps import Then, together, with_steps

DRAW = np.random.default_rng(0)
Q, K, V = (DRAW.normal(size=(2, n, 4)) for n in (3, 5, 5))
OPTIONS = {"mask": masks.causal(), "softcap": 1.5, "sinks": np.array([0.5, -1.0])}


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_what_is_replaced_is_what_is_called_and_what_comes_before_it_is_as_it_was():
    right = attention_stages(Q, K, V, **OPTIONS)
    wrong = with_steps(attention_stages, capped=lambda xp, s, cap: np.clip(s, -cap, cap))(Q, K, V, **OPTIONS)
    assert equal(wrong[:1], right[:1])
    np.testing.assert_array_equal(wrong.softcap, np.clip(right.scores, -1.5, 1.5))
    assert not np.allclose(wrong.out, right.out)


@pytest.mark.parametrize("step", ["shifted_exp", "sunk", "level"])  # called by another step
def test_a_step_inside_of_a_step(step):
    def raising(*args, **options):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        with_steps(refattn.attention, **{step: raising})(Q, K, V, **OPTIONS)


def test_a_step_that_a_function_inside_of_another_calls():
    nothing = lambda xp, weights, present, x: 0.0 * (weights @ x)
    assert refattn.attention_vjp(Q, Q, K, V).k.any()
    assert not with_steps(refattn.attention_vjp, product_of_present=nothing)(Q, Q, K, V).k.any()


def test_the_reference_is_left_alone_also_while_a_replacement_runs():
    right = attention_stages(Q, K, V, **OPTIONS)
    seen = []

    def nosy(xp, s, cap):
        seen.append(attention_stages(Q, K, V, **OPTIONS))
        return 2.0 * capped(xp, s, cap)

    with_steps(attention_stages, capped=nosy)(Q, K, V, **OPTIONS)
    assert equal(seen[0], right)
    assert equal(attention_stages(Q, K, V, **OPTIONS), right)


def test_a_change_after_a_step_follows_whatever_the_step_is():
    doubled, right = Then(lambda s: 2.0 * s), attention_stages(Q, K, V, **OPTIONS)
    np.testing.assert_array_equal(with_steps(attention_stages, scored=doubled)(Q, K, V).scores, 2.0 * right.scores)
    ones = lambda xp, q, k, scale: np.ones((2, 3, 5))
    for both in (together({"scored": doubled}, {"scored": ones}), together({"scored": ones}, {"scored": doubled})):
        assert (with_steps(attention_stages, **both)(Q, K, V).scores == 2.0).all()
    twice = together({"scored": doubled}, {"scored": Then(lambda s: s + 1.0)})
    np.testing.assert_array_equal(with_steps(attention_stages, **twice)(Q, K, V).scores, 2.0 * right.scores + 1.0)


def test_a_step_that_leads_to_another_may_be_replaced_with_it():
    nothing = lambda xp, s, sinks: (np.zeros_like(s), s[..., 0])
    found = with_steps(attention_stages, weighted=nothing, shifted_exp=None)(Q, K, V)
    assert not found.out.any()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="attention has no step 'cap'"):
        with_steps(refattn.attention, cap=capped)
    with pytest.raises(ValueError, match=r"^capped$"):
        together({"capped": capped}, {"capped": capped})
