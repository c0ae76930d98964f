"""`create`: from a photo to an avatar's folder, stage by stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from assets.errors import AssetError
from assets.files import sha256_of
from assets.image import write_image
from assets.store import shipped_model
from avatar.bundle import Avatar, Manifest, ModelUse
from avatar.config import CreateSettings
from avatar.progress import Progress
from deca.portrait import Portrait

if TYPE_CHECKING:
    from avatar.motion import Motion
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
    photo: Path,
    *,
    out: Path,
    say: str | None = None,
    audio: Path | None = None,
    settings: CreateSettings | None = None,
    progress: Progress | None = None,
) -> Avatar:
    """Make an avatar of a photo in the folder `out`; with `say` or `audio` it speaks.

    Writes portrait.png, head.glb, head.obj/.mtl/.png, preview.png, avatar.json; and for speech
    speech.wav, talk.glb, talk.mp4. Raises AssetError for files and ValueError for settings, and
    where no single face is found.
    """
    settings = settings or CreateSettings()
    progress = progress or Progress()
    generator = torch.Generator().manual_seed(settings.seed)
    if say is not None and audio is not None:
        raise ValueError("say and audio were both given; an avatar speaks one of them")
    with progress.stage("read the portrait"):
        portrait = Portrait.read(photo)
        points68 = None if settings.landmarks is None else read_points68(settings.landmarks)
    # what is asked to be said is checked before minutes are spent on the head
    speech = None
    if say is not None or audio is not None:
        with progress.stage("speech"):
            speech = _speech(say, audio, generator)
        if audio is not None:
            progress.warn("lips follow the sounds heard in the recording: there was no text")
        elif speech.engine != "hibari":
            progress.warn(f"spoken by {speech.engine}; the neural English voice was not usable")
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
        found = reconstruct(portrait, located, flame, outfit)
    with progress.stage("dress the head"):
        head, materials = _dressed(found, flame, outfit, settings, generator)
    inputs = {"photo": portrait.sha256}
    inputs |= {} if audio is None else {"audio": sha256_of(audio)}
    inputs |= {} if settings.landmarks is None else {"landmarks": sha256_of(settings.landmarks)}
    manifest = Manifest(
        inputs=inputs, seeds={"create": settings.seed}, models=_models(found, speech)
    )
    avatar = Avatar(head, materials, _named(found), manifest)
    out.mkdir(parents=True, exist_ok=True)
    paths = _write_still(avatar, portrait, found, flame, out, progress)
    if speech is not None:
        paths += _write_talk(avatar, speech, settings, generator, out, progress)
    manifest = dataclasses.replace(
        manifest, stages=progress.stages, warnings=progress.warnings
    ).with_files(out, paths)
    avatar = dataclasses.replace(avatar, manifest=manifest)
    avatar.save(out)
    return avatar


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


def _speech(say: str | None, audio: Path | None, generator: torch.Generator) -> Speech:
    if say is not None:
        from voice.speak import speak

        return speak(say, generator=generator)
    from voice.align import recorded
    from voice.audio import Audio

    assert audio is not None
    return recorded(Audio.read(audio))


def _dressed(
    found: Reconstruction,
    flame: Flame,
    outfit: Outfit,
    settings: CreateSettings,
    generator: torch.Generator,
) -> tuple[Head, tuple[Material, ...]]:
    head = flame.head(found.codes.params.shape[0])
    style = found.hair.style if settings.hair == "auto" else settings.hair
    style = None if style == "none" else style
    color = found.hair.color
    if settings.hair_color is not None:
        digits = settings.hair_color.removeprefix("#")
        red, green, blue = (int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4))
        color = (red, green, blue)
    if style is not None:
        head = outfit.wear_hair(head, style)
    materials = outfit.materials(
        found.texture.base_color, found.iris, hair=style, hair_color=color, generator=generator
    )
    return head, materials


def _named(found: Reconstruction) -> dict[str, Tensor]:
    """The codes by name, as the bundle keeps them."""
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
        "landmarks2d": found.located.points,
        "landmark_error_px": found.point_error_px,
    }


def _models(found: Reconstruction, speech: Speech | None) -> tuple[ModelUse, ...]:
    import hashlib

    from voice.align import ALIGNED, HEARD

    used = []
    for name in ("head", "outfit", "landmarks", "encoder"):
        model = shipped_model(name)
        digest = hashlib.sha256("".join(model.files.values()).encode()).hexdigest()
        used.append(ModelUse(name, model.licence, digest, model.attribution))
    used.append(ModelUse(f"face detection: {found.located.detection.backend}", "", ""))
    if speech is not None and speech.engine:
        digest, attribution = "", ""
        if speech.engine in (HEARD, ALIGNED):
            model = shipped_model("phonemes")
            digest = hashlib.sha256("".join(model.files.values()).encode()).hexdigest()
            attribution = model.attribution
        used.append(ModelUse(f"speech: {speech.engine}", speech.licence, digest, attribution))
    return tuple(used)


def _write_still(
    avatar: Avatar,
    portrait: Portrait,
    found: Reconstruction,
    flame: Flame,
    out: Path,
    progress: Progress,
) -> list[Path]:
    from avatar.preview import fit_overlay, preview_sheet
    from flame.gltf import save_glb
    from flame.obj import save_obj

    with progress.stage("export GLB and OBJ"):
        write_image(out / "portrait.png", portrait.image)
        save_glb(avatar.head, avatar.materials, out / "head.glb", copyright_notice=COPYRIGHT)
        save_obj(avatar.head, avatar.materials, out / "head.obj")
    with progress.stage("preview"):
        view = found.located.closer(portrait.image, 512)
        with torch.no_grad():
            verts = flame(found.codes.params).verts
        faces = flame.topology.faces()
        overlay = fit_overlay(
            view.image, verts, faces, found.codes.camera, view.points(found.located.points)
        )
        sheet = preview_sheet(view.image, overlay, avatar.head, avatar.materials)
        write_image(out / "preview.png", sheet, ai_generated=True)
    names = ["portrait.png", "head.glb", "head.obj", "head.mtl", "preview.png"]
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
