"""Pictures of mels and sound files that show how a training stands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.files import replacing
from voice.audio import Audio

_LOW, _HIGH = -2.0, 2.5  # normalised mel: silence and loud speech
_STOPS = np.array([[0, 0, 4], [80, 18, 123], [182, 54, 121], [251, 136, 97], [252, 253, 191]])


def save_mels(rows: Sequence[Float[Tensor, "B M T"]], path: Path) -> Path:
    """A PNG with a column for each item and a row for each kind of mel, low bands at the bottom."""
    from PIL import Image

    lines = [
        np.concatenate([np.pad(picture(mel), ((1, 1), (1, 1), (0, 0))) for mel in kind], axis=1)
        for kind in rows
    ]
    wide = max(line.shape[1] for line in lines)
    sheet = np.concatenate([np.pad(x, ((0, 0), (0, wide - x.shape[1]), (0, 0))) for x in lines])
    with replacing(Path(path)) as beside:
        Image.fromarray(sheet).save(beside)
    return path


def picture(mel: Float[Tensor, "M T"]) -> np.ndarray:
    """RGB bytes of a normalised mel, two rows a band."""
    share = ((mel.detach().float().cpu().numpy() - _LOW) / (_HIGH - _LOW)).clip(0, 1)
    share = np.repeat(share[::-1], 2, axis=0) * (len(_STOPS) - 1)
    left = np.minimum(share.astype(int), len(_STOPS) - 2)
    part = (share - left)[..., None]
    colours = _STOPS[left] * (1 - part) + _STOPS[left + 1] * part
    return np.asarray(np.round(colours), dtype=np.uint8)


def save_sounds(rows: Sequence[Float[Tensor, "1 N"]], folder: Path, name: str) -> list[Path]:
    """Numbered WAV files of signals at 24 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        Audio(torch.as_tensor(row).clamp(-1, 1)).save(folder / f"{name}-{number}.wav")
        for number, row in enumerate(rows)
    ]
