"""`avatar reconstruct`: what it writes for a known head, batches with bad pictures, models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from published import write_models
from scipy.io import loadmat

from assets.errors import AssetError
from avatar.face_models import FaceModel, FaceReading, NoFaceError, ShippedModel, open_model
from avatar.official_models import OfficialModel, read_mix
from avatar.reconstruct import Outcome, ReconstructSettings, reconstruct
from avatar.reconstruct_looks import OUTPUTS
from deca.codes import Codes
from deca.crop import crop_square
from deca.encode import Encoding, Framing
from deca.guess import Guess
from deca.landmarks import Landmarks
from deca.official_codes import BEST_OF, Mix
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera
from flame.light import sh_constant
from flame.load import load_head
from flame.official import load_flame
from flame.params import Params, params_from_arkit
from flame.rotation import axis_angle_to_matrix

SIDE, CROP = 200, 112  # px of the picture and of the crop in it
CORNER = (50.0, 40.0)  # of the crop's square in the picture
SQUARE = 100.0


class Known(ShippedModel):
    """A model that always sees the same head, and none in dark pictures."""

    def __init__(self) -> None:
        self.flame = load_head()
        self._faces = self.flame.topology.faces()
        weights = torch.zeros(1, 52)
        for name, weight in (("mouthSmileLeft", 0.8), ("jawOpen", 0.4), ("eyeLookInLeft", 0.5)):
            weights[0, ARKIT_INDEX[name]] = weight
        shape = torch.linspace(-1, 1, 30)[None]
        self.params = params_from_arkit(shape, weights)
        self.params.root.copy_(torch.tensor([[0.1, 0.35, -0.05]]))
        self.params.neck.copy_(torch.tensor([[0.0, 0.1, 0.0]]))
        self.camera = Camera(
            torch.tensor([6.5]), torch.tensor([[-0.01, 0.02]]), torch.tensor([12.0])
        )

    def find(self, image: torch.Tensor) -> list[torch.Tensor]:
        if float(image.mean()) < 0.1:
            raise NoFaceError("no face was found in the picture")
        return [torch.tensor([60.0, 50.0, 140.0, 130.0]), torch.tensor([0.0, 0.0, 30.0, 30.0])]

    def find_all(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.find(image)

    def read(self, image, box=None, *, refined=False, cropped=False) -> FaceReading:
        _, warnings = self._chosen(image, box, cropped)
        center = torch.tensor(CORNER) + SQUARE / 2
        crop = crop_square(image, center, SQUARE, CROP)
        light = sh_constant(torch.ones(1, 3))
        codes = Codes(self.params, torch.zeros(1, 43), self.camera, light)
        with torch.no_grad():
            marks = self.flame.landmarks68(self.flame(self.params).verts)
        seen = crop.picture_points(self.camera.project(marks, (CROP, CROP))[..., :2])
        points = Landmarks(seen[:, :0], seen[:, :0, 0], seen, torch.ones(1, 68), 0.9, 0.0)
        guess = Guess(self.params, self.camera, torch.ones(30), torch.ones(52))
        encoding = Encoding(codes, crop, points, Framing(center, SQUARE, 0.0), guess)
        return self._reading(codes, encoding, {"encode": 0.1}, warnings)


@pytest.fixture(scope="module")
def model() -> Known:
    return Known()


def photo(path: Path, grey: int = 150) -> Path:
    Image.effect_noise((SIDE, SIDE), 20).point(lambda v: v * grey // 128).convert("RGB").save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]


def test_the_arrays_are_the_head_without_its_pose_and_the_person_at_rest(model, tmp_path):
    reconstruct([photo(tmp_path / "one.png")], tmp_path / "out", model=model)
    with np.load(tmp_path / "out" / "one.npz", allow_pickle=False) as file:
        found = {
            name: torch.from_numpy(file[name])
            for name in file.files
            if file[name].dtype.kind != "U"
        }
    params, flame = model.params, model.flame
    straight = Params(params.shape, params.expression, 0 * params.root, 0 * params.neck,
                      params.jaw, params.eyes)  # fmt: skip
    with torch.no_grad():
        turned = Params(params.shape, params.expression, params.root, 0 * params.neck,
                        params.jaw, params.eyes)  # fmt: skip
        posed = flame(turned)
    # undoing the root's turn by hand gives the written head
    turn, root = axis_angle_to_matrix(params.root)[0], posed.joints[0, 0]
    undone = (posed.verts[0] - root) @ turn + root
    torch.testing.assert_close(found["vertices"], undone, atol=2e-6, rtol=0)
    basis = flame.shapedirs[: params.shape.shape[1]].double()
    rest = flame.template.double() + torch.einsum("s,svk->vk", params.shape[0].double(), basis)
    torch.testing.assert_close(found["neutral_vertices"].double(), rest, atol=2e-6, rtol=0)
    marks = found["landmarks"]
    corners = found["vertices"][flame.topology.landmark_verts]
    torch.testing.assert_close(
        marks, (corners * flame.topology.landmark_bary[..., None]).sum(1), atol=1e-6, rtol=0
    )
    assert found["faces"].max() < len(found["vertices"]) and found["faces"].shape[1] == 3
    assert straight.jaw.equal(found["jaw"][None]) and found["arkit"].shape == (52,)
    assert float(found["arkit"][ARKIT_INDEX["jawOpen"]]) == pytest.approx(0.4, abs=1e-5)


def test_the_camera_in_the_file_puts_the_head_onto_the_picture(model, tmp_path):
    reconstruct([photo(tmp_path / "one.png")], tmp_path / "out", model=model)
    with np.load(tmp_path / "out" / "one.npz") as file:
        found = {name: file[name] for name in file.files}
    scale, (dx, dy) = found["camera_scale"], found["camera_shift"]
    nearness = scale * np.tan(np.radians(found["camera_fov_deg"]) / 2)
    with torch.no_grad():
        marks = model.flame.landmarks68(model.flame(model.params).verts)[0].numpy()
    w = 1 - marks[:, 2] * nearness
    side = found["crop_side"]
    crop = np.stack([(scale * (marks[:, 0] + dx) / w + 1) * side / 2,
                     (1 - scale * (marks[:, 1] + dy) / w) * side / 2, np.ones(68)])  # fmt: skip
    picture = (np.linalg.inv(found["crop_from_image"]) @ crop)[:2].T
    np.testing.assert_allclose(picture, found["landmarks2d"], atol=2e-3)
    assert CORNER[0] < picture[30, 0] < CORNER[0] + SQUARE


def test_a_batch_goes_past_bad_pictures_and_tells_of_each(model, tmp_path):
    photo(tmp_path / "good.png")
    photo(tmp_path / "dark.png", grey=2)
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "none").mkdir()
    paths = [tmp_path / n for n in ("torn.png", "dark.png", "none", "gone.jpg", "good.png")]
    outcomes = reconstruct(paths, tmp_path / "out", model=model)
    assert [one.status for one in outcomes] == ["failed", "no face", "failed", "failed", "ok"]
    written = lines(tmp_path / "out")
    assert [one["status"] for one in written] == [one.status for one in outcomes]
    assert [one["file"] for one in written] == [str(path) for path in paths]
    assert "damaged" in written[0]["reason"] and "no face" in written[1]["reason"]
    assert written[4]["reason"] is None and written[4]["seconds"]["encode"] == 0.1
    assert written[4]["files"] == ["good.npz"] and len(written[4]["box"]) == 4
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"good.npz", "report.jsonl"}


def test_whatever_a_picture_does_to_the_code_the_next_one_is_read(model, tmp_path, monkeypatch):
    photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    plain = Known.read
    calls = []

    def trips(self, image, *given, **named):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("singular\nmatrix")
        return plain(self, image, *given, **named)

    monkeypatch.setattr(Known, "read", trips)
    outcomes = reconstruct([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "o", model=model)
    assert [(one.status, one.reason) for one in outcomes] == [
        ("failed", "singular matrix"), ("ok", None),
    ]  # fmt: skip


def test_a_run_that_is_broken_off_leaves_its_report(model, tmp_path, monkeypatch):
    photo(tmp_path / "a.png"), photo(tmp_path / "b.png")
    plain = Known.read

    def stops(self, image, *given, **named):
        if (tmp_path / "o" / "a.npz").exists():
            raise KeyboardInterrupt
        return plain(self, image, *given, **named)

    monkeypatch.setattr(Known, "read", stops)
    with pytest.raises(KeyboardInterrupt):
        reconstruct([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "o", model=model)
    assert [one["stem"] for one in lines(tmp_path / "o")] == ["a"]


def test_several_faces_the_largest_with_a_warning_or_all(model, tmp_path):
    photo(tmp_path / "crowd.png")
    (one,) = reconstruct([tmp_path / "crowd.png"], tmp_path / "o1", model=model)
    assert "2 faces" in one.warnings[0] and "--faces all" in one.warnings[0]
    every = ReconstructSettings(faces="all")
    both = reconstruct([tmp_path / "crowd.png"], tmp_path / "o2", every, model=model)
    assert [one.stem for one in both] == ["crowd", "crowd_face2"]
    assert {p.name for p in (tmp_path / "o2").glob("*.npz")} == {"crowd.npz", "crowd_face2.npz"}
    boxed = ReconstructSettings(box=(10.0, 10.0, 90.0, 90.0))
    (one,) = reconstruct([tmp_path / "crowd.png"], tmp_path / "o3", boxed, model=model)
    assert one.status == "ok" and not one.warnings
    outside = ReconstructSettings(box=(900.0, 10.0, 90.0, 90.0))
    (one,) = reconstruct([tmp_path / "crowd.png"], tmp_path / "o4", outside, model=model)
    assert one.status == "failed" and "outside the 200x200 picture" in (one.reason or "")


def test_every_output_is_written_and_opens_elsewhere(model, tmp_path):
    photo(tmp_path / "my face.png")
    settings = ReconstructSettings(save=frozenset(OUTPUTS), original_size=True, size=96)
    (one,) = reconstruct([tmp_path / "my face.png"], tmp_path / "out", settings, model=model)
    assert one.status == "ok", one.reason
    # one file a name, all there; what could not be made is told
    assert len(set(one.files)) == len(one.files)
    assert all((tmp_path / "out" / name).is_file() for name in one.files)
    assert any(name.endswith("detail.obj") for name in one.files)
    assert not any("could not be written" in note for note in one.warnings)
    inner = tmp_path / "out" / "my face"
    for name in ("inputs", "shape_images", "rendered_images", "albedo_images", "landmarks3d"):
        assert size_of(inner / f"my face_{name}.jpg") == (96, 96)
    assert size_of(inner / "my face_original_shape.jpg") == (SIDE, SIDE)
    assert size_of(tmp_path / "out" / "my face_vis.jpg")[0] > 5 * 96
    flat = np.loadtxt(inner / "my face_kpt2d.txt")
    deep = np.loadtxt(inner / "my face_kpt3d.txt")
    assert flat.shape == (68, 2) and deep.shape == (68, 4) and set(deep[:, 3]) <= {0, 1}
    np.testing.assert_allclose(flat, deep[:, :2], atol=2e-3)  # this model sees its own points
    # the face is turned to the viewer's right: its left ear's side is the hidden one
    assert deep[30, 2] < deep[:17, 2].min() and deep[16, 3] <= deep[0, 3]
    with np.load(tmp_path / "out" / "my face.npz") as file:
        verts, rest = file["vertices"], file["neutral_vertices"]
    scene = trimesh.load(inner / "my-face.obj", process=False)
    places = np.concatenate([part.vertices for part in scene.geometry.values()])
    np.testing.assert_allclose(
        [places.min(0), places.max(0)], [verts.min(0), verts.max(0)], atol=1e-5
    )
    assert all(part.visual.material.image is not None for part in scene.geometry.values())
    glb = trimesh.load(inner / "my face.glb", process=False)
    np.testing.assert_allclose(glb.bounds, [rest.min(0), rest.max(0)], atol=1e-5)
    content = (inner / "my face.glb").read_bytes()
    told = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert told["animations"][0]["name"] == "expression"
    matlab = loadmat(inner / "my face.mat")
    np.testing.assert_array_equal(matlab["vertices"], verts)
    assert matlab["model"][0] == "shipped"


def test_settings_that_contradict_each_other_are_refused():
    for given, words in (
        ({"model": "deca", "refine": True}, "refine works with"),
        ({"save": frozenset({"pdf"})}, "save=pdf is not known"),
        ({"faces": "all", "box": (0.0, 0.0, 9.0, 9.0)}, "a box holds one face"),
        ({"box": (0.0, 0.0, 0.0, 9.0)}, "width and a height above 0"),
        ({"sample_step": 0}, "sample_step=0"),
        ({"size": 8}, "from 64 to 2048"),
    ):
        with pytest.raises(ValueError, match=words):
            ReconstructSettings(**given)


def test_names_of_models_share_the_work():
    assert read_mix("deca") == Mix() and read_mix("mica") is None
    assert read_mix("MICA+EMOCA+DECA") == BEST_OF
    shared = read_mix("smirk+deca")
    assert shared is not None
    assert (shared.expression, shared.jaw, shared.eyelids) == ("smirk", "smirk", "smirk")
    assert (shared.shape, shared.camera, shared.root, shared.detail) == ("deca",) * 4
    assert read_mix("mica shape + smirk") == Mix.read("mica shape + smirk")
    for name, words in (("mica+mica", "twice"), ("nonsense", "nonsense"), ("deca+", "begin with")):
        with pytest.raises(ValueError, match=words):
            read_mix(name)


@pytest.mark.parametrize(
    ("name", "file"),
    [("deca", "deca_model.tar"), ("mica+emoca+deca", "deca_model.tar"), ("smirk", "SMIRK_em1.pt")],
)
def test_a_missing_model_is_named_with_its_place(name, file, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    with pytest.raises(AssetError, match=f"{tmp_path}.*is missing.*put it there") as raised:
        open_model(name)
    assert file in str(raised.value)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's folder with made-up FLAME and SMIRK files."""
    return write_models(tmp_path_factory.mktemp("home"))


def test_a_published_model_writes_the_same_files(home, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(home))
    model = open_model("smirk")
    monkeypatch.setattr(FaceModel, "find", lambda self, image: [torch.tensor([50.0, 40, 150, 140])])
    photo(tmp_path / "one.png")
    settings = ReconstructSettings(
        model="smirk", save=frozenset({"vis", "kpt", "obj", "detail", "albedo"}), size=96
    )
    (one,) = reconstruct([tmp_path / "one.png"], tmp_path / "out", settings, model=model)
    assert one.status == "ok", one.reason
    assert any("smirk gives none" in note for note in one.warnings)
    assert any("no albedo" in note for note in one.warnings)
    with np.load(tmp_path / "out" / "one.npz") as file:
        found = {name: file[name] for name in file.files}
    assert found["vertices"].shape == found["neutral_vertices"].shape == (5023, 3)
    assert found["faces"].shape == (9976, 3) and found["eyelids"].shape == (2,)
    codes = {name: torch.from_numpy(found[name])[None] for name in ("shape", "expression", "jaw")}
    still = torch.zeros(1, 3)
    flame = load_flame(home / "flame" / "generic_model.pkl")
    params = Params(codes["shape"], codes["expression"], still, still, codes["jaw"],
                    torch.zeros(1, 2, 3))  # fmt: skip
    with torch.no_grad():
        wanted = flame(params, torch.from_numpy(found["eyelids"])[None]).verts[0]
    np.testing.assert_allclose(found["vertices"], wanted.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="shipped model only"):
        model.read(torch.rand(1, 3, 200, 200), refined=True)


def test_micas_pose_comes_from_the_points(home, monkeypatch):
    model = object.__new__(OfficialModel)
    model.official_flame = load_flame(home / "flame" / "generic_model.pkl")
    shape = 0.5 * torch.ones(1, 300)
    rest = Params.zeros(1, 300, 50)
    root = torch.tensor([[0.2, -0.4, 0.1]])
    with torch.no_grad():
        verts = model.official_flame(
            Params(shape, rest.expression, root, rest.neck, rest.jaw, rest.eyes)
        ).verts
        marks = model.official_flame.landmarks68(verts)
    camera = Camera(torch.tensor([7.0]), torch.tensor([[0.012, -0.03]]), torch.zeros(1))
    seen = camera.project(marks, (224, 224))[0, :, :2]
    codes = model._placed(shape, seen, 224)
    torch.testing.assert_close(codes.root, root, atol=2e-4, rtol=0)
    torch.testing.assert_close(codes.camera, torch.tensor([[7.0, 0.012, -0.03]]), atol=2e-3, rtol=0)


def test_a_line_of_the_report_is_json_in_the_files_own_letters():
    line = Outcome("Bäcker 写真.jpg", "Bäcker 写真", "failed", "shipped", {}, "why").line()
    assert "写真" in line and json.loads(line)["reason"] == "why" and "\n" not in line


def test_the_command_ends_with_1_where_nothing_succeeded_and_2_for_a_mistake(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "avatar.cli", "reconstruct", *arguments],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "AVATAR_HOME": str(tmp_path / "home")},
        )

    out = ("--out", str(tmp_path / "out"))
    wrong = run("x.png", *out, "--save", "pdf")
    assert wrong.returncode == 2 and wrong.stderr.startswith("avatar: save=pdf")
    missing = run("x.png", *out, "--model", "smirk")
    assert missing.returncode == 2 and "SMIRK_em1.pt is missing" in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
