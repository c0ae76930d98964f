"""Sizes of published voice networks: from their tensors, and from the config files beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from assets.errors import AssetError
from voice.asr_net import AsrConfig
from voice.hifigan import V1, V2, V3, HifiGan, HifiGanConfig
from voice.jdc import F0Config
from voice.mel import MelConfig
from voice.parallel_wavegan import PwgConfig
from voice.stargan import StarganConfig

Record = TypeVar("Record")
Tensors = Mapping[str, Tensor]
NAMES = ("config.yml", "config.yaml", "config.json")
_LARGEST = 1_000_000  # bytes; published ones have a few thousand
_STARGAN_SECTIONS = {
    *("log_dir", "save_freq", "device", "epochs", "batch_size", "pretrained_model", "fp16_run"),
    *("load_only_params", "train_data", "val_data", "F0_path", "ASR_config", "ASR_path"),
    *("preprocess_params", "model_params", "loss_params", "optimizer_params"),
}
_PWG_FIXED = {  # how every published generator was built; another value is another network
    "in_channels": (1,),
    "out_channels": (1,),
    "bias": (True,),
    "use_causal_conv": (False,),
    "upsample_conditional_features": (True,),
    "upsample_net": ("ConvInUpsampleNetwork",),
    "dropout": (0, 0.0),
    "use_weight_norm": (True, False),
    "freq_axis_kernel_size": (1,),
    "interpolate_mode": ("nearest",),
    "nonlinear_activation": (None,),
    "nonlinear_activation_params": ({}, None),
}
_PWG_SOUND = {"sampling_rate"}
_HIFIGAN_TRAINING = {
    *("num_gpus", "batch_size", "learning_rate", "adam_b1", "adam_b2", "lr_decay", "seed"),
    *("segment_size", "num_workers", "dist_config", "fmax_for_loss", "num_freq"),
}
_HIFIGAN_SOUND = {"n_fft", "hop_size", "win_size", "sampling_rate", "fmin", "fmax"}


def read_settings(folder: Path, section: str) -> tuple[dict[str, Any], Path] | None:
    """The config file in a folder that has this section, and its path; None if none has."""
    for name in NAMES:
        path = Path(folder) / name
        if path.is_file() and section in (settings := _parsed(path)):
            return settings, path
    return None


def stargan_config(nets: Mapping[str, Tensors], described: str) -> StarganConfig:
    """Sizes of a converter, from the shapes of its generator and mapping network."""
    generator, mapping = nets["generator"], nets["mapping_network"]
    depth = _count(generator, "encode.") - 2
    pitch = generator.get("F0_conv.0.conv1.weight")
    values = {
        "dim_in": _shape(generator, "stem.weight", 4, described)[0],
        "style_dim": _shape(generator, "decode.0.norm1.fc.weight", 2, described)[1],
        "latent_dim": _shape(mapping, "shared.0.weight", 2, described)[1],
        "num_domains": _count(mapping, "unshared."),
        "max_conv_dim": _shape(mapping, "shared.0.weight", 2, described)[0],
        "n_repeat": depth,
        "F0_channel": 0 if pitch is None else pitch.shape[0],
    }
    if depth == 5:
        raise AssetError(
            f"{described} has five stages, as w_hpf other than 0 makes it: 80 mel bands come out "
            "as 64; use a model trained with w_hpf: 0"
        )
    return _made(StarganConfig, values, described)


def check_stargan(config: StarganConfig, folder: Path) -> None:
    """AssetError where the config file beside a converter has unknown keys or other values.

    Values of training are not looked at, nor is `sr`, which does not act on the mel.
    """
    found = read_settings(folder, "model_params")
    if found is None:
        return
    settings, path = found
    _require_known(settings, _STARGAN_SECTIONS, path, "")
    model = _section(settings, "model_params", path)
    _require_known(model, {entry.name for entry in fields(config)}, path, "model_params.")
    differing = [
        f"{name} {value} where the weights have {getattr(config, name)}"
        for name, value in model.items()
        if value != getattr(config, name)
    ]
    sound = _section(settings, "preprocess_params", path)
    _require_known(sound, {"sr", "spect_params"}, path, "preprocess_params.")
    spectrum = _section(sound, "spect_params", path)
    mel = MelConfig()
    published = {name: getattr(mel, name) for name in ("n_fft", "win_length", "hop_length")}
    _require_known(spectrum, published.keys(), path, "spect_params.")
    differing += [
        f"{name} {value} where the front end has {published[name]}"
        for name, value in spectrum.items()
        if value != published[name]
    ]
    if differing:
        raise AssetError(
            f"{path} does not belong to the weights beside it: {'; '.join(differing)}; "
            "put the right file there, or take this one away"
        )


def f0_config(tensors: Tensors, described: str) -> F0Config:
    """Sizes of a pitch network from its shapes."""
    names = ("conv_block.0", "res_block1.conv.0", "res_block2.conv.0", "res_block3.conv.0")
    channels = tuple(_shape(tensors, f"{name}.weight", 4, described)[0] for name in names)
    hidden = _shape(tensors, "bilstm_classifier.weight_hh_l0", 2, described)[1]
    return _made(F0Config, {"channels": channels, "hidden": hidden}, described)


def asr_config(tensors: Tensors, described: str) -> AsrConfig:
    """Sizes of a recogniser from its shapes."""
    n_token, embedding = _shape(tensors, "asr_s2s.embedding.weight", 2, described)
    values = {
        "input_dim": _shape(tensors, "to_mfcc.dct_mat", 2, described)[0],
        "hidden_dim": _shape(tensors, "init_cnn.conv.weight", 3, described)[0],
        "n_token": n_token,
        "token_embedding_dim": embedding,
        "n_layers": _count(tensors, "cnns."),
    }
    return _made(AsrConfig, values, described)


def pwg_config(
    tensors: Tensors, described: str, folder: Path, noted: object = None
) -> tuple[PwgConfig, dict[str, Any]]:
    """Sizes of a Parallel WaveGAN from its shapes; stacks and sound settings from its config file.

    Without such a file a stack is ten layers, as in every published recipe.
    """
    layers = _count(tensors, "conv_layers.")
    gate, residual, kernel = _shape(tensors, "conv_layers.0.conv.weight", 3, described)
    aux, _, width = _shape(tensors, "upsample_net.conv_in.weight", 3, described)
    prefix = "upsample_net.upsample.up_layers."
    numbers = sorted(int(n.split(".")[3]) for n in tensors if n.startswith(prefix))
    smooth = [_shape(tensors, f"{prefix}{number}.weight", 4, described)[3] for number in numbers]
    values: dict[str, Any] = {
        "layers": layers,
        "stacks": max(1, layers // 10),
        "kernel_size": kernel,
        "residual_channels": residual,
        "gate_channels": gate,
        "skip_channels": _shape(tensors, "last_conv_layers.1.weight", 3, described)[0],
        "aux_channels": aux,
        "aux_context_window": (width - 1) // 2,
        "upsample_scales": tuple((width - 1) // 2 for width in smooth),
    }
    given, path = (dict(noted), folder) if isinstance(noted, dict) else _pwg_settings(folder)
    sound = {name: given.pop(name) for name in _PWG_SOUND & given.keys()}
    values["stacks"] = given.pop("stacks", values["stacks"])
    if differing := [f"{n} {v}" for n, v in given.items() if _plain(v) != values.get(n)]:
        raise AssetError(
            f"{path} does not belong to {described}: it says {', '.join(differing)}; "
            "put the right file there"
        )
    return _made(PwgConfig, values, described), sound


def hifigan_config(
    tensors: Tensors, described: str, folder: Path, noted: object = None
) -> tuple[HifiGanConfig, dict[str, Any]]:
    """Sizes of a HiFi-GAN and its sound settings, from config.json, else V1, V2 or V3 that fits."""
    if isinstance(noted, dict):
        sound = {name: noted[name] for name in _HIFIGAN_SOUND & noted.keys()}
        rest = {name: value for name, value in noted.items() if name not in sound}
        return _made(HifiGanConfig, rest, described), sound
    found = read_settings(folder, "resblock")
    if found is not None:
        settings, path = found
        known = {entry.name for entry in fields(HifiGanConfig)}
        _require_known(settings, known | _HIFIGAN_TRAINING | _HIFIGAN_SOUND, path, "")
        values = {name: value for name, value in settings.items() if name in known}
        sound = {name: settings[name] for name in _HIFIGAN_SOUND & settings.keys()}
        return _made(HifiGanConfig, values, str(path)), sound
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    for config in (V1, V2, V3):
        layout = layout_of(HifiGan, config)
        if shapes == {name: tensor.shape for name, tensor in layout.items()}:
            return config, {"sampling_rate": 22_050, "hop_size": 256}
    raise AssetError(
        f"{described} is a HiFi-GAN of sizes that are neither V1, V2 nor V3; "
        "put its config.json into the same folder"
    )


def as_note(config: PwgConfig | HifiGanConfig, sound: Mapping[str, Any]) -> str:
    """Settings as JSON, for the notes of a converted file."""
    return json.dumps({**asdict(config), **sound}, sort_keys=True)


def layout_of(build: type[nn.Module], config: object) -> dict[str, Tensor]:
    """Names and shapes of a network's tensors, without memory for them."""
    import torch

    with torch.device("meta"):
        return dict(build(config).state_dict())


def _pwg_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """What a config file says about the generator, checked to be one that is built here."""
    found = read_settings(folder, "generator_params")
    if found is None:
        return {}, folder
    settings, path = found
    generator = dict(_section(settings, "generator_params", path))
    upsample = _section(generator, "upsample_params", path)
    generator.pop("upsample_params", None)
    known = {entry.name for entry in fields(PwgConfig)}
    together = {**generator, **upsample}
    _require_known(together, known | _PWG_FIXED.keys(), path, "generator_params.")
    for name, allowed in _PWG_FIXED.items():
        if name in together and together[name] not in allowed:
            raise AssetError(
                f"{path} asks for {name}: {together[name]}, which is another network than "
                f"Parallel WaveGAN as published ({name}: {allowed[0]})"
            )
    sound = {name: settings[name] for name in _PWG_SOUND & settings.keys()}
    return {name: value for name, value in together.items() if name in known} | sound, path


def _parsed(path: Path) -> dict[str, Any]:
    """A YAML or JSON file as plain values; tags and references between values are refused."""
    import yaml  # type: ignore[import-untyped]

    if path.stat().st_size > _LARGEST:
        raise AssetError(f"{path} is over {_LARGEST} bytes, which no config file is; check it")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            value = json.loads(text)
        else:
            events: Iterator[object] = yaml.parse(text, Loader=yaml.SafeLoader)
            if any(isinstance(event, yaml.AliasEvent) for event in events):
                raise AssetError(f"{path} refers to parts of itself; write them out")
            value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise AssetError(f"{path} is no config file ({reason}); fetch it again") from error
    if not isinstance(value, dict):
        raise AssetError(f"{path} is no config file: it has no keys; fetch it again")
    return {str(key): entry for key, entry in value.items()}


def _section(settings: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = settings.get(name) or {}
    if not isinstance(value, dict):
        raise AssetError(f"{path} has {name} that is no group of settings; fetch it again")
    return value


def _require_known(settings: Mapping[str, Any], known: Any, path: Path, prefix: str) -> None:
    if unknown := [f"{prefix}{name}" for name in settings if name not in known]:
        raise AssetError(
            f"{path} has unknown keys {', '.join(sorted(unknown))}; "
            f"known are {', '.join(sorted(known))}"
        )


def _made(record: type[Record], values: Mapping[str, Any], described: str) -> Record:
    """A settings record; lists become tuples, and what it refuses is the file's fault."""
    try:
        return record(**{name: _plain(value) for name, value in values.items()})
    except (ValueError, TypeError) as error:
        raise AssetError(f"{described} does not fit: {error}") from error


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _shape(tensors: Tensors, name: str, axes: int, described: str) -> tuple[int, ...]:
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != axes:
        shown = "is missing" if tensor is None else f"has the shape {list(tensor.shape)}"
        raise AssetError(
            f"{described} cannot be loaded: {name} {shown}, wanted {axes} axes; "
            "nothing was changed, fetch the file again"
        )
    return tuple(tensor.shape)


def _count(tensors: Tensors, prefix: str) -> int:
    """How many numbered children a list of modules has."""
    return len({n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)})
