"""An expression arrives on another head as it was, part by part as strong as was asked."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import av
import numpy as np
import pygltflib
import pytest
import torch
from scipy.spatial.transform import Rotation
from sphere_head import make_materials, make_sphere_head

from assets.errors import AssetError
from avatar.bundle import Avatar, Manifest
from avatar.expression_gains import Gains
from avatar.livelink import load_csv, save_csv
from avatar.motion import Motion
from avatar.motion_files import load_npz, save_npz
from avatar.posed import posed_head
from avatar.transfer import TransferSettings, in_arkit_order, transfer
from avatar.transfer_source import FaceReader, read_source, source_kind, still_motion
from flame.arkit import ARKIT_INDEX, ARKIT_NAMES
from flame.head import JOINT_PARENTS
from flame.load import load_head
from flame.params import Params, params_from_arkit

EXACT = {"atol": 0, "rtol": 0}


@pytest.fixture(scope="module")
def flame():
    return load_head()


def some_motion(generator, frames: int = 5, rate_hz: float = 30.0) -> Motion:
    weights = torch.rand(frames, 52, generator=generator)
    return Motion(rate_hz, weights, 0.3 * torch.randn(frames, 6, 3, generator=generator))


def numpy_pose(head, weights: np.ndarray, rotvecs: np.ndarray) -> np.ndarray:
    """The head's vertices by the formulas of glTF: morphs, then skinning by 4x4 matrices."""
    verts = head.verts.double().numpy().copy()
    for weight, morph in zip(weights, head.morphs.double().numpy(), strict=True):
        verts += weight * morph
    joints = head.joints.double().numpy()
    world = []
    for joint, parent in enumerate(JOINT_PARENTS):
        local = np.eye(4)
        local[:3, :3] = Rotation.from_rotvec(rotvecs[joint]).as_matrix()
        local[:3, 3] = joints[joint] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    posed = np.zeros_like(verts)
    for joint, matrix in enumerate(world):
        unbind = np.eye(4)
        unbind[:3, 3] = -joints[joint]
        moved = (matrix @ unbind @ np.c_[verts, np.ones(len(verts))].T).T[:, :3]
        posed += head.lbs_weights[:, joint : joint + 1].double().numpy() * moved
    return posed


# ---------------------------------------------------------------------------------------- heads


def test_the_posed_head_is_neutral_plus_shapes_then_skinned(generator):
    head, motion = make_sphere_head(), some_motion(generator, 1)
    posed = posed_head(head, motion.weights, motion.rotations)
    expected = numpy_pose(
        head, motion.weights[0].double().numpy(), motion.rotations[0].double().numpy()
    )
    np.testing.assert_allclose(posed.verts, expected, atol=2e-6)


def test_shapes_on_top_of_a_posed_head_add_to_its_expression(generator):
    head, motion = make_sphere_head(), some_motion(generator, 1)
    more = 0.3 * torch.rand(1, 52, generator=generator)
    posed = posed_head(head, motion.weights, motion.rotations)
    expected = head.pose(motion.weights + more, motion.rotations)
    torch.testing.assert_close(posed.pose(more, torch.zeros(1, 6, 3)), expected, atol=2e-6, rtol=0)


def test_a_heads_own_order_of_shapes_does_not_matter(generator):
    head, motion = make_sphere_head(), some_motion(generator, 1)
    order = torch.randperm(52, generator=generator)[:40]
    few = dataclasses.replace(
        head, morphs=head.morphs[order], morph_names=tuple(ARKIT_NAMES[k] for k in order)
    )
    known = torch.zeros(1, 52)
    known[:, order] = motion.weights[:, order]
    torch.testing.assert_close(
        in_arkit_order(few).pose(motion.weights, motion.rotations),
        head.pose(known, motion.rotations),
    )


# --------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("tilt_deg", [-35.0, 0.0, 20.0])
def test_a_head_tilted_in_the_picture_is_tilted_though_its_crop_is_upright(tilt_deg):
    params = dataclasses.replace(
        Params.zeros(1, 3, 52),
        root=torch.tensor([[0.2, -0.3, 0.05]]),
        neck=torch.tensor([[0.1, 0.0, 0.0]]),
    )
    # leaning to the viewer's right is clockwise in pixels, which the crop undoes
    angle = np.radians(tilt_deg)
    cosine, sine = 0.4 * np.cos(angle), 0.4 * np.sin(angle)
    crop = torch.tensor([[cosine, sine, 5.0], [-sine, cosine, 7.0], [0, 0, 1]]).float()
    turn = still_motion(params, crop).rotations[0].double().numpy()
    assert np.abs(turn[[0, 3, 4, 5]]).max() == 0
    found = Rotation.from_rotvec(turn[1]) * Rotation.from_rotvec(turn[2])
    seen = Rotation.from_rotvec([0.2, -0.3, 0.05]) * Rotation.from_rotvec([0.1, 0, 0])
    expected = Rotation.from_rotvec([0, 0, -angle]) * seen
    assert (found * expected.inv()).magnitude() < 1e-6


def test_an_npz_keeps_every_number_and_takes_columns_by_name(tmp_path, generator):
    motion = some_motion(generator, 7, 23.976)
    loaded = load_npz(save_npz(motion, tmp_path / "a.npz"))
    assert loaded.rate_hz == motion.rate_hz
    torch.testing.assert_close(loaded.weights, motion.weights, **EXACT)
    torch.testing.assert_close(loaded.rotations, motion.rotations, **EXACT)
    np.savez(
        tmp_path / "b.npz", rate_hz=23.976, weights=motion.weights.numpy()[:, ::-1],
        rotations=motion.rotations.numpy(), names=np.array(ARKIT_NAMES[::-1]),
    )  # fmt: skip
    torch.testing.assert_close(load_npz(tmp_path / "b.npz").weights, motion.weights, **EXACT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate_hz": None}, "lacks rate_hz"),
        ({"rate_hz": np.float64(0)}, "rate_hz=0"),
        ({"weights": np.zeros((4, 51))}, r"\(4, 51\)"),
        ({"weights": np.full((4, 52), np.nan)}, "NaN"),
        ({"names": np.array(["smile"] * 52)}, "names other columns"),
        ({"weights": np.array([{}])}, "no readable .npz"),
    ],
)
def test_an_npz_that_is_no_motion_is_one_sentence(tmp_path, change, words):
    arrays = {"rate_hz": 30.0, "weights": np.zeros((4, 52)), "rotations": np.zeros((4, 6, 3))}
    arrays = {name: array for name, array in (arrays | change).items() if array is not None}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(AssetError, match=words):
        load_npz(tmp_path / "a.npz")


def test_a_video_is_followed_and_its_sound_is_kept(tmp_path, monkeypatch, generator):
    import avatar.track
    from avatar.video import write_video
    from voice.audio import SAMPLE_RATE, Audio

    motion = some_motion(generator, 8, 16.0)
    monkeypatch.setattr(
        avatar.track, "track", lambda path, *, progress: SimpleNamespace(motion=motion)
    )
    tone = torch.sin(torch.arange(SAMPLE_RATE // 2) * (2 * np.pi * 440 / SAMPLE_RATE))[None]
    frames = [np.zeros((64, 64, 3), np.uint8)] * 8
    video = write_video(tmp_path / "a.mp4", frames, 16.0, Audio(0.5 * tone))
    Avatar(make_sphere_head(), tuple(make_materials()), {}, Manifest()).save(tmp_path / "sphere")
    settings = TransferSettings(size=64, fps=16)
    transfer(video, tmp_path / "sphere", out=tmp_path / "out", settings=settings)
    torch.testing.assert_close(load_npz(tmp_path / "out" / "motion.npz").weights, motion.weights)
    with av.open(str(tmp_path / "out" / "animation.mp4")) as film:
        rate = film.streams.audio[0].rate
        heard = np.concatenate([part.to_ndarray()[0] for part in film.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(heard[: rate // 2]))
    assert abs(int(spectrum.argmax()) * rate / (rate // 2) - 440) < 4
    assert heard.std() > 0.2


# --------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def avatar(tmp_path_factory, flame):
    """A small avatar of a laughing person, and its parameters."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.zeros(1, 52)
    for name in ("mouthSmileLeft", "mouthSmileRight", "jawOpen", "browInnerUp", "eyeLookOutLeft"):
        weights[:, ARKIT_INDEX[name]] = 0.2 + 0.5 * torch.rand((), generator=generator)
    params = params_from_arkit(torch.randn(1, flame.n_shape, generator=generator), weights)
    params = dataclasses.replace(params, root=torch.tensor([[0.1, 0.2, 0.05]]))
    head = flame.head(params.shape[0])
    materials = tuple(
        dataclasses.replace(make_materials()[0], name=name, normal=None, roughness=0.6)
        for name in head.material_names
    )
    codes = {name: getattr(params, name) for name in Params.__dataclass_fields__}
    folder = tmp_path_factory.mktemp("avatar")
    Avatar(head, materials, codes, Manifest()).save(folder)
    return folder, params, weights


def obj_verts(path) -> np.ndarray:
    rows = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("v ")]
    return np.array(rows, dtype=np.float64)


def test_an_avatar_onto_itself_is_itself(tmp_path, avatar, flame):
    folder, params, weights = avatar
    paths = transfer(folder, folder, out=tmp_path, settings=TransferSettings(size=64))
    assert all(path.is_file() for path in paths)
    assert {path.suffix for path in paths} >= {".glb", ".obj", ".npz", ".csv", ".jpg"}
    motion = load_npz(tmp_path / "motion.npz")
    torch.testing.assert_close(motion.weights, weights, atol=1e-6, rtol=0)
    # The same face by FLAME's own formulation, whose jaw turns where a morph goes straight: half
    # way to 25 degrees, 0.1 m from the joint, chord and arc are 2.4 mm apart.
    still = dataclasses.replace(params, root=torch.zeros(1, 3))
    expected = flame(still).verts[0].double().numpy()
    transfer(
        folder, folder, out=tmp_path / "b",
        settings=TransferSettings(gains=Gains(head=0.0), size=64),
    )  # fmt: skip
    found = obj_verts(tmp_path / "b" / "head.obj")
    apart = np.linalg.norm(found - expected, axis=1)
    assert apart.max() < 2.4e-3 and np.median(apart) < 3e-4


def test_a_still_in_glb_obj_and_numbers_is_one_face(tmp_path, avatar):
    folder, _, _ = avatar
    gains = Gains(mouth=0.5, jaw=0.25, head=0.5)
    transfer(folder, folder, out=tmp_path, settings=TransferSettings(gains=gains, size=64))
    motion = load_npz(tmp_path / "motion.npz")
    head = Avatar.load(folder).head
    expected = numpy_pose(
        head, motion.weights[0].double().numpy(), motion.rotations[0].double().numpy()
    )
    np.testing.assert_allclose(obj_verts(tmp_path / "head.obj"), expected, atol=2e-6)
    document = pygltflib.GLTF2().load(str(tmp_path / "head.glb"))
    skin = document.meshes[0].primitives[0]
    bounds = document.accessors[skin.attributes.POSITION]
    chosen = np.unique(head.polygons[head.material_ids == 0].clamp_min(0).numpy())
    np.testing.assert_allclose(bounds.max, expected[chosen].max(0), atol=2e-6)
    np.testing.assert_allclose(bounds.min, expected[chosen].min(0), atol=2e-6)
    assert not document.animations


def test_a_recording_becomes_motion_clip_and_video(tmp_path, generator):
    head, materials = make_sphere_head(), tuple(make_materials())
    Avatar(head, materials, {}, Manifest()).save(tmp_path / "sphere")
    motion = some_motion(generator, 16, 30.0)
    take = save_csv(motion, tmp_path / "take.csv")
    gains = Gains(brows=0.5, gaze=0.0)
    out = tmp_path / "out"
    settings = TransferSettings(gains=gains, size=64, fps=15, rate_hz=30)
    paths = transfer(take, tmp_path / "sphere", out=out, settings=settings)
    assert [path.name for path in paths] == [
        "head.glb",
        "motion.npz",
        "motion.csv",
        "animation.mp4",
    ]
    found = load_npz(out / "motion.npz")
    expected = motion.weights.numpy().copy()
    expected[:, [k for k, name in enumerate(ARKIT_NAMES) if name.startswith("brow")]] *= 0.5
    expected[:, [k for k, name in enumerate(ARKIT_NAMES) if name.startswith("eyeLook")]] = 0
    close, jaw = ARKIT_INDEX["mouthClose"], ARKIT_INDEX["jawOpen"]
    assert (expected[:, close] <= 1).all() and jaw != close
    np.testing.assert_allclose(found.weights, expected, atol=1e-6)
    np.testing.assert_allclose(
        load_csv(out / "motion.csv", rate_hz=30).weights, expected, atol=2e-6
    )
    with av.open(str(out / "animation.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (64, 64)
        assert sum(1 for _ in video.decode(stream)) == 8  # 16 frames at 30 a second last 8 at 15
    document = pygltflib.GLTF2().load(str(out / "head.glb"))
    (clip,) = document.animations
    sampler = clip.samplers[next(c.sampler for c in clip.channels if c.target.path == "weights")]
    view = document.bufferViews[document.accessors[sampler.output].bufferView]
    keys = np.frombuffer(
        document.binary_blob(), np.float32, document.accessors[sampler.output].count,
        view.byteOffset or 0,
    )  # fmt: skip
    np.testing.assert_allclose(keys.reshape(-1, 52), expected[::2], atol=1e-6)


def test_counting_from_the_first_frame_starts_at_rest(tmp_path, generator):
    Avatar(make_sphere_head(), tuple(make_materials()), {}, Manifest()).save(tmp_path / "sphere")
    take = save_npz(some_motion(generator, 3), tmp_path / "take.npz")
    settings = TransferSettings(relative_to="first", size=64)
    transfer(take, tmp_path / "sphere", out=tmp_path / "out", settings=settings)
    found = load_npz(tmp_path / "out" / "motion.npz")
    assert found.weights[0].abs().max() == 0 and found.weights[1].max() > 0.1
    assert found.rotations[0].abs().max() < 1e-6


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "none.jpg", "is not there"),
        (lambda folder: folder, "is a folder without avatar.json"),
        (lambda folder: _file(folder / "a.docx"), "is no source of an expression"),
        (lambda folder: _file(folder / "a.npz"), "no readable .npz"),
        (lambda folder: _file(folder / "a.csv"), "no column named like"),
        (lambda folder: _file(folder / "a.jpg"), "is not an image"),
        (lambda folder: _file(folder / "a.mp4"), "cannot be read as a video"),
    ],
)
def test_a_source_that_is_none_is_one_sentence_and_nothing_is_written(tmp_path, make, words):
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in")
    with pytest.raises(AssetError, match=words) as caught:
        transfer(source, out=tmp_path / "out")
    assert not re.search(r"\n", str(caught.value))
    assert not (tmp_path / "out").exists()


def _file(path):
    path.write_text("not what it is called\n")
    return path


def test_an_avatar_without_a_face_of_its_own_says_so(tmp_path):
    Avatar(make_sphere_head(), tuple(make_materials()), {}, Manifest()).save(tmp_path)
    with pytest.raises(AssetError, match="only avatars of photos have an expression"):
        read_source(tmp_path, FaceReader())
    assert source_kind(tmp_path) == "avatar"


def test_a_still_has_no_first_frame_to_count_from(tmp_path, avatar):
    with pytest.raises(ValueError, match="its first frame is itself"):
        transfer(avatar[0], out=tmp_path, settings=TransferSettings(relative_to="first"))


def test_a_recording_is_no_head(tmp_path, generator):
    take = save_npz(some_motion(generator, 3), tmp_path / "take.npz")
    with pytest.raises(AssetError, match="is no head; give an avatar's folder"):
        transfer(take, take, out=tmp_path / "out")
