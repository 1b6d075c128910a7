"""A bundle and labelled images from elsewhere -> what it is worth there: the steps of `rfray evaluate`."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# before torch: its threads share their cores with those that decode, which would wait for threads that wait by spinning
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console

from rfray.data.catalog import group_ids
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.hash_index import alike_pairs
from rfray.data.labelled_sets import LabelledSet, labelled_sets, read_classes
from rfray.data.learned_images import LearnedImages, find_learned, read_learned_images
from rfray.data.listing import counted
from rfray.errors import DataError, RfrayError, RunError
from rfray.evaluation.attributes import by_attribute
from rfray.evaluation.ensemble import TEST_COLUMNS
from rfray.evaluation.evaluations import SUMMARY, clear_evaluation, evaluations_of, write_summary
from rfray.evaluation.external_validation import (
    best_threshold,
    compare,
    evaluation_rows,
    figures_of,
    learned_sentence,
    markdown_report,
    sentences,
)
from rfray.evaluation.groups import by_group, write_group_tables
from rfray.evaluation.mistakes import mistakes_of, undrawn
from rfray.progress.phases import counting, say, warn
from rfray.report.evaluation_page import write_evaluation_page
from rfray.report.terminal import evaluations_table
from rfray.spec.sweep import CLASSES, DataSettings, Resources
from rfray.stats.clusters import groups_of_images
from rfray.stats.guessing import bundle_warning
from rfray.stats.metrics import metric
from rfray.stats.predictions import Predictions, write_predictions
from rfray.stats.voting import joined
from rfray.store.bundle_record import ENSEMBLE_FILE, LEARNED_FILE, Bundle, Ensemble
from rfray.store.csv_files import csv_text
from rfray.store.evaluation_dir import EVALUATIONS, EvaluationDir, EvaluationRecord
from rfray.store.files import file_digest, write_whole
from rfray.store.records import write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, read_bundle
from rfray.store.storage import is_address

PRINTS = ("digest", "hash", "hash_mirrored")
"""What is known of an image's file and picture: see `find_learned`."""
AS_BY_DEFAULT = DataSettings(source="demo")
"""What says which images belong together where there is no run: look-alikes, and subfolders where there are many."""


@dataclass(frozen=True, eq=False)
class Detector:
    """The bundle that is evaluated."""

    where: str
    """The words of the command line: a bundle or a run."""
    digest: str
    """Of its ensemble.json."""
    ensemble: Ensemble
    bundle: Bundle
    learned: LearnedImages | None
    """What it has learned from; None where it does not say."""
    further: tuple[str, ...]
    """Ids of models of the run that its other votes have for members, and whose weights are there."""
    data: DataSettings
    """Which images belong together, as in the run."""

    @property
    def models(self) -> list[str]:
        """The members of the main vote, then the further ones."""
        return [*self.ensemble.members, *self.further]


@dataclass(frozen=True)
class Means:
    """How images are predicted."""

    batch_size: int
    resources: Resources
    """Of each process, where many predict."""
    address: str | None
    """Of a Ray cluster."""
    corruptions: bool
    """Whether pictures are predicted under corruption, too."""


def evaluate(
    bundle: str,
    words: Sequence[str],
    out: str | None,
    name: str | None,
    classes: Sequence[str],
    corruptions: bool,
    batch_size: int,
    cpu_and_gpu: tuple[float, float | None],
    address: str | None,
    console: Console,
) -> pd.DataFrame:
    """Evaluates a bundle on the sets that `words` mean (see `labelled_sets`): into evaluations/<name>/ each.

    That is in the run, or in `out`, by default the working folder for a bundle. What was predicted is not predicted
    again. `classes` says which of their folders is which class, by default as the run's sweep does. `corruptions`:
    whether images are predicted corrupted, too. `cpu_and_gpu` are those of each process where many predict, on a Ray
    cluster at `address` or here. Returns what evaluations.csv holds.
    Raises InputError before anything is predicted where a word can't be used, RunError where there is no bundle, and
    RfrayError when all is written but some files could not be read.
    """
    run, detector = RunDir(bundle), _detector(bundle)
    in_run = out is None and run.sweep_file.exists()
    evaluations = Path(out or (run.path if in_run else ".")).absolute() / EVALUATIONS
    given = read_classes(classes)
    sets = labelled_sets(words, name, given or _class_folders(run), bool(given))
    resources = Resources(cpu=cpu_and_gpu[0], gpu="auto" if cpu_and_gpu[1] is None else cpu_and_gpu[1])
    means = Means(batch_size, resources, address, corruptions)
    warn(console, bundle_warning(detector.ensemble))
    if in_run:
        run.mirror.pull(f"{EVALUATIONS}/*")
    made = list[EvaluationRecord]()
    for one in sets:
        target = EvaluationDir(evaluations, one.name)
        with _locked(target):
            made.append(evaluate_set(detector, one, target, means, console))
    records, others = evaluations_of(evaluations, detector.digest)
    summary = write_summary(evaluations, records)
    if in_run:
        run.mirror.push()
    _tell(summary, made, others, evaluations, console)
    if unreadable := sum(one.unreadable for one in made):
        where = ", ".join(f"{one.unreadable:,} of {one.name}" for one in made if one.unreadable)
        raise RfrayError(
            f"{counted(unreadable, 'file')} could not be read ({where}): unreadable.csv has the reasons. "
            "All else is evaluated"
        )
    return summary


def _tell(
    summary: pd.DataFrame,
    made: Sequence[EvaluationRecord],
    others: Sequence[str],
    evaluations: Path,
    console: Console,
) -> None:
    """Prints the table of all evaluations, what is said of those just made, and where they are."""
    console.print(evaluations_table(summary, console.width))
    for record in made:
        say(console, *record.sentences)
    if others:
        say(console, f"Of another bundle, and so not in {SUMMARY}: {', '.join(others)}; evaluate them again")
    pages = [EvaluationDir(evaluations, one.name).report_html for one in made]
    say(console, *map(_shown, (*pages, evaluations / SUMMARY)))


def _detector(bundle: str) -> Detector:
    folder, ensemble, record = read_bundle(bundle)
    run = RunDir(bundle)
    run.mirror.fetch(run.sweep_file)
    in_run = run.sweep_file.exists()
    return Detector(
        where=bundle if is_address(bundle) else str(Path(bundle).absolute()),  # as processes elsewhere find it
        digest=file_digest(folder / ENSEMBLE_FILE),
        ensemble=ensemble,
        bundle=record,
        learned=read_learned_images(folder / LEARNED_FILE) if LEARNED_FILE in record.files else None,
        further=_further(run, ensemble) if in_run else (),
        data=run.sweep().data if in_run else AS_BY_DEFAULT,
    )


def _class_folders(run: RunDir) -> dict[str, list[str]]:
    """Class -> its folders: as the run's sweep has them, or called as the class for a bundle."""
    return run.sweep().data.class_folders() if run.sweep_file.exists() else {one: [one] for one in CLASSES}


def evaluate_set(
    detector: Detector, given: LabelledSet, out: EvaluationDir, means: Means, console: Console
) -> EvaluationRecord:
    """One evaluation: predicts what is not predicted yet, and writes all files of `out`, its record last.

    Raises DataError where no image is left that counts.
    """
    if said := str(given.passed):
        say(console, f"Passed over in {given.where}: {said}")
    kept, left_out, failed = _divided(detector, given, _predicted(detector, given, out, means, False, console))
    clear_evaluation(out)
    _write_rest(out, left_out, failed)
    if kept.empty:
        why = f"{len(failed):,} could not be read, and the detector has learned from {len(left_out):,}"
        raise DataError(f"{given.where}: none of {len(given.images):,} images counts: {why}")
    predicted = _votes(detector, kept, kept)
    for name, predictions in predicted.items():
        write_predictions(out.predictions_file(name), predictions, {"bundle": detector.digest})
    together = pd.Series(group_ids(kept, detector.data, alike_pairs(kept)), kept["id"])
    vote, frame = predicted[detector.ensemble.name], evaluation_rows(detector.ensemble, predicted, together)
    numbers = groups_of_images(vote.ids, together)
    if means.corruptions:
        frame = frame.join(_under_corruption(detector, given, out, kept, frame, means, console))
    record = _record(detector, given, frame, vote, left_out, len(failed))
    groups = by_group(vote, kept["subfolder"].to_numpy(object), detector.ensemble.threshold, numbers)
    known = given.attributes.set_axis(given.images["id"]).loc[vote.ids]
    attributes = by_attribute(vote, known, detector.ensemble.threshold, numbers)
    record = record.model_copy(update={"sentences": [*record.sentences, *attributes.summary]})
    write_whole(out.leaderboard_csv, csv_text(frame))
    write_whole(out.report_md, markdown_report(record, frame))
    write_group_tables(out.groups_csv, {**({"": groups} if groups is not None else {}), **attributes.groups})
    _draw_mistakes(detector, given, out, predicted, console)
    write_evaluation_page(out, record, frame, detector.ensemble, predicted, groups, attributes, numbers)
    write_record(out.record_file, record)
    return record


def _draw_mistakes(
    detector: Detector,
    given: LabelledSet,
    out: EvaluationDir,
    predicted: Mapping[str, Predictions],
    console: Console,
) -> None:
    """The gallery of the main vote's mistakes, unless it is there."""
    members = {member: predicted[member] for member in detector.ensemble.members}
    origins = {member: {"bundle": detector.digest} for member in members}
    vote = predicted[detector.ensemble.name]
    mistakes = undrawn(mistakes_of(detector.ensemble, vote, members, origins), out)
    if mistakes is None:
        return
    from rfray.data.batches import FoundPictures
    from rfray.inference.mistake_pictures import draw_gallery
    from rfray.models.bundle import load_bundle

    files = given.images.set_index("id")["file"].loc[[mistake.id for mistake in mistakes.shown]].tolist()
    draw_gallery(out, mistakes, load_bundle(detector.where), FoundPictures(files).picture, console)


def _further(run: RunDir, ensemble: Ensemble) -> tuple[str, ...]:
    """Ids of the models that only other votes have for members, and whose weights are still in the run."""
    wanted = dict.fromkeys(one for vote in ensemble.others for one in vote.members if one not in ensemble.members)
    run.mirror.pull(*(f"*/{one}/result.json" for one in wanted), *(f"*/{one}/{WEIGHTS_FILE}" for one in wanted))
    return tuple(one for one in wanted if run.trial(one).weights_file.exists())


def _predicted(
    detector: Detector, given: LabelledSet, out: EvaluationDir, means: Means, corrupted: bool, console: Console
) -> Iterator[pd.DataFrame]:
    """What the detector says of the images of the set, a shard each; what is missing of it is predicted."""
    from rfray.inference.evaluation_predictions import claim, predict_set, read_shards
    from rfray.inference.shards import Task

    folder = out.corrupted_folder if corrupted else out.shards_folder
    claim(out, detector.digest, given, detector.further, corrupted, console)
    task = Task(folder, detector.where, means.batch_size, not corrupted, detector.further, corrupted)
    counts = predict_set(task, means.resources, means.address)
    each = (None for some in counts for _ in range(some.total()))
    for _ in counting(each, f"Predicting {given.name}{' corrupted' if corrupted else ''}", len(given.images)):
        pass
    models = detector.models
    scores = [f"{one} {way}" for one in models for way in CORRUPTION_NAMES] if corrupted else models
    return read_shards(task, scores)


def _divided(
    detector: Detector, given: LabelledSet, shards: Iterator[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The images that count, those left out (path, kind), the others (path, reason).

    Those that count have id, path (the same), label, subfolder, PRINTS and p_fake of each model. `kind` is exact or
    alike: see `find_learned`.
    """
    parts, start = [], 0
    for shard in shards:
        images = given.images.iloc[start : start + len(shard)].reset_index(drop=True)
        start += len(shard)
        kinds = find_learned(shard, detector.learned) if detector.learned is not None else ""
        parts.append(
            images[["id", "label", "subfolder"]]
            .assign(path=images["id"], kind=kinds)
            .join(shard[["reason", *PRINTS, *detector.models]])
        )
    whole = pd.concat(parts, ignore_index=True)
    failed = (whole["reason"] != "").to_numpy()
    learned = ~failed & (whole["kind"] != "").to_numpy()
    kept = whole[~failed & ~learned].drop(columns=["kind", "reason"]).reset_index(drop=True)
    left_out = whole.loc[learned, ["id", "kind"]].rename(columns={"id": "path"})
    return kept, left_out, whole.loc[failed, ["id", "reason"]].rename(columns={"id": "path"})


def _votes(detector: Detector, kept: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Predictions]:
    """Name of each vote and each model -> its predictions of the images that count.

    `scores` has the p_fake of each model under its id. Votes of which a member is not there are left out.
    """
    ids, labels, ensemble = kept["id"].to_numpy(object), kept["label"].to_numpy(np.int8), detector.ensemble
    said = {
        vote.name: joined(vote, scores[vote.members].to_numpy(float).T)
        for vote in ensemble.votes
        if {*vote.members} <= {*detector.models}
    }
    said |= {model: scores[model].to_numpy(float) for model in detector.models}
    return {name: Predictions(ids, labels, p_fake) for name, p_fake in said.items()}


def _under_corruption(
    detector: Detector,
    given: LabelledSet,
    out: EvaluationDir,
    kept: pd.DataFrame,
    frame: pd.DataFrame,
    means: Means,
    console: Console,
) -> pd.DataFrame:
    """TEST_COLUMNS of each row of the leaderboard; nan where an AUC is undefined, for images of one class of all."""
    if kept["label"].nunique() < len(CLASSES):
        say(console, f"--corruptions: no AUC is defined for the images of one class of {given.name}, so none is made")
        return pd.DataFrame(np.nan, frame.index, list(TEST_COLUMNS))
    images = given.images.set_index("id", drop=False).loc[kept["id"]].reset_index(drop=True)
    shards = _predicted(detector, replace(given, images=images), out, means, True, console)
    scores = pd.concat(shards, ignore_index=True)
    found: dict[str, dict[str, float]] = {}
    for corruption in CORRUPTION_NAMES:
        columns = {f"{model} {corruption}": model for model in detector.models}
        votes = _votes(detector, kept, scores[[*columns]].rename(columns=columns))
        found[f"auc_{corruption}"] = {name: metric("auc", one) or 0.0 for name, one in votes.items()}
    table = pd.DataFrame(found).reindex(frame["name"]).set_axis(frame.index)
    worst = table.assign(auc=frame["auc"]).min(axis=1).where(table.notna().all(axis=1))
    return table.assign(**{TEST_COLUMNS[-1]: worst})


def _write_rest(out: EvaluationDir, left_out: pd.DataFrame, failed: pd.DataFrame) -> None:
    """Writes which images do not count, and why; no file where there are none."""
    for file, table in ((out.left_out_csv, left_out), (out.unreadable_csv, failed)):
        file.unlink(missing_ok=True)
        if len(table):
            write_whole(file, csv_text(table))


def _record(
    detector: Detector,
    given: LabelledSet,
    frame: pd.DataFrame,
    vote: Predictions,
    left_out: pd.DataFrame,
    failed: int,
) -> EvaluationRecord:
    figures, claimed = figures_of(frame, detector.ensemble.name), detector.bundle.figures
    comparisons, best = compare(figures, claimed), best_threshold(vote)
    kinds = Counter(left_out["kind"])
    exact, alike = (kinds[kind] if detector.learned is not None else None for kind in ("exact", "alike"))
    said = sentences(given.name, figures, claimed, comparisons, best)
    return EvaluationRecord(
        name=given.name,
        where=given.where,
        bundle=detector.digest,
        n=len(vote),
        real=int((vote.labels == 0).sum()),
        fake=int((vote.labels == 1).sum()),
        unreadable=failed,
        exact=exact,
        alike=alike,
        figures=figures,
        claimed=dict(claimed),
        comparisons=comparisons,
        best=best,
        sentences=[*said, f"{learned_sentence(exact, alike)}."],
    )


def _shown(path: Path) -> str:
    """How a user calls a file: from the working folder, where it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _locked(out: EvaluationDir) -> FileLock:
    """The lock of one evaluation, for one command at a time. Raises RunError where another one has it."""
    out.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"{out.path} is in use by another `rfray evaluate`; wait for it, or choose --name") from None
    return lock
