"""How fast the rasterizer is, beside every peer that is installed, in one run.

`python tests/benchmarks/bench_raster.py [--quick] [--threads 1 2]` prints milliseconds (the median)
and CPU seconds a call for meshes of FLAME's size and of 60,000 vertices; the first call, which may
compile, stands apart. Peers (pytorch3d, DRTK, deodr) do the same work on the same mesh where they
can be imported, and their ratio to ours follows. `--memory` measures the peak memory of the
SH-shaded forward and backward pass beside its inputs and outputs.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

# before torch is loaded: its idle threads would spin on the cores that are measured
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from flame.antialias import opposite_corners, silhouette
from flame.normals import vertex_normals
from flame.raster import rasterize
from flame.sh_render import render_sh
from flame.soft import soft_silhouette

Work = Callable[[], object]


@dataclass(frozen=True, eq=False)
class Scene:
    """A bumpy ball that fills three fifths of the picture, in screen space."""

    verts: Tensor  # [B, V, 3]
    faces: Tensor
    opposite: Tensor
    normals: Tensor
    albedo: Tensor
    light: Tensor
    size: tuple[int, int]


def ball(count: int) -> tuple[Tensor, Tensor]:
    """A closed surface of about `count` vertices on spiral rings; 2 (count - 2) faces."""
    from scipy.spatial import ConvexHull

    number = np.arange(count) + 0.5
    height = 1 - 2 * number / count
    angle = np.pi * (1 + np.sqrt(5)) * number
    across = np.sqrt(1 - height**2)
    points = np.stack([across * np.cos(angle), height, across * np.sin(angle)], -1)
    faces = ConvexHull(points).simplices.astype(np.int64)
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    inward = (np.cross(b - a, c - a) * a).sum(1) < 0
    faces[inward] = faces[inward][:, [0, 2, 1]]
    # neighbours in space are neighbours in memory, as in a mesh that people made
    faces = faces[np.argsort(faces.min(1), kind="stable")]
    return torch.from_numpy(points).float(), torch.from_numpy(faces)


def scene(count: int, side: int, batch: int) -> Scene:
    points, faces = ball(count)
    generator = torch.Generator().manual_seed(0)
    bumps = 1 + 0.05 * torch.sin(points @ torch.randn(3, 3, generator=generator) * 4).sum(1)
    verts = (points * bumps[:, None]).expand(batch, -1, -1)
    turned = verts + 0.002 * torch.randn(batch, 1, 3, generator=generator)
    radius = 0.437 * side  # a disc of three fifths of the picture
    screen = torch.stack(
        [side / 2 + radius * turned[..., 0], side / 2 - radius * turned[..., 1], -turned[..., 2]],
        -1,
    )
    return Scene(
        screen.contiguous(),
        faces,
        opposite_corners(faces),
        vertex_normals(turned, faces),
        torch.rand(batch, len(points), 3, generator=generator),
        torch.randn(batch, 9, 3, generator=generator),
        (side, side),
    )


def hard(s: Scene) -> Work:
    def work() -> object:
        with torch.no_grad():
            return rasterize(s.verts, s.faces, s.size)

    return work


def fragments(s: Scene) -> Work:
    bary_gradient = torch.randn(len(s.verts), *s.size, 3)
    depth_gradient = torch.randn(len(s.verts), *s.size)

    def work() -> object:
        verts = s.verts.clone().requires_grad_()
        drawn = rasterize(verts, s.faces, s.size)
        torch.autograd.backward([drawn.bary, drawn.depth], [bary_gradient, depth_gradient])
        return verts.grad

    return work


def sh_shaded(s: Scene) -> Work:
    gradient = torch.randn(len(s.verts), 3, *s.size)

    def work() -> object:
        leaves = [t.clone().requires_grad_() for t in (s.verts, s.normals, s.albedo, s.light)]
        verts, normals, albedo, light = leaves
        image = render_sh(verts, s.faces, normals, albedo, light, s.size).image
        image.backward(gradient)
        return [leaf.grad for leaf in leaves]

    return work


def edges(s: Scene) -> Work:
    gradient = torch.randn(len(s.verts), 1, *s.size)

    def work() -> object:
        verts = s.verts.clone().requires_grad_()
        silhouette(verts, s.faces, s.size, s.opposite).backward(gradient)
        return verts.grad

    return work


def soft(s: Scene) -> Work:
    gradient = torch.randn(len(s.verts), 1, *s.size)

    def work() -> object:
        verts = s.verts.clone().requires_grad_()
        drawn = soft_silhouette(verts, s.faces, s.size, sigma=0.5, faces_per_pixel=10)
        drawn.backward(gradient)
        return verts.grad

    return work


WORKS: dict[str, Callable[[Scene], Work]] = {
    "hard forward": hard,
    "fragments forward+backward": fragments,
    "SH-shaded forward+backward": sh_shaded,
    "silhouette, edges, forward+backward": edges,
    "silhouette, soft K=10, forward+backward": soft,
}


def _deodr_scene(s: Scene, colors: np.ndarray) -> object:
    from deodr.differentiable_renderer import Scene2D

    faces = s.faces.numpy().astype(np.uint32)
    silhouettes = np.zeros((len(faces), 3), dtype=bool)
    # deodr asks which edges are silhouettes: those between a front and a back face
    screen = s.verts[0].numpy().astype(np.float64)
    a, b, c = (screen[faces[:, k], :2] for k in range(3))
    front = np.cross(np.pad(b - a, ((0, 0), (0, 1))), np.pad(c - a, ((0, 0), (0, 1))))[:, 2] < 0
    owner = {tuple(sorted((int(f[k - 2]), int(f[k - 1])))): [] for f in faces for k in range(3)}
    for index, f in enumerate(faces):
        for k in range(3):
            owner[tuple(sorted((int(f[k - 2]), int(f[k - 1]))))].append((index, k))
    for pair in owner.values():
        if len(pair) == 2 and front[pair[0][0]] != front[pair[1][0]]:
            for index, k in pair:
                silhouettes[index, (k + 1) % 3] = front[index]
    count = len(screen)
    return Scene2D(
        faces,
        faces,
        screen[:, :2] - 0.5,
        screen[:, 2] + 2,
        np.zeros(len(faces), dtype=bool),
        np.zeros((count, 2)),
        np.zeros(count),
        colors,
        np.zeros(len(faces), dtype=bool),
        silhouettes,
        s.size[0],
        s.size[1],
        colors.shape[1],
        np.zeros((0, 0)),
        background_color=np.zeros(colors.shape[1]),
        clockwise=True,
        backface_culling=True,
    )


def _deodr_silhouette(s: Scene) -> Work:
    drawn = _deodr_scene(s, np.ones((s.verts.shape[1], 1)))
    gradient = np.random.default_rng(0).normal(size=(*s.size, 1))

    def work() -> object:
        drawn.clear_gradients()
        drawn.render(1)
        drawn.render_backward(gradient, make_copies=False)
        return drawn.ij_b

    return work


def _deodr_shaded(s: Scene) -> Work:
    """Vertex colours lit in torch, since deodr interpolates colours only."""
    from flame.light import sh_shading

    gradient = np.random.default_rng(0).normal(size=(*s.size, 3))
    drawn = _deodr_scene(s, np.zeros((s.verts.shape[1], 3)))

    def work() -> object:
        normals = s.normals[:1].clone().requires_grad_()
        light = s.light[:1].clone().requires_grad_()
        albedo = s.albedo[:1].clone().requires_grad_()
        lit = albedo * sh_shading(normals, light)
        drawn.colors = lit.detach()[0].double().numpy()
        drawn.clear_gradients()
        drawn.render(1)
        drawn.render_backward(gradient, make_copies=False)
        lit.backward(torch.from_numpy(drawn.colors_b).float()[None])
        return drawn.ij_b

    return work


def _pytorch3d(s: Scene, faces_per_pixel: int, blur: float, backward: bool) -> Work:
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    side = s.size[0]
    ndc = torch.cat([1 - 2 * s.verts[..., :2] / side, s.verts[..., 2:] + 2], -1)

    def work() -> object:
        verts = ndc.clone().requires_grad_(backward)
        meshes = Meshes(verts=list(verts), faces=[s.faces] * len(verts))
        _, depth, bary, distance = rasterize_meshes(
            meshes, side, blur_radius=blur, faces_per_pixel=faces_per_pixel, bin_size=0
        )
        if backward:
            (distance.sum() if blur else bary.sum() + depth.sum()).backward()
        return verts.grad

    return work


def _drtk(s: Scene, backward: bool) -> Work:
    import drtk

    faces = s.faces.int()
    verts = torch.cat([s.verts[..., :2] - 0.5, s.verts[..., 2:] + 2], -1)

    def work() -> object:
        leaf = verts.clone().requires_grad_(backward)
        index = drtk.rasterize(leaf, faces, *s.size)
        depth, bary = drtk.render(leaf, faces, index)
        if backward:
            (bary.sum() + depth.sum()).backward()
        return leaf.grad

    return work


def peers() -> dict[str, dict[str, Callable[[Scene], Work]]]:
    """What each installed peer can do of WORKS, one image at a time."""
    found: dict[str, dict[str, Callable[[Scene], Work]]] = {}
    if importlib.util.find_spec("deodr"):
        found["deodr"] = {
            "SH-shaded forward+backward": _deodr_shaded,
            "silhouette, edges, forward+backward": _deodr_silhouette,
        }
    if importlib.util.find_spec("pytorch3d"):
        found["pytorch3d"] = {
            "hard forward": lambda s: _pytorch3d(s, 1, 0.0, False),
            "fragments forward+backward": lambda s: _pytorch3d(s, 1, 0.0, True),
            "silhouette, soft K=10, forward+backward": lambda s: _pytorch3d(s, 10, 1e-4, True),
        }
    if importlib.util.find_spec("drtk") and importlib.util.find_spec("drtk.rasterize"):
        found["DRTK"] = {
            "hard forward": lambda s: _drtk(s, False),
            "fragments forward+backward": lambda s: _drtk(s, True),
        }
    return found


def measure(work: Work, budget_s: float) -> tuple[float, float, float]:
    """Median milliseconds, CPU milliseconds a call, and the first call's milliseconds."""
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    work()
    spent: list[float] = []
    cpu = time.process_time()
    begin = time.perf_counter()
    while len(spent) < 5 or (time.perf_counter() - begin < budget_s and len(spent) < 200):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / len(spent)
    return statistics.median(spent) * 1e3, cpu * 1e3, first * 1e3


def peak_bytes_a_pixel(side: int, batch: int) -> float:
    """Peak memory of the SH-shaded passes beside inputs, their gradients and the image."""
    code = (
        "import sys; sys.path.insert(0, 'tests/benchmarks'); import bench_raster as b; "
        f"print(b.peak_here({side}, {batch}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_here(side: int, batch: int) -> float:
    """As `peak_bytes_a_pixel`, in this process (Linux only)."""
    torch.set_num_threads(1)
    sh_shaded(scene(5023, 32, 1))()  # the kernels' own memory
    s = scene(5023, side, batch)
    gradient = torch.zeros(batch, 3, *s.size).normal_()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    leaves = [t.clone().requires_grad_() for t in (s.verts, s.normals, s.albedo, s.light)]
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak begins anew at what is held now
    before = _held("VmRSS")
    verts, normals, albedo, light = leaves
    image = render_sh(verts, s.faces, normals, albedo, light, s.size).image
    image.backward(gradient)
    outputs = 4 * (image.numel() + sum(leaf.numel() for leaf in leaves))
    return (_held("VmHWM") - before - outputs) / (batch * side * side)


def _held(name: str) -> int:
    """Bytes of memory that the process holds (VmRSS), or held at most (VmHWM)."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="224 px and batch 1 only")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    installed = peers()
    print(f"peers: {', '.join(installed) or 'none installed'}; torch {torch.__version__}")
    cases = [(5023, 224, 1)]
    if not options.quick:
        cases += [(5023, 224, 8), (5023, 512, 1), (5023, 1024, 1), (5023, 1024, 8)]
        cases += [(60_000, 224, 1), (60_000, 512, 1), (60_000, 1024, 1)]
    print(f"{'work':40} {'verts':>6} {'px':>5} {'batch':>5} threads     ms  CPU ms  first ms")
    for count, side, batch in cases:
        made = scene(count, side, batch)
        for name, prepare in WORKS.items():
            alone = 0.0
            for threads in options.threads:
                torch.set_num_threads(threads)
                ms, cpu, first = measure(prepare(made), options.seconds)
                line = f"{name:40} {count:6} {side:5} {batch:5} {threads:7} {ms:7.2f} {cpu:7.2f}"
                line += f" {first:9.1f}"
                if threads == 1:
                    alone = ms
                elif alone:
                    line += f"   {alone / ms:.2f} x one thread"
                print(line, flush=True)
            for peer, can in installed.items():
                if name in can and batch == 1:
                    torch.set_num_threads(1)
                    ms, cpu, first = measure(can[name](made), options.seconds)
                    print(
                        f"{'  ' + peer:40} {count:6} {side:5} {batch:5} {1:7} {ms:7.2f} {cpu:7.2f}"
                        f" {first:9.1f}   {ms / alone:.1f} x ours",
                        flush=True,
                    )
    if options.memory:
        for side, batch in ((1024, 1), (1024, 8)):
            print(
                f"SH-shaded peak, {side} px, batch {batch}: "
                f"{peak_bytes_a_pixel(side, batch):.0f} bytes a pixel beside inputs and outputs"
            )


if __name__ == "__main__":
    main()
