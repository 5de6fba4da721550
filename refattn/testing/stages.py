"""Stage by stage: where an implementation exposes its scores or weights, which one leaves the path first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refattn.attention import AttentionStages
from refattn.testing.equals import call_as
from refattn.testing.matches import compare
from refattn.testing.vectors import results

_OPTIONS_OF_THE_OUTPUT = ("return_lse",)


@dataclass(frozen=True)
class Stage:
    """How one stage compares with the reference: the largest error in units of its hard bound."""

    name: str
    ok: bool
    error: float
    note: str = ""


def stages_of(adapter, case, cast, precision) -> tuple[Stage, ...]:
    """The stages that an implementation exposes, in the order of the mathematics; empty where it exposes none.

    Parameters
    ----------
    adapter : Adapter
        It may offer "attention_stages" (a dictionary of some stages) or "attention_weights".
    case : CheckCase
        A case of what equals attention, with the oracle's arguments. The stages are those of the attention that it equals.
    cast : callable
        Turns the oracle's arguments into those that the implementation gets.
    precision : str or Profile
    """
    offered = [name for name in ("attention_stages", "attention_weights") if name in adapter.functions]
    if not offered or case.function in offered:
        return ()
    call = call_as(case.function, "attention", (), case.arguments)
    if call is None:
        return ()
    for function in offered:
        drop = _OPTIONS_OF_THE_OUTPUT if function == "attention_stages" else (*_OPTIONS_OF_THE_OUTPUT, "v")
        given = {k: x for k, x in call.arguments.items() if k not in drop}
        try:
            with np.errstate(all="ignore"):
                got = adapter.call(function, case.dtype)(**cast(given))
            named = results(function, got) if function == "attention_stages" else {"out": got}
            found = compare(named, function, precision=precision, tier="hard", explain=False, **given)
        except Exception:  # what has no stages here, or no bound, says nothing; the case itself has been judged
            continue
        named = {("weights" if function == "attention_weights" else c.result): c for c in found}
        ordered = [name for name in AttentionStages._fields if name in named]
        return tuple(Stage(name, named[name].ok, named[name].hard, _note(named[name])) for name in ordered)
    return ()


def _note(comparison):
    if comparison.verdict == "shape":
        return f"shape {comparison.got}, must be {comparison.want}"
    if comparison.ok:
        return ""
    return (
        f"{comparison.outside:,} of {comparison.size:,} elements; got {comparison.got:.6g}, want {comparison.want:.6g}"
    )


def told(stages: tuple[Stage, ...]) -> str:
    """The stages in words; empty where there are none."""
    if not stages:
        return ""
    first = next((s for s in stages if not s.ok), None)
    table = ", ".join(f"{s.name} {'ok' if s.ok else 'OFF'}" for s in stages)
    if first is None:
        return f"Stages: every stage that it exposes is right ({', '.join(s.name for s in stages)})."
    times = f"{first.error:,.3g}x its bound" if np.isfinite(first.error) else "NaN or infinite, or of another shape"
    return f"Stages: {first.name} leaves the path first ({times}: {first.note}). {table}."
