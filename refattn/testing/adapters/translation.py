"""A call of the reference as an operator on (B, H, N, D) takes it: axes, flags and masks. Nothing is repaired."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refattn.attention import Dropout
from refattn.masks import Mask
from refattn.testing.adapters.base import Failed, Unsupported
from refattn.testing.reference import to_numpy


class AttentionCall(NamedTuple):
    """One call of attention for an operator with four axes.

    Attributes
    ----------
    q, k, v : array (B, H, N, D), (B, G, M, D), (B, G, M, Dv)
    causal : bool
        The operator's own flag is to be set.
    window : tuple of (int or None) or None
        The operator's own window is to be set.
    mask, bias : array of four axes or None
        The rest of the mask, and the bias, of sizes that broadcast to (B, H, N, M).
    restore : callable
        Brings a result (B, H, ...) back to the leading axes of the call; Failed where it has other first axes.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    causal: bool
    window: tuple | None
    mask: np.ndarray | None
    bias: np.ndarray | None
    restore: Callable[[np.ndarray], np.ndarray]

    def term(self) -> np.ndarray | None:
        """Mask and bias as one array, for an operator that has one argument for both: boolean without a bias."""
        if self.bias is None or self.mask is None:
            return self.mask if self.bias is None else self.bias
        return np.where(self.mask, self.bias, np.asarray(-math.inf, dtype=self.bias.dtype))


def attention_call(
    q, k, v, mask=None, *, bias=None, q_positions=None, k_positions=None, grouped=False, native=(), together=True
) -> AttentionCall:
    """Translate a call of attention.

    Parameters
    ----------
    q, k, v, mask, bias, q_positions, k_positions
        As the reference takes them.
    grouped : bool
        k and v may have fewer heads than q.
    native : tuple of str
        The rules that the operator has a flag for: "causal", "window".
    together : bool
        The operator takes such a flag beside a mask or a bias.

    Notes
    -----
    A rule that the operator has a flag for becomes that flag, as users of the operator write it, unless positions are
    given that count otherwise than from 0, or the rest of the mask is an array that depends on where queries lie and
    the operator could lay its flag elsewhere. Every other rule becomes a boolean array.
    """
    n, m = q.shape[-2], k.shape[-2]
    counted = _from_zero(q_positions, n) and _from_zero(k_positions, m)
    aligned = n == m or q_positions is not None  # one array cannot be laid as the reference does and the flag elsewhere
    causal, window, dense = False, None, mask
    if isinstance(mask, Mask):
        flags, rest = _split(mask, native)
        alone = together or (rest is None and bias is None and len(flags) == 1)
        if not (counted and alone and (aligned or _same_for_all_queries(rest))):
            flags, rest = [], mask
        causal = any(flag.name == "causal" for flag in flags)
        window = next(((f.arguments["left"], f.arguments["right"]) for f in flags if f.name == "window"), None)
        dense = None if rest is None else rest.dense(n, m, q_positions=q_positions, k_positions=k_positions)
    lead = _lead(q, k, v, dense, bias, grouped)
    heads = lead if len(lead) else (1,)
    flat = (math.prod(heads[:-1]), heads[-1])

    def restore(result):
        if tuple(result.shape[:2]) != flat:  # no ValueError: it would count as a refusal
            raise Failed(
                "wrong shape", f"a result has shape {tuple(result.shape)}; its first axes must be (B, H) = {flat}"
            )
        return np.reshape(result, (*lead, *result.shape[2:]))

    kv_heads = (*heads[:-1], k.shape[-3] if k.ndim > 2 else 1) if grouped else heads
    return AttentionCall(
        _four(q, heads, fill=True),
        _four(k, kv_heads, fill=True),
        _four(v, kv_heads, fill=True),
        causal,
        window,
        None if dense is None else _four(dense, heads),
        None if bias is None else _four(bias, heads),
        restore,
    )


def trailing(axis, x) -> int:
    """The first of the axes that are normalised, for operators that normalise all axes from one on."""
    axes = [a % x.ndim for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    if axes != list(range(axes[0], x.ndim)):
        raise Unsupported("only trailing axes can be normalised")
    return axes[0]


def _from_zero(positions, count):
    return positions is None or np.array_equal(positions, np.arange(count))


def _split(mask, native):
    """The parts of a conjunction that the operator has a flag for, each kind once, and the rest."""
    flags: list[Mask] = []
    rest: list[Mask] = []
    for part in _conjunction(mask):
        fresh = part.name in native and all(part.name != flag.name for flag in flags)
        (flags if fresh else rest).append(part)
    return flags, functools.reduce(operator.and_, rest) if rest else None


def _same_for_all_queries(mask):
    return mask is None or all(part.name in ("padding", "everything") for part in _conjunction(mask))


def _conjunction(mask):
    if mask.name != "and":
        return [mask]
    return [leaf for part in mask.parts for leaf in _conjunction(part)]


def _lead(q, k, v, mask, bias, grouped):
    """The leading axes of the result; those of q where the arguments do not agree, which the operator may judge."""
    others = [x.shape[:-2] for x in (mask, bias) if x is not None]
    keys = [x.shape[:-3] + (1,) if grouped and x.ndim > 2 else x.shape[:-2] for x in (k, v)]
    try:
        return np.broadcast_shapes(q.shape[:-2], *keys, *others)
    except ValueError:
        return q.shape[:-2]


def _four(x, lead, fill=False):
    """An array with leading axes `lead` as (B, H, ...), all but the last of them flattened into B.

    Axes of size 1 stay, for the operator to broadcast, unless `fill`.
    """
    x = np.reshape(x, (1,) * (len(lead) + 2 - x.ndim) + x.shape)
    shape = x.shape
    if x.ndim == len(lead) + 2:
        if fill:
            shape = (*lead, *shape[-2:])
        elif any(size > 1 for size in shape[: len(lead) - 1]):
            shape = (*lead[:-1], *shape[-3:])
        try:
            x = np.broadcast_to(x, shape)
        except ValueError:
            shape = x.shape  # arguments that do not agree are the operator's to refuse
    return np.ascontiguousarray(np.reshape(x, (math.prod(shape[:-3]), *shape[-3:])))


def four_axes(call, swap=False):
    """A function on (B, H, N, D), or on (B, N, H, D) with `swap`, behind the signature that takes any leading axes.

    Rules stay rules where they can: one whose data has leading axes becomes an array when those are flattened.
    """

    def turn(x):
        return np.ascontiguousarray(np.swapaxes(x, 1, 2)) if swap and x.ndim == 4 else x

    @functools.wraps(call)
    def wrapped(q, k, v, mask=None, *, bias=None, sinks=None, dropout=None, q_positions=None, k_positions=None, **rest):
        positions = {"q_positions": q_positions, "k_positions": k_positions}
        if not q.ndim == k.ndim == v.ndim == 4 and isinstance(mask, Mask):
            dense = mask.dense(q.shape[-2], k.shape[-2], **positions)
            if dense.ndim > 2:
                mask, positions = dense, {}
        rule = mask if isinstance(mask, Mask) else None
        grouped = q.ndim > 2 and k.ndim > 2 and k.shape[-3] not in (1, q.shape[-3])
        x = attention_call(q, k, v, mask if rule is None else None, bias=bias, grouped=grouped)
        lead = (1, *q.shape[:-2])[-max(q.ndim - 2, 1) :]
        if sinks is not None:
            rest["sinks"] = _four(np.asarray(sinks)[..., None, None], lead)[..., 0, 0]
        if dropout is not None:
            rest["dropout"] = Dropout(_four(dropout[0], lead), dropout[1])
        given = {"mask": x.mask if rule is None else rule, "bias": x.bias, **positions}
        rest.update({name: value for name, value in given.items() if value is not None})
        result = call(turn(x.q), turn(x.k), turn(x.v), **rest)
        if not isinstance(result, tuple):
            return _back(result, x.restore, turn)
        first, *others = result or (None,)
        return _back(first, x.restore, turn), *(_back(part, x.restore) for part in others)

    return wrapped


def rope_of_four_axes(call):
    """A rotation of (B, N, H, D), whose positions are (N,) or (B, N), behind the reference's signature."""

    def turn(x):
        return np.ascontiguousarray(np.swapaxes(x, 1, 2))

    @functools.wraps(call)
    def wrapped(x, positions, **options):
        lead = x.shape[:-2] or (1,)
        positions = np.asarray(positions)
        if positions.ndim > 1:
            whole = np.reshape(np.broadcast_to(positions, x.shape[:-1]), (-1, lead[-1], x.shape[-2]))
            if not np.array_equal(whole, np.broadcast_to(whole[:, :1], whole.shape)):
                raise Unsupported("in (B, N, H, D) positions are the same for all heads")
            positions = np.ascontiguousarray(whole[:, 0])
        result = call(turn(_four(x, lead)), positions, **options)
        return _back(result, lambda y: np.reshape(y, x.shape), lambda y: np.swapaxes(y, 1, 2))

    return wrapped


def _back(result, restore, turn=to_numpy):
    """A result in the axes of the call; as it is where it has other axes or is no array, for the comparison to say so."""
    try:
        return restore(turn(to_numpy(result)))
    except Exception:  # an array of a stranger's class may raise anything when it is read
        return result
