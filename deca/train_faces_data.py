"""Training patches for the face detector: rendered people before scenery, and what to answer."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from deca.face_net import BASE_SIDE, SIDES, STRIDE
from deca.synth_scene import Rng
from deca.train_faces_people import RenderedPeople
from deca.train_faces_scene import Scenery, dress_up

PATCH = 160  # px
_SEEN_DEG, _UNSEEN_DEG = 100.0, 122.0  # a head turned further shows no face; between, nobody cares
_BROW, _CHIN = 27, 8  # iBUG points whose line is upright in a head
_FADE = 1.35  # faces up to this factor outside SIDES are neither wanted nor wrong


@dataclass(frozen=True, eq=False)
class Placed:
    """Faces of a batch of patches; L layers, the last in front."""

    middle: Float[Tensor, "B L 2"]  # px
    side: Float[Tensor, "B L"]  # px, of the bounding square
    up: Float[Tensor, "B L 2"]  # unit vector from chin to brows, y down
    turn: Float[Tensor, "B L"]  # degrees away from the viewer; over 180 where nobody stands
    visible: Float[Tensor, "B L"]  # share that nothing in front covers and the edge leaves


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network should say in each cell."""

    heat: Float[Tensor, "B R C"]  # 1 in the cells of faces' middles, falling off round them
    care: Float[Tensor, "B R C"]  # 0 where either answer is right
    near: Float[Tensor, "B R C"]  # weight of the place, side and roll
    place: Float[Tensor, "B 2 R C"]
    log_side: Float[Tensor, "B R C"]
    upright: Float[Tensor, "B 2 R C"]

    def mirrored(self) -> Answer:
        """What to say of the mirrored patches."""
        other_way = torch.tensor([-1.0, 1.0])[:, None, None]
        return Answer(
            self.heat.flip(-1),
            self.care.flip(-1),
            self.near.flip(-1),
            self.place.flip(-1) * other_way,
            self.log_side.flip(-1),
            self.upright.flip(-1) * other_way.flip(0),
        )


class Patches:
    """Endless training batches."""

    def __init__(
        self, people: RenderedPeople, scenery: Scenery, seed: int, *, stock: int = 400
    ) -> None:
        self.people = people
        self._scenery = scenery
        self._rng: Rng = np.random.default_rng(seed)
        self._turned = (people.away_deg > 45).nonzero()[:, 0]
        self._stock = torch.from_numpy(np.stack([scenery.draw(256) for _ in range(stock)]))
        self._fresh = 0

    def batch(self, size: int, *, generator: torch.Generator) -> tuple[Tensor, Placed]:
        """Patches 0..1 [B, 3, K, K] and the faces in them."""
        images = self._backgrounds(size, generator)
        counts = torch.multinomial(
            torch.tensor([0.12, 0.32, 0.33, 0.23]), size, replacement=True, generator=generator
        )
        rows: list[tuple[Tensor, ...]] = []
        covers: list[Tensor] = []
        for layer in range(3):
            there = (counts > layer).nonzero()[:, 0]
            blank = [torch.zeros(size, 2), torch.ones(size), torch.ones(size, 2)]
            blank.append(torch.full((size,), 999.0))
            covers.append(torch.ones(size, 1, PATCH, PATCH))
            if len(there):
                cover, color, labels = self._layer(len(there), layer, generator)
                images[there] = images[there] * (1 - cover) + color * cover
                for earlier in covers[:-1]:
                    earlier[there] *= 1 - cover
                for whole, part in zip(blank, labels, strict=True):
                    whole[there] = part
            rows.append(tuple(blank))
        middle, side, up, turn = (torch.stack(parts, 1) for parts in zip(*rows, strict=True))
        visible = torch.stack(
            [_seen(cover, middle[:, layer], side[:, layer]) for layer, cover in enumerate(covers)],
            1,
        )
        return develop(images, generator=generator), Placed(middle, side, up, turn, visible)

    def twice(
        self, size: int, *, generator: torch.Generator
    ) -> Callable[[], tuple[Tensor, Answer]]:
        """What makes batches, each twice, the second time in a mirror and in other colours.

        Patches cost more to make than to learn from.
        """
        waiting: list[tuple[Tensor, Answer]] = []

        def make() -> tuple[Tensor, Answer]:
            if waiting:
                images, answer = waiting.pop()
                return recolored(images.flip(-1), generator=generator), answer.mirrored()
            images, placed = self.batch(size, generator=generator)
            waiting.append((images, answer_of(placed)))
            return waiting[0]

        return make

    def _backgrounds(self, size: int, generator: torch.Generator) -> Tensor:
        for _ in range(3):  # the stock turns over slowly, so that drawing costs little
            fresh = torch.from_numpy(self._scenery.draw(256))
            self._stock[self._fresh % len(self._stock)] = fresh
            self._fresh += 1
        chosen = torch.randint(len(self._stock), (size,), generator=generator)
        corners = torch.randint(256 - PATCH + 1, (size, 2), generator=generator).tolist()
        pieces = [
            self._stock[number, top : top + PATCH, left : left + PATCH]
            for number, (top, left) in zip(chosen.tolist(), corners, strict=True)
        ]
        return torch.stack(pieces).permute(0, 3, 1, 2).float() / 255

    def _layer(
        self, size: int, layer: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Cover, colour and labels of one person a patch, framed at random."""

        def uniform(low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(size, generator=generator)

        index = torch.randint(len(self.people), (size,), generator=generator)
        turned = torch.randint(len(self._turned), (size,), generator=generator)
        index = torch.where(uniform() < 0.35, self._turned[turned], index)
        pictures = self.people.pictures(index)
        points = self.people.points[index]
        for number in (uniform() < 0.2).nonzero()[:, 0].tolist():
            if self.people.away_deg[index[number]] < 85:
                marks = points[number, :68].double().numpy()
                person = dress_up(pictures[number].numpy(), marks, self._rng)
                pictures[number] = torch.from_numpy(person)
        low, high = math.log(SIDES[0] * 0.85), math.log(SIDES[1] * 1.15)
        side = torch.exp(uniform(low, high))
        if layer == 0:  # parts of a face, seen from too near to be one
            side = torch.where(uniform() < 0.15, torch.exp(uniform(4.7, 6.2)), side)
        roll = torch.where(
            uniform() < 0.55,
            0.22 * torch.randn(size, generator=generator),
            uniform(-1.25, 1.25),
        )
        mirror = torch.where(uniform() < 0.5, -1.0, 1.0)
        cosine, sine = roll.cos(), roll.sin()
        turn = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], -2)
        turn = turn * torch.stack([mirror, torch.ones(size)], -1)[:, None]
        shaped = torch.einsum("bij,blj->bli", turn, points)
        extent = (shaped.amax(1) - shaped.amin(1)).amax(1)
        scale = side / extent
        shaped = shaped * scale[:, None, None]
        low_corner, high_corner = shaped.amin(1), shaped.amax(1)
        center = (low_corner + high_corner) / 2
        spot = torch.stack([uniform(-0.1, 1.1), uniform(-0.1, 1.1)], -1) * PATCH
        inverse = (turn * scale[:, None, None]).inverse()
        cover, color = warp(pictures, inverse, spot - center, draw_bodies(size, generator))
        gain = torch.exp(0.17 * torch.randn(size, 1, 1, 1, generator=generator))
        gain = gain * torch.exp(0.07 * torch.randn(size, 3, 1, 1, generator=generator))
        up = torch.einsum("bij,bj->bi", turn, points[:, _BROW] - points[:, _CHIN])
        labels = (spot, side, F.normalize(up, dim=-1), self.people.away_deg[index])
        return cover, (color * gain).clamp(max=1), labels


def draw_bodies(size: int, generator: torch.Generator) -> Float[Tensor, "B 5"]:
    """Shoulders: half width, top, and colour; the width is 0 where the shirt goes on."""
    draws = torch.rand(size, 3, generator=generator)
    wide = torch.where(draws[:, 0] < 0.6, 0.7 + 0.9 * draws[:, 1], 0.0)
    hue = 0.15 * torch.randn(size, 3, generator=generator)
    color = (torch.rand(size, 1, generator=generator) + hue).clamp(0, 1)
    return torch.cat([wide[:, None], 0.62 + 0.3 * draws[:, 2:], color], 1)


def warp(
    pictures: UInt8[Tensor, "B H W 4"],
    inverse: Float[Tensor, "B 2 2"],
    shift: Float[Tensor, "B 2"],
    bodies: Float[Tensor, "B 5"],
    side: int = PATCH,
) -> tuple[Float[Tensor, "B 1 K K"], Float[Tensor, "B 3 K K"]]:
    """Cover and colour of people in patches of `side`: patch point p shows `inverse @ (p - shift)`.

    Below the edge of its picture a person has either drawn shoulders or a shirt that goes on.
    """
    size, height, width = pictures.shape[:3]
    straight = pictures.permute(0, 3, 1, 2).contiguous().float().mul_(1 / 255)
    straight[:, :3] *= straight[:, 3:]
    levels = [straight]
    levels += [F.avg_pool2d(levels[0], 2), F.avg_pool2d(levels[0], 4)]
    # unit coordinates of the picture from those of the patch, both -1..1
    half, extent = side / 2, torch.tensor([width, height]) / 2
    offset = torch.einsum("bij,bj->bi", inverse, half - shift) / extent - 1
    matrix = torch.cat([inverse * half / extent[:, None], offset[..., None]], 2)
    unit = F.affine_grid(matrix, [size, 1, side, side], align_corners=False)
    # source px a patch px
    step = inverse[:, :, 0].norm(dim=1)
    level = torch.log2(step.clamp(min=1)).round().clamp(max=2).long()
    drawn = torch.empty(size, 4, side, side)
    for number, picture in enumerate(levels):
        chosen = (level == number).nonzero()[:, 0]
        if len(chosen):
            drawn[chosen] = F.grid_sample(
                picture[chosen], unit[chosen], padding_mode="border", align_corners=False
            )
    u, v = unit.unbind(-1)
    wide, top = bodies[:, 0, None, None], bodies[:, 1, None, None]
    goes_on = (wide == 0) & (v > 0.45)
    inside = (v > -1) & (((u.abs() < 1) & (v < 1)) | goes_on)
    head = drawn[:, 3:] * inside[:, None]
    # round shoulders, then straight down
    across = (u / wide.clamp(min=1e-3)).square()
    body = (across + (v - top - 1).square() < 1) | ((across < 0.9) & (v > top + 0.9))
    body = (body & (wide > 0))[:, None] * (1 - head)
    cloth = bodies[:, 2:, None, None] * (1 - 0.25 * across.clamp(max=1))[:, None]
    cover = head + body
    return cover, (drawn[:, :3] * inside[:, None] + cloth * body) / cover.clamp(min=1e-3)


def _seen(cover: Tensor, middle: Tensor, side: Tensor) -> Tensor:
    """The mean of a map over the middle parts of squares; outside the patch it is 0."""
    steps = torch.linspace(-0.42, 0.42, 7)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    spots = middle[:, None, None] + torch.stack([x, y], -1) * side[:, None, None, None]
    values = F.grid_sample(cover, spots / PATCH * 2 - 1, align_corners=False)
    return values.mean((1, 2, 3))


def answer_of(placed: Placed) -> Answer:
    """Maps for the loss. Faces that are half hidden, or nearly too large, count neither way."""
    cells = PATCH // STRIDE
    grid = torch.arange(cells) + 0.5
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    middle = placed.middle / STRIDE  # cells
    offset = middle[..., None, None] - torch.stack([x, y])  # [B, L, 2, R, C]
    reach = placed.side[..., None, None] / STRIDE  # cells
    squared = offset.square().sum(2)
    sigma = (0.10 * reach).clamp(min=0.45)
    heat = torch.exp(-squared / (2 * sigma.square()))
    nearest = squared <= squared.flatten(2).amin(2)[..., None, None] + 1e-6
    heat = torch.where(nearest & (squared < 0.75), 1.0, heat)
    low, high = SIDES
    there = placed.turn < 200
    shown = there & (placed.turn < _SEEN_DEG) & (placed.visible > 0.6)
    wanted = shown & (placed.side >= low) & (placed.side <= high)
    hidden = (placed.turn >= _UNSEEN_DEG) | (placed.visible < 0.15)
    wrong = (placed.side > high * _FADE) | hidden
    doubtful = there & ~wanted & ~wrong
    heat = heat * wanted[..., None, None]
    best, layer = heat.max(1)
    around = squared < (0.4 * reach).clamp(min=1.0).square()
    care = 1 - (around & doubtful[..., None, None]).any(1).float()
    care = torch.where(best > 0.99, 1.0, care)
    near = ((squared < (0.16 * reach).clamp(min=0.8).square()) & wanted[..., None, None]).any(1)
    near = near & (best > 0.05)
    pick = layer[:, None, None].expand(-1, 1, 2, -1, -1)
    log_side = (placed.side / BASE_SIDE).log()[..., None, None].expand_as(heat)
    # brows above the chin: no roll; y runs down
    upright = torch.stack([-placed.up[..., 1], placed.up[..., 0]], -1)[..., None, None]
    return Answer(
        best,
        care,
        near.float() * best.clamp(min=0.2),
        offset.gather(1, pick)[:, 0],
        log_side.gather(1, layer[:, None])[:, 0],
        upright.expand(*heat.shape[:2], 2, cells, cells).gather(1, pick)[:, 0],
    )


def develop(
    images: Float[Tensor, "B 3 H W"], *, generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """Exposure, contrast, white balance, fading to grey, softness, noise and JPEG.

    Milder in its blur than `synth_degrade.degrade`, which would leave nothing of a 20 px face.
    """
    size = len(images)

    def uniform() -> Tensor:
        return torch.rand(size, 1, 1, 1, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=generator)

    images = images.clamp(1e-4, 1) ** torch.exp(0.3 * normal(1, 1, 1)).clamp(0.5, 2.2)
    contrast = torch.exp(0.3 * normal(1, 1, 1))
    gain = torch.exp(0.10 * normal(3, 1, 1)) * torch.exp(0.2 * normal(1, 1, 1)) * contrast
    images = images * gain + (0.45 * (1 - contrast) + 0.06 * normal(1, 1, 1))
    weights = torch.tensor([0.299, 0.587, 0.114]).expand(size, 3) + 0.15 * normal(3)
    weights = weights.clamp(min=0.02)
    weights = (weights / weights.sum(1, keepdim=True))[..., None, None]
    grey = (images * weights).sum(1, keepdim=True)
    saturation = torch.where(uniform() < 0.25, 0.0, torch.exp(0.35 * normal(1, 1, 1)))
    images = (grey + saturation * (images - grey)).clamp(0, 1)
    kind = torch.rand(size, generator=generator)
    soft = (kind < 0.25).nonzero()[:, 0]
    if len(soft):
        images[soft] = F.avg_pool2d(F.pad(images[soft], (1, 1, 1, 1), mode="replicate"), 3, 1)
    coarse = ((kind > 0.25) & (kind < 0.33)).nonzero()[:, 0]
    if len(coarse):
        small = F.avg_pool2d(images[coarse], 2)
        images[coarse] = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    crisp = (kind > 0.85).nonzero()[:, 0]
    if len(crisp):
        padded = F.pad(images[crisp], (1, 1, 1, 1), mode="replicate")
        images[crisp] += 0.8 * (images[crisp] - F.avg_pool2d(padded, 3, 1))
    noisy = (kind * 7 % 1 < 0.5).nonzero()[:, 0]
    noise = torch.randn(len(noisy), *images.shape[1:], generator=generator)
    images[noisy] += noise * 0.06 * uniform()[noisy] ** 2
    images = images.clamp(0, 1)
    pressed = (torch.rand(size, generator=generator) < 0.2).nonzero()[:, 0]
    for number in pressed.tolist():
        quality = int(torch.randint(20, 90, (), generator=generator))
        pixels = (images[number] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        images[number] = torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1) / 255
    return images


def recolored(
    images: Float[Tensor, "B 3 H W"], *, generator: torch.Generator
) -> Float[Tensor, "B 3 H W"]:
    """The same patches in another light; a third have their colours exchanged."""
    size = len(images)
    gain = torch.exp(0.12 * torch.randn(size, 3, 1, 1, generator=generator))
    shift = 0.05 * torch.randn(size, 1, 1, 1, generator=generator)
    images = (images * gain + shift).clamp(0, 1)
    exchanged = (torch.rand(size, generator=generator) < 0.33).nonzero()[:, 0]
    order = torch.randperm(3, generator=generator)
    images[exchanged] = images[exchanged][:, order]
    return images
