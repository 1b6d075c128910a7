"""a sweep -> nothing, or one error that says what can't work: all that can be known before the first trial."""

from collections.abc import Iterator, Mapping, Sequence

from rfray.data.augment import POLICIES, PolicySpec, check_policy
from rfray.errors import SweepError, TrialError, nearest_first
from rfray.models.build import backbone_names, check_weights
from rfray.spec.sweep import SearchSettings
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range
from rfray.stats.metrics import METRICS
from rfray.training.optim import SCHEDULES, optimizer_names
from rfray.tuning.strategies import REMOVED, SCHEDULERS, SEARCHERS, grid_size


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
    """Names, policies, weights and combinations. Raises SweepError, one line per problem, with file, line and key."""
    # each group relies on what the one before it has found to be right
    for checks in ((_names,), (_policies, _search, _probes, _shares), (_weights,)):
        problems = dict.fromkeys(problem for check in checks for problem in check(file))
        if problems:
            raise SweepError("\n".join(problems))


def _names(file: SweepFile) -> Iterator[str]:
    names = registered_names()
    names["augmentation"] += [name for name in file.sweep.augmentations if name not in POLICIES]
    for key in ("backbone", "augmentation", "optimizer", "schedule"):
        known = set(names[key])
        for place, value in file.sweep.trial.written(key):
            if value not in known:
                yield file.not_allowed(("trial", *place), value, nearest_first(value, names[key]))
    for key in ("algorithm", "scheduler", "metric"):
        value = getattr(file.sweep.search, key)
        if value not in names[key]:
            allowed = REMOVED.get(value) if key == "scheduler" else None
            yield file.not_allowed(("search", key), value, allowed or nearest_first(value, names[key]))


def _policies(file: SweepFile) -> Iterator[str]:
    trial, own = file.sweep.trial, file.sweep.augmentations
    size = trial.axes().get("image_size", trial.choices("image_size"))
    sizes = size.bounds if isinstance(size, Range) else size
    for place, name in trial.written("augmentation"):
        if name not in own and (problem := _policy_problem(name, own, sizes)):
            yield file.problem(("trial", *place), problem)
    for name, entries in own.items():
        problem = _policy_problem(name, own, sizes)
        if problem:
            alone = [_policy_problem(name, {name: [entry]}, sizes) for entry in entries]
            found = [(position, text) for position, text in enumerate(alone) if text]
            for position, text in found:
                yield file.problem(("augmentations", name, position), text)
            if not found:
                yield file.problem(("augmentations", name), problem)


def _policy_problem(name: str, own: Mapping[str, PolicySpec], sizes: Sequence[float]) -> str | None:
    for size in sizes:
        try:
            check_policy(name, own, int(size))
        except SweepError as error:
            return str(error)
    return None


def _search(file: SweepFile) -> Iterator[str]:
    sweep, search = file.sweep, file.sweep.search
    axes = sweep.trial.axes()
    ranges = {name: axis for name, axis in axes.items() if isinstance(axis, Range)}
    longest = max(sweep.trial.ends("epochs"))
    if search.scheduler != "none" and search.grace_epochs > longest:
        yield file.not_allowed(("search", "grace_epochs"), search.grace_epochs, f"at most trial.epochs ({longest:g})")
    elif search.brackets > 1 and search.scheduler != "asha":
        yield file.not_allowed(("search", "brackets"), search.brackets, "1; or more with search.scheduler asha")
    elif search.brackets > 1 and (last := _last_bracket(search)) > longest:
        allowed = f"fewer, as trials of the last bracket would first be compared after {last} of {longest:g} epochs"
        yield file.not_allowed(("search", "brackets"), search.brackets, allowed)
    if search.algorithm != "grid":
        if search.trials is None and search.budget is None:
            allowed = f"how many (or search.budget); {search.algorithm} does not know by itself when it is done"
            yield file.not_allowed(("search", "trials"), None, allowed)
    elif ranges:
        for name, axis in ranges.items():
            allowed = "a list of values, as a range has no end for search.algorithm grid; or use random or optuna"
            yield file.not_allowed(("trial", name), axis.model_dump(exclude_none=True), allowed)
    elif search.trials is not None and search.trials < (settings := grid_size(sweep)):
        allowed = f"at least {settings}, the settings of the grid; or leave it out, or use random"
        yield file.not_allowed(("search", "trials"), search.trials, allowed)


def _last_bracket(search: SearchSettings) -> int:
    """The epochs at which the trials of the last bracket are first compared."""
    return search.grace_epochs * int(search.reduction_factor ** (search.brackets - 1))


def _probes(file: SweepFile) -> Iterator[str]:
    trial = file.sweep.trial
    for place, head in trial.written("head"):
        if head == "probe" and file.sweep.search.probe is False:
            yield file.not_allowed(("trial", *place), head, "random, as search.probe is false")
        if head == "probe" and isinstance(sizes := trial.axes().get("image_size"), Range):
            allowed = "a value or a list of values with trial.head probe, as each size has a probe of its own"
            yield file.not_allowed(("trial", "image_size"), sizes.model_dump(exclude_none=True), allowed)


def _shares(file: SweepFile) -> Iterator[str]:
    """Every worker of a trial must get some of every batch."""
    trial, workers = file.sweep.trial, file.sweep.resources.world_size
    mixed = any(trial.choices(name) != [0.0] for name in ("mixup", "cutmix"))
    least = workers * 2 if mixed and workers > 1 else workers
    for place, size in trial.written("batch_size"):
        if (size.bounds[0] if isinstance(size, Range) else size) < least:
            pairs = ", two each as mixup and cutmix mix pairs" if mixed else ""
            given = size.model_dump(exclude_none=True) if isinstance(size, Range) else size
            yield file.not_allowed(
                ("trial", *place), given, f"at least {least}: {workers} workers share every batch (resources){pairs}"
            )


def _weights(file: SweepFile) -> Iterator[str]:
    trial = file.sweep.trial
    for place, source in trial.written("pretrained"):
        for backbone in trial.choices("backbone"):
            named = isinstance(source, dict)
            try:
                check_weights(backbone, source.get(backbone, False) if named else source)
            except TrialError as error:
                yield file.problem(("trial", *place, *([backbone] if named else [])), str(error))
