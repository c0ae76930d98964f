"""Sliders change what their names say, measured on the mesh, and leave the face symmetric."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flame.load import load_head
from flame.sliders import blend, random_identity, sliders

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def moves(flame):
    return sliders(flame)


@pytest.fixture(scope="module")
def people(flame):
    generator = torch.Generator().manual_seed(5)
    return torch.stack([random_identity(flame.n_shape, generator=generator) for _ in range(600)])


@pytest.fixture(scope="module")
def population(moves, people):
    return torch.stack(list(moves.measure(people).values()), dim=1)


def verts_of(flame, shape):
    return flame.template + torch.einsum("bs,svk->bvk", shape, flame.shapedirs)


def slid(flame, moves, name, amount):
    return verts_of(flame, moves.apply(torch.zeros(1, flame.n_shape), {name: amount}))[0]


def wing(flame):
    """The outermost vertex of the nose's wings: left of the nostril, before the cheek."""
    base = flame.landmarks68(flame.template[None])[0, 35]
    near = (flame.template - base).norm(dim=1) < 0.012
    skin = torch.zeros(len(flame.template), dtype=torch.bool)
    skin[flame.topology.part_polygons("face").unique().clamp(min=0)] = True
    flat = (flame.template[:, 2] > base[2] - 0.001) & (flame.template[:, 1] > base[1])
    chosen = torch.nonzero(near & skin & flat)[:, 0]
    return chosen[flame.template[chosen, 0].argmax()]


def test_at_least_thirty_sliders_have_names_units_and_directions(flame, moves):
    assert len(moves.names) == len(set(moves.names)) >= 30
    assert len(moves.units) == len(moves.deviations) == len(moves.names)
    assert moves.directions.shape == (len(moves.names), flame.n_shape)
    assert tuple(moves.measure(torch.zeros(1, flame.n_shape))) == moves.names


def test_plus_one_moves_each_measure_by_its_spread_over_random_people(flame, moves, population):
    zero = torch.zeros(1, flame.n_shape)
    spread = population.std(0)
    for index, name in enumerate(moves.names):
        before = moves.measure(zero)[name]
        change = moves.measure(moves.apply(zero, {name: 1.0}))[name] - before
        assert change.item() == pytest.approx(float(spread[index]), rel=0.1), name


def test_a_slider_leaves_most_other_measures_alone(flame, moves, population):
    zero = torch.zeros(1, flame.n_shape)
    rest = torch.stack(list(moves.measure(zero).values()), dim=1)[0]
    for index, name in enumerate(moves.names):
        after = torch.stack(list(moves.measure(moves.apply(zero, {name: 1.0})).values()), dim=1)[0]
        change = ((after - rest) / population.std(0)).abs()
        others = torch.cat([change[:index], change[index + 1 :]])
        assert others.median() < 0.15, name
        assert (others > 0.35).sum() <= 7, name  # what it is tied to


def test_nose_width_moves_the_wings_of_the_nose_by_their_spread(flame, moves, people):
    # vertices that the definition of the slider does not name
    left = wing(flame)
    right = flame.topology.mirror[left]
    both = torch.stack([left, right])
    pair = flame.template[both] + torch.einsum("bs,svk->bvk", people, flame.shapedirs[:, both])
    spread = (pair[:, 0, 0] - pair[:, 1, 0]).std()
    wide, mean = slid(flame, moves, "nose width", 1.0), flame.template
    change = (wide[left, 0] - wide[right, 0]) - (mean[left, 0] - mean[right, 0])
    assert float(change / spread) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("name", "points", "axis"),
    [
        # change of (first - second) along the axis: outward 0, up 1, forward 2
        ("nose length", (27, 33), 1),
        ("nose protrusion", (30, 35), 2),
        ("nostril width", (35, 31), 0),
        ("chin length", (57, 8), 1),
        ("mouth width", (54, 48), 0),
        ("mouth height", (51, 57), 1),
        ("mouth corners up", (54, 51), 1),
        ("philtrum length", (33, 51), 1),
        ("upper lip fullness", (51, 62), 1),
        ("lower lip fullness", (66, 57), 1),
        ("lip protrusion", (51, 33), 2),
        ("brow height", (24, 44), 1),
        ("brow spacing", (22, 21), 0),
        ("brow tilt", (26, 22), 1),
        ("eye tilt", (45, 42), 1),
        ("eye size", (45, 42), 0),
        ("eye opening", (44, 46), 1),
        ("eye spacing", (42, 39), 0),
        ("eye height", (45, 33), 1),
        ("face width", (14, 2), 0),
        ("face length", (27, 8), 1),
        ("jaw width", (13, 3), 0),
        ("chin width", (10, 6), 0),
    ],
)
def test_a_slider_moves_the_landmarks_as_its_name_says(flame, moves, name, points, axis):
    def gap(amount):
        marks = flame.landmarks68(slid(flame, moves, name, amount)[None])[0]
        return marks[points[0], axis] - marks[points[1], axis]

    assert gap(2.0) - gap(-2.0) > 2e-4  # metres
    assert gap(1.0) > gap(0.0) > gap(-1.0)


def test_every_slider_keeps_a_symmetric_head_symmetric(flame, moves):
    mirror = flame.topology.mirror
    for name in moves.names:
        for amount in (-3.0, 3.0):
            verts = slid(flame, moves, name, amount)
            assert (verts[mirror] * MIRROR - verts).abs().max() < 1e-6, name  # metres


def test_what_differs_between_the_sides_moves_no_measure(flame, moves):
    mirrored = flame.shapedirs[:, flame.topology.mirror] * MIRROR
    odd = torch.nonzero((mirrored + flame.shapedirs).abs().amax((1, 2)) < 1e-7)[0]
    shape = torch.zeros(1, flame.n_shape)
    rest = moves.measure(shape)
    shape[0, odd] = 2.0
    for name, value in moves.measure(shape).items():
        torch.testing.assert_close(value, rest[name], atol=1e-4, rtol=0)


amounts = st.floats(-1.0, 1.0, width=32)


@given(amounts, amounts, amounts)
def test_the_order_of_moves_does_not_matter(flame, moves, nose, jaw, eye):
    zero = torch.zeros(1, flame.n_shape)
    given = {"nose width": nose, "jaw width": jaw, "eye size": eye}
    at_once = moves.apply(zero, given)
    one_by_one = zero
    for name in reversed(given):
        one_by_one = moves.apply(one_by_one, {name: given[name]})
    torch.testing.assert_close(one_by_one, at_once, atol=1e-5, rtol=0)


def test_codes_stay_within_the_limit_and_the_input_is_not_written_to(flame, moves, people):
    before = people.clone()
    moved = moves.apply(people, {"head size": 8.0, "neck width": -8.0})
    assert moved.abs().max() == 3.5
    assert torch.equal(people, before)


def test_each_head_of_a_batch_moves_as_it_does_alone(moves, people):
    both = moves.apply(people[:2], {"ear size": 1.5})
    assert torch.equal(both[1:], moves.apply(people[1:2], {"ear size": 1.5}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_codes_keep_their_dtype(flame, moves, dtype):
    shape = torch.zeros(1, flame.n_shape, dtype=dtype)
    assert moves.apply(shape, {"ear size": 1.0}).dtype == dtype
    assert moves.measure(shape)["ear size"].dtype == dtype


def test_measures_of_the_mean_head_are_those_of_people(flame, moves):
    # means of adults within three deviations, both sexes (Farkas 1994), mm
    known = {
        "nose width": (29, 42), "mouth width": (44, 60), "nose length": (42, 58),
        "face length": (98, 132), "ear size": (52, 72), "head width": (130, 170),
        "head length": (170, 212),
    }  # fmt: skip
    found = moves.measure(torch.zeros(1, flame.n_shape))
    for name, (low, high) in known.items():
        assert low < found[name].item() < high, name


def test_a_wrong_name_is_answered_with_near_ones(flame, moves):
    with pytest.raises(ValueError, match=r"no slider 'nose widht'; choose 'nose width'"):
        moves.apply(torch.zeros(1, flame.n_shape), {"nose widht": 1.0})
    with pytest.raises(ValueError, match="choose one of nose width, nose length"):
        moves.apply(torch.zeros(1, flame.n_shape), {"qqq": 1.0})


def test_wrong_amounts_and_codes_of_other_models_are_refused(flame, moves):
    with pytest.raises(ValueError, match="'ear size' is nan"):
        moves.apply(torch.zeros(1, flame.n_shape), {"ear size": math.nan})
    with pytest.raises(ValueError, match="shape has 10 coefficients, these sliders move 100"):
        moves.apply(torch.zeros(1, 10), {"ear size": 1.0})
    with pytest.raises(ValueError, match="shape has 10 coefficients"):
        moves.measure(torch.zeros(1, 10))


def test_a_blend_starts_and_ends_at_its_identities_and_is_straight(flame, people):
    a, b = people[:1].double(), people[1:2].double()
    assert torch.equal(blend(a, b, 0.0), a)
    assert torch.equal(blend(a, b, 1.0), b)
    third = verts_of(flame, blend(a, b, 0.3).float())
    expected = 0.7 * verts_of(flame, a.float()) + 0.3 * verts_of(flame, b.float())
    torch.testing.assert_close(third, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"t=1\.5 is no blend"):
        blend(a, b, 1.5)


def test_random_people_are_of_the_population_and_follow_their_seed(people):
    def again(seed):
        return random_identity(100, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(again(3), again(3))
    assert not torch.equal(again(3), again(4))
    assert people.abs().max() == 2.5
    assert abs(float(people.mean())) < 0.02
    # a normal variable held to 2.5 deviations has variance 0.983
    assert float(people.var()) == pytest.approx(0.983, abs=0.02)
    with pytest.raises(ValueError, match="n_shape=0"):
        random_identity(0, generator=torch.Generator())


def test_the_command_refuses_a_picture_of_unknown_kind_in_one_line(root, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "flame.sliders", "--sheet", str(tmp_path / "sheet.gif")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "must end in .jpg or .png" in ended.stderr
