"""Shapes, poses and light found again from pictures, by the gradients of the rasterizer."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from flame.antialias import antialias, opposite_corners, silhouette
from flame.camera import Camera
from flame.interpolate import interpolate
from flame.light import sh_shading, shade
from flame.load import load_head
from flame.normals import vertex_normals
from flame.params import Params
from flame.raster import rasterize
from flame.rotation import axis_angle_to_matrix
from flame.soft import soft_silhouette
from tests.test_antialias import ball, cube


@pytest.fixture(autouse=True)
def one_thread():
    """Pictures so small are not worth a second thread, which on a busy machine is waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_ball_takes_on_the_outline_of_a_blob():
    verts, faces = ball(12)
    opposite, size = opposite_corners(faces), (80, 80)
    start = verts.float() * torch.tensor([14.0, 14.0, 14.0]) + torch.tensor([40.0, 40.0, 50.0])
    row, column = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    angle = torch.atan2(row - 36, column - 46)
    # an ellipse with three bumps, off the centre
    radius = 22 + 4 * torch.cos(2 * angle + 0.5) + 2.5 * torch.cos(3 * angle)
    target = (torch.hypot(row - 36, column - 46) < radius).float()[None, None]

    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], lr=0.5)
    for step in range(80):
        points = (start + moved)[None]
        if step < 25:  # a blur that is felt from afar, then sharp edges
            mask = soft_silhouette(points, faces, size, sigma=4.0, faces_per_pixel=6)
        else:
            mask = silhouette(points, faces, size, opposite)
        smooth = (moved[ends[:, 0]] - moved[ends[:, 1]]).square().mean()
        loss = (mask - target).square().mean() + 0.01 * smooth
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = rasterize((start + moved.detach())[None], faces, size).face_id >= 0
    wanted = target[0] > 0.5
    assert (found & wanted).sum() / (found | wanted).sum() >= 0.98


def test_a_turned_cube_is_found_in_its_picture():
    corners, faces = (part.float() if part.is_floating_point() else part for part in cube())
    opposite, size = opposite_corners(faces), (96, 96)
    paint = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).repeat_interleave(2, 0)
    camera = Camera(torch.tensor([0.5]), torch.zeros(1, 2), torch.tensor([25.0]))

    def picture(turn):
        points = (corners @ axis_angle_to_matrix(turn).T)[None]
        clip = camera.clip(points, size)
        fragments = rasterize(clip, faces, size)
        flat = torch.where(fragments.face_id[..., None] < 0, 0.0, paint[fragments.face_id])
        return antialias(flat.movedim(-1, 1), fragments, clip, faces, opposite)

    truth = torch.tensor([0.5, -0.6, 0.2])
    with torch.no_grad():
        target = picture(truth)
    for off in ([0.2, 0.2, -0.15], [-0.25, 0.1, 0.15]):
        turn = (truth + torch.tensor(off)).requires_grad_()
        assert angle_deg(turn.detach(), truth) > 15
        optimizer = torch.optim.Adam([turn], lr=0.03)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.96)
        for _ in range(90):
            loss = (picture(turn) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        assert angle_deg(turn.detach(), truth) < 0.5


def angle_deg(one, other):
    """Angle between two rotations."""
    both = axis_angle_to_matrix(one.double()).T @ axis_angle_to_matrix(other.double())
    return math.degrees(math.acos(min(1.0, (both.trace().item() - 1) / 2)))


def test_a_heads_jaw_yaw_and_light_are_found_in_its_picture():
    flame = load_head()
    faces, size = flame.topology.faces(), (112, 112)
    opposite = opposite_corners(faces)
    rest = Params.zeros(1, 0, 0)
    camera = Camera(torch.tensor([7.0]), torch.tensor([[0.0, -0.01]]), torch.tensor([20.0]))
    albedo = torch.tensor([0.7, 0.55, 0.45])[None, :, None, None]

    def picture(jaw, yaw, light):
        zero = torch.zeros_like(jaw)
        params = dataclasses.replace(
            rest,
            jaw=torch.stack([jaw, zero, zero], -1)[None],
            root=torch.stack([zero, yaw, zero], -1)[None],
        )
        verts = flame(params).verts
        clip = camera.clip(verts, size)
        fragments = rasterize(clip, faces, size)
        normals = interpolate(vertex_normals(verts, faces), faces, fragments).movedim(-1, 1)
        seen = (fragments.face_id >= 0)[:, None]
        normals = torch.nn.functional.normalize(normals, dim=1)
        image = torch.where(seen, shade(albedo.expand(1, 3, *size), normals, light), 0.0)
        return antialias(image, fragments, clip, faces, opposite)

    generator = torch.Generator().manual_seed(2)
    jaw, yaw = torch.tensor(math.radians(12.0)), torch.tensor(math.radians(18.0))
    light = 0.15 * torch.randn(1, 9, 3, generator=generator)
    light[:, 0] += 3.0
    with torch.no_grad():
        target = picture(jaw, yaw, light)

    found = [torch.zeros(()), torch.zeros(()), torch.zeros(1, 9, 3)]
    found[2][:, 0] = 2.5
    found = [one.requires_grad_() for one in found]
    rates = (0.02, 0.02, 0.1)
    optimizer = torch.optim.Adam(
        [{"params": [one], "lr": rate} for one, rate in zip(found, rates, strict=True)]
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(100):
        loss = (picture(*found) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert abs(math.degrees(found[0].item() - jaw.item())) < 0.5
    assert abs(math.degrees(found[1].item() - yaw.item())) < 0.5
    # on what the picture shows: normals toward the viewer
    normals = ball(12)[0].float()
    normals = normals[normals[:, 2] > 0.2][None]
    shown, wanted = sh_shading(normals, found[2].detach()), sh_shading(normals, light)
    assert (shown - wanted).abs().mean() / wanted.mean() < 0.02
