"""Heads painted by the shipped portrait model: the skin that a prompt asks for, drawn over.

A small model draws faces, and not from behind. So the head first gets the skin, hair and clothes
that the prompt names, by the rules of the synthetic people that the model learnt from, and then the
model draws its face over that from several sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from avatar.controls import Control, condition_of
from avatar.portrait_dress import dressed, has_our_skin
from avatar.portrait_like import frame_close
from avatar.texture_diffusion import Painter
from avatar.texture_views import PaintView, ViewPlan, styled_picture
from deca.prompt_words import read_prompt
from diffusion.prompt import plain_text
from diffusion.recipe import Recipe
from diffusion.shipped_portrait import CONDITION, NAME, SIDE, SKETCHED, enlarged
from flame.camera import LookAt
from flame.head import Head
from flame.load import load_head
from flame.material import Material

SIZE = SKETCHED * SIDE  # px a side of each view
CONTROL = Control(CONDITION, NAME)  # holds the model to the head
BEYOND = (
    "the shipped model draws faces: behind the ears the head has the skin that the words name, and "
    "is not drawn"
)
UNDRAWN = "from behind, not drawn"  # such views
_SIDES = {0.0: "facing the camera", 35.0: "turned to the left", -35.0: "turned to the right",
          65.0: "in profile to the left", -65.0: "in profile to the right"}  # fmt: skip
_BEHIND = (120.0, -120.0, 180.0)  # seen so that what is drawn ends softly
_LIT = "even light, plain grey background"  # as views are
_RUN = 3  # of the drawing's pixels: how far colours run over outlines
_FACING = 0.3, 0.6  # cosines to the viewer, between which drawings come to be believed


def plan_face(views: int) -> list[ViewPlan]:
    """The views of a face that the model can draw, at most `views`, the front first; then others.

    Those are from behind, and nothing is drawn there.
    """
    drawn = [ViewPlan(f"{side}, {_LIT}", yaw) for yaw, side in _SIDES.items()][:views]
    return [*drawn, *(ViewPlan(UNDRAWN, yaw) for yaw in _BEHIND)]


@dataclass(frozen=True, eq=False)
class ShippedPaint:
    """A head in the materials that a prompt asks for, ready to be drawn over."""

    head: Head
    materials: tuple[Material, ...]
    recipe: Recipe
    points: Float[Tensor, "68 3"]

    @classmethod
    def of(cls, head: Head, materials: Sequence[Material], recipe: Recipe) -> ShippedPaint:
        """The head at rest; one that is not the shipped head's kind is an AssetError."""
        flame = load_head()
        if not has_our_skin(head, flame):
            raise AssetError(
                "the avatar's head is not of the shipped kind, whose skin the shipped model's "
                "prompts are painted on; name a model with --model"
            )
        wish = read_prompt(plain_text(recipe.prompt)).wish
        asked = dressed(head, materials, wish, flame, seed=recipe.seed)
        points = flame.landmarks68(head.verts[None, : len(flame.template)])[0]
        return cls(head, asked, recipe, points)

    def frame(self, plan: ViewPlan) -> LookAt:
        """Head and shoulders, as the model learnt them."""
        return frame_close(self.points, plan.yaw_deg)

    def painter(self, pipeline: Any) -> Painter:
        """Draws every view over the head as it is in the prompt's style."""
        from diffusion.conditioned import conditioned
        from diffusion.from_picture import resized
        from diffusion.refiner import in_sketch_colours

        style = read_prompt(plain_text(self.recipe.prompt)).wish.style or "realistic"
        small = (SIDE, SIDE)

        def draw(view: PaintView) -> Float[Tensor, "1 3 S S"]:
            height, width = view.picture.shape[-2:]
            points = view.camera.project(self.points[None], (height, width))[0, :, :2]
            # not what is painted so far, of which a style's filter would make ever more
            sketch = styled_picture(view.seen, self.head, self.materials, style)
            if view.plan.name == UNDRAWN:
                return sketch
            shown = condition_of(
                CONDITION, view.seen, view.camera, self.head, self.materials, sketch, points
            )
            words = f"{self.recipe.prompt}, {view.plan.name}"
            one = self.recipe.change(prompt=words, size=small, batch=1, kind="img2img")
            over = resized(sketch, small)
            drawn = conditioned(pipeline, one, [resized(shown, small)], image=over)
            drawn = in_sketch_colours(drawn, over, one.strength)
            drawn = enlarged(drawn, one, resized(sketch, (SIZE, SIZE)))
            return sketch.lerp(resized(drawn, (width, height)), _inside(view, self.head))

        return draw


def _inside(view: PaintView, head: Head) -> Float[Tensor, "1 1 H W"]:
    """How far drawings are believed: little at the outlines of skin, where colours run together."""
    skin = view.seen.material == head.material_names.index("skin")
    reach = max(1, _RUN * view.picture.shape[-1] // SIDE)
    inner = -F.max_pool2d(-view.seen.pixels(skin[:, None].float()), 2 * reach + 1, 1, reach)
    soft = F.avg_pool2d(inner, 2 * reach + 1, 1, reach, count_include_pad=False)
    toward = view.seen.pixels(view.seen.normals()[:, 2:])
    least, full = _FACING
    return soft * ((toward - least) / (full - least)).clamp(0, 1)
