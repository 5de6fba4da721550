"""Whatever stands on the command line, the command ends with one of its codes and without a traceback."""

import random

import pytest

from refattn.cli import main

CODES = {0, 1, 2, 3, 130, 143}
HOSTILE = [
    "", " ", "-", "--", "\x00", "\x1b[31m", "\n", "\udcff\udcfe", "\ud800", "\u202e", "é√■", "x" * 5000, "../../etc/passwd",
    "/", "/etc/passwd", "/dev/null", "/dev/zero", "/nowhere/x", ".", "*", "[", "[!", "{", "%s%n", "{0}", "$(id)", "0", "-1",
    "1e9", "nan", "inf", "True", "None", "99999999999999999999999", "9**9**9", "__import__('os')", "causal.__globals__",
    "lambda: 0", "()", "(" * 300, "[" * 300, "a:b", ":", "::", "os:path", "os:sep", "os:system.x", "refattn:", ":f", "sys:exit.x",
    "refattn:attention", "refattn.masks:causal", "builtins:print", "exec:", "exec:false", "exec:'", "exec:/dev/null",
    "refattn:__version__", "refattn.testing:nothing", "float8", "attention", "softmax", "masks", "MASK-EMPTY", "causal()",
    "tree([-1])", "documents([1])", "block(0)", "window(1)", "padding(-5)", "causal() & ~block(2)", "torch.sdpa",
]  # fmt: skip
SOFTMAX = ["refattn:softmax", "--function", "softmax"]
CASE = "softmax.rows.0001.float32"
# subcommand -> arguments that it can do with, and its options with something that each takes
COMMANDS = {
    "check": (
        [*SOFTMAX, "--effort", "smoke", "--case", "softmax.rows*"],
        {"--function": "softmax", "--mechanism": "softmax", "--layout": "bhnd", "--precision": "float32", "--seed": "3",
         "--effort": "smoke", "--case": "softmax.r*", "--allow": "/dev/null", "--json": "-", "--junit": "-", "--html": "-"},
    ),
    "identify": (SOFTMAX, {"--function": "softmax", "--layout": "auto", "--precision": "float16"}),
    "replay": (
        [CASE, *SOFTMAX],
        {"--impl": "refattn:softmax", "--function": "softmax", "--layout": "bhnd", "--precision": "float32",
         "--effort": "smoke", "--seed": "0", "--save": "/dev/null"},
    ),
    "diff": (["/dev/null", "/dev/null"], {}),
    "tolerance": (
        ["softmax", "--shape", "x=3x5"],
        {"--shape": "x=3", "--inputs": "/dev/null", "--mask": "causal", "--option": "axis=0", "--precision": "float16",
         "--seed": "3"},
    ),
    "list": (["masks"], {}),
    "show": (["causal()"], {"--size": "3"}),
}  # fmt: skip


def drawn(draw):
    """A command line: one that works, with a hostile word here and there."""
    command = draw.choice([*COMMANDS, draw.choice(HOSTILE)])
    words, options = COMMANDS.get(command, ([], {}))
    words = list(words)
    for option in draw.sample(sorted(options), min(len(options), draw.choice([0, 1, 1, 2]))):
        words += [option, options[option]]
        if option == "--size":
            words.append("4")
    for _ in range(draw.choice([1, 1, 2])):
        what = draw.choice([0, 1, 1, 1, 1, 2])
        place = draw.randrange(len(words) + 1)
        if what == 0:
            words.insert(place, draw.choice(HOSTILE))
        elif what == 1 and options:
            words += [draw.choice(sorted(options)), draw.choice(HOSTILE)]
        elif words:
            words[min(place, len(words) - 1)] = draw.choice(HOSTILE)
    return [command, *words]


def harmless(words):
    """Not what waits for ever by its nature, or writes where the tests may not."""
    return "/dev/zero" not in words or words[0] not in ("diff", "check")


def end(words, capsys):
    try:
        code = main(words)
    except SystemExit as ended:  # argparse
        code = ended.code
    said = capsys.readouterr()
    assert code in CODES, words
    assert "Traceback" not in said.err, words
    assert "\x1b" not in said.err + said.out, words
    if code == 2 and words and words[0] in COMMANDS:
        assert len(said.err) < 6000, words


@pytest.mark.parametrize(
    "seed, count",
    [*((seed, 20) for seed in range(3)), *(pytest.param(seed, 100, marks=pytest.mark.slow) for seed in (7, 8))],
)
def test_no_command_line_breaks_it(seed, count, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(seed)
    for _ in range(count):
        words = drawn(draw)
        if harmless(words):
            end(words, capsys)
