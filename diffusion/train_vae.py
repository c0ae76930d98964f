"""Train the portrait model's autoencoder, of factor 8, on folders of pictures.

Writes RUN/vae, a folder that diffusers' AutoencoderKL opens.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion.train_options import accelerator_of, add_run_options, run_config

log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class VaeConfig:
    """How its faults are weighed; pictures are -1..1."""

    edges: float = 1.0  # differences of neighbours, at three scales, beside those of pixels
    # squares of the error of each latent's square of pixels: absolute errors let rare colours go
    colours: float = 10.0
    kl: float = 1e-5  # mean over the latents' numbers
    # noise on the latents, of their own spread: the decoder learns to forgive what samplers leave,
    # and what matters takes more room in the latents than what does not
    noise: float = 0.15
    # share of the steps in which shrunk latents must give shrunk pictures (Kouzelis et al. 2025):
    # latents that keep to this are smoother, and a denoiser learns them sooner
    shrunk: float = 0.25
    judge: float = 0.02  # of a network that tells pictures from copies; 0 leaves it out
    judge_from: float = 0.5  # share of the steps that come before


class Judge(nn.Module):
    """Tells real patches from copied ones (Isola et al. 2017, section 3.2.2): above 0 is real."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(4, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """A verdict for each patch."""
        found: Tensor = self.layers(images)
        return found


def edge_error(made: Tensor, wanted: Tensor, scales: int = 3) -> Tensor:
    """The mean difference of neighbours' differences, summed over halved sizes."""
    total = made.new_zeros(())
    for scale in range(scales):
        error = made - wanted
        total = total + (error.diff(dim=-1)).abs().mean() + (error.diff(dim=-2)).abs().mean()
        if scale + 1 < scales and min(made.shape[-2:]) >= 4:
            made, wanted = F.avg_pool2d(made, 2), F.avg_pool2d(wanted, 2)
    return total


def vae_loss(
    vae: Any,
    judge: nn.Module | None,
    images: Tensor,
    config: VaeConfig,
    *,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What autoencoder and judge descend together, and its parts.

    The judge's verdict reaches the autoencoder through a frozen twin, so that one backward pass
    serves both.
    """
    found = vae.encode(images).latent_dist
    spread = found.mean.detach().std((0, 2, 3), keepdim=True)
    noise = torch.randn(found.mean.shape, generator=generator).to(found.mean)
    latents = found.mean + (found.var + (config.noise * spread).square()).sqrt() * noise
    if float(torch.rand((), generator=generator)) < config.shrunk:
        latents, images = _shrunk(latents, images, generator=generator)
    made = vae.decode(latents).sample.float()
    parts = {"pixels": (made - images).abs().mean(), "edges": edge_error(made, images)}
    parts["colours"] = F.avg_pool2d(made - images, 8).square().mean()
    mean, variance, logvar = found.mean.float(), found.var.float(), found.logvar.float()
    parts["kl"] = 0.5 * (mean.square() + variance - 1 - logvar).mean()
    loss = parts["pixels"] + config.edges * parts["edges"] + config.kl * parts["kl"]
    loss = loss + config.colours * parts["colours"]
    parts["judge"] = loss.new_zeros(())
    if judge is not None:
        frozen = {name: weight.detach() for name, weight in judge.named_parameters()}
        fooled: Tensor = torch.func.functional_call(judge, frozen, (made,))
        real, copied = judge(images), judge(made.detach())
        parts["judge"] = F.relu(1 - real).mean() + F.relu(1 + copied).mean()
        loss = loss - config.judge * fooled.mean() + parts["judge"]
    return loss, {name: value.detach() for name, value in parts.items()}


def _shrunk(
    latents: Tensor, images: Tensor, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Both at a half or three quarters of their size, whichever is whole for the latents."""
    sides = [s for s in (0.5, 0.75) if all((s * side).is_integer() for side in latents.shape[2:])]
    if not sides:
        return latents, images
    scale = sides[int(torch.randint(len(sides), (), generator=generator))]
    small, wanted = (
        # halves cannot be resized on every device
        F.interpolate(values.float(), scale_factor=scale, mode="bilinear", antialias=True)
        for values in (latents, images)
    )
    return small, wanted


@torch.no_grad()
def standardized(vae: Any, pictures: list[Tensor]) -> Any:
    """A copy whose latents of these pictures have mean 0 and variance 1 in every channel.

    The change is folded into the layers on both sides of the latents; pictures stay as they are.
    """
    copied = copy.deepcopy(vae)
    means = torch.cat([vae.encode(batch).latent_dist.mean for batch in pictures]).float()
    moments = means.mean((0, 2, 3)), means.std((0, 2, 3))
    middle, spread = (values.to(copied.quant_conv.weight) for values in moments)
    before, after = copied.quant_conv, copied.post_quant_conv
    count = len(middle)
    before.weight[:count] /= spread[:, None, None, None]
    before.bias[:count] = (before.bias[:count] - middle) / spread
    before.bias[count:] -= 2 * spread.log()
    after.bias += after.weight[:, :, 0, 0] @ middle
    after.weight *= spread[None, :, None, None]
    copied.register_to_config(scaling_factor=1.0)
    return copied


def crops(
    images: Float[Tensor, "B 3 S S"], side: int, *, generator: torch.Generator
) -> Float[Tensor, "B 3 K K"]:
    """A square of each picture, three in four near its middle, where most have what matters."""
    count, room = len(images), images.shape[-1] - side
    middle = 0.5 + 0.2 * torch.randn(count, 2, generator=generator)
    anywhere = torch.rand(count, 2, generator=generator)
    is_near = torch.rand(count, 1, generator=generator) < 0.75
    corners = (room * torch.where(is_near, middle, anywhere).clamp(0, 1)).round().int().tolist()
    pieces = [
        image[:, top : top + side, left : left + side]
        for image, (top, left) in zip(images, corners, strict=True)
    ]
    return torch.stack(pieces)


class Ahead:
    """What `make` gives for a number, begun in another thread while the one before is used."""

    def __init__(self, make: Callable[[int], _T], step: int = 1) -> None:
        self._make, self._step = make, step
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Any]] | None = None

    def __call__(self, number: int) -> Any:
        waiting, self._next = self._next, None
        right = waiting is not None and waiting[0] == number
        made = waiting[1].result() if waiting and right else self._make(number)
        following = number + self._step
        self._next = (following, self._pool.submit(self._make, following))
        return made

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """What the stages of the portrait model read."""
    parser.add_argument(
        "--pictures", type=Path, nargs="+", required=True, help="folders of pictures with captions"
    )
    parser.add_argument("--cache", type=Path, help="folder of read pictures; RUN by default")
    parser.add_argument(
        "--size", type=int, choices=(256, 192, 128), default=256, help="pixels a side"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    add_picture_options(parser)
    parser.add_argument("--start", type=Path, help="an autoencoder's folder to start from")
    parser.add_argument(
        "--decoder-only", action="store_true", help="leave the latents as they are (with --start)"
    )
    parser.add_argument(
        "--crop", type=int, default=0, help="pixels a side of the pieces to learn from; 0: wholes"
    )
    parser.add_argument("--judge", type=float, default=VaeConfig.judge, help="0 leaves it out")
    parser.add_argument("--kl", type=float, default=VaeConfig.kl)
    parser.add_argument("--noise", type=float, default=VaeConfig.noise, help="on the latents")
    parser.add_argument("--shrunk", type=float, default=VaeConfig.shrunk, help="share of steps")
    add_run_options(parser, steps=20_000, batch=32, rate=3e-4, save_every=1000)


def run(options: argparse.Namespace, shape: Any = None) -> Path:
    """Read the pictures, train, write the folder; `shape` is that of `options.size` if None."""
    from diffusion.train_files import read_vae, rows_of, write_network, write_sheet
    from diffusion.train_pictures import Captioned, list_pictures, pixels_of, to_floats
    from diffusion.train_run import Run, descend, generator_at
    from diffusion.train_shapes import SIZES, portrait_vae, seeded
    from diffusion.train_squares import level_latents

    shape = shape or SIZES[options.size]
    if options.crop and not (8 <= options.crop <= shape.side and options.crop % 8 == 0):
        raise ValueError(f"crop={options.crop} must be a multiple of 8 up to {shape.side}; or 0")
    config = run_config(options, warm_up=50, fall="cosine", ema=0.995, weight_decay=1e-4)
    settings = VaeConfig(
        kl=options.kl, judge=options.judge, noise=options.noise, shrunk=options.shrunk
    )
    found = [Captioned(path) for folder in options.pictures for path in list_pictures(folder)]
    accelerator = accelerator_of(options)
    device = accelerator.device
    with accelerator.main_process_first():
        pixels = pixels_of(found, shape.side, options.cache or options.run)
    with seeded(config.seed):
        vae = portrait_vae(shape)
        judge = Judge()
    if options.start:
        vae = read_vae(options.start)
    else:
        some = torch.arange(0, len(pixels), max(1, len(pixels) // 64))
        level_latents(vae, to_floats(rows_of(pixels, some)))
    vae.to(device).train()
    judge.to(device)
    if options.decoder_only:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    weights = {f"vae.{name}": w for name, w in vae.named_parameters() if w.requires_grad}
    if settings.judge:
        weights |= {f"judge.{name}": weight for name, weight in judge.named_parameters()}
    told = {"pictures": len(found), "size": shape.side, **dataclasses.asdict(settings)}
    training = Run(options.run, weights, config, {**told, "seed": config.seed})

    def batch_of(number: int) -> Tensor:
        generator = generator_at(config.seed, number)
        images = to_floats(rows_of(pixels, torch.randint(len(pixels), (config.batch,),
                                                         generator=generator)))  # fmt: skip
        turned = torch.rand(config.batch, generator=generator) < 0.5
        images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        if options.crop:
            images = crops(images, options.crop, generator=generator)
        return images

    batches = Ahead(batch_of, accelerator.num_processes)

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        images = batches(number).to(device)
        judged = settings.judge and training.step >= settings.judge_from * config.steps
        generator = generator_at(config.seed + 1, number)
        with accelerator.autocast():
            return vae_loss(vae, judge if judged else None, images, settings, generator=generator)

    shown = to_floats(rows_of(pixels, torch.arange(min(8, len(pixels)))))

    def on_save() -> None:
        vae.eval()
        measured = [
            to_floats(rows_of(pixels, torch.arange(at, min(at + 16, len(pixels))))).to(device)
            for at in range(0, min(256, len(pixels)), 16)
        ]
        copied = vae.decode(vae.encode(shown.to(device)).latent_dist.mean).sample.cpu()
        path = options.run / f"preview-{training.step:06d}.png"
        write_sheet(path, [shown / 2 + 0.5, copied / 2 + 0.5])
        whole = vae if options.decoder_only else standardized(vae, measured)
        write_network(whole, options.run / "vae")
        vae.train()

    try:
        descend(
            training,
            loss_of,
            accelerator,
            minutes=options.minutes,
            pause_minutes=options.pause_after,
            on_save=on_save,
        )
    finally:
        batches.close()
    return Path(options.run) / "vae"
