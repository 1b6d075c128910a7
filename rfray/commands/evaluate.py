"""A bundle and labelled images from elsewhere -> what it is worth there: the steps of `rfray evaluate`."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# before torch: its threads share their cores with those that decode, which would wait for threads that wait by spinning
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console

from rfray.data.decoder_process import decode_apart
from rfray.data.decoding import UnreadableImageError
from rfray.data.folders import read_file
from rfray.data.labelled_sets import LabelledSet, labelled_sets, read_classes
from rfray.data.learned_images import LearnedImages, find_learned, read_learned_images
from rfray.data.listing import counted
from rfray.errors import DataError, RfrayError, RunError
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
from rfray.evaluation.groups import Groups, by_group, write_groups_by
from rfray.evaluation.mistakes import mistakes_of, undrawn
from rfray.progress.phases import counting, say, warn
from rfray.report.evaluation_page import write_evaluation_page
from rfray.report.terminal import evaluations_table
from rfray.spec.sweep import CLASSES, Resources
from rfray.stats.guessing import bundle_warning
from rfray.stats.predictions import Predictions, write_predictions
from rfray.stats.voting import joined
from rfray.store.bundle_record import ENSEMBLE_FILE, LEARNED_FILE, Bundle, Ensemble
from rfray.store.csv_files import csv_text
from rfray.store.evaluation_dir import EVALUATIONS, EvaluationDir, EvaluationRecord
from rfray.store.files import file_digest, write_whole
from rfray.store.records import write_record
from rfray.store.run_dir import RunDir, read_bundle


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


def evaluate(
    bundle: str,
    words: Sequence[str],
    out: str | None,
    name: str | None,
    classes: Sequence[str],
    batch_size: int,
    cpu_and_gpu: tuple[float, float | None],
    address: str | None,
    console: Console,
) -> pd.DataFrame:
    """Evaluates a bundle on the sets that `words` mean (see `labelled_sets`): into evaluations/<name>/ each.

    That is in the run, or in `out`, by default the working folder for a bundle. What was predicted is not predicted
    again. `classes` says which of their folders is which class, by default as the run's sweep does. `cpu_and_gpu` are
    those of each process where many predict, on a Ray cluster at `address` or here. Returns what evaluations.csv holds.
    Raises InputError before anything is predicted where a word can't be used, RunError where there is no bundle, and
    RfrayError when all is written but some files could not be read.
    """
    folder, ensemble, record = read_bundle(bundle)
    run = RunDir(bundle)
    run.mirror.fetch(run.sweep_file)
    is_run = run.sweep_file.exists()
    evaluations = Path(out or (run.path if is_run else ".")).absolute() / EVALUATIONS
    run_classes = run.sweep().data.class_folders() if is_run else {one: [one] for one in CLASSES}
    given = read_classes(classes)
    sets = labelled_sets(words, name, given or run_classes, bool(given))
    learned = read_learned_images(folder / LEARNED_FILE) if LEARNED_FILE in record.files else None
    detector = Detector(bundle, file_digest(folder / ENSEMBLE_FILE), ensemble, record, learned)
    resources = Resources(cpu=cpu_and_gpu[0], gpu="auto" if cpu_and_gpu[1] is None else cpu_and_gpu[1])
    warn(console, bundle_warning(ensemble))
    if is_run and out is None:
        run.mirror.pull(f"{EVALUATIONS}/*")
    made = list[EvaluationRecord]()
    for one in sets:
        target = EvaluationDir(evaluations, one.name)
        with _locked(target):
            made.append(evaluate_set(detector, one, target, batch_size, resources, address, console))
    records, others = evaluations_of(evaluations, detector.digest)
    summary = write_summary(evaluations, records)
    if is_run and out is None:
        run.mirror.push()
    console.print(evaluations_table(summary, console.width))
    for record_made in made:
        say(console, *record_made.sentences)
    if others:
        say(console, f"Of another bundle, and so not in {SUMMARY}: {', '.join(others)}; evaluate them again")
    say(
        console,
        *(_shown(EvaluationDir(evaluations, one.name).report_html) for one in made),
        _shown(evaluations / SUMMARY),
    )
    if unreadable := sum(one.unreadable for one in made):
        where = ", ".join(f"{one.unreadable:,} of {one.name}" for one in made if one.unreadable)
        raise RfrayError(
            f"{counted(unreadable, 'file')} could not be read ({where}): unreadable.csv has the reasons. "
            "All else is evaluated"
        )
    return summary


def evaluate_set(
    detector: Detector,
    given: LabelledSet,
    out: EvaluationDir,
    batch_size: int,
    resources: Resources,
    address: str | None,
    console: Console,
) -> EvaluationRecord:
    """One evaluation: predicts what is not predicted yet, and writes all files of `out`, its record last.

    Raises DataError where no image is left that counts.
    """
    from rfray.inference.evaluation_predictions import claim, predict_set, predicted_shards

    if said := str(given.passed):
        say(console, f"Passed over in {given.where}: {said}")
    claim(out, detector.digest, given, console)
    done = predict_set(out, detector.where, batch_size, resources, address)
    for _ in counting(_each(done), f"Predicting {given.name}", len(given.images)):
        pass
    kept, left_out, failed = _divided(detector, given, predicted_shards(out))
    clear_evaluation(out)
    _write_rest(out, left_out, failed)
    if kept.empty:
        why = f"{len(failed):,} could not be read, and the detector has learned from {len(left_out):,}"
        raise DataError(f"{given.where}: none of {len(given.images):,} images counts: {why}")
    predicted = _votes(detector.ensemble, kept)
    for name, predictions in predicted.items():
        write_predictions(out.predictions_file(name), predictions, {"bundle": detector.digest})
    vote, frame = predicted[detector.ensemble.name], evaluation_rows(detector.ensemble, predicted)
    record, groups = _record(detector, given, frame, vote, left_out, len(failed)), _groups(detector, given, vote)
    write_whole(out.leaderboard_csv, csv_text(frame))
    write_whole(out.report_md, markdown_report(record, frame))
    write_groups_by(out.groups_csv, groups)
    _draw_mistakes(detector, given, out, predicted, console)
    write_evaluation_page(out, record, frame, detector.ensemble, predicted, groups)
    write_record(out.record_file, record)
    return record


def _groups(detector: Detector, given: LabelledSet, vote: Predictions) -> dict[str, Groups]:
    """The table by subfolder, and by each attribute; without those that have one group, or hardly two images each."""
    columns = {"subfolder": given.images["subfolder"], **given.attributes}
    found = {}
    for column, texts in columns.items():
        names = texts.set_axis(given.images["id"]).loc[vote.ids].to_numpy(object)
        if len(set(names)) <= len(names) / 2 and (table := by_group(vote, names, detector.ensemble.threshold)):
            found[column] = table
    return found


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
    from rfray.inference.mistake_pictures import draw_gallery
    from rfray.models.bundle import load_bundle

    files = given.images.set_index("id")["file"].loc[[mistake.id for mistake in mistakes.shown]].tolist()
    draw_gallery(out, mistakes, load_bundle(detector.where), lambda row: _picture(files[row]), console)


def _picture(file: str) -> np.ndarray:
    """The picture in a file, decoded in a process of its own. Raises DataError where it can't be read any more."""
    try:
        arrays, reason = next(decode_apart([read_file(file)], [], keep_picture=True))
    except UnreadableImageError as error:
        raise DataError(f"{file}: {error}") from None
    if reason:
        raise DataError(f"{file}: {reason}")
    return arrays[0]


def _each(counts: Iterator[Counter[str]]) -> Iterator[None]:
    """As many items as images were counted."""
    for some in counts:
        yield from [None] * some.total()


def _divided(
    detector: Detector, given: LabelledSet, shards: Iterator[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The images that count (id, label, p_fake of each member), those left out (path, kind), the others (path, reason).

    `kind` is exact or alike: see `find_learned`.
    """
    parts, start = [], 0
    for shard in shards:
        images = given.images.iloc[start : start + len(shard)].reset_index(drop=True)
        start += len(shard)
        kinds = find_learned(shard, detector.learned) if detector.learned is not None else ""
        scores = shard[detector.ensemble.members]
        parts.append(images[["id", "label"]].assign(kind=kinds, reason=shard["reason"]).join(scores))
    whole = pd.concat(parts, ignore_index=True)
    failed = (whole["reason"] != "").to_numpy()
    learned = ~failed & (whole["kind"] != "").to_numpy()
    kept = whole[~failed & ~learned].drop(columns=["kind", "reason"]).reset_index(drop=True)
    left_out = whole.loc[learned, ["id", "kind"]].rename(columns={"id": "path"})
    return kept, left_out, whole.loc[failed, ["id", "reason"]].rename(columns={"id": "path"})


def _votes(ensemble: Ensemble, kept: pd.DataFrame) -> dict[str, Predictions]:
    """Name of each vote and each member -> its predictions; without votes of which a member is not in the bundle."""
    ids, labels = kept["id"].to_numpy(object), kept["label"].to_numpy(np.int8)
    said = {
        vote.name: joined(vote, kept[vote.members].to_numpy(float).T)
        for vote in ensemble.votes
        if {*vote.members} <= {*ensemble.members}
    }
    said |= {member: kept[member].to_numpy(float) for member in ensemble.members}
    return {name: Predictions(ids, labels, p_fake) for name, p_fake in said.items()}


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
