"""Fused pictures in spherical-harmonic light against equations, the plain twin and differences."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator

import pytest
import torch

from flame.normals import vertex_normals, vertex_normals_reference
from flame.raster import Fragments, rasterize
from flame.sh_render import render_sh, render_sh_reference

SIZE = (40, 48)
C = [0.282095, 1.023327, 1.023327, 1.023327, 0.858086, 0.858086, 0.858086, 0.429043, 0.247708]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def sphere(rows: int = 12, columns: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors and the faces between them, without caps."""
    down = torch.linspace(0.2, math.pi - 0.2, rows, dtype=torch.float64)
    around = torch.arange(columns, dtype=torch.float64) / columns * 2 * math.pi
    t, p = torch.meshgrid(down, around, indexing="ij")
    verts = torch.stack([t.sin() * p.sin(), t.cos(), t.sin() * p.cos()], -1).reshape(-1, 3)
    i, j = torch.arange(rows - 1)[:, None] * columns, torch.arange(columns)[None]
    k = (j + 1) % columns
    a, b, c, d = i + j, i + columns + j, i + columns + k, i + k
    quads = torch.stack([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)], 2)
    return verts, quads.reshape(-1, 3)


def scene(
    dtype: torch.dtype, pinhole: bool, textured: bool, size: tuple[int, int] = SIZE
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, dict[str, torch.Tensor]]:
    """(verts, normals, albedo, light), faces and UVs of two bumpy spheres, partly off screen."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    unit, faces = sphere()
    points = unit * (1 + 0.1 * noise(2, len(unit), 1))
    height, width = size
    if pinhole:
        x, y, z = (points + torch.tensor([0.2, -0.1, 0.0])).unbind(-1)
        verts = torch.stack([1.5 * x, 1.5 * y, 1.2 - z, 2.2 - z], dim=-1)
    else:
        x, y, z = points.unbind(-1)
        verts = torch.stack([width * (0.55 + 0.4 * x), height * (0.6 - 0.5 * y), -z], dim=-1)
    normals = unit + 0.3 * noise(2, len(unit), 3)  # of any length
    light = 0.4 * noise(2, 9, 3) - 0.1
    light[:, 0] += 1.5
    uvs = {}
    albedo = noise(2, len(unit), 3)
    if textured:
        albedo = noise(2, 3, 9, 13)
        uvs = {"uv": (unit[:, :2] * 0.6 + 0.5).to(dtype), "uv_faces": faces}  # beyond 0..1 too
    leaves = tuple(x.to(dtype).requires_grad_() for x in (verts, normals, albedo, light))
    return leaves, faces, uvs


def cotangents(image: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image.dtype)


def gradients(image: torch.Tensor, leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(image, leaves, cotangents(image), retain_graph=True)


def test_a_flat_face_shows_its_colour_times_the_light_on_its_normal() -> None:
    x, y, z = (v / math.sqrt(0.5**2 + 0.7**2 + 1.1**2) for v in (0.5, -0.7, 1.1))
    bands = [1.0, x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    light = torch.linspace(-0.3, 0.9, 27, dtype=torch.float64).view(1, 9, 3)
    shading = sum(c * band * light[0, k] for k, (c, band) in enumerate(zip(C, bands, strict=True)))
    verts = torch.tensor([[[-99.0, -99, 0], [200, -99, 0], [20, 200, 0]]], dtype=torch.float64)
    normal = torch.tensor([0.5, -0.7, 1.1], dtype=torch.float64).expand(1, 3, 3)
    colour = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    drawn = render_sh(
        verts, torch.tensor([[0, 1, 2]]), normal, colour.expand(1, 3, 3), light, (4, 6)
    )
    assert drawn.mask.all()
    expected = (colour * shading)[None, :, None, None].expand(1, 3, 4, 6)
    torch.testing.assert_close(drawn.image, expected, atol=1e-12, rtol=0)


def test_a_sphere_is_lit_as_its_directions_are() -> None:
    unit, faces = sphere(96, 128)
    side, radius = 96, 40.0
    verts = torch.stack([48 + radius * unit[:, 0], 48 - radius * unit[:, 1], -unit[:, 2]], -1)[None]
    light = torch.zeros(1, 9, 3, dtype=torch.float64)
    light[0, 0], light[0, 1, 0], light[0, 2, 1], light[0, 3, 2] = 2.0, 0.5, 0.5, 0.5
    white = torch.ones_like(verts)
    image = render_sh(verts, faces, unit[None], white, light, (side, side)).image
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y = (column + 0.5 - 48) / radius, (48 - row - 0.5) / radius
    inside = x * x + y * y < 0.8
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    expected = 2 * C[0] + 0.5 * C[1] * torch.stack([x, y, z])
    error = (image[0] - expected).abs()[:, inside]
    assert error.max() < 2e-3


def test_a_pinhole_camera_mixes_corners_by_the_ray_through_the_pixel() -> None:
    verts = torch.tensor([[[-2.0, -3, 0, 1], [9, -4, 2, 6], [-1, 7, 1, 3]]], dtype=torch.float64)
    colours = torch.eye(3, dtype=torch.float64)[None]
    light = torch.zeros(1, 9, 3, dtype=torch.float64)
    light[0, 0] = 1 / C[0]
    height, width = 8, 10
    normals = torch.ones_like(colours)
    drawn = render_sh(verts, torch.tensor([[0, 1, 2]]), normals, colours, light, (height, width))
    row, column = torch.nonzero(drawn.mask[0], as_tuple=True)
    assert len(row) > 20
    ray = torch.stack(
        [(2 * column + 1) / width - 1, 1 - (2 * row + 1) / height, torch.ones(len(row))], -1
    )
    corners = verts[0][:, [0, 1, 3]].T  # columns: the rays of the corners, as long as they are far
    weights = torch.linalg.solve(corners, ray.double().T)
    expected = weights / weights.sum(0)
    torch.testing.assert_close(drawn.image[0][:, row, column], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("pinhole", [False, True])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 2e-4)], ids=["double", "single"]
)
def test_the_fused_picture_and_its_gradients_equal_the_plain_ones(
    dtype: torch.dtype, atol: float, pinhole: bool, textured: bool, threads: int
) -> None:
    # high enough to be cut into bands where there are more threads than pictures
    size = (130, 48)
    leaves, faces, uvs = scene(dtype, pinhole, textured, size)
    for batch in (2, 1):
        verts, normals, albedo, light = (leaf[:batch] for leaf in leaves)
        fused = render_sh(verts, faces, normals, albedo, light, size, least=0.35, **uvs)
        plain = render_sh_reference(verts, faces, normals, albedo, light, size, least=0.35, **uvs)
        assert 0.3 < fused.mask.float().mean() < 1
        torch.testing.assert_close(fused.image, plain.image, atol=0.1 * atol, rtol=0)
        for name, got, wanted in zip(
            ("verts", "normals", "albedo", "light"),
            gradients(fused.image, leaves),
            gradients(plain.image, leaves),
            strict=True,
        ):
            scale = float(wanted.detach().abs().max())
            assert scale > 0
            torch.testing.assert_close(
                got / scale, wanted / scale, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("textured", [False, True])
@pytest.mark.parametrize("pinhole", [False, True])
def test_gradients_are_those_of_differences(pinhole: bool, textured: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    size = (5, 6)
    verts = torch.tensor([[[-1.0, -2, 0.5], [7, 0.3, 0.2], [1, 6, 0.4], [8, 7, 0.9]]]).double()
    if pinhole:
        w = torch.tensor([[0.8, 1.5, 1.1, 2.0]]).double()
        x, y = verts[..., 0] / 3 - 1, 1 - verts[..., 1] / 2.5
        verts = torch.stack([x * w, y * w, 0.1 * w, w], dim=-1)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    fragments = rasterize(verts, faces, size)  # held: coverage has no gradient here
    assert len(fragments.face_id.unique()) >= 2
    normals, light = noise(1, 4, 3) + 0.2, noise(1, 9, 3)
    albedo = noise(1, 3, 4, 3) if textured else noise(1, 4, 3)
    uvs = {"uv": noise(4, 2) * 0.8 + 0.1, "uv_faces": faces.flip(0)} if textured else {}

    def picture(*leaves: torch.Tensor) -> torch.Tensor:
        v, n, a, sh = leaves
        return render_sh(v, faces, n, a, sh, size, fragments=fragments, **uvs).image

    leaves = tuple(leaf.requires_grad_() for leaf in (verts, normals, albedo, light))
    assert torch.autograd.gradcheck(picture, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("textured", [False, True])
def test_gradients_repeat_bit_for_bit(textured: bool, threads: int) -> None:
    leaves, faces, uvs = scene(torch.float32, True, textured, (130, 48))
    leaves = tuple(leaf[:1] for leaf in leaves)

    def once() -> tuple[torch.Tensor, ...]:
        verts, normals, albedo, light = leaves
        image = render_sh(verts, faces, normals, albedo, light, (130, 48), **uvs).image
        return image, *gradients(image, leaves)

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


def test_single_precision_holds_over_a_face_as_large_as_the_picture() -> None:
    side = 640
    verts = torch.tensor([[[-5.0, -9, 0], [650, -3, 0], [-4, 655, 0], [660, 650, 0]]])
    faces = torch.tensor([[0, 1, 2], [2, 1, 3]])
    generator = torch.Generator().manual_seed(1)
    colours, light = torch.rand(1, 4, 3, generator=generator), torch.zeros(1, 9, 3)
    normals = torch.tensor([[[0.1, 0, 1], [-0.2, 0.3, 1], [0, -0.4, 1], [0.3, 0.3, 1]]])
    light[:, 0], light[:, 1], light[:, 6] = 1.0, 0.4, 0.3
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = tuple(x.to(dtype).requires_grad_() for x in (verts, normals, colours, light))
        image = render_sh(leaves[0], faces, *leaves[1:], (side, side)).image
        found.append(torch.autograd.grad((image * image.detach()).sum(), leaves))
    for single, double in zip(*found, strict=True):
        scale = float(double.abs().max())
        torch.testing.assert_close(single.double() / scale, double / scale, atol=1e-5, rtol=0)


def test_only_the_faces_of_the_pixels_are_kept_for_the_gradients() -> None:
    leaves, faces, _ = scene(torch.float32, False, False)
    verts, normals, albedo, light = leaves
    image = render_sh(verts, faces, normals, albedo, light, SIZE).image
    own = {tensor.data_ptr() for tensor in (*leaves, faces)}
    saved = [t for t in image.grad_fn.saved_tensors if t is not None and t.data_ptr() not in own]
    assert sum(t.numel() * t.element_size() for t in saved) <= 4 * image[:, 0].numel()


def test_what_needs_no_gradient_gets_none() -> None:
    (verts, normals, albedo, light), faces, uvs = scene(torch.float32, False, True)
    image = render_sh(verts, faces, normals, albedo.detach(), light, SIZE, **uvs).image
    wanted = gradients(render_sh(verts, faces, normals, albedo, light, SIZE, **uvs).image, (verts,))
    assert torch.equal(gradients(image, (verts,))[0], wanted[0])


def test_the_background_and_empty_meshes_are_black() -> None:
    (verts, normals, albedo, light), faces, _ = scene(torch.float32, False, False)
    drawn = render_sh(verts, faces, normals, albedo, light, SIZE)
    assert not drawn.image.movedim(1, -1)[~drawn.mask].any()
    empty = render_sh(verts, faces[:0], normals, albedo, light, SIZE)
    assert not empty.image.any()
    assert not any(grad.any() for grad in gradients(empty.image, (verts, normals, albedo, light)))
    none = render_sh(verts[:0], faces, normals[:0], albedo[:0], light[:0], SIZE)
    assert none.image.shape == (0, 3, *SIZE)


def test_normals_that_cancel_get_no_gradient_and_spoil_none() -> None:
    verts = torch.tensor([[[-9.0, -9, 0], [30, -9, 0], [5, 30, 0]]], requires_grad=True)
    normals = torch.zeros(1, 3, 3, requires_grad=True)
    light = torch.rand(1, 9, 3, generator=torch.Generator().manual_seed(0))
    colours = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(1))
    image = render_sh(verts, torch.tensor([[0, 1, 2]]), normals, colours, light, (8, 8)).image
    grads = torch.autograd.grad(image.sum(), (verts, normals))
    assert torch.isfinite(grads[0]).all()
    assert not grads[1].any()


def test_other_kinds_of_numbers_take_the_plain_way() -> None:
    leaves, faces, uvs = scene(torch.float32, False, True)
    verts, normals, albedo, light = (leaf.detach().bfloat16() for leaf in leaves)
    rough = render_sh(verts, faces, normals, albedo, light, SIZE, **uvs)
    assert rough.image.dtype == torch.bfloat16
    fine = render_sh(verts.float(), faces, normals.float(), albedo.float(), light.float(), SIZE,
                     fragments=rough.fragments, **uvs)  # fmt: skip
    assert (rough.image.float() - fine.image).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normals": torch.zeros(2, 5, 3)}, "normals are .* pass one per vertex"),
        ({"normals": torch.zeros(1, 192, 3)}, "normals has 1 batch items and verts 2"),
        ({"albedo": torch.zeros(2, 7, 3)}, "albedo is .* pass a colour per vertex"),
        ({"albedo": torch.zeros(2, 192, 3).double()}, "albedo is torch.float64 .* verts torch.fl"),
        ({"uv": torch.zeros(4, 2)}, "uv and uv_faces belong together"),
        ({"size": (9, 9), "fragments": True}, "fragments.face_id is .* call for"),
        ({"faces": torch.tensor([[0, 1, 192]])}, "faces.* vertex"),
        ({"size": (0, 9)}, "size is"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict[str, object], words: str) -> None:
    (verts, normals, albedo, light), faces, _ = scene(torch.float32, False, False)
    given: dict[str, object] = {
        "verts": verts, "faces": faces, "normals": normals, "albedo": albedo,
        "sh_light": light, "size": SIZE, **change,
    }  # fmt: skip
    if "fragments" in change:
        given["fragments"] = rasterize(verts, faces, SIZE)
    with pytest.raises(ValueError, match=words):
        inspect.unwrap(render_sh)(**given)  # without the tests' own check of shapes


def test_fragments_of_another_mesh_are_refused_or_drawn_black() -> None:
    (verts, normals, albedo, light), faces, _ = scene(torch.float32, False, False)
    face_id = torch.full((2, *SIZE), len(faces))
    blank = torch.zeros(2, *SIZE, 3)
    with pytest.raises(ValueError, match=r"fragments.face_id points past the \d+ faces"):
        render_sh(verts, faces, normals, albedo, light, SIZE,
                  fragments=Fragments(face_id, blank, blank[..., 0]))  # fmt: skip
    flat = torch.zeros_like(verts)  # every face is a point
    seen = Fragments(torch.zeros_like(face_id), blank, blank[..., 0])
    assert not render_sh(flat, faces, normals, albedo, light, SIZE, fragments=seen).image.any()


def test_vertex_normals_of_a_sphere_are_its_directions() -> None:
    unit, faces = sphere(60, 80)
    normals = vertex_normals(unit[None] * 0.1, faces)[0]
    inner = slice(80, -80)  # the first and the last ring have faces on one side only
    assert ((normals * unit).sum(-1)[inner] > 0.9999).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_vertex_normals_equal_the_plain_ones(dtype: torch.dtype) -> None:
    unit, faces = sphere()
    noise = torch.rand(2, len(unit) + 1, 3, generator=torch.Generator().manual_seed(0))
    verts = torch.cat([unit, unit[:1] * 0])[None].expand(2, -1, -1) * 0.1 + 0.02 * noise
    found = []
    for function in (vertex_normals, vertex_normals_reference):
        leaf = verts.to(dtype).requires_grad_()
        normals = function(leaf, faces)
        found.append((normals, *torch.autograd.grad(normals, leaf, cotangents(normals))))
        assert not normals[:, -1].any()  # it has no faces
    for got, wanted in zip(*found, strict=True):
        scale = float(wanted.detach().abs().max())
        atol = 1e-12 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(got / scale, wanted / scale, atol=atol, rtol=0)


def test_gradients_of_vertex_normals_are_those_of_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    verts = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [0, 3, 1]])  # vertex 4 has none
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces), (verts,), eps=1e-7)


def test_vertex_normals_of_faces_past_the_vertices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"faces.* vertex"):
        vertex_normals(torch.zeros(1, 3, 3), torch.tensor([[0, 1, 3]]))
