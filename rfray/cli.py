"""the command line -> the verbs, a few lines each; what is heavy is imported inside the verb."""

import atexit
import functools
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rfray.errors import Interrupted, RfrayError

if TYPE_CHECKING:
    from rich.console import Console

    from rfray.store.run_dir import RunDir

BEGAN = time.time()
"""When this process began, in seconds since 1970: a search.budget counts from here."""

app = typer.Typer(
    name="rfray",
    help="One YAML file becomes a sweep, a soft-voting ensemble and a leaderboard for telling real from fake images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SweepPath = Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep file, e.g. experiments/quickstart.yaml.")]
RunPlace = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="The run folder, or its address (s3://…); the newest in runs/ if not named."),
]
BundlePlace = Annotated[
    str, typer.Argument(metavar="BUNDLE|RUN", help="A folder with ensemble.json, or a run that has one (or s3://…).")
]
Address = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster: auto (on its head), host:port, or http://127.0.0.1:8265, the job server behind a "
        "tunnel, to which the command travels; by default this machine alone."
    ),
]
WhenInterrupted = Annotated[
    Literal["ask", "detach", "stop"],
    typer.Option(
        "--on-interrupt", help="What Ctrl-C does to a job on a cluster; ask: detach, where there is no terminal."
    ),
]


def resumable(verb: Callable[..., None]) -> Callable[..., None]:
    """Turns Ctrl-C in a verb into `Interrupted`, before typer makes an "Aborted" of it."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted("stopped; go on") from None

    return run


@app.command()
@resumable
def tune(
    sweep: SweepPath,
    run: Annotated[
        str | None, typer.Option(help="The run folder, or its address (s3://bucket/runs/x); by default runs/<name>.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the sweep file: --set trial.epochs=3. May be repeated.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an existing run folder aside and start anew.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
    ] = False,
    accept_audit: Annotated[
        bool, typer.Option("--accept-audit", help="Go on although the audit of the images has found errors.")
    ] = False,
    address: Address = None,
    on_interrupt: WhenInterrupted = "ask",
) -> None:
    """Run the sweep. The same command after any interruption goes on where it stopped."""
    from rfray.commands.tune import tune, tune_elsewhere
    from rfray.remote.client import is_job_server
    from rfray.spec.sweep_file import load_sweep
    from rfray.store.run_dir import RunDir

    file = load_sweep(sweep, tuple(overrides or ()))
    folder = run or str(Path("runs", file.sweep.name))
    if address and is_job_server(address):
        once = {"--fresh": fresh, "--dry-run": dry_run, "--accept-audit": accept_audit}
        _exit(tune_elsewhere(file, sweep, folder, overrides or (), once, address, on_interrupt, _console()))
        return
    options = {"fresh": fresh, "dry_run": dry_run, "accept_audit": accept_audit}
    tune(file, RunDir(folder), address, _console(), began=BEGAN, **options)


@app.command()
@resumable
def audit(
    source: Annotated[
        Path, typer.Argument(metavar="SWEEP|FOLDER", help="A sweep file, or a folder with a folder a class inside.")
    ],
    run: Annotated[
        str | None, typer.Option(help="Where to write; by default runs/<name>, or audits/<folder> for a folder.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the sweep file: --set data.classes.fake=synthetic.")
    ] = None,
) -> None:
    """Look for what makes results mislead: duplicates, leaks, labels given away by the files. Exit code 2 on errors."""
    from rfray.commands.audit import audit

    audit(source, run, overrides or (), _console())


@app.command()
@resumable
def ensemble(
    run: RunPlace = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Members; by default the sweep's ensemble.top_k.")] = None,
    diverse: Annotated[
        int | None, typer.Option(min=1, help="Most members of one backbone; by default the sweep's ensemble.diverse.")
    ] = None,
    leave_out_worse: Annotated[
        bool | None,
        typer.Option(
            "--leave-out-worse/--keep-worse", help="Whether clearly worse trials are no members; default: the sweep's."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="How they vote: soft, weighted or calibrated. May be repeated; the first is the detector."),
    ] = None,
    choose_by: Annotated[
        Literal["score", "worst"] | None,
        typer.Option(help="Choose and rank by the val metric, or its worst under corruption; default: the sweep's."),
    ] = None,
    corruptions: Annotated[
        bool | None,
        typer.Option(
            "--corruptions/--no-corruptions", help="Report on JPEG, scaling, blur, noise; default: the sweep's."
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="csv, markdown or html alone (the CSV always); may be repeated; by default all."),
    ] = None,
    address: Address = None,
    on_interrupt: WhenInterrupted = "ask",
) -> None:
    """Join the best trials, predict the test images, write leaderboard, plots and report."""
    from rfray.remote.client import is_job_server

    if address and is_job_server(address):
        from rfray.commands.ensemble import ensemble_elsewhere

        options = {"--top-k": top_k, "--diverse": diverse, "--method": method, "--choose-by": choose_by}
        options |= {"--format": formats}
        options |= {"--corruptions": corruptions or None, "--no-corruptions": corruptions is False or None}
        options |= {"--leave-out-worse": leave_out_worse or None, "--keep-worse": leave_out_worse is False or None}
        _exit(ensemble_elsewhere(run, options, address, on_interrupt, _console()))
        return

    from rfray.commands.ensemble import FORMATS, ensemble
    from rfray.commands.leaderboard import show_leaderboard

    folder, console = _run(run), _console()
    given = {"top_k": top_k, "diverse": diverse, "methods": method, "choose_by": choose_by}
    given |= {"leave_out_worse": leave_out_worse}
    ensemble(folder, given, corruptions, formats or FORMATS, address, console)
    show_leaderboard(folder, None, console)
    for path in (folder.leaderboard_csv, folder.leaderboard_md, folder.report_html):
        if path.exists():
            print(folder.shown(path))


@app.command()
@resumable
def predict(
    bundle: BundlePlace,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH…", help="Files, folders, patterns, s3://…; - reads a path a line from the input."),
    ],
    out: Annotated[
        str | None,
        typer.Option(help="FILE.csv, .jsonl or .parquet, or FOLDER/ for millions; by default the standard output."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl or parquet; by default as --out is called, else csv.")
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw where the members saw their evidence (Grad-CAM) there.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 64,
    cpu: Annotated[float, typer.Option(min=0.1, help="With FOLDER/: cores of each process that predicts.")] = 1,
    gpu: Annotated[
        float | None, typer.Option(min=0, help="With FOLDER/: its share of a GPU; by default 1 where there is any.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="With FOLDER/: a running Ray cluster, auto (on its head) or host:port.")
    ] = None,
) -> None:
    """Tell real from fake: a row a file. Exit code 1 where some could not be read."""
    from rfray.commands.predict import predict

    predict(bundle, paths, out, form, explain, batch_size, (cpu, gpu), address)


@app.command()
@resumable
def export(
    bundle: BundlePlace,
    form: Annotated[str, typer.Option("--format", help="onnx (needs rfray[onnx]) or pt2 (torch.export).")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file; by default the bundle's name with .onnx or .pt2.")] = None,
) -> None:
    """Write the whole ensemble as one model file, and compare it with the bundle."""
    from rfray.commands.export import export

    export(bundle, form, out)


@app.command()
@resumable
def serve(
    bundle: BundlePlace,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8000,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Processes with the models; by default one a GPU; else one a core, up to 4."),
    ] = None,
    gpu: Annotated[
        float | None, typer.Option(min=0, max=1, help="Each one's share of a GPU; by default 1 where there is any.")
    ] = None,
) -> None:
    """Tell real from fake over HTTP, and on a page for the browser, until stopped (Ctrl-C)."""
    from rfray.commands.serve import serve

    serve(bundle, host, port, replicas, gpu)


@app.command()
@resumable
def fetch(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The address of a run folder: s3://bucket/runs/<name>.")],
    to: Annotated[Path | None, typer.Option(help="The folder here; by default runs/<name>.")] = None,
    weights: Annotated[bool, typer.Option(help="Bring the weights of the kept trials, too.")] = True,
) -> None:
    """Bring a run folder here, from an address; a second time only what is new or damaged."""
    from rfray.commands.fetch import fetch

    fetch(run, to, weights, _console())


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def job(client: str, command: Annotated[list[str], typer.Argument()]) -> None:
    """Run a command as a job on a cluster, for an rfray of version CLIENT elsewhere."""
    from rfray.remote.job_entrypoint import begin_job

    begin_job(client)
    app(command)


@app.command()
def leaderboard(
    run: RunPlace = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to sort by, best first.")] = None,
) -> None:
    """Show the leaderboard of a run in the terminal."""
    from rfray.commands.leaderboard import show_leaderboard

    show_leaderboard(_run(run), sort, _console())


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Run folders, or their addresses (s3://…).")],
    top: Annotated[int, typer.Option(min=0, help="Models shown of each run, besides its ensembles: the best.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(help="Write all rows to this .csv, and the tests to …-tests.csv beside it; or both to this .md."),
    ] = None,
) -> None:
    """Join the leaderboards of runs with the same test images, and test whose ensemble is better."""
    from rfray.commands.compare import compare

    compare([_run(where) for where in runs], top, out, _console())


@app.command()
def schema() -> None:
    """Print the JSON schema of the sweep file, for editors."""
    import json

    from rfray.spec.sweep_file import sweep_schema
    from rfray.tuning.preflight import registered_names

    print(json.dumps(sweep_schema(registered_names()), indent=1))


def main() -> None:
    """Runs the command; errors of rfray become one message and their exit code, Ctrl-C becomes 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C
    try:
        app()
    except Interrupted as stop:
        again = [word for word in sys.argv[1:] if word != "--fresh"]
        print(f"\nrfray: {stop} with: {shlex.join(['rfray', *again])}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except RfrayError as error:
        print(f"rfray: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def process() -> None:
    """`main` as a process that ends at once: Python takes 4 s of a core to free what torch and Ray have loaded."""
    exit_code = 1  # of an error that nobody has caught

    def end() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)

    atexit.register(end)  # first registered, last called: all others have ended
    try:
        main()
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 0


def _exit(code: int) -> None:
    """Ends with the exit code of the command elsewhere, where it is not 0."""
    if code:
        raise typer.Exit(code)


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # a log or a pipe has no width of its own
    return console


def _run(where: str | None) -> "RunDir":
    from rfray.store.run_dir import RunDir, newest_run

    run = RunDir(where) if where is not None else newest_run()
    run.mirror.fetch(run.sweep_file)
    run.sweep()  # a folder that is no run is refused before anything is written beside it
    return run


if __name__ == "__main__":
    process()
