"""Bringing a run folder here: what is missing or differs, whole files only, and never over another run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rfray.errors import ClusterError, RfrayError, RunError
from rfray.progress.events import OfferedFile
from rfray.remote.fetch import fetch, fetch_from_store
from rfray.spec.sweep_file import resolved_text
from rfray.store.files import file_digest, replace_text
from rfray.store.run_dir import RunDir
from tests.object_store import bucket_here, upload
from tests.synthetic import small_run


class Folder:
    """A run folder on this machine as a source; remembers what was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.was_read: list[str] = []

    def files(self) -> list[OfferedFile]:
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        return [
            OfferedFile(path=str(file.relative_to(self.path)), size=file.stat().st_size, sha256=file_digest(file))
            for file in found
        ]

    def read(self, file: OfferedFile) -> Iterator[bytes]:
        self.was_read.append(file.path)
        data = (self.path / file.path).read_bytes()
        yield data[:10]
        yield data[10:]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def there(tmp_path: Path) -> Folder:
    return Folder(small_run(tmp_path / "there" / "x").path)


def test_all_of_it_comes_and_results_come_last(there: Folder, tmp_path: Path) -> None:
    here = RunDir(tmp_path / "x")
    files, size = fetch(there, here, weights=True)
    assert content(here.path) == content(there.path)
    assert (files, size) == (len(content(there.path)), sum(map(len, content(there.path).values())))
    results = [path.endswith("result.json") for path in there.was_read]
    assert results == sorted(results)
    assert sum(results) == 4


def test_a_second_time_only_what_is_missing_or_differs(there: Folder, tmp_path: Path) -> None:
    here = RunDir(tmp_path / "x")
    fetch(there, here, weights=True)
    there.was_read.clear()
    assert fetch(there, here, weights=True) == (0, 0)
    same_size = here.trial("001").weights_file
    same_size.write_bytes(b"WEIGHTS")
    here.trial("002").result_file.unlink()
    assert fetch(there, here, weights=True)[0] == 2
    assert content(here.path) == content(there.path)
    # and the sweep, to see that it is the same one
    assert set(there.was_read) <= {"sweep.yaml", "trials/001/best.safetensors", "trials/002/result.json"}


def test_weights_may_stay_there(there: Folder, tmp_path: Path) -> None:
    here = RunDir(tmp_path / "x")
    fetch(there, here, weights=False)
    assert set(content(there.path)) - set(content(here.path)) == {
        "trials/001/best.safetensors",
        "trials/002/best.safetensors",
    }


def test_another_run_of_that_name_is_left_alone(there: Folder, tmp_path: Path) -> None:
    here = small_run(tmp_path / "x")
    search = here.sweep().search.model_copy(update={"trials": 77})
    replace_text(here.sweep_file, resolved_text(here.sweep().model_copy(update={"search": search})))
    before = content(here.path)
    with pytest.raises(RunError, match=r"search\.trials: 77 -> (.|\n)*--to"):
        fetch(there, here, weights=True)
    assert content(here.path) == before


def test_a_file_that_changes_on_its_way_is_fetched_as_it_is_now(there: Folder, tmp_path: Path) -> None:
    changing = there.path / "trials" / "001" / "history.csv"
    text = changing.read_text()

    class Running(Folder):
        def read(self, file: OfferedFile) -> Iterator[bytes]:
            if file.path.endswith("001/history.csv") and file.path not in self.was_read:
                changing.write_text(text + "3,…\n")
            yield from super().read(file)

    here = RunDir(tmp_path / "x")
    fetch(Running(there.path), here, weights=True)
    assert content(here.path) == content(there.path)


def test_a_file_that_never_comes_right_is_said_and_not_left_here(there: Folder, tmp_path: Path) -> None:
    class Broken(Folder):
        def read(self, file: OfferedFile) -> Iterator[bytes]:
            yield from [b"something else"] if file.path.endswith("001/history.csv") else super().read(file)

    here = RunDir(tmp_path / "x")
    with pytest.raises(RfrayError, match=r"1 files changed on their way, e\.g\. trials/001/history\.csv"):
        fetch(Broken(there.path), here, weights=True)
    assert set(content(there.path)) - set(content(here.path)) == {"trials/001/history.csv"}


def test_a_connection_that_ends_leaves_whole_files_only(there: Folder, tmp_path: Path) -> None:
    class Cut(Folder):
        def read(self, file: OfferedFile) -> Iterator[bytes]:
            yield (self.path / file.path).read_bytes()[:5]
            if file.path.endswith("002/predictions-val.parquet"):
                raise ClusterError("the cluster does not answer any more")
            yield (self.path / file.path).read_bytes()[5:]

    here = RunDir(tmp_path / "x")
    with pytest.raises(ClusterError, match="does not answer"):
        fetch(Cut(there.path), here, weights=True)
    all_of_it = content(there.path)
    assert all(all_of_it[path] == data for path, data in content(here.path).items())
    fetch(there, here, weights=True)
    assert content(here.path) == all_of_it


@pytest.mark.parametrize("path", ["../../evil", "/etc/evil", "trials/../../evil"])
def test_nothing_is_written_outside_the_run_folder(path: str, there: Folder, tmp_path: Path) -> None:
    class Evil(Folder):
        def files(self) -> list[OfferedFile]:
            return [*super().files(), OfferedFile(path=path, size=1, sha256="0" * 64)]

    with pytest.raises(RunError, match="not below the run folder"):
        fetch(Evil(there.path), RunDir(tmp_path / "x"), weights=True)
    assert not (tmp_path / "x").exists()


def test_a_run_at_an_address_comes_the_same_way(there: Folder, tmp_path: Path) -> None:
    there_run, here = RunDir(there.path), RunDir(tmp_path / "x")
    before = content(there.path)
    there_run.trial("005").state_file(1, "0" * 64).write_bytes(b"to go on from")
    (there.path / ".lock").write_text("somebody")
    with bucket_here() as bucket:
        upload(there.path, f"{bucket}/runs/x")
        fetch_from_store(f"{bucket}/runs/x", here, weights=False)
        assert set(before) - set(content(here.path)) == {f"trials/00{n}/best.safetensors" for n in (1, 2)}
        fetch_from_store(f"{bucket}/runs/x", here, weights=True)
        assert content(here.path) == before
        here.trial("001").weights_file.write_bytes(b"damaged")
        fetch_from_store(f"{bucket}/runs/x", here, weights=True)
        assert content(here.path) == before
        with pytest.raises(RunError, match="not a run folder"):
            fetch_from_store(f"{bucket}/runs/none", RunDir(tmp_path / "none"), weights=True)
