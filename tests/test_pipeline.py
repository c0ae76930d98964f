"""The main job end to end, on the shipped models and a public-domain portrait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from assets.errors import AssetError
from avatar.bundle import Avatar
from avatar.config import CreateSettings
from avatar.pipeline import corners, create, read_points68
from deca.code_net import load_code_net
from deca.portrait import Portrait
from deca.reconstruct import locate
from flame.arkit import ARKIT_NAMES
from flame.load import load_head

SENTENCE = "My mother bought five apples."


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portrait") / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path


@pytest.fixture(scope="module")
def made(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hibari", reason="the extra `speech` is not installed")
    out = tmp_path_factory.mktemp("made")
    create(portrait, say=SENTENCE, out=out, settings=CreateSettings(size=128, fps=12))
    return out


def test_create_writes_everything_it_promises(made: Path) -> None:
    names = {path.name for path in made.iterdir()}
    promised = "portrait.png head.glb head.obj head.mtl head.png speech.wav talk.glb talk.mp4"
    assert {*promised.split(), "preview.png", "avatar.json"} <= names


def test_the_avatar_loads_as_it_was_saved_and_says_how_it_was_made(made: Path) -> None:
    avatar = Avatar.load(made)
    assert avatar.head.morph_names == ARKIT_NAMES
    assert torch.isfinite(avatar.head.verts).all()
    manifest = avatar.manifest
    assert manifest.ai_generated
    names = {model.name for model in manifest.models}
    assert {"head", "outfit", "landmarks", "speech: hibari", "voice: hibari's own"} <= names
    assert all(stage.seconds >= 0 for stage in manifest.stages)
    assert set(manifest.inputs) == {"photo"}


def test_the_fit_meets_its_points_on_a_real_photo(made: Path) -> None:
    codes = Avatar.load(made).codes
    points = codes["landmarks2d"]
    between_eyes = (points[36:42].mean(0) - points[42:48].mean(0)).norm()
    assert codes["landmark_error_px"].mean() < 0.05 * between_eyes
    # where the eyes and the mouth are in that photo, read off it by eye
    for index, place in (
        (slice(36, 42), (200, 103)),
        (slice(42, 48), (251, 103)),
        (slice(48, 60), (226, 155)),
    ):
        assert (points[index].mean(0) - torch.tensor(place)).norm() < 12


def test_skin_texture_has_no_black_and_no_holes(made: Path) -> None:
    texture = np.asarray(Image.open(made / "head.png").convert("RGB"), dtype=np.float32) / 255
    assert texture.shape == (1024, 1024, 3)
    assert np.quantile(texture.mean(-1), 0.001) > 0.02


def test_the_clip_lasts_as_long_as_its_sound(made: Path) -> None:
    import av

    with av.open(str(made / "talk.mp4")) as clip:
        picture = clip.streams.video[0]
        assert picture.frames > 10
        shown = picture.frames / float(picture.average_rate or 1)
    import soundfile

    assert abs(shown - soundfile.info(made / "speech.wav").duration) < 0.2


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((256, 256, 3), 128, np.uint8), "no face"),
        (np.zeros((8, 8, 3), np.uint8), "pixels"),
    ],
)
def test_a_picture_without_a_usable_face_is_refused_in_one_sentence(
    picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], words: str, tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "picture.png")
    with pytest.raises((ValueError, AssetError), match=words) as caught:
        create(tmp_path / "picture.png", out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_faces_are_refused_in_one_sentence(tmp_path: Path) -> None:
    face = data.astronaut()[:300, 80:380]
    Image.fromarray(np.concatenate([face, face], axis=1)).save(tmp_path / "two.png")
    with pytest.raises(ValueError, match="faces"):
        create(tmp_path / "two.png", out=tmp_path / "out")


def test_a_box_given_by_the_user_is_where_the_fit_looks() -> None:
    assert corners((10.0, 20.0, 30.0, 40.0)) == (10.0, 20.0, 40.0, 60.0)
    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    # the face in pixels as x, y, width, height
    found = locate(
        Portrait(image, "astronaut", ""),
        load_head(),
        load_code_net(),
        box=corners((176.0, 70.0, 100.0, 110.0)),
    )
    assert found.detection.backend == "box" and found.sure
    assert (found.points[30] - torch.tensor([226.0, 128.0])).norm() < 15  # the tip of the nose


def test_points_files_are_read_or_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.txt"
    np.savetxt(good, np.arange(136).reshape(68, 2))
    assert read_points68(good).shape == (1, 68, 2)
    bad = tmp_path / "bad.txt"
    bad.write_text("1 2\n3 4\n")
    with pytest.raises(AssetError, match="68 lines"):
        read_points68(bad)
