"""What cases have in common, by looking at their arguments: options, rules, sizes. Traits are no causes."""

from __future__ import annotations

import numpy as np

from refattn.masks import Mask

_OPTIONS = (
    "mask", "bias", "scale", "softcap", "sinks", "dropout", "d_lse", "q_positions", "k_positions", "scaling", "rotary_dim",
)  # fmt: skip
_TILES = (16, 64, 128, 256)
_SIZES = {  # letters for sizes of arguments, by name: which axes they name, from the last
    "q": ("D", "N"),
    "k": ("D", "M"),
    "v": ("Dv", "M"),
    "x": ("D", "N"),
}


def traits(case) -> set[str]:
    """What can be said of a case by its arguments."""
    said = set()
    for name, x in case.arguments.items():
        if not isinstance(x, np.ndarray) or name in ("mask", "bias", "sinks", "q_positions", "k_positions", "d_lse"):
            said |= _option(name, x)
        if isinstance(x, Mask):
            said |= {f"{rule} in the mask" for rule in _rules(x)} | {"a rule as mask"}
    for name in _OPTIONS:
        if case.arguments.get(name) is None:
            said.add(f"no {name}")
    return said | _of_sizes(case.arguments)


def _option(name, x):
    if x is None or x is False:
        return {f"no {name}"}
    if isinstance(x, np.ndarray):
        return {f"{name} given"} | ({"an array as mask"} if name == "mask" else set())
    return {f"{name} given"} | ({f"{name}={x!r}"} if isinstance(x, str | bool | int | float) else set())


def rules_of(case) -> set[str]:
    """The names of the rules in the masks of a case."""
    return {name for x in case.arguments.values() if isinstance(x, Mask) for name in _rules(x)}


def _rules(mask):
    """The names of the rules that a mask combines; of one that combines none, its own."""
    parts = getattr(mask, "parts", ())
    return {name for part in parts for name in _rules(part)} if parts else {mask.name}


def _of_sizes(arguments):
    sizes: dict[str, int] = {}
    for name, letters in _SIZES.items():
        given = arguments.get(name)
        if isinstance(given, np.ndarray) and given.ndim >= 2:
            sizes |= dict(zip(letters, given.shape[:-3:-1], strict=True))
    said = set()
    for letter, size in sizes.items():
        said.add(f"{letter} > 1" if size > 1 else f"{letter} < 2")
        said |= {f"{letter} > {tile}" for tile in _TILES if size > tile}
        said |= {f"{letter} <= {tile}" for tile in _TILES if size <= tile}
        said |= {f"{letter} % {tile} != 0" for tile in _TILES if size % tile}
    if {"N", "M"} <= sizes.keys():
        n, m = sizes["N"], sizes["M"]
        said |= {"N < M", "N != M"} if n < m else {"N > M", "N != M"} if n > m else {"N = M"}
    if {"D", "Dv"} <= sizes.keys():
        said.add("Dv = D" if sizes["D"] == sizes["Dv"] else "Dv != D")
    return said


def common(cases, others) -> tuple[tuple[str, ...], int]:
    """The shortest conjunction of traits of all cases that the fewest others have, and how many of these still have it."""
    shared = set.intersection(*map(traits, cases)) if cases else set()
    left, chosen = [traits(case) for case in others], []
    while left:
        best = min(sorted(shared), key=lambda t: sum(t in other for other in left), default=None)
        if best is None or sum(best in other for other in left) == len(left):
            break
        chosen.append(best)
        left = [other for other in left if best in other]
    return tuple(chosen), len(left)
