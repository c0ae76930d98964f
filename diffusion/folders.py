"""Diffusers folders from anywhere: found offline, and checked so that nothing in them is run."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import re
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import diffusers.pipelines
import huggingface_hub
import transformers
from safetensors.torch import save_file
from torch import Tensor

from assets.errors import AssetError
from assets.store import cache_folder
from assets.weights import read_tensors

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SETTINGS = ("model_index.json", "config.json", "*_config.json")
_RUNS_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_pipeline")
_PICKLED = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model)(?P<variant>\.[\w-]+?)?\.bin(?P<index>\.index\.json)?"
)
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?P<variant>\.[a-z0-9_]+)?(?:-\d{5}-of-\d{5})?\.safetensors"
)


def find_folder(source: Path | str) -> Path:
    """The folder of a model: as given, or of a hub id from the cache (under $HF_HOME if set)."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.suffix in (".safetensors", ".ckpt") or not HUB_ID.fullmatch(str(source)):
        raise AssetError(f"{source} is not there; give a diffusers folder, a file or a hub id")
    try:
        return Path(huggingface_hub.snapshot_download(str(source), local_files_only=True))
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{source} cannot be opened: it is neither a folder here nor a model in the cache "
            f"{huggingface_hub.constants.HF_HUB_CACHE}, and nothing is downloaded; fetch it with "
            f"`hf download {source}` or give a folder"
        ) from error


def check_model_folder(folder: Path) -> dict[str, Any]:
    """The checked model_index.json of a folder, in which nothing asks to run code of its own."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise AssetError(
            f"{folder} has no model_index.json; give the top folder of a diffusers model"
        )
    settings = read_settings(index)
    named = settings.get("_class_name")
    kind = getattr(diffusers, named, None) if isinstance(named, str) else None
    if isinstance(named, list) or (kind is None and (folder / f"{named}.py").exists()):
        raise AssetError(f"{index} asks to run code of its own; use a model of a stock pipeline")
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise AssetError(
            f"{index} names {str(named)[:60]!r}, which is no pipeline of diffusers "
            f"{diffusers.__version__}; update diffusers or use another model"
        )
    for part, entry in settings.items():
        if not part.startswith("_") and isinstance(entry, list):
            _check_part(index, part, entry)
    check_settings(folder)
    return settings


def check_settings(folder: Path) -> None:
    """Raise AssetError if any settings file under `folder` asks for code that is not installed."""
    for pattern in _SETTINGS:
        for path in [*folder.glob(pattern), *folder.glob(f"*/{pattern}")]:
            settings = read_settings(path)
            for key in _RUNS_CODE:
                if settings.get(key):
                    raise AssetError(
                        f"{path} asks to run code of its own ({key}); nothing in a model is ever "
                        "run, so use a model of a stock pipeline"
                    )
            kernels = settings.get("_attn_implementation") or settings.get("attn_implementation")
            if isinstance(kernels, str) and "/" in kernels:  # a hub repository of compiled code
                raise AssetError(
                    f"{path} asks to run code of its own ({kernels[:60]}); remove that entry"
                )


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path} is damaged ({error}); fetch the model again") from error
    if not isinstance(settings, dict):
        raise AssetError(f"{path} is damaged (it holds no settings); fetch the model again")
    return settings


@cache
def _pipeline_modules() -> frozenset[str]:
    return frozenset(module.name for module in pkgutil.iter_modules(diffusers.pipelines.__path__))


def _check_part(index: Path, part: str, entry: list[Any]) -> None:
    """diffusers imports the library that a part names, and calls the class, whatever they are."""
    if len(entry) != 2 or not all(isinstance(name, str) for name in entry):
        return  # a part left out, or a setting
    library, name = entry
    if not re.fullmatch(r"[A-Za-z]\w*", name) or not (
        library in ("diffusers", "transformers") or library in _pipeline_modules()
    ):
        raise AssetError(
            f"{index} asks to run code of its own ({library[:60]}.{name[:60]} as its {part[:40]}); "
            "use a model whose parts are of diffusers and transformers"
        )
    if library == "transformers" and not _is_loadable(name):
        raise AssetError(
            f"{index} names transformers.{name[:60]} as its {part[:40]}, which is no model, "
            "tokenizer or image processor; use another model"
        )


def _is_loadable(name: str) -> bool:
    bases = (
        transformers.PreTrainedModel,
        transformers.PreTrainedTokenizerBase,
        transformers.ImageProcessingMixin,
        transformers.FeatureExtractionMixin,
        transformers.ProcessorMixin,
    )
    # Old folders name classes that were renamed since, as CLIPFeatureExtractor.
    kind = getattr(transformers, name, None)
    return kind is None or (isinstance(kind, type) and issubclass(kind, bases))


def variant_of(folder: Path) -> str | None:
    """The suffix, such as fp16, of a model of which only that variant is there."""
    plain, variants = False, set()
    for path in folder.glob("*/*.safetensors"):
        if match := _WEIGHTS.fullmatch(path.name):
            if match["variant"] is None:
                plain = True
            else:
                variants.add(match["variant"][1:])
    return next(iter(variants)) if len(variants) == 1 and not plain else None


def without_pickles(folder: Path) -> Path:
    """`folder`, or a copy made of links in which PyTorch's weights are safetensors.

    The copy is kept in the user's cache. The weights are read by our own reader, which runs
    nothing, so that no unpickler ever sees them.
    """
    parts = [folder, *(part for part in sorted(folder.iterdir()) if part.is_dir())]
    pickled = {part: found for part in parts if (found := _pickled_weights(part))}
    if not pickled:
        return folder
    stamps = [str(folder.resolve())]
    for paths in pickled.values():
        stamps += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]
    copy = cache_folder() / "diffusion" / hashlib.sha256("\n".join(stamps).encode()).hexdigest()
    if copy.is_dir():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    making = copy.with_name(f".{copy.name[:16]}.{secrets.token_hex(4)}")
    try:
        for part in parts:
            target = making / part.relative_to(folder)
            target.mkdir(parents=True, exist_ok=True)
            for path in part.iterdir():
                if path.is_file() and not path.name.endswith((".bin", ".bin.index.json")):
                    _link(path, target / path.name)
            for path in pickled.get(part, []):
                write_plain(read_tensors(path), target / _safe_twin(path))
        os.replace(making, copy)
    except OSError as error:
        if not copy.is_dir():  # else another process made it at the same time
            raise AssetError(f"{copy} cannot be written ({error}); free some space") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return copy


def write_plain(tensors: dict[str, Tensor], path: Path) -> None:
    """One safetensors file; tensors that share numbers get their own, as the format wants it."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        own = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        stored[name] = tensor if own and tensor.data_ptr() not in seen else tensor.clone()
        seen.add(tensor.data_ptr())
    save_file({n: t.contiguous() for n, t in stored.items()}, path, metadata={"format": "pt"})


def _pickled_weights(part: Path) -> list[Path]:
    """The PyTorch weights of a part that has no safetensors of the same variant, or their index."""
    found = {}
    for path in sorted(part.glob("*.bin*")):
        match = _PICKLED.fullmatch(path.name)
        if match and "-of-" not in path.name:
            twin = part / _safe_twin(path)
            if not twin.exists() and not twin.with_name(twin.name + ".index.json").exists():
                found[twin.name] = path
    return list(found.values())


def _safe_twin(path: Path) -> str:
    match = _PICKLED.fullmatch(path.name)
    assert match is not None
    # transformers calls its own model.safetensors
    stem = "model" if match["stem"] == "pytorch_model" else match["stem"]
    return f"{stem}{match['variant'] or ''}.safetensors"


def _link(path: Path, target: Path) -> None:
    try:
        target.symlink_to(path.resolve())
    except OSError:  # Windows lets only some users make links
        shutil.copy2(path, target)
