"""What a transfer leaves behind: models, motion files, pictures and the preview video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assets.image import write_image
from avatar.clay import clay
from avatar.clip import Stage, make_clip
from avatar.livelink import save_csv
from avatar.motion import Motion
from avatar.motion_files import save_npz
from avatar.pipeline import COPYRIGHT, animation_of
from avatar.posed import posed_head
from avatar.progress import Progress
from avatar.sheet import Panel, SheetConfig, lay_out
from flame.gltf import save_glb
from flame.head import Head
from flame.material import Material
from flame.obj import save_obj
from voice.audio import Audio


@dataclass(frozen=True, eq=False)
class Performance:
    """A head at rest, and its vertices in an expression."""

    head: Head
    verts: Float[Tensor, "1 V 3"]


def write_still(
    head: Head,
    materials: Sequence[Material],
    moved: Motion,
    source: Performance,
    picture: Float[Tensor, "1 3 S S"] | None,
    out: Path,
    size: int,
    progress: Progress,
) -> list[Path]:
    """head.glb, head.obj, motion.npz, motion.csv and animation.jpg of one face.

    `source` is the source's own head in its own expression.
    """
    posed = posed_head(head, moved.weights, moved.rotations)
    with progress.stage("export GLB and OBJ"):
        save_glb(posed, materials, out / "head.glb", copyright_notice=COPYRIGHT)
        save_obj(posed, materials, out / "head.obj")
        save_npz(moved, out / "motion.npz")
        save_csv(moved, out / "motion.csv")
    with progress.stage("draw animation.jpg"):
        write_image(
            out / "animation.jpg",
            comparison(picture, source, Performance(head, posed.verts[None]), materials, size),
            ai_generated=True,
        )
    textures = sorted(path.name for path in out.glob("head*.png"))
    names = ["head.glb", "head.obj", "head.mtl", *textures, "motion.npz", "motion.csv"]
    return [out / name for name in (*names, "animation.jpg")]


def write_sequence(
    head: Head,
    materials: Sequence[Material],
    moved: Motion,
    audio: Audio,
    out: Path,
    size: int,
    fps: int,
    progress: Progress,
) -> list[Path]:
    """motion.npz, motion.csv, an animated head.glb, and animation.mp4 with the sound."""
    with progress.stage("export motion and GLB"):
        save_npz(moved, out / "motion.npz")
        save_csv(moved, out / "motion.csv")
        save_glb(
            head,
            materials,
            out / "head.glb",
            animation=replace(animation_of(moved, float(fps)), name="expression"),
            copyright_notice=COPYRIGHT,
        )
    with progress.stage("render animation.mp4"):
        clip = make_clip(
            head,
            materials,
            moved,
            audio,
            size=size,
            fps=fps,
            yaw_deg=0.0,
            progress=progress.step,
        )
        clip.save(out / "animation.mp4", title="Expression transfer")
    return [out / name for name in ("head.glb", "motion.npz", "motion.csv", "animation.mp4")]


@torch.no_grad()
def comparison(
    picture: Float[Tensor, "1 3 S S"] | None,
    source: Performance,
    target: Performance,
    materials: Sequence[Material],
    size: int,
) -> Float[Tensor, "1 3 H W"]:
    """Input, source shape and transferred head side by side; without a picture two of them."""
    count = 2 if picture is None else 3
    margin, gap = size // 14, size // 25
    width = count * size + (count - 1) * gap + 2 * margin
    config = SheetConfig(width, margin, gap, caption=max(8, size // 23), corner=size // 42)
    bare, grey = clay(source.head)
    panels = [
        Panel(photograph(bare, source.verts, grey, size), "Source shape"),
        Panel(photograph(target.head, target.verts, materials, size), "Transferred"),
    ]
    if picture is not None:
        pixels = (picture[0].clamp(0, 1) * 255).round().to(torch.uint8)
        panels.insert(0, Panel(pixels.permute(1, 2, 0).numpy(), "Input"))
    sheet = lay_out([panels], config, footer="AI-generated")
    return torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255


def photograph(
    head: Head, verts: Float[Tensor, "1 V 3"], materials: Sequence[Material], size: int
) -> UInt8[np.ndarray, "S S 3"]:
    """The head from the front with its vertices there, before the camera of its rest."""
    return Stage(head, materials, size, supersample=2).photograph(verts)
