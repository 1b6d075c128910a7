"""rfray.report.corruption_words: the sentence of what hurts most; the plot and the section of the page about it."""

import pytest
from PIL import Image

from rfray.data.corruptions import CORRUPTION_NAMES, FAMILIES
from rfray.evaluation.ensemble import choose_members, write_corrupted_votes, write_ensemble
from rfray.evaluation.leaderboard import read_leaderboard, write_leaderboard
from rfray.report.corruption_words import WORDS, corruption_sentence
from rfray.report.page import write_page
from rfray.report.pictures import picture_of
from rfray.report.plots import CORRUPTION, STRENGTHS, write_plots
from rfray.stats.predictions import write_predictions
from tests.synthetic import FIRST, REVERSED, SECOND, corruption_trial, predictions, small_run


@pytest.fixture
def run(tmp_path):
    run = small_run(tmp_path / "run")
    corruption_trial(run.trial("001"), "test", FIRST, scale_50=SECOND)
    corruption_trial(run.trial("002"), "test", SECOND, noise_20=REVERSED)
    board(run, test=True)
    return run


def board(run, *, test):
    write_corrupted_votes(run, write_ensemble(run, choose_members(run, 2)), val=False, test=test)
    return write_leaderboard(run)


def test_the_picture_comes_and_goes_with_the_corruption(run):
    assert run.plots_folder / CORRUPTION in write_plots(run)
    with Image.open(run.plots_folder / CORRUPTION) as image:
        assert image.format == "PNG"
        assert min(image.size) > 800
    board(run, test=False)
    write_plots(run)
    assert not (run.plots_folder / CORRUPTION).exists()


def test_what_hurts_most_is_named(run):
    frame = read_leaderboard(run)
    assert corruption_sentence(frame, "ensemble") == (
        "What hurts the ensemble most is noise of 20 (of 255): its AUC falls from 1.0000 to 0.1111."
    )
    assert corruption_sentence(frame, "001") == (
        "No corruption lowers the AUC of the ensemble, 0.7778; the least, 0.7778, is under JPEG of quality 90."
    )


def test_an_undefined_auc_is_said_and_drawn(run):
    for trial, corruption in (
        (trial, corruption) for trial in ("001", "002") for corruption in (None, *CORRUPTION_NAMES)
    ):
        write_predictions(run.trial(trial).predictions_file("test", corruption), predictions([0.5, 0.6], [0, 0]), {})
    frame = board(run, test=True)
    assert corruption_sentence(frame, "ensemble") == "The AUC of the ensemble under corruption is undefined."
    write_plots(run)
    assert "001 undefined, at worst undefined" in picture_of(run.plots_folder / CORRUPTION).alt


def test_the_page_has_a_section_of_it(run):
    write_plots(run)
    write_page(run)
    html = run.report_html.read_text()
    assert '<h2 id="robustness">Robustness</h2>' in html
    assert "What hurts the ensemble most is noise of 20" in html
    assert 'alt="AUC on the test images as they are and under JPEG, scaling, blur and noise: ensemble 1.0000' in html
    assert ">auc_noise_20</button>" in html
    board(run, test=False)
    write_plots(run)
    write_page(run)
    assert "Robustness" not in run.report_html.read_text()


def test_every_family_has_its_words():
    assert list(STRENGTHS) == list(WORDS) == list(FAMILIES)
