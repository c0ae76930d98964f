"""A mesh of any object from its silhouettes, and its colours from its pictures.

The visual hull gives topology and a start; descent through the rasterizer's antialiased
silhouettes then moves the vertices, in smooth steps and held even by Laplacian, edge-length and
normal terms, until the mesh covers what the masks cover. Pictures add a photometric term.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flame.edge_gradient import coverage
from flame.hull import visual_hull
from flame.interpolate import interpolate
from flame.large_steps import Preconditioner, UniformAdam
from flame.mesh_losses import (
    Neighbours,
    edge_length_loss,
    edge_lengths,
    laplacian_loss,
    neighbours,
    normal_loss,
)
from flame.normals import vertex_normals
from flame.pinhole import Pinhole
from flame.raster import rasterize
from flame.records import TensorRecord

log = logging.getLogger(__name__)

# share of the steps, and how far each step reaches: whole parts first, then details
_STAGES = ((0.5, 30.0), (0.5, 10.0))
_SAMPLES = 2  # a pixel a side, so that the outline is known to a fraction of one
_LARGEST_DRAWN = 1024  # px; larger pictures are fine enough as they are

Report = Callable[[int, int], None]  # steps done, of so many


@dataclass(frozen=True)
class SculptConfig:
    """How finely and how smoothly an object is fitted."""

    n_verts: int = 8000  # about
    steps: int = 120
    views_a_step: int = 6
    step_size: float = 0.3  # of the mean edge, at the start
    laplacian: float = 1000.0  # weights against the squared silhouette error in pixels of its rim
    edge_length: float = 0.05
    normal: float = 1.0
    photometric: float = 1.0

    def __post_init__(self) -> None:
        if not 200 <= self.n_verts <= 200_000:
            raise ValueError(f"n_verts={self.n_verts}; choose 200 to 200000")
        if self.steps < 0 or self.views_a_step < 1:
            raise ValueError(
                f"steps={self.steps} and views_a_step={self.views_a_step}; give 0 or more steps "
                "and at least one view a step"
            )
        if not self.step_size > 0:
            raise ValueError(f"step_size={self.step_size} must be above 0")
        if min(self.laplacian, self.edge_length, self.normal, self.photometric) < 0:
            raise ValueError("the weights of the losses must be 0 or more")


@dataclass(frozen=True, eq=False)
class Sculpture(TensorRecord):
    """A closed mesh in the cameras' world, and how well it covers each mask."""

    verts: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    colours: Float[Tensor, "V 3"] | None  # sRGB, light included; None without images
    iou: Float[Tensor, " N"]  # of silhouette and mask, per view
    hull_iou: Float[Tensor, " N"]  # the same of the visual hull that the fit began with
    losses: Float[Tensor, " steps"]


def sculpt(
    masks: Float[Tensor, "N 1 H W"],
    cameras: Pinhole,
    images: Float[Tensor, "N 3 H W"] | None = None,
    *,
    config: SculptConfig | None = None,
    report: Report | None = None,
) -> Sculpture:
    """The mesh whose silhouettes are the masks, in the unit of the cameras.

    Masks are 1 on the object. With images (sRGB) vertices get colours, and the surface follows
    what moves between views where its silhouettes do not tell. What no silhouette shows, such as
    the inside of a bowl, stays as full as the masks allow. The same input gives the same mesh.
    """
    config = config or SculptConfig()
    _check(masks, cameras, images)
    start, faces = visual_hull(masks, cameras, config.n_verts)
    fit = _Fit(start, faces, masks, cameras, images, config)
    verts, colours, losses = fit.run(report)
    result = Sculpture(
        verts,
        faces,
        colours,
        silhouette_iou(verts, faces, masks, cameras),
        silhouette_iou(start, faces, masks, cameras),
        losses,
    )
    log.info("silhouettes overlap by %.4f on average", float(result.iou.mean()))
    return result


@torch.no_grad()
def silhouette_iou(
    verts: Float[Tensor, "V 3"],
    faces: Int[Tensor, "F 3"],
    masks: Float[Tensor, "N 1 H W"],
    cameras: Pinhole,
) -> Float[Tensor, " N"]:
    """Intersection over union of the mesh's pixels and the masks', per view; 0 where both lack."""
    size = (masks.shape[2], masks.shape[3])
    values = []
    for item in range(len(masks)):
        seen = rasterize(cameras[item].clip(verts[None], size), faces, size).face_id[0] >= 0
        wanted = masks[item, 0] > 0.5
        union = (seen | wanted).sum().clamp(min=1)
        values.append((seen & wanted).sum() / union)
    return torch.stack(values)


class _Fit:
    """One descent; what stays the same through it."""

    def __init__(
        self,
        start: Tensor,
        faces: Tensor,
        masks: Tensor,
        cameras: Pinhole,
        images: Tensor | None,
        config: SculptConfig,
    ) -> None:
        self.start, self.faces, self.config = start, faces, config
        self.masks, self.cameras, self.images = masks, cameras, images
        self.near: Neighbours = neighbours(faces, len(start))

    def run(self, report: Report | None) -> tuple[Tensor, Tensor | None, Tensor]:
        verts = self.start
        colours = None if self.images is None else self._mean_colours(verts)
        losses: list[float] = []
        steps = self.config.steps
        for share, smoothness in _STAGES:
            count = round(steps * share)
            verts, colours, more = self._descend(
                verts, colours, count, smoothness, len(losses), report
            )
            losses += more
        return verts, colours, torch.tensor(losses)

    def _descend(
        self,
        verts: Tensor,
        colours: Tensor | None,
        count: int,
        smoothness: float,
        done: int,
        report: Report | None,
    ) -> tuple[Tensor, Tensor | None, list[float]]:
        if not count:
            return verts, colours, []
        solver = Preconditioner(self.near, smoothness)
        coded = solver.encode(verts).requires_grad_()
        rate = self.config.step_size * float(self._edge(verts))
        moving = UniformAdam(coded)
        painting: torch.optim.Adam | None = None
        if colours is not None:
            colours = colours.detach().requires_grad_()
            painting = torch.optim.Adam([colours], 0.02)
        # views that look alike follow each other, so strides mix them
        strides = max(1, round(len(self.masks) / self.config.views_a_step))
        losses = []
        for step in range(count):
            batch = slice(step % strides, None, strides)
            loss = self._loss(solver.decode(coded), colours, batch)
            values = [coded] if colours is None else [coded, colours]
            grads = torch.autograd.grad(loss, values, allow_unused=True, materialize_grads=True)
            moving.step(grads[0], rate * (1 - 0.9 * step / count))
            if colours is not None and painting is not None:
                colours.grad = grads[1]
                painting.step()
            losses.append(float(loss.detach()))
            if report is not None:
                report(done + step + 1, self.config.steps)
        with torch.no_grad():
            verts = solver.decode(coded)
            colours = None if colours is None else colours.detach().clamp(0, 1)
        return verts, colours, losses

    def _loss(self, verts: Tensor, colours: Tensor | None, batch: slice) -> Tensor:
        config, masks = self.config, self.masks[batch]
        samples = _SAMPLES if _SAMPLES * max(masks.shape[2:]) <= _LARGEST_DRAWN else 1
        size = (samples * masks.shape[2], samples * masks.shape[3])
        clip = self.cameras[batch].scaled(float(samples)).clip(verts[None], size)
        fragments = rasterize(clip, self.faces, size)
        drawn = F.avg_pool2d(coverage(fragments, clip, self.faces), samples)
        # an error a pixel deep along the rim of a round object counts about 1
        rim = masks.sum((1, 2, 3)).sqrt() * 3.5
        loss = ((drawn - masks).square().sum((1, 2, 3)) / rim).mean()
        loss = loss + config.laplacian * laplacian_loss(verts, self.near)
        loss = loss + config.edge_length * edge_length_loss(verts, self.near)
        loss = loss + config.normal * normal_loss(verts, self.faces, self.near)
        if colours is not None and self.images is not None and config.photometric > 0:
            shown = interpolate(colours[None], self.faces, fragments).movedim(-1, 1)
            shown = F.avg_pool2d(shown, samples)
            error = _colour_error(shown, drawn.detach(), self.images[batch], masks)
            loss = loss + config.photometric * error
        return loss

    @torch.no_grad()
    def _mean_colours(self, verts: Tensor) -> Tensor:
        """Per vertex the mean colour of the views that see it, those that face it most first."""
        assert self.images is not None
        size = (self.masks.shape[2], self.masks.shape[3])
        span = verts.new_tensor([size[1], size[0]])
        normals = vertex_normals(verts[None], self.faces)[0]
        total = torch.zeros_like(verts)
        weight = verts.new_full((len(verts), 1), 1e-8)
        solid = _inner(self.masks)
        mean = (self.images * self.masks).sum((0, 2, 3)) / self.masks.sum()
        for item in range(len(self.masks)):
            camera = self.cameras[item]
            clip = camera.clip(verts[None], size)
            depth = rasterize(clip, self.faces, size).depth
            pixel = camera.project(verts[None], size)[0]
            place = (2 * pixel[:, :2] / span - 1).view(1, 1, -1, 2)
            front = F.grid_sample(depth.nan_to_num(posinf=9e9)[None], place, "nearest",
                                  align_corners=False).view(-1)  # fmt: skip
            toward = F.normalize(camera.eye() - verts, dim=1)
            facing = (toward * normals).sum(1).clamp(min=0)
            own = clip[0, :, 2] / clip[0, :, 3]
            # in units of the depth that a pixel's neighbour on the slope may have
            slack = (2 * camera.near / pixel[:, 2].square()) * 3 * self._edge(verts)
            seen = (own < front + slack) * facing.square()
            # pixels of the rim mix in the background
            inner = F.grid_sample(solid[item : item + 1], place, align_corners=False).view(-1)
            seen = seen * (inner > 0.99)
            sample = F.grid_sample(self.images[item : item + 1], place, align_corners=False)
            total += seen[:, None] * sample[0, :, 0].T
            weight += seen[:, None]
        colours: Tensor = (total + 1e-8 * mean) / weight
        return colours

    def _edge(self, verts: Tensor) -> Tensor:
        return edge_lengths(verts, self.near.edges).mean()


def _colour_error(shown: Tensor, drawn: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """Mean difference where mesh and mask agree, away from the mixed colours of the rim."""
    known = ((_inner(masks) > 0.99) & (drawn > 0.99)).to(images)
    # smooth near zero and straight beyond, so that highlights do not rule
    error = ((shown - images).square().sum(1, keepdim=True) + 1e-3).sqrt()
    return (error * known).sum() / known.sum().clamp(min=1)


def _inner(masks: Tensor) -> Tensor:
    """Each mask less a pixel all round."""
    inner: Tensor = -F.max_pool2d(-masks, 3, 1, 1)
    return inner


def _check(masks: Tensor, cameras: Pinhole, images: Tensor | None) -> None:
    if len(masks) < 2:
        raise ValueError(f"{len(masks)} views were given; a shape needs at least 2, better 12")
    if len(masks) != len(cameras.near):
        raise ValueError(
            f"there are {len(masks)} masks and {len(cameras.near)} cameras; give one for each"
        )
    if images is not None and (images.shape[0], *images.shape[2:]) != (
        masks.shape[0],
        *masks.shape[2:],
    ):
        raise ValueError(
            f"the images are {tuple(images.shape)} and the masks {tuple(masks.shape)}; they must "
            "have the same views and pixels"
        )
    if not bool(torch.isfinite(masks).all()):
        raise ValueError("the masks contain NaN or infinity; give values from 0 to 1")
    solid = (masks > 0.5).flatten(1)
    for item, (some, every) in enumerate(zip(solid.any(1), solid.all(1), strict=True)):
        if not bool(some):
            raise ValueError(f"mask {item} is empty; leave that view out or mend its mask")
        if bool(every):
            raise ValueError(f"mask {item} is white all over; the object must be white on black")
