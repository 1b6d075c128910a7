"""Trials that leave out sources in turn, on real Ray: what each learns from, who is trained again, and who votes."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from rfray.cluster.slots import slot_for
from rfray.commands.prepare_data import audit_left_out, prepare_training
from rfray.evaluation.ensemble import fold_models
from rfray.evaluation.left_out import probe_left_out
from rfray.spec.sweep import Sweep
from rfray.stats.predictions import trial_predictions
from rfray.store.ownership import claim_run
from rfray.store.run_dir import RunDir
from rfray.tuning.asha import Asha
from rfray.tuning.probing import probe_backbones, rank_backbones
from rfray.tuning.run_sweep import run_sweep
from tests.pictures import write_folder
from tests.tuning.test_run_sweep import sweep_of, tmp_session

SWEEP = """
name: unseen
data: {{train: {pictures}, test: 0.2, val: 0.2}}
trial:
  backbone: test_resnet
  pretrained: false
  head: probe
  image_size: 32
  lr: [1e-4, 1e-3, 3e-3, 1e-2]
  epochs: 2
  batch_size: 20
search: {{algorithm: grid, judge: unseen}}
resources: {{cpu: 1}}
ensemble: {{top_k: 2}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with two sources of fakes, and photographs of none."""
    folder = tmp_path_factory.mktemp("sources")
    write_folder(folder, per_class=120, seed=0)
    for number, file in enumerate(sorted((folder / "fake").iterdir())):
        place = folder / "fake" / ("flux" if number % 2 else "gan")
        place.mkdir(exist_ok=True)
        file.rename(place / file.name)
    (folder / "real/none").mkdir()
    return folder


def unseen(folder: Path, where: Path, *overrides: str) -> Sweep:
    pattern = "data.group=fake/([a-z]+)/"
    return sweep_of(folder, where, pattern, *overrides, text=SWEEP)


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Path:
    """A run folder with four trials and a finalist, for the tests to copy."""
    where = tmp_path_factory.mktemp("made")
    sweep, run, console = unseen(folder, where), RunDir(where / "run"), Console(file=io.StringIO(), width=200)
    claim_run(run, sweep)
    prepare_training(run, sweep, console)
    (where / "said.txt").write_text(console.file.getvalue())
    probe_backbones(run, sweep, None, console)
    audit_left_out(run)
    run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), console)
    return run.path


def sources(run: RunDir, ids: list[str], label: int) -> dict[str, int]:
    images = run.catalog().set_index("path").loc[ids]
    return images.loc[images["label"] == label, "source"].value_counts().to_dict()


def test_trials_leave_out_the_sources_in_turn_and_are_judged_on_them(made: Path) -> None:
    run = RunDir(made)
    assert "gan with a share of the real images" in (made.parent / "said.txt").read_text()
    trials = run.trials()
    assert [trial.start().fold for trial in trials] == [(1, 2), (2, 2), (1, 2), (2, 2)]
    known = run.catalog().query("part != 'test' and label == 1")["source"].value_counts()
    first, second = (trial_predictions(trial, "val").ids.tolist() for trial in trials[:2])
    order = known.sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    assert sources(run, first, 1) == {order[0]: known[order[0]]}
    assert sources(run, second, 1) == {order[1]: known[order[1]]}
    assert not set(first) & set(second)  # nor do they share photographs
    assert all(result.fold == (number % 2 + 1, 2) for number, trial in enumerate(trials) if (result := trial.result()))


def test_heads_are_learned_without_what_is_left_out(made: Path) -> None:
    (probe,) = RunDir(made).probes()
    weights = [probe.fold_weights_file((turn, 2)).read_bytes() for turn in (1, 2)]
    assert len({probe.weights_file.read_bytes(), *weights}) == 3


def test_the_best_trial_is_trained_without_the_other_source_too(made: Path) -> None:
    run = RunDir(made)
    (again,) = run.repeats()
    result, start = again.result(), again.start()
    finalist = run.trial(result.repeats)
    own = finalist.start().fold
    assert (result.kind, result.status, start.fold) == ("fold", "ok", (3 - own[0], 2))
    assert start.keep_epoch == finalist.result().best_epoch
    assert {one: sorted(model.id for model in models) for one, models in fold_models(run, 2).items()} == {
        finalist.id: [finalist.id, again.id]
    }


@pytest.mark.slow
def test_a_later_command_trains_only_what_is_missing_and_comes_to_the_same(
    folder: Path, made: Path, tmp_path: Path
) -> None:
    run = RunDir(shutil.copytree(made, tmp_path / "run"))
    (again,) = run.repeats()
    before = {out.id: out.result().score for out in (*run.trials(), again)}
    again.result_file.unlink()
    *_, last = run.trials()
    last.result_file.unlink()
    sweep = unseen(folder, tmp_path)
    run_sweep(run, sweep, slot_for(sweep.resources), tmp_session(), Console(file=io.StringIO(), width=200))
    assert {out.id: out.result().score for out in (*run.trials(), *run.repeats())} == pytest.approx(before)


def test_backbones_are_ranked_by_left_out_sources_and_none_goes(folder: Path, made: Path, tmp_path: Path) -> None:
    run, said = RunDir(made), io.StringIO()
    (probe,) = run.probes()
    found = probe_left_out(probe, probe.result())
    assert rank_backbones(run, run.sweep(), Console(file=said, width=200)).trial.choices("backbone") == ["test_resnet"]
    line = f"Probe of test_resnet at 32 px: AUC {found.mean:.4f} on sources that its head had not learned from"
    assert line in said.getvalue()


def test_only_trials_of_the_same_sources_are_rivals() -> None:
    asha = Asha(1, 2, 4, planned=None, training_images=100, rotations=2)
    scores = {"0": 0.9, "1": 0.6, "2": 0.8, "3": 0.5}
    for name, score in scores.items():
        asha._learn(name, 1, score)
    # of each two that have left out the same sources one may go on, although both of the first are better
    going_on = []
    while (name := asha.next()) is not None:
        asha.begin(name)
        going_on.append(name)
    assert sorted(going_on) == ["0", "1"]


def test_rotations_take_turns() -> None:
    asha = Asha(1, 2, 4, planned=None, training_images=100, rotations=2)
    for name in range(8):
        asha._learn(str(name), 1, 0.9 - 0.1 * name)
    first = asha.next()
    asha.begin(first)
    assert {first, asha.next()} == {"0", "1"}
