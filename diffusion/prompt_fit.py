"""How well pictures fit their prompts, by a CLIP-like model of two towers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from diffusion.folders import find_folder, without_pickles
from diffusion.quiet import in_one_line, loading

IN_MODEL = "clip"  # the part of a model's folder that may hold one


class PromptFit:
    """Cosines between pictures and words in a model's common space."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model, self._processor = model.eval(), processor

    @torch.no_grad()
    def cosines(
        self, pictures: Float[Tensor, "B 3 H W"], words: Sequence[str]
    ) -> Float[Tensor, " B"]:
        """That of each picture with its own words; both are as many."""
        if len(pictures) != len(words):
            raise ValueError(f"{len(pictures)} pictures and {len(words)} prompts; give one each")
        texels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
        seen = self._processor(images=list(texels), return_tensors="pt")
        said = self._processor(text=list(words), return_tensors="pt", padding=True, truncation=True)
        image = _tensor(self._model.get_image_features(pixel_values=seen["pixel_values"]))
        text = _tensor(self._model.get_text_features(**said))
        return F.cosine_similarity(image.float(), text.float(), dim=-1)


def load_prompt_fit(source: Path | str) -> PromptFit:
    """The CLIP, Chinese-CLIP, AltCLIP or SigLIP model of a folder, or of a hub id in the cache."""
    from transformers import AutoModel, AutoProcessor

    try:
        with loading(str(source)):
            folder = without_pickles(find_folder(source))
            settings: dict[str, Any] = {"local_files_only": True}
            model = AutoModel.from_pretrained(folder, use_safetensors=True, **settings)
            processor = AutoProcessor.from_pretrained(folder, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        if isinstance(error, AssetError):
            raise
        raise AssetError(
            f"{source} cannot be opened as a CLIP model ({in_one_line(error)}); give the folder of "
            "one with its tokenizer and preprocessor_config.json"
        ) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise AssetError(
            f"{source} is a {type(model).__name__}, which does not compare pictures with words; "
            "give a CLIP model"
        )
    return PromptFit(model, processor)


def fit_of_model(model: Path | str) -> Path | None:
    """The CLIP model in a diffusion model's folder; None where it brings none."""
    folder = Path(model) / IN_MODEL
    return folder if (folder / "config.json").is_file() else None


def _tensor(output: Any) -> Tensor:
    """The features themselves, which some versions wrap."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found
