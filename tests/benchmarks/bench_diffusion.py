"""Plain diffusers against a placed and compiled model, on an SD-1.5-shaped UNet of random weights.

    python tests/benchmarks/bench_diffusion.py            # 512 px, 20 steps, batch 4: a GPU's work
    python tests/benchmarks/bench_diffusion.py --small    # minutes on a CPU

Prints the median time of each, their ratio within this run, and how far their pictures differ.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from diffusion.compute import choose_device, choose_dtype, place
from diffusion.families import family_settings

TOLERANCE = 0.02  # of 0..1, mean over the pictures: half precision in another order


def shaped_pipeline(small: bool, device: torch.device) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 without text encoder: prompts are given as embeddings."""
    settings = family_settings("sd1")
    unet, vae = dict(settings["unet/config.json"]), dict(settings["vae/config.json"])
    if small:
        unet |= {"block_out_channels": [32, 64, 128, 128], "cross_attention_dim": 64}
        vae |= {"block_out_channels": [32, 32, 64, 64]}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the constructors draw from the global generator
        networks = UNet2DConditionModel.from_config(unet), AutoencoderKL.from_config(vae)
    for network in networks:
        network.eval().requires_grad_(False).to(device, choose_dtype(device))
    pipeline = StableDiffusionPipeline(
        vae=networks[1],
        text_encoder=None,
        tokenizer=None,
        unet=networks[0],
        scheduler=DDIMScheduler.from_config(settings["scheduler/scheduler_config.json"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: Any, side: int, steps: int, batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    width = pipeline.unet.config.cross_attention_dim
    words = torch.randn(2, batch, 77, width, generator=generator).to(pipeline.unet.dtype)
    words = words.to(pipeline.unet.device)
    found: torch.Tensor = pipeline(
        prompt_embeds=words[0],
        negative_prompt_embeds=words[1],
        height=side,
        width=side,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(n) for n in range(batch)],
        output_type="pt",
    ).images
    return found.float().cpu()  # waits until the device is done


def median_s(pipeline: Any, repeats: int, *size: int) -> float:
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        pictures(pipeline, *size)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a small UNet at 64 px, for a CPU")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = choose_device()
    size = (64, 4, 2) if arguments.small else (512, 20, 4)
    print(f"{size[0]} px, {size[1]} steps, batch {size[2]}, {device}, torch {torch.__version__}")

    pipeline = shaped_pipeline(arguments.small, device)
    expected = pictures(pipeline, *size)  # also the warm-up
    plain = median_s(pipeline, arguments.repeats, *size)
    chosen = place(pipeline, device, compiled=not arguments.eager)
    began = time.perf_counter()
    found = pictures(pipeline, *size)
    first = time.perf_counter() - began
    ours = median_s(pipeline, arguments.repeats, *size)

    apart = (found - expected).abs()
    print(f"plain diffusers   {plain:8.3f} s")
    print(f"ours              {ours:8.3f} s  ({chosen}; the first took {first:.1f} s)")
    print(f"ratio             {plain / ours:8.2f}")
    print(f"pictures differ   {apart.mean():8.5f} in the mean, {apart.max():.4f} at most")
    if apart.mean() > TOLERANCE:
        raise SystemExit(f"the pictures are not the same: {apart.mean():.4f} > {TOLERANCE}")


if __name__ == "__main__":
    main()
