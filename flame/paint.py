"""Painting of a head's skin in UV, at build time: everything follows from 3D position."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from flame.albedo import LEVELS, TONE_CENTRE, AlbedoModel
from flame.paint_chart import Face, lay_flat
from flame.paint_layers import Component, paint_components
from flame.paint_noise import Array
from flame.paint_population import draw_amounts
from flame.paint_surface import paint_relief

_SHRINK = {"coarse": 4, "medium": 2, "fine": 1}
_CENSUS = 4000  # people drawn to learn the standard deviations


def paint_skin(
    position_map: Float[Tensor, "K K 3"],
    normal_map: Float[Tensor, "K K 3"],
    valid: Bool[Tensor, "K K"],
    landmarks68: Float[Tensor, "68 3"],
    eye_centers: Float[Tensor, "2 3"],
    *,
    generator: torch.Generator,
) -> AlbedoModel:
    """The parametric skin of a neutral head, given each texel's place (metres) and normal.

    `valid` marks texels on the surface; the others are filled from their nearest neighbours, so
    that filtering at the seams never meets an unpainted texel.
    """
    face = _face(position_map, normal_map, valid, landmarks68, eye_centers)
    rng = _rng(generator)
    base, components = paint_components(face, rng)
    fill = _Fill(valid)
    names = tuple(component.name for component in components)
    amounts = draw_amounts(names, _CENSUS, generator=torch.Generator().manual_seed(0))
    deviations = amounts.std(dim=0).numpy()
    # the face proper decides which codes come first, not nape and scalp
    weight = face.area * (0.02 + np.exp(-0.5 * (face.flat[:, 0] / 45) ** 2) * (face.depth < 4))
    weight *= np.abs(face.flat[:, 1]) < 80
    strength = [
        float(np.sqrt(np.average(c.mask**2, weights=weight)) * np.linalg.norm(c.log_rgb) * d)
        for c, d in zip(components, deviations, strict=True)
    ]
    order = np.argsort(strength)[::-1]
    return AlbedoModel(
        tuple(names[i] for i in order),
        _pack(base, [components[i] for i in order], deviations[order], fill),
    )


def paint_skin_surface(
    position_map: Float[Tensor, "K K 3"],
    normal_map: Float[Tensor, "K K 3"],
    valid: Bool[Tensor, "K K"],
    landmarks68: Float[Tensor, "68 3"],
    eye_centers: Float[Tensor, "2 3"],
    *,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "1 R R"]]:
    """Tangent-space normal map (+y up, 0..1) and roughness map (half the size) of the skin."""
    face = _face(position_map, normal_map, valid, landmarks68, eye_centers)
    fill = _Fill(valid)
    slope, roughness = paint_relief(
        face, position_map.numpy(), normal_map.numpy(), valid.numpy(), _rng(generator)
    )
    normal = fill(slope.astype(np.float32)).transpose(2, 0, 1) * 0.5 + 0.5
    return (
        torch.from_numpy(np.ascontiguousarray(normal)),
        torch.from_numpy(_shrunk(fill(roughness), 2)[None]),
    )


class _Fill:
    """Values of the valid texels as images whose gutters repeat the nearest valid texel."""

    def __init__(self, valid: Bool[Tensor, "K K"]) -> None:
        mask = valid.numpy()
        place = distance_transform_edt(~mask, return_distances=False, return_indices=True)
        order = np.zeros(mask.shape, np.int64)
        order[mask] = np.arange(mask.sum())
        self._source = order[place[0], place[1]]

    def __call__(self, values: Array) -> Array:
        return np.asarray(values[self._source])


def _face(
    position_map: Tensor, normal_map: Tensor, valid: Tensor, landmarks: Tensor, eyes: Tensor
) -> Face:
    side = position_map.shape[0]
    if side % 4:
        raise ValueError(f"maps are {side} texels a side; bake them at a multiple of 4, as 1024")
    if not bool(valid.any()):
        raise ValueError("no texel of the position map is valid; bake it from the head's UV first")
    return lay_flat(*(t.numpy() for t in (position_map, normal_map, valid, landmarks, eyes)))


def _rng(generator: torch.Generator) -> np.random.Generator:
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))


def _pack(
    base: Array, components: list[Component], deviations: Array, fill: _Fill
) -> dict[str, Tensor]:
    """The tensors of an AlbedoModel; a mask that several components share is kept once."""
    masks: dict[str, list[Array]] = {level: [] for level in LEVELS}
    kept: dict[int, tuple[int, int, tuple[float, float]]] = {}
    for component in components:
        if id(component.mask) in kept:
            continue
        level = component.level
        image = _shrunk(fill(component.mask), _SHRINK[level])
        low, high = float(image.min()), float(image.max())
        span = max(high - low, 1e-6)
        kept[id(component.mask)] = (LEVELS.index(level), len(masks[level]), (low, low + span))
        masks[level].append(np.round((image - low) / span * 255).astype(np.uint8))
    side = len(fill(base[:, 0]))
    places = [kept[id(component.mask)] for component in components]
    scale = deviations[:, None].astype(np.float32)
    colours = np.array([component.log_rgb for component in components], np.float32)
    average = np.array([component.average for component in components], np.float32)
    log_base = _shrunk(fill(base + np.array(TONE_CENTRE, np.float32)), 2)
    tensors = {
        "log_base": torch.from_numpy(log_base.transpose(2, 0, 1).astype(np.float16)),
        "level_of": torch.tensor([place[0] for place in places]),
        "mask_of": torch.tensor([place[1] for place in places]),
        "mask_range": torch.tensor([place[2] for place in places]),
        "log_rgb": torch.from_numpy(colours * scale),
        "offsets": torch.from_numpy(average / deviations).float(),
        "deviations": torch.from_numpy(deviations).float(),
        "one_sided": torch.tensor([component.one_sided for component in components]),
    }
    for level in LEVELS:
        size = side // _SHRINK[level]
        stack = np.stack(masks[level]) if masks[level] else np.zeros((0, size, size), np.uint8)
        tensors[f"masks_{level}"] = torch.from_numpy(stack)
    return tensors


def _shrunk(image: Array, factor: int) -> Array:
    """Means of factor x factor texels."""
    side = len(image) // factor
    blocks = image.reshape(side, factor, side, factor, *image.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)
