"""What each way of making a picture promises, with tiny models of random weights."""

from __future__ import annotations

import pytest
import tiny_diffusion
import tiny_networks
import torch

from diffusion import (
    Margins,
    Recipe,
    class_conditional,
    fuse,
    img2img,
    inpaint,
    interpolate,
    load_pipeline,
    outpaint,
    regional,
    txt2img,
    unconditional,
    upscale,
    variations,
)
from diffusion.from_picture import autoencoded, covered
from diffusion.interpolation import slerp
from diffusion.regions import shares
from diffusion.samplers import scheduler_for

RECIPE = Recipe("a smiling woman", steps=4, negative="hat", cfg=5.0)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sd1"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sdxl"))


@pytest.fixture
def image(generator):
    """Of odd sides, in steps of 1/255 as a file's."""
    levels = torch.randint(0, 256, (1, 3, 37, 45), generator=generator)
    return levels.float() / 255


def plainly(pipeline, recipe, **more):
    """diffusers alone, by the same settings."""
    kept = pipeline.scheduler
    pipeline.scheduler = scheduler_for(recipe.sampler, kept.config)
    try:
        return pipeline(
            recipe.prompt,
            negative_prompt=recipe.negative or None,
            num_inference_steps=recipe.steps,
            guidance_scale=recipe.cfg,
            generator=torch.Generator().manual_seed(recipe.seed),
            output_type="pt",
            **more,
        ).images
    finally:
        pipeline.scheduler = kept


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a", "Heun"])
def test_a_plain_prompt_is_what_diffusers_alone_makes(sd1, sampler):
    recipe = RECIPE.change(sampler=sampler)
    assert torch.equal(txt2img(sd1, recipe), plainly(sd1, recipe))


def test_sdxl_is_what_diffusers_alone_makes_also_rescaled(sdxl):
    recipe = RECIPE.change(rescale=0.7, negative="")
    assert torch.equal(txt2img(sdxl, recipe), plainly(sdxl, recipe, guidance_rescale=0.7))


def test_the_pipeline_is_left_as_it_was(sd1):
    before = (type(sd1.scheduler), "forward" in vars(sd1.unet))
    txt2img(sd1, RECIPE.change(prompt="a AND b"))
    assert (type(sd1.scheduler), "forward" in vars(sd1.unet)) == before


def test_pictures_of_a_batch_have_seeds_that_follow(sd1):
    batch = txt2img(sd1, RECIPE.change(batch=2, seed=5))
    second = txt2img(sd1, RECIPE.change(seed=6))
    torch.testing.assert_close(batch[1:], second, atol=1e-5, rtol=0)


def test_a_prompt_that_changes_does_so_at_its_step(sd1):
    def made(prompt):
        return txt2img(sd1, RECIPE.change(prompt=prompt, sampler="Euler"))

    assert torch.equal(made("[cat:dog:4]"), made("cat"))
    assert torch.equal(made("[cat:dog:0]"), made("dog"))
    changed = made("[cat:dog:2]")
    assert not torch.equal(changed, made("cat"))
    assert not torch.equal(changed, made("[cat:dog:3]"))
    assert torch.equal(made("[cat:dog:0.5]"), changed)


def test_sdxl_changes_its_summary_with_the_prompt(sdxl):
    def made(prompt):
        return txt2img(sdxl, RECIPE.change(prompt=prompt, sampler="Euler"))

    assert torch.equal(made("[cat:dog:0]"), made("dog"))
    assert not torch.equal(made("[cat:dog:2]"), made("cat"))


def test_and_with_one_weight_of_zero_is_the_other_prompt(sd1):
    one = txt2img(sd1, RECIPE.change(prompt="cat"))
    both = txt2img(sd1, RECIPE.change(prompt="cat AND dog :0"))
    torch.testing.assert_close(both, one, atol=1e-4, rtol=0)
    twice = txt2img(sd1, RECIPE.change(prompt="cat :0.5 AND cat :0.5"))
    torch.testing.assert_close(twice, one, atol=1e-4, rtol=0)


def test_rescaling_is_the_papers_where_the_pipeline_has_none_of_its_own(sd1, image):
    # txt2img of SD 1.x has guidance_rescale, img2img has not
    plain, strong = (
        img2img(sd1, RECIPE.change(strength=1.0, rescale=rescale), image) for rescale in (0.0, 1.0)
    )
    assert not torch.equal(plain, strong)
    mixed = txt2img(sd1, RECIPE.change(prompt="cat AND dog :0", rescale=0.6))
    torch.testing.assert_close(
        mixed, txt2img(sd1, RECIPE.change(prompt="cat", rescale=0.6)), atol=1e-4, rtol=0
    )


def test_steps_are_told_and_can_be_cancelled(sd1):
    told = []
    txt2img(sd1, RECIPE.change(sampler="Heun"), on_step=lambda k, n, x: told.append((k, n)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(step, total, latents):
        told.append((step, total))
        if step == 2:
            raise KeyboardInterrupt

    told.clear()
    with pytest.raises(KeyboardInterrupt):
        txt2img(sd1, RECIPE, on_step=stop)
    assert told == [(1, 4), (2, 4)]


def test_two_passes_draw_larger(sd1):
    assert txt2img(sd1, RECIPE.change(hires=2.0)).shape == (1, 3, 64, 64)


def test_drawing_over_changes_more_with_strength_and_nothing_at_zero(sd1, image):
    even = image[..., :32, :40]
    kept = autoencoded(sd1, even)
    made = [
        img2img(sd1, RECIPE.change(strength=strength, cfg=1.0), even)
        for strength in (0.0, 0.25, 0.5, 1.0)
    ]
    assert torch.equal(made[0], kept)
    distance = [float((one - kept).square().mean()) for one in made]
    assert distance == sorted(distance)
    assert distance[1] > 0


def test_a_picture_of_any_size_keeps_it_or_takes_the_one_asked_for(sd1, image):
    assert img2img(sd1, RECIPE.change(batch=2), image).shape == (2, 3, 37, 45)
    assert img2img(sd1, RECIPE.change(size=(24, 48)), image).shape == (1, 3, 48, 24)
    wide = torch.arange(8.0).repeat(4, 1)[None, None].expand(1, 3, -1, -1) / 8
    assert torch.equal(covered(wide, (4, 4)), wide[..., 2:6])


@pytest.mark.parametrize("kind", ["sd1", "inpaint"])
def test_outside_the_mask_nothing_changes(kind, image, tmp_path_factory):
    pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, kind))
    mask = torch.zeros(1, 1, 37, 45)
    mask[..., 10:30, 8:24] = 1
    made = inpaint(pipeline, RECIPE.change(strength=1.0), image, mask)
    outside = (mask == 0).expand_as(image)
    assert torch.equal(made[outside], image[outside])
    assert (made[~outside] - image[~outside]).abs().mean() > 0.01
    soft = inpaint(pipeline, RECIPE.change(strength=1.0), image, 0.5 * mask)
    torch.testing.assert_close(soft, (image + made) / 2 * mask + image * (1 - mask))


def test_beyond_the_edges_the_old_picture_stays(sd1, image):
    margins = Margins(left=5, right=60, top=40, bottom=1)
    made = outpaint(sd1, RECIPE.change(strength=1.0), image, margins)
    assert made.shape == (1, 3, 40 + 37 + 1, 5 + 45 + 60)
    assert torch.equal(made[..., 40:77, 5:50], image)
    assert made[..., :40, :].std() > 0


def test_enlarging_gives_exactly_so_many_times_the_size(sd1, image, tmp_path_factory):
    assert upscale(sd1, RECIPE.change(hires=2.0), image).shape == (1, 3, 74, 90)
    small = image[..., :13, :18]
    for kind, factor in (("upscale", 4), ("latent-upscale", 2)):
        pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, kind))
        made = upscale(pipeline, RECIPE.change(steps=2), small)
        assert made.shape == (1, 3, 13 * factor, 18 * factor)


def test_variations_move_away_from_the_picture_evenly(sd1):
    first = txt2img(sd1, RECIPE)
    assert torch.equal(variations(sd1, RECIPE, 1, amount=0.0)[0][1], first)
    near = variations(sd1, RECIPE, 2, amount=0.1)
    far = variations(sd1, RECIPE, 2, amount=0.9)
    for (recipe, picture), (_, other) in zip(near, far, strict=True):
        assert (picture - first).abs().mean() < (other - first).abs().mean()
        assert torch.equal(txt2img(sd1, recipe), picture)
    assert not torch.equal(near[0][1], near[1][1])


def test_the_way_from_one_recipe_to_another_ends_at_both(sd1):
    last = RECIPE.change(prompt="a (man:1.3) " + "with a beard, " * 8, seed=9, cfg=3.0)
    frames = interpolate(sd1, RECIPE, last, 3)
    assert torch.equal(frames[0], txt2img(sd1, RECIPE))
    assert torch.equal(frames[2], txt2img(sd1, last))
    ends = (frames[2] - frames[0]).abs().mean()
    assert 0 < (frames[1] - frames[0]).abs().mean() < 2 * ends


def test_on_the_sphere_lengths_and_angles_change_evenly():
    a, b = torch.tensor([2.0, 0, 0]), torch.tensor([0, 4.0, 0])
    third = slerp(a, b, 1 / 3)
    angle = torch.atan2(third[1], third[0])
    torch.testing.assert_close(angle, torch.tensor(torch.pi / 6))
    torch.testing.assert_close(third.norm(), torch.tensor(2 + 2 / 3))
    assert slerp(a, b, 0.0) is a
    assert slerp(a, b, 1.0) is b
    assert torch.equal(slerp(a, a, 0.3), a)
    assert slerp(torch.zeros(3), a, 0.5).isfinite().all()


def test_two_pictures_fused_are_each_at_the_ends(sd1, generator):
    a, b = torch.rand(2, 1, 3, 32, 32, generator=generator)
    still = RECIPE.change(strength=0.0)
    assert torch.equal(fuse(sd1, still, a, b, 0.0), autoencoded(sd1, a))
    assert torch.equal(fuse(sd1, still, a, b, 1.0), autoencoded(sd1, b))
    assert fuse(sd1, RECIPE, a, b, 0.5).shape == (1, 3, 32, 32)


def test_the_shares_of_regions_add_up_and_fall_off_outside():
    maps = shares([(0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 0.75, 1.0)], (8, 16))
    torch.testing.assert_close(maps.sum(0), torch.ones(8, 16))
    assert (maps >= 0).all()
    assert maps[1, 4, 1] == pytest.approx(0.8)
    assert maps[1, 4, 6] == pytest.approx(0.4)  # shared with the other
    assert maps[0, 4, 15] == 1


def test_a_region_changes_its_own_side_most(sd1):
    left = (0.0, 0.0, 0.5, 1.0)
    same = regional(sd1, RECIPE.change(regions=((RECIPE.prompt, left),)))
    torch.testing.assert_close(same, txt2img(sd1, RECIPE), atol=1e-4, rtol=0)
    changed = txt2img(sd1, RECIPE.change(regions=(("zzzz (qq:1.9)", left),)))
    difference = (changed - same).abs().mean(dim=(0, 1, 2))
    assert difference[:16].mean() > difference[16:].mean()


def test_models_without_prompts_draw_too():
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(sample_size=16, block_out_channels=(8, 8), norm_num_groups=4,
                           layers_per_block=1, down_block_types=("DownBlock2D",) * 2,
                           up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    recipe = Recipe("", steps=2, batch=2)
    made = unconditional(pipeline, recipe)
    assert made.shape == (2, 3, 16, 16)
    assert torch.equal(unconditional(pipeline, recipe.change(batch=1, seed=1)), made[1:])


def test_classes_are_drawn_by_number_or_name():
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8,
            num_layers=1, norm_num_groups=4, sample_size=8, patch_size=4,
            num_embeds_ada_norm=1000)  # fmt: skip
        # fresh blocks begin as if they were not there
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        vae = tiny_networks.vae()
    transformer.eval()  # in training it forgets classes now and then
    pipeline = DiTPipeline(transformer, vae, DDIMScheduler(), id2label={0: "cat, kitty", 1: "dog"})
    pipeline.set_progress_bar_config(disable=True)
    recipe = Recipe("", steps=2)
    dog = class_conditional(pipeline, recipe, "dog")
    assert torch.equal(class_conditional(pipeline, recipe, 1), dog)
    assert not torch.equal(class_conditional(pipeline, recipe, "kitty"), dog)
    with pytest.raises(ValueError, match="the class 'cow' is not known"):
        class_conditional(pipeline, recipe, "cow")


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_other_families_take_the_words_alone(kind, tmp_path_factory, caplog):
    pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, kind))
    recipe = RECIPE.change(prompt="a (red:1.3) hat", steps=1, negative="", size=(32, 32))
    made = txt2img(pipeline, recipe)
    assert made.shape[:2] == (1, 3)
    assert "knows no weights or schedules in prompts" in caplog.text


@pytest.mark.parametrize("prompt", ["😀", "مرحبا بالعالم", "word, " * 1666, "((((", "[[a:"])
def test_odd_prompts_give_pictures(sd1, prompt):
    made = txt2img(sd1, RECIPE.change(prompt=prompt, steps=1))
    assert made.isfinite().all()


def test_what_cannot_be_drawn_is_said(sd1, image):
    mask = torch.zeros(1, 1, 37, 45)
    for made, words in [
        (lambda: txt2img(sd1, Recipe(" ")), "the prompt is empty"),
        (lambda: txt2img(sd1, Recipe("a <lora:none:1>")), "the LoRA 'none', which is not loaded"),
        (lambda: inpaint(sd1, RECIPE, image, mask), "the mask is black all over"),
        (lambda: inpaint(sd1, RECIPE, image, mask[..., 1:]), "give both in one size"),
        (lambda: Margins(), "add nothing"),
        (lambda: upscale(sd1, RECIPE, image), "hires=1.0 enlarges nothing"),
        (lambda: interpolate(sd1, RECIPE, RECIPE.change(steps=5), 3), "steps is 4 at one end"),
        (lambda: fuse(sd1, RECIPE, image, image[..., 1:], 0.5), "cannot be fused"),
        (lambda: unconditional(sd1, RECIPE), "wants a prompt"),
        (lambda: txt2img(sd1, RECIPE.change(sampler="DPM fast")), "the nearest is"),
    ]:
        with pytest.raises(ValueError, match=words):
            made()


def test_a_picture_that_the_checker_blacks_out_is_told(tmp_path_factory, caplog, monkeypatch):
    pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sd1-checked"))
    monkeypatch.setattr(
        pipeline.safety_checker,
        "forward",
        lambda clip_input, images: (torch.zeros_like(images), [True]),
    )
    made = txt2img(pipeline, RECIPE.change(steps=1))
    assert not made.any()
    assert "safety checker blacked out picture 0" in caplog.text
