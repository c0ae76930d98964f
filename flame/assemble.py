"""From statistics to a head model: own topology, transferred modes, rig, landmarks, UV."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from flame.arkit import ARKIT_NAMES, mirrored_name
from flame.blueprint import MATERIALS, PART_MATERIAL, PARTS, HeadSettings
from flame.coarsen import is_tongue, remesh_inner, remesh_skin, skin_part_ids
from flame.landmarks import contour_rows, dense_points, embed_landmarks
from flame.model import FlameArrays
from flame.parts import Part, eyeball, lash_strips, shirt, tongue_out
from flame.remesh import Bools, Floats, Ints, Remeshed, triangulate
from flame.rig import model_arrays, skinning_weights
from flame.seal import seal
from flame.statistics import MIRROR_X, Statistics, face_weighted_modes
from flame.topology import Topology
from flame.unwrap import boundary_loops, pack_islands, unwrap_skin


@dataclass
class _Assembly:
    """Rows added so far: a linear map of the source's vertices plus an offset."""

    rows: list[csr_matrix] = field(default_factory=list)
    offsets: list[Floats] = field(default_factory=list)
    polygons: list[Ints] = field(default_factory=list)
    parts: list[Ints] = field(default_factory=list)
    mirrors: list[Ints] = field(default_factory=list)
    count: int = 0

    def add(
        self, rows: csr_matrix, offset: Floats, polygons: Ints, parts: Ints, mirror: Ints
    ) -> slice:
        here = slice(self.count, self.count + rows.shape[0])
        self.rows.append(rows)
        self.offsets.append(offset)
        self.polygons.append(np.where(polygons >= 0, polygons + self.count, -1))
        self.parts.append(parts)
        self.mirrors.append(mirror + self.count)
        self.count = here.stop
        return here


def assemble(source: Statistics, settings: HeadSettings) -> tuple[FlameArrays, Topology]:
    """A head model in metres built from registered meshes in millimetres."""
    build = _Assembly()
    skin_mesh = remesh_skin(source, settings)
    skin_here = build.add(*_as_rows(skin_mesh, source, skin_part_ids(skin_mesh)))
    gums = remesh_inner(source, ("gums_tongue",), settings.gums_target)
    ids = np.where(is_tongue(gums, source), PARTS.index("tongue"), PARTS.index("gums"))
    build.add(*_as_rows(gums, source, ids))
    rows_of_teeth = ("teeth_upper", "teeth_lower")
    teeth = remesh_inner(source, rows_of_teeth, settings.teeth_target)
    ids = np.array([PARTS.index(part) for part in rows_of_teeth])[teeth.polygon_labels]
    build.add(*_as_rows(teeth, source, ids))
    eyes_here = _add_eyes(build, source, settings)
    lash_uv = _add_lashes(build, source)
    transfer = vstack(build.rows).tocsr()
    offset = np.concatenate(build.offsets)
    template = transfer @ source.neutral + offset
    modes = np.stack([transfer @ mode for mode in source.identity])
    _follow_eyeballs(modes, template, source, eyes_here)
    expression = _expressions(transfer, source, settings)
    expression[:, eyes_here[0].start : eyes_here[1].stop] = 0
    polygons, parts = np.concatenate(build.polygons), np.concatenate(build.parts)
    mirror = np.concatenate(build.mirrors)
    jaw_weight = transfer @ source.jaw_weight
    jaw_weight[eyes_here[0].start : eyes_here[1].stop] = 0
    weights, head_share = skinning_weights(template, jaw_weight, eyes_here)
    seal(template, expression, polygons, parts, source, settings)
    template, modes, expression = _symmetrised(template, modes, expression, mirror, source)
    # the shirt hangs on finished skin
    hang, shift, cloth = _shirt(template, polygons, parts, mirror, settings)
    template = np.concatenate([template, hang @ template + shift])
    modes = np.stack([np.concatenate([mode, hang @ mode]) for mode in modes])
    expression = np.stack([np.concatenate([delta, hang @ delta]) for delta in expression])
    weights = np.concatenate([weights, hang @ weights])
    head_share = np.concatenate([head_share, hang @ head_share])
    polygons = np.concatenate([polygons, cloth.polygons + build.count])
    parts = np.concatenate([parts, np.full(len(cloth.polygons), PARTS.index("shirt"))])
    mirror = np.concatenate([mirror, _nearest_mirror(template[build.count :]) + build.count])
    importance = _face_importance(skin_mesh, source, len(template))
    modes, _ = face_weighted_modes(modes, source.antisymmetric, template, importance)
    opened = template + 0.45 * expression[ARKIT_NAMES.index("jawOpen")]
    topology = topology_of(
        template,
        opened,
        polygons,
        parts,
        mirror,
        lash_uv,
        cloth,
        skin_mesh,
        skin_here,
        source,
        settings,
    )
    arrays = model_arrays(
        template, modes, expression, weights, head_share, source, eyes_here, skin_here
    )
    return arrays, topology


def _as_rows(
    mesh: Remeshed, source: Statistics, parts: Ints
) -> tuple[csr_matrix, Floats, Ints, Ints, Ints]:
    wide = mesh.transfer.copy()
    wide.resize((mesh.transfer.shape[0], len(source.neutral)))
    return wide, np.zeros((wide.shape[0], 3)), mesh.polygons, parts, mesh.mirror


def _add_eyes(build: _Assembly, source: Statistics, settings: HeadSettings) -> tuple[slice, slice]:
    left = eyeball(source.eye_centers[0], settings.eye_radius, settings.cornea_bulge)
    count = len(left.verts)
    nothing = csr_matrix((count, len(source.neutral)))
    parts = np.full(len(left.polygons), PARTS.index("eye_left"))
    # the right eye is the left one's mirror image, wound the other way
    other = np.arange(count)
    first = build.add(nothing, left.verts, left.polygons, parts, other + count)
    flipped = left.polygons[:, ::-1].copy()
    triangle = left.polygons[:, 3] < 0
    flipped[triangle] = left.polygons[triangle][:, [2, 1, 0, 3]]
    parts = np.full(len(left.polygons), PARTS.index("eye_right"))
    second = build.add(nothing, left.verts * MIRROR_X, flipped, parts, other - count)
    return first, second


def _follow_eyeballs(
    modes: Floats, template: Floats, source: Statistics, here: tuple[slice, slice]
) -> None:
    """Move eyeballs by the similarity that each identity mode gives the source's eyeball."""
    for side, where in zip(("left", "right"), here, strict=True):
        own = np.unique(source.polygons[slice(*source.parts[f"eyeball_{side}"])])
        own = own[own >= 0]
        centre = source.eye_centers[0 if side == "left" else 1]
        offset = source.neutral[own] - centre
        design = np.concatenate([np.tile(np.eye(3), (len(own), 1)), offset.reshape(-1, 1)], axis=1)
        solve = np.linalg.pinv(design)
        for mode, delta in enumerate(source.identity):
            fit = solve @ delta[own].ravel()
            modes[mode, where] = fit[:3] + fit[3] * (template[where] - centre)


def _add_lashes(build: _Assembly, source: Statistics) -> Floats:
    """Both sides' lash strips; UV [n, 2] of the left side's vertices."""
    polygons = source.polygons[slice(*source.parts["eyelashes_left"])]
    strips = lash_strips(source.neutral, polygons, source.eye_centers[0])
    used, roots, packed, uv, length = strips
    count = len(used)
    for part, carriers, feet, shift, quads in (
        ("lashes_left", used, roots, count, packed),
        ("lashes_right", source.mirror[used], source.mirror[roots], -count, packed[:, ::-1]),
    ):
        rows = csr_matrix(
            (
                np.concatenate([length, 1 - length]),
                (np.tile(np.arange(count), 2), np.concatenate([carriers, feet])),
            ),
            shape=(count, len(source.neutral)),
        )
        build.add(
            rows,
            np.zeros((count, 3)),
            quads,
            np.full(len(quads), PARTS.index(part)),
            np.arange(count) + shift,
        )
    return uv


def _expressions(transfer: csr_matrix, source: Statistics, settings: HeadSettings) -> Floats:
    """The 52 ARKit displacements [52, V, 3]; jawOpen is the full one, to be moved into the jaw."""
    deltas = dict(source.expression)
    tongue = np.unique(source.polygons[source.tongue_polygons])
    tongue = tongue[tongue >= 0]
    deltas["tongueOut"] = (
        tongue_out(source.neutral, tongue, settings.tongue_reach)
        + settings.tongue_jaw * source.expression["jawOpen"]
    )
    missing = [n for n in ARKIT_NAMES if n not in deltas and f"{n}_L" not in deltas]
    if missing:
        raise ValueError(f"the statistics have no expression named {', '.join(missing)}")
    full = [
        deltas[name] if name in deltas else deltas[f"{name}_L"] + deltas[f"{name}_R"]
        for name in ARKIT_NAMES
    ]
    return np.stack([transfer @ delta for delta in full])


def _shirt(
    template: Floats, polygons: Ints, parts: Ints, mirror: Ints, settings: HeadSettings
) -> tuple[csr_matrix, Floats, Part]:
    skin_polygons = polygons[np.isin(parts, [PARTS.index("face"), PARTS.index("neck")])]
    used = np.unique(skin_polygons)
    points = template[used]
    # from the base of the neck down; the underside of the chin lies above it in the same view
    height = points[:, 1] + 0.42 * points[:, 2]
    low = (height < -112) & (np.hypot(points[:, 0], points[:, 2] + 14) > 48)
    rim = min(boundary_loops(triangulate(skin_polygons)), key=lambda loop: template[loop, 1].mean())
    return shirt(
        template,
        mirror,
        used[low],
        np.array(rim),
        thickness=settings.shirt_thickness,
        floor=settings.shirt_floor,
    )


def _nearest_mirror(verts: Floats) -> Ints:
    from scipy.spatial import cKDTree

    distance, index = cKDTree(verts).query(verts * MIRROR_X)
    if distance.max() > 1e-6:
        raise ValueError(f"a part is not mirror-symmetric: off by {distance.max():.3g} mm")
    return np.asarray(index, dtype=np.int64)


def _symmetrised(
    template: Floats, modes: Floats, expression: Floats, mirror: Ints, source: Statistics
) -> tuple[Floats, Floats, Floats]:
    """Everything averaged with its mirror image: what rounding and solvers left is taken out."""
    sign = np.where(source.antisymmetric, -1.0, 1.0)[:, None, None]
    partner = [ARKIT_NAMES.index(mirrored_name(name)) for name in ARKIT_NAMES]
    return (
        0.5 * (template + template[mirror] * MIRROR_X),
        0.5 * (modes + sign * modes[:, mirror] * MIRROR_X),
        0.5 * (expression + expression[partner][:, mirror] * MIRROR_X),
    )


def _face_importance(mesh: Remeshed, source: Statistics, count: int) -> Floats:
    """1 on the face proper, 0.1 elsewhere on the skin, 0 off it; per vertex."""
    importance = np.zeros(count)
    face = np.zeros(mesh.transfer.shape[1])
    face[: source.narrow_face] = 1
    importance[: mesh.transfer.shape[0]] = 0.1 + 0.9 * (mesh.transfer @ face)
    return importance


def topology_of(
    template: Floats,
    opened: Floats,
    polygons: Ints,
    parts: Ints,
    mirror: Ints,
    lash_uv: Floats,
    cloth: Part,
    skin_mesh: Remeshed,
    skin_here: slice,
    source: Statistics,
    settings: HeadSettings,
) -> Topology:
    uv_pieces: list[Floats] = []
    uv_polygons = np.full_like(polygons, -1)
    total = 0

    def place(chosen: Bools, uv: Floats, own: Ints) -> None:
        nonlocal total
        uv_polygons[chosen] = np.where(own >= 0, own + total, -1)
        uv_pieces.append(uv)
        total += len(uv)

    def of(*names: str) -> Bools:
        return np.isin(parts, [PARTS.index(name) for name in names])

    chosen = of("face", "neck", "eye_socket")
    crown = template[skin_here][template[skin_here][:, 1].argmax()]
    place(chosen, *_unwrap_part(opened, polygons[chosen], mirror, crown))
    eye = eyeball(np.zeros(3), 1.0, 0.0)
    place(of("eye_left"), eye.uv, eye.uv_polygons)
    right = polygons[of("eye_right")]
    place(of("eye_right"), eye.uv * [-1, 1] + [1, 0], _local(right))
    for name in ("lashes_left", "lashes_right"):
        place(of(name), lash_uv, _local(polygons[of(name)]))
    chosen = of("mouth_bag", "gums", "tongue", "teeth_upper", "teeth_lower")
    used = np.unique(polygons[chosen])
    place(chosen, *pack_islands(template[used[used >= 0]], _local(polygons[chosen])))
    place(of("shirt"), cloth.uv, cloth.uv_polygons)
    points, bary = embed_landmarks(
        template, polygons, parts == PARTS.index("face"), skin_mesh, source
    )
    return Topology(
        polygons=torch.from_numpy(polygons),
        uv=torch.from_numpy(np.concatenate(uv_pieces)).float(),
        uv_polygons=torch.from_numpy(uv_polygons),
        material_ids=torch.tensor([MATERIALS.index(PART_MATERIAL[PARTS[k]]) for k in parts]),
        material_names=MATERIALS,
        part_ids=torch.from_numpy(parts),
        part_names=PARTS,
        mirror=torch.from_numpy(mirror),
        landmark_verts=torch.from_numpy(points),
        landmark_bary=torch.from_numpy(bary).float(),
        contour_verts=torch.from_numpy(contour_rows(template, skin_mesh, source)),
        dense_verts=torch.from_numpy(
            dense_points(template, skin_mesh, mirror, points, source, settings.n_dense)
        ),
    )


def _local(polygons: Ints) -> Ints:
    used = np.unique(polygons)
    used = used[used >= 0]
    return np.where(polygons >= 0, np.searchsorted(used, polygons), -1)


def _unwrap_part(
    template: Floats, polygons: Ints, mirror: Ints, crown: Floats
) -> tuple[Floats, Ints]:
    used, packed = np.unique(polygons, return_inverse=True)
    number = np.full(len(template), -1)
    number[used] = np.arange(len(used))
    focus = np.array([0.0, 10.0, 480.0])
    return unwrap_skin(
        template[used], packed.reshape(-1, 4), number[mirror[used]], crown - [0, 15, 0], focus
    )
