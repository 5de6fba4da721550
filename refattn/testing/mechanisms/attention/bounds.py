"""The error bound of attention, derived by hand, with all options.

For one query, with weights p, values v, output o = Σ p v and computed weights p(1 + θ), |θ| ≤ ε, exact algebra gives

    Σ p(1 + θ) v / Σ p(1 + θ) - o  =  Σ p θ (v - o) / (1 + Σ p θ),

so errors of scores act through the spread of the values around the output, not through their size: a common offset
of V costs nothing, a one-hot row costs nothing. A sink is one more key whose value is 0. To this come the rounding
of the weights before they meet the values, the two accumulations, the division and the rounding of the output.
docs/bounds.md derives every term.
"""

from __future__ import annotations

import math

import numpy as np

from refattn.attention import AttentionStages, attention_stages
from refattn.softmax import logsumexp
from refattn.testing.profiles import Profile
from refattn.testing.rounding import FORMATS
from refattn.testing.roundoff import Bound, gamma, rounded

SIGMAS = 6.0  # the statistical tier: six standard deviations
_TILE = 16  # the fewest keys a tile of kernels that normalise after every tile (FlashAttention 1)
_CHUNK = 50_000  # numbers in the largest temporary: several of them fit a cache


def attention_bound(profile: Profile, q, k, v, mask=None, *, return_lse=False, **options) -> dict[str, Bound]:
    """Output and log-sum-exp of attention with their hard and statistical bounds."""
    stages, scale, absolute = _evaluate(q, k, v, mask, options)
    score_error, score_rms = _score_errors(profile, stages, scale, absolute, q, k, options)
    weight_error, weight_rms, rescales, drop_sink = _weight_errors(profile, stages, score_error, score_rms, options)
    hard, statistical = _output_bounds(
        profile, stages, v, weight_error, weight_rms, rescales, drop_sink, options.get("dropout")
    )
    bounds = {"out": Bound(stages.out, hard, np.minimum(statistical, hard))}
    if return_lse:
        limit = _lse_bound(profile, stages, weight_error, rescales)
        bounds["lse"] = Bound(stages.lse, np.broadcast_to(limit, stages.lse.shape))
    return bounds


def score_bound(profile, q, k, mask=None, **options) -> Bound:
    """The scores after scale, softcap, bias and mask, and how far from them a kernel's may be."""
    stages, scale, absolute = _evaluate(q, k, np.zeros((*k.shape[:-1], 1)), mask, options)
    error, _ = _score_errors(profile, stages, scale, absolute, q, k, options)
    return Bound(stages.mask, np.broadcast_to(error, stages.mask.shape))


def attention_weights_bound(profile, q, k, mask=None, **options):
    """Each weight carries its own error and, through the denominator, the mean of all."""
    stages, scale, absolute = _evaluate(q, k, np.zeros((*k.shape[:-1], 1)), mask, options)
    score_error, score_rms = _score_errors(profile, stages, scale, absolute, q, k, options)
    error, _, rescales, _ = _weight_errors(profile, stages, score_error, score_rms, options)
    p = stages.weights
    mean = np.sum(p * error, axis=-1, keepdims=True) + np.max(error, axis=-1, keepdims=True, initial=0.0)
    relative = np.minimum((error + mean) / np.maximum(1.0 - mean, 0.25), 1.0 / np.maximum(p, 1e-300))
    total = relative + gamma(_terms(stages, rescales)[..., None] + 4, profile.u_acc)
    scale_up = stages.dropout / np.where(p == 0, 1.0, p)
    fmt = profile.weights or profile.out
    return {"out": Bound(stages.dropout, rounded(stages.dropout, (p * total + 2 * profile.eta_acc) * scale_up, fmt))}


def _evaluate(q, k, v, mask, options):
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    stages = attention_stages(q, k, v, mask, **options)
    scale = options.get("scale")
    scale = 1.0 / np.sqrt(q.shape[-1]) if scale is None else float(scale)
    with np.errstate(all="ignore"):
        absolute = abs(scale) * (_finite(np.abs(q)) @ np.swapaxes(_finite(np.abs(k)), -1, -2))  # τ Σ|q||k|
    return stages, scale, absolute


def _finite(x):
    return np.where(np.isfinite(x), x, 0.0)


def _score_errors(profile, stages: AttentionStages, scale, absolute, q, k, options):
    """Absolute error of each score, worst case and root mean square, after scale, softcap and bias."""
    u, d = profile.u_acc, q.shape[-1]
    store = profile.scores
    u_store, eta_store = (store.u, store.eta) if store else (u, profile.eta_acc)
    operands = 2 * profile.operands.u + profile.operands.u**2 if profile.operands else 0.0
    s = _finite(stages.scores)

    error = gamma(d + 2, u) * absolute + operands * absolute * (1 + gamma(d + 2, u)) + (d + 2) * profile.eta_acc
    squares = _finite(q * q) @ np.swapaxes(_finite(k * k), -1, -2)
    rms = (u * np.sqrt(d) + operands) * abs(scale) * np.sqrt(squares) + 2 * u * np.abs(s)
    if store:  # q kᵀ is stored, scaled, and stored again
        for _ in range(2):
            error = error + u_store * (np.abs(s) + error) + eta_store * max(1.0, abs(scale))
        rms = rms + 2 * u_store * np.abs(s) / np.sqrt(3)

    if options.get("softcap"):
        cap = float(options["softcap"])
        slope = 1.0 / np.cosh(np.minimum(np.maximum(np.abs(s) - error, 0.0) / cap, 300.0)) ** 2
        own = (profile.u_exp + 4 * u_store) * np.minimum(np.abs(s), cap) + 2 * eta_store * max(1.0, cap)
        error, rms = np.minimum(error * slope, 2 * cap) + own, rms * slope + own
    if options.get("bias") is not None:
        sums = np.abs(_finite(stages.bias))
        error = error + u_store * (sums + error) + eta_store
        rms = rms + u_store * sums
    if profile.order == "flash":  # a kernel that takes powers of 2 multiplies what it has by log2(e)
        sums = np.abs(_finite(stages.bias))
        error = error + u * (sums + error)
        rms = rms + u * sums
    return error, rms


def _weight_errors(profile, stages, score_error, score_rms, options):
    """Relative error of each weight: its score's, the exponent's, and that of every rescaling in between."""
    s = stages.mask
    present = ~np.isneginf(s)
    if s.shape[-1] == 0:
        return np.zeros_like(s), np.zeros_like(s), np.zeros(s.shape[:-1]), 0.0
    sinks = options.get("sinks")
    peak = np.max(np.where(present, s, -np.inf), axis=-1, keepdims=True)
    if sinks is not None:
        peak = np.maximum(peak, np.asarray(sinks, dtype=np.float64)[..., None, None])
    peak = np.where(np.isneginf(peak), 0.0, peak)
    with np.errstate(invalid="ignore"):
        drop = np.where(present & np.isfinite(s), np.maximum(np.abs(s - peak), _held_back(profile)), 0.0)
    rescales = np.maximum(_records(s), _records(s[..., ::-1]))  # how often a running maximum grows, either way round
    exponent = 4 * profile.u_acc * drop + (1 + rescales[..., None]) * profile.u_exp
    error = np.where(present, np.expm1(np.minimum(score_error + exponent, 700.0)), 0.0)
    rms = np.where(present, score_rms + 2 * profile.u_acc * drop + 2 * profile.u_exp, 0.0)
    drop_sink = 0.0
    if sinks is not None:
        sinks = np.asarray(sinks, dtype=np.float64)[..., None, None]
        distance = np.where(np.isfinite(sinks), np.abs(np.where(np.isfinite(sinks), sinks, 0.0) - peak), 0.0)
        drop_sink = np.expm1(np.minimum(4 * profile.u_acc * distance + 2 * profile.u_exp, 700.0))
    return error, rms, rescales, drop_sink


def _held_back(profile):
    """How far below the true one a kernel may hold its maximum, to rescale less often (FlashAttention 4): by 2^8."""
    return 8 * math.log(2.0) if profile.order == "flash" and profile.weights is not None else 0.0


def _records(s):
    """How often the running maximum of a row grows after its first value."""
    with np.errstate(invalid="ignore"):
        running = np.maximum.accumulate(s, axis=-1)
        return np.sum(running[..., 1:] > running[..., :-1], axis=-1)


def _terms(stages, rescales):
    """How many roundings an accumulation over the keys can hold.

    One a key, two a rescaling, a few for merges, and three a tile for kernels that normalise after every tile.
    """
    return np.sum(~np.isneginf(stages.mask), axis=-1) + 2 * rescales + 3 * (-(-stages.mask.shape[-1] // _TILE)) + 8


def _output_bounds(profile, stages, v, weight_error, weight_rms, rescales, sink_error, dropout):
    lead = np.broadcast_shapes(stages.weights.shape[:-2], np.shape(v)[:-2])
    n, m = stages.weights.shape[-2:]
    columns, heads = np.shape(v)[-1], math.prod(lead)
    values = np.broadcast_to(_finite(np.asarray(v, dtype=np.float64)), (*lead, m, columns)).reshape(heads, m, columns)

    def rows(x, *tail):
        return np.broadcast_to(x, (*lead, n, *tail)).reshape(heads, n, *tail)

    p, factor = rows(stages.weights, m), None
    if dropout is not None:
        keep, rate = np.asarray(dropout[0]), float(dropout[1])
        factor = rows(np.where(np.broadcast_to(keep, stages.weights.shape), 1.0 / (1.0 - rate), 0.0), m)
    out, terms = rows(_finite(stages.out), columns), rows(_terms(stages, rescales))[..., None]
    error, rms, present = rows(weight_error, m), rows(weight_rms, m), rows(~np.isneginf(stages.mask), m)
    masked = rows(stages.mask, m)
    sink_error = rows(np.broadcast_to(sink_error, (*stages.weights.shape[:-1], 1)), 1)

    hard, statistical = np.empty_like(out), np.empty_like(out)
    queries = max(1, _CHUNK // max(1, m * columns))  # at a time
    together = max(1, queries // max(1, n))  # heads
    for h in range(0, heads, together):
        for start in range(0, n, queries):
            part = (slice(h, h + together), slice(start, start + queries))
            hard[part], statistical[part] = _rows_bounds(
                profile, p[part], None if factor is None else factor[part], values[part[0]], out[part], error[part],
                rms[part], sink_error[part], terms[part], present[part], masked[part],
            )  # fmt: skip
    shape = (*lead, n, columns)
    return hard.reshape(shape), statistical.reshape(shape)


def _rows_bounds(profile, p, factor, v, o, error, rms, sink_error, terms, present, s):
    """Both bounds for some queries of some heads: p (H, R, M), v (H, M, C), o (H, R, C); factor is None without dropout."""
    u, weights = profile.u_acc, profile.weights
    u_weights = weights.u if weights else 0.0
    twice = profile.order == "eager" and factor is not None  # weights are stored, and stored again after dropout
    if twice:
        u_weights = 2 * u_weights + u_weights**2
    effective = v[:, None] if factor is None else v[:, None] * factor[..., None]  # (H, R, M, C): v·keep/(1 - r)
    pf, kept = (p, present) if factor is None else (p * factor, present * factor)
    size = pf @ np.abs(v)  # Σ p|v|
    sink = np.maximum(1.0 - np.sum(p, axis=-1, keepdims=True), 0.0)  # a key of value 0
    lost = sink * sink_error

    off = effective - o[..., None, :]
    away = np.abs(off)
    pe = p * error
    moved = _summed(pe, away) + lost * np.abs(o)
    total = np.sum(pe, axis=-1, keepdims=True) + lost
    reach = np.max(away if present.all() else np.where(present[..., None], away, 0.0), axis=-2, initial=0.0)
    reach = np.maximum(reach, np.where(lost > 0, np.abs(o), 0.0))
    moved = np.where(total < 0.5, moved / (1.0 - np.minimum(total, 0.5)), np.inf)
    moved = np.minimum(moved, reach)  # weights are positive, so the mean stays in the hull of the values

    # The row's sum of unnormalised weights, at least 1: an underflow costs eta of it in flash order, eta itself in eager.
    top = np.maximum(np.max(p, axis=-1, keepdims=True, initial=0.0), sink)
    mass = 1.0 / np.maximum(top, 1e-300) if profile.order == "flash" else 1.0
    eta = max(weights.eta / profile.prescale if weights else 0.0, profile.eta_acc) * (2 if twice else 1)
    under = eta * (kept @ np.abs(v)) / np.maximum(mass, 1.0)

    centred = _summed(p, away) if profile.order == "flash" else 0.0
    stored = u_weights * np.maximum(size, centred) + under
    if profile.operands:
        stored = stored + profile.operands.u * size
    summed = gamma(terms, u) * size + gamma(terms + 4, u) * np.abs(o) + 2 * u * size
    before = moved + (stored + summed) * (1.0 + np.minimum(total, 1.0))
    hard = rounded(o, before, profile.out)

    # Statistical: roundings independent, so squares add up; equal weights round equally, so within a group of weights
    # that share an ulp the signed sum is squared instead.
    pv, deviation = p[..., None] * effective, (p * rms)[..., None] * off
    ulp = max(u_weights, profile.scores.u if profile.scores else 0.0, u)
    (squared, grouped), (scores, grouped_scores) = _squares(s, ulp, pv, deviation)
    square = scores + squared * (u_weights**2 / 3 + u**2 * terms) + grouped * (u_weights**2 / 3) + grouped_scores
    square = square + u**2 * (terms + 4) * o**2 + (lost * o) ** 2
    spread = SIGMAS * np.sqrt(square) + under
    linear = np.max(error, axis=-1, keepdims=True, initial=0.0) < 0.25  # else θ is no small number
    linear = linear & ((size > 1e-140) | (size == 0))  # else squares underflow
    statistical = np.where(linear, rounded(o, spread, profile.out), hard)
    return hard, statistical


def _summed(weights, x):
    """Σ over the keys: of (H, R, M) and (H, R, M, C) a (H, R, C)."""
    return (weights[..., None, :] @ x)[..., 0, :]


def _squares(s, ulp, *terms):
    """For each of some terms (H, R, M, C): Σ of the squares over the keys, and Σ over groups of (Σ of the group)².

    Scores of a row that share an ulp are a group. Where all lie apart the two sums are the same.
    """
    heads, rows, keys, columns = terms[0].shape
    key = np.floor(s / ulp).reshape(heads * rows, keys)  # what is hidden, at -inf, has weight 0: no group
    order = np.argsort(key, axis=-1, kind="stable")
    key = np.take_along_axis(key, order, axis=-1)
    shared = np.flatnonzero(np.any((key[:, 1:] == key[:, :-1]) & (key[:, 1:] > -np.inf), axis=-1))
    begins = np.ones((len(shared), keys), dtype=bool)
    begins[:, 1:] = key[shared, 1:] != key[shared, :-1]
    starts = np.flatnonzero(begins)  # of the groups of all rows, one row after the other
    first = np.flatnonzero(starts % max(keys, 1) == 0)  # each row's first group
    sorted_keys = (shared[:, None] * keys + order[shared]).ravel()
    found = []
    for x in terms:
        apart = np.einsum("hrmc,hrmc->hrc", x, x)
        together = apart.copy().reshape(heads * rows, columns)
        if len(shared):
            groups = np.add.reduceat(x.reshape(heads * rows * keys, columns)[sorted_keys], starts, axis=0)
            together[shared] = np.add.reduceat(groups**2, first, axis=0)
        found.append((apart, together.reshape(apart.shape)))
    return found


def _lse_bound(profile, stages, weight_error, rescales):
    """ln(Σ e^s (1 + θ)): the mean error of the weights, the sum, the logarithm and the addition of the maximum."""
    s = stages.mask
    lse = logsumexp(s)  # stages.lse, but for leading axes that scores have not
    finite = np.isfinite(lse)
    level = np.where(finite, lse, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        plain = np.where(np.isneginf(s), 0.0, np.exp(np.minimum(s - level[..., None], 0.0)))  # weights without sink
    mean = np.sum(plain * weight_error, axis=-1)
    farthest = np.max(np.log1p(weight_error), axis=-1, initial=0.0)  # lse moves no farther than the farthest score
    moved = np.where(mean < 0.5, np.minimum(-np.log1p(-np.minimum(mean, 0.5)), farthest), farthest)
    count = _terms(stages, rescales)
    peak = np.max(np.where(np.isneginf(s), 0.0, np.abs(_finite(s))), axis=-1, initial=0.0)
    logarithm = np.log(np.maximum(count, 1)) + _held_back(profile)
    error = moved + gamma(count, profile.u_acc) + profile.u_exp * (1 + logarithm)
    error = error + 2 * profile.u_acc * (peak + logarithm + np.abs(level))
    fmt = profile.out if profile.out.name == "float64" else FORMATS["float32"]
    return np.where(finite, rounded(level, error, fmt), 0.0)
