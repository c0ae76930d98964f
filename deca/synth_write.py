"""Pictures of random people as files: what `python -m deca.synth` writes."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from assets.files import replacing
from deca import synth_scene as scene
from deca.codes import Codes
from deca.landmark_points import N_LANDMARKS
from deca.prompt_wish import STYLES
from deca.synth import SIDE, Shot, Studio, open_studio, shots
from deca.synth_degrade import sense
from deca.synth_parts import PARTS, indexed
from deca.synth_styles import stylize
from deca.synth_words import Attributes, caption
from flame.params import arkit_from_params

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Photo:
    """A shot as a camera took it: before a background, with the sensor's noise."""

    rgb: UInt8[np.ndarray, "H W 3"]
    jpeg_quality: int
    attributes: Attributes


def photograph(shot: Shot, rng: np.random.Generator) -> Photo:
    """The shot before a random background, through a random sensor."""
    below, background = scene.draw_background(len(shot.rgba), rng)
    alpha = shot.rgba[..., 3:].astype(np.float32) / 255
    mixed = shot.rgba[..., :3] * alpha + below.astype(np.float32) * (1 - alpha)
    # daylight mostly, now and then a dark room
    noise = float(0.004 * rng.random() ** 3)
    quality = int(rng.integers(55, 97))
    words = {**shot.attributes, "background": background, "noise": round(noise, 5)}
    if noise > 0.001:
        words["grain"] = "grainy"
    return Photo(sense(mixed / 255, noise, rng), quality, words)


def in_style(photo: Photo, style: str) -> Photo:
    """The photo drawn anew in one of STYLES, and said to be."""
    image = torch.from_numpy(photo.rgb.copy()).permute(2, 0, 1)[None].float() / 255
    drawn = (stylize(image, style)[0] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Photo(drawn.numpy(), photo.jpeg_quality, {**photo.attributes, "style": style})


def code_rows(codes: Codes) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Everything in the codes of one portrait, by name, without the batch axis.

    `arkit` holds the weights that expression, jaw and eyes stand for.
    """
    params, camera = codes.params, codes.camera
    values = {name: getattr(params, name) for name in type(params).__dataclass_fields__}
    values |= {name: getattr(camera, name) for name in type(camera).__dataclass_fields__}
    values |= {"albedo": codes.albedo, "light": codes.light, "arkit": arkit_from_params(params)}
    return {name: value[0].numpy() for name, value in values.items()}


def write_people(
    studio: Studio, count: int, folder: Path, *, seed: int, style: str = "realistic"
) -> None:
    """JPEG pictures with all that is known of them, in a style of STYLES or in "mixed" ones.

    NUMBER.jpg and parts/NUMBER.png (indices into `parts` of labels.npz); labels.npz (points in
    pixels), codes.npz (a row a picture, as in deca.codes.Codes) and people.jsonl (attributes,
    caption).
    """
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    styles = np.random.default_rng((seed, 1))  # of its own, so that pictures stay as they were
    points, codes, lines = [], [], []
    for number, shot in enumerate(shots(studio, count, seed=seed)):
        photo = photograph(shot, rng)
        chosen = str(styles.choice(STYLES)) if style == "mixed" else style
        if chosen != "realistic":
            photo = in_style(photo, chosen)
        name = f"{number:06d}.jpg"
        with replacing(folder / name) as written:
            Image.fromarray(photo.rgb).save(written, "JPEG", quality=photo.jpeg_quality)
        with replacing(folder / "parts" / f"{number:06d}.png") as written:
            indexed(shot.parts).save(written, "PNG")
        points.append(shot.points.numpy())
        codes.append(code_rows(shot.codes))
        record = {"file": name, "jpeg quality": photo.jpeg_quality, **photo.attributes}
        lines.append(json.dumps({**record, "caption": caption(photo.attributes)}))
    with replacing(folder / "codes.npz") as written:
        rows = {name: np.stack([row[name] for row in codes]) for name in codes[0]}
        np.savez_compressed(written, allow_pickle=False, **rows)
    with replacing(folder / "labels.npz") as written:
        np.savez_compressed(
            written,
            points=np.stack(points),
            corners=studio.points.corners.numpy(),
            bary=studio.points.bary.numpy(),
            n_landmarks=N_LANDMARKS,
            parts=np.array(PARTS),
        )
    with replacing(folder / "people.jsonl") as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deca.synth", description="Write pictures of random people with labels."
    )
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help="pixels a side")
    parser.add_argument("--style", choices=[*STYLES, "mixed"], default="realistic")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.count < 1:
        parser.error(f"--count is {options.count}; give 1 or more")
    studio = open_studio(options.side)
    write_people(studio, options.count, options.out, seed=options.seed, style=options.style)
