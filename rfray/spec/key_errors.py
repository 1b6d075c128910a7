"""What pydantic refused, and where each key is written -> one line a problem, in a user's words."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rfray.errors import nearest_first, plain
from rfray.spec.names import REGISTERED
from rfray.spec.schema_base import KeyPath, Strict, allowed
from rfray.spec.sweep import Sweep
from rfray.spec.trial import Range

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
    "data.train": "train_dir train_folder train_path train_data training dataset data_dir data_path root "
    "root_dir image_dir images_dir dataset_dir folder",
    "data.val": "validation valid val_dir val_folder val_path val_data val_split val_size valid_size valid_split dev "
    "validation_split validation_data validation_dir validation_size val_fraction val_ratio",
    "data.test": "test_dir test_folder test_path test_data test_split test_size test_fraction testing holdout",
    "data.folds": "cv n_folds num_folds k_folds kfold n_splits",
    "data.group_pattern": "group groups group_by group_regex group_key",
    "trial.backbone": "model models model_name arch architecture backbones encoder network net base_model",
    "trial.pretrained": "weights checkpoint ckpt pretrain pretrained_weights init init_weights finetune",
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
    "search.algorithm": "searcher search_alg sampler strategy",
    "search.metric": "monitor objective metrics score",
    "search.concurrent": "parallel jobs n_jobs max_concurrent max_concurrent_trials",
    "resources.cpu or resources.workers": "num_workers workers n_workers nproc loader_workers",
    "resources.cpu": "cpus num_cpus cores threads",
    "resources.gpu": "gpus num_gpus n_gpus devices device cuda",
    "ensemble.top_k": "topk k n_models members n_members ensemble_size",
}
"""Key -> what other programs call it: texts with blanks between."""
ENDS = ("min", "max", "low", "high", "start", "end", "from", "to")
"""What other programs call the ends of a range."""


def explain(error: ValidationError, places: Mapping[KeyPath, str]) -> list[str]:
    """One line a problem, in the order of the file."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        key: KeyPath = ()
        for part in detail["loc"]:  # pydantic's names for the members of a union are no keys
            if (*key, part) in places or part in _fields(key):
                key = (*key, part)
        found.setdefault(key, []).append(detail)
    return [
        problem(places, key, _explained(key, found[key]))
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
        if fields is Range.model_fields and key[-1] in ENDS:
            return f"no such key; use a range such as {{log: [1e-5, 1e-3]}}; allowed: {', '.join(fields)}"
        return f"no such key; allowed: {nearest_first(meant.rpartition('.')[2] or str(key[-1]), fields, 30)}"
    if detail["loc"][-1] == "[key]":
        return f"no such key; allowed: {allowed(detail)}"
    if detail["type"] == "missing":
        return f"is missing ({fields[str(key[-1])].description})"
    if detail["type"] == "string_type" and (
        names := REGISTERED.get(str(key[-1] if isinstance(key[-1], str) else key[-2]))
    ):
        return f"given {shown(detail['input'])}; allowed: {nearest_first(detail['input'], names)}"
    right_type = [one for one in details if not one["type"].endswith(("_type", "literal_error"))]
    return f"given {shown(detail['input'])}; allowed: {' or '.join(map(allowed, right_type or details))}"


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
    text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    return short(text)


def short(text: str) -> str:
    """At most 80 characters of it."""
    return text if len(text) <= 80 else text[:77] + "..."
