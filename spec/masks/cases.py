"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..vectors import Case

FAR = 2**40


def whole(nested):
    """Integers as an array."""
    return tensor(nested, dtype="int64")


def case(name, mask, n, m, clauses, flags, catches=(), comment="", **options):
    """A case of `Mask.dense`; q_positions and k_positions may be given."""
    positions = {key: options.pop(key) for key in ("q_positions", "k_positions") if key in options}
    arguments = {"self": mask, "n": n, "m": m, **positions}
    return Case(f"masks.{name}", "Mask.dense", arguments, list(clauses), list(flags), comment, list(catches), **options)


CAUSAL = {"rule": "causal"}
EVERYTHING = {"rule": "everything"}


def window(left, right):
    return {"rule": "window", "left": left, "right": right}


def all_of(*rules):
    return {"rule": "and", "of": list(rules)}


def any_of(*rules):
    return {"rule": "or", "of": list(rules)}


def no(rule):
    return {"rule": "not", "of": [rule]}


def prefix(lengths):
    return {"rule": "prefix", "lengths": lengths}


def padding(lengths, starts=0):
    return {"rule": "padding", "lengths": lengths, "starts": starts}


def global_tokens(*tokens):
    return {"rule": "global_tokens", "tokens": list(tokens)}


WINDOWS = ["window/one_more_left", "window/one_fewer_left", "window/one_more_right", "window/right_ignored"]

CASES = [
    # --- causal, alignment and positions ---
    case(
        "causal.0001", CAUSAL, 4, 7, ["MASK-CAUSAL", "MASK-ALIGN", "MASK-POLARITY"], ["CausalAlignment"],
        ["causal/top_left", "causal/strict", "causal/one_more", "causal/ignored", "mask/polarity", "mask/transposed"],
    ),
    case(
        "causal.0002", CAUSAL, 7, 4, ["MASK-CAUSAL", "MASK-ALIGN", "MASK-EMPTY"], ["CausalAlignment", "EmptyRow"],
        ["causal/top_left", "positions/clamped", "causal/strict", "empty_row/unmasked"],
        "More queries than keys: the first three lie below position 0 and may attend to nothing.",
    ),
    case(
        "causal.0003", CAUSAL, 1, 6, ["MASK-CAUSAL", "MASK-ALIGN"], ["Basic"], ["causal/top_left", "mask/polarity"],
        "One step of decoding sees every key.",
    ),
    case(
        "positions.0001", CAUSAL, 4, 6, ["MASK-POSITIONS", "MASK-CAUSAL"], ["FarPositions"],
        ["positions/ignored", "positions/int32", "positions/float32", "mask/transposed"],
        "Beyond 32 bits, where float32 has no odd numbers, below 0 and out of order.",
        q_positions=whole([FAR + 1, 5, -3, FAR]), k_positions=whole([FAR, FAR + 1, 2**24 + 1, 6, -3, 5]),
    ),
    case(
        "positions.0002", window(2, 1), 3, 5, ["MASK-POSITIONS", "MASK-WINDOW", "MASK-DATA"], ["FarPositions"],
        ["positions/ignored", *WINDOWS],
        "Positions with leading axes, as of a batch in which each sequence is at another step.",
        q_positions=whole([[[7, 8, 9]], [[2, 0, 4]]]), k_positions=whole([9, 8, 6, 2, 1]),
    ),
    case("nothing.0001", CAUSAL, 0, 5, ["MASK-ALIGN"], ["EmptyRow"], comment="No queries."),
    case("nothing.0002", window(1, 1), 3, 0, ["MASK-ALIGN"], ["EmptyRow"], comment="No keys."),
    # --- windows ---
    case(
        "window.0001", window(2, 1), 5, 8, ["MASK-WINDOW", "MASK-ALIGN"], ["Window", "CausalAlignment"],
        [*WINDOWS, "window/top_left", "window/symmetric", "window/halved"],
    ),
    case(
        "window.0002", window(3, 0), 11, 11, ["MASK-WINDOW"], ["Window"],
        ["window/one_more_left", "window/one_fewer_left", "window/by_blocks", "window/symmetric",
         "window/zero_is_unbounded", "window/halved"],
        "What models call a sliding window of 4 tokens.",
    ),
    case(
        "window.0003", window(None, 1), 3, 7, ["MASK-WINDOW"], ["Window"],
        ["window/none_is_minus_one", "window/symmetric", "window/top_left"],
    ),
    case("window.0004", window(0, 0), 3, 5, ["MASK-WINDOW"], ["Window"], ["window/zero_is_unbounded", "window/top_left"]),
    case(
        "window.0005", window(FAR, 2), 6, 4, ["MASK-WINDOW", "MASK-ALIGN"], ["Window", "CausalAlignment"],
        ["window/right_ignored", "window/one_more_right", "window/top_left", "positions/clamped"],
        "A reach far beyond every key is no bound; queries below position 0 look ahead.",
    ),
    case(
        "dilated.0001", {"rule": "dilated", "left": 2, "right": 1, "dilation": 3}, 6, 11,
        ["MASK-DILATED"], ["DilatedWindow"], ["dilated/gap", "dilated/ignored", "dilated/reach_in_positions"],
    ),
    case(
        "dilated.0002", {"rule": "dilated", "left": None, "right": 0, "dilation": 4}, 3, 6,
        ["MASK-DILATED", "MASK-POSITIONS"], ["DilatedWindow", "FarPositions"], ["positions/ignored", "positions/float32"],
        q_positions=whole([FAR + 3, 9, -1]), k_positions=whole([FAR - 1, FAR + 3, 1, 5, -5, 3]),
    ),
    # --- blocks ---
    case("block.0001", {"rule": "block", "size": 3}, 5, 8, ["MASK-BLOCK"], ["Blocks"], ["block/from_one"],
         "The last block is short."),
    case(
        "block.0002", {"rule": "block", "size": 3}, 7, 5, ["MASK-BLOCK", "MASK-POSITIONS"], ["Blocks", "EmptyRow"],
        ["block/truncating_division", "positions/clamped"], "Queries below position 0 are in a block of their own.",
    ),
    case(
        "neighbours.0001", {"rule": "neighbours", "size": 2, "before": 1, "after": 0}, 7, 11,
        ["MASK-NEIGHBOURS"], ["Blocks"], ["neighbours/own_block_only", "block/from_one"],
    ),
    case(
        "neighbours.0002", {"rule": "neighbours", "size": 2, "before": 2, "after": 1}, 11, 11,
        ["MASK-NEIGHBOURS"], ["Blocks"], ["neighbours/circular", "neighbours/after_ignored", "neighbours/own_block_only"],
    ),
    case(
        "chunked.0001", {"rule": "chunked", "size": 3}, 7, 7, ["MASK-CHUNKED"], ["Blocks"],
        ["chunked/not_causal", "chunked/sliding", "block/from_one"],
    ),
    case(
        "chunked.0002", {"rule": "chunked", "size": 4}, 3, 10, ["MASK-CHUNKED", "MASK-ALIGN"], ["Blocks", "CausalAlignment"],
        ["chunked/not_causal", "chunked/sliding"],
    ),
    # --- the Sparse Transformer ---
    case(
        "strided.0001", {"rule": "strided", "stride": 3}, 9, 11, ["MASK-STRIDED"], ["SparseTransformer"],
        ["strided/first_set_only", "strided/second_set_only", "strided/fixed_columns"],
    ),
    case(
        "fixed.0001", {"rule": "fixed", "stride": 4}, 10, 10, ["MASK-FIXED"], ["SparseTransformer"],
        ["fixed/first_of_block", "fixed/one_more", "fixed/own_block_only"],
        "Row 9 is {3, 7, 8, 9}, row 6 is {3, 4, 5, 6}.",
    ),
    case(
        "fixed.0002", {"rule": "fixed", "stride": 5, "summary": 2}, 4, 13, ["MASK-FIXED"], ["SparseTransformer"],
        ["fixed/first_of_block", "fixed/one_more", "fixed/own_block_only"],
    ),
    case(
        "tile.0001", {"rule": "fixed", "stride": 4}, 3, 5, ["MASK-TILES", "MASK-POSITIONS", "MASK-FIXED"],
        ["SparseTransformer", "FarPositions"], ["positions/ignored", "fixed/one_more", "fixed/own_block_only"],
        "Rows 6 to 8 and columns 3 to 7 of fixed.0001.", q_positions=whole([6, 7, 8]), k_positions=whole([3, 4, 5, 6, 7]),
    ),
    # --- rules that carry data ---
    case(
        "global.0001", any_of(window(1, 0), global_tokens(6, 2, 6)), 5, 8, ["MASK-GLOBAL", "MASK-ALGEBRA"], ["GlobalTokens"],
        ["global/keys_only", "global/queries_only", "global/first_positions", "global/lost"],
        "A token that is listed twice counts once.",
    ),
    case(
        "global.0002", {"rule": "global_tokens", "tokens": whole([[[1, 4]], [[0, 0]]])}, 3, 5, ["MASK-GLOBAL", "MASK-DATA"],
        ["GlobalTokens", "MaskData"], ["data/first_entry", "global/queries_only", "global/keys_only"],
    ),
    case(
        "prefix.0001", prefix(3), 7, 7, ["MASK-PREFIX"], ["PrefixMask"],
        ["prefix/one_more", "prefix/ignored", "prefix/alone", "prefix/of_queries"],
    ),
    case(
        "prefix.0002", prefix(whole([[4], [0], [6]])), 5, 6, ["MASK-PREFIX", "MASK-DATA"], ["PrefixMask", "MaskData"],
        ["prefix/one_more", "prefix/alone", "data/first_entry"],
        "One length a sequence, with an axis for heads; one is 0 and one is everything.",
    ),
    case(
        "padding.0001", padding(whole([[5], [0], [3]])), 3, 5, ["MASK-PADDING", "MASK-DATA", "MASK-EMPTY"],
        ["PaddingMask", "MaskData", "EmptyRow"],
        ["padding/one_fewer", "padding/one_more", "padding/of_queries", "data/first_entry", "empty_row/unmasked"],
    ),
    case(
        "padding.0002", padding(whole([[5], [2], [3]]), whole([[2], [5], [4]])), 4, 7, ["MASK-PADDING", "MASK-DATA"],
        ["PaddingMask", "MaskData"], ["padding/right_only", "padding/length_as_end", "padding/one_fewer"],
        "Padding on the left.",
    ),
    case(
        "documents.0001", {"rule": "documents", "ids": [4, 4, -1, 0, 0, 4, 0, 0]}, 5, 8, ["MASK-DOCUMENTS", "MASK-ALIGN"],
        ["PackedDocuments"],
        ["documents/ignored", "documents/first_boundary_only", "documents/contiguous", "documents/top_left"],
        "Documents of one token and of two pieces.",
    ),
    case(
        "documents.0002", {"rule": "documents", "ids": whole([[2, 5, 5], [5, 2, 2]]), "k_ids": whole([5, 2, 2, 7])}, 3, 4,
        ["MASK-DOCUMENTS", "MASK-DATA"], ["PackedDocuments", "MaskData"], ["data/first_entry", "documents/keys_as_queries"],
        "Keys of another sequence.", q_positions=whole([0, 1, 2]),
    ),
    case(
        "tree.0001", {"rule": "tree", "parents": [-1, 0, 0, 1, -1, 3, 2], "prefix": 2}, 9, 9, ["MASK-TREE"], ["DraftTree"],
        ["tree/chain", "tree/parent_only", "tree/descendants", "tree/without_prefix"],
    ),
    case(
        "tree.0002", {"rule": "tree", "parents": whole([[-1, 0, 0, 2, 2], [-1, 0, 1, 2, 3]]), "prefix": 3}, 5, 8,
        ["MASK-TREE", "MASK-DATA", "MASK-ALIGN"], ["DraftTree", "MaskData"], ["data/first_entry", "tree/chain"],
        "A tree and a chain, verified in one batch: the queries are the nodes.",
    ),
    # --- combinations ---
    case(
        "algebra.0001", any_of(all_of(CAUSAL, window(2, None)), global_tokens(0)), 6, 9, ["MASK-ALGEBRA", "MASK-ALIGN"],
        ["MaskAlgebra"], ["causal/top_left", "window/top_left", "window/none_is_minus_one", "causal/ignored",
                         "combination/part_restricts_all", "combination/and_or_exchanged"],
    ),
    case(
        "algebra.0002", all_of(window(2, 0), prefix(3)), 7, 7, ["MASK-ALGEBRA"], ["MaskAlgebra"],
        ["prefix/escapes_window", "combination/last_wins"], "The window cuts the prefix off too.",
    ),
    case(
        "algebra.0003", all_of(CAUSAL, padding(whole([[6], [4], [3]]))), 4, 6, ["MASK-ALGEBRA", "MASK-DATA"],
        ["MaskAlgebra", "MaskData"], ["causal/lost_with_mask", "mask/lost_with_causal", "combination/last_wins",
                                     "combination/part_dropped"],
    ),
    case(
        "algebra.0004", all_of(EVERYTHING, no({"rule": "block", "size": 2})), 3, 5, ["MASK-ALGEBRA"], ["MaskAlgebra"],
        ["combination/not_dropped", "mask/polarity", "block/from_one"],
    ),
    case(
        "algebra.0005",
        all_of(prefix(whole([[1, 4, 2], [3, 2, 5]])), {"rule": "documents", "ids": whole([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0],
               [0, 1, 0, 1, 1]])}),
        2, 5, ["MASK-ALGEBRA", "MASK-DATA"], ["MaskAlgebra", "MaskData"], ["data/first_entry", "documents/contiguous"],
        "Prefixes for batch and heads (2, 3), documents for heads (3,).",
    ),
    case(
        "algebra.0006", all_of(any_of(CAUSAL, {"rule": "documents", "ids": [7, 8, 1, 1, 1, 1, 1, 9, 0]}), window(3, 3)), 9, 9,
        ["MASK-ALGEBRA"], ["MaskAlgebra"],
        ["combination/part_escapes", "combination/part_dropped", "combination/and_or_exchanged"],
        "Five tokens of an image see each other both ways, text sees what came before, and a window cuts both.",
    ),
    case(
        "data.0001", padding(whole([[1, 4], [2, 3]])), 3, 4, ["MASK-DATA"], ["MaskData"], ["data/batch_on_heads"],
        "As many sequences as heads: only the numbers show which axis is which.",
    ),
    # --- refusals ---
    case("refuse.0001", CAUSAL, 3, 4, ["MASK-REFUSE"], ["WrongInput"], comment="Two positions for three queries.",
         q_positions=whole([0, 1]), refuses=True),
    case("refuse.0002", CAUSAL, 2, 2, ["MASK-REFUSE"], ["WrongInput"], comment="Positions that are no integers.",
         q_positions=tensor([0.0, 1.0]), refuses=True),
    case("refuse.0003", {"rule": "documents", "ids": [0, 0, 1]}, 4, 4, ["MASK-REFUSE"], ["WrongInput"],
         comment="Three documents for four positions.", refuses=True),
    case("refuse.0004", {"rule": "documents", "ids": [0, 0, 1]}, 4, 3, ["MASK-REFUSE"], ["WrongInput"],
         comment="The first query lies at position -1, which no document covers.", refuses=True),
    case("refuse.0005", {"rule": "tree", "parents": [-1, 0], "prefix": 1}, 4, 4, ["MASK-REFUSE"], ["WrongInput"],
         comment="The tree ends at position 2.", refuses=True),
    case("refuse.0006", all_of(padding(whole([1, 2])), prefix(whole([1, 2, 3]))), 2, 3, ["MASK-REFUSE"], ["WrongInput"],
         comment="Two lengths and three prefixes.", refuses=True),
    case("refuse.0007", CAUSAL, -1, 3, ["MASK-REFUSE"], ["WrongInput"], comment="A number of queries below 0.", refuses=True),
    case("refuse.0008", CAUSAL, 2, 3, ["MASK-REFUSE"], ["WrongInput"], comment="Positions of three sequences and of two.",
         q_positions=Tensor((3, 2), [0] * 6, "int64"), k_positions=Tensor((2, 3), [0] * 6, "int64"), refuses=True),
]  # fmt: skip
