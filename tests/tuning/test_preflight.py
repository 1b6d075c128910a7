"""check_sweep(): what can't work is refused before anything starts, with its line."""

import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
from safetensors.torch import save_file

from rfray.data.augment import TRANSFORMS
from rfray.errors import SweepError
from rfray.spec.checks import check_file, unused_settings
from rfray.spec.names import ELSEWHERE, PATCHES, REGISTERED, SIZES, instead, is_known, successor, transforms
from rfray.spec.sweep_file import SweepFile, load_sweep
from rfray.spec.trial import Trial
from rfray.tuning.preflight import check_models, check_sweep, registered_names
from rfray.tuning.strategies import SCHEDULERS, SEARCHERS

SWEEP = """\
name: small
data:
  source: demo
trial:
  backbone: [test_resnet, test_vit]
  pretrained: false
  image_size: 32
  lr: [1e-3, 1e-4]
  epochs: 2
search:
  algorithm: random
  trials: 2
"""


def check(text: str, folder: Path) -> None:
    path = folder / "sweep.yaml"
    path.write_text(text)
    check_sweep(load_sweep(path))


def sweep_file(folder: Path, trial: str, search: str = "{trials: 4}") -> SweepFile:
    path = folder / "sweep.yaml"
    path.write_text(
        f"name: a\ndata: {{train: x, test: y}}\ntrial:\n  pretrained: false\n  {trial}\nsearch: {search}\n"
        "ensemble: {top_k: 1}\n"
    )
    return load_sweep(path)


def refusal(text: str, folder: Path) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(SweepError) as refused:
        check(text, folder)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def with_policy(*entries: str) -> str:
    """SWEEP with an own policy; its first transform is line 15."""
    return SWEEP + "augmentations:\n  mine:\n" + "".join(f"    - {entry}\n" for entry in entries)


BROKEN: dict[str, tuple[str, list[str]]] = {
    # names, the nearest first
    "backbone": (
        SWEEP.replace("[test_resnet,", "[test_resnt,"),
        ['5: trial.backbone[0]: given "test_resnt"; allowed: test_resnet, […] in all); nearest: test_resnet'],
    ),
    "policy": (
        SWEEP.replace("  lr:", "  augmentation: ligth\n  lr:"),
        ['8: trial.augmentation: given "ligth"; allowed: light, none, strong, compression; nearest: light'],
    ),
    "own policy": (
        with_policy("ToGray: {p: 0.5}").replace("  lr:", "  augmentation: min\n  lr:"),
        ['8: trial.augmentation: given "min"; allowed: mine, none, light, strong, compression; nearest: mine'],
    ),
    "optimizer": (
        SWEEP.replace("  lr:", "  optimizer: adamm\n  lr:"),
        ['8: trial.optimizer: given "adamm"; allowed: adam, […] in all); nearest: adam'],
    ),
    "schedule": (
        SWEEP.replace("  lr:", "  schedule: [step, cosin]\n  lr:"),
        ['8: trial.schedule[1]: given "cosin"; allowed: cosine, poly, tanh, step, constant; nearest: cosine'],
    ),
    "algorithm, scheduler and metric": (
        SWEEP.replace("random", "optna\n  scheduler: ahsa\n  metric: acuracy"),
        [
            '11: search.algorithm: given "optna"; allowed: optuna, grid, random; nearest: optuna',
            '12: search.scheduler: given "ahsa"; allowed: asha, none, median; nearest: asha',
            '13: search.metric: given "acuracy"; allowed: accuracy, […]; nearest: accuracy',
        ],
    ),
    # policies
    "unknown transform": (
        with_policy("ToGray: {p: 0.5}", "HorizontalFlop: {p: 0.5}"),
        ["16: augmentations.mine[1]: […]HorizontalFlop[…]allowed: HorizontalFlip, […]; nearest: HorizontalFlip"],
    ),
    "unknown argument": (
        with_policy("ToGray: {p: 0.5}", "ImageCompression: {quality: [40, 95]}"),
        ["16: augmentations.mine[1]: ImageCompression[…]quality[…]quality_range[…]"],
    ),
    "impossible argument": (
        with_policy("HorizontalFlip: {p: 1.5}"),
        ["15: augmentations.mine[0]: HorizontalFlip: p: given 1.5; allowed: less than or equal to 1"],
    ),
    "floats": (
        with_policy("ToGray: {p: 0.5}", "Normalize:"),
        ["16: augmentations.mine[1]: mine: a uint8 image with 3 channels is turned into float32 […]Normalize[…]"],
    ),
    "too large for the images": (
        with_policy("RandomCrop: {height: 33, width: 33}"),
        ["15: augmentations.mine[0]: mine fails on an image of 32 px: […]"],
    ),
    "two policies": (
        with_policy("HorizontalFlop: {}") + "  other:\n    - HorizontalFlip: {p: 4}\n",
        [
            "15: augmentations.mine[0]: […]HorizontalFlop[…]",
            "17: augmentations.other[0]: HorizontalFlip: p: given 4; allowed: less than or equal to 1",
        ],
    ),
    # combinations
    "a batch too small to share": (
        SWEEP.replace("  epochs", "  batch_size: [2, 64]\n  epochs") + "resources: {gpu: 4}\n",
        ["9: trial.batch_size[0]: given 2; allowed: at least 4: 4 workers share every batch (resources)"],
    ),
    "a batch too small to share in pairs": (
        SWEEP.replace("  epochs", "  mixup: 0.2\n  batch_size: {int: [6, 9]}\n  epochs") + "resources: {workers: 4}\n",
        [
            '10: trial.batch_size: given {"int": [6.0, 9.0]}; allowed: at least 8: 4 workers share every batch '
            "(resources), two each as mixup and cutmix mix pairs"
        ],
    ),
    "grid with a range": (
        SWEEP.replace("random", "grid").replace("[1e-3, 1e-4]", "{log: [1e-4, 1e-3]}"),
        [
            '8: trial.lr: given {"log": [0.0001, 0.001]}; allowed: a list of values, as a range has no end '
            "for search.algorithm grid; or use random or optuna"
        ],
    ),
    "grid with too few trials": (
        SWEEP.replace("random", "grid"),
        ["12: search.trials: given 2; allowed: at least 4, the settings of the grid; or leave it out, or use random"],
    ),
    "random without trials": (
        SWEEP.replace("  trials: 2\n", ""),
        [
            "10: search.trials: given nothing; allowed: how many (or search.budget); random does not know by itself "
            "when it is done"
        ],
    ),
    "nothing under search": (
        SWEEP[: SWEEP.index("search:")],
        [
            "1: search.trials: given nothing; allowed: how many (or search.budget); random does not know by itself "
            "when it is done"
        ],
    ),
    "schedulers of 0.1": (
        SWEEP.replace("random", "random\n  scheduler: hyperband"),
        ['12: search.scheduler: given "hyperband"; allowed: asha with search.brackets (2 or more), […]'],
    ),
    "population-based training": (
        SWEEP.replace("random", "random\n  scheduler: pbt"),
        ['12: search.scheduler: given "pbt"; allowed: none, asha or median. […] has no successor: […]'],
    ),
    "brackets without asha": (
        SWEEP.replace("random", "random\n  brackets: 2"),
        ["12: search.brackets: given 2; allowed: 1; or more with search.scheduler asha"],
    ),
    "more brackets than epochs": (
        SWEEP.replace("random", "random\n  scheduler: asha\n  brackets: 2"),
        ["13: search.brackets: given 2; allowed: fewer, as trials […] first be compared after 3 of 2 epochs"],
    ),
    "more grace than epochs": (
        SWEEP.replace("random", "random\n  scheduler: asha\n  grace_epochs: 3"),
        ["13: search.grace_epochs: given 3; allowed: at most trial.epochs (2)"],
    ),
    "a policy and a combination": (
        with_policy("HorizontalFlip: {p: 1.5}").replace("random", "grid"),
        ["15: augmentations.mine[0]: […]", "12: search.trials: given 2; allowed: at least 4, […]"],
    ),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_can_not_work_is_refused_with_its_line(text: str, expected: list[str], tmp_path: Path) -> None:
    lines = refusal(text, tmp_path)
    assert len(lines) == len(expected), lines
    for line, wanted in zip(lines, expected, strict=True):
        pattern = re.escape(f"sweep.yaml:{wanted}").replace(re.escape("[…]"), ".*")
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("algorithm", SEARCHERS)
def test_every_pair_passes(algorithm: str, scheduler: str, tmp_path: Path) -> None:
    text = SWEEP.replace("random\n  trials: 2", f"{algorithm}\n  scheduler: {scheduler}\n  trials: 4")
    check(text, tmp_path)


def test_every_name_that_is_offered_is_a_name_that_is_taken(tmp_path: Path) -> None:
    names = registered_names()
    for key in ("augmentation", "optimizer", "schedule"):
        check(SWEEP.replace("  lr:", f"  {key}: [{', '.join(names[key])}]\n  lr:"), tmp_path)
    for name in names["metric"]:
        check(SWEEP.replace("trials: 2", f"trials: 2\n  metric: {name}"), tmp_path)
    assert set(names) <= set(Trial.model_fields) | {"algorithm", "scheduler", "metric"}


def test_a_policy_is_judged_as_a_whole(tmp_path: Path) -> None:
    check(with_policy("ToFloat:", "RandomGamma: {p: 1}", "FromFloat: {dtype: uint8}"), tmp_path)


# weights


@pytest.fixture
def vit_weights(tmp_path: Path) -> Path:
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return path


def with_weights(written: str) -> str:
    return SWEEP.replace("pretrained: false", f"pretrained: {written}")


def test_weights_that_fit_pass(vit_weights: Path, tmp_path: Path) -> None:
    check(with_weights(f"[false, {{test_vit: {vit_weights}}}]"), tmp_path)


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("{file}", "6: trial.pretrained"),
        ("\n    - false\n    - {file}", "8: trial.pretrained[1]"),
        ("\n    test_vit: {file}\n    test_resnet: {file}", "8: trial.pretrained.test_resnet"),
    ],
)
def test_weights_of_another_backbone_are_refused(written: str, place: str, vit_weights: Path, tmp_path: Path) -> None:
    (line,) = refusal(with_weights(written.replace("{file}", str(vit_weights))), tmp_path)
    assert line.startswith(f"sweep.yaml:{place}: vit.safetensors does not fit test_resnet: ")


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    (line,) = refusal(with_weights(f"{tmp_path}/gone.safetensors"), tmp_path)
    assert line == "sweep.yaml:6: trial.pretrained: gone.safetensors: no such file"


@pytest.mark.parametrize("name", ["n" * 300, "n/" * 3000, "a\\0b"])
def test_a_name_that_no_file_can_have_is_named_with_its_key(name: str, tmp_path: Path) -> None:
    (line,) = refusal(with_weights(f'"{name}"'), tmp_path)
    assert line.startswith("sweep.yaml:6: trial.pretrained: ")
    assert line.endswith(": no such file")


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.bin", "junk.npz"])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"junk")
    lines = refusal(with_weights(f"{tmp_path}/{name}"), tmp_path)
    assert [line.split(" fit ")[1].split(":")[0] for line in lines] == ["test_resnet", "test_vit"]
    assert all(line.startswith(f"sweep.yaml:6: trial.pretrained: {name} does not fit ") for line in lines)


def test_a_hub_out_of_reach_names_backbone_cause_and_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lines = refusal(with_weights("\n    test_vit: true"), tmp_path)
    assert len(lines) == 1
    for part in ("sweep.yaml:7: trial.pretrained.test_vit: ", "offline", "(pretrained: weights.safetensors)"):
        assert part in lines[0]
    assert lines[0].endswith("train from scratch (pretrained: false)")


# models


def test_every_backbone_takes_a_step_at_every_size(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "backbone: [test_resnet, test_vit]\n  image_size: [32, 96]")
    parameters, seconds = check_models(file)
    assert 0 < seconds < 60  # an image, by the smaller of them
    assert list(parameters) == ["test_resnet", "test_vit"]
    assert 100_000 < parameters["test_vit"] < 1_000_000


def test_a_size_that_a_backbone_refuses_is_named(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "backbone: [test_resnet, densenet121]\n  image_size: {int: [16, 32]}")
    problem = r"sweep.yaml:5: trial.backbone\[1\]: densenet121 can't take a step at 16 px: \w+"
    with pytest.raises(SweepError, match=problem):
        check_models(file)


def test_what_comes_to_nothing_is_said(tmp_path: Path) -> None:
    file = load_with(tmp_path, with_policy("ToGray: {p: 0.5}").replace("  trials: 2", "  trials: 2\n  grace_epochs: 2"))
    assert [line.partition("sweep.yaml:")[2] for line in unused_settings(file)] == [
        "15: augmentations.mine: no trial uses this policy (trial.augmentation: light)",
        "13: search.grace_epochs: has no effect, as search.scheduler is none",
    ]
    assert list(unused_settings(load_with(tmp_path, SWEEP.replace("random", "random\n  scheduler: asha")))) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trial.patience=2", "as no trial has more than 2 epochs (trial.epochs)"),
        ("trial.patience=[0, 1]", "as no trial has more than 2 epochs (trial.epochs)"),
        ("ensemble.top_k=4", "as there are only 2 trials"),
        ("ensemble.diverse=5", "as ensemble.top_k is 5"),
        ("ensemble={top_k: 1, leave_out_worse: true}", "as ensemble.top_k is 1"),
        ("ensemble={methods: [weighted], leave_out_worse: true}", "as weighted chooses itself"),
        ("search={trials: 2, finalists: 3, seeds: 2}", "as there are only 2 trials"),
        ("search={trials: 2, probe: true, probe_keep: 2}", "as the sweep has 2 backbones"),
        ("data={train: /a, val: /b, test: /c, split_by: group}", "as val and test are folders of their own"),
        ("data={train: /a, test: 0.2, test_duplicates: keep}", "as test is a share of the training images"),
        ("search.trials=9", "given 9, but there are only 4 settings to try"),
        ("search={trials: 2, scheduler: median, grace_epochs: 2}", "as no trial has more than 2 epochs (trial.epochs)"),
        ("trial={backbone: test_vit, lr: [1e-3, 1e-4], epochs: 1, swa: auto}", "and so a mean of its weights"),
    ],
)
def test_each_key_that_comes_to_nothing_is_said(override: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (line,) = unused_settings(load_sweep(tmp_path / "sweep.yaml", (override,)))
    assert line.endswith(said)


def test_what_has_an_effect_is_not_said(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    given = ("trial.epochs=4", "trial.patience=2", "ensemble={top_k: 2, diverse: 1, leave_out_worse: true}")
    given += ("search={trials: 3, finalists: 2, seeds: 2, probe: true, probe_keep: 1}",)
    assert list(unused_settings(load_sweep(tmp_path / "sweep.yaml", given))) == []


def load_with(folder: Path, text: str) -> SweepFile:
    (folder / "sweep.yaml").write_text(text)
    return load_sweep(folder / "sweep.yaml")


# names are known before timm and Ray are imported


def test_the_names_that_are_known_early_are_those_that_are_registered() -> None:
    registered = registered_names()
    assert {key: set(registered[key]) for key in REGISTERED} == {key: set(names) for key, names in REGISTERED.items()}
    for key, names in registered.items():
        assert [name for name in names if not is_known(key, name)] == []
    assert not is_known("backbone", "resnet5")
    assert not is_known("backbone", "resnet18.a2_in3k_of_mine")
    assert not is_known("optimizer", "adamm")
    assert not is_known("optimizer", "AdamW")


def test_every_older_name_of_timm_leads_to_the_one_now() -> None:
    older = timm.models.get_deprecated_models()
    assert len(older) > 200
    assert [name for name, now in older.items() if now and successor(name) != now] == []
    assert [name for name in older if is_known("backbone", name)] == []
    for written in ("timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"):
        assert successor(written) == "resnet18.a1_in1k"
    assert successor("resnet18") is successor("hf_hub:somebody/model") is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ResNet50", "resnet50"),
        ("resnet-50", "resnet50"),
        ("microsoft/resnet-50", "resnet50"),
        ("Xception", "legacy_xception"),
        ("EfficientNetB0", "efficientnet_b0"),
        ("efficientnet_v2_s", "efficientnetv2_s"),
        ("vit-b/16", "vit_base_patch16_224"),
        ("ViT_L_14", "vit_large_patch14_224"),
        ("swin_v2_t", "swinv2_tiny_window8_256"),
        ("mobilenet_v3_large", "mobilenetv3_large_100"),
        ("regnet_y_1_6gf", "regnety_016"),
        ("regnet_y_16gf", "regnety_160"),
        ("ResNet101V2", "resnetv2_101"),
        ("resnet50.A1_in1k", "resnet50.a1_in1k"),
    ],
)
def test_names_of_papers_torchvision_keras_and_hubs_lead_to_timms(written: str, meant: str) -> None:
    assert successor(written) == meant
    assert timm.is_model(meant)


def test_every_name_of_another_program_is_of_a_model_or_of_none() -> None:
    assert {now for now in ELSEWHERE.values() if not timm.is_model(now)} < {
        f"vit_{size}_patch{patch}_224" for size in SIZES for patch in PATCHES
    } | {"swin_huge_patch4_window7_224", *(f"swinv2_{size}_window8_256" for size in SIZES)}


@pytest.mark.parametrize(
    ("key", "name", "allowed"),
    [
        ("backbone", "hf-hub:somebody/model", "a model of timm, by its name alone; weights from elsewhere are a file"),
        ("backbone", "resnet50.a1", "resnet50.a1_in1k, "),
        ("algorithm", "TPE", "optuna"),
        ("metric", "AUROC", "auc"),
        ("schedule", "cosine_annealing", "cosine"),
        ("scheduler", "hyperband", "asha with search.brackets"),
    ],
)
def test_what_is_allowed_in_the_place_of_a_name(key: str, name: str, allowed: str) -> None:
    assert (instead(key, name) or "").startswith(allowed)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("search.trials=null", "search.trials: given nothing; allowed: how many (or search.budget)"),
        ("search={algorithm: grid, trials: 1}", "search.trials: given 1; allowed: at least 4"),
        ("trial.batch_size=1", "trial.batch_size: given 1; allowed: at least 2: 2 workers share every batch"),
        ("augmentations.mine=[{HorizontalFlop: null}]", "augmentations.mine[0]: albumentations has no transform"),
        ("augmentations.mine=[{OneOf: {transforms: [{Blurr: {}}]}}]", "nearest: Blur"),
        ("trial.backbone='resnet18, resnet50'", 'given "resnet18, resnet50"; allowed: [resnet18, resnet50]'),
        ("trial.backbone=yolov8n", "(trial.pretrained); for example resnet50, convnext_tiny"),
    ],
)
def test_what_can_not_work_is_said_before_torch_and_ray_are_there(given: str, said: str, tmp_path: Path) -> None:
    load_with(tmp_path, SWEEP)
    with pytest.raises(SweepError, match=re.escape(said)):
        check_file(load_sweep(tmp_path / "sweep.yaml", (given, "resources.workers=2")))


def test_folders_that_are_not_there_are_said_with_their_key_before_pandas_is_there(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "backbone: test_resnet")
    check_file(file)  # they may be on a cluster
    with pytest.raises(SweepError, match=r"^\S+sweep.yaml:2: data.train: \S+/x: no such folder$"):
        check_file(file, folders=True)
    (tmp_path / "x").mkdir()
    check_file(load_sweep(tmp_path / "sweep.yaml", (f"data.train={tmp_path}/x",)), folders=True)


def test_every_transform_that_a_policy_may_have_is_known_early() -> None:
    assert set(TRANSFORMS) <= set(transforms())


@pytest.mark.parametrize("check", [check_sweep, check_file])
def test_the_name_at_fault_is_blamed_early_and_late(tmp_path: Path, check: Callable[[SweepFile], None]) -> None:
    text = SWEEP.replace("[test_resnet, test_vit]", "xception").replace("false", "{test_vit: false}")
    with pytest.raises(
        SweepError, match=r"sweep.yaml:5: trial.backbone: given \"xception\"; allowed: legacy_xception$"
    ):
        check(load_with(tmp_path, text))
    with pytest.raises(SweepError, match=r'search.scheduler: given "pbt"; allowed: none, asha or median'):
        check(load_with(tmp_path, SWEEP.replace("random", "random\n  scheduler: pbt")))
    check(load_with(tmp_path, with_policy("ToGray: {p: 0.5}").replace("  lr:", "  augmentation: mine\n  lr:")))


def test_weights_that_are_not_there_are_said_early(tmp_path: Path) -> None:
    file = load_with(tmp_path, SWEEP.replace("false", "[false, {test_vit: /no/such.pth}]"))
    with pytest.raises(SweepError, match=r"trial.pretrained\[1\].test_vit: /no/such.pth: no such file"):
        check_file(file)
