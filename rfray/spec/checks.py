"""A sweep file that can be read -> what can't work in it, and what comes to nothing, before torch and Ray are there."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rfray.errors import SweepError, nearest_first
from rfray.spec.key_errors import shown
from rfray.spec.names import REGISTERED, instead, is_known, known, transforms
from rfray.spec.schema_base import KeyPath
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range, TrialAxes

Axes = Mapping[str, list[Any] | Range]


def check_file(file: SweepFile, folders: bool = False) -> None:
    """Raises SweepError, a line a problem, for what can't work.

    That is names that are registered nowhere, files of weights (and with `folders` the folders of train and val) that
    are not there, and keys that don't go together.
    """
    own = file.sweep.augmentations

    def may_be(key: str, name: str) -> bool:
        return is_known(key, name) or (key == "augmentation" and name in own)

    names = name_problems(file, may_be, lambda key: [*(own if key == "augmentation" else ()), *known(key)])
    if problems := dict.fromkeys(
        [
            *(_missing_folders(file) if folders else ()),
            *names,
            *_missing_weights(file),
            *_unknown_transforms(file),
            *disagreements(file),
        ]
    ):
        raise SweepError(*problems)


def name_problems(
    file: SweepFile, is_known: Callable[[str, str], bool], known: Callable[[str], Sequence[str]]
) -> Iterator[str]:
    """Names that are not registered, a line each; `known` lists those of a key (backbone, …, metric)."""
    for key in ("backbone", "optimizer", *REGISTERED):
        section = "trial" if key in TrialAxes.model_fields else "search"
        search: list[tuple[KeyPath, Any]] = [((key,), getattr(file.sweep.search, key, None))]
        for place, value in file.sweep.trial.written(key) if section == "trial" else search:
            if not is_known(key, value):
                listed = [one.strip() for one in value.split(",")]
                several = (
                    f"[{', '.join(listed)}]"
                    if section == "trial" and all(is_known(key, one) for one in listed)
                    else None
                )
                allowed = several or instead(key, value) or nearest_first(value, known(key), 8)
                yield file.not_allowed((section, *place), value, allowed)


def _missing_folders(file: SweepFile) -> Iterator[str]:
    for part in file.sweep.data.training_folders:
        folder = file.sweep.data.folder(part)
        if folder is not None and "://" not in folder and not os.path.isdir(folder):
            yield file.problem(("data", part), f"{folder}: no such folder")
    for key in ("attributes", "leave_out"):
        table = getattr(file.sweep.data, key)
        if table is not None and "://" not in table and not os.path.isfile(table):
            yield file.problem(("data", key), f"{table}: no such file")


def _missing_weights(file: SweepFile) -> Iterator[str]:
    for place, source in file.sweep.trial.written("pretrained"):
        named = {(*place, name): one for name, one in source.items()} if isinstance(source, dict) else {place: source}
        for key, one in named.items():
            if isinstance(one, str) and "://" not in one and not os.path.isfile(one):
                yield file.problem(("trial", *key), f"{one}: no such file")


def _unknown_transforms(file: SweepFile) -> Iterator[str]:
    for name, entries in file.sweep.augmentations.items():
        for number, entry in enumerate(entries):
            for one in _transform_names(entry):
                if transforms() and one not in transforms():
                    allowed = nearest_first(one, transforms(), 8)
                    told = f"albumentations has no transform {shown(one)}; allowed: {allowed}"
                    yield file.problem(("augmentations", name, number), told)


def _transform_names(entry: Any) -> Iterator[str]:
    """The name of a transform, and of those inside it."""
    for name, arguments in entry.items() if isinstance(entry, dict) else ():
        yield name
        inside = arguments.get("transforms") if isinstance(arguments, dict) else None
        for one in inside if isinstance(inside, list) else ():
            yield from _transform_names(one)


def disagreements(file: SweepFile) -> Iterator[str]:
    """Keys that don't go together, a line each."""
    yield from _of_search(file)
    yield from _of_trials(file)


def _of_search(file: SweepFile) -> Iterator[str]:
    """The keys of `search` that don't go together, or with the axes."""
    sweep, search = file.sweep, file.sweep.search
    axes, longest = sweep.trial.axes(), max(sweep.trial.ends("epochs"))
    ranges = [name for name, axis in axes.items() if isinstance(axis, Range)]
    is_grid = search.algorithm == "grid"
    last = search.grace_epochs * search.reduction_factor ** (search.brackets - 1)

    def refused(key: str, allowed: str) -> str:
        return file.not_allowed(("search", key), getattr(search, key), allowed)

    if search.scheduler != "none" and search.grace_epochs > longest:
        yield refused("grace_epochs", f"at most trial.epochs ({longest:g})")
    elif search.brackets > 1 and search.scheduler != "asha":
        yield refused("brackets", "1; or more with search.scheduler asha")
    elif search.brackets > 1 and last > longest:
        allowed = f"fewer, as trials of the last bracket would first be compared after {last} of {longest:g} epochs"
        yield refused("brackets", allowed)
    if not is_grid and search.trials is None and search.budget is None:
        allowed = f"how many (or search.budget); {search.algorithm} does not know by itself when it is done"
        yield refused("trials", allowed)
    for name in ranges if is_grid else ():
        allowed = "a list of values, as a range has no end for search.algorithm grid; or use random or optuna"
        yield file.not_allowed(("trial", name), axes[name], allowed)
    if is_grid and search.trials is not None and search.trials < (settings := len(list(combinations(sweep)))):
        yield refused("trials", f"at least {settings}, the settings of the grid; or leave it out, or use random")
    endless = sweep.budget is not None and planned_trials(sweep) is None
    if endless and search.finalists and not sweep.judges_unseen:
        allowed = "0; or together with search.trials, as there would be new trials until the budget is used up"
        yield refused("finalists", allowed)


def _of_trials(file: SweepFile) -> Iterator[str]:
    """A probe for trials to begin with; and some images of every batch for every worker."""
    trial, workers = file.sweep.trial, file.sweep.resources.world_size
    for place, head in trial.written("head"):
        if head == "probe" and file.sweep.search.probe is False:
            yield file.not_allowed(("trial", *place), head, "random, as search.probe is false")
        if head == "probe" and isinstance(sizes := trial.axes().get("image_size"), Range):
            allowed = "a value or a list of values with trial.head probe, as each size has a probe of its own"
            yield file.not_allowed(("trial", "image_size"), sizes, allowed)
    mixed = any(trial.choices(name) != [0.0] for name in ("mixup", "cutmix"))
    least = workers * 2 if mixed and workers > 1 else workers
    pairs = ", two each as mixup and cutmix mix pairs" if mixed else ""
    for place, size in trial.written("batch_size"):
        if (size.bounds[0] if isinstance(size, Range) else size) < least:
            allowed = f"at least {least}: {workers} workers share every batch (resources){pairs}"
            yield file.not_allowed(("trial", *place), size, allowed)


def unused_settings(file: SweepFile) -> Iterator[str]:
    """What the sweep file says of policies and keys that come to nothing in this sweep, a line each."""
    sweep, search = file.sweep, file.sweep.search
    used = sweep.trial.choices("augmentation")
    for name in sweep.augmentations:
        if name not in used:
            yield file.problem(
                ("augmentations", name), f"no trial uses this policy (trial.augmentation: {', '.join(used)})"
            )
    planned, asked = planned_trials(sweep), search.trials
    if planned is not None and asked is not None and planned < asked:
        yield file.problem(("search", "trials"), f"given {asked}, but there are only {planned} settings to try")
    for key, reason in _without_effect(sweep).items():
        if reason and key in file.places:
            yield file.problem(key, f"has no effect, as {reason}")


def _without_effect(sweep: Sweep) -> dict[tuple[str, str], str | bool | None]:
    """Keys that come to nothing in some sweeps -> why so in this one; false where they have an effect."""
    search, trial, vote, data = sweep.search, sweep.trial, sweep.ensemble, sweep.data
    planned, backbones = planned_trials(sweep), len(trial.choices("backbone"))
    there = None if planned is None else planned + len(sweep.probes())
    few = f"there are only {planned} trials" + (f" and {len(sweep.probes())} probes" if sweep.probes() else "")
    longest, patience = max(trial.ends("epochs")), min(filter(None, trial.ends("patience")), default=0)
    once = trial.ends("epoch_images") == [0]
    undivided = data.folder("val") is not None and data.share("test") is None and data.source == "folder"
    return {
        ("search", "scheduler"): search.scheduler != "none"
        and once
        and longest <= search.grace_epochs
        and f"no trial has more than {longest:g} epochs (trial.epochs)",
        ("search", "grace_epochs"): search.scheduler == "none" and "search.scheduler is none",
        ("search", "reduction_factor"): search.scheduler != "asha" and f"search.scheduler is {search.scheduler}",
        ("search", "probe_keep"): (not sweep.probes() and "there are no probes")
        or (search.probe_keep >= backbones and f"the sweep has {backbones} backbone{'s' * (backbones > 1)}"),
        ("search", "finalists"): planned is not None and search.finalists > planned and few,
        ("ensemble", "top_k"): there is not None and vote.top_k > there and few,
        ("ensemble", "diverse"): (vote.diverse or 0) >= vote.top_k and f"ensemble.top_k is {vote.top_k}",
        ("ensemble", "leave_out_worse"): vote.leave_out_worse
        and (
            (vote.top_k == 1 and "ensemble.top_k is 1") or (vote.methods == ["weighted"] and "weighted chooses itself")
        ),
        ("trial", "patience"): once
        and patience >= max(1, longest - 1)
        and f"no trial has more than {longest:g} epochs (trial.epochs)",
        ("trial", "swa"): once
        and trial.choices("swa") != ["none"]
        and longest == 1
        and "no trial has more than 1 epoch (trial.epochs), and so a mean of its weights",
        ("data", "split_by"): undivided and "val and test are folders of their own",
        ("data", "test_duplicates"): data.share("test") is not None and "test is a share of the training images",
    }


def combinations(sweep: Sweep) -> Iterator[dict[str, int]]:
    """Position in the list of each axis, for every trial of a sweep without ranges, the last axis fastest; else none.

    Of settings that come to the same trial (weights for a backbone that has none, say) the first one.
    """
    axes = sweep.trial.axes()
    if any(isinstance(axis, Range) for axis in axes.values()):
        return
    seen: set[str] = set()
    for positions in itertools.product(*(range(len(axis)) for axis in axes.values() if isinstance(axis, list))):
        params = dict(zip(axes, positions, strict=True))
        key = sweep.trial.trial(settings(params, axes)).digest
        if key not in seen:
            seen.add(key)
            yield params


def settings(params: Mapping[str, Any], axes: Axes) -> dict[str, Any]:
    """The setting of optuna's `params`: each position in a list of choices is replaced by the choice."""
    return {name: axis[params[name]] if isinstance(axis, list) else params[name] for name, axis in axes.items()}


def planned_trials(sweep: Sweep) -> int | None:
    """How many trials a sweep asks for: `search.trials`, or all settings if fewer; None if a budget alone ends it."""
    asked = sweep.search.trials
    return sum(1 for _ in itertools.islice(combinations(sweep), asked)) or asked
