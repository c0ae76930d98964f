"""Face restoring and enlarging models of spandrel: read safely, aligned to faces, and recorded."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
from malicious import corpus
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from assets.errors import AssetError
from assets.files import sha256_of
from assets.image import read_image
from avatar.cli import app
from avatar.restore_faces import SIDE, alignment, find_faces, restored
from diffusion.metadata import read_record
from diffusion.restore import (
    Restorer,
    enlarged,
    load_restorer,
    open_spandrel,
    restored_inside,
)
from diffusion.write import says_generated

needs_spandrel = pytest.mark.skipif(
    importlib.util.find_spec("spandrel") is None, reason="needs spandrel (extra: restore)"
)


class Descriptor:
    """Stands for spandrel's of a model that a function makes up."""

    input_channels = 3

    def __init__(self, change, purpose="FaceSR", scale=1):
        self._change, self.purpose, self.scale = change, purpose, scale

    def __call__(self, image):
        return self._change(image)


def restorer(change, **more):
    return Restorer(Descriptor(change, **more), "made.pth", "")


def run(*words):
    result = CliRunner().invoke(app, ["portrait", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout.split()


@pytest.fixture(scope="module")
def compact():
    """RealESRGAN's compact network, twice; of weights zero it repeats pixels."""
    open_spandrel()
    from spandrel.architectures.Compact import Compact

    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Compact(num_in_ch=3, num_out_ch=3, num_feat=4, num_conv=1, upscale=2).eval()


@pytest.fixture(scope="module")
def face_net():
    open_spandrel()
    from spandrel.architectures.RestoreFormer import RestoreFormer

    shape = {"n_embed": 8, "embed_dim": 32, "ch": 32, "out_ch": 3, "ch_mult": (1, 1)}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return RestoreFormer(
            **shape, num_res_blocks=1, attn_resolutions=(1,), dropout=0.0, in_channels=3,
            resolution=512, z_channels=32, double_z=False, enable_mid=True, head_size=8,
        ).eval()  # fmt: skip


@needs_spandrel
def test_a_model_file_is_opened_as_what_its_weights_are(compact, face_net, tmp_path, generator):
    image = torch.rand(1, 3, 20, 28, generator=generator)
    with torch.no_grad():
        expected = compact(image).clamp(0, 1)
    torch.save({"params_ema": compact.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    torch.save(compact.state_dict(), tmp_path / "b.pt")
    save_file(compact.state_dict(), tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pt", "c.safetensors"):
        found = load_restorer(tmp_path / name)
        assert (found.scale, found.wants_faces, found.name) == (2, False, name)
        assert found.sha256 == sha256_of(tmp_path / name)
        torch.testing.assert_close(found(image), expected)
    torch.save(face_net.state_dict(), tmp_path / "f.pth")
    faces = load_restorer(tmp_path / "f.pth")
    assert faces.wants_faces and faces.scale == 1
    small = image[..., :16, :16]
    with torch.no_grad():  # it works on -1..1
        wanted = (face_net(2 * small.expand(1, -1, -1, -1) - 1)[0] + 1) / 2
    padded = faces(torch.nn.functional.pad(small, (0, 16, 0, 16), mode="replicate"))
    assert padded.shape == (1, 3, 32, 32) and wanted.isfinite().all()


@needs_spandrel
def test_a_compact_network_of_zeros_repeats_pixels_through_any_tiles(compact, tmp_path, generator):
    zeros = {name: torch.zeros_like(value) for name, value in compact.state_dict().items()}
    torch.save(zeros, tmp_path / "zero.pth")
    found = load_restorer(tmp_path / "zero.pth")
    image = torch.rand(2, 3, 37, 50, generator=generator)
    twice = image.repeat_interleave(2, -1).repeat_interleave(2, -2)
    for tile in (256, 16, 20):
        assert torch.equal(enlarged(found, image, tile=tile), twice)
    save_file(compact.state_dict(), tmp_path / "c.safetensors")
    real = load_restorer(tmp_path / "c.safetensors")
    torch.testing.assert_close(enlarged(real, image, tile=16), real(image), atol=1e-6, rtol=0)


@needs_spandrel
def test_files_that_are_no_such_model_are_one_sentence_and_run_nothing(compact, tmp_path):
    odd = {**compact.state_dict(), "body.0.weight": torch.zeros(4, 3, 5, 5)}
    torch.save(odd, tmp_path / "odd.pth")
    save_file({"x": torch.zeros(3)}, tmp_path / "none.safetensors")
    whole = (tmp_path / "odd.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for name, words in [
        ("absent.pth", "is not there"),
        ("none.safetensors", "is of no architecture that spandrel knows"),
        ("odd.pth", "does not fit the architecture"),
        ("cut.pth", "cut short or damaged"),
    ]:
        with pytest.raises(AssetError, match=words) as caught:
            load_restorer(tmp_path / name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    mark = tmp_path / "it-ran"
    cases = corpus(str(mark))
    chosen = [n for n in cases if "memo" not in n and "deep" not in n and "bomb" not in n][::12]
    for name in chosen:
        (tmp_path / "m.pth").write_bytes(cases[name][0])
        with pytest.raises(AssetError):
            load_restorer(tmp_path / "m.pth")
    assert not mark.exists()


@needs_spandrel
def test_what_is_lent_to_spandrel_in_torchvisions_place_is_gone_again(compact):
    lent = [name for name in sys.modules if name.split(".")[0] == "torchvision"]
    assert not lent or importlib.util.find_spec("torchvision") is not None


def test_without_spandrel_the_way_to_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spandrel", None)
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"pip install 'prompt-to-avatar\[restore\]'"):
        load_restorer(tmp_path / "a.pth")


def face_points(generator):
    return torch.rand(68, 2, generator=generator) * 100


def test_aligning_finds_the_similarity_that_the_points_went_through(generator):
    """Points that lie where FFHQ has them, turned, scaled and moved, are brought back."""
    wanted = torch.tensor([[193.0, 239.9], [318.9, 240.2], [256.6, 314.0], [201.3, 371.4],
                           [313.1, 371.2]])  # fmt: skip
    angle, scale = torch.tensor(0.4), 0.3
    turn = scale * torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    seen = wanted @ turn.T + torch.tensor([40.0, -7.0])
    points = face_points(generator)
    points[36:42], points[42:48] = seen[0], seen[1]
    points[30], points[48], points[54] = seen[2], seen[3], seen[4]
    found = alignment(points)
    torch.testing.assert_close(found[:, :2], torch.linalg.inv(turn), atol=1e-3, rtol=0)
    back = torch.cat([seen, torch.ones(5, 1)], 1) @ found.T
    torch.testing.assert_close(back, wanted, atol=1e-2, rtol=0)
    torch.testing.assert_close(alignment(points, SIDE // 4), found / 4, atol=1e-4, rtol=0)


def test_a_model_that_changes_nothing_leaves_every_pixel_and_another_the_outside(generator):
    image = torch.rand(1, 3, 90, 120, generator=generator)
    place = torch.tensor([[1.5, 0.2, -30.0], [-0.2, 1.5, -20.0]])  # pixels of the square
    same = restored_inside(restorer(lambda x: x), image, place, 64)
    assert torch.equal(same, image)
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    made = restored_inside(restorer(lambda x: red.expand_as(x)), image, place, 64)
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    u, v = (row[0] * x + row[1] * y + row[2] for row in place)
    outside = (u < -0.5) | (u > 64.5) | (v < -0.5) | (v > 64.5)
    deep = (u > 10) & (u < 54) & (v > 10) & (v < 54)
    assert outside.any() and deep.any()
    assert torch.equal(made[..., outside], image[..., outside])
    # inside it is red but for what sampling to and fro leaves of the picture's detail
    smooth = image * 0 + 0.5
    inside = restored_inside(restorer(lambda x: red.expand_as(x)), smooth, place, 64)[..., deep]
    torch.testing.assert_close(inside, red[..., 0].expand_as(inside), atol=1e-4, rtol=0)


def test_the_face_of_a_photograph_is_brought_where_the_model_wants_it():
    from skimage import data

    photo = torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255
    photo = photo[..., :256, 96:352]
    (points,) = find_faces(photo)
    seen = []

    def look(crop):
        seen.append(crop)
        return crop

    same, count = restored(restorer(look), photo, lambda _: [points, points], side=128)
    assert count == 2 and torch.equal(same, photo) and seen[0].shape == (1, 3, 128, 128)
    (again,) = find_faces(torch.nn.functional.interpolate(seen[0], scale_factor=2))
    nose = again[30] * SIDE / 256
    assert (nose - torch.tensor([256.6, 314.0])).norm() < 0.04 * SIDE
    assert restored(restorer(look), torch.full((1, 3, 96, 96), 0.5))[1] == 0


def test_models_of_whole_pictures_restore_them_whole_and_enlarging_ones_do_not(generator):
    image = torch.rand(1, 3, 20, 20, generator=generator)
    better, count = restored(restorer(lambda x: x / 2, purpose="Restoration"), image)
    assert count == 1 and torch.equal(better, image / 2)
    with pytest.raises(ValueError, match=r"give it with --upscale-model"):
        restored(restorer(lambda x: x, purpose="SR", scale=4), image)
    with pytest.raises(ValueError, match=r"give it with --restore"):
        enlarged(restorer(lambda x: x), image)


@needs_spandrel
def test_a_restored_picture_says_by_which_file_and_wants_it_again(compact, face_net, tmp_path):
    from skimage import data

    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.fromarray(data.astronaut()[:160, 144:304]).save(photo)
    torch.save(compact.state_dict(), tmp_path / "x2.pth")
    zeros = {name: torch.zeros_like(value) for name, value in face_net.state_dict().items()}
    torch.save(zeros, tmp_path / "face.pth")
    run("--image", photo, "--upscale-model", tmp_path / "x2.pth", "--out", out)
    made = read_image(out)
    expected = load_restorer(tmp_path / "x2.pth")(read_image(photo))
    assert made.shape[-2:] == (320, 320) and says_generated(out)
    assert (made - expected).abs().mean() < 0.01  # the invisible mark and rounding
    recipe = read_record(out).recipe
    assert (recipe.kind, recipe.image_sha256) == ("restore", sha256_of(photo))
    (extra,) = recipe.extras
    assert (extra.kind, extra.name) == ("upscale-model", "x2.pth")
    assert extra.sha256 == sha256_of(tmp_path / "x2.pth")
    with pytest.raises(ValueError, match=r"upscale-model x2\.pth, .*--upscale-model"):
        run("--from", out, "--image", photo, "--out", tmp_path / "no.png")
    run("--from", out, "--image", photo, "--upscale-model", tmp_path / "x2.pth",
        "--out", tmp_path / "again.png")  # fmt: skip
    with Image.open(out) as one, Image.open(tmp_path / "again.png") as other:
        assert np.array_equal(np.array(one), np.array(other))
