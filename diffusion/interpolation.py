"""Pictures between two recipes, and two pictures fused into one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import Cue, OnStep, Score, Voice
from diffusion.draw import draw, score_of, size_of, start_noise
from diffusion.from_picture import img2img, pad_to
from diffusion.prompt_embeds import Embeds, lengthen, takes_weights
from diffusion.recipe import Recipe, Toward
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
    """`count` pictures on the way from one recipe to another; both ends are their own pictures."""
    return [draw_between(pipeline, recipe) for recipe in way(first, last, count)]


def way(first: Recipe, last: Recipe, count: int) -> list[Recipe]:
    """The recipes of `count` pictures on the way from one to another, each to be drawn by itself.

    Only prompts, seeds and cfg may differ: noise and steps of other sizes have no middle.
    """
    if count < 2:
        raise ValueError(f"count={count} must be at least 2, the two ends")
    for name in ("size", "sampler", "steps", "clip_skip", "rescale", "threshold"):
        if getattr(first, name) != getattr(last, name):
            raise ValueError(
                f"{name} is {getattr(first, name)} at one end and {getattr(last, name)} at the "
                "other; make them equal"
            )
    if sorted(first.all_loras()) != sorted(last.all_loras()):
        raise ValueError("both ends must have the same LoRAs; write the same tags into both")
    start = first.needs_words().change(batch=1, kind="interpolate")
    end = last.needs_words()
    return [
        start.change(toward=Toward(end.prompt, k / (count - 1), end.negative, end.seed, end.cfg))
        for k in range(count)
    ]


def draw_between(
    pipeline: Pipeline, recipe: Recipe, *, on_step: OnStep | None = None
) -> Float[Tensor, "1 3 H W"]:
    """The picture of a recipe that lies on the way to another, which `toward` names.

    The start noise and each text vector move along the sphere, and cfg along the line.
    """
    if recipe.toward is None:
        raise ValueError("the recipe names no other end; make it with way()")
    if not takes_weights(pipeline):
        raise ValueError(
            f"{type(pipeline).__name__} cannot draw what lies between two prompts; use SD 1.x, "
            "2.x or SDXL"
        )
    share = recipe.toward.share
    first, last = recipe.change(toward=None, batch=1), recipe.other_end().change(batch=1)
    noises = [start_noise(pipeline, end) for end in (first, last)]
    scores = [score_of(pipeline, end, steps=end.steps) for end in (first, last)]
    score = {0.0: scores[0], 1.0: scores[1]}.get(share) or between(
        pipeline, scores[0], scores[1], share
    )
    cfg = last.cfg if share == 1 else (1 - share) * first.cfg + share * last.cfg
    width, height = size_of(pipeline, first)
    return draw(
        pipeline,
        (last if share == 1 else first).change(cfg=cfg),
        "txt2img",
        score=score,
        latents=slerp(noises[0], noises[1], share),
        on_step=on_step,
        width=width,
        height=height,
    )


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
    *,
    on_step: OnStep | None = None,
) -> Float[Tensor, "1 3 H W"]:
    """One picture out of two, `t` of the way: their latents meet on the sphere and are drawn over.

    With the recipe's strength 0 it is what the autoencoder makes of the mixed latents.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t={t} of the way must be from 0 to 1")
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
    return img2img(pipeline, recipe.change(batch=1, size=None), middle, on_step=on_step)
