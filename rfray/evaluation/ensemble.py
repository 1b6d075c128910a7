"""Trials' predictions-*.parquet -> ensemble/: who votes and how, each vote's predictions, and ensemble.json."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np

from rfray.errors import RunError
from rfray.spec.sweep import CLASSES, Sweep
from rfray.stats.metrics import THRESHOLD, metric
from rfray.stats.operating_point import choose_point
from rfray.stats.paired_tests import clearly_worse
from rfray.stats.predictions import Predictions, trial_predictions, write_predictions
from rfray.stats.voting import METHODS, Candidates, aligned, methods_to_use, vote_predictions
from rfray.store.bundle_record import Ensemble, Vote, vote_name
from rfray.store.records import write_record
from rfray.store.run_dir import Part, RunDir, TrialDir

CLEARLY = 1.1
"""A candidate is left out where 1 - AUC is significantly more than 1.1 times that of the best one; chosen: a smaller
difference changes no vote by an amount that matters."""

PARTS: tuple[Part, ...] = ("val", "test")


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


def _diverse(trials: Iterable[tuple[str, TrialDir]], most: int | None) -> list[TrialDir]:
    """Those trials (each with its backbone, best first) that are among the first `most` of their backbone."""
    seen: Counter[str] = Counter()
    chosen = []
    for backbone, trial in trials:
        seen[backbone] += 1
        if most is None or seen[backbone] <= most:
            chosen.append(trial)
    return chosen


def left_out(
    run: RunDir,
    candidates: Sequence[TrialDir],
    trials: bool,
    folds: Mapping[str, Sequence[TrialDir]] | None = None,
) -> dict[str, float]:
    """Id of each that is clearly worse on val than the first of `candidates` -> p (`clearly_worse`).

    Of the probes, and with `trials` of all. A vote of few would be made worse by it. With `folds` they are compared on
    all training images, as in `write_ensemble`. Raises RunError where predictions are missing.
    """
    others = [one for one in candidates[1:] if trials or ((result := one.result()) and result.kind == "probe")]
    if not others:
        return {}
    val = list(_val_predictions(run, [candidates[0], *others], folds).values())
    return {others[row - 1].id: p for row, p in clearly_worse(val[0].labels, aligned(val), CLEARLY).items()}


def write_ensemble(
    run: RunDir,
    members: Sequence[TrialDir],
    methods: Sequence[str] = (),
    others: Sequence[TrialDir] = (),
    choose_by: Literal["score", "worst"] = "score",
    folds: Mapping[str, Sequence[TrialDir]] | None = None,
) -> Ensemble:
    """Computes the votes and writes everything below ensemble/, ensemble.json last.

    What was written for other methods is removed.

    Args:
        run: the run folder.
        members: of the vote, best first.
        methods: of METHODS; the first makes the main vote, and the soft one is always made.
        others: further trials that a method may choose from, best first.
        choose_by: what they were ranked by, as in EnsembleSettings.
        folds: as by `fold_models`. A member then stands for the models of its folds: it votes by their mean, and its
            val predictions are those on all training images, each by the model that has not learned from it.

    Raises:
        RunError: where there is no member, predictions are missing, or they are on different images.
        InputError: for an unknown method.
    """
    if not members:
        raise RunError(f"{run.path}: no finished trial whose weights are still there, so there is nothing to join")
    sweep, asked = run.sweep(), methods_to_use(methods)
    val = _val_predictions(run, [*members, *others], folds)
    votes = [_vote(method, val, len(members), sweep) for method in asked]
    found: dict[tuple[str, Part], Predictions] = {}
    for vote in votes:
        found[vote.name, "val"] = vote_predictions(vote, [val[member] for member in vote.members])
    if folds is not None:
        votes = [_of_folds(vote, folds) for vote in votes]
    for vote in votes:
        test = _predictions(run, [run.trial(member) for member in vote.members], "test")
        found[vote.name, "test"] = vote_predictions(vote, list(test.values()))
    ensemble = Ensemble(
        **votes[0].model_dump(),
        classes=list(CLASSES),
        metric=sweep.search.metric,
        choose_by=choose_by,
        others=votes[1:],
    )
    run.ensemble_file.unlink(missing_ok=True)  # an old record must not stand beside new predictions
    for method, part in product(METHODS, PARTS):
        run.ensemble_predictions_file(vote_name(method), part).unlink(missing_ok=True)
    for vote, part in product(votes, PARTS):
        file = run.ensemble_predictions_file(vote.name, part)
        write_predictions(file, found[vote.name, part], {"members": " ".join(vote.members)})
    write_record(run.ensemble_file, ensemble)
    return ensemble


def fold_models(run: RunDir, folds: int, diverse: int | None = None) -> dict[str, list[TrialDir]]:
    """Id of a finalist -> its models of each of so many folds, where all of them finished well; best finalist first.

    Ranked by the val metric of `out_of_fold`; at most `diverse` of one backbone, if given.
    """
    found: dict[str, list[TrialDir]] = defaultdict(list)
    for trial in run.repeats():
        result = trial.result()
        fold = trial.start().fold
        if result is not None and result.status == "ok" and result.repeats and fold is not None and fold[1] == folds:
            found[result.repeats].append(trial)
    name = run.sweep().search.metric
    scores = {one: metric(name, out_of_fold(models)) or 0.0 for one, models in found.items() if len(models) == folds}
    ordered = sorted(scores, key=lambda one: (-scores[one], one))
    kept = _diverse([(found[one][0].start().trial.backbone, run.trial(one)) for one in ordered], diverse)
    return {finalist.id: found[finalist.id] for finalist in kept}


def out_of_fold(models: Sequence[TrialDir]) -> Predictions:
    """The predictions of the models of the folds on all training images, each on its own fold; in order of the ids."""
    parts = [trial_predictions(trial, "val") for trial in models]
    ids, labels, p_fake = (np.concatenate([vars(part)[name] for part in parts]) for name in ("ids", "labels", "p_fake"))
    order = np.argsort(ids)
    return Predictions(ids[order], labels[order], p_fake[order])


def _of_folds(vote: Vote, folds: Mapping[str, Sequence[TrialDir]]) -> Vote:
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
            alone = f"{vote.name} is {vote.members[0]} alone"
            return f"{alone}: on the val images no mixture has a better {ensemble.metric}"
    return None


def _val_predictions(
    run: RunDir, trials: Sequence[TrialDir], folds: Mapping[str, Sequence[TrialDir]] | None
) -> dict[str, Predictions]:
    """Trial's id -> its val predictions; with `folds`, those of its models on all training images."""
    if folds is None:
        return _predictions(run, trials, "val")
    return {trial.id: out_of_fold(folds[trial.id]) for trial in trials}


def _predictions(run: RunDir, trials: Sequence[TrialDir], part: Part) -> dict[str, Predictions]:
    """Trial's id -> its predictions, all on the same images."""
    found = {trial.id: trial_predictions(trial, part) for trial in trials}
    try:
        aligned(list(found.values()))
    except ValueError as error:
        raise RunError(f"{run.path}: the {part} predictions of {', '.join(found)} can't be joined: {error}") from None
    return found


def _vote(method: str, val: Mapping[str, Predictions], top: int, sweep: Sweep) -> Vote:
    """How the candidates (id -> val predictions, best first) vote by `method`, with its operating point."""
    voters = list(val.values())
    ids, labels = voters[0].ids, voters[0].labels
    weighting = METHODS[method](Candidates(ids, labels, aligned(voters), top, sweep.search.metric, sweep.seed))
    voting = np.flatnonzero(weighting.weights)
    vote = Vote(
        name=vote_name(method),
        members=[list(val)[number] for number in voting],
        weights=weighting.weights[voting].tolist(),
        temperatures=weighting.temperatures[voting].tolist(),
        temperature=weighting.temperature,
        threshold=THRESHOLD,
        val_score=None,
    )
    on_val = vote_predictions(vote, [voters[number] for number in voting])
    point = choose_point(on_val, sweep.ensemble)
    score = metric(sweep.search.metric, on_val)
    return vote.model_copy(update={"threshold": point.threshold, "unsure": point.unsure, "val_score": score})
