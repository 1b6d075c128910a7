"""Val predictions -> from which p_fake on an image is called fake, and which get no verdict; what test makes of it."""

from dataclasses import dataclass

import numpy as np

from rfray.errors import DataError
from rfray.spec.sweep import EnsembleSettings, MaxFpr
from rfray.stats.intervals import wilson
from rfray.stats.metrics import Outcome, brier, calibration_error, confusion
from rfray.stats.predictions import Predictions
from rfray.stats.voting import fit_temperature

POINT = ("fpr", "fpr_low", "fpr_high", "fpr_val", "unsure_share", "unsure_error", "temperature", "ece", "brier")
"""What `point_on_test` measures: the false-positive rate (share of the real images called fake) on test with its 95 %
interval (Wilson's; on the leaderboard that of `significance`, which knows the groups), and on val; where a band was
set, the share of test images without a verdict and the error rate among
the others; the temperature that fits val (it is not applied: see `fit_temperature`); the expected calibration error and
the Brier score on test, without the temperature."""

ROUNDING = 1e-9
"""Of an image: numbers of images that differ by less are equal, as a share of a million images is rounded by less."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a probability is turned into: a class, or no verdict."""

    threshold: float
    """An image is called fake where p_fake >= this; above 1: none is."""
    unsure: tuple[float, float] | None = None
    """An image gets no verdict where low <= p_fake < high; None: every image gets one."""


def choose_point(val: Predictions, settings: EnsembleSettings) -> OperatingPoint:
    """The operating point that the sweep asks for. Raises DataError as `choose_threshold` does."""
    threshold, wanted = choose_threshold(val, settings.threshold), settings.unsure_error
    return OperatingPoint(threshold, None if wanted is None else unsure_band(val, threshold, wanted))


def choose_threshold(val: Predictions, rule: float | str | MaxFpr) -> float:
    """The number itself, or the threshold that `rule` (max_f1, youden or a greatest false-positive rate) finds on val.

    Every score of val is tried, and one above them all, at which no image is called fake. max_f1 and youden (recall
    minus false-positive rate; Youden 1950) take the best, among equals the highest; max_fpr takes the lowest at which
    few enough real images are called fake, and there always is one.
    Raises DataError where val has none of the images that the rule counts.
    """
    if isinstance(rule, float):
        return rule
    fakes = int(val.labels.sum())
    reals = len(val) - fakes
    name = rule if isinstance(rule, str) else "max_fpr"
    needed = {"max_f1": {"fake": fakes}, "youden": {"real": reals, "fake": fakes}, "max_fpr": {"real": reals}}[name]
    if lacking := [label for label, count in needed.items() if not count]:
        raise DataError(
            f"ensemble.threshold: {name} can't be chosen, as val has no {' and no '.join(lacking)} image; "
            "allowed then: a number, e.g. 0.5"
        )
    levels = np.unique(val.p_fake)[::-1]
    levels = np.concatenate([[np.nextafter(levels[0], 2)], levels])
    true, false = Outcome(val).curve  # at each of the levels
    if isinstance(rule, MaxFpr):
        return float(levels[np.count_nonzero(false / reals <= rule.max_fpr) - 1])
    gain = 2 * true / (true + false + fakes) if rule == "max_f1" else true * reals - false * fakes
    return float(levels[np.argmax(gain)])


def unsure_band(val: Predictions, threshold: float, wanted: float) -> tuple[float, float] | None:
    """The narrowest band [low, high) around `threshold` outside of which at most the share `wanted` is called wrongly.

    Below low an image is called real, from high on fake (Chow 1970: the reject option). The narrowest is the one with
    the fewest val images in it, of these the one with the least high - low; (threshold, threshold) where none is
    needed. None where no band leaves images outside with so few errors among them.
    """
    real_calls, fake_calls = val.p_fake < threshold, val.p_fake >= threshold
    low_levels, real_left, missed = _left_outside(-val.p_fake[real_calls], val.labels[real_calls] == 1)
    high_levels, fake_left, alarms = _left_outside(val.p_fake[fake_calls], val.labels[fake_calls] == 0)
    lows = np.concatenate([[threshold], -low_levels])
    highs = np.concatenate([[threshold], high_levels[1:], np.nextafter(high_levels[-1:], 2)])
    # errors that are still allowed on each side; too many on one side (less than 0) are balanced by the other
    spare_low, spare_high = wanted * real_left - missed, wanted * fake_left - alarms
    high = np.searchsorted(np.maximum.accumulate(spare_high), -spare_low - ROUNDING)  # of each low the first that does
    low = np.flatnonzero(high < len(highs))
    high = high[low]
    verdicts = real_left[low] + fake_left[high]
    if not verdicts.any():
        return None
    narrowest = np.lexsort((highs[high] - lows[low], -verdicts))[0]
    return float(lows[low][narrowest]), float(highs[high][narrowest])


def point_on_test(val: Predictions, test: Predictions, point: OperatingPoint) -> dict[str, float | None]:
    """COLUMNS: what `point`, chosen on val, comes to on test; None where a value is undefined or was not asked for."""
    on_val = confusion(val, point.threshold)
    found = dict.fromkeys(POINT) | point_on(test, point)
    found["fpr_val"] = _share(on_val.fp, on_val.fp + on_val.tn)
    return found | {"temperature": fit_temperature(val.labels, val.p_fake)}


def point_on(test: Predictions, point: OperatingPoint) -> dict[str, float | None]:
    """The same of the images alone: what there is of POINT without those that it was chosen on."""
    at = confusion(test, point.threshold)
    found: dict[str, float | None] = {"fpr": _share(at.fp, at.fp + at.tn)}
    if found["fpr"] is not None:
        found["fpr_low"], found["fpr_high"] = wilson(at.fp, at.fp + at.tn).tolist()
    if point.unsure is not None:
        real, fake = test.p_fake < point.unsure[0], test.p_fake >= point.unsure[1]
        called, wrong = int((real | fake).sum()), int((real & (test.labels == 1) | fake & (test.labels == 0)).sum())
        found["unsure_share"], found["unsure_error"] = _share(len(test) - called, len(test)), _share(wrong, called)
    return found | {"ece": calibration_error(test), "brier": brier(test)}


def _left_outside(scores: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k different scores, (k,) from the lowest, and what a band leaves outside that covers 0, 1, … k of them.

    (k + 1,) images and (k + 1,) errors; `wrong` (n,) bool says which of `scores` (n,) are called wrongly.
    """
    levels, numbers = np.unique(scores, return_inverse=True)
    counts = (np.bincount(numbers, weights, minlength=len(levels)) for weights in (None, wrong))
    images, errors = (np.append(np.cumsum(each[::-1])[::-1], 0) for each in counts)
    return levels, images, errors


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
