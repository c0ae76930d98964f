"""Teach a model one new word for what a few photos show: Textual Inversion (Gal et al. 2023).

Writes RUN/WORD.safetensors as published tools read it; all else in the model stays as it was.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.train_lora import from_photos
from diffusion.train_options import accelerator_of, run_config

log = logging.getLogger(__name__)

# After the paper's appendix: the word in many plain sentences, so that it learns none of them.
_SENTENCES = {
    "object": ("a photo of {}", "a close-up photo of {}", "a cropped photo of {}", "{}",
               "a bright photo of {}", "a dark photo of {}", "a picture of {}"),
    "style": ("a picture in the style of {}", "a painting in the style of {}", "a portrait by {}",
              "a rendering in the style of {}", "art in the style of {}"),
}  # fmt: skip


class WithWord(nn.Module):
    """A text encoder's table of words with rows of its own after the last, and only they learn."""

    def __init__(self, table: nn.Embedding, rows: Tensor) -> None:
        super().__init__()
        self.table = table
        self.rows = nn.Parameter(rows.float())

    @property
    def weight(self) -> Tensor:
        """The whole table."""
        return torch.cat([self.table.weight, self.rows.to(self.table.weight)])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of token numbers; those from the table's end on are the new rows'."""
        last = self.table.num_embeddings
        known: Tensor = self.table(ids.clamp(max=last - 1))
        new = self.rows[(ids - last).clamp(min=0)].to(known)
        return torch.where((ids >= last)[..., None], new, known)


def add_word(pipeline: Any, word: str, like: str, vectors: int) -> dict[str, WithWord]:
    """Teach every tokenizer of a pipeline the word, its vectors starting at those of another.

    Returns the table of each text encoder. Raises ValueError where the word is known already, or
    the other is more than one token.
    """
    from diffusion.train_text import token_ids

    tables = {}
    for end in ("", "_2"):
        tokenizer = getattr(pipeline, f"tokenizer{end}", None)
        encoder = getattr(pipeline, f"text_encoder{end}", None)
        if tokenizer is None or encoder is None:
            continue
        ids = tokenizer(like, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{like!r} is {len(ids)} tokens; give a common word as --like")
        if word in tokenizer.get_vocab():
            raise ValueError(f"the model already knows the word {word!r}; give another")
        table = encoder.get_input_embeddings()
        if len(tokenizer) != table.num_embeddings:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} words and the text encoder "
                f"{table.num_embeddings}; start from a model that nothing was added to"
            )
        tokenizer.add_tokens(entries(word, vectors))
        start = table.weight[ids].detach().repeat(vectors, 1)
        tables[f"text_encoder{end}"] = WithWord(table, start)
        encoder.set_input_embeddings(tables[f"text_encoder{end}"])
        last = len(tokenizer) - 1
        assert last in token_ids(tokenizer, [spelled(word, vectors)])
    return tables


def entries(word: str, vectors: int) -> list[str]:
    """The tokens of a word of several vectors, as diffusers names them."""
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]


def spelled(word: str, vectors: int) -> str:
    """The word as a prompt that a tokenizer reads."""
    return " ".join(entries(word, vectors))


def embedding_tensors(tables: dict[str, WithWord], word: str) -> dict[str, Tensor]:
    """The word's vectors by published names: the word itself, or SDXL's two encoders."""
    rows = {part: table.rows.detach().float() for part, table in tables.items()}
    if len(rows) == 1:
        return {word: rows["text_encoder"]}
    return {"clip_l": rows["text_encoder"], "clip_g": rows["text_encoder_2"]}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    from_photos(parser, steps=2000, rate=5e-4)
    add = parser.add_argument
    add("--word", required=True, help='the new word, e.g. "<anna>"')
    add("--like", default="person", help="a word to start from")
    add("--vectors", type=int, default=1, help="tokens of the word")
    add("--learn", choices=tuple(_SENTENCES), default="object", help="what the word is for")


def run(options: argparse.Namespace) -> Path:
    """Open the model, read the photos, train the word, write it."""
    from assets.files import safe_name
    from assets.weights import write_tensors
    from diffusion.train_noise import NoiseConfig
    from diffusion.train_personal import Lessons, open_base, preview, read_photos
    from diffusion.train_pictures import list_pictures
    from diffusion.train_run import Run, descend, generator_at

    if options.vectors < 1:
        raise ValueError(f"vectors={options.vectors} must be at least 1")
    file = Path(options.run) / f"{safe_name(options.word)}.safetensors"
    noise = NoiseConfig(options.min_snr or None, options.noise_offset)
    # a word has few numbers and no need to be small
    config = run_config(options, weight_decay=0.0)
    list_pictures(options.photos)  # before anything that takes time
    accelerator = accelerator_of(options)
    pipeline = open_base(options.model, accelerator.device, options.precision)
    photos = read_photos(pipeline, options.photos, options.size, mirror=options.mirror)
    tables = add_word(pipeline, options.word, options.like, options.vectors)
    if options.save_memory:
        pipeline.unet.train().enable_gradient_checkpointing()
    lessons = Lessons(pipeline, noise, config.batch)
    named = spelled(options.word, options.vectors)
    prompts: Sequence[str] = [text.format(named) for text in _SENTENCES[options.learn]]

    def loss_of(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = generator_at(config.seed, number)
        with accelerator.autocast():
            return lessons.loss(photos, prompts, number, generator=generator), {}

    told = {"word": options.word, "vectors": options.vectors, "like": options.like}
    told |= {"model": str(options.model), "size": options.size, "seed": config.seed}
    training = Run(options.run, {part: t.rows for part, t in tables.items()}, config, told)

    def on_save() -> None:
        write_tensors(embedding_tensors(tables, options.word), file, {"format": "pt"})
        with accelerator.autocast():
            path = options.run / f"preview-{training.step:06d}.png"
            preview(pipeline, prompts[0], options.size, path, seed=config.seed)

    descend(
        training,
        loss_of,
        accelerator,
        minutes=options.minutes,
        pause_minutes=options.pause_after,
        on_save=on_save,
    )
    return file
