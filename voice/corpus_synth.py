"""Rendered speech for training: target styles made of the installed synthesisers' voices."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from voice.audio import SAMPLE_RATE, Audio
from voice.corpus import Take
from voice.corpus_engines import EngineVoice, scaled
from voice.corpus_text import sentences

log = logging.getLogger(__name__)

HEART = EngineVoice("hibari", "heart", top_hz=12_000)
SLT = EngineVoice("flite", "slt", 170.0)
RMS = EngineVoice("flite", "rms", 100.0)
AWB = EngineVoice("flite", "awb", 125.0)
KAL = EngineVoice("flite", "kal16", 105.0)
SLT_HTS = EngineVoice("festival", "cmu_us_slt_arctic_hts", top_hz=12_000)
KED = EngineVoice("festival", "ked_diphone")
ESPEAK = EngineVoice("espeak-ng", "", top_hz=11_000)


@dataclass(frozen=True)
class Style:
    """How a target style is made: a voice, then size, melody, pace and colour."""

    name: str
    voice: EngineVoice
    size: float = 1.0  # formants times this, and pitch with them; above 1 is a smaller speaker
    semitones: float = 0.0  # of the engine's own melody, beside what `size` does
    speed: float = 1.0
    tilt_db: float = 0.0  # of 6 kHz against 200 Hz
    held_out: bool = False  # a voice that is only measured with


STYLES = (
    Style("female", HEART),
    Style("idol", HEART, size=1.22, speed=1.05, tilt_db=2.0),
    Style("child", HEART, size=1.38),
    Style("low", HEART, size=0.84),
    Style("soft", HEART, size=0.95, speed=0.9, tilt_db=-7.0),
    Style("bright", HEART, size=1.08, tilt_db=6.0),
    Style("male", RMS),
    Style("deep", RMS, size=0.88, semitones=-1.0),
    Style("dark", AWB, size=0.94, tilt_db=-6.0),
    Style("calm", AWB, speed=0.9),
    Style("narrator", KAL),
    Style("high", SLT_HTS, size=1.12, tilt_db=2.0),
    Style("clear", SLT),
    Style("robot", ESPEAK),
    Style("classic", KED, held_out=True),
)


def available(styles: Sequence[Style] = STYLES) -> tuple[Style, ...]:
    """The styles whose voice is installed; the others are named in the log."""
    absent = {style.name: style.voice.why_absent() for style in styles}
    for name, reason in absent.items():
        if reason:
            log.warning("style %s is left out: %s", name, reason)
    return tuple(style for style in styles if not absent[style.name])


def rendered_takes(
    count: int,
    styles: Sequence[Style] | None = None,
    *,
    generator: torch.Generator,
) -> Iterator[Take]:
    """So many sentences in each style that can be rendered here, other sentences in each.

    The last twelfth of each style's sentences is held out, as is a whole voice.
    """
    for style in available() if styles is None else styles:
        for number, text in enumerate(sentences(count, generator=generator)):
            spoken = style.voice.speak(
                text, style.semitones, style.speed / style.size, generator=generator
            )
            audio, phonemes = scaled(spoken, style.size)
            yield Take(
                Audio(tilted(audio.samples, style.tilt_db)),
                style.name,
                f"rendered-{style.voice.engine}",
                style.voice.licence,
                style="" if style.held_out else style.name,
                text=text,
                language="en-us",
                top_hz=min(12_000, round(style.voice.top_hz * style.size)),
                phonemes=phonemes,
                held_out=style.held_out or number >= count - max(1, count // 12),
            )


def tilted(samples: torch.Tensor, tilt_db: float) -> torch.Tensor:
    """The signal with its spectrum sloping by so much from 200 Hz to 6 kHz, straight per octave."""
    if tilt_db == 0:
        return samples
    count = samples.shape[-1]
    hertz = torch.fft.rfftfreq(count, 1 / SAMPLE_RATE).clamp(200.0, 6_000.0)
    share = torch.log(hertz / 200.0) / torch.log(torch.tensor(30.0))
    gain = 10 ** (tilt_db * (share - 0.5) / 20)
    return torch.as_tensor(torch.fft.irfft(torch.fft.rfft(samples) * gain, count))
