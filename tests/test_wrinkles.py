import itertools
import math

import pytest
import torch

from flame.arkit import ARKIT_INDEX
from flame.load import load_head
from flame.params import Params
from flame.texture import unwrap
from flame.wrinkle_lines import GROUPS
from flame.wrinkle_map import (
    SkinSurface,
    WrinkleMap,
    joined_normals,
    relief_normals,
    surface_slopes,
    wrinkle_map,
)
from flame.wrinkle_mesh import detailed
from flame.wrinkles import DEEPEST, bounded, depths, wrinkles


@pytest.fixture(scope="module")
def flame():
    return load_head()


@pytest.fixture(scope="module")
def skin(flame):
    return wrinkle_map(flame, 256)


def posed(**weights):
    found = torch.zeros(52)
    for name, value in weights.items():
        for side in ("",) if name in ARKIT_INDEX else ("Left", "Right"):
            found[ARKIT_INDEX[name + side]] = value
    return found


def sheet(axis_u, axis_v, cells=6):
    """A flat square sheet over the whole UV square, whose axes point where asked."""
    line = torch.linspace(0, 1, cells + 1)
    uv = torch.cartesian_prod(line, line)
    corner = torch.arange((cells + 1) ** 2).view(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]
    faces = torch.cat([torch.stack(t, -1).view(-1, 3) for t in ((a, b, c), (a, c, d))])
    verts = uv @ torch.tensor([axis_u, axis_v])
    return verts, SkinSurface(faces, uv, faces)


@pytest.mark.parametrize(
    ("axis_u", "axis_v"),
    [
        ([0.2, 0.0, 0.0], [0.0, 0.1, 0.0]),
        ([0.2, 0.0, 0.0], [0.08, 0.1, 0.0]),  # sheared
        ([0.0, 0.2, 0.0], [-0.1, 0.03, 0.0]),  # and turned
    ],
)
def test_normal_map_of_a_wave_is_the_analytic_one(axis_u, axis_v):
    verts, surface = sheet(axis_u, axis_v)
    side = 512
    slopes = surface_slopes(verts, surface, unwrap(surface.uv, surface.uv_faces, side))
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    v, u = torch.meshgrid(1 - at, at, indexing="ij")
    height, waves = 0.4e-3, (5.0, 3.0)
    phase = 2 * math.pi * (waves[0] * u + waves[1] * v)
    found = relief_normals((height * torch.sin(phase)).float()[None], slopes)[0]

    # the surface's gradient by the inverse of its axes, then read along tangent and bitangent
    axes = torch.tensor([axis_u[:2], axis_v[:2]], dtype=torch.float64)
    change = 2 * math.pi * height * torch.cos(phase)
    gradient = torch.stack([change * waves[0], change * waves[1]], -1) @ torch.linalg.inv(axes).T
    tangent = axes[0] / axes[0].norm()
    across = torch.stack([-tangent[1], tangent[0]])
    expected = torch.stack([-(gradient @ tangent), -(gradient @ across), torch.ones_like(change)])
    expected = expected / expected.norm(dim=0)
    inner = slice(2, -2)
    torch.testing.assert_close(
        (found * 2 - 1)[:, inner, inner], expected[:, inner, inner].float(), atol=2e-3, rtol=0
    )


def test_reliefs_on_top_of_each_other_add_their_slopes():
    def tilted(x, y):
        normal = torch.tensor([-x, -y, 1.0])
        return (normal / normal.norm() * 0.5 + 0.5).view(1, 3, 1, 1)

    torch.testing.assert_close(
        joined_normals(tilted(0.2, -0.1), tilted(0.15, 0.4)), tilted(0.35, 0.3)
    )
    torch.testing.assert_close(joined_normals(tilted(0.2, 0.3), tilted(0, 0)), tilted(0.2, 0.3))


def strain_of(move):
    verts, surface = sheet([0.2, 0.0, 0.0], [0.0, 0.1, 0.0])
    layout = unwrap(surface.uv, surface.uv_faces, 16)
    faces = len(surface.faces)
    across = torch.tensor([1.0, 0.0]).expand(len(GROUPS), faces, 2)
    region = torch.ones(len(GROUPS), faces)
    skin = WrinkleMap(
        surface,
        layout,
        layout,
        torch.zeros(16, 16, 2),
        torch.ones(1, 16, 16),
        across,
        region,
        verts,
    )
    return skin.stretch(verts, move(verts))


def test_skin_squeezed_by_a_fifth_across_its_creases_is_found_so():
    found = strain_of(lambda verts: verts * torch.tensor([0.8, 1.3, 1.0]))
    torch.testing.assert_close(found, torch.full_like(found, -0.2), atol=1e-5, rtol=0)


def test_moving_and_turning_a_head_folds_nothing():
    turn = torch.linalg.matrix_exp(
        torch.tensor([[0.0, -0.7, 0.2], [0.7, 0.0, -0.4], [-0.2, 0.4, 0.0]])
    )
    found = strain_of(lambda verts: verts @ turn.T + torch.tensor([0.1, -0.2, 0.3]))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-5, rtol=0)


def test_creases_deepen_with_compression_and_with_strength():
    squeezed = torch.linspace(-0.3, 0.3, 13).expand(len(GROUPS), -1)
    rows = [depths(squeezed, torch.full((len(GROUPS),), s)) for s in (0.0, 0.3, 0.7, 1.0)]
    for row in rows:
        assert bool((row.diff(dim=1) >= 0).all())
    for low, high in itertools.pairwise(rows):
        assert bool((high > low).all())
    # young skin at rest, or stretched, has none
    assert float(rows[0][:, :7].max()) < 1e-9


def test_heights_end_below_the_deepest_crease_and_small_ones_stay():
    height = torch.tensor([[-9e-3, -5e-5, 0.0, 5e-5, 9e-3]])
    found = bounded(height[None])[0]
    assert float(found.abs().max()) <= DEEPEST
    torch.testing.assert_close(found[0, 1:4], height[0, 1:4], rtol=1e-2, atol=0)


def raised(flame, skin, strength, **weights):
    person = wrinkles(
        flame,
        skin,
        torch.full((len(GROUPS),), strength),
        generator=torch.Generator().manual_seed(0),
    )
    return person.at(posed(**weights))[0]


def test_a_smooth_face_at_rest_has_no_relief_at_all(flame, skin):
    assert float(raised(flame, skin, 0.0).abs().max()) == 0


def energy(height):
    return height.square().sum()


def test_a_raised_brow_folds_the_forehead_and_leaves_the_mouth(flame, skin):
    rest = raised(flame, skin, 0.8)
    brow = raised(flame, skin, 0.8, browInnerUp=1.0, browOuterUp=1.0)
    # the chart's upper third, and its part below the nose
    x, y = skin.place.unbind(-1)
    forehead, mouth = (y > 0.5) & (x.abs() < 0.6), (y > -0.3) & (y < 0.05) & (x.abs() < 0.5)
    assert energy(brow[forehead]) > 1.8 * energy(rest[forehead])
    torch.testing.assert_close(energy(brow[mouth]), energy(rest[mouth]), rtol=0.03, atol=0)


def test_a_smile_on_one_side_folds_that_side(flame, skin):
    rest = raised(flame, skin, 0.6)
    half = raised(flame, skin, 0.6, mouthSmileLeft=1.0, cheekSquintLeft=1.0)
    x, y = skin.place.unbind(-1)
    # the subject's left lies at +x of the chart
    left, right = (x > 0.1) & (y > -0.5), (x < -0.1) & (y > -0.5)
    assert energy(half[left]) > 1.5 * energy(rest[left])
    torch.testing.assert_close(energy(half[right]), energy(rest[right]), rtol=0.05, atol=0)


def test_relief_ends_at_seams_lids_and_lips(flame, skin):
    height = raised(flame, skin, 1.2, mouthPucker=1.0, eyeSquint=1.0, cheekSquint=1.0)
    assert float(height.abs().max()) > 1e-4
    assert float(height[~skin.layout.valid].abs().max()) == 0
    rim = torch.nn.functional.max_pool2d((~skin.layout.valid).float()[None], 3, 1, 1)[0] > 0
    assert float(height[rim].abs().max()) < 1e-9
    marks = flame.landmarks68(flame.template[None])[0]
    places = skin.layout.positions(flame.template[None], skin.surface.faces)[0]
    for index in (36, 39, 42, 45, 51, 57, 62, 66):  # corners of the eyes, middle of both lips
        away = (places - marks[index][:, None, None]).norm(dim=0)
        assert float(height[away < 0.0012].abs().max()) < 2e-5


def test_a_dense_mesh_is_raised_by_just_the_height_of_its_map(flame):
    verts = flame(Params.zeros(1, flame.n_shape, flame.n_expression)).verts[0]
    flat, faces = detailed(flame, verts, torch.zeros(1, 32, 32), levels=1)
    high, _ = detailed(flame, verts, torch.full((1, 32, 32), 5e-4), levels=1)
    skin_points = faces[: 4 * 17448].unique()
    lift = (high - flat).norm(dim=1)
    torch.testing.assert_close(
        lift[skin_points], torch.full((len(skin_points),), 5e-4), atol=1e-6, rtol=0
    )
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[skin_points] = False
    assert float(lift[kept].max()) == 0
    torch.testing.assert_close(flat[: len(verts)], verts)


def test_strengths_of_another_length_are_refused_with_the_groups_named(flame, skin):
    with pytest.raises(ValueError, match="forehead, frown"):
        wrinkles(flame, skin, torch.zeros(3), generator=torch.Generator())
