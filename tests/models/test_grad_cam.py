"""Maps of evidence: by hand on a tiny network, against features taken another way, and of every family of backbones.

Small pictures, and colour where the heatmap is: by hand.
"""

from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from torch import nn

from rfray.models.build import build_model
from rfray.models.grad_cam import (
    SALIENCY_GRID,
    encode_jpeg,
    grad_cam,
    heatmaps,
    input_gradient,
    overlay_heatmap,
    place_heatmap,
    shrink,
)
from rfray.spec.trial import Trial

REAL, FAKE = torch.tensor([0]), torch.tensor([1])


class Corners(nn.Module):
    """Red speaks for fake and blue for real, twice as strongly: logits are means over cells of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_info = [{"module": "cells", "num_chs": 3, "reduction": 8}]
        self.cells = nn.AvgPool2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = self.cells(images).mean((2, 3))  # red, green, blue
        return torch.stack([2 * means[:, 2], means[:, 0]], dim=1)


def test_by_hand() -> None:
    """On the grid of 4 x 4 cells, logit_fake - logit_real = mean(red) - 2 mean(blue): weights 1/16, 0, -2/16."""
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, :8, 24:] = 0.8  # red in the cell at the top right
    image[0, 0, :8, :8] = 0.4  # half as red at the top left, and a little blue
    image[0, 2, :8, :8] = 0.1
    image[0, 2, 24:, :8] = 0.5  # blue at the bottom left
    cells = grad_cam(Corners(), image, FAKE)
    assert cells is not None
    assert cells[0, 0].tolist() == pytest.approx([(0.4 - 0.2) / 16, 0, 0, 0.8 / 16])
    assert not cells[0, 1:].any()
    cells = grad_cam(Corners(), image, REAL)
    assert cells is not None
    assert cells[0, :, 0].tolist() == pytest.approx([0, 0, 0, 1 / 16])
    for calls, corner in [(FAKE, (slice(0, 8), slice(24, 32))), (REAL, (slice(24, 32), slice(0, 8)))]:
        found = heatmaps(Corners(), image, calls)[0]
        assert found.max() == 1
        strongest = torch.zeros(32, 32)
        strongest[corner] = 1
        assert strongest.flatten()[found.argmax()] == 1
        assert found[16, 16] == 0


def test_each_image_has_its_own_call_and_map() -> None:
    images = torch.zeros(3, 3, 32, 32)
    images[0, 0, :8, :8] = images[1, 2, 24:, 24:] = 1
    found = heatmaps(Corners(), images, torch.tensor([1, 0, 1]))
    assert found[0, 0, 0] == found[1, 31, 31] == 1
    assert found[0, 31, 31] == found[1, 0, 0] == 0
    assert not found[2].any()  # nothing speaks for anything


def test_nothing_speaks_for_the_other_call() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, :8, :8] = 1
    assert not heatmaps(Corners(), image, REAL).any()


def built(backbone: str, side: int = 64) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    model, _ = build_model(Trial(backbone=backbone, pretrained=False, image_size=side))
    return model.eval(), torch.randn(2, 3, side, side)


@pytest.mark.parametrize("backbone", [*timm.list_models("test_*"), "lcnet_050"])
def test_every_family_has_features_with_places(backbone: str) -> None:
    model, images = built(backbone)
    maps = []
    for call in (0, 1):
        calls = torch.full((2,), call)
        cells = grad_cam(model, images, calls)
        assert cells is not None
        assert cells.shape[1] == cells.shape[2] < 64
        found = heatmaps(model, images, calls)
        assert (found.shape, found.dtype) == ((2, 64, 64), torch.float32)
        assert found.min() >= 0
        assert set(found.amax((1, 2)).tolist()) <= {0.0, 1.0}
        maps.append(found)
    assert torch.stack(maps).amax((0, 2, 3)).tolist() == [1.0, 1.0]  # each image speaks for one call at least


def by_hand(logits: torch.Tensor, features: torch.Tensor, places: tuple[int, ...], channels: int) -> torch.Tensor:
    """Grad-CAM for fake as the paper writes it, of features that were taken without a hook."""
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), features)
    return (gradient.mean(places, keepdim=True) * features).sum(channels).clamp_min(0).detach()


def test_channels_first() -> None:
    model, images = built("test_resnet")
    features = model.forward_features(images).detach().requires_grad_()
    expected = by_hand(model.forward_head(features), features, (2, 3), 1)
    torch.testing.assert_close(grad_cam(model, images, torch.tensor([1, 1])), expected)


def test_channels_last() -> None:
    model, images = built("swin_tiny_patch4_window7_224", 96)
    features = model.layers(model.patch_embed(images)).detach().requires_grad_()
    assert features.shape == (2, 3, 3, 768)
    expected = by_hand(model.forward_head(model.norm(features)), features, (1, 2), 3)
    torch.testing.assert_close(grad_cam(model, images, torch.tensor([1, 1])), expected)


@pytest.mark.parametrize(
    ("backbone", "blocks"),
    [
        ("test_vit2", 8),  # all tokens are averaged: the features of its last block
        ("test_vit", 5),  # the class token alone is read: those before the last of its six blocks
    ],
)
def test_tokens(backbone: str, blocks: int) -> None:
    model, images = built(backbone, 96)
    before = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    tokens = model.blocks[:blocks](before).detach().requires_grad_()
    assert tokens.shape == (2, 1 + 6 * 6, 64)
    logits = model.forward_head(model.norm(model.blocks[blocks:](tokens)))
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), tokens)
    weights = gradient[:, 1:].mean(1, keepdim=True)
    expected = (weights * tokens.detach()[:, 1:]).sum(2).clamp_min(0).view(2, 6, 6)  # row by row, from the top left
    torch.testing.assert_close(grad_cam(model, images, torch.tensor([1, 1])), expected)


class NoFeatures(nn.Module):
    """Only the cell of 8 x 8 pixels at the bottom left matters; timm would know nothing of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        brightness = images[:, :, 24:, :8].mean((1, 2, 3))
        return torch.stack([-brightness, brightness], dim=1)


def test_without_features_the_gradient_of_the_input() -> None:
    images = torch.rand(1, 3, 32, 32)
    assert grad_cam(NoFeatures(), images, FAKE) is None
    cells = input_gradient(NoFeatures(), images, FAKE)
    assert cells.shape == (1, SALIENCY_GRID, SALIENCY_GRID)
    found = heatmaps(NoFeatures(), images, FAKE)[0]
    assert found[31, 0] == 1
    assert not found[:21].any()
    assert not found[:, 11:].any()


LONGEST = 160


@pytest.mark.parametrize(
    ("size", "expected"),
    [((300, 600), (80, 160)), ((601, 300), (160, 80)), ((90, 40), (90, 40)), ((2000, 3), (160, 1))],
)
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 7, np.uint8)
    small = shrink(picture, LONGEST)
    assert small.shape == (*expected, 3)
    assert max(small.shape) <= LONGEST
    assert (small == 7).all()


def corner() -> np.ndarray:
    """(4, 4): evidence at the top left."""
    evidence = np.zeros((4, 4), np.float32)
    evidence[0, 0] = 1
    return evidence


def test_a_window_is_placed_where_the_model_saw_it() -> None:
    out = place_heatmap(corner(), 4, 8, 10)  # rows 2 to 5 and columns 3 to 6
    assert out.dtype == np.float32
    assert np.argwhere(out).tolist() == [[2, 3]]
    assert out[2, 3] == 1


def test_the_middle_square_is_placed_over_the_picture() -> None:
    assert np.argwhere(place_heatmap(corner(), 8.2, 8, 12) > 0.5).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_what_reaches_beyond_the_picture_is_cut() -> None:
    evidence = np.zeros((6, 6), np.float32)
    evidence[1, 2] = 1
    assert np.argwhere(place_heatmap(evidence, 6, 4, 4)).tolist() == [[0, 1]]
    assert np.argwhere(place_heatmap(evidence, 6, 4, 8)).tolist() == [[0, 3]]
    assert not place_heatmap(corner(), 6, 1, 1).any()


def test_colour_is_where_the_heatmap_is() -> None:
    picture = np.full((1, 3, 3), (200, 100, 0), np.uint8)
    over = overlay_heatmap(picture, np.array([[0, 0.5, 1]], np.float32)).astype(int)
    assert over[0, 0].tolist() == [119, 119, 119]  # 0.299 * 200 + 0.587 * 100: grey where there is none
    bright = cv2.applyColorMap(np.array([[255]], np.uint8), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
    assert over[0, 2].tolist() == np.round(0.3 * 119 + 0.7 * bright).astype(int).tolist()
    assert (over[0, 1] != over[0, 0]).any()


def test_a_jpeg_is_read_back() -> None:
    picture = np.full((16, 24, 3), (200, 100, 0), np.uint8)
    read = cv2.imdecode(np.frombuffer(encode_jpeg(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert read.shape == (16, 24, 3)
    assert np.abs(read.astype(int) - picture).max() <= 4
