"""The sweep's axes -> what optuna draws from, and what a grid walks through."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from rfray.spec.trial import Range, Trial

Axes = Mapping[str, list[Any] | Range]


def distributions(axes: Axes) -> dict[str, BaseDistribution]:
    """What optuna draws from; a choice is drawn by its position in the list, so that it may be of any type."""
    return {name: _distribution(axis) for name, axis in axes.items()}


def settings(params: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
    """The setting of optuna's `params`: each position in a list of choices is replaced by the choice."""
    return {name: axis[params[name]] if isinstance(axis, list) else params[name] for name, axis in axes.items()}


def params_of(trial: Trial, axes: Axes) -> dict[str, Any] | None:
    """Optuna's params for a trial's values on the axes (the inverse of `settings`); None where it is outside of one."""
    params: dict[str, Any] = {}
    for name, axis in axes.items():
        value = getattr(trial, name)
        if isinstance(axis, list):
            choices = [choice.get(trial.backbone, False) if isinstance(choice, dict) else choice for choice in axis]
            if value not in choices:
                return None
            params[name] = choices.index(value)
        else:
            low, high = axis.bounds
            if not low <= value <= high:
                return None
            params[name] = value
    return params


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


def _distribution(axis: list[Any] | Range) -> BaseDistribution:
    if isinstance(axis, list):
        return CategoricalDistribution(tuple(range(len(axis))))
    low, high = axis.bounds
    if axis.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=axis.kind == "log")
