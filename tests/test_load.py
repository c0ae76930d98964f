"""Every kind of checkpoint goes the way a user's does: disk, loader, picture; compared with
diffusers' own construction of the same model."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny_diffusion as tiny
import tiny_layouts as layouts
import torch
from diffusers import MultiAdapter, MultiControlNetModel
from malicious import corpus
from PIL import Image
from safetensors.torch import load_file, save_file

from assets.errors import AssetError
from diffusion import as_task, load_pipeline, record_of
from diffusion.families import FAMILIES, family_folder, family_settings
from diffusion.refine import draw_refined
from diffusion.safety import flagged

FAMILY_KINDS = (
    *("sd1", "sd1-checked", "sd2", "inpaint", "upscale", "latent-upscale", "sdxl", "refiner"),
    *("sd3", "flux", "unclip", "deepfloyd"),
)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "diffusion-home"
    monkeypatch.setenv("AVATAR_HOME", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path_factory):
    return lambda kind: tiny.model_folder(tmp_path_factory, kind)


def noisy(side=tiny.SIDE):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(9))


def as_pil(images):
    return Image.fromarray((images[0].movedim(0, -1) * 255).round().byte().numpy())


def arguments(kind):
    size = {"height": tiny.SIDE, "width": tiny.SIDE}
    pil = as_pil(noisy())
    special = {
        "inpaint": {"image": noisy(), "mask_image": torch.ones(1, 1, 32, 32), **size},
        "upscale": {"image": as_pil(noisy(16))},
        "latent-upscale": {"image": noisy()},
        "refiner": {"image": noisy(), "strength": 1.0},
        "unclip": {"image": pil, **size},
    }
    return special.get(kind, size)


def drawn(pipeline, **settings):
    asked = {"prompt": "a cat", "num_inference_steps": 2, "output_type": "pt"} | settings
    images = pipeline(**asked, generator=torch.Generator().manual_seed(0)).images
    if isinstance(images, torch.Tensor):
        return images
    return torch.from_numpy(images).movedim(-1, 1)  # some older pipelines know no "pt"


def weights(pipeline):
    parts = {n: m for n, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
    return {f"{n}.{k}": v for n, m in parts.items() for k, v in m.state_dict().items()}


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("kind", FAMILY_KINDS)
def test_a_folder_of_every_family_gives_the_picture_of_the_model_it_was_saved_from(
    folder, kind, tmp_path
):
    loaded = load_pipeline(folder(kind))
    built = tiny.build(kind, tmp_path)  # the same seed, never on disk
    built.set_progress_bar_config(disable=True)
    assert type(loaded) is type(built)
    assert_same_weights(loaded, built)
    picture = drawn(loaded, **arguments(kind))
    assert picture.isfinite().all() and picture.std() > 0
    # where a tensor lies in memory changes how its products are summed
    torch.testing.assert_close(picture, drawn(built, **arguments(kind)), atol=1e-5, rtol=0)


SINGLE = [(kind, "safetensors") for kind in ("sd1", "inpaint", "sdxl", "refiner")]


@pytest.mark.parametrize(("kind", "suffix"), [*SINGLE, ("sd1", "ckpt"), ("sdxl", "ckpt")])
def test_a_single_file_of_the_original_layout_holds_the_same_model(folder, kind, suffix, tmp_path):
    model = load_pipeline(folder(kind))
    tensors = layouts.original(model)
    path = tmp_path / f"model.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": tensors, "global_step": 3, "epoch": 0}, path)
    else:
        save_file(tensors, path)
    single = load_pipeline(path, config=folder(kind))
    assert type(single) is type(model)
    assert_same_weights(single, model)
    picture, expected = (drawn(one, **arguments(kind)) for one in (single, model))
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=0)


def test_a_file_is_what_it_holds_whatever_its_name(folder, tmp_path):
    tensors = layouts.original(load_pipeline(folder("sd1")))
    save_file(tensors, tmp_path / "named.ckpt")
    torch.save(tensors, tmp_path / "named.safetensors")
    expected = load_pipeline(folder("sd1"))
    for name in ("named.ckpt", "named.safetensors"):
        assert_same_weights(load_pipeline(tmp_path / name, config=folder("sd1")), expected)


# Counts of the published checkpoints, as their papers and model cards give them.
PUBLISHED = {
    ("sd1", "unet"): 859_520_964,
    ("sd1", "vae"): 83_653_863,
    ("sd1", "text_encoder"): 123_060_480,
    ("sd2", "unet"): 865_910_724,
    ("sd2", "text_encoder"): 340_387_840,
    ("sdxl", "unet"): 2_567_463_684,
    ("sdxl", "text_encoder_2"): 694_659_840,
}


@pytest.mark.parametrize(("family", "part"), PUBLISHED)
def test_the_settings_for_single_files_are_of_the_published_size(family, part):
    settings = family_settings(family)
    library, name = settings["model_index.json"][part]
    config = settings[f"{part}/config.json"]
    with torch.device("meta"):
        if library == "diffusers":
            network = getattr(__import__("diffusers"), name).from_config(config)
        else:
            kind = getattr(__import__("transformers"), name)
            network = kind(kind.config_class(**config))
    assert sum(weight.numel() for weight in network.parameters()) == PUBLISHED[family, part]


def test_a_single_file_without_settings_takes_its_familys_and_says_what_words_it_needs(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    save_file(layouts.original(load_pipeline(folder("sd1"))), tmp_path / "m.safetensors")
    with pytest.raises(AssetError, match=r"vocab.json and merges.txt.*copy both there"):
        load_pipeline(tmp_path / "m.safetensors")
    with pytest.raises(AssetError, match="cannot be opened"):  # as this one is of another size
        load_pipeline(tmp_path / "m.safetensors", tokenizer=folder("sd1") / "tokenizer")
    for family in FAMILIES:
        made = family_folder(family, 4, folder("sd1") / "tokenizer")
        index = json.loads((made / "model_index.json").read_text())
        parts = [n for n, v in index.items() if isinstance(v, list) and v[0]]
        assert all((made / part).is_dir() for part in parts), family


def test_what_a_model_predicts_is_read_off_or_said(folder, tmp_path):
    assert load_pipeline(folder("sd2")).scheduler.config.prediction_type == "v_prediction"
    told = load_pipeline(folder("sd2"), prediction="epsilon")
    assert told.scheduler.config.prediction_type == "epsilon"
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    tensors = layouts.original(load_pipeline(folder("sdxl"))) | marks
    save_file(tensors, tmp_path / "v.safetensors")
    marked = load_pipeline(tmp_path / "v.safetensors", config=folder("sdxl"))
    assert marked.scheduler.config.prediction_type == "v_prediction"
    assert marked.scheduler.config.rescale_betas_zero_snr
    for family, kind in (("sd1", "epsilon"), ("sd2", "v_prediction"), ("sdxl", "epsilon")):
        noise = family_settings(family)["scheduler/scheduler_config.json"]
        assert noise.get("prediction_type", "epsilon") == kind


def test_a_folder_of_old_pytorch_weights_is_read_by_our_reader_alone(folder, tmp_path, monkeypatch):
    shutil.copytree(folder("sd1"), tmp_path / "old")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = tmp_path / "old" / part / f"{stem}.safetensors"
        old = plain.with_name("pytorch_model.bin" if stem == "model" else f"{stem}.bin")
        torch.save(load_file(plain), old)
        plain.unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("something was unpickled"))
    assert_same_weights(load_pipeline(tmp_path / "old"), load_pipeline(folder("sd1")))


def test_a_folder_of_one_variant_is_opened_as_that(folder, tmp_path):
    load_pipeline(folder("sd1")).save_pretrained(tmp_path / "half", variant="fp16")
    half = load_pipeline(tmp_path / "half", dtype=torch.bfloat16)
    assert half.unet.dtype == half.vae.dtype == half.text_encoder.dtype == torch.bfloat16


def test_a_hub_id_is_found_in_the_cache(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(folder("sd1"), snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    # where HF_HOME leads, which the library reads when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert_same_weights(load_pipeline("some/model"), load_pipeline(folder("sd1")))
    with pytest.raises(AssetError, match=r"some/other cannot be opened.*hf download some/other"):
        load_pipeline("some/other")


def test_the_same_weights_serve_every_task_and_a_round_trip_gives_the_same_picture(folder):
    pipeline = load_pipeline(folder("sd1"))
    before = drawn(pipeline, height=32, width=32)
    second = load_pipeline(folder("sd1"), task="img2img")
    assert type(second).__name__ == "StableDiffusionImg2ImgPipeline"
    painted = as_task(as_task(pipeline, "img2img"), "inpaint")
    assert type(painted).__name__ == "StableDiffusionInpaintPipeline"
    assert painted.unet is pipeline.unet and record_of(painted).source == str(folder("sd1"))
    assert torch.equal(drawn(as_task(painted, "txt2img"), height=32, width=32), before)
    for kind, name in (("sd3", "StableDiffusion3Img2ImgPipeline"), ("flux", "FluxImg2ImgPipeline")):
        assert type(load_pipeline(folder(kind), task="img2img")).__name__ == name
    for kind, task in (("inpaint", "txt2img"), ("upscale", "img2img"), ("refiner", "txt2img")):
        with pytest.raises(ValueError, match=r"paints into masks|is a refiner"):
            load_pipeline(folder(kind), task=task)
    with pytest.raises(ValueError, match="task='video' is not known"):
        load_pipeline(folder("sd1"), task="video")


def test_base_and_refiner_share_the_steps_that_were_asked_for(folder, generator):
    base, refiner = load_pipeline(folder("sdxl")), load_pipeline(folder("refiner"))
    levels = []
    picture = draw_refined(
        *(base, refiner, "a cat"),
        **{"generator": generator, "steps": 10, "handover": 0.8, "size": (32, 32)},
        on_step=lambda step: levels.append(step.timestep),
    )
    assert picture.shape == (1, 3, 32, 32)
    assert len(levels) == 10 and levels == sorted(levels, reverse=True)
    assert sum(level >= 200 for level in levels) == 8  # of 1000: what is above goes to the base
    with pytest.raises(ValueError, match=r"handover=1.0 must lie between"):
        draw_refined(base, refiner, "a", generator=generator, handover=1.0)


def test_controlnets_one_or_several_steer_as_diffusers_own_do(folder, tmp_path):
    control, steered = folder("controlnet"), {"height": 32, "width": 32}
    one = load_pipeline(folder("sd1"), controlnets=[control])
    assert type(one).__name__ == "StableDiffusionControlNetPipeline"
    plain = drawn(load_pipeline(folder("sd1")), **steered)
    off = drawn(one, image=noisy(), controlnet_conditioning_scale=0.0, **steered)
    torch.testing.assert_close(off, plain, atol=1e-5, rtol=0)
    parts = tiny.build("sd1", tmp_path).components | {
        "controlnet": tiny.build("controlnet", tmp_path)
    }
    direct = type(one)(**parts, requires_safety_checker=False)
    direct.set_progress_bar_config(disable=True)
    picture = drawn(one, image=noisy(), **steered)
    expected = drawn(direct, image=noisy(), **steered)
    torch.testing.assert_close(picture, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(picture, plain, atol=1e-3)
    several = load_pipeline(folder("sd1"), controlnets=[control, control], task="img2img")
    assert isinstance(several.controlnet, MultiControlNetModel)
    twice = drawn(several, image=noisy(), control_image=[noisy(), noisy()], strength=1.0)
    assert twice.isfinite().all() and len(record_of(several).controlnets) == 2
    single = tmp_path / "control.safetensors"  # as they are shared: weights and no settings
    shutil.copy(control / "diffusion_pytorch_model.safetensors", single)
    alone = load_pipeline(folder("sd1"), controlnets=[single])
    torch.testing.assert_close(drawn(alone, image=noisy(), **steered), picture, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="ControlNet"):
        load_pipeline(folder("sdxl"), controlnets=[control])
    with pytest.raises(AssetError, match="is no ControlNet"):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        load_pipeline(folder("sd1"), controlnets=[tmp_path / "x.safetensors"])


def test_t2i_adapters_one_or_several_steer(folder):
    plain = drawn(load_pipeline(folder("sd1-cross-first")), height=32, width=32)
    one = load_pipeline(folder("sd1-cross-first"), t2i_adapters=[folder("t2i")])
    steered = drawn(one, image=noisy(), height=32, width=32)
    assert not torch.allclose(steered, plain, atol=1e-3)
    off = drawn(one, image=noisy(), height=32, width=32, adapter_conditioning_scale=0.0)
    torch.testing.assert_close(off, plain, atol=1e-5, rtol=0)
    two = load_pipeline(folder("sd1-cross-first"), t2i_adapters=[folder("t2i")] * 2)
    assert isinstance(two.adapter, MultiAdapter)
    settings = {"height": 32, "width": 32, "adapter_conditioning_scale": [0.5, 0.5]}
    halves = drawn(two, image=[noisy(), noisy()], **settings)
    torch.testing.assert_close(halves, steered, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="takes no T2I-Adapter"):
        load_pipeline(folder("sd3"), t2i_adapters=[folder("t2i")])


def test_the_safety_checker_stays_unless_it_is_switched_off_and_both_are_recorded(folder):
    kept = load_pipeline(folder("sd1-checked"))
    assert kept.safety_checker is not None and record_of(kept).safety == "on"
    size = {"num_inference_steps": 1, "height": 32, "width": 32, "output_type": "pt"}
    assert flagged(kept("a", **size), 1) == (False,)
    with torch.no_grad():
        kept.safety_checker.concept_embeds_weights.fill_(-2.0)  # now every picture is flagged
    output = kept("a", **size)
    assert flagged(output, 1) == (True,) and output.images.abs().max() == 0
    off = load_pipeline(folder("sd1-checked"), safety="off")
    assert off.safety_checker is None and record_of(off).safety == "off"
    assert record_of(as_task(off, "img2img")).safety == "off"
    assert record_of(load_pipeline(folder("sd1"))).safety == "none"
    with pytest.raises(ValueError, match='must be "on" or "off"'):
        load_pipeline(folder("sd1"), safety="maybe")


PLANTED = "raise SystemExit('it ran')"
CODE_REQUESTS = {
    "a pipeline class in a file": ("model_index.json", "_class_name", ["own", "Own"]),
    "a pipeline class that is a file": ("model_index.json", "_class_name", "own"),
    "a part of the folder's own": ("model_index.json", "unet", ["own", "OwnUNet"]),
    "a part of the standard library": ("model_index.json", "unet", ["subprocess", "Popen"]),
    "a function of transformers": ("model_index.json", "unet", ["transformers", "pipeline"]),
    "a dotted class": ("model_index.json", "unet", ["diffusers", "utils.os.system"]),
    "auto_map": ("text_encoder/config.json", "auto_map", {"AutoModel": "own.Own"}),
    "trust": ("unet/config.json", "trust_remote_code", True),
    "kernels": ("text_encoder/config.json", "_attn_implementation", "nobody/kernels"),
}


@pytest.mark.parametrize("name", CODE_REQUESTS)
def test_a_folder_that_asks_to_run_code_is_refused_and_runs_nothing(folder, tmp_path, name):
    file, key, value = CODE_REQUESTS[name]
    shutil.copytree(folder("sd1"), tmp_path / "m")
    for place in ("own.py", "unet/own.py", "text_encoder/own.py", "subprocess.py"):
        (tmp_path / "m" / place).write_text(PLANTED)
    stored = json.loads((tmp_path / "m" / file).read_text())
    stored[key] = value
    (tmp_path / "m" / file).write_text(json.dumps(stored))
    with pytest.raises(AssetError, match=r"asks to run code|which is no model") as caught:
        load_pipeline(tmp_path / "m")
    assert str(caught.value).isprintable()


def test_files_made_to_harm_are_refused_in_one_sentence_and_run_nothing(tmp_path):
    mark = tmp_path / "it-ran"
    cases = corpus(str(mark))
    chosen = [n for n in cases if "memo" not in n and "deep" not in n and "bomb" not in n][::9]
    for number, name in enumerate(chosen):
        path = tmp_path / f"m{number}.{('ckpt', 'safetensors')[number % 2]}"
        path.write_bytes(cases[name][0])
        with pytest.raises(AssetError) as caught:
            load_pipeline(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 800, name
    assert not mark.exists()


def test_a_model_with_missing_weights_is_an_error_not_noise(folder, tmp_path):
    shutil.copytree(folder("sd1"), tmp_path / "m")
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        path = tmp_path / "m" / part / f"{file}.safetensors"
        tensors = load_file(path)
        whole = path.read_bytes()
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(AssetError, match="lacks"):
            load_pipeline(tmp_path / "m")
        path.write_bytes(whole[:-100])
        with pytest.raises(AssetError, match="cannot be opened"):
            load_pipeline(tmp_path / "m")
        path.write_bytes(whole)


def test_what_is_no_whole_model_is_named_for_what_it_is(folder, tmp_path):
    model = load_pipeline(folder("sd1"))
    lora = layouts.kohya_lora(layouts.lora_factors(model, seed=1))
    save_file(lora, tmp_path / "lora.safetensors")
    save_file(layouts.ip_adapter(model, 16), tmp_path / "ip.safetensors")
    save_file({"emb_params": torch.zeros(1, 16)}, tmp_path / "word.safetensors")
    part = folder("sd1") / "unet" / "diffusion_pytorch_model.safetensors"
    control = folder("controlnet") / "diffusion_pytorch_model.safetensors"
    flux = {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}
    save_file(flux, tmp_path / "flux.safetensors")
    for path, words in [
        (tmp_path / "lora.safetensors", "it is a LoRA"),
        (tmp_path / "ip.safetensors", "it is an IP-Adapter"),
        (tmp_path / "word.safetensors", "it is a Textual Inversion"),
        (part, "one part of a diffusers model"),
        (control, "it is a ControlNet"),
        (tmp_path / "flux.safetensors", "is a FLUX checkpoint"),
        (tmp_path / "none.safetensors", "is not there"),
    ]:
        with pytest.raises(AssetError, match=words):
            load_pipeline(path)
