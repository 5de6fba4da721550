"""Derivatives of attention as formulas, query by query, and of its heads by the chain rule."""

from ..attention.definition import biased, capped, matrix, score
from ..attention.definition import dense_mask as dense_mask_of_attention
from ..exact import Tensor, concat, exact, indices, inf, mp, mpf
from ..feedforward.definition import linear
from ..heads.definition import (
    dense_mask,
    grouped_query_attention,
    merge_heads,
    normalised_heads,
    rotated,
    split_heads,
    unpacked,
    with_axis,
)
from ..positions.definition import last_positions
from .pieces import linear_vjp, norm_vjp, rope_vjp
from .sums import Sums, element


def attention_vjp(
    d_out, q, k, v, mask=None, d_lse=None, bias=None, scale=None, softcap=None, sinks=None, dropout=None,
    q_positions=None, k_positions=None, group=1,
):  # fmt: skip
    """Query by query: ∂o/∂s_j = p_j (m_j v_j - o) with m the dropout, ∂L/∂s_j = w_j, ∂o/∂z = -p_z o.

    With `group` = H/G the keys and values of query head h are those of head h // group.
    """
    scale = exact(1 / mp.sqrt(q.shape[-1]) if scale is None else scale)
    visible = dense_mask_of_attention(q, k, mask, q_positions, k_positions)
    keep, rate = (matrix(dropout["fields"]["keep"]), dropout["fields"]["rate"]) if dropout else (None, 0.0)
    found = Sums(q=q, k=k, v=v, bias=bias, sinks=sinks, scale=Tensor((), [scale]))
    m, features, width = k.shape[-2], q.shape[-1], v.shape[-1]

    def read(lead):
        """The index of what a query head reads."""
        return (*lead[:-1], lead[-1] // group) if group > 1 else lead

    def scored(lead, i):
        """For each key that the query may attend to: its score, and the slope of the cap."""
        out = {}
        for j in range(m):
            b = 0.0 if bias is None else element(bias, *lead, i, j)
            if b == -inf or (visible is not None and not element(visible, *lead, i, j)):
                continue
            u = score(
                [element(q, *lead, i, c) for c in range(features)],
                [element(k, *read(lead), j, c) for c in range(features)],
                scale,
            )
            slope = 1 / mp.cosh(u / exact(softcap)) ** 2 if softcap else 1
            out[j] = biased(capped(u, softcap), b), slope
        return out

    def through_scores(lead, i, j, d, slope):
        found.add("bias", (*lead, i, j), d)
        for c in range(features):
            a, b = exact(element(q, *lead, i, c)), exact(element(k, *read(lead), j, c))
            found.add("q", (*lead, i, c), scale * d * slope * b)
            found.add("k", (*read(lead), j, c), scale * d * slope * a)
            found.add("scale", (), d * slope * a * b)

    for *lead, i in indices(d_out.shape[:-1]):
        rows = scored(lead, i)
        if not rows:
            continue
        sink = -inf if sinks is None else element(sinks, *lead)
        in_sink = mp.exp(exact(sink)) if sink != -inf else mpf(0)
        total = mp.fsum(mp.exp(s) for s, _ in rows.values()) + in_sink
        p = {j: mp.exp(s) / total for j, (s, _) in rows.items()}
        kept = {j: 1 / (1 - exact(rate)) if keep is None or element(keep, *lead, i, j) else mpf(0) for j in rows}
        mixed = {
            j: [kept[j] * exact(element(v, *read(lead), j, c)) if kept[j] else mpf(0) for c in range(width)]
            for j in rows
        }
        out = [mp.fsum(p[j] * mixed[j][c] for j in rows) for c in range(width)]
        weights = [exact(element(d_out, *lead, i, c)) for c in range(width)]
        found.add("sinks", tuple(lead), -in_sink / total * mp.fsum(w * o for w, o in zip(weights, out, strict=True)))
        for j, (_, slope) in rows.items():
            d = p[j] * mp.fsum(w * (x - o) for w, x, o in zip(weights, mixed[j], out, strict=True))
            through_scores(lead, i, j, d, slope)
            for c, w in enumerate(weights):
                found.add("v", (*read(lead), j, c), p[j] * kept[j] * w)
    for *lead, i in indices(d_lse.shape if d_lse is not None else (0,)):
        rows = scored(lead, i)
        total = mp.fsum(mp.exp(s) for s, _ in rows.values())
        for j, (s, slope) in rows.items():
            through_scores(lead, i, j, exact(element(d_lse, *lead, i)) * mp.exp(s) / total, slope)
    return found.tensors()


def grouped_query_attention_vjp(d_out, q, k, v, **options):
    return attention_vjp(d_out, q, k, v, group=q.shape[-3] // k.shape[-3], **options)


def multi_query_attention_vjp(d_out, q, k, v, **options):
    found = grouped_query_attention_vjp(d_out, q, with_axis(k, -2), with_axis(v, -2), **options)
    return found | {"k": found["k"].reshaped(*k.shape), "v": found["v"].reshaped(*v.shape)}


def multi_head_attention_vjp(
    d_out, x_q, x_kv, params, heads, kv_heads=None, mask=None, rope=None, q_positions=None, k_positions=None,
    qk_norm_eps=1e-6, **options,
):  # fmt: skip
    """The chain rule, one stage after the other."""
    kv_heads = heads if kv_heads is None else kv_heads
    kv = x_q if x_kv is None else x_kv
    p = unpacked(params, heads, kv_heads)
    mask = dense_mask(x_q=x_q, x_kv=kv, mask=mask, q_positions=q_positions, k_positions=k_positions)
    at = dict(zip("qk", last_positions(x_q.shape[-2], kv.shape[-2], q_positions, k_positions), strict=True))
    count, source = {"q": heads, "k": kv_heads}, {"q": x_q, "k": kv, "v": kv}
    wide = {name: linear(source[name], p[f"w_{name}"], p[f"b_{name}"]) for name in "qkv"}
    normal = {name: normalised_heads(wide[name], count[name], p[f"{name}_norm"], qk_norm_eps) for name in "qk"}
    q, k = (rotated(normal[name], at[name], rope) for name in "qk")
    v = split_heads(wide["v"], kv_heads)
    mixed = merge_heads(grouped_query_attention(q, k, v, mask=mask, **options)["out"])
    last = linear_vjp(d_out, mixed, p["w_o"], p["b_o"])
    inner = grouped_query_attention_vjp(split_heads(last["x"], heads), q, k, v, mask=mask, **options)
    found = {"w_o": last["w"], "b_o": last.get("b")}
    passed = {"v": merge_heads(inner["v"])}
    for name in "qk":
        d = inner[name]
        if rope is not None:
            d = rope_vjp(d, normal[name], with_axis(at[name], -1), **rope["fields"])["x"]
        passed[name], found[f"{name}_norm"] = before_norm(d, wide[name], count[name], p[f"{name}_norm"], qk_norm_eps)
    into = {name: linear_vjp(passed[name], source[name], p[f"w_{name}"], p[f"b_{name}"]) for name in "qkv"}
    for name, of in into.items():
        found |= {f"w_{name}": of["w"], f"b_{name}": of.get("b")}
    result = {f"params.{name}": t for name, t in packed(params, found).items() if t is not None}
    sequences = {"x_q": ("q",), "x_kv": ("k", "v")} if x_kv is not None else {"x_q": ("q", "k", "v")}
    for name, parts in sequences.items():
        result[name] = sum(into[part]["x"] for part in parts)
    return result | {name: inner[name] for name in ("bias", "sinks", "scale") if name in inner}


def before_norm(d_heads, wide, heads, gain, eps):
    """The gradients by the projection and by the gain of RMSNorm over each head, or over the whole width."""
    if gain is None:
        return merge_heads(d_heads), None
    if len(gain) == wide.shape[-1]:
        found = norm_vjp(False, eps)(merge_heads(d_heads), wide, gain)
        return found["x"], found["gamma"]
    found = norm_vjp(False, eps)(d_heads, split_heads(wide, heads), gain)
    return merge_heads(found["x"]), found["gamma"]


def packed(params, found):
    """The gradients under the names that the parameter set has."""
    if params["params"] == "MultiHeadParams":
        return found
    found["w_qkv"] = concat(*(found[f"w_{name}"] for name in "qkv"))
    if found["b_q"] is not None:
        found["b_qkv"] = concat(*(found[f"b_{name}"] for name in "qkv"))
    return {name: found.get(name) for name in ("w_qkv", "w_o", "b_qkv", "b_o", "q_norm", "k_norm")}
