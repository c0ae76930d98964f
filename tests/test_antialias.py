from __future__ import annotations

import math

import pytest
import torch

from flame.antialias import antialias, opposite_corners, silhouette
from flame.antialias_reference import antialias_reference, opposite_corners_reference
from flame.fragments import pad_meshes
from flame.raster import rasterize

SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])
OBSERVED = torch.float64


def random_mesh(seed, space, faces=30, verts=60):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, verts, space, generator=generator, dtype=OBSERVED)
    if space == 3:
        points = points * torch.tensor([50.0, 40.0, 5.0]) - 5
    else:
        # w from -0.2 to 0.8: some corners are behind the eye
        points = points * 2 - 1
        points[..., 3] = points[..., 3] / 2 + 0.3
    return points, torch.randint(0, verts, (faces, 3), generator=generator)


def ball(rings):
    """A closed unit sphere of 2 * rings meridians."""
    segments = 2 * rings
    theta = torch.arange(1, rings, dtype=OBSERVED)[:, None] * math.pi / rings
    phi = torch.arange(segments, dtype=OBSERVED) * 2 * math.pi / segments
    sides = [theta.sin() * phi.cos(), theta.cos().expand(-1, segments), theta.sin() * phi.sin()]
    poles = torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=OBSERVED)
    verts = torch.cat([torch.stack(sides, -1).reshape(-1, 3), poles])
    this = torch.arange(segments)
    after = (this + 1) % segments
    faces = []
    for ring in range(rings - 2):
        a, b = ring * segments + this, ring * segments + after
        faces += [
            torch.stack([a, b, b + segments], 1),
            torch.stack([a, b + segments, a + segments], 1),
        ]
    top, low = len(verts) - 2, (rings - 2) * segments
    faces += [torch.stack([torch.full_like(this, top), after, this], 1)]
    faces += [torch.stack([torch.full_like(this, top + 1), low + this, low + after], 1)]
    return verts, torch.cat(faces)


def turned_square(angle, half, centre, dtype=OBSERVED):
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]) @ turn.T * half
    return torch.cat([corners + torch.tensor(centre), torch.ones(4, 1)], 1)[None].to(dtype)


def central_differences(function, at, step=1e-6):
    """The slope of a number in every entry of `at`."""
    slope = torch.zeros(at.numel(), dtype=at.dtype)
    for k in range(at.numel()):
        moved = torch.zeros_like(slope)
        moved[k] = step
        moved = moved.view(at.shape)
        slope[k] = (function(at + moved) - function(at - moved)) / (2 * step)
    return slope.view(at.shape)


def cube():
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [t for q in quads for t in ([q[0], q[1], q[2]], [q[0], q[2], q[3]])]
    return corners.to(OBSERVED), torch.tensor(faces)


def test_opposite_corners_lie_across_each_edge():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    assert opposite_corners(faces).tolist() == [[5, -1, -1], [-1, -1, 0]]
    # a third face on the edge: none lies across it; a face without area does not count
    assert (opposite_corners(torch.tensor([[0, 1, 2], [2, 1, 3], [1, 2, 4]])) == -1).all()
    flat = torch.tensor([[0, 1, 2], [2, 1, 3], [1, 2, 2], [-1, -1, -1]])
    assert opposite_corners(flat).tolist()[:2] == [[5, -1, -1], [-1, -1, 0]]
    assert opposite_corners(faces[:0]).shape == (0, 3)


def test_opposite_corners_are_found_as_by_sorting():
    for seed in range(5):
        _, faces = random_mesh(seed, 3, faces=300, verts=25 + 40 * seed)
        assert torch.equal(opposite_corners(faces), opposite_corners_reference(faces))
    _, faces = ball(12)
    table = opposite_corners(faces)
    # on a closed surface every corner has one, and it leads back
    assert torch.equal(table.reshape(-1)[table], torch.arange(table.numel()).view(-1, 3))


@pytest.mark.parametrize("space", [3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_kernels_blend_as_the_reference(seed, space):
    verts, faces = random_mesh(seed, space, faces=20 + 30 * (seed % 2))
    opposite, size = opposite_corners(faces), (33, 41)
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(2, 3, *size, generator=generator, dtype=OBSERVED)
    weights = torch.randn(2, 3, *size, generator=generator, dtype=OBSERVED)
    fragments = rasterize(verts, faces, size)
    results = []
    for blend in (antialias, antialias_reference):
        points, image = verts.clone().requires_grad_(), picture.clone().requires_grad_()
        out = blend(image, fragments, points, faces, opposite)
        results.append([out, *torch.autograd.grad((out * weights).sum(), (points, image))])
    assert (results[0][0] != picture).sum() > 100
    assert results[0][1].isfinite().all()
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)
    # whatever meets in a pixel, its colour lies between those that it mixes
    assert results[0][0].min() >= picture.min()
    assert results[0][0].max() <= picture.max()


def test_meshes_of_a_batch_may_differ():
    pairs = [random_mesh(1, 3, faces=12), random_mesh(2, 3, faces=20)]
    verts, faces = pad_meshes([pair[0][0] for pair in pairs], [pair[1] for pair in pairs])
    mask = silhouette(verts, faces, (40, 50))
    for item, (points, own) in enumerate(pairs):
        alone = silhouette(points[:1], own, (40, 50))
        assert torch.equal(mask[item], alone[0])
    image = torch.rand(2, 2, 40, 50, generator=torch.Generator().manual_seed(0), dtype=OBSERVED)
    fragments = rasterize(verts, faces, (40, 50))
    slow = antialias_reference(image, fragments, verts, faces, opposite_corners(faces))
    torch.testing.assert_close(antialias(image, fragments, verts, faces), slow)


@pytest.mark.parametrize("space", [3, 4])
def test_gradients_equal_central_differences_at_occluding_edges(space):
    # a small triangle over a large one that a third one cuts through
    verts = torch.tensor(
        [
            [[1.3, 1.1, 5.0], [17.2, 3.3, 5], [6.1, 15.7, 5]],
            [[4.2, 4.9, 2.0], [9.7, 5.6, 3], [6.4, 10.3, 4]],
            [[8.3, 2.2, 4.0], [15.4, 6.1, 6], [9.9, 12.2, 5]],
        ],
        dtype=OBSERVED,
    ).reshape(1, 9, 3)
    size = (18, 19)
    if space == 4:
        w = verts[..., 2:] / 4  # farther is smaller, and the corners lie at different distances
        x, y = verts[..., :1] / size[1] * 2 - 1, 1 - verts[..., 1:2] / size[0] * 2
        verts = torch.cat([x * w, y * w, w - 0.8, w], -1)
    faces = torch.arange(9).view(3, 3)
    seen = rasterize(verts, faces, size).face_id
    assert seen.unique().tolist() == [-1, 0, 1, 2]
    picture = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(3), dtype=OBSERVED)

    def image(points, colours):
        fragments = rasterize(points, faces, size)
        assert torch.equal(fragments.face_id, seen)  # steps so small leave what is seen
        return antialias(colours, fragments, points, faces)

    inputs = (verts.requires_grad_(), picture.requires_grad_())
    weights = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(4), dtype=OBSERVED)
    moved, mixed = torch.autograd.grad((image(*inputs) * weights).sum(), inputs)
    with torch.no_grad():
        expected = central_differences(lambda p: (image(p, picture) * weights).sum(), verts)
        # linear in the picture, so that steps may be as large as the picture itself
        linear = (image(verts, picture) * weights).sum()
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((mixed * picture).sum(), linear)
    # the edges of the triangle in front move what is seen of the large one
    assert (moved[0, 3:6].abs().sum(-1) > 1e-3).all()


def test_a_silhouette_has_gradients_of_central_differences():
    verts, faces = ball(4)
    screen = (verts * 6.3 + torch.tensor([8.2, 7.9, 9.0]))[None]

    weights = torch.randn(1, 1, 16, 17, generator=torch.Generator().manual_seed(0)).double()

    def cover(points):
        return (silhouette(points, faces, (16, 17)) * weights).sum()

    (slope,) = torch.autograd.grad(cover(screen.requires_grad_()), screen)
    expected = central_differences(cover, screen.detach())
    torch.testing.assert_close(slope, expected, atol=1e-6, rtol=1e-6)
    assert slope.abs().max() > 0.1


@pytest.mark.parametrize("angle_deg", [0, 10, 30, 44, 45, 46, 70])
def test_a_square_covers_its_area_and_its_sides_move_it(angle_deg):
    half = torch.tensor(13.37, dtype=OBSERVED, requires_grad=True)
    square = turned_square(math.radians(angle_deg), 1.0, (0.0, 0.0))
    stretch = torch.stack([half, half, torch.ones_like(half)])
    corners = square * stretch + torch.tensor([20.13, 20.41, 0.0])
    area = silhouette(corners, SQUARE, (41, 40)).sum()
    area.backward()
    # exact along the sides: only the four corners are rough
    assert area.item() == pytest.approx(4 * 13.37**2, abs=1.5)
    assert half.grad.item() == pytest.approx(8 * 13.37, rel=0.03)


@pytest.mark.parametrize("angle_deg", [0, 20, 44, 45, 46, 70])
def test_pixels_change_evenly_while_a_side_moves_over_them(angle_deg):
    angle, step = math.radians(angle_deg), 0.02
    pictures = []
    for shift in torch.arange(0, 1.5, step).tolist():
        # a side far longer than the picture, so that its ends are never seen
        away = -90 + shift
        centre = (16.1 + away * math.cos(angle), 16.3 + away * math.sin(angle))
        pictures.append(silhouette(turned_square(angle, 90.0, centre), SQUARE, (32, 32)))
    # what lies outside the picture cannot reach into its border
    change = torch.cat(pictures).diff(dim=0)[..., 1:-1, 1:-1]
    steepest = step / max(abs(math.cos(angle)), abs(math.sin(angle)))
    assert change.min() >= -1e-4
    assert change.max() <= steepest + 1e-4


def test_a_turned_cube_covers_its_analytic_area_and_so_does_its_slope():
    corners, faces = cube()
    skew = torch.tensor([[0, -0.2, -0.5], [0.2, 0, -0.3], [0.5, 0.3, 0]], dtype=OBSERVED)
    for angle in torch.linspace(0.3, 2.1, 4, dtype=OBSERVED):
        angle.requires_grad_()
        turn = torch.matrix_exp(angle * skew)
        # each pair of faces shows one, and |cos| of its area
        analytic = 60**2 * turn[2].abs().sum()
        (slope,) = torch.autograd.grad(analytic, angle)
        turn = torch.matrix_exp(angle * skew)
        screen = corners @ turn.T * torch.tensor([30.0, 30, 1]) + torch.tensor([60.2, 60.3, 5])
        drawn = silhouette(screen[None], faces, (120, 120)).sum()
        (found,) = torch.autograd.grad(drawn, angle)
        assert drawn.item() == pytest.approx(analytic.item(), rel=5e-4)
        assert found.item() == pytest.approx(slope.item(), abs=0.02 * 60**2)


@pytest.mark.parametrize("rings", [8, 30, 90])
def test_a_ball_grows_by_its_outline_however_small_its_faces(rings):
    verts, faces = ball(rings)
    radius = torch.tensor(14.6, dtype=OBSERVED, requires_grad=True)
    screen = verts * torch.stack([radius, radius, torch.ones_like(radius)])
    screen = screen + torch.tensor([20.1, 19.8, 5.0])
    area = silhouette(screen[None], faces, (40, 40)).sum()
    area.backward()
    # a polygon of 2 * rings sides
    share = math.sin(math.pi / rings) / math.pi * rings
    assert area.item() == pytest.approx(math.pi * 14.6**2 * share, rel=0.01)
    assert radius.grad.item() == pytest.approx(2 * math.pi * 14.6 * share, rel=0.05)


def test_where_two_triangles_cut_each_other_nothing_is_blended():
    verts = torch.tensor(
        [[[-40.0, -20, 1], [60, -20, 3], [10, 80, 2], [-40, -20, 3], [60, -20, 1], [10, 80, 2]]]
    )
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    fragments = rasterize(verts, faces, (20, 20))
    assert fragments.face_id.unique().tolist() == [0, 1]
    image = fragments.face_id.float()[:, None]
    assert torch.equal(antialias(image, fragments, verts, faces), image)


def test_a_thing_on_the_floor_is_blended_into_the_nearer_floor():
    # at its foot the card is farther than the floor in front of it
    card = [[5.0, 2, 5], [15, 2, 5], [15, 10.3, 5], [5, 10.3, 5]]
    floor = [[0.0, 6, 18.2], [20, 6, 18.2], [20, 20, -23.8], [0, 20, -23.8]]
    verts = torch.tensor([card + floor], dtype=OBSERVED)
    faces = torch.cat([SQUARE, SQUARE + 4])
    fragments = rasterize(verts, faces, (20, 20))
    image = (fragments.face_id < 2).to(OBSERVED)[:, None]
    row = antialias(image * (fragments.face_id >= 0), fragments, verts, faces)[0, 0, 10]
    # the card's lower side is at 10.3, so that it covers 0.3 of the pixels below
    torch.testing.assert_close(row[7:13], torch.full((6,), 0.3, dtype=OBSERVED))


def test_an_edge_at_which_the_surface_turns_back_is_a_silhouette():
    # a folded sheet: both faces lie to the left of the edge that they share
    verts = torch.tensor([[[10.3, -5, 1], [10.3, 25, 1], [-9, 10, 1], [-9, 11, 2]]], dtype=OBSERVED)
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    mask = silhouette(verts, faces, (20, 20))
    torch.testing.assert_close(mask[0, 0, 8:12, 10], torch.full((4,), 0.3 + 0.5 - 0.5).double())
    unfolded = verts.clone()
    unfolded[0, 3, 0] = 29
    fragments = rasterize(unfolded, faces, (20, 20))
    image = fragments.face_id.to(OBSERVED)[:, None]
    same = antialias(image, fragments, unfolded, faces)
    assert torch.equal(same[0, 0, 8:12, 5:15], image[0, 0, 8:12, 5:15])


def test_gradients_of_antialiased_images_repeat_bit_for_bit():
    verts, faces = random_mesh(5, 3)

    def slope():
        points = verts.clone().requires_grad_()
        silhouette(points, faces, (48, 56)).square().sum().backward()
        return points.grad

    assert torch.equal(slope(), slope())


def test_no_faces_and_no_images_are_left_as_they_are():
    none = torch.zeros(0, 3).long()
    assert (silhouette(torch.rand(2, 3, 3), none, (4, 5)) == 0).all()
    assert silhouette(torch.rand(0, 3, 3), SQUARE[:1], (4, 5)).shape == (0, 1, 4, 5)


def test_wrong_arguments_of_antialiasing_are_named():
    verts = turned_square(0.1, 5.0, (8.0, 8.0))
    fragments = rasterize(verts, SQUARE, (16, 16))
    image = torch.zeros(1, 1, 16, 16, dtype=OBSERVED)
    with pytest.raises(ValueError, match="pass the three of one rasterization"):
        antialias(image[..., 1:], fragments, verts, SQUARE)
    with pytest.raises(ValueError, match="fragments see face 1"):
        antialias(image, fragments, verts, SQUARE[:1])
    with pytest.raises(ValueError, match="faces"):
        antialias(image, fragments, verts, SQUARE + 1)
    with pytest.raises(ValueError, match="opposite_corners"):
        silhouette(verts, SQUARE, (16, 16), opposite_corners(SQUARE) + 6)
