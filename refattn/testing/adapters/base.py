"""What every adapter is, and how it says what it cannot do."""

from __future__ import annotations

from collections.abc import Callable

from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS

PROCESS = "exec:"  # before a command: a kernel that speaks the line protocol

# Every single operation is rounded to the narrow format: what a framework does that has no other promise for it.
STEPWISE = Profile(
    "float16/stepwise",
    FORMATS["float16"],
    scores=FORMATS["float16"],
    weights=FORMATS["float16"],
    order="eager",
    u_acc=2.0**-11,
    u_exp=2.0**-10,
    eta_acc=2.0**-25,
)
STEPWISE_BFLOAT16 = Profile(
    "bfloat16/stepwise",
    FORMATS["bfloat16"],
    scores=FORMATS["bfloat16"],
    weights=FORMATS["bfloat16"],
    order="eager",
    u_acc=2.0**-8,
    u_exp=2.0**-7,
)


class Unsupported(Exception):
    """The implementation has no such feature; the text says which."""


class Failed(Exception):
    """The implementation gave no answer: it crashed, hung or spoke nonsense.

    Attributes
    ----------
    deviation : str
        What it did, in the words of a report: 'crashes', 'hangs', 'garbage', ...
    """

    def __init__(self, deviation: str, text: str):
        super().__init__(text)
        self.deviation = deviation


class NotAvailable(Exception):
    """A target cannot be had here: its module, or what that needs, cannot be imported."""


class NotInstalled(NotAvailable):
    """The library of an adapter is not installed."""


class Adapter:
    """One implementation.

    Attributes
    ----------
    name, version : str
    functions : dict
        Reference function ('attention', 'positions.rotate') -> callable with its signature, NumPy in and out.
    limits : str or dict, or a method that takes a function and gives a str
        What it takes, stated: 'D in 64, 128; N == M' (`refattn.testing.stated`), for all functions or by function. It is
        believed: the implementation is asked for nothing beyond. Where nothing is stated, limits are found by asking.
    asked : bool
        Whether it is: what takes long to answer should state its limits.
    """

    name = "?"
    version = "?"
    limits: str | dict[str, str] | Callable[[str], str] = ""
    asked = True

    def __init__(self):
        self.functions: dict[str, Callable] = {}

    def call(self, function: str, dtype: str) -> Callable:
        """The callable for inputs of a dtype. What NumPy lacks (bfloat16) arrives as float32 arrays that it holds."""
        return self.functions[function]

    def other_axes(self, taken: bool) -> bool:
        """Take other leading axes than so far, or the same again; false where there are no others."""
        return False

    def dtypes(self, function: str) -> tuple[str, ...]:
        """The dtypes in which a function is checked, the most important first."""
        return ("float32",)

    def profile(self, function: str, dtype: str) -> str | Profile:
        """The precision profile that the implementation promises for a function and an input dtype."""
        return dtype

    def environment(self) -> dict:
        """What a report should say about it, besides its version."""
        return {}
