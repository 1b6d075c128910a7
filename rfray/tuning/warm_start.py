"""earlier runs (`search.warm_start`) -> warm_start.json and the trials taken over: what a sweep begins with.

A trial of an earlier run that is one of this sweep's own (the same setting in every key, the same images to learn from
and choose on, the same metric) is taken over: its folder is copied, and it counts as if it had been trained here. Of
the others optuna learns. All of it is in the run folder before the first trial starts, so that what becomes of the
earlier runs afterwards changes nothing.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd
from rich.console import Console
from rich.text import Text

from rfray.data.catalog import part_digest
from rfray.data.changed import training_changes
from rfray.errors import RunError, StorageError, SweepError
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile, differences
from rfray.spec.trial import Trial, epochs_of
from rfray.store.files import file_digest, replacing
from rfray.store.records import EarlierTrial, TrialResult, WarmStart, find_record, write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, trial_id
from rfray.store.tables import read_catalog, training_images
from rfray.tuning import space
from rfray.tuning.recorder import ranking
from rfray.tuning.strategies import LEARNING, planned_trials

TRIED_FIRST = 3
"""Settings of an earlier run whose scores can't be compared that optuna tries first: its best ones."""
BEGINNING = "Warm start from "
"""How a line on an earlier run begins."""
RECORDS = ("sweep.yaml", "catalog.parquet", "unreadable.csv", "trials/*/trial.json", "trials/*/result.json")
"""What is read of an earlier run to know its trials."""

Use = Literal["taken over", "score", "setting"]
Differing = Callable[[RunDir], str]
"""An earlier run -> what makes its scores incomparable with this sweep's, for people; "" where nothing does."""


@dataclass(frozen=True)
class Found:
    """A trial of an earlier run that lies within this sweep's axes."""

    run: RunDir
    result: TrialResult
    use: Use
    key: str
    """The same for the same trial in two runs; where the setting alone is of use, for the same place on the axes."""
    has_weights: bool

    @property
    def score(self) -> float:
        """Best value of its run's val metric."""
        assert self.result.score is not None  # others are not looked at
        return self.result.score

    @property
    def worth(self) -> tuple[int, bool]:
        """Of the same trial in two runs the one with the greater one is used."""
        return (("setting", "score", "taken over").index(self.use), self.has_weights)

    @property
    def record(self) -> EarlierTrial:
        """What is written down of it."""
        return EarlierTrial(
            run=str(self.run.where), id=self.result.id, trial=self.result.trial, score=self.score, use=self.use
        )


@dataclass
class Looked:
    """What one earlier run is to this sweep."""

    run: RunDir
    differing: str = ""
    """What makes its scores incomparable; "" where nothing does."""
    useless: str = ""
    """Why nothing of it is of any use; "" where something may be."""
    found: list[Found] = field(default_factory=list)
    others: set[str] = field(default_factory=set)
    """Keys that some trials have other values for than this sweep's, and so are not taken over."""
    obstacles: list[str] = field(default_factory=list)
    """What else is in the way of that, for people."""
    outside: int = 0
    """Trials outside of this sweep's axes."""
    failed: int = 0
    again: int = 0
    """Trials that another earlier run has, too."""

    def of(self, use: Use) -> list[Found]:
        """The trials of this use."""
        return [found for found in self.found if found.use == use]


def read_warm_start(run: RunDir) -> WarmStart | None:
    """warm_start.json; None before it is written. Raises RunError where it is damaged."""
    remedy = "the search can't be retraced without it: start anew with --fresh"
    return find_record(run.warm_start_file, WarmStart, run.mirror, remedy)


def check_warm_start(file: SweepFile, run: RunDir, fresh: bool) -> None:
    """Raises SweepError, a line per problem, where an entry of `search.warm_start` is no run, or is this one.

    Not any more where the run folder has what its first start took from them, unless that one is to be left (`fresh`).
    """
    if not fresh and read_warm_start(run) is not None:
        return
    problems = []
    for number, where in enumerate(file.sweep.search.warm_start):
        try:
            earlier = RunDir(where)
            if _is_same(earlier, run):
                raise RunError(f"{where} is the run folder of this sweep itself; name earlier ones")
            earlier.mirror.fetch(earlier.sweep_file)
            earlier.sweep()
        except (RunError, StorageError) as error:
            problems.append(file.problem(("search", "warm_start", number), str(error)))
    if problems:
        raise SweepError("\n".join(problems))


def warm_start(run: RunDir, sweep: Sweep, console: Console) -> WarmStart:
    """What the sweep has from earlier runs, which the console is told; the first call takes it from there.

    Raises RunError where an earlier run, or warm_start.json, can't be read, and DiskFullError.
    """
    if not sweep.search.warm_start:
        return WarmStart()
    known = read_warm_start(run) or _begin(run, sweep, console)
    for line in known.lines:
        console.print(Text(line), soft_wrap=True)
    return known


def foreseen(run: RunDir, sweep: Sweep) -> WarmStart:
    """The same as `warm_start` will say, as far as can be known without a look into the images; writes nothing.

    Raises RunError where an earlier run can't be read.
    """
    if not sweep.search.warm_start:
        return WarmStart()
    if (known := read_warm_start(run)) is not None:
        return known
    run.mirror.fetch(run.catalog_file)
    catalog = read_catalog(run) if run.catalog_file.exists() else None
    looked = _look_at_all(sweep, lambda earlier: _differing(earlier, sweep, catalog))
    return _concluded(sweep, looked)


def _begin(run: RunDir, sweep: Sweep, console: Console) -> WarmStart:
    """Copies the trials that are taken over into the run folder, and writes warm_start.json last."""
    _clear(run)
    catalog = read_catalog(run)
    looked = _look_at_all(sweep, lambda earlier: _differing(earlier, sweep, catalog))
    with_weights = [found for one in looked for found in one.of("taken over") if found.has_weights]
    best = sorted(with_weights, key=lambda found: -found.score)[: sweep.keep]
    kept = {found.key for found in best}  # others' weights would not stay here
    number = 0
    for one in looked:
        for place, found in enumerate(one.found):
            if found.use != "taken over":
                continue
            try:
                _take_over(found, run, number, with_weights=found.key in kept)
                number += 1
            except RunError as error:
                console.print(Text(f"Warning: {error}; it is not taken over"), soft_wrap=True)
                shutil.rmtree(run.trial(trial_id(number, found.result.trial)).path, ignore_errors=True)
                one.found[place] = replace(found, use="score")
                one.obstacles.append(f"{found.result.id} is damaged")
    known = _concluded(sweep, looked)
    write_record(run.warm_start_file, known, run.mirror)
    return known


def _clear(run: RunDir) -> None:
    """Removes what a first start that was cut short has copied. Raises RunError where trials were trained since."""
    for out in run.trials():
        if out.starts():
            raise RunError(
                f"{run.warm_start_file} is missing, and the search can't be retraced without it: start anew with "
                "--fresh (the old run folder is moved aside)"
            )
    run.mirror.remove(run.mirror.find("trials/*/*"))
    shutil.rmtree(run.trials_folder, ignore_errors=True)


def _take_over(found: Found, run: RunDir, number: int, with_weights: bool) -> None:
    """Makes the trial the `number`-th of this run. Raises RunError, naming the file, where it is damaged."""
    result, source = found.result, found.run.trial(found.result.id)
    names = {name: digest for name, digest in result.files.items() if name != WEIGHTS_FILE or with_weights}
    source.mirror.pull(*names, "tensorboard/*")
    start = source.start()
    out = run.trial(trial_id(number, result.trial))
    for name, digest in names.items():
        if not _copied(source.path / name, out.path / name, digest) and name != WEIGHTS_FILE:
            raise RunError(f"{source.path / name} is missing")
    for curves in sorted(source.tensorboard.glob("*")):
        _copied(curves, out.tensorboard / curves.name)
    write_record(
        out.start_file, start.model_copy(update={"id": out.id, "number": number, "results_known": number}), out.mirror
    )
    write_record(
        out.result_file,
        result.model_copy(update={"id": out.id, "position": number, "taken_from": found.run.shown(source.path)}),
        out.mirror,
    )
    out.mirror.push()


def _copied(source: Path, target: Path, digest: str | None = None) -> bool:
    """False where the file is not there (any more). Raises RunError where it is not what `digest` says."""
    try:
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
            if digest is not None and file_digest(temporary) != digest:
                raise RunError(f"{source} is damaged: its content does not match its digest")
    except FileNotFoundError:
        return False
    return True


def _look_at_all(sweep: Sweep, differing: Differing) -> list[Looked]:
    """Every earlier run, the same trial once, and no more taken over than `search.trials` asks for: the best."""
    looked = [_look(RunDir(where), sweep, differing) for where in sweep.search.warm_start]
    chosen: dict[str, Found] = {}
    for found in (found for one in looked for found in one.found):
        known = chosen.setdefault(found.key, found)
        if found.worth > known.worth:
            chosen[found.key] = found
    taken = sorted((found for found in chosen.values() if found.use == "taken over"), key=lambda found: -found.score)
    most = {found.key for found in taken[: planned_trials(sweep)]}
    for one in looked:
        once = [found for found in one.found if chosen[found.key] is found]
        one.again = len(one.found) - len(once)
        beyond = [found.use == "taken over" and found.key not in most for found in once]
        one.found = [replace(found, use="score") if more else found for found, more in zip(once, beyond, strict=True)]
        if any(beyond):
            one.obstacles.append(f"search.trials asks for {len(most)}")
    return looked


def _look(run: RunDir, sweep: Sweep, differing: Differing) -> Looked:
    """The trials of one earlier run."""
    run.mirror.pull(*RECORDS)
    old, looked = run.sweep(), Looked(run)
    results = [result for out in run.trials() if (result := out.result()) is not None]
    looked.failed = sum(result.score is None for result in results)
    if looked.failed == len(results):
        looked.useless = "no trial of it has ended well"
    if looked.useless:
        return looked
    looked.differing = differing(run)
    with_weights = {file.parent.name for file in run.mirror.find(f"trials/*/{WEIGHTS_FILE}")}
    axes, images = sweep.trial.axes(), training_images(run)
    for result in ranking(results):
        drawn = space.params_of(result.trial, axes)
        if drawn is None:
            looked.outside += 1
            continue
        own = sweep.trial.trial(space.settings(drawn, axes))
        others = list(_others(result, old, sweep, own, images))
        use: Use = "setting" if looked.differing else "score" if others else "taken over"
        looked.others.update(others)
        key = own.digest if looked.differing else result.trial.digest
        looked.found.append(Found(run, result, use, key, result.id in with_weights))
    looked.found.sort(key=lambda found: found.result.id)
    return looked


def _others(result: TrialResult, old: Sweep, sweep: Sweep, own: Trial, training_images: int) -> Iterator[str]:
    """The keys by which a trial is none of this sweep's own; `own` is the one with the same values on the axes.

    It was trained with so many images.
    """
    trial = result.trial
    yield from (key for key in Trial.model_fields if getattr(trial, key) != getattr(own, key))
    if old.augmentations.get(trial.augmentation) != sweep.augmentations.get(trial.augmentation):
        yield f"augmentations.{trial.augmentation}"
    ended_early = result.epochs < epochs_of(trial.model_dump(), training_images)
    if trial.patience and result.epochs - (result.best_epoch or 0) >= trial.patience:
        ended_early = False
    if ended_early and _stopping(old) != _stopping(sweep):
        yield "search.scheduler"


def _stopping(sweep: Sweep) -> tuple[object, ...]:
    """What a trial that was stopped early was stopped by."""
    search = sweep.search
    return search.scheduler, search.grace_epochs, search.reduction_factor, search.brackets


def _differing(earlier: RunDir, sweep: Sweep, catalog: pd.DataFrame | None) -> str:
    """What makes an earlier run's scores incomparable with those of this sweep; `catalog` is this sweep's, if known."""
    old, known = earlier.sweep(), read_catalog(earlier)
    if old.search.metric != sweep.search.metric:
        return f"its scores are {old.search.metric}, not {sweep.search.metric}"
    if old.data.reencode != sweep.data.reencode:
        return "its images are re-encoded otherwise (data.reencode)"
    if catalog is not None:
        parts = [part for part in ("train", "val") if part_digest(known, part) != part_digest(catalog, part)]
        return f"it has other {' and '.join(parts)} images" if parts else ""
    keys = [line.partition(":")[0] for line in differences(old, sweep)]
    keys = [key for key in keys if key == "seed" or (key.startswith("data.") and not key.startswith("data.cache"))]
    if keys:
        return f"it may have other images ({', '.join(keys)})"
    return "it has other images" if training_changes(earlier, sweep, known) else ""


def _concluded(sweep: Sweep, looked: Sequence[Looked]) -> WarmStart:
    """What the sweep knows then, and a line on each earlier run."""
    learns = sweep.search.algorithm in LEARNING
    trials = []
    for one in looked:
        best = sorted(one.of("setting"), key=lambda found: (-found.score, found.result.id))[:TRIED_FIRST]
        kept = [found for found in one.found if found.use != "setting"] + best
        trials += [found.record for found in kept if learns or found.use == "taken over"]
    return WarmStart(trials=trials, lines=[_line(one, learns) for one in looked])


def _line(one: Looked, learns: bool) -> str:
    taken, found = len(one.of("taken over")), len(one.found)
    reasons = [f"they differ in {', '.join(sorted(one.others))}"] if one.others else []
    why = f" (not the others: {'; '.join([*reasons, *one.obstacles])})" if taken < found else ""
    first = min(found, TRIED_FIRST)
    if one.useless:
        said = f"nothing is used: {one.useless}"
    elif one.differing:
        said = f"{one.differing}, so nothing is taken over and no score of it counts"
        if learns and found:
            said += f"; its best {first} of {found} settings {_are(first)} tried first"
    elif not found:
        said = "nothing is used"
    elif learns:
        guide = "guides" if found == 1 else "guide"
        said = f"{_trials(found)} {guide} the search, {taken} of them {_are(taken)} taken over{why}"
    else:
        said = f"{taken} of {_trials(found)} {_are(taken)} taken over{why}"
    if one.outside:
        said += f"; {one.outside} {_are(one.outside)} outside of this sweep's axes"
    if one.again:
        said += f"; {one.again} {_are(one.again)} in another earlier run, too"
    if one.failed:
        said += f"; {one.failed} failed"
    return f"{BEGINNING}{one.run.shown(one.run.path)}: {said}"


def _trials(count: int) -> str:
    return f"{count} trial" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _is_same(one: RunDir, other: RunDir) -> bool:
    if isinstance(one.where, Path) and isinstance(other.where, Path):
        return one.where.resolve() == other.where.resolve()
    return one.where == other.where
