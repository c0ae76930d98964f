"""Training of the voice's networks: `python -m voice.train STAGE --help`.

corpus comes first, then vocoder, f0, phonemes, asr and teacher in any order, and converter, which
needs f0 and, by its recipe, teacher or asr.
"""

from __future__ import annotations

import argparse
import logging

from assets.errors import AssetError
from voice import (
    train_asr,
    train_converter,
    train_corpus,
    train_f0,
    train_phoneme_net,
    train_teacher,
    train_vocoder,
)

_STAGES = {
    "corpus": train_corpus,
    "vocoder": train_vocoder,
    "f0": train_f0,
    "asr": train_asr,
    "teacher": train_teacher,
    "converter": train_converter,
    "phonemes": train_phoneme_net,
}


def main(arguments: list[str] | None = None) -> None:
    """The command line: one stage a network, each with its own options."""
    parser = argparse.ArgumentParser(
        prog="python -m voice.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
