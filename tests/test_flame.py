"""FLAME's formulation against a second implementation, and what the shipped head does with it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from flame.arkit import ARKIT_NAMES
from flame.load import load_head
from flame.model import Flame, FlameArrays
from flame.params import Params, arkit_from_params, params_from_arkit
from flame.topology import Topology

PARENT = {0: None, 1: 0, 2: 1, 3: 1, 4: 1}
N_VERTS, N_SHAPE, N_EXPRESSION = 11, 3, 4


def random_topology():
    triangle = torch.tensor([[0, 1, 2, -1]])
    return Topology(
        polygons=triangle,
        uv=torch.zeros(3, 2),
        uv_polygons=triangle,
        material_ids=torch.zeros(1, dtype=torch.int64),
        material_names=("skin",),
        part_ids=torch.zeros(1, dtype=torch.int64),
        part_names=("face",),
        mirror=torch.arange(N_VERTS),
        landmark_verts=torch.zeros(68, 3, dtype=torch.int64),
        landmark_bary=torch.full((68, 3), 1 / 3),
        contour_verts=torch.zeros(79, 17, dtype=torch.int64),
        dense_verts=torch.arange(3),
    )


@pytest.fixture
def tiny(generator):
    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    arrays = FlameArrays(
        template=normal(N_VERTS, 3),
        shapedirs=normal(N_SHAPE, N_VERTS, 3),
        expressiondirs=normal(N_EXPRESSION, N_VERTS, 3),
        posedirs=0.1 * normal(36, N_VERTS, 3),
        joint_regressor=normal(5, N_VERTS).softmax(1),
        lbs_weights=normal(N_VERTS, 5).softmax(1),
        head_joint_regressor=normal(N_VERTS).softmax(0),
        head_share=torch.zeros(N_VERTS, dtype=torch.float64),
    )
    return Flame(arrays, random_topology())


def random_params(generator, batch=3):
    def normal(*size):
        return torch.randn(batch, *size, generator=generator, dtype=torch.float64)

    return Params(
        shape=normal(N_SHAPE),
        expression=normal(N_EXPRESSION),
        root=normal(3),
        neck=normal(3),
        jaw=normal(3),
        eyes=normal(2, 3),
    )


def plain_flame(flame, params, item):
    """Li et al. 2017, section 3, one vertex at a time: W(T_P, J(beta), theta, W)."""

    def array(name):
        return getattr(flame, name).numpy()

    shaped = array("template").copy()
    for name, basis in (("shape", "shapedirs"), ("expression", "expressiondirs")):
        for code, direction in zip(getattr(params, name)[item], array(basis), strict=True):
            shaped += float(code) * direction
    joints = np.array([row @ shaped for row in array("joint_regressor")])
    vectors = [params.root, params.neck, params.jaw, params.eyes[:, 0], params.eyes[:, 1]]
    turns = [Rotation.from_rotvec(vector[item].numpy()).as_matrix() for vector in vectors]
    feature = 0
    for joint in range(1, 5):
        for row in range(3):
            for column in range(3):
                share = turns[joint][row, column] - (row == column)
                shaped = shaped + share * array("posedirs")[feature]
                feature += 1

    def moved(joint, point):
        """A point carried by a joint: turned about it, then carried by its parents."""
        while joint is not None:
            point = turns[joint] @ (point - joints[joint]) + joints[joint]
            joint = PARENT[joint]
        return point

    return np.array(
        [
            sum(w * moved(joint, vertex) for joint, w in enumerate(weights))
            for vertex, weights in zip(shaped, array("lbs_weights"), strict=True)
        ]
    )


def test_forward_is_the_published_formulation_item_by_item(tiny, generator):
    params = random_params(generator)
    verts = tiny(params).verts.numpy()
    for item in range(3):
        np.testing.assert_allclose(verts[item], plain_flame(tiny, params, item), atol=1e-11)


def test_zero_parameters_give_the_template(tiny):
    params = random_params(torch.Generator().manual_seed(0))._map(torch.zeros_like)
    verts = tiny(params).verts
    torch.testing.assert_close(verts, tiny.template.expand_as(verts), atol=1e-13, rtol=0)


def test_the_root_turns_everything_about_the_root_joint(tiny, generator):
    rest = random_params(generator)._map(torch.zeros_like)
    vector = torch.tensor([[0.3, -1.2, 0.5]], dtype=torch.float64).expand(3, 3)
    turned = tiny(dataclasses.replace(rest, root=vector)).verts[0].numpy()
    centre = (tiny.joint_regressor @ tiny.template)[0].numpy()
    expected = Rotation.from_rotvec(vector[0].numpy()).apply(tiny.template.numpy() - centre)
    np.testing.assert_allclose(turned, expected + centre, atol=1e-12)


@pytest.mark.parametrize("at_rest", [True, False])
def test_gradients_are_those_of_finite_differences(tiny, generator, at_rest):
    params = random_params(generator, batch=1)
    if at_rest:  # where fitting starts
        params = params._map(torch.zeros_like)
    values = [getattr(params, field.name) for field in dataclasses.fields(Params)]

    def verts(*tensors):
        return tiny(Params(*tensors)).verts

    leaves = tuple(value.clone().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(verts, leaves, eps=1e-6, atol=1e-5)


def test_too_many_coefficients_are_refused_with_the_number_that_fits(tiny):
    params = Params.zeros(1, N_SHAPE + 1, N_EXPRESSION)
    with pytest.raises(ValueError, match=r"4 coefficients, .* has 3; pass shape\[\.\.\., :3"):
        tiny(params)


@pytest.fixture(scope="module")
def shipped():
    return load_head()


def shipped_params(flame, generator):
    shape = torch.randn(2, flame.n_shape, generator=generator)
    params = params_from_arkit(shape, torch.rand(2, 52, generator=generator) * 0.5)
    turns = torch.randn(2, 2, 3, generator=generator) * 0.3
    return dataclasses.replace(params, root=turns[:, 0], neck=turns[:, 1])


@torch.no_grad()
def test_a_model_of_few_vertices_gives_the_same_vertices_as_the_whole(shipped, generator):
    params = shipped_params(shipped, generator)
    kept = torch.randperm(len(shipped.template), generator=generator)[:70]
    few, whole = shipped.restricted(kept)(params), shipped(params)
    torch.testing.assert_close(few.verts[:, :70], whole.verts[:, kept], atol=2e-6, rtol=0)
    torch.testing.assert_close(few.joints, whole.joints, atol=2e-6, rtol=0)


@torch.no_grad()
def test_a_turned_jaw_is_the_jaw_open_morph_at_one_and_near_it_half_way(shipped):
    head = shipped.head(torch.zeros(shipped.n_shape))
    morph = head.morphs[ARKIT_NAMES.index("jawOpen")]

    def turned(degrees):
        params = Params.zeros(1, shipped.n_shape, 52)
        params.jaw[0, 0] = math.radians(degrees)
        return shipped(params).verts[0] - shipped.template

    # displacements below 20 micrometres are left out of the exported morphs
    torch.testing.assert_close(turned(25.33), morph, atol=2e-5, rtol=0)
    sagitta = (turned(25.33 / 2) - morph / 2).norm(dim=1)
    assert 0.5e-3 < sagitta.max() <= 2.5e-3
    chin = shipped.landmarks68(turned(25.33)[None])[0, 8]
    assert chin[1] < -0.02  # the chin falls by more than two centimetres: positive x opens
    assert abs(chin[0]) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize(("share", "off"), [(0.0, 3e-6), (1.0, 5e-4)])
def test_the_exported_head_poses_like_the_model(shipped, generator, share, off):
    # FLAME's joints also follow the expression, an exported skeleton's cannot: hence two bounds
    params = shipped_params(shipped, generator)[0]
    expression = params.expression * share
    looks = [k for k, name in enumerate(ARKIT_NAMES) if name.startswith("eyeLook")]
    expression[:, looks] = 0  # their morphs turn the eyes themselves
    eyes = torch.tensor([[[0.1, -0.3, 0.0], [-0.2, 0.25, 0.0]]])
    params = dataclasses.replace(params, expression=expression, jaw=torch.zeros(1, 3), eyes=eyes)
    rotations = torch.zeros(1, 6, 3)
    rotations[:, 0], rotations[:, 1], rotations[:, 4:] = params.root, params.neck, eyes
    posed = shipped.head(params.shape[0]).pose(expression, rotations)
    torch.testing.assert_close(posed, shipped(params).verts, atol=off, rtol=0)


weight = st.floats(0, 1, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(weight, min_size=52, max_size=52))
def test_arkit_weights_survive_the_way_to_parameters_and_back(values):
    weights = torch.tensor([values])
    for side in ("Left", "Right"):
        for pair in (("Up", "Down"), ("In", "Out")):  # an eye looks one way at a time
            one, other = (ARKIT_NAMES.index(f"eyeLook{way}{side}") for way in pair)
            if weights[0, one] > 0:
                weights[0, other] = 0
    opened, close = ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("mouthClose")
    weights[0, close] = min(weights[0, close], weights[0, opened])
    params = params_from_arkit(torch.zeros(1, 2), weights)
    torch.testing.assert_close(arkit_from_params(params), weights, atol=1e-6, rtol=0)
    assert params.expression[0, opened] == 0  # one owner of the opening: the jaw


# iBUG's 68 points: the partner of each across the face
PARTNER68 = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, 54, 53, 52, 51, 50, 49, 48,
    59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
]  # fmt: skip


def test_the_68_points_stand_in_the_published_order(shipped):
    points = shipped.landmarks68(shipped.template[None])[0]
    x, y = points[:, 0], points[:, 1]
    for run in (range(17), range(17, 27), range(31, 36), range(48, 55), range(60, 65)):
        assert (x[list(run)].diff() > 0).all(), run  # image left to image right
    assert (y[27:31].diff() < 0).all()  # down the bridge of the nose
    assert y[8] == y[:17].min()  # the chin
    for low, high in ((41, 37), (40, 38), (46, 44), (47, 43), (57, 51)):
        assert y[low] < y[high]
    # eyes: outer corner of the image-left one first, inner corner of the other first
    assert x[36] < x[39] < 0 < x[42] < x[45]
    assert y[33] < y[30] and y[51] < y[33]  # tip, base of the nose, upper lip
    mirrored = points[PARTNER68] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(points, mirrored, atol=1e-3, rtol=0)


def test_the_jaw_line_follows_the_outline_under_yaw(shipped):
    verts = shipped.template[None]
    static = shipped.landmarks68(verts)[0, :17]
    torch.testing.assert_close(
        shipped.contour_landmarks68(verts, torch.zeros(1))[0, 17:],
        shipped.landmarks68(verts)[0, 17:],
    )
    rows = [
        shipped.contour_landmarks68(verts, torch.tensor([float(yaw)]))[0, :17]
        for yaw in (-39, -20, 0, 20, 39)
    ]
    assert (rows[2] - static).norm(dim=1).median() < 0.012
    assert (rows[2] - static).norm(dim=1)[4:13].max() < 0.015
    # the side that turns away shows its outline nearer to the nose, hence further forward
    far_right, far_left = slice(10, 16), slice(1, 7)
    depth_right = [row[far_right, 2].mean() for row in rows]
    depth_left = [row[far_left, 2].mean() for row in rows]
    assert depth_right[4] > depth_right[3] > depth_right[2]
    assert depth_left[0] > depth_left[1] > depth_left[2]
    for yaw, row in zip((-39, -20, 0, 20, 39), rows, strict=True):
        turn = math.radians(yaw)
        seen = row[:, 0] * math.cos(turn) + row[:, 2] * math.sin(turn)
        assert (seen.diff() > -0.008).all()  # image left to image right, but for the edges


def test_the_jaw_line_under_yaw_is_mirrored_under_the_opposite_yaw(shipped):
    verts = shipped.template[None]
    for yaw in (10.0, 25.0, 39.0):
        one = shipped.contour_landmarks68(verts, torch.tensor([yaw]))[0, :17]
        other = shipped.contour_landmarks68(verts, torch.tensor([-yaw]))[0, :17]
        mirrored = other.flip(0) * torch.tensor([-1.0, 1, 1])
        assert (one - mirrored).norm(dim=1).max() < 0.005, yaw
