"""English speech from the small neural voice of `hibari-tts` (Apache-2.0), with phoneme times.

The package is a few megabytes and holds its American voice, distilled from Kokoro-82M
(Apache-2.0); nothing is fetched. Its graph decides each phoneme's duration inside and gives out
spectra only, so the durations are made an output of the graph in memory before it is loaded.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voice.audio import SAMPLE_RATE, Audio, resample
from voice.speech import Phoneme, from_ipa

ENGINE = "hibari"
LICENCE = "Apache-2.0"
LANGUAGES = ("en", "en-us")
_ATTACHED = "ːʰʲ̃"  # signs that lengthen or colour the letter before them
# The net's durations run late against the sound it makes of them: measured on four sentences by
# the hiss of sibilants (50 ms) and the strength of vowels (55 ms), lips' closures 65 ms.
_LATE_S = 0.055
_PAUSE_S = 0.15  # a gap between words that lasts longer is heard as silence


def is_installed() -> bool:
    """Whether the voice can be used; imports nothing."""
    return all(importlib.util.find_spec(name) for name in ("hibari", "onnxruntime"))


def synthesize(
    text: str, *, speed: float, pitch_semitones: float, generator: torch.Generator
) -> tuple[Audio, tuple[Phoneme, ...]]:
    """The sound of an English text and its phonemes, SIL between them; empty where nothing is read.

    Pitch and formants move together, as with a larger or smaller speaker: shifting the pitch alone
    breaks the phases that the net predicts.
    """
    dsp = importlib.import_module("hibari.dsp")
    voice, session = _voice()
    ratio = 2.0 ** (pitch_semitones / 12.0)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    noise = np.random.default_rng(seed)
    rows: list[torch.Tensor] = []
    spans: list[tuple[str, float, float]] = []
    offset_s = 0.0
    for letters in voice.phonemize(text):
        letters = "".join(letter for letter in letters if letter in voice.vocab)
        if not letters:
            continue
        # resampling by `ratio` changes the length as well, which the net's speed takes back
        inputs = {
            "ids": np.array([voice.ids(letters)], dtype=np.int64),
            "speed": np.array([speed / ratio], dtype=np.float32),
        }
        *spectra, durations = session.run(None, inputs)
        wave = dsp.synth(*(part[0] for part in spectra), noise)
        row = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))[None]
        if abs(ratio - 1.0) > 1e-6:
            row = resample(row, round(SAMPLE_RATE * ratio), SAMPLE_RATE)
        length_s = row.shape[1] / SAMPLE_RATE
        ends = np.cumsum(durations.ravel()) / durations.sum() * length_s + offset_s
        spans += _spans(letters, ends, offset_s)
        rows.append(row)
        offset_s += length_s
    samples = torch.cat(rows, dim=1) if rows else torch.zeros(1, 0)
    return Audio(samples), from_ipa(spans)


def _spans(letters: str, ends: np.ndarray, start_s: float) -> list[tuple[str, float, float]]:
    """Timed IPA of one sentence; `ends` has a time per letter and one for the pad at each side."""
    end_s = float(ends[-1])
    edges = [start_s, *np.maximum(ends[:-1] - _LATE_S, start_s).tolist(), end_s]
    spans = [("", edges[0], edges[1])]
    mark, mark_start_s = "", 0.0
    for index, letter in enumerate(letters, start=1):
        begin, end = edges[index], edges[index + 1]
        before, before_start_s, before_end_s = spans[-1]
        if letter == " " and before:
            if end - before_end_s > _PAUSE_S:
                spans.append(("", begin, end))
                continue
            # a word boundary is no silence: half of its time goes to either side
            middle = (before_end_s + end) / 2
            spans[-1] = (before, before_start_s, middle)
            mark, mark_start_s = " ", middle
        elif letter in "ˈˌ":  # a stress mark has a duration too: it belongs to what follows
            mark_start_s = mark_start_s if mark else begin
            mark += letter
        elif letter in _ATTACHED:
            spans[-1] = (before, before_start_s, end)
        else:
            sound = mark.strip() + letter if letter.isalpha() else ""
            spans.append((sound, mark_start_s if mark else begin, end))
            mark = ""
    spans.append(("", spans[-1][2], edges[-1]))
    return spans


@functools.lru_cache(maxsize=1)
def _voice() -> tuple[Any, Any]:
    """The package's front end and a session whose last output is the durations."""
    hibari = importlib.import_module("hibari")
    onnxruntime = importlib.import_module("onnxruntime")
    front = hibari.Hibari(voice="heart")  # the voice inside the package: never a download
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        with_durations(Path(front.model_path).read_bytes()),
        options,
        providers=["CPUExecutionProvider"],
    )
    return front, session


def with_durations(model: bytes) -> bytes:
    """The ONNX model with the input of its one CumSum, the frames per phoneme, as a last output.

    Protocol buffers merge a message that occurs twice, so a second, nearly empty graph with one
    output, appended, adds that output to the first.
    """
    graph = next(value for number, value in _fields(model) if number == 7)
    names = [
        next(value for number, value in _fields(node) if number == 1)
        for number, node in _fields(graph)
        if number == 1 and any(n == 4 and value == b"CumSum" for n, value in _fields(node))
    ]
    if len(names) != 1:
        raise ValueError(
            f"this hibari-tts model has {len(names)} CumSum nodes where 1 gives the phoneme times; "
            "install hibari-tts 0.2"
        )
    return model + _message(7, _message(12, _message(1, names[0])))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the length-delimited fields of a protocol-buffer message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(message, at)
            yield key >> 3, message[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(message, at)
        else:
            at += 8 if kind == 1 else 4


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _message(number: int, content: bytes) -> bytes:
    length, encoded = len(content), b""
    while length > 127:
        encoded += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + encoded + bytes([length]) + content
