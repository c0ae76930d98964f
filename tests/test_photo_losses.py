"""Losses of training without labels, against the same sums written out by hand."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from assets.errors import AssetError
from deca.detail_losses import (
    displacement_loss,
    mrf_loss,
    perceptual_loss,
    smoothness_loss,
    symmetry_loss,
    texture_loss,
    vgg19_layers,
)
from deca.official_crop import ARCFACE_POINTS
from deca.photo_identity import ArcFace, CaffeResNet50, VggFace2, aligning_grid, open_identity
from deca.photo_losses import (
    EYE_PAIRS,
    LIP_PAIRS,
    beyond,
    closure_loss,
    code_prior,
    identity_loss,
    landmark_loss,
    landmark_weights,
    light_prior,
    partners,
    photometric_loss,
)
from deca.photo_skin import skin_mask

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def uniform(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=F64)


def test_landmark_weights_are_the_published_ones():
    weights = landmark_weights().tolist()
    for index in (30, 31, 35, 48, 54):
        assert weights[index] == 3
    for index in (5, 6, 10, 11):
        assert weights[index] == 2
    for index in (27, 28, 29, 32, 33, 34, *range(49, 54), *range(55, 68)):
        assert weights[index] == 1.5
    for index in (*range(5), 7, 8, 9, *range(12, 27), *range(36, 48)):
        assert weights[index] == 1


def test_the_landmark_loss_is_the_weighted_mean_of_visible_coordinates(generator):
    points, truth = normal(generator, 2, 68, 2), normal(generator, 2, 68, 2)
    seen = uniform(generator, 2, 68)
    weights = landmark_weights().double()
    over, under = 0.0, 0.0
    for item in range(2):
        for point in range(68):
            trust = float(seen[item, point] * weights[point])
            over += trust * sum(
                abs(float(points[item, point, a] - truth[item, point, a])) for a in (0, 1)
            )
            under += 2 * trust
    found = landmark_loss(points, truth, seen, weights)
    assert float(found) == pytest.approx(over / under, rel=1e-12)
    assert float(landmark_loss(truth, truth, seen, weights)) == 0
    assert float(landmark_loss(points, truth, torch.zeros_like(seen), weights)) == 0


@pytest.mark.parametrize("pairs", [EYE_PAIRS, LIP_PAIRS])
def test_closure_compares_openings_and_not_places(generator, pairs):
    points, truth = normal(generator, 2, 68, 2), normal(generator, 2, 68, 2)
    seen = torch.ones(2, 68, dtype=F64)
    wanted = [
        abs(
            math.dist(points[item, a].tolist(), points[item, b].tolist())
            - math.dist(truth[item, a].tolist(), truth[item, b].tolist())
        )
        for item in range(2)
        for a, b in pairs
    ]
    found = closure_loss(points, truth, seen, pairs)
    assert float(found) == pytest.approx(sum(wanted) / len(wanted), rel=1e-12)
    moved = truth + normal(generator, 2, 1, 2)
    assert float(closure_loss(moved, truth, seen, pairs)) == pytest.approx(0, abs=1e-14)
    # a pair of which one point is hidden says nothing
    hidden = seen.clone()
    hidden[:, [a for a, _ in pairs[1:]]] = 0
    first = sum(wanted[item * len(pairs)] for item in range(2)) / 2
    assert float(closure_loss(points, truth, hidden, pairs)) == pytest.approx(first, rel=1e-12)


def test_pairs_of_lids_and_lips_are_the_published_ones():
    assert EYE_PAIRS == ((37, 41), (38, 40), (43, 47), (44, 46))
    assert LIP_PAIRS == ((61, 67), (62, 66), (63, 65))


def test_closed_lids_have_finite_gradients():
    points = torch.zeros(1, 68, 2, dtype=F64, requires_grad=True)
    closure_loss(points, torch.ones(1, 68, 2, dtype=F64), torch.ones(1, 68), EYE_PAIRS).backward()
    assert bool(torch.isfinite(points.grad).all())


def test_the_photometric_loss_is_a_mean_over_the_whole_crop():
    rendered = torch.zeros(1, 3, 2, 2, dtype=F64)
    images = torch.full((1, 3, 2, 2), 0.5, dtype=F64)
    images[0, 0, 0, 0] = 0.9
    mask = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]], dtype=F64)
    # 0.9 + 0.5 + 0.5 at the first pixel, half of 3 * 0.5 at the third, 12 values in all
    assert float(photometric_loss(rendered, images, mask)) == pytest.approx(2.65 / 12, rel=1e-12)
    assert float(photometric_loss(images, images, mask)) == 0


def test_identity_is_one_less_the_cosine():
    features = torch.tensor([[3.0, 0.0], [1.0, 1.0]], dtype=F64)
    truth = torch.tensor([[5.0, 0.0], [1.0, 0.0]], dtype=F64)
    wanted = (0 + 1 - math.cos(math.pi / 4)) / 2
    assert float(identity_loss(features, truth)) == pytest.approx(wanted, rel=1e-12)


def test_priors_are_half_the_sum_of_squares_and_the_lights_difference_from_grey():
    codes = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=F64)
    assert float(code_prior(codes)) == 7
    assert float(beyond(torch.tensor([[-0.5, 0.3, 3.0]], dtype=F64), 0.0, 1.0)) == 4.25
    light = torch.zeros(1, 9, 3, dtype=F64)
    light[0, 0] = torch.tensor([0.0, 3.0, 6.0], dtype=F64)  # mean 3: differences 3, 0, 3
    light[0, 4] = 2.0  # grey
    assert float(light_prior(light)) == pytest.approx(18 / 27, rel=1e-12)


@pytest.mark.parametrize("pictures", [2, 3, 5])
def test_a_partner_is_another_picture_of_the_same_subject(generator, pictures):
    for _ in range(8):
        other = partners(4, pictures, generator=generator)
        itself = torch.arange(4 * pictures)
        assert sorted(other.tolist()) == itself.tolist()
        assert torch.equal(other // pictures, itself // pictures)
        assert not bool((other == itself).any())
    assert partners(3, 1, generator=generator).tolist() == [0, 1, 2]


def test_the_markov_loss_is_the_paper_written_out_in_loops(generator):
    features, truth = normal(generator, 1, 3, 2, 2), normal(generator, 1, 3, 2, 2)
    ours, true = features[0].flatten(1).T.numpy(), truth[0].flatten(1).T.numpy()
    middle = true.mean(0)
    ours, true = ours - middle, true - middle
    likeness = np.zeros((4, 4))
    for v in range(4):
        distances = np.array(
            [(1 - ours[v] @ t / np.linalg.norm(ours[v]) / np.linalg.norm(t)) / 2 for t in true]
        )
        relative = np.exp((1 - distances / (distances.min() + 1e-5)) / 0.5)
        likeness[v] = relative / relative.sum()
    wanted = -np.log(likeness.max(0).mean())
    assert float(mrf_loss(features, truth)) == pytest.approx(wanted, rel=1e-9)


def test_the_markov_loss_is_least_at_the_truth_and_pulls_towards_it(generator):
    truth = normal(generator, 1, 8, 6, 6)
    assert float(mrf_loss(truth, truth)) < 1e-3
    features = (truth + 2 * normal(generator, 1, 8, 6, 6)).requires_grad_()
    before = mrf_loss(features, truth)
    before.backward()
    after = mrf_loss(features - 0.5 * features.grad / features.grad.abs().max(), truth)
    assert 0.05 < after.item() < before.item()


class _Doubling:
    name = "doubling"

    def to(self, device):
        pass

    def __call__(self, images):
        return [images, 2 * images]


def test_the_perceptual_loss_adds_styles_and_the_last_maps_difference(generator):
    images, truth = uniform(generator, 1, 3, 8, 8), uniform(generator, 1, 3, 8, 8)
    styles = mrf_loss(images, truth) + mrf_loss(2 * images, 2 * truth)
    wanted = float(styles) + 2 * float((images - truth).abs().mean())
    assert float(perceptual_loss(_Doubling(), images, truth)) == pytest.approx(wanted, rel=1e-9)


def test_vgg_layers_carry_torchvisions_numbers_and_end_at_an_eighth():
    with torch.device("meta"):
        layers = vgg19_layers()
    numbers = sorted({int(name.split(".")[0]) for name in layers.state_dict()})
    assert numbers == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21]
    assert layers[12].weight.shape == (256, 256, 3, 3)
    assert layers[19].weight.shape == (512, 256, 3, 3)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in layers) == 3
    assert isinstance(layers[22], nn.ReLU)


def test_texture_losses_are_their_sums():
    raised = torch.tensor([[[[0.001, -0.002], [0.0, 0.003]]]], dtype=F64)
    assert float(displacement_loss(raised)) == pytest.approx(0.0015, rel=1e-12)
    unseen = torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]], dtype=F64)
    # |0.001 + 0.002| at the first texel, half of |0 - 0.003| at the third
    assert float(symmetry_loss(raised, unseen)) == pytest.approx(0.0045, rel=1e-12)
    shading = torch.tensor([[1.0, 3.0], [2.0, 2.0]], dtype=F64).expand(1, 3, 2, 2)
    assert float(smoothness_loss(shading)) == pytest.approx((4 + 0) / 2 + (1 + 1) / 2, rel=1e-12)
    ones = torch.ones(1, 3, 2, 2, dtype=F64)
    assert float(texture_loss(ones, 0.5 * ones, unseen)) == pytest.approx(0.5 * 1.5 / 4, rel=1e-12)


def test_the_seen_side_does_not_learn_from_the_unseen_one():
    raised = torch.tensor([[[[0.001, -0.002], [0.0, 0.0]]]], dtype=F64, requires_grad=True)
    unseen = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]], dtype=F64)
    symmetry_loss(raised, unseen).backward()
    assert torch.equal(raised.grad, unseen)


class _Kept(nn.Module):
    """Stands in for a network: keeps its input."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, images):
        self.images = images
        return images.flatten(1)[:, : self.width]


def test_vggface2_sees_blue_first_without_the_mean_and_without_the_margin():
    net = _Kept(2048)
    images = torch.zeros(1, 3, 224, 224)
    images[:, 0] = 0.8  # red
    images[..., :10, :] = 1.0  # in the margin
    VggFace2(net)(images, torch.zeros(1, 68, 2))
    wanted = torch.tensor([-91.4953, -103.8827, 0.8 * 255 - 131.0912])
    assert net.images.shape == (1, 3, 224, 224)
    torch.testing.assert_close(net.images[0, :, 0, 0], wanted, atol=1e-3, rtol=0)
    VggFace2(net, published_input=True)(images, torch.zeros(1, 68, 2))
    torch.testing.assert_close(net.images[0, :, 5, 5], 2 * wanted - 1, atol=1e-3, rtol=0)


def test_vggface2s_strides_sit_on_the_first_convolutions():
    with torch.device("meta"):
        net = CaffeResNet50()
        features = net(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 2048)
    for stage in (net.layer2, net.layer3, net.layer4):
        assert stage[0].conv1.stride == (2, 2) and stage[0].conv2.stride == (1, 1)
        assert stage[0].downsample[0].stride == (2, 2)


def test_an_identity_file_that_does_not_fit_is_refused_with_its_keys(tmp_path):
    path = tmp_path / "resnet50_ft_weight.pkl"
    path.write_bytes(pickle.dumps({"conv1.weight": np.zeros((1, 3), np.float32)}))
    with pytest.raises(AssetError, match=r"missing .*layer4\.2\.conv3\.weight.*conv1\.weight"):
        VggFace2.read(path)
    with pytest.raises(AssetError, match="is not there"):
        open_identity(str(tmp_path / "other.pkl"))


def test_without_its_files_identity_is_off_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path))
    assert open_identity("auto") is None
    assert "identity loss is off" in caplog.text


def test_faces_are_turned_as_arcface_wants_them():
    goals = (torch.tensor(ARCFACE_POINTS, dtype=F64) + 0.5) / 112 * 2 - 1
    angle = 0.4
    turn = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=F64
    )
    shift = torch.tensor([0.1, -0.05], dtype=F64)
    points = torch.zeros(1, 68, 2, dtype=F64)
    points[0, 36:42], points[0, 42:48] = goals[0], goals[1]
    points[0, [30, 48, 54]] = goals[2:]
    moved = points @ (0.7 * turn).T + shift
    place = (torch.arange(112, dtype=F64) + 0.5) / 112 * 2 - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    wanted = torch.stack([x, y], -1) @ (0.7 * turn).T + shift
    torch.testing.assert_close(aligning_grid(moved)[0], wanted, atol=1e-12, rtol=0)


def test_arcface_sees_crops_in_minus_one_to_one():
    net = _Kept(512)
    points = torch.zeros(1, 68, 2)
    goals = (torch.tensor(ARCFACE_POINTS) + 0.5) / 112 * 2 - 1
    points[0, 36:42], points[0, 42:48], points[0, [30, 48, 54]] = goals[0], goals[1], goals[2:]
    images = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    ArcFace(net)(images, points)
    torch.testing.assert_close(net.images, images * 2 - 1, atol=1e-4, rtol=0)


def _oval(center, wide, high, first, last, count):
    angle = torch.linspace(first, last, count)
    return torch.stack([center[0] + wide * angle.cos(), center[1] + high * angle.sin()], -1)


def _face68(side):
    """68 points of a plain face, upright, that fills most of a square."""
    points = torch.zeros(68, 2)
    points[:17] = _oval((0.5, 0.5), 0.36, 0.42, math.pi, 0, 17)
    points[17:22] = _oval((0.33, 0.36), 0.1, -0.04, math.pi, 0, 5)
    points[22:27] = _oval((0.67, 0.36), 0.1, -0.04, math.pi, 0, 5)
    points[27:31] = torch.stack([torch.full((4,), 0.5), torch.linspace(0.42, 0.58, 4)], -1)
    points[31:36] = torch.stack([torch.linspace(0.44, 0.56, 5), torch.full((5,), 0.62)], -1)
    points[36:42] = _oval((0.35, 0.44), 0.06, 0.03, math.pi, -2 * math.pi / 3, 6)
    points[42:48] = _oval((0.65, 0.44), 0.06, 0.03, math.pi, -2 * math.pi / 3, 6)
    points[48:60] = _oval((0.5, 0.75), 0.14, 0.06, math.pi, -5 * math.pi / 6, 12)
    points[60:68] = _oval((0.5, 0.75), 0.1, 0.03, math.pi, -3 * math.pi / 4, 8)
    return points * side


def test_skin_is_the_face_without_eyes_mouth_and_what_lies_over_it():
    side = 100
    image = torch.empty(3, side, side)
    image[:] = torch.tensor([0.75, 0.55, 0.45])[:, None, None]
    image[:, 52:60, 20:35] = torch.tensor([0.1, 0.3, 0.9])[:, None, None]  # something blue
    mask = skin_mask(image, _face68(side))[0]
    for row, column in ((70, 28), (60, 50), (30, 50), (55, 70)):
        assert mask[row, column] == 1
    for row, column in ((44, 35), (44, 65), (75, 50), (56, 27), (5, 5), (95, 95)):
        assert mask[row, column] == 0
