"""Texture sampling over mip levels, and a mesh laid out on its texture."""

from __future__ import annotations

import math

import pytest
import torch

from flame.interpolate import interpolate
from flame.raster import rasterize
from flame.tangents import perturb_normals, vertex_tangents
from flame.texture import mip_levels, sample_texture, texture_lod, unwrap

SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]])


def _generator():
    return torch.Generator().manual_seed(0)


def _checker(side, cell):
    step = torch.arange(side) // cell
    return ((step + step[:, None]) % 2)[None, None].repeat(1, 3, 1, 1).double()


def _floor(size, depth=8.0, repeats=1.0):
    """A plane that leans away from a pinhole camera: clip-space corners and their UV."""
    corners = torch.tensor(
        [[-1.0, -0.9, 1.0], [1.0, -0.9, 1.0], [1.0, 0.9, depth], [-1.0, 0.9, depth]]
    ).double()
    w = corners[:, 2]
    verts = torch.stack([corners[:, 0], corners[:, 1] * w, w - 0.1, w], dim=-1)[None]
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).double() * repeats
    return verts, uv, rasterize(verts, SQUARE, size)


def test_mip_levels_keep_the_mean_and_halve_the_sides():
    texture = torch.rand(2, 3, 16, 8, generator=_generator()).double()
    levels = mip_levels(texture)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 8), (8, 4), (4, 2), (2, 1), (1, 1)]
    expected = texture.view(2, 3, 8, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(levels[1], expected)
    torch.testing.assert_close(levels[-1], texture.mean((2, 3), keepdim=True))


def test_a_linear_ramp_is_the_same_on_every_level_away_from_the_border():
    ramp = ((torch.arange(64) + 0.5) / 64).double().expand(1, 1, 64, 64)
    uv = torch.rand(1, 9, 9, 2, generator=_generator()).double() * 0.5 + 0.25
    for level in (0.0, 0.4, 1.0, 2.7):
        lod = torch.full((1, 9, 9), level).double()
        torch.testing.assert_close(sample_texture(ramp, uv, lod)[:, 0], uv[..., 0])


def test_fractions_of_a_level_mix_its_neighbours():
    texture = torch.rand(1, 2, 8, 8, generator=_generator()).double()
    uv = torch.rand(1, 3, 4, 2, generator=_generator()).double()
    below, between, above = (
        sample_texture(texture, uv, torch.full((1, 3, 4), level).double()) for level in (1, 1.25, 2)
    )
    torch.testing.assert_close(between, 0.75 * below + 0.25 * above)
    torch.testing.assert_close(sample_texture(mip_levels(texture)[1], uv), below)
    far = sample_texture(texture, uv, torch.full((1, 3, 4), 99.0).double())
    torch.testing.assert_close(far, texture.mean((2, 3), keepdim=True).expand_as(far))


def test_samples_have_the_gradients_of_central_differences():
    texture = torch.rand(2, 2, 6, 5, generator=_generator()).double()
    uv = torch.rand(2, 2, 3, 2, generator=_generator()).double() * 0.8 + 0.1
    lod = torch.rand(2, 2, 3, generator=_generator()).double() * 1.6 + 0.2
    inputs = tuple(one.requires_grad_() for one in (texture, uv, lod))
    assert torch.autograd.gradcheck(sample_texture, inputs, eps=1e-7, atol=1e-5)


def test_level_of_detail_is_the_texels_a_pixel_spans():
    # a square of 32 pixels with 256 texels along u and 64 along v: 8 texels a pixel at most
    verts = torch.tensor([[[4.0, 36, 1], [36, 36, 1], [36, 4, 1], [4, 4, 1]]]).double()
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]).double()
    fragments = rasterize(verts, SQUARE, (40, 40))
    lod = texture_lod(uv, SQUARE, SQUARE, fragments, verts, (64, 256))
    torch.testing.assert_close(lod[0, 10, 10], torch.tensor(3.0).double())
    assert lod[0, 0, 0] == 0
    assert texture_lod(uv, SQUARE, SQUARE, fragments, verts, (16, 16)).max() == 0


def test_level_of_detail_follows_central_differences_of_perspective_uv():
    size = (40, 48)
    verts, uv, fragments = _floor(size)
    lod = texture_lod(uv, SQUARE, SQUARE, fragments, verts, (128, 128))[0]
    seen = interpolate(uv, SQUARE, fragments)[0] * 128
    inside = fragments.face_id[0] >= 0
    inside = inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]
    across = (seen[1:-1, 2:] - seen[1:-1, :-2]).norm(dim=-1) / 2
    down = (seen[2:, 1:-1] - seen[:-2, 1:-1]).norm(dim=-1) / 2
    expected = torch.maximum(across, down).log2().clamp(min=0)
    assert inside.sum() > 300
    torch.testing.assert_close(
        lod[1:-1, 1:-1][inside], expected[inside].to(lod.dtype), atol=0.12, rtol=0
    )


def test_a_receding_checker_turns_grey_as_supersampling_makes_it():
    size, fine = (48, 48), 8
    checker = _checker(256, 4)

    def drawn(scale, filtered):
        pixels = (size[0] * scale, size[1] * scale)
        verts, uv, fragments = _floor(pixels, depth=30.0)
        places = interpolate(uv, SQUARE, fragments)
        lod = texture_lod(uv, SQUARE, SQUARE, fragments, verts, (256, 256)) if filtered else None
        inside = (fragments.face_id >= 0)[:, None]
        image = sample_texture(checker, places, lod)
        return image, inside.double()

    truth, cover = (torch.nn.functional.avg_pool2d(one, fine) for one in drawn(fine, False))
    inside = (cover == 1)[0, 0]
    smooth, _ = drawn(1, True)
    raw, _ = drawn(1, False)

    def error(image):
        return (image - truth)[0, 0][inside].square().mean().sqrt()

    # point samples alias; over mip levels far cells fade to the grey that they cover
    assert error(raw) > 0.3
    assert error(smooth) < 0.16
    far = inside & (torch.arange(48)[:, None] < 12)
    assert far.sum() > 40
    assert (smooth[0, 0][far] - 0.5).abs().max() < 0.05


def test_flat_normal_maps_change_nothing():
    normals = torch.nn.functional.normalize(torch.randn(20, 3, generator=_generator()), dim=-1)
    tangents = torch.cat([torch.randn(20, 3, generator=_generator()), torch.ones(20, 1)], dim=-1)
    flat = torch.tensor([0.5, 0.5, 1.0]).expand(20, 3)
    torch.testing.assert_close(perturb_normals(normals, tangents, flat), normals)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_tilted_normal_maps_lean_along_the_textures_axes(sign):
    # a square toward +z: u grows along x and v along sign * y, as do +x and +y of the map
    verts = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    uv = torch.stack([uv[:, 0], uv[:, 1] if sign > 0 else 1 - uv[:, 1]], dim=-1)
    normals = torch.tensor([0.0, 0, 1]).expand(4, 3)
    tangents = vertex_tangents(verts, normals, uv, SQUARE)
    turn = math.radians(30)
    lean = torch.tensor([math.sin(turn), 0.0, math.cos(turn)])
    for map_, expected in ((lean, lean), (lean[[1, 0, 2]], lean[[1, 0, 2]] * _row(1, sign, 1))):
        bent = perturb_normals(normals, tangents, (map_ / 2 + 0.5).expand(4, 3))
        torch.testing.assert_close(bent, expected.expand(4, 3))


def test_bent_normals_have_the_gradients_of_central_differences():
    parts = torch.randn(2, 5, 3, generator=_generator()).double()
    sign = torch.tensor([1.0, -1, 1, -1, 1]).double()[:, None]
    bumps = torch.rand(5, 3, generator=_generator()).double()

    def bent(normals, along, bump):
        return perturb_normals(normals, torch.cat([along, sign], -1), bump)

    inputs = tuple(one.clone().requires_grad_() for one in (*parts, bumps))
    assert torch.autograd.gradcheck(bent, inputs, eps=1e-7, atol=1e-5)


def _uv_sphere(rings=48, segments=96):
    """A sphere on an equirectangular texture: u is the angle about y, v grows upward."""
    v = torch.linspace(0, 1, rings + 1)[:, None].expand(-1, segments + 1)
    u = torch.linspace(0, 1, segments + 1)[None].expand(rings + 1, -1)
    uv = torch.stack([u, v], dim=-1).reshape(-1, 2)
    corner = (torch.arange(rings)[:, None] * (segments + 1) + torch.arange(segments)).view(-1, 1)
    above = corner + segments + 1
    uv_faces = torch.cat(
        [torch.cat([corner, corner + 1, above + 1], 1), torch.cat([corner, above + 1, above], 1)]
    )
    # one vertex each at the poles and along the seam
    row, column = torch.arange(len(uv)) // (segments + 1), torch.arange(len(uv)) % (segments + 1)
    column = torch.where((row == 0) | (row == rings), 0, column % segments)
    _, first = torch.unique(row * segments + column, return_inverse=True)
    verts = torch.zeros(int(first.max()) + 1, 3)
    verts[first] = _direction(uv)
    faces = first[uv_faces]
    whole = (faces != faces.roll(1, 1)).all(1)
    return verts, faces[whole], uv, uv_faces[whole]


def _direction(uv):
    turn, height = (uv[..., 0] * 2 - 1) * math.pi, (uv[..., 1] - 0.5) * math.pi
    flat = height.cos()
    return torch.stack([flat * turn.sin(), height.sin(), flat * turn.cos()], dim=-1)


def _row(*values):
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("size", [(64, 128), (96, 96)])
def test_a_spheres_maps_of_places_and_normals_are_its_directions(size):
    verts, faces, uv, uv_faces = _uv_sphere()
    layout = unwrap(uv, uv_faces, size, gutter=0)
    places = layout.positions(2 * verts[None], faces)[0].movedim(0, -1) / 2
    normals = layout.normals(verts[None], faces)[0].movedim(0, -1)
    u = (torch.arange(size[1]) + 0.5) / size[1]
    v = 1 - (torch.arange(size[0]) + 0.5) / size[0]
    expected = _direction(torch.stack(torch.broadcast_tensors(u, v[:, None]), dim=-1))
    # the last texels at the poles fall on the triangles that shrank to nothing there
    inner = slice(3, -3)
    assert layout.valid[inner].all()
    torch.testing.assert_close(places[inner], expected[inner], atol=5e-3, rtol=0)
    torch.testing.assert_close(normals[inner], expected[inner], atol=2e-2, rtol=0)


def test_gutters_carry_bilinear_samples_over_the_islands_border():
    # two islands with their own gaps: samples anywhere on them find no background
    corners = torch.tensor([[0.1, 0.1], [0.4, 0.1], [0.4, 0.9], [0.1, 0.9]])
    uv = torch.cat([corners, corners + torch.tensor([0.5, 0.0])])
    uv_faces = torch.cat([SQUARE, SQUARE + 4])
    verts = torch.cat([torch.full((4, 3), 1.0), torch.full((4, 3), 2.0)])[None]
    maps = unwrap(uv, uv_faces, 31, gutter=2).positions(verts, uv_faces)
    share = torch.rand(200, 2, generator=_generator())
    share[:50] = share[:50].round()  # corners and edges too
    for island, level in ((0, 1.0), (4, 2.0)):
        places = uv[island] + share * (uv[island + 2] - uv[island])
        found = sample_texture(maps, places[None, None])
        torch.testing.assert_close(found, torch.full_like(found, level))
