"""A portrait of a made-up person, as wished for: head and shoulders before a background."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from deca.synth_backdrop import draw_backdrop
from deca.synth_complexion import BEARD, HAIRS, creased, dyed
from deca.synth_light import Lamp, spread_key
from deca.synth_sitter import Sitter, body_width, draw_sitter, gaze_at_camera
from deca.synth_styles import cel, grain, luma, modelled, stylize
from deca.synth_worn import put_on
from flame.ambient_occlusion import ambient_occlusion
from flame.camera import LookAt, orbit
from flame.head import JOINT_NAMES, Head
from flame.light import Lights, directional, sh_constant, sh_sky
from flame.material import Material
from flame.model import Flame
from flame.outfit import Outfit
from flame.render import RenderConfig, Renderer
from flame.shoulders import broadened
from flame.srgb import srgb_to_linear

SIDE = 768  # px
_TEXELS = 1024
_FOV_DEG, _NEAR_FOV_DEG = 18.0, 46.0
_NECK, _HEAD = JOINT_NAMES.index("neck"), JOINT_NAMES.index("head")
_EYES = slice(JOINT_NAMES.index("leftEye"), JOINT_NAMES.index("rightEye") + 1)
_NECK_SHARE = 0.35  # of a turn
_MOUTH_GLOW = 0.28
_TINTS = {"warm": (1.16, 1.0, 0.78), "cool": (0.84, 0.97, 1.18), "": (1.03, 1.0, 0.96)}
_LEVELS = {"dim": 0.48, "bright": 1.6, "": 1.0}
_FROM = {"the left": (-0.75, 0.55, 0.8), "the right": (0.75, 0.55, 0.8),
         "the front": (0.08, 0.35, 1.0), "above": (0.1, 1.0, 0.45)}  # fmt: skip
# power of key, fill, rim and sky, and the tangent of half the key's breadth
_KINDS = {"even": (0.32, 0.12, 0.15, 0.78, 0.6), "soft": (0.82, 0.20, 0.35, 0.42, 0.35),
          "hard": (1.15, 0.06, 0.45, 0.22, 0.0)}  # fmt: skip
# where a face's skin looks, and what light of the usual kind amounts to on it
_SKIN = ((0.0, 0.0, 1.0), (0.64, 0.0, 0.77), (-0.64, 0.0, 0.77), (0.0, 0.4, 0.92),
         (0.0, -0.4, 0.92))  # fmt: skip
_METERED, _COMPENSATED = 0.97, 0.6


@dataclass(frozen=True, eq=False)
class Layers:
    """One sitting: the picture and what drawing it in other styles needs; sRGB 0..1."""

    image: Float[Tensor, "1 3 S S"]
    bare: Float[Tensor, "1 3 S S"]  # without what is put on the face: glasses and hats
    unlit: Float[Tensor, "1 3 S S"]  # colours alone, of the person
    lit: Float[Tensor, "1 3 S S"]  # light alone, on white
    alpha: Float[Tensor, "1 1 S S"]  # of the person
    sitter: Sitter
    beard: Float[Tensor, "3 K K"] | None  # ln of linear albedo, with over without

    def styled(self) -> Float[Tensor, "1 3 S S"]:
        """The picture in the sitter's style, drawn from light and colours where that is better."""
        style = str(self.sitter.wish.style)
        if style == "anime":
            return cel(self.unlit, self.lit, self.alpha, self.image)
        if style == "clay":
            light = luma(self.lit).clamp(0, 1) ** 1.7
            thumb = grain(*light.shape[-2:], 3.0, 41) * 0.012
            return modelled((0.06 + 0.84 * light + thumb) * self.alpha + 0.17 * (1 - self.alpha))
        return stylize(self.image, style)


class PortraitStudio:
    """Makes portraits of one head model and outfit."""

    def __init__(self, flame: Flame, outfit: Outfit, side: int = SIDE) -> None:
        if not 64 <= side <= 2048:
            raise ValueError(f"side={side} must be from 64 to 2048 pixels")
        self.flame, self.outfit, self.side = flame, outfit, side

    @torch.no_grad()
    def shoot(self, wish: Wish, *, generator: torch.Generator) -> Layers:
        """A portrait of a wish; what it leaves open depends on the generator's state alone."""
        sitter = draw_sitter(wish, self.flame, self.outfit.albedo, generator=generator)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        settled = sitter.wish
        head, materials = self._dressed(sitter, generator)
        marks = self.flame.landmarks68(head.verts[None, : len(self.flame.template)])[0]
        worn_head, worn = put_on(head, marks, settled)
        rotations = turned_joints(sitter.turn_deg)
        yaw, pitch, _ = sitter.turn_deg
        weights = gaze_at_camera(sitter.weights, yaw, pitch)[None]
        verts = worn_head.pose(weights, rotations)
        sky = openness(worn_head)
        camera = _camera(head, verts[0], near=bool(settled.near))
        verts = broadened(verts, worn_head, body_width(settled))
        lights, shadow = portrait_lights(settled)
        size = (self.side, self.side)
        # photographers expose for the skin
        tone = float(self.outfit.albedo.tone(sitter.albedo).square().mean())
        exposure = min(max((0.28 / tone) ** 0.22, 0.8), 1.3)
        config = RenderConfig(shadow, exposure)
        noise = 0.045 * torch.randn(1, 1, *size, generator=generator) * bool(settled.grain)
        backdrop = draw_backdrop(settled, self.side, rng)[None]
        renderer = Renderer.of_head(worn_head, (*materials, *worn), config)
        drawn = renderer(verts, camera, lights, size, supersample=2, occlusion=sky)
        image = (over(drawn, backdrop) + noise).clamp(0, 1)
        bare = image
        if worn:
            bald = Renderer.of_head(head, materials, config)(
                verts[:, : len(head.verts)], camera, lights, size, supersample=2,
                occlusion=openness(head),
            )  # fmt: skip
            bare = (over(bald, backdrop) + noise).clamp(0, 1)
        unlit, lit = colour_and_light(
            renderer, (*materials, *worn), verts, camera, lights, size, sky, shadow=shadow,
            supersample=2,
        )  # fmt: skip
        return Layers(
            image, bare, over(unlit, backdrop), over(lit, torch.ones_like(backdrop)),
            drawn[:, 3:], sitter, self._beard(sitter),
        )  # fmt: skip

    def _dressed(
        self, sitter: Sitter, generator: torch.Generator
    ) -> tuple[Head, tuple[Material, ...]]:
        wish = sitter.wish
        head = self.flame.head(sitter.shape)
        style = None if wish.hair == "none" else str(wish.hair)
        if style is not None:
            head = self.outfit.wear_hair(head, style)
        first = CLOTH[str(wish.clothes_color)]
        materials = self.outfit.materials(
            self._skin(sitter),
            str(wish.eyes),
            hair=style,
            hair_color=str(wish.hair_color),
            shirt_color=(first[0] / 255, first[1] / 255, first[2] / 255),
            generator=generator,
        )
        named = {material.name: material for material in materials}
        if wish.stripes:
            named["shirt"] = striped(named["shirt"], CLOTH[wish.stripes])
        named["skin"] = creased(named["skin"], sitter, self.flame, generator=generator)
        return head, tuple(named.values())

    def _skin(self, sitter: Sitter) -> Float[Tensor, "3 K K"]:
        """The albedo, with brows and beard toward the hair's colour."""
        return dyed(sitter, self.outfit.albedo, HAIRS, self._decode)[0]

    def _beard(self, sitter: Sitter) -> Float[Tensor, "3 K K"] | None:
        if not sitter.wish.beard:
            return None
        with_and_without = dyed(sitter, self.outfit.albedo, BEARD, self._decode)
        skin, smooth = (srgb_to_linear(image) for image in with_and_without)
        return (skin.clamp(min=1e-3) / smooth.clamp(min=1e-3)).log()

    def _decode(self, codes: Float[Tensor, "1 A"]) -> Float[Tensor, "3 K K"]:
        return self.outfit.albedo.decode(codes, _TEXELS)[0]


def colour_and_light(
    renderer: Renderer,
    materials: Sequence[Material],
    verts: Float[Tensor, "1 V 3"],
    camera: LookAt,
    lights: Lights,
    size: tuple[int, int],
    sky: Float[Tensor, " V"],
    *,
    shadow: int,
    supersample: int = 1,
) -> tuple[Float[Tensor, "1 4 H W"], Float[Tensor, "1 4 H W"]]:
    """What drawings are made from: a head's colours without light, and light on it in white."""
    plain = Lights(sh_constant(torch.ones(1, 3)), torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
    unlit = renderer.with_materials(materials).with_config(RenderConfig(0, tone="linear"))(
        verts, camera, plain, size, supersample=supersample
    )
    white = [
        dataclasses.replace(
            material,
            base_color=torch.cat([
                torch.full_like(material.base_color[:3], 0.9), material.base_color[3:]
            ]),
            roughness=0.9,
        )
        for material in materials
    ]  # fmt: skip
    lit = renderer.with_materials(white).with_config(RenderConfig(shadow, tone="linear"))(
        verts, camera, lights, size, supersample=supersample, occlusion=sky
    )
    return unlit, lit


def portrait_lights(wish: Wish) -> tuple[Lights, int]:
    """The light of a settled wish, and the side of its shadow map."""
    key, fill, rim, sky, breadth = _KINDS[str(wish.light_kind)]
    level = _LEVELS[str(wish.light_level)]
    tint = torch.tensor(_TINTS[str(wish.light_tint)])
    toward = torch.tensor(_FROM[str(wish.light_from)])
    across = torch.tensor([-1.0, 1.0, 1.0])
    directions = torch.stack(
        [
            toward,
            toward * across * torch.tensor([1.2, 0.1, 0.6]),
            torch.tensor([-0.7 * float(toward[0].sign() or 1), 0.5, -1.2]),
        ]
    )
    colours = torch.stack([key * tint, fill * (2 - tint), rim * torch.tensor([1.0, 1.02, 1.06])])
    ambient = sh_sky(
        (1.15 * sky * tint)[None], (0.55 * sky * torch.tensor([1.05, 1.0, 0.95]))[None],
        torch.full((1, 3), 0.22 * sky),
    )  # fmt: skip
    level *= _exposed(directions, (key, fill), sky)
    lights = directional(directions[None], level * colours[None], level * ambient)
    if breadth == 0:
        return lights, 640
    return spread_key(lights, Lamp(breadth, breadth)), 128


def _exposed(directions: Float[Tensor, "N 3"], power: tuple[float, ...], sky: float) -> float:
    """How much longer than usual a face in this light is exposed: it is not all made up for."""
    reached = F.normalize(directions, dim=-1)[: len(power)] @ torch.tensor(_SKIN).T
    metered = torch.tensor(power) @ reached.clamp(min=0).mean(1) + 0.9 * sky
    return math.pow(_METERED / float(metered), _COMPENSATED)


def over(drawn: Float[Tensor, "1 4 S S"], below: Float[Tensor, "1 3 S S"]) -> Tensor:
    """Straight alpha over a background, [1, 3, S, S]."""
    return drawn[:, :3] * drawn[:, 3:] + below * (1 - drawn[:, 3:])


def turned_joints(turn_deg: tuple[float, float, float]) -> Float[Tensor, "1 J 3"]:
    """Joint rotations that share a turn (viewer's right, up, roll) between neck and head."""
    yaw, pitch, roll = (math.radians(value) for value in turn_deg)
    axis = torch.tensor([-pitch, yaw, -roll])
    rotations = torch.zeros(1, len(JOINT_NAMES), 3)
    rotations[0, _NECK], rotations[0, _HEAD] = _NECK_SHARE * axis, (1 - _NECK_SHARE) * axis
    return rotations


def _camera(head: Head, verts: Float[Tensor, "V 3"], *, near: bool) -> LookAt:
    """Head and a piece of the shoulders, the eyes a little above the middle."""
    eyes, low, high = head.joints[_EYES].mean(0), head.verts.amin(0), head.verts.amax(0)
    above = 1.18 * float(high[1] - eyes[1])
    below = min(1.34 * above, 0.97 * float(eyes[1] - low[1]))
    fov = _NEAR_FOV_DEG if near else _FOV_DEG
    extent = (above + below) / 2
    y, z = float(eyes[1]) + (above - below) / 2, float(low[2] + high[2]) / 2
    distance = extent / math.tan(math.radians(fov) / 2)
    # half of the way to where the turned face went
    x = 0.5 * float(verts[: len(head.verts)].amax(0)[0] + verts.amin(0)[0]) / 2
    return orbit(torch.tensor([0.0]), 0.0, distance, (x, y, z), fov)


def openness(head: Head) -> Float[Tensor, " V"]:
    """The share of the sky that each vertex sees; the inside of a mouth glows a little."""
    faces, _, ids = head.triangles()
    sky = ambient_occlusion(head.verts, faces, directions=24)
    if "mouth" not in head.material_names:
        return sky
    inside = torch.unique(faces[ids == head.material_names.index("mouth")])
    sky = sky.clone()
    sky[inside] = _MOUTH_GLOW + (1 - _MOUTH_GLOW) * sky[inside]
    return sky


def striped(cloth: Material, second: tuple[int, int, int]) -> Material:
    """Every other eighth of the cloth in a second colour."""
    base = cloth.base_color
    side = base.shape[-1]
    stripe = (torch.arange(side) * 16 // side % 2 == 1)[None, :, None].expand(1, side, side)
    shade = base.mean(0, keepdim=True) / base.mean().clamp(min=1e-3)
    other = (torch.tensor(second)[:, None, None] / 255 * shade).clamp(0, 1)
    return dataclasses.replace(cloth, base_color=torch.where(stripe, other, base))
