"""Photos cut to what the shipped model draws: where each pixel comes from, and faceless ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from assets.image import write_image
from avatar.portrait_draw import PortraitInputs
from avatar.portrait_photo import CUT, cut_to_head, with_cut
from avatar.progress import Progress


class Reader:
    def __init__(self, points=None):
        self.points = points

    def read(self, image):
        if self.points is None:
            raise ValueError("no face was found;\n give another")
        return SimpleNamespace(landmarks2d=self.points)


def places(height, width):
    """A picture whose red and green are the place of a pixel, in shares of its sides."""
    x = ((torch.arange(width) + 0.5) / width).expand(height, -1)
    y = ((torch.arange(height) + 0.5) / height)[:, None].expand(-1, width)
    return torch.stack([x, y, torch.zeros(height, width)])[None]


def points_at(x, y, chin):
    points = torch.zeros(68, 2)
    points[36:48] = torch.tensor([x, y])
    points[8] = torch.tensor([x + 3.0, chin])
    return points


@pytest.mark.parametrize(("scale", "side"), [(1, 100), (9, 900)])
def test_the_eyes_are_above_the_middle_and_the_whole_head_and_shoulders_are_seen(scale, side):
    cut = cut_to_head(places(side, 2 * side), points_at(110.0 * scale, 40.0 * scale, 60.0 * scale))
    size = cut.shape[-1]
    assert cut.shape == (1, 3, size, size)
    middle = cut[0, :2, size // 2, size // 2] * torch.tensor([200.0, 100.0])
    assert middle.tolist() == pytest.approx([110, 46.4], abs=0.3)
    # 1.45 times the 20 from eyes to chin, to each side
    first = cut[0, :2, 0, 0] * torch.tensor([200.0, 100.0])
    assert first.tolist() == pytest.approx([81, 17.4], abs=0.6)
    last = cut[0, :2, -1, -1] * torch.tensor([200.0, 100.0])
    assert last.tolist() == pytest.approx([139, 75.4], abs=0.6)


def test_beyond_the_photo_is_its_edge():
    cut = cut_to_head(places(100, 100), points_at(2.0, 50.0, 90.0))
    assert cut.isfinite().all() and cut[0, 0, 0, 0] == cut[0, 0, 0, 40] == 0.005


def test_photos_upside_down_are_refused():
    with pytest.raises(ValueError, match="upright"):
        cut_to_head(places(100, 100), points_at(50.0, 60.0, 40.0))


def test_where_no_face_is_found_the_photo_is_kept_and_it_is_said(tmp_path):
    write_image(tmp_path / "a.png", places(64, 64))
    inputs, progress = PortraitInputs(image=tmp_path / "a.png"), Progress()
    kept, told = with_cut(inputs, "a woman", Reader(), progress)
    assert kept is inputs and not told
    assert progress.warnings[0].endswith("as it is, uncut: no face was found; give another")
    reader = Reader(points_at(30.0, 20.0, 40.0))
    kept, told = with_cut(inputs, "a woman", reader, progress)
    assert kept.cut.shape[-1] == kept.cut.shape[-2] and len(progress.warnings) == 1
    drawn, then = with_cut(inputs, "pencil drawing of a woman", reader, progress)
    assert told == CUT and then.startswith(CUT) and "pencil" in then
    grey = drawn.cut.amax(1) - drawn.cut.amin(1)
    assert float(grey.mean()) < 0.05 < float((kept.cut.amax(1) - kept.cut.amin(1)).mean())
