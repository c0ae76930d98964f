"""What is added to a loaded model and taken off again: LoRA, Textual Inversion, IP-Adapter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from assets.errors import AssetError
from assets.files import contained
from assets.weights import read_tensors
from diffusion.folders import check_settings, find_folder, without_pickles
from diffusion.quiet import in_one_line, loading
from diffusion.record import Pipeline, add_to_record, record_of

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
_FAILURES = (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, ImportError)
_KEYS_FROM_TEXT = re.compile(
    r"attn2[._]to_[kv]\.(?:lora_down|lora_A|lora\.down)(?:\.\w+)?\.weight$"
)
_SHOWN = "_shown_picture"
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL", 1280: "the SDXL refiner"}


def use_loras(
    pipeline: Pipeline,
    loras: Sequence[tuple[Path | str, float]],
    folder: Path | None = None,
) -> None:
    """Make these LoRAs the ones that act, each at its weight; those not named act no more.

    A LoRA is a file, or the name (with or without suffix) of one in `folder` or below it, in
    kohya's or diffusers' key names. Files are read once and kept. Weight 0 leaves the model
    exactly as it was; one named twice acts at the sum. Nothing changes if any of them is wrong.
    """
    weights: dict[Path, float] = {}
    for source, weight in loras:
        path = find_adapter(source, folder, "LoRA")
        weights[path] = weights.get(path, 0.0) + float(weight)
    if not weights and not record_of(pipeline).loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(f"{type(pipeline).__name__} takes no LoRA; use a model that does")
    names = {path: _adapter_name(path) for path in weights}
    for path, name in names.items():
        if name not in _loaded(pipeline):
            _load_lora(pipeline, path, name)
    # A LoRA of weight 0 is left out rather than multiplied: the result is the model's, to the bit.
    acting = {names[path]: weight for path, weight in weights.items() if weight != 0}
    if acting:
        pipeline.enable_lora()
        pipeline.set_adapters(list(acting), list(acting.values()))
    elif _loaded(pipeline):
        pipeline.disable_lora()
    add_to_record(pipeline, loras=tuple((path.stem, w) for path, w in weights.items()))


def remove_loras(pipeline: Pipeline) -> None:
    """Take every LoRA off and free what it held."""
    if _loaded(pipeline):
        pipeline.unload_lora_weights()
    add_to_record(pipeline, loras=())


def add_embedding(
    pipeline: Pipeline,
    source: Path | str,
    folder: Path | None = None,
    *,
    token: str | None = None,
) -> str:
    """Teach the text encoders a word of Textual Inversion, and return the word for prompts.

    Reads diffusers' and A1111's files; `token` is the word, None what the file calls it, else the
    file's name. For SDXL the file has to have both encoders' vectors (clip_l and clip_g).
    """
    path = find_adapter(source, folder, "Textual Inversion")
    vectors, named = _embedding_vectors(path)
    word = token or named or path.stem
    targets: list[tuple[Any, Any, Tensor]] = []
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        if encoder is None or tokenizer is None:
            continue
        vector = vectors.get(key, vectors.get("") if not targets else None)
        width = encoder.get_input_embeddings().weight.shape[-1]
        if vector is None or vector.shape[-1] != width:
            given = ", ".join(str(v.shape[-1]) for v in vectors.values())
            raise AssetError(
                f"{path} was made for another family of models (vectors of {given} numbers, this "
                f"model's text encoder has {width}); use one made for this family"
            )
        targets.append((vector, tokenizer, encoder))
    if not targets:
        raise ValueError(f"{type(pipeline).__name__} has no text encoder that could learn a word")
    known = targets[0][1].get_vocab()
    if word in known:
        raise ValueError(f"the model already knows the word {word!r}; give another as token=")
    for vector, tokenizer, encoder in targets:
        try:
            with loading(str(path)):
                pipeline.load_textual_inversion(
                    vector.to(encoder.dtype), token=word, tokenizer=tokenizer, text_encoder=encoder
                )
        except _FAILURES as error:
            raise AssetError(f"{path} cannot be added ({in_one_line(error)})") from error
    add_to_record(pipeline, embeddings=(*record_of(pipeline).embeddings, word))
    return word


def remove_embedding(pipeline: Pipeline, word: str) -> None:
    """Make the text encoders forget a word that `add_embedding` taught."""
    if word not in record_of(pipeline).embeddings:
        raise ValueError(f"{word!r} was not added to this model")
    for number in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{number}", None)
        tokenizer = getattr(pipeline, f"tokenizer{number}", None)
        if encoder is not None and tokenizer is not None:
            # several vectors are several entries: the word, the word with _1, and so on
            entries = [e for e in tokenizer.get_added_vocab() if _is_entry_of(e, word)]
            pipeline.unload_textual_inversion(entries, tokenizer=tokenizer, text_encoder=encoder)
    left = tuple(kept for kept in record_of(pipeline).embeddings if kept != word)
    add_to_record(pipeline, embeddings=left)


def add_ip_adapter(
    pipeline: Pipeline,
    source: Path | str,
    image_encoder: Path | str | None = None,
    *,
    scale: float = 0.6,
) -> None:
    """Let a picture steer the model beside the prompt, by a plain IP-Adapter at `scale`.

    `image_encoder` is the folder of the CLIP image encoder that belongs to the adapter, which the
    model keeps; without one, only embeddings made elsewhere can be given. An earlier IP-Adapter is
    replaced. FaceID adapters need a face network that is not free to use, and are refused.
    """
    path = find_adapter(source, None, "IP-Adapter")
    tensors = read_tensors(path)
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    if not all(parts.values()):
        raise AssetError(f"{path} is no IP-Adapter (image_proj and ip_adapter); give another file")
    if any("lora" in name or "perceiver_resampler" in name for name in tensors):
        raise AssetError(
            f"{path} is a FaceID adapter, which needs a face network that may not be used "
            "commercially; use a plain IP-Adapter"
        )
    network = getattr(pipeline, "unet", None)
    if network is None or not hasattr(pipeline, "load_ip_adapter"):
        raise ValueError(f"{type(pipeline).__name__} takes no plain IP-Adapter; use SD 1.x or SDXL")
    wanted = network.config.cross_attention_dim
    widths = {t.shape[1] for n, t in parts["ip_adapter"].items() if n.endswith("to_k_ip.weight")}
    if widths != {wanted}:
        raise AssetError(_other_family(path, "IP-Adapter", next(iter(widths), 0), wanted))
    if pipeline.image_encoder is None and image_encoder is not None:
        pipeline.register_modules(image_encoder=_open_image_encoder(pipeline, image_encoder))
    if record_of(pipeline).ip_adapters:
        _unload_ip_adapter(pipeline)
    try:
        with loading(str(path)):
            pipeline.load_ip_adapter(parts, subfolder="", weight_name="", image_encoder_folder=None)
    except _FAILURES as error:
        raise AssetError(f"{path} cannot be added ({in_one_line(error)})") from error
    pipeline.set_ip_adapter_scale(scale)
    add_to_record(pipeline, ip_adapters=((path.stem, float(scale)),))


def scale_ip_adapter(pipeline: Pipeline, scale: float) -> None:
    """How strongly the picture steers: 0 not at all, 1 as the adapter was trained."""
    if not record_of(pipeline).ip_adapters:
        raise ValueError("no IP-Adapter was added; call add_ip_adapter first")
    pipeline.set_ip_adapter_scale(scale)
    (name, _), *_ = record_of(pipeline).ip_adapters
    add_to_record(pipeline, ip_adapters=((name, float(scale)),))


def show_ip_adapter(pipeline: Pipeline, image: Float[Tensor, "1 3 H W"]) -> None:
    """Let the IP-Adapter see this picture in all that is drawn from now on."""
    if not record_of(pipeline).ip_adapters:
        raise ValueError("no IP-Adapter was added; call add_ip_adapter first")
    if pipeline.image_encoder is None:
        raise ValueError(
            "the model has no CLIP image encoder to see the picture with; give the folder of the "
            "one that came with the IP-Adapter"
        )
    texels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8)
    seen: Tensor = pipeline.feature_extractor(images=[texels], return_tensors="pt").pixel_values
    # the network is shared by the pipelines of all tasks
    pipeline.unet.__dict__[_SHOWN] = seen


def shown_to_ip_adapter(pipeline: Pipeline) -> Float[Tensor, "1 3 K K"] | None:
    """The picture of `show_ip_adapter` as the image encoder takes it; None where there is none."""
    if not record_of(pipeline).ip_adapters:
        return None
    found: Tensor | None = pipeline.unet.__dict__.get(_SHOWN)
    return found


def remove_ip_adapter(pipeline: Pipeline) -> None:
    """Take the IP-Adapter off; the model then is as it was before."""
    if record_of(pipeline).ip_adapters:
        _unload_ip_adapter(pipeline)
        pipeline.unet.__dict__.pop(_SHOWN, None)
        add_to_record(pipeline, ip_adapters=())


def find_adapter(source: Path | str, folder: Path | None, kind: str) -> Path:
    """The file of an adapter given by path, or by its name in `folder` or a folder below it."""
    path = Path(source)
    if path.is_file():
        return path.resolve()
    if folder is None:
        raise AssetError(f"{kind} {source} is not there; give its file, or the folder it is in")
    for suffix in ("", *SUFFIXES):
        inside = contained(folder, f"{source}{suffix}")
        if inside.is_file():
            return inside
    files = list_adapters(folder)
    same = [one for one in files if one.stem.casefold() == str(source).casefold()]
    if same:
        return same[0].resolve()
    names = ", ".join(one.stem for one in files[:8]) or "none"
    raise AssetError(f"{folder} has no {kind} called {str(source)!r}; those there: {names}")


def list_adapters(folder: Path) -> list[Path]:
    """Every file below a folder that could be an adapter, by name."""
    found: Iterable[Path] = (one for suffix in SUFFIXES for one in folder.rglob(f"*{suffix}"))
    return sorted(one for one in found if one.is_file())


def _load_lora(pipeline: Pipeline, path: Path, name: str) -> None:
    tensors = read_tensors(path)
    if not any(part in key for key in tensors for part in ("lora", "lokr", "hada", "dora")):
        raise AssetError(f"{path} holds no LoRA; give a LoRA file")
    wanted = getattr(getattr(pipeline, "unet", None), "config", {}).get("cross_attention_dim")
    widths = {t.shape[1] for key, t in tensors.items() if _KEYS_FROM_TEXT.search(key)}
    if wanted is not None and widths and widths != {wanted}:
        raise AssetError(_other_family(path, "LoRA", next(iter(widths)), wanted))
    try:
        with loading(str(path), whole=False):
            pipeline.load_lora_weights(tensors, adapter_name=name)
    except (*_FAILURES, AssetError) as error:
        _forget(pipeline, name)
        raise AssetError(
            f"{path} does not fit this model ({in_one_line(error)}); use a LoRA made for it"
        ) from error
    if name not in _loaded(pipeline):
        raise AssetError(
            f"{path} changes nothing in a {type(pipeline).__name__}: it was made for another "
            "family of models; use a LoRA made for this one"
        )


def _forget(pipeline: Pipeline, name: str) -> None:
    """Remove what a failed load has left behind."""
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, part, None)
        if network is not None and name in getattr(network, "peft_config", {}):
            network.delete_adapters(name) if hasattr(network, "delete_adapters") else (
                network.delete_adapter(name)
            )


def _loaded(pipeline: Pipeline) -> set[str]:
    if not hasattr(pipeline, "get_list_adapters"):
        return set()
    return {name for names in pipeline.get_list_adapters().values() for name in names}


def _adapter_name(path: Path) -> str:
    """A name that peft takes, another for another file or another state of the same file."""
    stamp = f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}"
    return re.sub(r"\W", "_", path.stem) + "_" + hashlib.sha256(stamp.encode()).hexdigest()[:8]


def _embedding_vectors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Vectors [n, width] by text encoder ("" where the file has one), and the file's own word."""
    tensors = {name: t for name, t in read_tensors(path).items() if t.ndim in (1, 2)}
    tensors = {name: t[None] if t.ndim == 1 else t for name, t in tensors.items()}
    if "clip_l" in tensors or "clip_g" in tensors:
        return {key: tensors[key] for key in ("clip_l", "clip_g") if key in tensors}, None
    for name, tensor in tensors.items():
        if name == "emb_params" or name.startswith("string_to_param."):
            return {"": tensor}, None
    if len(tensors) == 1:
        ((name, tensor),) = tensors.items()
        return {"": tensor}, name
    raise AssetError(
        f"{path} holds no Textual Inversion (one word's vectors) but {len(tensors)} tensors; "
        "give an embedding file"
    )


def _is_entry_of(entry: str, word: str) -> bool:
    return entry == word or re.fullmatch(re.escape(word) + r"_\d+", entry) is not None


def _open_image_encoder(pipeline: Pipeline, source: Path | str) -> Any:
    try:
        with loading(str(source)):
            folder = find_folder(source)
            check_settings(folder)
            encoder = CLIPVisionModelWithProjection.from_pretrained(
                without_pickles(folder),
                dtype=pipeline.dtype,
                use_safetensors=True,
                local_files_only=True,
            )
    except (OSError, *_FAILURES) as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(
            f"{source} cannot be opened as a CLIP image encoder ({in_one_line(error)}); give the "
            "image_encoder folder that came with the IP-Adapter"
        ) from error
    return encoder.to(pipeline.device)


def _unload_ip_adapter(pipeline: Pipeline) -> None:
    checker = getattr(pipeline, "safety_checker", None)
    processor = getattr(pipeline, "feature_extractor", None)
    pipeline.unload_ip_adapter()
    if checker is not None and pipeline.feature_extractor is None:
        pipeline.register_modules(feature_extractor=processor)


def _other_family(path: Path, kind: str, given: int, wanted: int) -> str:
    made_for = _FAMILIES.get(given, f"a text width of {given}")
    this = _FAMILIES.get(wanted, f"one of {wanted}")
    return f"{path} is a {kind} for {made_for}, this model is {this}; use one of the same family"
