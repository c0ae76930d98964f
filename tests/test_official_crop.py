"""Crops as the published encoders were trained on, against scikit-image's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform, warp

from deca.official_crop import (
    ARCFACE_POINTS,
    CropConfig,
    detector_crop,
    five_points,
    official_crop,
    similarity,
    whole_picture,
)

PUBLISHED = CropConfig(published_sampling=True)


def _picture(generator, height=150, width=190):
    return torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64)


def _points(generator, low=60.0, high=110.0):
    return torch.rand(68, 2, generator=generator, dtype=torch.float64) * (high - low) + low


def _warped(image, start, goals, size):
    """Published cropping: whole-number pixel centres, one bilinear sample, zero beyond."""
    transform = SimilarityTransform.from_estimate(np.asarray(start), np.asarray(goals))
    picture = image[0].movedim(0, -1).numpy()
    crop = warp(picture, transform.inverse, output_shape=(size, size), order=1)
    return torch.from_numpy(crop).movedim(-1, 0)[None], transform.params


def _box_corners(center, side):
    (left, top), (right, bottom) = center - side / 2, center + side / 2
    return [[left, top], [left, bottom], [right, top]]


def _same_matrix(crop, params):
    """Centres at .5 on both sides: M(p) = T(p - .5) + .5."""
    half, back = np.eye(3), np.eye(3)
    half[:2, 2], back[:2, 2] = 0.5, -0.5
    np.testing.assert_allclose(crop.matrix.numpy(), half @ params @ back, atol=1e-9)


@pytest.mark.parametrize(("kind", "scale"), [("deca", 1.1 * 1.25), ("smirk", 1.4)])
@pytest.mark.parametrize("low", [60.0, 5.0])
def test_the_box_round_the_points_is_the_published_one(kind, scale, low, generator):
    image = _picture(generator)
    points = _points(generator, low, 90.0)
    low_corner, high_corner = points.amin(0).numpy(), points.amax(0).numpy()
    side = int((high_corner - low_corner).sum() / 2 * scale)
    # points given with centres at .5; published code has whole-number centres
    corners = _box_corners((low_corner + high_corner) / 2 - 0.5, side)
    wanted, params = _warped(image, corners, [[0, 0], [0, 223], [223, 0]], 224)
    crop = official_crop(image, points, kind, PUBLISHED)
    torch.testing.assert_close(crop.image, wanted, atol=1e-6, rtol=0)
    _same_matrix(crop, params)
    if low < 10:
        assert (crop.image[..., 0, 0] == 0).all()


def test_a_detectors_box_is_moved_down_and_not_widened_by_the_points_tenth(generator):
    image = _picture(generator)
    left, top, right, bottom = 40.0, 30.0, 100.0, 110.0
    center = np.array([(left + right) / 2, (top + bottom) / 2 + 0.12 * 70.0])
    wanted, params = _warped(
        image, _box_corners(center - 0.5, int(70 * 1.25)), [[0, 0], [0, 223], [223, 0]], 224
    )
    box = torch.tensor([left, top, right, bottom], dtype=torch.float64)
    crop = detector_crop(image, box, PUBLISHED)
    torch.testing.assert_close(crop.image, wanted, atol=1e-6, rtol=0)
    _same_matrix(crop, params)


def test_a_whole_picture_keeps_its_proportions(generator):
    image = _picture(generator)
    wanted, params = _warped(image, [[0, 0], [0, 149], [189, 0]], [[0, 0], [0, 223], [223, 0]], 224)
    crop = whole_picture(image, 224, PUBLISHED)
    torch.testing.assert_close(crop.image, wanted, atol=1e-6, rtol=0)
    _same_matrix(crop.__class__(crop.image, crop.matrix), params)


def test_arcfaces_crop_brings_the_five_points_to_their_places(generator):
    image = _picture(generator)
    turn = SimilarityTransform(scale=0.9, rotation=0.4, translation=(50, 20))
    places = torch.from_numpy(turn(np.array(ARCFACE_POINTS))) + 0.5
    points = _points(generator)
    points[36:42], points[42:48] = places[0], places[1]
    points[30], points[48], points[54] = places[2:]
    crop = official_crop(image, points, "arcface", PUBLISHED)
    goals = torch.tensor(ARCFACE_POINTS, dtype=torch.float64) + 0.5
    torch.testing.assert_close(crop.points(five_points(points)), goals, atol=1e-5, rtol=0)
    wanted, params = _warped(image, places.numpy() - 0.5, np.array(ARCFACE_POINTS), 112)
    torch.testing.assert_close(crop.image, wanted, atol=1e-5, rtol=0)
    np.testing.assert_allclose(crop.matrix[:2, :2].numpy(), params[:2, :2], atol=1e-6)


def test_the_similarity_is_the_least_squares_one_and_never_a_mirror(generator):
    start = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    goals = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    matrix = similarity(start, goals)
    # unknowns a, b, c, d of x' = a x - b y + c, y' = b x + a y + d
    x, y = start.unbind(1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows = torch.cat([torch.stack([x, -y, one, zero], 1), torch.stack([y, x, zero, one], 1)])
    a, b, c, d = torch.linalg.lstsq(rows, goals.T.reshape(-1, 1)).solution[:, 0]
    torch.testing.assert_close(matrix[0], torch.stack([a, -b, c]))
    torch.testing.assert_close(matrix[1], torch.stack([b, a, d]))
    assert torch.linalg.det(matrix[:2, :2]) > 0


def test_a_large_face_shrinks_in_area_means(generator):
    stripes = torch.zeros(1, 3, 1200, 1200)
    stripes[..., ::2] = 1
    points = torch.rand(68, 2, generator=generator) * 700 + 250
    inner = official_crop(stripes, points, "deca").image[..., 20:-20, 20:-20]
    aliased = official_crop(stripes, points, "deca", PUBLISHED).image[..., 20:-20, 20:-20]
    assert (inner - 0.5).abs().max() < 0.2 < (aliased - 0.5).abs().max()


def test_crops_that_make_no_sense_are_refused(generator):
    image, points = _picture(generator), _points(generator)
    with pytest.raises(ValueError, match="fall together"):
        official_crop(image, torch.ones(68, 2), "deca")
    with pytest.raises(ValueError, match="known are deca, smirk, arcface"):
        official_crop(image, points, "mica")
    with pytest.raises(ValueError, match="above 0"):
        CropConfig(deca_scale=0.0)
