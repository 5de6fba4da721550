"""Calls that are tried until a kernel takes one: sizes, heads and axes that kernels ordinarily need, the likeliest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from refattn.testing.nested import arrays
from refattn.testing.sizes import sizes_of
from refattn.testing.stated import Stated
from refattn.testing.within import axes_within, sizes_within

Try = tuple[dict, int | tuple[int, ...] | None, dict[str, int]]  # arguments, leading axes, sizes

USUAL = (64, 128, 32, 16, 256, 8)  # what a kernel is asked for first
LARGE = (96, 80, 192, 1024, 768, 4096, 512, 2048, 160, 576, 1000)  # and where it refuses all of these
ROWS = ("N", "M", "T", "S")  # how many tokens there are; other letters are what each of them holds
COUNTS = ("H", "G", "B")  # of these there are few
_HEADS = (
    (8, 2), (8, 8), (32, 8), (8, 1), (None, None), (16, 4), (32, 32), (32, 4), (12, 4), (28, 4), (64, 8),
)  # fmt: skip  # H and G; None: as many as a call has
_AXES = (None, 2, 1, 0, 3)  # leading axes; None: as many as a call has
_LEADS = ((1, 2), (1, 8), (1, 32), (2, 4), (1, 1))  # batch and heads, where no letter is stated for them
_MODELS = ({"R": 512, "Dr": 64, "Dn": 128, "Dv": 128},)  # sizes of one letter each: those of DeepSeek
_FIRST, _BY_HEADS, _BY_LETTER, _ALIKE, _APART, _LARGE = 50, 100, 60, 400, 300, 150  # calls that are tried at most
_FEW = 5  # pairs of heads that are tried with all sizes
_WEIGHTS = 1024  # where several letters are large, no larger: weights have as many numbers as their product


def tried(function: str, calls: list[dict], stated: Stated | None, usual: tuple[int, ...]) -> Iterator[Try]:
    """Calls to try, made from some of the reference: those that limits say are taken, then what is usual, then large ones.

    Parameters
    ----------
    function : str
    calls : list of dict
        Of each kind one, small ones first.
    stated : Stated, optional
        Limits that are known.
    usual : tuple of int
        Sizes.
    """
    alike = _alike(function, calls, stated, usual)
    return itertools.chain(
        _stated(function, calls, stated),
        itertools.islice(alike, _FIRST),
        itertools.islice(_by_heads(function, calls, stated, usual), _BY_HEADS),
        itertools.islice(_by_letter(function, calls, stated, usual), _BY_LETTER),
        itertools.islice(alike, _ALIKE - _FIRST),
        itertools.islice(_apart(function, calls, stated, usual), _APART),
        itertools.islice(_large(function, calls, stated), _LARGE),
    )


def _likeliest(*choices: Sequence) -> Iterator[tuple]:
    """Every combination of choices, each sorted by how likely it is: those that are likely together first."""
    ranks = sorted(itertools.product(*(range(len(some)) for some in choices)), key=sum)
    return (tuple(some[n] for some, n in zip(choices, each, strict=True)) for each in ranks)


def _stated(function, calls, stated) -> Iterator[Try]:
    """Sizes that meet what is stated, the usual ones where any will do."""
    for first, arguments in itertools.product(USUAL if stated else (), calls):
        own = sizes_of(function, arguments)
        preferred: dict[str, Sequence[int]] = dict.fromkeys(own, (first, *USUAL))
        preferred |= {x: (own[x], *(h for pair in _HEADS for h in pair if h)) for x in COUNTS if x in own}
        leading = [x for x in ("B", "H") if x not in own and any(x in s.letters for s in stated.statements)]
        sizes = sizes_within(stated, preferred | dict.fromkeys(leading, (1, 2)), lambda _, some, __: some[0])
        if sizes is not None:
            axes: Any = axes_within(stated)
            core = next((x.ndim for _, x in arrays(arguments)), 0)
            lead = None if axes is None else max(axes - min(core, 2), 0)
            if leading:
                both = (sizes.pop("B", 1), sizes.get("H", 2))
                lead = both if lead in (None, 2) else (1,) * (lead - 2) + both[2 - min(lead, 2) :]
            yield arguments, lead, sizes


def _alike(function, calls, stated, usual) -> Iterator[Try]:
    """All sizes alike, or one of them 1."""
    each = [_alike_of(function, arguments, stated, usual) for arguments in calls]
    if any("." in path for arguments in calls for path, _ in arrays(arguments)):  # a record may be what is refused
        return (tried for one_of_each in itertools.zip_longest(*each) for tried in one_of_each if tried is not None)
    return itertools.chain.from_iterable(each)


def _alike_of(function, arguments, stated, usual) -> Iterator[Try]:
    letters, counts = _counted(function, arguments, stated)
    leads = (*_AXES, *_LEADS) if letters and not counts[0] and {*letters} & {*ROWS} else _AXES
    for fixed, axes, one, size in _likeliest(counts[:_FEW], leads, (None, *letters), usual if letters else usual[:1]):
        yield arguments, axes, {**dict.fromkeys(letters, size), **fixed} | ({one: 1} if one else {})


def _by_heads(function, calls, stated, usual) -> Iterator[Try]:
    """Each pair of heads, in prefill and with one query."""
    for arguments in calls[:2]:
        letters, counts = _counted(function, arguments, stated)
        first = tuple(x for x in letters if x in ROWS)[:1]
        for one, size, fixed in itertools.product((None, *first), usual[:2], counts if "H" in counts[0] else ()):
            yield arguments, None, {**dict.fromkeys(letters, size), **fixed} | ({one: 1} if one else {})


def _by_letter(function, calls, stated, usual) -> Iterator[Try]:
    """Each letter with a size of its own: that of well known models, or the first that is stated for it."""
    first = {letter: sizes[0] for letter, sizes in stated.sizes.items()} if stated else {}
    for own, arguments in itertools.product((first, *_MODELS), calls):
        letters, counts = _counted(function, arguments, stated)
        if own.keys() & {*letters, *counts[0]}:
            for fixed, size in _likeliest(counts, usual):
                sizes = {**dict.fromkeys(letters, size), **fixed}
                yield arguments, None, sizes | {letter: n for letter, n in own.items() if letter in sizes}


def _apart(function, calls, stated, usual) -> Iterator[Try]:
    """One size for rows and another for what they hold, and batch and heads where no letter has them."""
    for arguments in calls[:1]:
        letters, counts = _counted(function, arguments, stated)
        leads = (None,) if "H" in counts[0] else (None, *_LEADS)
        rows, others = _rows_and_others(letters)
        for fixed, axes, size, width, one in _likeliest(counts[:_FEW], leads, usual, usual, (None, *rows[:1])):
            if rows and others and (size != width or axes is not None):
                sizes = {**dict.fromkeys(rows, size), **dict.fromkeys(others, width), **fixed}
                yield arguments, axes, sizes | ({one: 1} if one else {})


def _large(function, calls, stated) -> Iterator[Try]:
    """What rows hold, or how many there are, larger than usual, the others of a usual size."""
    for arguments in calls[:1]:
        letters, counts = _counted(function, arguments, stated)
        rows, others = _rows_and_others(letters)
        together = [some for some in (others, rows, *([x] for x in others if len(others) > 1)) if some]
        for some, size, fixed, axes in _likeliest(together, LARGE, counts[:3], _AXES[:3]):
            if len(some) == 1 or some == rows or size <= _WEIGHTS:
                yield arguments, axes, {**dict.fromkeys(letters, USUAL[0]), **fixed, **dict.fromkeys(some, size)}


def _rows_and_others(letters) -> tuple[list[str], list[str]]:
    return [x for x in letters if x in ROWS], [x for x in letters if x not in ROWS]


def _counted(function, arguments, stated) -> tuple[list[str], list[dict[str, int]]]:
    """The letters of a call but for those of which there are few, and each choice of these."""
    own = sizes_of(function, arguments)
    more = stated.sizes if stated else {}
    heads = [*itertools.product(more.get("H", (8,)), more.get("G", (2,)))] if more.keys() & {"H", "G"} else []
    few = [x for x in COUNTS if x in own]
    choices: dict[tuple[int, ...], None] = {}
    for (h, g), b in itertools.product((*heads, *_HEADS), (None, 1) if "B" in few else (None,)):
        wanted = {"H": h, "G": g, "B": b}
        choices.setdefault(tuple(wanted[x] or own[x] for x in few))
    return [x for x in own if x not in few], [dict(zip(few, each, strict=True)) for each in choices]
