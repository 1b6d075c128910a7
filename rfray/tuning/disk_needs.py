"""a sweep and its models' sizes -> `Needs`: what it takes on the disk at the most."""

from dataclasses import dataclass

from rfray.spec.sweep import Sweep
from rfray.tuning.strategies import planned_trials

BYTES = 4
"""Of one parameter, float32."""


@dataclass(frozen=True)
class Needs:
    """What a sweep takes on the disk, in bytes; the most that it can be at any moment."""

    weights: int
    """Of the kept trials, of those that run, and of the probes."""
    states: int
    """To go on from, of the trials that run; twice, while a new one is written."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.states


def disk_needs(sweep: Sweep, parameters: dict[str, int], at_once: int) -> Needs:
    """By the largest backbone: a state is weights, two moments, maybe two averages, and there twice while written."""
    largest = BYTES * max(parameters.values())
    planned = planned_trials(sweep)
    trials = sweep.keep + at_once if planned is None else planned
    running = min(at_once, trials)
    # what may be paused at asha's rungs: trials / factor at the first, and so on; more where no number is known
    paused = trials // (sweep.search.reduction_factor - 1) if sweep.search.scheduler == "asha" else 0
    averages = "ema" in sweep.trial.axes() or sweep.trial.choices("ema") != [0.0]
    swa = sweep.trial.choices("swa") != ["none"]
    state = largest * (3 + averages + swa)
    kept = min(sweep.keep, trials) + len(sweep.probes()) + sweep.search.finalists * sweep.repeats
    return Needs(weights=largest * (kept + running), states=state * (2 * running + paused))
