"""Hypothesis strategies: whole calls of attention, and mask rules.

    @given(attention_cases(dtype="bfloat16"))
    def test_flash(case):
        assert_matches(flash(**case.arguments), refattn.attention, **case.arguments, precision="bfloat16")

Hypothesis finds this file by itself, so `st.from_type(refattn.Mask)` and `st.from_type(AttentionCase)` work. What is drawn
is structure: sizes, rules, options, and the kind and seed of the numbers. So a failure shrinks to few queries, few keys
and one option, and its text, `attention_case(n=1, m=2, ...)`, is the call that makes it again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import assume, reject
from hypothesis import strategies as st

from refattn import masks
from refattn.masks import Mask, causal
from refattn.testing.fitted import is_plain
from refattn.testing.foothold import is_call, options_of
from refattn.testing.inputs import Draw, Shrinking
from refattn.testing.layouts import cast
from refattn.testing.rounding import round_to
from refattn.testing.sizes import leading, resized, sizes_of
from refattn.testing.stated import parse
from refattn.testing.subject import name_of, subject
from refattn.testing.within import axes_within, masks_within, ruled_out, sizes_within

OPTIONS = ("mask", "bias", "scale", "softcap", "sinks", "return_lse")
NUMBERS = ("normal", "integers", "needle", "heavy", "offset", "negative", "ties", "large", "poison")


@dataclass(frozen=True, repr=False)
class AttentionCase:
    """One call of attention.

    Attributes
    ----------
    arguments : dict
        What the kernel and the reference are called with: q (B, H, N, D), k (B, G, M, D), v (B, G, M, Dv) and options.
    made_by : dict
        What `attention_case` made it from.
    """

    arguments: dict[str, Any]
    made_by: dict[str, Any] = field(default_factory=dict)

    def __repr__(self):
        return f"attention_case({', '.join(f'{name}={value!r}' for name, value in self.made_by.items())})"

    def _repr_pretty_(self, printer, cycle):
        """What Hypothesis prints: the call that makes it again, not the numbers."""
        printer.text(repr(self))


def attention_case(
    *, b=1, h=1, groups=None, n=1, m=1, d=1, dv=1, numbers="normal", seed=0, dtype="float32", options=(), mask=None
) -> AttentionCase:
    """A call of attention from its sizes, the kind and seed of its numbers, and its options.

    Parameters
    ----------
    b, h, groups, n, m, d, dv : int
        Batch, query heads, key/value heads (default: h), queries, keys, head size, value size.
    numbers : str
        normal; integers (every order of summation is exact); needle (each query points at one key); heavy (tails);
        offset (values far from 0); negative (all scores far below 0); ties (equal scores); large (the largest score is
        between 1e2 and 1e4); poison (NaN in a key and value that the mask excludes).
    seed : int
    dtype : str
        The format in which every number is exact; the arrays have that dtype if NumPy has it, else float32.
    options : tuple of str
        Of "bias", "scale", "softcap", "sinks", "return_lse".
    mask : Mask or bool array, optional

    Examples
    --------
    >>> attention_case(n=2, m=3, d=4).arguments["q"].shape
    (1, 1, 2, 4)
    """
    made_by = dict(locals())
    _check_names("numbers", (numbers,), NUMBERS)
    _check_names("options", options, OPTIONS[1:])
    made_by = {name: value for name, value in made_by.items() if value is not None and value != ()}
    groups = h if groups is None else groups
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=(b, h, n, d)), rng.normal(size=(b, groups, m, d)), rng.normal(size=(b, groups, m, dv))
    if numbers == "integers":
        q, k, v = (np.round(2 * x) for x in (0 * q, k, v))
    elif numbers == "needle" and m:
        k = k / np.sqrt(np.sum(k**2, axis=-1, keepdims=True))
        q = 24.0 * np.sqrt(d) * np.repeat(k, h // groups, axis=1)[:, :, rng.integers(m, size=n)]
    elif numbers == "heavy":
        q, k, v = (np.clip(rng.standard_t(3, size=x.shape), -60, 60) for x in (q, k, v))
    elif numbers == "offset":
        v = v + 30.0
    elif numbers == "negative":
        q, k = -np.abs(q) - 4, np.abs(k) + 4
    elif numbers == "ties":
        k = 0 * k
    elif numbers == "large" and n and m:
        scores = q @ np.swapaxes(np.repeat(k, h // groups, axis=1), -1, -2) * (0.3 if "scale" in options else d**-0.5)
        factor = np.sqrt(10 ** rng.uniform(2, 4) / np.max(np.abs(scores)))
        q, k = q * factor, k * factor
    elif numbers == "poison" and m:
        allowed = masks.visible(mask, n, m, like=q)
        allowed = np.broadcast_to(True if allowed is None else allowed, (b, h, n, m))
        hole = rng.integers(m)
        mask = allowed & (np.arange(m) != hole)
        k[:, :, hole], v[:, :, hole] = np.nan, np.nan
    extra = {
        "bias": rng.normal(size=(h, n, m)) * 2.0,
        "scale": 0.3,
        "softcap": 4.0,
        "sinks": rng.normal(size=h),
        "return_lse": True,
    }
    given = {
        "q": q,
        "k": k,
        "v": v,
        **({} if mask is None else {"mask": mask}),
        **{name: extra[name] for name in options},
    }
    exact = {
        name: round_to(x, dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
        for name, x in given.items()
    }
    return AttentionCase({name: cast(x, dtype) for name, x in exact.items()}, made_by)


def _check_names(argument, given, allowed):
    if isinstance(given, str) or not set(given) <= set(allowed):
        raise ValueError(f"{argument} is {given!r}; it must be a tuple of {', '.join(allowed)}")


@st.composite
def attention_cases(
    draw,
    dtype="float32",
    *,
    options=OPTIONS,
    numbers=NUMBERS,
    rules=None,
    grouped=False,
    empty=True,
    largest=40,
    limits=None,
):
    """Calls of attention.

    Parameters
    ----------
    dtype : str
        The input format of the kernel: "float32", "bfloat16", "float16", ...
    options : tuple of str
        What the kernel supports, of "mask", "bias", "scale", "softcap", "sinks", "return_lse".
    numbers : tuple of str
        Which kinds of numbers, of those of `attention_case`.
    rules : strategy of Mask or bool array, optional
        Which masks; default `mask_rules()`.
    grouped : bool
        Whether there may be fewer key/value heads than query heads.
    empty : bool
        Whether there may be no keys at all.
    largest : int
        The most queries and keys. Sizes are drawn to differ, so that exchanged axes cannot hide, and lie on either
        side of multiples of 16, where tiles end.
    limits : str, optional
        What the kernel takes, in the words of `refattn check --limits`: "D in 64, 128; M % 16 == 0; N == M; causal".
        Nothing else is drawn; sizes that limits name may be above `largest`, and may be equal.

    Returns
    -------
    strategy of AttentionCase
    """
    _check_names("options", options, OPTIONS)
    _check_names("numbers", numbers, NUMBERS)
    if limits is not None:
        return attention_case(**draw(_inside(limits, dtype, options, numbers, rules, grouped, empty, largest)))
    ragged = [size for tile in (16, 32, 64, 128) for size in (tile - 1, tile, tile + 1) if size <= largest]
    size = st.integers(1, largest) | st.sampled_from(ragged or [1])
    n = draw(size)
    m = draw((size | st.just(0) if empty else size).filter(lambda m: m != n))
    d = draw(st.integers(1, 17).filter(lambda d: d not in (n, m)))
    dv = draw(st.just(d) | st.integers(1, 17).filter(lambda dv: dv not in (n, m)))
    groups = draw(st.integers(1, 3))
    made: dict[str, Any] = {"b": draw(st.integers(1, 2)), "h": groups, "n": n, "m": m, "d": d, "dv": dv}
    if grouped:
        made |= {"h": groups * draw(st.integers(1, 3)), "groups": groups}
    made["options"] = tuple(name for name in options if name != "mask" and draw(st.booleans()))
    if "mask" in options and draw(st.booleans()):
        made["mask"] = draw(mask_rules() if rules is None else rules)
    kinds = [kind for kind in numbers if "mask" in options or kind != "poison"]
    made |= {"numbers": draw(st.sampled_from(kinds)), "seed": draw(st.integers(0, 999)), "dtype": dtype}
    return attention_case(**made)


@st.composite
def _inside(draw, limits, dtype, options, numbers, rules, grouped, empty, largest):
    """What `attention_case` makes a call from, inside of limits."""
    stated = parse(
        f"{limits}; H % G == 0" if grouped else limits, "grouped_query_attention" if grouped else "attention"
    )
    if axes_within(stated) not in (None, 4):
        raise ValueError(f"limits is {limits!r}; these calls have 4 axes")
    rows, few = range(1, largest + 1), range(1, 18)
    some = {"B": (1, 2), **({"G": (1, 2, 3)} if grouped else {}), "H": range(1, 10 if grouped else 4)}
    some |= {"N": rows, "M": rows, "D": few, "Dv": few}
    if empty and not any("M" in s.letters for s in stated.statements):
        some["M"] = range(largest + 1)

    def unlike(letter, sizes, found):
        """Sizes that differ, where they may, so that exchanged axes cannot hide."""
        before = {n for x, n in found.items() if x in "NM"} if letter in ("M", "D", "Dv") else set()
        return draw(st.sampled_from([n for n in sizes if n not in before] or sizes))

    sizes = sizes_within(stated, some, unlike)
    if sizes is None:
        raise ValueError(f"limits is {limits!r}; no sizes of up to a few thousand meet it")
    made: dict[str, Any] = {"groups" if letter == "G" else letter.lower(): n for letter, n in sizes.items()}
    left = [name for name in options if name != "mask" and name not in ruled_out(stated)]
    made["options"] = tuple(name for name in left if draw(st.booleans()))
    none, of_causal, of_any = masks_within(stated)
    if not none or ("mask" in options and of_causal and draw(st.booleans())):
        made["mask"] = draw((mask_rules() if rules is None else rules) if of_any else st.just(masks.causal()))
    kinds = [kind for kind in numbers if kind != "poison" or ("mask" in options and of_any)]
    return made | {"numbers": draw(st.sampled_from(kinds)), "seed": draw(st.integers(0, 999)), "dtype": dtype}


@st.composite
def calls(draw, function, dtype="float32", *, limits=None):
    """Calls of any reference function, as `check` draws them: dictionaries of arguments.

    Parameters
    ----------
    function : callable or str
        `refattn.rope`, 'latent.multi_head_latent_attention': `refattn list functions`.
    dtype : str
        The format in which every number is exact; the arrays have that dtype if NumPy has it, else float32.
    limits : str, optional
        What the kernel takes, in the words of `refattn check --limits`: "E % 64 == 0; no eps". Calls are moved inside.

    Returns
    -------
    strategy of dict

    Examples
    --------
    >>> from hypothesis import find
    >>> shrunk = find(calls("rms_norm"), lambda arguments: arguments["x"].shape[-1] > 3)
    >>> shrunk["x"].shape
    (2, 2, 4)
    """
    given = Draw(Shrinking(draw(st.data())), dtype).call(subject(name_of(function)))
    if limits is not None:
        given = _moved(draw, name_of(function), parse(limits, name_of(function)), given)
    return cast(given, dtype)


def _moved(draw, function, stated, given):
    """A call moved inside of limits, with those of its options that can be moved with it."""
    optional = options_of(function)
    out = ruled_out(stated)
    given = {name: x for name, x in given.items() if name not in out and (name not in optional or is_plain(x))}
    none, of_causal, of_any = masks_within(stated)
    if "mask" in optional and not of_any and (given.get("mask") is not None or not none):
        given["mask"] = causal() if of_causal and (not none or draw(st.booleans())) else None
    own = sizes_of(function, given)
    lead = leading(function, given)
    first = next((x for x in given.values() if isinstance(x, np.ndarray)), np.zeros(0))
    own |= {
        letter: n
        for letter, n in zip(("H", "B"), reversed(first.shape[: lead or 0]), strict=False)
        if letter not in own
    }
    grouped = parse(f"{stated}; H % G == 0", function) if {"H", "G"} <= own.keys() else stated
    sizes = sizes_within(
        grouped, {letter: (n,) for letter, n in own.items()}, lambda _, some, __: draw(st.sampled_from(some))
    )
    if sizes is None:
        reject()
    axes = axes_within(stated)
    given = resized(function, given, sizes, None if axes is None or lead is None else axes - first.ndim + lead)
    assume(not stated.beyond(given) and is_call(function, given))
    return given


def mask_rules(largest=24, depth=3):
    """Mask rules that answer for any positions: every rule of `refattn.masks` but those that list all positions
    (documents, tree), combined with &, | and ~.

    Parameters
    ----------
    largest : int
        The greatest size, length or position in a rule.
    depth : int
        The most rules that are combined.

    Returns
    -------
    strategy of Mask
    """
    count, length = st.integers(1, largest), st.integers(0, largest)
    reach = st.none() | length
    leaves = st.one_of(
        st.builds(masks.causal),
        st.builds(masks.everything),
        st.builds(masks.window, reach, reach),
        st.builds(masks.padding, length, starts=st.integers(0, 3)),
        st.builds(masks.prefix, length),
        st.builds(masks.block, count),
        st.builds(masks.chunked, count),
        st.builds(masks.dilated, reach, reach, st.integers(1, 4)),
        st.builds(masks.neighbours, count, st.integers(0, 2), st.integers(0, 2)),
        st.builds(masks.strided, count),
        count.flatmap(lambda stride: st.builds(masks.fixed, st.just(stride), st.integers(1, stride))),
        st.builds(masks.global_tokens, st.lists(length, min_size=1, max_size=3)),
    )
    return st.recursive(
        leaves,
        lambda rules: st.one_of(
            st.builds(lambda a, b: a & b, rules, rules),
            st.builds(lambda a, b: a | b, rules, rules),
            st.builds(lambda a: ~a, rules),
        ),
        max_leaves=depth,
    )


st.register_type_strategy(Mask, mask_rules())
st.register_type_strategy(AttentionCase, attention_cases())
