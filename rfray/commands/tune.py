"""A sweep file -> a run folder with trained trials: the steps of `rfray tune`, from top to bottom."""

import time
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from threading import Thread

from rich.console import Console

from rfray.progress.events import inside_job
from rfray.progress.phases import doing, say
from rfray.spec.checks import check_file, unused_settings
from rfray.spec.sweep_file import SweepFile
from rfray.store.ownership import check_free, check_own, lock_run, move_run_aside
from rfray.store.run_dir import HEAVY, RunDir

HEAVY_MODULES = ("rfray.tuning.preflight", "rfray.commands.prepare_data", "rfray.report.audit_plots")
"""They import nearly all that a sweep needs."""
# torch, timm and Ray are imported inside the functions: a wrong sweep file is answered without them


def tune(
    file: SweepFile,
    run: RunDir,
    address: str | None,
    console: Console,
    *,
    fresh: bool = False,
    dry_run: bool = False,
    accept_audit: bool = False,
    began: float | None = None,
) -> None:
    """Runs the sweep on the Ray cluster at `address`, by default on this machine; goes on where it was stopped.

    `fresh` moves an existing run folder aside first; `dry_run` checks everything and prints the plan; `accept_audit`
    goes on although the audit of the images has found errors. A search.budget counts from `began` (seconds since 1970),
    by default from now.
    Raises InputError where anything that was given can't be used, SweepFailed where too many trials have failed.
    """
    began = time.time() if began is None else began
    here = address in (None, "auto")  # else this machine may have no part in the cluster, which is said first
    check_file(file, folders=here)
    from rfray.data.checks import check_data

    if here:
        check_data(file)
    if not dry_run:
        check_free(run)
    # torch and timm take seconds to import, and Ray to start, most of which it waits
    importing = Thread(target=_import_heavy)
    importing.start()

    from rfray.cluster.connect import connected, way_to_ray

    with ExitStack() as stack:
        with doing(console, f"{way_to_ray(address)}, loading PyTorch and timm"):
            try:
                session = stack.enter_context(connected(address, file.sweep.resources))
            finally:  # an import that goes on while Python ends fails with a traceback
                importing.join()
        _run(file, run, session, console, fresh, dry_run, accept_audit, began)


def _import_heavy() -> None:
    with suppress(ImportError, MemoryError):  # who needs them raises it again, where it becomes a line
        for name in HEAVY_MODULES:
            import_module(name)


def _run(
    file: SweepFile,
    run: RunDir,
    session: Path,
    console: Console,
    fresh: bool,
    dry_run: bool,
    accept_audit: bool,
    began: float,
) -> None:
    """The steps on the connected Ray: check, prepare the images, probe the backbones, run the trials."""
    from rfray.cluster.node_preflight import check_storage, prepare_nodes
    from rfray.cluster.slots import autoscaler_notice, slot_count, slot_for
    from rfray.commands.prepare_data import audit_left_out, check_audit, prepare_training
    from rfray.data.listing import counted
    from rfray.evaluation.left_out import left_out_line
    from rfray.report.audit_plots import draw_audit
    from rfray.tuning.budget import budget_meter, check_budget, check_epoch, with_short_epochs
    from rfray.tuning.measuring import keep_packing, shares_for
    from rfray.tuning.plan import disk_needs, plan_lines
    from rfray.tuning.preflight import check_models, check_sweep
    from rfray.tuning.probing import probe_backbones, rank_backbones
    from rfray.tuning.run_sweep import check_outcome, run_sweep
    from rfray.tuning.warm_start import check_warm_start

    sweep, slot = file.sweep, slot_for(file.sweep.resources)
    with doing(console, "Checking the sweep: weights, policies, and a training step of each backbone"):
        check_sweep(file)
        for line in unused_settings(file):
            say(console, f"Note: {line}")
        check_warm_start(file, run, fresh)
        parameters, seconds = check_models(file)
    shares = shares_for(sweep, run, slot, fresh, console)
    check_budget(file, shares, began if fresh or not run.trials() else None)
    needed = disk_needs(sweep, parameters, slot_count(shares))
    if dry_run:
        say(console, *plan_lines(sweep, run, shares, needed))
        return
    with lock_run(run, without=HEAVY):
        if fresh and (aside := move_run_aside(run)):
            say(console, f"The earlier run is now {aside}")
        check_own(run, sweep)
        with budget_meter(run, sweep, shares, began) as meter:
            keep_packing(run, shares, console)
            prepare_training(run, sweep, console)
            with doing(console, "Drawing the audit's pictures"):
                draw_audit(run, sweep)
            check_audit(run, accept_audit, console)
            check_storage(run, needed)
            if coming := autoscaler_notice(shares):
                say(console, coming)
            prepare_nodes(run, shares, console)
            if meter:
                check_epoch(file, run, meter, seconds)
            probe_backbones(run, sweep, meter.account.deadline if meter else None, console)
            audit_left_out(run)
            search = with_short_epochs(run, rank_backbones(run, sweep, console), shares)
            say(console, "Starting the trials")
            done = run_sweep(run, search, shares, session, console, meter=meter)
    failed = check_outcome(run, sweep, done)
    say(console, left_out_line(run))
    following = "" if inside_job() else f". Next: rfray ensemble {run.shown(run.path)}"
    say(console, f"{counted(len(done), 'trial')} done{f', {failed} failed' if failed else ''}{following}")
