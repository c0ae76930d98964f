"""A folder of speech ready for training: samples, pitch and phonemes of many clips in few files."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from assets.errors import AssetError
from assets.files import replacing
from voice.audio import SAMPLE_RATE, Audio
from voice.corpus_pitch import pitch_track
from voice.loudness import normalized
from voice.mel import MelConfig
from voice.speech import Phoneme

HELD_OUT_SHARE = 12  # one speaker in so many is never trained on
_SPEECH_LUFS = -20.0
_LONGEST_S = 20.0
_FULL = 32_767
_COLUMNS = (
    *("speaker", "corpus", "licence", "style", "text", "language", "top_hz", "held_out"),
    *("start", "count", "first_frame", "frames"),
)


@dataclass(frozen=True, eq=False)
class Take:
    """One clip on its way into a corpus."""

    audio: Audio  # one signal
    speaker: str  # unique within its corpus
    corpus: str
    licence: str
    style: str = ""  # a target style of the converter; empty where it is none
    text: str = ""
    language: str = ""
    top_hz: int = SAMPLE_RATE // 2  # highest frequency that the original rate could hold
    phonemes: tuple[Phoneme, ...] = ()  # known for rendered speech alone
    held_out: bool | None = None  # None: decided by the speaker's name


@dataclass(frozen=True)
class Clip:
    """One entry of a corpus."""

    speaker: str
    corpus: str
    licence: str
    style: str
    text: str
    language: str
    top_hz: int
    held_out: bool
    start: int  # first sample in the corpus
    count: int  # samples
    first_frame: int
    frames: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.count / SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Corpus:
    """Clips of a prepared folder; samples stay on the disk until they are asked for."""

    clips: tuple[Clip, ...]
    _samples: NDArray[np.int16] = field(repr=False)
    _f0: NDArray[np.float32] = field(repr=False)
    _phonemes: dict[int, tuple[Phoneme, ...]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.clips)

    def samples(self, index: int) -> Float[torch.Tensor, " N"]:
        """The signal of a clip, -1..1."""
        clip = self.clips[index]
        piece = self._samples[clip.start : clip.start + clip.count]
        return torch.from_numpy(piece.astype(np.float32) / _FULL)

    def f0(self, index: int) -> Float[torch.Tensor, " T"]:
        """Pitch of the clip's mel frames in Hz, 0 where unvoiced."""
        clip = self.clips[index]
        return torch.from_numpy(
            np.array(self._f0[clip.first_frame : clip.first_frame + clip.frames])
        )

    def phonemes(self, index: int) -> tuple[Phoneme, ...]:
        """What is said when; empty for real recordings."""
        return self._phonemes.get(index, ())

    def indices(self, *, held_out: bool) -> list[int]:
        """The clips of one side of the split."""
        return [i for i, clip in enumerate(self.clips) if clip.held_out == held_out]

    def licences(self) -> dict[str, str]:
        """Licence of each corpus that clips came from."""
        return {clip.corpus: clip.licence for clip in self.clips}

    def styles(self) -> tuple[str, ...]:
        """The target styles, in alphabetical order."""
        return tuple(sorted({clip.style for clip in self.clips if clip.style}))

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """What `write_corpus` wrote; AssetError if anything is missing or does not fit."""
        folder = Path(folder)
        files = [folder / name for name in ("clips.csv", "samples.npy", "f0.npy", "phonemes.csv")]
        if missing := [path for path in files if not path.is_file()]:
            raise AssetError(
                f"{missing[0]} is not there; prepare the corpus with: "
                f"python -m voice.train corpus --out {folder}"
            )
        with open(files[0], encoding="utf-8", newline="") as file:
            clips = tuple(_clip(row) for row in csv.DictReader(file))
        samples = np.load(files[1], mmap_mode="r")
        f0 = np.load(files[2], mmap_mode="r")
        if not clips or clips[-1].start + clips[-1].count > len(samples):
            raise AssetError(f"{files[1]} does not hold what clips.csv lists; prepare it again")
        phonemes: dict[int, list[Phoneme]] = {}
        with open(files[3], encoding="utf-8", newline="") as file:
            for number, symbol, start_s, end_s in csv.reader(file):
                phonemes.setdefault(int(number), []).append(
                    Phoneme(symbol, float(start_s), float(end_s))
                )
        return cls(clips, samples, f0, {n: tuple(spans) for n, spans in phonemes.items()})


def is_held_out(corpus: str, speaker: str) -> bool:
    """Whether this speaker is kept for measuring; the same answer everywhere and always."""
    digest = hashlib.sha256(f"{corpus}/{speaker}".encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def write_corpus(takes: Iterable[Take], folder: Path) -> Corpus:
    """Bring takes to one loudness, find their pitch, and write them into a folder.

    Clips over 20 s are cut there. Memory holds the whole corpus once, 170 MB an hour.
    """
    folder = Path(folder)
    waves: list[NDArray[np.int16]] = []
    curves: list[NDArray[np.float32]] = []
    rows: list[Clip] = []
    spans: list[tuple[int, str, float, float]] = []
    start = first_frame = 0
    for take in takes:
        audio = normalized(Audio(take.audio.samples[:, : int(_LONGEST_S * SAMPLE_RATE)]))
        level = 10 ** ((_SPEECH_LUFS + 16.0) / 20)
        wave = (audio.samples[0].double().numpy() * level).clip(-1, 1)
        if len(wave) <= MelConfig().n_fft // 2 or not np.any(wave):
            continue
        held = is_held_out(take.corpus, take.speaker) if take.held_out is None else take.held_out
        curve = pitch_track(wave).astype(np.float32)
        spans += [
            (len(rows), p.symbol, round(p.start_s, 4), round(p.end_s, 4))
            for p in take.phonemes
            if p.end_s <= _LONGEST_S
        ]
        rows.append(
            Clip(
                *(take.speaker, take.corpus, take.licence, take.style, take.text, take.language),
                *(take.top_hz, held, start, len(wave), first_frame, len(curve)),
            )
        )
        waves.append(np.round(wave * _FULL).astype(np.int16))
        curves.append(curve)
        start, first_frame = start + len(wave), first_frame + len(curve)
    if not rows:
        raise ValueError("no clip is left for the corpus; give recordings of at least 0.1 s")
    _write_array(folder / "samples.npy", np.concatenate(waves))
    _write_array(folder / "f0.npy", np.concatenate(curves))
    _write_rows(folder / "phonemes.csv", spans)
    _write_rows(
        folder / "clips.csv", [_COLUMNS, *([getattr(r, c) for c in _COLUMNS] for r in rows)]
    )
    return Corpus.open(folder)


def _clip(row: dict[str, str]) -> Clip:
    speaker, corpus, licence, style, text, language = (row[name] for name in _COLUMNS[:6])
    start, count, first_frame, frames = (int(row[name]) for name in _COLUMNS[-4:])
    held_out = row["held_out"] == "True"
    return Clip(
        *(speaker, corpus, licence, style, text, language, int(row["top_hz"]), held_out),
        *(start, count, first_frame, frames),
    )


def _write_array(path: Path, array: NDArray[np.generic]) -> None:
    with replacing(path) as beside:
        np.save(beside, array)


def _write_rows(path: Path, rows: Sequence[Sequence[object]]) -> None:
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
