"""Tiny diffusers pipelines with random weights, saved as a user would have them on disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def tiny_tokenizer(directory: Path):
    from transformers import CLIPTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (directory / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"), model_max_length=16)


def _text_config(**more):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2, vocab_size=60,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1, **more,
    )  # fmt: skip


def _vae(channels: int):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        shift_factor=0.0, scaling_factor=1.0,
    )  # fmt: skip


def save_stable_diffusion(directory: Path) -> Path:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=_vae(4), text_encoder=CLIPTextModel(_text_config()), tokenizer=tiny_tokenizer(directory / "words"),
        unet=unet, scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(directory, safe_serialization=True)
    return directory


def save_stable_diffusion_3(directory: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
        pos_embed_max_size=64,
    )  # fmt: skip
    texts = [CLIPTextModelWithProjection(_text_config(projection_dim=32, hidden_act="gelu")) for _ in range(2)]
    words = [tiny_tokenizer(directory / "words") for _ in range(2)]
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(16), text_encoder=texts[0],
        text_encoder_2=texts[1], text_encoder_3=None, tokenizer=words[0], tokenizer_2=words[1], tokenizer_3=None,
    )  # fmt: skip
    pipeline.save_pretrained(directory, safe_serialization=True)
    return directory
