from __future__ import annotations

import math

import pytest
import torch

from flame.raster import rasterize
from flame.soft import soft_silhouette, soft_silhouette_reference

TRIANGLE = torch.tensor([[0, 1, 2]])


def random_mesh(seed, space, faces=30):
    generator = torch.Generator().manual_seed(seed)
    verts = torch.rand(2, 40, space, generator=generator).double()
    if space == 3:
        verts = verts * torch.tensor([50.0, 40.0, 5.0]) - 5
    else:
        verts = verts * 2 - 1
        verts[..., 3] = verts[..., 3] / 2 + 0.3  # some corners are behind the eye
    return verts, torch.randint(0, 40, (faces, 3), generator=generator)


def test_coverage_is_the_sigmoid_of_the_square_distance():
    # a right angle at (10, 10); pixels beside a side, beyond the corner, and inside
    verts = torch.tensor([[[10.0, 10, 1], [60, 10, 1], [10, 60, 1]]]).double()
    drawn = soft_silhouette(verts, TRIANGLE, (40, 40), sigma=2.0)[0, 0]

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    assert drawn[8, 20].item() == pytest.approx(sigmoid(-(1.5**2) / 2))
    assert drawn[8, 8].item() == pytest.approx(sigmoid(-(1.5**2 + 1.5**2) / 2))
    assert drawn[20, 12].item() == pytest.approx(sigmoid(2.5**2 / 2))
    # less than 1e-4 counts as nothing: the border's distance is 6.5 there
    assert drawn[3, 20].item() == 0


def test_faces_leave_their_free_shares_to_each_other():
    verts = torch.tensor([[[2.0, 2, 1], [30, 2, 1], [2, 30, 1], [3, 2, 9], [30, 4, 9], [3, 30, 9]]])
    verts = verts.double()
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    both = soft_silhouette(verts, faces, (20, 20), sigma=3.0)
    one, other = (soft_silhouette(verts, faces[k : k + 1], (20, 20), sigma=3.0) for k in (0, 1))
    torch.testing.assert_close(both, 1 - (1 - one) * (1 - other))
    # of one face a pixel, it is the one that covers most
    single = soft_silhouette(verts, faces, (20, 20), sigma=3.0, faces_per_pixel=1)
    torch.testing.assert_close(single, torch.maximum(one, other))


@pytest.mark.parametrize("space", [3, 4])
@pytest.mark.parametrize(("sigma", "count"), [(0.5, 10), (3.0, 2), (1.0, 40)])
def test_the_kernels_blur_as_the_reference(space, sigma, count):
    verts, faces = random_mesh(count, space)
    weights = torch.randn(2, 1, 33, 41, generator=torch.Generator().manual_seed(0)).double()
    results = []
    for draw in (soft_silhouette, soft_silhouette_reference):
        points = verts.clone().requires_grad_()
        image = draw(points, faces, (33, 41), sigma=sigma, faces_per_pixel=count)
        results.append((image, *torch.autograd.grad((image * weights).sum(), points)))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-7)
    assert results[0][1].abs().max() > 0.1


@pytest.mark.parametrize("space", [3, 4])
def test_gradients_equal_central_differences(space):
    verts = torch.tensor([[[1.3, 1.1, 5], [8.2, 2.3, 5], [3.1, 7.7, 5], [7.4, 8.1, 4]]]).double()
    if space == 4:
        w = torch.tensor([1.0, 1.5, 0.8, 1.2]).double()[None, :, None]
        x, y = verts[..., :1] / 5 - 1, 1 - verts[..., 1:2] / 4.5
        verts = torch.cat([x * w, y * w, 0 * w, w], -1)
    faces = torch.tensor([[0, 1, 2], [3, 2, 1]])

    def image(points):
        return soft_silhouette(points, faces, (9, 10), sigma=1.5, faces_per_pixel=2)

    # a pixel is cut off where its sigmoid is 1e-4: no step here is as large
    assert torch.autograd.gradcheck(image, verts.requires_grad_(), eps=1e-6, atol=1e-5)


def test_with_little_blur_the_soft_silhouette_is_the_hard_one():
    verts, faces = random_mesh(3, 3, faces=12)
    hard = (rasterize(verts, faces, (40, 50)).face_id >= 0).double()[:, None]
    soft = soft_silhouette(verts, faces, (40, 50), sigma=1e-5)
    assert ((soft - hard).abs() > 0.01).double().mean() < 0.01


def test_the_gradient_reaches_beyond_the_border():
    # antialiased edges are blind to a target two pixels away; this is not
    verts = torch.tensor([[[4.0, 4, 1], [10, 4, 1], [4, 10, 1]]]).double().requires_grad_()
    soft_silhouette(verts, TRIANGLE, (16, 16), sigma=4.0)[0, 0, 6, 1].backward()
    assert verts.grad[0, :, 0].sum() < -1e-3  # to the left, to cover it


def test_threads_and_repeats_do_not_change_anything():
    verts, faces = random_mesh(4, 3)
    before = torch.get_num_threads()

    def drawn():
        points = verts[:1].clone().requires_grad_()
        image = soft_silhouette(points, faces, (100, 50), sigma=1.0)
        image.square().sum().backward()
        return image.detach(), points.grad

    try:
        torch.set_num_threads(1)
        one = drawn()
        torch.set_num_threads(3)
        for first, second in zip(one, drawn(), strict=True):
            assert torch.equal(first, second)
    finally:
        torch.set_num_threads(before)


def test_odd_vertices_cover_nothing():
    verts = torch.tensor([[[0.0, 0, 1], [9, 0, 1], [math.nan, 9, 1], [18, 0, 1], [0, math.inf, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4], [1, 1, 1]])
    assert (soft_silhouette(verts, faces, (10, 10), sigma=1.0) == 0).all()
    behind = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, -1]]])
    assert (soft_silhouette(behind, TRIANGLE, (8, 8), sigma=1.0) == 0).all()
    assert soft_silhouette(verts[:0], faces, (4, 5), sigma=1.0).shape == (0, 1, 4, 5)
    assert (soft_silhouette(verts, faces[:0], (4, 5), sigma=1.0) == 0).all()


def test_wrong_arguments_of_soft_silhouettes_are_named():
    verts = torch.rand(1, 3, 3)
    with pytest.raises(ValueError, match="sigma is 0"):
        soft_silhouette(verts, TRIANGLE, (4, 4), sigma=0.0)
    with pytest.raises(ValueError, match="faces_per_pixel is 0"):
        soft_silhouette(verts, TRIANGLE, (4, 4), sigma=1.0, faces_per_pixel=0)
    with pytest.raises(ValueError, match="size is"):
        soft_silhouette(verts, TRIANGLE, (0, 4), sigma=1.0)
    with pytest.raises(ValueError, match="faces"):
        soft_silhouette(verts, TRIANGLE + 1, (4, 4), sigma=1.0)
