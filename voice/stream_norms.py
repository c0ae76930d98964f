"""Instance norms of lines that arrive in pieces: moments of the line so far, slowly forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from voice.stream_layers import StreamedConv

EPS = 1e-5  # of every norm
_HEARD = 0.01  # weight in the memory of a hop in which nobody speaks


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of channels, with their weight against others in mel frames."""

    weight: float
    mean: Float[Tensor, " C"]
    variance: Float[Tensor, " C"]


class NormMemory:
    """Moments of every layer's pictures, [H, W, C], of one line.

    `memory_frames` is how long they are remembered, to 1/e. The memory stands still while `begin`
    is told that nobody speaks, so that a pause does not turn room noise into a voice.
    """

    def __init__(self, memory_frames: float) -> None:
        self.memory_frames = memory_frames
        self.moments: dict[nn.Module, Moments] = {}
        self._frames, self._width, self._heard = 1, 1, 1.0
        self._known: dict[tuple[int, int, float], tuple[np.ndarray, float]] = {}

    def begin(self, frames: int, width: int, *, speaks: bool) -> None:
        """The pictures that follow are of `width` mel frames, the first `frames` for good."""
        self._frames, self._width = frames, width
        self._known.clear()
        # in a pause, time passes slowly: the memory keeps to speech
        self._heard = 1.0 if speaks else _HEARD

    def columns(self, x: Float[Tensor, "H W C"]) -> int:
        """Columns of a picture that are computed for good."""
        return self._frames * x.shape[1] // self._width

    def shares(self, x: Float[Tensor, "H W C"], weight: float) -> tuple[np.ndarray, float]:
        """What `stream_kernels.normed` takes of that name, for a past of this weight.

        And the weight of the memory afterwards.
        """
        height, width, _ = x.shape
        # most layers remember alike, and many have pictures of the same size
        if (known := self._known.get((height, width, weight))) is not None:
            return known
        line = weight + self._width
        fading = math.exp(-self._heard * self._frames / self.memory_frames)
        new, kept = self._heard * self._frames, weight * fading
        rows = (
            self._width / (width * height * line),
            weight / line,
            new / (self.columns(x) * height * (new + kept)),
            kept / (new + kept),
        )
        found = np.array(rows, dtype=x.numpy().dtype), new + kept
        self._known[height, width, weight] = found
        return found


class StreamedNorm:
    """A norm that brings channels to these deviations and means, and a leaky rectifier after it."""

    def __init__(
        self,
        key: nn.Module,
        gain: Float[Tensor, " C"],
        offset: Float[Tensor, " C"],
        memory: NormMemory,
        slope: float = 1.0,
    ) -> None:
        self._key, self._memory = key, memory
        self._gain, self._offset = (x.detach().contiguous().numpy() for x in (gain, offset))
        self._eps, self._slope = (np.array(x, self._gain.dtype)[()] for x in (EPS, slope))
        self.found = gain.detach().new_zeros(2, len(gain))  # mean and variance of the line so far

    def step(self, x: Float[Tensor, "H W C"]) -> Float[Tensor, "H W C"]:
        """The next picture, normed."""
        wide = x.new_empty(x.shape[0], x.shape[1] + 2, x.shape[2])
        self._write(x, (1, 1), 0, wide)
        return wide[:, 1:-1]

    def into(self, conv: StreamedConv, x: Float[Tensor, "H W C"], up: tuple[int, int]) -> None:
        """Give a convolution the next picture, normed, each pixel `up` times."""
        wide = conv.room(up[0] * x.shape[0], up[1] * x.shape[1])
        self._write(x, up, conv.take_kept(), wide)

    def _write(self, x: Tensor, up: tuple[int, int], kept: int, wide: Tensor) -> None:
        from voice.stream_kernels import normed

        memory = self._memory
        past = memory.moments.get(self._key)
        if past is None:
            past = Moments(0.0, x.new_zeros(x.shape[2]), x.new_zeros(x.shape[2]))
        shares, weight = memory.shares(x, past.weight)
        normed(
            x.contiguous().numpy(),
            past.mean.numpy(),
            past.variance.numpy(),
            shares,
            memory.columns(x),
            self._eps,
            self._gain,
            self._offset,
            self._slope,
            up,
            kept,
            self.found.numpy(),
            wide.numpy(),
        )
        memory.moments[self._key] = Moments(weight, past.mean, past.variance)
