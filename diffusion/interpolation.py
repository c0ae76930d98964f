"""Pictures between two recipes, and two pictures fused into one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import Cue, Score, Voice
from diffusion.draw import draw, score_of, size_of, start_noise
from diffusion.from_picture import img2img, pad_to
from diffusion.prompt_embeds import Embeds, lengthen
from diffusion.recipe import Recipe
from diffusion.record import Pipeline

_PARALLEL = 0.9995  # cosine above which the sphere is as good as flat


def slerp(
    a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], t: float
) -> Float[Tensor, "*shape"]:
    """The point a share `t` of the way from a to b along the sphere; 0 and 1 give them exactly.

    Lengths change evenly; where both point the same way, or opposite ways, it is the straight line.
    """
    if t <= 0 or t >= 1:
        return a if t <= 0 else b
    x, y = a.double().flatten(), b.double().flatten()
    lengths = x.norm(), y.norm()
    cosine = float(x @ y / (lengths[0] * lengths[1]).clamp_min(1e-12))
    if abs(cosine) > _PARALLEL or float(min(lengths)) == 0:
        return (a + (b - a) * t).to(a.dtype)
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    first, second = torch.sin((1 - t) * angle), torch.sin(t * angle)
    direction = (first * x / lengths[0] + second * y / lengths[1]) / torch.sin(angle)
    between = direction * ((1 - t) * lengths[0] + t * lengths[1])
    result: Tensor = between.reshape(a.shape).to(a.dtype)
    return result


def interpolate(
    pipeline: Pipeline, first: Recipe, last: Recipe, count: int
) -> list[Float[Tensor, "1 3 H W"]]:
    """`count` pictures on the way from one recipe to another; both ends are their own pictures.

    The start noise and each text vector move along the sphere. Only prompts, seeds and cfg may
    differ: noise and steps of other sizes have no middle.
    """
    if count < 2:
        raise ValueError(f"count={count} must be at least 2, the two ends")
    for name in ("size", "sampler", "steps", "clip_skip"):
        if getattr(first, name) != getattr(last, name):
            raise ValueError(
                f"{name} is {getattr(first, name)} at one end and {getattr(last, name)} at the "
                "other; make them equal"
            )
    ends = [recipe.needs_words().change(batch=1) for recipe in (first, last)]
    noises = [start_noise(pipeline, recipe) for recipe in ends]
    scores = [score_of(pipeline, recipe, steps=recipe.steps) for recipe in ends]
    width, height = size_of(pipeline, first)
    frames = []
    for index in range(count):
        t = index / (count - 1)
        recipe = ends[0].change(cfg=(1 - t) * first.cfg + t * last.cfg)
        score = {0.0: scores[0], 1.0: scores[1]}.get(t) or between(
            pipeline, scores[0], scores[1], t
        )
        frames.append(
            draw(pipeline, ends[1] if t == 1 else recipe, "txt2img", score=score,
                 latents=slerp(noises[0], noises[1], t), width=width, height=height)
        )  # fmt: skip
    return frames


def between(pipeline: Pipeline, first: Score, last: Score, t: float) -> Score:
    """The score a share `t` of the way between two of as many voices."""
    if {len(cue.voices) for cue in (*first, *last)} != {1}:
        raise ValueError("prompts joined by AND have no middle; use one prompt at each end")
    longest = max(
        embeds.tokens.shape[1]
        for cue in (*first, *last)
        for embeds in (cue.voices[0].embeds, cue.negative)
    )

    def mixed(a: Embeds, b: Embeds) -> Embeds:
        a, b = (lengthen(pipeline, one, longest) for one in (a, b))
        rows = [slerp(x, y, t) for x, y in zip(a.tokens[0], b.tokens[0], strict=True)]
        pooled = None
        if a.pooled is not None and b.pooled is not None:
            pooled = slerp(a.pooled, b.pooled, t)
        return Embeds(torch.stack(rows)[None], pooled)

    cues = []
    for step in sorted({cue.last for cue in (*first, *last)}):
        a, b = (next(cue for cue in score if step <= cue.last) for score in (first, last))
        voice = Voice(mixed(a.voices[0].embeds, b.voices[0].embeds))
        cues.append(Cue(step, (voice,), mixed(a.negative, b.negative)))
    return tuple(cues)


def fuse(
    pipeline: Pipeline,
    recipe: Recipe,
    first: Float[Tensor, "1 3 H W"],
    second: Float[Tensor, "1 3 h w"],
    t: float,
) -> Float[Tensor, "1 3 H W"]:
    """One picture out of two, `t` of the way: their latents meet on the sphere and are drawn over.

    With the recipe's strength 0 it is what the autoencoder makes of the mixed latents.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"pictures of {tuple(first.shape)} and {tuple(second.shape)} cannot be fused; "
            "scale them to one size"
        )
    height, width = first.shape[-2:]
    vae = pipeline.vae
    with torch.no_grad():
        codes = [
            vae.encode((2 * pad_to(one, 8) - 1).to(vae.device, vae.dtype)).latent_dist.mode()
            for one in (first, second)
        ]
        met = vae.decode(slerp(codes[0], codes[1], t), return_dict=False)[0]
    middle: Tensor = (met.float().cpu() / 2 + 0.5).clamp(0, 1)[..., :height, :width]
    if int(recipe.steps * recipe.strength) == 0:
        return middle
    return img2img(pipeline, recipe.change(batch=1, size=None), middle)
