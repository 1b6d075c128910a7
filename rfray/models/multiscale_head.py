"""a timm backbone -> the same under a head that sees what all its stages say, each pooled over its places.

The head is what a probe learns by itself, and what a trial with `head: probe` begins with.
"""

from typing import Any

import torch
from torch import nn

from rfray.spec.sweep import CLASSES

STAGES = 5
"""At most so many stages are looked at, evenly spread up to the last one: convolutional backbones have about five, and
transformers as many as they have blocks."""


class Head(nn.Module):
    """Features, each brought to mean 0 and standard deviation 1 as on the images of the probe -> logits."""

    centre: torch.Tensor
    """(F,) float32: what is subtracted from the features."""
    scale: torch.Tensor
    """(F,) float32: what they are divided by then."""

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


class Staged(nn.Module):
    """A timm backbone without a classifier of its own, and a head on the features of its stages.

    To whoever asks for layers (`feature_info`) or for weights that are not to decay it looks like a timm model.
    """

    def __init__(self, backbone: Any, side: int, drop_rate: float = 0.0) -> None:
        """`side`, in pixels, is that of the images that it is tried with.

        Raises whatever the backbone does where timm can't give its stages.
        """
        super().__init__()
        self.backbone = backbone
        with torch.inference_mode():
            backbone.eval()
            there = backbone.forward_intermediates(torch.zeros(1, 3, side, side), intermediates_only=True)
            backbone.train()
        kept = min(len(there), STAGES)
        self.stages = [(number + 1) * len(there) // kept - 1 for number in range(kept)]
        self.head = Head(sum(pooled(there[stage]).shape[1] for stage in self.stages), drop_rate)
        self.feature_info = [
            {**info, "module": f"backbone.{info['module']}"}
            for info in getattr(backbone, "feature_info", [])
            if "module" in info
        ]
        self.num_prefix_tokens = getattr(backbone, "num_prefix_tokens", 0)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> (B, F) float32: mean, maximum and standard deviation of every channel of each stage."""
        stages = self.backbone.forward_intermediates(images, indices=self.stages, intermediates_only=True)
        return torch.cat([pooled(stage.float()) for stage in stages], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) -> logits (B, 2)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not to decay, as timm's optimizers ask for them."""
        of_backbone = getattr(self.backbone, "no_weight_decay", set)
        return {f"backbone.{name}" for name in of_backbone()}


def pooled(stage: torch.Tensor) -> torch.Tensor:
    """(B, C, h, w) -> (B, 3 C): the mean of each channel over its places, its maximum and its standard deviation."""
    places = stage.flatten(2)  # (B, C, h * w)
    return torch.cat([places.mean(2), places.amax(2), places.std(2, correction=0)], dim=1)
