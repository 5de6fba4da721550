"""Which keys each query of a function attends to, and how often: asked of the function itself, for pictures."""

from __future__ import annotations

import ast
import inspect

import numpy as np

from refattn.testing.subject import Subject, subjects

SYMBOLS = "·■23456789"
MORE = "+"  # a key that counts more than nine times


def pictured(mechanism: str) -> Subject | None:
    """The subject of a mechanism whose calls can be drawn."""
    own = (s for s in subjects().values() if s.mechanism == mechanism and s.pictured is not None)
    return next(own, None)


def counts(subject: Subject, given: dict, n: int, m: int) -> np.ndarray:
    """How often each query attends to each key, (N, M): of the first sequence and head, where there are more.

    The values are the unit vectors, so that an output is the weights. Where the call has no queries and keys of its own, these are 0
    and the weight of a key is how often it counts divided by all, of which the lse is the logarithm; else 1 is said
    of every key with a weight.
    """
    plain = not {"q", "k", "qk"} & set(given)
    takes = inspect.signature(subject.function).parameters
    zeros = {"q": np.zeros((n, 1)), "k": np.zeros((m, 1)), "qk": np.zeros((m, 1))}
    given = {name: x for name, x in zeros.items() if name in takes} | given | {"v": np.eye(m)}
    weights, lse = subject.function(**given, return_lse=True) if plain else (subject.function(**given), None)
    found = weights > 0 if lse is None else np.round(weights * np.exp(lse)[..., None])
    return np.asarray(found[(0,) * (found.ndim - 2)], dtype=int)


def drawn(found: np.ndarray) -> str:
    """A pattern with one character a pair."""
    return "\n".join("  " + " ".join(SYMBOLS[x] if x < len(SYMBOLS) else MORE for x in row) for row in found)


def call_of(subject: Subject, text: str, n: int, m: int) -> dict:
    """The arguments of a picture: those of its example, and in their place what `text` says, 'left=3, right=0'.

    Raises
    ------
    ValueError
        The text is no list of named Python literals, or names what the function does not take.
    """
    assert subject.pictured is not None
    given = subject.pictured(n, m)
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("arguments go by name")
        own = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{text!r} must be arguments by name with plain values, as {written(given)!r}: {error}"
        ) from None
    takes = [name for name in inspect.signature(subject.function).parameters if name not in ("q", "k", "v", "options")]
    if unknown := [name for name in own if name not in takes]:
        raise ValueError(f"{subject.name} takes no {unknown[0]!r}; it takes {', '.join(takes)}")
    return given | {name: np.array(x) if isinstance(x, list) else x for name, x in own.items()}


def written(given: dict) -> str:
    """Arguments as one writes them; arrays of more than a row by their shape."""

    def value(x):
        if not isinstance(x, np.ndarray):
            return repr(x)
        return f"[{', '.join(map(str, x.tolist()))}]" if x.ndim == 1 and x.size <= 8 else "x".join(map(str, x.shape))

    return ", ".join(f"{name}={value(x)}" for name, x in given.items())
