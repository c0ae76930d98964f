"""Sound as the whole product uses it: mono, 24 kHz, float -1..1; read from and written to files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing

SAMPLE_RATE = 24_000  # Hz
SHORTEST_S = 0.05
LONGEST_S = 30 * 60.0
_LOWEST_RATE, _HIGHEST_RATE = 4_000, 768_000  # Hz; outside, a header is damaged
_FORMATS = "WAV, FLAC, OGG or MP3"


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

        Takes what libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, ...), 0.05 s to 30 min. AssetError
        for anything else, for a file cut short and for samples that are not numbers.
        """
        path = Path(path)
        samples, rate_hz = _decode(path)
        if not np.isfinite(samples).all():
            raise AssetError(
                f"{path} holds samples that are not numbers; export it again as 16-bit {_FORMATS}"
            )
        mono = torch.from_numpy(samples).mean(dim=1)[None]
        # float files may go beyond full scale, which a 16-bit player would clip
        mono = mono / mono.abs().amax().clamp_min(1.0)
        return cls(resample(mono, rate_hz, SAMPLE_RATE))

    def save(self, path: Path | str) -> Path:
        """Write a 16-bit WAV, beside first and then renamed; samples beyond -1..1 are clipped."""
        import soundfile

        if len(self.samples) != 1:
            raise ValueError(
                f"a WAV file holds one signal, this Audio has {len(self.samples)}; "
                "save Audio(samples[i : i + 1]) for each"
            )
        path = Path(path)
        if path.suffix.lower() != ".wav":
            raise ValueError(f"{path} does not end in .wav; only WAV is written")
        # 32768, as libsndfile divides by it: what is read and written again stays bit-equal
        whole = (self.samples[0].detach().cpu().double() * 32_768).round().clamp(-32_768, 32_767)
        with replacing(path) as beside:
            soundfile.write(beside, whole.to(torch.int16).numpy(), SAMPLE_RATE, subtype="PCM_16")
        return path


def resample(samples: Float[Tensor, "B N"], rate_hz: int, new_rate_hz: int) -> Float[Tensor, "B M"]:
    """The signals at another rate, band-limited, aligned with the input in time."""
    import soxr

    if rate_hz == new_rate_hz:
        return samples
    rows = [soxr.resample(row, rate_hz, new_rate_hz, quality="HQ") for row in samples.cpu().numpy()]
    return torch.from_numpy(np.stack(rows)).to(samples)


def _decode(path: Path) -> tuple[Float[np.ndarray, "N C"], int]:
    """Samples per channel and rate of a sound file, after its header has been judged."""
    import soundfile

    if not path.is_file():
        raise AssetError(f"there is no sound file at {path}; check the path")
    try:
        header = soundfile.info(str(path))
        if not _LOWEST_RATE <= header.samplerate <= _HIGHEST_RATE:
            raise AssetError(
                f"{path} says it has {header.samplerate} samples a second, which no recording has; "
                f"export it again as {_FORMATS}"
            )
        duration_s = header.frames / header.samplerate
        if duration_s < SHORTEST_S:
            raise AssetError(
                f"{path} lasts {duration_s:.3f} s; a line of at least {SHORTEST_S} s is needed"
            )
        if not math.isfinite(duration_s) or duration_s > LONGEST_S:
            raise AssetError(
                f"{path} lasts {duration_s / 60:.0f} min, the limit is {LONGEST_S / 60:.0f} min; "
                "cut it into parts"
            )
        samples, rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise AssetError(
            f"{path} cannot be read as sound ({str(error).rstrip('.').split(': ')[-1]}); "
            f"save it as {_FORMATS}"
        ) from error
    if len(samples) < SHORTEST_S * rate_hz:
        raise AssetError(
            f"{path} ends after {len(samples)} samples; the file is cut short, copy it again"
        )
    return samples, rate_hz
