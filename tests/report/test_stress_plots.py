"""rfray.report.stress_plots: a picture where there was stress, and the sentence of what hurts most."""

import pytest
from PIL import Image

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import read_leaderboard, write_leaderboard
from rfray.evaluation.predictions import write_predictions
from rfray.evaluation.robustness import FAMILIES, STRESS_NAMES, write_stressed_votes
from rfray.report.page import write_page
from rfray.report.stress_plots import AXES, STRESS, write_stress_plot
from rfray.report.stress_words import WORDS, stress_alt, stress_sentence
from tests.synthetic import FIRST, REVERSED, SECOND, predictions, small_run, stress_trial


@pytest.fixture
def run(tmp_path):
    run = small_run(tmp_path / "run")
    stress_trial(run.trial("001"), "report", FIRST, scale_50=SECOND)
    stress_trial(run.trial("002"), "report", SECOND, noise_20=REVERSED)
    board(run, report=True)
    return run


def board(run, *, report):
    write_stressed_votes(run, write_ensemble(run, choose_members(run, 2)), select=False, report=report)
    return write_leaderboard(run)


def test_the_picture_comes_and_goes_with_the_stress(run):
    assert write_stress_plot(run) == run.plots_folder / STRESS
    with Image.open(run.plots_folder / STRESS) as image:
        assert image.format == "PNG"
        assert min(image.size) > 800
    board(run, report=False)
    assert write_stress_plot(run) is None
    assert not (run.plots_folder / STRESS).exists()


def test_what_hurts_most_is_named(run):
    frame = read_leaderboard(run)
    assert stress_sentence(frame, "ensemble") == (
        "What hurts the ensemble most is noise of 20 (of 255): its AUC falls from 1.0000 to 0.1111."
    )
    assert stress_sentence(frame, "001") == (
        "No stress lowers the AUC of the ensemble, 0.7778; the least, 0.7778, is under JPEG of quality 90."
    )
    assert stress_alt(frame, ["ensemble", "002"]).endswith(
        "ensemble 1.0000, at worst 0.1111; 002 0.9444, at worst 0.0000"
    )


def test_an_undefined_auc_is_said_and_drawn(run):
    for trial, stress in ((trial, stress) for trial in ("001", "002") for stress in (None, *STRESS_NAMES)):
        write_predictions(run.trial(trial).predictions_file("report", stress), predictions([0.5, 0.6], [0, 0]), {})
    frame = board(run, report=True)
    assert stress_sentence(frame, "ensemble") == "The AUC of the ensemble under stress is undefined."
    assert "001 undefined, at worst undefined" in stress_alt(frame, ["001"])
    assert write_stress_plot(run) is not None


def test_the_page_has_a_section_of_it(run):
    write_stress_plot(run)
    write_page(run)
    html = run.report_html.read_text()
    assert '<h2 id="robustness">Robustness</h2>' in html
    assert "What hurts the ensemble most is noise of 20" in html
    assert 'alt="AUC on the report part as it is and under JPEG, scaling, blur and noise: ensemble 1.0000' in html
    assert ">auc_noise_20</button>" in html
    board(run, report=False)
    write_stress_plot(run)
    write_page(run)
    assert "Robustness" not in run.report_html.read_text()


def test_every_family_has_its_words():
    assert list(AXES) == list(WORDS) == list(FAMILIES)
