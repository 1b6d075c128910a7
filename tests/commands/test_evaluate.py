"""`rfray evaluate` as a user meets it: every figure against scikit-learn and scipy."""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy import stats
from sklearn import metrics as sk

import rfray
from rfray.cli import main
from rfray.commands import evaluate
from rfray.data.corruptions import CORRUPTIONS
from rfray.evaluation.external_validation import CLAIMED_OF_THESE
from rfray.evaluation.mistakes import read_mistakes
from rfray.inference import bulk, evaluation_predictions, shards
from rfray.models.bundle import load_bundle
from rfray.stats.predictions import read_predictions
from rfray.stats.unpaired_tests import independent_images
from rfray.store.evaluation_dir import EvaluationDir, EvaluationRecord
from rfray.store.records import read_record
from rfray.store.run_dir import RunDir
from rfray.store.sealed import table_bytes
from rfray.store.storage import Storage
from tests.object_store import bucket_here, upload
from tests.pictures import picture, write_folder
from tests.two_models import concluded, two_models

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def here(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a bundle; elsewhere: 12 + 12 images, some in subfolders; planted: six of them, three learned from."""
    folder = tmp_path_factory.mktemp("evaluating")
    concluded(two_models(folder, pictures), "soft", "weighted", "calibrated")
    write_folder(folder / "elsewhere", per_class=12, seed=5)
    for number in range(6):
        for name in ("real", "fake"):
            (folder / "elsewhere" / name / "night").mkdir(exist_ok=True)
            file = folder / "elsewhere" / name / f"{number:03d}.bmp"
            file.rename(folder / "elsewhere" / name / "night" / file.name)
    for name in ("real", "fake"):
        (folder / "planted" / name).mkdir(parents=True)
        for number in range(4):
            new = folder / "planted" / name / f"new{number}.bmp"
            Image.fromarray(picture(name == "fake", np.random.default_rng(90 + number))).save(new)
    train = folder / "images" / "train"
    shutil.copy(train / "real" / "003.bmp", folder / "planted" / "real" / "copy.bmp")
    Image.open(train / "fake" / "004.bmp").save(folder / "planted" / "fake" / "copy.png")
    mirrored = Image.open(train / "real" / "005.bmp").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(folder / "planted" / "real" / "mirrored.png")
    (folder / "planted" / "real" / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def command(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """The same as `rfray evaluate`, in this process, which has imported torch already; without pictures."""
    monkeypatch.setattr(evaluate, "write_evaluation_page", lambda *_: None)
    monkeypatch.setattr(evaluate, "undrawn", lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(here)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["rfray", "evaluate", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return subprocess.CompletedProcess(words, int(end.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


def record_of(folder: Path, name: str) -> EvaluationRecord:
    return read_record(EvaluationDir(folder / "evaluations", name).record_file, EvaluationRecord)


@pytest.fixture(scope="module")
def evaluated(here: Path) -> EvaluationDir:
    """With pictures and corrupted images."""
    said = Console(file=io.StringIO())
    evaluate.evaluate(str(here / "run"), [str(here / "elsewhere")], None, None, (), True, 64, (1, None), None, said)
    return EvaluationDir(here / "run" / "evaluations", "elsewhere")


def test_copies_within_a_set_are_one_piece_of_evidence(here: Path, command: Command) -> None:
    for name in ("real", "fake"):
        (here / "thrice" / name).mkdir(parents=True)
        for file in (here / "elsewhere" / name).rglob("*.bmp"):
            for ending in (".bmp", ".png", "-again.bmp"):
                Image.open(file).save(here / "thrice" / name / f"{file.stem}{ending}")
    assert command("run", "once=elsewhere", "thrice", "--out", "copies").returncode == 0
    words = ("once", "thrice")
    once, thrice = (record_of(here / "copies", name).figures for name in words)
    assert (once["n"], once["n_groups"], thrice["n"], thrice["n_groups"]) == (24, 24, 72, 24)
    for figure in ("auc", "accuracy"):
        assert once[figure] == thrice[figure]
        widths = [(of[f"{figure}_high"] or 0) - (of[f"{figure}_low"] or 0) for of in (once, thrice)]
        assert widths[1] > 0.9 * widths[0]  # three images each would leave 0.58 of the width
    p_once, p_thrice = ({k: c.p for k, c in record_of(here / "copies", one).comparisons.items()} for one in words)
    assert p_thrice == pytest.approx(p_once, abs=0.05)  # Student's t instead of the normal distribution
    said = "Images that belong together are one piece of evidence: 72 are in 24 groups."
    assert [said in record_of(here / "copies", one).sentences for one in words] == [False, True]


def test_every_figure_is_that_of_scikit_learn(here: Path, evaluated: EvaluationDir) -> None:
    out = evaluated
    bundle = load_bundle(here / "run")
    frame = pd.read_csv(out.leaderboard_csv).set_index("name")
    names = [*(vote.name for vote in bundle.ensemble.votes), *bundle.ensemble.members]
    assert list(frame.index[: len(names)]) == names
    assert [file.name for file in out.predictions_files()] == sorted(f"{name}-predictions.parquet" for name in names)
    for name in names:
        found = read_predictions(out.predictions_file(name))
        assert sorted(found.ids) == sorted(
            file.relative_to(here / "elsewhere").as_posix() for file in (here / "elsewhere").rglob("*.bmp")
        )
        assert all(label == id_.startswith("fake") for id_, label in zip(found.ids, found.labels, strict=True))
        row, called = frame.loc[name], found.p_fake >= frame.loc[name, "threshold"]
        assert row["auc"] == pytest.approx(sk.roc_auc_score(found.labels, found.p_fake))
        assert row["average_precision"] == pytest.approx(sk.average_precision_score(found.labels, found.p_fake))
        for metric in (sk.accuracy_score, sk.recall_score, sk.f1_score, sk.balanced_accuracy_score):
            column = metric.__name__.removesuffix("_score")
            assert row[column] == pytest.approx(metric(found.labels, called)), column
        assert row[["tn", "fp", "fn", "tp"]].tolist() == sk.confusion_matrix(found.labels, called).ravel().tolist()
        low, high = stats.binomtest(int((called == found.labels).sum()), len(found)).proportion_ci(method="wilson")
        assert row[["accuracy_low", "accuracy_high"]].tolist() == pytest.approx([low, high])
    main_vote = frame.loc["ensemble"]
    members = np.array([read_predictions(out.predictions_file(one)).p_fake for one in bundle.ensemble.members])
    assert read_predictions(out.predictions_file("ensemble")).p_fake == pytest.approx(members.mean(axis=0))
    assert main_vote["threshold"] == bundle.ensemble.threshold
    record, claimed = record_of(here / "run", "elsewhere"), bundle.ensemble.bundle
    assert claimed is not None
    hits, n = main_vote["tn"] + main_vote["tp"], main_vote["n"]
    test_images = pd.read_csv(here / "run" / "leaderboard.csv").set_index("name").loc["ensemble"]
    assert test_images["n_groups"] < test_images["n"]  # some of them are alike: so many independent ones as Wilson says
    share, *ends = (claimed.figures[f"accuracy{end}"] or 0 for end in ("", "_low", "_high"))
    other_n = independent_images(share, *ends)
    assert other_n < test_images["n"]
    other_hits = share * other_n
    table = [[hits, n - hits], [other_hits, other_n - other_hits]]
    p = stats.chi2_contingency(table, correction=False).pvalue if hits + other_hits not in (0, n + other_n) else 1
    assert record.comparisons["accuracy"].p == pytest.approx(p)
    assert (record.exact, record.alike, record.unreadable) == (0, 0, 0)
    assert record.claimed == claimed.figures
    groups = pd.read_csv(out.groups_csv, keep_default_na=False)
    assert sorted(groups[["attribute", "group", "n"]].to_numpy().tolist()) == [["", "", 12], ["", "night", 12]]
    page = out.report_html.read_text()
    assert page.count("<img") == 5 + len(names) + 2 * len(read_mistakes(out).shown)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # it opens without a network
    assert all(sentence in unescape(page) for sentence in record.sentences)


def test_what_was_predicted_is_not_predicted_again(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", "again=elsewhere").returncode == 0
    before = (here / "run" / "evaluations" / "again" / "leaderboard.csv").read_bytes()
    monkeypatch.setattr("rfray.inference.shards.load_bundle", lambda *_: 1 / 0)
    assert command("run", "again=elsewhere").returncode == 0
    assert (here / "run" / "evaluations" / "again" / "leaderboard.csv").read_bytes() == before


def test_corrupted_images_are_those_of_every_model(here: Path, evaluated: EvaluationDir) -> None:
    out, bundle = evaluated, load_bundle(here / "run")
    frame = pd.read_csv(out.leaderboard_csv).set_index("name")
    found = read_predictions(out.predictions_file("ensemble"))
    pictures = [np.asarray(Image.open(here / "elsewhere" / one)) for one in found.ids]
    for corruption in ("jpeg_30", "blur_4"):
        corrupted = [CORRUPTIONS[corruption](one) for one in pictures]
        squares = [torch.tensor(np.stack([g.square(one) for one in corrupted])) for g in bundle.geometries]
        with torch.inference_mode():
            scores = [
                detector(square.permute(0, 3, 1, 2)).numpy()
                for detector, square in zip(bundle.detectors, squares, strict=True)
            ]
        vote = np.mean(scores, axis=0)
        assert frame.loc["ensemble", f"auc_{corruption}"] == pytest.approx(sk.roc_auc_score(found.labels, vote))
    columns = ["auc", *(f"auc_{name}" for name in CORRUPTIONS)]
    assert frame.loc["ensemble", "auc_worst_corruption"] == frame.loc["ensemble", columns].min()
    summary = pd.read_csv(here / "run" / "evaluations" / "evaluations.csv").set_index("name")
    assert summary.loc["elsewhere", "auc_worst_corruption"] == frame.loc["ensemble", "auc_worst_corruption"]
    assert "Robustness" in out.report_html.read_text()


def test_a_vote_of_other_models_is_predicted_where_the_run_has_them(
    here: Path, command: Command, tmp_path: Path
) -> None:
    shutil.copytree(here / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluations", ignore_errors=True)
    run = RunDir(tmp_path / "run")
    ensemble = run.ensemble()
    assert ensemble is not None
    first, second = ensemble.members
    both = ensemble.others[0].model_copy(update={"members": [second, first], "weights": [0.25, 0.75]})
    assert ensemble.bundle is not None
    both = both.model_copy(update={"temperatures": [1.0, 1.0]})
    alone = {"members": [first], "weights": [1.0], "temperatures": [1.0], "others": [both]}
    bundle = ensemble.bundle.model_copy(
        update={
            "members": ensemble.bundle.members[:1],
            "files": {k: v for k, v in ensemble.bundle.files.items() if not k.startswith("members/2")},
        }
    )
    run.write_vouched(run.ensemble_file, ensemble.model_copy(update={**alone, "bundle": bundle}))
    assert command(str(run.path), str(here / "elsewhere")).returncode == 0
    out = EvaluationDir(run.path / "evaluations", "elsewhere")
    one, two = (read_predictions(out.predictions_file(name)).p_fake for name in (first, second))
    vote = read_predictions(out.predictions_file(both.name)).p_fake
    assert vote == pytest.approx(0.75 * one + 0.25 * two)
    done = command(str(run.bundle_folder), str(here / "elsewhere"), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr  # the bundle has the first alone
    rows = pd.read_csv(EvaluationDir(tmp_path / "evaluations", "elsewhere").leaderboard_csv).set_index("name")
    assert rows.loc[both.name, "status"] == "not predicted: weights of its members are not there"
    assert rows.loc[both.name, ["auc", "n"]].isna().all()


def test_python_has_the_same(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "write_evaluation_page", lambda *_: None)
    monkeypatch.setattr(evaluate, "undrawn", lambda *_: None)
    monkeypatch.setattr(evaluate, "counting", lambda *_: 1 / 0)  # not verbose: nothing is counted aloud
    with pytest.warns(UserWarning, match="guessing"):
        detector = rfray.load(here / "run")
    table = detector.evaluate(here / "elsewhere", out=tmp_path, classes={"real": "real"}, verbose=False)
    assert table["name"].tolist() == ["elsewhere", "mean", "worst"]
    assert table["real"].iloc[0] == 12
    assert table["fake"].iloc[0] == 0


def test_a_killed_one_goes_on_and_damage_is_mended(
    here: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_predictions, "SMALL_SHARD", 5)
    out, predict, done = (
        EvaluationDir(tmp_path / "evaluations", "elsewhere"),
        shards.ShardPredictor.predict,
        list[int](),
    )

    def predicted(self: shards.ShardPredictor, shard: int) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shard)
        return predict(self, shard)

    monkeypatch.setattr(shards.ShardPredictor, "predict", predicted)
    assert command("run", "elsewhere", "--out", str(tmp_path)).returncode == 130
    assert not out.record_file.exists()
    monkeypatch.setattr(
        shards.ShardPredictor, "predict", lambda self, shard: done.append(shard) or predict(self, shard)
    )
    assert command("run", "elsewhere", "--out", str(tmp_path)).returncode == 0
    assert done == [0, 1, 2, 3, 4]
    whole = out.leaderboard_csv.read_bytes()
    monkeypatch.undo()
    monkeypatch.chdir(here)
    for file in sorted(out.shards_folder.iterdir()):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        found = command("run", "elsewhere", "--out", str(tmp_path))
        if found.returncode:
            assert found.returncode == 2
            assert f"delete {out.shards_folder}" in found.stderr or "shards.csv" in found.stderr, found.stderr
            data[len(data) // 2] ^= 1
            file.write_bytes(data)
        assert out.leaderboard_csv.read_bytes() == whole
    out.record_file.write_text(out.record_file.read_text().replace('"n": 24', '"n": 25'))
    damaged = command("run", "images/test", "--name", "other", "--out", str(tmp_path))
    assert damaged.returncode == 2
    assert "evaluation.json is damaged" in damaged.stderr
    assert "delete its folder, and evaluate again" in damaged.stderr


@pytest.mark.parametrize(
    "changed", [{"a": [2.0] * 24}, {"a": ["0.5"] * 24}, {"digest": ["x"] * 24}, {"hash": [b""] * 24}, {"a": None}, {}]
)
def test_shards_of_somebody_else_are_refused(
    changed: dict[str, Any], here: Path, command: Command, tmp_path: Path
) -> None:
    assert command("run", "elsewhere", "--out", str(tmp_path)).returncode == 0
    folder = EvaluationDir(tmp_path / "evaluations", "elsewhere").shards_folder
    part = shards.part_file(folder, 0)
    table = pd.read_parquet(part)
    other = table.assign(**{key: cells for key, cells in changed.items() if cells}) if changed else table.head(3)
    other = other.drop(columns=[key for key, cells in changed.items() if cells is None])
    part.write_bytes(table_bytes(pa.Table.from_pandas(other, preserve_index=False)))
    shards.vouch(folder, 0)
    done = command("run", "elsewhere", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "part-000000.parquet is damaged: " in done.stderr
    assert f"delete {folder}, and all is predicted again" in done.stderr


@pytest.mark.slow
def test_many_images_are_predicted_by_a_pool_on_ray(
    here: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", "elsewhere", "--corruptions", "--out", str(tmp_path / "here")).returncode == 0
    monkeypatch.setattr(evaluation_predictions, "IN_PROCESS", 0)
    monkeypatch.setattr(evaluation_predictions, "SHARD", 9)
    monkeypatch.setattr(evaluation_predictions, "CORRUPTED_SHARD", 9)
    done = list[str]()

    def vouched(out: Path, shard: int) -> None:
        shards.vouch(out, shard)
        done.append(out.name)
        if len(done) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "vouch", vouched)
    assert command("run", "elsewhere", "--corruptions", "--out", str(tmp_path / "ray")).returncode == 130
    assert command("run", "elsewhere", "--corruptions", "--out", str(tmp_path / "ray")).returncode == 0
    assert done == [*[".shards"] * 3, *[".corrupted"] * 3]  # none twice
    alone, pool = (
        pd.read_csv(EvaluationDir(tmp_path / one / "evaluations", "elsewhere").leaderboard_csv)
        for one in ("here", "ray")
    )
    pd.testing.assert_frame_equal(alone, pool)


def test_images_that_it_has_learned_from_are_left_out(here: Path, command: Command) -> None:
    done = command("run", "planted")
    assert done.returncode == 1
    assert "1 file could not be read (1 of planted): unreadable.csv has the reasons" in done.stderr
    said = "Left out, as the detector has learned from them: 3 (1 of the same file, 2 of a picture alike)."
    assert said in done.stdout
    record, out = record_of(here / "run", "planted"), EvaluationDir(here / "run" / "evaluations", "planted")
    assert (record.n, record.exact, record.alike, record.unreadable) == (8, 1, 2, 1)
    left_out = pd.read_csv(out.left_out_csv)
    assert dict(zip(left_out["path"], left_out["kind"], strict=True)) == {
        "fake/copy.png": "alike",
        "real/copy.bmp": "exact",
        "real/mirrored.png": "alike",
    }
    assert pd.read_csv(out.unreadable_csv)["path"].tolist() == ["real/broken.jpg"]
    assert all("new" in one for one in read_predictions(out.predictions_file("ensemble")).ids)


def test_a_bundle_without_fingerprints_says_that_it_did_not_look(here: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(here / "run" / "ensemble", tmp_path / "old")
    record = json.loads((tmp_path / "old" / "ensemble.json").read_text())
    (tmp_path / "old" / "learned-images.safetensors").unlink()
    del record["bundle"]["files"]["learned-images.safetensors"]
    from rfray.store.bundle_record import Ensemble
    from rfray.store.records import write_record

    record.pop("sha256", None)
    write_record(
        tmp_path / "old" / "ensemble.json",
        Ensemble.model_validate({k: v for k, v in record.items() if k in Ensemble.model_fields}),
    )
    done = command(str(tmp_path / "old"), "planted", "--out", str(tmp_path))
    assert "was not looked for" in done.stdout
    assert record_of(tmp_path, "planted").exact is None
    assert record_of(tmp_path, "planted").n == 11


def test_images_of_one_class_say_only_what_they_can(here: Path, command: Command, tmp_path: Path) -> None:
    done = command(
        "run/ensemble", "elsewhere/real", "fakes=elsewhere", "--classes", "fake=fake", "--out", str(tmp_path)
    )
    assert done.returncode == 2  # the first one has no such folder
    assert "no folder 'fake'" in done.stderr
    done = command("run/ensemble", "elsewhere/real", "some=elsewhere/real", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(EvaluationDir(tmp_path / "evaluations", "real").leaderboard_csv).set_index("name")
    row = frame.loc["ensemble"].dropna()
    assert set(row.index) == {
        *("kind", "status", "members", "tn", "fp", "fn", "tp", "n", "n_groups", "threshold"),
        *("fpr", "fpr_low", "fpr_high"),
    }
    assert row["fpr"] == row["fp"] / 12
    assert "all of them real, the ensemble has a false-positive rate of" in done.stdout
    done = command("run/ensemble", "elsewhere", "--classes", "fake=fake", "--out", str(tmp_path))
    row = pd.read_csv(EvaluationDir(tmp_path / "evaluations", "elsewhere").leaderboard_csv).iloc[0].dropna()
    assert {"recall", "recall_low", "recall_high"} <= set(row.index)
    assert not {"fpr", "accuracy", "precision", "auc"} & set(row.index)
    summary = pd.read_csv(tmp_path / "evaluations" / "evaluations.csv").set_index("name")
    assert list(summary.index) == ["elsewhere", "real", "some", "mean", "worst"]
    assert summary.loc["mean", "fpr"] == pytest.approx(summary["fpr"].iloc[:3].mean())
    assert summary.loc["worst", "fpr"] == summary["fpr"].iloc[:3].max()
    assert summary.loc["worst", "recall"] == summary["recall"].iloc[:3].min()
    assert summary["auc"].isna().all()


def test_a_table_has_labels_in_words_or_numbers(here: Path, command: Command, tmp_path: Path) -> None:
    shutil.copytree(here / "elsewhere", tmp_path / "set" / "images")
    files = sorted(file.relative_to(tmp_path / "set").as_posix() for file in (tmp_path / "set").rglob("*.bmp"))
    labels = ["fake" if "/fake/" in file else "0" for file in files]
    lines = [
        f"{file},{label},{'dark' if 'night' in file else 'light'}" for file, label in zip(files, labels, strict=True)
    ]
    (tmp_path / "set" / "table.csv").write_text("\n".join(["path,label,time", *lines]))
    done = command("run", str(tmp_path / "set" / "table.csv"), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = read_predictions(EvaluationDir(tmp_path / "evaluations", "table").predictions_file("ensemble"))
    assert found.ids.tolist() == files
    assert found.labels.tolist() == [int("/fake/" in file) for file in files]
    pd.DataFrame({"path": files, "label": ["/fake/" in file for file in files]}).to_parquet(
        tmp_path / "set" / "t.parquet"
    )
    done = command("run", str(tmp_path / "set" / "t.parquet"), "--out", str(tmp_path))
    assert (
        read_predictions(EvaluationDir(tmp_path / "evaluations", "t").predictions_file("ensemble")).labels.tolist()
        == found.labels.tolist()
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("path,class\na.png,0", "no column 'label'; there: path, class"),
        ("path,label\na.png,2", "image 1: label '2'; allowed: 0, 1, real, fake"),
        ("path,label\na.png,0\na.png,1", "1 row of an image that has one already, e.g. a.png"),
        ("path,label\nb.png,0\n../a.png,1", "image 2: '../a.png' is no name of a file below"),
        ("path,label\n/a.png,1", "image 1: '/a.png' is no name of a file below"),
        ("path,label\n", "no image in it"),
        ("", "not a table that can be read"),
    ],
)
def test_tables_that_can_not_be_used(rows: str, said: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(rows)
    done = command("run", str(tmp_path / "table.csv"))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere"], "nowhere: no such folder"),
        (["run", "broken.jpg"], "broken.jpg: no such folder"),
        (["run", "images"], "no folder 'real' or 'fake'; there: "),
        (["run", "elsewhere", "images/../elsewhere"], "both would be called elsewhere; name them: elsewhere-2="),
        (["run", "elsewhere", "planted", "--name", "x"], "--name x: allowed with one folder"),
        (["run", "elsewhere", "--name", "../x"], "can't be called '../x'"),
        (["run", "no.csv", "--classes", "real=a"], "--classes: allowed with a folder; "),
        (["run", "elsewhere", "--classes", "photo=real"], "--classes photo=real: allowed: real=FOLDER,fake=FOLDER"),
        (["run", "elsewhere", "--classes", "real=../real"], "--classes real=../real: allowed"),
        (["run", "ftp://x/y"], "allowed: folders, tables and s3://"),
        (["images", "elsewhere"], "no bundle"),
    ],
)
def test_words_that_can_not_be_used(words: list[str], said: str, command: Command) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_another_folder_of_the_same_name_is_refused(here: Path, command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "a" / "set", per_class=2, seed=11)
    write_folder(tmp_path / "b" / "set", per_class=2, seed=12)
    assert command("run", str(tmp_path / "a" / "set"), "--out", str(tmp_path)).returncode == 0
    done = command("run", str(tmp_path / "b" / "set"), "--out", str(tmp_path))
    assert done.returncode == 2
    assert f"is an evaluation of {tmp_path}/a/set; name this one: set-2={tmp_path}/b/set" in done.stderr
    # images that were changed are predicted again
    shutil.copy(tmp_path / "b" / "set" / "real" / "000.bmp", tmp_path / "a" / "set" / "real" / "007.bmp")
    done = command("run", str(tmp_path / "a" / "set"), "--out", str(tmp_path))
    assert "has changed since it was evaluated, so it is predicted again" in done.stdout
    assert record_of(tmp_path, "set").n == 5


def test_a_set_that_can_not_be_evaluated_is_no_loss_of_the_others(here: Path, command: Command, tmp_path: Path) -> None:
    write_folder(tmp_path / "soon", per_class=2, seed=13)
    assert command("run", str(tmp_path / "soon"), "--out", str(tmp_path)).returncode == 0
    for file in (tmp_path / "soon").rglob("*.bmp"):
        file.write_bytes(b"no image")
    done = command("run", str(tmp_path / "soon"), "elsewhere", "--out", str(tmp_path))
    assert done.returncode == 1
    why = "none of 4 images counts: 4 could not be read, and the detector has learned from 0"
    assert f"{tmp_path}/soon: {why} (see {tmp_path}/evaluations/soon). All else is evaluated" in done.stderr
    summary = pd.read_csv(tmp_path / "evaluations" / "evaluations.csv")
    assert summary["name"].tolist() == ["elsewhere", "mean", "worst"]
    left = {file.name for file in (tmp_path / "evaluations" / "soon").iterdir() if not file.name.startswith(".")}
    assert left == {"unreadable.csv"}  # and no figures of images that are not there any more
    assert command("run", str(tmp_path / "soon"), "--out", str(tmp_path)).returncode == 2


def test_what_is_wrong_with_any_word_is_said_before_anything_is_predicted(
    here: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "a" / "set", per_class=2, seed=11)
    assert command("run", str(tmp_path / "a" / "set"), "--out", str(tmp_path)).returncode == 0
    shutil.rmtree(EvaluationDir(tmp_path / "evaluations", "set").shards_folder)  # as in a run that came from elsewhere
    monkeypatch.setattr("rfray.inference.shards.load_bundle", lambda *_: 1 / 0)
    done = command("run", "elsewhere", "set=planted", "--out", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"is an evaluation of {tmp_path}/a/set; name this one: set-2={here}/planted" in done.stderr
    done = command("run", "elsewhere", "--out", "s3://bucket/x")
    assert (done.returncode, done.stderr) == (2, "rfray: --out s3://bucket/x: allowed: a folder of this machine\n")


def test_the_images_of_the_claims_are_known_again(here: Path, command: Command, tmp_path: Path) -> None:
    done = command("run/ensemble", "images/test", "elsewhere", "--out", str(tmp_path))
    said = CLAIMED_OF_THESE
    assert done.returncode == 0
    assert done.stdout.count(said) == 1
    assert said in record_of(tmp_path, "test").sentences


def test_a_set_at_an_address_is_the_same(
    here: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("run", "elsewhere", "--out", str(tmp_path))
    with bucket_here() as bucket:
        upload(here / "elsewhere", f"{bucket}/there")
        files = [file.relative_to(here / "elsewhere").as_posix() for file in (here / "elsewhere").rglob("*.bmp")]
        table = pd.DataFrame({"path": files, "label": [file.split("/")[0] for file in files]}).to_csv(index=False)
        (tmp_path / "up").mkdir()
        (tmp_path / "up" / "table.csv").write_text(table)
        upload(tmp_path / "up", f"{bucket}/there")
        done = command("run", f"{bucket}/there", f"{bucket}/there/table.csv", "--out", str(tmp_path))
        assert done.returncode == 0, done.stderr
        upload(here / "run", f"{bucket}/runs/x")
        monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "cache"))
        assert command(f"{bucket}/runs/x", "far=elsewhere").returncode == 0
        sent = {entry.path for entry in Storage(f"{bucket}/runs/x/evaluations").entries()}
    assert {"evaluations.csv", "far/evaluation.json", "far/ensemble-predictions.parquet"} <= sent
    assert not any(one.startswith("far/.") for one in sent)
    local, there, tabled = (
        read_predictions(EvaluationDir(tmp_path / "evaluations", name).predictions_file("ensemble"))
        for name in ("elsewhere", "there", "table")
    )
    for other in (there, tabled):
        assert other.ids.tolist() == local.ids.tolist()
        assert other.p_fake.tolist() == local.p_fake.tolist()
    assert record_of(tmp_path, "there").where == "s3://rfray-test/there"
