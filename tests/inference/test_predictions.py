"""Prediction under corruption on real Ray with real, tiny models: what comes out, and that a stopped one goes on."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rfray import cli
from rfray.commands.prepare_data import prepare_test
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.errors import RfrayError
from rfray.evaluation.ensemble import TEST_COLUMNS, WORST
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.inference import predictions as corrupting
from rfray.inference.missing import without_predictions
from rfray.inference.predictions import predict_test, predict_under_corruption
from rfray.stats.predictions import read_predictions
from rfray.store.run_dir import Part, RunDir
from rfray.store.sealed import write_array
from tests.tuning.test_run_sweep import run_here, sweep_of


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> RunDir:
    """Two trials of different sizes, with predictions of test."""
    folder = tmp_path_factory.mktemp("corrupting")
    sweep = sweep_of(pictures, folder, "search.trials=2", "search.algorithm=grid", "trial.image_size=[32,24]",
                     "trial.augmentation=none", "trial.lr=3e-3", "trial.epochs=2")  # fmt: skip
    run, _ = run_here(sweep, folder)
    prepare_test(run, sweep, Console(file=io.StringIO()))
    predict_test(run, {"test": run.trials()}, lambda: None, Console(file=io.StringIO()))
    return run


def predict(run: RunDir, part: Part = "test") -> str:
    """Predicts under corruption what has not been; what was said."""
    said = io.StringIO()
    if missing := without_predictions(run, run.trials(), part, CORRUPTION_NAMES):
        predict_under_corruption(run, run.trials(), missing, part, lambda: None, Console(file=said, width=200))
    return said.getvalue()


def p_fake(run: RunDir, corruption: str | None) -> np.ndarray:
    return np.stack([read_predictions(trial.predictions_file("test", corruption)).p_fake for trial in run.trials()])


def counted(most: float) -> tuple[Callable[[Path, np.ndarray], None], list[Path]]:
    """`write_array` that is stopped by Ctrl-C after so many files, and the files."""
    written: list[Path] = []

    def write(path: Path, data: np.ndarray) -> None:
        if len(written) >= most:
            raise KeyboardInterrupt
        written.append(path)
        write_array(path, data)

    return write, written


def test_every_trial_is_predicted_under_every_corruption(run: RunDir) -> None:
    assert predict(run) == "Predicting the test images with 2 trials under 13 corruptions\n"
    assert predict(run) == ""
    plain = read_predictions(run.trials()[0].predictions_file("test"))
    for trial in run.trials():
        for corruption in CORRUPTION_NAMES:
            corrupted = read_predictions(trial.predictions_file("test", corruption))
            assert np.array_equal(corrupted.ids, plain.ids)
            assert np.array_equal(corrupted.labels, plain.labels)
    changes = [np.abs(p_fake(run, corruption) - p_fake(run, None)).max(axis=1) for corruption in CORRUPTION_NAMES]
    assert np.min(changes) > 1e-6
    assert not run.corruption_folder("test").exists()
    assert without_predictions(run, run.trials(), "test") == []


def test_stopped_by_ctrl_c_it_goes_on_with_what_is_missing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(run)
    before = {corruption: p_fake(run, corruption) for corruption in CORRUPTION_NAMES}
    for file in run.trials_folder.glob("*/predictions-test-*"):
        file.unlink()
    write, first = counted(most=10)
    monkeypatch.setattr(corrupting, "write_array", write)
    with pytest.raises(KeyboardInterrupt):
        predict(run)
    assert list(run.trials_folder.glob("*/predictions-test-*")) == []
    write, then = counted(most=np.inf)
    monkeypatch.setattr(corrupting, "write_array", write)
    predict(run)
    assert (len(first), len(then), len({*first, *then})) == (10, 22, 32)  # a piece for each of the 32 images
    assert all(np.array_equal(p_fake(run, corruption), values) for corruption, values in before.items())


def test_one_missing_file_is_made_again_the_same(run: RunDir) -> None:
    predict(run)
    before = p_fake(run, "blur_2")
    run.trials()[1].predictions_file("test", "blur_2").unlink()
    assert "with 1 trials" in predict(run)
    assert np.array_equal(p_fake(run, "blur_2"), before)


def test_trials_that_are_too_large_to_share_give_the_same(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(run)
    before = p_fake(run, "jpeg_50")
    for file in run.trials_folder.glob("*/predictions-test-*"):
        file.unlink()
    monkeypatch.setattr(corrupting, "WEIGHTS_BYTES", 1)
    predict(run)
    np.testing.assert_allclose(p_fake(run, "jpeg_50"), before, atol=1e-6)


@pytest.mark.slow
def test_the_command_reports_on_corruption_and_chooses_by_the_worst(run: RunDir) -> None:
    """All is predicted, so it needs no Ray."""
    predict(run)
    predict(run, "val")
    cli.ensemble(run.path, top_k=None, choose_by="worst", corruptions=True, address=None)
    frame = read_leaderboard(run)
    assert list(frame.columns)[-1 - len(TEST_COLUMNS) :] == [WORST, *TEST_COLUMNS]
    frame = frame[frame["kind"] != "baseline"]
    assert frame[[WORST, *TEST_COLUMNS]].notna().all().all()
    assert frame[WORST].is_monotonic_decreasing
    assert (frame["auc_worst_corruption"] == frame[["auc", *TEST_COLUMNS[:-1]]].min(axis=1)).all()
    assert '<h2 id="robustness">Robustness</h2>' in run.report_html.read_text()
    cli.ensemble(run.path, top_k=None, choose_by=None, corruptions=None, address=None)  # as the sweep says: neither
    assert not {WORST, *TEST_COLUMNS} & set(read_leaderboard(run).columns)


def test_images_that_have_changed_are_named(run: RunDir, pictures: Path) -> None:
    predict(run)
    run.trials()[0].predictions_file("test", "jpeg_90").unlink()
    image = pictures / "test" / "fake" / "003.bmp"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"?")
    try:
        with pytest.raises(RfrayError, match=r"corruption by .*: .*fake/003\.bmp has changed since the sweep began"):
            predict(run)
    finally:
        image.write_bytes(content)
    predict(run)
    assert not run.corruption_folder("test").exists()
