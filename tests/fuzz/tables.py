"""Tables that users write (attributes, lists of images to leave out, labelled sets), damaged -> used, or one line.

Each is read as the commands read it, and then everything is made of it that a run makes of such a table.
"""

import io
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.data.attributes import attributes_of, check_attributes, read_attributes
from rfray.data.labelled_sets import labelled_sets
from rfray.data.leave_out import check_leave_out, left_out_rows, list_changes, read_leave_out, unknown_paths
from rfray.data.sources import check_source_column, source_counts, sources
from rfray.errors import InputError
from rfray.evaluation.attributes import by_attribute
from rfray.evaluation.groups import write_group_tables
from rfray.report.words import group_rows
from rfray.spec.sweep import CLASSES, DataSettings
from rfray.stats.predictions import Predictions
from rfray.store.csv_files import read_csv
from rfray.store.run_dir import RunDir
from tests.fuzz.mutate import WORDS, of_bytes, of_table, of_text
from tests.fuzz.runner import Check, Input, Make
from tests.pictures import write_folder

LONGEST = 100_000
"""Characters of what is said of a table (our choice): the longest text that is put into one is said once."""
PATHS = [f"{name}/{number:03d}.bmp" for name in CLASSES for number in range(12)]
COLUMNS: dict[str, list[object]] = {
    "path": [*PATHS],
    "folder": ["train"] * len(PATHS),
    "label": [0] * 12 + [1] * 12,
    "generator": ["", "lfw", "=ffhq"] * 4 + ["sd", "gan", "NA"] * 4,
    "age": [17.0 + 3 * number for number in range(24)],
    "day": [date(2026, 1, 1 + number % 3) for number in range(24)],
    "price": [Decimal(number % 4) / 3 for number in range(24)],
    "known": [True, False, None] * 8,
    "raw": [b"a", b"\xff"] * 12,
}
TABLE = pd.DataFrame(COLUMNS)
SEPARATED = [*WORDS, ",", ";", "\t", ",,", "\n", "\r", "\ufeff", "path", "1e999", '"', "real/000.bmp", "fake/000.bmp"]


def prepare(folder: Path) -> tuple[Make, Check]:
    """See the package."""
    write_folder(folder / "images", per_class=12, seed=0)
    texts = {
        name: [TABLE[columns].to_csv(index=False, sep=separator) for separator in ",;\t"]
        for name, columns in {
            "attributes": ["path", "folder", "generator", "age"],
            "leave-out": ["path", "folder", "label"],
            "labelled": ["path", "label", "generator", "age"],
        }.items()
    }
    texts["leave-out"].append("\n".join(PATHS[:20]))
    written = io.BytesIO()
    pq.write_table(pa.table(COLUMNS), written)

    def make(random: Random) -> Input:
        use = random.choice(list(texts))
        if use != "leave-out" and random.random() < 0.4:
            table = pq.read_table(io.BytesIO(written.getvalue()))
            data = written.getvalue()
            damaged = of_bytes(random, data, [data]) if random.random() < 0.3 else of_table(random, table, {})
            return Input(f"{use}/images.parquet", damaged)
        text = of_text(random, random.choice(texts[use]), texts[use], SEPARATED)
        return Input(f"{use}/images.csv", text.encode("utf-8", "surrogatepass"))

    return make, check


def check(given: Input) -> None:
    """Raises AssertionError, or whatever what reads a table should not."""
    use, _, name = given.target.partition("/")
    file = Path("images", name)
    file.write_bytes(given.data)
    refused = _refused(USES[use], str(file))
    assert len(refused) < 2, refused
    assert all(0 < len(line) < LONGEST for line in refused)


def _refused(use: Callable[[str], None], file: str) -> tuple[str, ...]:
    """The lines that a table is refused with; none where it isn't."""
    try:
        use(file)
    except InputError as error:
        return error.args
    return ()


def _attributes(file: str) -> None:
    data = {"train": "images", "test": 0.2, "attributes": file}
    settings = DataSettings.model_validate(data)
    images = pd.DataFrame({"path": PATHS, "folder": "train", "label": [0] * 12 + [1] * 12, "subfolder": ""})
    check_attributes(settings, images)
    table, run = read_attributes(file), RunDir("run")
    run.path.mkdir(exist_ok=True)
    run.write_table(run.attributes_file, table)
    kept = run.attributes()
    assert kept is not None
    assert kept.equals(table)
    predictions = Predictions(np.array(PATHS), images["label"].to_numpy(), np.arange(24) % 7 / 7)
    found = by_attribute(predictions, attributes_of(table, "train", PATHS), 0.5)
    write_group_tables(run.groups_csv, found.groups)
    if found.groups:
        names = read_csv(run.groups_csv, dtype=str, keep_default_na=False)["attribute"].unique().tolist()
        assert names == list(found.groups)
    assert all(one.strip() and "\n" not in one for one in [*found.notes, *found.summary])
    for groups in found.groups.values():
        group_rows(groups)
    for column in list(table.columns.difference(["path", "folder"]))[:3]:
        named = DataSettings.model_validate({**data, "group": {"column": column}})
        check_source_column(named)
        source_counts(images.assign(source=sources(images, named)))


def _leave_out(file: str) -> None:
    settings = DataSettings.model_validate({"train": "images", "test": 0.2, "leave_out": file})
    check_leave_out(settings)
    table, images = read_leave_out(file), pd.DataFrame({"folder": "train", "path": PATHS})
    assert unknown_paths(table, images) == []
    assert 0 < left_out_rows(table, images).sum() == len(table)
    assert list_changes(table, table) == ""


def _labelled(file: str) -> None:
    (found,) = labelled_sets([file], None, {name: [name] for name in CLASSES}, False)
    assert len(found.images) == len(found.attributes) > 0
    together = Predictions(
        found.images["id"].to_numpy(), found.images["label"].to_numpy(), np.full(len(found.images), 0.5)
    )
    by_attribute(together, found.attributes, 0.5)


USES = {"attributes": _attributes, "leave-out": _leave_out, "labelled": _labelled}
