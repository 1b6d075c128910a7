"""What can't work is said before the first trial: folders that nodes can't write to, images that they can't see."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from rfray.cluster.node_preflight import _prepare, check_storage, prepare_nodes
from rfray.cluster.slots import Slot
from rfray.commands.prepare_data import prepare_training
from rfray.errors import ClusterError, DiskFullError
from rfray.store.ownership import claim_run
from rfray.store.run_dir import RunDir
from tests.tuning.test_run_sweep import sweep_of

QUIET = Console(file=io.StringIO())


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> RunDir:
    """A prepared run on images of its own, scaled and as they are."""
    shutil.copytree(pictures, tmp_path / "data")
    sweep = sweep_of(tmp_path / "data", tmp_path, "trial.resize=[scale, crop]")
    run = RunDir(tmp_path / "run")
    claim_run(run, sweep)
    prepare_training(run, sweep, QUIET)
    return run


def cached(folder: Path) -> list[str]:
    return sorted(file.name.split("-")[-1] for file in folder.glob("pixels-*.u8"))


def test_another_node_decodes_the_images_once(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "cache of another node"
    monkeypatch.setenv("RFRAY_CACHE", str(node))
    assert _prepare(run.path) is None
    assert cached(node) == ["scale32.u8", "whole.u8"]
    shutil.rmtree(tmp_path / "data")  # what is decoded is enough
    assert _prepare(run.path) is None


def test_a_node_that_can_not_see_the_images_says_so(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "empty"))
    shutil.rmtree(tmp_path / "data")
    said = _prepare(run.path)
    assert said is not None
    assert said.startswith(f"can't see the images: {tmp_path}/data/train is not there, and they are not in its cache")
    assert f"({tmp_path}/empty)" in said
    assert said.endswith("or put them at an address that all nodes reach (data.train: s3://…)")


def test_a_val_folder_is_prepared_and_missed_too(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures, tmp_path / "data")
    shutil.copytree(pictures / "test", tmp_path / "val")
    sweep = sweep_of(tmp_path / "data", tmp_path, f"data.val={tmp_path}/val", "data.test_duplicates=keep")
    run = RunDir(tmp_path / "run")
    claim_run(run, sweep)
    prepare_training(run, sweep, QUIET)
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "another"))
    assert _prepare(run.path) is None
    assert cached(tmp_path / "another") == ["scale32.u8", "scale32.u8"]
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "empty"))
    shutil.rmtree(tmp_path / "val")
    assert str(_prepare(run.path)).startswith(f"can't see the images: {tmp_path}/val is not there")


def test_no_room_in_the_cache_is_no_excuse_for_images_out_of_sight(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("rfray.data.images.make_room", lambda folder, max_gb, need: 0)
    assert _prepare(run.path) is None  # they are decoded when they are needed
    shutil.rmtree(tmp_path / "data")
    said = _prepare(run.path)
    assert said is not None
    assert said.startswith("can't see the images")


def test_other_images_under_the_same_path_are_named(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFRAY_CACHE", str(tmp_path / "empty"))
    (tmp_path / "data" / "train" / "fake" / "000.bmp").write_bytes(b"other")
    said = _prepare(run.path)
    assert said is not None
    assert said.startswith(f"can't read the images: {tmp_path}/data/train/fake/000.bmp has changed since")


def test_this_machine_alone_has_nothing_to_prepare(
    run: RunDir, ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfray.cluster.node_preflight.finished", None)
    prepare_nodes(run, Slot(1, 0), QUIET)


def test_a_disk_too_small_for_the_plan(tmp_path: Path, ray_here: None) -> None:
    with pytest.raises(DiskFullError, match=r"it needs 1000000000000\.0 MB"):
        check_storage(RunDir(tmp_path / "run"), 10**18)
    check_storage(RunDir(tmp_path / "run"), 1)
    assert list((tmp_path / "run").iterdir()) == []  # the probes are gone


def test_a_node_that_can_not_write_is_named(ray_here: None) -> None:
    blocked = RunDir("/proc")  # a folder that is there and that nobody can write to
    with pytest.raises(ClusterError, match=r"node 127\.0\.0\.1 can't write into the run folder /proc"):
        check_storage(blocked, 1)
