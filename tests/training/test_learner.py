"""Schedules by hand, every optimizer by one step."""

import itertools

import pytest
import torch
from torch import nn

from rfray.models.build import build_model
from rfray.spec.trial import Trial
from rfray.training.learner import SCHEDULES, make_optimizer, make_schedule, optimizer_names


def rates(schedule: str, epochs: int = 6, steps: int = 10, warmup: float = 0.0) -> list[float]:
    trial = Trial(backbone="test_resnet", schedule=schedule, epochs=epochs, warmup=warmup, lr=1.0)
    optimizer = make_optimizer(trial, nn.Linear(2, 2))
    moved = make_schedule(trial, optimizer, trial.epochs, steps)
    seen = []
    for step in range(epochs * steps):
        moved.step_update(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_cosine_by_hand() -> None:
    seen = rates("cosine")
    assert seen[0] == 1.0
    assert seen[30] == pytest.approx(0.5)  # half of the way: (1 + cos(pi / 2)) / 2
    assert seen[59] < 0.01


def test_constant_stays() -> None:
    assert set(rates("constant")) == {1.0}


def test_step_falls_to_a_tenth_after_each_third() -> None:
    seen = rates("step")
    assert [seen[0], seen[19], seen[20], seen[40]] == pytest.approx([1.0, 1.0, 0.1, 0.01])


@pytest.mark.parametrize(("epochs", "steps"), [(1, 10), (1, 3), (2, 5), (5, 10), (8, 3), (10, 10), (10, 3), (20, 7)])
def test_step_falls_twice_whatever_the_number_of_epochs(epochs: int, steps: int) -> None:
    of = epochs * steps
    thirds = [0.1 ** (3 * step // of) for step in range(of)]
    assert rates("step", epochs, steps) == pytest.approx(thirds)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warmup_rises_from_a_hundredth_of_the_peak(schedule: str) -> None:
    seen = rates(schedule, warmup=0.5)
    assert seen[0] == pytest.approx(0.01)
    assert seen[15] == pytest.approx(0.505, abs=0.01)  # half of 30 steps of warm-up; tanh begins a little below 1
    assert seen[:30] == sorted(seen[:30])
    assert max(seen) <= 1.0


def test_layer_decay_slows_the_early_layers() -> None:
    model, _ = build_model(Trial(backbone="test_resnet", pretrained=False))
    optimizer = make_optimizer(Trial(backbone="test_resnet", layer_decay=0.5), model)
    scales = sorted({group["lr_scale"] for group in optimizer.param_groups})
    assert scales[-1] == 1.0
    assert all(later == pytest.approx(2 * earlier) for earlier, later in itertools.pairwise(scales))


COMPILED = ("kron", "kronc", "kronw")  # torch takes 8 s to prepare for them


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COMPILED else []) for name in optimizer_names()]
)
def test_every_optimizer_takes_a_step(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    optimizer = make_optimizer(Trial(backbone="test_resnet", optimizer=name, lr=0.01), layer)
    before = layer[0].weight.detach().clone()
    for _ in range(2):  # some only look around in their first step
        layer(torch.ones(4, 8)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not torch.equal(before, layer[0].weight)
    assert torch.isfinite(layer[0].weight).all()
