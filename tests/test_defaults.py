"""A default is part of the interface: another one is another number in somebody's model."""

import importlib
import inspect

MODULES = ("cache", "feedforward", "gradients", "heads", "latent", "masks", "norms", "positions", "softmax", "tiled")

DEFAULTS = {
    "cache.PagedKVCache": {"batch": 1},
    "cache.QuantizedKVCache": {"bits": 4, "group": 32, "residual": 128},  # as in KIVI
    "cache.RollingKVCache": {"slack": 0},
    "cache.SinkKVCache": {"slack": 0},
    "cache.cache_nbytes": {"layers": 1, "kv_heads": 1, "itemsize": 2},
    "cache.dequantize": {"axis": -1},
    "cache.quantize": {"axis": -1},
    "cache.tree_positions": {"prefix": 0},
    "gradients.layer_norm_vjp": {"eps": 1e-5, "axis": -1},
    "gradients.logsumexp_vjp": {"axis": -1},
    "gradients.rms_norm_vjp": {"eps": 1e-6, "axis": -1},
    "gradients.softmax_vjp": {"axis": -1},
    "heads.Rope": {"base": 10000.0},
    "latent.latents_of": {"eps": 1e-6},
    "latent.multi_head_latent_attention": {"eps": 1e-6},
    "masks.fixed": {"summary": 1},
    "masks.neighbours": {"before": 1, "after": 1},
    "masks.padding": {"starts": 0},
    "masks.tree": {"prefix": 0},
    "norms.deepnorm_constants": {"encoder_layers": 0, "decoder_layers": 0},
    "norms.layer_norm": {"eps": 1e-5, "axis": -1},
    "norms.rms_norm": {"eps": 1e-6, "axis": -1},
    "positions.YaRN": {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0},
    "positions.learned_positions": {"offset": 0},
    "positions.relative_position_bucket": {"buckets": 32, "max_distance": 128},
    "positions.rope": {"base": 10000.0},
    "positions.rope_frequencies": {"base": 10000.0},
    "positions.sinusoidal": {"base": 10000.0},
    "positions.t5_bias": {"max_distance": 128},
    "softmax.logsumexp": {"axis": -1},
    "softmax.softmax": {"axis": -1},
}


def _numbers():
    """Of each public function and class the defaults that are numbers."""
    for name in MODULES:
        for public, thing in vars(importlib.import_module(f"refattn.{name}")).items():
            error = isinstance(thing, type) and issubclass(thing, Exception)
            own = callable(thing) and getattr(thing, "__module__", "").startswith(f"refattn.{name}")
            if own and not error and not public.startswith("_"):
                given = inspect.signature(thing).parameters.values()
                yield f"{name}.{public}", {p.name: p.default for p in given if type(p.default) in (int, float)}


def test_the_numbers_that_nobody_need_give_are_these():
    assert {name: numbers for name, numbers in _numbers() if numbers} == DEFAULTS
