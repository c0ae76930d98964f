from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from flame.albedo import AlbedoModel, bounded
from flame.paint import paint_skin, paint_skin_surface
from flame.paint_cloth import paint_lashes, paint_shirt
from flame.paint_eye import IRIS_COLORS, iris_rgb, paint_eye
from flame.paint_mouth import paint_mouth
from flame.paint_noise import marks, smoothstep, value_noise

SIDE = 128
EYES = torch.tensor([[-0.031, 0.036, 0.079], [0.031, 0.036, 0.079]])
# Where the 68 points of an average face lie, as (x, y) in mm; depth comes from the ellipsoid.
RIGHT_HALF = {
    0: (-73, 37), 1: (-72, 15), 2: (-69, -5), 3: (-65, -24), 4: (-57, -45), 5: (-43, -62),
    6: (-30, -69), 7: (-15, -73), 17: (-58, 52), 18: (-49, 60), 19: (-38, 63), 20: (-24, 62),
    21: (-12, 59), 31: (-12, -11), 32: (-6, -11), 36: (-45, 34), 37: (-39, 39), 38: (-28, 39),
    39: (-18, 32), 40: (-27, 31), 41: (-39, 31), 48: (-25, -35), 49: (-17, -28), 50: (-7, -24),
    58: (-10, -43), 59: (-18, -41), 60: (-22, -35), 61: (-10, -33), 67: (-11, -34),
}  # fmt: skip
PARTNERS = {
    0: 16, 1: 15, 2: 14, 3: 13, 4: 12, 5: 11, 6: 10, 7: 9, 17: 26, 18: 25, 19: 24, 20: 23, 21: 22,
    31: 35, 32: 34, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46, 48: 54, 49: 53, 50: 52,
    58: 56, 59: 55, 60: 64, 61: 63, 67: 65,
}  # fmt: skip
MIDLINE = {8: -76, 27: 37, 28: 26, 29: 16, 30: 4, 33: -12, 51: -25, 57: -44, 62: -33, 66: -34}
MONK = (
    *("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96"),
    *("a07e56", "825c43", "604134", "3a312a", "292420"),
)


def surface(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Front of an ellipsoid head, mm."""
    inside = (1 - (x / 80) ** 2 - ((y - 5) / 150) ** 2).clamp(min=0)
    return 10 + 95 * inside.sqrt()


def ellipsoid_face() -> tuple[torch.Tensor, ...]:
    """Maps of an ellipsoid seen from the front, x to the right and y up in the texture."""
    half = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y = torch.meshgrid(half * 90, -half * 130, indexing="xy")
    z = surface(x, y)
    position = torch.stack([x, y, z], -1)
    normal = torch.stack([x / 80**2, (y - 5) / 150**2, (z - 10) / 95**2], -1)
    valid = (x / 80) ** 2 + ((y - 5) / 150) ** 2 < 0.97
    marks68 = torch.zeros(68, 3)
    for index, (left, up) in RIGHT_HALF.items():
        marks68[index, :2] = torch.tensor([left, up])
        marks68[PARTNERS[index], :2] = torch.tensor([-left, up])
    for index, up in MIDLINE.items():
        marks68[index, 1] = up
    marks68[:, 2] = surface(marks68[:, 0], marks68[:, 1])
    normal = torch.nn.functional.normalize(normal, dim=-1)
    return position.float() / 1000, normal.float(), valid, marks68 / 1000, EYES


@pytest.fixture(scope="module")
def model() -> AlbedoModel:
    return paint_skin(*ellipsoid_face(), generator=torch.Generator().manual_seed(1))


def at(x_mm: float, y_mm: float) -> torch.Tensor:
    return torch.tensor([[(x_mm / 90 + 1) / 2, (y_mm / 130 + 1) / 2]])


def changed(model: AlbedoModel, name: str, amount: float, uv: torch.Tensor) -> torch.Tensor:
    codes = torch.zeros(2, model.n_codes)
    codes[1, model.names.index(name)] = amount
    before, after = model.decode_at(codes, uv)
    return after - before


def test_log_albedo_is_linear_in_the_codes(model):
    codes = 0.3 * torch.randn(2, model.n_codes, generator=torch.Generator().manual_seed(2))
    uv = torch.rand(50, 2, generator=torch.Generator().manual_seed(3))
    images = model.decode_at(torch.cat([codes, codes.mean(0, keepdim=True)]), uv).double()
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    first, second, middle = linear.log()
    torch.testing.assert_close(middle, (first + second) / 2, atol=1e-4, rtol=0)


def test_decoding_points_equals_decoding_the_whole_image(model):
    codes = model.sample(2, torch.Generator().manual_seed(4))
    centres = (torch.arange(SIDE) + 0.5) / SIDE
    v, u = torch.meshgrid(1 - centres, centres, indexing="ij")
    points = model.decode_at(codes, torch.stack([u, v], -1).view(-1, 2))
    torch.testing.assert_close(
        points.view(2, 3, SIDE, SIDE), model.decode(codes), atol=1e-4, rtol=0
    )


def test_a_smaller_image_is_the_large_one_averaged_in_log_space(model):
    codes = torch.zeros(1, model.n_codes)
    large, small = model.decode(codes)[0], model.decode(codes, size=SIDE // 4)[0]
    blocks = large.view(3, SIDE // 4, 4, SIDE // 4, 4)
    low, high = blocks.amin((2, 4)), blocks.amax((2, 4))
    assert ((small >= low - 0.02) & (small <= high + 0.02)).all()


def test_gradients_reach_codes_and_points(model):
    codes = torch.zeros(1, model.n_codes, dtype=torch.float64, requires_grad=True)
    uv = torch.tensor([[0.437, 0.521]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, p: model.decode_at(c, p), (codes, uv), eps=1e-5, atol=1e-3
    )


def test_saving_and_loading_gives_back_the_same_skin(model):
    again = AlbedoModel.load(model.save())
    codes = model.sample(1, torch.Generator().manual_seed(5))
    assert again.names == model.names
    assert torch.equal(again.decode(codes), model.decode(codes))


def test_an_incomplete_dict_names_what_is_missing(model):
    tensors = model.save()
    del tensors["log_rgb"]
    with pytest.raises(ValueError, match="lack log_rgb"):
        AlbedoModel.load(tensors)


def test_codes_of_a_wrong_width_are_refused(model):
    with pytest.raises(ValueError, match=f"3 columns, this albedo model has {model.n_codes}"):
        model.decode(torch.zeros(1, 3))


def test_codes_are_standard_deviations_of_the_population(model):
    codes = model.sample(4000, torch.Generator().manual_seed(6))
    assert torch.allclose(codes.std(0), torch.ones(model.n_codes), atol=0.12)
    balanced = ~model.one_sided
    assert codes.mean(0)[balanced].abs().max() < 0.45
    assert (codes[:, model.one_sided] >= 0).all()


def test_skin_tones_stay_within_published_colours(model):
    # Xiao et al. 2017: facial skin of four ethnicities has hue angles of about 40 to 70 degrees
    tones = model.tone(model.sample(2000, torch.Generator().manual_seed(7)))
    lightness, a, b = rgb2lab(tones.numpy()[None])[0].T
    hue = np.degrees(np.arctan2(b, a))
    usual = lightness < 78
    assert np.percentile(hue[usual], 3) > 38
    assert np.percentile(hue[usual], 97) < 72
    assert lightness.min() < 27
    assert lightness.max() > 78


@pytest.mark.parametrize("swatch", MONK)
def test_every_monk_skin_tone_can_be_decoded(model, swatch):
    wanted = rgb2lab(np.array([[[int(swatch[i : i + 2], 16) / 255 for i in (0, 2, 4)]]]))[0, 0]
    steps = torch.linspace(-3, 3, 41)
    grid = torch.cartesian_prod(steps, steps, steps)
    codes = torch.zeros(len(grid), model.n_codes)
    codes[:, [model.names.index(n) for n in ("melanin", "haemoglobin", "undertone")]] = grid
    found = rgb2lab(model.tone(codes).numpy()[None])[0]
    assert np.linalg.norm(found - wanted, axis=1).min() < 5.0  # CIELAB


def test_melanin_darkens_and_haemoglobin_reddens(model):
    cheek = at(35, 0)
    darker = changed(model, "melanin", 1.0, cheek)[:, 0]
    assert (darker < -0.05).all()
    redder = changed(model, "haemoglobin", 1.0, cheek)[:, 0]
    assert redder[1] < -0.01
    assert redder[0] > redder[1] / 2


@pytest.mark.parametrize(
    ("name", "there", "elsewhere"),
    [
        ("lip redness", (0, -38), (0, 80)),
        ("brow density", (-38, 60), (-38, 90)),
        ("under-eye darkness", (30, 23), (0, 80)),
        ("beard shadow", (20, -60), (0, 80)),
        ("moustache shadow", (6, -18), (0, 5)),
        ("nose redness", (0, 4), (60, 20)),
        ("eye shadow", (33, 43), (0, -60)),
    ],
)
def test_layers_lie_where_their_names_say(model, name, there, elsewhere):
    region = torch.cat([at(there[0] + dx, there[1] + dy) for dx in (-3, 0, 3) for dy in (-2, 0, 2)])
    assert changed(model, name, 1.5, region).abs().max() > 0.02
    assert changed(model, name, 1.5, at(*elsewhere)).abs().max() < 0.012


def test_stronger_layers_come_first(model):
    assert model.names[0] == "melanin"
    assert model.names.index("haemoglobin") < model.names.index("age spots")


def test_bounded_codes_keep_one_sided_traits_positive(model):
    codes = torch.full((1, model.n_codes), -9.0)
    kept = bounded(codes, model, limit=2.5)[0]
    assert (kept[model.one_sided] == 0).all()
    assert (kept[~model.one_sided] == -2.5).all()


def test_painting_is_the_same_for_the_same_seed_only(model):
    again, other = (
        paint_skin(*ellipsoid_face(), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )
    assert all(torch.equal(again.save()[name], kept) for name, kept in model.save().items())
    assert not torch.equal(other.log_base, model.log_base)


def test_relief_is_made_of_unit_normals_that_lean_little():
    normal, roughness = paint_skin_surface(
        *ellipsoid_face(), generator=torch.Generator().manual_seed(1)
    )
    vectors = normal * 2 - 1
    torch.testing.assert_close(vectors.norm(dim=0), torch.ones(SIDE, SIDE), atol=1e-4, rtol=0)
    assert vectors[2].mean() > 0.97
    assert roughness.min() >= 0.2
    assert roughness.max() <= 0.9


def test_maps_without_a_valid_texel_are_refused():
    position, normal, valid, marks68, eyes = ellipsoid_face()
    with pytest.raises(ValueError, match="no texel"):
        paint_skin(position, normal, valid & False, marks68, eyes, generator=torch.Generator())


def ring(image: torch.Tensor, theta_deg: float) -> torch.Tensor:
    """Colours on a circle `theta_deg` from the optical axis, [3, 90]."""
    phi = torch.linspace(0, 2 * math.pi, 91)[:-1]
    radius = 0.5 * math.sqrt(theta_deg / 180)
    side = image.shape[-1]
    x = ((0.5 + radius * phi.cos()) * side).long().clamp(max=side - 1)
    y = ((0.5 - radius * phi.sin()) * side).long().clamp(max=side - 1)
    return image[:, y, x]


@pytest.mark.parametrize("name", IRIS_COLORS)
def test_eyes_are_dark_then_coloured_then_white_outward(name):
    image = paint_eye(name, size=256, generator=torch.Generator().manual_seed(1))
    pupil, iris, limbus, white = (ring(image, deg).mean(1) for deg in (4, 16, 20.8, 32))
    assert pupil.max() < 0.05
    assert (iris - torch.tensor(IRIS_COLORS[name])).abs().max() < 0.11
    assert limbus.sum() < iris.sum()
    assert white.min() > 0.6


def test_an_unknown_iris_colour_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'teal' is not known; choose one of dark brown"):
        iris_rgb("teal")


def test_teeth_are_paler_than_gums_and_the_bag_is_darkest():
    labels = torch.arange(4).repeat_interleave(16)[:, None].expand(64, 64).contiguous()
    grid = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"), -1)
    position = torch.cat([grid * 0.0006, torch.zeros(64, 64, 1)], -1)
    color, rough = paint_mouth(position, labels, generator=torch.Generator().manual_seed(1))
    teeth, gums, tongue, bag = (color[:, labels == part].mean() for part in range(4))
    assert teeth > gums > bag
    assert tongue > bag
    assert rough.min() > 0.1
    assert rough.max() < 0.6


def test_lashes_are_dense_at_the_root_and_gone_at_the_tip():
    image = paint_lashes(generator=torch.Generator().manual_seed(1))
    alpha = image[3]
    height = len(alpha)
    lower, upper = alpha[height * 3 // 4 : -8].mean(), alpha[: height // 10].mean()
    assert lower > 0.25
    assert upper < 0.05
    assert alpha.max() > 0.9


def test_cloth_tiles_and_keeps_its_colour():
    base, normal = paint_shirt((0.3, 0.4, 0.5))
    assert (base.mean((1, 2)) / torch.tensor([0.3, 0.4, 0.5]) - 0.9).abs().max() < 0.08
    seam = (normal[..., 0] - normal[..., -1]).abs().mean()
    inside = (normal[..., 100] - normal[..., 101]).abs().mean() + (
        normal[..., 103] - normal[..., 104]
    ).abs().mean()
    assert seam < 2 * inside + 0.1


def test_marks_are_full_inside_their_radius_and_gone_outside():
    line = np.zeros((41, 3))
    line[:, 0] = np.linspace(0, 4, 41)
    value = marks(line, np.array([[2.0, 0, 0]]), np.array([1.0]), softness=0.2)
    assert (value[np.abs(line[:, 0] - 2) < 0.79] == 1).all()
    assert (value[np.abs(line[:, 0] - 2) > 1.21] == 0).all()


def test_noise_has_unit_deviation_and_the_asked_grain():
    rng = np.random.default_rng(1)
    points = rng.random((20_000, 3)) * 100
    near = points + np.array([0.2, 0, 0])
    values = value_noise(np.concatenate([points, near]), 4.0, rng)
    assert abs(values.std() - 1) < 1e-3
    assert np.corrcoef(values[:20_000], values[20_000:])[0, 1] > 0.98


def test_smoothstep_rises_or_falls_between_its_edges():
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(smoothstep(0, 1, x), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep(1, 0, x), [1, 1, 0.5, 0, 0])
