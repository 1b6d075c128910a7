"""Trials' predictions-*.parquet -> ensemble/: who votes and how, what each vote comes to, and ensemble.json."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from rfray.config import CLASSES, Sweep
from rfray.errors import RunError
from rfray.evaluation.bundle import Bundle
from rfray.evaluation.calibration import tempered
from rfray.evaluation.comparisons import clearly_worse
from rfray.evaluation.metrics import THRESHOLD, metric
from rfray.evaluation.operating_point import choose_point
from rfray.evaluation.predictions import Predictions, trial_predictions, write_predictions
from rfray.evaluation.voting import METHODS, Candidates, methods_to_use
from rfray.run import Part, RunDir, TrialDir, read_record, write_record
from rfray.strict import Strict

CLEARLY = 1.1
"""1 - AUC of a candidate that is left out, proven, is more than so many times that of the best one."""

NAME = "ensemble"
"""Name of the uniform soft vote: in its files' names and on the leaderboard."""

PARTS: tuple[Part, ...] = ("select", "report")


class Vote(Strict):
    """How members' probabilities become one, and from where on that one is called fake."""

    name: str
    """Of its row on the leaderboard and its files: ensemble for the soft vote, ensemble-<method> for others."""
    members: list[str]
    """Ids of the trials that vote, best first."""
    weights: list[float]
    """Share of each member in the vote, in the same order; they sum to 1."""
    temperatures: list[float]
    """What each member's logit is divided by before it votes; 1 leaves it as it is."""
    temperature: float = 1.0
    """What the logit of the vote is divided by."""
    threshold: float
    """An image is called fake where p_fake >= this; above 1: none is."""
    unsure: tuple[float, float] | None = None
    """An image gets no verdict where low <= p_fake < high, which the threshold is between; both alike: each gets one.
    None where no error rate was asked for, or where it can't be reached."""
    select_score: float | None
    """The vote's own value of the select metric on the select part, in [0, 1]; None where it is undefined."""


class Ensemble(Vote):
    """ensemble.json: everything that turns the members' weights into one detector."""

    schema_version: Literal[3] = 3
    classes: list[str]
    """Class names; the position is the label."""
    metric: str
    """Name of the select metric, by which the members were chosen."""
    choose_by: Literal["score", "worst"] = "score"
    """By its value on the select part, or by the worst of its values there under stress."""
    others: list[Vote]
    """What this vote is compared with: the other ways to vote."""
    bundle: Bundle | None = None
    """What stands beside it in the folder, and how good it is; None until all of that is there."""

    @property
    def chosen_by(self) -> str:
        """The same in words."""
        return self.metric if self.choose_by == "score" else f"the worst {self.metric} under stress"

    @property
    def votes(self) -> list[Vote]:
        """The vote itself, then the others."""
        return [self, *self.others]


def choose_members(
    run: RunDir,
    top_k: int | None = None,
    diverse: int | None = None,
    scores: Mapping[str, float | None] | None = None,
) -> list[TrialDir]:
    """The best models that finished well and whose weights are still there, best first; none of a fold.

    At most `top_k` (>= 1) of them, and at most `diverse` (>= 1) of one backbone, if given. Ranked by their select
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
    """Id of each that is clearly worse on the select part than the first of `candidates` -> p (`clearly_worse`).

    Of the probes, and with `trials` of all. A vote of few would be made worse by it. With `folds` they are compared on
    all training images, as in `write_ensemble`. Raises RunError where predictions are missing.
    """
    others = [one for one in candidates[1:] if trials or ((result := one.result()) and result.kind == "probe")]
    if not others:
        return {}
    select = list(_select_part(run, [candidates[0], *others], folds).values())
    return {others[row - 1].id: p for row, p in clearly_worse(select[0].labels, _together(select), CLEARLY).items()}


def vote_name(method: str) -> str:
    """What the vote by this method is called on the leaderboard and in its files' names."""
    return NAME if method == "soft" else f"{NAME}-{method}"


def cast(vote: Vote, voters: Sequence[Predictions]) -> Predictions:
    """What `vote` says of the images that its members, in the order of `vote.members`, have predicted.

    The mean of their p_fake, image by image and in the order of the first one's ids: each after its temperature, with
    its weight, and then the vote's own temperature. Equal weights give the plain mean to the last digit.
    Raises ValueError where there is no voter, or not one for each member, an id comes twice, or ids or labels differ.
    """
    p_fake = _together(voters)
    if len(p_fake) != len(vote.members):
        raise ValueError(f"{len(p_fake)} predictions of {len(vote.members)} members")
    return Predictions(voters[0].ids, voters[0].labels, joined(vote, p_fake))


def joined(vote: Vote, p_fake: np.ndarray) -> np.ndarray:
    """The vote's p_fake, (n,) float64, of those of its members, (k, n) in the order of `vote.members`."""
    heard = [tempered(row, temperature) for row, temperature in zip(p_fake, vote.temperatures, strict=True)]
    mean = np.average(heard, axis=0, weights=np.array(vote.weights) / max(vote.weights))
    return tempered(np.clip(mean, 0, 1), vote.temperature)


def write_ensemble(
    run: RunDir,
    members: Sequence[TrialDir],
    methods: Sequence[str] = (),
    others: Sequence[TrialDir] = (),
    choose_by: Literal["score", "worst"] = "score",
    folds: Mapping[str, Sequence[TrialDir]] | None = None,
) -> Ensemble:
    """Lets `members` (best first) vote and writes everything below ensemble/, ensemble.json last.

    One vote for each of `methods` (of METHODS), the first of which is handed over, and the soft one; `others` (best
    first) are further trials that a method may choose from; `choose_by` says what they were ranked by, as in
    EnsembleSettings. What was written for other methods is removed. With `folds`, as `fold_models` has them, a member
    or other stands for the models of its folds: it votes by their mean, and what it says of the select part is what
    they say of all training images, each of the ones that it has not learned from.
    Raises RunError where there is no member, predictions are missing, or they don't fit together, and InputError for
    an unknown method.
    """
    if not members:
        raise RunError(f"{run.path}: no finished trial whose weights are still there, so there is nothing to join")
    sweep, asked = run.sweep(), methods_to_use(methods)
    select = _select_part(run, [*members, *others], folds)
    votes = [_vote(method, select, len(members), sweep) for method in asked]
    found: dict[tuple[str, Part], Predictions] = {}
    for vote in votes:
        found[vote.name, "select"] = cast(vote, [select[member] for member in vote.members])
    if folds is not None:
        votes = [_of_folds(vote, folds) for vote in votes]
    for vote in votes:
        report = _predictions(run, [run.trial(member) for member in vote.members], "report")
        found[vote.name, "report"] = cast(vote, list(report.values()))
    ensemble = Ensemble(
        **votes[0].model_dump(),
        classes=list(CLASSES),
        metric=sweep.search.metric,
        choose_by=choose_by,
        others=votes[1:],
    )
    run.ensemble_file.unlink(missing_ok=True)  # an old record must not stand beside new predictions
    for method in METHODS:
        for part in PARTS:
            run.ensemble_predictions_file(vote_name(method), part).unlink(missing_ok=True)
    for vote in votes:
        for part in PARTS:
            file = run.ensemble_predictions_file(vote.name, part)
            write_predictions(file, found[vote.name, part], {"members": " ".join(vote.members)})
    write_record(run.ensemble_file, ensemble)
    return ensemble


def fold_models(run: RunDir, folds: int, diverse: int | None = None) -> dict[str, list[TrialDir]]:
    """Id of a finalist -> its models of each of so many folds, where all of them finished well; best finalist first.

    Ranked by the select metric of what they say of the training images that they have not learned from; at most
    `diverse` of one backbone, if given.
    """
    found: dict[str, list[TrialDir]] = defaultdict(list)
    for trial in run.repeats():
        result = trial.result()
        fold = trial.start().fold
        if result is not None and result.status == "ok" and result.repeats and fold is not None and fold[1] == folds:
            found[result.repeats].append(trial)
    judge = run.sweep().search.metric
    scores = {
        finalist: metric(judge, out_of_fold(models)) or 0.0
        for finalist, models in found.items()
        if len(models) == folds
    }
    ordered = sorted(scores, key=lambda one: (-scores[one], one))
    kept = _diverse([(found[one][0].start().trial.backbone, run.trial(one)) for one in ordered], diverse)
    return {finalist.id: found[finalist.id] for finalist in kept}


def out_of_fold(models: Sequence[TrialDir]) -> Predictions:
    """What the models of the folds say of all training images together, each of its own fold; in order of the ids."""
    parts = [trial_predictions(trial, "select") for trial in models]
    ids, labels, p_fake = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "labels", "p_fake")
    )
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
            return (
                f"{vote.name} is {vote.members[0]} alone: on the select part no mixture has a better {ensemble.metric}"
            )
    return None


def read_ensemble(run: RunDir) -> Ensemble | None:
    """ensemble.json, or None where no ensemble was made yet. Raises RunError where it is damaged."""
    if not run.ensemble_file.exists():
        return None
    try:
        return read_record(run.ensemble_file, Ensemble)
    except RunError as error:
        raise RunError(f"{error}; `rfray ensemble` writes it anew") from None


def _select_part(
    run: RunDir, trials: Sequence[TrialDir], folds: Mapping[str, Sequence[TrialDir]] | None
) -> dict[str, Predictions]:
    """Trial's id -> what it says of the select part; with `folds`, what its models say of all training images."""
    if folds is None:
        return _predictions(run, trials, "select")
    return {trial.id: out_of_fold(folds[trial.id]) for trial in trials}


def _predictions(run: RunDir, trials: Sequence[TrialDir], part: Part) -> dict[str, Predictions]:
    """Trial's id -> its predictions, which speak of the same images."""
    found = {trial.id: trial_predictions(trial, part) for trial in trials}
    try:
        _together(list(found.values()))
    except ValueError as error:
        raise RunError(f"{run.path}: the {part} predictions of {', '.join(found)} can't be joined: {error}") from None
    return found


def _vote(method: str, select: Mapping[str, Predictions], top: int, sweep: Sweep) -> Vote:
    """How the candidates (id -> select predictions, best first) vote by `method`, with its operating point."""
    voters = list(select.values())
    ids, labels = voters[0].ids, voters[0].labels
    ballot = METHODS[method](Candidates(ids, labels, _together(voters), top, sweep.search.metric, sweep.seed))
    voting = np.flatnonzero(ballot.weights)
    vote = Vote(
        name=vote_name(method),
        members=[list(select)[number] for number in voting],
        weights=ballot.weights[voting].tolist(),
        temperatures=ballot.temperatures[voting].tolist(),
        temperature=ballot.temperature,
        threshold=THRESHOLD,
        select_score=None,
    )
    cast_select = cast(vote, [voters[number] for number in voting])
    point = choose_point(cast_select, sweep.ensemble)
    score = metric(sweep.search.metric, cast_select)
    return vote.model_copy(update={"threshold": point.threshold, "unsure": point.unsure, "select_score": score})


def _together(voters: Sequence[Predictions]) -> np.ndarray:
    """p_fake of all, (k, n) float64, in the order of the first one's ids. Raises ValueError as `cast` does."""
    if not voters:
        raise ValueError("no predictions to join")
    first = voters[0]
    if len(np.unique(first.ids)) < len(first):
        raise ValueError("an image comes twice in the predictions of member 1")
    return np.stack([_aligned(voter, first, number) for number, voter in enumerate(voters, start=1)])


def _aligned(voter: Predictions, first: Predictions, number: int) -> np.ndarray:
    """p_fake of `voter`, (n,) float64, in the order of `first.ids`."""
    if np.array_equal(voter.ids, first.ids) and np.array_equal(voter.labels, first.labels):
        return voter.p_fake  # as almost always; sorting text takes long
    order, target = np.argsort(voter.ids), np.argsort(first.ids)
    if not np.array_equal(voter.ids[order], first.ids[target]):
        only_one = sorted(set(voter.ids.tolist()) ^ set(first.ids.tolist()))
        example = f"; only in one of them: {only_one[0]}" if only_one else ""
        raise ValueError(f"members 1 and {number} speak of different images ({len(first)} and {len(voter)}{example})")
    if not np.array_equal(voter.labels[order], first.labels[target]):
        differing = voter.labels[order] != first.labels[target]
        raise ValueError(f"members 1 and {number} disagree on the label of {voter.ids[order][differing][0]}")
    p_fake = np.empty(len(first))
    p_fake[target] = voter.p_fake[order]
    return p_fake
