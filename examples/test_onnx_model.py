"""Attention inside an ONNX model, judged. Copy this file, build or load your model in `model`, and run

pip install 'refattn[onnx]' pytest
pytest test_onnx_model.py
"""

import datetime
import functools

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import refattn
from refattn.testing import assert_matches
from refattn.testing.allow import Allowance


@functools.cache
def model(masked):
    """softmax(q kᵀ / √D + mask) v out of single operators, as exporters write it; an excluded score becomes -inf."""
    node, names = helper.make_node, ["q", "k", "v", "scale"] + ["mask"] * masked
    nodes = [
        node("Transpose", ["k"], ["k_t"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q", "k_t"], ["products"]),
        node("Mul", ["products", "scale"], ["scores"]),
        *([node("Where", ["mask", "scores", "minus_infinity"], ["masked"])] if masked else []),
        node("Softmax", ["masked" if masked else "scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "v"], ["out"]),
    ]
    types = {"mask": TensorProto.BOOL}
    inputs = [
        helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), [] if name == "scale" else [None] * 4)
        for name in names
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)]
    constants = [helper.make_tensor("minus_infinity", TensorProto.FLOAT, [], [-np.inf])] * masked
    graph = helper.make_graph(nodes, "attention", inputs, outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def attention(q, k, v, mask=None, *, scale=None):
    """The model as the reference is called. What it has no input for (bias, sinks, ...) is skipped, not failed."""
    if mask is not None:
        mask = refattn.masks.visible(mask, q.shape[-2], k.shape[-2], like=q)  # a rule or an array, as an array
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    scale = np.asarray(q.shape[-1] ** -0.5 if scale is None else scale, dtype=np.float32)
    feeds = {"q": q, "k": k, "v": v, "scale": scale, **({} if mask is None else {"mask": mask})}
    return model(mask is not None).run(None, feeds)[0]


def test_one_result():
    """One call, one line: is the difference rounding?"""
    q, k, v = np.random.default_rng(0).normal(size=(3, 1, 2, 17, 32)).astype(np.float32)
    out = attention(q, k, v, refattn.masks.causal())
    assert_matches(out, refattn.attention, q, k, v, refattn.masks.causal(), precision="float32/eager")


def test_the_whole_specification(refattn_check):
    """Such a graph cannot keep every clause: what it breaks is written down, with a reason and a date to look again."""
    me, end = f"{__name__}:attention", datetime.date(2099, 1, 1)
    known = [
        Allowance(
            me, "attention", "empty_row/nan", "softmax of nothing but -inf is 0 / 0; the caller drops the row", end
        ),
        Allowance(me, "attention", "values/multiplied_by_zero", "weight 0 times NaN is NaN; the cache holds none", end),
    ]
    refattn_check(attention, precision="float32/eager", allow=known)
