"""Asha: who pauses, goes on and ends, by hand; and the same after a restart as without one."""

from types import SimpleNamespace
from typing import Any

import pytest

from rfray.progress.metric_keys import EPOCH, SCORE
from rfray.tuning.asha import Asha, JudgedEpoch, bracket_turns


class Sweep:
    """One slot, and trials that come to given scores: what Ray Tune and the proposals do around a scheduler."""

    def __init__(self, asha: Asha, scores: list[float], epochs: int = 9) -> None:
        self.asha, self.scores, self.epochs = asha, scores, epochs
        self.begun: list[Any] = []
        self.ended: list[str] = []
        self.trained: list[tuple[str, int]] = []
        asha.more_to_come = lambda: len(self.begun) < len(scores)
        asha.at_once = 1

    def get_live_trials(self) -> list[Any]:
        return [trial for trial in self.begun if str(trial) not in self.ended]

    def stop_trial(self, trial: Any) -> None:
        self.asha.on_trial_remove(self, trial)
        self.ended.append(str(trial))

    def run(self, most: int = 999) -> None:
        """So many epochs, or until nothing is left to do."""
        while len(self.trained) < most:
            trial = self.asha.choose_trial_to_run(self)
            if trial is None and self.asha.next() is None and self.asha.more_to_come():
                trial = named(len(self.begun), self.epochs)
                self.begun.append(trial)
                self.asha.begin(str(trial))
                self.asha.on_trial_add(self, trial)
            if trial is None:
                return
            trial.status = "RUNNING"
            if trial.done:
                assert self.say(trial) == "CONTINUE"  # it says again where it goes on from
            decision = "CONTINUE"
            while decision == "CONTINUE" and trial.done < trial.config["epochs"]:
                trial.done += 1
                self.trained.append((str(trial), trial.done))
                decision = self.say(trial)
            trial.status = "PAUSED"
            if decision != "PAUSE":
                self.asha.on_trial_complete(self, trial, {})
                self.ended.append(str(trial))

    def say(self, trial: Any) -> str:
        score = self.scores[int(str(trial))]
        return self.asha.on_trial_result(self, trial, {EPOCH: trial.done, SCORE: score})

    def epochs_of(self) -> list[int]:
        return [trial.done for trial in self.begun]


class Named(SimpleNamespace):
    def __str__(self) -> str:
        return str(self.name)


def named(number: int, epochs: int) -> Named:
    return Named(name=f"{number:05d}", config={"epochs": epochs, "epoch_images": 0}, status="PENDING", done=0)


def asha(planned: int | None = None, grace: int = 1, factor: int = 3, longest: int = 9, brackets: int = 1) -> Asha:
    return Asha(grace, factor, longest, planned, 100, brackets)


def first_epochs(*scores: float, number: int = 0) -> list[JudgedEpoch]:
    """The first epochs of so many trials, from that number on."""
    return [JudgedEpoch(f"{place:05d}", 1, score, score) for place, score in enumerate(scores, start=number)]


def test_rungs_are_below_the_longest_trial() -> None:
    assert asha().rungs == [1, 3]
    assert asha(longest=10).rungs == [1, 3, 9]
    assert asha(grace=2, factor=2, longest=9).rungs == [2, 4, 8]
    assert asha(longest=1).rungs == []


def test_trials_are_divided_among_the_brackets_as_in_hyperband() -> None:
    assert bracket_turns(1, 3) == [0]
    assert bracket_turns(2, 3) == [0, 1, 0, 0, 1]
    turns = bracket_turns(5, 3)  # of the table in Li et al. 2018 for R = 81 and eta = 3
    assert [turns.count(bracket) for bracket in range(5)] == [81, 34, 15, 8, 5]


def test_a_bracket_has_its_own_rungs_and_rivals() -> None:
    """Of six trials, 1 and 4 are of the second bracket: they are first compared at epoch 3, with each other alone."""
    sweep = Sweep(asha(brackets=2), [0.5, 0.1, 0.6, 0.7, 0.2, 0.4])
    sweep.run()
    assert sweep.epochs_of() == [1, 3, 1, 9, 9, 1]
    assert sorted(sweep.ended) == [f"{number:05d}" for number in range(6)]


def test_nine_trials_by_hand() -> None:
    """One in three goes on at epoch 1, and one of those three at epoch 3, as soon as it is seen to be the best."""
    sweep = Sweep(asha(), [0.5, 0.6, 0.7, 0.8, 0.55, 0.65, 0.9, 0.1, 0.2])
    sweep.run()
    # of the first three, 2 goes on; of six, 3 also; of nine, 6, which is the best of three at epoch 3
    assert sweep.epochs_of() == [1, 1, 3, 3, 1, 1, 9, 1, 1]
    goes_on = [name for name, epoch in sweep.trained if epoch == 2]
    assert goes_on == ["00002", "00003", "00006"]
    assert sorted(sweep.ended) == [f"{number:05d}" for number in range(9)]


def test_the_first_trials_do_not_pass_unopposed() -> None:
    sweep = Sweep(asha(), [0.5, 0.4, 0.6])
    sweep.run(most=3)
    assert sweep.epochs_of()[:2] == [1, 1]


def test_a_trial_that_would_get_the_slot_that_it_leaves_goes_on_at_once() -> None:
    sweep = Sweep(asha(), [0.1, 0.2, 0.9, 0.1])
    sweep.run(most=5)
    assert sweep.trained == [("00000", 1), ("00001", 1), ("00002", 1), ("00002", 2), ("00002", 3)]


def test_the_best_of_few_trials_is_trained_to_its_end() -> None:
    sweep = Sweep(asha(), [0.5, 0.6])
    sweep.run()
    assert sweep.epochs_of() == [1, 9]


def test_what_time_is_left_goes_to_those_that_wait() -> None:
    sweep = Sweep(asha(), [0.5, 0.6, 0.9, 0.7])
    sweep.asha.fills = True
    sweep.asha.more_to_come = lambda: len(sweep.begun) < 4 and len(sweep.trained) < 6
    assert sweep.asha.epochs_worthwhile == 1
    sweep.run(most=6)
    assert sweep.epochs_of() == [1, 1, 3, 1]  # the best of the first three, then the last new one
    assert sweep.asha.epochs_worthwhile == 3
    sweep.run(most=18)
    assert sweep.epochs_of() == [3, 3, 9, 3]  # the best at each rung as ever, then from the lowest, in order
    sweep.run()
    assert sweep.epochs_of() == [9, 9, 9, 9]


def test_a_trial_whose_process_dies_has_a_slot_again_only_if_it_is_started_again() -> None:
    scheduler = asha()
    for name in ("00000", "00001"):
        scheduler.begin(name)
        scheduler.on_trial_error(None, name)
    scheduler.on_trial_add(None, "00001")
    assert scheduler.running == {"00001"}


def test_ties_go_to_the_first_and_undefined_scores_last() -> None:
    sweep = Sweep(asha(), [0.0, 0.5, 0.5, 0.0, 0.0, 0.0])
    sweep.run()
    assert sweep.epochs_of() == [1, 9, 3, 1, 1, 1]


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_trial_ends_at_its_own_last_epoch(epochs: int) -> None:
    sweep = Sweep(asha(), [0.1, 0.2, 0.3], epochs)
    sweep.run()
    assert max(sweep.epochs_of()) == epochs
    assert sorted(sweep.ended) == ["00000", "00001", "00002"]


def test_who_can_never_go_on_ends_early() -> None:
    """Of six, two go on: the third best of those that were seen is out."""
    scheduler = asha(planned=6)
    sweep = Sweep(scheduler, [0.5, 0.6, 0.7, 0.8, 0.9, 0.1])
    sweep.run(most=8)
    assert [name for name, _ in sweep.trained][:3] == ["00000", "00001", "00002"]
    assert "00000" in sweep.ended  # 0.5, after 0.6 and 0.7
    assert "00002" not in sweep.ended
    sweep.run()
    assert len(sweep.ended) == 6


def test_who_has_ended_keeps_its_place_but_does_not_go_on() -> None:
    scheduler = asha()
    # the first is taken over from an earlier run, say
    scheduler.recall(first_epochs(0.9, 0.5, 0.4), ended={"00000"})
    assert scheduler.next() is None
    scheduler.recall(first_epochs(0.3, 0.2, 0.1, number=3), ended=set())
    assert scheduler.next() == "00001"


def test_without_time_nobody_goes_on() -> None:
    scheduler = asha()
    scheduler.recall(first_epochs(0.5, 0.6, 0.7), ended=set())
    assert scheduler.next() == "00002"
    scheduler.has_time = lambda name: name != "00002"
    assert scheduler.next() is None


@pytest.mark.parametrize(("brackets", "after"), [(n, after) for n in (1, 2) for after in range(1, 19 + 3 * n)])
def test_a_new_start_goes_on_as_the_old_one_would_have(brackets: int, after: int) -> None:
    scores = [0.5, 0.6, 0.7, 0.8, 0.55, 0.65, 0.9, 0.1, 0.2]
    whole = Sweep(asha(planned=9, brackets=brackets), scores)
    whole.run()
    cut = Sweep(asha(planned=9, brackets=brackets), scores)
    said, cut.say = cut.say, lambda trial: killed_after(cut, after, said(trial))  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = Sweep(asha(planned=9, brackets=brackets), scores)
    again.begun, again.trained = cut.begun, list(cut.trained)
    for trial in again.begun:
        score = scores[int(str(trial))]
        epochs = [JudgedEpoch(str(trial), epoch, score, score) for epoch in range(1, trial.done + 1)]
        again.asha.recall(epochs, {str(trial)} & set(cut.ended))
        waits = again.asha.waits_at(str(trial)) and trial.done < 9
        trial.status = "PAUSED" if waits else "PENDING"
        if not waits and str(trial) not in cut.ended and trial.done < 9:
            again.asha.begin(str(trial))
    again.ended = list(cut.ended)
    for trial in again.begun:
        if trial.done == 9 and str(trial) not in again.ended:
            again.asha.on_trial_complete(again, trial, {})
            again.ended.append(str(trial))
    again.run()
    assert again.epochs_of() == whole.epochs_of()
    assert again.trained == whole.trained


def killed_after(sweep: Sweep, epochs: int, decision: str) -> str:
    if len(sweep.trained) >= epochs:
        raise KeyboardInterrupt
    return decision
