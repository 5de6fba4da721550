"""The frequencies of rotary position embedding, and their scaling to longer contexts."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np  # frequencies depend on no array: they are a NumPy array

from refattn import arguments, backend


class Linear(NamedTuple):
    """Position interpolation: every frequency divided by `factor`.

    Attributes
    ----------
    factor : float

    Notes
    -----
    Clauses: ROPE-LINEAR. Source: Chen et al. 2023.
    """

    factor: float


class NTK(NamedTuple):
    """The base multiplied by factor^(R/(R-2)): the lowest frequency is divided by `factor`, the highest kept.

    Attributes
    ----------
    factor : float

    Notes
    -----
    Clauses: ROPE-NTK. Source: bloc97 2023, as written in Peng et al. 2023 (YaRN), section 3.1.
    """

    factor: float


class DynamicNTK(NamedTuple):
    """NTK scaling whose factor grows with the sequence: factor·L/original_length - (factor - 1), L at least the original.

    A key is rotated by other angles when the sequence has grown: cached keys go stale, and the result at a position
    depends on what comes after it.

    Attributes
    ----------
    factor : float
    original_length : int
        What the model was trained on.
    length : int
        The length L of the present sequence.

    Notes
    -----
    Clauses: ROPE-DYNAMIC. Source: emozilla 2023, as written in Peng et al. 2023 (YaRN), section 3.3.
    """

    factor: float
    original_length: int
    length: int


class YaRN(NamedTuple):
    """Low frequencies divided by `factor`, high ones kept, a ramp between; cosines and sines multiplied by a factor.

    Attributes
    ----------
    factor : float
    original_length : int
        What the model was trained on.
    beta_fast, beta_slow : float
        Turns over the original length from which a frequency is kept, and below which it is divided.
    attention_factor : float, optional
        Default: m(mscale) / m(mscale_all_dim), where m(μ) = 0.1 μ ln(factor) + 1.
    mscale, mscale_all_dim : float
        With the defaults, the attention factor is 0.1 ln(factor) + 1.
    truncate : bool
        Whether the ends of the ramp are moved outwards to whole indices.

    Notes
    -----
    Clauses: ROPE-YARN, ROPE-FACTOR. Source: Peng et al. 2023, section 3; mscale: the code of DeepSeek-V2;
    truncate: the code of gpt-oss, which does not.
    """

    factor: float
    original_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 1.0
    mscale_all_dim: float = 0.0
    truncate: bool = True


class Llama3(NamedTuple):
    """Wavelengths above original_length / low_frequency_factor stretched by `factor`, those below
    original_length / high_frequency_factor kept, a ramp between.

    Attributes
    ----------
    factor, low_frequency_factor, high_frequency_factor : float
    original_length : int
        What the model was trained on.

    Notes
    -----
    Clauses: ROPE-LLAMA3. Source: the code of Llama 3.1 (8, 1, 4, 8192).
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_length: int


class LongRoPE(NamedTuple):
    """Each frequency divided by a number of its own, from one list for short and another for long sequences.

    Attributes
    ----------
    short_factors, long_factors : list of numbers, or array (R/2,)
    original_length : int
        What the model was trained on; longer sequences take `long_factors`.
    maximum_length : int
        What the model was extended to.
    length : int
        The length of the present sequence.
    attention_factor : float, optional
        Default: √(1 + ln(maximum_length/original_length) / ln(original_length)), at least 1.

    Notes
    -----
    Clauses: ROPE-LONGROPE, ROPE-FACTOR. Source: Ding et al. 2024; the attention factor: the code of Phi-3.
    """

    short_factors: Any
    long_factors: Any
    original_length: int
    maximum_length: int
    length: int
    attention_factor: float | None = None


class RopeFrequencies(NamedTuple):
    """What `rope_frequencies` returns.

    Attributes
    ----------
    frequencies : float64 NumPy array (R/2,)
        Radians a position.
    attention_factor : float
        What multiplies cosines and sines; scores of rotated features grow by its square.
    """

    frequencies: Any
    attention_factor: float


def rope_frequencies(rotary_dim, *, base=10000.0, scaling=None):
    r"""The frequencies of `rope`, and the factor of its cosines and sines.

    .. math:: \theta_i = b^{-2i/R}, \qquad i = 0, \ldots, R/2 - 1

    Parameters
    ----------
    rotary_dim : int
        R, even.
    base : float, default 10000
    scaling : Linear, NTK, DynamicNTK, YaRN, Llama3, LongRoPE or dict, optional

    Returns
    -------
    RopeFrequencies

    Raises
    ------
    TypeError, ValueError
        rotary_dim is odd, base is not positive, or the scaling is none of these or out of its range.

    Notes
    -----
    Clauses: ROPE-FREQUENCY, ROPE-FACTOR, ROPE-LINEAR, ROPE-NTK, ROPE-DYNAMIC, ROPE-YARN, ROPE-LLAMA3, ROPE-LONGROPE,
    ROPE-REFUSE. Source: Su et al. 2021, section 3.2.2; of a scaling, as its class says.

    Examples
    --------
    >>> rope_frequencies(4, scaling=Linear(2.0))
    RopeFrequencies(frequencies=array([0.5  , 0.005]), attention_factor=1.0)
    """
    d = backend.integer("rotary_dim", rotary_dim, least=0)
    arguments.room(100 * d, rotary_dim=d)  # while they are Python numbers
    if d % 2:
        raise ValueError(f"rotary_dim is {d}; it must be even")
    base = backend.number("base", base, positive=True)
    theta = powers(base, [-2 * i / d for i in range(d // 2)])
    attention_factor = 1.0
    match _configured(scaling) if isinstance(scaling, dict) else scaling:
        case None:
            pass
        case Linear(factor):
            theta = [t / _factor(factor) for t in theta]
        case NTK(factor):
            theta = _stretched_base(theta, _factor(factor))
        case DynamicNTK(factor, original_length, length):
            factor, original = _factor(factor), _length("original_length", original_length)
            growth = max(_length("length", length), original) / original
            theta = _stretched_base(theta, factor * growth - (factor - 1.0))
        case YaRN() as yarn:
            theta, attention_factor = _yarn(theta, base, yarn)
        case Llama3() as llama3:
            theta = _llama3(theta, llama3)
        case LongRoPE() as longrope:
            theta, attention_factor = _longrope(theta, longrope)
        case _:
            raise TypeError(
                f"scaling is a {type(scaling).__name__}; it must be one of Linear, NTK, DynamicNTK, YaRN, Llama3,"
                " LongRoPE of refattn.positions, or a dict"
            )
    return RopeFrequencies(np.asarray(theta, dtype=np.float64), attention_factor)


def powers(base, exponents):
    """The base to these powers; an error where one is beyond what a number can hold."""
    try:
        found = [base**e for e in exponents]
    except OverflowError:
        found = [math.inf]
    if max(found, default=0.0) > 2.0**960:  # times a position it would be no number
        raise ValueError(f"base is {base}; its powers overflow")
    return found


def _configured(scaling):
    try:
        return scaling_from_config(scaling)
    except (ValueError, TypeError) as error:
        raise type(error)(f"scaling is {backend.shown(scaling)}: {error}") from None


def _stretched_base(theta, factor):
    # (b·f^(R/(R-2)))^(-2i/R) = b^(-2i/R) · f^(-i/(R/2-1)), which also has a value for R = 2
    return [t * factor ** (-i / max(len(theta) - 1, 1)) for i, t in enumerate(theta)]


def _yarn(theta, base, s):
    factor, original = _factor(s.factor), _length("original_length", s.original_length)
    fast, slow = (_turns(name, getattr(s, name)) for name in ("beta_fast", "beta_slow"))
    if base <= 1.0:
        raise ValueError(f"base is {base}; YaRN needs a base above 1")
    low, high = (len(theta) * math.log(original / (2.0 * math.pi * turns)) / math.log(base) for turns in (fast, slow))
    if backend.flag("truncate", s.truncate):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * len(theta) - 1)  # R - 1, not R/2 - 1: so in the code that models run on
    if low > high:
        raise ValueError(
            f"beta_fast {fast}, beta_slow {slow} and original_length {original} leave no ramp: it would run from index"
            f" {low} to {high} with base {base} and the features of x that turn, rotary_dim {2 * len(theta)}"
        )
    width = high - low if high > low else 0.001
    ramp = [min(max((i - low) / width, 0.0), 1.0) for i in range(len(theta))]
    theta = [t / factor * r + t * (1.0 - r) for t, r in zip(theta, ramp, strict=True)]
    m = [
        0.1 * backend.number(name, getattr(s, name), least=0.0) * math.log(factor) + 1.0
        for name in ("mscale", "mscale_all_dim")
    ]
    if s.attention_factor is not None:
        return theta, backend.number("attention_factor", s.attention_factor, positive=True)
    return theta, m[0] / m[1]


def _turns(name, value):
    value = backend.number(name, value, positive=True)
    if not 2.0**-64 < value < 2.0**64:
        raise ValueError(f"{name} is {value}; it must be a number of turns, between 2**-64 and 2**64")
    return value


def _llama3(theta, s):
    factor, original = _factor(s.factor), _length("original_length", s.original_length)
    low = backend.number("low_frequency_factor", s.low_frequency_factor, positive=True)
    high = backend.number("high_frequency_factor", s.high_frequency_factor, positive=True)
    if not low < high:
        raise ValueError(f"low_frequency_factor is {low}; it must be below high_frequency_factor ({high})")
    kept = [min(max((original * t / (2.0 * math.pi) - low) / (high - low), 0.0), 1.0) for t in theta]
    return [t / factor * (1.0 - k) + t * k for t, k in zip(theta, kept, strict=True)]


def _longrope(theta, s):
    original, maximum = _length("original_length", s.original_length), _length("maximum_length", s.maximum_length)
    given = {name: _factors(name, getattr(s, name), len(theta)) for name in ("short_factors", "long_factors")}
    factors = given["long_factors" if _length("length", s.length) > original else "short_factors"]
    theta = [t / factor for t, factor in zip(theta, factors, strict=True)]
    if s.attention_factor is not None:
        return theta, backend.number("attention_factor", s.attention_factor, positive=True)
    return theta, math.sqrt(1.0 + math.log(maximum / original) / math.log(original)) if maximum > original else 1.0


def _factors(name, values, count):
    """A list, a tuple or an array of so many positive numbers."""
    if not isinstance(values, list | tuple):
        backend.array(name, values)
    shape = (len(values),) if isinstance(values, list | tuple) else values.shape
    if tuple(shape) != (count,):
        raise ValueError(
            f"{name} has shape {tuple(shape)}; it must have rotary_dim/2 = {count} numbers, one for each pair of features of x"
        )
    return [backend.number(name, values[i], positive=True) for i in range(count)]


def _factor(value):
    return backend.number("factor", value, least=1.0)


def _length(name, value):
    return backend.integer(name, value, least=2)


_CONFIGURED: dict[str, Any] = {
    "linear": Linear,
    "dynamic": DynamicNTK,
    "yarn": YaRN,
    "llama3": Llama3,
    "longrope": LongRoPE,
}
_FIELD_OF = {
    "original_max_position_embeddings": "original_length",
    "max_position_embeddings": "maximum_length",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "short_factor": "short_factors",
    "long_factor": "long_factors",
}


def scaling_from_config(config, *, length=None):
    """The scaling that a model's configuration states, as Hugging Face Transformers writes it.

    Parameters
    ----------
    config : dict
        {"rope_type": "yarn", "factor": 4.0, ...}; the types are default, linear, dynamic, yarn, llama3 and longrope.
    length : int, optional
        The length of the present sequence, on which dynamic and longrope depend.

    Returns
    -------
    Linear, DynamicNTK, YaRN, Llama3, LongRoPE or None

    Raises
    ------
    ValueError
        An unknown type, a key that the type does not have, or a missing one: nothing is ignored.

    Notes
    -----
    Clauses: ROPE-REFUSE. Source: `modeling_rope_utils` of Transformers 5.

    Examples
    --------
    >>> scaling_from_config({"rope_type": "linear", "factor": 4.0})
    Linear(factor=4.0)
    """
    if not isinstance(config, dict):
        raise TypeError(f"config is {backend.shown(config)}; it must be a dict, as a model's configuration has it")
    length = None if length is None else _length("length", length)
    given = {key: value for key, value in config.items() if value is not None}
    if not given:
        raise ValueError("config is empty; it must have a rope_type")
    older = given.pop("type", "default")
    kind = given.pop("rope_type", older)
    if kind == "default" and not given:
        return None
    if not isinstance(kind, str) or kind not in _CONFIGURED:
        raise ValueError(
            f"rope_type is {backend.shown(kind)} with keys {backend.shown(list(given))} in config; it must be one of {', '.join(_CONFIGURED)}"
        )
    scaling = _CONFIGURED[kind]
    if kind == "longrope" and "factor" in given and "original_max_position_embeddings" in given:
        original = _length("original_max_position_embeddings", given["original_max_position_embeddings"])
        given["max_position_embeddings"] = round(_factor(given.pop("factor")) * original)
    if not all(isinstance(key, str) for key in given):
        raise TypeError(f"config has keys {backend.shown(list(given))}; they must be words")
    fields = {_FIELD_OF.get(key, key): value for key, value in given.items()}
    if "length" in scaling._fields and length is not None:
        fields["length"] = length
    unknown = sorted(set(fields) - set(scaling._fields))
    missing = [name for name in scaling._fields if name not in fields and name not in scaling._field_defaults]
    if unknown:
        raise ValueError(
            f"rope_type {kind!r} has no {', '.join(unknown)}"
            " (rope_theta is the argument base, partial_rotary_factor is rotary_dim)"
        )
    if missing:
        hint = "; give it by scaling_from_config(config, length=...)" if "length" in missing else ""
        raise ValueError(f"rope_type {kind!r} needs {', '.join(missing)}{hint}")
    return scaling(**fields)
