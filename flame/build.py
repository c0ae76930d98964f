"""`python -m flame.build`: train a head model from registered meshes and dress it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from assets.errors import AssetError
from assets.store import register
from flame.assemble import assemble
from flame.blueprint import HeadSettings
from flame.dress import dress
from flame.load import load_head, save_head
from flame.registered import read_registered
from flame.registered_model import registered_model
from flame.statistics import read_statistics

log = logging.getLogger(__name__)

ATTRIBUTION = (
    'Built from ICT-FaceKit\'s "ICT Face Model Light", Copyright (c) 2020 USC Institute for '
    "Creative Technologies, MIT licence"
)


def build(meshes: Path, out: Path, *, seed: int = 0, settings: HeadSettings | None = None) -> None:
    """Write head.safetensors, skin.safetensors and hair.safetensors into the folder `out`.

    `meshes` is an `.npz` laid out as `flame.statistics` says; the same seed gives the same files.
    Or it is a folder of registered OBJ meshes as `flame.registered` says: their own model, as it
    is, in head.safetensors alone (paint and hair need the parts that an `.npz` names).
    """
    start = time.perf_counter()
    if meshes.is_dir():
        own = registered_model(read_registered(meshes))
        out.mkdir(parents=True, exist_ok=True)
        save_head(*own, out / "head.safetensors")
        return
    arrays, topology = assemble(read_statistics(meshes), settings or HeadSettings())
    out.mkdir(parents=True, exist_ok=True)
    written = save_head(arrays, topology, out / "head.safetensors")
    log.info("%d vertices after %.0f s", len(arrays.template), time.perf_counter() - start)
    outfit = dress(
        load_head(out / "head.safetensors"), generator=torch.Generator().manual_seed(seed)
    )
    worn = outfit.save(out / "skin.safetensors", out / "hair.safetensors")
    log.info("dressed after %.0f s", time.perf_counter() - start)
    package = Path(__file__).resolve().parents[1] / "assets"
    if not out.resolve().is_relative_to(package):
        return
    recipe = "python -m flame.build --meshes ict_facekit.npz --out assets/head"
    register(
        name="head",
        purpose="parametric head: identity, 52 ARKit expressions, jaw, eyes, skinning, UV",
        licence="MIT",
        attribution=ATTRIBUTION,
        recipe=recipe,
        files=written,
        seed=seed,
    )
    register(
        name="outfit",
        purpose="skin albedo model, surface maps, mouth, lashes and hair styles of the head",
        licence="MIT",
        attribution="Painted and grown by this project's scripts",
        recipe=recipe,
        files=worn,
        seed=seed,
    )


def main() -> None:
    """Parse the command line and build; an error the user can mend is one line, exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m flame.build", description=build.__doc__)
    parser.add_argument(
        "--meshes", type=Path, required=True, help="registered meshes: .npz or folder"
    )
    parser.add_argument("--out", type=Path, default=Path("out/head"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="of painted and grown detail")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        build(given.meshes, given.out, seed=given.seed)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"flame.build needs {error.name}: pip install 'prompt-to-avatar[build]'\n")
        sys.exit(2)
    except (AssetError, ValueError) as error:
        sys.stderr.write(f"flame.build: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"{given.out}\n")


if __name__ == "__main__":
    main()
