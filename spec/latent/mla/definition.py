"""Multi-head latent attention: a latent and one rotated key a token, from which every head makes its keys and values."""

from ...exact import Tensor, concat, exact, mp
from ...masks.definition import dense
from ...norms.definition import rms_norm
from ...positions.definition import rope as rope_over_tokens
from ...positions.definition import rope_by_complex_numbers
from ...softmax.definition import FUNCTIONS as SOFTMAX


def dense_mask(x, mask=None, positions=None, cache=None, **_):
    """A mask argument as a bool Tensor; with a cache its own rule is the default, and positions are places in it."""
    before, n = held(cache), x.shape[-2]
    places = (positions, positions) if cache is None else (counted(before, before + n), counted(0, before + n))
    if cache is not None and mask is None:
        mask = {"rule": "causal"}
    return dense(mask, n, before + n, *places) if isinstance(mask, dict) else mask


def held(cache):
    """How many tokens a cache holds."""
    return 0 if cache is None else cache["fields"]["latents"].shape[-2]


def counted(start, stop):
    return Tensor((stop - start,), range(start, stop), "int64")


def latents(x, p, positions, rope, eps, rotate):
    """The latent after its norm and the shared key after its rotation."""
    R = p["kv_norm"].shape[0]
    c = rms_norm(x @ p["w_dkv"][:, :R], p["kv_norm"], eps)
    return c, rotate(x @ p["w_dkv"][:, R:], positions, **rope)["out"]


def latent_attention(
    one_head, rotate, x, params, heads, mask=None, rope=None, positions=None, eps=1e-6, scale=None, absorbed=False,
    cache=None,
):  # fmt: skip
    p = params["fields"]
    rope = {"layout": "interleaved"} if rope is None else rope["fields"]
    n, m = x.shape[-2], held(cache) + x.shape[-2]
    visible = dense_mask(x, mask, positions, cache)
    positions = counted(m - n, m) if positions is None else positions

    c, k_r = latents(x, p, positions, rope, eps, rotate)
    if cache is not None:
        before = cache["fields"]
        c, k_r = concat(before["latents"], c, axis=-2), concat(before["rope_keys"], k_r, axis=-2)
    c_q = x if p.get("w_dq") is None else rms_norm(x @ p["w_dq"], p["q_norm"], eps)

    Dr = k_r.shape[-1]
    Dn = p["w_q"].shape[1] // heads - Dr
    Dv = p["w_ukv"].shape[1] // heads - Dn
    scale = 1 / mp.sqrt(Dn + Dr) if scale is None else exact(scale)
    out = 0
    for h in range(heads):
        q = c_q @ p["w_q"][:, h * (Dn + Dr) : (h + 1) * (Dn + Dr)]
        q_n, q_r = q[..., :Dn], rotate(q[..., Dn:], positions, **rope)["out"]
        w_ukv = p["w_ukv"][:, h * (Dn + Dv) : (h + 1) * (Dn + Dv)]
        o = one_head(q_n, q_r, c, k_r, w_ukv[:, :Dn], w_ukv[:, Dn:], scale, visible)
        out = out + o @ p["w_o"][h * Dv : (h + 1) * Dv]
    return out


def explicit(q_n, q_r, c, k_r, w_k, w_v, scale, visible):
    """Keys and values of the head, then attention."""
    k, v = c @ w_k, c @ w_v
    return softmax(scale * (q_n @ k.T + q_r @ k_r.T), visible) @ v


def absorbed(q_n, q_r, c, k_r, w_k, w_v, scale, visible):
    """The query goes down to the latents, and the mixed latent comes up."""
    down = q_n @ w_k.T
    return softmax(scale * (down @ c.T + q_r @ k_r.T), visible) @ c @ w_v


def softmax(scores, visible):
    """The weights of the keys that a query may attend to; all 0 if there is none."""
    return SOFTMAX["softmax"](scores, where=visible)["out"]


def formulation(one_head, rotate):
    """Both functions, with one of the forms of a head and one of a rotation."""

    def latents_of(x, params, positions, rope, eps=1e-6):
        c, k_r = latents(x, params["fields"], positions, rope["fields"], eps, rotate)
        return {"latents": c, "rope_keys": k_r}

    return {
        "latent.latents_of": latents_of,
        "latent.multi_head_latent_attention": lambda **given: {"out": latent_attention(one_head, rotate, **given)},
    }


FUNCTIONS = formulation(explicit, rope_over_tokens)
SECOND = formulation(absorbed, rope_by_complex_numbers)
