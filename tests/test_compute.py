"""Where models run, what they save, what is seen while they draw, and how they stop."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_diffusion as tiny
import tiny_layouts as layouts
import torch
from diffusers import AutoencoderTiny, LCMScheduler

from diffusion import load_pipeline, record_of
from diffusion.compute import (
    WORK_BYTES,
    Compute,
    OutOfMemory,
    apply,
    choose_device,
    choose_dtype,
    in_batches,
    is_out_of_memory,
    network_bytes,
    place,
    plan,
)
from diffusion.few_steps import use_lcm, use_turbo
from diffusion.preview import (
    Cancelled,
    LinearDecoder,
    fit_linear_decoder,
    step_arguments,
    tiny_decoder,
)

GB = 1024**3
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def pipeline(tmp_path_factory):
    return load_pipeline(tiny.model_folder(tmp_path_factory, "sd1"))


def drawn(pipeline, seed=0, steps=2, **settings):
    generator = torch.Generator().manual_seed(seed)
    asked = {"height": 32, "width": 32, "output_type": "pt", "num_inference_steps": steps}
    return pipeline("a cat", generator=generator, **asked, **settings).images


def planned(free, device=CUDA, **settings):
    """SDXL at half precision: 5.1 GB of UNet, 0.2 of VAE, 1.6 of text encoders."""
    parts = (int(5.1 * GB), int(0.2 * GB), int(1.6 * GB))
    found = plan(device, torch.float16, free_bytes=int(free * GB), part_bytes=parts, **settings)
    return found.sliced, found.tiled, found.offload


def test_the_less_memory_is_free_the_more_is_saved():
    assert planned(24) == (False, False, "none")
    assert planned(8) == (True, True, "none")
    assert planned(6.5) == (True, True, "model")
    assert planned(4) == (True, True, "sequential")
    assert planned(0) == (True, True, "sequential")
    assert planned(0, CPU) == (True, True, "none")  # there is nowhere else to put it


def test_a_plan_never_needs_more_than_is_free_while_any_plan_fits():
    parts = (5 * GB, GB)
    for free in range(0, 12 * GB, GB // 8):
        found = plan(CUDA, torch.float16, free_bytes=free, part_bytes=parts, compiled=True)
        resident = {"none": sum(parts), "model": max(parts), "sequential": 0}[found.offload]
        work = WORK_BYTES // 2 if found.sliced else WORK_BYTES
        assert resident + work <= free or found.offload == "sequential"
        assert found.compiled == (found.offload == "none")


def test_what_was_chosen_is_one_line():
    assert str(Compute("cpu", "float32")) == "cpu, float32"
    full = Compute("cuda", "float16", True, True, "model", False)
    assert str(full) == "cuda, float16, sliced attention and VAE, tiled VAE, model offload"
    assert str(Compute("cuda", "bfloat16", compiled=True)) == "cuda, bfloat16, compiled"


def test_a_device_that_is_not_there_or_not_known_is_said():
    assert choose_device("cpu") == CPU and choose_dtype(CPU) == torch.float32
    assert choose_dtype(CUDA) == torch.float16
    with pytest.raises(ValueError, match="device='toaster' is not known"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda' is not there"):
            choose_device("cuda")


def test_a_placed_model_draws_the_same_picture_with_every_saving(pipeline):
    plain = drawn(pipeline)
    chosen = place(pipeline, "cpu", free_bytes=64 * GB)
    assert chosen == Compute("cpu", "float32") and record_of(pipeline).compute == "cpu, float32"
    assert torch.equal(drawn(pipeline), plain)
    # What is free does not count what the model itself already takes.
    tight = place(pipeline, "cpu", free_bytes=0)
    assert tight.sliced and tight.tiled
    torch.testing.assert_close(drawn(pipeline), plain, atol=1e-4, rtol=0)
    assert place(pipeline, "cpu").device == "cpu"  # what is free is read off


def test_networks_are_counted_with_their_buffers():
    norm = torch.nn.BatchNorm1d(3)  # two weights and two means of 3 floats, and one long
    assert network_bytes(norm) == 4 * 3 * 4 + 8 and network_bytes(None) == 0


def test_a_compiled_denoiser_is_asked_for_in_place(pipeline, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: asked.append(type(self).__name__))
    apply(pipeline, Compute("cpu", "float32", compiled=True))
    assert asked == ["UNet2DConditionModel"] and "compiled" in record_of(pipeline).compute


def test_compiling_without_a_compiler_is_refused_before_the_first_picture(pipeline, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the C\+\+ compiler .* draw without --compile"):
        place(pipeline, "cpu", compiled=True)


def test_every_step_is_heard_of_with_a_picture_and_the_result_stays(pipeline, generator):
    plain = drawn(pipeline, steps=4)
    steps = []
    decoder = fit_linear_decoder(pipeline, generator=generator)
    heard = step_arguments(pipeline, on_step=steps.append, decoder=decoder)
    assert torch.equal(drawn(pipeline, steps=4, **heard), plain)
    assert [step.number for step in steps] == [1, 2, 3, 4]
    levels = [step.timestep for step in steps]
    assert levels == sorted(levels, reverse=True)
    assert all(step.picture.shape == (1, 3, 16, 16) for step in steps)


def test_pipelines_with_the_older_callback_are_heard_too(tmp_path_factory):
    pipeline = load_pipeline(tiny.model_folder(tmp_path_factory, "deepfloyd"))
    steps = []
    drawn(pipeline, steps=3, **step_arguments(pipeline, on_step=steps.append))
    assert [step.number for step in steps] == [1, 2, 3]
    with pytest.raises(Cancelled, match="step 1"):
        drawn(pipeline, steps=3, **step_arguments(pipeline, is_cancelled=lambda: True))


def test_cancelling_stops_within_one_step_and_the_next_picture_is_as_ever(pipeline):
    plain = drawn(pipeline)
    steps = []
    heard = step_arguments(pipeline, on_step=steps.append, is_cancelled=lambda: len(steps) == 2)
    with pytest.raises(Cancelled, match="stopped after step 3"):
        drawn(pipeline, steps=10, **heard)
    assert len(steps) == 2
    assert torch.equal(drawn(pipeline), plain)


class _LinearVae:
    """A decoder that is a known linear map of the latents, at twice their size."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias
        keys = {"latent_channels": 4, "scaling_factor": 0.5, "shift_factor": 0.25}
        self.config = type("Config", (dict,), {"__getattr__": dict.__getitem__})(keys)

    def decode(self, latents):
        scaled = (latents - 0.25) * 0.5  # back to what the pipeline holds
        rgb = torch.einsum("bchw,cr->brhw", scaled, self.weight) + self.bias[:, None, None]
        rgb = rgb.repeat_interleave(2, -1).repeat_interleave(2, -2)
        return type("Out", (), {"sample": rgb * 2 - 1})


def test_a_linear_decoder_finds_the_map_of_a_vae_that_is_linear(pipeline, generator):
    weight = torch.randn(4, 3, generator=generator) / 20
    bias = torch.tensor([0.5, 0.4, 0.6])
    monkey = type("P", (), {"vae": _LinearVae(weight, bias)})
    found = fit_linear_decoder(monkey, generator=generator)
    torch.testing.assert_close(found.weight, weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.bias, bias, atol=1e-5, rtol=0)
    latents = torch.zeros(1, 4, 2, 2)
    assert torch.allclose(found(latents)[0, :, 0, 0], bias, atol=1e-5)
    assert LinearDecoder(weight * 1e9, bias)(latents + 1).max() <= 1


def test_a_tiny_autoencoder_makes_previews(pipeline):
    taesd = AutoencoderTiny(
        **{"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)},
        **{"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)},
    )
    steps = []
    heard = step_arguments(pipeline, on_step=steps.append, decoder=tiny_decoder(taesd))
    drawn(pipeline, steps=1, **heard)
    assert steps[0].picture.shape == (1, 3, 32, 32) and not steps[0].picture.requires_grad


def test_where_memory_runs_out_the_batch_is_halved_once_and_then_it_is_said():
    def draw_up_to(most, calls):
        def draw(first, end):
            calls.append((first, end))
            if end - first > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
            return (
                torch.arange(first, end, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)
            )

        return draw

    calls = []
    pictures = in_batches(draw_up_to(2, calls), count=5, batch=4)
    assert pictures[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert calls == [(0, 4), (0, 2), (2, 4), (4, 5)]
    calls.clear()
    with pytest.raises(OutOfMemory, match=r"memory ran out at 2 pictures at once; ask for") as told:
        in_batches(draw_up_to(1, calls), count=5, batch=4)
    assert calls == [(0, 4), (0, 2)] and "\n" not in str(told.value)
    with pytest.raises(OutOfMemory, match="at 1 pictures"):
        in_batches(draw_up_to(0, calls), count=1, batch=1)
    with pytest.raises(ValueError, match="count=0"):
        in_batches(draw_up_to(1, calls), count=0, batch=1)


def test_other_errors_of_a_drawing_are_not_taken_for_full_memory():
    def broken(first, end):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        in_batches(broken, count=2, batch=2)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(real.value)


def test_few_step_models_get_their_scheduler_and_settings(pipeline, tmp_path):
    from safetensors.torch import save_file

    save_file(
        layouts.diffusers_lora(layouts.lora_factors(pipeline, 3)), tmp_path / "lcm.safetensors"
    )
    settings = use_lcm(pipeline, ("lcm", 1.0), tmp_path)
    assert isinstance(pipeline.scheduler, LCMScheduler)
    assert record_of(pipeline).loras == (("lcm", 1.0),)
    picture = drawn(pipeline, steps=settings.steps, guidance_scale=settings.guidance)
    assert picture.isfinite().all()
    turbo = use_turbo(pipeline)
    assert (turbo.steps, turbo.guidance) == (1, 0.0)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert dataclasses.is_dataclass(turbo)
