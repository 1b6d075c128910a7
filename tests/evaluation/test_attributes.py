"""rfray.evaluation.attributes: who comes off worse, counted by hand and tested by scipy; what is said of it."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from rfray.evaluation.attributes import TESTED_COLUMNS, AttributeGroups, attribute_groups, by_attribute, comparisons
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.groups import GROUP_COLUMNS, write_groups
from rfray.spec.sweep_file import resolved_text
from rfray.stats.intervals import wilson
from rfray.stats.predictions import Predictions
from rfray.store.csv_files import read_csv
from rfray.store.files import write_whole
from tests.synthetic import catalog_of, finish_trial, new_run

# 25 dark faces, of which 5 are called fake; 175 light ones, of which 4 are; 50, 100, 50 fakes of three generators, of
# which 10, 0 and 4 are missed
SKIN = ["dark"] * 25 + ["light"] * 175 + [""] * 200
GENERATOR = [""] * 200 + ["a"] * 50 + ["b"] * 100 + ["c"] * 50
LABELS = np.repeat([0, 1], 200).astype(np.int8)
WRONG = np.r_[np.arange(5), np.arange(30, 34), np.arange(200, 210), np.arange(350, 354)]


@pytest.fixture(scope="module")
def given() -> Predictions:
    p_fake = np.where(LABELS == 1, 0.8, 0.2)
    p_fake[WRONG] = 1 - p_fake[WRONG]
    names = [f"{'fake' if label else 'real'}/{number}.jpg" for number, label in enumerate(LABELS)]
    return Predictions(np.array(names), LABELS, p_fake)


@pytest.fixture(scope="module")
def found(given: Predictions) -> AttributeGroups:
    return by_attribute(given, pd.DataFrame({"skin": SKIN, "generator": GENERATOR}), 0.5)


def test_each_value_against_the_others(found: AttributeGroups) -> None:
    skin, generator = (found.groups[name].table.set_index("group") for name in ("skin", "generator"))
    assert list(found.groups["skin"].table) == [*GROUP_COLUMNS, *TESTED_COLUMNS]
    dark = skin.loc["dark"]
    assert dark[["n", "real", "fake", "auc_against"]].tolist() == [25, 25, 0, "all fake"]
    assert dark["false_positive_rate"] == 5 / 25
    assert dark[["false_positive_rate_low", "false_positive_rate_high"]].tolist() == wilson(5, 25).tolist()
    assert dark["false_positive_rate_others"] == 4 / 175
    assert skin.loc["light", "false_positive_rate_others"] == 5 / 25
    assert skin[["recall", "recall_others", "recall_p"]].isna().all(axis=None)
    assert generator["recall"].to_dict() == {"a": 40 / 50, "b": 1, "c": 46 / 50}
    assert generator["recall_others"].to_dict() == {"a": 146 / 150, "b": 86 / 100, "c": 140 / 150}
    assert generator["false_positive_rate_p"].isna().all()


def test_p_values_are_fishers_and_holms_over_all_attributes(found: AttributeGroups) -> None:
    tables = {
        "dark": [[5, 20], [4, 171]],  # and light against dark is the same comparison
        "a": [[10, 40], [4, 146]],
        "b": [[0, 100], [14, 86]],
        "c": [[4, 46], [10, 140]],
    }
    raw = {name: fisher_exact(table).pvalue for name, table in tables.items()}
    expected, least = {}, 0.0
    for number, name in enumerate(sorted(raw, key=raw.get)):
        least = max(least, min(1, raw[name] * (4 - number)))
        expected[name] = least
    skin, generator = (found.groups[name].table.set_index("group") for name in ("skin", "generator"))
    assert found.comparisons == 4
    assert skin["false_positive_rate_p"].to_dict() == pytest.approx(
        {"dark": expected["dark"], "light": expected["dark"]}
    )
    assert generator["recall_p"].to_dict() == pytest.approx({name: expected[name] for name in "abc"})


def test_the_worst_value_in_a_sentence(found: AttributeGroups) -> None:
    (skin,) = found.of("skin")
    assert (skin.value, skin.errors, skin.other_errors, skin.lowest) == ("dark", (5, 25), (4, 175), None)
    assert skin.sentence == (
        "Real images with skin=dark are called fake in 20.0% (8.9% to 39.1%, n = 25), the others in 2.3% (n = 175): a "
        "difference that is more than chance explains "
        f"(p = {skin.p:.2g}, Fisher's exact test, corrected for the 4 comparisons made)."
    )
    (generator,) = found.of("generator")
    assert (generator.value, generator.errors, generator.lowest) == ("a", (10, 50), ("b", 0.0))
    assert generator.sentence.startswith("Fakes with generator=a are missed in 20.0% (11.2% to 33.0%, n = 50), the oth")
    assert generator.sentence.endswith("; the lowest is 0.0% (generator=b).")
    assert found.summary == [gap.sentence for gap in sorted((skin, generator), key=lambda gap: gap.p)]


def test_what_may_be_chance_is_no_finding(given: Predictions) -> None:
    parity = by_attribute(given, pd.DataFrame({"parity": ["even", "odd"] * 200}), 0.5)
    assert parity.comparisons == 2
    assert all("may be chance" in gap.sentence for gap in parity.of("parity"))
    (said,) = parity.summary
    assert said.startswith("By parity: no value comes off so much worse")
    nothing = by_attribute(given, pd.DataFrame({"name": [f"n{number}" for number in range(400)]}), 0.5)
    assert (nothing.groups, nothing.gaps, nothing.summary) == ({}, [], [])
    assert nothing.notes == ["attribute name: 400 different values in 400 images, so no groups"]


def test_chance_alone_is_seldom_called_a_finding() -> None:
    """Of 100 tables of two attributes that mean nothing, at most 5 % (and what chance adds) have a proven gap."""
    draw, labels, false_alarms = np.random.default_rng(0), np.repeat([0, 1], 60), 0
    for _ in range(100):
        called = np.where(draw.random(120) < 0.2, 1 - labels, labels) == 1
        table = pd.DataFrame({name: draw.choice(list("xyz"), 120) for name in "ab"})
        false_alarms += bool((comparisons(labels, called, table)["p"] < 0.05).any())
    assert false_alarms <= 100 * 0.05 + 3 * np.sqrt(100 * 0.05 * 0.95)


def test_images_that_belong_together_are_no_further_evidence(given: Predictions) -> None:
    """Every image twice is as much evidence as once; and copies of an attribute that means nothing raise no alarm."""
    twice = Predictions(np.r_[given.ids, given.ids], np.r_[LABELS, LABELS], np.r_[given.p_fake, given.p_fake])
    table, together = pd.DataFrame({"skin": SKIN * 2}), np.r_[np.arange(400), np.arange(400)]
    once, known = by_attribute(given, table.iloc[:400], 0.5), by_attribute(twice, table, 0.5, together)
    assert known.gaps[0].p == pytest.approx(once.gaps[0].p, rel=0.5)
    assert by_attribute(twice, table, 0.5).gaps[0].p < once.gaps[0].p / 20
    draw, labels, alarms = np.random.default_rng(0), np.zeros(240, int), np.zeros(2)
    together = np.repeat(np.arange(40), 6)
    for _ in range(100):
        called = (draw.random(40) < 0.3)[together]
        table = pd.DataFrame({"a": draw.choice(list("xy"), 40)[together]})
        alarms += [(comparisons(labels, called, table, one)["p"] < 0.05).any() for one in (together, None)]
    assert alarms[0] <= 100 * 0.05 + 3 * np.sqrt(100 * 0.05 * 0.95)
    assert alarms[1] > 20


def test_groups_csv_has_the_groups_of_each_attribute(given: Predictions, tmp_path) -> None:
    run = new_run(tmp_path / "run")
    finish_trial(run, "one", 0.9, given, given)
    write_ensemble(run, choose_members(run, 1))
    run.write_catalog(catalog_of(path=given.ids, subfolder="", part="test", folder="test"))
    assert attribute_groups(run) == AttributeGroups({}, [], [])
    table = pd.DataFrame({"path": given.ids, "skin": SKIN})
    others = table.assign(folder="train", skin="light")  # of other images with the same paths
    run.write_table(run.attributes_file, pd.concat([others, table.assign(folder="test")], ignore_index=True))
    made = attribute_groups(run)
    assert made.of("skin")[0].errors == (5, 25)
    write_groups(run, made.groups)
    written = read_csv(run.groups_csv)
    assert written[["attribute", "group", "n"]].values.tolist() == [["skin", "dark", 25], ["skin", "light", 175]]
    assert written["false_positive_rate_p"].tolist() == pytest.approx([made.gaps[0].p] * 2)
    run.write_catalog(catalog_of(path=given.ids[:1], part="train", folder="train"))  # it has no test image any more
    assert attribute_groups(run).of("skin")[0].errors == (5, 25)
    shared = run.sweep().data.model_copy(update={"source": "folder", "train": "/x", "test": 0.2})
    write_whole(run.sweep_file, resolved_text(run.sweep().model_copy(update={"data": shared})))
    assert attribute_groups(run).groups == {}  # all test images are those of the training folder, which are light
