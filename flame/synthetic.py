"""Stand-ins for the licensed FLAME files: the published layout to the byte, contents of our own.

The mesh has FLAME's counts and parts (a head, two eyeballs) but is a plain dome with spheres; its
shapes are smooth waves. `python -m flame.synthetic DIR` writes a whole set to try things with.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from assets.arrays import Array
from assets.files import replacing
from assets.weights import encode_tensors
from flame.masks import MASK_NAMES
from flame.synthetic_mesh import N_HEAD, SyntheticMesh, synthetic_mesh
from flame.synthetic_pickle import Chumpy, Csc, python2_pickle

Kind = Literal["pickle", "npz", "safetensors"]
_TEXTURE_SIDE = 512
_NO_PARENT = 2**32 - 1


@dataclass(frozen=True)
class SyntheticFlame:
    """A FLAME-shaped model of random smooth bases, float64, metres, keys as published."""

    mesh: SyntheticMesh
    arrays: dict[str, Array]


def synthetic_flame(rng: np.random.Generator) -> SyntheticFlame:
    """Random arrays of the published shapes, dtypes and, where they matter, meanings."""
    mesh = synthetic_mesh()
    verts = mesh.verts
    waves = _waves(verts, rng, 400)
    # strengths fall as those of principal components do
    strength = np.concatenate([8e-3 / (1 + np.arange(300)), 4e-3 / (1 + np.arange(100))])
    arrays = {
        "f": mesh.faces.astype(np.uint32),
        "v_template": verts,
        "shapedirs": waves * strength,
        "posedirs": _waves(verts, rng, 36) * 2e-3,
        "J_regressor": mesh.joint_regressor,
        "J": mesh.joint_regressor @ verts,
        "weights": mesh.lbs_weights,
        "kintree_table": np.array([[_NO_PARENT, 0, 1, 1, 1], range(5)], dtype=np.uint32),
    }
    return SyntheticFlame(mesh, arrays)


def write_flame(model: SyntheticFlame, path: Path, *, kind: Kind = "pickle") -> Path:
    """Write the geometry; pickles hold chumpy and SciPy objects, which need not be installed."""
    arrays = model.arrays
    if kind == "pickle":
        value: dict[str, object] = {
            **arrays,
            "shapedirs": Chumpy(arrays["shapedirs"]),
            "v_template": Chumpy(arrays["v_template"]),
            "J_regressor": Csc(arrays["J_regressor"]),
            "bs_style": "lbs",
            "bs_type": "lrotmin",
        }
        content = python2_pickle(value)
    elif kind == "npz":
        content = _npz(arrays)
    else:
        content = encode_tensors({name: torch.from_numpy(_signed(a)) for name, a in arrays.items()})
    return _write(path, content)


def write_companions(model: SyntheticFlame, folder: Path) -> list[Path]:
    """Write landmarks, masks, eyelids and UV under their published names; not the textures."""
    mesh = model.mesh
    static = (mesh.landmark_faces[17:], mesh.landmark_bary[17:])
    contour = (mesh.contour_faces, mesh.contour_bary)
    deca = {
        "static_lmk_faces_idx": static[0],
        "static_lmk_bary_coords": static[1],
        # PyTorch tensors in the published file
        "dynamic_lmk_faces_idx": torch.from_numpy(contour[0]),
        "dynamic_lmk_bary_coords": torch.from_numpy(contour[1].astype(np.float32)),
        "full_lmk_faces_idx": mesh.landmark_faces[None],
        "full_lmk_bary_coords": mesh.landmark_bary[None],
    }
    mediapipe = {
        "lmk_face_idx": mesh.mediapipe_faces.astype(np.uint32),
        "lmk_b_coords": mesh.mediapipe_bary,
        "landmark_indices": np.arange(105, dtype=np.int64) * 4,
    }
    lids = _lids(mesh)
    contents = {
        "landmark_embedding.npy": _npy(deca),
        "flame_static_embedding.pkl": python2_pickle(
            {"lmk_face_idx": static[0], "lmk_b_coords": static[1]}
        ),
        "flame_dynamic_embedding.npy": _npy(
            {"lmk_face_idx": contour[0], "lmk_b_coords": contour[1]}
        ),
        "mediapipe_landmark_embedding.npz": _npz(mediapipe),
        "FLAME_masks.pkl": python2_pickle(_masks(mesh)),
        "l_eyelid.npy": _npy(lids[0]),
        "r_eyelid.npy": _npy(lids[1]),
        "head_template.obj": _obj(mesh).encode(),
    }
    return [_write(folder / name, content) for name, content in contents.items()]


def write_texture_space(
    model: SyntheticFlame, path: Path, rng: np.random.Generator, *, n_components: int = 200
) -> Path:
    """Write a file laid out as `FLAME_texture.npz`, channels BGR, 0..255."""
    shape = (_TEXTURE_SIDE, _TEXTURE_SIDE, 3)
    mean = np.broadcast_to(np.array([120.0, 140.0, 190.0]), shape)
    stripes = rng.standard_normal((_TEXTURE_SIDE, 1, 1, n_components)).astype(np.float32)
    arrays = {
        "mean": np.ascontiguousarray(mean),
        "tex_dir": np.ascontiguousarray(np.broadcast_to(stripes, (*shape, n_components))),
        "vt": model.mesh.uv,
        "ft": model.mesh.uv_faces,
    }
    return _write(path, _npz(arrays))


def write_bfm_albedo(path: Path, rng: np.random.Generator, *, n_components: int = 199) -> Path:
    """Write a file laid out as `FLAME_albedo_from_BFM.npz`, channels BGR, 0..1."""
    count = _TEXTURE_SIDE * _TEXTURE_SIDE * 3
    column = rng.standard_normal((1, n_components)) * 0.02
    arrays = {
        "MU": np.tile([0.45, 0.55, 0.75], count // 3),
        "PC": np.ascontiguousarray(np.broadcast_to(column, (count, n_components))),
    }
    return _write(path, _npz(arrays))


def _waves(verts: Array, rng: np.random.Generator, count: int) -> Array:
    """Smooth displacement fields [V, 3, count] of about unit size."""
    frequency = rng.uniform(-40, 40, (3, 3 * count))
    phase = rng.uniform(0, 2 * np.pi, 3 * count)
    return np.asarray(np.sin(verts @ frequency + phase).reshape(len(verts), 3, count))


def _lids(mesh: SyntheticMesh) -> Array:
    """Displacements [2, V, 3] of 409 vertices of the head before each eye, downward."""
    lids = np.zeros((2, len(mesh.verts), 3))
    for lid, centre in zip(lids, mesh.eye_centers, strict=True):
        distance = np.linalg.norm(mesh.verts[:N_HEAD] - centre, axis=1)
        nearest = np.argsort(distance, kind="stable")[:409]
        lid[nearest, 1] = -0.004 * (1 - distance[nearest] / (1.01 * distance[nearest].max()))
    return lids


def _masks(mesh: SyntheticMesh) -> dict[str, object]:
    """Regions of the published sizes about plausible places."""
    left, right = mesh.eye_centers
    low, high = mesh.verts.min(0), mesh.verts.max(0)
    front = np.array([0.0, 0.0, high[2]])
    places = {
        "face": (front, 1787),
        "eye_region": ((left + right) / 2, 751),
        "left_ear": (np.array([high[0], 0.0, 0.0]), 588),
        "right_ear": (np.array([low[0], 0.0, 0.0]), 588),
        "scalp": (np.array([0.0, high[1], 0.0]), 489),
        "nose": (front, 379),
        "left_eye_region": (left, 287),
        "right_eye_region": (right, 287),
        "lips": (front - np.array([0.0, 0.05, 0.0]), 254),
        "neck": (np.array([0.0, low[1], 0.0]), 253),
        "forehead": (front + np.array([0.0, 0.08, 0.0]), 133),
        "boundary": (np.array([0.0, 10 * low[1], 0.0]), 114),
    }
    masks: dict[str, object] = {}
    for name in MASK_NAMES:
        if name in places:
            centre, count = places[name]
            distance = np.linalg.norm(mesh.verts[:N_HEAD] - centre, axis=1)
            masks[name] = np.sort(np.argsort(distance, kind="stable")[:count])
    masks["left_eyeball"] = np.arange(N_HEAD, N_HEAD + 546)
    masks["right_eyeball"] = np.arange(N_HEAD + 546, N_HEAD + 1092)
    return masks


def _obj(mesh: SyntheticMesh) -> str:
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.verts.tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uv.tolist()]
    for corners, texels in zip(mesh.faces.tolist(), mesh.uv_faces.tolist(), strict=True):
        pairs = zip(corners, texels, strict=True)
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in pairs))
    return "\n".join(lines) + "\n"


def _npy(value: object) -> bytes:
    return _saved(lambda file: np.save(file, np.asarray(value, dtype=_dtype_of(value))))


def _npz(arrays: dict[str, Array]) -> bytes:
    return _saved(lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _saved(save: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _dtype_of(value: object) -> type[object] | None:
    return object if isinstance(value, dict) else None


def _signed(array: Array) -> Array:
    return array.astype(np.int64) if array.dtype.kind == "u" else array


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as written:
        written.write_bytes(content)
    return Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    model = synthetic_flame(rng)
    write_flame(model, given.folder / "generic_model.pkl")
    write_companions(model, given.folder)
    # as many components as the published encoders use: files with all take a gigabyte each
    write_texture_space(model, given.folder / "FLAME_texture.npz", rng, n_components=50)
    write_bfm_albedo(given.folder / "FLAME_albedo_from_BFM.npz", rng, n_components=50)


if __name__ == "__main__":
    main()
