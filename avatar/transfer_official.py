"""Expression transfer with published encoders: onto a photo's FLAME head, or onto any of ours."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.image import read_image, write_image
from avatar.face_models import FaceReading, open_model
from avatar.looks import TextureWishes
from avatar.official_models import OfficialModel
from avatar.progress import Progress
from avatar.reconstruct import ReconstructSettings
from avatar.reconstruct_files import write_npz
from avatar.reconstruct_looks import FacePictures, looks_of, write_outputs
from avatar.transfer_source import Source, source_kind, still_motion
from flame.arkit_bridge import OfficialParams, arkit_bridge
from flame.params import Params, params_from_arkit

if TYPE_CHECKING:
    from avatar.transfer import TransferSettings

log = logging.getLogger(__name__)

STEM = "transfer"  # of the files that are written for the head with the new expression
ALWAYS = frozenset({"obj", "glb"})


class PublishedReader:
    """A published model, loaded when the first photo is read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model: OfficialModel | None = None

    @property
    def model(self) -> OfficialModel:
        """The model; AssetError where one of its files is missing."""
        if self._model is None:
            found = open_model(self.name)
            assert isinstance(found, OfficialModel)
            self._model = found
        return self._model

    def read(self, path: Path) -> tuple[Float[Tensor, "1 3 H W"], FaceReading]:
        """A photo and its largest face."""
        kind = source_kind(path)
        if kind != "photo":
            raise AssetError(
                f"{path} is no photo, and {self.name} reads photos only; leave --model out, or "
                "give a photo"
            )
        image = read_image(path)
        try:
            return image, self.model.read(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def source(self, path: Path) -> Source:
        """The expression of a photo as ARKit weights, which any of our heads can perform."""
        image, reading = self.read(path)
        shown = FacePictures(looks_of(self.model, reading, image, TextureWishes()), 512).input
        motion = still_motion(self._as_ours(reading), reading.crop.matrix)
        return Source(motion, "photo", shown, torch.zeros(1, 1))

    def _as_ours(self, reading: FaceReading) -> Params:
        """Our head's parameters of the expression that is nearest to FLAME's, with its pose."""
        bridge = arkit_bridge(self.model.official_flame)
        lids = reading.codes["eyelids"][None]
        weights = bridge.arkit_from_params(OfficialParams(reading.params, lids))
        params = params_from_arkit(torch.zeros(1, 1), weights)
        params.root.copy_(reading.params.root)
        return params


def transfer_published(
    source: Path,
    onto: Path,
    reader: PublishedReader,
    out: Path,
    settings: TransferSettings,
    progress: Progress,
) -> list[Path]:
    """The face of the photo `onto` with the expression of the photo `source`, on FLAME.

    Shape, skin, light and head pose are those of `onto`, its wrinkles are made anew for the
    expression. Writes animation.jpg, transfer.npz, an OBJ and a GLB, and what `settings.save` asks
    for, as `avatar reconstruct` does.
    """
    wanted = ReconstructSettings(
        model=reader.name,
        save=settings.save | ALWAYS,
        use_tex=settings.use_tex,
        extract_tex=settings.extract_tex,
        size=settings.size,
    )
    with progress.stage(f"read {source.name}"):
        image, expression = reader.read(source)
    with progress.stage(f"read {onto.name}"):
        picture, identity = reader.read(onto)
    found = reader.model.wearing(identity, expression, settings.gains.jaw)
    out.mkdir(parents=True, exist_ok=True)
    files = [write_npz(found, out / f"{STEM}.npz", reader.model.name)]
    with progress.stage("write the head"):
        written, notes = write_outputs(reader.model, found, picture, out, STEM, wanted)
    for note in notes:
        progress.warn(note)
    with progress.stage("draw animation.jpg"):
        sheet = _sheet(reader.model, (image, expression), (picture, found), settings)
        write_image(out / "animation.jpg", sheet, ai_generated=True)
    return [*files, *written, out / "animation.jpg"]


def _sheet(
    model: OfficialModel,
    source: tuple[Tensor, FaceReading],
    worn: tuple[Tensor, FaceReading],
    settings: TransferSettings,
) -> Float[Tensor, "1 3 H W"]:
    """Person, expression, its shape, and the person with it: shape, and detail where there is."""
    from avatar.sheet import Panel, SheetConfig, lay_out

    wishes = TextureWishes(settings.use_tex, settings.extract_tex)
    faces = [
        FacePictures(looks_of(model, reading, image, wishes), settings.size)
        for image, reading in (source, worn)
    ]
    named = [
        ("Person", faces[1].input),
        ("Expression", faces[0].input),
        ("Its shape", _on_black(faces[0].shape)),
        ("Transferred", _on_black(faces[1].shape)),
    ]
    if faces[1].detail is not None:
        named.append(("Detail", _on_black(faces[1].detail)))
    named.append(("Rendered", faces[1].rendered))
    size, gap = settings.size, 12
    config = SheetConfig(
        width=len(named) * (size + gap) + gap, margin=gap, gap=gap, caption=max(12, size // 20),
        corner=6,
    )  # fmt: skip
    panels = []
    for name, picture in named:
        pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)
        panels.append(Panel(pixels.permute(1, 2, 0).contiguous().numpy(), name))
    sheet = lay_out([panels], config, footer="AI-generated")
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255


def _on_black(picture: Float[Tensor, "1 4 H W"]) -> Float[Tensor, "1 3 H W"]:
    return picture[:, :3] * picture[:, 3:]
