"""What goes beyond one plain pipeline: previews of all families, T2I files, two models or ends."""

from __future__ import annotations

import pytest
import tiny_diffusion as tiny
import torch
from diffusers import FluxPipeline, T2IAdapter
from diffusers.pipelines.deepfloyd_if import IFSafetyChecker
from safetensors.torch import save_file
from transformers import CLIPConfig

from assets.errors import AssetError
from diffusion import Recipe, load_pipeline, record_of, txt2img
from diffusion.cascade import draw_cascade
from diffusion.draw import scheduler_of
from diffusion.from_picture import img2img
from diffusion.interpolation import draw_between, interpolate, slerp, way
from diffusion.metadata import read_record
from diffusion.preview import latent_picture, load_tiny_decoder, step_arguments
from diffusion.recipe import Extra, Toward, from_json, to_json
from diffusion.refine import draw_by_both, draw_refined
from diffusion.reimagining import reimagine, seen
from diffusion.samplers import scheduler_for
from diffusion.t2i_adapters import adapted
from diffusion.write import write_picture

RECIPE = Recipe("a smiling woman", steps=3, negative="hat", cfg=5.0)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return lambda kind, **more: load_pipeline(tiny.model_folder(tmp_path_factory, kind), **more)


def noisy(seed=9, side=tiny.SIDE):
    levels = torch.randint(
        0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(seed)
    )
    return levels / 255


# Previews and steps of every family


@pytest.mark.parametrize(("kind", "size"), [("flux", (48, 32)), ("sd3", (32, 32))])
def test_the_last_preview_of_flux_and_sd3_is_what_the_decoder_gets(opened, kind, size):
    pipeline, told = opened(kind), []
    recipe = RECIPE.change(size=size, negative="")
    picture = txt2img(pipeline, recipe, on_step=lambda k, n, x: told.append((k, n, x)))
    assert [(k, n) for k, n, _ in told] == [(1, 3), (2, 3), (3, 3)]
    latents = latent_picture(pipeline, told[-1][2], size)
    vae = pipeline.vae
    with torch.no_grad():
        decoded = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), picture, atol=1e-5, rtol=0)


def test_packed_latents_lie_where_diffusers_unpacks_them_to(opened, generator):
    pipeline = opened("flux")
    packed = torch.randn(2, 12 * 8, 16, generator=generator)
    expected = FluxPipeline._unpack_latents(packed, 32, 48, 2)
    assert torch.equal(latent_picture(pipeline, packed, (48, 32)), expected)
    assert latent_picture(pipeline, packed, (32, 32)) is None  # not of this size
    assert latent_picture(pipeline, packed) is None  # 96 is no square
    square = latent_picture(pipeline, packed[:, :64])
    assert torch.equal(square, FluxPipeline._unpack_latents(packed[:, :64], 32, 32, 2))


def test_a_tiny_decoder_is_opened_from_its_folder_and_shows_flux(opened, tmp_path):
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        **{"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)},
        **{"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)},
    ).save_pretrained(tmp_path / "tiny")
    decoder, steps, pipeline = load_tiny_decoder(tmp_path / "tiny"), [], opened("flux")
    heard = step_arguments(pipeline, on_step=steps.append, decoder=decoder, size=(48, 32))
    pipeline("a", num_inference_steps=2, height=32, width=48, output_type="latent", **heard)
    assert [step.picture.shape for step in steps] == [(1, 3, 32, 48)] * 2
    with pytest.raises(AssetError, match="is no AutoencoderTiny"):
        load_tiny_decoder(tiny_unet_folder(opened, tmp_path))


def tiny_unet_folder(opened, tmp_path):
    opened("sd1").unet.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


# T2I-Adapters


def authors(adapter):
    """A full adapter under its authors' names: blocks are numbered through all levels."""
    layers = adapter.config.num_res_blocks
    tensors = {}
    for name, value in adapter.state_dict().items():
        parts = name.split(".")[1:]  # without "adapter"
        if parts[0] == "body":
            level, kind = int(parts[1]), parts[2]
            layer = int(parts[3]) if kind == "resnets" else 0
            rest = parts[4:] if kind == "resnets" else parts[2:]
            parts = ["body", str(level * layers + layer), *rest]
        tensors[".".join(parts)] = value
    return tensors


def light_authors(adapter):
    return {
        name.removeprefix("adapter.").replace(".resnets.", ".body."): value
        for name, value in adapter.state_dict().items()
    }


@pytest.fixture(scope="module")
def full_adapter():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return T2IAdapter(channels=(8, 16, 16), num_res_blocks=2, downscale_factor=2).eval()


def test_a_t2i_adapter_of_one_file_is_the_one_of_its_folder(opened, full_adapter, tmp_path):
    from diffusion.t2i_file import adapter_of_file

    base = opened("sd1-cross-first")
    with torch.random.fork_rng():
        torch.manual_seed(4)
        light = T2IAdapter(channels=(8, 16), num_res_blocks=2, downscale_factor=2,
                           adapter_type="light_adapter").eval()  # fmt: skip
    cases = {
        "diffusers.safetensors": (full_adapter, full_adapter.state_dict()),
        "authors.safetensors": (full_adapter, authors(full_adapter)),
        "light.safetensors": (light, light_authors(light)),
    }
    for name, (adapter, tensors) in cases.items():
        save_file(tensors, tmp_path / name)
        found = adapter_of_file(tmp_path / name, base).eval()
        with torch.no_grad():
            for one, other in zip(found(noisy()), adapter(noisy()), strict=True):
                assert torch.equal(one, other), name
    torch.save(authors(full_adapter), tmp_path / "authors.pth")
    save_file({"x": torch.zeros(1)}, tmp_path / "none.safetensors")
    grey = {k: v[:, :5] if k == "conv_in.weight" else v for k, v in authors(full_adapter).items()}
    save_file({k: v.contiguous() for k, v in grey.items()}, tmp_path / "five.safetensors")
    steered = load_pipeline(
        base_folder(opened), t2i_adapters=[tmp_path / "authors.pth", tmp_path / "light.safetensors"]
    )
    assert len(record_of(steered).t2i_adapters) == 2
    for name, words in (("none", "is no T2I-Adapter"), ("five", "for another family of models")):
        with pytest.raises(AssetError, match=words):
            load_pipeline(base_folder(opened), t2i_adapters=[tmp_path / f"{name}.safetensors"])


def base_folder(opened):
    return record_of(opened("sd1-cross-first")).source


def test_t2i_adapters_keep_the_prompts_grammar_and_add_up(opened, tmp_path_factory):
    folder = tiny.model_folder(tmp_path_factory, "t2i")
    plain, two = opened("sd1-cross-first"), opened("sd1-cross-first", t2i_adapters=[folder] * 2)
    recipe, told = RECIPE.change(prompt="[cat:(dog:1.3):2]", size=(32, 32)), []
    shown = [noisy(), noisy(8)]
    off = adapted(
        two, recipe, shown, scales=[0.0, 0.0], on_step=lambda k, n, x: told.append((k, n))
    )
    torch.testing.assert_close(off, txt2img(plain, recipe), atol=1e-5, rtol=0)
    assert told == [(1, 3), (2, 3), (3, 3)]
    one = opened("sd1-cross-first", t2i_adapters=[folder])
    alone = adapted(one, recipe, shown[:1])
    assert not torch.allclose(alone, off, atol=1e-3)
    first = adapted(two, recipe, shown, scales=[1.0, 0.0])
    torch.testing.assert_close(first, alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 T2I-Adapters and 1 conditions"):
        adapted(two, recipe, shown[:1])


# Two ends, and two pictures


def test_every_frame_on_a_way_is_made_again_from_what_its_file_says(opened, tmp_path):
    pipeline = opened("sd1")
    last = RECIPE.change(prompt="a (man:1.3)", seed=9, cfg=3.0, negative="")
    frames = interpolate(pipeline, RECIPE, last, 3)
    for number, (recipe, frame) in enumerate(zip(way(RECIPE, last, 3), frames, strict=True)):
        path = write_picture(tmp_path / f"{number}.png", frame, recipe)
        again = read_record(path).recipe
        assert again == recipe and again.kind == "interpolate"
        assert torch.equal(draw_between(pipeline, again), frame)
    assert torch.equal(frames[2], txt2img(pipeline, last))
    with pytest.raises(ValueError, match="same LoRAs"):
        way(RECIPE, last.change(prompt="a <lora:x:1>"), 3)
    with pytest.raises(ValueError, match="cannot draw what lies between"):
        draw_between(opened("sd3"), way(RECIPE, last, 3)[1])


def test_other_ends_extras_and_margins_come_back_from_json():
    recipe = RECIPE.change(
        toward=Toward("b", 0.25, seed=3),
        extras=(Extra("restore", "a.pth", "00"), Extra("controlnet", "c", weight=0.5)),
        margins=(1, 2, 3, 4),
    )
    assert from_json(to_json(recipe)) == recipe
    stored = to_json(recipe)
    for name, value in [
        ("toward", {"prompt": "b"}), ("toward", {"prompt": "b", "share": "x"}), ("toward", []),
        ("toward", {"prompt": "b", "share": 2.0}), ("extras", [{"kind": 3}]), ("extras", ["x"]),
        ("extras", [{"kind": "a", "name": "b", "more": 1}]), ("margins", [1, 2, 3]),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"other end|extra|margins|share"):
            from_json(stored | {name: value})


@pytest.mark.parametrize("kind", ["unclip", "image-variation"])
def test_a_picture_is_drawn_anew_as_diffusers_does_and_two_meet_between(opened, kind):
    pipeline = opened(kind)
    recipe = Recipe("", steps=2, cfg=4.0, seed=3, sampler="DDIM")
    one, other = noisy(1), noisy(2)
    drawn = reimagine(pipeline, recipe.change(batch=2), one)
    plain = load_pipeline(record_of(pipeline).source)
    plain.scheduler = scheduler_for("DDIM", plain.scheduler.config)
    given = plain.feature_extractor(
        images=[(one[0] * 255).round().byte()], return_tensors="pt"
    ).pixel_values
    expected = plain(
        image=given, num_inference_steps=2, guidance_scale=4.0, output_type="pt", height=32,
        width=32, generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    torch.testing.assert_close(drawn[:1], expected, atol=1e-5, rtol=0)
    assert not torch.equal(drawn[0], drawn[1])
    ends = [reimagine(pipeline, recipe, one, other, share) for share in (0.0, 1.0)]
    assert torch.equal(ends[0], drawn[:1])
    assert torch.equal(ends[1], reimagine(pipeline, recipe, other))
    middle = reimagine(pipeline, recipe, one, other, 0.5)
    assert (middle - ends[0]).abs().mean() > 0 and (middle - ends[1]).abs().mean() > 0
    a, b = seen(pipeline, one), seen(pipeline, other)
    half = slerp(a, b, 0.5)
    cosines = [torch.cosine_similarity(half, end).item() for end in (a, b)]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-5)  # as far from both
    with pytest.raises(ValueError, match="draws nothing from CLIP's view"):
        reimagine(opened("sd1"), recipe, one)


# Two models for one picture


def test_deepfloyds_pictures_are_as_bright_as_diffusers_own_and_checked(opened):
    pipeline = opened("deepfloyd")
    recipe = RECIPE.change(steps=2, negative="")
    plain = opened("deepfloyd")
    plain.scheduler = scheduler_for(recipe.sampler, plain.scheduler.config)
    expected = plain(
        recipe.prompt, num_inference_steps=2, guidance_scale=5.0, output_type="np",
        generator=torch.Generator().manual_seed(0), clean_caption=False,
    ).images  # fmt: skip
    drawn = txt2img(pipeline, recipe)
    torch.testing.assert_close(drawn, torch.from_numpy(expected).movedim(-1, 1))
    checker = IFSafetyChecker(
        CLIPConfig(vision_config=tiny.vision_config().to_dict(), projection_dim=tiny.WIDTH)
    )
    torch.nn.init.constant_(checker.p_head.bias, 9.0)  # flags every picture
    pipeline.register_modules(safety_checker=checker, feature_extractor=tiny.image_processor())
    assert not txt2img(pipeline, recipe).any()


def test_a_pixel_models_picture_is_drawn_over_from_where_it_is(opened):
    """With a single step of hardly any noise, what comes out is nearly what went in."""
    pipeline = opened("deepfloyd")
    with torch.no_grad():
        for weight in pipeline.unet.conv_out.parameters():
            weight.zero_()  # predicts no noise at all
    given = noisy() * 0.5 + 0.25
    recipe = Recipe("a", steps=50, strength=0.04, cfg=1.0, sampler="DDIM")
    made = img2img(pipeline, recipe, given)
    assert (made - given).abs().mean() < 0.1 < (made - (2 * given - 1)).abs().mean()


def test_a_cascades_second_stage_draws_from_the_firsts_picture(opened):
    first, second = opened("deepfloyd"), opened("deepfloyd-second")
    recipe, told = RECIPE.change(steps=2, sampler="DDIM"), []
    made = draw_cascade(first, second, recipe, on_step=lambda k, n, x: told.append((k, n)))
    assert made.shape == (1, 3, 32, 32)  # twice the first one's
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    small = txt2img(first, recipe)
    second.scheduler = scheduler_of(second, recipe)
    # the second has the same text encoder, and is here asked with the words themselves
    for part in ("text_encoder", "tokenizer"):
        setattr(second, part, getattr(first, part))
    expected = second(
        recipe.prompt, image=2 * small - 1, negative_prompt="hat", num_inference_steps=2,
        guidance_scale=5.0, generator=torch.Generator().manual_seed(0), output_type="np",
        clean_caption=False,
    ).images  # fmt: skip
    torch.testing.assert_close(made, torch.from_numpy(expected).movedim(-1, 1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="is no second stage"):
        draw_cascade(first, first, recipe)


def test_base_and_refiner_by_a_recipe_draw_what_the_plain_pair_does(opened):
    base, refiner = opened("sdxl"), opened("refiner")
    recipe, told = RECIPE.change(steps=5, sampler="Euler", size=(32, 32)), []
    made = draw_by_both(base, refiner, recipe, on_step=lambda k, n, x: told.append((k, n)))
    expected = draw_refined(
        base, refiner, recipe.prompt, generator=torch.Generator().manual_seed(0),
        negative_prompt="hat", steps=5, size=(32, 32),
    )  # fmt: skip
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert told == [(k, 5) for k in range(1, 6)]
    # a word that comes in the last fifth reaches the refiner alone
    late = draw_by_both(base, refiner, recipe.change(prompt="[cat:dog:4]"))
    cat = draw_by_both(base, refiner, recipe.change(prompt="cat"))
    assert not torch.equal(late, cat)
