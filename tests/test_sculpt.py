"""Meshes from silhouettes; the objects are formulas, traced along rays by numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from assets.errors import AssetError
from avatar.camera_file import read_cameras, to_cameras
from avatar.sculpt import SculptSettings, read_views, sculpt_folder
from flame.edge_gradient import coverage
from flame.hull import bounds, visual_hull
from flame.large_steps import Preconditioner, UniformAdam
from flame.mesh_files import save_mesh_glb, save_mesh_obj
from flame.mesh_losses import edge_length_loss, laplacian_loss, neighbours, normal_loss
from flame.pinhole import Pinhole, look_at
from flame.raster import rasterize
from flame.sculpt import SculptConfig, sculpt, silhouette_iou

SIDE = 96  # px
UP = torch.tensor([0.0, 1.0, 0.0])
QUICK = SculptConfig(n_verts=2000, steps=24)


def capsule(p, start, along, radius):
    share = np.clip((p - start) @ np.array(along) / np.dot(along, along), 0, 1)
    return np.linalg.norm(p - start - share[..., None] * along, axis=-1) - radius


def ring_and_knob(p):
    """A ring in the xy plane with an arm: a hole, a concavity and no symmetry."""
    ring = np.hypot(np.hypot(p[..., 0], p[..., 1]) - 0.3, p[..., 2]) - 0.1
    return np.minimum(ring, capsule(p, [0.3, 0.0, 0.0], [0.25, 0.1, 0.25], 0.08))


def elbow(p):
    """Two arms that meet at a right angle."""
    return np.minimum(
        capsule(p, [-0.25, -0.3, 0.0], [0.6, 0.0, 0.1], 0.15),
        capsule(p, [-0.25, -0.3, 0.0], [0.0, 0.65, 0.0], 0.13),
    )


def trace(distance, cameras, side=SIDE, samples=3):
    """Shares of pixels whose rays hit; sphere tracing in numpy."""
    masks = []
    for item in range(len(cameras.near)):
        matrix = cameras.world_to_camera[item].double().numpy()
        eye = -matrix[:3, :3].T @ matrix[:3, 3]
        place = (np.arange(side * samples) + 0.5) / samples
        x, y = np.meshgrid(place, place)
        focal, centre = cameras.focal[item].tolist(), cameras.centre[item].tolist()
        rays = np.stack([(x - centre[0]) / focal[0], (y - centre[1]) / focal[1], np.ones_like(x)])
        rays = (rays / np.linalg.norm(rays, axis=0)).reshape(3, -1).T @ matrix[:3, :3]
        reach = np.full(len(rays), np.linalg.norm(eye) - 0.9)
        hit = np.zeros(len(rays), dtype=bool)
        alive = np.arange(len(rays))
        for _ in range(80):
            gap = distance(eye + reach[alive, None] * rays[alive])
            reach[alive] += gap
            hit[alive[gap < 1e-3]] = True
            alive = alive[(gap >= 1e-3) & (reach[alive] < np.linalg.norm(eye) + 0.9)]
        masks.append(hit.reshape(side, samples, side, samples).mean((1, 3)))
    return torch.from_numpy(np.stack(masks)[:, None]).float()


def cameras_round(count, pitches_deg=(20, -15, 50), phase=0.0, side=SIDE, up=UP):
    yaw = 2 * np.pi * (np.arange(count) + phase) / count
    pitch = np.radians([pitches_deg[k % len(pitches_deg)] for k in range(count)])
    eye = 2.2 * np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    eyes = torch.from_numpy(eye.T).float()
    return look_at(eyes, torch.zeros_like(eyes), up, 1.35 * side, (side, side))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # tensors as small as these cost threads more than they save
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def views():
    cameras = cameras_round(12)
    return trace(ring_and_knob, cameras), cameras


def euler(verts, faces):
    return len(verts) - len(neighbours(faces, len(verts)).edges) + len(faces)


def is_closed(faces):
    half = torch.stack([faces, faces.roll(-1, 1)], -1).reshape(-1, 2).tolist()
    return len({(a, b) for a, b in half}) == len(half) and {(b, a) for a, b in half} == {
        (a, b) for a, b in half
    }


@pytest.mark.parametrize(("shape", "characteristic"), [(ring_and_knob, 0), (elbow, 2)])
def test_a_fitted_object_covers_masks_that_it_never_saw(shape, characteristic):
    cameras = cameras_round(12)
    result = sculpt(trace(shape, cameras), cameras, config=QUICK)
    assert float(result.iou.min()) > 0.97
    held_out = cameras_round(5, (0, 35, -40), phase=0.37)
    overlap = silhouette_iou(result.verts, result.faces, trace(shape, held_out), held_out)
    assert float(overlap.min()) > 0.95
    # a ring with an arm has one hole, and an elbow none
    assert euler(result.verts, result.faces) == characteristic
    assert is_closed(result.faces)
    assert float(np.abs(shape(result.verts.double().numpy())).mean()) < 0.008


def test_the_fit_mends_what_carving_missed(views):
    masks, cameras = views
    result = sculpt(masks, cameras, config=QUICK)
    assert float(result.iou.mean()) > float(result.hull_iou.mean())
    again = sculpt(masks, cameras, config=QUICK)
    assert torch.equal(result.verts, again.verts)


def test_colours_come_from_the_pictures(views):
    masks, cameras = views
    # the colour of a point is its position, whichever view shows it
    depth_points = []
    for item in range(len(masks)):
        matrix = cameras.world_to_camera[item].double().numpy()
        eye = -matrix[:3, :3].T @ matrix[:3, 3]
        place = np.arange(SIDE) + 0.5
        x, y = np.meshgrid(place, place)
        focal = float(cameras.focal[item, 0])
        rays = np.stack([(x - SIDE / 2) / focal, (y - SIDE / 2) / focal, np.ones_like(x)], -1)
        rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)) @ matrix[:3, :3]
        reach = np.full(x.shape, 1.3)
        for _ in range(80):
            reach = np.minimum(reach + ring_and_knob(eye + reach[..., None] * rays), 3.2)
        depth_points.append(eye + reach[..., None] * rays)
    colour = np.clip(0.5 + 0.8 * np.stack(depth_points), 0, 1)
    images = torch.from_numpy(colour).float().permute(0, 3, 1, 2) * (masks > 0.5)
    result = sculpt(masks, cameras, images, config=QUICK)
    assert result.colours is not None
    wanted = (0.5 + 0.8 * result.verts).clamp(0, 1)
    assert float((result.colours - wanted).abs().mean()) < 0.02
    assert float(result.iou.min()) > 0.95


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


def write_folder(folder, masks, cameras, change=None):
    (folder / "masks").mkdir()
    entries = []
    for item in range(len(masks)):
        name = f"{item:02d}.png"
        values = (masks[item, 0].numpy() * 255).round().astype(np.uint8)
        Image.fromarray(values).save(folder / "masks" / name)
        entries.append({
            "mask": name, "fx": float(cameras.focal[item, 0]), "fy": float(cameras.focal[item, 1]),
            "cx": float(cameras.centre[item, 0]), "cy": float(cameras.centre[item, 1]),
            "world_to_camera": cameras.world_to_camera[item].tolist(),
        })  # fmt: skip
    content = {"views": entries}
    if change is not None:
        content = change(content) or content
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder / "masks", folder / "cameras.json"


def test_both_camera_formats_mean_the_same(tmp_path, views):
    masks, cameras = views
    folder, file = write_folder(tmp_path, masks, cameras)
    own = read_views(folder, file, None, 512)
    torch.testing.assert_close(own.cameras.world_to_camera, cameras.world_to_camera)
    frames = []
    for item in range(len(masks)):
        # OpenGL: y up, z backward; camera to world
        pose = np.linalg.inv(cameras.world_to_camera[item].double().numpy())
        pose[:, 1:3] *= -1
        frames.append({"file_path": f"./train/{item:02d}", "transform_matrix": pose.tolist()})
    angle = 2 * np.arctan(SIDE / 2 / (1.35 * SIDE))
    file.write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    nerf = read_views(folder, file, None, 512)
    assert nerf.z_up and not own.z_up
    for name in ("world_to_camera", "focal", "centre"):
        torch.testing.assert_close(
            getattr(nerf.cameras, name), getattr(own.cameras, name), atol=1e-4, rtol=1e-5
        )
    torch.testing.assert_close(nerf.masks, own.masks)


def test_smaller_pictures_keep_their_cameras(tmp_path, views):
    masks, cameras = views
    folder, file = write_folder(tmp_path, masks, cameras)
    half = read_views(folder, file, None, SIDE // 2)
    assert half.masks.shape[2:] == (SIDE // 2, SIDE // 2)
    torch.testing.assert_close(half.cameras.focal, cameras.focal / 2)
    torch.testing.assert_close(half.cameras.centre, cameras.centre / 2)


def test_a_mask_may_be_the_alpha_of_a_picture(tmp_path, views):
    masks, cameras = views
    folder, file = write_folder(tmp_path, masks, cameras)
    values = (masks[3, 0].numpy() * 255).round().astype(np.uint8)
    rgba = np.dstack([np.full((SIDE, SIDE, 3), 20, np.uint8), values])
    Image.fromarray(rgba).save(folder / "03.png")
    read = read_views(folder, file, None, 512)
    torch.testing.assert_close(read.masks[3], masks[3], atol=1 / 255, rtol=0)


def test_a_folder_of_masks_becomes_files_that_other_programs_read(tmp_path, views):
    import trimesh

    folder, file = write_folder(tmp_path, *views, lambda content: {**content, "up": "z"})
    settings = SculptSettings(fit=SculptConfig(n_verts=1500, steps=10))
    result = sculpt_folder(folder, file, out=tmp_path / "out", settings=settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["iou"]) == [f"{item:02d}.png" for item in range(12)]
    assert report["mean_iou"] == pytest.approx(float(result.iou.mean()), abs=1e-4)
    with Image.open(tmp_path / "out" / "preview.png") as picture:
        assert picture.width == 1600
    plain = trimesh.load(tmp_path / "out" / "mesh.obj", process=False)
    np.testing.assert_allclose(plain.vertices, result.verts.numpy(), atol=1e-6)
    assert plain.is_watertight and plain.volume > 0
    glb = trimesh.load(tmp_path / "out" / "mesh.glb", process=False).to_geometry()
    # z up in the cameras' world is y up in glTF: (x, y, z) becomes (x, z, -y)
    x, y, z = result.verts.numpy().T
    np.testing.assert_allclose(glb.vertices, np.stack([x, z, -y], 1), atol=1e-6)


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


def turned(content):
    for entry in content["views"]:
        matrix = np.diag([1.0, -1, -1, 1]) @ np.array(entry["world_to_camera"])
        entry["world_to_camera"] = matrix.tolist()


def flattened(content):
    content["views"][4]["world_to_camera"][1] = [0.0, 0.0, 0.0, 0.0]


def renamed(content):
    content["views"][2]["mask"] = "elsewhere.png"


def wide(content):
    content["views"][0]["fx"] = -1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (turned, "do not see a common volume"),
        (flattened, r'view 4: "world_to_camera" cannot be inverted'),
        (renamed, "elsewhere.png is not there, but"),
        (wide, r'view 0: "fx" is -1; it must be above 0'),
        (lambda content: {"views": content["views"][:1]}, "fewer than 2 views"),
        (lambda content: {"pictures": []}, 'neither a list "views" nor'),
    ],
)
def test_camera_files_that_cannot_be_used_say_why(tmp_path, views, change, words):
    folder, file = write_folder(tmp_path, *views, change)
    with pytest.raises((AssetError, ValueError), match=words):
        sculpt_folder(folder, file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda masks: masks.mul_(0), "00.png is empty"),
        (lambda masks: masks.fill_(1), "00.png is white all over"),
        (lambda masks: masks.neg_().add_(1), "look inverted"),
    ],
)
def test_masks_that_cannot_be_used_say_why(tmp_path, views, spoil, words):
    masks, cameras = views
    spoiled = masks.clone()
    spoil(spoiled)
    folder, file = write_folder(tmp_path, spoiled, cameras)
    with pytest.raises(AssetError, match=words):
        read_views(folder, file, None, 512)


def test_masks_and_images_must_have_one_size(tmp_path, views):
    folder, file = write_folder(tmp_path, *views)
    Image.new("L", (50, 40)).save(folder / "05.png")
    with pytest.raises(AssetError, match=r"05.png is 50x40 pixels and .*00.png 96x96"):
        read_views(folder, file, None, 512)


def test_views_from_one_side_alone_leave_the_depth_open():
    cameras = cameras_round(12)[0]
    two = Pinhole(
        cameras.world_to_camera.repeat(2, 1, 1),
        cameras.focal.repeat(2, 1),
        cameras.centre.repeat(2, 1),
        cameras.near.repeat(2),
    )
    masks = trace(ring_and_knob, cameras)
    with pytest.raises(ValueError, match="from other sides"):
        sculpt(torch.cat([masks, masks]), two, config=QUICK)


def test_the_command_says_a_mistake_in_one_line(tmp_path, views):
    folder, file = write_folder(tmp_path, *views, renamed)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "avatar.cli", "sculpt", "--masks", str(folder),
         "--cameras", str(file), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "elsewhere.png is not there" in line


def test_focal_lengths_of_transforms_follow_the_size_of_the_pictures(tmp_path):
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
    content = {"fl_x": 800, "cx": 410, "cy": 300, "w": 800, "h": 600, "frames": [frame, frame]}
    (tmp_path / "t.json").write_text(json.dumps(content))
    cameras = to_cameras(list(read_cameras(tmp_path / "t.json").views), (300, 400))
    torch.testing.assert_close(cameras.focal[0], torch.tensor([400.0, 400.0]))
    torch.testing.assert_close(cameras.centre[0], torch.tensor([205.0, 150.0]))
