"""What real implementations do is known by name, and nothing else is wrong with them."""

import pytest

from refattn.testing import allow, reports
from refattn.testing.adapters import NAMES, installed
from refattn.testing.checking import check

pytestmark = pytest.mark.peers

# What the specification says of each that people run into most: it must be found in attention, and by this name.
LEAKS = {"values/multiplied_by_zero", "bias/infinity_adds"}
NAMED = {
    "onnxruntime": {"causal/top_left", "mask/adds", "scale/square_root_on_both"} | LEAKS,
    "onnx": {"causal/top_left", "window/top_left", "mask/adds", "scale/square_root_on_both"} | LEAKS,
    "torch": {"causal/top_left", "mask/adds"} | LEAKS,
    "torch.math": {"causal/top_left", "mask/adds"} | LEAKS,
    "torch.flex": LEAKS,
    "torch.mha": {"empty_row/nan", "mask/adds"} | LEAKS,
    "jax": {"causal/top_left", "window/top_left", "empty_row/mean", "lse/bfloat16"} | LEAKS,
    "transformers": {"empty_row/mean", "mask/adds"} | LEAKS,
    "keras": {"causal/top_left", "empty_row/mean"} | LEAKS,
    "mlx": {"empty_row/mean"} | LEAKS,
}
FOUND_HERE = {"keras": {("layer_norm", "layer_norm/one_pass_variance")}}


def test_every_adapter_has_a_list():
    assert set(NAMED) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_deviation_is_known(name):
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    report = check(name, allow=allow.shipped())
    assert report.ok, reports.as_text(report)
    assert not report.stale, report.stale
    found = set(report.deviations("known"))
    assert {("attention", deviation) for deviation in NAMED[name]} <= found
    assert FOUND_HERE.get(name, set()) <= found
