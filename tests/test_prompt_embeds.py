"""Prompts as embeddings: equal to diffusers' own where it has them, chunked and weighted beyond."""

from __future__ import annotations

import pytest
import tiny_diffusion
import torch

from diffusion import load_pipeline
from diffusion.prompt_embeds import _chunks, embed, lengthen, takes_weights


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sd1"))
    # a mean as real text encoders have; a fresh layer norm's is zero
    norm = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder).final_layer_norm
    norm.bias.data += torch.linspace(-0.1, 0.4, len(norm.bias))
    return pipeline


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sdxl"))


def theirs(pipeline, text, **more):
    return pipeline.encode_prompt(
        prompt=text,
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        **more,
    )


def tokens(pipeline, text):
    from diffusion.prompt import parse_weights

    return _chunks(pipeline, pipeline.tokenizer, parse_weights(text), 75)


def test_a_short_prompt_without_weights_is_diffusers_own(sd1):
    for text in ("a smiling woman", "", "x" * 75):
        assert torch.equal(embed(sd1, text).tokens, theirs(sd1, text)[0])


def test_both_encoders_of_sdxl_and_their_summary_are_diffusers_own(sdxl):
    positive, _, pooled, _ = theirs(sdxl, "a smiling woman")
    ours = embed(sdxl, "a smiling woman")
    assert torch.equal(ours.tokens, positive)
    assert torch.equal(ours.pooled, pooled)


def test_an_empty_negative_of_sdxl_is_what_the_model_says(sdxl):
    _, negative, _, pooled = theirs(sdxl, "a smiling woman")
    ours = embed(sdxl, "", as_negative=True)
    assert torch.equal(ours.tokens, negative)
    assert torch.equal(ours.pooled, pooled)


def test_clip_skip_counts_as_the_web_ui_does(sd1, sdxl):
    # what diffusers calls clip_skip=1: the layer before the last, with the last one's norm
    ids = sd1.tokenizer("a man", padding="max_length", return_tensors="pt").input_ids
    layers = sd1.text_encoder(ids, output_hidden_states=True).hidden_states
    norm = getattr(sd1.text_encoder, "text_model", sd1.text_encoder).final_layer_norm
    assert torch.equal(embed(sd1, "a man", clip_skip=2).tokens, norm(layers[-2]))
    # SDXL is trained on the layer that the web UI calls 2
    assert torch.equal(embed(sdxl, "a man", clip_skip=2).tokens, theirs(sdxl, "a man")[0])
    with pytest.raises(ValueError, match="clip_skip=9: the text encoder has 2 layers"):
        embed(sd1, "a man", clip_skip=9)


def test_weights_scale_the_words_and_the_chunk_keeps_its_mean(sd1):
    plain = embed(sd1, "ab cd").tokens
    weighted = embed(sd1, "ab (cd:1.5)").tokens
    expected = plain.clone()
    expected[:, 3:5] *= 1.5  # after the start: a, b, c, d
    expected *= plain.mean() / expected.mean()
    torch.testing.assert_close(weighted, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weighted.mean(), plain.mean(), atol=1e-7, rtol=0)
    assert (weighted[:, 3:5] - plain[:, 3:5]).abs().max() > 0.1


def test_a_mean_of_nothing_is_not_restored(tmp_path_factory):
    pipeline = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sd1"))
    weighted = embed(pipeline, "(a:0) b").tokens
    assert weighted.abs().max() < 10


@pytest.mark.parametrize("weight", ["1e9", "999999999", "-101"])
def test_a_weight_beyond_sense_is_said(sd1, weight):
    if "e" in weight:  # no number of the grammar: plain words
        assert embed(sd1, f"(a:{weight})").tokens.isfinite().all()
    else:
        with pytest.raises(ValueError, match="use one from 0 to 2"):
            embed(sd1, f"(a:{weight})")


def test_long_prompts_are_chunks_of_their_own(sd1):
    parts = ["a " * 75, "b " * 75, "c " * 3]
    assert [len(chunk) for chunk in tokens(sd1, "".join(parts))] == [75, 75, 3]
    expected = torch.cat([theirs(sd1, part)[0] for part in parts], dim=1)
    assert torch.equal(embed(sd1, "".join(parts)).tokens, expected)


def test_break_fills_up_the_chunk(sd1):
    both = embed(sd1, "red hat BREAK blue sky").tokens
    expected = torch.cat([theirs(sd1, "red hat")[0], theirs(sd1, "blue sky")[0]], dim=1)
    assert torch.equal(both, expected)


def test_a_clause_is_not_cut_near_its_comma(sd1):
    # 70 tokens to the comma's end: the clause of ten letters would be cut after five
    text = "a" * 69 + ", " + "b" * 10
    assert [len(chunk) for chunk in tokens(sd1, text)] == [70, 10]
    # a comma further back than 20 tokens lets the clause be cut
    text = "a" * 40 + ", " + "b" * 50
    assert [len(chunk) for chunk in tokens(sd1, text)] == [75, 16]
    text = "a" * 74 + ", " + "b" * 5
    assert [len(chunk) for chunk in tokens(sd1, text)] == [75, 5]


def test_lengthening_adds_what_nothing_says(sd1):
    short = embed(sd1, "a man")
    longer = lengthen(sd1, short, 154)
    assert torch.equal(longer.tokens[:, :77], short.tokens)
    assert torch.equal(longer.tokens[:, 77:], theirs(sd1, "")[0])
    assert lengthen(sd1, short, 77) is short


def test_which_models_take_weights(sd1, sdxl, tmp_path_factory):
    assert takes_weights(sd1)
    assert takes_weights(sdxl)
    sd3 = load_pipeline(tiny_diffusion.model_folder(tmp_path_factory, "sd3"))
    assert not takes_weights(sd3)


@pytest.mark.parametrize("text", ["😀😀", "مرحبا", "a" * 10_000, "((((", "]])", "\u200b"])
def test_odd_prompts_have_embeddings(sd1, text):
    assert embed(sd1, text).tokens.isfinite().all()
