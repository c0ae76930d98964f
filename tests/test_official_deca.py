"""Published checkpoints go in whole or not at all, and answer as their equations say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assets.errors import AssetError
from assets.weights import read_tensors
from deca.emoca import Emoca, EmocaNetworks
from deca.mica import Mica, MicaNetworks, ShapeMapping
from deca.official import encoder_of, load_encoder
from deca.official_deca import Deca, DecaConfig, DecaNetworks
from deca.smirk import Smirk
from deca.synthetic import random_weights, write_deca, write_emoca, write_mica, write_smirk


def _hollow(build):
    """Tensors of a network's names and shapes that hold one number each, in memory and on disk."""
    with torch.device("meta"):
        layout = build().state_dict()
    return {
        name: torch.full((1,) * tensor.ndim, 0.01).expand(tensor.shape)
        if tensor.is_floating_point()
        else torch.tensor(1)
        for name, tensor in layout.items()
    }


def _norm(t, name, x):
    return F.batch_norm(
        x, t[f"{name}.running_mean"], t[f"{name}.running_var"], t[f"{name}.weight"],
        t[f"{name}.bias"], eps=1e-5,
    )  # fmt: skip


def _plain_resnet_encoder(t, prefix, x):
    def conv(name, x, **options):
        return F.conv2d(x, t[f"{prefix}encoder.{name}.weight"], **options)

    def norm(name, x):
        return _norm(t, f"{prefix}encoder.{name}", x)

    x = norm("bn1", conv("conv1", x, stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = norm(f"{at}.bn1", conv(f"{at}.conv1", x)).relu()
            y = norm(f"{at}.bn2", conv(f"{at}.conv2", y, stride=stride, padding=1)).relu()
            y = norm(f"{at}.bn3", conv(f"{at}.conv3", y))
            if block == 0:
                x = norm(f"{at}.downsample.1", conv(f"{at}.downsample.0", x, stride=stride))
            x = (x + y).relu()
    x = x.mean((2, 3))
    x = (x @ t[f"{prefix}layers.0.weight"].T + t[f"{prefix}layers.0.bias"]).relu()
    return x @ t[f"{prefix}layers.2.weight"].T + t[f"{prefix}layers.2.bias"]


def test_a_deca_file_answers_as_its_layers_written_out(tmp_path, generator):
    write_deca(tmp_path / "deca_model.tar", generator=generator)
    tensors = read_tensors(tmp_path / "deca_model.tar")
    encoder = encoder_of(tensors, "deca_model.tar")
    assert isinstance(encoder, Deca) and not isinstance(encoder, Emoca)
    image = torch.rand(1, 3, 224, 224, generator=generator)
    parts = encoder.encode(image)
    with torch.no_grad():
        codes = _plain_resnet_encoder(tensors, "E_flame.", image)
        detail = _plain_resnet_encoder(tensors, "E_detail.", image)
    found = [parts.shape, parts.albedo, parts.expression, parts.root, parts.jaw, parts.camera]
    found = torch.cat([*found, parts.light.flatten(1)], dim=1)
    torch.testing.assert_close(found, codes, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(parts.detail, detail, atol=2e-5, rtol=1e-5)
    assert codes[:, :200].std() > 0.1

    raised = encoder.displacement(parts.jaw, parts.expression, parts.detail)
    assert raised.shape == (1, 1, 256, 256)
    assert 0 < raised.abs().max() <= 0.01
    other = encoder.displacement(parts.jaw + 0.3, parts.expression, parts.detail)
    assert (other - raised).abs().max() > 1e-5
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_what_trainers_store_beside_the_networks_is_left_out():
    tensors = _hollow(lambda: DecaNetworks(False))
    tensors |= {"E_detail.anything": torch.ones(1), "D_detail.l1": torch.ones(1)}
    tensors |= {"opt.state.0.exp_avg": torch.ones(2), "global_step": torch.tensor(7)}
    encoder = encoder_of(tensors, "deca_model.tar", DecaConfig(detail=False))
    assert float(encoder.networks.E_flame.layers[2].bias[7]) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="without detail"):
        encoder.displacement(torch.zeros(1, 3), torch.zeros(1, 50), torch.zeros(1, 128))


def test_one_message_lists_every_key_that_does_not_fit():
    tensors = _hollow(lambda: DecaNetworks(True))
    tensors["E_flame.encoder.layer9.weight"] = tensors.pop("E_flame.encoder.layer1.0.conv1.weight")
    tensors["D_detail.l1.0.weight"] = torch.zeros(1, 1).expand(8192, 184)
    del tensors["E_detail.layers.2.bias"]
    tensors["E_other.weight"] = torch.zeros(2)
    with pytest.raises(AssetError) as caught:
        encoder_of(tensors, "deca_model.tar")
    message = str(caught.value)
    assert "missing E_detail.layers.2.bias, E_flame.encoder.layer1.0.conv1.weight" in message
    assert "unexpected E_flame.encoder.layer9.weight, E_other.weight" in message
    assert "D_detail.l1.0.weight [8192, 184] where the model has [8192, 181]" in message


class _Constant(nn.Module):
    """Stands in for a network: the same outputs for every picture."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, images):
        return self.outputs.expand(len(images), -1)


@pytest.mark.parametrize("width", [50, 53, 56])
def test_emocas_codes_are_decas_with_what_the_expression_head_gives(width):
    with torch.device("meta"):
        networks = EmocaNetworks(True, width)
    networks.E_flame = _Constant(-torch.arange(236.0))
    networks.E_expression = _Constant(torch.arange(1000.0, 1000 + width))
    networks.E_detail = _Constant(torch.arange(128.0))
    parts = Emoca(networks, DecaConfig()).encode(torch.zeros(2, 3, 224, 224))
    assert torch.equal(parts.expression[1], torch.arange(1000.0, 1050))
    roots = {50: -torch.arange(200.0, 203), 53: -torch.arange(200.0, 203)}
    jaws = {50: -torch.arange(203.0, 206), 53: torch.arange(1050.0, 1053)}
    assert torch.equal(parts.root[0], roots.get(width, torch.arange(1050.0, 1053)))
    assert torch.equal(parts.jaw[0], jaws.get(width, torch.arange(1053.0, 1056)))
    assert torch.equal(parts.shape[0], -torch.arange(100.0))
    assert torch.equal(parts.detail[0], torch.arange(128.0))


@pytest.mark.parametrize("prefix", ["state_dict.deca.", "deca."])
def test_an_emoca_file_is_known_by_content_and_only_a_strange_key_is_unexpected(prefix):
    tensors = _hollow(lambda: EmocaNetworks(True, 56)) | {"E_strange.weight": torch.zeros(1)}
    named = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    named |= {f"{prefix}flame.v_template": torch.zeros(1), "other_loss.weight": torch.zeros(1)}
    with pytest.raises(
        AssetError, match=r"EmocaNetworks.*unchanged: unexpected E_strange\.weight;"
    ):
        encoder_of(named, "last.ckpt", DecaConfig(detail=False))


def test_an_emoca_file_with_another_head_is_refused(tmp_path):
    tensors = {"deca.E_expression.layers.2.weight": torch.zeros(1, 1).expand(60, 1024)}
    with pytest.raises(AssetError, match=r"60 rows .* 50, 53 or 56"):
        encoder_of(tensors, "last.ckpt")
    with pytest.raises(ValueError, match="50, 53, 56 wide"):
        write_emoca(tmp_path / "x.ckpt", generator=torch.Generator(), width=60)


def test_a_mica_file_is_known_by_content_and_flames_arrays_in_it_are_left_out():
    tensors = _hollow(MicaNetworks)
    tensors["flameModel.generator.faces_tensor"] = torch.zeros(3, 3, dtype=torch.int64)
    tensors["flameModel.regressor.extra"] = torch.zeros(1)
    with pytest.raises(AssetError, match=r"unexpected flameModel\.regressor\.extra; check"):
        encoder_of(tensors, "mica.tar")


class _Seen(nn.Module):
    """Stands in for ArcFace: keeps its input, gives fixed features."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, images):
        self.images = images
        return self.features


def test_micas_mapping_gets_unit_features_of_crops_in_minus_one_to_one(generator):
    with torch.device("meta"):
        networks = MicaNetworks()
    mapping = ShapeMapping()
    networks.flameModel["regressor"] = mapping
    features = torch.randn(2, 512, generator=generator)
    networks.arcface = _Seen(features)
    images = torch.rand(2, 3, 112, 112, generator=generator)
    found = Mica(networks).encode(images).shape
    torch.testing.assert_close(networks.arcface.images, (images * 255 - 127.5) / 127.5)
    with torch.no_grad():
        wanted = mapping(features / features.square().sum(1, keepdim=True).sqrt())
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_a_mica_files_arcface_is_its_blocks_in_a_row_and_a_flat_head(tmp_path, generator):
    write_mica(tmp_path / "mica.tar", generator=generator)
    t = read_tensors(tmp_path / "mica.tar")
    encoder = encoder_of(t, "mica.tar")
    assert isinstance(encoder, Mica)
    images = torch.rand(1, 3, 112, 112, generator=generator)
    arcface = encoder.networks.arcface
    with torch.no_grad():
        x = _norm(t, "arcface.bn1", F.conv2d(images, t["arcface.conv1.weight"], padding=1))
        x = F.prelu(x, t["arcface.prelu.weight"])
        for stage, blocks in enumerate((3, 13, 30, 3), start=1):
            for block in range(blocks):
                x = arcface.get_submodule(f"layer{stage}.{block}")(x)
            assert x.shape[-1] == 112 // 2**stage
        x = _norm(t, "arcface.bn2", x).reshape(1, 25088)
        x = x @ t["arcface.fc.weight"].T + t["arcface.fc.bias"]
        x = _norm(t, "arcface.features", x)
        torch.testing.assert_close(arcface(images), x, atol=2e-5, rtol=1e-5)


def test_a_smirk_file_gives_bounded_eyelids_and_jaw(tmp_path, generator):
    write_smirk(tmp_path / "SMIRK_em1.pt", generator=generator)
    encoder = load_encoder(tmp_path / "SMIRK_em1.pt")
    assert isinstance(encoder, Smirk)
    last = encoder.networks.expression_encoder.expression_layers[0]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(55.0) - 51)
    parts = encoder.encode(torch.rand(2, 3, 224, 224, generator=generator))
    assert torch.equal(parts.expression[1], torch.arange(50.0) - 51)
    assert parts.eyelids[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(parts.jaw[0], torch.tensor([1.0, 0.2, 0.2]))
    assert parts.shape.shape == (2, 300)
    assert 5 < float(parts.camera[0, 0]) < 9
    assert parts.given() == ("shape", "expression", "jaw", "root", "camera", "eyelids")


def test_a_seed_gives_the_same_made_up_weights_again():
    layout = {"layers.0.weight": torch.zeros(4, 5), "bn1.running_var": torch.zeros(4)}
    once, again, other = (
        random_weights(layout, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in once.items())
    assert not torch.equal(once["layers.0.weight"], other["layers.0.weight"])
    assert once["bn1.running_var"].min() > 0


def test_another_networks_file_is_refused_by_what_it_holds(tmp_path):
    torch.save({"backbone": {"a": torch.ones(1)}, "neck.b": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(AssetError, match=r"none of the known encoders .* but backbone, neck;"):
        load_encoder(tmp_path / "x.pt")
    (tmp_path / "deca_model.tar").write_text("<!DOCTYPE html><title>Quota exceeded</title>")
    with pytest.raises(AssetError, match="is a web page"):
        load_encoder(tmp_path / "deca_model.tar")
