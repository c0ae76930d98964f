"""Train the network that makes the portrait model's pictures of 128 pixels twice as large.

Writes RUN/upscaler.safetensors.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.train_options import accelerator_of, add_run_options, run_config
from diffusion.train_vae import Ahead, crops, edge_error

log = logging.getLogger(__name__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add = parser.add_argument
    add("--pictures", type=Path, nargs="+", required=True, help="folders of pictures")
    add("--cache", type=Path, help="folder of read pictures; RUN by default")
    add("--size", type=int, default=256, help="pixels a side after enlarging")
    add("--crop", type=int, default=0, help="pixels a side of the pieces to learn from; 0: wholes")
    add("--vae", type=Path, help="autoencoder whose faults it is to mend")
    add("--vae-share", type=float, default=0.5, help="of the pictures that go through it")
    add("--width", type=int, default=48)
    add("--blocks", type=int, default=8)
    add("--ship", action="store_true", help="write it under assets/portrait at the end")
    add_run_options(parser, steps=20_000, batch=32, rate=3e-4, save_every=1000)


def run(options: argparse.Namespace) -> Path:
    """Read the pictures, train, write the network."""
    from assets.weights import write_tensors
    from diffusion.train_files import read_vae, rows_of, write_sheet
    from diffusion.train_pictures import Captioned, list_pictures, pixels_of, to_floats
    from diffusion.train_run import Run, descend, generator_at
    from diffusion.train_shapes import seeded
    from diffusion.train_upscaler_net import Upscaler

    for name, side in (("size", options.size), ("crop", options.crop or options.size)):
        if not 16 <= side <= options.size or side % 16:
            raise ValueError(f"{name}={side} must be a multiple of 16 up to the size")
    config = run_config(options, warm_up=100, fall="cosine", ema=0.999, weight_decay=0.0)
    found = [Captioned(path) for folder in options.pictures for path in list_pictures(folder)]
    accelerator = accelerator_of(options)
    device = accelerator.device
    with accelerator.main_process_first():
        pixels = pixels_of(found, options.size, options.cache or options.run)
    vae = None if options.vae is None else read_vae(options.vae).to(device).requires_grad_(False)
    with seeded(config.seed):
        net = Upscaler(options.width, options.blocks)
    net.to(device)
    told = {"pictures": len(found), "size": options.size, "width": options.width}
    told |= {"blocks": options.blocks, "seed": config.seed}
    training = Run(options.run, dict(net.named_parameters()), config, told)

    def batch_of(number: int) -> Tensor:
        generator = generator_at(config.seed, number)
        rows = torch.randint(len(pixels), (config.batch,), generator=generator)
        images = to_floats(rows_of(pixels, rows)) / 2 + 0.5
        return crops(images, options.crop, generator=generator) if options.crop else images

    batches = Ahead(batch_of, accelerator.num_processes)

    @torch.no_grad()
    def shrunk(images: Tensor) -> Tensor:
        """Half the size; the first of the batch as the autoencoder gives them back."""
        small = F.interpolate(images, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)
        if vae is None:
            return small
        first = math.ceil(options.vae_share * len(small))
        latents = vae.encode(small[:first] * 2 - 1).latent_dist.mean
        copied = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        return torch.cat([copied.to(small), small[first:]])

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = batches(number).to(device)
        with accelerator.autocast():
            small = shrunk(images)
            made = net(small).float()
            plain = F.interpolate(small.float(), scale_factor=2, mode="bicubic")
        error = (made - images).abs().mean()
        bicubic = (plain.clamp(0, 1) - images).abs().mean()
        return error + edge_error(made, images), {"pixels": error.detach(), "bicubic": bicubic}

    shown = to_floats(rows_of(pixels, torch.arange(min(6, len(pixels))))) / 2 + 0.5
    file = Path(options.run) / "upscaler.safetensors"

    def on_save() -> None:
        small = shrunk(shown.to(device))
        plain = F.interpolate(small, scale_factor=2, mode="nearest")
        sheet = options.run / f"preview-{training.step:06d}.png"
        write_sheet(sheet, [plain, net(small), shown])
        metadata = {"width": str(options.width), "blocks": str(options.blocks)}
        write_tensors({name: t.half() for name, t in net.state_dict().items()}, file, metadata)

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
        from diffusion.train_ship import ship_upscaler

        ship_upscaler(file, options.size, len(found), last, config.seed)
    return file
