"""Files at an address: what comes, what goes, what is left alone; and the errors that name the address."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rfray.errors import InputError, StorageError
from rfray.store.storage import Entry, Mirror, Storage, is_address
from tests.object_store import bucket_here


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with bucket_here() as address:
        yield address


@pytest.fixture
def storage(bucket: str, request: pytest.FixtureRequest) -> Storage:
    """A folder of its own for each test."""
    return Storage(f"{bucket}/{request.node.name}")


def names(storage: Storage) -> list[str]:
    return sorted(entry.path for entry in storage.entries())


@pytest.mark.parametrize(
    ("where", "yes"),
    [("s3://b/c", True), ("gs://b", True), ("/data", False), ("data/x", False), (Path("/x"), False), (None, False)],
)
def test_what_is_an_address(where: object, yes: bool) -> None:
    assert is_address(where) is yes


def test_a_file_comes_back_as_it_was_sent(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.bin").write_bytes(bytes(range(256)) * 100)
    storage.send(tmp_path, "a/b/c.bin")
    (entry,) = storage.entries()
    assert (entry.path, entry.size) == ("a/b/c.bin", 25600)
    assert entry.is_at(tmp_path / "a" / "b" / "c.bin")
    storage.fetch(entry, tmp_path / "other")
    assert (tmp_path / "other" / "a" / "b" / "c.bin").read_bytes() == bytes(range(256)) * 100
    assert entry.is_at(tmp_path / "other" / "a" / "b" / "c.bin")


def test_what_is_not_there_is_none_and_is_removed_without_a_word(storage: Storage) -> None:
    assert storage.entry("nothing") is None
    assert names(storage) == []
    storage.remove(["nothing"])
    storage.remove_folder("nothing")


def test_everything_moves_but_hidden_files(storage: Storage, bucket: str) -> None:
    for name in ("one", "deep/two", ".lock"):
        storage.write(name, name.encode())
    storage.move(f"{bucket}/elsewhere")
    assert names(storage) == [".lock"]
    assert names(Storage(f"{bucket}/elsewhere")) == ["deep/two", "one"]


def test_a_mirror_takes_only_what_differs(storage: Storage, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, storage)
    storage.write("a", b"1")
    storage.write("b", b"2")
    mirror.pull()
    before = (tmp_path / "a").stat().st_ino
    storage.write("b", b"longer")
    mirror.pull()
    assert (tmp_path / "a").stat().st_ino == before
    assert (tmp_path / "b").read_bytes() == b"longer"


def test_patterns_say_what_comes(storage: Storage, tmp_path: Path) -> None:
    for name in ("sweep.yaml", "trials/1/best.safetensors", "trials/1/result.json"):
        storage.write(name, b"x")
    Mirror(tmp_path / "some", storage).pull("sweep.yaml", "trials/1/*", without=["*best.safetensors"])
    found = sorted(p.relative_to(tmp_path / "some").as_posix() for p in (tmp_path / "some").rglob("*") if p.is_file())
    assert found == ["sweep.yaml", "trials/1/result.json"]


def test_what_was_removed_on_one_side_is_removed_on_the_other_where_it_is_asked_for(
    storage: Storage, tmp_path: Path
) -> None:
    trial = Mirror(tmp_path, storage).at("trials/1")
    trial.folder.mkdir(parents=True)
    for name in ("state-0001-aa.pt", "history.csv", "other.txt"):
        (trial.folder / name).write_text(name)
    trial.push()
    (trial.folder / "state-0001-aa.pt").rename(trial.folder / "state-0002-bb.pt")
    (trial.folder / "other.txt").unlink()
    trial.push()
    assert len(names(storage)) == 4
    trial.push(removing="state-*.pt")
    assert names(storage) == ["trials/1/history.csv", "trials/1/other.txt", "trials/1/state-0002-bb.pt"]
    storage.remove(["trials/1/state-0002-bb.pt", "trials/1/history.csv"])
    trial.pull(removing="state-*.pt")
    assert sorted(file.name for file in trial.folder.iterdir()) == ["history.csv", "other.txt"]
    trial.pull(removing="*")
    assert [file.name for file in trial.folder.iterdir()] == ["other.txt"]


def test_hidden_files_stay_where_they_are(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / ".half.part").write_text("")
    Mirror(tmp_path, storage).push(removing="*")
    assert names(storage) == []


def test_what_a_killed_fetch_has_left_goes_with_the_next_one(storage: Storage, tmp_path: Path) -> None:
    for name in ("sweep.yaml", "trials/1/best.safetensors"):
        storage.write(name, b"whole")
        half = tmp_path / name
        half.parent.mkdir(parents=True, exist_ok=True)
        half.with_name(f".{half.stem}.0123abcd.part{half.suffix}").write_bytes(b"wh")
    Mirror(tmp_path, storage).pull()
    found = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file())
    assert found == ["sweep.yaml", "trials/1/best.safetensors"]


def test_files_are_found_here_or_there(storage: Storage, tmp_path: Path) -> None:
    storage.write("trials/1/best.safetensors", b"x")
    (tmp_path / "trials" / "2").mkdir(parents=True)
    (tmp_path / "trials" / "2" / "best.safetensors").write_text("y")
    mirror = Mirror(tmp_path, storage)
    found = mirror.find("trials/*/best.safetensors")
    assert [file.parent.name for file in found] == ["1", "2"]
    mirror.remove(found)
    assert mirror.find("*") == []


def test_a_mirror_of_nothing_does_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    mirror = Mirror(tmp_path, None).at("deep")
    mirror.pull(removing="*")
    mirror.push(removing="*")
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://somewhere/x", r"ftp://somewhere/x: no such kind of address; allowed: s3://, gs://, hf://"),
        ("s3://no-such-bucket-here/x", r"^s3://no-such-bucket-here/x: there is no bucket no-such-bucket-here"),
    ],
)
def test_an_address_that_does_not_answer_is_named(bucket: str, address: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        list(Storage(address).entries())


def test_a_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has errors of its own for a network that is not there."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"hf://datasets/nobody/none/a: .+\. Check the address, and the credentials"):
        Storage("hf://datasets/nobody/none").read("a")


def test_half_a_file_is_no_file(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"12345")
    (entry,) = storage.entries()
    storage.write("a", b"123")
    with pytest.raises(StorageError, match="3 of 5 bytes came"):
        storage.fetch(entry, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../evil", "trials/../../../evil", "trials//evil"])
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_comes(
    name: str, bucket: str, tmp_path: Path
) -> None:
    storage = Storage(f"{bucket}/elsewhere-{len(name)}")
    storage.write("sweep.yaml", b"x")
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3").put_object(Bucket="rfray-test", Key=f"elsewhere-{len(name)}/{name}", Body=b"x")
    folder = tmp_path / "a" / "b"
    mirror = Mirror(folder, storage)
    for use in (mirror.pull, lambda: mirror.find("*"), lambda: storage.fetch(Entry(name, 1, 0), folder)):
        with pytest.raises(InputError, match=f"'{name}' is no name of a file below .*/a/b; allowed: "):
            use()
    assert list(tmp_path.iterdir()) == []
