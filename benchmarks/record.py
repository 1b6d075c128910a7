"""Figures -> results/<name>.json (with what they were measured on), and the table in README.md."""

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.figures import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE / "README.md"
BEGIN, END = "<!-- table: written by python -m benchmarks -->", "<!-- end of table -->"
PACKAGES = (
    "rfray", "ray", "torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "pillow", "numpy",
    "pandas", "pyarrow", "scikit-learn",
)  # fmt: skip


def write_result(folder: Path, name: str, sizes: Mapping[str, int], figures: Iterable[Figure]) -> Path:
    """Writes <folder>/<name>.json: every measurement, n, sizes, date, hardware and versions."""
    record = {
        "benchmark": name,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "sizes": dict(sizes),
        "hardware": hardware(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        "figures": [
            {**asdict(figure), "n": len(figure.rfray_seconds), "ratio": figure.ratio, "met": figure.met}
            for figure in figures
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def table(folder: Path, names: Iterable[str]) -> str:
    """The results in `folder` as Markdown, a row for each figure, in the order of `names`.

    After each <name>.json come the <name>-<data>.json of the same benchmark on other images.
    """
    lines = [
        "| benchmark | what | rfray | compared with | its time | ratio | goal | n | measured |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for name in names:
        for path in (folder / f"{name}.json", *sorted(folder.glob(f"{name}-*.json"))):
            if path.exists():
                record = json.loads(path.read_text())
                lines += [_row(record, figure) for figure in record["figures"]]
    return "\n".join(lines)


def write_table(readme: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Puts the table between the two comments of the README that say where it stands."""
    begin, end = marks
    before, rest = readme.read_text().split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def hardware() -> dict[str, Any]:
    """Processor, cores, memory (GB) and GPUs of this machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "gpus": _gpus(),
    }


def _row(record: Mapping[str, Any], figure: Mapping[str, Any]) -> str:
    machine = record["hardware"]
    goal = ""
    if figure["met"] is not None:
        wanted = f"< {figure['most_seconds']:g} s" if figure["most_seconds"] else f"≥ {figure['least_ratio']:g}"
        goal = f"{wanted} {'met' if figure['met'] else 'missed'}"
    cells = (
        f"`{record['benchmark']}`",
        figure["what"] + (f" ({figure['note']})" if figure["note"] else ""),
        _seconds(figure["rfray_seconds"]),
        figure["reference"],
        _seconds(figure["reference_seconds"]),
        f"**{figure['ratio']:.2f}**",
        goal,
        str(figure["n"]),
        f"{record['date'][:10]}, " + (", ".join(machine["gpus"]) or f"{machine['cores']} cores"),
    )
    return f"| {' | '.join(cells)} |"


def _seconds(measured: list[float]) -> str:
    middle = median(measured)
    if math.isinf(middle):
        return "never"
    return f"{middle:.3f} s" if middle < 1 else f"{middle:.1f} s"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
