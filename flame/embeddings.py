"""Landmarks as points on triangles of FLAME's mesh, read from every published file of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.arrays import Array, array_of, read_arrays
from assets.errors import AssetError
from flame.records import TensorRecord

N_CONTOUR_ROWS = 79  # yaws 0..39 degrees, then -1..-39
_LARGEST_YAW = 39


@dataclass(frozen=True, eq=False)
class Embedding(TensorRecord):
    """Points on triangles: barycentric weights of the triangle's corners, which sum to 1."""

    faces: Int[Tensor, "*L"]  # index into the model's faces
    bary: Float[Tensor, "*L 3"]

    def points(
        self, verts: Float[Tensor, "B V 3"], faces: Int[Tensor, "F 3"]
    ) -> Float[Tensor, "B *L 3"]:
        """The points on given vertices."""
        corners = verts[:, faces[self.faces]]  # [B, *L, 3, 3]
        return torch.einsum("b...ck,...c->b...k", corners, self.bary.to(verts.dtype))


@dataclass(frozen=True, eq=False)
class Embeddings(TensorRecord):
    """The sets of landmarks that were found; each may be absent.

    The 68 are in iBUG's order, 17 of the jaw line first. `static` are the last 51 of them; `fixed`
    has all 68 with a jaw line that stays on the surface; `contour` has the jaw line for each whole
    degree of yaw, rows 0..39 for 0..39 and rows 40..78 for -1..-39.
    """

    static: Embedding | None = None  # 51
    fixed: Embedding | None = None  # 68
    iris: Embedding | None = None  # 2
    contour: Embedding | None = None  # [79, 17]
    mediapipe: Embedding | None = None  # 105
    mediapipe_ids: Int[Tensor, " M"] | None = None  # of the 105 among MediaPipe's 468 or 478

    def merged(self, other: Embeddings) -> Embeddings:
        """These sets, and the other's where one is absent here."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Embeddings(
            **{name: getattr(other, name) if v is None else v for name, v in own.items()}
        )


@dataclass(frozen=True)
class _Layout:
    """One set in one published file: the keys of its faces and weights, and how many points."""

    name: str
    faces: str
    bary: str
    shapes: tuple[tuple[int, ...], ...]


_DECA = (
    _Layout("static", "static_lmk_faces_idx", "static_lmk_bary_coords", ((51,), (53,))),
    _Layout("fixed", "full_lmk_faces_idx", "full_lmk_bary_coords", ((68,), (70,))),
    _Layout("contour", "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords", ((79, 17),)),
)
_RINGNET_STATIC = (_Layout("static", "lmk_face_idx", "lmk_b_coords", ((51,),)),)
_RINGNET_CONTOUR = (_Layout("contour", "lmk_face_idx", "lmk_b_coords", ((79, 17),)),)
_MEDIAPIPE = (_Layout("mediapipe", "lmk_face_idx", "lmk_b_coords", ((105,),)),)


def read_embeddings(path: Path, n_faces: int) -> Embeddings:
    """The landmarks of any published file, told by content; indices are checked against the mesh.

    These are `landmark_embedding.npy` (also with two points for the irises),
    `flame_static_embedding.pkl`, `flame_dynamic_embedding.npy` and
    `mediapipe_landmark_embedding.npz`. Raises AssetError that lists all missing, unexpected and
    misshapen keys.
    """
    given = read_arrays(path)
    extra: tuple[str, ...] = ()
    layouts: tuple[_Layout, ...]
    if "landmark_indices" in given:
        layouts, extra = _MEDIAPIPE, ("landmark_indices",)
    elif "lmk_face_idx" in given:
        contour = np.ndim(_array(given["lmk_face_idx"])) == 2
        layouts = _RINGNET_CONTOUR if contour else _RINGNET_STATIC
    else:
        layouts = _DECA
    known = {key for layout in layouts for key in (layout.faces, layout.bary)} | {*extra}
    faults = []
    if missing := known - given.keys():
        faults.append(f"missing {', '.join(sorted(missing))}")
    if unexpected := given.keys() - known:
        faults.append(f"unexpected {', '.join(sorted(unexpected))}")
    found: dict[str, Embedding] = {}
    for layout in layouts:
        if layout.faces in given and layout.bary in given:
            result = _embedding(layout, given, n_faces)
            if isinstance(result, str):
                faults.append(result)
            else:
                found[layout.name] = result
    ids = None
    if extra and "mediapipe" in found:
        array = _array(given["landmark_indices"])
        if array.shape != (105,) or array.dtype.kind not in "iu" or array.max() >= 478:
            faults.append("misshapen landmark_indices, wanted 105 indices below 478")
        else:
            ids = torch.from_numpy(array.astype(np.int64))
    if faults:
        raise AssetError(
            f"{path} is no landmark embedding of FLAME: {'; '.join(faults)}; fetch it again"
        )
    found |= _split_irises(found)
    return Embeddings(**found, mediapipe_ids=ids)


def contour_row(yaw_deg: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Row of the contour for each yaw; half degrees go to the even one, the ends hold beyond 39."""
    turn = yaw_deg.round().clamp(-_LARGEST_YAW, _LARGEST_YAW).long()
    return torch.where(turn >= 0, turn, _LARGEST_YAW - turn)


def yaw_deg(rotation: Float[Tensor, "B 3 3"]) -> Float[Tensor, " B"]:
    """Turn about y of rotations, degrees in -90..90, positive toward the viewer's right."""
    across = torch.hypot(rotation[:, 0, 0], rotation[:, 1, 0])
    return torch.rad2deg(torch.atan2(-rotation[:, 2, 0], across))


def contour_sign(
    contour: Embedding, template: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"]
) -> int:
    """1 if rows 1..39 are for heads that turn to the viewer's right, -1 if to the left.

    Of the side that turns away the outline lies further forward; so the files themselves tell.
    """
    points = contour.points(template[None], faces)[0]  # [79, 17, 3]
    right = points[:40, 10:16, 2].mean() - points[40:, 10:16, 2].mean()
    left = points[40:, 1:7, 2].mean() - points[:40, 1:7, 2].mean()
    return -1 if float(right + left) < 0 else 1


def _embedding(layout: _Layout, given: Mapping[str, object], n_faces: int) -> Embedding | str:
    faces, bary = _array(given[layout.faces]), _array(given[layout.bary])
    if faces.ndim > 1 and faces.shape[0] == 1:  # the full set has an axis for a batch
        faces, bary = faces[0], bary[0] if bary.ndim > 2 else bary
    wanted = " or ".join("x".join(map(str, shape)) for shape in layout.shapes)
    if faces.shape not in layout.shapes or faces.dtype.kind not in "iu":
        shape = "x".join(map(str, faces.shape))
        return f"misshapen {layout.faces} {shape} of {faces.dtype}, wanted {wanted} integers"
    if bary.shape != (*faces.shape, 3) or bary.dtype.kind != "f":
        shape = "x".join(map(str, bary.shape))
        return f"misshapen {layout.bary} {shape} of {bary.dtype}, wanted {wanted} x 3 floats"
    if faces.min() < 0 or faces.max() >= n_faces:
        return f"{layout.faces} leaves 0..{n_faces - 1}, the faces of this model"
    if not np.allclose(bary.sum(-1), 1, atol=1e-3):
        return f"{layout.bary} does not sum to 1"
    return Embedding(
        torch.from_numpy(faces.astype(np.int64)), torch.from_numpy(bary.astype(np.float64))
    )


def _split_irises(found: Mapping[str, Embedding]) -> dict[str, Embedding]:
    """Files with irises have them as the last two points of both sets."""
    parts: dict[str, Embedding] = {}
    for name, count in (("static", 51), ("fixed", 68)):
        if name in found and len(found[name].faces) > count:
            parts["iris"] = found[name][count:]
            parts[name] = found[name][:count]
    return parts


def _array(value: object) -> Array:
    found = array_of(value)
    return np.empty((0, 0, 0)) if found is None else found
