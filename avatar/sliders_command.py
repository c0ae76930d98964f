"""Heads by sliders: an identity from anywhere, moved, and written as OBJ, GLB, picture and JSON."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from assets.arrays import array_of
from assets.errors import AssetError
from assets.files import replacing
from assets.image import AI_SOURCE_TYPE, write_image
from avatar.bundle import FILE_NAME, Avatar
from avatar.clip import Stage
from avatar.face_models import SHIPPED
from avatar.pipeline import COPYRIGHT
from avatar.preview import VIEWS
from avatar.progress import Progress
from avatar.sheet import Panel, SheetConfig, lay_out
from flame.gltf import save_glb
from flame.head import JOINT_NAMES, Head
from flame.load import load_head
from flame.material import Material
from flame.model import Flame
from flame.obj import save_obj
from flame.outfit import load_outfit
from flame.sliders import Sliders, blend, random_identity, sliders

MEAN = "mean"
VALUES = "sliders.json"
_FORMAT = "prompt-to-avatar-sliders-1"
_NEIGHBOURS = 8  # vertices of the head that carry each of the hair


@dataclass(frozen=True)
class SliderSettings:
    """Where the identity comes from, at most one of three, and how far sliders are moved."""

    source: str | None = None  # an avatar's folder, .npz of a reconstruction, .json; None: the mean
    random_seed: int | None = None
    blend: tuple[str, str, float] | None = None  # two sources, and the share of the second
    amounts: Mapping[str, float] = field(default_factory=dict)  # standard deviations
    size: int = 512  # side of each picture, pixels

    def __post_init__(self) -> None:
        given = {
            "--from": self.source is not None,
            "--random": self.random_seed is not None,
            "--blend": self.blend is not None,
        }
        chosen = [name for name, used in given.items() if used]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} each give an identity; choose one of them")
        if not 64 <= self.size <= 2048:
            raise ValueError(f"size={self.size} is out of range; choose 64 to 2048 pixels")


@dataclass(frozen=True, eq=False)
class Identity:
    """Shape codes, and the avatar whose looks they came with."""

    shape: Float[Tensor, " S"]
    avatar: Avatar | None = None


def parse_amount(text: str) -> tuple[str, float]:
    """`nose width=1.5` as a name and a number."""
    name, equals, amount = text.rpartition("=")
    try:
        return " ".join(name.split()), float(amount if equals else "none")
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no slider and its amount; write such as 'nose width=1.5'"
        ) from error


def slider_lines(flame: Flame | None = None) -> list[str]:
    """One line a slider: its name, and what one standard deviation of it is."""
    moves = sliders(flame or load_head())
    wide = max(map(len, moves.names))
    return [
        f"{name:{wide}}  1 = {float(deviation):.2f} {unit}"
        for name, unit, deviation in zip(moves.names, moves.units, moves.deviations, strict=True)
    ]


@torch.no_grad()
def make_head(
    out: Path, settings: SliderSettings | None = None, *, progress: Progress | None = None
) -> list[Path]:
    """Write head.obj, head.glb, preview.png and sliders.json of an identity; returns the files.

    An avatar's looks are kept, hair included; other identities get average skin and brown eyes.
    """
    settings = settings or SliderSettings()
    progress = progress or Progress()
    with progress.stage("shape"):
        flame = load_head()
        moves = sliders(flame)
        start = _start(settings, flame)
        shape = moves.apply(start.shape[None], settings.amounts)[0]
    with progress.stage("dress"):
        head, materials = _dressed(flame, start, shape)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with progress.stage("export GLB and OBJ"):
        save_glb(head, materials, out / "head.glb", copyright_notice=COPYRIGHT)
        save_obj(head, materials, out / "head.obj")
    with progress.stage("preview"):
        write_image(
            out / "preview.png", _preview(head, materials, settings.size), ai_generated=True
        )
    with replacing(out / VALUES) as written:
        text = json.dumps(_values(settings, moves, shape), indent=2, allow_nan=False)
        written.write_text(text + "\n", encoding="utf-8")
    textures = sorted(path.name for path in out.glob("head*.png"))
    names = ["head.obj", "head.mtl", "head.glb", *textures, "preview.png", VALUES]
    return [out / name for name in names]


def read_identity(source: str, n_shape: int) -> Identity:
    """The identity of an avatar's folder, a reconstruction's .npz, our .json, or `mean`."""
    if source == MEAN:
        return Identity(torch.zeros(n_shape))
    path = Path(source)
    avatar = None
    if path.is_dir() or path.name == FILE_NAME:
        avatar = Avatar.load(path if path.is_dir() else path.parent)
        found: object = avatar.codes.get("shape")
    elif not path.is_file():
        raise AssetError(
            f"{path} is not there; give an avatar's folder, an .npz that `avatar reconstruct` "
            f"wrote, a {VALUES}, or '{MEAN}'"
        )
    elif path.suffix.lower() == ".json":
        found = _json_shape(path)
    else:
        model, found = _npz_shape(path)
        if model != SHIPPED:
            raise AssetError(
                f"{path} has the codes of {model!r}, and sliders move those of our own head; "
                "reconstruct the photo with the model 'shipped'"
            )
    array = found.numpy() if isinstance(found, Tensor) else array_of(found)
    shape = np.empty(0) if array is None else np.asarray(array).squeeze()
    if shape.shape != (n_shape,) or shape.dtype.kind != "f" or not np.isfinite(shape).all():
        raise AssetError(
            f"{path} has no `shape` of {n_shape} finite numbers, the codes of our head; give an "
            "avatar's folder or an .npz that `avatar reconstruct` wrote"
        )
    return Identity(torch.from_numpy(shape.astype(np.float32)), avatar)


def _npz_shape(path: Path) -> tuple[str, object]:
    """The name of the model whose codes a file holds, and its shape."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return str(stored.get("model", SHIPPED)), stored.get("shape")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise AssetError(
            f"{path} is no .npz of plain arrays ({error}); give one that `avatar reconstruct` wrote"
        ) from error


def _json_shape(path: Path) -> object:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path} is not JSON ({error}); give another file") from error
    if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
        raise AssetError(f"{path} is no file of sliders; give one that `avatar sliders` wrote")
    return np.array([value for value in stored["shape"] if isinstance(value, (int, float))], float)


def _start(settings: SliderSettings, flame: Flame) -> Identity:
    if settings.random_seed is not None:
        generator = torch.Generator().manual_seed(settings.random_seed)
        return Identity(random_identity(flame.n_shape, generator=generator))
    if settings.blend is not None:
        one, other, share = settings.blend
        first, second = (read_identity(source, flame.n_shape) for source in (one, other))
        return Identity(blend(first.shape, second.shape, share), first.avatar)
    return read_identity(settings.source or MEAN, flame.n_shape)


def _dressed(
    flame: Flame, start: Identity, shape: Float[Tensor, " S"]
) -> tuple[Head, tuple[Material, ...]]:
    head = flame.head(shape)
    if start.avatar is not None:
        before = flame.head(start.avatar.codes["shape"].reshape(-1).float())
        return _moved(start.avatar.head, before, head), start.avatar.materials
    outfit = load_outfit()
    skin = outfit.albedo.decode(torch.zeros(1, outfit.albedo.n_codes), 1024)[0]
    generator = torch.Generator().manual_seed(0)  # of the iris and its fibres
    return head, outfit.materials(skin, "brown", hair=None, generator=generator)


def _moved(worn: Head, before: Head, after: Head) -> Head:
    """An avatar's head with another identity; hair rides on the nearest vertices."""
    count = len(before.verts)
    if len(worn.verts) < count:
        raise AssetError(
            f"this avatar's head has {len(worn.verts)} vertices, those of this version have "
            f"{count}; make the avatar again with `avatar create`"
        )
    change = after.verts - before.verts
    hair = worn.verts[count:]
    if len(hair):
        way, near = cKDTree(before.verts.numpy()).query(hair.numpy(), k=_NEIGHBOURS)
        share = torch.from_numpy(1 / np.maximum(way, 1e-4)).to(change)
        share = share / share.sum(1, keepdim=True)
        carried = torch.einsum("hn,hnk->hk", share, change[torch.from_numpy(near)])
        change = torch.cat([change, carried])
    return dataclasses.replace(
        worn,
        verts=worn.verts + change,
        joints=worn.joints + after.joints - before.joints,
        morphs=torch.cat([after.morphs, worn.morphs[:, count:]], dim=1),
    )


def _preview(head: Head, materials: tuple[Material, ...], size: int) -> Float[Tensor, "1 3 H W"]:
    """Front, three-quarter and profile on one page."""
    stage = Stage(head, materials, size)
    verts = head.pose(torch.zeros(1, len(head.morph_names)), torch.zeros(1, len(JOINT_NAMES), 3))
    row = [Panel(stage.photograph(verts, yaw), name) for name, yaw in VIEWS.items()]
    config = SheetConfig(width=len(row) * size + (len(row) - 1) * 20 + 2 * 36)
    page = lay_out([row], config, footer="AI-generated")
    return torch.from_numpy(page).permute(2, 0, 1)[None].float() / 255


def _values(settings: SliderSettings, moves: Sliders, shape: Float[Tensor, " S"]) -> dict[str, Any]:
    measured = moves.measure(shape[None])
    return {
        "format": _FORMAT,
        "ai_generated": True,
        "digital_source_type": AI_SOURCE_TYPE,
        "from": settings.source,
        "random_seed": settings.random_seed,
        "blend": None if settings.blend is None else list(settings.blend),
        "sliders": dict(settings.amounts),
        "measures": {
            name: {"value": float(measured[name]), "unit": unit}
            for name, unit in zip(moves.names, moves.units, strict=True)
        },
        "shape": shape.tolist(),
    }
