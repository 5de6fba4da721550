"""LayerNorm, RMSNorm and DeepNorm's constants."""

from math import prod

from ..exact import exact, lift, mean, mp, mpf, sqrt, tensor


def layer_norm(x, gamma, beta, eps):
    apart = x - mean(x)
    return apart / sqrt(mean(apart * apart) + eps) * gamma + beta


def rms_norm(x, gamma, eps):
    return x / sqrt(mean(x * x) + eps) * gamma


def constants(part, n, m):
    if not m:
        return root(2 * n, 4), 1 / root(8 * n, 4)
    if not n:
        return root(2 * m, 4), 1 / root(8 * m, 4)
    if part == "decoder":
        return root(3 * m, 4), 1 / root(12 * m, 4)
    return mpf("0.81") * root(n**4 * m, 16), mpf("0.87") / root(n**4 * m, 16)


def root(x, degree):
    return mp.root(x, degree)


# --- a second formulation of each, which must agree before a vector is written --------------------------------------


def layer_norm_by_differences(x, gamma, beta, eps):
    """Only differences of entries: the mean never appears."""

    def row(x):
        n = len(x)
        apart = [[exact(a) - exact(b) for b in x] for a in x]
        spread = mp.fsum(d**2 for row in apart for d in row) / 2 + n * n * exact(eps)  # n² (variance + eps)
        return [mp.fsum(row) / mp.sqrt(spread) for row in apart]

    return lift(row, (1,), x) * gamma + beta


def rms_norm_by_length(x, gamma, eps):
    """The row on a sphere of radius √n, after a coordinate √(n eps) was added to it."""

    def row(x):
        n = len(x)
        length = mp.norm([*(exact(value) for value in x), mp.sqrt(n * exact(eps))])
        return [mp.sqrt(n) * exact(value) / length for value in x]

    return lift(row, (1,), x) * gamma


def constants_by_logarithms(part, n, m):
    if n and m and part == "encoder":
        depth = (4 * mp.log(n) + mp.log(m)) / 16
        return mp.exp(depth) * 81 / 100, mp.exp(-depth) * 87 / 100
    own = n if part == "encoder" else m
    inner, outer = (mpf(3), mpf(12)) if n and m else (mpf(2), mpf(8))
    return mp.exp(mp.log(inner * own) / 4), mp.exp(-mp.log(outer * own) / 4)


# --- over any axes --------------------------------------------------------------------------------------------------


def _over(norm, default):
    """The norm over the axes that are asked for, as one that comes last."""

    def over(x, gamma, beta=None, eps=default, axis=-1, unit_offset=False):
        axes = [n % len(x.shape) for n in (axis if isinstance(axis, list) else [axis])]
        order = [n for n in range(len(x.shape)) if n not in axes] + axes
        size = prod(x.shape[n] for n in axes)
        rows = x.transposed(order)
        flat = rows.reshaped(*rows.shape[: -len(axes)], size)
        gamma = tensor([1] * size) if gamma is None else gamma.reshaped(size) + int(unit_offset)
        beta = 0 if beta is None else beta.reshaped(size)
        out = norm(flat, gamma, beta, eps).reshaped(*rows.shape)
        return {"out": out.transposed([order.index(n) for n in range(len(order))])}

    return over


def _without_offset(norm):
    return lambda x, gamma, beta, eps: norm(x, gamma, eps)


def _constants(function):
    def over(part, encoder_layers=0, decoder_layers=0):
        alpha, beta = function(part, encoder_layers, decoder_layers)
        return {"alpha": tensor(alpha), "beta": tensor(beta)}

    return over


FUNCTIONS = {
    "layer_norm": _over(layer_norm, mpf("1e-5")),
    "rms_norm": _over(_without_offset(rms_norm), mpf("1e-6")),
    "deepnorm_constants": _constants(constants),
}
SECOND = {
    "layer_norm": _over(layer_norm_by_differences, mpf("1e-5")),
    "rms_norm": _over(_without_offset(rms_norm_by_length), mpf("1e-6")),
    "deepnorm_constants": _constants(constants_by_logarithms),
}
