"""The output of each variant, at random sizes and options, is explained by that variant's name.

python tests/testing/test_naming.py [trials] [function ...]     prints the rates and every confusion
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import refattn.cache
from refattn.testing import compare
from refattn.testing.bounds import bound
from refattn.testing.diagnosis import FITS
from refattn.testing.distances import distance
from refattn.testing.inputs import Draw, Seeded, cases
from refattn.testing.profiles import profile
from refattn.testing.registry import VARIANTS
from refattn.testing.rounding import round_to
from refattn.testing.subject import load, subject
from refattn.testing.variants import NotApplicable, variants
from refattn.testing.vectors import results

load()
OWN = sorted({v.function for v in VARIANTS.values()})  # functions with variants that are no other's
PROFILES = ("float32", "bfloat16", "float16")
LEAST = 4.0  # a trial counts where the variant differs from the reference by more bounds than this
ALIKE = 0.5  # variants that differ by fewer bounds than this cannot be told apart by a rounded output


def stored(value, name, fmt):
    """A result as a kernel of a format returns it."""
    value = np.asarray(value)
    return round_to(value, "float32" if name == "lse" else fmt) if value.dtype.kind == "f" else value


def drawn(function, precision, start, draws):
    """Random calls of a function, then its directed ones."""
    fmt = profile(precision).inputs
    for seed in range(start, start + draws):
        yield seed, Draw(Seeded(seed), fmt).call(subject(function))
    for name, _, given in cases(function, fmt=fmt, effort="smoke"):
        yield name, given


def outputs(function, given, precision, wanted):
    """The wanted variants that differ by more than LEAST bounds for one call, with their results."""
    try:
        with np.errstate(all="ignore"):
            limits = bound(function, profile(precision), **given)
    except NotImplementedError:  # a code that a kernel may round up or down
        return
    for v in variants(function):
        if v.name not in wanted:
            continue
        try:
            with np.errstate(all="ignore"):
                values = results(function, v.call(**given))
        except NotApplicable:
            continue
        away = {name: _away(values[name], b) for name, b in limits.items() if name in values}
        if away and max(away.values()) > LEAST:
            yield v, given, values, limits


def _away(value, b):
    """How many bounds a variant's value is from the reference's; infinitely many if it has another shape."""
    if np.shape(value) != np.shape(b.value):
        return np.inf
    want = np.asarray(b.value, dtype=float)
    return distance(np.asarray(value, dtype=float), want, np.broadcast_to(b.hard, want.shape))


def named(v, given, values, limits, precision):
    """Whether compare names a variant: 'first', 'alike' (tied with the first), 'behind', or '' (not at all), and who led."""
    fmt = profile(precision).out.name
    kept = {name: stored(x, name, fmt) for name, x in values.items()}
    got = tuple(kept[name] for name in limits) if set(limits) == {"out", "lse"} else kept
    wrong = [c for c in compare(got, v.function, precision=precision, tier="hard", **given) if not c.ok]
    if not wrong:
        return None, ""
    found = wrong[0].explanations
    if found and found[0].name == v.name:
        return "first", v.name
    fitting = [e for e in found if e.fit <= FITS]
    if not any(e.name == v.name for e in fitting):
        return "", fitting[0].name if fitting else "nothing"
    leader = fitting[0].variant
    if leader is None:
        return "behind", fitting[0].name
    b = limits[wrong[0].result]
    with np.errstate(all="ignore"):
        lead = np.asarray(results(leader.function, leader.call(**given))[wrong[0].result], dtype=float)
    own = np.asarray(values[wrong[0].result], dtype=float)
    if own.shape != np.shape(b.value):  # one of several that return another shape
        return (
            "alike" if own.shape == lead.shape and np.allclose(own, lead, equal_nan=True) else "behind"
        ), leader.name
    limit = np.maximum(np.broadcast_to(b.hard, own.shape), profile(precision).out.u * np.abs(np.nan_to_num(own)))
    return ("alike" if distance(lead, own, limit) <= ALIKE else "behind"), leader.name


def measure(functions, trials, precisions=PROFILES, draws=400, start=0, derived=True, part=slice(None)):
    """Counts of what came of each variant's trials, and the confusions: at most `trials` a variant and precision.

    With derived = False only a function's own variants have trials; they are still told from all others. `part` takes
    some of those that it has.
    """
    counts: Counter = Counter()
    confusions: Counter = Counter()
    never = {}
    for function in functions:
        for precision in precisions:
            own = {v.name for v in variants() if v.function == function}
            left = {v.name: trials for v in variants(function)[part] if derived or v.name in own}
            for seed, call in drawn(function, precision, start, draws):
                wanted = {name for name, count in left.items() if count}
                if not wanted:
                    break
                for v, given, values, limits in outputs(function, call, precision, wanted):
                    outcome, leader = named(v, given, values, limits, precision)
                    if outcome is None:
                        continue
                    left[v.name] -= 1
                    counts[outcome] += 1
                    if outcome in ("behind", ""):
                        confusions[function, v.name, outcome, leader, precision, seed] += 1
            never[function, precision] = [name for name in left if name in own and left[name] == trials]
    return counts, confusions, never


def rate(counts):
    return (counts["first"] + counts["alike"]) / max(sum(counts.values()), 1)


def builds_on_others(function):
    """Whether most variants of a function are those of another, hundreds of them."""
    of = subject(function)
    return bool(of.equals or of.parts or of.derive)


@pytest.mark.parametrize("function", OWN)
def test_variants_are_named(function):
    """Those that are no other function's, where a function builds on others; of these, half as many as slow tests take."""
    own_are_named(function, 2 if builds_on_others(function) else 1)


@pytest.mark.slow
@pytest.mark.parametrize("function", [name for name in OWN if builds_on_others(name)])
def test_twice_as_many_variants_are_named(function):
    own_are_named(function, 1)


def own_are_named(function, step):
    large = builds_on_others(function)
    precisions, draws = (["float32"], 4) if large or function == "attention_vjp" else (["float32", "bfloat16"], 12)
    every = 4 if subject(function).parts else 1  # one in four where an explanation takes a second
    some = slice(0, None, every * step)
    counts, confusions, _ = measure([function], 1, precisions, draws, derived=not large, part=some)
    assert sum(counts.values()) >= 1
    assert rate(counts) >= 0.95, confusions


def test_rows_without_a_bound_do_not_excuse_the_others():
    """A bias of -3e38 leaves the gradients of its row without a finite bound; what the other row says still counts."""
    draw = Draw(Seeded(0), "float32")
    given = {"d_out": draw.normal(2, 3), "q": draw.normal(2, 4), "k": draw.normal(9, 4), "v": draw.normal(9, 3)}
    given |= {"bias": draw.normal(2, 9), "d_lse": draw.normal(2)}
    given["bias"][0] = -3.3895313892515355e38
    limits = bound("attention_vjp", profile("float32"), **given)["q"].hard
    assert np.isinf(limits[0]).all()
    assert np.isfinite(limits[1]).all()
    found = {v.name: v for v in variants("attention_vjp")}
    for name in ("gradient/lse_ignored", "gradient/q_unscaled", "gradient/bias_ignored"):
        values = {n: stored(x, n, "float32") for n, x in results("attention_vjp", found[name].call(**given)).items()}
        wrong = [c for c in compare(values, "attention_vjp", **given) if not c.ok]
        assert [e.name for e in wrong[0].explanations if e.fit <= FITS] == [name]


def test_a_count_may_exceed_the_largest_number_of_the_format():
    given = {"tokens": 1000, "layers": 3, "kv_heads": 4, "head_dim": 64, "value_dim": 32}
    (found,) = compare(np.array(1000 * 3 * 4 * 128 * 2), "cache.cache_nbytes", precision="float16", **given)
    assert [e.name for e in found.explanations if e.fit <= FITS] == ["cache_bytes/values_as_wide_as_keys"]


def test_a_precision_without_a_bound_explains_nothing():
    """Near half-way between two codes a coarser kernel may round either way; that is no reason to fail in explaining."""
    x = np.zeros((1, 1, 4, 2))
    x[..., 1, :], x[..., 2, :] = 15.0, 1.499
    given = {"q": x, "k": x, "v": x, "blocks": [3, 1], "cache": "quantized", "bits": 4, "group": 2, "residual": 2}
    given["rope_base"] = 100.0
    with pytest.raises(NotImplementedError, match="half-way"):
        bound("cache.decode", profile("bfloat16/eager"), **given)
    (found,) = compare(refattn.cache.decode(**given) + 0.1, "cache.decode", **given)
    assert not found.ok
    assert not [e for e in found.explanations if e.fit <= FITS]


@pytest.mark.slow
@pytest.mark.parametrize("precision", PROFILES)
@pytest.mark.parametrize("function", OWN)
def test_every_variant_is_named_at_random(function, precision):
    trials, part = 4, slice(None)
    if builds_on_others(function) or function == "attention_vjp":  # each in one precision
        trials, part = 1, slice(PROFILES.index(precision), None, len(PROFILES))
    counts, confusions, never = measure([function], trials, [precision], part=part)
    if trials == 1 and 0 < sum(counts.values()) < 100 and rate(counts) < 0.95:  # of so few: a larger sample decides
        counts, confusions, never = measure([function], 3, [precision], part=part)
    if precision == "float32":
        assert not never[function, precision]
    else:  # narrow formats may hide some
        assert counts or never[function, precision] == [v.name for v in variants(function)]
    assert not counts or rate(counts) >= 0.95, confusions


if __name__ == "__main__":
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    for function in sys.argv[2:] or OWN:
        counts, confusions, never = measure([function], trials)
        print(f"{function}: {sum(counts.values())} trials, {rate(counts):.1%}", dict(counts), flush=True)
        for (_, *what), _n in confusions.most_common(60):
            print("   ", *what)
        for (_, precision), names in never.items():
            if names:
                print("    never differs in", precision, names)
