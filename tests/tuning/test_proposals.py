"""Finalists that are trained again, on real Ray: which, with what, and that a later command goes on with them."""

import io
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rfray.cluster.slots import slot_for
from rfray.errors import SweepError
from rfray.evaluation.ensemble import fold_models, out_of_fold
from rfray.spec.checks import check_file
from rfray.spec.sweep_file import load_sweep
from rfray.spec.trial import Trial
from rfray.stats.predictions import read_predictions, write_predictions
from rfray.store.files import file_digest
from rfray.store.ownership import claim_run
from rfray.store.records import TrialResult, TrialStart
from rfray.store.run_dir import RunDir, probe_id
from rfray.tuning.probing import probe_backbones
from rfray.tuning.proposals import decided, repeated_starts
from rfray.tuning.run_sweep import run_sweep
from tests.synthetic import FIRST, new_run, predictions
from tests.tuning.test_probing import prepared, quiet
from tests.tuning.test_run_sweep import sweep_of, tmp_session

SWEEP = """
name: again
seed: 7
data: {{train: {pictures}/train, test: {pictures}/test, val: 0.25, folds: 2}}
trial:
  backbone: test_resnet
  pretrained: false
  head: probe
  image_size: 32
  lr: [1e-3, 3e-3]
  epochs: 2
  batch_size: 20
search: {{algorithm: grid, finalists: 1, seeds: 2}}
resources: {{cpu: 1}}
ensemble: {{top_k: 2}}
"""

again = partial(sweep_of, text=SWEEP)


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Path:
    """A run folder with a finalist that was trained again, for the tests to copy."""
    folder = tmp_path_factory.mktemp("again")
    sweep = again(pictures, folder)
    run = prepared(sweep, folder)
    probe_backbones(run, sweep, None, quiet())
    run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), quiet())
    return run.path


def result(name: str, position: int, score: float | None, seed: int = 7, best_epoch: int | None = None) -> TrialResult:
    return TrialResult(
        id=name,
        position=position,
        status="ok" if score is not None else "failed",
        trial=Trial(backbone="test_resnet", seed=seed),
        metric="auc",
        score=score,
        best_epoch=best_epoch,
        epochs=1,
        seconds=1.0,
        node="here",
        files={},
    )


def test_the_best_are_trained_with_other_seeds_then_for_each_fold(pictures: Path, tmp_path: Path) -> None:
    sweep = again(pictures, tmp_path, "search.finalists=2", "search.seeds=3")
    done = [
        result("00000-aaaaaa", 0, 0.6),
        result("00001-bbbbbb", 1, 0.9, best_epoch=4),
        result("00002-cccccc", 2, None),
        result("00003-dddddd", 3, 0.8, seed=2**32 - 1, best_epoch=2),
    ]
    wanted = repeated_starts(sweep, done)
    assert [(one.id, one.trial.seed, one.fold) for one in wanted] == [
        ("00001-bbbbbb-seed8", 8, None),
        ("00001-bbbbbb-seed9", 9, None),
        ("00001-bbbbbb-fold1of2", 7, (1, 2)),
        ("00001-bbbbbb-fold2of2", 7, (2, 2)),
        ("00003-dddddd-seed0", 0, None),  # seeds end at 2**32 - 1
        ("00003-dddddd-seed1", 1, None),
        ("00003-dddddd-fold1of2", 2**32 - 1, (1, 2)),
        ("00003-dddddd-fold2of2", 2**32 - 1, (2, 2)),
    ]
    assert {one.repeats for one in wanted} == {"00001-bbbbbb", "00003-dddddd"}
    # as many epochs as the finalist's best has: a fold's own best would be chosen on the images that it is judged by
    assert [one.keep_epoch for one in wanted] == [None, None, 4, 4, None, None, 2, 2]


def test_nothing_is_chosen_on_a_fold(tmp_path: Path) -> None:
    run, trial = new_run(tmp_path / "run"), Trial(backbone="test_resnet", tta="auto", swa="auto")
    known = {"number": 0, "results_known": 1, "repeats": "00001-bbbbbb"}
    fold, seed = TrialStart(id="x", trial=trial, fold=(1, 2), **known), TrialStart(id="y", trial=trial, **known)
    assert [(one.trial.tta, one.trial.swa) for one in decided(run, [fold, seed])] == [
        ("none", "none"),
        ("auto", "auto"),
    ]
    val = run.trial("00001-bbbbbb").predictions_file("val")
    write_predictions(val, predictions(FIRST), {"tta": "flip", "swa": "epochs"})
    assert [(one.trial.tta, one.trial.swa) for one in decided(run, [fold])] == [("flip", "epochs")]
    plain = fold.model_copy(update={"trial": Trial(backbone="test_resnet")})
    assert decided(run, [plain]) == [plain]


def test_every_repeat_is_trained_to_its_end_and_keeps_its_weights(made: Path) -> None:
    run = RunDir(made)
    found = [out.result() for out in run.repeats()]
    assert len(found) == 3
    assert {one.status for one in found} == {"ok"}
    assert sorted(one.kind for one in found) == ["fold", "fold", "model"]
    (finalist,) = {one.repeats for one in found}
    best_epoch = run.trial(finalist).result().best_epoch
    folds = {(one.epochs, one.best_epoch) for one in found if one.kind == "fold"}
    assert folds == {(best_epoch, best_epoch)}, "its best epoch, chosen on val, is where the folds end"
    assert {one.epochs for one in found if one.kind == "model"} == {2}
    assert all(out.weights_file.exists() and not out.state_files() for out in run.repeats())
    assert not run.ray_folder.exists()
    # they are no trials of the search
    assert len(run.trials()) == 2
    assert len(run.models()) == 1 + 2 + 3


def test_the_folds_together_speak_of_every_training_image_once(made: Path) -> None:
    run = RunDir(made)
    catalog = run.catalog()
    training = sorted(catalog.loc[catalog["part"].isin(["train", "val"]), "path"])
    models = fold_models(run, 2)
    assert set(models) == {out.start().repeats for out in run.repeats()}
    assert len(models) == 1
    for folds in models.values():
        assert out_of_fold(folds).ids.tolist() == training
        assert [out.start().fold for out in folds] == [(1, 2), (2, 2)]


def test_a_fold_begins_with_a_head_that_has_not_learned_from_it(made: Path) -> None:
    run = RunDir(made)
    probe = run.trial(probe_id(run.sweep().probes()[0]))
    heads = [probe.weights_file, probe.fold_weights_file((1, 2)), probe.fold_weights_file((2, 2))]
    assert len({file_digest(file) for file in heads}) == 3


def test_a_later_command_trains_only_what_is_missing_and_comes_to_the_same(made: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(made, run.path)
    lost = next(out for out in run.repeats() if out.start().fold == (2, 2))
    others = {out.id: out.result_file.stat().st_mtime_ns for out in run.repeats() if out.id != lost.id}
    before = read_predictions(lost.predictions_file("val"))
    shutil.rmtree(lost.path)
    said = io.StringIO()
    sweep = run.sweep()

    run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), Console(file=said, width=200))
    assert "Training the best trials again: 1 of 3 trainings are to be done" in said.getvalue()
    after = read_predictions(lost.predictions_file("val"))
    assert np.array_equal(before.ids, after.ids)
    assert np.array_equal(before.p_fake, after.p_fake)
    assert {out.id: out.result_file.stat().st_mtime_ns for out in run.repeats() if out.id != lost.id} == others


def test_a_finished_sweep_may_be_asked_for_finalists_later(made: Path, pictures: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    shutil.copytree(made, run.path)
    later = again(pictures, tmp_path, "search.finalists=1", "search.seeds=3", "data.folds=null")
    claim_run(run, later)  # nothing that a trial depends on has changed
    run_sweep(run, later, slot_for(later.resources), tmp_session(), quiet())
    best = max(run.trials(), key=lambda out: out.result().score)
    seeds = [out.start().trial.seed for out in run.repeats() if out.start().repeats == best.id and not out.start().fold]
    assert seeds == [8, 9]
    assert len(run.repeats()) == 3 + 1


def test_a_budget_without_a_number_of_trials_leaves_no_time_for_finalists(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.format(pictures=pictures))
    budget = ("search.budget=9m", "search.algorithm=optuna", "trial.lr={log: [1e-4, 1e-3]}")
    loaded = load_sweep(file, budget)
    with pytest.raises(SweepError, match=r"search\.finalists: given 1.*together with search\.trials"):
        check_file(loaded)
    loaded = load_sweep(file, (*budget, "search.trials=3"))
    check_file(loaded)
