"""Presets: implementations of attention by name, each as the list of what it decides at every decision point.

    presets.get("flash_attn.2").attention(q, k, v, mask=masks.causal())

evaluates the reference with that implementation's conventions. Every preset says whether its answers were measured on
the library itself or read in its sources, and on which version.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np

from refattn import backend
from refattn.testing.conventions import NOT_ASKED, REFUSES, UNKNOWN, Point, applied, points
from refattn.testing.equals import call_as
from refattn.testing.presets.composed import attend
from refattn.testing.reference import in_float64

EVIDENCE = ("measured", "read")
LAYOUTS = ("bhnd", "bnhd")


class Refused(ValueError):
    """The implementation refuses such a call, or has no such argument; `note` says more where there is more to say."""

    def __init__(self, preset: str, point: Point, note: str = ""):
        super().__init__(f"{preset} refuses: {point.title}" + (f" ({note})" if note else ""))
        self.note = note


@dataclass(frozen=True)
class Preset:
    """One implementation's conventions.

    Attributes
    ----------
    name : str
        'torch.sdpa.math'.
    title : str
        How its users call it.
    evidence : {"measured", "read"}
        Whether the answers were seen by running it on a CPU (tests/peers/test_presets.py), or in its sources.
    version : str
        What was measured or read.
    layout : {"bhnd", "bnhd"}
        Its axes; `attention` takes the reference's all the same, `kernel` takes these.
    profiles : mapping of str to str
        Input dtype -> precision profile.
    answers : mapping of str to str
        Decision point -> answer.
    notes : mapping of str to str
        Decision point -> where an answer stands, or what else is to be said.
    about : str
    """

    name: str
    title: str
    evidence: str
    version: str
    layout: str
    profiles: Mapping[str, str]
    answers: Mapping[str, str]
    notes: Mapping[str, str]
    about: str = ""

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """The variants of attention that it follows, in the order in which they are applied.

        A variant acts in calls that exercise a point which it answers: 'empty_row/nan' for biases of -infinity leaves
        a call without keys alone.
        """
        found = [v for p in points() for v in self._answer(p)]
        return tuple(dict.fromkeys(found))

    def _answer(self, point: Point):
        name = self.answers[point.name]
        return () if name in (REFUSES, UNKNOWN, NOT_ASKED) else point.answer(name).variants

    def attention(self, q, k, v, mask=None, **options):
        """The reference with this implementation's conventions.

        Parameters
        ----------
        q, k, v, mask, **options
            As for `refattn.grouped_query_attention`, in the reference's axes; arrays of any framework.

        Returns
        -------
        out, or (out, lse)
            float64.

        Raises
        ------
        Refused
            The implementation refuses such a call.
        """
        arguments = in_float64({"q": q, "k": k, "v": v, "mask": mask, **options})
        for point in points():
            answer = self.answers[point.name]
            if not point.exercised(arguments):
                continue
            if answer == REFUSES:
                raise Refused(self.name, point, self.notes.get(point.name, ""))
            if answer not in (UNKNOWN, NOT_ASKED) and (rewrite := point.answer(answer).rewrite):
                arguments = rewrite(arguments)
        return attend(applied(self.answers, arguments), **arguments)

    def kernel(self, q, k, v, mask=None, **options):
        """`attention` on this implementation's own axes, always four."""
        if self.layout == "bhnd":
            return self.attention(q, k, v, mask, **options)
        q, k, v = (np.swapaxes(x, 1, 2) for x in (q, k, v))
        result = self.attention(q, k, v, mask, **options)
        out, *lse = result if isinstance(result, tuple) else (result,)
        out = np.swapaxes(out, 1, 2)
        return (out, *lse) if lse else out


def names() -> list[str]:
    """Every preset, the measured ones first."""
    return [p.name for p in sorted(_read().values(), key=lambda p: (EVIDENCE.index(p.evidence), p.name))]


def get(name: str) -> Preset:
    """A preset by name.

    Raises
    ------
    TypeError, ValueError
        It is no name; there is none of that name.

    Examples
    --------
    >>> get("flash_attn.2_0").variants[:1]
    ('causal/top_left',)
    """
    known = _read()
    if not isinstance(name, str):
        raise TypeError(f"preset is {backend.shown(name)}; it must be the name of one, or a Preset")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(f"preset is {name!r}; it must be one of {', '.join(near or names())}")
    return known[name]


def expected(preset, *args, **kwargs):
    """What an implementation computes, from a preset or its name: `get(preset).attention(...)`.

    Examples
    --------
    >>> import refattn
    >>> q, k, v = np.zeros((1, 2)), np.zeros((3, 2)), np.eye(3)
    >>> expected("torch.sdpa.math", q, k, v, mask=refattn.masks.causal())
    array([[1., 0., 0.]])
    """
    return (preset if isinstance(preset, Preset) else get(preset)).attention(*args, **kwargs)


def expected_of(function: str, preset, args, kwargs):
    """What an implementation computes for a call of attention, or of what equals it, as that function returns it."""
    preset = preset if isinstance(preset, Preset) else get(preset)
    for known in ("grouped_query_attention", "attention"):  # the nearest: a preset may serve groups otherwise
        if (call := call_as(function, known, args, kwargs)) is not None:
            return call.back(preset.attention(**call.arguments))
    raise ValueError(f"function is {function}; a preset says what an implementation makes of what equals attention")


# --- reading --------------------------------------------------------------------------------------------------------


@cache
def _read() -> dict[str, Preset]:
    files = sorted((f for f in resources.files(__name__).iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    found: dict[str, Preset] = {}
    for file in files:
        contents = tomllib.loads(file.read_text(encoding="utf-8"))
        for name, table in contents.items():
            found[name] = _preset(name, table, found)
    return found


def _preset(name, table, before) -> Preset:
    """A preset from its table; `like` takes over what another one of the same file says."""
    base = before[table["like"]] if "like" in table else None
    answers = dict(base.answers) if base else {}
    notes = dict(base.notes) if base else {}
    for point, answer in table.get("answers", {}).items():
        answers[point], note = (answer, None) if isinstance(answer, str) else answer
        notes.pop(point, None)
        if note:
            notes[point] = note
    known = {p.name: p for p in points()}
    for point in answers.keys() - known.keys():
        raise ValueError(f"preset {name} answers {point!r}, which is no decision point")
    for point in known.values():  # in the order in which they are asked
        if point.pointless(answers):
            answers[point.name] = NOT_ASKED
        elif answers.get(point.name) in (None, NOT_ASKED):
            raise ValueError(f"preset {name} says nothing about {point.name}")
        point.meaning(answers[point.name])
    fields = {
        key: table.get(key, getattr(base, key, "")) for key in ("title", "evidence", "version", "layout", "about")
    }
    if fields["evidence"] not in EVIDENCE or fields["layout"] not in LAYOUTS:
        raise ValueError(f"preset {name} is {fields['evidence']!r} with layout {fields['layout']!r}")
    profiles = table.get("profiles", base.profiles if base else {})
    return Preset(name, profiles=profiles, answers=answers, notes=notes, **fields)
