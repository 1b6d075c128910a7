"""What pydantic refused, and where each key is written -> one line a problem, in a user's words."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rfray.errors import nearest_first, plain
from rfray.spec.names import REGISTERED
from rfray.spec.schema_base import KeyPath, Strict, allowed
from rfray.spec.sweep import Sweep
from rfray.spec.trial import WITH, WITHOUT, Range

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
    "name": "run_name experiment experiment_name exp_name project title output out out_dir output_dir save_dir",
    "seed": "random_seed random_state manual_seed rng_seed",
    "data.train": "path dir train_dir train_folder train_path train_data training dataset data_dir data_path root "
    "root_dir image_dir images_dir dataset_dir folder",
    "data.val": "validation valid val_dir val_folder val_path val_data val_split val_size valid_size valid_split dev "
    "validation_split validation_data validation_dir validation_size val_fraction val_ratio",
    "data.test": "test_dir test_folder test_path test_data test_split test_size test_fraction testing holdout",
    "data.classes": "class_names labels num_classes n_classes",
    "data.train_images": "max_images limit subset max_samples",
    "data.folds": "cv n_folds num_folds k_folds kfold n_splits",
    "data.group_pattern": "groups group_by group_regex group_key",
    "data.group": "generator generators source_pattern sources origin origins domain domains",
    "trial.backbone": "model models model_name arch architecture backbones encoder network net base_model",
    "trial.pretrained": "weights checkpoint ckpt ckpt_path pretrain pretrained_weights init init_weights finetune",
    "trial.augmentation": "aug augs augment augmentation_policy transform transforms policy "
    "policies augmentation_policies flip hflip horizontal_flip",
    "trial.image_size": "img_size imgsz imgsize im_size imagesize input_size resolution size crop_size side",
    "trial.lr": "learning_rate learningrate learning_rates lr0 base_lr max_lr eta lrs min_lr lr_min lr_max init_lr",
    "trial.weight_decay": "wd decay l2",
    "trial.batch_size": "batch batchsize bs batches train_batch_size mini_batch_size minibatch",
    "trial.epochs": "epoch num_epochs n_epochs max_epochs nb_epochs passes max_epoch",
    "trial.optimizer": "optim opt optimiser optimizers solver",
    "trial.schedule": "lr_scheduler lr_schedule sched scheduler scheduler_type",
    "trial.warmup": "warmup_epochs warmup_steps warmup_ratio",
    "trial.drop_rate": "dropout dropout_rate",
    "trial.drop_path": "stochastic_depth drop_path_rate",
    "trial.label_smoothing": "smoothing",
    "trial.clip_grad": "grad_clip gradient_clipping max_grad_norm gradient_clip_val",
    "trial.mixup": "mixup_alpha",
    "trial.cutmix": "cutmix_alpha",
    "trial.ema": "ema_decay model_ema",
    "trial.class_balance": "class_weight class_weights pos_weight balanced sampler",
    "trial.precision": "amp fp16 bf16 mixed_precision half dtype",
    "trial.patience": "early_stopping early_stop early_stopping_patience",
    "search.trials": "n_trials num_trials max_trials num_samples n_iter samples",
    "search.budget": "time time_budget timeout time_limit max_time time_budget_s hours minutes",
    "search.scheduler": "pruner pruning",
    "search.grace_epochs": "grace_period grace min_resource",
    "search.algorithm": "searcher search_alg sampler strategy",
    "search.metric": "monitor objective metrics score",
    "search.concurrent": "parallel jobs n_jobs max_concurrent max_concurrent_trials",
    "resources.cpu or resources.workers": "num_workers workers n_workers nproc loader_workers",
    "resources.cpu": "cpus num_cpus cores threads",
    "resources.gpu": "gpus num_gpus n_gpus devices device cuda",
    "ensemble.top_k": "topk k n_models members n_members ensemble_size size",
    "ensemble.methods": "voting vote weights weighting strategy",
}
"""Key -> what other programs call it: texts with blanks between."""


MOST_GUESSED, MOST_SHOWN = 10, 50
"""Problems of a sweep up to which it is looked for what its values may have been meant for; and that are shown (of a
section that is none, as many keys are looked at)."""


def explain(error: ValidationError, places: Mapping[KeyPath, str], raw: Mapping[str, Any] | None) -> list[str]:
    """One line a problem, in the order of the file; `raw` is what was refused."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        key: KeyPath = ()
        for part in detail["loc"]:  # pydantic's names for the members of a union are no keys
            if (*key, part) in places or part in _fields(key):
                key = (*key, part)
        found.setdefault(key, []).append(detail)
    order = {key: number for number, key in enumerate(places)}
    # where a value may have one of several types, the problem further inside is about the type that was meant
    around = {key[:length] for key in found for length in range(len(key))}
    raw = raw if len(found) <= MOST_GUESSED else None
    keys = sorted(found.keys() - around, key=lambda key: order[_written(key, places)])
    more = [f"… and {len(keys) - MOST_SHOWN:,} more problems"] if len(keys) > MOST_SHOWN else []
    return [problem(places, key, _explained(key, found[key], raw)) for key in keys[:MOST_SHOWN]] + more


def _fields(key: KeyPath, of: Any = Sweep) -> dict[str, FieldInfo]:
    """The fields that the record at a key may have, from the type `of` on."""
    if not (isinstance(of, type) and issubclass(of, Strict)):
        return next(filter(None, (_fields(key, inner) for inner in get_args(of))), {})
    if key:
        return _fields(key[1:], of.model_fields[str(key[0])].annotation) if key[0] in of.model_fields else {}
    return of.model_fields


def _explained(key: KeyPath, details: list[ErrorDetails], raw: Mapping[str, Any] | None) -> str:
    detail, fields = details[0], _fields(key[:-1])
    if successor := SUCCESSORS.get(_dotted(key)):
        return f"no such key any more; use {successor}"
    if detail["type"] == "extra_forbidden":
        return f"no such key; {_instead_of_key(key, detail['input'], fields)}"
    if detail["loc"][-1] == "[key]":
        return f"no such key; allowed: {allowed(detail)}"
    if detail["type"] == "missing":
        return f"is missing ({fields[str(key[-1])].description})"
    given, names = detail["input"], REGISTERED.get(str(key[-1] if isinstance(key[-1], str) else key[-2]))
    if detail["type"] == "string_type" and names:
        return f"given {shown(given)}; allowed: {nearest_first(given, names)}"
    right_type = [one for one in details if not one["type"].endswith(("_type", "literal_error"))]
    text = " or ".join(map(allowed, right_type or details))
    return f"given {shown(given)}; allowed: {text}{'' if 'nearest' in text else _nearest(key, details, raw, text)}"


def _instead_of_key(key: KeyPath, given: Any, fields: Mapping[str, FieldInfo]) -> str:
    """What may be written instead of a key that its section lacks."""
    name, section = str(key[-1]), _dotted(key[:-1])
    meant = [found] if (found := _meant(name, section)) else []
    listed = f"allowed: {nearest_first(found.rpartition('.')[2] or name, fields, 30)}"
    if not section and isinstance(given, dict) and "; nearest" not in listed:  # a section of another program
        inside = {short(str(one)): _meant(str(one), "") for one in [*given][:MOST_SHOWN]}
        meant += [f"{at} for {one}" for one, at in inside.items() if "." in at]
    if meant and (meant != [found] or found.rpartition(".")[0] != section or " or " in found):
        return f"use {', '.join(meant)}"
    if fields is Range.model_fields and not any(one in name or sorted(one) == sorted(name) for one in fields):
        return f"use a range such as {{log: [1e-5, 1e-3]}}; allowed: {', '.join(fields)}"
    return listed


def _nearest(key: KeyPath, details: list[ErrorDetails], raw: Mapping[str, Any] | None, text: str) -> str:
    """What a wrong value may have been meant for, as the end of a line; "" where `text` has said it already."""
    given = details[0]["input"]
    names = [one for detail in details for one in re.findall("'(.*?)'", str(detail.get("ctx", {}).get("expected", "")))]
    if nearest := nearest_first(given, names).partition("; nearest: ")[2]:
        return f"; nearest: {nearest}"
    for meant in (*_readings(given), *({name: given} for name in _fields(key))) if raw is not None else ():
        if type(given) is not type(meant) or given != meant:
            try:
                Sweep.model_validate(_with(raw, key, meant))
            except ValidationError as error:
                if any(tuple(one for one in other["loc"] if one in key)[: len(key)] == key for other in error.errors()):
                    continue
            return "" if shown(meant) in text else f"; nearest: {shown(meant)}"
    return ""


def _readings(given: Any) -> Iterator[Any]:
    """What a value of the wrong type or form may have been meant for, the likeliest first."""
    if isinstance(given, str):
        with suppress(ValueError):
            number = float(given.strip(" %").replace(",", ".")) / (100 if "%" in given else 1)
            yield int(number) if number.is_integer() else number
        if given.lower() in (*WITH, *WITHOUT):
            yield given.lower() in WITH
        yield given.lower()
        yield from ([one.strip() for one in given.split(",")], {given: None})
    elif isinstance(given, bool):
        yield from (("auto",) if given else ("none", 0))
    elif isinstance(given, int | float) and abs(given) < 2**53:  # a float holds all whole numbers below
        if given == int(given):
            yield from (int(given), given / 100 if given > 1 else given)
        yield [given]
    elif isinstance(given, list):
        yield from given if len(given) == 1 else ()
    elif isinstance(given, dict) and len(given) == 1:
        ((name, inner),) = given.items()
        if name not in Range.model_fields:
            yield inner
        elif isinstance(inner, list) and {*map(type, inner)} <= {int, float}:  # the kind of range, or its ends' order
            yield from ({kind: sorted(inner)} for kind in dict.fromkeys((name, "int" if name == "uniform" else name)))


def _with(raw: Any, key: KeyPath, value: Any) -> Any:
    """`raw` with another value at a key, whatever is there."""
    if not key:
        return value
    inside = dict(raw) if isinstance(raw, Mapping) else dict(enumerate(raw)) if isinstance(raw, list) else {}
    inside[key[0]] = _with(inside.get(key[0]), key[1:], value)
    return [*inside.values()] if isinstance(raw, list) else inside


def _meant(given: str, section: str) -> str:
    """What a key that a section lacks stands for: what other programs, or other sections, call so; "" if nothing."""
    name = plain(given)
    for field in _fields(tuple(section.split(".")) if section else ()):
        if plain(field) == name:
            return f"{section}.{field}".lstrip(".")
    called = [key for key, others in SYNONYMS.items() if name in map(plain, others.split())]
    there = [key for key in _keys() if plain(key.rpartition(".")[2]) == name and key not in " or ".join(called)]
    return next((key for key in called if key.rpartition(".")[0] == section), None) or " or ".join([*called, *there])


def _keys(key: KeyPath = ()) -> Iterator[str]:
    """Every key of a sweep file, but for what is below those of `trial`."""
    for name in _fields(key):
        yield _dotted((*key, name))
        if key != ("trial",):
            yield from _keys((*key, name))


def problem(places: Mapping[KeyPath, str], key: KeyPath, text: str) -> str:
    """The text after where the key is written, or the nearest one around it, and the key."""
    return ": ".join(part for part in (places[_written(key, places)], _dotted(key), text) if part)


def _dotted(key: KeyPath) -> str:
    """As people write it: search.warm_start[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{short(part)}" for part in key).lstrip(".")


def _written(key: KeyPath, places: Mapping[KeyPath, str]) -> KeyPath:
    """The key itself, or the nearest one around it that is written down."""
    return next(key[:length] for length in range(len(key), -1, -1) if key[:length] in places)


def shown(value: object) -> str:
    """A value as it is written in YAML, at most 80 characters of it."""
    if value is None:
        return "nothing"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Range):
        value = value.model_dump(exclude_none=True)
    return short(json.dumps(value, default=str, skipkeys=True, ensure_ascii=False))


def short(text: str) -> str:
    """At most 80 characters of it."""
    return text if len(text) <= 80 else text[:77] + "..."
