"""Photos as the shipped portrait model draws people: head and shoulders, eyes above the middle."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from assets.image import read_image
from avatar.portrait_draw import PortraitInputs
from avatar.portrait_like import CHIN, EYES, PointReader
from avatar.progress import Progress
from deca.prompt_words import read_prompt
from deca.synth_captioned import BELOW, HALF
from deca.synth_styles import stylize
from diffusion.prompt import plain_text

CUT = "the photo was cut to head and shoulders, as the shipped model draws"
_SMALLEST = 16  # px a side
# of a style's filter where all of it hides a face's features
_SHARES = {"anime": 0.5, "watercolour": 0.5}
_SIDE = 512  # px; what lies beyond the photo is as its edge


def cut_to_head(
    photo: Float[Tensor, "1 3 H W"], points: Float[Tensor, "68 2"]
) -> Float[Tensor, "1 3 S S"]:
    """The square round a face that `frame_close` shows of a head; points are the 68, px."""
    eyes = points[EYES].mean(0)
    unit = float(points[CHIN, 1] - eyes[1])
    if unit <= 0:
        raise ValueError("the chin is above the eyes; give the photo upright")
    half = HALF * unit
    along = half * ((torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1)
    x = (float(eyes[0]) + along) / photo.shape[-1] * 2 - 1
    y = (float(eyes[1]) + BELOW * unit + along) / photo.shape[-2] * 2 - 1
    grid = torch.stack([x[None].expand(_SIDE, -1), y[:, None].expand(-1, _SIDE)], dim=-1)[None]
    shrunk, share = photo, 2 * half / _SIDE  # photo's pixels for one
    if share > 1:
        size = [max(1, round(side / share)) for side in photo.shape[-2:]]
        shrunk = interpolate(photo, size, mode="bilinear", antialias=True, align_corners=False)
    cut: Tensor = grid_sample(shrunk, grid, padding_mode="border", align_corners=False)
    return cut


def with_cut(
    inputs: PortraitInputs, prompt: str, reader: PointReader, progress: Progress
) -> tuple[PortraitInputs, str]:
    """The inputs with their image cut to its head, in the prompt's style, and that in words.

    Where no face is found in it they are as they were, with a warning and no words.
    """
    assert inputs.image is not None
    photo = read_image(inputs.image, min_side=_SMALLEST)
    try:
        cut = cut_to_head(photo, reader.read(photo).landmarks2d)
    except ValueError as error:
        reason = " ".join(str(error).split())
        progress.warn(f"{inputs.image} is drawn over as it is, uncut: {reason}")
        return inputs, ""
    style = read_prompt(plain_text(prompt)).wish.style if prompt.strip() else None
    if style in (None, "realistic"):
        return replace(inputs, cut=cut), CUT
    share = _SHARES.get(str(style), 1.0)
    drawn = cut + share * (stylize(cut, str(style)) - cut)
    return replace(inputs, cut=drawn), f"{CUT}; then made {style} by a filter"
