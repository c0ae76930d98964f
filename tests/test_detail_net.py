import dataclasses

import pytest
import torch

from assets.errors import AssetError
from assets.store import shipped
from assets.weights import write_tensors
from deca.detail_net import (
    N_INPUT,
    SIDE,
    TEXTURE,
    UNIT,
    DetailNet,
    detail_inputs,
    load_detail_net,
    log_light_sway,
    save_detail_net,
)
from deca.shipped_detail import Detail, normal_map, prepared
from deca.train_detail_data import Bank, Sizes, mirrored
from deca.train_detail_net import held_out_error
from flame.arkit import ARKIT_INDEX
from flame.load import load_head
from flame.outfit import load_outfit
from flame.wrinkle_lines import GROUPS
from flame.wrinkles import wrinkles


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def bank(flame):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return Bank(flame, load_outfit().albedo, Sizes(6, 4, 6, 6), generator=generator)


def test_a_saved_network_says_the_same_again(tmp_path):
    net = DetailNet().eval()
    save_detail_net(net, tmp_path / "net.safetensors", {})
    inputs = torch.randn(1, N_INPUT, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, expected in zip(
            load_detail_net(tmp_path / "net.safetensors")(inputs), net(inputs), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


def test_files_of_other_networks_are_refused_in_words(tmp_path):
    with pytest.raises(AssetError, match="no wrinkle network of this version"):
        load_detail_net(shipped("landmarks/landmarks.safetensors"))
    state = {n: t for n, t in DetailNet().state_dict().items() if "num_batches" not in n}
    save_detail_net(DetailNet(), tmp_path / "whole.safetensors", {})
    from assets.weights import read_metadata

    lame = {n: t for n, t in state.items() if not n.startswith("relief")}
    write_tensors(
        lame, tmp_path / "lame.safetensors", read_metadata(tmp_path / "whole.safetensors")
    )
    with pytest.raises(AssetError, match=r"relief\.weight"):
        load_detail_net(tmp_path / "lame.safetensors")


def test_light_from_the_side_sways_with_slopes_toward_it():
    # light 1 + x on a flat wall that faces the viewer: log(1 + x) grows by dx
    light = torch.zeros(1, 9, 3)
    light[:, 0], light[:, 1] = 1 / 0.282095, 1 / 1.023327
    wall = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    metres = torch.tensor([0.2, 0.1]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    dual_u = torch.tensor([1 / 0.2, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    dual_v = torch.tensor([0.0, 1 / 0.1, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    found = log_light_sway(wall, dual_u, dual_v, metres, light)
    # a rise toward +x turns the wall to -x
    torch.testing.assert_close(found[:, 0], torch.full((1, 8, 8), -1.0), atol=0.06, rtol=0)
    assert float(found[:, 1].abs().max()) < 0.01


def test_brightness_and_tint_of_the_picture_do_not_reach_the_network():
    generator = torch.Generator().manual_seed(0)
    colour = 0.3 + 0.2 * torch.rand(1, 3, 64, 64, generator=generator)
    from flame.srgb import linear_to_srgb

    rest = (torch.ones(1, 1, 64, 64), torch.zeros(1, 2, 64, 64), torch.zeros(1, 1, 64, 64))
    tint = torch.tensor([0.9, 1.3, 0.7]).view(1, 3, 1, 1)
    prior = torch.zeros(5, 64, 64)
    torch.testing.assert_close(
        detail_inputs(linear_to_srgb(colour), *rest, prior),
        detail_inputs(linear_to_srgb(colour * tint), *rest, prior),
        atol=1e-4, rtol=0,
    )  # fmt: skip


def test_one_seed_paints_the_same_faces(bank):
    with torch.no_grad():
        one, two = (bank.batch(2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    for field in dataclasses.fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))


def test_faces_in_a_mirror_of_a_mirror_are_themselves(bank):
    with torch.no_grad():
        faces = bank.batch(1, generator=torch.Generator().manual_seed(4))
    again = mirrored(mirrored(faces))
    assert torch.equal(again.inputs, faces.inputs) and torch.equal(again.height, faces.height)
    # the places of the mirrored texels are those of the head's other side
    prior = mirrored(faces).inputs[:, 7:9]
    torch.testing.assert_close(prior, faces.inputs[:, 7:9], atol=0.05, rtol=0)


def test_smooth_faces_have_no_relief_and_lined_ones_do(bank):
    with torch.no_grad():
        smooth = bank.batch(2, generator=torch.Generator().manual_seed(1), smooth=True)
        lined = bank.batch(2, generator=torch.Generator().manual_seed(1), smooth=False)
    assert float(smooth.height.abs().max()) == 0
    assert float(lined.height.abs().amax((1, 2, 3)).min()) > 5e-5


def test_the_shipped_network_finds_creases_and_leaves_freckled_smooth_skin_alone(bank):
    figures = held_out_error(load_detail_net(), bank, count=1)
    assert figures["lined: error, um"] < figures["lined: true height, um"]
    assert figures["lined: correlation"] > 0.25
    assert figures["smooth: height found, um"] < 0.35 * figures["lined: true height, um"]


def smiling(amount):
    weights = torch.zeros(52)
    for name in ("mouthSmile", "cheekSquint", "eyeSquint"):
        for side in ("Left", "Right"):
            weights[ARKIT_INDEX[name + side]] = amount
    return weights


def detail_with(flame, strength, displacement, seen):
    skin = prepared(flame, TEXTURE)
    person = wrinkles(
        flame,
        skin,
        torch.full((len(GROUPS),), strength),
        generator=torch.Generator().manual_seed(2),
    )
    own = person.at(torch.zeros(52)) * displacement
    confidence = torch.full((1, TEXTURE, TEXTURE), seen) * skin.mask
    return Detail(own, person.strengths, confidence, person, torch.zeros(52))


@pytest.mark.parametrize(("own", "seen"), [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_growing_smile_deepens_the_folds_of_the_portrait(flame, own, seen):
    detail = detail_with(flame, 0.5, own, seen)
    energies = [float(detail.at(smiling(a)).square().sum()) for a in (0.0, 0.35, 0.7, 1.0)]
    assert energies == sorted(energies) and energies[-1] > 1.3 * energies[0]


def test_the_portraits_own_expression_gives_back_its_own_relief(flame):
    detail = detail_with(flame, 0.5, 1.0, 1.0)
    seen = detail.confidence >= 1
    torch.testing.assert_close(
        detail.at(torch.zeros(52))[seen], detail.displacement[seen], atol=2e-5, rtol=0
    )


def test_the_normal_map_is_flat_where_nothing_rises(flame):
    flat = normal_map(torch.zeros(1, TEXTURE, TEXTURE), flame)
    straight = torch.tensor([0.5, 0.5, 1.0]).view(1, 3, 1, 1).expand_as(flat)
    torch.testing.assert_close(flat, straight)
    assert UNIT == 1e-4 and SIDE * 2 == TEXTURE
