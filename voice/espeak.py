"""Speech in a hundred languages from eSpeak NG (GPL-3), run as a separate program."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from assets.errors import AssetError
from voice.audio import SAMPLE_RATE, Audio, resample
from voice.phonemes import arpabet
from voice.speech import Phoneme, from_ipa

ENGINE = "espeak-ng"
LICENCE = "GPL-3.0"
_WORDS_PER_MINUTE = 165  # slower than the engine's 175: easier to follow on a face
_PITCH = 50  # the engine's middle; 50 steps are an octave
_CLOSURE_S = 0.035
_STOPS = ("P", "B", "T", "D", "K", "G")
_TIME_LIMIT_S = 120
_NO_VOICE = 3  # exit status of the child


def is_installed() -> bool:
    """Whether the engine can be used; imports nothing."""
    return importlib.util.find_spec("espeakng_loader") is not None


def synthesize(
    text: str, *, language: str, variant: str, speed: float, pitch_semitones: float
) -> tuple[Audio, tuple[Phoneme, ...]]:
    """The sound of a text and its phonemes; the same text always gives the same samples."""
    loader = importlib.import_module("espeakng_loader")
    request = {
        "library": str(loader.get_library_path()),
        "language": language,
        "variant": variant,
        "text": text,
        "words_per_minute": round(_WORDS_PER_MINUTE * speed),
        "pitch": max(0, min(99, round(_PITCH + pitch_semitones * 50 / 12))),
        "pitch_range": 55,
    }
    data = Path(loader.get_data_path())
    variants = {file.name for file in (data / "voices" / "!v").glob("*")}
    if variant and variant not in variants:  # the engine itself would leave it out silently
        raise ValueError(
            f"espeak-ng has no voice variant {variant!r}; it has {', '.join(sorted(variants)[:40])}"
        )
    child = [sys.executable, "-I", str(Path(__file__).with_name("espeak_child.py"))]
    try:
        answer = subprocess.run(
            child,
            input=json.dumps(request).encode(),
            capture_output=True,
            cwd=data.parent,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssetError(
            f"espeak-ng did not finish within {_TIME_LIMIT_S} s; shorten the text"
        ) from error
    if answer.returncode == _NO_VOICE:
        raise ValueError(
            f"espeak-ng does not speak {language!r}; name a language such as en-gb, de, fr-fr, es, "
            "it, ru or cmn"
        )
    header, _, samples = answer.stdout.partition(b"\n")
    if answer.returncode != 0 or not header:
        reason = answer.stderr.decode(errors="replace").strip().splitlines()
        raise AssetError(
            f"espeak-ng stopped with status {answer.returncode} "
            f"({reason[-1] if reason else 'it crashed'}); reinstall it with: "
            "pip install --force-reinstall espeakng-loader"
        )
    return _decoded(json.loads(header), samples)


def _decoded(
    header: dict[str, int | list[list[int | str]]], samples: bytes
) -> tuple[Audio, tuple[Phoneme, ...]]:
    rate_hz = header["rate_hz"]
    events = header["events"]
    assert isinstance(rate_hz, int) and isinstance(events, list)
    # an odd last byte would be a cut sample
    wave = np.frombuffer(samples[: len(samples) // 2 * 2], dtype="<i2").astype(np.float32) / 32_768
    audio = Audio(resample(torch.from_numpy(wave)[None], rate_hz, SAMPLE_RATE))
    starts = [int(sample) / rate_hz for sample, _ in events]
    for index, (_, ipa) in enumerate(events):
        if index and arpabet(str(ipa))[:1] and arpabet(str(ipa))[0] in _STOPS:
            # the engine dates a stop by its burst; the closure before it is part of the phoneme
            starts[index] -= min(_CLOSURE_S, (starts[index] - starts[index - 1]) / 2)
    ends = [*starts[1:], audio.duration_s]
    spans = [("", 0.0, starts[0] if starts else audio.duration_s)]
    spans += [
        (str(ipa), start, min(end, audio.duration_s))
        for (_, ipa), start, end in zip(events, starts, ends, strict=True)
    ]
    return audio, from_ipa(spans)
