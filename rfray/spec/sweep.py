"""What a sweep file says -> `Sweep` (strict, typed).

Names of what rooms further up register (backbones, metrics, …) are plain text here; `tuning.preflight` checks them.
"""

import re
from itertools import product
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rfray.spec.budget_defaults import (
    Budget,
    checked_budget,
    images_to_choose_by,
    images_to_use,
    read_budget,
    with_defaults,
)
from rfray.spec.parts import FURTHER, TEST, NamedSets, is_test
from rfray.spec.schema_base import EACH_ONCE, AbsolutePath, Problems, Strict, leads_out, refusing, rule
from rfray.spec.trial import PROBED, SEEDS, Trial, TrialAxes

CLASSES = ("real", "fake")
"""Class names; the position is the label: 0 real, 1 fake (the positive class)."""


def _no_share(given: Any) -> Any:
    if isinstance(given, str) and re.fullmatch(r"\s*[\d.,/]*\d\s*(%|percent)?\s*", given):
        raise ValueError(f"a share such as 0.2, without % and quotes; a folder of this name is ./{given}")
    return given


MOST_ROTATIONS = 8
"""Of `search.judge: unseen`: so many sources of fakes are left out in turn, the largest ones (our choice: the data sets
of the field have about so many generators, and a finalist is trained once for each)."""
UNSEEN = ("unseen", "unseen_worst")
"""What `search.judge` is where trials are judged on sources that they have not learned from."""

Share = Annotated[float, Field(gt=0, lt=0.9)]
Folder = Annotated[AbsolutePath, BeforeValidator(_no_share)]
"""Where a share may stand, too."""
ATTRIBUTE_ENDINGS = (".csv", ".tsv", ".parquet")
TableFile = Annotated[
    AbsolutePath,
    rule(
        f"the path or address of a table, which ends in {', '.join(ATTRIBUTE_ENDINGS)}",
        lambda path: path.lower().endswith(ATTRIBUTE_ENDINGS),
    ),
]
ClassFolder = Annotated[
    str,
    AfterValidator(lambda name: PurePosixPath(name).as_posix()),  # real/ is real
    rule("a folder in the data folder, by its name or path there", lambda name: name == "." or not leads_out(name)),
]
ClassFolders = Annotated[
    dict[Literal["real", "fake"], ClassFolder | Annotated[list[ClassFolder], Field(min_length=1)]],
    rule("both real and fake", lambda classes: set(classes) == set(CLASSES)),
]
Gpus = Annotated[
    float | Literal["auto"],
    rule(
        "0, a fraction of one GPU, a whole number of them, or auto",
        lambda gpu: gpu == "auto" or 0 <= gpu <= 1 or (gpu > 1 and gpu == int(gpu)),
    ),
]


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"a regular expression (this one: {error})") from None
    return pattern


RegularExpression = Annotated[str, AfterValidator(_checked_pattern)]

SUBFOLDER = "subfolder"
"""`data.group`: the name of the folder below the class folder."""
SourceNames = Annotated[
    RegularExpression,
    rule(
        f"{SUBFOLDER}, or a regular expression that finds the source's name in the path, such as /([a-z]+)_\\d+",
        lambda given: given == SUBFOLDER or re.search(r"[\\.^$*+?{}\[\]|()]", given),
    ),
]
"""A text without anything of a regular expression would find one name only: itself."""


class CacheSettings(Strict):
    """Where decoded pixels are kept, once on each node."""

    dir: AbsolutePath | None = None
    """Folder on each node. By default the user's cache folder."""
    max_gb: float = Field(default=50, ge=0)
    """Maximum size in 10^9 bytes: the least recently used files go first; what does not fit is decoded each time."""


class Reencode(Strict):
    """Scale every image to one size and encode it as JPEG before a model sees it."""

    quality: int = Field(default=90, ge=1, le=100)
    """JPEG quality."""
    size: int = Field(default=256, ge=16, le=4096)
    """Side of the square in pixels. The shorter edge is scaled to it and the middle is cut out."""


class SourceColumn(Strict):
    """A column of `data.attributes` that names the source of each image."""

    column: str = Field(min_length=1)
    """Its name in the table."""


class HeldOut(Strict):
    """Sources (`data.group`) that are held out to choose by."""

    groups: Annotated[list[str], Field(min_length=1), EACH_ONCE]
    """Their names. Of a class of which none is named, as large a share of the images is taken."""


class DataSettings(Strict):
    """Where the images are and how they are divided into train, val and test."""

    source: Literal["folder", "demo"] = "folder"
    """folder: the folders below. demo: the built-in data set."""
    train: AbsolutePath | None = None
    """Folder (or address, s3://…) to train on, with one folder per class inside."""
    val: Share | Folder | HeldOut = 0.15
    """The images on which everything is chosen: a share of the training images, a folder (or address) of its own, or
    whole sources of the training images (`{groups: [stylegan2]}`), from which nothing is learned then."""
    test: Share | Folder | NamedSets | None = None
    """The images that the leaderboard is about: a folder (or address), several (`{name: folder, …}`: the first one is
    what is meant where no name stands), or a share of the training images. `rfray ensemble` predicts them; `rfray tune`
    only looks for copies of them in train and val."""
    classes: ClassFolders = Field(default={"real": "real", "fake": "fake"})
    """Name of the folder of each class, or several names, inside each of the folders above."""
    train_images: int | None = Field(default=None, ge=2)
    """Maximum number of images of the training folder; they are drawn at random. By default all; with a `search.budget`
    by the clock, 12 for each second and CPU core, but at least 5,000."""
    val_images: int | None = Field(default=None, ge=1)
    """Maximum number of images of val, as every epoch is judged on all of them. By default 5,000; with a
    `search.budget`, 2 for each second, but at least 1,000 and at most 5,000."""
    folds: int | None = Field(default=None, ge=2)
    """Number of folds for cross-validation over train and val: for each, every finalist (`search.finalists`) is trained
    on the others and judged on it. Votes and thresholds are then based on every training image."""
    split_by: Literal["auto", "image", "group"] = "auto"
    """What stays in one part: each image, or each subfolder (group). auto: group if every class has at least ten
    subfolders, else image. Copies of one picture always stay in one part."""
    max_unreadable: float = Field(default=0.01, ge=0, le=1)
    """Stop if more than this share of the files can't be read."""
    group_pattern: RegularExpression | None = None
    """Regular expression. Images with the same match in their path (of its first group, if any) stay in one part; all
    matches count: an image of two identities links all images of both."""
    group: SourceNames | SourceColumn | None = None
    """What names the source of an image, that is the generator of a fake or the origin of a photograph: subfolder, a
    regular expression, whose first match in the path (of its first group, if any) is the name, or `{column: NAME}` of
    the table data.attributes. By default the class folder where a class has several, else the subfolder where each
    class has some. A linear head on frozen features is then judged on sources that it has not seen."""
    test_duplicates: Literal["leave_out", "keep"] = "leave_out"
    """Images of train and val that are also in test: leave_out removes them, keep only reports them in the audit."""
    leave_out: AbsolutePath | None = None
    """A list of images of train and val that take no part, looked through by a person: a CSV with a column `path`, such
    as label-issues.csv, or a path a line. Nothing is deleted."""
    reencode: Reencode | None = None
    """Scale and encode all images in the same way, so that no model learns the file format."""
    attributes: TableFile | None = None
    """A table (.csv, .tsv or .parquet) of what is known of the images: a column `path` (below the train, val or test
    folder), and columns such as generator, quality, age or skin type. The report has the groups of each column."""
    cache: CacheSettings = CacheSettings()
    """Where decoded pixels are kept."""

    @refusing
    def _complete(self) -> Problems:
        if self.source == "demo":
            for key, given in {"train": self.train, "val": self.folder("val"), "test": self.test}.items():
                if given is not None:
                    yield (key,), given, "nothing, as the built-in data (source: demo) has its own images"
        elif self.train is None:
            yield ("train",), None, "a folder with one folder per class inside, or source: demo"
        elif self.test is None:
            yield ("test",), None, "a folder, or a share of the training images (test: 0.2)"
        if isinstance(self.group, SourceColumn) and self.attributes is None:
            yield ("group", "column"), self.group.column, "nothing without data.attributes, the table that has it"
        if self.folds is not None and (self.folder("val") is not None or self.held_out):
            what = "a folder" if not self.held_out else "whole sources"
            yield ("folds",), self.folds, f"nothing if data.val is {what}: folds divide train and val together"

    @property
    def held_out(self) -> tuple[str, ...]:
        """The sources that val consists of; none where it is a share or a folder."""
        return tuple(self.val.groups) if isinstance(self.val, HeldOut) else ()

    @property
    def training_folders(self) -> tuple[str, ...]:
        """The data folders that train and val are in: train, and val where it has a folder of its own."""
        return ("train",) if self.folder("val") is None else ("train", "val")

    @property
    def test_folders(self) -> dict[str, str]:
        """Part of each test set, the first one first -> its data folder; none where test is a share, or built in."""
        if isinstance(self.test, dict):
            parts = (f"{FURTHER}{name}" if number else TEST for number, name in enumerate(self.test))
            return dict(zip(parts, self.test.values(), strict=True))
        return {TEST: self.test} if isinstance(self.test, str) else {}

    @property
    def test_parts(self) -> tuple[str, ...]:
        """The parts that are test sets: test, and where there are several test-<name> of each further one."""
        return (TEST, *(part for part in self.test_folders if part != TEST))

    @property
    def test_sets(self) -> dict[str, str]:
        """Name of each of several test sets, the first one first -> its part; empty where there is only one."""
        named = self.test if isinstance(self.test, dict) and len(self.test) > 1 else {}
        return dict(zip(named, self.test_parts, strict=False))

    def key(self, part: str) -> str:
        """What is written for the data folder of a part: data.train, data.test, or data.test.phone of several."""
        names = {part: f"test.{name}" for name, part in self.test_sets.items()}
        return f"data.{names.get(part, part)}"

    def title(self, part: str) -> str:
        """What a part is called in sentences: train, val, test; test (phone) where there are several test sets."""
        return {part: f"test ({name})" for name, part in self.test_sets.items()}.get(part, part)

    def folder(self, part: str) -> str | None:
        """The data folder given for a part, or its address; None where the part is a share, or built in."""
        given = self.test_folders.get(part) if is_test(part) else getattr(self, part)
        return given if isinstance(given, str) else None

    def share(self, part: str) -> float | None:
        """The share of the training images that val or test is; None where the part has a data folder of its own."""
        given = getattr(self, part)
        return given if isinstance(given, float) else None

    def class_folders(self) -> dict[str, list[str]]:
        """Class -> the names of its folders."""
        return {name: [given] if isinstance(given, str) else list(given) for name, given in self.classes.items()}


class SearchSettings(Strict):
    """How trials are chosen, stopped and kept."""

    budget: Annotated[str, BeforeValidator(checked_budget)] | None = None
    """What all starts of the sweep together may use: time by the clock (90s, 12m, 1.5h) or of GPUs (30gpu-m, 8gpu-h).
    `trials` may then be left out, and the defaults are optuna, a range of learning rates and `tta: auto`; with
    pretrained weights also asha, `head: probe`, a constant learning rate and `ema`."""
    trials: int | None = Field(default=None, ge=1)
    """Number of trials. By default all combinations for grid, and with a budget as many as there is time for."""
    algorithm: str = "random"
    """How settings are proposed: grid, random or optuna."""
    scheduler: str = "none"
    """How weak trials are stopped early: none, asha or median."""
    judge: Literal["val", "unseen", "unseen_worst"] = "val"
    """What trials are judged on. val: the images of `data.val`. unseen: each trial leaves out one source of fakes
    (`data.group`) and sources of photographs, is judged on these, and the next trial leaves out the next ones. In the
    end the finalists are trained once without each, and rank by the mean; unseen_worst: by the worst."""
    metric: str = "auc"
    """Metric that is maximised on val, and that the leaderboard is ranked by."""
    grace_epochs: int = Field(default=1, ge=1)
    """No trial is stopped before this many epochs."""
    reduction_factor: int = Field(default=3, ge=2)
    """asha: one in this many goes on at each rung (grace_epochs times the powers of this)."""
    brackets: int = Field(default=1, ge=1)
    """asha: with 2 or more, asynchronous Hyperband: trials are divided into so many brackets, each with its own rungs,
    which begin at grace_epochs in the first one, and in each further one at reduction_factor times as many epochs."""
    concurrent: int | None = Field(default=None, ge=1)
    """Maximum number of trials that run at once. By default as many as the resources allow."""
    keep: int | None = Field(default=None, ge=1)
    """Number of trials whose weights stay on disk, besides finalists trained again. By default `ensemble.top_k` + 2."""
    finalists: int = Field(default=0, ge=0)
    """Number of the best trials that are trained again at the end, with other seeds (`seeds`), for each of the folds
    (`data.folds`), or both. They are never stopped early. With `judge: unseen` 1 by default, which is trained without
    each of the sources; with a budget two fifths of it are kept for that."""
    seeds: int = Field(default=1, ge=1)
    """Trainings of each finalist, each with its own seed. The first one is the trial itself."""
    max_failed: int = Field(default=0, ge=0)
    """`rfray tune` ends with exit code 1 if more trials than this have failed."""
    probe: bool | Literal["auto"] = "auto"
    """Before the first trial, train a linear head on the features of each frozen backbone (all its stages, on at most
    20,000 train images). This probe is a row of its own, may vote unless it is clearly worse than the best trial, and
    is what trials with `head: probe` begin with. auto: with pretrained weights, and where a trial may begin with it."""
    probe_keep: int = Field(default=1, ge=1)
    """Number of backbones that stay in the sweep whatever their probes say. Of the others, those are dropped that are
    clearly worse than the best one on images that the heads were not trained on: 1 - AUC is larger by more than
    a quarter, which is tested as such, for all backbones at once (5 %); images that belong together count once."""
    warm_start: Annotated[list[AbsolutePath], EACH_ONCE] = Field(default=[])
    """Run folders (or addresses) of earlier sweeps. Trials of theirs that are also trials of this sweep, on the same
    images, are taken over instead of trained, and count among `trials`; optuna learns from the others."""


class Resources(Strict):
    """What one trial gets. `resources: auto` measures what each backbone needs, and runs as many trials as fit."""

    cpu: float = Field(default=1, gt=0)
    """CPU cores of a trial; of each worker, where several train a trial."""
    gpu: Gpus = "auto"
    """GPUs of a trial: 0, a fraction of one, or a whole number; with more than one, each has a worker of its own.
    auto: 1 (or 1 per worker) where the cluster has any, else 0."""
    workers: int | None = Field(default=None, ge=1)
    """Processes that share each batch of a trial, each with `cpu` cores and one GPU or none. By default `gpu`, or 1."""
    auto: bool = False
    """Decide cpu and gpu by what each backbone is measured to need. `resources: auto` means the same."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """What the resources of one trial cost in an hour, in any currency. The leaderboard then has a column `cost`."""

    @refusing
    def _agree(self) -> Problems:
        if self.auto:
            for key in ("cpu", "gpu", "workers", "price_per_hour"):
                if (given := getattr(self, key)) != type(self).model_fields[key].default:
                    yield (key,), given, "nothing beside auto, which gives each backbone what it needs"
        elif self.workers is not None and self.gpu not in ("auto", 0) and self.workers != self._one_a_gpu:
            allowed = f"{self._one_a_gpu}, as resources.gpu is {self.gpu:g} and each worker has one; or leave it out"
            yield ("workers",), self.workers, allowed

    @property
    def world_size(self) -> int:
        """How many processes train one trial."""
        return self.workers or self._one_a_gpu

    @property
    def _one_a_gpu(self) -> int:
        return 1 if isinstance(self.gpu, str) else max(1, int(self.gpu))


def _written_out(given: Any) -> Any:
    """`resources: auto` as the mapping that it means. Raises ValueError for another text."""
    if isinstance(given, str) and given != "auto":
        raise ValueError("keys with values (key: value), or auto")
    return {"auto": True} if given == "auto" else given


class MaxFpr(Strict):
    """The lowest threshold at which few enough real images are called fake."""

    max_fpr: float = Field(gt=0, lt=1)
    """Maximum share of the real val images that may be called fake."""


class EnsembleSettings(Strict):
    """Which trials vote together, how, and what the vote is used for."""

    top_k: int = Field(default=5, ge=1)
    """Number of members: the best trials by the val metric."""
    leave_out_worse: bool = False
    """Leave out trials that are clearly worse than the best one on val: 1 - AUC is larger by more than a tenth,
    which is tested as such, for all trials at once (5 %); images that belong together count once. Such probes are
    always left out; weighted chooses for itself. With a `search.budget` true by default."""
    diverse: int | None = Field(default=None, ge=1)
    """Maximum number of members with the same backbone."""
    methods: list[Literal["soft", "weighted", "calibrated"]] = Field(default=["soft"], min_length=1)
    """How the members vote: soft (mean of their probabilities), weighted (all kept trials, with weights chosen on val)
    or calibrated (mean after each member's temperature). The first becomes the detector; soft is always compared."""
    choose_by: Literal["score", "worst"] = "score"
    """How members are chosen and ranked: by the val metric, or by its worst value on corrupted val images."""
    threshold: Literal["max_f1", "youden"] | MaxFpr | Annotated[float, Field(ge=0, le=1)] = 0.5
    """An image with this p_fake or more is called fake: a number, or how it is chosen on val: max_f1, youden (recall
    minus false-positive rate) or `max_fpr: 0.01`."""
    unsure_error: float | None = Field(default=None, gt=0, lt=0.5)
    """Wanted error rate among the images that get a verdict. The others, around the threshold, are called unsure."""


class ReportSettings(Strict):
    """What `rfray ensemble` reports beside the leaderboard."""

    group_pattern: RegularExpression | None = None
    """Regular expression. Its match in a path (of its first group, if any) is the image's group; else the subfolder."""
    corruptions: bool = False
    """Also predict the test images after JPEG compression, scaling, blur and noise."""


class Sweep(Strict):
    """One sweep file, checked; all paths absolute."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run folder: runs/<name>."""
    seed: int = Field(default=0, ge=SEEDS.start, lt=SEEDS.stop)
    """Seed of the split, the search and, unless `trial.seed` says otherwise, every trial."""
    data: DataSettings
    """Where the images are and how they are divided."""
    trial: TrialAxes
    """What one trial is. Every key may be a value, a list of values or a range."""
    augmentations: dict[str, Annotated[list[dict[str, dict[str, Any] | None]], Field(min_length=1)]] = Field(default={})
    """Your own policies: name -> list of albumentations transforms, each `{Name: {argument: value}}`."""
    search: SearchSettings = SearchSettings()
    """How trials are chosen, stopped and kept."""
    resources: Annotated[
        Resources, BeforeValidator(_written_out, json_schema_input_type=Resources | Literal["auto"])
    ] = Resources()
    """What one trial gets. auto: what its backbone is measured to need."""
    ensemble: EnsembleSettings = EnsembleSettings()
    """Which trials vote together, how, and what the vote is used for."""
    report: ReportSettings = ReportSettings()
    """What is reported beside the leaderboard."""

    _defaults = model_validator(mode="before")(with_defaults)

    @refusing
    def _agree(self) -> Problems:
        if self.search.finalists and not self.repeats:
            allowed = "0; or together with search.seeds (at least 2) or data.folds, by which they are trained again"
            yield ("search", "finalists"), self.search.finalists, allowed
        yield from self._judged_unseen()
        if self.repeats and not self.search.finalists and not self.judges_unseen:
            key = ("data", "folds") if self.data.folds else ("search", "seeds")
            given = self.data.folds or self.search.seeds
            yield key, given, "nothing, unless search.finalists says how many of the best trials it is for"
        if self.data.folds and self.ensemble.choose_by == "worst":
            yield ("ensemble", "choose_by"), "worst", "score, as data.folds are not predicted under corruption"
        if self.keep < self.ensemble.top_k:
            allowed = f"at least ensemble.top_k ({self.ensemble.top_k}), or the ensemble's weights would be gone"
            yield ("search", "keep"), self.keep, allowed

    def _judged_unseen(self) -> Problems:
        """What does not go together with `search.judge: unseen`."""
        if not self.judges_unseen:
            return
        beside, data, search = f"with search.judge: {self.search.judge}", self.data, self.search
        if data.folds is not None:
            yield ("data", "folds"), data.folds, f"nothing {beside}: its left-out sources are the folds"
        if not isinstance(data.val, float):
            given = data.val if isinstance(data.val, str) else data.val.model_dump()
            yield ("data", "val"), given, f"a share {beside}, which divides train and val together by their sources"
        if search.seeds > 1:
            yield ("search", "seeds"), search.seeds, f"1 {beside}: finalists are trained again without each source"
        if search.warm_start:
            yield ("search", "warm_start"), search.warm_start, f"nothing {beside}: earlier trials left out other images"
        if self.ensemble.choose_by == "worst":
            yield ("ensemble", "choose_by"), "worst", f"score {beside}: left-out images are not predicted corrupted"

    def with_trial(self, **values: Any) -> Self:
        """The same sweep with other values or axes of a trial."""
        return self.model_copy(update={"trial": self.trial.model_copy(update=values)})

    @property
    def keep(self) -> int:
        """How many trials' weights stay on disk across the whole sweep, besides those of probes and of repeats."""
        return max(self.search.keep or self.ensemble.top_k + 2, self.judges_unseen * self.search.finalists)

    @property
    def repeats(self) -> int:
        """How often each finalist is trained again, at the most."""
        return self.search.seeds - 1 + (self.data.folds or 0) + self.judges_unseen * (MOST_ROTATIONS - 1)

    @property
    def judges_unseen(self) -> bool:
        """Whether trials are judged on sources that they have not learned from."""
        return self.search.judge in UNSEEN

    @property
    def budget(self) -> Budget | None:
        """What `search.budget` means."""
        return read_budget(self.search.budget) if self.search.budget else None

    def train_images(self, cores: int) -> int | None:
        """How many images of the training folder are used at the most, with so many cores; None for all."""
        return self.data.train_images or images_to_use(self.budget, cores)

    @property
    def val_images(self) -> int:
        """How many images of val are used at the most."""
        return self.data.val_images or images_to_choose_by(self.budget)

    def probe(self, trial: Trial) -> Trial:
        """The probe that a trial belongs to: the same backbone, weights and images, and no training."""
        return Trial(**trial.model_dump(include=set(PROBED)), head="probe", seed=self.seed)

    def probes(self) -> list[Trial]:
        """The probes that `search.probe` asks for, each once; of a range of image sizes at the largest."""
        if not self.search.probe:
            return []
        wanted: dict[str, Trial] = {}
        backbones, sources, resizes = (self.trial.choices(name) for name in ("backbone", "pretrained", "resize"))
        for backbone, source, side, resize in product(backbones, sources, self.trial.image_sizes(1), resizes):
            weights = source.get(backbone, False) if isinstance(source, dict) else source
            one = self.probe(Trial(backbone=backbone, pretrained=weights, image_size=side, resize=resize))
            if self.search.probe is True or weights or "probe" in self.trial.choices("head"):
                wanted[one.digest] = one
        return list(wanted.values())
