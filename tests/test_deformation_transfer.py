"""Deformation transfer against what is known: same, turned, scaled and subdivided meshes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation

from flame.deformation_transfer import (
    Correspondence,
    DeformationTransfer,
    TransferConfig,
    deformation_gradients,
    gradient_operator,
)


def dome(count=14):
    """A bumpy sheet whose vertices lie in no regular order of lengths."""
    x, y = np.meshgrid(np.linspace(-1, 1, count), np.linspace(-1, 1.2, count))
    x, y = x.ravel(), y.ravel()
    verts = 0.1 * np.stack([x, y, 0.6 - 0.4 * x**2 - 0.3 * y**2 + 0.1 * np.sin(5 * x * y)], axis=1)
    corner = np.arange(count * (count - 1)).reshape(-1, count)[:, :-1].ravel()
    first = np.stack([corner, corner + 1, corner + count], axis=1)
    second = np.stack([corner + 1, corner + count + 1, corner + count], axis=1)
    return verts, np.concatenate([first, second])


def moves(verts, count=3, seed=0):
    """Smooth shapes that leave the sheet's lower edge (y < -0.09) where it is."""
    rng = np.random.default_rng(seed)
    rise = np.clip((verts[:, 1] + 0.085) / 0.1, 0, None) ** 2
    waves = np.sin(verts @ rng.uniform(-20, 20, (3, 3 * count))).reshape(len(verts), count, 3)
    return 0.02 * (rise[:, None, None] * waves).transpose(1, 0, 2)


def onto_itself(verts, faces):
    first = np.zeros(len(verts), dtype=np.int64)
    bary = np.zeros((len(verts), 3))
    for index, face in enumerate(faces):
        first[face] = index
        bary[face] = np.eye(3)
    return Correspondence(
        np.arange(len(faces))[:, None], np.ones(len(faces)), first, bary, np.ones(len(verts))
    )


def test_a_shape_on_its_own_mesh_is_itself():
    verts, faces = dome()
    shapes = moves(verts)
    still = verts[:, 1] < -0.09
    transfer = DeformationTransfer(
        verts, faces, verts, faces, onto_itself(verts, faces), still=still
    )
    np.testing.assert_allclose(transfer.transfer(shapes), shapes, atol=1e-9, rtol=0)


def test_a_shape_holds_by_gradients_alone_where_points_do_not_pull():
    verts, faces = dome()
    shapes = moves(verts)
    match = onto_itself(verts, faces)
    alone = Correspondence(
        match.faces, match.confidence, match.vert_faces, match.vert_bary, np.zeros(len(verts))
    )
    transfer = DeformationTransfer(verts, faces, verts, faces, alone, still=verts[:, 1] < -0.09)
    np.testing.assert_allclose(transfer.transfer(shapes), shapes, atol=1e-8, rtol=0)


def test_a_turned_and_scaled_copy_takes_turned_and_scaled_shapes():
    verts, faces = dome()
    shapes = moves(verts)
    turn = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix()
    copy = 1.7 * verts @ turn.T + [0.3, -0.2, 0.1]
    transfer = DeformationTransfer(
        verts, faces, copy, faces, onto_itself(verts, faces),
        still=verts[:, 1] < -0.09, scale=1.7, rotation=turn,
    )  # fmt: skip
    np.testing.assert_allclose(transfer.transfer(shapes), 1.7 * shapes @ turn.T, atol=1e-9, rtol=0)


def test_a_subdivided_copy_takes_the_shapes_of_its_parents():
    verts, faces = dome()
    shapes = moves(verts)
    # each triangle gets a vertex in its middle: three children, exact linear values
    middle = len(verts) + np.arange(len(faces))
    fine = np.concatenate([verts, verts[faces].mean(1)])
    children = [
        np.stack([faces[:, a], faces[:, b], middle], axis=1) for a, b in ((0, 1), (1, 2), (2, 0))
    ]
    fine_faces = np.concatenate(children)
    parents = np.tile(np.arange(len(faces)), 3)
    coarse = onto_itself(verts, faces)
    match = Correspondence(
        parents[:, None],
        np.ones(len(fine_faces)),
        np.concatenate([coarse.vert_faces, np.arange(len(faces))]),
        np.concatenate([coarse.vert_bary, np.full((len(faces), 3), 1 / 3)]),
        np.ones(len(fine)),
    )
    wanted = np.concatenate([shapes, shapes[:, faces].mean(2)], axis=1)
    transfer = DeformationTransfer(
        verts, faces, fine, fine_faces, match, still=fine[:, 1] < -0.0999
    )
    np.testing.assert_allclose(
        transfer.transfer(wanted[:, : len(verts)]), wanted, atol=1e-9, rtol=0
    )


def test_still_vertices_do_not_move_and_the_rest_is_the_least_squares_of_the_gradients():
    verts, faces = dome(6)
    target = verts * [1.2, 0.9, 1.4]  # another shape: no exact answer
    shapes = moves(verts, count=1)
    match = onto_itself(verts, faces)
    still = verts[:, 1] < -0.05
    config = TransferConfig(drift=0.02)
    found = DeformationTransfer(
        verts, faces, target, faces, match, still=still, config=config
    ).transfer(shapes)[0]
    assert (found[still] == 0).all()
    # the same objective, dense, by another solver
    gradient, area, normals = gradient_operator(target, faces)
    change = deformation_gradients(verts, faces, shapes[0]) - np.eye(3)
    tangent = np.eye(3) - normals[:, :, None] * normals[:, None, :]
    wanted = (change @ tangent).transpose(0, 2, 1).reshape(-1, 3)
    mass = np.bincount(faces.ravel(), np.repeat(area / 3, 3))
    rows = np.concatenate(
        [
            np.sqrt(np.repeat(area, 3))[:, None] * gradient.toarray(),
            np.diag(np.sqrt(mass) / config.drift),
        ]
    )[:, ~still]
    for axis in range(3):
        right = np.concatenate(
            [np.sqrt(np.repeat(area, 3)) * wanted[:, axis],
             np.sqrt(mass) / config.drift * shapes[0, :, axis]]
        )  # fmt: skip
        best = lsq_linear(rows, right).x
        np.testing.assert_allclose(found[~still, axis], best, atol=1e-8, rtol=0)


def test_gradients_of_a_linear_map_are_that_map():
    verts, faces = dome()
    turn = Rotation.from_rotvec([0.2, 0.5, -0.4]).as_matrix()
    linear = 1.3 * turn  # a similarity scales the fourth vertex as it does the plane
    found = deformation_gradients(verts, faces, verts @ linear.T - verts)
    np.testing.assert_allclose(found, np.broadcast_to(linear, found.shape), atol=1e-10, rtol=0)


def test_the_gradient_of_a_linear_function_is_its_slope_in_the_plane():
    verts, faces = dome()
    gradient, area, normals = gradient_operator(verts, faces)
    slope = np.array([0.3, -1.0, 0.7])
    found = (gradient @ (verts @ slope)).reshape(-1, 3)
    flat = slope - normals * (normals @ slope)[:, None]
    np.testing.assert_allclose(found, flat, atol=1e-10, rtol=0)
    assert area.min() > 0


def test_held_gaps_close_on_eyes_of_another_height():
    """Two lids: strips that a blink brings together; the target's are half as far apart."""
    verts, faces = dome(8)
    upper, lower = verts + np.array([0, 0.02, 0]), verts * [1, 1, -1] - [0, 0.0, 0.2]
    both = np.concatenate([upper, lower])
    pair_faces = np.concatenate([faces, faces[:, ::-1] + len(verts)])
    target = both.copy()
    target[: len(verts), 2] -= 0.1 * both[: len(verts), 2].mean()
    pair = np.array([[20, 20 + len(verts)]])
    gap = both[20] - both[20 + len(verts)]
    shape = np.zeros((1, *both.shape))
    shape[0, : len(verts)] = -gap  # a blink: the upper one comes down whole
    still = np.zeros(len(both), dtype=bool)
    still[len(verts) :] = True
    match = onto_itself(both, pair_faces)
    closed = {}
    for name, gaps in (("held", pair), ("free", None)):
        moved = DeformationTransfer(
            both, pair_faces, target, pair_faces, match, still=still, gaps=gaps
        ).transfer(shape)[0]
        ends = (target + moved)[pair[0]]
        closed[name] = np.linalg.norm(ends[0] - ends[1])
    assert closed["free"] > 1e-3
    assert closed["held"] < 0.2 * closed["free"]


def test_a_correspondence_of_another_mesh_is_refused():
    verts, faces = dome(6)
    with pytest.raises(ValueError, match="the correspondence has 50 triangles"):
        DeformationTransfer(
            verts, faces, verts, faces[:-1], onto_itself(verts, faces), still=verts[:, 1] < 0
        )
    with pytest.raises(ValueError, match=r"drift=0\.0 must be positive"):
        TransferConfig(drift=0.0)
