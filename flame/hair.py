"""Hair as geometry: grown once on a template head, then carried by every identity's surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame import hair_texture
from flame.head import JOINT_NAMES
from flame.records import TensorRecord

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flow = Callable[[Array], Array]  # points of the scalp map [N, 2] -> directions [N, 2]

N_ANCHORS = 8
_FAR = -1.0  # m; a clearance that never pushes


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


# All growing below happens in millimetres on a head whose outer eye corners are 89.18 mm apart,
# midway between them the point (0, 34.3, 86.0).
_EYES_APART, _EYES = 89.18, np.array([0.0, 34.3, 86.0])
_CENTRE, _RADIUS = np.array([0.0, 45.0, 10.0]), 88.0
_POLE = np.array([0.0, np.cos(np.pi / 6), -np.sin(np.pi / 6)])
_FRONT = np.array([0.0, np.sin(np.pi / 6), np.cos(np.pi / 6)])
# the left half, from the forehead over temple, sideburn and ear to the nape
_HAIRLINE = np.array(
    [
        (0, 107, 88), (14, 109, 85), (28, 110, 76), (42, 108, 66), (52, 101, 58), (59, 91, 55),
        (64, 79, 54), (68, 66, 52), (71, 53, 47), (73, 40, 42), (74, 26, 38), (74, 12, 34),
        (74, 4, 29), (74, 4, 21), (75, 20, 18), (77, 36, 18), (79, 49, 14), (79, 54, 3),
        (78, 50, -10), (75, 40, -20), (71, 22, -26), (66, 5, -28), (60, -12, -30), (53, -28, -32),
        (44, -39, -38), (32, -44, -46), (15, -43, -55), (0, -41, -58),
    ],
    dtype=np.float64,
)  # fmt: skip


def _to_map(points: Array) -> Array:
    """Azimuthal map of the scalp about the crown: x to the subject's left, y to the front, mm."""
    direction = _unit(points - _CENTRE)
    flat = np.stack([direction[:, 0], direction @ _FRONT], 1)
    angle = np.arccos(np.clip(direction @ _POLE, -1, 1))
    shown: Array = flat * (_RADIUS * angle / np.maximum(np.sin(angle), 1e-9))[:, None]
    return shown


def _from_map(flat: Array) -> Array:
    """The directions from the head's centre that `_to_map` shows at these points."""
    angle = np.linalg.norm(flat, axis=1, keepdims=True) / _RADIUS
    across = np.stack([flat[:, 0], np.zeros(len(flat)), np.zeros(len(flat))], 1)
    across += flat[:, 1:] * _FRONT
    direction: Array = np.cos(angle) * _POLE + np.sinc(angle / np.pi) * across / _RADIUS
    return direction


def _tangents(points: Array, flow: Flow) -> Array:
    """The map's flow as unit directions in space."""
    flat = _to_map(points)
    return _unit(_from_map(flat + flow(flat)) - _from_map(flat - flow(flat)))


def _inside_hairline(flat: Array) -> Array:
    """Signed distance on the map to the hairline, mm, positive where hair grows."""
    half = _to_map(_HAIRLINE)
    loop = np.concatenate([half, half[-2:0:-1] * [-1, 1]])
    ends = np.roll(loop, -1, 0)
    edge = ends - loop
    to = flat[:, None] - loop
    share = np.clip((to * edge).sum(2) / (edge**2).sum(1), 0, 1)
    distance = np.linalg.norm(to - share[..., None] * edge, axis=2).min(1)
    spans = (loop[:, 1] <= flat[:, 1:]) != (ends[:, 1] <= flat[:, 1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = loop[:, 0] + (flat[:, 1:] - loop[:, 1]) * edge[:, 0] / edge[:, 1]
    odd = (spans & (flat[:, :1] < cross)).sum(1) % 2 == 1
    signed: Array = np.where(odd, distance, -distance)
    return signed


class _Ground:
    """The head's surface as a field of signed distances, with the bust drawn on downwards."""

    cell = 3.0  # mm

    def __init__(self, verts: Array, faces: Indices, rng: np.random.Generator) -> None:
        from scipy.ndimage import distance_transform_edt, gaussian_filter

        corners = verts[faces]
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(cross, axis=1)
        chosen = rng.choice(len(faces), 400_000, p=area / area.sum())
        points = np.einsum("nk,nkd->nd", _barycentric(rng, len(chosen)), corners[chosen])
        below, outward = _drawn_down(verts, faces)
        points = np.concatenate([points, below])
        normals = np.concatenate([_unit(cross)[chosen], outward])
        self.low = verts.min(0) - 60
        self.shape = np.ceil((verts.max(0) + 60 - self.low) / self.cell).astype(int) + 1
        # one sample per cell, the mean of those in it; every cell then looks up its nearest
        cell = np.round((points - self.low) / self.cell).astype(int).clip(0, self.shape - 1)
        flat = np.ravel_multi_index(tuple(cell.T), tuple(self.shape))
        size = int(np.prod(self.shape))
        count = np.bincount(flat, minlength=size)
        sums = [np.bincount(flat, axis, size) for axis in np.concatenate([points, normals], 1).T]
        mean = np.stack(sums, -1) / np.maximum(count, 1)[:, None]
        nearest = distance_transform_edt(
            (count == 0).reshape(self.shape), return_distances=False, return_indices=True
        )
        foot = mean[np.ravel_multi_index(tuple(nearest), tuple(self.shape)).ravel()]
        grid = np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1)
        offset = grid.reshape(-1, 3) * self.cell + self.low - foot[:, :3]
        far = np.linalg.norm(offset, axis=1)
        height = (offset * _unit(foot[:, 3:])).sum(1)
        # near the surface a plane through the sample is closer to the truth than its distance
        signed = np.where(far < 5, height, np.copysign(far, height)).reshape(self.shape)
        signed = gaussian_filter(signed, 0.8)
        slope = np.gradient(gaussian_filter(signed, 1.5), self.cell)
        # the last tells how far out a curtain of hair hangs, for which ears are no hindrance
        wide = gaussian_filter(signed, 5.0)
        self.cells = np.stack([signed, *slope, wide], -1).reshape(-1, 5)

    def probe(self, points: Array) -> tuple[Array, Array, Array]:
        """Height above the surface, the direction away from it, height above its smooth hull."""
        where = ((points - self.low) / self.cell).clip(0, self.shape - 1.001)
        corner = where.astype(int)
        share = where - corner
        values = np.zeros((*points.shape[:-1], 5))
        for step in np.ndindex(2, 2, 2):
            at = corner + step
            index = (at[..., 0] * self.shape[1] + at[..., 1]) * self.shape[2] + at[..., 2]
            weight = np.where(step, share, 1 - share).prod(-1)
            values += weight[..., None] * self.cells[index]
        return values[..., 0], _unit(values[..., 1:4]), values[..., 4]

    def up(self, points: Array) -> Array:
        return self.probe(points)[1]

    def lift(self, points: Array, least: Array | float) -> Array:
        """The points, pushed to at least this height."""
        for _ in range(3):
            height, up, _ = self.probe(points)
            points = points + np.maximum(least - height, 0)[..., None] * up
        return points


def _rim(verts: Array, faces: Indices) -> Indices:
    """The edges [E, 2] where the bust ends."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, index, count = np.unique(np.sort(edges, 1), axis=0, return_index=True, return_counts=True)
    rim = edges[index[count == 1]]
    low: Indices = rim[verts[rim, 1].max(1) < -85]
    return low


def _drawn_down(verts: Array, faces: Indices) -> tuple[Array, Array]:
    """Samples of a skirt hanging from the bust's rim, and their outward normals."""
    rim = _rim(verts, faces)
    if not len(rim):
        return np.zeros((0, 3)), np.zeros((0, 3))
    ends = verts[rim]
    outward = _unit((ends.mean(1) - [0, 0, -10]) * [1, 0, 1])
    outward = np.repeat(outward, 3, 0)
    start = np.concatenate([ends[:, :1], ends.mean(1, keepdims=True), ends[:, 1:]], 1).reshape(
        -1, 3
    )
    drops = np.arange(1, 30) * 4.0
    points = start[None] + drops[:, None, None] * np.array([0, -1.0, 0])
    return points.reshape(-1, 3), np.tile(outward, (len(drops), 1))


@dataclass(frozen=True)
class _Layer:
    strips: tuple[hair_texture.Strip, ...]
    share: float  # of the triangles left for cards
    width: float
    columns: int
    segments: int
    depth: float  # 0 on the skin, 1 at the full volume
    margin: float  # roots keep this far inside the hairline
    zone: Literal["scalp", "hairline", "parting", "fringe"] = "scalp"


Growth = Callable[[_Ground, Array, Flow, _Layer, np.random.Generator], Array]


@dataclass(frozen=True)
class _Recipe:
    """What tells one hairdo from another."""

    budget: int  # triangles
    flow: Flow
    parting: Array | None  # two ends on the scalp map
    layers: tuple[_Layer, ...]
    grow: Growth


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
    ground = _Ground(head, skin, rng)

    cap = _Cap(head, skin)
    triangles = [cap.faces]
    hair, uv = [cap.verts], [cap.uv]
    count = len(cap.verts)
    left = recipe.budget - len(cap.faces)
    for layer in recipe.layers:
        n_cards = int(left * layer.share / (2 * layer.segments * (layer.columns - 1)))
        roots = cap.roots(n_cards, layer, recipe.parting, rng)
        growth = _fringe if layer.zone == "fringe" else recipe.grow
        paths = growth(ground, roots, recipe.flow, layer, rng)
        card_verts, card_uv, card_faces = _cards(ground, paths, layer, rng)
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


def _sticks_out(head: Array, flat: Array, inside: Array) -> npt.NDArray[np.bool_]:
    """Vertices on the ears: on the map they lie over others that are nearer to the centre."""
    from scipy.spatial import cKDTree

    out = np.zeros(len(head), dtype=bool)
    some = np.flatnonzero(inside > -20)
    radius = np.linalg.norm(head[some] - _CENTRE, axis=1)
    around = cKDTree(flat[some]).query_ball_point(flat[some], 9.0)
    out[some] = radius > [radius[near].min() + 7 for near in around]
    return out


class _Cap:
    """The head's own triangles under the hair, lifted a little, seen through the scalp map."""

    def __init__(self, head: Array, skin: Indices) -> None:
        flat = _to_map(head)
        inside = _inside_hairline(flat)
        near = (inside > -7) & ~_sticks_out(head, flat, inside)
        chosen = skin[near[skin].all(1) & (inside[skin] > -2).any(1)]
        self.sources, faces = np.unique(chosen, return_inverse=True)
        self.faces = faces.reshape(-1, 3).astype(np.int64)
        normals = _vertex_normals(head, skin)[self.sources]
        self.inside = inside[self.sources]
        self.height = 0.35 + 1.0 * np.clip(self.inside / 14, 0, 1)
        self.verts = head[self.sources] + self.height[:, None] * normals
        self.reach = np.abs(flat[self.sources]).max() + 1
        square = 0.5 + 0.5 * flat[self.sources] / self.reach
        strip = hair_texture.SCALP
        self.uv = np.array([strip.u0, strip.v0]) + square * [
            strip.u1 - strip.u0,
            strip.v1 - strip.v0,
        ]
        self._corners = head[self.sources][self.faces]

    def roots(
        self, count: int, layer: _Layer, parting: Array | None, rng: np.random.Generator
    ) -> Array:
        """Evenly strewn points of the scalp where the layer grows."""
        from scipy.spatial import cKDTree

        corners = self._corners
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = np.linalg.norm(cross, axis=1)
        chosen = rng.choice(len(corners), 16_000 + 16 * count, p=area / area.sum())
        points = np.einsum("nk,nkd->nd", _barycentric(rng, len(chosen)), corners[chosen])
        flat = _to_map(points)
        inside = _inside_hairline(flat)
        fits = inside > layer.margin
        if layer.zone == "hairline":
            fits &= inside < layer.margin + 8
        elif layer.zone == "parting" and parting is not None:
            away = np.linalg.norm(flat - _nearest_on(parting, flat)[0], axis=1)
            fits &= (away > 1.5) & (away < 9)
        elif layer.zone == "fringe":
            fits &= (points[:, 2] > 42) & (points[:, 1] > 76) & (inside < 34)
        points = points[fits]
        # best candidate: drop the most crowded until the number is right
        while len(points) > count:
            gap = cKDTree(points).query(points, k=2)[0][:, 1]
            surplus = len(points) - count
            order = np.argsort(gap + rng.uniform(0, 1e-6, len(gap)))
            points = np.delete(points, order[: max(1, min(surplus, len(points) // 12))], 0)
        kept: Array = points
        return kept

    def paint(self, size: int, flow: Flow, rng: np.random.Generator) -> tuple[Array, Array]:
        from scipy.ndimage import zoom

        pixel = 2 * self.reach / size  # mm
        centre = (np.arange(size // 4) + 0.5) * 4 * pixel - self.reach
        x, y = np.meshgrid(centre, -centre)
        coarse = np.stack([x.ravel(), y.ravel()], 1)
        inside = zoom(_inside_hairline(coarse).reshape(size // 4, -1), 4, order=1)
        roots = rng.uniform(-self.reach, self.reach, (60_000, 2))
        depth = _inside_hairline(roots)
        roots = roots[depth > 2.6 * rng.random(len(roots)) ** 0.6 + 0.2]
        turn = rng.normal(0, 0.25, len(roots))
        along = flow(roots)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        along = np.stack(
            [
                np.cos(turn) * along[:, 0] - np.sin(turn) * along[:, 1],
                np.sin(turn) * along[:, 0] + np.cos(turn) * along[:, 1],
            ],
            1,
        )
        length = rng.uniform(4.5, 8, len(roots)) / pixel
        pixels = (roots * [1, -1] + self.reach) / pixel
        opaque = np.clip((inside - 5) / 2, 0, 1)
        return hair_texture.paint_scalp(size, pixels, along * [1, -1], length, opaque, rng)


def _cards(
    ground: _Ground, paths: Array, layer: _Layer, rng: np.random.Generator
) -> tuple[Array, Array, Indices]:
    """Ribbons along paths [N, T, 3]: vertices, UV and faces."""
    paths = _resample(paths, layer.segments + 1)
    n, rows = paths.shape[:2]
    along = _unit(np.gradient(paths, axis=1))
    out = ground.up(paths)
    out = _unit(out - (out * along).sum(2, keepdims=True) * along)
    for _ in range(2):
        out[:, 1:-1] = _unit(out[:, :-2] + 2 * out[:, 1:-1] + out[:, 2:])
    right = _unit(np.cross(out, along))
    roll = rng.normal(0, 0.07, (n, 1, 1))
    right, out = (
        np.cos(roll) * right + np.sin(roll) * out,
        np.cos(roll) * out - np.sin(roll) * right,
    )
    t = np.linspace(0, 1, rows)
    profile = np.interp(t, [0, 0.25, 0.6, 1], [0.72, 1.0, 1.0, 0.72])
    width = layer.width * rng.uniform(0.75, 1.25, (n, 1)) * profile
    across = np.linspace(-1, 1, layer.columns)
    verts = (
        paths[:, :, None]
        + 0.5 * width[:, :, None, None] * across[:, None] * right[:, :, None]
        + 0.13 * width[:, :, None, None] * (1 - across**2)[:, None] * out[:, :, None]
    )  # [N, T, columns, 3]
    verts = ground.lift(verts, 1.3)
    strips = np.array([(s.u0, s.u1, s.v0, s.v1) for s in layer.strips])
    u0, u1, v0, v1 = strips[rng.integers(len(strips), size=n)].T[:, :, None, None]
    side = np.where(rng.random((n, 1, 1)) < 0.5, across, -across)
    u = (u0 + u1) / 2 + 0.485 * (u1 - u0) * side + 0 * t[:, None]
    v = v1 + (v0 - v1) * (0.004 + 0.992 * t[:, None]) + 0 * side
    index = np.arange(n * rows * layer.columns).reshape(n, rows, layer.columns)
    a, b = index[:, :-1, :-1], index[:, 1:, :-1]
    c, d = index[:, 1:, 1:], index[:, :-1, 1:]
    faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    return verts.reshape(-1, 3), np.stack([u, v], -1).reshape(-1, 2), faces


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
    triangle, barycentric, height, normal, far = _feet(hair, head, skin)
    # what hangs far from the skin or beyond the bust's rim has no triangle below it
    over = (height < 12) & (np.abs(height) > 0.5 * far)
    over &= (far < 3) | ~np.isin(skin[triangle], _rim(head, skin)).any(1)
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


def _feet(points: Array, head: Array, skin: Indices) -> tuple[Indices, Array, Array, Array, Array]:
    """The nearest triangle of each point: its index, barycentrics, height above its plane, its
    normal, and the distance to it.
    """
    from scipy.spatial import cKDTree

    corners = head[skin]
    nearest = cKDTree(corners.mean(1)).query(points, k=16)[1]
    a, b, c = (corners[nearest, k] for k in range(3))
    share = _closest_barycentric(points[:, None], a, b, c)
    foot = np.einsum("nmk,nmkd->nmd", share, corners[nearest])
    best = np.linalg.norm(points[:, None] - foot, axis=2).argmin(1)
    rows = np.arange(len(points))
    triangle, share, foot = nearest[rows, best], share[rows, best], foot[rows, best]
    normal = _unit(np.cross((b - a)[rows, best], (c - a)[rows, best]))
    away = points - foot
    return triangle, share, (away * normal).sum(1), normal, np.linalg.norm(away, axis=1)


def _closest_barycentric(p: Array, a: Array, b: Array, c: Array) -> Array:
    """Barycentrics of the point of triangle abc that is closest to p; leading axes broadcast."""
    u, v, w = b - a, c - a, p - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = np.maximum(uu * vv - uv * uv, 1e-12)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inner = np.stack([1 - s - t, s, t], -1)
    zero = np.zeros_like(s)
    ab = np.clip(wu / np.maximum(uu, 1e-12), 0, 1)
    ac = np.clip(wv / np.maximum(vv, 1e-12), 0, 1)
    bc = np.clip((wv - wu + uu - uv) / np.maximum(uu - 2 * uv + vv, 1e-12), 0, 1)
    edges = [
        np.stack([1 - ab, ab, zero], -1),
        np.stack([1 - ac, zero, ac], -1),
        np.stack([zero, 1 - bc, bc], -1),
    ]
    best, least = inner, np.where((inner >= 0).all(-1), 0.0, np.inf)
    for edge in edges:
        foot = edge[..., :1] * a + edge[..., 1:2] * b + edge[..., 2:] * c
        far = np.linalg.norm(p - foot, axis=-1)
        nearer = far < least
        best = np.where(nearer[..., None] & (least > 0)[..., None], edge, best)
        least = np.where(nearer, far, least)
    return best


def _vertex_normals(verts: Array, faces: Indices) -> Array:
    corners = verts[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(verts)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], cross)
    return _unit(normals)


def _resample(paths: Array, count: int) -> Array:
    """Paths [N, T, 3] with `count` points at equal spacing along each."""
    step = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    length = np.concatenate([np.zeros((len(paths), 1)), step.cumsum(1)], 1)
    out = np.empty((len(paths), count, 3))
    for k, (path, travelled) in enumerate(zip(paths, length, strict=True)):
        at = np.linspace(0, travelled[-1], count)
        for axis in range(3):
            out[k, :, axis] = np.interp(at, travelled, path[:, axis])
    return out


def _barycentric(rng: np.random.Generator, count: int) -> Array:
    share: Array = rng.dirichlet(np.ones(3), count)
    return share


def _unit(vectors: Array) -> Array:
    length: Array = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def _float(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


# ---- how strands run -------------------------------------------------------------------------


def _nearest_on(segment: Array, flat: Array) -> tuple[Array, Array]:
    """The point of a segment that is nearest to each point, and its share of the way."""
    along = segment[1] - segment[0]
    share = np.clip((flat - segment[0]) @ along / (along @ along), 0, 1)[:, None]
    return segment[0] + share * along, share


def _parting(x: float) -> Array:
    """A parting from the forehead at this x to the whorl at the crown, on the scalp map."""
    return _to_map(np.array([[x, 118.0, 82.0], [x * 0.4, 136.0, -42.0]]))


def _parted(parting: Array) -> Flow:
    """Away from a parting."""

    def flow(flat: Array) -> Array:
        foot, share = _nearest_on(parting, flat)
        # combed back a little, so that nothing falls straight over the brow
        return _unit(_unit(flat - foot) + np.array([0.0, -0.8]) * (1 - share) ** 2)

    return flow


def _cropped(flat: Array) -> Array:
    """Round the whorl, forward over the top and sideways along the forehead."""
    whorl = _to_map(np.array([[-8.0, 132.0, -50.0]]))
    away = _unit(flat - whorl)
    turned = away @ np.array([[0.94, 0.34], [-0.34, 0.94]])
    front = np.clip((flat[:, 1] - 25) / 70, 0, 1)[:, None]
    middle = np.clip(1 - np.abs(flat[:, :1]) / 75, 0, 1)
    return _unit(turned + 1.6 * front * middle * np.array([-1.0, -0.35]))


# half the face's width that stays free of hair, by height
_FREE_Y = np.array([-200.0, -105, -78, -40, 55, 78, 92, 103, 112])
_FREE_X = np.array([40.0, 46, 54, 61, 61, 55, 42, 22, 0])


def _falling(
    *, end: float, spread: float, volume: float, parting: float, wave: float, tuck: float = 0.0
) -> Growth:
    """Strands that follow the parting over the skull and then hang to the height `end`."""

    def run(
        ground: _Ground, roots: Array, flow: Flow, layer: _Layer, rng: np.random.Generator
    ) -> Array:
        n = len(roots)
        side = np.where(roots[:, 0] >= parting, 1.0, -1.0)
        behind = np.where(roots[:, 2] < -14 + 7 * rng.normal(size=n), -1.0, 1.0)
        stop = end + spread * rng.normal(size=n) + (1 - layer.depth) * 10
        depth = layer.depth * rng.uniform(0.7, 1.15, n)
        point = roots + ground.up(roots)
        heading = _unit(_tangents(roots, flow) + 0.7 * ground.up(roots))
        path, travelled = [point], 0.0
        step = 4.0
        alive = np.ones(n, bool)
        for _ in range(110):
            height, up, hull = ground.probe(point)
            skull = np.clip((point[:, 1] - 35) / 45, 0, 1)[:, None]
            target = 2.0 + depth * volume * (1 - np.exp(-travelled / 26))
            gravity = np.array([0.0, -1, 0]) - np.minimum(-up[:, 1:2], 0) * up
            turn = 0.9 * heading + 0.45 * skull * _tangents(point, flow)
            turn += (0.08 + 0.52 * (1 - skull)) * gravity
            rise = np.clip((target - hull) / 14, -0.35 * skull[:, 0] - 0.02, 0.9)
            turn += rise[:, None] * up
            # in towards the neck, then out over the shoulders to the side where it began
            inward = (point - [0, 0, -12]) * [-1, 0, -1]
            below = np.clip((0 - point[:, 1:2]) / 60, 0, 1)
            wide = np.clip((np.abs(point[:, :1]) - 58) / 30, 0, 1)
            turn += 0.14 * below * wide * _unit(inward) * (height > target + 4)[:, None]
            # off the forehead, back into the hair
            flat = _to_map(point)
            edge = np.clip((6 - _inside_hairline(flat)) / 6, 0, 1) * (point[:, 1] > 80)
            turn += 0.9 * edge[:, None] * _tangents(point, np.negative)
            low = np.clip((-20 - point[:, 1:2]) / 70, 0, 1)
            aside = np.zeros((n, 3))
            here = np.clip(0.5 - behind * (point[:, 2] + 12) / 60, 0, 1)
            aside[:, 2] = 0.55 * behind * here
            aside[:, 0] = (
                -0.5 * np.sign(point[:, 0]) * np.clip((np.abs(point[:, 0]) - 62) / 30, 0, 1)
            )
            turn += low * (aside - (aside * up).sum(1, keepdims=True) * up)
            lack = np.interp(point[:, 1], _FREE_Y, _FREE_X) + 4 * depth - side * point[:, 0]
            front = np.clip((point[:, 2] - 38) / 18, 0, 1)
            turn[:, 0] += side * front * np.clip(lack / 14, 0, 1.1)
            back = tuck * np.clip((90 - point[:, 1]) / 40, 0, 1) * (point[:, 1] > -20)
            turn[:, 2] -= back * np.clip((point[:, 2] - 5) / 40, 0, 1)
            heading = _unit(turn)
            moved = ground.lift(point + step * heading, 2.0 + 0.25 * (target - 2.0))
            heading = _unit(moved - point)
            alive &= point[:, 1] > stop
            point = np.where(alive[:, None], moved, point)
            path.append(point)
            travelled += step
            if not alive.any():
                break
        paths = _resample(np.stack(path, 1), 48)
        return ground.lift(_waved(ground, _smoothed(paths), wave, roots, rng), 1.6)

    return run


def _waved(
    ground: _Ground, paths: Array, size: float, roots: Array, rng: np.random.Generator
) -> Array:
    """Waves that neighbours share, growing towards the tips."""
    along = _unit(np.gradient(paths, axis=1))
    right = _unit(np.cross(ground.up(paths), along))
    step = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    travelled = np.concatenate([np.zeros((len(paths), 1)), step.cumsum(1)], 1)
    phase = 0.05 * roots[:, 0] + 0.04 * roots[:, 2] + rng.normal(0, 0.5, len(roots))
    swing = np.sin(travelled / 17 + phase[:, None]) * rng.uniform(0.4, 1.2, (len(roots), 1))
    swing += rng.normal(0, 0.7, (len(roots), 1)) * np.linspace(0, 1, paths.shape[1])
    grown = np.clip(travelled / 140, 0, 1)
    return paths + (size * grown * swing)[..., None] * right


def _smoothed(paths: Array) -> Array:
    paths = paths.copy()
    for _ in range(14):
        paths[:, 1:-1] = 0.25 * paths[:, :-2] + 0.5 * paths[:, 1:-1] + 0.25 * paths[:, 2:]
    return paths


def _short(
    ground: _Ground, roots: Array, flow: Flow, layer: _Layer, rng: np.random.Generator
) -> Array:
    """Locks that rise from the scalp and lie over in the flow; long on top, faded below."""
    n = len(roots)
    inside = _inside_hairline(_to_map(roots))
    top = np.clip((roots[:, 1] - 62) / 55, 0, 1) ** 1.2
    length = (24 + 29 * top) * rng.uniform(0.75, 1.25, n)
    length = np.minimum(length, 10 + 1.0 * inside + 22 * top)
    volume = (3.0 + 10 * top) * layer.depth * rng.uniform(0.7, 1.25, n)
    front = np.clip((_to_map(roots)[:, 1] - 60) / 40, 0, 1) * top
    volume = volume * (1 + 0.35 * front)
    up = ground.up(roots)
    point = roots + 0.4 * up
    sway = rng.normal(0, 0.15, (n, 1))
    flow_at = _tangents(roots, flow)
    flow_at = _unit(flow_at + sway * np.cross(up, flow_at))
    lift = (0.35 + 0.5 * top * layer.depth)[:, None]
    heading = _unit(flow_at + lift * up)
    path = [point]
    n_steps = 14
    step = (length / n_steps)[:, None]
    for k in range(n_steps):
        height, up, _ = ground.probe(point)
        along = _tangents(point, flow)
        along = _unit(along + sway * np.cross(up, along))
        target = 1.0 + volume * np.sin(np.pi * min(1.0, 0.25 + 0.62 * k / n_steps))
        rise = np.clip((target - height) / 8, -0.5, 0.9)
        gravity = np.array([0.0, -0.25, 0]) - np.minimum(-0.25 * up[:, 1:2], 0) * up
        heading = _unit(0.8 * heading + 0.5 * along + rise[:, None] * up + gravity)
        point = ground.lift(point + step * heading, 0.9)
        path.append(point)
    return np.stack(path, 1)


def _fringe(
    ground: _Ground, roots: Array, flow: Flow, layer: _Layer, rng: np.random.Generator
) -> Array:
    """Locks combed straight forward that end above the eyes."""
    n = len(roots)
    stop = 66 + 2 * rng.normal(size=n)
    target = 3 + 5 * layer.depth * rng.uniform(0.7, 1.2, n)
    point = roots + ground.up(roots)
    heading = _unit(_tangents(roots, _forward) + 0.7 * ground.up(roots))
    path, alive = [point], np.ones(n, bool)
    for _ in range(60):
        height, up, _ = ground.probe(point)
        gravity = np.array([0.0, -1, 0]) - np.minimum(-up[:, 1:2], 0) * up
        rise = np.clip((target - height) / 10, -0.5, 0.8)[:, None]
        turn = 0.9 * heading + 0.3 * _tangents(point, _forward) + 0.3 * gravity + rise * up
        heading = _unit(turn)
        moved = ground.lift(point + 3.0 * heading, 2.0)
        # longer beside the eyes, to meet the curtain at the temples
        beside = np.clip((np.abs(point[:, 0]) - 46) / 8, 0, 1)
        alive &= point[:, 1] > stop - 55 * beside
        point = np.where(alive[:, None], moved, point)
        path.append(point)
    return _smoothed(_resample(np.stack(path, 1), 32))


def _forward(flat: Array) -> Array:
    return np.stack([0.009 * flat[:, 0], np.ones(len(flat))], 1)


_SHORT_LAYERS = (
    _Layer(hair_texture.UNDER, 0.15, 13.0, 3, 3, 0.35, 5.0),
    _Layer(hair_texture.TUFTS, 0.60, 8.0, 2, 4, 0.85, 2.0),
    _Layer(hair_texture.TUFTS, 0.15, 5.5, 2, 5, 1.15, 3.0),
    _Layer(hair_texture.WISPS, 0.10, 4.5, 2, 4, 0.7, 0.0, "hairline"),
)
_LONG_LAYERS = (
    _Layer(hair_texture.UNDER, 0.24, 32.0, 3, 12, 0.25, 9.0),
    _Layer(hair_texture.LOCKS, 0.46, 23.0, 3, 13, 0.85, 6.0),
    _Layer(hair_texture.LOCKS, 0.10, 15.0, 3, 13, 1.0, 4.0, "parting"),
    _Layer(hair_texture.WISPS, 0.10, 12.0, 2, 14, 1.05, 6.0),
    _Layer(hair_texture.WISPS, 0.10, 8.0, 2, 14, 0.7, 0.5, "hairline"),
)
_FRINGE_LAYERS = (
    _Layer(hair_texture.UNDER, 0.21, 32.0, 3, 12, 0.25, 9.0),
    _Layer(hair_texture.LOCKS, 0.40, 23.0, 3, 13, 0.85, 6.0),
    _Layer(hair_texture.LOCKS, 0.10, 15.0, 3, 13, 1.0, 4.0, "parting"),
    _Layer(hair_texture.UNDER, 0.06, 18.0, 3, 9, 0.4, 4.0, "fringe"),
    _Layer(hair_texture.LOCKS, 0.11, 14.0, 3, 10, 1.0, 2.0, "fringe"),
    _Layer(hair_texture.WISPS, 0.12, 9.0, 2, 14, 1.0, 1.0),
)
_SIDE, _MIDDLE = _parting(24.0), _parting(4.0)
STYLES: dict[str, _Recipe] = {
    "short": _Recipe(12_000, _cropped, None, _SHORT_LAYERS, _short),
    "bob": _Recipe(
        20_000,
        _parted(_SIDE),
        _SIDE,
        _LONG_LAYERS,
        _falling(end=-66.0, spread=3.5, volume=15.0, parting=24.0, wave=1.5),
    ),
    "fringe": _Recipe(
        20_000,
        _parted(_MIDDLE),
        _MIDDLE,
        _FRINGE_LAYERS,
        _falling(end=-60.0, spread=3.0, volume=15.0, parting=4.0, wave=1.2),
    ),
    "long": _Recipe(
        20_000,
        _parted(_MIDDLE),
        _MIDDLE,
        _LONG_LAYERS,
        _falling(end=-178.0, spread=10.0, volume=13.0, parting=4.0, wave=5.0, tuck=0.1),
    ),
}
