"""Sweep files and `--set`, damaged as text and as values -> a sweep that reads back as written, or InputError."""

import json
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from ruamel.yaml import YAML

from rfray.data.folders import check_folders
from rfray.errors import InputError, SweepError
from rfray.spec.checks import check_file, planned_trials, unused_settings
from rfray.spec.sweep_file import differences, load_sweep, read_resolved_sweep, resolved_text
from rfray.tuning.preflight import check_sweep
from tests.fuzz.mutate import ODD, of_text, of_value, several
from tests.fuzz.runner import Check, Input, Make
from tests.pictures import write_folder

LONGEST = 100_000
"""Characters of what is said of a sweep (our choice): the longest text that is put into one is repeated once."""
FULL: dict[str, Any] = {
    "name": "full",
    "seed": 1,
    "data": {
        "train": "images/train",
        "val": 0.2,
        "test": {"elsewhere": "images/test"},
        "classes": {"real": ["real"], "fake": "fake"},
        "train_images": 100,
        "val_images": 50,
        "folds": 2,
        "split_by": "group",
        "max_unreadable": 0.1,
        "group_pattern": r"(\d+)",
        "group": r"/(\w+)_\d+",
        "test_duplicates": "keep",
        "attributes": "known.csv",
        "leave_out": "wrong.csv",
        "reencode": {"quality": 80, "size": 64},
        "cache": {"dir": "pixels", "max_gb": 1},
    },
    "trial": {
        "backbone": ["resnet18", "convnext_tiny"],
        "pretrained": {"resnet18": True},
        "augmentation": ["light", "own"],
        "image_size": [64, 128],
        "lr": {"log": [1e-5, 1e-3]},
        "dropout": {"uniform": [0.0, 0.5]},
        "epochs": {"int": [1, 5]},
        "head": ["random", "probe"],
        "tta": "flip",
        "schedule": "step",
    },
    "augmentations": {
        "own": [{"HorizontalFlip": {"p": 0.5}}, {"GaussianBlur": None}, {"RandomCrop": {"height": 32, "width": 32}}]
    },
    "search": {
        "budget": "8gpu-h",
        "trials": 10,
        "algorithm": "optuna",
        "scheduler": "asha",
        "grace_epochs": 2,
        "reduction_factor": 4,
        "brackets": 2,
        "concurrent": 2,
        "keep": 9,
        "finalists": 2,
        "seeds": 2,
        "max_failed": 3,
        "probe": True,
        "probe_keep": 2,
        "warm_start": ["runs/earlier"],
    },
    "resources": {"cpu": 2, "gpu": 2, "workers": 2, "price_per_hour": 1.5},
    "ensemble": {
        "top_k": 4,
        "diverse": 2,
        "methods": ["soft", "weighted"],
        "threshold": {"max_fpr": 0.01},
        "unsure_error": 0.05,
    },
    "report": {"group_pattern": "^[^/]+", "corruptions": True},
}
SMALL = {"name": "small", "data": {"source": "demo"}, "trial": {"backbone": "resnet18"}, "resources": "auto"}
WORDS = (
    "&a ", "*a", "<<: *a\n", "<<: [*a, *a]\n", "!!int ", "!!str ", "!!float ", "!!bool ", "!!null ", "!!binary ",
    "!!set ", "!!omap ", "!!timestamp ", "!!python/object/apply:os.system ", "!x ", "!<tag:x> ", "---\n", "...\n",
    "%YAML 1.1\n", "%TAG ! x:\n", "? ", ": ", "- ", "# ", "|\n", ">-\n", "\t", "\r", "\ufeff", "\0", "\x85",
    "\u2028", "@", "`", "[", "]", "{", "}", ",", "'", '"', '"\\x', '"\\U00110000"', '"\\ud800"', "2001-01-01",
    "2001-99-99", "2001-12-14t21:59:43.10-05:00", "0x1f", "0o17", "1_000", "0b1", "1:30", ".nan", "-.inf", ".inf",
    "1e400", "1" * 5000, "0." + "1" * 5000, "~", "null", "on", "yes", "True", "a: &a [*a]\n", "name: x\n",
    "trial: {}\n", "data: {source: demo}\n", "search: {trials: 1e9}\n", "[" * 200, "{a: " * 60, "=", "s3://b/x",
)  # fmt: skip
TO_SET = (
    "name", "seed", "data.val", "data.test", "data.test.phone", "data", "trial.lr", "trial.backbone",
    "trial.epochs", "trial", "search.trials", "search.budget", "resources", "resources.gpu", "ensemble.threshold",
    "ensemble.threshold.max_fpr", "augmentations.own", "report", "trial.lr.log", "x", "", ".", "trial..lr",
    "trial.", "data.train.x", "\0", "é",
)  # fmt: skip


def prepare(folder: Path) -> tuple[Make, Check]:
    """See the package."""
    for number, part in enumerate(("train", "test")):
        write_folder(folder / "images" / part, per_class=4, seed=number)
    texts = [file.read_text() for file in sorted(Path(__file__).parents[2].glob("experiments/*.yaml"))]
    values = [FULL, SMALL, *(YAML(typ="safe", pure=True).load(text) for text in texts)]
    texts += [json.dumps(FULL, indent=1), json.dumps(SMALL)]

    def make(random: Random) -> Input:
        overrides = []
        if random.random() < 0.5:
            text = of_text(random, random.choice(texts), texts, WORDS)
        else:
            text = json.dumps(of_value(random, random.choice(values)), ensure_ascii=random.random() < 0.5)
        if random.random() < 0.3:
            text = json.dumps(random.choice((FULL, SMALL)))
            for _ in range(several(random)):
                value = random.choice(
                    (random.choice(WORDS), json.dumps(random.choice(ODD)), of_text(random, "0.5", texts, WORDS))
                )
                overrides.append(f"{random.choice(TO_SET)}={value}")
        return Input("sweep.json", json.dumps([text, overrides]).encode())

    return make, check


def check(given: Input) -> None:
    """Raises AssertionError, or whatever what reads and checks a sweep should not."""
    said = _said(*json.loads(given.data))
    assert len(said) < LONGEST, f"{len(said)} characters"


def _said(text: str, overrides: list[str]) -> str:
    """What a sweep is refused with; "" where it isn't."""
    written, resolved = Path("sweep.yaml"), Path("resolved.yaml")
    written.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        file = load_sweep(written, tuple(overrides))
    except SweepError as error:
        return str(error)
    resolved.write_text(resolved_text(file.sweep))
    assert read_resolved_sweep(resolved) == file.sweep
    assert differences(file.sweep, file.sweep) == []
    try:
        check_file(file)
        check_sweep(file)
        list(islice(unused_settings(file), 10))
        planned_trials(file.sweep)
        check_folders(file.sweep.data)
    except InputError as error:
        return str(error)
    return ""
