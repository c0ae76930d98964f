"""Head models behind one interface for self-supervised training: crops to codes to heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from assets.weights import write_tensors
from deca.code_net import CODE_VIEW, CodeAnswer, CodeNet, save_code_net
from deca.face_region import FaceRegion, face_region
from deca.guess import seen_camera
from deca.landmark_points import LandmarkPoints
from deca.official_deca import LAYOUT, Deca
from deca.photo_losses import beyond
from deca.photo_start import DetailNetworks
from flame.albedo import DEEPEST, AlbedoModel
from flame.arkit import ARKIT_NAMES
from flame.camera import Camera
from flame.embeddings import yaw_deg
from flame.interpolate import interpolate
from flame.model import Flame
from flame.normals import vertex_normals
from flame.params import Params, params_from_arkit
from flame.records import TensorRecord
from flame.rotation import axis_angle_to_matrix, matrix_to_axis_angle
from flame.sh_render import render_sh
from flame.srgb import linear_to_srgb, srgb_to_linear
from flame.texture_space import TextureSpace

TEXTURE_SIDE = 256
_LEAST = 1e-3  # of shading, and of light whose logarithm is taken
_OWN_SIDE = 128  # texels of the shipped head's skin: its crops have no more pixels
_WRINKLING = [n for n, name in enumerate(ARKIT_NAMES) if name not in ("jawOpen", "tongueOut")]


@dataclass(frozen=True, eq=False)
class PhotoCodes(TensorRecord):
    """Codes of B crops; what the entries of a group mean is known to the face that gave them."""

    shape: Float[Tensor, "B S"]  # standard deviations
    expression: Float[Tensor, "B E"]
    pose: Float[Tensor, "B P"]
    camera: Float[Tensor, "B C"]
    albedo: Float[Tensor, "B A"]
    light: Float[Tensor, "B 9 3"]


@dataclass(frozen=True, eq=False)
class Decoded(TensorRecord):
    """Heads that codes stand for, and where they are in the crop (-1..1, y down)."""

    verts: Float[Tensor, "B V 3"]  # metres
    camera: Camera
    points68: Float[Tensor, "B 68 2"]
    dense: Float[Tensor, "B D 2"]
    texture: Float[Tensor, "B 3 T T"] | None  # as the light multiplies it
    light: Float[Tensor, "B 9 3"]


@runtime_checkable
class Face(Protocol):
    """A head model with an encoder: all that training on photos asks of it."""

    name: str
    side: int  # px of the crops
    upright: bool  # whether crops are turned with the head
    linear: bool  # whether its light multiplies linear albedo, not that of sRGB files
    exposed: bool  # whether its light says how bright the picture is
    scale: tuple[float, float]  # of crops over the face's points, lowest and highest
    region: FaceRegion
    net: nn.Module  # of the first stage
    detail: DetailNetworks

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        ...

    def train(self, norms: bool) -> None:
        """Set the first stage to training; without `norms` batch norms keep their statistics."""
        ...

    def parameters(self) -> list[nn.Parameter]:
        """What the first stage trains."""
        ...

    def encode(self, images: Float[Tensor, "B 3 K K"]) -> PhotoCodes:
        """Codes of crops, with gradients."""
        ...

    def decode(self, codes: PhotoCodes, outline: Bool[Tensor, " B"]) -> Decoded:
        """Heads of codes; where `outline`, the jaw line is that of the picture's outline."""
        ...

    def out_of_range(self, codes: PhotoCodes) -> Float[Tensor, ""]:
        """Squared distance of codes from where they mean something, summed."""
        ...

    def wrinkling(self, codes: PhotoCodes) -> Float[Tensor, "B 53"]:
        """Jaw (3) and expression (50): what the detail decoder is told besides the person."""
        ...

    def save(self, folder: Path, metadata: dict[str, str], *, detail: bool) -> list[Path]:
        """Write the networks as safetensors that this project's loaders open again."""
        ...


@dataclass(frozen=True, eq=False)
class Rendered(TensorRecord):
    """Pictures of heads in their light, sRGB, and the share of face proper at each pixel."""

    image: Float[Tensor, "B 3 H W"]
    share: Float[Tensor, "B 1 H W"]  # without gradients
    gain: Float[Tensor, " B"]  # what the light was multiplied by


def render(
    face: Face,
    decoded: Decoded,
    images: Float[Tensor, "B 3 H W"],
    masks: Float[Tensor, "B 1 H W"],
) -> Rendered:
    """The decoded heads' skin in their own light, black beyond it; differentiable.

    Where the light does not say how bright the picture is, it is made as bright as the photo is
    under its skin mask.
    """
    if decoded.texture is None:
        raise ValueError(f"{face.name} has no albedo to render; train it with pretrain")
    size, region = (face.side, face.side), face.region
    drawn = render_sh(
        decoded.camera.clip(decoded.verts, size),
        region.faces,
        vertex_normals(decoded.verts, region.faces),
        decoded.texture,
        decoded.light,
        size,
        uv=region.uv,
        uv_faces=region.uv_faces,
        least=_LEAST if face.linear else -math.inf,
    )
    with torch.no_grad():
        share = interpolate(region.share, region.faces, drawn.fragments).movedim(-1, 1)
    image, gain = drawn.image, drawn.image.new_ones(len(drawn.image))
    if not face.exposed:
        # mean logs, so that a highlight does not outweigh the skin round it
        wanted, given = srgb_to_linear(images).clamp(min=_LEAST), image.clamp(min=_LEAST)
        off = wanted.log() - given.log()
        weight = share * masks
        ratio = (off * weight).sum((1, 2, 3)) / (3 * weight.sum((1, 2, 3))).clamp(min=1)
        gain = ratio.exp()
        image = image * gain[:, None, None, None]
    return Rendered(linear_to_srgb(image) if face.linear else image, share, gain)


class DecaFace:
    """DECA on a FLAME model, or on any other head that has enough codes."""

    upright = False
    linear = False
    exposed = True
    scale = (1.4, 1.8)

    def __init__(self, deca: Deca, flame: Flame, texture: TextureSpace | None) -> None:
        networks = deca.networks
        if networks.E_detail is None or networks.D_detail is None:
            raise ValueError("this DECA was loaded without detail; use DecaConfig(detail=True)")
        self.name, self.side = "DECA on FLAME", deca.side
        self.deca, self.flame, self.texture = deca, flame, texture
        self.net: nn.Module = networks.E_flame
        self.detail = DetailNetworks(networks.E_detail, networks.D_detail)
        self.region = face_region(flame)
        self._split = [length for _, length in LAYOUT]

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        self.deca.to(device)
        self.flame.to(device)
        self.region = moved(self.region, device)
        self.texture = None if self.texture is None else self.texture.to(device)

    def train(self, norms: bool) -> None:
        """Set the encoder to training."""
        self.net.train(norms)

    def parameters(self) -> list[nn.Parameter]:
        """All of the encoder's."""
        return list(self.net.requires_grad_(True).parameters())

    def encode(self, images: Float[Tensor, "B 3 K K"]) -> PhotoCodes:
        """DECA's codes: `pose` is root and jaw, `camera` scale and shift."""
        outputs: Tensor = self.net(images).float()
        shape, albedo, expression, pose, camera, light = torch.split(
            outputs, [*self._split, outputs.shape[1] - sum(self._split)], dim=1
        )
        return PhotoCodes(shape, expression, pose, camera, albedo, light.view(-1, 9, 3))

    def decode(self, codes: PhotoCodes, outline: Bool[Tensor, " B"]) -> Decoded:
        """Heads of codes; neck and eyes are at rest."""
        params = _posed(codes.shape, codes.expression, codes.pose[:, :3], codes.pose[:, 3:])
        verts = self.flame(params).verts
        scale, zero = codes.camera[:, 0], torch.zeros_like(codes.camera[:, 0])
        camera = Camera(scale, codes.camera[:, 1:], zero)
        points = _placed(camera, _marks(self.flame, params, verts, outline))
        texture = None
        if self.texture is not None:
            texture = self.texture.decode(codes.albedo, side=TEXTURE_SIDE)
        return Decoded(verts, camera, points, points[:, :0], texture, codes.light)

    def out_of_range(self, codes: PhotoCodes) -> Float[Tensor, ""]:
        """0: FLAME's codes have no bounds."""
        return codes.shape.new_zeros(())

    def wrinkling(self, codes: PhotoCodes) -> Float[Tensor, "B 53"]:
        """Jaw and expression."""
        return torch.cat([codes.pose[:, 3:], codes.expression], dim=1)

    def save(self, folder: Path, metadata: dict[str, str], *, detail: bool) -> list[Path]:
        """`deca.safetensors`, which `deca.official.load_encoder` opens."""
        tensors = self.deca.networks.state_dict()
        return write_tensors(tensors, folder / "deca.safetensors", metadata)


class CodeNetFace:
    """This project's encoder on a head with ARKit's expressions.

    The landmark network stays as it is: it gave the labels. The camera is the least squares that
    puts the head on the points that it sees, as when the encoder is used.
    """

    upright = True
    linear = True
    exposed = False
    scale = (0.96 * CODE_VIEW, 1.06 * CODE_VIEW)  # as its crops are framed in use

    def __init__(
        self, net: CodeNet, flame: Flame, albedo: AlbedoModel, detail: DetailNetworks
    ) -> None:
        self.name, self.side = "CodeNet", net.landmarks.config.side
        self.net: nn.Module = net
        self.codes = net
        self.flame, self.detail = flame, detail
        self.region = face_region(flame)
        self.points: LandmarkPoints = net.landmarks.points
        self._log_base, self._slopes = _log_albedo(albedo, _OWN_SIDE)
        self._one_sided = albedo.one_sided

    def to(self, device: torch.device) -> None:
        """Move everything to a device."""
        for part in (self.net, self.flame, self.detail):
            part.to(device)
        self.region, self.points = moved(self.region, device), self.points.to(device)
        self._log_base, self._slopes, self._one_sided = (
            tensor.to(device) for tensor in (self._log_base, self._slopes, self._one_sided)
        )

    def train(self, norms: bool) -> None:
        """Set the regressor to training."""
        self.net.train(norms)
        for seen in self._still():
            seen.eval()

    def parameters(self) -> list[nn.Parameter]:
        """Those of the regressor, without the landmark network's."""
        self.net.requires_grad_(True)
        for seen in self._still():
            seen.requires_grad_(False)
        return [p for p in self.net.parameters() if p.requires_grad]

    def encode(self, images: Float[Tensor, "B 3 K K"]) -> PhotoCodes:
        """`expression` has ARKit's weights, `pose` a matrix, `camera` scale, shift and nearness."""
        answer: CodeAnswer = self.net(images)
        answer = answer._map(lambda tensor: tensor.float())
        rotation = answer.rotation.flatten(1)
        camera = self._camera(answer)
        return PhotoCodes(
            answer.shape, answer.weights, rotation, camera, answer.albedo, answer.light
        )

    def decode(self, codes: PhotoCodes, outline: Bool[Tensor, " B"]) -> Decoded:
        """Heads of codes; ARKit's weights are held to 0..1."""
        params = self._params(codes.shape, codes.expression, codes.pose)
        verts = self.flame(params).verts
        scale, nearness = codes.camera[:, 0], codes.camera[:, 3]
        fov = torch.rad2deg(2 * torch.atan(nearness / scale))
        camera = Camera(scale, codes.camera[:, 1:3], fov)
        points = _placed(camera, _marks(self.flame, params, verts, outline))
        dense = _placed(camera, self.points.on(verts))[:, 68:]
        log_albedo = self._log_base + torch.einsum("ba,acij->bcij", codes.albedo, self._slopes)
        texture = log_albedo.clamp(DEEPEST, 0).exp()
        return Decoded(verts, camera, points, dense, texture, codes.light)

    def out_of_range(self, codes: PhotoCodes) -> Float[Tensor, ""]:
        """Weights beyond 0..1, and one-sided albedo codes below 0."""
        return beyond(codes.expression, 0.0, 1.0) + beyond(
            codes.albedo[:, self._one_sided], 0.0, 1e6
        )

    def wrinkling(self, codes: PhotoCodes) -> Float[Tensor, "B 53"]:
        """The jaw's turn, and all weights but jawOpen, which it stands for, and tongueOut."""
        weights = codes.expression.clamp(0, 1)
        params = params_from_arkit(codes.shape, weights)
        return torch.cat([params.jaw, params.expression[:, _WRINKLING]], dim=1)

    def save(self, folder: Path, metadata: dict[str, str], *, detail: bool) -> list[Path]:
        """`encoder.safetensors` for `load_code_net`; with `detail`, that stage's file beside it."""
        files = save_code_net(self.codes, folder / "encoder.safetensors", metadata)
        if detail:
            state = self.detail.state_dict()
            files += write_tensors(state, folder / "photo_detail.safetensors", metadata)
        return files

    def _still(self) -> list[nn.Module]:
        return [part for part in (self.codes.landmarks, self.codes.finder) if part is not None]

    def _params(self, shape: Tensor, weights: Tensor, rotation: Tensor) -> Params:
        # the bounds' own gradient is in out_of_range
        params = params_from_arkit(shape, weights.clamp(0, 1))
        return replace(params, root=matrix_to_axis_angle(rotation.view(-1, 3, 3)))

    def _camera(self, answer: CodeAnswer) -> Float[Tensor, "B 4"]:
        """Scale, shift, nearness of the camera that suits the answer's own points."""
        params = self._params(answer.shape, answer.weights, answer.rotation)
        placed = self.points.on(self.flame(params).verts)
        nearness, points = answer.nearness.clamp(0, 3), answer.landmarks
        scale, shift = seen_camera(placed, points.mean, points.log_sigma, nearness)
        return torch.cat([scale[:, None], shift, nearness[:, None]], dim=1)


def _posed(shape: Tensor, expression: Tensor, root: Tensor, jaw: Tensor) -> Params:
    zero = torch.zeros_like(root)
    return Params(shape, expression, root, zero, jaw, torch.stack([zero, zero], dim=1))


def _marks(
    flame: Flame, params: Params, verts: Tensor, outline: Bool[Tensor, " B"]
) -> Float[Tensor, "B 68 3"]:
    fixed = flame.landmarks68(verts)
    if not bool(outline.any()):
        return fixed
    turn = axis_angle_to_matrix(params.root) @ axis_angle_to_matrix(params.neck)
    moving = flame.contour_landmarks68(verts, yaw_deg(turn.detach()))
    return torch.where(outline[:, None, None], moving, fixed)


def _placed(camera: Camera, points: Float[Tensor, "B L 3"]) -> Float[Tensor, "B L 2"]:
    """Points in the crop, -1..1, y down; the crop's size does not matter."""
    return camera.project(points, (2, 2))[..., :2] - 1


def moved(region: FaceRegion, device: torch.device) -> FaceRegion:
    """The region on a device."""
    return FaceRegion(**{f.name: getattr(region, f.name).to(device) for f in fields(region)})


@torch.no_grad()
def _log_albedo(
    albedo: AlbedoModel, side: int
) -> tuple[Float[Tensor, "3 K K"], Float[Tensor, "A 3 K K"]]:
    """The log of linear albedo at zero codes and its slopes, each texel the mean of four points."""
    fine = (torch.arange(2 * side) + 0.5) / (2 * side)
    v, u = torch.meshgrid(1 - fine, fine, indexing="ij")
    base, slopes = albedo.basis_at(torch.stack([u, v], -1).view(-1, 2))
    both = torch.cat([base[None], slopes]).view(-1, 3, 2 * side, 2 * side)
    small = nn.functional.avg_pool2d(both, 2)
    return small[0], small[1:]
