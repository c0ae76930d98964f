"""Meshes from silhouettes and from folders of them; the objects are formulas."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from traced_shapes import SIDE, cameras_round, elbow, euler, is_closed, ring_and_knob, trace

from assets.errors import AssetError
from avatar.camera_file import read_cameras, to_cameras
from avatar.sculpt import SculptSettings, read_views, sculpt_folder
from flame.pinhole import Pinhole
from flame.sculpt import SculptConfig, sculpt, silhouette_iou

QUICK = SculptConfig(n_verts=2000, steps=24)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # tensors as small as these cost threads more than they save
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def seen(shape):
    cameras = cameras_round(12)
    return trace(shape, cameras), cameras


@functools.cache
def fitted(shape):
    return sculpt(*seen(shape), config=QUICK)


@pytest.fixture(scope="module")
def views():
    return seen(ring_and_knob)


@pytest.mark.parametrize(("shape", "characteristic"), [(ring_and_knob, 0), (elbow, 2)])
def test_a_fitted_object_covers_masks_that_it_never_saw(shape, characteristic):
    result = fitted(shape)
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
    result = fitted(ring_and_knob)
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
