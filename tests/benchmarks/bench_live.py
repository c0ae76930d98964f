"""What live conversion costs of one core, the whole chain, beside conversion of the line at once.

`python tests/benchmarks/bench_live.py [--dim 16 --max-dim 128]` prints CPU seconds a second of
sound; with sizes a generator of random weights stands for the shipped one. CPU time, the least of
several turns, since a busy machine's clock tells nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

# before torch is loaded: its idle threads would spin on the core that is measured
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from voice.audio import SAMPLE_RATE, Audio
from voice.shipped import load_converter, shipped_voices
from voice.stargan import Generator
from voice.stream import LIVE, convert_stream, latency_s

_BLOCK = 2_400  # samples; as a sound card hands them over


def least(work: Callable[[], object], turns: int) -> float:
    """CPU seconds of the quickest turn."""
    spent = []
    for _ in range(turns):
        begun = time.thread_time()
        work()
        spent.append(time.thread_time() - begun)
    return min(spent)


def vowels(seconds: float) -> torch.Tensor:
    """A voiced sound that glides and swells, so that the pitch network has something to hear."""
    at = torch.arange(round(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    hertz = 180 * 2 ** (0.2 * torch.sin(2 * torch.pi * 0.7 * at))
    turns = torch.cumsum(hertz, 0) / SAMPLE_RATE
    tone = sum(torch.cos(2 * torch.pi * k * turns + k * k / 5) / k for k in range(1, 16))
    assert isinstance(tone, torch.Tensor)
    return (0.1 * tone * (0.55 + 0.45 * torch.sin(2 * torch.pi * 3 * at))).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dim", type=int)
    parser.add_argument("--max-dim", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    converter, style = load_converter(), shipped_voices()[0].style
    if options.dim is not None:
        sizes = dataclasses.replace(
            converter.generator.config, dim_in=options.dim, max_conv_dim=options.max_dim
        )
        converter = dataclasses.replace(converter, generator=Generator(sizes).eval())
    line = vowels(options.seconds)

    def live() -> None:
        chance = torch.Generator().manual_seed(0)
        for _ in convert_stream(converter, torch.split(line, _BLOCK), style, generator=chance):
            pass

    def whole() -> None:
        chance = torch.Generator().manual_seed(0)
        converter.convert(Audio(line[None]), style, generator=chance)

    live()  # compiles its norms once
    for name, work in (("live", live), ("whole", whole)):
        print(f"{name:<6} {least(work, options.turns) / options.seconds:.3f} of a core")
    print(f"a sample waits {1000 * latency_s(converter, LIVE):.0f} ms")


if __name__ == "__main__":
    main()
