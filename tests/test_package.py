"""The package as it is installed: cheap to import, nothing but NumPy and SciPy needed, the specification inside."""

import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import refattn

ROOT = Path(__file__).parents[1]


def modules_after(code):
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_refattn_imports_nothing_but_itself():
    before = modules_after("pass")
    assert modules_after("import refattn") - before <= set(sys.stdlib_module_names) | {"refattn"}


def test_using_refattn_needs_numpy_and_scipy_only():
    code = "import numpy, refattn\nfor name in refattn.__all__: getattr(refattn, name)\nimport refattn.testing\nfor name in refattn.testing.__all__: getattr(refattn.testing, name)"
    standard = set(sys.stdlib_module_names)
    foreign = {name for name in modules_after(code) - standard if not name.startswith("_")}
    assert foreign - modules_after("import numpy, scipy.special") <= {"refattn"}


def test_every_public_name_can_be_had_and_modules_do_not_hide_functions():
    for name in refattn.__all__:
        getattr(refattn, name)
    importlib.import_module("refattn.attention")
    importlib.import_module("refattn.softmax")
    assert callable(refattn.softmax)
    assert callable(refattn.attention)
    assert "attention" in dir(refattn)
    with pytest.raises(AttributeError, match="no attribute 'flash'"):
        refattn.flash  # noqa: B018


@pytest.mark.slow
def test_the_wheel_carries_the_specification(tmp_path):
    pytest.importorskip("pip")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name.removeprefix("refattn/_spec/") for name in zipfile.ZipFile(wheel).namelist() if "/_spec/" in name}
    tracked = {
        str(p.relative_to(ROOT / "spec"))
        for p in (ROOT / "spec").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert inside == tracked
