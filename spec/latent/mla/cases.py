"""The inputs of the golden vectors; definition.py says what comes out."""

from ...exact import Tensor, tensor
from ...masks.cases import window
from ...vectors import call, case, grid, params, rule

ROPE = params("heads.Rope", base=100.0, layout="interleaved")


def weights(seed, e, h, r, dr, dn, dv, out, rq=None):
    """Weights with no two sizes equal."""
    inner = e if rq is None else rq
    fields = {
        "w_dkv": grid(f"{seed} dkv", (e, r + dr), bits=7),
        "kv_norm": grid(f"{seed} kv norm", (r,), bits=6),
        "w_ukv": grid(f"{seed} ukv", (r, h * (dn + dv)), bits=7),
        "w_o": grid(f"{seed} o", (h * dv, out), bits=7),
        "w_q": grid(f"{seed} q", (inner, h * (dn + dr)), bits=6),
    }
    if rq is not None:
        fields |= {"w_dq": grid(f"{seed} dq", (e, rq), bits=7), "q_norm": grid(f"{seed} q norm", (rq,), bits=6)}
    return params("latent.MultiHeadLatentParams", **fields)


def attention(seed, shape, sizes, rq=None, heads=None, **options):
    """A call with x (..., N, E) of a shape, and weights of the sizes H, R, Dr, Dn, Dv and that of the output."""
    x, fields, heads = grid(f"mla {seed}", shape, bits=6), weights(seed, shape[-1], *sizes, rq=rq), heads or sizes[0]
    return call("latent.multi_head_latent_attention", x=x, params=fields, heads=heads, rope=ROPE, **options)


def held(seed, *shape, r, dr):
    """Latents and rotary keys of tokens that are in a cache."""
    fields = {
        "latents": grid(f"{seed} latents", (*shape, r), bits=6),
        "rope_keys": grid(f"{seed} rope keys", (*shape, dr), bits=6),
    }
    return params("cache.HeldLatents", **fields)


FAR = Tensor((4,), [3, 17, 18, 40], "int64")

OF_LATENTS = weights("latents", 5, 3, 4, 2, 3, 2, 6)
BATCH = held("cached batch", 2, 4, r=6, dr=4)
EMPTY_ROW = tensor([[1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype="bool")

CASES = [
    case(
        "mla.plain.0001: MLA-OUT MLA-SCALE MLA-QUERY; Basic LatentAttention",
        attention("plain", (2, 4, 5), (3, 4, 2, 3, 2, 6)),
        "mla/scale_from_latent mla/scale_from_nope mla/all_keys_then_all_values mla/values_first mla/rope_first "
        "mla/query_normed",
    ),
    case(
        "mla.compressed.0001: MLA-NORM MLA-ROPE MLA-OUT; LatentAttention FarPositions",
        attention("compressed", (4, 6), (2, 3, 4, 2, 5, 3), rq=4, mask=rule("causal"), positions=FAR),
        "mla/no_latent_norm mla/no_query_norm mla/norm_on_rope_key mla/half_pairs mla/whole_head_rotated",
    ),
    case(
        "mla.absorbed.0001: MLA-ABSORBED MLA-SCALE; LatentAttention",
        attention("absorbed", (2, 4, 5), (3, 4, 2, 3, 2, 6), rq=3, mask=rule("causal"), absorbed=True),
        "mla/scale_from_latent mla/no_query_norm",
        comment="R + Dr = 6 features are multiplied; the scale is still that of Dn + Dr = 5.",
    ),
    case(
        "mla.scale.0001: MLA-SCALE MLA-OUT; LatentAttention OtherScale EmptyRow",
        attention("scale", (3, 5), (2, 4, 2, 3, 1, 4), scale=0.75, absorbed=True, mask=EMPTY_ROW),
        "mla/scale_ignored",
    ),
    case(
        "mla.cached.0001: MLA-CACHE MLA-ROPE; LatentAttention Decode",
        attention("cached", (2, 5), (3, 4, 2, 3, 2, 6), cache=held("cached", 3, r=4, dr=2)),
        "mla/positions_restart mla/latent_normed_again mla/key_rotated_again",
        comment="Two tokens after three that are in the cache; the mask is causal, as belongs to a cache.",
    ),
    case(
        "mla.cached.0002: MLA-CACHE MLA-ABSORBED; LatentAttention Decode",
        attention("cached batch", (2, 3, 5), (2, 6, 4, 3, 2, 4), rq=3, absorbed=True, mask=window(3, 0), cache=BATCH),
        "mla/positions_restart mla/latent_normed_again mla/key_rotated_again mla/scale_from_latent",
        comment="The window leaves the oldest tokens of the cache out.",
    ),
    case(
        "mla.latents.0001: MLA-CACHE MLA-NORM MLA-ROPE; LatentAttention",
        call(
            "latent.latents_of", x=grid("mla latents", (2, 4, 5), bits=6), params=OF_LATENTS, positions=FAR, rope=ROPE
        ),
        "mla/latent_before_norm mla/key_before_rotation",
        comment="The second result is the rotary key.",
    ),
    case(
        "mla.refuse.0001: MLA-REFUSE; WrongInput",
        attention("refuse", (3, 5), (2, 4, 2, 3, 1, 4), heads=3),
        comment="The columns of the weights do not divide among three heads.",
    ),
]
