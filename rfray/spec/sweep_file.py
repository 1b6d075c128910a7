"""a sweep file <-> `Sweep`; what is wrong with it is said with file, line and key."""

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rfray.errors import RunError, SweepError, nearest_first
from rfray.spec.schema_base import KeyPath, Strict, allowed
from rfray.spec.sweep import CacheSettings, DataSettings, EnsembleSettings, Reencode, Resources, SearchSettings, Sweep
from rfray.spec.trial import Range, Trial


@dataclass(frozen=True)
class SweepFile:
    """A sweep together with where each of its keys was written, for errors that are found later."""

    sweep: Sweep
    places: Mapping[KeyPath, str]
    """Key path -> `file:line`, or `--set key` for an override. The empty key path is the file as a whole."""
    raw: Mapping[str, Any]
    """What is written, with the overrides, before defaults are filled in and paths made absolute."""

    def problem(self, key: KeyPath, text: str) -> str:
        """The text with file, line and key before it."""
        return _problem(self.places, key, text)

    def not_allowed(self, key: KeyPath, given: object, allowed: str) -> str:
        """File, line and key, what was given and what is allowed."""
        return self.problem(key, f"given {_shown(given)}; allowed: {allowed}")


def load_sweep(path: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """Reads a sweep file; `overrides` are `key.path=value` texts (values as in YAML) that win over the file.

    Raises SweepError, with one line per problem: file, line, key, what was given, what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: can't be read as text: {error}") from None
    return _checked(text, str(path), overrides)


def sweep_from(fields: Mapping[str, Any], name: str, overrides: tuple[str, ...] = ()) -> SweepFile:
    """A sweep from its fields, as a sweep file has them; `name` stands for the file in errors. Raises SweepError."""
    return _checked(json.dumps(fields), name, overrides)


def sweep_of_folder(folder: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """A sweep that has the images of a folder: of its train and test, where it has a train, else its own.

    Raises SweepError as `load_sweep`.
    """
    data: dict[str, Any] = {"train": str(folder), "test": 0.5}
    if (folder / "train").is_dir():
        data = {"train": str(folder / "train"), "test": str(folder / "test")}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "images"
    raw = {"name": name, "data": data, "trial": {"backbone": "resnet18", "image_size": 128}}
    return _checked(json.dumps(raw), str(folder), overrides).sweep


def _checked(text: str, name: str, overrides: tuple[str, ...]) -> SweepFile:
    raw, places = _parse(text, name)
    for override in overrides:
        _apply(override, raw, places)
    try:
        return SweepFile(Sweep.model_validate(raw), places, raw)
    except ValidationError as error:
        raise SweepError("\n".join(_explain(error, places))) from None


def read_resolved_sweep(path: Path) -> Sweep:
    """Reads the sweep.yaml of a run folder. Raises RunError where it is not as `resolved_text` wrote it."""
    first, _, rest = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    if first != _RESOLVED + hashlib.sha256(rest.encode()).hexdigest():
        raise RunError(
            f"{path} is damaged, or was changed by hand: its content does not match the digest in its first line. "
            "Delete it, and `rfray tune` with the same sweep file writes it anew"
        )
    return load_sweep(path).sweep


def resolved_text(sweep: Sweep) -> str:
    """The sweep as YAML: every default filled in, every path absolute, a digest of it in the first line."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(sweep.model_dump(mode="json", exclude_none=True), stream)
    text = stream.getvalue()
    return f"{_RESOLVED}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


_RESOLVED = "# every value as it was used; sha256 of what follows: "


def differences(old: Sweep, new: Sweep) -> list[str]:
    """What changed, one `key: old -> new` each.

    Resources, ensemble, report, the budget and who is trained again may differ: no trial depends on them.
    """
    free: dict[str, Any] = {"resources": True, "ensemble": True, "report": True}
    free |= {"search": {"budget", "finalists", "seeds"}, "data": {"folds"}}
    before, after = (dict(_leaves(s.model_dump(mode="json", exclude=free))) for s in (old, new))
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def schema(names: Mapping[str, list[str]]) -> dict[str, Any]:
    """JSON schema of the sweep file; `names` (key -> registered names) become suggestions for editors."""
    document = Sweep.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "rfray sweep"
    for definition in ("TrialAxes", "SearchSettings"):
        for key, field in document["$defs"][definition]["properties"].items():
            if key in names:
                field["examples"] = names[key]
    return document


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _parse(text: str, name: str) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    yaml = YAML(typ="safe", pure=True)  # YAML 1.2: 1e-4 is a number, `on` is text, a key given twice is an error
    try:
        tree = yaml.compose(io.StringIO(text))
        raw = yaml.load(io.StringIO(text))
        places = {(): f"{name}:1", **_places(tree, name, ())}
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SweepError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise SweepError(f"{name}: nested too deeply, or an alias inside what it stands for") from None
    except (YAMLError, ValueError) as error:
        raise SweepError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise SweepError(f"{name}:1: given {_shown(raw)}; allowed: a sweep: the keys {', '.join(Sweep.model_fields)}")
    return raw, places


def _places(node: Node | None, name: str, key: KeyPath) -> dict[KeyPath, str]:
    """Where every key below `node` is written. Raises SweepError for a key that is not text."""
    inner: list[tuple[str | int, Node, Node]] = []
    if isinstance(node, MappingNode):
        inner = [(written.value, written, value) for written, value in node.value]
    elif isinstance(node, SequenceNode):
        inner = [(index, value, value) for index, value in enumerate(node.value)]
    places: dict[KeyPath, str] = {}
    for part, written, value in inner:
        place = f"{name}:{written.start_mark.line + 1}"
        if isinstance(node, MappingNode) and written.tag not in _KEY_TAGS:
            text = part if isinstance(part, str) else "a list or mapping"
            raise SweepError(_problem({(): place}, key, f"given {text} as a key; allowed: text (perhaps in quotes)"))
        places[*key, part] = place
        places |= _places(value, name, (*key, part))
    return places


_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _apply(override: str, raw: dict[str, Any], places: dict[KeyPath, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SweepError(f"--set {override}: expected key=value, for example --set trial.epochs=3")
    try:
        value = YAML(typ="safe", pure=True).load(io.StringIO(text))
    except (YAMLError, ValueError, RecursionError) as error:
        raise SweepError(f"--set {override}: the value is not valid YAML: {str(error).splitlines()[0]}") from None
    *parents, last = name.split(".")
    target = raw
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise SweepError(f"--set {override}: {parent} is not a mapping, so it has no key {last}")
    target[last] = value
    key = tuple(name.split("."))
    for place in [place for place in places if place[: len(key)] == key]:
        del places[place]
    for length in range(1, len(key) + 1):
        places.setdefault(key[:length], f"--set {name}")


_SECTIONS: dict[KeyPath, type[Strict]] = {
    (): Sweep,
    ("data",): DataSettings,
    ("data", "cache"): CacheSettings,
    ("data", "reencode"): Reencode,
    ("trial",): Trial,
    ("search",): SearchSettings,
    ("resources",): Resources,
    ("ensemble",): EnsembleSettings,
}


def _explain(error: ValidationError, places: Mapping[KeyPath, str]) -> list[str]:
    """One line a problem."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        found.setdefault(_key(detail, places), []).append(detail)
    order = list(places)
    return [
        _problem(places, key, _explained(key, found[key]))
        for key in sorted(found, key=lambda key: order.index(_written(key, places)))
        # where a value may have one of several types, the one that was got into furthest is the one that was meant
        if not any(other[: len(key)] == key for other in found if other != key)
    ]


def _key(detail: ErrorDetails, places: Mapping[KeyPath, str]) -> KeyPath:
    """Where the problem is, without pydantic's names for the members of a union, which are not keys."""
    key: KeyPath = ()
    for part in detail["loc"]:
        is_tag = isinstance(part, str) and (part in ("str", "bool", "float") or "<" in part or "[" in part)
        if not is_tag or (*key, part) in places:
            key = (*key, part)
    return key


def _explained(key: KeyPath, details: list[ErrorDetails]) -> str:
    detail = details[0]
    section = _SECTIONS.get(key[:-1], Range)
    if detail["type"] == "extra_forbidden":
        return f"no such key; allowed: {nearest_first(key[-1], section.model_fields, 30)}"
    if detail["loc"][-1] == "[key]":
        return f"no such key; allowed: {allowed(detail)}"
    if detail["type"] == "missing":
        return f"is missing ({section.model_fields[str(key[-1])].description})"
    return f"given {_shown(detail['input'])}; allowed: {' or '.join(map(allowed, details))}"


def _problem(places: Mapping[KeyPath, str], key: KeyPath, text: str) -> str:
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
    place = places[_written(key, places)]
    return f"{place}: {shown}: {text}" if shown else f"{place}: {text}"


def _written(key: KeyPath, places: Mapping[KeyPath, str]) -> KeyPath:
    """The key itself, or the nearest one around it that is written down."""
    return next(key[:length] for length in range(len(key), -1, -1) if key[:length] in places)


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
