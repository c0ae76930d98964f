"""Diffusion models of every family from disk, offline; nothing that a file brings is run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    MultiAdapter,
    T2IAdapter,
)
from safetensors import SafetensorError

from assets.errors import AssetError
from diffusion.folders import (
    check_model_folder,
    check_settings,
    find_folder,
    read_settings,
    variant_of,
    without_pickles,
)
from diffusion.quiet import in_one_line, loading
from diffusion.record import ModelRecord, Pipeline, add_to_record, record_of
from diffusion.safety import set_safety
from diffusion.single_file import open_single_file, read_contents
from diffusion.t2i_file import adapter_of_file

TASKS: dict[str, Any] = {
    "txt2img": AutoPipelineForText2Image,
    "img2img": AutoPipelineForImage2Image,
    "inpaint": AutoPipelineForInpainting,
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# What diffusers and transformers raise for files that do not fit, none of them on purpose.
LOADING_ERRORS = (
    *(OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError),
    *(ImportError, SafetensorError),
)
_ADAPTER_PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionAdapterPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLAdapterPipeline",
}


def load_pipeline(
    source: Path | str,
    *,
    task: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Path | str | None = None,
    tokenizer: Path | None = None,
    prediction: str | None = None,
    controlnets: Sequence[Path | str] = (),
    t2i_adapters: Sequence[Path | str] = (),
    safety: str = "on",
) -> Pipeline:
    """A diffusers pipeline of a local folder, of one file, or of a hub id that is in the cache.

    Nothing is downloaded, and no code that a model brings is run; a .ckpt, .pt or .bin is read only
    if it holds nothing but tensors. `task` is txt2img, img2img or inpaint, None what the model is
    for (a refiner, an upscaler and an image-variation model have their own). A single file holds
    no settings or words: `config` is a diffusers folder of its family where it is not of the
    published shape, `tokenizer` a folder with CLIP's vocab.json and merges.txt, and `prediction`
    (epsilon, v_prediction, sample) what the model predicts where that is not its family's custom:
    2.x files are taken for v_prediction, so 2.x base files need "epsilon". The model's safety
    checker stays on unless `safety="off"`; `record_of` tells which.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"task={task!r} is not known; give one of {', '.join(TASKS)}, or None")
    if prediction is not None and prediction not in PREDICTIONS:
        raise ValueError(f"prediction={prediction!r} must be one of {', '.join(PREDICTIONS)}")
    path = Path(source)
    try:
        with loading(str(source)):
            if path.is_file():
                pipeline = open_single_file(
                    path, dtype=dtype, config=config, tokenizer=tokenizer, prediction=prediction
                )
            else:
                pipeline = _open_folder(find_folder(source), dtype, prediction)
            _check_filled(pipeline, source)
    except LOADING_ERRORS as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(
            f"{source} cannot be opened as a diffusion model offline ({in_one_line(error)}); "
            "give a whole diffusers folder"
        ) from error
    add_to_record(pipeline, source=str(source), pipeline=type(pipeline).__name__)
    set_safety(pipeline, safety)
    if controlnets:
        pipeline = add_controlnets(pipeline, controlnets)
    if t2i_adapters:
        pipeline = add_t2i_adapters(pipeline, t2i_adapters)
    if task is not None:
        pipeline = as_task(pipeline, task)
    pipeline.set_progress_bar_config(disable=True)  # progress is the caller's to show
    return pipeline.to(device)


def as_task(pipeline: Pipeline, task: str) -> Pipeline:
    """The same model, with all that was added to it, for another task; no weight is copied."""
    if task not in TASKS:
        raise ValueError(f"task={task!r} is not known; give one of {', '.join(TASKS)}")
    name = type(pipeline).__name__
    unet = getattr(pipeline, "unet", None)
    latent = getattr(getattr(getattr(pipeline, "vae", None), "config", None), "latent_channels", 0)
    if task != "inpaint" and unet is not None and latent and unet.config.in_channels != latent:
        raise ValueError(
            f"{record_of(pipeline).source or name} paints into masks or enlarges only; "
            f"give another model for task={task!r}"
        )
    if task == "txt2img" and "text_encoder" in pipeline.components:
        parts = pipeline.components
        if parts["text_encoder"] is None and parts.get("text_encoder_2") is not None:
            raise ValueError(
                f"{record_of(pipeline).source or name} is a refiner, which needs a picture to "
                "start from; make one with the base model and name this one with --refiner"
            )
    try:
        other = TASKS[task].from_pipe(pipeline)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{record_of(pipeline).source or name} ({name}) does no {task}; "
            "give another model or leave task out"
        ) from error
    return _with_record(other, pipeline)


def add_controlnets(pipeline: Pipeline, sources: Sequence[Path | str]) -> Pipeline:
    """A pipeline of the same model that is also steered by one picture for each ControlNet.

    Each source is a diffusers folder, a hub id in the cache, or one file with diffusers' or the
    original key names, which then has to be of the model's own shape.
    """
    nets = [open_part(source, lambda path: _open_controlnet(path, pipeline)) for source in sources]
    task = next((t for t, auto in TASKS.items() if _same_class(auto, pipeline)), "txt2img")
    try:
        other = TASKS[task].from_pipe(pipeline, controlnet=nets[0] if len(nets) == 1 else nets)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{record_of(pipeline).source or type(pipeline).__name__} takes no ControlNet of "
            f"{type(nets[0]).__name__} ({in_one_line(error)}); use one made for it"
        ) from error
    _check_width(pipeline, nets, sources)
    other = _with_record(other, pipeline)
    add_to_record(other, controlnets=tuple(str(source) for source in sources))
    return other


def add_t2i_adapters(pipeline: Pipeline, sources: Sequence[Path | str]) -> Pipeline:
    """A pipeline of the same model that is also steered by one picture for each T2I-Adapter.

    Each source is a diffusers folder, a hub id in the cache, or one file of a full adapter, with
    diffusers' or the original key names.
    """
    name = type(pipeline).__name__
    if name not in _ADAPTER_PIPELINES:
        raise ValueError(f"{name} takes no T2I-Adapter; use a txt2img model of SD 1.x or SDXL")

    def opened(path: Path) -> Any:
        if path.is_file():
            return adapter_of_file(path, pipeline).to(pipeline.dtype)
        named = read_settings(path / "config.json").get("_class_name")
        if named != "T2IAdapter":
            raise AssetError(f"{path} is of {str(named)[:60]!r}, which is no T2I-Adapter")
        return T2IAdapter.from_pretrained(
            path, dtype=pipeline.dtype, use_safetensors=True, local_files_only=True
        )

    adapters = [open_part(source, opened).eval() for source in sources]
    kind = getattr(diffusers, _ADAPTER_PIPELINES[name])
    settings = {k: v for k, v in pipeline.config.items() if k.startswith(("requires", "force"))}
    adapter = adapters[0] if len(adapters) == 1 else MultiAdapter(adapters)
    accepted = set(kind._get_signature_keys(kind)[0]) | set(kind._get_signature_keys(kind)[1])
    parts = {**pipeline.components, **settings, "adapter": adapter}
    other = _with_record(kind(**{k: v for k, v in parts.items() if k in accepted}), pipeline)
    add_to_record(other, t2i_adapters=tuple(str(source) for source in sources))
    return other


def _open_folder(folder: Path, dtype: torch.dtype, prediction: str | None) -> Pipeline:
    settings = check_model_folder(folder)
    plain = without_pickles(folder)
    # SD3 works without its large T5, which many therefore leave out
    missing = {
        part: None
        for part in ("text_encoder_3", "tokenizer_3")
        if part in settings and not (plain / part).is_dir()
    }
    pipeline = DiffusionPipeline.from_pretrained(
        plain,
        dtype=dtype,
        variant=variant_of(plain),
        use_safetensors=True,
        local_files_only=True,
        **missing,
    )
    if prediction is not None:
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config, prediction_type=prediction
        )
    return pipeline


def _check_filled(pipeline: Pipeline, source: Path | str) -> None:
    for part, network in pipeline.components.items():
        if isinstance(network, torch.nn.Module):
            empty = [name for name, weight in network.named_parameters() if weight.is_meta]
            if empty:
                raise AssetError(
                    f"{source} lacks {len(empty)} weights of its {part} (first {empty[0]}); "
                    "fetch the whole model again"
                )


def open_part(source: Path | str, opened: Callable[[Path], Any]) -> Any:
    """An added network by its opener, with every failure as one sentence."""
    path = Path(source)
    try:
        with loading(str(source)):
            if not path.is_file():
                folder = find_folder(source)
                check_settings(folder)
                path = without_pickles(folder)
            return opened(path)
    except LOADING_ERRORS as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(
            f"{source} cannot be opened ({in_one_line(error)}); give a whole diffusers folder"
        ) from error


def _open_controlnet(path: Path, pipeline: Pipeline) -> Any:
    settings: dict[str, Any] = {"dtype": pipeline.dtype, "local_files_only": True}
    if path.is_dir():
        named = read_settings(path / "config.json").get("_class_name", "ControlNetModel")
        kind = getattr(diffusers, named, None) if "ControlNet" in str(named) else None
        if kind is None:
            raise AssetError(f"{path} is of {str(named)[:60]!r}, which is no ControlNet")
        return kind.from_pretrained(path, use_safetensors=True, **settings)
    contents = read_contents(path)
    if not any("controlnet_cond_embedding" in n or "input_hint" in n for n in contents.shapes):
        raise AssetError(f"{path} is no ControlNet; give one, or its diffusers folder")
    # A file has no settings, but a ControlNet is a copy of half of its model's UNet, and what is
    # before that can be read off the shapes of its convolutions.
    channels: dict[str, Any] = {}
    start = "controlnet_cond_embedding."
    if first := contents.shapes.get(f"{start}conv_in.weight"):
        blocks = (contents.shapes.get(f"{start}blocks.{n}.weight") for n in range(1, 99, 2))
        wider = tuple(shape[0] for shape in blocks if shape)
        channels |= {"conditioning_channels": first[1]}
        channels |= {"conditioning_embedding_out_channels": (first[0], *wider)}
    kind = diffusers.ControlNetModel
    with tempfile.TemporaryDirectory() as folder:
        with torch.device("meta"):
            net = kind.from_unet(pipeline.unet, load_weights_from_unet=False, **channels)
        net.save_config(folder)
        return kind.from_single_file(str(contents.path), config=folder, **settings)


def _check_width(pipeline: Pipeline, nets: list[Any], sources: Sequence[Path | str]) -> None:
    wanted = getattr(getattr(pipeline, "unet", None), "config", {}).get("cross_attention_dim")
    for net, source in zip(nets, sources, strict=True):
        given = net.config.get("cross_attention_dim")
        if wanted is not None and given is not None and given != wanted:
            raise ValueError(
                f"{source} is a ControlNet for another family (text of width {given}, this model "
                f"has {wanted}); use one made for {record_of(pipeline).source or 'this model'}"
            )


def _same_class(auto: Any, pipeline: Pipeline) -> bool:
    try:
        return type(auto.from_pipe(pipeline)) is type(pipeline)
    except (ValueError, TypeError):
        return False


def _with_record(other: Pipeline, pipeline: Pipeline) -> Pipeline:
    record: ModelRecord = record_of(pipeline)
    add_to_record(other, **{**vars(record), "pipeline": type(other).__name__})
    other.set_progress_bar_config(disable=True)
    return other
