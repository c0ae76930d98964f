"""One sheet that shows what training on photos has come to: a row a photo."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from deca.photo_faces import Face, render
from deca.photo_folder import PhotoBatch
from deca.photo_stages import DetailStage
from flame.interpolate import interpolate
from flame.light import SH_CONSTANTS, sh_shading
from flame.normals import vertex_normals
from flame.overlay import draw_landmarks
from flame.raster import rasterize
from flame.texture import sample_texture

_GREY = 0.71
_SEEN, _FOUND = (0.2, 0.9, 0.3), (1.0, 0.25, 0.2)


def _plain() -> AbstractContextManager[None]:
    return nullcontext()


@torch.no_grad()
def preview_sheet(
    face: Face, batch: PhotoBatch, detail: DetailStage | None = None
) -> Float[Tensor, "1 3 H W"]:
    """Crop, points (the photo's green, ours red), skin mask, picture, shape and, with it, detail.

    Heads without albedo have no picture.
    """
    codes = face.encode(batch.images)
    decoded = face.decode(codes, batch.outline)
    size = batch.images.shape[-1]
    marked = draw_landmarks(
        batch.images, _pixels(batch.points, size), radius_px=size / 110, colour=_SEEN
    )
    marked = draw_landmarks(
        marked, _pixels(decoded.points68, size), radius_px=size / 110, colour=_FOUND
    )
    columns = [batch.images, marked, batch.images * (0.25 + 0.75 * batch.masks)]
    region = face.region
    clip = decoded.camera.clip(decoded.verts, (size, size))
    fragments = rasterize(clip, region.faces, (size, size))
    inside = (fragments.face_id >= 0)[:, None]
    if decoded.texture is not None:
        drawn = render(face, decoded, batch.images, batch.masks)
        columns.append(torch.where(drawn.share > 0.5, drawn.image, batch.images))
    smooth = interpolate(vertex_normals(decoded.verts, region.faces), region.faces, fragments)
    columns.append(torch.where(inside, _grey(smooth), batch.images))
    if detail is not None:
        made = detail.wrinkled(batch, _plain)
        place = interpolate(region.uv.to(clip.dtype), region.uv_faces, fragments)
        fine = sample_texture(made.normals, place).movedim(1, -1)
        columns.append(torch.where(inside, _grey(fine), batch.images))
    rows = torch.cat(columns, dim=3)  # [B, 3, K, columns K]
    return rows.movedim(0, 1).flatten(1, 2)[None].clamp(0, 1)


def _grey(normals: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    """A grey surface lit from above and before it."""
    light = normals.new_zeros(len(normals), 9, 3)
    for band, strength in ((0, 0.42), (1, -0.12), (2, 0.22), (3, 0.5)):
        light[:, band] = strength / SH_CONSTANTS[band]
    unit = torch.nn.functional.normalize(normals, dim=-1)
    return _GREY * sh_shading(unit, light).movedim(-1, 1)


def _pixels(points: Float[Tensor, "B L 2"], size: int) -> Float[Tensor, "B L 2"]:
    return (points + 1) * (size / 2)
