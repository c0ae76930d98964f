"""What carving and fitting a mesh to silhouettes is made of: hull, coverage, losses, steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from traced_shapes import SIDE, cameras_round, euler, is_closed, trace

from flame.edge_gradient import coverage
from flame.hull import bounds, visual_hull
from flame.large_steps import Preconditioner, UniformAdam
from flame.mesh_files import save_mesh_glb, save_mesh_obj
from flame.mesh_losses import edge_length_loss, laplacian_loss, neighbours, normal_loss
from flame.pinhole import Pinhole
from flame.raster import rasterize


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # tensors as small as these cost threads more than they save
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_box_of_a_sphere_is_a_little_more_than_the_sphere():
    cameras = cameras_round(14, (60, -60, 0))
    masks = trace(lambda p: np.linalg.norm(p, axis=-1) - 0.4, cameras, samples=1)
    low, high = bounds(masks, cameras)
    assert (low < -0.4).all() and (low > -0.52).all()
    assert (high > 0.4).all() and (high < 0.52).all()


def test_a_sphere_is_carved_to_within_a_pixel():
    cameras = cameras_round(24, (60, -60, 0, 30, -30))
    masks = trace(lambda p: np.linalg.norm(p, axis=-1) - 0.4, cameras, samples=1)
    verts, faces = visual_hull(masks, cameras, 2000)
    assert euler(verts, faces) == 2 and is_closed(faces)
    radius = verts.norm(dim=1)
    pixel = 2.2 / (1.35 * SIDE)
    assert float(radius.min()) > 0.4 - pixel
    assert float(radius.mean()) < 0.4 + pixel
    normals = torch.linalg.cross(
        verts[faces[:, 1]] - verts[faces[:, 0]], verts[faces[:, 2]] - verts[faces[:, 0]]
    )
    assert float((normals * verts[faces[:, 0]]).sum(1).min()) > 0  # outwards


def test_an_object_cut_by_the_border_in_one_view_is_still_whole():
    near = cameras_round(10)
    # the last camera looks past the object: half of it is outside its picture
    shifted = near.centre.clone()
    shifted[-1, 0] += 50
    cameras = Pinhole(near.world_to_camera, near.focal, shifted, near.near)
    masks = trace(lambda p: np.linalg.norm(p, axis=-1) - 0.35, cameras, samples=1)
    assert bool((masks[-1, 0, :, -1] > 0.5).any())
    verts, _ = visual_hull(masks, cameras, 1000)
    assert float(verts.amin()) < -0.33 and float(verts.amax()) > 0.33


def square(half):
    verts = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64)
    return verts * half, torch.tensor([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("side", [20, 37, 64])
def test_coverage_grows_as_a_square_does(side):
    verts, faces = square(1.0)
    # half-way between pixel centres, so that the outermost centres are known
    n = side - 2 * (side // 5)
    scale = torch.tensor(n / side, dtype=torch.float64, requires_grad=True)
    clip = torch.cat([verts * scale, torch.ones(4, 1, dtype=torch.float64)], 1)[None]
    shown = coverage(rasterize(clip, faces, (side, side)), clip, faces)
    assert float(shown.detach().sum()) == n * n
    (slope,) = torch.autograd.grad(shown.sum(), scale)
    # along each of four edges n pixels move outwards by what their centres are from the middle
    assert float(slope) == pytest.approx(4 * n * (n - 1) / 2 / (n / side), rel=1e-9)


def test_the_silhouette_gradient_moves_a_square_onto_its_mask():
    verts, faces = square(0.5)
    target = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    target[0, 0, 20:52, 22:54] = 1  # the square's own pixels, moved by (6, 4)
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.Adam([shift], 0.01)
    for step in range(60):
        descent.param_groups[0]["lr"] = 0.01 * (1 - step / 61)
        moved = torch.cat([verts[:, :2] + shift, verts[:, 2:], torch.ones(4, 1)], 1)[None]
        loss = (coverage(rasterize(moved, faces, (64, 64)), moved, faces) - target).square().sum()
        descent.zero_grad()
        loss.backward()
        descent.step()
    pixels = shift.detach() * 32
    torch.testing.assert_close(pixels, pixels.new_tensor([6.0, -4.0]), atol=0.6, rtol=0)


def grid(n):
    y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    verts = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3).double()
    a = (y[:-1, :-1] * n + x[:-1, :-1]).reshape(-1)
    faces = torch.cat(
        [torch.stack([a, a + 1, a + n + 1], 1), torch.stack([a, a + n + 1, a + n], 1)]
    )
    return verts, faces


def test_two_faces_that_meet_at_a_right_angle_cost_one():
    verts = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [1, 0, 3]])
    near = neighbours(faces, 4)
    assert near.edges.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
    assert near.face_pairs.tolist() == [[0, 1]]
    assert float(normal_loss(verts, faces, near)) == pytest.approx(1.0)
    flat, flat_faces = grid(4)
    assert float(normal_loss(flat, flat_faces, neighbours(flat_faces, 16))) == pytest.approx(0.0)


def test_edge_lengths_cost_their_squared_spread():
    verts, faces = square(0.5)
    lengths = np.array([1, 1, 1, 1, 2**0.5])
    wanted = np.square(lengths / lengths.mean() - 1).mean()
    loss = edge_length_loss(verts, neighbours(faces, 4))
    assert float(loss) == pytest.approx(wanted, rel=1e-12)


def test_bending_is_free_of_units_and_zero_inside_a_plane():
    verts, faces = grid(9)
    near = neighbours(faces, len(verts))
    bumpy = verts.clone()
    bumpy[40, 2] = 1.0
    rest, bent = laplacian_loss(verts, near), laplacian_loss(bumpy, near)
    assert float(bent) > float(rest)
    torch.testing.assert_close(laplacian_loss(bumpy * 7, near), bent)


def test_preconditioned_vertices_are_those_of_the_dense_system():
    verts, faces = grid(5)
    near = neighbours(faces, len(verts))
    laplacian = torch.zeros(25, 25, dtype=torch.float64)
    for a, b in near.edges.tolist():
        laplacian[a, a] += 1
        laplacian[b, b] += 1
        laplacian[a, b] -= 1
        laplacian[b, a] -= 1
    system = torch.eye(25, dtype=torch.float64) + 7.0 * laplacian
    solver = Preconditioner(near, 7.0)
    torch.testing.assert_close(solver.encode(verts), system @ verts)
    coded = torch.randn(25, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(solver.decode(coded), torch.linalg.solve(system, coded))
    coded.requires_grad_()
    assert torch.autograd.gradcheck(solver.decode, (coded,))


def test_uniform_adam_takes_a_step_of_its_rate_along_the_largest_gradient():
    value = torch.zeros(3)
    UniformAdam(value).step(torch.tensor([4.0, -2.0, 0.0]), 0.1)
    torch.testing.assert_close(value, torch.tensor([-0.1, 0.05, 0.0]))


def test_the_first_pixels_centre_is_at_a_half():
    camera = Pinhole(torch.eye(4)[None], torch.tensor([[10.0, 20.0]]), torch.tensor([[4.0, 3.0]]),
                     torch.tensor([0.1]))  # fmt: skip
    points = torch.tensor([[[0.0, 0.0, 2.0], [1.0, 0.5, 2.0]]])
    pixels = camera.project(points, (6, 8))
    # OpenCV's rule: f x / z + c, y down
    torch.testing.assert_close(pixels, torch.tensor([[[4.0, 3.0, 2.0], [9.0, 8.0, 2.0]]]))
    torch.testing.assert_close(camera.eye(), torch.zeros(1, 3))
    clip = camera.clip(torch.tensor([[[0.0, 0.0, 0.1]]]), (6, 8))
    assert float(clip[0, 0, 2] / clip[0, 0, 3]) == pytest.approx(-1)


def test_colours_in_a_glb_are_linear_and_in_an_obj_srgb(tmp_path):
    import pygltflib

    verts, faces = square(0.5)
    colours = torch.tensor([[1.0, 0.5, 0.0]]).expand(4, 3)
    save_mesh_glb(tmp_path / "a.glb", verts.float(), faces, colours)
    file = pygltflib.GLTF2().load(tmp_path / "a.glb")
    accessor = file.accessors[file.meshes[0].primitives[0].attributes.COLOR_0]
    view = file.bufferViews[accessor.bufferView]
    stored = np.frombuffer(file.binary_blob(), np.float32, 3, view.byteOffset)
    np.testing.assert_allclose(stored, [1.0, 0.21404, 0.0], atol=1e-5)  # IEC 61966-2-1
    save_mesh_obj(tmp_path / "a.obj", verts.float(), faces, colours)
    assert "v -0.5 -0.5 0 1.0000 0.5000 0.0000" in (tmp_path / "a.obj").read_text()
