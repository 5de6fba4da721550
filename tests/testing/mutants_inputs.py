"""Kernels that are wrong for one kind of input alone: (function, name) -> (callable, pattern of the cases that see it).

Each has been right on every other case of its function; most were reported as bugs of real kernels.
"""

import numpy as np

from refattn import masks
from refattn.testing.vectors import function_named
from tests.testing.mutants import MINUS, F, Kernel, leaf, rebuilt

ONE_INPUT: dict = {}


def attention_wrong(name, pattern, **stages):
    """Register a kernel in which some stages are replaced, and the cases of `attention` that must find it."""
    ONE_INPUT["attention", name] = type(name, (Kernel,), stages)(), f"attention.{pattern}.*"


# --- rules of masks -------------------------------------------------------------------------------------------------


def padding_on_queries(self, s, seen):
    mask = self.o["mask"]
    if getattr(mask, "name", None) == "padding" and s.shape[-1] == s.shape[-2]:
        return np.where(np.swapaxes(seen[..., :1, :], -1, -2), s, F(-1e4))
    return np.where(seen, s, MINUS)


attention_wrong("padding_on_queries", "rule_*padding_square", masked=padding_on_queries)


def from_the_first_query(name):
    """A rule that reads its data for queries 0 to N - 1, although they are the last N of M."""

    def rule(self, mask, n, m, qp, kp):
        if leaf(mask, name) is None or qp is not None or n >= m:
            return mask.dense(n, m, q_positions=qp, k_positions=kp)
        wrong = rebuilt(mask, name, lambda **given: _shifted(getattr(masks, name)(**given), m - n))
        return wrong.dense(n, m, q_positions=qp, k_positions=kp)

    return rule


def _shifted(rule, by):
    return masks.Mask(lambda i, j: rule.admits(i - by, j))


for _name in ("tree", "prefix", "documents", "chunked", "block", "strided", "fixed", "neighbours"):
    attention_wrong(f"{_name}_from_the_first_query", f"*_{_name}*", rule=from_the_first_query(_name))


def first_sequence_for_all(name):
    """A rule that takes the data of the first sequence for every one."""

    def first(x):
        return x if np.ndim(x) == 0 else np.asarray(x)[:1]

    def make(**given):
        given = {key: first(x) if key != "prefix" and x is not None else x for key, x in given.items()}
        return getattr(masks, name)(**given)

    return lambda self, mask, n, m, qp, kp: rebuilt(mask, name, make).dense(n, m, q_positions=qp, k_positions=kp)


for _name in ("tree", "prefix"):
    attention_wrong(f"{_name}_of_first_sequence", f"rule_{_name}*", rule=first_sequence_for_all(_name))


def amid(self, mask, n, m, qp, kp):
    """A prefix that forgets which queries were given."""
    lost = leaf(mask, "prefix") is not None
    return mask.dense(n, m, q_positions=None if lost else qp, k_positions=kp)


attention_wrong("prefix_forgets_positions", "rule_prefix_amid", rule=amid)


def first_tile_alone(self, mask, n, m, qp, kp):
    """Padding that is applied in the first tile of 64 keys alone."""
    dense = mask.dense(n, m, q_positions=qp, k_positions=kp)
    if m > 64 and mask.name == "padding":
        dense = dense | (np.arange(m) >= 64)
    return dense


attention_wrong("padding_in_first_tile", "rule_*padding_long", rule=first_tile_alone)

# --- rows emptied by two options together ---------------------------------------------------------------------------


def emptied(wrong, when):
    """A kernel that gives emptied rows `wrong` under a condition on its options."""

    def finish(self, out, lse, s, seen):
        empty = np.isneginf(s).all(-1, keepdims=True) & np.ones(out.shape, bool)
        return (np.where(empty, F(wrong), out) if when(self.o) else out), lse

    return finish


def all_dropped(self, w, keep, rate):
    gone = (w > 0).any(-1, keepdims=True) & ~((w > 0) & keep).any(-1, keepdims=True)
    return np.where(gone, F(np.nan), np.where(keep, w / (F(1) - rate), F(0)))


def has(o, *names):
    return all(o[name] is not None for name in names)


def ruled(o, name):
    return isinstance(o["mask"], masks.Mask) and leaf(o["mask"], name) is not None


attention_wrong("nan_where_all_dropped", "[ef]*", dropped=all_dropped)
for _name, _pattern, _when in (
    ("bias_and_window", "emptied_by_bias_and_window", lambda o: has(o, "bias") and ruled(o, "window")),
    ("bias_and_padding", "emptied_by_*", lambda o: has(o, "bias") and ruled(o, "padding")),
    ("bias_and_causal", "emptied_by_bias_and_causal", lambda o: has(o, "bias") and ruled(o, "causal")),
    ("bias_and_sinks", "emptied_by_*", lambda o: has(o, "bias", "sinks")),
    ("softcap", "emptied_by_*", lambda o: has(o, "softcap")),
    ("negative_scale", "emptied_by_mask_and_scale", lambda o: o["scale"] is not None and o["scale"] < 0),
    ("padding", "*padding*", lambda o: ruled(o, "padding") and not has(o, "bias")),
    ("documents", "*documents*", lambda o: ruled(o, "documents")),
):
    attention_wrong(f"nan_in_empty_row_with_{_name}", _pattern, finish=emptied(np.nan, _when))

# --- arrays that broadcast ------------------------------------------------------------------------------------------


def turned(mask, *, of):
    """A mask of one form whose last two axes are exchanged where N = M hides it."""
    if isinstance(mask, np.ndarray) and mask.ndim >= 2 and of(mask.shape):
        return np.swapaxes(mask, -1, -2)
    return mask


def keys_turned(self, mask, n, m, qp, kp):
    if isinstance(mask, masks.Mask):
        return self.rule(mask, n, m, qp, kp)
    return turned(mask, of=lambda shape: n == m and shape[-2] == 1 < m and (len(shape) == 4) == (self.four))


attention_wrong("mask_of_keys_of_batch_turned", "form_mask_of_keys_of_batch", seen=keys_turned, four=True)
attention_wrong("mask_of_keys_turned", "form_mask_of_[rk]*", seen=keys_turned, four=False)


def column_as_keys(self, s, b):
    column = b.ndim >= 2 and b.shape[-1] == 1 < b.shape[-2] == s.shape[-1]
    return Kernel.biased(self, s, np.swapaxes(b, -1, -2) if column else b)


attention_wrong("bias_of_queries_turned", "form_bias_of_*", biased=column_as_keys)


def sinks_of_first_sequence(self, w, total, top, z):
    return Kernel.normalised(self, w, total, top, z[:1] if z is not None and z.ndim == 4 else z)


attention_wrong("sinks_of_first_sequence", "form_sinks_of_*", normalised=sinks_of_first_sequence)

# --- arguments and fields that are ignored ----------------------------------------------------------------------------


def wrong(function, name, pattern, call):
    """Register a wrong kernel of any function, and the cases that must find it."""
    ONE_INPUT[function, name] = call, f"{function}.{pattern}.*"


def ignoring(function, option):
    """The reference without one of its options."""
    return lambda *args, **given: function_named(function)(*args, **{**given, option: None})


for _function, _option, _pattern in (
    ("attention_weights", "softcap", "softcap"),
    ("attention_weights", "dropout", "dropout"),
    ("multi_query_attention", "sinks", "[bs]*"),
    ("multi_query_attention_vjp", "mask", "*"),
    ("grouped_query_attention_vjp", "q_positions", "option_positions"),
    ("split_attention", "softcap", "[eo]*"),
    ("packed_attention", "scale", "option_scale"),
    ("packed_attention", "bias", "option_bias"),
    ("tiled_attention_vjp", "scale", "*"),
    ("tiled_attention_vjp", "k_positions", "positions"),
):
    wrong(_function, f"{_option}_ignored", _pattern, ignoring(_function, _option))


def without_field(field):
    """rope that leaves a field of its scaling at the default."""

    def rope(x, positions, *, scaling=None, **given):
        if field in getattr(scaling, "_field_defaults", {}):
            scaling = scaling._replace(**{field: scaling._field_defaults[field]})
        return function_named("rope")(x, positions, scaling=scaling, **given)

    return rope


for _field in ("beta_fast", "beta_slow", "attention_factor", "mscale", "truncate"):
    wrong("rope", f"{_field}_ignored", "scaling_*", without_field(_field))


def absolute_scale(q, k, v, *args, scale=None, **given):
    return function_named("cache.decode")(q, k, v, *args, scale=None if scale is None else abs(scale), **given)


wrong("cache.decode", "scale_absolute", "option_scale_negative", absolute_scale)

# --- statistics of rows applied to columns ----------------------------------------------------------------------------


def turned_in_squares(function):
    """The reference along the wrong axis where the shape hides it: two axes of equal length."""

    def call(x, *, axis=-1, **given):
        if x.ndim == 2 and x.shape[0] == x.shape[1] > 1 and axis in (-1, 1):
            axis = 0
        return function_named(function)(x=x, axis=axis, **given)

    return call


for _function in ("softmax", "logsumexp", "layer_norm", "rms_norm", "softmax_vjp", "logsumexp_vjp", "layer_norm_vjp",
                  "rms_norm_vjp"):  # fmt: skip
    _pattern = "*" if _function in ("softmax", "logsumexp") else "square"  # of these a golden case is square, too
    wrong(_function, "columns_of_a_square", _pattern, turned_in_squares(_function))
