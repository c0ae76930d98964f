"""Voice checkpoints with the published layouts and deterministic made-up weights.

They load wherever the published files do, so that everything round them can be tried and timed;
what they say is noise.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from assets.files import replacing
from voice.asr_net import AsrConfig, AsrNet
from voice.hifigan import V1, HifiGan, HifiGanConfig
from voice.jdc import F0Config, F0Net
from voice.parallel_wavegan import ParallelWaveGan, PwgConfig
from voice.stargan import Discriminator, Generator, MappingNetwork, StarganConfig, StyleEncoder

_CONVERTER = {
    "generator": Generator,
    "mapping_network": MappingNetwork,
    "style_encoder": StyleEncoder,
}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks to make up; defaults are the release's."""

    stargan: StarganConfig = field(default_factory=StarganConfig)
    f0: F0Config = field(default_factory=F0Config)
    asr: AsrConfig = field(default_factory=AsrConfig)
    pwg: PwgConfig = field(default_factory=PwgConfig)
    hifigan: HifiGanConfig = V1


def write_release(folder: Path, sizes: Sizes, *, generator: torch.Generator) -> None:
    """The folders that the release's archives unpack to, with the two files of its repository."""
    write_checkpoint(folder / "Models" / "epoch_00150.pth", sizes, generator=generator)
    _write_text(folder / "Models" / "config.yml", stargan_yaml(sizes.stargan))
    write_pwg(folder / "Vocoder" / "checkpoint-400000steps.pkl", sizes, generator=generator)
    _write_text(folder / "Vocoder" / "config.yml", pwg_yaml(sizes.pwg))
    write_pitch(folder / "Utils" / "JDC" / "bst.t7", sizes, generator=generator)
    write_recogniser(folder / "Utils" / "ASR" / "epoch_00100.pth", sizes, generator=generator)


def write_checkpoint(
    path: Path, sizes: Sizes, *, generator: torch.Generator, averaged: bool = True
) -> None:
    """A trainer's checkpoint; without `averaged` it lacks the moving average."""
    last = {**_converter(sizes, generator), **_helpers(sizes, generator)}
    state = {"state": {0: {"step": 9, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    content: dict[str, object] = {
        "optimizer": [(name, state) for name in last],
        "steps": 9,
        "epochs": 150,
        "model": last,
    }
    if averaged:
        content["model_ema"] = _converter(sizes, generator)
    _save(content, path)


def write_pitch(
    path: Path, sizes: Sizes, *, generator: torch.Generator, key: str = "net", old: bool = True
) -> None:
    """A file laid out as `bst.t7`: PyTorch's format, whatever its suffix says."""
    weights = random_weights(F0Net(sizes.f0), generator)
    _save({key: weights, "epoch": 100}, path, old=old)


def write_recogniser(path: Path, sizes: Sizes, *, generator: torch.Generator) -> None:
    """A file laid out as the recogniser's `epoch_00100.pth`."""
    _save({"model": random_weights(AsrNet(sizes.asr), generator), "steps": 9}, path)


def write_pwg(path: Path, sizes: Sizes, *, generator: torch.Generator) -> None:
    """A file laid out as the vocoder's `checkpoint-400000steps.pkl`, weight norm not folded."""
    weights = with_weight_norm(random_weights(ParallelWaveGan(sizes.pwg), generator), generator)
    judge = {"conv_layers.0.weight": torch.zeros(1, 1, 3)}
    model = {"generator": weights, "discriminator": judge}
    clocks = {"optimizer": {"generator": {"state": {}}}, "scheduler": {"generator": {}}}
    _save({"model": model, **clocks, "steps": 400_000, "epochs": 0}, path)


def write_hifigan(path: Path, sizes: Sizes, *, generator: torch.Generator) -> None:
    """A file laid out as HiFi-GAN's `g_02500000`, with its config.json beside it."""
    weights = with_weight_norm(random_weights(HifiGan(sizes.hifigan), generator), generator)
    _save({"generator": weights}, path)
    sound = {"num_mels": sizes.hifigan.num_mels, "hop_size": sizes.hifigan.hop_length}
    settings = {**asdict(sizes.hifigan), **sound, "sampling_rate": 24_000, "batch_size": 16}
    _write_text(path.with_name("config.json"), json.dumps(settings))


def write_paddle_release(folder: Path, sizes: Sizes, *, generator: torch.Generator) -> None:
    """The folders of the PaddlePaddle port, written without Paddle."""
    averaged = {
        name: in_paddle(build(sizes.stargan), generator) for name, build in _CONVERTER.items()
    }
    nested = {"model_ema": averaged}
    write_pickle(_named_pairs(nested), folder / "Models" / "vc_ema.pd")
    pitch = {"net": in_paddle(F0Net(sizes.f0), generator)}
    write_pickle(_named_pairs(pitch), folder / "Models" / "bst.pd")
    _write_text(folder / "Models" / "config.yml", stargan_yaml(sizes.stargan))
    vocoder = in_paddle(ParallelWaveGan(sizes.pwg), generator)
    table = {name: f"conv_{number}.w_0" for number, name in enumerate(vocoder)}
    flat = {name: tensor.numpy() for name, tensor in vocoder.items()}
    write_pickle(
        {**flat, "StructuredToParameterName@@": table},
        folder / "Vocoder" / "checkpoint-400000steps.pd",
    )
    _write_text(folder / "Vocoder" / "config.yml", pwg_yaml(sizes.pwg))


def in_paddle(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights of a network under the names and in the layout that Paddle gives them."""
    weights = random_weights(network, generator)
    found = {}
    for name, module in network.named_modules():
        for key, _ in [*module.named_parameters(recurse=False), *_kept(module)]:
            tensor = weights[f"{name}.{key}".lstrip(".")]
            if isinstance(module, nn.Linear) and key == "weight":
                tensor = tensor.T.contiguous()
            elif isinstance(module, nn.InstanceNorm2d) and key == "weight":
                key = "scale"
            elif isinstance(module, nn.BatchNorm2d) and key.startswith("running_"):
                key = {"running_mean": "_mean", "running_var": "_variance"}[key]
            elif isinstance(module, nn.LSTM):
                cell = "cell_bw" if key.endswith("_reverse") else "cell_fw"
                inner = key.removesuffix("_reverse").removesuffix("_l0")
                found[f"{name}.0.{cell}.{inner}"] = tensor
            found[f"{name}.{key}".lstrip(".")] = tensor
    return found


def random_weights(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Tensors for every entry of a network's state that keep its signals near unit size."""
    made = {}
    for name, entry in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(1)
        elif name.endswith("dct_mat"):
            made[name] = entry.clone()
        elif name.endswith("running_var"):
            made[name] = 0.8 + 0.4 * torch.rand(entry.shape, generator=generator)
        elif entry.ndim == 1:
            centre = 1.0 if name.endswith("weight") else 0.0
            made[name] = centre + 0.1 * torch.randn(entry.shape, generator=generator)
        else:
            fan_in = entry[0].numel()
            made[name] = torch.randn(entry.shape, generator=generator) * fan_in**-0.5
    return made


def with_weight_norm(
    tensors: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """The same network with each weight of more than one axis as length and direction."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim > 1:
            length = tensor.flatten(1).norm(dim=1).reshape(-1, *[1] * (tensor.ndim - 1))
            stretch = 0.5 + torch.rand(len(tensor), generator=generator).reshape(length.shape)
            found[f"{name}_g"], found[f"{name}_v"] = length, tensor * stretch
        else:
            found[name] = tensor
    return found


def stargan_yaml(config: StarganConfig) -> str:
    """The settings file of a trainer, with comments as published ones have them."""
    sizes = "".join(f"  {name}: {value:g}\n" for name, value in asdict(config).items())
    return (
        'log_dir: "Models/VCTK20"\nepochs: 150\nfp16_run: true # halves the memory\n\n'
        "preprocess_params:\n  sr: 24000\n  spect_params:\n    n_fft: 2048\n"
        "    win_length: 1200\n    hop_length: 300\n\n"
        f"model_params:\n{sizes}\nloss_params:\n  g_loss:\n    lambda_sty: 1.\n"
    )


def pwg_yaml(config: PwgConfig) -> str:
    """The settings file of a Parallel WaveGAN."""
    sizes = {name: value for name, value in asdict(config).items() if name != "upsample_scales"}
    lines = "".join(f"  {name}: {value}\n" for name, value in sizes.items())
    scales = "".join(f"    - {scale}\n" for scale in config.upsample_scales)
    return (
        f"sampling_rate: 24000\nhop_size: {config.hop_length}\ngenerator_params:\n"
        f"  in_channels: 1\n  out_channels: 1\n{lines}  dropout: 0.0\n  use_weight_norm: true\n"
        f"  upsample_net: ConvInUpsampleNetwork\n  upsample_params:\n    upsample_scales:\n{scales}"
    )


def write_pickle(content: object, path: Path) -> None:
    """Write a pickle of protocol 4, as Paddle does."""
    with replacing(path) as written:
        written.write_bytes(pickle.dumps(content, protocol=4))


class _NamedPair:
    """A parameter as Paddle pickles it in nested dicts: by a call of `tuple`."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        self.pair = (name, tensor.numpy())

    def __reduce__(self) -> tuple[type, tuple[tuple[str, object]]]:
        return tuple, (self.pair,)


def _named_pairs(nested: Mapping[str, object], prefix: str = "p") -> dict[str, object]:
    found: dict[str, object] = {}
    for number, (name, value) in enumerate(nested.items()):
        if isinstance(value, Tensor):
            found[name] = _NamedPair(f"{prefix}_{number}.w_0", value)
        elif isinstance(value, Mapping):
            found[name] = _named_pairs(value, f"{prefix}{number}")
    return found


def _kept(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that Paddle's files have too."""
    buffers = module.named_buffers(recurse=False)
    return [(name, buffer) for name, buffer in buffers if name != "num_batches_tracked"]


def _converter(sizes: Sizes, generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
    return {
        name: random_weights(build(sizes.stargan), generator) for name, build in _CONVERTER.items()
    }


def _helpers(sizes: Sizes, generator: torch.Generator) -> dict[str, dict[str, Tensor]]:
    return {
        "discriminator": random_weights(Discriminator(sizes.stargan), generator),
        "f0_model": random_weights(F0Net(sizes.f0), generator),
        "asr_model": random_weights(AsrNet(sizes.asr), generator),
    }


def _save(content: Mapping[str, object], path: Path, *, old: bool = False) -> None:
    with replacing(path) as written:
        torch.save(dict(content), written, _use_new_zipfile_serialization=not old)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")
