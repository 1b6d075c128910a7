"""The package: what `import rfray` offers and loads, and a wheel that runs where there is no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

import rfray

ROOT = Path(__file__).parent.parent

SURFACE = ["Detector", "Leaderboard", "Run", "Sweep", "__version__", "errors", "load", "open", "tune"]

SWEEP = """\
name: small
data: {source: demo}
trial: {backbone: test_resnet, pretrained: false, image_size: 32, epochs: 1}
search: {trials: 1}
"""

USE = """
import rfray
from pathlib import Path
run = rfray.tune("sweep.yaml", verbose=False)
board = run.ensemble(top_k=1, formats=["csv"], verbose=False)
again = rfray.open(run.path).leaderboard()
assert type(again) is type(board) is rfray.Leaderboard
assert board["name"].tolist() == again["name"].tolist()
assert board.best["name"] == board["name"][0] and "ensemble" in board["name"].tolist()
detector = rfray.load(run.path)
assert detector.members == board.loc[board["kind"] == "model", "name"].tolist()
files = sorted(Path(run.sweep.data.cache.dir).glob("demo-*/test/real/*/*.jpg"))[:3]
table = detector.predict(files)
assert table["path"].tolist() == [str(file) for file in files]
assert ((table["p_fake"] >= detector.threshold) == (table["verdict"] == "fake")).all()
assert detector.predict_proba(files).sum(axis=1).round(12).tolist() == [1.0] * 3
print(rfray.__file__, rfray.__version__)
"""


def test_the_public_names_are_these() -> None:
    assert rfray.__all__ == dir(rfray) == SURFACE
    for name in SURFACE:
        assert getattr(rfray, name) is not None
    assert rfray.__version__ == version("rfray")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rfray.nonsense


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "timm", "albumentations", "pandas", "numpy", "sklearn", "matplotlib", "pydantic")
    program = f"import sys, rfray; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
def test_a_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}

    def run(*words: Path | str) -> str:
        done = subprocess.run(words, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    source = tmp_path / "source"  # a build leaves files beside what it builds
    shutil.copytree(ROOT / "rfray", source / "rfray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("rfray-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    # its dependencies are those that are here; the checkout itself is not among them
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    sweep = SWEEP.replace("source: demo", f"source: demo, cache: {{dir: {tmp_path}/cache}}")
    (tmp_path / "sweep.yaml").write_text(sweep)
    file, number = run(python, "-c", USE).split()[-2:]
    assert Path(file).is_relative_to(tmp_path / "venv")
    assert number == rfray.__version__
    assert "Leaderboard, ranked by val_auc" in run(tmp_path / "venv/bin/rfray", "leaderboard")
