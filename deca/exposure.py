"""How bright the light on a face is, once its albedo and the light's directions are known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deca.codes import Codes
from flame.albedo import AlbedoModel
from flame.light import sh_basis
from flame.model import Flame
from flame.normals import vertex_normals
from flame.records import TensorRecord
from flame.srgb import srgb_to_linear

_FACING = 0.35  # cosine from which a vertex counts as seen
_LEAST = 0.03  # shading and light below are dark whatever they are


@dataclass(frozen=True, eq=False)
class SkinSamples(TensorRecord):
    """Vertices of the face's skin, and the log of linear albedo there as codes make it."""

    verts: Int[Tensor, " N"]
    base: Float[Tensor, "3 N"]
    slopes: Float[Tensor, "A 3 N"]


def skin_samples(flame: Flame, albedo: AlbedoModel, verts: Int[Tensor, " D"]) -> SkinSamples:
    """The skin among some vertices, with the colours of an albedo model."""
    topology = flame.topology
    polygons, uv_polygons = topology.polygons, topology.uv_polygons
    skin = topology.material_ids == topology.material_names.index("skin")
    uv_of = torch.full((len(flame.template),), -1)
    used = polygons[skin] >= 0
    uv_of[polygons[skin][used]] = uv_polygons[skin][used]
    verts = verts[uv_of[verts] >= 0]
    base, slopes = albedo.basis_at(topology.uv[uv_of[verts]])
    return SkinSamples(verts, base, slopes)


@torch.no_grad()
def exposed(
    codes: Codes, image: Float[Tensor, "1 3 K K"], flame: Flame, samples: SkinSamples
) -> Codes:
    """The same codes with light as bright as makes the skin look as it does in the picture.

    The median over what faces the camera, per channel; half of the colour's difference from grey
    is believed, since light and skin share it. Where nothing is seen the light stays.
    """
    size = (image.shape[-2], image.shape[-1])
    verts = flame(codes.params).verts
    normals = vertex_normals(verts, flame.topology.faces())[0, samples.verts]
    place = codes.camera.project(verts[:, samples.verts], size)[0, :, :2]
    grid = (place / place.new_tensor([size[1], size[0]]) * 2 - 1)[None, None]
    pixels = torch.nn.functional.grid_sample(image, grid, align_corners=False)[0, :, 0]  # [3, N]
    inside = (grid[0, 0].abs() < 1).all(1)
    linear = srgb_to_linear(pixels)
    seen: Bool[Tensor, " N"] = inside & (normals[:, 2] > _FACING) & (linear.amax(0) < 0.95)
    if int(seen.sum()) < 8:
        return codes
    shading = (sh_basis(normals) @ codes.light[0]).clamp(min=_LEAST).T
    expected = samples.base + torch.einsum("a,acn->cn", codes.albedo[0], samples.slopes)
    gain = (linear.clamp(min=2e-3).log() - shading.log() - expected)[:, seen].median(1).values
    gain = gain.mean() + 0.5 * (gain - gain.mean())
    return Codes(codes.params, codes.albedo, codes.camera, codes.light * gain.exp())
