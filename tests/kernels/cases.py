"""Random attention problems and, for each, a correct kernel in a random style of its profile."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refattn import masks
from refattn.testing.profiles import profile
from refattn.testing.rounding import FORMATS, round_to
from tests.kernels.arithmetic import SUMS
from tests.kernels.attention import eager, flash

KINDS = (
    "gaussian", "heavy tails", "all negative", "dominated", "offset values", "shifted scores", "ties", "nearly flat",
    "tiny", "large", "integers",
)  # fmt: skip


class Case(NamedTuple):
    """One attention problem: arguments exact in the format of the inputs, and a correct kernel for it."""

    precision: str
    kind: str
    arguments: dict[str, Any]  # those of refattn.attention or refattn.grouped_query_attention
    style: dict[str, Any]
    function: str = "attention"

    @property
    def promises_lse(self) -> bool:
        """A kernel that sums rounded weights has a log-sum-exp of those, not of the scores."""
        return self.style.get("denominator") != "rounded"

    @property
    def kernel(self) -> Callable:
        """The emulated kernel."""
        return flash if profile(self.precision).order == "flash" else eager

    def run(self):
        """(out, lse) of the kernel."""
        arguments = dict(self.arguments)
        if self.function == "grouped_query_attention":
            group = arguments["q"].shape[-3] // arguments["k"].shape[-3]
            arguments |= {x: np.repeat(arguments[x], group, axis=-3) for x in "kv"}
        return self.kernel(**arguments, precision=self.precision, **self.style)

    def __str__(self):
        shapes = " ".join(f"{x}{self.arguments[x].shape}" for x in "qkv")
        options = ", ".join(f"{key}={value}" for key, value in self.style.items())
        given = ", ".join(sorted(set(self.arguments) - set("qkv")))
        return f"{self.precision} {self.kind} {shapes} with {given or 'no options'}: {options}"


def input_format(precision) -> str:
    """The format in which a profile's kernels get their inputs."""
    return {"float8": "float8_e4m3fn", "tf32": "float32"}.get(name := precision.split("/")[0], name)


def draw_case(precision: str, seed: int, size="usual") -> Case:
    """Random sizes, inputs, options and style; the same seed gives the same case.

    size is "usual" (D to 129, up to 259 keys), "small" (where few roundings leave little to average) or "long" (8,192
    keys).
    """
    draw = np.random.default_rng([seed, sum(map(ord, precision))])
    while True:
        case = _case(precision, seed, draw, size)
        if _fits(case):
            return case


def _case(precision, seed, draw, size):
    kind = KINDS[seed % len(KINDS)]
    n, m, d = (int(draw.integers(1, top)) for top in ((5, 9, 5) if size == "small" else (41, 260, 130)))
    if draw.random() < 0.15:
        n = m
    heads, group = int(draw.integers(1, 4)), int(draw.choice([1, 1, 1, 2, 3]))
    if size == "long":
        n, m, group = min(n, 3), 8192, 1
    dv = d if draw.random() < 0.4 else int(draw.integers(1, 40))
    if n > 40:  # square: keep the emulation's temporaries small
        heads, d, dv = 1, min(d, 48), min(dv, 16)
    q, k, v, bias = _inputs(kind, draw, (heads * group, n, d), (heads, m, d), (heads, m, dv))
    options = _options(kind, draw, heads * group, n, m, bias)
    fmt = input_format(precision)
    if "bias" in options:
        options["bias"] = round_to(options["bias"], "bfloat16" if precision.startswith("float8") else fmt)
    arguments = {"q": round_to(q, fmt), "k": round_to(k, fmt), "v": round_to(v, fmt), **options}
    function = "grouped_query_attention" if group > 1 else "attention"
    return Case(precision, kind, arguments, draw_style(precision, draw, m), function)


def _inputs(kind, draw, of_q, of_k, of_v):
    """q, k, v and perhaps a bias of one kind."""
    q = draw.normal(size=of_q) * 2.0 ** draw.integers(-4, 3)
    k = draw.normal(size=of_k)
    v = draw.normal(size=of_v) * 2.0 ** draw.integers(-6, 7)
    bias = None
    if kind == "heavy tails":
        q, k, v = q, draw.standard_t(3, size=of_k), draw.standard_t(3, size=of_v)
    elif kind == "all negative":
        q, k = np.abs(q), -np.abs(k)
    elif kind == "dominated":
        k[:, draw.integers(of_k[1])] *= 8
    elif kind == "offset values":
        v = v + draw.choice([-30.0, 30.0]) * np.abs(v).max()
    elif kind == "shifted scores":
        bias = draw.choice([1000.0, -1000.0, 60.0]) + draw.normal(size=(1, of_q[1], of_k[1]))
    elif kind == "ties":
        k = np.broadcast_to(k[:, :1], of_k).copy()
        k[:, 0] *= draw.choice([1.0, 1.5])
    elif kind == "nearly flat":
        q = q * 2.0**-8
    elif kind == "tiny":
        q, k, v = q * 2.0**-9, k * 2.0**-9, v * 2.0**-12
    elif kind == "large":
        q, k, v = q * 8.0, k * 4.0, v * 16.0
    elif kind == "integers":
        q, k, v = (np.rint(2 * x) for x in (q / np.abs(q).max(), k, v / np.abs(v).max() * 8))
    return q, k, v, bias


def _options(kind, draw, heads, n, m, bias):
    options: dict[str, Any] = {}
    if bias is not None:
        options["bias"] = bias
    elif draw.random() < 0.25:
        options["bias"] = draw.normal(size=(n, m)) * 2.0 ** draw.integers(-1, 4)
    if draw.random() < 0.25:
        options["softcap"] = float(draw.choice([1.0, 15.0, 50.0]))
    if draw.random() < 0.25:
        options["sinks"] = draw.normal(size=heads) * 3
    if draw.random() < 0.2:
        options["dropout"] = (draw.random((heads, n, m)) > 0.2, 0.2)
    if draw.random() < 0.25:
        options["scale"] = float(draw.normal())
    mask = _mask(draw, n, m)
    return options if mask is None else {**options, "mask": mask}


def _mask(draw, n, m):
    choice = draw.integers(7)
    if choice == 0:
        return masks.causal()
    if choice == 1:
        return masks.window(int(draw.integers(0, m)), 3)
    if choice == 2:
        return masks.causal() & masks.window(int(draw.integers(0, m)), 0)
    if choice == 3:
        return masks.block(int(draw.integers(1, 20)))
    if choice == 4:  # any pattern, empty rows among them
        allowed = draw.random((n, m)) < draw.random()
        allowed[draw.integers(n)] = False
        return allowed
    return None


def draw_style(precision, draw, m) -> dict[str, Any]:
    """Everything that a profile leaves open, at random, for m keys."""
    long = m > 2000  # keep the emulation's loops short
    chosen = profile(precision)
    sums = [s for s in SUMS if (s != "truncated" or chosen.u_acc > 2.0**-24) and (s != "fused" or chosen.u_acc > 1e-9)]
    if long:
        sums = [s for s in sums if s != "fused"]
    style = {
        "sums": str(draw.choice(sums)),
        "exponent": str(draw.choice(["e", "2", "2 folded"])),
        "division": str(draw.choice(["end", "reciprocal", "tile"])),
        "exp_error": float(draw.choice([0.0, 0.5])),
        "seed": int(draw.integers(2**31)),
    }
    if chosen.order == "eager":
        style["division"] = "reciprocal" if style["division"] == "reciprocal" else "end"
        return style
    low = 64 if long else 1
    style |= {
        "tile": int(draw.choice([low, *draw.integers(low, max(m, low) + 1, size=2), 16, 32, 64, 128])) if not long
        else int(draw.choice([64, 128, 100, 1024])),
        "tiles": str(draw.choice(["forward", "backward", "random"])),
        "splits": int(draw.choice([1, 1, 2, 3, 7])),
        "merging": str(draw.choice(["chain", "tree", "outputs"])),
        "scaling": str(draw.choice(["scores", "query"])),
        "denominator": str(draw.choice(["exact", "rounded"])),
    }  # fmt: skip
    if style["division"] == "tile":
        style["tile"] = max(style["tile"], 16)  # normalising more often than this is more than the bound counts
    if chosen.weights is not None:
        style["maximum"] = str(draw.choice(["exact", "exact", "lazy"]))
    if chosen.weights is FORMATS["float8_e4m3fn"]:
        style["maximum"] = "exact"  # e4m3 ends at 448
        style["gain"] = max(float(draw.choice([1.0, 256.0])), chosen.prescale)
    return style


def _fits(case):
    """Whether neither inputs nor stored scores overflow."""
    arguments, fmt = case.arguments, profile(case.precision).scores
    arrays = [arguments[x] for x in "qkv"]
    if not all(np.isfinite(x).all() for x in arrays):
        return False
    q, k, _ = arrays
    group = q.shape[-3] // k.shape[-3]
    largest = np.abs(q @ np.swapaxes(np.repeat(k, group, axis=-3), -1, -2)).max()
    return largest * max(1.0, abs(arguments.get("scale", 1.0))) < (6e4 if fmt else 1e30)
