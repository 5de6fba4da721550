"""Derivatives by differences in float64, to hold the gradients against."""

import numpy as np

STEP = 2.0**-12


def along(function, arguments, name, direction):
    """The derivative of a scalar function of the arguments along a direction in one of them, to about 1e-10.

    `name` is that of an argument or, as 'params.w_in', of a field of one.
    """

    def at(t):
        moved = dict(arguments)
        first, _, field = name.partition(".")
        if field:
            moved[first] = moved[first]._replace(**{field: getattr(moved[first], field) + t * direction})
        else:
            moved[first] = moved[first] + t * direction
        return function(**moved)

    near, far = at(STEP) - at(-STEP), at(2 * STEP) - at(-2 * STEP)
    return (8 * near - far) / (12 * STEP)


def assert_derivative(function, arguments, gradients, seed, tolerance=1e-8):
    """Every gradient agrees with the derivative along a random direction, of a scalar function of the arguments."""
    rng = np.random.default_rng(seed)
    for name, gradient in gradients.items():
        direction = rng.normal(size=np.shape(gradient))
        want = along(function, arguments, name, direction if direction.shape else float(direction))
        size = 1.0 + np.sum(np.abs(gradient * direction))
        assert abs(np.sum(gradient * direction) - want) <= tolerance * size, name


def weighted(results, cotangents):
    """Σ cotangent · result over several results; where a cotangent is 0, an infinite result counts for nothing."""
    total = 0.0
    for result, cotangent in zip(results, cotangents, strict=True):
        if cotangent is not None:
            total = total + np.sum(cotangent * np.where(cotangent == 0, 0.0, result))
    return total
