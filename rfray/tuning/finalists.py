"""The results of all trials -> the best ones again, with other seeds and once for each fold: what Ray Tune trains last.

The list follows from the results alone, so a command that was killed continues with it.
"""

from collections.abc import Sequence
from typing import Any

from ray.tune.search import Searcher as RaySearcher

from rfray.errors import RunError
from rfray.spec.sweep import Sweep
from rfray.spec.trial import SEEDS
from rfray.store.records import Fold, TrialResult, TrialStart, write_record
from rfray.store.run_dir import RunDir, repeat_id
from rfray.tuning.budget import Meter
from rfray.tuning.proposals import RunDirSearcher
from rfray.tuning.recorder import ranking


def repeated_starts(sweep: Sweep, done: list[TrialResult]) -> list[TrialStart]:
    """What is to be trained: all of the best finalist, then of the next one."""
    seeds: list[tuple[int, Fold | None]] = [(more, None) for more in range(1, sweep.search.seeds)]
    folds = sweep.data.folds or 0
    variants = seeds + [(0, (number, folds)) for number in range(1, folds + 1)]
    found: list[TrialStart] = []
    for finalist in ranking(done)[: sweep.search.finalists]:
        for more, fold in variants:
            seed = (finalist.trial.seed + more) % SEEDS.stop
            found.append(
                TrialStart(
                    id=repeat_id(finalist.id, seed, fold),
                    number=len(found),
                    results_known=len(done),
                    repeats=finalist.id,
                    fold=fold,
                    trial=finalist.trial.model_copy(update={"seed": seed}),
                )
            )
    return found


class Listed(RunDirSearcher):
    """Gives Ray Tune the trials of a list."""

    def __init__(self, run: RunDir, starts: Sequence[TrialStart], at_once: int, meter: Meter | None) -> None:
        super().__init__(run, at_once, meter)
        self._starts = list(starts)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next one; None while enough are running; FINISHED after the last."""
        if not self._starts or (self._meter is not None and not self._meter.has_time(self._starts[0].trial)):
            return str(RaySearcher.FINISHED)
        if len(self._live) >= self._at_once:
            return None
        start = self._starts.pop(0)
        out = self._run.trial(start.id)
        try:
            start = out.start()  # it may remember how much fits into memory
        except RunError:
            write_record(out.start_file, start, out.mirror)
        self._live.add(trial_id)
        return {"id": start.id, **start.trial.model_dump()}
