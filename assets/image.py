"""Pictures on disk as tensors: photos of every common kind in, PNG and JPEG out."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing

log = logging.getLogger(__name__)

MAX_PIXELS = 64_000_000
MIN_SIDE = 64  # px; a face in less has no features to fit
# IPTC's word for pictures that a model made or changed; readers of metadata look for it.
AI_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)

# Named, because Pillow's other readers include ones that start programs (EPS: Ghostscript).
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{AI_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def read_image(path: Path, *, min_side: int = MIN_SIDE) -> Float[Tensor, "1 3 H W"]:
    """A photo as its viewer sees it: upright, in sRGB, transparent parts over white.

    Takes grey, palette, 16-bit, CMYK and wide-gamut files, and the first frame of animations.
    Raises AssetError for what is no image, has a side under `min_side` or over 64 megapixels.
    """
    image = ImageOps.exif_transpose(_open(Path(path)))
    if min(image.size) < min_side:
        raise AssetError(
            f"{path} is {image.width}x{image.height} pixels, too small to work with; "
            f"give a picture of at least {min_side} pixels a side"
        )
    values = _to_rgba(_to_srgb(image), path)
    color, alpha = values[..., :3], values[..., 3:]
    over_white = color * alpha + (1 - alpha)
    return torch.from_numpy(over_white).permute(2, 0, 1)[None].contiguous()


def read_texture(path: Path) -> Float[Tensor, "C H W"]:
    """An image's 8-bit channels as they are stored, 1, 3 or 4 of them, scaled to 0..1."""
    image = _open(Path(path))
    if image.mode not in ("L", "RGB", "RGBA"):
        raise AssetError(
            f"{path} stores its pixels as {image.mode}; textures are 8-bit grey, RGB or RGBA"
        )
    values = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)
    return (values.permute(2, 0, 1).to(torch.float32) / 255).contiguous()


def write_image(
    path: Path,
    image: Float[Tensor, "1 C H W"],
    *,
    text: Mapping[str, str] | None = None,
    ai_generated: bool = False,
    quality: int = 92,
) -> None:
    """Write a PNG or JPEG, by the suffix of `path`; values are rounded to 8 bits.

    `text` is kept as named metadata that `read_text` gives back; `ai_generated` adds IPTC's mark.
    """
    path = Path(path)
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} must end in .png, .jpg or .jpeg, so that its format is known")
    channels = image.shape[1]
    if channels not in ((1, 3, 4) if kind == "PNG" else (1, 3)):
        raise ValueError(f"a {kind} of {channels} channels cannot be written; give 1 or 3")
    if not bool(torch.isfinite(image).all()):
        raise ValueError(f"the image for {path} contains NaN or infinity; nothing was written")
    texels = (image[0].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    array = texels.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    with replacing(path) as written:
        if kind == "PNG":
            chunks = PngInfo()
            for key, value in (text or {}).items():
                chunks.add_itxt(key, value)
            if ai_generated:
                chunks.add_itxt("XML:com.adobe.xmp", _XMP)
            picture.save(written, "PNG", pnginfo=chunks)
        else:
            # Two empty values are Pillow's "none".
            comment = json.dumps(dict(text), ensure_ascii=True).encode() if text else b""
            xmp = _XMP.encode() if ai_generated else b""
            picture.save(written, "JPEG", quality=quality, comment=comment, xmp=xmp)


def read_text(path: Path) -> dict[str, str]:
    """The named metadata that `write_image` stored; other programs' PNG text comes along."""
    image = _open(Path(path))
    if image.format == "JPEG":
        comment = image.info.get("comment", b"")
        try:
            stored = json.loads(comment) if comment.startswith(b"{") else {}
        except ValueError:  # another program's comment that happens to start with a brace
            stored = {}
        return {str(key): str(value) for key, value in stored.items()}
    return {
        key: str(value)
        for key, value in getattr(image, "text", {}).items()
        if key != "XML:com.adobe.xmp"
    }


def is_marked_ai(path: Path) -> bool:
    """Whether the image carries IPTC's mark of a trained model."""
    image = _open(Path(path))
    xmp = image.info.get("xmp", b"")
    return b"rainedAlgorithmicMedia" in (xmp if isinstance(xmp, bytes) else xmp.encode())


def to_8bit(image: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values that an 8-bit file gives back: clamped to 0..1, in steps of 1/255, float32."""
    return (image.detach().float().clamp(0, 1) * 255).round() / 255


def _open(path: Path) -> Image.Image:
    """The first frame, decoded; every way in which a file is not an image is one sentence."""
    if not path.is_file():
        raise AssetError(f"{path} is not there; give the path of a photo (JPEG, PNG, WebP, TIFF)")
    Image.init()  # Image.open does it too late when formats are named
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # odd metadata in a picture that opens
            if file.read(12)[4:] in (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypmif1"):
                raise AssetError(
                    f"{path} is a HEIC photo; export it as JPEG or PNG and give that file"
                )
            file.seek(0)
            image = Image.open(file, formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path, f"{image.width}x{image.height} pixels")
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "far more pixels than a photo") from error
    except UnidentifiedImageError as error:
        raise AssetError(
            f"{path} is not an image that can be read; give a JPEG, PNG, WebP or TIFF file"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AssetError(
            f"{path} is damaged ({error}); open it in an image program and save it again"
        ) from error
    return image


def _too_large(path: Path, size: str) -> AssetError:
    return AssetError(
        f"{path} has {size}, more than the {MAX_PIXELS // 1_000_000} megapixels that are read; "
        "scale it down first"
    )


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours of an embedded profile (phones write Display P3) as sRGB; without one, unchanged."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return image
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        opaque = image.convert("RGB") if image.mode == "RGBA" else image
        converted = ImageCms.profileToProfile(
            opaque, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError) as error:
        log.warning("%s: its colour profile cannot be used (%s); taken as sRGB", image, error)
        return image
    if converted is None:  # only when converting in place
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _to_rgba(image: Image.Image, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Float values 0..1 of shape H, W, 4."""
    grey: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    if image.mode.startswith("I"):
        # 16-bit files open as I or I;16
        grey = np.asarray(image).astype(np.float32) / np.float32(65535)
    elif image.mode == "F":
        grey = np.asarray(image).astype(np.float32)
    else:
        rgba = np.asarray(image.convert("RGBA")).astype(np.float32)
        return rgba / np.float32(255)
    if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
        raise AssetError(
            f"{path} holds grey values outside the range of a picture; save it with 8 or 16 bits"
        )
    return np.stack([grey, grey, grey, np.ones_like(grey)], axis=-1)
