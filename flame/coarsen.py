"""The source's skin, gums and teeth on coarser meshes of our own, each with its transfer."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from flame.blueprint import PARTS, HeadSettings
from flame.remesh import Bools, Ints, Remeshed, collapse_polychords, polygon_edges
from flame.statistics import Statistics


def remesh_skin(source: Statistics, settings: HeadSettings) -> Remeshed:
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


def skin_part_ids(mesh: Remeshed) -> Ints:
    order = ("face", "neck", "mouth_bag", "eye_socket", "eye_socket")
    return np.array([PARTS.index(name) for name in order])[mesh.polygon_labels]


def remesh_inner(source: Statistics, names: tuple[str, ...], target: int) -> Remeshed:
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


def is_tongue(mesh: Remeshed, source: Statistics) -> Bools:
    """Polygons whose corners all come from tongue vertices."""
    tongue = np.zeros(len(source.neutral))
    tongue[np.unique(source.polygons[source.tongue_polygons])] = 1
    share = mesh.transfer @ tongue
    return np.asarray((share[mesh.polygons] > 0.99).all(1))


def _ranges(source: Statistics, names: tuple[str, ...]) -> tuple[Ints, Ints]:
    """Polygons of the named parts of the source and the index of each one's name."""
    pieces = [source.polygons[slice(*source.parts[name])] for name in names]
    labels = [np.full(len(piece), index) for index, piece in enumerate(pieces)]
    return np.concatenate(pieces), np.concatenate(labels)
