"""Portraits of a given head: its renders steer the model, and the result is read again to check."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from assets.image import write_image
from avatar.clip import Stage, frame_portrait, light_from
from avatar.controls import Control, condition_of
from avatar.portrait_dress import dressed, place_of, unworn
from avatar.transfer_source import FaceReader, read_source
from deca.conditions import HeadView
from deca.prompt_wish import Wish
from deca.prompt_words import read_prompt
from deca.synth_captioned import BELOW, FOV_DEG, HALF
from deca.synth_portrait import colour_and_light, openness, over
from deca.synth_sitter import body_width
from deca.synth_styles import cel, stylize
from diffusion.prompt import plain_text
from diffusion.recipe import Recipe
from diffusion.shipped_portrait import CONDITION, NAME
from flame.camera import LookAt, orbit
from flame.head import Head
from flame.load import load_head
from flame.material import Material
from flame.render import Renderer
from flame.shoulders import broadened

if TYPE_CHECKING:
    from diffusion.conduct import OnStep

CLOSE = 0.05  # of the distance between the eyes' outer corners: points that close are the same face
_OUTER_CORNERS = (36, 45)  # of the 68 points
EYES, CHIN = slice(36, 48), 8


@runtime_checkable
class PointReader(Protocol):
    """What finds the points of a picture's face."""

    def read(self, image: Float[Tensor, "1 3 H W"]) -> Any:
        """Something with `landmarks2d`, px; a ValueError where there is no face."""


@dataclass(frozen=True, eq=False)
class HeadGuide:
    """A head in its expression before a camera, and the ControlNets that are to follow it."""

    head: Head
    materials: tuple[Material, ...]
    verts: Float[Tensor, "1 V 3"]
    points: Float[Tensor, "68 3"]  # metres, on `verts`
    controls: tuple[Control, ...] = ()
    yaw_deg: float = 0.0
    source: str = ""
    reader: PointReader = field(default_factory=FaceReader)
    close: bool = False  # head and shoulders, as the shipped model draws
    style: str = "realistic"  # of deca.prompt_wish.STYLES, that it is drawn over in
    place: Wish = field(default_factory=Wish)  # whose background it is before, if it names one

    def for_shipped(self, prompt: str) -> HeadGuide:
        """As the shipped model takes it: close, in the prompt's style, held by a ControlNet.

        That is its own one if none is named. The head gets the shoulders of a body, and the
        skin and the colours of hair, eyes and clothes that the prompt names.
        """
        wish = _wish(prompt)
        return replace(
            self,
            close=True,
            controls=self.controls or (Control(CONDITION, NAME),),
            style=wish.style or self.style,
            place=wish,
            materials=dressed(self.head, self.materials, wish, load_head()),
            verts=broadened(self.verts, self.head, body_width(wish)),
        )

    def unworn(self, prompt: str) -> list[str]:
        """What of a prompt the shipped model's drawings of the head leave out, in words."""
        return unworn(self.materials, _wish(prompt)) if self.close else []

    def camera(self) -> LookAt:
        """Where the head is seen from."""
        if self.close:
            return frame_close(self.points, self.yaw_deg)
        return frame_portrait(self.head, self.yaw_deg)

    def render(self, side: int) -> Float[Tensor, "1 3 S S"]:
        """The textured head in studio light, before a studio's wall or what the prompt names."""
        stage = Stage(self.head, self.materials, side, background=place_of(self.place, side))
        shot = stage.photograph(self.verts, self.yaw_deg, camera=self.camera())
        frame = torch.from_numpy(shot)
        return frame.permute(2, 0, 1)[None].float() / 255

    def sketch(self, side: int) -> Float[Tensor, "1 3 S S"]:
        """What pictures are drawn over: the render, in the style."""
        shot = self.render(side)
        if self.style != "anime":
            return stylize(shot, self.style)
        size, lights = (side, side), light_from(self.yaw_deg)
        unlit, lit = colour_and_light(
            Renderer.of_head(self.head, self.materials), self.materials, self.verts, self.camera(),
            lights, size, openness(self.head), shadow=256,
        )  # fmt: skip
        return cel(over(unlit, shot), over(lit, torch.ones_like(shot)), unlit[:, 3:], shot)

    def landmarks(self, side: int) -> Float[Tensor, "68 2"]:
        """The 68 points in pictures of a side, px."""
        return self.camera().project(self.points[None], (side, side))[0, :, :2]

    def conditions(self, side: int) -> list[Float[Tensor, "1 3 S S"]]:
        """What each ControlNet is shown."""
        if not self.controls:
            return []
        camera = self.camera()
        seen = HeadView.of(self.head, self.materials, self.verts, camera, (side, side))
        shown, points = self.render(side), self.landmarks(side)
        return [
            condition_of(one.kind, seen, camera, self.head, self.materials, shown, points)
            for one in self.controls
        ]

    def draw(
        self, pipeline: Any, recipe: Recipe, on_step: OnStep | None = None
    ) -> tuple[Recipe, Float[Tensor, "B 3 S S"]]:
        """The recipe's pictures over the head's sketch, and the recipe saying so."""
        from diffusion.conditioned import conditioned
        from diffusion.draw import size_of
        from diffusion.refiner import in_sketch_colours

        width, height = size_of(pipeline, recipe)
        if width != height:
            raise ValueError(
                f"pictures of a head are square, and {width}x{height} is not; "
                f"write --size {min(width, height)}x{min(width, height)}"
            )
        recipe = recipe.change(kind="img2img", size=(width, height))
        scales = [one.scale for one in self.controls]
        sketch = self.sketch(width)
        pictures = conditioned(
            pipeline, recipe, self.conditions(width), image=sketch, scales=scales, on_step=on_step
        )
        if self.close:
            pictures = in_sketch_colours(pictures, sketch, recipe.strength)
        return recipe, pictures

    def report(self, pictures: Float[Tensor, "B 3 S S"]) -> dict[str, Any]:
        """What the pictures were steered by, and how closely each follows the head."""
        wanted = self.landmarks(pictures.shape[-1])
        return {
            "head": self.source,
            "yaw_deg": self.yaw_deg,
            "controlnets": [f"{one.kind}:{one.scale:g}={one.source}" for one in self.controls],
            "checks": [check_likeness(one[None], wanted, self.reader) for one in pictures],
        }

    def write_conditions(self, folder: Path, stem: str, side: int) -> list[Path]:
        """Write the render and the conditions beside the pictures; returns the files."""
        named = {"render": self.render(side)}
        for one, picture in zip(self.controls, self.conditions(side), strict=True):
            named[one.kind] = picture
        paths = []
        for name, picture in named.items():
            paths.append(folder / f"{stem}-{name}.png")
            write_image(paths[-1], picture)
        return paths


def _wish(prompt: str) -> Wish:
    return read_prompt(plain_text(prompt)).wish if prompt.strip() else Wish()


def read_guide(
    path: Path,
    controls: tuple[Control, ...] = (),
    *,
    yaw_deg: float = 0.0,
    reader: FaceReader | None = None,
) -> HeadGuide:
    """The guide of an avatar's folder, of the .npz of `avatar reconstruct`, or of a photo.

    It wears the expression that was seen there; avatars without one are at rest. A photo's head is
    made as `avatar create` does.
    """
    from assets.errors import AssetError
    from avatar.transfer import read_target

    if not -180 <= yaw_deg <= 180:
        raise ValueError(f"yaw={yaw_deg} must be from -180 to 180 degrees")
    reader = reader or FaceReader()
    with tempfile.TemporaryDirectory() as folder:
        target = read_target(path, reader, Path(folder))
    weights = torch.zeros(1, len(target.head.morph_names))
    try:
        weights = read_source(path, reader).motion.weights[:1]
    except AssetError:  # an avatar of a prompt keeps no expression
        if not path.is_dir():
            raise
    still = torch.zeros(1, target.head.joints.shape[0], 3)
    verts = target.head.pose(weights, still)
    points = reader.flame.landmarks68(verts[:, : len(reader.flame.template)])[0]
    return HeadGuide(
        target.head, target.materials, verts, points, controls, yaw_deg, str(path), reader
    )


def frame_close(points: Float[Tensor, "68 3"], yaw_deg: float = 0.0) -> LookAt:
    """The camera of head and shoulders, as in the shipped model's training pictures."""
    eyes = points[EYES].mean(0)
    unit = float(eyes[1] - points[CHIN, 1])
    distance = HALF * unit / math.tan(math.radians(FOV_DEG) / 2)
    middle = (float(eyes[0]), float(eyes[1]) - BELOW * unit, float(points[:, 2].mean()))
    return orbit(torch.tensor([yaw_deg]), 0.0, distance, middle, FOV_DEG)


def check_likeness(
    picture: Float[Tensor, "1 3 S S"], wanted: Float[Tensor, "68 2"], reader: PointReader
) -> dict[str, Any]:
    """The mean error of the points that are found in a drawn picture, and whether it is small.

    `nme` is in distances between the outer corners of the eyes that were asked for; None, with the
    reason, where no face is found.
    """
    try:
        found = reader.read(picture).landmarks2d
    except ValueError as error:
        return {"nme": None, "follows": False, "reason": " ".join(str(error).split())}
    nme = normalized_error(found, wanted)
    return {"nme": round(nme, 4), "follows": nme <= CLOSE}


def normalized_error(found: Float[Tensor, "68 2"], wanted: Float[Tensor, "68 2"]) -> float:
    """Mean distance of points over that between the outer corners of the eyes."""
    first, second = _OUTER_CORNERS
    apart = (wanted[first] - wanted[second]).norm().clamp(min=1e-6)
    return float((found - wanted).norm(dim=1).mean() / apart)
