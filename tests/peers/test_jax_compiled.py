"""jax is compiled quickly for the check; as JAX compiles by itself, the same calls get the same verdicts."""

import pytest

from refattn.testing import checking

pytest.importorskip("jax")

from refattn.testing.adapters.jax_nn import Jax

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def test_quick_compilation_changes_no_verdict():
    """Every golden case in float32, and what is told of it."""
    quick, usual = Jax(), Jax(optimised=True)
    assert quick.options is not None
    assert usual.options is None
    cases = [c for c in checking.all_cases(quick, None, "smoke", 0) if c.id.split(".")[-2].isdigit()]
    assert len(cases) > 80
    for case in cases:
        got, want = (checking.run_case(adapter, case) for adapter in (quick, usual))
        assert (got.status, got.deviation, got.reason) == (want.status, want.deviation, want.reason), case.id
