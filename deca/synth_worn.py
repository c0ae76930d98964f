"""Glasses and hats as meshes that a head wears: they turn with it and are exported with it."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from flame.head import JOINT_NAMES, Head
from flame.material import Material
from flame.paint_cloth import paint_shirt

_TUBE = 8  # sides of a frame's wire
_RIM = 44  # points round a lens
_SWATCHES = {"dark": (0.05, 0.045, 0.045), "brown": (0.22, 0.12, 0.07), "gold": (0.62, 0.50, 0.28),
             "steel": (0.42, 0.43, 0.45), "red": (0.42, 0.08, 0.09)}  # fmt: skip


def put_on(
    head: Head, landmarks: Float[Tensor, "68 3"], wish: Wish
) -> tuple[Head, tuple[Material, ...]]:
    """The head with the glasses and the hat of a wish, and their materials.

    `landmarks` are the head's 68 points at rest, metres; hats go over hair that is already there.
    One wish wears the same frame on every head.
    """
    rng = np.random.default_rng(zlib.crc32(repr(wish).encode()))
    worn: tuple[Material, ...] = ()
    if wish.glasses:
        head, materials = _wear_glasses(head, landmarks, wish.glasses == "sunglasses", rng)
        worn += materials
    if wish.hat:
        head, materials = _wear_hat(head, landmarks, wish.hat_color or "grey", rng)
        worn += materials
    return head, worn


def _wear_glasses(
    head: Head, marks: Float[Tensor, "68 3"], dark: bool, rng: np.random.Generator
) -> tuple[Head, tuple[Material, ...]]:
    left, right = marks[42:48].mean(0), marks[36:42].mean(0)
    apart = float((left - right).norm())
    unit = apart / 0.0630  # of an average head
    half = torch.tensor([rng.uniform(0.0245, 0.0268), rng.uniform(0.0185, 0.0225)]) * unit
    power = float(rng.choice([1.0, 0.72, 0.55]))  # round to nearly square
    thick = unit * float(rng.choice([0.0007, 0.0013, 0.0019]))
    angle = torch.linspace(0, 2 * torch.pi, _RIM + 1)[:-1]
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    ring = ring.sign() * ring.abs() ** power * half
    ahead = max(float(marks[27, 2]) + 0.003 * unit, float(marks[[37, 38, 43, 44], 2].max()) + 0.016)
    tubes: list[tuple[Tensor, bool]] = []
    lenses = []
    for side in (1.0, -1.0):
        eye = left if side > 0 else right
        x = float(eye[0]) + side * 0.0006 + ring[:, 0]
        # lenses wrap round the face and lean in a little below
        bend = 0.22 * (side * (x - float(eye[0])) - 0.004)
        y = float(eye[1]) - 0.0025 * unit + ring[:, 1]
        rim = torch.stack([x, y, ahead - bend + 0.10 * ring[:, 1]], -1)
        tubes.append((rim, True))
        lenses.append(rim)
        outer = rim[(side * rim[:, 0]).argmax()] + torch.tensor([side * thick, 0.3 * half[1], 0.0])
        ear = marks[16 if side > 0 else 0]
        over = ear + torch.tensor([side * 0.005, 0.011 * unit, -0.012])
        middle = 0.5 * outer + 0.5 * over + torch.tensor([side * 0.004, 0.0, 0.0])
        tubes.append((_bent(torch.stack([
            outer, middle, over, over + torch.tensor([-side * 0.002, -0.006, -0.016]),
            over + torch.tensor([-side * 0.003, -0.022, -0.026]),
        ])), False))  # fmt: skip
    sides = zip((1.0, -1.0), lenses, strict=True)
    inner = [rim[(side * rim[:, 0]).argmin()] for side, rim in sides]
    arch = (inner[0] + inner[1]) / 2 + torch.tensor([0.0, 0.004, 0.003]) * unit
    tubes.append((_bent(torch.stack([inner[0], arch, inner[1]])), False))
    verts, faces = _joined([_tube(path, thick, closed) for path, closed in tubes])
    glass, panes = _joined([_fan(rim) for rim in lenses])
    swatch = "dark" if dark else str(rng.choice(list(_SWATCHES)))
    frame = torch.tensor(_SWATCHES[swatch])[:, None, None].expand(3, 4, 4).clone()
    tint = (0.03, 0.03, 0.035, 0.93) if dark else (0.60, 0.66, 0.68, 0.035)
    pane = torch.tensor(tint)[:, None, None].expand(4, 4, 4).clone()
    head = _with_part(head, verts, faces, torch.full((len(verts), 2), 0.5), "frame")
    head = _with_part(head, glass, panes, torch.full((len(glass), 2), 0.5), "lenses")
    return head, (
        Material("frame", frame, roughness=0.28, double_sided=True),
        Material("lenses", pane, roughness=0.06, alpha_mode="BLEND", double_sided=True),
    )


def _wear_hat(
    head: Head, marks: Float[Tensor, "68 3"], color: str, rng: np.random.Generator
) -> tuple[Head, tuple[Material, ...]]:
    """A knitted cap with a folded band."""
    turns, rings = 64, 20
    brow = float(marks[17:27, 1].max())
    centre = torch.tensor([0.0, brow + 0.03, float(head.verts[:, 2].mean())])
    crown = head.verts[head.verts[:, 1] > brow + 0.012]
    centre[2] = (float(crown[:, 2].min()) + float(crown[:, 2].max())) / 2
    around = torch.linspace(0, 2 * torch.pi, turns + 1)
    up = torch.linspace(-0.30, torch.pi / 2, rings)
    turn, rise = torch.meshgrid(around, up, indexing="ij")
    directions = torch.stack([rise.cos() * turn.sin(), rise.sin(), rise.cos() * turn.cos()], -1)
    # the smallest smooth hull round skull and hair: farthest point along each direction
    reach = (directions.reshape(-1, 3) @ (crown - centre).T).amax(1).reshape(turns + 1, rings)
    band = (torch.arange(rings) < 5)[None]
    reach = reach + 0.004 + 0.004 * band + 0.0012 * (14 * turn).cos() * ~band
    verts = centre + directions * reach[..., None]
    # lower behind than in front
    drop = 0.030 * (1 - turn.cos()) / 2 - 0.014 * (1 + turn.cos()) / 2
    verts[..., 1] -= drop * (1 - rise / (torch.pi / 2))
    index = torch.arange((turns + 1) * rings).reshape(turns + 1, rings)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3),
                       torch.stack([a, c, d], -1).reshape(-1, 3)])  # fmt: skip
    uv = torch.stack([4 * turn / (2 * torch.pi), 1.6 * rise / (torch.pi / 2)], -1).reshape(-1, 2)
    red, green, blue = CLOTH[color]
    cloth, knit = paint_shirt((red / 255, green / 255, blue / 255), wales=int(rng.integers(18, 26)))
    head = _with_part(head, verts.reshape(-1, 3), faces, uv, "hat")
    return head, (Material("hat", cloth, knit, roughness=0.95, double_sided=True),)


def _bent(points: Float[Tensor, "N 3"], steps: int = 22) -> Float[Tensor, "M 3"]:
    """A smooth path through points."""
    line = F.interpolate(points.T[None], size=steps, mode="linear", align_corners=True)[0].T
    for _ in range(3):
        line = torch.cat([line[:1], (line[:-2] + 2 * line[1:-1] + line[2:]) / 4, line[-1:]])
    return line


def _tube(
    path: Float[Tensor, "N 3"], radius: float, closed: bool
) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """A wire along a path."""
    before, after = torch.roll(path, 1, 0), torch.roll(path, -1, 0)
    if not closed:
        before, after = torch.cat([path[:1], path[:-1]]), torch.cat([path[1:], path[-1:]])
    along = F.normalize(after - before, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(along)
    up = torch.where(along[:, 2:].abs() > 0.8, torch.tensor([0.0, 1.0, 0.0]), up)
    across = F.normalize(torch.linalg.cross(up, along), dim=-1)
    top = torch.linalg.cross(along, across)
    angle = torch.arange(_TUBE) * (2 * torch.pi / _TUBE)
    offsets = angle.cos()[:, None] * across[:, None] + 1.5 * angle.sin()[:, None] * top[:, None]
    verts = (path[:, None] + radius * offsets).reshape(-1, 3)
    count = len(path)
    rows = torch.arange(count if closed else count - 1)[:, None] * _TUBE
    nexts = (rows + _TUBE) % (count * _TUBE)
    here, there = torch.arange(_TUBE), (torch.arange(_TUBE) + 1) % _TUBE
    a, b, c, d = rows + here, rows + there, nexts + there, nexts + here
    return verts, torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3),
                             torch.stack([a, c, d], -1).reshape(-1, 3)])  # fmt: skip


def _fan(rim: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "V 3"], Int[Tensor, "F 3"]]:
    """A pane inside a rim."""
    count = len(rim)
    verts = torch.cat([rim, rim.mean(0, keepdim=True) + torch.tensor([[0.0, 0.0, 0.001]])])
    first = torch.arange(count)
    return verts, torch.stack([first, (first + 1) % count, torch.full_like(first, count)], -1)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    starts = np.cumsum([0, *(len(verts) for verts, _ in parts[:-1])]).tolist()
    faces = [faces + start for (_, faces), start in zip(parts, starts, strict=True)]
    return torch.cat([verts for verts, _ in parts]), torch.cat(faces)


def _with_part(
    head: Head,
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    uv: Float[Tensor, "V 2"],
    name: str,
) -> Head:
    """The head with a mesh that moves as the skull does."""
    first, first_uv = len(head.verts), len(head.uv)
    quads = torch.cat([faces, torch.full((len(faces), 1), -1)], dim=1)
    weights = head.lbs_weights.new_zeros(len(verts), len(JOINT_NAMES))
    weights[:, JOINT_NAMES.index("head")] = 1
    return dataclasses.replace(
        head,
        verts=torch.cat([head.verts, verts.to(head.verts)]),
        polygons=torch.cat([head.polygons, torch.where(quads >= 0, quads + first, -1)]),
        uv=torch.cat([head.uv, uv.to(head.uv)]),
        uv_polygons=torch.cat([head.uv_polygons, torch.where(quads >= 0, quads + first_uv, -1)]),
        material_ids=torch.cat(
            [head.material_ids, torch.full((len(faces),), len(head.material_names))]
        ),
        material_names=(*head.material_names, name),
        morphs=torch.cat([head.morphs, head.morphs.new_zeros(len(head.morphs), len(verts), 3)], 1),
        lbs_weights=torch.cat([head.lbs_weights, weights]),
    )
