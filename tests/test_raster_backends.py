"""pytorch3d and nvdiffrast behind our interface.

Neither installs everywhere, so small stand-ins follow their documentation: where pixels lie, what
the axes and the outputs mean. Where the packages are installed, they are tested as well.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch

from flame import raster_backends
from flame.raster import rasterize_reference
from flame.raster_backends import rasterize_nvdiffrast, rasterize_pytorch3d

needs_pytorch3d = pytest.mark.skipif(
    importlib.util.find_spec("pytorch3d") is None, reason="pytorch3d is not installed"
)
needs_nvdiffrast = pytest.mark.skipif(
    importlib.util.find_spec("nvdiffrast") is None, reason="nvdiffrast is not installed"
)


class Meshes:
    """A batch of meshes of different sizes, as pytorch3d.structures.Meshes."""

    def __init__(self, verts, faces):
        assert all(v.dtype == torch.float32 for v in verts)
        self.verts, self.faces = verts, faces


def rasterize_meshes(
    meshes, image_size, blur_radius, faces_per_pixel, perspective_correct, cull_backfaces
):
    """pytorch3d's documented call: +x left, +y up, the shorter side from -1 to 1, z >= 0 seen."""
    assert (blur_radius, faces_per_pixel) == (0.0, 1)
    assert not perspective_correct
    assert not cull_backfaces
    height, width = image_size
    short = min(image_size)
    x = (width / short) * (1 - (2 * torch.arange(width).double() + 1) / width)
    y = (height / short) * (1 - (2 * torch.arange(height).double() + 1) / height)
    results, first = [], 0
    for verts, faces in zip(meshes.verts, meshes.faces, strict=True):
        ids = torch.full((height, width), -1)
        zbuf = torch.full((height, width), -1.0).double()
        bary = torch.full((height, width, 3), -1.0).double()
        nearest = torch.full((height, width), float("inf")).double()
        for index, face in enumerate(faces.tolist()):
            a, b, c = verts.double()[face]
            # the weights solve a 2 x 2 system in the triangle's sides
            sides = torch.stack([b[:2] - a[:2], c[:2] - a[:2]], dim=1)
            if sides.det().abs() < 1e-8:
                continue
            centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
            along = (centre - a[:2]) @ torch.linalg.inv(sides).T
            shares = torch.cat([1 - along.sum(-1, keepdim=True), along], dim=-1)
            z = shares @ torch.stack([a[2], b[2], c[2]])
            wins = (shares > 0).all(-1) & (z >= 0) & (z < nearest)
            nearest = torch.where(wins, z.detach(), nearest)
            ids = torch.where(wins, first + index, ids)
            zbuf = torch.where(wins, z, zbuf)
            bary = torch.where(wins[..., None], shares, bary)
        first += len(faces)
        results.append((ids[..., None], zbuf[..., None].float(), bary[..., None, :].float()))
    ids, zbuf, bary = (torch.stack(field) for field in zip(*results, strict=True))
    return ids, zbuf, bary, torch.zeros_like(zbuf)


class RasterizeCudaContext:
    def __init__(self, device):
        self.device = device


def rasterize(glctx, pos, tri, resolution, ranges, grad_db):
    """nvdiffrast's documented call in range mode: rows from the bottom, (u, v, z/w, triangle + 1).

    u and v are the first and second corner's weights; all that is outside -w..w is clipped.
    """
    assert isinstance(glctx, RasterizeCudaContext)
    assert pos.dtype == torch.float32
    assert tri.dtype == ranges.dtype == torch.int32
    assert ranges.device.type == "cpu"
    height, width = resolution
    x = (2 * torch.arange(width).double() + 1) / width - 1
    y = (2 * torch.arange(height).double() + 1) / height - 1
    across, up = torch.meshgrid(x, y, indexing="xy")
    centre = torch.stack([across, up, torch.ones_like(up)], dim=-1)
    images = []
    for first, count in ranges.tolist():
        image = torch.zeros(height, width, 4).double()
        nearest = torch.full((height, width), float("inf")).double()
        for index in range(first, first + count):
            corners = pos.double()[tri[index].long()]
            # positive weights of the corners whose sum lies on the pixel's ray, with w = 1
            share = centre @ torch.linalg.inv(corners[:, [0, 1, 3]])
            weights = share / share.sum(-1, keepdim=True)
            z = (share @ corners[:, 2]).detach()
            wins = (share > 0).all(-1) & (z.abs() <= 1) & (z < nearest)
            nearest = torch.where(wins, z, nearest)
            number = torch.full_like(z, index + 1)
            pixel = torch.stack([weights[..., 0], weights[..., 1], z, number], dim=-1)
            image = torch.where(wins[..., None], pixel, image)
        images.append(image)
    return torch.stack(images).float(), torch.zeros(len(images), height, width, 0)


@pytest.fixture
def pytorch3d(monkeypatch):
    structures = types.ModuleType("pytorch3d.structures")
    structures.Meshes = Meshes
    mesh = types.ModuleType("pytorch3d.renderer.mesh.rasterize_meshes")
    mesh.rasterize_meshes = rasterize_meshes
    for name in ("pytorch3d", "pytorch3d.renderer", "pytorch3d.renderer.mesh"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, structures.__name__, structures)
    monkeypatch.setitem(sys.modules, mesh.__name__, mesh)
    return rasterize_pytorch3d


@pytest.fixture
def nvdiffrast():
    module = types.ModuleType("nvdiffrast.torch")
    module.rasterize = rasterize
    module.RasterizeCudaContext = RasterizeCudaContext
    # the public function asks for a CUDA device before it gets here
    return lambda verts, faces, size, cull=False: raster_backends._by_nvdiffrast(
        module, verts, faces, size, cull
    )


@pytest.fixture(params=["pytorch3d", "nvdiffrast"])
def backend(request):
    return request.getfixturevalue(request.param)


def scene(seed, space, own=False, least_w=0.4):
    """Random triangles; in clip space also ones beyond the far plane and before the near one."""
    generator = torch.Generator().manual_seed(seed)
    verts = torch.rand(2, 30, space, generator=generator, dtype=torch.float64)
    if space == 3:
        verts = verts * torch.tensor([32.0, 32.0, 9.0]) + torch.tensor([-4.0, -4.0, -3.0])
    else:
        w = verts[..., 3:] + least_w
        verts = torch.cat([(verts[..., :3] * 2.6 - 1.3) * w.abs(), w], dim=-1)
        verts[..., 2] += w[..., 0] * 0.3
    faces = torch.randint(0, 30, (2, 14, 3) if own else (14, 3), generator=generator)
    if own:
        faces[1, 3:5] = -1
        faces[1, 9:] = -1
    return verts, faces


def compare(found, expected, verts):
    assert torch.equal(found.face_id, expected.face_id)
    seen = expected.face_id >= 0
    assert seen.any()
    assert found.bary.dtype == verts.dtype
    torch.testing.assert_close(found.bary, expected.bary, atol=3e-5, rtol=0)
    torch.testing.assert_close(found.depth, expected.depth, atol=3e-5, rtol=0)
    generator = torch.Generator().manual_seed(0)
    by_bary = torch.rand(expected.bary.shape, generator=generator, dtype=torch.float64)
    by_depth = torch.rand(expected.depth.shape, generator=generator, dtype=torch.float64)
    grads = []
    for fragments in (found, expected):
        depth = torch.where(seen, fragments.depth, 0.0)
        total = (fragments.bary * by_bary).sum() + (depth * by_depth).sum()
        grads.append(torch.autograd.grad(total, verts)[0])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4 * grads[1].abs().max(), rtol=1e-3)


@pytest.mark.parametrize("size", [(21, 25), (30, 16)])
@pytest.mark.parametrize("space", [3, 4])
@pytest.mark.parametrize(("own", "cull"), [(False, False), (True, False), (True, True)])
def test_a_backend_gives_the_references_fragments_and_gradients(backend, size, space, own, cull):
    verts, faces = scene(1, space, own)
    verts.requires_grad_()
    expected = rasterize_reference(verts, faces, size, cull)
    compare(backend(verts, faces, size, cull), expected, verts)


def test_nvdiffrast_shows_the_part_of_a_triangle_that_is_before_the_camera(nvdiffrast):
    verts, faces = scene(5, 4, least_w=-0.2)
    assert (verts[..., 3] < 0).any()
    verts[..., 2] = 1.1 * verts[..., 3] - 0.21  # a pinhole whose near plane is 0.1 away
    verts.requires_grad_()
    expected = rasterize_reference(verts, faces, (21, 25))
    compare(nvdiffrast(verts, faces, (21, 25)), expected, verts)


def test_pytorch3d_leaves_out_triangles_with_a_corner_behind_the_camera(pytorch3d):
    verts, faces = scene(5, 4, least_w=-0.2)
    behind = (verts[..., 3] <= 0)[torch.arange(2)[:, None, None], faces].any(-1)
    assert behind.any()
    before = torch.where(behind[..., None], -1, faces)
    expected = rasterize_reference(verts, before, (21, 25))
    assert torch.equal(pytorch3d(verts, faces, (21, 25)).face_id, expected.face_id)


@pytest.mark.parametrize("space", [3, 4])
def test_broken_triangles_cover_nothing_and_spoil_no_gradient(backend, space):
    verts, faces = scene(3, space)
    clean = torch.cat([verts, verts[:, :3]], dim=1)
    broken = clean.clone()
    broken[:, 30, 0], broken[:, 31, 1], broken[:, 32, 2] = float("nan"), float("inf"), -float("inf")
    extra = torch.tensor([[30, 1, 2], [31, 4, 5], [6, 32, 8], [3, 3, 7]])
    broken.requires_grad_()
    found = backend(broken, torch.cat([faces, extra]), (20, 20))
    assert torch.equal(found.face_id, rasterize_reference(clean, faces, (20, 20)).face_id)
    depth = torch.where(found.face_id >= 0, found.depth, 0)
    (grad,) = torch.autograd.grad(found.bary[..., 0].sum() + depth.sum(), broken)
    assert grad.isfinite().all()
    assert grad.any()


def test_no_triangles_give_background_with_zero_gradients(backend):
    verts = torch.rand(2, 3, 3, requires_grad=True)
    found = backend(verts, torch.zeros(0, 3).long(), (4, 5))
    assert (found.face_id == -1).all()
    assert not found.bary.any()
    assert found.depth.isinf().all()
    (grad,) = torch.autograd.grad(found.bary.sum(), verts)
    assert not grad.any()


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch3d", None)
    monkeypatch.setitem(sys.modules, "nvdiffrast", None)
    verts, faces = scene(1, 3)
    with pytest.raises(ValueError, match=r"needs the package pytorch3d.*install it, or use"):
        rasterize_pytorch3d(verts, faces, (4, 4))
    with pytest.raises(ValueError, match=r"needs the package nvdiffrast.*install it, or use"):
        rasterize_nvdiffrast(verts, faces, (4, 4))


def test_nvdiffrast_asks_for_a_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvdiffrast", types.ModuleType("nvdiffrast"))
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", types.ModuleType("nvdiffrast.torch"))
    with pytest.raises(ValueError, match="needs a CUDA device"):
        rasterize_nvdiffrast(*scene(1, 3), (4, 4))


def agree(found, expected):
    """The packages decide edges in their own arithmetic: nearly all pixels are alike."""
    same = found.face_id == expected.face_id
    assert same.double().mean() > 0.98
    alike = same & (expected.face_id >= 0)
    torch.testing.assert_close(found.bary[alike], expected.bary[alike], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.depth[alike], expected.depth[alike], atol=1e-3, rtol=0)


@needs_pytorch3d
@pytest.mark.parametrize("space", [3, 4])
def test_the_installed_pytorch3d_agrees_with_the_reference(space):
    verts, faces = scene(1, space, own=True)
    found = rasterize_pytorch3d(verts, faces, (64, 48))
    agree(found, rasterize_reference(verts, faces, (64, 48)))


@needs_nvdiffrast
@pytest.mark.gpu
@pytest.mark.parametrize("space", [3, 4])
def test_the_installed_nvdiffrast_agrees_with_the_reference(space):
    verts, faces = scene(1, space, own=True)
    found = rasterize_nvdiffrast(verts.cuda(), faces.cuda(), (64, 48)).to("cpu")
    agree(found, rasterize_reference(verts, faces, (64, 48)))
