"""Fits against scenes whose truth is known."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import pytest
import torch

from deca.codes import Codes
from deca.crop import crop_square
from deca.face_region import face_region
from deca.fit_light import fit_light
from deca.fit_pixels import face_surface, fit_pixels
from deca.guess import Guess
from deca.landmark_points import LandmarkPoints, landmark_points
from deca.texture import TextureConfig, skin_texture
from flame.albedo import AlbedoModel
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera
from flame.interpolate import interpolate
from flame.light import SH_CONSTANTS, sh_shading
from flame.load import load_head
from flame.model import Flame
from flame.normals import vertex_normals
from flame.outfit import load_outfit
from flame.params import Params, arkit_from_params, params_from_arkit
from flame.raster import rasterize
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import sample_texture

SIZE = 224


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def carried(flame: Flame) -> LandmarkPoints:
    return landmark_points(flame)


@pytest.fixture(scope="module")
def albedo() -> AlbedoModel:
    return load_outfit().albedo


class Seen(NamedTuple):
    """A head and the camera that sees it."""

    params: Params
    camera: Camera


def someone(flame: Flame, seed: int) -> tuple[Seen, torch.Tensor]:
    """A smiling person turned aside, and their ARKit weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(1, 52)
    for name in ("mouthSmileLeft", "mouthSmileRight"):
        weights[0, ARKIT_INDEX[name]] = 0.7
    weights[0, ARKIT_INDEX["jawOpen"]] = 0.3
    params = params_from_arkit(torch.randn(1, flame.n_shape, generator=generator), weights)
    params = dataclasses.replace(params, root=torch.tensor([[0.1, 0.3, -0.05]]))
    camera = Camera(torch.tensor([6.0]), torch.tensor([[0.01, -0.02]]), torch.tensor([18.0]))
    return Seen(params, camera), weights


def drawn(
    flame: Flame, albedo: AlbedoModel, truth: Seen, codes: torch.Tensor, light: torch.Tensor
) -> torch.Tensor:
    """A matt picture of the skin, from the equations alone."""
    region = face_region(flame)
    verts = flame(truth.params).verts
    fragments = rasterize(truth.camera.clip(verts, (SIZE, SIZE)), region.faces, (SIZE, SIZE))
    normals = interpolate(vertex_normals(verts, region.faces), region.faces, fragments)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    uv = interpolate(region.uv, region.uv_faces, fragments)
    texture = srgb_to_linear(albedo.decode(codes))
    linear = sample_texture(texture, uv) * sh_shading(normals, light).movedim(-1, 1)
    covered = fragments.face_id[:, None] >= 0
    return torch.where(covered, linear_to_srgb(linear.clamp(0, 1)), torch.tensor(0.5))


def side_light() -> torch.Tensor:
    """Mostly ambient, stronger from the left, slightly warm."""
    light = torch.zeros(1, 9, 3)
    light[0, 0] = torch.tensor([0.62, 0.60, 0.57]) / SH_CONSTANTS[0]
    light[0, 1] = -0.15 / SH_CONSTANTS[1]
    light[0, 3] = 0.28 / SH_CONSTANTS[3]
    return light


def test_light_and_skin_of_a_matt_face_are_found(flame: Flame, albedo: AlbedoModel) -> None:
    truth, _ = someone(flame, 2)
    codes = albedo.sample(1, torch.Generator().manual_seed(5))
    image = drawn(flame, albedo, truth, codes, side_light())
    region = face_region(flame)
    verts = flame(truth.params).verts
    fragments = rasterize(truth.camera.clip(verts, (SIZE, SIZE)), region.faces, (SIZE, SIZE))
    share = interpolate(region.share, region.faces, fragments)[0, ..., 0]
    normals = interpolate(vertex_normals(verts, region.faces), region.faces, fragments)[0]
    normals = torch.nn.functional.normalize(normals, dim=-1)
    uv = interpolate(region.uv, region.uv_faces, fragments)[0]
    inside = (share > 0.5) & (normals[..., 2] > 0.2)
    found = fit_light(albedo, image[0].movedim(0, -1)[inside], uv[inside], normals[inside])
    tone_error = (albedo.tone(found.albedo[None]) - albedo.tone(codes)).abs().max()
    assert tone_error < 0.09  # brightness of light and skin are told apart by priors alone
    front = torch.tensor([[[0.0, 0.0, 1.0], [-0.7, 0.0, 0.71], [0.7, 0.0, 0.71]]])
    found_shading = sh_shading(front, found.light[None])[0].mean(-1)
    true_shading = sh_shading(front, side_light())[0].mean(-1)
    torch.testing.assert_close(
        found_shading[1:] / found_shading[0], true_shading[1:] / true_shading[0], atol=0.05, rtol=0
    )
    assert found.residual.median() < 0.05


def guessed(
    truth: Seen, generator: torch.Generator, albedo: AlbedoModel, spread: float = 0.7
) -> tuple[Codes, Guess]:
    """Codes that are off as an encoder's are, and how far off that is."""
    params = truth.params
    shape = params.shape + spread * torch.randn(params.shape.shape, generator=generator)
    wrong = params_from_arkit(shape, (arkit_from_params(params) + 0.05).clamp(0, 1))
    wrong = dataclasses.replace(wrong, root=params.root + 0.03)
    camera = dataclasses.replace(truth.camera, scale=truth.camera.scale * 1.02)
    sigmas = torch.full((params.shape.shape[1],), spread), torch.full((52,), 0.15)
    guess = Guess(wrong, camera, *sigmas)
    return Codes(wrong, torch.zeros(1, albedo.n_codes), camera, side_light()), guess


def test_pixels_bring_a_wrong_guess_nearer_to_the_head_that_was_drawn(
    flame: Flame, albedo: AlbedoModel, carried: LandmarkPoints
) -> None:
    generator = torch.Generator().manual_seed(8)
    truth, _ = someone(flame, 3)
    image = drawn(flame, albedo, truth, albedo.sample(1, generator), side_light())
    points = truth.camera.project(carried.on(flame(truth.params).verts), (SIZE, SIZE))[0, :, :2]
    start, guess = guessed(truth, generator, albedo)
    surface = face_surface(flame, carried)
    # points that are off by 3 px, and known to be
    noisy = points + 3 * torch.randn(points.shape, generator=generator)
    found = fit_pixels(
        surface, albedo, image, noisy, torch.full((len(carried),), 3.0), start, guess
    )

    def point_error(codes: Codes) -> float:
        seen = codes.camera.project(carried.on(flame(codes.params).verts), (SIZE, SIZE))
        return float((seen[0, :, :2] - points).norm(dim=1).mean())

    def shape_error(codes: Codes) -> float:
        rest = dataclasses.replace(
            codes.params, expression=torch.zeros(1, 52), jaw=torch.zeros(1, 3),
            root=torch.zeros(1, 3), eyes=torch.zeros(1, 2, 3),
        )  # fmt: skip
        own = dataclasses.replace(rest, shape=truth.params.shape)
        verts = carried.verts[:-2]
        off = flame(rest).verts[0, verts] - flame(own).verts[0, verts]
        return float((off - off.mean(0)).norm(dim=1).mean())

    assert point_error(found) < 1.0 < point_error(start)
    assert shape_error(found) < 0.75 * shape_error(start)


def test_a_sure_guess_is_kept_whatever_the_pixels_say(
    flame: Flame, albedo: AlbedoModel, carried: LandmarkPoints
) -> None:
    generator = torch.Generator().manual_seed(9)
    truth, _ = someone(flame, 5)
    start, guess = guessed(truth, generator, albedo)
    sure = dataclasses.replace(guess, shape_sigma=torch.full((flame.n_shape,), 1e-4))
    image = torch.rand(1, 3, SIZE, SIZE, generator=generator)
    points = torch.rand(len(carried), 2, generator=generator) * SIZE
    sigmas = torch.full((len(carried),), torch.inf)
    surface = face_surface(flame, carried)
    found = fit_pixels(surface, albedo, image, points, sigmas, start, sure)
    # a guess is never believed to better than a twentieth of a standard deviation
    assert float((found.params.shape - start.params.shape).abs().max()) < 0.2
    for tensor in (found.params.expression, found.light, found.albedo, found.camera.scale):
        assert bool(torch.isfinite(tensor).all())


def test_a_projected_texture_returns_where_it_was_seen(flame: Flame, albedo: AlbedoModel) -> None:
    truth, _ = someone(flame, 4)
    codes = albedo.sample(1, torch.Generator().manual_seed(7))
    light = side_light()
    image = drawn(flame, albedo, truth, codes, light)
    plain = torch.zeros_like(codes)  # the model is told nothing of this skin: the picture must
    found = skin_texture(
        flame,
        albedo,
        Codes(truth.params, plain, truth.camera, light),
        image,
        TextureConfig(side=256, detail=1.0, outlier=10.0),
    )
    wanted = albedo.decode(codes, 256)[0]
    seen = (found.coverage[0] > 0.98)[None].expand(3, -1, -1)
    assert seen.float().mean() > 0.03
    assert (found.base_color - wanted).abs()[seen].median() < 0.03
    unseen = (found.coverage[0] == 0)[None].expand(3, -1, -1)
    torch.testing.assert_close(
        found.base_color[unseen], albedo.decode(plain, 256)[0][unseen], atol=2e-3, rtol=0
    )


def test_a_crop_knows_where_its_pixels_came_from() -> None:
    image = torch.zeros(1, 3, 90, 120)
    image[0, :, 40, 70] = 1.0
    crop = crop_square(image, torch.tensor([66.0, 43.0]), 40.0, 80, roll_rad=0.3)
    brightest = crop.image[0, 0].flatten().argmax()
    place = torch.tensor([brightest % 80 + 0.5, brightest // 80 + 0.5])
    torch.testing.assert_close(
        crop.picture_points(place[None])[0], torch.tensor([70.5, 40.5]), atol=0.6, rtol=0
    )
    torch.testing.assert_close(crop.points(crop.picture_points(place[None]))[0], place)
