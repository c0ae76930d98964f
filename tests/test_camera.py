from __future__ import annotations

import math

import pytest
import torch

from flame.camera import Camera, LookAt, clip_to_screen, orbit


def _camera(scale=8.0, shift=(0.01, -0.02), fov_deg=0.0, dtype=torch.float64):
    return Camera(
        torch.tensor([scale], dtype=dtype),
        torch.tensor([shift], dtype=dtype),
        torch.tensor([fov_deg], dtype=dtype),
    )


def _points(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 20, 3, generator=generator, dtype=dtype) * 0.2 - 0.1


def test_without_fov_the_camera_is_decas_weak_perspective():
    points = _points()
    x = 8.0 * (points[..., 0] + 0.01)
    y = -8.0 * (points[..., 1] - 0.02)
    pixels = _camera().project(points, (224, 224))
    torch.testing.assert_close(pixels[..., 0], (x * 0.5 + 0.5) * 224)
    torch.testing.assert_close(pixels[..., 1], (y * 0.5 + 0.5) * 224)


def test_a_pinhole_agrees_with_weak_perspective_on_the_plane_through_the_origin():
    points = _points()
    points[..., 2] = 0
    flat = _camera(fov_deg=0.0).project(points, (200, 300))[..., :2]
    pinhole = _camera(fov_deg=30.0).project(points, (200, 300))[..., :2]
    torch.testing.assert_close(pinhole, flat)


def test_a_pinhole_is_the_look_at_camera_at_its_distance():
    # half the image height is 1/8 m on the plane z = 0
    distance = 0.125 / math.tan(math.radians(15))
    eye = torch.tensor([[-0.01, 0.02, distance]], dtype=torch.float64)
    look_at = LookAt(eye, eye * torch.tensor([1.0, 1, 0]), torch.tensor([30.0]).double())
    expected = look_at.project(_points(), (120, 160))
    torch.testing.assert_close(_camera(fov_deg=30.0).project(_points(), (120, 160)), expected)


@pytest.mark.parametrize("fov_deg", [0.0, 20.0])
def test_nearer_points_have_smaller_depth_in_metres_and_in_clip_space(fov_deg):
    points = torch.tensor([[[0.02, 0.01, 0.1], [0.02, 0.01, -0.1]]], dtype=torch.float64)
    camera = _camera(fov_deg=fov_deg)
    depth = camera.project(points, (64, 64))[0, :, 2]
    assert 0 < depth[0] < depth[1]
    torch.testing.assert_close(depth[1] - depth[0], torch.tensor(0.2).double())
    clip = camera.clip(points, (64, 64))[0]
    assert clip[0, 2] / clip[0, 3] < clip[1, 2] / clip[1, 3]


def test_the_target_is_in_the_middle_and_the_viewers_right_is_right():
    camera = LookAt(
        torch.tensor([[0.3, 0.2, 0.9]]), torch.tensor([[0.1, 0.0, 0.0]]), torch.tensor([25.0])
    )
    middle, right, up = camera.project(
        torch.tensor([[[0.1, 0, 0], [0.15, 0, 0], [0.1, 0.05, 0]]]), (100, 200)
    )[0]
    torch.testing.assert_close(middle[:2], torch.tensor([100.0, 50.0]))
    assert right[0] > middle[0]
    assert up[1] < middle[1]
    torch.testing.assert_close(middle[2], torch.tensor([0.2, 0.2, 0.9]).norm())


def test_the_field_of_view_spans_the_height_of_the_image():
    camera = orbit(torch.tensor([0.0]), distance=1.0, fov_deg=40.0)
    top = math.tan(math.radians(20))
    pixels = camera.project(torch.tensor([[[0.0, top, 0], [0, -top, 0]]]), (90, 160))[0]
    torch.testing.assert_close(pixels[:, 1], torch.tensor([0.0, 90.0]), atol=1e-4, rtol=0)


def test_looking_straight_down_still_gives_a_rotation():
    camera = LookAt(torch.tensor([[0.0, 1, 0]]), torch.zeros(1, 3), torch.tensor([30.0]))
    axes = camera.axes()[0]
    torch.testing.assert_close(axes @ axes.T, torch.eye(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fov_deg", [0.0, 25.0])
def test_projection_is_differentiable_in_everything_even_at_zero_fov(fov_deg):
    def project(points, scale, shift, fov):
        camera = Camera(scale, shift, fov)
        return clip_to_screen(camera.clip(points, (64, 48)), (64, 48))

    inputs = [
        _points()[:, :4],
        torch.tensor([8.0]).double(),
        torch.tensor([[0.01, 0.02]]).double(),
        torch.tensor([fov_deg]).double(),
    ]
    assert torch.autograd.gradcheck(project, [one.requires_grad_() for one in inputs])
