"""The names that a sweep file may hold, without importing what registers them: timm's are read from its files.

What is found wrong here is wrong; what is not is looked at again by `tuning.preflight`.
"""

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rfray.errors import nearest_first, plain

HUBS = re.compile(r"^(hf[-_]hub:)?(timm/)?")
"""What a model's name begins with on the hub."""
FOREIGN = (
    "a model of timm, by its name alone; weights from elsewhere are a file for it (trial.pretrained); for example "
    "resnet50, convnext_tiny or efficientnet_b0"
)
"""Instead of a name like none of timm, or with the mark of a hub or folder that it has no model for."""
SIZES, PATCHES = ("tiny", "small", "base", "large", "huge"), (8, 14, 16, 32)
FLOPS = {"400mf": "004", "800mf": "008", "1_6gf": "016", "3_2gf": "032", "8gf": "080", "16gf": "160", "32gf": "320"}
ELSEWHERE = {
    **{f"vit{size[0]}{patch}": f"vit_{size}_patch{patch}_224" for size in SIZES for patch in PATCHES},
    **{f"swin{size[0]}": f"swin_{size}_patch4_window7_224" for size in SIZES},
    **{f"swinv2{size[0]}": f"swinv2_{size}_window8_256" for size in SIZES},
    **{f"regnet{kind}{given}": f"regnet{kind}_{code}" for kind in "xy" for given, code in FLOPS.items()},
    **{f"efficientnetv2b{number}": f"tf_efficientnetv2_b{number}" for number in range(4)},
    **{f"resnet{depth}v2": f"resnetv2_{depth}" for depth in (50, 101, 152)},
    **{f"mobilenetv3{size}": f"mobilenetv3_{size}_100" for size in ("small", "large")},
    "mobilenet": "mobilenetv1_100",
    "mobilenetv2": "mobilenetv2_100",
    "mnasnet0_5": "mnasnet_050",
    "mnasnet1_0": "mnasnet_100",
    "maxvitt": "maxvit_tiny_tf_224",
    "nasnetlarge": "nasnetalarge",
}
"""Names (`plain`) of models in papers, torchvision and Keras -> the nearest of timm's, where it has another name."""
LEAST = 500
"""Fewer models (timm 1.0.31 has 1,371) are found only where its files have changed: then none is judged."""


REGISTERED = {
    "augmentation": ("none", "light", "strong", "compression"),
    "schedule": ("cosine", "poly", "tanh", "step", "constant"),
    "algorithm": ("grid", "random", "optuna"),
    "scheduler": ("none", "asha", "median"),
    "metric": ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "balanced_accuracy"),
}
"""Key -> the names that its registry has (a test compares them): known here before the registries can be imported."""
REMOVED = {
    "hyperband": "asha with search.brackets (2 or more), which is Hyperband without waiting for whole brackets",
    "pbt": "none, asha or median. Population-based training has no successor: trials copy each other's weights, so a "
    "killed sweep could not come to the same leaderboard",
}
"""Schedulers of rfray 0.1 -> what is allowed instead, and why they are gone."""


WORDS = {
    **dict.fromkeys(("bayes", "bayesian", "tpe", "hyperopt"), "optuna"),
    "acc": "accuracy",
    "auroc": "auc",
    "ap": "average_precision",
    "cosineannealing": "cosine",
}
"""Names (`plain`) that other programs have for algorithms, metrics and schedules -> those here."""


@dataclass(frozen=True)
class _Timm:
    """What timm's files say."""

    models: frozenset[str] = frozenset()
    """Without tags."""
    optimizers: frozenset[str] = frozenset()
    """Those with a record of their own."""
    words: frozenset[str] = frozenset()
    """All that stands in quotation marks, tags and optimizers among it."""
    older: Mapping[str, str | None] = field(default_factory=dict)
    """Name that a model had -> its name now, None where it is removed."""


@cache
def _timm() -> _Timm:
    found, optimizers, words, older = set[str](), set[str](), set[str](), dict[str, str | None]()
    try:
        folder = Path(str(getattr(find_spec("timm"), "origin", ""))).parent
        for file in (*folder.glob("models/*.py"), *folder.glob("optim/*.py")):
            text = file.read_text(encoding="utf-8")
            found.update(re.findall(r"^@register_model\s*\ndef (\w+)\(", text, re.MULTILINE))
            optimizers.update(re.findall(r"OptimInfo\(\s*name=['\"](\w+)['\"]", text))
            words.update(re.findall(r"['\"]([\w.-]+)['\"]", text))
            for listed in re.findall(r"register_model_deprecations\(__name__, (\{.*?\})\)", text, re.DOTALL):
                older |= ast.literal_eval(listed)
    except (OSError, ValueError, SyntaxError):
        return _Timm()
    words |= {word.partition(".")[2] for word in words}
    return _Timm(frozenset(found), frozenset(optimizers), frozenset(words), older) if len(found) >= LEAST else _Timm()


@cache
def transforms() -> list[str]:
    """The names that albumentations' files make public, its transforms among them; empty where they can't be read."""
    found = set[str]()
    with suppress(OSError, ValueError):
        for file in Path(str(getattr(find_spec("albumentations"), "origin", ""))).parent.rglob("*.py"):
            for listed in re.findall(
                r"^__all__ = \[(.*?)\]", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
            ):
                found.update(re.findall(r"[\"'](\w+)[\"']", listed))
    return sorted(found)


def successor(name: str) -> str | None:
    """What timm calls a model that has an older name, or one of the hub or of other programs; None where unknown."""
    timm = _timm()
    for written in (short := HUBS.sub("", name), short.rpartition("/")[2]):
        now = timm.older.get(written, written) or ""
        if now != name and now.partition(".")[0] in timm.models:
            return now
        base, dot, tag = written.partition(".")
        if (found := _by_plain_name().get(plain(base))) is not None:
            now = f"{found}.{tag.lower()}" if dot else found
            return now if now != name and (not dot or now in timm.words) else None
    return None


@cache
def _by_plain_name() -> dict[str, str]:
    """`plain` name -> the model of timm."""
    older = {plain(name): now for name, now in _timm().older.items() if now}
    elsewhere = {name: now for name, now in ELSEWHERE.items() if now in _timm().models}
    return older | elsewhere | {plain(name): name for name in sorted(_timm().models)}


def instead(key: str, name: str) -> str | None:
    """What is allowed in the place of a name that is none of a key's registry, where it can be said."""
    if key == "backbone":
        base = name.partition(".")[0]
        tagged = sorted(word for word in _timm().words if word.startswith(f"{base}.") and base in _timm().models)
        if now := successor(name):
            return now
        if tagged:
            return nearest_first(name, tagged, 8)
        return None if "nearest" in nearest_first(name, _timm().models) and not re.search("[:/]", name) else FOREIGN
    word = WORDS.get(plain(name))
    return REMOVED.get(name) if key == "scheduler" else word if word in REGISTERED.get(key, ()) else None


def is_known(key: str, name: str) -> bool:
    """Whether a name may be one of a key's registry. Some backbones and optimizers that are none pass."""
    if key in REGISTERED:
        return name in REGISTERED[key]
    base, dot, tag = name.partition(".")
    if key == "backbone" and _timm().models:
        return base in _timm().models and (not dot or tag in _timm().words)
    return key != "optimizer" or not _timm().words or (name in _timm().words and name.islower())


def known(key: str) -> list[str]:
    """The names of a key's registry: of backbones those without a tag, and most optimizers."""
    return list({"backbone": sorted(_timm().models), "optimizer": sorted(_timm().optimizers), **REGISTERED}[key])
