"""a timm backbone -> the same backbone under a head on the pooled features of all its stages.

A probe learns the head alone; a trial with `head: probe` starts from it.
"""

from typing import Any

import torch
from torch import nn

from rfray.spec.sweep import CLASSES

STAGES = 5
"""At most so many stages, evenly spread up to the last one: convolutional backbones have about five, and transformers
as many as they have blocks."""


class MultiscaleHead(nn.Module):
    """Features -> standardised by the mean and standard deviation on the probe's images -> logits."""

    centre: torch.Tensor
    """(F,) float32: the means."""
    scale: torch.Tensor
    """(F,) float32: the standard deviations."""

    def __init__(self, features: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(drop_rate)
        self.linear = nn.Linear(features, len(CLASSES))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F) float32 -> (B, 2)."""
        logits: torch.Tensor = self.linear(self.dropout((features - self.centre) / self.scale))
        return logits


class MultiscaleModel(nn.Module):
    """A timm backbone without its classifier, and a `MultiscaleHead`.

    It has what timm's optimizers and Grad-CAM ask a timm model for: `feature_info`, `no_weight_decay`.
    """

    def __init__(self, backbone: Any, side: int, drop_rate: float = 0.0) -> None:
        """`side`: of the images, in pixels. Raises whatever the backbone raises where timm can't return its stages."""
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            backbone.eval()
            stages = backbone.forward_intermediates(torch.zeros(1, 3, side, side), intermediates_only=True)
            backbone.train()
        kept = min(len(stages), STAGES)
        self.stages = [(number + 1) * len(stages) // kept - 1 for number in range(kept)]
        self.head = MultiscaleHead(sum(pooled(stages[stage]).shape[1] for stage in self.stages), drop_rate)
        self.feature_info = [
            {**info, "module": f"backbone.{info['module']}"}
            for info in getattr(backbone, "feature_info", [])
            if "module" in info
        ]
        self.num_prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, F) float32: the pooled channels of each stage."""
        stages = self.backbone.forward_intermediates(images, indices=self.stages, intermediates_only=True)
        return torch.cat([pooled(stage.float()) for stage in stages], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> logits (B, 2)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay, for timm's optimizers."""
        return {f"backbone.{name}" for name in getattr(self.backbone, "no_weight_decay", set)()}


def pooled(stage: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, 3 C): the mean of each channel, its maximum and its standard deviation."""
    pixels = stage.flatten(2)  # (B, C, h * w)
    return torch.cat([pixels.mean(2), pixels.amax(2), pixels.std(2, correction=0)], dim=1)
