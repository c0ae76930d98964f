"""Relief and gloss of skin: pores, lip creases, neck folds as a normal map, and roughness."""

from __future__ import annotations

import numpy as np

from flame.paint_chart import Face, ear_mask, lip_loop
from flame.paint_layers import beard_masks, nostrils
from flame.paint_noise import Array, bell, marks, scatter, smoothstep, value_noise


def paint_relief(
    face: Face, position_map: Array, normal_map: Array, valid: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Unit tangent-space normals [M, 3] and roughness [M] of the valid texels."""
    height, gloss = _height(face, rng)
    image = np.zeros(valid.shape, np.float32)
    image[valid] = height / 1000 * np.sqrt(_metres_per_unit(position_map, valid, face))
    normals = _tangent_normals(image, position_map, normal_map, valid)
    return normals, gloss


def _metres_per_unit(position_map: Array, valid: Array, face: Face) -> float:
    """Squared ratio of head lengths to canonical ones, from two far texels."""
    points = position_map[valid]
    real = np.linalg.norm(points.max(axis=0) - points.min(axis=0)) * 1000
    drawn = np.linalg.norm(np.ptp(face.points, axis=0))
    return float((real / drawn) ** 2)


def _height(face: Face, rng: np.random.Generator) -> tuple[Array, Array]:
    """Relief in canonical mm, and roughness."""
    marks68 = face.landmarks
    lip_edge = face.signed(lip_loop(face), 8.0)
    lips = smoothstep(0.5, -1.0, lip_edge)
    ears = ear_mask(face)
    nose = face.blob(marks68[30], (15.0, 15.0))
    cheeks = face.blobs(np.array([30.0, marks68[30, 1] + 2]), (17.0, 18.0))
    forehead = face.blob((marks68[21] + marks68[22]) / 2 + [0, 24], (40.0, 18.0))
    skin = (1 - lips) * (1 - 0.7 * ears)
    coarse = np.clip(0.25 + 0.75 * nose + 0.6 * cheeks + 0.25 * forehead, 0, 1) * skin
    places, _ = scatter(face.points, 0.30 * coarse * face.front, face.area, rng)
    pores = marks(face.points, places, rng.uniform(0.20, 0.42, len(places)), softness=0.9)
    # leathery network between the pores: ridged noise in two sizes
    network = sum(0.5 * np.abs(value_noise(face.points, cell, rng)) * cell for cell in (0.9, 1.7))
    height = -0.055 * pores * (0.4 + 0.6 * coarse) + 0.014 * skin * network
    height += 0.05 * skin * value_noise(face.points, 6.0, rng) * 0.35
    # lips: furrows run across them, that is along y, and fan out a little at the corners
    fan = face.flat[:, 0] * (1 + 0.008 * np.abs(face.flat[:, 1] - marks68[62, 1]))
    furrow = np.stack([fan, 0.14 * face.flat[:, 1], np.zeros(len(fan))], axis=1)
    height += lips * (
        0.05 * np.abs(value_noise(furrow, 0.8, rng)) + 0.04 * value_noise(furrow, 1.9, rng)
    )
    # rings of the neck, sagging toward the middle
    chin = marks68[8, 1]
    rings = np.zeros(len(height), np.float32)
    x, y = face.points[:, 0], face.points[:, 1]
    for below in (34.0, 54.0):
        wave = 0.9 * np.sin(0.09 * x + below)
        rings += bell((y - (chin - below) - 0.0016 * x**2 - wave) ** 2, 0.8)
    height -= 0.10 * rings * smoothstep(0.1, 0.5, face.normals[:, 2])
    # forehead lines and crow's feet are wrinkles of expression and age: not painted here

    shine = np.maximum(0.9 * nose, 0.75 * forehead)
    shine = np.maximum(shine, 0.5 * face.blob(marks68[8] + [0, 5], (14.0, 9.0)))
    shine = np.maximum(shine, 0.45 * cheeks)
    rough = 0.63 - 0.13 * shine + 0.03 * value_noise(face.points, 8.0, rng)
    rough += 0.05 * pores * skin
    beard, moustache = beard_masks(face)
    rough += 0.05 * np.maximum(beard, moustache)
    wet = smoothstep(face.lid_radius + 0.6, face.lid_radius - 0.6, face.eye_distance)
    rough = rough * (1 - lips) + (0.44 + 0.04 * value_noise(face.points, 3.0, rng)) * lips
    rough = rough * (1 - wet) + 0.25 * wet
    rough = np.maximum(rough, 0.85 * nostrils(face))
    return height.astype(np.float32), np.clip(rough, 0.2, 0.85).astype(np.float32)


def _tangent_normals(image: Array, position_map: Array, normal_map: Array, valid: Array) -> Array:
    """Normals of the displaced surface in the frame (dP/du, dP/dv orthogonalised, normal)."""
    along_u = _difference(position_map, valid, 1)[valid]
    along_v = -_difference(position_map, valid, 0)[valid]  # v runs up, rows run down
    rise_u = _difference(image[..., None], valid, 1)[valid][:, 0]
    rise_v = -_difference(image[..., None], valid, 0)[valid][:, 0]
    # neighbours in the texture that are far apart on the head lie across a fold of the layout
    steps = np.maximum(np.linalg.norm(along_u, axis=1), np.linalg.norm(along_v, axis=1))
    folded = steps > 4 * np.median(steps)
    rise_u[folded] = rise_v[folded] = 0
    normal = normal_map[valid]
    along_u = along_u - normal * (along_u * normal).sum(axis=1, keepdims=True)
    length = np.maximum(np.linalg.norm(along_u, axis=1), 1e-9)
    tangent = along_u / length[:, None]
    slope_t = rise_u / length
    # v steps move along the tangent too where the layout is sheared
    share = (along_v * tangent).sum(axis=1)
    upward = along_v - normal * (along_v * normal).sum(axis=1, keepdims=True)
    upward -= tangent * share[:, None]
    slope_b = (rise_v - slope_t * share) / np.maximum(np.linalg.norm(upward, axis=1), 1e-9)
    slopes = np.clip(np.stack([slope_t, slope_b], axis=1), -1.2, 1.2)
    steep = np.concatenate([-slopes, np.ones((len(slopes), 1))], axis=1)
    return np.asarray(steep / np.linalg.norm(steep, axis=1, keepdims=True), np.float32)


def _difference(image: Array, valid: Array, axis: int) -> Array:
    """Central differences per texel; zero where a neighbour is missing."""
    out = np.zeros_like(image)
    middle, before, after = ([slice(None)] * 2 for _ in range(3))
    middle[axis], before[axis], after[axis] = slice(1, -1), slice(None, -2), slice(2, None)
    both = valid[tuple(before)] & valid[tuple(after)]
    step = (image[tuple(after)] - image[tuple(before)]) / 2
    step[~both] = 0
    out[tuple(middle)] = step
    return np.asarray(out)
