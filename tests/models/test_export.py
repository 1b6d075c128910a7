"""rfray.models.export: one file with the probabilities of the bundle, for any number of images."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rfray.data.decoding import decode
from rfray.errors import InputError, RfrayError
from rfray.models import export
from rfray.models.bundle import detect, load_bundle
from rfray.models.export import EXPORT_METADATA, EXPORTS, check_format, export_bundle, geometries_in, inputs_of
from rfray.stats.voting import joined
from rfray.store.run_dir import RunDir
from tests.two_models import concluded, two_models


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("export")
    return concluded(two_models(folder, pictures, reencode={"quality": 60, "size": 48}), "calibrated")


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPORTS)
def test_the_same_as_the_bundle(form: str, run: RunDir, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra rfray[onnx] is not installed")
    bundle = load_bundle(run.path)
    file = tmp_path / f"model.{form}"
    assert export_bundle(bundle, form, file) <= 1e-4
    assert list(tmp_path.iterdir()) == [file]
    generator = np.random.default_rng(0)
    assert [(one.side, one.resize) for one in inputs_of(bundle)] == [(32, "scale"), (24, "crop")]
    for count in (1, 3, 17):
        squares = [generator.integers(0, 256, (count, 3, side, side), dtype=np.uint8) for side in (32, 24)]
        p_fake, scores = EXPORTS[form][1](file, squares)
        with torch.inference_mode():
            wanted = np.stack([of(torch.from_numpy(s)) for of, s in zip(bundle.detectors, squares, strict=True)])
        np.testing.assert_allclose(scores.T, wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(p_fake, joined(bundle.ensemble, wanted), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_pictures_get_the_scores_of_predict(run: RunDir, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="the extra rfray[onnx] is not installed")
    bundle, file = load_bundle(run.path), tmp_path / "model.onnx"
    export_bundle(bundle, "onnx", file)
    paths = sorted(str(path) for path in (run.path.parent / "images" / "test").rglob("*.bmp"))
    ((table, _),) = detect(bundle, paths, batch_size=len(paths), threads=1)
    wanted = table["p_fake"]
    # as the README has it
    session = runtime.InferenceSession(file)
    geometries = geometries_in(session.get_modelmeta().custom_metadata_map[EXPORT_METADATA])
    for path, p_fake in zip(paths, wanted, strict=True):
        picture = decode(Path(path).read_bytes())
        inputs = {name: geometry.square(picture).transpose(2, 0, 1)[None] for name, geometry in geometries.items()}
        assert session.run(["p_fake"], inputs)[0][0] == pytest.approx(p_fake, abs=1e-4)


@pytest.mark.slow
def test_the_metadata_describe_the_inputs(run: RunDir, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra rfray[onnx] is not installed")
    export_bundle(load_bundle(run.path), "onnx", tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    (known,) = [json.loads(one.value) for one in model.metadata_props if one.key == EXPORT_METADATA]
    assert list(known["inputs"]) == [one.name for one in model.graph.input] == ["square_32_scale", "square_24_crop"]
    assert known["classes"] == ["real", "fake"]
    assert known["threshold"] == 0.5
    assert known["warning"].startswith("No better than guessing on 32 test images")


def test_a_file_that_differs_is_not_written(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RfrayError, match=r"pt2: its probabilities differ by .* from the bundle's; not written"):
        export_bundle(load_bundle(run.path), "pt2", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_and_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--format onx: no such format; allowed: onnx, pt2; nearest: onnx"):
        check_format("onx")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'rfray\[onnx\]'"):
        check_format("onnx")
    check_format("pt2")
