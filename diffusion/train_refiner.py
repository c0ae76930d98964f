"""Train a refiner: a portrait model's UNet taught to draw its pictures anew, twice as large.

It is shown a draft beside the noise, as InstructPix2Pix is (Brooks et al. 2023). Drafts are what
the model itself makes of pictures after some noise, so that its mistakes are seen with the truth.
Writes RUN/unet, a folder that UNet2DConditionModel opens. The model stays as it is.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from assets.files import replacing
from diffusion.train_options import accelerator_of, add_run_options, run_config

if TYPE_CHECKING:
    from diffusion.train_latents import Lesson
    from diffusion.train_noise import Predict
    from diffusion.train_pictures import Captioned

log = logging.getLogger(__name__)

FOLDER = "unet"
_STRENGTHS = (0.3, 0.4, 0.5, 0.65, 0.75, 0.85)  # of drawing over, by which drafts differ
_DRAFT_STEPS, _DRAFT_CFG = 8, 2.5
_BLOCK = 32  # drafts at once
_SHADED = 4  # of so many blocks all but the last have their pictures' fine shade
_SHADE = (0.6, 1.15)  # how much of it, by chance


def refiner_unet(unet: Any) -> Any:
    """The UNet itself, which takes latents of a draft after its own, and is deaf to them at first.

    Twice as large pictures are its own size now.
    """
    old = unet.conv_in
    count = old.in_channels
    conv = nn.Conv2d(2 * count, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, :count] = old.weight
        conv.bias.copy_(old.bias)  # type: ignore[union-attr]
    unet.conv_in = conv
    unet.register_to_config(in_channels=2 * count, sample_size=2 * unet.config.sample_size)
    return unet


@torch.no_grad()
def drafts_of(
    found: Sequence[Captioned], pipeline: Any, known: str, folder: Path, *, seed: int
) -> Any:
    """The latents of each picture's enlarged draft, in a file that is made once, [N, C, h, w].

    Most have the fine shade of their pictures, as if those were sketches. The file of the pictures
    as they are read and the model's hash `known` make this one's name.
    """
    from diffusers import StableDiffusionImg2ImgPipeline

    from diffusion.quiet import loading
    from diffusion.refiner import enlarged_draft
    from diffusion.train_files import rows_of
    from diffusion.train_latents import read_name
    from diffusion.train_pictures import pixels_of

    side = int(pipeline.vae_scale_factor * pipeline.unet.config.sample_size)
    pixels = pixels_of(found, side, folder)
    path = folder / f"drafts-{read_name(pixels)}-shade-{known[:16]}-{seed}.npy"
    if not path.is_file():
        log.info("drafting %d pictures into %s", len(found), path)
        parts = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
        with loading("the portrait model", whole=False):
            drawer = StableDiffusionImg2ImgPipeline(
                **{part: getattr(pipeline, part) for part in parts},
                scheduler=pipeline.scheduler,
                requires_safety_checker=False,
            )
        drawer.set_progress_bar_config(disable=True)
        channels, cells = pipeline.unet.config.in_channels, 2 * pipeline.unet.config.sample_size
        shape = (len(found), channels, cells, cells)
        with replacing(path) as written:
            array = np.lib.format.open_memmap(written, "w+", dtype=np.float16, shape=shape)
            for start in range(0, len(found), _BLOCK):
                rows = torch.arange(start, min(start + _BLOCK, len(found)))
                block = start // _BLOCK
                strength = _STRENGTHS[block // _SHADED % len(_STRENGTHS)]
                drafts = drawer(
                    [found[row].said(block) for row in rows.tolist()],
                    image=torch.from_numpy(rows_of(pixels, rows)).float() / 255,
                    strength=strength,
                    num_inference_steps=round(_DRAFT_STEPS / strength),
                    guidance_scale=_DRAFT_CFG,
                    output_type="pt",
                    generator=torch.Generator().manual_seed(seed + start),
                ).images
                these = [found[row] for row in rows.tolist()]
                shown = enlarged_draft(drafts, _sketches(these, 2 * side, block))
                code = pipeline.vae.encode(2 * shown - 1).latent_dist.mode()
                array[start : start + len(rows)] = code.half().cpu().numpy()
            array.flush()
            del array
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _sketches(found: Sequence[Captioned], side: int, block: int) -> Tensor | None:
    """The pictures as drafts of a block are told of them [B, 3, S, S]; None of some blocks."""
    from diffusion.train_pictures import read_square

    if block % _SHADED == _SHADED - 1:
        return None
    pictures = torch.cat([read_square(one.path, side) for one in found])
    generator = torch.Generator().manual_seed(block)
    low, high = _SHADE
    share = low + (high - low) * torch.rand(len(found), 1, 1, 1, generator=generator)
    # a part of the shade is that of a picture as much nearer to grey
    return 0.5 + share * (pictures - 0.5)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add = parser.add_argument
    add("--pictures", type=Path, nargs="+", required=True, help="folders of captioned pictures")
    add("--cache", type=Path, help="folder of read pictures; RUN by default")
    add("--model", type=Path, required=True, help="the portrait model's folder")
    add("--start", type=Path, help="a refiner's folder to go on from, as an older one's")
    add("--dropout", type=float, default=0.2, help="share of captions left empty")
    add("--ship", action="store_true", help="write it under assets/portrait-refiner at the end")
    add_run_options(parser, steps=20_000, batch=16, rate=4e-4, save_every=500)


def run(options: argparse.Namespace) -> Path:
    """Read pictures, train, write the folder."""
    from diffusion.fingerprint import model_hash
    from diffusion.load import load_pipeline
    from diffusion.refiner import refined, refiner_pipeline
    from diffusion.train_files import start_from, write_network, write_sheet
    from diffusion.train_latents import checksums_of, lessons_of
    from diffusion.train_noise import NoiseConfig, prompted_loss
    from diffusion.train_pictures import read_captions
    from diffusion.train_run import Run, descend

    if not 0 <= options.dropout < 1:
        raise ValueError(f"dropout={options.dropout} must be from 0 to below 1; 0.2 is usual")
    config = run_config(options, warm_up=30, fall="cosine", ema=0.998)
    noise = NoiseConfig(None)
    found = read_captions(options.pictures)
    accelerator = accelerator_of(options)
    device = accelerator.device
    cache = options.cache or options.run
    pipeline = load_pipeline(options.model).to(device)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False).eval()
        part.to(memory_format=torch.channels_last)
    known = model_hash(options.model)
    side = 2 * pipeline.vae_scale_factor * pipeline.unet.config.sample_size
    with accelerator.main_process_first(), accelerator.autocast():
        drafts = drafts_of(found, pipeline, known, cache, seed=config.seed)
        lessons = lessons_of(found, pipeline, checksums_of(options.model)[0], side, cache)
    unet = refiner_unet(pipeline.unet)
    if options.start is not None:
        start_from(unet, options.start)
    unet.to(device).requires_grad_(True).train()
    weights = dict(unet.named_parameters())
    told = {"pictures": len(found), "model": known, "seed": config.seed, "descent": config.descent}
    training = Run(options.run, weights, config, told)
    log.info("%d pictures of %d px", len(found), side)

    def drafted(rows: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(drafts[rows.numpy()])).float().to(device)

    def predictor(lesson: Lesson, heard: Tensor) -> Predict:
        shown = drafted(lesson.rows)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            made: Tensor = unet(torch.cat([noisy, shown], dim=1), timesteps, heard).sample
            return made

        return predict

    def on_save() -> None:
        unet.eval()
        write_network(unet, options.run / FOLDER, torch.float16)
        chosen = torch.arange(0, len(found), max(1, len(found) // 8))[:8]
        with torch.no_grad():
            blurred = pipeline.vae.decode(drafted(chosen)).sample.clamp(-1, 1) / 2 + 0.5
        said = [found[int(row)].said(0) for row in chosen]
        drawn = refined(refiner_pipeline(pipeline, unet), said, blurred, seed=config.seed)
        write_sheet(options.run / f"preview-{training.step:06d}.png", [blurred, drawn])
        unet.train()

    last = descend(
        training,
        prompted_loss(pipeline, lessons, predictor, accelerator, config, options.dropout, noise),
        accelerator,
        minutes=options.minutes,
        pause_minutes=options.pause_after,
        on_save=on_save,
    )
    made = Path(options.run) / FOLDER
    if options.ship and accelerator.is_main_process:
        from diffusion.train_ship import ship_refiner

        ship_refiner(made, options.run / "loss.csv", len(found), last, config.seed)
    return made
