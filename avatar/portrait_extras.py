"""What goes into a portrait beside model and settings: adapters, conditions, finishing models."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import sha256_of
from assets.image import read_image
from avatar.progress import Progress
from diffusion.fingerprint import model_hash
from diffusion.recipe import Extra, Recipe

if TYPE_CHECKING:
    from diffusion.conduct import OnStep

log = logging.getLogger(__name__)

# Kinds of extras in a picture's metadata, and the options that give them.
OPTIONS = {
    "embedding": "--embedding",
    "controlnet": "--controlnet",
    "t2i-adapter": "--t2i-adapter",
    "condition": "--controlnet or --t2i-adapter",
    "ip-adapter": "--ip-adapter",
    "ip-image": "--ip-image",
    "refiner": "--refiner",
    "fuse": "--fuse",
    "restore": "--restore",
    "upscale-model": "--upscale-model",
    "head": "--like",
}
_IP_SCALE, _SHARE = 0.6, 0.5


@dataclass(frozen=True)
class Steering:
    """A picture that steers a model, through which network, and how strongly."""

    picture: Path
    source: str
    scale: float = 1.0


@dataclass(frozen=True)
class PortraitExtras:
    """Files that go in beside the model; None and empty where none was given."""

    embeddings: tuple[str, ...] = ()
    controls: tuple[Steering, ...] = ()  # ControlNets
    t2i_adapters: tuple[Steering, ...] = ()
    ip_adapter: str | None = None
    ip_image: Path | None = None
    ip_encoder: str | None = None
    ip_scale: float | None = None
    refiner: str | None = None
    fuse: Path | None = None  # the picture that --image is fused with
    share: float | None = None
    restore: Path | None = None
    upscale_model: Path | None = None
    preview: Path | None = None
    preview_decoder: str | None = None

    def __post_init__(self) -> None:
        if (self.ip_adapter is None) != (self.ip_image is None):
            raise ValueError("--ip-adapter and --ip-image belong together; give both")
        if self.controls and self.t2i_adapters:
            raise ValueError(
                "--controlnet and --t2i-adapter cannot steer one picture; give either of them"
            )
        for name, value, most in (("share", self.share, 1), ("ip-scale", self.ip_scale, 2)):
            if value is not None and not 0 <= value <= most:
                raise ValueError(f"--{name} {value:g} must be from 0 to {most}")
        if self.preview is not None and self.preview.suffix.lower() not in (".png", ".jpg"):
            raise ValueError(f"--preview {self.preview} must end in .png or .jpg")

    @property
    def steering(self) -> tuple[Steering, ...]:
        """What steers, whichever kind of network it goes through."""
        return self.controls or self.t2i_adapters

    @property
    def finishes(self) -> bool:
        """Whether finished pictures go through further models."""
        return self.restore is not None or self.upscale_model is not None

    def completed(self, recipe: Recipe) -> PortraitExtras:
        """With the weights of the recipe's extras where the user gave none."""
        before = {one.kind: one.weight for one in recipe.extras}
        share = before.get("fuse", _SHARE) if self.share is None else self.share
        scale = before.get("ip-adapter", _IP_SCALE) if self.ip_scale is None else self.ip_scale
        return replace(self, share=share, ip_scale=scale)

    def records(self, folder: Path | None = None) -> tuple[Extra, ...]:
        """Names, checksums and weights for the metadata; a missing file is an AssetError."""
        from diffusion.adapters import find_adapter

        found: list[Extra] = []
        for name in self.embeddings:
            path = find_adapter(name, folder, "Textual Inversion")
            found.append(Extra("embedding", path.name, sha256_of(path)))
        for kind, steering in (("controlnet", self.controls), ("t2i-adapter", self.t2i_adapters)):
            for one in steering:
                found.append(Extra(kind, one.source, model_hash(one.source), one.scale))
                found.append(_picture("condition", one.picture))
        if self.ip_adapter is not None and self.ip_image is not None:
            path = find_adapter(self.ip_adapter, folder, "IP-Adapter")
            scale = _IP_SCALE if self.ip_scale is None else self.ip_scale
            found.append(Extra("ip-adapter", path.name, sha256_of(path), scale))
            found.append(_picture("ip-image", self.ip_image))
        if self.refiner is not None:
            found.append(Extra("refiner", self.refiner, model_hash(self.refiner)))
        if self.fuse is not None:
            found.append(_picture("fuse", self.fuse, _SHARE if self.share is None else self.share))
        for kind, path_of in (("restore", self.restore), ("upscale-model", self.upscale_model)):
            if path_of is not None:
                found.append(_picture(kind, path_of))
        return tuple(found)

    def add_to(
        self, pipeline: Any, recipe: Recipe, folder: Path | None, progress: Progress
    ) -> None:
        """Teach a pipeline the words, and show it the picture, that were given."""
        from diffusion.adapters import add_embedding, add_ip_adapter, show_ip_adapter

        for name in self.embeddings:
            word = add_embedding(pipeline, name, folder)
            if word not in recipe.prompt and word not in recipe.negative:
                progress.warn(f"the word {word!r} of {name} is in no prompt, so it changes nothing")
        if self.ip_adapter is not None and self.ip_image is not None:
            scale = _IP_SCALE if self.ip_scale is None else self.ip_scale
            add_ip_adapter(pipeline, self.ip_adapter, self.ip_encoder, scale=scale)
            show_ip_adapter(pipeline, read_image(self.ip_image, min_side=1))

    def conditions(self, size: tuple[int, int]) -> list[Float[Tensor, "1 3 H W"]]:
        """The steering pictures, cut to one size, width and height."""
        from diffusion.from_picture import covered

        return [covered(read_image(one.picture, min_side=1), size) for one in self.steering]

    def finished(
        self, pictures: Float[Tensor, "B 3 H W"], progress: Progress
    ) -> Float[Tensor, "B 3 H2 W2"]:
        """The pictures restored, then enlarged, by the models that were given."""
        if not self.finishes:
            return pictures
        from avatar.restore_faces import restored
        from diffusion.restore import enlarged, load_restorer

        if self.restore is not None:
            restorer = load_restorer(self.restore)
            made = []
            for number, picture in enumerate(pictures):
                better, count = restored(restorer, picture[None])
                made.append(better)
                if count == 0:
                    progress.warn(f"no face was found in picture {number}, so none was restored")
            pictures = torch.cat(made)
        if self.upscale_model is not None:
            larger = load_restorer(self.upscale_model)
            pictures = torch.cat([enlarged(larger, one[None]) for one in pictures])
        return pictures

    def previewer(self, pipeline: Any, recipe: Recipe) -> Callable[[Tensor], None]:
        """What writes the picture so far to `preview`, from latents; nothing where there is none.

        Only the first picture of a batch is shown.
        """
        path = self.preview
        if path is None:
            return lambda latents: None
        from diffusion.preview import fit_linear_decoder, latent_picture, load_tiny_decoder
        from diffusion.write import write_picture

        if getattr(pipeline, "vae", None) is None:
            decoder: Any = _pixels
        elif self.preview_decoder is not None:
            decoder = load_tiny_decoder(self.preview_decoder)
        else:
            decoder = fit_linear_decoder(pipeline, generator=torch.Generator().manual_seed(0))

        def write(latents: Tensor) -> None:
            ready = latent_picture(pipeline, latents.detach()[:1], recipe.size)
            if ready is not None:
                write_picture(path, decoder(ready).cpu(), recipe)

        return write


def parse_steering(text: str, option: str) -> Steering:
    """The steering of `PICTURE=PATH`, or of `PICTURE:SCALE=PATH`."""
    left, equals, source = text.partition("=")
    picture, colon, scale = left.rpartition(":")
    weight = 1.0
    if colon:
        try:
            weight = float(scale)
        except ValueError:  # a colon of the path itself
            picture = left
    else:
        picture = left
    if not equals or not source.strip() or not picture.strip():
        raise ValueError(
            f"{option} {text!r} is not PICTURE=PATH; write such as edges.png=FOLDER or "
            "edges.png:0.6=FOLDER"
        )
    if not 0 <= weight <= 2:
        raise ValueError(f"{option} {text!r}: the scale {weight:g} must be from 0 to 2")
    return Steering(Path(picture.strip()), source.strip(), weight)


def check_extras(before: Sequence[Extra], now: Sequence[Extra]) -> None:
    """Raise ValueError if a picture's extras are not all given again; other files are a warning."""
    for kind, count in Counter(one.kind for one in before).items():
        old = [one for one in before if one.kind == kind]
        new = [one for one in now if one.kind == kind]
        if len(new) < count:
            raise ValueError(
                f"the picture was made with the {kind} {old[len(new)].name}, which is not given; "
                f"name it with {OPTIONS.get(kind, kind)}"
            )
        for first, second in zip(old, new, strict=False):
            if first.sha256 and second.sha256 and first.sha256 != second.sha256:
                log.warning(
                    "%s is not the %s that the first picture was made with", second.name, kind
                )


def open_refiner(source: str, pipeline: Any, recipe: Recipe, device: str) -> Any:
    """The second model of two that draw one picture, as SDXL's refiner or DeepFloyd's enlarger."""
    from diffusion.cascade import enlarges_by_words
    from diffusion.compute import place
    from diffusion.load import load_pipeline

    safety = "on" if recipe.safety_checker else "off"
    second = load_pipeline(source, dtype=pipeline.dtype, safety=safety)
    alone = getattr(second, "text_encoder", None) is None and hasattr(second, "text_encoder_2")
    if not alone and not enlarges_by_words(second):
        raise ValueError(
            f"{source} is a {type(second).__name__}, which takes over from no other model; give "
            "SDXL's refiner or DeepFloyd IF's super-resolution model"
        )
    place(second, device)
    return second


def draw_with_second(
    pipeline: Any, second: Any, recipe: Recipe, on_step: OnStep
) -> Float[Tensor, "B 3 H W"]:
    """The recipe's pictures by a model and the one that takes over from it."""
    from diffusion.cascade import draw_cascade, enlarges_by_words
    from diffusion.refine import draw_by_both

    if enlarges_by_words(second):
        return draw_cascade(pipeline, second, recipe, on_step=on_step)
    return draw_by_both(pipeline, second, recipe, on_step=on_step)


def _picture(kind: str, path: Path, weight: float = 1.0) -> Extra:
    if not path.is_file():
        raise AssetError(f"{path} is not there; check the path")
    return Extra(kind, path.name, sha256_of(path), weight)


def _pixels(latents: Tensor) -> Tensor:
    return (latents.float() / 2 + 0.5).clamp(0, 1)
