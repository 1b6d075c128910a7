"""`Sweep` (strict, typed): what a sweep file says.

Names that live in a registry further up (searchers, schedulers, metrics, …) are plain text here;
`rfray.tuning.preflight` holds them against their registries and reports through `SweepFile.not_allowed`.
"""

import re
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rfray.spec.schema_base import KeyPath, Strict, absolute_paths, each_once, problems_with
from rfray.spec.trial import PROBED, SEEDS, Range, Trial, TrialAxes

CLASSES = ("real", "fake")
"""Class names; the position is the label: 0 real, 1 fake (the positive class)."""


class CacheSettings(Strict):
    """Where decoded pixels are kept, once per node."""

    dir: str | None = None
    """Folder on each node; by default the user's cache folder."""
    max_gb: float = Field(default=50, ge=0)
    """Most that it may hold, in 10^9 bytes. What was not used for longest goes first; what does not fit is decoded
    whenever it is needed."""

    @field_validator("dir")
    @classmethod
    def _absolute(cls, path: str | None) -> Any:
        return absolute_paths(path)


class Reencode(Strict):
    """Every image is scaled to one size and encoded as JPEG before anything sees it."""

    quality: int = Field(default=90, ge=1, le=100)
    """Of the JPEG encoder."""
    size: int = Field(default=256, ge=16, le=4096)
    """Side of the square, in pixels: the shorter edge is scaled to it and the middle cut out."""


def _checked_pattern(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"a regular expression (this one: {error})") from None
    return pattern


Share = Annotated[float, Field(gt=0, lt=0.9)]
"""Of the training images."""


class DataSettings(Strict):
    """Where the images are and how they are divided into train, val and test."""

    source: Literal["folder", "demo"] = "folder"
    """folder: `train` and `test` below; demo: the built-in data set."""
    train: str | None = None
    """Folder with one folder a class, or its address (s3://…)."""
    val: Share | str = 0.15
    """On what everything is chosen: a share of the training images, or a folder (or address) of its own."""
    test: (
        Annotated[float, Field(gt=0, lt=0.9)]
        | str
        | Annotated[dict[str, str], Field(min_length=1, max_length=1)]
        | None
    ) = None
    """What the leaderboard's metrics are on: a folder (or address), `{name: folder}`, or a share of the training
    images. A folder is read by `rfray ensemble` only; the audit of `rfray tune` compares it with the training images.
    """
    classes: dict[Literal["real", "fake"], str | Annotated[list[str], Field(min_length=1)]] = Field(
        default={"real": "real", "fake": "fake"}
    )
    """Class -> its folder's name below the data folder, or several names."""
    train_images: int | None = Field(default=None, ge=2)
    """Of a larger training folder, so many images are used, drawn by chance. By default all; with a `search.budget` by
    the clock, those that can be looked at in about a sixth of it: 12 a second with each core here, at least 5,000."""
    val_images: int | None = Field(default=None, ge=1)
    """But no more than so many, as each epoch is judged by all of them. By default 5,000 (an AUC of 0.9 is uncertain by
    0.009 then, 95 %), and with a `search.budget` two for each of its seconds, or 1,000, if that is fewer."""
    folds: int | None = Field(default=None, ge=2)
    """Cuts train and val together into so many folds, on each of which a model of every finalist (`search.finalists`)
    is judged that has learned from the others: votes and thresholds then rest on every training image."""
    split_by: Literal["auto", "image", "group"] = "auto"
    """What stays on one side of the split: each image, or each subfolder (group) as a whole.
    auto: group where every class has at least ten subfolders, else image. Identical files always stay together."""
    max_unreadable: float = Field(default=0.01, ge=0, le=1)
    """Greatest share of files that may be unreadable before the command stops."""
    group_pattern: str | None = None
    """Regular expression on an image's path below its data folder; images with the same match (of its first group in
    brackets, if it has one) show the same identity and stay on one side of the split."""
    test_duplicates: Literal["leave_out", "keep"] = "leave_out"
    """What becomes of training images that also stand in test: left out of train and val, or kept and only
    reported by the audit."""
    reencode: Reencode | None = None
    """Cuts shortcuts by file format: see Reencode."""
    cache: CacheSettings = CacheSettings()
    """Where decoded pixels are kept: see CacheSettings."""

    _is_regular_expression = field_validator("group_pattern")(_checked_pattern)

    @field_validator("train", "val", "test")
    @classmethod
    def _absolute(cls, path: Any) -> Any:
        return path if isinstance(path, float) else absolute_paths(path)

    @field_validator("classes")
    @classmethod
    def _both(cls, classes: dict[str, Any]) -> dict[str, Any]:
        if set(classes) != set(CLASSES):
            raise ValueError("both real and fake")
        return classes

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.source == "demo":
            given = {"train": self.train, "val": self.val_folder, "test": self.test}
            for key, value in given.items():
                if value is not None:
                    problems[(key,)] = value, "nothing, as the built-in data (source: demo) has its own images"
        elif self.train is None:
            problems[("train",)] = None, "a folder with one folder a class inside, or source: demo"
        elif self.test is None:
            problems[("test",)] = None, "a folder, or the share of train to test on (test: 0.2)"
        if self.folds is not None and self.val_folder is not None:
            problems[("folds",)] = (
                self.folds,
                "nothing beside a folder as data.val: folds cut train and val together",
            )
        if problems:
            raise problems_with(problems)
        return self

    @property
    def val_folder(self) -> str | None:
        """The folder of val, or its address; None where val is a share of the training images."""
        return self.val if isinstance(self.val, str) else None

    @property
    def val_share(self) -> float | None:
        """The share of the training images that is val; None where val has a folder of its own."""
        return self.val if isinstance(self.val, float) else None

    @property
    def test_folder(self) -> str | None:
        """The folder of test, or its address; None where test is a share of the training images, or built in."""
        return (
            next(iter(self.test.values()))
            if isinstance(self.test, dict)
            else self.test
            if isinstance(self.test, str)
            else None
        )

    @property
    def test_share(self) -> float | None:
        """The share of the training images that is test; None where test has a folder of its own."""
        return self.test if isinstance(self.test, float) else None

    def class_folders(self) -> dict[str, list[str]]:
        """Class -> the names of its folders."""
        return {name: [given] if isinstance(given, str) else list(given) for name, given in self.classes.items()}


LOOKED_AT = 12
"""Images of the training folder that are used for each second of a budget, and core: a core reads, decodes and audits
about 200 in a second, but trains on a few tens to a hundred, so that a trial would not come to more of them."""


WITH_A_BUDGET = {"lr": {"log": [1e-4, 3e-3]}, "tta": "auto"}
"""What the trials of a sweep with a `search.budget` are unless it says otherwise."""

CUT_ANYWHERE = {"schedule": "constant", "ema": 0.99}
"""The same where any begins with pretrained weights: what is measured to be good wherever such a trial is cut. One with
random weights is better when it is trained to its end, so it has neither these nor asha."""


class Budget(NamedTuple):
    """`search.budget`: what a sweep may use, over all its starts."""

    seconds: float
    of_gpus: bool
    """Whether they are seconds of GPUs (trial seconds x the GPUs of its slot), else of the command, by the clock."""


_SECONDS = {"s": 1, "m": 60, "h": 3600}


def budget_of(text: str) -> Budget | None:
    """What a text such as 12m or 8gpu-h stands for; None where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(gpu-)?([smh])", text)
    if found is None or not float(found[1]):
        return None
    return Budget(float(found[1]) * _SECONDS[found[3]], found[2] is not None)


class SearchSettings(Strict):
    """How trials are chosen, stopped and kept."""

    budget: str | None = None
    """What all starts of the sweep together may use: time by the clock (90s, 12m, 1.5h) or of GPUs (30gpu-m, 8gpu-h).
    With it `trials` may be left out, and what else is not given is what suits it: optuna, and trials with a range of
    learning rates that try mirror images; with pretrained weights asha, too, and trials that begin with their probes,
    at constant rates, and average their weights."""
    trials: int | None = Field(default=None, ge=1)
    """How many; may be left out for grid (all combinations), and with a budget (as many as there is time for)."""
    algorithm: str = "random"
    """How settings are proposed: grid, random or optuna."""
    scheduler: str = "none"
    """How weak trials are stopped early: none, asha, hyperband, median or pbt."""
    metric: str = "auc"
    """What is maximised on val, and what the leaderboard is ranked by."""
    grace_epochs: int = Field(default=1, ge=1)
    """No trial is stopped before this many epochs; for pbt, epochs between two exchanges."""
    reduction_factor: int = Field(default=3, ge=2)
    """asha and hyperband: one in this many goes on at each rung (asha: grace_epochs times its powers)."""
    concurrent: int | None = Field(default=None, ge=1)
    """Most trials at once; by default as many as the resources allow."""
    keep: int | None = Field(default=None, ge=1)
    """How many trials' weights stay on disk, besides those of finalists that are trained again; by default
    `ensemble.top_k` + 2."""
    finalists: int = Field(default=0, ge=0)
    """How many of the best trials are trained again once all trials have ended: with other seeds (`seeds`), for each of
    the folds (`data.folds`), or both. They are never stopped early."""
    seeds: int = Field(default=1, ge=1)
    """Trainings of each finalist, each with a seed of its own; the first one is the trial itself."""
    max_failed: int = Field(default=0, ge=0)
    """More failed trials than this end `rfray tune` with exit code 1."""
    probe: bool | Literal["auto"] = "auto"
    """Whether, before the first trial, a linear head is learned on what each backbone sees without any training (all
    its stages, on at most 20,000 train images): a row of its own that may vote unless it is clearly worse than the best
    trial, and what trials with `head: probe` begin with. auto: for pretrained weights, and where a trial may begin with
    it."""
    probe_keep: int = Field(default=1, ge=1)
    """How many backbones stay in the sweep whatever their probes say. Of the others those go that are clearly worse
    than the best one on images that the heads had not learned from: 1 - AUC is larger by a quarter, and would be so by
    chance in less than 5 % of cases (DeLong's paired test, corrected by Holm's method)."""
    warm_start: list[str] = Field(default=[])
    """Earlier runs: folders or addresses. Those of their trials that are trials of this sweep, too, on the same images,
    are taken over instead of trained, and count among `trials`; optuna learns from the others."""

    @field_validator("budget", mode="before")
    @classmethod
    def _a_time(cls, given: Any) -> Any:
        if given is None or (isinstance(given, str) and budget_of(given)):
            return given
        raise ValueError("a time by the clock such as 90s, 12m or 1.5h, or of GPUs such as 30gpu-m or 8gpu-h")

    @field_validator("warm_start")
    @classmethod
    def _absolute(cls, runs: list[str]) -> list[str]:
        return each_once(absolute_paths(runs))


class Resources(Strict):
    """What one trial gets. `resources: auto` measures what each backbone needs, and packs as many as fit."""

    cpu: float = Field(default=1, gt=0)
    """CPU cores; of each worker, where several train a trial."""
    gpu: float | Literal["auto"] = "auto"
    """GPUs: 0, a fraction of one, or a whole number; more than one train the trial together, a worker each.
    auto: 1 (one a worker) where the cluster has any, else 0."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that train one trial together, each with a share of every batch, `cpu` cores and one GPU or none.
    By default as many as `gpu`, else 1."""
    auto: bool = False
    """Whether cpu and gpu follow from what each backbone is measured to need; `resources: auto` says the same."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """What the resources of one trial cost in an hour, in any currency; with it the leaderboard has a column `cost`."""

    @field_validator("gpu")
    @classmethod
    def _whole_above_one(cls, gpu: float | str) -> float | str:
        if not isinstance(gpu, str) and (gpu < 0 or (gpu > 1 and gpu != int(gpu))):
            raise ValueError("0, a fraction of one GPU, a whole number of them, or auto")
        return gpu

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.auto:
            for key in ("cpu", "gpu", "workers", "price_per_hour"):
                if (given := getattr(self, key)) != type(self).model_fields[key].default:
                    problems[(key,)] = given, "nothing beside auto, which gives each backbone what it needs"
        elif self.workers is not None and self.gpu not in ("auto", 0) and self.workers != self._one_a_gpu:
            allowed = f"{self._one_a_gpu}, as resources.gpu is {self.gpu:g} and each worker has one; or leave it out"
            problems[("workers",)] = self.workers, allowed
        if problems:
            raise problems_with(problems)
        return self

    @property
    def together(self) -> int:
        """How many processes train a trial together."""
        return self.workers or self._one_a_gpu

    @property
    def _one_a_gpu(self) -> int:
        return 1 if isinstance(self.gpu, str) else max(1, int(self.gpu))


def _written_out(given: Any) -> Any:
    """`resources: auto` as the mapping that it stands for. Raises ValueError for another text."""
    if given == "auto":
        return {"auto": True}
    if isinstance(given, str):
        raise ValueError("keys with values (key: value), or auto")
    return given


class MaxFpr(Strict):
    """The lowest threshold at which few enough real images are called fake."""

    max_fpr: float = Field(gt=0, lt=1)
    """Greatest share of the real val images that may be called fake."""


class EnsembleSettings(Strict):
    """Which trials vote together, how, and what the vote is taken for."""

    top_k: int = Field(default=5, ge=1)
    """How many of the best trials (by the val metric) are members."""
    leave_out_worse: bool = False
    """Whether those are no members that are clearly worse than the best one on val (1 - AUC is larger by a tenth,
    and would be so by chance in less than 5 % of cases: DeLong's paired test, corrected by Holm's method). Probes that
    are never are; weighted chooses for itself. With a search.budget true unless given: a vote with such members, of
    few, is often below the best one."""
    diverse: int | None = Field(default=None, ge=1)
    """At most so many members of one backbone."""
    methods: list[Literal["soft", "weighted", "calibrated"]] = Field(default=["soft"], min_length=1)
    """How they vote: soft (mean of their probabilities), weighted (all kept trials, with weights chosen on the val
    part) or calibrated (mean after each member's temperature). The first is what `rfray ensemble` hands over; soft is
    always compared."""
    choose_by: Literal["score", "worst"] = "score"
    """What members are chosen and ranked by: the val metric, or its worst value under corruption on val, of
    the trials whose weights are kept (`search.keep`)."""
    threshold: Literal["max_f1", "youden"] | MaxFpr | Annotated[float, Field(ge=0, le=1)] = 0.5
    """From which p_fake on an image is called fake: a number, or how it is chosen on val: max_f1, youden
    (recall minus false-positive rate) or `max_fpr: 0.01`."""
    unsure_error: float | None = Field(default=None, gt=0, lt=0.5)
    """Error rate that is wanted among the images that get a verdict; the others, around the threshold, are unsure."""


class ReportSettings(Strict):
    """What `rfray ensemble` reports beside the leaderboard."""

    group_pattern: str | None = None
    """Regular expression on an image's path below its data folder; its match (of its first group in brackets, if it has
    one) names the group in which an image is counted; by default its subfolder."""
    corruptions: bool = False
    """Whether test is also predicted under JPEG, scaling, blur and noise."""

    _is_regular_expression = field_validator("group_pattern")(_checked_pattern)


class Sweep(Strict):
    """One sweep file, checked; all paths absolute."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder: runs/<name>."""
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of the split, the search and, unless `trial.seed` says otherwise, every trial."""
    data: DataSettings
    """Where the images are and how they are divided."""
    trial: TrialAxes
    """What one trial is; every key may be a value, a list of values or a range."""
    augmentations: dict[str, Annotated[list[dict[str, dict[str, Any] | None]], Field(min_length=1)]] = Field(default={})
    """Own policies: name -> list of albumentations transforms, each `{Name: {argument: value}}`."""
    search: SearchSettings = SearchSettings()
    """How trials are chosen, stopped and kept."""
    resources: Annotated[
        Resources, BeforeValidator(_written_out, json_schema_input_type=Resources | Literal["auto"])
    ] = Resources()
    """What one trial gets; auto: what its backbone is measured to need."""
    ensemble: EnsembleSettings = EnsembleSettings()
    """Which trials vote together, how, and what the vote is taken for."""
    report: ReportSettings = ReportSettings()
    """What is reported beside the leaderboard."""

    @property
    def keep(self) -> int:
        """How many trials' weights stay on disk across the whole sweep, besides those of probes and of repeats."""
        return self.search.keep or self.ensemble.top_k + 2

    def probe(self, trial: Trial) -> Trial:
        """The probe that a trial belongs to: the same backbone, weights and images, and no training."""
        kept = {name: getattr(trial, name) for name in PROBED}
        return Trial(**kept, head="probe", seed=self.seed)

    def probes(self) -> list[Trial]:
        """The probes that `search.probe` asks for, each once; of a range of image sizes at the largest."""
        size = self.trial.axes().get("image_size")
        sizes = [int(size.bounds[1])] if isinstance(size, Range) else self.trial.choices("image_size")
        wanted: dict[str, Trial] = {}
        for backbone, source, side, resize in product(
            self.trial.choices("backbone"), self.trial.choices("pretrained"), sizes, self.trial.choices("resize")
        ):
            weights = source.get(backbone, False) if isinstance(source, dict) else source
            one = self.probe(Trial(backbone=backbone, pretrained=weights, image_size=side, resize=resize))
            if self.search.probe is True or weights or "probe" in self.trial.choices("head"):
                wanted[one.digest] = one
        return list(wanted.values()) if self.search.probe else []

    @model_validator(mode="before")
    @classmethod
    def _a_budget_decides_the_rest(cls, raw: Any) -> Any:
        search, trial = (raw.get(key) if isinstance(raw, dict) else None for key in ("search", "trial"))
        if not isinstance(search, dict) or search.get("budget") is None or not isinstance(trial, dict):
            return raw
        pretrained = _any_pretrained(trial.get("pretrained", True))
        with_probes = pretrained and search.get("probe") is not False and not isinstance(trial.get("image_size"), dict)
        begun = {**(CUT_ANYWHERE if pretrained else {}), **({"head": "probe"} if with_probes else {})}
        searched = {"algorithm": "optuna", "scheduler": "asha" if pretrained else "none"}
        decided = {"search": {**searched, **search}, "trial": {**WITH_A_BUDGET, **begun, **trial}}
        if isinstance(ensemble := raw.get("ensemble", {}), dict):
            decided["ensemble"] = {"leave_out_worse": True, **ensemble}
        return {**raw, **decided}

    @model_validator(mode="before")
    @classmethod
    def _seed_reaches_the_trials(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("trial"), dict):
            seed = raw.get("seed")
            if type(seed) is int and seed in SEEDS:  # a wrong one is one problem, not two
                return {**raw, "trial": {"seed": seed, **raw["trial"]}}
        return raw

    @property
    def budget(self) -> Budget | None:
        """What `search.budget` stands for."""
        return budget_of(self.search.budget) if self.search.budget else None

    def train_images(self, cores: int) -> int | None:
        """How many images of the training folder are used at the most, where so many cores look at them."""
        if self.data.train_images is not None or self.budget is None or self.budget.of_gpus:
            return self.data.train_images
        return max(5_000, int(LOOKED_AT * cores * self.budget.seconds))

    @property
    def val_images(self) -> int:
        """How many images are enough to choose by."""
        if self.data.val_images is not None:
            return self.data.val_images
        return 5_000 if self.budget is None else int(min(5_000, max(1_000, 2 * self.budget.seconds)))

    @property
    def repeats(self) -> int:
        """How often each finalist is trained again."""
        return self.search.seeds - 1 + (self.data.folds or 0)

    @model_validator(mode="after")
    def _finalists_are_trained_again(self) -> Self:
        problems: dict[KeyPath, tuple[object, str]] = {}
        if self.search.finalists and not self.repeats:
            allowed = "0; or together with search.seeds (at least 2) or data.folds, by which they are trained again"
            problems["search", "finalists"] = self.search.finalists, allowed
        if self.repeats and not self.search.finalists:
            place = ("data", "folds") if self.data.folds else ("search", "seeds")
            given = self.data.folds or self.search.seeds
            problems[place] = given, "nothing, unless search.finalists says how many of the best trials it is for"
        if self.data.folds and self.ensemble.choose_by == "worst":
            problems["ensemble", "choose_by"] = "worst", "score, as data.folds are not predicted under corruption"
        if problems:
            raise problems_with(problems)
        return self

    @model_validator(mode="after")
    def _weights_for_the_ensemble_are_kept(self) -> Self:
        if self.keep < self.ensemble.top_k:
            allowed = f"at least ensemble.top_k ({self.ensemble.top_k}), or the ensemble's weights would be gone"
            raise problems_with({("search", "keep"): (self.keep, allowed)})
        return self


def _any_pretrained(given: Any) -> bool:
    """Whether what is written as trial.pretrained is anything but false throughout."""
    if isinstance(given, list | dict):
        return any(map(_any_pretrained, given.values() if isinstance(given, dict) else given))
    return given is not False
