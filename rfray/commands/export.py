"""A bundle -> one model file: the steps of `rfray export`."""

from pathlib import Path

from rich.console import Console

from rfray.errors import printable
from rfray.models.bundle import load_bundle
from rfray.models.export import check_format, export_bundle
from rfray.progress.phases import warn
from rfray.stats.guessing import bundle_warning
from rfray.store.run_dir import RunDir


def export(bundle: str, form: str, out: Path | None) -> None:
    """Writes the whole ensemble as one model and says how far its probabilities are from the bundle's.

    `out` is by default the bundle's name with the format as ending. Raises InputError for an unknown format, RunError
    where there is no bundle.
    """
    check_format(form)
    file = out or Path(f"{RunDir(bundle).name}.{form}")
    loaded = load_bundle(bundle)
    difference = export_bundle(loaded, form, file)
    print(f"{printable(str(file))}: probabilities within {difference:.1g} of the bundle's")
    warn(Console(highlight=False), bundle_warning(loaded.ensemble))
