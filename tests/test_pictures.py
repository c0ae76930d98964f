"""Pictures of reconstructed faces, against a ball whose every pixel is known."""

from __future__ import annotations

import math

import pytest
import torch

from deca.pictures import (
    FACING,
    GREY,
    Framed,
    MeshView,
    UvMap,
    depth_picture,
    landmark_picture,
    normal_picture,
    shape_picture,
    texture_picture,
)
from flame.camera import Camera
from flame.light import sh_constant

SIZE = 64
SCALE = 8.0  # half pictures a metre
RADIUS = 0.1  # metres: 25.6 px


def ball(rings: int = 120, around: int = 240) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Verts, outward faces and UVs (longitude, latitude) of a ball, doubled at the seam."""
    v, u = torch.meshgrid(
        torch.linspace(0, 1, rings + 1).double(), torch.linspace(0, 1, around + 1).double(),
        indexing="ij",
    )  # fmt: skip
    up, turn = (v - 0.5) * math.pi, (u - 0.5) * 2 * math.pi
    verts = torch.stack([up.cos() * turn.sin(), up.sin(), up.cos() * turn.cos()], -1)
    index = torch.arange((rings + 1) * (around + 1)).view(rings + 1, around + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.cat([torch.stack(t, -1).reshape(-1, 3) for t in ((a, b, c), (a, c, d))])
    return RADIUS * verts.reshape(-1, 3), faces, torch.stack([u, v], -1).reshape(-1, 2)


VERTS, FACES, UV = ball()
CAMERA = Camera(torch.tensor([SCALE]).double(), torch.zeros(1, 2).double(), torch.zeros(1).double())


@pytest.fixture(scope="module")
def view() -> MeshView:
    return MeshView.of(VERTS[None], FACES, CAMERA, (SIZE, SIZE), samples=2)


def true_normals() -> tuple[torch.Tensor, torch.Tensor]:
    """Normals at pixel centres, and how far from the ball's middle they are in radii."""
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    x, y = (x - SIZE / 2).double(), -(y - SIZE / 2).double()
    unit = SCALE * SIZE / 2 * RADIUS
    x, y = x / unit, y / unit
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    return torch.stack([x, y, z]), (x * x + y * y).sqrt()


def test_grey_is_the_sum_of_decas_five_lights(view):
    normals, away = true_normals()
    lights = torch.tensor([[-1.0, 1, 1], [1, 1, 1], [-1, -1, 1], [1, -1, 1], [0, 0, 1]]).double()
    lights = lights / lights.norm(dim=1, keepdim=True)
    wanted = (180 / 255) * (torch.einsum("lk,khw->lhw", lights, normals).clamp(0, 1) * 1.7).mean(0)
    found = shape_picture(view)[0]
    inner = away < 0.9
    for channel in range(3):
        torch.testing.assert_close(
            found[channel][inner], wanted.clamp(max=1)[inner], atol=0.006, rtol=0
        )
    assert torch.equal(found[3][inner], torch.ones_like(found[3][inner]))


def test_grey_pictures_leave_out_what_turns_away(view):
    normals, away = true_normals()
    alpha = shape_picture(view)[0, 3]
    assert bool((alpha[normals[2] > FACING + 0.12] == 1).all())
    assert bool((alpha[(away > 1.06)] == 0).all())
    rim = (away < 0.985) & (normals[2] < FACING - 0.05)
    assert bool((alpha[rim] < 0.7).all())


def test_normals_and_depth_are_the_balls(view):
    normals, away = true_normals()
    inner = away < 0.95
    found = normal_picture(view)[0, :3]
    torch.testing.assert_close(found[:, inner], (normals / 2 + 0.5)[:, inner], atol=0.01, rtol=0)
    # the nearest point has 1, the farthest, behind, 0: the front's rim is half way
    depth = depth_picture(view)[0, 0]
    torch.testing.assert_close(depth[inner], (normals[2][inner] + 1) / 2, atol=0.006, rtol=0)
    assert bool((depth[away > 1.1] == 0).all())


def test_relief_replaces_normals_where_it_is_worn(view):
    worn = VERTS[FACES].mean(1)[:, 0] > 0
    toward = torch.zeros(1, 3, 16, 16).double()
    toward[:, 2] = 1
    found = shape_picture(view, UvMap(UV, FACES, toward, worn))[0, 0]
    plain = shape_picture(view)[0, 0]
    flat = GREY * 1.7 / 5 * (1 + 4 / math.sqrt(3))
    _, away = true_normals()
    right = (away < 0.9) & (torch.arange(SIZE) > SIZE / 2 + 1)
    left = (away < 0.9) & (torch.arange(SIZE) < SIZE / 2 - 2)
    torch.testing.assert_close(found[right], torch.full_like(found[right], flat), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[left], plain[left], atol=1e-9, rtol=0)


def test_textures_lie_where_their_uvs_say_and_light_multiplies_them(view):
    ramp = ((torch.arange(256) + 0.5) / 256).double()
    # red grows with longitude to the right, green with latitude upward (row 0 is the top)
    texels = torch.stack(torch.broadcast_tensors(ramp[None], ramp.flip(0)[:, None], 0 * ramp[None]))
    every = torch.ones(len(FACES), dtype=torch.bool)
    chart = UvMap(UV, FACES, texels[None], every)
    normals, away = true_normals()
    inner = away < 0.85
    wanted_red = torch.atan2(normals[0], normals[2]) / (2 * math.pi) + 0.5
    wanted_green = torch.asin(normals[1].clamp(-1, 1)) / math.pi + 0.5
    found = texture_picture(view, chart)[0]
    torch.testing.assert_close(found[0][inner], wanted_red[inner], atol=0.01, rtol=0)
    torch.testing.assert_close(found[1][inner], wanted_green[inner], atol=0.01, rtol=0)
    half = sh_constant(torch.full((1, 3), 0.5).double())
    lit = texture_picture(view, chart, half)[0]
    torch.testing.assert_close(lit[:3, inner], found[:3, inner] / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fov_deg", [0.0, 25.0])
def test_a_framed_camera_sees_the_crops_points_where_the_frame_has_them(fov_deg, generator):
    camera = Camera(
        torch.tensor([7.0]).double(), torch.tensor([[0.01, -0.02]]).double(),
        torch.tensor([fov_deg]).double(),
    )  # fmt: skip
    points = 0.1 * torch.randn(1, 40, 3, generator=generator).double()
    turn = math.radians(20)
    matrix = torch.tensor(
        [
            [2.1 * math.cos(turn), -2.1 * math.sin(turn), 31.0],
            [2.1 * math.sin(turn), 2.1 * math.cos(turn), -12.0],
            [0, 0, 1],
        ]
    ).double()
    crop = camera.project(points, (112, 112))
    wanted = crop[..., :2] @ matrix[:2, :2].T + matrix[:2, 2]
    found = Framed(camera, 112, matrix).project(points, (480, 640))
    torch.testing.assert_close(found[..., :2], wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(found[..., 2], crop[..., 2], atol=0, rtol=0)


def test_hidden_landmarks_are_red_and_others_green():
    points = torch.tensor([[[20.0, 20.0], [60.0, 60.0]]])
    drawn = landmark_picture(torch.zeros(1, 3, 80, 80), points, torch.tensor([[True, False]]))
    seen, hidden = drawn[0, :, 19:21, 19:21].mean((1, 2)), drawn[0, :, 59:61, 59:61].mean((1, 2))
    assert seen[1] > 2 * seen[0] and hidden[0] > 2 * hidden[1]
