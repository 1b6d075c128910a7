"""Bringing a run folder here from an address: what is missing or differs, and never over another run."""

from pathlib import Path

import pytest
from rich.console import Console

from rfray.commands.fetch import fetch
from rfray.errors import RunError
from rfray.spec.sweep_file import resolved_text
from rfray.store.files import write_whole
from rfray.store.run_dir import RunDir
from tests.object_store import bucket_here, upload
from tests.synthetic import small_run


def content(folder: Path) -> dict[str, bytes]:
    """Of all files but those of the lock."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".lock")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_a_run_comes_from_its_address(tmp_path: Path) -> None:
    there, here = small_run(tmp_path / "there" / "x"), RunDir(tmp_path / "x")
    before = content(there.path)
    there.trial("005").state_file(1, "0" * 64).write_bytes(b"to go on from")
    (there.path / ".lock").write_text("somebody")

    def fetch_run(address: str, weights: bool = True, to: Path = here.path) -> None:
        fetch(address, to, weights, Console(quiet=True))

    with bucket_here() as bucket:
        upload(there.path, f"{bucket}/runs/x")
        fetch_run(f"{bucket}/runs/x", weights=False)
        assert set(before) - set(content(here.path)) == {f"trials/00{n}/best.safetensors" for n in (1, 2)}
        fetch_run(f"{bucket}/runs/x")
        assert content(here.path) == before
        here.trial("001").weights_file.write_bytes(b"damaged")
        fetch_run(f"{bucket}/runs/x")
        assert content(here.path) == before
        with pytest.raises(RunError, match="not a run folder"):
            fetch_run(f"{bucket}/runs/none", to=tmp_path / "none")
        # another run of that name is left alone
        write_whole(here.sweep_file, resolved_text(here.sweep().model_copy(update={"seed": 77})))
        changed = content(here.path)
        with pytest.raises(RunError, match=r"seed: 77 -> (.|\n)*--to"):
            fetch_run(f"{bucket}/runs/x")
        assert content(here.path) == changed
