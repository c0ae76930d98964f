"""The GPU kernels against the reference.

Without a GPU they run in Triton's interpreter, in a process of its own: how kernels are run is
settled when triton is first imported. This file is also the program of that process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; torch brings it along on Linux with CUDA",
)


def random_scene(seed, space, dtype=torch.float32, faces=24, own=False):
    """Triangles all over a batch of two; in clip space some corners are behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    verts = torch.rand(2, 30, space, generator=generator, dtype=torch.float64)
    if space == 3:
        verts = verts * torch.tensor([50.0, 40.0, 5.0]) - 5
    else:
        verts = verts * 2 - 1
        verts[..., 3] = verts[..., 3] / 2 + 0.3
    index = torch.randint(0, 30, (2, faces, 3) if own else (faces, 3), generator=generator)
    if own:
        index[1, faces // 2 :] = -1
    return verts.to(dtype), index


def grid_scene():
    """A square of triangles whose edges run through pixel centres, half of them turned over."""
    row, column = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    verts = torch.stack([column * 3 + 1.5, row * 3 + 2.5, row * 0.0 - 0.0], dim=-1)
    corner = (torch.arange(4)[:, None] * 5 + torch.arange(4)).reshape(-1, 1)
    faces = torch.cat([corner + torch.tensor([[0, 1, 6]]), corner + torch.tensor([[0, 5, 6]])])
    return verts.reshape(1, 25, 3).float(), torch.cat([faces, faces])


def broken_scene(space):
    """One triangle to be seen among ones with NaN, infinite, huge, tiny and repeated corners."""
    inf, nan = float("inf"), float("nan")
    odd = [nan, inf, -inf, 1e300, -1e300, 1e-300, 1e9, 0.0, -0.0]
    good = [[2.0, 2, 1, 1], [15, 3, 1, 1], [4, 14, 1, 1]]
    if space == 4:
        good = [[-0.8, -0.8, 0.5, 1], [0.8, -0.7, 0.5, 1], [-0.5, 0.9, 0.5, 1]]
    verts = [corner[:space] for corner in good]
    faces = [[0, 1, 2], [0, 0, 1], [2, 1, 0]]
    for value in odd:
        for axis in range(space):
            corner = list(good[0][:space])
            corner[axis] = value
            verts.append(corner)
            faces.append([len(verts) - 1, 1, 2])
    return torch.tensor([verts], dtype=torch.float64), torch.tensor(faces)


# verts and faces, image size, culling, tile, most programs a face
SCENES = {
    "screen": (random_scene(1, 3), (33, 41), False, 32, 64),
    "screen, culled": (random_scene(2, 3, torch.float64), (20, 41), True, 16, 2),
    "clip": (random_scene(3, 4), (40, 24), False, 32, 1),
    "own faces": (random_scene(4, 4, torch.float64, own=True), (32, 32), False, 16, 3),
    "shared edges": (grid_scene(), (16, 17), False, 16, 64),
    "broken, screen": (broken_scene(3), (17, 16), False, 32, 64),
    "broken, clip": (broken_scene(4), (16, 17), True, 32, 64),
    "no faces": ((torch.rand(2, 3, 3), torch.zeros(0, 3).long()), (4, 5), False, 16, 64),
    "no images": ((torch.rand(0, 3, 4), torch.tensor([[0, 1, 2]])), (4, 5), False, 16, 64),
}


def weights(fragments, dtype):
    """Fixed random cotangents of barycentrics and depth."""
    generator = torch.Generator().manual_seed(0)
    bary = torch.randn(fragments.bary.shape, generator=generator, dtype=torch.float64)
    depth = torch.randn(fragments.depth.shape, generator=generator, dtype=torch.float64)
    return bary.to(dtype), depth.to(dtype)


def outputs(rasterize, verts, faces, device="cpu"):
    """Fragments and the gradient of a random weighting of them, as arrays on the CPU."""
    verts = verts.to(device).requires_grad_()
    fragments = rasterize(verts, faces.to(device))
    by_bary, by_depth = weights(fragments, verts.dtype)
    seen = fragments.face_id >= 0
    total = (fragments.bary * by_bary.to(device)).sum()
    total = total + torch.where(seen, fragments.depth * by_depth.to(device), 0).sum()
    (grad,) = torch.autograd.grad(total, verts)
    tensors = (fragments.face_id, fragments.bary, fragments.depth, grad)
    return [tensor.detach().cpu().numpy() for tensor in tensors]


def interpreted(path):
    """Write every scene's outputs by the interpreted kernels; runs in a process of its own."""
    from flame import raster_triton

    arrays = {}
    for name, ((verts, faces), size, cull, tile, parts) in SCENES.items():
        tiling = raster_triton._Tiling(faces=64, pixels=1024, tile=tile, parts=parts)
        for number, array in enumerate(
            outputs(
                lambda v, f, z=size, c=cull, t=tiling: raster_triton._rasterize(v, f, z, c, t),
                verts,
                faces,
            )
        ):
            arrays[f"{name} {number}"] = array
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def by_interpreter(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("interpreted") / "outputs.npz"
    subprocess.run(
        # overflow and division by zero are numpy's to warn of only in the interpreter
        [sys.executable, "-W", "ignore", __file__, str(path)],
        check=True,
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)},
    )
    with np.load(path) as archive:
        return dict(archive)


def assert_same(found, expected):
    face_id, bary, depth, grad = found
    np.testing.assert_array_equal(face_id, expected[0])
    np.testing.assert_allclose(bary, expected[1], atol=1e-6, rtol=0)
    np.testing.assert_allclose(depth, expected[2], atol=0, rtol=1e-6)
    precise = 1e-9 if grad.dtype == np.float64 else 1e-4
    largest = np.abs(np.nan_to_num(expected[3])).max(initial=1.0)
    np.testing.assert_allclose(grad, expected[3], atol=precise * largest, rtol=precise)


def reference(name):
    from flame.raster import rasterize_reference

    (verts, faces), size, cull, *_ = SCENES[name]
    return outputs(lambda v, f: rasterize_reference(v, f, size, cull), verts, faces)


@needs_triton
@pytest.mark.parametrize("name", SCENES)
def test_interpreted_kernels_give_the_references_fragments_and_gradients(name, by_interpreter):
    expected = reference(name)
    assert_same([by_interpreter[f"{name} {number}"] for number in range(4)], expected)


@pytest.mark.parametrize("name", [name for name in SCENES if not name.startswith("no ")])
def test_every_scene_shows_something(name):
    assert (reference(name)[0] >= 0).any()


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("name", SCENES)
def test_a_gpu_gives_the_references_fragments_and_gradients_and_repeats(name):
    from flame.raster_triton import rasterize_triton

    (verts, faces), size, cull, *_ = SCENES[name]
    runs = [
        outputs(lambda v, f: rasterize_triton(v, f, size, cull), verts, faces, "cuda")
        for _ in range(2)
    ]
    assert_same(runs[0], reference(name))
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)


ARGUMENTS = {
    "points": "*fp64", "faces": "*i64", "records": "*fp64", "boxes": "*i32", "parts": "*i32",
    "first": "*i64", "work": "*i64", "keys": "*i64", "face_id": "*i64", "bary": "*fp32",
    "depth": "*fp32", "seen": "*i8", "grad_bary": "*fp32", "grad_depth": "*fp32",
    "sums": "*fp64", "near": "fp32",
}  # fmt: skip
CONSTANTS = {"FACES": 128, "TILE": 16, "MOST_PARTS": 64, "PIXELS": 256}


@needs_triton
@pytest.mark.parametrize("name", ["set_up", "draw", "resolve", "backward"])
def test_kernels_compile_for_a_gpu_without_fused_arithmetic(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    nvidia = pytest.importorskip("triton.backends.nvidia.compiler")
    import triton
    from triton.backends.compiler import GPUTarget

    from flame import raster_triton_kernels, raster_triton_setup

    home = raster_triton_setup if name == "set_up" else raster_triton_kernels
    kernel = getattr(home, name)
    constants = {key: CONSTANTS[key] for key in kernel.arg_names if key in CONSTANTS}
    types = {key: ARGUMENTS.get(key, "i32") for key in kernel.arg_names}
    types.update(dict.fromkeys(constants, "constexpr"))
    source = triton.compiler.ASTSource(fn=kernel, signature=types, constexprs=constants)
    target = GPUTarget("cuda", 90, 32)
    assert nvidia.CUDABackend.supports_target(target)
    options = {"num_warps": 4, "enable_fp_fusion": False}
    code = triton.compile(source, target=target, options=options).asm["ptx"]
    assert "mul.rn.f64" in code or "mul.f64" in code
    assert not re.search(r"\bfma\.rn\.f64", code)


if __name__ == "__main__":
    interpreted(Path(sys.argv[1]))
