"""Captioned portraits on disk, with what ControlNets and refiners are shown of them."""

from __future__ import annotations

import json

import pytest
import torch

from assets.image import read_image
from deca.synth import open_studio
from deca.synth_captioned import SIDE, CaptionedStudio, write_portraits
from diffusion.train_pictures import read_captions
from flame.outfit import load_outfit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("people")
    studio = CaptionedStudio(open_studio(SIDE), load_outfit(), seed=0, conditions=True)
    write_portraits(studio, 1, made, seed=8, captions=2)
    return made


def test_a_picture_has_captions_a_condition_and_contours(folder):
    found = read_captions([folder])
    assert len(found) >= 1
    for one in found:
        assert one.condition is not None and one.condition.is_file()
        assert one.lines is not None and one.lines.is_file()
        assert len({one.said(0), one.said(1)}) >= 1 and one.caption
        for path in (one.path, one.condition, one.lines):
            assert read_image(path).shape[-2:] == (SIDE, SIDE)


def test_contours_join_the_points_that_are_told(folder):
    row = json.loads((folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    points = torch.tensor(row["landmarks"])
    lines = read_image(folder / row["lines"])[0, 0]
    x, y = (points - 0.5).round().long().clamp(0, SIDE - 1).T
    assert points.shape == (68, 2)
    assert float(lines[y, x].mean()) > 0.5 > 10 * float(lines.mean())
