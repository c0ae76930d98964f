"""How near reconstructed heads come to the truth, after the NoW protocol, in millimetres.

`python tests/benchmarks/bench_now.py FOLDER [--methods mean encoder refine]` on pictures
made by `tests/judges/now_people.py` and `tests/judges/now_render.py` (Blender's Cycles; people
never trained on). Heads at rest are aligned by a similarity on the 51 inner landmarks; the figure
is the distance from the true face's points to the reconstructed surface. Expressions are judged by
how far the face's points move: the error of that displacement over its size, so 100 % is "no
expression". A face that is not found counts with the mean face and is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import igl
import numpy as np
import torch

from assets.image import read_image
from deca.code_net import load_code_net
from deca.encode import encode
from deca.portrait import Portrait
from deca.refine import Refiner
from flame.camera import Camera
from flame.load import load_head
from flame.outfit import load_outfit
from flame.params import Params
from flame.raster import rasterize

MM = 1000.0
REACH_M = 0.095  # of the face round the nose's tip, as in NoW


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and translation of least squares (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = float((s * sign.diagonal()).sum() / (a**2).sum())
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


class Judge:
    """Measures against one head model's topology."""

    def __init__(self, flame) -> None:
        self.flame = flame
        head = flame.head(torch.zeros(flame.n_shape))
        self.faces = head.triangles()[0].numpy()
        # the face: what is seen of the skin from the front within NoW's reach of the nose's tip
        marks = flame.landmarks68(flame.template[None])[0]
        camera = Camera(torch.tensor([5.0]), -marks[None, 30, :2], torch.zeros(1))
        seen = rasterize(
            camera.clip(flame.template[None], (1024, 1024)), head.triangles()[0], (1024, 1024)
        )
        ids = head.triangles()[2]
        visible = torch.unique(seen.face_id[seen.face_id >= 0])
        visible = visible[ids[visible] == list(head.material_names).index("skin")]
        verts = torch.unique(head.triangles()[0][visible])
        near = (flame.template[verts] - marks[30]).norm(dim=1) < REACH_M
        front = flame.template[verts, 2] > marks[[0, 16], 2].mean()
        self.face = verts[near & front]
        assert len(self.face) > 500

    def marks(self, verts: torch.Tensor) -> np.ndarray:
        return self.flame.landmarks68(verts[None])[0, 17:].double().numpy()

    def shape_mm(self, found: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
        scale, rotation, shift = similarity(self.marks(found), self.marks(truth))
        moved = scale * found.double().numpy() @ rotation.T + shift
        points = truth[self.face].double().numpy()
        squared, _, _ = igl.point_mesh_squared_distance(points, moved, self.faces.astype(np.int64))
        return np.sqrt(squared) * MM

    def expression(self, found: tuple, truth: tuple) -> tuple[float, float]:
        """Mean error of the displacement and its mean size, mm."""
        moved = (found[1] - found[0])[self.face]
        true = (truth[1] - truth[0])[self.face]
        return float((moved - true).norm(dim=1).mean()) * MM, float(true.norm(dim=1).mean()) * MM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=["mean", "encoder", "refine"])
    parser.add_argument("--encoder", type=Path, help="another encoder than the shipped one")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    flame = load_head()
    judge = Judge(flame)
    net = load_code_net(flame, options.encoder)
    refiner = Refiner(flame, net.landmarks.points, load_outfit().albedo)
    truths = [p for p in sorted(options.folder.glob("*.npz")) if p.with_suffix(".png").is_file()]
    truths = truths[: options.limit]
    rest = Params.zeros(1, flame.n_shape, flame.n_expression)
    results: dict[str, list] = {method: [] for method in options.methods}
    missed: dict[str, list[str]] = {method: [] for method in options.methods}
    for path in truths:
        with np.load(path) as file:
            truth = torch.from_numpy(file["neutral"]), torch.from_numpy(file["posed"])
        portrait = Portrait(read_image(path.with_suffix(".png")), path.stem, "")
        for method in options.methods:
            start = time.perf_counter()
            params = rest
            try:
                params = found_by(method, portrait, flame, net, refiner)
            except ValueError as error:
                missed[method].append(f"{path.stem}: {str(error)[:60]}")
            spent = time.perf_counter() - start
            neutral, posed = both(flame, params)
            size = judge.expression((neutral, posed), truth)
            results[method].append((judge.shape_mm(neutral, truth[0]), *size, spent))
    base = None
    print(f"{len(truths)} pictures; distances over {len(judge.face)} points of the face")
    for method, rows in results.items():
        distances = np.concatenate([row[0] for row in rows])
        per_picture = [np.median(row[0]) for row in rows]
        error = sum(row[1] for row in rows) / sum(row[2] for row in rows)
        seconds = np.median([row[3] for row in rows])
        median = np.median(distances)
        base = median if base is None else base
        print(
            f"{method:9} median {median:.3f} mean {distances.mean():.3f} sd {distances.std():.3f} "
            f"({1 - median / base:+.1%} of the first; worst picture {max(per_picture):.2f}); "
            f"expression error {error:.0%}; {seconds:.2f} s; missed {len(missed[method])}"
        )
        for line in missed[method]:
            print("   ", line)


def both(flame, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices at rest and with the expression, without the head's turn."""
    rest = Params.zeros(1, params.shape.shape[1], params.expression.shape[1])
    rest.shape.copy_(params.shape)
    still = dataclasses.replace(
        params, root=torch.zeros_like(params.root), neck=torch.zeros_like(params.neck)
    )
    return flame(rest).verts[0], flame(still).verts[0]


@torch.no_grad()
def found_by(method: str, portrait: Portrait, flame, net, refiner) -> Params:
    if method == "mean":
        return Params.zeros(1, flame.n_shape, flame.n_expression)
    encoding = encode(portrait, flame, net)
    if method == "encoder":
        return encoding.codes.params
    return refiner(portrait.image, encoding).params


if __name__ == "__main__":
    main()
