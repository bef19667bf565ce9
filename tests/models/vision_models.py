"""Image models of timm, made small by their own arguments, and what each is called with."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
