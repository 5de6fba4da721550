"""The command `refattn`: check an implementation, list what there is, show one thing.

NumPy is imported by the commands that need it, not by --help.
"""

from __future__ import annotations

import argparse
import os
import sys

PASS, NONCONFORMING, USAGE, UNAVAILABLE = 0, 1, 2, 3

EPILOG = """\
exit codes: 0 conforms (or deviates only as an allow-list says), 1 does not conform, 2 wrong usage, 3 not available

examples:
  refattn check onnxruntime
  refattn check mypackage.kernels:flash --precision bfloat16 --layout bnhd
  refattn identify mypackage.kernels:flash
  refattn show MASK-EMPTY
  refattn show "causal() & window(3, 0)"
"""


IDENTIFY_EPILOG = """\
examples:
  refattn identify torch
  refattn identify mypackage.kernels:flash --precision bfloat16
  refattn identify mypackage.rotary:apply --function rope
  refattn identify flash_attn.2
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="refattn",
        description="The golden specification of attention: judge an implementation, clause by clause.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    check = commands.add_parser("check", help="check an implementation against the specification")
    check.add_argument(
        "target", help="onnxruntime, onnx, torch, jax, or module:function with the reference function's signature"
    )
    check.add_argument("--function", help="which reference function module:function implements (default: attention)")
    check.add_argument("--mechanism", help="check only the functions of this mechanism (refattn list)")
    check.add_argument("--layout", choices=["bhnd", "bnhd"], default="bhnd", help="the axes that module:function wants")
    check.add_argument("--precision", help="what module:function promises to round and where (default: float32)")
    check.add_argument("--effort", choices=["smoke", "standard", "full"], default="standard", help="how many cases")
    check.add_argument("--seed", type=int, default=0, help="of the random cases")
    check.add_argument(
        "--case", default="*", metavar="PATTERN", help="only cases whose id matches, as a failure prints it"
    )
    check.add_argument("--allow", metavar="FILE", help="a TOML file of known deviations, besides the shipped ones")
    check.add_argument("--no-known", action="store_true", help="judge without the shipped list of known deviations")
    check.add_argument("--json", metavar="FILE", help="write the report as JSON ('-' for standard output)")
    check.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")
    check.add_argument("--verbose", action="store_true", help="explain known deviations too")

    identify = commands.add_parser(
        "identify",
        help="find out which conventions an implementation follows, and which known one it resembles",
        description="Probe an implementation at every decision point, and rank the presets that it agrees with.",
        epilog=IDENTIFY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    identify.add_argument("target", help="an adapter (refattn list targets), module:function, or a preset")
    identify.add_argument("--function", help="which reference function it implements (default: attention)")
    identify.add_argument("--layout", choices=["auto", "bhnd", "bnhd", "reference"], default="auto", help="its axes")
    identify.add_argument("--precision", default="float32", help="the format of its inputs (refattn list precisions)")
    identify.add_argument("--json", action="store_true", help="print JSON")

    listing = commands.add_parser("list", help="list mechanisms, functions, clauses, variants, targets or profiles")
    listing.add_argument(
        "what",
        nargs="?",
        default="mechanisms",
        choices=["mechanisms", "functions", "clauses", "variants", "presets", "targets", "precisions", "masks"],
    )

    show = commands.add_parser("show", help="show a mechanism, function, clause, variant, golden case or mask")
    show.add_argument("name", help="for example attention, MASK-EMPTY, causal/top_left, 'causal() & window(3, 0)'")
    show.add_argument("--size", type=int, nargs=2, metavar=("N", "M"), default=(16, 16), help="of a drawn mask")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the result is the exit code."""
    top = parser()
    options = top.parse_args(arguments)
    try:
        if options.version:
            from refattn import __version__

            print(f"refattn {__version__}")
            return PASS
        if options.command is None:
            top.print_help()
            return USAGE
        return {"check": _check, "identify": _identify, "list": _list, "show": _show}[options.command](options)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PASS


def _fail(message, code):
    print(f"refattn: {message}", file=sys.stderr)
    return code


def _color():
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _check(options):
    from refattn.testing import adapters, allow, reports
    from refattn.testing.checking import check

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:function may lie in the present folder
    try:
        target = adapters.get(options.target, options.function, precision=options.precision, layout=options.layout)
    except adapters.NotInstalled as error:
        return _fail(error, UNAVAILABLE)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        return _fail(error, USAGE)
    try:
        known = [] if options.no_known else allow.shipped()
        if options.allow:
            known += allow.read(options.allow)
        report = check(
            target,
            mechanism=options.mechanism,
            effort=options.effort,
            seed=options.seed,
            only=options.case,
            allow=known,
            progress=reports.progress_on(),
        )
    except (ValueError, OSError) as error:
        return _fail(error, USAGE)
    if options.json:
        _write(options.json, reports.as_json(report))
    if options.junit:
        _write(options.junit, reports.as_junit(report))
    if options.json != "-":
        print(reports.as_text(report, color=_color(), verbose=options.verbose))
    return PASS if report.ok else NONCONFORMING


def _write(place, text):
    if place == "-":
        print(text)
    else:
        with open(place, "w", encoding="utf-8") as file:
            file.write(text)


def _identify(options):
    from refattn.testing import adapters
    from refattn.testing.identify import as_json, as_text, identify

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # module:function may lie in the present folder
    try:
        found = identify(options.target, options.function, precision=options.precision, layout=options.layout)
    except adapters.NotInstalled as error:
        return _fail(error, UNAVAILABLE)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        return _fail(error, USAGE)
    print(as_json(found) if options.json else as_text(found))
    return PASS


def _list(options):
    from refattn.testing import catalogue

    for name, about in catalogue.listing(options.what):
        print(f"{name:<28} {about}".rstrip())
    return PASS


def _show(options):
    from refattn.testing import catalogue

    try:
        print(catalogue.shown(options.name, *options.size))
    except LookupError as error:
        return _fail(error.args[0], USAGE)
    return PASS


if __name__ == "__main__":
    sys.exit(main())
