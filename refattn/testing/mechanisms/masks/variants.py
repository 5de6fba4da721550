"""Variants of masks: changes of rules, which the variants of attention apply to its mask argument too.

A change takes a mask, replaces rules inside it and returns another mask; it raises NotApplicable where the mask holds
no rule that it would change. Positions are NumPy arrays here.
"""

from __future__ import annotations

import functools

import numpy as np

from refattn import masks
from refattn.masks import Mask
from refattn.masks.algebra import COMBINED
from refattn.masks.registry import data_axes
from refattn.testing.registry import NotApplicable, variant


def replaced(mask: Mask, name, replacement) -> Mask:
    """The mask with every rule called `name` replaced by `replacement(**its arguments)`."""
    found = []

    def leaf(rule):
        if rule.name != name:
            return rule
        found.append(rule)
        return replacement(**rule.arguments)

    changed = mask.rewritten(leaf)
    if not found:
        raise NotApplicable
    return changed


def shifted(rule: Mask, offset) -> Mask:
    """A rule that takes every query to be `offset` positions later than it is."""
    return Mask(lambda i, j: rule.admits(i + offset, j))


def holds(mask: Mask, *names) -> bool:
    """Whether a rule of one of these names is part of the mask."""
    return mask.name in names or any(holds(part, *names) for part in mask.parts)


def evaluated(mask: Mask, n, m, **options):
    """The dense form of a changed mask; NotApplicable where it needs data for positions that have none."""
    try:
        return mask.dense(n, m, **options)
    except ValueError:
        raise NotApplicable from None


def change_of(name, clause, seen=(), advice=""):
    """Register a change of masks as a variant of `Mask.dense`; the change itself stays a plain function of a mask."""

    def register(change):
        @functools.wraps(change)
        def call(self, n, m, **options):
            changed = evaluated(change(self), n, m, **options)
            return changed & np.ones(self.dense(n, m, **options).shape, dtype=bool)  # a rule less may have fewer axes

        variant(name, clause, "Mask.dense", seen=seen, advice=advice)(call)
        return change

    return register


# --- polarity, alignment and positions ------------------------------------------------------------------------------


@change_of(
    "mask/polarity",
    "MASK-POLARITY",
    seen=["torch.nn.MultiheadAttention", "rasbt/LLMs-from-scratch#1061", "pytorch/pytorch#170415"],
    advice="compare with ~mask",
)
def polarity(mask):
    """True means masked out."""
    return ~mask


@change_of("mask/transposed", "MASK-POSITIONS")
def transposed(mask):
    """Queries and keys are exchanged: who may attend to whom is read the other way round."""
    return Mask(lambda i, j: mask.admits(j, i))


def top_left(mask, name, n, m, q_positions):
    """The mask in which rules called `name` count queries from position 0, although they are the last n of m."""
    if q_positions is not None or n == m:
        raise NotApplicable
    return replaced(mask, name, lambda **given: shifted(getattr(masks, name)(**given), n - m))


@variant(
    "causal/top_left",
    "MASK-ALIGN",
    "Mask.dense",
    seen=["torch scaled_dot_product_attention(is_causal=True)", "jax.nn.dot_product_attention(is_causal=True)",
          "onnx Attention without a cache", "FlashAttention 2.0", "Dao-AILab/flash-attention#282"],
    advice="pass q_positions=arange(N)",
)  # fmt: skip
def causal_top_left(self, n, m, *, q_positions=None, **options):
    """Query i sits at position i: causality starts at the top left, although queries are the last N of M."""
    return evaluated(top_left(self, "causal", n, m, q_positions), n, m, **options)


@variant(
    "window/top_left",
    "MASK-ALIGN",
    "Mask.dense",
    seen=["jax.nn.dot_product_attention(local_window_size=...)"],
    advice="pass q_positions=arange(N)",
)
def window_top_left(self, n, m, *, q_positions=None, **options):
    """Query i sits at position i: the window starts at the top left, although queries are the last N of M."""
    return evaluated(top_left(self, "window", n, m, q_positions), n, m, **options)


@variant("documents/top_left", "MASK-ALIGN", "Mask.dense")
def documents_top_left(self, n, m, *, q_positions=None, **options):
    """The documents of the queries are read from the start of the pack, although queries are the last N of M."""
    return evaluated(top_left(self, "documents", n, m, q_positions), n, m, **options)


@variant("positions/ignored", "MASK-ALIGN", "Mask.dense", seen=["Lightning-AI/litgpt#2182"])
def positions_ignored(self, n, m, *, q_positions=None, k_positions=None, like=None):
    """Positions that were given are ignored: keys count from 0, queries are the last."""
    if q_positions is None and k_positions is None:
        raise NotApplicable
    return evaluated(self, n, m, like=like)


@change_of("positions/int32", "MASK-POSITIONS")
def positions_in_32_bits(mask):
    """Positions are held in 32 bits and wrap around."""
    wrapped = lambda x: x.astype(np.int32).astype(np.int64)
    return Mask(lambda i, j: mask.admits(wrapped(i), wrapped(j)))


@change_of("positions/float32", "MASK-POSITIONS")
def positions_in_float32(mask):
    """Positions are held in float32: beyond 2^24 neighbours become one."""
    rounded = lambda x: x.astype(np.float32).astype(np.int64)
    return Mask(lambda i, j: mask.admits(rounded(i), rounded(j)))


@change_of("positions/clamped", "MASK-POSITIONS")
def positions_clamped(mask):
    """Positions below 0, those of the first queries when there are more than keys, are taken for 0."""
    return Mask(lambda i, j: mask.admits(np.maximum(i, 0), j))


# --- combinations ---------------------------------------------------------------------------------------------------


def without(mask, name):
    """The mask without rules called `name`, where another rule restricts it too."""
    if mask.name != "and":
        raise NotApplicable
    return replaced(mask, name, lambda **given: masks.everything())


@change_of(
    "causal/lost_with_mask",
    "MASK-ALGEBRA",
    seen=["keras-team/keras#23038", "unslothai/unsloth-zoo#963", "FlashInfer custom_mask"],
)
def causal_lost_with_mask(mask):
    """Causality is dropped as soon as another mask is given."""
    return without(mask, "causal")


@change_of("mask/lost_with_causal", "MASK-ALGEBRA", seen=["OpenVINO ScaledDotProductAttention(causal=True)"])
def padding_lost_with_causal(mask):
    """Padding is dropped as soon as causality is asked for."""
    return without(mask, "padding")


@change_of("combination/last_wins", "MASK-ALGEBRA")
def last_wins(mask):
    """Of two rules combined by AND only the second is applied, as Python's `and` does."""
    if mask.name != "and":
        raise NotApplicable
    return mask.parts[1]


@change_of("combination/not_dropped", "MASK-ALGEBRA")
def not_dropped(mask):
    """NOT is dropped from a part of the mask."""
    if mask.name == "not":
        return mask.parts[0]
    if not mask.parts:
        raise NotApplicable
    parts = [not_dropped(part) if holds(part, "not") else part for part in mask.parts]
    if parts == list(mask.parts):
        raise NotApplicable
    return COMBINED[mask.name](*parts)


@change_of("prefix/escapes_window", "MASK-ALGEBRA")
def prefix_escapes_window(mask):
    """The prefix is admitted by OR at the end, past the other rules that restrict it by AND."""
    if mask.name != "and" or not holds(mask, "prefix"):
        raise NotApplicable
    let_in = []

    def leaf(lengths):
        let_in.append(masks.padding(lengths))
        return masks.causal()

    return replaced(mask, "prefix", leaf) | let_in[0]


@variant(
    "empty_row/unmasked",
    "MASK-EMPTY",
    "Mask.dense",
    seen=["transformers AttentionMaskConverter._unmask_unattended", "pytorch/pytorch#110213"],
    advice="ignore the rows of queries that may attend to nothing",
)
def empty_row_unmasked(self, n, m, **options):
    """A query that may attend to nothing is let attend to everything, to keep NaN out of a softmax."""
    dense = evaluated(self, n, m, **options)
    return dense | ~dense.any(axis=-1, keepdims=True)


# --- causal and window ----------------------------------------------------------------------------------------------


@change_of("causal/strict", "MASK-CAUSAL")
def causal_strict(mask):
    """A query does not see its own position."""
    return replaced(mask, "causal", lambda: shifted(masks.causal(), -1))


@change_of("causal/one_more", "MASK-CAUSAL")
def causal_one_more(mask):
    """A query sees one position beyond its own."""
    return replaced(mask, "causal", lambda: shifted(masks.causal(), 1))


@change_of("causal/ignored", "MASK-CAUSAL", seen=["osaurus-ai/vmlx-swift#185", "facebookresearch/xformers#103"])
def causal_ignored(mask):
    """Causality is asked for and not applied."""
    return replaced(mask, "causal", masks.everything)


@change_of(
    "window/one_more_left",
    "MASK-WINDOW",
    seen=["huggingface/transformers#39408", "huggingface/transformers#26792", "zml/zml#763", "vllm-project/vllm#9679"],
    advice="pass left=W where the model's window of W tokens is window(W - 1, 0)",
)
def window_one_more_left(mask):
    """One key too many on the left: a window of W tokens passed as W instead of W - 1."""
    return replaced(mask, "window", lambda left, right: masks.window(None if left is None else left + 1, right))


@change_of("window/one_fewer_left", "MASK-WINDOW", seen=["cuDNN frontend (left bound exclusive)"])
def window_one_fewer_left(mask):
    """One key too few on the left: the bound is taken to be exclusive."""

    def shrunk(left, right):
        if not left:
            raise NotApplicable
        return masks.window(left - 1, right)

    return replaced(mask, "window", shrunk)


@change_of("window/one_more_right", "MASK-WINDOW")
def window_one_more_right(mask):
    """One key too many on the right."""
    return replaced(mask, "window", lambda left, right: masks.window(left, None if right is None else right + 1))


@change_of("window/right_ignored", "MASK-WINDOW")
def window_right_ignored(mask):
    """The right reach of the window is ignored: nothing beyond the query's own position."""
    return replaced(mask, "window", lambda left, right: masks.window(left, 0))


@change_of(
    "window/symmetric",
    "MASK-WINDOW",
    seen=["vllm-project/vllm#9679", "Keras MultiHeadAttention(sliding_window=...)"],
    advice="pass window(left, left)",
)
def window_symmetric(mask):
    """The left reach holds on both sides: the window looks ahead."""
    return replaced(mask, "window", lambda left, right: masks.window(left, left))


@change_of(
    "window/halved",
    "MASK-WINDOW",
    seen=["transformers Longformer (attention_window)"],
    advice="pass twice the reach there: its number counts both sides",
)
def window_halved(mask):
    """The reach is taken for the total of both sides, so that each gets half of it."""
    half = lambda reach: None if reach is None else reach // 2
    return replaced(mask, "window", lambda left, right: masks.window(half(left), half(right)))


@change_of("window/zero_is_unbounded", "MASK-WINDOW", seen=["openai/gpt-oss (gpt_oss/torch/model.py)"])
def window_zero_is_unbounded(mask):
    """A reach of 0 means no bound."""
    return replaced(mask, "window", lambda left, right: masks.window(left or None, right or None))


@change_of("window/none_is_minus_one", "MASK-WINDOW", seen=["the reference in flash-attention's tests"])
def window_none_is_minus_one(mask):
    """An unbounded side, written -1, is computed with as -1: the query's own position drops out."""

    def bounded(left, right):
        left, right = (-1 if side is None else side for side in (left, right))
        return Mask(lambda i, j: (j >= i - left) & (j <= i + right))

    return replaced(mask, "window", bounded)


@change_of(
    "window/by_blocks",
    "MASK-WINDOW",
    seen=["lucidrains/local-attention (exact_windowsize=False)", "allenai/longformer (sliding_chunks_no_overlap)"],
    advice="pass neighbours(W, 1, 0) & causal()",
)
def window_by_blocks(mask):
    """The query's own block and the block before it, instead of a window that moves with the query."""

    def blocks(left, right):
        if not left:
            raise NotApplicable
        return masks.neighbours(left, 1, 0) & masks.window(None, right)

    return replaced(mask, "window", blocks)


@change_of("dilated/gap", "MASK-DILATED", advice="pass dilation + 1")
def dilated_gap(mask):
    """The dilation counts the positions left out between two keys, so that the step is one more."""
    return replaced(mask, "dilated", lambda left, right, dilation: masks.dilated(left, right, dilation + 1))


@change_of("dilated/ignored", "MASK-DILATED", seen=["transformers Longformer", "allenai/longformer (sliding_chunks)"])
def dilated_ignored(mask):
    """The dilation is ignored: a plain window with as many keys."""
    return replaced(mask, "dilated", lambda left, right, dilation: masks.window(left, right))


@change_of("dilated/reach_in_positions", "MASK-DILATED", advice="pass left and right divided by the dilation")
def dilated_reach_in_positions(mask):
    """The reach counts positions instead of steps."""
    in_steps = lambda reach, dilation: None if reach is None else reach // dilation
    return replaced(
        mask,
        "dilated",
        lambda left, right, dilation: masks.dilated(in_steps(left, dilation), in_steps(right, dilation), dilation),
    )


# --- blocks ---------------------------------------------------------------------------------------------------------

_BLOCKS = ("block", "neighbours", "chunked")


@change_of("block/from_one", "MASK-BLOCK")
def block_from_one(mask):
    """Positions are counted from 1, so that the first block is one short."""
    return _moved(mask, lambda x, size: x + 1)


@change_of("block/truncating_division", "MASK-BLOCK")
def block_truncating_division(mask):
    """Division rounds towards 0, as in C: positions just below 0 fall into block 0."""
    return _moved(mask, lambda x, size: np.where(x < 0, -(-x // size) * size, x))


def _moved(mask, move):
    """The mask in which rules of blocks see other positions."""
    if not holds(mask, *_BLOCKS):
        raise NotApplicable

    def leaf(rule):
        if rule.name not in _BLOCKS:
            return rule
        size = rule.arguments["size"]
        return Mask(lambda i, j: rule.admits(move(i, size), move(j, size)))

    return mask.rewritten(leaf)


@variant("neighbours/circular", "MASK-NEIGHBOURS", "Mask.dense", seen=["Reformer in trax and transformers"])
def neighbours_circular(self, n, m, **options):
    """Blocks go round: the block before the first is the last."""

    def circle(size, before, after):
        count = max(-(-m // size), 1)

        def rule(i, j):
            ahead = (j // size - i // size) % count
            return (ahead <= after) | (ahead >= count - before)

        return Mask(rule)

    return evaluated(replaced(self, "neighbours", circle), n, m, **options)


@change_of("neighbours/after_ignored", "MASK-NEIGHBOURS")
def neighbours_after_ignored(mask):
    """Blocks after the query's own are left out."""
    return replaced(mask, "neighbours", lambda size, before, after: masks.neighbours(size, before, 0))


@change_of("neighbours/own_block_only", "MASK-NEIGHBOURS")
def neighbours_own_block_only(mask):
    """Only the query's own block is admitted."""
    return replaced(mask, "neighbours", lambda size, before, after: masks.block(size))


@change_of("chunked/not_causal", "MASK-CHUNKED")
def chunked_not_causal(mask):
    """Causality is kept between blocks and lost inside: a query sees the rest of its own block."""
    return replaced(mask, "chunked", masks.block)


@change_of("chunked/sliding", "MASK-CHUNKED")
def chunked_sliding(mask):
    """A sliding window of as many tokens."""
    return replaced(mask, "chunked", lambda size: masks.window(size - 1, 0))


# --- the Sparse Transformer -----------------------------------------------------------------------------------------


@change_of("strided/first_set_only", "MASK-STRIDED", seen=["openai/sparse_attention (attn_mode='local')"])
def strided_first_set_only(mask):
    """Only the local set: the two sets belong to two layers or heads."""
    return replaced(mask, "strided", lambda stride: masks.window(stride, 0))


@change_of("strided/second_set_only", "MASK-STRIDED", seen=["openai/sparse_attention (attn_mode='strided')"])
def strided_second_set_only(mask):
    """Only the set of every stride-th key: the two sets belong to two layers or heads."""
    return replaced(mask, "strided", lambda stride: masks.dilated(None, 0, stride))


@change_of("strided/fixed_columns", "MASK-STRIDED")
def strided_fixed_columns(mask):
    """Every stride-th key is counted from position 0 instead of back from the query."""

    def columns(stride):
        return Mask(lambda i, j: (j <= i) & ((i - j <= stride) | (j % stride == 0)))

    return replaced(mask, "strided", columns)


@change_of("fixed/first_of_block", "MASK-FIXED")
def fixed_first_of_block(mask):
    """The summary is the first positions of each block instead of the last."""

    def first(stride, summary):
        return Mask(lambda i, j: (j <= i) & ((i // stride == j // stride) | (j % stride < summary)))

    return replaced(mask, "fixed", first)


@change_of("fixed/one_more", "MASK-FIXED")
def fixed_one_more(mask):
    """The paper's remainders l - c to l are read as c + 1 positions."""
    more = lambda stride, summary: masks.fixed(stride, min(summary + 1, stride))
    return replaced(mask, "fixed", more)


@change_of("fixed/own_block_only", "MASK-FIXED")
def fixed_own_block_only(mask):
    """The summary positions are left out."""
    return replaced(mask, "fixed", lambda stride, summary: masks.chunked(stride))


# --- rules that carry data ------------------------------------------------------------------------------------------


def with_data(mask, change):
    """The mask in which data with leading axes are changed by change(array, number of own axes)."""
    found: list[str] = []

    def leaf(rule):
        given = {}
        for name, own in data_axes(rule.name).items():
            value = rule.arguments.get(name)
            if value is not None and np.ndim(value) > own:
                given[name] = change(np.asarray(value), own)
        found.extend(given)
        return rule.with_arguments(**given) if given else rule

    changed = mask.rewritten(leaf)
    if not found:
        raise NotApplicable
    return changed


@change_of("data/first_entry", "MASK-DATA", seen=["ggml-org/llama.cpp#7903"])
def data_first_entry(mask):
    """The data of the first batch entry serve all of them."""
    return with_data(mask, lambda x, own: np.broadcast_to(x[:1], x.shape))


@change_of(
    "data/batch_on_heads", "MASK-DATA", seen=["ml-explore/mlx-lm#1903", "lucidrains/graph-transformer-pytorch#2"]
)
def data_batch_on_heads(mask):
    """The axes of batch and heads are exchanged, which no shape shows where they are of one size or broadcast."""

    def swapped(x, own):
        if x.ndim - own < 2 or x.shape[0] != x.shape[1]:
            raise NotApplicable
        return np.swapaxes(x, 0, 1)

    return with_data(mask, swapped)


@change_of("global/keys_only", "MASK-GLOBAL")
def global_keys_only(mask):
    """Everything attends to global positions, which attend to no more than others do."""
    return replaced(mask, "global_tokens", lambda tokens: _listed(tokens, of_queries=False))


@change_of("global/queries_only", "MASK-GLOBAL")
def global_queries_only(mask):
    """Global positions attend to everything, and nothing attends to them."""
    return replaced(mask, "global_tokens", lambda tokens: _listed(tokens, of_queries=True))


def _listed(tokens, of_queries):
    listed = np.asarray(tokens, dtype=np.int64)[..., None, None, :]
    return Mask(lambda i, j: ((i if of_queries else j)[..., None] == listed).any(axis=-1) & (i == i) & (j == j))


@change_of("global/first_positions", "MASK-GLOBAL", seen=["BigBird (internal global tokens)"])
def global_first_positions(mask):
    """As many global positions as are listed, but the first of the sequence."""
    first = lambda tokens: masks.global_tokens(np.arange(np.shape(tokens)[-1]))
    return replaced(mask, "global_tokens", first)


@change_of("global/lost", "MASK-GLOBAL", seen=["allenai/longformer#254"])
def global_lost(mask):
    """Global positions are treated as all others."""
    return replaced(mask, "global_tokens", lambda tokens: ~masks.everything())


@change_of("prefix/one_more", "MASK-PREFIX")
def prefix_one_more(mask):
    """The prefix is one position too long: its bound is included."""
    return replaced(mask, "prefix", lambda lengths: masks.prefix(np.asarray(lengths) + 1))


@change_of("prefix/ignored", "MASK-PREFIX")
def prefix_ignored(mask):
    """Plain causal: queries inside the prefix do not see what follows in it."""
    return replaced(mask, "prefix", lambda lengths: masks.causal())


@change_of("prefix/alone", "MASK-PREFIX")
def prefix_alone(mask):
    """Only the prefix is seen: what follows it is not causal but hidden."""
    return replaced(mask, "prefix", masks.padding)


@change_of("prefix/of_queries", "MASK-PREFIX")
def prefix_of_queries(mask):
    """Queries inside the prefix see everything, what follows the prefix included."""

    def rows(lengths):
        count = np.asarray(lengths)[..., None, None]
        return Mask(lambda i, j: (j <= i) | (i < count))

    return replaced(mask, "prefix", rows)


@change_of("padding/one_more", "MASK-PADDING")
def padding_one_more(mask):
    """One key of the padding is seen."""
    return replaced(mask, "padding", lambda lengths, starts: masks.padding(np.asarray(lengths) + 1, starts))


@change_of("padding/one_fewer", "MASK-PADDING")
def padding_one_fewer(mask):
    """The last real key is not seen."""
    fewer = lambda lengths, starts: masks.padding(np.maximum(np.asarray(lengths) - 1, 0), starts)
    return replaced(mask, "padding", fewer)


@change_of("padding/right_only", "MASK-PADDING")
def padding_right_only(mask):
    """Real keys are taken to come first, although the padding is on the left."""
    return replaced(mask, "padding", lambda lengths, starts: masks.padding(lengths))


@change_of("padding/length_as_end", "MASK-PADDING")
def padding_length_as_end(mask):
    """The length is taken for the end of the real keys, although they do not start at 0."""

    def up_to(lengths, starts):
        end, first = np.asarray(lengths)[..., None, None], np.asarray(starts)[..., None, None]
        return Mask(lambda i, j: (j >= first) & (j < end))

    return replaced(mask, "padding", up_to)


@change_of("padding/of_queries", "MASK-PADDING", seen=["keras-team/keras-io#1046"])
def padding_of_queries(mask):
    """The padding is laid on queries instead of keys."""
    return replaced(mask, "padding", lambda **given: transposed(masks.padding(**given)))


@change_of(
    "documents/ignored",
    "MASK-DOCUMENTS",
    seen=["fla-org/flash-linear-attention#842", "Tencent-Hunyuan/HunyuanVideo#310"],
)
def documents_ignored(mask):
    """Packed documents see each other."""
    return replaced(mask, "documents", lambda **given: masks.everything())


@change_of("documents/first_boundary_only", "MASK-DOCUMENTS", seen=["Tencent-Hunyuan/HunyuanVideo#310"])
def documents_first_boundary_only(mask):
    """Only the first document is told from the rest."""

    def first_or_rest(ids, k_ids):
        ids = np.asarray(ids)
        same = lambda x: None if x is None else (np.asarray(x) == ids[..., :1]).astype(np.int64)
        return masks.documents(same(ids), same(k_ids))

    return replaced(mask, "documents", first_or_rest)


@change_of("documents/contiguous", "MASK-DOCUMENTS", seen=["interfaces that take cumulative lengths"])
def documents_contiguous(mask):
    """A document that comes back after another is taken for a new one."""

    def runs(ids, k_ids):
        if k_ids is not None:
            raise NotApplicable
        ids = np.asarray(ids)
        return masks.documents(np.cumsum(np.diff(ids, axis=-1, prepend=ids[..., :1]) != 0, axis=-1))

    return replaced(mask, "documents", runs)


@change_of("documents/keys_as_queries", "MASK-DOCUMENTS")
def documents_keys_as_queries(mask):
    """The documents of the keys are read for the queries too, although they are two sequences."""

    def of_keys(ids, k_ids):
        if k_ids is None:
            raise NotApplicable
        return masks.documents(k_ids)

    return replaced(mask, "documents", of_keys)


@change_of("tree/chain", "MASK-TREE")
def tree_chain(mask):
    """Draft tokens are one chain: a node sees all nodes before it, other branches included."""
    return replaced(mask, "tree", lambda parents, prefix: masks.causal())


@change_of("tree/parent_only", "MASK-TREE")
def tree_parent_only(mask):
    """A node sees itself and its parent, and no ancestor above."""

    def rule(parents, prefix):
        up = np.asarray(parents)
        if up.ndim != 1:
            raise NotApplicable

        def direct(i, j):
            a, b = i - prefix, j - prefix
            parent = up[np.maximum(a, 0)]
            return ((j < prefix) & (j <= i)) | ((a >= 0) & (b >= 0) & ((a == b) | (parent == b)))

        return Mask(direct)

    return replaced(mask, "tree", rule)


@change_of("tree/descendants", "MASK-TREE")
def tree_descendants(mask):
    """A node sees its descendants instead of its ancestors."""

    def rule(parents, prefix):
        right = masks.tree(parents, prefix)
        inside = lambda i, j: (i >= prefix) & (j >= prefix)
        return Mask(lambda i, j: np.where(inside(i, j), right.admits(j, i), right.admits(i, j)))

    return replaced(mask, "tree", rule)


@change_of("tree/without_prefix", "MASK-TREE")
def tree_without_prefix(mask):
    """The nodes do not see the prefix."""

    def rule(parents, prefix):
        if not prefix:
            raise NotApplicable
        hidden = Mask(lambda i, j: (i >= prefix) & (j < prefix))
        return masks.tree(parents, prefix) & ~hidden

    return replaced(mask, "tree", rule)
