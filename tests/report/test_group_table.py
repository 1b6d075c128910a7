"""rfray.report.group_table: the sentence and the cells that people read."""

import numpy as np

from rfray.evaluation.groups import by_group
from rfray.report.group_table import AT_MOST, group_table
from rfray.stats.predictions import Predictions


def table_of(p_fake, labels, names):
    ids = np.arange(len(labels)).astype(str)
    predictions = Predictions(ids, np.array(labels, dtype=np.int8), np.array(p_fake))
    return group_table(by_group(predictions, np.array(names, dtype=object), 0.5))


def test_the_worst_is_named_and_may_be_chance():
    table = table_of([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], ["", "", "easy", "hard"])
    assert table.worst == (
        "Of 3 groups, easy comes off worst: AUC 0.500 (0.004 to 0.996), n = 1. "
        "The AUC of all images, 0.750, is within that interval, so this may be chance."
    )
    assert table.notes == [
        "Where a group has images of one class alone, its AUC compares them with all test images of the other."
    ]
    assert [row[:3] for row in table.rows] == [
        ["easy", "0", "1"],
        ["other", "2", "0"],
        ["hard", "0", "1"],
        ["all images", "2", "2"],
    ]
    missed = "0.000 (0.000 to 0.793)"
    assert table.rows[0][3:] == ["0.500 (0.004 to 0.996)", missed, missed, "", "all real"]
    assert table.rows[1][5] == ""  # no fake, no recall
    assert len(table.columns) == len(table.rows[0])


def test_a_group_that_is_surely_worse():
    generator = np.random.default_rng(0)
    real, easy, hard = generator.uniform(0, 0.6, 200), generator.uniform(0.5, 1, 200), generator.uniform(0, 0.6, 200)
    table = table_of([*real, *easy, *hard], [0] * 200 + [1] * 400, [""] * 200 + ["easy"] * 200 + ["hard"] * 200)
    assert table.worst.startswith("Of 3 groups, hard comes off worst: AUC 0.")
    assert table.worst.endswith("is outside that interval.")


def test_of_many_groups_the_worst_are_shown():
    count = AT_MOST + 5
    names = [f"{number:02d}" for number in range(count)] * 2
    p_fake = [0.5] * count + (np.arange(count) / count).tolist()
    table = table_of(p_fake, [0] * count + [1] * count, names)
    assert [row[0] for row in table.rows[:3]] == ["00", "01", "02"]
    assert len(table.rows) == AT_MOST + 1
    assert table.notes == ["The 30 worst of 35 groups; all are in groups.csv."]
