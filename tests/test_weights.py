"""Weights go in whole or not at all, and nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from assets.errors import AssetError
from assets.files import sha256_of
from assets.weights import load_weights, read_metadata, read_tensors, write_tensors


class Planted:
    """Pickles into a call of os.system."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def model(generator):
    layer = nn.Linear(3, 2)
    nn.init.normal_(layer.weight, generator=generator)
    return layer


def test_weights_of_either_format_fill_the_model_whatever_the_suffix(model, tmp_path):
    wanted = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])}
    save_file(wanted, tmp_path / "a.pt")
    torch.save(wanted, tmp_path / "b.safetensors")
    torch.save(wanted, tmp_path / "c.tar", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.safetensors", "c.tar"):
        nn.init.zeros_(model.weight)
        load_weights(model, tmp_path / name)
        torch.testing.assert_close(model.weight.detach(), wanted["weight"], rtol=0, atol=0)
        torch.testing.assert_close(model.bias.detach(), wanted["bias"], rtol=0, atol=0)


def test_one_message_lists_every_fault_and_the_model_is_untouched(model, tmp_path):
    before = model.weight.detach().clone()
    save_file(
        {"weight": torch.zeros(2, 4), "scale": torch.ones(1), "shift": torch.ones(1)},
        tmp_path / "w.safetensors",
    )
    with pytest.raises(AssetError) as caught:
        load_weights(model, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing bias" in message
    assert "unexpected scale, shift" in message
    assert "weight [2, 4] where the model has [2, 3]" in message
    assert torch.equal(model.weight.detach(), before)


def test_a_tensor_with_nan_is_refused_by_name(model, tmp_path):
    save_file({"weight": torch.zeros(2, 3), "bias": torch.tensor([0.0, torch.nan])}, tmp_path / "w")
    with pytest.raises(AssetError, match="not a number in bias"):
        load_weights(model, tmp_path / "w")


def test_a_model_without_storage_is_refused(tmp_path):
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="to_empty"):
        load_weights(model, tmp_path / "never-read")


def test_dtype_stays_the_models(tmp_path):
    model = nn.Linear(3, 2).to(torch.bfloat16)
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")
    assert model.weight.dtype == torch.bfloat16
    assert model.bias.tolist() == [1, 1]


def test_a_wrong_checksum_is_refused_before_anything_is_read(model, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, path)
    load_weights(model, path, sha256=sha256_of(path))
    with pytest.raises(AssetError, match="expected 0000"):
        load_weights(model, path, sha256="0" * 64)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".ckpt", ".tar"])
def test_a_file_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path, zipped, suffix):
    mark = tmp_path / "it-ran"
    path = tmp_path / f"planted{suffix}"
    torch.save(
        {"weight": torch.ones(1), "extra": Planted(mark)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(AssetError, match="nothing in a file is ever run"):
        read_tensors(path)
    assert not mark.exists()


def test_a_plain_pickle_is_refused_and_runs_nothing(tmp_path):
    mark = tmp_path / "it-ran"
    (tmp_path / "p.pkl").write_bytes(pickle.dumps({"weight": Planted(mark)}, protocol=2))
    with pytest.raises(AssetError):
        read_tensors(tmp_path / "p.pkl")
    assert not mark.exists()


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))
    with pytest.raises(AssetError, match="zip bomb"):
        read_tensors(tmp_path / "b.pt")


def test_trainers_dicts_give_dotted_names_and_tolerate_numpy_numbers(tmp_path):
    stored = {
        "E_flame": {"conv": {"weight": torch.ones(2)}},
        "opt": {"state": {0: {"exp_avg": torch.zeros(1)}}},
        "epoch": 3,
        "loss": np.float64(0.5),
    }
    torch.save(stored, tmp_path / "t.tar")
    tensors = read_tensors(tmp_path / "t.tar")
    assert sorted(tensors) == ["E_flame.conv.weight", "opt.state.0.exp_avg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n<!DOCTYPE html><html>", "web page.*signed in"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"", "is empty"),
        (b"hello, I am no weights", "neither safetensors nor"),
        (b"PK\x03\x04 cut short", "cut short"),
        (b"\x80\x02}q\x00X", "damaged"),
        ((100).to_bytes(8, "little") + b"{" + b" " * 120, "damaged"),
    ],
)
def test_what_is_no_weights_file_says_what_it_is(tmp_path, content, words):
    (tmp_path / "model.tar").write_bytes(content)
    with pytest.raises(AssetError, match=words):
        read_tensors(tmp_path / "model.tar")


def test_a_missing_file_names_the_doctor(tmp_path):
    with pytest.raises(AssetError, match="avatar doctor"):
        read_tensors(tmp_path / "model.tar")


def test_large_sets_are_written_in_shards_that_other_programs_can_read(tmp_path, generator):
    tensors = {f"t{n}": torch.rand(1_000_000, generator=generator) for n in range(9)}  # 36 MB
    files = write_tensors(tensors, tmp_path / "m.safetensors", {"recipe": "r"})
    assert [file.name for file in files] == [
        "m-00001-of-00003.safetensors",
        "m-00002-of-00003.safetensors",
        "m-00003-of-00003.safetensors",
        "m.safetensors.index.json",
    ]
    assert all(file.stat().st_size < 16_000_000 for file in files)
    read = read_tensors(tmp_path / "m.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert read_metadata(tmp_path / "m.safetensors") == {"recipe": "r"}
    weight_map = json.loads(files[-1].read_text())["weight_map"]
    for name, file in weight_map.items():  # the layout of Hugging Face
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


def test_a_smaller_set_takes_the_place_of_shards(tmp_path):
    path = tmp_path / "m.safetensors"
    write_tensors({f"t{n}": torch.zeros(3_000_000) for n in range(3)}, path)
    write_tensors({"t": torch.ones(2)}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    assert read_tensors(path)["t"].tolist() == [1, 1]


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    metadata = {letter: letter for letter in "zyxwvutsabcd"}
    for name in ("one", "two"):
        write_tensors({"a": torch.ones(3)}, tmp_path / f"{name}.safetensors", metadata)
    assert sha256_of(tmp_path / "one.safetensors") == sha256_of(tmp_path / "two.safetensors")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "in" / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AssetError, match="leads out"):
        read_tensors(tmp_path / "in" / "m.safetensors")
