"""The house: who may import whom, and the public surface."""

from importlib.metadata import entry_points
from pathlib import Path

import typer
from importlinter.cli import lint_imports

from rfray import cli

ROOT = Path(__file__).parent.parent


def test_imports_point_one_way() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_verbs_of_the_command() -> None:
    command = typer.main.get_command(cli.app)
    shown = ["tune", "audit", "ensemble", "predict", "export", "serve", "fetch", "leaderboard", "compare", "schema"]
    assert [verb for verb, one in command.commands.items() if not one.hidden] == shown
    # what jobs on a cluster are made of is no business of a user's
    assert [verb for verb, one in command.commands.items() if one.hidden] == ["job"]


def test_the_options_of_each_verb() -> None:
    commands = typer.main.get_command(cli.app).commands
    options = {verb: [option for part in commands[verb].params for option in part.opts] for verb in commands}
    assert options == {
        "tune": ["sweep", "--run", "--set", "--fresh", "--dry-run", "--accept-audit", "--address", "--on-interrupt"],
        "audit": ["source", "--run", "--set"],
        "ensemble": [
            "run",
            "--top-k",
            "--diverse",
            "--leave-out-worse",
            "--method",
            "--choose-by",
            "--corruptions",
            "--format",
            "--address",
            "--on-interrupt",
        ],
        "predict": [
            "bundle",
            "paths",
            "--out",
            "--format",
            "--explain",
            "--batch-size",
            "--cpu",
            "--gpu",
            "--address",
        ],
        "export": ["bundle", "--format", "--out"],
        "serve": ["bundle", "--host", "--port", "--replicas", "--gpu"],
        "fetch": ["run", "--to", "--weights"],
        "job": ["client", "command"],
        "leaderboard": ["run", "--sort"],
        "compare": ["runs", "--top", "--out"],
        "schema": [],
    }


def test_the_installed_command_is_the_one_here() -> None:
    (script,) = entry_points(group="console_scripts", name="rfray")
    assert script.load() is cli.process
