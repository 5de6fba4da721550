"""The inputs of the golden vectors; definition.py says what comes out."""

from ..attention.cases import bools, dropped, inputs, needles, one_head, spiked
from ..exact import Tensor, inf, nan, tensor
from ..masks.cases import CAUSAL, all_of, window
from ..vectors import call, case, grid, rule

WINDOW = all_of(CAUSAL, window(3, 0))


def rising(n, m, d=2, dv=3):
    """Scores that rise from key to key, so that every tile raises the maximum; values that tell keys apart."""
    return {
        "q": tensor([[1.0 + i, 0.5] + [0.0] * (d - 2) for i in range(n)]),
        "k": tensor([[0.5 * j, 1.0] + [0.0] * (d - 2) for j in range(m)]),
        "v": grid("rising v", (m, dv), bits=5),
        "scale": 0.5,
    }


def far_below(n, m):
    """All scores of about -6e4."""
    return {
        "q": tensor([[-240.0 - 8 * i, -224.0] for i in range(n)]),
        "k": tensor([[128.0 + 2 * j, 120.0 - 2 * j] for j in range(m)]),
        "v": grid("far v", (m, 3), bits=5),
        "scale": 1.0,
    }


def packed(seed, t, s, d=3, dv=2, heads=2, kv_heads=2):
    return {
        "q": grid(f"{seed} q", (heads, t, d), bits=5),
        "k": grid(f"{seed} k", (kv_heads, s, d), bits=6),
        "v": grid(f"{seed} v", (kv_heads, s, dv), bits=5),
    }


def with_cotangents(arguments, seed, dv, lead=()):
    """The same with cotangents of the output and of lse."""
    n = arguments["q"].shape[-2]
    return {"d_out": grid(f"{seed} d_out", (*lead, n, dv), bits=5), **arguments}


POISONED = one_head("tiled poison", 3, 7)
POISONED_KV = {
    **POISONED,
    "k": spiked(POISONED["k"], {9: nan, 10: inf, 18: 30720.0}),
    "v": spiked(POISONED["v"], {6: nan, 7: inf, 12: -inf}),
}  # keys 3 and 6

CASES = [
    case(
        "tiled_attention.rising.0001: TILED-EQUAL TILED-RESCALE TILED-MEMORY; Tiles",
        call("tiled_attention", **rising(3, 7), q_tile=2, k_tile=2, return_lse=True),
        "tile/rescale_missing tile/output_not_rescaled tile/sum_not_rescaled tile/sum_of_last "
        "tile/divided_each_time tile/last_dropped tile/overlap",
        comment="Every tile raises the maximum, and the last one is not full.",
    ),
    case(
        "tiled_attention.options.0001: TILED-EQUAL; Tiles CausalAlignment Bias Softcap Sink Dropout",
        call(
            "tiled_attention",
            **inputs("tiled options", n=5, m=7),
            mask=CAUSAL,
            bias=grid("tiled options b", (3, 5, 7), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0]),
            dropout=dropped(bools(*["1101101", "1011011"] * 2, "1110111"), 0.25),
            q_tile=2,
            k_tile=3,
            return_lse=True,
        ),
        "tile/skipped_from_top_left tile/last_dropped",
    ),
    case(
        "tiled_attention.one.0001: TILED-EQUAL TILED-RESCALE; Tiles Window",
        call(
            "tiled_attention",
            **inputs("tiles of one", b=1, h=2, n=3, m=5),
            q_tile=1,
            k_tile=1,
            mask=WINDOW,
            return_lse=True,
        ),
        "tile/output_not_rescaled tile/divided_each_time",
    ),
    case(
        "tiled_attention.skip.0001: TILED-SKIP; Tiles CausalAlignment Needle",
        call("tiled_attention", **needles(4, 8, [5, 3, 7, 6]), mask=CAUSAL, q_tile=2, k_tile=2, return_lse=True),
        "tile/skipped_from_top_left tile/diagonal_taken_as_full",
        comment="Positions 4 to 7, two of them aligned with the key just beyond theirs, in the tile on the diagonal.",
    ),
    case(
        "tiled_attention.skip.0002: TILED-SKIP TILED-RESCALE; Tiles DenseMask EmptyRow",
        call(
            "tiled_attention",
            **needles(5, 8, [1, 4, 6, 0, 7]),
            mask=bools("11000000", "00001100", "00000011", "00000000", "00110001"),
            q_tile=3,
            k_tile=3,
            return_lse=True,
        ),
        "tile/skipped_by_first_row tile/no_guard",
        comment="Rows that see nothing in their first tiles, and one that sees nothing at all.",
    ),
    case(
        "tiled_attention.far.0001: TILED-RESCALE; Tiles LargeLogits",
        call("tiled_attention", **far_below(2, 5), k_tile=2, return_lse=True),
        "tile/peak_from_zero tile/peak_from_minus_5e4",
        comment="All scores lie below -5e4, where running maxima have been started.",
    ),
    case(
        "tiled_attention.absent.0001: TILED-EQUAL TILED-SKIP; Tiles Poison",
        call(
            "tiled_attention",
            **POISONED_KV,
            mask=bools("1110110", "1010100", "0110010"),
            q_tile=2,
            k_tile=2,
            return_lse=True,
        ),
        comment="Excluded keys and values hold NaN and infinities, in tiles with others that are not excluded.",
    ),
    case(
        "tiled_attention.group.0001: TILED-GROUP; Tiles GroupedHeads CausalAlignment",
        call(
            "tiled_attention",
            q=grid("tiled group q", (6, 3, 4), bits=5),
            k=grid("tiled group k", (2, 5, 4), bits=6),
            v=grid("tiled group v", (2, 5, 3), bits=5),
            mask=CAUSAL,
            q_tile=2,
            k_tile=2,
        ),
        "tile/interleaved_groups",
    ),
    case(
        "tiled_attention.function.0001: TILED-FUNCTION; Tiles Dropout",
        call(
            "tiled_attention",
            **one_head("tiled function", 3, 7),
            dropout=dropped(rule("block", size=5), 0.125),
            k_tile=3,
            return_lse=True,
        ),
        "tile/positions_from_tile",
        comment="Dropout's draws as a rule: kept are the keys of the query's own block.",
    ),
    case(
        "tiled_attention.refuse.0001: TILED-REFUSE; WrongInput",
        call("tiled_attention", **one_head("tiled refuse", 2, 3), k_tile=0),
        comment="Tiles of no keys.",
    ),
    case(
        "split_attention.basic.0001: SPLIT-MERGE SPLIT-TREE; SplitKeys CausalAlignment",
        call(
            "split_attention",
            **inputs("split", b=1, h=3, n=4, m=7),
            splits=[1, 3],
            tree="sequential",
            mask=CAUSAL,
            return_lse=True,
        ),
        "split/averaged split/lse_base_2 split/last_part_lost split/lse_of_last_merge split/positions_count_anew",
        comment="Parts of 1, 2 and 4 keys, of which the first queries do not see all.",
    ),
    case(
        "split_attention.empty.0001: SPLIT-MERGE; SplitKeys EmptyRow",
        call(
            "split_attention",
            **one_head("split empty", 4, 6),
            splits=[2, 2],
            tree="balanced",
            mask=bools("110000", "000000", "001011", "100100"),
            return_lse=True,
        ),
        "split/two_empties_nan split/empty_part_plus_infinity split/empty_part_finite",
        comment="A part without keys, queries that see none of a part, and one that sees nothing at all.",
    ),
    case(
        "split_attention.large.0001: SPLIT-MERGE; SplitKeys LargeLogits",
        call(
            "split_attention",
            q=tensor([[64.0, -32.0], [-64.0, -60.0]]),
            k=tensor([[30.0, 40.0], [31.0, 40.0], [30.5, 41.0], [-30.0, 2.0]]),
            v=tensor([[1.0, -3.0, 0.5], [2.0, 5.0, 0.25], [-4.0, 1.0, 3.0], [0.5, 0.5, 0.5]]),
            scale=1.0,
            splits=2,
            return_lse=True,
        ),
        "split/merge_without_shift",
    ),
    case(
        "split_attention.sink.0001: SPLIT-SINK SPLIT-TREE; SplitKeys Sink",
        call(
            "split_attention",
            **inputs("split sink", b=1, h=2, n=3, m=5),
            splits=2,
            tree=[1, 0],
            sinks=tensor([0.75, -2.0]),
            return_lse=True,
        ),
        "split/sink_in_every_part",
    ),
    case(
        "split_attention.refuse.0001: SPLIT-REFUSE; WrongInput",
        call("split_attention", **one_head("split refuse", 2, 3), splits=[2, 1]),
        comment="Places of cuts that descend.",
    ),
    case(
        "packed_attention.causal.0001: PACKED-ALONE PACKED-POSITIONS PACKED-TAIL; PackedDocuments CausalAlignment",
        call(
            "packed_attention",
            **packed("packed causal", 7, 11),
            q_offsets=[0, 3, 5, 6],
            k_offsets=[0, 4, 5, 9],
            mask=CAUSAL,
            return_lse=True,
        ),
        "packed/offsets_ignored packed/first_boundary_only packed/longest_for_all packed/one_key_late "
        "packed/last_sequence_lost packed/positions_continue packed/top_left packed/tail_joins_the_last "
        "packed/offsets_of_queries_for_keys",
        comment="Sequences of 3, 2 and 1 queries over 4, 1 and 4 keys; the last tokens belong to none.",
    ),
    case(
        "packed_attention.window.0001: PACKED-ALONE PACKED-POSITIONS; PackedDocuments Window Sink GroupedHeads",
        call(
            "packed_attention",
            **packed("packed window", 9, 9, heads=4),
            q_offsets=[0, 2, 7, 9],
            mask=WINDOW,
            sinks=tensor([0.5, -1.0, 0.0, 1.0]),
        ),
        "packed/offsets_ignored packed/longest_for_all",
    ),
    case(
        "packed_attention.empty.0001: PACKED-EMPTY; PackedDocuments EmptyRow",
        call(
            "packed_attention",
            **packed("packed empty", 5, 4),
            q_offsets=[0, 0, 2, 2, 5],
            k_offsets=[0, 1, 1, 1, 4],
            return_lse=True,
        ),
        "packed/empty_is_nan packed/offsets_ignored",
        comment="A sequence without queries, one without keys, one without either.",
    ),
    case(
        "packed_attention.refuse.0001: PACKED-REFUSE; WrongInput",
        call("packed_attention", **packed("packed refuse", 3, 3), q_offsets=[0, 2, 4]),
        comment="Offsets past the last token.",
    ),
    case(
        "packed_attention.refuse.0002: PACKED-REFUSE; WrongInput",
        call("packed_attention", **packed("packed refuse", 3, 3), q_offsets=[0, 1, 3], k_offsets=[0, 3]),
        comment="Two sequences of queries, one of keys.",
    ),
    case(
        "tiled_attention_vjp.basic.0001: TILED-GRADIENT; Tiles Gradient",
        call(
            "tiled_attention_vjp",
            d_out=grid("tiled vjp d_out", (2, 3, 2), bits=5),
            **{name: Tensor(x.shape[1:], x.data) for name, x in inputs("tiled vjp", b=1, h=2, n=3, m=5, d=3).items()},
            d_lse=grid("tiled vjp d_lse", (2, 3), bits=5),
            q_tile=2,
            k_tile=2,
        ),
        "gradient/keys_from_last_tile gradient/queries_from_last_tile gradient/tail_of_keys_lost "
        "gradient/delta_without_share",
    ),
    case(
        "tiled_attention_vjp.group.0001: TILED-GRADIENT; Tiles Gradient GroupedHeads Softcap Sink",
        call(
            "tiled_attention_vjp",
            d_out=grid("tiled vjp group d_out", (4, 2, 3), bits=5),
            q=grid("tiled vjp group q", (4, 2, 2), bits=5),
            k=grid("tiled vjp group k", (2, 3, 2), bits=6),
            v=grid("tiled vjp group v", (2, 3, 3), bits=5),
            mask=CAUSAL,
            softcap=2.0,
            sinks=tensor([0.5, -1.0, 1.5, 0.0]),
            q_tile=1,
            k_tile=2,
        ),
        "gradient/group_not_summed",
    ),
    case(
        "attention_io.standard.0001: IO-STANDARD; MemoryTraffic",
        call("attention_io", n=7, m=11, d=4, fast_memory=48, order="standard"),
        "io/weights_stay",
    ),
    case(
        "attention_io.keys_outside.0001: IO-KEYS-OUTSIDE IO-TILES; MemoryTraffic",
        call("attention_io", n=13, m=11, d=4, fast_memory=50, order="keys_outside"),
        "io/output_stays",
    ),
    case(
        "attention_io.queries_outside.0001: IO-QUERIES-OUTSIDE IO-TILES; MemoryTraffic",
        call("attention_io", n=13, m=11, d=4, fast_memory=50, order="queries_outside"),
        "io/keys_once io/tiles_rounded_down",
        comment="The fast memory is no multiple of 4D.",
    ),
]
