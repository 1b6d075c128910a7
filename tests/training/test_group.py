"""Two processes that train one trial together (gloo, on CPUs) come to what one process comes to."""

import pickle
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from rfray.config import Trial
from rfray.errors import GroupStoppedError
from rfray.evaluation.predictions import read_predictions
from rfray.run import TrialDir
from rfray.training.group import ALONE, Group, this_group
from rfray.training.loop import Epoch, Hooks, TrialData, train
from tests.pictures import SIDE, images_of, picture

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"batch_size": 10},
    "uneven shares": {"batch_size": 9, "class_balance": "weights", "label_smoothing": 0.1},
    "average": {"batch_size": 10, "ema": 0.5, "clip_grad": 0.05},
    "mixed": {"batch_size": 11, "mixup": 0.4, "cutmix": 1.0},
    "patience": {"batch_size": 10, "epochs": 5, "lr": 1e-12, "patience": 1, "warmup": 0.0, "schedule": "constant"},
}
"""What one process and two of them train; the model has no batch normalisation and draws nothing at random."""


def data() -> TrialData:
    generator = np.random.default_rng(0)
    labels = (np.arange(47) % 3 == 0).astype(np.int8)  # twice as many real as fake ones
    pixels = np.stack([picture(bool(label), generator) for label in labels])
    ids = np.array([f"{number:02d}" for number in range(47)])
    parts = (images_of(pixels, rows, labels[rows], ids[rows]) for rows in (np.arange(30), np.arange(30, 47)))
    return TrialData(*parts, {})


def trial(**settings: Any) -> Trial:
    given = {"backbone": "test_vit", "pretrained": False, "augmentation": "none", "image_size": SIDE, "epochs": 2}
    return Trial(**{**given, "optimizer": "sgd", "lr": 0.01, **settings})


def trained(out: Path, setting: Trial, group: Group = ALONE, micro_batch: int | None = None) -> list[Epoch]:
    epochs: list[Epoch] = []
    train(setting, data(), TrialDir(out), "auc", 1, Hooks(epochs.append), micro_batch, group)
    return epochs


def _process(rank: int, folder: Path, work: Callable[[Group, Path], Any]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "meet"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    made = work(this_group(), folder)
    (folder / f"made-{rank}").write_bytes(pickle.dumps(made))
    dist.destroy_process_group()


def in_two_processes(work: Callable[[Group, Path], Any], folder: Path) -> list[Any]:
    """What `work` returns in each of them."""
    folder.mkdir(exist_ok=True)
    processes.spawn(_process, (folder, work), nprocs=2)
    return [pickle.loads((folder / f"made-{rank}").read_bytes()) for rank in range(2)]


def _train_all(group: Group, folder: Path) -> dict[str, list[Epoch]]:
    told = {name: trained(folder / name, trial(**settings), group) for name, settings in SETTINGS.items()}
    told["bites"] = trained(folder / "bites", trial(**SETTINGS["uneven shares"]), group, micro_batch=2)

    # stopped in the middle, and begun again by both
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt if epoch.epoch == 1 else AssertionError

    with pytest.raises(KeyboardInterrupt if group.is_first else GroupStoppedError):
        train(trial(**SETTINGS["average"]), data(), TrialDir(folder / "again"), "auc", 1, Hooks(stop), None, group)
    told["again"] = trained(folder / "again", trial(**SETTINGS["average"]), group)
    return told


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, list[Epoch]]]]:
    folder = tmp_path_factory.mktemp("group")
    return folder, in_two_processes(_train_all, folder)


@pytest.mark.parametrize("name", [*SETTINGS, "bites", "again"])
def test_two_come_to_what_one_does(
    name: str, together: tuple[Path, list[dict[str, list[Epoch]]]], tmp_path: Path
) -> None:
    folder, (first, second) = together
    alone = trained(tmp_path, trial(**SETTINGS[{"bites": "uneven shares", "again": "average"}.get(name, name)]))
    assert second[name] == []  # the first alone talks
    for one, other in zip(alone, first[name], strict=True):
        one, other = asdict(one), asdict(other)
        assert {key: other[key] for key in ("epoch", "lr", "best_epoch")} == {
            key: one[key] for key in ("epoch", "lr", "best_epoch")
        }
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
        assert other["score"] == pytest.approx(one["score"], abs=1e-9)
    here, there = (read_predictions(TrialDir(path).predictions_file("select")) for path in (tmp_path, folder / name))
    assert here.ids.tolist() == there.ids.tolist()
    np.testing.assert_allclose(here.p_fake, there.p_fake, atol=1e-5)
    assert len(TrialDir(folder / name).history()) == len(alone)
    assert len(TrialDir(folder / name).state_files()) == 1  # one checkpoint
