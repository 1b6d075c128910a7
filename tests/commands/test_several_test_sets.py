"""`rfray ensemble` with several test sets, one of them at a simulated S3: what is predicted, when, and what comes out.

The tasks run in this process instead of Ray's, which `tests/tuning/test_at_an_address.py` has.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from sklearn import metrics as sk

from rfray.commands.ensemble import ensemble
from rfray.errors import RfrayError, StorageError
from rfray.evaluation.leaderboard import read_leaderboard
from rfray.inference import predictions as inference
from rfray.stats.predictions import read_predictions
from rfray.store.ownership import holder_of
from rfray.store.run_dir import RunDir
from tests.object_store import bucket_here, upload
from tests.pictures import write_folder
from tests.two_models import two_models

SETTINGS = {name: {"backbone": "test_resnet", "image_size": size} for name, size in (("a", 32), ("b", 24))}


def here(run: RunDir, predict: Callable[..., Any], keys: Sequence[Any], _: Console) -> Iterator[tuple[Any, Any]]:
    """What `inference.predictions._outcomes` gives, without Ray."""
    for key in keys:
        yield key, predict(run.where, holder_of(run), key, 1)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_outcomes", here)
    monkeypatch.setattr("rfray.cluster.connect.connected", lambda *_: io.StringIO())


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gan")
    write_folder(folder, per_class=7, seed=5)
    with bucket_here() as address:
        upload(folder, f"{address}/gan")
        yield address


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Two models that have predicted the first test set."""
    folder = tmp_path_factory.mktemp("sets")
    write_folder(folder / "phone", per_class=5, seed=9)
    return two_models(folder / "here", pictures, SETTINGS)


def concluded(run: RunDir, *overrides: str) -> str:
    """What `rfray ensemble` said."""
    said = io.StringIO()
    ensemble(run, {"top_k": 2, "methods": ["soft"]}, False, ("csv",), None, Console(file=said, width=300), overrides)
    return said.getvalue()


def written(run: RunDir, part: str) -> list[int]:
    return [run.trial(name).predictions_file(part).stat().st_mtime_ns for name in ("a", "b")]


def test_sets_are_added_to_a_finished_run_which_predicts_only_what_is_new(run: RunDir, bucket: str) -> None:
    valid, phone = run.sweep().data.folder("test"), run.path.parent.parent / "phone"
    concluded(run)
    before = written(run, "test")
    assert "auc_worst" not in read_leaderboard(run)
    said = concluded(run, f"data.test={{valid: {valid}, phone: {phone}}}")
    assert "Predicting the test (phone) images with 2 trials" in said
    assert said.count("Predicting") == 1
    with_phone = written(run, "test-phone")
    said = concluded(run, f"data.test.gan={bucket}/gan")
    assert "Predicting the test (gan) images with 2 trials" in said
    assert said.count("Predicting") == 1
    assert (written(run, "test"), written(run, "test-phone")) == (before, with_phone)
    assert "Predicting" not in concluded(run)  # nothing is new

    sets = {"valid": "test", "phone": "test-phone", "gan": "test-gan"}
    assert run.sweep().data.test_sets == sets
    assert run.sweep().data.folder("test-gan") == f"{bucket}/gan"
    counts = run.catalog()["part"].value_counts()
    assert [counts[part] for part in sets.values()] == [32, 10, 14]
    frame = read_leaderboard(run).set_index("name")
    for name in ("a", "b", "ensemble"):
        aucs = []
        for one, part in sets.items():
            is_vote = name == "ensemble"
            file = run.ensemble_predictions_file(name, part) if is_vote else run.trial(name).predictions_file(part)
            given, known = read_predictions(file), run.images(part)
            assert given.labels.tolist() == known.loc[given.ids, "label"].tolist()
            aucs.append(sk.roc_auc_score(given.labels, given.p_fake))
            assert frame.loc[name, f"auc_{one}"] == pytest.approx(aucs[-1], abs=1e-15)
            assert frame.loc[name, f"n_{one}"] == len(known)
        assert frame.loc[name, ["auc_mean", "auc_worst"]].tolist() == pytest.approx([sum(aucs) / 3, min(aucs)])
    assert run.not_vouched(*run.test_predictions(), *run.votes_predictions()) == []


@pytest.mark.slow
def test_what_is_lost_damaged_or_changed_of_one_set_is_made_anew_alone(run: RunDir, bucket: str) -> None:
    valid, phone = run.sweep().data.folder("test"), run.path.parent.parent / "phone"
    concluded(run, f"data.test={{valid: {valid}, phone: {phone}, gan: {bucket}/gan}}")
    first = run.leaderboard_csv.read_text()
    lost, damaged = (run.trial(name).predictions_file("test-phone") for name in ("a", "b"))
    lost.unlink()
    assert "Predicting the test (phone) images with 1 trials" in concluded(run)
    damaged.write_bytes(run.trial("b").predictions_file("test-gan").read_bytes())
    said = concluded(run)
    assert "Not what was written, and so made anew" in said
    assert said.count("Predicting") == 1
    assert run.leaderboard_csv.read_text() == first
    # a kill between two models of a set: what was found is kept
    for file in (lost, damaged):
        file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "_outcomes", lambda *given: iter([next(here(*given))]))
        with pytest.raises(RfrayError):
            concluded(run)
    assert lost.exists()
    assert not damaged.exists()
    assert "Predicting the test (phone) images with 1 trials" in concluded(run)
    assert run.leaderboard_csv.read_text() == first
    # one folder changes, another is not there: the others stay as they are
    before = written(run, "test"), written(run, "test-gan")
    (phone / "real/000.bmp").rename(phone / "real/new.bmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rfray.data.node_cache.RemoteFolder.entries", _unreachable)
        said = concluded(run)
    assert "Test (phone) has changed (2 files, e.g. real/new.bmp is new)" in said
    assert "Going on with test (gan) as it was read before: " in said
    assert said.count("Predicting") == 1
    assert (written(run, "test"), written(run, "test-gan")) == before
    (phone / "real/new.bmp").rename(phone / "real/000.bmp")
    concluded(run)
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(first)), pd.read_csv(run.leaderboard_csv))


def _unreachable(*_: object) -> Iterator[Any]:
    raise StorageError("the store does not answer")


@pytest.mark.slow
def test_a_set_that_goes_takes_its_columns_along(run: RunDir) -> None:
    valid, phone = run.sweep().data.folder("test"), run.path.parent.parent / "phone"
    moved = phone.with_name("moved")
    concluded(run, f"data.test={{valid: {valid}, phone: {phone}}}")
    shutil.move(phone, moved)
    assert "Going on with test (phone) as it was read before" in concluded(run)
    assert "auc_phone" in read_leaderboard(run)
    said = concluded(run, f"data.test.phone={moved}")
    assert "Predicting" not in said  # the same images, at another place
    concluded(run, f"data.test={valid}")
    assert not {"auc_phone", "auc_mean"} & {*read_leaderboard(run)}
    assert [file.name for file in run.votes_predictions()] == [
        *("ensemble-predictions-test.parquet", "ensemble-predictions-val.parquet")
    ]
    shutil.move(moved, phone)
    assert "Predicting" not in concluded(run, f"data.test={{valid: {valid}, phone: {phone}}}")  # known from before
