"""The tiny models in the layouts that checkpoints have besides diffusers' own folders.

Key names are written out here a second time, in the direction opposite to diffusers' conversion.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def original(pipeline: Any) -> Tensors:
    """One dict as the first authors save it: UNet, VAE and text encoders by their key names."""
    tensors = {f"model.diffusion_model.{k}": v for k, v in original_unet(pipeline.unet).items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in original_vae(pipeline.vae).items()}
    second = getattr(pipeline, "text_encoder_2", None)
    if second is None:
        tensors |= clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    elif pipeline.text_encoder is None:
        tensors |= open_clip(second, "conditioner.embedders.0.model.")
    else:
        tensors |= clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip(second, "conditioner.embedders.1.model.")
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def original_unet(unet: Any) -> Tensors:
    """OpenAI's UNet: blocks numbered through, a block's downsampling counted as one more."""
    levels = len(unet.config.block_out_channels)
    each = unet.config.layers_per_block + 1
    return {_unet_name(name, levels, each, unet): v for name, v in unet.state_dict().items()}


def _unet_name(name: str, levels: int, each: int, unet: Any) -> str:
    ends = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    stem, _, kind = name.rpartition(".")
    if stem in ends:
        return f"{ends[stem]}.{kind}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        block, part, layer = int(match[1]), match[2], int(match[3])
        if part == "downsamplers":
            return f"input_blocks.{block * each + each}.0.op.{kind}"
        place = f"input_blocks.{1 + block * each + layer}"
    elif match := re.fullmatch(r"up_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name):
        block, part, layer = int(match[1]), match[2], int(match[3])
        if part == "upsamplers":
            has_attention = hasattr(unet.up_blocks[block], "attentions")
            number = 2 if has_attention else 1
            return f"output_blocks.{block * each + each - 1}.{number}.conv.{kind}"
        place = f"output_blocks.{block * each + layer}"
    else:
        match = re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.+)", name)
        assert match is not None, name
        number = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{number}.{_resnet(match[3])}"
    if part == "attentions":
        return f"{place}.1.{match[4]}"
    return f"{place}.0.{_resnet(match[4])}"


def _resnet(name: str) -> str:
    names = {
        **{"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"},
        **{"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"},
    }
    stem, _, kind = name.rpartition(".")
    return f"{names[stem]}.{kind}" if stem in names else name


def original_vae(vae: Any) -> Tensors:
    levels = len(vae.config.block_out_channels)
    tensors = {}
    for name, value in vae.state_dict().items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        for part, old in (("resnets.", "block."), ("upsamplers.0", "upsample")):
            new = re.sub(
                rf"up_blocks\.(\d+)\.{re.escape(part)}",
                lambda m, old=old: f"up.{levels - 1 - int(m[1])}.{old}",
                new,
            )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = new.replace("to_out.0", "proj_out")
            new = re.sub(r"to_([qkv])", r"\1", new)
            if value.ndim == 2:  # a convolution of one pixel there
                value = value[:, :, None, None]
        tensors[new] = value
    return tensors


def clip(encoder: Any, prefix: str) -> Tensors:
    """As transformers names them, under text_model."""
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": value
        for name, value in encoder.state_dict().items()
    }


def open_clip(encoder: Any, prefix: str) -> Tensors:
    """OpenCLIP's names: query, key and value in one matrix, the projection transposed."""
    own = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    tensors = {
        "positional_embedding": own.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": own.pop("embeddings.token_embedding.weight"),
        "ln_final.weight": own.pop("final_layer_norm.weight"),
        "ln_final.bias": own.pop("final_layer_norm.bias"),
        "text_projection": own.pop("text_projection.weight").T,
    }
    for layer in range(encoder.config.num_hidden_layers):
        start, place = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            packed = [own.pop(f"{start}self_attn.{x}_proj.{kind}") for x in "qkv"]
            tensors[f"{place}attn.in_proj_{kind}"] = torch.cat(packed)
            for new, old in (
                *(("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1")),
                *(("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
            ):
                tensors[f"{place}{new}.{kind}"] = own.pop(f"{start}{old}.{kind}")
    assert not own, own.keys()
    return {prefix + name: value for name, value in tensors.items()}


# The layers that the LoRAs below change: the module path in diffusers' UNet and text encoder.
LORA_UNET = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v",
)
LORA_TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj")


def lora_factors(pipeline: Any, seed: int, rank: int = 2) -> dict[str, tuple[Tensor, Tensor]]:
    """By part and module path, (up, down); their product is added to the layer's weight."""
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for part, paths in (("unet", LORA_UNET), ("text_encoder", LORA_TEXT)):
        for path in paths:
            weight = lora_layer(pipeline, part, path).weight
            up = torch.randn(weight.shape[0], rank, generator=generator)
            down = torch.randn(rank, weight.shape[1], generator=generator) / 4
            factors[f"{part}.{path}"] = up, down
    return factors


def lora_layer(pipeline: Any, part: str, path: str) -> Any:
    network = getattr(pipeline, part)
    network = getattr(network, "text_model", network)
    layer = network.get_submodule(path)
    return getattr(layer, "base_layer", layer)


def kohya_lora(factors: dict[str, tuple[Tensor, Tensor]], alpha: float = 1.0) -> Tensors:
    """kohya's sd-scripts: paths joined by underscores, and alpha, which is divided by the rank."""
    tensors = {}
    for name, (up, down) in factors.items():
        part, _, path = name.partition(".")
        start = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        key = start + path.replace(".", "_")
        tensors[f"{key}.lora_up.weight"] = up.clone()
        tensors[f"{key}.lora_down.weight"] = down.clone()
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def diffusers_lora(factors: dict[str, tuple[Tensor, Tensor]]) -> Tensors:
    """diffusers' and peft's: A is down, B is up, and the factor is one."""
    tensors = {}
    for name, (up, down) in factors.items():
        part, _, path = name.partition(".")
        start = "unet." if part == "unet" else "text_encoder.text_model."
        tensors[f"{start}{path}.lora_A.weight"] = down.clone()
        tensors[f"{start}{path}.lora_B.weight"] = up.clone()
    return tensors


def ip_adapter(pipeline: Any, embedding: int, words: int = 4, seed: int = 0) -> Tensors:
    """A plain IP-Adapter: the picture's embedding as words, and keys and values for them."""
    generator = torch.Generator().manual_seed(seed)
    width = pipeline.unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(words * width, embedding, generator=generator),
        "image_proj.proj.bias": torch.zeros(words * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    for number, name in enumerate(n for n in pipeline.unet.attn_processors if "attn2" in n):
        layer = pipeline.unet.get_submodule(name.removesuffix(".processor"))
        for kind in ("to_k", "to_v"):
            shape = getattr(layer, kind).weight.shape
            value = torch.randn(shape, generator=generator) / 4
            tensors[f"ip_adapter.{2 * number + 1}.{kind}_ip.weight"] = value
    return tensors
