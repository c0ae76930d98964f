"""Train a ControlNet for a portrait model, on pictures with captions and conditions.

Writes RUN/control, a folder that ControlNetModel opens. The model itself stays as it is.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from assets.errors import AssetError
from diffusion.train_options import accelerator_of, add_run_options, run_config

if TYPE_CHECKING:
    from diffusion.train_latents import Lesson
    from diffusion.train_noise import Predict

log = logging.getLogger(__name__)

FOLDER = "control"
_EMBEDDING = (16, 32, 64, 96)  # widths over three halvings, from pixels to latents


def portrait_control(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet that starts as a copy of a UNet's first half (Zhang et al. 2023)."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=_EMBEDDING)
    if unet.config.addition_embed_type == "text":
        # `from_unet` copies the weights and not the number of heads that they are for
        heads = int(unet.config.addition_embed_type_num_heads)
        net.register_to_config(addition_embed_type_num_heads=heads)
        pool = net.add_embedding.pool
        pool.num_heads, pool.dim_per_head = heads, pool.q_proj.out_features // heads
    return net


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add = parser.add_argument
    add(
        "--pictures",
        type=Path,
        nargs="+",
        required=True,
        help="folders of pictures with captions and conditions, as deca.synth_captioned "
        "--conditions writes them",
    )
    add("--cache", type=Path, help="folder of read pictures; RUN by default")
    add("--model", type=Path, required=True, help="the portrait model's folder")
    add("--start", type=Path, help="a ControlNet's folder to go on from, as an older model's")
    add("--dropout", type=float, default=0.3, help="share of captions left empty")
    add("--middle", type=float, default=0.5, help="share of timesteps drawn from the middle")
    add("--ship", action="store_true", help="write it under assets/portrait-control at the end")
    add_run_options(parser, steps=20_000, batch=64, rate=4e-4, save_every=1000)


def run(options: argparse.Namespace) -> Path:
    """Read pictures and conditions, train, write the folder."""
    from diffusion.fingerprint import model_hash
    from diffusion.load import load_pipeline
    from diffusion.train_files import rows_of, start_from, write_network
    from diffusion.train_latents import checksums_of, lessons_of
    from diffusion.train_noise import NoiseConfig, prompted_loss
    from diffusion.train_pictures import Captioned, pixels_of, read_captions
    from diffusion.train_run import Run, descend

    if not 0 <= options.dropout < 1:
        raise ValueError(f"dropout={options.dropout} must be from 0 to below 1; 0.3 is usual")
    config = run_config(options, warm_up=30, fall="cosine", ema=0.995)
    noise = NoiseConfig(None, 0.0, options.middle)
    found = read_captions(options.pictures)
    if lacking := [str(picture.path) for picture in found if picture.condition is None]:
        raise AssetError(
            f"{lacking[0]} has no condition; write pictures with deca.synth_captioned --conditions"
        )
    shown = [Captioned(Path(str(picture.condition))) for picture in found]
    accelerator = accelerator_of(options)
    device = accelerator.device
    cache = options.cache or options.run
    pipeline = load_pipeline(options.model).to(device)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False).eval()
    side = pipeline.vae_scale_factor * pipeline.unet.config.sample_size
    with accelerator.main_process_first():
        conditions = pixels_of(shown, side, cache)
        lessons = lessons_of(found, pipeline, checksums_of(options.model)[0], side, cache)
    net = portrait_control(pipeline.unet)
    if options.start is not None:
        start_from(net, options.start)
    net.to(device).requires_grad_(True).train()
    weights = dict(net.named_parameters())
    told = {"pictures": len(found), "model": model_hash(options.model)}
    told |= {"descent": config.descent, "seed": config.seed}
    training = Run(options.run, weights, config, told)
    log.info(
        "%d pictures, %.1f million numbers",
        *(len(found), sum(w.numel() for w in weights.values()) / 1e6),
    )

    def predictor(lesson: Lesson, heard: Tensor) -> Predict:
        condition = torch.from_numpy(rows_of(conditions, lesson.rows)).to(device).float() / 255

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            down, middle = net(
                noisy, timesteps, heard, controlnet_cond=condition, return_dict=False
            )
            made: Tensor = pipeline.unet(
                noisy, timesteps, heard,
                down_block_additional_residuals=down, mid_block_additional_residual=middle,
            ).sample  # fmt: skip
            return made

        return predict

    def on_save() -> None:
        net.eval()
        write_network(net, options.run / FOLDER, torch.float16)
        chosen = torch.arange(0, len(found), max(1, len(found) // 4))[:4]
        pictures = torch.from_numpy(rows_of(conditions, chosen)).float() / 255
        said = [found[int(row)].said(0) for row in chosen]
        path = options.run / f"preview-{training.step:06d}.png"
        _preview(pipeline, net, said, pictures, path, seed=config.seed)
        net.train()

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
        from diffusion.train_ship import ship_control

        ship_control(made, options.run / "loss.csv", len(found), last, config.seed)
    return made


def _preview(
    pipeline: Any, net: Any, said: list[str], conditions: Tensor, path: Path, *, seed: int
) -> None:
    """Each condition with a picture of its caption below it."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionControlNetPipeline

    from diffusion.quiet import loading
    from diffusion.train_files import write_sheet

    parts = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
    with loading("the ControlNet", whole=False):
        drawer = StableDiffusionControlNetPipeline(
            **{part: getattr(pipeline, part) for part in parts},
            controlnet=net,
            scheduler=EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config),
            requires_safety_checker=False,
        )
    drawer.set_progress_bar_config(disable=True)
    drawn = drawer(
        said,
        image=conditions.to(pipeline.device),
        num_inference_steps=20,
        guidance_scale=3.0,
        output_type="pt",
        generator=torch.Generator().manual_seed(seed),
    ).images
    write_sheet(path, [conditions, drawn])
