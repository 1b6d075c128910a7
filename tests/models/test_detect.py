"""detect(): the scores of image files are those of the same images as the test set."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rfray.data import batches
from rfray.models.bundle import detect, load_bundle
from rfray.models.grad_cam import write_heatmaps
from rfray.stats.predictions import read_predictions
from rfray.stats.voting import NOT_FINITE
from rfray.store.run_dir import RunDir
from tests.inference.test_mistake_pictures import opened
from tests.two_models import concluded, two_models


@pytest.fixture(scope="module", params=[None, {"quality": 60, "size": 48}], ids=["plain", "reencode"])
def run(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("detection")
    return concluded(two_models(folder, pictures, reencode=request.param), "calibrated")


def test_files_of_the_test_set_get_the_scores_of_the_test_set(run: RunDir) -> None:
    ensemble = run.ensemble()
    assert ensemble is not None
    assert ensemble.name == "ensemble-calibrated"
    test = read_predictions(run.ensemble_predictions_file(ensemble.name, "test"))
    paths = [str(run.path.parent / "images" / "test" / name) for name in test.ids]
    bundle = load_bundle(run.path)
    tables = [table for table, _ in detect(bundle, paths, batch_size=7, threads=2)]
    assert [len(table) for table in tables] == [7, 7, 7, 7, 4]
    table = pd.concat(tables)
    np.testing.assert_allclose(table["p_fake"], test.p_fake, rtol=0, atol=1e-5)
    for member in ensemble.members:
        alone = read_predictions(run.trial(member).predictions_file("test"))
        np.testing.assert_allclose(table[member], alone.p_fake, rtol=0, atol=1e-5)


def test_a_file_that_cannot_be_read_costs_only_its_row(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = run.path.parent / "images" / "test" / "fake" / "000.bmp"
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.bmp").write_bytes(good.read_bytes()[:500])
    paths = [str(tmp_path / "gone.jpg"), str(good), str(tmp_path / "empty.jpg"), str(tmp_path / "cut.bmp"), str(good)]
    read = []
    monkeypatch.setattr(batches, "read_file", lambda path: read.append(path) or Path(path).read_bytes())
    ((table, pictures),) = detect(load_bundle(run.path), [str(good), *paths[2:]], batch_size=10, threads=1)
    assert pictures == [None] * 4
    assert table["reason"][0] == table["reason"][3] == ""
    assert table["reason"][1] == "not an image of a known format"
    assert "truncated" in table["reason"][2].lower()
    scores = table[["a", "b"]].to_numpy()
    assert np.isnan(scores[1:3]).all()
    np.testing.assert_array_equal(scores[0], scores[3])
    assert sorted(read) == sorted([str(good), *paths[2:]])  # once each, for two members
    monkeypatch.undo()
    ((table, _),) = detect(load_bundle(run.path), paths[:1], batch_size=10, threads=1)
    assert table["reason"].tolist() == ["No such file or directory"]


def test_an_output_that_is_not_finite_is_a_reason(run: RunDir) -> None:
    bundle = load_bundle(run.path)
    for parameter in bundle.detectors[1].model.parameters():
        parameter.data.fill_(np.nan)
    image = str(run.path.parent / "images" / "test" / "fake" / "000.bmp")
    ((table, _),) = detect(bundle, [image], batch_size=1, threads=1)
    assert table["reason"].tolist() == [NOT_FINITE]


def test_heatmaps_are_written(run: RunDir, tmp_path: Path) -> None:
    shutil.copy(run.path.parent / "images" / "test" / "fake" / "001.bmp", tmp_path / "a face.bmp")
    bundle = load_bundle(run.path)
    paths = [str(tmp_path / "gone.jpg"), str(tmp_path / "a face.bmp")]
    (seen,) = detect(bundle, paths, batch_size=2, threads=1, keep_pictures=True)
    names = write_heatmaps(bundle, seen, tmp_path / "evidence", first=40)
    assert names == ["", "000041-a face.jpg"]
    assert opened(tmp_path / "evidence" / names[1]).shape == (32, 32, 3)
