"""rfray.evaluation.search_findings: by hand, and importance where it is known what the score depends on."""

import numpy as np
import pandas as pd
import pytest

from rfray.evaluation.search_findings import search_findings
from rfray.spec.sweep_file import resolved_text
from tests.synthetic import catalog_of, fail_trial, finish_trial, new_run, start_trial


def set_resources(run, **resources):
    sweep = run.sweep()
    changed = sweep.model_copy(update={"resources": sweep.resources.model_copy(update=resources)})
    run.sweep_file.write_text(resolved_text(changed))


def write_epochs(run, trial, ended, seconds, scores):
    history = pd.DataFrame({"epoch": range(1, len(ended) + 1), "seconds": seconds, "val_auc": scores, "ended": ended})
    history.to_csv(trial.history_file, index=False)
    if (result := trial.result()) is not None:
        run.write_result(trial, result.model_copy(update={"epochs": len(ended), "seconds": float(sum(seconds))}))


@pytest.fixture
def run(tmp_path):
    """Two trials side by side, one of which was stopped; one that failed; one that is not finished."""
    run = new_run(tmp_path / "run")
    write_epochs(run, finish_trial(run, "a", 0.7, epochs=4), [10, 30], [10.0, 10.0], [0.6, 0.7])
    write_epochs(run, finish_trial(run, "b", 0.8, epochs=2), [20, 40], [20.0, 20.0], [0.65, 0.8])
    write_epochs(run, fail_trial(run, "c", "boom"), [25], [5.0], [0.9])
    write_epochs(run, start_trial(run, "d"), [45], [15.0], [0.95])
    return run


def test_best_so_far_by_hand(run):
    found = search_findings(run)
    assert found.epochs["trial"].tolist() == ["a", "b", "c", "a", "b", "d"]
    assert found.epochs["spent"].tolist() == [10, 30, 35, 45, 65, 80]
    assert found.epochs["best"].tolist() == [0.6, 0.65, 0.65, 0.7, 0.8, 0.8]  # what failed or goes on is no result
    assert found.epochs["best_trial"].tolist() == ["a", "b", "b", "a", "b", "b"]
    assert found.steps["spent"].tolist() == [10, 30, 45, 65]
    assert (found.unit, found.spent) == ("slot-seconds", 80)
    assert {trial.user_attrs["id"]: trial.value for trial in found.study.trials} == {"a": 0.7, "b": 0.8}


def test_undefined_scores_come_before_the_first_and_never_after(tmp_path):
    run = new_run(tmp_path / "run")
    write_epochs(run, finish_trial(run, "a", 0.7), [1, 2, 3], [1.0, 1.0, 1.0], [np.nan, 0.7, np.nan])
    best = search_findings(run).epochs["best"]
    assert np.isnan(best[0])
    assert best[1:].tolist() == [0.7, 0.7]


def test_a_share_of_a_gpu_is_that_share_of_its_seconds(run):
    set_resources(run, gpu=0.25)
    found = search_findings(run)
    assert (found.unit, found.spent) == ("GPU-seconds", 20)
    assert "saved about 5 GPU-seconds: 20 %" in found.sentences[2]


def test_savings_where_a_pass_is_several_epochs(tmp_path):
    run = new_run(tmp_path / "run")
    run.write_catalog(catalog_of(part=["train"] * 70 + ["val"] * 20 + ["test"] * 50, path="x"))
    out = finish_trial(run, "a", 0.7, epochs=2, epoch_images=30)  # two passes of three epochs each
    write_epochs(run, out, [10, 20], [10.0, 10.0], [0.6, 0.7])
    assert "saved about 40 slot-seconds" in search_findings(run).sentences[2]


def test_savings_by_hand(run):
    # a has two of four epochs, of 10 s each; that c failed and d goes on saves nothing
    assert search_findings(run).sentences[2] == (
        "1 of 2 trials ended before the last epoch that was planned, which saved about 20 slot-seconds: 20 % of what "
        "all would have taken."
    )


def test_cost_by_hand(run):
    assert not any("cost" in sentence for sentence in search_findings(run).sentences)
    set_resources(run, price_per_hour=37.8)  # 0.0105 a second: 0.21 of a, 0.42 of b, 0.0525 of c, which failed, ...
    assert search_findings(run).sentences[-1] == "All training cost 0.84, the dearest trial 0.42 (b)."


def test_the_study_has_the_axes_and_the_settings(tmp_path):
    weights = str(tmp_path / "w.safetensors")
    run = new_run(tmp_path / "run", pretrained=[True, False, {"test_vit": weights}], image_size=[224, 128])
    finish_trial(run, "a", 0.7, lr=1e-4, pretrained=False, image_size=224)
    finish_trial(run, "b", 0.8, lr=1e-3, backbone="test_vit", image_size=128, pretrained=weights)
    first, second = search_findings(run).study.trials
    axes = first.distributions
    assert axes["backbone"].choices == ("test_resnet", "test_vit")
    assert axes["image_size"].choices == (128, 224)
    assert axes["pretrained"].choices == (True, False, weights)
    assert (axes["lr"].low, axes["lr"].high, axes["lr"].log) == (1e-5, 1e-3, True)
    assert first.params == {"backbone": "test_resnet", "pretrained": False, "image_size": 224, "lr": 1e-4}
    assert second.params == {"backbone": "test_vit", "pretrained": weights, "image_size": 128, "lr": 1e-3}


def test_where_a_budget_may_have_ended_trials_nothing_is_called_saved(run):
    search = run.sweep().search.model_copy(update={"budget": "100s"})
    run.sweep_file.write_text(resolved_text(run.sweep().model_copy(update={"search": search})))
    assert search_findings(run).sentences[2] == (
        "1 of 2 trials ended before the last epoch that was planned, as the budget or the scheduler ended them; the "
        "rest would have taken about 20 slot-seconds more."
    )


def trials_where(folder, score, count=40):
    """A run whose trials score what `score` says of their log10 of lr, backbone and a random number."""
    run = new_run(folder)
    random = np.random.default_rng(0)
    for number in range(count):
        exponent, backbone = random.uniform(-5, -3), str(random.choice(["test_resnet", "test_vit"]))
        value = score(exponent, backbone, random.uniform())
        finish_trial(run, f"{number:02d}", float(value), trained=1, lr=10**exponent, backbone=backbone)
    return run


def test_what_the_score_depends_on_is_found(tmp_path):
    by_rate = search_findings(trials_where(tmp_path / "a", lambda exponent, *_: 1 + exponent / 10)).importance
    assert list(by_rate) == ["lr", "backbone"]
    assert by_rate["lr"] > 0.9
    assert sum(by_rate.values()) == pytest.approx(1)
    run = trials_where(tmp_path / "b", lambda _, backbone, __: 0.6 + 0.1 * (backbone == "test_vit"))
    by_model = search_findings(run).importance
    assert by_model["backbone"] > 0.9
    assert search_findings(run).importance == by_model  # the same again


@pytest.mark.parametrize(
    ("score", "count", "why"),
    [
        (lambda exponent, *_: 1 + exponent / 10, 7, "too few trials (7 with a score, at least 8 are needed)"),
        (lambda *_: 0.5, 8, "all trials have the same score"),
    ],
)
def test_no_importance_where_there_is_none_to_be_found(tmp_path, score, count, why):
    found = search_findings(trials_where(tmp_path / "run", score, count))
    assert found.importance == {}
    assert any(why in sentence for sentence in found.sentences)


def test_sentences(run):
    set_resources(run, price_per_hour=36.0)
    growth, importance, saved, cost = search_findings(run).sentences
    assert growth == (
        "4 trials (2 succeeded, 1 failed, 1 not finished) trained for 80 slot-seconds in all. "
        "The best auc on val, 0.8000, was reached by b after "
        "65 of them (81 %)."
    )
    assert "too few trials (2" in importance
    assert "1 of 2 trials ended before" in saved
    assert "about 20 slot-seconds: 20 % of what all would have taken" in saved
    assert cost == "All training cost 0.8, the dearest trial 0.4 (b)."


def test_sentences_name_the_method_and_the_axes(tmp_path):
    run = trials_where(tmp_path / "run", lambda exponent, *_: 1 + exponent / 10, 20)
    _, told, *_ = search_findings(run).sentences
    assert "importance: lr (" in told
    assert "functional ANOVA (optuna) on 20 trials" in told


def test_a_run_in_which_nothing_has_a_score(tmp_path):
    run = new_run(tmp_path / "run")
    start_trial(run, "a")
    found = search_findings(run)
    assert (len(found.epochs), found.spent) == (0, 0)
    assert found.sentences[0] == (
        "1 trial (0 succeeded, 0 failed, 1 not finished) trained for 0 slot-seconds in all. None has come to a score."
    )
