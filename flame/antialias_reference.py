"""Edge antialiasing in plain torch operations: the twin of the kernels, for every device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flame.fragments import Fragments, homogeneous_pixels

_FARTHEST = 1 + 1e-9  # an edge may run through the next pixel's centre
_LONGEST_WALK = 1024  # faces between two pixel centres, as in flame.antialias_kernels


def opposite_corners_reference(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """What `opposite_corners` returns, in plain torch operations on any device."""
    ends = torch.stack([faces[:, [1, 2, 0]], faces[:, [2, 0, 1]]], dim=-1).long().flatten(0, 1)
    ends = ends.sort(dim=1).values
    key = ends[:, 0] * (int(faces.max()) + 1 if len(faces) else 1) + ends[:, 1]
    proper = ((faces != faces.roll(1, 1)).all(1))[:, None].expand(-1, 3).reshape(-1)
    corner = proper.nonzero()[:, 0]
    _, edge, count = torch.unique(key[corner], return_inverse=True, return_counts=True)
    order = torch.argsort(edge, stable=True)
    first = (torch.cumsum(count, 0) - count)[count == 2]
    one, other = corner[order[first]], corner[order[first + 1]]
    across = torch.full_like(key, -1)
    across[one], across[other] = other, one
    return across.view(-1, 3)


def antialias_reference(
    image: Float[Tensor, "B C H W"],
    fragments: Fragments,
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
    opposite: Int[Tensor, "F 3"] | Int[Tensor, "B F 3"],
) -> Float[Tensor, "B C H W"]:
    """What `antialias` returns, in plain torch operations on any device."""
    batch, channels, height, width = image.shape
    points = homogeneous_pixels(verts, (height, width))
    behind = points[..., 3:] <= 0
    screen = points[..., :3] / torch.where(behind, 1, points[..., 3:])
    ahead = ~behind[..., 0]
    count = faces.shape[-2]
    item = torch.arange(batch, device=faces.device)[:, None, None]
    # faces and corners of all items in one list
    meshes = faces.long().expand(batch, count, 3).clamp(min=0).reshape(-1, 3)
    across = torch.where(opposite < 0, -1, opposite.long() + 3 * count * item).reshape(-1)
    scene = _Scene(points.detach(), screen, ahead, meshes, across)

    parts = [_find_pairs(scene, fragments, axis) for axis in (0, 1)]
    target, source, share = (torch.cat(part) for part in zip(*parts, strict=True))
    load = share.new_zeros(batch * height * width).index_add(0, target, share)
    share = share / load[target].clamp(min=1)  # edges may ask for more of a pixel than there is
    pixels = image.movedim(1, -1).reshape(-1, channels)
    difference = pixels.index_select(0, source) - pixels.index_select(0, target)
    out = pixels.index_add(0, target, (share[:, None] * difference).to(pixels.dtype))
    return out.view(batch, height, width, channels).movedim(-1, 1)


@dataclass(frozen=True, eq=False)
class _Scene:
    points: Tensor  # [B, V, 4], homogeneous pixels
    screen: Tensor  # [B, V, 3]: pixels and depth
    ahead: Tensor  # [B, V]: not behind the eye
    faces: Tensor  # [F, 3]
    opposite: Tensor  # [3 F]

    def select(self, item: Tensor, vertex: Tensor) -> Tensor:
        """screen[item, vertex], whose gradients are added in a fixed order."""
        index = (item * self.screen.shape[1] + vertex).reshape(-1)
        return self.screen.flatten(0, 1).index_select(0, index).view(*vertex.shape, 3)


@dataclass(frozen=True, eq=False)
class _Rays:
    """From pixel centres one pixel along an axis."""

    item: Tensor  # [N]
    start: Tensor  # [N, 2], (x, y)
    step: Tensor  # [N], 1 or -1
    axis: int

    def __getitem__(self, chosen: Tensor) -> _Rays:
        return _Rays(self.item[chosen], self.start[chosen], self.step[chosen], self.axis)

    def place(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """How far ahead points [N, 3] lie along the rays, and across them."""
        offset = points[..., :2] - self.start
        return offset[..., self.axis] * self.step, offset[..., 1 - self.axis]


def _find_pairs(scene: _Scene, fragments: Fragments, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat indices of pixels to change and of those they take from, and the share."""
    face_id, depth = fragments.face_id.long(), fragments.depth.detach().float()
    first = (
        len(scene.faces) // max(len(face_id), 1) * torch.arange(len(face_id), device=face_id.device)
    )
    face_id = torch.where(face_id < 0, -1, face_id + first[:, None, None])
    height, width = face_id.shape[1:]
    dim = 2 - axis
    length = face_id.shape[dim]
    one, two = face_id.narrow(dim, 0, length - 1), face_id.narrow(dim, 1, length - 1)
    item, row, column = torch.nonzero(one != two, as_tuple=True)
    next_row, next_column = row + axis, column + 1 - axis
    ids = torch.stack([face_id[item, row, column], face_id[item, next_row, next_column]])
    nearer = depth[item, next_row, next_column] < depth[item, row, column]
    swap = torch.where((ids >= 0).all(0), nearer, ids[0] < 0)

    centre = torch.stack([column, row], dim=-1).to(scene.screen.dtype) + 0.5
    along = torch.tensor([1 - axis, axis], dtype=centre.dtype, device=centre.device)
    ends = torch.full_like(ids, -1)  # the edge of each pair
    back = swap.clone()
    left = torch.ones_like(swap)
    for turn in (0, 1):
        flip = swap != (turn == 1)
        face, goal = torch.where(flip, ids.flip(0), ids)
        left &= face >= 0
        pick = left.nonzero()[:, 0]
        rays = _Rays(
            item[pick],
            (centre + flip[:, None] * along)[pick],
            torch.where(flip[pick], -1.0, 1.0).to(centre.dtype),
            axis,
        )
        with torch.no_grad():
            edge, joined = _walk(scene, rays, face[pick], goal[pick])
            if turn == 1:
                hidden = _is_behind(scene, rays, edge, goal[pick])
                edge = torch.where(hidden, -1, edge)
        ends[:, pick], back[pick] = edge, flip[pick]
        left[pick] = ~joined & (edge[0] < 0) & (goal[pick] >= 0)

    found = (ends[0] >= 0).nonzero()[:, 0]
    item, back, ends = item[found], back[found], ends[:, found]
    start, end = scene.select(item, ends[0]), scene.select(item, ends[1])
    wide, high = (end - start).detach().abs()[:, :2].unbind(-1)
    # an edge blends along one axis alone, the one it is steeper to
    upright = (wide > high) == bool(axis)
    rays = _Rays(
        item,
        centre[found] + back[:, None] * along,
        torch.where(back, -1.0, 1.0).to(centre.dtype),
        axis,
    )
    reach = _reach(rays, start, end)
    here = (item * height + row[found]) * width + column[found]
    there = (item * height + next_row[found]) * width + next_column[found]
    swapped = back != (reach > 0.5)  # a face that reaches past the middle covers the other pixel
    target, source = torch.where(swapped, there, here), torch.where(swapped, here, there)
    return target[upright], source[upright], (reach - 0.5).abs()[upright]


def _reach(rays: _Rays, start: Tensor, end: Tensor) -> Tensor:
    """How far along its ray each edge lies."""
    start_ahead, start_across = rays.place(start)
    end_ahead, end_across = rays.place(end)
    part = start_across / (start_across - end_across)
    return start_ahead + part * (end_ahead - start_ahead)


def _walk(scene: _Scene, rays: _Rays, face: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """The ends [2, N] of the silhouette edge that each ray meets first on the surface of `face`.

    -1 where there is none within a pixel; and whether the surface goes on into the face `goal`.
    The first end lies on the negative side of the ray.
    """
    edge, joined = torch.full_like(face, -1).repeat(2, 1), torch.zeros_like(face, dtype=torch.bool)
    corners = scene.faces[face]  # [N, 3]
    usable = scene.ahead[rays.item[:, None], corners].all(1)
    across = torch.stack([rays.place(scene.select(rays.item, v))[1] for v in corners.unbind(1)])
    best = torch.full_like(rays.step, -math.inf)
    corner, low, high = torch.full_like(face, -1), corners[:, 0], corners[:, 0]
    for k in range(3):
        one, two = (k + 1) % 3, (k + 2) % 3
        cuts = (across[one] < 0) != (across[two] < 0)
        first = torch.where(across[one] < 0, corners[:, one], corners[:, two])
        second = torch.where(across[one] < 0, corners[:, two], corners[:, one])
        this = _reach(rays, scene.select(rays.item, first), scene.select(rays.item, second))
        better = cuts & (this > best)
        best = torch.where(better, this, best)
        corner = torch.where(better, 3 * face + k, corner)
        low, high = torch.where(better, first, low), torch.where(better, second, high)

    live = (usable & (corner >= 0) & (best <= _FARTHEST)).nonzero()[:, 0]
    for _ in range(_LONGEST_WALK):
        ray, a, b = rays[live], low[live], high[live]
        twin = scene.opposite[corner[live]]
        onward = twin.clamp(min=0)
        new = scene.faces.reshape(-1)[onward]
        start, end = scene.select(ray.item, a), scene.select(ray.item, b)
        (a0, a1), (b0, b1) = ray.place(start), ray.place(end)
        v0, v1 = ray.place(scene.select(ray.item, new))
        seen = scene.ahead[ray.item, new]
        turns_back = seen & ((b0 - a0) * (v1 - a1) - (b1 - a1) * (v0 - a0) > 0)
        ends = (twin < 0) | turns_back
        edge[:, live[ends]] = torch.stack([a, b])[:, ends]
        next_face = onward // 3
        arrived = ~ends & seen & (next_face == goal[live])
        joined[live[arrived]] = True
        negative = v1 < 0
        gone = torch.where(negative, a, b)
        low[live], high[live] = torch.where(negative, new, a), torch.where(negative, b, new)
        side = 3 * next_face + (onward + 1 - 3 * next_face) % 3
        other = 3 * next_face + (onward + 2 - 3 * next_face) % 3
        corner[live] = torch.where(scene.faces.reshape(-1)[side] == gone, side, other)
        reach = _reach(ray, scene.select(ray.item, low[live]), scene.select(ray.item, high[live]))
        live = live[~ends & ~arrived & seen & (reach <= _FARTHEST)]
        if not len(live):
            break
    return edge, joined


def _is_behind(scene: _Scene, rays: _Rays, edge: Tensor, other: Tensor) -> Tensor:
    """Whether edges lie behind the planes of other faces where the rays meet them."""
    ends = edge.clamp(min=0)
    start, end = scene.select(rays.item, ends[0]), scene.select(rays.item, ends[1])
    (_, one), (_, two) = rays.place(start), rays.place(end)
    depth = start[:, 2] + one / (one - two) * (end[:, 2] - start[:, 2])
    place = rays.start.clone()
    place[:, rays.axis] += _reach(rays, start, end) * rays.step
    corners = scene.points[rays.item[:, None], scene.faces[other.clamp(min=0)]]  # [N, 3, 4]
    offset = corners[..., :2] - place[:, None] * corners[..., 3:]
    after, before = offset[:, [1, 2, 0]], offset[:, [2, 0, 1]]
    parts = after[..., 0] * before[..., 1] - before[..., 0] * after[..., 1]
    plane = (parts * corners[..., 2]).sum(1) / (parts * corners[..., 3]).sum(1)
    return ~(depth <= plane)
