"""Unrolled faces with known relief, painted straight into the texture: no picture is drawn.

Light falls on smooth normals bent by creases; freckles, moles, stubble, brows, make-up, strands of
hair, spectacles and the edges of shadows are there too, and none of them is relief.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from deca.detail_net import (
    N_INPUT,
    SIDE,
    TEXTURE,
    detail_inputs,
    log_light_sway,
    window,
    window_prior,
)
from flame.albedo import AlbedoModel
from flame.light import sh_basis
from flame.model import Flame
from flame.params import params_from_arkit
from flame.rotation import axis_angle_to_matrix
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.wrinkle_lines import GROUPS, SHAPE
from flame.wrinkle_map import uv_differences, wrinkle_map
from flame.wrinkles import bounded, depths, draw_relief

log = logging.getLogger(__name__)

_LOWEST = 128  # row of the chart below which there is only the neck
_FOLDS = 2 * TEXTURE  # side of the texture on which creases are laid: twice the network's


@dataclass(frozen=True, eq=False)
class Faces:
    """Unrolled faces and what is true of them."""

    inputs: Float[Tensor, "B C K K"]
    height: Float[Tensor, "B 1 K K"]  # metres
    depths: Float[Tensor, "B G"]  # metres
    weight: Float[Tensor, "B 1 K K"]  # 0 where nothing is seen or nothing can crease
    colour: Float[Tensor, "B 3 K K"]  # sRGB


def mirrored(faces: Faces) -> Faces:
    """The same faces left to right; the texture is symmetric."""
    # what points along u changes its sign, as does the sine of a direction's doubled angle
    signs = torch.ones(N_INPUT)
    signs[[4, 7, 11]] = -1
    return Faces(
        faces.inputs.flip(-1) * signs.view(1, -1, 1, 1),
        faces.height.flip(-1),
        faces.depths,
        faces.weight.flip(-1),
        faces.colour.flip(-1),
    )


@dataclass(frozen=True)
class Sizes:
    """How many of each are kept at hand."""

    reliefs: int = 48
    heads: int = 20
    skins: int = 24
    covers: int = 30


class Bank:
    """Creases, heads, skins and covers to combine."""

    def __init__(
        self, flame: Flame, model: AlbedoModel, sizes: Sizes, *, generator: torch.Generator
    ) -> None:
        fine, skin = wrinkle_map(flame, _FOLDS), wrinkle_map(flame, TEXTURE)
        self.prior = window_prior(flame, skin)
        self.mask = window(skin.mask)
        self._fine_mask = window(fine.mask)
        edge = _FOLDS // 4
        self._place = fine.place[edge:-edge, edge:-edge].contiguous()
        # neck and crown lie outside the window
        reliefs = [
            draw_relief(flame, generator=generator)[:, _LOWEST:] for _ in range(sizes.reliefs)
        ]
        self._reliefs = torch.stack(reliefs).flatten(2)  # [N, G, R C]
        log.info("drew %d sets of creases", sizes.reliefs)
        slopes = []
        for _ in range(sizes.heads):
            shape = 1.0 * torch.randn(1, flame.n_shape, generator=generator)
            weights = torch.rand(1, 52, generator=generator).pow(3)
            weights = weights * (torch.rand(1, 52, generator=generator) < 0.25)
            verts = flame(params_from_arkit(shape, weights)).verts[0]
            found = skin.slopes(verts)
            dual = found.dual()
            lengths = [window(x).norm(dim=0, keepdim=True) for x in (found.along_u, found.along_v)]
            slopes.append(
                torch.cat([window(found.normal), *(window(x) for x in dual), *lengths]).half()
            )
        self._slopes = torch.stack(slopes)
        log.info("posed %d heads", sizes.heads)
        skins = []
        for codes in torch.split(model.sample(sizes.skins, generator), 8):
            spots = [model.names.index(name) for name in ("freckles", "moles")]
            chosen = torch.rand(len(codes), 2, generator=generator)
            codes[:, spots] = torch.where(chosen < 0.35, 8 * chosen, codes[:, spots])
            skins.append(window(srgb_to_linear(model.decode(codes, TEXTURE))).half())
        self._skins = torch.cat(skins)
        log.info("painted %d skins", sizes.skins)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        self._covers = torch.from_numpy(np.stack([_cover(rng) for _ in range(sizes.covers)]))

    def batch(self, size: int, *, generator: torch.Generator, smooth: bool | None = None) -> Faces:
        """Faces drawn anew; `smooth` True gives none of them creases, False gives all some."""
        chance = _Chance(size, generator)
        rise, height, depth = self._creases(chance, smooth)
        slopes = self._pick(self._slopes, chance).float()
        normal, dual_u, dual_v = slopes[:, :3], slopes[:, 3:6], slopes[:, 6:9]
        turn = axis_angle_to_matrix(chance.normal(3) * torch.tensor([0.2, 0.45, 0.12]))  # [B, 3, 3]

        def turned(vectors: Tensor) -> Tensor:
            return torch.einsum("bij,bjhw->bihw", turn, vectors)

        bent = _unit(turned(normal - rise[0] * dual_u - rise[1] * dual_v), 1)
        flat = turned(normal)
        visible = ((flat[:, 2:] - 0.2) / 0.3).clamp(0, 1)
        visible = visible * self._hidden(chance) * (normal.norm(dim=1, keepdim=True) > 0.5)
        sun, sky, given = _lights(chance)
        lit = self._lit(bent, sun, sky, chance)
        colour = self._coloured(lit, bent, sun, height, chance)
        fineness = chance.uniform(1, 1, 1) ** 1.5 * 1.8
        seen = self._photographed(colour, fineness, chance)
        sway = log_light_sway(flat, turned(dual_u), turned(dual_v), slopes[:, 9:], given)
        inputs = detail_inputs(
            seen, visible, sway, fineness.expand(-1, 1, SIDE, SIDE).contiguous(), self.prior
        )
        return Faces(inputs, height, depth, self.mask * visible, seen)

    def _pick(self, images: Tensor, chance: _Chance) -> Tensor:
        return images[torch.randint(len(images), (chance.size,), generator=chance.generator)]

    def _creases(
        self, chance: _Chance, smooth: bool | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Slopes (per UV square) and heights of the window [B, 1, K, K], the groups' depths."""
        groups = len(GROUPS)
        age = (1.3 * chance.uniform(1) - 0.3).clamp(min=0)
        strength = (age * torch.exp(0.5 * chance.normal(groups))).clamp(max=1.4)
        strength = strength * (chance.uniform(groups) < 0.8)
        squeezed = 0.25 * chance.uniform(groups) * (chance.uniform(groups) < 0.45)
        if smooth is not None:
            still = torch.full((chance.size, 1), 0.0 if smooth else 1.0)
            strength = strength * still + (0 if smooth else 0.3)
            squeezed = squeezed * still
        depth = torch.stack([depths(s, t) for s, t in zip(squeezed, strength, strict=True)])
        chosen = torch.randint(len(self._reliefs), (chance.size,), generator=chance.generator)
        charts = torch.zeros(chance.size, 1, *SHAPE)  # mm
        for chart, one, index in zip(charts, depth * 1000, chosen, strict=True):
            chart[0, _LOWEST:] = (one @ self._reliefs[int(index)]).view(-1, SHAPE[1])
        mirrored = chance.uniform(1, 1, 1) < 0.5
        charts = torch.where(mirrored, charts.flip(-1), charts)
        shift = 0.02 * chance.smooth(2, 6, SIDE)  # of half the chart's width: a millimetre or two
        shift = interpolate(shift, scale_factor=2.0, mode="bilinear", align_corners=False)
        place = self._place + shift.movedim(1, -1)
        laid = grid_sample(charts, place, align_corners=False) / 1000
        uneven = torch.exp(0.3 * chance.smooth(1, 5, SIDE))
        uneven = interpolate(uneven, scale_factor=2.0, mode="bilinear", align_corners=False)
        raised = bounded(laid * uneven) * self._fine_mask
        rise = uv_differences(raised)
        # differences are per UV square of the window, which is half the texture's
        slopes = [avg_pool2d(change, 2) * 2 for change in rise]
        return (slopes[0], slopes[1]), avg_pool2d(raised, 2), depth

    def _hidden(self, chance: _Chance) -> Tensor:
        """0 where something stands before the face."""
        field = chance.smooth(1, 4, SIDE)
        bar = torch.where(chance.uniform(1, 1, 1) < 0.2, 0.8, 9.0)
        return ((bar - field) * 4).clamp(0, 1)

    def _lit(self, bent: Tensor, sun: _Sun, sky: Tensor, chance: _Chance) -> Tensor:
        """Light per channel [B, 3, K, K] on bent normals, with a shadow's edge across some."""
        direct = torch.einsum("bihw,bli->blhw", bent, sun.directions).clamp(min=0)
        place = self.prior[:2]
        heading = 6.28 * chance.uniform(1)
        across = torch.cat([heading.cos(), heading.sin()], dim=1)
        front = torch.einsum("bi,ihw->bhw", across, place)[:, None]
        front = front + 0.25 * chance.smooth(1, 5, SIDE) - 1.2 * (chance.uniform(1, 1, 1) - 0.5)
        shade = torch.sigmoid(front / (0.01 + 0.12 * chance.uniform(1, 1, 1).square()))
        shade = torch.where(chance.uniform(1, 1, 1) < 0.4, shade, 1.0)
        shares = torch.cat([shade, torch.ones_like(direct[:, 1:])], dim=1)
        light = torch.einsum("blhw,blc->bchw", direct * shares, sun.colours)
        around = torch.einsum("bhwk,bkc->bchw", sh_basis(bent.movedim(1, -1)), sky)
        return (light + around.clamp(min=0.02)).clamp(min=0.02)

    def _coloured(
        self, lit: Tensor, bent: Tensor, sun: _Sun, height: Tensor, chance: _Chance
    ) -> Tensor:
        """Linear colour of lit skin with all that is painted, grown or laid on it."""
        skins = self._pick(self._skins, chance).float()
        skins = torch.where(chance.uniform(1, 1, 1) < 0.5, skins.flip(-1), skins)
        # the fitted head never lies exactly where the pictured one does
        skins = grid_sample(skins, _base_grid() + 0.02 * chance.smooth(2, 4, SIDE).movedim(1, -1),
                            align_corners=False)  # fmt: skip
        spots = _spots(chance)
        tint = torch.tensor([-0.5, -0.9, -1.0])[None, :, None, None] * (
            0.4 + chance.uniform(3, 1, 1)
        )
        blotches = 0.04 * chance.smooth(3, 24, SIDE) + 0.08 * chance.smooth(1, 10, SIDE)
        skins = skins * torch.exp(spots * tint + blotches)
        # light hardly reaches the bottom of a crease
        dim = torch.exp(chance.uniform(1, 1, 1) * 0.9 * (height * 1000).clamp(max=0))
        colour = skins * lit * dim
        half = _unit(sun.directions[:, :1] + torch.tensor([0.0, 0.0, 1.0]), -1)
        gloss = torch.einsum("bihw,bli->blhw", bent, half).clamp(min=0)
        sharp = 8 + 40 * chance.uniform(1, 1, 1)
        shine = 0.25 * chance.uniform(1, 1, 1).square() * gloss.pow(sharp)
        colour = colour + shine * sun.colours[:, :1].mean(-1)[..., None, None]
        cover = self._pick(self._covers, chance)[:, None].float() / 255
        cover = torch.where(chance.uniform(1, 1, 1) < 0.5, cover.flip(-1), cover)
        cover = cover * (chance.uniform(1, 1, 1) < 0.35)
        fibre = (0.25 * chance.uniform(3, 1, 1).square()) * lit.mean((1, 2, 3), keepdim=True)
        return colour * (1 - cover) + fibre * cover

    def _photographed(self, colour: Tensor, fineness: Tensor, chance: _Chance) -> Tensor:
        """sRGB of a camera: sampled, exposed, noisy, in blocks."""
        level = 1.4 * colour.mean((1, 2, 3), keepdim=True)
        exposed = colour / level * (0.2 + 0.55 * chance.uniform(1, 1, 1))
        exposed = exposed * (1 + 0.12 * chance.normal(3, 1, 1)).clamp(0.6, 1.5)
        contrast = 1 + 0.15 * chance.normal(1, 1, 1)
        image = linear_to_srgb(exposed.clamp(1e-4, 1)).pow(contrast.clamp(0.7, 1.4))
        found = []
        for one, power, quality in zip(image, fineness, chance.uniform(1), strict=True):
            side = max(int(SIDE / 2 ** float(power)), 48)
            small = interpolate(one[None], size=(side, side), mode="area")
            small = small + 0.012 * float(chance.uniform(1)[0]) * torch.randn(
                small.shape, generator=chance.generator
            )
            small = _jpeg(small[0].clamp(0, 1), int(55 + 43 * float(quality)))
            found.append(
                interpolate(small[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            )
        return torch.cat(found)


class _Chance:
    """Draws for a batch."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.size, *shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.size, *shape, generator=self.generator)

    def smooth(self, channels: int, cells: int, side: int) -> Tensor:
        """Fields of about unit deviation with `cells` bumps along a side."""
        coarse = 1.5 * self.normal(channels, cells + 2, cells + 2)
        if side // max(cells, 1) > 16:  # cubic twice: smooth, yet quick
            coarse = interpolate(coarse, size=(64, 64), mode="bicubic", align_corners=True)
        return interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)


@dataclass(frozen=True, eq=False)
class _Sun:
    directions: Float[Tensor, "B L 3"]
    colours: Float[Tensor, "B L 3"]


def _lights(chance: _Chance) -> tuple[_Sun, Tensor, Tensor]:
    """Two lights, the sky round them, and what a fit would make of both, as harmonics."""
    directions = chance.normal(2, 3) * torch.tensor([0.9, 0.6, 0.5])
    directions = _unit(directions + torch.tensor([0.0, 0.35, 0.55]), -1)
    strength = torch.stack([0.2 + 1.2 * chance.uniform(1), 0.5 * chance.uniform(1)], dim=1)
    warmth = 1 + 0.1 * chance.normal(2, 3)
    sun = _Sun(directions, strength * warmth)
    sky = 0.08 * chance.normal(9, 1) * torch.tensor([0.0, *[1.0] * 3, *[0.3] * 5])[:, None]
    sky = sky.expand(-1, -1, 3).clone()
    sky[:, 0] = (0.35 + 1.3 * chance.uniform(1)).expand(-1, 3)
    round_about = _unit(chance.normal(64, 3), -1)
    off = _unit(directions + 0.16 * chance.normal(2, 3), -1)
    seen = torch.einsum("bni,bli->bnl", round_about, off).clamp(min=0) @ sun.colours
    seen = seen + torch.einsum("bnk,bkc->bnc", sh_basis(round_about), sky)
    basis = sh_basis(round_about)
    ridge = 0.5 * torch.eye(9)
    given = torch.linalg.solve(basis.transpose(1, 2) @ basis + ridge, basis.transpose(1, 2) @ seen)
    return sun, sky, given * torch.exp(0.2 * chance.normal(1, 1))


def _unit(vectors: Tensor, axis: int) -> Tensor:
    return vectors * vectors.square().sum(axis, keepdim=True).clamp(min=1e-12).rsqrt()


def _base_grid() -> Float[Tensor, "1 K K 2"]:
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)[None]


def _spots(chance: _Chance) -> Float[Tensor, "B 1 K K"]:
    """Freckles, moles and pimples: soft discs of one to some millimetres."""
    density = 0.004 * chance.uniform(1, 1, 1) ** 3
    density = density * (chance.uniform(1, 1, 1) < 0.5)
    seeds = (chance.uniform(1, SIDE, SIDE) < density) * chance.uniform(1, SIDE, SIDE)
    fine = avg_pool2d(avg_pool2d(seeds, 3, 1, 1), 3, 1, 1)
    broad = avg_pool2d(avg_pool2d(seeds * (seeds > 0.8), 5, 1, 2), 3, 1, 1)
    return (4 * fine + 7 * broad).clamp(max=1.5)


def _cover(rng: np.random.Generator) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Opacity of strands of hair, a beard's bristles or a pair of spectacles, 0..255."""
    from PIL import Image, ImageDraw, ImageFilter

    scale = 2
    image = Image.new("L", (SIDE * scale, SIDE * scale))
    pen = ImageDraw.Draw(image)
    kind = rng.random()
    if kind < 0.5:  # strands, from above or aside
        root = np.array([rng.uniform(0, SIDE), rng.uniform(-20, 60)])
        for _ in range(int(rng.integers(2, 40))):
            start = root + rng.normal(0, 25, 2)
            bend = np.cumsum(rng.normal(0, 6, (5, 2)) + rng.normal(0, 10, 2) + [0, 9], axis=0)
            course = [tuple(scale * point) for point in start + bend]
            pen.line(course, fill=int(rng.integers(90, 256)), width=int(rng.integers(1, 4)))
    elif kind < 0.8:  # bristles
        middle = np.array([SIDE / 2, rng.uniform(0.55, 0.9) * SIDE])
        for _ in range(int(rng.integers(200, 1500))):
            start = middle + rng.normal(0, 1, 2) * [40, 25]
            end = start + rng.normal(0, 1.5, 2) + [0, rng.uniform(0.5, 5)]
            course = [tuple(scale * start), tuple(scale * end)]
            pen.line(course, fill=int(rng.integers(60, 256)), width=1)
    else:
        y, wide, high = rng.uniform(78, 96), rng.uniform(26, 38), rng.uniform(18, 30)
        width = int(rng.integers(3, 10))
        for x in (SIDE / 2 - 46, SIDE / 2 + 46):
            box = [scale * (x - wide), scale * (y - high), scale * (x + wide), scale * (y + high)]
            pen.ellipse(box, outline=255, width=width)
        pen.line(
            [scale * (SIDE / 2 - 12), scale * y, scale * (SIDE / 2 + 12), scale * y], 255, width
        )
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.4))))
    return np.array(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def _jpeg(image: Float[Tensor, "3 H W"], quality: int) -> Float[Tensor, "3 H W"]:
    """The image as a JPEG file of that quality gives it back."""
    import io

    from PIL import Image

    pixels = (image * 255).round().byte().movedim(0, -1).contiguous().numpy()
    with io.BytesIO() as stored:
        Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
        read = np.array(Image.open(stored))
    return torch.from_numpy(read).movedim(-1, 0).float() / 255
