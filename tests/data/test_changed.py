"""rfray.data.changed: what is new, gone and changed in a data folder."""

import os
from pathlib import Path

from rfray.data.changed import changes
from rfray.data.folders import list_images
from tests.data.small_folders import settings, two_classes, write_image


def test_changes_names_what_is_new_gone_and_changed(tmp_path: Path) -> None:
    two_classes(tmp_path, 4)
    given = settings(tmp_path)
    known = list_images(settings(tmp_path), "train")
    assert changes(given, "train", known) == []
    write_image(tmp_path / "train/real/new.png", 77)
    (tmp_path / "train/fake/001.png").unlink()
    touched = tmp_path / "train/real/002.png"
    os.utime(touched, ns=(0, touched.stat().st_mtime_ns + 1))
    (tmp_path / "train/fake/003.png").write_text("text")
    assert changes(given, "train", known) == [
        "real/new.png is new",
        "fake/001.png is gone",
        "fake/003.png has changed",
        "real/002.png has changed",
    ]
