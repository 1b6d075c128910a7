"""A sweep that starts warm: what it takes over and what its search knows, fixed at the first start, on real Ray too."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rfray.cluster.slots import slot_for
from rfray.errors import RunError, SweepError
from rfray.evaluation.leaderboard import build_leaderboard
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import differences, load_sweep
from rfray.stats.predictions import read_predictions
from rfray.store.files import file_digest
from rfray.store.ownership import claim_run
from rfray.store.records import EarlierTrial
from rfray.store.run_dir import RunDir
from rfray.tuning.plan import plan_lines
from rfray.tuning.proposals import Proposals
from rfray.tuning.recorder import remove_leftovers, results
from rfray.tuning.strategies import SEARCHERS
from rfray.tuning.warm_start import check_warm_start, preview_warm_start, read_warm_start, warm_start
from tests.synthetic import FIRST, catalog_of, fail_trial, finish_trial, predictions
from tests.tuning.test_run_sweep import run_here, sweep_of

SWEEP: dict[str, Any] = {
    "name": "later",
    "data": {"source": "demo"},
    "trial": {"backbone": "test_resnet", "lr": [0.1, 0.2, 0.3], "epochs": 2},
    "search": {"algorithm": "optuna", "trials": 3},
    "ensemble": {"top_k": 1},
}


def sweep(**sections: dict[str, Any]) -> Sweep:
    """SWEEP with some keys of its sections changed."""
    return Sweep.model_validate({**SWEEP, **{name: {**SWEEP[name], **given} for name, given in sections.items()}})


def begun(folder: Path | str, asked: Sweep, images: str = "digest") -> RunDir:
    """A run folder whose images have been looked at: two to learn from and one to choose on, of `images` content."""
    run = RunDir(folder)
    claim_run(run, asked)
    rows = {"path": ["real/1.jpg", "fake/1.jpg", "fake/2.jpg"], "part": ["train", "train", "val"], "digest": images}
    run.write_catalog(catalog_of(**rows))
    return run


def ended(
    run: RunDir, number: int, lr: float, score: float, *, kept: bool = True, trained: int = 2, **more: Any
) -> str:
    """A trial that ended well, and whose result vouches for its files; its id."""
    setting = {"lr": lr, "epochs": 2, **more}
    out = finish_trial(run, f"{number:05d}-there", score, predictions(FIRST), kept=kept, trained=trained, **setting)
    vouched = (out.history_file, out.weights_file, out.predictions_file("val"))
    result = out.result()
    assert result is not None
    files = {f.name: file_digest(f) for f in vouched if f.exists()}
    run.write_result(out, result.model_copy(update={"files": files}))
    return out.id


def lines(run: RunDir, asked: Sweep) -> list[str]:
    """What the console is told, without the beginning."""
    said = io.StringIO()
    warm_start(run, asked, Console(file=said, width=300))
    return [line.partition(": ")[2] for line in said.getvalue().splitlines() if line.startswith("Warm start")]


def warm(*runs: RunDir, **search: Any) -> dict[str, Any]:
    return {"warm_start": [str(run.path) for run in runs], **search}


def uses(run: RunDir) -> list[tuple[str, str]]:
    known = read_warm_start(run)
    assert known is not None
    return [(Path(one.run).name + "/" + one.id[:5], one.use) for one in known.trials]


# what is taken over


def test_the_same_trials_are_taken_over_whole(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    for number, lr, score in [(0, 0.1, 0.6), (4, 0.3, 0.9)]:
        ended(first, number, lr, score)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == ["2 taken over"]
    assert [(one.id[:5], one.position, one.trial.lr, one.score) for one in results(run)] == [
        ("00000", 0, 0.1, 0.6),
        ("00001", 1, 0.3, 0.9),
    ]
    for out, source in zip(run.trials(), first.trials(), strict=True):
        start, result = out.start(), out.result()
        assert result is not None
        assert (start.id, start.number, start.results_known) == (out.id, result.position, result.position)
        assert out.id == f"{start.number:05d}-{start.trial.digest[:6]}"
        assert result.taken_from == str(source.path)
        assert out.damaged_files(result) == []
        assert out.predictions_file("val").read_bytes() == source.predictions_file("val").read_bytes()
        assert out.history().equals(source.history())
        assert not out.starts_file.exists()
    run.check_trials()


def test_what_was_fixed_at_the_first_start_outlives_the_earlier_run(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    ended(first, 0, 0.1, 0.6)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    said = lines(run, asked)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    ended(first, 1, 0.2, 0.7)
    assert lines(run, asked) == said
    shutil.rmtree(first.path)
    assert lines(run, asked) == said == ["1 taken over"]
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()} == before
    run.warm_start_file.write_text(run.warm_start_file.read_text().replace("0.6", "0.9"))
    with pytest.raises(RunError, match=r"warm_start.json is damaged.*start anew with --fresh"):
        lines(run, asked)


def test_a_first_start_that_was_cut_short_begins_again(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    ended(first, 0, 0.1, 0.6)
    ended(first, 1, 0.2, 0.7)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    lines(run, asked)
    run.warm_start_file.unlink()
    run.trials()[1].result_file.unlink()
    first.trials()[0].result_file.unlink()  # as that run was changed meanwhile
    assert lines(run, asked) == ["1 taken over"]
    assert [(one.id[:5], one.trial.lr) for one in results(run)] == [("00000", 0.2)]
    # but what was trained is never removed
    run.warm_start_file.unlink()
    run.trials()[0].starts_file.write_text("session,0,host,1,token\n")
    with pytest.raises(RunError, match=r"warm_start.json is missing.*--fresh"):
        lines(run, asked)
    assert len(run.trials()) == 1


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "one key has another value": ({"epochs": 1, "trained": 1}, "epochs"),
    "two have": ({"epochs": 3, "trained": 3, "seed": 4}, "epochs, seed"),
    "it was stopped early": ({"trained": 1}, "search.scheduler"),
}


@pytest.mark.parametrize("why", OTHERS)
def test_others_on_the_same_axes_and_images_guide_only(why: str, tmp_path: Path) -> None:
    more, reason = OTHERS[why]
    first = begun(tmp_path / "first", sweep(search={"scheduler": "asha"}))
    ended(first, 0, 0.1, 0.6)
    ended(first, 1, 0.2, 0.7, **more)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == [f"1 taken over; 1 learned from (other {reason})"]
    assert uses(run) == [("first/00000", "taken over"), ("first/00001", "score")]
    assert len(run.trials()) == 1


def test_whether_a_trial_was_stopped_early_is_counted_in_epochs_of_a_pass(tmp_path: Path) -> None:
    """Two passes over three images are six epochs of one image."""
    first = begun(tmp_path / "first", sweep(search={"scheduler": "asha"}, trial={"epoch_images": 1}))
    ended(first, 0, 0.1, 0.6, epoch_images=1, trained=6)
    ended(first, 1, 0.2, 0.7, epoch_images=1, trained=2)
    asked = sweep(search=warm(first), trial={"epoch_images": 1})
    run = begun(tmp_path / "later", asked)
    lines(run, asked)
    assert uses(run) == [("first/00000", "taken over"), ("first/00001", "score")]


def test_what_the_same_scheduler_or_patience_has_stopped_is_taken_over(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep(search={"scheduler": "asha"}, trial={"epochs": 3, "patience": 1}))
    ended(first, 0, 0.1, 0.6, epochs=3, patience=1, trained=1)  # by asha
    out = first.trial(ended(first, 1, 0.2, 0.6, epochs=3, patience=1, trained=2))  # out of patience: best was epoch 1
    result = out.result()
    assert result is not None
    first.write_result(out, result.model_copy(update={"best_epoch": 1}))
    for scheduler, taken in [("asha", 2), ("none", 1), ("median", 1)]:
        asked = sweep(search=warm(first, scheduler=scheduler), trial={"epochs": 3, "patience": 1})
        assert len(preview_warm_start(begun(tmp_path / scheduler, asked), asked).taken_over) == taken


def test_an_own_augmentation_must_be_the_same_not_only_its_name(tmp_path: Path) -> None:
    def mine(p: float) -> Sweep:
        own = {"augmentations": {"mine": [{"HorizontalFlip": {"p": p}}]}}
        trial = {**SWEEP["trial"], "augmentation": "mine"}
        return Sweep.model_validate({**SWEEP, **own, "trial": trial, "search": SWEEP["search"]})

    first = begun(tmp_path / "first", mine(0.5))
    ended(first, 0, 0.1, 0.6, augmentation="mine")
    for p, said in [(0.5, "1 taken over"), (0.1, "1 learned from (other augmentations.mine)")]:
        asked = mine(p)
        asked = asked.model_copy(update={"search": asked.search.model_copy(update=warm(first))})
        assert said in preview_warm_start(begun(tmp_path / str(p), asked), asked).lines[0]


DIFFERING: dict[str, tuple[dict[str, dict[str, Any]], str, str]] = {
    "images": ({}, "others", "it has other train and val images"),
    "metric": ({"search": {"metric": "f1"}}, "digest", "its scores are f1, not auc"),
    "reencode": ({"data": {"reencode": {"size": 64}}}, "digest", "its images are re-encoded otherwise (data.reencode)"),
}


@pytest.mark.parametrize("what", DIFFERING)
def test_scores_that_can_not_be_compared_count_nothing_but_the_best_settings_are_tried_first(
    what: str, tmp_path: Path
) -> None:
    sections, images, said = DIFFERING[what]
    ten = {"trial": {"lr": {"log": [0.01, 1]}, "epochs": 2}}
    first = begun(tmp_path / "first", sweep(**{**ten, **sections}), images)
    for number, (lr, score) in enumerate([(0.1, 0.6), (0.2, 0.7), (0.3, 0.8), (0.4, 0.65), (2.0, 0.9)]):
        ended(first, number, lr, score)
    fail_trial(first, "00009-there", "RuntimeError: no", lr=0.5)
    asked = sweep(search=warm(first), **ten)
    run = begun(tmp_path / "later", asked)
    (line,) = lines(run, asked)
    assert set(line.split("; ")) == {
        f"3 tried first ({said})",
        f"1 not used ({said})",
        "1 not used (outside of this sweep's axes)",
        "1 not used (failed)",
    }
    assert run.trials() == []
    known = read_warm_start(run)
    assert known is not None
    searcher = SEARCHERS["optuna"](asked, known.trials)
    assert [searcher.ask() for _ in range(3)] == [{"lr": 0.3}, {"lr": 0.2}, {"lr": 0.4}]
    assert searcher.ask() != {"lr": 0.1}
    # a random search stays random
    for algorithm in ("random", "grid"):
        alike = sweep(search=warm(first, algorithm=algorithm), trial={"lr": [0.1, 0.2, 0.3, 0.4], "epochs": 2})
        found = preview_warm_start(begun(tmp_path / algorithm, alike), alike)
        assert found.trials == []
        assert f"4 not used ({said})" in found.lines[0]


def test_no_more_are_taken_over_than_trials_are_asked_for_the_best_ones(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    for number, (lr, score) in enumerate([(0.1, 0.6), (0.2, 0.7), (0.3, 0.8)]):
        ended(first, number, lr, score)
    asked = sweep(search=warm(first, trials=2))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == ["1 learned from (search.trials asks for 2); 2 taken over"]
    assert [one.trial.lr for one in results(run)] == [0.2, 0.3]


def test_a_trial_that_two_runs_have_is_one_with_its_weights_if_any_has_them(tmp_path: Path) -> None:
    first, second = begun(tmp_path / "first", sweep()), begun(tmp_path / "second", sweep())
    ended(first, 0, 0.1, 0.6, kept=False)
    ended(first, 1, 0.2, 0.7)
    ended(second, 0, 0.1, 0.6)
    ended(second, 1, 0.2, 0.7)
    asked = sweep(search=warm(first, second))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == [
        "1 not used (in another earlier run, too); 1 taken over",
        "1 taken over; 1 not used (in another earlier run, too)",
    ]
    assert uses(run) == [("first/00001", "taken over"), ("second/00000", "taken over")]
    assert all(out.weights_file.exists() for out in run.trials())


def test_a_setting_that_two_runs_have_tried_is_tried_first_once(tmp_path: Path) -> None:
    runs = [begun(tmp_path / name, sweep(), images="others") for name in ("first", "second")]
    for run in runs:
        ended(run, 0, 0.1, 0.6)
    ended(runs[1], 1, 0.2, 0.6)
    asked = sweep(search=warm(*runs))
    run = begun(tmp_path / "later", asked)
    one, other = lines(run, asked)
    assert one.startswith("1 tried first")
    assert set(other.split("; ")) == {one, "1 not used (in another earlier run, too)"}
    assert uses(run) == [("first/00000", "setting"), ("second/00001", "setting")]


def test_weights_that_are_gone_or_too_many_are_no_reason_against_it(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    for number, (lr, score, kept) in enumerate([(0.1, 0.9, False), (0.2, 0.8, True), (0.3, 0.7, True)]):
        ended(first, number, lr, score, kept=kept)
    asked = sweep(search=warm(first, keep=1))
    run = begun(tmp_path / "later", asked)
    lines(run, asked)
    # the one that is to be kept is the best of those that have any
    assert [out.weights_file.exists() for out in run.trials()] == [False, True, False]
    remove_leftovers(run, asked, results(run))
    assert [out.weights_file.exists() for out in run.trials()] == [False, True, False]
    frame = build_leaderboard(run)
    assert frame["status"].tolist() == ["not kept", "ok", "not kept"]
    assert frame["taken_from"].tolist() == [str(out.path) for out in first.trials()]


def test_a_damaged_trial_is_named_and_not_taken_over(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    first.trial(ended(first, 0, 0.1, 0.6)).predictions_file("val").write_bytes(b"damaged")  # copied last
    ended(first, 1, 0.2, 0.7)
    asked, said = sweep(search=warm(first)), io.StringIO()
    run = begun(tmp_path / "later", asked)
    warm_start(run, asked, Console(file=said, width=300))
    assert "predictions-val.parquet is damaged: its content does not match its digest; the trial is not taken over" in (
        said.getvalue()
    )
    assert "1 learned from (damaged); 1 taken over" in said.getvalue()
    assert uses(run) == [("first/00000", "score"), ("first/00001", "taken over")]
    assert [(out.id[:5], out.start().trial.lr) for out in run.trials()] == [("00000", 0.2)]
    assert len(list(run.trials_folder.iterdir())) == 1


def test_names_in_the_records_of_an_earlier_run_are_never_paths(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    out = first.trial(ended(first, 0, 0.1, 0.6))
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    result = out.result()
    assert result is not None
    names = {"../../../secret.txt": file_digest(secret), str(secret): file_digest(secret)}
    changed = {"id": "../../..", "files": {**result.files, **names}}
    first.write_result(out, result.model_copy(update=changed))
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    before = {path for path in tmp_path.rglob("*") if run.path not in path.parents}
    with pytest.raises(RunError, match=r"result\.json is damaged: .*: given '\.\./\.\..*'; allowed: letters, digits"):
        lines(run, asked)
    assert run.trials() == []
    assert {path for path in tmp_path.rglob("*") if run.path not in path.parents} == before


def test_a_link_among_the_curves_of_an_earlier_run_is_not_followed(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    out = first.trial(ended(first, 0, 0.1, 0.6))
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    out.tensorboard.mkdir(exist_ok=True)
    (out.tensorboard / "events.out.tfevents.9").symlink_to(secret)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == ["1 taken over"]
    assert [path for path in run.path.rglob("*") if path.is_file() and path.read_bytes() == b"secret"] == []


def test_a_trial_taken_over_that_is_damaged_or_lost_later_is_trained_here(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    ended(first, 0, 0.1, 0.6)
    ended(first, 1, 0.2, 0.7)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    known = warm_start(run, asked, Console(file=io.StringIO()))
    ids = [out.id for out in run.trials()]
    shutil.rmtree(run.trials()[1].path)
    run.trials()[0].start_file.write_text("{")
    Proposals(run, asked, 1, known, None)
    assert [out.id for out in run.trials()] == ids
    assert [out.start().trial.lr for out in run.trials()] == [0.1, 0.2]
    assert [out.result_file.exists() for out in run.trials()] == [True, False]


def test_a_search_goes_on_where_the_result_of_its_first_trial_was_lost(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", sweep())
    first, second = (run.trial(ended(run, number, lr, 0.6)) for number, lr in enumerate((0.1, 0.2)))
    assert second.start().results_known == 1  # that of the first
    first.result_file.unlink()
    again = Proposals(run, sweep(), 1, warm_start(run, sweep(), Console(file=io.StringIO())), None)
    assert again.more_to_come()
    assert [out.start().trial.lr for out in run.trials()] == [0.1, 0.2]


# what the search does with it


def earlier(use: str, lr: float, score: float, **more: Any) -> EarlierTrial:
    trial = sweep().trial.trial({"lr": lr, **more})
    return EarlierTrial.model_validate({"run": "/first", "id": "x", "trial": trial, "score": score, "use": use})


def test_the_study_holds_the_earlier_trials() -> None:
    both = {"lr": {"log": [0.01, 1.0]}, "backbone": ["test_vit", "test_resnet"], "batch_size": {"int": [8, 64]}}
    known = [earlier("taken over", 0.1, 0.6), earlier("score", 0.5, 0.8, batch_size=32, backbone="test_vit")]
    searcher = SEARCHERS["optuna"](sweep(trial=both), known)
    assert [(trial.params, trial.value) for trial in searcher._study.trials] == [
        ({"backbone": 1, "lr": 0.1, "batch_size": 64}, 0.6),
        ({"backbone": 0, "lr": 0.5, "batch_size": 32}, 0.8),
    ]
    assert [trial.state.name for trial in searcher._study.trials] == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("name", SEARCHERS)
def test_what_was_taken_over_is_not_proposed_and_what_is_only_known_is(name: str) -> None:
    known = [earlier("taken over", 0.2, 0.6), *([earlier("score", 0.1, 0.5)] if name == "optuna" else [])]
    searcher = SEARCHERS[name](sweep(), known)
    first, second = searcher.ask(), searcher.ask()
    assert first is not None
    assert second is not None
    assert {first["lr"], second["lr"]} == {0.1, 0.3}
    assert searcher.ask() is None


def test_a_random_search_goes_on_where_one_of_the_same_seed_ended() -> None:
    asked = sweep(trial={"lr": {"log": [1e-5, 1.0]}}, search={"algorithm": "random"})
    cold = SEARCHERS["random"](asked)
    proposals = [cold.ask() for _ in range(200)]
    known = [earlier("taken over", values["lr"], 0.5) for values in proposals[:150] if values]
    again = SEARCHERS["random"](asked, known)
    assert [again.ask() for _ in range(50)] == proposals[150:]


def test_optuna_learns_from_what_earlier_runs_found() -> None:
    axes = {"lr": {"log": [1e-5, 1.0]}}

    def score(lr: float) -> float:
        return 0.9 - 0.1 * abs(np.log10(lr) + 3)

    def near(searcher: Any) -> int:
        """How many of ten proposals are within a decade of the best, 1e-3."""
        proposals = []
        for number in range(10):
            values = searcher.ask()
            assert values is not None
            searcher.tell(number, score(values["lr"]))
            proposals.append(values["lr"])
        return sum(1e-4 < lr < 1e-2 for lr in proposals)

    rates = np.logspace(-5, 0, 32)[1:-1]
    known = [earlier("score", lr, score(lr)) for lr in rates.tolist()]
    assert near(SEARCHERS["optuna"](sweep(trial=axes))) <= 5  # at random, of five decades
    assert near(SEARCHERS["optuna"](sweep(trial=axes), known)) >= 8


# what is refused


def test_what_is_no_earlier_run_is_refused_with_its_line(tmp_path: Path) -> None:
    first, itself = begun(tmp_path / "first", sweep()), begun(tmp_path / "later", sweep())
    (tmp_path / "link").symlink_to(itself.path)
    file = tmp_path / "sweep.yaml"
    text = "name: later\ndata: {source: demo}\ntrial: {backbone: test_resnet, lr: [0.1, 0.2]}\nsearch:\n  trials: 1\n"
    file.write_text(f"{text}  warm_start:\n    - {tmp_path}/link\n    - {first.path}\n    - {tmp_path}/nothing\n")
    loaded = load_sweep(file)
    with pytest.raises(SweepError) as refused:
        check_warm_start(loaded, itself, fresh=False)
    assert str(refused.value).replace(str(tmp_path), "") == (
        "/sweep.yaml:7: search.warm_start[0]: /link is the run folder of this sweep itself; name earlier ones\n"
        "/sweep.yaml:9: search.warm_start[2]: /nothing: not a run folder (no sweep.yaml); `rfray tune SWEEP` makes one"
    )
    # once its first start has taken what it needs, they may go; not for one that starts anew
    asked = sweep(search=warm(first))
    lines(itself, asked)
    check_warm_start(loaded, itself, fresh=False)
    with pytest.raises(SweepError):
        check_warm_start(loaded, itself, fresh=True)


def test_paths_are_absolute_and_each_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = sweep(search={"warm_start": ["runs/first", "s3://bucket/runs/second"]})
    assert asked.search.warm_start == [f"{tmp_path}/runs/first", "s3://bucket/runs/second"]
    with pytest.raises(ValueError, match="every value once"):
        sweep(search={"warm_start": ["runs/first", "./runs/first"]})
    # another start is another sweep; a sweep of an earlier version, without the key, is the same
    (changed,) = differences(sweep(), asked)
    assert changed.startswith(f'search.warm_start: [] -> ["{tmp_path}/')


def test_a_run_in_which_nothing_ended_well_is_of_no_use(tmp_path: Path) -> None:
    first = begun(tmp_path / "first", sweep())
    fail_trial(first, "00000-there", "RuntimeError: no", lr=0.1)
    asked = sweep(search=warm(first))
    run = begun(tmp_path / "later", asked)
    assert lines(run, asked) == ["1 not used (failed)"]
    assert run.trials() == []


def test_before_the_images_are_read_their_settings_names_and_times_decide(pictures: Path, tmp_path: Path) -> None:
    from rfray.commands.prepare_data import prepare_training

    data = {"source": "folder", "train": str(pictures / "train"), "test": str(pictures / "test")}
    first = RunDir(tmp_path / "first")
    claim_run(first, sweep(data=data))
    prepare_training(first, sweep(data=data), Console(file=io.StringIO()))
    ended(first, 0, 0.1, 0.6)
    for more, said in [
        ({}, "1 taken over"),
        ({"cache": {"max_gb": 1}}, "1 taken over"),
        ({"val": 0.3}, "1 tried first (it may have other images (data.val))"),
        ({"train": str(tmp_path / "train")}, "1 tried first (it may have other images (data.train))"),
    ]:
        asked = sweep(data={**data, **more}, search=warm(first))
        assert preview_warm_start(RunDir(tmp_path / "later"), asked).lines[0].partition(": ")[2].startswith(said)
    assert not (tmp_path / "later").exists()


# on Ray


def rows(run: RunDir) -> dict[float, tuple[Any, ...]]:
    """lr -> what the trial came to."""
    val = {one.id: read_predictions(run.trial(one.id).predictions_file("val")) for one in results(run)}
    return {one.trial.lr: (one.score, one.best_epoch, one.epochs, val[one.id].p_fake.tolist()) for one in results(run)}


def trained_here(run: RunDir) -> list[float]:
    return [out.start().trial.lr for out in run.trials() if out.starts_file.exists()]


AXES = ["trial.augmentation=none", "trial.epochs=2", "search.algorithm=grid"]


@pytest.fixture(scope="module")
def two_of_three(pictures: Path, tmp_path_factory: pytest.TempPathFactory, ray_here: None) -> RunDir:
    """A grid over two learning rates."""
    folder = tmp_path_factory.mktemp("earlier")
    return run_here(sweep_of(pictures, folder, *AXES, "trial.lr=[1e-5, 1e-4]"), folder)[0]


@pytest.mark.slow
def test_a_grid_trains_what_is_new_and_comes_to_what_a_cold_one_does(
    two_of_three: RunDir, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    (tmp_path / "cold").mkdir()
    three = [*AXES, "trial.lr=[1e-5, 3e-5, 1e-4]"]
    cold, _ = run_here(sweep_of(pictures, tmp_path / "cold", *three), tmp_path / "cold")
    first = RunDir(shutil.copytree(two_of_three.path, tmp_path / "first"))
    said, asked = io.StringIO(), sweep_of(pictures, tmp_path, *three, f"search.warm_start=[{first.path}]")
    run, done = run_here(asked, tmp_path, said)
    assert ": 2 taken over\n" in said.getvalue()
    assert trained_here(run) == [3e-5]
    assert len(done) == 3
    assert rows(run) == rows(cold)
    assert sum(out.weights_file.exists() for out in run.trials()) == 3
    ours, theirs = (build_leaderboard(one).set_index("lr") for one in (run, cold))
    same = ["rank", "kind", "status", "val_auc", "best_epoch", "epochs"]
    assert ours[same].equals(theirs[same])
    assert (ours["taken_from"] == "").tolist() == [lr == 3e-5 for lr in ours.index]
    # the earlier run goes, and the new one is cut off in its own trial: the same comes out again
    shutil.rmtree(first.path)
    own = next(out for out in run.trials() if out.starts_file.exists())
    for path in own.path.iterdir():
        if path.is_file() and path != own.start_file:
            path.unlink()
    assert run_here(asked, tmp_path)[1][-1].id == own.id
    assert rows(run) == rows(cold)


@pytest.mark.slow
def test_optuna_is_retraced_with_what_it_knew(
    two_of_three: RunDir, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    search = ["search.algorithm=optuna", "search.trials=4", f"search.warm_start=[{two_of_three.path}]"]
    settings = [*AXES, *search, "trial.lr={log: [1e-5, 1e-3]}"]
    run, done = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path)
    assert [one.trial.lr for one in done[:2]] == [1e-5, 1e-4]
    assert trained_here(run) == [one.trial.lr for one in done[2:]]
    # cut off with the third trial ended and the fourth not proposed; the earlier run has gone meanwhile
    cut = tmp_path / "cut"
    shutil.copytree(run.path, cut / "run")
    shutil.rmtree(RunDir(cut / "run").trial(done[3].id).path)
    moved = two_of_three.path.rename(two_of_three.path.with_name("moved"))
    _, again = run_here(sweep_of(pictures, tmp_path, *settings), cut)
    moved.rename(two_of_three.path)
    assert [(one.id, one.score) for one in again] == [(one.id, one.score) for one in done]


@pytest.mark.slow
def test_a_scheduler_is_told_of_what_was_taken_over(
    two_of_three: RunDir, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    asha = ["search.scheduler=asha", "search.reduction_factor=2", f"search.warm_start=[{two_of_three.path}]"]
    settings = [*AXES, *asha, "trial.lr=[1e-5, 1e-4, 1e-8]"]
    run, done = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path)
    assert [one.epochs for one in done] == [2, 2, 1]  # by itself it would have gone on
    assert trained_here(run) == [1e-8]


def test_the_plan_says_what_would_be_taken_over(
    two_of_three: RunDir, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    settings = [*AXES, "trial.lr=[1e-5, 3e-5, 1e-4]", f"search.warm_start=[{two_of_three.path}]"]
    asked = sweep_of(pictures, tmp_path, *settings)
    plan = plan_lines(asked, RunDir(tmp_path / "later"), slot_for(asked.resources), 0)
    assert f"warm start   {two_of_three.path}: 2 taken over" in plan
    assert "epochs       at most 2 (2 a trial)" in plan
    assert not (tmp_path / "later").exists()


def test_where_all_is_known_nothing_is_trained(
    two_of_three: RunDir, pictures: Path, tmp_path: Path, ray_here: None
) -> None:
    settings = [*AXES, "trial.lr=[1e-4, 1e-5]", f"search.warm_start=[{two_of_three.path}]"]
    run, _ = run_here(sweep_of(pictures, tmp_path, *settings), tmp_path)
    assert trained_here(run) == []
    assert rows(run) == rows(two_of_three)
