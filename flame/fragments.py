"""What a rasterizer takes and gives, whichever way it goes about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.records import TensorRecord

LARGEST_SIDE = 16_384
_INDICES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Fragments(TensorRecord):
    """What each pixel of B images of H x W sees."""

    face_id: Int[Tensor, "B H W"]  # -1 in the background
    bary: Float[Tensor, "B H W 3"]  # weights of the face's corners; 0 in the background
    depth: Float[Tensor, "B H W"]  # the third coordinate (clip space: z/w); inf in the background


def homogeneous_pixels(
    verts: Float[Tensor, "B V D"], size: tuple[int, int]
) -> Float[Tensor, "B V 4"]:
    """Rows (x w, y w, z, w) in float64 with x, y in pixels, from screen or clip space."""
    height, width = size
    points = verts.double()
    if verts.shape[-1] == 3:
        return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    x, y, z, w = points.unbind(-1)
    return torch.stack([(x + w) * (width / 2), (w - y) * (height / 2), z, w], dim=-1)


def pad_meshes(
    verts: Sequence[Float[Tensor, "_ D"]], faces: Sequence[Int[Tensor, "_ 3"]]
) -> tuple[Float[Tensor, "B V D"], Int[Tensor, "B F 3"]]:
    """Different meshes as one batch for `rasterize`: verts end in zeros, faces in rows of -1."""
    if len(verts) != len(faces) or not len(verts):
        raise ValueError(
            f"verts hold {len(verts)} meshes and faces {len(faces)}; pass one of each for every "
            "mesh, and at least one mesh"
        )
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(list(verts), batch_first=True), pad(list(faces), True, padding_value=-1)


def check_arguments(verts: Tensor, faces: Tensor, size: tuple[int, int]) -> None:
    """Raise ValueError where `rasterize` cannot take these; indices are not looked at."""
    if verts.ndim != 3:
        raise ValueError(f"verts have the shape {tuple(verts.shape)}; pass [B, V, 3 or 4]")
    if verts.shape[-1] not in (3, 4):
        raise ValueError(
            f"verts have {verts.shape[-1]} coordinates; pass 3 (screen space: pixels and depth) "
            "or 4 (clip space)"
        )
    if not verts.is_floating_point():
        raise ValueError(f"verts are {verts.dtype}; pass floating-point numbers, as verts.float()")
    check_faces(faces, len(verts), "faces")
    if len(size) != 2 or not all(
        isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in size
    ):
        raise ValueError(f"size is {size}; give (height, width), each 1 to {LARGEST_SIDE} pixels")
    if verts.device != faces.device:
        raise ValueError(
            f"verts are on {verts.device} and faces on {faces.device}; move one with .to()"
        )


def check_faces(faces: Tensor, batch: int, name: str) -> None:
    """Raise where `faces` are not indices [F, 3] or, one list an item, [B, F, 3]."""
    if faces.dtype not in _INDICES:
        raise ValueError(f"{name} are {faces.dtype}; pass integers, as {name}.long()")
    if faces.ndim not in (2, 3) or faces.shape[-1] != 3:
        raise ValueError(
            f"{name} have the shape {tuple(faces.shape)}; pass [F, 3] or, for a different mesh in "
            "every batch item, [B, F, 3]"
        )
    if faces.ndim == 3 and len(faces) != batch:
        raise ValueError(
            f"{name} are {len(faces)} lists for a batch of {batch}; pass one list an item, "
            "or a single [F, 3] for all"
        )


def check_indices(
    faces: Int[Tensor, "*B F 3"], count: int, name: str, *, padded: bool = False
) -> None:
    """Raise where a row of `name` points past `count` vertices; `padded` admits rows of -1."""
    if not faces.numel():
        return
    if not padded and int(faces.min()) >= 0 and int(faces.max()) < count:
        return
    wrong = (faces < 0) | (faces >= count)
    if padded:
        wrong = wrong & (faces != -1).any(-1, keepdim=True)
    places = wrong.nonzero()
    if len(places):
        *row, corner = places[0].tolist()
        index = int(faces[(*row, corner)])
        raise ValueError(
            f"{name}[{', '.join(map(str, row))}] points at vertex {index}, but there are {count}; "
            f"indices run from 0 to {count - 1}"
        )
