"""Train DECA's stages without labels, on folders of photos or video frames, for any head model.

`coarse` trains the encoder, `detail` the wrinkles on top of one. A folder of pictures is a subject.
Stopped runs go on from their last checkpoint. With `accelerate launch -m deca.train coarse ...` a
run takes several devices.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from assets.errors import AssetError
from assets.files import replacing
from assets.image import write_image
from assets.store import shipped
from deca.landmarks import SHIPPED_LANDMARKS, load_landmark_net
from deca.photo_faces import Face
from deca.photo_folder import (
    CropDraw,
    PhotoBatch,
    PhotoSet,
    labeller_name,
    landmark_labeller,
    open_photos,
    pictures_in,
)
from deca.photo_identity import open_identity
from deca.photo_open import open_face, open_look, open_maps
from deca.photo_preview import preview_sheet
from deca.photo_settings import PhotoTraining, defaults, read_photo_settings
from deca.photo_stages import CoarseStage, DetailStage
from deca.training import ahead, has_checkpoint, resume, save_checkpoint

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

_PREVIEWED = 4  # photos on a sheet


@dataclass(frozen=True)
class RunPlaces:
    """Where a run keeps its files; `export` None is inside the run's folder."""

    folder: Path
    export: Path | None = None


def train(
    stage: CoarseStage | DetailStage,
    photos: PhotoSet,
    places: RunPlaces,
    config: PhotoTraining,
    accelerator: Accelerator,
    metadata: Mapping[str, str],
    *,
    minutes: float | None = None,
) -> int:
    """Train until `config.steps`, or until `minutes` of this run are over; returns the step.

    Writes `loss.csv`, `preview-STEP.jpg` and `checkpoint.safetensors` into the run's folder and the
    networks, as their loaders open them, into its `export`.
    """
    face, detail = stage.face, stage if isinstance(stage, DetailStage) else None
    face.to(accelerator.device)
    stage.to(accelerator.device)
    net, parameters = _trained(face, config, detail)
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    folder, checkpoint = places.folder, places.folder / "checkpoint.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    step, spent = 0, 0.0
    if has_checkpoint(checkpoint):
        step, spent = resume(checkpoint, net, None, optimizer, None)
        _cut_log(folder / "loss.csv", step)
        log.info("going on from step %d", step)
    prepared = accelerator.prepare_optimizer(optimizer)
    # each process has steps of its own, so that no photo is seen twice
    places_in_step = _Numbers(step, accelerator.num_processes, accelerator.process_index)

    def make() -> tuple[int, PhotoBatch]:
        number = places_in_step.next()
        return number, photos.batch(number, config.subjects, config.pictures)

    shown = photos.batch(0, min(_PREVIEWED, len(photos.subjects)), 1).to(accelerator.device)
    started, first = time.monotonic() - spent, step
    began = time.monotonic()
    batches = ahead(make)
    try:
        while step < config.steps:
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            number, batch = next(batches)
            generator = torch.Generator().manual_seed(config.seed * 15_485_863 + number)
            terms = stage.terms(
                batch.to(accelerator.device),
                config.pictures,
                accelerator.autocast,
                generator=generator,
            )
            loss = torch.stack(list(terms.values())).sum()
            terms = {name: value.detach() for name, value in terms.items()}
            if not bool(torch.isfinite(loss)):
                raise ValueError(
                    f"the loss of step {step + 1} is not finite "
                    f"({', '.join(f'{k} {float(v):.3g}' for k, v in terms.items())}); lower "
                    "learning_rate and go on from the last checkpoint"
                )
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            prepared.zero_grad()
            accelerator.backward(loss)
            if accelerator.num_processes > 1:
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter.grad = accelerator.reduce(parameter.grad, "mean")
            norm = nn.utils.clip_grad_norm_(parameters, config.clip)
            prepared.step()
            step += 1
            if not accelerator.is_main_process:
                continue
            elapsed = time.monotonic() - started
            if step % config.log_every == 0 or step == 1:
                figures = {"loss": loss.detach(), **terms, "gradient": norm}
                _log_row(folder / "loss.csv", step, figures, config.rate(step - 1), elapsed)
                speed = (step - first) * len(batch.images) / (time.monotonic() - began)
                text = ", ".join(f"{k} {float(v):.4f}" for k, v in figures.items())
                log.info("step %d %s, %.1f img/s", step, text, speed)
            if step % config.preview_every == 0 or step == config.steps:
                _preview(folder / f"preview-{step:07d}.jpg", stage, shown, config)
            if step % config.save_every == 0 and step < config.steps:
                save_checkpoint(checkpoint, net, None, optimizer, step, elapsed, None)
                _export(face, places, metadata, step, detail is not None)
    finally:
        batches.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        elapsed = time.monotonic() - started
        save_checkpoint(checkpoint, net, None, optimizer, step, elapsed, None)
        _export(face, places, metadata, step, detail is not None)
    return step


class _Numbers:
    """The numbers of the batches that one of several processes makes."""

    def __init__(self, step: int, processes: int, own: int) -> None:
        self._next, self._by = step * processes + own, processes

    def next(self) -> int:
        number = self._next
        self._next += self._by
        return number


def _trained(
    face: Face, config: PhotoTraining, detail: DetailStage | None
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The module of a stage and what is trained of it; everything else stands still."""
    norms = config.norms == "trained"
    if detail is None:
        parameters = face.parameters()
        face.train(norms)
        return face.net, parameters
    face.net.requires_grad_(False)
    face.train(False)
    face.detail.train(norms)
    return face.detail, list(face.detail.requires_grad_(True).parameters())


def _preview(
    path: Path, stage: CoarseStage | DetailStage, shown: PhotoBatch, config: PhotoTraining
) -> None:
    face, detail = stage.face, stage if isinstance(stage, DetailStage) else None
    face.train(False)
    face.detail.eval()
    write_image(path, preview_sheet(face, shown, detail).cpu())
    _trained(face, config, detail)


def _export(
    face: Face, places: RunPlaces, metadata: Mapping[str, str], step: int, detail: bool
) -> None:
    folder = places.export or places.folder / "export"
    folder.mkdir(parents=True, exist_ok=True)
    face.save(folder, {**metadata, "steps": str(step)}, detail=detail)


def _log_row(
    path: Path, step: int, figures: Mapping[str, torch.Tensor], rate: float, seconds: float
) -> None:
    fresh = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", *figures, "rate", "seconds"])
        values = [f"{float(value):.6g}" for value in figures.values()]
        writer.writerow([step, *values, f"{rate:.3g}", f"{seconds:.1f}"])


def _cut_log(path: Path, step: int) -> None:
    """Take away the rows of steps that are about to be made again."""
    if not path.is_file():
        return
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    with replacing(path) as written, open(written, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *(row for row in rows if int(row[0]) <= step)])


def _same_run(folder: Path, stage: str, face: str, config: PhotoTraining) -> None:
    """Write what the run is, or raise AssetError if the folder holds another one."""
    path = folder / "run.json"
    record = {"stage": stage, "face": face, "settings": asdict(config)}
    if path.is_file() and has_checkpoint(folder / "checkpoint.safetensors"):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise AssetError(f"{path} is damaged ({error}); give another --run") from error
        if (before.get("stage"), before.get("face")) != (stage, face):
            raise AssetError(
                f"{folder} holds a run of {before.get('stage')} for {before.get('face')}, not of "
                f"{stage} for {face}; give another --run"
            )
    with replacing(path) as written:
        written.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m deca.train coarse` and `detail`."""
    parser.add_argument("--photos", type=Path, required=True, help="a folder of folders of photos")
    parser.add_argument("--run", type=Path, help="checkpoints, log, previews; out/STAGE by default")
    parser.add_argument("--settings", type=Path, help="TOML file of training settings")
    parser.add_argument(
        "--head", default="shipped", help="shipped, flame (the one placed), or a model's file"
    )
    parser.add_argument("--start", type=Path, help="the encoder to go on from, and its detail")
    parser.add_argument("--fresh", action="store_true", help="begin with an untrained encoder")
    parser.add_argument("--texture", type=Path, help="FLAME's texture space; by default as placed")
    parser.add_argument("--skin", type=Path, help="skin model of another head than the shipped one")
    parser.add_argument("--points", type=Path, help="landmark network; the shipped one by default")
    parser.add_argument("--masks", type=Path, help="pictures of skin, in the photos' layout")
    parser.add_argument("--cache", type=Path, help="where found landmarks are kept")
    parser.add_argument("--identity", help="auto, off, or VGGFace2's or MICA's file")
    parser.add_argument("--look", default="auto", help="auto, or VGG-19's file (detail)")
    parser.add_argument("--pretrain", action="store_true", help="points and priors only (coarse)")
    for name in ("steps", "subjects", "pictures", "seed"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--precision", choices=("no", "bf16"))
    parser.add_argument("--minutes", type=float, help="stop in time, whatever the step")
    parser.add_argument("--threads", type=int, help="of the processor, for each part of the work")
    parser.add_argument("--cpu", action="store_true", help="leave accelerators alone")
    parser.add_argument("--export", type=Path, help="folder of the networks; RUN/export by default")


def settings_of(options: argparse.Namespace) -> PhotoTraining:
    """The stage's defaults, changed by the settings file and then by options."""
    if options.pretrain and options.stage != "coarse":
        raise ValueError("--pretrain is for the coarse stage; leave it out")
    config = defaults(options.stage, pretrain=options.pretrain)
    if options.settings is not None:
        config = read_photo_settings(options.settings, config)
    names = ("steps", "subjects", "pictures", "seed", "learning_rate", "precision", "identity")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return config.changed(given)


def run(options: argparse.Namespace) -> None:
    """Find landmarks, open the head and its networks, train, export."""
    from accelerate import Accelerator

    if options.threads:
        torch.set_num_threads(options.threads)
    config = settings_of(options)
    pictures_in(options.photos)  # before anything that takes time
    detail = options.stage == "detail"
    folder = options.run or Path("out") / options.stage
    accelerator = Accelerator(mixed_precision=config.precision, cpu=options.cpu)
    generator = torch.Generator().manual_seed(config.seed)
    face, started = open_face(options, pixels=config.pixels, generator=generator)
    points = options.points or shipped(SHIPPED_LANDMARKS)
    net = load_landmark_net(path=points)
    with accelerator.main_process_first():
        found = open_photos(
            options.photos,
            landmark_labeller(net),
            labeller_name=labeller_name(points),
            cache=options.cache,
            masks=options.masks,
            skipped=folder / "skipped.csv",
        )
    draw = CropDraw(face.side, face.upright, config.scale or face.scale)
    photos = PhotoSet(found, draw, seed=config.seed)
    log.info("%d photos of %d subjects", len(found), len(photos.subjects))
    if config.consistency:
        photos.require_pairs(options.photos)
    if config.norms == "auto":
        config = config.changed({"norms": "still" if started and not detail else "trained"})
    metadata = {"trained by": f"deca.train {options.stage}", "photos": str(len(found))}
    stage: CoarseStage | DetailStage
    if detail:
        look = open_look(options.look, net)
        stage = DetailStage(
            face, config.detail, look, open_maps(face), consistency=config.consistency
        )
        metadata |= {"perceptual loss": look.name}
    else:
        identity = open_identity(config.identity) if config.pixels else None
        stage = CoarseStage(
            face,
            config.coarse,
            identity,
            pixels=config.pixels,
            consistency=config.consistency,
        )
        metadata |= {"identity loss": "off" if identity is None else identity.name}
        metadata |= {"photometric loss": "on" if config.pixels else "off"}
    if accelerator.is_main_process:
        _same_run(folder, options.stage, face.name, config)
    places = RunPlaces(folder, options.export)
    last = train(stage, photos, places, config, accelerator, metadata, minutes=options.minutes)
    log.info("step %d; networks are in %s", last, places.export or folder / "export")
