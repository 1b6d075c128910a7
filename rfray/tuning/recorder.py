"""Ray Tune's events -> result.json of every trial that ended, and only the best trials' weights kept on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfray.errors import DiskFullError, SweepFailed
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Trial
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import NO_ROOM, file_digest
from rfray.store.records import TrialResult, write_record
from rfray.store.run_dir import HEAVY, WEIGHTS_FILE, RunDir, TrialDir
from rfray.store.storage import STATES
from rfray.tuning.budget import Meter
from rfray.tuning.callbacks import Follower
from rfray.tuning.strategies import KEEPING

BREAKER = 5
"""So many failures in a row with one reason, or on one node and none else there, end the sweep."""


class Recorder(Follower):
    """Writes down how each trial ended, before anything else learns of it."""

    def __init__(self, run: RunDir, sweep: Sweep, meter: Meter | None = None) -> None:
        """`meter` says whether a trial may have ended for lack of time."""
        self._run = run
        self._sweep = sweep
        self._meter = meter
        self._followers: list[Callable[[TrialResult], None]] = []
        earlier = results(run)
        self._count = max((result.position + 1 for result in earlier), default=0)
        self._kept = ranking(_with_weights(earlier, _weights(run)))[: sweep.keep]
        self._session: list[TrialResult] = []

    def follow(self, ended: Callable[[TrialResult], None]) -> None:
        """Has `ended` told of every result, too, once it is on disk."""
        self._followers.append(ended)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, was stopped early by the scheduler, or failed for good."""
        with self.stopping():
            self.record(self._run.trial(str(trial)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died, and Ray starts it again; unless it died of a full disk. Raises DiskFullError."""
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        said = [line for line in text.splitlines() if NO_ROOM in line]
        if said:
            with self.stopping():
                raise DiskFullError(said[-1][said[-1].index(NO_ROOM) :])

    def record(self, out: TrialDir) -> None:
        """Writes result.json of a trial that has ended. Raises SweepFailed where going on would be a waste."""
        out.mirror.pull(without=(*HEAVY, f"*{STATES}"))
        start, history, starts = out.start(), out.history(), out.starts()
        origin = predictions_metadata(out.predictions_file("val"))
        if self._meter is not None and self._meter.is_over() and not origin and not out.error_file.exists():
            return  # the end of the budget fell before its first judged epoch: it stays open
        fields: dict[str, Any]
        if out.error_file.exists() or not origin:
            reason = "the trial ended without predictions"
            if out.error_file.exists():
                reason = out.error_file.read_text(encoding="utf-8").splitlines()[0]
            fields = {"status": "failed", "reason": reason, "trial": start.trial}
        else:
            fields = {
                "status": "ok",
                "trial": Trial.model_validate_json(origin["trial"]),
                "score": float(origin["score"]),
                "best_epoch": int(origin["epoch"]),
            }
        vouched = (out.history_file, out.weights_file, out.predictions_file("val"))
        files = {file.name: file_digest(file) for file in vouched if file.exists()}
        if out.weights_file.name not in files and "weights" in origin:
            files[out.weights_file.name] = origin["weights"]  # they stay at the address where they were written
        result = TrialResult(
            id=out.id,
            position=self._count,
            kind="model" if start.fold is None else "fold",
            repeats=start.repeats,
            metric=self._sweep.search.metric,
            epochs=len(history),
            seconds=float(history["seconds"].sum()) if len(history) else 0.0,
            wait_share=float(history["wait_share"].mean()) if len(history) else None,
            node=starts[-1].host if starts else "",
            files=files,
            **fields,
        )
        write_record(out.result_file, result, out.mirror)
        self._count += 1
        self._session.append(result)
        self._make_room(result)
        for follower in self._followers:
            follower(result)
        if why := hopeless(self._session):
            raise SweepFailed(
                f"the sweep was stopped: {why}\nMend that; the same command goes on with the other trials"
            )

    def _make_room(self, result: TrialResult) -> None:
        out = self._run.trial(result.id)
        if result.repeats or self._sweep.search.scheduler not in KEEPING:
            _remove_states(out)
        if result.repeats:
            return  # whose weights all stay
        ranked = ranking([*self._kept, result])
        for loser in {result.id, *(one.id for one in self._kept)} - {one.id for one in ranked[: self._sweep.keep]}:
            out = self._run.trial(loser)
            out.mirror.remove([out.weights_file])
        self._kept = ranked[: self._sweep.keep]


def hopeless(ended: list[TrialResult]) -> str | None:
    """Why going on would be a waste, by the trials that ended since the start, or None."""
    last = ended[-BREAKER:]
    reasons = {"".join(letter for letter in result.reason or "" if not letter.isdigit()) for result in last}
    if len(last) == BREAKER and all(result.status == "failed" for result in last) and len(reasons) == 1:
        return f"{BREAKER} trials in a row failed with the same error: {last[-1].reason}"
    there = [result for result in ended if result.node == ended[-1].node]
    elsewhere = len(there) < len(ended)
    if elsewhere and len(there) >= BREAKER and all(result.status == "failed" for result in there):
        return f"every trial on node {ended[-1].node} failed ({len(there)} of {len(there)}), e.g. {there[-1].reason}"
    return None


def results(run: RunDir) -> list[TrialResult]:
    """The results of all trials that have ended, in that order. Raises RunError where one is damaged."""
    found = [result for trial in run.trials() if (result := trial.result()) is not None]
    return sorted(found, key=lambda result: result.position)


def ranking(ended: list[TrialResult]) -> list[TrialResult]:
    """Those that have a score, best first, ties by id."""
    return sorted((one for one in ended if one.score is not None), key=lambda one: (-(one.score or 0), one.id))


def tidy(run: RunDir, sweep: Sweep, ended: list[TrialResult], every_state: bool) -> None:
    """Deletes what a killed sweep left behind: weights beyond the best `sweep.keep`, half-written files.

    And states of ended trials: `every_state`, or only those that nothing goes on from any more.
    """
    weights, over = _weights(run), {one.id for one in ended}
    kept = {one.id for one in ranking(_with_weights(ended, weights))[: sweep.keep]}
    run.mirror.remove(file for file in weights if file.parent.name in over - kept)
    for out in run.repeats():
        if out.result_file.exists():
            _remove_states(out)
    if every_state or sweep.search.scheduler not in KEEPING:
        run.mirror.remove(file for file in run.mirror.find(f"trials/*/{STATES}") if file.parent.name in over)
    for part in run.path.rglob(".*.part*"):
        part.unlink(missing_ok=True)


def _weights(run: RunDir) -> list[Path]:
    return run.mirror.find(f"trials/*/{WEIGHTS_FILE}")


def _with_weights(ended: list[TrialResult], weights: list[Path]) -> list[TrialResult]:
    """A trial that was taken over may have none, and then keeps no other's from staying."""
    there = {file.parent.name for file in weights}
    return [one for one in ended if one.id in there]


def _remove_states(out: TrialDir) -> None:
    out.mirror.remove(out.mirror.find(STATES))
