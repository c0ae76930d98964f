"""A head painted all over: views round it drawn by a painter, and joined into one texture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from avatar.texture_measures import SeamEnergy, left_right_difference, psnr_db, seam_energy
from avatar.texture_views import (
    PaintView,
    SkinSurface,
    ViewPlan,
    camera_of,
    coverage,
    flat_picture,
    paint_mask,
    plan_views,
)
from deca.conditions import HeadView
from deca.multi_texture import MultiTextureConfig, combined
from deca.texture import TextureConfig, completed
from flame.camera import LookAt
from flame.head import Head
from flame.material import Material
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import fill_gutter

Painter: TypeAlias = Callable[[PaintView], Tensor]  # gives [1, 3, H, W] of the view's size
Framing: TypeAlias = Callable[[ViewPlan], LookAt]
OnView: TypeAlias = Callable[[int, int], None]  # views done, of how many

_DARKEST = 2e-3  # of linear light
_GUTTER = 8  # texels


@dataclass(frozen=True)
class PaintSettings:
    """Views and sizes of a painting."""

    views: int = 8
    side: int = 1024  # texels
    size: int = 512  # px a side of each view
    mirror: bool = True  # what no view shows is taken from the other side of the head

    def __post_init__(self) -> None:
        plan_views(self.views)
        if self.size % 8 or not 32 <= self.size <= 2048:
            raise ValueError(f"size={self.size} must be a multiple of 8 from 32 to 2048")
        if self.side % 64 or not 64 <= self.side <= 4096:
            raise ValueError(f"side={self.side} must be a multiple of 64 from 64 to 4096")


@dataclass(frozen=True)
class PaintReport:
    """What was measured of a painted texture."""

    views: int
    painted: float  # share of the skin's texels that some view shows
    seams: SeamEnergy
    left_right: float  # mean difference of broad colours to the mirror image, sRGB 0..1
    front_psnr_db: float  # the painted head's front view against what was drawn there


@dataclass(frozen=True, eq=False)
class Painting:
    """A painted skin, how well each texel was seen, and what was drawn."""

    albedo: Float[Tensor, "3 K K"]
    coverage: Float[Tensor, "1 K K"]
    views: tuple[ViewPlan, ...]
    drawn: tuple[Float[Tensor, "1 3 H W"], ...]
    report: PaintReport


@torch.no_grad()
def paint_head(
    head: Head,
    materials: Sequence[Material],
    draw: Painter,
    settings: PaintSettings | None = None,
    *,
    plans: Sequence[ViewPlan] | None = None,
    frame: Framing | None = None,
    on_view: OnView | None = None,
) -> Painting:
    """Let `draw` paint views of the head, the front first, and join them into one base colour.

    The views are those of `plan_views` or `plans`, from the cameras of `camera_of` or `frame`.

    Each view shows what is painted so far under an even light, which is divided out again. Where
    views overlap each counts as straight as it looks at the surface, fine detail is that of the
    best, and constant differences in tone are taken out. What no view shows follows the mirrored
    texel or its painted surroundings, with the detail that the head had there.
    """
    settings = settings or PaintSettings()
    known = {material.name: material for material in materials}
    if "skin" not in known:
        raise ValueError(f"the head has no skin to paint, only {', '.join(known)}")
    surface = SkinSurface(head, head.verts[None], settings.side)
    base = _at_side(known["skin"].base_color[:3], settings.side)
    ground = srgb_to_linear(base).clamp(min=_DARKEST).log()
    plans = plan_views(settings.views) if plans is None else plans
    changes: list[Tensor] = []
    shares: list[Tensor] = []
    front: PaintView | None = None
    drawn: list[Tensor] = []
    for index, plan in enumerate(plans):
        camera = camera_of(head, plan) if frame is None else frame(plan)
        size = (settings.size, settings.size)
        seen = HeadView.of(head, materials, head.verts[None], camera, size)
        so_far = _worn(materials, _so_far(ground, changes, shares, surface))
        best = torch.stack(shares).amax(0) if shares else torch.zeros_like(ground[0])
        view = PaintView(
            index,
            plan,
            flat_picture(seen, head, so_far),
            paint_mask(seen, surface, best),
            seen,
            camera,
        )
        picture = draw(view)
        if picture.shape != view.picture.shape or not bool(picture.isfinite().all()):
            raise ValueError(
                f"the painter gave {tuple(picture.shape)} for the {plan.name}; it must give "
                f"{tuple(view.picture.shape)} of finite numbers"
            )
        colour, share = surface.unproject(picture.float().clamp(0, 1), seen, camera)
        changes.append(colour - ground)
        shares.append(share)
        front = front or view
        drawn.append(picture)
        if on_view is not None:
            on_view(index + 1, len(plans))
    change, share = _joined(changes, shares, settings)
    albedo = _albedo(ground, change, surface)
    assert front is not None
    report = _measured(head, materials, albedo, surface, share, front, drawn[0], len(plans))
    return Painting(albedo, share[None], tuple(plans), tuple(drawn), report)


def spread(values: Float[Tensor, "C K L"], weight: Float[Tensor, "K L"]) -> Float[Tensor, "C K L"]:
    """The values where the weight is 1, and a smooth continuation of them where it is 0.

    Means of ever larger surroundings (pull-push, Gortler et al. 1996); zero where nothing weighs.
    """
    if min(weight.shape) <= 2 or weight.shape[0] % 2 or weight.shape[1] % 2:
        total = weight.sum()
        mean = (values * weight).flatten(1).sum(1) / total.clamp(min=1e-6)
        return weight * values + (1 - weight) * mean[:, None, None]
    share = F.avg_pool2d(weight[None, None], 2)[0, 0]
    small = F.avg_pool2d((values * weight)[None], 2)[0] / share.clamp(min=1e-6)
    coarse = spread(small, (4 * share).clamp(0, 1))
    finer = F.interpolate(coarse[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    return weight * values + (1 - weight) * finer


def _so_far(
    ground: Tensor, changes: list[Tensor], shares: list[Tensor], surface: SkinSurface
) -> Float[Tensor, "3 K K"]:
    """The texture of the views until now, quickly; unpainted skin follows its surroundings."""
    if not changes:
        return _albedo(ground, torch.zeros_like(ground), surface)
    weights = torch.stack(shares).square()
    total = weights.sum(0)
    mean = torch.einsum("nkl,nckl->ckl", weights, torch.stack(changes)) / total.clamp(min=1e-6)
    return _albedo(ground, spread(mean, coverage(torch.stack(shares).amax(0))), surface)


def _joined(
    changes: list[Tensor], shares: list[Tensor], settings: PaintSettings
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "K K"]]:
    """One change of ln base colour for all texels, and how far each is painted."""
    texture = TextureConfig(side=settings.side, one_sided=1.0)
    config = MultiTextureConfig(texture=texture)
    weights = torch.stack([share.square() for share in shares])
    merged, _ = combined(torch.stack(changes), weights, torch.ones(len(shares)), config)
    painted = coverage(torch.stack(shares).amax(0))
    change, weight = merged, painted
    if settings.mirror:
        change, weight = completed(merged, painted, texture)
        change = painted * merged + (1 - painted) * change
    return spread(change, weight), painted


def _albedo(ground: Tensor, change: Tensor, surface: SkinSurface) -> Float[Tensor, "3 K K"]:
    light = (ground + change).exp().clamp(0, 1)
    texture = linear_to_srgb(light).clamp(0, 1)
    return fill_gutter(texture, surface.layout.valid, _GUTTER)


def _worn(materials: Sequence[Material], skin: Tensor) -> tuple[Material, ...]:
    return tuple(
        dataclasses.replace(one, base_color=skin) if one.name == "skin" else one
        for one in materials
    )


def _measured(
    head: Head,
    materials: Sequence[Material],
    albedo: Tensor,
    surface: SkinSurface,
    share: Tensor,
    front: PaintView,
    drawn: Tensor,
    views: int,
) -> PaintReport:
    valid = surface.layout.valid
    again = flat_picture(front.seen, head, _worn(materials, albedo))
    skin = front.seen.pixels((front.seen.material == surface.index)[:, None].float())
    toward = front.seen.pixels(front.seen.normals()[:, 2:])
    inner = (-F.max_pool2d(-skin, 3, 1, 1) > 0.99) & (toward > 0.5)
    inner = inner.expand(-1, 3, -1, -1)
    return PaintReport(
        views=views,
        painted=round(float((share[valid] > 0.5).float().mean()), 4),
        seams=seam_energy(albedo, surface.faces, surface.uv, surface.uv_faces),
        left_right=left_right_difference(albedo, valid),
        front_psnr_db=psnr_db(again[inner], drawn[inner]) if bool(inner.any()) else 0.0,
    )


def _at_side(texture: Float[Tensor, "3 H W"], side: int) -> Float[Tensor, "3 K K"]:
    if texture.shape[-2:] == (side, side):
        return texture.float()
    return F.interpolate(
        texture[None].float(), (side, side), mode="bilinear", antialias=True, align_corners=False
    )[0].clamp(0, 1)
