"""evaluations.csv by hand: the mean and the worst of each figure, and no interval of them."""

import numpy as np
import pytest

from rfray.evaluation.evaluations import summary_of
from rfray.store.evaluation_dir import EvaluationRecord

FIGURES = {
    "first": {"auc": 0.9, "auc_low": 0.8, "auc_high": 0.95, "fpr": 0.2, "threshold": 0.5, "n_groups": 9, "tn": 8},
    "second": {"auc": 0.7, "auc_low": 0.4, "auc_high": 0.85, "fpr": 0.3, "threshold": 0.5, "n_groups": 10, "tn": 7},
}


def test_mean_and_worst_have_no_ends_of_intervals() -> None:
    counts = {"n": 20, "real": 10, "fake": 10, "unreadable": 0, "exact": 0, "alike": 0}
    rest = {"bundle": "0" * 64, "claimed": {}, "comparisons": {}, "best": None, "sentences": []}
    records = [
        EvaluationRecord.model_validate({"name": name, "where": f"/{name}", **counts, "figures": figures, **rest})
        for name, figures in FIGURES.items()
    ]
    table = summary_of(records).set_index("name")
    assert list(table.index) == ["first", "second", "mean", "worst"]
    assert table["n_groups"].iloc[:2].tolist() == [9, 10]
    assert table.loc["mean", ["auc", "fpr"]].tolist() == pytest.approx([0.8, 0.25])
    assert table.loc["worst", ["auc", "fpr"]].tolist() == [0.7, 0.3]
    assert table.loc[["mean", "worst"], ["auc_low", "auc_high", "threshold"]].isna().all(axis=None)
    assert np.isnan(table.loc["first", "accuracy"])
