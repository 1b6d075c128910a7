"""rfray.data.listing: what words mean, and why a file can't be read."""

import os
from pathlib import Path

import pytest

from rfray.data import listing
from rfray.data.decoding import UnreadableImageError
from rfray.data.listing import image_files, read_file
from rfray.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.PNG", "b/1.jpg", "a/3.webp", "a/notes.txt", ".hidden/4.jpg", "a/.5.jpg", "0.jpg", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def listed(*words: str, lines: str = "") -> list[str]:
    return list(image_files(words, lines.splitlines(keepends=True)))


def test_folders_files_patterns_and_lists_in_their_order(here: Path) -> None:
    assert listed("b", "a") == ["b/1.jpg", "b/2.PNG", "a/3.webp"]
    assert listed(".") == ["./0.jpg", "./odd[1].jpg", "./a/3.webp", "./b/1.jpg", "./b/2.PNG"]
    assert listed("*/*.jpg") == ["b/1.jpg"]
    assert listed("**/*.jpg") == ["0.jpg", "b/1.jpg", "odd[1].jpg"]
    assert listed("odd[1].jpg") == ["odd[1].jpg"]  # it is there, so it is no pattern
    assert listed("0.jpg", "-", lines="b/1.jpg\n\n no such file.jpg\r\n") == ["0.jpg", "b/1.jpg", " no such file.jpg"]
    assert listed("a/notes.txt", "gone.jpg") == ["a/notes.txt", "gone.jpg"]  # whoever reads them will say


def test_what_means_nothing_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    for words, reason in [
        (["empty"], "empty: no image file in it"),
        (["*.gif"], r"\*\.gif: no file of such a name"),
        (["https://example.org/x.jpg"], "https://example.org/x.jpg: allowed: .* s3://.*; download it first"),
    ]:
        with pytest.raises(InputError, match=reason):
            listed(*words)


def test_a_file_is_read_or_there_is_a_reason(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_file("b/1.jpg") == b"b/1.jpg"
    os.mkfifo("pipe.jpg")  # reading it would never end
    monkeypatch.setattr(listing, "MAX_BYTES", 7)
    for name, reason in [
        ("gone.jpg", "No such file or directory"),
        ("b", "a folder"),
        ("pipe.jpg", "not a plain file"),
        ("a/3.webp", "0 MB are over 0 MB"),
        ("a\0b", "embedded null byte"),
    ]:
        with pytest.raises(UnreadableImageError, match=reason):
            read_file(name)
