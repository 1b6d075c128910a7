"""rfray.report.plots: which pictures there are; what they look like was looked at."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rfray.data.corruptions import FAMILIES
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.report.plots import corruption_curves, write_plots
from tests.synthetic import FIRST, finish_trial, new_run, predictions, small_run


@pytest.fixture
def run(tmp_path):
    run = small_run(tmp_path / "run")
    vote(run, 2)
    return run


def vote(run, top_k, methods=()):
    ensemble = write_ensemble(run, choose_members(run, top_k), methods)
    write_leaderboard(run)
    return ensemble


def pictures(run):
    return {file.name for file in run.plots_folder.iterdir()}


EVERY = {"roc.png", "precision-recall.png", "scores.png", "reliability.png", "history.png"} | {
    f"confusion-{name}.png" for name in ("ensemble", "001", "002")
}


def test_one_picture_of_each_kind(run):
    written = write_plots(run)
    assert {file.name for file in written} == pictures(run) == EVERY
    for file in written:
        with Image.open(file) as image:
            image.verify()
            assert image.format == "PNG"
            assert min(image.size) > 400


def test_pictures_of_former_members_go_and_other_files_stay(run):
    write_plots(run)
    own = run.plots_folder / "my-own.png"
    own.write_bytes(b"mine")
    vote(run, 1)
    write_plots(run)
    assert pictures(run) == (EVERY - {"confusion-002.png"}) | {"my-own.png"}


def test_the_vote_handed_over_is_drawn(run):
    vote(run, 2, ["weighted", "soft"])
    write_plots(run)
    assert pictures(run) == (EVERY - {"confusion-ensemble.png"}) | {"confusion-ensemble-weighted.png"}


def test_without_an_ensemble_there_is_the_history_only(tmp_path):
    run = new_run(tmp_path / "run")
    assert write_plots(run) == []
    finish_trial(run, "a", 0.7)
    assert [file.name for file in write_plots(run)] == ["history.png"]


def test_one_class_and_strange_names_can_be_drawn(tmp_path):
    run = new_run(tmp_path / "run")
    real_only = predictions([0.1, 0.7], [0, 0])
    for trial_id in ("costs-5.or.x_", "0_private", "long-" * 30):
        finish_trial(run, trial_id, 0.7, predictions(FIRST), real_only)
    vote(run, 3)
    assert len(write_plots(run)) == 9


@pytest.mark.slow
def test_twenty_four_members_and_a_band_without_a_verdict_make_small_pictures(tmp_path):
    run = new_run(tmp_path / "run")
    random = np.random.default_rng(0)
    labels = [0, 1] * 200
    for number in range(24):
        report = predictions(np.clip(random.normal(labels, 1) / 4 + 0.4, 0, 1), labels)
        finish_trial(run, f"{number:05d}-" + "long-" * 9, 0.7, report, report)
    ensemble = vote(run, 24)
    run.write_vouched(run.ensemble_file, ensemble.model_copy(update={"unsure": (0.4, 0.6)}))
    assert all(file.stat().st_size < 120_000 for file in write_plots(run))


def test_every_panel_of_the_corruptions_names_its_own_strengths() -> None:
    columns = ["auc", *(f"auc_{family}_{strength}" for family, strengths in FAMILIES.items() for strength in strengths)]
    rows = pd.DataFrame(0.7, index=["ensemble"], columns=[*columns, "auc_worst_corruption"])
    figure, _ = corruption_curves(rows, {"ensemble": {"color": "black"}})
    figure.canvas.draw()
    for panel, strengths in zip(figure.axes, FAMILIES.values(), strict=True):
        shown = [label.get_text() for label in panel.get_xticklabels() if label.get_visible()]
        assert shown == ["as it is", *map(str, strengths)]
        assert all(tick.label1.get_visible() for tick in panel.xaxis.get_major_ticks())
