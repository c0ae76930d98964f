"""Points on the built head: the 68, the jaw contour under yaw, the dense set for the network."""

from __future__ import annotations

import numpy as np

from flame.remesh import Bools, Floats, Ints, Remeshed, closest_barycentric, triangulate
from flame.statistics import Statistics


def embed_landmarks(
    template: Floats, polygons: Ints, is_face: Bools, mesh: Remeshed, source: Statistics
) -> tuple[Ints, Floats]:
    """Triangle corners [68, 3] and barycentrics [68, 3] of the 68 points.

    Each point is sought only on polygons that touch the vertex it merged into: the nearest surface
    may be the other lip.
    """
    faces = triangulate(polygons[is_face])
    corners = np.zeros((68, 3), dtype=np.int64)
    bary = np.zeros((68, 3))
    for index, vertex in enumerate(source.landmarks68):
        near = faces[(faces == mesh.groups[vertex]).any(1)]
        goal = np.repeat(source.neutral[vertex][None], len(near), axis=0)
        weights = closest_barycentric(goal, template[near])
        reached = np.einsum("nk,nkd->nd", weights, template[near])
        best = np.square(reached - goal).sum(1).argmin()
        corners[index], bary[index] = near[best], weights[best]
    return corners, bary


def contour_rows(template: Floats, mesh: Remeshed, source: Statistics) -> Ints:
    """Vertices [79, 17] of the jaw's outline per whole degree of yaw, rows ordered as in FLAME.

    Rows 0..39 are yaws 0..39 degrees, rows 40..78 are -1..-39. For each ray from the face's middle
    toward a jaw landmark the outermost vertex of the face is taken in the turned view.
    """
    face = np.zeros(len(source.neutral))
    face[: source.narrow_face] = 1
    own = np.flatnonzero((mesh.transfer @ face[: mesh.transfer.shape[1]]) > 0.99)
    jaw = source.neutral[source.landmarks68[:17]]
    middle = np.array([0.0, 5.0, 40.0])
    rays = np.arctan2(jaw[:, 1] - middle[1], jaw[:, 0] - middle[0])
    own = own[_within_jaw(template[own] - middle, jaw - middle)]
    rows = []
    for degrees in (*range(40), *range(-1, -40, -1)):
        angle = np.radians(degrees)
        points = template[own] - middle
        x = points[:, 0] * np.cos(angle) + points[:, 2] * np.sin(angle)
        x = x - 60.0 * np.sin(angle)  # the face's middle swings sideways with the nose
        direction = np.arctan2(points[:, 1], x)
        radius = np.hypot(x, points[:, 1])
        off = np.abs((direction[:, None] - rays + np.pi) % (2 * np.pi) - np.pi)
        score = np.where(off < 0.06, radius[:, None], -off[..., None].squeeze(-1))
        rows.append(own[score.argmax(0)])
    return np.stack(rows)


def _within_jaw(points: Floats, jaw: Floats) -> Bools:
    """Whether points lie inside the jaw line seen from the front, or at most 2 mm outside.

    What is below it is the underside of the chin and the neck, which is no outline of the face.
    """
    # angles from straight down, growing to the viewer's right: no jump within the jaw's range
    along = np.arctan2(jaw[:, 0], -jaw[:, 1])
    radius = np.interp(
        np.arctan2(points[:, 0], -points[:, 1]), along, np.hypot(jaw[:, 0], jaw[:, 1])
    )
    return np.asarray(np.hypot(points[:, 0], points[:, 1]) < radius + 2.0)


def dense_points(
    template: Floats,
    mesh: Remeshed,
    mirror: Ints,
    landmark_corners: Ints,
    source: Statistics,
    count: int,
) -> Ints:
    """Vertices of the dense set: near the 68 first, then farthest points over face and ears.

    Mirror partners come in pairs.
    """
    face = np.zeros(mesh.transfer.shape[1])
    face[: source.narrow_face] = 1
    share = mesh.transfer @ face
    skin = template[: mesh.transfer.shape[0]]
    candidates = np.flatnonzero((share > 0.99) & (skin[:, 2] > 15))
    chosen = list(dict.fromkeys(int(c) for c in np.concatenate([landmark_corners[:, 0]])))
    chosen = list(dict.fromkeys([*chosen, *(int(mirror[c]) for c in chosen)]))
    distance = np.linalg.norm(skin[candidates][:, None] - skin[chosen][None], axis=2).min(1)
    while len(chosen) < count:
        pick = int(candidates[distance.argmax()])
        for vertex in dict.fromkeys([pick, int(mirror[pick])]):
            chosen.append(vertex)
            distance = np.minimum(distance, np.linalg.norm(skin[candidates] - skin[vertex], axis=1))
    return np.array(chosen)
