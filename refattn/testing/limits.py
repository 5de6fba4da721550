"""Calls of attention inside the limits of a kernel: each size with each mask, and scores that it may stumble over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from refattn.masks import Mask, causal
from refattn.testing.foothold import Asked, Foothold
from refattn.testing.nested import arrays
from refattn.testing.sizes import resized, sizes_of

HEADS = ((64, 64), (128, 128), (16, 16), (32, 32), (4, 4), (5, 3), (64, 32), (192, 128))
LENGTHS = ((64, 64), (1, 64), (128, 128), (5, 7), (7, 5), (1, 1), (3, 3), (33, 33), (17, 64), (96, 96), (32, 64))
LEVELS = (-2e4, 300.0, 4e6)  # of scores
_LEADS = ((1, 2), (1, 8), (2, 4), (1, 1))
_FEW = 6  # sizes: of so few each is asked for with every kind of numbers
_DRAWS = 14  # with and without a mask, at least
_LONGEST = 300  # rows: the bound costs their square


@dataclass(frozen=True)
class Limits:
    """What a kernel took of the sizes it was asked for, one changed at a time.

    Attributes
    ----------
    heads : tuple of (int, int)
        The sizes of a head, D and Dv.
    lengths : tuple of (int, int)
        The numbers of queries and keys, N and M.
    masks : tuple of bool
        False: no mask is taken, True: the rule is.
    lead : tuple of int
        Batch and heads of the calls.
    given : dict
        Options that must be given, the mask apart.
    rule : Mask
        The mask that is taken.
    """

    heads: tuple[tuple[int, int], ...]
    lengths: tuple[tuple[int, int], ...]
    masks: tuple[bool, ...]
    lead: tuple[int, ...]
    given: dict = field(default_factory=dict)
    rule: Mask = field(default_factory=causal)


def pairs(asked: Asked, at: Foothold) -> Limits:
    """Which sizes a kernel with the signature of `attention` takes in pairs, from a call that it takes.

    A wrong result counts as taken: what is wrong must be checked, not left out.

    Examples
    --------
    >>> import refattn
    >>> from refattn.testing.foothold import survey
    >>> asked, x = Asked(refattn.attention), np.ones((3, 4))
    >>> pairs(asked, survey(asked, "attention", [{"q": x, "k": x, "v": x}])).masks
    (False, True)
    """
    lengths, head, masked = (at.sizes["N"], at.sizes["M"]), (at.sizes["D"], at.sizes["Dv"]), "mask" in at.arguments
    rule = at.arguments.get("mask", causal())
    dtype = at.arguments["q"].dtype
    needed = {n: x for n, x in at.arguments.items() if n not in ("q", "k", "v", "mask")}

    def takes(lead, lengths, head, masked):
        (n, m), (d, dv) = lengths, head
        q, k, v = (np.zeros((*lead, *shape), dtype) for shape in ((n, d), (m, d), (m, dv)))
        given = _with_given({"q": q, "k": k, "v": v}, needed, lead)
        return asked.takes({**given, **({"mask": rule} if masked else {})})

    lead = at.arguments["q"].shape[:-2]
    lead = next((some for some in _LEADS if takes(some, lengths, head, masked)), lead)
    widths, counts = ({n for x in letters for n in asked.more.get(x, ())} for letters in (("D", "Dv"), ("N", "M")))
    counts = {n for n in counts if n <= _LONGEST}
    heads = dict.fromkeys((*HEADS, *((n, n) for n in sorted(widths)), head))
    rows = dict.fromkeys((*LENGTHS, *((m, n) for n in sorted(counts) for m in (n, 1)), lengths))
    return Limits(
        heads=tuple(h for h in heads if takes(lead, lengths, h, masked)),
        lengths=tuple(x for x in rows if takes(lead, x, head, masked)),
        lead=lead,
        masks=tuple(m for m in (False, True) if takes(lead, lengths, head, m)),
        given=needed,
        rule=rule,
    )


def drawn(limits: Limits, seed: int = 0) -> Iterator[tuple[str, dict]]:
    """Calls of `attention` inside the limits: each size with each mask, and scores that a kernel may stumble over."""
    rng = np.random.default_rng(seed)
    at = limits.lengths[0]
    sizes = [(x, limits.heads[0]) for x in limits.lengths] + [(at, h) for h in limits.heads[1:]]
    few = limits.lengths[:: 4 if len(limits.lengths) > _FEW else 1]  # what one size stumbles over, others do
    times = max(1, _DRAWS // len(sizes)) if max(at) <= _LONGEST else 1
    for masked, again in itertools.product(limits.masks, range(times)):
        mask = {"mask": limits.rule} if masked else {}
        word = "causal_" if repr(limits.rule) == repr(causal()) else "masked_"
        for (n, m), (d, dv) in sizes:
            q, k, v = (rng.standard_normal((*limits.lead, *shape)) for shape in ((n, d), (m, d), (m, dv)))
            options = {**_with_given({"q": q, "k": k, "v": v}, limits.given, limits.lead, rng), **mask}
            size = f"{word if masked else ''}{n}x{m}_{d}x{dv}{f'_{again + 1}' if again else ''}"
            yield f"inside_{size}", options
            if (d, dv) == limits.heads[0] and (n, m) in few and not again:
                yield f"inside_peaked_{size}", {**options, "q": q * 64}
                for level in LEVELS:
                    yield (
                        f"inside_level_{level:g}_{size}",
                        {**options, **rising(q, k, level, limits.given.get("scale"))},
                    )


def _with_given(arguments, given, lead, rng=None) -> dict:
    """A call with options that it must have, arrays at its sizes."""
    if not any(True for _ in arrays(given)):
        return {**arguments, **given}
    return resized("attention", {**arguments, **given}, sizes_of("attention", arguments), lead, rng)


def rising(q, k, level, scale):
    """Scores about as large as `level` that rise from key to key, so that those a causal mask hides are the largest."""
    q, k = q.copy(), k.copy()
    q[..., 0] = 1.0 / scale if scale else np.sqrt(q.shape[-1])  # leaves k's first feature as the score
    k[..., 0] = level * (1 + np.arange(k.shape[-2]) / k.shape[-2])
    return {"q": q, "k": k}
