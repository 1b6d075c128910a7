"""search.budget: what it counts, for what there is time, and where a sweep ends."""

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from rfray.cluster.slots import Packing, Slot, slot_for
from rfray.commands.prepare_data import prepare_training
from rfray.errors import RunError, SweepError, SweepFailed
from rfray.spec.budget_defaults import Budget, read_budget
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile, load_sweep
from rfray.spec.trial import Trial
from rfray.store.ownership import claim_run
from rfray.store.records import Measured, Spent, TrialResult, TrialStart, read_record, write_record
from rfray.store.run_dir import RunDir
from rfray.tuning.budget import (
    SHUTDOWN_SECONDS,
    Account,
    BudgetCallback,
    Forecast,
    Meter,
    budget_meter,
    check_budget,
    check_epoch,
    with_short_epochs,
)
from rfray.tuning.proposals import in_time
from rfray.tuning.run_sweep import check_outcome, run_sweep
from tests.synthetic import catalog_of
from tests.tuning.test_run_sweep import sweep_of, tmp_session

QUICK = Trial(backbone="quick", image_size=32)
SLOW = Trial(backbone="slow", image_size=32)


def meter(folder: Path, text: str = "100s", used: float = 0.0, slot: Slot = Slot(1, 0)) -> Meter:  # noqa: B008
    """Of a command that began so many seconds ago."""
    budget = read_budget(text)
    assert budget is not None
    run = RunDir(folder / "run")
    return Meter(Account(run, budget, time.time() - used), Forecast(run), slot)


def of_ray(trial: Trial, name: str = "00000") -> Any:
    class Named(SimpleNamespace):
        def __str__(self) -> str:
            return name

    return Named(config={"id": name, **trial.model_dump()}, temporary_state=SimpleNamespace(ray_actor=None))


def an_epoch(of: Meter, trial: Trial, seconds: float, name: str = "00000") -> None:
    of.forecast.judged(name, trial, 1, seconds)


def sweep_asking(search: str) -> Sweep:
    return Sweep.model_validate({
        "name": "s", "data": {"source": "demo"}, "trial": {"backbone": ["quick", "slow"], "image_size": 32},
        "search": {"budget": search},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(90, False)),
        ("12m", Budget(720, False)),
        ("1.5h", Budget(5400, False)),
        ("8gpu-h", Budget(28800, True)),
        ("30gpu-m", Budget(1800, True)),
        ("0m", None),
        ("5", None),
        ("5 m", Budget(300, False)),
        ("5d", Budget(432000, False)),
        ("-5m", None),
        ("5 w", None),
    ],
)
def test_what_a_budget_may_be(text: str, budget: Budget | None) -> None:
    assert read_budget(text) == budget


def test_a_wrong_budget_is_one_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    for given in ("5 w", "90"):
        file.write_text(f"name: a\ndata: {{source: demo}}\ntrial: {{backbone: a}}\nsearch:\n  budget: {given}\n")
        with pytest.raises(SweepError, match=r"sweep.yaml:5: search.budget: given .*; allowed: a time by the clock"):
            load_sweep(file)


def test_with_a_budget_nothing_else_need_be_said() -> None:
    search = sweep_asking("5m").search
    assert (search.algorithm, search.scheduler, search.trials) == ("optuna", "asha", None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("probe", "constant", 0.99, "asha")),
        ({"pretrained": {"a": "weights"}}, ("probe", "constant", 0.99, "asha")),
        ({"pretrained": [False, True]}, ("probe", "constant", 0.99, "asha")),
        ({"pretrained": False}, ("random", "cosine", 0.0, "none")),
        ({"pretrained": [{"a": False}, False]}, ("random", "cosine", 0.0, "none")),
        ({"image_size": {"int": [64, 96]}}, ("random", "constant", 0.99, "asha")),
        ({"head": "random", "ema": 0.0, "schedule": "step"}, ("random", "step", 0.0, "asha")),
    ],
)
def test_what_is_not_said_is_what_suits_a_budget(said: dict[str, Any], expected: tuple[Any, ...]) -> None:
    raw = {"name": "a", "data": {"source": "demo"}, "trial": {"backbone": "a", **said}}
    sweep = Sweep.model_validate({**raw, "search": {"budget": "5m"}})
    assert (sweep.trial.head, sweep.trial.schedule, sweep.trial.ema, sweep.search.scheduler) == expected
    assert (sweep.trial.swa, sweep.trial.tta, sweep.search.algorithm) == ("none", "auto", "optuna")
    assert {"lr"} <= set(sweep.trial.axes()) <= {"lr", "image_size", "pretrained"}
    sweep = Sweep.model_validate({**raw, "search": {"budget": "5m", "scheduler": "median"}})
    assert sweep.search.scheduler == "median"
    sweep = Sweep.model_validate(raw)
    assert (sweep.trial.axes().get("lr"), sweep.trial.tta, sweep.search.scheduler) == (None, "none", "none")


@pytest.mark.parametrize(
    ("train", "val", "gpus", "size"),
    [
        (20_000, 1_440, 0, 1_440),  # as many as it is judged by
        (20_000, 300, 0, 1_000),
        (100_000, 5_000, 1, 5_000),
        (20_000, 300, 0.5, 5_000),
        (1_054, 186, 0, 0),  # a pass is one epoch
        (6_000, 900, 1, 0),
    ],
)
def test_a_pass_over_many_images_is_divided(train: int, val: int, gpus: float, size: int, tmp_path: Path) -> None:
    run, slot = RunDir(tmp_path), Slot(1, gpus)
    run.write_catalog(catalog_of(part=["train"] * train + ["val"] * val, path="x"))
    asked = sweep_asking("12m")
    assert with_short_epochs(run, asked, slot).trial.epoch_images == size
    given = asked.model_copy(update={"trial": asked.trial.model_copy(update={"epoch_images": 700})})
    assert with_short_epochs(run, given, slot) is given
    without = asked.model_copy(update={"search": asked.search.model_copy(update={"budget": None})})
    assert with_short_epochs(run, without, slot) is without
    for name in ("00000-aaaaaa", "00001-aaaaaa"):  # of another start, maybe on other resources
        trial = Trial(backbone="quick", epoch_images=700)
        write_record(run.trial(name).start_file, TrialStart(id=name, number=0, results_known=0, trial=trial))
    run.trial("00000-aaaaaa").start_file.write_text("damaged")
    assert with_short_epochs(run, asked, slot).trial.epoch_images == 700


def test_a_budget_in_which_no_epoch_fits_is_refused_with_one_that_would_do(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: a\ndata: {source: demo}\ntrial: {backbone: a}\nsearch:\n  budget: 45s\n")
    asked, now = load_sweep(file), time.time()
    check_budget(asked, Slot(1, 0), now)
    with pytest.raises(SweepError, match=r'sweep.yaml:5: .*given "45s"; allowed: more, 3m say: starting took 40 s'):
        check_budget(asked, Slot(1, 0), now - 40)
    with pytest.raises(SweepError, match="allowed: more, 3m say"):  # a batch takes 40 s
        check_budget(asked, Packing({("a", 32): Slot(1, 0)}, [measured(1.6)]), now)
    check_budget(asked, Slot(1, 0))  # of a run that goes on, which says that its budget is used up


def in_a_run(folder: Path, search: str, train: int, val: int, **trial: Any) -> tuple[SweepFile, RunDir]:
    """A sweep file, and a run whose catalog has so many images."""
    file, run = folder / "sweep.yaml", RunDir(folder / "run")
    setting = json.dumps({"backbone": ["quick", "slow"], **trial})
    file.write_text(f"name: a\ndata: {{source: demo}}\ntrial: {setting}\nsearch:\n  budget: {search}\n")
    run.write_catalog(catalog_of(part=["train"] * train + ["val"] * val, path="x"))
    return load_sweep(file), run


@pytest.mark.parametrize(
    ("budget", "seconds", "trial", "said"),
    [
        # 40 s are used; a quarter of 800 images and a third of 150 are 250 of 0.2 s: 50 s, of 60 - 40 - 6
        (
            "60s",
            0.2,
            {},
            "allowed: more, 5m say: even 0.25 of an epoch of 800 images, judged by 150, takes at least 50 s",
        ),
        ("90s", 0.2, {}, "44 s are left"),
        ("97s", 0.2, {}, None),  # 51 s are left
        ("60s", 0.05, {}, None),
        ("60s", 0.2, {"epoch_images": 50}, None),  # 19 epochs of 42: 10 and 50 images are 12 s
        (
            "60s",
            0.3,
            {"epoch_images": [0, 50]},
            "of 42 images, judged by 150, takes at least 18 s at 3.33 images a second",
        ),
    ],
)
def test_a_budget_that_is_less_than_an_epoch_takes_as_measured_is_refused(
    budget: str, seconds: float, trial: dict[str, Any], said: str | None, tmp_path: Path
) -> None:
    file, run = in_a_run(tmp_path, budget, 800, 150, **trial)
    mine = meter(tmp_path, budget, used=40)
    if said is None:
        check_epoch(file, run, mine, seconds)
        return
    with pytest.raises(SweepError, match=r"sweep\.yaml:5: search\.budget: ") as refused:
        check_epoch(file, run, mine, seconds)
    assert said in str(refused.value)
    out = run.trial("00000-aaaaaa")  # of an earlier start, that ended before it was judged
    write_record(out.start_file, TrialStart(id=out.id, number=0, results_known=0, trial=QUICK))
    with pytest.raises(SweepError):
        check_epoch(file, run, mine, seconds)
    out.history_file.write_text("epoch\n1\n")
    check_epoch(file, run, mine, seconds)


def test_threads_and_workers_are_at_most_so_many_times_as_fast(tmp_path: Path) -> None:
    file, run = in_a_run(tmp_path, "60s", 800, 150)
    for slot in (Slot(4, 0), Slot(1, 0, workers=4), Slot(2, 0, workers=2)):
        check_epoch(file, run, meter(tmp_path, "60s", 40, slot), 0.2)  # 50 s / 4 of 14
    with pytest.raises(SweepError, match="takes at least 25 s at 10 images a second"):
        check_epoch(file, run, meter(tmp_path, "60s", 40, Slot(2, 0)), 0.2)


def test_what_was_measured_on_the_cluster_counts_and_of_other_gpus_nothing_is_known(tmp_path: Path) -> None:
    gpu = Slot(1, 0.5)
    for budget, used, rate, refused in (
        ("60s", 40, 5.0, True),
        ("60s", 40, 50.0, False),
        ("2gpu-m", 0, 5.0, False),  # 850 images at 5 a second, of half a GPU: 85 s
        ("1gpu-m", 0, 5.0, True),
    ):
        file, run = in_a_run(tmp_path, budget, 800, 150)
        known = Packing({("quick", 224): gpu}, [measured(rate)])
        check_epoch(file, run, meter(tmp_path, budget, used, gpu), 9.0)  # of a CPU
        if not refused:
            check_epoch(file, run, replace(meter(tmp_path, budget, used), shares=known), 9.0)
            continue
        with pytest.raises(SweepError, match="measured with the fastest backbone"):
            check_epoch(file, run, replace(meter(tmp_path, budget, used), shares=known), 0.0)


def measured(images_per_second: float) -> Measured:
    return Measured(
        setting="", backbone="a", image_size=32, device="cpu", device_memory=0, memory=0, host_memory=1,
        micro_batch=64, images_per_second=images_per_second,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("budget", "spent", "said"),
    [
        ("45s", Spent(clock=50), "3m"),
        ("20s", Spent(clock=18), "60s"),
        ("1gpu-h", Spent(clock=9, gpus=3600), "180gpu-m"),
    ],
)
def test_a_sweep_in_which_no_trial_was_judged_fails_and_says_what_would_do(
    budget: str, spent: Spent, said: str, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    write_record(run.budget_file, spent)
    asked = sweep_asking(budget)
    with pytest.raises(SweepFailed, match=f"no trial was judged: none ended an epoch.*search.budget={said}$"):
        check_outcome(run, asked, [])
    probed = TrialResult(
        id="probe-aaaaaa", position=0, kind="probe", status="ok", trial=QUICK, metric="auc", score=0.9, epochs=0,
        seconds=1, node="", files={},
    )  # fmt: skip
    write_record(run.trial(probed.id).result_file, probed)
    ended = "none ended an epoch; `rfray ensemble` has probes only. Next: .*"
    with pytest.raises(SweepFailed, match=f"^no trial was judged: {ended}search.budget={said}$"):
        check_outcome(run, asked, [])


def test_a_budget_of_gpus_needs_gpus(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text("name: a\ndata: {source: demo}\ntrial: {backbone: a}\nsearch:\n  budget: 8gpu-h\n")
    with pytest.raises(SweepError, match=r'sweep.yaml:5: .* given "8gpu-h"; .*, as trials get no GPU here'):
        check_budget(load_sweep(file), Slot(1, 0))
    check_budget(load_sweep(file), Slot(1, 0.5))


def test_an_epoch_is_begun_where_it_is_expected_to_end_in_time(tmp_path: Path) -> None:
    mine = meter(tmp_path, "100s", used=40)  # 60 s, less the margin, are left
    assert mine.has_time(QUICK)
    assert mine.has_time(SLOW)  # nothing is known
    an_epoch(mine, QUICK, 20)
    an_epoch(mine, SLOW, 80, "00001")
    assert mine.has_time(QUICK)
    assert not mine.has_time(SLOW)
    assert (mine.has_time(QUICK, epochs=2), mine.has_time(QUICK, epochs=3)) == (True, False)  # 40 s and 60 s
    assert mine.has_time_for_any(sweep_asking("100s"))
    assert not mine.has_time_for_any(sweep_asking("100s"), epochs=3)
    stops = BudgetCallback(mine)
    assert [stops("", {"config": of_ray(one).config}) for one in (QUICK, SLOW)] == [False, False]  # a part of one
    an_epoch(mine, SLOW, 400, "00002")
    assert stops("", {"config": of_ray(SLOW).config})  # a quarter of 240 s


def test_the_end_of_the_command_is_allowed_for(tmp_path: Path) -> None:
    assert not meter(tmp_path, "100s", used=98 - SHUTDOWN_SECONDS).account.is_over()
    assert meter(tmp_path, "100s", used=100 - SHUTDOWN_SECONDS).account.is_over()


def test_what_earlier_starts_have_used_counts(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    write_record(run.budget_file, Spent(clock=70, gpus=5))
    assert not meter(tmp_path, "100s", used=10).account.is_over()
    assert meter(tmp_path, "80s", used=10).account.is_over()
    assert meter(tmp_path, "100s", used=10).account.spent().clock == pytest.approx(80, abs=1)
    run.budget_file.write_text("{}")
    with pytest.raises(RunError, match=r"budget.json is damaged"):
        meter(tmp_path)


def test_what_epochs_took_in_earlier_starts_is_known(tmp_path: Path) -> None:
    out = RunDir(tmp_path / "run").trial("00000-abcdef")
    write_record(out.start_file, TrialStart(id=out.id, number=0, results_known=0, trial=SLOW), out.mirror)
    pd.DataFrame({"epoch": [1], "seconds": [99.0], "ended": [1.0]}).to_csv(out.history_file, index=False)
    assert not meter(tmp_path, "100s").has_time(SLOW)
    assert meter(tmp_path, "100s").has_time(QUICK)


def test_time_of_gpus_is_what_trials_hold(tmp_path: Path) -> None:
    mine = meter(tmp_path, "100gpu-s", used=5000, slot=Slot(1, 0.5))
    account = mine.account
    assert account.deadline is None
    callback, trial = BudgetCallback(mine), of_ray(QUICK)
    callback.on_trial_start(trial=trial)
    account._held["00000"] = (time.time() - 100, 0.5)
    assert account.spent().gpus == pytest.approx(50, abs=1)
    callback.on_trial_result(trial=trial, result={"epoch": 1, "seconds": 90})
    assert mine.can_go_on(QUICK, runs=True)  # alone 100 s more
    assert not mine.can_go_on(QUICK)  # two of them 50 s: no trial knows when GPUs end, to shorten its epoch
    callback.on_trial_recover(trial=trial)
    callback.on_trial_complete(trial=trial)
    assert account.spent().gpus == pytest.approx(50, abs=1)


def test_all_trials_know_when_gpus_are_used_up(tmp_path: Path) -> None:
    with budget_meter(RunDir(tmp_path / "run"), sweep_asking("100gpu-s"), Slot(1, 1), time.time()) as mine:
        assert mine is not None
        mine.account._held["00000"] = (time.time() - 101, 1.0)
        mine.account.record()
        assert RunDir(tmp_path / "run").budget_over_file.exists()
    assert not RunDir(tmp_path / "run").budget_over_file.exists()
    assert read_record(RunDir(tmp_path / "run").budget_file, Spent).gpus > 100


class Ends(Forecast):
    """Of a budget of GPUs that ends after so many epochs, however fast the machine is."""

    def __init__(self, run: RunDir, after_epochs: int) -> None:
        super().__init__(run)
        self._after = after_epochs
        self.account = Account(run, Budget(1e9, True), time.time())

    def started(self, name: str) -> None:
        super().started(name)
        self._happened()

    def judged(self, *what: Any) -> None:
        super().judged(*what)
        self._happened()

    def _happened(self) -> None:
        if sum(self._judged.values()) == self._after:
            self.account._budget = Budget(0, True)
            self.account.record()


def ends(run: RunDir, after_epochs: int) -> Meter:
    forecast = Ends(run, after_epochs)
    return Meter(forecast.account, forecast, Slot(1, 0))


def started(run: RunDir, sweep: Sweep, mine: Meter | None, said: io.StringIO | None = None) -> list[TrialResult]:
    """One start of a sweep."""
    console = Console(file=said or io.StringIO(), width=200)
    claim_run(run, sweep)
    prepare_training(run, sweep, console)
    return run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), console, meter=mine)


def test_a_sweep_ends_with_its_budget(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    """A trial of a thousand epochs is ended in the middle, with its best one; then nothing is started any more."""
    sweep = sweep_of(
        pictures, tmp_path, "trial.lr={log: [1e-4, 1e-2]}", "trial.epochs=1000",
        "search={budget: 100h, scheduler: none, concurrent: 1}",
    )  # fmt: skip
    run, said = RunDir(tmp_path / "run"), io.StringIO()
    over = ends(run, after_epochs=2)
    (result,) = started(run, sweep, over, said)
    assert result.status == "ok"
    assert 2 <= result.epochs < 1000
    out = run.trial(result.id)
    assert out.weights_file.exists()
    assert out.predictions_file("val").exists()
    assert out.damaged_files(result) == []
    assert out.state_files() == []
    assert "The budget of 100h is used up; a larger search.budget goes on" in said.getvalue()
    before = {path: path.stat().st_mtime_ns for path in run.trials_folder.rglob("*") if path.is_file()}
    assert started(run, sweep, over) == [result]
    assert {path: path.stat().st_mtime_ns for path in run.trials_folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_trial_that_the_end_meets_before_its_first_epoch_stays_open(
    pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    sweep = sweep_of(
        pictures, tmp_path, "trial.lr={log: [1e-4, 1e-2]}", "trial.epochs=2", "search={budget: 100h, trials: 1}"
    )
    run, said = RunDir(tmp_path / "run"), io.StringIO()
    assert started(run, sweep, ends(run, after_epochs=0), said) == []
    (out,) = run.trials()
    assert not out.result_file.exists()
    assert not out.error_file.exists()
    assert "1 that had no judged epoch yet go on then" in said.getvalue()
    run.mirror.remove([run.budget_over_file])
    (result,) = started(run, sweep, ends(run, after_epochs=99))
    assert (result.id, result.status, result.epochs) == (out.id, "ok", 2)


def test_a_part_of_the_budget_waits_for_finalists(tmp_path: Path) -> None:
    mine = meter(tmp_path, "100s", used=10.0)
    whole = mine.account.left()
    mine.account.reserve(0.4)
    assert mine.account.left() == pytest.approx(whole - 40, abs=0.5)
    assert mine.account.deadline == pytest.approx(time.time() + whole - 40, abs=0.5)
    of_gpus = meter(tmp_path, "100gpu-s", slot=Slot(1, 1))
    of_gpus.account.reserve(0.4)
    assert of_gpus.account.left(more_gpus=2) == pytest.approx(30, abs=0.5)


def test_trials_may_use_what_was_kept_back(tmp_path: Path) -> None:
    mine = meter(tmp_path, "0.1gpu-s", slot=Slot(1, 1))
    mine.account.reserve(1.0)
    mine.account.record()
    over = RunDir(tmp_path / "run").budget_over_file
    assert over.exists()
    mine.account.reserve(0.0)
    assert not over.exists()


def test_finalists_have_as_many_epochs_as_there_is_time_for(tmp_path: Path) -> None:
    mine = meter(tmp_path, "106s")  # of which 100 are for trials
    trial = Trial(backbone="test_resnet")
    an_epoch(mine, trial, 5.0)

    def starts(*epochs: int) -> list[TrialStart]:
        known = {"number": 0, "results_known": 0, "trial": trial}
        return [
            TrialStart(id=f"{name}-{fold}", repeats=name, fold=(fold, 3), keep_epoch=count, **known)
            for name, count in zip("ab", epochs, strict=False)
            for fold in (1, 2)
        ]

    def kept(found: list[TrialStart]) -> list[int | None]:
        return [one.keep_epoch for one in found]

    assert kept(in_time(starts(6), mine, 1)) == [6, 6]  # 60 s
    assert kept(in_time(starts(20), mine, 1)) in ([9, 9], [10, 10])  # 200 s, one after the other, where 100 are left
    assert kept(in_time(starts(20), mine, 2)) in ([19, 19], [20, 20])  # two at once
    assert kept(in_time(starts(6, 8), mine, 1)) in ([6, 6, 3, 3], [6, 6, 4, 4])  # 40 s are left for the second
