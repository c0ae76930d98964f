"""Detail on surfaces whose normals and displacements mathematics knows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assets.errors import AssetError
from assets.image import write_image
from deca.official_surface import (
    DetailMaps,
    DetailMesh,
    SurfaceConfig,
    detail_mesh,
    detail_surface,
    save_detail_obj,
    texel_faces,
)
from deca.official_texture import (
    GREY,
    ExtractConfig,
    extract_texture,
    shaded_albedo,
    visible_landmarks,
)
from flame.camera import Camera
from flame.light import SH_CONSTANTS
from flame.texture import unwrap

SIDE = 64
F64 = torch.float64


def _sheet(size=0.2, dtype=F64):
    """A square in the xy plane that fills the texture, u along x and v along y."""
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=dtype)
    verts = torch.cat([(uv - 0.5) * size, torch.zeros(4, 1, dtype=dtype)], dim=1)
    return verts, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv


def _maps(side=SIDE):
    return DetailMaps(torch.ones(side, side, dtype=F64), torch.zeros(side, side, dtype=F64))


def _texel_grid(side, size=0.2):
    place = (torch.arange(side, dtype=F64) + 0.5) / side
    return (place[None, :] - 0.5) * size, (0.5 - place[:, None]) * size  # x, y


def _surface(raised, maps, config=None, size=0.2):
    verts, faces, uv = _sheet(size)
    layout = unwrap(uv, faces, raised.shape[-1], gutter=0)
    return detail_surface(verts[None], faces, layout, raised, maps, config)


def test_a_plane_raised_to_a_slope_has_the_slopes_normal():
    x, y = _texel_grid(SIDE)
    height = 0.3 * x - 0.2 * y
    surface = _surface(height[None, None], _maps())
    torch.testing.assert_close(surface.points[0, 2], height, atol=1e-9, rtol=0)
    torch.testing.assert_close(surface.points[0, 0], x.expand(SIDE, -1), atol=1e-9, rtol=0)
    wanted = torch.tensor([-0.3, 0.2, 1.0], dtype=F64) / math.sqrt(1 + 0.13)
    inner = surface.normals[0, :, 6:-7, 3:-4]
    torch.testing.assert_close(inner, wanted[:, None, None].expand_as(inner), atol=1e-7, rtol=0)


def test_wrinkles_fade_with_the_mask_but_what_is_fixed_stays():
    x, _ = _texel_grid(SIDE)
    raised = (0.001 * torch.sin(400 * x)).expand(1, 1, SIDE, SIDE)
    mask = torch.zeros(SIDE, SIDE, dtype=F64)
    mask[:, : SIDE // 2] = 0.5
    fixed = torch.full((SIDE, SIDE), 0.0007, dtype=F64)
    surface = _surface(raised, DetailMaps(mask, fixed))
    wanted = raised[0, 0] * mask + 0.0007
    torch.testing.assert_close(surface.displacement[0, 0], wanted)
    torch.testing.assert_close(surface.points[0, 2], wanted, atol=1e-9, rtol=0)
    flat = surface.normals[0, :, :, SIDE // 2 :]
    torch.testing.assert_close(flat[2], torch.ones_like(flat[2]))
    length = surface.normals.norm(dim=1)
    torch.testing.assert_close(length, torch.ones_like(length))
    published = _surface(
        raised, DetailMaps(mask, fixed), SurfaceConfig(published_displacement_map=True)
    )
    torch.testing.assert_close(published.displacement[0, 0], raised[0, 0] + 0.0007)
    torch.testing.assert_close(published.points, surface.points)


def test_published_normals_shrink_on_texels_below_a_square_millimetre():
    """Six triangles round a texel give 6 d² of normal; divided by 1e-6 where that is less."""
    size = 0.02
    area = 6 * (size / SIDE) ** 2
    assert area < 1e-6
    raised = torch.zeros(1, 1, SIDE, SIDE, dtype=F64)
    right = _surface(raised, _maps(), size=size).normals[0, 2, 10:-10, 10:-10]
    torch.testing.assert_close(right, torch.ones_like(right))
    config = SurfaceConfig(published_normals=True)
    shrunk = _surface(raised, _maps(), config, size=size).normals[0, 2, 10:-10, 10:-10]
    torch.testing.assert_close(shrunk, torch.full_like(shrunk, area / 1e-6), atol=1e-6, rtol=0)


def test_the_texel_grids_triangles_cover_decas_margin_once_and_face_the_viewer():
    triangles = texel_faces(256)
    rows, columns = triangles // 256, triangles % 256
    assert (int(columns.min()), int(columns.max())) == (2, 256 - 3)
    assert (int(rows.min()), int(rows.max())) == (5, 256 - 6)
    assert len(triangles) == 2 * (256 - 11) * (256 - 5)
    corners = torch.stack([columns, -rows], dim=-1).double()
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    twice_area = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]
    assert (twice_area == 1).all()
    assert len(torch.unique(triangles.sort(1).values, dim=0)) == len(triangles)


def test_maps_of_different_sizes_are_refused():
    raised = torch.zeros(1, 1, SIDE, SIDE, dtype=F64)
    with pytest.raises(ValueError, match="32"):
        _surface(raised, _maps(32))


def _two_sheets():
    """Two squares side by side in the texture less than a texel apart, one 1 m behind the other."""
    verts, faces, uv = _sheet()
    left = uv * torch.tensor([0.49, 1.0], dtype=F64)
    right = left + torch.tensor([0.5, 0.0], dtype=F64)
    behind = verts - torch.tensor([0.0, 0.0, 1.0], dtype=F64)
    return torch.cat([verts, behind]), torch.cat([faces, faces + 4]), torch.cat([left, right])


def test_the_dense_mesh_joins_neighbours_of_one_island_only():
    verts, faces, uv = _two_sheets()
    side = 40
    height = torch.full((1, side, side), 0.003, dtype=F64)
    texture = torch.rand(3, side, side, dtype=F64)
    mesh = detail_mesh(verts, faces, uv, faces, height, texture)
    corners = mesh.verts[mesh.faces]
    assert (corners[..., 2].amax(1) - corners[..., 2].amin(1)).max() < 1e-6
    assert {round(float(z), 6) for z in mesh.verts[:, 2]} == {0.003, -0.997}
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).all()
    # every quad of texels within an island gives two triangles
    columns = [
        sum(first <= (c + 0.5) / side <= first + 0.49 for c in range(side)) for first in (0, 0.5)
    ]
    assert len(mesh.verts) == side * sum(columns)
    assert len(mesh.faces) == 2 * (side - 1) * (sum(columns) - 2)
    row = ((1 - mesh.uv[:, 1]) * side - 0.5).round().long()
    column = (mesh.uv[:, 0] * side - 0.5).round().long()
    assert torch.equal(mesh.colours, texture[:, row, column].T)
    torch.testing.assert_close(mesh.verts[:, 1], (mesh.uv[:, 1] - 0.5) * 0.2, atol=1e-9, rtol=0)


def test_a_triangular_island_is_covered_up_to_its_slanted_edge():
    verts, faces, uv = _sheet()
    mesh = detail_mesh(verts, faces[:1], uv, faces[:1], torch.zeros(1, 32, 32, dtype=F64))
    corners = mesh.verts[mesh.faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    whole = (normals[:, 2] / 2).sum() / (0.2 / 32) ** 2
    inside = 32 * 31 / 2  # texel centres strictly below the diagonal; those on it may go either way
    assert len(mesh.verts) in (inside, inside + 32, inside - 1, inside + 31)
    # triangles, not whole quads: 30 or 31 halves along the diagonal
    quads = 31 * 31 / 2
    assert abs(float(whole) - quads) <= 31.5
    assert (mesh.colours == GREY).all()


def test_the_dense_obj_reads_back(tmp_path):
    mesh = DetailMesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0.5]]),
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[0.0, 0.25], [1, 0], [0, 1]]),
        torch.tensor([[1.0, 0.5, 0], [0, 0, 0], [1, 1, 1]]),
    )
    save_detail_obj(mesh, tmp_path / "a.obj")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert [float(word) for word in lines[0].split()[1:]] == [0, 0, 0, 1, 0.5, 0]
    assert lines[3] == "vt 0.0000000 0.2500000"
    assert lines[-1] == "f 1/1 2/2 3/3"
    save_detail_obj(mesh, tmp_path / "b.obj", published_colours=True)
    lines = (tmp_path / "b.obj").read_text().splitlines()
    assert lines[0].split()[4:] == ["255", "127", "0"]
    assert lines[-1] == "f 1 2 3"
    with pytest.raises(ValueError, match=r"must end in \.obj"):
        save_detail_obj(mesh, tmp_path / "a.ply")


def test_decas_maps_are_read_and_wrong_ones_refused(tmp_path):
    mask = torch.zeros(1, 3, 256, 256)
    mask[:, 0, :, :128] = 1
    write_image(tmp_path / "mask.png", mask)
    height = np.linspace(-0.0013, 0.0016, 65536).reshape(256, 256)
    np.save(tmp_path / "fixed.npy", height)
    maps = DetailMaps.read(tmp_path / "mask.png", tmp_path / "fixed.npy")
    torch.testing.assert_close(maps.mask, mask[0, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(maps.fixed, torch.from_numpy(height).float())
    for content, words in (
        (np.zeros((4, 4)), r"\(4, 4\)"),
        (np.full((256, 256), np.nan), "finite"),
        (np.zeros((256, 256), dtype=object), "no plain NumPy array"),
    ):
        np.save(tmp_path / "bad.npy", content, allow_pickle=True)
        with pytest.raises(AssetError, match=words):
            DetailMaps.read(tmp_path / "mask.png", tmp_path / "bad.npy")
    with pytest.raises(AssetError, match="is not there"):
        DetailMaps.read(tmp_path / "mask.png", tmp_path / "none.npy")


def _camera(scale=10.0):
    zero = torch.zeros(1, dtype=F64)
    return Camera(zero + scale, torch.zeros(1, 2, dtype=F64), zero)


def test_a_sheet_seen_from_the_front_takes_the_pictures_colours():
    verts, faces, uv = _sheet()
    layout = unwrap(uv, faces, SIDE, gutter=0)
    picture = torch.rand(1, 3, SIDE, SIDE, dtype=F64)
    mask = torch.ones(SIDE, SIDE, dtype=F64)
    mask[:, 40:] = 0
    # at scale 10 the 0.2 m sheet fills the picture: texel and pixel centres fall together
    found = extract_texture(picture, verts[None], faces, _camera(), layout, mask)
    torch.testing.assert_close(found.image[..., :40], picture[..., :40], atol=1e-6, rtol=0)
    assert (found.image[..., 40:] == GREY).all()
    assert torch.equal(found.coverage[0, 0], mask)
    fallback = torch.rand(1, 3, SIDE, SIDE, dtype=F64)
    found = extract_texture(picture, verts[None], faces, _camera(), layout, mask, fallback)
    assert torch.equal(found.image[..., 40:], fallback[..., 40:])


def test_what_is_hidden_or_turned_away_takes_no_colour_unless_as_published():
    verts, faces, uv = _two_sheets()  # the second is a metre behind the first
    layout = unwrap(uv, faces, SIDE, gutter=0)
    picture = torch.ones(1, 3, SIDE, SIDE, dtype=F64)
    mask = torch.ones(SIDE, SIDE, dtype=F64)
    front, back = layout.face_id[0] < 2, layout.face_id[0] >= 2
    front, back = front & layout.valid, back & layout.valid
    found = extract_texture(picture, verts[None], faces, _camera(8.0), layout, mask)
    assert (found.coverage[0, 0][front] == 1).all() and not found.coverage[0, 0][back].any()
    published = ExtractConfig(published_visibility=True)
    smeared = extract_texture(
        picture, verts[None], faces, _camera(8.0), layout, mask, config=published
    )
    assert (smeared.coverage[0, 0][back] == 1).all()
    away = verts * torch.tensor([-1.0, 1, -1], dtype=F64)  # turned round: backs to the viewer
    found = extract_texture(picture, away[None], faces, _camera(8.0), layout, mask)
    assert not found.coverage.any()


def test_shading_is_the_lambert_convolution_of_real_harmonics_but_for_the_ambient_band():
    """Constants are A_l sqrt(...) of Ramamoorthi and Hanrahan, with A_0 left at 1 as published."""
    pi = math.pi
    band1 = 2 / 3 * pi * math.sqrt(3 / (4 * pi))
    band2 = [
        pi / 4 * math.sqrt(15 / (4 * pi)),
        pi / 4 * math.sqrt(15 / (16 * pi)),
        pi / 4 * math.sqrt(5 / (16 * pi)),
    ]
    wanted = [math.sqrt(1 / (4 * pi)), *[band1] * 3, *[band2[0]] * 3, band2[1], band2[2]]
    np.testing.assert_allclose(SH_CONSTANTS, wanted, atol=1e-6)
    normals = torch.nn.functional.normalize(torch.randn(1, 3, 2, 2, dtype=F64), dim=1)
    albedo, light = torch.rand(1, 3, 2, 2, dtype=F64), torch.randn(1, 9, 3, dtype=F64)
    x, y, z = normals[0, :, 1, 0].tolist()
    bands = [1, x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    shade = sum(
        constant * band * light[0, k]
        for k, (constant, band) in enumerate(zip(wanted, bands, strict=True))
    )
    found = shaded_albedo(albedo, normals, light)[0, :, 1, 0]
    torch.testing.assert_close(found, albedo[0, :, 1, 0] * shade, atol=1e-5, rtol=0)


def test_a_landmark_counts_as_seen_until_a_little_past_the_outline():
    normals = torch.tensor([[[0.0, 0.0, 1.0], [0.995, 0.0, -0.09], [0.99, 0.0, -0.11]]])
    assert visible_landmarks(normals)[0].tolist() == [True, True, False]
