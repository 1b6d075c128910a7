"""rfray from Python: sweeps, runs, leaderboards and detectors. The commands do the same with the same code."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from rfray.commands.ensemble import REPORT_FORMATS
from rfray.commands.ensemble import ensemble as make_ensemble
from rfray.commands.tune import tune as run_sweep
from rfray.evaluation.leaderboard import guessing, read_leaderboard
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import load_sweep, parse_sweep
from rfray.store.run_dir import RunDir


class Leaderboard(pd.DataFrame):
    """One row a trial and one an ensemble, best first, then a baseline: leaderboard.csv with its dtypes."""

    @property
    def _constructor(self) -> type["Leaderboard"]:  # how pandas keeps the type in slices; documented there
        return Leaderboard

    @property
    def best(self) -> "pd.Series[Any]":
        """The first row: the best by the val metric."""
        return self.iloc[0]


class Run:
    """A run folder: what `tune` writes and `ensemble` reads."""

    def __init__(self, path: Path | str) -> None:
        """`path` is the folder or its address (s3://…). Raises RunError where it is none."""
        self._files = RunDir(path)
        self._files.mirror.fetch(self._files.sweep_file)
        self.path: Path | str = self._files.where
        """The folder, or its address."""
        self.sweep: Sweep = self._files.sweep()
        """What was asked for, every default filled in."""

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def ensemble(
        self,
        *,
        top_k: int | None = None,
        methods: Sequence[str] | None = None,
        corruptions: bool | None = None,
        overrides: Sequence[str] = (),
        formats: Iterable[str] = REPORT_FORMATS,
        address: str | None = None,
        verbose: bool = True,
    ) -> Leaderboard:
        """Joins the best trials, predicts every test set, writes the bundle, leaderboard, plots and page.

        Args:
            top_k: Number of members; by default the sweep's `ensemble.top_k`.
            methods: soft, weighted or calibrated; the first one is the detector's; by default the sweep's.
            corruptions: Whether the (first) test set is predicted corrupted, too; by default as the sweep says.
            overrides: `key=value` texts for what no trial depends on, as `data.test=FOLDER`, or
                `data.test.phone=FOLDER` for a further test set; they stay in sweep.yaml.
            formats: csv, markdown, html; the CSV is always written.
            address: A running Ray cluster (auto or host:port); by default this machine.
            verbose: Whether progress is printed.

        Raises:
            SweepFailed: No trial can vote.
            InputError: An option or the test images can't be used.
        """
        given = {"top_k": top_k, "methods": None if methods is None else list(methods)}
        console = Console(quiet=not verbose)
        make_ensemble(self._files, given, corruptions, list(formats), address, console, overrides)
        self.sweep = self._files.sweep()
        return self.leaderboard()

    def leaderboard(self) -> Leaderboard:
        """What the last `ensemble` wrote. Raises RunError where there is none.

        Warns where the ensemble is no better than guessing.
        """
        self._files.mirror.pull("leaderboard.csv", "digests.json", "ensemble/ensemble.json")
        frame = read_leaderboard(self._files)
        _warn(guessing(self._files, frame))
        return Leaderboard(frame)

    def detector(self) -> "Detector":
        """The run's ensemble, ready to predict. Raises RunError where there is none."""
        return load(self.path)


class Detector:
    """A bundle, ready to predict: the ensemble that `rfray ensemble` leaves."""

    def __init__(self, bundle: Path | str) -> None:
        """`bundle` is a folder with ensemble.json, a run that has one, or an address. Raises RunError otherwise.

        Warns where it is no better than guessing.
        """
        from rfray.models.bundle import load_bundle
        from rfray.stats.guessing import bundle_warning

        self._where, self._bundle = str(bundle), load_bundle(bundle)
        vote = self._bundle.ensemble
        _warn(bundle_warning(vote))
        self.threshold: float = vote.threshold
        """An image is called fake where p_fake >= threshold."""
        self.members: list[str] = list(vote.members)
        """Ids of the trials that vote, best first."""

    def predict(self, paths: Iterable[Path | str], batch_size: int = 64) -> pd.DataFrame:
        """One row a file, in order: path, p_fake, verdict, one column a member, and reason where it can't be read.

        Args:
            paths: Image files and folders.
            batch_size: Images that are computed at a time.
        """
        from rfray.data.folders import image_files
        from rfray.data.listing import PassedOver
        from rfray.models.bundle import detect
        from rfray.stats.voting import verdict_table

        given, passed = [paths] if isinstance(paths, str | Path) else paths, PassedOver()
        files = list(image_files([str(path) for path in given], passed=passed))
        if said := str(passed):
            warnings.warn(f"passed over: {said}", stacklevel=2)
        tables = [table for table, _ in detect(self._bundle, files, batch_size, os.cpu_count() or 1)]
        none = verdict_table(self._bundle.ensemble, [], np.empty((len(self.members), 0)), [])
        return pd.concat(tables, ignore_index=True) if tables else none

    def evaluate(
        self,
        folders: Iterable[Path | str],
        *,
        out: Path | str | None = None,
        classes: Mapping[str, str] | None = None,
        corruptions: bool = False,
        address: str | None = None,
        verbose: bool = True,
    ) -> pd.DataFrame:
        """What it is worth on labelled images from elsewhere: evaluations.csv, one row a folder, then mean and worst.

        Args:
            folders: Folders with class folders, tables (path, label) or addresses of them; `NAME=FOLDER` names one.
            out: Where evaluations/ is written; by default the run, or the working folder for a bundle.
            classes: Class -> its folder; by default the run's, or real and fake. `{"real": "."}`: all are real.
            corruptions: Whether the images are predicted compressed, scaled, blurred and noisy, too.
            address: A running Ray cluster (auto or host:port); by default this machine.
            verbose: Whether progress and what it comes to are printed.

        Raises:
            InputError: Something that was given can't be used.
            RfrayError: All else is written, but some files could not be read, or no image of a folder counts.
        """
        from rfray.commands.evaluate import evaluate

        words = [str(one) for one in ([folders] if isinstance(folders, str | Path) else folders)]
        given = [f"{name}={folder}" for name, folder in (classes or {}).items()]
        place, console = None if out is None else str(out), Console(quiet=not verbose)
        return evaluate(self._where, words, place, None, given, corruptions, 64, (1, None), address, console)

    def predict_proba(self, paths: Iterable[Path | str], batch_size: int = 64) -> np.ndarray:
        """(n, 2) float64: the probability of real and of fake of each file; nan where it can't be read."""
        p_fake = self.predict(paths, batch_size)["p_fake"].to_numpy(float)
        return np.column_stack([1 - p_fake, p_fake])


def tune(
    sweep: Sweep | Mapping[str, Any] | Path | str,
    *,
    run: Path | str | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    fresh: bool = False,
    accept_audit: bool = False,
    verbose: bool = True,
) -> Run:
    """Runs a sweep; the same call after any interruption goes on where it stopped.

    Args:
        sweep: A sweep file, its fields as a mapping, or a `Sweep`.
        run: The run folder, or its address (s3://…); by default runs/<name>.
        overrides: `key=value` texts that win over the sweep, as `--set` on the command line.
        address: A running Ray cluster (auto or host:port); by default this machine.
        fresh: Whether an existing run folder is moved aside first.
        accept_audit: Whether to go on although the audit of the images has found errors.
        verbose: Whether progress is printed.

    Raises:
        InputError: Something that was given can't be used; nothing was started.
        SweepFailed: More trials failed than `search.max_failed` allows.
    """
    if isinstance(sweep, Path | str):
        file = load_sweep(Path(sweep), tuple(overrides))
    else:
        raw = sweep.model_dump(mode="json", exclude_none=True) if isinstance(sweep, Sweep) else sweep
        file = parse_sweep(json.dumps(raw), "the sweep", tuple(overrides))
    folder = RunDir(run or Path("runs", file.sweep.name))
    run_sweep(file, folder, address, Console(quiet=not verbose), fresh=fresh, accept_audit=accept_audit)
    return Run(folder.where)


def open(run: Path | str) -> Run:  # noqa: A001  as in `rfray.open("runs/x")`
    """A run folder, or a run at an address (s3://…). Raises RunError where there is none."""
    return Run(run)


def load(bundle: Path | str) -> Detector:
    """A detector: a folder with ensemble.json, a run that has one, or an address. Raises RunError otherwise."""
    return Detector(bundle)


def _warn(warning: str | None) -> None:
    """Warns whoever called what calls this."""
    if warning:
        warnings.warn(warning, stacklevel=3)
