"""Put what was trained among the files that come with the package, and into their manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

from assets.errors import AssetError
from assets.store import PACKAGE, ShippedModel, register
from diffusion.shipped_portrait import FOLDER, UPSCALER
from diffusion.train_files import replacing_folder

_MOST_BYTES, _MOST_IN_FILE = 80_000_000, 16_000_000
_FROM = "pictures rendered from the shipped head, which is built from ICT-FaceKit"


def ship_portrait(
    model: Path, side: int, pictures: int, steps: int, seed: int, root: Path = PACKAGE
) -> ShippedModel:
    """Copy a model's folder to assets/portrait; too large a one is an error."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    check_sizes(files)
    with replacing_folder(root / FOLDER) as making:
        shutil.copytree(model, making, dirs_exist_ok=True)
    return register(
        name=FOLDER,
        purpose=f"portraits of prompts, {side} pixels, by StableDiffusionPipeline",
        licence="MIT",
        attribution=f"trained on {pictures} {_FROM}",
        recipe=f"python -m diffusion.train vae and portrait --size {side} --steps {steps} --ship",
        files=[root / FOLDER / path.relative_to(model) for path in files],
        seed=seed,
        steps=steps,
    )


def ship_upscaler(
    file: Path, side: int, pictures: int, steps: int, seed: int, root: Path = PACKAGE
) -> ShippedModel:
    """Copy the upscaler to assets/portrait-upscaler."""
    place = root / UPSCALER / file.name
    place.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, place)
    return register(
        name=UPSCALER,
        purpose=f"portraits of {side // 2} pixels twice as large",
        licence="MIT",
        attribution=f"trained on {pictures} {_FROM}",
        recipe=f"python -m diffusion.train upscaler --size {side} --steps {steps} --ship",
        files=[place],
        seed=seed,
        steps=steps,
    )


def check_sizes(files: list[Path]) -> None:
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
