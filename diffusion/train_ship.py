"""Put a trained portrait model among the files that come with the package, and into their manifest.

Copies the model's folder and the curves of its losses under assets/.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.errors import AssetError
from assets.store import PACKAGE, ShippedModel, register
from diffusion.shipped_portrait import CONTROL, FOLDER, READER, REFINER
from diffusion.train_files import replacing_folder

CURVES = "training"  # folder of loss curves, in the model's own
_MOST_BYTES, _MOST_IN_FILE = 80_000_000, 16_000_000
_FROM = "pictures rendered from the shipped head, which is built from ICT-FaceKit"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add = parser.add_argument
    add("--model", type=Path, required=True, help="RUN/model of the portrait stage")
    add("--vae", type=Path, help="the same autoencoder with its decoder trained further")
    add("--recipe", required=True, help="the commands that made it")
    add("--pictures", type=int, required=True, help="how many it was trained on")
    add("--steps", type=int, required=True, help="of the portrait stage")
    add("--seed", type=int, default=0)
    add("--curve", type=Path, action="append", default=[], help="NAME.csv; several")


def run(options: argparse.Namespace) -> Path:
    """Check, copy, enter into the manifest."""
    from diffusion.load import load_pipeline
    from diffusion.train_files import portrait_pipeline, read_vae, write_model

    trained = load_pipeline(options.model)
    vae = trained.vae
    if options.vae is not None:
        vae = read_vae(options.vae)
        check_same_latents(trained.vae, vae)
    whole = options.model.with_name("shipped")
    # the scheduler is written anew: it is how pictures are drawn, not what was trained
    write_model(
        portrait_pipeline(vae, trained.text_encoder, trained.tokenizer, trained.unet), whole
    )
    for curve in options.curve:
        (whole / CURVES).mkdir(exist_ok=True)
        shutil.copyfile(curve, whole / CURVES / curve.name)
    side = trained.vae_scale_factor * trained.unet.config.sample_size
    pictures, seed, recipe = options.pictures, options.seed, options.recipe
    ship_portrait(whole, side, pictures, options.steps, seed, recipe=recipe)
    return PACKAGE / FOLDER


def check_same_latents(trained: Any, given: Any) -> None:
    """Raise AssetError where an autoencoder's encoder is not, in half precision, another's."""
    known, other = trained.state_dict(), given.state_dict()
    for name, weight in known.items():
        encodes = name.startswith(("encoder.", "quant_conv."))
        if encodes and not bool((weight.half() == other[name].half()).all()):
            raise AssetError(
                f"the autoencoder's {name} is not the one that the UNet was trained with; train "
                "the decoder alone, with --decoder-only"
            )


def ship_portrait(
    model: Path,
    side: int,
    pictures: int,
    steps: int,
    seed: int,
    *,
    recipe: str | None = None,
    figures: Mapping[str, float] | None = None,
    root: Path = PACKAGE,
) -> ShippedModel:
    """Copy a model's folder to assets/portrait; too large a one is an error."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    check_sizes(files)
    with replacing_folder(root / FOLDER) as making:
        shutil.copytree(model, making, dirs_exist_ok=True)
    made = f"python -m diffusion.train vae and portrait --size {side} --steps {steps} --ship"
    return register(
        name=FOLDER,
        purpose=f"portraits of prompts, {side} pixels, by StableDiffusionPipeline",
        licence="MIT",
        attribution=f"trained on {pictures} {_FROM}",
        recipe=recipe or made,
        files=[root / FOLDER / path.relative_to(model) for path in files],
        seed=seed,
        steps=steps,
        figures=dict(figures or {}),
    )


def ship_control(
    folder: Path, curve: Path, pictures: int, steps: int, seed: int, **more: Any
) -> ShippedModel:
    """Copy a ControlNet's folder and its curve to assets/portrait-control."""
    purpose = "holds the portrait model to normals and landmarks of a head"
    return _ship_network(CONTROL, purpose, folder, curve, pictures, steps, seed, **more)


def ship_refiner(
    folder: Path, curve: Path, pictures: int, steps: int, seed: int, **more: Any
) -> ShippedModel:
    """Copy a refiner's folder and its curve to assets/portrait-refiner."""
    purpose = "draws the portrait model's pictures over, twice as large"
    return _ship_network(REFINER, purpose, folder, curve, pictures, steps, seed, **more)


def _ship_network(
    name: str,
    purpose: str,
    folder: Path,
    curve: Path,
    pictures: int,
    steps: int,
    seed: int,
    *,
    recipe: str | None = None,
    figures: Mapping[str, float] | None = None,
    root: Path = PACKAGE,
) -> ShippedModel:
    """Copy one network's folder and its curve to assets/NAME, with `recipe` if a stage is more."""
    place = root / name
    check_sizes(sorted(path for path in folder.rglob("*") if path.is_file()))
    with replacing_folder(place) as making:
        shutil.copytree(folder, making, dirs_exist_ok=True)
        shutil.copyfile(curve, making / "loss.csv")
    stage = name.rpartition("-")[2]
    return register(
        name=name,
        purpose=purpose,
        licence="MIT",
        attribution=f"trained on {pictures} {_FROM}",
        recipe=recipe or f"python -m diffusion.train {stage} --steps {steps} --ship",
        files=sorted(path for path in place.rglob("*") if path.is_file()),
        seed=seed,
        steps=steps,
        figures=dict(figures or {}),
    )


def ship_reader(
    file: Path,
    curve: Path,
    pictures: int,
    steps: int,
    seed: int,
    *,
    recipe: str | None = None,
    figures: Mapping[str, float] | None = None,
    root: Path = PACKAGE,
) -> ShippedModel:
    """Copy a caption reader and its curve to assets/portrait-reader."""
    place = root / READER
    check_sizes([file])
    with replacing_folder(place) as making:
        shutil.copyfile(file, making / "reader.safetensors")
        shutil.copyfile(curve, making / "loss.csv")
    return register(
        name=READER,
        purpose="which of several drawings of the portrait model shows most of its prompt",
        licence="MIT",
        attribution=f"trained on {pictures} {_FROM}, and on drawings of the portrait model",
        recipe=recipe or f"python -m diffusion.train reader --steps {steps} --ship",
        files=sorted(place.iterdir()),
        seed=seed,
        steps=steps,
        figures=dict(figures or {}),
    )


def check_sizes(files: Sequence[Path]) -> None:
    """Raise AssetError where a file, or all together, are larger than the package may carry."""
    sizes = {path: path.stat().st_size for path in files}
    if not sizes:
        raise AssetError("there is no model to ship; train one first")
    largest = max(sizes, key=lambda path: sizes[path])
    if sizes[largest] >= _MOST_IN_FILE:
        raise AssetError(f"{largest} has {sizes[largest]} bytes; files stay below {_MOST_IN_FILE}")
    if sum(sizes.values()) > _MOST_BYTES:
        raise AssetError(
            f"{largest.parent.parent} has {sum(sizes.values())} bytes in all, more than "
            f"{_MOST_BYTES}; make its networks narrower"
        )
