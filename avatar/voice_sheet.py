"""A picture of voices: each says the same sentence, as a spectrogram with its pitch over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from assets.image import write_image
from avatar.progress import Progress
from avatar.sound_record import AI_COMMENT
from voice.audio import SAMPLE_RATE, Audio
from voice.mel import MelConfig, log_mel, normalised
from voice.pitch import PitchConfig, track_pitch
from voice.profiles import median_pitch
from voice.revoice_long import revoice_audio
from voice.sound_files import require_writable, write_sound
from voice.speak import SpeakConfig, speak
from voice.train_previews import picture
from voice.voices import VoiceBook

SENTENCE = "Hello! This is how I sound when I read you a line."
_LOW_HZ, _HIGH_HZ = 60.0, 600.0
_WIDTH, _HEIGHT, _GAP, _MARGIN, _CAPTION = 480, 160, 24, 32, 44
_PAPER, _INK, _FAINT, _LINE = (21, 23, 27), (222, 225, 230), (128, 134, 144), (90, 240, 220)


@dataclass(frozen=True, eq=False)
class Sample:
    """One voice's sentence, and what is written over it."""

    title: str
    told: str
    audio: Audio


def sheet(book: VoiceBook, out: Path, *, seed: int = 0, progress: Progress) -> list[Path]:
    """Have each voice say a sentence: a WAV for each, and one picture of them all.

    `out` is a folder, or the picture itself (.png), beside which a folder of the same name has the
    sounds. Returns the files, the picture first.
    """
    if out.suffix.lower() == ".png":
        image, sounds = out, out.with_suffix("")
    elif out.suffix:
        raise ValueError(f"{out} does not end in .png; give a picture's path or a folder")
    else:
        image, sounds = out / "voices.png", out
    if not book.voices:
        raise ValueError("this converter has no voices to show; add one with avatar voice add")
    for path in (image, sounds / "voice.wav"):
        require_writable(path)
    generator = torch.Generator().manual_seed(seed)
    with progress.stage("speech"):
        line = speak(SENTENCE, SpeakConfig(), generator=generator).audio
    samples, files = [], []
    for voice in book.voices:
        with progress.stage(voice.name):
            made = revoice_audio(line, book.converter, voice, generator=generator).audio
            name = re.sub(r"[^\w-]+", "-", voice.name)
            files.append(write_sound(sounds / f"{name}.wav", [made], comment=AI_COMMENT))
        hertz = median_pitch(made)
        told = ", ".join(filter(None, [voice.gender, f"{hertz:.0f} Hz" if hertz else ""]))
        samples.append(Sample(voice.name, f"{told}   {voice.description}".strip(), made))
    pixels = torch.from_numpy(drawn(samples)).permute(2, 0, 1)[None].float() / 255
    write_image(image, pixels, ai_generated=True)
    return [image, *files]


def drawn(samples: Sequence[Sample], columns: int = 3) -> UInt8[np.ndarray, "H W 3"]:
    """The spectrograms in rows, on one scale of time, each with its pitch as a line.

    Low bands are at the bottom; the line's scale is logarithmic, 60 to 600 Hz.
    """
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    size = (
        2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP,
        2 * _MARGIN + rows * (_HEIGHT + _CAPTION) + (rows - 1) * _GAP + _CAPTION // 2,
    )
    page = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(page)
    big, small = ImageFont.load_default(18), ImageFont.load_default(13)
    longest_s = max(sample.audio.duration_s for sample in samples)
    for index, sample in enumerate(samples):
        left = _MARGIN + index % columns * (_WIDTH + _GAP)
        top = _MARGIN + index // columns * (_HEIGHT + _CAPTION + _GAP)
        pen.text((left, top), sample.title, _INK, big)
        pen.text((left, top + 22), _fitted(sample.told, small, _WIDTH), _FAINT, small)
        top += _CAPTION
        pen.rectangle((left, top, left + _WIDTH - 1, top + _HEIGHT - 1), (0, 0, 4))
        wide = max(1, round(_WIDTH * sample.audio.duration_s / longest_s))
        mel = picture(normalised(log_mel(sample.audio.samples, MelConfig()))[0])
        page.paste(Image.fromarray(mel).resize((wide, _HEIGHT), Image.Resampling.BILINEAR),
                   (left, top))  # fmt: skip
        for run in _runs(sample.audio, wide):
            points = [(left + x, top + y) for x, y in run]
            pen.line(points, (0, 0, 0), 4, joint="curve")
            pen.line(points, _LINE, 2, joint="curve")
    foot = f"pitch: {_LOW_HZ:.0f} to {_HIGH_HZ:.0f} Hz, logarithmic; AI-generated"
    pen.text((_MARGIN, size[1] - _MARGIN), foot, _FAINT, small)
    return np.array(page)


def _runs(audio: Audio, wide: int) -> list[list[tuple[float, float]]]:
    """The voiced stretches of a sound as points in a box `wide` pixels wide."""
    config = PitchConfig(hop_length=240)
    hertz = track_pitch(audio.samples[0].double().numpy(), config)
    x = np.arange(len(hertz)) * config.hop_length / SAMPLE_RATE / audio.duration_s * wide
    share = np.log(np.clip(hertz, _LOW_HZ, _HIGH_HZ) / _LOW_HZ) / np.log(_HIGH_HZ / _LOW_HZ)
    y = (1.0 - share) * (_HEIGHT - 1)
    edges = np.flatnonzero(np.diff(np.pad((hertz > 0).astype(int), 1)))
    return [
        [(float(a), float(b)) for a, b in zip(x[i:j], y[i:j], strict=True)]
        for i, j in zip(edges[::2], edges[1::2], strict=True)
        if j - i > 1
    ]


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wide: int) -> str:
    if font.getlength(text) <= wide:
        return text
    while text and font.getlength(text + " …") > wide:
        text = text[:-1]
    return text.rstrip() + " …"
