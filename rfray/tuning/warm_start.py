"""earlier runs (`search.warm_start`) -> warm_start.json, and copies of their trials that this sweep need not train.

A trial of an earlier run that this sweep would train, too (the same setting in every key, the same train and val
images, the same metric), is taken over: its folder is copied. Optuna learns from the others. All of it is in the run
folder before the first trial starts, so a later change of the earlier runs changes nothing.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd
from rich.console import Console

from rfray.data.catalog import part_digest
from rfray.data.folders import training_changes
from rfray.errors import RunError, StorageError, SweepError
from rfray.progress.phases import say
from rfray.spec.checks import planned_trials, settings
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile, differences
from rfray.spec.trial import Trial
from rfray.store.files import file_digest, replacing
from rfray.store.records import EarlierTrial, TrialResult, WarmStart, find_record, write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, TrialDir, trial_id
from rfray.tuning.recorder import was_cut
from rfray.tuning.strategies import LEARNING, params_of

TRIED_FIRST = 3
"""So many of the best settings of a run whose scores can't be compared are tried first (our choice)."""
READ = (
    *("sweep.yaml", "digests.json", "catalog.parquet", "unreadable.csv", "audit/images.parquet"),
    *("trials/*/trial.json", "trials/*/result.json"),
)
"""Patterns of the files of an earlier run that are read before it is known which of its trials are taken over."""
LINE_START = "Warm start from "
USES = {"": "not used", "setting": "tried first", "score": "learned from", "taken over": "taken over"}
"""What a sweep does with an earlier trial -> how it is printed; in the order of how much it is worth."""


@dataclass
class Candidate:
    """A trial of an earlier run, and what this sweep does with it."""

    run: RunDir
    out: TrialDir
    result: TrialResult
    score: float
    """Best value of its run's val metric, in [0, 1]; 0 of one that failed."""
    use: Literal["", "setting", "score", "taken over"] = ""
    reason: str = ""
    """Why it is not taken over, for people."""
    key: str = ""
    """The same for the same trial in two runs; where only its setting is used, for the same setting on the axes."""
    has_weights: bool = False


def read_warm_start(run: RunDir) -> WarmStart | None:
    """warm_start.json; None before it is written. Raises RunError where it is damaged."""
    remedy = "the search can't be retraced without it: start anew with --fresh"
    return find_record(run.warm_start_file, WarmStart, run.mirror, remedy)


def check_warm_start(file: SweepFile, run: RunDir, fresh: bool) -> None:
    """Raises SweepError, a line per problem, where an entry of `search.warm_start` is no run, or is this one.

    Nothing is checked where the run folder has its warm_start.json, unless that folder is to be replaced (`fresh`).
    """
    if not fresh and read_warm_start(run) is not None:
        return
    problems = []
    for number, where in enumerate(file.sweep.search.warm_start):
        try:
            earlier = RunDir(where)
            if earlier.path.resolve() == run.path.resolve():
                raise RunError(f"{where} is the run folder of this sweep itself; name earlier ones")
            earlier.mirror.fetch(earlier.sweep_file)
            earlier.sweep()
        except (RunError, StorageError) as error:
            problems.append(file.problem(("search", "warm_start", number), str(error)))
    if problems:
        raise SweepError(*problems)


def warm_start(run: RunDir, sweep: Sweep, console: Console) -> WarmStart:
    """What the sweep has from earlier runs: taken from them by the first call, and printed by all.

    The first one copies the trials that are taken over into the run folder, and writes warm_start.json last.
    Raises RunError where an earlier run, or warm_start.json, can't be read, or where that is missing although trials
    were trained; and DiskFullError.
    """
    if not sweep.search.warm_start:
        return WarmStart()
    known = read_warm_start(run)
    if known is None:
        if any(out.starts() for out in run.trials()):
            why = "is missing, and the search can't be retraced without it"
            raise RunError(f"{run.warm_start_file} {why}: start anew with --fresh (the old run folder is moved aside)")
        run.mirror.remove(run.mirror.find("trials/*/*"))  # of a first start that was killed
        shutil.rmtree(run.trials_folder, ignore_errors=True)
        candidates = _candidates(sweep, run.catalog())
        _take_over(run, sweep, candidates, console)
        known = _known(candidates, sweep)
        write_record(run.warm_start_file, known, run.mirror)
    say(console, *known.lines)
    return known


def preview_warm_start(run: RunDir, sweep: Sweep) -> WarmStart:
    """What `warm_start` will return, as far as it can be known without reading the images; writes nothing.

    Raises RunError where an earlier run can't be read.
    """
    if not sweep.search.warm_start:
        return WarmStart()
    if (known := read_warm_start(run)) is not None:
        return known
    run.mirror.fetch(run.catalog_file)
    return _known(_candidates(sweep, run.catalog() if run.catalog_file.exists() else None), sweep)


def _take_over(run: RunDir, sweep: Sweep, candidates: list[Candidate], console: Console) -> None:
    """Copies trials into the run folder, the weights of the best ones too; one that is damaged is only learned from."""
    taken = [one for one in candidates if one.use == "taken over"]
    with_weights = sorted((one for one in taken if one.has_weights), key=lambda one: -one.score)
    kept = {one.key for one in with_weights[: sweep.keep]}
    number = 0
    for one in taken:
        out = run.trial(trial_id(number, one.result.trial))
        try:
            run.write_result(out, _copy_trial(one, out, number, with_weights=one.key in kept))
            out.mirror.push()
            number += 1
        except RunError as error:
            say(console, f"Warning: {error}; the trial is not taken over")
            shutil.rmtree(out.path, ignore_errors=True)
            one.use, one.reason = "score", "damaged"


def _copy_trial(one: Candidate, out: TrialDir, number: int, with_weights: bool) -> TrialResult:
    """Makes `out`, trial `number` of this run, from it; its result. Raises RunError, naming a file that is damaged."""
    source = one.out
    # names come from the other run's result.json: only those that a trial of this run has, too, are made paths
    names = [file.name for file in (out.history_file, out.weights_file, out.predictions_file("val"))]
    files = {name: one.result.files[name] for name in names if name in one.result.files}
    copied = [name for name in files if name != WEIGHTS_FILE or with_weights]
    source.mirror.pull(*copied, "tensorboard/*")
    curves = sorted(source.tensorboard.glob("events.out.tfevents.*"))
    for file in (*(source.path / name for name in copied), *curves):
        if file.is_file() and not file.is_symlink():  # a link may lead anywhere
            with replacing(out.path / file.relative_to(source.path)) as temporary:
                shutil.copyfile(file, temporary)
    changed = {"id": out.id, "position": number, "files": files, "taken_from": one.run.shown(source.path)}
    result = one.result.model_copy(update=changed)
    if damaged := out.damaged_files(result):
        raise RunError(f"{source.path / damaged[0].name} is damaged: its content does not match its digest")
    start = source.start().model_copy(update={"id": out.id, "number": number, "results_known": number})
    write_record(out.start_file, start, out.mirror)
    return result.model_copy(update={"files": files | {out.start_file.name: file_digest(out.start_file)}})


def _candidates(sweep: Sweep, catalog: pd.DataFrame | None) -> list[Candidate]:
    """All ended trials of the earlier runs; the same trial is used once, and at most `search.trials` are taken over.

    `catalog` is this sweep's, if it is known.
    """
    found = [one for where in sweep.search.warm_start for one in _of_run(RunDir(where), sweep, catalog)]
    uses, best = list(USES), dict[str, Candidate]()
    for one in sorted(found, key=lambda one: (uses.index(one.use), one.has_weights), reverse=True):
        if one.use and best.setdefault(one.key, one) is not one:
            one.use, one.reason = "", "in another earlier run, too"
    taken = [one for one in found if one.use == "taken over"]
    most = planned_trials(sweep)
    for one in sorted(taken, key=lambda one: -one.score)[most:] if most is not None else ():
        one.use, one.reason = "score", f"search.trials asks for {most}"
    return found


def _of_run(run: RunDir, sweep: Sweep, catalog: pd.DataFrame | None) -> Iterator[Candidate]:
    """All ended trials of one earlier run, by id."""
    run.mirror.pull(*READ)
    old = run.sweep()
    run.check_images()
    run.check(*(out.result_file for out in run.trials()), remedy="the `rfray tune` that made the run trains it again")
    ended = [(out, result) for out in run.trials() if (result := out.result()) is not None]
    differing = _differing(run, old, sweep, catalog) if any(result.score is not None for _, result in ended) else ""
    with_weights = {file.parent.name for file in run.mirror.find(f"trials/*/{WEIGHTS_FILE}")}
    axes, images = sweep.trial.axes(), run.training_images()
    for out, result in ended:
        one = Candidate(run, out, result, result.score or 0.0, has_weights=out.id in with_weights)
        drawn = params_of(result.trial, axes)
        if result.score is None or drawn is None:
            one.reason = "failed" if result.score is None else "outside of this sweep's axes"
        else:
            own = sweep.trial.trial(settings(drawn, axes))
            others = ", ".join(sorted(_others(result, old, sweep, own, images)))
            one.use = "setting" if differing else "score" if others else "taken over"
            one.reason = differing or (f"other {others}" if others else "")
            one.key = own.digest if differing else result.trial.digest
        yield one


def _others(result: TrialResult, old: Sweep, sweep: Sweep, own: Trial, training_images: int) -> Iterator[str]:
    """The keys of which a trial has another value than `own`, this sweep's trial with the same values on the axes."""
    trial = result.trial
    yield from (key for key in Trial.model_fields if getattr(trial, key) != getattr(own, key))
    if old.augmentations.get(trial.augmentation) != sweep.augmentations.get(trial.augmentation):
        yield f"augmentations.{trial.augmentation}"
    keys = {"scheduler", "grace_epochs", "reduction_factor", "brackets"}
    same = old.search.model_dump(include=keys) == sweep.search.model_dump(include=keys)
    if was_cut(result, training_images) and not same:
        yield "search.scheduler"


def _differing(earlier: RunDir, old: Sweep, sweep: Sweep, catalog: pd.DataFrame | None) -> str:
    """What makes an earlier run's scores incomparable with those of this sweep; "" where nothing does."""
    known = earlier.catalog()
    if old.search.metric != sweep.search.metric:
        return f"its scores are {old.search.metric}, not {sweep.search.metric}"
    if old.data.reencode != sweep.data.reencode:
        return "its images are re-encoded otherwise (data.reencode)"
    if catalog is not None:
        parts = [part for part in ("train", "val") if part_digest(known, part) != part_digest(catalog, part)]
        return f"it has other {' and '.join(parts)} images" if parts else ""
    moved = [f"data.{part}" for part in ("train", "val") if old.data.folder(part) != sweep.data.folder(part)]
    moved += ["data.test"] * (old.data.test_folders != sweep.data.test_folders)
    keys = [line.partition(":")[0] for line in differences(old, sweep)]
    keys += [key for key in moved if key not in keys]
    keys = [key for key in keys if key == "seed" or (key.startswith("data.") and not key.startswith("data.cache"))]
    if keys:
        return f"it may have other images ({', '.join(keys)})"
    return "it has other images" if training_changes(earlier, sweep, known) else ""


def _known(candidates: list[Candidate], sweep: Sweep) -> WarmStart:
    """What the sweep has from earlier runs, and a line on each of them for people."""
    known = WarmStart(trials=[], lines=[])
    learns = sweep.search.algorithm in LEARNING
    for where in sweep.search.warm_start:
        run = RunDir(where)
        own = [one for one in candidates if one.run.where == run.where]
        best = sorted((one for one in own if one.use == "setting"), key=lambda one: (-one.score, one.out.id))
        used = [one for one in own if one.use == "taken over" or (one.use == "score" and learns)]
        used += best[:TRIED_FIRST] if learns else []
        known.trials.extend(
            EarlierTrial(run=str(run.where), id=one.out.id, trial=one.result.trial, score=one.score, use=one.use)
            for one in used
            if one.use
        )
        texts = [USES[one.use if one in used else ""] + (f" ({one.reason})" if one.reason else "") for one in own]
        counts = "; ".join(f"{count} {text}" for text, count in Counter(texts).items())
        known.lines.append(f"{LINE_START}{run.shown(run.path)}: {counts or 'no trial has ended'}")
    return known
