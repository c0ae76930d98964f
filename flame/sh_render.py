"""Pictures of a matt mesh in spherical-harmonic light, differentiable and fused.

What a pixel needs is worked out from its face and nothing else is kept of it, neither between the
steps of a picture nor between a picture and its gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.interpolate import interpolate
from flame.light import SH_CONSTANTS, sh_shading
from flame.raster import (
    Fragments,
    check_indices,
    each,
    empty,
    homogeneous_pixels,
    load_kernels,
    rasterize,
)
from flame.records import TensorRecord
from flame.texture import sample_texture

_SMALLEST_SQUARE = 1e-24  # of a normal's length, as in torch.nn.functional.normalize
_BAND = 64  # rows: a smaller band of a picture is not worth a thread


@dataclass(frozen=True, eq=False)
class ShImage(TensorRecord):
    """B pictures of a mesh, and which face each pixel sees."""

    image: Float[Tensor, "B 3 H W"]  # linear, unless the albedo was not; 0 in the background
    fragments: Fragments  # without gradients, unless they were given with them

    @property
    def mask(self) -> Bool[Tensor, "B H W"]:
        """Whether a pixel sees the mesh."""
        return self.fragments.face_id >= 0


def _kernel(dtype: torch.dtype) -> Callable[..., int]:
    kernels = load_kernels("sh_kernels")
    chosen: Callable[..., int] = (
        kernels.shaded_in_double() if dtype == torch.float64 else kernels.shaded
    )
    return chosen


def render_sh(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    normals: Float[Tensor, "B V 3"],
    albedo: Float[Tensor, "B V 3"] | Float[Tensor, "B 3 K L"],
    sh_light: Float[Tensor, "B 9 3"],
    size: tuple[int, int],
    *,
    fragments: Fragments | None = None,
    uv: Float[Tensor, "T 2"] | None = None,
    uv_faces: Int[Tensor, "F 3"] | None = None,
    least: float = -math.inf,
) -> ShImage:
    """Albedo times order-2 spherical-harmonic light at the nearest face of each pixel.

    verts are in screen or clip space, as in `rasterize`. Albedo is a colour per vertex or, with uv
    and uv_faces, a texture that is sampled as by `sample_texture`. Vertex normals are interpolated
    and made unit; where they cancel they are 0 and get no gradient. Shading below `least` is raised
    to it. Pass fragments if they are known already; their barycentrics are not used. Gradients
    reach verts (through the barycentrics, not through coverage), normals, albedo and sh_light.
    """
    _check(verts, faces, normals, albedo, sh_light, size, fragments, uv, uv_faces)
    if fragments is None:
        fragments = rasterize(verts.detach(), faces, size)
    if verts.device.type != "cpu" or verts.dtype not in (torch.float32, torch.float64):
        return _plain(verts, faces, normals, albedo, sh_light, size, fragments, uv, uv_faces, least)
    image: Tensor = _RenderSh.apply(  # type: ignore[no-untyped-call]
        verts,
        normals,
        albedo,
        sh_light,
        faces.long().contiguous(),
        _compact(fragments.face_id),
        None if uv is None else uv.to(verts.dtype).contiguous(),
        None if uv_faces is None else uv_faces.long().contiguous(),
        least,
    )
    return ShImage(image, fragments)


def _compact(face_id: Tensor) -> Tensor:
    """Face indices in the four bytes that are kept for the gradients."""
    return empty(face_id.shape, torch.int32).copy_(face_id)


def render_sh_reference(
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    normals: Float[Tensor, "B V 3"],
    albedo: Float[Tensor, "B V 3"] | Float[Tensor, "B 3 K L"],
    sh_light: Float[Tensor, "B 9 3"],
    size: tuple[int, int],
    *,
    fragments: Fragments | None = None,
    uv: Float[Tensor, "T 2"] | None = None,
    uv_faces: Int[Tensor, "F 3"] | None = None,
    least: float = -math.inf,
) -> ShImage:
    """What `render_sh` returns, one step after the other on any device."""
    _check(verts, faces, normals, albedo, sh_light, size, fragments, uv, uv_faces)
    if fragments is None:
        fragments = rasterize(verts.detach(), faces, size)
    return _plain(verts, faces, normals, albedo, sh_light, size, fragments, uv, uv_faces, least)


def _plain(
    verts: Tensor,
    faces: Tensor,
    normals: Tensor,
    albedo: Tensor,
    sh_light: Tensor,
    size: tuple[int, int],
    fragments: Fragments,
    uv: Tensor | None,
    uv_faces: Tensor | None,
    least: float,
) -> ShImage:
    seen = Fragments(
        fragments.face_id, _barycentrics(verts, faces, fragments.face_id, size), fragments.depth
    )
    facing = torch.nn.functional.normalize(interpolate(normals, faces, seen), dim=-1)
    if uv is None or uv_faces is None:
        colour = interpolate(albedo, faces, seen).movedim(-1, 1)
    else:
        colour = sample_texture(albedo, interpolate(uv.to(albedo.dtype), uv_faces, seen))
    shading = sh_shading(facing, sh_light).clamp(min=least).movedim(-1, 1)
    covered = fragments.face_id[:, None] >= 0
    return ShImage(torch.where(covered, colour * shading, 0.0), fragments)


def _barycentrics(verts: Tensor, faces: Tensor, face_id: Tensor, size: tuple[int, int]) -> Tensor:
    """Barycentrics at the pixels of known faces, differentiable in verts [B, H, W, 3]."""
    item, row, column = torch.nonzero(face_id >= 0, as_tuple=True)
    points = homogeneous_pixels(verts, size)
    corners = points[item[:, None], faces.long()[face_id[item, row, column].long()]]
    centre = torch.stack([column + 0.5, row + 0.5], dim=-1)[:, None].to(points.dtype)
    dx, dy = (corners[..., :2] - centre * corners[..., 3:]).unbind(-1)
    edges = dx.roll(-1, 1) * dy.roll(-2, 1) - dx.roll(-2, 1) * dy.roll(-1, 1)
    bary = points.new_zeros(*face_id.shape, 3).index_put(
        (item, row, column), edges / edges.sum(-1, keepdim=True)
    )
    return bary.to(verts.dtype)


class _RenderSh(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        verts: Tensor,
        normals: Tensor,
        albedo: Tensor,
        sh_light: Tensor,
        faces: Tensor,
        face_id: Tensor,
        uv: Tensor | None,
        uv_faces: Tensor | None,
        least: float,
    ) -> Tensor:
        scene = _Scene(verts, normals, albedo, sh_light, faces, face_id, uv, uv_faces, least)
        image = empty((len(verts), 3, *face_id.shape[1:]), verts.dtype)
        pictures, draw = image.numpy(), _kernel(verts.dtype)
        none = verts.new_zeros(0, 0, 0).numpy()
        nothing = verts.new_zeros(0, 0, dtype=torch.float64).numpy()

        def work(index: int) -> int:
            item, rows = scene.part(index)
            drawn = pictures[item]
            drawn[:, rows[0] : rows[1]].fill(0)
            return int(draw(*scene.arguments(item, rows), drawn, 0, *[nothing] * 4, none))

        if any(each(work, scene.parts)):
            raise ValueError(
                f"fragments.face_id points past the {len(faces)} faces; pass the fragments of "
                "these faces"
            )
        ctx.save_for_backward(verts, normals, albedo, sh_light, faces, face_id, uv, uv_faces)
        ctx.least = least
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_image: Tensor) -> tuple[Tensor | None, ...]:
        verts, normals, albedo, sh_light, faces, face_id, uv, uv_faces = ctx.saved_tensors
        scene = _Scene(verts, normals, albedo, sh_light, faces, face_id, uv, uv_faces, ctx.least)
        count, of_vertex = scene.parts, verts.shape[1]
        # each part of a picture has sums of its own, which are added up in order; its thread
        # clears them
        grad_points = torch.empty(count, of_vertex, 4, dtype=torch.float64)
        grad_normals = torch.empty(count, of_vertex, 3, dtype=torch.float64)
        grad_light = torch.empty(count, 9, 3, dtype=torch.float64)
        colours = ctx.needs_input_grad[2] and uv is None
        texels = ctx.needs_input_grad[2] and uv is not None
        grad_values = torch.empty(count, of_vertex if colours else 0, 3, dtype=torch.float64)
        texture = (*albedo.shape[1:],) if texels else (0, 0, 0)
        grad_texture = torch.empty(count, *texture, dtype=verts.dtype)
        arrays = [grad_points, grad_normals, grad_values, grad_light, grad_texture]
        grads = [array.numpy() for array in arrays]
        incoming, draw = grad_image.contiguous().numpy(), _kernel(verts.dtype)

        def work(index: int) -> None:
            item, rows = scene.part(index)
            for grad in grads:
                grad[index].fill(0)
            draw(*scene.arguments(item, rows), incoming[item], 1, *(grad[index] for grad in grads))

        each(work, count)
        points, normal, value, light, texel = (scene.added_up(array) for array in arrays)
        colour = texel if texels else value if colours else None
        return (
            _from_points(points, verts.shape[-1], face_id.shape[1:]).to(verts.dtype),
            normal.to(verts.dtype),
            None if colour is None else colour.to(verts.dtype),
            _from_folded(light).to(verts.dtype),
            None, None, None, None, None,
        )  # fmt: skip


class _Scene:
    """What the kernels read, cut into the parts that threads share out."""

    def __init__(
        self,
        verts: Tensor,
        normals: Tensor,
        albedo: Tensor,
        sh_light: Tensor,
        faces: Tensor,
        face_id: Tensor,
        uv: Tensor | None,
        uv_faces: Tensor | None,
        least: float,
    ) -> None:
        batch, height = len(verts), face_id.shape[1]
        albedo = albedo.detach().contiguous()
        self.batch, self.textured = batch, uv is not None and uv_faces is not None
        self.points = homogeneous_pixels(verts.detach(), (height, face_id.shape[2])).contiguous()
        self.faces, self.face_id = faces.numpy(), face_id.numpy()
        self.normals = normals.detach().contiguous().numpy()
        self.look = _folded(sh_light.detach(), least).numpy()
        self.no_texture = albedo.new_zeros(0, 0, 0).numpy()
        self.albedo = albedo.numpy()
        self.uv = None if uv is None else uv.detach().numpy()
        self.uv_faces = None if uv_faces is None else uv_faces.numpy()
        threads = torch.get_num_threads()
        self.bands = 1 if batch >= threads else max(1, min(threads, height // _BAND))
        self.edges = [band * height // self.bands for band in range(self.bands + 1)]
        self.parts = batch * self.bands

    def part(self, index: int) -> tuple[int, tuple[int, int]]:
        """Picture and rows of one part."""
        item, band = divmod(index, self.bands)
        return item, (self.edges[band], self.edges[band + 1])

    def arguments(self, item: int, rows: tuple[int, int]) -> tuple[Any, ...]:
        """What both kernels take first."""
        look = self.look[item]
        first = (self.points[item].numpy(), self.faces, self.face_id[item], *rows)
        if self.textured:
            values = (self.uv, self.uv_faces, self.albedo[item])
        else:
            values = (self.albedo[item], self.faces, self.no_texture)
        return (*first, self.normals[item], *values, look)

    def added_up(self, parts: Tensor) -> Tensor:
        """Sums over the bands of each picture."""
        if self.bands == 1:
            return parts
        return parts.view(self.batch, self.bands, *parts.shape[1:]).sum(1)


def _folded(sh_light: Tensor, least: float) -> Tensor:
    """Coefficients of 1, x, y, z, xy, xz, yz, x² - y², z², then the kernels' constants [B, 30]."""
    light = sh_light.double() * sh_light.new_tensor(SH_CONSTANTS, dtype=torch.float64)[:, None]
    light[:, 0] -= light[:, 8]
    light[:, 8] *= 3
    constants = light.new_tensor([least, 1.0, _SMALLEST_SQUARE]).expand(len(light), 3)
    return torch.cat([light.flatten(1), constants], dim=1).to(sh_light.dtype)


def _from_folded(grad: Tensor) -> Tensor:
    """Gradient of the light from that of its folded coefficients [B, 9, 3]."""
    grad = grad.clone()
    grad[:, 8] = 3 * grad[:, 8] - grad[:, 0]
    return grad * grad.new_tensor(SH_CONSTANTS)[:, None]


def _from_points(grad: Tensor, coordinates: int, size: torch.Size) -> Tensor:
    """Gradient of verts from that of `homogeneous_pixels` [B, V, D]."""
    if coordinates == 3:
        return grad[..., :3]
    along, down = grad[..., 0] * (size[1] / 2), grad[..., 1] * (size[0] / 2)
    w = along + down + grad[..., 3]
    return torch.stack([along, -down, torch.zeros_like(w), w], dim=-1)


def _check(
    verts: Tensor,
    faces: Tensor,
    normals: Tensor,
    albedo: Tensor,
    sh_light: Tensor,
    size: tuple[int, int],
    fragments: Fragments | None,
    uv: Tensor | None,
    uv_faces: Tensor | None,
) -> None:
    batch, count = verts.shape[:2]
    given = {"normals": normals, "albedo": albedo, "sh_light": sh_light}
    for name, tensor in given.items():
        if tensor.device != verts.device or tensor.dtype != verts.dtype:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device} and verts {verts.dtype} on "
                f"{verts.device}; bring them together with .to(verts)"
            )
        if len(tensor) != batch:
            raise ValueError(
                f"{name} has {len(tensor)} batch items and verts {batch}; expand one of them"
            )
    if normals.shape != (batch, count, 3):
        raise ValueError(f"normals are {list(normals.shape)}; pass one per vertex, [B, {count}, 3]")
    if sh_light.shape[1:] != (9, 3):
        raise ValueError(f"sh_light is {list(sh_light.shape)}; pass [B, 9, 3]")
    if (uv is None) != (uv_faces is None):
        raise ValueError("uv and uv_faces belong together; pass both, or neither")
    if uv is None or uv_faces is None:
        if albedo.shape != (batch, count, 3):
            raise ValueError(
                f"albedo is {list(albedo.shape)}; pass a colour per vertex, [B, {count}, 3], or a "
                "texture [B, 3, K, K] with uv and uv_faces"
            )
    else:
        if albedo.ndim != 4 or albedo.shape[1] != 3 or not albedo[0].numel():
            raise ValueError(
                f"albedo is {list(albedo.shape)}; pass a texture [B, 3, K, K] with uv and uv_faces"
            )
        if uv_faces.shape != faces.shape:
            raise ValueError(
                f"uv_faces are {list(uv_faces.shape)} and faces {list(faces.shape)}; pass the same "
                "triangles in the same order"
            )
        check_indices(uv_faces, len(uv), "uv_faces")
    check_indices(faces, count, "faces")
    shape = (batch, *size)
    if fragments is not None and fragments.face_id.shape != shape:
        raise ValueError(
            f"fragments.face_id is {list(fragments.face_id.shape)}, but verts and size call for "
            f"{list(shape)}"
        )
