"""train(): learns, writes its files, and resumes exactly from any epoch."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rfray.data.catalog import divide, load_images, scan_folder
from rfray.data.geometry import Geometry
from rfray.errors import TrialError
from rfray.models.inference import load_predictor, predict_from_file, views_of, weights_metadata
from rfray.spec.sweep_file import load_sweep
from rfray.spec.trial import Trial
from rfray.stats.metrics import metric
from rfray.stats.predictions import predictions_metadata, read_predictions
from rfray.store.run_dir import TrialDir
from rfray.training.checkpoint import read_state
from rfray.training.learner import SCHEDULES, Epoch, Hooks, TrialData
from rfray.training.loop import train

SIDE = 32


class StopHereError(Exception):
    """Ends a trial from outside, as a scheduler or a killed process does."""


@pytest.fixture(scope="module")
def data(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> TrialData:
    file = tmp_path_factory.mktemp("sweep") / "sweep.yaml"
    file.write_text(
        f"name: a\ndata: {{train: {pictures}/train, test: {pictures}/test, val: 0.25}}\n"
        "trial: {backbone: test_resnet}\nsearch: {trials: 1}\n"
    )
    settings = load_sweep(file).sweep.data
    geometry = Geometry("scale", SIDE, None)
    images = scan_folder(settings, "train", [geometry]).images
    catalog = divide(images, settings, seed=0, pairs=np.empty((0, 2), int))
    train, val = (load_images(catalog, settings, part, geometry) for part in ("train", "val"))
    return TrialData(train, val, augmentations={})


def trial(**settings: Any) -> Trial:
    given = {"backbone": "test_resnet", "pretrained": False, "augmentation": "none", "image_size": SIDE}
    return Trial(**{**given, "epochs": 2, "batch_size": 10, "lr": 3e-3, **settings})


def run(setting: Trial, data: TrialData, folder: Path, stop_after: int | None = None) -> list[Epoch]:
    seen: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.epoch == stop_after:
            raise StopHereError

    out = TrialDir(folder)
    if stop_after is None:
        train(setting, data, out, "auc", 1, Hooks(on_epoch))
    else:
        with pytest.raises(StopHereError):
            train(setting, data, out, "auc", 1, Hooks(on_epoch))
    return seen


def test_an_epoch_that_is_to_be_kept_is_kept_whatever_the_others_are(data: TrialData, tmp_path: Path) -> None:
    """The third of four, although an earlier one is better on val; patience does not end it before."""
    setting = trial(epochs=4, patience=1)
    out, seen = TrialDir(tmp_path), []
    train(setting, data, out, "accuracy", 1, Hooks(seen.append), keep_epoch=3)
    assert [(epoch.epoch, epoch.best_epoch) for epoch in seen] == [(1, None), (2, None), (3, 3)]
    origin = predictions_metadata(out.predictions_file("val"))
    assert (origin["epoch"], origin["score"], origin["swa"]) == ("3", repr(seen[-1].score), "none")
    again: list[Epoch] = []
    train(setting, data, out, "accuracy", 1, Hooks(again.append), keep_epoch=3)
    assert [epoch.epoch for epoch in again] == [3], "it has ended"


@pytest.mark.parametrize("batches", [0, 2, 7, 13])
def test_an_epoch_without_time_is_dropped(batches: int, data: TrialData, tmp_path: Path) -> None:
    """An epoch asks before each of its 6 batches to learn from and 1 to judge: after 7, the first one is whole."""
    asked = 0

    def time_left() -> float:
        nonlocal asked
        asked += 1
        return 0.0 if asked > batches else math.inf

    seen: list[Epoch] = []
    out = TrialDir(tmp_path)
    train(trial(epochs=3), data, out, "auc", 1, Hooks(seen.append, time_left=time_left))
    assert [epoch.epoch for epoch in seen] == ([1] if batches >= 7 else [])
    assert out.weights_file.exists() == (batches >= 7)
    assert len(out.history()) == len(seen)
    assert [epoch.epoch for epoch in run(trial(epochs=3), data, tmp_path)][-1] == 3  # and it goes on


def test_an_epoch_is_shortened_so_that_it_can_be_judged(data: TrialData, tmp_path: Path) -> None:
    """After two of its six batches there is as good as no time left: what they taught is judged, and no epoch begun."""
    asked = 0

    def time_left() -> float:
        nonlocal asked
        asked += 1
        return 1e-9 if asked > 2 else math.inf

    out = TrialDir(tmp_path)
    short: list[Epoch] = []
    train(trial(epochs=3), data, out, "auc", 1, Hooks(short.append, time_left=time_left))
    assert [(epoch.epoch, epoch.best_epoch) for epoch in short] == [(1, 1)]
    assert len(read_predictions(out.predictions_file("val")).p_fake) == len(data.val)
    assert [epoch.epoch for epoch in run(trial(epochs=3), data, tmp_path)] == [1, 2, 3]  # and it goes on

    whole = run(trial(epochs=1), data, tmp_path / "whole")
    assert short[0].train_loss != whole[0].train_loss  # the mean of two batches, and of six
    assert short[0].train_loss == pytest.approx(whole[0].train_loss, rel=0.5)


def test_epochs_of_half_a_pass_come_to_the_same_as_whole_ones(data: TrialData, tmp_path: Path) -> None:
    plain = {"schedule": "constant", "warmup": 0.0}
    whole = run(trial(epochs=2, **plain), data, tmp_path / "whole")  # of 6 batches
    half = (len(data.train) + len(data.val)) // 2
    halves = run(trial(epochs=2, epoch_images=half, **plain), data, tmp_path / "halves")
    assert [epoch.epoch for epoch in halves] == [1, 2, 3, 4]
    assert [epoch.score for epoch in halves[1::2]] == [epoch.score for epoch in whole]
    losses = [epoch.train_loss for epoch in halves]
    expected = [(losses[0] + losses[1]) / 2, (losses[2] + losses[3]) / 2]
    assert [epoch.train_loss for epoch in whole] == pytest.approx(expected, rel=1e-6)


def test_swa_is_the_mean_of_the_weights_after_each_epoch(data: TrialData, tmp_path: Path) -> None:
    plain = [run(trial(epochs=3, lr=0.01), data, tmp_path / f"{stop}", stop) for stop in (1, 2, 3)]
    states = [read_state(TrialDir(tmp_path / f"{stop}"), lambda what: None) for stop in (1, 2, 3)]
    epochs = run(trial(epochs=3, lr=0.01, swa="epochs"), data, tmp_path / "swa")
    assert [epoch.train_loss for epoch in epochs] == [epoch.train_loss for epoch in plain[-1]]  # learning is the same
    assert epochs[0].score == plain[-1][0].score
    state = read_state(TrialDir(tmp_path / "swa"), lambda what: None)
    assert state is not None
    for name, mean in state["swa"].items():
        if name.startswith("module.") and mean.is_floating_point():
            each = torch.stack([one["model"][name.removeprefix("module.")] for one in states if one is not None])
            torch.testing.assert_close(mean, each.mean(dim=0), rtol=1e-4, atol=1e-6)
    best = max(epochs, key=lambda epoch: (epoch.score or 0, -epoch.epoch))
    predicted = predict_from_file(TrialDir(tmp_path / "swa").weights_file, trial(), data.val)
    assert metric("auc", predicted) == pytest.approx(best.score, abs=1e-9)


def test_swa_auto_keeps_the_plain_weights_unless_the_mean_is_better(data: TrialData, tmp_path: Path) -> None:
    plain = run(trial(epochs=2), data, tmp_path / "plain")  # all right after the first epochs: nothing is better
    auto = run(trial(epochs=2, swa="auto"), data, tmp_path / "auto")
    assert [epoch.score for epoch in auto] == [epoch.score for epoch in plain]


def test_learns_what_is_easy_and_writes_every_file(data: TrialData, tmp_path: Path) -> None:
    epochs = run(trial(epochs=5), data, tmp_path)
    out = TrialDir(tmp_path)
    best = max(epoch.score or 0 for epoch in epochs)
    assert best > 0.95
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4, 5]
    history = pd.read_csv(out.history_file)
    assert list(history["epoch"]) == [1, 2, 3, 4, 5]
    assert list(history.columns) == [
        "epoch", "train_loss", "lr", "seconds", "images_per_second", "wait_share", "ended", "val_auc",
    ]  # fmt: skip
    assert history["val_auc"].max() == best
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


def test_weights_and_val_predictions_are_of_the_best_epoch(data: TrialData, tmp_path: Path) -> None:
    epochs = run(trial(epochs=4), data, tmp_path)
    out = TrialDir(tmp_path)
    stored = read_predictions(out.predictions_file("val"))
    best = max(epochs, key=lambda epoch: (epoch.score or 0, -epoch.epoch))
    assert metric("auc", stored) == best.score
    assert weights_metadata(out.weights_file)["epoch"] == str(best.epoch)
    again = predict_from_file(out.weights_file, trial(), data.val)
    np.testing.assert_allclose(again.p_fake, stored.p_fake, atol=1e-6)
    assert list(stored.ids) == list(data.val.ids)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_trial_resumes_exactly(data: TrialData, tmp_path: Path, stop_after: int) -> None:
    setting = trial(
        epochs=4, augmentation="light", ema=0.9, swa="epochs", mixup=0.2, drop_rate=0.1, optimizer="sgd", lr=0.02
    )
    whole = run(setting, data, tmp_path / "whole")
    first = run(setting, data, tmp_path / "parts", stop_after)
    again, *rest = run(setting, data, tmp_path / "parts")
    assert again == first[-1]  # reported again: who heard it first may have died
    assert [epoch.epoch for epoch in first + rest] == [1, 2, 3, 4]
    assert [epoch.score for epoch in first + rest] == [epoch.score for epoch in whole]
    assert [epoch.train_loss for epoch in first + rest] == [epoch.train_loss for epoch in whole]
    one, other = (read_predictions(TrialDir(tmp_path / name).predictions_file("val")) for name in ("whole", "parts"))
    np.testing.assert_array_equal(one.p_fake, other.p_fake)


def test_best_files_lost_between_two_writes_are_written_again(data: TrialData, tmp_path: Path) -> None:
    first = run(trial(epochs=3), data, tmp_path, stop_after=1)
    assert first[0].best_epoch == 1
    out = TrialDir(tmp_path)
    before = read_predictions(out.predictions_file("val"))
    out.weights_file.unlink()  # killed after state.pt, before the rest
    out.predictions_file("val").unlink()
    run(trial(epochs=1), data, tmp_path)  # nothing is left to train
    np.testing.assert_array_equal(read_predictions(out.predictions_file("val")).p_fake, before.p_fake)
    assert weights_metadata(out.weights_file)["epoch"] == predictions_metadata(out.predictions_file("val"))["epoch"]


def test_a_finished_trial_reports_its_last_epoch_again(data: TrialData, tmp_path: Path) -> None:
    done = run(trial(), data, tmp_path)
    assert run(trial(), data, tmp_path) == [done[-1]]


def test_patience_ends_the_trial(data: TrialData, tmp_path: Path) -> None:
    # a learning rate of almost nothing never betters the first epoch
    epochs = run(trial(epochs=9, lr=1e-12, schedule="constant", warmup=0.0, patience=2), data, tmp_path)
    assert len(epochs) == (epochs[-1].best_epoch or 0) + 2 < 9


def test_a_loss_that_is_not_finite_fails_the_trial(data: TrialData, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=r"not finite|is nan|is inf"):
        run(trial(lr=1e30, optimizer="sgd", clip_grad=0.0, warmup=0.0), data, tmp_path)


def test_an_undefined_val_metric_fails_the_trial(data: TrialData, tmp_path: Path) -> None:
    chosen = np.flatnonzero(data.val.labels == 0)
    one_class = replace(data.val, rows=data.val.rows[chosen], labels=data.val.labels[chosen], ids=data.val.ids[chosen])
    with pytest.raises(TrialError, match="undefined"):
        run(trial(epochs=1), replace(data, val=one_class), tmp_path)


def test_the_same_seed_gives_the_same_numbers_and_another_others(data: TrialData, tmp_path: Path) -> None:
    scores = [
        [epoch.train_loss for epoch in run(trial(seed=seed, augmentation="strong"), data, tmp_path / str(number))]
        for number, seed in enumerate([7, 7, 8])
    ]
    assert scores[0] == scores[1] != scores[2]


def test_a_damaged_state_is_not_used(data: TrialData, tmp_path: Path) -> None:
    whole = run(trial(epochs=3), data, tmp_path / "whole")
    run(trial(epochs=3), data, tmp_path / "cut", stop_after=2)
    (state,) = TrialDir(tmp_path / "cut").state_files()
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    state.write_bytes(content)
    damage: list[str] = []
    again: list[Epoch] = []
    hooks = Hooks(again.append, on_damage=damage.append)
    train(trial(epochs=3), data, TrialDir(tmp_path / "cut"), "auc", 1, hooks)
    assert damage == [f"{state} is damaged: its content does not match its name; the trial starts over"]
    assert [(epoch.epoch, epoch.score) for epoch in again] == [(epoch.epoch, epoch.score) for epoch in whole]
    assert not state.exists()


@pytest.mark.parametrize("name", ["best.safetensors", "predictions-val.parquet"])
def test_damaged_files_of_an_earlier_best_epoch_are_not_trusted(data: TrialData, tmp_path: Path, name: str) -> None:
    setting = trial(epochs=3, lr=1e-12, schedule="constant", warmup=0.0)  # the first epoch stays the best
    first = run(setting, data, tmp_path, stop_after=2)
    assert first[-1].best_epoch == 1
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    damage: list[str] = []
    again: list[Epoch] = []
    train(setting, data, TrialDir(tmp_path), "auc", 1, Hooks(again.append, on_damage=damage.append))
    assert len(damage) == 1
    assert damage[0].startswith(f"{tmp_path / name} is damaged")
    assert [epoch.epoch for epoch in again] == [1, 2, 3]


def test_one_state_stays(data: TrialData, tmp_path: Path) -> None:
    run(trial(epochs=3), data, tmp_path)
    (state,) = TrialDir(tmp_path).state_files()
    assert state.name.startswith("state-0003-")


def test_nothing_is_written_once_the_folder_is_anothers(data: TrialData, tmp_path: Path) -> None:
    def refuse() -> None:
        raise StopHereError

    with pytest.raises(StopHereError):
        train(trial(), data, TrialDir(tmp_path), "auc", 1, Hooks(lambda epoch: None, before_writing=refuse))
    assert list(tmp_path.iterdir()) == []


VARIANTS: list[dict[str, Any]] = [
    {"mixup": 0.4},
    {"cutmix": 1.0},
    {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1, "batch_size": 9},
    {"label_smoothing": 0.1},
    {"ema": 0.99},
    {"class_balance": "weights"},
    {"class_balance": "sampling"},
    {"layer_decay": 0.7},
    {"drop_rate": 0.2, "drop_path": 0.1},
    {"clip_grad": 0.0},
    {"precision": "bf16"},
    {"precision": "fp32"},
    {"weight_decay": 0.0},
    {"warmup": 0.0},
    {"batch_size": 1000},
    {"optimizer": "sgd"},
    {"optimizer": "lamb"},
    {"backbone": "test_vit"},
    {"backbone": "test_efficientnet"},
    *({"schedule": name} for name in SCHEDULES),
]


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_option_trains(data: TrialData, tmp_path: Path, settings: dict[str, Any]) -> None:
    (epoch,) = run(trial(**{"epochs": 1, **settings}), data, tmp_path)
    assert np.isfinite(epoch.train_loss)
    assert epoch.score is not None
    assert 0 <= epoch.wait_share <= 1


def test_class_weights_even_out_the_classes(data: TrialData, tmp_path: Path) -> None:
    # 30 of 60 each: weights are n / (2 * n of the class) = 1, so the loss is the plain one
    assert np.bincount(data.train.labels).tolist() == [30, 30]
    plain, weighted = (
        run(trial(epochs=1, class_balance=name), data, tmp_path / name)[0].train_loss for name in ("none", "weights")
    )
    assert plain == pytest.approx(weighted, rel=1e-6)


def test_nothing_of_a_trial_stays_in_memory(data: TrialData, tmp_path: Path) -> None:
    import gc

    run(trial(epochs=1), data, tmp_path)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, torch.nn.Conv2d | torch.optim.Optimizer)]


def test_mirror_images_are_predicted_where_the_trial_asks_for_them(data: TrialData, tmp_path: Path) -> None:
    found = {}
    for tta in ("none", "flip", "auto"):
        out = TrialDir(tmp_path / tta)
        run(trial(tta=tta, epochs=1), data, out.path)
        found[tta] = read_predictions(out.predictions_file("val")).p_fake
        detector = load_predictor(out.weights_file, trial(tta=tta))
        assert detector.flip == (predictions_metadata(out.predictions_file("val"))["tta"] == "flip")
        assert found[tta] == pytest.approx(views_of(detector, data.val, 8).mean(axis=0), abs=1e-6)
        assert detector.flip == (tta == "flip")  # that it pays is not to be proven on a few easy images
    assert np.array_equal(found["auto"], found["none"])
    assert not np.allclose(found["flip"], found["none"])
