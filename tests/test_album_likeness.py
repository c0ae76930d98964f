"""Albums are ranked by who they show, as the shipped encoder sees it, here on made-up people."""

from __future__ import annotations

import json

import pytest
import tiny_diffusion
import torch
from typer.testing import CliRunner

from assets.image import write_image
from avatar.album import AlbumInputs, plan
from avatar.album_styles import read_styles
from avatar.cli import app
from deca.prompt_wish import Wish
from deca.synth_portrait import PortraitStudio
from diffusion.recipe import Recipe
from diffusion.write import write_picture
from flame.load import load_head
from flame.outfit import load_outfit

SIDE = 160


@pytest.fixture(scope="module")
def shoot():
    """Portraits of people by number: the same number is the same person in any mood and light."""
    studio = PortraitStudio(load_head(), load_outfit(), SIDE)

    def made(person, expression, light):
        wish = Wish(
            gender="man", hair="none", glasses="", hat=False, style="realistic",
            expression=expression, light_kind=light,
        )  # fmt: skip
        return studio.shoot(wish, generator=torch.Generator().manual_seed(person)).image

    return made


def test_the_photos_person_comes_first_in_another_mood_and_light(shoot, tmp_path, tmp_path_factory):
    model = tiny_diffusion.model_folder(tmp_path_factory, "sd1")
    photo, out = tmp_path / "photo.png", tmp_path / "album"
    write_image(photo, shoot(1, "neutral", "soft"))
    pictures = {
        "stranger": shoot(5, "smiling", "even"),
        "same": shoot(1, "smiling", "even"),
        "nobody": torch.full((1, 3, SIDE, SIDE), 0.5),
    }
    # as if a model had drawn them: the album goes on with what is there, and ranks it
    recipe = Recipe("a man, {style}", negative="", strength=0.55)
    entries = plan(recipe, read_styles(",".join(pictures)), 1, AlbumInputs(str(model), photo))
    for entry in entries:
        drawn = entry.recipe.change(size=(SIDE, SIDE))
        write_picture(out / entry.file, pictures[entry.style], drawn)
    words = ("album", recipe.prompt, "--model", model, "--styles", ",".join(pictures),
             "--seeds", 1, "--photo", photo, "--out", out)  # fmt: skip
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0
    assert "3 of 3 pictures are there already" in result.stderr
    rows = {row["style"]: row for row in json.loads((out / "album.json").read_text())["pictures"]}
    assert {name: row["place"] for name, row in rows.items()} == {
        "same": 1, "stranger": 2, "nobody": 3,
    }  # fmt: skip
    same, stranger = rows["same"]["scores"], rows["stranger"]["scores"]
    assert same["landmark_mm"] < 1.5 < stranger["landmark_mm"]
    assert 1.5 * same["shape_distance"] < stranger["shape_distance"]
    nobody = rows["nobody"]["scores"]
    assert nobody["shape_distance"] is None and "face" in nobody["note"]
