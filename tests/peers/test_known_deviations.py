"""What real implementations do is known by name, and nothing else is wrong with them."""

import pytest

from refattn.testing import allow, reports
from refattn.testing.adapters import NAMES, installed
from refattn.testing.checking import check

pytestmark = pytest.mark.peers

# What the specification says of each that people run into most: it must be found, and by this name.
NAMED = {
    "onnxruntime": {"causal/top_left", "mask/adds", "values/multiplied_by_zero", "scale/square_root_on_both"},
    "onnx": {
        "causal/top_left",
        "window/top_left",
        "mask/adds",
        "values/multiplied_by_zero",
        "scale/square_root_on_both",
    },
    "torch": {"causal/top_left", "mask/adds", "values/multiplied_by_zero", "bias/infinity_adds"},
    "jax": {"causal/top_left", "empty_row/mean", "values/multiplied_by_zero"},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_deviation_is_known(name):
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    report = check(name, allow=allow.shipped())
    assert report.ok, reports.as_text(report)
    assert not report.stale, report.stale
    found = {deviation for function, deviation in report.deviations("known") if function == "attention"}
    assert NAMED[name] <= found
