from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flame.antialias import antialias
from flame.interpolate import interpolate, interpolate_reference
from flame.raster import pad_meshes, rasterize, rasterize_reference
from flame.texture import fill_gutter, sample_texture, unwrap


def _random_mesh(seed, verts=60, faces=90, batch=2, space=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(batch, verts, space, generator=generator, dtype=dtype)
    if space == 3:
        points = points * torch.tensor([50.0, 40.0, 5.0]) - 5
    else:
        # w from -0.2 to 0.8: some corners are behind the camera
        points = points * 2 - 1
        points[..., 3] = points[..., 3] / 2 + 0.3
    index = torch.randint(0, verts, (faces, 3), generator=generator)
    return points.to(dtype), index


def _sphere(rings=60, segments=80):
    theta = torch.linspace(0, math.pi, rings + 1)[:, None]
    phi = torch.linspace(0, 2 * math.pi, segments + 1)[None]
    across = theta.sin() * phi.cos(), theta.cos().expand(-1, segments + 1), theta.sin() * phi.sin()
    corner = torch.arange(rings)[:, None] * (segments + 1) + torch.arange(segments)
    corner = corner.reshape(-1, 1)
    below = corner + segments + 1
    faces = torch.cat(
        [
            torch.cat([corner, corner + 1, below + 1], 1),
            torch.cat([corner, below + 1, below], 1),
        ]
    )
    return torch.stack(across, dim=-1).reshape(-1, 3), faces


def _assert_same(one, two, atol):
    assert torch.equal(one.face_id, two.face_id)
    torch.testing.assert_close(one.bary, two.bary, atol=atol, rtol=0)
    torch.testing.assert_close(one.depth, two.depth, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("space", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(2))
def test_the_kernel_finds_the_references_fragments(seed, space, dtype):
    verts, faces = _random_mesh(seed, space=space, dtype=dtype)
    fast = rasterize(verts, faces, (33, 41))
    _assert_same(fast, rasterize_reference(verts, faces, (33, 41)), 1e-5)
    assert fast.bary.dtype == fast.depth.dtype == dtype
    assert (fast.face_id >= 0).any()


def test_threads_do_not_change_the_fragments():
    verts, faces = _random_mesh(5)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rasterize(verts[:1], faces, (200, 64))
        torch.set_num_threads(3)
        _assert_same(rasterize(verts[:1], faces, (200, 64)), one, 0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("flip", [False, True])
def test_triangles_that_share_an_edge_cover_each_pixel_once(flip):
    # a fan round a pixel centre whose rays run through other centres: every rule is put to the test
    ring = [
        (x, y) for x, y in [(0, 0), (8, 0), (16, 0), (16, 8), (16, 16), (8, 16), (0, 16), (0, 8)]
    ]
    verts = torch.tensor([(8.5, 8.5, 1.0)] + [(x + 0.5, y + 0.5, 1.0) for x, y in ring])[None]
    count = torch.zeros(20, 20)
    for k in range(8):
        face = [0, 1 + k, 1 + (k + 1) % 8]
        face = torch.tensor([face[::-1] if flip and k % 2 else face])
        count += (rasterize(verts, face, (20, 20)).face_id[0] >= 0).float()
    # of the square's border, the left and upper sides belong to it
    expected = torch.zeros(20, 20)
    expected[0:16, 0:16] = 1
    torch.testing.assert_close(count, expected)


def test_a_spheres_silhouette_has_the_area_of_its_disc():
    verts, faces = _sphere()
    screen = verts * torch.tensor([80.0, 80.0, 1.0]) + torch.tensor([100.0, 100.0, 5.0])
    fragments = rasterize(screen[None], faces, (200, 200))
    area = (fragments.face_id >= 0).sum().item()
    assert area == pytest.approx(math.pi * 80**2, rel=0.003)


def test_a_spheres_interpolated_positions_and_depth_lie_on_the_sphere():
    verts, faces = _sphere()
    clip = torch.cat([verts, 3 - verts[:, 2:]], dim=-1)  # a pinhole 3 radii away
    clip[:, 2] = -verts[:, 2]
    fragments = rasterize(clip[None], faces, (120, 120))
    seen = interpolate(verts, faces, fragments)[0]
    inside = fragments.face_id[0] >= 0
    radius = seen[inside].norm(dim=-1)
    torch.testing.assert_close(radius, torch.ones_like(radius), atol=2e-3, rtol=0)
    # perspective-correct: the point seen at a pixel projects to that pixel
    column = torch.nonzero(inside)[:, 1]
    x = seen[inside][:, 0] / (3 - seen[inside][:, 2])
    torch.testing.assert_close((x + 1) * 60, column + 0.5, atol=1e-3, rtol=0)
    depth = -seen[inside][:, 2] / (3 - seen[inside][:, 2])
    torch.testing.assert_close(fragments.depth[0][inside], depth, atol=1e-5, rtol=0)
    assert (seen[inside][:, 2] > 0).all()


def test_a_turned_cubes_silhouette_has_its_analytic_area():
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = torch.tensor([t for q in quads for t in ([q[0], q[1], q[2]], [q[0], q[2], q[3]])])
    axis = torch.tensor([0.3, -0.5, 0.2])
    turn = torch.matrix_exp(
        torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    )
    screen = corners @ turn.T * torch.tensor([60.0, 60, 1]) + torch.tensor([150.0, 150, 5])
    area = (rasterize(screen[None], faces, (300, 300)).face_id >= 0).sum().item()
    # each pair of faces shows one; a face of side 120 px shows |cos| of its area
    assert area == pytest.approx(120**2 * turn[2].abs().sum().item(), rel=0.003)


def test_the_order_of_the_faces_changes_only_their_names():
    verts, faces = _random_mesh(3, faces=200)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))
    plain = rasterize(verts, faces, (40, 40))
    mixed = rasterize(verts, faces[order], (40, 40))
    named = torch.where(mixed.face_id < 0, -1, order[mixed.face_id])
    assert torch.equal(named, plain.face_id)


def test_winding_does_not_change_what_is_seen():
    verts, faces = _random_mesh(4)
    plain = rasterize(verts, faces, (40, 40))
    turned = rasterize(verts, faces[:, [0, 2, 1]], (40, 40))
    assert torch.equal(plain.face_id, turned.face_id)
    torch.testing.assert_close(plain.bary, turned.bary[..., [0, 2, 1]], atol=1e-6, rtol=0)


def test_equal_depths_go_to_the_lower_face():
    verts = torch.tensor([[[0.0, 0, 1], [20, 0, 1], [0, 20, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 2], [2, 0, 1]])
    face_id = rasterize(verts, faces, (20, 20)).face_id
    assert set(face_id.unique().tolist()) == {-1, 0}


def test_of_two_triangles_that_intersect_each_shows_where_it_is_nearer():
    verts = torch.tensor(
        [[[-40.0, -20, 1], [60, -20, 3], [10, 80, 2], [-40, -20, 3], [60, -20, 1], [10, 80, 2]]]
    )
    fragments = rasterize(verts, torch.tensor([[0, 1, 2], [3, 4, 5]]), (20, 20))
    expected = (torch.arange(20) + 0.5 > 10).long().expand(20, 20)
    assert torch.equal(fragments.face_id[0], expected)


def test_a_ground_plane_through_the_near_plane_ends_at_the_horizon():
    # the ground y = -1 seen along -z by a pinhole with a field of view of 90 degrees
    ground = torch.tensor([[-50.0, -1, 10], [50, -1, 10], [0, -1, -1000]])
    near = 0.1
    w = -ground[:, 2:]
    clip = torch.cat([ground[:, :2], w - 2 * near, w], dim=1)  # z = -w where w is near
    fragments = rasterize(clip[None], torch.tensor([[0, 1, 2]]), (64, 64))
    covered = fragments.face_id[0] >= 0
    assert not covered[:32].any()
    assert covered[34:, 32].all()
    # y/w = -1/w gives the distance of the ground seen in each row
    rows = torch.arange(40, 64)
    distance = 1 / ((rows + 0.5) / 32 - 1)
    expected = (distance - 2 * near) / distance
    torch.testing.assert_close(fragments.depth[0, 40:, 32], expected, atol=1e-5, rtol=0)


def test_pixels_nearer_than_the_near_plane_are_dropped():
    clip = torch.tensor([[[-1.0, -1, -1.5, 1], [1, -1, -1.5, 1], [0, 3, 1.5, 1]]])
    fragments = rasterize(clip, torch.tensor([[0, 1, 2]]), (40, 40))
    depth = fragments.depth[fragments.face_id >= 0]
    assert len(depth) > 0
    assert depth.min() >= -1
    assert (fragments.face_id[0, -5:] < 0).all()


def test_what_is_behind_the_camera_is_not_seen():
    clip = torch.tensor([[[-1.0, -1, 0, -1], [1, -1, 0, -1], [0, 1, 0, -1]]])
    assert (rasterize(clip, torch.tensor([[0, 1, 2]]), (8, 8)).face_id < 0).all()


def test_no_faces_and_no_images_give_background():
    verts = torch.rand(2, 3, 3)
    assert (rasterize(verts, torch.zeros(0, 3).long(), (4, 5)).face_id == -1).all()
    assert rasterize(verts[:0], torch.tensor([[0, 1, 2]]), (4, 5)).bary.shape == (0, 4, 5, 3)
    reference = rasterize_reference(verts[:0], torch.tensor([[0, 1, 2]]), (4, 5))
    assert reference.face_id.shape == (0, 4, 5)


def test_every_image_may_show_a_mesh_of_its_own():
    first, second = _random_mesh(1, batch=1), _random_mesh(2, verts=20, faces=30, batch=1)
    verts, faces = pad_meshes([first[0][0], second[0][0]], [first[1], second[1]])
    assert verts.shape == (2, 60, 3)
    both = rasterize(verts, faces, (30, 20))
    seen = interpolate(verts, faces.int(), both)
    for item, (points, index) in enumerate((first, second)):
        alone = rasterize(points, index, (30, 20))
        _assert_same(both[item], alone, 0)
        torch.testing.assert_close(seen[item : item + 1], interpolate(points, index, alone))


def test_culling_drops_what_is_clockwise_on_the_screen():
    verts, faces = _sphere(20, 30)
    screen = (verts * torch.tensor([15.0, -15, -1]) + torch.tensor([20.0, 20, 5]))[None]
    plain, culled = (
        rasterize(screen, faces, (40, 40)),
        rasterize(screen, faces, (40, 40), cull=True),
    )
    turned = rasterize(screen, faces.flip(1), (40, 40), cull=True)
    outside, inside = sorted([culled, turned], key=lambda f: f.depth.nan_to_num(posinf=0).sum())
    _assert_same(outside, plain, 1)
    # only the far side is left
    assert (inside.depth[inside.face_id >= 0] > 4.9).all()


def _clipped(corners, plane):
    """The part of a polygon of homogeneous points where plane . point >= 0."""
    kept = []
    for one, two in zip(corners, [*corners[1:], *corners[:1]], strict=True):
        a, b = float(plane @ one), float(plane @ two)
        if a >= 0:
            kept.append(one)
        if (a >= 0) != (b >= 0):
            kept.append(one + (two - one) * (a / (a - b)))
    return kept


@pytest.mark.parametrize("seed", range(40))
def test_triangles_that_reach_behind_the_camera_cover_what_is_left_of_them(seed):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    clip[:, 3] = clip[:, 3].abs() * torch.tensor([[1, -1, 1], [-1, 1, -1]])[seed % 2]
    side = 24
    covered = rasterize(clip[None], torch.tensor([[0, 1, 2]]), (side, side)).face_id[0] >= 0
    polygon = list(clip)
    for plane in ([0.0, 0, 0, 1], [0.0, 0, 1, 1]):  # before the camera, beyond the near plane
        polygon = _clipped(polygon, torch.tensor(plane).double())
    centre = torch.arange(side).double() + 0.5
    rows, columns = torch.meshgrid(centre, centre, indexing="ij")
    x, y = columns / (side / 2) - 1, 1 - rows / (side / 2)
    pixels = torch.stack([x, y, torch.ones_like(x)])
    sides = []
    for one, two in zip(polygon, [*polygon[1:], *polygon[:1]], strict=True):
        line = torch.linalg.cross(one[[0, 1, 3]], two[[0, 1, 3]])
        sides.append(torch.einsum("i,ihw->hw", line, pixels))
    # without a polygon no side is right
    sides = torch.stack(sides) if sides else torch.stack([x - x + 1, x - x - 1])
    unsure = (sides.abs() < 1e-9).any(0)
    expected = (sides > 0).all(0) | (sides < 0).all(0)
    assert torch.equal(covered | unsure, expected | unsure)


def test_a_small_triangle_round_the_camera_plane_costs_no_whole_screen():
    # one corner just behind the camera: its image is a wedge that leaves the screen at once
    clip = torch.tensor([[[0.9, 0.9, 0.5, 1], [0.92, 0.9, 0.5, 1], [5.0, 5.0, 0.5, -0.01]]])
    seen = rasterize(clip, torch.tensor([[0, 1, 2]]), (400, 400)).face_id[0] >= 0
    assert 0 < seen.sum() < 1000
    assert not seen[40:].any()


odd = st.one_of(
    st.floats(-10, 40, width=32),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 0.5, 8.0, 1e30, -1e30, 1e-40]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(odd, min_size=24, max_size=24), st.sampled_from([3, 4]), st.integers(0, 99))
def test_odd_numbers_give_the_references_fragments(numbers, space, seed):
    verts = torch.tensor(numbers[: 6 * space], dtype=torch.float32).view(1, 6, space)
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randint(0, 6, (8, 3), generator=generator)
    fast = rasterize(verts, faces, (9, 7))
    slow = rasterize_reference(verts, faces, (9, 7))
    assert torch.equal(fast.face_id, slow.face_id)
    assert fast.depth[fast.face_id >= 0].isfinite().all()


def test_slivers_of_no_area_cover_nothing():
    verts = torch.tensor([[[0.0, 0, 1], [5, 5, 1], [10, 10, 1], [10, 10, 1], [math.nan, 0, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 0, 0], [0, 1, 4]])
    assert (rasterize(verts, faces, (12, 12)).face_id < 0).all()


@pytest.mark.parametrize(
    ("verts", "faces", "size", "words"),
    [
        (torch.rand(1, 3, 2), torch.tensor([[0, 1, 2]]), (4, 4), "2 coordinates"),
        (torch.rand(1, 3, 3), torch.tensor([[0, 1, 3]]), (4, 4), r"faces\[0\] points at vertex 3"),
        (
            torch.rand(1, 3, 3),
            torch.tensor([[0, 1, -1]]),
            (4, 4),
            r"faces\[0\] points at vertex -1",
        ),
        (torch.rand(1, 3, 3), torch.tensor([[0, 1, 2]]), (0, 4), "size is"),
        (torch.rand(1, 3, 3), torch.tensor([[0, 1, 2]]), (4, 16_385), "size is"),
        (torch.rand(3, 3), torch.tensor([[0, 1, 2]]), (4, 4), "verts have the shape"),
        (torch.ones(1, 3, 3).long(), torch.tensor([[0, 1, 2]]), (4, 4), "verts are torch.int64"),
        (torch.rand(1, 3, 3), torch.rand(1, 3), (4, 4), "faces are torch.float32"),
        (torch.rand(1, 3, 3), torch.tensor([0, 1, 2]), (4, 4), "faces have the shape"),
        (torch.rand(1, 3, 3), torch.zeros(2, 1, 3).long(), (4, 4), "faces are 2 lists"),
        (torch.rand(1, 3, 3), torch.zeros(1, 3).long().to("meta"), (4, 4), "faces on meta"),
        (torch.rand(0, 3, 3), torch.tensor([[0, 1, 3]]), (4, 4), "points at vertex 3"),
    ],
)
def test_wrong_arguments_are_named(verts, faces, size, words):
    with pytest.raises(ValueError, match=words):
        # as users run it, without the check of shapes that tests have
        inspect.unwrap(rasterize)(verts, faces, size)


@pytest.mark.parametrize("space", [3, 4])
def test_gradients_equal_central_differences(space):
    verts, faces = _random_mesh(7, verts=6, faces=3, batch=2, space=space, dtype=torch.float64)
    if space == 4:
        verts[..., 3] += 0.5
    seen = rasterize(verts, faces, (5, 6)).face_id
    colours = torch.rand(6, 2, generator=torch.Generator().manual_seed(2)).double()

    mixed = torch.randn(24, 360, generator=torch.Generator().manual_seed(3)).double()

    def image(points, attributes):
        fragments = rasterize(points, faces, (5, 6))
        # steps so small leave the visible faces as they are
        assert torch.equal(fragments.face_id, seen)
        depth = torch.where(seen >= 0, fragments.depth, 0)
        parts = fragments.bary, depth, interpolate(attributes, faces, fragments)
        # each sum holds every output, so that a wrong one cannot hide from all of them
        return mixed @ torch.cat([part.flatten() for part in parts])

    inputs = (verts.requires_grad_(), colours.requires_grad_())
    assert torch.autograd.gradcheck(image, inputs, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("space", [3, 4])
def test_the_hand_written_gradients_are_the_references(space):
    verts, faces = _random_mesh(8, space=space, dtype=torch.float64)
    weights = torch.rand(2, 33, 41, 3, generator=torch.Generator().manual_seed(1)).double()
    slopes = []
    for draw, mix in ((rasterize, interpolate), (rasterize_reference, interpolate_reference)):
        points = verts.clone().requires_grad_()
        fragments = draw(points, faces, (33, 41))
        depth = torch.where(fragments.face_id >= 0, fragments.depth, 0)
        loss = (mix(points[..., :3], faces, fragments) * weights).sum() + depth.sum()
        slopes.append(torch.autograd.grad(loss, points)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-6, atol=1e-6)


def test_gradients_repeat_bit_for_bit():
    verts, faces = _random_mesh(9)

    def slope():
        points = verts.clone().requires_grad_()
        fragments = rasterize(points, faces, (64, 64))
        image = interpolate(points, faces, fragments).movedim(-1, 1)
        antialias(image, fragments, points, faces).square().sum().backward()
        return points.grad

    assert torch.equal(slope(), slope())


def test_samples_at_texel_centres_are_the_texels():
    texture = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    u = (torch.arange(7) + 0.5) / 7
    v = 1 - (torch.arange(5) + 0.5) / 5
    uv = torch.stack([u.expand(5, 7), v[:, None].expand(5, 7)], dim=-1)[None]
    torch.testing.assert_close(sample_texture(texture, uv), texture, atol=1e-6, rtol=0)


def test_an_unwrapped_mesh_bakes_its_uvs_to_texel_centres():
    uv = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.9, 0.9], [0.1, 0.9]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    layout = unwrap(uv, faces, 40, gutter=2)
    maps = layout.bake(uv[None], faces)[0]
    u = ((torch.arange(40) + 0.5) / 40).expand(40, 40)
    torch.testing.assert_close(maps[0][layout.valid], u[layout.valid], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps[1][layout.valid], u.flip(1).T[layout.valid], atol=1e-6, rtol=0)
    # the gutter repeats the nearest texel, two texels wide, and nothing lies beyond it
    assert maps[0, 20, 3].item() == pytest.approx(maps[0, 20, 4].item())
    assert layout.face_id[0, 20, 2] >= 0
    assert layout.face_id[0, 20, 1] == -1
    filled = fill_gutter(maps * layout.valid, layout.valid, 2)
    torch.testing.assert_close(filled[:, 20], maps[:, 20])
