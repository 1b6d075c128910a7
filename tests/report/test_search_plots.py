"""rfray.report.search_plots: which pictures there are and what is said of them; what they look like was looked at."""

import numpy as np
import pytest
from PIL import Image

from rfray.evaluation.search_findings import search_findings
from rfray.report.pictures import description
from rfray.report.search_plots import write_search_plots
from rfray.store.run_dir import RunDir
from tests.synthetic import fail_trial, finish_trial, new_run, start_trial

EVERY = {"best-so-far.png", "importance.png", "parallel-coordinates.png"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """Twenty trials that differ in seven things and score by one of them."""
    run = new_run(
        tmp_path_factory.mktemp("search") / "run",
        **{name: {"uniform": [0, 0.5]} for name in ("weight_decay", "drop_rate", "drop_path", "mixup")},
        image_size=[64, 96, 128],
    )
    random = np.random.default_rng(0)
    for number in range(20):
        exponent = random.uniform(-5, -3)
        shares = {name: float(random.uniform(0, 0.5)) for name in ("weight_decay", "drop_rate", "drop_path", "mixup")}
        finish_trial(run, f"{number:02d}", 1 + exponent / 10, lr=10**exponent, image_size=96, **shares)
    return run


def names(run):
    return {file.name for file in run.plots_folder.iterdir()}


def test_one_picture_of_each_kind(run):
    written = write_search_plots(run, search_findings(run))
    assert {file.name for file in written} == names(run) == EVERY
    for file in written:
        with Image.open(file) as image:
            image.verify()
            assert image.format == "PNG"
            assert min(image.size) > 400
        assert file.stat().st_size < 120_000


def test_what_is_said_of_them(run):
    found = search_findings(run)
    alts = {file.name: description(file) for file in write_search_plots(run, found)}
    first, last = found.steps.iloc[0], found.steps.iloc[-1]
    assert f"{first['best']:.4f} after 1.5 slot-seconds" in alts["best-so-far.png"]
    assert f"{last['best']:.4f} after {last['spent']:g} of 60" in alts["best-so-far.png"]
    assert "functional ANOVA" in alts["importance.png"]
    assert ": lr " in alts["importance.png"]
    best = found.study.best_trial.user_attrs["id"]
    assert f"the best is {best} with backbone test_resnet, " in alts["parallel-coordinates.png"]
    assert "image_size 96" in alts["parallel-coordinates.png"]


def test_pictures_that_are_no_longer_true_go(tmp_path):
    run = new_run(tmp_path / "run")
    for name in EVERY | {"my-own.png"}:
        run.plots_folder.mkdir(exist_ok=True)
        (run.plots_folder / name).write_bytes(b"old")
    finish_trial(run, "a", 0.7)
    write_search_plots(run, search_findings(run))
    assert names(run) == {"best-so-far.png", "parallel-coordinates.png", "my-own.png"}


@pytest.mark.parametrize("make", [lambda run: fail_trial(run, "a", "boom"), lambda run: start_trial(run, "a")])
def test_without_a_score_there_is_no_picture(tmp_path, make):
    run = new_run(tmp_path / "run")
    make(run)
    assert write_search_plots(run, search_findings(run)) == []


def test_one_setting_and_strange_names_can_be_drawn(tmp_path):
    run = new_run(tmp_path / "run", backbone="test_resnet", lr=1e-4)
    finish_trial(run, "costs-5.or.x_", 0.7, trained=1)
    assert [file.name for file in write_search_plots(run, search_findings(run))] == ["best-so-far.png"]
    several = new_run(tmp_path / "several", pretrained=[True, "/a/folder/with $5 in/" + "long-" * 30 + ".safetensors"])
    for name, score in (("a_b", 0.5), ("b", 0.5)):
        finish_trial(several, name, score)
    assert len(write_search_plots(several, search_findings(several))) == 2
