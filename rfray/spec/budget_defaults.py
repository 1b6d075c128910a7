"""`search.budget` -> what a sweep is unless its file says otherwise, and how many images it has time for."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

WITH_A_BUDGET = {"lr": {"log": [1e-4, 3e-3]}, "tta": "auto"}
"""What the trials of a sweep with a budget are unless it says otherwise."""
CUT_ANYWHERE = {"schedule": "constant", "ema": 0.99}
"""The same where any begins with pretrained weights: what is measured to be good wherever such a trial is cut. One with
random weights is better when it is trained to its end, so it has neither these nor asha."""
IMAGES_PER_SECOND = 12
"""Images of the training folder that are used for each second of a budget, and core: a core reads, decodes and audits
about 200 in a second, but trains on a few tens to a hundred, so that a trial would not come to more of them."""
LEAST_IMAGES = 5_000
"""Images of the training folder that are used however short the budget is."""
ENOUGH_TO_CHOOSE, LEAST_TO_CHOOSE = 5_000, 1_000
"""Images of val: of 5,000 the 95 % interval of an AUC of 0.9 is 0.009 to each side, and of 1,000 it is 0.02."""


class Budget(NamedTuple):
    """`search.budget`: what a sweep may use, over all its starts."""

    seconds: float
    of_gpus: bool
    """Whether they are seconds of GPUs (trial seconds x the GPUs of its slot), else of the command, by the clock."""


def read_budget(text: str) -> Budget | None:
    """What a text such as 12m or 8gpu-h means; None where it is no budget."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(gpu-)?([smh])", text)
    if found is None or not float(found[1]):
        return None
    return Budget(float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[3]], found[2] is not None)


def images_to_use(budget: Budget | None, cores: int) -> int | None:
    """How many images of the training folder there is time for, with so many cores; None for all."""
    if budget is None or budget.of_gpus:
        return None
    return max(LEAST_IMAGES, int(IMAGES_PER_SECOND * cores * budget.seconds))


def images_to_choose_by(budget: Budget | None) -> int:
    """How many images of val are enough: two for each second of a budget."""
    return ENOUGH_TO_CHOOSE if budget is None else int(min(ENOUGH_TO_CHOOSE, max(LEAST_TO_CHOOSE, 2 * budget.seconds)))


def with_budget_defaults(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a sweep file says, with what a budget decides in the place of what it leaves out."""
    search, trial, ensemble = raw.get("search"), raw.get("trial"), raw.get("ensemble", {})
    if not (isinstance(search, dict) and isinstance(trial, dict)) or search.get("budget") is None:
        return raw
    pretrained = _any_pretrained(trial.get("pretrained", True))
    with_probes = pretrained and search.get("probe") is not False and not isinstance(trial.get("image_size"), dict)
    begun = {**(CUT_ANYWHERE if pretrained else {}), **({"head": "probe"} if with_probes else {})}
    searched = {"algorithm": "optuna", "scheduler": "asha" if pretrained else "none"}
    decided = {"search": {**searched, **search}, "trial": {**WITH_A_BUDGET, **begun, **trial}}
    if isinstance(ensemble, dict):
        decided["ensemble"] = {"leave_out_worse": True, **ensemble}
    return {**raw, **decided}


def _any_pretrained(given: Any) -> bool:
    """Whether what is written as trial.pretrained is anything but false throughout."""
    if isinstance(given, list | dict):
        return any(map(_any_pretrained, given.values() if isinstance(given, dict) else given))
    return given is not False
