"""How good a painted texture is: steps across its seams, and how far left and right differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deca.texture import blurred
from flame.texture import sample_texture

_PLACES = (0.25, 0.5, 0.75)  # along an edge
_INSET = 0.08  # of the way to the face's middle


@dataclass(frozen=True)
class SeamEnergy:
    """Mean absolute differences of sRGB 0..1 between both sides of edges."""

    seams: float  # where the texture is cut
    inside: float  # where it is not: what the picture itself changes by

    @property
    def excess(self) -> float:
        """What cutting adds."""
        return max(0.0, self.seams - self.inside)


def seam_energy(
    texture: Float[Tensor, "3 K K"],
    faces: Int[Tensor, "F 3"],
    uv: Float[Tensor, "T 2"],
    uv_faces: Int[Tensor, "F 3"],
) -> SeamEnergy:
    """Differences across the edges of a mesh that are cut in UV, and across the others.

    Both sides are sampled a little inside their faces. Without cuts `seams` is 0.
    """
    after = [1, 2, 0]
    ends = torch.stack([faces, faces[:, after]], dim=-1).reshape(-1, 2)  # [3 F, 2]
    uv_ends = torch.stack([uv_faces, uv_faces[:, after]], dim=-1).reshape(-1, 2)
    middles = uv[uv_faces].mean(1).repeat_interleave(3, dim=0)
    low, high = ends.amin(1), ends.amax(1)
    key = low * (int(faces.max()) + 1) + high
    order = key.argsort(stable=True)
    same = key[order][1:] == key[order][:-1]
    first, second = order[:-1][same], order[1:][same]
    if not len(first):
        return SeamEnergy(0.0, 0.0)
    corners = [_sorted(ends, uv_ends, low, side) for side in (first, second)]
    cut = (corners[0] != corners[1]).any(1)
    steps = torch.zeros(len(first))
    for place in _PLACES:
        colours = []
        for side, (start, end) in zip(
            (first, second), (one.unbind(1) for one in corners), strict=True
        ):
            on_edge = uv[start] + place * (uv[end] - uv[start])
            inner = on_edge + _INSET * (middles[side] - on_edge)
            colours.append(sample_texture(texture[None], inner[None, None])[0, :, 0])
        steps += (colours[0] - colours[1]).abs().mean(0) / len(_PLACES)
    seams = float(steps[cut].mean()) if bool(cut.any()) else 0.0
    inside = float(steps[~cut].mean()) if bool((~cut).any()) else 0.0
    return SeamEnergy(seams, inside)


def left_right_difference(texture: Float[Tensor, "3 K K"], valid: Bool[Tensor, "K K"]) -> float:
    """Mean absolute difference of broad sRGB colours to the mirrored texture's.

    The UV layout is taken to be symmetric; tones finer than a sixteenth of it do not count.
    """
    both = valid & valid.flip(-1)
    if not bool(both.any()):
        return 0.0
    broad = blurred(texture, valid.to(texture.dtype), max(1, texture.shape[-1] // 16))
    return float((broad - broad.flip(-1)).abs()[:, both].mean())


def psnr_db(first: Float[Tensor, "*S"], second: Float[Tensor, "*S"], peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio; 99 where both are the same."""
    error = float((first - second).square().mean())
    return 99.0 if error < 1e-10 else -10 * float(torch.tensor(error / peak**2).log10())


def _sorted(ends: Tensor, uv_ends: Tensor, low: Tensor, chosen: Tensor) -> Int[Tensor, "E 2"]:
    """UV corners of half-edges, that of the lower vertex first."""
    pairs = uv_ends[chosen]
    swap = ends[chosen, 0] != low[chosen]
    return torch.where(swap[:, None], pairs.flip(1), pairs)
