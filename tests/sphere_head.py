"""A small complete head made of spheres, whose true normals and seams are known, for exporters."""

from __future__ import annotations

import math

import torch
import trimesh
from torch import Tensor

from flame.arkit import ARKIT_NAMES
from flame.gltf import Animation
from flame.head import Head
from flame.material import Material

CENTER = torch.tensor([0.01, 0.05, 0.02])
RADIUS = 0.1
_JOINTS = [
    [0.0, -0.2, 0.0],
    [0.0, -0.1, -0.01],
    [0.0, 0.0, -0.02],
    [0.0, -0.02, 0.03],
    [0.03, 0.05, 0.08],
    [-0.03, 0.05, 0.08],
]


def make_sphere_head(*, n_around: int = 12, n_rings: int = 7, seed: int = 0) -> Head:
    """A skin sphere with a UV seam, an eye sphere inside it, and a shirt that nothing moves.

    Morphs move random tenths of the skin; jawOpen all of it, jawForward the eye too, and tongueOut
    nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    skin = _sphere(n_around, n_rings)
    eye = _sphere(8, 5)
    verts = torch.cat(
        [
            CENTER + RADIUS * skin[0],
            torch.tensor([0.03, 0.05, 0.08]) + 0.012 * eye[0],
            torch.tensor([[-0.1, -0.3, 0.0], [0.1, -0.3, 0.0], [0.1, -0.1, 0.0], [-0.1, -0.1, 0]]),
        ]
    )
    uv = torch.cat([skin[2], eye[2], torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])])
    polygons, uv_polygons, material_ids = [], [], []
    first_vert, first_uv = 0, 0
    shirt = (verts[:4], torch.arange(4)[None], uv[:4], torch.arange(4)[None])
    for index, (points, faces, coordinates, uv_faces) in enumerate((skin, eye, shirt)):
        polygons.append(torch.where(faces >= 0, faces + first_vert, -1))
        uv_polygons.append(torch.where(uv_faces >= 0, uv_faces + first_uv, -1))
        material_ids.append(torch.full((len(faces),), index))
        first_vert += len(points)
        first_uv += len(coordinates)
    n_skin, n_eye = len(skin[0]), len(eye[0])

    morphs = torch.zeros(len(ARKIT_NAMES), len(verts), 3)
    for name, morph in zip(ARKIT_NAMES, morphs, strict=True):
        moves = torch.rand(n_skin, generator=generator) < (1.0 if name == "jawOpen" else 0.1)
        morph[:n_skin] = 0.01 * torch.randn(n_skin, 3, generator=generator) * moves[:, None]
        if name == "jawForward":
            morph[n_skin : n_skin + n_eye, 2] = 0.003
        if name == "tongueOut":
            morph.zero_()

    # up to four joints a vertex, so that glTF's four influences hold all of it
    spread = torch.rand(len(verts), 6, generator=generator) * 0.9 + 0.05
    spread[:, 0] = 0
    spread.scatter_(1, torch.randint(1, 6, (len(verts), 1), generator=generator), 0.0)
    spread[n_skin : n_skin + n_eye] = torch.eye(6)[4]
    spread[n_skin + n_eye :] = torch.eye(6)[1]
    return Head(
        verts=verts,
        polygons=torch.cat(polygons),
        uv=uv,
        uv_polygons=torch.cat(uv_polygons),
        material_ids=torch.cat(material_ids),
        material_names=("skin", "eyes", "shirt", "hair"),
        morphs=morphs,
        morph_names=ARKIT_NAMES,
        joints=torch.tensor(_JOINTS),
        lbs_weights=spread / spread.sum(dim=1, keepdim=True),
    )


def make_icosphere_head() -> Head:
    """A unit sphere of which each vertex is a centre of symmetry, so that any fair mean of its
    faces' normals is its direction; a quarter turn about x as jawOpen; uv cut along every edge.
    """
    sphere = trimesh.creation.icosphere(subdivisions=1)
    faces = torch.tensor(sphere.faces)
    verts = torch.tensor(sphere.vertices, dtype=torch.float32)
    verts = torch.nn.functional.normalize(verts, dim=1)
    turned = torch.stack([verts[:, 0], -verts[:, 2], verts[:, 1]], dim=1)
    morphs = torch.zeros(52, len(verts), 3)
    morphs[ARKIT_NAMES.index("jawOpen")] = turned - verts
    polygons = torch.nn.functional.pad(faces, (0, 1), value=-1)
    corners = torch.arange(3 * len(faces)).reshape(-1, 3)
    generator = torch.Generator().manual_seed(2)
    return Head(
        verts=verts,
        polygons=polygons,
        uv=torch.rand(3 * len(faces), 2, generator=generator),
        uv_polygons=torch.nn.functional.pad(corners, (0, 1), value=-1),
        material_ids=torch.zeros(len(faces), dtype=torch.long),
        material_names=("skin",),
        morphs=morphs,
        morph_names=ARKIT_NAMES,
        joints=torch.tensor(_JOINTS),
        lbs_weights=torch.eye(6)[2].expand(len(verts), 6),
    )


def make_materials() -> list[Material]:
    """Skin with every map, eyes with alpha, a plain shirt; hair, which the head has none of."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 1, 96).expand(96, 96)
    flat_normal = torch.tensor([0.5, 0.5, 1.0])[:, None, None].expand(3, 16, 16)
    return [
        Material(
            "skin",
            base_color=torch.stack([ramp, ramp.T, torch.full((96, 96), 0.5)]),
            normal=flat_normal,
            roughness=torch.rand(1, 16, 16, generator=generator),
        ),
        Material(
            "eyes",
            base_color=torch.rand(4, 8, 8, generator=generator),
            roughness=0.1,
            alpha_mode="BLEND",
            double_sided=True,
        ),
        Material("shirt", base_color=torch.full((3, 4, 4), 0.2), alpha_mode="MASK"),
        Material("hair", base_color=torch.zeros(3, 2, 2)),
    ]


def _sphere(n_around: int, n_rings: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit sphere: vertices, polygons (quads, triangles at the poles), uv, uv polygons.

    Its uv has one column more than its vertices: the seam at longitude 0, and a point for each
    triangle at the poles.
    """
    points = [[0.0, -1.0, 0.0]]
    for ring in range(1, n_rings):
        polar = math.pi * ring / n_rings
        for step in range(n_around):
            angle = 2 * math.pi * step / n_around
            points.append(
                [
                    math.sin(polar) * math.sin(angle),
                    -math.cos(polar),
                    math.sin(polar) * math.cos(angle),
                ]
            )
    points.append([0.0, 1.0, 0.0])
    uv = [
        [step / n_around, ring / n_rings]
        for ring in range(n_rings + 1)
        for step in range(n_around + 1)
    ]

    def vert(ring: int, step: int) -> int:
        if ring in (0, n_rings):
            return 0 if ring == 0 else len(points) - 1
        return 1 + (ring - 1) * n_around + step % n_around

    faces, uv_faces = [], []
    for ring in range(n_rings):
        for step in range(n_around):
            corners = [(ring, step), (ring, step + 1), (ring + 1, step + 1), (ring + 1, step)]
            if ring == 0:
                del corners[1]
            if ring == n_rings - 1:
                del corners[2]
            padding = [-1] * (4 - len(corners))
            faces.append([vert(*corner) for corner in corners] + padding)
            uv_faces.append([r * (n_around + 1) + s for r, s in corners] + padding)
    return torch.tensor(points), torch.tensor(faces), torch.tensor(uv), torch.tensor(uv_faces)


def make_clip() -> Animation:
    """Four keys within a second of random weights and rotations."""
    generator = torch.Generator().manual_seed(4)
    return Animation(
        times=torch.tensor([0.0, 0.25, 0.5, 1.0]),
        weights=torch.rand(4, 52, generator=generator),
        rotations=0.4 * torch.randn(4, 6, 3, generator=generator),
    )
