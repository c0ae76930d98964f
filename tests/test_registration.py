"""Registration: exact parts against geometry, the whole against a warp that is known."""

from __future__ import annotations

import numpy as np
import pytest
from lifelike_flame import N_HEAD, lifelike
from scipy.spatial.transform import Rotation

from flame.load import load_head
from flame.registration import (
    ClosestPoints,
    RegistrationConfig,
    Surface,
    correspondence,
    outer_faces,
    register,
    similarity3,
    vertex_normals,
)
from flame.synthetic_mesh import _sphere


def test_a_similarity_is_recovered_exactly_and_noise_does_not_mirror_it():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 3)) * [1, 1, 0.01]  # nearly flat, as faces are
    turn = Rotation.from_rotvec([0.5, -1.2, 0.8]).as_matrix()
    scale, rotation, shift = similarity3(points, 1.3 * points @ turn.T + [1, 2, 3])
    assert scale == pytest.approx(1.3)
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)
    _, noisy, _ = similarity3(points, points @ turn.T + rng.normal(size=(9, 3)))
    assert np.linalg.det(noisy) == pytest.approx(1)
    with pytest.raises(ValueError, match="three or more"):
        similarity3(points[:2], points[:2])


def test_the_closest_point_of_a_sphere_is_toward_its_centre():
    verts, faces = _sphere(np.zeros(3))
    radius = np.linalg.norm(verts[0])
    rng = np.random.default_rng(1)
    toward = rng.normal(size=(200, 3))
    toward /= np.linalg.norm(toward, axis=1, keepdims=True)
    face, bary, distance = ClosestPoints(verts, faces).query(1.2 * radius * toward, toward)
    points = np.einsum("nc,nck->nk", bary, verts[faces[face]])
    # chords of the mesh lie within the sphere by less than a fiftieth of its radius
    np.testing.assert_allclose(points, radius * toward, atol=0.05 * radius)
    np.testing.assert_allclose(distance, 0.2 * radius, atol=0.02 * radius)
    np.testing.assert_allclose(bary.sum(1), 1, atol=1e-12)


def test_of_two_sheets_the_one_that_faces_alike_is_taken_though_farther():
    sheet = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=float)
    verts = np.concatenate([sheet, sheet - [0, 0, 0.2]])
    faces = np.array([[0, 1, 2], [1, 3, 2], [4, 6, 5], [5, 6, 7]])  # up, and below it down
    search = ClosestPoints(verts, faces)
    points = np.array([[0.3, 0.3, 0.05]])
    for normal, wanted, way in ((1.0, 0, 0.05), (-1.0, 2, 0.25)):
        face, _, distance = search.query(points, np.array([[0, 0, normal]]), likeness=0.3)
        assert face[0] == wanted
        assert distance[0] == pytest.approx(way)
    _, _, none = search.query(points, np.array([[1.0, 0, 0]]), likeness=0.3)
    assert np.isinf(none[0])


def test_what_lies_inside_is_not_outer():
    verts, faces = _sphere(np.zeros(3))
    both = np.concatenate([verts, 0.6 * verts])
    outer = outer_faces(both, np.concatenate([faces, faces + len(verts)]))
    assert outer[: len(faces)].all()
    assert not outer[len(faces) :].any()


def test_normals_of_a_sphere_are_its_directions():
    verts, faces = _sphere(np.zeros(3))
    found = vertex_normals(verts, faces)
    wanted = verts / np.linalg.norm(verts, axis=1, keepdims=True)
    assert np.einsum("vk,vk->v", found, wanted).min() > 0.995


@pytest.fixture(scope="module")
def head():
    mesh = lifelike().model.mesh
    verts, faces = mesh.verts[:N_HEAD], mesh.faces[:7800]
    marks = np.einsum("lc,lck->lk", mesh.landmark_bary, verts[faces[mesh.landmark_faces]])
    outer = outer_faces(mesh.verts, mesh.faces)[:7800]
    return Surface(verts, faces, outer, marks)


def test_a_smooth_warp_of_a_head_is_undone_to_half_a_millimetre_in_the_face(head):
    """5 mm of bending, a turn and another size; every vertex has one right place.

    Smooth cheeks and sides can slide along themselves, so there only the surface is found.
    """
    turn = Rotation.from_rotvec([0.1, -0.05, 0.08]).as_matrix()

    def warp(points):
        bent = points + 0.005 * np.sin(points @ np.array([[0, 30, 5], [25, 0, 0], [0, 10, 20.0]]))
        return 1.1 * bent @ turn.T + [0.01, 0.02, -0.03]

    own = Surface(warp(head.verts), head.faces, head.outer, warp(head.marks))
    laid = register(own, head)
    seen = np.unique(head.faces[head.outer])
    front = seen[head.verts[seen, 2] > 0.05]
    error = 1e3 * np.linalg.norm(laid.verts - head.verts, axis=1)
    assert error[front].mean() < 0.6
    assert np.median(error[front]) < 0.25
    sides = seen[head.verts[seen, 2] > 0.0]
    assert error[sides].mean() < 2.0
    assert 1e3 * laid.distance[sides].mean() < 0.15
    assert laid.scale == pytest.approx(1 / 1.1, rel=0.02)


def test_another_persons_head_of_another_mesh_finds_its_places_on_ours(head):
    truth = load_head().template.double().numpy()
    ours = load_head()
    from flame.arkit_morphs import _shipped_surface

    onto, _ = _shipped_surface(ours)
    laid = register(head, onto)
    match = correspondence(laid.verts, head.faces, head.outer, onto)
    places = truth[lifelike().origin]
    seen = np.unique(head.faces[head.outer])
    front = seen[places[seen, 2] > 0.05]
    error = 1e3 * np.linalg.norm(laid.verts - places, axis=1)
    assert error[front].mean() < 1.3  # along the surface; cheeks have no marks
    assert 1e3 * laid.distance[front].mean() < 0.25  # across it
    corners = onto.verts[onto.faces[match.vert_faces]]
    on_surface = np.einsum("vc,vck->vk", match.vert_bary, corners)
    assert 1e3 * np.linalg.norm(on_surface - laid.verts, axis=1)[front].mean() < 0.25
    assert match.confidence[head.outer].mean() > 0.9
    assert match.confidence[~head.outer].max() <= 0.05


def test_lengths_must_be_lengths():
    with pytest.raises(ValueError, match="must be positive and at least one"):
        RegistrationConfig(lengths=())
