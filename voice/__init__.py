"""Sound and speech: reading, speaking a text, when which phoneme is heard.

Names load on first use, so that importing the package stays cheap. `voice.speak.speak` is not
among them: a module has that name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voice.align import recorded
    from voice.audio import Audio
    from voice.converter import Converter
    from voice.official import load_converter, load_pitch, load_recogniser, load_vocoder
    from voice.recognise import recognise
    from voice.score import Score
    from voice.sing import SingConfig, Song
    from voice.speak import SpeakConfig
    from voice.speech import Phoneme, Speech
    from voice.vocoder import Vocoder

__all__ = [
    "Audio",
    "Converter",
    "Phoneme",
    "Score",
    "SingConfig",
    "Song",
    "SpeakConfig",
    "Speech",
    "Vocoder",
    "load_converter",
    "load_pitch",
    "load_recogniser",
    "load_vocoder",
    "recognise",
    "recorded",
]
_HOMES = {
    "Audio": "voice.audio",
    "Converter": "voice.converter",
    "Phoneme": "voice.speech",
    "Score": "voice.score",
    "SingConfig": "voice.sing",
    "Song": "voice.sing",
    "SpeakConfig": "voice.speak",
    "Speech": "voice.speech",
    "Vocoder": "voice.vocoder",
    "load_converter": "voice.official",
    "load_pitch": "voice.official",
    "load_recogniser": "voice.official",
    "load_vocoder": "voice.official",
    "recognise": "voice.recognise",
    "recorded": "voice.align",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'voice' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
