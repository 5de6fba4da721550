"""Gradient checkpointing: a chain of blocks that stores few activations and computes the others again."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import refattn
from refattn import arguments, backend
from refattn.gradients.sums import checked_cotangent


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
    out : array (..., E_out)
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
    x : array (..., E)
        The gradient by the input of the chain, of its shape.
    blocks : tuple
        What each block's vjp returned, its first field (the gradient by the block's input) replaced by None.
    """

    x: Any
    blocks: tuple


def checkpoint(x, blocks, *, every=None):
    r"""Run a chain of blocks and keep only some of the activations, for `checkpoint_vjp`.

    Parameters
    ----------
    x : array (..., E)
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
    backend.array("x", x)
    steps = _steps(blocks)
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
    d_out : array (..., E_out)
        Cotangent of what the last block returns, of its shape.
    x : array (..., E) or Checkpointed
        What `checkpoint` returned; or the input of the first block, to run the chain forward first.
    blocks : sequence of Block, callable or str
        As for `checkpoint`.
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
    backend.array("d_out", d_out)
    steps = _steps(blocks)
    if isinstance(x, Checkpointed):
        arguments.unused("an array x: a Checkpointed knows its own", every=every)
        backend.integer("x.every", x.every, least=1)
    run = x if isinstance(x, Checkpointed) else checkpoint(x, blocks, every=every)
    if isinstance(x, Checkpointed) and len(run.kept) != math.ceil(len(steps) / run.every):
        raise ValueError(
            f"x holds {len(run.kept)} kept activations, one for every {run.every} blocks;"
            f" there are {len(steps)} blocks, for which it must hold {math.ceil(len(steps) / run.every)}"
        )
    checked_cotangent("d_out", d_out, "what the last block returns", run.out.shape)
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


def _steps(blocks):
    return [_block(n, block) for n, block in enumerate(arguments.listed("blocks", blocks, "blocks"))]


def _block(number, block):
    """A block whose function and vjp are callables."""
    block = block if isinstance(block, Block) else Block(block)
    name = block.function
    if callable(name):
        name = next((known for known in dir(refattn) if getattr(refattn, known) is name), None)
    known = isinstance(name, str) and name in refattn.__all__
    function = block.function if callable(block.function) else getattr(refattn, name) if known else None
    if not callable(function):
        raise TypeError(
            f"blocks: block {number} is {backend.shown(block.function)}; it must be a Block, a function, or the name of one"
        )
    if not isinstance(block.arguments, dict | None) or not all(isinstance(key, str) for key in block.arguments or {}):
        raise TypeError(
            f"blocks: block {number} has arguments {backend.shown(block.arguments)}; they must be a dict of names and values"
        )
    if block.vjp is not None and not callable(block.vjp):
        raise TypeError(
            f"blocks: block {number} has vjp {backend.shown(block.vjp)}; it must be a function of d_out and x"
        )
    vjp = block.vjp or (getattr(refattn, f"{name}_vjp", None) if known else None)
    if vjp is None:
        raise ValueError(
            f"blocks: block {number} has no vjp, and refattn knows none for its function {backend.shown(block.function)}: give Block(..., vjp=...)"
        )
    return Block(function, block.arguments or {}, vjp)


def _stride(every, count):
    if every is None:
        return max(math.ceil(math.sqrt(count)), 1)
    return backend.integer("every", every, least=1)
