"""Variants of position encodings, rotations, scalings and biases."""

import math

import numpy as np

from refattn import positions as reference
from refattn.positions import DynamicNTK, Linear, Llama3, LongRoPE, YaRN, relative_position_bucket, t5_bias
from refattn.testing.registry import NotApplicable, variant
from refattn.testing.rounding import round_to

# --- tables ---------------------------------------------------------------------------------------------------------


@variant(
    "sinusoidal/half_layout",
    "SINUSOIDAL-TABLE",
    "sinusoidal",
    seen=["Transformer-XL"],
    advice='layout="half"',
)
def sinusoidal_half_layout(positions, dim, base=10000.0, layout="interleaved"):
    """All sines before all cosines, with the same frequencies."""
    if layout != "interleaved":
        raise NotApplicable
    return reference.sinusoidal(positions, dim, base=base, layout="half")


@variant(
    "sinusoidal/other_frequencies",
    "SINUSOIDAL-TABLE",
    "sinusoidal",
    seen=["tensor2tensor", "fairseq"],
    advice='layout="tensor2tensor"',
)
def sinusoidal_other_frequencies(positions, dim, base=10000.0, layout="interleaved"):
    """Frequencies that end at 1/base exactly, from i/(K - 1) instead of 2i/D in the exponent."""
    if layout == "tensor2tensor":
        raise NotApplicable
    table = reference.sinusoidal(positions, dim, base=base, layout="tensor2tensor")
    if layout == "half":
        return table
    half = dim // 2
    pairs = np.stack([table[..., :half], table[..., half : 2 * half]], axis=-1).reshape(*table.shape[:-1], -1)
    return np.concatenate([pairs, table[..., 2 * half :]], axis=-1)


@variant("sinusoidal/paper_frequencies", "SINUSOIDAL-TENSOR2TENSOR", "sinusoidal", advice='layout="half"')
def sinusoidal_paper_frequencies(positions, dim, base=10000.0, layout="interleaved"):
    """The frequencies of the paper where those of Tensor2Tensor are asked for."""
    if layout != "tensor2tensor":
        raise NotApplicable
    return reference.sinusoidal(positions, dim, base=base, layout="half")


@variant("sinusoidal/cosine_first", "SINUSOIDAL-HALF", "sinusoidal", seen=["diffusers flip_sin_to_cos=True"])
def sinusoidal_cosine_first(positions, dim, base=10000.0, layout="interleaved"):
    """Cosines before sines."""
    table = reference.sinusoidal(positions, dim, base=base, layout=layout)
    if dim % 2:
        raise NotApplicable
    if layout == "interleaved":
        return table.reshape(*table.shape[:-1], -1, 2)[..., ::-1].reshape(table.shape)
    return np.roll(table, dim // 2, axis=-1)


@variant("sinusoidal/frequency_per_column", "SINUSOIDAL-TABLE", "sinusoidal")
def sinusoidal_frequency_per_column(positions, dim, base=10000.0, layout="interleaved"):
    """The column number c in the exponent instead of 2⌊c/2⌋, so that a sine and its cosine have other frequencies."""
    if layout != "interleaved":
        raise NotApplicable
    column = np.arange(dim)
    angles = np.asarray(positions, dtype=np.float64)[..., None] * base ** (-column / dim)
    return np.where(column % 2, np.cos(angles), np.sin(angles))


@variant("learned/offset_ignored", "LEARNED-LOOKUP", "learned_positions")
def learned_offset_ignored(table, positions, offset=0):
    """Position p takes row p although the table begins with rows for padding."""
    if offset == 0:
        raise NotApplicable
    return reference.learned_positions(table, positions)


# --- rotation -------------------------------------------------------------------------------------------------------

_OTHER = {"interleaved": "half", "half": "interleaved"}


def _tables(x, positions, base, rotary_dim, scaling):
    """Cosines and sines of rope, and the number of rotated features, in float64."""
    rotary_dim = x.shape[-1] if rotary_dim is None else rotary_dim
    theta, factor = reference.rope_frequencies(rotary_dim, base=base, scaling=scaling)
    angles = np.asarray(positions, dtype=np.float64)[..., None] * theta
    return factor * np.cos(angles), factor * np.sin(angles), rotary_dim


@variant(
    "rope/half_pairing",
    "ROPE-LAYOUT",
    "rope",
    seen=["Hugging Face Llama", "GPT-NeoX", "tenstorrent/tt-metal#26844"],
    advice='layout="half"',
)
def rope_half_pairing(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Pairs (i, i + R/2) where neighbours are asked for."""
    if layout == "half":
        raise NotApplicable
    return reference.rope(x, positions, base=base, layout="half", rotary_dim=rotary_dim, scaling=scaling)


@variant(
    "rope/interleaved_pairing",
    "ROPE-LAYOUT",
    "rope",
    seen=["GPT-J", "Meta Llama", "FlashAttention-2 default"],
    advice='layout="interleaved"',
)
def rope_interleaved_pairing(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Pairs (2i, 2i + 1) where halves are asked for."""
    if layout == "interleaved":
        raise NotApplicable
    return reference.rope(x, positions, base=base, rotary_dim=rotary_dim, scaling=scaling)


@variant("rope/other_pairing", "ROPE-LAYOUT", "positions.rotate", seen=["tenstorrent/tt-metal#26844"])
def rotate_other_pairing(x, cos, sin, layout="interleaved", rotary_dim=None):
    """The other of the two pairings."""
    return reference.rotate(x, cos, sin, layout=_OTHER[layout], rotary_dim=rotary_dim)


@variant("rope/negated_sin", "ROPE-ROTATION", "rope")
def rope_negated_sin(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The rotation runs the other way; scores cannot tell, if queries and keys both do it."""
    cos, sin, r = _tables(x, positions, base, rotary_dim, scaling)
    return reference.rotate(x, cos, -sin, layout=layout, rotary_dim=r)


@variant("rope/negated_sin", "ROPE-ROTATION", "positions.rotate")
def rotate_negated_sin(x, cos, sin, layout="interleaved", rotary_dim=None):
    """The rotation runs the other way; scores cannot tell, if queries and keys both do it."""
    return reference.rotate(x, cos, -sin, layout=layout, rotary_dim=rotary_dim)


@variant(
    "rope/frequencies_over_head_dim",
    "ROPE-FREQUENCY",
    "rope",
    seen=["pie-project/pie#602", "huggingface/transformers#48652"],
)
def rope_frequencies_over_head_dim(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Partial rotation with the head size in the exponent instead of the number of rotated features."""
    d = x.shape[-1]
    if rotary_dim in (None, d) or scaling is not None:
        raise NotApplicable
    cos, sin, _ = _tables(x, positions, base, d, None)
    half = rotary_dim // 2
    return reference.rotate(x, cos[..., :half], sin[..., :half], layout=layout, rotary_dim=rotary_dim)


@variant(
    "rope/proportional",
    "ROPE-PARTIAL",
    "rope",
    seen=["Gemma 4", "transformers rope_type='proportional'", "apple/coreai-models#66"],
    advice="positions.rotate over the whole head, with cosine 1 and sine 0 in the columns that do not turn",
)
def rope_proportional(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Partial rotation with pairs and frequencies of the whole head, the slower ones held still."""
    d = x.shape[-1]
    if rotary_dim in (None, d) or scaling is not None:
        raise NotApplicable
    cos, sin, _ = _tables(x, positions, base, d, None)
    turns = np.arange(d // 2) < rotary_dim // 2
    return reference.rotate(x, np.where(turns, cos, 1.0), np.where(turns, sin, 0.0), layout=layout)


@variant(
    "rope/rotates_last",
    "ROPE-PARTIAL",
    "rope",
    seen=["DeepSeek-V2 and V3"],
    advice="rope of the slice x[..., -R:], joined with the rest",
)
def rope_rotates_last(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Partial rotation of the last R features instead of the first."""
    d = x.shape[-1]
    if rotary_dim in (None, d):
        raise NotApplicable
    turned = reference.rope(x[..., d - rotary_dim :], positions, base=base, layout=layout, scaling=scaling)
    rest = np.broadcast_to(x[..., : d - rotary_dim], (*turned.shape[:-1], d - rotary_dim))
    return np.concatenate([rest, turned], axis=-1)


@variant(
    "rope/positions_from_zero",
    "ROPE-POSITION",
    "rope",
    seen=["unslothai/unsloth#4078", "mosaicml/examples#257"],
)
def rope_positions_from_zero(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Row n is rotated by n, whatever its position: wrong with a cache, with padding on the left, with packing."""
    rows = np.arange(x.shape[-2])
    return reference.rope(x, rows, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)


@variant("rope/first_batch_for_all", "ROPE-POSITION", "rope", seen=["unslothai/unsloth#3795"])
def rope_first_batch_for_all(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The positions of the first batch row serve all rows."""
    if np.ndim(positions) < 2:
        raise NotApplicable
    first = np.broadcast_to(positions[:1], positions.shape)
    return reference.rope(x, first, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)


@variant(
    "rope/bfloat16_angles",
    "ROPE-PRECISION",
    "rope",
    seen=["EleutherAI/gpt-neox#1003", "huggingface/transformers#29285"],
)
def rope_bfloat16_angles(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Positions, frequencies and angles are rounded to bfloat16."""
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    theta, factor = reference.rope_frequencies(r, base=base, scaling=scaling)
    p = round_to(np.asarray(positions, dtype=np.float64), "bfloat16")
    angles = round_to(p[..., None] * round_to(theta, "bfloat16"), "bfloat16")
    return reference.rotate(x, factor * np.cos(angles), factor * np.sin(angles), layout=layout, rotary_dim=r)


@variant("rope/bfloat16_frequencies", "ROPE-PRECISION", "rope", seen=["Modalities/modalities#462"])
def rope_bfloat16_frequencies(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Frequencies are rounded to bfloat16 before they are multiplied by the position."""
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    theta, factor = reference.rope_frequencies(r, base=base, scaling=scaling)
    angles = np.asarray(positions, dtype=np.float64)[..., None] * round_to(theta, "bfloat16")
    return reference.rotate(x, factor * np.cos(angles), factor * np.sin(angles), layout=layout, rotary_dim=r)


@variant("rope/float16_positions", "ROPE-PRECISION", "rope", seen=["ml-explore/mlx-lm#1076"])
def rope_float16_positions(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Positions are rounded to 11 bits, so that neighbours far from 0 become one."""
    p = round_to(np.asarray(positions, dtype=np.float64), "tf32")  # 11 bits without the overflow of float16
    return reference.rope(x, p, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)


@variant("rope/half_tables_reused", "ROPE-TABLES", "positions.rotate", seen=["Tencent/ncnn#6833"])
def rotate_half_tables_reused(x, cos, sin, layout="interleaved", rotary_dim=None):
    """The first half of the tables' columns is read twice; nobody sees it while the halves are equal."""
    count = cos.shape[-1]
    if count < 2:
        raise NotApplicable
    again = np.arange(count) % ((count + 1) // 2)
    return reference.rotate(x, cos[..., again], sin[..., again], layout=layout, rotary_dim=rotary_dim)


def _repeated_tables_half_rotation(x, cos, sin, r):
    turned, rest = x[..., :r], x[..., r:]
    other = np.concatenate([-turned[..., r // 2 :], turned[..., : r // 2]], axis=-1)
    turned = turned * np.repeat(cos, 2, axis=-1) + other * np.repeat(sin, 2, axis=-1)
    return np.concatenate([turned, np.broadcast_to(rest, (*turned.shape[:-1], rest.shape[-1]))], axis=-1)


_MIXED = "huggingface/transformers#47403"


@variant("rope/interleaved_tables_with_half_rotation", "ROPE-TABLES", "rope", seen=[_MIXED])
def rope_interleaved_tables(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Each angle twice in a row, as neighbours need it, with pairs of halves: the two of a pair turn differently."""
    return _repeated_tables_half_rotation(x, *_tables(x, positions, base, rotary_dim, scaling))


@variant("rope/interleaved_tables_with_half_rotation", "ROPE-TABLES", "positions.rotate", seen=[_MIXED])
def rotate_interleaved_tables(x, cos, sin, layout="interleaved", rotary_dim=None):
    """Each angle twice in a row, as neighbours need it, with pairs of halves: the two of a pair turn differently."""
    return _repeated_tables_half_rotation(x, cos, sin, x.shape[-1] if rotary_dim is None else rotary_dim)


# --- scaling --------------------------------------------------------------------------------------------------------


def _with_frequencies(x, positions, theta, factor, layout, rotary_dim):
    angles = np.asarray(positions, dtype=np.float64)[..., None] * theta
    return reference.rotate(x, factor * np.cos(angles), factor * np.sin(angles), layout=layout, rotary_dim=rotary_dim)


@variant("rope/scaling_ignored", "ROPE-LINEAR", "rope")
def rope_scaling_ignored(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The scaling of the configuration is not read."""
    if scaling is None:
        raise NotApplicable
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim)


@variant("linear/inverted", "ROPE-LINEAR", "rope")
def linear_inverted(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Frequencies are multiplied by the factor."""
    if not isinstance(scaling, Linear):
        raise NotApplicable
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    theta = reference.rope_frequencies(r, base=base).frequencies * scaling.factor
    return _with_frequencies(x, positions, theta, 1.0, layout, r)


@variant("ntk/base_times_factor", "ROPE-NTK", "rope")
def ntk_base_times_factor(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The base is multiplied by the factor itself, without the exponent R/(R - 2)."""
    if not isinstance(scaling, reference.NTK):
        raise NotApplicable
    return reference.rope(x, positions, base=base * scaling.factor, layout=layout, rotary_dim=rotary_dim)


@variant("ntk/length_ignored", "ROPE-DYNAMIC", "rope")
def ntk_length_ignored(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Dynamic scaling with its full factor at every length."""
    if not isinstance(scaling, DynamicNTK):
        raise NotApplicable
    fixed = reference.NTK(scaling.factor)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=fixed)


@variant(
    "yarn/no_attention_factor",
    "ROPE-FACTOR",
    "rope",
    seen=["DeepSeek-V2 and V3, which put its square into the scale of the scores"],
    advice="YaRN(..., attention_factor=1.0)",
)
def yarn_no_attention_factor(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Cosines and sines are not multiplied by the attention factor."""
    if not isinstance(scaling, YaRN | LongRoPE):
        raise NotApplicable
    plain = scaling._replace(attention_factor=1.0)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=plain)


@variant("yarn/given_factor_ignored", "ROPE-FACTOR", "rope", seen=["ml-explore/mlx-lm#1507"])
def yarn_given_factor_ignored(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The attention factor that the configuration gives is ignored; the one that follows from the factor is used."""
    if not isinstance(scaling, YaRN) or scaling.attention_factor is None:
        raise NotApplicable
    own = scaling._replace(attention_factor=None)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=own)


@variant("yarn/attention_factor_on_everything", "ROPE-FACTOR", "rope")
def yarn_attention_factor_on_everything(
    x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None
):
    """The features that are not rotated are multiplied by the attention factor too."""
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    factor = reference.rope_frequencies(r, base=base, scaling=scaling).attention_factor
    if factor == 1.0 or r == x.shape[-1]:
        raise NotApplicable
    out = reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)
    return np.concatenate([out[..., :r], factor * out[..., r:]], axis=-1)


@variant("yarn/other_truncation", "ROPE-YARN", "rope", seen=["gpt-oss"], advice="YaRN(..., truncate=False)")
def yarn_other_truncation(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The ends of the ramp are left where they fall instead of moved to whole indices, or the reverse."""
    if not isinstance(scaling, YaRN):
        raise NotApplicable
    other = scaling._replace(truncate=not scaling.truncate)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=other)


@variant("yarn/ramp_reversed", "ROPE-YARN", "rope")
def yarn_ramp_reversed(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """High frequencies are divided and low ones kept."""
    if not isinstance(scaling, YaRN):
        raise NotApplicable
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    plain = reference.rope_frequencies(r, base=base).frequencies
    scaled, factor = reference.rope_frequencies(r, base=base, scaling=scaling)
    return _with_frequencies(x, positions, plain + plain / scaling.factor - scaled, factor, layout, r)


@variant("llama3/no_ramp", "ROPE-LLAMA3", "rope")
def llama3_no_ramp(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Frequencies between the two thresholds are kept instead of mixed."""
    if not isinstance(scaling, Llama3):
        raise NotApplicable
    r = x.shape[-1] if rotary_dim is None else rotary_dim
    plain = reference.rope_frequencies(r, base=base).frequencies
    turns = scaling.original_length * plain / (2 * math.pi)
    theta = np.where(turns < scaling.low_frequency_factor, plain / scaling.factor, plain)
    return _with_frequencies(x, positions, theta, 1.0, layout, r)


@variant("longrope/short_factors_always", "ROPE-LONGROPE", "rope")
def longrope_short_factors_always(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The short list serves long sequences too."""
    if not isinstance(scaling, LongRoPE) or scaling.length <= scaling.original_length:
        raise NotApplicable
    short = scaling._replace(long_factors=scaling.short_factors)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=short)


@variant("longrope/long_factors_always", "ROPE-LONGROPE", "rope")
def longrope_long_factors_always(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The long list serves short sequences too."""
    if not isinstance(scaling, LongRoPE) or scaling.length > scaling.original_length:
        raise NotApplicable
    long = scaling._replace(short_factors=scaling.long_factors)
    return reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=long)


@variant("yarn/high_end_of_pairs", "ROPE-YARN", "positions.rope_frequencies")
def yarn_high_end_of_pairs(rotary_dim, base=10000.0, scaling=None):
    """The end of the ramp is held at R/2 - 1, the last index, instead of R - 1."""
    if not isinstance(scaling, YaRN):
        raise NotApplicable
    half = rotary_dim // 2
    low, high = (
        half * math.log(scaling.original_length / (2 * math.pi * turns)) / math.log(base)
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, half - 1)
    plain = reference.rope_frequencies(rotary_dim, base=base).frequencies
    ramp = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0.0, 1.0)
    return reference.RopeFrequencies(plain / scaling.factor * ramp + plain * (1 - ramp), 1.0)


@variant("rope/base_ignored", "ROPE-FREQUENCY", "rope")
def rope_base_ignored(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The base is always 10,000."""
    if base == 10000.0:
        raise NotApplicable
    return reference.rope(x, positions, layout=layout, rotary_dim=rotary_dim, scaling=scaling)


@variant("rope/rotary_dim_ignored", "ROPE-PARTIAL", "rope")
def rope_rotary_dim_ignored(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """All features are rotated although only some should be."""
    if rotary_dim in (None, x.shape[-1]) or scaling is not None:
        raise NotApplicable
    return reference.rope(x, positions, base=base, layout=layout)


@variant("rope/positions_from_one", "ROPE-POSITION", "rope")
def rope_positions_from_one(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Positions are counted from 1; scores cannot tell, if queries and keys both do it."""
    return reference.rope(
        x, np.asarray(positions) + 1, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling
    )


@variant(
    "rope/last_position_for_all", "ROPE-POSITION", "rope", seen=["flash_attn_with_kvcache, neither causal nor local"]
)
def rope_last_position_for_all(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Every row is rotated by the first row's position, as one step of a cache would be."""
    same = np.broadcast_to(np.asarray(positions)[..., :1], np.shape(positions))
    return reference.rope(x, same, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)


def _other_exponent(exponent):
    def call(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
        r = x.shape[-1] if rotary_dim is None else rotary_dim
        if scaling is not None or r < 4:
            raise NotApplicable
        theta = base ** -exponent(np.arange(r // 2), r)
        return _with_frequencies(x, positions, theta, 1.0, layout, r)

    return call


@variant("rope/exponent_halved", "ROPE-FREQUENCY", "rope")
def rope_exponent_halved(*args, **kwargs):
    """i/R in the exponent instead of 2i/R."""
    return _other_exponent(lambda i, r: i / r)(*args, **kwargs)


@variant("rope/exponent_from_one", "ROPE-FREQUENCY", "rope")
def rope_exponent_from_one(*args, **kwargs):
    """2(i + 1)/R in the exponent: the pairs are counted from 1."""
    return _other_exponent(lambda i, r: 2 * (i + 1) / r)(*args, **kwargs)


@variant("rope/exponent_to_the_end", "ROPE-FREQUENCY", "rope")
def rope_exponent_to_the_end(*args, **kwargs):
    """2i/(R - 2) in the exponent: the last frequency is 1/base exactly."""
    return _other_exponent(lambda i, r: 2 * i / (r - 2))(*args, **kwargs)


@variant("rope/sine_and_cosine_exchanged", "ROPE-ROTATION", "rope")
def rope_exchanged(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """Sines stand where cosines should and the reverse."""
    cos, sin, r = _tables(x, positions, base, rotary_dim, scaling)
    return reference.rotate(x, sin, cos, layout=layout, rotary_dim=r)


@variant("rope/sine_and_cosine_exchanged", "ROPE-ROTATION", "positions.rotate")
def rotate_exchanged(x, cos, sin, layout="interleaved", rotary_dim=None):
    """Sines stand where cosines should and the reverse."""
    return reference.rotate(x, sin, cos, layout=layout, rotary_dim=rotary_dim)


@variant("rope/rest_dropped", "ROPE-PARTIAL", "rope")
def rope_rest_dropped(x, positions, base=10000.0, layout="interleaved", rotary_dim=None, scaling=None):
    """The features that are not rotated come out as 0."""
    if rotary_dim in (None, x.shape[-1]):
        raise NotApplicable
    out = reference.rope(x, positions, base=base, layout=layout, rotary_dim=rotary_dim, scaling=scaling)
    return np.concatenate([out[..., :rotary_dim], 0.0 * out[..., rotary_dim:]], axis=-1)


@variant("alibi/first_slope_for_all", "ALIBI-BIAS", "alibi_bias")
def alibi_first_slope_for_all(slopes, n, m, q_positions=None, k_positions=None):
    """The slope of the first head serves all of them."""
    if np.size(slopes) < 2:
        raise NotApplicable
    first = np.broadcast_to(slopes[..., :1], slopes.shape)
    return reference.alibi_bias(first, n, m, q_positions=q_positions, k_positions=k_positions)


@variant("alibi/slopes_reversed", "ALIBI-SLOPES", "alibi_slopes")
def alibi_slopes_reversed(heads, like=None):
    """The last head has the steepest slope."""
    if heads < 2:
        raise NotApplicable
    return reference.alibi_slopes(heads)[::-1].copy()


@variant("alibi/sorted", "ALIBI-SLOPES", "alibi_slopes")
def alibi_sorted(heads, like=None):
    """For a number of heads that is no power of two the slopes are put in order of size."""
    if heads & (heads - 1) == 0:
        raise NotApplicable
    return np.sort(reference.alibi_slopes(heads))[::-1].copy()


# --- ALiBi ----------------------------------------------------------------------------------------------------------


@variant(
    "alibi/plain_geometric",
    "ALIBI-SLOPES",
    "alibi_slopes",
    seen=["ml-explore/mlx#3071", "ml-explore/mlx#343"],
)
def alibi_plain_geometric(heads, like=None):
    """2^(-8h/H) for every H, powers of two or not."""
    if heads & (heads - 1) == 0:
        raise NotApplicable
    return 2.0 ** (-8.0 * np.arange(1, heads + 1) / heads)


@variant("alibi/exponent_off_by_one", "ALIBI-SLOPES", "alibi_slopes", seen=["paiml/aprender#2143"])
def alibi_exponent_off_by_one(heads, like=None):
    """h counts from 0, so the first slope is 1."""
    slopes = reference.alibi_slopes(heads)
    return slopes * 2.0 ** (8.0 / 2 ** math.floor(math.log2(heads)))


@variant("alibi/sign", "ALIBI-BIAS", "alibi_bias", seen=["meta-pytorch/attention-gym#86"])
def alibi_sign(slopes, n, m, q_positions=None, k_positions=None):
    """Distance is rewarded."""
    return -reference.alibi_bias(slopes, n, m, q_positions=q_positions, k_positions=k_positions)


@variant(
    "alibi/top_left",
    "ALIBI-ALIGN",
    "alibi_bias",
    seen=["cuDNN frontend"],
    advice="q_positions=arange(N)",
)
def alibi_top_left(slopes, n, m, q_positions=None, k_positions=None):
    """Query i stands at position i instead of i + M - N."""
    if q_positions is not None or n == m:
        raise NotApplicable
    return reference.alibi_bias(slopes, n, m, q_positions=np.arange(n), k_positions=k_positions)


def _positions(n, m, q_positions, k_positions):
    q = np.arange(m - n, m) if q_positions is None else q_positions
    return q, np.arange(m) if k_positions is None else k_positions


@variant(
    "alibi/key_position_only",
    "ALIBI-BIAS",
    "alibi_bias",
    seen=["Hugging Face Bloom", "the code of the paper", "FlashAttention-2, causal"],
    advice="bias = slopes[..., None, None] * k_positions: causal outputs agree, log-sum-exps do not",
)
def alibi_key_position_only(slopes, n, m, q_positions=None, k_positions=None):
    """slope·p_j, without the query's position: a constant off in each row of a causal mask."""
    _, k = _positions(n, m, q_positions, k_positions)
    bias = slopes[..., None, None] * k[..., None, :]
    return np.broadcast_to(bias, np.broadcast_shapes(bias.shape, (n, m)))


@variant("alibi/signed_distance", "ALIBI-BIAS", "alibi_bias", seen=["FlashInfer", "cuDNN frontend"])
def alibi_signed_distance(slopes, n, m, q_positions=None, k_positions=None):
    """slope·(p_j - p_i) without the absolute value: keys after the query are rewarded."""
    q, k = _positions(n, m, q_positions, k_positions)
    return slopes[..., None, None] * (k[..., None, :] - q[..., :, None])


@variant("alibi/query_length", "ALIBI-ALIGN", "alibi_bias", seen=["keras-team/keras-hub#2977"])
def alibi_query_length(slopes, n, m, q_positions=None, k_positions=None):
    """The bias is built over the length of the queries: with one query and a cache it is zero."""
    if n != 1:
        raise NotApplicable
    return 0.0 * reference.alibi_bias(slopes, n, m, q_positions=q_positions, k_positions=k_positions)


@variant(
    "alibi/distance_off_by_one",
    "ALIBI-BIAS",
    "alibi_bias",
    seen=["vllm-project/vllm#945"],
)
def alibi_distance_off_by_one(slopes, n, m, q_positions=None, k_positions=None):
    """One step too near, so that the query's own position is rewarded: a constant off in each causal row."""
    bias = reference.alibi_bias(slopes, n, m, q_positions=q_positions, k_positions=k_positions)
    return bias + slopes[..., None, None]


# --- T5 -------------------------------------------------------------------------------------------------------------


@variant("t5/sign", "T5-BUCKET", "relative_position_bucket", seen=["dmlc/gluon-nlp#1470"])
def t5_sign(relative, bidirectional=True, buckets=32, max_distance=128):
    """Query minus key instead of key minus query."""
    return relative_position_bucket(-relative, bidirectional=bidirectional, buckets=buckets, max_distance=max_distance)


@variant("t5/no_clamp", "T5-BUCKET", "relative_position_bucket", seen=["huggingface/candle#1312"])
def t5_no_clamp(relative, bidirectional=True, buckets=32, max_distance=128):
    """Far distances run past the last bucket of their direction."""
    n = buckets // 2 if bidirectional else buckets
    e = n // 2
    a = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    far = e + np.floor((n - e) * np.log(np.maximum(a, e) / e) / math.log(max_distance / e) + 1e-9).astype(np.int64)
    return np.where(a < e, a, far) + n * (bidirectional & (relative > 0))


@variant("t5/bidirectional_dropped", "T5-CAUSAL", "relative_position_bucket")
def t5_bidirectional_dropped(relative, bidirectional=True, buckets=32, max_distance=128):
    """Both directions in a decoder, which has one, or one in an encoder, which has both."""
    return relative_position_bucket(
        relative, bidirectional=not bidirectional, buckets=buckets, max_distance=max_distance
    )


@variant("t5/rounded_logarithm", "T5-EXACT", "relative_position_bucket")
def t5_rounded_logarithm(relative, bidirectional=True, buckets=32, max_distance=128):
    """The logarithmic bucket is rounded to the nearest instead of down."""
    n = buckets // 2 if bidirectional else buckets
    e = n // 2
    a = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    step = np.rint((n - e) * np.log(np.maximum(a, e) / e) / math.log(max_distance / e)).astype(np.int64)
    return np.where(a < e, a, np.minimum(e + step, n - 1)) + n * (bidirectional & (relative > 0))


@variant("t5/boundary_missed", "T5-EXACT", "relative_position_bucket")
def t5_boundary_missed(relative, bidirectional=True, buckets=32, max_distance=128):
    """A logarithm that comes out short of a whole number puts a distance on a boundary one bucket too low."""
    n = buckets // 2 if bidirectional else buckets
    e = n // 2
    a = np.abs(relative) if bidirectional else np.maximum(-relative, 0)
    step = np.ceil((n - e) * np.log(np.maximum(a, e) / e) / math.log(max_distance / e) - 1e-9).astype(np.int64) - 1
    far = np.minimum(e + np.maximum(step, 0), n - 1)
    return np.where(a < e, a, far) + n * (bidirectional & (relative > 0))


@variant("t5/top_left", "T5-ALIGN", "t5_bias", advice="q_positions=arange(N)")
def t5_top_left(table, n, m, q_positions=None, k_positions=None, bidirectional=True, max_distance=128):
    """Query i stands at position i instead of i + M - N."""
    if q_positions is not None or n == m:
        raise NotApplicable
    return t5_bias(
        table,
        n,
        m,
        q_positions=np.arange(n),
        k_positions=k_positions,
        bidirectional=bidirectional,
        max_distance=max_distance,
    )


@variant("t5/sign", "T5-BIAS", "t5_bias", seen=["dmlc/gluon-nlp#1470"])
def t5_bias_sign(table, n, m, q_positions=None, k_positions=None, bidirectional=True, max_distance=128):
    """Query minus key instead of key minus query."""
    q, k = _positions(n, m, q_positions, k_positions)
    return t5_bias(table, n, m, q_positions=-q, k_positions=-k, bidirectional=bidirectional, max_distance=max_distance)


@variant("t5/bidirectional_dropped", "T5-CAUSAL", "t5_bias")
def t5_bias_bidirectional_dropped(
    table, n, m, q_positions=None, k_positions=None, bidirectional=True, max_distance=128
):
    """Both directions in a decoder, which has one, or one in an encoder, which has both."""
    return t5_bias(
        table,
        n,
        m,
        q_positions=q_positions,
        k_positions=k_positions,
        bidirectional=not bidirectional,
        max_distance=max_distance,
    )


@variant("t5/scaled", "T5-BIAS", "t5_bias")
def t5_scaled(table, n, m, q_positions=None, k_positions=None, bidirectional=True, max_distance=128):
    """The bias is divided by √64 with the scores, although T5 scales neither."""
    return t5_bias(
        table / 8.0,
        n,
        m,
        q_positions=q_positions,
        k_positions=k_positions,
        bidirectional=bidirectional,
        max_distance=max_distance,
    )
