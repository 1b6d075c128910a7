"""Run folders made by hand, for the tests of everything that only reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rfray.data.corruptions import CORRUPTION_NAMES
from rfray.inference.missing import prediction_origins
from rfray.models.build import build_model
from rfray.models.inference import save_weights
from rfray.spec.sweep import DataSettings, Sweep
from rfray.spec.sweep_file import resolved_text
from rfray.spec.trial import Trial
from rfray.stats.predictions import Predictions, read_predictions, write_predictions
from rfray.store.files import file_digest, write_whole
from rfray.store.records import Fold, LeftOut, LeftOutPair, TrialResult, TrialStart, write_record
from rfray.store.run_dir import CATALOG, Part, RunDir, TrialDir
from tests.audits import leaking_audit

LABELS = [0, 0, 0, 1, 1, 1]

FIRST = [0.1, 0.4, 0.6, 0.3, 0.8, 0.9]
"""Of the nine pairs of a real and a fake image 7 are in the right order; tn 2, fp 1, fn 1, tp 2 at 0.5."""

SECOND = [0.3, 0.2, 0.2, 0.9, 0.6, 0.3]
"""8 pairs and a tie are in the right order, one fake image is missed; with FIRST the mean is all right:
0.2 0.3 0.4 0.6 0.7 0.6."""

REVERSED = [0.9, 0.8, 0.7, 0.3, 0.2, 0.1]
"""No pair is in the right order."""

BROKEN_REASON = "RuntimeError: shape | mismatch <script>alert(1)</script>\n  in `forward`"


def predictions(p_fake: Sequence[float], labels: Sequence[int] = LABELS) -> Predictions:
    """One image a value: real/0.jpg, real/1.jpg, …, fake/3.jpg, …"""
    ids = [f"{'fake' if label else 'real'}/{number}.jpg" for number, label in enumerate(labels)]
    return Predictions(np.array(ids), np.array(labels, dtype=np.int8), np.array(p_fake, dtype=np.float64))


def corruption_trial(trial: TrialDir, part: Part, plain: Sequence[float], **under: Sequence[float]) -> None:
    """Writes what the trial says under every corruption: `plain`, or what is given for it (jpeg_30=…)."""
    for corruption in CORRUPTION_NAMES:
        write_predictions(trial.predictions_file(part, corruption), predictions(under.get(corruption, plain)), {})


def new_run(folder: Path, **trial_axes: Any) -> RunDir:
    """A run folder with a sweep and no trial."""
    run = RunDir(folder)
    trial = {"backbone": ["test_resnet", "test_vit"], "lr": {"log": [1e-5, 1e-3]}, **trial_axes}
    sweep = Sweep.model_validate({"name": folder.name, "data": {"source": "demo"}, "trial": trial})
    write_whole(run.sweep_file, resolved_text(sweep))
    return run


def start_trial(
    run: RunDir, trial_id: str, repeats: str | None = None, fold: Fold | None = None, **setting: Any
) -> TrialDir:
    """A trial that began and did not end."""
    trial = run.trial(trial_id)
    setting = {"backbone": "test_resnet", "lr": 1e-4, **setting}
    number = len(run.trials())
    known = {"id": trial_id, "number": number, "results_known": number, "repeats": repeats, "fold": fold}
    known["keep_epoch"] = 1 if fold and repeats else None
    write_record(trial.start_file, TrialStart(**known, trial=Trial(**setting)), trial.mirror)
    return trial


def finish_trial(
    run: RunDir,
    trial_id: str,
    score: float | None,
    val: Predictions | None = None,
    report: Predictions | None = None,
    *,
    kept: bool = True,
    trained: int = 2,
    **setting: Any,
) -> TrialDir:
    """A trial that ended well; `trained` epochs; kept: its weights are still there."""
    trial = start_trial(run, trial_id, **setting)
    for part, given in (("val", val), ("test", report)):
        if given is not None:
            write_predictions(trial.predictions_file(part), given, {})
    if kept:
        trial.weights_file.write_bytes(b"weights")
    rising = np.linspace(0.5, 0.5 if score is None else score, trained)
    history = pd.DataFrame({"epoch": range(1, trained + 1), "train_loss": 0.6, "val_auc": rising, "lr": 1e-4})
    start = trial.start()
    ended = 1.7e9 + 1.5 * (trained * start.number + history["epoch"])
    history = history.assign(seconds=1.5, images_per_second=100.0, wait_share=0.1, ended=ended)
    history.to_csv(trial.history_file, index=False)
    run.write_result(
        trial,
        TrialResult(
            id=trial_id,
            position=start.number,
            kind="model" if start.fold is None or start.repeats is None else "fold",
            repeats=start.repeats,
            fold=start.fold,
            status="ok",
            trial=start.trial,
            metric="auc",
            score=score,
            best_epoch=trained,
            epochs=trained,
            seconds=1.5 * trained,
            node="here",
            files={},
        ),
    )
    return trial


def fail_trial(run: RunDir, trial_id: str, reason: str, **setting: Any) -> TrialDir:
    """A trial that failed."""
    trial = start_trial(run, trial_id, **setting)
    start = trial.start()
    run.write_result(
        trial,
        TrialResult(
            id=trial_id,
            position=start.number,
            status="failed",
            reason=reason,
            repeats=start.repeats,
            trial=start.trial,
            metric="auc",
            epochs=0,
            seconds=0.2,
            node="here",
            files={},
        ),
    )
    return trial


def add_probe(run: RunDir, trial_id: str = "probe-aaaaaa", score: float = 0.6) -> TrialDir:
    """A probe that has judged the images of train and val in the catalog, and sources that were left out."""
    out, random = run.trial(trial_id), np.random.default_rng(0)
    files = {"train": out.out_of_fold_file, "val": out.predictions_file("val")}
    for part, file in files.items():
        images = run.images(part)
        p_fake = np.clip(0.3 + 0.4 * images["label"] + random.normal(0, 0.2, len(images)), 0, 1)
        write_predictions(file, Predictions(images.index.to_numpy(str), images["label"].to_numpy(), p_fake), {})
    pairs = tuple(
        LeftOutPair(fake=fake, real=real, auc=auc, low=auc - 0.1, high=auc + 0.1, fakes=30, reals=40)
        for fake, real, auc in (("sd", "lfw", 0.5), ("sd", "", 0.6), ("gan", "lfw", 0.8))
    )
    write_record(out.left_out_file, LeftOut(seen=0.9, pairs=pairs, few={"old": 3}, more=1), out.mirror)
    fields = {"position": 9, "kind": "probe", "status": "ok", "metric": "auc", "epochs": 0, "seconds": 1.0}
    names = {file.name: file_digest(file) for file in (*files.values(), out.left_out_file)}
    trial = Trial(backbone="test_resnet", pretrained=True, head="probe")
    run.write_result(out, TrialResult(id=trial_id, trial=trial, score=score, node="here", files=names, **fields))
    return out


def catalog_of(**columns: Any) -> pd.DataFrame:
    """A catalog with these columns, and 0 in the others; images stand alone unless `group_id` says otherwise."""
    catalog = pd.DataFrame({**dict.fromkeys(CATALOG, 0), **columns})
    return catalog if "group_id" in columns else catalog.assign(group_id=range(len(catalog)))


def as_predicted(run: RunDir) -> RunDir:
    """The same run with what makes `rfray ensemble` take the test predictions as up to date: no image is needed.

    Its weights are real ones, since the models are handed over.
    """
    sweep = run.sweep()
    nowhere = DataSettings(train=str(run.path / "images"), test=0.5)
    write_whole(run.sweep_file, resolved_text(sweep.model_copy(update={"data": nowhere})))
    files = {trial: trial.predictions_file("test") for trial in run.trials()}
    found = {trial: read_predictions(file) for trial, file in files.items() if file.exists()}
    images = next(iter(found.values()))
    catalog = pd.DataFrame(dict.fromkeys(CATALOG, ""), index=range(len(images.ids)))
    catalog = catalog.assign(path=images.ids, label=images.labels, part="test", folder="train")
    catalog["group_id"] = range(len(catalog))
    run.write_catalog(catalog)
    run.write_table(run.images_file, catalog.assign(alike=range(len(catalog))))
    kept = [trial for trial in found if trial.weights_file.exists()]
    for trial in kept:
        save_weights(trial.weights_file, build_model(trial.start().trial, load_pretrained=False)[0], {})
    for trial, origin in zip(kept, prediction_origins(kept, catalog, "test").values(), strict=True):
        write_predictions(files[trial], found[trial], origin)
        vouched = (trial.start_file, trial.weights_file, trial.history_file, trial.predictions_file("val"))
        digests = {file.name: file_digest(file) for file in vouched}
        run.write_result(trial, trial.result().model_copy(update={"files": digests}))
    run.vouch({file: file_digest(file) for file in run.test_predictions()})
    run.write_vouched(run.audit_file, leaking_audit().model_copy(update={"findings": ()}))
    (run.audit_folder / "drawn.png").parent.mkdir(exist_ok=True)
    (run.audit_folder / "drawn.png").write_bytes(b"")
    return run


def small_run(folder: Path) -> RunDir:
    """Two trials that can vote, one whose weights were not kept, one that failed, one that is not finished.

    On six images: 001 and 002 say FIRST and SECOND of test and the other way round of val.
    """
    run = new_run(folder)
    finish_trial(run, "001", 8.5 / 9, predictions(SECOND), predictions(FIRST), lr=0.1 + 0.2)
    finish_trial(run, "002", 7 / 9, predictions(FIRST), predictions(SECOND), backbone="test_vit")
    finish_trial(run, "003", 0.95, predictions(FIRST), kept=False)
    fail_trial(run, "004", BROKEN_REASON)
    start_trial(run, "005")
    return run
