"""a sweep -> the size of its models, or one error that says what can't work: names, combinations, a training step."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from rfray.data.augment import POLICIES, PolicySpec, check_policy
from rfray.errors import SweepError, TrialError
from rfray.models.build import backbone_names, build_model, check_weights
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range, Trial
from rfray.stats.metrics import METRICS
from rfray.training.learner import SCHEDULES, make_optimizer, optimizer_names
from rfray.tuning.strategies import SCHEDULERS, SEARCHERS, combinations, planned_trials

PAIR = 2
"""Images of a step: the fewest with which batch normalisation works."""


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
    # each group relies on what the one before it has checked
    for checks in ((_names,), (_policies, _search, _trials), (_weights,)):
        problems = dict.fromkeys(problem for check in checks for problem in check(file))
        if problems:
            raise SweepError(*problems)


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
    undivided = data.share("val") is None and data.share("test") is None and data.source == "folder"
    return {
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
        ("trial", "patience"): trial.ends("epoch_images") == [0]
        and patience >= max(1, longest - 1)
        and f"no trial has more than {longest:g} epochs (trial.epochs)",
        ("data", "split_by"): undivided and "val and test are folders of their own",
        ("data", "test_duplicates"): data.share("test") is not None and "test is a share of the training images",
    }


def check_models(file: SweepFile) -> tuple[dict[str, int], float]:
    """Builds each backbone and trains it on two images at each size.

    Returns backbone -> its number of parameters, and the seconds that the fastest takes to learn from an image with one
    thread of this machine's CPU. Raises SweepError, a line per problem, with file, line and key.
    """
    axes = file.sweep.trial
    first = {name: axes.ends(name)[0] for name in axes.axes()}
    parameters: dict[str, int] = {}
    problems, fastest = list[str](), math.inf
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a few images keep no more of them busy
    for place, backbone in axes.written("backbone"):
        for size in axes.ends("image_size"):
            trial = axes.trial({**first, "backbone": backbone, "image_size": size})
            try:
                parameters[backbone], seconds = _two_steps(trial)
                fastest = min(fastest, seconds / PAIR)
            except TrialError as error:
                problems.append(file.problem(("trial", *place), str(error)))
    torch.set_num_threads(threads)
    if problems:
        raise SweepError(*problems)
    return parameters, fastest


def _names(file: SweepFile) -> Iterator[str]:
    names = registered_names()
    names["augmentation"] += file.sweep.augmentations
    return file.name_problems(lambda key, name: name in names[key], names.__getitem__)


def _policies(file: SweepFile) -> Iterator[str]:
    trial, own = file.sweep.trial, file.sweep.augmentations
    sizes = trial.ends("image_size")
    for place, name in trial.written("augmentation"):
        if name not in own and (problem := _policy_problem(name, own, sizes)):
            yield file.problem(("trial", *place), problem)
    for name, entries in own.items():
        if problem := _policy_problem(name, own, sizes):
            alone = [_policy_problem(name, {name: [entry]}, sizes) for entry in entries]
            found = [file.problem(("augmentations", name, number), text) for number, text in enumerate(alone) if text]
            yield from found or [file.problem(("augmentations", name), problem)]


def _policy_problem(name: str, own: Mapping[str, PolicySpec], sizes: Sequence[float]) -> str | None:
    for size in sizes:
        try:
            check_policy(name, own, int(size))
        except SweepError as error:
            return str(error)
    return None


def _search(file: SweepFile) -> Iterator[str]:
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
        yield file.not_allowed(("trial", name), _given(axes[name]), allowed)
    if is_grid and search.trials is not None and search.trials < (settings := len(list(combinations(sweep)))):
        yield refused("trials", f"at least {settings}, the settings of the grid; or leave it out, or use random")


def _trials(file: SweepFile) -> Iterator[str]:
    """A probe for trials to begin with; and some images of every batch for every worker."""
    trial, workers = file.sweep.trial, file.sweep.resources.world_size
    for place, head in trial.written("head"):
        if head == "probe" and file.sweep.search.probe is False:
            yield file.not_allowed(("trial", *place), head, "random, as search.probe is false")
        if head == "probe" and isinstance(sizes := trial.axes().get("image_size"), Range):
            allowed = "a value or a list of values with trial.head probe, as each size has a probe of its own"
            yield file.not_allowed(("trial", "image_size"), _given(sizes), allowed)
    mixed = any(trial.choices(name) != [0.0] for name in ("mixup", "cutmix"))
    least = workers * 2 if mixed and workers > 1 else workers
    pairs = ", two each as mixup and cutmix mix pairs" if mixed else ""
    for place, size in trial.written("batch_size"):
        if (size.bounds[0] if isinstance(size, Range) else size) < least:
            allowed = f"at least {least}: {workers} workers share every batch (resources){pairs}"
            yield file.not_allowed(("trial", *place), _given(size), allowed)


def _weights(file: SweepFile) -> Iterator[str]:
    trial = file.sweep.trial
    for place, source in trial.written("pretrained"):
        for backbone in trial.choices("backbone"):
            named = isinstance(source, dict)
            try:
                check_weights(backbone, source.get(backbone, False) if named else source)
            except TrialError as error:
                yield file.problem(("trial", *place, *([backbone] if named else [])), str(error))


def _given(value: Any) -> Any:
    """A value of the sweep file as it was written."""
    return value.model_dump(exclude_none=True) if isinstance(value, Range) else value


def _two_steps(trial: Trial) -> tuple[int, float]:
    """Trains a trial's model on two images that are black, twice; its number of parameters, and the seconds of both.

    Of the faster step, as torch prepares for these shapes in the first, and without the optimizer: that takes as long
    for a whole batch.
    """
    model, normalise = build_model(trial, load_pretrained=trial.pretrained is True)
    try:
        optimizer = make_optimizer(trial, model)
        images = normalise(torch.zeros(PAIR, 3, trial.image_size, trial.image_size, dtype=torch.uint8))
        took = []
        for _ in range(2):
            began = time.perf_counter()
            torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
            took.append(time.perf_counter() - began)
            optimizer.step()
    except Exception as error:  # a model, or an optimizer, may raise anything at a size that it can't take
        reason = str(error).splitlines()[0]
        raise TrialError(f"{trial.backbone} can't take a step at {trial.image_size} px: {reason}") from error
    return sum(parameter.numel() for parameter in model.parameters()), min(took)
