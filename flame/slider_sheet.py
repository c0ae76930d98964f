"""The picture of all sliders: each at -2 and +2 standard deviations, from where it shows best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flame.camera import orbit
from flame.load import load_head
from flame.outfit import load_outfit
from flame.params import Params
from flame.render import Renderer
from flame.sliders import sliders

REACH = 2.0  # standard deviations
_SIDE, _SEAM, _GAP, _LETTERS, _COLUMNS = 124, 2, 16, 24, 6  # pixels
_PAPER, _INK, _BACKDROP = (21, 23, 27), (222, 225, 230), 0.16
# Target (x, y, z in metres) and field of view (degrees at 0.9 m) of each region's close-up; a
# slider is seen in the region of its name, or of the first word in it that has one.
_REGIONS = {
    "eye": ((0.0, 0.036, 0.09), 7.2), "brow": ((0.0, 0.05, 0.09), 9.5),
    "nose": ((0.0, 0.01, 0.10), 7.0), "nostril": ((0.0, 0.0, 0.10), 6.0),
    "mouth": ((0.0, -0.033, 0.10), 6.5), "lip": ((0.0, -0.033, 0.10), 6.5),
    "philtrum": ((0.0, -0.025, 0.10), 6.5), "chin": ((0.0, -0.05, 0.09), 8.5),
    "jaw": ((0.0, -0.02, 0.08), 13.0), "cheek": ((0.0, 0.0, 0.08), 12.0),
    "cheekbone": ((0.0, 0.0, 0.08), 12.0),
    "forehead": ((0.0, 0.05, 0.02), 16.5), "face": ((0.0, 0.01, 0.06), 14.5),
    "neck": ((0.0, -0.04, 0.02), 20.0), "ear": ((0.0, 0.01, 0.02), 15.0),
    "ear size": ((0.0, 0.015, 0.0), 8.5),
}  # fmt: skip
_WHOLE = ((0.0, 0.01, 0.02), 20.0)
# What shows from aside: yaw in degrees.
_YAWS = {
    "nose bridge height": 90, "nose hump": 90, "nose protrusion": 90, "nose tip up": 90,
    "chin protrusion": 90, "lip protrusion": 90, "forehead slope": 90, "forehead height": 90,
    "brow ridge": 90, "face depth": 90, "head length": 90, "crown height": 90, "ear size": 90,
    "eye depth": 60, "cheekbone prominence": 45, "cheek fullness": 35,
}  # fmt: skip


@torch.no_grad()
def slider_sheet() -> Float[Tensor, "1 3 H W"]:
    """Pairs of pictures of the shipped mean head under each slider, with its name; sRGB."""
    flame = load_head()
    head = flame.head(torch.zeros(flame.n_shape))
    outfit = load_outfit()
    skin = outfit.albedo.decode(torch.zeros(1, outfit.albedo.n_codes), 1024)[0]
    generator = torch.Generator().manual_seed(0)
    materials = outfit.materials(skin, "brown", hair=None, generator=generator)
    renderer = Renderer.of_head(head, materials)
    moves = sliders(flame)
    wide, high = 2 * _SIDE + _SEAM + _GAP, _SIDE + _LETTERS
    rows = -(-len(moves.names) // _COLUMNS)
    size = (_COLUMNS * wide + _GAP, rows * high + 2 * _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen, letters = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, name in enumerate(moves.names):
        left = _GAP + wide * (index % _COLUMNS)
        top = _GAP + high * (index // _COLUMNS)
        ends = [moves.apply(torch.zeros(1, flame.n_shape), {name: s}) for s in (-REACH, REACH)]
        rest = Params.zeros(2, flame.n_shape, flame.n_expression)
        verts = flame.shaped(replace(rest, shape=torch.cat(ends)))
        named = (_REGIONS[word] for word in (name, *name.split()) if word in _REGIONS)
        target, fov = next(named, _WHOLE)
        yaw = float(_YAWS.get(name, 0))
        camera = orbit(torch.tensor([yaw]), target=target, fov_deg=fov)
        pictures = renderer(
            verts, camera, size=(_SIDE, _SIDE), background=torch.full((3,), _BACKDROP),
            supersample=2,
        )  # fmt: skip
        for side, picture in enumerate(pictures[:, :3]):
            texels = (255 * picture).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(texels), (left + side * (_SIDE + _SEAM), top))
        pen.text((left + _SIDE, top + _SIDE + 3), name, _INK, font=letters, anchor="ma")
    texels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)[None]
    return texels.float() / 255
