"""The test files in examples/ pass as they are, in another folder, and fail when their kernel is broken on purpose."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.peers

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"  # compiling is what takes time

# file -> the libraries that it needs, a line of its kernel, a wrong line, what the kit must say of it
FILES = {
    "test_torch_kernel.py": (
        ["torch"],
        "rows = torch.arange(m - n, m)[:, None]",
        "rows = torch.arange(n)[:, None]",
        "causal/top_left",
    ),
    "test_triton_kernel.py": (
        ["torch", "triton"],
        "keys[None, :] <= rows[:, None] + m - n",
        "keys[None, :] <= rows[:, None]",
        "causal/top_left",
    ),
    "test_jax_kernel.py": (
        ["jax"],
        "jnp.where(allowed, scores, -jnp.inf)",
        "jnp.where(allowed, -jnp.inf, scores)",
        "mask/polarity",
    ),
    "test_onnx_model.py": (
        ["onnx", "onnxruntime"],
        '["mask", "scores", "minus_infinity"]',
        '["mask", "minus_infinity", "scores"]',
        "mask/polarity",
    ),
}


def run(folder, name, text, *chosen):
    if absent := [library for library in FILES[name][0] if importlib.util.find_spec(library) is None]:
        pytest.skip(f"{' and '.join(absent)} not installed")
    (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "refattn_pytest", "-p", "no:cacheprovider"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1", "XLA_FLAGS": QUICK}
    effort = ["--refattn-effort", "smoke"] if name != "test_torch_kernel.py" else []
    done = subprocess.run(
        [*command, *effort, *chosen, name], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", FILES)
def test_an_example_passes(name, tmp_path):
    code, output = run(tmp_path, name, (ROOT / "examples" / name).read_text())
    assert code == 0, output


@pytest.mark.parametrize("name", FILES)
def test_an_example_whose_kernel_is_broken_fails_and_names_the_mistake(name, tmp_path):
    _, line, wrong, says = FILES[name]
    text = (ROOT / "examples" / name).read_text()
    assert text.count(line) == 1
    code, output = run(tmp_path, name, text.replace(line, wrong), "-k", "one_result")
    assert code == 1, output
    assert says in output


def test_every_example_is_tried():
    assert set(FILES) == {path.name for path in (ROOT / "examples").glob("test_*.py")}
