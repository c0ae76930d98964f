"""Files made to harm: each is refused in one sentence, nothing is run, nothing is written."""

from __future__ import annotations

import json
import re
import time
import tracemalloc

import pytest
from malicious import WEAPONS, corpus

from assets import pickles
from assets.arrays import read_array, read_array_shapes, read_arrays
from assets.errors import AssetError
from assets.weights import read_metadata, read_tensors
from flame.embeddings import read_embeddings
from flame.masks import read_masks
from flame.official import load_flame

CASES = corpus("it-ran")
SUFFIXES = (".pkl", ".tar", ".npz", ".safetensors")
MEASURED = ("arrays", "tensors")
# Plain data of no use, which `read_arrays` may hand on: what takes it must refuse it.
INERT = ("memo far out", "tuples that double as a value", "lists in lists, 2500 deep")


def readers():
    return {
        "arrays": read_arrays,
        "tensors": read_tensors,
        "flame": load_flame,
        "embeddings": lambda path: read_embeddings(path, 9976),
        "masks": lambda path: read_masks(path, 5023),
        "array": read_array,
        "shapes": read_array_shapes,
        "metadata": read_metadata,
    }


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder for the files, which is also where they would leave their mark."""
    monkeypatch.setenv("AVATAR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "MAX_STEPS", 6_000)  # as checks of types make steps slow here
    return tmp_path


def test_the_corpus_is_large():
    assert len(CASES) >= 30 and len(WEAPONS) >= 30


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence_and_does_nothing(name, place):
    content, words = CASES[name]
    path = place / f"model{SUFFIXES[len(name) % len(SUFFIXES)]}"
    path.write_bytes(content)
    refusals = {}
    for kind, read in readers().items():
        if kind in MEASURED:
            tracemalloc.start()
        began = time.process_time()
        if kind == "arrays" and name in INERT:
            read(path)
            tracemalloc.stop()
            continue
        with pytest.raises(AssetError) as caught:
            read(path)
        assert time.process_time() - began < 20, kind
        if kind in MEASURED:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 8 * len(content) + 60_000_000, kind
        message = refusals[kind] = str(caught.value)
        assert str(path) in message and message.isprintable(), kind
        assert len(message) < 600 + len(str(path)), message
    assert any(re.search(words, refusals[kind]) for kind in MEASURED if kind in refusals), refusals
    assert [entry.name for entry in place.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "weight_map",
    [{"a": "../other.safetensors"}, {"a": "/etc/passwd"}, {"a": {"b": "c"}}, ["a"]],
    ids=str,
)
def test_an_index_of_shards_cannot_lead_elsewhere(tmp_path, weight_map):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(AssetError):
        read_tensors(index)


def test_an_index_of_endless_depth_is_refused(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map":' + "[" * 200_000)
    with pytest.raises(AssetError, match="not an index"):
        read_tensors(index)
