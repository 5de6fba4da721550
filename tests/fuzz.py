"""Hostile calls of every public function: one argument of a valid call at a time, or two, replaced by what it is not.

A call must return something sensible or end with a ValueError or TypeError that names the argument; it may not warn,
hang or take much memory.

    python tests/fuzz.py --calls 100000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import decimal
import fractions
import itertools
import re
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import refattn
from refattn import backend, cache, gradients, heads, latent, masks, positions, testing
from refattn.testing.inputs import Draw, Seeded
from refattn.testing.rounding import FORMATS
from refattn.testing.subject import subjects

# --- what an argument is not ----------------------------------------------------------------------------------------


def selfish():
    """A list that holds itself."""
    x: list = []
    x.append(x)
    return x


def _nested(depth):
    x: Any = 0
    for _ in range(depth):
        x = (x, 1)
    return x


NO_NUMBERS: dict[str, Callable[[], Any]] = {  # nothing here is a number, an array of numbers or a list of numbers
    "None": lambda: None, "''": lambda: "", "'3'": lambda: "3", "'nan'": lambda: "nan", "'junk'": lambda: "junk",
    "bytes": lambda: b"3", "dict": dict, "dict of numbers": lambda: {0: 1.0, 1: 2.0}, "set": lambda: {1, 2},
    "object": object, "type": lambda: int, "function": lambda: _takes_nothing, "module": lambda: np, "...": lambda: ...,
    "slice": lambda: slice(2), "generator": lambda: (n for n in (1, 2)), "complex": lambda: 1j,
    "list of strings": lambda: ["1"], "list of None": lambda: [None], "list of complex": lambda: [1j],
    "list of dicts": lambda: [{}], "ragged": lambda: [[1], [2, 3]], "selfish": selfish, "deep": lambda: _nested(3000),
    "array of strings": lambda: np.array(["a", "b"]), "array of objects": lambda: np.array([None, {}], dtype=object),
    "array of dates": lambda: np.array(["2020-01-01"], dtype="M8[D]"), "duration": lambda: np.timedelta64(3),
    "records": lambda: np.zeros(2, dtype=[("a", "f8")]), "complex array": lambda: np.ones((2, 3), dtype=complex),
    "masked": lambda: np.ma.MaskedArray([1.0, 2.0], mask=[0, 1]), "memory": lambda: memoryview(b"12"),
    "dtype": lambda: np.dtype("f8"), "cache": cache.KVCache, "decimal": lambda: decimal.Decimal(2),
    "params": lambda: refattn.FeedForwardParams(np.eye(2), None, np.eye(2), None),
    "other params": lambda: refattn.MultiHeadParams(*[np.eye(2)] * 4), "list of bools": lambda: [True, False],
}  # fmt: skip
NUMBERS: dict[str, Callable[[], Any]] = {  # which may be right or wrong
    "True": lambda: True, "False": lambda: False, "0": lambda: 0, "-1": lambda: -1, "3": lambda: 3,
    "2**31": lambda: 2**31, "10**9": lambda: 10**9, "2**62": lambda: 2**62, "2**63": lambda: 2**63,
    "-2**64": lambda: -(2**64), "10**400": lambda: 10**400, "-10**400": lambda: -(10**400),
    "10**5000": lambda: 10**5000, "0.0": lambda: 0.0, "1.5": lambda: 1.5, "-2.5": lambda: -2.5, "1e308": lambda: 1e308,
    "1e-320": lambda: 1e-320, "nan": lambda: float("nan"), "inf": lambda: float("inf"), "-inf": lambda: -float("inf"),
    "float32 nan": lambda: np.float32("nan"), "float16": lambda: np.float16(2), "int8": lambda: np.int8(3),
    "bool_": lambda: np.bool_(True), "fraction": lambda: fractions.Fraction(1, 3), "[]": list, "()": tuple,
    "[[]]": lambda: [[]], "[1]": lambda: [1], "[0.5]": lambda: [0.5], "[nan]": lambda: [float("nan")],
    "[2**64]": lambda: [2**64], "[10**400]": lambda: [10**400], "[-1, 5]": lambda: [-1, 5], "range": lambda: range(3),
    "0-d": lambda: np.array(1.0), "0-d int": lambda: np.array(2), "0-d nan": lambda: np.array(float("nan")),
    "empty": lambda: np.empty(0), "no rows": lambda: np.empty((2, 0, 3)), "(1,)": lambda: np.ones(1),
    "(3,)": lambda: np.ones(3), "(2, 3)": lambda: np.ones((2, 3)), "(1,)*9": lambda: np.ones((1,) * 9),
    "(7, 1, 5)": lambda: np.ones((7, 1, 5)), "float16 array": lambda: np.ones((2, 3), dtype=np.float16),
    "longdouble": lambda: np.ones(3, dtype=np.longdouble), "ints": lambda: np.arange(3),
    "int8 array": lambda: np.arange(3, dtype=np.int8), "negative": lambda: np.array([-5, 2]),
    "uint64": lambda: np.array([2**64 - 1], dtype=np.uint64), "bools": lambda: np.ones((2, 3), dtype=bool),
    "infinite": lambda: np.array([np.inf, np.nan]), "huge": lambda: np.array([1e308, -1e308]),
    "rule": masks.causal, "rule with data": lambda: masks.padding(np.array([1, 2, 3])), "rope": heads.Rope,
}  # fmt: skip
HOSTILE = NO_NUMBERS | NUMBERS


def _takes_nothing():
    return None


# --- what is nonsense for which kind of argument --------------------------------------------------------------------
# `None` and the words of a choice are left to the function; nonsense is what may never be taken.

_NO_SCALAR = {name for name in NUMBERS if name.startswith(("[", "(", "true", "False", "True", "bool"))} | {
    "range", "empty", "no rows", "float16 array", "longdouble", "ints", "int8 array", "negative", "uint64", "bools",
    "infinite", "huge", "rule", "rule with data", "rope", "nan", "inf", "-inf", "float32 nan", "0-d nan", "10**400",
    "-10**400", "10**5000",
}  # fmt: skip
_FRACTIONS = {"0.0", "1.5", "-2.5", "1e308", "1e-320", "float16", "fraction", "0-d"}
_NOT_NONE = set(NO_NUMBERS) - {"None"}
_NO_FLOATS = {name for name in NUMBERS if name not in ("0-d", "0-d nan", "empty", "no rows", "float16", "float32 nan",
    "(1,)", "(3,)", "(2, 3)", "(1,)*9", "(7, 1, 5)", "float16 array", "infinite", "huge")}  # fmt: skip
_NO_INTEGERS = _FRACTIONS | {"[0.5]", "[nan]", "[2**64]", "[10**400]", "nan", "inf", "-inf", "float32 nan", "True",
    "False", "bool_", "2**63", "-2**64", "10**400", "-10**400", "10**5000", "0-d nan", "(1,)", "(3,)", "(2, 3)", "(1,)*9",
    "(7, 1, 5)", "float16 array", "longdouble", "bools", "uint64", "infinite", "huge", "rule", "rule with data", "rope",
}  # fmt: skip

NONSENSE = {
    "scalar": _NOT_NONE | _NO_SCALAR,
    "integer": _NOT_NONE | _NO_SCALAR | _FRACTIONS | {"2**63", "-2**64"},
    "reach": _NOT_NONE | _NO_SCALAR | _FRACTIONS,
    "flag": set(HOSTILE) - {"True", "False", "bool_"},
    "array": _NOT_NONE | _NO_FLOATS,
    "bools": _NOT_NONE | (set(NUMBERS) - {"bools", "bool_"}),
    "mask": (_NOT_NONE | set(NUMBERS)) - {"bools", "bool_", "rule", "rule with data"},
    "integers": _NOT_NONE | _NO_INTEGERS,
    "reals": _NOT_NONE | (_NO_INTEGERS - _FRACTIONS - {"[0.5]", "(1,)", "(3,)", "(2, 3)", "(1,)*9", "(7, 1, 5)",
        "float16 array", "longdouble", "huge"}) | {"10**400"},
    "word": (_NOT_NONE - {"'junk'"}) | set(NUMBERS) | {"'junk'"},
    "params": (_NOT_NONE | set(NUMBERS)) - {"params", "other params"},
    "function": (_NOT_NONE | set(NUMBERS)) - {"rope"},
    "pair": (_NOT_NONE | set(NUMBERS)),
    "list": (_NOT_NONE | set(NUMBERS)) - {"[]", "()", "[1]", "[-1, 5]", "range", "[[]]"},
    "list of reals": _NOT_NONE - {"list of bools", "memory"},
    "any": set(),
}  # fmt: skip
REQUIRED = {"None"}

_KINDS = {
    "scalar": "scale softcap eps qk_norm_eps base rope_base rate",
    "integer": "n m d heads kv_heads dim rotary_dim offset buckets max_distance encoder_layers decoder_layers q_tile k_tile"
    " fast_memory tokens layers head_dim value_dim itemsize window first recent page_size bits group residual latent_dim"
    " rope_dim prefix every dilation size before after stride summary capacity slack pages batch queries length",
    "reach": "left right",
    "flag": "return_lse unit_offset bidirectional absorbed",
    "array": "x q k v bias sinks gamma beta out_a out_b lse_a lse_b d_out d_lse out lse x_q x_kv cos sin table slopes packed"
    " w b like zero latents rope_keys",
    "bools": "where",
    "mask": "mask",
    "integers": "q_positions k_positions parents ids k_ids q_offsets k_offsets indices places lengths starts codes relative",
    "word": "layout part order approximate gate_order cache",
    "params": "params",
    "pair": "dropout",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}


class Call(NamedTuple):
    """A valid call, and which values of which argument may never be taken."""

    name: str
    function: Callable
    given: dict[str, Any]
    kinds: Mapping[str, str] = MappingProxyType(
        {}
    )  # where they differ from those that the names of arguments have everywhere

    def kind(self, argument):
        return self.kinds.get(argument, _KIND_OF.get(argument, "any"))


# --- valid calls ----------------------------------------------------------------------------------------------------

_OPTIONS = {  # options that drawn calls leave out
    "attention": {"dropout": None, "softcap": None, "sinks": None, "bias": None, "scale": None, "mask": None,
                  "q_positions": None, "k_positions": None},
}  # fmt: skip
_KINDS_OF = {
    "rope": {"positions": "reals"}, "rope_vjp": {"positions": "reals"}, "sinusoidal": {"positions": "reals"},
    "learned_positions": {"positions": "integers"}, "latent.latents_of": {"positions": "integers"},
    "latent.multi_head_latent_attention": {"positions": "integers", "cache": "params"},
    "cache.decode": {"positions": "word", "blocks": "list"}, "cache.dequantize": {"scale": "array"},
    "packed_attention": {"bias": "function"}, "gradients.checkpoint_vjp": {"blocks": "list"},
    "testing.round_to": {"x": "list of reals", "fmt": "word"},
}  # fmt: skip


def calls(seed) -> list[Call]:
    """A valid call of every public function."""
    d = Draw(Seeded(seed))
    found = []
    for name, subject in subjects().items():
        given = subject.random(d)
        function = _named(name)
        if name == "Mask.dense":
            function = given.pop("self").dense
        for option in ("scale", "softcap", "dropout", "bias", "sinks", "mask", "q_positions", "k_positions", "return_lse",
                       "eps", "rope", "kv_heads", "q_tile", "k_tile", "progress", "d_lse", "out", "lse", "rotary_dim",
                       "base", "scaling", "where", "beta", "unit_offset"):  # fmt: skip
            if option not in given and option in _parameters(function):
                given[option] = _plain(function).__kwdefaults__.get(option)
        found.append(Call(name, function, given, _KINDS_OF.get(name, {})))
    return found + _rules(d) + _caches(d) + _others(d)


def _parameters(function):
    function = _plain(function)
    return (getattr(function, "__kwdefaults__", None) or {}).keys() & set(function.__code__.co_varnames)


def _plain(function):
    """The function itself, where a decorator stands before it."""
    return getattr(function, "__wrapped__", function)


def _named(name):
    found: Any = refattn
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _rules(d):
    """The functions that make masks, each asked for a dense form; and a rule's methods."""
    given = {
        "window": {"left": 2, "right": 0}, "dilated": {"left": 2, "right": 1, "dilation": 2}, "block": {"size": 2},
        "neighbours": {"size": 2, "before": 1, "after": 0}, "chunked": {"size": 3}, "strided": {"stride": 2},
        "fixed": {"stride": 3, "summary": 1}, "global_tokens": {"tokens": [1]}, "prefix": {"lengths": 2},
        "padding": {"lengths": 2, "starts": 1}, "documents": {"ids": [0] * 9, "k_ids": [0] * 9},
        "tree": {"parents": [-1] * 9, "prefix": 0},
    }  # fmt: skip

    def dense(name):
        return lambda **options: getattr(masks, name)(**options).dense(3, 4)

    rule = masks.causal() & masks.padding(3)
    return [
        *(Call(f"masks.{name}", dense(name), options, {"tokens": "integers"}) for name, options in given.items()),
        Call("Mask.block", rule.block, {"q_positions": [1, 2], "k_positions": np.arange(3), "like": None}, {"like": "any"}),
        Call("Mask.admits", rule.admits, {"i": np.ones((2, 1), dtype=np.int64), "j": np.ones((1, 3), dtype=np.int64)},
             {"i": "integers", "j": "integers"}),
        Call("Mask.rewritten", rule.rewritten, {"change": lambda part: part}, {"change": "function"}),
        Call("Mask.with_arguments", masks.padding(3).with_arguments, {"lengths": 2}),
        Call("Mask", lambda rule: masks.Mask(rule).dense(2, 2), {"rule": lambda i, j: i >= j}, {"rule": "function"}),
    ]  # fmt: skip


def _caches(d):
    """The caches and their methods, on a cache that holds something."""
    k, v = d.normal(2, 1, 3, 4), d.normal(2, 1, 3, 4)
    new = {"k": d.normal(2, 1, 2, 4), "v": d.normal(2, 1, 2, 4)}

    def pool():
        return cache.PagePool(20, 2, 1, 4, like=k)

    makers = {
        "KVCache": (cache.KVCache, {"capacity": 9}), "RollingKVCache": (cache.RollingKVCache, {"window": 3, "slack": 1}),
        "SinkKVCache": (cache.SinkKVCache, {"first": 1, "recent": 3, "positions": "cache", "slack": 2}),
        "PagedKVCache": (cache.PagedKVCache, {"pool": pool(), "batch": 2}),
        "QuantizedKVCache": (cache.QuantizedKVCache, {"bits": 4, "group": 2, "residual": 8}),
        "LatentKVCache": (cache.LatentKVCache, {"capacity": 9}),
    }  # fmt: skip
    found = [
        Call("PagePool", cache.PagePool, {"pages": 3, "page_size": 2, "kv_heads": 1, "head_dim": 4, "value_dim": 4, "like": None}),
        Call("PagePool.release", lambda page: _released(pool(), page), {"page": 0}, {"page": "integer"}),
        Call("PagePool.copy", lambda page: _copied(pool(), page), {"page": 0}, {"page": "integer"}),
        Call("CrossKVCache", cache.CrossKVCache, {"k": k, "v": v}),
        Call("CrossKVCache.read", cache.CrossKVCache(k, v).read, {"queries": 2}),
        Call("KVCache.keep", lambda places: _filled(cache.KVCache(), k, v).keep(places), {"places": [0, 2]}),
        Call("HeldLatents", lambda **g: cache.HeldLatents(**g).append(new["k"], new["v"]), {"latents": k, "rope_keys": v}),
        Call("HeldLatents.append", cache.HeldLatents(k, v).append, {"latents": new["k"], "rope_keys": new["v"]}),
    ]  # fmt: skip
    for name, (maker, options) in makers.items():

        def made(maker=maker, options=options):
            return _filled(maker(**{**options, **({"pool": pool()} if "pool" in options else {})}), k, v)

        def appended(made=made, **given):
            return made().append(**given)

        names = {"k": "latents", "v": "rope_keys"} if name == "LatentKVCache" else {"k": "k", "v": "v"}
        found += [
            Call(name, maker if name == "PagedKVCache" else lambda maker=maker, **given: _filled(maker(**given), k, v), options,
                 {"pool": "params", "positions": "word"}),
            Call(f"{name}.append", appended, {names[key]: x for key, x in new.items()}),
            Call(f"{name}.truncate", lambda length, made=made: made().truncate(length), {"length": 2}),
            Call(f"{name}.reorder", lambda indices, made=made: made().reorder(indices), {"indices": [1, 0]}),
        ]  # fmt: skip
    return found


def _filled(made, k, v):
    made.append(k, v)
    return made


def _released(pool, page):
    pool.take()
    pool.release(page)


def _copied(pool, page):
    pool.take()
    return pool.copy(page)


def _others(d):
    """What no generator draws: multi-query forms, scalings, packed weights, the kit."""
    x = d.normal(3, 4)
    q, kv = d.normal(2, 3, 4), d.normal(5, 4)
    w = heads.PackedMultiHeadParams(d.normal(4, 12), d.normal(4, 4))
    factors = [1.0, 2.0]
    scalings = {
        "Linear": {"factor": 2.0}, "NTK": {"factor": 2.0},
        "DynamicNTK": {"factor": 2.0, "original_length": 64, "length": 100},
        "YaRN": {"factor": 2.0, "original_length": 64, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": None,
                 "mscale": 1.0, "mscale_all_dim": 0.0, "truncate": True},
        "Llama3": {"factor": 2.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0, "original_length": 64},
        "LongRoPE": {"short_factors": factors, "long_factors": factors, "original_length": 64, "maximum_length": 128,
                     "length": 100, "attention_factor": None},
    }  # fmt: skip
    fields = {
        "factor": "scalar", "original_length": "integer", "length": "integer", "maximum_length": "integer",
        "beta_fast": "scalar", "beta_slow": "scalar", "attention_factor": "scalar", "mscale": "scalar",
        "mscale_all_dim": "scalar", "truncate": "flag", "low_frequency_factor": "scalar", "high_frequency_factor": "scalar",
    }  # fmt: skip

    def scaled(name):
        return lambda **given: positions.rope_frequencies(4, scaling=getattr(positions, name)(**given))

    weights = {
        "feed_forward": (refattn.FeedForwardParams(d.normal(4, 6), d.normal(6), d.normal(6, 4), d.normal(4)), {}),
        "gated_feed_forward": (refattn.GatedFeedForwardParams(d.normal(4, 6), d.normal(4, 6), d.normal(6, 4), d.normal(6)), {}),
        "multi_head_attention": (refattn.MultiHeadParams(*(d.normal(4, 4) for _ in range(4)), b_q=d.normal(4), q_norm=d.normal(2),
                                                         k_norm=d.normal(2)), {"heads": 2}),
    }  # fmt: skip
    mla = latent.MultiHeadLatentParams(d.normal(4, 8), d.normal(6), d.normal(6, 20), d.normal(8, 4), d.normal(4, 20))

    def with_weights(name, p, options, vjp=False):
        function = getattr(refattn, f"{name}_vjp" if vjp else name)
        inputs = {"x_q": x, "x_kv": None} if name == "multi_head_attention" else {"x": x}
        inputs |= {"d_out": x} if vjp else {}
        return lambda **given: function(**inputs, params=p._replace(**given), **options)

    known = dict.fromkeys((*refattn.MultiHeadParams._fields, *refattn.GatedFeedForwardParams._fields, *mla._fields, "w_in", "b_in",
                           "w_qkv", "b_qkv"), "array")  # fmt: skip
    found = [
        *(Call(f"positions.{name}", scaled(name), given, fields) for name, given in scalings.items()),
        *(Call(f"{name} weights{' vjp' if vjp else ''}", with_weights(name, p, options, vjp), dict(p._asdict()), known)
          for name, (p, options) in weights.items() for vjp in (False, True)),
        Call("mla weights", lambda **given: latent.multi_head_latent_attention(x, mla._replace(**given), heads=4), dict(mla._asdict()), known),
        Call("unpack", lambda heads, kv_heads, **given: w._replace(**given).unpack(heads, kv_heads),
             {"heads": 2, "kv_heads": 2, **w._asdict()}, known),
        Call("multi_query_attention", refattn.multi_query_attention, {"q": q, "k": kv, "v": kv, "mask": None, "scale": None, "return_lse": False}),
        Call("multi_query_attention_vjp", refattn.multi_query_attention_vjp, {"d_out": q, "q": q, "k": kv, "v": kv, "mask": None, "scale": None}),
        Call("attention_stages", refattn.attention_stages, {"q": x, "k": x, "v": x, "mask": None, "scale": 1.0, "bias": None}),
        Call("Rope", lambda **given: heads.Rope(**given)(x, np.arange(3)), {"base": 10.0, "layout": "half", "rotary_dim": 4, "scaling": None},
             {"scaling": "params"}),
        Call("scaling_from_config", positions.scaling_from_config,
             {"config": {"rope_type": "dynamic", "factor": 4.0, "original_length": 64}, "length": 100}, {"config": "params"}),
        Call("scaling dict", lambda **given: positions.rope_frequencies(4, scaling={"rope_type": "linear", **given}), {"factor": 2.0},
             {"factor": "scalar"}),
        Call("checkpoint", gradients.checkpoint, {"x": x, "blocks": ["tanh", gradients.Block("layer_norm", {"gamma": None})], "every": 1},
             {"blocks": "list"}),
        Call("checkpoint block", lambda **given: gradients.checkpoint(x, [gradients.Block(**given)]),
             {"function": "tanh", "arguments": {}, "vjp": None}, {"function": "word", "vjp": "any"}),
        Call("identity", refattn.feedforward.identity, {"x": x}),
        Call("gelu_tanh", refattn.feedforward.gelu_tanh, {"x": x}),
        Call("mha rope", lambda **given: refattn.multi_head_attention(x, None, weights["multi_head_attention"][0], heads=2, **given), {"rope": None}),
        Call("mha options", lambda **given: refattn.multi_head_attention_vjp(x, x, None, weights["multi_head_attention"][0], heads=2, **given),
             {"rope_vjp": None, "qk_norm_eps": 1e-6}),
        Call("backend.number", lambda value: backend.number("value", value), {"value": 1.0}, {"value": "scalar"}),
        Call("backend.integer", lambda value: backend.integer("value", value), {"value": 1}, {"value": "integer"}),
        Call("testing.bound", lambda **given: testing.bound("attention", testing.PROFILES["float32"], **given), {"q": x, "k": x, "v": x, "scale": 1.0}),
        Call("testing.tolerance", lambda **given: testing.tolerance("softmax", **given), {"x": x, "axis": -1, "precision": "float32"}, {"x": "list of reals", "precision": "word"}),
        Call("testing.profile", testing.profile, {"precision": "float32"}, {"x": "list of reals", "precision": "word"}),
        Call("testing.round_to", testing.round_to, {"x": x, "fmt": FORMATS["float16"]}, {"x": "list of reals", "fmt": "word"}),
        Call("testing.from_bits", testing.from_bits, {"bits": np.zeros(2, dtype=np.uint16), "fmt": "bfloat16"}, {"bits": "any", "fmt": "word"}),
    ]  # fmt: skip
    return found


# --- running them ---------------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """A call that did not end as it must."""

    call: str
    argument: str
    value: str
    what: str

    def __str__(self):
        return f"{self.call}({self.argument}={self.value}): {self.what}"


def judged(call: Call, replaced: dict[str, str]) -> Finding | None:
    """Make a call with hostile values in place of some arguments."""
    fitting = any(value not in NONSENSE[call.kind(name)] for name, value in replaced.items())
    named = call.given if fitting else replaced  # what is right by itself may be wrong by what it has to fit
    anything = _of_callers_function(replaced)
    what = _end(call, {name: HOSTILE[value]() for name, value in replaced.items()}, None if anything else named)
    if what == "returns":
        wrong = [name for name, value in replaced.items() if value in NONSENSE[call.kind(name)]]
        what = f"taken: {', '.join(wrong)}" if wrong else None
    return Finding(call.name, " and ".join(replaced), " and ".join(replaced.values()), what) if what else None


def judged_shape(call: Call, what: str, arrays: dict[str, np.ndarray]) -> Finding | None:
    """Make a call with arrays of other shapes, which may be right or be refused."""
    end = _end(call, arrays, {*call.given, "d_out", "parents", "ids"})  # of calls of weights alone, and of rules
    shapes = ", ".join(str(x.shape) for x in arrays.values())
    return None if end in ("returns", None) else Finding(call.name, what, shapes, end)


def _end(call, replaced, named):
    """How a call ends, None if by an error that names an argument: one of these, or any error's words where they are None."""
    given = {name: x if callable(x) else copy.copy(x) for name, x in call.given.items()}
    try:
        with warnings.catch_warnings(), _at_most(SECONDS):
            warnings.simplefilter("error")
            call.function(**given | replaced)
    except (ValueError, TypeError) as error:
        if named is None or any(_names(str(error), name) for name in named):
            return None
        return f"unnamed {type(error).__name__}: {str(error)[:150]}"
    except Exception as error:
        return f"{type(error).__name__}: {_text(error)}"
    return "returns"


SECONDS = 3


class TooLong(Exception):
    """A call that does not end."""


@contextlib.contextmanager
def _at_most(seconds):
    """Interrupt what takes longer, where signals can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(*_):
        raise TooLong(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _text(error):
    try:
        return str(error)[:150]
    except (RecursionError, ValueError):
        return "an error that cannot be read"


def _names(message, name):
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", message) is not None


def _of_callers_function(replaced):
    """Whether a function of the caller's is called, whose errors are its own."""
    return any(value in ("rope", "function", "type") for value in replaced.values())


def singles(seed) -> list[tuple[Call, dict[str, str]]]:
    """Every argument of every call with every hostile value."""
    return [(call, {name: value}) for call in calls(seed) for name in call.given for value in HOSTILE]


def reshaped(call: Call) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The arrays of a call with an axis emptied, cut to one, one longer, gone or new; then an axis of all emptied at once."""
    arrays = {name: x for name, x in call.given.items() if isinstance(x, np.ndarray)}
    for name, x in arrays.items():
        for axis in range(x.ndim):
            yield f"{name}, axis {axis} empty", {name: np.take(x, [], axis=axis)}
            if x.shape[axis]:
                first = np.take(x, [0], axis=axis)
                yield f"{name}, axis {axis} cut", {name: first}
                yield f"{name}, axis {axis} longer", {name: np.concatenate([x, first], axis)}
                yield f"{name}, axis {axis} gone", {name: first.squeeze(axis)}
        yield f"{name}, an axis more", {name: np.stack([x, x])}
        yield f"{name}, an empty axis more", {name: np.stack([x])[:0]}
    for axis in range(-4, 0):
        empty = {name: np.take(x, [], axis=axis) for name, x in arrays.items() if x.ndim >= -axis}
        if empty:
            yield f"all, axis {axis} empty", empty


def shapes(seed) -> list[Finding]:
    """Every public function with arrays of shapes that do not belong together, or of nothing."""
    made = (judged_shape(call, what, arrays) for call in calls(seed) for what, arrays in reshaped(call))
    return [finding for finding in made if finding]


def fuzz(seed, number) -> list[Finding]:
    """So many hostile calls: all single replacements in random order, then pairs, from base calls that change."""
    rng = np.random.default_rng(seed)
    found: list[Finding] = []
    made = 0
    for round_ in itertools.count():
        known = calls(seed * 1000 + round_)
        todo = [(call, {name: value}) for call in known for name in call.given for value in HOSTILE]
        todo = [todo[n] for n in rng.permutation(len(todo))]
        for _ in range(len(todo) // 2):
            call = known[rng.integers(len(known))]
            if len(call.given) > 1:
                names = rng.choice(list(call.given), size=2, replace=False)
                todo.append((call, {str(name): str(rng.choice(list(HOSTILE))) for name in names}))
        for call, replaced in todo[: number - made]:
            found += [finding] if (finding := judged(call, replaced)) else []
        made += len(todo)
        if made >= number:
            return found


def main():
    parser = argparse.ArgumentParser(description="Hostile calls of every public function.")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = fuzz(given.seed, given.calls) + shapes(given.seed)
    seen: Counter[tuple] = Counter()
    for finding in found:
        key = finding.call, finding.argument, finding.what[:60]
        seen[key] += 1
        if seen[key] == 1:
            print(finding)
    print(f"{given.calls} calls, {len(found)} findings, {len(seen)} different")


if __name__ == "__main__":
    main()
