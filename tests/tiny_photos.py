"""Two people in two small pictures each, and a face that is small enough to train in a test."""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image
from plain_people import plain_wardrobe
from torch import nn

from deca.landmark_points import landmark_points
from deca.landmarks import LandmarkConfig, LandmarkNet
from deca.photo_faces import CodeNetFace
from deca.photo_folder import CropDraw, FacePoints, PhotoSet
from deca.photo_start import DetailNetworks, fresh_code_net
from deca.synth import Studio
from flame.load import load_head
from flame.outfit import load_outfit

SIDE = 48


@functools.cache
def head():
    return load_head()


@functools.cache
def albedo():
    return load_outfit().albedo


@functools.cache
def tiny_shots():
    studio = Studio(head(), plain_wardrobe(), 96)
    generator = torch.Generator().manual_seed(4)
    return [studio.shoot(2, generator=generator) for _ in range(2)]


def write_photos(top):
    """The shots as JPEG pictures before a grey wall, in a folder a person."""
    for person, takes in enumerate(tiny_shots()):
        (top / f"person{person}").mkdir()
        for take, shot in enumerate(takes):
            alpha = shot.rgba[..., 3:] / 255
            pixels = shot.rgba[..., :3] * alpha + 90 * (1 - alpha)
            image = Image.fromarray(pixels.round().astype(np.uint8))
            image.save(top / f"person{person}" / f"{take}.jpg", quality=95)
    return top


def tiny_photo_set(photos):
    return PhotoSet(photos, CropDraw(SIDE, True, CodeNetFace.scale), seed=1)


class Told:
    """A labeller that knows the truth, in the order in which pictures are looked at."""

    def __init__(self, shots):
        self.left = [shot for takes in shots for shot in takes]
        self.asked = 0

    def __call__(self, image):
        shot = self.left[self.asked]
        self.asked += 1
        return FacePoints(shot.points, torch.full((len(shot.points),), 0.5))


class TinyDetail(nn.Module):
    """Stands in for the detail decoder: 64 texels a side, up to a millimetre."""

    def __init__(self):
        super().__init__()
        self.grow = nn.Linear(181, 64)

    def forward(self, latent):
        small = self.grow(latent).view(-1, 1, 8, 8)
        return 1e-3 * torch.tanh(nn.functional.interpolate(small, scale_factor=8, mode="bilinear"))


def tiny_face(flame, skin, seed=0, seen_at=None):
    """An untrained face whose landmark network sees the mean face, or `seen_at` (0..1)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        points = landmark_points(flame)
        seen = LandmarkNet(points, LandmarkConfig(4, (4, 4, 4, 8), 16, 6, side=SIDE))
        rest = points.rest[:, :2] - points.rest[:, :2].mean(0)
        extent = (rest.amax(0) - rest.amin(0)).max()
        upright = 0.5 + rest / (1.05 * extent) * torch.tensor([1.0, -1.0])
        where = upright if seen_at is None else seen_at
        seen.start_at(where + 0.002 * torch.randn(20, len(points), 2))
        net = fresh_code_net(seen, generator=torch.Generator().manual_seed(seed))
        for parameter in net.head.parameters():
            parameter.data.normal_(std=0.05)
        encoder = nn.Sequential(
            nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 128), nn.BatchNorm1d(128)
        )
        detail = DetailNetworks(encoder, TinyDetail())
    return CodeNetFace(net, flame, skin, detail)
