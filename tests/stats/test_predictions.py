"""rfray.stats.predictions: what is written is what is read; what can't be is refused."""

import numpy as np
import pyarrow as pa
import pytest

from rfray.errors import RunError
from rfray.stats.predictions import Predictions, predictions_metadata, read_predictions, write_predictions
from rfray.store.sealed import table_bytes
from tests.synthetic import FIRST, LABELS, predictions


def test_reads_back_exactly_what_was_written(tmp_path):
    path = tmp_path / "predictions-val.parquet"
    write_predictions(path, predictions([0.1 + 0.2, 1 / 3, 0.0, 1.0, 5e-324, 0.9]), {"weights": "abc"})
    found = read_predictions(path)
    assert found.p_fake.tolist() == [0.1 + 0.2, 1 / 3, 0.0, 1.0, 5e-324, 0.9]
    assert found.labels.tolist() == LABELS
    assert found.ids.tolist()[0] == "real/0.jpg"
    assert (found.labels.dtype, found.p_fake.dtype) == (np.int8, np.float64)
    assert predictions_metadata(path) == {"weights": "abc"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_ids_are_text_even_where_they_look_like_numbers(tmp_path):
    path = tmp_path / "predictions-val.parquet"
    given = Predictions(np.array(["007", "1e5"]), np.array([0, 1], dtype=np.int8), np.array([0.2, 0.4]))
    write_predictions(path, given, {})
    assert read_predictions(path).ids.tolist() == ["007", "1e5"]


@pytest.mark.parametrize("p_fake", [[-0.1] * 6, [1.1] * 6, [float("nan")] * 6, [0.5] * 5])
def test_refuses_what_is_no_probability_or_another_length(p_fake):
    with pytest.raises(ValueError, match="probabilities"):
        Predictions(predictions(FIRST).ids, predictions(FIRST).labels, np.array(p_fake))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(RunError, match=r"nothing\.parquet"):
        read_predictions(tmp_path / "nothing.parquet")
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(RunError, match=r"damaged\.parquet"):
        read_predictions(damaged)
    assert predictions_metadata(damaged) == {}
    assert predictions_metadata(tmp_path / "nothing.parquet") == {}


@pytest.mark.parametrize(
    "columns",
    [
        {"id": ["a", None], "label": pa.array([0, 1], pa.int8()), "p_fake": [0.1, 0.9]},
        {"id": ["a", "b"], "label": pa.array([0, None], pa.int8()), "p_fake": [0.1, 0.9]},
        {"id": ["a", "b"], "label": ["real", "fake"], "p_fake": [0.1, 0.9]},
        {"id": ["a", "b"], "label": pa.array([0, 7], pa.int8()), "p_fake": [0.1, 0.9]},
        {"id": [b"a", b"b"], "label": pa.array([0, 1], pa.int8()), "p_fake": [0.1, 0.9]},
        {"id": ["a", "b"], "label": pa.array([0, 1], pa.int8()), "p_fake": [None, 0.9]},
    ],
)
def test_a_table_whose_digest_fits_must_also_hold_predictions(columns, tmp_path):
    (tmp_path / "other.parquet").write_bytes(table_bytes(pa.table(columns)))
    with pytest.raises(RunError, match=r"other\.parquet: not a readable predictions file: "):
        read_predictions(tmp_path / "other.parquet")
