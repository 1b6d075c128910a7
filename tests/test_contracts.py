"""The house: who may import whom, and the public surface."""

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import typer
from importlinter.cli import lint_imports

from rfray import cli

ROOT = Path(__file__).parent.parent


def test_imports_point_one_way() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of what a module uses of a library's private names."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full = [alias.name for alias in node.names]
            imported |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith(("rfray", "__future__")):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {alias.asname or alias.name for alias in node.names}
        else:
            continue
        yield from ((node.lineno, name) for name in full if any(part[0] == "_" for part in name.split(".")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr[0] == "_" and node.attr[:2] != "__":
            name = ast.unparse(node)
            root = name.partition(".")[0].partition("(")[0]
            if root in imported and name != "os._exit":  # which Python documents
                yield node.lineno, name
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if str(name)[:1] == "_":
                yield node.lineno, ast.unparse(node)


def test_private_names_of_libraries_are_in_one_module() -> None:
    found = {
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in (ROOT / "rfray").rglob("*.py")
        if file.name != "ray_internals.py"
        for line, name in private_names(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == set()


def test_private_names_are_found() -> None:
    code = "import ray as r\nfrom a._b import c\nr.x._y()\ngetattr(c, '_z')\nself._mine\nr.__version__"
    assert {name for _, name in private_names(ast.parse(code))} == {"a._b.c", "r.x._y", "getattr(c, '_z')"}


def test_the_verbs_of_the_command() -> None:
    command = typer.main.get_command(cli.app)
    shown = ["tune", "audit", "ensemble", "predict", "evaluate", "export", "serve", "fetch", "leaderboard", "compare"]
    shown += ["schema"]
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
            "--set",
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
        "evaluate": [
            "bundle",
            "folders",
            "--out",
            "--name",
            "--classes",
            "--corruptions",
            "--batch-size",
            "--cpu",
            "--gpu",
            "--address",
        ],
        "export": ["bundle", "--format", "--out"],
        "serve": ["bundle", "--host", "--port", "--replicas", "--gpu", "--allow-host"],
        "fetch": ["run", "--to", "--weights"],
        "job": ["client", "command"],
        "leaderboard": ["run", "--sort"],
        "compare": ["runs", "--top", "--out"],
        "schema": [],
    }


def test_the_installed_command_is_the_one_here() -> None:
    (script,) = entry_points(group="console_scripts", name="rfray")
    assert script.load() is cli.process
