"""What a recogniser's encoder hears is put at the mel's frames, whatever the speed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assets.errors import AssetError
from voice.audio import SAMPLE_RATE
from voice.mel import MelConfig
from voice.recogniser_sounds import Recogniser, recogniser_of, with_formants

HOP_S = MelConfig().hop_length / SAMPLE_RATE


class Loudness:
    """Stands for an encoder: each frame tells how strong its 895 samples are, and what it was."""

    def __init__(self, path: str, options: object) -> None:
        self.path = path

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(shape=["batch", "frames", 2])]

    def run(self, names: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        samples, mask = given["input_values"][0], given["attention_mask"]
        assert samples.dtype == np.float32 and mask.dtype == np.int64 and mask.all()
        starts = range(0, len(samples) - 894, 384)
        # 447 samples in, as the three convolutions of widths 127, 7, 3 and strides 64, 3, 2 see it
        strong = [float(np.square(samples[k + 383 : k + 511]).mean()) for k in starts]
        return [np.stack([strong, np.ones(len(strong))], axis=1)[None].astype(np.float32)]


def _file(folder: Path) -> Path:
    path = folder / "encoder_model.ort"
    path.write_text("no model")
    return path


@pytest.fixture
def recogniser(monkeypatch, tmp_path) -> Recogniser:
    onnxruntime = pytest.importorskip("onnxruntime", reason="comes with the extra speech")
    monkeypatch.setattr(onnxruntime, "InferenceSession", Loudness)
    return Recogniser(_file(tmp_path))


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.25])
def test_a_burst_is_heard_where_it_is(recogniser, speed):
    samples = torch.zeros(2 * SAMPLE_RATE)
    tone = torch.sin(2 * torch.pi * 300 * torch.arange(2400) / SAMPLE_RATE)
    samples[30_000:32_400] = tone  # around 1.3 s
    frames = len(samples) // MelConfig().hop_length + 1
    heard = recogniser.hear(samples, frames, speed)
    assert heard.shape == (frames, recogniser.width) == (161, 2)
    strong = heard[:, 0] - heard[:, 0].min()
    middle = float((strong * torch.arange(frames)).sum() / strong.sum()) * HOP_S
    assert abs(middle - 1.3) < 0.012
    torch.testing.assert_close(heard.mean(dim=0), torch.zeros(2), atol=1e-5, rtol=0)
    assert (heard[:, 1].abs() < 1e-5).all()  # what a whole clip shares says nothing


def test_other_voices_differ_and_the_same_chance_gives_the_same(recogniser):
    generator = torch.Generator().manual_seed(3)
    samples = 0.1 * torch.randn(SAMPLE_RATE, generator=generator)
    samples[12_000:] *= 3

    def other(seed: int) -> torch.Tensor:
        chance = torch.Generator().manual_seed(seed)
        return recogniser.hear_other(samples, 150.0, 81, generator=chance)

    torch.testing.assert_close(other(1), other(1))
    assert float((other(1) - other(2)).abs().max()) > 1e-3


def peak_hz(samples: torch.Tensor) -> float:
    power = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs().square()
    smooth = torch.nn.functional.avg_pool1d(power[None], 301, 1, 150)[0]
    return float(smooth.argmax()) * SAMPLE_RATE / len(samples)


def test_formants_move_and_the_pitch_stays():
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    harmonics = 125.0 * torch.arange(1, 60)
    strength = torch.exp(-(((harmonics - 1500.0) / 350.0) ** 2))
    samples = 0.05 * (strength[:, None] * torch.sin(2 * torch.pi * harmonics[:, None] * time)).sum(
        0
    )
    moved = with_formants(samples, 125.0, 1.2)
    assert moved.shape == samples.shape
    assert peak_hz(samples) == pytest.approx(1500, abs=70)
    assert peak_hz(moved) == pytest.approx(1800, abs=130)
    power = torch.fft.rfft(moved).abs()  # a bin a Hz
    at = power[500:2500].argmax() + 500
    assert int(at) % 125 in (0, 1, 124)
    torch.testing.assert_close(with_formants(samples, 125.0, 1.0), samples, atol=1e-4, rtol=0)


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path):
    assert recogniser_of(None) is None
    pytest.importorskip("onnxruntime", reason="comes with the extra speech")
    wrong = _file(tmp_path)
    with pytest.raises(AssetError, match=r"cannot be opened as a recogniser.*moonshine-voice"):
        recogniser_of(wrong)
    with pytest.raises(AssetError, match=r"missing.ort is not there; give encoder_model.ort"):
        recogniser_of(tmp_path / "missing.ort")


def test_without_onnxruntime_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AssetError, match="pip install onnxruntime"):
        Recogniser(_file(tmp_path))
