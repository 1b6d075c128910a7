"""A head on all stages: pooled by hand, of every family of backbones, and as a timm model to whoever asks."""

import pytest
import timm
import torch

from rfray.models.build import STAGES, MultiscaleModel, build_model, pooled
from rfray.models.grad_cam import grad_cam
from rfray.spec.trial import Trial
from rfray.training.learner import make_optimizer


def test_pooled_by_hand() -> None:
    stage = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]]])  # (1, 2, 2, 2)
    found = pooled(stage)[0].tolist()
    assert found == pytest.approx([4, 2, 7, 2, 5**0.5, 0])  # means, maxima, then sqrt((9 + 1 + 1 + 9) / 4) and 0


def test_a_stage_of_one_place_has_no_spread() -> None:
    assert pooled(torch.full((1, 1, 1, 1), 3.0)).tolist() == [[3, 3, 0]]


def staged(backbone: str, side: int = 64, **setting: object) -> MultiscaleModel:
    torch.manual_seed(0)
    model, _ = build_model(Trial(backbone=backbone, pretrained=False, image_size=side, head="probe", **setting))
    assert isinstance(model, MultiscaleModel)
    return model


@pytest.mark.parametrize("backbone", [*timm.list_models("test_*"), "lcnet_050"])
def test_every_family_has_stages(backbone: str) -> None:
    model = staged(backbone)
    assert 3 <= len(model.stages) <= STAGES
    images = torch.randn(2, 3, 64, 64)
    features = model.eval().features(images)
    assert features.shape == (2, model.head.linear.in_features)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])
    assert model(images).tolist() == [[0, 0], [0, 0]]  # the head knows nothing yet


def test_the_last_stage_is_among_them() -> None:
    assert staged("test_vit").stages == [0, 1, 2, 3, 5]  # of six blocks


def test_building_it_draws_no_random_number_and_moves_no_statistic() -> None:
    model = staged("test_resnet")
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=0)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.backbone.state_dict()[name]), name
    assert model.backbone.training


def test_layers_learn_more_slowly_further_down() -> None:
    model = staged("test_vit", layer_decay=0.5)
    trial = Trial(backbone="test_vit", head="probe", layer_decay=0.5)
    groups = make_optimizer(trial, model).param_groups
    covered = {id(parameter) for group in groups for parameter in group["params"]}
    assert covered == {id(parameter) for parameter in model.parameters()}
    scales = {id(parameter): group.get("lr_scale", 1) for group in groups for parameter in group["params"]}
    assert scales[id(model.head.linear.weight)] == 1
    assert scales[id(model.backbone.blocks[0].attn.qkv.weight)] < scales[id(model.backbone.blocks[5].attn.qkv.weight)]


def test_what_a_backbone_does_not_decay_does_not_decay() -> None:
    model = staged("test_vit")
    assert "backbone.cls_token" in model.no_weight_decay()
    groups = make_optimizer(Trial(backbone="test_vit", head="probe"), model).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays[id(model.backbone.cls_token)] == 0
    assert decays[id(model.head.linear.weight)] > 0


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_it_can_be_explained(backbone: str) -> None:
    model = staged(backbone)
    torch.nn.init.normal_(model.head.linear.weight)
    found = grad_cam(model.eval(), torch.randn(1, 3, 64, 64), torch.tensor([1]))
    assert found is not None
    assert found.isfinite().all()
