"""A bundle and labelled images from elsewhere -> what it is worth there: the steps of `rfray evaluate`."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

# before torch: its threads share their cores with those that decode, which would wait for threads that wait by spinning
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console

from rfray.data.catalog import group_ids, part_digest
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.hash_index import alike_pairs
from rfray.data.labelled_sets import LabelledSet, labelled_sets, read_classes
from rfray.data.learned_images import LearnedImages, divided, read_learned_images
from rfray.data.listing import counted
from rfray.errors import DataError, InputError, RfrayError, RunError
from rfray.evaluation.attributes import by_attribute
from rfray.evaluation.evaluations import records_in, write_summary
from rfray.evaluation.external_validation import (
    CLAIMED_OF_THESE,
    corruption_columns,
    evaluation_record,
    evaluation_rows,
    figures_of,
    markdown_report,
    votes_of,
)
from rfray.evaluation.groups import by_group, write_group_tables
from rfray.evaluation.mistakes import mistakes_of, undrawn
from rfray.progress.phases import counting, say, warn
from rfray.report.evaluation_page import write_evaluation_page
from rfray.report.terminal import evaluations_table
from rfray.spec.parts import TEST
from rfray.spec.sweep import CLASSES, DataSettings, Resources
from rfray.stats.clusters import groups_of_images
from rfray.stats.guessing import bundle_warning
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.bundle_record import ENSEMBLE_FILE, LEARNED_FILE, Bundle, Ensemble
from rfray.store.csv_files import csv_text
from rfray.store.evaluation_dir import EVALUATIONS, SUMMARY, EvaluationDir, EvaluationRecord
from rfray.store.files import file_digest, write_whole
from rfray.store.records import write_record
from rfray.store.run_dir import WEIGHTS_FILE, RunDir, read_bundle
from rfray.store.storage import is_address

AS_BY_DEFAULT = DataSettings(source="demo")
"""Where there is no run: class folders are called real and fake, and look-alikes, and subfolders where there are many,
belong together."""


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
    """How class folders are called, and which images belong together: as in the run."""

    @property
    def models(self) -> list[str]:
        """The members of the main vote, then the further ones."""
        return [*self.ensemble.members, *self.further]


@dataclass(frozen=True)
class PredictOptions:
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
    RfrayError when all else is written but some files could not be read, or no image of a set counts (DataError where
    that is so of all sets).
    """
    if out is not None and is_address(out):
        raise InputError(f"--out {out}: allowed: a folder of this machine")
    run, detector = RunDir(bundle), _detector(bundle)
    in_run = out is None and run.sweep_file.exists()
    place = run if in_run else RunDir(out or ".")
    evaluations = place.path / EVALUATIONS
    given = read_classes(classes)
    sets = labelled_sets(words, name, given or detector.data.class_folders(), bool(given))
    resources = Resources(cpu=cpu_and_gpu[0], gpu="auto" if cpu_and_gpu[1] is None else cpu_and_gpu[1])
    options = PredictOptions(batch_size, resources, address, corruptions)
    warn(console, bundle_warning(detector.ensemble))
    if in_run:
        run.mirror.pull(f"{EVALUATIONS}/*")
    made, failed = list[EvaluationRecord](), list[DataError]()
    with ExitStack() as locks:
        for one in sets:
            locks.enter_context(_locked(EvaluationDir(evaluations, one.name)))
            EvaluationDir(evaluations, one.name).check_free(one.where)
        records_in(evaluations)  # a damaged one is refused before anything is predicted
        for one in sets:
            try:
                made.append(evaluate_set(detector, one, EvaluationDir(evaluations, one.name), options, console))
            except DataError as error:  # nothing of it counts: no reason to lose the others
                failed.append(error)
            if in_run:
                run.mirror.at(f"{EVALUATIONS}/{one.name}").push(removing="*")
        records = records_in(evaluations)
        summary = write_summary(evaluations, [one for one in records if one.bundle == detector.digest])
    if in_run:
        run.mirror.send(evaluations / SUMMARY)
    if made:
        _tell(summary, made, [one.name for one in records if one.bundle != detector.digest], place, console)
    _raise_failures(made, failed)
    return summary


def _raise_failures(made: Sequence[EvaluationRecord], failed: Sequence[DataError]) -> None:
    """Raises RfrayError where files could not be read, DataError where nothing could be evaluated."""
    lines = [str(error) for error in failed]
    if failed and not made:
        raise DataError(*lines)
    if unreadable := sum(one.unreadable for one in made):
        where = ", ".join(f"{one.unreadable:,} of {one.name}" for one in made if one.unreadable)
        lines.append(f"{counted(unreadable, 'file')} could not be read ({where}): unreadable.csv has the reasons")
    if lines:
        raise RfrayError(*lines[:-1], f"{lines[-1]}. All else is evaluated")


def _tell(
    summary: pd.DataFrame,
    made: Sequence[EvaluationRecord],
    others: Sequence[str],
    place: RunDir,
    console: Console,
) -> None:
    """Prints the table of all evaluations, what is said of those just made, and where they are."""
    console.print(evaluations_table(summary, console.width))
    for record in made:
        say(console, "", *record.sentences)
    if others:
        say(console, f"Of another bundle, and so not in {SUMMARY}: {', '.join(others)}; evaluate them again")
    pages = [EvaluationDir(place.path / EVALUATIONS, one.name).report_html for one in made]
    say(console, "", *map(place.shown, (*pages, place.path / EVALUATIONS / SUMMARY)))


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


def evaluate_set(
    detector: Detector, given: LabelledSet, out: EvaluationDir, options: PredictOptions, console: Console
) -> EvaluationRecord:
    """One evaluation: predicts what is not predicted yet, and writes all files of `out`, its record last.

    Raises DataError where no image is left that counts.
    """
    if said := str(given.passed):
        say(console, f"Passed over in {given.where}: {said}")
    shards = _predicted(detector, given, out, options, False, console)
    kept, left_out, failed = divided(given.images, shards, detector.learned)
    for file in out.results():  # old figures must not stand beside new ones
        file.unlink(missing_ok=True)
    for file, table, why in ((out.left_out_csv, left_out, "kind"), (out.unreadable_csv, failed, "reason")):
        if len(table):
            write_whole(file, csv_text(table[["path", why]]))
    if kept.empty:
        why = f"{len(failed):,} could not be read, and the detector has learned from {len(left_out):,}"
        raise DataError(f"{given.where}: none of {counted(len(given.images), 'image')} counts: {why} (see {out.path})")
    predicted = votes_of(detector.ensemble, kept, kept[detector.models])
    for name, predictions in predicted.items():
        write_predictions(out.predictions_file(name), predictions, {"bundle": detector.digest})
    together = pd.Series(group_ids(kept, detector.data, alike_pairs(kept)), kept["id"])
    vote, frame = predicted[detector.ensemble.name], evaluation_rows(detector.ensemble, predicted, together)
    numbers = groups_of_images(vote.ids, together)
    if options.corruptions:
        frame = frame.join(_under_corruption(detector, given, out, kept, frame, options, console))
    groups = by_group(vote, kept["subfolder"].to_numpy(object), detector.ensemble.threshold, numbers)
    known = given.attributes.set_axis(given.images["id"]).loc[vote.ids]
    attributes = by_attribute(vote, known, detector.ensemble.threshold, numbers)
    say(console, *attributes.notes)
    record = evaluation_record(
        given,
        detector.digest,
        vote,
        figures_of(frame, detector.ensemble.name),
        detector.bundle.figures,
        left_out["kind"].tolist() if detector.learned is not None else None,
        len(failed),
        [*_claimed_of_these(detector, kept, left_out), *attributes.summary],
    )
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
    detector: Detector,
    given: LabelledSet,
    out: EvaluationDir,
    options: PredictOptions,
    corrupted: bool,
    console: Console,
) -> Iterator[pd.DataFrame]:
    """What the detector says of the images of the set, a shard each; what is missing of it is predicted."""
    from rfray.inference.evaluation_predictions import claim, predict_set, read_shards
    from rfray.inference.shards import Task

    folder = out.corrupted_folder if corrupted else out.shards_folder
    claim(out, detector.digest, given, detector.further, corrupted, console)
    task = Task(folder, detector.where, options.batch_size, not corrupted, detector.further, corrupted)
    counts = predict_set(task, options.resources, options.address)
    each = (None for some in counts for _ in range(some.total()))
    text = f"Predicting {given.name}{' corrupted' if corrupted else ''}"
    for _ in each if console.quiet else counting(each, text, len(given.images)):
        pass
    models = detector.models
    scores = [f"{one} {way}" for one in models for way in CORRUPTION_NAMES] if corrupted else models
    return read_shards(task, scores)


def _under_corruption(
    detector: Detector,
    given: LabelledSet,
    out: EvaluationDir,
    kept: pd.DataFrame,
    frame: pd.DataFrame,
    options: PredictOptions,
    console: Console,
) -> pd.DataFrame:
    """TEST_COLUMNS of each row of the leaderboard; none of them for images of one class."""
    if kept["label"].nunique() < len(CLASSES):
        say(console, f"--corruptions: no AUC is defined for the images of one class of {given.name}, so none is made")
        return pd.DataFrame(index=frame.index)
    images = given.images.set_index("id", drop=False).loc[kept["id"]].reset_index(drop=True)
    shards = _predicted(detector, replace(given, images=images), out, options, True, console)
    return corruption_columns(detector.ensemble, kept, pd.concat(shards, ignore_index=True), detector.models, frame)


def _claimed_of_these(detector: Detector, *readable: pd.DataFrame) -> list[str]:
    """What to say where all images that could be read (path, label, digest) are those of the bundle's claims."""
    images = pd.concat([table[["path", "label", "digest"]] for table in readable]).sort_values("path")
    return [CLAIMED_OF_THESE] if part_digest(images.assign(part=TEST), TEST) == detector.bundle.test_digest else []


def _locked(out: EvaluationDir) -> AbstractContextManager[object]:
    """Holds an evaluation for one command at a time. Raises RunError where another one has it."""
    out.path.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(out.path / ".lock", timeout=0).acquire()
    except Timeout:
        raise RunError(f"{out.path} is in use by another `rfray evaluate`; wait for it, or choose --name") from None
