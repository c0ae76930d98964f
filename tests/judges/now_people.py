"""People for the accuracy test: GLB heads at rest, shapes to set, and the truth they are judged by.

`python tests/judges/now_people.py --count 60 --out out/now` writes for each person NAME.glb (a
dressed head with ARKit shapes), NAME.json (shapes, turn, camera, light: read by now_render.py) and
NAME.npz (vertices at rest and with the expression). Identities come from seeds that no training
uses. Then `now_render.py` renders them with Blender's Cycles, and
`tests/benchmarks/bench_now.py` reconstructs and measures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from flame.arkit import ARKIT_NAMES
from flame.gltf import save_glb
from flame.hair_texture import HAIR_COLORS
from flame.load import load_head
from flame.outfit import load_outfit
from flame.params import Params, params_from_arkit

SEED = 770_001
_UNSEEN = ("tongueOut", "jawForward", "mouthClose")  # seldom seen, and near invisible at rest


def weights_of(rng: np.random.Generator) -> torch.Tensor:
    """A third at rest, a third with a few shapes, a third with many; both sides mostly alike."""
    weights = np.zeros(len(ARKIT_NAMES), dtype=np.float32)
    kind = rng.integers(3)
    count = (0, 5, 10)[kind]
    names = [name for name in ARKIT_NAMES if name not in _UNSEEN]
    for name in rng.choice(names, count, replace=False):
        value = rng.uniform(0.2, 0.9)
        weights[ARKIT_NAMES.index(name)] = value
        twin = name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")
        if not name.startswith("eyeLook") and twin in ARKIT_NAMES and rng.random() < 0.75:
            weights[ARKIT_NAMES.index(twin)] = value
    # opposites are not pulled at once
    for one, other in (("mouthLeft", "mouthRight"), ("jawLeft", "jawRight")):
        weights[ARKIT_NAMES.index(other)] *= weights[ARKIT_NAMES.index(one)] == 0
    return torch.from_numpy(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    flame, outfit = load_head(), load_outfit()
    for person in range(options.count):
        name = f"{person:03d}"
        if (options.out / f"{name}.npz").is_file():
            continue
        rng = np.random.default_rng(SEED + person)
        generator = torch.Generator().manual_seed(SEED + person)
        shape = torch.from_numpy(rng.standard_normal(flame.n_shape).astype(np.float32))
        shape = shape.clamp(-2.5, 2.5)
        weights = weights_of(rng)
        head = flame.head(shape)
        hair = str(rng.choice(["none", *outfit.hair]))
        if hair != "none":
            head = outfit.wear_hair(head, hair)
        with torch.no_grad():
            skin = outfit.albedo.decode(outfit.albedo.sample(1, generator), 1024)[0]
        materials = outfit.materials(
            skin,
            str(rng.choice(["blue", "brown", "green", "hazel", "grey"])),
            hair=None if hair == "none" else hair,
            hair_color=str(rng.choice(list(HAIR_COLORS))),
            generator=generator,
        )
        save_glb(head, materials, options.out / f"{name}.glb")
        rest = Params.zeros(1, flame.n_shape, flame.n_expression)
        rest.shape.copy_(shape[None])
        neutral = flame(rest).verts[0]
        posed = flame(params_from_arkit(shape[None], weights[None])).verts[0]
        yaw = float(rng.normal(0, 14) if rng.random() < 0.7 else rng.uniform(-45, 45))
        scene = {
            "shapes": {n: float(w) for n, w in zip(ARKIT_NAMES, weights, strict=True) if w > 0},
            "turn_deg": [yaw, float(rng.normal(0, 8)), float(rng.normal(0, 5))],
            "distance_m": float(1 / rng.uniform(0.5, 2.2)),
            "key": [float(v) for v in rng.uniform((-2.5, -3, -0.2), (2.5, -1.5, 2.5))],
            "key_power": float(np.exp(rng.uniform(-0.6, 0.6))),
            "key_size": float(rng.uniform(0.3, 3.0)),
            "world": [float(v) for v in rng.uniform(0.35, 1.0) * rng.uniform(0.8, 1.2, 3)],
            "world_power": float(np.exp(rng.uniform(-1.0, 0.3))),
            "wall": [float(v) for v in rng.uniform(0.05, 0.9, 3)],
        }
        (options.out / f"{name}.json").write_text(json.dumps(scene, indent=1), encoding="utf-8")
        np.savez(
            options.out / f"{name}.npz",
            neutral=neutral.numpy(),
            posed=posed.numpy(),
            shape=shape.numpy(),
            weights=weights.numpy(),
        )


if __name__ == "__main__":
    main()
