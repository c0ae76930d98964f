"""The one way in which a generated picture reaches the disk: marked, and saying how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from assets.files import replacing
from assets.image import is_marked_ai
from diffusion.mark import SMALLEST, mark
from diffusion.metadata import texts
from diffusion.recipe import Recipe

_SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED = f"{_SOURCES}trainedAlgorithmicMedia"
COMPOSITE = f"{_SOURCES}compositeWithTrainedAlgorithmicMedia"  # parts are of a given picture
_COMPOSITES = ("inpaint", "outpaint", "restore")
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def write_picture(
    path: Path,
    picture: Float[Tensor, "1 3 H W"],
    recipe: Recipe,
    *,
    index: int = 0,
    quality: int = 92,
) -> Path:
    """Write a generated picture as PNG or JPEG, with the invisible mark and its recipe; the path.

    `index` is the picture's place in the recipe's batch. Every picture also names its kind of
    source in XMP, as the IPTC asks. One under 96 pixels a side is too small for the invisible mark.
    """
    path = Path(path)
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} must end in .png, .jpg or .jpeg, so that its format is known")
    if not bool(torch.isfinite(picture).all()):
        raise ValueError(f"the picture for {path} contains NaN; use float32 or another model")
    large = min(picture.shape[-2:]) >= SMALLEST
    marked = mark(picture.detach().float().cpu()) if large else picture.detach().float().cpu()
    texels = (marked[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.ascontiguousarray(texels))
    named = texts(recipe, index)
    xmp = _xmp(COMPOSITE if recipe.kind in _COMPOSITES else GENERATED)
    with replacing(path) as written:
        if kind == "PNG":
            chunks = PngInfo()
            for key, value in named.items():
                chunks.add_text(key, value)
            chunks.add_itxt("XML:com.adobe.xmp", xmp)
            image.save(written, "PNG", pnginfo=chunks)
        else:
            comment = json.dumps(named, ensure_ascii=True).encode()
            if len(comment) > 65_000:  # one segment of a JPEG holds no more
                raise ValueError(f"the recipe is too long for the JPEG {path}; write a .png")
            image.save(written, "JPEG", quality=quality, comment=comment, xmp=xmp.encode())
    return path


def says_generated(path: Path) -> bool:
    """Whether a file's metadata name a trained model as the picture's source."""
    return is_marked_ai(path)


def _xmp(source: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{source}</Iptc4xmpExt:DigitalSourceType>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )
