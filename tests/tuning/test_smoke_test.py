"""What can't work is said before the first trial: models that can't take a step."""

from pathlib import Path

import pytest

from rfray.errors import SweepError
from rfray.spec.sweep_file import SweepFile, load_sweep
from rfray.tuning.smoke_test import rehearse_models


def sweep_file(folder: Path, trial: str, search: str = "{trials: 4}") -> SweepFile:
    path = folder / "sweep.yaml"
    path.write_text(
        f"name: a\ndata: {{train: x, test: y}}\ntrial:\n  pretrained: false\n  {trial}\nsearch: {search}\n"
        "ensemble: {top_k: 1}\n"
    )
    return load_sweep(path)


def test_every_backbone_takes_a_step_at_every_size(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "backbone: [test_resnet, test_vit]\n  image_size: [32, 96]")
    parameters = rehearse_models(file)
    assert list(parameters) == ["test_resnet", "test_vit"]
    assert 100_000 < parameters["test_vit"] < 1_000_000


def test_a_size_that_a_backbone_refuses_is_named(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "backbone: [test_resnet, densenet121]\n  image_size: {int: [16, 32]}")
    problem = r"sweep.yaml:5: trial.backbone\[1\]: densenet121 can't take a step at 16 px: \w+"
    with pytest.raises(SweepError, match=problem):
        rehearse_models(file)
