"""Training of diffusion models: `python -m diffusion.train STAGE --help`.

lora and embedding teach a model of SD 1.x, 2.x or SDXL something new from a few photos; vae,
portrait, refiner, control and reader make the small portrait model, in that order, from folders of
captioned pictures.
"""

from __future__ import annotations

import argparse
import logging

from assets.errors import AssetError
from diffusion import (
    train_control,
    train_embedding,
    train_lora,
    train_portrait,
    train_reader,
    train_refiner,
    train_ship,
    train_vae,
)

log = logging.getLogger(__name__)

_STAGES = {
    "lora": train_lora,
    "embedding": train_embedding,
    "vae": train_vae,
    "portrait": train_portrait,
    "control": train_control,
    "reader": train_reader,
    "refiner": train_refiner,
    "ship": train_ship,
}


def main(arguments: list[str] | None = None) -> None:
    """The command line: one stage a training, each with its own options."""
    parser = argparse.ArgumentParser(prog="python -m diffusion.train", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, module in _STAGES.items():
        about = module.__doc__ or ""
        module.add_options(stages.add_parser(name, help=about.splitlines()[0], description=about))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        written = _STAGES[options.stage].run(options)
    except (AssetError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    log.info("%s", written)


if __name__ == "__main__":
    main()
