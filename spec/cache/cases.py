"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..vectors import call, case, grid


def tokens(seed, t, b=1, h=2, g=1, d=4, dv=3):
    """Queries, keys and values of t tokens."""
    return {
        "q": grid(f"{seed} q", (b, h, t, d), bits=5),
        "k": grid(f"{seed} k", (b, g, t, d), bits=6),
        "v": grid(f"{seed} v", (b, g, t, dv), bits=5),
    }


SEVEN = tokens("seven", 7, b=2, h=6, g=3, d=4, dv=2)
ELEVEN = tokens("eleven", 11)
WITH_DRAFTS = tokens("drafts", 12)
FOR_CODES = tokens("codes 1", 11, h=2, g=1, d=4, dv=8)

CASES = [
    case(
        "cache.contiguous.0001: CACHE-SPLIT; Decode",
        call("cache.decode", **SEVEN, blocks=[3, 1, 1, 2]),
        "cache/top_left cache/block_sees_itself_whole",
    ),
    case(
        "cache.contiguous.0002: CACHE-ROPE CACHE-SPLIT; Decode",
        call("cache.decode", **SEVEN, blocks=[4, 1, 1, 1], rope_base=100.0),
        "cache/position_from_block cache/rotated_twice cache/keys_not_rotated cache/rope_ignored",
    ),
    case(
        "cache.contiguous.0003: CACHE-SPLIT CACHE-ROPE; Decode",
        call(
            "cache.decode",
            **SEVEN,
            blocks=[2, 5],
            rope_base=10.0,
            layout="interleaved",
            softcap=2.0,
            scale=0.75,
            sinks=grid("cache sinks", (6,), bits=5),
        ),
        "cache/position_from_block",
        comment="All options of attention that decoding knows.",
    ),
    case(
        "cache.truncate.0001: CACHE-TRUNCATE; Rollback",
        call("cache.decode", **WITH_DRAFTS, blocks=[3, 3, -2, 1, 4, -4, 1], rope_base=100.0),
        "cache/stale_drafts cache/positions_keep_counting",
        comment="Drafts of 3 and 4 tokens; 2 and 4 of them are rejected.",
    ),
    case(
        "cache.truncate.0002: CACHE-TRUNCATE CACHE-RING; Rollback Ring",
        call("cache.decode", **WITH_DRAFTS, blocks=[5, 3, -2, 1, 1, 1, -1, 1], cache="rolling", window=3),
        "cache/stale_drafts ring/no_slack",
        comment="After the ring has wrapped.",
    ),
    case(
        "cache.truncate.0003: CACHE-MISUSE; WrongInput",
        call("cache.decode", **tokens("draft of none", 3), blocks=[1, -2, 2]),
        comment="Two tokens are taken back; one is there.",
    ),
    case(
        "cache.blocks.0001: CACHE-MISUSE; WrongInput",
        call("cache.decode", **tokens("too few", 3), blocks=[1, 1]),
        comment="The blocks bring two tokens, there are three.",
    ),
    case(
        "cache.rolling.0001: CACHE-RING CACHE-UNUSED; Ring",
        call("cache.decode", **ELEVEN, blocks=[2, 1, 1, 1, 1, 1, 1, 1, 1, 1], cache="rolling", window=3),
        "ring/one_more ring/one_less ring/never_wraps ring/attends_to_empty_slots",
        comment="A prompt shorter than the window, then three wraps.",
    ),
    case(
        "cache.rolling.0002: CACHE-RING CACHE-BLOCK CACHE-ROPE; Ring BlockOfTokens",
        call("cache.decode", **ELEVEN, blocks=[4, 1, 1, 1, 4], cache="rolling", window=4, rope_base=100.0),
        "ring/one_more ring/block_overwrites ring/position_of_slot",
        comment="A prompt as long as the window; later a block as long as it.",
    ),
    case(
        "cache.rolling.0003: CACHE-RING CACHE-BLOCK; Ring BlockOfTokens",
        call("cache.decode", **ELEVEN, blocks=[7, 1, 3], cache="rolling", window=4, rope_base=100.0),
        "ring/one_less ring/block_overwrites ring/position_of_slot ring/block_sees_only_itself",
        comment="A prompt longer than the window.",
    ),
    case(
        "cache.sink.0001: CACHE-SINK CACHE-SINK-POSITIONS CACHE-ROPE; AttentionSinks",
        call("cache.decode", **ELEVEN, blocks=[1] * 11, cache="sink", first=2, recent=3, rope_base=10.0),
        "sink/absolute_positions sink/forgotten sink/first_counts_as_recent",
    ),
    case(
        "cache.sink.0002: CACHE-SINK CACHE-ROPE; AttentionSinks BlockOfTokens",
        call(
            "cache.decode",
            **ELEVEN,
            blocks=[4, 3, 1, 2, 1],
            cache="sink",
            first=1,
            recent=4,
            positions="absolute",
            rope_base=10.0,
        ),
        "sink/cache_positions sink/forgotten",
    ),
    case(
        "cache.sink.0003: CACHE-SINK CACHE-SINK-POSITIONS; AttentionSinks BlockOfTokens",
        call("cache.decode", **ELEVEN, blocks=[5, 2, 4], cache="sink", first=2, recent=3, rope_base=10.0),
        "sink/room_for_one sink/absolute_positions",
        comment="Room is made for the whole block before it comes; a block longer than that leaves the sinks alone.",
    ),
    case(
        "cache.paged.0001: CACHE-PAGED CACHE-UNUSED; Pages",
        call("cache.decode", **SEVEN, blocks=[3, 1, 2, 1], cache="paged", page_size=2, rope_base=100.0),
        "paged/first_page_only paged/pages_in_reverse paged/whole_last_page",
    ),
    case(
        "cache.paged.0002: CACHE-PAGED CACHE-TRUNCATE; Pages Rollback",
        call("cache.decode", **WITH_DRAFTS, blocks=[4, 3, -3, 2, 3], cache="paged", page_size=3),
        "cache/stale_drafts paged/whole_last_page",
    ),
    case(
        "cache.reorder.0001: CACHE-REORDER; BeamSearch",
        call("cache.decode", **tokens("beams", 6, b=3), blocks=[3, [2, 0, 2], 2, [1, 1, 0], 1], rope_base=100.0),
        "cache/reorder_ignored cache/values_not_reordered",
        comment="Three beams; sequence 1 is given up first, then what had been sequence 2 goes on three times.",
    ),
    case(
        "cache.reorder.0002: CACHE-SHARED CACHE-REORDER; BeamSearch Pages",
        call(
            "cache.decode",
            **tokens("shared pages", 7, b=2),
            blocks=[3, [1, 1], 2, [0, 0], 2],
            cache="paged",
            page_size=2,
        ),
        "paged/written_while_shared cache/reorder_ignored",
        comment="Two sequences share a page that is half full, and both write to it.",
    ),
    case(
        "cache.cross.0001: CACHE-CROSS; CrossAttention Decode",
        call(
            "cache.decode",
            q=grid("cross q", (2, 4, 5, 4), bits=5),
            k=grid("cross k", (2, 2, 7, 4), bits=6),
            v=grid("cross v", (2, 2, 7, 3), bits=5),
            blocks=[2, 1, 2],
            cache="cross",
        ),
        "cross/causal",
    ),
    case(
        "cache.quantized.0001: CACHE-QUANTIZED CACHE-RESIDUAL; QuantizedCache",
        call("cache.decode", **FOR_CODES, blocks=[5, 1, 1, 1, 1, 1, 1], cache="quantized", bits=4, group=4, residual=4),
        "quantized/keys_per_token quantized/scale_dropped quantized/no_residual",
    ),
    case(
        "cache.quantized.0002: CACHE-RESIDUAL; QuantizedCache BlockOfTokens",
        call("cache.decode", **FOR_CODES, blocks=[9, 2], cache="quantized", bits=4, group=4, residual=4),
        "quantized/prompt_sees_codes quantized/scale_dropped",
        comment="The prompt attends to itself as it came.",
    ),
    case(
        "cache.quantize.0001: CACHE-QUANTIZED CACHE-QUANTIZED-ERROR; QuantizedCache",
        call("cache.quantize", x=grid("quantize", (2, 6, 5), bits=5), bits=4, group=3, axis=1),
        "quantized/symmetric quantized/rounds_down",
        comment="Along an axis that is not the last.",
    ),
    case(
        "cache.quantize.0002: CACHE-QUANTIZED-ERROR; QuantizedCache",
        call("cache.quantize", x=tensor([[3.0, 3.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), bits=8, group=2),
        comment="Groups whose numbers are equal.",
    ),
    case(
        "cache.quantize.0003: CACHE-MISUSE; WrongInput",
        call("cache.quantize", x=Tensor((2, 5), [1.0] * 10), bits=8, group=2),
        comment="Groups of 2 of 5 numbers.",
    ),
    case(
        "cache.dequantize.0001: CACHE-QUANTIZED; QuantizedCache",
        call(
            "cache.dequantize",
            codes=Tensor((2, 4), [0, 15, 7, 8, 1, 2, 3, 4], "int64"),
            scale=tensor([[0.5, 2.0], [0.25, 0.0]]),
            zero=tensor([[-1.0, 3.0], [0.0, -7.0]]),
        ),
        "quantized/no_zero",
    ),
    case(
        "cache.tree.0001: CACHE-TREE; DraftTree",
        call("cache.tree_positions", parents=[-1, 0, 0, 1, -1, 2, 4, 3], prefix=11),
        "tree/position_of_slot",
        comment="Two roots.",
    ),
    case(
        "cache.bytes.0001: CACHE-BYTES; CacheBytes",
        call("cache.cache_nbytes", tokens=130, layers=3, kv_heads=2, head_dim=8, value_dim=6, itemsize=4),
        "cache_bytes/values_as_wide_as_keys",
    ),
    case(
        "cache.bytes.0002: CACHE-BYTES; CacheBytes",
        call("cache.cache_nbytes", tokens=130, kv_heads=2, head_dim=8, first=4, recent=60),
    ),
    case(
        "cache.bytes.0003: CACHE-BYTES; CacheBytes",
        call("cache.cache_nbytes", tokens=130, kv_heads=2, head_dim=8, bits=4, group=4, residual=32),
        "cache_bytes/no_scales",
        comment="128 keys and 98 values in codes.",
    ),
    case(
        "cache.bytes.0004: CACHE-BYTES; CacheBytes",
        call("cache.cache_nbytes", tokens=130, kv_heads=2, head_dim=8, page_size=16),
        comment="9 pages of 16.",
    ),
    case(
        "cache.bytes.0005: CACHE-BYTES; CacheBytes",
        call("cache.cache_nbytes", tokens=130, layers=2, latent_dim=16, rope_dim=4),
    ),
]
