"""Recordings of any length in another voice: from file to file, in memory that does not grow."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from voice.audio import SAMPLE_RATE, SHORTEST_S, Audio, read_blocks
from voice.converter import Converter
from voice.decode import open_sound
from voice.effects import without_offset
from voice.loudness import loudness_lufs
from voice.revoice import (
    LONGEST_AT_ONCE_S,
    QUIETEST_PEAK,
    Register,
    RevoiceConfig,
    Revoiced,
    find_register,
    finish,
    heard,
    pieces,
    prepare,
    revoice,
    transposed,
)
from voice.sing_mix import limited
from voice.sound_files import require_writable, sound_suffix, write_sound
from voice.stream import FILE, convert_long
from voice.voices import Voice

_WINDOW_S = 3.0  # of loudness; pauses within are left out by its own gate
_MOST_GAIN_DB = 40.0


@dataclass(frozen=True)
class Converted:
    """A file that was written."""

    path: Path
    seconds: float
    register: Register
    is_silent: bool


def revoice_file(
    source: Path,
    target: Path,
    converter: Converter,
    voice: Voice,
    config: RevoiceConfig | None = None,
    *,
    generator: torch.Generator,
    comment: str = "",
    step: Callable[[float, float], None] | None = None,
) -> Converted:
    """A sound file of any kind and length in a voice, as WAV, FLAC, OGG or MP3.

    Up to a minute is converted at once, more as a stream. `step` is told the seconds done
    and those of the whole.
    AssetError for what cannot be read, ValueError for settings.
    """
    config = config or RevoiceConfig()
    sound_suffix(target)
    require_writable(target)
    told_s = open_sound(source).header.duration_s
    if told_s is not None and told_s <= LONGEST_AT_ONCE_S:
        made = revoice(Audio.read(source), converter, voice, config, generator=generator)
        write_sound(target, [made.audio], comment=comment)
        return Converted(target, made.audio.duration_s, made.register, made.is_silent)
    peak, length_s = _survey(read_blocks(source))
    if length_s < SHORTEST_S:
        raise AssetError(
            f"{source} lasts {length_s:.3f} s; a line of at least {SHORTEST_S} s is needed"
        )
    line = _Line(converter, voice, config, peak, generator)
    seconds = 0.0
    levels: list[float] = []
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent) as kept:
        lengths = []
        for piece in line.pieces(read_blocks(source)):
            row = piece.samples[0].float().numpy()
            kept.write(row.tobytes())
            lengths.append(row.nbytes)
            levels += _levels(piece)
            seconds += piece.duration_s
            if step is not None:
                step(seconds, length_s / config.speed)
        kept.seek(0)
        rows = (np.frombuffer(kept.read(count), np.float32) for count in lengths)
        write_sound(target, _levelled(rows, levels, config), comment=comment)
    return Converted(target, seconds, line.register, line.is_silent)


def revoice_audio(
    source: Audio,
    converter: Converter,
    voice: Voice,
    config: RevoiceConfig | None = None,
    *,
    generator: torch.Generator,
) -> Revoiced:
    """`revoice` for sound that is in memory already, of any length."""
    config = config or RevoiceConfig()
    if source.duration_s <= LONGEST_AT_ONCE_S:
        return revoice(source, converter, voice, config, generator=generator)
    line = _Line(converter, voice, config, _survey([source])[0], generator)
    parts = list(line.pieces([source]))
    levels = [level for part in parts for level in _levels(part)]
    rows = (part.samples[0].float().numpy() for part in parts)
    made = [part.samples for part in _levelled(rows, levels, config)]
    return Revoiced(Audio(torch.cat(made, dim=1)), line.register, line.is_silent)


class _Line:
    """One long recording on its way through the converter, a piece after the other."""

    def __init__(
        self,
        converter: Converter,
        voice: Voice,
        config: RevoiceConfig,
        peak: float,
        generator: torch.Generator,
    ) -> None:
        # pitch is moved in the source, once for the whole line, and not by the converter again
        self._told, self.converter = converter, replace(converter, style_pitch=None)
        self.voice, self.config = voice, config
        self.generator = generator
        self.register = Register()
        self.is_silent = True
        self._stream = replace(FILE, peak=max(peak, QUIETEST_PEAK))
        self._waiting: deque[tuple[Audio, Float[np.ndarray, " N"]]] = deque()

    def pieces(self, blocks: Iterable[Audio]) -> Iterator[Audio]:
        """The converted sound, a piece for each piece of the source, not yet levelled."""
        sound = convert_long(
            self.converter,
            self._prepared(blocks),
            self.voice.style,
            config=self._stream,
            generator=self.generator,
        )
        held = torch.zeros(0)
        for block in sound:
            held = torch.cat([held.to(block), block])
            while self._waiting and len(held) >= self._waiting[0][0].samples.shape[1]:
                prepared, gain = self._waiting.popleft()
                count = prepared.samples.shape[1]
                yield self._finished(Audio(held[None, :count]), prepared, gain)
                held = held[count:]

    def _prepared(self, blocks: Iterable[Audio]) -> Iterator[Tensor]:
        for piece in pieces(blocks):
            prepared, gain = prepare(piece, self.config.gate_db)
            if prepared is None:
                prepared, gain = Audio(torch.zeros_like(piece.samples)), np.zeros_like(gain)
            elif not self.register.source_hz:
                self.register = find_register(
                    prepared, self._told, self.voice, self.config, generator=self.generator
                )
            self._waiting.append((prepared, gain))
            yield transposed(prepared, self.register.source_moved).samples[0]

    def _finished(self, made: Audio, prepared: Audio, gain: Float[np.ndarray, " N"]) -> Audio:
        if not gain.any():
            made = Audio(torch.zeros_like(made.samples))
        else:
            self.is_silent = False
            # once for the whole line: a song whose key wanders is out of tune
            if not self.register.result_hz:
                self.register = heard(self.register, prepared, made, self._told, self.config)
        return finish(made, gain, self.register, self._told, self.config)


def _survey(blocks: Iterable[Audio]) -> tuple[float, float]:
    """The peak of a sound, its offset left out, and its length in seconds."""
    peak, seconds = 0.0, 0.0
    for block in blocks:
        seconds += block.duration_s
        if block.samples.shape[1] > 1:
            peak = max(peak, float(without_offset(block).samples.abs().amax()))
    return peak, seconds


def _levels(piece: Audio) -> list[float]:
    """Loudness of each window, LUFS, those that are silent left out."""
    count = round(_WINDOW_S * SAMPLE_RATE)
    starts = range(0, max(1, piece.samples.shape[1] - count // 4), count)
    found = [loudness_lufs(Audio(piece.samples[:, at : at + count])) for at in starts]
    return [level for level in found if math.isfinite(level)]


def _levelled(
    rows: Iterable[Float[np.ndarray, " _"]], levels: list[float], config: RevoiceConfig
) -> Iterator[Audio]:
    """Rows at the wanted loudness, their true peaks limited; levels gated as BS.1770 does it."""
    gain = 1.0
    if config.lufs is not None and levels:
        powers = np.power(10.0, np.array(levels) / 10.0)
        now = 10.0 * math.log10(powers[powers > 0.1 * powers.mean()].mean())
        gain = 10.0 ** (min(config.lufs - now, _MOST_GAIN_DB) / 20.0)
    for row in rows:
        made = row[:, None].astype(np.float64) * gain
        if config.lufs is not None:
            made = limited(made, SAMPLE_RATE)
        yield Audio(torch.from_numpy(made[:, 0]).float()[None])
