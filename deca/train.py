"""Training of the networks in this package: `python -m deca.train STAGE --help`."""

from __future__ import annotations

import argparse
import logging

from assets.errors import AssetError
from deca import train_codes, train_detail_net, train_faces, train_landmarks, train_photos

_STAGES = {
    "landmarks": train_landmarks,
    "codes": train_codes,
    "faces": train_faces,
    "wrinkles": train_detail_net,
    "coarse": train_photos,
    "detail": train_photos,
}


def main(arguments: list[str] | None = None) -> None:
    """The command line: one stage a network, each with its own options."""
    parser = argparse.ArgumentParser(prog="python -m deca.train", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, module in _STAGES.items():
        module.add_options(stages.add_parser(name, help=(module.__doc__ or "").splitlines()[0]))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _STAGES[options.stage].run(options)
    except (AssetError, ValueError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
