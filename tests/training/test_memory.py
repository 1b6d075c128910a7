"""Out of memory: smaller micro-batches, the same result; and nothing that grows from trial to trial."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from rfray.data.geometry import Geometry
from rfray.errors import TrialError
from rfray.models.build import Normalisation
from rfray.models.inference import Predictor, is_out_of_memory, predict_corrupted, views_of
from rfray.spec.trial import Trial
from rfray.store.run_dir import TrialDir
from rfray.training import learner
from rfray.training.learner import Epoch, Hooks, TrialData
from rfray.training.loop import train
from tests.pictures import InMemory, images_in_memory

PLAIN = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Hungry(nn.Module):
    """A linear model without batch statistics that takes so many images at once, and no more."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(3 * 8 * 8, 2)
        self.most = most
        self.asked: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.layer(images.flatten(1))


@pytest.fixture
def data() -> TrialData:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    labels = (pixels.mean((1, 2, 3)) > np.median(pixels.mean((1, 2, 3)))).astype(np.int8)
    ids = np.array([str(number) for number in range(64)])
    train, val = np.arange(0, 48), np.arange(48, 64)
    return TrialData(
        images_in_memory(pixels, train, labels[train], ids[train]),
        images_in_memory(pixels, val, labels[val], ids[val]),
        {},
    )


def trained(
    model: Hungry,
    data: TrialData,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    micro_batch: int | None = None,
    **settings,
) -> tuple[list[Epoch], list[int]]:
    monkeypatch.setattr(learner, "build_model", lambda trial, load_pretrained: (model, PLAIN))
    trial = Trial(backbone="any", augmentation="none", image_size=16, batch_size=24, epochs=2, lr=1e-2, **settings)
    epochs: list[Epoch] = []
    sizes: list[int] = []
    train(trial, data, TrialDir(folder), "auc", 1, Hooks(epochs.append, sizes.append), micro_batch)
    return epochs, sizes


@pytest.mark.parametrize(
    "settings", [{}, {"class_balance": "weights"}, {"label_smoothing": 0.1}, {"mixup": 0.3}], ids=str
)
def test_smaller_micro_batches_mean_the_same(
    data: TrialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    whole, no_sizes = trained(Hungry(1000), data, tmp_path / "whole", monkeypatch, **settings)
    small, sizes = trained(Hungry(5), data, tmp_path / "small", monkeypatch, **settings)
    assert no_sizes == []
    assert sizes == [12, 6, 3]  # 24 images are halved until five or fewer are asked for at once
    assert [epoch.train_loss for epoch in small] == pytest.approx([epoch.train_loss for epoch in whole], rel=1e-5)
    assert [epoch.score for epoch in small] == [epoch.score for epoch in whole]


def test_corrupted_pictures_are_predicted_in_halves_where_memory_runs_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    geometry = Geometry("scale", 8, None)

    def under_corruption(model: Hungry) -> np.ndarray:
        detector = Predictor(model, PLAIN, torch.device("cpu"), torch.float32)
        return predict_corrupted([detector], [geometry], InMemory(pixels), np.arange(9), threads=1)

    hungry = Hungry(most=30)
    np.testing.assert_allclose(under_corruption(hungry), under_corruption(Hungry(most=1000)), atol=1e-6)
    assert hungry.asked == [104, 52, 26, 26, 52, 26, 26, 13]  # eight pictures, then one, under 13 corruptions
    with pytest.raises(torch.OutOfMemoryError):
        under_corruption(Hungry(most=0))


def test_a_retry_starts_with_what_fitted(data: TrialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Hungry(5)
    _, sizes = trained(model, data, tmp_path, monkeypatch, micro_batch=3)
    assert sizes == []
    assert model.asked[0] == 3


def test_not_even_one_image_fails_the_trial(data: TrialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrialError, match="out of memory with one image at a time: CUDA out of memory"):
        trained(Hungry(0), data, tmp_path, monkeypatch)


def test_predicting_takes_smaller_batches_too(data: TrialData) -> None:
    roomy = views_of(Predictor(Hungry(1000), PLAIN, torch.device("cpu"), torch.float32), data.train, 48)
    tight = views_of(Predictor(Hungry(5), PLAIN, torch.device("cpu"), torch.float32), data.train, 48)
    np.testing.assert_allclose(roomy, tight, rtol=1e-6)
    with pytest.raises(torch.OutOfMemoryError):
        views_of(Predictor(Hungry(0), PLAIN, torch.device("cpu"), torch.float32), data.train, 48)


def test_what_out_of_memory_looks_like() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.slow
def test_memory_stays_flat_over_thirty_trials(data: TrialData, tmp_path: Path) -> None:
    """One process trains trial after trial, as a reused Ray worker does; every third of another size."""
    sizes: list[int] = []
    for number in range(30):
        trial = Trial(
            backbone="test_resnet", pretrained=False, image_size=64, batch_size=8 * (1 + number % 3), epochs=1
        )
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
        images = [images_in_memory(pixels, part.rows, part.labels, part.ids) for part in (data.train, data.val)]
        train(trial, TrialData(*images, {}), TrialDir(tmp_path / str(number)), "auc", 1, Hooks(lambda epoch: None))
        sizes.append(psutil.Process().memory_info().rss)
    after_warming_up, at_the_end = max(sizes[2:6]), max(sizes[-4:])
    assert at_the_end <= 1.1 * after_warming_up


def test_gpu_memory_stays_flat(data: TrialData, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    used: list[int] = []
    for number in range(10):
        trial = Trial(backbone="resnet50", pretrained=False, image_size=16, batch_size=24, epochs=1)
        train(trial, data, TrialDir(tmp_path / str(number)), "auc", 1, Hooks(lambda epoch: None))
        free, total = torch.cuda.mem_get_info()
        used.append(total - free)
    assert used[-1] - used[1] <= 200_000_000


def test_large_blocks_are_in_large_pages() -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system has no large pages")
    look = "open('/proc/self/smaps_rollup').read().split('AnonHugePages:')[1].split()[0]"
    program = f"import rfray.models, torch; block = torch.ones(50_000_000); print({look})"
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert int(done.stdout) > 150_000  # kB, of 200 MB
