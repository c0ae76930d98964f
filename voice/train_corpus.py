"""Prepare the speech that the other stages train on: real recordings, singing, rendered speech."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from voice.corpus import Take, write_corpus
from voice.corpus_real import manifest_takes, speaker_takes
from voice.corpus_synth import rendered_takes

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m voice.train corpus`."""
    parser.add_argument(
        "--recordings", type=Path, action="append", default=[], help="a folder with a manifest.csv"
    )
    parser.add_argument("--speakers", type=Path, help="a folder with one sub-folder a speaker")
    parser.add_argument("--licence", default="the user's own", help="of what --speakers names")
    parser.add_argument("--render", type=int, default=0, help="sentences of each rendered style")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/corpus"))


def run(options: argparse.Namespace) -> None:
    """Write the corpus and log what is in it."""
    parts: list[Iterable[Take]] = [manifest_takes(folder) for folder in options.recordings]
    if options.speakers:
        parts.append(speaker_takes(options.speakers, options.licence))
    if options.render:
        generator = torch.Generator().manual_seed(options.seed)
        parts.append(rendered_takes(options.render, generator=generator))
    if not parts:
        raise ValueError("nothing to prepare; give --recordings, --speakers or --render")
    corpus = write_corpus(itertools.chain(*parts), options.out)
    minutes: defaultdict[str, float] = defaultdict(float)
    for clip in corpus.clips:
        minutes[clip.corpus] += clip.seconds / 60
    held = len(corpus.indices(held_out=True))
    log.info("%d clips, %d of them held out, in %s", len(corpus), held, options.out)
    for name, length in minutes.items():
        log.info("%s: %.1f minutes, %s", name, length, corpus.licences()[name])
