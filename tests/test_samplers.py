"""Samplers on a distribution whose perfect denoiser is known: a Gaussian."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from diffusion.dpm2s_ancestral import DPM2SAncestralScheduler
from diffusion.recipe import Recipe
from diffusion.samplers import SAMPLERS, UNSUPPORTED, find_sampler, scheduler_for

# numpy's notice about how diffusers' DPM2 calls it
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

MODEL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
MEAN, SPREAD = 0.4, 0.6
ALPHA_BAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
LOG_SIGMA = 0.5 * np.log((1 - ALPHA_BAR) / ALPHA_BAR)


def noise_level(scheduler, timestep):
    """Sigma of a timestep; the scheduler's own where it rounded the timestep."""
    near = float(np.exp(np.interp(float(timestep), np.arange(1000), LOG_SIGMA)))
    own = [
        level
        for name in ("sigmas", "sigmas_interpol")
        for level in np.asarray(getattr(scheduler, name, ()), dtype=float).tolist()
        if level > 0
    ]
    best = min(own, key=lambda level: abs(math.log(level / near)), default=near)
    return best if abs(math.log(best / near)) < 0.02 else near


def sample(scheduler, steps, noise, generator=None, kind="epsilon"):
    """The sampler's result with the perfect denoiser, and where the exact path from it ends."""
    scheduler.set_timesteps(steps)
    x = noise * float(scheduler.init_noise_sigma)
    exact = None
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(x, timestep)
        sigma = noise_level(scheduler, timestep)
        scaled = given * math.sqrt(1 + sigma**2)  # where the data are not scaled
        if exact is None:
            exact = MEAN + (scaled - MEAN) * SPREAD / math.hypot(SPREAD, sigma)
        clean = (SPREAD**2 * scaled + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)
        alpha = 1 / math.sqrt(1 + sigma**2)
        output = {
            "epsilon": (scaled - clean) / sigma,
            "sample": clean,
            "v_prediction": alpha * (scaled - clean) / sigma - alpha * sigma * clean,
        }[kind]
        more = {} if generator is None else {"generator": generator}
        x = scheduler.step(output, timestep, x, return_dict=False, **more)[0]
    return x, exact


def start(side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 1, side, side, generator=generator, dtype=torch.float64)


def error(name, steps):
    result, exact = sample(scheduler_for(name, MODEL), steps, start())
    return float((result - exact).abs().mean())


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_name_resolves_to_a_scheduler_of_the_models_training(name):
    scheduler = scheduler_for(name, MODEL)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), ALPHA_BAR, rtol=1e-4)


def test_the_names_are_the_web_uis():
    plain = "Euler a/Euler/LMS/Heun/DPM2/DPM2 a/DPM++ 2S a/DPM++ 2M/DPM++ SDE/DPM++ 2M SDE"
    karras = "LMS/DPM2/DPM2 a/DPM++ 2S a/DPM++ 2M/DPM++ SDE/DPM++ 2M SDE/DPM++ 3M SDE"
    others = "DPM++ 2M SDE Exponential/DPM++ 2M SDE Heun/DDIM/PLMS/UniPC/DEIS/LCM/DDPM"
    with_karras = [f"{name} Karras" for name in karras.split("/")]
    for name in (*plain.split("/"), *others.split("/"), *with_karras):
        assert find_sampler(name).name == name
    assert find_sampler("dpmpp_2m_karras").name == "DPM++ 2M Karras"
    assert find_sampler("euler A").name == "Euler a"
    assert Recipe("x").sampler in SAMPLERS
    assert (Recipe("x").sampler, Recipe("x").steps) == ("DPM++ 2M Karras", 25)


def test_names_that_diffusers_cannot_do_say_the_nearest():
    for name, nearest in UNSUPPORTED.items():
        assert nearest in SAMPLERS
        with pytest.raises(ValueError, match="not in diffusers; the nearest is"):
            find_sampler(name)
    with pytest.raises(
        ValueError, match="no sampler is called 'Eular'; did you mean one of: Euler"
    ):
        find_sampler("Eular")


DETERMINISTIC = [sampler.name for sampler in SAMPLERS.values() if not sampler.random]
FIRST_ORDER = {"Euler", "Euler Karras", "DDIM"}
# even steps in time are few near the end, where the last of them is of first order
ENDS_AT_FIRST = {"DPM++ 2M", "UniPC", "DEIS"}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_follow_the_exact_path_ever_closer(name):
    few, many = error(name, 12), error(name, 48)
    order = math.log2(few / many) / 2
    assert many < 0.035
    if name in FIRST_ORDER | ENDS_AT_FIRST:
        assert 0.75 < order < 1.7
    else:
        assert order > 1.45


def test_without_fresh_noise_dpm_2s_is_of_second_order():
    def error(steps):
        scheduler = DPM2SAncestralScheduler(use_karras_sigmas=True, eta=0.0)
        result, exact = sample(scheduler, steps, start())
        # the last step is one look at the clean picture, from the least noise of the schedule
        least = math.exp(LOG_SIGMA[0])
        last = SPREAD / math.hypot(SPREAD, least)
        return float((result - (MEAN + (exact - MEAN) * last)).abs().mean())

    errors = [error(steps) for steps in (20, 40, 80)]
    assert errors[-1] < 4e-4
    assert all(a / b > 2**1.75 for a, b in pairwise(errors)), errors


RANDOM = [s.name for s in SAMPLERS.values() if s.random and s.name != "LCM"]


@pytest.mark.parametrize("name", RANDOM)
def test_ancestral_samplers_have_the_datas_mean_and_variance(name):
    noise = start(side=100)
    results = [
        sample(scheduler_for(name, MODEL), 60, noise, torch.Generator().manual_seed(seed))[0]
        for seed in (1, 2)
    ]
    assert not torch.equal(*results)
    for result in results:
        assert float(result.mean()) == pytest.approx(MEAN, abs=0.02)
        assert float(result.std()) == pytest.approx(SPREAD, rel=0.12)
    # another noise gives another picture, not only another detail
    both = torch.stack(results).flatten(1)
    assert float(torch.corrcoef(both)[0, 1]) < 0.75


def test_dpm_2s_a_has_the_right_variance_closely():
    scheduler = scheduler_for("DPM++ 2S a Karras", MODEL)
    result, _ = sample(scheduler, 150, start(side=200), torch.Generator().manual_seed(1))
    assert float(result.std()) == pytest.approx(SPREAD, rel=0.01)
    again, _ = sample(scheduler, 150, start(side=200), torch.Generator().manual_seed(1))
    assert torch.equal(again, result)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_dpm_2s_a_takes_every_kind_of_prediction(kind):
    def run(kind):
        scheduler = DPM2SAncestralScheduler(prediction_type=kind)
        return sample(scheduler, 10, start(), torch.Generator().manual_seed(0), kind)[0]

    torch.testing.assert_close(run(kind), run("epsilon"), atol=1e-4, rtol=1e-4)


def test_dpm_2s_a_starts_late_for_pictures_drawn_over():
    scheduler = scheduler_for("DPM++ 2S a", MODEL)
    scheduler.set_timesteps(10)
    assert len(scheduler.timesteps) == 2 * 10 - 1
    late = scheduler.timesteps[6 * scheduler.order :]
    scheduler.set_begin_index(6 * scheduler.order)
    clean, noise = torch.full((1, 1, 4, 4), 2.0), torch.ones(1, 1, 4, 4)
    noisy = scheduler.add_noise(clean, noise, late[:1])
    sigma = float(np.exp(np.interp(float(late[0]), np.arange(1000), LOG_SIGMA)))
    torch.testing.assert_close(noisy, clean + sigma * noise, rtol=1e-4, atol=0)


def test_dynamic_thresholding_clamps_what_is_predicted():
    scheduler = scheduler_for("DDPM", MODEL, threshold=0.9)
    scheduler.set_timesteps(10)
    huge = 50 * torch.ones(1, 3, 4, 4)
    step = scheduler.step(-huge, scheduler.timesteps[-1], huge)
    assert step.pred_original_sample.abs().max() <= 1
    with pytest.raises(ValueError, match="'Euler a' has no dynamic thresholding; use DDIM"):
        scheduler_for("Euler a", MODEL, threshold=0.9)
    with pytest.raises(ValueError, match=r"threshold=1\.5 must be above 0"):
        scheduler_for("DDIM", MODEL, threshold=1.5)


def test_a_model_distilled_for_trailing_timesteps_keeps_them():
    trailing = scheduler_for("Euler", {**MODEL, "timestep_spacing": "trailing"})
    assert trailing.config.timestep_spacing == "trailing"
    assert scheduler_for("Euler", MODEL).config.timestep_spacing == "linspace"


def test_what_another_class_had_by_default_is_not_taken_for_the_models():
    from diffusers import DDIMScheduler

    config = DDIMScheduler(beta_start=0.001).config  # clip_sample is True by default there
    scheduler = scheduler_for("Heun", config)
    assert scheduler.config.clip_sample is False
    assert scheduler.config.beta_start == 0.001
