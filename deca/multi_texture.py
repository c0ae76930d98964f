"""Skin texture of one person from several pictures: each where it sees best, light taken out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deca.codes import Codes
from deca.face_region import FaceRegion, face_region
from deca.fit_light import LightFitConfig, fit_light
from deca.sequence_view import View, view_params
from deca.texture import SkinTexture, TextureConfig, blurred, completed, eroded, sampled
from flame.albedo import AlbedoModel
from flame.interpolate import interpolate
from flame.light import sh_basis, sh_shading
from flame.model import Flame
from flame.normals import vertex_normals
from flame.raster import rasterize
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture import UvLayout, unwrap


@dataclass(frozen=True)
class MultiTextureConfig:
    """How pictures are weighed against each other."""

    views: int = 8  # most that are used
    agreement: float = 0.12  # log difference from the others at which a view loses half its say
    detail_power: float = 3.0  # of the weights, where fine detail is taken from
    rounds: int = 3  # of the robust mean
    pixels: int = 96  # px a side at which light is fitted
    light_prior: float = 0.02  # of a light's departure from the first estimate
    texture: TextureConfig = dataclasses.field(default_factory=TextureConfig)
    light: LightFitConfig = dataclasses.field(default_factory=LightFitConfig)


@dataclass(frozen=True, eq=False)
class MergedTexture:
    """One skin for all views, and what was found of each."""

    texture: SkinTexture
    albedo: Float[Tensor, " A"]  # standard deviations, shared
    lights: Float[Tensor, "N 9 3"]
    views: tuple[View, ...]  # that were used
    weights: Float[Tensor, " N"]  # each one's share of the texture

    def codes(self, shape: Float[Tensor, " S"], index: int) -> Codes:
        """The codes of one of the views, for its picture."""
        view = self.views[index]
        light = self.lights[index : index + 1]
        return Codes(view_params(view, shape), self.albedo[None], view.camera, light)


@torch.no_grad()
def merge_views(
    flame: Flame,
    model: AlbedoModel,
    shape: Float[Tensor, " S"],
    albedo: Float[Tensor, " A"],
    views: tuple[View, ...],
    config: MultiTextureConfig | None = None,
) -> MergedTexture:
    """Unproject every view, divide its fitted light out, and combine what they agree on.

    A view counts by facing angle, resolution, sharpness and agreement with the others; fine detail
    comes from the best view of each place. `albedo` is where the shared albedo starts. What no view
    shows is completed as `deca.texture.skin_texture` does.
    """
    config = config or MultiTextureConfig()
    if not views:
        raise ValueError("there is no view to take a texture from; give at least one")
    chosen = spread_views(views, config.views)
    region = face_region(flame)
    samples = [_samples(flame, region, shape, view, config.pixels) for view in chosen]
    starts = [
        fit_light(model, pixels, uv, normals, config.light, albedo)
        for pixels, uv, normals in samples
    ]
    scores = torch.tensor([max(view.score, 1e-3) for view in chosen])
    shared = torch.einsum(
        "n,na->a", scores / scores.sum(), torch.stack([fit.albedo for fit in starts])
    )
    lights = torch.stack(
        [
            _relit(model, shared, *sample, start.light, config)
            for sample, start in zip(samples, starts, strict=True)
        ]
    )
    # a plane finer than the pictures would only cost time
    fine = max(view.image.shape[-1] for view in chosen) > 512
    whole = config.texture
    side = whole.side if fine else max(whole.side // 2, 128)
    config = dataclasses.replace(config, texture=dataclasses.replace(whole, side=side))
    layout = unwrap(region.uv, region.uv_faces, side)
    base = srgb_to_linear(model.decode(shared[None], side)[0]).clamp(min=1e-3)
    differences, weights = [], []
    for view, light in zip(chosen, lights, strict=True):
        difference, weight = _unprojected(flame, region, layout, shape, view, light, base, config)
        differences.append(difference)
        weights.append(weight)
    say = torch.tensor([_worth(view) for view in chosen])
    difference, weight = combined(torch.stack(differences), torch.stack(weights), say, config)
    difference, weight = completed(difference, weight, config.texture)
    if side != whole.side:
        both = torch.cat([difference, weight[None]])[None]
        both = torch.nn.functional.interpolate(
            both, (whole.side, whole.side), mode="bilinear", align_corners=False
        )[0]
        difference, weight = both[:3], both[3]
        base = srgb_to_linear(model.decode(shared[None], whole.side)[0]).clamp(min=1e-3)
    result = base * (whole.detail * weight * difference).exp()
    skin = SkinTexture(linear_to_srgb(result.clamp(0, 1)).clamp(0, 1), weight[None])
    share = torch.stack([w.sum() for w in weights]) * say
    return MergedTexture(skin, shared, lights, tuple(chosen), share / share.sum().clamp(min=1e-6))


def combined(
    differences: Float[Tensor, "N 3 K K"],
    weights: Float[Tensor, "N K K"],
    say: Float[Tensor, " N"],
    config: MultiTextureConfig | None = None,
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "K K"]]:
    """Robust weighted mean of the views' broad colours, fine detail of the best; and its weight.

    `weights` say how well each view sees each texel, 0..1, `say` how good its picture is. Views are
    first brought to one brightness and tint where they overlap. A texel's weight is that of the
    view that sees it best.
    """
    config = config or MultiTextureConfig()
    best = weights.amax(0).clamp(0, 1)
    present = weights > 0.02
    weights = weights * say[:, None, None]
    matched = _matched(differences, weights, present)
    if len(matched) == 1:
        return matched[0], best
    # the middle one of the views is no outlier, whatever the others are
    hidden = torch.where(present[:, None], matched, torch.full_like(matched, torch.nan))
    mean = hidden.nanmedian(0).values.nan_to_num(0.0)
    trust = weights
    for _ in range(config.rounds):
        off = (matched - mean).square().mean(1).sqrt()
        trust = weights / (1 + (off / config.agreement) ** 2)
        mean = _mean(matched, trust)
    radius = config.texture.side // 128
    coarse = torch.stack([blurred(m, w, radius) for m, w in zip(matched, trust, strict=True)])
    detail = _mean(matched - coarse, trust.clamp(min=0) ** config.detail_power)
    broad = blurred(mean, trust.amax(0), radius)
    return torch.where(best > 0, broad + detail, mean), best


def spread_views(views: tuple[View, ...], most: int) -> list[View]:
    """Up to `most` views, sharp ones, turned as differently as there are."""
    turns = torch.stack([view.rotation for view in views])
    scores = torch.tensor([view.score for view in views])
    order = [int(scores.argmax())]
    nearest = (turns - turns[order[0]]).norm(dim=1)
    while len(order) < min(most, len(views)):
        # a second view of one turn still takes noise off the first
        best = ((nearest + 0.05) * scores).clone()
        best[order] = -1
        order.append(int(best.argmax()))
        nearest = torch.minimum(nearest, (turns - turns[order[-1]]).norm(dim=1))
    return [views[index] for index in sorted(order)]


def _mean(values: Float[Tensor, "N 3 K K"], weights: Float[Tensor, "N K K"]) -> Tensor:
    total = weights.sum(0).clamp(min=1e-6)
    return torch.einsum("nckl,nkl->ckl", values, weights) / total


def _matched(differences: Tensor, weights: Tensor, present: Tensor) -> Tensor:
    """The views without constant differences in brightness and tint between them.

    The best-covered view keeps its own; the others follow where they overlap what is there.
    """
    order = weights.sum((1, 2)).argsort(descending=True).tolist()
    result = differences.clone()
    first = order[0]
    total, values = weights[first].clone(), weights[first] * differences[first]
    seen = present[first]
    for index in order[1:]:
        common = weights[index] * (seen & present[index])
        if float(common.sum()) > 0:
            gap = differences[index] - values / total.clamp(min=1e-6)
            shift = (gap * common).sum((1, 2)) / common.sum()
            result[index] = differences[index] - shift[:, None, None]
        total, seen = total + weights[index], seen | present[index]
        values = values + weights[index] * result[index]
    return result


def _samples(
    flame: Flame, region: FaceRegion, shape: Tensor, view: View, side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """sRGB, UV and normals of the pixels of a view that show the face proper."""
    image = torch.nn.functional.interpolate(
        view.image, (side, side), mode="bilinear", antialias=True, align_corners=False
    )
    verts = flame(view_params(view, shape)).verts
    fragments = rasterize(view.camera.clip(verts, (side, side)), region.faces, (side, side))
    normals = vertex_normals(verts, region.faces)
    drawn = interpolate(torch.cat([normals, region.share[None]], -1), region.faces, fragments)[0]
    uv = interpolate(region.uv, region.uv_faces, fragments)[0]
    facing = torch.nn.functional.normalize(drawn[..., :3], dim=-1)
    inside = (drawn[..., 3] > 0.5) & (facing[..., 2] > 0.2)
    return image[0].movedim(0, -1)[inside], uv[inside], facing[inside]


def _relit(
    model: AlbedoModel,
    albedo: Tensor,
    pixels: Tensor,
    uv: Tensor,
    normals: Tensor,
    start: Tensor,
    config: MultiTextureConfig,
) -> Float[Tensor, "9 3"]:
    """The light of one view for the shared albedo: robust least squares of relative errors."""
    if len(pixels) < 30:
        return start
    base, slopes = model.basis_at(uv)
    skin = (base + torch.einsum("a,acn->cn", albedo, slopes)).exp()  # [3, N]
    seen = srgb_to_linear(pixels).clamp(min=2e-3).T
    basis = sh_basis(normals)
    usable = ((seen.amax(0) < 0.97) & (seen.amin(0) > 3e-3)).float()
    light = start.clone()
    ridge = config.light_prior * torch.eye(9)
    for _ in range(4):
        rows = basis[None] * (skin / seen)[..., None]  # [3, N, 9]: 1 where it explains the pixel
        error = torch.einsum("cnk,kc->cn", rows, light) - 1
        off = error.square().mean(0).sqrt() / config.light.noise
        weight = usable / (1 + (off / config.light.outlier) ** 2) ** 2
        weight = weight / weight.sum().clamp(min=1e-6)
        normal = rows.mT @ (rows * weight[:, None]) + ridge
        right = (rows * weight[:, None]).sum(1) + start.T @ ridge
        light = torch.linalg.solve(normal, right).T
    return light


def _unprojected(
    flame: Flame,
    region: FaceRegion,
    layout: UvLayout,
    shape: Tensor,
    view: View,
    light: Tensor,
    base: Tensor,
    config: MultiTextureConfig,
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "K K"]]:
    """Log difference of a view to the shared albedo on the texture's plane, and its weight."""
    texture = config.texture
    size = (view.image.shape[-2], view.image.shape[-1])
    verts = flame(view_params(view, shape)).verts
    normals = vertex_normals(verts, region.faces)
    depth = view.camera.depth(verts)[..., None]
    points = view.camera.project(verts, size)[..., :2]
    fields = torch.cat([points, depth, normals, region.share[None]], dim=-1)
    texels = layout.bake(fields, region.faces)[0]
    place, away, share = texels[:2], texels[2], texels[6]
    normal = torch.nn.functional.normalize(texels[3:6], dim=0)
    grid = torch.stack([place[0] / size[1], place[1] / size[0]], dim=-1) * 2 - 1
    photo = sampled(view.image, grid)
    fragments = rasterize(view.camera.clip(verts, size), region.faces, size)
    front = interpolate(depth, region.faces, fragments).movedim(-1, 1)
    hidden = fragments.face_id[:, None] < 0
    nearest = sampled(torch.where(hidden, torch.full_like(front, 1e3), front), grid, "nearest")
    facing = ((normal[2] - 0.25) / 0.6).clamp(0, 1)
    seen = facing.square() * (away < nearest[0] + texture.depth_slack)
    seen = seen * (grid.abs() < 1).all(-1)
    shading = sh_shading(normal.movedim(0, -1)[None], light[None])[0].clamp(min=0.05)
    photo = srgb_to_linear(photo)
    difference = photo.clamp(min=2e-3).log() - shading.movedim(-1, 0).log() - base.log()
    difference = difference.clamp(-1.2, 0.8)
    # highlights that clip have lost their colour
    weight = share * seen * layout.valid * (photo.amax(0) < 0.98)
    broad = blurred(difference, weight, texture.side // 64)
    trust = 1 / (1 + (broad.square().mean(0).sqrt() / texture.outlier) ** 4)
    weight = eroded(weight * trust, texture.side // 128)
    return difference, weight


def _worth(view: View) -> float:
    """How good a picture is: sharp, sure and large, up to 1."""
    pixels_a_metre = float(view.camera.scale[0]) * view.image.shape[-2] / 2
    return max(view.score * min(1.0, pixels_a_metre / 2500) ** 2, 1e-3)
