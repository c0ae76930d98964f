"""What every pixel of a rendered person shows: segmentation that agrees with the picture's alpha.

The head is drawn once more as face indices, by the same rules as the picture; lips and brows are
looked up in the skin's UV square, and flat layers (glasses, hats, hands) are laid over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from flame.camera import Projection
from flame.material import Material
from flame.model import Flame
from flame.raster import homogeneous_pixels
from flame.render_surface import Look, prepare_surface
from flame.shadow import Triangles, View, draw_surface

PARTS = (
    "background", "skin", "brows", "eyes", "lips", "mouth", "hair", "glasses", "hat", "clothes",
    "occluder",
)  # fmt: skip
BACKGROUND, SKIN, BROWS, EYES, LIPS, MOUTH, HAIR, GLASSES, HAT, CLOTHES, OCCLUDER = range(11)
# of the indexed pictures, so that they can be looked at
PALETTE = (
    (0, 0, 0), (238, 190, 160), (110, 70, 30), (60, 160, 255), (220, 60, 80), (120, 0, 40),
    (160, 110, 40), (255, 240, 60), (200, 60, 220), (60, 180, 90), (130, 130, 130),
)  # fmt: skip
_OF_MATERIAL = {"eyes": EYES, "mouth": MOUTH, "shirt": CLOTHES, "hair": HAIR}
_NEAR = -1.0  # z/w at the near plane of clip space

Labels = UInt8[np.ndarray, "H W"]


class PartView:
    """Labels of one mesh's pixels, by material and, on skin, by place in UV."""

    def __init__(
        self,
        faces: Int[Tensor, "F 3"],
        uv: Float[Tensor, "T 2"],
        uv_faces: Int[Tensor, "F 3"],
        material_ids: Int[Tensor, " F"],
        materials: Sequence[Material],
    ) -> None:
        self._mesh = Triangles(
            faces.int().contiguous().numpy(),
            uv.float().contiguous().numpy(),
            uv_faces.int().contiguous().numpy(),
        )
        names = [material.name for material in materials]
        of_id = np.array([_OF_MATERIAL.get(name, SKIN) for name in names], np.uint8)
        self._label = of_id[material_ids.numpy()]
        self._is_skin = (material_ids == names.index("skin")).numpy()
        corners = self._mesh.uv[self._mesh.uv_faces]
        self._low, self._high = corners.min(1), corners.max(1)
        self._texels: dict[int, list[NDArray[np.int64]]] = {}
        # blended lashes hide nothing
        self._surfaces = [
            prepare_surface(material, Look(), torch.nonzero(material_ids == index)[:, 0])
            for index, material in enumerate(materials)
            if material.alpha_mode != "BLEND"
        ]

    def labels(
        self,
        verts: Float[Tensor, "V 3"],
        camera: Projection,
        size: tuple[int, int],
        on_skin: UInt8[np.ndarray, "K K"],
    ) -> Labels:
        """The part at every pixel centre; `on_skin` says it for the skin's texels."""
        clip = camera.clip(verts[None], size).double()
        view = View.of(homogeneous_pixels(clip, size)[0], size, _NEAR)
        for surface in self._surfaces:
            draw_surface(view, self._mesh, surface, surface.opaque_alpha)
        found = np.zeros(size, np.uint8)
        shown = view.face_id >= 0
        ids = view.face_id[shown]
        labels = self._label[ids]
        skin = (self._is_skin & self._varied(on_skin))[ids]
        rows, columns = np.nonzero(shown)
        uv = self._uv(
            view, ids[skin], *(at[skin].astype(np.float64) + 0.5 for at in (columns, rows))
        )
        side = len(on_skin)
        x = (uv[:, 0] * side).clip(0, side - 1).astype(np.int64)
        y = ((1 - uv[:, 1]) * side).clip(0, side - 1).astype(np.int64)
        labels[skin] = on_skin[y, x]
        found[shown] = labels
        return found

    def _varied(self, on_skin: UInt8[np.ndarray, "K K"]) -> NDArray[np.bool_]:
        """Faces whose rectangle in UV has other texels than plain skin."""
        side = len(on_skin)
        total = np.zeros((side + 1, side + 1), np.int32)
        np.cumsum(np.cumsum(on_skin != SKIN, 0, dtype=np.int32), 1, out=total[1:, 1:])
        x0, y0, x1, y1 = self._rectangles(side)
        count = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        return np.asarray(count > 0)

    def _rectangles(self, side: int) -> list[NDArray[np.int64]]:
        """Left, top, right and bottom of each face in texels; the last two lie beyond it."""
        if side not in self._texels:
            left, right = self._low[:, 0] * side, self._high[:, 0] * side + 1
            top, bottom = (1 - self._high[:, 1]) * side, (1 - self._low[:, 1]) * side + 1
            self._texels[side] = [
                np.floor(edge).clip(0, side).astype(np.int64) for edge in (left, top, right, bottom)
            ]
        return self._texels[side]

    def _uv(
        self, view: View, ids: NDArray[np.int32], x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Where the skin's pixels lie in UV, exact in perspective."""
        a, b, c = (view.points[self._mesh.faces[ids, k]] for k in range(3))
        weight = np.stack([_beside(b, c, x, y), _beside(c, a, x, y), _beside(a, b, x, y)], axis=1)
        weight /= weight.sum(1, keepdims=True)
        corners = self._mesh.uv[self._mesh.uv_faces[ids]]
        return np.asarray((corners * weight[..., None]).sum(1))


def _beside(
    a: NDArray[np.float64], b: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Determinant of two homogeneous points (x w, y w, z, w) and the pixel."""
    return np.asarray(
        (a[:, 1] * b[:, 3] - a[:, 3] * b[:, 1]) * x
        + (a[:, 3] * b[:, 0] - a[:, 0] * b[:, 3]) * y
        + (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    )


def lip_texels(flame: Flame, side: int) -> Bool[np.ndarray, "K K"]:
    """Texels of the skin's UV square within the outline of the lips (landmarks 49 to 60)."""
    topology = flame.topology
    faces, uv_faces, ids = flame.head(torch.zeros(flame.n_shape)).triangles()
    skin = ids == topology.material_names.index("skin")
    place = torch.zeros(len(flame.template), 2)
    place[faces[skin].flatten()] = topology.uv[uv_faces[skin].flatten()]
    corners = place[topology.landmark_verts[48:60]]
    outline = (corners * topology.landmark_bary[48:60, :, None]).sum(1)
    image = Image.new("1", (side, side))
    points = [(float(u) * side - 0.5, (1 - float(v)) * side - 0.5) for u, v in outline]
    ImageDraw.Draw(image).polygon(points, fill=1)
    return np.asarray(image)


class Cover:
    """Labels of a picture that layers are laid over; the label is of the layer seen most."""

    def __init__(self, labels: Labels, alpha: UInt8[np.ndarray, "H W"]) -> None:
        self._weight = alpha.astype(np.float32)
        # lashes beyond the outline are the only thing drawn that hides nothing
        self._labels = np.where((labels == BACKGROUND) & (alpha > 0), SKIN, labels)

    def lay(self, layer: UInt8[np.ndarray, "H W 4"], label: int) -> None:
        """Put an RGBA layer on top."""
        alpha = layer[..., 3].astype(np.float32)
        self._weight *= 1 - alpha / 255
        wins = alpha > self._weight
        self._labels[wins] = label
        self._weight[wins] = alpha[wins]

    def labels(self, alpha: UInt8[np.ndarray, "H W"]) -> Labels:
        """The labels where the whole picture is at least half opaque, elsewhere background."""
        return np.where(alpha >= 128, self._labels, BACKGROUND).astype(np.uint8)


def visible_parts(labels: Labels, share: float = 0.0006) -> str:
    """Names of the parts that cover at least this share of the picture."""
    counts = np.bincount(labels.ravel(), minlength=len(PARTS))
    return " ".join(
        name
        for name, count in zip(PARTS[1:], counts[1:], strict=True)
        if count >= share * labels.size
    )


def indexed(labels: Labels) -> Image.Image:
    """The labels as a palette picture."""
    image = Image.frombytes("P", labels.shape[::-1], np.ascontiguousarray(labels).tobytes())
    image.putpalette([value for color in PALETTE for value in color])
    return image
