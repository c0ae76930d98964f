"""An object's mesh and its files, from folders of masks and pictures and a file of cameras."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing
from assets.image import read_image, write_image
from avatar.camera_file import View, read_cameras, to_cameras
from avatar.progress import Progress
from avatar.sculpt_sheet import sculpt_sheet
from flame.mesh_files import save_mesh_glb, save_mesh_obj
from flame.pinhole import Pinhole
from flame.sculpt import SculptConfig, Sculpture, sculpt

FILES = ("mesh.obj", "mesh.glb", "report.json", "preview.png")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_POOR = 0.85  # an IoU below is worth a warning


@dataclass(frozen=True)
class SculptSettings:
    """How `sculpt_folder` reads and fits; the defaults are the command's."""

    size: int = 512  # px, longest side that is worked at; larger pictures are scaled down
    fit: SculptConfig = field(default_factory=SculptConfig)

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 2048:
            raise ValueError(f"size={self.size}; choose 32 to 2048 pixels")


@dataclass(frozen=True, eq=False)
class Views:
    """Everything that is known of the object before it is fitted."""

    names: tuple[str, ...]
    masks: Float[Tensor, "N 1 H W"]
    images: Float[Tensor, "N 3 H W"] | None
    cameras: Pinhole
    z_up: bool


def sculpt_folder(
    masks: Path,
    cameras: Path,
    *,
    images: Path | None = None,
    out: Path,
    settings: SculptSettings | None = None,
    progress: Progress | None = None,
) -> Sculpture:
    """The mesh of the object in the masks; mesh, report and preview are written to `out`.

    `avatar.camera_file` says what a camera file holds. Lengths are in the camera file's unit.
    """
    settings = settings or SculptSettings()
    progress = progress or Progress()
    with progress.stage("Reading the views"):
        views = read_views(masks, cameras, images, settings.size)
    with progress.stage("Fitting the mesh"):
        result = sculpt(
            views.masks, views.cameras, views.images, config=settings.fit, report=progress.step
        )
    for name, overlap in zip(views.names, result.iou.tolist(), strict=True):
        if overlap < _POOR:
            progress.warn(
                f"the mesh covers only {overlap:.0%} of {name}; check that mask and its camera"
            )
    with progress.stage("Writing"):
        _write(out, views, result, settings, progress)
    return result


def read_views(masks: Path, cameras: Path, images: Path | None, size: int) -> Views:
    """The masks, pictures and cameras that belong together, at most `size` pixels a side."""
    listed = read_cameras(cameras)
    for folder in (masks, images):
        if folder is not None and not folder.is_dir():
            raise AssetError(f"{folder} is not a folder; give the one that the pictures are in")
    if len(listed.views) < 2:
        raise AssetError(f"{cameras} has fewer than 2 views; a shape needs some, better 12")
    names = tuple(view.mask for view in listed.views)
    mask_paths = [_find(masks, view.mask, cameras) for view in listed.views]
    stack = _same_size([_read_mask(path) for path in mask_paths], mask_paths)
    _check_masks(stack, mask_paths)
    pictures = None
    if images is not None:
        paths = [_find(images, view.image, cameras) for view in listed.views]
        pictures = _same_size([read_image(path, min_side=1) for path in paths], paths)
        if pictures.shape[2:] != stack.shape[2:]:
            raise AssetError(
                f"the images are {_size_of(pictures)} pixels and the masks {_size_of(stack)}; "
                "make them the same"
            )
    _check_sizes(listed.views, stack, cameras)
    poses = to_cameras(list(listed.views), (stack.shape[2], stack.shape[3]))
    factor = size / max(stack.shape[2:])
    if factor < 1:
        stack, poses = _scaled(stack, poses, factor)
        pictures = None if pictures is None else F.interpolate(
            pictures, size=stack.shape[2:], mode="area"
        )  # fmt: skip
    return Views(names, stack, pictures, poses, listed.up == "z")


def _scaled(masks: Tensor, cameras: Pinhole, factor: float) -> tuple[Tensor, Pinhole]:
    height, width = (round(side * factor) for side in masks.shape[2:])
    ratio = masks.new_tensor([width / masks.shape[3], height / masks.shape[2]])
    smaller = Pinhole(
        cameras.world_to_camera, cameras.focal * ratio, cameras.centre * ratio, cameras.near
    )
    return F.interpolate(masks, size=(height, width), mode="area"), smaller


def _find(folder: Path, name: str, cameras: Path) -> Path:
    """The file of a name that may have folders before it and may lack its suffix."""
    last = Path(name.replace("\\", "/")).name
    exact = folder / last
    if exact.is_file():
        return exact
    # transforms.json often names r_0 for r_0.png; and a mask of a.jpg is likely a.png
    stems = (last, Path(last).stem)
    for stem in stems:
        for suffix in _SUFFIXES:
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    raise AssetError(f"{exact} is not there, but {cameras} has a camera for it; add the picture "
                     "or take the view out")  # fmt: skip


def _read_mask(path: Path) -> Float[Tensor, "1 1 H W"]:
    """A mask's alpha where it has transparent parts, else its brightness, 0..1."""
    picture = read_image(path, min_side=1)  # its errors say what is wrong with the file
    with Image.open(path) as image:
        if image.has_transparency_data:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"), dtype=np.float32) / 255
            if alpha.min() < 1:
                return torch.from_numpy(alpha)[None, None]
    return picture.mean(1, keepdim=True)


def _same_size(pictures: list[Tensor], paths: list[Path]) -> Tensor:
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape[2:] != pictures[0].shape[2:]:
            raise AssetError(
                f"{path} is {_size_of(picture)} pixels and {paths[0]} {_size_of(pictures[0])}; "
                "make all the same"
            )
    return torch.cat(pictures)


def _size_of(pictures: Tensor) -> str:
    return f"{pictures.shape[3]}x{pictures.shape[2]}"


def _check_masks(masks: Tensor, paths: list[Path]) -> None:
    solid = masks[:, 0] > 0.5
    border = torch.cat([solid[:, 0], solid[:, -1], solid[:, :, 0], solid[:, :, -1]], dim=1)
    mostly = border.float().mean(1) > 0.75
    for path, mask in zip(paths, solid, strict=True):
        if not bool(mask.any()):
            raise AssetError(f"{path} is empty: no pixel is white; mend it or take the view out")
        if bool(mask.all()):
            raise AssetError(f"{path} is white all over; the object must be white on black")
    if bool(mostly.float().mean() > 0.5):
        raise AssetError(
            f"the masks look inverted ({paths[0]} is white at its border); make the object white "
            "and the background black"
        )


def _check_sizes(views: tuple[View, ...], masks: Tensor, cameras: Path) -> None:
    for view in views:
        if view.full_size is not None:
            height, width = view.full_size
            if abs(width * masks.shape[2] - height * masks.shape[3]) > max(height, width):
                raise AssetError(
                    f"{cameras} says {view.mask} is {width}x{height} pixels, but the masks are "
                    f"{_size_of(masks)}; give masks of the same proportions"
                )


def _write(
    out: Path, views: Views, result: Sculpture, settings: SculptSettings, progress: Progress
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_mesh_obj(out / "mesh.obj", result.verts, result.faces, result.colours)
    save_mesh_glb(out / "mesh.glb", result.verts, result.faces, result.colours, z_up=views.z_up)
    sheet = sculpt_sheet(views.masks, views.images, views.cameras, result, z_up=views.z_up)
    write_image(out / "preview.png", sheet)
    report = _report(views, result, settings)
    report["seconds"] = {stage.name: round(stage.seconds, 2) for stage in progress.stages}
    report["warnings"] = list(progress.warnings)
    with replacing(out / "report.json") as written:
        written.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _report(views: Views, result: Sculpture, settings: SculptSettings) -> dict[str, Any]:
    return {
        "vertices": len(result.verts),
        "faces": len(result.faces),
        "pixels": [views.masks.shape[3], views.masks.shape[2]],
        "steps": settings.fit.steps,
        "mean_iou": round(float(result.iou.mean()), 5),
        "iou": dict(zip(views.names, _rounded(result.iou), strict=True)),
        "visual_hull_iou": dict(zip(views.names, _rounded(result.hull_iou), strict=True)),
        "losses": _rounded(result.losses),
    }


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]
