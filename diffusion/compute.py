"""Where a model runs and how it saves memory: chosen from what there is, applied, and said."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffusion.record import Pipeline, add_to_record

Offload = Literal["none", "model", "sequential"]
Draw = Callable[[int, int], Tensor]  # pictures from the first index to before the second

# What one step needs besides the weights at 512 px, batch 1; attention in slices needs half.
WORK_BYTES = 2 * 1024**3
_PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass(frozen=True)
class Compute:
    """Where and how a model runs."""

    device: str
    dtype: str
    sliced: bool = False  # attention in slices, and pictures of a batch through the VAE one by one
    tiled: bool = False  # the VAE works on tiles
    offload: Offload = "none"  # networks, or single layers, on the accelerator only while they work
    compiled: bool = False

    def __str__(self) -> str:
        """One line for manifests, e.g. `cuda, float16, sliced attention and VAE, tiled VAE`."""
        words = [self.device, self.dtype]
        if self.sliced:
            words.append("sliced attention and VAE")
        if self.tiled:
            words.append("tiled VAE")
        if self.offload != "none":
            words.append(f"{self.offload} offload")
        if self.compiled:
            words.append("compiled")
        return ", ".join(words)


class OutOfMemory(ValueError):  # noqa: N818 - the name says it
    """A picture that does not fit into memory, even alone."""


def choose_device(wanted: str | torch.device = "auto") -> torch.device:
    """The accelerator if there is one, else the CPU; a device by name has to be there."""
    if str(wanted) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f'device={wanted!r} is not known; give "auto", "cpu" or "cuda"') from error
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise ValueError(f'device={str(wanted)!r} is not there; give "auto" or "cpu"')
    return device


def choose_dtype(device: torch.device) -> torch.dtype:
    """Half precision on accelerators, single on the CPU, which is slower at half."""
    return torch.float32 if device.type == "cpu" else torch.float16


def plan(
    device: torch.device,
    dtype: torch.dtype,
    *,
    free_bytes: int,
    part_bytes: tuple[int, ...],
    work_bytes: int = WORK_BYTES,
    compiled: bool = False,
) -> Compute:
    """The fastest way that fits a model of networks of these sizes into what is free.

    With plenty of room nothing is saved; then attention and VAE go in pieces, then whole networks
    wait in main memory for their turn, then single layers. A CPU has nowhere to put them.
    """
    weights, largest = sum(part_bytes), max(part_bytes, default=0)
    named = str(dtype).removeprefix("torch.")
    if free_bytes >= weights + work_bytes:
        return Compute(device.type, named, compiled=compiled)
    offload: Offload = "none"
    if device.type != "cpu" and free_bytes < weights + work_bytes // 2:
        offload = "model" if free_bytes >= largest + work_bytes // 2 else "sequential"
    # layers that come and go cannot stay compiled
    compiled = compiled and offload == "none"
    return Compute(device.type, named, sliced=True, tiled=True, offload=offload, compiled=compiled)


def place(
    pipeline: Pipeline,
    device: str | torch.device = "auto",
    *,
    free_bytes: int | None = None,
    compiled: bool = False,
) -> Compute:
    """Bring a pipeline to where it runs, with the savings that its size and memory call for.

    Returns, and records, what was chosen. `free_bytes` is read off the device when None.
    """
    target = choose_device(device)
    if compiled:
        _require_compiler(target.type)
    free = free_memory(target) if free_bytes is None else free_bytes
    parts = tuple(network_bytes(getattr(pipeline, part, None)) for part in _PARTS)
    held = sum(parts) if pipeline.device.type == target.type else 0  # already paid for
    chosen = plan(
        target, pipeline.dtype, free_bytes=free + held, part_bytes=parts, compiled=compiled
    )
    apply(pipeline, chosen)
    return chosen


def _require_compiler(device: str) -> None:
    """ValueError where `torch.compile` would only fail in the middle of the first picture."""
    command = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    name = shlex.split(command)[0]  # options may follow
    if device == "cpu" and shutil.which(name) is None:
        raise ValueError(
            f"compiling a model for the processor needs the C++ compiler {name}, which is not "
            "there; install it (on Debian: apt install g++) or draw without --compile"
        )


def apply(pipeline: Pipeline, compute: Compute) -> None:
    """Set a pipeline up as `compute` says; the pictures stay the same up to rounding."""
    vae: Any = getattr(pipeline, "vae", None)
    if compute.sliced:
        pipeline.enable_attention_slicing()
        if hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
    if compute.tiled and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()
    if compute.offload == "model":
        pipeline.enable_model_cpu_offload(device=compute.device)
    elif compute.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=compute.device)
    else:
        pipeline.to(compute.device)
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        if compute.device == "cuda" and getattr(pipeline, "unet", None) is not None:
            pipeline.unet.to(memory_format=torch.channels_last)  # as convolutions run fastest there
        if compute.compiled and denoiser is not None:
            denoiser.compile()
    add_to_record(pipeline, compute=str(compute))


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors on a device could take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + kept)
    import psutil

    return int(psutil.virtual_memory().available)


def network_bytes(network: object) -> int:
    """Bytes of a network's weights and buffers; 0 of None."""
    if not isinstance(network, torch.nn.Module):
        return 0
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def in_batches(draw: Draw, count: int, batch: int) -> Float[Tensor, "N 3 H W"]:
    """`count` pictures, drawn `batch` at once; where memory runs out, once more in half batches.

    `draw(first, end)` must give the same pictures however they are batched: give each its own
    generator. Raises OutOfMemory, which says what would help, if half is still too much.
    """
    if count < 1 or batch < 1:
        raise ValueError(f"count={count} and batch={batch} must be at least 1")
    drawn: list[Tensor] = []
    done = 0
    may_halve = batch > 1
    while done < count:
        end = min(done + batch, count)
        failed = False
        try:
            drawn.append(draw(done, end))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = True
            # Only a note is kept: the error's traceback holds every tensor that filled memory.
        if not failed:
            done = end
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not may_halve:
            raise OutOfMemory(
                f"memory ran out at {end - done} pictures at once; ask for fewer at once, a "
                "smaller size, or place(pipeline, free_bytes=0), which saves the most"
            )
        batch, may_halve = max(1, batch // 2), False
    return torch.cat(drawn)


@contextmanager
def memory_in_words(doing: str, help_with: str) -> Iterator[None]:
    """Raise OutOfMemory, which says at what and what would help, where memory runs out inside."""
    failed = False
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failed = True
        # the error's traceback holds every tensor that filled memory, so it is not kept
    if failed:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemory(f"memory ran out {doing}; {help_with}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is full; PyTorch has several ways to."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in _OUT_OF_MEMORY)
    )
