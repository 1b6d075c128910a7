"""Two processes that train one trial together (gloo, on CPUs) come to what one process comes to."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from rfray.errors import GroupMemoryError, GroupStoppedError, TrialError
from rfray.models.build import Normalisation
from rfray.models.inference import predict_from_file
from rfray.spec.trial import Trial
from rfray.stats.predictions import read_predictions
from rfray.store.run_dir import TrialDir
from rfray.training import learner
from rfray.training.distributed import ALONE, Group, is_lost_peer, this_group
from rfray.training.learner import Epoch, Hooks, TrialData
from rfray.training.loop import train
from tests.pictures import SIDE, images_in_memory, picture

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
    parts = (images_in_memory(pixels, rows, labels[rows], ids[rows]) for rows in (np.arange(30), np.arange(30, 47)))
    return TrialData(*parts, {})


def trial(**settings: Any) -> Trial:
    given = {"backbone": "test_vit", "pretrained": False, "augmentation": "none", "image_size": SIDE, "epochs": 2}
    return Trial(**{**given, "optimizer": "sgd", "lr": 0.01, **settings})


def trained(out: Path, setting: Trial, group: Group = ALONE, micro_batch: int | None = None) -> list[Epoch]:
    epochs: list[Epoch] = []
    train(setting, data(), TrialDir(out), "auc", 1, Hooks(epochs.append), micro_batch, group)
    return epochs


def _process(rank: int, folder: Path, work: Callable[[Group, Path], Any]) -> Any:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "meet"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=30))
    made = work(this_group(), folder)
    dist.destroy_process_group()
    return made


def in_two_processes(work: Callable[[Group, Path], Any], folder: Path) -> list[Any]:
    """What `work` returns in each of them."""
    folder.mkdir(exist_ok=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return list(pool.map(_process, range(2), [folder] * 2, [work] * 2))


def _everything(group: Group, folder: Path) -> dict[str, Any]:
    """All that takes two processes, in one go, as they take a while to start."""
    made: dict[str, Any] = {name: trained(folder / name, trial(**given), group) for name, given in SETTINGS.items()}
    made["micro-batches"] = trained(folder / "micro-batches", trial(**SETTINGS["uneven shares"]), group, micro_batch=2)
    trained(folder / "batch norm", trial(backbone="test_resnet", batch_size=9, ema=0.5), group)
    _stop_and_resume(group, folder / "again")
    made["again"] = trained(folder / "again", trial(**SETTINGS["average"]), group)
    with pytest.raises(TrialError, match="a batch has 1 images, too few for 2 workers") as refused:
        trained(folder / "few", trial(batch_size=1), group)
    with pytest.raises(TrialError, match="a batch has 1 pairs of images") as refused:
        trained(folder / "few", trial(batch_size=3, mixup=0.1), group)
    with pytest.raises(TrialError, match=r"the loss is (nan|inf)") as refused:
        trained(folder / "nan", trial(batch_size=10, lr=1e30, clip_grad=0.0, warmup=0.0), group)
    made["nan"] = str(refused.value)
    made["memory"] = _out_of_memory(group, folder / "memory")  # the last, as the group is no more then
    return made


def _stop_and_resume(group: Group, out: Path) -> None:
    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt if group.rank == 0 else GroupStoppedError):
        train(trial(**SETTINGS["average"]), data(), TrialDir(out), "auc", 1, Hooks(stop), None, group)


class Hungry(nn.Module):
    """A linear model that takes so many images at once, and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * SIDE * SIDE, 2)
        self.most = most

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.layer(images.flatten(1))


def _out_of_memory(group: Group, out: Path) -> list[Any]:
    """Only the second has too little; what each came to, and was told to remember."""
    plain = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    learner.build_model = lambda trial, load_pretrained: (Hungry(1000 if group.rank == 0 else 3), plain)  # type: ignore
    sizes: list[int] = []
    try:
        train(trial(batch_size=10), data(), TrialDir(out), "auc", 1, Hooks(print, sizes.append), None, group)
    except GroupMemoryError as error:
        return [str(error), sizes]
    except Exception as error:
        return [is_lost_peer(error) or repr(error), sizes]
    raise AssertionError("there was enough memory")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("group")
    return folder, in_two_processes(_everything, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETTINGS, "micro-batches", "again"])
def test_two_come_to_what_one_does(name: str, results: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    folder, (first, second) = results
    alone = trained(tmp_path, trial(**SETTINGS[{"micro-batches": "uneven shares", "again": "average"}.get(name, name)]))
    assert second[name] == []  # the first alone talks
    assert len(first[name]) == len(alone)
    for one, other in zip(alone, first[name], strict=True):
        assert (other.epoch, other.lr, other.best_epoch) == (one.epoch, one.lr, one.best_epoch)
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-5)
        assert other.score == pytest.approx(one.score, abs=1e-9)
    here, there = (read_predictions(TrialDir(path).predictions_file("val")) for path in (tmp_path, folder / name))
    assert here.ids.tolist() == there.ids.tolist()
    np.testing.assert_allclose(here.p_fake, there.p_fake, atol=1e-5)
    assert len(TrialDir(folder / name).history()) == len(alone)
    assert len(TrialDir(folder / name).state_files()) == 1  # one checkpoint


@pytest.mark.slow
def test_all_judge_with_the_weights_that_are_kept(results: tuple[Path, list[dict[str, Any]]]) -> None:
    """Also the running statistics of batch normalisation, which each process gathers on its own share."""
    out, setting = TrialDir(results[0] / "batch norm"), trial(backbone="test_resnet")
    stored = read_predictions(out.predictions_file("val"))
    again = predict_from_file(out.weights_file, setting, data().val)
    np.testing.assert_allclose(again.p_fake, stored.p_fake, atol=1e-6)


@pytest.mark.slow
def test_all_fail_alike_where_the_loss_is_not_finite(results: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = results[1]
    assert first["nan"] == second["nan"]


@pytest.mark.slow
def test_out_of_memory_in_one_ends_all(results: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = results[1]
    assert second["memory"] == ["out of memory in worker 1: CUDA out of memory. Tried to allocate 2 GiB", [2]]
    assert first["memory"] == [True, []]  # for it, the other is lost


def test_a_process_alone_is_a_group_of_one() -> None:
    assert this_group() == ALONE == Group(0, 1)
    assert ALONE.broadcast("a") == "a"
    with pytest.raises(KeyError):
        ALONE.on_first(lambda: {}["b"])
    assert not is_lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert is_lost_peer(RuntimeError("Application timeout caused pair closure"))  # by gloo
