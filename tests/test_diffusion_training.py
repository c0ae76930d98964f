"""Training on tiny models: what LoRA and Textual Inversion change, to the bit; noise; stopping."""

from __future__ import annotations

import argparse
import csv
import math

import pytest
import tiny_diffusion as tiny
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file

from assets.errors import AssetError
from assets.image import write_image
from diffusion import (
    Recipe,
    add_embedding,
    load_pipeline,
    train_embedding,
    train_lora,
    txt2img,
    use_loras,
)
from diffusion.train import main
from diffusion.train_noise import (
    NoiseConfig,
    denoising_losses,
    draw_noise,
    draw_timesteps,
    min_snr_weights,
    training_scheduler,
)
from diffusion.train_personal import Lessons, open_base, read_photos
from diffusion.train_run import Run, RunConfig, descend, rate_at
from diffusion.train_text import encode_captions


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """What is this small takes longer on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


RECIPE = Recipe("photo of sks person", steps=2, size=(32, 32))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        write_image(folder / f"{number}.png", torch.rand(1, 3, 64, 80, generator=generator))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny.model_folder(tmp_path_factory, kind) for kind in ("sd1", "sd2", "sdxl")}


def trained(stage, model, photos, run, *more):
    parser = argparse.ArgumentParser()
    stage.add_options(parser)
    given = ["--model", str(model), "--photos", str(photos), "--run", str(run), "--size", "32"]
    return stage.run(parser.parse_args([*given, "--cpu", *more]))


def teach(model, photos, run, *more):
    words = ("--instance", "photo of sks person", "--rank", "2", "--rate", "1e-2")
    return trained(train_lora, model, photos, run, *words, *more)


class Alone:
    """accelerate's part on one CPU, in double precision."""

    is_main_process, num_processes, process_index, mixed_precision = True, 1, 0, "no"

    def prepare_optimizer(self, optimizer):
        return optimizer

    def backward(self, loss):
        loss.backward()

    def clip_grad_norm_(self, weights, most):
        return torch.nn.utils.clip_grad_norm_(weights, most)

    def wait_for_everyone(self):
        pass


def test_min_snr_weights_are_those_of_the_paper():
    snr = torch.tensor([0.0, 0.5, 5.0, 50.0], dtype=torch.float64)
    found = {p: min_snr_weights(snr, 5.0, p) for p in ("epsilon", "v_prediction", "sample")}
    expected = {
        "epsilon": [1, 1, 1, 0.1],
        "v_prediction": [0, 0.5 / 1.5, 5 / 6, 5 / 51],
        "sample": [0, 0.5, 5, 5],
    }
    for prediction, weights in expected.items():
        torch.testing.assert_close(found[prediction], torch.tensor(weights, dtype=torch.float64))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_denoiser_has_no_loss_and_another_its_weighted_error(prediction):
    scheduler = training_scheduler(DDIMScheduler(**tiny.noise(), prediction_type=prediction).config)
    x = torch.randn(6, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - beta, 0)
    seen = {}

    def perfect(noisy, timesteps):
        a = alpha_bar[timesteps][:, None, None, None]
        noise = (noisy - a.sqrt() * x) / (1 - a).sqrt()
        seen["snr"] = (a / (1 - a)).flatten()
        return {
            "epsilon": noise,
            "sample": x,
            "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * x,
        }[prediction]

    def losses(predict, config):
        return denoising_losses(
            predict, x, scheduler, config, generator=torch.Generator().manual_seed(2)
        )

    assert losses(perfect, NoiseConfig(None)).max() < 1e-9
    off = losses(lambda n, t: perfect(n, t) + 0.1, NoiseConfig(5.0))
    weights = min_snr_weights(seen["snr"], 5.0, prediction)
    torch.testing.assert_close(off.double(), 0.01 * weights, rtol=1e-3, atol=0)


def test_timesteps_are_even_or_as_of_a_logistic_normal_draw(generator):
    even = draw_timesteps(20_000, 1000, 0.0, generator=generator).double()
    assert even.min() < 5 and even.max() > 994 and abs(even.mean() - 500) < 10
    near = draw_timesteps(20_000, 1000, 1.0, generator=generator).double() / 1000
    for share, normal in ((0.159, -1.0), (0.5, 0.0), (0.841, 1.0)):
        expected = 1 / (1 + math.exp(1.0 - normal))
        assert abs(float(near.quantile(share)) - expected) < 0.012
    with pytest.raises(ValueError, match=r"middle=2.0 must be from 0 to 1"):
        NoiseConfig(middle=2.0)


def test_noise_with_an_offset_shifts_each_channel_as_a_whole(generator):
    like = torch.zeros(200, 4, 32, 32)
    plain = draw_noise(like, 0.0, generator=generator).mean((2, 3))
    moved = draw_noise(like, 0.5, generator=generator).mean((2, 3))
    assert abs(float(plain.std()) - 1 / 32) < 0.005
    assert abs(float(moved.std()) - math.hypot(0.5, 1 / 32)) < 0.05


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_captions_are_encoded_as_the_pipeline_does(folders, kind):
    pipeline = load_pipeline(folders[kind])
    captions = ["a photo of sks", "x"]
    tokens, pooled = encode_captions(pipeline, captions)
    with torch.no_grad():
        given = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
        expected = pipeline.encode_prompt(prompt=captions, **given)
    torch.testing.assert_close(tokens, expected[0])
    if kind == "sdxl":
        torch.testing.assert_close(pooled, expected[2])
    assert tokens.requires_grad


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_lora_learns_opens_again_and_leaves_the_base_to_the_bit(folders, photos, tmp_path, kind):
    file = teach(folders[kind], photos, tmp_path / "run", "--steps", "6", "--text-encoder",
                 "--alpha", "4")  # fmt: skip
    pipeline = load_pipeline(folders[kind])
    before = {n: w.clone() for n, w in pipeline.unet.named_parameters()}
    plain = txt2img(pipeline, RECIPE)
    use_loras(pipeline, [(file, 1.0)])
    moved = txt2img(pipeline, RECIPE)
    assert (moved - plain).abs().max() > 1e-3
    use_loras(pipeline, [(file, 0.0)])
    assert torch.equal(txt2img(pipeline, RECIPE), plain)
    for name, weight in pipeline.unet.named_parameters():
        if "lora" not in name:
            assert torch.equal(weight, before[name.replace(".base_layer", "")])
    keys = load_file(file).keys()
    assert any(
        k.startswith("text_encoder.text_model.encoder.layers.0.self_attn.q_proj") for k in keys
    )
    assert any(k.startswith("unet.") and k.endswith("attn2.to_k.lora.up.weight") for k in keys)
    assert (tmp_path / "run" / "preview-000006.png").is_file()


def test_only_adapters_learn_and_the_file_acts_as_they_did(folders, photos, tmp_path):
    pipeline = open_base(folders["sd1"], torch.device("cpu"))
    shape = train_lora.LoraShape(rank=2, alpha=6.0)
    plain = txt2img(pipeline, RECIPE)
    weights = train_lora.attach(pipeline, shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(txt2img(pipeline, RECIPE), plain)  # the new layers start at nothing
    frozen = {n: w for n, w in pipeline.unet.named_parameters() if not w.requires_grad}
    before = {n: w.clone() for n, w in frozen.items()}
    lessons = Lessons(pipeline, NoiseConfig(), 2)
    seen = read_photos(pipeline, photos, 32)

    def loss_of(number):
        generator = torch.Generator().manual_seed(number)
        return lessons.loss(seen, [RECIPE.prompt], number, generator=generator), {}

    config = RunConfig(steps=4, learning_rate=2e-2)
    descend(Run(tmp_path, weights, config), loss_of, Alone())
    assert all(torch.equal(w, before[n]) and w.grad is None for n, w in frozen.items())
    taught = txt2img(pipeline, RECIPE)
    assert (taught - plain).abs().max() > 1e-2
    file = train_lora.write_lora(pipeline, shape, tmp_path / "own.safetensors", {})
    fresh = load_pipeline(folders["sd1"])
    use_loras(fresh, [(file, 1.0)])
    torch.testing.assert_close(txt2img(fresh, RECIPE), taught, atol=3e-3, rtol=0)  # half precision


def test_a_stopped_run_goes_on_as_if_it_had_not_been(folders, photos, tmp_path, monkeypatch):
    more = ("--steps", "4", "--save-every", "2")
    whole = load_file(teach(folders["sd1"], photos, tmp_path / "whole", *more))
    drawn = Lessons.loss

    def killed(self, seen, prompts, number, **chance):
        if number == 3:
            raise KeyboardInterrupt
        return drawn(self, seen, prompts, number, **chance)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Lessons, "loss", killed)
        teach(folders["sd1"], photos, tmp_path / "parts", *more)
    parts = load_file(teach(folders["sd1"], photos, tmp_path / "parts", *more))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(AssetError, match=r"holds a run with alpha=2\.0, now it is 1\.0"):
        teach(folders["sd1"], photos, tmp_path / "parts", *more, "--alpha", "1")


def test_a_prior_is_drawn_where_it_is_missing_and_weighs_in(folders, photos, tmp_path):
    prior = tmp_path / "prior"
    more = ("--class", "photo of a person", "--prior", str(prior), "--prior-count", "2")
    teach(folders["sd1"], photos, tmp_path / "run", "--steps", "1", *more, "--prior-weight", "0.5")
    assert len(list(prior.iterdir())) == 2
    with open(tmp_path / "run" / "loss.csv", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    expected = float(row["photos"]) + 0.5 * float(row["prior"])
    assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)


def test_a_new_word_learns_and_no_other_row_of_the_table_does(folders, photos, tmp_path):
    pipeline = open_base(folders["sd1"], torch.device("cpu"))
    table = pipeline.text_encoder.get_input_embeddings().weight
    before = table.clone()
    tables = train_embedding.add_word(pipeline, "<anna>", "x", 2)
    lessons = Lessons(pipeline, NoiseConfig(), 2)
    prompt = f"a photo of {train_embedding.spelled('<anna>', 2)}"
    seen = read_photos(pipeline, photos, 32)
    lessons.loss(seen, [prompt], 0, generator=torch.Generator().manual_seed(0)).backward()
    rows = tables["text_encoder"].rows
    assert rows.grad.abs().sum(1).min() > 0
    everything = [w for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)
                  for w in part.parameters()]  # fmt: skip
    assert [w for w in everything if w.grad is not None] == [rows]
    assert torch.equal(table, before)
    start = before[pipeline.tokenizer("x", add_special_tokens=False).input_ids[0]]
    assert torch.equal(rows[0], start) and torch.equal(rows[1], start)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_a_trained_word_opens_as_published_embeddings_do(folders, photos, tmp_path, kind):
    word = ("--word", "anna", "--like", "x", "--vectors", "2")
    file = trained(train_embedding, folders[kind], photos, tmp_path, *word, "--steps", "2")
    stored = load_file(file)
    assert set(stored) == ({"anna"} if kind == "sd1" else {"clip_l", "clip_g"})
    pipeline = load_pipeline(folders[kind])
    assert add_embedding(pipeline, file) == "anna"
    ids = pipeline.tokenizer.convert_tokens_to_ids(["anna", "anna_1"])
    vectors = pipeline.text_encoder.get_input_embeddings().weight[ids]
    torch.testing.assert_close(vectors, stored.get("anna", stored.get("clip_l")))


def test_descent_with_averages_equals_the_recursion_written_out(tmp_path):
    weight = torch.nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
    config = RunConfig(steps=5, learning_rate=0.1, ema=0.5, weight_decay=0.0, fall="cosine")
    run = Run(tmp_path, {"w": weight}, config)
    path = []

    def loss_of(number):
        path.append(weight.item())
        return weight.square().sum(), {}

    descend(run, loss_of, Alone())
    rates = [rate_at(k / 5, k, config) for k in range(5)]
    # Adam's first step is the rate itself, whatever the gradient
    assert path[1] == pytest.approx(4 - rates[0], abs=1e-6)
    assert rates == pytest.approx([0.1 * (0.5 + 0.5 * math.cos(math.pi * k / 5)) for k in range(5)])
    averaged = 4.0
    for step, value in enumerate([*path[1:], weight.item()], 1):
        keep = min(0.5, (1 + step) / (10 + step))
        averaged = keep * averaged + (1 - keep) * value
    with run.at_average():
        assert weight.item() == pytest.approx(averaged, rel=1e-9)


def test_faults_of_the_user_are_one_sentence(folders, photos, tmp_path, capsys, tmp_path_factory):
    refiner = tiny.model_folder(tmp_path_factory, "refiner")
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    for number in range(3):
        (broken / f"{number}.png").write_bytes(b"no picture")
    capsys.readouterr()  # the model was written with a bar
    lora = ["lora", "--run", str(tmp_path / "run"), "--instance", "a", "--size", "32", "--cpu"]
    for model, folder, more, words in [
        ("sd1", tmp_path / "nowhere", [], "is no folder"),
        ("sd1", empty, [], "has no pictures"),
        ("sd1", broken, [], "is not an image that can be read"),
        (refiner, photos, [], "cannot be trained here"),
        (tmp_path / "nothing.safetensors", photos, [], "is not there"),
        ("sd1", photos, ["--class", "b"], "--class and --prior go together"),
        ("sd1", photos, ["--noise-offset", "2"], "must be from 0 to 1"),
    ]:
        given = ["--model", str(folders.get(str(model), model)), "--photos", str(folder)]
        with pytest.raises(SystemExit) as ended:
            main([*lora, *given, *more])
        said = capsys.readouterr().err
        assert ended.value.code == 2 and words in said and said.count("\n") == 1, said
