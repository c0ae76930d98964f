"""Portraits of made-up people with prompts that fit them, ten times as fast as PortraitStudio.

`python -m deca.synth_captioned --count 100 --out out/people --seed 0` writes pictures, captions
and all that is known of each: what the portrait model is trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from assets.files import replacing
from assets.image import write_image
from deca.conditions import HeadView, face_condition
from deca.prompt_colors import CLOTH
from deca.prompt_wish import Wish
from deca.synth import Studio, open_studio
from deca.synth_backdrop import draw_backdrop, lit
from deca.synth_captions import draw_caption
from deca.synth_complexion import HAIRS, creased, dyed
from deca.synth_portrait import (
    colour_and_light,
    openness,
    over,
    portrait_lights,
    striped,
    turned_joints,
)
from deca.synth_props import Sitter as Props
from deca.synth_scene import over as lay
from deca.synth_sitter import Sitter, body_width, draw_sitter, gaze_at_camera
from deca.synth_skin import Skins
from deca.synth_styles import cel, stylize
from deca.synth_wishes import PLACES, draw_person, draw_take
from deca.synth_worn import put_on
from flame.camera import LookAt, orbit
from flame.hair_texture import hair_material
from flame.head import Head
from flame.light import Lights
from flame.material import Material
from flame.outfit import Outfit, load_outfit, to_floats
from flame.paint_cloth import paint_shirt
from flame.params import params_from_arkit
from flame.render import RenderConfig, Renderer
from flame.shoulders import broadened

log = logging.getLogger(__name__)

SIDE = 256  # px, usually
CONDITIONS = "conditions"  # the folder below that of the pictures
FOV_DEG = 18.0
# in distances from the eyes to the chin: half a picture's side, how far its middle is below the
# eyes, and how much of what is worn is seen below its highest point
HALF, BELOW = 1.45, 0.32
_WORN = 0.4
_ASIDE = 0.08  # deviation of the middle across, in the same
_SHOWN = (SIDE, SIDE)
_FINER = 2  # samples a pixel each way
_CLOTH_SIDE = 256  # texels
_NECK_LIMIT = 0.6  # rad; the body turns the rest
_POOL = 16  # pictures of each place
_LIGHTER, _WARMER = 0.09, 0.04  # shares by which hair and clothes differ from their names
_FILTERED = ("oil", "pencil", "watercolour", "clay", "neon")


@dataclass(frozen=True, eq=False)
class Shown:
    """What a ControlNet is shown of a head, in SIDE pixels whatever the picture has."""

    condition: Float[Tensor, "1 3 S S"]  # deca.conditions.face_condition
    points: Float[Tensor, "68 2"]  # px


@dataclass(frozen=True, eq=False)
class Captioned:
    """One portrait and prompts for it."""

    image: Float[Tensor, "1 3 S S"]
    wish: Wish  # every field is settled
    captions: tuple[str, ...]
    shown: Shown | None = None  # where conditions are asked for


@dataclass(frozen=True, eq=False)
class _Stand:
    """A sitter as a mesh before the camera."""

    head: Head  # at rest, whose triangles they are
    worn: tuple[Material, ...]  # of a hat; drawn hats would be flat
    verts: Float[Tensor, "1 V 3"]
    marks: Float[Tensor, "68 3"]
    level: Float[Tensor, "68 3"]  # the same before the head turned


class CaptionedStudio:
    """Portraits of random wishes, heads with their necks, framed alike.

    Closer than usual: a face must be many of a small model's latents wide to have eyes.
    Pictures have `side` pixels a side.
    """

    def __init__(
        self,
        studio: Studio,
        outfit: Outfit,
        *,
        seed: int = 0,
        side: int = SIDE,
        conditions: bool = False,
        pool: int = _POOL,
    ) -> None:
        """`pool` is how many pictures of each place there are; 0 draws one for each portrait."""
        self.studio, self.outfit = studio, outfit
        self.side, self.conditions = side, conditions
        self._texels = _FINER * side
        self._skins = Skins(outfit.albedo, self._texels)
        self._bumps = _resized(to_floats(outfit.skin_normal), self._texels)
        self._gloss = _resized(to_floats(outfit.skin_roughness), self._texels)
        rng = np.random.default_rng(seed)
        self._places = {
            kind: [
                draw_backdrop(
                    Wish(background=kind, background_color="grey", blurred=True), side * 3 // 2, rng
                )
                for _ in range(pool)
            ]
            for kind in PLACES
        }

    @torch.no_grad()
    def shoot(
        self, captions: int, *, takes: int = 2, generator: torch.Generator
    ) -> Iterator[Captioned]:
        """Pictures of one new person: as it looks unless it is anime, and often in a style."""
        seed = int(torch.randint(2**62, (), generator=generator))
        rng = np.random.default_rng(seed)
        person = draw_person(rng)
        for _ in range(takes):
            wish = draw_take(person, rng)
            style = "anime" if rng.random() < 0.14 else str(rng.choice(_FILTERED))
            wish = dataclasses.replace(wish, style="anime" if style == "anime" else "realistic")
            taken = self.portrait(wish, rng, torch.Generator().manual_seed(seed))
            styles = [style] if rng.random() < 0.6 or style == "anime" else []
            for each in styles if style == "anime" else ["realistic", *styles]:
                told = dataclasses.replace(taken.wish, style=each)
                words = tuple(draw_caption(told, rng) for _ in range(captions))
                image = taken.image if each == wish.style else stylize(taken.image, each)
                yield Captioned(image, told, words, taken.shown)

    def portrait(
        self, wish: Wish, rng: np.random.Generator, generator: torch.Generator
    ) -> Captioned:
        """One portrait of a wish, in its style, without captions."""
        sitter = draw_sitter(wish, self.studio.flame, self.outfit.albedo, generator=generator)
        stand = self._posed(sitter)
        camera, size = _framed(stand, rng), (self.side, self.side)
        lights, shadow = portrait_lights(sitter.wish)
        lights, shadow = _jittered(lights, rng), min(shadow, 256)
        tone = float(self.outfit.albedo.tone(sitter.albedo).square().mean())
        exposure = min(max((0.28 / tone) ** 0.22, 0.8), 1.3) * float(rng.uniform(0.93, 1.08))
        config = RenderConfig(shadow, exposure)
        materials = [*self._materials(sitter, rng, generator), *stand.worn]
        if stand.worn:
            renderer, sky = Renderer.of_head(stand.head, materials, config), openness(stand.head)
        else:
            renderer = self.studio._mesh(str(sitter.wish.hair))[0].with_materials(materials)
            renderer, sky = renderer.with_config(config), self._openness(str(sitter.wish.hair))
        drawn = renderer(stand.verts, camera, lights, size, supersample=_FINER, occlusion=sky)
        backdrop = self._backdrop(sitter.wish, rng)
        if sitter.wish.style == "anime":
            flat, light = colour_and_light(
                renderer, materials, stand.verts, camera, lights, size, sky, shadow=shadow,
                supersample=_FINER,
            )  # fmt: skip
            white = torch.ones_like(backdrop)
            layers = (over(flat, backdrop), over(light, white), drawn[:, 3:], over(drawn, backdrop))
            drawn = torch.cat([cel(*layers), white[:, :1]], dim=1)
        drawn, wish = _with_glasses(drawn, sitter, stand, camera, rng)
        image = over(drawn, backdrop).clamp(0, 1)
        if wish.style != "anime":
            image = stylize(image, str(wish.style))
        if not self.conditions:
            return Captioned(image, wish, ())
        seen = HeadView.of(stand.head, materials, stand.verts, camera, _SHOWN, samples=1)
        points = camera.project(stand.marks[None], _SHOWN)[0, :, :2]
        return Captioned(image, wish, (), Shown(face_condition(seen, points), points))

    def _posed(self, sitter: Sitter) -> _Stand:
        flame, hair = self.studio.flame, str(sitter.wish.hair)
        yaw, pitch, roll = sitter.turn_deg
        weights = gaze_at_camera(sitter.weights, yaw, pitch)
        params = params_from_arkit(sitter.shape[None], weights[None])
        turn = torch.deg2rad(torch.tensor([[-pitch, yaw, -roll]]))
        neck = turn.clamp(-_NECK_LIMIT, _NECK_LIMIT)
        params.neck.copy_(neck)
        params.root.copy_(turn - neck)
        level = flame.landmarks68(flame.shaped(params))[0]
        worn: tuple[Material, ...] = ()
        if sitter.wish.hat:
            head, worn = self._with_hat(sitter)
            verts = head.pose(weights[None], turned_joints(sitter.turn_deg))
        else:
            head = self._worn(hair)
            verts = self.studio._posed(params, sitter.shape[None], hair)
        marks = flame.landmarks68(verts[:, : len(flame.template)])[0]
        return _Stand(head, worn, broadened(verts, head, body_width(sitter.wish)), marks, level)

    def _backdrop(self, wish: Wish, rng: np.random.Generator) -> Float[Tensor, "1 3 S S"]:
        pool = self._places.get(str(wish.background))
        if pool is None:
            return draw_backdrop(wish, self.side, rng)[None]
        if pool:
            picture = pool[int(rng.integers(len(pool)))][None]
        else:
            usual = dataclasses.replace(wish, light_level="")
            picture = draw_backdrop(usual, self.side * 3 // 2, rng)[None]
        side = int(rng.integers(self.side, picture.shape[-1] + 1))
        # the horizon stays about where it is
        top = (picture.shape[-1] - side) // 2
        left = int(rng.integers(0, picture.shape[-1] - side + 1))
        picture = picture[..., top : top + side, left : left + side]
        if rng.random() < 0.5:
            picture = picture.flip(-1)
        resized: Tensor = F.interpolate(
            picture, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False
        )
        return lit(resized * float(rng.uniform(0.85, 1.1)), wish)

    def _materials(
        self, sitter: Sitter, rng: np.random.Generator, generator: torch.Generator
    ) -> list[Material]:
        wish, wardrobe = sitter.wish, self.studio.wardrobe
        eyes = wardrobe.eyes[str(wish.eyes)]
        lashes = wardrobe.lashes[-2 if wish.gender == "woman" else 0]
        made = [
            self._skin(sitter, float(rng.uniform(0.85, 1.2)), generator),
            Material("eyes", eyes[int(rng.integers(len(eyes)))], roughness=0.15),
            Material("lashes", lashes, alpha_mode="BLEND", double_sided=True),
            Material("mouth", wardrobe.mouth * float(rng.uniform(0.8, 1.0)), double_sided=True),
            _toned(_cloth(str(wish.clothes_color), str(wish.stripes)), rng),
        ]
        if wish.hair != "none":
            made.append(_toned(self._hair(str(wish.hair), str(wish.hair_color)), rng))
        return made

    def _skin(self, sitter: Sitter, gloss: float, generator: torch.Generator) -> Material:
        albedo = dyed(sitter, self.outfit.albedo, HAIRS, self._skins.decode)[0]
        skin = Material("skin", albedo, self._bumps, (gloss * self._gloss).clamp(0, 1))
        return creased(skin, sitter, self.studio.flame, generator=generator)

    @lru_cache(maxsize=8)  # noqa: B019  (studios live as long as the program)
    def _hair(self, style: str, color: str) -> Material:
        return hair_material(self._strands(style), color)

    @lru_cache(maxsize=8)  # noqa: B019
    def _strands(self, style: str) -> Float[Tensor, "2 K K"]:
        return _resized(self.outfit.hair[style].texture, self._texels)

    @lru_cache(maxsize=8)  # noqa: B019
    def _worn(self, style: str) -> Head:
        """The mean head in a hair style."""
        flame = self.studio.flame
        head = flame.head(torch.zeros(flame.n_shape))
        return head if style == "none" else self.outfit.wear_hair(head, style)

    def _with_hat(self, sitter: Sitter) -> tuple[Head, tuple[Material, ...]]:
        """The sitter's head in hair and a hat, and the hat's materials."""
        flame = self.studio.flame
        head = flame.head(sitter.shape)
        marks = flame.landmarks68(head.verts[None, : len(flame.template)])[0]
        if sitter.wish.hair != "none":
            head = self.outfit.wear_hair(head, str(sitter.wish.hair))
        return put_on(head, marks, dataclasses.replace(sitter.wish, glasses=""))

    @lru_cache(maxsize=8)  # noqa: B019
    def _openness(self, style: str) -> Float[Tensor, " V"]:
        return openness(self._worn(style))


def _with_glasses(
    drawn: Float[Tensor, "1 4 S S"],
    sitter: Sitter,
    stand: _Stand,
    camera: LookAt,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "1 4 S S"], Wish]:
    """A picture with the glasses of a sitter, if any, and the wish that it shows then."""
    wish = sitter.wish
    rgba = (drawn[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    if wish.glasses:
        props = Props(stand.verts[0], stand.marks, camera, drawn.shape[-1])
        # spectacles come dark or clear by chance
        for _ in range(40):
            layer, dark = props.glasses(sitter.turn_deg[0], rng)
            if dark == (wish.glasses == "sunglasses"):
                break
        wish = dataclasses.replace(wish, glasses="sunglasses" if dark else "glasses")
        rgba = lay(rgba, layer)
    return torch.from_numpy(rgba.astype(np.float32) / 255).permute(2, 0, 1)[None], wish


def _framed(stand: _Stand, rng: np.random.Generator) -> LookAt:
    """Head, neck and shoulders, the eyes above the middle, with a little play."""
    rest, shirt = stand.level, stand.head.material_names.index("shirt")
    worn = stand.head.polygons[stand.head.material_ids == shirt]
    eyes = rest[36:48].mean(0)
    unit = float(eyes[1] - rest[8, 1])
    shoulders = float(eyes[1] - stand.verts[0, worn[worn >= 0], 1].max())
    above = (HALF - BELOW) * unit
    under = max((HALF + BELOW) * unit, shoulders + _WORN * unit)  # children have thin long necks
    half = 0.5 * (above + under) * float(rng.uniform(0.94, 1.1))
    # half of the way to where the turned face went
    x = 0.5 * float(stand.marks[36:48, 0].mean()) + _ASIDE * unit * float(rng.normal())
    y = float(eyes[1]) + 0.5 * (above - under) + 0.5 * _ASIDE * unit * float(rng.normal())
    distance = half / float(np.tan(np.deg2rad(FOV_DEG) / 2))
    return orbit(torch.tensor([0.0]), 0.0, distance, (x, y, float(rest[:, 2].mean())), FOV_DEG)


def _jittered(lights: Lights, rng: np.random.Generator) -> Lights:
    """The same lights from a little aside."""
    shift = torch.from_numpy(rng.normal(0, 0.12, 3).astype(np.float32))
    directions = F.normalize(lights.directions + shift, dim=-1)
    return dataclasses.replace(lights, directions=directions)


@lru_cache(maxsize=64)
def _cloth(color: str, stripes: str) -> Material:
    red, green, blue = (value / 255 for value in CLOTH[color])
    base, knit = paint_shirt((red, green, blue), size=_CLOTH_SIDE)
    cloth = Material("shirt", base, knit, roughness=0.9, double_sided=True)
    return striped(cloth, CLOTH[stripes]) if stripes else cloth


def _toned(material: Material, rng: np.random.Generator) -> Material:
    """A little lighter or darker, warmer or cooler: no two blondes are the same."""
    warm = float(rng.uniform(-_WARMER, _WARMER))
    tone = float(rng.uniform(1 - _LIGHTER, 1 + _LIGHTER)) * torch.tensor([1 + warm, 1, 1 - warm])
    colour = torch.cat([
        (material.base_color[:3] * tone[:, None, None]).clamp(0, 1), material.base_color[3:]
    ])  # fmt: skip
    return dataclasses.replace(material, base_color=colour)


def _resized(image: Float[Tensor, "C K K"], side: int) -> Tensor:
    if side > image.shape[-1]:
        return image
    return F.interpolate(image[None], (side, side), mode="area")[0]


def write_portraits(
    studio: CaptionedStudio, count: int, folder: Path, *, seed: int, captions: int = 4
) -> None:
    """At least `count` JPEG pictures, and captions.jsonl with a line for each.

    A line's `caption` is its first caption, `captions` are all, `wish` is what the picture shows,
    `condition` the PNG below the folder of what the studio makes for a ControlNet, `landmarks` the
    68 points, px.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    person = 0

    def keep() -> None:
        with replacing(folder / "captions.jsonl") as written:
            written.write_text("\n".join(lines) + "\n", encoding="utf-8")

    while len(lines) < count:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + person)
        for found in studio.shoot(captions, generator=generator):
            name = f"{seed:03d}-{len(lines):06d}.jpg"
            pixels: NDArray[np.uint8] = (
                (found.image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            )
            with replacing(folder / name) as written:
                Image.fromarray(pixels).save(written, "JPEG", quality=94)
            row = {"file": name, "caption": found.captions[0], "captions": found.captions}
            if found.shown is not None:
                row["condition"] = f"{CONDITIONS}/{Path(name).stem}.png"
                row["landmarks"] = found.shown.points.round(decimals=2).tolist()
                write_image(folder / str(row["condition"]), found.shown.condition)
            lines.append(json.dumps({**row, "person": person, "wish": found.wish.named()}))
        person += 1
        if person % 50 == 0:
            log.info("%d pictures", len(lines))
            keep()
    keep()


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deca.synth_captioned",
        description="Write portraits of made-up people with captions.",
    )
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captions", type=int, default=4, help="of each picture")
    parser.add_argument(
        "--conditions", action="store_true", help="write normals with landmarks of each head too"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.count < 1:
        parser.error(f"--count is {options.count}; give 1 or more")
    studio = CaptionedStudio(
        open_studio(SIDE), load_outfit(), seed=0, conditions=options.conditions
    )
    write_portraits(
        studio, options.count, options.out, seed=options.seed, captions=options.captions
    )


if __name__ == "__main__":
    main()
