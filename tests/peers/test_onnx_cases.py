"""The node cases that ONNX generates for its operators, each against refattn. None is left out."""

import math

import numpy as np
import pytest

import refattn
from refattn import masks, positions
from refattn.testing.bounds import bound
from refattn.testing.profiles import profile

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # onnx computes the cases of all its operators as they are collected
]
onnx = pytest.importorskip("onnx")

COUNT = {
    "Attention": 93,
    "Gelu": 4,
    "LayerNormalization": 19,
    "ReduceLogSumExp": 9,
    "RMSNormalization": 19,
    "RotaryEmbedding": 8,
    "Softmax": 7,
    "Softplus": 2,
    "Swish": 1,
}

# Cases whose expected output is rounded to its own narrow format at every step: one unit in the last place of that
# format is wider than the relative tolerance of 1e-3, so they are held to the error bound of the eager profile.
ROUNDED = {
    "test_attention_3d_causal_bf16": "bfloat16/eager",
    "test_attention_4d_attn_mask_causal_bf16": "bfloat16/eager",
    "test_attention_4d_causal_bf16": "bfloat16/eager",
    "test_attention_4d_causal_padded_kv_bf16": "bfloat16/eager",
    "test_attention_4d_gqa_with_past_and_present_fp16": "float16/eager",
    "test_attention_4d_padded_kv_bf16": "bfloat16/eager",
}


@pytest.fixture(scope="module")
def collected():
    """Operator -> its cases. Collected once: asked again, onnx returns the cases of the first call."""
    from onnx.backend.test.case.node import collect_testcases

    found = {operator: [] for operator in COUNT}
    for case in collect_testcases():
        operator = case.model.graph.node[0].op_type if case.model is not None else None
        if operator in found and "_expanded" not in case.name:  # those say the same with other operators
            found[operator].append(case)
    return found


def opened(case):
    """Attributes, inputs and outputs by name; an input or output that is left out is None."""
    node = case.model.graph.node[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    schema = onnx.defs.get_schema(node.op_type)
    sides = []
    for names, parameters, arrays in zip(
        (node.input, node.output), (schema.inputs, schema.outputs), case.data_sets[0], strict=True
    ):
        arrays = iter(arrays)
        given = [wide(next(arrays)) if name else None for name in names]
        given += [None] * (len(parameters) - len(given))
        sides.append({p.name: x for p, x in zip(parameters, given, strict=True)})
    return attributes, *sides


def wide(x):
    x = np.asarray(x)
    return x if x.dtype.kind in "ib" else x.astype(np.float64)


def padded(mask, m):
    """A mask that ends before the last key excludes the rest."""
    fill = False if mask.dtype == bool else -np.inf
    return np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, m - mask.shape[-1])], constant_values=fill)


def attention(attributes, inputs):
    q, k, v = inputs["Q"], inputs["K"], inputs["V"]
    flat = q.ndim == 3
    if flat:
        q = refattn.split_heads(q, attributes["q_num_heads"])
        k, v = (refattn.split_heads(x, attributes["kv_num_heads"]) for x in (k, v))
    n, before = q.shape[-2], 0
    if inputs["past_key"] is not None:
        before = inputs["past_key"].shape[-2]
        k = np.concatenate([inputs["past_key"], k], axis=-2)
        v = np.concatenate([inputs["past_value"], v], axis=-2)
    m = k.shape[-2]
    rule = masks.everything()
    if inputs["nonpad_kv_seqlen"] is not None:
        lengths = inputs["nonpad_kv_seqlen"][:, None]
        rule, before = masks.padding(lengths), (lengths - n)[..., None]
    if attributes.get("is_causal"):
        rule = rule & masks.causal()
    sides = (attributes.get(f"{side}_window_size", -1) for side in ("left", "right"))
    rule = rule & masks.window(*(None if side < 0 else side for side in sides))
    allowed, bias = rule.dense(n, m, q_positions=before + np.arange(n)), None
    if inputs["attn_mask"] is not None:
        term = padded(inputs["attn_mask"], m)
        allowed, bias = (allowed & term, None) if term.dtype == bool else (allowed, term)
    options = {"bias": bias, "scale": attributes.get("scale"), "softcap": attributes.get("softcap")}
    return q, k, v, allowed, options, flat


def attention_outputs(attributes, inputs):
    q, k, v, allowed, options, flat = attention(attributes, inputs)
    out = refattn.grouped_query_attention(q, k, v, allowed, **options)
    stages = refattn.attention_stages(q, *(shared(x, q) for x in (k, v)), allowed, **options)
    stage = ("scores", "softcap", "mask", "weights")[attributes.get("qk_matmul_output_mode", 0)]
    return {
        "Y": refattn.merge_heads(out) if flat else out,
        "present_key": k,
        "present_value": v,
        "qk_matmul_output": getattr(stages, stage),
    }


def shared(x, q):
    """Every key/value head once for each of its query heads."""
    return np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3)


def rotary_embedding(attributes, inputs):
    x, cos, sin = inputs["X"], inputs["cos_cache"], inputs["sin_cache"]
    flat = x.ndim == 3
    x = refattn.split_heads(x, attributes["num_heads"]) if flat else x
    if inputs["position_ids"] is not None:
        cos, sin = cos[inputs["position_ids"]], sin[inputs["position_ids"]]
    layout = "interleaved" if attributes.get("interleaved") else "half"
    rotary_dim = attributes.get("rotary_embedding_dim") or None
    y = positions.rotate(x, cos[:, None], sin[:, None], layout=layout, rotary_dim=rotary_dim)
    return {"Y": refattn.merge_heads(y) if flat else y}


def normalised(attributes, x):
    return tuple(range(attributes.get("axis", -1) % x.ndim, x.ndim))


def rms_normalization(attributes, inputs):
    x = inputs["X"]
    axis = normalised(attributes, x)
    return {"Y": refattn.rms_norm(x, inputs["scale"], eps=attributes.get("epsilon", 1e-5), axis=axis)}


def layer_normalization(attributes, inputs):
    x = inputs["X"]
    axis, eps = normalised(attributes, x), attributes.get("epsilon", 1e-5)
    plain = refattn.layer_norm(x, None, eps=eps, axis=axis)
    mean = np.mean(x, axis=axis, keepdims=True)
    return {
        "Y": refattn.layer_norm(x, inputs["Scale"], inputs["B"], eps=eps, axis=axis),
        "Mean": mean,
        "InvStdDev": np.max(np.abs(plain), axis=axis, keepdims=True)
        / np.max(np.abs(x - mean), axis=axis, keepdims=True),
    }


def softmax(attributes, inputs):
    return {"output": refattn.softmax(inputs["input"], axis=attributes.get("axis", -1))}


def reduce_log_sum_exp(attributes, inputs):
    x, axes = inputs["data"], inputs["axes"]
    axes = [a % x.ndim for a in (range(x.ndim) if axes is None or axes.size == 0 else axes)]
    together = np.moveaxis(x, axes, range(-len(axes), 0))
    shape = together.shape
    y = refattn.logsumexp(np.reshape(together, (*shape[: -len(axes)], math.prod(shape[-len(axes) :]))))
    return {"reduced": np.expand_dims(y, tuple(axes)) if attributes.get("keepdims", 1) else y}


def gelu(attributes, inputs):
    approximate = {b"none": None, b"tanh": "tanh"}[attributes.get("approximate", b"none")]
    return {"Y": refattn.gelu(inputs["X"], approximate)}


def softplus(attributes, inputs):
    return {"Y": refattn.softplus(inputs["X"])}


def swish(attributes, inputs):
    assert attributes["alpha"] == 1.0
    return {"Y": refattn.silu(inputs["X"])}


TRANSLATED = {
    "Attention": attention_outputs,
    "Gelu": gelu,
    "LayerNormalization": layer_normalization,
    "ReduceLogSumExp": reduce_log_sum_exp,
    "RMSNormalization": rms_normalization,
    "RotaryEmbedding": rotary_embedding,
    "Softmax": softmax,
    "Softplus": softplus,
    "Swish": swish,
}


@pytest.mark.parametrize("operator", COUNT)
def test_every_case_of_the_operator(collected, operator):
    wrong, judged = [], set()
    for case in collected[operator]:
        attributes, inputs, outputs = opened(case)
        got = TRANSLATED[operator](attributes, inputs)
        for name, want in outputs.items():
            if want is None:
                continue
            judged.add(case.name)
            same = got[name].shape == want.shape
            if not (same and np.allclose(got[name], want, rtol=case.rtol, atol=case.atol)):
                wrong.append(case.name)
    expected = set(ROUNDED) if operator == "Attention" else set()
    assert set(wrong) == expected
    assert len(judged) == len(collected[operator]) == COUNT[operator]


def test_rounded_cases_are_within_the_bound_of_their_profile(collected):
    cases = {case.name: case for case in collected["Attention"]}
    for name, precision in ROUNDED.items():
        attributes, inputs, outputs = opened(cases[name])
        q, k, v, allowed, options, flat = attention(attributes, inputs)
        k, v = shared(k, q), shared(v, q)
        limit = bound("attention", profile(precision), q=q, k=k, v=v, mask=allowed, **options)["out"].hard
        limit = refattn.merge_heads(limit) if flat else limit
        difference = np.abs(attention_outputs(attributes, inputs)["Y"] - outputs["Y"])
        assert (difference <= limit).all(), (name, np.max(difference / limit))
