"""A bundle of two real models that know nothing, loaded once."""

from pathlib import Path

import pytest

from rfray.store.run_dir import RunDir
from tests.two_models import concluded, two_models


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> RunDir:
    """A run with a bundle; its images are of 32 px."""
    return concluded(two_models(tmp_path_factory.mktemp("serving"), pictures))


@pytest.fixture(scope="session")
def images(pictures: Path) -> list[Path]:
    """Eight of them."""
    return sorted((pictures / "test").rglob("*.bmp"))[::4]
