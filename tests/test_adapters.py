"""LoRA, Textual Inversion and IP-Adapter on tiny models: what they change, to the number."""

from __future__ import annotations

import pytest
import tiny_diffusion as tiny
import tiny_layouts as layouts
import torch
from safetensors.torch import save_file

from assets.errors import AssetError
from diffusion import (
    add_embedding,
    add_ip_adapter,
    load_pipeline,
    record_of,
    remove_embedding,
    remove_ip_adapter,
    remove_loras,
    scale_ip_adapter,
    use_loras,
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory, "sd1")


@pytest.fixture
def pipeline(model_folder):
    return load_pipeline(model_folder)


@pytest.fixture(scope="module")
def loras(tmp_path_factory, model_folder):
    """Two LoRAs and their factors: `warm` in kohya's key names, `cold` in diffusers'."""
    folder = tmp_path_factory.mktemp("loras")
    model = load_pipeline(model_folder)
    warm, cold = layouts.lora_factors(model, seed=1), layouts.lora_factors(model, seed=2)
    save_file(layouts.kohya_lora(warm, alpha=1.0), folder / "warm.safetensors")
    (folder / "more").mkdir()
    save_file(layouts.diffusers_lora(cold), folder / "more" / "cold.safetensors")
    # kohya's factor is alpha / rank, and the rank is 2
    return folder, {name: (up * 0.5, down) for name, (up, down) in warm.items()}, cold


def drawn(pipeline, prompt="a cat", **settings):
    generator = torch.Generator().manual_seed(0)
    asked = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "latent"}
    return pipeline(prompt, generator=generator, **asked, **settings).images


def merged(model_folder, *parts):
    """The model with `weight * up @ down` added to its own weights, and no adapter."""
    pipeline = load_pipeline(model_folder)
    with torch.no_grad():
        for factors, weight in parts:
            for name, (up, down) in factors.items():
                part, _, path = name.partition(".")
                layouts.lora_layer(pipeline, part, path).weight += weight * up @ down
    return pipeline


def test_two_loras_of_both_key_layouts_mix_by_their_weights(pipeline, model_folder, loras):
    folder, warm, cold = loras
    plain = drawn(pipeline)
    use_loras(pipeline, [("warm", 0.8), ("cold", -0.3)], folder)
    expected = drawn(merged(model_folder, (warm, 0.8), (cold, -0.3)))
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(drawn(pipeline), expected, atol=2e-5, rtol=0)
    assert record_of(pipeline).loras == (("warm", 0.8), ("cold", -0.3))


def test_a_lora_of_weight_zero_and_a_removed_one_leave_the_model_to_the_bit(pipeline, loras):
    folder, _, _ = loras
    plain = drawn(pipeline)
    use_loras(pipeline, [("warm", 0.0)], folder)
    assert torch.equal(drawn(pipeline), plain)
    use_loras(pipeline, [("warm", 1.0)], folder)
    assert not torch.equal(drawn(pipeline), plain)
    use_loras(pipeline, [])
    assert torch.equal(drawn(pipeline), plain)
    use_loras(pipeline, [("warm", 1.0)], folder)
    remove_loras(pipeline)
    assert torch.equal(drawn(pipeline), plain) and record_of(pipeline).loras == ()


def test_the_last_call_says_which_loras_act_and_one_named_twice_adds_up(
    pipeline, model_folder, loras
):
    folder, warm, _ = loras
    use_loras(pipeline, [("warm", 1.0), ("cold", 1.0)], folder)
    use_loras(pipeline, [("warm", 0.25), (folder / "warm.safetensors", 0.25)], folder)
    expected = drawn(merged(model_folder, (warm, 0.5)))
    torch.testing.assert_close(drawn(pipeline), expected, atol=2e-5, rtol=0)


def test_a_lora_that_is_missing_damaged_or_of_another_family_changes_nothing(
    pipeline, loras, tmp_path
):
    folder, warm, _ = loras
    plain = drawn(pipeline)
    good = layouts.kohya_lora(warm)
    whole = (folder / "warm.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    wide = {k: torch.zeros(2, 2048) if "attn2_to_k.lora_down" in k else v for k, v in good.items()}
    save_file(wide, tmp_path / "xl.safetensors")
    odd = {k: torch.zeros(2, 5) if "attn1_to_q.lora_down" in k else v for k, v in good.items()}
    save_file(odd, tmp_path / "odd.safetensors")
    double = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(2, 8)}
    double |= {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.zeros(24, 2)}
    save_file(double, tmp_path / "flux.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    for name, words in [
        ("Nobody", "has no LoRA called 'Nobody'; those there"),
        ("cut", "damaged|no whole safetensors"),
        ("xl", "is a LoRA for SDXL"),
        ("odd", "does not fit this model"),
        ("flux", "another family|does not fit"),
        ("none", "holds no LoRA"),
        ("../loras", "leads out of"),
    ]:
        with pytest.raises(AssetError, match=words) as caught:
            use_loras(pipeline, [(name, 1.0)], tmp_path)
        assert str(caught.value).isprintable(), name
        assert torch.equal(drawn(pipeline), plain), name
    use_loras(pipeline, [("warm", 1.0)], folder)  # still works after all that
    assert not torch.equal(drawn(pipeline), plain)


@pytest.mark.parametrize("layout", ["diffusers", "A1111", "A1111 safetensors"])
def test_a_learned_word_is_its_vectors(pipeline, tmp_path, layout):
    table = pipeline.text_encoder.get_input_embeddings().weight
    before = drawn(pipeline, "cat hat")
    # the vectors of two letters, so that the word must read as these letters do
    ids = pipeline.tokenizer("q x").input_ids[1:3]
    vectors = table[ids].detach().clone()
    if layout == "diffusers":
        torch.save({"<thing>": vectors}, tmp_path / "learned_embeds.bin")
        word = add_embedding(pipeline, tmp_path / "learned_embeds.bin")
        assert word == "<thing>"
    elif layout == "A1111":
        stored = {"string_to_param": {"*": vectors}, "name": "thing", "step": 3}
        torch.save(stored, tmp_path / "thing.pt")
        word = add_embedding(pipeline, "thing", tmp_path)
        assert word == "thing"
    else:
        save_file({"emb_params": vectors}, tmp_path / "thing.safetensors")
        word = add_embedding(pipeline, "thing", tmp_path, token="~~")
        assert word == "~~"
    assert torch.equal(drawn(pipeline, f"a {word}"), drawn(pipeline, "a q x"))
    assert torch.equal(drawn(pipeline, "cat hat"), before)
    assert record_of(pipeline).embeddings == (word,)
    remove_embedding(pipeline, word)
    table = pipeline.text_encoder.get_input_embeddings().weight
    assert len(pipeline.tokenizer) == len(table) and record_of(pipeline).embeddings == ()
    assert torch.equal(drawn(pipeline, "cat hat"), before)


def test_sdxl_learns_a_word_in_both_text_encoders(tmp_path_factory, tmp_path):
    pipeline = load_pipeline(tiny.model_folder(tmp_path_factory, "sdxl"))
    vectors = {"clip_l": torch.ones(1, tiny.WIDTH), "clip_g": torch.full((1, tiny.WIDE), 2.0)}
    save_file(vectors, tmp_path / "xl.safetensors")
    word = add_embedding(pipeline, tmp_path / "xl.safetensors")
    for tokenizer, encoder, value in (
        (pipeline.tokenizer, pipeline.text_encoder, 1.0),
        (pipeline.tokenizer_2, pipeline.text_encoder_2, 2.0),
    ):
        row = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word)]
        assert (row == value).all()


def test_words_that_cannot_be_learned_are_refused_in_one_sentence(pipeline, tmp_path):
    save_file({"<w>": torch.zeros(768)}, tmp_path / "wide.safetensors")
    save_file({"a": torch.zeros(16)}, tmp_path / "taken.safetensors")
    save_file({"x": torch.zeros(16), "y": torch.zeros(16)}, tmp_path / "two.safetensors")
    for name, words in [("wide", "another family"), ("two", "holds no Textual"), ("no", "has no")]:
        with pytest.raises(AssetError, match=words):
            add_embedding(pipeline, name, tmp_path)
    with pytest.raises(ValueError, match="already knows the word 'a'"):
        add_embedding(pipeline, "taken", tmp_path)
    with pytest.raises(ValueError, match="was not added"):
        remove_embedding(pipeline, "a")


def test_an_ip_adapter_of_scale_zero_is_the_model_and_its_picture_steers_it(
    pipeline, tmp_path, generator
):
    encoder = tiny.build("image-encoder", tmp_path)
    encoder.save_pretrained(tmp_path / "image_encoder")
    path = tmp_path / "ip.safetensors"
    save_file(layouts.ip_adapter(pipeline, encoder.config.projection_dim), path)
    plain = drawn(pipeline)
    add_ip_adapter(pipeline, path, tmp_path / "image_encoder", scale=0.0)
    one, other = (torch.rand(1, 3, 32, 32, generator=generator) for _ in range(2))
    torch.testing.assert_close(drawn(pipeline, ip_adapter_image=one), plain, atol=1e-5, rtol=0)
    scale_ip_adapter(pipeline, 0.8)
    assert record_of(pipeline).ip_adapters == (("ip", 0.8),)
    steered = drawn(pipeline, ip_adapter_image=one)
    assert (steered - plain).abs().max() > 1e-3
    assert not torch.equal(drawn(pipeline, ip_adapter_image=other), steered)
    remove_ip_adapter(pipeline)
    assert torch.equal(drawn(pipeline), plain)


def test_what_is_no_plain_ip_adapter_of_this_family_is_refused(pipeline, tmp_path):
    good = layouts.ip_adapter(pipeline, 16)
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    save_file(good | {"ip_adapter.0.to_q_lora.down.weight": torch.zeros(1)}, tmp_path / "f.bin")
    wide = {k: torch.zeros(8, 768) if "to_k_ip" in k else v for k, v in good.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    for name, words in [
        ("x.safetensors", "is no IP-Adapter"),
        ("f.bin", "FaceID"),
        ("wide.safetensors", "IP-Adapter for SD 1.x"),
    ]:
        with pytest.raises(AssetError, match=words):
            add_ip_adapter(pipeline, tmp_path / name)
    with pytest.raises(ValueError, match="no IP-Adapter was added"):
        scale_ip_adapter(pipeline, 1.0)
