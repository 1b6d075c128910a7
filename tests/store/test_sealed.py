"""Every file that a number is made of: a bit that is not what it was is noticed, or what it is in is made anew."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
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
from rfray.store.files import file_digest
from rfray.store.records import Fold, TrialStart
from rfray.store.run_dir import RunDir, TrialDir, probe_id, read_bundle
from rfray.store.sealed import find_array, read_sealed, table_bytes, write_array
from rfray.store.storage import Storage
from rfray.tuning.probing import learn_fold_heads
from tests.object_store import bucket_here, upload
from tests.synthetic import FIRST, as_predicted, new_run, predictions, small_run

WHAT_IS_SHOWN = {"leaderboard.md", "README.md", "groups.csv", "drawn.png"}
"""Files of a run that no number is made of."""


def is_sealed(path: Path) -> bool:
    """Whether a file is there, and what it was when it was sealed."""
    try:
        return bool(read_sealed(path))
    except (OSError, ValueError):
        return False


def flipped(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    file.write_bytes(data)


def some_bits(file: Path, count: int = 5) -> Iterator[int]:
    yield from np.random.default_rng(0).integers(8 * file.stat().st_size, size=count).tolist()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = as_predicted(small_run(tmp_path_factory.mktemp("run") / "run"))
    make(run)
    return run


@pytest.fixture
def run(made: RunDir) -> Iterator[RunDir]:
    """A finished run, in which every file is put back afterwards."""
    sound = content(made)
    yield made
    put_back(made, sound)


def content(run: RunDir) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def put_back(run: RunDir, sound: dict[Path, bytes]) -> None:
    for file in sorted(run.path.rglob("*"), reverse=True):
        if file.is_symlink() or (file.is_file() and file not in sound):
            file.unlink()
        elif file.is_dir() and file in sound:
            file.rmdir()
    for file, data in sound.items():
        if not file.is_file() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


@pytest.fixture(autouse=True)
def _predicted_anew(made: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no images: the test predictions that `rfray ensemble` makes anew are the ones that were there."""
    sound = {file: file.read_bytes() for file in made.test_predictions()}

    def predict_test(_: RunDir, missing: dict[str, list[TrialDir]], *__: object) -> None:
        files = [made.trial(out.id).predictions_file(part) for part, trials in missing.items() for out in trials]
        for file in files:
            file.write_bytes(sound[file])
        made.vouch({file: file_digest(file) for file in files})

    monkeypatch.setattr("rfray.inference.predictions.predict_test", predict_test)


def make(run: RunDir) -> str:
    said = io.StringIO()
    ensemble(run, {"methods": ["soft"]}, False, ("csv", "markdown"), None, Console(file=said, width=300))
    return said.getvalue()


def shown(run: RunDir) -> str:
    said = io.StringIO()
    show_leaderboard(run, None, Console(file=said, width=300))
    return said.getvalue() + run.leaderboard_csv.read_text()


def remade(run: RunDir) -> str:
    make(run)
    return shown(run)


def all_files(run: RunDir) -> list[Path]:
    files = [file for file in sorted(run.path.rglob("*")) if file.is_file() and file.name not in WHAT_IS_SHOWN]
    return [file for file in files if file.parent.name not in ("003", "004", "005")]  # no number is made of these


def test_a_flipped_bit_anywhere_in_a_run_changes_no_number_silently(run: RunDir) -> None:
    expected, files = remade(run), all_files(run)
    kinds = {"predictions-test.parquet", "catalog.parquet", "ensemble-predictions-test.parquet", "digests.json"}
    assert kinds | {"model.safetensors", "config.json", "best.safetensors"} <= {file.name for file in files}
    for file in files:
        data = file.read_bytes()
        (bit,) = some_bits(file, 1)
        for reader in (shown, remade):
            flipped(file, bit)
            try:
                assert reader(run) == expected, f"{file}, bit {bit}"
            except RfrayError as error:
                assert file.name in str(error), (file, error)  # noqa: PT017
            file.write_bytes(data)


def linked(file: Path, to: Path) -> None:
    file.unlink()
    file.symlink_to(to)


def taken_from_another(file: Path) -> None:
    """Puts the file of the same name of another trial in its place, which was written by rfray and is whole."""
    others = {"001": "002", "002": "001", "1": "2", "2": "1"}
    folder = file.parent.name
    other = file.parent.with_name(others[folder]) / file.name if folder in others else file.with_name("none")
    if not other.exists():  # of the run, there is no other
        file.write_bytes(b"another run's")
    elif file.read_bytes() != other.read_bytes():
        file.write_bytes(other.read_bytes())


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def repeated(file: Path) -> None:
    """Once more all that is in it: rows twice, where the format allows that."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        file.write_bytes(table_bytes(pa.concat_tables([table, table])))
    else:
        file.write_bytes(file.read_bytes() * 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda file: file.write_bytes(b"") and None,
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-7]) and None,
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\n") and None,
    "repeated": repeated,
    "gone": Path.unlink,
    "a folder": as_folder,
    "a link to nothing": lambda file: linked(file, file.with_name("nothing")),
    "a link to zeros": lambda file: linked(file, Path("/dev/zero")),
    "another trial's": taken_from_another,
}


@pytest.mark.parametrize(("number", "damage"), enumerate(DAMAGES))
def test_no_damage_to_a_file_of_a_run_changes_a_number_silently(number: int, damage: str, run: RunDir) -> None:
    """Every file meets some of the damages; RFRAY_ALL_DAMAGES=1 has it meet all."""
    expected, sound = remade(run), content(run)
    files = all_files(run) if os.environ.get("RFRAY_ALL_DAMAGES") else all_files(run)[number :: len(DAMAGES)]
    for file in files:
        for reader in (shown, remade):
            DAMAGES[damage](file)
            try:
                said = reader(run)
                without = file.name == "best.safetensors" and reader is remade and not file.exists()
                if without:  # as of trials that were not kept
                    expected_line = {
                        "001": "001 has no weights any more",
                        "002": "Only 1 trials with weights are there",
                    }
                    assert expected_line[file.parent.name] in make(run)
                assert without or said == expected or file.name in said, f"{file}: {damage}"
            except (RfrayError, OSError) as error:
                assert file.name in str(error), (file, error)  # noqa: PT017
            put_back(run, sound)


def test_a_flipped_bit_in_a_bundle_is_refused(run: RunDir) -> None:
    for file in (file for file in all_files(run) if "members" in file.parts or file == run.ensemble_file):
        data = file.read_bytes()
        for bit in some_bits(file, 3):
            flipped(file, bit)
            with pytest.raises(RunError, match=file.name):
                read_bundle(run.path)
        file.write_bytes(data)


def edited(file: Path, column: str) -> None:
    """What rfray's own writer makes of the file with 1 - x in a column: its seal is right."""
    table = pq.read_table(file)
    other = pa.array(1 - table[column].to_numpy(), table.schema.field(column).type)
    file.write_bytes(table_bytes(table.set_column(table.schema.get_field_index(column), column, other)))


@pytest.mark.parametrize("column", ["p_fake", "label"])
def test_predictions_of_the_own_writer_are_made_anew(column: str, run: RunDir) -> None:
    expected, file = remade(run), run.trial("001").predictions_file("test")
    edited(file, column)
    assert is_sealed(file)
    assert without_predictions(run, [run.trial("001")], "test") == []
    with pytest.raises(RunError, match=r"001/predictions-test\.parquet is not what was written"):
        shown(run)
    assert "Not what was written, and so made anew where there are weights: " in make(run)
    assert shown(run) == expected


def resealed(file: Path, **changes: object) -> None:
    """Changes keys of a record, as somebody would who wants it to be taken: with a digest that fits."""
    fields = json.loads(file.read_text()) | changes
    del fields["sha256"]
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({**fields, "sha256": digest}))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("trials/001/result.json", {"score": 0.99}, r"001/result\.json is not what was written"),
        ("trials/001/result.json", {"files": {}}, r"001/result\.json is not what was written"),
        ("trials/001/trial.json", {"results_known": 7}, r"001/trial\.json is damaged"),
        ("trials/001/trial.json", {"id": "002"}, r"001/trial\.json is (damaged|not of this trial but of 002)"),
        ("audit.json", {"images": 1}, r"audit\.json is not what was written"),
        ("digests.json", {"files": {"catalog.parquet": ["0" * 64]}}, r"001/result\.json is not what was written"),
    ],
)
def test_an_edited_record_is_refused_although_its_digest_is_right(
    name: str, changes: dict[str, object], said: str, run: RunDir
) -> None:
    resealed(run.path / name, **changes)
    with pytest.raises(RunError, match=said):
        make(run)


def test_an_edited_ensemble_is_refused_and_made_anew(run: RunDir) -> None:
    expected = remade(run)
    resealed(run.ensemble_file, threshold=0.25)
    with pytest.raises(RunError, match=r"ensemble\.json is not what was written: its digest is not in digests\.json"):
        shown(run)
    assert remade(run) == expected


@pytest.mark.parametrize("gone", ["trials/001/result.json", "trials/001/trial.json", "trials/001"])
def test_a_trial_that_is_gone_is_named(gone: str, run: RunDir) -> None:
    path = run.path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    named = "trial" if gone.endswith("trial.json") else "result"
    with pytest.raises(RunError, match=rf"001/{named}\.json is (gone|damaged)"):
        make(run)


def test_a_run_at_an_address_is_held_against_the_digests_there(run: RunDir) -> None:
    with bucket_here() as bucket:
        upload(run.path, f"{bucket}/run")
        there, storage = RunDir(f"{bucket}/run"), Storage(f"{bucket}/run")
        assert shown(there) == shown(run)
        for name in ("trials/001/predictions-test.parquet", "ensemble/ensemble-predictions-val.parquet"):
            edited(run.path / name, "p_fake")
            storage.send(run.path, name)
            with pytest.raises(RunError, match=rf"{Path(name).name} is not what was written"):
                shown(there)
        resealed(run.trial("002").result_file, score=0.99)
        storage.send(run.path, "trials/002/result.json")
        with pytest.raises(RunError, match=r"002/result\.json is not what was written"):
            make(there)


def test_predictions_that_changed_places_are_made_anew(run: RunDir) -> None:
    expected, files = remade(run), [run.trial(name).predictions_file("test") for name in ("001", "002")]
    for file, data in zip(files, [file.read_bytes() for file in files][::-1], strict=True):
        file.write_bytes(data)
    assert remade(run) == expected


@pytest.mark.parametrize("name", ["ensemble-predictions-test.parquet", "ensemble-predictions-val.parquet"])
def test_a_vote_of_the_own_writer_is_refused(name: str, run: RunDir) -> None:
    expected, file = remade(run), run.bundle_folder / name
    edited(file, "p_fake")
    with pytest.raises(RunError, match=f"{name} is not what was written: its digest is not in digests.json"):
        shown(run)
    assert remade(run) == expected


def test_a_catalog_of_the_own_writer_is_refused(run: RunDir) -> None:
    edited(run.catalog_file, "label")
    with pytest.raises(
        RunError, match=r"catalog\.parquet is not what was written.*; delete .*, and `rfray tune` makes"
    ):
        run.check_images()
    with pytest.raises(RunError, match=r"catalog\.parquet is not what was written"):
        make(run)


@pytest.mark.parametrize("name", ["history.csv", "best.safetensors", "predictions-val.parquet"])
def test_files_of_another_trial_are_refused(name: str, run: RunDir) -> None:
    (run.trial("001").path / name).write_bytes((run.trial("002").path / name).read_bytes() + b"\n" * (name[0] == "h"))
    with pytest.raises(RunError, match=f"001/{name} is damaged"):
        make(run)


def test_folders_of_trials_that_changed_places_are_refused(run: RunDir) -> None:
    one, other = run.trial("001").path, run.trial("002").path
    aside = one.rename(one.with_name("aside"))
    other.rename(one)
    with pytest.raises(RunError, match=r"001/result\.json is not of this trial but of 002: put the folders back"):
        make(run)
    one.rename(other)
    aside.rename(one)


def test_a_command_that_was_ended_between_a_digest_and_its_file_goes_on(run: RunDir) -> None:
    before = file_digest(run.catalog_file)
    for coming in ("1" * 64, "2" * 64):  # killed twice
        run.vouch({run.catalog_file: coming})
        run.check(run.catalog_file)
    run.write_catalog(run.catalog()[::-1])
    run.check(run.catalog_file)
    run.vouch({run.catalog_file: file_digest(run.catalog_file)})
    assert before not in run.digests_file.read_text()


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


def test_every_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    array, table, said = tmp_path / "a.safetensors", tmp_path / "t.parquet", tmp_path / "p.parquet"
    write_array(array, np.arange(6, dtype=np.float32).reshape(2, 3))
    table.write_bytes(table_bytes(pa.table({"x": [1, 2]})))
    write_predictions(said, predictions(FIRST), {"weights": "w"})
    assert find_array(array).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert pq.read_table(table)["x"].to_pylist() == [1, 2]
    assert predictions_metadata(said) == {"weights": "w"}
    for file in (array, table, said):
        before = file.read_bytes()
        for bit in range(8 * len(before)) if file == array else some_bits(file, 100):
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


def test_fold_heads_that_are_not_what_was_written_are_learned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", head="probe", pretrained=False)
    sweep = run.sweep()
    trial, known = Trial(backbone="test_resnet", head="probe"), {"number": 0, "results_known": 0}
    starts = [TrialStart(id=f"r{fold}", trial=trial, fold=(fold, 2), **known) for fold in (1, 2)]
    probe = sweep.probe(starts[0].trial)
    files = {(probe, (fold, 2)): run.trial(probe_id(probe)).fold_weights_file((fold, 2)) for fold in (1, 2)}
    asked: list[object] = []

    def learned(_: RunDir, __: object, missing: list[tuple[Trial, Fold]], *___: object) -> list[object]:
        asked.append(sorted(fold for _, (fold, _) in missing))
        for one in missing:
            save_weights(files[one], torch.nn.Linear(2, 2), {"strength": "1"})
        return []

    monkeypatch.setattr("rfray.tuning.probing._learned", learned)
    first, second = files.values()
    first.parent.mkdir(parents=True)
    for damage in (
        lambda: None,
        lambda: None,
        lambda: flipped(second, 8 * second.stat().st_size - 3),
        lambda: second.write_bytes(first.read_bytes()),  # with its seal
        lambda: save_weights(first, torch.nn.Linear(2, 2), {"strength": "1"}),
        lambda: first.unlink(),
    ):
        damage()
        learn_fold_heads(run, sweep, starts, None)
    assert asked == [[1, 2], [2], [2], [1], [1]]


def test_features_that_are_not_what_was_written_are_extracted_anew(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    file = run.trial("probe-1").features_file(0)
    write_array(file, np.ones((2, 3), np.float32))
    run.vouch({file: file_digest(file)})
    assert run.not_vouched(file, run.trial("probe-2").features_file(0)) == []
    write_array(file, np.zeros((2, 3), np.float32))
    assert is_sealed(file)
    assert run.not_vouched(file) == [file]


def test_the_top_of_the_chain_that_is_damaged_is_named_with_the_way_out(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.digests_file.write_text("{")
    with pytest.raises(RunError, match=r"digests\.json is damaged: .*; put it back, or start anew with --fresh"):
        run.not_vouched(run.sweep_file)
