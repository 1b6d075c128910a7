"""the best trials -> repeats/: each again with other seeds, and once for each fold; what Ray Tune is asked to train.

They are a fixed list that follows from the trials' results alone: a command that was killed goes on with it.
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
from rfray.tuning.proposals import OfRunFolder
from rfray.tuning.recorder import ranking


def repeats(sweep: Sweep, done: list[TrialResult]) -> list[TrialStart]:
    """What is to be trained: of the best finalist all, then of the next one."""
    others: list[tuple[int, Fold | None]] = [(more, None) for more in range(1, sweep.search.seeds)]
    folds = sweep.data.folds or 0
    others += [(0, (number, folds)) for number in range(1, folds + 1)]
    found: list[TrialStart] = []
    for finalist in ranking(done)[: sweep.search.finalists]:
        for more, fold in others:
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


class Listed(OfRunFolder):
    """Ray Tune's way to ask for trials: those of a list."""

    def __init__(self, run: RunDir, starts: Sequence[TrialStart], at_once: int, meter: Meter | None) -> None:
        """At most `at_once` run at the same time; none begins that `meter` has no time for."""
        super().__init__()
        self._run = run
        self._starts = list(starts)
        self._at_once = at_once
        self._meter = meter
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The id and setting of the next one; None while enough are running; FINISHED after the last."""
        if not self._starts or not self._has_time():
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

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Makes room for another one."""
        self._live.discard(trial_id)

    def _has_time(self) -> bool:
        return self._meter is None or self._meter.has_time(self._starts[0].trial)
