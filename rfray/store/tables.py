"""catalog.parquet and audit/images.parquet of a run <-> data frames, checked by the checksums of their pages."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rfray.errors import RunError
from rfray.store.files import replacing
from rfray.store.run_dir import RunDir


def write_catalog(run: RunDir, catalog: pd.DataFrame) -> None:
    """Writes catalog.parquet, after everything else that is known of the images is at the run's address."""
    run.mirror.push()
    _write(run.catalog_file, catalog)
    run.mirror.send(run.catalog_file)


def read_catalog(run: RunDir) -> pd.DataFrame:
    """Reads catalog.parquet. Raises RunError where it is missing or damaged."""
    return _read(run.catalog_file, run)


def training_images(run: RunDir) -> int:
    """How many images train and val have; 0 where there is no catalog. Raises RunError where it is damaged."""
    return int(read_catalog(run)["part"].isin(["train", "val"]).sum()) if run.catalog_file.exists() else 0


def write_audited_images(run: RunDir, images: pd.DataFrame) -> None:
    """Writes audit/images.parquet: one row an image file of both folders."""
    _write(run.images_file, images)


def read_audited_images(run: RunDir) -> pd.DataFrame:
    """Reads audit/images.parquet. Raises RunError where it is missing or damaged."""
    return _read(run.images_file, run)


def _write(path: Path, table: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), temporary, write_page_checksum=True)


def _read(path: Path, run: RunDir) -> pd.DataFrame:
    try:
        table: pd.DataFrame = pq.read_table(path, page_checksum_verification=True).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = "is missing" if not path.exists() else f"is damaged: {str(error).splitlines()[0]}"
        raise RunError(f"{path} {reason}; delete {run.catalog_file}, and `rfray tune` makes it again") from None
    return table
