"""The benchmarks: each is documented, and a tiny form of them runs and leaves a whole record. No speed is asserted."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, FULL, main
from benchmarks.figures import Figure
from benchmarks.record import BEGIN, END, README, write_table


def test_every_benchmark_is_documented() -> None:
    text = README.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    prose = text.split(END)[1]
    assert [name for name in BENCHMARKS if f"**`{name}`**" not in prose] == []
    assert set(FULL) <= set(BENCHMARKS)


def test_list_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cash"])
    assert "no benchmark cash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cache", {"rounds": 1, "images": 8, "large_images": 2}),
        pytest.param("throughput", {"rounds": 1, "images": 80}, marks=pytest.mark.slow),
        ("predicting", {"rounds": 1, "images": 6}),
        ("leaderboard", {"rounds": 1, "trials": 2, "images": 20}),
        pytest.param("votes", {"rounds": 1, "trials": 2, "images": 20}, marks=pytest.mark.slow),
        ("intervals", {"rounds": 1, "rows": 2, "images": 20}),
        pytest.param(
            "serving",
            {"rounds": 1, "clients": 4, "seconds": 1},
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not shutil.which("wrk"), reason="no wrk here: apt install wrk"),
            ],
        ),
        pytest.param(
            "scale",
            {"rounds": 1, "trials": 3, "epochs": 2, "slots": 2, "sleep_ms": 50, "images": 20},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_tiny_form_leaves_a_record(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    readme = README.read_text()
    options = [word for size, number in sizes.items() for word in ("--set", f"{size}={number}")]
    main([name, "--results", str(tmp_path), *options])
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["benchmark"] == name
    assert record["sizes"] == sizes
    assert {"date", "hardware", "versions"} <= set(record)
    for figure in record["figures"]:
        assert figure["n"] == len(figure["rfray_seconds"]) == len(figure["reference_seconds"]) == 1
        assert figure["ratio"] == figure["reference_seconds"][0] / figure["rfray_seconds"][0]
    assert README.read_text() == readme


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    figure = Figure("a", "b", [1.0, 2.0, 10.0], [3.0, 4.0, 10.0], least_ratio=2.0)  # 3, 2 and 1 times as fast
    assert figure.ratio == 2
    assert figure.met
    assert Figure("a", "b", [11.0], [1.0], most_seconds=10).met is False
    assert Figure("a", "b", [1.0], [1.0]).met is None


def test_the_table_replaces_the_one_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for text in ("first", "second"):
        write_table(readme, text)
    assert readme.read_text() == f"above\n{BEGIN}\n\nsecond\n\n{END}\nbelow\n"
