"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, spiked
from ...exact import Tensor, nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers

TWO_ROUNDS = integers([2, 0, 1, 0, 2, 1, 0], [1, 1, 0, 2, 0, 0, 1])
ONE_ROUND = integers([1, 0, 2, 0, 1, 2, 0])
OF_HEADS = integers([[0, 1, 1, 0, 2]], [[2, 1, 0, 0, 1]])


def tokens(seed, *lead, n=7, d=3, dv=2):
    return {"qk": grid(f"{seed} qk", (*lead, n, d), bits=5), "v": grid(f"{seed} v", (*lead, n, dv), bits=5)}


ONE = tokens("lsh one")
SMALL = {"d_out": grid("lsh vjp d_out", (5, 2), bits=5), **tokens("lsh vjp", n=5, d=2)}

CASES = [
    case(
        "lsh_attention.basic.0001: LSH-KEYS LSH-RING LSH-ROUNDS LSH-LAST LSH-NORM LSH-COST; LSH Repeats",
        call("sparse.lsh_attention", **tokens("lsh", 1, 2), buckets=TWO_ROUNDS, chunk=2, return_lse=True),
        "lsh/counted_once lsh/within_buckets lsh/own_key_seen lsh/keys_of_other_length lsh/keys_as_they_are "
        "lsh/queries_normalised lsh/no_ring lsh/ring_of_each_round lsh/chunks_run_on lsh/later_first",
        comment="Seven tokens in chunks of two, in two rounds.",
    ),
    case(
        "lsh_attention.rounds.0001: LSH-ROUNDS; LSH Repeats",
        call("sparse.lsh_attention", **ONE, buckets=TWO_ROUNDS, chunk=3, before=0),
        "lsh/rounds_averaged",
    ),
    case(
        "lsh_attention.sort.0001: LSH-SORT LSH-KEYS; LSH",
        call("sparse.lsh_attention", **ONE, buckets=ONE_ROUND, chunk=2, before=0, after=1, return_lse=True),
        "lsh/later_first lsh/no_ring",
    ),
    case(
        "lsh_attention.ring.0001: LSH-RING LSH-ROUNDS; LSH Repeats",
        call("sparse.lsh_attention", **ONE, buckets=ONE_ROUND, chunk=4, before=2, after=1, return_lse=True),
        "lsh/counted_once",
        comment="Two chunks: two steps back are the chunk itself, and one step on is one step back.",
    ),
    case(
        "lsh_attention.own.0001: LSH-OWN LSH-CAUSAL; LSH EmptyRow",
        call("sparse.lsh_attention", **ONE, buckets=ONE_ROUND, chunk=2, causal=True, return_lse=True),
        "lsh/own_key_never lsh/own_score_in_lse lsh/causal_in_sorted_order lsh/own_key_seen",
        comment="The first token sees itself alone, and so do those that are earlier than all beside them.",
    ),
    case(
        "lsh_attention.norm.0001: LSH-NORM; LSH",
        call("sparse.lsh_attention", **ONE, buckets=ONE_ROUND, chunk=3, key_norm="l2", return_lse=True),
        "lsh/keys_of_other_length lsh/keys_as_they_are lsh/queries_normalised",
    ),
    case(
        "lsh_attention.padding.0001: LSH-MASK LSH-OWN; LSH EmptyRow",
        call(
            "sparse.lsh_attention",
            **tokens("lsh padding", 1, 1),
            buckets=ONE_ROUND,
            chunk=2,
            before=0,
            mask=padding(integers([4])),
            return_lse=True,
        ),
        "lsh/own_beats_padding",
        comment="Two of the tokens that are padding share a chunk: neither has an output.",
    ),
    case(
        "lsh_attention.absent.0001: LSH-MASK LSH-KEYS; LSH Poison",
        call(
            "sparse.lsh_attention",
            **{**ONE, "v": spiked(ONE["v"], {12: nan, 13: nan})},
            buckets=ONE_ROUND,
            chunk=3,
            before=0,
            mask=padding(6),
        ),
        comment="The values of a token that is padding hold NaN.",
    ),
    case(
        "lsh_attention.options.0001: LSH-OPTIONS LSH-CAUSAL; LSH AllOptions",
        call(
            "sparse.lsh_attention",
            **tokens("lsh options", 2, n=5),
            buckets=OF_HEADS,
            chunk=2,
            causal=True,
            positions=integers(3, 9, 4, 5, 8),
            scale=0.375,
            softcap=3.0,
            bias=grid("lsh options b", (5, 5), bits=5),
            sinks=tensor([0.25, -1.0]),
            dropout=dropped(bools("11011", "10110", "11101", "01111", "11110"), 0.25),
            return_lse=True,
        ),
        comment="Each head has its own buckets; positions are in no order.",
    ),
    case(
        "lsh_attention.refuse.0001: LSH-REFUSE; WrongInput",
        call("sparse.lsh_attention", **ONE, buckets=integers([1, 0, 1]), chunk=2),
        comment="Buckets of three tokens for seven.",
    ),
    case(
        "lsh_attention.refuse.0002: LSH-REFUSE; WrongInput",
        call("sparse.lsh_attention", **ONE, buckets=ONE_ROUND, chunk=2, key_norm="none"),
    ),
    case(
        "lsh_attention_vjp.basic.0001: LSH-GRADIENT; LSH Gradient",
        call(
            "sparse.lsh_attention_vjp",
            **SMALL,
            buckets=integers([1, 0, 1, 1, 0], [0, 1, 0, 1, 0]),
            chunk=2,
            causal=True,
            d_lse=grid("lsh vjp d_lse", (5,), bits=5),
            sinks=tensor(0.5),
        ),
        "lsh/norm_without_gradient lsh/keys_without_gradient",
    ),
    case(
        "lsh_attention_vjp.norm.0001: LSH-GRADIENT LSH-NORM; LSH Gradient Softcap",
        call(
            "sparse.lsh_attention_vjp",
            **SMALL,
            buckets=integers([1, 0, 1, 1, 0]),
            chunk=3,
            key_norm="l2",
            softcap=2.0,
            bias=grid("lsh vjp b", (5, 5), bits=5),
        ),
        "lsh/norm_without_gradient",
    ),
    case(
        "lsh_buckets.basic.0001: LSH-HASH; LSH",
        call(
            "sparse.lsh_buckets",
            x=tensor([[3.0, 1.0], [-3.0, 1.0], [1.0, -2.0], [0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]),
            rotations=tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, -1.0], [1.0, 3.0]]]),
        ),
        "lsh/opposite_is_the_same lsh/signs_of_products",
        comment="Of equal products the first, as for the zeros and on the diagonal.",
    ),
    case(
        "lsh_buckets.refuse.0001: LSH-REFUSE; WrongInput",
        call("sparse.lsh_buckets", x=tensor([[1.0, 2.0]]), rotations=Tensor((1, 3, 2), [1.0] * 6)),
        comment="Rotations of three numbers for tokens of two.",
    ),
]
