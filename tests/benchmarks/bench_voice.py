"""How good the voice's networks sound on clips and voices that none of them was trained on.

`python tests/benchmarks/bench_voice.py --corpus out/corpus [--vocoder FILE] [--converter FILE]`
prints one row each for the source, the vocoder's resynthesis, the conversion (where a converter is
there), a classical shift of pitch and formants (PSOLA), and the clips of the target voices
themselves, of other sentences, with the columns

  DNSMOS   OVRL / SIG / BAK of speechmos, 1 to 5
  PESQ     wideband, resynthesis alone (others are not aligned in pitch)
  target, source  cosine of resemblyzer's embeddings to a clip of the target and to the source
  nearer   share of conversions nearer to the target than to the source
  F0       correlation of log pitch with the source's where both are voiced (librosa's pYIN);
           also without frames that slipped by half an octave or more, and the share of those
  off      semitones between the median pitches of the conversion and of the target's speaker
  errors   word errors of pocketsphinx over those of the source, on clips whose text is known
  misheard share of words that Moonshine has wrong; the converter's teachers heard through its
           encoder. pocketsphinx knows adults alone and understands no high voice: see `voice`

Packages that are not installed are named and their columns left out:
`pip install speechmos pesq resemblyzer pocketsphinx moonshine-voice==0.0.44`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

# before torch is loaded: its idle threads would spin on the core that is measured
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import librosa
import numpy as np
import torch

from assets.errors import AssetError
from voice.audio import SAMPLE_RATE, Audio, resample
from voice.converter_pairs import voice_clips
from voice.converter_plan import VoicePlan, planned_voices
from voice.corpus import Corpus
from voice.corpus_pitch import pitch_track, usual_pitch
from voice.losses_spectral import mel_distance
from voice.mel import log_mel
from voice.psola import reshaped
from voice.shipped import load_converter, load_vocoder, shipped_voices
from voice.train_asr import edits

_PACKAGES = {
    "speechmos.dnsmos": "DNSMOS",
    "pesq": "PESQ",
    "resemblyzer": "target, source, nearer",
    "pocketsphinx": "errors",
    "moonshine_voice": "misheard",
}


@dataclass
class Row:
    """Figures of one way of making sound, clip by clip."""

    name: str
    figures: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: str, value: float) -> None:
        if np.isfinite(value):
            self.figures.setdefault(column, []).append(value)

    def mean(self, column: str) -> str:
        values = self.figures.get(column)
        return f"{np.mean(values):9.3f}" if values else "        -"


class Judges:
    """The measuring packages that are installed."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}
        for name, columns in _PACKAGES.items():
            try:
                self.modules[name] = importlib.import_module(name)
            except ImportError as error:
                print(f"left out: {columns} ({error}; pip install {name.split('.')[0]})")
        self._encoder: object = None
        self._transcriber: object = None

    def dnsmos(self, sound: np.ndarray) -> dict[str, float]:
        if "speechmos.dnsmos" not in self.modules:
            return {}
        found = self.modules["speechmos.dnsmos"].run(_at_16k(sound), 16_000)
        return {name: float(found[f"{name.lower()}_mos"]) for name in ("OVRL", "SIG", "BAK")}

    def pesq(self, real: np.ndarray, other: np.ndarray) -> float:
        if "pesq" not in self.modules:
            return float("nan")
        return float(self.modules["pesq"].pesq(16_000, _at_16k(real), _at_16k(other), "wb"))

    def voice(self, sound: np.ndarray) -> np.ndarray | None:
        """The speaker's embedding, of length 1."""
        if "resemblyzer" not in self.modules:
            return None
        package = self.modules["resemblyzer"]
        if self._encoder is None:
            self._encoder = package.VoiceEncoder("cpu", verbose=False)
        return np.asarray(self._encoder.embed_utterance(package.preprocess_wav(_at_16k(sound))))

    def words(self, sound: np.ndarray) -> list[str] | None:
        if "pocketsphinx" not in self.modules:
            return None
        decoder = self.modules["pocketsphinx"].Decoder(samprate=16_000, loglevel="FATAL")
        decoder.start_utt()
        pcm = np.round(_at_16k(sound) * 32_767).astype(np.int16)
        decoder.process_raw(pcm.tobytes(), full_utt=True)
        decoder.end_utt()
        said = decoder.hyp()
        return _words(said.hypstr) if said else []

    def words_today(self, sound: np.ndarray) -> list[str] | None:
        """What a recogniser of today hears."""
        if "moonshine_voice" not in self.modules:
            return None
        package = self.modules["moonshine_voice"]
        if self._transcriber is None:
            self._transcriber = package.transcriber.Transcriber(
                str(package.get_model_path("tiny-en")), package.ModelArch.TINY
            )
        transcriber: Any = self._transcriber
        told = transcriber.transcribe_without_streaming(_at_16k(sound).tolist(), 16_000)
        return _words(" ".join(line.text for line in told.lines))


def _at_16k(sound: np.ndarray) -> np.ndarray:
    row = resample(torch.from_numpy(sound).float()[None], SAMPLE_RATE, 16_000)[0].numpy()
    return row / max(1.0, float(np.abs(row).max()))


def _words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


def _numbers(words: Sequence[str], others: Sequence[str]) -> tuple[list[int], list[int]]:
    table = {word: number for number, word in enumerate({*words, *others})}
    return [table[word] for word in words], [table[word] for word in others]


def pitches_together(real: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How alike two melodies are, by pYIN; nothing with under 20 frames voiced in both.

    Correlations of log pitch, and the share of frames half an octave or more from the usual
    distance: slips of a voice or of pYIN, a few of which bring the first correlation down.
    """
    first, second = _pyin(real), _pyin(other)
    count = min(len(first), len(second))
    first, second = first[:count], second[:count]
    both = (first > 0) & (second > 0)
    if both.sum() < 20:
        return {}
    first, second = np.log2(first[both]), np.log2(second[both])
    off = second - first
    slips = np.abs(off - np.median(off)) > 0.5
    return {
        "F0": float(np.corrcoef(first, second)[0, 1]),
        "but slips": float(np.corrcoef(first[~slips], second[~slips])[0, 1]),
        "slips": float(slips.mean()),
    }


def _pyin(sound: np.ndarray) -> np.ndarray:
    """Pitch of speech in Hz every 12.5 ms; 0 where unvoiced."""
    hertz, voiced, _ = librosa.pyin(
        sound.astype(np.float32),
        fmin=60,
        fmax=500,
        sr=SAMPLE_RATE,
        frame_length=2048,
        hop_length=300,
    )
    return np.where(voiced, hertz, 0.0)


def classical(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The source at the target's median pitch, its formants moved a third as far."""
    medians = [usual_pitch(pitch_track(sound)) for sound in (source, target)]
    ratio = float(np.clip(medians[1] / max(medians[0], 1.0), 0.5, 2.0))
    return reshaped(source, pitch_ratio=ratio, formant_ratio=ratio ** (1 / 3))


def chosen_clips(corpus: Corpus, count: int, also: Sequence[str] = ()) -> list[int]:
    """Clips of 3 to 15 s that nothing was trained on, of many speakers, full-band ones first.

    No target voice is among them. `also` names corpora of which the converter learnt nothing,
    though other networks may have.
    """
    taken = {plan.key for plan in planned_voices(corpus)}
    left = [
        i
        for i, clip in enumerate(corpus.clips)
        if (clip.held_out or clip.corpus in also)
        and 3 <= clip.seconds <= 15
        and not clip.style
        and (clip.corpus, clip.speaker) not in taken
    ]
    left.sort(key=lambda i: -corpus.clips[i].top_hz)
    seen: dict[str, int] = {}
    order = []
    for index in left:
        clip = corpus.clips[index]
        turn = seen[clip.speaker] = seen.get(clip.speaker, -1) + 1
        order.append((turn, len(order), index))
    return [index for _, _, index in sorted(order)[:count]]


def measure(
    row: Row,
    sound: np.ndarray,
    source: np.ndarray,
    target: np.ndarray | None,
    text: str,
    judges: Judges,
) -> None:
    """Add one clip's figures."""
    for name, value in judges.dnsmos(sound).items():
        row.add(name, value)
    measure_words(row, sound, text, judges)
    for name, value in pitches_together(source, sound).items():
        row.add(name, value)
    mine, theirs = judges.voice(sound), judges.voice(source)
    if mine is None or theirs is None:
        return
    row.add("source", float(mine @ theirs))
    if target is not None:
        pitches = [usual_pitch(pitch_track(x.astype(np.float64))) for x in (sound, target)]
        if min(pitches) > 0:
            row.add("off", abs(12 * np.log2(pitches[0] / pitches[1])))
        other = judges.voice(target)
        assert other is not None
        row.add("target", float(mine @ other))
        row.add("nearer", float(mine @ other > mine @ theirs))


def measure_words(row: Row, sound: np.ndarray, text: str, judges: Judges) -> None:
    """Add the shares of words that recognisers have wrong, where the text is known."""
    wanted = _words(text)
    ways = {"words wrong": judges.words, "misheard": judges.words_today}
    for name, hears in ways.items():
        if wanted and (heard := hears(sound)) is not None:
            row.add(name, edits(*_numbers(heard, wanted)) / len(wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--vocoder", type=Path)
    parser.add_argument("--converter", type=Path)
    parser.add_argument("--f0", type=Path)
    parser.add_argument(
        "--also", action="append", default=[], help="a corpus that the converter never learnt from"
    )
    parser.add_argument("--seed", type=int, default=0, help="which voice each source goes to")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--each", action="store_true", help="print every conversion by itself too")
    parser.add_argument("--save", type=Path, help="write the sounds into this folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    corpus, judges = Corpus.open(options.corpus), Judges()
    vocoder, converter = None, None
    try:
        vocoder = load_vocoder(options.vocoder)
        converter = load_converter(options.converter, options.f0, options.vocoder)
    except AssetError as error:
        print(f"left out: {'conversion' if vocoder else 'vocoder, conversion'} ({error})")
    rows: dict[str, Row] = {}
    spent: dict[str, float] = {}
    heard_s = 0.0
    plans = planned_voices(corpus)
    voices = {voice.name: voice for voice in shipped_voices(options.converter)} if converter else {}
    for number, index in enumerate(chosen_clips(corpus, options.clips, options.also)):
        clip, samples = corpus.clips[index], corpus.samples(index)[None]
        source = samples[0].numpy().astype(np.float64)
        heard_s += clip.seconds
        # a step that visits every voice before any again
        plan = plans[(7 * number + options.seed) % len(plans)] if plans else None
        held = voice_clips(corpus, plan, held_out=True) if plan else ()
        # the longest clip tells most of a voice
        held = sorted(held, key=lambda i: -corpus.clips[i].seconds)
        target = corpus.samples(held[0]).numpy().astype(np.float64) if held else None

        def resynthesis(samples: torch.Tensor = samples) -> np.ndarray:
            assert vocoder is not None
            mel = log_mel(samples)
            return vocoder.synthesise(mel, generator=torch.Generator()).samples[0].numpy()

        def conversion(
            samples: torch.Tensor = samples, plan: VoicePlan | None = plan
        ) -> np.ndarray:
            assert converter is not None and plan is not None
            asked = voices[plan.name].style
            found = converter.convert(Audio(samples), asked, generator=torch.Generator())
            return found.samples[0].numpy()

        def shifted(source: np.ndarray = source, target: np.ndarray | None = target) -> np.ndarray:
            assert target is not None
            return classical(source, target)

        def unchanged(source: np.ndarray = source) -> np.ndarray:
            return source

        ways: dict[str, Callable[[], np.ndarray]] = {"source": unchanged}
        if vocoder is not None:
            ways["vocoder"] = resynthesis
        if converter is not None and target is not None and plan and plan.name in voices:
            ways["conversion"] = conversion
        if target is not None:
            ways["PSOLA"] = shifted
        for name, make in ways.items():
            begun = time.thread_time()
            sound = np.asarray(make(), dtype=np.float64)[: len(source)]
            spent[name] = spent.get(name, 0.0) + time.thread_time() - begun
            row = rows.setdefault(name, Row(name))
            other = None if name == "vocoder" else target
            measure(row, sound, source, other, clip.text, judges)
            if options.each and name == "conversion" and plan:
                shown = {column: values[-1] for column, values in row.figures.items()}
                told = " ".join(f"{column} {value:.2f}" for column, value in shown.items())
                print(f"{clip.corpus} {clip.speaker} -> {plan.name}: {told}", flush=True)
            if name == "vocoder":
                row.add("PESQ", judges.pesq(source[: len(sound)], sound))
                pair = (samples[:, : len(sound)], torch.from_numpy(sound).float()[None])
                row.add("mel dB", mel_distance(*pair))
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                audio = Audio(torch.from_numpy(sound).float()[None])
                audio.save(
                    options.save
                    / f"{number:02d}-{name}-{clip.corpus}-{plan.name if plan else ''}.wav"
                )
        if held and target is not None:
            row = rows.setdefault("voice", Row("voice"))
            for name, value in judges.dnsmos(target).items():
                row.add(name, value)
            measure_words(row, target, corpus.clips[held[0]].text, judges)
    report(rows, spent, heard_s)


def report(rows: dict[str, Row], spent: dict[str, float], heard_s: float) -> None:
    """Print the table."""
    columns = (
        *("OVRL", "SIG", "BAK", "PESQ", "mel dB", "target", "source", "nearer"),
        *("F0", "but slips", "slips", "off", "misheard"),
    )
    print("            " + "".join(f"{c:>10}" for c in (*columns, "errors", "real time")))
    base = rows["source"].figures.get("words wrong")
    for name, row in rows.items():
        wrong = row.figures.get("words wrong")
        ratio = (
            f"{np.mean(wrong) / max(np.mean(base), 1e-3):8.2f}" if wrong and base else "       -"
        )
        speed = f"{spent[name] / heard_s:8.3f}" if name in spent else "       -"
        figures = " ".join(row.mean(column) for column in columns)
        print(f"{name:<12} {figures} {ratio} {speed}")


if __name__ == "__main__":
    main()
