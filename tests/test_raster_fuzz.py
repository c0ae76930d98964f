"""Ten thousand random small meshes: the compiled path finds the reference's fragments."""

from __future__ import annotations

import math

import pytest
import torch

from flame.raster import rasterize, rasterize_reference

MESHES = 100  # a batch
ODD = [
    math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-30, -1e-30, 0.0, -0.0, 1e-40,
    1e8, -1e8, 0.5, 3e38,
]  # fmt: skip


def _meshes(seed):
    """A batch of meshes in screen or clip space, half of them with odd numbers among theirs."""
    generator = torch.Generator().manual_seed(seed)

    def below(count):
        return int(torch.randint(0, count, (), generator=generator))

    def chance(share, *shape):
        return torch.rand(*shape, generator=generator) < share

    space, count, faces = 3 + seed % 2, 3 + below(8), below(10)
    size = (1 + below(12), 1 + below(12))
    verts = torch.randn(MESHES, count, space, generator=generator, dtype=torch.float64)
    if space == 3:
        verts = verts * torch.tensor([4.0, 4, 1]) + torch.tensor([size[1] / 2, size[0] / 2, 0])
    else:
        verts[..., 3] = verts[..., 3] * 0.7 + 0.5  # some corners are behind the camera
    # corners on pixel centres and on each other's edges
    verts = torch.where(chance(0.3, MESHES, 1, 1), (verts * 2).round() / 2, verts)
    odd = torch.tensor(ODD).double()[torch.randint(0, len(ODD), verts.shape, generator=generator)]
    spoiled = chance(0.5, MESHES, 1, 1) & chance(0.1, *verts.shape)
    verts = torch.where(spoiled, odd, verts)
    verts = verts * torch.where(chance(0.05, MESHES, 1, 1), 1e20, 1.0)
    verts = verts * torch.where(chance(0.05, MESHES, 1, 1), 1e-20, 1.0)
    index = torch.randint(0, count, (MESHES, faces, 3), generator=generator)
    if faces > 2:  # the same face twice
        index[:, 1] = torch.where(chance(0.3, MESHES, 1), index[:, 0], index[:, 1])
    index[chance(0.05, MESHES, faces)] = -1
    return verts.to(torch.float32 if seed % 4 < 2 else torch.float64), index, size


@pytest.mark.parametrize("start", range(0, 100, 25))
def test_the_compiled_path_finds_the_references_fragments_of_any_mesh(start):
    covered = 0
    for seed in range(start, start + 25):
        verts, faces, size = _meshes(seed)
        fast = rasterize(verts, faces, size, cull=seed % 8 == 7)
        slow = rasterize_reference(verts, faces, size, cull=seed % 8 == 7)
        assert torch.equal(fast.face_id, slow.face_id), f"seed {seed}"
        item, row, column = torch.nonzero(fast.face_id >= 0, as_tuple=True)
        bary, depth = fast.bary[item, row, column], fast.depth[item, row, column]
        assert bary.isfinite().all()
        assert (bary >= 0).all()
        torch.testing.assert_close(bary, slow.bary[item, row, column], atol=1e-5, rtol=0)
        # rounding of a depth is in proportion to the corners' depths, which may cancel
        corners = verts[item[:, None], faces[item, fast.face_id[item, row, column]]].double()
        w = corners[..., 3] if verts.shape[-1] == 4 else torch.ones(())
        largest = (corners[..., 2] / torch.where(w == 0, 1e-30, w)).abs().amax(-1)
        error = (depth - slow.depth[item, row, column]).abs().double()
        assert (error <= 1e-5 * (1 + largest)).all(), f"seed {seed}"
        covered += len(item)
    assert covered > 10_000
