"""A sweep file, a folder of images or a run -> audit.json, label-issues.csv, plots: the steps of `rfray audit`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rfray.audit.left_out import before_probes
from rfray.commands.prepare_data import prepare_training, scan_all, write_audit
from rfray.data.checks import check_data
from rfray.errors import AuditError, DataError, InputError, RunError, StorageError
from rfray.evaluation.label_issues import LabelIssues, write_label_issues
from rfray.evaluation.left_out import best_left_out, left_out_line
from rfray.progress.phases import say
from rfray.report.audit_plots import draw_audit
from rfray.report.label_sheets import LABEL_SHEETS, draw_label_issues
from rfray.report.terminal import audit_summary, label_issues_summary
from rfray.spec.checks import unused_settings
from rfray.spec.parts import is_test
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import load_sweep, sweep_of_folder
from rfray.store.ownership import lock_run
from rfray.store.run_dir import HEAVY, RunDir
from rfray.store.storage import is_address


def audit(source: str, run: str | None, overrides: Sequence[str], console: Console) -> None:
    """Looks for what makes results mislead: duplicates, leaks, labels given away by the files or that look wrong.

    `source` is a sweep file (by default audited into runs/<name>), a folder with one folder a class inside (into
    audits/<folder>), or a run folder or its address: of a run whose probes have judged the training images, the labels
    that look wrong are listed. Raises AuditError where it has found errors, InputError for options that a run does not
    take.
    """
    if is_address(source) or Path(source, "sweep.yaml").is_file():
        _audit_run(RunDir(source), run, overrides, console)
        return
    of_folder = Path(source).is_dir()
    file = (sweep_of_folder if of_folder else load_sweep)(Path(source), tuple(overrides))
    sweep = file.sweep
    if of_folder and sweep.data.leave_out is not None:
        raise InputError("--set data.leave_out: a folder is audited whole; allowed with a sweep file")
    folder = RunDir(run or Path("audits" if of_folder else "runs", sweep.name))
    if of_folder or not folder.catalog_file.exists():
        check_data(file)
    for line in unused_settings(file):
        say(console, f"Note: {line}")
    with lock_run(folder, without=HEAVY):
        if of_folder:
            write_audit(folder, sweep, *scan_all(folder, sweep, console))
        else:
            prepare_training(folder, sweep, console)
        draw_audit(folder, sweep)
        issues = None if of_folder else _label_issues(folder, sweep, console)
        left_out = _left_out(folder, before_tune=of_folder or (not folder.probes() and bool(sweep.probes())))
    _show(folder, issues, left_out, console)


def _audit_run(folder: RunDir, run: str | None, overrides: Sequence[str], console: Console) -> None:
    """Shows the audit that a run has, and lists the labels that look wrong to its best probe."""
    for option, given in (("--run", run), ("--set", overrides)):
        if given:
            raise InputError(f"{option}: {folder.where} is a run; allowed with a sweep file or a folder of images")
    with lock_run(folder, without=HEAVY):
        sweep = folder.sweep()
        folder.check_trials(all_there=False)
        if folder.audit() is None:
            raise RunError(f"{folder.where} has no {folder.audit_file.name} yet; `rfray tune` makes it")
        issues = _label_issues(folder, sweep, console)
        if issues is None:
            say(console, "No probe has judged the labels of the training images (search.probe), so none are doubted")
        left_out = _left_out(folder, before_tune=False)
    _show(folder, issues, left_out, console)


def _label_issues(folder: RunDir, sweep: Sweep, console: Console) -> LabelIssues | None:
    """Writes label-issues.csv and its contact sheets, where a probe has judged the training images."""
    issues = write_label_issues(folder)
    try:
        draw_label_issues(folder, sweep, issues)
    except (DataError, StorageError) as error:  # of a run that came from elsewhere, without the training images
        say(console, f"The labels that look wrong are not drawn: {error}")
    return issues


def _left_out(folder: RunDir, *, before_tune: bool) -> str:
    """What to say of sources that were left out; "" where that is a finding of the audit."""
    if before_tune:
        images = folder.audited_images()
        return before_probes(images[~images["folder"].map(is_test)])
    best = best_left_out(folder)
    return "" if best is not None and best.found.pairs else left_out_line(folder)


def _show(folder: RunDir, issues: LabelIssues | None, left_out: str, console: Console) -> None:
    """Prints what was found and where it is. Raises AuditError where there are errors."""
    found = folder.audit()
    assert found is not None  # it was just written, or read
    console.print(audit_summary(found))
    if left_out:
        say(console, left_out)
    if issues is not None:
        console.print(label_issues_summary(issues))
    listed = [folder.label_issues_csv, *(folder.plots_folder / name for name in LABEL_SHEETS)] if issues else []
    for path in (folder.audit_file, *folder.audit_pictures(), *(one for one in listed if one.exists())):
        say(console, folder.shown(path))
    if found.stamp:
        raise AuditError(f"the audit has found errors; see {folder.shown(folder.audit_file)}")
