"""the sweep's axes -> what optuna draws from, what a grid walks over, what population-based training may change."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune
from ray.tune.search.sample import Domain

from rfray.spec.trial import Range, Trial

Axes = Mapping[str, list[Any] | Range]

MUTABLE = ("lr", "weight_decay", "label_smoothing", "mixup", "cutmix", "clip_grad", "augmentation")
"""What may change in the middle of a trial: nothing that the model or its epochs are made of."""


def distributions(axes: Axes) -> dict[str, BaseDistribution]:
    """What optuna draws from; a choice is drawn by its place in the list, so that it may be of any type."""
    return {name: _distribution(axis) for name, axis in axes.items()}


def settings(drawn: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
    """What was drawn, with each place in a list of choices replaced by the choice."""
    return {name: axis[drawn[name]] if isinstance(axis, list) else drawn[name] for name, axis in axes.items()}


def places(trial: Trial, axes: Axes) -> dict[str, Any] | None:
    """What would have to be drawn for a trial's values on the axes; None where it is outside of one."""
    found: dict[str, Any] = {}
    for name, axis in axes.items():
        value = getattr(trial, name)
        if isinstance(axis, list):
            choices = [choice.get(trial.backbone, False) if isinstance(choice, dict) else choice for choice in axis]
            if value not in choices:
                return None
            found[name] = choices.index(value)
        else:
            low, high = axis.bounds
            if not low <= value <= high:
                return None
            found[name] = value
    return found


def size(axes: Axes) -> int | None:
    """How many settings there are; None where a range makes them endless."""
    if any(isinstance(axis, Range) for axis in axes.values()):
        return None
    return math.prod(len(axis) for axis in axes.values() if isinstance(axis, list))


def combinations(axes: Axes) -> Iterator[dict[str, Any]]:
    """Every setting of axes that are choices, the last axis fastest."""
    choices = [axis for axis in axes.values() if isinstance(axis, list)]
    for combination in itertools.product(*choices):
        yield dict(zip(axes, combination, strict=True))


def mutations(axes: Axes) -> dict[str, list[Any] | Domain]:
    """The axes that population-based training may change, in Ray Tune's terms."""
    return {name: _domain(axis) for name, axis in axes.items() if name in MUTABLE}


def within(config: dict[str, Any], axes: Axes) -> dict[str, Any]:
    """A setting that was multiplied by some factor, brought back into the bounds of its axes."""
    kept = dict(config)
    for name, axis in axes.items():
        if isinstance(axis, Range):
            low, high = axis.bounds
            kept[name] = min(max(kept[name], low), high)
            if axis.kind == "int":
                kept[name] = round(kept[name])
    return kept


def _distribution(axis: list[Any] | Range) -> BaseDistribution:
    if isinstance(axis, list):
        return CategoricalDistribution(tuple(range(len(axis))))
    low, high = axis.bounds
    if axis.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=axis.kind == "log")


def _domain(axis: list[Any] | Range) -> list[Any] | Domain:
    if isinstance(axis, list):
        return axis
    low, high = axis.bounds
    if axis.kind == "int":
        return tune.randint(int(low), int(high) + 1)
    return tune.loguniform(low, high) if axis.kind == "log" else tune.uniform(low, high)
