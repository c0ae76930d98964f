"""Teach a model a person or a style as a LoRA, from 3 to 20 photos (DreamBooth with a prior).

Writes RUN/lora.safetensors in diffusers' key names, which every program with LoRAs reads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.train_options import accelerator_of, add_run_options, run_config

log = logging.getLogger(__name__)

TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "all": ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
}
_TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class LoraShape:
    """Which layers get an adapter, and how large a one."""

    rank: int = 8
    alpha: float = 8.0  # the adapter acts at alpha / rank
    targets: tuple[str, ...] = TARGETS["attention"]  # ends of the names of the UNet's layers
    text_encoder: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank={self.rank} and alpha={self.alpha} must be above 0")


def attach(
    pipeline: Any, shape: LoraShape, *, generator: torch.Generator
) -> dict[str, nn.Parameter]:
    """Put adapters into a frozen pipeline, and return their weights, which change nothing yet."""
    from peft import LoraConfig

    parts = {"unet": shape.targets}
    if shape.text_encoder:
        names = [n for n in ("text_encoder", "text_encoder_2") if getattr(pipeline, n, None)]
        parts |= dict.fromkeys(names, _TEXT_TARGETS)
    weights: dict[str, nn.Parameter] = {}
    for part, targets in parts.items():
        network = getattr(pipeline, part)
        try:
            network.add_adapter(
                LoraConfig(
                    r=shape.rank,
                    lora_alpha=shape.alpha,  # type: ignore[arg-type]  # peft takes fractions
                    target_modules=list(targets),
                )
            )
        except ValueError as error:
            raise ValueError(
                f"the {part} has no layer whose name ends in {', '.join(targets)}; give --targets "
                f"{' or '.join(TARGETS)}"
            ) from error
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                if "lora_A" in name:
                    start = torch.randn(weight.shape, generator=generator) / shape.rank
                    weight.data.copy_(start)
                weight.data = weight.data.float()  # the frozen layers may be in half precision
                weights[f"{part}.{name}"] = weight
    return weights


def lora_tensors(pipeline: Any, shape: LoraShape) -> dict[str, Tensor]:
    """The adapters by diffusers' names, in half precision.

    Their factor alpha / rank is multiplied in: files have no place for it that all programs read.
    """
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    tensors = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, part, None)
        if network is None or not getattr(network, "peft_config", None):
            continue
        found = {
            name: value * (shape.alpha / shape.rank if "lora_B" in name else 1)
            for name, value in get_peft_model_state_dict(network).items()
        }
        # published files have this step, which newer versions of transformers have lost
        shell = "" if part == "unet" or hasattr(network, "text_model") else "text_model."
        for name, value in convert_state_dict_to_diffusers(found).items():
            tensors[f"{part}.{shell}{name}"] = value.detach().half()
    return tensors


def write_lora(pipeline: Any, shape: LoraShape, path: Path, metadata: Mapping[str, str]) -> Path:
    """One file, however large it is: other programs know no shards of LoRAs."""
    from assets.files import replacing
    from assets.weights import encode_tensors

    with replacing(path) as written:
        tensors = lora_tensors(pipeline, shape)
        written.write_bytes(encode_tensors(tensors, {"format": "pt", **metadata}))
    return path


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    from_photos(parser, steps=800, rate=1e-4)
    add = parser.add_argument
    add("--instance", required=True, help='e.g. "photo of sks person"; the name is a rare word')
    add("--class", dest="kind", help='e.g. "photo of a person", for the prior')
    add("--prior", type=Path, help="folder of pictures of the class; what is missing is drawn")
    add("--prior-count", type=int, default=100)
    add("--prior-weight", type=float, default=1.0)
    add("--rank", type=int, default=8)
    add("--alpha", type=float, help="default: as the rank")
    add("--targets", choices=tuple(TARGETS), default="attention")
    add("--text-encoder", action="store_true", help="adapt the text encoder too")


def from_photos(parser: argparse.ArgumentParser, *, steps: int, rate: float) -> None:
    """The options of the stages that learn from a few photos."""
    add = parser.add_argument
    add("--model", required=True, help="folder, file or hub id of SD 1.x, 2.x or SDXL")
    add("--photos", type=Path, required=True, help="folder of 3 to 20 pictures")
    add("--size", type=int, default=512, help="pixels a side; 1024 for SDXL")
    add("--mirror", action="store_true", help="mirrored photos too; faces are not symmetric")
    add("--min-snr", type=float, default=5.0, help="0 weighs all noise levels alike")
    add("--noise-offset", type=float, default=0.0)
    add("--save-memory", action="store_true", help="compute the UNet again for its gradients")
    add_run_options(parser, steps=steps, batch=1, rate=rate, save_every=200)


def run(options: argparse.Namespace) -> Path:
    """Open the model, read the photos, train, write the file."""
    from diffusion.train_noise import NoiseConfig
    from diffusion.train_personal import Lessons, fill_prior, open_base, preview, read_photos
    from diffusion.train_pictures import list_pictures
    from diffusion.train_run import Run, descend, generator_at

    if (options.kind is None) != (options.prior is None):
        raise ValueError("--class and --prior go together: what the prior's pictures show")
    shape = LoraShape(
        options.rank,
        options.alpha or float(options.rank),
        TARGETS[options.targets],
        options.text_encoder,
    )
    noise = NoiseConfig(options.min_snr or None, options.noise_offset)
    config = run_config(options)
    list_pictures(options.photos)  # before anything that takes time
    accelerator = accelerator_of(options)
    pipeline = open_base(options.model, accelerator.device, options.precision)
    photos = read_photos(pipeline, options.photos, options.size, mirror=options.mirror)
    prior = None
    if options.prior is not None:
        with accelerator.main_process_first(), accelerator.autocast():
            if accelerator.is_main_process:
                fill_prior(pipeline, options.kind, options.prior, options.prior_count, options.size)
        prior = read_photos(pipeline, options.prior, options.size, least=1)
    if options.save_memory:
        pipeline.unet.enable_gradient_checkpointing()
    weights = attach(pipeline, shape, generator=torch.Generator().manual_seed(config.seed))
    size = sum(weight.numel() for weight in weights.values())
    log.info("%d photos, %d adapted numbers", len(photos), size)
    lessons = Lessons(pipeline, noise, config.batch)
    for network in (pipeline.unet, pipeline.text_encoder):
        network.train()

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = generator_at(config.seed, number)
        with accelerator.autocast():
            own = lessons.loss(photos, [options.instance], number, generator=generator)
            if prior is None:
                return own, {}
            kept = lessons.loss(prior, [options.kind], number, generator=generator)
        figures = {"photos": own.detach(), "prior": kept.detach()}
        return own + options.prior_weight * kept, figures

    told: dict[str, Any] = {**asdict(shape), "instance": options.instance, "seed": config.seed}
    told |= {"model": str(options.model), "size": options.size}
    training = Run(options.run, weights, config, told)
    file = Path(options.run) / "lora.safetensors"

    def on_save() -> None:
        metadata = {"instance prompt": options.instance, "steps": str(training.step)}
        write_lora(pipeline, shape, file, {**metadata, "rank": str(shape.rank)})
        with accelerator.autocast():
            path = options.run / f"preview-{training.step:06d}.png"
            preview(pipeline, options.instance, options.size, path, seed=config.seed)

    descend(
        training,
        loss_of,
        accelerator,
        minutes=options.minutes,
        pause_minutes=options.pause_after,
        on_save=on_save,
    )
    return file
