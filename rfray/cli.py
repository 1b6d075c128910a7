"""the command line -> the verbs, a few lines each; what is heavy is imported inside the verb."""

import atexit
import io
import json
import os
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeGuard

from typer import Argument, BadParameter, Exit, Option, Typer

from rfray.errors import (
    InputError,
    Interrupted,
    RfrayError,
    check_no_secret,
    of_system,
    printable,
    raised_by_task,
    readable,
    without_secrets,
)

if TYPE_CHECKING:
    from rich.console import Console

    from rfray.store.run_dir import RunDir

UsageError: Any = BadParameter.__bases__[0]
"""What typer raises for a command line that it can't take, wherever it has it from."""
BEGAN = time.time()
"""When this process began, in seconds since 1970: a search.budget counts from here."""


app = Typer(
    name="rfray",
    help="One YAML file becomes a sweep, an ensemble of the best trials that tells real images from fake ones, and a "
    "leaderboard that says how well, and how surely.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunPlace = Annotated[
    str | None, Argument(metavar="[RUN]", help="The run folder, or its address (s3://…); the newest if not named.")
]
BundlePlace = Annotated[
    str, Argument(metavar="BUNDLE|RUN", help="A folder with ensemble.json, or a run that has one (or s3://…).")
]
Overrides = Annotated[
    list[str] | None, Option("--set", help="A key of the sweep file: --set trial.epochs=3. May be repeated.")
]
Address = Annotated[
    str | None,
    Option(
        help="A running Ray cluster: auto (on its head), host:port, or http://127.0.0.1:8265, the job server behind a "
        "tunnel, to which the command travels; by default this machine alone."
    ),
]
WhenInterrupted = Annotated[
    Literal["ask", "detach", "stop"],
    Option("--on-interrupt", help="What Ctrl-C does to a job on a cluster; ask: detach, where there is no terminal."),
]


@app.command()
def tune(
    sweep: Annotated[Path, Argument(help="The sweep file, e.g. experiments/quickstart.yaml.")],
    run: Annotated[str | None, Option(help="The run folder, or its address (s3://…); by default runs/<name>.")] = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, Option("--fresh", help="Move an existing run folder aside and start anew.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything, print the plan, train nothing.")] = False,
    accept_audit: Annotated[bool, Option("--accept-audit", help="Go on although the audit has found errors.")] = False,
    address: Address = None,
    on_interrupt: WhenInterrupted = "ask",
) -> None:
    """Run the sweep. The same command after any interruption goes on where it stopped."""
    from rfray.spec.sweep_file import load_sweep
    from rfray.store.run_dir import RunDir

    file = load_sweep(sweep, tuple(overrides or ()))
    folder = run or str(Path("runs", file.sweep.name))
    if is_job_server(address):
        from rfray.remote.command import tune_command
        from rfray.remote.jobs import run_remotely

        once = {"--fresh": fresh, "--dry-run": dry_run, "--accept-audit": accept_audit}
        command = tune_command(file, sweep, folder, overrides or (), once)
        raise Exit(run_remotely(address, command, on_interrupt, _console()))

    from rfray.commands.tune import tune

    options = {"fresh": fresh, "dry_run": dry_run, "accept_audit": accept_audit}
    tune(file, RunDir(folder), address, _console(), began=BEGAN, **options)


@app.command()
def audit(
    source: Annotated[
        str, Argument(metavar="SWEEP|FOLDER|RUN", help="A sweep file, a folder with class folders, or a run folder.")
    ],
    run: Annotated[str | None, Option(help="Where to write; by default runs/<name> or audits/<folder>.")] = None,
    overrides: Overrides = None,
) -> None:
    """Look for what makes results mislead: duplicates, leaks, labels that look wrong. Exit code 2 on errors."""
    from rfray.commands.audit import audit

    audit(source, run, overrides or (), _console())


@app.command()
def ensemble(
    run: RunPlace = None,
    top_k: Annotated[int | None, Option(min=1, help="Members; by default the sweep's ensemble.top_k.")] = None,
    diverse: Annotated[int | None, Option(min=1, help="Most members of one backbone; default: the sweep's.")] = None,
    leave_out_worse: Annotated[
        bool | None, Option("--leave-out-worse/--keep-worse", help="Clearly worse trials; default: as the sweep says.")
    ] = None,
    method: Annotated[
        list[str] | None, Option(help="The vote: soft, weighted or calibrated; may be repeated: first the detector's.")
    ] = None,
    choose_by: Annotated[
        Literal["score", "worst"] | None,
        Option(help="Choose and rank by the val metric, or its worst under corruption; default: the sweep's."),
    ] = None,
    corruptions: Annotated[
        bool | None, Option("--corruptions/--no-corruptions", help="JPEG, scaling, blur, noise; default: the sweep's.")
    ] = None,
    formats: Annotated[list[str] | None, Option("--format", help="csv (always), markdown, html. Repeatable.")] = None,
    overrides: Annotated[
        list[str] | None,
        Option(
            "--set", help="A key that no trial depends on: --set data.test=FOLDER where the run came from elsewhere."
        ),
    ] = None,
    address: Address = None,
    on_interrupt: WhenInterrupted = "ask",
) -> None:
    """Join the best trials, predict the test images, write leaderboard, plots and report."""
    if is_job_server(address):
        from rfray.remote.command import ensemble_command
        from rfray.remote.jobs import run_remotely

        options = {"--top-k": top_k, "--diverse": diverse, "--method": method, "--choose-by": choose_by}
        options |= {"--leave-out-worse/--keep-worse": leave_out_worse, "--corruptions/--no-corruptions": corruptions}
        command = ensemble_command(run, {**options, "--format": formats, "--set": overrides})
        raise Exit(run_remotely(address, command, on_interrupt, _console()))

    from rfray.commands.ensemble import REPORT_FORMATS, ensemble
    from rfray.commands.leaderboard import show_leaderboard
    from rfray.progress.phases import say

    folder, console = _run(run), _console()
    given = {"top_k": top_k, "diverse": diverse, "methods": method, "choose_by": choose_by}
    given |= {"leave_out_worse": leave_out_worse}
    ensemble(folder, given, corruptions, formats or REPORT_FORMATS, address, console, overrides or ())
    show_leaderboard(folder, None, console)
    for path in (folder.leaderboard_csv, folder.leaderboard_md, folder.report_html):
        if path.exists():
            say(console, folder.shown(path))


@app.command()
def predict(
    bundle: BundlePlace,
    paths: Annotated[list[str], Argument(help="Files, folders, patterns, s3://…; - reads a path a line from stdin.")],
    out: Annotated[str | None, Option(help="FILE.csv, .jsonl, .parquet, or FOLDER/ for millions; else stdout.")] = None,
    form: Annotated[str | None, Option("--format", help="csv, jsonl or parquet; default: by --out, else csv.")] = None,
    explain: Annotated[Path | None, Option(help="A folder for pictures of the evidence (Grad-CAM).")] = None,
    batch_size: Annotated[int, Option(min=1, help="Images at a time.")] = 64,
    cpu: Annotated[float, Option(min=0.1, help="With FOLDER/: cores of each process that predicts.")] = 1,
    gpu: Annotated[float | None, Option(min=0, help="With FOLDER/: its share of a GPU; by default 1 if any.")] = None,
    address: Annotated[str | None, Option(help="With FOLDER/: a Ray cluster, auto (on its head) or host:port.")] = None,
) -> None:
    """Tell real from fake: a row a file. Exit code 1 where some could not be read."""
    from rfray.commands.predict import predict

    predict(bundle, paths, out, form, explain, batch_size, (cpu, gpu), address)


@app.command()
def evaluate(
    bundle: BundlePlace,
    folders: Annotated[
        list[str],
        Argument(metavar="FOLDER…", help="Class folders inside, or a table (.csv, .parquet: path, label); s3://…."),
    ],
    out: Annotated[str | None, Option(help="Where evaluations/ is written; by default the run, or here.")] = None,
    name: Annotated[str | None, Option(help="What it is called; of several folders: NAME=FOLDER each.")] = None,
    classes: Annotated[
        list[str] | None,
        Option(help="Which folder is which class: real=ffhq,fake=sd21; real=. where all images are real."),
    ] = None,
    corruptions: Annotated[
        bool, Option("--corruptions", help="Predict images compressed, scaled, blurred and noisy, too.")
    ] = False,
    batch_size: Annotated[int, Option(min=1, help="Images at a time.")] = 64,
    cpu: Annotated[float, Option(min=0.1, help="Of many images: cores of each process that predicts.")] = 1,
    gpu: Annotated[float | None, Option(min=0, help="Of many images: its share of a GPU; default: 1 if any.")] = None,
    address: Annotated[str | None, Option(help="A Ray cluster, auto (on its head) or host:port.")] = None,
) -> None:
    """Say what a detector is worth on labelled images from elsewhere, beside what it claims."""
    from rfray.commands.evaluate import evaluate

    evaluate(bundle, folders, out, name, classes or (), corruptions, batch_size, (cpu, gpu), address, _console())


@app.command()
def export(
    bundle: BundlePlace,
    form: Annotated[str, Option("--format", help="onnx (needs rfray[onnx]) or pt2 (torch.export).")] = "onnx",
    out: Annotated[Path | None, Option(help="The file; by default the bundle's name with .onnx or .pt2.")] = None,
) -> None:
    """Write the whole ensemble as one model file, and compare it with the bundle."""
    from rfray.commands.export import export

    export(bundle, form, out)


@app.command()
def serve(
    bundle: BundlePlace,
    host: Annotated[str, Option(help="The address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="The port; 0: any that is free.")] = 8000,
    replicas: Annotated[int | None, Option(min=1, help="Processes; default: one a GPU, else a core (up to 4).")] = None,
    gpu: Annotated[float | None, Option(min=0, max=1, help="Each one's share of a GPU; by default 1 if any.")] = None,
    hosts: Annotated[
        list[str] | None,
        Option("--allow-host", help="A name of this machine, or *; may be repeated."),
    ] = None,
) -> None:
    """Tell real from fake over HTTP, and on a page for the browser, until stopped (Ctrl-C)."""
    from rfray.commands.serve import serve

    serve(bundle, host, port, replicas, gpu, hosts or ())


@app.command()
def fetch(
    run: Annotated[str, Argument(metavar="ADDRESS", help="The address of a run folder: s3://bucket/runs/<name>.")],
    to: Annotated[Path | None, Option(help="The folder here; by default runs/<name>.")] = None,
    weights: Annotated[bool, Option(help="Bring the weights of the kept trials, too.")] = True,
) -> None:
    """Bring a run folder here, from an address; a second time only what is new or damaged."""
    from rfray.commands.fetch import fetch

    fetch(run, to, weights, _console())


@app.command(hidden=True, context_settings={"ignore_unknown_options": True})
def job(client: str, command: Annotated[list[str], Argument()]) -> None:
    """Run a command as a job on a cluster, for an rfray of version CLIENT elsewhere."""
    from rfray.remote.command import begin_job

    begin_job(client)
    raise Exit(app(command, standalone_mode=False) or 0)


@app.command()
def leaderboard(
    run: RunPlace = None,
    sort: Annotated[str | None, Option(metavar="COLUMN", help="Column to sort by, best first.")] = None,
) -> None:
    """Show the leaderboard of a run in the terminal."""
    from rfray.commands.leaderboard import show_leaderboard

    show_leaderboard(_run(run), sort, _console())


@app.command()
def compare(
    runs: Annotated[list[str], Argument(metavar="RUN RUN…", help="Run folders, or their addresses (s3://…).")],
    top: Annotated[int, Option(min=0, help="Models shown of each run, besides its ensembles: the best.")] = 5,
    out: Annotated[Path | None, Option(help="A .csv for all rows, with the tests in …-tests.csv; or a .md.")] = None,
) -> None:
    """Join the leaderboards of runs with the same test images, and test whose ensemble is better."""
    from rfray.commands.compare import compare

    compare([_run(where) for where in runs], top, out, _console())


@app.command()
def schema() -> None:
    """Print the JSON schema of the sweep file, for editors."""
    from rfray.spec.sweep_file import sweep_schema
    from rfray.tuning.preflight import registered_names

    print(json.dumps(sweep_schema(registered_names()), indent=1))


def main() -> None:
    """Runs the command; errors, the system's too, become one message and their exit code, Ctrl-C becomes 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C
    # a terminal that is not UTF-8 shows \xe9; names come in as the disk has them
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors, newline="\n" if stream is sys.stdin else None)  # a name may hold \r
    try:
        _run_command()
    except RfrayError as raised:
        error = raised_by_task(raised)
        again = printable(shlex.join(["rfray", *(word for word in sys.argv[1:] if word != "--fresh")]))
        text = f"\nrfray: {error} with: {again}" if isinstance(error, Interrupted) else f"rfray: {error}"
        print(without_secrets(text), file=sys.stderr)
        sys.exit(error.exit_code)


def _run_command() -> None:
    try:
        for word in sys.argv[1:]:
            check_no_secret(word)
        os.getcwd()  # where it is gone, torch ends the process with words of its own
        try:
            if (code := app(standalone_mode=False)) == Interrupted.exit_code:
                raise Interrupted("stopped; go on")
            sys.exit(code or 0)
        finally:
            if sys.stdout is not None:  # it is where the caller has closed it
                sys.stdout.flush()  # now, while what is refused can be said
    except UsageError as error:  # typer would print it with what steers a terminal
        if not (reason := error.format_message()):
            sys.exit(2)  # the help was asked for by no word at all
        verb = error.ctx.command_path.removesuffix(" COMMAND") if error.ctx else "rfray"
        raise InputError(f"{reason}{'' if reason[-1] in '.?' else '.'} `{verb} --help` says what is allowed") from None
    except BrokenPipeError:  # whoever read has read enough
        sys.exit(1)
    except OSError as error:
        raise of_system(error) from error
    except MemoryError as error:
        more = "Free some, allow more (ulimit -v unlimited), or have fewer trials at once (search.concurrent)"
        raise RfrayError(f"memory ran out. {more}") from error
    except ImportError as error:
        if ".so" not in str(error):  # else it is a system's library
            raise
        more = "Install what is missing, or allow more memory (ulimit -v unlimited)"
        raise RfrayError(f"a library can't be loaded: {error}. {more}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{readable(error.object)[:200]}: this name is not UTF-8; rename it") from error


def process() -> None:
    """`main` as a process that ends at once: Python takes 4 s of a core to free what torch and Ray have loaded."""
    exit_code = 1  # of an error that nobody has caught

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or full: which has been said
                stream.flush()
        os._exit(exit_code)

    atexit.register(end)  # first registered, last called: all others have ended
    try:
        main()
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 0


def is_job_server(address: str | None) -> TypeGuard[str]:
    """Whether an address is that of a job server, to which a command travels."""
    return address is not None and address.startswith(("http://", "https://"))


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
