"""Segmentation of random people against their pictures' alpha and a second drawing of the parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from plain_people import plain_wardrobe

from deca.synth import Studio
from deca.synth_parts import (
    BACKGROUND,
    CLOTHES,
    EYES,
    GLASSES,
    HAIR,
    LIPS,
    MOUTH,
    PARTS,
    SKIN,
    Cover,
    PartView,
    indexed,
    lip_texels,
    visible_parts,
)
from flame.arkit import ARKIT_INDEX
from flame.camera import Camera, orbit
from flame.light import Lights, sh_constant
from flame.load import load_head
from flame.material import Material
from flame.model import Flame
from flame.outfit import load_outfit
from flame.params import params_from_arkit
from flame.render import RenderConfig, Renderer

SIZE = (120, 120)


@pytest.fixture(scope="module")
def flame() -> Flame:
    return load_head()


@pytest.fixture(scope="module")
def studio(flame: Flame) -> Studio:
    return Studio(flame, plain_wardrobe(), 96)


def flat(name: str, rgb: tuple[float, float, float]) -> Material:
    return Material(
        name, torch.tensor(rgb).float()[:, None, None].expand(3, 4, 4).clone(), roughness=1.0
    )


def test_parts_and_alpha_agree_on_who_is_there(studio):
    seen = set()
    for seed in range(4):
        for shot in studio.shoot(2, generator=torch.Generator().manual_seed(seed)):
            assert np.array_equal(shot.parts != BACKGROUND, shot.rgba[..., 3] >= 128)
            seen |= set(np.unique(shot.parts))
    assert {SKIN, EYES, LIPS, CLOTHES} <= seen


def test_each_part_is_where_a_drawing_in_flat_colours_puts_it(flame):
    outfit = load_outfit()
    head = outfit.wear_hair(flame.head(torch.zeros(flame.n_shape)), "bob")
    weights = torch.zeros(1, 52)
    weights[0, ARKIT_INDEX["jawOpen"]] = 0.8
    posed = flame(params_from_arkit(torch.zeros(1, flame.n_shape), weights)).verts[0]
    verts = torch.cat([posed, head.verts[len(posed) :]])
    hair = outfit.materials(
        torch.full((3, 4, 4), 0.5), "blue", hair="bob",
        generator=torch.Generator().manual_seed(0),
    )[-1]  # fmt: skip
    black = torch.cat([torch.zeros_like(hair.base_color[:3]), hair.base_color[3:]])
    lips = lip_texels(flame, 256)
    skin = torch.from_numpy(np.stack([np.ones_like(lips), lips, lips * 0])).float()
    colours = {
        "skin": Material("skin", skin, roughness=1.0),
        "eyes": flat("eyes", (0, 0, 1)),
        "mouth": flat("mouth", (1, 0, 1)),
        "lashes": Material("lashes", torch.zeros(4, 4, 4), alpha_mode="BLEND"),
        "shirt": flat("shirt", (0, 1, 1)),
        "hair": dataclasses.replace(hair, base_color=black),
    }
    materials = [colours[name] for name in head.material_names]
    camera = orbit(torch.tensor([25.0]), distance=0.7)
    light = Lights(sh_constant(torch.ones(1, 3)), torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
    renderer = Renderer.of_head(head, materials, RenderConfig(0, tone="linear"))
    drawn = renderer(verts[None], camera, light, SIZE)[0]
    # mirrored light is the same on all channels, so that the chosen ones stay the brighter
    code = (drawn[:3] > 0.5).int()
    number = (code[0] + 2 * code[1] + 4 * code[2]).numpy()
    expected = np.array([HAIR, SKIN, 255, LIPS, EYES, MOUTH, CLOTHES, 255])[number]
    expected[drawn[3].numpy() < 0.5] = BACKGROUND

    faces, uv_faces, ids = head.triangles()
    view = PartView(faces, head.uv, uv_faces, ids, materials)
    on_skin = np.where(lips, LIPS, SKIN).astype(np.uint8)
    labels = view.labels(verts, camera, SIZE, on_skin)
    assert {SKIN, EYES, LIPS, MOUTH, HAIR, CLOTHES} <= set(np.unique(labels))
    # only the picture's filtered texture blurs where skin ends and lips begin
    outline = np.isin(labels, (SKIN, LIPS)) & np.isin(expected, (SKIN, LIPS))
    differs = labels != expected
    assert not differs[~outline].any()
    assert differs.sum() < 0.1 * (labels == LIPS).sum()


def test_lips_lie_within_their_landmarks(flame, generator):
    on_skin = np.where(lip_texels(flame, 512), LIPS, SKIN).astype(np.uint8)
    posed = flame(params_from_arkit(torch.zeros(1, flame.n_shape), torch.zeros(1, 52))).verts
    camera = Camera(torch.tensor([9.0]), torch.zeros(1, 2), torch.zeros(1))
    head = flame.head(torch.zeros(flame.n_shape))
    faces, uv_faces, ids = head.triangles()
    blanks = [flat(name, (0.5, 0.5, 0.5)) for name in head.material_names]
    size = (400, 400)
    labels = PartView(faces, head.uv, uv_faces, ids, blanks).labels(posed[0], camera, size, on_skin)
    rows, columns = np.nonzero(labels == LIPS)
    marks = camera.project(flame.landmarks68(posed), size)[0, 48:60, :2].numpy()
    assert columns.min() == pytest.approx(marks[:, 0].min(), abs=3)
    assert columns.max() == pytest.approx(marks[:, 0].max(), abs=3)
    assert rows.min() == pytest.approx(marks[:, 1].min(), abs=3)
    assert rows.max() == pytest.approx(marks[:, 1].max(), abs=3)


def test_the_layer_that_is_seen_most_names_the_pixel():
    below = np.array([[SKIN, SKIN, BACKGROUND, BACKGROUND]], np.uint8)
    alpha = np.array([[255, 255, 0, 0]], np.uint8)
    cover = Cover(below, alpha)
    layer = np.zeros((1, 4, 4), np.uint8)
    layer[0, :, 3] = (100, 200, 200, 100)
    cover.lay(layer, GLASSES)
    whole = np.array([[255, 255, 200, 100]], np.uint8)
    assert cover.labels(whole).tolist() == [[SKIN, GLASSES, GLASSES, BACKGROUND]]


def test_indexed_pictures_keep_the_labels(tmp_path):
    labels = np.arange(len(PARTS), dtype=np.uint8)[None].repeat(2, 0)
    indexed(labels).save(tmp_path / "parts.png")
    with Image.open(tmp_path / "parts.png") as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture), labels)
    assert visible_parts(labels, 0.01).split() == list(PARTS[1:])
