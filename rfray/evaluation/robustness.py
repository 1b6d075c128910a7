"""Predictions under stress -> the votes' own, and how well every trial and vote holds out: columns of the leaderboard.

A stress is what may happen to a picture on its way to a detector; `rfray.data.stress` does it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from rfray.errors import RunError
from rfray.evaluation.ensemble import Ensemble, cast, read_ensemble
from rfray.evaluation.metrics import metric
from rfray.evaluation.predictions import read_predictions, write_predictions
from rfray.run import Part, RunDir, TrialDir

FAMILIES: dict[str, tuple[int, ...]] = {
    "jpeg": (90, 70, 50, 30),
    "scale": (75, 50, 25),
    "blur": (1, 2, 4),
    "noise": (5, 10, 20),
}
"""Kind of stress -> its strengths, mildest first: quality of the JPEG encoder; per cent that a picture is scaled down
to, and back; standard deviation of a Gaussian blur, in pixels; standard deviation of Gaussian noise, of 255."""


def stress_name(family: str, strength: int) -> str:
    """What a stress is called, in files and columns: jpeg_90."""
    return f"{family}_{strength}"


STRESS_NAMES = tuple(stress_name(family, strength) for family, strengths in FAMILIES.items() for strength in strengths)

REPORT_COLUMNS = (*(f"auc_{stress}" for stress in STRESS_NAMES), "auc_worst")
"""Columns: the AUC on the report part under each stress, and the smallest of them and of the plain one."""
WORST = "select_worst"
"""Column: the smallest value of the select metric on the select part, as it is and under each stress. It is there, and
ranks, where members were chosen by it."""

PredictionsFile = Callable[[Part, str | None], Path]
"""Part, and a stress or None -> the file of what a trial or a vote says of it."""


def worst_scores(run: RunDir, trials: Iterable[TrialDir]) -> dict[str, float | None]:
    """Id of each trial -> its WORST; None where it is undefined under any stress, or there are no such predictions.

    Only trials whose weights were kept (`search.keep`) can be predicted under stress, so only they can be members.
    """
    name = run.sweep().search.metric
    return {trial.id: _worst(_values(trial.predictions_file, "select", name)) for trial in trials}


def write_stressed_votes(run: RunDir, ensemble: Ensemble, select: bool, report: bool) -> None:
    """Joins what the members say under each stress, of the parts that are asked for; removes earlier files.

    Raises RunError where a member's predictions are missing, or they don't fit together.
    """
    for former in run.stressed_votes():
        former.unlink()
    wanted: dict[Part, bool] = {"select": select, "report": report}
    parts = [part for part, asked in wanted.items() if asked]
    for vote, part, stress in product(ensemble.votes, parts, STRESS_NAMES):
        voters = [read_predictions(run.trial(member).predictions_file(part, stress)) for member in vote.members]
        try:
            joined = cast(vote, voters)
        except ValueError as error:
            raise RunError(f"{run.path}: the {part} predictions under {stress} can't be joined: {error}") from None
        origin = {"members": " ".join(vote.members)}
        write_predictions(run.ensemble_predictions_file(vote.name, part, stress), joined, origin)


def robustness(run: RunDir) -> dict[str, dict[str, float | None]]:
    """Row of the leaderboard (a trial or a vote) -> column -> value: WORST and REPORT_COLUMNS, where they were run.

    All rows have the same columns, or none. A value is None where it is undefined or was not measured.
    Raises RunError where a file is damaged.
    """
    ensemble = read_ensemble(run)
    if ensemble is None:
        return {}
    name = run.sweep().search.metric
    files: dict[str, PredictionsFile] = {
        **{trial.id: trial.predictions_file for trial in run.models()},
        **{vote.name: partial(run.ensemble_predictions_file, vote.name) for vote in ensemble.votes},
    }
    rows: dict[str, dict[str, float | None]] = {row: {} for row in files}
    if ensemble.choose_by == "worst":
        for row, file in files.items():
            rows[row][WORST] = _worst(_values(file, "select", name))
    if _is_there(files[ensemble.name], "report"):
        for row, file in files.items():
            values = _values(file, "report", "auc")
            rows[row] |= zip(REPORT_COLUMNS, (*values[1:], _worst(values)), strict=True)
    return rows


def _is_there(file: PredictionsFile, part: Part) -> bool:
    return all(file(part, stress).exists() for stress in (None, *STRESS_NAMES))


def _values(file: PredictionsFile, part: Part, name: str) -> list[float | None]:
    """The metric of the part as it is and under each stress; None where it is undefined or something is missing."""
    if not _is_there(file, part):
        return [None] * (1 + len(STRESS_NAMES))
    return [metric(name, read_predictions(file(part, stress))) for stress in (None, *STRESS_NAMES)]


def _worst(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return min(defined) if len(defined) == len(values) else None
