"""Several test sets on the leaderboard: each figure by scikit-learn, from the prediction files alone."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import (
    build_leaderboard,
    column_types,
    contract_columns,
    made_of,
    on_several_sets,
    read_leaderboard,
    write_leaderboard,
)
from rfray.evaluation.several_tests import main_columns, set_names
from rfray.report.terminal import leaderboard_table
from rfray.spec.sweep import DataSettings
from rfray.spec.sweep_file import resolved_text
from rfray.stats.paired_tests import placements
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from tests.synthetic import FIRST, small_run

SETS = {"valid": "test", "phone": "test-phone", "gan-3": "test-gan-3"}
"""Name of a set -> its part."""


def with_sets(run: RunDir, *names: str) -> None:
    """Sets of these names in the run's sweep."""
    data = DataSettings(train="/images/train", test={name: f"/images/{name}" for name in names})
    write_whole(run.sweep_file, resolved_text(run.sweep().model_copy(update={"data": data})))


def said(seed: int, fakes: int, reals: int) -> Predictions:
    """Some that a model which knows a little might say."""
    labels = np.array([0] * reals + [1] * fakes, np.int8)
    p_fake = np.random.default_rng(seed).beta(2 + labels, 3 - labels)
    return Predictions(np.array([f"{number}.jpg" for number in range(len(labels))]), labels, p_fake)


@pytest.fixture
def run(tmp_path) -> RunDir:
    """001, 002 and their votes on three test sets."""
    run = small_run(tmp_path / "run")
    with_sets(run, *SETS)
    for seed, name in enumerate(("001", "002")):
        write_predictions(run.trial(name).predictions_file("test-phone"), said(seed, 9, 14), {})
        write_predictions(run.trial(name).predictions_file("test-gan-3"), said(10 + seed, 30, 5), {})
    write_ensemble(run, choose_members(run, 2), ["soft", "weighted"])
    return run


def test_every_figure_of_every_set_is_scikit_learns(run: RunDir) -> None:
    frame = write_leaderboard(run).set_index("name")
    for name in ("001", "002", "ensemble", "ensemble-weighted"):
        row, aucs = frame.loc[name], []
        for one, part in SETS.items():
            is_vote = name.startswith("ensemble")
            file = run.ensemble_predictions_file(name, part) if is_vote else run.trial(name).predictions_file(part)
            given = read_predictions(file)
            aucs.append(sk.roc_auc_score(given.labels, given.p_fake))
            calls = (given.p_fake >= row["threshold"]).astype(int)
            assert row[f"auc_{one}"] == pytest.approx(aucs[-1], abs=1e-15)
            assert row[f"accuracy_{one}"] == pytest.approx(sk.accuracy_score(given.labels, calls), abs=1e-15)
            assert row[f"n_{one}"] == len(given.labels)
            ends = placements(given.labels, given.p_fake[None]).intervals[0]
            assert [row[f"auc_{one}_low"], row[f"auc_{one}_high"]] == pytest.approx(ends, abs=1e-12)
        assert row["auc_mean"] == pytest.approx(np.mean(aucs), abs=1e-15)
        assert row["auc_worst"] == pytest.approx(min(aucs), abs=1e-15)
        # the plain columns speak of the first
        plain = ["auc", "auc_low", "auc_high", "accuracy", "n"]
        first = ["auc_valid", "auc_valid_low", "auc_valid_high", "accuracy_valid", "n_valid"]
        assert row[plain].tolist() == row[first].tolist()


def test_the_votes_on_a_further_set_are_the_mean_of_its_members(run: RunDir) -> None:
    one, other = (read_predictions(run.trial(name).predictions_file("test-phone")).p_fake for name in ("001", "002"))
    vote = read_predictions(run.ensemble_predictions_file("ensemble", "test-phone"))
    assert vote.p_fake.tolist() == ((one + other) / 2).tolist()
    assert run.not_vouched(*run.votes_predictions()) == []
    assert run.corrupted_votes() == []
    # a set that the sweep has no more leaves nothing behind
    with_sets(run, "valid", "gan-3")
    write_ensemble(run, choose_members(run, 2))
    assert sorted(file.name for file in run.votes_predictions()) == [
        *("ensemble-predictions-test-gan-3.parquet", "ensemble-predictions-test.parquet"),
        "ensemble-predictions-val.parquet",
    ]


def test_columns_come_after_those_of_one_test_set(run: RunDir, tmp_path) -> None:
    alone = [*column_types(small_run(tmp_path / "other").sweep())]
    frame = write_leaderboard(run)
    more = [f"auc_{name}" for name in SETS] + ["auc_mean", "auc_worst"]
    more += [f"{column}" for name in SETS for column in (f"auc_{name}_low", f"auc_{name}_high", f"accuracy_{name}")]
    assert list(frame) == [*alone, *more, *(f"n_{name}" for name in SETS)]
    assert contract_columns(run.sweep())[-1] == "threshold"
    pd.testing.assert_frame_equal(read_leaderboard(run), frame)
    assert build_leaderboard(run)["rank"].tolist() == frame["rank"].tolist()


def test_what_was_not_predicted_or_is_undefined_is_an_empty_cell(run: RunDir) -> None:
    # the weights of 002 are gone, and its predictions of a set that came later are missing
    run.trial("002").predictions_file("test-gan-3").unlink()
    write_predictions(run.trial("001").predictions_file("test-phone"), said(5, 4, 0), {})
    frame = write_leaderboard(run).set_index("name")
    missing = frame.loc["002", ["auc_gan-3", "auc_gan-3_low", "accuracy_gan-3", "n_gan-3", "auc_mean", "auc_worst"]]
    assert missing.isna().all()
    assert frame.loc["002", ["auc_valid", "auc_phone"]].notna().all()
    undefined = frame.loc["001"]
    assert undefined[["auc_phone", "auc_phone_low", "auc_mean", "auc_worst"]].isna().all()
    assert (undefined["n_phone"], undefined["auc_gan-3"]) == (4, frame.loc["001", "auc_gan-3"])
    files = {file.name for file in made_of(run, read_leaderboard(run)) if "002" in file.parts}
    assert files == {"predictions-test.parquet", "predictions-test-phone.parquet"}


def test_the_baseline_calls_every_set_what_is_most_of_the_first(run: RunDir) -> None:
    row = build_leaderboard(run).set_index("name").loc["always-real"]
    assert [row[f"accuracy_{name}"] for name in SETS] == pytest.approx([3 / 6, 14 / 23, 5 / 35])
    assert [row[f"n_{name}"] for name in SETS] == [6, 23, 35]
    assert [row[f"auc_{name}"] for name in (*SETS, "mean", "worst")] == [0.5] * 5


def test_models_that_saw_other_images_of_a_set_keep_their_own_figures(run: RunDir) -> None:
    """As those whose weights are gone, where a folder has changed."""
    before = said(77, 6, 6)
    write_predictions(run.trial("003").predictions_file("test-phone"), before, {})
    write_predictions(
        run.trial("003").predictions_file("test"), read_predictions(run.trial("001").predictions_file("test")), {}
    )
    row = build_leaderboard(run).set_index("name").loc["003"]
    assert row["n_phone"] == 12
    assert row["auc_phone"] == pytest.approx(sk.roc_auc_score(before.labels, before.p_fake), abs=1e-15)
    assert row["auc"] == pytest.approx(sk.roc_auc_score([0, 0, 0, 1, 1, 1], FIRST), abs=1e-15)


def test_tables_for_people_show_each_set_and_the_worst(run: RunDir) -> None:
    frame = write_leaderboard(run)
    text = run.leaderboard_md.read_text()
    header = next(line for line in text.splitlines() if line.startswith("| rank"))
    assert header.endswith("| threshold | auc_phone | auc_gan-3 | auc_mean | auc_worst |")
    row = frame.set_index("name").loc["ensemble"]
    worst = min(SETS, key=lambda name: row[f"auc_{name}"])
    assert f"Of 3 test sets the ensemble is worst on {worst}: AUC {row['auc_worst']:.4f} (95 % interval " in text
    assert f"mean {row['auc_mean']:.4f}. What is said without a name is on valid." in text
    for width, shown in (
        (200, ["auc", "auc_phone", "auc_gan-3", "auc_mean", "auc_worst"]),
        (110, ["auc", "auc_worst"]),
    ):
        table = leaderboard_table(frame, None, width)
        assert [column.header.plain for column in table.columns if column.header.plain.startswith("auc")] == shown


def test_of_one_test_set_nothing_is_said_of_several(tmp_path) -> None:
    run = small_run(tmp_path / "run")
    frame = write_leaderboard(run)
    assert on_several_sets(run, frame) is None
    assert set_names(frame) == main_columns(frame) == []
    assert not {"auc_mean", "auc_worst"} & {*frame}
