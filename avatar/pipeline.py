"""`create`: from a photo to an avatar's folder, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import sha256_of
from assets.image import write_image
from avatar.bundle import Avatar, Manifest, ModelUse, shipped_use
from avatar.config import CreateSettings
from avatar.progress import Progress

if TYPE_CHECKING:
    from avatar.motion import Motion
    from avatar.source import Source
    from deca.portrait import Portrait
    from deca.reconstruct import Reconstruction
    from flame.gltf import Animation
    from flame.head import Head
    from flame.material import Material
    from flame.model import Flame
    from flame.outfit import Outfit
    from voice.speech import Speech

COPYRIGHT = (
    "Head model built from ICT-FaceKit, Copyright (c) 2020 USC Institute for Creative "
    "Technologies (MIT licence)"
)


def create(
    photo: Path | None = None,
    *,
    out: Path,
    more: Sequence[Path] = (),
    prompt: str | None = None,
    style: str | None = None,
    model: Path | str | None = None,
    say: str | None = None,
    audio: Path | None = None,
    sing: Path | None = None,
    settings: CreateSettings | None = None,
    progress: Progress | None = None,
) -> Avatar:
    """Make an avatar of a photo in the folder `out`; it speaks `say` or `audio`, or sings `sing`.

    In place of the photo, `prompt` says what the person looks like: this project's generator of
    people draws the portrait, or `model`, a diffusers pipeline. `style` ("oil painting") paints
    portrait and head.
    `more` are other photos of the same person, in any order: shape and skin are those of all.
    `sing` is a score or a sung take. Speech and song are in the voice that the settings name.
    Writes portrait.png (and portrait-plain.png where a style changed it), head.glb,
    head.obj/.mtl/.png, preview.png, avatar.json; and for speech speech.wav, talk.glb, talk.mp4.
    Raises AssetError for files and ValueError for settings, and
    where no single face is found.
    """
    settings = settings or CreateSettings()
    progress = progress or Progress()
    generator = torch.Generator().manual_seed(settings.seed)
    if sum(given is not None for given in (say, audio, sing)) > 1:
        raise ValueError("of say, audio and sing several were given; an avatar speaks one of them")
    speaks = say is not None or audio is not None or sing is not None
    if settings.voice is not None and not speaks:
        raise ValueError(
            f"the voice {settings.voice!r} has nothing to speak; give say, audio or sing too"
        )
    from avatar.source import matching_voice, source_of

    with progress.stage("read the portrait" if prompt is None else "draw the portrait"):
        source = source_of(
            photo, prompt, style=style, model=model, seed=settings.seed, progress=progress
        )
        portrait = source.portrait
        points68 = None if settings.landmarks is None else read_points68(settings.landmarks)
        others = other_photos(photo, more, settings)
    # what is asked to be said is checked before minutes are spent on the head
    speech, voiced = None, None
    if prompt is not None and say is not None and settings.voice is None:
        settings = dataclasses.replace(settings, voice=matching_voice(source.settled.gender))
    if speaks:
        from avatar.voicing import voiced_speech

        voiced = voiced_speech(
            say, audio, sing, settings.voicing(), generator=generator, progress=progress
        )
        speech = voiced.speech
    with progress.stage("load the models"):
        from deca.code_net import load_code_net
        from flame.load import load_head
        from flame.outfit import load_outfit

        flame, outfit, net = load_head(), load_outfit(), load_code_net()
    with progress.stage("find the face"):
        from deca.reconstruct import locate, reconstruct

        located = locate(portrait, flame, net, box=corners(settings.box), points68=points68)
        if not located.sure:
            progress.warn(
                "the landmark network is not sure of this face; check preview.png, or give "
                "--landmarks"
            )
    with progress.stage("fit shape, pose, light, skin"):
        if others:
            from deca.sequence_photos import gather, locate_all

            faces = [located, *locate_all(others, flame, net)]
            gathered = gather([portrait, *others], faces, flame, outfit)
            found = gathered.found
            for number in gathered.strangers:
                progress.warn(f"{[photo, *more][number]} may show somebody else; leave it out then")
        else:
            found = reconstruct(portrait, located, flame, outfit)
    with progress.stage("dress the head"):
        head, materials = dressed(found, flame, outfit, settings, generator, source)
    inputs = dict(source.inputs)
    inputs |= {f"photo {number}": other.sha256 for number, other in enumerate(others, start=2)}
    inputs |= {} if audio is None else {"audio": sha256_of(audio)}
    inputs |= {} if sing is None else {"sing": sha256_of(sing)}
    inputs |= {} if settings.landmarks is None else {"landmarks": sha256_of(settings.landmarks)}
    manifest = Manifest(
        inputs=inputs,
        seeds={"create": settings.seed},
        models=source.models + _models(found) + (() if voiced is None else voiced.models),
    )
    avatar = Avatar(head, materials, _named(found), manifest)
    out.mkdir(parents=True, exist_ok=True)
    told = source.told(prompt, settings.seed)
    paths = _write_still(avatar, source, told, found, flame, out, progress)
    if speech is not None:
        paths += _write_talk(avatar, speech, settings, generator, out, progress)
    manifest = dataclasses.replace(
        manifest, stages=progress.stages, warnings=progress.warnings
    ).with_files(out, paths)
    avatar = dataclasses.replace(avatar, manifest=manifest)
    avatar.save(out)
    return avatar


def other_photos(
    photo: Path | None, more: Sequence[Path], settings: CreateSettings
) -> list[Portrait]:
    """The photos beside the first; ValueErrors where they cannot be taken together."""
    from deca.portrait import Portrait
    from deca.sequence_photos import MOST_PHOTOS

    if not more:
        return []
    if photo is None:
        raise ValueError("more photos were given, but not the first; give a photo before them")
    if settings.box is not None or settings.landmarks is not None:
        raise ValueError(
            "a box or landmarks are of one photo, and several were given; crop each to one face"
        )
    if len(more) >= MOST_PHOTOS:
        raise ValueError(
            f"{1 + len(more)} photos are more than {MOST_PHOTOS}; choose the best {MOST_PHOTOS}"
        )
    return [Portrait.read(path) for path in more]


def corners(
    box: tuple[float, float, float, float] | None,
) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of a box given by its left, top, width and height, pixels."""
    if box is None:
        return None
    x, y, width, height = box
    return x, y, x + width, y + height


def read_points68(path: Path) -> Float[Tensor, "1 68 2"]:
    """68 iBUG points of a text file: x and y in pixels, one point a line."""
    try:
        points = np.loadtxt(path, delimiter=None, comments="#", dtype=np.float32)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise AssetError(
            f"{path} cannot be read as points ({error}); write x and y in pixels, one point a line"
        ) from error
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise AssetError(
            f"{path} holds an array of shape {points.shape}; give 68 lines of x and y in pixels"
        )
    return torch.from_numpy(points)[None]


def dressed(
    found: Reconstruction,
    flame: Flame,
    outfit: Outfit,
    settings: CreateSettings,
    generator: torch.Generator,
    source: Source,
) -> tuple[Head, tuple[Material, ...]]:
    """The head of a reconstruction with hair, skin and all else that it wears, and its style.

    What the source knows of the person goes before what is seen, and the settings before both.
    """
    known = source.settled
    if source.beard is not None:
        found = dataclasses.replace(found, texture=source.bearded(found.texture))
    head = flame.head(found.codes.params.shape[0])
    style = found.hair.style if settings.hair == "auto" else settings.hair
    if settings.hair == "auto" and known.hair is not None:
        style = known.hair
    style = None if style == "none" else style
    color: str | tuple[float, float, float] = known.hair_color or found.hair.color
    if settings.hair_color is not None:
        digits = settings.hair_color.removeprefix("#")
        red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
        color = (red, green, blue)
    if style is not None:
        head = outfit.wear_hair(head, style)
    materials = outfit.materials(
        found.texture.base_color,
        known.eyes or found.iris,
        hair=style,
        hair_color=color,
        shirt_color=source.shirt_color,
        generator=generator,
    )
    if known.glasses or known.hat:
        from deca.synth_worn import put_on

        marks = flame.landmarks68(head.verts[None, : len(flame.template)])[0]
        head, worn = put_on(head, marks, known)
        materials += worn
    if source.style != "realistic":
        from avatar.painted import painted, painted_skin

        skin = painted_skin(found, source.shown, source.style, flame, outfit)
        materials = painted(
            [dataclasses.replace(m, base_color=skin) if m.name == "skin" else m for m in materials],
            source.style,
        )
    return head, materials


def _named(found: Reconstruction) -> dict[str, Tensor]:
    """The codes by name, as the bundle keeps them."""
    from deca.encode import turn_in_picture

    codes = found.codes
    fields = {name: getattr(codes.params, name) for name in codes.params.__dataclass_fields__}
    return {
        **fields,
        "albedo": codes.albedo,
        "light": codes.light,
        "camera_scale": codes.camera.scale,
        "camera_shift": codes.camera.shift,
        "camera_fov_deg": codes.camera.fov_deg,
        "crop_from_image": found.located.crop.matrix,
        "rotation": turn_in_picture(codes.params, found.located.crop.matrix),
        "landmarks2d": found.located.points,
        "landmark_error_px": found.point_error_px,
    }


def _models(found: Reconstruction) -> tuple[ModelUse, ...]:
    used = [shipped_use(name) for name in ("head", "outfit", "landmarks", "encoder")]
    used.append(ModelUse(f"face detection: {found.located.detection.backend}", "", ""))
    return tuple(used)


def _write_still(
    avatar: Avatar,
    source: Source,
    told: dict[str, str],
    found: Reconstruction,
    flame: Flame,
    out: Path,
    progress: Progress,
) -> list[Path]:
    from avatar.preview import fit_overlay, preview_sheet, seen_square
    from flame.gltf import save_glb
    from flame.obj import save_obj

    with progress.stage("export GLB and OBJ"):
        made = "prompt" in told or source.style != "realistic"
        write_image(out / "portrait.png", source.shown, text=told, ai_generated=made)
        names = ["portrait.png", "head.glb", "head.obj", "head.mtl", "preview.png"]
        if source.shown is not source.portrait.image:
            write_image(out / "portrait-plain.png", source.portrait.image, ai_generated=made)
            names.append("portrait-plain.png")
        save_glb(avatar.head, avatar.materials, out / "head.glb", copyright_notice=COPYRIGHT)
        save_obj(avatar.head, avatar.materials, out / "head.obj")
    with progress.stage("preview"):
        view = found.located.closer(source.shown, 512)
        with torch.no_grad():
            verts = flame(found.codes.params).verts
        faces = flame.topology.faces()
        overlay = fit_overlay(
            view.image, verts, faces, found.codes.camera, view.points(found.located.points)
        )
        height, width = source.shown.shape[-2:]
        rows, columns = seen_square(view, (height, width))
        sheet = preview_sheet(
            view.image[..., rows, columns],
            overlay[..., rows, columns],
            avatar.head,
            avatar.materials,
            caption="Portrait" if made else "Photo",
        )
        write_image(out / "preview.png", sheet, ai_generated=True)
    textures = sorted(path.name for path in out.glob("head*.png"))
    return [out / name for name in (*names, *textures)]


def _write_talk(
    avatar: Avatar,
    speech: Speech,
    settings: CreateSettings,
    generator: torch.Generator,
    out: Path,
    progress: Progress,
) -> list[Path]:
    from avatar.clip import make_clip
    from avatar.motion import make_motion
    from flame.gltf import save_glb

    with progress.stage("motion"):
        motion = make_motion(speech, generator=generator)
        speech.audio.save(out / "speech.wav")
    with progress.stage("export talk.glb"):
        save_glb(
            avatar.head,
            avatar.materials,
            out / "talk.glb",
            animation=animation_of(motion),
            copyright_notice=COPYRIGHT,
        )
    with progress.stage("render talk.mp4"):
        clip = make_clip(
            avatar.head,
            avatar.materials,
            motion,
            speech.audio,
            size=settings.size,
            fps=settings.fps,
            progress=progress.step,
        )
        clip.save(out / "talk.mp4")
    return [out / name for name in ("speech.wav", "talk.glb", "talk.mp4")]


def animation_of(motion: Motion, rate_hz: float = 30.0) -> Animation:
    """The motion as a glTF clip, keyed `rate_hz` times a second."""
    from flame.gltf import Animation

    keys = motion.resampled(rate_hz)
    return Animation(keys.times_s(), keys.weights, keys.rotations)
