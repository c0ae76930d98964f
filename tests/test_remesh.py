"""Polychord collapse, closest points and contact fields on shapes whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flame.contact import nearest_on_chain, spread
from flame.remesh import closest_barycentric, collapse_polychords, polygon_edges

AROUND, ACROSS = 24, 16
MIRROR = np.array([-1.0, 1.0, 1.0])
LARGE, SMALL = 3.0, 1.0


def grid_index(i, j):
    return (i % AROUND) * ACROSS + j % ACROSS


@pytest.fixture(scope="module")
def torus():
    i, j = np.meshgrid(np.arange(AROUND), np.arange(ACROSS), indexing="ij")
    u, v = 2 * np.pi * i / AROUND, 2 * np.pi * j / ACROSS
    ring = LARGE + SMALL * np.cos(v)
    verts = np.stack([ring * np.sin(u), ring * np.cos(u), SMALL * np.sin(v)], axis=-1)
    mirror = grid_index(-i, j).ravel()
    verts = verts.reshape(-1, 3)
    verts = 0.5 * (verts + verts[mirror] * MIRROR)
    corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
    polygons = np.stack([grid_index(*corner).ravel() for corner in corners], axis=1)
    return verts, polygons, mirror


@pytest.fixture(scope="module")
def coarse(torus):
    verts, polygons, mirror = torus
    return collapse_polychords(
        verts,
        polygons,
        (np.arange(len(polygons)) // ACROSS) % 2,
        mirror,
        target=200,
        importance=np.ones(len(verts)),
        rank=(mirror == np.arange(len(verts))).astype(np.int64),
    )


def test_a_collapsed_torus_is_a_smaller_torus_of_quads(torus, coarse):
    count = coarse.transfer.shape[0]
    assert 100 < count <= 200
    assert (coarse.polygons >= 0).all()
    half, _ = polygon_edges(coarse.polygons)
    assert len(np.unique(half, axis=0)) == len(half)  # each side once in each direction
    _, uses = np.unique(np.sort(half, axis=1), axis=0, return_counts=True)
    assert (uses == 2).all()
    assert count - len(uses) + len(coarse.polygons) == 0  # Euler's number of a torus


def test_the_coarse_mesh_lies_on_the_source_and_is_exactly_symmetric(torus, coarse):
    verts, _, _ = torus
    weights = coarse.transfer.toarray()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    assert (weights >= 0).all()
    assert ((weights > 0).sum(1) <= 6).all()
    places = weights @ verts
    np.testing.assert_array_equal(coarse.mirror[coarse.mirror], np.arange(len(places)))
    np.testing.assert_allclose(places[coarse.mirror] * MIRROR, places, atol=1e-12)
    # a chord of a circle cut in n is at most r (1 - cos(pi / n)) inside
    tube = np.hypot(np.hypot(places[:, 0], places[:, 1]) - LARGE, places[:, 2])
    deepest = (LARGE + SMALL) * (1 - np.cos(np.pi / AROUND)) + SMALL * (1 - np.cos(np.pi / ACROSS))
    assert tube.max() <= SMALL + deepest
    assert tube.min() >= SMALL - 2 * deepest


def test_the_mirror_of_the_coarse_mesh_maps_polygons_onto_polygons(coarse):
    def cycles(polygons):
        first = polygons.argmin(1)
        return {tuple(np.roll(row, -k)) for row, k in zip(polygons, first, strict=True)}

    mirrored = coarse.mirror[coarse.polygons][:, ::-1]
    assert cycles(mirrored) == cycles(coarse.polygons)


def test_every_source_vertex_has_a_group_near_it(torus, coarse):
    verts, _, _ = torus
    places = coarse.transfer @ verts
    assert coarse.groups.min() == 0
    assert coarse.groups.max() == len(places) - 1
    distance = np.linalg.norm(places[coarse.groups] - verts, axis=1)
    assert distance.max() < 1.6  # two or three edges


coordinate = st.floats(-2, 2)
point = st.tuples(coordinate, coordinate, coordinate)


@settings(max_examples=150, deadline=None)
@given(point, point, point, point)
def test_the_closest_point_of_a_triangle_beats_every_point_of_a_fine_grid(p, a, b, c):
    corners = np.array([[a, b, c]])
    bary = closest_barycentric(np.array([p]), corners)
    assert (bary >= -1e-9).all()
    assert abs(bary.sum() - 1) < 1e-9
    found = np.linalg.norm((bary[:, None] @ corners)[0, 0] - p)
    i, j = np.meshgrid(np.arange(41), np.arange(41))
    inside = i + j <= 40
    grid = np.stack([i[inside], j[inside], 40 - i[inside] - j[inside]], axis=1) / 40
    best = np.linalg.norm(grid @ corners[0] - p, axis=1).min()
    assert found <= best + 1e-6


def test_a_field_is_spread_from_handles_and_ends_at_its_reach():
    side = 21
    x, y = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    verts = np.stack([x.ravel(), y.ravel(), np.zeros(side * side)], axis=1).astype(float)
    index = np.arange(side * side).reshape(side, side)
    corners = (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    polygons = np.stack([corner.ravel() for corner in corners], axis=1)
    handles = np.array([index[10, 10], index[10, 11]])
    shifts = np.array([[0.0, 0, 1], [0.5, 0, 1]])
    field = spread(verts, polygons, handles, shifts, reach=6.0)
    np.testing.assert_allclose(field[handles], shifts)
    distance = np.linalg.norm(verts[:, None] - verts[handles], axis=2).min(1)
    assert (field[distance >= 6.0] == 0).all()
    assert 0.3 < field[index[10, 9], 2] < 1.2  # a neighbour comes along
    # the plane is symmetric about the handles' row, so is the field
    grid = field.reshape(side, side, 3)
    np.testing.assert_allclose(grid, grid[::-1], atol=1e-9)


def test_the_nearest_point_of_a_chain_is_on_its_nearest_side():
    chain = np.array([[0.0, 0, 0], [2, 0, 0], [2, 3, 0]])
    points = np.array([[1.0, -1, 0], [3, 2, 0], [-1, 0, 1], [2, 4, 0]])
    expected = [[1, 0, 0], [2, 2, 0], [0, 0, 0], [2, 3, 0]]
    np.testing.assert_allclose(nearest_on_chain(points, chain), expected, atol=1e-12)
