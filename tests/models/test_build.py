"""build_model(): the right outputs, sizes, weights; errors that say what to do.

A head on all stages: pooled by hand, of every family of backbones, and as a timm model to whoever asks.
"""

import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from rfray.errors import TrialError
from rfray.models.build import (
    STAGES,
    MultiscaleModel,
    Normalisation,
    backbone_names,
    build_model,
    check_weights,
    pooled,
)
from rfray.models.grad_cam import grad_cam
from rfray.spec.trial import Trial
from rfray.training.learner import make_optimizer


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet", "lcnet_050"])
@pytest.mark.parametrize("side", [32, 96])
def test_two_outputs_at_any_size(backbone: str, side: int) -> None:
    model, _ = build_model(Trial(backbone=backbone, pretrained=False, image_size=side))
    assert model.eval()(torch.zeros(2, 3, side, side)).shape == (2, 2)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv3_small_050"])
def test_the_first_loss_is_about_that_of_a_coin(backbone: str) -> None:
    torch.manual_seed(0)
    model, _ = build_model(Trial(backbone=backbone, pretrained=False, image_size=64))
    logits = model(torch.randn(16, 3, 64, 64))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(16) % 2)
    assert float(loss) == pytest.approx(0.693, abs=0.05)


def test_the_normalisation_is_the_backbones_own() -> None:
    _, resnet = build_model(Trial(backbone="test_resnet", pretrained=False))
    _, lcnet = build_model(Trial(backbone="lcnet_050", pretrained=False))
    assert resnet == Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert lcnet == Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_normalisation_by_hand() -> None:
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    normalised = Normalisation((0.5, 0.5, 0.1), (0.5, 0.25, 0.1))(images)
    assert normalised.flatten().tolist() == pytest.approx([-1.0, 2.0, 1.0], abs=1e-6)


def test_drop_rates_reach_the_model() -> None:
    model, _ = build_model(Trial(backbone="test_resnet", pretrained=False, drop_rate=0.3, drop_path=0.2))
    assert model.drop_rate == 0.3
    assert any(getattr(part, "drop_prob", 0) for part in model.modules())


def weights_of(backbone: str, folder: Path, classes: int = 1000) -> Path:
    torch.manual_seed(1)
    path = folder / f"{backbone}.safetensors"
    save_file(timm.create_model(backbone, num_classes=classes).state_dict(), path)
    return path


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_weights_from_a_file_are_loaded_but_for_the_classifier(backbone: str, tmp_path: Path) -> None:
    path = weights_of(backbone, tmp_path)
    check_weights(backbone, str(path))
    model, _ = build_model(Trial(backbone=backbone, pretrained=str(path), image_size=160))
    torch.manual_seed(1)
    original = timm.create_model(backbone, num_classes=1000).state_dict()
    loaded = model.state_dict()
    classifier = model.pretrained_cfg["classifier"]
    assert all(torch.equal(loaded[name], original[name]) for name in loaded if not name.startswith(classifier))
    assert loaded[f"{classifier}.weight"].shape[0] == 2


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    path = weights_of("test_efficientnet", tmp_path)
    with pytest.raises(TrialError, match=r"test_efficientnet\.safetensors does not fit test_resnet"):
        check_weights("test_resnet", str(path))


def test_weights_with_other_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"somewhere.else": torch.zeros(3)}, path)
    with pytest.raises(TrialError, match=r"does not fit test_resnet: \d+ of its \d+ tensors .*1 of the file's \(some"):
        check_weights("test_resnet", str(path))


@pytest.mark.parametrize(
    ("giver", "taker", "said"),
    [
        (
            "resnet18",
            "resnet34",
            r"80 of its 182 tensors are not in the file \(layer1.2.conv1.weight, .* and 77 more\)",
        ),
        ("resnet34", "resnet18", r"no place for 80 of the file's \(layer1.2.bn1.bias, .* and 77 more\)"),
        ("mobilenetv3_small_075", "mobilenetv3_small_100", r"size mismatch for conv_stem|size mismatch for blocks"),
    ],
)
def test_weights_of_a_relative_are_refused(giver: str, taker: str, said: str, tmp_path: Path) -> None:
    path = weights_of(giver, tmp_path)
    with pytest.raises(TrialError, match=f"{giver}.safetensors does not fit {taker}: .*{said}"):
        check_weights(taker, str(path))


@pytest.mark.parametrize("head", ["random", "probe"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv1.6.weight", None, "1 of its .* not in the file (conv1.6.weight)"),
        ("conv1.1.running_mean", None, "1 of its .* not in the file (conv1.1.running_mean)"),
        ("conv1.1.running_var", float("nan"), "no finite numbers (NaN, infinity) in conv1.1.running_var"),
        ("conv1.0.weight", float("inf"), "no finite numbers (NaN, infinity) in conv1.0.weight"),
    ],
)
def test_one_tensor_of_a_file_that_is_missing_or_broken_is_named(
    name: str, value: float | None, said: str, head: str, tmp_path: Path
) -> None:
    tensors = load_file(weights_of("test_resnet", tmp_path))
    tensors.pop(name) if value is None else tensors[name].view(-1)[-1:].fill_(value)
    save_file(tensors, path := tmp_path / "edited.safetensors")
    with pytest.raises(TrialError, match=re.escape(said).replace(r"\.\*", ".*")):
        build_model(Trial(backbone="test_resnet", pretrained=str(path), head=head))


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64])
def test_a_file_without_fractions_is_refused(kind: torch.dtype, tmp_path: Path) -> None:
    tensors = load_file(weights_of("test_resnet", tmp_path))
    torch.save({name: tensor.to(kind) for name, tensor in tensors.items()}, path := tmp_path / "quantised.pth")
    with pytest.raises(TrialError, match=r"no floating-point numbers in 75 \(bn1.bias, .*\), as if quantised"):
        build_model(Trial(backbone="test_resnet", pretrained=str(path)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_of_another_precision_fits(kind: torch.dtype, tmp_path: Path) -> None:
    tensors = load_file(weights_of("test_resnet", tmp_path))
    torch.save({name: tensor.to(kind) for name, tensor in tensors.items()}, path := tmp_path / "other.pth")
    model, _ = build_model(Trial(backbone="test_resnet", pretrained=str(path)))
    assert torch.equal(model.state_dict()["bn1.weight"], tensors["bn1.weight"].to(kind).float())


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3)])
def test_a_file_of_something_else_is_no_file_of_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, path := tmp_path / "else.pth")
    with pytest.raises(TrialError, match=r"else\.pth is no file of weights \(AttributeError: "):
        build_model(Trial(backbone="test_resnet", pretrained=str(path)))


def test_only_the_classifier_and_counters_of_batches_may_be_missing(tmp_path: Path) -> None:
    tensors = load_file(weights_of("test_efficientnet", tmp_path, classes=7))
    less = {k: v for k, v in tensors.items() if not k.startswith("classifier.") and "num_batches" not in k}
    for number, one in enumerate((tensors, less)):
        save_file(one, path := tmp_path / f"{number}.safetensors")
        for head in ("random", "probe"):
            build_model(Trial(backbone="test_efficientnet", pretrained=str(path), head=head))


SMALL_OF_FAMILIES = [
    "levit_128s",  # a norm, and a second classifier, go with the classifier
    "efficientvit_m0",
    "repvit_m0_9",
    "shvit_s1",
    "deit_tiny_distilled_patch16_224",  # two classifiers
    "test_convnext",  # a norm in the head that stays
    "test_vit4",
    "mobilevit_xxs",
    "ghostnet_050",
    "lambda_resnet26t",  # convolutions over three dimensions
]


@pytest.mark.parametrize("backbone", SMALL_OF_FAMILIES)
def test_a_file_of_each_family_fits_with_any_classifier_or_none(backbone: str, tmp_path: Path) -> None:
    cfg = timm.models.get_pretrained_cfg(backbone)
    for classes in (1000, 0):
        path = weights_of(backbone, tmp_path, classes)
        model, _ = build_model(Trial(backbone=backbone, pretrained=str(path), image_size=cfg.input_size[-1]))
        original, loaded = load_file(path), model.state_dict()
        kept = timm.create_model(backbone, num_classes=0).state_dict().keys()
        assert [name for name in kept if not torch.equal(loaded[name], original[name])] == []


def test_what_a_model_makes_itself_may_be_in_a_file(tmp_path: Path) -> None:
    """Older files of timm have the masks and indices of windows, which are no weights."""
    model = timm.create_model("maxvit_pico_rw_256", num_classes=3)
    tensors = model.state_dict()
    made = {name: one.contiguous() for name, one in model.named_buffers() if name not in tensors}
    assert made
    save_file({**tensors, **made}, path := tmp_path / "w.safetensors")
    build_model(Trial(backbone="maxvit_pico_rw_256", pretrained=str(path), image_size=256))


def test_an_encoder_without_a_classifier_is_refused() -> None:
    with torch.device("meta"), pytest.raises(TrialError, match="mobilenetv5_300m_enc is an encoder without a class"):
        build_model(Trial(backbone="mobilenetv5_300m_enc", pretrained=False))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"gone\.safetensors: no such file"):
        check_weights("test_resnet", str(tmp_path / "gone.safetensors"))


def test_weights_of_the_hub_are_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The true path of `pretrained: true`, with the hub's own cache laid out by hand."""
    import huggingface_hub.constants

    revision = "0" * 40
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    shutil.copy(weights_of("test_resnet", tmp_path), snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_weights("test_resnet", True)
    model, _ = build_model(Trial(backbone="test_resnet", pretrained=True))
    torch.manual_seed(1)
    original = timm.create_model("test_resnet", num_classes=1000)
    assert torch.equal(model.conv1[0].weight, original.conv1[0].weight)


def test_a_hub_out_of_reach_names_backbone_cause_and_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        TrialError, match=r"(?s)test_resnet.*offline.*pretrained: weights.safetensors.*pretrained: false"
    ):
        check_weights("test_resnet", True)


def test_a_backbone_without_pretrained_weights_is_an_error() -> None:
    with pytest.raises(TrialError, match="timm has none"):
        check_weights("resnet200", True)


def test_an_option_that_the_backbone_does_not_take_is_named() -> None:
    with pytest.raises(TrialError, match=r"vgg11 does not take one of .*drop_path_rate"):
        build_model(Trial(backbone="vgg11", pretrained=False, drop_path=0.1))


def test_names_with_and_without_a_tag() -> None:
    assert {"resnet50", "resnet50.a1_in1k"} <= set(backbone_names())


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
