"""Shoulders under a bust's shirt, against what a body must be."""

from __future__ import annotations

import pytest
import torch

from flame.camera import orbit
from flame.load import load_head
from flame.outfit import load_outfit
from flame.parts import SHIRT_COLUMNS
from flame.raster import rasterize
from flame.rotation import axis_angle_to_matrix
from flame.shoulders import WIDTH, broadened


@pytest.fixture(scope="module")
def head():
    flame = load_head()
    return flame.head(torch.zeros(flame.n_shape))


def rings_of(verts, head):
    cloth = head.polygons[head.material_ids == head.material_names.index("shirt")]
    return verts[0, int(cloth[cloth >= 0].min()) : int(cloth.max()) + 1].view(-1, SHIRT_COLUMNS, 3)


@pytest.mark.parametrize("body", WIDTH)
def test_shoulders_are_as_wide_as_asked_and_go_down_all_round(head, body):
    made = rings_of(broadened(head.verts[None], head, WIDTH[body]), head)
    torch.testing.assert_close(made[-1, :, 0].amax(), torch.tensor(WIDTH[body]))
    mirrored = made[:, -torch.arange(SHIRT_COLUMNS) % SHIRT_COLUMNS] * torch.tensor([-1, 1, 1])
    torch.testing.assert_close(made, mirrored, atol=1e-5, rtol=0)
    outer = made[8:]  # where the bust has ended
    assert float(outer[..., 1].diff(dim=0).max()) < 0 and float(outer[-1, :, 1].max()) < -0.35


def test_only_the_cloth_below_the_collar_moves(head):
    verts = head.verts[None]
    made = broadened(verts, head)
    moved = (made - verts).abs().amax(-1)[0] > 1e-6
    cloth = head.polygons[head.material_ids == head.material_names.index("shirt")]
    assert int(moved.nonzero().min()) >= int(cloth[cloth >= 0].min())
    torch.testing.assert_close(rings_of(made, head)[:5], rings_of(verts, head)[:5])


def test_a_body_turns_with_its_bust(head):
    turn = axis_angle_to_matrix(torch.tensor([0.2, 0.9, -0.1]))
    turned = broadened(head.verts[None] @ turn.T + 0.3, head)
    torch.testing.assert_close(turned, broadened(head.verts[None], head) @ turn.T + 0.3,
                               atol=1e-5, rtol=0)  # fmt: skip


def test_no_skin_shows_through_the_cloth():
    flame = load_head()
    shapes = 0.6 * torch.randn(6, flame.n_shape, generator=torch.Generator().manual_seed(2))
    for shape, yaw in zip(shapes, (0.0, 25.0, -25.0, 60.0, 180.0, 0.0), strict=True):
        head = flame.head(shape)
        verts = broadened(head.verts[None], head)
        faces, _, ids = head.triangles()
        camera = orbit(torch.tensor([yaw]), 10.0, 2.0, (0.0, -0.15, 0.0), 20.0)
        seen = rasterize(camera.clip(verts, (192, 192)), faces, (192, 192)).face_id
        corners = verts[0][faces[seen[seen >= 0]]].mean(1)
        skin = ids[seen[seen >= 0]] == head.material_names.index("skin")
        collar = rings_of(verts, head)[4]
        beyond = (corners[:, [0, 2]] - collar[:, [0, 2]].mean(0)).norm(dim=-1) > 1.15 * float(
            (collar[:, [0, 2]] - collar[:, [0, 2]].mean(0)).norm(dim=-1).max()
        )
        below = corners[:, 1] < float(collar[:, 1].min())
        assert int((skin & beyond & below).sum()) == 0


def test_hair_and_hats_change_nothing_and_bare_heads_stay(head):
    worn = load_outfit().wear_hair(head, "bob")
    made = broadened(worn.verts[None], worn)
    expected = broadened(head.verts[None], head)
    torch.testing.assert_close(made[:, : len(head.verts)], expected)
    assert torch.equal(made[:, len(head.verts) :], worn.verts[None, len(head.verts) :])
