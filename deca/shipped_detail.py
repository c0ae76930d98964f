"""The shipped detail stage: wrinkles of one portrait, and how they move with the face."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from deca.codes import Codes, Crop
from deca.detail_net import (
    N_INPUT,
    SIDE,
    TEXTURE,
    UNIT,
    DetailNet,
    broad,
    detail_inputs,
    log_light_sway,
    window,
    window_prior,
)
from deca.face_region import face_region
from flame.interpolate import interpolate as over_image
from flame.model import Flame
from flame.params import arkit_from_params
from flame.raster import rasterize
from flame.srgb import srgb_to_linear
from flame.wrinkle_lines import GROUPS
from flame.wrinkle_map import WrinkleMap, relief_normals, surface_slopes, wrinkle_map
from flame.wrinkles import Wrinkles, bounded, compression, depths, draw_relief

MAP_SIDE = 1024
_SLACK = 0.004  # metres behind the nearest surface that still count as seen
_SAME = 0.45  # log difference of broad colour at which a texel is half skin
_CLEAREST = 1.8  # log2 of texels per picture pixel beyond which the network was not trained
_TYPICAL = 4  # people of whom the usual relief of a group is the mean
_PRESENT = 0.08e-3  # metres of own relief that leave no room for made-up creases
_MIRROR = (4, 7, 11)  # inputs that change sign in a mirror


@dataclass(frozen=True, eq=False)
class Detail:
    """Wrinkles of a portrait on the head's texture."""

    displacement: Float[Tensor, "1 K K"]  # metres along the normal, as in the portrait
    strengths: Float[Tensor, " G"]  # of flame.wrinkle_lines.GROUPS, 0 smooth to 1 deeply lined
    confidence: Float[Tensor, "1 K K"]  # 0..1, how far the portrait shows each texel's skin
    wrinkles: Wrinkles  # made-up creases of these strengths, for what it does not show
    weights: Float[Tensor, " 52"]  # ARKit weights of the portrait

    @torch.no_grad()
    def at(self, weights: Float[Tensor, " 52"]) -> Float[Tensor, "1 K K"]:
        """Displacement under other ARKit weights, metres, within +-1.2 mm.

        The portrait's own creases deepen and fade with the skin's compression; where skin folds
        that was smooth or hidden in the portrait, made-up creases come in.
        """
        skin = self.wrinkles.skin
        now, then = self.wrinkles.depths(weights), self.wrinkles.depths(self.weights)
        region = skin.baked(skin.region_of_verts())
        known = region.sum(0)
        # 0.05 mm: creases as shallow as that say nothing of how they fold
        ratio = ((region * now).sum(0) + 5e-5 * known) / (
            (region * then).sum(0) + 5e-5 * known
        ).clamp(min=1e-9)
        gain = torch.where(known > 0.02, ratio, 1.0).clamp(0.15, 2.5)
        own = self.displacement * (1 + known.clamp(0, 1) * (gain - 1))
        small = avg_pool2d(self.displacement.square()[None], 16, 8, 4)
        near = interpolate(small, size=own.shape[-2:], mode="bilinear", align_corners=False)[0]
        room = torch.exp(-near.clamp(min=0).sqrt() / _PRESENT * 2)
        seen = self.confidence
        extra = seen * room * (now - then).clamp(min=0) + (1 - seen) * now
        return bounded(own + (self.wrinkles.creases * extra).sum(0, keepdim=True))


@torch.no_grad()
def detail_of(flame: Flame, codes: Codes, crop: Crop, net: DetailNet) -> Detail:
    """Wrinkles of the face in a crop to which the codes belong.

    The crop may be larger than the one fitted, as long as it frames the same square; its matrix
    tells how fine the picture itself is. Little is found in small, soft or dark pictures.
    """
    found, seen = _relief(flame, codes, crop, net)
    fine = prepared(flame, MAP_SIDE)
    weights = arkit_from_params(codes.params)[0]
    shape = codes.params.shape[0]
    strengths = _strengths(flame, found, seen, shape, weights)
    size = (MAP_SIDE, MAP_SIDE)
    edge = TEXTURE // 4
    whole = (pad(maps[None], (edge,) * 4) for maps in (found, seen))
    height, confidence = (
        interpolate(maps, size=size, mode="bicubic", align_corners=False)[0] for maps in whole
    )
    generator = torch.Generator().manual_seed(0)
    made_up = Wrinkles(
        flame, fine, shape, fine.laid(draw_relief(flame, generator=generator)), strengths
    )
    confidence = confidence.clamp(0, 1) * fine.mask
    return Detail(bounded(height * fine.mask), strengths, confidence, made_up, weights)


def normal_map(displacement: Float[Tensor, "1 K K"], flame: Flame) -> Float[Tensor, "1 3 K K"]:
    """Tangent-space normal map of a displacement map, 0..1, +y up, as glTF and the renderer want.

    Lay it over the skin's own with `flame.wrinkle_map.joined_normals`.
    """
    return relief_normals(displacement, prepared(flame, displacement.shape[-1]).slopes())


@lru_cache(maxsize=3)
def prepared(flame: Flame, side: int) -> WrinkleMap:
    """The wrinkle map of a head model, made once."""
    return wrinkle_map(flame, side)


@lru_cache(maxsize=1)
def _typical_relief(flame: Flame) -> Float[Tensor, "G K K"]:
    """Mean squared relief of creases of unit depth in the network's window."""
    skin = prepared(flame, TEXTURE)
    people = [
        window(skin.laid(draw_relief(flame, generator=torch.Generator().manual_seed(seed))))
        for seed in range(_TYPICAL)
    ]
    return torch.stack(people).square().mean(0)


@lru_cache(maxsize=1)
def _prior(flame: Flame) -> Tensor:
    return window_prior(flame, prepared(flame, TEXTURE))


def _relief(
    flame: Flame, codes: Codes, crop: Crop, net: DetailNet
) -> tuple[Float[Tensor, "1 K K"], Float[Tensor, "1 K K"]]:
    """Heights in the network's window, and how far the portrait shows them."""
    skin = prepared(flame, TEXTURE)
    verts = flame(codes.params).verts
    colour, coarseness, seen = _unrolled(flame, codes, crop, verts)
    slopes = surface_slopes(verts[0], skin.surface, skin.layout)
    dual_u, dual_v = (window(maps)[None] for maps in slopes.dual())
    lengths = torch.stack([window(x).norm(dim=0) for x in (slopes.along_u, slopes.along_v)])[None]
    normal = window(slopes.normal)[None]
    valid = window(skin.layout.valid.float())[None]
    visible = ((normal[:, 2:] - 0.2) / 0.3).clamp(0, 1) * seen * valid
    sway = log_light_sway(normal, dual_u, dual_v, lengths, codes.light)
    inputs = detail_inputs(colour, visible, sway, coarseness, _prior(flame))
    signs = torch.ones(N_INPUT)
    signs[list(_MIRROR)] = -1
    mirrored = inputs.flip(-1) * signs.view(1, -1, 1, 1)
    height, log_error = net(torch.cat([inputs, mirrored]))
    height = (height[:1] + height[1:].flip(-1)) / 2
    error = (log_error[:1].exp() + log_error[1:].flip(-1).exp()) / 2
    # what does not rise above its own uncertainty is noise
    sure = height.square() / (height.square() + (0.3 * error).square())
    trusted = visible * _skin_like(colour, visible) * window(skin.mask)[None]
    return (UNIT * height * sure * trusted)[0], trusted[0]


def _unrolled(
    flame: Flame, codes: Codes, crop: Crop, verts: Tensor
) -> tuple[Float[Tensor, "1 3 K K"], Float[Tensor, "1 1 K K"], Float[Tensor, "1 1 K K"]]:
    """The window's colours, log2 of texels per picture pixel, and whether the face shows there."""
    fine = prepared(flame, MAP_SIDE)
    region = face_region(flame)
    size = (crop.image.shape[-2], crop.image.shape[-1])
    points = codes.camera.project(verts, size)[..., :2]
    depth = codes.camera.depth(verts)[..., None]
    fields = torch.cat([points, depth, region.share[None]], dim=-1)
    texels = window(fine.layout.bake(fields, fine.surface.faces))
    place, away, share = texels[:, :2], texels[:, 2:3], texels[:, 3:]
    steps = [
        torch.nn.functional.pad(place.diff(dim=axis).norm(dim=1, keepdim=True), widening)
        for axis, widening in ((-1, (0, 1)), (-2, (0, 0, 0, 1)))
    ]
    # the picture may be coarser than the crop that was cut of it
    enlarged = float(crop.matrix[:2, :2].det().abs().sqrt().clamp(min=1))
    pixels = avg_pool2d(torch.minimum(*steps), 2) * 2 / enlarged
    coarseness = (-pixels.clamp(min=1e-3).log2()).clamp(0, _CLEAREST)
    grid = torch.stack([place[:, 0] / size[1], place[:, 1] / size[0]], dim=-1) * 2 - 1
    image = crop.image
    shrink = int(avg_pool2d(torch.minimum(*steps), 4)[share[:, :, ::4, ::4] > 0.5].median())
    if shrink > 1:  # several pixels fall into a texel
        image = interpolate(image, scale_factor=1 / shrink, mode="area")
    photo = grid_sample(image, grid, padding_mode="border", align_corners=False)
    fragments = rasterize(codes.camera.clip(verts, size), fine.surface.faces, size)
    front = over_image(depth, fine.surface.faces, fragments).movedim(-1, 1)
    front = torch.where(fragments.face_id[:, None] < 0, 1e3, front)
    nearest = grid_sample(front, grid, mode="nearest", align_corners=False)
    inside = (grid.abs() < 1).all(-1)[:, None]
    seen = ((away < nearest + _SLACK) & inside).float() * share.clamp(0, 1)
    return avg_pool2d(photo, 2), coarseness, avg_pool2d(seen, 2)


def _skin_like(
    colour: Float[Tensor, "1 3 K K"], visible: Float[Tensor, "1 1 K K"]
) -> Float[Tensor, "1 1 K K"]:
    """1 where the colour round a texel is the face's own, 0 on hair, hands and spectacles."""
    light = srgb_to_linear(colour.clamp(0, 1)).clamp(min=4e-3).log()
    around = broad(light, visible)
    known = visible[0, 0] > 0.5
    if int(known.sum()) < 100:
        return torch.zeros_like(visible)
    red, green, blue = around[0]
    hue = torch.stack([red - green, green - blue])
    level = around[0].mean(0)
    usual = hue[:, known].median(1).values
    off = (hue - usual[:, None, None]).square().sum(0)
    # light differs more than hue does
    dark = ((level - level[known].median()).abs() - 0.7).clamp(min=0)
    return (1 / (1 + ((off + dark.square()) / _SAME**2).square()))[None, None]


def _strengths(
    flame: Flame,
    height: Float[Tensor, "1 K K"],
    seen: Float[Tensor, "1 K K"],
    shape: Float[Tensor, " S"],
    weights: Float[Tensor, " 52"],
) -> Float[Tensor, " G"]:
    """Each group's strength from the relief found where it lies and the folding at that moment.

    Groups that the portrait hardly shows take the mean of the others.
    """
    skin = prepared(flame, TEXTURE)
    usual = _typical_relief(flame)
    region = window(skin.baked(skin.region_of_verts())) * window(skin.mask)
    share = region * seen
    depth = (
        (share * height.square()).sum((1, 2)) / (share * usual).sum((1, 2)).clamp(min=1e-6)
    ).sqrt()
    squeezed = compression(flame, skin, shape, weights)
    where = skin.region_of_verts()
    usual_squeeze = (squeezed * where).sum(1) / where.sum(1).clamp(min=1e-6)
    still = depths(usual_squeeze, torch.zeros(len(GROUPS)))
    per_strength = depths(usual_squeeze, torch.ones(len(GROUPS))) - still
    strengths = ((depth - still) / per_strength).clamp(0, 1.2)
    shown = share.sum((1, 2)) > 0.25 * region.sum((1, 2)).clamp(min=SIDE / 8)
    if bool(shown.any()):
        strengths = torch.where(shown, strengths, strengths[shown].mean())
    else:
        strengths = torch.zeros_like(strengths)
    return strengths
