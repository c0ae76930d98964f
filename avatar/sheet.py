"""Contact sheets: rows of square pictures with captions, laid out to one width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
_SMOOTH = 4  # corners are drawn this many times larger


@dataclass(frozen=True)
class SheetConfig:
    """Sizes in pixels and colours of a contact sheet."""

    width: int = 1600
    margin: int = 36
    gap: int = 20
    caption: int = 22  # height of the letters' line
    corner: int = 12  # radius of the pictures' corners
    paper: Rgb = (21, 23, 27)
    ink: Rgb = (222, 225, 230)
    faint: Rgb = (128, 134, 144)

    def __post_init__(self) -> None:
        if self.width < 4 * self.margin + 100:
            raise ValueError(
                f"width={self.width} leaves no room for pictures between margins of "
                f"{self.margin}; choose at least {4 * self.margin + 100}"
            )
        if min(self.margin, self.gap, self.corner) < 0 or self.caption < 6:
            raise ValueError("margin, gap and corner must be 0 or more, and caption 6 or more")

    def side(self, count: int) -> int:
        """Side of each picture in a row of `count`."""
        room = self.width - 2 * self.margin - (count - 1) * self.gap
        side = room // max(count, 1)
        if side < 8:
            raise ValueError(
                f"{count} pictures do not fit into {self.width} pixels; give fewer or a wider sheet"
            )
        return side


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture of the sheet and what it is; other shapes than squares lose their longer ends."""

    picture: UInt8[np.ndarray, "H W 3"]
    caption: str


@dataclass(frozen=True)
class Place:
    """Where a panel's picture is on the sheet, pixels."""

    x: int
    y: int
    side: int


def places(counts: Sequence[int], config: SheetConfig) -> list[list[Place]]:
    """Where the pictures of rows with so many panels go; rows fill the width."""
    rows = []
    y = config.margin
    for count in counts:
        side = config.side(count)
        step = side + config.gap
        # what whole pixels leave over is shared by both margins
        left = (config.width - (count * step - config.gap)) // 2
        rows.append([Place(left + k * step, y, side) for k in range(count)])
        y += side + _caption_height(config) + config.gap
    return rows


def lay_out(
    rows: Sequence[Sequence[Panel]], config: SheetConfig | None = None, *, footer: str = ""
) -> UInt8[np.ndarray, "H W 3"]:
    """The sheet with a caption under each picture and a small footer at the lower right."""
    config = config or SheetConfig()
    if not rows or not all(rows):
        raise ValueError("a contact sheet needs at least one row, and a panel in each; add panels")
    spots = places([len(row) for row in rows], config)
    last = spots[-1][0]
    bottom = last.y + last.side + _caption_height(config)
    letters = ImageFont.load_default(config.caption)
    small = ImageFont.load_default(max(6, round(0.68 * config.caption)))
    tail = round(0.9 * config.caption) if footer else 0
    sheet = Image.new("RGB", (config.width, bottom + tail + config.margin), config.paper)
    pen = ImageDraw.Draw(sheet)
    for row, spot_row in zip(rows, spots, strict=True):
        for panel, spot in zip(row, spot_row, strict=True):
            picture = _square(panel.picture, spot.side)
            sheet.paste(picture, (spot.x, spot.y), _rounded(spot.side, config.corner))
            middle = (spot.x + spot.side // 2, spot.y + spot.side + round(0.45 * config.caption))
            pen.text(middle, panel.caption, config.ink, font=letters, anchor="ma")
    if footer:
        corner = (config.width - config.margin, bottom + tail)
        pen.text(corner, footer, config.faint, font=small, anchor="rd")
    return np.array(sheet)


def _caption_height(config: SheetConfig) -> int:
    return round(1.6 * config.caption)


def _square(picture: UInt8[np.ndarray, "H W 3"], side: int) -> Image.Image:
    """The middle square of a picture, at another size."""
    height, width = picture.shape[:2]
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    image = Image.fromarray(np.ascontiguousarray(picture))
    return image.resize((side, side), Image.Resampling.LANCZOS, box)


def _rounded(side: int, radius: int) -> Image.Image:
    large = Image.new("L", (_SMOOTH * side, _SMOOTH * side), 0)
    end = _SMOOTH * side - 1
    ImageDraw.Draw(large).rounded_rectangle((0, 0, end, end), _SMOOTH * radius, fill=255)
    return large.resize((side, side), Image.Resampling.BOX)
