"""rfray.models.bundle: what `rfray ensemble` leaves is a detector of its own; a changed one is refused."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from ruamel.yaml import YAML

from rfray.errors import RunError
from rfray.models.bundle import load_bundle
from rfray.models.inference import load_weights
from rfray.report.model_card import write_model_card
from rfray.store.bundle_record import Ensemble
from rfray.store.files import file_digest
from rfray.store.records import read_record, write_record
from rfray.store.run_dir import RunDir, find_bundle
from tests.two_models import concluded, two_models


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return concluded(two_models(tmp_path_factory.mktemp("bundle"), pictures))


@pytest.fixture
def bundle(run: RunDir, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run.bundle_folder, tmp_path / "copied"))


def resealed(bundle: Path, **changes: object) -> None:
    """Writes the record anew, with a digest that fits, as somebody would who wants it to be taken."""
    ensemble = read_record(bundle / "ensemble.json", Ensemble)
    assert ensemble.bundle is not None
    write_record(
        bundle / "ensemble.json",
        ensemble.model_copy(update={"bundle": ensemble.bundle.model_copy(update=changes)}),
    )


def refused(bundle: Path) -> str:
    with pytest.raises(RunError) as caught:
        load_bundle(bundle)
    return str(caught.value)


def test_the_record_has_all_that_a_detector_needs(run: RunDir) -> None:
    ensemble = run.ensemble()
    assert ensemble is not None
    assert ensemble.bundle is not None
    found = ensemble.bundle
    assert [member.id for member in found.members] == ensemble.members
    assert [(m.trial.backbone, m.trial.image_size, m.trial.resize) for m in found.members] == [
        ("test_resnet", 32, "scale"),
        ("test_efficientnet", 24, "crop"),
    ]
    assert found.figures["n"] == 32
    assert found.figures["tp"] + found.figures["fn"] == 16
    assert 0 <= found.figures["auc_low"] <= found.figures["auc"] <= found.figures["auc_high"] <= 1
    assert {"rfray", "torch", "timm", "Python"} <= found.versions.keys()
    assert str(run.path) not in run.ensemble_file.read_text()


PLAIN = """
import sys, timm, torch
model = timm.create_model('local-dir:{member}', pretrained=True).eval()
print(model.pretrained_cfg['input_size'], float(model(torch.ones(1, 3, {side}, {side}))[0, 1]))
assert 'rfray' not in sys.modules
"""
PROBED = """
import json, sys, timm, torch
from safetensors import safe_open
backbone = timm.create_model('local-dir:{member}', pretrained=True).eval()
with safe_open('{member}/head.safetensors', 'pt') as file:
    head = {{name: file.get_tensor(name) for name in file.keys()}}
    stages = json.loads(json.loads(file.metadata()['rfray'])['stages'])
places = backbone.forward_intermediates(torch.ones(1, 3, {side}, {side}), indices=stages, intermediates_only=True)
seen = [of.flatten(2) for of in places]
pooled = torch.cat([torch.cat([of.mean(2), of.amax(2), of.std(2, correction=0)], 1) for of in seen], 1)
logits = (pooled - head['centre']) / head['scale'] @ head['linear.weight'].T + head['linear.bias']
print(backbone.pretrained_cfg['input_size'], float(logits[0, 1]))
assert 'rfray' not in sys.modules
"""


@pytest.mark.parametrize(("number", "side", "code"), [(1, 32, PLAIN), (2, 24, PROBED)])
def test_members_load_without_rfray(number: int, side: int, code: str, run: RunDir) -> None:
    code = code.format(member=run.bundle_folder / "members" / str(number), side=side)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = load_bundle(run.path).detectors[number - 1].model.float()
    with torch.inference_mode():
        logit = float(loaded(torch.ones(1, 3, side, side))[0, 1])
    size, seen = done.stdout.strip().rsplit(" ", 1)
    assert size == f"(3, {side}, {side})"
    assert float(seen) == pytest.approx(logit, abs=1e-5)


def test_a_copy_is_the_same_detector(run: RunDir, bundle: Path) -> None:
    first, second = load_bundle(run.path), load_bundle(bundle)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(first.detectors[0](pixels), second.detectors[0](pixels))
    assert first.ensemble == second.ensemble
    assert find_bundle(str(run.bundle_folder)) == run.bundle_folder == find_bundle(run.path)


def test_it_is_written_again_only_where_it_has_changed(run: RunDir) -> None:
    weights = run.bundle_folder / "members" / "1" / "model.safetensors"
    before = weights.stat().st_mtime_ns, file_digest(weights)
    concluded(run)
    assert (weights.stat().st_mtime_ns, file_digest(weights)) == before
    weights.write_bytes(weights.read_bytes()[:-1])
    concluded(run)
    assert file_digest(weights) == before[1]


@pytest.mark.parametrize("name", ["members/1/model.safetensors", "members/2/config.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_is_named(bundle: Path, name: str, damage: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    if damage == "gone":
        (bundle / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (bundle / name).write_bytes(content if damage == "flipped" else content[:-10])
    assert name in refused(bundle)


def test_a_flipped_bit_of_the_record_is_noticed(bundle: Path) -> None:
    record = bundle / "ensemble.json"
    record.write_text(record.read_text().replace('"threshold": 0.5', '"threshold": 0.6'))
    assert "ensemble.json is damaged: its content does not match its digest" in refused(bundle)


def test_a_pickle_in_place_of_the_weights_is_not_read(bundle: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (bundle / "executed",)  # type: ignore[return-value]

    weights = bundle / "members" / "1" / "model.safetensors"
    weights.write_bytes(pickle.dumps(Evil()))
    files = json.loads((bundle / "ensemble.json").read_text())["bundle"]["files"]
    resealed(bundle, files={**files, "members/1/model.safetensors": file_digest(weights)})
    assert "members/1/model.safetensors: not the weights of this model" in refused(bundle)
    assert not (bundle / "executed").exists()


@pytest.mark.parametrize("std", ["[0, 1, 1]", "[-1, 1, 1]", "[NaN, 1, 1]", f"[{'9' * 400}, 1, 1]", "[1, 1]", '"abc"'])
def test_a_normalisation_that_makes_no_pixels_is_refused(std: str, bundle: Path) -> None:
    config = bundle / "members" / "1" / "config.json"
    config.write_text(f'{{"pretrained_cfg": {{"mean": [0.5, 0.5, 0.5], "std": {std}}}}}')
    files = json.loads((bundle / "ensemble.json").read_text())["bundle"]["files"]
    resealed(bundle, files={**files, "members/1/config.json": file_digest(config)})
    assert "members/1/config.json is damaged: no mean and std of three channels" in refused(bundle)


def test_a_backbone_that_is_an_address_is_refused(bundle: Path) -> None:
    ensemble = read_record(bundle / "ensemble.json", Ensemble)
    assert ensemble.bundle is not None
    first, *others = ensemble.bundle.members
    trial = first.trial.model_copy(update={"backbone": "local-dir:/tmp/x"})
    resealed(bundle, members=[first.model_copy(update={"trial": trial}), *others])
    assert "member 1: timm has no local-dir:/tmp/x" in refused(bundle)


def test_an_error_for_no_bundle_names_the_command_that_makes_one(run: RunDir, tmp_path: Path) -> None:
    assert "no bundle (a folder with ensemble.json), and no run folder" in refused(tmp_path)
    fresh = RunDir(tmp_path / "fresh")
    fresh.path.mkdir()
    shutil.copy(run.sweep_file, fresh.sweep_file)
    assert "no bundle (a folder with ensemble.json); `rfray ensemble` makes it" in refused(fresh.path)
    ensemble = run.ensemble()
    assert ensemble is not None
    fresh.bundle_folder.mkdir()
    write_record(fresh.ensemble_file, ensemble.model_copy(update={"bundle": None}))
    assert "does not say what its members are; `rfray ensemble RUN` writes it anew" in refused(fresh.path)


def test_the_card_has_front_matter_and_figures(run: RunDir) -> None:
    _, front, card = run.model_card.read_text().split("---\n", 2)
    fields = YAML(typ="safe").load(front)
    assert fields["library_name"] == "timm"
    ensemble = run.ensemble()
    assert ensemble is not None
    assert ensemble.bundle is not None
    values = {one["type"]: one["value"] for one in fields["model-index"][0]["results"][0]["metrics"]}
    assert values["roc_auc"] == pytest.approx(ensemble.bundle.figures["auc"], abs=1e-4)
    assert "| test | 16 | 16 | the figures below" in card
    for heading in ("Use", "Data", "Figures", "Limits", "Members"):
        assert f"\n## {heading}\n" in card


def test_a_card_of_a_coin_toss_says_so_first(run: RunDir) -> None:
    ensemble = run.ensemble()
    assert ensemble is not None
    assert ensemble.bundle is not None
    coin = {**ensemble.bundle.figures, "auc": 0.5, "auc_low": 0.4, "auc_high": 0.6}
    before = run.model_card.read_text()
    write_model_card(run, ensemble.model_copy(update={"bundle": ensemble.bundle.model_copy(update={"figures": coin})}))
    _, _, card = run.model_card.read_text().split("---\n", 2)
    assert card.lstrip().split("\n")[2].startswith("> **No better than guessing on 32 test images: AUC 0.500")
    run.model_card.write_text(before)


def test_a_card_calls_nothing_fake_that_is_unsure(run: RunDir) -> None:
    ensemble = run.ensemble()
    assert ensemble is not None
    before = run.model_card.read_text()
    assert "An image is called fake where it is 0.5 or more. Nothing of this" in before
    write_model_card(run, ensemble.model_copy(update={"unsure": (0.4, 0.75)}))
    card = " ".join(run.model_card.read_text().split())
    assert "called fake where it is 0.75 or more, real where it is less than 0.4, and unsure in between" in card
    run.model_card.write_text(before)


def test_every_size_that_a_vision_transformer_was_given_is_kept(pictures: Path, tmp_path: Path) -> None:
    settings = {"a": {"backbone": "test_vit", "image_size": 48}}
    run = concluded(two_models(tmp_path, pictures, settings))
    model = timm.create_model(f"local-dir:{run.bundle_folder}/members/1", pretrained=True)
    assert model(torch.zeros(1, 3, 48, 48)).shape == (1, 2)
    pixels = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    with torch.inference_mode():
        assert np.isfinite(load_bundle(run.path).detectors[0](pixels).numpy()).all()


@pytest.mark.parametrize("backbone", ["vit_giant_patch14_224", "convnext_xxlarge"])
def test_a_backbone_that_is_far_larger_than_its_weights_is_not_built(backbone: str, bundle: Path) -> None:
    ensemble = read_record(bundle / "ensemble.json", Ensemble)
    assert ensemble.bundle is not None
    first, *others = ensemble.bundle.members
    trial = first.trial.model_copy(update={"backbone": backbone})
    resealed(bundle, members=[first.model_copy(update={"trial": trial}), *others])
    assert re.search(rf"member 1: {backbone} can't be built .* more than \d+ MB, so the weights", refused(bundle))


def test_a_file_that_is_far_larger_than_the_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "w.safetensors").open("wb") as sparse:
        sparse.truncate(20_000_000_000)
    with pytest.raises(RunError, match=r"w\.safetensors: not the weights of this model: 20000 MB for 0 MB"):
        load_weights(tmp_path / "w.safetensors", torch.nn.Linear(2, 2))
