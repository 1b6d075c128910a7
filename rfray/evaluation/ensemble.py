"""Trials' predictions-*.parquet -> ensemble/: who votes and how, each vote's predictions, and ensemble.json."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError
from rfray.spec.sweep import CLASSES, Sweep
from rfray.stats.best import clearly_worse
from rfray.stats.clusters import groups_in, groups_of_images
from rfray.stats.metrics import THRESHOLD, metric
from rfray.stats.operating_point import choose_point
from rfray.stats.predictions import Predictions, read_predictions, trial_predictions, write_predictions
from rfray.stats.voting import METHODS, Candidates, aligned, methods_to_use, vote_predictions
from rfray.store.bundle_record import Ensemble, Vote, vote_name
from rfray.store.files import file_digest
from rfray.store.run_dir import Part, RunDir, TrialDir

CLEARLY = 1.1
"""A candidate is left out where 1 - AUC is proven to be more than 1.1 times that of the best one; chosen: a smaller
difference changes no vote by an amount that matters."""

PARTS: tuple[Part, ...] = ("val", "test")
TEST_COLUMNS = (*(f"auc_{corruption}" for corruption in CORRUPTION_NAMES), "auc_worst_corruption")
"""Columns: the AUC on test under corruption, and the smallest of them and of the plain one."""
WORST = "val_worst_corruption"
"""Column: the smallest val metric on val, as it is and under corruption; it ranks where members were chosen by it."""
PICTURES = (None, *CORRUPTION_NAMES)
"""As they are, and under each corruption."""
PredictionsFile = Callable[[Part, str | None], Path]
"""Part, and a corruption or None -> the file of a trial's or a vote's predictions on it."""
Folds = Mapping[str, Sequence[TrialDir]]
"""Id of a finalist -> the models of its folds."""


def choose_members(
    run: RunDir,
    top_k: int | None = None,
    diverse: int | None = None,
    scores: Mapping[str, float | None] | None = None,
) -> list[TrialDir]:
    """The best models that finished well and whose weights are still there, best first; none of a fold.

    At most `top_k` (>= 1) of them, and at most `diverse` (>= 1) of one backbone, if given. Ranked by their val
    score, or by `scores` (id -> score), ties by id; a trial without one is left out.
    """
    scored = [
        (-score, trial.id, result.trial.backbone, trial)
        for trial in run.models()
        if (result := trial.result()) is not None
        and result.status == "ok"
        and result.kind != "fold"
        and (score := result.score if scores is None else scores.get(trial.id)) is not None
        and trial.weights_file.exists()
    ]
    ordered = sorted(scored, key=lambda entry: entry[:2])
    return _diverse([(backbone, trial) for _, _, backbone, trial in ordered], diverse)[:top_k]


def _diverse(trials: Sequence[tuple[str, TrialDir]], most: int | None) -> list[TrialDir]:
    """Those trials (each with its backbone, best first) that are among the first `most` of their backbone."""
    backbones = [backbone for backbone, _ in trials]
    earlier = (backbones[:place].count(backbone) for place, backbone in enumerate(backbones))
    return [trial for (_, trial), alike in zip(trials, earlier, strict=True) if most is None or alike < most]


def left_out(run: RunDir, candidates: Sequence[TrialDir], trials: bool, folds: Folds | None = None) -> dict[str, float]:
    """Id of each that is clearly worse on val than the first of `candidates` -> p (`clearly_worse`).

    Of the probes, and with `trials` of all. A vote of few would be made worse by it. With `folds` they are compared on
    all training images, as in `write_ensemble`. Raises RunError where predictions are missing.
    """
    others = [one for one in candidates[1:] if trials or ((result := one.result()) and result.kind == "probe")]
    if not others:
        return {}
    val = list(_val_predictions(run, [candidates[0], *others], folds).values())
    parts = ("train", "val") if folds is not None or run.sweep().judges_unseen else ("val",)
    groups = groups_of_images(val[0].ids, groups_in(run, *parts))
    return {others[row - 1].id: p for row, p in clearly_worse(val[0].labels, aligned(val), CLEARLY, groups).items()}


def write_ensemble(
    run: RunDir,
    members: Sequence[TrialDir],
    methods: Sequence[str] = (),
    others: Sequence[TrialDir] = (),
    choose_by: Literal["score", "worst"] = "score",
    folds: Folds | None = None,
) -> Ensemble:
    """Computes the votes and writes everything below ensemble/, ensemble.json last; what other methods wrote goes.

    The first of `methods` makes the main vote, and the soft one is always made. A method may also choose from `others`.
    Both `members` and `others` are best first, as ranked by `choose_by` (see EnsembleSettings). With `folds` (see
    `fold_models`) a member stands for the models of its folds: it votes by their mean, and its val predictions are
    those on all training images, each by the model that has not learned from it.

    Raises RunError where there is no member, predictions are missing, or they are on different images; InputError for
    an unknown method.
    """
    if not members:
        raise RunError(f"{run.path}: no finished trial whose weights are still there, so there is nothing to join")
    sweep, asked = run.sweep(), methods_to_use(methods)
    tests = sweep.data.test_parts
    val = _val_predictions(run, [*members, *others], folds)
    votes: list[Vote] = []
    said: dict[tuple[str, Part], Predictions] = {}
    for method in asked:
        vote, said[vote_name(method), "val"] = _vote(method, val, len(members), sweep)
        votes.append(vote if folds is None else _of_folds(vote, folds))
    for vote, part in product(votes, tests):
        members_say = _predictions(run, [run.trial(member) for member in vote.members], part)
        said[vote.name, part] = vote_predictions(vote, list(members_say.values()))
    ensemble = Ensemble(
        **votes[0].model_dump(),
        classes=list(CLASSES),
        metric=sweep.search.metric,
        choose_by=choose_by,
        others=votes[1:],
    )
    run.ensemble_file.unlink(missing_ok=True)  # an old record must not stand beside new predictions
    for former in run.votes_predictions():
        former.unlink()
    files: dict[Path, str | None] = {}
    for vote, part in product(votes, ("val", *tests)):
        file = run.ensemble_predictions_file(vote.name, part)
        write_predictions(file, said[vote.name, part], {"members": " ".join(vote.members)})
        files[file] = file_digest(file)
    run.vouch(files)
    run.write_vouched(run.ensemble_file, ensemble)
    return ensemble


def fold_models(run: RunDir, folds: int, diverse: int | None = None) -> dict[str, list[TrialDir]]:
    """Id of a finalist -> its models of each of so many folds, where all of them finished well; best finalist first.

    Ranked by the val metric of `out_of_fold`, or as `search.judge` says over left-out sources; at most `diverse` of one
    backbone, if given.
    """
    sweep, found = run.sweep(), defaultdict[str, list[TrialDir]](list)
    for trial in (*run.trials(), *run.repeats()):
        if (result := trial.result()) is None or result.status != "ok":
            continue
        start = trial.start()
        # one without `keep_epoch`, by an earlier rfray, has chosen its best epoch on the fold: it says too much
        is_wanted = start.keep_epoch if start.repeats else trial.weights_file.exists()
        if start.fold is not None and start.fold[1] == folds and is_wanted:
            found[start.repeats or trial.id].append(trial)
    complete = {one: models for one, models in found.items() if len(models) == folds}
    scores = {one: _fold_score(sweep, models) for one, models in complete.items()}
    ordered = sorted(scores, key=lambda one: (-scores[one], one))
    kept = _diverse([(found[one][0].start().trial.backbone, run.trial(one)) for one in ordered], diverse)
    return {finalist.id: found[finalist.id] for finalist in kept}


def _fold_score(sweep: Sweep, models: Sequence[TrialDir]) -> float:
    if not sweep.judges_unseen:
        return metric(sweep.search.metric, out_of_fold(models)) or 0.0
    scores = [result.score or 0.0 for model in models if (result := model.result()) is not None]
    return min(scores) if sweep.search.judge == "unseen_worst" else mean(scores)


def out_of_fold(models: Sequence[TrialDir]) -> Predictions:
    """The predictions of the models of the folds on all training images, each on its own fold; in order of the ids."""
    parts = [trial_predictions(trial, "val") for trial in models]
    whole = Predictions(*(np.concatenate([vars(part)[name] for part in parts]) for name in ("ids", "labels", "p_fake")))
    return whole.at(np.argsort(whole.ids))


def _of_folds(vote: Vote, folds: Folds) -> Vote:
    """The same vote with each member's share divided among the models of its folds."""
    members = [(model, number) for number, member in enumerate(vote.members) for model in folds[member]]
    return vote.model_copy(
        update={
            "members": [model.id for model, _ in members],
            "weights": [vote.weights[number] / len(folds[vote.members[number]]) for _, number in members],
            "temperatures": [vote.temperatures[number] for _, number in members],
        }
    )


def chosen_alone(ensemble: Ensemble) -> str | None:
    """A sentence where the weighted vote was left with one member, else None."""
    for vote in ensemble.votes:
        if vote.name == vote_name("weighted") and len(vote.members) == 1:
            why = f"on the val images no mixture has a better {ensemble.metric}"
            return f"{vote.name} is {vote.members[0]} alone: {why}"
    return None


def worst_scores(run: RunDir, trials: Iterable[TrialDir]) -> dict[str, float | None]:
    """Id of each trial -> its WORST; None where it is undefined, or was not measured as the weights were not kept."""
    name = run.sweep().search.metric
    return {trial.id: _worst(_values(trial.predictions_file, "val", name)) for trial in trials}


def write_corrupted_votes(run: RunDir, ensemble: Ensemble, val: bool, test: bool) -> None:
    """Writes what votes say of these parts under corruption; earlier files go. Raises RunError where members' lack."""
    for former in run.corrupted_votes():
        former.unlink()
    parts = [part for part, asked in zip(PARTS, (val, test), strict=True) if asked]
    for vote, part, corruption in product(ensemble.votes, parts, CORRUPTION_NAMES):
        members = _predictions(run, [run.trial(member) for member in vote.members], part, corruption)
        joint, origin = vote_predictions(vote, list(members.values())), {"members": " ".join(vote.members)}
        write_predictions(run.ensemble_predictions_file(vote.name, part, corruption), joint, origin)
    run.vouch({file: file_digest(file) for file in run.corrupted_votes()})


def robustness(run: RunDir) -> dict[str, dict[str, float | None]]:
    """Row of the leaderboard (a trial or a vote) -> column -> value: WORST and TEST_COLUMNS, where they were run.

    All have the same columns; None is undefined or was not measured. Raises RunError where a file is damaged.
    """
    ensemble = run.ensemble()
    if ensemble is None:
        return {}
    name = run.sweep().search.metric
    files: dict[str, PredictionsFile] = {
        **{trial.id: trial.predictions_file for trial in run.models()},
        **{vote.name: partial(run.ensemble_predictions_file, vote.name) for vote in ensemble.votes},
    }
    on_test = all(files[ensemble.name]("test", one).exists() for one in PICTURES)
    rows: dict[str, dict[str, float | None]] = {}
    for row, file in files.items():
        rows[row] = {WORST: _worst(_values(file, "val", name))} if ensemble.choose_by == "worst" else {}
        if on_test:
            values = _values(file, "test", "auc")
            rows[row] |= zip(TEST_COLUMNS, (*values[1:], _worst(values)), strict=True)
    return rows


def _values(file: PredictionsFile, part: Part, name: str) -> list[float | None]:
    """The metric of each of PICTURES of the part; None where it is undefined or one of them is missing."""
    files = [file(part, one) for one in PICTURES]
    there = all(one.exists() for one in files)
    return [metric(name, read_predictions(one)) if there else None for one in files]


def _worst(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return min(defined) if len(defined) == len(values) else None


def _val_predictions(run: RunDir, trials: Sequence[TrialDir], folds: Folds | None) -> dict[str, Predictions]:
    """Trial's id -> its val predictions; with `folds`, those of its models on all training images."""
    if folds is None:
        return _predictions(run, trials, "val")
    return {trial.id: out_of_fold(folds[trial.id]) for trial in trials}


def _predictions(
    run: RunDir, trials: Sequence[TrialDir], part: Part, corruption: str | None = None
) -> dict[str, Predictions]:
    """Trial's id -> its predictions, all on the same images."""
    found = {trial.id: trial_predictions(trial, part, corruption) for trial in trials}
    try:
        aligned(list(found.values()))
    except ValueError as error:
        those = f"{part} predictions{f' under {corruption}' if corruption else ''} of {', '.join(found)}"
        raise RunError(f"{run.path}: the {those} can't be joined: {error}") from None
    return found


def _vote(method: str, val: Mapping[str, Predictions], top: int, sweep: Sweep) -> tuple[Vote, Predictions]:
    """How the candidates (id -> val predictions, best first) vote by `method`, with its operating point, and on val."""
    voters = list(val.values())
    given = Candidates(voters[0].ids, voters[0].labels, aligned(voters), top, sweep.search.metric, sweep.seed)
    weights, temperatures, temperature = METHODS[method](given)
    voting = np.flatnonzero(weights)
    vote = Vote(
        name=vote_name(method),
        members=[list(val)[number] for number in voting],
        weights=weights[voting].tolist(),
        temperatures=temperatures[voting].tolist(),
        temperature=temperature,
        threshold=THRESHOLD,
        val_score=None,
    )
    on_val = vote_predictions(vote, [voters[number] for number in voting])
    point, score = choose_point(on_val, sweep.ensemble), metric(sweep.search.metric, on_val)
    return vote.model_copy(update={**vars(point), "val_score": score}), on_val
