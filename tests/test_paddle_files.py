"""PaddlePaddle's voice files: recorded ones, ones by the real wheel, and ones made to deceive."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from crafted import Canary
from torch import nn

from assets.errors import AssetError
from voice.asr_net import AsrConfig, AsrNet
from voice.jdc import F0Net
from voice.official import load_converter, load_pitch
from voice.paddle_files import NAME_TABLE, is_linear, read_paddle
from voice.parallel_wavegan import ParallelWaveGan
from voice.stargan import Generator, MappingNetwork, StarganConfig, StyleEncoder
from voice.synthetic import in_paddle

GOLDEN = Path(__file__).resolve().parent / "golden" / "paddle"
needs_paddle = pytest.mark.skipif(
    importlib.util.find_spec("paddle") is None, reason="needs the `paddle` extra"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))


def agree(folder: Path, answers: dict[str, np.ndarray]) -> None:
    """Our networks, filled from Paddle's files, give what Paddle's own gave."""
    given = {name: torch.from_numpy(np.array(value)) for name, value in answers.items()}
    voice = load_converter(folder / "vc_ema.pd", pitch=folder / "bst.pd")
    mel = given["mel"]
    with torch.no_grad():
        for pitch in (voice.pitch, load_pitch(folder / "flat.pdparams")):
            seen = pitch(mel)
            torch.testing.assert_close(seen.f0, given["f0"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(seen.feature, given["feature"], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(pitch.silence(mel), given["silence"], atol=1e-5, rtol=1e-5)
        style = voice.style_encoder(mel, torch.tensor([1]))
        mapped = voice.mapping_network(given["latent"], torch.tensor([0]))
        converted = voice.generator(mel, style, seen.feature)
    torch.testing.assert_close(style, given["style"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mapped, given["mapped"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(converted, given["converted"], atol=6e-5, rtol=1e-4)


def test_files_of_the_real_paddle_give_what_paddle_computed_from_them():
    with np.load(GOLDEN / "answers.npz") as answers:
        agree(GOLDEN, dict(answers))


@needs_paddle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_installed_paddle_and_our_networks_agree(tmp_path, protocol):
    import paddle_voice

    nets = paddle_voice.networks(protocol)
    paddle_voice.write(nets, tmp_path, protocol)
    agree(tmp_path, paddle_voice.answers(nets, protocol))


def test_every_linear_weight_and_nothing_else_is_turned(generator):
    config = StarganConfig(dim_in=2, max_conv_dim=4, num_domains=20)
    networks = [
        Generator(config),
        MappingNetwork(config),
        StyleEncoder(config),
        F0Net(),
        AsrNet(AsrConfig(hidden_dim=16)),
        ParallelWaveGan(),
    ]
    for network in networks:
        linear = {
            f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Linear)
        }
        turned = {name for name, t in network.state_dict().items() if is_linear(name, t)}
        assert turned == linear, type(network)


def test_65_linear_weights_are_square_at_the_released_size():
    with torch.device("meta"):
        networks = [Generator(), MappingNetwork(), StyleEncoder(), F0Net(), AsrNet()]
    square = [
        name
        for network in networks
        for name, tensor in network.state_dict().items()
        if is_linear(name, tensor) and tensor.shape[0] == tensor.shape[1]
    ]
    assert len(square) == 65


@pytest.mark.parametrize("build", [F0Net, AsrNet, ParallelWaveGan])
def test_every_name_of_paddle_finds_its_place(build, generator):
    network = build()
    content = {name: t.numpy() for name, t in in_paddle(network, generator).items()}
    flat = pickle.dumps({**content, NAME_TABLE: {}}, protocol=4)
    found = read_paddle(flat, described="file")
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in found.items()} == expected


def test_arrays_without_marks_of_paddle_are_not_taken_for_its():
    content = pickle.dumps({"shared.0.weight": np.zeros((2, 3))}, protocol=4)
    assert read_paddle(content, described="file") is None


def test_a_file_in_pieces_is_refused_with_the_way_to_mend_it():
    pieces = {"w": {"OriginShape": [2], "slices": ["w@@.0"]}}
    content = {NAME_TABLE: {"w": "w"}, "UnpackBigParamInfor@@": pieces}
    with pytest.raises(
        AssetError, match=r"in pieces; save it again with paddle.save\(protocol=4\)"
    ):
        read_paddle(pickle.dumps(content, protocol=4), described="big.pd")


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_beside_paddles_arrays_is_named_and_not_run(tmp_path, protocol):
    mark = tmp_path / "it-ran"
    content = {"net": {"a": np.zeros(2), "b": Canary(str(mark))}, NAME_TABLE: {}}
    file = tmp_path / "bst.pd"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(AssetError, match="nothing in a file is ever run"):
        load_pitch(file)
    assert not mark.exists()


def test_every_cut_of_a_file_is_one_sentence(tmp_path):
    whole = (GOLDEN / "flat.pdparams").read_bytes()
    for share in (0.01, 0.3, 0.9, 0.999):
        file = tmp_path / "cut.pdparams"
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(AssetError) as caught:
            load_pitch(file)
        assert "\n" not in str(caught.value)
