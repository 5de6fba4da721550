"""The command `refattn`: check an implementation, list what there is, show one thing.

NumPy is imported by the commands that need it, not by --help.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from refattn import console

PASS, NONCONFORMING, USAGE, UNAVAILABLE, INTERRUPTED = 0, 1, 2, 3, 130
TERMINATED = 143  # by SIGTERM, after the report

EPILOG = """\
exit codes: 0 conforms (or deviates only as an allow-list says), 1 does not conform, 2 wrong usage, 3 not available
or some case could not be judged, 130 interrupted, 143 terminated (what was found until then is reported)

examples:
  refattn check onnxruntime
  refattn check --all --html report.html
  refattn check mypackage.kernels:flash --precision bfloat16 --layout bnhd
  refattn identify mypackage.kernels:flash
  refattn replay attention.causal_wide.float32 --impl torch
  refattn diff old.json new.json
  refattn tolerance attention --shape q=8x512x64 k=8x512x64 v=8x512x64 --mask causal --precision bfloat16
  refattn show MASK-EMPTY
  refattn show "causal() & window(3, 0)"
  refattn show "sparse/window(left=3, right=1)"
"""

CHECK_EPILOG = """\
allow-lists are TOML: tables [[allow]] with target, function, deviation, reason, until (a date) and perhaps cases (a
pattern of ids) and versions (["1.32"]: the releases that it holds for). An entry counts until its date. With --allow, a
list that is out of date fails the check: an entry that has expired, that names a function or cases which do not exist,
or (where all cases are run) whose deviation no longer shows; --no-strict only mentions it. The lists that come with
refattn say which releases they were measured on. Another release is judged by the nearest older one, the report says so,
and what is out of date is only mentioned unless --strict is given.

A report says which of the known mistakes (refattn list variants) its cases would have shown, of those that can occur in
calls of the kind that the implementation takes. Where that is less than --at-least, or one that is often made is not
among them, the verdict is WEAK, and the exit code 1; in an allow-list that deviation is called coverage/weak. Nothing is
asked of --effort smoke and of --case.

exit codes: 0 conforms (or deviates only as an allow-list says), 1 does not conform or too little was checked (WEAK),
2 wrong usage, 3 not available or some case could not be judged, 130 interrupted, 143 terminated (what was found until
then is reported). With --all it is the worst of all implementations.

examples:
  refattn check onnxruntime
  refattn check --all --html report.html
  refattn check mypackage.kernels:flash --precision bfloat16 --layout bnhd --junit report.xml
  refattn check mypackage.kernels:flash --case 'attention.causal*' --allow known.toml
  refattn check mypackage.kernels:flash --limits 'D in 64, 128; D == Dv; causal'
"""

REPLAY_EPILOG = """\
exit codes as for check

examples:
  refattn replay attention.causal_wide.float32 --impl torch
  refattn replay attention.causal_wide.float32 mypackage.kernels:flash --minimize
"""


IDENTIFY_EPILOG = """\
examples:
  refattn identify torch
  refattn identify mypackage.kernels:flash --precision bfloat16
  refattn identify mypackage.rotary:apply --function rope
  refattn identify flash_attn.2
"""


DIFF_EPILOG = """\
exit codes: 0 nothing changed, 1 something did, 2 wrong usage (no report, or no target in both)

examples:
  refattn check mypackage.kernels:flash --json old.json     # and after the upgrade, or the rewrite: new.json
  refattn diff old.json new.json
"""

TOLERANCE_EPILOG = """\
examples:
  refattn tolerance attention --shape q=8x512x64 k=8x512x64 v=8x512x64 --mask causal --precision bfloat16
  refattn tolerance rms_norm --shape x=16x4096 gamma=4096 --precision float16
  refattn tolerance attention --inputs mine.npz --option scale=0.1
"""


def _natural(text):
    if not text.isascii() or not text.isdigit() or len(text) > 40:
        raise argparse.ArgumentTypeError(f"it is {text[:80]!r}; it must be a whole number of 0 or more")
    return int(text)


def _share(text):
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"it is {text[:80]!r}; it must be a share between 0 and 1")
    return share


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"it is {text[:80]!r}; it must be a number of seconds above 0")
    return seconds


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        from refattn.testing.printable import printable

        super().error(printable(message))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="refattn",
        description="The golden specification of attention: judge an implementation, clause by clause.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")

    check = commands.add_parser(
        "check",
        help="check an implementation against the specification",
        description="Check an implementation against the specification, clause by clause.",
        epilog=CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("--all", action="store_true", help="every adapter that is installed, with a matrix at the end")
    check.add_argument(
        "target",
        nargs="?",
        help="an adapter (refattn list targets), module:function with the reference function's signature, or"
        " 'exec:COMMAND', a program that speaks the line protocol (docs/adapters.md)",
    )
    check.add_argument(
        "--function",
        help="which reference function module:function implements (default: attention); of an adapter, check only this",
    )
    check.add_argument("--mechanism", help="check only the functions of this mechanism (refattn list)")
    check.add_argument(
        "--layout",
        choices=["bhnd", "bnhd"],
        default="bhnd",
        help="the axes that module:function wants, of attention or rope",
    )
    check.add_argument(
        "--precision",
        help="what module:function promises to round and where (default: float32); of an adapter, check only this dtype",
    )
    check.add_argument(
        "--limits",
        metavar="TEXT",
        help="what it takes, such as 'D in 64,128; M %% 16 == 0; N == M; causal': it is asked for nothing else"
        " (default: found by asking)",
    )
    check.add_argument(
        "--effort", choices=["smoke", "standard", "full"], default="standard", help="how many cases (default: standard)"
    )
    check.add_argument("--seed", type=_natural, default=0, help="of the random cases")
    check.add_argument(
        "--case", default="*", metavar="PATTERN", help="only cases whose id matches, as a failure prints it"
    )
    check.add_argument(
        "--at-least",
        type=_share,
        metavar="SHARE",
        help="how much of the known mistakes that can occur must be excluded (default: 0.9; 0 asks for nothing)",
    )
    check.add_argument(
        "--time",
        type=_seconds,
        metavar="SECONDS",
        help="how long it may take, about (default: as long as it takes): the report says what was left out",
    )
    check.add_argument("--allow", metavar="FILE", help="a TOML file of known deviations, besides the shipped ones")
    check.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        help="fail where an allow-list is out of date (default: with --allow; see below)",
    )
    check.add_argument("--no-known", action="store_true", help="judge without the shipped list of known deviations")
    check.add_argument("--json", metavar="FILE", help="write the report as JSON ('-' for standard output)")
    check.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")
    check.add_argument("--html", metavar="FILE", help="write the report as one HTML page")
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

    replay = commands.add_parser(
        "replay",
        help="run one case again, in full",
        description="Run one case again by its id, and say what it is given and what comes of it.",
        epilog=REPLAY_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("id", help="the case, as a report prints it")
    replay.add_argument("target", nargs="?", help="the implementation, as for check")
    replay.add_argument("--impl", metavar="TARGET", help="another way to name the target")
    replay.add_argument("--function", help="which reference function module:function implements (default: attention)")
    replay.add_argument(
        "--layout", choices=["bhnd", "bnhd"], default="bhnd", help="the axes that module:function wants"
    )
    replay.add_argument("--precision", help="what module:function promises to round and where (default: float32)")
    replay.add_argument(
        "--limits",
        metavar="TEXT",
        help="what it takes, such as 'D in 64,128; M %% 16 == 0; N == M; causal': of the check that reported it",
    )
    replay.add_argument(
        "--effort", choices=["smoke", "standard", "full"], default="standard", help="of the check that reported it"
    )
    replay.add_argument("--seed", type=_natural, default=0, help="of the check that reported it")
    replay.add_argument("--save", metavar="FILE", help="write inputs, expected results and bounds as .npz")
    replay.add_argument(
        "--minimize", action="store_true", help="find the smallest case that fails so, and print it as a program"
    )

    how_large = commands.add_parser(
        "tolerance",
        help="how large an atol and an rtol must be, and which bugs they let pass",
        description="How far a correct kernel can be from exact for given inputs, the tightest atol and rtol that accuse\n"
        "none, and the known bugs that these let pass. Inputs are normal numbers, or those of a file.",
        epilog=TOLERANCE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how_large.add_argument(
        "function", nargs="?", default="attention", help="a reference function (refattn list functions)"
    )
    how_large.add_argument(
        "--shape", nargs="+", action="extend", default=[], metavar="NAME=AxBxC", help="an input's sizes"
    )
    how_large.add_argument(
        "--inputs", metavar="FILE", help="a .npz with the inputs by name, as replay --save writes it"
    )
    how_large.add_argument("--mask", metavar="RULE", help="a mask, such as causal or 'causal() & window(3, 0)'")
    how_large.add_argument(
        "--option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NUMBER",
        help="another argument, such as scale=0.1",
    )
    how_large.add_argument("--precision", default="float32", help="what the kernel promises (refattn list precisions)")
    how_large.add_argument("--seed", type=_natural, default=0, help="of the numbers that are drawn")

    diff = commands.add_parser(
        "diff",
        help="what changed between two reports",
        description="What changed between two reports of check --json, or of check --all --json: deviations that came, went\n"
        "or show in other cases, by clause and by name. A deviation counts whether a list knows it or not.",
        epilog=DIFF_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diff.add_argument("old", metavar="OLD.json")
    diff.add_argument("new", metavar="NEW.json")

    listing = commands.add_parser(
        "list", help="list mechanisms (default), functions, clauses, targets, precisions and more"
    )
    listing.add_argument(
        "what",
        nargs="?",
        default="mechanisms",
        choices=["mechanisms", "functions", "clauses", "variants", "presets", "targets", "precisions", "masks"],
    )

    show = commands.add_parser("show", help="show a mechanism, function, clause, variant, golden case or mask")
    show.add_argument(
        "name",
        help="for example attention, MASK-EMPTY, causal/top_left, 'causal() & window(3, 0)', sparse/window, 'sparse/window(left=2, right=0)'",
    )
    show.add_argument(
        "--size", type=_natural, nargs=2, metavar=("N", "M"), default=(16, 16), help="of a drawn mask or pattern"
    )
    return top


class _Ending:
    """SIGTERM ends a command as Ctrl-C does, so that a check reports what it has; but not its report."""

    def __init__(self):
        self.came = self.reporting = False

    def __enter__(self):
        import signal
        import threading

        self._before = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._end) or signal.SIG_DFL
        return self

    def __exit__(self, *_):
        import signal

        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _end(self, number, frame):
        first, self.came = not self.came, True
        if first and not self.reporting:
            raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the result is the exit code."""
    with console.any_terminal():
        top = parser()
        try:
            try:
                options = top.parse_args(arguments)
            finally:
                console.say("")  # --help has been printed, and perhaps not yet written
            with _Ending() as options.ending:
                try:
                    code = _run(top, options)
                except KeyboardInterrupt:  # outside the cases of a check, which reports what it has
                    code = _fail("interrupted", INTERRUPTED)
                return TERMINATED if code == INTERRUPTED and options.ending.came else code
        except OSError as error:  # what was found cannot be said
            return _fail(error if error.filename else error.strerror or error, USAGE)


def _run(top, options):
    if options.version:
        from refattn import __version__

        console.say(f"refattn {__version__}")
        return PASS
    if options.command is None:
        console.say(top.format_help().rstrip())
        return USAGE
    return {
        "check": _check, "replay": _replay, "identify": _identify, "tolerance": _tolerance, "diff": _diff,
        "list": _list, "show": _show,
    }[options.command](options)  # fmt: skip


def _fail(message, code):
    console.fail(message)
    return code


def _color():
    return console.is_terminal(sys.stdout) and "NO_COLOR" not in os.environ


def _look_here():
    """A module:function may lie in the present folder, if there is one."""
    with contextlib.suppress(OSError):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())


def _found(options, name):
    """The adapter that was named, or the exit code with which the command ends."""
    from refattn.testing import adapters

    _look_here()
    try:
        return adapters.get(name, options.function, precision=options.precision, layout=options.layout)
    except adapters.NotAvailable as error:
        return _fail(error, UNAVAILABLE)
    except (ValueError, TypeError) as error:
        return _fail(error, USAGE)


def _check(options):
    if options.all == (options.target is not None):
        return _fail("check takes a target, or --all for every adapter that is installed", USAGE)
    if options.all and (options.function or options.precision or options.limits or options.junit):
        return _fail("--all goes with neither --function, --precision, --limits nor --junit", USAGE)
    try:
        console.check_places(_places(options))
    except ValueError as error:
        return _fail(error, USAGE)
    return _check_all(options) if options.all else _check_one(options)


def _check_one(options):
    from refattn.testing import allow, reports
    from refattn.testing.checking import check
    from refattn.testing.coverage import AT_LEAST

    target = _found(options, options.target)
    if isinstance(target, int):
        return target
    try:
        known = [] if options.no_known else allow.shipped()
        if options.allow:
            own = allow.read(options.allow)
            known += own
            if others := allow.of_others(own, target.name):
                console.tell(sys.stderr, f"{options.allow}: {others}\n")
        report = check(
            target,
            options.function,
            mechanism=options.mechanism,
            precision=options.precision,
            limits=options.limits,
            effort=options.effort,
            seed=options.seed,
            only=options.case,
            allow=known,
            strict=bool(options.allow) if options.strict is None else options.strict,
            at_least=AT_LEAST if options.at_least is None else options.at_least,
            seconds=options.time,
            progress=reports.progress_on(),
        )
        options.ending.reporting = True
        for option in ("function", "precision", "layout"):
            if ":" in options.target:
                report.options[option] = getattr(options, option)
    except (ValueError, OSError) as error:
        return _fail(error, USAGE)
    code = UNAVAILABLE if report.count("unjudged") else PASS if report.ok else NONCONFORMING
    written = _write(
        options,
        text=lambda: reports.as_text(report, color=_color(), verbose=options.verbose),
        json=lambda: reports.as_json(report),
        junit=lambda: reports.as_junit(report),
        html=lambda: reports.as_html([reports.as_document(report)]),
    )
    return INTERRUPTED if report.interrupted else max(code, written)


def _places(options):
    return {f"--{name}": getattr(options, name) for name in ("json", "junit", "html")}


def _write(options, *, text, **reports):
    """Write the reports that were asked for, and the text where none goes to standard output.

    One that cannot be written keeps none of the others from being written; the result is the exit code that it asks for.
    """
    code = PASS
    for name, made in reports.items():
        place = getattr(options, name)
        try:
            if place is not None:
                console.write(place, made())
        except OSError as error:
            code = _fail(f"--{name} could not be written to {place}: {error.strerror or error}", USAGE)
    try:
        if "-" not in _places(options).values():
            console.say(text())
    except OSError as error:
        code = _fail(error.strerror or error, USAGE)
    return code


def _check_all(options):
    import json

    from refattn.testing import adapters, reports
    from refattn.testing.everything import check_all

    names = adapters.installed()
    if not names:
        return _fail(
            f"no adapter's library is installed; there are adapters for {', '.join(adapters.NAMES)}", UNAVAILABLE
        )
    words = ["--effort", options.effort, "--seed", str(options.seed), "--case", options.case]
    words += ["--mechanism", options.mechanism] if options.mechanism else []
    words += ["--allow", options.allow] if options.allow else []
    words += [] if options.at_least is None else ["--at-least", str(options.at_least)]
    words += [] if options.time is None else ["--time", str(options.time)]
    words += ["--no-known"] if options.no_known else []
    words += [] if options.strict is None else ["--strict" if options.strict else "--no-strict"]
    found = check_all(names, words)
    options.ending.reporting = True
    written = _write(
        options,
        text=lambda: found.text(verbose=options.verbose),
        json=lambda: json.dumps({"schema": reports.SCHEMA, "reports": found.documents}, indent=1),
        html=lambda: reports.as_html(found.documents),
    )
    return max(found.code, written)


def _replay(options):
    from refattn.testing import replay
    from refattn.testing.inside import stating

    if (options.target is None) == (options.impl is None):
        return _fail("replay takes the implementation once: refattn replay ID --impl TARGET", USAGE)
    name = options.target or options.impl
    adapter = _found(options, name)
    if isinstance(adapter, int):
        return adapter
    try:
        console.check_places({"--save": options.save})
        if options.limits is not None:
            adapter = stating(adapter, options.limits)
        case = replay.find(adapter, options.id, options.effort, options.seed)
        if options.save is not None:
            replay.save(options.save, adapter, case)
    except LookupError as error:
        return _fail(error.args[0], USAGE)
    except ValueError as error:
        return _fail(error, USAGE)
    except OSError as error:
        return _fail(f"--save could not be written to {options.save}: {error.strerror or error}", USAGE)
    result = replay.run_case(adapter, case)
    console.say(replay.described(adapter, result))
    if options.save is not None:
        console.say(f"\nwritten to {options.save}: the inputs, the expected results and their bounds")
    if options.minimize and result.status == "broken":
        given = (
            {"function": options.function, "precision": options.precision, "layout": options.layout}
            if ":" in name
            else {}
        )
        console.say("\n" + replay.told_minimal(adapter, result, name, given))
    return {"broken": NONCONFORMING, "unjudged": UNAVAILABLE}.get(result.status, PASS)


def _identify(options):
    from refattn.testing import adapters
    from refattn.testing.identify import as_json, as_text, identify

    _look_here()
    try:
        found = identify(options.target, options.function, precision=options.precision, layout=options.layout)
    except adapters.NotAvailable as error:
        return _fail(error, UNAVAILABLE)
    except (ValueError, TypeError) as error:
        return _fail(error, USAGE)
    console.say(as_json(found) if options.json else as_text(found))
    return PASS


def _tolerance(options):
    from refattn.testing.outcome import in_one_line
    from refattn.testing.tolerance_inputs import inputs
    from refattn.testing.tolerances import tolerance

    try:
        given = inputs(
            options.function, options.shape, precision=options.precision, archive=options.inputs, mask=options.mask,
            options=options.option, seed=options.seed,
        )  # fmt: skip
        found = tolerance(options.function, precision=options.precision, **given)
        console.say(f"inputs: {in_one_line(given)}\n\n{found}")
    except (ValueError, TypeError, OSError, NotImplementedError) as error:
        return _fail(error, USAGE)
    except MemoryError:
        return _fail("these inputs take more memory than there is; give smaller sizes", UNAVAILABLE)
    return PASS


def _diff(options):
    from refattn.testing.reports import changes

    try:
        text, changed = changes.as_text(changes.read(options.old), changes.read(options.new))
    except (ValueError, OSError) as error:
        return _fail(error, USAGE)
    console.say(text)
    return NONCONFORMING if changed else PASS


def _list(options):
    from refattn.testing import catalogue

    rows = catalogue.listing(options.what)
    width = max([28, *(len(name) for name, _ in rows)])
    for name, about in rows:
        console.say(f"{name:<{width}} {about}".rstrip())
    return PASS


def _show(options):
    from refattn.testing import catalogue

    try:
        console.say(catalogue.shown(options.name, *options.size))
    except LookupError as error:
        return _fail(error.args[0], USAGE)
    except ValueError as error:
        return _fail(error, USAGE)
    return PASS


if __name__ == "__main__":
    sys.exit(main())
