"""jax is compiled quickly for the check; as JAX compiles by itself, the same calls give the same numbers."""

import numpy as np
import pytest

from refattn.testing import checking
from refattn.testing.reference import to_numpy
from refattn.testing.vectors import results

pytest.importorskip("jax")

from refattn.testing.adapters.jax_nn import Jax

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def answer(adapter, case):
    """The results of a case, or the exception."""
    arguments = {name: checking.cast(value, case.dtype) for name, value in case.arguments.items()}
    try:
        returned = adapter.call(case.function, case.dtype)(**arguments)
    except Exception as error:
        return {"raises": type(error).__name__}
    return {name: to_numpy(x) for name, x in results(returned).items()}


def test_quick_compilation_changes_nothing_beyond_rounding():
    """Every golden case: the same exceptions, the same NaN and infinities, numbers within 4 units of roundoff."""
    quick, usual = Jax(), Jax(optimised=True)
    assert quick.options is not None
    assert usual.options is None
    cases = [c for c in checking.all_cases(quick, None, "smoke", 0) if c.id.split(".")[-2].isdigit()]
    assert len(cases) > 80
    for case in cases:
        got, want = answer(quick, case), answer(usual, case)
        assert got.keys() == want.keys(), case.id
        for name, x in got.items():
            if name == "raises":
                assert x == want[name]
                continue
            largest = np.max(np.abs(want[name][np.isfinite(want[name])]), initial=0.0)
            np.testing.assert_allclose(x, want[name], rtol=0, atol=4 * 2.0**-24 * largest, err_msg=case.id)
