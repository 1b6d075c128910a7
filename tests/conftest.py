"""What all tests share: a cache of their own, and one Ray for those that need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rfray.progress import phases
from tests.pictures import write_folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps decoded pixels and demo images out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(autouse=True)
def say_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long is said once, however slow the machine is: tests count lines."""
    monkeypatch.setattr(phases, "PAUSE", 3600.0)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and test: 40 + 40 and 16 + 16 images of 32 px that are easy to tell apart."""
    folder = tmp_path_factory.mktemp("pictures")
    write_folder(folder / "train", per_class=40, seed=0)
    write_folder(folder / "test", per_class=16, seed=1)
    return folder


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """One Ray on this machine for all tests that run trials in this process."""
    from rfray.cluster.connect import connected
    from rfray.spec.sweep import Resources

    with connected(None, Resources(cpu=1)):
        yield
