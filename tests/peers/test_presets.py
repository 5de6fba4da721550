"""Presets that say they were measured: the implementation is run, asked, and does what its preset says."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from refattn.testing import adapters, presets
from refattn.testing.conventions import NOT_ASKED, UNKNOWN, points
from refattn.testing.identify import distance, identify
from refattn.testing.vectors import results
from tests.peers.implementations import MEASURED

# Keras computes with one library a process: its presets are of JAX, its adapter runs on NumPy.
ON_JAX = os.environ.get("KERAS_BACKEND") == "jax"
HERE = [name for name in MEASURED if name.startswith("keras") == ON_JAX]

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.ERROR)  # jax logs what it refuses
    yield
    logging.disable(logging.NOTSET)


def kernel_of(name):
    make, _ = MEASURED[name]
    try:
        return make()
    except ImportError as missing:
        pytest.skip(str(missing))


@pytest.mark.skipif(ON_JAX, reason="this is that process")
@pytest.mark.skipif("keras" not in adapters.installed(), reason="keras is not installed")
def test_keras_on_jax():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "peers", "-p", "no:cacheprovider", "-k", "keras", __file__],
        capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": "jax"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{2 * len([name for name in MEASURED if name.startswith('keras')])} passed" in done.stdout


def test_every_measured_preset_is_measured_here():
    assert {name for name in presets.names() if presets.get(name).evidence == "measured"} == set(MEASURED)


@pytest.mark.parametrize("name", HERE)
def test_the_implementation_is_identified_as_itself(name):
    found = identify(kernel_of(name))
    preset = presets.get(name)
    assert found.layout == preset.layout == MEASURED[name][1]
    own = next(a for a in found.agreements if a.preset == name)
    assert not own.differ, own.differ
    assert (len(found.agreements[0].differ), found.agreements[0].agree) == (0, own.agree)
    for f in found.findings[1:]:
        theirs = preset.answers[f.point]
        assert f.answer == theirs != UNKNOWN, f


@pytest.mark.parametrize("name", HERE)
def test_what_the_preset_computes_is_what_the_implementation_computes(name):
    """All variants at once, not one question on top of another."""
    kernel, preset = kernel_of(name), presets.get(name)
    compared = 0
    for point in points():
        if preset.answers[point.name] in (UNKNOWN, NOT_ASKED) or any(a.shows for a in point.answers):
            continue  # the log-sum-exp of an empty row is a finite number of which no preset says which
        arguments = point.ask()
        if preset.answers["scale/default"] == "refuses":
            arguments = {"scale": 0.25, **arguments}
        if "mask/polarity" in preset.variants and arguments.get("mask") is not None:
            arguments["mask"] = ~arguments["mask"]
        given = {
            n: x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x for n, x in arguments.items()
        }
        try:
            want = preset.attention(**given)
        except presets.Refused:
            continue
        if preset.layout == "bnhd":
            given |= {n: np.swapaxes(given[n], 1, 2) for n in ("q", "k", "v")}
        if point.name == "window/left" and preset.name in (
            "torch.sdpa.math",
            "mlx",
        ):  # a flag beside an array is refused
            given["mask"] = arguments["mask"].dense(5, 5)[None, None]
        got = results("grouped_query_attention", kernel(given.pop("q"), given.pop("k"), given.pop("v"), **given))
        out = np.swapaxes(got["out"], 1, 2) if preset.layout == "bnhd" else got["out"]
        assert distance(np.asarray(out, dtype=np.float64), results("grouped_query_attention", want)["out"]) < 1e-5, (
            point.name
        )
        compared += 1
    assert compared > 15


@pytest.mark.parametrize(
    ("target", "preset"),
    [("torch", "torch.sdpa"), ("jax", "jax.dpa"), ("onnx", "onnx.attention_25"), ("onnxruntime", "onnxruntime")],
)
def test_an_adapter_is_identified_by_the_name_of_its_library(target, preset):
    if target not in adapters.installed():
        pytest.skip(f"{target} is not installed")
    found = identify(target)
    best = [
        a
        for a in found.agreements
        if (len(a.differ), a.agree) == (len(found.agreements[0].differ), found.agreements[0].agree)
    ]
    assert preset in {a.preset for a in best}, [(a.preset, a.differ) for a in found.agreements[:3]]
