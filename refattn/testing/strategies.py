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
from hypothesis import strategies as st

from refattn import masks
from refattn.masks import Mask
from refattn.testing.inputs import Draw, Shrinking
from refattn.testing.layouts import cast
from refattn.testing.rounding import round_to
from refattn.testing.subject import name_of, subject

OPTIONS = ("mask", "bias", "scale", "softcap", "sinks", "return_lse")
NUMBERS = ("normal", "integers", "needle", "heavy", "offset", "negative", "ties", "poison")


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
        offset (values far from 0); negative (all scores far below 0); ties (equal scores); poison (NaN in a key and
        value that the mask excludes).
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
    draw, dtype="float32", *, options=OPTIONS, numbers=NUMBERS, rules=None, grouped=False, empty=True, largest=40
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

    Returns
    -------
    strategy of AttentionCase
    """
    _check_names("options", options, OPTIONS)
    _check_names("numbers", numbers, NUMBERS)
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
def calls(draw, function, dtype="float32"):
    """Calls of any reference function, as `check` draws them: dictionaries of arguments.

    Parameters
    ----------
    function : callable or str
        `refattn.rope`, 'latent.multi_head_latent_attention': `refattn list functions`.
    dtype : str
        The format in which every number is exact; the arrays have that dtype if NumPy has it, else float32.

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
    return cast(Draw(Shrinking(draw(st.data())), dtype).call(subject(name_of(function))), dtype)


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
