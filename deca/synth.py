"""Pictures of random people with exact labels: what the landmark network is trained on.

`python -m deca.synth --count 100 --out out/people --seed 0` writes pictures and their labels.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from assets.files import replacing
from deca import synth_scene as scene
from deca.codes import Codes
from deca.landmark_points import N_LANDMARKS, LandmarkPoints, landmark_points
from deca.synth_people import draw_camera, draw_face, draw_lights, draw_shape, draw_turn
from deca.synth_wardrobe import Wardrobe, make_wardrobe
from flame.camera import Camera
from flame.hair import attach
from flame.hair_texture import HAIR_COLORS, hair_material
from flame.head import Head
from flame.light import Lights, sh_basis
from flame.load import load_head
from flame.material import Material
from flame.model import PARENTS, Flame, Posed, joint_transforms, skin
from flame.outfit import load_outfit
from flame.params import Params, params_from_arkit
from flame.render import RenderConfig, Renderer
from flame.rotation import axis_angle_to_matrix

log = logging.getLogger(__name__)

SIDE = 176  # px
VIEW = 2.0  # the picture's side over the bounding square of the face's points
_TONES = (
    (0.60, "very fair"),
    (0.46, "fair"),
    (0.33, "olive"),
    (0.20, "brown"),
    (0.10, "dark brown"),
)
_DYED = ("blue", "pink", "purple", "violet", "teal", "green", "turquoise", "crimson")
Attributes = dict[str, str | float | bool]


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of one person; outside the person it is transparent."""

    rgba: UInt8[np.ndarray, "H W 4"]
    points: Float[Tensor, "L 2"]  # px, in the order of LandmarkPoints
    codes: Codes  # of one portrait; the light is what reaches a matt surface
    attributes: Attributes  # words for captions, and the head's turn in degrees


class Studio:
    """Photographs random people; the same generator state gives the same pictures."""

    def __init__(self, flame: Flame, wardrobe: Wardrobe, side: int = SIDE) -> None:
        self.flame = flame
        self.wardrobe = wardrobe
        self.side = side
        self.points: LandmarkPoints = landmark_points(flame)
        self._head = flame.head(torch.zeros(flame.n_shape))
        self._renderers: dict[str, Renderer] = {}

    def shoot(self, takes: int, *, generator: torch.Generator) -> list[Shot]:
        """`takes` pictures of one new person, each with its own face, turn, light and camera."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        shape = draw_shape(1, self.flame.n_shape, generator=generator)
        renderer, attributes, tone, albedo = self._dress(rng, generator)
        faces = [draw_face(generator=generator) for _ in range(takes)]
        turns = torch.stack([draw_turn(generator=generator) for _ in range(takes)])
        params = params_from_arkit(
            shape.expand(takes, -1), torch.stack([face.weights for face in faces])
        )
        # the neck takes part of the turn, the whole body the rest
        share = torch.rand(takes, 1, generator=generator)
        radians = torch.deg2rad(turns)[:, [1, 0, 2]] * torch.tensor([-1.0, 1.0, -1.0])
        neck = (radians * share).clamp(-0.6, 0.6)
        params.neck.copy_(neck)
        params.root.copy_(radians - neck)
        verts = self._posed(params, shape, str(attributes["hair"]))
        found = []
        for take in range(takes):
            words = {**attributes, "expression": faces[take].word}
            words |= {
                name: round(float(value), 1)
                for name, value in zip(("yaw", "pitch", "roll"), turns[take], strict=True)
            }
            rgba, points, camera, light = self._take(
                verts[take], renderer, tone, words, rng, generator
            )
            codes = Codes(params[take : take + 1], albedo, camera, light)
            found.append(Shot(rgba, points, codes, words))
        return found

    def _take(
        self,
        verts: Float[Tensor, "V 3"],
        renderer: Renderer,
        tone: tuple[int, int, int],
        words: Attributes,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[UInt8[np.ndarray, "H W 4"], Float[Tensor, "L 2"], Camera, Float[Tensor, "1 9 3"]]:
        in_space = self.points.on(verts[None, : len(self.flame.template)])
        camera = draw_camera(in_space[0], VIEW, generator=generator)
        lights = draw_lights(generator=generator)
        size = (self.side, self.side)
        # shadows cost a third of the time
        shadow_side = 160 if rng.random() < 0.5 else 0
        exposure = float(np.exp(rng.uniform(-0.2, 0.7)))
        renderer = renderer.with_config(RenderConfig(shadow_side, exposure))
        image = renderer(verts[None], camera, lights, size)[0]
        rgba = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        points = camera.project(in_space, size)[0, :, :2]
        if words["hat"]:
            rgba = scene.over(rgba, self._hat(verts, camera, rng))
        if words["glasses"]:
            rgba = scene.over(rgba, self._glasses(verts, camera, float(words["yaw"]), rng))
        if rng.random() < 0.12:
            rgba = scene.over(rgba, scene.draw_occluder(self.side, tone, rng))
        return rgba, points, camera, matt_light(lights) * exposure

    def _dress(
        self, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Renderer, Attributes, tuple[int, int, int], Float[Tensor, "1 A"]]:
        codes = self.wardrobe.albedo.sample(1, generator)
        with torch.no_grad():
            albedo = self.wardrobe.albedo.decode(codes, 320)[0]
            tone = self.wardrobe.albedo.tone(codes)[0]
        lightness = float(tone.square().mean())
        words: Attributes = {
            "skin": next((word for least, word in _TONES if lightness >= least), "very dark"),
            "hat": bool(rng.random() < 0.06),
            "glasses": bool(rng.random() < 0.22),
        }
        style = str(rng.choice(["none", *self.wardrobe.hair]))
        materials = [Material("skin", albedo, roughness=float(rng.uniform(0.35, 0.8)))]
        color = str(rng.choice(list(self.wardrobe.eyes)))
        eyes = self.wardrobe.eyes[color]
        materials.append(Material("eyes", eyes[int(rng.integers(len(eyes)))], roughness=0.15))
        lash = self.wardrobe.lashes[int(rng.integers(len(self.wardrobe.lashes)))]
        materials.append(Material("lashes", lash, alpha_mode="BLEND", double_sided=True))
        materials.append(Material("mouth", self.wardrobe.mouth * float(rng.uniform(0.7, 1.0))))
        materials.append(Material("shirt", _cloth(rng)))
        words |= {"hair": style, "hair colour": "none", "eyes": color}
        if style != "none":
            words["hair colour"] = _hair_color(rng)
            base = np.array(HAIR_COLORS[str(words["hair colour"])])
            r, g, b = np.clip(base * rng.uniform(0.8, 1.2) + rng.normal(0, 0.02, 3), 0, 1)
            materials.append(
                hair_material(self.wardrobe.hair[style].texture, (float(r), float(g), float(b)))
            )
        red, green, blue = (int(255 * float(channel)) for channel in tone)
        return self._renderer(style).with_materials(materials), words, (red, green, blue), codes

    def _renderer(self, style: str) -> Renderer:
        """A renderer of the head and one hair style, in placeholder materials."""
        if style not in self._renderers:
            head: Head = self._head
            faces, uv_faces, ids = head.triangles()
            uv = head.uv
            names = list(head.material_names)
            if style != "none":
                hair = self.wardrobe.hair[style]
                faces = torch.cat([faces, hair.faces + len(head.verts)])
                uv_faces = torch.cat([uv_faces, hair.uv_faces + len(uv)])
                uv = torch.cat([uv, hair.uv])
                if "hair" not in names:
                    names.append("hair")
                ids = torch.cat([ids, torch.full((len(hair.faces),), names.index("hair"))])
            blank = torch.full((3, 4, 4), 0.5)
            blanks = [Material(name, blank) for name in names]
            self._renderers[style] = Renderer(faces, uv, uv_faces, ids, blanks)
        return self._renderers[style]

    @torch.no_grad()
    def _posed(self, params: Params, shape: Tensor, style: str) -> Float[Tensor, "T W 3"]:
        """Posed vertices of head and hair; hair moves with the skin that it grows on."""
        posed: Posed = self.flame(params)
        if style == "none":
            return posed.verts
        hair = self.wardrobe.hair[style]
        rest = Params.zeros(1, self.flame.n_shape, self.flame.n_expression)
        still = self.flame.shaped(Params(shape, *_rest_of(rest)))[0]
        strands = attach(hair, still).expand(len(posed.verts), -1, -1)
        pose = torch.stack([params.root, params.neck, params.jaw], dim=1)
        rotations = axis_angle_to_matrix(torch.cat([pose, params.eyes], dim=1))
        # the jaw would drag locks that hang over it
        rotations[:, 2:] = torch.eye(3)
        transforms = joint_transforms(rotations, posed.joints, PARENTS)
        moved = skin(strands, transforms, hair.carry(self.flame.lbs_weights))
        return torch.cat([posed.verts, moved], dim=1)

    def _frame(self, verts: Float[Tensor, "V 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """The 68 points, the head's axes (rows right, up, forward) and the distance of the eyes."""
        marks = self.flame.landmarks68(verts[None, : len(self.flame.template)])[0]
        left, right = marks[42:48].mean(0), marks[36:42].mean(0)
        across = torch.nn.functional.normalize(left - right, dim=0)
        up = torch.nn.functional.normalize((left + right) / 2 - marks[[31, 35]].mean(0), dim=0)
        up = torch.nn.functional.normalize(up - (up @ across) * across, dim=0)
        forward = torch.linalg.cross(across, up)
        return marks, torch.stack([across, up, forward]), (left - right).norm()

    def _glasses(
        self, verts: Tensor, camera: Camera, yaw: float, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W 4"]:
        marks, axes, apart = self._frame(verts)
        angle = torch.linspace(0, 2 * torch.pi, 41)[:-1]
        power = float(rng.choice([1.0, 0.75, 0.55]))  # round to nearly square
        circle = torch.stack([angle.cos(), angle.sin()], -1)
        circle = circle.sign() * circle.abs() ** power
        half = apart * torch.tensor([rng.uniform(0.33, 0.43), rng.uniform(0.22, 0.38)]).float()
        drop, ahead = rng.uniform(-0.08, 0.03), rng.uniform(0.16, 0.24)
        rims = []
        for eye in (marks[36:42].mean(0), marks[42:48].mean(0)):
            middle = eye + apart * (drop * axes[1] + ahead * axes[2])
            middle = middle + (marks[27] - middle) @ axes[2] * 0.3 * axes[2]
            rims.append(middle + (circle * half) @ axes[:2])
        bridge = torch.stack([rims[0][0], marks[27] + 0.15 * apart * axes[2], rims[1][20]])
        temples = []
        for side, rim, ear, visible in (
            (20, rims[0], marks[0], yaw > -12),
            (0, rims[1], marks[16], yaw < 12),
        ):
            if visible:
                temples.append(torch.stack([rim[side], ear + 0.25 * apart * axes[1]]))
        return scene.draw_glasses(
            self.side,
            [self._pixels(path, camera) for path in (*rims, bridge)],
            [self._pixels(path, camera) for path in temples],
            rng,
        )

    def _hat(
        self, verts: Tensor, camera: Camera, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "H W 4"]:
        marks, axes, apart = self._frame(verts)
        middle = marks[27]
        local = (verts[: len(self.flame.template)] - middle) @ axes.T / apart
        above = (local[:, 1] > rng.uniform(0.75, 1.2)) & (local[:, 1] < 4)
        crown = local[above]
        centre = crown.mean(0)
        crown = centre + (crown - centre) * float(rng.uniform(1.06, 1.2))
        angle = torch.linspace(0, 2 * torch.pi, 32)
        low = crown[:, 1].amin()
        reach = float(rng.uniform(1.15, 1.7))
        radius = (crown.amax(0) - crown.amin(0)) / 2 * reach
        brim = torch.stack(
            [
                centre[0] + radius[0] * angle.cos(),
                low.expand(32) + 0.05 * angle.sin(),
                centre[2] + radius[2] * angle.sin(),
            ],
            -1,
        )
        if rng.random() < 0.5:  # a peak only
            brim = brim[brim[:, 2] > centre[2]]
        return scene.draw_hat(
            self.side,
            self._pixels(middle + apart * crown @ axes, camera),
            self._pixels(middle + apart * brim @ axes, camera),
            rng,
        )

    def _pixels(
        self, points: Tensor, camera: Camera
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        pixels = camera.project(points[None], (self.side, self.side))[0, :, :2]
        return pixels.double().numpy()


def matt_light(lights: Lights) -> Float[Tensor, "B 9 3"]:
    """Spherical harmonics nearest to what directional lights and sky give a matt surface.

    Least squares over 512 directions spread evenly by the golden angle.
    """
    number = torch.arange(512) + 0.5
    height = 1 - 2 * number / 512
    angle = math.pi * (1 + math.sqrt(5)) * number
    across = (1 - height.square()).sqrt()
    normals = torch.stack([across * angle.cos(), height, across * angle.sin()], -1)
    facing = torch.einsum("nc,blc->bnl", normals, lights.directions).clamp(min=0)
    received = torch.einsum("bnl,blk->bnk", facing, lights.colours)
    nearest: Tensor = torch.linalg.pinv(sh_basis(normals)) @ received
    return lights.sh + nearest


def _hair_color(rng: np.random.Generator) -> str:
    """A natural colour, seldom a dyed one."""
    dyed = [name for name in HAIR_COLORS if name in _DYED]
    natural = [name for name in HAIR_COLORS if name not in _DYED]
    return str(rng.choice(dyed if dyed and rng.random() < 0.07 else natural))


def _rest_of(params: Params) -> tuple[Tensor, ...]:
    return params.expression, params.root, params.neck, params.jaw, params.eyes


def _cloth(rng: np.random.Generator) -> Float[Tensor, "3 K K"]:
    """A shirt texture: plain, or stripes of two colours."""
    first, second = (np.array(scene.random_color(rng)) / 255 for _ in range(2))
    stripes = np.zeros((32, 32, 1))
    if rng.random() < 0.3:
        period = int(rng.choice([2, 4, 8]))
        lines = (np.arange(32) // period % 2)[:, None]
        stripes[:] = (lines if rng.random() < 0.5 else lines.T)[..., None]
    pixels = first * (1 - stripes) + second * stripes
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32).copy())


def photograph(shot: Shot, rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """The shot before a random background."""
    side = len(shot.rgba)
    below = scene.random_background(side, rng).astype(np.float32)
    alpha = shot.rgba[..., 3:].astype(np.float32) / 255
    mixed = shot.rgba[..., :3] * alpha + below * (1 - alpha)
    return np.asarray(mixed.round().clip(0, 255).astype(np.uint8))


def caption(attributes: Attributes) -> str:
    """One English sentence about a picture's person."""
    hair = attributes["hair"]
    words = f"a {attributes['expression']} person with {attributes['skin']} skin"
    words += ", no hair" if hair == "none" else f", {hair} {attributes['hair colour']} hair"
    words += f", {attributes['eyes']} eyes"
    for thing in ("glasses", "hat"):
        if attributes[thing]:
            words += f", wearing {'a hat' if thing == 'hat' else thing}"
    return words


def shots(studio: Studio, count: int, *, seed: int, takes: int = 4) -> Iterator[Shot]:
    """`count` pictures, `takes` of each person; a person depends on seed and number alone."""
    for person in range(-(-count // takes)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + person)
        yield from studio.shoot(min(takes, count - person * takes), generator=generator)


def open_studio(side: int = SIDE) -> Studio:
    """A studio with the shipped head and outfit."""
    wardrobe = make_wardrobe(load_outfit(), generator=torch.Generator().manual_seed(0))
    return Studio(load_head(), wardrobe, side)


def write_people(studio: Studio, count: int, folder: Path, *, seed: int) -> None:
    """JPEG pictures, `labels.npz` (points in pixels) and `people.jsonl` (attributes, caption)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    points, lines = [], []
    for number, shot in enumerate(shots(studio, count, seed=seed)):
        name = f"{number:06d}.jpg"
        with replacing(folder / name) as written:
            Image.fromarray(photograph(shot, rng)).save(written, "JPEG", quality=92)
        points.append(shot.points.numpy())
        record = {"file": name, **shot.attributes, "caption": caption(shot.attributes)}
        lines.append(json.dumps(record))
    with replacing(folder / "labels.npz") as written:
        np.savez_compressed(
            written,
            points=np.stack(points),
            corners=studio.points.corners.numpy(),
            bary=studio.points.bary.numpy(),
            n_landmarks=N_LANDMARKS,
        )
    with replacing(folder / "people.jsonl") as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deca.synth", description=__doc__)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels a side")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_people(open_studio(options.side), options.count, options.out, seed=options.seed)


if __name__ == "__main__":
    main()
