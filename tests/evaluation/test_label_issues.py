"""rfray.evaluation.label_issues, its sheets, `rfray audit RUN`: which labels a probe doubts, and what is said of it."""

import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from rfray.commands.audit import audit
from rfray.errors import DataError, InputError, RunError
from rfray.evaluation.label_issues import find_label_issues, write_label_issues
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.report.label_sheets import LABEL_SHEETS, TILE, _sheet, draw_label_issues
from rfray.report.page import write_page
from rfray.report.pictures import STYLE, description
from rfray.spec.sweep import DataSettings, HeldOut
from rfray.spec.sweep_file import resolved_text
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.csv_files import read_csv
from rfray.store.files import file_digest, write_whole
from rfray.store.records import TrialResult
from rfray.store.run_dir import RunDir
from tests.audits import leaking_audit
from tests.synthetic import catalog_of, finish_trial, new_run

COUNT = 40
"""Images of each class: 30 in train, 10 in val."""
# of the real ones one of each part looks fake, of the fakes one looks real
WRONG = {"real/3.png": 0.97, "real/35.png": 0.95, "fake/=4.png": 0.02}


def judged(names: list[str]) -> Predictions:
    labels = np.array([name.startswith("fake") for name in names]).astype(np.int8)
    sure = np.where(labels == 1, 0.9, 0.1)
    p_fake = np.array([WRONG.get(name, one) for name, one in zip(names, sure, strict=True)])
    return Predictions(np.array(names), labels, p_fake)


def add_probe(run: RunDir, name: str, train: Predictions, val: Predictions) -> None:
    out = run.trial(name)
    files = {out.out_of_fold_file: train, out.predictions_file("val"): val}
    for file, predictions in files.items():
        write_predictions(file, predictions, {})
    trial = finish_trial(run, "one", 0.9, val).start().trial
    fields = {
        "position": 0,
        "kind": "probe",
        "status": "ok",
        "metric": "auc",
        "score": 0.9,
        "epochs": 0,
        "seconds": 1.0,
    }
    digests = {file.name: file_digest(file) for file in files}
    run.write_result(out, TrialResult(id=name, trial=trial, node="here", files=digests, **fields))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("labels")
    names, rows = {"train": [], "val": []}, []
    for kind in ("real", "fake"):
        (folder / "images" / kind).mkdir(parents=True)
        for number in range(COUNT):
            name = f"{kind}/{'=' if kind == 'fake' else ''}{number}.png"
            Image.new("RGB", (24, 16), (6 * number, 90, 200)).save(folder / "images" / name)
            part = "train" if number < 30 else "val"
            names[part].append(name)
            rows.append((name, part, int(kind == "fake"), file_digest(folder / "images" / name)))
    run = new_run(folder / "run")
    settings = DataSettings(train=str(folder / "images"), test=0.2)
    write_whole(run.sweep_file, resolved_text(run.sweep().model_copy(update={"data": settings})))
    table = pd.DataFrame(rows, columns=["path", "part", "label", "digest"]).assign(folder="train", width=24, height=16)
    run.write_catalog(catalog_of(**table.to_dict("list")))
    run.write_vouched(run.audit_file, leaking_audit().model_copy(update={"findings": ()}))
    train, val = (judged(names[part]) for part in ("train", "val"))
    guessing = [Predictions(one.ids, one.labels, np.full(len(one), 0.5)) for one in (train, val)]
    add_probe(run, "probe-aaaaaa", *guessing)
    add_probe(run, "probe-bbbbbb", train, val)
    return run


def test_the_best_probe_says_which_labels_look_wrong(run: RunDir) -> None:
    issues = write_label_issues(run)
    assert issues is not None
    assert (issues.judge, issues.images, issues.training_images) == ("probe-bbbbbb", 80, 80)
    # the means are (38 x 0.9 + 0.08) / 40 and (39 x 0.9 + 0.02) / 40: all but the wrong ones count for their own class
    assert issues.expected == pytest.approx((2, 1))
    # of 1,600 pairs 39 x 38 are in the right order: AUC 0.926
    assert issues.sentence.startswith("Up to 3 labels may be wrong (2 of images labelled real, 1 labelled fake)")
    assert "on all 80 training images" in issues.sentence
    assert "(AUC 0.926); so weak a judge doubts many labels that are right" in issues.sentence
    assert replace(issues, auc=0.99).sentence.startswith("About 3 labels")
    assert replace(issues, table=issues.table.iloc[:0]).sentence.startswith("No label looks wrong to the probe of")
    table = read_csv(run.label_issues_csv)
    assert table["path"].tolist() == ["fake/=4.png", "real/3.png", "real/35.png"]
    assert table["part"].tolist() == ["train", "train", "val"]
    assert table["label"].tolist() == [1, 0, 0]
    assert table["self_confidence"].tolist() == pytest.approx([0.02, 0.03, 0.05])
    assert table["margin"].tolist() == pytest.approx([0.96, 0.94, 0.9])
    assert set(table["folder"]) == {"train"}
    assert run.not_vouched(run.label_issues_csv) == []


def test_images_of_sources_that_are_held_out_are_not_doubted(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = run.sweep()
    held_out = sweep.data.model_copy(update={"val": HeldOut(groups=["cam"])})
    monkeypatch.setattr(RunDir, "sweep", lambda _: sweep.model_copy(update={"data": held_out}))
    issues = find_label_issues(run)
    assert issues is not None
    assert issues.table["path"].tolist() == ["fake/=4.png", "real/3.png"]
    assert "on 60 of 80 training images" in issues.sentence


def test_a_sheet_of_each_class(run: RunDir) -> None:
    real, fake = draw_label_issues(run, run.sweep(), find_label_issues(run))
    assert [file.name for file in (real, fake)] == list(LABEL_SHEETS)
    assert "Labelled real, and not believed: all 2, the least believed first" in description(real)
    with Image.open(fake) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (np.abs(pixels.astype(int) - (24, 90, 200)).max(axis=1) < 3).sum() > 100 * 100  # the image is on it
    assert draw_label_issues(run, run.sweep(), None) == []
    assert not real.exists()


def test_no_name_below_an_image_runs_into_the_next_one() -> None:
    wide = pd.DataFrame({"path": [f"real/WWWWWWWW_MMMMMMMM_{n}.jpg" for n in range(2)], "p_fake": [0.9, 0.8]})
    with mpl.rc_context(STYLE):
        figure, _ = _sheet("real", wide, [np.zeros((TILE, TILE, 3), np.uint8)] * 2)
        renderer = FigureCanvasAgg(figure).get_renderer()
        title, first, second = (text.get_window_extent(renderer) for text in figure.texts)
    assert first.x1 < second.x0
    assert first.width > TILE / 2
    assert title.y0 > first.y1


def test_the_page_shows_them(run: RunDir) -> None:
    draw_label_issues(run, run.sweep(), find_label_issues(run))
    write_leaderboard(run)
    write_page(run)
    text = run.report_html.read_text(encoding="utf-8")
    assert '<h2 id="labels">Labels that look wrong</h2>' in text
    assert "Up to 3 labels may be wrong" in text
    assert 'alt="Contact sheet. Labelled fake, and not believed: all 1, the least believed first"' in text


def printed(source: str, *overrides: str) -> str:
    output = io.StringIO()
    audit(source, None, overrides, Console(file=output, width=160, highlight=False))
    return output.getvalue()


def test_rfray_audit_of_a_run_lists_them(run: RunDir) -> None:
    text = printed(str(run.path))
    assert "Up to 3 labels may be wrong" in text
    assert "│ fake/=4.png │ fake  │  0.020 │ train │" in text
    assert "Nothing was found that would mislead." in text
    for file in ("label-issues.csv", *(f"plots/{name}" for name in LABEL_SHEETS)):
        assert file in text
    with pytest.raises(InputError, match=r"--set: .* is a run; allowed with a sweep file or a folder of images"):
        printed(str(run.path), "seed=3")


def test_without_the_images_the_list_stays(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise DataError("images/real/3.png is gone")

    monkeypatch.setattr("rfray.report.label_sheets.picture_files", gone)
    assert "The labels that look wrong are not drawn: images/real/3.png is gone" in printed(str(run.path))


def test_without_a_probe_none_are_doubted(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with pytest.raises(RunError, match="yet; `rfray tune` makes it"):
        printed(str(run.path))
    run.write_vouched(run.audit_file, leaking_audit().model_copy(update={"findings": ()}))
    text = printed(str(run.path))
    assert "No probe has judged the labels" in text
    assert "on sources that it has not seen is not known: no backbone was probed (search.probe)." in text
    assert not run.label_issues_csv.exists()


def test_a_list_that_can_not_be_used_is_refused_before_any_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{name: s, data: {source: demo}, trial: {backbone: resnet18}}")
    monkeypatch.setattr("rfray.commands.audit.prepare_training", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match="no such file"):
        printed(str(sweep), "data.leave_out=none.csv")
    with pytest.raises(DataError, match="no such file"):
        printed(str(sweep), "data.attributes=none.csv")
    assert not (tmp_path / "runs").exists()
