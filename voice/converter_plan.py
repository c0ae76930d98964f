"""The voices that the shipped converter offers: whose clips they are learnt from."""

from __future__ import annotations

from dataclasses import dataclass

from voice.corpus import Corpus

_LIBRISPEECH = "LibriSpeech speaker {}, CC BY 4.0"
_HIBARI = "hibari-tts, Apache-2.0"


@dataclass(frozen=True)
class VoicePlan:
    """A voice to learn: its name, and the speaker of a corpus it is learnt from."""

    name: str
    description: str  # one line for people
    gender: str
    corpus: str
    speaker: str
    source: str

    @property
    def key(self) -> tuple[str, str]:
        """Corpus and speaker."""
        return self.corpus, self.speaker


def _reader(name: str, description: str, gender: str, number: str) -> VoicePlan:
    return VoicePlan(name, description, gender, "librispeech", number, _LIBRISPEECH.format(number))


def _made(name: str, description: str, gender: str, style: str, engine: str) -> VoicePlan:
    source = _HIBARI if engine == "hibari" else "flite, BSD-like (Carnegie Mellon University)"
    return VoicePlan(name, description, gender, f"rendered-{engine}", style, source)


VOICES = (
    VoicePlan(
        *("clara", "A clear woman's voice that reads aloud.", "female"),
        *("ljspeech", "LJ", "LJ Speech, public domain"),
    ),
    _reader("nora", "A lively woman's voice.", "female", "533"),
    _reader("ivy", "A light woman's voice.", "female", "1998"),
    _reader("maya", "A calm woman's voice.", "female", "3080"),
    _reader("felix", "A young man's voice.", "male", "2033"),
    _reader("hugo", "A man's voice, firm.", "male", "2414"),
    _reader("martin", "A man's voice that tells stories.", "male", "2609"),
    _made("mia", "A bright young woman's voice.", "female", "female", "hibari"),
    _made("idol", "A high, sweet voice for songs and streams.", "female", "idol", "hibari"),
    _made("pixie", "A child-like, very high voice.", "neutral", "child", "hibari"),
    _made("sage", "A low, relaxed voice between the genders.", "neutral", "low", "hibari"),
    _made("luna", "A soft, slow woman's voice.", "female", "soft", "hibari"),
    _made("stella", "A bright, sparkling woman's voice.", "female", "bright", "hibari"),
    _made("rms", "A clear man's voice, a little synthetic.", "male", "male", "flite"),
    _made("titan", "A very deep man's voice.", "male", "deep", "flite"),
    _made("shade", "A dark man's voice with a Scottish colour.", "male", "dark", "flite"),
)


def planned_voices(corpus: Corpus) -> tuple[VoicePlan, ...]:
    """The voices of VOICES whose clips a corpus has; else one for each style that it has."""
    there = {(clip.corpus, clip.speaker) for clip in corpus.clips}
    found = tuple(plan for plan in VOICES if plan.key in there)
    if found:
        return found
    plans: dict[str, VoicePlan] = {}
    for clip in corpus.clips:
        if clip.style and clip.style not in plans:
            source = f"{clip.corpus}, {clip.licence}"
            plans[clip.style] = VoicePlan(
                clip.style, "", "neutral", clip.corpus, clip.speaker, source
            )
    return tuple(plans[name] for name in sorted(plans))
