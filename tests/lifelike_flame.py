"""A stand-in of FLAME that is a face, with a known truth: published counts, our head's anatomy.

Our skin is thinned by collapsing edges onto their ends, so every vertex of the stand-in is one of
ours and each of our shapes has an exact value on it. The face is another identity, turned, scaled
and bent smoothly; the eyes are smaller balls; the basis of expressions is a PCA of random faces.
"""

from __future__ import annotations

import functools
import heapq
from dataclasses import dataclass

import numpy as np
import torch

from flame.load import load_head
from flame.model import Flame
from flame.remesh import triangulate
from flame.rig import regress
from flame.synthetic import SyntheticFlame, write_companions, write_flame
from flame.synthetic_mesh import SyntheticMesh, _layout, _sphere

N_HEAD, N_EYE = 3931, 546
SCALE, PITCH = 0.95, np.radians(4.0)
SHIFT = np.array([0.002, 0.01, -0.03])


@dataclass(frozen=True)
class _Mesh(SyntheticMesh):
    eyes: np.ndarray = None

    @property
    def eye_centers(self):
        return self.eyes


@dataclass(frozen=True)
class Lifelike:
    model: SyntheticFlame
    origin: np.ndarray  # [3931] vertex of our head under each vertex of the skin
    warped: np.ndarray  # our whole head's vertices, in the stand-in's identity and place
    morphs: np.ndarray  # [52, 5023, 3] the truth
    lids: np.ndarray  # [2, 5023, 3]

    def write(self, folder, name="generic_model.pkl", *, eyelids=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_companions(self.model, folder)
        for lid, side in zip(self.lids, "lr", strict=True):
            path = folder / f"{side}_eyelid.npy"
            np.save(path, lid) if eyelids else path.unlink()
        return write_flame(self.model, folder / name)


def thin(verts, faces, target, *, keep, cost_scale):
    """Collapse edges onto one of their ends until `target` vertices are left; `keep` stay."""
    rings = [set() for _ in verts]
    for index, face in enumerate(faces.tolist()):
        for v in face:
            rings[v].add(index)
    live = {index: list(face) for index, face in enumerate(faces.tolist())}
    count = len(verts)

    def neighbours(v):
        return {w for f in rings[v] for w in live[f]} - {v}

    queue = []

    def push(v):
        if not keep[v]:
            for w in neighbours(v):
                length = np.linalg.norm(verts[v] - verts[w]) * cost_scale[v]
                heapq.heappush(queue, (float(length), v, w))

    for v in range(count):
        push(v)
    alive = np.ones(count, dtype=bool)
    left = count
    while left > target:
        _, v, w = heapq.heappop(queue)
        if not (alive[v] and alive[w]) or w not in neighbours(v):
            continue
        if len(neighbours(v) & neighbours(w)) != 2:
            continue
        changed = [f for f in rings[v] if w not in live[f]]
        if any(_turns(verts, live[f], v, w) for f in changed):
            continue
        if any(len(neighbours(x)) <= 3 for x in neighbours(v) & neighbours(w)):
            continue
        for f in list(rings[v]):
            if w in live[f]:
                for x in live[f]:
                    rings[x].discard(f)
                del live[f]
            else:
                live[f] = [w if x == v else x for x in live[f]]
                rings[w].add(f)
        rings[v].clear()
        alive[v] = False
        left -= 1
        push(w)
        for x in neighbours(w):
            push(x)
    kept = np.flatnonzero(alive)
    number = np.full(count, -1)
    number[kept] = np.arange(len(kept))
    return kept, number[np.array(list(live.values()))]


def _turns(verts, face, v, w):
    def normal(corners):
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        return uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx

    before = normal([verts[x] for x in face])
    after = normal([verts[w if x == v else x] for x in face])
    dot = sum(a * b for a, b in zip(before, after, strict=True))
    size = sum(a * a for a in before) * sum(a * a for a in after)
    return dot < 0.5 * size**0.5


@functools.cache
def lifelike(*, n_span: int = 60, seed: int = 0) -> Lifelike:
    """The stand-in; the first `n_span` expressions are of faces, the rest smooth waves."""
    ours = load_head()
    rng = np.random.default_rng(seed)
    skin = triangulate(
        ours.topology.part_polygons("face", "neck", "mouth_bag", "eye_socket").numpy()
    )
    used, packed = np.unique(skin, return_inverse=True)
    packed = packed.reshape(skin.shape)
    plain = ours.template.double().numpy()
    origin, head_faces = _skin(ours, plain[used], packed)
    shape = torch.zeros(1, ours.n_shape, dtype=torch.float64)
    shape[0, :40] = torch.from_numpy(rng.normal(size=40)) * 0.8
    basis = ours.shapedirs.double().numpy()
    person = plain + np.einsum("s,svk->vk", shape[0].numpy(), basis)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(PITCH), -np.sin(PITCH)], [0, np.sin(PITCH), np.cos(PITCH)]]
    )
    bent = person + 0.002 * np.sin(person @ rng.uniform(-25, 25, (3, 3)))
    warped = SCALE * bent @ turn.T + SHIFT
    morphs_ours = ours.head(torch.zeros(ours.n_shape)).morphs.double().numpy()
    placed = SCALE * morphs_ours @ turn.T
    origin = used[origin]
    centres = []
    for side in ("eye_left", "eye_right"):
        ring = np.unique(ours.topology.part_polygons(side).numpy())
        ring = ring[ring >= 0]
        centres.append(warped[ring].mean(0) + np.array([0, 0, 0.0015]))
    eyes = [_sphere(np.zeros(3)) for _ in centres]
    balls = [c + v * (0.0135 / 0.0125) for (v, _), c in zip(eyes, centres, strict=True)]
    head = _split_rim(warped[origin], head_faces, 6)
    head_verts, head_faces, parents = head
    origin = origin[parents[:, 0]]  # a split edge's new vertex is near its end: the neck's rim
    offsets = (N_HEAD, N_HEAD + N_EYE)
    faces = np.concatenate([head_faces, *(f + o for (_, f), o in zip(eyes, offsets, strict=True))])
    verts = np.concatenate([head_verts, *balls])
    truth = np.zeros((52, len(verts), 3))
    truth[:, :N_HEAD] = placed[:, origin]
    weights = np.zeros((len(verts), 5))
    weights[:N_HEAD] = ours.lbs_weights.double().numpy()[origin]
    weights[:N_HEAD, :2] += weights[:N_HEAD, 3:].sum(1, keepdims=True) * [0, 1]
    weights[:N_HEAD, 3:] = 0
    weights[N_HEAD : N_HEAD + N_EYE, 3] = 1
    weights[N_HEAD + N_EYE :, 4] = 1
    mesh = _described(ours, warped, verts, faces, weights, origin, centres, turn)
    arrays = _arrays(mesh, ours, placed, origin, turn, truth, n_span, rng)
    # the truth of jawOpen and of eyes is that of the model's own joints
    lids = np.zeros((2, len(verts), 3))
    for row, index in enumerate((0, 7)):
        size = np.linalg.norm(truth[index], axis=1)
        chosen = np.argsort(-size)[:409]
        lids[row, chosen] = truth[index, chosen]
    return Lifelike(SyntheticFlame(mesh, arrays), origin, warped, truth, lids)


def _skin(ours: Flame, verts, faces):
    ends = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, uses = np.unique(ends, axis=0, return_counts=True)
    keep = np.zeros(len(verts), dtype=bool)
    keep[edges[uses == 1]] = True
    # as in FLAME, lids and lips stay finest, then the front
    fine = ours.landmarks68(ours.template[None])[0, 36:].double().numpy()
    near = np.linalg.norm(verts[:, None] - fine[None], axis=2).min(1)
    cost = np.where(verts[:, 2] > 0.03, 1.0, 0.6) * (1 + 5 * np.exp(-np.square(near / 0.008)))
    return thin(verts, faces, N_HEAD - 6, keep=keep, cost_scale=cost)


def _split_rim(verts, faces, count):
    """Halve `count` border edges: the published border has 60."""
    faces = faces.tolist()
    parents = [[i, i] for i in range(len(verts))]
    verts = list(verts)
    seen = {}
    for index, (a, b, c) in enumerate(faces):
        for edge in ((a, b), (b, c), (c, a)):
            seen.setdefault(tuple(sorted(edge)), []).append((index, edge))
    rim = [found[0] for found in seen.values() if len(found) == 1]
    done = set()
    for index, (a, b) in rim:
        if index in done or len(done) == count:
            continue
        done.add(index)
        new = len(verts)
        verts.append((verts[a] + verts[b]) / 2)
        parents.append([a, b])
        (c,) = set(faces[index]) - {a, b}
        faces[index] = [a, new, c]
        faces.append([new, b, c])
    return np.array(verts), np.array(faces), np.array(parents)


def _nearest_embedding(points, verts, faces):
    from flame.registration import ClosestPoints, vertex_normals

    normals = vertex_normals(verts, faces)
    nearest = np.linalg.norm(points[:, None] - verts[None], axis=2).argmin(1)
    face, bary, _ = ClosestPoints(verts, faces).query(points, normals[nearest], candidates=24)
    return face, bary


def _described(ours, warped, verts, faces, weights, origin, centres, turn) -> _Mesh:
    regressor = np.zeros((5, len(verts)))
    joints = ours.joint_regressor.double().numpy() @ warped
    ring = np.argsort(np.linalg.norm(verts[:N_HEAD] - joints[2], axis=1))[:400]
    neck = np.argsort(verts[:N_HEAD, 1])[:300]
    regressor[0], regressor[1] = regress(verts, neck, joints[0]), regress(verts, neck, joints[1])
    regressor[2] = regress(verts, ring, joints[2])
    for k in (0, 1):
        regressor[3 + k, N_HEAD + N_EYE * k : N_HEAD + N_EYE * (k + 1)] = 1 / N_EYE
    marks = ours.landmarks68(torch.from_numpy(warped).float()[None])[0].double().numpy()
    found = _nearest_embedding(marks, verts[:N_HEAD], faces[:7800])
    contour = np.broadcast_to(found[0][:17], (79, 17)), np.broadcast_to(found[1][:17], (79, 17, 3))
    dense = np.resize(np.arange(17, 68), 105)
    uv, uv_faces = _layout(verts, faces)
    return _Mesh(
        verts,
        faces,
        uv,
        uv_faces,
        regressor,
        weights,
        *found,
        np.ascontiguousarray(contour[0]),
        np.ascontiguousarray(contour[1]),
        found[0][dense],
        found[1][dense],
        np.array(centres),
    )


def _arrays(mesh, ours, placed, origin, turn, truth, n_span, rng):
    """Bases: faces without the jaw's turn, which has its own parameter as in FLAME."""
    linear = np.zeros((52, len(mesh.verts), 3))
    linear[:, :N_HEAD] = SCALE * ours.expressiondirs.double().numpy()[:, origin] @ turn.T
    linear[17] = 0
    waves = np.sin(mesh.verts @ rng.uniform(-60, 60, (3, 3 * 400)) + rng.uniform(0, 6, 3 * 400))
    waves = waves.reshape(len(mesh.verts), 3, 400)
    samples = rng.uniform(0, 1, (600, 52)) * (rng.uniform(size=(600, 52)) < 0.25)
    fields = np.einsum("nm,mvk->nvk", samples, linear).reshape(600, -1)
    moving = np.linalg.norm(linear, axis=2).max(0)  # noise only where faces move
    noise = rng.normal(size=(600, 12)) @ (
        waves[:, :, :12].transpose(2, 0, 1) * np.minimum(moving, 1e-3)[None, :, None]
    ).reshape(12, -1)
    fields = fields + 0.2 * noise
    fields -= fields.mean(0)
    _, values, rows = _thin_svd(fields)
    directions = np.zeros((100, len(mesh.verts), 3))
    directions[:n_span] = (rows[:n_span] * values[:n_span, None] / np.sqrt(600)).reshape(
        n_span, -1, 3
    )
    rest = waves[:, :, 100:200].transpose(2, 0, 1) * np.minimum(moving, 1e-3)[None, :, None]
    directions[n_span:] = 0.3 * rest[: 100 - n_span]
    identity = waves[:, :, :300] * (4e-3 / (1 + np.arange(300)))
    pose = np.zeros((36, len(mesh.verts), 3))
    pose[:, :N_HEAD] = SCALE * ours.posedirs.double().numpy()[:, origin] @ turn.T
    return {
        "f": mesh.faces.astype(np.uint32),
        "v_template": mesh.verts,
        "shapedirs": np.concatenate([identity, directions.transpose(1, 2, 0)], axis=2),
        "posedirs": np.ascontiguousarray(pose.transpose(1, 2, 0)),
        "J_regressor": mesh.joint_regressor,
        "J": mesh.joint_regressor @ mesh.verts,
        "weights": mesh.lbs_weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], range(5)], dtype=np.uint32),
    }


def _thin_svd(fields):
    """SVD through the small Gram matrix: 600 faces of many coordinates."""
    values, u = np.linalg.eigh(fields @ fields.T)
    order = np.argsort(-values)
    s = np.sqrt(np.clip(values[order], 1e-18, None))
    return u[:, order], s, (u[:, order] / s).T @ fields
