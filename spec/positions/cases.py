"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import Tensor, tensor
from ..vectors import call, case, grid, integers, params

FAR = integers(0, 3, 701, -7, 353)  # not in order, one negative, none equal to its index but the first
ROWS = grid("positions rows", (2, 5, 8))  # 2 heads, 5 rows, 8 features

# Scalings whose ramps cross the four frequencies of 8 features, in the middle of their range.
LINEAR = params("positions.Linear", factor=4.0)
NTK = params("positions.NTK", factor=4.0)
DYNAMIC = params("positions.DynamicNTK", factor=2.0, original_length=512, length=768)
SHORT = params("positions.DynamicNTK", factor=2.0, original_length=512, length=301)
YARN = params("positions.YaRN", factor=8.0, original_length=1024, beta_fast=32.0, beta_slow=1.0)
UNTRUNCATED = params("positions.YaRN", factor=32.0, original_length=4096, truncate=False)
MSCALE = params("positions.YaRN", factor=16.0, original_length=2048, mscale=1.0, mscale_all_dim=0.5)
GIVEN_FACTOR = params("positions.YaRN", factor=8.0, original_length=1024, attention_factor=1.5)
LLAMA3 = params(
    "positions.Llama3", factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=1024
)
LLAMA31 = params("positions.Llama3", **LLAMA3["fields"] | {"original_length": 8192})
LONG = params(
    "positions.LongRoPE",
    short_factors=tensor([1.0, 1.125, 1.25, 1.5]),
    long_factors=tensor([1.0, 2.0, 6.0, 12.0]),
    original_length=512,
    maximum_length=4096,
    length=702,
)
LONG_SHORT = params("positions.LongRoPE", **LONG["fields"] | {"length": 512})

DISTANCES = [0, 1, 2, 6, 7, 8, 9, 11, 12, 15, 16, 18, 19, 22, 23, 24, 31, 32, 45, 46, 63, 64, 90, 91, 99, 112, 113]
DISTANCES += [127, 128, 129, 200, 1000]
RELATIVE = Tensor((2, 32), [-a for a in DISTANCES] + DISTANCES, "int64")

CASES = [
    # --- tables
    case(
        "positions.sinusoidal.0001: SINUSOIDAL-TABLE; Basic SinusoidalLayout",
        call("sinusoidal", positions=FAR, dim=8),
        "sinusoidal/half_layout sinusoidal/other_frequencies sinusoidal/cosine_first sinusoidal/frequency_per_column",
    ),
    case(
        "positions.sinusoidal.0002: SINUSOIDAL-TABLE; OddDimension",
        call("sinusoidal", positions=tensor([[0.5, -2.25], [11.0, 100.0]]), dim=7, base=100.0),
        "sinusoidal/half_layout sinusoidal/other_frequencies sinusoidal/frequency_per_column",
        comment="An odd number of columns ends with a sine; positions need not be whole.",
    ),
    case(
        "positions.sinusoidal.0003: SINUSOIDAL-HALF; SinusoidalLayout",
        call("sinusoidal", positions=FAR, dim=6, layout="half"),
        "sinusoidal/cosine_first sinusoidal/other_frequencies",
    ),
    case(
        "positions.sinusoidal.0004: SINUSOIDAL-TENSOR2TENSOR; SinusoidalLayout OddDimension",
        call("sinusoidal", positions=FAR, dim=7, layout="tensor2tensor"),
        "sinusoidal/paper_frequencies",
    ),
    case(
        "positions.sinusoidal.0005: SINUSOIDAL-TENSOR2TENSOR; SinusoidalLayout",
        call("sinusoidal", positions=FAR, dim=2, layout="tensor2tensor"),
        comment="One frequency: the exponent's denominator would be zero.",
    ),
    case(
        "positions.learned.0001: LEARNED-LOOKUP; LearnedOffset",
        call("learned_positions", table=grid("learned", (7, 3)), positions=integers([4, 0], [2, 2]), offset=2),
        "learned/offset_ignored",
    ),
    case(
        "positions.learned.0002: LEARNED-RANGE; WrongInput",
        call("learned_positions", table=grid("learned", (7, 3)), positions=integers(5), offset=2),
    ),
    case(
        "positions.learned.0003: LEARNED-RANGE; WrongInput",
        call("learned_positions", table=grid("learned", (7, 3)), positions=integers(3, -1)),
        comment="A negative index does not count from the end.",
    ),
    # --- rotation
    case(
        "positions.rope.0001: ROPE-ROTATION ROPE-FREQUENCY ROPE-LAYOUT ROPE-POSITION ROPE-PRECISION; "
        "Basic RotaryLayout FarPositions",
        call("rope", x=ROWS, positions=FAR),
        "rope/half_pairing rope/negated_sin rope/positions_from_zero rope/bfloat16_angles "
        "rope/bfloat16_frequencies rope/interleaved_tables_with_half_rotation rope/positions_from_one "
        "rope/last_position_for_all rope/exponent_halved rope/exponent_from_one rope/exponent_to_the_end "
        "rope/sine_and_cosine_exchanged",
    ),
    case(
        "positions.rope.0002: ROPE-LAYOUT ROPE-ROTATION ROPE-TABLES; RotaryLayout FarPositions",
        call("rope", x=ROWS, positions=FAR, layout="half"),
        "rope/interleaved_pairing rope/negated_sin rope/interleaved_tables_with_half_rotation",
    ),
    case(
        "positions.rope.0003: ROPE-PARTIAL ROPE-FREQUENCY; PartialRotary FarPositions",
        call("rope", x=grid("partial", (3, 10)), positions=integers(700, 1, 355), rotary_dim=6),
        "rope/frequencies_over_head_dim rope/proportional rope/rotates_last rope/half_pairing",
    ),
    case(
        "positions.rope.0004: ROPE-PARTIAL ROPE-FREQUENCY ROPE-LAYOUT; PartialRotary RotaryLayout",
        call(
            "rope", x=grid("partial", (3, 10)), positions=integers(700, 1, 355), rotary_dim=4, layout="half", base=500.0
        ),
        "rope/frequencies_over_head_dim rope/proportional rope/rotates_last rope/interleaved_pairing "
        "rope/base_ignored rope/rotary_dim_ignored rope/rest_dropped",
    ),
    case(
        "positions.rope.0005: ROPE-POSITION; BatchPositions",
        call("rope", x=grid("batch", (2, 3, 4, 6)), positions=integers([[0, 1, 2, 3]], [[-3, -2, 17, 400]])),
        "rope/first_batch_for_all rope/positions_from_zero",
        comment="Two batches, three heads; the second batch is padded on the left and then jumps.",
    ),
    case(
        "positions.rope.0006: ROPE-PRECISION ROPE-POSITION; FarPositions",
        call("rope", x=grid("far", (3, 4)), positions=integers(1048577, 1048578, 262145), base=65536.0),
        "rope/float16_positions rope/bfloat16_angles rope/positions_from_zero",
        comment="Neighbours far out; frequencies 1 and 2^-8 are exact, so only the position's own bits count.",
    ),
    case(
        "positions.rope.0007: ROPE-POSITION; FractionalPositions",
        call("rope", x=grid("fraction", (2, 4)), positions=tensor([0.5, -3.25])),
        "rope/negated_sin",
    ),
    case(
        "positions.rope.0008: ROPE-REFUSE; WrongInput",
        call("rope", x=ROWS, positions=FAR, rotary_dim=5),
        comment="An odd number of features has no pairs.",
    ),
    case("positions.rope.0009: ROPE-REFUSE; WrongInput", call("rope", x=ROWS, positions=FAR, rotary_dim=10)),
    case(
        "positions.rope.0010: ROPE-REFUSE; WrongInput",
        call("rope", x=ROWS, positions=integers(0, 1, 2, 3)),
        comment="Four positions for five rows.",
    ),
    case(
        "positions.rope.0011: ROPE-REFUSE; WrongInput",
        call("rope", x=ROWS, positions=FAR, scaling=params("positions.Linear", factor=0.5)),
        comment="A factor below 1 shortens the context.",
    ),
    case(
        "positions.rotate.0001: ROPE-TABLES ROPE-ROTATION ROPE-LAYOUT; RotaryTables",
        call(
            "positions.rotate",
            x=grid("rotate", (2, 3, 8)),
            cos=grid("rotate cos", (3, 4), scale=0.25),
            sin=grid("rotate sin", (3, 4), scale=0.25),
        ),
        "rope/other_pairing rope/negated_sin rope/half_tables_reused rope/interleaved_tables_with_half_rotation "
        "rope/sine_and_cosine_exchanged",
        comment="No table column is like another, as with positions in two dimensions.",
    ),
    case(
        "positions.rotate.0002: ROPE-TABLES ROPE-PARTIAL ROPE-LAYOUT; RotaryTables PartialRotary",
        call(
            "positions.rotate",
            x=grid("rotate", (2, 3, 8)),
            cos=grid("rotate cos", (2, 3, 3), scale=0.25),
            sin=grid("rotate sin", (2, 3, 3), scale=0.25),
            layout="half",
            rotary_dim=6,
        ),
        "rope/other_pairing rope/negated_sin rope/half_tables_reused rope/interleaved_tables_with_half_rotation",
    ),
    case(
        "positions.rotate.0003: ROPE-REFUSE ROPE-TABLES; WrongInput",
        call(
            "positions.rotate",
            x=grid("rotate", (2, 3, 8)),
            cos=grid("rotate cos", (3, 8), scale=0.25),
            sin=grid("rotate sin", (3, 8), scale=0.25),
        ),
        comment="Tables as wide as x, each angle twice, are another convention.",
    ),
    # --- scaling
    case(
        "positions.linear.0001: ROPE-LINEAR; RotaryScaling",
        call("rope", x=ROWS, positions=FAR, scaling=LINEAR),
        "rope/scaling_ignored linear/inverted",
    ),
    case(
        "positions.ntk.0001: ROPE-NTK; RotaryScaling",
        call("rope", x=ROWS, positions=FAR, scaling=NTK),
        "rope/scaling_ignored ntk/base_times_factor",
    ),
    case(
        "positions.dynamic.0001: ROPE-DYNAMIC; RotaryScaling LengthDependent",
        call("rope", x=ROWS, positions=FAR, scaling=DYNAMIC),
        "rope/scaling_ignored",
        comment="2 · 768/512 - 1 = 2: here the growing factor has just reached the full one.",
    ),
    case(
        "positions.dynamic.0002: ROPE-DYNAMIC; LengthDependent",
        call("rope", x=ROWS, positions=FAR, scaling=SHORT),
        "ntk/length_ignored",
        comment="Shorter than the original: nothing is scaled.",
    ),
    case(
        "positions.yarn.0001: ROPE-YARN ROPE-FACTOR; RotaryScaling AttentionFactor",
        call("rope", x=grid("yarn", (5, 12)), positions=FAR, rotary_dim=8, scaling=YARN),
        "rope/scaling_ignored yarn/no_attention_factor yarn/attention_factor_on_everything yarn/other_truncation "
        "yarn/ramp_reversed",
    ),
    case(
        "positions.yarn.0002: ROPE-YARN ROPE-FACTOR; AttentionFactor",
        call("rope", x=ROWS, positions=FAR, layout="half", scaling=MSCALE),
        "yarn/no_attention_factor rope/interleaved_pairing",
    ),
    case(
        "positions.yarn.0005: ROPE-YARN ROPE-FACTOR; AttentionFactor",
        call("rope", x=ROWS, positions=FAR, layout="half", scaling=GIVEN_FACTOR),
        "yarn/given_factor_ignored yarn/no_attention_factor",
    ),
    case(
        "positions.yarn.0003: ROPE-YARN; RotaryScaling",
        call("positions.rope_frequencies", rotary_dim=32, base=150000.0, scaling=UNTRUNCATED),
        comment="As in gpt-oss.",
    ),
    case(
        "positions.yarn.0004: ROPE-YARN; RotaryScaling",
        call(
            "positions.rope_frequencies",
            rotary_dim=8,
            base=10.0,
            scaling=params("positions.YaRN", factor=4.0, original_length=512),
        ),
        "yarn/high_end_of_pairs",
        comment="A small base: the ramp ends at R - 1, far beyond the last pair, and no frequency is fully divided.",
    ),
    case(
        "positions.llama3.0001: ROPE-LLAMA3; RotaryScaling",
        call("positions.rope_frequencies", rotary_dim=32, base=500000.0, scaling=LLAMA31),
        comment="Llama 3.1's own numbers.",
    ),
    case(
        "positions.llama3.0002: ROPE-LLAMA3; RotaryScaling",
        call("rope", x=ROWS, positions=FAR, scaling=LLAMA3),
        "rope/scaling_ignored llama3/no_ramp",
    ),
    case(
        "positions.longrope.0001: ROPE-LONGROPE ROPE-FACTOR; RotaryScaling LengthDependent AttentionFactor",
        call("rope", x=ROWS, positions=FAR, scaling=LONG),
        "rope/scaling_ignored longrope/short_factors_always yarn/no_attention_factor",
    ),
    case(
        "positions.longrope.0002: ROPE-LONGROPE; LengthDependent",
        call("rope", x=ROWS, positions=FAR, scaling=LONG_SHORT),
        "rope/scaling_ignored yarn/no_attention_factor longrope/long_factors_always",
        comment="As long as the original: the short list still holds, and the attention factor too.",
    ),
    # --- ALiBi
    case(
        "positions.alibi_slopes.0001: ALIBI-SLOPES; Basic AlibiSlopes",
        call("alibi_slopes", heads=8),
        "alibi/exponent_off_by_one alibi/slopes_reversed",
    ),
    case(
        "positions.alibi_slopes.0002: ALIBI-SLOPES; AlibiSlopes",
        call("alibi_slopes", heads=12),
        "alibi/plain_geometric alibi/exponent_off_by_one alibi/sorted",
    ),
    case(
        "positions.alibi_slopes.0003: ALIBI-SLOPES; AlibiSlopes",
        call("alibi_slopes", heads=19),
        "alibi/plain_geometric alibi/exponent_off_by_one",
        comment="Slopes of 16 heads are no powers of 2.",
    ),
    case(
        "positions.alibi_bias.0001: ALIBI-BIAS ALIBI-ALIGN; AlibiBias",
        call("alibi_bias", slopes=tensor([0.5, 0.25, 0.375]), n=2, m=5),
        "alibi/sign alibi/top_left alibi/key_position_only alibi/signed_distance alibi/distance_off_by_one "
        "alibi/first_slope_for_all",
    ),
    case(
        "positions.alibi_bias.0002: ALIBI-ALIGN; AlibiBias",
        call("alibi_bias", slopes=tensor([0.5, 0.0625]), n=1, m=7),
        "alibi/query_length alibi/top_left alibi/sign",
        comment="One step of decoding.",
    ),
    case(
        "positions.alibi_bias.0003: ALIBI-BIAS; AlibiBias BatchPositions",
        call(
            "alibi_bias",
            slopes=tensor([0.5, 0.25, 0.375]),
            n=2,
            m=3,
            q_positions=integers([[7, 2]], [[-1, 900]]),
            k_positions=integers(5, 0, 31),
        ),
        "alibi/sign alibi/signed_distance",
    ),
    # --- T5
    case(
        "positions.t5_bucket.0001: T5-BUCKET T5-EXACT; T5Buckets",
        call("relative_position_bucket", relative=RELATIVE),
        "t5/sign t5/no_clamp t5/bidirectional_dropped t5/rounded_logarithm t5/boundary_missed",
    ),
    case(
        "positions.t5_bucket.0002: T5-CAUSAL T5-BUCKET; T5Buckets",
        call("relative_position_bucket", relative=RELATIVE, bidirectional=False),
        "t5/sign t5/no_clamp t5/bidirectional_dropped t5/rounded_logarithm",
    ),
    case(
        "positions.t5_bucket.0003: T5-BUCKET T5-EXACT; T5Buckets",
        call("relative_position_bucket", relative=RELATIVE, bidirectional=False, buckets=7, max_distance=48),
        "t5/boundary_missed t5/no_clamp t5/rounded_logarithm",
        comment="An odd number of buckets, e = 3: distances 6, 12 and 24 lie on a boundary exactly.",
    ),
    case(
        "positions.t5_bucket.0004: T5-REFUSE; WrongInput",
        call("relative_position_bucket", relative=RELATIVE, buckets=7),
        comment="Seven buckets cannot serve two directions.",
    ),
    case(
        "positions.t5_bucket.0005: T5-REFUSE; WrongInput",
        call("relative_position_bucket", relative=RELATIVE, max_distance=8),
    ),
    case(
        "positions.t5_bias.0001: T5-BIAS T5-ALIGN; T5Bias",
        call("t5_bias", table=grid("t5", (32, 2)), n=3, m=5),
        "t5/top_left t5/sign t5/bidirectional_dropped t5/scaled",
    ),
    case(
        "positions.t5_bias.0002: T5-BIAS T5-CAUSAL; T5Bias BatchPositions",
        call(
            "t5_bias",
            table=grid("t5 decoder", (8, 3)),
            n=2,
            m=4,
            q_positions=integers([[40, 17]], [[3, 2]]),
            k_positions=integers(0, 16, 39, 41),
            bidirectional=False,
            max_distance=20,
        ),
        "t5/sign t5/bidirectional_dropped",
    ),
]
