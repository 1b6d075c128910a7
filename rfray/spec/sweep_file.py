"""A sweep file <-> `Sweep`, or errors with file, line and key."""

import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from rfray.errors import InputError, RunError, SweepError, check_no_secret, nearest_first
from rfray.spec.names import REGISTERED, REMOVED, is_known, known, successor
from rfray.spec.schema_base import KeyPath, Strict, allowed
from rfray.spec.sweep import Sweep
from rfray.spec.trial import TrialAxes

RESOLVED = "# every value as it was used; sha256 of what follows: "
"""How the first line of a resolved sweep begins."""
MOST_CHARACTERS, DEEPEST = 250_000, 50
"""Of a sweep file, its values (with what aliases stand for), and levels of it (our choice): a sweep has hundreds, and
about six."""
FREE: dict[str, Any] = {
    "resources": True,
    "ensemble": True,
    "report": True,
    "search": {"budget", "concurrent", "finalists", "keep", "max_failed", "seeds"},
    "data": {"cache", "folds"},
}
"""Keys that may change between two starts of one run, as no trial and no split depends on them."""
SUCCESSORS = {
    "data.valid": "data.test",
    "data.valid_fraction": "data.test, which may be a share of the training images",
    "data.select_fraction": "data.val",
    "data.select_images": "data.val_images",
    "data.report_duplicates": "data.test_duplicates",
    "trial.soup": "trial.swa",
    "report.stress": "report.corruptions",
}
"""Key of rfray 0.1 -> what it is called now."""
SYNONYMS = {
    "seed": "random_seed random_state",
    "data.train": "train_dir train_folder train_path train_data training dataset",
    "data.val": "validation valid val_dir val_folder val_path val_data val_split val_size valid_size valid_split dev "
    "validation_split validation_data validation_dir validation_size",
    "data.test": "test_dir test_folder test_path test_data test_split test_size testing holdout",
    "trial.backbone": "model models model_name arch architecture backbones encoder network net",
    "trial.pretrained": "weights checkpoint ckpt pretrain",
    "trial.augmentation": "aug augs augment augmentation_policy transform transforms policy",
    "trial.image_size": "img_size imgsz imgsize im_size imagesize input_size resolution size image_sizes crop_size",
    "trial.lr": "learning_rate learningrate learning_rates lr0 base_lr max_lr eta lrs",
    "trial.weight_decay": "wd decay l2",
    "trial.batch_size": "batch batchsize bs batches train_batch_size mini_batch_size minibatch",
    "trial.epochs": "epoch num_epochs n_epochs max_epochs nb_epochs passes",
    "trial.optimizer": "optim opt optimiser",
    "trial.schedule": "lr_scheduler lr_schedule sched",
    "trial.warmup": "warmup_epochs warmup_steps warmup_ratio",
    "trial.drop_rate": "dropout dropout_rate",
    "trial.drop_path": "stochastic_depth drop_path_rate",
    "trial.label_smoothing": "smoothing",
    "trial.clip_grad": "grad_clip gradient_clipping max_grad_norm gradient_clip_val",
    "trial.precision": "amp fp16 bf16 mixed_precision half",
    "trial.patience": "early_stopping early_stop",
    "search.trials": "n_trials num_trials max_trials num_samples n_iter samples",
    "search.budget": "time time_budget timeout time_limit max_time time_budget_s hours minutes",
    "search.algorithm": "searcher search_alg sampler strategy",
    "search.metric": "monitor objective metrics score",
    "search.concurrent": "parallel n_jobs max_concurrent max_concurrent_trials",
    "resources.cpu or resources.workers": "num_workers workers nproc loader_workers",
    "resources.cpu": "cpus num_cpus cores threads",
    "resources.gpu": "gpus num_gpus n_gpus devices device",
    "ensemble.top_k": "topk k n_models members",
}
"""Key -> what other programs call it: texts with blanks between."""


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

    def name_problems(
        self, is_known: Callable[[str, str], bool], known: Callable[[str], Sequence[str]]
    ) -> Iterator[str]:
        """Names that are not registered, a line each; `known` lists those of a key (backbone, …, metric)."""
        for key in ("backbone", "optimizer", *REGISTERED):
            section = "trial" if key in TrialAxes.model_fields else "search"
            search: list[tuple[KeyPath, Any]] = [((key,), getattr(self.sweep.search, key, None))]
            for place, value in self.sweep.trial.written(key) if section == "trial" else search:
                if not is_known(key, value):
                    now = successor(value) if key == "backbone" else REMOVED.get(value) if key == "scheduler" else None
                    yield self.not_allowed((section, *place), value, now or nearest_first(value, known(key)))

    def check_names(self) -> None:
        """Raises SweepError for names that are registered nowhere and files of weights that are not there, at once."""
        own, trial = self.sweep.augmentations, self.sweep.trial

        def may_be(key: str, name: str) -> bool:
            return is_known(key, name) or (key == "augmentation" and name in own)

        problems = [*self.name_problems(may_be, lambda key: [*(own if key == "augmentation" else ()), *known(key)])]
        for place, source in trial.written("pretrained"):
            files = (
                {(*place, name): one for name, one in source.items()} if isinstance(source, dict) else {place: source}
            )
            for key, one in files.items():
                if isinstance(one, str) and "://" not in one and not Path(one).is_file():
                    problems.append(self.problem(("trial", *key), f"{one}: no such file"))
        if problems:
            raise SweepError("\n".join(dict.fromkeys(problems)))


def load_sweep(path: Path, overrides: tuple[str, ...] = ()) -> SweepFile:
    """Reads a sweep file; `overrides` (`key.path=value`, as in YAML) win. Raises SweepError, one line a problem."""
    try:
        return parse_sweep(_text(path), str(path), overrides)
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: can't be read as text: {error}") from None


def sweep_of_folder(folder: Path, overrides: tuple[str, ...] = ()) -> Sweep:
    """A sweep of a folder's images: of its train, val and test if it has a train. Raises SweepError as `load_sweep`."""
    data: dict[str, Any] = {"train": str(folder), "test": 0.5}
    if (folder / "train").is_dir():
        parts = ["train", "test", *(["val"] if (folder / "val").is_dir() else [])]
        data = {part: str(folder / part) for part in parts}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-") or "images"
    raw = {"name": name, "data": data, "trial": {"backbone": "resnet18", "image_size": 128}}
    return parse_sweep(json.dumps(raw), str(folder), overrides).sweep


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
        raise SweepError(f"{name}:1: given {_shown(raw)}; allowed: a sweep: the keys {', '.join(Sweep.model_fields)}")
    for override in overrides:
        _apply(override, raw, places)
    try:
        return SweepFile(Sweep.model_validate(raw), places, raw)
    except ValidationError as error:
        raise SweepError("\n".join(_explain(error, places))) from None


def read_resolved_sweep(path: Path) -> Sweep:
    """Reads the sweep.yaml of a run folder. Raises RunError where it is not as `resolved_text` wrote it."""
    first, _, rest = _text(path, "replace").partition("\n")
    if first != RESOLVED + hashlib.sha256(rest.encode()).hexdigest():
        raise RunError(f"{path} is damaged, or was changed by hand; delete it, and `rfray tune SWEEP` writes it anew")
    return load_sweep(path).sweep


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

    That is `FREE`, more `search.trials`, and where the data folders are: what is in them is compared by its digests.
    """
    before, after = (dict(_leaves(_compared(sweep))) for sweep in (old, new))
    if old.search.trials is not None and old.search.trials <= (new.search.trials or 0):
        before["search.trials"] = new.search.trials
    return [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _compared(sweep: Sweep) -> dict[str, Any]:
    written = sweep.model_dump(mode="json", exclude=FREE)
    for part in ("train", "val", "test"):
        if sweep.data.folder(part) is not None:
            given = written["data"][part]
            written["data"][part] = dict.fromkeys(given, "a folder") if isinstance(given, dict) else "a folder"
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


def _parse(text: str, place: str, key: KeyPath = ()) -> tuple[Any, dict[KeyPath, str]]:
    """The value that a YAML text is, and where each key in it is written: with its line, unless it is an override."""
    if len(text) > MOST_CHARACTERS:
        raise SweepError(f"{place}: more than {MOST_CHARACTERS} characters, as no sweep has; allowed: fewer")
    yaml = YAML(typ="safe", pure=True)  # YAML 1.2: 1e-4 is a number, `on` is text, a key given twice is an error
    try:
        depth = 0
        for event in yaml.parse(io.StringIO(text)):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEEPEST:
                raise SweepError(f"{_at(place, event.start_mark.line)}: nested too deeply; allowed: {DEEPEST} levels")
        tree = yaml.compose(io.StringIO(text))
        if _size(tree, {}) > MOST_CHARACTERS:
            raise SweepError(f"{place}: its aliases (*name) stand for too much; allowed: {MOST_CHARACTERS} values")
        return yaml.load(io.StringIO(text)), {key: _at(place, 0), **dict(_places(tree, place, key))}
    except MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        raise SweepError(f"{_at(place, line)}: not valid YAML: {error.problem}") from None
    except RecursionError:
        raise SweepError(f"{place}: nested too deeply, or an alias inside what it stands for") from None
    except (YAMLError, ValueError) as error:
        raise SweepError(f"{place}: not valid YAML: {str(error).splitlines()[0]}") from None


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
    """Where every key below `node` is written. Raises SweepError for a key that is not text."""
    inner: list[tuple[Any, Node, Node]] = []
    if isinstance(node, MappingNode):
        inner = [(written.value, written, value) for written, value in node.value]
    elif isinstance(node, SequenceNode):
        inner = [(index, value, value) for index, value in enumerate(node.value)]
    for part, written, value in inner:
        here = _at(place, written.start_mark.line)
        if isinstance(node, MappingNode) and not str(written.tag).endswith((":str", ":merge")):  # merge is the key <<
            text = part if isinstance(part, str) else "a list or mapping"
            raise SweepError(_problem({(): here}, key, f"given {text} as a key; allowed: text (perhaps in quotes)"))
        yield (*key, part), here
        yield from _places(value, place, (*key, part))


def _apply(override: str, raw: dict[str, Any], places: dict[KeyPath, str]) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SweepError(f"--set {override}: expected key=value, for example --set trial.epochs=3")
    key = tuple(name.split("."))
    value, written = _parse(text, f"--set {name}", key)
    target = raw
    for length, parent in enumerate(key[:-1], start=1):
        places.setdefault(key[:length], f"--set {name}")
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise SweepError(f"--set {override}: {parent} is not a mapping, so it has no key {key[-1]}")
    target[key[-1]] = value
    for hidden in [one for one in places if one[: len(key)] == key]:
        del places[hidden]
    places.update(written)


def _explain(error: ValidationError, places: Mapping[KeyPath, str]) -> list[str]:
    """One line a problem, in the order of the file."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        key: KeyPath = ()
        for part in detail["loc"]:  # pydantic's names for the members of a union are no keys
            if (*key, part) in places or part in _fields(key):
                key = (*key, part)
        found.setdefault(key, []).append(detail)
    return [
        _problem(places, key, _explained(key, found[key]))
        for key in sorted(found, key=lambda key: [*places].index(_written(key, places)))
        # where a value may have one of several types, the problem further inside is about the type that was meant
        if not any(other[: len(key)] == key for other in found if other != key)
    ]


def _fields(key: KeyPath, of: Any = Sweep) -> dict[str, FieldInfo]:
    """The fields that the record at a key may have, from the type `of` on."""
    if not (isinstance(of, type) and issubclass(of, Strict)):
        return next(filter(None, (_fields(key, inner) for inner in get_args(of))), {})
    if key:
        return _fields(key[1:], of.model_fields[str(key[0])].annotation) if key[0] in of.model_fields else {}
    return of.model_fields


def _explained(key: KeyPath, details: list[ErrorDetails]) -> str:
    detail, fields = details[0], _fields(key[:-1])
    if successor := SUCCESSORS.get(_dotted(key)):
        return f"no such key any more; use {successor}"
    if detail["type"] == "extra_forbidden":
        section, meant = _dotted(key[:-1]), _meant(str(key[-1]), _dotted(key[:-1]))
        inside = meant.rpartition(".")[0] == section and " or " not in meant
        if meant and not inside:
            return f"no such key; use {meant}"
        return f"no such key; allowed: {nearest_first(meant.rpartition('.')[2] or str(key[-1]), fields, 30)}"
    if detail["loc"][-1] == "[key]":
        return f"no such key; allowed: {allowed(detail)}"
    if detail["type"] == "missing":
        return f"is missing ({fields[str(key[-1])].description})"
    right_type = [one for one in details if not one["type"].endswith(("_type", "literal_error"))]
    return f"given {_shown(detail['input'])}; allowed: {' or '.join(map(allowed, right_type or details))}"


def _meant(given: str, section: str) -> str:
    """What a key that a section lacks stands for: what other programs, or other sections, call so; "" if nothing."""
    name = given.lower().replace("-", "_")
    if name in _fields(tuple(section.split(".")) if section else ()):
        return f"{section}.{name}".lstrip(".")
    called = [key for key, others in SYNONYMS.items() if name in others.split()]
    there = [key for key in _keys() if key.rpartition(".")[2] == name]
    return next((key for key in called if key.rpartition(".")[0] == section), None) or " or ".join(called or there)


def _keys(key: KeyPath = ()) -> Iterator[str]:
    """Every key of a sweep file, but for what is below those of `trial`."""
    for name in _fields(key):
        yield _dotted((*key, name))
        if key != ("trial",):
            yield from _keys((*key, name))


def _problem(places: Mapping[KeyPath, str], key: KeyPath, text: str) -> str:
    return ": ".join(part for part in (places[_written(key, places)], _dotted(key), text) if part)


def _dotted(key: KeyPath) -> str:
    """As people write it: search.warm_start[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


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
