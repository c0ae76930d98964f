"""DECA's decoding in one call against its formulas written out once more."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from published import published_flame

from assets.store import official_models
from deca.official_codes import OfficialCodes
from deca.official_deca import Deca, DecaConfig
from deca.official_decode import DecodeConfig, View, decode
from deca.official_surface import DetailMaps, SurfaceConfig
from flame.light import SH_CONSTANTS
from flame.official import load_flame
from flame.synthetic import write_companions, write_flame
from flame.texture_space import TextureSpace

BATCH = 2


class Waves(Deca):
    """A detail decoder that anyone can work out: a wave as high as the jaw is open."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.config = DecaConfig()

    def displacement(self, jaw, expression, detail):
        wave = torch.linspace(0, 6, 256).sin().expand(256, 256)
        return (0.001 * jaw[:, 0] + 0.0001 * detail[:, 0])[:, None, None, None] * wave


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    place = tmp_path_factory.mktemp("flame")
    model = published_flame()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_HOME", str(place / "home"))
        write_flame(model, place / "generic_model.pkl")
        write_companions(model, place)
        return load_flame(place / "generic_model.pkl")


@pytest.fixture
def codes(generator):
    def normal(*size):
        return torch.randn(BATCH, *size, generator=generator)

    light = torch.zeros(BATCH, 9, 3)
    light[:, 0] = 0.8 / SH_CONSTANTS[0]
    light[:, 3] = 0.2 / SH_CONSTANTS[3]
    return OfficialCodes(
        shape=normal(100),
        expression=0.3 * normal(50),
        jaw=torch.tensor([[0.2, 0.0, 0.0], [0.05, 0.0, 0.0]]),
        root=torch.tensor([[0.1, 0.4, 0.0], [0.0, -0.2, 0.1]]),
        camera=torch.tensor([[7.5, 0.01, 0.02], [8.0, 0.0, 0.03]]),
        albedo=normal(2),
        light=light,
        detail=normal(128),
        eyelids=torch.tensor([[0.0, 1.0], [0.3, 0.0]]),
    )


@pytest.fixture(scope="module")
def space():
    draw = torch.Generator().manual_seed(3)
    mean = 0.3 + 0.4 * torch.rand(3, 512, 512, generator=draw)
    return TextureSpace(mean, 0.02 * torch.randn(2, 3, 512, 512, generator=draw), linear=False)


@pytest.fixture(scope="module")
def maps():
    mask = torch.zeros(256, 256)
    mask[:, 64:192] = 1
    return DetailMaps(mask, torch.full((256, 256), 0.0002))


def projected(points, camera):
    """DECA's camera, one point at a time."""
    s, tx, ty = camera.tolist()
    return torch.tensor([[s * (x + tx), -s * (y + ty), -s * z] for x, y, z in points.tolist()])


def test_points_go_through_the_weak_perspective_camera(flame, codes):
    found = decode(codes, flame)
    verts = flame(codes.to_params(), codes.eyelids).verts
    torch.testing.assert_close(found.verts, verts)
    for item in range(BATCH):
        wanted = projected(verts[item, :50], codes.camera[item])
        torch.testing.assert_close(found.trans_verts[item, :50], wanted, atol=1e-5, rtol=0)
        fixed = flame.embeddings.fixed
        corners = verts[item][flame.faces[fixed.faces]]
        points = (corners * fixed.bary[..., None].to(corners)).sum(-2)
        torch.testing.assert_close(found.landmarks3d_world[item], points, atol=1e-6, rtol=0)
        wanted = projected(points, codes.camera[item])
        torch.testing.assert_close(found.landmarks3d[item], wanted, atol=1e-5, rtol=0)
        # both sets share all but the jaw line
        torch.testing.assert_close(found.landmarks2d[item, 17:], wanted[17:, :2], atol=1e-5, rtol=0)
    missing = {"rendered_images", "albedo", "uv_texture", "uv_texture_gt", "displacement_map"}
    assert not missing & found.as_dict().keys()


def test_a_pixel_shows_the_lit_albedo_of_the_surface_behind_it(flame, codes, space):
    found = decode(codes, flame, texture=space, side=128)
    uv_of = flame.topology.uv
    uv_faces = flame.topology.uv_polygons[:, :3]
    texels = (torch.arange(256) * 512) // 256
    checked = 0
    for item in range(BATCH):
        albedo = space.mean + torch.einsum("t,tckl->ckl", codes.albedo[item], space.basis)
        albedo = albedo[:, texels][:, :, texels]
        torch.testing.assert_close(found.albedo[item], albedo, atol=1e-5, rtol=0)
        pixels = (found.trans_verts[item, :, :2].double() + 1) * 64
        corners, depth = pixels[flame.faces], found.trans_verts[item, :, 2].double()[flame.faces]
        for row, column in ((64, 64), (50, 70), (80, 60), (40, 58), (90, 66)):
            at = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64)
            # barycentrics of every triangle by Cramer's rule; the nearest that holds the pixel
            a, b, c = (corners[:, k] - at for k in range(3))

            def cross(p, q):
                return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

            areas = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=1)
            bary = areas / areas.sum(1, keepdim=True)
            holds = (bary >= 0).all(1)
            if not bool(holds.any()):
                assert float(found.alpha_images[item, 0, row, column]) == 0
                continue
            away = torch.where(holds, (bary * depth).sum(1), torch.inf)
            face = int(away.argmin())
            u, v = (bary[face, :, None] * uv_of[uv_faces[face]].double()).sum(0).tolist()
            grid = found.grid[item, row, column].double()
            wanted = torch.tensor([2 * u - 1, 1 - 2 * v], dtype=torch.float64)
            torch.testing.assert_close(grid, wanted, atol=1e-4, rtol=0)
            normal = (bary[face, :, None] * found.normals[item][flame.faces[face]].double()).sum(0)
            normal = normal / normal.norm()
            shown = found.normal_images[item, :, row, column].double()
            torch.testing.assert_close(shown, normal, atol=1e-4, rtol=0)
            # bilinear by hand, then the two bands of light that are there
            x, y = u * 256 - 0.5, (1 - v) * 256 - 0.5
            i, j = math.floor(x), math.floor(y)
            fx, fy = x - i, y - j
            colour = sum(
                albedo[:, j + dj, i + di].double() * (fx if di else 1 - fx) * (fy if dj else 1 - fy)
                for di in (0, 1)
                for dj in (0, 1)
            )
            lit = colour * (0.8 + 0.2 * float(normal[2]))
            rendered = found.rendered_images[item, :, row, column].double()
            torch.testing.assert_close(rendered, lit, atol=2e-3, rtol=0)
            checked += 1
    assert checked >= 4
    unlit = decode(
        codes, flame, texture=space, side=128, config=DecodeConfig(published_unlit_render=True)
    )
    there = (found.alpha_images > 0).expand_as(unlit.rendered_images)
    light = 0.8 + 0.2 * found.normal_images[:, 2:]
    expected = (unlit.rendered_images * light)[there]
    torch.testing.assert_close(found.rendered_images[there], expected, atol=1e-4, rtol=0)


def test_wrinkles_stay_in_the_mask_and_follow_whom_they_are_told_to(flame, codes, maps):
    found = decode(codes, flame, Waves(), maps=maps)
    wave = torch.linspace(0, 6, 256).sin().expand(256, 256)
    height = 0.001 * codes.jaw[:, 0] + 0.0001 * codes.detail[:, 0]
    raised = height[:, None, None, None] * wave
    wanted = raised * maps.mask + 0.0002
    torch.testing.assert_close(found.displacement_map, wanted, atol=1e-8, rtol=0)
    length = found.uv_detail_normals.norm(dim=1)
    assert ((length - 1).abs() < 1e-4).float().mean() > 0.5
    other = dataclasses.replace(codes, jaw=codes.jaw.flip(0), detail=torch.zeros(BATCH, 128))
    swapped = decode(codes, flame, Waves(), maps=maps, wrinkles_of=other)
    assert torch.equal(swapped.verts, found.verts)
    # the other's jaw, the person's own detail
    height = 0.001 * codes.jaw.flip(0)[:, 0] + 0.0001 * codes.detail[:, 0]
    wanted = height[:, None, None, None] * wave * maps.mask + 0.0002
    torch.testing.assert_close(swapped.displacement_map, wanted, atol=1e-8, rtol=0)
    published = decode(
        codes, flame, Waves(), maps=maps,
        config=DecodeConfig(surface=SurfaceConfig(published_displacement_map=True)),
    )  # fmt: skip
    assert not torch.equal(published.displacement_map, found.displacement_map)
    without = decode(codes, flame, Waves(), maps=maps, config=DecodeConfig(detail=False))
    assert without.displacement_map is None and without.uv_detail_normals is None


def test_in_the_whole_picture_points_are_where_the_crop_lay(flame, codes):
    small = decode(codes, flame, side=100)
    turn = torch.tensor([[1.5, 0.2, 40.0], [-0.2, 1.5, 25.0], [0.0, 0.0, 1.0]])
    view = View(turn.expand(BATCH, 3, 3), (240, 320))
    large = decode(codes, flame, side=100, view=view)
    assert large.alpha_images.shape == (BATCH, 1, 240, 320)
    for item in range(BATCH):
        for x, y in small.landmarks2d[item].tolist():
            crop = torch.tensor([(x + 1) * 50, (y + 1) * 50, 1.0])
            pixel = turn @ crop
            wanted = torch.tensor([float(pixel[0]) / 160 - 1, float(pixel[1]) / 120 - 1])
            apart = (large.landmarks2d[item] - wanted).abs().amax(1).min()
            assert float(apart) < 1e-5
    torch.testing.assert_close(large.landmarks3d[..., 2], small.landmarks3d[..., 2])
    with pytest.raises(ValueError, match="1 images do not go with 2 codes"):
        decode(codes, flame, images=torch.zeros(1, 3, 100, 100))


def test_the_pictures_colours_come_back_as_a_texture(flame, codes, maps):
    images = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(BATCH, 3, 64, 64).contiguous()
    found = decode(codes, flame, images=images, maps=maps)
    colour = torch.tensor([0.2, 0.5, 0.7])[:, None, None]
    grey = torch.full((3, 1, 1), 0.7)
    near = ((found.uv_texture_gt - colour).abs().amax(1) < 1e-3).float().mean()
    rest = ((found.uv_texture_gt - grey).abs().amax(1) < 1e-3).float().mean()
    assert near > 0.05 and rest >= 0.5  # half of the mask is empty


def test_every_official_file_that_is_looked_for_is_in_the_table():
    listed = {Path(name).name for model in official_models() for name in model.files}
    root = Path(__file__).resolve().parents[1]
    pattern = re.compile(
        r'"((?:flame|deca|emoca|mica|smirk)/[^"{}*]+\.(?:pkl|npy|npz|tar|ckpt|pt|pth|png|obj))"'
    )
    wanted = set()
    for package in ("deca", "flame", "avatar"):
        for path in (root / package).glob("*.py"):
            wanted |= {Path(name).name for name in pattern.findall(path.read_text())}
    assert wanted and wanted <= listed, wanted - listed
