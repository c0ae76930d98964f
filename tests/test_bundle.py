"""An avatar's folder gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from assets.errors import AssetError
from assets.files import sha256_of
from avatar import bundle
from avatar.bundle import Avatar, Manifest, ModelUse
from avatar.progress import Stage
from flame.head import JOINT_NAMES, Head
from flame.material import Material


@pytest.fixture
def avatar(generator):
    """A pyramid: a quad and four triangles, two materials, two morphs."""
    joints = len(JOINT_NAMES)
    polygons = torch.tensor(
        [[0, 3, 2, 1], [0, 1, 4, -1], [1, 2, 4, -1], [2, 3, 4, -1], [3, 0, 4, -1]]
    )
    head = Head(
        verts=torch.randn(5, 3, generator=generator),
        polygons=polygons,
        uv=torch.rand(5, 2, generator=generator),
        uv_polygons=polygons.clone(),
        material_ids=torch.tensor([0, 1, 1, 1, 1]),
        material_names=("skin", "tête/歯"),
        morphs=torch.randn(2, 5, 3, generator=generator),
        morph_names=("jawOpen", "tongueOut"),
        joints=torch.randn(joints, 3, generator=generator),
        lbs_weights=torch.full((5, joints), 1 / joints),
    )
    skin = Material(
        "skin",
        torch.rand(3, 8, 8, generator=generator),
        normal=torch.rand(3, 4, 6, generator=generator),
        roughness=torch.rand(1, 2, 2, generator=generator),
    )
    teeth = Material(
        "tête/歯",
        torch.rand(4, 4, 4, generator=generator),
        roughness=0.25,
        alpha_mode="MASK",
        alpha_cutoff=0.3,
        double_sided=True,
    )
    manifest = Manifest(
        inputs={"photo": "a" * 64},
        seeds={"create": 3},
        models=(ModelUse("head", "MIT", "b" * 64, "USC ICT"),),
        stages=(Stage("fit", 1.5, 300.0), Stage("render", 0.1, None)),
        warnings=("two faces; the larger was taken",),
    )
    codes = {"shape": torch.randn(1, 100, generator=generator), "box": torch.tensor([1, 2, 3, 4])}
    return Avatar(head, (skin, teeth), codes, manifest)


def assert_same(one, other):
    """Equal in every field, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif dataclasses.is_dataclass(one):
        for entry in dataclasses.fields(one):
            assert_same(getattr(one, entry.name), getattr(other, entry.name))
    else:
        assert one == other


def test_what_is_loaded_is_what_was_saved(avatar, tmp_path):
    assert_same(Avatar.load(avatar.save(tmp_path / "deep" / "ada")), avatar)


def test_textures_are_within_half_a_step_of_those_given(avatar, generator):
    given = torch.rand(3, 8, 8, generator=generator)
    (material,) = dataclasses.replace(avatar, materials=(Material("skin", given),)).materials
    assert (material.base_color - given).abs().max() <= 0.5 / 255 + 1e-6


def test_saving_again_leaves_other_files_and_no_old_parts(avatar, tmp_path):
    (tmp_path / "talk.mp4").write_bytes(b"film")
    avatar.save(tmp_path)
    first = {path.name for path in (tmp_path / "parts").iterdir()}
    changed = dataclasses.replace(avatar, codes={"shape": torch.zeros(1, 2)})
    changed.save(tmp_path)
    second = {path.name for path in (tmp_path / "parts").iterdir()}
    assert len(first) == len(second) == 5  # tensors, three textures of skin, one of teeth
    assert len(first & second) == 4  # textures did not change
    assert (tmp_path / "talk.mp4").read_bytes() == b"film"
    assert_same(Avatar.load(tmp_path), changed)


def test_an_avatar_cut_off_while_saving_leaves_the_old_one_whole(avatar, tmp_path, monkeypatch):
    avatar.save(tmp_path)
    changed = dataclasses.replace(avatar, codes={"shape": torch.zeros(1, 2)})

    def pulls_the_plug(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "_write", pulls_the_plug)
    with pytest.raises(KeyboardInterrupt):
        changed.save(tmp_path)
    assert_same(Avatar.load(tmp_path), avatar)
    assert not list(tmp_path.glob(".*"))


def test_the_manifest_tells_other_programs_what_made_the_avatar(avatar, tmp_path):
    avatar.save(tmp_path)
    stored = json.loads((tmp_path / "avatar.json").read_text(encoding="utf-8"))
    assert stored["format_version"] == 1
    assert stored["ai_generated"] is True
    assert stored["digital_source_type"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert stored["models"][0]["licence"] == "MIT"
    assert stored["stages"][0] == {"name": "fit", "seconds": 1.5, "peak_mb": 300.0}


def test_files_are_listed_with_their_checksums_and_the_avatar_stays(avatar, tmp_path):
    avatar.save(tmp_path)
    (tmp_path / "head.glb").write_bytes(b"glTF")
    listed = Manifest.read(tmp_path).with_files(tmp_path, [tmp_path / "head.glb"])
    listed.write(tmp_path)
    assert Manifest.read(tmp_path) == listed
    assert listed.files == {"head.glb": sha256_of(tmp_path / "head.glb")}
    assert_same(Avatar.load(tmp_path), dataclasses.replace(avatar, manifest=listed))


def test_a_changed_or_missing_part_is_named(avatar, tmp_path):
    avatar.save(tmp_path)
    part = next((tmp_path / "parts").glob("skin-base_color-*"))
    part.write_bytes(part.read_bytes() + b"x")
    with pytest.raises(AssetError, match=r"skin-base_color.*damaged"):
        Avatar.load(tmp_path)
    part.unlink()
    with pytest.raises(AssetError, match=r"skin-base_color.*missing"):
        Avatar.load(tmp_path)


def rewrite(folder, **changes):
    path = folder / "avatar.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "format version 2.*reads up to 1; upgrade"),
        ({"format": "other"}, "not an avatar's manifest"),
        ({"mood": "good"}, "unknown key mood; known are inputs"),
        ({"seeds": {"create": "three"}}, "seeds.create = 'three' must be of type int"),
        ({"models": [{"name": "head"}]}, "models lacks the keys licence, sha256"),
        ({"parts": {}}, "does not describe a whole avatar"),
        ({"parts": None}, "lists no avatar"),
    ],
)
def test_a_manifest_that_cannot_be_trusted_is_refused_in_one_sentence(
    avatar, tmp_path, changes, words
):
    avatar.save(tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(AssetError, match=words) as caught:
        Avatar.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_outside_the_folder_are_not_read(avatar, tmp_path):
    avatar.save(tmp_path / "ada")
    parts = json.loads((tmp_path / "ada" / "avatar.json").read_text(encoding="utf-8"))["parts"]
    parts["tensors"]["path"] = "../other.safetensors"
    rewrite(tmp_path / "ada", parts=parts)
    with pytest.raises(AssetError, match="leads out"):
        Avatar.load(tmp_path / "ada")


@pytest.mark.parametrize("content", ["", "[1, 2]", "{" * 100_000, "null"])
def test_what_is_no_manifest_is_refused(tmp_path, content):
    (tmp_path / "avatar.json").write_text(content)
    with pytest.raises(AssetError):
        Avatar.load(tmp_path)


def test_a_folder_without_avatar_is_refused(tmp_path):
    with pytest.raises(AssetError, match="avatar create"):
        Avatar.load(tmp_path)


def test_two_materials_of_one_name_are_refused(avatar):
    with pytest.raises(ValueError, match="names of their own"):
        dataclasses.replace(avatar, materials=avatar.materials[:1] * 2)
