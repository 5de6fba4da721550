"""Longformer and BigBird against the attention of transformers' layers, with the same weights."""

import numpy as np
import pytest
from hypothesis import given, settings

from refattn import masks, sparse
from tests.peers.agreement import SEEDS, assert_agree

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

HEADS, WIDTH = 3, 12  # heads of size 4


def projected(layer, x, name):
    """Heads (B, H, N, D) of what a layer's projection makes of tokens (B, N, E)."""
    weights, bias = (getattr(layer, name).weight.detach().numpy(), getattr(layer, name).bias.detach().numpy())
    return np.moveaxis((x @ weights.T + bias).reshape(*x.shape[:-1], HEADS, -1), -2, 1)


def tokens(out):
    """Heads as they stand beside one another in the output of a layer."""
    return np.moveaxis(out, 1, -2).reshape(out.shape[0], out.shape[2], -1)


@given(seed=SEEDS)
@settings(max_examples=12, deadline=None)
def test_longformer(seed):
    """A softmax in float32 is the layer's; global tokens differ in number, and the second sequence ends early."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    config = pytest.importorskip("transformers").LongformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(seed)
    layer, draw = module.LongformerSelfAttention(config, 0).double().eval(), np.random.default_rng(seed)
    x, marks = draw.normal(size=(2, 32, WIDTH)), np.zeros((2, 32))
    at = np.array([[0, 9, -1], [0, 4, 17]])
    for b in range(2):
        marks[b, at[b][at[b] >= 0]] = 10000.0
    marks[1, 27:] = -10000.0
    mark = torch.from_numpy(marks)
    with torch.no_grad():
        wanted = layer(torch.from_numpy(x), mark, mark < 0, mark > 0, True)[0].numpy()
    q, k, v = (projected(layer, x, name) for name in ("query", "key", "value"))
    own = {f"global_{name[0]}": projected(layer, x, f"{name}_global") for name in ("query", "key", "value")}
    rule = masks.padding(np.array([[32], [27]]))
    out = tokens(sparse.longformer_attention(q, k, v, *sparse.window_sides(8, "both_sides"), at[:, None], rule, **own))
    out[1, 27:] = 0.0  # the layer's output of padding
    assert_agree(out, wanted, 1e-6)


@pytest.mark.parametrize("training", [True, False])
@given(seed=SEEDS)
@settings(max_examples=8, deadline=None)
def test_bigbird(training, seed):
    """In training with the table that NumPy's global state draws, in evaluation with a table of zeros: a multiset."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.big_bird.modeling_big_bird")
    config = pytest.importorskip("transformers").BigBirdConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, block_size=4, num_random_blocks=2, max_position_embeddings=64
    )
    torch.manual_seed(seed)
    layer, draw = module.BigBirdBlockSparseAttention(config, seed=seed % 1000).double(), np.random.default_rng(seed)
    layer.train(training)
    x, real = draw.normal(size=(2, 48, WIDTH)), np.ones((2, 48))
    real[1, 41:] = 0.0
    mask = torch.from_numpy(real)
    blocked, band, of_rows, of_keys = module.BigBirdModel.create_masks_for_block_sparse_attn(mask, 4)
    with torch.no_grad():
        given = {"from_blocked_mask": blocked, "to_blocked_mask": blocked}
        wanted = layer(torch.from_numpy(x), band, of_rows, of_keys, **given)[0].numpy()
    if training:
        np.random.seed(seed % 1000)  # noqa: NPY002 (the layer draws from that state)
    plan = layer._get_rand_attn_plan(48, 4, 2)
    table = np.stack(layer._bigbird_block_rand_mask_with_head(48, 48, 4, 4, HEADS, *plan))
    assert training == bool(np.any(table))
    q, k, v = (projected(layer, x, name) for name in ("query", "key", "value"))
    rule = masks.padding(np.array([[48], [41]]))
    out = tokens(sparse.bigbird_attention(q, k, v, 4, table, rule, repeats="count"))
    np.testing.assert_array_equal(wanted[1, 41:], 0.0)
    out[1, 41:] = 0.0  # the layer's output of padding
    assert_agree(out, wanted, 1e-12)
