"""Run folder <-> typed records: `RunDir` and `TrialDir` know the name of every file of a run; nobody else does."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from rfray.errors import RunError
from rfray.spec.schema_base import Strict
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import differences, read_resolved_sweep, resolved_text
from rfray.spec.trial import Trial
from rfray.store.files import file_digest, replace_text, replacing, user_cache
from rfray.store.lease import leased
from rfray.store.storage import Mirror, Storage, is_address

Record = TypeVar("Record", bound=BaseModel)

Part = Literal["val", "test"]
"""A part of the data that is predicted."""

Fold = tuple[int, int]
"""Its number, from 1, and how many there are (`data.folds`)."""
REPEAT = re.compile(r"\d+-[0-9a-f]+-(seed\d+|fold\d+of\d+)")
"""The ids of repeats: the finalist's, and which one it is."""
PROBE = "probe-"
"""What the ids of probes begin with."""
WEIGHTS_FILE = "best.safetensors"
ENSEMBLE_FILE = "ensemble.json"
"""Of a bundle, which is the folder ensemble/ of a run or a copy of it."""
MEMBER_FILES = ("config.json", "model.safetensors")
"""Of each member of a bundle, in members/<number>: timm's own format."""
HEAD_FILE = "head.safetensors"
"""Beside them where the member has a probe's head: that head, while theirs is the backbone."""
HEAVY = (f"*{WEIGHTS_FILE}", "*/folds/*", "ensemble/members/*", "*predictions-test*", "*predictions-val-*")
"""Patterns of the files that a sweep has no need to read back."""


class TrialStart(Strict):
    """trial.json: what the trial was asked to be."""

    id: str
    number: int
    """Position in the order in which the search proposed the trials, from 0."""
    results_known: int
    """How many trials had ended when it was proposed: with `TrialResult.position`, the search can be retraced."""
    epochs_known: int = 0
    """How many epochs, of all trials, had been judged by then; the search learns from them where trials pause."""
    trial: Trial
    repeats: str | None = None
    """Id of the finalist that is trained again."""
    fold: Fold | None = None
    """The fold of the training images that this one is judged on; None: on val."""
    micro_batch: int | None = None
    """Images that fit into memory at once, where that was fewer than `trial.batch_size`; gradients are accumulated."""


class TrialResult(Strict):
    """result.json: how the trial ended. Written last, by the driver; a trial without it is not finished."""

    id: str
    position: int
    """Position in the order in which the trials ended, from 0."""
    kind: Literal["model", "probe", "fold"] = "model"
    """A trained trial; a probe: a backbone that stood still, under a head that was learned; or a finalist trained again
    on all folds but one."""
    status: Literal["ok", "failed"]
    reason: str | None = None
    """First line of the error of a failed trial."""
    trial: Trial
    """The setting at the best epoch (pbt changes it on the way); of a probe, see `Sweep.probe`."""
    metric: str
    """Name of the val metric."""
    score: float | None = None
    """Best value of the val metric, in [0, 1]."""
    best_epoch: int | None = None
    """Epoch (from 1) that the weights and the val predictions come from."""
    epochs: int
    """Epochs that were trained."""
    seconds: float
    """Time spent in those epochs."""
    wait_share: float | None = None
    """Share of the training time in which the model waited for images, in [0, 1]; None where no epoch was trained."""
    node: str
    """Host that the trial ran on last."""
    files: dict[str, str]
    """Name -> SHA-256 of the trial's other files, by which damage is noticed."""
    repeats: str | None = None
    """Id of the finalist that was trained again; None for a trial of the search."""
    taken_from: str | None = None
    """Folder of the trial of an earlier run (`search.warm_start`) that this one was taken over from, not trained."""


class EarlierTrial(Strict):
    """A trial of an earlier run, and what it is to a sweep that starts warm."""

    run: str
    """Path or address of the earlier run."""
    id: str
    """What the trial is called there."""
    trial: Trial
    score: float
    """Best value of that run's val metric, in [0, 1]."""
    use: Literal["taken over", "score", "setting"]
    """taken over: it is one of this run's own; score: the search knows what it came to; setting: the search tries what
    it was set to on the axes first, as its score is one of other images or another metric."""


class WarmStart(Strict):
    """warm_start.json: what a sweep has from earlier runs, written when all of it is in the run folder.

    Whatever becomes of the earlier runs then, the search can be retraced.
    """

    trials: list[EarlierTrial] = Field(default=[])
    """Those taken over in the order of their numbers here, from 0."""
    lines: list[str] = Field(default=[])
    """What was used, for people: one on each earlier run."""

    @property
    def taken_over(self) -> list[EarlierTrial]:
        """The trials with the first numbers of this run."""
        return [one for one in self.trials if one.use == "taken over"]


class Measured(Strict):
    """What it takes to train one backbone at one image size, as measured on one kind of GPU, or on CPUs."""

    setting: str
    """Digest of the trial that was trained for it."""
    backbone: str
    image_size: int
    device: str
    """Name of the GPU, or cpu."""
    device_memory: int
    """Bytes that one such GPU has; 0 on CPUs."""
    memory: int
    """Bytes of it that the training took at the most, all that its process takes there included; 0 on CPUs."""
    host_memory: int
    """Bytes of the node's memory that its process took at the most."""
    micro_batch: int
    """Images that were computed at once: a batch, or fewer where so many did not fit."""
    images_per_second: float
    """Of training, without augmentation."""


class Measurements(Strict):
    """measured.json: what `resources: auto` goes by, so that a later start need not measure again."""

    measured: list[Measured]


class Spent(Strict):
    """budget.json: what the starts of a sweep with a `search.budget` have used so far."""

    clock: float = 0
    """Seconds of the command."""
    gpus: float = 0
    """Seconds of trials x the GPUs that they had."""


class Start(NamedTuple):
    """One line of starts.csv: a process began with a trial."""

    session: str
    """Changes with every start of the sweep."""
    epochs: str
    """How many epochs were done before."""
    host: str
    process: str
    token: str
    """Whoever wrote the last one may write into the trial's folder."""


class TrialDir:
    """runs/<name>/trials/<id>: the files of one trial."""

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self.path = path
        self.id = path.name
        self.mirror = mirror or Mirror(path, None)
        self.start_file = path / "trial.json"
        self.history_file = path / "history.csv"
        self.weights_file = path / WEIGHTS_FILE
        self.result_file = path / "result.json"
        self.error_file = path / "error.txt"
        self.starts_file = path / "starts.csv"
        self.tensorboard = path / "tensorboard"
        self.out_of_fold_file = path / "predictions-train.parquet"
        self.features_folder = path / "features"
        self.folds_folder = path / "folds"

    def features_file(self, first: int) -> Path:
        """features/<first>.safetensors: what a probe's backbone sees in some of its images, from that one on."""
        return self.features_folder / f"{first:06d}.safetensors"

    def fold_weights_file(self, fold: Fold) -> Path:
        """folds/<number>of<folds>.safetensors: the probe whose head has not learned from that fold."""
        return self.folds_folder / f"{fold[0]}of{fold[1]}.safetensors"

    def state_file(self, epoch: int, digest: str) -> Path:
        """What the trial goes on from after `epoch`; its digest is in its name, so that it vouches for itself."""
        return self.path / f"state-{epoch:04d}-{digest[:16]}.pt"

    def state_files(self) -> list[Path]:
        """The states there are, newest first."""
        return sorted(self.path.glob("state-*-*.pt"), reverse=True)

    def predictions_file(self, part: Part, corruption: str | None = None) -> Path:
        """predictions-<part>.parquet, or predictions-<part>-<corruption>.parquet of the pictures under a corruption."""
        return self.path / _predictions_name(part, corruption)

    def start(self) -> TrialStart:
        """trial.json. Raises RunError where it is missing or damaged."""
        return read_record(self.start_file, TrialStart)

    def write_start(self, start: TrialStart) -> None:
        """Writes trial.json."""
        write_record(self.start_file, start)
        self.mirror.send(self.start_file)

    def result(self) -> TrialResult | None:
        """result.json, or None while the trial is not finished. Raises RunError where it is damaged."""
        return read_record(self.result_file, TrialResult) if self.result_file.exists() else None

    def write_result(self, result: TrialResult) -> None:
        """Writes result.json."""
        write_record(self.result_file, result)
        self.mirror.send(self.result_file)

    def damaged_files(self, result: TrialResult) -> list[Path]:
        """The files of the ended trial that are not what they were; weights that were not kept are not missed."""
        found = []
        for name, digest in result.files.items():
            file = self.path / name
            if (file.exists() and file_digest(file) != digest) or (not file.exists() and file != self.weights_file):
                found.append(file)
        return found

    def history(self) -> pd.DataFrame:
        """history.csv: one row an epoch; empty where there is none yet. Raises RunError where it is cut short."""
        if not self.history_file.exists():
            return pd.DataFrame()
        text = self.history_file.read_text(encoding="utf-8", errors="replace")
        try:
            history = pd.read_csv(io.StringIO(text))
        except ValueError:
            history = pd.DataFrame({"epoch": []})
        if not text.endswith("\n") or history.get("epoch", pd.Series()).tolist() != list(range(1, len(history) + 1)):
            raise RunError(f"{self.history_file} is damaged: it does not hold every epoch from the first")
        return history

    def starts(self) -> list[Start]:
        """starts.csv: every time that a process began with this trial, in order."""
        self.mirror.fetch(self.starts_file)
        if not self.starts_file.exists():
            return []
        lines = csv.reader(self.starts_file.read_text(encoding="utf-8", errors="replace").splitlines())
        return [Start(*fields) for fields in lines if len(fields) == len(Start._fields)]

    def write_starts(self, starts: list[Start]) -> None:
        """Writes starts.csv."""
        replace_text(self.starts_file, "".join(",".join(start) + "\n" for start in starts))
        self.mirror.send(self.starts_file)


class RunDir:
    """runs/<name>: the files of one sweep.

    Of a run at an address (s3://bucket/runs/<name>), `path` is a folder in this machine's cache that mirrors it: `pull`
    and `push` of `mirror` bring the one up to what the other has, and do nothing for a run on a disk.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where).rstrip("/") if is_address(where) else Path(where).absolute()
        """The path or the address: what another process makes the same RunDir from."""
        if isinstance(self.where, str):
            key = hashlib.sha256(self.where.encode()).hexdigest()[:12]
            self.name = self.where.rsplit("/", 1)[-1]
            self.path = user_cache() / "runs" / key / self.name
            self.mirror = Mirror(self.path, Storage(self.where))
        else:
            self.name = self.where.name
            self.path = self.where
            self.mirror = Mirror(self.path, None)
        self.sweep_file = self.path / "sweep.yaml"
        self.catalog_file = self.path / "catalog.parquet"
        self.unreadable_file = self.path / "unreadable.csv"
        # beside the folder, so that it stays in force when the folder is moved aside
        self.lock_file = self.path.with_name(f".{self.name}.lock")
        self.measured_file = self.path / "measured.json"
        self.warm_start_file = self.path / "warm_start.json"
        self.budget_file = self.path / "budget.json"
        self.budget_over_file = self.path / ".budget-over"
        self.ray_folder = self.path / ".ray"
        self.trials_folder = self.path / "trials"
        self.probes_folder = self.path / "probes"
        self.repeats_folder = self.path / "repeats"
        self.bundle_folder = self.path / "ensemble"
        self.ensemble_file = self.bundle_folder / ENSEMBLE_FILE
        self.model_card = self.bundle_folder / "README.md"
        self.mistakes_file = self.bundle_folder / "mistakes.json"
        self.groups_csv = self.path / "groups.csv"
        self.leaderboard_csv = self.path / "leaderboard.csv"
        self.leaderboard_md = self.path / "leaderboard.md"
        self.report_html = self.path / "report.html"
        self.plots_folder = self.path / "plots"
        self.mistakes_folder = self.path / "plots" / "mistakes"
        self.audit_file = self.path / "audit.json"
        self.images_file = self.path / "audit" / "images.parquet"
        self.audit_folder = self.path / "audit"

    def shown(self, path: Path) -> str:
        """How a user calls a file of the run, or the run itself: by its address, or from the working directory."""
        if isinstance(self.where, str):
            return f"{self.where}/{path.relative_to(self.path).as_posix()}".removesuffix("/.")
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def forget_ray(self) -> None:
        """Removes what Ray Tune has written for itself."""
        shutil.rmtree(self.ray_folder, ignore_errors=True)
        if self.mirror.storage is not None:
            self.mirror.storage.remove_folder(self.ray_folder.name)

    def ensemble_predictions_file(self, name: str, part: Part, corruption: str | None = None) -> Path:
        """ensemble/<name>-predictions-<part>.parquet, or …-<part>-<corruption>.parquet of the corrupted pictures."""
        return self.bundle_folder / f"{name}-{_predictions_name(part, corruption)}"

    def corrupted_votes(self) -> list[Path]:
        """The predictions of votes under corruption that are there."""
        return sorted(self.bundle_folder.glob("*-predictions-*-*.parquet"))

    def corruption_folder(self, part: Part) -> Path:
        """What was predicted of a part under corruption so far, until all of it is."""
        return self.path / f".corruption-{part}"

    def mistake_picture(self, number: int, *, evidence: bool = False) -> Path:
        """plots/mistakes/<number>.jpg: a wrongly classified image; <number>-evidence.jpg: where that was seen in it."""
        return self.mistakes_folder / f"{number:02d}{'-evidence' if evidence else ''}.jpg"

    def sweep(self) -> Sweep:
        """The resolved sweep.yaml. Raises RunError where this is no run folder."""
        if not self.sweep_file.exists():
            raise RunError(f"{self.where}: not a run folder (no sweep.yaml); `rfray tune SWEEP` makes one")
        return read_resolved_sweep(self.sweep_file)

    def claim(self, sweep: Sweep) -> None:
        """Makes the folder this sweep's own. Raises RunError, naming what changed, where it is another sweep's."""
        if self.sweep_file.exists():
            changed = differences(self.sweep(), sweep)
            if changed:
                raise RunError(
                    f"{self.where} holds a sweep of this name with other settings:\n  "
                    + "\n  ".join(changed)
                    + "\nChange `name`, choose another folder with --run, or start anew with --fresh "
                    "(the old folder is moved aside)."
                )
        replace_text(self.sweep_file, resolved_text(sweep))
        self.mirror.send(self.sweep_file)

    def move_aside(self) -> str | None:
        """Renames an existing run folder to <name>.<date>-<time>; returns the new one, None if there was none."""
        if not self.path.exists():
            return None
        aside = self.path.with_name(f"{self.name}.{time.strftime('%Y%m%d-%H%M%S')}")
        if isinstance(self.where, str) and self.mirror.storage is not None:
            address = f"{self.where.rsplit('/', 1)[0]}/{aside.name}"
            self.mirror.storage.move(address)
            shutil.rmtree(self.path)
            return address
        self.path.rename(aside)
        return self.shown(aside)

    @contextmanager
    def lock(self, without: tuple[str, ...] = ()) -> Iterator[None]:
        """Holds the run folder for one command; the lock ends with the process. Raises RunError where it is held.

        Of a run at an address, everything but `without` (patterns of `Mirror.pull`) is brought here first, and what has
        changed is sent there afterwards. Where nothing was left out, what was removed here is removed there.
        """
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        holder = self.lock_file.with_suffix(".holder")
        try:
            held = FileLock(self.lock_file, timeout=0).acquire()
        except Timeout:
            by = holder.read_text() if holder.exists() else "another process"
            raise RunError(f"{self.path} is in use by {by}; wait for it, or choose another folder with --run") from None
        with held:
            replace_text(holder, _this_process())
            with leased(self.mirror.storage, _this_process()) if self.mirror.storage else nullcontext():
                self.mirror.pull(without=without, removing="*")
                try:
                    yield
                finally:
                    self.mirror.push(removing=None if without else "*")

    def audit_pictures(self) -> list[Path]:
        """The pictures of the audit that are there."""
        return sorted(path for path in self.audit_folder.glob("*") if path.suffix in (".png", ".jpg"))

    def trial(self, trial_id: str) -> TrialDir:
        """The folder of the trial, the probe or the repeat with this id."""
        kind = self.trials_folder
        if trial_id.startswith(PROBE):
            kind = self.probes_folder
        elif REPEAT.fullmatch(trial_id):
            kind = self.repeats_folder
        return TrialDir(kind / trial_id, self.mirror.at(f"{kind.name}/{trial_id}"))

    def probes(self) -> list[TrialDir]:
        """All probes that have ended."""
        return [self.trial(found.parent.name) for found in sorted(self.probes_folder.glob("*/result.json"))]

    def models(self) -> list[TrialDir]:
        """All that may get a row of its own: probes, trials and repeats."""
        return [*self.probes(), *self.trials(), *self.repeats()]

    def trials(self) -> list[TrialDir]:
        """All trials that have a trial.json, in the order in which they were proposed."""
        return [self.trial(found.parent.name) for found in sorted(self.trials_folder.glob("*/trial.json"))]

    def repeats(self) -> list[TrialDir]:
        """All repeats that have a trial.json, those of one finalist together."""
        return [self.trial(found.parent.name) for found in sorted(self.repeats_folder.glob("*/trial.json"))]

    def check_trials(self) -> None:
        """Raises RunError, naming every damaged file of the trials that have ended."""
        damaged = [
            f"{file} is damaged: its content does not match its digest"
            for out in self.models()
            if (result := out.result()) is not None
            for file in out.damaged_files(result)
        ]
        if damaged:
            raise RunError("\n".join([*damaged, "The `rfray tune` that made the run trains such trials again"]))

    def write_catalog(self, catalog: pd.DataFrame) -> None:
        """Writes catalog.parquet, the last of what is known of the images."""
        self.mirror.push()
        _write_table(self.catalog_file, catalog)
        self.mirror.send(self.catalog_file)

    def read_catalog(self) -> pd.DataFrame:
        """Reads catalog.parquet. Raises RunError where it is missing or damaged."""
        return _read_table(self.catalog_file, self.catalog_file)

    def training_images(self) -> int:
        """How many images the train and val parts have; 0 where there is no catalog. Raises RunError as that does."""
        if not self.catalog_file.exists():
            return 0
        return int(self.read_catalog()["part"].isin(["train", "val"]).sum())

    def measured(self) -> list[Measured]:
        """measured.json; nothing where it is missing or damaged, since it can be measured again."""
        self.mirror.fetch(self.measured_file)
        try:
            return read_record(self.measured_file, Measurements).measured
        except RunError:
            return []

    def write_measured(self, measured: list[Measured]) -> None:
        """Writes measured.json."""
        write_record(self.measured_file, Measurements(measured=measured))
        self.mirror.send(self.measured_file)

    def warm_start(self) -> WarmStart | None:
        """warm_start.json; None before it is written. Raises RunError where it is damaged."""
        self.mirror.fetch(self.warm_start_file)
        if not self.warm_start_file.exists():
            return None
        try:
            return read_record(self.warm_start_file, WarmStart)
        except RunError as error:
            raise RunError(f"{error}; the search can't be retraced without it: start anew with --fresh") from None

    def write_warm_start(self, known: WarmStart) -> None:
        """Writes warm_start.json."""
        write_record(self.warm_start_file, known)
        self.mirror.send(self.warm_start_file)

    def spent(self) -> Spent:
        """budget.json. Raises RunError where it is damaged."""
        self.mirror.fetch(self.budget_file)
        return read_record(self.budget_file, Spent) if self.budget_file.exists() else Spent()

    def write_spent(self, spent: Spent) -> None:
        """Writes budget.json."""
        write_record(self.budget_file, spent)
        self.mirror.send(self.budget_file)

    def say_budget_over(self) -> None:
        """Tells all trials, wherever they run, that the budget is used up."""
        replace_text(self.budget_over_file, "")
        self.mirror.send(self.budget_over_file)

    def is_budget_over(self) -> bool:
        """Whether they were told so."""
        self.mirror.fetch(self.budget_over_file)
        return self.budget_over_file.exists()

    def write_images(self, images: pd.DataFrame) -> None:
        """Writes what the audit looked at: one row an image file of both folders."""
        _write_table(self.images_file, images)

    def read_images(self) -> pd.DataFrame:
        """Reads it. Raises RunError where it is missing or damaged."""
        return _read_table(self.images_file, self.catalog_file)


def trial_id(number: int, trial: Trial) -> str:
    """What the `number`-th trial of a run is called: in order of the names, the trials are in order of the numbers."""
    return f"{number:05d}-{trial.digest[:6]}"


def probe_id(probe: Trial) -> str:
    """What a probe is called."""
    return f"{PROBE}{probe.digest[:6]}"


def repeat_id(finalist: str, seed: int, fold: Fold | None) -> str:
    """What a finalist is called when it is trained again, with another seed or on all folds but one."""
    return f"{finalist}-seed{seed}" if fold is None else f"{finalist}-fold{fold[0]}of{fold[1]}"


def newest_run(runs: Path = Path("runs")) -> RunDir:
    """The run folder whose sweep was started last. Raises RunError where there is none."""
    found = sorted(runs.glob("*/sweep.yaml"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(f"no run in {runs.absolute()}; `rfray tune SWEEP` makes one, or name its folder")
    return RunDir(found[-1].parent)


def _predictions_name(part: Part, corruption: str | None) -> str:
    return f"predictions-{part}{f'-{corruption}' if corruption else ''}.parquet"


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} (since {time.strftime('%Y-%m-%d %H:%M:%S')})"


def write_record(path: Path, record: BaseModel) -> None:
    """Writes a record as JSON together with its own digest."""
    fields = record.model_dump(mode="json")
    replace_text(path, json.dumps({**fields, "sha256": _digest(fields)}, indent=1))


def read_record(path: Path, record: type[Record]) -> Record:
    """Reads what `write_record` wrote. Raises RunError where it is missing, damaged or no such record."""
    try:
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, dict) or fields.pop("sha256", None) != _digest(fields):
            raise RunError(f"{path} is damaged: its content does not match its digest")
        return record.model_validate_json(json.dumps(fields))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (ValidationError, ValueError) as error:
        raise RunError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary, write_page_checksum=True)


def _read_table(path: Path, to_delete: Path) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = "is missing" if not path.exists() else f"is damaged: {str(error).splitlines()[0]}"
        raise RunError(f"{path} {reason}; delete {to_delete}, and `rfray tune` makes it again") from None
    return table


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
