"""A sweep file <-> `Sweep`, or errors with file, line and key."""

import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from rfray.errors import InputError, RunError, SweepError, check_no_secret, first_line, nearest_first
from rfray.spec.key_errors import explain, problem, short, shown
from rfray.spec.schema_base import KeyPath
from rfray.spec.sweep import Sweep

RESOLVED = "# every value as it was used; sha256 of what follows: "
"""How the first line of a resolved sweep begins."""
MOST_CHARACTERS, DEEPEST = 250_000, 50
"""Of a sweep file, its values (with what aliases stand for), and levels of it (our choice): a sweep has hundreds, and
about six."""
MOST_DIGITS = 15
"""Of a whole number: so many a float holds exactly, and no setting needs as many."""
FREE: dict[str, Any] = {
    "resources": True,
    "ensemble": True,
    "report": True,
    "search": {"budget", "concurrent", "finalists", "keep", "max_failed", "seeds"},
    "data": {"attributes", "cache", "folds", "max_unreadable"},
}
"""Keys that may change between two starts of one run, as no trial and no split depends on them."""
SET_LATER = ("data.train", "data.val", "data.test", "data.attributes", "data.cache", "ensemble", "report", "resources")
"""What `rfray ensemble` may set: what it reads, but for what trials depend on."""


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
        return problem(self.places, key, text)

    def not_allowed(self, key: KeyPath, given: object, allowed: str) -> str:
        """File, line and key, what was given and what is allowed."""
        return self.problem(key, f"given {shown(given)}; allowed: {allowed}")


def load_sweep(path: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """Reads a sweep file; `overrides` (`key.path=value`, as in YAML) win. Raises SweepError, one line a problem."""
    try:
        return parse_sweep(_text(path), str(path), overrides)
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: can't be read as text: {error}") from None


def sweep_of_folder(folder: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """A sweep of a folder's images: of its train, val and test if it has a train. Raises SweepError as `load_sweep`."""
    data: dict[str, Any] = {"train": str(folder), "test": 0.5}
    if (folder / "train").is_dir():
        parts = ["train", "test", *(["val"] if (folder / "val").is_dir() else [])]
        data = {part: str(folder / part) for part in parts}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "images"
    raw = {"name": name, "data": data, "trial": {"backbone": "resnet18", "image_size": 128}}
    return parse_sweep(json.dumps(raw), str(folder), overrides)


def parse_sweep(text: str, name: str, overrides: tuple[str, ...] = ()) -> SweepFile:
    """The same from YAML or JSON; `name` stands for the file in errors."""
    written = [(f"{name}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    for place, line in [*written, *((f"--set {one.partition('=')[0]}", one) for one in overrides)]:
        try:
            check_no_secret(line)
        except InputError as error:
            raise SweepError(f"{place}: {error}") from None
    raw, places = _parse(text, name)
    if not isinstance(raw, dict):
        raise SweepError(f"{name}:1: given {shown(raw)}; allowed: a sweep: the keys {', '.join(Sweep.model_fields)}")
    for override in overrides:
        _apply(override, raw, places)
    try:
        sweep = Sweep.model_validate(raw)
    except ValidationError as error:
        raise SweepError(*explain(error, places, raw)) from None
    if (length := len(resolved_text(sweep))) > MOST_CHARACTERS:  # a run keeps that, and could not be read again
        raise SweepError(
            f"{name}: with its defaults and absolute paths it has {length} characters; allowed: {MOST_CHARACTERS}"
        )
    return SweepFile(sweep, places, raw)


def read_resolved_sweep(path: Path) -> Sweep:
    """Reads the sweep.yaml of a run folder. Raises RunError where it is not as `resolved_text` wrote it."""
    first, _, rest = _text(path, "replace").partition("\n")
    if first != RESOLVED + hashlib.sha256(rest.encode()).hexdigest():
        raise RunError(f"{path} is damaged, or was changed by hand; delete it, and `rfray tune SWEEP` writes it anew")
    return _resolved(f"{first}\n{rest}", str(path))


@lru_cache(maxsize=16)
def _resolved(text: str, name: str) -> Sweep:
    # kept, as a command asks a dozen times, and to parse YAML takes longer than all else that `rfray ensemble` does
    return parse_sweep(text, name).sweep


def set_later(path: Path, overrides: tuple[str, ...]) -> SweepFile:
    """The sweep.yaml of a run folder with overrides, as `rfray ensemble` takes them.

    Raises SweepError, which says what is allowed, for a key or a value that trials depend on, or that is not read then;
    RunError as `read_resolved_sweep`.
    """
    before, allowed = read_resolved_sweep(path), "allowed for `rfray ensemble`:"
    for override in overrides:
        name = override.partition("=")[0]
        if not any(f"{name}.".startswith(f"{key}.") for key in SET_LATER):
            raise SweepError(f"--set {name}: the trials are trained; {allowed} {nearest_first(name, SET_LATER)}")
    after = load_sweep(path, overrides)
    if changed := differences(before, after.sweep):
        raise SweepError(
            "--set changes what the trials depend on:",
            *(f"  {line}" for line in changed),
            f"{allowed} {', '.join(SET_LATER)}; of data, folders where the sweep had folders",
        )
    return after


def resolved_text(sweep: Sweep) -> str:
    """The sweep as YAML: every default filled in, every path absolute, a digest of it in the first line."""
    stream, yaml = io.StringIO(), YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(sweep.model_dump(mode="json", exclude_none=True), stream)
    text = stream.getvalue()
    return f"{RESOLVED}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def differences(old: Sweep, new: Sweep) -> list[str]:
    """What changed, one `key: old -> new` each; without what no trial and no split depends on.

    That is `FREE`, more `search.trials`, more values of a grid, policies that no trial of `old` has, and where the
    data folders are: what is in them is compared by its digests.
    """
    policies = old.trial.choices("augmentation")
    before, after = (dict(_leaves(_compared(sweep, policies))) for sweep in (old, new))
    if old.search.algorithm == "grid":  # it has all its settings, whatever the number
        before["search.trials"] = after["search.trials"] = None
        for name in type(old.trial).model_fields:
            if all(one in new.trial.choices(name) for one in old.trial.choices(name)):
                before[f"trial.{name}"] = after.get(f"trial.{name}")
    elif old.search.trials is not None and old.search.trials <= (
        new.search.trials or math.inf
    ):  # None: as many as may be
        before["search.trials"] = new.search.trials
    return [
        f"{key}: {shown(before.get(key))} -> {shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _compared(sweep: Sweep, policies: Sequence[str]) -> dict[str, Any]:
    written = sweep.model_dump(mode="json", exclude=FREE)
    written["augmentations"] = {name: one for name, one in sweep.augmentations.items() if name in policies} or None
    for part in ("train", "val", "test"):
        if sweep.data.folder(part) is not None:
            written["data"][part] = "a folder"
    if sweep.data.leave_out is not None:  # what is in it is compared
        written["data"]["leave_out"] = "a file"
    return written


def sweep_schema(names: Mapping[str, list[str]]) -> dict[str, Any]:
    """JSON schema of the sweep file; `names` (key -> registered names) become suggestions for editors."""
    document = Sweep.model_json_schema()
    keys = document["$defs"]["TrialAxes"]["properties"] | document["$defs"]["SearchSettings"]["properties"]
    for key in keys.keys() & names.keys():
        keys[key]["examples"] = names[key]
    return document | {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "rfray sweep"}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


class _TooDeepError(Exception):
    """Its argument is the line, from 0."""


class _Shallow(Composer):
    """Ruamel's maker of nodes, which calls itself for each level, as far as DEEPEST levels."""

    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The node that begins here."""
        deeper = self.parser.check_event(CollectionStartEvent)
        self.levels += deeper
        if self.levels > DEEPEST:
            raise _TooDeepError(self.parser.peek_event().start_mark.line)
        node = super().compose_node(parent, index)
        self.levels -= deeper
        return node


def _parse(text: str, place: str, key: KeyPath = ()) -> tuple[Any, dict[KeyPath, str]]:
    """The value that a YAML text is, and where each key in it is written: with its line, unless it is an override."""
    if len(text) > MOST_CHARACTERS:
        raise SweepError(f"{place}: more than {MOST_CHARACTERS} characters, as no sweep has; allowed: fewer")
    yaml = YAML(typ="safe", pure=True)  # YAML 1.2: 1e-4 is a number, `on` is text, a key given twice is an error
    yaml.Composer = _Shallow
    try:
        tree = yaml.compose(io.StringIO(text))
        if _size(tree, {}) > MOST_CHARACTERS:
            raise SweepError(f"{place}: its aliases (*name) stand for too much; allowed: {MOST_CHARACTERS} values")
        places = {key: _at(place, 0), **dict(_places(tree, place, key))}
        return None if tree is None else yaml.constructor.construct_document(tree), places
    except _TooDeepError as error:
        raise SweepError(f"{_at(place, error.args[0])}: nested too deeply; allowed: {DEEPEST} levels") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        quotes = "; such text stands in quotes" if re.search(r"alphabetic|'[^\\]' that", error.problem or "") else ""
        raise SweepError(f"{_at(place, line)}: not valid YAML: {error.problem}{quotes}") from None
    except RecursionError:
        raise SweepError(f"{place}: nested too deeply, or an alias inside what it stands for") from None
    except SweepError:
        raise
    except Exception as error:  # ruamel's, and what its readers of tagged values (!!int "") stumble over
        raise SweepError(f"{place}: not valid YAML: {first_line(error)}") from None


def _text(path: Path, errors: str = "strict") -> str:
    """What is in a file, as far as it may be a sweep file's: it may have no end."""
    with path.open(encoding="utf-8", errors=errors) as file:
        return file.read(MOST_CHARACTERS + 1)


def _size(node: Node | None, known: dict[int, int]) -> int:
    """How many values there are below a node, with those of an alias each time that it is used."""
    if not isinstance(node, MappingNode | SequenceNode):
        return 1
    if id(node) not in known:
        inner = chain.from_iterable(node.value) if isinstance(node, MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(one, known) for one in inner)
    return known[id(node)]


def _at(place: str, line: int) -> str:
    return place if place.startswith("--set ") else f"{place}:{line + 1}"


def _places(node: Node | None, place: str, key: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Where every key below `node` is written. Raises SweepError for a key that is not text, or too large a number."""
    inner: list[tuple[Any, Node, Node]] = []
    if isinstance(node, ScalarNode) and str(node.tag).endswith(":int") and len(node.value) > MOST_DIGITS:
        told = f"given {short(node.value)}; allowed: a whole number of at most {MOST_DIGITS} digits"
        raise SweepError(problem({(): _at(place, node.start_mark.line)}, key, told))
    if isinstance(node, MappingNode):
        inner = [(written.value, written, value) for written, value in node.value]
    elif isinstance(node, SequenceNode):
        inner = [(index, value, value) for index, value in enumerate(node.value)]
    for part, written, value in inner:
        here = _at(place, written.start_mark.line)
        if isinstance(node, MappingNode) and not str(written.tag).endswith((":str", ":merge")):  # merge is the key <<
            text = part if isinstance(part, str) else "a list or mapping"
            several = "; several values stand in brackets: [a, b]" if value.value in ("", None) else ""
            told = f"given {text} as a key; allowed: text (perhaps in quotes){several}"
            raise SweepError(problem({(): here}, key, told))
        yield (*key, part), here
        yield from _places(value, place, (*key, part))


def _apply(override: str, raw: dict[str, Any], places: dict[KeyPath, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SweepError(f"--set {short(override)}: expected key=value, for example --set trial.epochs=3")
    key = tuple(name.split("."))
    value, written = _parse(text, f"--set {name}", key)
    target = raw
    for length, parent in enumerate(key[:-1], start=1):
        places.setdefault(key[:length], f"--set {name}")
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            told = f"--set {short(override)}: {short(parent)} is not a mapping, so it has no key {short(key[-1])}"
            raise SweepError(told)
    target[key[-1]] = value
    for hidden in [one for one in places if one[: len(key)] == key]:
        del places[hidden]
    places.update(written)
