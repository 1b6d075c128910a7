"""a sweep -> the size of its models, or one error that says what can't work: names, combinations, a training step."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence

import torch

from rfray.data.augment import POLICIES, PolicySpec, check_policy
from rfray.errors import SweepError, TrialError, first_line
from rfray.models.build import backbone_names, build_model, check_weights
from rfray.spec.checks import disagreements, name_problems
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Trial
from rfray.stats.metrics import METRICS
from rfray.training.learner import SCHEDULES, make_optimizer, optimizer_names
from rfray.tuning.strategies import SCHEDULERS, SEARCHERS

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
    for checks in ((_names,), (_policies, disagreements), (_weights,)):
        problems = dict.fromkeys(problem for check in checks for problem in check(file))
        if problems:
            raise SweepError(*problems)


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
    return name_problems(file, lambda key, name: name in names[key], names.__getitem__)


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


def _weights(file: SweepFile) -> Iterator[str]:
    trial = file.sweep.trial
    for place, source in trial.written("pretrained"):
        for backbone in trial.choices("backbone"):
            named = isinstance(source, dict)
            try:
                check_weights(backbone, source.get(backbone, False) if named else source)
            except TrialError as error:
                yield file.problem(("trial", *place, *([backbone] if named else [])), str(error))


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
        reason = first_line(error)
        raise TrialError(f"{trial.backbone} can't take a step at {trial.image_size} px: {reason}") from error
    return sum(parameter.numel() for parameter in model.parameters()), min(took)
