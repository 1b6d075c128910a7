"""Members' predictions-*.parquet -> ensemble/: who votes, their mean p_fake, and ensemble.json."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from rfray.config import CLASSES, Strict
from rfray.errors import RunError
from rfray.evaluation.metrics import THRESHOLD, metric
from rfray.evaluation.predictions import Predictions, read_predictions, write_predictions
from rfray.files import replace_text
from rfray.run import RunDir, TrialDir

NAME = "ensemble"
"""Name of the uniform soft vote: in its files' names and on the leaderboard."""


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
    """An image is called fake where p_fake >= this."""
    unsure: tuple[float, float] | None = None
    """An image gets no verdict where p_fake is within."""
    select_score: float | None
    """The vote's own value of the select metric on the select part, in [0, 1]; None where it is undefined."""


class Ensemble(Vote):
    """ensemble.json: everything that turns the members' weights into one detector."""

    schema_version: Literal[2] = 2
    classes: list[str]
    """Class names; the position is the label."""
    metric: str
    """Name of the select metric, by which the members were chosen."""
    choose_by: Literal["score", "worst"] = "score"
    """By its value on the select part, or by the worst of its values there under stress."""
    others: list[Vote]
    """What this vote is compared with: the other ways to vote."""

    @property
    def chosen_by(self) -> str:
        """The same in words."""
        return self.metric if self.choose_by == "score" else f"the worst {self.metric} under stress"

    @property
    def votes(self) -> list[Vote]:
        """The vote itself, then the others."""
        return [self, *self.others]


def choose_members(run: RunDir, top_k: int, scores: Mapping[str, float | None] | None = None) -> list[TrialDir]:
    """The best trials that finished well and whose weights are still there, best first, at most `top_k` (>= 1).

    Ranked by their select score, or by `scores` (id -> score), ties by id; a trial without one is left out.
    """
    scored = [
        (-score, trial.id, trial)
        for trial in run.trials()
        if (result := trial.result()) is not None
        and result.status == "ok"
        and (score := result.score if scores is None else scores.get(trial.id)) is not None
        and trial.weights_file.exists()
    ]
    return [trial for _, _, trial in sorted(scored, key=lambda entry: entry[:2])[:top_k]]


def soft_vote(voters: Sequence[Predictions]) -> Predictions:
    """The mean of p_fake, image by image, in the order of the first voter's ids.

    Raises ValueError where there is no voter, an id comes twice, or ids or labels differ between voters.
    """
    if not voters:
        raise ValueError("no predictions to join")
    first = voters[0]
    if len(np.unique(first.ids)) < len(first):
        raise ValueError("an image comes twice in the predictions of member 1")
    p_fake = [_aligned(voter, first, number) for number, voter in enumerate(voters, start=1)]
    return Predictions(first.ids, first.labels, np.mean(p_fake, axis=0))


def write_ensemble(
    run: RunDir, members: Sequence[TrialDir], choose_by: Literal["score", "worst"] = "score"
) -> Ensemble:
    """Joins the members' select and report predictions and writes everything below ensemble/, ensemble.json last.

    `choose_by` says what the members were chosen by, as in EnsembleSettings.
    Raises RunError where there is no member, a member's predictions are missing, or they don't fit together.
    """
    if not members:
        raise RunError(f"{run.path}: no finished trial whose weights are still there, so there is nothing to join")
    name = run.sweep().search.metric
    select, report = _joined(run, members, "select"), _joined(run, members, "report")
    ensemble = Ensemble(
        name=NAME,
        members=[trial.id for trial in members],
        weights=[1 / len(members)] * len(members),
        temperatures=[1.0] * len(members),
        threshold=THRESHOLD,
        others=[],
        classes=list(CLASSES),
        metric=name,
        choose_by=choose_by,
        select_score=metric(name, select),
    )
    run.ensemble_file.unlink(missing_ok=True)  # an old record must not stand beside new predictions
    origin = {"members": " ".join(ensemble.members)}
    write_predictions(run.ensemble_predictions_file(NAME, "select"), select, origin)
    write_predictions(run.ensemble_predictions_file(NAME, "report"), report, origin)
    replace_text(run.ensemble_file, ensemble.model_dump_json(indent=1))
    return ensemble


def read_ensemble(run: RunDir) -> Ensemble | None:
    """ensemble.json, or None where no ensemble was made yet. Raises RunError where it is damaged."""
    try:
        return Ensemble.model_validate_json(run.ensemble_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # not UTF-8, not JSON or not such a record
        raise RunError(
            f"{run.ensemble_file} is damaged ({str(error).splitlines()[0]}); `rfray ensemble` writes it anew"
        ) from None


def _joined(run: RunDir, members: Sequence[TrialDir], part: Literal["select", "report"]) -> Predictions:
    try:
        return soft_vote([read_predictions(trial.predictions_file(part)) for trial in members])
    except ValueError as error:
        ids = ", ".join(trial.id for trial in members)
        raise RunError(f"{run.path}: the {part} predictions of {ids} can't be joined: {error}") from None


def _aligned(voter: Predictions, first: Predictions, number: int) -> np.ndarray:
    """p_fake of `voter`, (n,) float64, in the order of `first.ids`."""
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
