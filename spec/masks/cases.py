"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..vectors import call, case, integers, rule

FAR = 2**40


def dense(mask, n, m, **positions):
    """A call of `Mask.dense`; q_positions and k_positions may be given."""
    return call("Mask.dense", self=mask, n=n, m=m, **positions)


CAUSAL = rule("causal")
EVERYTHING = rule("everything")


def window(left, right):
    return rule("window", left=left, right=right)


def all_of(*rules):
    return rule("and", of=list(rules))


def any_of(*rules):
    return rule("or", of=list(rules))


def no(mask):
    return rule("not", of=[mask])


def prefix(lengths):
    return rule("prefix", lengths=lengths)


def padding(lengths, starts=0):
    return rule("padding", lengths=lengths, starts=starts)


def global_tokens(*tokens):
    return rule("global_tokens", tokens=list(tokens))


WINDOWS = "window/one_more_left window/one_fewer_left window/one_more_right window/right_ignored"

CASES = [
    # --- causal, alignment and positions ---
    case(
        "masks.causal.0001: MASK-CAUSAL MASK-ALIGN MASK-POLARITY; CausalAlignment",
        dense(CAUSAL, 4, 7),
        "causal/top_left causal/strict causal/one_more causal/ignored mask/polarity mask/transposed",
    ),
    case(
        "masks.causal.0002: MASK-CAUSAL MASK-ALIGN MASK-EMPTY; CausalAlignment EmptyRow",
        dense(CAUSAL, 7, 4),
        "causal/top_left positions/clamped causal/strict empty_row/unmasked",
        comment="More queries than keys: the first three lie below position 0 and may attend to nothing.",
    ),
    case(
        "masks.causal.0003: MASK-CAUSAL MASK-ALIGN; Basic",
        dense(CAUSAL, 1, 6),
        "causal/top_left mask/polarity",
        comment="One step of decoding sees every key.",
    ),
    case(
        "masks.positions.0001: MASK-POSITIONS MASK-CAUSAL; FarPositions",
        dense(
            CAUSAL,
            4,
            6,
            q_positions=integers(FAR + 1, 5, -3, FAR),
            k_positions=integers(FAR, FAR + 1, 2**24 + 1, 6, -3, 5),
        ),
        "positions/ignored positions/int32 positions/float32 mask/transposed",
        comment="Beyond 32 bits, where float32 has no odd numbers, below 0 and out of order.",
    ),
    case(
        "masks.positions.0002: MASK-POSITIONS MASK-WINDOW MASK-DATA; FarPositions",
        dense(window(2, 1), 3, 5, q_positions=integers([[7, 8, 9]], [[2, 0, 4]]), k_positions=integers(9, 8, 6, 2, 1)),
        f"positions/ignored {WINDOWS}",
        comment="Positions with leading axes, as of a batch in which each sequence is at another step.",
    ),
    case("masks.nothing.0001: MASK-ALIGN; EmptyRow", dense(CAUSAL, 0, 5), comment="No queries."),
    case("masks.nothing.0002: MASK-ALIGN; EmptyRow", dense(window(1, 1), 3, 0), comment="No keys."),
    # --- windows ---
    case(
        "masks.window.0001: MASK-WINDOW MASK-ALIGN; Window CausalAlignment",
        dense(window(2, 1), 5, 8),
        f"{WINDOWS} window/top_left window/symmetric window/halved",
    ),
    case(
        "masks.window.0002: MASK-WINDOW; Window",
        dense(window(3, 0), 11, 11),
        "window/one_more_left window/one_fewer_left window/by_blocks window/symmetric window/zero_is_unbounded "
        "window/halved",
        comment="What models call a sliding window of 4 tokens.",
    ),
    case(
        "masks.window.0003: MASK-WINDOW; Window",
        dense(window(None, 1), 3, 7),
        "window/none_is_minus_one window/symmetric window/top_left",
    ),
    case(
        "masks.window.0004: MASK-WINDOW; Window", dense(window(0, 0), 3, 5), "window/zero_is_unbounded window/top_left"
    ),
    case(
        "masks.window.0005: MASK-WINDOW MASK-ALIGN; Window CausalAlignment",
        dense(window(FAR, 2), 6, 4),
        "window/right_ignored window/one_more_right window/top_left positions/clamped",
        comment="A reach far beyond every key is no bound; queries below position 0 look ahead.",
    ),
    case(
        "masks.dilated.0001: MASK-DILATED; DilatedWindow",
        dense(rule("dilated", left=2, right=1, dilation=3), 6, 11),
        "dilated/gap dilated/ignored dilated/reach_in_positions",
    ),
    case(
        "masks.dilated.0002: MASK-DILATED MASK-POSITIONS; DilatedWindow FarPositions",
        dense(
            rule("dilated", left=None, right=0, dilation=4),
            3,
            6,
            q_positions=integers(FAR + 3, 9, -1),
            k_positions=integers(FAR - 1, FAR + 3, 1, 5, -5, 3),
        ),
        "positions/ignored positions/float32",
    ),
    # --- blocks ---
    case(
        "masks.block.0001: MASK-BLOCK; Blocks",
        dense(rule("block", size=3), 5, 8),
        "block/from_one",
        comment="The last block is short.",
    ),
    case(
        "masks.block.0002: MASK-BLOCK MASK-POSITIONS; Blocks EmptyRow",
        dense(rule("block", size=3), 7, 5),
        "block/truncating_division positions/clamped",
        comment="Queries below position 0 are in a block of their own.",
    ),
    case(
        "masks.neighbours.0001: MASK-NEIGHBOURS; Blocks",
        dense(rule("neighbours", size=2, before=1, after=0), 7, 11),
        "neighbours/own_block_only block/from_one",
    ),
    case(
        "masks.neighbours.0002: MASK-NEIGHBOURS; Blocks",
        dense(rule("neighbours", size=2, before=2, after=1), 11, 11),
        "neighbours/circular neighbours/after_ignored neighbours/own_block_only",
    ),
    case(
        "masks.chunked.0001: MASK-CHUNKED; Blocks",
        dense(rule("chunked", size=3), 7, 7),
        "chunked/not_causal chunked/sliding block/from_one",
    ),
    case(
        "masks.chunked.0002: MASK-CHUNKED MASK-ALIGN; Blocks CausalAlignment",
        dense(rule("chunked", size=4), 3, 10),
        "chunked/not_causal chunked/sliding",
    ),
    # --- the Sparse Transformer ---
    case(
        "masks.strided.0001: MASK-STRIDED; SparseTransformer",
        dense(rule("strided", stride=3), 9, 11),
        "strided/first_set_only strided/second_set_only strided/fixed_columns",
    ),
    case(
        "masks.fixed.0001: MASK-FIXED; SparseTransformer",
        dense(rule("fixed", stride=4), 10, 10),
        "fixed/first_of_block fixed/one_more fixed/own_block_only",
        comment="Row 9 is {3, 7, 8, 9}, row 6 is {3, 4, 5, 6}.",
    ),
    case(
        "masks.fixed.0002: MASK-FIXED; SparseTransformer",
        dense(rule("fixed", stride=5, summary=2), 4, 13),
        "fixed/first_of_block fixed/one_more fixed/own_block_only",
    ),
    case(
        "masks.tile.0001: MASK-TILES MASK-POSITIONS MASK-FIXED; SparseTransformer FarPositions",
        dense(rule("fixed", stride=4), 3, 5, q_positions=integers(6, 7, 8), k_positions=integers(3, 4, 5, 6, 7)),
        "positions/ignored fixed/one_more fixed/own_block_only",
        comment="Rows 6 to 8 and columns 3 to 7 of fixed.0001.",
    ),
    # --- rules that carry data ---
    case(
        "masks.global.0001: MASK-GLOBAL MASK-ALGEBRA; GlobalTokens",
        dense(any_of(window(1, 0), global_tokens(6, 2, 6)), 5, 8),
        "global/keys_only global/queries_only global/first_positions global/lost",
        comment="A token that is listed twice counts once.",
    ),
    case(
        "masks.global.0002: MASK-GLOBAL MASK-DATA; GlobalTokens MaskData",
        dense(rule("global_tokens", tokens=integers([[1, 4]], [[0, 0]])), 3, 5),
        "data/first_entry global/queries_only global/keys_only",
    ),
    case(
        "masks.prefix.0001: MASK-PREFIX; PrefixMask",
        dense(prefix(3), 7, 7),
        "prefix/one_more prefix/ignored prefix/alone prefix/of_queries",
    ),
    case(
        "masks.prefix.0002: MASK-PREFIX MASK-DATA; PrefixMask MaskData",
        dense(prefix(integers([4], [0], [6])), 5, 6),
        "prefix/one_more prefix/alone data/first_entry",
        comment="One length a sequence, with an axis for heads; one is 0 and one is everything.",
    ),
    case(
        "masks.padding.0001: MASK-PADDING MASK-DATA MASK-EMPTY; PaddingMask MaskData EmptyRow",
        dense(padding(integers([5], [0], [3])), 3, 5),
        "padding/one_fewer padding/one_more padding/of_queries data/first_entry empty_row/unmasked",
    ),
    case(
        "masks.padding.0002: MASK-PADDING MASK-DATA; PaddingMask MaskData",
        dense(padding(integers([5], [2], [3]), integers([2], [5], [4])), 4, 7),
        "padding/right_only padding/length_as_end padding/one_fewer",
        comment="Padding on the left.",
    ),
    case(
        "masks.documents.0001: MASK-DOCUMENTS MASK-ALIGN; PackedDocuments",
        dense(rule("documents", ids=[4, 4, -1, 0, 0, 4, 0, 0]), 5, 8),
        "documents/ignored documents/first_boundary_only documents/contiguous documents/top_left",
        comment="Documents of one token and of two pieces.",
    ),
    case(
        "masks.documents.0002: MASK-DOCUMENTS MASK-DATA; PackedDocuments MaskData",
        dense(
            rule("documents", ids=integers([2, 5, 5], [5, 2, 2]), k_ids=integers(5, 2, 2, 7)),
            3,
            4,
            q_positions=integers(0, 1, 2),
        ),
        "data/first_entry documents/keys_as_queries",
        comment="Keys of another sequence.",
    ),
    case(
        "masks.tree.0001: MASK-TREE; DraftTree",
        dense(rule("tree", parents=[-1, 0, 0, 1, -1, 3, 2], prefix=2), 9, 9),
        "tree/chain tree/parent_only tree/descendants tree/without_prefix",
    ),
    case(
        "masks.tree.0002: MASK-TREE MASK-DATA MASK-ALIGN; DraftTree MaskData",
        dense(rule("tree", parents=integers([-1, 0, 0, 2, 2], [-1, 0, 1, 2, 3]), prefix=3), 5, 8),
        "data/first_entry tree/chain",
        comment="A tree and a chain, verified in one batch: the queries are the nodes.",
    ),
    # --- combinations ---
    case(
        "masks.algebra.0001: MASK-ALGEBRA MASK-ALIGN; MaskAlgebra",
        dense(any_of(all_of(CAUSAL, window(2, None)), global_tokens(0)), 6, 9),
        "causal/top_left window/top_left window/none_is_minus_one causal/ignored combination/part_restricts_all "
        "combination/and_or_exchanged",
    ),
    case(
        "masks.algebra.0002: MASK-ALGEBRA; MaskAlgebra",
        dense(all_of(window(2, 0), prefix(3)), 7, 7),
        "prefix/escapes_window combination/last_wins",
        comment="The window cuts the prefix off too.",
    ),
    case(
        "masks.algebra.0003: MASK-ALGEBRA MASK-DATA; MaskAlgebra MaskData",
        dense(all_of(CAUSAL, padding(integers([6], [4], [3]))), 4, 6),
        "causal/lost_with_mask mask/lost_with_causal combination/last_wins combination/part_dropped",
    ),
    case(
        "masks.algebra.0004: MASK-ALGEBRA; MaskAlgebra",
        dense(all_of(EVERYTHING, no(rule("block", size=2))), 3, 5),
        "combination/not_dropped mask/polarity block/from_one",
    ),
    case(
        "masks.algebra.0005: MASK-ALGEBRA MASK-DATA; MaskAlgebra MaskData",
        dense(
            all_of(
                prefix(integers([1, 4, 2], [3, 2, 5])),
                rule("documents", ids=integers([0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 0, 1, 1])),
            ),
            2,
            5,
        ),
        "data/first_entry documents/contiguous",
        comment="Prefixes for batch and heads (2, 3), documents for heads (3,).",
    ),
    case(
        "masks.algebra.0006: MASK-ALGEBRA; MaskAlgebra",
        dense(all_of(any_of(CAUSAL, rule("documents", ids=[7, 8, 1, 1, 1, 1, 1, 9, 0])), window(3, 3)), 9, 9),
        "combination/part_escapes combination/part_dropped combination/and_or_exchanged",
        comment="Five tokens of an image see each other both ways, text sees what came before, and a window cuts both.",
    ),
    case(
        "masks.data.0001: MASK-DATA; MaskData",
        dense(padding(integers([1, 4], [2, 3])), 3, 4),
        "data/batch_on_heads",
        comment="As many sequences as heads: only the numbers show which axis is which.",
    ),
    # --- refusals ---
    case(
        "masks.refuse.0001: MASK-REFUSE; WrongInput",
        dense(CAUSAL, 3, 4, q_positions=integers(0, 1)),
        comment="Two positions for three queries.",
    ),
    case(
        "masks.refuse.0002: MASK-REFUSE; WrongInput",
        dense(CAUSAL, 2, 2, q_positions=tensor([0.0, 1.0])),
        comment="Positions that are no integers.",
    ),
    case(
        "masks.refuse.0003: MASK-REFUSE; WrongInput",
        dense(rule("documents", ids=[0, 0, 1]), 4, 4),
        comment="Three documents for four positions.",
    ),
    case(
        "masks.refuse.0004: MASK-REFUSE; WrongInput",
        dense(rule("documents", ids=[0, 0, 1]), 4, 3),
        comment="The first query lies at position -1, which no document covers.",
    ),
    case(
        "masks.refuse.0005: MASK-REFUSE; WrongInput",
        dense(rule("tree", parents=[-1, 0], prefix=1), 4, 4),
        comment="The tree ends at position 2.",
    ),
    case(
        "masks.refuse.0006: MASK-REFUSE; WrongInput",
        dense(all_of(padding(integers(1, 2)), prefix(integers(1, 2, 3))), 2, 3),
        comment="Two lengths and three prefixes.",
    ),
    case("masks.refuse.0007: MASK-REFUSE; WrongInput", dense(CAUSAL, -1, 3), comment="A number of queries below 0."),
    case(
        "masks.refuse.0008: MASK-REFUSE; WrongInput",
        dense(CAUSAL, 2, 3, q_positions=Tensor((3, 2), [0] * 6, "int64"), k_positions=Tensor((2, 3), [0] * 6, "int64")),
        comment="Positions of three sequences and of two.",
    ),
]
