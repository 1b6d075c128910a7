"""A sweep file or a folder of images -> audit.json, its plots and its findings: the steps of `rfray audit`."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rfray.commands.prepare_data import prepare_training, scan_all, write_audit
from rfray.errors import AuditError
from rfray.progress.phases import say
from rfray.report.audit_plots import draw_audit
from rfray.report.terminal import audit_summary
from rfray.spec.checks import unused_settings
from rfray.spec.sweep_file import load_sweep, sweep_of_folder
from rfray.store.ownership import lock_run
from rfray.store.run_dir import HEAVY, RunDir


def audit(source: Path, run: str | None, overrides: Sequence[str], console: Console) -> None:
    """Looks for what makes results mislead: duplicates, leaks, labels given away by the files.

    `source` is a sweep file (by default audited into runs/<name>) or a folder with one folder a class inside (into
    audits/<folder>). Raises AuditError where it has found errors.
    """
    of_folder = source.is_dir()
    file = (sweep_of_folder if of_folder else load_sweep)(source, tuple(overrides))
    sweep = file.sweep
    folder = RunDir(run or Path("audits" if of_folder else "runs", sweep.name))
    for line in unused_settings(file):
        say(console, f"Note: {line}")
    with lock_run(folder, without=HEAVY):
        if of_folder:
            write_audit(folder, sweep, *scan_all(folder, sweep, console))
        else:
            prepare_training(folder, sweep, console)
        draw_audit(folder, sweep)
    found = folder.audit()
    assert found is not None  # it was just written
    console.print(audit_summary(found))
    for path in (folder.audit_file, *folder.audit_pictures()):
        say(console, folder.shown(path))
    if found.stamp:
        raise AuditError(f"the audit has found errors; see {folder.shown(folder.audit_file)}")
