"""The inputs of the golden vectors; definition.py says what comes out."""

from ...attention.cases import bools, dropped, inputs, needles, one_head, spiked
from ...exact import inf, nan, tensor
from ...masks.cases import padding
from ...vectors import call, case, grid, integers
from ..inputs import grouped
from .definition import SIDES

OPTIONS = {
    "bias": grid("window options b", (4, 5, 7), bits=6),
    "scale": 0.375,
    "softcap": 3.0,
    "sinks": tensor([0.25, -1.0, 2.0, 0.0]),
    "dropout": dropped(bools(*["1101101", "1011011"] * 2, "1110111"), 0.25),
}
GROUPED = grouped("window group")
FAR = one_head("window far", 4, 7)

CASES = [
    case(
        "window_attention.basic.0001: WINDOW-KEYS WINDOW-ENDS WINDOW-COST; Window",
        call("sparse.window_attention", **inputs("window", b=1, h=2, n=7, m=7), left=2, right=1, return_lse=True),
        "window/zeros_beyond window/wrapped",
        comment="As many queries as keys: windows reach beyond both ends.",
    ),
    case(
        "window_attention.align.0001: WINDOW-KEYS WINDOW-ALIGN; Window CausalAlignment Needle",
        call("sparse.window_attention", **needles(4, 8, [1, 6, 3, 7]), left=2, right=1, return_lse=True),
        comment="Positions 4 to 7; the keys just inside and just outside of a window are aligned with queries.",
    ),
    case(
        "window_attention.open.0001: WINDOW-KEYS; Window",
        call("sparse.window_attention", **one_head("window open", 3, 7), left=None, right=0),
        comment="No bound on the left: causal attention.",
    ),
    case(
        "window_attention.tall.0001: WINDOW-ALIGN WINDOW-ENDS; Window EmptyRow",
        call("sparse.window_attention", **one_head("window tall", 6, 3), left=1, right=1, return_lse=True),
        comment="More queries than keys: the first lie below position 0, and two of them see no key.",
    ),
    case(
        "window_attention.ring.0001: WINDOW-KEYS WINDOW-ALIGN; Window Ring",
        call(
            "sparse.window_attention",
            **one_head("window ring", 2, 5),
            left=3,
            right=0,
            q_positions=integers(12, 13),
            k_positions=integers(10, 11, 12, 13, 9),
            return_lse=True,
        ),
        comment="A ring of five slots after fourteen tokens: the oldest key stands last.",
    ),
    case(
        "window_attention.options.0001: WINDOW-OPTIONS; Window AllOptions GroupedHeads",
        call("sparse.window_attention", **GROUPED, left=2, right=2, mask=padding(6, 1), **OPTIONS, return_lse=True),
    ),
    case(
        "window_attention.absent.0001: WINDOW-LOCAL; Window Poison",
        call(
            "sparse.window_attention",
            **{
                **FAR,
                "k": spiked(FAR["k"], {0: nan, 1: inf, 20: -inf}),
                "v": spiked(FAR["v"], {0: nan, 1: -inf, 13: nan}),
            },
            left=2,
            right=0,
            mask=padding(6),
        ),
        comment="The first key lies before all windows, the last is padding.",
    ),
    case(
        "window_attention.refuse.0001: WINDOW-REFUSE; WrongInput",
        call("sparse.window_attention", **one_head("window refuse", 3, 3), left=-1, right=0),
    ),
    case(
        "window_attention.refuse.0002: WINDOW-REFUSE; WrongInput",
        call("sparse.window_attention", **one_head("window refuse", 3, 3), left=1, right=0, mask=bools("111")),
        comment="A mask that is an array.",
    ),
    case(
        "window_attention_vjp.basic.0001: WINDOW-GRADIENT; Window Gradient",
        call(
            "sparse.window_attention_vjp",
            d_out=grid("window vjp d_out", (3, 2), bits=5),
            **one_head("window vjp", 3, 4, d=2),
            left=1,
            right=1,
            d_lse=grid("window vjp d_lse", (3,), bits=5),
        ),
    ),
    case(
        "window_attention_vjp.group.0001: WINDOW-GRADIENT; Window Gradient GroupedHeads Softcap Sink",
        call(
            "sparse.window_attention_vjp",
            d_out=grid("window vjp group d_out", (4, 2, 3), bits=5),
            q=grid("window vjp group q", (4, 2, 2), bits=5),
            k=grid("window vjp group k", (2, 3, 2), bits=6),
            v=grid("window vjp group v", (2, 3, 3), bits=5),
            left=1,
            right=0,
            softcap=2.0,
            sinks=tensor([0.5, -1.0, 1.5, 0.0]),
        ),
    ),
    *(
        case(f"window_sides.{meaning}.0001: WINDOW-SIDES; Window", call("sparse.window_sides", size=6, meaning=meaning))
        for meaning in SIDES
    ),
    case(
        "window_sides.refuse.0001: WINDOW-REFUSE; WrongInput",
        call("sparse.window_sides", size=6, meaning="all"),
    ),
]
