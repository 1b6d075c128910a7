"""What models that left out sources came to on those, and how they are ranked by it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.evaluation.ensemble import fold_models, write_ensemble
from rfray.evaluation.leaderboard import build_leaderboard, ranked_by
from rfray.evaluation.unseen import comparable_scores
from rfray.spec.sweep_file import resolved_text
from rfray.stats.predictions import Predictions
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from tests.synthetic import catalog_of, finish_trial, new_run, predictions

LABELS = [0, 1] * 20 + [0, 1] * 20
FIRST, SECOND = np.arange(40), np.arange(40, 80)
"""What the two rotations leave out, 20 of each class: first flux, then gan."""


def part(rows: np.ndarray, shuffled: int) -> Predictions:
    """Of these images the last `shuffled` fakes look real, all others as they are: an AUC of 1 - shuffled / 20."""
    labels = np.array(LABELS)[rows]
    p_fake = np.where(labels == 1, 0.9, 0.1) + 0.001 * np.arange(len(rows))
    p_fake[np.flatnonzero(labels == 1)[len(labels) // 2 - shuffled :]] = 0.01
    whole = predictions([0.0] * len(LABELS), LABELS)
    return Predictions(whole.ids[rows], whole.labels[rows], p_fake)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Four trials, two without each source; of 0-a, the finalist, also its training without the other source."""
    run = new_run(tmp_path / "run")
    sweep = run.sweep()
    search = sweep.search.model_copy(update={"judge": "unseen", "trials": 4, "finalists": 1})
    write_whole(run.sweep_file, resolved_text(sweep.model_copy(update={"search": search})))
    whole, test = predictions([0.0] * len(LABELS), LABELS), predictions([0.1, 0.9] * 3, [0, 1] * 3)
    sources = np.where(np.array(LABELS) == 0, "", np.where(np.arange(80) < 40, "flux", "gan"))
    training = catalog_of(path=whole.ids, label=whole.labels, source=sources, part="train", folder="train")
    of_test = catalog_of(path=test.ids, label=test.labels, source="", part="test", folder="test")
    run.write_catalog(pd.concat([training, of_test.assign(group_id=range(100, 106))], ignore_index=True))
    # without flux 1.0 and 0.9, without gan 0.7 and 0.5: the second is 0.35 harder
    for number, (rows, shuffled) in enumerate([(FIRST, 0), (SECOND, 6), (FIRST, 2), (SECOND, 10)]):
        fold = (number % 2 + 1, 2)
        finish_trial(run, f"{number}-{'abcd'[number]}", 1 - shuffled / 20, part(rows, shuffled), test, fold=fold)
    again = {"repeats": "0-a", "fold": (2, 2)}
    finish_trial(run, "0-a-fold2of2", 0.8, part(SECOND, 4), test, **again)
    return run


def test_trials_are_compared_over_all_left_out_sources(run: RunDir) -> None:
    results = [result for out in run.trials() if (result := out.result()) is not None]
    # means 0.95 and 0.6, middle 0.775: what was judged on flux is 0.175 too high, on gan 0.175 too low
    assert comparable_scores(results) == pytest.approx({"0-a": 0.825, "1-b": 0.875, "2-c": 0.725, "3-d": 0.675})


def test_the_leaderboard_has_mean_and_worst_and_what_was_left_out(run: RunDir) -> None:
    write_ensemble(run, [run.trial("0-a")], folds=fold_models(run, 2))
    frame = build_leaderboard(run).set_index("name")
    assert ranked_by(run.sweep(), frame.columns) == "val_auc_unseen"
    models = frame.loc[["0-a", "1-b", "2-c", "3-d"]]
    assert models["val_auc_unseen"].tolist() == pytest.approx([0.9, 0.875, 0.725, 0.675])
    assert models["val_auc_unseen_worst"].tolist() == pytest.approx([0.8, 0.7, 0.55, 0.5])
    assert models["val_auc"].tolist() == pytest.approx([1.0, 0.7, 0.9, 0.5])
    assert models["left_out"].tolist() == ["flux, gan", "gan", "flux", "gan"]
    vote = frame.loc["ensemble"]
    assert vote["members"] == "0-a 0-a-fold2of2"
    assert (vote["val_auc_unseen"], vote["val_auc_unseen_worst"]) == pytest.approx((0.9, 0.8))
    assert vote["left_out"] == "flux, gan"
    part = frame.loc["0-a-fold2of2"]
    assert (part["kind"], part["left_out"], part["val_auc"]) == ("fold", "gan", 0.8)
    assert pd.isna(part["val_auc_unseen"])
    assert pd.isna(part["rank"])
    by_worst = run.sweep().search.model_copy(update={"judge": "unseen_worst"})
    write_whole(run.sweep_file, resolved_text(run.sweep().model_copy(update={"search": by_worst})))
    assert ranked_by(run.sweep(), frame.columns) == "val_auc_unseen_worst"
    assert build_leaderboard(run)["name"].tolist()[:2] == ["0-a", "ensemble"]


def test_a_finalist_that_lacks_a_training_or_its_weights_does_not_vote_by_them(run: RunDir) -> None:
    assert [[model.id for model in models] for models in fold_models(run, 2).values()] == [["0-a", "0-a-fold2of2"]]
    run.trial("0-a").weights_file.unlink()
    assert fold_models(run, 2) == {}
