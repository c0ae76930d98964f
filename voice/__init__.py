"""Sound and speech: reading, speaking a text, when which phoneme is heard.

Names load on first use, so that importing the package stays cheap. `voice.speak.speak` and
`voice.revoice.revoice` are not among them: modules have their names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voice.align import recorded
    from voice.audio import Audio
    from voice.converter import Converter
    from voice.official import load_converter, load_pitch, load_recogniser, load_vocoder
    from voice.profiles import Consent
    from voice.recognise import recognise
    from voice.revoice import RevoiceConfig, Revoiced
    from voice.revoice_long import revoice_file
    from voice.score import Score
    from voice.sing import SingConfig, Song
    from voice.speak import SpeakConfig
    from voice.speech import Phoneme, Speech
    from voice.vocoder import Vocoder
    from voice.voices import Voice, VoiceBook, open_book

__all__ = [
    "Audio",
    "Consent",
    "Converter",
    "Phoneme",
    "RevoiceConfig",
    "Revoiced",
    "Score",
    "SingConfig",
    "Song",
    "SpeakConfig",
    "Speech",
    "Vocoder",
    "Voice",
    "VoiceBook",
    "load_converter",
    "load_pitch",
    "load_recogniser",
    "load_vocoder",
    "open_book",
    "recognise",
    "recorded",
    "revoice_file",
]
_HOMES = {
    "Audio": "voice.audio",
    "Consent": "voice.profiles",
    "Converter": "voice.converter",
    "Phoneme": "voice.speech",
    "RevoiceConfig": "voice.revoice",
    "Revoiced": "voice.revoice",
    "Score": "voice.score",
    "SingConfig": "voice.sing",
    "Song": "voice.sing",
    "SpeakConfig": "voice.speak",
    "Speech": "voice.speech",
    "Vocoder": "voice.vocoder",
    "Voice": "voice.voices",
    "VoiceBook": "voice.voices",
    "load_converter": "voice.official",
    "load_pitch": "voice.official",
    "load_recogniser": "voice.official",
    "load_vocoder": "voice.official",
    "open_book": "voice.voices",
    "recognise": "voice.recognise",
    "recorded": "voice.align",
    "revoice_file": "voice.revoice_long",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'voice' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
