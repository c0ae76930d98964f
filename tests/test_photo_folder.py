"""Folders of photos as training batches: subjects, landmarks that are kept, masks, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_photos import SIDE, Told, tiny_photo_set, tiny_shots, write_photos

from assets.errors import AssetError
from deca.photo_folder import CropDraw, PhotoSet, open_photos
from deca.photo_settings import defaults, read_photo_settings
from deca.train import main


@pytest.fixture(scope="module")
def shots():
    return tiny_shots()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def photos(folder, shots, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return open_photos(folder, Told(shots), labeller_name="truth", cache=cache)


@pytest.fixture(scope="module")
def batch(photos):
    return tiny_photo_set(photos).batch(0, 2, 2)


def test_points_masks_and_pictures_are_cropped_together(photos, shots, batch):
    assert [photo.subject for photo in photos] == ["person0", "person0", "person1", "person1"]
    assert batch.images.shape == (4, 3, SIDE, SIDE) and batch.points.shape == (4, 68, 2)
    # eyes are level, and the face fills the crop
    eyes = batch.points[:, 42:48].mean(1) - batch.points[:, 36:42].mean(1)
    torch.testing.assert_close(eyes[:, 1], torch.zeros(4), atol=1e-4, rtol=0)
    both = torch.cat([batch.points, batch.dense], dim=1)
    extent = (both.amax(1) - both.amin(1)).amax(1) / 2
    assert bool((extent > 0.85).all()) and bool((extent < 1.0).all())
    # the skin is inside of the outline, the wall is not
    assert bool((batch.masks.mean((1, 2, 3)) > 0.1).all())
    assert batch.masks[..., 0, 0].max() == 0


def test_a_step_shows_the_same_photos_whatever_ran_before_it(photos):
    one = PhotoSet(photos, CropDraw(SIDE, True), seed=3)
    two = PhotoSet(photos, CropDraw(SIDE, True), seed=3)
    for step in range(5):
        one.choose(step, 1, 2)
    assert [(p.path, s) for p, s in one.choose(5, 1, 2)] == [
        (p.path, s) for p, s in two.choose(5, 1, 2)
    ]
    seen = {photo.subject for step in (0, 1) for photo, _ in one.choose(step, 1, 2)}
    assert seen == {"person0", "person1"}  # an epoch shows everybody
    scales = [scale for step in range(50) for _, scale in one.choose(step, 2, 2)]
    assert 1.4 <= min(scales) < 1.45 and 1.75 < max(scales) <= 1.8


def test_landmarks_are_found_once_and_again_for_another_labeller(folder, shots, tmp_path):
    told = Told(shots)
    open_photos(folder, told, labeller_name="a", cache=tmp_path)
    again = open_photos(folder, told, labeller_name="a", cache=tmp_path)
    assert told.asked == 4
    torch.testing.assert_close(again[3].face.points, shots[1][1].points)
    (tmp_path / "person0" / "0.npz").write_bytes(b"half a file")
    told.asked = 0
    open_photos(folder, told, labeller_name="a", cache=tmp_path)
    assert told.asked == 1
    told.asked = 0
    open_photos(folder, told, labeller_name="b", cache=tmp_path)
    assert told.asked == 4


def test_points_by_hand_and_masks_from_files_go_first(shots, folder, tmp_path):
    top, masks = tmp_path / "photos", tmp_path / "masks"
    for name in ("a", "b"):
        (top / name).mkdir(parents=True)
        (masks / name).mkdir(parents=True)
        image = Image.open(folder / "person0" / "0.jpg")
        image.save(top / name / "x.png")
        Image.new("L", image.size, 255).save(masks / name / "x.png")
    np.savetxt(top / "a" / "x.txt", shots[0][0].points[:68].numpy())
    found = open_photos(top, Told(shots), labeller_name="t", masks=masks)
    assert [photo.face.outline for photo in found] == [True, False]
    batch = PhotoSet(found, CropDraw(SIDE, False, (2.0, 2.0)), seed=0).batch(0, 2, 1)
    by_hand = int(batch.outline.nonzero()[0, 0])
    assert float(batch.dense_visibility[by_hand].max()) == 0
    assert float(batch.dense_visibility[1 - by_hand].max()) == 1
    assert float(batch.masks[..., SIDE // 2, SIDE // 2].min()) == 1


def test_what_cannot_be_used_is_said_in_a_sentence(folder, shots, tmp_path):
    def blind(image):
        return "no face was found"

    with pytest.raises(AssetError, match="is no folder"):
        open_photos(tmp_path / "nowhere", blind, labeller_name="a")
    with pytest.raises(AssetError, match="holds no pictures"):
        open_photos(tmp_path, blind, labeller_name="a")
    with pytest.raises(AssetError, match=r"none of the 4 pictures .* no face was found"):
        open_photos(folder, blind, labeller_name="a", cache=tmp_path, skipped=tmp_path / "s.csv")
    assert "person1/1.jpg,no face was found" in (tmp_path / "s.csv").read_text()
    found = open_photos(folder, Told(shots), labeller_name="t", cache=tmp_path)
    alone = PhotoSet([found[0], found[2]], CropDraw(SIDE, True), seed=0)
    with pytest.raises(AssetError, match="has one usable picture"):
        alone.require_pairs(folder)
    with pytest.raises(AssetError, match="every picture needs its mask"):
        open_photos(folder, blind, labeller_name="t", cache=tmp_path, masks=tmp_path)


def test_the_command_ends_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["coarse", "--photos", str(tmp_path / "nowhere"), "--cpu"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is no folder" in error


def test_settings_are_the_published_ones_and_files_change_them(tmp_path):
    coarse, detail = defaults("coarse"), defaults("detail")
    assert (coarse.subjects, coarse.pictures, coarse.learning_rate) == (8, 2, 1e-4)
    assert (detail.subjects, detail.pictures) == (6, 3)
    first = defaults("coarse", pretrain=True)
    assert (first.subjects, first.pictures, first.pixels, first.consistency) == (
        64,
        1,
        False,
        False,
    )
    path = tmp_path / "settings.toml"
    path.write_text("steps = 7\nscale = [1.3, 1.5]\ndecay = 'cosine'\n[coarse]\nlip = 2\n")
    read = read_photo_settings(path, coarse)
    assert (read.steps, read.scale, read.coarse.lip, read.coarse.eye) == (7, (1.3, 1.5), 2.0, 1.0)
    assert read.rate(0) == 1e-4 and read.rate(7) == pytest.approx(0, abs=1e-12)
    for text, words in (
        ("speed = 1", "unknown speed; known are steps"),
        ("[coarse]\nlips = 1.0", r"unknown coarse\.lips; known are coarse\.landmark"),
        ("steps = 'many'", "must be of the kind int"),
        ("precision = 'fp8'", "use no, bf16"),
        ("pictures = 1", "leaves nothing to swap"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_photo_settings(path, coarse)
