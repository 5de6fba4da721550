"""Chunked attention: the own chunk, so far."""

from ...tiled.definition import dense_mask as dense_mask
from ..keys import counts_by, functions


def in_chunk(i, j, size):
    return i - i % size <= j <= i


FUNCTIONS, SECOND = functions("chunked_attention", counts_by(in_chunk))
