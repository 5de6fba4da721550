"""Arguments that the golden cases of all sparse mechanisms have."""

from ..vectors import grid


def grouped(name, n=5, m=7):
    """Four query heads over two key/value heads; the numbers follow from the name."""
    return {
        "q": grid(f"{name} q", (4, n, 3), bits=5),
        "k": grid(f"{name} k", (2, m, 3), bits=6),
        "v": grid(f"{name} v", (2, m, 2), bits=5),
    }
