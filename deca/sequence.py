"""Many frames of one person: one identity, and an expression, a turn and a camera for each.

The encoder looks at every frame. Its identities are averaged by how much each frame can know, then
refined against the points of a few well spread keyframes together; every frame's pose is solved
anew for that one identity.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from deca.code_net import CodeNet
from deca.detect import detect_all
from deca.encode import Encoding, encode_box
from deca.landmark_points import LandmarkPoints
from deca.landmarks import LandmarkNet
from deca.sequence_follow import VIEW, Kept, Look, Steps, Trail, to_image
from deca.sequence_identity import ALIKE, shared_shape
from deca.sequence_model import PointModel, Poses
from deca.sequence_solve import (
    IdentityFit,
    SequenceFitConfig,
    Sightings,
    solve_identity,
    solve_poses,
)
from deca.sequence_view import View, whole_camera
from flame.camera import Camera
from flame.model import Flame
from flame.rotation import matrix_to_axis_angle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequenceConfig:
    """How frames become one identity."""

    n_shape: int = 60  # coefficients that are refined
    keyframes: int = 16
    alike: float = ALIKE  # correlation of the encoder's errors between frames of one person
    batch: int = 32  # frames solved at once
    stranger: float = 0.9  # mean disagreement of two identities, in standard deviations
    fit: SequenceFitConfig = dataclasses.field(default_factory=SequenceFitConfig)


@dataclass(frozen=True, eq=False)
class Sequence:
    """One identity and T frames; where the face was not seen `poses` hold no meaning."""

    times_s: Float[Tensor, " T"]
    seen: Bool[Tensor, " T"]
    confidence: Float[Tensor, " T"]  # 0..1, 0 where unseen
    shape: Float[Tensor, " S"]
    shape_sigma: Float[Tensor, " G"]  # of the coefficients that were refined
    albedo: Float[Tensor, " A"]
    weights: Float[Tensor, "T 52"]
    rotations: Float[Tensor, "T 3"]  # of the head in the picture, axis-angle
    scale_px: Float[Tensor, " T"]  # pixels of the picture a metre, at the root joint
    root_px: Float[Tensor, "T 2"]  # where the root joint is in the picture
    tangent_px: Float[Tensor, " T"]  # one over the focal length, 1/px
    residual: Float[Tensor, " T"]  # median distance of the points, face sides
    cuts: tuple[int, ...]  # first frames of new scenes
    strangers: tuple[tuple[int, int], ...]  # first and last frames of somebody else
    keyframes: tuple[int, ...]  # that the identity was solved from
    views: tuple[View, ...]  # pictures with their codes, for the texture

    def __len__(self) -> int:
        return len(self.times_s)


def find_faces(image: Float[Tensor, "1 3 H W"], net: LandmarkNet) -> list[Float[Tensor, " 4"]]:
    """Boxes of all faces of a picture, brow to chin; none is an empty list."""
    return [face.box for face in detect_all(image, backend="shipped", net=net)]


class FaceReader:
    """The shipped networks as what `deca.sequence_follow` asks for."""

    def __init__(self, flame: Flame, net: CodeNet, finder: LandmarkNet | None = None) -> None:
        self.flame, self.net = flame, net
        self._finder = finder or getattr(net, "finder", None) or net.landmarks

    def encode(self, image: Tensor, box: Tensor) -> Encoding:
        """Codes of the face in a box."""
        return encode_box(image, box, self.flame, self.net)

    @torch.no_grad()
    def find(self, image: Tensor) -> list[Tensor]:
        """Boxes of all faces."""
        return find_faces(image, self._finder)


@torch.no_grad()
def solve_sequence(
    trail: Trail,
    flame: Flame,
    carried: LandmarkPoints,
    shape_sigma: Float[Tensor, " S"],
    weight_sigma: Float[Tensor, " 52"],
    config: SequenceConfig | None = None,
    *,
    one_camera: bool = True,
    progress: Steps | None = None,
) -> Sequence:
    """One identity and a pose a frame from what was seen; `one_camera` for a video.

    Frames after a cut that show somebody else have no part in the identity. A trail without a face
    is a ValueError.
    """
    config = config or SequenceConfig()
    found = trail.found
    if not found:
        raise ValueError(
            "no face was found in any frame; give pictures that show a face from the front"
        )
    model = PointModel(flame, carried, config.n_shape)
    strangers = _strangers(trail, model, shape_sigma, weight_sigma, config)
    known = [i for i in found if not any(first <= i <= last for first, last in strangers)]
    chosen = spread_keyframes(trail, known, config.keyframes)
    fit, shape, albedo = _identity(
        trail, known, chosen, model, shape_sigma, weight_sigma, config, one_camera
    )
    poses, residual = _all_poses(
        trail, found, model, fit, shape, weight_sigma, config, one_camera, progress
    )
    return _assembled(trail, found, poses, residual, model, shape, fit, albedo, strangers, chosen)


def mean_identity(
    looks: list[Look], shape_sigma: Float[Tensor, " S"], alike: float = ALIKE
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"], Float[Tensor, " A"]]:
    """Identity of the frames together, its standard deviations, and the mean albedo.

    Frames of equal turn share their say, since they err alike; see `shared_shape`.
    """
    quality = torch.tensor([_quality(look) for look in looks])
    bins = [round(look.yaw_deg / 10) for look in looks]
    crowd = torch.tensor([float(bins.count(own)) for own in bins])
    weight = quality / crowd.sqrt()
    weight = weight / weight.sum()
    shapes = torch.stack([look.shape for look in looks])
    shape, sigma = shared_shape(shapes, weight, shape_sigma, alike)
    albedo = torch.einsum("n,na->a", weight, torch.stack([look.albedo for look in looks]))
    return shape, sigma, albedo


def spread_keyframes(trail: Trail, frames: list[int], most: int) -> list[int]:
    """Up to `most` of the frames, sure ones whose turns and expressions differ most."""
    looks = [trail.looks[index] for index in frames]
    features = torch.stack([_feature(look) for look in looks if look is not None])
    quality = torch.tensor([_quality(look) for look in looks if look is not None])
    first = int(quality.argmax())
    order, nearest = [first], (features - features[first]).norm(dim=1)
    while len(order) < min(most, len(frames)):
        best = int((nearest * quality).argmax())
        if float(nearest[best]) < 1e-6:
            break
        order.append(best)
        nearest = torch.minimum(nearest, (features - features[best]).norm(dim=1))
    return sorted(frames[index] for index in order)


def _quality(look: Look) -> float:
    """How much a frame can know: sure points, a large face."""
    certainty = 1 / (1 + (float(look.sigmas.mean()) / 0.03) ** 2)
    return look.confidence * certainty * min(1.0, look.side / look.view / 120)


def _feature(look: Look) -> Tensor:
    turn = torch.tensor([look.yaw_deg / 15, look.pitch_deg / 12])
    return torch.cat([turn, 0.7 * look.weights])


def sightings(looks: list[Look], model: PointModel, shape: Float[Tensor, " S"]) -> Sightings:
    """The looks as a fit takes them; cameras are told about the root joint."""
    weights = torch.stack([look.weights for look in looks]).double()
    root = model.root(shape.double(), weights)
    scale = torch.tensor([look.scale for look in looks]).double()
    tangent = torch.tensor([look.tangent for look in looks]).double()
    near = scale * tangent
    shift = torch.stack([look.shift for look in looks]).double() + root[:, :2]
    log_scale = (scale / (1 - root[:, 2] * near).clamp(min=0.2)).log()
    rotation = torch.stack([look.rotation for look in looks]).double()
    guess = Poses(weights, rotation, log_scale, shift, tangent)
    points = torch.stack([look.points for look in looks]).double()
    return Sightings(points, torch.stack([look.sigmas for look in looks]).double(), guess)


def _with_focal(seen: Sightings, looks: list[Look], inverse_px: float) -> Sightings:
    """Cameras of one focal length; a crop's half view is its half side over that."""
    half = torch.tensor([look.side / 2 for look in looks]).double()
    return dataclasses.replace(
        seen, guess=dataclasses.replace(seen.guess, tangent=half * inverse_px)
    )


def _inverse_focal(looks: list[Look]) -> float:
    """The median of one over the focal length, 1/px of the picture."""
    each = torch.tensor([2 * look.tangent / look.side for look in looks])
    return float(each.median().clamp(min=1e-6))


def _known(trail: Trail, frames: list[int]) -> list[Look]:
    looks = [trail.looks[index] for index in frames]
    return [look for look in looks if look is not None]


def _identity(
    trail: Trail,
    known: list[int],
    chosen: list[int],
    model: PointModel,
    shape_sigma: Tensor,
    weight_sigma: Tensor,
    config: SequenceConfig,
    one_camera: bool,
) -> tuple[IdentityFit, Tensor, Tensor]:
    """The fit of the keyframes, the whole shape, and the albedo."""
    shape, sigma, albedo = mean_identity(_known(trail, known), shape_sigma, config.alike)
    looks = _known(trail, chosen)
    seen = sightings(looks, model, shape)
    if one_camera:
        seen = _with_focal(seen, looks, _inverse_focal(_known(trail, known)))
    fit = solve_identity(model, shape, sigma, seen, weight_sigma, config.fit, one_camera=one_camera)
    # coefficients beyond those that are refined stay as averaged
    return fit, torch.cat([fit.shape, shape[len(fit.shape) :]]), albedo


def _all_poses(
    trail: Trail,
    found: list[int],
    model: PointModel,
    fit: IdentityFit,
    shape: Tensor,
    weight_sigma: Tensor,
    config: SequenceConfig,
    one_camera: bool,
    progress: Steps | None,
) -> tuple[Poses, Tensor]:
    inverse = _inverse_focal(_known(trail, found)) * math.exp(fit.log_focal)
    parts: list[Poses] = []
    residuals: list[Tensor] = []
    for first in range(0, len(found), config.batch):
        looks = _known(trail, found[first : first + config.batch])
        seen = sightings(looks, model, shape)
        if one_camera:
            seen = _with_focal(seen, looks, inverse)
        poses, residual = solve_poses(model, fit.shape, seen, weight_sigma, config.fit)
        parts.append(poses)
        residuals.append(residual * torch.tensor([look.view / 2 for look in looks]))
        if progress is not None:
            progress(first + len(looks), len(found))
    joined = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Poses)
    }
    return Poses(**joined), torch.cat(residuals)


def _assembled(
    trail: Trail,
    found: list[int],
    poses: Poses,
    residual: Tensor,
    model: PointModel,
    shape: Tensor,
    fit: IdentityFit,
    albedo: Tensor,
    strangers: list[tuple[int, int]],
    chosen: list[int],
) -> Sequence:
    count, looks = len(trail), _known(trail, found)
    at = torch.tensor(found)

    def spread(values: Tensor) -> Tensor:
        whole = torch.zeros(count, *values.shape[1:])
        whole[at] = values.float()
        return whole

    upright = torch.stack([look.in_picture() for look in looks]).double()
    half = torch.tensor([look.side / 2 for look in looks]).double()
    offset = poses.log_scale.exp()[:, None] * poses.shift  # half crops, y up
    across = torch.einsum("nij,nj->ni", upright[:, :2, :2], offset) * half[:, None]
    center = torch.stack([look.center for look in looks]).double()
    usual = residual.median().clamp(min=1e-6)
    trust = 1 / (1 + (residual / (3 * usual)) ** 4)
    confidence = torch.tensor([look.confidence for look in looks]) * trust
    return Sequence(
        times_s=torch.tensor(trail.times_s, dtype=torch.float64),
        seen=spread(torch.ones(len(found))) > 0,
        confidence=spread(confidence),
        shape=shape.float(),
        shape_sigma=fit.shape_sigma,
        albedo=albedo,
        weights=spread(poses.weights),
        rotations=spread(matrix_to_axis_angle(upright @ poses.rotation)),
        scale_px=spread(poses.log_scale.exp() * half),
        root_px=spread(center + across * torch.tensor([1.0, -1.0])),
        tangent_px=spread(poses.tangent / half),
        residual=spread(residual),
        cuts=tuple(trail.cuts),
        strangers=tuple(strangers),
        keyframes=tuple(chosen),
        views=_views(trail, found, poses, model, shape, strangers),
    )


def _views(
    trail: Trail,
    found: list[int],
    poses: Poses,
    model: PointModel,
    shape: Tensor,
    strangers: list[tuple[int, int]],
) -> tuple[View, ...]:
    """The kept pictures with their poses and cameras."""
    result = []
    for kept in sorted(trail.kept, key=lambda k: k.index):
        if any(first <= kept.index <= last for first, last in strangers):
            continue
        look, row = trail.looks[kept.index], found.index(kept.index)
        assert look is not None
        result.append(_view(kept, look, poses[row], model, shape))
    return tuple(result)


def _view(kept: Kept, look: Look, pose: Poses, model: PointModel, shape: Tensor) -> View:
    wider = VIEW / look.view
    scale, shift, tangent = whole_camera(pose, model, shape)
    camera = Camera(
        (scale / wider).float(),
        shift.float(),
        torch.rad2deg(2 * torch.atan(tangent * wider)).float(),
    )
    return View(
        kept.index,
        to_image(kept.picture),
        pose.weights[0].float(),
        matrix_to_axis_angle(pose.rotation)[0].float(),
        camera,
        kept.score,
    )


def _strangers(
    trail: Trail,
    model: PointModel,
    shape_sigma: Tensor,
    weight_sigma: Tensor,
    config: SequenceConfig,
) -> list[tuple[int, int]]:
    """Scenes whose identity is not that of the first; there are none without cuts."""
    edges = [0, *trail.cuts, len(trail)]
    scenes = [range(a, b) for a, b in itertools.pairwise(edges) if b > a]
    if len(scenes) < 2:
        return []
    first: IdentityFit | None = None
    other = []
    for scene in scenes:
        frames = [index for index in scene if trail.looks[index] is not None]
        if not frames:
            continue
        chosen = spread_keyframes(trail, frames, max(4, config.keyframes // 2))
        fit, _, _ = _identity(
            trail, frames, chosen, model, shape_sigma, weight_sigma, config, one_camera=True
        )
        if first is None:
            first = fit
        elif disagreement(first, fit) > config.stranger:
            other.append((scene[0], scene[-1]))
    return other


def disagreement(one: IdentityFit, two: IdentityFit) -> float:
    """How far two identities are apart, rms over the ten coefficients that both know best, in
    standard deviations; below 1 for one person."""
    joint = (one.shape_sigma.square() + two.shape_sigma.square()).sqrt()
    sure = joint <= joint.sort().values[min(9, len(joint) - 1)]
    return float(((one.shape - two.shape)[sure] / joint[sure]).square().mean().sqrt())
