"""Drawing over pictures: compositing, wireframes and landmarks, with smooth edges."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flame.raster import Fragments, homogeneous_pixels

Rgb = tuple[float, float, float]

# pairs of the 68 iBUG points that are joined: jaw, brows, nose, eyes, outer and inner lips
LINES_68: tuple[tuple[int, int], ...] = tuple(
    (first + k, first + (k + 1) % count if closed else first + k + 1)
    for first, count, closed in (
        (0, 17, False), (17, 5, False), (22, 5, False), (27, 4, False), (31, 5, False),
        (36, 6, True), (42, 6, True), (48, 12, True), (60, 8, True),
    )
    for k in range(count if closed else count - 1)
)  # fmt: skip
_PAIRS = 4_000_000  # of a shape and a pixel, looked at at once


def over(
    front: Float[Tensor, "B 4 H W"],
    back: Float[Tensor, "B C H W"] | Float[Tensor, " C"],
) -> Float[Tensor, "B C H W"]:
    """The front picture put over an image or a plain colour of 3 or 4 channels (Porter, Duff 1984).

    Alpha is straight, values are mixed as they are; where nothing covers a pixel it is 0. A back
    of three channels is opaque, and so is the result. Differentiable.
    """
    if back.dim() == 1:
        back = back[None, :, None, None].expand(len(front), -1, *front.shape[2:])
    if back.shape[1] not in (3, 4):
        raise ValueError(f"back has {back.shape[1]} channels; give 3, or 4 with alpha")
    colour, alpha = front[:, :3], front[:, 3:]
    if back.shape[1] == 3:
        return back + alpha * (colour - back)
    behind = back[:, 3:] * (1 - alpha)
    total = alpha + behind
    mixed = (colour * alpha + back[:, :3] * behind) / torch.where(total > 0, total, 1)
    return torch.cat([mixed, total], dim=1)


@torch.no_grad()
def draw_wireframe(
    image: Float[Tensor, "B 3 H W"],
    fragments: Fragments,
    verts: Float[Tensor, "B V D"],
    faces: Int[Tensor, "F 3"],
    *,
    width_px: float = 1.0,
    colour: Rgb = (0.1, 0.1, 0.1),
) -> Float[Tensor, "B 3 H W"]:
    """The picture with the edges of the faces it sees, as lines of width_px; hidden ones are not.

    verts are those that were rasterized (screen or clip space). Each face draws its own side of an
    edge, so that outlines are half as wide.
    """
    _check_width(width_px, "width_px")
    size = (image.shape[2], image.shape[3])
    if fragments.face_id.shape != (len(image), *size):
        raise ValueError(
            f"fragments have shape {tuple(fragments.face_id.shape)}, the image needs "
            f"{(len(image), *size)}; rasterize at the image's size"
        )
    covered = (fragments.face_id >= 0).nonzero(as_tuple=True)
    item, row, column = covered
    face = faces.long()[fragments.face_id[covered].long()]
    x, y, _, w = homogeneous_pixels(verts, size)[item[:, None], face].unbind(-1)  # each [N, 3]
    after, before = [1, 2, 0], [2, 0, 1]
    dx, dy = x - (column + 0.5)[:, None] * w, y - (row + 0.5)[:, None] * w
    edges = dx[:, after] * dy[:, before] - dx[:, before] * dy[:, after]
    across = y[:, after] * w[:, before] - y[:, before] * w[:, after]
    down = x[:, before] * w[:, after] - x[:, after] * w[:, before]
    # an edge function over its slope is the distance in pixels from the edge's line
    away = edges.abs() / torch.hypot(across, down).clamp(min=1e-30)
    line = (width_px / 2 + 0.5 - away.amin(1)).clamp(0, min(1.0, width_px))
    share = image.new_zeros(fragments.face_id.shape)
    share[covered] = line.to(image.dtype)
    return _tinted(image, share, colour)


@torch.no_grad()
def draw_landmarks(
    image: Float[Tensor, "B 3 H W"],
    points: Float[Tensor, "B L 2"],
    *,
    radius_px: float = 2.0,
    colour: Rgb = (1.0, 0.84, 0.22),
    rim: float = 0.6,
    visible: Bool[Tensor, "B L"] | None = None,
    sigmas: Float[Tensor, "B L"] | None = None,
    lines: bool = False,
    line_px: float = 1.0,
) -> Float[Tensor, "B 3 H W"]:
    """The picture with round dots at points (pixels), on a dark rim of the opacity `rim`.

    Points that are not visible get open circles; sigmas (pixels) are drawn as circles around their
    points; `lines` joins the first 68 as a face's contours. What lies beyond the picture or is NaN
    is left out, and so are lines to it.
    """
    _check_width(radius_px, "radius_px")
    _check_width(line_px, "line_px")
    if lines and points.shape[1] < 68:
        raise ValueError(
            f"there are {points.shape[1]} points, but lines join the 68 iBUG points; pass those "
            "first or lines=False"
        )
    shown = points.isfinite().all(-1)
    open_ = torch.zeros_like(shown) if visible is None else ~visible & shown
    full = shown & ~open_
    nothing, ones = torch.zeros_like(points[..., 0]), torch.ones_like(points[..., 0])

    drawn = image
    if sigmas is not None:
        known = shown & sigmas.isfinite() & (sigmas > 0)
        ring = _coverage(image, points, points, sigmas, ones * line_px / 2, known)
        drawn = _tinted(drawn, 0.7 * ring, colour)
    if lines:
        first = points.new_tensor([pair[0] for pair in LINES_68]).long()
        second = points.new_tensor([pair[1] for pair in LINES_68]).long()
        both = shown[:, first] & shown[:, second]
        start, end = points[:, first], points[:, second]
        half = torch.full_like(start[..., 0], line_px / 2)
        drawn = _tinted(drawn, _coverage(image, start, end, 0 * half, half, both), colour)
    dark = _coverage(image, points, points, nothing, ones * 1.5 * radius_px, full)
    drawn = _tinted(drawn, rim * dark, (0.0, 0.0, 0.0))
    if visible is not None:
        circle = _coverage(image, points, points, ones * radius_px, ones * radius_px / 4, open_)
        drawn = _tinted(drawn, circle, colour)
    dots = _coverage(image, points, points, nothing, ones * radius_px, full)
    return _tinted(drawn, dots, colour)


def _coverage(
    image: Tensor, start: Tensor, end: Tensor, ring: Tensor, half: Tensor, chosen: Tensor
) -> Float[Tensor, "B H W"]:
    """The largest share of each pixel that one of the chosen shapes covers.

    A shape is what lies within `half` of the segment from start to end or, where `ring` is not 0,
    of the circle of that radius around start; all [B, N].
    """
    height, width = image.shape[2:]
    item = torch.arange(len(image), device=image.device)[:, None].expand_as(chosen)[chosen]
    start, end = start[chosen].double(), end[chosen].double()
    ring, half = ring[chosen].double(), half[chosen].double()
    reach = (ring + half + 1)[:, None]
    limit = start.new_tensor([width, height])
    low = (torch.minimum(start, end) - reach).floor().clamp(min=0).minimum(limit).long()
    high = (torch.maximum(start, end) + reach).ceil().clamp(min=0).minimum(limit).long()
    span = high - low
    count = span[:, 0] * span[:, 1]
    found = image.new_zeros(image.shape[0] * height * width)
    batch = torch.div(torch.cumsum(count, 0), _PAIRS, rounding_mode="floor")
    for part in torch.unique(batch):
        here = (batch == part).nonzero()[:, 0]
        shape = torch.repeat_interleave(here, count[here])
        begin = torch.cumsum(count[here], 0) - count[here]
        inside = torch.arange(len(shape), device=image.device)
        inside = inside - torch.repeat_interleave(begin, count[here])
        column = low[shape, 0] + inside % span[shape, 0]
        row = low[shape, 1] + inside // span[shape, 0]
        centre = torch.stack([column, row], dim=-1) + 0.5 - start[shape]
        along = (end - start)[shape]
        place = (centre * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
        away = (centre - place.clamp(0, 1)[:, None] * along).norm(dim=-1)
        away = torch.where(ring[shape] > 0, (away - ring[shape]).abs(), away)
        # what is thinner than a pixel is fainter instead
        share = (half[shape] + 0.5 - away).clamp(0, 1).minimum(2 * half[shape])
        pixel = (item[shape] * height + row) * width + column
        found = found.scatter_reduce(0, pixel, share.to(found.dtype), "amax")
    return found.view(len(image), height, width)


def _tinted(image: Tensor, share: Tensor, colour: Rgb) -> Tensor:
    """The image with a share [B, H, W] of each pixel painted."""
    paint = image.new_tensor(colour)[None, :, None, None]
    return image + share[:, None] * (paint - image)


def _check_width(value: float, name: str) -> None:
    if not (math.isfinite(value) and 0 < value <= 1000):
        raise ValueError(f"{name}={value} is out of range; choose above 0 and 1000 pixels at most")
