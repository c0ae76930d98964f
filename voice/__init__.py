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
    from voice.speak import SpeakConfig
    from voice.speech import Phoneme, Speech

__all__ = ["Audio", "Phoneme", "SpeakConfig", "Speech", "recorded"]
_HOMES = {
    "Audio": "voice.audio",
    "Phoneme": "voice.speech",
    "SpeakConfig": "voice.speak",
    "Speech": "voice.speech",
    "recorded": "voice.align",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'voice' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
