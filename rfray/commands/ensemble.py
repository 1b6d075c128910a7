"""A run folder -> its ensemble, leaderboard, plots and page: the steps of `rfray ensemble`, from top to bottom.

Each step reads what earlier ones have written; what is already there and still true is not made again.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from itertools import chain
from typing import Any

from rich.console import Console

from rfray.commands.prepare_data import check_training, prepare_attributes, prepare_test
from rfray.data.attributes import check_attributes
from rfray.data.catalog import part_digest
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.folders import list_images
from rfray.data.learned_images import write_learned_images
from rfray.data.rotations import fold_count, training_rotations
from rfray.errors import DataError, InputError, RunError, StorageError, SweepFailed, nearest_first
from rfray.evaluation.attributes import attribute_groups
from rfray.evaluation.ensemble import (
    Folds,
    choose_members,
    chosen_alone,
    fold_models,
    left_out,
    worst_scores,
    write_corrupted_votes,
    write_ensemble,
)
from rfray.evaluation.groups import write_groups
from rfray.evaluation.label_issues import find_label_issues, write_label_issues
from rfray.evaluation.leaderboard import read_leaderboard, test_figures, write_leaderboard
from rfray.evaluation.mistakes import undrawn_mistakes
from rfray.evaluation.unseen import comparable_scores
from rfray.inference.missing import without_predictions, without_predictions_of
from rfray.progress.phases import say
from rfray.report.model_card import write_model_card
from rfray.spec.checks import unused_settings
from rfray.spec.parts import TEST
from rfray.spec.sweep import EnsembleSettings, Sweep
from rfray.spec.sweep_file import set_later
from rfray.stats.predictions import predictions_metadata
from rfray.stats.voting import methods_to_use
from rfray.store.bundle_record import (
    LEARNED_FILE,
    Bundle,
    Ensemble,
    Member,
    file_problems,
    member_files,
    versions,
)
from rfray.store.files import file_digest
from rfray.store.ownership import claim_run, lock_run
from rfray.store.run_dir import Part, RunDir, TrialDir

# torch, Ray and matplotlib are imported where they are needed: when all is predicted, a new ensemble is made in seconds

REPORT_FORMATS = ("csv", "markdown", "html")
"""Of the leaderboard: leaderboard.csv, leaderboard.md, report.html with its pictures."""


def ensemble(
    run: RunDir,
    given: Mapping[str, Any],
    corruptions: bool | None,
    formats: Collection[str],
    address: str | None,
    console: Console,
    overrides: Sequence[str] = (),
) -> None:
    """Makes the ensemble of a run and everything that shows it.

    `given` are settings (key of EnsembleSettings -> value, None: not given) that win over the sweep's. `corruptions`:
    whether the test images are predicted corrupted, too; None: as the sweep says. Of the leaderboard's `formats` the
    CSV is always written, since the others are made from it; those not asked for are removed, as they would be out of
    date. `address` is that of a Ray cluster, by default this machine. `overrides` (`key=value`) set keys on which
    no trial depends, and stay in the run's sweep.yaml.
    Raises InputError for an unknown method or format, or a key that can't be set any more, SweepFailed where no trial
    can vote, and what the steps raise.
    """
    for unknown in set(formats) - set(REPORT_FORMATS):
        raise InputError(f"--format {unknown}: no such format; allowed: {nearest_first(unknown, REPORT_FORMATS)}")
    with lock_run(run), ExitStack() as session:
        sweep = _set(run, overrides, console) if overrides else run.sweep()
        settings = sweep.ensemble.model_copy(update={key: one for key, one in given.items() if one is not None})
        methods = methods_to_use(settings.methods)
        corrupted = sweep.report.corruptions if corruptions is None else corruptions
        run.check_trials()
        run.check_images()
        _remove_changed(run, console)

        @cache
        def connect() -> None:
            from rfray.cluster.connect import connected

            session.enter_context(connected(address, sweep.resources))

        candidates, folds = _candidates(run, settings, connect, console)
        members = _members(run, candidates, settings, folds, console)
        prepare_test(run, sweep, console)
        prepare_attributes(run, sweep, console)
        kept = [*choose_members(run), *chain(*(folds or {}).values())]
        found = without_predictions_of(run, kept, sweep.data.test_parts)
        if missing := {part: trials for part, trials in found.items() if trials}:
            from rfray.inference.predictions import predict_test

            predict_test(run, missing, connect, console)
        if corrupted:
            _predict_corrupted(run, kept, "test", connect, console)
        earlier = None
        with suppress(RunError):  # a damaged one is made anew
            earlier = run.ensemble()
        others = [one for one in candidates if one not in members]
        made = write_ensemble(run, members, methods, others, settings.choose_by, folds)
        if alone := chosen_alone(made):
            say(console, alone)
        write_corrupted_votes(run, made, val=settings.choose_by == "worst", test=corrupted)
        write_leaderboard(run)
        attributes = attribute_groups(run)
        say(console, *attributes.notes, *attributes.summary)
        if (few := write_groups(run, attributes.groups)) and sweep.report.group_pattern is not None:
            say(console, few)
        if issues := write_label_issues(run):
            say(console, issues.sentence)
        _write_bundle(run, sweep, made, earlier.bundle if earlier else None)
        _write_formats(run, sweep, formats, console)


def _set(run: RunDir, overrides: Sequence[str], console: Console) -> Sweep:
    """Writes what was set into the run's sweep.yaml. Raises InputError where it can't be: folders are looked at."""
    before, file = run.sweep().data, set_later(run.sweep_file, tuple(overrides))
    sweep = file.sweep
    for line in unused_settings(file):
        if line.startswith("--set "):
            say(console, f"Note: {line}")
    parts = {name[1] for one in overrides if (name := one.partition("=")[0].split("."))[0] == "data"}
    if parts & {"train", "val"}:
        check_training(run, sweep)
    if "attributes" in parts:
        check_attributes(sweep.data, run.audited_images() if "test" not in parts else None)
    if "test" in parts:
        for part, folder in sweep.data.test_folders.items():
            if part == TEST or folder != before.folder(part):  # one that was read before need not be there
                list_images(sweep.data, part)
    claim_run(run, sweep)
    return sweep


def _remove_changed(run: RunDir, console: Console) -> None:
    """Removes predictions that are not what was written: they are made anew."""
    if changed := run.not_vouched(*run.test_predictions()):
        run.mirror.remove(changed)
        listed = ", ".join(run.shown(file) for file in changed)
        say(console, f"Not what was written, and so made anew where there are weights: {listed}")


def _candidates(
    run: RunDir, settings: EnsembleSettings, connect: Callable[[], None], console: Console
) -> tuple[list[TrialDir], Folds | None]:
    """The trials that may vote, best first, and of finalists that vote by them the models of their folds."""
    sweep, diverse = run.sweep(), settings.diverse
    if wanted := fold_count(run, sweep):
        if settings.choose_by == "worst":
            those = "left-out images" if sweep.judges_unseen else "data.folds"
            raise InputError(f"--choose-by worst: allowed: score, as {those} are not predicted under corruption")
        if folds := fold_models(run, wanted, diverse):
            return [run.trial(finalist) for finalist in folds], folds
        if sweep.judges_unseen:
            return _of_one_rotation(run, diverse, console), None
        say(console, f"No finalist has a model of each of its {wanted} folds, so trials vote instead")
    if settings.choose_by == "score":
        return choose_members(run, diverse=diverse), None
    kept = choose_members(run)
    _predict_corrupted(run, kept, "val", connect, console)
    return choose_members(run, diverse=diverse, scores=worst_scores(run, kept)), None


def _of_one_rotation(run: RunDir, diverse: int | None, console: Console) -> list[TrialDir]:
    """The best trial and those that left out the same sources, best first: only these have predicted the same val."""
    results = [result for out in run.trials() if (result := out.result()) is not None]
    scores = comparable_scores(results)
    best = choose_members(run, scores=scores)[:1]
    fold = best[0].start().fold if best else None
    names = [one.fake for one in training_rotations(run.catalog()).all]
    if fold is not None:
        text = f"No finalist was trained without each of {', '.join(names)}: trials without {names[fold[0] - 1]} vote"
        say(console, f"{text}. A larger search.budget, or search.finalists, trains the best one without each")
    same = {one.id: scores[one.id] for one in results if one.id in scores and one.fold == fold}
    return choose_members(run, diverse=diverse, scores=same)


def _members(
    run: RunDir, candidates: list[TrialDir], settings: EnsembleSettings, folds: Folds | None, console: Console
) -> list[TrialDir]:
    """The first `top_k` of the candidates that are not clearly worse than the best; says who is left out and why."""
    worse, best = left_out(run, candidates, settings.leave_out_worse, folds), candidates[: settings.top_k]
    members = [one for one in candidates if one.id not in worse][: settings.top_k]
    if not members:
        write_leaderboard(run)  # the failed trials, with their reasons
        raise SweepFailed(f"{run.where}: no trial has succeeded, so there is nothing to join")
    images, those = ("training", "finalists with all their folds") if folds else ("val", "trials with weights")
    unseen = run.sweep().judges_unseen
    if unseen:
        images = "left-out"
    for one in (one for one in best if one.id in worse):
        reason = f"clearly worse than {best[0].id} on the {images} images (p = {worse[one.id]:.2g})"
        say(console, f"{one.id} is {reason}, so it is no member")
    if len(best) < settings.top_k and not (folds and unseen):  # so many finalists were asked for
        say(console, f"Only {len(best)} {those} are there to choose from, so the ensemble has {len(members)} members")
    if settings.choose_by == "score" and not folds and not unseen:
        for name in _without_weights(run, members[-1]):
            say(console, f"{name} has no weights any more, so it is no member, as good as it was on val")
    return members


def _without_weights(run: RunDir, last: TrialDir) -> list[str]:
    """Ids of the models that would come before the `last` member if they had their weights."""
    results = [result for out in run.models() if (result := out.result()) is not None and result.kind != "fold"]
    places = {one.id: (-one.score, one.id) for one in results if one.score is not None}
    return [
        one for one, place in places.items() if place < places[last.id] and not run.trial(one).weights_file.exists()
    ]


def _predict_corrupted(
    run: RunDir, trials: Sequence[TrialDir], part: Part, connect: Callable[[], None], console: Console
) -> None:
    """Predicts a part under corruption with the trials, unless they have been."""
    if missing := without_predictions(run, trials, part, CORRUPTION_NAMES):
        from rfray.inference.predictions import predict_under_corruption

        predict_under_corruption(run, trials, missing, part, connect, console)


def members_of(trials: Iterable[TrialDir]) -> list[Member]:
    """What a bundle says of the trials that vote."""
    found = []
    for out in trials:
        result = out.result()
        assert result is not None  # only ended trials vote
        flip = predictions_metadata(out.predictions_file("val")).get("tta", "none")
        trial = result.trial.model_copy(update={"pretrained": bool(result.trial.pretrained), "tta": flip})
        found.append(Member(id=out.id, weights=file_digest(out.weights_file), trial=trial))
    return found


def _write_bundle(run: RunDir, sweep: Sweep, ensemble: Ensemble, earlier: Bundle | None) -> None:
    """Makes ensemble/ a folder that stands alone: the members' models, what they came to, the model card."""
    trials = [run.trial(member) for member in ensemble.members]
    members = members_of(trials)
    if earlier is None or earlier.members != members or file_problems(run.bundle_folder, earlier.files, members):
        from rfray.models.bundle import write_members

        write_members(run.bundle_folder, trials, members)
    learned = _write_learned(run)
    audit, frame = run.audit(), read_leaderboard(run)
    bundle = Bundle(
        members=members,
        reencode=sweep.data.reencode,
        files={name: file_digest(run.bundle_folder / name) for name in [*member_files(members), *learned]},
        figures=test_figures(frame, ensemble.name),
        test_digest=part_digest(run.catalog(), "test"),
        audit_stamp=audit.stamp if audit is not None else "",
        versions=versions(),
    )
    whole = ensemble.model_copy(update={"bundle": bundle})
    write_model_card(run, whole)
    run.write_vouched(run.ensemble_file, whole)


def _write_learned(run: RunDir) -> list[str]:
    """Writes the fingerprints of train and val into the bundle; the names of files that were written.

    A run whose images were read by an earlier version has no such fingerprints.
    """
    file = run.bundle_folder / LEARNED_FILE
    images = run.audited_images()
    learned = images[images["part"].isin(["train", "val"])]
    if "phash_256" not in learned or learned["phash_256"].isna().any():
        file.unlink(missing_ok=True)
        return []
    write_learned_images(file, learned)
    return [LEARNED_FILE]


def _write_formats(run: RunDir, sweep: Sweep, formats: Collection[str], console: Console) -> None:
    """Plots and the page, if asked for; removes a page or a Markdown table that was not."""
    if "markdown" not in formats:
        run.leaderboard_md.unlink()
    if "html" not in formats:
        run.report_html.unlink(missing_ok=True)
        return
    if mistakes := undrawn_mistakes(run):
        from rfray.inference.mistake_pictures import draw_mistakes

        draw_mistakes(run, mistakes, console)

    from rfray.evaluation.search_findings import search_findings
    from rfray.report.audit_plots import draw_audit
    from rfray.report.label_sheets import draw_label_issues
    from rfray.report.page import write_page
    from rfray.report.plots import write_plots
    from rfray.report.search_plots import write_search_plots

    try:
        draw_audit(run, sweep)
        draw_label_issues(run, sweep, find_label_issues(run))
    except (DataError, StorageError) as error:  # of a run that came from elsewhere, without the training images
        say(console, f"The pictures of the audit stay as they are: {error}")
    findings = search_findings(run)
    write_plots(run)
    write_search_plots(run, findings)
    write_page(run, findings)
