"""From statistics to a head model: own topology, transferred modes, joints, weights, landmarks, UV."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from flame.arkit import ARKIT_NAMES
from flame.contact import nearest_on_chain, split_loop, spread
from flame.landmarks import contour_rows, dense_points, embed_landmarks
from flame.model import PARENTS, FlameArrays, jaw_posedirs, joint_transforms, skin
from flame.parts import Part, eyeball, lash_strips, shirt, tongue_out
from flame.remesh import (
    Bools,
    Floats,
    Ints,
    Remeshed,
    collapse_polychords,
    polygon_edges,
    triangulate,
)
from flame.rotation import axis_angle_to_matrix
from flame.statistics import MIRROR_X, Statistics, face_weighted_modes
from flame.topology import Topology
from flame.unwrap import boundary_loops, pack_islands, unwrap_skin

log = logging.getLogger(__name__)

MATERIALS = ("skin", "eyes", "mouth", "lashes", "shirt")
PARTS = (
    "face",
    "neck",
    "mouth_bag",
    "eye_socket",
    "gums",
    "tongue",
    "teeth_upper",
    "teeth_lower",
    "eye_left",
    "eye_right",
    "lashes_left",
    "lashes_right",
    "shirt",
)
PART_MATERIAL = {
    "face": "skin",
    "neck": "skin",
    "eye_socket": "skin",
    "mouth_bag": "mouth",
    "gums": "mouth",
    "tongue": "mouth",
    "teeth_upper": "mouth",
    "teeth_lower": "mouth",
    "eye_left": "eyes",
    "eye_right": "eyes",
    "lashes_left": "lashes",
    "lashes_right": "lashes",
    "shirt": "shirt",
}


@dataclass(frozen=True)
class HeadSettings:
    """Sizes of the built head; lengths in millimetres."""

    skin_target: int = 9900  # vertices of skin, sockets and mouth bag together
    gums_target: int = 1100
    teeth_target: int = 2600
    eye_radius: float = 14.95
    cornea_bulge: float = 0.75
    lid_clearance: float = 0.30
    tongue_reach: float = 38.0
    tongue_jaw: float = 0.5  # share of jawOpen inside tongueOut, so that the tongue gets out
    shirt_thickness: float = 2.6
    shirt_floor: float = -222.0
    n_dense: int = 320


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
    skin_mesh = _remesh_skin(source, settings)
    skin_here = build.add(*_as_rows(skin_mesh, source, _skin_part_ids(skin_mesh)))
    for names, parts, target in (
        (("gums_tongue",), ("gums",), settings.gums_target),
        (("teeth_upper", "teeth_lower"), ("teeth_upper", "teeth_lower"), settings.teeth_target),
    ):
        mesh = _remesh_inner(source, names, target)
        ids = np.array([PARTS.index(part) for part in parts])[mesh.polygon_labels]
        if names == ("gums_tongue",):
            ids = np.where(_is_tongue(mesh, source), PARTS.index("tongue"), ids)
        build.add(*_as_rows(mesh, source, ids))
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
    weights, head_share = _weights(template, jaw_weight, eyes_here)
    _seal(template, expression, polygons, parts, source, settings)
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
    topology = _topology(
        template, opened, polygons, parts, mirror, lash_uv, cloth, skin_mesh, skin_here, source, settings
    )
    arrays = _arrays(template, modes, expression, weights, head_share, source, eyes_here, skin_here)
    return arrays, topology


def _as_rows(
    mesh: Remeshed, source: Statistics, parts: Ints
) -> tuple[csr_matrix, Floats, Ints, Ints, Ints]:
    wide = mesh.transfer.copy()
    wide.resize((mesh.transfer.shape[0], len(source.neutral)))
    return wide, np.zeros((wide.shape[0], 3)), mesh.polygons, parts, mesh.mirror


def _ranges(source: Statistics, names: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Polygons of the named parts of the source and the index of each one's name."""
    pieces = [source.polygons[slice(*source.parts[name])] for name in names]
    labels = [np.full(len(piece), index) for index, piece in enumerate(pieces)]
    return np.concatenate(pieces), np.concatenate(labels)


def _remesh_skin(source: Statistics, settings: HeadSettings) -> Remeshed:
    names = ("face", "head_neck", "mouth_socket", "eye_socket_left", "eye_socket_right")
    polygons, labels = _ranges(source, names)
    count = int(polygons.max()) + 1
    verts = source.neutral[:count]
    surface = np.maximum(labels - 1, 0)  # face and neck are one surface
    margin = _label_border(polygons, surface)
    rank = np.zeros(count, dtype=np.int64)
    rank[source.mirror[:count] == np.arange(count)] += 1
    rank[margin] += 2
    half, _ = polygon_edges(polygons)
    edges, uses = np.unique(np.sort(half, axis=1), axis=0, return_counts=True)
    rank[np.unique(edges[uses == 1])] += 2
    importance = np.ones(count)
    importance[: source.narrow_face] = 3.0
    importance[np.unique(polygons[labels > 1])] = 0.3
    near = np.linalg.norm(verts[:, None] - verts[margin][None, ::3], axis=2).min(1)
    importance *= 1 + 3 * np.exp(-((near / 9.0) ** 2))
    return collapse_polychords(
        verts,
        polygons,
        labels,
        source.mirror[:count],
        target=settings.skin_target,
        importance=importance,
        rank=rank,
    )


def _label_border(polygons: Ints, labels: Ints) -> Ints:
    half, owner = polygon_edges(polygons)
    key = np.sort(half, axis=1)
    order = np.lexsort((key[:, 1], key[:, 0]))
    key, label = key[order], labels[owner[order]]
    same = (key[1:] == key[:-1]).all(1) & (label[1:] != label[:-1])
    return np.unique(key[1:][same])


def _skin_part_ids(mesh: Remeshed) -> Ints:
    order = ("face", "neck", "mouth_bag", "eye_socket", "eye_socket")
    return np.array([PARTS.index(name) for name in order])[mesh.polygon_labels]


def _remesh_inner(source: Statistics, names: tuple[str, ...], target: int) -> Remeshed:
    polygons, labels = _ranges(source, names)
    used, packed = np.unique(polygons, return_inverse=True)
    packed = packed.reshape(polygons.shape)
    if used[0] < 0:
        used, packed = used[1:], packed - 1
    number = np.full(len(source.neutral), -1)
    number[used] = np.arange(len(used))
    mirror = number[source.mirror[used]]
    mesh = collapse_polychords(
        source.neutral[used],
        packed,
        labels,
        mirror,
        target=target,
        importance=np.ones(len(used)),
        rank=(mirror == np.arange(len(used))).astype(np.int64),
        smoothing=2,
        max_valence=8,
    )
    wide = csr_matrix(
        (mesh.transfer.data, used[mesh.transfer.indices], mesh.transfer.indptr),
        shape=(mesh.transfer.shape[0], len(source.neutral)),
    )
    groups = np.full(len(source.neutral), -1)
    groups[used] = mesh.groups
    return Remeshed(mesh.polygons, mesh.polygon_labels, wide, mesh.mirror, groups)


def _is_tongue(mesh: Remeshed, source: Statistics) -> Bools:
    """Polygons whose corners all come from tongue vertices."""
    tongue = np.zeros(len(source.neutral))
    tongue[np.unique(source.polygons[source.tongue_polygons])] = 1
    share = mesh.transfer @ tongue
    return np.asarray((share[mesh.polygons] > 0.99).all(1))


def _add_eyes(
    build: _Assembly, source: Statistics, settings: HeadSettings
) -> tuple[slice, slice]:
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


def _smoothstep(low: float, high: float, x: Floats) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _weights(
    template: Floats, jaw_weight: Floats, eyes: tuple[slice, slice]
) -> tuple[Floats, Floats]:
    """LBS weights [V, 5] (root, neck, jaw, eyes) and the head joint's share of the neck's."""
    # planes of equal height lean with the neck: chin and skull base lie on one of them
    height = template[:, 1] + 0.32 * template[:, 2]
    neck = _smoothstep(-138.0, -70.0, height)
    head = _smoothstep(-112.0, -66.0, height)
    jaw = np.clip(jaw_weight, 0, 1) * neck
    weights = np.zeros((len(template), 5))
    weights[:, 0] = 1 - neck
    weights[:, 1] = neck - jaw
    weights[:, 2] = jaw
    for joint, where in enumerate(eyes, start=3):
        weights[where] = 0
        weights[where, joint] = 1
    share = np.divide(head, neck, out=np.zeros_like(head), where=neck > 1e-9)
    # what the jaw moves belongs to the head altogether
    share = np.maximum(share, _smoothstep(0.0, 0.3, jaw))
    return weights, np.clip(share, 0, 1)


def _lip_loop(template: Floats, polygons: Ints, parts: Ints) -> Ints:
    """The border of the skin against the mouth bag."""
    face = np.isin(parts, [PARTS.index("face"), PARTS.index("neck")])
    loops = [np.array(loop) for loop in boundary_loops(triangulate(polygons[face]))]
    crossing = [loop for loop in loops if np.ptp(np.sign(template[loop, 0])) == 2]
    return max(crossing, key=lambda loop: float(template[loop, 2].mean()))


def _seal(
    template: Floats,
    expression: Floats,
    polygons: Ints,
    parts: Ints,
    source: Statistics,
    settings: HeadSettings,
) -> None:
    """Make lips meet at rest and under mouthClose, and lids close over the eyeball."""
    surface = polygons[np.isin(parts, [PARTS.index(n) for n in ("face", "neck", "mouth_bag", "eye_socket")])]
    lips = _lip_loop(template, polygons, parts)
    upper, lower = split_loop(template, lips)
    field = _meet(template, surface, upper, lower, gap=0.15, reach=9.0)
    template += field
    opened = ARKIT_NAMES.index("jawOpen")
    closed = ARKIT_NAMES.index("mouthClose")
    state = template + expression[opened] + expression[closed]
    expression[closed] += _meet(state, surface, upper, lower, gap=0.05, reach=22.0)
    clearance = settings.eye_radius + settings.cornea_bulge + settings.lid_clearance
    for side in ("Left", "Right"):
        centre = source.eye_centers[0 if side == "Left" else 1]
        blink = ARKIT_NAMES.index(f"eyeBlink{side}")
        _clear_cornea(template, expression[blink], surface, centre, clearance)


def _meet(
    state: Floats, surface: Ints, upper: Ints, lower: Ints, *, gap: float, reach: float
) -> Floats:
    """Displacement that brings two facing chains within `gap` of each other, half each."""
    to_lower = nearest_on_chain(state[upper], state[lower]) - state[upper]
    to_upper = nearest_on_chain(state[lower], state[upper]) - state[lower]

    def share(offset: Floats) -> Floats:
        length = np.linalg.norm(offset, axis=1, keepdims=True)
        return 0.5 * offset * np.clip(1 - gap / np.maximum(length, 1e-9), 0, 1)

    handles = np.concatenate([upper, lower[1:-1]])
    shifts = np.concatenate([share(to_lower), share(to_upper)[1:-1]])
    return spread(state, surface, handles, shifts, reach=reach)


def _clear_cornea(
    template: Floats, delta: Floats, surface: Ints, centre: Floats, clearance: float
) -> None:
    """Lift lid vertices of a closed eye off the eyeball, in front of it only."""
    used = np.unique(surface)
    offset = template[used] + delta[used] - centre
    distance = np.linalg.norm(offset, axis=1)
    moving = np.linalg.norm(delta[used], axis=1) > 0.8
    inside = moving & (distance < clearance) & (offset[:, 2] > 4.0) & (distance > 1e-6)
    lift = offset * (clearance / np.maximum(distance, 1e-6) - 1)[:, None]
    delta[used[inside]] += lift[inside]


def _shirt(
    template: Floats, polygons: Ints, parts: Ints, mirror: Ints, settings: HeadSettings
) -> tuple[csr_matrix, Floats, Part]:
    skin_polygons = polygons[np.isin(parts, [PARTS.index("face"), PARTS.index("neck")])]
    used = np.unique(skin_polygons)
    points = template[used]
    # from the base of the neck down; the underside of the chin lies above it in the same view
    height = points[:, 1] + 0.42 * points[:, 2]
    low = (height < -112) & (np.hypot(points[:, 0], points[:, 2] + 14) > 48)
    rim = min(
        boundary_loops(triangulate(skin_polygons)), key=lambda loop: template[loop, 1].mean()
    )
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
    from flame.arkit import mirrored_name

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


def _topology(
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
    points, bary = embed_landmarks(template, polygons, parts == PARTS.index("face"), skin_mesh, source)
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
        template[used], packed.reshape(-1, 4), number[mirror[used]], crown + [0, -15, 0], focus
    )


def _arrays(
    template: Floats,
    modes: Floats,
    expression: Floats,
    weights: Floats,
    head_share: Floats,
    source: Statistics,
    eyes: tuple[slice, slice],
    skin_here: slice,
) -> FlameArrays:
    skin_verts = template[skin_here]
    height = skin_verts[:, 1] + 0.32 * skin_verts[:, 2]
    ear_ring = np.abs(np.linalg.norm(skin_verts[:, 1:] - source.jaw_hinge[1:], axis=1)) < 32
    ear_ring &= np.abs(skin_verts[:, 0]) > 55
    collar = np.abs(height + 120) < 18
    low = height < -150
    rings = [
        (np.flatnonzero(low), np.array([0.0, -150.0, -20.0])),
        (np.flatnonzero(collar), np.array([0.0, -75.0, -22.0])),
        (np.flatnonzero(ear_ring), source.jaw_hinge),
        (np.arange(eyes[0].start, eyes[0].stop), source.eye_centers[0]),
        (np.arange(eyes[1].start, eyes[1].stop), source.eye_centers[1]),
    ]
    regressor = np.stack([_regress(template, ring, point) for ring, point in rings])
    head_joint = _regress(template, np.flatnonzero(ear_ring), np.array([0.0, -28.0, -6.0]))
    opened = ARKIT_NAMES.index("jawOpen")
    metres = 1e-3
    joints = torch.from_numpy(regressor @ template) * metres
    rest = torch.from_numpy(template) * metres
    turned = torch.zeros(1, 5, 3, dtype=torch.float64)
    turned[0, PARENTS.index(1), 0] = np.radians(source.jaw_open_deg)
    transforms = joint_transforms(axis_angle_to_matrix(turned), joints[None], PARENTS)
    swung = skin(rest[None], transforms, torch.from_numpy(weights))[0]
    full = torch.from_numpy(expression[opened]) * metres
    corrective = full - (swung - rest)
    expression = expression.copy()
    expression[opened] = 0
    return FlameArrays(
        template=rest.float(),
        shapedirs=torch.from_numpy(modes * metres).float(),
        expressiondirs=torch.from_numpy(expression * metres).float(),
        posedirs=jaw_posedirs(corrective.float(), source.jaw_open_deg),
        joint_regressor=torch.from_numpy(regressor).float(),
        lbs_weights=torch.from_numpy(weights).float(),
        head_joint_regressor=torch.from_numpy(head_joint).float(),
        head_share=torch.from_numpy(head_share).float(),
    )


def _regress(template: Floats, ring: Ints, point: Floats) -> Floats:
    """The evenest weights [V] on a ring of vertices that sum to 1 and give the point."""
    conditions = np.concatenate([template[ring].T, np.ones((1, len(ring)))])
    even = np.full(len(ring), 1 / len(ring))
    wanted = np.append(point, 1.0) - conditions @ even
    result = np.zeros(len(template))
    result[ring] = even + np.linalg.pinv(conditions) @ wanted
    return result


__all__ = ["MATERIALS", "PARTS", "HeadSettings", "Part", "assemble"]
