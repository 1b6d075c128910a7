"""Every file that a number is made of: a bit that is not what it was is noticed, or what it is in is made anew."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from rfray.commands.ensemble import ensemble
from rfray.commands.leaderboard import show_leaderboard
from rfray.errors import RfrayError, RunError
from rfray.inference.missing import without_predictions
from rfray.models.inference import save_weights
from rfray.spec.trial import Trial
from rfray.stats.predictions import predictions_metadata, read_predictions, write_predictions
from rfray.store.records import TrialStart
from rfray.store.run_dir import RunDir, TrialDir, probe_id
from rfray.store.sealed import find_array, is_sealed, write_array, write_table
from rfray.tuning.probing import learn_fold_heads
from tests.synthetic import FIRST, as_predicted, new_run, predictions, small_run

WHAT_IS_SHOWN = {"leaderboard.md", "README.md", "groups.csv", "drawn.png", "leaderboard.csv.sha256"}
"""Files of a run that no number is made of."""


def flipped(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    file.write_bytes(data)


def some_bits(file: Path, count: int = 5) -> Iterator[int]:
    yield from np.random.default_rng(0).integers(8 * file.stat().st_size, size=count).tolist()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = as_predicted(small_run(tmp_path_factory.mktemp("run") / "run"))
    ensemble(made, {"methods": ["soft", "weighted"]}, False, ("csv", "markdown"), None, Console(file=io.StringIO()))
    return made


def test_a_flipped_bit_anywhere_in_a_run_changes_no_number_silently(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound: dict[Path, bytes] = {}

    def predicted_anew(_: RunDir, trials: list[TrialDir], *__: object) -> None:
        for out in trials:
            file = out.predictions_file("test")
            file.write_bytes(sound[file])

    def shown() -> str:
        said = io.StringIO()
        ensemble(run, {"methods": ["soft", "weighted"]}, False, ("csv", "markdown"), None, Console(file=io.StringIO()))
        show_leaderboard(run, None, Console(file=said, width=300))
        return said.getvalue() + run.leaderboard_csv.read_text()

    monkeypatch.setattr("rfray.inference.predictions.predict_test", predicted_anew)
    files = [file for file in run.path.rglob("*") if file.is_file() and file.name not in WHAT_IS_SHOWN]
    files = [file for file in files if "members" not in file.parts]  # see test_bundle
    sound.update({file: file.read_bytes() for file in files})
    expected, kinds = shown(), {file.name for file in files}
    assert {"predictions-test.parquet", "catalog.parquet", "ensemble-predictions-test.parquet"} <= kinds
    for file in files:
        if file.parent.name in ("003", "004", "005"):
            continue  # have no predictions to make a number of
        for bit in some_bits(file, 3):
            flipped(file, bit)
            try:
                assert shown() == expected, f"{file}, bit {bit}"
            except RfrayError as error:
                assert file.name in str(error), (file, error)  # noqa: PT017
            for other, data in sound.items():
                other.write_bytes(data)


@pytest.mark.parametrize("edit", ["p_fake", "label"])
def test_edited_predictions_are_made_anew_or_refused(edit: str, run: RunDir) -> None:
    trial = run.trial("001")
    file = trial.predictions_file("test")
    before = file.read_bytes()
    assert without_predictions(run, [trial], "test") == []
    table = pq.read_table(file)  # with its metadata
    other = pa.array(1 - table[edit].to_numpy(), table.schema.field(edit).type)
    pq.write_table(table.set_column(table.schema.get_field_index(edit), edit, other), file)
    assert without_predictions(run, [trial], "test") == [trial]
    assert predictions_metadata(file) == {}
    with pytest.raises(RunError, match="its content does not match its digest"):
        read_predictions(file)
    file.write_bytes(before)


def test_a_catalog_with_other_labels_is_refused(run: RunDir) -> None:
    before = run.catalog_file.read_bytes()
    table = run.catalog()
    table.assign(label=1 - table["label"]).to_parquet(run.catalog_file, index=False, write_page_checksum=True)
    with pytest.raises(RunError, match=r"catalog\.parquet is damaged: its content does not match its digest"):
        run.catalog()
    run.catalog_file.write_bytes(before)
    pd.testing.assert_frame_equal(run.catalog(), table)


def test_every_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    array, table, said = tmp_path / "a.safetensors", tmp_path / "t.parquet", tmp_path / "p.parquet"
    write_array(array, np.arange(6, dtype=np.float32).reshape(2, 3))
    write_table(table, pa.table({"x": [1, 2]}))
    write_predictions(said, predictions(FIRST), {"weights": "w"})
    assert find_array(array).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert pq.read_table(table)["x"].to_pylist() == [1, 2]
    assert predictions_metadata(said) == {"weights": "w"}
    for file in (array, table, said):
        before = file.read_bytes()
        for bit in range(8 * len(before)) if file == array else some_bits(file, 300):
            flipped(file, bit)
            assert not is_sealed(file), bit
            file.write_bytes(before)
        assert is_sealed(file)
        file.write_bytes(before[:-1])
        assert not is_sealed(file)
    assert find_array(array) is None
    assert find_array(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["history.csv", "best.safetensors", "predictions-val.parquet"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "sparse"])
def test_what_is_no_plain_file_of_its_size_is_damaged_and_not_read(name: str, kind: str, tmp_path: Path) -> None:
    out = small_run(tmp_path / "run").trial("001")
    result, file = out.result(), out.path / name
    assert result is not None
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "endless":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as sparse:
            sparse.truncate(20_000_000_000)
    if kind != "sparse":  # its digest is one of 20 GB
        assert out.damaged_files(result.model_copy(update={"files": {name: "0" * 64}})) == [file]
    if name == "history.csv":
        with pytest.raises(RunError, match=r"history\.csv is damaged"):
            out.history()
    assert not is_sealed(file)


def test_a_damaged_fold_head_is_learned_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run", head="probe", pretrained=False)
    sweep = run.sweep()
    trial, known = Trial(backbone="test_resnet", head="probe"), {"number": 0, "results_known": 0}
    starts = [TrialStart(id=f"r{fold}", trial=trial, fold=(fold, 2), **known) for fold in (1, 2)]
    probe = sweep.probe(starts[0].trial)
    files = [run.trial(probe_id(probe)).fold_weights_file((fold, 2)) for fold in (1, 2)]
    asked: list[object] = []
    monkeypatch.setattr("rfray.tuning.probing._learned", lambda run, sweep, missing, *_: asked.append(missing) or [])
    for file in files:
        save_weights(file, torch.nn.Linear(2, 2), {"strength": "1"})
    learn_fold_heads(run, sweep, starts, None)
    flipped(files[1], 8 * files[1].stat().st_size - 3)
    learn_fold_heads(run, sweep, starts, None)
    assert asked == [[(probe, (2, 2))]]
