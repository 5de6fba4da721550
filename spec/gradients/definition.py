"""A gradient is the derivative of a definition: here by differences of the definitions, number by number.

At 300 digits and with steps of 2^-216 a difference is the derivative to 60 digits, however small it is beside the
function, down to 1e-170 of it. The steps go down, so that a kink has its derivative from the left (that of relu at 0
is 0). `closed.py` has the same derivatives as formulas.
"""

from ..attention.definition import FUNCTIONS as ATTENTION
from ..attention.definition import dense_mask as dense_mask_of_attention
from ..exact import Tensor, exact, inf, isinf, isnan, mp, mpf
from ..feedforward.definition import ACTIVATIONS, linear
from ..feedforward.definition import FUNCTIONS as FEEDFORWARD
from ..heads.definition import FUNCTIONS as HEADS
from ..heads.definition import dense_mask as dense_mask_of_heads
from ..heads.definition import unpacked
from ..norms.definition import FUNCTIONS as NORMS
from ..positions.definition import FUNCTIONS as POSITIONS
from ..softmax.definition import FUNCTIONS as SOFTMAX
from . import closed

DIGITS = 300
STEP = mpf(2) ** -216


def differentiated(function, inputs, cotangents=None):
    """The vector-Jacobian product of a definition: Σ over its results of cotangent times change, for every number.

    `inputs` are the arguments that are differentiated; `cotangents` says which argument weighs which result.
    """
    cotangents = cotangents or {"d_out": "out"}

    def vjp(**arguments):
        weights = {result: arguments.pop(name, None) for name, result in cotangents.items()}
        with mp.workdps(DIGITS):
            results = function(**arguments)
            return {
                path: Tensor(shape, [derivative(function, arguments, path, n, results, weights) for n in range(size)])
                for path, shape, size in numbers(arguments, inputs)
            }

    return vjp


def derivative(function, arguments, path, n, results, weights):
    """Of the weighted sum of the results, by one number; by infinity or NaN (excluded entries) it is 0."""
    x = number(arguments, path, n)
    if isinf(x) or isnan(x):
        return mpf(0)
    before = function(**replaced(arguments, path, n, exact(x) - STEP))
    return mp.fsum(
        exact(w) * (b - a) / STEP
        for name, weight in weights.items()
        if weight is not None
        for w, b, a in zip(weight.data, results[name].data, before[name].data, strict=True)
        if a != b  # a result that does not change counts for nothing, whatever its cotangent holds
    )


# --- the numbers among the arguments --------------------------------------------------------------------------------


def numbers(arguments, inputs):
    """The path, shape and size of every argument that is differentiated; 'params.w_in' is one of a parameter set."""
    for name in inputs:
        value = arguments.get(name)
        fields = {name: value}
        if isinstance(value, dict):
            fields = {f"{name}.{field}": x for field, x in value["fields"].items()}
        for path, x in fields.items():
            if isinstance(x, Tensor):
                yield path, x.shape, len(x.data)
            elif x is not None:
                yield path, (), 1


def number(arguments, path, n):
    name, _, field = path.partition(".")
    value = arguments[name]["fields"][field] if field else arguments[name]
    return value.data[n] if isinstance(value, Tensor) else value


def replaced(arguments, path, n, x):
    """The arguments with one number replaced."""
    name, _, field = path.partition(".")
    if field:
        fields = replaced(arguments[name]["fields"], field, n, x)
        return {**arguments, name: {**arguments[name], "fields": fields}}
    value = arguments[name]
    if isinstance(value, Tensor):
        x = Tensor(value.shape, [*value.data[:n], x, *value.data[n + 1 :]])
    return {**arguments, name: x}


# --- what is differentiated -----------------------------------------------------------------------------------------

OF_ATTENTION = ("q", "k", "v", "bias", "sinks", "scale")
OF_HEADS = ("x_q", "x_kv", "params", "bias", "sinks", "scale")


def with_scale(vjp, size):
    """The scale as an argument of its own, also where it is the default."""

    def call(scale=None, **arguments):
        with mp.workdps(DIGITS):
            scale = 1 / mp.sqrt(size(arguments)) if scale is None else scale
        return vjp(scale=scale, **arguments)

    return call


def size_of_query(arguments):
    return arguments["q"].shape[-1]


def size_of_head(arguments):
    heads = arguments["heads"]
    fields = unpacked(arguments["params"], heads, arguments.get("kv_heads") or heads)
    return fields["w_q"].shape[1] // heads


def with_lse(function):
    return lambda **arguments: function(return_lse=True, **arguments)


def of_attention(function):
    vjp = differentiated(with_lse(function), OF_ATTENTION, {"d_out": "out", "d_lse": "lse"})
    return with_scale(vjp, size_of_query)


def chain(x, blocks, every=None):
    for name in blocks:
        x = ELEMENTARY[name](x)["out"]
    return {"out": x}


def elementwise(name):
    """The derivative at a number by differences; at infinity its limit."""

    def vjp(d_out, x, approximate=None):
        f = ACTIVATIONS[f"{name}_{approximate}" if approximate else name]
        limits = (mpf(0), mpf(0 if name in ("sigmoid", "tanh") else inf if name == "squared_relu" else 1))

        def slope(x):
            if isnan(x):
                return x
            return limits[x > 0] if isinf(x) else (f(exact(x)) - f(exact(x) - STEP)) / STEP

        with mp.workdps(DIGITS):
            return {"x": d_out * x.map(slope)}

    return vjp


ELEMENTARY = SOFTMAX | FEEDFORWARD
ACTIVATION_NAMES = ("relu", "gelu", "quick_gelu", "silu", "squared_relu", "softplus", "sigmoid", "tanh")


def dense_mask(**arguments):
    """The mask of attention or of its heads, by the arguments that are given."""
    return (dense_mask_of_heads if "x_q" in arguments else dense_mask_of_attention)(**arguments)


FUNCTIONS = {
    "attention_vjp": of_attention(ATTENTION["attention"]),
    "grouped_query_attention_vjp": of_attention(HEADS["grouped_query_attention"]),
    "multi_query_attention_vjp": of_attention(HEADS["multi_query_attention"]),
    "multi_head_attention_vjp": with_scale(differentiated(HEADS["multi_head_attention"], OF_HEADS), size_of_head),
    "softmax_vjp": differentiated(SOFTMAX["softmax"], ("x",)),
    "logsumexp_vjp": differentiated(SOFTMAX["logsumexp"], ("x",)),
    "merge_vjp": differentiated(
        SOFTMAX["merge"], ("out_a", "lse_a", "out_b", "lse_b"), {"d_out": "out", "d_lse": "lse"}
    ),
    "layer_norm_vjp": differentiated(NORMS["layer_norm"], ("x", "gamma", "beta")),
    "rms_norm_vjp": differentiated(NORMS["rms_norm"], ("x", "gamma")),
    "feed_forward_vjp": differentiated(FEEDFORWARD["feed_forward"], ("x", "params")),
    "gated_feed_forward_vjp": differentiated(FEEDFORWARD["gated_feed_forward"], ("x", "params")),
    "gradients.linear_vjp": differentiated(lambda **arguments: {"out": linear(**arguments)}, ("x", "w", "b")),
    "rope_vjp": differentiated(POSITIONS["rope"], ("x",)),
    "gradients.rotate_vjp": differentiated(POSITIONS["positions.rotate"], ("x", "cos", "sin")),
    "gradients.checkpoint_vjp": differentiated(chain, ("x",)),
    **{f"{name}_vjp": elementwise(name) for name in ACTIVATION_NAMES},
}
SECOND = closed.FUNCTIONS
