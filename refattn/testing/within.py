"""Sizes, masks and options that lie inside stated limits, chosen so that hardly anything is drawn in vain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from refattn.masks import causal, window
from refattn.testing.stated import Stated, Statement

_LARGEST = 4096
_FEW = 4  # of the sizes that nobody prefers, the least


def sizes_within(
    stated: Stated, preferred: Mapping[str, Sequence[int]], pick: Callable[[str, list[int], dict[str, int]], int]
) -> dict[str, int] | None:
    """A size for each letter, which meet all statements; None where none are found.

    Parameters
    ----------
    stated : Stated
    preferred : dict
        Letter -> sizes that are taken where any of them is inside.
    pick : callable
        Chooses one: takes the letter, its possible sizes and the sizes chosen before.

    Examples
    --------
    >>> from refattn.testing.stated import parse
    >>> limits = parse("M % 16 == 0; N == M; D in 64, 128", "attention")
    >>> sizes_within(limits, {"N": range(1, 40), "M": range(1, 40), "D": (2, 3)}, lambda letter, sizes, found: sizes[-1])
    {'N': 32, 'M': 32, 'D': 128}
    """
    about = [s for s in stated.statements if s.letters and s.letters <= preferred.keys()]
    others = _others(about)
    found: dict[str, int] = {}
    alone = {  # what each letter can be, whatever the others are
        x: [n for n in dict.fromkeys((*sizes, *others)) if all(s.holds({}, {x: n}) for s in about if s.letters == {x})]
        for x, sizes in preferred.items()
    }

    def meets(letter, size, chosen):
        known = {**chosen, letter: size}
        return all(s.holds({}, known) for s in about if letter in s.letters and s.letters <= known.keys())

    def leaves_some(chosen):
        """Whether each letter that is not chosen yet has a size left."""
        open_ones = {letter for s in about for letter in s.letters} - chosen.keys()
        return all(any(meets(x, n, chosen) for n in alone[x]) for x in open_ones)

    for letter, sizes in preferred.items():
        fitting = lambda pool, letter=letter: [
            n for n in alone[letter] if n in pool and meets(letter, n, found) and leaves_some({**found, letter: n})
        ]
        possible = fitting(sizes) or fitting(others)[:_FEW]
        if not possible:
            return None
        found[letter] = pick(letter, possible, found)
    return found


def _others(about: Sequence[Statement]) -> list[int]:
    """Sizes that statements name, multiples of these and their neighbours, and all small ones."""
    named = {n * times for s in about for n in s.numbers for times in (1, 2, 3)}
    near = {n + step for n in named for step in (-1, 0, 1)}
    return sorted(n for n in {*range(1, 130), *near} if 0 < n <= _LARGEST)


def contradiction(stated: Stated) -> str:
    """Why no call meets what is stated; empty where one may.

    Examples
    --------
    >>> from refattn.testing.stated import parse
    >>> contradiction(parse("D == 64; N == M; D == 32", "attention"))
    "'D == 64' and 'D == 32', which no size of 1 to 4096 meets together"
    >>> contradiction(parse("M > 100000", "attention"))
    "'M > 100000', which no size of 1 to 4096 meets"
    """
    about = [s for s in stated.statements if s.letters]
    for some in (*((s,) for s in about), *itertools.combinations(about, 2)):
        letters = sorted(set.union(*(set(s.letters) for s in some)))
        apart = len(some) > 1 and not some[0].letters & some[-1].letters
        if len(letters) <= 2 and not apart and not _meets(some, letters):
            words = " and ".join(repr(s.text) for s in some)
            return f"{words}, which no size of 1 to {_LARGEST} meets{' together' * (len(some) > 1)}"
    none, of_causal, of_any = masks_within(stated)
    if not (none or of_causal or of_any):
        said = " and ".join(repr(s.text) for s in stated.statements if s.option == "mask")
        return f"{said}, which no mask meets{' together' * (' and ' in said)}"
    return f"{axes}, which no array meets together" if (axes := _two_axes(stated)) else ""


def _meets(some, letters) -> bool:
    """Whether sizes meet some statements: every one that is alone, of two letters those that these name, and small ones."""
    pool = range(1, _LARGEST + 1) if len(letters) == 1 else _others(some)
    return any(
        all(s.holds({}, dict(zip(letters, sizes, strict=True))) for s in some)
        for sizes in itertools.product(pool, repeat=len(letters))
    )


def _two_axes(stated) -> str:
    of_axes = [s.text for s in stated.statements if not s.letters and not s.option]
    return " and ".join(map(repr, of_axes)) if axes_within(stated) == -1 else ""


def masks_within(stated: Stated) -> tuple[bool, bool, bool]:
    """Whether a call may be without a mask, with a causal one, and with any.

    Examples
    --------
    >>> from refattn.testing.stated import parse
    >>> masks_within(parse("always causal", "attention"))
    (False, True, False)
    """
    of_masks = [s for s in stated.statements if s.option == "mask"]
    none, of_causal, of_any = (
        all(s.holds({"mask": mask}, {}) for s in of_masks) for mask in (None, causal(), window(1, 0))
    )
    return none, of_causal, of_any


def ruled_out(stated: Stated) -> set[str]:
    """The options that must not be given, masks apart."""
    return {s.option for s in stated.statements if s.option and s.option != "mask"}


def axes_within(stated: Stated) -> int | None:
    """How many axes the first array must have; None where any number will do."""
    of_axes = [s for s in stated.statements if not s.letters and not s.option]
    if not of_axes:
        return None
    fits = (n for n in range(10) if all(s.holds({"x": np.zeros((1,) * n)}, {}) for s in of_axes))
    return next(fits, -1)
