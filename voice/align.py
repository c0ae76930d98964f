"""Phoneme times of a recording: from its text where that is known, else from the sound alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from voice import espeak
from voice.audio import Audio
from voice.phoneme_net import FRAME_S, PhonemeNet
from voice.phonemes import SILENCE, without_stress
from voice.recognise import heard_phonemes, sound_logits
from voice.speech import Phoneme, Speech
from voice.visemes import SOUNDS, sounds_of

HEARD, ALIGNED = "phonemes, heard", "phonemes, aligned with text"
_LICENCE = "MIT"


def recorded(audio: Audio, text: str = "", language: str = "en-us") -> Speech:
    """A recording as Speech: its phonemes are heard or, where the text is given, aligned with it.

    A text needs eSpeak NG to be read; ValueError for a language it does not speak, and for a text
    with more sounds than the recording has time for.
    """
    if not text:
        return Speech(audio, heard_phonemes(audio), "", "", HEARD, licence=_LICENCE)
    _, phonemes = espeak.synthesize(
        text, language=language, variant="", speed=1.0, pitch_semitones=0.0
    )
    symbols = [phoneme.symbol for phoneme in phonemes]
    times = align(audio, symbols)
    return Speech(audio, times, text, language, ALIGNED, licence=_LICENCE)


def align(
    audio: Audio, symbols: Sequence[str], net: PhonemeNet | None = None
) -> tuple[Phoneme, ...]:
    """When each of the phonemes is said, in their order, silence found between them.

    Silences among the symbols are ignored: the sound tells where they are. ValueError where the
    recording is too short for so many.
    """
    spoken = [symbol for symbol in symbols if symbol != SILENCE]
    owners, sounds = [], []  # a diphthong is two sounds of one phoneme
    for index, symbol in enumerate(spoken):
        for sound in sounds_of(without_stress(symbol)):
            owners.append(index)
            sounds.append(SOUNDS.index(sound))
    scores = torch.log_softmax(sound_logits(audio, net)[0], dim=0).T.double().numpy()
    if len(sounds) + 1 > len(scores):
        raise ValueError(
            f"the text has {len(sounds)} sounds, the recording of {audio.duration_s:.2f} s has "
            "no time for them; give the text that is said in it"
        )
    states = _path(scores, np.array(sounds, dtype=np.int64))
    # odd states are the sounds, even ones the silences around them
    names = [-1 if state % 2 == 0 else owners[state // 2] for state in states]
    phonemes = []
    first = 0
    for frame in range(1, len(names) + 1):
        if frame < len(names) and names[frame] == names[first]:
            continue
        start_s = max(0.0, (first - 0.5) * FRAME_S)
        end_s = audio.duration_s if frame == len(names) else (frame - 0.5) * FRAME_S
        symbol = SILENCE if names[first] < 0 else spoken[names[first]]
        if end_s > start_s:
            phonemes.append(Phoneme(symbol, start_s, end_s))
        first = frame
    return tuple(phonemes)


def _path(scores: NDArray[np.float64], sounds: NDArray[np.int64]) -> list[int]:
    """The likeliest state of each frame: silence 0, sound 1, silence 2, ...; silences may be none.

    Every sound gets at least one frame.
    """
    count, states = len(scores), 2 * len(sounds) + 1
    heard = np.zeros(states, dtype=np.int64)  # silence is sound 0
    heard[1::2] = sounds
    best = np.full(states, -np.inf)
    best[:2] = scores[0, heard[:2]]
    steps = np.zeros((count, states), dtype=np.int8)
    skips = np.arange(states) % 2 == 1
    for frame in range(1, count):
        ways = np.full((3, states), -np.inf)
        ways[0] = best
        ways[1, 1:] = best[:-1]
        ways[2, 2:] = np.where(skips[2:], best[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        best = ways.max(axis=0) + scores[frame, heard]
    state = states - 1 if states == 1 or best[-1] >= best[-2] else states - 2
    path = []
    for frame in range(count - 1, -1, -1):
        path.append(int(state))
        state -= int(steps[frame, state])
    return path[::-1]
