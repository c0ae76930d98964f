"""What is said: sound, and which phoneme is heard when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from voice.audio import Audio
from voice.phonemes import SILENCE, arpabet, is_symbol

_SHORTEST_PAUSE_S = 0.06


@dataclass(frozen=True)
class Phoneme:
    """One sound of speech and when it is heard; symbols as in `voice.phonemes`."""

    symbol: str  # ARPAbet; vowels end in their stress: AA1 primary, AA2 secondary, AA0 none
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not is_symbol(self.symbol):
            raise ValueError(
                f"{self.symbol!r} is no phoneme symbol; use ARPAbet such as AA1, P or SIL"
            )
        if not 0.0 <= self.start_s < self.end_s:
            raise ValueError(
                f"phoneme {self.symbol} lasts from {self.start_s} s to {self.end_s} s; "
                "times start at 0 and end after they start"
            )


@dataclass(frozen=True, eq=False)
class Speech:
    """A spoken line: its sound and its phonemes in order, silences included as SIL."""

    audio: Audio  # one signal
    phonemes: tuple[Phoneme, ...]
    text: str = ""  # empty where only a recording is known
    language: str = ""
    engine: str = ""  # what made the sound or, for a recording, the phoneme times
    licence: str = field(default="", kw_only=True)  # of the engine and its voice

    def __post_init__(self) -> None:
        if len(self.audio.samples) != 1:
            raise ValueError(f"speech is one signal, this audio has {len(self.audio.samples)}")
        for earlier, later in zip(self.phonemes, self.phonemes[1:], strict=False):
            if later.start_s < earlier.end_s - 1e-6:
                raise ValueError(
                    f"phoneme {later.symbol} starts at {later.start_s:.3f} s, before "
                    f"{earlier.symbol} ends at {earlier.end_s:.3f} s; give them in order"
                )
        if self.phonemes and self.phonemes[-1].end_s > self.audio.duration_s + 0.05:
            raise ValueError(
                f"the last phoneme ends at {self.phonemes[-1].end_s:.3f} s, "
                f"the sound at {self.audio.duration_s:.3f} s"
            )

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds."""
        return self.audio.duration_s


def from_ipa(spans: Iterable[tuple[str, float, float]]) -> tuple[Phoneme, ...]:
    """Phonemes of timed IPA strings (ipa, start_s, end_s), one after another.

    An empty string is silence; neighbouring silences become one, and one under 60 ms is none. A
    string without any sound of ours (a lone tone or softening sign) lengthens what came before.
    """
    phonemes: list[Phoneme] = []
    for ipa, start_s, end_s in spans:
        if end_s <= start_s:
            continue
        symbols = arpabet(ipa) if ipa else (SILENCE,)
        before = phonemes[-1] if phonemes else None
        # engines leave gaps of a few ms inside words, which no face closes for
        is_gap = symbols == (SILENCE,) and end_s - start_s < _SHORTEST_PAUSE_S
        if before and (not symbols or is_gap or symbols == (SILENCE,) == (before.symbol,)):
            phonemes[-1] = Phoneme(before.symbol, before.start_s, end_s)
            continue
        symbols = symbols or (SILENCE,)
        step = (end_s - start_s) / len(symbols)
        for index, symbol in enumerate(symbols):
            last = end_s if index + 1 == len(symbols) else start_s + (index + 1) * step
            phonemes.append(Phoneme(symbol, start_s + index * step, last))
    return tuple(phonemes)
