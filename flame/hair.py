"""Hair as geometry: grown once on a template head, then carried by every identity's surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame import hair_texture
from flame.hair_ground import Array, Ground, Indices, nearest_triangles, rim
from flame.hair_scalp import Cap
from flame.hair_strands import cards, fringe
from flame.hair_styles import STYLES
from flame.head import JOINT_NAMES
from flame.records import TensorRecord

__all__ = ["STYLES", "HairStyle", "attach", "grow", "joint_weights"]

N_ANCHORS = 8
_FAR = -1.0  # m; a clearance that never pushes
# Hair grows in millimetres on a head whose outer eye corners are this far apart, and this midway.
_EYES_APART, _EYES = 89.18, np.array([0.0, 34.3, 86.0])


@dataclass(frozen=True, eq=False)
class HairStyle(TensorRecord):
    """A hairdo bound to one head topology; lengths in metres.

    A hair vertex is the weighted mean of its anchors (head vertices) plus an offset; it also knows
    the point of the head's surface that it must stay above. One picture and UV set serve all.
    """

    name: str
    faces: Int[Tensor, "F 3"]
    uv: Float[Tensor, "H 2"]  # one per hair vertex, so `faces` index it too
    anchors: Int[Tensor, "H K"]  # head vertices
    weights: Float[Tensor, "H K"]  # rows sum to 1
    offsets: Float[Tensor, "H 3"]
    ground: Int[Tensor, "H 3"]  # the head triangle below the hair vertex
    barycentric: Float[Tensor, "H 3"]
    clearance: Float[Tensor, " H"]  # least height above that triangle
    texture: Float[Tensor, "2 T T"]  # shade and alpha

    @property
    def uv_faces(self) -> Int[Tensor, "F 3"]:
        """Indices into `uv` of each face's corners."""
        return self.faces

    def carry(self, values: Float[Tensor, "V D"]) -> Float[Tensor, "H D"]:
        """Anything given per head vertex (joint weights, morphs), taken over by the hair."""
        return torch.einsum("hk,hkd->hd", self.weights, values[self.anchors])


def attach(style: HairStyle, verts: Float[Tensor, "V 3"]) -> Float[Tensor, "H 3"]:
    """Hair vertices on a head of any identity, given the head's vertices at rest."""
    hair = style.carry(verts) + style.offsets
    a, b, c = verts[style.ground].unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    foot = torch.einsum("hk,hkd->hd", style.barycentric, verts[style.ground])
    height = ((hair - foot) * normal).sum(1)
    return hair + (style.clearance - height).clamp(min=0)[:, None] * normal


def joint_weights(style: HairStyle, lbs_weights: Float[Tensor, "V J"]) -> Float[Tensor, "H J"]:
    """Skinning weights of the hair; the jaw's and the eyes' share goes to the head.

    Hair that lies on the shoulders stays with them when the head turns.
    """
    carried = style.carry(lbs_weights)
    head = JOINT_NAMES.index("head")
    loose = [JOINT_NAMES.index(name) for name in ("jaw", "leftEye", "rightEye")]
    weights = carried.clone()
    weights[:, head] += carried[:, loose].sum(1)
    weights[:, loose] = 0
    return weights


def grow(
    style: str,
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    landmarks: Float[Tensor, "68 3"],
    *,
    generator: torch.Generator,
    texture_size: int = 1024,
) -> HairStyle:
    """One of STYLES on a head: `faces` are its outer skin, `landmarks` its 68 points in space.

    Takes some seconds. The head looks along +z, y up, in metres; it may be of any topology.
    """
    if style not in STYLES:
        raise ValueError(f"hair style {style!r} is unknown; pass one of: " + ", ".join(STYLES))
    recipe = STYLES[style]
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    skin = faces.numpy().astype(np.int64)
    points = landmarks.double().numpy()
    scale = float(np.linalg.norm(points[45] - points[36])) / _EYES_APART
    middle = (points[45] + points[36]) / 2
    head = (verts.double().numpy() - middle) / scale + _EYES
    ground = Ground(head, skin, rng)

    cap = Cap(head, skin)
    triangles = [cap.faces]
    hair, uv = [cap.verts], [cap.uv]
    count = len(cap.verts)
    left = recipe.budget - len(cap.faces)
    for layer in recipe.layers:
        n_cards = int(left * layer.share / (2 * layer.segments * (layer.columns - 1)))
        roots = cap.roots(n_cards, layer.zone, layer.margin, recipe.parting, rng)
        growth = fringe if layer.zone == "fringe" else recipe.grow
        paths = growth(ground, roots, recipe.flow, layer, rng)
        card_verts, card_uv, card_faces = cards(ground, paths, layer, rng)
        triangles.append(card_faces + count)
        hair.append(card_verts)
        uv.append(card_uv)
        count += len(card_verts)
    shade, alpha = hair_texture.paint_strands(texture_size, rng)
    half = texture_size // 2
    shade[half:, :half], alpha[half:, :half] = cap.paint(half, recipe.flow, rng)
    bound = _bind(np.concatenate(hair), head, skin, cap.sources, scale)
    return HairStyle(
        name=style,
        faces=torch.from_numpy(np.concatenate(triangles)),
        uv=_float(np.concatenate(uv)),
        texture=_float(np.stack([shade, alpha]).clip(0, 1)),
        **bound,
    )


def _bind(
    hair: Array, head: Array, skin: Indices, sources: Indices, scale: float
) -> dict[str, Any]:
    """The fields of HairStyle that hold each hair vertex to the head; the first are the cap's."""
    from scipy.spatial import cKDTree

    used = np.unique(skin)
    # one control vertex per cell, so that a dense ear has no louder voice than a sparse neck
    cells = np.round(head[used] / 9).astype(int)
    controls = used[np.unique(cells, axis=0, return_index=True)[1]]
    far, near = cKDTree(head[controls]).query(hair, k=N_ANCHORS + 1)
    # the weight of the next control is zero: no jump where neighbours change
    weights = (1 - far[:, :-1] / far[:, -1:]) ** 2
    anchors = controls[near[:, :-1]]
    n_cap = len(sources)
    anchors[:n_cap], weights[:n_cap] = sources[:, None], np.eye(1, N_ANCHORS)
    weights /= weights.sum(1, keepdims=True)
    offsets = hair - np.einsum("hk,hkd->hd", weights, head[anchors])
    triangle, barycentric, height, normal, far = nearest_triangles(hair, head, skin)
    # what hangs far from the skin or beyond the bust's rim has no triangle below it
    over = (height < 12) & (np.abs(height) > 0.5 * far)
    over &= (far < 3) | ~np.isin(skin[triangle], rim(head, skin)).any(1)
    lack = np.where(over, np.maximum(0.35 - height, 0), 0)
    offsets += lack[:, None] * normal
    height += lack
    clearance = np.where(over, np.minimum(0.7 * height, 1.5), _FAR * 1000)
    return {
        "anchors": torch.from_numpy(anchors),
        "weights": _float(weights),
        "offsets": _float(offsets * scale),
        "ground": torch.from_numpy(skin[triangle]),
        "barycentric": _float(barycentric),
        "clearance": _float(clearance * scale),
    }


def _float(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
