"""Pictures of random people with exact labels: what the landmark network is trained on.

`python -m deca.synth --count 100 --out out/people --seed 0` writes pictures and their labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from deca import synth_scene as scene
from deca.codes import Codes
from deca.landmark_points import LandmarkPoints, landmark_points
from deca.synth_dress import Dressed, dress
from deca.synth_light import draw_lamp, matt_light, shadow_side, spread_key
from deca.synth_parts import (
    BROWS,
    GLASSES,
    HAT,
    LIPS,
    OCCLUDER,
    SKIN,
    Cover,
    PartView,
    lip_texels,
    visible_parts,
)
from deca.synth_people import FREE_SHARE, draw_camera, draw_face, draw_lights, draw_shape, draw_turn
from deca.synth_props import Sitter
from deca.synth_skin import SKIN_SIDE, Skins
from deca.synth_wardrobe import Wardrobe, make_wardrobe
from deca.synth_words import Attributes, color_word, light_word, pose_word
from flame.hair import attach
from flame.hair_texture import hair_material
from flame.head import Head
from flame.load import load_head
from flame.material import Material
from flame.model import PARENTS, Flame, Posed, joint_transforms, skin
from flame.outfit import load_outfit
from flame.params import Params, params_from_arkit
from flame.render import RenderConfig, Renderer
from flame.rotation import axis_angle_to_matrix

__all__ = ["SIDE", "Shot", "Studio", "matt_light", "open_studio", "shots"]

SIDE = 176  # px
VIEW = 2.0  # the picture's side over the bounding square of the face's points
_BEHIND_DEG = 75.0  # yaw from which glasses would lie over the hair
_NEAR_M = 0.38  # from the face to the eye: what a picture at arm's length has


@dataclass(frozen=True, eq=False)
class Shot:
    """One picture of one person; outside the person it is transparent."""

    rgba: UInt8[np.ndarray, "H W 4"]
    points: Float[Tensor, "L 2"]  # px, in the order of LandmarkPoints
    codes: Codes  # of one portrait; the light is what reaches a matt surface
    attributes: Attributes  # words for captions, and the head's turn in degrees
    parts: UInt8[np.ndarray, "H W"]  # index into deca.synth_parts.PARTS


class Studio:
    """Photographs random people; the same generator state gives the same pictures."""

    def __init__(
        self,
        flame: Flame,
        wardrobe: Wardrobe,
        side: int = SIDE,
        view: float = VIEW,
        free_share: float = FREE_SHARE,
    ) -> None:
        self.flame = flame
        self.wardrobe = wardrobe
        self.side = side
        self.view = view
        self._free_share = free_share  # of the faces, whose expression is no mood
        self.points: LandmarkPoints = landmark_points(flame)
        self._head = flame.head(torch.zeros(flame.n_shape))
        self._skins = Skins(wardrobe.albedo)
        self._lips = lip_texels(flame, SKIN_SIDE)
        self._meshes: dict[str, tuple[Renderer, PartView]] = {}

    def shoot(
        self,
        takes: int,
        *,
        generator: torch.Generator,
        turns: Float[Tensor, "T 3"] | None = None,
    ) -> list[Shot]:
        """`takes` pictures of one new person, each with its own face, turn, light and camera.

        Yaw, pitch and roll, degrees, are `turns` if given, up to the back of the head.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        shape = draw_shape(1, self.flame.n_shape, generator=generator)
        # what came later draws from a stream of its own, so that older draws stay as they were
        more = rng.spawn(1)[0]
        person = dress(self.wardrobe, self._skins, rng, generator)
        faces = [draw_face(free_share=self._free_share, generator=generator) for _ in range(takes)]
        if turns is None:
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
        verts = self._posed(params, shape, str(person.words["hair"]))
        renderer, part_view = self._mesh(str(person.words["hair"]))
        renderer = renderer.with_materials(person.materials)
        found = []
        for take in range(takes):
            words = {**person.words, "expression": faces[take].word}
            words |= {
                name: round(float(value), 1)
                for name, value in zip(("yaw", "pitch", "roll"), turns[take], strict=True)
            }
            found.append(
                self._take(
                    verts[take],
                    params[take : take + 1],
                    person,
                    words,
                    renderer,
                    part_view,
                    rng,
                    generator,
                    more,
                )
            )
        return found

    def _take(
        self,
        verts: Float[Tensor, "V 3"],
        params: Params,
        person: Dressed,
        words: Attributes,
        renderer: Renderer,
        part_view: PartView,
        rng: np.random.Generator,
        generator: torch.Generator,
        more: np.random.Generator,
    ) -> Shot:
        head = verts[: len(self.flame.template)]
        in_space = self.points.on(head[None])
        camera = draw_camera(in_space[0], self.view, generator=generator)
        lamp = draw_lamp(more)
        lights = spread_key(draw_lights(generator=generator), lamp)
        size = (self.side, self.side)
        # shadows cost a third of the time
        shadows = shadow_side(lamp) if rng.random() < 0.5 else 0
        exposure = float(np.exp(rng.uniform(-0.2, 0.7)))
        renderer = renderer.with_config(RenderConfig(shadows, exposure))
        image = renderer(verts[None], camera, lights, size)[0]
        rgba = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        points = camera.project(in_space, size)[0, :, :2]
        on_skin = np.where(self._lips, LIPS, np.where(person.brows, BROWS, SKIN)).astype(np.uint8)
        cover = Cover(part_view.labels(verts, camera, size, on_skin), rgba[..., 3])
        words |= {"pose": pose_word(*(float(words[name]) for name in ("yaw", "pitch", "roll")))}
        words["light"] = light_word(lights, lamp.breadth, exposure)
        away = float(camera.depth(in_space).mean())
        words["distance"] = round(away, 2)
        words["view"] = "seen from very near" if away < _NEAR_M else ""
        sitter = Sitter(head, self.flame.landmarks68(head[None])[0], camera, self.side)
        if words["hat"]:
            layer, colour = sitter.hat(rng)
            words["hat colour"] = color_word(colour)
            rgba = _lay(rgba, layer, cover, HAT)
        if words["glasses"]:
            layer, dark = sitter.glasses(float(words["yaw"]), rng)
            words["glasses"] = abs(float(words["yaw"])) < _BEHIND_DEG
            if words["glasses"]:
                words["sunglasses"] = dark
                rgba = _lay(rgba, layer, cover, GLASSES)
        if rng.random() < 0.12:
            layer, words["occluder"] = scene.draw_occluder(self.side, person.tone, rng)
            rgba = _lay(rgba, layer, cover, OCCLUDER)
        parts = cover.labels(rgba[..., 3])
        words["visible"] = visible_parts(parts)
        codes = Codes(params, person.albedo, camera, matt_light(lights) * exposure)
        return Shot(rgba, points, codes, words, parts)

    def _mesh(self, style: str) -> tuple[Renderer, PartView]:
        """A renderer of the head and one hair style, in placeholder materials, and its parts."""
        if style not in self._meshes:
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
            blanks = [
                hair_material(self.wardrobe.hair[style].texture, "brown")
                if name == "hair"
                else Material(name, blank, alpha_mode="BLEND" if name == "lashes" else "OPAQUE")
                for name in names
            ]
            self._meshes[style] = (
                Renderer(faces, uv, uv_faces, ids, blanks),
                PartView(faces, uv, uv_faces, ids, blanks),
            )
        return self._meshes[style]

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


def _lay(
    below: UInt8[np.ndarray, "H W 4"], layer: UInt8[np.ndarray, "H W 4"], cover: Cover, label: int
) -> UInt8[np.ndarray, "H W 4"]:
    cover.lay(layer, label)
    return scene.over(below, layer)


def _rest_of(params: Params) -> tuple[Tensor, ...]:
    return params.expression, params.root, params.neck, params.jaw, params.eyes


def shots(studio: Studio, count: int, *, seed: int, takes: int = 4) -> Iterator[Shot]:
    """`count` pictures, `takes` of each person; a person depends on seed and number alone."""
    for person in range(-(-count // takes)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + person)
        yield from studio.shoot(min(takes, count - person * takes), generator=generator)


def open_studio(side: int = SIDE, view: float = VIEW, free_share: float = FREE_SHARE) -> Studio:
    """A studio with the shipped head and outfit, for pictures `view` times as wide as a face."""
    wardrobe = make_wardrobe(load_outfit(), generator=torch.Generator().manual_seed(0))
    return Studio(load_head(), wardrobe, side, view, free_share)


if __name__ == "__main__":
    from deca.synth_write import main

    main()
