"""From true answers to codes, their files, and the fit that starts from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from plain_people import plain_wardrobe
from true_codes import (
    SIDE,
    assert_same,
    pinhole,
    small_net,
    true_answer,
    turned,
)

from assets.errors import AssetError
from deca.code_net import (
    CODE_SIDE,
    CODE_VIEW,
    CodeNet,
    code_flip,
    codes_of,
    load_code_net,
    rotation_from_six,
    save_code_net,
)
from deca.codes import Codes
from deca.encode import encode_box, seen_by
from deca.exposure import exposed, skin_samples
from deca.face_region import face_region
from deca.landmark_points import LandmarkPoints, landmark_points
from deca.synth import Shot, Studio, matt_light
from deca.synth_degrade import on_background
from flame.camera import Camera
from flame.interpolate import interpolate
from flame.light import directional, sh_basis, sh_constant
from flame.load import load_head
from flame.model import Flame
from flame.outfit import load_outfit
from flame.params import Params, arkit_from_params, params_from_arkit
from flame.raster import rasterize
from flame.rotation import axis_angle_to_matrix
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import sample_texture


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def points(flame: Flame) -> LandmarkPoints:
    return landmark_points(flame)


@pytest.fixture(scope="module")
def shots(flame: Flame) -> list[Shot]:
    studio = Studio(flame, plain_wardrobe())
    return studio.shoot(2, generator=torch.Generator().manual_seed(4))


# --- light and labels


def test_the_same_light_from_everywhere_stays_what_it_is():
    dark = torch.zeros(1, 1, 3)
    ambient = sh_constant(torch.tensor([[0.3, 0.5, 0.7]]))
    found = matt_light(directional(torch.tensor([[[0.0, 0, 1]]]), dark, ambient))
    torch.testing.assert_close(found, ambient)


def test_a_lamp_is_the_order_two_series_of_the_clamped_cosine(generator):
    lamps = torch.randn(2, 2, 3, generator=generator)
    colours = torch.rand(2, 2, 3, generator=generator)
    normals = torch.nn.functional.normalize(torch.randn(300, 3, generator=generator), dim=1)
    found = torch.einsum("nk,bkc->bnc", sh_basis(normals), matt_light(directional(lamps, colours)))
    cosine = torch.einsum("nc,blc->bnl", normals, torch.nn.functional.normalize(lamps, dim=-1))
    # Legendre series of max(t, 0): 1/4 + t/2 + 5/16 P2(t)
    series = 0.25 + cosine / 2 + 5 / 32 * (3 * cosine.square() - 1)
    torch.testing.assert_close(found, series @ colours, atol=3e-3, rtol=0)
    # its greatest error is 3/32, where the lamp grazes the surface
    error = (found - cosine.clamp(min=0) @ colours).abs()
    assert float((error / colours.sum(1, keepdim=True)).max()) < 3 / 32 + 3e-3


def test_codes_of_a_picture_put_the_head_where_its_points_are(flame, points, shots):
    for shot in shots:
        placed = points.on(flame(shot.codes.params).verts)
        seen = pinhole(placed, shot.codes.camera, len(shot.rgba))[0].float()
        torch.testing.assert_close(seen, shot.points, atol=0.02, rtol=0)
    assert torch.equal(shots[0].codes.params.shape, shots[1].codes.params.shape)  # one person


# --- the network's answer


def test_six_numbers_that_are_a_rotations_columns_give_it_back(generator):
    vectors = torch.randn(30, 3, generator=generator)
    rotations = axis_angle_to_matrix(vectors)
    six = torch.cat([rotations[:, :, 0] * 3, rotations[:, :, 1] * 0.2 - rotations[:, :, 0]], dim=1)
    torch.testing.assert_close(rotation_from_six(six), rotations, atol=1e-5, rtol=0)


def test_any_six_numbers_give_a_rotation(generator):
    found = rotation_from_six(torch.randn(200, 6, generator=generator).double())
    unit = torch.eye(3, dtype=torch.float64).expand_as(found)
    torch.testing.assert_close(found.transpose(1, 2) @ found, unit, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.det(), torch.ones(200).double(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("distance", [0.4, 0.9, 20.0])
def test_the_camera_of_a_true_answer_puts_points_where_they_were_seen(
    flame, points, generator, distance
):
    params, camera = turned(flame, generator, distance)
    answer = true_answer(flame, points, params, camera)
    codes = codes_of(answer, flame, points)
    found = pinhole(points.on(flame(codes.params).verts), codes.camera, SIDE)
    off = (found - SIDE * answer.landmarks.mean).norm(dim=-1)
    assert float(off.max()) < 0.05  # px of 128
    torch.testing.assert_close(codes.camera.scale, camera.scale, atol=0, rtol=1e-3)
    torch.testing.assert_close(codes.camera.fov_deg, camera.fov_deg, atol=0, rtol=1e-3)
    assert torch.equal(codes.light, answer.light) and torch.equal(codes.albedo, answer.albedo)


def test_points_that_the_network_doubts_hardly_move_the_camera(flame, points, generator):
    params, camera = turned(flame, generator)
    answer = true_answer(flame, points, params, camera)
    answer.landmarks.mean[:, :17] += 0.1
    answer.landmarks.log_sigma.fill_(-5.0)
    answer.landmarks.log_sigma[:, :17] = 0.0
    found = codes_of(answer, flame, points).camera
    torch.testing.assert_close(found.scale, camera.scale, atol=0, rtol=1e-3)
    torch.testing.assert_close(found.shift, camera.shift, atol=1e-4, rtol=0)


# --- files


def test_saved_encoders_come_back(flame, points, tmp_path, generator):
    net = small_net(points, n_shape=30)
    path = tmp_path / "net.safetensors"
    save_code_net(net, path, {"licence": "ours"})
    loaded = load_code_net(flame, path)
    assert loaded.config == net.config and loaded.landmarks.config == net.landmarks.config
    crops = torch.rand(3, 3, CODE_SIDE, CODE_SIDE, generator=generator)
    with torch.no_grad():
        assert_same(loaded(crops), net(crops), 4e-3)  # weights are stored as halves
    for name in ("shape_sigma", "weight_sigma", "out_mean", "out_scale"):
        assert torch.equal(getattr(loaded, name), getattr(net, name)), name
    assert not loaded.training


def test_an_encoder_of_another_format_is_refused(tmp_path):
    from assets.weights import write_tensors

    path = tmp_path / "other.safetensors"
    write_tensors({"a": torch.zeros(2)}, path, {"format": "else"})
    with pytest.raises(AssetError, match="is no encoder of this version") as caught:
        load_code_net(path=path)
    assert "other.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_an_encoder_of_another_head_is_refused(flame, points, tmp_path):
    elsewhere = dataclasses.replace(points, rest=points.rest + 0.01)
    save_code_net(small_net(elsewhere), tmp_path / "net.safetensors", {})
    with pytest.raises(AssetError, match="trained on another head"):
        load_code_net(flame, tmp_path / "net.safetensors")


# --- a whole look


def looking(flame: Flame, points: LandmarkPoints) -> CodeNet:
    net = small_net(points)
    net.shape_mirror.copy_(code_flip(flame, points, flame.n_shape).shape)
    net.skin = skin_samples(flame, load_outfit().albedo, net.landmarks.verts)
    return net


def picture_of(shot: Shot) -> torch.Tensor:
    back = torch.full((*shot.rgba.shape[:2], 3), 90, dtype=torch.uint8)
    return on_background(torch.from_numpy(np.ascontiguousarray(shot.rgba))[None], back[None])


def test_one_look_crops_round_the_points_and_gives_finite_codes(flame, points, shots):
    net, image = looking(flame, points), picture_of(shots[0])
    low, high = shots[0].points.amin(0), shots[0].points.amax(0)
    found = encode_box(image, torch.cat([low, high]), flame, net)
    assert found.crop.image.shape == (1, 3, CODE_SIDE, CODE_SIDE)
    for tensor in values(found.codes):
        assert bool(torch.isfinite(tensor).all())
    assert found.codes.params.shape.shape == (1, net.config.n_shape)
    # what the first network saw fills the crop but for a margin, in its middle, eyes level
    seen = net.finder.predict(image, torch.cat([low, high]), passes=2, thorough=False)
    inside = found.crop.points(torch.cat([seen.points68, seen.points], 1)[0])
    low, high = inside.amin(0), inside.amax(0)
    middle = torch.full((2,), CODE_SIDE / 2)
    torch.testing.assert_close((low + high) / 2, middle, atol=0.05, rtol=0)
    assert float((high - low).max()) == pytest.approx(CODE_SIDE / CODE_VIEW, abs=0.1)
    eyes = inside[42:48].mean(0) - inside[36:42].mean(0)
    assert abs(float(eyes[1] / eyes[0])) < 1e-3 and float(eyes[0]) > 0
    # the network's own crop is the picture's pixels
    middle = found.crop.picture_points(torch.tensor([[CODE_SIDE / 2, CODE_SIDE / 2]]))[0]
    torch.testing.assert_close(middle, found.framing.center, atol=0.01, rtol=0)
    assert torch.equal(found.guess.shape_sigma, net.shape_sigma)


def test_a_look_at_the_mirror_image_gives_the_mirrored_codes(flame, points, shots):
    net, image = looking(flame, points), picture_of(shots[0])
    width = image.shape[-1]
    low, high = shots[0].points.amin(0), shots[0].points.amax(0)
    plain = encode_box(image, torch.cat([low, high]), flame, net).codes
    box = torch.stack([width - high[0], low[1], width - low[0], high[1]])
    other = encode_box(image.flip(-1), box, flame, net).codes
    flip = code_flip(flame, points, flame.n_shape)
    torch.testing.assert_close(other.params.shape @ flip.shape.T, plain.params.shape, **LOOSE)
    weights = arkit_from_params(other.params)[:, flip.weights]
    torch.testing.assert_close(weights, arkit_from_params(plain.params), **LOOSE)
    torch.testing.assert_close(other.light * flip.light[:, None], plain.light, atol=5e-3, rtol=0.03)
    torch.testing.assert_close(
        other.params.root * torch.tensor([1.0, -1, -1]), plain.params.root, **LOOSE
    )


LOOSE = {"atol": 5e-3, "rtol": 0.0}  # bilinear crops of mirrored pictures differ by rounding


def test_a_wider_crop_with_the_same_middle_shows_the_head_smaller(flame, points, generator):
    params, camera = turned(flame, generator)
    placed = points.on(flame(params).verts)
    near = pinhole(placed, camera, SIDE) - SIDE / 2
    wide = pinhole(placed, seen_by(camera, 1.7), SIDE) - SIDE / 2
    torch.testing.assert_close(wide, near / 1.7, atol=1e-3, rtol=0)


def values(codes: Codes) -> list[torch.Tensor]:
    params = [getattr(codes.params, field.name) for field in dataclasses.fields(Params)]
    camera = [codes.camera.scale, codes.camera.shift, codes.camera.fov_deg]
    return [*params, *camera, codes.albedo, codes.light]


# --- exposure


def test_light_is_made_as_bright_as_the_picture(flame, points):
    """A matt skin drawn at known brightness: what was scaled away comes back."""
    albedo = load_outfit().albedo
    params = params_from_arkit(torch.zeros(1, flame.n_shape), torch.zeros(1, 52))
    camera = Camera(torch.tensor([7.0]), torch.tensor([[0.0, -0.01]]), torch.tensor([18.0]))
    light = sh_constant(torch.tensor([[0.5, 0.5, 0.5]]))
    codes = Codes(params, torch.zeros(1, albedo.n_codes), camera, light)
    region = face_region(flame)
    verts = flame(params).verts
    fragments = rasterize(camera.clip(verts, (SIDE, SIDE)), region.faces, (SIDE, SIDE))
    uv = interpolate(region.uv, region.uv_faces, fragments)
    texture = srgb_to_linear(albedo.decode(codes.albedo))
    picture = linear_to_srgb(0.5 * sample_texture(texture, uv))
    samples = skin_samples(flame, albedo, points.verts)
    dim = dataclasses.replace(codes, light=0.2 * light)
    found = exposed(dim, picture, flame, samples)
    torch.testing.assert_close(found.light, light, atol=0, rtol=0.06)
    assert torch.equal(found.albedo, codes.albedo)


def test_a_picture_without_skin_keeps_its_light(flame, points):
    params = params_from_arkit(torch.zeros(1, flame.n_shape), torch.zeros(1, 52))
    away = Camera(torch.tensor([7.0]), torch.tensor([[5.0, 5.0]]), torch.tensor([18.0]))
    light = torch.ones(1, 9, 3)
    albedo = load_outfit().albedo
    codes = Codes(params, torch.zeros(1, albedo.n_codes), away, light)
    samples = skin_samples(flame, albedo, points.verts)
    found = exposed(codes, torch.rand(1, 3, 32, 32), flame, samples)
    assert torch.equal(found.light, light)
