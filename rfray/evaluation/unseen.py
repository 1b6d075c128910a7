"""Models that left out sources (`search.judge: unseen`) -> what each came to on those, so that they can be ranked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rfray.data.rotations import training_rotations
from rfray.spec.sweep import Sweep
from rfray.stats.metrics import metric
from rfray.stats.predictions import read_predictions, trial_predictions
from rfray.stats.unseen import over_rotations, rotation_effects
from rfray.store.bundle_record import Vote
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir


def unseen_columns(sweep: Sweep) -> tuple[str, str]:
    """The columns of mean and worst over the left-out sources."""
    column = f"val_{sweep.search.metric}_unseen"
    return column, f"{column}_worst"


def comparable_scores(results: Iterable[TrialResult]) -> dict[str, float]:
    """Id of each trial that has a score -> that score, or where trials left out sources its mean over all of these."""
    scored = {one.id: (one.fold and one.fold[0], one.score) for one in results if one.score is not None}
    effects = _effects(scored.values())
    return {
        name: score if turn is None else over_rotations({turn: score}, effects)[0]
        for name, (turn, score) in scored.items()
    }


def _effects(scores: Iterable[tuple[int | None, float]]) -> dict[int, float]:
    return rotation_effects((turn, score) for turn, score in scores if turn is not None)


def unseen_figures(run: RunDir, sweep: Sweep, votes: Iterable[Vote]) -> dict[str, dict[str, Any]]:
    """Row of the leaderboard -> mean and worst over the left-out sources, and `left_out`: which it was judged on.

    A finalist has the scores of all its trainings, which have neither mean nor worst of their own. Of a row that did
    not leave out each source, mean and worst are estimates: some sources are harder than others, as other trials show.
    Raises RunError where a record or predictions are damaged.
    """
    results = [result for out in (*run.trials(), *run.repeats()) if (result := out.result()) is not None]
    scored = [(one, one.fold[0], one.score) for one in results if one.fold is not None and one.score is not None]
    effects = rotation_effects((turn, score) for one, turn, score in scored if not one.repeats)
    judged: dict[str, dict[int, float]] = defaultdict(dict)
    for one, turn, score in scored:
        judged[one.repeats or one.id].setdefault(turn, score)
    judged |= {vote.name: _of_vote(run, vote, sweep.search.metric) for vote in votes}
    sources = [one.fake for one in training_rotations(run.catalog()).all]
    parts = {one.id: {"left_out": sources[turn - 1]} for one, turn, _ in scored if one.repeats}
    return parts | {name: _row(sweep, scores, effects, sources) for name, scores in judged.items() if scores}


def _row(sweep: Sweep, scores: Mapping[int, float], effects: Mapping[int, float], sources: list[str]) -> dict[str, Any]:
    figures = (min(1.0, max(0.0, figure)) for figure in over_rotations(scores, effects))
    names = ", ".join(sources[turn - 1] for turn in sorted(scores))
    return {**dict(zip(unseen_columns(sweep), figures, strict=True)), "left_out": names}


def _of_vote(run: RunDir, vote: Vote, name: str) -> dict[int, float]:
    """Rotation -> the vote's val metric on what it left out, as far as that is defined."""
    said, found = read_predictions(run.ensemble_predictions_file(vote.name, "val")), {}
    place = {image: row for row, image in enumerate(said.ids.tolist())}
    for member in map(run.trial, vote.members):
        fold = member.start().fold
        if fold is not None and fold[0] not in found:
            its = said.at(np.array([place[image] for image in trial_predictions(member, "val").ids.tolist()]))
            if (score := metric(name, its)) is not None:
                found[fold[0]] = score
    return found
