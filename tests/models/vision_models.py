"""Image models of timm and models of diffusers, made small by their own arguments, and what each is called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab.batches import Batch
from tests.models.exactness import Architecture

IMAGE = 32  # pixels
STAGES = {"channels": (8, 8, 16, 16)}
BLOCKS = {**STAGES, "layers": (1, 1, 1, 1)}
FOUR = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32), "num_heads": (1, 1, 2, 4)}
SMALL = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}

IMAGES: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": SMALL,
    "cait_xxs24_224": SMALL,
    "convnext_atto": {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)},
    "deit_tiny_distilled_patch16_224": SMALL,
    "densenet121": {"growth_rate": 8, "block_config": (2, 2, 2, 2)},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2, "embed_dim": 48, "num_heads": 2},
    "pvt_v2_b0": FOUR,
    "res2net50_26w_4s": BLOCKS,
    "resnet18": STAGES,
    "resnext50_32x4d": {**BLOCKS, "cardinality": 4, "base_width": 32},
    "seresnet18": STAGES,
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "window_size": 7,
        "embed_dim": 8,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 2, 2, 2),
    },
    "test_byobnet": {},
    "test_efficientnet": {},
    "test_maxvit": {"img_size": 64},
    "test_nfnet": {},
    "test_vit": {"img_size": 32},
    "test_vit_relpos": {"img_size": 32},
    "xcit_nano_12_p16_224": SMALL,
    "mobilenetv3_small_050": {},
    "regnety_002": {},
}
"""Names of timm, and what is not a model's default."""

SLOW_IMAGES = ("mobilenetv3_small_050", "regnety_002", "test_maxvit", "test_efficientnet")


def classes_of(output: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Returns the cross-entropy of the first of a model's heads."""
    return F.cross_entropy(output[0] if isinstance(output, tuple) else output, targets)


def image_model(name: str) -> Architecture:
    """Returns a model of timm that tells ten classes apart."""
    options = IMAGES[name]

    def make() -> nn.Module:
        import timm

        torch.manual_seed(0)
        return timm.create_model(name, num_classes=10, **options)

    size = options.get("img_size", IMAGE)
    batch = torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long)
    return Architecture("images", make, batch, classes_of)


UNET = {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
WITH_TEXT = {**UNET, "in_channels": 4, "cross_attention_dim": 16, "attention_head_dim": 4}
OF_IMAGES = {
    **UNET,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "latent_channels": 4,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
OF_LATENTS = {**HEADS, "in_channels": 4, "sample_size": 8, "patch_size": 2}

_LATENTS, _TEXT, _TIMES = torch.zeros(2, 4, 8, 8), torch.zeros(2, 5, 16), torch.tensor([3, 7])
_PICTURES = torch.zeros(2, 3, 16, 16)

DIFFUSION: dict[str, tuple[dict[str, Any], Batch]] = {
    "UNet2DModel": (
        {
            **UNET,
            "sample_size": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {"sample": torch.zeros(2, 3, 8, 8), "timestep": _TIMES},
    ),
    "UNet2DConditionModel": (
        {
            **WITH_TEXT,
            "sample_size": 8,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        {"sample": _LATENTS, "timestep": _TIMES, "encoder_hidden_states": _TEXT},
    ),
    "AutoencoderKL": (OF_IMAGES, {"sample": _PICTURES, "sample_posterior": True}),
    "VQModel": ({**OF_IMAGES, "num_vq_embeddings": 16}, {"sample": _PICTURES}),
    "DiTTransformer2DModel": (
        {**OF_LATENTS, "num_embeds_ada_norm": 10, "norm_num_groups": 4},
        {"hidden_states": _LATENTS, "timestep": _TIMES, "class_labels": _TIMES},
    ),
    "PixArtTransformer2DModel": (
        {
            **OF_LATENTS,
            "out_channels": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "norm_num_groups": 4,
            "use_additional_conditions": False,
        },
        {"hidden_states": _LATENTS, "timestep": _TIMES, "encoder_hidden_states": torch.zeros(2, 5, 12)},
    ),
    "SD3Transformer2DModel": (
        {
            **OF_LATENTS,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 12,
            "out_channels": 4,
            "pos_embed_max_size": 8,
        },
        {
            "hidden_states": _LATENTS,
            "timestep": _TIMES,
            "encoder_hidden_states": _TEXT,
            "pooled_projections": torch.zeros(2, 12),
        },
    ),
    "FluxTransformer2DModel": (
        {
            "patch_size": 1,
            "in_channels": 4,
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 12,
            "axes_dims_rope": (4, 4, 8),
        },
        {
            "hidden_states": torch.zeros(2, 16, 4),
            "timestep": torch.zeros(2),
            "encoder_hidden_states": _TEXT,
            "pooled_projections": torch.zeros(2, 12),
            "img_ids": torch.zeros(16, 3),
            "txt_ids": torch.zeros(5, 3),
        },
    ),
    "Transformer2DModel": (
        {**HEADS, "in_channels": 8, "norm_num_groups": 4, "cross_attention_dim": 16},
        {"hidden_states": torch.zeros(2, 8, 8, 8), "encoder_hidden_states": _TEXT},
    ),
}
"""Models of diffusers by class: what is not the default in their config, and a batch."""


def of_nothing(output: Any, _batch: Batch) -> Tensor:
    """Returns the mean square of what a model predicts."""
    sample: Tensor = output.sample
    return F.mse_loss(sample, torch.zeros_like(sample))


def diffusion_model(name: str) -> Architecture:
    """Returns a model of diffusers that predicts noise, or an image."""
    options, batch = DIFFUSION[name]

    def make() -> nn.Module:
        import diffusers

        torch.manual_seed(0)
        kind: Callable[..., nn.Module] = getattr(diffusers, name)
        return kind(**options).train()

    return Architecture("diffusion", make, batch, of_nothing)
