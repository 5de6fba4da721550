"""Multi-head latent attention, one query of one head at a time."""

from ...attention.definition import mixed
from ...exact import Tensor, exact, lift, mp, mpf
from ...heads.definition import linear as projected
from ...heads.definition import rms_norm
from ...masks.definition import dense
from ...positions.definition import rope as rope_over_tokens
from ...positions.definition import rope_by_complex_numbers


def columns(t, start, stop):
    """Some columns of a matrix."""
    return Tensor((t.shape[0], stop - start), [x for row in t for x in row.data[start:stop]], t.dtype)


def features(t, start, stop):
    """Some features of every token."""
    return lift(lambda x: Tensor((stop - start,), x.data[start:stop]), (1,), t)


def dense_mask(x, mask=None, positions=None, cache=None, **_):
    """A mask argument as a bool Tensor; with a cache its own rule is the default, and positions are places in it."""
    before, n = held(cache), x.shape[-2]
    if cache is not None:
        mask = {"rule": "causal"} if mask is None else mask
        places = (counted(before, before + n), counted(0, before + n))
    else:
        places = (positions, positions)
    return dense(mask, n, before + n, *places) if isinstance(mask, dict) else mask


def held(cache):
    """How many tokens a cache holds."""
    return 0 if cache is None else cache["fields"]["latents"].shape[-2]


def counted(start, stop):
    return Tensor((stop - start,), range(start, stop), "int64")


def stacked(before, new):
    """The tokens of a cache, then the new ones."""

    def both(a, b):
        return Tensor((a.shape[0] + b.shape[0], a.shape[1]), a.data + b.data)

    return lift(both, (2, 2), before, new)


def latents(x, p, positions, rope, eps, rotate):
    """The latent after its norm and the shared key after its rotation."""
    width = p["kv_norm"].shape[0]
    down = projected(x, p["w_dkv"], None)
    c = rms_norm(features(down, 0, width), p["kv_norm"], eps)
    return c, rotate(features(down, width, down.shape[-1]), positions, **rope)["out"]


def latents_of(x, params, positions, rope, eps=1e-6):
    c, key = latents(x, params["fields"], positions, rope["fields"], eps, rope_over_tokens)
    return {"latents": c, "rope_keys": key}


def latents_of_by_complex_numbers(x, params, positions, rope, eps=1e-6):
    c, key = latents(x, params["fields"], positions, rope["fields"], eps, rope_by_complex_numbers)
    return {"latents": c, "rope_keys": key}


def _function(one_head, rotate):
    def multi_head_latent_attention(
        x, params, heads, mask=None, rope=None, positions=None, eps=1e-6, scale=None, absorbed=False,
        cache=None,
    ):  # fmt: skip
        p = params["fields"]
        rope = {"layout": "interleaved"} if rope is None else rope["fields"]
        n, m = x.shape[-2], held(cache) + x.shape[-2]
        visible = dense_mask(x, mask, positions, cache)
        positions = counted(m - n, m) if positions is None else positions
        c, shared = latents(x, p, positions, rope, eps, rotate)
        if cache is not None:
            c, shared = (stacked(cache["fields"][name], x) for name, x in (("latents", c), ("rope_keys", shared)))
        Dr = shared.shape[-1]
        compressed = x if p.get("w_dq") is None else rms_norm(projected(x, p["w_dq"], None), p["q_norm"], eps)
        Dn = p["w_q"].shape[1] // heads - Dr
        Dv = p["w_ukv"].shape[1] // heads - Dn
        scale = 1 / mp.sqrt(Dn + Dr) if scale is None else exact(scale)
        total = None
        for h in range(heads):
            w_q = columns(p["w_q"], h * (Dn + Dr), (h + 1) * (Dn + Dr))
            q = projected(compressed, w_q, None)
            turned = rotate(features(q, Dn, Dn + Dr), positions, **rope)["out"]
            w_k = columns(p["w_ukv"], h * (Dn + Dv), h * (Dn + Dv) + Dn)
            w_v = columns(p["w_ukv"], h * (Dn + Dv) + Dn, (h + 1) * (Dn + Dv))

            def tokens(plain, turned, c, shared, visible, w_k=w_k, w_v=w_v):
                rows = []
                for i in range(n):
                    seen = [j for j in range(m) if visible is None or visible[i][j]]
                    rows.append(one_head(plain[i], turned[i], c, shared, w_k, w_v, seen, scale))
                return Tensor((n, Dv), [a for row in rows for a in row])

            out = lift(tokens, (2, 2, 2, 2, 2), features(q, 0, Dn), turned, c, shared, visible)
            w_o = Tensor((Dv, p["w_o"].shape[1]), [a for r in range(h * Dv, (h + 1) * Dv) for a in p["w_o"][r]])
            part = projected(out, w_o, None)
            total = (
                part
                if total is None
                else Tensor(part.shape, [a + b for a, b in zip(total.data, part.data, strict=True)])
            )
        return {"out": total}

    return multi_head_latent_attention


def product(row, w):
    """A row times a matrix."""
    return [mp.fsum(exact(a) * exact(w[r][c]) for r, a in enumerate(row)) for c in range(w.shape[1])]


def dot(a, b):
    return mp.fsum(exact(x) * exact(y) for x, y in zip(a, b, strict=True))


def weights(scores):
    total = mp.fsum(mp.exp(s) for s in scores)
    return [mp.exp(s) / total for s in scores]


def explicit(q, turned, c, shared, w_k, w_v, seen, scale):
    """Keys and values of the head, then attention."""
    if not seen:
        return [mpf(0)] * w_v.shape[1]
    keys, values = [product(c[j], w_k) for j in seen], [product(c[j], w_v) for j in seen]
    p = weights([scale * (dot(q, key) + dot(turned, shared[j])) for key, j in zip(keys, seen, strict=True)])
    return [mixed((a, v[d]) for a, v in zip(p, values, strict=True)) for d in range(w_v.shape[1])]


def absorbed(q, turned, c, shared, w_k, w_v, seen, scale):
    """The query goes down to the latents, and the mixed latent comes up."""
    if not seen:
        return [mpf(0)] * w_v.shape[1]
    down = [dot(q, row) for row in w_k]
    p = weights([scale * (dot(down, c[j]) + dot(turned, shared[j])) for j in seen])
    return product([mp.fsum(a * c[j][r] for a, j in zip(p, seen, strict=True)) for r in range(c.shape[-1])], w_v)


FUNCTIONS = {
    "latent.latents_of": latents_of,
    "latent.multi_head_latent_attention": _function(explicit, rope_over_tokens),
}
SECOND = {
    "latent.latents_of": latents_of_by_complex_numbers,
    "latent.multi_head_latent_attention": _function(absorbed, rope_by_complex_numbers),
}
