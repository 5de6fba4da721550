"""Self-consistency: calls of one implementation that must agree with each other, whatever the right answer is.

No tolerance is chosen. A relation asks for the same bits, or for two results that each lie within their own bound and so
differ by no more than the sum of both. It finds what no comparison of single results finds: a kernel may be within its
bound and still depend on what it must not see.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from refattn import masks
from refattn.testing import layouts
from refattn.testing.adapters import Failed
from refattn.testing.adapters.guard import told
from refattn.testing.bounds import bound
from refattn.testing.diagnosis import FITS
from refattn.testing.distances import distance
from refattn.testing.docstrings import stated
from refattn.testing.equals import call_as, equal
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.matches import Comparison
from refattn.testing.names import function_named
from refattn.testing.nested import mapped
from refattn.testing.outcome import CheckCase
from refattn.testing.profiles import profile
from refattn.testing.reference import in_float64, oracle, to_numpy
from refattn.testing.subject import subject
from refattn.testing.vectors import results

_ARRAYS = ("q", "k", "v")
_TRIES = 20  # random calls that are drawn until one has another with which it must agree


@dataclass(frozen=True)
class Other:
    """Another call, and how its result goes with the first: first[of_first] must be second[of_second]."""

    what: str
    arguments: dict
    of_first: tuple = (Ellipsis,)
    of_second: tuple = (Ellipsis,)


@dataclass(frozen=True)
class Relation:
    """One way in which two calls of attention must agree, and so two of what equals attention.

    `inputs` makes of a call one of which it can be asked; it gets the names of the function's parameters, too. `others` makes
    the calls that must agree with it; it gets the arguments of attention that the record makes of the call, too.
    """

    name: str
    clause: str
    bitwise: bool
    meaning: str
    inputs: Callable[[Draw, dict, Collection[str]], dict]
    others: Callable[[dict, dict], Iterator[Other]]
    everywhere: bool = True  # or only at the sizes that a kernel with limits takes
    more: tuple[str, ...] = ()  # further clauses that whoever contradicts himself may have broken


RELATIONS: dict[str, Relation] = {}


def _relation(name, clause, inputs, *, bitwise=False, everywhere=True, more=()):
    def register(others):
        RELATIONS[name] = Relation(name, clause, bitwise, others.__doc__ or name, inputs, others, everywhere, more)
        return others

    return register


def _plain(draw, x, takes):
    return x


def _some_keys(draw, x, takes):
    n, m = x["q"].shape[-2], x["k"].shape[-2]
    allowed = np.ones((n, m), dtype=bool)
    allowed[:, [min(2, m - 1), m - 1]] = False
    return _masked(x, takes, allowed)


def _causal(draw, x, takes):
    q, m = x["q"], x["k"].shape[-2]
    more = draw.normal(*q.shape[:-2], max(m - q.shape[-2], 0), q.shape[-1])
    return _masked({**x, "q": np.concatenate([q, more], axis=-2)[..., :m, :]}, takes, masks.causal())


def _masked(x, takes, mask):
    """A call under a mask, where the function takes one and none is given."""
    return {**x, "mask": mask} if "mask" in takes and x.get("mask") is None else x


def _coarse(draw, x, takes):
    return {**x, **{name: np.round(8 * x[name]) / 8 for name in _ARRAYS}, "scale": 0.3125}


@_relation("poison", "ATTN-ABSENT", _some_keys, bitwise=True)
def _poison(x, given):
    """What excluded keys and values hold changes nothing: first finite garbage, then infinity, then NaN."""
    keys, rows = _excluded(given)
    both = ("k", "v")
    garbage = ((-7.0, both), (np.inf, ("v",)), (np.nan, ("v",)), (np.inf, ("k",)), (np.nan, both))
    for number, names in garbage if len(keys) else ():  # values before keys: each leaks for a reason of its own
        changed = {name: x[name].copy() for name in names}
        for array in changed.values():
            array[..., keys, :] = number
        where = " and ".join({"k": "keys", "v": "values"}[name] for name in names)
        yield Other(f"{number:g} in the excluded {where}", {**x, **changed}, rows, rows)


def _excluded(given):
    """Keys that no row sees, or else the one that the fewest see; and the index of the rows that see none of them."""
    q, k = given["q"], given["k"]
    positions = {name: given.get(name) for name in ("q_positions", "k_positions")}
    n, m = q.shape[-2], k.shape[-2]
    allowed = masks.visible(given.get("mask"), n, m, **positions, like=q)
    pairs = np.ones((n, m), dtype=bool) if allowed is None else np.asarray(allowed & np.ones((n, m), dtype=bool))
    seen = np.asarray(pairs.any(axis=tuple(range(pairs.ndim - 2))))
    keys = np.flatnonzero(~seen.any(axis=0))
    if not len(keys):
        keys = np.argsort(seen.sum(axis=0), kind="stable")[:1]
    rows = ~seen[:, keys].any(axis=1)
    if not rows.any():
        return (), ()
    return keys, (Ellipsis,) if rows.all() else (Ellipsis, np.flatnonzero(rows), slice(None))


@_relation("prefix", "ATTN-MASK", _causal)
def _prefix(x, given):
    """Under a causal mask, keys and queries that are appended change no earlier row."""
    for count in (1, 4):
        if count < x["q"].shape[-2]:
            cut = {name: x[name][..., :count, :] for name in _ARRAYS}
            yield Other(f"the first {count} tokens alone", {**x, **cut}, (Ellipsis, slice(0, count), slice(None)))


@_relation("future", "ATTN-ABSENT", _causal, everywhere=False, more=("ATTN-ALIGN", "ATTN-MASK"))
def _future(x, given):
    """Under a causal mask, what the last key and value hold changes no row that does not see them."""
    before = (Ellipsis, slice(0, -1), slice(None))
    for number, names in ((np.nan, ("v",)), (np.inf, ("v",)), (np.nan, ("k", "v"))):
        changed = {name: x[name].copy() for name in names}
        for array in changed.values():
            array[..., -1, :] = number
        yield Other(f"{number:g} in the last {' and '.join(names)}", {**x, **changed}, before, before)


@_relation("permutation", "ATTN-OUT", _plain)
def _permutation(x, given):
    """Keys permuted together with their values change nothing."""
    m = x["k"].shape[-2]
    mixed = np.add.outer(np.arange(0, m, 7), [3, 0, 5, 1, 6, 2, 4]).ravel()
    for order in (np.arange(m)[::-1], mixed[mixed < m]):
        yield Other(f"keys in the order {order.tolist()}", {**x, **{n: x[n][..., order, :] for n in ("k", "v")}})


@_relation("batch", "ATTN-BROADCAST", _plain)
def _batch(x, given):
    """A batch gives what a loop over its entries gives."""
    size = x["q"].shape[0] if x["q"].ndim > 2 else 0
    for entry in range(size):
        of_batch = {name: a for name, a in x.items() if isinstance(a, np.ndarray) and a.ndim > 2 and len(a) == size}
        alone = {**x, **{name: a[entry : entry + 1] for name, a in of_batch.items()}}
        yield Other(f"batch entry {entry} alone", alone, (slice(entry, entry + 1),))


@_relation("heads", "ATTN-BROADCAST", _plain, bitwise=True)
def _heads(x, given):
    """A head does not depend on what the other heads hold."""
    if min(x["q"].ndim, x["k"].ndim) < 3 or x["q"].shape[-3] < x["k"].shape[-3]:
        return
    group = x["q"].shape[-3] // x["k"].shape[-3]
    changed = {name: x[name].copy() for name in _ARRAYS}
    for name, first, number in (("q", group, 0.5), ("k", 1, -0.25), ("v", 1, 3.0)):
        changed[name][..., first:, :, :] = number
    head = (Ellipsis, slice(0, group), slice(None), slice(None))
    yield Other("every key/value head but the first replaced", {**x, **changed}, head, head)


@_relation("rescaling", "ATTN-SCALE", _coarse, bitwise=True)
def _rescaling(x, given):
    """Queries times 4 and scale times 1/4 give the same bits: powers of two round nothing.

    4, not 2, because some kernels multiply queries and keys by the square root of the scale each.
    """
    yield Other("q times 4, scale times 1/4", {**x, "q": 4.0 * x["q"], "scale": x["scale"] / 4.0})


@_relation("strides", "BACKEND-STRIDE", _plain)
def _strides(x, given):
    """Views give what copies give: transposed, reversed, every second number, read-only, one head seen many times."""
    arrays = {name: x[name] for name in _ARRAYS}
    if min(a.ndim for a in arrays.values()) > 2:
        yield Other("transposed views", {**x, **{name: layouts.tokens_first(a) for name, a in arrays.items()}})
    views = {
        "views with step -1": {name: np.ascontiguousarray(a[..., ::-1])[..., ::-1] for name, a in arrays.items()},
        "views [..., ::2]": {name: layouts.spread(a) for name, a in arrays.items()},
        "read-only arrays": {name: _read_only(a) for name, a in arrays.items()},
    }
    for what, view in views.items():
        yield Other(what, {**x, **view})


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


class _Plain(Seeded):
    """Choices from a seed that leave out what need not be there."""

    def chance(self, p: float) -> bool:
        return False


def relations(function: str, dtype: str, seed: int) -> Iterator[CheckCase]:
    """The cases of self-consistency for a function: none where it does not equal attention over q, k and v of its own."""
    takes = {x.name for x in stated(function_named(function), "Parameters")}
    if not equal(function, "attention") or not takes >= {*_ARRAYS}:
        return
    draw = Draw(_Plain(seed, zlib.crc32(f"{function} {dtype} self".encode())), dtype)
    for name, relation in RELATIONS.items():
        if relation.everywhere and (given := _asked(function, relation, draw, takes)) is not None:
            yield related(name, f"{function}.self.{name}.{dtype}", function, dtype, given)


def _asked(function, relation, draw, takes) -> dict | None:
    """A call with another that must agree with it; None where none is drawn: a window has no order of keys to permute."""
    of = subject(function)
    for _ in range(_TRIES):
        given = mapped(draw.round, (of.related or of.random)(draw))
        given = {name: x for name, x in relation.inputs(draw, given, takes).items() if name != "return_lse"}
        if given.keys() <= takes and _agreeing(function, relation, given):
            return given
    return None


def _agreeing(function, relation, x) -> list[Other]:
    """The other calls that must agree with one, but for those that are refused; none, if any does not as a call of attention."""
    first = _by_attention(function, x)
    if first is None:
        return []
    found = []
    for other in relation.others(x, first.given):
        if (second := _by_attention(function, other.arguments)) is None:
            continue
        a, b = first.out[other.of_first], second.out[other.of_second]
        if a.shape != b.shape or not np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True):
            return []
        found.append(other)
    return found


class _Answer(NamedTuple):
    given: dict
    out: np.ndarray


def _by_attention(function, x) -> _Answer | None:
    """What attention gives for a call of what equals it; None where the function refuses the call."""
    try:
        with np.errstate(all="ignore"):
            oracle(function, **x)
            call = call_as(function, "attention", (), in_float64(x))
            if call is None:
                return None
            return _Answer(call.arguments, results("attention", oracle("attention", **call.arguments))["out"])
    except (ValueError, TypeError, IndexError):
        return None


def related(name: str, id: str, function: str, dtype: str, arguments: dict) -> CheckCase:
    """A case of self-consistency for arguments that are there already."""
    relation = RELATIONS[name]
    meaning = " ".join(relation.meaning.split("\n\n")[0].split())
    return CheckCase(id, function, (relation.clause, *relation.more), dtype, arguments, comment=meaning, relation=name)


@dataclass(frozen=True)
class Disagreement:
    """Two calls that should agree and do not: the second and what it returned, for a diagnosis, and numbers of the first."""

    message: str
    arguments: dict
    got: object
    first: np.ndarray


def judge(call, case: CheckCase, cast, precision) -> tuple[tuple[Comparison, ...], Disagreement | None]:
    """Make the calls of a case; the first pair that does not agree, and how far apart the pairs were.

    Parameters
    ----------
    call : callable
    case : CheckCase
    cast : callable
        Turns the oracle's arguments into those that the implementation gets.
    precision : str or Profile
    """
    relation, chosen = RELATIONS[case.relation], profile(precision)
    first = _numbers(case.function, call(**cast(case.arguments)))
    comparisons, own = [], None
    for other in _agreeing(case.function, relation, case.arguments):
        returned = call(**cast(other.arguments))
        a, b = _part(first, other.of_first), _part(_numbers(case.function, returned), other.of_second)
        limit: Any = 0.0
        if not relation.bitwise:
            own = _limit(case.function, chosen, case.arguments) if own is None else own
            limit = own[other.of_first]
            if a.shape != limit.shape:
                raise Failed("wrong shape", f"the result has shape {a.shape}, it must have {limit.shape}")
            if not np.array_equal(a, b, equal_nan=True):  # for what is equal no second bound need be found
                limit = limit + _limit(case.function, chosen, other.arguments)[other.of_second]
        found = _agree(a, b, limit, case.function, chosen.name)
        comparisons.append(found)
        if not found.ok:
            wanted = "the same bits" if relation.bitwise else "no more than both bounds together"
            times = (
                ""
                if relation.bitwise or not np.isfinite(found.hard)
                else f", {found.hard:,.3g}x what both bounds allow"
            )
            at = f" at {list(found.worst)}: {found.got:.9g} and {found.want:.9g}" if found.worst else ""
            message = (
                f"{case.comment} Here {found.outside:,} of {found.size:,} elements differ between the first call and that"
                f" with {other.what}{at}{times}; {wanted} would be right."
            )
            return tuple(comparisons), Disagreement(message, other.arguments, returned, first)
    return tuple(comparisons), None


def gives(variant, case: CheckCase, first: np.ndarray, precision) -> bool:
    """Whether a variant gives the numbers of a case's first call, too: it must, to be why the second disagrees."""
    with np.errstate(all="ignore"):
        right = bound(case.function, profile(precision), **case.arguments)["out"]
    own = variant.results((), in_float64(case.arguments))
    want = right.value if own is None else own["out"]  # where it does not apply nothing is wrong
    if not first.shape == want.shape == right.value.shape:
        return False
    return distance(first, want, np.broadcast_to(right.hard, want.shape)) <= 2 * FITS


def _numbers(function, returned):
    try:
        return np.asarray(to_numpy(results(function, returned)["out"])).astype(np.float64)
    except Exception as error:  # a stranger's array may raise anything when it is read
        raise Failed("wrong kind of result", told(error)) from error


def _part(numbers, index):
    try:
        return numbers[index]
    except IndexError:
        raise Failed("wrong shape", f"the result has shape {numbers.shape}, too few axes to be compared") from None


def _limit(function, chosen, arguments):
    with np.errstate(all="ignore"):
        found = bound(function, chosen, **arguments)["out"]
    return np.broadcast_to(found.hard, found.value.shape)


def _agree(a, b, limit, function, precision) -> Comparison:
    basis = {"function": function, "result": "out", "precision": precision, "size": a.size}
    if a.shape != b.shape:
        return Comparison(**basis, verdict="shape", got=b.shape, want=a.shape, hard=np.inf)
    limit = np.broadcast_to(limit, a.shape)
    with np.errstate(all="ignore"):
        ratio = np.where((limit > 0) & np.isfinite(a - b), np.abs(a - b) / limit, np.inf)
    ratio = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, ratio)
    worst = float(np.max(ratio, initial=0.0))
    if worst <= 1:
        return Comparison(**basis, verdict="equal" if worst == 0 else "within hard", hard=worst)
    at = tuple(map(int, np.unravel_index(np.argmax(ratio), a.shape)))
    outside = int(np.sum(ratio > 1))
    return Comparison(**basis, verdict="outside", hard=worst, outside=outside, worst=at, got=b[at], want=a[at])
