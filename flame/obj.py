"""Wavefront OBJ with its MTL and PNG files: one shape, quads kept, for modelling programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from assets.files import replacing
from assets.image import write_image
from flame.head import Head
from flame.material import Material
from flame.submesh import check_finite, materials_by_name, unit_normals, used_materials
from flame.texture_files import base_color

_SAFE_NAME = re.compile(r"\w[\w.-]*")


def save_obj(
    head: Head,
    materials: Sequence[Material],
    path: str | Path,
    verts: Float[Tensor, "V 3"] | None = None,
) -> None:
    """Write `path` (.obj), and beside it the .mtl and a .png for each texture.

    Vertices are all of the head's, in its order, so files of two expressions (pass `verts`, for
    example one item of `Head.pose`) morph into each other in any program. The texture of the
    first material, skin, is NAME.png; others are NAME_material.png, with _normal or _roughness
    after it for those maps. The .obj is written last: when it is there, all is there.
    """
    path = Path(path)
    if path.suffix != ".obj":
        raise ValueError(f"{path} must end in .obj: the .mtl and .png names are made from it")
    check_finite(head)
    by_name = materials_by_name(head, materials)
    placed = head.verts if verts is None else verts
    if placed.shape != head.verts.shape or not bool(torch.isfinite(placed).all()):
        raise ValueError(
            f"verts is {tuple(placed.shape)}, finite: {bool(torch.isfinite(placed).all())}; "
            f"give finite positions of the head's {len(head.verts)} vertices"
        )
    used = used_materials(head)
    for name in used:
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError(
                f"material name {name!r} becomes part of a file name; use letters, digits, . _ -"
            )
    entries = []
    for name in used:
        stem = path.stem if name == head.material_names[0] else f"{path.stem}_{name}"
        images, entry = _material(by_name[name], stem)
        for file_name, image in images.items():
            write_image(path.with_name(file_name), image[None], ai_generated=True)
        entries.append(entry)
    _write_text(path.with_suffix(".mtl"), entries)
    _write_text(path, _object_lines(head, placed, path.stem))


def _material(material: Material, stem: str) -> tuple[dict[str, Tensor], str]:
    """A material's images by file name, and its paragraph in the MTL."""
    images = {f"{stem}.png": base_color(material)}
    maps = [f"map_Kd {stem}.png"]
    if len(images[f"{stem}.png"]) == 4:
        maps.append(f"map_d {stem}.png")
    rough = material.roughness
    if isinstance(rough, Tensor):
        images[f"{stem}_roughness.png"] = rough
        maps.append(f"map_Pr {stem}_roughness.png")
        rough = float(rough.mean())
    if material.normal is not None:
        images[f"{stem}_normal.png"] = material.normal
        maps.append(f"norm {stem}_normal.png")
    lines = [
        f"newmtl {material.name}",
        "Kd 1 1 1",
        "Ks 0.04 0.04 0.04",
        # programs that do not know roughness, Pr, take the highlight's width from Ns, 0..1000
        f"Ns {(1 - rough) ** 2 * 1000:.3f}",
        f"Pr {rough:.4f}",
        "d 1",
        "illum 2",
        *maps,
    ]
    return images, "\n".join(lines) + "\n"


def _write_text(path: Path, lines: Iterable[str]) -> None:
    with replacing(path) as written:
        written.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _object_lines(head: Head, verts: Float[Tensor, "V 3"], stem: str) -> Iterable[str]:
    normals = unit_normals(verts.detach().cpu(), head.triangles()[0].cpu())
    yield "# A head made by AI from a photo or from chance. Units: metres; y up, facing +z."
    yield f"mtllib {stem}.mtl"
    yield f"o {stem}"
    yield from _rows("v %.7f %.7f %.7f", verts)
    yield from _rows("vt %.7f %.7f", head.uv)
    yield from _rows("vn %.5f %.5f %.5f", normals)
    polygons = head.polygons.cpu().numpy()
    uv_polygons = head.uv_polygons.cpu().numpy()
    material_ids = head.material_ids.cpu().numpy()
    yield "s 1"
    for index, name in enumerate(head.material_names):
        chosen = material_ids == index
        if chosen.any():
            yield f"g {name}"
            yield f"usemtl {name}"
            yield from _faces(polygons[chosen] + 1, uv_polygons[chosen] + 1)


def _rows(pattern: str, rows: Float[Tensor, "N C"]) -> Iterable[str]:
    return (pattern % tuple(row) for row in rows.detach().double().cpu().tolist())


def _faces(polygons: NDArray[np.int64], uv_polygons: NDArray[np.int64]) -> Iterable[str]:
    for corners, uv_corners in zip(polygons.tolist(), uv_polygons.tolist(), strict=True):
        n_corners = 4 if corners[3] > 0 else 3  # a triangle's fourth index, -1, is 0 by now
        yield "f " + " ".join(
            f"{corner}/{uv}/{corner}"
            for corner, uv in zip(corners[:n_corners], uv_corners[:n_corners], strict=True)
        )
