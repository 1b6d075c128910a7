"""rfray.models.verdicts: worked out by hand."""

import numpy as np

from rfray.models.verdicts import verdict_table, verdicts
from rfray.store.bundle_record import Vote


def vote(**changes):
    fields = {"name": "ensemble", "members": ["a", "b"], "weights": [0.75, 0.25], "temperatures": [1.0, 1.0]}
    return Vote(**{**fields, "threshold": 0.5, "val_score": None, **changes})


def test_from_the_threshold_on_it_is_fake():
    assert verdicts(vote(), np.array([0.0, 0.4999, 0.5, 1.0, np.nan])).tolist() == ["real", "real", "fake", "fake", ""]


def test_within_the_band_it_is_unsure():
    said = verdicts(vote(unsure=(0.4, 0.6)), np.array([0.39, 0.4, 0.5, 0.59, 0.6]))
    assert said.tolist() == ["real", "unsure", "unsure", "unsure", "fake"]
    assert verdicts(vote(unsure=(0.5, 0.5)), np.array([0.4, 0.5])).tolist() == ["real", "fake"]


def test_a_row_a_file_and_a_reason_instead_of_numbers():
    scores = np.array([[0.4, np.nan, 1.0], [0.8, np.nan, 0.2]])
    table = verdict_table(vote(), ["x.jpg", "y.jpg", "z.jpg"], scores, ["", "truncated", ""])
    assert list(table.columns) == ["path", "p_fake", "verdict", "a", "b", "reason"]
    np.testing.assert_allclose(table["p_fake"], [0.5, np.nan, 0.8], atol=1e-15)  # 0.3 + 0.2; 0.75 + 0.05
    assert table["verdict"].tolist() == ["fake", "", "fake"]
    np.testing.assert_array_equal(table["b"], [0.8, np.nan, 0.2])
    assert table["reason"].tolist() == ["", "truncated", ""]


def test_nothing_could_be_read():
    table = verdict_table(vote(), ["x.jpg"], np.full((2, 1), np.nan), ["gone"])
    assert table["p_fake"].isna().all()
    assert table["verdict"].tolist() == [""]
