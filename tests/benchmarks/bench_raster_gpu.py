"""Time of the rasterizer's GPU paths beside each other and beside the bandwidth floor.

A FLAME-sized mesh (a sphere of 9976 faces) at 1024 px, batch 8: Triton and torch operations, hard
forward and forward + backward of the fragments. The floor is the time that the same GPU takes to
move the bytes that no way of doing it can avoid: the outputs, and for the backward pass their
gradients and the face ids once more.

    python tests/benchmarks/bench_raster_gpu.py [--size 1024] [--batch 8] [--repeats 20]
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from flame.raster import rasterize

RINGS, SEGMENTS = 58, 86
FORWARD_BYTES = 8 + 3 * 4 + 4  # face id, barycentrics, depth of one pixel
BACKWARD_BYTES = 8 + 3 * 4 + 4  # face id and the two gradients


def sphere(size: int, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Spheres of slightly different radii that nearly fill the image, in screen space."""
    theta = torch.linspace(0, math.pi, RINGS + 1)[:, None]
    phi = torch.linspace(0, 2 * math.pi, SEGMENTS + 1)[None]
    unit = torch.stack(
        [theta.sin() * phi.cos(), theta.cos().expand(-1, SEGMENTS + 1), theta.sin() * phi.sin()], -1
    ).reshape(-1, 3)
    corner = (torch.arange(RINGS)[:, None] * (SEGMENTS + 1) + torch.arange(SEGMENTS)).reshape(-1, 1)
    below = corner + SEGMENTS + 1
    faces = torch.cat(
        [torch.cat([corner, corner + 1, below + 1], 1), torch.cat([corner, below + 1, below], 1)]
    )
    radius = size * torch.linspace(0.44, 0.48, batch)[:, None, None]
    verts = unit * radius + torch.tensor([size / 2, size / 2, 2.0 * size])
    return verts.to(device), faces.to(device)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median device time of one call, after three to warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read or written in a second by the device's own copy of half a gigabyte."""
    source = torch.empty(2**29, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source), 20) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device")
        return
    device = torch.device("cuda")
    verts, faces = sphere(given.size, given.batch, device)
    wanted = verts.clone().requires_grad_()
    shape = (given.size, given.size)
    pixels = given.batch * given.size**2
    by_bary = torch.rand(given.batch, *shape, 3, device=device)
    by_depth = torch.rand(given.batch, *shape, device=device)

    def hard(backend: str) -> object:
        with torch.no_grad():
            return rasterize(verts, faces, shape, backend=backend)

    def both(backend: str) -> object:
        found = rasterize(wanted, faces, shape, backend=backend)
        outputs = (found.bary, found.depth)
        return torch.autograd.grad(outputs, wanted, (by_bary, by_depth))

    backends = ["triton"] if importlib.util.find_spec("triton") else []
    backends.append("torch")
    bandwidth = copy_bandwidth(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(f"{len(faces)} faces, {given.size} px, batch {given.batch}, {bandwidth / 1e9:.0f} GB/s")
    print(f"{'work':<18}{'backend':<10}{'ms':>9}{'floor ms':>10}{'x floor':>9}{'peak MB':>9}")
    for name, work, needed in (
        ("hard forward", hard, FORWARD_BYTES),
        ("forward+backward", both, FORWARD_BYTES + BACKWARD_BYTES),
    ):
        floor = pixels * needed / bandwidth * 1000
        times = {}
        for backend in backends:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            times[backend] = milliseconds(lambda w=work, b=backend: w(b), given.repeats)
            peak = (torch.cuda.max_memory_allocated(device) - before) / 1e6
            row = f"{name:<18}{backend:<10}{times[backend]:>9.3f}{floor:>10.3f}"
            print(f"{row}{times[backend] / floor:>9.1f}{peak:>9.0f}")
        if "triton" in times:
            print(f"{name:<18}triton is {times['torch'] / times['triton']:.1f} x the torch path")
    if "triton" in backends:
        same = torch.equal(hard("triton").face_id, hard("torch").face_id)
        print(f"face ids of the two are {'the same' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
