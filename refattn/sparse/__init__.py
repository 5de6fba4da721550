"""Sparse attention at its real cost: every query attends to some keys, and only those are touched.

A mechanism says which keys as data, a rule of `refattn.masks` or a list of keys for each query; `engine` attends over them.
Each function has its gradients beside it, and equals `attention` under a mask, or, where a key counts more than once, under
a bias of log(count).
"""

from refattn.sparse.window import window_attention, window_attention_vjp, window_sides

__all__ = ["window_attention", "window_attention_vjp", "window_sides"]
