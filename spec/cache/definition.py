"""Decoding through a cache: for each query the keys and values that it attends to, one token at a time."""

from ..attention.definition import mixed, score
from ..exact import Tensor, exact, lift, move_axis, mp, mpf
from ..positions.definition import rotate_row, scaled_frequencies
from ..softmax.definition import merge_row


def seen_places(cache, p, before, n, window=None, first=0, recent=None, positions="cache"):
    """The places in the sequence that the query at place p sees, in order; its block began at `before` and has n tokens."""
    if cache == "rolling":
        return [j for j in range(p + 1) if j > p - window]
    if cache == "sink" and positions == "absolute":
        return [j for j in range(p + 1) if j < first or j > p - recent]
    if cache == "sink":
        beyond = n - len([j for j in range(before, before + n) if j < first])  # tokens of the block that are no sinks
        kept = [j for j in range(before) if j < first or j >= before - max(recent - beyond, 0)]
        return kept + list(range(before, p + 1))
    return list(range(p + 1))


def decode(
    q, k, v, blocks, cache="contiguous", window=None, first=0, recent=None, positions="cache", page_size=None,
    bits=None, group=None, residual=None, rope_base=None, layout="half", scale=None, softcap=None, sinks=None,
):  # fmt: skip
    heads, kv_heads, tokens = q.shape[1], k.shape[1], q.shape[2]
    scale = 1 / mp.sqrt(q.shape[-1]) if scale is None else scale
    numbered = cache == "sink" and positions == "cache"
    out = {}
    lives, start = [[] for _ in range(q.shape[0])], 0  # of each sequence the tokens that are there: whose, and which
    for n in blocks:
        if isinstance(n, list):
            lives = [list(lives[b]) for b in n]
            continue
        if n < 0:
            lives = [live[:n] for live in lives]
            continue
        block = range(start, start + n)
        start += n
        for b, live in enumerate(lives):
            before = len(live)
            live += [(b, t) for t in block]
            if cache == "cross":
                live[:] = [(b, t) for t in range(k.shape[2])]
            for h in range(heads):
                g = h // (heads // kv_heads)
                turned = [turn(k[c][g][t], j, None if numbered else rope_base, layout) for j, (c, t) in enumerate(live)]
                values = [[exact(x) for x in v[c][g][t]] for c, t in live]
                if cache == "quantized":
                    turned, values = aged(turned, values, before, bits, group, residual)
                for p, t in enumerate(block, start=before):
                    places = (
                        range(len(live))
                        if cache == "cross"
                        else seen_places(cache, p, before, n, window, first, recent, positions)
                    )
                    keys = [turn(turned[j], m, rope_base if numbered else None, layout) for m, j in enumerate(places)]
                    query = turn(q[b][h][t], len(places) - 1 if numbered else p, rope_base, layout)
                    sink = None if sinks is None else sinks[h]
                    out[b, h, t] = attended(query, keys, [values[j] for j in places], scale, softcap, sink)
    rows = [out[b, h, t] for b in range(q.shape[0]) for h in range(heads) for t in range(tokens)]
    return {"out": Tensor((*q.shape[:3], v.shape[-1]), [x for row in rows for x in row])}


def turn(x, p, base, layout):
    """A key or query rotated by its place."""
    if base is None:
        return [exact(a) for a in x]
    theta, _ = scaled_frequencies(len(x), base, None)
    cos, sin = ([f(p * t) for t in theta] for f in (mp.cos, mp.sin))
    return list(rotate_row(x, cos, sin, layout, len(x)))


def attended(q, keys, values, scale, softcap, sink):
    s = [score(q, key, scale) for key in keys]
    if softcap:
        s = [exact(softcap) * mp.tanh(x / exact(softcap)) for x in s]
    total = mp.fsum(mp.exp(x) for x in s) + (0 if sink is None else mp.exp(exact(sink)))
    return [
        mixed((mp.exp(x) / total, value[c]) for x, value in zip(s, values, strict=True)) for c in range(len(values[0]))
    ]


# --- quantisation ---------------------------------------------------------------------------------------------------


def quantize_group(xs, bits):
    """Codes, scale and zero of numbers that share them. Numbers half-way between two levels make no good case."""
    low, high = min(xs), max(xs)
    scale = (high - low) / (2**bits - 1)
    codes = []
    for x in xs:
        level = mpf(0) if scale == 0 else (x - low) / scale
        nearest = int(mp.nint(level))
        assert abs(abs(level - mp.floor(level)) - mpf(1) / 2) > mpf("1e-4"), "half-way: choose other inputs"
        codes.append(nearest)
    return codes, scale, low


def requantized(xs, bits):
    codes, scale, low = quantize_group(xs, bits)
    return [c * scale + low for c in codes]


def aged(keys, values, before, bits, group, residual):
    """Keys and values as a cache of `before` tokens holds them; the tokens after them are as they came."""
    keys, values = [list(row) for row in keys], [list(row) for row in values]
    for start in range(0, before - before % residual, group):
        for c in range(len(keys[0])):
            found = requantized([keys[start + t][c] for t in range(group)], bits)
            for t in range(group):
                keys[start + t][c] = found[t]
    for t in range(max(before - residual, 0)):
        values[t] = [x for c in range(0, len(values[t]), group) for x in requantized(values[t][c : c + group], bits)]
    return keys, values


def quantize(x, bits, group, axis=-1):
    def one(row):
        parts = [quantize_group([exact(a) for a in row.data[g : g + group]], bits) for g in range(0, len(row), group)]
        codes = [c for part in parts for c in part[0]]
        return codes, [part[1] for part in parts], [part[2] for part in parts]

    codes, scale, zero = (move_axis(t, -1, axis) for t in lift(one, (1,), move_axis(x, axis, -1)))
    return {"codes": Tensor(codes.shape, codes.data, "int64"), "scale": scale, "zero": zero}


def quantize_by_levels(x, bits, group, axis=-1):
    """The code is the number of thresholds, half-way between levels, that a number exceeds."""

    def one(row):
        codes, scales, zeros = [], [], []
        for g in range(0, len(row), group):
            part = sorted(exact(a) for a in row.data[g : g + group])
            width = part[-1] - part[0]
            steps = 2**bits - 1
            codes += [
                sum(2 * steps * (exact(a) - part[0]) > (2 * c + 1) * width for c in range(steps)) if width else 0
                for a in row.data[g : g + group]
            ]
            scales, zeros = scales + [width / steps], zeros + [part[0]]
        return codes, scales, zeros

    codes, scale, zero = (move_axis(t, -1, axis) for t in lift(one, (1,), move_axis(x, axis, -1)))
    return {"codes": codes, "scale": scale, "zero": zero}


def dequantize(codes, scale, zero, axis=-1):
    codes, scale, zero = (move_axis(t, axis, -1) for t in (codes, scale, zero))

    def one(codes, scale, zero):
        group = len(codes) // len(scale)
        return [c * exact(scale[n // group]) + exact(zero[n // group]) for n, c in enumerate(codes)]

    return {"out": move_axis(lift(one, (1, 1, 1), codes, scale, zero), -1, axis)}


# --- the second formulation: memory, slot by slot ---------------------------------------------------------------------


class Slots:
    """Memory in which a token has an address; what was written last is what is read."""

    def __init__(self):
        self.memory, self.length = {}, 0

    def block(self, tokens, address, seen):
        """Queries of a block attend to what was there and to the block, then the block is written."""
        old = {
            p: self.memory[address(p)][1] for p in range(self.length) if self.memory.get(address(p), (None,))[0] == p
        }
        found = []
        for n in range(len(tokens)):
            p = self.length + n
            there = {**old, **{self.length + m: tokens[m] for m in range(n + 1)}}
            found.append((p, [there[j] for j in sorted(there) if seen(j, p)]))
        for n, token in enumerate(tokens):
            self.memory[address(self.length + n)] = (self.length + n, token)
        self.length += len(tokens)
        return found


def decode_from_slots(
    q, k, v, blocks, cache="contiguous", window=None, first=0, recent=None, positions="cache", page_size=None,
    bits=None, group=None, residual=None, rope_base=None, layout="half", scale=None, softcap=None, sinks=None,
):  # fmt: skip
    if (
        cache in ("quantized", "cross")
        or any(isinstance(n, list) for n in blocks)
        or (cache == "sink" and positions == "cache")
    ):
        return {}
    address, seen = {
        "contiguous": (lambda p: p, lambda j, p: True),
        "paged": (lambda p: (-(p // page_size), p % page_size), lambda j, p: True),
        "rolling": (lambda p: p % (window + slack(blocks)), lambda j, p: p - j < window),
        "sink": (
            lambda p: p if p < first else first + (p - first) % (recent + slack(blocks)),
            lambda j, p: j < first or p - j < recent,
        ),
    }[cache]
    scale = 1 / mp.sqrt(q.shape[-1]) if scale is None else scale
    rows = []
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            slots, start, out = Slots(), 0, []
            for n in blocks:
                if n < 0:
                    slots.length += n
                    continue
                tokens = [
                    (turn(k[b][g][t], slots.length + t - start, rope_base, layout), v[b][g][t])
                    for t in range(start, start + n)
                ]
                for m, (p, found) in enumerate(slots.block(tokens, address, seen)):
                    query = turn(q[b][h][start + m], p, rope_base, layout)
                    out.append(merged(query, found, scale, softcap, None if sinks is None else sinks[h]))
                start += n
            rows += out
    return {"out": Tensor((*q.shape[:3], v.shape[-1]), [x for row in rows for x in row])}


def slack(blocks):
    """How far the sequence falls back behind the longest that it was."""
    lengths = [sum(blocks[:n]) for n in range(len(blocks) + 1)]
    return max(max(lengths[: n + 1]) - length for n, length in enumerate(lengths))


def merged(q, tokens, scale, softcap, sink):
    """One token after the other, the sink as a token of value 0."""
    out, lse = [mpf(0)] * len(tokens[0][1]), -mp.inf
    for key, value in tokens:
        s = score(q, key, scale)
        s = exact(softcap) * mp.tanh(s / exact(softcap)) if softcap else s
        out, lse = merge_row(out, float("-inf") if lse == -mp.inf else lse, [exact(x) for x in value], s)
    return out if sink is None else merge_row(out, lse, [mpf(0)] * len(out), exact(sink))[0]


# --- sizes ----------------------------------------------------------------------------------------------------------


def cache_nbytes(
    tokens, layers=1, kv_heads=1, head_dim=None, value_dim=None, itemsize=2, window=None, first=0, recent=None,
    page_size=None, bits=None, group=None, residual=0, latent_dim=None, rope_dim=0,
):  # fmt: skip
    """Every number that is kept, one token and one head at a time."""
    dv = head_dim if value_dim is None else value_dim
    total = mpf(0)
    rows = -(-tokens // page_size) * page_size if page_size else tokens
    for t in range(rows):
        if latent_dim is not None:
            total += (latent_dim + rope_dim) * itemsize
        elif bits is not None:
            old_key, old_value = t < tokens - tokens % residual, t < tokens - residual
            row = head_dim * mpf(bits) / 8 + mpf(2) * head_dim * itemsize / group if old_key else head_dim * itemsize
            row += dv * mpf(bits) / 8 + mpf(2) * dv * itemsize / group if old_value else dv * itemsize
            total += kv_heads * row
        elif window is None or t >= tokens - window:
            forgotten = recent is not None and first <= t < tokens - recent
            total += 0 if forgotten else kv_heads * (head_dim + dv) * itemsize
    return {"out": Tensor((), [int(layers * total)], "int64")}


def tree_positions(parents, prefix=0):
    """How many steps up to a root."""

    def depth(node):
        return 0 if parents[node] == -1 else 1 + depth(parents[node])

    return {"out": Tensor((len(parents),), [prefix + depth(t) for t in range(len(parents))], "int64")}


FUNCTIONS = {
    "cache.tree_positions": tree_positions,
    "cache.cache_nbytes": cache_nbytes,
    "cache.decode": decode,
    "cache.quantize": quantize,
    "cache.dequantize": dequantize,
}
SECOND = {"cache.decode": decode_from_slots, "cache.quantize": quantize_by_levels}
