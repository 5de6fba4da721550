"""Masks: which key position a query position may attend to, one pair of integers at a time.

A rule is a dictionary: {"rule": "window", "left": 2, "right": 0}, or {"rule": "and", "of": [rule, ...]}. The data that a
rule carries are integers, lists or Tensors.
"""

from ..exact import Tensor, lift, tensor

DATA = {"tokens": 1, "lengths": 0, "starts": 0, "ids": 1, "k_ids": 1, "parents": 1}  # and how many axes each has


def admits(rule, i, j):
    """May the query at position i attend to the key at position j? The rule's data are integers and lists here."""
    given = {name: value for name, value in rule.items() if name not in ("rule", "dense")}
    return RULES[rule["rule"]](i, j, **given)


def causal(i, j):
    return j <= i


def window(i, j, left, right):
    return (left is None or j >= i - left) and (right is None or j <= i + right)


def dilated(i, j, left, right, dilation):
    steps, rest = divmod(j - i, dilation)
    return rest == 0 and (left is None or steps >= -left) and (right is None or steps <= right)


def block(i, j, size):
    return j // size == i // size


def neighbours(i, j, size, before=1, after=1):
    return -before <= j // size - i // size <= after


def chunked(i, j, size):
    return block(i, j, size) and causal(i, j)


def strided(i, j, stride):
    return j <= i and (i - j <= stride or (i - j) % stride == 0)


def fixed(i, j, stride, summary=1):
    return j <= i and (j // stride == i // stride or j % stride >= stride - summary)


def global_tokens(i, j, tokens):
    return i in tokens or j in tokens


def prefix(i, j, lengths):
    return j <= i or j < lengths


def padding(i, j, lengths, starts=0):
    return starts <= j < starts + lengths


def documents(i, j, ids, k_ids=None):
    return ids[i] == (ids if k_ids is None else k_ids)[j]


def tree(i, j, parents, prefix=0):
    if j < prefix:
        return j <= i
    node = i - prefix
    while node > j - prefix:  # up from the query's node; an ancestor comes before its descendants
        node = parents[node]
    return node == j - prefix


RULES = {
    "everything": lambda i, j: True,
    "causal": causal,
    "window": window,
    "dilated": dilated,
    "block": block,
    "neighbours": neighbours,
    "chunked": chunked,
    "strided": strided,
    "fixed": fixed,
    "global_tokens": global_tokens,
    "prefix": prefix,
    "padding": padding,
    "documents": documents,
    "tree": tree,
    "and": lambda i, j, of: all(admits(part, i, j) for part in of),
    "or": lambda i, j, of: any(admits(part, i, j) for part in of),
    "not": lambda i, j, of: not admits(of[0], i, j),
}


# --- a second formulation: for each query the set of keys that it may attend to, as the papers list them --------------


def keys_of(rule, i, K):
    """Those of the key positions K that the query at position i may attend to."""
    name, given = rule["rule"], {name: value for name, value in rule.items() if name not in ("rule", "dense")}
    if name == "and":
        return set.intersection(*(keys_of(part, i, K) for part in given["of"]))
    if name == "or":
        return set.union(*(keys_of(part, i, K) for part in given["of"]))
    if name == "not":
        return K - keys_of(given["of"][0], i, K)
    return {j for j in K if any(j in part for part in SETS[name](i, K, **given))}


def _so_far(i, K):
    return range(min(K, default=i), i + 1)


def _window(i, K, left, right):
    first = min(K, default=i) if left is None else i - left
    last = max(K, default=i) if right is None else i + right
    return [range(first, last + 1)]


def _dilated(i, K, left, right, dilation):
    """The window over those positions that leave the remainder of i, counted among themselves."""
    same = sorted(k for k in {*K, i} if (k - i) % dilation == 0)
    order = {k: k // dilation for k in same}
    near = [range(order[i] - left, order[i] + 1)] if left is not None else [range(order[same[0]], order[i] + 1)]
    near += [range(order[i], order[i] + right + 1)] if right is not None else [range(order[i], order[same[-1]] + 1)]
    return [{k for k in same if any(order[k] in part for part in near)}]


def _blocks(i, size, before, after):
    start = i - i % size
    return range(start - before * size, start + (after + 1) * size)


def _strided(i, K, stride):
    return [range(i - stride, i + 1), range(i, min(K, default=i) - 1, -stride)]


def _fixed(i, K, stride, summary=1):
    own = i - i % stride
    lowest = min(K, default=own)
    lowest -= lowest % stride
    return [range(own, i + 1), *(range(lowest + stride - 1 - c, own, stride) for c in range(summary))]


def _documents(i, K, ids, k_ids=None):
    members = {}
    for position, document in enumerate(ids if k_ids is None else k_ids):
        members.setdefault(document, set()).add(position)
    return [members.get(ids[i], set())]


def _tree(i, K, parents, prefix=0):
    if i < prefix:
        return [_so_far(i, K)]
    seen = []  # of each node, from the root down
    for node, parent in enumerate(parents):
        seen.append({prefix + node} | (seen[parent] if parent >= 0 else set()))
    return [range(min(K, default=0), prefix), seen[i - prefix]]


SETS = {
    "everything": lambda i, K: [K],
    "causal": lambda i, K: [_so_far(i, K)],
    "window": _window,
    "dilated": _dilated,
    "block": lambda i, K, size: [_blocks(i, size, 0, 0)],
    "neighbours": lambda i, K, size, before=1, after=1: [_blocks(i, size, before, after)],
    "chunked": lambda i, K, size: [range(i - i % size, i + 1)],
    "strided": _strided,
    "fixed": _fixed,
    "global_tokens": lambda i, K, tokens: [K] if i in tokens else [tokens],
    "prefix": lambda i, K, lengths: [_so_far(i, K), range(min(K, default=0), lengths)],
    "padding": lambda i, K, lengths, starts=0: [range(starts, starts + lengths)],
    "documents": _documents,
    "tree": _tree,
}


def row(rule, i, keys):
    return [admits(rule, i, j) for j in keys]


def row_by_sets(rule, i, keys):
    K = set(keys)
    return [j in keys_of(rule, i, K) for j in keys]


# --- over any leading axes ------------------------------------------------------------------------------------------


def _data(rule):
    """Every piece of data that a rule carries: how many axes it has, and its Tensor."""
    for part in rule.get("of", []):
        yield from _data(part)
    for name, value in rule.items():
        if name in DATA:
            yield DATA[name], None if value is None else tensor(value, "int64")


def _with(rule, data):
    """The rule with its data taken from an iterator, in the order of `_data`."""
    of = {"of": [_with(part, data) for part in rule["of"]]} if "of" in rule else {}
    return {**rule, **of, **{name: next(data) for name in rule if name in DATA}}


def dense(rule, n, m, q_positions=None, k_positions=None, one_row=row):
    """A rule for N queries and M keys as a bool Tensor (..., N, M); without positions the queries are the last N of M."""
    q = Tensor((n,), range(m - n, m), "int64") if q_positions is None else tensor(q_positions, "int64")
    k = Tensor((m,), range(m), "int64") if k_positions is None else tensor(k_positions, "int64")

    def table(q, k, *data):
        plain, keys = _with(rule, (_plain(x) for x in data)), list(k)
        return Tensor((n, m), [int(cell) for i in q for cell in one_row(plain, i, keys)])

    cores, tensors = zip((1, q), (1, k), *_data(rule), strict=True)
    result = lift(table, cores, *tensors)
    return Tensor(result.shape, result.data, "bool")


def _plain(x):
    return list(x) if isinstance(x, Tensor) else x


def _function(one_row):
    def mask_dense(self, n, m, q_positions=None, k_positions=None):
        return {"out": dense(self, n, m, q_positions, k_positions, one_row)}

    return mask_dense


FUNCTIONS = {"Mask.dense": _function(row)}
SECOND = {"Mask.dense": _function(row_by_sets)}
