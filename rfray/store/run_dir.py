"""a path or an address -> `RunDir` and `TrialDir`: the names of all files of a run."""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from rfray.errors import InputError, RunError, first_line
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import read_resolved_sweep
from rfray.spec.trial import Trial
from rfray.store.bundle_record import ENSEMBLE_FILE, LEARNED_FILE, Bundle, Ensemble, file_problems
from rfray.store.csv_files import read_csv
from rfray.store.evaluation_dir import EVALUATIONS
from rfray.store.files import RECORD_BYTES, below, file_digest, read_plain, user_cache, write_whole
from rfray.store.records import (
    Audit,
    Digests,
    Fold,
    LeftOut,
    Record,
    Start,
    TrialResult,
    TrialStart,
    find_record,
    read_record,
    record_bytes,
    write_record,
)
from rfray.store.sealed import read_sealed, table_bytes
from rfray.store.storage import Mirror, Storage, is_address

Part = str
"""A part of the data that is predicted: val, test, or test-<name> of a further test set."""

CATALOG = [
    *("path", "folder", "label", "subfolder", "source", "part", "group_id", "digest", "width", "height", "size"),
    "modified",
]
"""Columns of catalog.parquet."""
UNREADABLE = ["path", "reason", "folder", "size", "modified"]
"""Columns of unreadable.csv."""
NOT_KNOWN = "its digest is not in digests.json"
SUSPECT = r"(?:^|/)\.{0,2}(?:/|$)|\x00"
"""What `below` may refuse, searched for in a whole column at once."""
FOLDERS = ("audit", "ensemble", EVALUATIONS, "plots", "probes", "repeats", "trials")
"""In which a run has its files, besides hidden ones."""
WEIGHTS_FILE = "best.safetensors"
HEAVY = (
    f"*{WEIGHTS_FILE}",
    "*/folds/*",
    "ensemble/members/*",
    "evaluations/*",
    "*predictions-test*",
    "*predictions-val-*",
)
"""Patterns of the files that a sweep has no need to read back."""


def trial_id(number: int, trial: Trial) -> str:
    """The id of the `number`-th trial of a run: ids sorted as text are in the order of the numbers."""
    return f"{number:05d}-{trial.digest[:6]}"


def probe_id(probe: Trial) -> str:
    """The id of a probe."""
    return f"probe-{probe.digest[:6]}"


def repeat_id(finalist: str, seed: int, fold: Fold | None) -> str:
    """The id of a finalist that is trained again, with another seed or on all folds but one."""
    return f"{finalist}-seed{seed}" if fold is None else f"{finalist}-fold{fold[0]}of{fold[1]}"


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
        self.left_out_file = path / "left-out.json"

    def features_file(self, first: int) -> Path:
        """The features that a probe's backbone extracts from one span of images; `first` is the number of its first."""
        return self.path / "features" / f"{first:06d}.safetensors"

    def fold_weights_file(self, fold: Fold) -> Path:
        """folds/<number>of<folds>.safetensors: the probe whose head has not learned from that fold."""
        return self.path / "folds" / f"{fold[0]}of{fold[1]}.safetensors"

    def state_file(self, epoch: int, digest: str) -> Path:
        """What the trial goes on from after `epoch`; its digest is in its name, by which damage is noticed."""
        return self.path / f"state-{epoch:04d}-{digest[:16]}.pt"

    def state_files(self) -> list[Path]:
        """The states there are, newest first."""
        return sorted(self.path.glob("state-*-*.pt"), reverse=True)

    def predictions_file(self, part: Part, corruption: str | None = None) -> Path:
        """predictions-<part>.parquet, or predictions-<part>-<corruption>.parquet of the pictures under a corruption."""
        return self.path / f"predictions-{part}{f'-{corruption}' if corruption else ''}.parquet"

    def start(self) -> TrialStart:
        """trial.json. Raises RunError where it is missing, damaged or another trial's."""
        start = read_record(self.start_file, TrialStart)
        self._check_own(self.start_file, start.id)
        return start

    def result(self) -> TrialResult | None:
        """result.json, or None while the trial is not finished. Raises RunError where it is damaged or another's."""
        result = find_record(self.result_file, TrialResult)
        if result is not None:
            self._check_own(self.result_file, result.id)
        return result

    def left_out(self) -> LeftOut | None:
        """left-out.json of a probe; None where there is none. Raises RunError where it is damaged."""
        return find_record(self.left_out_file, LeftOut)

    def _check_own(self, file: Path, trial: str) -> None:
        if trial != self.id:
            raise RunError(f"{file} is not of this trial but of {trial}: put the folders back")

    def damaged_files(self, result: TrialResult) -> list[Path]:
        """The files of the ended trial that are not what they were; weights that were not kept are not missed."""
        files = {below(self.path, name): digest for name, digest in result.files.items()}
        whole = {file for file, digest in files.items() if file.is_file() and file_digest(file) == digest}
        return [file for file in files if file not in whole and (file.exists() or file != self.weights_file)]

    def history(self) -> pd.DataFrame:
        """history.csv: one row an epoch; empty where there is none yet. Raises RunError where it is cut short."""
        if not self.history_file.exists():
            return pd.DataFrame()
        with suppress(ValueError, KeyError):
            text = read_plain(self.history_file, RECORD_BYTES).decode()
            history = pd.read_csv(io.StringIO(text))
            if text.endswith("\n") and history["epoch"].tolist() == list(range(1, len(history) + 1)):
                return history
        raise RunError(f"{self.history_file} is damaged: it does not hold every epoch from the first")

    def starts(self) -> list[Start]:
        """starts.csv: every time that a process began with this trial, in order."""
        self.mirror.fetch(self.starts_file)
        try:
            lines = [line.split(",") for line in read_plain(self.starts_file, RECORD_BYTES).decode().splitlines()]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise RunError(f"{self.starts_file} is damaged: {error}; delete the trial's folder") from None
        return [Start(*fields) for fields in lines if len(fields) == len(Start._fields)]

    def write_starts(self, starts: list[Start]) -> None:
        """Writes starts.csv."""
        write_whole(self.starts_file, "".join(",".join(start) + "\n" for start in starts))
        self.mirror.send(self.starts_file)


class RunDir:
    """runs/<name>: a sweep's files. Of a run at an address, `path` is a copy here that `mirror` pulls and pushes."""

    def __init__(self, where: Path | str) -> None:
        self.where = str(where).rstrip("/") if is_address(where) else Path(where).absolute()
        """The path or the address: what another process makes the same RunDir from."""
        self.name = Path(self.where).name
        if isinstance(self.where, str):
            self.path = user_cache() / "runs" / hashlib.sha256(self.where.encode()).hexdigest()[:12]
            self.path = below(self.path, self.name)
            self.mirror = Mirror(self.path, Storage(self.where))
        else:
            self.path, self.mirror = self.where, Mirror(self.where, None)
        self.sweep_file = self.path / "sweep.yaml"
        self.digests_file = self.path / "digests.json"
        self.catalog_file = self.path / "catalog.parquet"
        self.unreadable_file = self.path / "unreadable.csv"
        self.leave_out_file = self.path / "leave-out.parquet"
        self.attributes_file = self.path / "attributes.parquet"
        self.measured_file = self.path / "measured.json"
        self.warm_start_file = self.path / "warm_start.json"
        self.budget_file = self.path / "budget.json"
        self.budget_over_file = self.path / ".budget-over"
        self.ray_folder = self.path / ".ray"
        self.trials_folder = self.path / "trials"
        self.bundle_folder = self.path / "ensemble"
        self.ensemble_file = self.bundle_folder / ENSEMBLE_FILE
        self.model_card = self.bundle_folder / "README.md"
        self.mistakes_file = self.bundle_folder / "mistakes.json"
        self.groups_csv = self.path / "groups.csv"
        self.label_issues_csv = self.path / "label-issues.csv"
        self.leaderboard_csv = self.path / "leaderboard.csv"
        self.leaderboard_md = self.path / "leaderboard.md"
        self.report_html = self.path / "report.html"
        self.plots_folder = self.path / "plots"
        self.mistakes_folder = self.plots_folder / "mistakes"
        self.audit_file = self.path / "audit.json"
        self.audit_folder = self.path / "audit"
        self.images_file = self.audit_folder / "images.parquet"

    def shown(self, path: Path) -> str:
        """How a user calls a file of the run, or the run itself: by its address, or from the working directory."""
        if isinstance(self.where, str):
            return f"{self.where}/{path.relative_to(self.path).as_posix()}".removesuffix("/.")
        return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

    def ensemble_predictions_file(self, name: str, part: Part, corruption: str | None = None) -> Path:
        """ensemble/<name>-predictions-<part>.parquet, or …-<part>-<corruption>.parquet of the corrupted pictures."""
        return self.bundle_folder / f"{name}-predictions-{part}{f'-{corruption}' if corruption else ''}.parquet"

    def corrupted_votes(self) -> list[Path]:
        """The predictions of votes under corruption that are there."""
        plain = tuple(f"-predictions-{part}.parquet" for part in self.sweep().data.test_parts)
        found = self.bundle_folder.glob("*-predictions-*-*.parquet")
        return sorted(file for file in found if not file.name.endswith(plain))

    def votes_predictions(self) -> list[Path]:
        """The predictions of votes that are there."""
        return sorted(self.bundle_folder.glob("*-predictions-*.parquet"))

    def test_predictions(self) -> list[Path]:
        """The predictions of models that `rfray ensemble` has made and that are there: of test, or under corruption."""
        patterns = ("*/*/predictions-test*.parquet", "*/*/predictions-val-*.parquet")
        return sorted(file for pattern in patterns for file in self.path.glob(pattern))

    def corruption_folder(self, part: Part) -> Path:
        """What was predicted of a part under corruption so far, until all of it is."""
        return self.path / f".corruption-{part}"

    def mistake_picture(self, number: int, *, evidence: bool = False) -> Path:
        """plots/mistakes/<number>.jpg: a wrongly classified image; <number>-evidence.jpg: where that was seen in it."""
        return self.mistakes_folder / f"{number:02d}{'-evidence' if evidence else ''}.jpg"

    def sweep(self) -> Sweep:
        """The resolved sweep.yaml. Raises RunError where this is no run folder."""
        if not self.sweep_file.is_file():
            raise RunError(f"{self.where}: not a run folder (no sweep.yaml); `rfray tune SWEEP` makes one")
        return read_resolved_sweep(self.sweep_file)

    def catalog(self) -> pd.DataFrame:
        """catalog.parquet: one row an image. Raises RunError where it is missing or damaged."""
        return self._table(self.catalog_file, CATALOG)

    def images(self, part: str) -> pd.DataFrame:
        """The rows of the catalog of one part, by path. Raises RunError as `catalog`."""
        catalog = self.catalog()
        images = catalog[catalog["part"] == part].set_index("path")
        if images.index.has_duplicates:
            raise RunError(f"{self.catalog_file} is damaged: an image is in it twice; {self._anew}")
        return images

    def write_catalog(self, catalog: pd.DataFrame) -> None:
        """Writes catalog.parquet, after everything else that is known of the images is at the run's address."""
        self.mirror.push()
        self.write_table(self.catalog_file, catalog)
        self.mirror.send(self.catalog_file)

    def write_vouched(self, file: Path, content: bytes | BaseModel) -> None:
        """Writes a file or a record whose digest is kept in digests.json: before, as the command may be ended there."""
        data = content if isinstance(content, bytes) else record_bytes(content)
        self.vouch({file: hashlib.sha256(data).hexdigest()})
        write_whole(file, data)

    def write_result(self, out: TrialDir, result: TrialResult) -> None:
        """Writes result.json of a trial that has ended."""
        self.write_vouched(out.result_file, result)
        out.mirror.send(out.result_file)

    def write_table(self, file: Path, table: pd.DataFrame) -> None:
        """The same of a table, as `catalog` and `audited_images` read it."""
        self.write_vouched(file, table_bytes(pa.Table.from_pandas(table, preserve_index=False)))

    def vouch(self, digests: Mapping[Path, str | None]) -> None:
        """Keeps the digests of files that are there, or about to be; None: the file goes. For the command alone."""
        known = self._digests()
        for file, digest in digests.items():
            name = file.relative_to(self.path).as_posix()
            earlier = known.pop(name, [])
            if digest is not None:
                now = file_digest(file) if file.is_file() else None
                known[name] = [digest, *([now] if now != digest and now in earlier else [])]
        write_record(self.digests_file, Digests(files=known), self.mirror)

    def not_vouched(self, *files: Path) -> list[Path]:
        """Those of the files that are there, and not what rfray wrote."""
        known = self._digests() if files else {}
        names = {file: file.relative_to(self.path).as_posix() for file in files if file.exists()}
        return [
            file for file, name in names.items() if not file.is_file() or file_digest(file) not in known.get(name, [])
        ]

    def check(self, *files: Path, remedy: str = "`rfray ensemble` writes it anew") -> None:
        """Raises RunError, naming every file that is not what rfray wrote."""
        reason = f"is not what was written: {NOT_KNOWN}; {remedy}"
        if changed := self.not_vouched(*files):
            raise RunError(*(f"{file} {reason}" for file in changed))

    def check_images(self) -> None:
        """Raises RunError where what is known of the images is not what rfray wrote."""
        self.check(self.catalog_file, self.images_file, self.unreadable_file, remedy=self._anew)

    @property
    def _anew(self) -> str:
        return f"delete {self.catalog_file}, and `rfray tune` makes it again"

    def _digests(self) -> dict[str, list[str]]:
        remedy = "put it back, or start anew with --fresh"
        found = find_record(self.digests_file, Digests, self.mirror, remedy=remedy)
        return found.files if found is not None else {}

    def training_images(self) -> int:
        """How many images train and val have; 0 where there is no catalog. Raises RunError where it is damaged."""
        return int(self.catalog()["part"].isin(["train", "val"]).sum()) if self.catalog_file.exists() else 0

    def audited_images(self) -> pd.DataFrame:
        """audit/images.parquet: one row an image file. Raises RunError where it is missing or damaged."""
        return self._table(self.images_file)

    def unreadable(self) -> pd.DataFrame:
        """unreadable.csv: the files that can't be read; empty where there are none. Raises RunError where damaged."""
        if not self.unreadable_file.exists():
            return pd.DataFrame(columns=UNREADABLE)
        try:
            return read_csv(self.unreadable_file, keep_default_na=False)[UNREADABLE]
        except (ValueError, KeyError) as error:
            raise RunError(f"{self.unreadable_file} is damaged: {error}") from None

    def leave_out(self) -> pd.DataFrame | None:
        """leave-out.parquet: the list of `data.leave_out` as it was when the sweep began; None where there is none.

        Raises RunError where it is damaged.
        """
        if not self.leave_out_file.exists():
            return None
        self.check(self.leave_out_file, remedy=self._anew)
        return self._table(self.leave_out_file, ["path"])

    def attributes(self) -> pd.DataFrame | None:
        """attributes.parquet: the table of `data.attributes` as it was read, all text; None where there is none.

        Raises RunError where it is damaged.
        """
        if not self.attributes_file.exists():
            return None
        self.check(self.attributes_file, remedy="`rfray ensemble` reads data.attributes anew")
        return self._table(self.attributes_file, ["path"])

    def audit(self) -> Audit | None:
        """audit.json; None where there is none. Raises RunError where it is damaged or another version's."""
        return self._vouched(self.audit_file, Audit, self._anew)

    def ensemble(self) -> Ensemble | None:
        """ensemble.json, or None where no ensemble was made yet. Raises RunError where it is damaged."""
        return self._vouched(self.ensemble_file, Ensemble, "`rfray ensemble` writes it anew")

    def _vouched(self, file: Path, model: type[Record], remedy: str) -> Record | None:
        record = find_record(file, model, remedy=remedy)
        self.check(file, remedy=remedy)
        return record

    def audit_pictures(self) -> list[Path]:
        """The pictures of the audit that are there."""
        return sorted(path for path in self.audit_folder.glob("*") if path.suffix in (".png", ".jpg"))

    def trial(self, trial_id: str) -> TrialDir:
        """The folder of the trial, the probe or the repeat with this id."""
        repeat = re.fullmatch(r"\d+-[0-9a-f]+-(seed\d+|fold\d+of\d+)", trial_id)
        kind = "probes" if trial_id.startswith("probe-") else "repeats" if repeat else "trials"
        return TrialDir(below(self.path / kind, trial_id), self.mirror.at(f"{kind}/{trial_id}"))

    def trials(self) -> list[TrialDir]:
        """All trials that have a trial.json, in the order in which they were proposed."""
        return self._with("trials/*/trial.json")

    def probes(self) -> list[TrialDir]:
        """All probes that have ended."""
        return self._with("probes/*/result.json")

    def repeats(self) -> list[TrialDir]:
        """All repeats that have a trial.json, those of one finalist one after the other."""
        return self._with("repeats/*/trial.json")

    def models(self) -> list[TrialDir]:
        """All that may get a row of its own: probes, trials and repeats."""
        return [*self.probes(), *self.trials(), *self.repeats()]

    def ended(self) -> list[TrialDir]:
        """The folders that have a result.json."""
        return self._with("[!.]*/*/result.json")

    def check_trials(self, *, all_there: bool = True) -> None:
        """Raises RunError, naming every damaged file of the trials that have ended, and with `all_there` what is gone.

        A run may go on where it is fetched from, so that its digests.json knows more than what came before that.
        """
        problems = [
            f"{file} is damaged: its content does not match its digest"
            for out in self.ended()
            if (result := out.result()) is not None
            for file in out.damaged_files(result)
        ]
        files = [out.result_file for out in self.ended()]
        problems += [f"{file} is not what was written: {NOT_KNOWN}" for file in self.not_vouched(*files)]
        if all_there:
            known = {below(self.path, name) for name in self._digests() if name.endswith("/result.json")}
            problems += [f"{file} is gone" for file in sorted(known - {*files})]
        if problems:
            raise RunError(*problems, "The `rfray tune` that made the run trains such trials again")

    def _with(self, files: str) -> list[TrialDir]:
        return [self.trial(found.parent.name) for found in sorted(self.path.glob(files))]

    def _table(self, file: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
        try:
            table = pd.read_parquet(io.BytesIO(read_sealed(file)))
            if missing := [name for name in columns if name not in table]:
                raise ValueError(f"it has no column {missing[0]!r}")
            if "path" in table and table["path"].isna().any():
                raise ValueError("an image without a path")
            for path in table.loc[table["path"].str.contains(SUSPECT), "path"] if "path" in table else ():
                below(Path("the images"), path)
            return table
        except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException, InputError) as error:
            reason = "is missing" if not file.exists() else f"is damaged: {first_line(error)}"
            raise RunError(f"{file} {reason}; {self._anew}") from None


def newest_run(runs: Path = Path("runs")) -> RunDir:
    """The run folder whose sweep was started last. Raises RunError where there is none."""
    found = sorted(runs.glob("*/sweep.yaml"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise RunError(f"no run in {runs.absolute()}; `rfray tune SWEEP` makes one, or name its folder")
    return RunDir(found[-1].parent)


def read_bundle(where: Path | str) -> tuple[Path, Ensemble, Bundle]:
    """The folder of a bundle and its two records. Raises RunError where there is none, or a file is not what it was."""
    folder = find_bundle(where)
    file = folder / ENSEMBLE_FILE
    ensemble = read_record(file, Ensemble)
    bundle = ensemble.bundle
    if bundle is None or [member.id for member in bundle.members] != ensemble.members:
        raise RunError(f"{file} does not say what its members are; `rfray ensemble RUN` writes it anew")
    if problems := file_problems(folder, bundle.files, bundle.members):
        lines = (f"  {problem}" for problem in problems)
        raise RunError(f"{folder} can't be used:", *lines, "Copy it anew; `rfray ensemble RUN` makes it")
    return folder, ensemble, bundle


def find_bundle(where: Path | str) -> Path:
    """The folder with ensemble.json: `where` itself or its ensemble/, brought here from an address."""
    run = RunDir(where)
    wanted = (ENSEMBLE_FILE, LEARNED_FILE, "members/*")
    run.mirror.pull(*wanted, *(f"ensemble/{one}" for one in wanted))
    for folder in (run.path, run.bundle_folder):
        if (folder / ENSEMBLE_FILE).is_file():
            return folder
    made = "; `rfray ensemble` makes it" if run.sweep_file.exists() else ", and no run folder"
    raise RunError(f"{run.where}: no bundle (a folder with {ENSEMBLE_FILE}){made}")
