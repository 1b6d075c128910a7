"""Probes on real Ray: made once, kept, gone on with; what they say of backbones and of where to begin."""

import io
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics as sk

from rfray.cluster.slots import slot_for
from rfray.commands.prepare_data import audit_left_out, prepare_training
from rfray.errors import RunError, SweepError, SweepFailed
from rfray.evaluation.leaderboard import build_leaderboard
from rfray.evaluation.left_out import left_out_line
from rfray.spec.sweep import Sweep
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.ownership import claim_run
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir, probe_id
from rfray.tuning import probing
from rfray.tuning.probing import points_to_evaluate, probe_backbones, probe_images, rank_backbones
from rfray.tuning.recorder import repair
from rfray.tuning.run_sweep import check_outcome, run_sweep
from tests.pictures import write_folder
from tests.tuning.test_run_sweep import sweep_of as checked_sweep

SWEEP = """
name: probed
data: {{train: {pictures}/train, test: {pictures}/test, val: 0.25}}
trial:
  backbone: [test_resnet, test_vit]
  pretrained: false
  head: [random, probe]
  image_size: 32
  lr: {{log: [1e-6, 1e-2]}}
  epochs: 1
  batch_size: 20
search: {{trials: 2, algorithm: optuna, probe_keep: 1}}
resources: {{cpu: 1}}
"""


sweep_of = partial(checked_sweep, text=SWEEP)


def prepared(sweep: Sweep, folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    claim_run(run, sweep)
    prepare_training(run, sweep, quiet())
    return run


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> Path:
    """A run folder with both probes, for the tests to copy."""
    folder = tmp_path_factory.mktemp("made")
    sweep = sweep_of(pictures, folder)
    run = prepared(sweep, folder)
    probe_backbones(run, sweep, None, quiet())
    return run.path


def copied(made: Path, folder: Path) -> RunDir:
    return RunDir(shutil.copytree(made, folder / "run"))


def test_a_probe_is_a_model_like_any_other(made: Path, tmp_path: Path) -> None:
    run = copied(made, tmp_path)
    catalog = run.catalog()
    fit = catalog[catalog["part"] == "train"]
    results = [out.result() for out in run.probes()]
    assert {result.trial.backbone for result in results} == {"test_resnet", "test_vit"}
    for result in results:
        assert (result.kind, result.status, result.epochs) == ("probe", "ok", 0)
        out = run.trial(result.id)
        val = read_predictions(out.predictions_file("val"))
        assert sk.roc_auc_score(val.labels, val.p_fake) == pytest.approx(result.score, abs=1e-12)
        assert sorted(read_predictions(out.out_of_fold_file).ids) == fit["path"].tolist()
        assert out.weights_file.exists()
        assert out.damaged_files(result) == []
    table = build_leaderboard(run)
    assert table["kind"].tolist() == ["probe", "probe"]
    assert table["val_auc"].tolist() == sorted((result.score for result in results), reverse=True)
    assert table["lr"].isna().all()
    assert set(table["backbone"]) == {"test_resnet", "test_vit"}


def test_a_second_command_makes_only_what_is_missing(pictures: Path, made: Path, tmp_path: Path) -> None:
    sweep, run = sweep_of(pictures, tmp_path), copied(made, tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (run.path / "probes").rglob("*.*")}
    probe_backbones(run, sweep, None, quiet())
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    # killed before its record: the passes are kept, the rest is made again, the same
    lost, kept = run.probes()
    lost.result_file.unlink()
    seen = lost.features_file(0).stat().st_mtime_ns
    probe_backbones(run, sweep, None, quiet())
    assert lost.features_file(0).stat().st_mtime_ns == seen
    assert kept.result_file.stat().st_mtime_ns == before[kept.result_file][0]
    assert lost.weights_file.read_bytes() == before[lost.weights_file][1]
    # damaged: found before the sweep, and made again
    kept.weights_file.write_bytes(b"damaged")
    assert any("best.safetensors is damaged" in found for found in repair(run))
    probe_backbones(run, sweep, None, quiet())
    assert kept.weights_file.read_bytes() == before[kept.weights_file][1]


def test_what_can_not_be_probed_is_a_row_with_its_reason(pictures: Path, made: Path, tmp_path: Path) -> None:
    sweep, run = sweep_of(pictures, tmp_path), copied(made, tmp_path)
    images = pictures / "train"  # a probe of a file that is none
    broken = sweep.model_copy(
        update={"trial": sweep.trial.model_copy(update={"pretrained": {"test_vit": f"{images}/none.safetensors"}})}
    )
    said = io.StringIO()
    probe_backbones(run, broken, None, Console(file=said, width=200))
    assert f"test_vit could not be probed: {images}/none.safetensors: no such file" in said.getvalue()
    failed = [out.result() for out in run.probes() if out.result().status == "failed"]
    assert [result.trial.backbone for result in failed] == ["test_vit"]
    assert "no such file" in failed[0].reason
    with pytest.raises(SweepFailed, match=rf"1 of 3 trials failed .*\n  {failed[0].id}: .*none.safetensors: no"):
        check_outcome(run, sweep, [])
    (status,) = build_leaderboard(run).query("pretrained != 'false'")["status"]
    assert status.startswith("failed: ")
    assert "none.safetensors: no such file" in status


def test_trials_begin_with_the_head_and_the_search_where_the_probe_points(
    pictures: Path, made: Path, tmp_path: Path
) -> None:
    sweep, run = sweep_of(pictures, tmp_path, "trial.lr=1e-9", "search.probe_keep=2"), copied(made, tmp_path)
    run.sweep_file.unlink()
    claim_run(run, sweep)
    search = rank_backbones(run, sweep, quiet())
    done = run_sweep(run, search, slot_for(sweep.resources), tmp_path, quiet())
    first, second = sorted(done, key=lambda result: result.id)
    scores = {out.result().trial.backbone: out.result().score for out in run.probes()}
    ranked = search.trial.choices("backbone")
    assert [first.trial.backbone, second.trial.backbone] == ranked
    assert {first.trial.head, second.trial.head} == {"probe"}
    # at this learning rate nothing is learned, but batch normalisation moves a little
    for result in (first, second):
        assert result.status == "ok"
        probe = run.trial(probe_id(sweep.probe(result.trial)))
        ours, its = (read_predictions(out.predictions_file("val")) for out in (run.trial(result.id), probe))
        assert np.corrcoef(ours.p_fake, its.p_fake)[0, 1] > 0.9
        assert scores[result.trial.backbone] == pytest.approx(result.score, abs=0.2)


def finished(run: RunDir, sweep: Sweep, out_of_fold: dict[str, list[float]], labels: list[int]) -> None:
    """Probes by hand: backbone -> p_fake of images that its head had not learned from."""
    ids = np.array([f"{number}.bmp" for number in range(len(labels))])
    for position, probe in enumerate(sweep.probes()):
        out = run.trial(probe_id(probe))
        out.path.mkdir(parents=True)
        p_fake = np.array(out_of_fold[probe.backbone])
        seen = slice(len(p_fake))
        write_predictions(out.out_of_fold_file, Predictions(ids[seen], np.array(labels, np.int8)[seen], p_fake), {})
        fields = {"status": "ok", "metric": "auc", "score": 0.5, "epochs": 0, "seconds": 0.0, "node": "", "files": {}}
        result = TrialResult(id=out.id, position=position, kind="probe", trial=probe, **fields)
        run.write_result(out, result)


LABELS = [0, 1] * 40
GOOD = [0.2 + 0.6 * label for label in LABELS]
MISTAKEN = [1 - value if number < 4 else value for number, value in enumerate(GOOD)]
"""Wrong of four images in eighty: not as good, but that may be chance."""
WORTHLESS = [0.5] * 76
"""Of the first of them alone, as there was no time for more."""


@pytest.mark.parametrize(
    ("keep", "expected"), [(1, ["test_vit", "test_resnet"]), (3, ["test_vit", "test_resnet", "test_vit2"])]
)
def test_the_clearly_worse_are_left_out_and_the_others_ranked(
    keep: int, expected: list[str], pictures: Path, tmp_path: Path
) -> None:
    sweep = sweep_of(
        pictures, tmp_path, "trial.backbone=[test_vit2, test_resnet, test_vit]", f"search.probe_keep={keep}"
    )
    run = RunDir(tmp_path / "run")
    finished(run, sweep, {"test_vit2": WORTHLESS, "test_resnet": MISTAKEN, "test_vit": GOOD}, LABELS)
    said = io.StringIO()
    search = rank_backbones(run, sweep, Console(file=said, width=200))
    assert search.trial.choices("backbone") == expected
    assert ("Left out of the sweep, as clearly worse than test_vit: test_vit2" in said.getvalue()) == (keep == 1)
    assert points_to_evaluate(run, search)[0] == {"backbone": 0, "head": 1}
    assert len(points_to_evaluate(run, search)) == len(expected)


def test_what_a_budget_had_no_time_to_probe(pictures: Path, tmp_path: Path) -> None:
    sweep = sweep_of(pictures, tmp_path, "trial.backbone=[test_resnet, test_vit]", "trial.head=probe")
    run, said = RunDir(tmp_path / "run"), io.StringIO()
    search = rank_backbones(run, sweep, Console(file=said, width=200))
    assert (search.trial.choices("backbone"), search.trial.choices("head")) == (["test_resnet", "test_vit"], ["random"])
    assert "Without their probes, trials begin with random heads" in said.getvalue()
    finished(run, sweep_of(pictures, tmp_path, "trial.backbone=test_vit"), {"test_vit": GOOD}, LABELS)
    search = rank_backbones(run, sweep, Console(file=said, width=200))
    assert (search.trial.choices("backbone"), search.trial.choices("head")) == (["test_vit"], ["probe"])
    assert "Left out of the sweep, as not probed: test_resnet" in said.getvalue()


def test_backbones_that_were_not_probed_stay(pictures: Path, tmp_path: Path) -> None:
    sweep = sweep_of(pictures, tmp_path, "trial.head=random")
    assert sweep.probes() == []  # auto, and nothing is pretrained
    run = RunDir(tmp_path / "run")
    assert rank_backbones(run, sweep, quiet()) is sweep
    assert points_to_evaluate(run, sweep) == []
    some = sweep_of(pictures, tmp_path, "trial.head=random", "search.probe=true")
    assert [probe.backbone for probe in some.probes()] == ["test_resnet", "test_vit"]


def test_each_probe_is_wanted_once(pictures: Path, tmp_path: Path) -> None:
    sweep = sweep_of(
        pictures,
        tmp_path,
        "trial.image_size=[32, 64]",
        "trial.resize=[scale, crop]",
        "trial.augmentation=[none, light]",
    )
    probes = sweep.probes()
    assert len(probes) == len({probe_id(probe) for probe in probes}) == 2 * 2 * 2
    trial = sweep.trial.trial(
        {"backbone": "test_vit", "head": "probe", "image_size": 64, "resize": "crop", "lr": 0.5, "augmentation": "none"}
    )
    assert sweep.probe(trial) in probes


def test_a_larger_budget_adds_images_to_those_that_probes_learn_from(pictures: Path, tmp_path: Path) -> None:
    sweep = sweep_of(pictures, tmp_path)
    all_of_them = probe_images(30_000, sweep)
    assert len(set(all_of_them)) == len(all_of_them) == 20_000
    for budget, count in (("1m", 2048), ("12m", 3600), ("8h", 20_000)):
        short = sweep.model_copy(update={"search": sweep.search.model_copy(update={"budget": budget})})
        assert probe_images(30_000, short).tolist() == all_of_them[:count].tolist()
    assert sorted(probe_images(100, sweep)) == list(range(100))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["search.probe=false"], 'trial.head[1]: given "probe"; allowed: random, as search.probe is false'),
        (["trial.image_size={int: [32, 64]}"], "allowed: a value or a list of values with trial.head probe"),
    ],
)
def test_a_head_without_a_probe_is_refused(overrides: list[str], said: str, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refused:
        sweep_of(pictures, tmp_path, *overrides)
    assert said in str(refused.value)


def test_no_more_than_a_part_of_a_budget_is_used(pictures: Path, tmp_path: Path, ray_here: None) -> None:
    sweep = sweep_of(pictures, tmp_path)
    run = prepared(sweep, tmp_path)
    said = io.StringIO()
    probe_backbones(run, sweep, time.time(), Console(file=said, width=200))
    assert "There was no time for the probes of test_resnet, test_vit" in said.getvalue()
    assert run.probes() == []


def test_a_probe_learns_from_what_there_was_time_to_look_at(
    made: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sweep = copied(made, tmp_path), sweep_of(pictures, tmp_path)
    out = run.trial(probe_id(next(probe for probe in sweep.probes() if probe.backbone == "test_vit")))
    out.result_file.unlink()
    out.out_of_fold_file.unlink()
    files = sorted((out.path / "features").iterdir())
    count = int(files[1].stem)
    files[1].unlink()  # what comes after it is there, but of no use without it
    monkeypatch.setattr(probing, "FEATURES_UNTIL", 0.0)
    said = io.StringIO()
    probe_backbones(run, sweep, time.time() + 600, Console(file=said, width=200))
    assert f"There was time for {count} of these images for the probe of test_vit" in said.getvalue()
    assert out.result().status == "ok"
    out_of_fold = read_predictions(out.out_of_fold_file)
    fit = run.catalog().query("part == 'train'")["path"].to_numpy()
    assert out_of_fold.ids.tolist() == fit[probe_images(len(fit), sweep)[:count]].tolist()


@pytest.mark.slow
def test_sources_that_were_left_out_are_on_the_leaderboard_and_in_the_audit(tmp_path: Path, ray_here: None) -> None:
    for part, count in (("train", 110), ("test", 8)):
        write_folder(tmp_path / part, per_class=count, seed=count)
        for number, file in enumerate(sorted((tmp_path / part / "fake").iterdir())):
            (source := file.parent / ("gan" if number % 2 else "diffusion")).mkdir(exist_ok=True)
            file.rename(source / file.name)
    given = ("data.group=subfolder", "trial.backbone=test_resnet", "trial.lr=1e-3", "search.algorithm=random")
    sweep = sweep_of(tmp_path, tmp_path, *given)
    run = prepared(sweep, tmp_path)
    assert left_out_line(run) == (
        "What it is worth on sources that it has not seen is not known: no backbone was probed (search.probe)."
    )
    probe_backbones(run, sweep, None, quiet())
    (out,) = run.probes()
    found, table = out.left_out(), build_leaderboard(run)
    assert {(pair.fake, pair.real) for pair in found.pairs} == {("diffusion", ""), ("gan", "")}
    assert table[["auc_left_out", "auc_left_out_worst"]].to_numpy().tolist() == [[found.mean, found.worst.auc]]
    audit_left_out(run)
    audit_left_out(run)  # once is enough
    (finding,) = [one for one in run.audit().findings if one.code == "left-out-sources"]
    assert finding.sentence == left_out_line(run)
    assert finding.sentence.startswith(f"On sources it has not seen, expect AUC {found.mean:.2f} (worst ")
    out.left_out_file.write_text(out.left_out_file.read_text().replace('"more": 0', '"more": 1'))
    with pytest.raises(RunError, match=r"left-out\.json is damaged"):
        left_out_line(run)
    assert any("left-out.json is damaged" in problem for problem in repair(run))
