"""`search.budget` -> what a sweep is unless its file says otherwise, and how many images it has time for."""

import math
import re
from typing import Any, NamedTuple

from rfray.spec.trial import SEEDS

WITH_A_BUDGET = {"lr": {"log": [1e-4, 3e-3]}, "tta": "auto"}
"""What the trials of a sweep with a budget are unless it says otherwise."""
CUT_ANYWHERE = {"schedule": "constant", "ema": 0.99}
"""The same where any begins with pretrained weights: what is measured to be good wherever such a trial is cut. One with
random weights is better when it is trained to its end, so it has neither these nor asha."""
IMAGES_PER_SECOND, LEAST_IMAGES = 12, 5_000
"""Images of the training folder that are used for each second of a budget, and core, and however short it is: a core
reads, decodes and audits about 200 in a second, but trains on a few tens to a hundred, and so comes to no more."""
ENOUGH_TO_CHOOSE, LEAST_TO_CHOOSE = 5_000, 1_000
"""Images of val: of 5,000 the 95 % interval of an AUC of 0.9 is 0.009 to each side, and of 1,000 it is 0.02."""


class Budget(NamedTuple):
    """`search.budget`: what a sweep may use, over all its starts."""

    seconds: float
    of_gpus: bool
    """Whether they are seconds of GPUs (trial seconds x the GPUs of its slot), else of the command, by the clock."""


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""First letter of a unit of time -> its seconds."""
_UNIT = r"s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?"
_TIMES = re.compile(rf"(\d+(?:\.\d+)?)\s*(gpu[- ]?)?({_UNIT})(?![a-z])[\s,]*(?:and\s+)?", re.IGNORECASE)


def read_budget(text: str) -> Budget | None:
    """What a text such as 12m, 1h 30min, 2 minutes or 8gpu-h means; None where it is no budget."""
    found = list(_TIMES.finditer(text.strip()))
    of_gpus = {part[2] is not None for part in found}
    seconds = sum(float(part[1]) * _SECONDS[part[3][0].lower()] for part in found)
    if "".join(part[0] for part in found) != text.strip() or len(of_gpus) != 1 or not seconds:
        return None
    return Budget(seconds, of_gpus.pop())


A_TIME = "a time by the clock such as 90s, 12m or 1.5h, or of GPUs such as 30gpu-m or 8gpu-h"
_ISO_8601 = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+)S)?)?", re.IGNORECASE
)
_BY_COLONS = re.compile(r"(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)")
_WEEKS = re.compile(r"(?P<w>\d+)\s*w(?:(?:ee)?ks?)?", re.IGNORECASE)
_FORMS = (_ISO_8601, _BY_COLONS, _WEEKS)


def checked_budget(given: Any) -> Any:
    """The text itself. Raises ValueError, which says what may be meant, where it is no budget."""
    if isinstance(given, str) and read_budget(given):
        return given
    text = str(given).strip()
    written = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    parts = {unit: int(count) for unit, count in written.groupdict().items() if count} if written else {}
    if weeks := parts.pop("w", 0):
        parts = {"d": 7 * weeks + parts.pop("d", 0), **parts}
    near = [" ".join(f"{count}{unit}" for unit, count in parts.items() if count), *(text + unit for unit in "smh")]
    meant = [one for one in near if read_budget(one)] if type(given) in (str, int, float) else []
    raise ValueError(A_TIME + (f"; nearest: {', '.join(meant)}" if meant else ""))


def with_defaults(raw: Any) -> Any:
    """What a sweep file says, with what its seed, its judge and its budget decide in place of what it leaves out."""
    if not isinstance(raw, dict) or not isinstance(raw.get("trial"), dict):
        return raw
    trial, search, ensemble = raw["trial"], raw.get("search"), raw.get("ensemble", {})
    if type(raw.get("seed")) is int and raw["seed"] in SEEDS:  # a wrong one is one problem
        trial = {"seed": raw["seed"], **trial}
    if isinstance(search, dict) and search.get("judge", "val") != "val":
        search = {"finalists": 1, **search}
        raw = {**raw, "search": search}
    if not isinstance(search, dict) or search.get("budget") is None:
        return {**raw, "trial": trial}
    pretrained = _any_pretrained(trial.get("pretrained", True))
    with_probes = pretrained and search.get("probe") is not False and not isinstance(trial.get("image_size"), dict)
    begun = {**(CUT_ANYWHERE if pretrained else {}), **({"head": "probe"} if with_probes else {})}
    return {
        **raw,
        "search": {"algorithm": "optuna", "scheduler": "asha" if pretrained else "none", **search},
        "trial": {**WITH_A_BUDGET, **begun, **trial},
        "ensemble": {"leave_out_worse": True, **ensemble} if isinstance(ensemble, dict) else ensemble,
    }


def _any_pretrained(given: Any) -> bool:
    """Whether what is written as trial.pretrained is anything but false throughout."""
    if isinstance(given, list | dict):
        return any(map(_any_pretrained, given.values() if isinstance(given, dict) else given))
    return given is not False


def images_to_use(budget: Budget | None, cores: int) -> int | None:
    """How many images of the training folder there is time for, with so many cores; None for all."""
    if budget is None or budget.of_gpus:
        return None
    return max(LEAST_IMAGES, int(IMAGES_PER_SECOND * cores * budget.seconds))


def images_to_choose_by(budget: Budget | None) -> int:
    """How many images of val are enough: two for each second of a budget."""
    seconds = budget.seconds if budget else math.inf
    return int(min(ENOUGH_TO_CHOOSE, max(LEAST_TO_CHOOSE, 2 * seconds)))
