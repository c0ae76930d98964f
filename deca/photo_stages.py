"""DECA's two stages as sums of losses over a batch of photos (Feng et al. 2021, section 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deca.detail_losses import (
    Features,
    displacement_loss,
    perceptual_loss,
    smoothness_loss,
    symmetry_loss,
    texture_loss,
)
from deca.official_surface import DetailMaps, DetailSurface, detail_surface
from deca.official_texture import extract_texture
from deca.photo_faces import Decoded, Face, PhotoCodes, render
from deca.photo_folder import PhotoBatch
from deca.photo_identity import Identity
from deca.photo_losses import (
    EYE_PAIRS,
    LIP_PAIRS,
    closure_loss,
    code_prior,
    identity_loss,
    landmark_loss,
    landmark_weights,
    light_prior,
    partners,
    photometric_loss,
)
from deca.resnet import CROP_SIDE
from flame.light import sh_shading
from flame.records import TensorRecord
from flame.srgb import linear_to_srgb
from flame.texture import UvLayout, unwrap

Autocast = Callable[[], AbstractContextManager[None]]
_Record = TypeVar("_Record", bound=TensorRecord)
Terms = dict[str, Tensor]


@dataclass(frozen=True)
class CoarseWeights:
    """What each loss of the first stage is multiplied by; the published ones, then ours."""

    landmark: float = 1.0
    eye: float = 1.0
    lip: float = 0.5
    photometric: float = 2.0
    identity: float = 0.2
    shape: float = 1e-4
    expression: float = 1e-4
    albedo: float = 1e-4
    light: float = 1.0
    dense: float = 1.0  # points beyond the 68, where a head has them
    bounds: float = 0.1  # codes beyond what they mean


@dataclass(frozen=True)
class DetailWeights:
    """What each loss of the second stage is multiplied by."""

    photometric: float = 2.0
    perceptual: float = 0.1
    displacement: float = 0.005
    smoothness: float = 0.005
    symmetry: float = 0.005


class CoarseStage:
    """Shape, expression, pose, camera, albedo and light from crops.

    Without `pixels` only points and priors count. With `consistency` everything is asked once more
    of each picture with the shape that another picture of the same subject gave.
    """

    def __init__(
        self,
        face: Face,
        weights: CoarseWeights,
        identity: Identity | None,
        *,
        pixels: bool = True,
        consistency: bool = True,
    ) -> None:
        self.face, self.weights, self.identity = face, weights, identity
        self.pixels, self.consistency = pixels, consistency
        self._point_weights = landmark_weights()

    def to(self, device: torch.device) -> None:
        """Move the identity's network to a device."""
        if self.identity is not None:
            self.identity.to(device)

    def terms(
        self, batch: PhotoBatch, pictures: int, autocast: Autocast, *, generator: torch.Generator
    ) -> Terms:
        """The weighted losses by name; their sum is what is trained on."""
        with autocast():
            codes = self.face.encode(batch.images)
        if self.consistency and pictures > 1:
            other = partners(len(batch.images) // pictures, pictures, generator=generator)
            codes, batch = swapped_shape(codes, other), joined(batch, batch)
        return self.of_codes(codes, batch)

    def of_codes(self, codes: PhotoCodes, batch: PhotoBatch) -> Terms:
        """The weighted losses of codes for crops."""
        weights, face = self.weights, self.face
        decoded = face.decode(codes, batch.outline)
        points, truth, seen = decoded.points68, batch.points, batch.visibility
        terms = {
            "landmark": landmark_loss(points, truth, seen, self._point_weights.to(points)),
            "eye": closure_loss(points, truth, seen, EYE_PAIRS),
            "lip": closure_loss(points, truth, seen, LIP_PAIRS),
            "shape": code_prior(codes.shape),
            "expression": code_prior(codes.expression),
            "bounds": face.out_of_range(codes),
        }
        if decoded.dense.shape[1] and decoded.dense.shape == batch.dense.shape:
            even = decoded.dense.new_ones(decoded.dense.shape[1])
            terms["dense"] = landmark_loss(decoded.dense, batch.dense, batch.dense_visibility, even)
        if self.pixels:
            terms |= {"albedo": code_prior(codes.albedo), "light": light_prior(codes.light)}
            terms |= self._pixel_terms(decoded, batch)
        return {name: getattr(weights, name) * value for name, value in terms.items()}

    def _pixel_terms(self, decoded: Decoded, batch: PhotoBatch) -> Terms:
        drawn = render(self.face, decoded, batch.images, batch.masks)
        mask = batch.masks * drawn.share
        terms = {"photometric": photometric_loss(drawn.image, batch.images, mask)}
        if self.identity is not None:
            # the photo fills what the model does not draw, so that only the face tells them apart
            overlaid = drawn.image * mask + batch.images * (1 - mask)
            with torch.no_grad():
                true = self.identity(batch.images, batch.points)
            terms["identity"] = identity_loss(self.identity(overlaid, batch.points), true)
        return terms


def swapped_shape(codes: PhotoCodes, other: Int[Tensor, " B"]) -> PhotoCodes:
    """The codes, and after them the same with the shapes of the pictures named by `other`."""
    return joined(codes, dataclasses.replace(codes, shape=codes.shape[other]))


def joined(first: _Record, second: _Record) -> _Record:
    """Two records of tensors, one batch after the other."""
    names = [field.name for field in dataclasses.fields(first)]  # type: ignore[arg-type]
    return type(first)(
        **{name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names}
    )


@dataclass(frozen=True, eq=False)
class Wrinkled(TensorRecord):
    """Textures of heads with their wrinkles: ours, the photo's, and where that shows them."""

    texture: Float[Tensor, "B 3 K K"]  # sRGB
    shading: Float[Tensor, "B 3 K K"]
    truth: Float[Tensor, "B 3 K K"]
    visible: Float[Tensor, "B 1 K K"]
    raised: Float[Tensor, "B 1 K K"]
    normals: Float[Tensor, "B 3 K K"]


class DetailStage:
    """Displacement from crops; the first stage's codes stand still.

    With `consistency` everything is asked once more with the detail codes that another picture of
    the same subject gave, expressions staying.
    """

    def __init__(
        self,
        face: Face,
        weights: DetailWeights,
        look: Features,
        maps: DetailMaps | None = None,
        *,
        consistency: bool = True,
        side: int = 256,
    ) -> None:
        self.face, self.weights, self.look, self.consistency = face, weights, look, consistency
        region = face.region
        self.layout: UvLayout = unwrap(region.uv, region.uv_faces, side, gutter=0)
        if maps is None:
            share = self.layout.bake(region.share[None], region.faces)[0, 0]
            maps = DetailMaps(share * self.layout.valid, torch.zeros(side, side))
        self.maps = maps
        self.patch = _bounds(maps.mask > 0.5)

    def to(self, device: torch.device) -> None:
        """Move the maps to a device."""
        self.layout, self.maps = self.layout.to(device), self.maps.to(device)
        self.look.to(device)

    def terms(
        self, batch: PhotoBatch, pictures: int, autocast: Autocast, *, generator: torch.Generator
    ) -> Terms:
        """The weighted losses by name; their sum is what is trained on."""
        other = None
        if self.consistency and pictures > 1:
            other = partners(len(batch.images) // pictures, pictures, generator=generator)
        made = self.wrinkled(batch, autocast, other)
        weights, (rows, columns) = self.weights, self.patch
        side = made.texture.shape[-1]

        def patch(images: Tensor) -> Tensor:
            return F.interpolate(
                images[..., rows, columns], (side, side), mode="bilinear", align_corners=False
            )

        texture, truth, visible = (patch(x) for x in (made.texture, made.truth, made.visible))
        unseen = self.maps.mask * (1 - made.visible)
        terms = {
            "photometric": texture_loss(texture, truth, visible),
            "perceptual": perceptual_loss(self.look, texture * visible, truth * visible),
            "displacement": displacement_loss(made.raised),
            "smoothness": smoothness_loss(made.shading),
            "symmetry": symmetry_loss(made.raised, unseen),
        }
        return {name: getattr(weights, name) * value for name, value in terms.items()}

    def wrinkled(
        self, batch: PhotoBatch, autocast: Autocast, other: Int[Tensor, " B"] | None = None
    ) -> Wrinkled:
        """Textures of the batch, and after it those with the detail of the pictures of `other`."""
        face = self.face
        with torch.no_grad(), autocast():
            codes = face.encode(batch.images)
        with torch.no_grad():
            decoded, told = face.decode(codes, batch.outline), face.wrinkling(codes)
            truth, visible = self._seen(batch, decoded)
            gain = render(face, decoded, batch.images, batch.masks).gain
        crops = batch.images
        if crops.shape[-1] != CROP_SIDE:
            crops = F.interpolate(
                crops, (CROP_SIDE, CROP_SIDE), mode="bilinear", align_corners=False
            )
        with autocast():
            detail = face.detail.E_detail(crops).float()
        assert decoded.texture is not None
        albedo = F.interpolate(
            decoded.texture, truth.shape[-2:], mode="bilinear", align_corners=False
        )
        verts, light = decoded.verts, decoded.light * gain[:, None, None]
        if other is not None:
            detail = torch.cat([detail, detail[other]])
            told, verts, light, albedo, truth, visible = (
                torch.cat([x, x]) for x in (told, verts, light, albedo, truth, visible)
            )
        with autocast():
            raised = face.detail.D_detail(torch.cat([told, detail], dim=1)).float()
        surface: DetailSurface = detail_surface(
            verts, face.region.faces, self.layout, raised, self.maps
        )
        shading = sh_shading(surface.normals.movedim(1, -1), light).movedim(-1, 1)
        if face.linear:
            texture = linear_to_srgb(albedo * shading.clamp(min=1e-3))
        else:
            texture = albedo * shading
        return Wrinkled(texture, shading, truth, visible, raised, surface.normals)

    def _seen(self, batch: PhotoBatch, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """The photo's colours on the texture, and where they are the face's skin."""
        region = self.face.region
        photo, skin = (
            extract_texture(
                images, decoded.verts, region.faces, decoded.camera, self.layout, self.maps.mask
            )
            for images in (batch.images, batch.masks.expand(-1, 3, -1, -1).contiguous())
        )
        return photo.image, photo.coverage * (skin.image[:, :1] > 0.5)


def _bounds(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns from the first to the last true one."""
    found = []
    for axis in (1, 0):
        index = mask.any(axis).nonzero()[:, 0]
        found.append(slice(int(index[0]), int(index[-1]) + 1))
    return found[0], found[1]
