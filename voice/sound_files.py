"""Sound written as WAV, FLAC, OGG or MP3, piece by piece, with a note of what it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from assets.errors import AssetError
from assets.files import replacing
from voice.audio import SAMPLE_RATE, Audio

FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_BLOCK = 24_000  # samples; the Vorbis encoder keeps what it is given at once on its stack


def sound_suffix(path: Path) -> str:
    """The suffix of a sound file to write; ValueError names those that can be."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path} does not end in one of {', '.join(FORMATS)}; choose one")
    return suffix


def require_writable(path: Path) -> None:
    """AssetError unless a file can be written there; asked before the work, not after it."""
    path = Path(path)
    if path.is_dir():
        raise AssetError(f"{path} is a folder; give the path of a file to write")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise AssetError(f"{path} cannot be written: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise AssetError(f"{path} cannot be written: {folder} may not be written to")


def write_sound(path: Path, pieces: Iterable[Audio], *, comment: str = "") -> Path:
    """Write one signal at 24 kHz, 16 bits where the format keeps samples; beside, then renamed.

    Samples beyond -1..1 are clipped. The comment goes where the format keeps such.
    """
    import soundfile

    suffix = sound_suffix(path)
    kind, subtype = FORMATS[suffix]
    path = Path(path)
    try:
        with (
            replacing(path) as beside,
            soundfile.SoundFile(
                beside, "w", samplerate=SAMPLE_RATE, channels=1, format=kind, subtype=subtype
            ) as file,
        ):
            if comment:
                file.comment = comment
            for piece in pieces:
                if len(piece.samples) != 1:
                    raise ValueError(f"a file holds one signal, these are {len(piece.samples)}")
                row = piece.samples[0].detach().cpu().double().numpy()
                # 32768, as libsndfile divides by it: what is read and written stays bit-equal
                whole = (row * 32_768).round().clip(-32_768, 32_767).astype(np.int16)
                for start in range(0, len(whole), _BLOCK):
                    file.write(whole[start : start + _BLOCK])
    except soundfile.SoundFileError as error:
        raise AssetError(
            f"{path} cannot be written: {error}; choose WAV or another place"
        ) from error
    return path
