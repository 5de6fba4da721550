"""Self-consistency: calls of one implementation that must agree with each other, whatever the right answer is.

No tolerance is chosen. A relation asks for the same bits, or for two results that each lie within their own bound and so
differ by no more than the sum of both. It finds what no comparison of single results finds: a kernel may be within its
bound and still depend on what it must not see.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from refattn import masks
from refattn.testing import layouts
from refattn.testing.adapters import Failed
from refattn.testing.adapters.guard import told
from refattn.testing.bounds import bound
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.matches import Comparison
from refattn.testing.outcome import CheckCase
from refattn.testing.profiles import profile
from refattn.testing.reference import to_numpy
from refattn.testing.vectors import results

FUNCTIONS = ("attention", "grouped_query_attention", "tiled_attention")
_CORE = {"q": 2, "k": 2, "v": 2, "mask": 2}


@dataclass(frozen=True)
class Other:
    """Another call, and how its result goes with the first: first[of_first] must be second[of_second]."""

    what: str
    arguments: dict
    of_first: tuple = (Ellipsis,)
    of_second: tuple = (Ellipsis,)


@dataclass(frozen=True)
class Relation:
    """One way in which two calls must agree."""

    name: str
    clause: str
    bitwise: bool
    meaning: str
    inputs: Callable[[Draw, dict], dict]
    others: Callable[[dict], Iterator[Other]]
    everywhere: bool = True  # or only at the sizes that a kernel with limits takes


RELATIONS: dict[str, Relation] = {}


def _relation(name, clause, inputs, *, bitwise=False, everywhere=True):
    def register(others):
        RELATIONS[name] = Relation(name, clause, bitwise, others.__doc__ or name, inputs, others, everywhere)
        return others

    return register


def _plain(draw, x):
    return x


def _some_keys(draw, x):
    allowed = np.ones((5, 7), dtype=bool)
    allowed[:, [2, 6]] = False
    return {**x, "mask": allowed}


def _causal(draw, x):
    q = np.concatenate([x["q"], draw.normal(*x["q"].shape[:-2], 2, x["q"].shape[-1])], axis=-2)
    return {**x, "q": q, "mask": masks.causal()}


def _coarse(draw, x):
    return {**{name: np.round(8 * value) / 8 for name, value in x.items()}, "scale": 0.3125}


@_relation("poison", "ATTN-ABSENT", _some_keys, bitwise=True)
def _poison(x):
    """What excluded keys and values hold changes nothing: first finite garbage, then infinity, then NaN."""
    both = ("k", "v")
    garbage = ((-7.0, both), (np.inf, ("v",)), (np.nan, ("v",)), (np.inf, ("k",)), (np.nan, both))
    for number, names in garbage:  # values before keys: each leaks for a reason of its own
        changed = {name: x[name].copy() for name in names}
        for array in changed.values():
            array[..., [2, 6], :] = number
        where = " and ".join({"k": "keys", "v": "values"}[name] for name in names)
        yield Other(f"{number:g} in the excluded {where}", {**x, **changed})


@_relation("prefix", "ATTN-MASK", _causal)
def _prefix(x):
    """Under a causal mask, keys and queries that are appended change no earlier row."""
    for count in (1, 4):
        cut = {name: x[name][..., :count, :] for name in ("q", "k", "v")}
        yield Other(f"the first {count} tokens alone", {**x, **cut}, (Ellipsis, slice(0, count), slice(None)))


@_relation("future", "ATTN-ABSENT", _causal, everywhere=False)
def _future(x):
    """Under a causal mask, what the last key and value hold changes no row that does not see them."""
    before = (Ellipsis, slice(0, -1), slice(None))
    for number, names in ((np.nan, ("v",)), (np.inf, ("v",)), (np.nan, ("k", "v"))):
        changed = {name: x[name].copy() for name in names}
        for array in changed.values():
            array[..., -1, :] = number
        yield Other(f"{number:g} in the last {' and '.join(names)}", {**x, **changed}, before, before)


@_relation("permutation", "ATTN-OUT", _plain)
def _permutation(x):
    """Keys permuted together with their values change nothing."""
    for order in (np.arange(6, -1, -1), np.array([3, 0, 5, 1, 6, 2, 4])):
        yield Other(f"keys in the order {order.tolist()}", {**x, **{n: x[n][..., order, :] for n in ("k", "v")}})


@_relation("batch", "ATTN-BROADCAST", _plain)
def _batch(x):
    """A batch gives what a loop over its entries gives."""
    for entry in range(x["q"].shape[0]):
        alone = {name: value[entry : entry + 1] if name in _CORE else value for name, value in x.items()}
        yield Other(f"batch entry {entry} alone", alone, (slice(entry, entry + 1),))


@_relation("heads", "ATTN-BROADCAST", _plain, bitwise=True)
def _heads(x):
    """A head does not depend on what the other heads hold."""
    group = x["q"].shape[1] // x["k"].shape[1]
    changed = {name: x[name].copy() for name in ("q", "k", "v")}
    changed["q"][:, group:], changed["k"][:, 1:], changed["v"][:, 1:] = 0.5, -0.25, 3.0
    head = (slice(None), slice(0, group))
    yield Other("every key/value head but the first replaced", {**x, **changed}, head, head)


@_relation("rescaling", "ATTN-SCALE", _coarse, bitwise=True)
def _rescaling(x):
    """Queries times 4 and scale times 1/4 give the same bits: powers of two round nothing.

    4, not 2, because some kernels multiply queries and keys by the square root of the scale each.
    """
    yield Other("q times 4, scale times 1/4", {**x, "q": 4.0 * x["q"], "scale": x["scale"] / 4.0})


@_relation("strides", "BACKEND-STRIDE", _plain)
def _strides(x):
    """Views give what copies give: transposed, reversed, every second number, read-only, one head seen many times."""
    arrays = {name: x[name] for name in ("q", "k", "v")}
    views = {
        "transposed views": {name: layouts.tokens_first(a) for name, a in arrays.items()},
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


def relations(function: str, dtype: str, seed: int) -> Iterator[CheckCase]:
    """The cases of self-consistency for a function; none where it is no attention."""
    if function not in FUNCTIONS:
        return
    draw = Draw(Seeded(seed, zlib.crc32(f"{function} {dtype} self".encode())), dtype)
    for name, relation in RELATIONS.items():
        if not relation.everywhere:
            continue
        heads = 6 if function.startswith("grouped") else 3
        x = {"q": draw.normal(2, heads, 5, 8), "k": draw.normal(2, 3, 7, 8), "v": draw.normal(2, 3, 7, 8)}
        given = relation.inputs(draw, x)
        yield CheckCase(
            f"{function}.self.{name}.{dtype}", function, (relation.clause,), dtype, given,
            comment=" ".join(relation.meaning.split("\n\n")[0].split()), relation=name,
        )  # fmt: skip


def related(name: str, id: str, function: str, dtype: str, arguments: dict) -> CheckCase:
    """A case of self-consistency for arguments that are there already."""
    relation = RELATIONS[name]
    meaning = " ".join(relation.meaning.split("\n\n")[0].split())
    return CheckCase(id, function, (relation.clause,), dtype, arguments, comment=meaning, relation=name)


@dataclass(frozen=True)
class Disagreement:
    """Two calls that should agree and do not: the call, and what it returned, for a diagnosis."""

    message: str
    arguments: dict
    got: object


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
    comparisons = []
    for other in relation.others(case.arguments):
        returned = call(**cast(other.arguments))
        a, b = _part(first, other.of_first), _part(_numbers(case.function, returned), other.of_second)
        limit: np.ndarray | float = 0.0
        if not relation.bitwise:
            limits = _limit(case.function, chosen, case.arguments)[other.of_first]
            limits = limits + _limit(case.function, chosen, other.arguments)[other.of_second]
            if a.shape != limits.shape:
                raise Failed("wrong shape", f"the result has shape {a.shape}, it must have {limits.shape}")
            limit = limits
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
            return tuple(comparisons), Disagreement(message, other.arguments, returned)
    return tuple(comparisons), None


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
        ratio = np.where(np.abs(a - b) <= limit, np.abs(a - b) / np.where(limit > 0, limit, 1.0), np.inf)
        ratio = np.where((limit > 0) & np.isfinite(a - b), np.abs(a - b) / np.where(limit > 0, limit, 1.0), ratio)
    ratio = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, ratio)
    worst = float(np.max(ratio, initial=0.0))
    if worst <= 1:
        return Comparison(**basis, verdict="equal" if worst == 0 else "within hard", hard=worst)
    at = tuple(map(int, np.unravel_index(np.argmax(ratio), a.shape)))
    outside = int(np.sum(ratio > 1))
    return Comparison(**basis, verdict="outside", hard=worst, outside=outside, worst=at, got=b[at], want=a[at])
