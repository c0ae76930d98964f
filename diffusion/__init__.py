"""Image in, image out: Stable Diffusion and its relatives, run by diffusers. Names load on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from diffusion.notices import without_torchvision_notice

if TYPE_CHECKING:
    from diffusion.adapters import (
        add_embedding,
        add_ip_adapter,
        remove_embedding,
        remove_ip_adapter,
        remove_loras,
        scale_ip_adapter,
        show_ip_adapter,
        use_loras,
    )
    from diffusion.cascade import draw_cascade
    from diffusion.from_picture import img2img
    from diffusion.from_prompt import txt2img, variations
    from diffusion.inpainting import inpaint
    from diffusion.interpolation import draw_between, fuse, interpolate, way
    from diffusion.load import add_controlnets, add_t2i_adapters, as_task, load_pipeline
    from diffusion.metadata import read_record
    from diffusion.outpainting import Margins, outpaint
    from diffusion.recipe import Recipe
    from diffusion.record import ModelRecord, record_of
    from diffusion.refine import draw_by_both
    from diffusion.regions import regional
    from diffusion.reimagining import reimagine
    from diffusion.restore import enlarged, load_restorer
    from diffusion.t2i_adapters import adapted
    from diffusion.unprompted import class_conditional, unconditional
    from diffusion.upscaling import upscale
    from diffusion.write import write_picture

__all__ = [
    "Margins",
    "ModelRecord",
    "Recipe",
    "adapted",
    "add_controlnets",
    "add_embedding",
    "add_ip_adapter",
    "add_t2i_adapters",
    "as_task",
    "class_conditional",
    "draw_between",
    "draw_by_both",
    "draw_cascade",
    "enlarged",
    "fuse",
    "img2img",
    "inpaint",
    "interpolate",
    "load_pipeline",
    "load_restorer",
    "outpaint",
    "read_record",
    "record_of",
    "regional",
    "reimagine",
    "remove_embedding",
    "remove_ip_adapter",
    "remove_loras",
    "scale_ip_adapter",
    "show_ip_adapter",
    "txt2img",
    "unconditional",
    "upscale",
    "use_loras",
    "variations",
    "way",
    "write_picture",
]

_HOMES = {
    "adapters": (
        *("add_embedding", "add_ip_adapter", "remove_embedding", "remove_ip_adapter"),
        *("remove_loras", "scale_ip_adapter", "show_ip_adapter", "use_loras"),
    ),
    "t2i_adapters": ("adapted",),
    "cascade": ("draw_cascade",),
    "load": ("add_controlnets", "add_t2i_adapters", "as_task", "load_pipeline"),
    "from_picture": ("img2img",),
    "from_prompt": ("txt2img", "variations"),
    "inpainting": ("inpaint",),
    "interpolation": ("draw_between", "fuse", "interpolate", "way"),
    "metadata": ("read_record",),
    "outpainting": ("Margins", "outpaint"),
    "recipe": ("Recipe",),
    "record": ("ModelRecord", "record_of"),
    "refine": ("draw_by_both",),
    "regions": ("regional",),
    "reimagining": ("reimagine",),
    "restore": ("enlarged", "load_restorer"),
    "unprompted": ("class_conditional", "unconditional"),
    "upscaling": ("upscale",),
    "write": ("write_picture",),
}

without_torchvision_notice()


def __getattr__(name: str) -> object:
    # diffusers takes seconds to import, so it waits until a pipeline is asked for
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"diffusion.{home}"), name)
    raise AttributeError(f"module 'diffusion' has no attribute {name!r}")
