"""Albums: what is drawn, what a second run leaves alone, and how pictures are ranked."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
import tiny_diffusion
import tiny_networks
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from typer.testing import CliRunner

from assets.errors import AssetError
from avatar import album_rank
from avatar.album_page import write_page
from avatar.album_rank import Person, Scores, places
from avatar.album_styles import PRESETS, AlbumStyle, draws_style, read_style, read_styles, worded
from avatar.cli import app
from deca.prompt_words import read_prompt
from diffusion.metadata import read_record
from diffusion.prompt_fit import fit_of_model, load_prompt_fit
from diffusion.write import says_generated


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_diffusion.model_folder(tmp_path_factory, "sd1"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP of random weights with its tokenizer and picture processor."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny_networks.letter_tokenizer(folder / "words")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = CLIPModel(
            CLIPConfig(
                text_config=tiny_networks.text_config(tokenizer, projection_dim=16).to_dict(),
                vision_config=tiny_networks.vision_config().to_dict(),
                projection_dim=16,
            )
        )
    net.save_pretrained(folder / "clip")
    CLIPProcessor(tiny_networks.image_processor(), tokenizer).save_pretrained(folder / "clip")
    return folder / "clip"


def run(*words):
    result = CliRunner().invoke(app, ["album", *map(str, words)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]


def test_an_album_is_drawn_ranked_and_gone_on_with(model, clip, tmp_path):
    out = tmp_path / "album"
    words = ("a <b> woman, {style}", "--model", model, "--styles", "anime,clay & co",
             "--seeds", 2, "--steps", 1, "--out", out, "--clip", clip)  # fmt: skip
    code, printed, _ = run(*words)
    assert code == 0
    assert printed.split() == [
        str(out / name) for name in ("index.html", "sheet.png", "album.json")
    ]
    index = json.loads((out / "album.json").read_text())
    rows = index["pictures"]
    assert [(row["style"], row["seed"]) for row in rows] == [
        ("anime", 0), ("anime", 1), ("clay & co", 0), ("clay & co", 1),
    ]  # fmt: skip
    assert sorted(row["place"] for row in rows) == [1, 2, 3, 4]
    fits = {row["place"]: row["scores"]["prompt_fit"] for row in rows}
    assert [fits[place] for place in (1, 2, 3, 4)] == sorted(fits.values(), reverse=True)
    assert index["not_ranked_by"] == ["not ranked by likeness: no --photo was given"]
    first = out / rows[0]["file"]
    assert PRESETS["anime"] in read_record(first).recipe.prompt
    assert all(says_generated(out / row["file"]) for row in rows)
    assert says_generated(out / "sheet.png")
    page = (out / "index.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert all((out / link).is_file() for link in links.found)
    assert "http" not in page and "<script" not in page

    stamps = {row["file"]: (out / row["file"]).stat().st_mtime_ns for row in rows}
    (out / rows[1]["file"]).unlink()
    Image.new("RGB", (32, 32)).save(out / rows[2]["file"])  # not what the album says
    _, _, told = run(*words)
    assert "2 of 4 pictures are there already" in told
    again = {file: (out / file).stat().st_mtime_ns for file in stamps}
    changed = [file for file in stamps if again[file] != stamps[file]]
    assert changed == [rows[1]["file"], rows[2]["file"]]
    assert json.loads((out / "album.json").read_text()) == index


def test_the_shipped_model_knows_the_styles_that_it_learnt_and_no_others():
    known = {name for name, words in PRESETS.items() if draws_style(AlbumStyle(name, words))}
    assert known == {"photo", "oil painting", "watercolour", "anime", "pencil", "clay", "neon",
                     "comic", "renaissance"}  # fmt: skip
    assert read_prompt(PRESETS["anime"]).wish.style == "anime"


def test_a_photo_without_a_face_is_told_before_anything_is_ranked(model, tmp_path):
    photo = tmp_path / "wall.png"
    Image.new("RGB", (96, 96), (120, 130, 140)).save(photo)
    with pytest.raises(ValueError, match=r"wall\.png: .*face"):
        run("a, {style}", "--model", model, "--styles", "anime", "--seeds", 1, "--steps", 2,
            "--photo", photo, "--out", tmp_path / "a")  # fmt: skip


def test_pictures_over_a_photo_are_ranked_by_who_they_show(model, tmp_path, monkeypatch):
    """The people are told apart by how red they are: what the encoder would say is set."""
    shape = torch.zeros(3)

    def read(image, reader):
        red = float(image[:, 0].mean())
        return Person(shape + red, torch.zeros(68, 3) + 0.001 * red)

    monkeypatch.setattr(album_rank.Person, "read", staticmethod(read))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), (200, 10, 10)).save(photo)
    out = tmp_path / "album"
    run("a, {style}", "--model", model, "--styles", "anime", "--seeds", 3, "--steps", 2,
        "--photo", photo, "--strength", 1, "--out", out)  # fmt: skip
    rows = json.loads((out / "album.json").read_text())["pictures"]
    assert {row["recipe"]["kind"] for row in rows} == {"img2img"}
    wanted = read(torch.tensor([200, 10, 10])[None, :, None, None] / 255, None)
    for row in rows:
        assert row["scores"]["landmark_mm"] == pytest.approx(
            row["scores"]["shape_distance"] * 3**0.5, abs=2e-3
        )
    ordered = sorted(rows, key=lambda row: row["place"])
    distances = [row["scores"]["shape_distance"] for row in ordered]
    assert distances == sorted(distances)
    assert wanted.distances(wanted) == (0.0, 0.0)


def test_places_are_sums_of_places_and_nothing_scored_has_none():
    def score(shape, landmark, fit):
        return Scores(*(None if one is None else float(one) for one in (shape, landmark, fit)))

    assert places([score(None, None, None)] * 3) == [None] * 3
    # the likest is the least fitting: a draw, which the earlier one wins
    assert places([score(1, 1, 0.1), score(2, 2, 0.9)]) == [1, 2]
    assert places([score(3, 3, 0.9), score(1, 1, 0.8), score(2, 2, 0.1)]) == [2, 1, 3]
    # no face was found in the first
    assert places([score(None, None, 0.5), score(9, 9, 0.5)]) == [2, 1]
    assert places([score(None, None, 0.1), score(None, None, 0.2)]) == [2, 1]


def test_styles_are_names_presets_or_a_file(tmp_path):
    assert read_styles("anime, my own look") == [
        AlbumStyle("anime", PRESETS["anime"]),
        AlbumStyle("my own look", "my own look"),
    ]
    path = tmp_path / "list.txt"
    path.write_text("# mine\nsepia: old photo, brown: and grey\n\nneon\n", encoding="utf-8")
    assert read_styles(str(path)) == [
        AlbumStyle("sepia", "old photo, brown: and grey"),
        AlbumStyle("neon", PRESETS["neon"]),
    ]
    assert len(read_styles("all")) == len(PRESETS)
    with pytest.raises(ValueError, match="names no style"):
        read_styles(" , ")
    with pytest.raises(AssetError, match="cannot be read"):
        read_styles(str(tmp_path / "absent.txt"))
    assert worded("a {style} of a man", AlbumStyle("x", "sketch")) == "a sketch of a man"
    assert read_style("油画").words == read_style("oil painting").words == PRESETS["oil painting"]
    assert [style.name for style in read_styles("油画，水彩、a look of mine")] == [
        "油画", "水彩", "a look of mine",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="names 2; give one of them"):
        read_style("anime, neon")
    assert worded("a man", AlbumStyle("x", "sketch")) == "a man, sketch"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", 0], "seeds=0 must be from 1 to 100"),
        (["--styles", "anime,Anime"], "two styles are called 'anime'"),
        (["--photo", "absent.png"], "absent.png is not there"),
        (["--styles", "!!"], "no letter or digit"),
    ],
)
def test_mistakes_are_told_before_the_model_is_opened(words, said, tmp_path):
    with pytest.raises((ValueError, AssetError), match=said):
        run("a", "--model", tmp_path / "nowhere", "--out", tmp_path / "a", *words)


def test_prompt_fit_is_the_models_own_cosine(clip, tmp_path):
    fit = load_prompt_fit(clip)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = fit.cosines(pictures, ["a man", "a cat"])
    net, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    net.eval()
    bytes_ = (pictures * 255).round().to(torch.uint8)
    given = processor(text=["a man", "a cat"], images=list(bytes_), return_tensors="pt",
                      padding=True)  # fmt: skip
    with torch.no_grad():
        expected = net(**given).logits_per_image.diagonal() / net.logit_scale.exp()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 pictures and 1 prompts"):
        fit.cosines(pictures, ["a man"])
    assert fit_of_model(clip.parent) == clip
    assert fit_of_model(tmp_path) is None
    with pytest.raises(AssetError, match="cannot be opened as a CLIP model"):
        load_prompt_fit(clip.parent / "words")


def test_a_page_escapes_all_that_it_is_given(tmp_path):
    told = {
        "file": "pictures/a b&c.png", "style": "<i>", "seed": 1, "place": None,
        "scores": {"note": "<x>"}, "recipe": {"prompt": "<script>alert(1)</script>"},
    }  # fmt: skip
    page = write_page(tmp_path / "i.html", "<p>", [told], ["<note>"]).read_text()
    for raw in ("<script", "<i>", "<x>", "<note>"):
        assert raw not in page
    assert "pictures/a%20b%26c.png" in page
