"""Pictures steered by conditions through T2I-Adapters."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from diffusion.conduct import OnStep
from diffusion.draw import draw
from diffusion.from_prompt import varied_noise
from diffusion.recipe import Recipe
from diffusion.record import Pipeline, record_of


def adapted(
    pipeline: Pipeline,
    recipe: Recipe,
    conditions: Sequence[Float[Tensor, "1 C H W"]],
    *,
    scales: Sequence[float] | None = None,
    on_step: OnStep | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """The recipe's pictures, held to one condition for each T2I-Adapter of the pipeline.

    The conditions have one size, that of the pictures; `scales` weigh them, 1 each by default.
    """
    recipe.needs_words()
    nets = record_of(pipeline).t2i_adapters
    if not nets or len(conditions) != len(nets):
        raise ValueError(
            f"the pipeline has {len(nets)} T2I-Adapters and {len(conditions)} conditions were "
            "given; give one for each"
        )
    sizes = {(one.shape[-1], one.shape[-2]) for one in conditions}
    if len(sizes) > 1:
        raise ValueError(f"the conditions have the sizes {sorted(sizes)}; give all in one")
    weights = [1.0] * len(nets) if scales is None else [float(one) for one in scales]
    if len(weights) != len(nets):
        raise ValueError(f"{len(weights)} scales for {len(nets)} T2I-Adapters; give one for each")
    width, height = next(iter(sizes))
    recipe = recipe.change(size=(width, height))
    adapters = getattr(pipeline.adapter, "adapters", [pipeline.adapter])
    moved = [
        (one.mean(1, keepdim=True) if adapter.config.in_channels == 1 else one).to(
            pipeline.device, pipeline.dtype
        )
        for one, adapter in zip(conditions, adapters, strict=True)
    ]
    return draw(
        pipeline,
        recipe,
        "txt2img",
        latents=varied_noise(pipeline, recipe),
        on_step=on_step,
        width=width,
        height=height,
        image=moved if len(moved) > 1 else moved[0],
        adapter_conditioning_scale=weights if len(moved) > 1 else weights[0],
    )
