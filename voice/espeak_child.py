"""A program of its own: reads one request on stdin, speaks it with libespeak-ng, answers on stdout.

It runs in a child process with the standard library alone. The engine is GPL-3 and C: a process
boundary keeps it apart from our code and a crash in it away from the caller. Request: one JSON
object. Answer: one JSON line (rate_hz, events as [sample, symbol]), then 16-bit mono samples.
"""

from __future__ import annotations

import ctypes
import json
import sys

_SYNCHRONOUS = 2  # samples come to the callback; no sound device is opened
_PHONEME_EVENTS_IPA = 0x0001 | 0x0002
_UTF8 = 1
_EVENT_END = 0
_EVENT_PHONEME = 7
_RATE, _PITCH, _RANGE, _WORD_GAP = 1, 3, 4, 7


class _Identity(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),  # (priority byte, name, zero byte)*, zero byte
        ("identifier", ctypes.c_char_p),
        ("rest", ctypes.c_ubyte * 16),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def main() -> int:
    """Answer the request; exit status 3 means that there is no such voice."""
    request = json.load(sys.stdin)
    library = ctypes.CDLL(request["library"])
    # "." is the folder above espeak-ng-data: absolute paths over 160 bytes overflow the engine's
    # own buffer, so the parent starts us there instead
    rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, b".", _PHONEME_EVENTS_IPA)
    if rate_hz <= 0:
        sys.stderr.write("espeak_Initialize failed")
        return 4
    chunks: list[bytes] = []
    events: list[tuple[int, str]] = []

    def receive(wave: ctypes._Pointer[ctypes.c_short], count: int, event: object) -> int:
        if wave and count > 0:
            chunks.append(ctypes.string_at(wave, count * 2))
        index = 0
        while event[index].type != _EVENT_END:  # type: ignore[index]
            if event[index].type == _EVENT_PHONEME:  # type: ignore[index]
                # the union's 8 bytes; a longer name is cut, perhaps inside a character
                raw = event[index].id.string  # type: ignore[index]
                events.append((event[index].sample, raw.decode("utf-8", "ignore")))  # type: ignore[index]
            index += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    if not _choose(library, request["language"], request["variant"]):
        sys.stderr.write("no such voice")
        return 3
    library.espeak_SetParameter(_RATE, int(request["words_per_minute"]), 0)
    library.espeak_SetParameter(_PITCH, int(request["pitch"]), 0)
    library.espeak_SetParameter(_RANGE, int(request["pitch_range"]), 0)
    library.espeak_SetParameter(_WORD_GAP, 0, 0)
    text = request["text"].encode("utf-8") + b"\0"
    status = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    if status != 0:
        sys.stderr.write(f"espeak_Synth gave {status}")
        return 5
    header = json.dumps({"rate_hz": rate_hz, "events": events}).encode()
    sys.stdout.buffer.write(header + b"\n" + b"".join(chunks))
    return 0


def _choose(library: ctypes.CDLL, language: str, variant: str) -> bool:
    """Set the voice of a language, the one for which it ranks first; whether there is one."""
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
    voices = library.espeak_ListVoices(None)
    best: tuple[int, bytes] | None = None
    index = 0
    while voices[index]:
        voice = voices[index].contents
        index += 1
        at = voice.languages
        while priority := ctypes.string_at(at, 1)[0]:
            name = ctypes.string_at(at + 1)
            if name == language.encode() and (best is None or priority < best[0]):
                best = (priority, voice.identifier)
            at += len(name) + 2
    if best is None:
        return False
    full = best[1] + (b"+" + variant.encode() if variant else b"")
    return bool(library.espeak_SetVoiceByName(full) == 0)


if __name__ == "__main__":
    raise SystemExit(main())
