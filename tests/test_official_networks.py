"""The published networks: key names, shapes, counts, and layers against plain functions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from deca.detail import DetailDecoder, detail_latent
from deca.emoca import EmocaNetworks, split_expression
from deca.iresnet import IBasicBlock
from deca.mica import MicaNetworks, ShapeMapping
from deca.mobilenet import DepthwiseBlock, InvertedResidual, LastConv, SameConv2d
from deca.official_deca import Deca, DecaConfig, DecaNetworks, euler_to_axis_angle, split_codes
from deca.resnet import Bottleneck, ResnetEncoder
from deca.smirk import SmirkNetworks, bounded_jaw
from deca.synthetic import random_weights
from flame.rotation import axis_angle_to_matrix


def _layout(build):
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


def _count(build):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def _norm_keys(name, width):
    per_channel = {f"{name}.{part}": (width,) for part in ("weight", "bias")}
    per_channel |= {f"{name}.running_{part}": (width,) for part in ("mean", "var")}
    return {**per_channel, f"{name}.num_batches_tracked": ()}


def _linear_keys(name, n_in, n_out):
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def _resnet50_keys(prefix, n_outputs):
    keys = {f"{prefix}encoder.conv1.weight": (64, 3, 7, 7)}
    keys |= _norm_keys(f"{prefix}encoder.bn1", 64)
    n_in = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            at = f"{prefix}encoder.layer{stage}.{block}"
            shapes = ((width, n_in, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for index, shape in enumerate(shapes, start=1):
                keys[f"{at}.conv{index}.weight"] = shape
                keys |= _norm_keys(f"{at}.bn{index}", shape[0])
            if block == 0:
                keys[f"{at}.downsample.0.weight"] = (4 * width, n_in, 1, 1)
                keys |= _norm_keys(f"{at}.downsample.1", 4 * width)
            n_in = 4 * width
    keys |= _linear_keys(f"{prefix}layers.0", 2048, 1024)
    return keys | _linear_keys(f"{prefix}layers.2", 1024, n_outputs)


def _decoder_keys(prefix):
    keys = _linear_keys(f"{prefix}l1.0", 181, 8192)
    for index, width in zip((0, 3, 7, 11, 15, 19), (128, 128, 64, 64, 32, 16), strict=True):
        keys |= _norm_keys(f"{prefix}conv_blocks.{index}", width)
    widths = (128, 128, 64, 64, 32, 16, 1)
    for order, index in enumerate((2, 6, 10, 14, 18, 21)):
        keys[f"{prefix}conv_blocks.{index}.weight"] = (widths[order + 1], widths[order], 3, 3)
        keys[f"{prefix}conv_blocks.{index}.bias"] = (widths[order + 1],)
    return keys


def _published_deca():
    return (
        _resnet50_keys("E_flame.", 236)
        | _resnet50_keys("E_detail.", 128)
        | _decoder_keys("D_detail.")
    )


def test_decas_keys_are_the_published_ones():
    assert _layout(lambda: DecaNetworks(True)) == _published_deca()
    assert len(_resnet50_keys("", 236)) == 322
    assert len(_decoder_keys("")) == 44


@pytest.mark.parametrize("width", [50, 53, 56])
def test_emocas_keys_are_decas_and_an_expression_encoders(width):
    published = _published_deca() | _resnet50_keys("E_expression.", width)
    assert _layout(lambda: EmocaNetworks(True, width)) == published


def test_micas_keys_are_the_published_ones():
    keys = {"arcface.conv1.weight": (64, 3, 3, 3), "arcface.prelu.weight": (64,)}
    keys |= _norm_keys("arcface.bn1", 64)
    n_in = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 13), (256, 30), (512, 3)), start=1):
        for block in range(blocks):
            at = f"arcface.layer{stage}.{block}"
            keys |= _norm_keys(f"{at}.bn1", n_in)
            keys |= {f"{at}.conv1.weight": (width, n_in, 3, 3), f"{at}.prelu.weight": (width,)}
            keys |= _norm_keys(f"{at}.bn2", width)
            keys |= {f"{at}.conv2.weight": (width, width, 3, 3)} | _norm_keys(f"{at}.bn3", width)
            if block == 0:
                keys[f"{at}.downsample.0.weight"] = (width, n_in, 1, 1)
                keys |= _norm_keys(f"{at}.downsample.1", width)
            n_in = width
    keys |= _norm_keys("arcface.bn2", 512) | _linear_keys("arcface.fc", 25088, 512)
    keys |= _norm_keys("arcface.features", 512)
    assert len(keys) == 925
    for index in range(4):
        n_in = 512 if index == 0 else 300
        keys |= _linear_keys(f"flameModel.regressor.network.{index}", n_in, 300)
    keys |= _linear_keys("flameModel.regressor.output", 300, 300)
    assert _layout(MicaNetworks) == keys


def _mobilenet_keys(prefix, stages, last):
    """The minimal MobileNetV3 with widths written out: (inner width, output width) a block."""
    keys = {f"{prefix}conv_stem.weight": (16, 3, 3, 3)} | _norm_keys(f"{prefix}bn1", 16)
    at = f"{prefix}blocks.0.0"
    keys |= {f"{at}.conv_dw.weight": (16, 1, 3, 3), f"{at}.conv_pw.weight": (16, 16, 1, 1)}
    keys |= _norm_keys(f"{at}.bn1", 16) | _norm_keys(f"{at}.bn2", 16)
    n_in = 16
    for stage, blocks in enumerate(stages, start=1):
        for block, (inner, outer) in enumerate(blocks):
            at = f"{prefix}blocks.{stage}.{block}"
            keys |= {f"{at}.conv_pw.weight": (inner, n_in, 1, 1)}
            keys |= {f"{at}.conv_dw.weight": (inner, 1, 3, 3)}
            keys |= {f"{at}.conv_pwl.weight": (outer, inner, 1, 1)}
            keys |= _norm_keys(f"{at}.bn1", inner) | _norm_keys(f"{at}.bn2", inner)
            keys |= _norm_keys(f"{at}.bn3", outer)
            n_in = outer
    at = f"{prefix}blocks.{len(stages) + 1}.0"
    return keys | {f"{at}.conv.weight": (last, n_in, 1, 1)} | _norm_keys(f"{at}.bn1", last)


def test_smirks_keys_are_timms_and_three_linear_layers():
    small = (
        ((72, 24), (88, 24)),
        ((96, 40), (240, 40), (240, 40)),
        ((120, 48), (144, 48)),
        ((288, 96), (576, 96), (576, 96)),
    )
    large = (
        ((64, 24), (72, 24)),
        ((72, 40), (120, 40), (120, 40)),
        ((240, 80), (200, 80), (184, 80), (184, 80)),
        ((480, 112), (672, 112)),
        ((672, 160), (960, 160), (960, 160)),
    )
    keys = _mobilenet_keys("pose_encoder.encoder.", small, 576)
    keys |= _linear_keys("pose_encoder.pose_cam_layers.0", 576, 6)
    keys |= _mobilenet_keys("shape_encoder.encoder.", large, 960)
    keys |= _linear_keys("shape_encoder.shape_layers.0", 960, 300)
    keys |= _mobilenet_keys("expression_encoder.encoder.", large, 960)
    keys |= _linear_keys("expression_encoder.expression_layers.0", 960, 55)
    assert _layout(SmirkNetworks) == keys


def test_the_networks_have_the_published_numbers_of_parameters():
    assert _count(lambda: ResnetEncoder(236)) == 25_848_108
    assert _count(lambda: ResnetEncoder(128)) == 25_737_408
    assert _count(DetailDecoder) == 1_773_345
    assert _count(ShapeMapping) == 515_100
    assert _count(MicaNetworks) - 515_100 == 65_156_160
    assert round(_count(SmirkNetworks) / 1e6, 2) == 3.60
    assert round(_count(lambda: ResnetEncoder(53)) / 1e6, 2) == 25.66


def _filled(module, generator):
    module.load_state_dict(random_weights(module.state_dict(), generator))
    return module.double().eval()


def _plain_norm(tensors, name, features, eps):
    at = [1, -1] + [1] * (features.ndim - 2)
    mean, variance = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
    scaled = (features - mean.view(at)) / (variance.view(at) + eps).sqrt()
    return scaled * tensors[f"{name}.weight"].view(at) + tensors[f"{name}.bias"].view(at)


def test_the_bottleneck_strides_on_its_middle_convolution(generator):
    block = _filled(Bottleneck(8, 4, 2), generator)
    t = block.state_dict()
    x = torch.randn(2, 8, 9, 7, generator=generator, dtype=torch.float64)
    y = _plain_norm(t, "bn1", F.conv2d(x, t["conv1.weight"]), 1e-5).clamp(min=0)
    y = F.conv2d(y, t["conv2.weight"], stride=2, padding=1)
    y = _plain_norm(
        t, "bn3", F.conv2d(_plain_norm(t, "bn2", y, 1e-5).relu(), t["conv3.weight"]), 1e-5
    )
    short = F.conv2d(x[..., ::2, ::2], t["downsample.0.weight"])
    wanted = (y + _plain_norm(t, "downsample.1", short, 1e-5)).relu()
    torch.testing.assert_close(block(x), wanted, atol=1e-12, rtol=0)


def test_arcfaces_block_strides_on_its_second_convolution_and_does_not_end_in_a_relu(generator):
    block = _filled(IBasicBlock(6, 10, 2), generator)
    t = block.state_dict()
    x = torch.randn(2, 6, 8, 8, generator=generator, dtype=torch.float64)
    y = F.conv2d(_plain_norm(t, "bn1", x, 1e-5), t["conv1.weight"], padding=1)
    y = _plain_norm(t, "bn2", y, 1e-5)
    y = torch.where(y > 0, y, y * t["prelu.weight"][:, None, None])
    y = _plain_norm(t, "bn3", F.conv2d(y, t["conv2.weight"], stride=2, padding=1), 1e-5)
    short = F.conv2d(x[..., ::2, ::2], t["downsample.0.weight"])
    wanted = y + _plain_norm(t, "downsample.1", short, 1e-5)
    torch.testing.assert_close(block(x), wanted, atol=1e-12, rtol=0)
    assert (wanted < 0).any()


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_tensorflows_padding_puts_the_odd_pixel_last(size, generator):
    conv = _filled(SameConv2d(2, 3, 3, 2, bias=False), generator)
    x = torch.randn(1, 2, *size, generator=generator, dtype=torch.float64)
    high, wide = math.ceil(size[0] / 2), math.ceil(size[1] / 2)
    wanted = torch.zeros(1, 3, high, wide, dtype=torch.float64)
    # an even side starts its windows at 0, an odd one at -1
    first = [0 if side % 2 == 0 else -1 for side in size]
    for i in range(high):
        for j in range(wide):
            for di in range(3):
                for dj in range(3):
                    r, c = 2 * i + di + first[0], 2 * j + dj + first[1]
                    if 0 <= r < size[0] and 0 <= c < size[1]:
                        wanted[0, :, i, j] += conv.weight[:, :, di, dj] @ x[0, :, r, c]
    torch.testing.assert_close(conv(x), wanted, atol=1e-12, rtol=0)


def test_mobilenets_blocks_end_linear_and_skip_only_where_nothing_changes(generator):
    x = torch.randn(2, 8, 6, 6, generator=generator, dtype=torch.float64)
    block = _filled(InvertedResidual(8, 8, 1, 3.67), generator)
    t = block.state_dict()
    width = 32  # 8 * 3.67 = 29.4, to the nearest multiple of 8
    assert t["conv_dw.weight"].shape == (width, 1, 3, 3)
    y = _plain_norm(t, "bn1", F.conv2d(x, t["conv_pw.weight"]), 1e-3).relu()
    y = F.conv2d(y, t["conv_dw.weight"], padding=1, groups=width)
    y = F.conv2d(_plain_norm(t, "bn2", y, 1e-3).relu(), t["conv_pwl.weight"])
    wanted = _plain_norm(t, "bn3", y, 1e-3) + x
    torch.testing.assert_close(block(x), wanted, atol=1e-12, rtol=0)

    block = _filled(DepthwiseBlock(8, 16, 1), generator)
    t = block.state_dict()
    y = F.conv2d(x, t["conv_dw.weight"], padding=1, groups=8)
    y = F.conv2d(_plain_norm(t, "bn1", y, 1e-3).relu(), t["conv_pw.weight"])
    torch.testing.assert_close(block(x), _plain_norm(t, "bn2", y, 1e-3), atol=1e-12, rtol=0)

    last = _filled(LastConv(8, 16), generator)
    t = last.state_dict()
    wanted = _plain_norm(t, "bn1", F.conv2d(x, t["conv.weight"]), 1e-3).relu()
    torch.testing.assert_close(last(x), wanted, atol=1e-12, rtol=0)


def _doubled(x):
    """Bilinear enlargement by 2 with pixel centres at .5: weights 3/4 and 1/4, border repeated."""
    for dim in (-2, -1):
        length = x.shape[dim]
        padded = torch.cat([x.narrow(dim, 0, 1), x, x.narrow(dim, length - 1, 1)], dim)
        even = 0.75 * x + 0.25 * padded.narrow(dim, 0, length)
        odd = 0.75 * x + 0.25 * padded.narrow(dim, 2, length)
        x = torch.stack([even, odd], dim=-1 if dim == -1 else -2).flatten(dim - 1, dim)
    return x


def test_the_detail_decoder_is_the_published_chain_with_its_odd_eps(generator):
    decoder = _filled(DetailDecoder(), generator)
    t = decoder.state_dict()
    latent = torch.randn(2, 181, generator=generator, dtype=torch.float64)
    x = (latent @ t["l1.0.weight"].T + t["l1.0.bias"]).reshape(2, 128, 8, 8)
    x = _plain_norm(t, "conv_blocks.0", x, 1e-5)
    for conv in (2, 6, 10, 14, 18):
        weight, bias = t[f"conv_blocks.{conv}.weight"], t[f"conv_blocks.{conv}.bias"]
        x = F.conv2d(_doubled(x), weight, bias, padding=1)
        x = _plain_norm(t, f"conv_blocks.{conv + 1}", x, 0.8)
        x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x, t["conv_blocks.21.weight"], t["conv_blocks.21.bias"], padding=1)
    wanted = 0.01 * torch.tanh(x)
    with torch.no_grad():
        found = decoder(latent)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)
    assert wanted.abs().max() > 1e-3


def test_micas_mapping_leaks_a_fifth_and_ends_linear(generator):
    mapping = _filled(ShapeMapping(), generator)
    t = mapping.state_dict()
    x = wanted = torch.randn(3, 512, generator=generator, dtype=torch.float64)
    for index in range(4):
        wanted = wanted @ t[f"network.{index}.weight"].T + t[f"network.{index}.bias"]
        wanted = torch.maximum(wanted, 0.2 * wanted)
    wanted = wanted @ t["output.weight"].T + t["output.bias"]
    torch.testing.assert_close(mapping(x), wanted, atol=1e-12, rtol=0)


def test_decas_outputs_are_split_in_the_published_order():
    codes = torch.arange(236.0).repeat(2, 1)
    parts = split_codes(codes)
    for name, first, end in (
        ("shape", 0, 100), ("albedo", 100, 150), ("expression", 150, 200), ("root", 200, 203),
        ("jaw", 203, 206), ("camera", 206, 209),
    ):  # fmt: skip
        assert torch.equal(getattr(parts, name)[1], torch.arange(float(first), end)), name
    # nine rows of red, green, blue
    assert parts.light[0, 0].tolist() == [209, 210, 211]
    assert parts.light[0, 8].tolist() == [233, 234, 235]


def test_the_latent_is_jaw_expression_detail():
    latent = detail_latent(torch.full((1, 3), 1.0), torch.full((1, 50), 2.0), torch.zeros(1, 128))
    assert latent[0].tolist() == [1.0] * 3 + [2.0] * 50 + [0.0] * 128
    with pytest.raises(ValueError, match="takes 50"):
        detail_latent(torch.zeros(1, 3), torch.zeros(1, 52), torch.zeros(1, 128))


@pytest.mark.parametrize("width", [50, 53, 56])
def test_an_expression_head_is_split_by_its_width(width):
    parts = split_expression(torch.arange(float(width))[None])
    wanted = {50: [50], 53: [50, 53], 56: [50, 53, 56]}[width]
    names = {50: ["expression"], 53: ["expression", "jaw"], 56: ["expression", "root", "jaw"]}
    assert list(parts) == names[width]
    ends = [int(part[0, -1]) + 1 for part in parts.values()]
    assert ends == wanted


def test_an_euler_jaw_turns_about_x_then_the_new_y_then_the_new_z():
    angles = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64)
    cx, cy, cz = angles[0].cos().tolist()
    sx, sy, sz = angles[0].sin().tolist()
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
    found = axis_angle_to_matrix(euler_to_axis_angle(angles))[0]
    torch.testing.assert_close(found, about_x @ about_y @ about_z, atol=1e-12, rtol=0)


def test_smirks_jaw_only_opens_and_hardly_turns_sideways():
    jaw = bounded_jaw(torch.tensor([[-0.3, 0.5, -0.1], [0.4, -0.9, 0.3]]))
    torch.testing.assert_close(jaw, torch.tensor([[0.0, 0.2, -0.1], [0.4, -0.2, 0.2]]))


def test_a_crop_of_the_wrong_size_is_refused():
    with torch.device("meta"):
        encoder = Deca(DecaNetworks(False), DecaConfig(detail=False))
    with pytest.raises(ValueError, match=r"256 x 256 pixels, deca takes 224 x 224"):
        encoder.encode(torch.zeros(1, 3, 256, 256))
