"""Parametric skin: named codes -> albedo, log-linear in pigments (Beer-Lambert)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from flame.paint_population import draw_amounts
from flame.srgb import linear_to_srgb

LEVELS = ("coarse", "medium", "fine")  # masks are kept at the resolution that they need
DEEPEST = -6.0  # natural log of the darkest reflectance; half of an 8-bit step of sRGB


class AlbedoModel(nn.Module):
    """Skin whose log albedo is linear in codes: mean + sum of code x mask(u, v) x colour.

    Codes are in standard deviations of the painted population; those in `one_sided` (freckles,
    stubble, make-up) mean something from 0 upward only. Masks are 8-bit and may be shared.
    """

    masks_coarse: Tensor
    masks_medium: Tensor
    masks_fine: Tensor
    log_base: Tensor
    mask_of: Tensor
    level_of: Tensor
    mask_range: Tensor
    log_rgb: Tensor
    offsets: Tensor
    deviations: Tensor
    one_sided: Tensor

    def __init__(self, names: tuple[str, ...], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.names = names
        for name in TENSORS:
            self.register_buffer(name, tensors[name])

    @property
    def size(self) -> int:
        """Texels along a side of the finest layer."""
        return int(self.masks_fine.shape[-1])

    @property
    def n_codes(self) -> int:
        return len(self.names)

    @staticmethod
    def load(tensors: dict[str, Tensor]) -> AlbedoModel:
        """The model that `save` wrote; extra tensors of the dict are ignored."""
        missing = sorted({*TENSORS, "names"} - tensors.keys())
        if missing:
            raise ValueError(
                f"albedo tensors lack {', '.join(missing)}; pass the dict that AlbedoModel.save "
                "returned, or rebuild it with flame.paint.paint_skin"
            )
        names = bytes(tensors["names"].tolist()).decode().split("\n")
        return AlbedoModel(tuple(names), {name: tensors[name] for name in TENSORS})

    def save(self) -> dict[str, Tensor]:
        """Everything as plain tensors, names as UTF-8 bytes: fit for a safetensors file."""
        letters = torch.tensor(list("\n".join(self.names).encode()), dtype=torch.uint8)
        return {"names": letters, **{name: getattr(self, name).cpu() for name in TENSORS}}

    def decode(
        self, codes: Float[Tensor, "B A"], size: int | None = None
    ) -> Float[Tensor, "B 3 K K"]:
        """Albedo images, sRGB-encoded 0..1, first row on top; `size` texels a side."""
        self._check(codes)
        size = size or self.size
        weights = self._weights(codes)
        log_albedo = _resized(self.log_base.to(codes)[None], size).expand(len(codes), -1, -1, -1)
        for level, name in enumerate(LEVELS):
            masks = getattr(self, f"masks_{name}")
            if len(masks):
                layer = torch.einsum("bmc,mij->bcij", weights[level], masks.to(codes.dtype) / 255)
                log_albedo = log_albedo + _resized(layer, size)
        return self._display(log_albedo + self._constant(codes)[..., None, None])

    def decode_at(
        self, codes: Float[Tensor, "B A"], uv: Float[Tensor, "N 2"]
    ) -> Float[Tensor, "B 3 N"]:
        """Albedo at UV points (origin bottom left), bilinear: `decode` without the other texels.

        Differentiable in the codes and in the points.
        """
        self._check(codes)
        weights = self._weights(codes)
        log_albedo = self._constant(codes)[..., None] + _sampled(self.log_base, uv).to(codes)
        for level, name in enumerate(LEVELS):
            masks = getattr(self, f"masks_{name}")
            if len(masks):
                values = _sampled(masks, uv) / 255
                log_albedo = log_albedo + torch.einsum("bmc,mn->bcn", weights[level], values)
        return self._display(log_albedo)

    def basis_at(
        self, uv: Float[Tensor, "N 2"]
    ) -> tuple[Float[Tensor, "3 N"], Float[Tensor, "A 3 N"]]:
        """Log of linear albedo at UV points: its value at zero codes and its slope per code.

        The log albedo is exactly linear in the codes, so fits to given points can use both.
        """
        low, high = self.mask_range.unbind(-1)
        values = uv.new_zeros(self.n_codes, len(uv))
        for level, name in enumerate(LEVELS):
            masks = getattr(self, f"masks_{name}")
            chosen = (self.level_of == level).nonzero()[:, 0]
            if len(masks):
                values[chosen] = (_sampled(masks, uv) / 255)[self.mask_of[chosen]]
        amount = low[:, None] + (high - low)[:, None] * values  # [A, N]
        slopes = self.log_rgb[:, :, None] * amount[:, None]
        base = _sampled(self.log_base, uv).to(uv) + torch.einsum("a,acn->cn", self.offsets, slopes)
        return base, slopes

    def sample(self, count: int, generator: torch.Generator) -> Float[Tensor, "N A"]:
        """Codes of a plausible population: tone, hair colour, sex and age go together."""
        amounts = draw_amounts(self.names, count, generator=generator)
        return amounts.to(self.deviations) / self.deviations

    def tone(self, codes: Float[Tensor, "B A"]) -> Float[Tensor, "B 3"]:
        """sRGB of unmarked skin: what the tone codes alone give on a plain patch."""
        self._check(codes)
        tones = [self.names.index(name) for name in ("melanin", "haemoglobin", "undertone")]
        log_albedo = self.log_base.new_tensor(TONE_CENTRE, dtype=codes.dtype)
        return self._display(log_albedo + codes[:, tones] @ self.log_rgb[tones].to(codes))

    def _check(self, codes: Tensor) -> None:
        if codes.shape[-1] != self.n_codes:
            raise ValueError(
                f"codes have {codes.shape[-1]} columns, this albedo model has {self.n_codes}; "
                "pad with zeros or take codes from AlbedoModel.sample"
            )

    def _weights(self, codes: Tensor) -> list[Tensor]:
        """Colour times amount of every mask of each level, [B, M, 3]."""
        low, high = self.mask_range.to(codes).unbind(-1)
        coloured = (codes + self.offsets.to(codes))[..., None] * self.log_rgb.to(codes)  # [B, A, 3]
        spread = coloured * (high - low)[:, None]
        weights = []
        for level, name in enumerate(LEVELS):
            count = len(getattr(self, f"masks_{name}"))
            chosen = (self.level_of == level).nonzero()[:, 0]
            empty = spread.new_zeros(len(codes), count, 3)
            weights.append(empty.index_add(1, self.mask_of[chosen], spread[:, chosen]))
        return weights

    def _constant(self, codes: Tensor) -> Tensor:
        """What the masks' lower ends contribute, [B, 3]."""
        lows = (codes + self.offsets.to(codes)) * self.mask_range.to(codes)[:, 0]
        return lows @ self.log_rgb.to(codes)

    @staticmethod
    def _display(log_albedo: Tensor) -> Tensor:
        return linear_to_srgb(log_albedo.clamp(DEEPEST, 0.0).exp())


# ln of linear RGB of the population's middle tone, about sRGB (143, 102, 82)
TONE_CENTRE = (-1.30, -1.98, -2.42)

# Arrays of an AlbedoModel, in the order of the constructor:
#   masks_*     uint8 [M, k, k]   0..255 stands for mask_range of the component
#   log_base    float16 [3, k, k] ln of linear RGB at codes = -offsets
#   mask_of     int64 [A]         index into the masks of its level
#   level_of    int64 [A]         index into LEVELS
#   mask_range  float32 [A, 2]    mask value of 0 and of 255
#   log_rgb     float32 [A, 3]    change of ln linear RGB at code 1, mask 1
#   offsets     float32 [A]       codes of the average face, e.g. average brows
#   deviations  float32 [A]       population amount that one unit of code stands for
#   one_sided   bool [A]
TENSORS = (
    "masks_coarse",
    "masks_medium",
    "masks_fine",
    "log_base",
    "mask_of",
    "level_of",
    "mask_range",
    "log_rgb",
    "offsets",
    "deviations",
    "one_sided",
)


def _resized(images: Tensor, size: int) -> Tensor:
    """Images at another resolution: means of texels when shrinking, bilinear when growing."""
    side = images.shape[-1]
    if side == size:
        return images
    if side > size:
        return F.adaptive_avg_pool2d(images, size)
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


def _sampled(
    images: Float[Tensor, "M K K"] | UInt8[Tensor, "M K K"], uv: Float[Tensor, "N 2"]
) -> Float[Tensor, "M N"]:
    """Bilinear samples; gathers four texels a point, so 8-bit images are never widened whole."""
    side = images.shape[-1]
    x = (uv[:, 0] * side - 0.5).clamp(0, side - 1)
    y = ((1 - uv[:, 1]) * side - 0.5).clamp(0, side - 1)
    left, top = x.detach().floor().clamp(max=side - 2), y.detach().floor().clamp(max=side - 2)
    fx, fy = x - left, y - top
    first = (top * side + left).long()
    flat = images.flatten(1)
    a, b, c, d = (flat[:, first + step].to(uv.dtype) for step in (0, 1, side, side + 1))
    upper, lower = a + (b - a) * fx, c + (d - c) * fx
    return upper + (lower - upper) * fy


def bounded(codes: Float[Tensor, "B A"], model: AlbedoModel, limit: float = 3.0) -> Tensor:
    """The nearest codes that mean something: within +-limit, one-sided ones from 0 upward."""
    if not math.isfinite(limit) or limit <= 0:
        raise ValueError(f"limit={limit} must be a positive number of standard deviations")
    floor = torch.where(model.one_sided, 0.0, -limit).to(codes)
    return codes.clamp(max=limit).maximum(floor)
