"""Pictures as latents, encoded once, and batches of them with their words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.files import replacing, sha256_of
from diffusion.train_files import rows_of
from diffusion.train_pictures import Captioned, pixels_of, to_floats
from diffusion.train_text import token_ids

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Lesson:
    """One batch; `latents` are the autoencoder's times its scaling factor."""

    latents: Float[Tensor, "B C h w"]
    ids: Int[Tensor, "B N"]
    rows: Int[Tensor, " B"]  # which pictures they are


@dataclass(frozen=True, eq=False)
class CaptionedLatents:
    """Every picture as latents, as it is and perhaps mirrored, with its words."""

    latents: Any  # [N, 1 or 2, C, h, w], half precision: a mapped file, or a tensor on the device
    ids: Int[Tensor, "N V 2 W"]  # V ways of saying it, of the picture and of its mirror image
    empty: Int[Tensor, " W"]
    scale: float

    def draw(self, batch: int, dropout: float, *, generator: torch.Generator) -> Lesson:
        """A batch in which some captions are empty, which guidance needs (Ho & Salimans 2022)."""
        rows = torch.randint(len(self.ids), (batch,), generator=generator)
        turned = torch.rand(batch, generator=generator) < 0.5
        turned &= self.latents.shape[1] == 2
        silent = torch.rand(batch, generator=generator) < dropout
        ways = torch.randint(self.ids.shape[1], (batch,), generator=generator)
        ids = torch.where(silent[:, None], self.empty, self.ids[rows, ways, turned.long()])
        if isinstance(self.latents, Tensor):
            where = self.latents.device
            latents = self.latents[rows.to(where), turned.long().to(where)]
        else:
            picked = self.latents[rows.numpy(), turned.long().numpy()]
            latents = torch.from_numpy(np.asarray(picked))
        return Lesson(latents.float() * self.scale, ids, rows)


def lessons_of(
    found: Sequence[Captioned], pipeline: Any, checksum: str, side: int, folder: Path
) -> CaptionedLatents:
    """Captioned pictures as a whole model's latents and words, none of them mirrored.

    `checksum` is that of the model's autoencoder, whose latents are made once in `folder`.
    """
    latents = latents_of(
        pipeline.vae, pixels_of(found, side, folder), checksum, folder, mirror=False
    )
    ways = max(1, *(len(picture.captions) for picture in found))
    words = [picture.said(way) for picture in found for way in range(ways)]
    ids = token_ids(pipeline.tokenizer, words).view(len(found), ways, 1, -1).expand(-1, -1, 2, -1)
    scale = float(pipeline.vae.config.scaling_factor)
    return CaptionedLatents(latents, ids, token_ids(pipeline.tokenizer, [""])[0], scale)


def checksums_of(vae: Path) -> list[str]:
    """Those of an autoencoder's weights; a whole model's folder will do."""
    used = vae / "vae" if (vae / "vae").is_dir() else vae
    return [sha256_of(path) for path in sorted(used.glob("*.safetensors"))]


def read_name(pixels: Any) -> str:
    """What tells a mapped file of `pixels_of` from those of other pictures."""
    return Path(str(getattr(pixels, "filename", ""))).stem.removeprefix("pixels-")


@torch.no_grad()
def latents_of(
    vae: Any, pixels: Any, checksum: str, folder: Path, *, mirror: bool = True, batch: int = 32
) -> Any:
    """The mean latents of every picture and of its mirror image, in a file that is made once.

    The means alone: the autoencoder's own noise is far below that of any step. `pixels` are a
    mapped file of `pixels_of`, whose name and the autoencoder's checksum make this one's.
    """
    name = f"{read_name(pixels)}-{checksum[:16]}"
    path = folder / f"latents-{name}{'' if mirror else '-plain'}.npy"
    if not path.is_file():
        log.info("encoding %d pictures into %s", len(pixels), path)
        side = pixels.shape[-1] // 2 ** (len(vae.config.block_out_channels) - 1)
        shape = (len(pixels), 1 + mirror, vae.config.latent_channels, side, side)
        with replacing(path) as written:
            array = np.lib.format.open_memmap(written, "w+", dtype=np.float16, shape=shape)
            for start in range(0, len(pixels), batch):
                rows = torch.arange(start, min(start + batch, len(pixels)))
                images = to_floats(rows_of(pixels, rows)).to(vae.device)
                for turned in range(1 + mirror):
                    mean = vae.encode(images.flip(-1) if turned else images).latent_dist.mean
                    array[start : start + len(rows), turned] = mean.half().cpu().numpy()
            array.flush()
            del array
    return np.load(path, mmap_mode="r", allow_pickle=False)
