"""Gradient checkpointing: a chain of blocks that stores few activations and computes the others again."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import refattn
from refattn import backend


class Block(NamedTuple):
    """One step of a chain: x becomes function(x, **arguments).

    Attributes
    ----------
    function : callable or str
        A function of one array and further arguments, or the name of one of refattn's: 'layer_norm'.
    arguments : dict, optional
        Its other arguments by name.
    vjp : callable, optional
        `vjp(d_out, x, **arguments)` returns a NamedTuple of gradients, that by x first. Default: the one of refattn
        that belongs to the function.
    """

    function: Callable | str
    arguments: dict | None = None
    vjp: Callable | None = None


class Checkpointed(NamedTuple):
    """What `checkpoint` returns.

    Attributes
    ----------
    out : array
        What the last block returns.
    kept : tuple of arrays
        The inputs of block 0, every, 2·every, ...
    every : int
    """

    out: Any
    kept: tuple
    every: int


class CheckpointGradients(NamedTuple):
    """What `checkpoint_vjp` returns.

    Attributes
    ----------
    x : array
        The gradient by the input of the chain.
    blocks : tuple
        What each block's vjp returned, its first field (the gradient by the block's input) replaced by None.
    """

    x: Any
    blocks: tuple


def checkpoint(x, blocks, *, every=None):
    r"""Run a chain of blocks and keep only some of the activations, for `checkpoint_vjp`.

    Parameters
    ----------
    x : array
        The input of the first block.
    blocks : sequence of Block, callable or str
        The steps, in order; a function or a name alone is a block without further arguments.
    every : int, default ⌈√L⌉
        s: the inputs of blocks 0, s, 2s, ... are kept. 1 keeps them all.

    Returns
    -------
    Checkpointed
        (out, kept, every).

    Raises
    ------
    TypeError, ValueError
        A block is none, names no function, or its function has no known vjp; `every` is below 1.

    Notes
    -----
    Memory: ⌈L / s⌉ activations for L blocks; the default is the one that makes L / s + s least.
    Clauses: GRAD-CHECKPOINT, GRAD-REFUSE. Source: Chen et al. 2016 (sublinear memory cost), section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> out, kept, every = checkpoint(np.array([0.5]), ["tanh"] * 9)
    >>> len(kept), every
    (3, 3)
    """
    steps = [_block(n, block) for n, block in enumerate(blocks)]
    every = _stride(every, len(steps))
    kept = []
    for n, step in enumerate(steps):
        if n % every == 0:
            kept.append(x)
        x = _run(step, x)
    return Checkpointed(x, tuple(kept), every)


def checkpoint_vjp(d_out, x, blocks, *, every=None):
    r"""The gradients of a chain of blocks, which computes again what was not kept.

    Parameters
    ----------
    d_out : array
        Cotangent of what the last block returns.
    x : array or Checkpointed
        What `checkpoint` returned; or the input of the first block, to run the chain forward first.
    blocks : sequence of Block, callable or str
        As `checkpoint` got them.
    every : int, optional
        As for `checkpoint`, where x is an array.

    Returns
    -------
    CheckpointGradients
        (x, blocks).

    Raises
    ------
    TypeError, ValueError
        As for `checkpoint`; and where x was made from another number of blocks.

    Notes
    -----
    Each segment of `every` blocks runs forward once more from what was kept, and then backward: every block runs twice
    forward and once backward. Memory: ⌈L / s⌉ + s activations, O(√L) with the default s. The blocks see the same inputs
    as if all had been kept, so the gradients have the same bits.
    Clauses: GRAD-CHECKPOINT, GRAD-REFUSE. Source: Chen et al. 2016 (sublinear memory cost), section 4.1.

    Examples
    --------
    >>> import numpy as np
    >>> float(checkpoint_vjp(np.array([1.0]), np.array([3.0]), ["relu", "squared_relu"]).x[0])  # of x²
    6.0
    """
    steps = [_block(n, block) for n, block in enumerate(blocks)]
    run = x if isinstance(x, Checkpointed) else checkpoint(x, blocks, every=every)
    if isinstance(x, Checkpointed) and len(run.kept) != math.ceil(len(steps) / run.every):
        raise ValueError(
            f"x holds {len(run.kept)} kept activations, one for every {run.every} blocks;"
            f" there are {len(steps)} blocks, for which it must hold {math.ceil(len(steps) / run.every)}"
        )
    gradients: list[Any] = [None] * len(steps)
    for start in reversed(range(0, len(steps), run.every)):
        segment = steps[start : start + run.every]
        inputs = [run.kept[start // run.every]]
        for step in segment[:-1]:
            inputs.append(_run(step, inputs[-1]))
        for n in reversed(range(len(segment))):
            found = segment[n].vjp(d_out, inputs.pop(), **segment[n].arguments)
            d_out = found[0]
            gradients[start + n] = found._replace(**{found._fields[0]: None})  # passed on, not kept
    return CheckpointGradients(d_out, tuple(gradients))


def _run(step, x):
    return step.function(x, **step.arguments)


def _block(number, block):
    """A block whose function and vjp are callables."""
    block = block if isinstance(block, Block) else Block(block)
    name = block.function
    if callable(name):
        name = next((known for known in dir(refattn) if getattr(refattn, known) is name), None)
    function = getattr(refattn, name, None) if isinstance(block.function, str) else block.function
    if not callable(function):
        raise TypeError(f"block {number} is {block.function!r}; it must be a Block, a function, or the name of one")
    vjp = block.vjp or getattr(refattn, f"{name}_vjp", None)
    if vjp is None:
        raise ValueError(
            f"block {number} has no vjp, and refattn knows none for {block.function!r}: give Block(..., vjp=...)"
        )
    return Block(function, block.arguments or {}, vjp)


def _stride(every, count):
    if every is None:
        return max(math.ceil(math.sqrt(count)), 1)
    return backend.integer("every", every, least=1)
