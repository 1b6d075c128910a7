import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from rfray.commands.prepare_data import LEFT_OUT, check_audit, prepare_test, prepare_training
from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.data.geometry import geometries
from rfray.errors import AuditError, DataError, RunError
from rfray.inference.missing import prediction_origins, without_predictions
from rfray.report.words import count_rows
from rfray.spec.sweep import Sweep
from rfray.stats.predictions import Predictions, write_predictions
from rfray.store.run_dir import CATALOG, RunDir


def write_images(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (12, 8), (number % 256, number // 256, 7)).save(folder / f"{number:04d}.png")


def write_folder(folder: Path, count: int, first: int) -> None:
    """Two classes of `count` images; the fake ones have numbers from 500 on."""
    write_images(folder / "real", count, first)
    write_images(folder / "fake", count, first + 500)


class Made:
    """A run folder, its sweep and what was printed."""

    def __init__(self, folder: Path, **data: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.train, self.test = folder / "train", folder / "test"
        given = {"train": str(self.train), "cache": {"dir": str(folder / "cache")}, **data}
        if "test" not in given:
            given["test"] = str(self.test)
        trial = {"backbone": "test_vit", "image_size": 16}
        self.sweep = Sweep.model_validate({"name": "run", "data": given, "trial": trial})
        self.run = RunDir(folder / "run")
        self.output = io.StringIO()
        self.console = Console(file=self.output, width=80)

    def tune(self) -> pd.DataFrame:
        return prepare_training(self.run, self.sweep, self.console)

    def ensemble(self) -> pd.DataFrame:
        """Test, after what `rfray ensemble` does."""
        prepare_test(self.run, self.sweep, self.console)
        catalog = self.run.catalog()
        return catalog[catalog["part"] == "test"]

    def printed(self) -> str:
        """What was printed since the last time."""
        text = self.output.getvalue()
        self.output.seek(0)
        self.output.truncate()
        return text


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path)
    write_folder(made.train, 20, first=0)
    return made


# train and val


def test_of_larger_folders_so_many_images_are_used(tmp_path: Path) -> None:
    made = Made(tmp_path, train_images=20, val=str(tmp_path / "val"), val_images=10)
    write_folder(made.train, 20, first=0)
    write_folder(tmp_path / "val", 20, first=100)
    catalog = made.tune()
    counts = {("train", 0): 10, ("train", 1): 10, ("val", 0): 5, ("val", 1): 5}
    assert catalog.groupby(["part", "label"]).size().to_dict() == counts
    printed = made.printed()
    for number, folder in ((20, "train"), (10, "val")):
        said = f"Using {number} of 40 images of the {folder} folder, drawn at random (data.{folder}_images)"
        assert said in printed
    assert made.tune().equals(catalog)
    gone = catalog.loc[catalog["folder"] == "train", "path"].iloc[0]
    (made.train / gone).unlink()
    with pytest.raises(RunError, match=f"{gone} is gone"):
        made.tune()


def test_the_catalog_is_written_and_the_images_counted(made: Made) -> None:
    catalog = made.tune()
    assert made.run.catalog().equals(catalog)
    assert catalog.groupby(["part", "label"]).size().to_dict() == {
        ("train", 0): 17,
        ("train", 1): 17,
        ("val", 0): 3,
        ("val", 1): 3,
    }
    not_yet, *steps, counted = made.printed().splitlines()
    assert steps == ["Looking for images that are alike", "Auditing the images"]
    assert not_yet.startswith("Test can't be compared with the training images yet: ")
    assert counted == "Images: train 17 real + 17 fake, val 3 real + 3 fake"
    assert catalog.columns.tolist() == CATALOG
    # nothing was unreadable: the list is there, and empty
    assert made.run.unreadable_file.read_text().splitlines() == ["path,reason,folder,size,modified"]


def test_unreadable_files_are_listed_and_named(tmp_path: Path) -> None:
    made = Made(tmp_path / "a [folder]", max_unreadable=0.5)
    write_folder(made.train, 20, first=0)
    (made.train / "fake/0503.png").write_text("text")
    for number in range(11):
        (made.train / f"real/[bold]{number:02d}.png").write_bytes(b"")
    catalog = made.tune()
    assert len(catalog) == 39
    listed = pd.read_csv(made.run.unreadable_file)
    assert listed["path"].tolist() == ["fake/0503.png", *(f"real/[bold]{number:02d}.png" for number in range(11))]
    assert set(listed["reason"]) == {"not an image of a known format"}
    assert set(listed["folder"]) == {"train"}
    assert listed["size"].tolist() == [4] + 11 * [0]
    lines = made.printed().splitlines()
    # names and folders may hold what rich would take for markup
    assert lines[0] == f"Warning: 12 files can't be read and are left out (see {made.run.unreadable_file}):"
    assert lines[1] == "  fake/0503.png: not an image of a known format"
    assert lines[2] == "  real/[bold]00.png: not an image of a known format"
    assert len(lines) == 1 + 10 + 4  # the first ten by name, what is not compared, two steps and the counts


def test_too_many_unreadable_files_leave_no_catalog(made: Made) -> None:
    (made.train / "fake/0503.png").write_text("text")
    with pytest.raises(DataError, match=r"fake/0503\.png"):
        made.tune()
    assert not made.run.catalog_file.exists()


def test_a_sweep_goes_on_with_the_catalog_it_began_with(made: Made) -> None:
    (made.train / "fake/0503.png").write_text("text")
    made.sweep = made.sweep.model_copy(
        update={"data": made.sweep.data.model_copy(update={"max_unreadable": 0.5, "val": 0.3})}
    )
    first = made.tune()
    before = made.run.catalog_file.stat()
    again = made.tune()
    assert again.equals(first)
    assert made.run.catalog_file.stat().st_mtime_ns == before.st_mtime_ns
    for allowed, refused in ((1 / 40, False), (0.02, True)):  # what is allowed may change
        made.sweep = made.sweep.model_copy(
            update={"data": made.sweep.data.model_copy(update={"max_unreadable": allowed})}
        )
        if not refused:
            assert made.tune().equals(first)
            continue
        with pytest.raises(
            DataError, match=r"train: 1 of 40 files can't be read, more than .* \(2 %\) allows:\n .*0503"
        ):
            made.tune()


def test_a_start_that_is_refused_leaves_what_the_run_says_of_its_folders(made: Made, tmp_path: Path) -> None:
    made.tune()
    before, data = made.run.sweep_file.read_text(), made.sweep.data
    write_folder(tmp_path / "other", 20, first=7)
    given = {"train": str(tmp_path / "other"), "test": str(tmp_path / "others")}
    made.sweep = made.sweep.model_copy(update={"data": data.model_copy(update=given)})
    with pytest.raises(RunError, match="images have changed"):
        made.tune()
    assert made.run.sweep_file.read_text() == before
    shutil.copytree(made.train, tmp_path / "moved")
    moved = data.model_copy(update={"train": str(tmp_path / "moved")})
    made.sweep = made.sweep.model_copy(update={"data": moved})
    made.tune()
    assert made.run.sweep().data.train == str(tmp_path / "moved")
    made.sweep = made.sweep.model_copy(update={"seed": 5, "data": data})
    with pytest.raises(RunError, match="holds a sweep of this name with other settings:\n  seed: 0 -> 5\n"):
        made.tune()
    assert made.run.sweep().data.train == str(tmp_path / "moved")


def test_changed_images_are_refused_by_name(made: Made) -> None:
    made.tune()
    changed = made.train / "real/0004.png"
    data = bytearray(changed.read_bytes())
    data[-20] ^= 1
    changed.write_bytes(data)
    os.utime(made.train / "real/0003.png", ns=(0, 5))  # the same bytes: nothing has changed
    (made.train / "fake/0510.png").unlink()
    write_images(made.train / "fake", 1, first=900)
    with pytest.raises(RunError) as raised:
        made.tune()
    text = str(raised.value)
    assert "3 images have changed" in text
    assert "fake/0900.png is new" in text
    assert "fake/0510.png is gone" in text
    assert "real/0004.png has changed" in text
    assert "--fresh" in text


def test_a_repaired_file_counts_as_a_change(tmp_path: Path) -> None:
    made = Made(tmp_path, max_unreadable=0.5)
    write_folder(made.train, 20, first=0)
    (made.train / "fake/0503.png").write_text("text")
    made.tune()
    made.tune()  # the unreadable file is known: no change
    write_images(made.train / "fake", 1, first=503)
    with pytest.raises(RunError, match=r"fake/0503\.png has changed"):
        made.tune()


def test_new_times_of_the_same_files_are_compared_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = Made(tmp_path, max_unreadable=0.5, val=str(tmp_path / "val"))
    for folder, first in ((made.train, 0), (tmp_path / "val", 100), (made.test, 1000)):
        write_folder(folder, 20, first)
    (made.train / "fake/0503.png").write_text("text")
    before = made.tune()
    made.ensemble()
    capfd.readouterr()
    touched = ("real/0003.png", "fake/0503.png", "fake/0505.png")  # the second one is not readable
    for name in touched:
        os.utime(made.train / name, ns=(0, 5))
    os.utime(tmp_path / "val/real/0104.png", ns=(0, 6))
    for name in ("real/1003.png", "fake/1505.png"):
        os.utime(made.test / name, ns=(0, 7))
    again = made.tune()
    said = capfd.readouterr().err
    assert f"Times are new: comparing the content of 3 files of {made.train}" in said
    assert f"comparing the content of 1 file of {tmp_path / 'val'}" in said
    test = made.ensemble()
    assert f"comparing the content of 2 files of {made.test}" in capfd.readouterr().err
    training = again[again["part"] != "test"].reset_index(drop=True)
    assert training.drop(columns="modified").equals(before.drop(columns="modified"))
    assert test.set_index("path").loc["real/1003.png", "modified"] == 7
    # known now: nothing is compared, and nothing written
    written = made.run.catalog_file.stat().st_mtime_ns
    made.tune()
    made.ensemble()
    assert capfd.readouterr().err == ""
    assert made.run.catalog_file.stat().st_mtime_ns == written
    # the bytes are what counts still
    picture = (made.train / "real/0004.png").read_bytes()
    (made.train / "real/0003.png").write_bytes(picture[: (made.train / "real/0003.png").stat().st_size])
    with pytest.raises(RunError, match=r"real/0003\.png has changed"):
        made.tune()


# test


def test_tune_needs_no_test_folder_and_ensemble_reads_it_later(made: Made) -> None:
    training = made.tune()
    assert not made.test.exists()
    with pytest.raises(DataError, match="test: no such folder"):
        made.ensemble()
    assert made.run.catalog().equals(training)
    write_folder(made.test, 6, first=1000)
    test = made.ensemble()
    assert test.groupby("label").size().to_dict() == {0: 6, 1: 6}
    catalog = made.run.catalog()
    assert catalog[catalog["part"] != "test"].equals(training)
    made.tune()  # the training folder is as it was: going on is allowed


def test_an_unchanged_test_folder_is_not_read_again(made: Made) -> None:
    made.tune()
    write_folder(made.test, 6, first=1000)
    first = made.ensemble()
    before = made.run.catalog_file.stat().st_mtime_ns
    made.printed()
    assert made.ensemble().equals(first)
    assert made.run.catalog_file.stat().st_mtime_ns == before
    assert made.printed() == ""


def test_a_changed_test_folder_is_read_again(made: Made) -> None:
    training = made.tune()
    write_folder(made.test, 6, first=1000)
    first = made.ensemble()
    made.printed()
    write_images(made.test / "real", 1, first=2000)
    (made.test / "fake/1502.png").unlink()
    second = made.ensemble()
    assert "Test has changed (2 files, e.g. real/2000.png is new)" in made.printed()
    assert set(second["path"]) == set(first["path"]) - {"fake/1502.png"} | {"real/2000.png"}
    catalog = made.run.catalog()
    assert catalog[catalog["part"] != "test"].equals(training)


def test_a_test_folder_that_is_gone_was_read_before(made: Made) -> None:
    made.tune()
    write_folder(made.test, 6, first=1000)
    first = made.ensemble()
    made.printed()
    shutil.rmtree(made.test)
    assert made.ensemble().equals(first)
    assert f"Going on with test as it was read before: {made.test}: no such folder" in made.printed()


def test_unreadable_files_of_both_folders_are_listed(tmp_path: Path) -> None:
    made = Made(tmp_path, max_unreadable=0.5)
    write_folder(made.train, 20, first=0)
    write_folder(made.test, 6, first=1000)
    (made.train / "fake/0503.png").write_text("text")
    (made.test / "real/1002.png").write_text("text")
    made.tune()
    assert len(made.ensemble()) == 11
    made.printed()
    assert len(made.ensemble()) == 11
    assert made.printed() == ""  # the unreadable file is known: no change
    listed = pd.read_csv(made.run.unreadable_file)
    assert dict(zip(listed["path"], listed["folder"], strict=True)) == {
        "fake/0503.png": "train",
        "real/1002.png": "test",
    }
    made.tune()  # what is unreadable in the test folder is no change of the training folder
    write_images(made.test / "real", 1, first=1002)
    assert len(made.ensemble()) == 12
    assert pd.read_csv(made.run.unreadable_file)["path"].tolist() == ["fake/0503.png"]


def test_a_test_part_cut_out_of_the_training_folder_needs_no_more(tmp_path: Path) -> None:
    made = Made(tmp_path, test=0.25)
    write_folder(made.train, 20, first=0)
    catalog = made.tune()
    assert (catalog["part"] == "test").sum() == 10
    test = made.ensemble()
    assert test.equals(catalog[catalog["part"] == "test"])
    assert made.tune().equals(catalog)
    (made.train / test["path"].iloc[0]).unlink()
    with pytest.raises(RunError, match="is gone"):
        made.tune()


# predictions


def test_predictions_are_made_anew_for_other_weights_or_images(made: Made) -> None:
    made.tune()
    write_folder(made.test, 6, first=1000)
    catalog = made.ensemble()
    trials = [made.run.trial(name) for name in ("001", "002", "003")]
    predictions = Predictions(catalog["path"].to_numpy(np.str_), catalog["label"].to_numpy(), np.full(12, 0.5))
    for trial in trials:
        trial.path.mkdir(parents=True)
        trial.weights_file.write_bytes(trial.id.encode())
    assert without_predictions(made.run, trials, "test") == trials
    for trial in trials:
        write_predictions(
            trial.predictions_file("test"), predictions, prediction_origins([trial], catalog, "test")[trial.id]
        )
    assert without_predictions(made.run, trials, "test") == []
    trials[1].weights_file.write_bytes(b"other weights")
    trials[2].predictions_file("test").write_bytes(b"damaged")
    assert without_predictions(made.run, trials, "test") == trials[1:]
    (made.test / "real/1003.png").unlink()
    made.ensemble()
    assert without_predictions(made.run, trials, "test") == trials


def test_predictions_under_corruption_are_missed_one_by_one(made: Made) -> None:
    made.tune()
    write_folder(made.test, 6, first=1000)
    catalog = made.ensemble()
    trials = [made.run.trial(name) for name in ("001", "002")]
    for trial in trials:
        trial.path.mkdir(parents=True)
        trial.weights_file.write_bytes(trial.id.encode())
        for corruption in CORRUPTION_NAMES:
            predictions = Predictions(np.array(["a"]), np.array([0], np.int8), np.array([0.5]))
            write_predictions(
                trial.predictions_file("test", corruption),
                predictions,
                prediction_origins([trial], catalog, "test")[trial.id],
            )
    assert without_predictions(made.run, trials, "test", CORRUPTION_NAMES) == []
    assert without_predictions(made.run, trials, "val", CORRUPTION_NAMES) == trials
    trials[1].predictions_file("test", "blur_2").unlink()
    assert without_predictions(made.run, trials, "test", CORRUPTION_NAMES) == trials[1:]
    trials[0].weights_file.write_bytes(b"other weights")
    assert without_predictions(made.run, trials, "test", CORRUPTION_NAMES) == trials


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ({"image_size": 32}, ["scale32"]),
        ({"image_size": [64, 32]}, ["scale64", "scale32"]),
        ({"image_size": {"int": [24, 96]}}, ["scale24"]),
        ({"image_size": [64, 32], "resize": "crop"}, ["whole"]),
        ({"image_size": 32, "resize": ["scale", "crop"]}, ["scale32", "whole"]),
    ],
)
def test_what_is_kept_of_the_images_is_made_while_they_are_read(trial: object, expected: list[str]) -> None:
    given = {"name": "run", "data": {"source": "demo"}, "trial": {"backbone": "test_vit", **trial}}
    assert [geometry.key for geometry in geometries(Sweep.model_validate(given))] == expected
    again = {**given, "data": {"source": "demo", "reencode": {"quality": 80}}}
    assert [one.key for one in geometries(Sweep.model_validate(again))] == [f"{key}-jpeg80at256" for key in expected]


# what the audit finds, and what becomes of it


def write_photographs(folder: Path, first: int, count: int = 12, seed: int = 0) -> None:
    """Pictures with enough in them to be told apart: noise of several scales."""
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)
        for number in range(first, first + count):
            generator = np.random.default_rng([number, name == "fake", *([seed] if seed else [])])
            noise = sum(
                np.kron(generator.normal(size=(n, n, 3)), np.ones((128 // n, 128 // n, 1))) for n in (4, 16, 64)
            )
            Image.fromarray((127 + 40 * noise).clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03d}.png")


@pytest.mark.parametrize(("setting", "left_out"), [("leave_out", 2), ("keep", 0)])
def test_training_images_that_are_in_the_test_part_too(tmp_path: Path, setting: str, left_out: int) -> None:
    made = Made(tmp_path, test_duplicates=setting)
    write_photographs(made.train, 0)
    write_photographs(made.test, 100)
    shutil.copy(made.train / "real/003.png", made.test / "real/copy.png")
    Image.open(made.train / "fake/005.png").save(made.test / "fake/copy.jpg", quality=60)
    catalog = made.tune()
    gone = catalog[catalog["part"] == LEFT_OUT]
    assert gone["path"].tolist() == (["fake/005.png", "real/003.png"] if left_out else [])
    assert len(catalog) == 24  # nobody is forgotten
    assert catalog["group_id"].nunique() == 24
    (error,) = made.run.audit().graded("error")
    assert error.sentence.startswith("2 of 26 test images are also among the training images")
    assert ("are left out of train and val" in error.sentence) == bool(left_out)
    shown = [row[0] for row in count_rows(made.run.audit())[1]]
    assert shown == ["train", "val", *(["left out"] if left_out else []), "test"]
    with pytest.raises(AuditError, match="2 of 26 test images"):
        check_audit(made.run, accepted=False, console=made.console)
    check_audit(made.run, accepted=True, console=made.console)
    assert made.ensemble()["path"].tolist() == [
        *sorted(path.relative_to(made.test).as_posix() for path in made.test.rglob("*.*"))
    ]


def test_pictures_that_look_alike_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    made = Made(tmp_path, val=0.4)
    write_photographs(made.train, 0)
    for number in range(12):
        for name in ("real", "fake"):
            Image.open(made.train / name / f"{number:03d}.png").save(
                made.train / name / f"{number:03d}.jpg", quality=50
            )
    catalog = made.tune()
    picture = catalog["path"].str.rpartition(".")[0]
    assert (catalog.groupby(picture)["part"].nunique() == 1).all()
    assert set(catalog["part"]) == {"train", "val"}


def test_a_test_folder_that_comes_later_is_compared_then(tmp_path: Path) -> None:
    made = Made(tmp_path)
    write_photographs(made.train, 0)
    made.tune()
    assert made.run.audit().graded("error") == []
    write_photographs(made.test, 100)
    shutil.copy(made.train / "real/003.png", made.test / "real/copy.png")
    made.ensemble()
    (error,) = made.run.audit().graded("error")
    assert error.code == "test-in-training"


@pytest.mark.parametrize("later", [False, True])
def test_test_images_that_look_alike_have_one_group(tmp_path: Path, later: bool) -> None:
    made = Made(tmp_path)
    write_photographs(made.train, 0)
    if later:
        made.tune()
    write_photographs(made.test, 100)
    Image.open(made.test / "real/103.png").save(made.test / "fake/copy.jpg", quality=60)
    shutil.copy(made.test / "fake/105.png", made.test / "fake/same.png")
    if not later:
        made.tune()
    numbers = made.ensemble().set_index("path")["group_id"]
    assert numbers["fake/copy.jpg"] == numbers["real/103.png"]
    assert numbers["fake/same.png"] == numbers["fake/105.png"]
    assert numbers.nunique() == 24
    catalog = made.run.catalog()
    assert not set(numbers) & set(catalog.loc[catalog["part"] != "test", "group_id"])


# several test sets


@pytest.fixture
def with_sets(tmp_path: Path) -> Made:
    """Train, and two test sets that have the same paths; the second one has a copy of a training image."""
    made = Made(tmp_path, test={"valid": str(tmp_path / "test"), "phone": str(tmp_path / "phone")})
    for number, folder in enumerate((made.train, made.test, tmp_path / "phone")):
        write_photographs(folder, 0, count=5, seed=number)
    shutil.copy(made.train / "real/003.png", tmp_path / "phone/real/copy.png")
    return made


def test_each_test_set_is_held_against_the_training_images(with_sets: Made) -> None:
    catalog = with_sets.tune()
    assert catalog.loc[catalog["part"] == LEFT_OUT, ["folder", "path"]].to_numpy().tolist() == [
        ["train", "real/003.png"]
    ]
    audit = with_sets.run.audit()
    (error,) = audit.graded("error")
    assert error.sentence.startswith("1 of 11 test (phone) images is also among the training images (1 the same file)")
    assert "train/real/003.png and test-phone/real/copy.png" in error.sentence
    few = [one.sentence for one in audit.findings if one.code == "few-images"]
    assert [sum(f"among the {title} images" in one for one in few) for title in ("test (valid)", "test (phone)")] == [
        1,
        1,
    ]
    assert [row[0] for row in count_rows(audit)[1]] == ["train", "val", "left out", "test", "test-phone"]
    with_sets.printed()
    with_sets.ensemble()
    assert with_sets.printed() == ""
    test = with_sets.run.catalog()[lambda table: table["part"].str.startswith("test")]
    assert test.groupby(["folder", "part"]).size().to_dict() == {("test", "test"): 10, ("test-phone", "test-phone"): 11}
    assert test["group_id"].is_unique
    assert with_sets.tune().equals(with_sets.run.catalog())


def test_a_set_that_comes_later_is_read_alone(with_sets: Made, tmp_path: Path) -> None:
    shutil.move(tmp_path / "phone", tmp_path / "later")
    with_sets.tune()
    assert "Test (phone) can't be compared with the training images yet: " in with_sets.printed()
    assert with_sets.run.audit().graded("error") == []
    with pytest.raises(DataError, match=r"Where it is elsewhere now: --set data\.test\.phone=FOLDER"):
        with_sets.ensemble()
    shutil.move(tmp_path / "later", tmp_path / "phone")
    with_sets.ensemble()
    assert "has changed" not in with_sets.printed()
    assert with_sets.run.audit().graded("error")[0].code == "test-in-training"
    assert with_sets.run.catalog()["part"].eq("test-phone").sum() == 11


def test_a_set_that_is_gone_changed_or_dropped_is_no_matter_of_the_others(with_sets: Made, tmp_path: Path) -> None:
    with_sets.tune()
    with_sets.ensemble()
    first = with_sets.run.catalog()
    of_valid = first[first["part"] == "test"].reset_index(drop=True)
    with_sets.printed()
    shutil.move(tmp_path / "phone", tmp_path / "away")
    (with_sets.test / "real/003.png").unlink()
    with_sets.ensemble()
    said = with_sets.printed()
    assert f"Going on with test (phone) as it was read before: {tmp_path / 'phone'}: no such folder" in said
    assert "Test (valid) has changed (1 files, e.g. real/003.png is gone); reading it again" in said
    assert "so of its images in the other folders only exact copies are found" in said
    catalog = with_sets.run.catalog()
    assert catalog["part"].value_counts()[["test", "test-phone"]].tolist() == [9, 11]
    phone = ["path", "digest"]
    known = first.loc[first["part"] == "test-phone", phone].reset_index(drop=True)
    assert catalog.loc[catalog["part"] == "test-phone", phone].reset_index(drop=True).equals(known)
    # the copy is still found, as it is the same file
    assert with_sets.run.audit().graded("error")[0].sentence.startswith("1 of 11 test (phone) images")
    data = with_sets.sweep.data.model_copy(update={"test": {"valid": str(with_sets.test)}})
    with_sets.sweep = with_sets.sweep.model_copy(update={"data": data})
    shutil.copy(tmp_path / "away/real/003.png", with_sets.test / "real/003.png")
    with_sets.ensemble()
    catalog = with_sets.run.catalog()
    assert set(catalog["part"]) == {"train", "val", "test", LEFT_OUT}
    assert len(catalog) == len(first) - 11
    assert set(with_sets.run.audited_images()["folder"]) == {"train", "test"}
    assert len(of_valid) == (catalog["part"] == "test").sum()


def test_a_set_that_is_dropped_leaves_none_of_its_unreadable_files(with_sets: Made, tmp_path: Path) -> None:
    (tmp_path / "phone/real/broken.png").write_bytes(b"no image")
    data = with_sets.sweep.data.model_copy(update={"max_unreadable": 0.5})
    with_sets.sweep = with_sets.sweep.model_copy(update={"data": data})
    with_sets.tune()
    with_sets.ensemble()
    assert with_sets.run.unreadable()["folder"].tolist() == ["test-phone"]
    assert with_sets.run.audit().unreadable_count == 1
    data = data.model_copy(update={"test": {"valid": str(with_sets.test)}})
    with_sets.sweep = with_sets.sweep.model_copy(update={"data": data})
    with_sets.ensemble()
    assert with_sets.run.unreadable().empty
    assert with_sets.run.audit().unreadable_count == 0


def test_a_command_that_was_ended_before_the_catalog_was_written_goes_on(
    with_sets: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_sets.tune()
    with_sets.ensemble()
    (with_sets.test / "real/003.png").unlink()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("write_table", "write_catalog"):
        with monkeypatch.context() as patch:
            patch.setattr(RunDir, step, stop)
            with pytest.raises(KeyboardInterrupt):
                with_sets.ensemble()
    assert len(with_sets.ensemble()) == 9


# a val folder


@pytest.fixture
def with_val(tmp_path: Path) -> Made:
    """Train, val and test in folders of their own, with the same paths in all of them."""
    made = Made(tmp_path, val=str(tmp_path / "val"))
    for number, folder in enumerate((made.train, tmp_path / "val", made.test)):
        write_photographs(folder, 0, seed=number)
    return made


def test_val_may_be_a_folder_of_its_own(with_val: Made) -> None:
    catalog = with_val.tune()
    counts = {("train", 0): 12, ("train", 1): 12, ("val", 0): 12, ("val", 1): 12}
    assert catalog.groupby(["part", "label"]).size().to_dict() == counts
    assert (catalog["part"] == catalog["folder"]).all()
    assert with_val.printed().splitlines()[-1] == "Images: train 12 real + 12 fake, val 12 real + 12 fake"
    audited = with_val.run.audited_images()
    assert audited.groupby("part").size().to_dict() == {"train": 24, "val": 24, "test": 24}
    assert [row[0] for row in count_rows(with_val.run.audit())[1]] == ["train", "val", "test"]
    assert with_val.tune().equals(catalog)
    test = with_val.ensemble()
    assert len(test) == 24
    assert not set(test["group_id"]) & set(catalog["group_id"])
    assert with_val.tune()[["folder", "part"]].value_counts().to_dict() == {
        ("train", "train"): 24,
        ("val", "val"): 24,
        ("test", "test"): 24,
    }


def test_changes_in_the_val_folder_are_noticed(with_val: Made, tmp_path: Path) -> None:
    with_val.tune()
    (tmp_path / "val/real/003.png").unlink()
    write_images(tmp_path / "val/fake", 1, first=900)
    with pytest.raises(RunError, match=r"2 images have changed") as raised:
        with_val.tune()
    assert "data.val: real/003.png is gone" in str(raised.value)
    assert "data.val: fake/0900.png is new" in str(raised.value)


def test_unreadable_files_of_the_val_folder_are_listed(tmp_path: Path) -> None:
    made = Made(tmp_path, val=str(tmp_path / "val"), max_unreadable=0.5)
    write_folder(made.train, 20, first=0)
    write_folder(tmp_path / "val", 20, first=0)
    (made.train / "fake/0503.png").write_text("text")
    (tmp_path / "val/fake/0503.png").write_text("text")
    catalog = made.tune()
    assert pd.read_csv(made.run.unreadable_file)[["folder", "path"]].to_numpy().tolist() == [
        ["train", "fake/0503.png"],
        ["val", "fake/0503.png"],
    ]
    assert made.tune().equals(catalog)


def test_copies_between_the_folders_are_found(with_val: Made, tmp_path: Path) -> None:
    shutil.copy(with_val.train / "real/003.png", tmp_path / "val/real/copy.png")
    Image.open(tmp_path / "val/fake/005.png").save(with_val.test / "fake/copy.jpg", quality=60)
    catalog = with_val.tune()
    groups = catalog.set_index(["folder", "path"])["group_id"]
    assert groups["train", "real/003.png"] == groups["val", "real/copy.png"]
    assert groups.nunique() == len(groups) - 1
    gone = catalog[catalog["part"] == LEFT_OUT]
    assert gone[["folder", "path"]].to_numpy().tolist() == [["val", "fake/005.png"]]
    audit = with_val.run.audit()
    found = {(pairs.kind, pairs.first, pairs.second): pairs.pairs for pairs in audit.duplicates}
    assert found == {("exact", "train", "val"): 1, ("re-encoded", "left out", "test"): 1}
    (error,) = audit.graded("error")
    assert "val/fake/005.png" in error.sentence
    assert any("train/real/003.png and val/real/copy.png" in one.sentence for one in audit.graded("warning"))


def test_a_part_of_which_all_images_are_in_test_is_an_error(with_val: Made, tmp_path: Path) -> None:
    for file in sorted((tmp_path / "val/fake").iterdir()):
        shutil.copy(file, with_val.test / "fake" / f"copy-{file.name}")
    with pytest.raises(DataError, match=r"val: no image of class fake is left, .* data\.test_duplicates: keep"):
        with_val.tune()


# images that a person has looked through, and tables of what is known of them


def test_what_data_leave_out_names_is_in_no_part(tmp_path: Path) -> None:
    listed = tmp_path / "wrong.csv"
    made = Made(tmp_path, leave_out=str(listed), test=0.2)
    write_folder(made.train, 20, first=0)
    listed.write_text("path,label\nreal/0003.png,0\nfake/0507.png,1\nfake/0508.png,1\n")
    catalog = made.tune()
    gone = catalog[catalog["part"] == LEFT_OUT]
    assert gone["path"].tolist() == ["fake/0507.png", "fake/0508.png", "real/0003.png"]
    assert len(catalog) == 40
    assert "data.leave_out: 1 real and 2 fake images are left out of train and val\n" in made.printed()
    without = Made(tmp_path / "without", test=0.2)
    shutil.copytree(made.train, without.train)
    for path in gone["path"]:
        (without.train / path).unlink()
    columns = ["path", "part"]  # the same split as if they had never been there
    kept = catalog.loc[catalog["part"] != LEFT_OUT, columns].reset_index(drop=True)
    assert kept.equals(without.tune()[columns])
    assert made.tune().equals(catalog)
    listed.write_text("fake/0508.png\nfake/0507.png\nreal/0003.png\n")  # the same list
    assert made.tune().equals(catalog)
    listed.write_text("fake/0507.png\nreal/0004.png\n")
    with pytest.raises(RunError) as refused:
        made.tune()
    assert "names other images than when this sweep began: 1 more (e.g. real/0004.png), 2 fewer (e.g. fake/05" in str(
        refused.value
    )


def test_data_leave_out_names_images_that_were_not_drawn_and_none_that_are_not_there(tmp_path: Path) -> None:
    listed = tmp_path / "wrong.txt"
    made = Made(tmp_path, leave_out=str(listed), test=0.2, train_images=20)
    write_folder(made.train, 20, first=0)
    listed.write_text("".join(f"fake/{number:04d}.png\n" for number in range(500, 510)))
    catalog = made.tune()
    left = (catalog["part"] == LEFT_OUT).sum()
    assert (
        f"0 real and {left} fake images are left out of train and val; {10 - left} of its paths take no part any"
        in (" ".join(made.printed().split()))
    )
    again = Made(tmp_path / "again", leave_out=str(listed), train=str(made.train), test=0.2)
    listed.write_text("fake/0500.png\nfake/9999.png\n")
    with pytest.raises(DataError, match="1 path of no training image: fake/9999"):
        again.tune()
    listed.write_text("".join(f"fake/{number:04d}.png\n" for number in range(500, 520)))
    with pytest.raises(DataError, match="it names every training image of class fake"):
        again.tune()
