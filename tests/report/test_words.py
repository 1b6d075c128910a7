"""rfray.report.words: the sentences and cells that people read; the plot and the section of the page on corruption."""

import numpy as np
import pytest
from PIL import Image

from rfray.data.corruptions import CORRUPTION_NAMES, FAMILIES
from rfray.evaluation.ensemble import choose_members, write_corrupted_votes, write_ensemble
from rfray.evaluation.groups import by_group
from rfray.evaluation.leaderboard import read_leaderboard, write_leaderboard
from rfray.report.page import write_page
from rfray.report.pictures import description
from rfray.report.plots import CORRUPTION, STRENGTH_TITLES, write_plots
from rfray.report.words import CORRUPTED, GROUPS_SHOWN, corruption_sentence, group_rows, group_sentence
from rfray.stats.predictions import Predictions, write_predictions
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
    assert corruption_sentence(board(run, test=False), "ensemble") is None
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
    assert "001 undefined, at worst undefined" in description(run.plots_folder / CORRUPTION)


def test_where_all_aucs_are_the_same_the_worst_group_is_the_worst_by_accuracy():
    given = predictions([0.1, 0.2, 0.3, 0.4, 0.8, 0.9], [0, 0, 0, 1, 1, 1])  # all pairs in the right order
    said = group_sentence(by_group(given, np.array(list("aabaab"), dtype=object), 0.5))
    assert said.startswith("Of 2 groups, a comes off worst: accuracy 0.750 (")  # 0.4 is a fake called real
    alike = group_sentence(by_group(given, np.array(list("aabaab"), dtype=object), 0.35))
    assert alike == "Of 2 groups none comes off worse: accuracy 1.000 in each."


def test_no_group_comes_off_worst_with_an_auc_that_reads_as_perfect():
    """a has one wrong pair of 2,500 (AUC 0.9996) and 2 wrong calls; b has no wrong pair, but 10 wrong calls."""
    labels = np.tile(np.repeat([0, 1], 50), 2)
    a = np.r_[np.full(49, 0.1), 0.62, 0.61, np.full(49, 0.9)]
    b = np.r_[np.full(40, 0.1), np.full(10, 0.65), np.full(50, 0.9)]
    groups = by_group(Predictions(np.arange(200).astype(str), labels, np.r_[a, b]), np.repeat(["a", "b"], 100), 0.615)
    assert groups.table.set_index("group")["auc"].to_dict() == {"a": 0.9996, "b": 1.0}
    assert group_sentence(groups).startswith("Of 2 groups, b comes off worst: accuracy 0.900 (")


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
    assert list(STRENGTH_TITLES) == list(CORRUPTED) == list(FAMILIES)


def groups_of(p_fake, labels, names):
    ids = np.arange(len(labels)).astype(str)
    given = Predictions(ids, np.array(labels, dtype=np.int8), np.array(p_fake))
    return by_group(given, np.array(names, dtype=object), 0.5)


def test_the_worst_group_is_named_and_may_be_chance():
    groups = groups_of([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], ["", "", "easy", "hard"])
    assert group_sentence(groups) == (
        "Of 3 groups, easy comes off worst: AUC 0.500 (0.004 to 0.996), n = 1. "
        "The AUC of all images, 0.750, is within that interval, so this may be chance."
    )
    columns, rows = group_rows(groups)
    assert [row[:3] for row in rows] == [
        ["easy", "0", "1"],
        ["other", "2", "0"],
        ["hard", "0", "1"],
        ["all images", "2", "2"],
    ]
    missed = "0.000 (0.000 to 0.793)"
    assert rows[0][3:] == ["0.500 (0.004 to 0.996)", missed, missed, "", "all real"]
    assert rows[1][5] == ""  # no fake, no recall
    assert len(columns) == len(rows[0])


def test_a_group_that_is_surely_worse():
    generator = np.random.default_rng(0)
    real, easy, hard = generator.uniform(0, 0.6, 200), generator.uniform(0.5, 1, 200), generator.uniform(0, 0.6, 200)
    names = [""] * 200 + ["easy"] * 200 + ["hard"] * 200
    sentence = group_sentence(groups_of([*real, *easy, *hard], [0] * 200 + [1] * 400, names))
    assert sentence.startswith("Of 3 groups, hard comes off worst: AUC 0.")
    assert sentence.endswith("is outside that interval.")


def test_of_many_groups_the_worst_are_shown():
    count = GROUPS_SHOWN + 5
    names = [f"{number:02d}" for number in range(count)] * 2
    p_fake = [0.5] * count + (np.arange(count) / count).tolist()
    _, rows = group_rows(groups_of(p_fake, [0] * count + [1] * count, names))
    assert [row[0] for row in rows[:3]] == ["00", "01", "02"]
    assert len(rows) == GROUPS_SHOWN + 1
