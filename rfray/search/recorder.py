"""Ray Tune's events -> result.json of every trial that ended, and only the best trials' weights kept on disk."""

from collections.abc import Callable
from typing import Any

from rfray.config import Sweep, Trial
from rfray.evaluation.predictions import predictions_metadata
from rfray.run import RunDir, TrialDir, TrialResult
from rfray.search.follower import Follower
from rfray.search.strategies import PAUSING


class Recorder(Follower):
    """Writes down how each trial ended, before anything else learns of it."""

    def __init__(self, run: RunDir, sweep: Sweep, ended: Callable[[TrialResult], None]) -> None:
        self._run = run
        self._sweep = sweep
        self._ended = ended
        self._count = len(results(run))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, or was stopped early by the scheduler."""
        self._record(self._run.trial(str(trial)), None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed twice."""
        out = self._run.trial(str(trial))
        if out.error_file.exists():
            reason = out.error_file.read_text(encoding="utf-8").splitlines()[0]
        else:  # its process died without a word
            error = trial.get_error()
            text = str(error).strip() or type(error).__name__
            reason = f"the trial's process died: {text.splitlines()[0]}"
            out.error_file.write_text(f"{reason}\n\n{text}\n", encoding="utf-8")
        self._record(out, reason)

    def _record(self, out: TrialDir, reason: str | None) -> None:
        history = out.history()
        origin = predictions_metadata(out.predictions_file("select"))
        if reason is None and not origin:
            reason = "the trial ended without predictions"
        fields: dict[str, Any] = {"status": "failed", "reason": reason, "trial": out.start().trial}
        if reason is None:
            fields = {
                "status": "ok",
                "trial": Trial.model_validate_json(origin["trial"]),
                "score": float(origin["score"]),
                "best_epoch": int(origin["epoch"]),
            }
        result = TrialResult(
            id=out.id,
            position=self._count,
            metric=self._sweep.search.metric,
            epochs=len(history),
            seconds=float(history["seconds"].sum()) if len(history) else 0.0,
            **fields,
        )
        out.write_result(result)
        self._count += 1
        tidy(self._run, self._sweep)
        self._ended(result)


def results(run: RunDir) -> list[TrialResult]:
    """The results of all trials that have ended, in that order. Raises RunError where one is damaged."""
    found = [result for trial in run.trials() if (result := trial.result()) is not None]
    return sorted(found, key=lambda result: result.position)


def tidy(run: RunDir, sweep: Sweep, sweep_ended: bool = False) -> None:
    """Deletes what ended trials no longer need: all weights but the best `sweep.keep`, and states to resume from."""
    ended = results(run)
    ranked = sorted((one for one in ended if one.score is not None), key=lambda one: (-(one.score or 0), one.id))
    kept = {one.id for one in ranked[: sweep.keep]}
    for one in ended:
        out = run.trial(one.id)
        if one.id not in kept:
            out.weights_file.unlink(missing_ok=True)
        if sweep_ended or sweep.search.scheduler not in PAUSING:
            out.state_file.unlink(missing_ok=True)
