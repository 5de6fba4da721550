"""LayerNorm, RMSNorm and DeepNorm's constants, for one row of numbers."""

from math import prod

from ..exact import Tensor, exact, indices, mp, mpf, tensor


def layer_norm_row(x, gamma, beta, eps):
    x = [exact(value) for value in x]
    mean = mp.fsum(x) / len(x)
    variance = mp.fsum((value - mean) ** 2 for value in x) / len(x)
    return [
        (value - mean) / mp.sqrt(variance + exact(eps)) * exact(g) + exact(b)
        for value, g, b in zip(x, gamma, beta, strict=True)
    ]


def rms_norm_row(x, gamma, beta, eps):
    x = [exact(value) for value in x]
    mean_square = mp.fsum(value**2 for value in x) / len(x)
    return [
        value / mp.sqrt(mean_square + exact(eps)) * exact(g) + b for value, g, b in zip(x, gamma, beta, strict=True)
    ]


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


def layer_norm_row_by_differences(x, gamma, beta, eps):
    """Only differences of entries: the mean never appears."""
    n = len(x)
    apart = [[exact(a) - exact(b) for b in x] for a in x]
    spread = mp.fsum(d**2 for row in apart for d in row) / 2 + n * n * exact(eps)  # n² (variance + eps)
    return [mp.fsum(row) / mp.sqrt(spread) * exact(g) + exact(b) for row, g, b in zip(apart, gamma, beta, strict=True)]


def rms_norm_row_by_length(x, gamma, beta, eps):
    """The row on a sphere of radius √n, after a coordinate √(n eps) was added to it."""
    n = len(x)
    length = mp.norm([*(exact(value) for value in x), mp.sqrt(n * exact(eps))])
    return [mp.sqrt(n) * exact(value) / length * exact(g) + b for value, g, b in zip(x, gamma, beta, strict=True)]


def constants_by_logarithms(part, n, m):
    if n and m and part == "encoder":
        depth = (4 * mp.log(n) + mp.log(m)) / 16
        return mp.exp(depth) * 81 / 100, mp.exp(-depth) * 87 / 100
    own = n if part == "encoder" else m
    inner, outer = (mpf(3), mpf(12)) if n and m else (mpf(2), mpf(8))
    return mp.exp(mp.log(inner * own) / 4), mp.exp(-mp.log(outer * own) / 4)


# --- over any axes --------------------------------------------------------------------------------------------------


def _over(row):
    """The row function over the normalised axes, for every index of the others."""

    def over(x, gamma, beta=None, eps=None, axis=-1, unit_offset=False):
        axes = [n % len(x.shape) for n in (axis if isinstance(axis, list) else [axis])]
        inner = [x.shape[n] for n in axes]
        size = prod(inner)
        gamma = [mpf(1)] * size if gamma is None else [exact(g) + (1 if unit_offset else 0) for g in gamma.data]
        beta = [mpf(0)] * size if beta is None else beta.data
        values = dict(zip(indices(x.shape), x.data, strict=True))
        result = {}
        for outer in indices([1 if n in axes else length for n, length in enumerate(x.shape)]):
            places = []
            for index in indices(inner):
                place = list(outer)
                for n, i in zip(axes, index, strict=True):
                    place[n] = i
                places.append(tuple(place))
            result.update(zip(places, row([values[p] for p in places], gamma, beta, eps), strict=True))
        return {"out": Tensor(x.shape, [result[index] for index in indices(x.shape)])}

    return over


def _with_eps(over, default):
    def function(**arguments):
        return over(**{"eps": default, **arguments})

    return function


def _constants(function):
    def over(part, encoder_layers=0, decoder_layers=0):
        alpha, beta = function(part, encoder_layers, decoder_layers)
        return {"alpha": tensor(alpha), "beta": tensor(beta)}

    return over


FUNCTIONS = {
    "layer_norm": _with_eps(_over(layer_norm_row), mpf("1e-5")),
    "rms_norm": _with_eps(_over(rms_norm_row), mpf("1e-6")),
    "deepnorm_constants": _constants(constants),
}
SECOND = {
    "layer_norm": _with_eps(_over(layer_norm_row_by_differences), mpf("1e-5")),
    "rms_norm": _with_eps(_over(rms_norm_row_by_length), mpf("1e-6")),
    "deepnorm_constants": _constants(constants_by_logarithms),
}
