"""A run's leaderboard, pictures and sweep -> report.html: one file that opens anywhere, without a network."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rfray.data.listing import counted
from rfray.evaluation import leaderboard as board
from rfray.evaluation.attributes import attribute_groups
from rfray.evaluation.groups import groups_of
from rfray.evaluation.label_issues import find_label_issues
from rfray.evaluation.left_out import COLUMNS, best_left_out
from rfray.evaluation.mistakes import read_mistakes
from rfray.evaluation.search_findings import SearchFindings
from rfray.evaluation.several_tests import main_columns
from rfray.evaluation.significance import SINGLE, verdict
from rfray.evaluation.unseen import unseen_columns
from rfray.report import pictures, words
from rfray.report.audit_plots import AUDIT_PLOTS
from rfray.report.label_sheets import LABEL_SHEETS
from rfray.report.left_out import LEFT_OUT, pair_rows
from rfray.report.plots import CORRUPTION, CURVES, HISTORY, SEVERAL_TESTS, confusion_file
from rfray.report.search_plots import SEARCH_PLOTS
from rfray.spec.sweep import CLASSES
from rfray.store.bundle_record import Ensemble, versions
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir

MAIN = ("auc_low", "auc_high", "tied", "auc_worst_corruption", *COLUMNS, "seconds", "cost")
"""Columns that are shown at once beside those of the contract; the others after a click."""
SETTINGS = ("status", "kind", "backbone", "augmentation", "lr")
"""Columns of the contract that stand behind what came out; the status only where all are ok."""


def write_page(run: RunDir, findings: SearchFindings | None = None) -> None:
    """Writes report.html from leaderboard.csv, ensemble/, plots/, sweep.yaml, unreadable.csv and the audit.

    `findings` are what the page says of the search; without them it says nothing of it.
    Raises RunError where the leaderboard is missing or a file is damaged.
    """
    sweep, frame, ensemble = run.sweep(), board.read_leaderboard(run), run.ensemble()
    mistakes, voters = read_mistakes(run), [ensemble.name, *ensemble.members] if ensemble is not None else []
    if mistakes is not None and mistakes.name not in voters[:1]:
        mistakes = None  # those of another vote say nothing of this one
    # what came out first and the longest last: the table is wider than most screens
    behind = SETTINGS if (frame["status"] == "ok").all() else SETTINGS[1:]
    front = [column for column in board.contract_columns(sweep) if column not in (*behind, "members")]
    if sweep.judges_unseen:
        after = front.index(board.val_column(sweep)) + 1
        front[after:after] = [*unseen_columns(sweep), "left_out"]
    front[front.index("auc") + 1 : front.index("auc") + 1] = ["auc_low", "auc_high", "tied", *main_columns(frame)]
    columns = [*dict.fromkeys([*front, *behind, *frame.columns.drop("members")]), "members"]
    text = {column for column, dtype in board.column_types(sweep).items() if dtype == board.TEXT}
    main = {*front, *board.contract_columns(sweep), *MAIN, board.ranked_by(sweep, columns)}
    html = words.TEMPLATES.get_template("report/page.html.j2").render(
        run=run,
        warning=board.guessing(run, frame),
        verdict=list(_verdict(run, frame, ensemble)),
        ensemble=ensemble,
        columns={name: f"{'text' if name in text else ''}{'' if name in main else ' more'}" for name in columns},
        rising={*text, *board.LOWER_IS_BETTER},
        rows=list(zip(frame.to_dict("records"), board.as_text(frame).to_dict("records"), strict=True)),
        ranked_by=board.ranked_by(sweep, columns),
        judged=words.judged_images(sweep),
        explained=board.OF_ROTATIONS.replace("`", "") if sweep.judges_unseen else "",
        sets=words.set_rows(frame, voters) if voters else ([], []),
        sets_plot=_there(run.plots_folder, [SEVERAL_TESTS] if voters else []),
        left_out=best_left_out(run),
        left_out_plot=_there(run.plots_folder, [LEFT_OUT]),
        pair_rows=pair_rows,
        curves=_there(run.plots_folder, CURVES if voters else ()),
        confusions=_there(run.plots_folder, map(confusion_file, voters)),
        mistakes=mistakes,
        gallery=run,
        image="test image",
        classes=CLASSES,
        groups=groups_of(run),
        attributes=attribute_groups(run),
        robustness=words.corruption_sentence(frame, ensemble.name) if ensemble is not None else None,
        corruption=_there(run.plots_folder, [CORRUPTION]),
        history=_there(run.plots_folder, [HISTORY]),
        search=findings.sentences if findings is not None else [],
        search_plots=_there(run.plots_folder, SEARCH_PLOTS),
        label_issues=find_label_issues(run),
        label_sheets=_there(run.plots_folder, LABEL_SHEETS),
        audit=run.audit(),
        audit_plots=_there(run.audit_folder, AUDIT_PLOTS),
        versions=versions(),
        words=words,
        pictures=pictures,
    )
    write_whole(run.report_html, html)


def _there(folder: Path, names: Iterable[str]) -> list[Path]:
    """Those of the pictures that are there."""
    return [folder / name for name in names if (folder / name).exists()]


def _verdict(run: RunDir, frame: pd.DataFrame, ensemble: Ensemble | None) -> Iterator[str]:
    """What a reader should know who reads nothing else: what was chosen, how good it is, how sure it is the better one.

    A sentence each; then what was asked for, and what is missing.
    """
    again = frame["repeats"] != "" if "repeats" in frame else pd.Series(False, index=frame.index)
    status = frame.loc[(frame["kind"] == "model") & ~again, "status"]
    failed, not_kept = status.str.startswith("failed").sum(), (status == "not kept").sum()
    trials = f"{counted(len(status), 'finished trial')} ({failed} failed, {not_kept} not kept)"
    if probes := (frame["kind"] == "probe").sum():
        trials += f" and {counted(probes, 'probe')}"
    if again.any():
        trials += f", and {counted(again.sum(), 'training')} of finalists again"
    if ensemble is None:
        yield f"No ensemble was made of {trials}."
    else:
        rows = frame.set_index("name")
        # by val: the best by its test metrics would be flattered
        best, *others = rows.index[rows["kind"].isin(SINGLE) & rows["n"].notna()]
        voting, several = len(ensemble.members), len(ensemble.members) > 1
        those = f"the {voting} best vote" if several else "the best votes"
        if ensemble.members != [best, *others][:voting]:  # weighted, or of different backbones
            those = f"{voting} vote" if several else "one votes"
        on = "all training images, each predicted only by models that were not trained on it"
        if run.sweep().judges_unseen or (rows["kind"].reindex(ensemble.members) != "fold").any():
            on = words.judged_images(run.sweep())
        yield f"Of {trials}, {those} in the ensemble, chosen by {ensemble.chosen_by} on {on}."
        row: pd.Series[Any] = rows.T[ensemble.name]
        images = counted(row["n"], "test image")
        yield f"On {images}, which nothing was chosen on, the ensemble reaches {_reached(row)}."
        yield verdict(run, frame) or f"The best single model, {best}, reaches {_reached(rows.T[best])}."
    yield from filter(None, (board.on_several_sets(run, frame), board.false_positives(run, frame)))
    if unreadable := len(run.unreadable()):
        yield f"{counted(unreadable, 'image')} could not be read and took no part ({run.unreadable_file.name})."


def _reached(row: "pd.Series[Any]") -> str:
    """Accuracy and AUC of a row, each with its 95 % interval."""
    return " and ".join(
        f"{name} undefined"
        if pd.isna(row[column])
        else f"{name} {row[column]:.4f} (95 % interval {row[f'{column}_low']:.4f} to {row[f'{column}_high']:.4f})"
        for column, name in (("accuracy", "accuracy"), ("auc", "AUC"))
    )
