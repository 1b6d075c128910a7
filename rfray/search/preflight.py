"""a sweep -> nothing, or one error that says what can't work: all that can be known before the first trial."""

from collections.abc import Mapping
from pathlib import Path

from rfray.config import KeyPath, SweepFile
from rfray.data.augment import POLICIES, check_policy
from rfray.errors import SweepError, TrialError, nearest_first
from rfray.evaluation.metrics import METRICS
from rfray.search.space import MUTABLE
from rfray.search.strategies import REFUSED, SCHEDULERS, SEARCHERS, planned_trials
from rfray.training.model import backbone_names, check_weights
from rfray.training.optim import SCHEDULES, optimizer_names


def registered_names() -> dict[str, list[str]]:
    """Key of the sweep file -> the names that it may hold."""
    return {
        "backbone": backbone_names(),
        "augmentation": list(POLICIES),
        "optimizer": optimizer_names(),
        "schedule": list(SCHEDULES),
        "algorithm": list(SEARCHERS),
        "scheduler": list(SCHEDULERS),
        "metric": list(METRICS),
    }


def check_sweep(file: SweepFile) -> None:
    """Names, policies, weights and combinations. Raises SweepError that names file, line and key."""
    _check_names(file)
    _check_policies(file)
    _check_search(file)
    _check_weights(file)


def _check_names(file: SweepFile) -> None:
    names: Mapping[str, list[str]] = registered_names()
    problems: list[str] = []
    for key in ("backbone", "augmentation", "optimizer", "schedule"):
        allowed = [*names[key], *file.sweep.augmentations] if key == "augmentation" else names[key]
        known = set(allowed)
        written = getattr(file.sweep.trial, key)
        for position, value in enumerate(file.sweep.trial.choices(key)):
            if value not in known:
                place: KeyPath = ("trial", key, position) if isinstance(written, list) else ("trial", key)
                problems.append(str(file.error(place, value, nearest_first(value, allowed))))
    for key in ("algorithm", "scheduler", "metric"):
        value = getattr(file.sweep.search, key)
        if value not in names[key]:
            problems.append(str(file.error(("search", key), value, nearest_first(value, names[key]))))
    if problems:
        raise SweepError("\n".join(problems))


def _check_policies(file: SweepFile) -> None:
    sweep = file.sweep
    sizes = sweep.trial.choices("image_size") if "image_size" not in sweep.trial.axes() else [224]
    axis = sweep.trial.axes().get("image_size")
    if isinstance(axis, list):
        sizes = axis
    for name in {*sweep.augmentations, *sweep.trial.choices("augmentation")}:
        for size in sizes:
            try:
                check_policy(name, sweep.augmentations, size)
            except SweepError as error:
                key: KeyPath = ("augmentations", name) if name in sweep.augmentations else ("trial", "augmentation")
                raise file.error(key, name, str(error)) from None


def _check_search(file: SweepFile) -> None:
    sweep, search = file.sweep, file.sweep.search
    reason = REFUSED.get((search.algorithm, search.scheduler))
    if reason:
        raise file.error(("search", "scheduler"), search.scheduler, f"not with {search.algorithm}: {reason}")
    if search.scheduler == "pbt" and not set(MUTABLE) & set(sweep.trial.axes()):
        raise file.error(("search", "scheduler"), "pbt", f"with at least one axis among {', '.join(MUTABLE)}")
    epochs = sweep.trial.axes().get("epochs", sweep.trial.choices("epochs"))
    longest = max(epochs) if isinstance(epochs, list) else epochs.bounds[1]
    if search.scheduler != "none" and search.grace_epochs > longest:
        raise file.error(("search", "grace_epochs"), search.grace_epochs, f"at most trial.epochs ({longest:g})")
    try:
        planned_trials(sweep)
    except ValueError as error:
        raise file.error(("search", "trials"), search.trials, str(error)) from None


def _check_weights(file: SweepFile) -> None:
    sweep = file.sweep
    for backbone, sources in sweep.trial.weight_sources().items():
        for source in sources:
            if source is False:
                continue
            try:
                check_weights(backbone, source)
            except TrialError as error:
                shown = Path(source).name if isinstance(source, str) else source
                raise file.error(("trial", "pretrained"), shown, str(error)) from None
