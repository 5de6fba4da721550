"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, inputs, one_head, spiked
from ...exact import nan, tensor
from ...masks.cases import CAUSAL
from ...vectors import call, case, grid, integers
from ..inputs import grouped

CLUSTERS = integers([4, 0, 2, -1], [2, 5, 1, 0])
OF_HEADS = integers([[0, 2], [3, 2]], [[1, 4], [4, 0]], [[3, -1], [3, 1]], [[2, 1], [0, 4]])
ONE = one_head("routing one", 7, 7)
GROUPED = grouped("routing group", m=5)

CASES = [
    case(
        "routing_attention.basic.0001: ROUTING-KEYS ROUTING-MEAN ROUTING-NONE ROUTING-COST; Clusters",
        call("sparse.routing_attention", **inputs("routing", b=1, h=2, n=7, m=7), members=CLUSTERS),
        "routing/merged routing/summed routing/one_hundredth_more routing/last_cluster routing/keys_once routing/empty_is_last "
        "routing/none_is_undefined routing/own_key_left_out",
        comment="Tokens 0 and 2 are in both clusters, 3 and 6 in none.",
    ),
    case(
        "routing_attention.causal.0001: ROUTING-MASK; Clusters",
        call("sparse.routing_attention", **ONE, members=CLUSTERS, mask=CAUSAL),
        "routing/causal_by_rank",
        comment="Members are in no order: causality is one of positions.",
    ),
    case(
        "routing_attention.options.0001: ROUTING-OPTIONS ROUTING-MASK; Clusters AllOptions GroupedHeads",
        call(
            "sparse.routing_attention",
            **GROUPED,
            members=OF_HEADS,
            mask=CAUSAL,
            bias=grid("routing options b", (4, 5, 5), bits=6),
            scale=0.375,
            softcap=3.0,
            sinks=tensor([0.25, -1.0, 2.0, 0.0]),
            dropout=dropped(bools("11011", "10110", "11101", "01111", "11110"), 0.25),
        ),
        "routing/clusters_of_first_head",
        comment="Four query heads with clusters of their own, over two key/value heads.",
    ),
    case(
        "routing_attention.absent.0001: ROUTING-KEYS ROUTING-NONE; Clusters Poison",
        call(
            "sparse.routing_attention",
            **{**ONE, "k": spiked(ONE["k"], {9: nan, 20: nan}), "v": spiked(ONE["v"], {6: nan, 13: nan})},
            members=CLUSTERS,
        ),
        comment="Tokens 3 and 6, which are in no cluster, hold NaN.",
    ),
    case(
        "routing_attention.refuse.0001: ROUTING-REFUSE; WrongInput",
        call("sparse.routing_attention", **ONE, members=integers([1, 2, 1])),
        comment="A token twice in a cluster.",
    ),
    case(
        "routing_attention_vjp.basic.0001: ROUTING-GRADIENT; Clusters Gradient",
        call(
            "sparse.routing_attention_vjp",
            d_out=grid("routing vjp d_out", (5, 2), bits=5),
            **one_head("routing vjp", 5, 5, d=2),
            members=integers([0, 3, -1], [3, 2, 1]),
            softcap=2.0,
        ),
        "routing/gradient_of_sum",
    ),
    case(
        "routing_members.basic.0001: ROUTING-MEMBERS; Clusters",
        call(
            "sparse.routing_members",
            x=tensor([[3.0, 1.0], [-3.0, 1.0], [1.0, -2.0], [0.0, 0.0], [3.0, 1.0]]),
            centroids=tensor([[1.0, 0.0], [0.0, -1.0], [-1.0, 3.0]]),
            width=2,
        ),
        "routing/nearest_cluster_last",
        comment="Of equal tokens the first is taken.",
    ),
    case(
        "routing_members.refuse.0001: ROUTING-REFUSE; WrongInput",
        call("sparse.routing_members", x=tensor([[1.0, 2.0]]), centroids=tensor([[1.0]]), width=1),
    ),
]
