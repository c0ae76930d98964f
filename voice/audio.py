"""Sound as the whole product uses it: mono, 24 kHz, float -1..1; read from and written to files."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing
from voice.decode import Decoder, mixed_down, open_sound

log = logging.getLogger(__name__)

SAMPLE_RATE = 24_000  # Hz
SHORTEST_S = 0.05
LONGEST_S = 30 * 60.0
_FULL_SCALE = 0.9999
_CLIPPED_SHARE = 1e-3  # of all samples at full scale, from which a recording is heard to be clipped


@dataclass(frozen=True, eq=False)
class Audio:
    """B mono signals of equal length at 24 kHz."""

    samples: Float[Tensor, "B N"]  # -1..1

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / SAMPLE_RATE

    @classmethod
    def read(cls, path: Path | str) -> Audio:
        """The sound of a file, mixed to mono and resampled to 24 kHz.

        Takes WAV, FLAC, OGG, MP3, AIFF, M4A and the sound of videos, whatever the name, 0.05 s to
        30 min (`read_blocks` takes any length). AssetError for anything else, for a file cut short
        and for samples that are not numbers. Clipped recordings are read, and logged.
        """
        sound = open_sound(path)
        _check_length(sound)
        rate_hz = sound.header.rate_hz
        rows: list[np.ndarray] = []
        count = 0
        for block in sound.blocks():
            rows.append(mixed_down(block))
            count += len(block)
            if count > LONGEST_S * rate_hz:
                raise AssetError(_too_long(sound.path, count / rate_hz))
        if count < SHORTEST_S * rate_hz:
            raise AssetError(
                f"{sound.path} ends after {count} samples; the file is cut short, copy it again"
            )
        mono = torch.from_numpy(np.concatenate(rows))[None]
        if float((mono.abs() >= _FULL_SCALE).float().mean()) > _CLIPPED_SHARE:
            log.warning("%s is clipped and will sound harsh; record it at a lower level", path)
        # float files may go beyond full scale, which a 16-bit player would clip
        mono = mono / mono.abs().amax().clamp_min(1.0)
        return cls(resample(mono, rate_hz, SAMPLE_RATE))

    def save(self, path: Path | str) -> Path:
        """Write a 16-bit WAV, beside first and then renamed; samples beyond -1..1 are clipped."""
        if len(self.samples) != 1:
            raise ValueError(
                f"a WAV file holds one signal, this Audio has {len(self.samples)}; "
                "save Audio(samples[i : i + 1]) for each"
            )
        return save_blocks(self.samples, path)


def save_blocks(blocks: Iterable[Float[Tensor, " _"]], path: Path | str) -> Path:
    """Write blocks of one signal, as they come, into a 16-bit WAV as `Audio.save` would."""
    import soundfile

    path = Path(path)
    if path.suffix.lower() != ".wav":
        raise ValueError(f"{path} does not end in .wav; only WAV is written")
    with (
        replacing(path) as beside,
        soundfile.SoundFile(
            beside, "w", SAMPLE_RATE, channels=1, format="WAV", subtype="PCM_16"
        ) as file,
    ):
        for block in blocks:
            # 32768, as libsndfile divides by it: what is read and written again stays bit-equal
            whole = (block.detach().cpu().double() * 32_768).round().clamp(-32_768, 32_767)
            file.write(whole.to(torch.int16).numpy())
    return path


def resample(samples: Float[Tensor, "B N"], rate_hz: int, new_rate_hz: int) -> Float[Tensor, "B M"]:
    """The signals at another rate, band-limited, aligned with the input in time."""
    import soxr

    if rate_hz == new_rate_hz:
        return samples
    rows = [soxr.resample(row, rate_hz, new_rate_hz, quality="HQ") for row in samples.cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(samples)


def read_blocks(path: Path | str, block_s: float = 10.0) -> Iterator[Audio]:
    """The sound of a file of any length at 24 kHz mono, `block_s` seconds at a time.

    Joined, the blocks are what `Audio.read` gives, but for files of floats beyond -1..1, whose
    level is left as it is. Memory does not grow with the file. Errors are those of `Audio.read`.
    """
    import soxr

    if not block_s > 0:
        raise ValueError(f"block_s={block_s} must be above 0")
    sound = open_sound(path)
    rate_hz = sound.header.rate_hz
    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    size = max(1, round(block_s * SAMPLE_RATE))
    waiting: list[np.ndarray] = []
    held = 0

    def take(row: np.ndarray, *, last: bool = False) -> Iterator[Audio]:
        nonlocal waiting, held
        made = row if rate_hz == SAMPLE_RATE else stream.resample_chunk(row, last=last)
        waiting.append(made)
        held += len(made)
        while held >= size or (last and held):
            joined = np.concatenate(waiting)
            yield Audio(torch.from_numpy(joined[:size].copy())[None])
            waiting, held = [joined[size:]], max(0, held - size)

    for block in sound.blocks():
        yield from take(np.ascontiguousarray(mixed_down(block), dtype=np.float32))
    yield from take(np.zeros(0, dtype=np.float32), last=True)


def _check_length(sound: Decoder) -> None:
    duration_s = sound.header.duration_s
    if duration_s is None:
        return
    if duration_s < SHORTEST_S:
        raise AssetError(
            f"{sound.path} lasts {duration_s:.3f} s; a line of at least {SHORTEST_S} s is needed"
        )
    if duration_s > LONGEST_S:
        raise AssetError(_too_long(sound.path, duration_s))


def _too_long(path: Path, duration_s: float) -> str:
    return (
        f"{path} lasts {duration_s / 60:.0f} min, the limit is {LONGEST_S / 60:.0f} min; "
        "cut it into parts"
    )
