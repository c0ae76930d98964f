"""What the encoder of a large recogniser hears, for the converter's teacher.

Moonshine (Jeffries et al. 2024) learnt from far more speakers than our phoneme network. Its English
models are MIT licensed; it helps in the training and is not shipped.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import librosa
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from voice.audio import SAMPLE_RATE
from voice.mel import MelConfig
from voice.transpose import log_power, smoothed, stretched

_RATE = 16_000
_HOP, _CENTRE = 384, 447  # of the encoder's frames, in samples: its three convolutions
_FORMANTS, _SPEED = 1.25, 1.25  # of other voices, at most times and divided by
_SIZE = 2.0  # of its hidden values, which are smaller than the phoneme network's
RECOGNISER_HELP = "encoder_model.ort of Moonshine, which the package moonshine-voice 0.0.44 brings"


class Recogniser:
    """The encoder of a Moonshine model as its package brings it (.ort or .onnx)."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise AssetError(f"{path} is not there; give {RECOGNISER_HELP}")
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ModuleNotFoundError as error:
            raise AssetError(
                "a recogniser needs onnxruntime; install it: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(str(path), options)
        except Exception as error:  # onnxruntime raises classes of its own, one for each cause
            raise AssetError(
                f"{path} cannot be opened as a recogniser ({error}); "
                "give encoder_model.ort of the package moonshine-voice"
            ) from error
        self.width = int(self._session.get_outputs()[0].shape[-1])

    def hear(
        self, samples: Float[Tensor, " N"], frames: int, speed: float = 1.0
    ) -> Float[Tensor, "T H"]:
        """Hidden values at the mel's frames of a signal, less the clip's mean.

        Played `speed` times as fast the signal sounds higher; the frames stay where they were.
        """
        played = librosa.resample(
            samples.numpy(), orig_sr=SAMPLE_RATE, target_sr=_RATE / speed, res_type="soxr_hq"
        ).astype(np.float32)
        # half a window of silence at either end, so that every frame has its place
        padded = np.pad(played, (_CENTRE, _CENTRE + _HOP))[None]
        (hidden,) = self._session.run(
            None,
            {"input_values": padded, "attention_mask": np.ones(padded.shape, dtype=np.int64)},
        )
        found = torch.from_numpy(hidden[0])
        seconds = torch.arange(frames) * MelConfig().hop_length / SAMPLE_RATE
        at = (seconds / speed * _RATE / _HOP).clamp(max=len(found) - 1)
        low = at.long()
        high = (low + 1).clamp(max=len(found) - 1)
        heard = torch.lerp(found[low], found[high], at.frac()[:, None])
        return _SIZE * (heard - heard.mean(dim=0))

    def hear_other(
        self, samples: Float[Tensor, " N"], f0_hz: float, frames: int, *, generator: torch.Generator
    ) -> Float[Tensor, "T H"]:
        """The same of the signal in a random other voice."""
        formants, speed = (
            math.exp(math.log(most) * (2 * float(torch.rand((), generator=generator)) - 1))
            for most in (_FORMANTS, _SPEED)
        )
        return self.hear(with_formants(samples, f0_hz, formants), frames, speed)


def recogniser_of(path: Path | None) -> Recogniser | None:
    """The recogniser of an option that may be left out."""
    return None if path is None else Recogniser(path)


def with_formants(samples: Float[Tensor, " N"], f0_hz: float, ratio: float) -> Float[Tensor, " N"]:
    """The signal with its envelope stretched by `ratio`, its phases kept."""
    config = MelConfig()
    window = torch.hann_window(config.win_length)
    sizes = (config.n_fft, config.hop_length, config.win_length, window)
    spectrum = torch.stft(samples[None], *sizes, pad_mode="reflect", return_complex=True)
    envelope = smoothed(log_power(samples[None], config), torch.tensor([f0_hz]), config)
    gain = (stretched(envelope, torch.tensor([ratio])) - envelope).clamp(-6.0, 6.0)
    changed: Tensor = torch.istft(spectrum * torch.exp(gain / 2), *sizes, length=len(samples))[0]
    return changed
