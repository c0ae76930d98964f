"""Sound files of every kind as blocks of samples, none of which is held longer than it is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from assets.errors import AssetError

FORMATS = "WAV, FLAC, OGG, MP3 or M4A"
LOWEST_RATE, HIGHEST_RATE = 4_000, 768_000  # Hz; outside, a header is damaged
_BLOCK_S = 5.0
_MOST_CHANNELS = 64
# Containers that hold sound. Play-lists, which name other files and addresses, are not among them.
_CONTAINERS = (
    "mov,mp4,aac,adts,matroska,webm,asf,wav,w64,flac,ogg,mp3,aiff,amr,caf,avi,ac3,eac3,ape"
)


@dataclass(frozen=True)
class Header:
    """What a sound file says about itself."""

    rate_hz: int
    channels: int
    duration_s: float | None  # None where the file does not say


@dataclass(frozen=True, eq=False)
class Decoder:
    """A sound file that has been recognised."""

    path: Path
    header: Header
    by_libsndfile: bool

    def blocks(self) -> Iterator[Float[np.ndarray, "N C"]]:
        """The samples, some seconds at a time, -1..1 (files of floats may go beyond).

        AssetError where the file breaks off or holds samples that are not numbers.
        """
        reader = _by_libsndfile(self) if self.by_libsndfile else _by_ffmpeg(self)
        for block in reader:
            if not np.isfinite(block).all():
                raise AssetError(
                    f"{self.path} holds samples that are not numbers; export it again as 16-bit WAV"
                )
            yield block


def open_sound(path: Path | str) -> Decoder:
    """The decoder of a sound file, or of the sound of a video; the content decides, not the name.

    AssetError for anything else.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise AssetError(f"there is no sound file at {path}; check the path")
    if path.stat().st_size == 0:
        raise AssetError(f"{path} cannot be read as sound: it is empty; copy or export it again")
    found: Header | None = None
    by_libsndfile = True
    with contextlib.suppress(soundfile.SoundFileError):
        header = soundfile.info(str(path))
        if header.frames:  # recorders that crash leave a length of 0 behind
            duration_s = header.frames / max(header.samplerate, 1)
            # a length of 2^63 - 1 samples stands for an unknown one
            known = duration_s < 1e9
            found = Header(header.samplerate, header.channels, duration_s if known else None)
    if found is None:
        found, by_libsndfile = _header_by_ffmpeg(path), False
    if not LOWEST_RATE <= found.rate_hz <= HIGHEST_RATE:
        raise AssetError(
            f"{path} says it has {found.rate_hz} samples a second, which no recording has; "
            f"export it again as {FORMATS}"
        )
    if not 1 <= found.channels <= _MOST_CHANNELS:
        raise AssetError(f"{path} says it has {found.channels} channels; export it as stereo")
    return Decoder(path, found, by_libsndfile)


def mixed_down(block: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " N"]:
    """One channel of many: the mean, or for 5.0 and 5.1 the mean of ITU-R BS.775's stereo mix.

    The mean of surround would leave a voice, which its centre alone carries, at a sixth.
    """
    if block.shape[1] not in (5, 6):
        return np.asarray(block.mean(axis=1))
    left, right, centre = block[:, 0], block[:, 1], block[:, 2]
    behind = block[:, -2] + block[:, -1]  # the channel for bass, in between, is left out
    return np.asarray(0.5 * (left + right + 2.0**0.5 * centre + 0.5**0.5 * behind))


def _by_libsndfile(sound: Decoder) -> Iterator[Float[np.ndarray, "N C"]]:
    import soundfile

    size = round(_BLOCK_S * sound.header.rate_hz)
    done = 0
    try:
        with soundfile.SoundFile(str(sound.path)) as file:
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                done += len(block)
                yield block
    except soundfile.SoundFileError as error:
        raise AssetError(
            f"{sound.path} breaks off after {done / sound.header.rate_hz:.1f} s; the file is cut "
            "short or damaged, copy it again"
        ) from error


def _header_by_ffmpeg(path: Path) -> Header:
    import av

    try:
        with av.open(str(path), options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.audio:
                raise AssetError(f"{path} has no sound, only pictures; give a recording")
            stream = container.streams.audio[0]
            duration_s = None if container.duration is None else container.duration / av.time_base
            return Header(int(stream.rate or 0), int(stream.channels), duration_s)
    except (av.error.FFmpegError, ValueError) as error:
        raise AssetError(
            f"{path} cannot be read as sound: it is damaged or something else; save it as {FORMATS}"
        ) from error


def _by_ffmpeg(sound: Decoder) -> Iterator[Float[np.ndarray, "N C"]]:
    import av

    done = 0
    try:
        with av.open(str(sound.path), options={"format_whitelist": _CONTAINERS}) as container:
            stream = container.streams.audio[0]
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for plain in to_float.resample(frame):
                    done += plain.samples
                    yield plain.to_ndarray().T.astype(np.float32)
    except av.error.FFmpegError as error:
        raise AssetError(
            f"{sound.path} breaks off after {done / sound.header.rate_hz:.1f} s; the file is cut "
            "short or damaged, copy it again"
        ) from error
