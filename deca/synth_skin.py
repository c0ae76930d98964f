"""Skins of random people: albedo at the size of small pictures, its brows, and words for it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from deca.synth_words import Attributes
from flame.albedo import DEEPEST, LEVELS, AlbedoModel
from flame.srgb import linear_to_srgb

SKIN_SIDE = 320  # texels
_BROW_HAIRS = ("brow density", "brow thickness", "brow height")
_BROW_DARKNESS = 0.40  # drop of ln albedo from which a texel counts as brow
_TONES = (
    (0.60, "very fair"),
    (0.46, "fair"),
    (0.33, "olive"),
    (0.20, "brown"),
    (0.10, "dark brown"),
)


class Skins:
    """An albedo model with its masks shrunk once: `decode` at `side`, several times faster."""

    def __init__(self, albedo: AlbedoModel, side: int = SKIN_SIDE) -> None:
        self.model, self.side = albedo, side
        self._painted = set(_BROW_HAIRS) <= set(albedo.names)
        if not self._painted:  # a stand-in that has no layers
            return
        masks, first, start = [], [], 0
        for name in LEVELS:
            level = getattr(albedo, f"masks_{name}").float() / 255
            first.append(start)
            start += len(level)
            if len(level):
                masks.append(_resized(level[None], side)[0])
        self._masks = torch.cat(masks).flatten(1)  # [M, K K]
        self._mask_of = torch.tensor(first)[albedo.level_of] + albedo.mask_of
        self._base = _resized(albedo.log_base.float()[None], side)[0].flatten(1)
        self._low, high = albedo.mask_range.unbind(-1)
        self._span = high - self._low

    @torch.no_grad()
    def decode(self, codes: Float[Tensor, "1 A"]) -> Float[Tensor, "3 K K"]:
        """The albedo image of one person, sRGB."""
        if not self._painted:
            return self.model.decode(codes, self.side)[0]
        model = self.model
        coloured = (codes[0] + model.offsets)[:, None] * model.log_rgb  # [A, 3]
        weights = coloured.new_zeros(len(self._masks), 3)
        weights.index_add_(0, self._mask_of, coloured * self._span[:, None])
        log_albedo = torch.addmm(
            self._base + (self._low @ coloured)[:, None], weights.T, self._masks
        )
        image: Tensor = linear_to_srgb(log_albedo.clamp(DEEPEST, 0.0).exp())
        return image.reshape(3, self.side, self.side)

    @torch.no_grad()
    def brows(self, codes: Float[Tensor, "1 A"]) -> Bool[np.ndarray, "K K"]:
        """Texels that this person's brow hairs darken by more than a third."""
        if not self._painted:
            return np.zeros((self.side, self.side), bool)
        rows = torch.tensor([self.model.names.index(name) for name in _BROW_HAIRS])
        amount = (codes[0] + self.model.offsets)[rows] * self.model.log_rgb[rows].mean(1)
        values = self._low[rows, None] + self._span[rows, None] * self._masks[self._mask_of[rows]]
        drop = -(amount @ values).reshape(1, 1, self.side, self.side)
        # single hairs leave gaps of a texel between them
        smooth = F.avg_pool2d(drop, 3, 1, 1)
        return (smooth[0, 0] > _BROW_DARKNESS).numpy()

    def words(self, codes: Float[Tensor, "1 A"]) -> Attributes:
        """What the codes make visible, each as words for a caption, "" where there is nothing."""
        lightness = float(self.model.tone(codes)[0].square().mean())
        found: Attributes = {
            "skin": next((word for least, word in _TONES if lightness >= least), "very dark")
        }
        if not self._painted:
            return found
        total = (codes[0] + self.model.offsets) * self.model.deviations
        amount = dict(zip(self.model.names, total.tolist(), strict=True))
        shadow, lip = amount["beard shadow"], amount["moustache shadow"]
        beard = "a beard" if shadow > 0.9 else ("stubble" if shadow > 0.35 else "")
        found["beard"] = beard or ("a moustache" if lip > 0.6 else "")
        found["scalp"] = "cropped hair" if amount["scalp tint"] > 2.2 else "no hair"
        found["make-up"] = "eye shadow" if amount["eye shadow"] > 0.6 else ""
        found["freckles"] = "freckles" if amount["freckles"] > 0.7 else ""
        bulk = (codes[0, self.model.names.index("brow density")]
                + codes[0, self.model.names.index("brow thickness")])  # fmt: skip
        found["brows"] = "thick brows" if bulk > 1.8 else ("thin brows" if bulk < -1.8 else "")
        return found


def _resized(images: Float[Tensor, "1 M J J"], side: int) -> Float[Tensor, "1 M K K"]:
    """Means of texels when shrinking, bilinear when growing, as AlbedoModel.decode has it."""
    if images.shape[-1] > side:
        return F.adaptive_avg_pool2d(images, side)
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
