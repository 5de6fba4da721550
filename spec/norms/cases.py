"""The inputs of the golden vectors; definition.py says what comes out."""

from ..exact import tensor
from ..vectors import call, case, grid

ROWS = grid("norm rows", (2, 3, 5))
GAMMA, BETA = grid("norm gamma", (5,), bits=6), grid("norm beta", (5,), bits=6)
TINY = grid("norm tiny", (3, 5), scale=2.0**-9)  # entries near 0.003: their squares compete with epsilon
SPIKE = tensor([[0.5, -1024.0, 2.0, 0.25, -3.0], [0.0, 0.0, 0.0, 0.0, 8192.0]])
EQUAL = tensor([[3.5, 3.5, 3.5, 3.5, 3.5], [0.0, 0.0, 0.0, 0.0, 0.0], [-240.0, -240.0, -240.0, -240.0, -240.0]])
FAR = tensor([[1024.0, 1032.0, 1016.0, 1040.0, 1032.0], [-1040.0, -1024.0, -1032.0, -1056.0, -1016.0]])
# More entries than a kernel takes at once, with a rest; their mean is far from 0.
WIDE = tensor([[k + 2.0 for k in row] for row in (grid("norm wide 0", (70,)).data, grid("norm wide 1", (70,)).data)])
WIDE_GAMMA = grid("norm wide gamma", (70,), bits=6)


def refused(number, function, comment, **arguments):
    return case(f"{function}.refuse.{number:04}: NORM-REFUSE; WrongInput", call(function, **arguments), comment=comment)


CASES = [
    case(
        "layer_norm.rows.0001: LAYERNORM-OUT LAYERNORM-VARIANCE NORM-AFFINE; Basic",
        call("layer_norm", x=ROWS, gamma=GAMMA, beta=BETA),
        "layer_norm/unbiased_variance layer_norm/uncentred layer_norm/beta_dropped layer_norm/beta_scaled "
        "layer_norm/gamma_dropped",
    ),
    case(
        "layer_norm.plain.0001: LAYERNORM-OUT NORM-AFFINE; Basic",
        call("layer_norm", x=ROWS, gamma=None),
        "layer_norm/unbiased_variance norm/over_everything",
    ),
    case(
        "layer_norm.tiny.0001: NORM-EPS; Epsilon",
        call("layer_norm", x=TINY, gamma=GAMMA, beta=BETA),
        "layer_norm/eps_outside_root layer_norm/eps_dropped layer_norm/divided_by_variance",
    ),
    case(
        "layer_norm.epsilon.0001: NORM-EPS; Epsilon",
        call("layer_norm", x=TINY, gamma=GAMMA, eps=1e-12),
        "layer_norm/eps_ignored",
        comment="BERT's epsilon.",
    ),
    case(
        "layer_norm.equal.0001: NORM-EPS; Epsilon EqualRow",
        call("layer_norm", x=EQUAL, gamma=GAMMA, beta=BETA),
        "layer_norm/eps_dropped",
        comment="Rows without spread give beta.",
    ),
    case(
        "layer_norm.spike.0001: NORM-EPS LAYERNORM-OUT; Spike",
        call("layer_norm", x=SPIKE, gamma=GAMMA, beta=BETA),
        "layer_norm/eps_after_rescale layer_norm/unit_offset_always",
    ),
    case(
        "layer_norm.far.0001: LAYERNORM-SHIFT; LargeMean",
        call("layer_norm", x=FAR, gamma=GAMMA),
        "layer_norm/one_pass_variance",
    ),
    case(
        "layer_norm.scale.0001: NORM-SCALE; Epsilon",
        call("layer_norm", x=grid("norm rows", (2, 3, 5), scale=2.0**-8), gamma=GAMMA, beta=BETA, eps=0.0),
        "layer_norm/eps_ignored",
        comment="The first case's x, 256 times smaller, without epsilon.",
    ),
    case(
        "layer_norm.axes.0001: NORM-AXES NORM-AFFINE; OtherAxis",
        call("layer_norm", x=ROWS, gamma=grid("gamma 35", (3, 5)), beta=grid("beta 35", (3, 5)), axis=[-2, -1]),
        "norm/only_last_axis",
    ),
    case(
        "layer_norm.axis.0001: NORM-AXES; OtherAxis",
        call("layer_norm", x=ROWS, gamma=grid("gamma 3", (3,)), beta=grid("beta 3", (3,)), axis=1),
        "norm/axis_to_last norm/only_last_axis",
        comment="One axis in the middle: the channels of (batch, channels, positions).",
    ),
    case(
        "layer_norm.wide.0001: LAYERNORM-OUT LAYERNORM-VARIANCE; Tiles",
        call("layer_norm", x=WIDE, gamma=WIDE_GAMMA, beta=grid("norm wide beta", (70,), bits=6)),
        "norm/tail_dropped norm/tail_unsummed norm/tail_zeros norm/tail_deviates",
        comment="70 entries: a block of 64 and a rest.",
    ),
    case(
        "rms_norm.rows.0001: RMSNORM-OUT NORM-AFFINE; Basic",
        call("rms_norm", x=ROWS, gamma=GAMMA),
        "rms_norm/centred rms_norm/sum_of_squares rms_norm/gamma_dropped rms_norm/unit_offset_always",
    ),
    case(
        "rms_norm.plain.0001: RMSNORM-OUT NORM-AFFINE; Basic", call("rms_norm", x=ROWS, gamma=None), "rms_norm/centred"
    ),
    case(
        "rms_norm.offset.0001: RMSNORM-OFFSET; UnitOffset",
        call("rms_norm", x=ROWS, gamma=GAMMA, unit_offset=True),
        "rms_norm/unit_offset_ignored",
    ),
    case(
        "rms_norm.tiny.0001: NORM-EPS; Epsilon",
        call("rms_norm", x=TINY, gamma=GAMMA),
        "rms_norm/eps_outside_root rms_norm/eps_clamp rms_norm/eps_dropped rms_norm/divided_by_mean_square",
    ),
    case(
        "rms_norm.epsilon.0001: NORM-EPS; Epsilon",
        call("rms_norm", x=TINY, gamma=GAMMA, eps=1e-5),
        "rms_norm/eps_ignored rms_norm/eps_clamp",
    ),
    case(
        "rms_norm.equal.0001: NORM-EPS RMSNORM-OUT; EqualRow",
        call("rms_norm", x=EQUAL, gamma=GAMMA),
        "rms_norm/eps_dropped rms_norm/centred norm/over_everything",
        comment="A row of zeros gives zeros.",
    ),
    case(
        "rms_norm.spike.0001: NORM-EPS RMSNORM-OUT; Spike",
        call("rms_norm", x=SPIKE, gamma=GAMMA, eps=1e-5),
        "rms_norm/eps_after_rescale rms_norm/mean_of_magnitudes",
    ),
    case(
        "rms_norm.scale.0001: NORM-SCALE; Epsilon",
        call("rms_norm", x=grid("norm rows", (2, 3, 5), scale=2.0**-8), gamma=GAMMA, eps=0.0),
        "rms_norm/eps_ignored",
        comment="The first case's x, 256 times smaller, without epsilon.",
    ),
    case(
        "rms_norm.axes.0001: NORM-AXES; OtherAxis",
        call("rms_norm", x=ROWS, gamma=grid("gamma 35", (3, 5)), axis=[1, 2]),
        "norm/only_last_axis",
    ),
    case(
        "rms_norm.axis.0001: NORM-AXES; OtherAxis",
        call("rms_norm", x=ROWS, gamma=grid("gamma 3", (3,)), axis=-2),
        "norm/axis_to_last norm/only_last_axis",
    ),
    case(
        "rms_norm.wide.0001: RMSNORM-OUT; Tiles",
        call("rms_norm", x=WIDE, gamma=WIDE_GAMMA),
        "norm/tail_dropped norm/tail_unsummed norm/tail_zeros",
        comment="70 entries: a block of 64 and a rest.",
    ),
    refused(1, "layer_norm", "One gain for all entries is not broadcast.", x=ROWS, gamma=tensor([2.0])),
    refused(2, "layer_norm", "Beta is for other axes.", x=ROWS, gamma=GAMMA, beta=grid("beta 3", (3,))),
    refused(3, "layer_norm", "Axes out of order.", x=ROWS, gamma=grid("gamma 35", (3, 5)), axis=[2, 1]),
    refused(4, "layer_norm", "No axis.", x=ROWS, gamma=None, axis=[]),
    refused(1, "rms_norm", "Gamma is for other axes.", x=ROWS, gamma=grid("gamma 3", (3,))),
    refused(2, "rms_norm", "A negative epsilon.", x=ROWS, gamma=GAMMA, eps=-1e-6),
    refused(3, "rms_norm", "There is no such axis.", x=ROWS, gamma=GAMMA, axis=3),
    case(
        "deepnorm_constants.encoder.0001: DEEPNORM-CONSTANTS; Depth",
        call("deepnorm_constants", part="encoder", encoder_layers=12, decoder_layers=5),
        "deepnorm/encoder_beta_inverted deepnorm/always_alone",
    ),
    case(
        "deepnorm_constants.decoder.0001: DEEPNORM-CONSTANTS; Depth",
        call("deepnorm_constants", part="decoder", encoder_layers=12, decoder_layers=5),
        "deepnorm/always_alone",
    ),
    case(
        "deepnorm_constants.encoder.0002: DEEPNORM-CONSTANTS; Depth",
        call("deepnorm_constants", part="encoder", encoder_layers=7),
    ),
    case(
        "deepnorm_constants.decoder.0002: DEEPNORM-CONSTANTS; Depth",
        call("deepnorm_constants", part="decoder", decoder_layers=100),
    ),
]
