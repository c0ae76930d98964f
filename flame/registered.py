"""A head model from a folder of registered OBJ meshes: any faces that share one topology.

DIR/*.obj                   identities at rest, three or more, aligned: y up, facing +z
DIR/expressions/NAME.obj    ARKit shapes at weight 1, on the mean identity ...
DIR/expressions/neutral.obj ... or on this face, if it is there
DIR/rig.toml                unit_m (metres a unit of the files, 1 by default), landmarks68 (vertex
                            numbers from 0, iBUG order), [joints] root, neck, jaw, left_eye,
                            right_eye ([x, y, z] in the files' unit, on the mean identity)
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assets.errors import AssetError
from flame.arkit import ARKIT_NAMES
from flame.remesh import Floats, Ints

JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")


@dataclass(frozen=True)
class Registered:
    """Faces that share one topology; lengths in metres."""

    identities: Floats  # [I, N, 3]
    expression: dict[str, Floats]  # ARKit name -> displacement [N, 3]
    polygons: Ints  # [P, 4], -1 pads triangles
    uv: Floats | None
    uv_polygons: Ints | None
    joints: dict[str, Floats]  # those that rig.toml gives
    landmarks68: Ints | None


@dataclass(frozen=True)
class _Obj:
    verts: Floats
    polygons: Ints
    uv: Floats
    uv_polygons: Ints  # all -1 where a polygon has no UV


def read_registered(folder: Path) -> Registered:
    """Read the folder; every fault is an AssetError that names the file."""
    paths = sorted(folder.glob("*.obj"))
    if len(paths) < 3:
        raise AssetError(
            f"{folder} holds {len(paths)} .obj meshes of identities; a model needs 3 or more"
        )
    rig = _read_rig(folder / "rig.toml")
    unit = float(rig.get("unit_m", 1.0))
    first = _read_obj(paths[0])
    identities = np.stack(
        [_same_topology(_read_obj(path), path, first, paths[0]) for path in paths]
    )
    own_uv = len(first.uv) > 0 and bool((first.uv_polygons[:, 0] >= 0).all())
    base = identities.mean(0)
    neutral = folder / "expressions" / "neutral.obj"
    if neutral.exists():
        base = _same_topology(_read_obj(neutral), neutral, first, paths[0])
    expression = {}
    for path in sorted((folder / "expressions").glob("*.obj")):
        if path == neutral:
            continue
        if path.stem not in ARKIT_NAMES:
            raise AssetError(f"{path} is no ARKit shape; name it like {ARKIT_NAMES[0]}.obj")
        moved = _same_topology(_read_obj(path), path, first, paths[0])
        expression[path.stem] = (moved - base) * unit
    landmarks = rig.get("landmarks68")
    if landmarks is not None and not all(0 <= k < len(first.verts) for k in landmarks):
        raise AssetError(
            f"landmarks68 in {folder / 'rig.toml'} must lie in 0..{len(first.verts) - 1}, the "
            f"vertices of {paths[0].name}"
        )
    return Registered(
        identities=identities * unit,
        expression=expression,
        polygons=first.polygons,
        uv=first.uv if own_uv else None,
        uv_polygons=first.uv_polygons if own_uv else None,
        joints={name: np.array(at) * unit for name, at in rig.get("joints", {}).items()},
        landmarks68=None if landmarks is None else np.array(landmarks, dtype=np.int64),
    )


def _read_rig(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        rig = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AssetError(f"{path} is no TOML file: {error}") from error
    known = ("unit_m", "landmarks68", "joints")
    joints = rig.get("joints", {})
    if not isinstance(joints, dict):
        raise AssetError(f"joints in {path} is no table; write [joints] and a line a joint")
    for given, allowed in ((rig, known), (joints, JOINTS)):
        if unknown := sorted(given.keys() - set(allowed)):
            raise AssetError(f"{path} has {', '.join(unknown)}; known are {', '.join(allowed)}")
    unit = rig.get("unit_m", 1.0)
    if not isinstance(unit, int | float) or not 0 < unit < np.inf:
        raise AssetError(f"unit_m in {path} is {unit!r}; give metres a unit, 0.001 for mm")
    landmarks = rig.get("landmarks68", [0] * 68)
    if len(landmarks) != 68 or not all(isinstance(k, int) for k in landmarks):
        raise AssetError(f"landmarks68 in {path} must be 68 vertex numbers, counted from 0")
    for name, at in joints.items():
        if len(at) != 3 or not np.isfinite(np.array(at, dtype=float)).all():
            raise AssetError(f"joint {name} in {path} is {at!r}; give three finite coordinates")
    return rig


def _read_obj(path: Path) -> _Obj:
    verts: list[list[float]] = []
    uv: list[list[float]] = []
    faces: list[list[int]] = []
    uv_faces: list[list[int]] = []
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            word, *rest = line.split() or [""]
            if word == "v":
                verts.append([float(x) for x in rest[:3]])
            elif word == "vt":
                uv.append([float(x) for x in rest[:2]])
            elif word == "f":
                corners = [[*corner.split("/"), ""] for corner in rest]
                faces.append([_index(corner[0], len(verts)) for corner in corners])
                has_uv = all(corner[1] for corner in corners)
                uv_faces.append(
                    [_index(corner[1], len(uv)) if has_uv else -1 for corner in corners]
                )
        placed = np.array(verts, dtype=np.float64).reshape(-1, 3)
        charted = np.array(uv, dtype=np.float64).reshape(-1, 2)
    except (OSError, ValueError, IndexError) as error:
        raise AssetError(f"{path} cannot be read as OBJ: {error}; export it again") from error
    if not faces:
        raise AssetError(f"{path} has no faces; export the mesh with its polygons")
    if not all(len(face) in (3, 4) for face in faces):
        raise AssetError(f"{path} has a face of {max(map(len, faces))} corners; use 3 or 4")
    if not np.isfinite(placed).all():
        count = int((~np.isfinite(placed).all(1)).sum())
        raise AssetError(f"{path} has {count} vertices that are not finite; repair the mesh")
    for indices, count in ((faces, len(placed)), (uv_faces, len(charted))):
        if max(map(max, indices)) >= count:
            raise AssetError(f"{path} has a face that points past its last vertex; export it again")
    return _Obj(placed, _padded(faces), charted, _padded(uv_faces))


def _index(word: str, count: int) -> int:
    """An OBJ index, 1 for the first or -1 for the latest, counted from 0."""
    number = int(word)
    index = number - 1 if number > 0 else count + number
    if number == 0 or index < 0:
        raise ValueError(f"no vertex has the number {number}")
    return index


def _padded(faces: list[list[int]]) -> Ints:
    return np.array([[*face, -1][:4] for face in faces], dtype=np.int64)


def _same_topology(mesh: _Obj, path: Path, first: _Obj, first_path: Path) -> Floats:
    if len(mesh.verts) != len(first.verts):
        raise AssetError(
            f"{path} has {len(mesh.verts)} vertices, {first_path.name} has {len(first.verts)}; "
            "register all meshes to one topology"
        )
    if not np.array_equal(mesh.polygons, first.polygons):
        raise AssetError(
            f"{path} and {first_path.name} have different faces; export all meshes with one "
            "topology and vertex order"
        )
    return mesh.verts
