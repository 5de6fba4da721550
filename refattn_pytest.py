"""The pytest plugin of refattn: options, fixtures, and the suite `pytest --pyargs refattn.conformance`.

pytest loads this file in every run on a machine that has refattn, so it imports nothing: whatever costs time is imported
by what is asked for.
"""

import pytest

SUITE = "refattn.conformance"


def pytest_addoption(parser):
    group = parser.getgroup("refattn", "refattn: judge an implementation of attention")
    group.addoption(
        "--refattn-impl",
        metavar="TARGET",
        help=f"what {SUITE} judges: module:function, or torch, jax, onnxruntime, ...",
    )
    group.addoption(
        "--refattn-function", metavar="NAME", help="the reference function it implements (default: attention)"
    )
    group.addoption("--refattn-precision", metavar="NAME", help="what it promises to round (default: float32)")
    group.addoption(
        "--refattn-limits",
        metavar="TEXT",
        help="what it takes, such as 'D in 64,128; M %% 16 == 0; N == M; causal': it is asked for nothing else"
        " (default: found by asking)",
    )
    group.addoption("--refattn-layout", choices=["bhnd", "bnhd"], default="bhnd", help="the axes it takes")
    group.addoption(
        "--refattn-effort", choices=["smoke", "standard", "full"], default="standard", help="how many cases"
    )
    group.addoption("--refattn-seed", type=int, default=0, metavar="N", help="of the random cases")
    group.addoption(
        "--refattn-at-least",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="of the known mistakes that can occur, how much must be excluded (0: nothing is asked)",
    )
    group.addoption(
        "--refattn-time",
        type=float,
        metavar="SECONDS",
        help="how long it may take in each process, about: what was left out is skipped, and said at the end",
    )
    group.addoption("--refattn-allow", metavar="FILE", help="a TOML file of deviations that are known")
    group.addoption(
        "--refattn-clause",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only these clauses, as MASK-* (repeatable)",
    )


def pytest_configure(config):
    asked = any(str(argument).split("::")[0].endswith((SUITE, "refattn/conformance.py")) for argument in config.args)
    if config.getoption("refattn_impl") or asked:
        from refattn import conformance

        conformance.start(config)


def pytest_pycollect_makemodule(module_path, parent):
    if module_path.name != "conformance.py" or module_path.parent.name != "refattn":
        return None
    from refattn import conformance

    return conformance.Suite.from_parent(parent, path=module_path, nodeid=SUITE)


@pytest.fixture
def refattn_check(request):
    """A function that fails the test unless an implementation conforms: refattn_check(kernel, precision="bfloat16").

    It takes what `refattn.testing.check` takes; effort, seed and allow-list come from the command line where they are
    not given. It returns the report.
    """
    from refattn import conformance

    return conformance.checker(request.config)


@pytest.fixture
def refattn_matches():
    """`refattn.testing.assert_matches`, failing with its message alone, without a traceback."""
    from refattn import conformance

    return conformance.matches
