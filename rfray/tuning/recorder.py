"""Ray Tune's events -> result.json of every trial that ended; what stays of trials on the disk, and if it is whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfray.errors import DiskFullError, RunError, SweepFailed
from rfray.evaluation.unseen import comparable_scores
from rfray.spec.sweep import Sweep
from rfray.spec.trial import epochs_of
from rfray.stats.predictions import predictions_metadata
from rfray.store.files import NO_ROOM, file_digest
from rfray.store.records import TrialResult, read_record
from rfray.store.run_dir import HEAVY, NOT_KNOWN, WEIGHTS_FILE, RunDir, TrialDir
from rfray.store.storage import STATES
from rfray.training.checkpoint import read_state, write_history
from rfray.tuning.budget import Meter
from rfray.tuning.callbacks import SweepCallback

KEPT_WEIGHTS = f"trials/*/{WEIGHTS_FILE}"
BREAKER = 5
"""So many failures in a row with one reason, or on one node and none elsewhere, end the sweep: a choice, as a few
trials may fail for reasons of their own."""


class Recorder(SweepCallback):
    """Writes result.json of each trial that has ended, before anything else learns of it."""

    def __init__(self, run: RunDir, sweep: Sweep, meter: Meter | None = None) -> None:
        """`meter` knows whether a trial may have ended for lack of time."""
        self._run, self._sweep, self._meter = run, sweep, meter
        self.on_result: list[Callable[[TrialResult], None]] = []
        """Called with every result once it is on disk."""
        earlier = results(run)
        self._count = max((result.position + 1 for result in earlier), default=0)
        self._ended, self._kept = earlier, _kept(earlier, sweep, run.mirror.find(KEPT_WEIGHTS))
        self._ended_now: list[TrialResult] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial came to its end, was stopped early by the scheduler, or failed for good."""
        with self.ending_the_sweep():
            self.record(self._run.trial(str(trial)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died, and Ray starts it again; unless it died of a full disk. Raises DiskFullError."""
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        if lines := [line for line in text.splitlines() if NO_ROOM in line]:
            with self.ending_the_sweep():
                raise DiskFullError(lines[-1][lines[-1].index(NO_ROOM) :])

    def on_step_end(self, **info: Any) -> None:
        """Raises what was kept, and LeaseLostError where another command holds the run's address by now."""
        super().on_step_end(**info)
        if (storage := self._run.mirror.storage) is not None:
            storage.check_held()

    def record(self, out: TrialDir) -> None:
        """Writes result.json of a trial that has ended, and removes its states and the weights that are not kept now.

        Raises SweepFailed where going on would be a waste, RunError where somebody has removed the trial's folder.
        """
        out.mirror.pull(without=(*HEAVY, f"*{STATES}"))
        if not out.start_file.exists():
            raise RunError(f"{out.path} was removed while its trial ran; the same command trains it again")
        origin = predictions_metadata(out.predictions_file("val"))
        if self._meter is not None and self._meter.account.is_over() and not origin and not out.error_file.exists():
            return  # the end of the budget fell before its first judged epoch: it stays open
        result = _result(out, self._count, self._sweep.search.metric, origin)
        self._run.write_result(out, result)
        self._count += 1
        self._ended_now.append(result)
        out.mirror.remove(out.mirror.find(STATES))
        if not result.repeats:  # whose weights all stay
            self._ended.append(result)
            with_weights = {one.id for one in (*self._kept, result)}
            self._kept = [one for one in ranking(self._ended) if one.id in with_weights][: self._sweep.keep]
            losers = with_weights - {one.id for one in self._kept}
            self._run.mirror.remove(self._run.trial(loser).weights_file for loser in losers)
        for call in self.on_result:
            call(result)
        if why := reason_to_end(self._ended_now):
            raise SweepFailed(f"the sweep was stopped: {why}", "Mend that; the same command goes on with the others")


def _result(out: TrialDir, position: int, metric: str, origin: dict[str, str]) -> TrialResult:
    """What result.json holds; `origin` is the metadata of the val predictions, empty where there are none."""
    start, history, starts = out.start(), out.history(), out.starts()
    fields: dict[str, Any] = {"status": "failed", "reason": "the trial ended without predictions"}
    if out.error_file.exists():
        fields["reason"] = out.error_file.read_text(encoding="utf-8").splitlines()[0]
    elif origin:
        score = None if origin["score"] == "None" else float(origin["score"])  # undefined on a fold, which must be kept
        fields = {"status": "ok", "score": score, "best_epoch": int(origin["epoch"])}
    if len(history):
        fields["wait_share"] = float(history["wait_share"].mean())
    vouched = (out.start_file, out.history_file, out.weights_file, out.predictions_file("val"))
    # weights that are not here stay at the address where they were written
    files = {out.weights_file.name: origin["weights"]} if "weights" in origin else {}
    return TrialResult(
        id=out.id,
        position=position,
        kind="model" if start.fold is None or start.repeats is None else "fold",
        trial=start.trial,
        repeats=start.repeats,
        fold=start.fold,
        metric=metric,
        epochs=len(history),
        seconds=float(history["seconds"].sum()) if len(history) else 0.0,
        node=starts[-1].host if starts else "",
        files=files | {file.name: file_digest(file) for file in vouched if file.exists()},
        **fields,
    )


def reason_to_end(ended: list[TrialResult]) -> str | None:
    """Why going on would be a waste, by the trials that ended since the start, or None."""
    last = ended[-BREAKER:]
    reasons = {"".join(letter for letter in result.reason or "" if not letter.isdigit()) for result in last}
    if len(last) == BREAKER and all(result.status == "failed" for result in last) and len(reasons) == 1:
        return f"{BREAKER} trials in a row failed with the same error: {last[-1].reason}"
    there = [result for result in ended if result.node == ended[-1].node]
    if BREAKER <= len(there) < len(ended) and all(result.status == "failed" for result in there):
        return f"every trial on node {ended[-1].node} failed ({len(there)} of {len(there)}), e.g. {there[-1].reason}"
    return None


def results(run: RunDir) -> list[TrialResult]:
    """The results of all trials that have ended, in that order. Raises RunError where one is damaged."""
    found = [result for trial in run.trials() if (result := trial.result()) is not None]
    return sorted(found, key=lambda result: result.position)


def was_cut(result: TrialResult, training_images: int) -> bool:
    """Whether a trial has fewer epochs than its setting asks for, and not because its own patience was over."""
    trial = result.trial
    out_of_patience = trial.patience and result.epochs - (result.best_epoch or 0) >= trial.patience
    return result.epochs < epochs_of(trial.model_dump(), training_images) and not out_of_patience


def ranking(ended: list[TrialResult]) -> list[TrialResult]:
    """Those that have a score, best first by `comparable_scores`, ties by id."""
    scores = comparable_scores(ended)
    return sorted((one for one in ended if one.id in scores), key=lambda one: (-scores[one.id], one.id))


def remove_leftovers(run: RunDir, sweep: Sweep, ended: list[TrialResult]) -> None:
    """Deletes what a killed sweep left: weights beyond the best `sweep.keep`, and states."""
    weights, over = run.mirror.find(KEPT_WEIGHTS), {one.id for one in ended}
    kept = {one.id for one in _kept(ended, sweep, weights)}
    run.mirror.remove(file for file in weights if file.parent.name in over - kept)
    over |= {out.id for out in run.repeats() if out.result_file.exists()}
    states = [file for folder in ("trials", "repeats") for file in run.mirror.find(f"{folder}/*/{STATES}")]
    run.mirror.remove(file for file in states if file.parent.name in over)


def _kept(ended: list[TrialResult], sweep: Sweep, weights: list[Path]) -> list[TrialResult]:
    """The best trials; one that was taken over may have no weights, and then keeps no other's from staying."""
    there = {file.parent.name for file in weights}
    return [one for one in ranking(ended) if one.id in there][: sweep.keep]


def repair(run: RunDir) -> list[str]:
    """Checks the files of every trial against their digests; what was found, one line each.

    A finished trial that has lost something is trained again. One that was running has its history written anew from
    its state, or continues without what is lost. Raises RunError where a trial.json is damaged, or all results are.
    """
    found: list[str] = []
    ended = [out.result_file for out in run.models() if out.result_file.exists()]
    changed = run.not_vouched(*ended)
    if len(ended) == len(changed) > 1:  # not to train all of them again
        why = "as where it was deleted, or an earlier version of rfray has made the run"
        raise RunError(f"{run.digests_file} knows no result.json, {why}: put it back, or start anew with --fresh")
    for out in run.models():
        if out.result_file.exists():
            try:
                damaged = out.damaged_files(read_record(out.result_file, TrialResult))
                if out.result_file in changed:
                    raise RunError(f"{out.result_file} is not what was written: {NOT_KNOWN}")
                problems = [f"{file} is damaged: its content does not match its digest" for file in damaged]
            except RunError as error:
                damaged, problems = [out.result_file], [str(error)]
            if out.start_file in damaged:
                raise RunError(f"{problems[0]}, and the search can't be retraced without it: start anew with --fresh")
            if damaged:
                out.mirror.remove([out.result_file, out.history_file, *damaged])
            found += [f"{problem}; the trial is run again" for problem in problems]
        elif (state := read_state(out, found.append)) is None:
            # it starts over, also where it was killed after its first row of history, before its first state
            out.history_file.unlink(missing_ok=True)
        else:
            epochs = len(state["history"])
            try:
                if len(out.history()) < epochs:
                    raise RunError(f"{out.history_file} is damaged: it does not hold all of {epochs} epochs")
            except RunError as error:
                found.append(f"{error}; it was written anew")
                write_history(out, state["history"])
    return found
