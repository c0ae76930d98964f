"""Train the portrait model: tokenizer, text encoder and UNet, on folders of captioned pictures.

Writes RUN/model, a folder that StableDiffusionPipeline opens.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from diffusion.train_options import accelerator_of, add_run_options, run_config
from diffusion.train_vae import add_picture_options

log = logging.getLogger(__name__)

_AT_LATENTS = ("conv_in.", "conv_out.")  # layers of the UNet
_WHOLE_PROMPT = "add_embedding."


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add_picture_options(parser)
    add = parser.add_argument
    add("--vae", type=Path, required=True, help="the autoencoder's folder, RUN/vae of that stage")
    add(
        "--start",
        type=Path,
        help="a model's folder to start from, as that of 128 pixels for 256; "
        "layers that meet latents start anew where there are more of them",
    )
    add("--dropout", type=float, default=0.1, help="share of captions left empty")
    # min-SNR weights of a velocity fall to nothing where noise is highest, and captions are heard
    # there before anywhere else: short runs learn no words with them
    add("--min-snr", type=float, default=0.0, help="0 weighs all noise levels alike")
    add(
        "--word-steps",
        type=int,
        default=0,
        help="teach the text encoder words first, for so many steps, and keep it fixed after that",
    )
    add("--no-mirror", dest="mirror", action="store_false", help="of no use where faces are even")
    add("--noise-offset", type=float, default=0.0)
    add("--middle", type=float, default=0.0, help="share of timesteps drawn from the middle")
    add("--prompts", type=Path, help="text file, a prompt a line, for previews")
    add("--ship", action="store_true", help="write it under assets/portrait at the end")
    add_run_options(parser, steps=100_000, batch=64, rate=4e-4, save_every=2500)


def run(options: argparse.Namespace, shape: Any = None) -> Path:
    """Read pictures, learn words, encode, train, write the folder; `shape` None is `--size`'s."""
    from diffusion.train_files import portrait_pipeline, read_vae, write_model
    from diffusion.train_latents import CaptionedLatents, checksums_of, latents_of
    from diffusion.train_noise import NoiseConfig, denoising_losses, training_scheduler
    from diffusion.train_pictures import mirrored, pixels_of, read_captions
    from diffusion.train_run import Run, descend, generator_at
    from diffusion.train_shapes import (
        NOISE,
        SIZES,
        portrait_text_encoder,
        portrait_unet,
        seeded,
    )
    from diffusion.train_text import token_ids

    if not 0 <= options.dropout < 1:
        raise ValueError(f"dropout={options.dropout} must be from 0 to below 1; 0.1 is usual")
    shape = shape or SIZES[options.size]
    config = run_config(options, warm_up=30, fall="cosine", ema=0.999)
    noise = NoiseConfig(options.min_snr or None, options.noise_offset, options.middle)
    found = read_captions(options.pictures)
    captions = [str(picture.caption) for picture in found]
    ways = max(1, *(len(picture.captions) for picture in found))
    everything = [picture.said(way) for picture in found for way in range(ways)]
    accelerator = accelerator_of(options)
    device = accelerator.device
    cache = options.cache or options.run
    vae = read_vae(options.vae).to(device).requires_grad_(False).eval()
    with accelerator.main_process_first():
        pixels = pixels_of(found, shape.side, cache)
        sums = checksums_of(options.vae)
        with accelerator.autocast():
            latents = latents_of(vae, pixels, sums[0], cache, mirror=options.mirror)
        tokenizer = _tokenizer(options, everything, shape)
    with seeded(config.seed):
        text_encoder = portrait_text_encoder(shape, tokenizer)
        unet = portrait_unet(shape)
    if options.start is not None:
        _start_from(options.start, text_encoder, unet)
    text_encoder.to(device).train()
    unet.to(device).train()
    pipeline = portrait_pipeline(vae, text_encoder, tokenizer, unet)
    if device.type == "cuda":
        latents = torch.from_numpy(np.array(latents)).to(device)
    plain, turned = (
        token_ids(tokenizer, words).view(len(found), ways, -1)
        for words in (everything, [mirrored(caption) for caption in everything])
    )
    ids = torch.stack([plain, turned], dim=2)
    scale = float(vae.config.scaling_factor)
    lessons = CaptionedLatents(latents, ids, token_ids(tokenizer, [""])[0], scale)
    weights = {f"unet.{n}": w for n, w in unet.named_parameters()}
    if options.word_steps:
        _with_words(text_encoder, ids.flatten(0, 2), options)
    else:
        weights |= {f"text_encoder.{n}": w for n, w in text_encoder.named_parameters()}
    told = {"pictures": len(found), "size": shape.side, "words": len(tokenizer), "vae": sums}
    told |= {"word_steps": options.word_steps, "descent": config.descent}
    training = Run(options.run, weights, config, {**told, "seed": config.seed})
    scheduler = training_scheduler(NOISE)
    log.info(
        "%d pictures, %d words, %.1f million numbers",
        *(len(found), len(tokenizer), sum(w.numel() for w in weights.values()) / 1e6),
    )

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = generator_at(config.seed, number)
        lesson = lessons.draw(config.batch, options.dropout, generator=generator)
        with accelerator.autocast():
            with torch.set_grad_enabled(not options.word_steps):
                heard = text_encoder(lesson.ids.to(device))[0]

            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                made: Tensor = unet(noisy, timesteps, heard).sample
                return made

            losses = denoising_losses(
                predict, lesson.latents.to(device), scheduler, noise, generator=generator
            )
        return losses.mean(), {}

    prompts = _prompts(options.prompts, captions)

    def on_save() -> None:
        unet.eval()
        text_encoder.eval()
        with accelerator.autocast():
            path = options.run / f"preview-{training.step:06d}.png"
            _preview(pipeline, prompts, path, seed=config.seed)
        write_model(pipeline, options.run / "model")
        unet.train()
        text_encoder.train(not options.word_steps)

    last = descend(
        training,
        loss_of,
        accelerator,
        minutes=options.minutes,
        pause_minutes=options.pause_after,
        on_save=on_save,
    )
    if options.ship and accelerator.is_main_process:
        from diffusion.train_ship import ship_portrait

        ship_portrait(options.run / "model", shape.side, len(found), last, config.seed)
    return Path(options.run) / "model"


def _with_words(text_encoder: Any, ids: Int[Tensor, "N W"], options: argparse.Namespace) -> None:
    """Teach the text encoder, or read what it was taught when the run began."""
    from assets.weights import load_weights, write_tensors
    from diffusion.train_words import teach_words

    file = options.run / "words.safetensors"
    if file.is_file():
        load_weights(text_encoder, file)
    else:
        generator = torch.Generator().manual_seed(options.seed)
        heard = teach_words(text_encoder, ids, options.word_steps, generator=generator)
        log.info("%.1f %% of the pairs of words are heard", 100 * heard)
        write_tensors(text_encoder.state_dict(), file)
    text_encoder.requires_grad_(False).eval()


def _tokenizer(options: argparse.Namespace, captions: Sequence[str], shape: Any) -> Any:
    """The run's own tokenizer, learnt at its first start; one to start from keeps its words."""
    from diffusion.train_text import read_tokenizer, write_tokenizer

    folder = options.run / "tokenizer"
    if options.start is not None:
        return read_tokenizer(options.start / "tokenizer", shape.text_tokens)
    if not (folder / "merges.txt").is_file():
        write_tokenizer(folder, captions, shape.words)
    return read_tokenizer(folder, shape.text_tokens)


def _start_from(folder: Path, text_encoder: Any, unet: Any) -> None:
    from assets.errors import AssetError
    from assets.weights import install_weights
    from diffusion.load import load_pipeline

    before = load_pipeline(folder)
    for part, network in (("text_encoder", text_encoder), ("unet", unet)):
        held = getattr(before, part, None)
        if held is None:
            raise AssetError(f"{folder} has no {part}; give a folder that this stage wrote")
        weights = held.state_dict()
        if part == "unet" and held.config.in_channels != unet.config.in_channels:
            # latents of another autoencoder mean something else
            fresh = network.state_dict()
            weights |= {name: fresh[name] for name in fresh if name.startswith(_AT_LATENTS)}
        if part == "unet" and held.config.addition_embed_type is None:
            fresh = network.state_dict()
            weights |= {name: fresh[name] for name in fresh if name.startswith(_WHOLE_PROMPT)}
        install_weights(network, weights, described=f"{folder}/{part}")


def _prompts(file: Path | None, captions: Sequence[str]) -> list[str]:
    """What previews show: four lines of a file, or captions from all over the set."""
    if file is None:
        return list(captions[:: max(1, len(captions) // 4)][:4])
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    if not any(lines):
        raise ValueError(f"{file} has no prompt; write one a line")
    return [line for line in lines if line][:4]


def _preview(pipeline: Any, prompts: Sequence[str], path: Path, *, seed: int) -> None:
    """Two pictures of each prompt."""
    from diffusion.from_prompt import txt2img
    from diffusion.recipe import Recipe
    from diffusion.train_files import write_sheet

    recipes = [
        Recipe(prompt=_plain(words), cfg=4.0, steps=20, seed=seed, batch=2) for words in prompts
    ]
    drawn = [txt2img(pipeline, recipe) for recipe in recipes]
    write_sheet(path, [torch.cat([pair[k : k + 1] for pair in drawn]) for k in range(2)])


def _plain(caption: str) -> str:
    """A caption in the prompts' grammar, where brackets have a meaning."""
    for letter in "\\()[]<>":
        caption = caption.replace(letter, " ")
    return caption
