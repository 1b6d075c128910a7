"""Scores on different left-out sources -> what each setting would come to over all of them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean


def rotation_effects(scores: Iterable[tuple[int, float]]) -> dict[int, float]:
    """How much easier (above 0) each rotation is than the average one, from pairs of rotation and score.

    In the model score = setting + rotation, it is how far the mean of a rotation's scores is from the mean of these.
    """
    of: dict[int, list[float]] = defaultdict(list)
    for rotation, score in scores:
        of[rotation].append(score)
    means = {rotation: mean(its) for rotation, its in of.items()}
    middle = mean(means.values()) if means else 0.0
    return {rotation: value - middle for rotation, value in means.items()}


def over_rotations(scores: Mapping[int, float], effects: Mapping[int, float]) -> tuple[float, float]:
    """Mean and worst over all rotations, of something with a score in some of them (at least one).

    With a score in all, they are those of the scores. Else the others are what the model of `rotation_effects` expects.
    """
    setting = mean(score - effects.get(rotation, 0.0) for rotation, score in scores.items())
    every = {rotation: setting + effect for rotation, effect in effects.items()} | dict(scores)
    return mean(every.values()), min(every.values())
