"""The sweep file: what may be written, what is made of it, and what is said where it breaks a rule."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from rfray.errors import RunError, SweepError
from rfray.spec.budget_defaults import A_TIME, read_budget
from rfray.spec.key_errors import SUCCESSORS, SYNONYMS, _keys
from rfray.spec.schema_base import Strict
from rfray.spec.sweep import DataSettings, EnsembleSettings, Resources, SearchSettings, Sweep
from rfray.spec.sweep_file import (
    differences,
    load_sweep,
    parse_sweep,
    read_resolved_sweep,
    resolved_text,
    set_later,
    sweep_of_folder,
    sweep_schema,
)
from rfray.spec.trial import Range, Trial, TrialAxes, epochs_of_a_pass

SWEEP = """\
name: small
seed: 7
data:
  source: demo
trial:
  backbone: [test_resnet, test_vit]
  pretrained: false
  lr: 1e-3
  epochs: 2
search:
  algorithm: random
  trials: 2
"""

RICH = """\
name: rich.2-x
seed: 3
data:
  train: /data/with a blank/and-a-name-so-long/that-a-line-of-yaml/would-be-folded somewhere/in the middle of it/train
  test: 0.2
  classes: {real: [photos, "0"], fake: "1e3"}
  split_by: group
trial:
  backbone: [test_resnet, test_vit]
  pretrained: [false, {test_vit: /weights/vit.safetensors}]
  augmentation: [light, "on", mine]
  lr: {log: [1e-5, 1e-3]}
  weight_decay: {uniform: [0, 0.1]}
  epochs: {int: [2, 9]}
  seed: 11
augmentations:
  "on":
    - HorizontalFlip:
  mine:
    - OneOf: {p: 0.5, transforms: [{ToGray: {p: 1}}, {CoarseDropout: {fill: null, hole_height_range: [0.1, 0.2]}}]}
search: {trials: 40, algorithm: optuna, scheduler: asha, keep: 9, concurrent: 2}
resources: {cpu: 2.5, gpu: auto}
ensemble: {top_k: 3}
"""

MAPPING = SWEEP.replace("pretrained: false", "pretrained: {test_resnet: true, test_vit: 'https://host/weights.bin'}")


def load(text: str, folder: Path, *overrides: str) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return load_sweep(path, overrides).sweep


def with_trial(line: str) -> str:
    """SWEEP with another line under `trial`, in place of the learning rate; it is line 8."""
    return SWEEP.replace("  lr: 1e-3\n", f"  {line}\n")


# what may be written

VALUES: dict[str, tuple[Any, Any]] = {
    "backbone": ("test_resnet", "test_vit"),
    "pretrained": (False, "/weights/vit.safetensors"),
    "head": ("probe", "random"),
    "augmentation": ("none", "strong"),
    "image_size": (32, 96),
    "resize": ("scale", "crop"),
    "lr": (1e-4, 1e-3),
    "weight_decay": (0.0, 0.1),
    "batch_size": (8, 16),
    "epochs": (1, 2),
    "epoch_images": (0, 40_000),
    "optimizer": ("sgd", "lion"),
    "schedule": ("step", "poly"),
    "warmup": (0.0, 0.1),
    "layer_decay": (0.5, 0.75),
    "drop_rate": (0.1, 0.2),
    "drop_path": (0.1, 0.2),
    "label_smoothing": (0.1, 0.2),
    "mixup": (0.1, 0.2),
    "cutmix": (0.1, 0.2),
    "ema": (0.9, 0.99),
    "swa": ("auto", "epochs"),
    "class_balance": ("weights", "sampling"),
    "clip_grad": (0.0, 2.0),
    "precision": ("fp32", "bf16"),
    "tta": ("auto", "flip"),
    "patience": (1, 2),
    "seed": (1, 2),
}
"""For each key of a trial two values, in rising order."""


def sweep_with(**trial: Any) -> Sweep:
    raw = {"name": "s", "data": {"source": "demo"}, "trial": {"backbone": "test_resnet", **trial}}
    return Sweep.model_validate(raw)


def test_every_key_of_a_trial_has_an_example() -> None:
    assert list(VALUES) == list(Trial.model_fields)


@pytest.mark.parametrize("key", Trial.model_fields)
def test_every_key_of_a_trial_may_be_an_axis(key: str) -> None:
    values = list(VALUES[key])
    axes = sweep_with(**{key: values}).trial
    assert axes.axes() == {key: values}
    assert [getattr(axes.trial({key: value}), key) for value in values] == values


@pytest.mark.parametrize("key", [key for key, (low, _) in VALUES.items() if type(low) in (int, float)])
def test_every_number_of_a_trial_may_be_a_range(key: str) -> None:
    low, high = VALUES[key]
    kind = "int" if isinstance(low, int) else "uniform"
    axes = sweep_with(**{key: {kind: [low, high]}}).trial.axes()
    assert (axes[key].kind, axes[key].bounds) == (kind, (low, high))


def test_a_value_alone_is_no_axis_and_the_defaults_are_a_trials(tmp_path: Path) -> None:
    trial = load(SWEEP.replace("[test_resnet, test_vit]", "test_resnet"), tmp_path).trial
    assert trial.axes() == {}
    assert trial.trial({}) == Trial(backbone="test_resnet", pretrained=False, lr=1e-3, epochs=2, seed=7)


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", "1.0e-4"])
def test_an_exponent_is_a_number(written: str, tmp_path: Path) -> None:
    assert load(with_trial(f"lr: {written}"), tmp_path).trial.choices("lr") == [0.0001]


@pytest.mark.parametrize("word", ["on", "off", "yes", "no"])
def test_words_of_older_yaml_are_text(word: str, tmp_path: Path) -> None:
    assert load(SWEEP.replace("name: small", f"name: {word}"), tmp_path).name == word


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    data = "  train: data/../train\n  test: /test\n  cache: {dir: ~/cache}\n"
    sweep = load(SWEEP.replace("  source: demo\n", data), tmp_path)
    assert (sweep.data.train, sweep.data.test, sweep.data.cache.dir) == (
        f"{tmp_path}/train",
        "/test",
        "/home/somebody/cache",
    )


@pytest.mark.parametrize(
    ("written", "absolute"),
    [
        ("w.bin", "{here}/w.bin"),
        ("[false, w.bin]", [False, "{here}/w.bin"]),
        ("{test_vit: w.bin, test_resnet: true}", {"test_vit": "{here}/w.bin", "test_resnet": True}),
        ("[true, {test_vit: w.bin}]", [True, {"test_vit": "{here}/w.bin"}]),
        ("https://host/w.bin", "https://host/w.bin"),
        ("~nobody-of-this-name/w.bin", "{here}/~nobody-of-this-name/w.bin"),
        ("true", True),
    ],
)
def test_paths_of_weights_become_absolute(
    written: str, absolute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trial = load(SWEEP.replace("pretrained: false", f"pretrained: {written}"), tmp_path).trial
    expected = json.loads(json.dumps(absolute).replace("{here}", str(tmp_path)))
    assert trial.pretrained == expected


def test_a_mapping_names_the_weights_of_each_backbone(tmp_path: Path) -> None:
    trial = load(RICH, tmp_path).trial
    named = trial.choices("pretrained")[1]
    values = {"lr": 1e-4, "weight_decay": 0.0, "epochs": 2, "augmentation": "light", "pretrained": named}
    assert trial.trial({**values, "backbone": "test_vit"}).pretrained == "/weights/vit.safetensors"
    assert trial.trial({**values, "backbone": "test_resnet"}).pretrained is False


def test_the_seed_reaches_the_trials_unless_they_have_their_own(tmp_path: Path) -> None:
    assert load(SWEEP, tmp_path).trial.choices("seed") == [7]
    assert load(with_trial("seed: [1, 2]"), tmp_path).trial.choices("seed") == [1, 2]
    assert load(SWEEP, tmp_path, "seed=8").trial.choices("seed") == [8]


def test_more_weights_are_kept_than_the_ensemble_needs(tmp_path: Path) -> None:
    assert load(SWEEP, tmp_path).keep == 5 + 2
    assert load(RICH, tmp_path).keep == 9


# --set


def test_an_override_wins_and_is_read_as_yaml(tmp_path: Path) -> None:
    sweep = load(
        SWEEP,
        tmp_path,
        "trial.epochs=3",
        "trial.lr={log: [1e-5, 1e-3]}",
        "trial.backbone=[lcnet_050]",
        "ensemble.top_k=2",
        "name=other",
    )
    assert sweep.trial.choices("epochs") == [3]
    assert sweep.trial.axes()["lr"].bounds == (1e-5, 1e-3)
    assert sweep.trial.choices("backbone") == ["lcnet_050"]
    assert (sweep.ensemble.top_k, sweep.name) == (2, "other")


def test_the_later_override_wins(tmp_path: Path) -> None:
    assert load(SWEEP, tmp_path, "trial.epochs=3", "trial.epochs=4").trial.choices("epochs") == [4]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trial.epochs=ten", '--set trial.epochs: trial.epochs: given "ten"; allowed: a whole number, without a'),
        ("trial.backbone=[a, a]", '--set trial.backbone: trial.backbone: given ["a", "a"]; allowed: every value once'),
        ("trial.epoch=3", "--set trial.epoch: trial.epoch: no such key; allowed: epochs, "),
        ("data={source: demmo}", '--set data: data.source: given "demmo"; allowed: folder or demo'),
        ("data.train=a", '--set data.train: data.train: given "'),
        ("trial..lr=3", "--set trial..lr: trial.: no such key; allowed: "),
        ("serch.trials=3", "--set serch.trials: serch: no such key; allowed: search, "),
        ("trial.epochs", "--set trial.epochs: expected key=value, for example --set trial.epochs=3"),
        ("=3", "--set =3: expected key=value"),
        ("name.first=x", "--set name.first=x: name is not a mapping, so it has no key first"),
        ("trial.lr=[1", "--set trial.lr: not valid YAML: "),
        ("name=2020-13-45", "--set name: not valid YAML: "),
        ("trial.lr={? [a] : 1}", "--set trial.lr: trial.lr: given a list or mapping as a key; allowed: text"),
        ("trial.lr={1: 2}", "--set trial.lr: trial.lr: given 1 as a key; allowed: text (perhaps in quotes)"),
        ("name=!!python/object/apply:os.getcwd []", "--set name: not valid YAML: "),
        ("trial.lr=!!float ''", "--set trial.lr: not valid YAML: "),
        ("trial.epochs=!!int ''", "--set trial.epochs: not valid YAML: "),
        ("search.probe=!!bool maybe", "--set search.probe: not valid YAML: "),
        (f"name.first={'x' * 900}", f"--set name.first={'x' * 66}...: name is not a mapping, so it has no key first"),
        ("x" * 900, f"--set {'x' * 77}...: expected key=value, for example"),
    ],
)
def test_a_wrong_override_is_named(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refused:
        load(SWEEP, tmp_path, override)
    assert str(refused.value).startswith(expected)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("old", SUCCESSORS)
def test_a_key_of_0_1_is_refused_with_its_successor(old: str, tmp_path: Path) -> None:
    section, _, key = old.partition(".")
    in_file = f"name: a\ndata: {{source: demo}}\ntrial: {{backbone: resnet18}}\nsearch: {{trials: 1}}\n{section}:\n"
    with pytest.raises(SweepError) as of_override:
        load(SWEEP, tmp_path, f"{old}=1")
    assert str(of_override.value) == f"--set {old}: {old}: no such key any more; use {SUCCESSORS[old]}"
    lines = [line for line in in_file.splitlines() if not line.startswith(f"{section}: ")]
    kept = {"data": "  source: demo\n", "trial": "  backbone: resnet18\n"}.get(section, "")
    with pytest.raises(SweepError) as of_file:
        load("\n".join(lines) + f"\n  {key}: 1\n{kept}", tmp_path)
    place = f"{tmp_path}/sweep.yaml:{len(lines) + 1}"
    assert str(of_file.value) == f"{place}: {old}: no such key any more; use {SUCCESSORS[old]}"
    assert SweepError.exit_code == 2


@pytest.mark.parametrize("new", SUCCESSORS.values())
def test_a_successor_is_a_key(new: str) -> None:
    section, key = new.partition(",")[0].split(".")
    assert key in Sweep.model_fields[section].annotation.model_fields


def test_a_folder_with_parts_is_a_sweep_of_them(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    data = sweep_of_folder(tmp_path).sweep.data
    assert (data.train, data.val, data.test) == (f"{tmp_path}/train", 0.15, f"{tmp_path}/test")
    (tmp_path / "val").mkdir()
    assert sweep_of_folder(tmp_path).sweep.data.val == f"{tmp_path}/val"
    data = sweep_of_folder(tmp_path / "val").sweep.data
    assert (data.train, data.test) == (f"{tmp_path}/val", 0.5)


# what is made of it


@pytest.mark.parametrize("text", [SWEEP, RICH, MAPPING], ids=["small", "rich", "mapping"])
def test_the_resolved_text_is_the_same_sweep(text: str, tmp_path: Path) -> None:
    sweep = load(text, tmp_path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved_text(sweep))
    assert read_resolved_sweep(resolved) == sweep
    assert differences(read_resolved_sweep(resolved), sweep) == []


def test_resources_auto_is_written_out_and_read_again(tmp_path: Path) -> None:
    sweep = load(SWEEP + "resources: auto\n", tmp_path)
    assert sweep.resources == Resources(auto=True)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved_text(sweep))
    assert read_resolved_sweep(resolved) == sweep
    assert {"const": "auto", "type": "string"} in sweep_schema({})["properties"]["resources"]["anyOf"]


@pytest.mark.parametrize(
    ("given", "together"),
    [
        ("{}", 1), ("auto", 1), ("{gpu: 0.25}", 1), ("{gpu: 1}", 1), ("{gpu: 4}", 4), ("{gpu: 4, workers: 4}", 4),
        ("{workers: 2}", 2), ("{gpu: 0, workers: 3}", 3), ("{gpu: auto, workers: 2}", 2), ("{gpu: 0.5, workers: 1}", 1),
    ],
)  # fmt: skip
def test_how_many_processes_train_a_trial(given: str, together: int, tmp_path: Path) -> None:
    assert load(SWEEP + f"resources: {given}\n", tmp_path).resources.world_size == together


def test_the_resolved_text_does_not_depend_on_the_order_of_the_keys(tmp_path: Path) -> None:
    turned = "".join(f"{part}\n" for part in reversed(re.split(r"\n(?=\w)", SWEEP.strip())))
    assert turned.startswith("search:")
    assert resolved_text(load(turned, tmp_path)) == resolved_text(load(SWEEP, tmp_path))


def test_the_budget_may_change(tmp_path: Path) -> None:
    before, after = (
        load(SWEEP, tmp_path, "search.algorithm=optuna", "search.scheduler=asha", f"search.budget={budget}")
        for budget in ("5m", "2h")
    )
    assert differences(before, after) == []


def test_folders_may_move_and_more_trials_may_be_asked_for(tmp_path: Path) -> None:
    def given(*overrides: str) -> Sweep:
        return load(RICH, tmp_path, *overrides)

    assert differences(given(), given("data.train=/mnt/elsewhere", "search.trials=50")) == []
    assert differences(given(), given("search.trials=39")) == ["search.trials: 40 -> 39"]
    grid = "search.algorithm=grid"
    assert differences(given(grid, "search.trials=null"), given(grid)) == []
    two, three, one = ("trial.lr=[1e-4, 1e-3]", "trial.lr=[1e-4, 5e-4, 1e-3]", "trial.lr=1e-4")
    assert differences(given(grid, two), given(grid, three)) == []  # the trials of before are among those of now
    assert differences(given(grid, one), given(grid, two, "trial.image_size=[224, 256]")) == []
    assert differences(given(grid, three), given(grid, two)) == ["trial.lr: [0.0001, 0.0005, 0.001] -> [0.0001, 0.001]"]
    assert differences(given(two), given(three)) == ["trial.lr: [0.0001, 0.001] -> [0.0001, 0.0005, 0.001]"]
    own, other = "augmentations={mine: [ToGray: {p: 1}]}", "augmentations={mine: [ToGray: {p: 0.5}]}"
    uses = "trial.augmentation=[light, mine]"
    light = "trial.augmentation=[light]"
    assert differences(given(grid, light), given(grid, own, uses)) == []  # only new trials use it
    assert differences(given(light, own), given(light, other)) == []
    (changed,) = differences(given(uses, own), given(uses, other))
    assert changed.startswith("augmentations.mine: ")
    shadowed = ['augmentations.light: nothing -> [{"ToGray": {"p": 1}}]']
    assert differences(given(light, "augmentations={}"), given(light, own.replace("mine", "light"))) == shadowed
    assert differences(given(), given("search.trials=null")) == []  # as many as the budget, or the grid, has
    assert differences(given("data.test=/a"), given("data.test=s3://b/c")) == []
    assert differences(given("data.test={one: /a}"), given("data.test={one: /b}")) == []
    assert differences(given("data.test={one: /a}"), given("data.test={two: /b}")) == []  # no trial knows its name
    assert differences(given("data.test={one: /a}"), given("data.test=/b")) == []
    assert differences(given("data.test=/a"), given("data.test={one: /a, two: /b}")) == []
    assert differences(given("data.test=/a"), given("data.test=0.2")) == ['data.test: "a folder" -> 0.2']
    assert differences(given("data.val=/a"), given()) == ['data.val: "a folder" -> 0.15']


def test_ensemble_may_set_what_no_trial_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, before = tmp_path / "sweep.yaml", load(RICH, tmp_path, "data.test=/a")
    file.write_text(resolved_text(before))
    monkeypatch.chdir(tmp_path)
    after = set_later(file, ("data.test={other: there/test}", "data.train=s3://b/train", "ensemble.top_k=2")).sweep
    assert after.data.folder("test") == str(tmp_path / "there/test")
    assert (after.data.train, after.ensemble.top_k) == ("s3://b/train", 2)
    assert after.trial == before.trial
    wrong = {
        "trial.epochs=3": "--set trial.epochs: the trials are trained; allowed for `rfray ensemble`: ",
        "search.concurrent=3": "--set search.concurrent: the trials are trained; allowed",
        "data=1": "--set data: the trials",
        "data.tets=/x": "nearest: data.test",
        "ensemble.topk=3": "ensemble.topk: no such key; allowed: top_k",
        "data.val=0.3": "what the trials depend on:\n  data.val: 0.15 -> 0.3\nallowed for `rfray ensemble`: data.t",
        "data.test=0.2": '  data.test: "a folder" -> 0.2\n',
    }
    for override, said in wrong.items():
        with pytest.raises(SweepError) as refused:
            set_later(file, (override,))
        assert said in str(refused.value)
    assert file.read_text() == resolved_text(before)


MAY_CHANGE = {
    "data.train": "/other", "data.test": "/other", "data.val": "/other", "data.folds": 3, "data.max_unreadable": 0.5,
    "data.attributes": "/table.csv",
    "data.cache.dir": "/cache", "data.cache.max_gb": 7, "search.budget": "2h", "search.trials": 9,
    "search.concurrent": 1, "search.keep": 12, "search.finalists": 3, "search.seeds": 5, "search.max_failed": 3,
    "resources.cpu": 2, "resources.gpu": 0, "resources.workers": 3, "resources.auto": True,
    "resources.price_per_hour": 2.5, "ensemble.top_k": 2, "ensemble.leave_out_worse": False, "ensemble.diverse": 1,
    "ensemble.methods": ["weighted"], "ensemble.choose_by": "worst", "ensemble.threshold": "youden",
    "ensemble.threshold.max_fpr": 0.01, "ensemble.unsure_error": 0.1, "report.group_pattern": "x",
    "report.corruptions": True,
}  # fmt: skip
"""Key -> another value than in the test. Trials and the split are what they are whatever these say."""
MUST_STAY = {
    "name": "other", "seed": 8, "data.source": "demo", "data.classes": {"real": "a", "fake": "b"},
    "data.train_images": 99, "data.val_images": 99, "data.split_by": "image", "data.group_pattern": "x",
    "data.group.column": "x", "data.val.groups": ["x"],
    "data.test_duplicates": "keep", "data.leave_out": "/list.csv",
    "data.reencode.quality": 50, "data.reencode.size": 64,
    "trial.backbone": "test_vit", "trial.pretrained": "/w.safetensors", "trial.head": "probe",
    "trial.augmentation": "mine", "trial.image_size": 32, "trial.resize": "crop", "trial.lr": 0.5,
    "trial.weight_decay": 0.5, "trial.batch_size": 3, "trial.epochs": 5, "trial.epoch_images": 50,
    "trial.optimizer": "sgd", "trial.schedule": "step", "trial.warmup": 0.3, "trial.layer_decay": 0.5,
    "trial.drop_rate": 0.1, "trial.drop_path": 0.1, "trial.label_smoothing": 0.1, "trial.mixup": 0.1,
    "trial.cutmix": 0.1, "trial.ema": 0.5, "trial.swa": "auto", "trial.class_balance": "weights",
    "trial.clip_grad": 0.5, "trial.precision": "fp32", "trial.tta": "flip", "trial.patience": 1, "trial.seed": 9,
    "augmentations": {"mine": [{"ToGray": {"p": 0.5}}]}, "search.algorithm": "random", "search.scheduler": "asha",
    "search.judge": "unseen",
    "search.metric": "accuracy", "search.grace_epochs": 2, "search.reduction_factor": 4, "search.brackets": 2,
    "search.probe": True, "search.probe_keep": 2, "search.warm_start": ["/runs/x"],
}  # fmt: skip
"""Key -> another value than in the test. A trial, which trials there are, or the split would be another one."""


def test_every_key_may_change_between_two_starts_or_must_stay(tmp_path: Path) -> None:
    def given(*overrides: str) -> Sweep:
        fixed = ["data={train: /t, test: /e, val: /v}", "search.algorithm=optuna", "search.budget=5m"]
        own = "augmentations={mine: [{ToGray: {p: 1}}]}"
        return load(SWEEP, tmp_path, *fixed, "trial.augmentation=[mine]", own, "search.seeds=2",
                    "search.finalists=1", "trial.warmup=0.1", *overrides)  # fmt: skip

    sections = [key for key in _keys() if any(other.startswith(f"{key}.") for other in _keys())]
    assert sorted([*MAY_CHANGE, *MUST_STAY]) == sorted({*_keys()} - {*sections} | {"ensemble.threshold", "data.val"})
    with_it = {
        "data.source": ["data.train=null", "data.val=0.2", "data.test=null"],
        "search.judge": ["search.seeds=1"],
    }
    for key, value in {**MAY_CHANGE, **MUST_STAY}.items():
        share = {
            "data.folds": ["data.val=0.2"],
            "data.val.groups": ["data.val={groups: [y]}"],
            "search.judge": ["data.val=0.2"],
            "data.group.column": ["data.attributes=/a.csv", "data.group={column: y}"],
        }.get(key, [])
        before, after = given(*share), given(*share, *with_it.get(key, ()), f"{key}={json.dumps(value)}")
        assert after != before, key
        assert (differences(before, after) == []) is (key in MAY_CHANGE), key


def test_differences_name_what_changed(tmp_path: Path) -> None:
    old = load(RICH, tmp_path)
    free = ["search.keep=3", "search.concurrent=1", "search.max_failed=4", "data.cache.max_gb=7", "resources.cpu=1"]
    changes = ["trial.lr=1e-4", "augmentations.mine=[ToGray: {p: 1}]", "search.metric=accuracy", *free]
    own = '[{"OneOf": {"p": 0.5, "transforms": [{"ToGray": {"p": 1}}, {"CoarseDropout": ...'
    assert differences(old, load(RICH, tmp_path, *changes)) == [
        f'augmentations.mine: {own} -> [{{"ToGray": {{"p": 1}}}}]',
        'search.metric: "auc" -> "accuracy"',
        "trial.lr: nothing -> 0.0001",
        "trial.lr.log: [1e-05, 0.001] -> nothing",
    ]


def test_a_digest_is_the_settings_and_not_the_order_they_are_given_in() -> None:
    given = {key: values[0] for key, values in VALUES.items()}
    trial = Trial(**given)
    assert Trial(**dict(reversed(given.items()))).digest == trial.digest
    assert Trial.model_validate_json(trial.model_dump_json()).digest == trial.digest
    assert re.fullmatch("[0-9a-f]{12}", trial.digest)
    assert Trial(**{**given, "lr": 1}).digest == Trial(**{**given, "lr": 1.0}).digest


def test_a_digest_changes_with_every_key() -> None:
    given = {key: values[0] for key, values in VALUES.items()}
    digests = {Trial(**{**given, key: values[1]}).digest for key, values in VALUES.items()}
    assert len(digests | {Trial(**given).digest}) == len(VALUES) + 1


# the schema

LISTED = {"backbone": ["test_resnet"], "algorithm": ["grid"]}


def as_data(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("text", [SWEEP, RICH, MAPPING], ids=["small", "rich", "mapping"])
def test_a_sweep_fits_the_schema(text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(sweep_schema(LISTED))
    jsonschema.Draft202012Validator(sweep_schema(LISTED)).validate(as_data(text))


@pytest.mark.parametrize(
    "text",
    [
        SWEEP.replace("name: small\n", ""),
        SWEEP.replace("search:", "serch:"),
        with_trial("lr: fast"),
        with_trial("lr: {lgo: [1e-5, 1e-3]}"),
        with_trial("batch_size: 0"),
        with_trial("augmentation: {log: [1, 2]}"),
        SWEEP.replace("pretrained: false", "pretrained: 3"),
    ],
)
def test_a_wrong_sweep_does_not_fit_the_schema(text: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert not jsonschema.Draft202012Validator(sweep_schema(LISTED)).is_valid(as_data(text))


def test_registered_names_are_suggested() -> None:
    definitions = sweep_schema(LISTED)["$defs"]
    assert definitions["TrialAxes"]["properties"]["backbone"]["examples"] == ["test_resnet"]
    assert definitions["SearchSettings"]["properties"]["algorithm"]["examples"] == ["grid"]


@pytest.mark.parametrize(
    "part", [Sweep, TrialAxes, Trial, Range, DataSettings, SearchSettings, Resources, EnsembleSettings]
)
def test_every_key_is_described(part: type[Strict]) -> None:
    assert [key for key, field in part.model_fields.items() if not field.description] == []


# what breaks a rule

KEYS = "name, seed, data, trial, augmentations, search, resources, ensemble, report"

BROKEN_FILES: dict[str, tuple[str, str]] = {
    "empty": ("", f"1: given nothing; allowed: a sweep: the keys {KEYS}"),
    "only a comment": ("# a sweep\n", f"1: given nothing; allowed: a sweep: the keys {KEYS}"),
    "a list": ("- name: s\n", f'1: given [{{"name": "s"}}]; allowed: a sweep: the keys {KEYS}'),
    "a word": ("hello\n", f'1: given "hello"; allowed: a sweep: the keys {KEYS}'),
    "a tab": (
        "name: s\ndata:\n\tsource: demo\n",
        "3: not valid YAML: found character '\\t' that cannot start any token",
    ),
    "indentation": (
        "name: s\ndata:\n  source: demo\n train: x\n",
        "4: not valid YAML: expected <block end>, but found '<block mapping start>'",
    ),
    "a bracket left open": ("name: [s\ndata: x\n", "2: not valid YAML: expected ',' or ']', but got ':'"),
    "a key twice": (
        SWEEP + "name: other\n",
        '13: not valid YAML: found duplicate key "name" with value "other" (original value: "small")',
    ),
    "two documents": (SWEEP + "---\nname: other\n", "13: not valid YAML: but found another document"),
    "an alias of nothing": ("name: *other\n", "1: not valid YAML: found undefined alias 'other'"),
    "a number as a key": (SWEEP + "3: x\n", "13: given 3 as a key; allowed: text (perhaps in quotes)"),
    "a list as a key": (
        SWEEP + "? [a]\n: x\n",
        "13: given a list or mapping as a key; allowed: text (perhaps in quotes)",
    ),
    "an unknown tag": (
        "name: !secret s\n",
        "1: not valid YAML: could not determine a constructor for the tag '!secret'",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_what_is_no_sweep_is_refused_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refused:
        load(text, tmp_path)
    assert str(refused.value) == f"{tmp_path}/sweep.yaml:{expected}"


BROKEN_KEYS: dict[str, tuple[str, str, str]] = {
    # unknown keys, the nearest first
    "at the top": ("search:", "serch:", "10: serch: no such key; allowed: search, name, […]; nearest: search"),
    "in data": (
        "  source",
        "  sauce: demo\n  source",
        "4: data.sauce: no such key; allowed: source, […]; nearest: source",
    ),
    "in trial": ("  epochs", "  epoch", "9: trial.epoch: no such key; allowed: epochs, […]; nearest: epochs"),
    "in search": (
        "algorithm",
        "algoritm",
        "11: search.algoritm: no such key; allowed: algorithm, budget, trials, scheduler, judge, metric, "
        "grace_epochs, reduction_factor, brackets, concurrent, keep, finalists, seeds, max_failed, probe, probe_keep, "
        "warm_start; nearest: algorithm",
    ),
    "in resources": (
        "search:",
        "resources:\n  cpus: 3\nsearch:",
        "11: resources.cpus: no such key; allowed: cpu, gpu, workers, auto, price_per_hour; nearest: cpu",
    ),
    "in ensemble": (
        "search:",
        "ensemble: {topk: 3}\nsearch:",
        "10: ensemble.topk: no such key; allowed: top_k, leave_out_worse, diverse, methods, choose_by, threshold, "
        "unsure_error; nearest: top_k",
    ),
    "in a range": ("1e-3", "{lgo: [1, 2]}", "8: trial.lr.lgo: no such key; allowed: log, uniform, int; nearest: log"),
    "a number in trial": ("lr: 1e-3", "1: 1e-3", "8: trial: given 1 as a key; allowed: text (perhaps in quotes)"),
    # missing keys
    "no name": ("name: small\n", "", "1: name: is missing (Name of the run folder: runs/<name>.)"),
    "no data": ("data:\n  source: demo\n", "", "1: data: is missing (Where the images are and how they are divided.)"),
    "no backbone": (
        "  backbone: [test_resnet, test_vit]\n",
        "",
        "5: trial.backbone: is missing (Name of a timm model, e.g. `resnet50` or `convnext_tiny.fb_in22k`.)",
    ),
    # wrong types
    "epochs in words": (
        "epochs: 2",
        "epochs: ten",
        '9: trial.epochs: given "ten"; allowed: a whole number, without […]',
    ),
    "half an epoch": ("epochs: 2", "epochs: 1.5", "9: trial.epochs: given 1.5; allowed: a whole number, without […]"),
    "a true batch": ("lr: 1e-3", "batch_size: true", "8: trial.batch_size: given true; allowed: a whole number, […]"),
    "lr in words": ("1e-3", "fast", '8: trial.lr: given "fast"; allowed: a number'),
    "lr left empty": ("1e-3", "", "8: trial.lr: given nothing; allowed: a number"),
    "lr not a number": ("1e-3", ".nan", "8: trial.lr: given nan; allowed: a finite number"),
    "a name of digits": ("name: small", "name: 3", '1: name: given 3; allowed: text, in quotes: "3"'),
    "a name with a slash": (
        "name: small",
        "name: a/b",
        '1: name: given "a/b"; allowed: letters, digits and . _ -, a letter or digit first',
    ),
    "trial a word": (
        "trial:\n",
        "trial: test_vit\nother:\n",
        '5: trial: given "test_vit"; allowed: keys with values (key: value); '
        'nearest: {"backbone": "test_vit"}\n6: other: no such key; use trial.backbone for backbone, '
        "trial.pretrained for pretrained, trial.lr for lr, trial.epochs for epochs",
    ),
    "data left empty": ("  source: demo\n", "", "3: data: given nothing; allowed: keys with values (key: value)"),
    "a class balance": (
        "lr: 1e-3",
        "class_balance: [none, wieghts]",
        '8: trial.class_balance[1]: given "wieghts"; allowed: none, weights or sampling; nearest: weights',
    ),
    "a bad seed is one problem": ("seed: 7", "seed: -1", "2: seed: given -1; allowed: greater than or equal to 0"),
    "a true seed": ("seed: 7", "seed: true", "2: seed: given true; allowed: a whole number, without a decimal point"),
    # values out of bounds
    "no epochs": ("epochs: 2", "epochs: [1, 0]", "9: trial.epochs[1]: given 0; allowed: greater than or equal to 1"),
    "negative decay": (
        "lr: 1e-3",
        "weight_decay: -0.1",
        "8: trial.weight_decay: given -0.1; allowed: greater than or equal to 0",
    ),
    "too small images": ("lr: 1e-3", "image_size: 8", "8: trial.image_size: given 8; allowed: greater than or […] 16"),
    "no trials": ("trials: 2", "trials: 0", "12: search.trials: given 0; allowed: greater than or equal to 1"),
    # lists
    "an empty list": ("1e-3", "[]", "8: trial.lr: given []; allowed: at least one entry"),
    "a number twice": ("1e-3", "[1e-3, 0.001]", "8: trial.lr: given [0.001, 0.001]; allowed: every value once"),
    "a name twice": (
        "[test_resnet, test_vit]",
        "[test_vit, test_vit]",
        '6: trial.backbone: given ["test_vit", "test_vit"]; allowed: every value once',
    ),
    "a list in a list": ("1e-3", "\n    - 1\n    - [2]", "10: trial.lr[1]: given [2]; allowed: a number; nearest: 2"),
    # ranges
    "a range of text": (
        "[test_resnet, test_vit]",
        "{log: [1, 2]}",
        '6: trial.backbone: given {"log": [1, 2]}; allowed: a value or a list of values (a range only for numbers)',
    ),
    "a range that falls": (
        "1e-3",
        "{log: [0.1, 0.01]}",
        '8: trial.lr: given {"log": [0.1, 0.01]}; allowed: a range [a, b] with a < b; nearest: {"log": [0.01, 0.1]}',
    ),
    "a range of one value": (
        "1e-3",
        "{uniform: [1, 1]}",
        '8: trial.lr: given {"uniform": [1, 1]}; allowed: a range [a, b] with a < b',
    ),
    "two kinds of range": (
        "1e-3",
        "{log: [1, 2], int: [1, 2]}",
        '8: trial.lr: given {"log": [1, 2], "int": [1, 2]}; '
        "allowed: one of {log: [a, b]}, {uniform: [a, b]} and {int: [a, b]}",
    ),
    "no kind of range": (
        "1e-3",
        "{}",
        "8: trial.lr: given {}; allowed: one of {log: [a, b]}, {uniform: [a, b]} and {int: [a, b]}",
    ),
    "log of zero": (
        "lr: 1e-3",
        "mixup: {log: [0, 1]}",
        '8: trial.mixup: given {"log": [0, 1]}; allowed: a log range above 0',
    ),
    "three ends": ("1e-3", "{log: [1, 2, 3]}", "8: trial.lr.log: given [1, 2, 3]; allowed: two numbers [a, b]"),
    "one end": ("1e-3", "{log: 1}", "8: trial.lr.log: given 1; allowed: two numbers [a, b]"),
    "ends in words": ("1e-3", "{log: [low, 1]}", '8: trial.lr.log: given ["low", 1]; allowed: two numbers [a, b]'),
    "an endless range": ("1e-3", "{log: [1, .inf]}", "8: trial.lr.log[1]: given inf; allowed: a finite number"),
    "half epochs in a range": (
        "epochs: 2",
        "epochs: {int: [1.5, 3]}",
        '9: trial.epochs: given {"int": [1.5, 3]}; allowed: an int range between whole numbers',
    ),
    "a float range of epochs": (
        "epochs: 2",
        "epochs: {uniform: [1, 3]}",
        '9: trial.epochs: given {"uniform": [1, 3]}; allowed: a range of whole numbers, {int: [a, b]}; '
        'nearest: {"int": [1, 3]}',
    ),
    "a range from no epochs": (
        "epochs: 2",
        "epochs: {int: [0, 3]}",
        '9: trial.epochs: given {"int": [0, 3]}; allowed: a range in which every value is greater than or equal to 1',
    ),
    "a range up to too much": (
        "lr: 1e-3",
        "drop_rate: {uniform: [0, 1.5]}",
        '8: trial.drop_rate: given {"uniform": [0, 1.5]}; allowed: a range in which every value is less than 1',
    ),
    # weights
    "pretrained 3": (
        "pretrained: false",
        "pretrained: 3",
        '7: trial.pretrained: given 3; allowed: true, false […] "3"',
    ),
    "pretrained left empty": (
        "pretrained: false",
        "pretrained:",
        "7: trial.pretrained: given nothing; allowed: true, false or text",
    ),
    "pretrained an empty text": (
        "pretrained: false",
        "pretrained: ''",
        '7: trial.pretrained: given ""; allowed: a path',
    ),
    "a 3 among the weights": (
        "pretrained: false",
        "pretrained: [true, 3]",
        '7: trial.pretrained[1]: given 3; allowed: true, false or text, in quotes: "3"',
    ),
    "no weights at all": (
        "pretrained: false",
        "pretrained: []",
        "7: trial.pretrained: given []; allowed: at least […]",
    ),
    "weights twice": (
        "pretrained: false",
        "pretrained: [true, true]",
        "7: trial.pretrained: given [true, true]; allowed: every value once",
    ),
    "an empty mapping": ("pretrained: false", "pretrained: {}", "7: trial.pretrained: given {}; allowed: at least […]"),
    "a 3 in a mapping": (
        "pretrained: false",
        "pretrained:\n    test_vit: 3",
        '8: trial.pretrained.test_vit: given 3; allowed: true, false or text, in quotes: "3"',
    ),
    "weights for another backbone": (
        "pretrained: false",
        "pretrained:\n    test_vitt: true",
        '8: trial.pretrained.test_vitt: given "test_vitt"; allowed: test_vit, test_resnet; nearest: test_vit',
    ),
    "another backbone in a list": (
        "pretrained: false",
        "pretrained:\n    - true\n    - lcnet_050: true",
        '9: trial.pretrained[1].lcnet_050: given "lcnet_050"; allowed: test_resnet, test_vit',
    ),
    # data
    "a third class": (
        "  source: demo",
        "  source: demo\n  classes:\n    real: a\n    fake: b\n    maybe: c",
        "8: data.classes.maybe: no such key; allowed: real or fake",
    ),
    "one class": (
        "  source: demo",
        "  source: demo\n  classes: {real: a}",
        '5: data.classes: given {"real": "a"}; allowed: both real and fake',
    ),
    "a class folder elsewhere": (
        "  source: demo",
        "  source: demo\n  classes: {real: ok/, fake: [a/b, ../c]}",
        '5: data.classes.fake[1]: given "../c"; allowed: a folder in the data folder, by its name or path there',
    ),
    "a class folder that is a path of its own": (
        "  source: demo",
        "  source: demo\n  classes: {real: /etc, fake: b}",
        '5: data.classes.real: given "/etc"; allowed: a folder in the data folder, by its name or path there',
    ),
    "a zero in a path": (
        "  source: demo",
        '  train: "a\\0b"\n  test: 0.2',
        '4: data.train: given "a\\u0000b"; allowed: a path',
    ),
    "a list of classes": (
        "  source: demo",
        "  source: demo\n  classes: [a, b]",
        '5: data.classes: given ["a", "b"]; allowed: keys with values (key: value)',
    ),
    "classes of digits": (
        "  source: demo",
        "  source: demo\n  classes: {real: [0], fake: 1}",
        '5: data.classes.real[0]: given 0; allowed: text, in quotes: "0"\n'
        '5: data.classes.fake: given 1; allowed: text, in quotes: "1" or a list',
    ),
    "demo and folders": (
        "  source: demo",
        "  source: demo\n  train: /a\n  test: 0.2",
        '5: data.train: given "/a"; allowed: nothing, as the built-in data (source: demo) has its own images\n'
        "6: data.test: given 0.2; allowed: nothing, as the built-in data (source: demo) has its own images",
    ),
    "no folder to train": (
        "  source: demo",
        "  test: /a",
        "3: data.train: given nothing; allowed: a folder with one folder per class inside, or source: demo",
    ),
    "no test": (
        "  source: demo",
        "  train: /a",
        "3: data.test: given nothing; allowed: a folder, or a share of the training images (test: 0.2)",
    ),
    "no test folder": (
        "  source: demo",
        "  train: /a\n  test: {}",
        "5: data.test: given {}; allowed: at least one entry",
    ),
    "test sets by names that are paths": (
        "  source: demo",
        "  train: /a\n  test: {here: /b, ../there: /c}",
        "5: data.test.../there: no such key; allowed: a name of letters, digits, _ and -, a letter or digit first, at "
        "most 40: it becomes a part of file names",
    ),
    "a test set by the name of a column": (
        "  source: demo",
        "  train: /a\n  test:\n    here: /b\n    worst: /c",
        "7: data.test.worst: no such key; allowed: a name that no other column of the leaderboard has after auc_: not "
        "boot, groups, high, left_out, left_out_worst, low, mean, p_best, p_ensemble, worst, worst_corruption, nor "
        "what ends in _low or _high, nor a corruption (jpeg_50)",
    ),
    "test sets that a disk may not tell apart": (
        "  source: demo",
        "  train: /a\n  test: {phone: /b, Phone: /c}",
        '5: data.test: given {"phone": "/b", "Phone": "/c"}; allowed: names that differ in more than upper and lower '
        "case",
    ),
    "a share among test sets": (
        "  source: demo",
        "  train: /a\n  test: {here: /b, there: 0.2}",
        '5: data.test.there: given 0.2; allowed: text, in quotes: "0.2"',
    ),
    "folds and a val folder": (
        "  source: demo",
        "  train: /a\n  val: /b\n  test: /c\n  folds: 3",
        "7: data.folds: given 3; allowed: nothing if data.val is a folder: folds divide train and val together",
    ),
    "val a word of YAML": (
        "  source: demo",
        "  source: demo\n  val: true",
        "5: data.val: given true; allowed: a number or text or keys with values (groups: …)",
    ),
    "an empty path": ("  source: demo", "  train: ''\n  test: /b", '4: data.train: given ""; allowed: a path'),
    "a share above all": (
        "  source: demo",
        "  source: demo\n  val: 1.5",
        "5: data.val: given 1.5; allowed: less than 0.9",
    ),
    # the rest
    "finalists with nothing to do": (
        "  trials: 2",
        "  trials: 2\n  finalists: 2",
        "13: search.finalists: given 2; allowed: 0; or together with search.seeds (at least 2) or data.folds, by which "
        "they are trained again",
    ),
    "seeds of no finalist": (
        "  trials: 2",
        "  trials: 2\n  seeds: 3",
        "13: search.seeds: given 3; allowed: nothing, unless search.finalists says how many of the best trials it is "
        "for",
    ),
    "folds of no finalist": (
        "  source: demo",
        "  source: demo\n  folds: 5",
        "5: data.folds: given 5; allowed: nothing, unless search.finalists says how many of the best trials it is for",
    ),
    "fewer kept than joined": (
        "  trials: 2",
        "  trials: 2\n  keep: 1",
        "13: search.keep: given 1; allowed: at least ensemble.top_k (5), or the ensemble's weights would be gone",
    ),
    "gpu in words": (
        "search:",
        "resources: {gpu: all}\nsearch:",
        '10: resources.gpu: given "all"; allowed: a number or auto',
    ),
    "a gpu and a half": (
        "search:",
        "resources: {gpu: 1.5}\nsearch:",
        "10: resources.gpu: given 1.5; allowed: 0, a fraction of one GPU, a whole number of them, or auto",
    ),
    "other workers than gpus": (
        "search:",
        "resources: {gpu: 4, workers: 2}\nsearch:",
        "10: resources.workers: given 2; allowed: 4, as resources.gpu is 4 and each worker has one; or leave it out",
    ),
    "workers on a share of a gpu": (
        "search:",
        "resources: {gpu: 0.5, workers: 2}\nsearch:",
        "10: resources.workers: given 2; allowed: 1, as resources.gpu is 0.5 and each worker has one; or leave it out",
    ),
    "no workers": (
        "search:",
        "resources: {workers: 0}\nsearch:",
        "10: resources.workers: given 0; allowed: greater than or equal to 1",
    ),
    "auto and more": (
        "search:",
        "resources: {auto: true, cpu: 2}\nsearch:",
        "10: resources.cpu: given 2.0; allowed: nothing beside auto, which gives each backbone what it needs",
    ),
    "resources in another word": (
        "search:",
        "resources: all\nsearch:",
        '10: resources: given "all"; allowed: keys with values (key: value), or auto',
    ),
    "policies in a list": (
        "search:",
        "augmentations: [a]\nsearch:",
        '10: augmentations: given ["a"]; allowed: keys with values (key: value)',
    ),
    "a policy without a list": (
        "search:",
        "augmentations:\n  mine: ToGray\nsearch:",
        '11: augmentations.mine: given "ToGray"; allowed: a list',
    ),
    "a policy of nothing": (
        "search:",
        "augmentations:\n  mine: []\nsearch:",
        "11: augmentations.mine: given []; allowed: at least one entry",
    ),
    "a transform without a colon": (
        "search:",
        "augmentations:\n  mine:\n    - ToGray: {p: 1}\n    - HorizontalFlip\nsearch:",
        '13: augmentations.mine[1]: given "HorizontalFlip"; allowed: keys with values (key: value); '
        'nearest: {"HorizontalFlip": null}',
    ),
    "a transform with a number": (
        "search:",
        "augmentations:\n  mine:\n    - ToGray: 0.5\nsearch:",
        "12: augmentations.mine[0].ToGray: given 0.5; allowed: keys with values (key: value)",
    ),
    # several problems: one line each, in the order of the file
    "several": (
        "  lr: 1e-3\n  epochs: 2\n",
        "  mixup: [0, 0]\n  epochs: {int: [5, 1]}\n  batch_size: 0\n  lrr: 3\n",
        "8: trial.mixup: given [0, 0]; allowed: every value once\n"
        '9: trial.epochs: given {"int": [5, 1]}; allowed: a range [a, b] with a < b; nearest: {"int": [1, 5]}\n'
        "10: trial.batch_size: given 0; allowed: greater than or equal to 1\n"
        "11: trial.lrr: no such key; allowed: lr, […]; nearest: lr",
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), BROKEN_KEYS.values(), ids=BROKEN_KEYS)
def test_a_broken_rule_is_named_with_line_key_given_and_allowed(
    old: str, new: str, expected: str, tmp_path: Path
) -> None:
    assert SWEEP.count(old) == 1
    with pytest.raises(SweepError) as refused:
        load(SWEEP.replace(old, new), tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == len(expected.splitlines())
    for line, wanted in zip(lines, expected.splitlines(), strict=True):
        pattern = re.escape(f"{tmp_path}/sweep.yaml:{wanted}").replace(re.escape("[…]"), ".*")
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("data.folds=5", "data.folds: given 5; allowed: nothing with search.judge: unseen: its left-out sources are"),
        ("data.val=/v", 'data.val: given "/v"; allowed: a share with search.judge: unseen, which divides train and'),
        ("data.val={groups: [a]}", 'data.val: given {"groups": ["a"]}; allowed: a share with search.judge: unseen'),
        ("search.seeds=2", "search.seeds: given 2; allowed: 1 with search.judge: unseen: finalists are trained again"),
        ("search.warm_start=[/r]", 'search.warm_start: given ["/r"]; allowed: nothing with search.judge: unseen'),
        ("ensemble.choose_by=worst", 'ensemble.choose_by: given "worst"; allowed: score with search.judge: unseen'),
    ],
)
def test_what_does_not_go_with_left_out_sources_is_refused(given: str, refused: str, tmp_path: Path) -> None:
    sources = ["data={train: /t, test: /e}", "search.judge=unseen"]
    assert load(SWEEP, tmp_path, *sources).search.finalists == 1
    assert load(SWEEP, tmp_path, *sources, "search.finalists=0").search.finalists == 0
    with pytest.raises(SweepError) as raised:
        load(SWEEP, tmp_path, *sources, given)
    assert refused in str(raised.value)


def test_a_tag_that_would_run_something_is_refused_and_not_run(tmp_path: Path) -> None:
    text = f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    with pytest.raises(SweepError, match=r"sweep.yaml:1: not valid YAML: .*os\.mkdir"):
        load(text, tmp_path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("text", ["name: &x [*x]\n", "data: &x {train: *x}\n", "name: " + 5000 * "["])
def test_what_has_no_end_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"sweep\.yaml(:1)?: nested too deeply"):
        load(text, tmp_path)


def test_a_missing_file_a_folder_and_an_image_are_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"gone\.yaml: no such sweep file"):
        load_sweep(tmp_path / "gone.yaml")
    with pytest.raises(SweepError, match=r"can't be read as text: .*directory"):
        load_sweep(tmp_path)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SweepError, match=r"image\.png: can't be read as text: .*utf-8"):
        load_sweep(tmp_path / "image.png")


def refusal(text: str, folder: Path) -> str:
    try:
        load(text, folder)
    except SweepError as error:
        return str(error)
    return ""


def test_no_message_speaks_of_pydantic(tmp_path: Path) -> None:
    """Whatever is put in the place of any value, the message has its line and no word of a library."""
    lines = SWEEP.splitlines(keepends=True)
    wrong = [
        "{a: {b: [1]}}",
        "[[]]",
        "2020-01-01",
        "!!binary aGk=",
        "!!set {a}",
        "-1.5",
        "true",
        '""',
        "null",
        "[null]",
    ]
    for number, line in enumerate(lines):
        key, _, rest = line.partition(":")
        for value in wrong if rest.strip() else ():
            message = refusal("".join([*lines[:number], f"{key}: {value}\n", *lines[number + 1 :]]), tmp_path)
            if message:
                assert message.startswith(f"{tmp_path}/sweep.yaml:{number + 1}: ")
                assert not re.search("valid|Input|instance|Value error|dictionary", message)


@pytest.mark.parametrize(
    ("search", "data", "enough"),
    [
        ("{trials: 1}", "", 5_000),
        ("{budget: 12m}", "", 1_440),
        ("{budget: 1m}", "", 1_000),
        ("{budget: 8gpu-h}", "", 5_000),
        ("{budget: 12m}", "val_images: 7", 7),
    ],
)
def test_how_many_images_are_enough_to_choose_by(search: str, data: str, enough: int, tmp_path: Path) -> None:
    text = f"name: a\ndata: {{source: demo, {data}}}\ntrial: {{backbone: resnet18}}\nsearch: {search}\n"
    (tmp_path / "sweep.yaml").write_text(text)
    assert load_sweep(tmp_path / "sweep.yaml").sweep.val_images == enough


@pytest.mark.parametrize(
    ("search", "data", "most"),
    [
        ("{trials: 1}", "", None),
        ("{trials: 1}", "train_images: 70", 70),
        ("{budget: 12m}", "", 17_280),
        ("{budget: 1m}", "", 5_000),
        ("{budget: 12m}", "train_images: 70", 70),
        ("{budget: 8gpu-h}", "", None),
    ],
)
def test_how_many_images_there_is_time_to_look_at(search: str, data: str, most: int | None, tmp_path: Path) -> None:
    text = f"name: a\ndata: {{source: demo, {data}}}\ntrial: {{backbone: resnet18}}\nsearch: {search}\n"
    (tmp_path / "sweep.yaml").write_text(text)
    assert load_sweep(tmp_path / "sweep.yaml").sweep.train_images(cores=2) == most


@pytest.mark.parametrize(
    ("count", "asked", "epochs"),
    [(119_000, 40_000, 3), (100_000, 40_000, 2), (50_000, 40_000, 1), (1_054, 40_000, 1), (1_000, 0, 1), (10, 1, 10)],
)
def test_a_pass_is_divided_into_epochs_of_about_so_many_images(count: int, asked: int, epochs: int) -> None:
    assert epochs_of_a_pass(count, asked) == epochs


# what other programs write


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("trial.learning_rate", "allowed: lr, "),
        ("trial.model", "allowed: backbone, "),
        ("trial.batch", "allowed: batch_size, "),
        ("trial.bs", "allowed: batch_size, "),
        ("trial.img_size", "allowed: image_size, "),
        ("trial.imgsz", "allowed: image_size, "),
        ("trial.weight-decay", "allowed: weight_decay, "),
        ("data.validation", "allowed: val, "),
        ("search.num_samples", "allowed: trials, "),
        ("model", "use trial.backbone"),
        ("epochs", "use trial.epochs"),
        ("trial.budget", "use search.budget"),
        ("trial.max_gb", "use data.cache.max_gb"),
        ("trial.top_k", "use ensemble.top_k"),
        ("data.workers", "use resources.cpu or resources.workers"),
        ("trial.workers", "use resources.cpu or resources.workers"),
        ("search.group_pattern", "use data.group_pattern or report.group_pattern"),
        ("trial.qwertz", "allowed: backbone, "),
        ("numWorkers", "use resources.cpu or resources.workers"),
        ("search.batch-size", "use trial.batch_size"),
        ("trial.Backbone", "allowed: backbone, "),
        ("data.cv", "allowed: folds, "),
        ("trial.scheduler", "allowed: schedule, "),
        ("data.scheduler", "use trial.schedule or search.scheduler"),
    ],
)
def test_keys_of_other_programs_and_sections_are_known(tmp_path: Path, written: str, said: str) -> None:
    with pytest.raises(SweepError, match=re.escape(f"{written}: no such key; {said}")):
        load(SWEEP, tmp_path, f"{written}=1")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trial.pretrained=no", 'trial.pretrained: given "no"; allowed: false'),
        ("trial.pretrained=[true, None]", 'trial.pretrained[1]: given "None"; allowed: false'),
        ("trial.pretrained={test_vit: Off}", 'trial.pretrained.test_vit: given "Off"; allowed: false'),
        ("trial.pretrained=yes", 'trial.pretrained: given "yes"; allowed: true'),
        ("trial.pretrained=IMAGENET1K_V1", 'trial.pretrained: given "IMAGENET1K_V1"; allowed: true'),
        ("trial.augmentation=false", "trial.augmentation: given false; allowed: none, light, strong, compression"),
        (
            "trial.lr={min: 1}",
            "trial.lr.min: no such key; use a range such as {log: [1e-5, 1e-3]}; allowed: log, uniform, int",
        ),
        ("trial.lr={loguniform: [1, 2]}", "trial.lr.loguniform: no such key; allowed: log, uniform, int; nearest: log"),
        (
            "trial.epochs=16.0",
            "trial.epochs: given 16.0; allowed: a whole number, without a decimal point; nearest: 16",
        ),
        ("trial.lr='1e-3'", 'trial.lr: given "1e-3"; allowed: a number; nearest: 0.001'),
        ("trial.swa=false", 'trial.swa: given false; allowed: none, epochs or auto; nearest: "none"'),
        ("trial.tta=hflip", 'trial.tta: given "hflip"; allowed: none, flip or auto; nearest: flip'),
        ("ensemble.methods=soft", 'ensemble.methods: given "soft"; allowed: a list; nearest: ["soft"]'),
        (
            "search=random",
            'search: given "random"; allowed: keys with values (key: value); nearest: {"algorithm": "random"}',
        ),
        (
            "ensemble.threshold=50%",
            'ensemble.threshold: given "50%"; allowed: max_f1 or youden or keys with values (max_fpr: …) or a number; '
            "nearest: 0.5",
        ),
        (
            "ensemble.threshold={max_fpr: 5}",
            "ensemble.threshold.max_fpr: given 5; allowed: less than 1; nearest: 0.05",
        ),
        (
            "data.reencode=90",
            'data.reencode: given 90; allowed: keys with values (quality: …, size: …); nearest: {"quality": 90}',
        ),
        (
            "data={train: /a, val: 30%, test: /b}",
            'data.val: given "30%"; allowed: a share such as 0.2, without % and quotes; a folder of this name is '
            "./30%; nearest: 0.3",
        ),
        (
            "data={train: /a, test: '0,3'}",
            'data.test: given "0,3"; allowed: a share such as 0.2, without % and quotes; a folder of this name is '
            "./0,3; nearest: 0.3",
        ),
        (
            "trainer={max_epochs: 3, gpus: 2}",
            "trainer: no such key; use trial.epochs for max_epochs, resources.gpu for gpus",
        ),
        (
            "trial.lr={log: 1e-5, 1e-3}",
            "trial.lr: given 1e-3 as a key; allowed: text (perhaps in quotes); several values stand in brackets: "
            "[a, b]",
        ),
        ("search.budget=PT2H", f'search.budget: given "PT2H"; allowed: {A_TIME}; nearest: 2h'),
        ("search.budget=1w", f'search.budget: given "1w"; allowed: {A_TIME}; nearest: 7d'),
        ("search.budget=P1WT2H", f'search.budget: given "P1WT2H"; allowed: {A_TIME}; nearest: 7d 2h'),
        (
            "search.trials=" + "9" * 400,
            "search.trials: given " + "9" * 77 + "...; allowed: a whole number of at most 15 digits",
        ),
        ("search.budget=01:30:00", f'search.budget: given "01:30:00"; allowed: {A_TIME}; nearest: 1h 30m'),
        ("search.budget=90", f"search.budget: given 90; allowed: {A_TIME}; nearest: 90s, 90m, 90h"),
        ("search.budget=soon", f'search.budget: given "soon"; allowed: {A_TIME}'),
        ("trial.schedule=[cosine, 3]", "trial.schedule[1]: given 3; allowed: cosine, poly, tanh, step, constant"),
    ],
)
def test_words_in_the_place_of_others_are_told_the_right_one(override: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refused:
        load(SWEEP, tmp_path, override)
    assert str(refused.value).partition(": ")[2] == said
    assert load(SWEEP, tmp_path, "trial.pretrained=./no").trial.pretrained == f"{Path.cwd()}/no"


def test_a_sweep_that_grows_over_what_can_be_read_again_is_refused(tmp_path: Path) -> None:
    runs = [f"r{number}" for number in range(20_000)]
    text = SWEEP + "  warm_start: [" + ", ".join(runs) + "]\n"
    assert len(text) < 250_000
    with pytest.raises(
        SweepError, match=r"with its defaults and absolute paths it has \d+ characters; allowed: 250000"
    ):
        load(text, tmp_path)


def test_thousands_of_problems_are_refused_in_a_moment_and_a_screen(tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refused:
        load(SWEEP, tmp_path, f"trial.lr=[{', '.join(['x'] * 5000)}]")
    lines = str(refused.value).splitlines()
    assert len(lines) == 51
    assert lines[1] == '--set trial.lr: trial.lr[1]: given "x"; allowed: a number'
    assert lines[-1] == "… and 4,950 more problems"


def test_every_synonym_is_of_a_key_and_none_is_a_key_of_its_section() -> None:
    named = [one for key in SYNONYMS for one in key.split(" or ")]
    assert set(named) <= set(sweep_keys())
    for key, others in SYNONYMS.items():
        if " or " in key:
            continue
        section = key.split(" or ")[0].rpartition(".")[0]
        assert not {f"{section}.{name}".lstrip(".") for name in others.split()} & set(sweep_keys())


def sweep_keys() -> list[str]:
    """Sections, and what is in them."""
    found = []
    for name, field in Sweep.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None) or {}
        found += [name, *(f"{name}.{key}" for key in (Resources.model_fields if name == "resources" else inner))]
    return found


@pytest.mark.parametrize(
    ("text", "seconds", "of_gpus"),
    [
        ("3min", 180, False),
        ("2 minutes", 120, False),
        ("1h30m", 5400, False),
        ("1 Hour and 5 mins", 3900, False),
        ("2 days", 172_800, False),
        ("90s", 90, False),
        ("8gpu-h", 28_800, True),
        ("8 GPU hours", 28_800, True),
    ],
)
def test_a_budget_as_people_write_it(text: str, seconds: float, of_gpus: bool) -> None:
    assert read_budget(text) == (seconds, of_gpus)


@pytest.mark.parametrize("text", ["", "3", "m", "0s", "5 months", "100 ms", "1h 8gpu-h", "3m or so", "-3m"])
def test_what_is_no_budget(text: str) -> None:
    assert read_budget(text) is None


def test_a_backbone_that_timm_lacks_is_not_blamed_on_its_weights(tmp_path: Path) -> None:
    text = MAPPING.replace("[test_resnet, test_vit]", "resnet5")
    assert load(text, tmp_path).trial.backbone == "resnet5"  # the check of names says so
    with pytest.raises(SweepError, match=r"trial.pretrained.test_resnet: .*allowed: test_vit"):
        load(MAPPING.replace("[test_resnet, test_vit]", "test_vit"), tmp_path)


def _laughs(width: int, levels: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * width)}]" for n in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_laughs(9, 9), "its aliases (*name) stand for too much"),
        (_laughs(2, 60), "its aliases (*name) stand for too much"),
        ("a: &a {x: 1}\n" + _laughs(30, 4).replace("[x]", "{y: *a}"), "its aliases (*name) stand for too much"),
        ("[" * 2_000, "nested too deeply; allowed: 50 levels"),
        ("a: " + "{x: " * 2_000, "nested too deeply; allowed: 50 levels"),
        ("- " * 2_000, "nested too deeply; allowed: 50 levels"),
        ("\n".join(" " * depth + "a:" for depth in range(200)), "s.yaml:51: nested too deeply"),
        ("a: b\n" * 100_000, "more than 250000 characters"),
    ],
)
def test_a_sweep_that_would_take_all_time_or_memory_is_refused_before_it_is_parsed(text: str, said: str) -> None:
    with pytest.raises(SweepError) as refused:
        parse_sweep(text, "s.yaml")
    assert said in str(refused.value)


def test_a_file_without_an_end_is_no_sweep(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(20_000_000_000)
    for read, error in ((load_sweep, SweepError), (read_resolved_sweep, RunError)):
        with pytest.raises(error):
            read(file)
    with pytest.raises(SweepError, match="more than 250000 characters"):
        load_sweep(Path("/dev/zero"))
