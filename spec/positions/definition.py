"""Positions: tables, rotations, scalings, slopes and buckets, for one number at a time."""

from ..exact import Tensor, exact, lift, mp, mpf, tensor

# --- tables ---------------------------------------------------------------------------------------------------------


def sinusoidal(positions, dim, base=10000.0, layout="interleaved"):
    def row(p):
        p, b = exact(p), exact(base)
        if layout == "tensor2tensor":
            half = dim // 2
            theta = [b ** (-mpf(i) / (half - 1)) if half > 1 else mpf(1) for i in range(half)]
            return [mp.sin(p * t) for t in theta] + [mp.cos(p * t) for t in theta] + [mpf(0)] * (dim % 2)
        theta = [b ** (-mpf(2 * (c // 2)) / dim) for c in range(dim)]
        columns = [mp.cos(p * t) if c % 2 else mp.sin(p * t) for c, t in enumerate(theta)]
        return columns if layout == "interleaved" else columns[0::2] + columns[1::2]

    return {"out": lift(row, (0,), positions)}


def sinusoidal_by_turning(positions, dim, base=10000.0, layout="interleaved"):
    """Each pair is a point on the unit circle, turned from (sin, cos) = (0, 1)."""

    def row(p):
        half = dim // 2 if layout == "tensor2tensor" else (dim + 1) // 2
        step = 2 * mp.log(exact(base)) / dim if layout != "tensor2tensor" else mp.log(exact(base)) / max(half - 1, 1)
        points = [mp.expj(exact(p) * mp.exp(-i * step)) for i in range(half)]
        if layout == "interleaved":
            return [x for z in points for x in (z.imag, z.real)][:dim]
        row = [z.imag for z in points] + [z.real for z in points][: dim // 2]
        return row + [mpf(0)] * (dim - len(row))

    return {"out": lift(row, (0,), positions)}


def learned_positions(table, positions, offset=0):
    return {"out": lift(lambda p: [exact(x) for x in table[p + offset]], (0,), positions)}


def learned_positions_by_one_hot(table, positions, offset=0):
    def row(p):
        return [
            mp.fsum(exact(table[l][e]) * (l == p + offset) for l in range(len(table))) for e in range(table.shape[1])
        ]

    return {"out": lift(row, (0,), positions)}


# --- frequencies ----------------------------------------------------------------------------------------------------


def scaled_frequencies(rotary_dim, base, scaling):
    """Frequencies and attention factor, case by case as clauses.md states them."""
    R, b = rotary_dim, exact(base)
    theta = [b ** (-mpf(2 * i) / R) for i in range(R // 2)]
    if scaling is None:
        return theta, mpf(1)
    kind, s = scaling["params"], scaling["fields"]
    if kind == "positions.Linear":
        return [t / exact(s["factor"]) for t in theta], mpf(1)
    if kind in ("positions.NTK", "positions.DynamicNTK"):
        f = exact(s["factor"])
        if kind == "positions.DynamicNTK":
            f = f * mpf(max(s["length"], s["original_length"])) / s["original_length"] - (f - 1)
        return [(b * f ** (mpf(R) / (R - 2))) ** (-mpf(2 * i) / R) for i in range(R // 2)], mpf(1)
    if kind == "positions.YaRN":
        return yarn(theta, R, b, **s)
    if kind == "positions.Llama3":
        return [llama3(t, **s) for t in theta], mpf(1)
    if kind == "positions.LongRoPE":
        return longrope(theta, **s)
    raise ValueError(f"unknown scaling {kind}")


def yarn(
    theta,
    R,
    b,
    factor,
    original_length,
    beta_fast=32.0,
    beta_slow=1.0,
    attention_factor=None,
    mscale=1.0,
    mscale_all_dim=0.0,
    truncate=True,
):
    def index(turns):
        return R * mp.log(original_length / (2 * mp.pi * exact(turns))) / (2 * mp.log(b))

    def m(mu):
        return mpf("0.1") * exact(mu) * mp.log(f) + 1

    f = exact(factor)
    low, high = index(beta_fast), index(beta_slow)
    if truncate:
        low, high = mp.floor(low), mp.ceil(high)
    low, high = max(low, mpf(0)), min(high, mpf(R - 1))
    width = high - low if high != low else mpf("0.001")
    out = []
    for i, t in enumerate(theta):
        ramp = min(max((i - low) / width, mpf(0)), mpf(1))
        out.append(ramp * t / f + (1 - ramp) * t)
    return out, m(mscale) / m(mscale_all_dim) if attention_factor is None else exact(attention_factor)


def llama3(t, factor, low_frequency_factor, high_frequency_factor, original_length):
    f, low, high = exact(factor), exact(low_frequency_factor), exact(high_frequency_factor)
    wavelength = 2 * mp.pi / t
    if wavelength < original_length / high:
        return t
    if wavelength > original_length / low:
        return t / f
    smooth = (original_length / wavelength - low) / (high - low)
    return (1 - smooth) * t / f + smooth * t


def longrope(theta, short_factors, long_factors, original_length, maximum_length, length, attention_factor=None):
    factors = short_factors if length <= original_length else long_factors
    out = [t / exact(g) for t, g in zip(theta, factors, strict=True)]
    if attention_factor is not None:
        return out, exact(attention_factor)
    if maximum_length <= original_length:
        return out, mpf(1)
    return out, mp.sqrt(1 + mp.log(mpf(maximum_length) / original_length) / mp.log(original_length))


def angles_again(rotary_dim, base, scaling, p):
    """A second way to each scaling: what happens to positions, logarithms or turns instead of to frequencies."""
    half, p = rotary_dim // 2, exact(p)
    logs = [-mp.log(exact(base)) * 2 * i / rotary_dim for i in range(half)]  # ln θ
    kind, s = (scaling["params"], scaling["fields"]) if scaling else (None, {})
    if kind is None:
        return [p * mp.exp(g) for g in logs], mpf(1)
    if kind == "positions.Linear":  # positions are interpolated
        return [p / exact(s["factor"]) * mp.exp(g) for g in logs], mpf(1)
    if kind in ("positions.NTK", "positions.DynamicNTK"):  # spread from kept to divided by f, evenly in the logarithm
        f = exact(s["factor"])
        if kind == "positions.DynamicNTK" and s["length"] > s["original_length"]:
            f = 1 + f * (s["length"] - s["original_length"]) / s["original_length"]
        elif kind == "positions.DynamicNTK":
            f = mpf(1)
        return [p * mp.exp(g - mp.log(f) * i / (half - 1)) for i, g in enumerate(logs)], mpf(1)
    if kind == "positions.LongRoPE":
        stretch = mp.log(s["maximum_length"]) / mp.log(s["original_length"])  # 1 + ln(max/L0)/ln L0 in one quotient
        alpha = s.get("attention_factor") or mp.sqrt(max(stretch, mpf(1)))
        factors = s["long_factors"] if s["length"] > s["original_length"] else s["short_factors"]
        return [p * mp.exp(g - mp.log(exact(c))) for g, c in zip(logs, factors, strict=True)], exact(alpha)
    f = exact(s["factor"])
    turns = [s["original_length"] * mp.exp(g) / (2 * mp.pi) for g in logs]
    if kind == "positions.Llama3":  # kept share is linear in the turns
        low, high = exact(s["low_frequency_factor"]), exact(s["high_frequency_factor"])
        kept = [mpf(0) if t < low else mpf(1) if t > high else (t - low) / (high - low) for t in turns]
        return [p * mp.exp(g) * (1 + k * (f - 1)) / f for g, k in zip(logs, kept, strict=True)], mpf(1)
    # YaRN: index δ(t) of t turns is where ln θ has fallen to ln(2π t / L0)
    step = 2 * mp.log(exact(base)) / rotary_dim
    start, end = (
        (mp.log(s["original_length"]) - mp.log(2 * mp.pi) - mp.log(exact(t))) / step
        for t in (s.get("beta_fast", 32), s.get("beta_slow", 1))
    )
    if s.get("truncate", True):
        start, end = mp.floor(start), mp.ceil(end)
    start, end = max(start, 0), min(end, rotary_dim - 1)
    out = []
    for i, g in enumerate(logs):
        if i <= start:
            divisor = mpf(1)
        elif i >= end:
            divisor = f
        else:  # 1/divisor falls linearly from 1 to 1/f
            divisor = (end - start) * f / ((end - i) * f + (i - start))
        out.append(p * mp.exp(g) / divisor)
    log_f = mp.log(f) / 10
    alpha = s.get("attention_factor")
    if alpha is None:
        alpha = (1 + exact(s.get("mscale", 1.0)) * log_f) / (1 + exact(s.get("mscale_all_dim", 0.0)) * log_f)
    return out, exact(alpha)


def rope_frequencies(rotary_dim, base=10000.0, scaling=None):
    return {"frequencies": tensor(scaled_frequencies(rotary_dim, base, scaling)[0])}


def rope_frequencies_again(rotary_dim, base=10000.0, scaling=None):
    return {"frequencies": tensor(angles_again(rotary_dim, base, scaling, 1.0)[0])}


# --- rotation -------------------------------------------------------------------------------------------------------


def pairs(layout, R):
    """The features of each pair."""
    return [(2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + R // 2) for i in range(R // 2)]


def rotate_row(x, cos, sin, layout, R):
    out = [exact(value) for value in x]
    for (j, k), c, s in zip(pairs(layout, R), cos, sin, strict=True):
        a, b = exact(x[j]), exact(x[k])
        out[j], out[k] = a * c - b * s, a * s + b * c
    return out


def rotate_row_by_complex_numbers(x, cos, sin, layout, R):
    out = [exact(value) for value in x]
    for (j, k), c, s in zip(pairs(layout, R), cos, sin, strict=True):
        z = mp.mpc(exact(x[j]), exact(x[k])) * mp.mpc(c, s)
        out[j], out[k] = z.real, z.imag
    return out


def _rotate(row):
    def over(x, cos, sin, layout="interleaved", rotary_dim=None):
        R = x.shape[-1] if rotary_dim is None else rotary_dim

        def one(x, cos, sin):
            return row(x, [exact(c) for c in cos], [exact(s) for s in sin], layout, R)

        return {"out": lift(one, (1, 1, 1), x, cos, sin)}

    return over


def rope(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    R = x.shape[-1] if rotary_dim is None else rotary_dim
    theta, alpha = scaled_frequencies(R, base, scaling)

    def one(x, p):
        cos, sin = ([alpha * turn(exact(p) * t) for t in theta] for turn in (mp.cos, mp.sin))
        return rotate_row(x, cos, sin, layout, R)

    return {"out": lift(one, (1, 0), x, positions)}


def rope_by_complex_numbers(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    R = x.shape[-1] if rotary_dim is None else rotary_dim

    def one(x, p):
        angles, alpha = angles_again(R, base, scaling, p)
        points = [alpha * mp.expj(angle) for angle in angles]
        return rotate_row_by_complex_numbers(x, [z.real for z in points], [z.imag for z in points], layout, R)

    return {"out": lift(one, (1, 0), x, positions)}


# --- ALiBi ----------------------------------------------------------------------------------------------------------


def alibi_slopes(heads):
    power = 1
    while 2 * power <= heads:
        power *= 2
    slopes = [mpf(2) ** (-mpf(8 * h) / power) for h in range(1, power + 1)]
    between = [mpf(2) ** (-mpf(8 * h) / (2 * power)) for h in range(1, 2 * power + 1)]
    return {"out": tensor(slopes + between[0::2][: heads - power])}


def alibi_slopes_by_square_roots(heads):
    """The slopes of 2P interlace those of P: each new one is the geometric mean of its neighbours."""
    power = 2 ** (len(bin(heads)) - 3)
    ratio = mpf(1) / 256
    for _ in range(power.bit_length() - 1):
        ratio = mp.sqrt(ratio)
    slopes = [ratio]
    while len(slopes) < power:
        slopes.append(slopes[-1] * ratio)
    before = [mpf(1)] + slopes
    return {"out": tensor(slopes + [mp.sqrt(before[h] * slopes[h]) for h in range(heads - power)])}


def last_positions(n, m, q_positions, k_positions):
    """The positions that were given, else 0 to M - 1 for keys and the last N of them for queries."""
    q = Tensor((n,), range(m - n, m), "int64") if q_positions is None else q_positions
    k = Tensor((m,), range(m), "int64") if k_positions is None else k_positions
    return q, k


def _alibi_bias(one):
    def over(slopes, n, m, q_positions=None, k_positions=None):
        def entries(slope, q, k):
            return Tensor((len(q), len(k)), [one(exact(slope), i, j) for i in q for j in k])

        return {"out": lift(entries, (0, 1, 1), slopes, *last_positions(n, m, q_positions, k_positions))}

    return over


def alibi_entry(slope, i, j):
    return -slope * abs(i - j)


def alibi_entry_by_steps(slope, i, j):
    """The slope is lost at every position between the two."""
    return mp.fsum(-slope for _ in range(min(i, j), max(i, j)))


# --- T5 -------------------------------------------------------------------------------------------------------------


def bucket(r, bidirectional, buckets, max_distance):
    """With whole numbers: e + the greatest t for which (a/e)^(n-e) >= (d/e)^t, where a is at least e."""
    n, first = buckets, 0
    a = max(-r, 0)
    if bidirectional:
        n, a = buckets // 2, abs(r)
        first = n if r > 0 else 0
    e, d = n // 2, max_distance
    if a < e:
        return first + a
    t = max(t for t in range(n - e + 1) if a ** (n - e) * e**t >= d**t * e ** (n - e))
    return first + min(e + t, n - 1)


def bucket_by_logarithms(r, bidirectional, buckets, max_distance):
    """At 50 digits, where a quotient that is whole may come out short of it by the last digit."""
    n, first = (buckets // 2, (buckets // 2) * (r > 0)) if bidirectional else (buckets, 0)
    a = abs(r) if bidirectional or r < 0 else 0
    e = n // 2
    if a < e:
        return first + a
    t = mp.floor((n - e) * mp.log(mpf(a) / e) / mp.log(mpf(max_distance) / e) + mpf(10) ** -40)
    return first + min(e + int(t), n - 1)


def _buckets(one):
    def over(relative, bidirectional=True, buckets=32, max_distance=128):
        values = [one(r, bidirectional, buckets, max_distance) for r in relative.data]
        return {"out": Tensor(relative.shape, values, "int64")}

    return over


def _t5_bias(one):
    def over(table, n, m, q_positions=None, k_positions=None, bidirectional=True, max_distance=128):
        buckets, H = table.shape
        q, k = last_positions(n, m, q_positions, k_positions)

        def entries(h, q, k):
            rows = [one(j - i, bidirectional, buckets, max_distance) for i in q for j in k]
            return Tensor((len(q), len(k)), [exact(table[row][h]) for row in rows])

        return {"out": lift(entries, (0, 1, 1), Tensor((H,), range(H), "int64"), q, k)}

    return over


FUNCTIONS = {
    "sinusoidal": sinusoidal,
    "learned_positions": learned_positions,
    "rope": rope,
    "positions.rotate": _rotate(rotate_row),
    "positions.rope_frequencies": rope_frequencies,
    "alibi_slopes": alibi_slopes,
    "alibi_bias": _alibi_bias(alibi_entry),
    "relative_position_bucket": _buckets(bucket),
    "t5_bias": _t5_bias(bucket),
}
SECOND = {
    "sinusoidal": sinusoidal_by_turning,
    "learned_positions": learned_positions_by_one_hot,
    "rope": rope_by_complex_numbers,
    "positions.rotate": _rotate(rotate_row_by_complex_numbers),
    "positions.rope_frequencies": rope_frequencies_again,
    "alibi_slopes": alibi_slopes_by_square_roots,
    "alibi_bias": _alibi_bias(alibi_entry_by_steps),
    "relative_position_bucket": _buckets(bucket_by_logarithms),
    "t5_bias": _t5_bias(bucket_by_logarithms),
}
