from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flame.ambient_occlusion import ambient_occlusion
from flame.camera import Camera, orbit
from flame.interpolate import interpolate
from flame.light import (
    SH_CONSTANTS,
    directional,
    sh_basis,
    sh_constant,
    sh_shading,
    shade,
)
from flame.material import Material
from flame.normals import face_normals, vertex_normals
from flame.raster import rasterize
from flame.render import RenderConfig, Renderer
from flame.render_surface import Look
from flame.srgb import linear_to_srgb, srgb_to_linear

PLAIN = RenderConfig(shadow_side=0, tone="linear")
# nothing reflects, so that colours follow from the diffuse light alone
MATT = Look(reflectance=0.0)


def _sphere(rings=40, segments=60):
    theta = torch.linspace(0, math.pi, rings + 1)[:, None]
    phi = torch.linspace(0, 2 * math.pi, segments + 1)[None]
    across = theta.sin() * phi.sin(), theta.cos().expand(-1, segments + 1), theta.sin() * phi.cos()
    corner = (torch.arange(rings)[:, None] * (segments + 1) + torch.arange(segments)).view(-1, 1)
    below = corner + segments + 1
    faces = torch.cat(
        [torch.cat([corner, below, below + 1], 1), torch.cat([corner, below + 1, corner + 1], 1)]
    )
    verts = torch.stack(across, dim=-1).view(-1, 3)
    # one vertex where the grid closes and at the poles, so that normals are smooth there
    kept, index = torch.unique((verts * 1e4).round().long(), dim=0, return_inverse=True)
    merged = torch.zeros(len(kept), 3)
    merged[index] = verts
    faces = index[faces]
    area = face_normals(merged[None], faces)[0].norm(dim=-1)
    return merged, faces[area > 1e-9]


def _square(z=0.0):
    """A square of side 2 toward +z, its texture upright."""
    verts = torch.tensor([[-1.0, -1, z], [1, -1, z], [1, 1, z], [-1, 1, z]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return verts, uv, torch.tensor([[0, 1, 2], [0, 2, 3]])


def _colour(*rgb):
    return torch.tensor(rgb)[:, None, None].repeat(1, 4, 4)


def _front(scale=1.0):
    return Camera(torch.tensor([scale]), torch.zeros(1, 2), torch.zeros(1))


def _ambient(level=1.0):
    return directional(
        torch.zeros(1, 0, 3), torch.zeros(1, 0, 3), sh_constant(torch.full((1, 3), level))
    )


def _square_renderer(*materials, depths=(0.0,), config=PLAIN):
    parts = [_square(z) for z in depths]
    verts = torch.cat([part[0] for part in parts])
    uv = parts[0][1]
    faces = torch.cat([part[2] + 4 * k for k, part in enumerate(parts)])
    uv_faces = parts[0][2].repeat(len(parts), 1)
    ids = torch.arange(len(parts)).repeat_interleave(2)
    looks = {material.name: MATT for material in materials}
    return Renderer(faces, uv, uv_faces, ids, materials, looks, config), verts[None]


def test_a_spheres_normals_are_its_directions():
    verts, faces = _sphere()
    torch.testing.assert_close(vertex_normals(verts[None], faces)[0], verts, atol=2e-2, rtol=0)


def test_normals_of_a_closed_mesh_sum_to_nothing_and_measure_its_area():
    verts, faces = _sphere()
    normals = face_normals(verts[None], faces)[0]
    torch.testing.assert_close(normals.sum(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert normals.norm(dim=-1).sum().item() / 2 == pytest.approx(4 * math.pi, rel=5e-3)


def test_constant_spherical_harmonics_shade_flat():
    normals = torch.nn.functional.normalize(torch.randn(1, 50, 3, generator=_generator()), dim=-1)
    colour = torch.tensor([[0.2, 0.5, 0.9]])
    light = sh_shading(normals, sh_constant(colour))
    torch.testing.assert_close(light[0], colour.expand(50, 3))


def test_basis_functions_are_orthogonal_with_their_lambertian_norms():
    # integrals over the sphere by Fibonacci points; constants are those of real harmonics times
    # the cosine lobe's 1, 2/3 and 1/4 (Ramamoorthi and Hanrahan 2001), up to a common factor
    count = 4000
    k = torch.arange(count).double() + 0.5
    y, turn = 1 - 2 * k / count, k * math.pi * (3 - math.sqrt(5))
    ring = (1 - y * y).sqrt()
    basis = sh_basis(torch.stack([ring * turn.cos(), y, ring * turn.sin()], -1))
    gram = basis.T @ basis / count * 4 * math.pi
    assert (gram - gram.diag().diag()).abs().max() < 1e-2
    lobes = gram.diag().sqrt() / gram[0, 0].sqrt()
    torch.testing.assert_close(
        lobes[1:4], torch.full((3,), 2 / 3 * math.pi).double(), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(lobes[4:], torch.full((5,), math.pi / 4).double(), rtol=1e-3, atol=0)


def test_shaded_images_have_the_gradients_of_central_differences():
    verts, faces = _sphere(2, 3)
    generator = _generator()
    camera = Camera(torch.tensor([0.8]), torch.tensor([[0.05, 0.02]]), torch.tensor([20.0]))
    albedo = torch.rand(len(verts), 3, generator=generator).double()
    light = torch.rand(1, 9, 3, generator=generator).double()

    def image(points, colours, sh_light, scale):
        lens = Camera(scale, camera.shift.double(), camera.fov_deg.double())
        fragments = rasterize(lens.clip(points[None], (6, 5)), faces, (6, 5))
        normals = interpolate(vertex_normals(points[None], faces), faces, fragments)
        paint = interpolate(colours, faces, fragments)
        return shade(paint.movedim(-1, 1), normals.movedim(-1, 1), sh_light)

    inputs = (verts.double(), albedo, light, camera.scale.double())
    inputs = tuple(one.requires_grad_() for one in inputs)
    assert torch.autograd.gradcheck(image, inputs, eps=1e-7, atol=1e-4)


def test_srgb_curves_are_inverse_and_pass_through_the_standards_values():
    steps = torch.linspace(0, 1, 200).double()
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(steps)), steps, atol=1e-7, rtol=0)
    assert srgb_to_linear(torch.tensor(0.5)).item() == pytest.approx(0.21404114, abs=1e-6)


def test_linear_half_grey_is_encoded_as_the_srgb_standard_says():
    linear = torch.tensor([0.0, 0.0031308, 0.214041140, 1.0])
    expected = torch.tensor([0.0, 0.040450, 0.5, 1.0])
    torch.testing.assert_close(linear_to_srgb(linear), expected, atol=2e-6, rtol=0)


def test_under_even_light_a_texture_shows_as_it_is_painted():
    painted = torch.rand(3, 16, 16, generator=_generator())
    renderer, verts = _square_renderer(Material("paint", painted))
    image = renderer(verts, _front(), _ambient(), (16, 16))
    torch.testing.assert_close(image[0, :3], painted, atol=2e-3, rtol=0)
    assert (image[0, 3] == 1).all()


def test_a_lamp_lights_by_the_cosine():
    angle = 0.7
    toward = torch.tensor([[[math.sin(angle), 0.0, math.cos(angle)]]])
    renderer, verts = _square_renderer(Material("paint", _colour(0.5, 0.5, 0.5)))
    image = renderer(verts, _front(), directional(toward, torch.ones(1, 1, 3)), (8, 8))
    expected = srgb_to_linear(torch.tensor(0.5)) * math.cos(angle)
    torch.testing.assert_close(srgb_to_linear(image[0, 0, 4, 4]), expected, atol=1e-3, rtol=0)


def test_a_normal_map_tilts_the_light():
    # the map leans every normal by 30 degrees toward growing u, which is +x here
    lean = torch.tensor([math.sin(math.pi / 6), 0.0, math.cos(math.pi / 6)])
    bumps = (lean * 0.5 + 0.5)[:, None, None].repeat(1, 4, 4)
    renderer, verts = _square_renderer(Material("paint", _colour(0.5, 0.5, 0.5), bumps))
    for x, expected in ((1.0, math.cos(math.pi / 12)), (-1.0, math.cos(math.pi * 5 / 12))):
        toward = torch.tensor([[[x, 0.0, 1.0]]])
        image = renderer(verts, _front(), directional(toward, torch.ones(1, 1, 3)), (8, 8))
        level = srgb_to_linear(image[0, 0, 4, 4]) / srgb_to_linear(torch.tensor(0.5))
        assert level.item() == pytest.approx(expected, abs=5e-3)


def test_the_highlight_of_strands_does_not_show_their_triangles():
    # strands along diagonals of a bent card; the lamp's mirror image falls on the middle
    uv = torch.tensor([[0.0, 0], [0.9, 0.1], [1, 1], [0.2, 0.8]])
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    hair = Material("hair", _colour(0.5, 0.4, 0.3), double_sided=True)
    renderer = Renderer(
        faces, uv, faces, torch.zeros(2).long(), [hair], {"hair": Look(strands=True)}, PLAIN
    )
    lamp = directional(torch.tensor([[[0.2, 0.3, 1.0]]]), torch.ones(1, 1, 3))
    image = renderer(corners[None], _front(), lamp, (64, 64))[0, 0]
    # nothing jumps between neighbours, nor across the diagonal where the triangles meet
    assert image.diff(dim=0).abs().max() < 0.02
    assert image.diff(dim=1).abs().max() < 0.02
    assert image.max() - image.min() > 0.002


def test_masked_texels_are_holes():
    cut = torch.cat([_colour(1.0, 0, 0), torch.zeros(1, 4, 4)])
    cut[3, :, :2] = 1
    front = Material("leaf", cut, alpha_mode="MASK", alpha_cutoff=0.5)
    back = Material("wall", _colour(0.0, 0.0, 1.0))
    renderer, verts = _square_renderer(front, back, depths=(0.5, 0.0))
    image = renderer(verts, _front(), _ambient(), (8, 8))[0]
    assert image[:, 4, 1].tolist() == pytest.approx([1, 0, 0, 1], abs=1e-3)
    assert image[:, 4, 6].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-3)


@pytest.mark.parametrize("depths", [(0.5, 0.25, 0.0), (0.25, 0.5, 0.0)])
def test_blended_layers_add_up_from_back_to_front_in_linear_light(depths):
    veil = [
        torch.cat([_colour(*rgb), torch.full((1, 4, 4), 0.5)]) for rgb in ((1.0, 0, 0), (0, 1.0, 0))
    ]
    materials = [Material(f"veil{k}", paint, alpha_mode="BLEND") for k, paint in enumerate(veil)]
    materials.append(Material("wall", _colour(0.0, 0.0, 1.0)))
    renderer, verts = _square_renderer(*materials, depths=depths)
    light = srgb_to_linear(renderer(verts, _front(), _ambient(), (8, 8))[0, :3, 4, 4])
    # alpha 0.5 counts as 0.5 / 0.95, so that nearly opaque texels hide what is behind them
    alpha = 0.5 / 0.95
    first = 0 if depths[0] > depths[1] else 1
    expected = [0.0, 0.0, (1 - alpha) ** 2]
    expected[first], expected[1 - first] = alpha, alpha * (1 - alpha)
    assert light.tolist() == pytest.approx(expected, abs=2e-3)


def test_backs_are_dropped_unless_double_sided():
    red = _colour(1.0, 0.0, 0.0)
    for double_sided in (False, True):
        renderer, verts = _square_renderer(Material("card", red, double_sided=double_sided))
        turned = verts * torch.tensor([-1.0, 1.0, -1.0])
        alpha = renderer(turned, _front(), _ambient(), (8, 8))[0, 3]
        assert (alpha == float(double_sided)).all()


def test_supersampled_edges_are_the_covered_share_of_the_pixel():
    renderer, verts = _square_renderer(Material("card", _colour(1.0, 1.0, 1.0)))
    narrow = verts * torch.tensor([0.5 + 1 / 16, 1.0, 1.0])  # half of a pixel beyond its fellow
    alpha = renderer(narrow, _front(), _ambient(), (16, 16), supersample=2)[0, 3, 8]
    assert alpha.tolist() == [0, 0, 0, 0.5] + [1] * 8 + [0.5, 0, 0, 0]


def test_backgrounds_are_colours_or_images():
    renderer, verts = _square_renderer(Material("card", _colour(1.0, 1.0, 1.0)))
    colour = torch.tensor([0.2, 0.4, 0.6])
    for background in (colour, colour[:, None, None].expand(3, 8, 8)):
        image = renderer(verts * 0.5, _front(), _ambient(), (8, 8), background=background)[0]
        torch.testing.assert_close(image[:3, 0, 0], colour, atol=1e-3, rtol=0)
        torch.testing.assert_close(image[:, 4, 4], torch.ones(4), atol=1e-3, rtol=0)
        assert (image[3] == 1).all()
    clear = renderer(verts * 0.5, _front(), _ambient(), (8, 8))[0]
    assert (clear[:, 0, 0] == 0).all()


def test_a_card_before_the_key_light_casts_its_shadow():
    renderer, verts = _square_renderer(
        Material("card", _colour(1.0, 1.0, 1.0), double_sided=True),
        Material("wall", _colour(0.5, 0.5, 0.5)),
        depths=(0.6, 0.0),
        config=RenderConfig(shadow_side=256, tone="linear"),
    )
    verts[:, :4, :2] *= 0.2  # a card of side 0.4, lit from the left at 45 degrees
    lights = directional(torch.tensor([[[-1.0, 0.0, 1.0]]]), torch.ones(1, 1, 3))
    image = renderer(verts, _front(), lights, (80, 80))[0, 0]
    # its shadow is 0.6 to the right of it: x in 0.4..0.8
    lit = srgb_to_linear(torch.tensor(0.5)) * math.cos(math.pi / 4)
    torch.testing.assert_close(srgb_to_linear(image[40, 4]), lit, atol=2e-3, rtol=0)
    assert image[40, 64] == 0
    assert image[40, 77] > 0.3


def test_a_spheres_picture_repeats_and_does_not_depend_on_the_batch():
    verts, faces = _sphere(12, 16)
    uv = torch.rand(len(verts), 2, generator=_generator())
    renderer = Renderer(
        faces, uv, faces, torch.zeros(len(faces)).long(), [Material("skin", _colour(0.8, 0.6, 0.5))]
    )
    both = torch.stack([verts, verts * 0.8])
    camera = orbit(torch.tensor([0.0, 30.0]), distance=5.0, fov_deg=30.0)
    pair = renderer(both, camera, size=(40, 48))
    assert torch.equal(pair, renderer(both, camera, size=(40, 48)))
    assert torch.equal(pair[1:], renderer(both[1:], camera[1], size=(40, 48)))


def _furnace(look, colour=(1.0, 1.0, 1.0), roughness=0.5):
    """Linear light that a sphere sends out where light comes evenly from everywhere [3, N]."""
    verts, faces = _sphere(60, 90)
    material = Material("ball", _colour(*colour), roughness=roughness)
    renderer = Renderer(
        faces,
        verts[:, :2],
        faces,
        torch.zeros(len(faces)).long(),
        [material],
        {"ball": look},
        PLAIN,
    )
    # at half the light, as pictures end at 1
    image = renderer(verts[None], _front(0.9), _ambient(0.5), (64, 64))[0]
    return srgb_to_linear(image[:3, image[3] == 1]) / 0.5


@pytest.mark.parametrize("roughness", [0.1, 0.5, 1.0])
def test_a_white_ball_in_a_white_furnace_can_hardly_be_seen(roughness):
    light = _furnace(Look(), roughness=roughness)
    assert light.max() < 1.005
    assert light.min() > 0.97


@pytest.mark.parametrize("roughness", [0.1, 0.5, 1.0])
def test_a_white_metal_ball_in_a_white_furnace_loses_no_light(roughness):
    light = _furnace(Look(metallic=1.0), roughness=roughness)
    assert light.max() < 1.01
    assert light.min() > 0.95


def test_metals_reflect_their_colour_and_nothing_else():
    red = _furnace(Look(metallic=1.0), colour=(1.0, 0.0, 0.0), roughness=0.2)
    # white only where the view grazes the surface (Schlick's approximation)
    assert red[0].min() > 0.9
    assert red[1].median() < 0.1
    matt = _furnace(Look(), colour=(1.0, 0.0, 0.0), roughness=0.2)
    assert matt[1].median() == pytest.approx(0.04, abs=0.02)


def test_looks_out_of_range_are_refused():
    with pytest.raises(ValueError, match="reflectance and metallic are 0 to 1"):
        Look(metallic=1.5)


def test_changed_materials_leave_the_first_renderer_alone():
    renderer, verts = _square_renderer(Material("card", _colour(1.0, 0.0, 0.0)))
    green = renderer.with_materials([Material("card", _colour(0.0, 1.0, 0.0))])
    assert renderer(verts, _front(), _ambient(), (4, 4))[0, 0].min() > 0.99
    assert green(verts, _front(), _ambient(), (4, 4))[0, 1].min() > 0.99
    with pytest.raises(ValueError, match="no material 'hat'"):
        renderer.with_materials([Material("hat", _colour(0.0, 1.0, 0.0))])


def test_a_ball_sees_the_whole_sky_and_the_inside_of_a_ball_none():
    verts, faces = _sphere(20, 30)
    assert ambient_occlusion(verts, faces, directions=32).mean() > 0.97
    shell = torch.cat([verts, verts * 0.5])
    both = torch.cat([faces, faces + len(verts)])
    seen = ambient_occlusion(shell, both, directions=32)
    assert seen[len(verts) :].max() < 0.05


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-2, 2), st.sampled_from([math.nan, math.inf, 1e30, 0.0])),
        min_size=18,
        max_size=18,
    )
)
def test_odd_vertices_never_break_a_picture(numbers):
    verts = torch.tensor(numbers, dtype=torch.float32).view(1, 6, 3)
    faces = torch.randint(0, 6, (8, 3), generator=_generator())
    uv = torch.tensor(numbers[:12], dtype=torch.float32).view(6, 2)
    paint = torch.cat([_colour(0.5, 0.5, 0.5), torch.full((1, 4, 4), 0.7)])
    renderer = Renderer(
        faces,
        uv,
        faces,
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
        [Material("skin", paint[:3], paint[:3]), Material("hair", paint, alpha_mode="BLEND")],
    )
    image = renderer(verts, orbit(torch.tensor([10.0]), distance=3.0), size=(12, 12))
    assert ((image >= 0) & (image <= 1)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"supersample": 5}, "supersample=5"),
        ({"size": (0, 4)}, "size is"),
        ({"background": torch.zeros(3, 5, 5)}, "background has shape"),
        ({"occlusion": torch.ones(3)}, "occlusion has 3 values"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    renderer, verts = _square_renderer(Material("card", _colour(1.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match=words):
        renderer(verts, _front(), _ambient(), **{"size": (8, 8), **arguments})


def _generator():
    return torch.Generator().manual_seed(0)


def test_the_published_constants_are_decas():
    expected = [
        1 / math.sqrt(4 * math.pi),
        *[2 * math.pi / 3 * math.sqrt(3 / (4 * math.pi))] * 3,
        *[math.pi / 4 * 3 * math.sqrt(5 / (12 * math.pi))] * 3,
        math.pi / 4 * 1.5 * math.sqrt(5 / (12 * math.pi)),
        math.pi / 4 * 0.5 * math.sqrt(5 / (4 * math.pi)),
    ]
    assert list(SH_CONSTANTS) == pytest.approx(expected, abs=1e-6)
