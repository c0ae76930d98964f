"""A recording in another voice, as a creator wants it: in that voice's register, at one level.

A converter with a `style_pitch` is told how far to move the pitch. Of others, whose generator moves
the mean of the melody itself, it is heard whether they did: where not, the source is transposed
first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voice.audio import SAMPLE_RATE, Audio
from voice.converter import Converter
from voice.effects import EffectConfig, gate_gain, with_effects, without_offset
from voice.loudness import WEB_LUFS, loudness_lufs, normalized
from voice.pitch import PitchConfig, track_pitch
from voice.profiles import median_pitch
from voice.voices import Voice

LONGEST_AT_ONCE_S = 60.0  # longer ones are converted as a stream
PROBE_S = 8.0  # of the source, from which its register is told
_OFF_SEMITONES = 3.0  # from the voice's register, from which on a converter is helped
_WORTH_SEMITONES = 1.0  # nearer by so much, or the source stays as it was
_MOST_SEMITONES = 18.0
_WIDEST = 24.0  # that effects and converters take
_IN_TUNE = 0.05  # semitones
_SUNG_ABOVE = 5.0  # semitones; people sing about a fourth above the pitch that they speak at
_FRAMES = 15  # of 10 ms that must be voiced in both
QUIETEST_PEAK = 1e-4  # what is quieter throughout, or below -70 LUFS, holds no voice


@dataclass(frozen=True)
class RevoiceConfig:
    """What is done to a recording besides its conversion; the defaults only level it."""

    pitch_semitones: float = 0.0  # from the voice's register
    formant_semitones: float = 0.0  # higher is a smaller speaker
    speed: float = 1.0  # 2 is twice as fast
    lufs: float | None = WEB_LUFS  # of the result; None leaves the converter's level
    gate_db: float | None = None  # quieter than this in the source is silence; dB of full scale
    keep_melody: bool = False  # a song stays in its key, at octaves that suit the voice

    def __post_init__(self) -> None:
        self.effects()

    def effects(self) -> EffectConfig:
        """The same for `voice.effects`, without gate and level; ValueError out of their range."""
        EffectConfig(gate_db=self.gate_db, lufs=self.lufs)
        return EffectConfig(
            pitch_semitones=self.pitch_semitones,
            formant_semitones=self.formant_semitones,
            speed=self.speed,
        )


@dataclass(frozen=True)
class Register:
    """Where the voices are, as medians in Hz (0 where nothing is voiced), and what was moved."""

    source_hz: float = 0.0
    voice_hz: float = 0.0  # that the voice is known for
    result_hz: float = 0.0  # that the converter gave
    source_moved: float = 0.0  # semitones, before or in the conversion
    result_moved: float = 0.0  # semitones, after it

    def told(self) -> str:
        """What was done, in words."""
        if not self.source_hz:
            return "no pitch was heard, so none was moved"
        words = f"pitch from {self.source_hz:.0f} Hz"
        if self.result_hz:
            words += f" to {self.result_hz:.0f} Hz"
        moved = self.source_moved
        words += f", moved by {moved:+.1f} semitones" if moved else ", as the converter moved it"
        after = self.result_moved
        return words + (f", then by {after:+.1f} into its key" if after else "")


@dataclass(frozen=True, eq=False)
class Revoiced:
    """A converted recording, and how it came to its pitch."""

    audio: Audio
    register: Register
    is_silent: bool = False  # nothing was there to convert


def revoice(
    source: Audio,
    converter: Converter,
    voice: Voice,
    config: RevoiceConfig | None = None,
    *,
    generator: torch.Generator,
) -> Revoiced:
    """One recording in a voice, as long as it was divided by the speed.

    Silence, a constant and what is below -70 LUFS throughout become silence. Where the gate shuts,
    the result is silent too.
    """
    config = config or RevoiceConfig()
    prepared, gain = prepare(source, config.gate_db)
    count = round(source.samples.shape[1] / config.speed)
    if prepared is None:
        return Revoiced(Audio(source.samples.new_zeros(1, count)), Register(), is_silent=True)
    register = find_register(prepared, converter, voice, config, generator=generator)
    if converter.style_pitch is None:
        moved = transposed(prepared, register.source_moved)
        made = converter.convert(moved, voice.style, generator=generator)
    else:
        semitones = register.source_moved
        made = converter.convert(prepared, voice.style, generator=generator, semitones=semitones)
    register = heard(register, prepared, made, converter, config)
    made = finish(made, gain, register, converter, config)
    return Revoiced(made if config.lufs is None else normalized(made, config.lufs), register)


def prepare(source: Audio, gate_db: float | None) -> tuple[Audio | None, Float[np.ndarray, " N"]]:
    """The source without offset and what the gate shuts out, and the gate's gain.

    None in the place of a source that holds no voice.
    """
    clean = without_offset(source)
    gain = np.ones(clean.samples.shape[1])
    if not has_voice(clean):
        return None, gain
    if gate_db is not None:
        row = clean.samples[0].double().numpy()
        gain = gate_gain(row, gate_db)
        clean = Audio(torch.from_numpy(row * gain).to(clean.samples)[None])
        if not has_voice(clean):
            return None, gain
    return clean, gain


def has_voice(audio: Audio) -> bool:
    """Whether there is anything to convert; without offset."""
    if float(audio.samples.abs().amax()) < QUIETEST_PEAK:
        return False
    return bool(np.isfinite(loudness_lufs(audio)))


def find_register(
    source: Audio,
    converter: Converter,
    voice: Voice,
    config: RevoiceConfig,
    *,
    generator: torch.Generator,
) -> Register:
    """What must be moved for the voice to speak in its own register, told from a piece.

    Songs keep their key, and voices of unknown pitch what the converter gives them. A converter
    without `style_pitch` is tried on `PROBE_S` first.
    """
    probe = loudest_piece(source, PROBE_S)
    source_hz = median_pitch(probe)
    found = Register(source_hz, voice.f0_hz)
    if not source_hz:
        return found
    if converter.style_pitch is not None:
        if voice.f0_hz:
            away = 12.0 * math.log2(voice.f0_hz / source_hz)
        else:
            away = float(converter.semitones_to(probe, voice.style)[0])
        away = min(max(away, -_MOST_SEMITONES), _MOST_SEMITONES)
        if config.keep_melody:
            away = 12.0 * round((away + _SUNG_ABOVE) / 12.0)
        away += config.pitch_semitones
        return replace(found, source_moved=min(max(away, -_WIDEST), _WIDEST))
    if config.keep_melody or not voice.f0_hz:
        return found

    def off(semitones: float) -> float | None:
        """How far from its register the voice is if the source is moved first."""
        moved = transposed(probe, semitones)
        # noise of its own, so that what the real conversion draws does not depend on it
        draws = torch.Generator().manual_seed(0)
        made_hz = median_pitch(converter.convert(moved, voice.style, generator=draws))
        return 12.0 * math.log2(made_hz / voice.f0_hz) if made_hz else None

    plain = off(0.0)
    if plain is None or abs(plain) <= _OFF_SEMITONES:
        return found
    semitones = min(max(-plain, -_MOST_SEMITONES), _MOST_SEMITONES)
    helped = off(semitones)
    if helped is None or abs(helped) > abs(plain) - _WORTH_SEMITONES:
        return found
    return replace(found, source_moved=semitones)


def heard(
    register: Register, source: Audio, made: Audio, converter: Converter, config: RevoiceConfig
) -> Register:
    """The register with what is heard in the result; and how far a song is from its key."""
    register = replace(register, result_hz=median_pitch(loudest_piece(made, PROBE_S)))
    if not config.keep_melody:
        return register
    wanted = 0.0 if converter.style_pitch is None else config.pitch_semitones
    return replace(register, result_moved=out_of_key(source, made, wanted) or 0.0)


def loudest_piece(audio: Audio, seconds: float) -> Audio:
    """The stretch of so many seconds that holds the most sound; all of what is shorter."""
    count, hop = round(seconds * SAMPLE_RATE), SAMPLE_RATE // 10
    row = audio.samples[0]
    if len(row) <= count:
        return audio
    power = row[: len(row) // hop * hop].double().reshape(-1, hop).square().sum(dim=1)
    # the cube root of power: one shout does not outweigh a sentence
    summed = torch.cat([power.new_zeros(1), power.pow(1 / 3).cumsum(0)])
    width = count // hop
    first = int((summed[width:] - summed[:-width]).argmax()) * hop
    return Audio(audio.samples[:, first : first + count])


def transposed(audio: Audio, semitones: float) -> Audio:
    """The recording so many semitones higher, its formants kept."""
    return with_effects(audio, EffectConfig(pitch_semitones=semitones)) if semitones else audio


def out_of_key(source: Audio, result: Audio, wanted: float = 0.0) -> float | None:
    """Semitones by which the result must move to be whole octaves and `wanted` from its source.

    None where too little is voiced in both to tell.
    """
    tracker = PitchConfig(hop_length=240)
    before, after = (
        track_pitch(audio.samples[0].double().numpy(), tracker) for audio in (source, result)
    )
    both = (before > 0) & (after > 0)
    if int(both.sum()) < _FRAMES:
        return None
    shift = float(np.median(12.0 * np.log2(after[both] / before[both]))) - wanted
    correction = 12.0 * round(shift / 12.0) - shift
    return correction if abs(correction) > _IN_TUNE else 0.0


def finish(
    made: Audio,
    gain: Float[np.ndarray, " N"],
    register: Register,
    converter: Converter,
    config: RevoiceConfig,
) -> Audio:
    """The converted sound, silent where the gate was shut, after its effects; level as it is."""
    if config.gate_db is not None:
        made = Audio(made.samples * torch.from_numpy(gain).to(made.samples))
    effects = config.effects()
    wanted = register.result_moved
    if converter.style_pitch is None:
        wanted += config.pitch_semitones
    return with_effects(made, replace(effects, pitch_semitones=min(max(wanted, -_WIDEST), _WIDEST)))


def pieces(blocks: Iterable[Audio], least_s: float = 20.0, slack_s: float = 5.0) -> Iterator[Audio]:
    """The same sound in pieces of `least_s` to `least_s + slack_s`, cut where it is quietest."""
    least, slack, hop = (round(s * SAMPLE_RATE) for s in (least_s, slack_s, 0.02))
    held: Tensor = torch.zeros(1, 0)
    for block in blocks:
        held = torch.cat([held.to(block.samples), block.samples], dim=1)
        while held.shape[1] > least + slack:
            window = held[0, least : least + slack].double()
            power = window[: slack // hop * hop].reshape(-1, hop).square().sum(dim=1)
            end = least + int(power.argmin()) * hop + hop // 2
            yield Audio(held[:, :end])
            held = held[:, end:]
    if held.shape[1]:
        yield Audio(held)
