"""The names that a sweep file may hold, without importing what registers them: timm's are read from its files.

What is found wrong here is wrong; what is not is looked at again by `tuning.preflight`.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

HUBS = re.compile(r"^(hf[-_]hub:)?(timm/)?")
"""What a model's name begins with on the hub."""
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


def successor(name: str) -> str | None:
    """What timm calls a model that has an older name, or the name that it has on the hub; None where it has neither."""
    short = HUBS.sub("", name)
    now = _timm().older.get(short, short) or ""
    return now if now != name and now.partition(".")[0] in _timm().models else None


def is_known(key: str, name: str) -> bool:
    """Whether a name may be one of a key's registry. Some backbones and optimizers that are none pass."""
    if key in REGISTERED:
        return name in REGISTERED[key]
    base, dot, tag = name.partition(".")
    if key == "backbone" and _timm().models:
        return base in _timm().models and (not dot or tag in _timm().words)
    return key != "optimizer" or not _timm().words or name in _timm().words


def known(key: str) -> list[str]:
    """The names of a key's registry: of backbones those without a tag, and most optimizers."""
    return list({"backbone": sorted(_timm().models), "optimizer": sorted(_timm().optimizers), **REGISTERED}[key])
