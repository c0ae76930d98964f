"""Objects that are formulas, and their silhouettes: traced along rays by numpy alone."""

from __future__ import annotations

import numpy as np
import torch

from flame.mesh_losses import neighbours
from flame.pinhole import look_at

SIDE = 96  # px
UP = torch.tensor([0.0, 1.0, 0.0])


def capsule(p, start, along, radius):
    share = np.clip((p - start) @ np.array(along) / np.dot(along, along), 0, 1)
    return np.linalg.norm(p - start - share[..., None] * along, axis=-1) - radius


def ring_and_knob(p):
    """A ring in the xy plane with an arm: a hole, a concavity and no symmetry."""
    ring = np.hypot(np.hypot(p[..., 0], p[..., 1]) - 0.3, p[..., 2]) - 0.1
    return np.minimum(ring, capsule(p, [0.3, 0.0, 0.0], [0.25, 0.1, 0.25], 0.08))


def elbow(p):
    """Two arms that meet at a right angle."""
    return np.minimum(
        capsule(p, [-0.25, -0.3, 0.0], [0.6, 0.0, 0.1], 0.15),
        capsule(p, [-0.25, -0.3, 0.0], [0.0, 0.65, 0.0], 0.13),
    )


def trace(distance, cameras, side=SIDE, samples=3):
    """Shares of pixels whose rays hit; sphere tracing in numpy."""
    masks = []
    for item in range(len(cameras.near)):
        matrix = cameras.world_to_camera[item].double().numpy()
        eye = -matrix[:3, :3].T @ matrix[:3, 3]
        place = (np.arange(side * samples) + 0.5) / samples
        x, y = np.meshgrid(place, place)
        focal, centre = cameras.focal[item].tolist(), cameras.centre[item].tolist()
        rays = np.stack([(x - centre[0]) / focal[0], (y - centre[1]) / focal[1], np.ones_like(x)])
        rays = (rays / np.linalg.norm(rays, axis=0)).reshape(3, -1).T @ matrix[:3, :3]
        reach = np.full(len(rays), np.linalg.norm(eye) - 0.9)
        hit = np.zeros(len(rays), dtype=bool)
        alive = np.arange(len(rays))
        for _ in range(80):
            gap = distance(eye + reach[alive, None] * rays[alive])
            reach[alive] += gap
            hit[alive[gap < 1e-3]] = True
            alive = alive[(gap >= 1e-3) & (reach[alive] < np.linalg.norm(eye) + 0.9)]
        masks.append(hit.reshape(side, samples, side, samples).mean((1, 3)))
    return torch.from_numpy(np.stack(masks)[:, None]).float()


def cameras_round(count, pitches_deg=(20, -15, 50), phase=0.0, side=SIDE, up=UP):
    yaw = 2 * np.pi * (np.arange(count) + phase) / count
    pitch = np.radians([pitches_deg[k % len(pitches_deg)] for k in range(count)])
    eye = 2.2 * np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)])
    eyes = torch.from_numpy(eye.T).float()
    return look_at(eyes, torch.zeros_like(eyes), up, 1.35 * side, (side, side))


def euler(verts, faces):
    return len(verts) - len(neighbours(faces, len(verts)).edges) + len(faces)


def is_closed(faces):
    half = torch.stack([faces, faces.roll(-1, 1)], -1).reshape(-1, 2).tolist()
    return len({(a, b) for a, b in half}) == len(half) and {(b, a) for a, b in half} == {
        (a, b) for a, b in half
    }
