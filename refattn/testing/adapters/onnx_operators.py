"""ONNX operators as reference functions: one-node models, made once for each kind of call, run by either evaluator."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
from onnx import helper

from refattn.testing.adapters.base import Adapter, Unsupported
from refattn.testing.adapters.translation import attention_call, trailing

# The newest definition of each operator of which every evaluator has one; Attention's is sought (see `attention_opset`).
_OPSET = {
    "Gelu": 20,
    "LayerNormalization": 17,
    "ReduceLogSumExp": 18,
    "Relu": 14,
    "RMSNormalization": 23,
    "RotaryEmbedding": 23,
    "Sigmoid": 13,
    "Softmax": 13,
    "Softplus": 22,
    "Swish": 24,
    "Tanh": 13,
}
_WINDOWS = 25  # the first opset whose Attention has windows


def model(operator: str, opset: int, attributes: dict, inputs: list, outputs: int) -> onnx.ModelProto:
    """A model of one node. `inputs` holds (dtype, rank) of each input, or None for one that is left out."""
    names = ["" if kind is None else f"input{n}" for n, kind in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind[0])), [None] * kind[1])
        for name, kind in zip(names, inputs, strict=True)
        if kind is not None
    ]
    first = helper.np_dtype_to_tensor_dtype(np.dtype(inputs[0][0]))
    results = [helper.make_tensor_value_info(f"output{n}", first, None) for n in range(outputs)]
    node = helper.make_node(operator, names, [value.name for value in results], **attributes)
    graph = helper.make_graph([node], operator, values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, onnx.IR_VERSION))


class OnnxAdapter(Adapter):
    """ONNX operators, run by an evaluator: a callable that takes a model's bytes and returns one on its inputs."""

    def __init__(self, evaluator: Callable):
        super().__init__()
        self._evaluator = evaluator
        self._ready: dict = {}
        self._opset: int | None = None
        self.functions = {
            "attention": self.attention,
            "grouped_query_attention": partial(self.attention, grouped=True),
            "positions.rotate": self.rotate,
            "layer_norm": self.layer_norm,
            "rms_norm": self.rms_norm,
            "softmax": self.softmax,
            "logsumexp": self.logsumexp,
            "gelu": self.gelu,
            "relu": partial(self._elementwise, "Relu"),
            "silu": partial(self._elementwise, "Swish", alpha=1.0),
            "quick_gelu": partial(self._elementwise, "Swish", alpha=1.702),
            "sigmoid": partial(self._elementwise, "Sigmoid"),
            "softplus": partial(self._elementwise, "Softplus"),
            "tanh": partial(self._elementwise, "Tanh"),
        }

    def dtypes(self, function):
        """What the operator is defined for: RotaryEmbedding is not for float64."""
        return ("float32", "float16") if function == "positions.rotate" else ("float32", "float64", "float16")

    def profile(self, function, dtype):
        """Numbers that are attributes (scale, epsilon, alpha) are float32, whatever the inputs are."""
        attributes = function.endswith(("attention", "norm")) or function == "quick_gelu"
        return "float32" if dtype == "float64" and attributes else dtype

    def environment(self):
        """The opset of Attention."""
        return {"onnx": onnx.__version__, "opset of Attention": self.attention_opset}

    @property
    def attention_opset(self) -> int:
        """The newest opset whose Attention the evaluator knows: some accept a model of a later one as an older one."""
        if self._opset is None:
            tiny = np.zeros((1, 1, 1, 1), dtype=np.float32)
            for opset, attributes in ((_WINDOWS, {"left_window_size": 0}), (24, {}), (23, {})):
                try:
                    self._run("Attention", [tiny, tiny, tiny], opset=opset, **attributes)
                except Exception:  # each evaluator has its own
                    continue
                self._opset = opset
                return opset
            raise Unsupported("no opset of the operator Attention")
        return self._opset

    def _run(self, operator, inputs, *, opset=None, outputs=1, **attributes):
        """The operator on arrays; None leaves an input out."""
        while inputs[-1] is None:
            inputs = inputs[:-1]
        kinds = [None if x is None else (x.dtype.name, x.ndim) for x in inputs]
        opset = _OPSET[operator] if opset is None else opset
        key = (operator, opset, tuple(sorted(attributes.items())), tuple(kinds), outputs)
        if key not in self._ready:
            built = model(operator, opset, attributes, kinds, outputs)
            self._ready[key] = self._evaluator(built.SerializeToString())
        feeds = {f"input{n}": np.ascontiguousarray(x) for n, x in enumerate(inputs) if x is not None}
        return self._ready[key](feeds)

    def attention(
        self, q, k, v, mask=None, *, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
        q_positions=None, k_positions=None, return_lse=False, grouped=False,
    ):  # fmt: skip
        """Attention; causality and windows are its attributes, any other mask and a bias its attn_mask."""
        for name, value in (("sinks", sinks), ("dropout", dropout), ("a log-sum-exp", return_lse or None)):
            if value is not None:
                raise Unsupported(f"the operator Attention has no {name.removeprefix('a ')}")
        native = ("causal", "window") if self.attention_opset >= _WINDOWS else ("causal",)
        x = attention_call(
            q, k, v, mask, bias=bias, q_positions=q_positions, k_positions=k_positions, grouped=grouped, native=native
        )
        attributes: dict = {"is_causal": 1} if x.causal else {}
        if x.window is not None:
            left, right = (-1 if side is None else side for side in x.window)
            attributes.update(left_window_size=left, right_window_size=right)
        if scale is not None:
            attributes["scale"] = float(scale)
        if softcap is not None:
            attributes["softcap"] = float(softcap)
        term = x.term()
        if term is not None and term.shape[-1] == 1:  # in ONNX a mask of one key is a short one, not one for all keys
            term = np.broadcast_to(term, (*term.shape[:-1], k.shape[-2]))
        out = self._run("Attention", [x.q, x.k, x.v, term], opset=self.attention_opset, **attributes)
        return x.restore(out[0])

    def rotate(self, x, cos, sin, *, layout="interleaved", rotary_dim=None):
        """RotaryEmbedding with given tables."""
        lead = x.shape[:-2]
        shared = all(table.ndim == 2 or table.shape[-3] == 1 for table in (cos, sin))  # one table for all heads
        batch, heads = (lead[:-1], lead[-1]) if lead and shared else (lead, 1)

        def table(values):
            if values.ndim > 2 and shared and lead:
                values = values[..., 0, :, :]
            return np.reshape(
                np.broadcast_to(values, (*batch, *values.shape[-2:])), (math.prod(batch), *values.shape[-2:])
            )

        whole = np.reshape(x, (math.prod(batch), heads, *x.shape[-2:]))
        attributes = {"interleaved": int(layout == "interleaved")}
        if rotary_dim is not None:
            attributes["rotary_embedding_dim"] = rotary_dim
        out = self._run("RotaryEmbedding", [whole, table(cos), table(sin)], **attributes)
        return np.reshape(out[0], x.shape)

    def layer_norm(self, x, gamma, beta=None, *, eps=1e-5, axis=-1):
        """LayerNormalization."""
        first = trailing(axis, x)
        gamma = np.ones(x.shape[first:], dtype=x.dtype) if gamma is None else gamma
        return self._run("LayerNormalization", [x, gamma, beta], axis=first, epsilon=float(eps))[0]

    def rms_norm(self, x, gamma, *, eps=1e-6, axis=-1, unit_offset=False):
        """RMSNormalization."""
        if unit_offset:
            raise Unsupported("the operator RMSNormalization has no unit offset")
        first = trailing(axis, x)
        gamma = np.ones(x.shape[first:], dtype=x.dtype) if gamma is None else gamma
        return self._run("RMSNormalization", [x, gamma], axis=first, epsilon=float(eps))[0]

    def softmax(self, x, axis=-1, where=None):
        """Softmax."""
        if where is not None:
            raise Unsupported("the operator Softmax has no mask")
        return self._run("Softmax", [x], axis=int(axis))[0]

    def logsumexp(self, x, axis=-1, where=None):
        """ReduceLogSumExp."""
        if where is not None:
            raise Unsupported("the operator ReduceLogSumExp has no mask")
        return self._run("ReduceLogSumExp", [x, np.array([axis], dtype=np.int64)], keepdims=0)[0]

    def gelu(self, x, approximate=None):
        """Gelu."""
        return self._run("Gelu", [x], approximate="none" if approximate is None else approximate)[0]

    def _elementwise(self, operator, x, **attributes):
        return self._run(operator, [x], **attributes)[0]
