"""Albedo of official FLAME heads: a mean and directions of texture, from three published files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from assets.arrays import Array, read_array_shapes, read_rows
from assets.errors import AssetError
from flame.records import TensorRecord
from flame.srgb import linear_to_srgb

SIDE = 512  # texels, of all three files
_TEXELS = SIDE * SIDE * 3


@dataclass(frozen=True, eq=False)
class TextureSpace(TensorRecord):
    """A linear space of albedo textures; colour channels are RGB, row 0 is the top."""

    mean: Float[Tensor, "3 K K"]
    basis: Float[Tensor, "T 3 K K"]  # per unit of the code
    linear: bool  # light-linear values; else as stored in sRGB files

    @property
    def n_components(self) -> int:
        return len(self.basis)

    def decode(
        self, code: Float[Tensor, "B C"], *, side: int = SIDE
    ) -> Float[Tensor, "B 3 side side"]:
        """Albedo of texture codes, sRGB, about 0..1 and not clamped; codes may be shorter.

        `side` other than 512 takes the nearest texel, which is what the published encoders were
        trained with at 256.
        """
        if code.shape[1] > self.n_components:
            raise ValueError(
                f"the texture code has {code.shape[1]} coefficients, this space was read with "
                f"{self.n_components}; pass code[..., :{self.n_components}] or read it with "
                f"n_components={code.shape[1]}"
            )
        mean, basis = self.mean, self.basis[: code.shape[1]]
        if side != SIDE:
            chosen = (torch.arange(side, device=mean.device) * SIDE) // side
            mean = mean[:, chosen][:, :, chosen]
            basis = basis[:, :, chosen][..., chosen]
        albedo = mean + (code @ basis.flatten(1)).reshape(len(code), 3, side, side)
        return linear_to_srgb(albedo) if self.linear else albedo


@dataclass(frozen=True, eq=False)
class MeshUv(TensorRecord):
    """Texture coordinates of FLAME's mesh, origin bottom left."""

    uv: Float[Tensor, "T 2"]
    uv_faces: Int[Tensor, "F 3"]  # in the order of the model's faces


def read_texture_space(path: Path, *, n_components: int = 50) -> TextureSpace:
    """The first components of `FLAME_texture.npz`, `FLAME_albedo_from_BFM.npz` or AlbedoMM's file.

    Reads only so much of the file at a time as memory is wanted for. Published encoders use 50.
    """
    shapes = read_array_shapes(path)
    if "tex_dir" in shapes or "mean" in shapes:
        mean_name, basis_name, scale = "mean", "tex_dir", 1 / 255
        wanted = {"mean": (SIDE, SIDE, 3), "tex_dir": (SIDE, SIDE, 3, None)}
        optional = {"vt", "ft"}
    else:
        mean_name, basis_name, scale = "MU", "PC", 1.0
        wanted = {"MU": (_TEXELS,), "PC": (_TEXELS, None)}
        optional = {"specMU", "specPC", "vt", "ft"}
    faults = []
    if missing := sorted(wanted.keys() - shapes.keys()):
        faults.append(f"missing {', '.join(missing)}")
    if unexpected := sorted(shapes.keys() - wanted.keys() - optional):
        faults.append(f"unexpected {', '.join(unexpected)}")
    for name, shape in wanted.items():
        given = shapes.get(name)
        if given is not None and not _fits(given, shape):
            shown = "x".join("N" if n is None else str(n) for n in shape)
            faults.append(f"misshapen {name} {'x'.join(map(str, given))}, wanted {shown}")
    if not faults and shapes[basis_name][-1] < n_components:
        raise ValueError(
            f"{path} has {shapes[basis_name][-1]} components, n_components={n_components} asks "
            f"for more; pass at most {shapes[basis_name][-1]}"
        )
    if faults:
        raise AssetError(f"{path} is no texture space of FLAME: {'; '.join(faults)}")
    mean = np.concatenate(list(read_rows(path, mean_name, _TEXELS)))
    rows = 4 if basis_name == "tex_dir" else 4 * SIDE * 3
    basis = np.concatenate(
        [
            block[..., :n_components].astype(np.float32)
            for block in read_rows(path, basis_name, rows)
        ]
    )
    basis = np.ascontiguousarray(basis.reshape(_TEXELS, n_components).T)
    return TextureSpace(
        mean=_channels(mean.astype(np.float32).reshape(1, _TEXELS) * np.float32(scale))[0],
        basis=_channels(basis * np.float32(scale)),
        linear="specMU" in shapes,
    )


def read_mesh_uv(path: Path, faces: Int[Tensor, "F 3"]) -> MeshUv:
    """The UV layout in `FLAME_texture.npz`, AlbedoMM's file or `head_template.obj`.

    `faces` are the model's: a layout of another mesh is an error.
    """
    if path.suffix.lower() == ".obj":
        uv, uv_faces = _obj_layout(path, faces)
    else:
        shapes = read_array_shapes(path)
        if missing := sorted({"vt", "ft"} - shapes.keys()):
            raise AssetError(f"{path} has no UV layout, missing {', '.join(missing)}")
        uv, uv_faces = (np.concatenate(list(read_rows(path, name, 4096))) for name in ("vt", "ft"))
    if uv.ndim != 2 or uv.shape[1] != 2 or uv_faces.shape != faces.shape:
        raise AssetError(
            f"{path} has a UV layout of {'x'.join(map(str, uv_faces.shape))} faces, "
            f"this model has {len(faces)}x3; give the layout that belongs to it"
        )
    if uv_faces.min() < 0 or uv_faces.max() >= len(uv) or not np.isfinite(uv).all():
        raise AssetError(f"{path} has a UV layout that refers to points it does not have")
    return MeshUv(
        torch.from_numpy(uv.astype(np.float32)), torch.from_numpy(uv_faces.astype(np.int64))
    )


def _obj_layout(path: Path, faces: Int[Tensor, "F 3"]) -> tuple[Array, Array]:
    uv: list[list[float]] = []
    corners: list[list[list[int]]] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            kind, *words = line.split() or [""]
            if kind == "vt":
                uv.append([float(word) for word in words[:2]])
            elif kind == "f":
                corners.append([[int(part) - 1 for part in word.split("/")[:2]] for word in words])
        indices = np.array(corners, dtype=np.int64)  # [F, 3, 2]
        found = np.array(uv, dtype=np.float64)
        verts, uv_faces = indices[..., 0], indices[..., 1]
    except (ValueError, IndexError, OSError) as error:
        raise AssetError(f"{path} is no OBJ mesh of triangles with UV ({error})") from error
    if not np.array_equal(verts, faces.numpy()):
        raise AssetError(f"{path} has other faces than this model; give FLAME's own template")
    return found, uv_faces


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(given) == len(wanted) and all(
        w is None or g == w for g, w in zip(given, wanted, strict=True)
    )


def _channels(flat: Array) -> Tensor:
    """Stored rows of BGR texels as RGB images."""
    images = torch.from_numpy(flat).reshape(-1, SIDE, SIDE, 3)
    return images.flip(-1).permute(0, 3, 1, 2).contiguous()
