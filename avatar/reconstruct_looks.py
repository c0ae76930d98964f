"""What `avatar reconstruct --save` writes beside the arrays: pictures, points and meshes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import replacing, safe_name
from assets.image import write_image
from avatar.face_models import FaceModel, FaceReading, ShippedModel
from avatar.looks import Looks, TextureWishes
from avatar.reconstruct_files import write_mat
from avatar.sheet import Panel, SheetConfig, lay_out
from deca.crop import crop_square
from deca.official_surface import save_detail_obj
from deca.official_texture import visible_landmarks
from deca.pictures import (
    Framed,
    MeshView,
    depth_picture,
    landmark_picture,
    normal_picture,
    shape_picture,
    texture_picture,
)
from flame.gltf import save_glb
from flame.normals import vertex_normals
from flame.obj import save_obj
from flame.overlay import over

if TYPE_CHECKING:
    from avatar.reconstruct import ReconstructSettings

log = logging.getLogger(__name__)

OUTPUTS = {
    "vis": "a sheet: picture, landmarks, shape, detail, render, depth",
    "kpt": "landmarks as text: x y in the picture, and x y z visible",
    "depth": "nearness as a picture",
    "normal": "normals as a picture, and those of the texture",
    "albedo": "the model's texture without light",
    "shape": "the shape in grey",
    "detail": "the shape with wrinkles in grey, and their heights",
    "images": "the sheet's pictures one by one",
    "obj": "OBJ, MTL and PNG, and a dense _detail.obj",
    "glb": "a rigged GLB whose clip holds the expression",
    "mat": "everything of the NPZ for MATLAB",
}
_VIEW = 1.75  # side of the pictures in sides of the points' square
_LARGEST = 2400  # px of a whole picture that is drawn over


def write_outputs(
    model: FaceModel,
    reading: FaceReading,
    image: Float[Tensor, "1 3 H W"],
    out: Path,
    stem: str,
    settings: ReconstructSettings,
) -> tuple[list[Path], list[str]]:
    """Write what the settings ask for; returns the files, and what could not be done.

    The sheet is STEM_vis.jpg; all else lies in the folder STEM, as DECA's demo has it.
    """
    fine = settings.original_size or not settings.save.isdisjoint({"obj", "glb", "albedo"})
    wishes = TextureWishes(settings.use_tex, settings.extract_tex, 1024 if fine else 512)
    looks = looks_of(model, reading, image, wishes)
    face = FacePictures(looks, settings.size)
    writer = _Writer(looks, face, out, stem, model.name)
    wanted = [name for name in OUTPUTS if name in settings.save]
    for name in [*wanted, *(["original"] if settings.original_size else [])]:
        try:
            getattr(writer, name)()
        except (ValueError, AssetError, OSError, RuntimeError) as error:
            # the arrays are there: what cannot be drawn is told, and the rest written
            log.debug("%s of %s failed", name, stem, exc_info=True)
            looks.notes.append(f"{name} could not be written: {' '.join(str(error).split())}")
    return writer.files, looks.notes


def looks_of(
    model: FaceModel, reading: FaceReading, image: Float[Tensor, "1 3 H W"], wishes: TextureWishes
) -> Looks:
    """The looks that belong to a model."""
    if isinstance(model, ShippedModel):
        from avatar.shipped_looks import ShippedLooks

        return ShippedLooks(model, reading, image, wishes)
    from avatar.official_looks import OfficialLooks
    from avatar.official_models import OfficialModel

    assert isinstance(model, OfficialModel)
    return OfficialLooks(model, reading, image, wishes)


class FacePictures:
    """Square pictures round one face."""

    def __init__(self, looks: Looks, size: int) -> None:
        self.looks, self.size = looks, (size, size)
        reading = looks.reading
        low, high = reading.landmarks2d.amin(0), reading.landmarks2d.amax(0)
        side, middle = _VIEW * float((high - low).max()), (low + high) / 2
        crop = crop_square(looks.image, middle, side, size)
        self.input, self.frame_from_image = crop.image, crop.matrix
        self.camera = framed(reading, crop.matrix)

    @cached_property
    def view(self) -> MeshView:
        """The mesh in the picture."""
        return MeshView.of(self.looks.reading.posed, self.looks.faces, self.camera, self.size)

    @cached_property
    def shape(self) -> Float[Tensor, "1 4 H W"]:
        """Grey, with alpha."""
        return shape_picture(self.view)

    @cached_property
    def detail(self) -> Float[Tensor, "1 4 H W"] | None:
        """Grey with wrinkles, where there are any."""
        relief = self.looks.relief()
        return None if relief is None else shape_picture(self.view, relief)

    @cached_property
    def rendered(self) -> Float[Tensor, "1 3 H W"]:
        """The textured head over the picture."""
        drawn = self.looks.rendered(self.view, self.camera, self.size)
        return over(drawn, self.input)

    @cached_property
    def landmarks2d(self) -> Float[Tensor, "1 3 H W"]:
        """Points as they were seen in the picture."""
        turn, shift = self.frame_from_image[:2, :2], self.frame_from_image[:2, 2]
        points = self.looks.reading.landmarks2d @ turn.T + shift
        return landmark_picture(self.input, points[None])

    @cached_property
    def landmarks3d(self) -> Float[Tensor, "1 3 H W"]:
        """Points of the mesh; hidden ones are red."""
        points = self.looks.landmarks(self.looks.reading.posed)
        seen = self.camera.project(points, self.size)[..., :2]
        return landmark_picture(self.input, seen, visible_points(self.looks))

    @cached_property
    def depth(self) -> Float[Tensor, "1 3 H W"]:
        """Nearness as grey."""
        return depth_picture(self.view).expand(-1, 3, -1, -1)

    @cached_property
    def normal(self) -> Float[Tensor, "1 3 H W"]:
        """Normals as colours over black."""
        return _on_black(normal_picture(self.view))

    @cached_property
    def albedo(self) -> Float[Tensor, "1 3 H W"] | None:
        """The model's texture without light over black."""
        texels = self.looks.albedo()
        if texels is None:
            return None
        return _on_black(texture_picture(self.view, self.looks.over_texture(texels)))


def framed(reading: FaceReading, frame_from_image: Float[Tensor, "3 3"]) -> Framed:
    """The reading's camera in a frame of the picture."""
    matrix = frame_from_image @ reading.crop.matrix.inverse()
    return Framed(reading.camera, reading.crop.image.shape[-1], matrix)


def visible_points(looks: Looks) -> Bool[Tensor, "1 68"]:
    """Whether each of the 68 points faces the camera."""
    normals = vertex_normals(looks.reading.posed, looks.faces)
    at = torch.nn.functional.normalize(looks.landmarks(normals), dim=-1)
    return visible_landmarks(at)


def points3d(looks: Looks) -> Float[Tensor, "68 4"]:
    """x and y of the picture, z in its pixels (smaller is nearer, 0 their mean), visible or not."""
    reading = looks.reading
    camera = framed(reading, torch.eye(3))
    height, width = looks.image.shape[-2:]
    points = looks.landmarks(reading.posed)
    seen = camera.project(points, (height, width))[0]
    picture_px = float(reading.crop.image.shape[-1] / reading.crop.matrix[:2, 0].norm())
    px_per_metre = float(reading.camera.scale[0]) * picture_px / 2
    depth = (seen[:, 2] - seen[:, 2].mean()) * px_per_metre
    shown = visible_points(looks)[0].to(depth.dtype)
    return torch.cat([seen[:, :2], depth[:, None], shown[:, None]], dim=1)


class _Writer:
    """The files of one face, by the names of OUTPUTS."""

    def __init__(self, looks: Looks, face: FacePictures, out: Path, stem: str, model: str) -> None:
        self.looks, self.face, self.stem, self.model = looks, face, stem, model
        self.out, self.folder = out, out / stem
        self.files: list[Path] = []

    def vis(self) -> None:
        face = self.face
        panels = [("Input", face.input), ("Landmarks", face.landmarks2d)]
        panels += [("Landmarks of the mesh", face.landmarks3d), ("Shape", _on_black(face.shape))]
        if face.detail is not None:
            panels.append(("Detail", _on_black(face.detail)))
        panels += [("Rendered", face.rendered), ("Depth", face.depth)]
        gap = 12
        width = len(panels) * (face.size[0] + gap) + gap
        config = SheetConfig(
            width=width, margin=gap, gap=gap, caption=max(12, face.size[0] // 14), corner=6
        )
        sheet = lay_out([[Panel(_bytes(one), name) for name, one in panels]], config)
        picture = torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255
        self._picture("vis", picture, suffix=".jpg", folder=self.out)

    def kpt(self) -> None:
        flat = self.looks.reading.landmarks2d.numpy()
        for name, rows, form in (
            ("kpt2d", flat, "%.4f"),
            ("kpt3d", points3d(self.looks).numpy(), ["%.4f", "%.4f", "%.4f", "%d"]),
        ):
            path = self.folder / f"{self.stem}_{name}.txt"
            with replacing(path) as written:
                np.savetxt(written, rows, fmt=form)
            self.files.append(path)

    def depth(self) -> None:
        self._picture("depth", self.face.depth, suffix=".jpg")

    def normal(self) -> None:
        self._picture("normal_images", self.face.normal)

    def albedo(self) -> None:
        texels = self.looks.albedo()
        if texels is not None:
            self._picture("albedo", texels[None])

    def shape(self) -> None:
        self._picture("shape", self.face.shape)

    def detail(self) -> None:
        found, picture = self.looks.detail(), self.face.detail
        if found is None or picture is None:
            return
        self._picture("detail", picture)
        path = self.folder / f"{self.stem}_displacement.npy"
        with replacing(path) as written:
            np.save(written, found.displacement[0].numpy())
        self.files.append(path)

    def images(self) -> None:
        face = self.face
        named = {
            "inputs": face.input,
            "landmarks2d": face.landmarks2d,
            "landmarks3d": face.landmarks3d,
            "shape_images": _on_black(face.shape),
            "rendered_images": face.rendered,
        }
        if face.detail is not None:
            named["shape_detail_images"] = _on_black(face.detail)
        if face.albedo is not None:
            named["albedo_images"] = face.albedo
        for name, picture in named.items():
            self._picture(name, picture, suffix=".jpg")

    def obj(self) -> None:
        head, materials, _ = self.looks.exported()
        # programs read the names in an OBJ up to the first space
        stem = safe_name(self.stem)
        path = self.folder / f"{stem}.obj"
        save_obj(head, materials, path, self.looks.reading.vertices)
        mtl = path.with_suffix(".mtl")
        named = {line.split()[-1] for line in mtl.read_text(encoding="utf-8").splitlines() if line}
        textures = sorted(name for name in named if name.endswith(".png"))
        self.files += [path, mtl, *(self.folder / name for name in textures)]
        found = self.looks.detail()
        if found is not None:
            dense = self.folder / f"{stem}_detail.obj"
            save_detail_obj(found.mesh, dense)
            self.files.append(dense)
            self._picture("normals", found.normals / 2 + 0.5)

    def glb(self) -> None:
        head, materials, clip = self.looks.exported()
        path = self.folder / f"{self.stem}.glb"
        save_glb(head, materials, path, animation=clip)
        self.files.append(path)

    def mat(self) -> None:
        path = self.folder / f"{self.stem}.mat"
        self.files.append(write_mat(self.looks.reading, path, self.model))

    def original(self) -> None:
        """The shape, and the render, over the whole picture."""
        image = self.looks.image
        share = min(1.0, _LARGEST / max(image.shape[-2:]))
        if share < 1:
            image = torch.nn.functional.interpolate(
                image, scale_factor=share, mode="bilinear", antialias=True, align_corners=False
            )
        size = (image.shape[-2], image.shape[-1])
        matrix = torch.diag(
            torch.tensor(
                [size[1] / self.looks.image.shape[-1], size[0] / self.looks.image.shape[-2], 1.0]
            )
        )
        camera = framed(self.looks.reading, matrix)
        view = MeshView.of(self.looks.reading.posed, self.looks.faces, camera, size)
        relief = self.looks.relief()
        drawn: dict[str, Callable[[], Tensor]] = {
            "original_shape": lambda: shape_picture(view, relief),
            "original_rendered": lambda: self.looks.rendered(view, camera, size),
        }
        for name, draw in drawn.items():
            self._picture(name, over(draw(), image), suffix=".jpg")

    def _picture(
        self, name: str, picture: Tensor, *, suffix: str = ".png", folder: Path | None = None
    ) -> None:
        path = (folder or self.folder) / f"{self.stem}_{name}{suffix}"
        write_image(path, picture)
        self.files.append(path)


def _on_black(picture: Float[Tensor, "1 4 H W"]) -> Float[Tensor, "1 3 H W"]:
    return picture[:, :3] * picture[:, 3:]


def _bytes(picture: Float[Tensor, "1 3 H W"]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().numpy()
