"""The pitch of streamed conversion: following the source's, and moving it in the mel."""

from __future__ import annotations

import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from voice.converter import Converter
from voice.mel import MelConfig, mel_bank, normalised
from voice.transpose import smoothed, stretched, to_mel

_LISTENED = 80  # frames that the pitch network hears at once, at least: its layers look both ways
_REMEMBERED = 4_800  # voiced frames, a minute of them
_KNOWN = 800  # voiced frames, after which the network hears one second of three
_USUAL_HZ = 150.0
_LIMIT = 18.0  # semitones that a voice is moved of itself


class FollowedPitch:
    """Mels of the spectra of one line with the pitch moved: by `semitones`, or to the style's.

    Where the converter knows the pitch of a style, the median of what was voiced in the last
    minute is brought there. Before anything voiced has been heard, the pitch stays.
    """

    def __init__(
        self, converter: Converter, style: Float[Tensor, "1 S"], semitones: float | None
    ) -> None:
        self._net = converter.pitch
        self._config = MelConfig()
        self._bank = mel_bank(self._config).to(style)
        self._semitones = semitones
        self._wanted: float | None = None  # log2 Hz
        if semitones is None and converter.style_pitch is not None:
            self._wanted = float(converter.style_pitch(style).detach()[0, 0])
        self._heard_hz: deque[float] = deque(maxlen=_REMEMBERED)
        self._median_hz = 0.0  # of those; 0 before any
        self._waiting: list[Tensor] = []  # mels that the pitch network is to hear
        self._skipped = 0  # frames that it need not hear

    def moved_mel(self, power: Float[Tensor, "K T"], fresh: int) -> Float[Tensor, "M T"]:
        """The natural-log mel of power spectra, of which the last `fresh` come the first time."""
        if self._semitones is None and self._wanted is None:
            return self._mel(power)
        self._listen(power[:, power.shape[1] - fresh :])
        median_hz = self._median_hz
        move = self._move(median_hz)
        if move == 0:
            return self._mel(power)
        log_power = torch.log(power + self._config.floor / 100)[None]
        envelope = smoothed(log_power, power.new_tensor([median_hz or _USUAL_HZ]), self._config)
        fine = stretched(log_power - envelope, power.new_tensor([2.0 ** (move / 12)]), outside=0.0)
        return to_mel(envelope + fine, self._config)[0]

    def _mel(self, power: Tensor) -> Tensor:
        return torch.log(self._bank.T @ power + self._config.floor)

    def _move(self, median_hz: float) -> float:
        if self._semitones is not None:
            return self._semitones
        if self._wanted is None or median_hz == 0:
            return 0.0
        return max(-_LIMIT, min(_LIMIT, 12 * (self._wanted - math.log2(median_hz))))

    def _listen(self, power: Tensor) -> None:
        if self._skipped > 0:
            self._skipped -= power.shape[1]
            return
        mel = self._mel(power)
        self._waiting.append(mel)
        enough = sum(part.shape[1] for part in self._waiting) >= _LISTENED
        # at the start a guess from less is better than none
        if mel.shape[1] == 0 or not (enough or not self._heard_hz):
            return
        heard = torch.cat(self._waiting, dim=1)
        pitch, silence = self._net.pitch_and_silence(normalised(heard)[None, None])
        voiced = (pitch.f0[0] >= 50.0) & (silence[0] < 0)
        self._heard_hz.extend(pitch.f0[0][voiced].tolist())
        if ordered := sorted(self._heard_hz):
            self._median_hz = ordered[(len(ordered) - 1) // 2]
        if enough:
            self._waiting = []
            self._skipped = 2 * _LISTENED if len(self._heard_hz) >= _KNOWN else 0
