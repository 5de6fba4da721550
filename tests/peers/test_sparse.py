"""Sparse attention in float64 against the layers of transformers, with the same buckets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refattn import masks
from refattn.sparse import lsh_attention, lsh_attention_vjp, lsh_buckets
from tests.peers.agreement import SEEDS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

HEADS, SIZE = 2, 8


def reformer(chunk, rounds, buckets, causal, before, after):
    """A layer of Reformer whose projections do nothing, and torch."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers.models.reformer.modeling_reformer")
    config = transformers.ReformerConfig(
        num_attention_heads=HEADS, attention_head_size=SIZE, hidden_size=HEADS * SIZE, lsh_attn_chunk_length=chunk,
        num_hashes=rounds, num_buckets=buckets, is_decoder=causal, lsh_attention_probs_dropout_prob=0.0,
        lsh_num_chunks_before=before, lsh_num_chunks_after=after, hash_seed=3,
    )  # fmt: skip
    layer = transformers.LSHSelfAttention(config, layer_idx=0).double().eval()
    with torch.no_grad():
        for projection in (layer.query_key, layer.value):
            projection.weight.copy_(torch.eye(HEADS * SIZE))
    return layer, torch


def in_heads(x):
    return np.moveaxis(x.reshape(*x.shape[:-1], HEADS, SIZE), -2, -3)


@given(
    seed=SEEDS, chunk=st.sampled_from([2, 4, 8]), chunks=st.integers(3, 6), rounds=st.integers(1, 3),
    causal=st.booleans(), before=st.integers(0, 2), after=st.integers(0, 2), padded=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_lsh_attention_is_that_of_reformer(seed, chunk, chunks, rounds, causal, before, after, padded):
    """With the buckets that the layer has drawn, forward and backward; where tokens are padding, of the others.

    To nine digits: a score of -1e5 in a round costs the others that many.
    """
    layer, torch = reformer(chunk, rounds, 4, causal, before, after)
    n, rng = chunk * chunks, np.random.default_rng(seed)
    x, d_out = (torch.tensor(rng.normal(size=(3, n, HEADS * SIZE))) for _ in range(2))
    x.requires_grad_()
    lengths = np.array([n, n - 1, n // 2]) if padded else np.array([n] * 3)
    kept = torch.tensor(np.arange(n) < lengths[:, None])
    found = layer(x, attention_mask=kept if padded else None)
    (found.hidden_states * d_out * kept[..., None]).sum().backward()
    own = {"chunk": chunk, "before": before, "after": after, "causal": causal}
    own |= {"mask": masks.padding(lengths[:, None])} if padded else {}
    tokens, cotangent = in_heads(x.detach().numpy()), in_heads((d_out * kept[..., None]).numpy())
    buckets = found.buckets.numpy()
    got, seen = lsh_attention(tokens, tokens, buckets, **own), in_heads(kept[..., None].expand(3, n, 16).numpy())
    want = in_heads(found.hidden_states.detach().numpy())
    np.testing.assert_allclose(np.where(seen, got, 0.0), np.where(seen, want, 0.0), rtol=1e-9, atol=1e-9)
    gradients = lsh_attention_vjp(cotangent, tokens, tokens, buckets, **own)
    wanted = in_heads(x.grad.numpy())
    np.testing.assert_allclose(gradients.qk + gradients.v, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("buckets", [6, [4, 6], [2, 4, 2]])
def test_buckets_are_those_of_reformer(buckets):
    layer, torch = reformer(4, 3, buckets, False, 1, 0)
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, HEADS, 16, SIZE)))
    found = layer._hash_vectors(x, 3, None).numpy().reshape(2, HEADS, 3, 16)
    torch.manual_seed(3)
    factors = buckets if isinstance(buckets, list) else [buckets]
    drawn = torch.randn((HEADS, SIZE, 3, sum(factors) // 2), dtype=torch.float64).numpy()
    rotations = np.split(np.moveaxis(drawn, 2, 1), np.cumsum(factors)[:-1] // 2, axis=-1)
    got = lsh_buckets(x.numpy(), rotations)
    np.testing.assert_array_equal(got + np.prod(factors) * np.arange(3)[:, None], found)
