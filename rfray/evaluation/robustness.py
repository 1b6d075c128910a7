"""Predictions under corruption -> the votes' own, and columns of the leaderboard: how robust each row is.

As in ImageNet-C (Hendrycks and Dietterich 2019); `rfray.data.corruptions` corrupts the images.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RunError
from rfray.stats.metrics import metric
from rfray.stats.predictions import read_predictions, write_predictions
from rfray.stats.voting import vote_predictions
from rfray.store.bundle_record import Ensemble
from rfray.store.run_dir import Part, RunDir, TrialDir

TEST_COLUMNS = (*(f"auc_{corruption}" for corruption in CORRUPTION_NAMES), "auc_worst_corruption")
"""Columns: the AUC on test under corruption, and the smallest of them and of the plain one."""
WORST = "val_worst_corruption"
"""Column: the smallest value of the val metric on val, as it is and under corruption. It is there, and
ranks, where members were chosen by it."""

PredictionsFile = Callable[[Part, str | None], Path]
"""Part, and a corruption or None -> the file of a trial's or a vote's predictions on it."""


def worst_scores(run: RunDir, trials: Iterable[TrialDir]) -> dict[str, float | None]:
    """Id of each trial -> its WORST; None where it is undefined under any corruption, or there are no such predictions.

    Only trials whose weights were kept (`search.keep`) can be predicted under corruption, so only they can be members.
    """
    name = run.sweep().search.metric
    return {trial.id: _worst(_values(trial.predictions_file, "val", name)) for trial in trials}


def write_corrupted_votes(run: RunDir, ensemble: Ensemble, val: bool, test: bool) -> None:
    """Joins what the members say under corruption, of the parts that are asked for; removes earlier files.

    Raises RunError where a member's predictions are missing, or they don't fit together.
    """
    for former in run.corrupted_votes():
        former.unlink()
    wanted: dict[Part, bool] = {"val": val, "test": test}
    parts = [part for part, asked in wanted.items() if asked]
    for vote, part, corruption in product(ensemble.votes, parts, CORRUPTION_NAMES):
        members = [read_predictions(run.trial(member).predictions_file(part, corruption)) for member in vote.members]
        try:
            joint = vote_predictions(vote, members)
        except ValueError as error:
            raise RunError(f"{run.path}: the {part} predictions under {corruption} can't be joined: {error}") from None
        origin = {"members": " ".join(vote.members)}
        write_predictions(run.ensemble_predictions_file(vote.name, part, corruption), joint, origin)


def robustness(run: RunDir) -> dict[str, dict[str, float | None]]:
    """Row of the leaderboard (a trial or a vote) -> column -> value: WORST and TEST_COLUMNS, where they were run.

    All rows have the same columns, or none. A value is None where it is undefined or was not measured.
    Raises RunError where a file is damaged.
    """
    ensemble = run.ensemble()
    if ensemble is None:
        return {}
    name = run.sweep().search.metric
    files: dict[str, PredictionsFile] = {
        **{trial.id: trial.predictions_file for trial in run.models()},
        **{vote.name: partial(run.ensemble_predictions_file, vote.name) for vote in ensemble.votes},
    }
    on_test = _is_there(files[ensemble.name], "test")
    rows: dict[str, dict[str, float | None]] = {}
    for row, file in files.items():
        rows[row] = {WORST: _worst(_values(file, "val", name))} if ensemble.choose_by == "worst" else {}
        if on_test:
            values = _values(file, "test", "auc")
            rows[row] |= zip(TEST_COLUMNS, (*values[1:], _worst(values)), strict=True)
    return rows


def _is_there(file: PredictionsFile, part: Part) -> bool:
    return all(file(part, corruption).exists() for corruption in (None, *CORRUPTION_NAMES))


def _values(file: PredictionsFile, part: Part, name: str) -> list[float | None]:
    """The metric of the part as it is and under corruption; None where it is undefined or something is missing."""
    if not _is_there(file, part):
        return [None] * (1 + len(CORRUPTION_NAMES))
    return [metric(name, read_predictions(file(part, corruption))) for corruption in (None, *CORRUPTION_NAMES)]


def _worst(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return min(defined) if len(defined) == len(values) else None
