"""Train the network that reads which words a caption of a picture has, to choose among drawings.

It sees the pictures as the model's autoencoder gives them back, and, for what is wrong with
drawings, the model's own of the same captions. Writes RUN/reader.safetensors.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from diffusion.caption_reader import WIDTHS
from diffusion.train_options import accelerator_of, add_run_options, run_config
from diffusion.train_vae import Ahead

log = logging.getLogger(__name__)

_COPIED, _DRAWN = 32, 16  # pictures at once
_HELD_OUT = 8  # one drawing in so many is not trained on
_SHARE_DRAWN = 0.25  # of a batch


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add = parser.add_argument
    add("--pictures", type=Path, nargs="+", required=True, help="folders with captions")
    add("--model", type=Path, required=True, help="the model whose drawings it will choose from")
    add("--cache", type=Path, help="folder of read and drawn pictures; RUN by default")
    add("--size", type=int, default=128, help="pixels a side")
    add("--drawn", type=int, default=1200, help="drawings to learn from")
    add("--ship", action="store_true", help="write it under assets/ at the end")
    add_run_options(parser, steps=4000, batch=64, rate=1e-3, save_every=500)


def run(options: argparse.Namespace, *, widths: Sequence[int] = WIDTHS) -> Path:
    """Read, copy and draw pictures, train, write the network."""
    from diffusion.caption_reader import CaptionReader, ReaderConfig, said_items, save_reader
    from diffusion.load import load_pipeline
    from diffusion.train_files import rows_of
    from diffusion.train_pictures import mirrored, pixels_of, read_captions
    from diffusion.train_run import Run, descend, generator_at
    from diffusion.train_shapes import seeded
    from diffusion.train_words import frequent_pairs

    config = run_config(options, warm_up=50, fall="cosine", ema=0.998, weight_decay=0.02)
    accelerator = accelerator_of(options)
    found, cache = read_captions(options.pictures), options.cache or options.run
    pipeline = load_pipeline(options.model)
    with accelerator.main_process_first():
        pixels = pixels_of(found, options.size, cache)
        copies = _copied(pixels, pipeline.vae, cache / f"copied-{len(found)}.npy")
        told_of = _told(len(found), options.drawn, config.seed)
        captions = [found[row].said(k) for k, row in enumerate(told_of)]
        drawings = _drawn(captions, pipeline, cache / f"drawn-{len(captions)}.npy", config.seed)

    def tokens_of(words: str) -> list[int]:
        ids: list[int] = pipeline.tokenizer(words, truncation=True).input_ids
        return ids

    pairs = frequent_pairs([tokens_of(one.said(0)) for one in found])
    with seeded(config.seed):
        settings = ReaderConfig(len(pipeline.tokenizer), tuple(pairs), options.size, tuple(widths))
        net = CaptionReader(settings).to(accelerator.device)
    told = {"pictures": len(found), "drawn": len(captions), "seed": config.seed}
    training = Run(options.run, dict(net.named_parameters()), config, told)
    held_out = torch.arange(len(captions)) % _HELD_OUT == 0
    learnt = (~held_out).nonzero()[:, 0]

    def batch_of(number: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = generator_at(config.seed, number)
        count = round(_SHARE_DRAWN * config.batch)
        rows = torch.randint(len(found), (config.batch - count,), generator=generator)
        of_drawn = learnt[torch.randint(len(learnt), (count,), generator=generator)]
        seen = np.concatenate([rows_of(copies, rows), rows_of(drawings, of_drawn)])
        is_mirrored = torch.rand(len(rows), generator=generator) < 0.5
        ways = torch.randint(1000, (len(rows),), generator=generator).tolist()
        lines = []
        for row, way, flips in zip(rows.tolist(), ways, is_mirrored.tolist(), strict=True):
            words = found[row].said(way)
            lines.append(tokens_of(mirrored(words) if flips else words))
        flip = torch.cat([is_mirrored, torch.rand(count, generator=generator) < 0.5])
        images = torch.from_numpy(seen).float() / 255
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        said = said_items(lines, settings)
        return _disturbed(images, generator), said, torch.arange(config.batch) < len(rows)

    batches = Ahead(batch_of, accelerator.num_processes)

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, said, is_real = (part.to(accelerator.device) for part in batches(number))
        with accelerator.autocast():
            heard, real = net(images)
        heard, real = heard.float(), real.float()
        words = F.binary_cross_entropy_with_logits(heard[: len(said)], said)
        drawn = F.binary_cross_entropy_with_logits(real, is_real.float())
        right = ((real > 0) == is_real).float().mean()
        loss = 100 * words + 0.5 * drawn
        return loss, {"words": words.detach(), "drawn": drawn.detach(), "told apart": right}

    file = Path(options.run) / "reader.safetensors"

    @torch.no_grad()
    def on_save() -> None:
        net.eval()
        unseen = torch.from_numpy(rows_of(drawings, held_out.nonzero()[:, 0])).float() / 255
        real = net(unseen.to(accelerator.device))[1]
        log.info("drawings not learnt from, known as such: %.2f", float((real < 0).float().mean()))
        net.train()
        save_reader(net, file)

    try:
        last = descend(
            training,
            loss_of,
            accelerator,
            minutes=options.minutes,
            pause_minutes=options.pause_after,
            on_save=on_save,
        )
    finally:
        batches.close()
    if options.ship and accelerator.is_main_process:
        from diffusion.train_ship import ship_reader

        ship_reader(file, options.run / "loss.csv", len(found), last, config.seed)
    return file


def _told(pictures: int, drawn: int, seed: int) -> list[int]:
    """Whose captions are drawn."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = torch.randint(pictures, (drawn,), generator=generator).tolist()
    return rows


@torch.no_grad()
def _copied(
    pixels: UInt8[np.ndarray, "N 3 S S"], vae: Any, path: Path
) -> UInt8[np.ndarray, "N 3 S S"]:
    """The pictures as an autoencoder gives them back; a file, made once."""
    from assets.files import replacing
    from diffusion.train_pictures import to_floats

    if not path.is_file():
        log.info("copying %d pictures through the autoencoder", len(pixels))
        with replacing(path) as written:
            array = np.lib.format.open_memmap(written, "w+", dtype=np.uint8, shape=pixels.shape)
            for first in range(0, len(pixels), _COPIED):
                images = to_floats(np.array(pixels[first : first + _COPIED]))
                latents = vae.encode(images.to(vae.device)).latent_dist.mean
                array[first : first + _COPIED] = _bytes(vae.decode(latents).sample / 2 + 0.5)
            array.flush()
            del array  # a mapped file cannot be renamed on every system
    return _opened(path)


@torch.no_grad()
def _drawn(
    captions: Sequence[str], pipeline: Any, path: Path, seed: int
) -> UInt8[np.ndarray, "N 3 S S"]:
    """The model's own pictures of captions; a file, made once."""
    from assets.files import replacing
    from diffusion.samplers import scheduler_for
    from diffusion.shipped_portrait import CFG, SAMPLER, STEPS

    if not path.is_file():
        log.info("drawing %d captions", len(captions))
        pipeline.scheduler = scheduler_for(SAMPLER, pipeline.scheduler.config)
        found = []
        for first in range(0, len(captions), _DRAWN):
            words = list(captions[first : first + _DRAWN])
            noise = [torch.Generator().manual_seed(seed + first + k) for k in range(len(words))]
            made = pipeline(
                words,
                num_inference_steps=STEPS,
                guidance_scale=CFG,
                generator=noise,
                output_type="pt",
            )
            found.append(_bytes(made.images))
        with replacing(path) as written, open(written, "wb") as file:
            np.save(file, np.concatenate(found))
    return _opened(path)


def _opened(path: Path) -> UInt8[np.ndarray, "N 3 S S"]:
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r", allow_pickle=False)
    return pixels


def _bytes(images: Float[Tensor, "B 3 S S"]) -> UInt8[np.ndarray, "B 3 S S"]:
    texels: np.ndarray[Any, np.dtype[np.uint8]] = (
        (images.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    )
    return texels


def _disturbed(images: Tensor, generator: torch.Generator) -> Tensor:
    """A little brighter or darker, off in colour and in place."""
    gain = 0.94 + 0.12 * torch.rand(len(images), 3, 1, 1, generator=generator)
    down, right = (int(v) for v in torch.randint(-4, 5, (2,), generator=generator))
    moved: Tensor = F.pad(images, (4, 4, 4, 4), mode="replicate")
    side = images.shape[-1]
    moved = moved[..., 4 + down : 4 + down + side, 4 + right : 4 + right + side]
    return (moved * gain).clamp(0, 1)
