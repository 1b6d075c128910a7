"""The command as a user meets it: its help, its exit codes, and one message where the input is wrong."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from rfray.cli import app, is_job_server, main
from rfray.errors import InputError
from rfray.evaluation.ensemble import choose_members, write_ensemble
from rfray.evaluation.leaderboard import write_leaderboard
from rfray.store.files import file_digest
from tests.synthetic import FIRST, SECOND, as_predicted, finish_trial, new_run, predictions, small_run

ROOT = Path(__file__).parent.parent
VERBS = list(typer.main.get_command(app).commands)

HEAVY = ("torch", "timm", "albumentations", "ray", "pandas", "sklearn", "matplotlib", "cv2", "optuna")

HELP = """
import sys
from rfray.cli import main
for arguments in [["--help"], *([verb, "--help"] for verb in sys.argv[1:])]:
    sys.argv = ["rfray", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
print("loaded:", *(name for name in {heavy} if name in sys.modules))
"""

SWEEP = """\
name: small
data: {source: demo}
trial:
  backbone: [test_resnet, test_vit]
  pretrained: false
  image_size: 32
  lr: {log: [1e-4, 1e-3]}
  epochs: 3
search: {trials: 4}
ensemble: {top_k: 2}
"""


def rfray(*arguments: str, here: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command in a folder."""
    command = [sys.executable, "-m", "rfray.cli", *arguments]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=240, check=False)


def run_here(words: list[str], here: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs the command in this process: its exit code, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(sys, "argv", ["rfray", *words])
        patch.setattr(signal, "signal", lambda *handler: None)
        try:
            main()
        except SystemExit as end:
            code = end.code
    return int(code or 0), "".join(capfd.readouterr())


def test_help_is_there_for_every_verb_and_loads_nothing_heavy() -> None:
    command = [sys.executable, "-c", HELP.replace("{heavy}", repr(HEAVY)), *VERBS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"rfray {verb} " in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_wrong_sweep_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("epochs: 3", "epochs: three"))
    done = rfray("tune", "sweep.yaml", here=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        'rfray: sweep.yaml:8: trial.epochs: given "three"; allowed: a whole number, without a decimal point\n'
    )
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_an_unknown_verb_is_exit_code_2(tmp_path: Path) -> None:
    done = rfray("tuna", here=tmp_path)
    assert done.returncode == 2
    assert "No such command 'tuna'" in done.stderr


def test_only_an_address_over_http_is_job_server() -> None:
    assert is_job_server("http://127.0.0.1:8265")
    assert is_job_server("https://ray.example.org")
    assert not is_job_server("auto")
    assert not is_job_server("10.0.0.1:6379")
    assert not is_job_server(None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["leaderboard"], "no run in {here}/runs; `rfray tune SWEEP` makes one, or name its folder"),
        (["ensemble", "other"], "{here}/other: not a run folder (no sweep.yaml); `rfray tune SWEEP` makes one"),
    ],
)
def test_without_a_run_there_is_nothing_to_show_or_join(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = rfray(*arguments, here=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"rfray: {reason.replace('{here}', str(tmp_path))}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_leaderboard_is_followed_by_the_verdict(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    write_ensemble(run, choose_members(run, 2))
    write_leaderboard(run)
    run.vouch({file: file_digest(file) for file in run.test_predictions()})
    shown = CliRunner().invoke(app, ["leaderboard", str(run.path)])
    assert shown.exit_code == 0
    assert shown.stdout.startswith("No better than guessing on 6 test images: AUC 1.000 (95 % interval 0.292 to 1.000)")
    _, first, *_ = run.leaderboard_md.read_text().split("\n\n")
    assert first.startswith("**No better than guessing on 6 test images")
    for text in (shown.stdout, run.leaderboard_md.read_text()):
        assert "always-real" in text
    assert "On 6 test images the ensemble is tied with the best single model, 001: AUC" in shown.stdout


def test_the_schema_is_json_and_suggests_names(tmp_path: Path) -> None:
    done = rfray("schema", here=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    properties = json.loads(done.stdout)["$defs"]["TrialAxes"]["properties"]
    assert "resnet50" in properties["backbone"]["examples"]
    assert properties["augmentation"]["examples"] == ["none", "light", "strong", "compression"]


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    done = rfray("tune", "sweep.yaml", "--dry-run", "--set", "search.trials=5", here=tmp_path)
    assert done.returncode == 0, done.stderr
    # 952 crops of the demo data, of which 0.85 are fitted on, by 5 trials of 3 epochs
    for line in (
        f"run folder   {tmp_path}/runs/small",
        "trials       5 by random, scheduler none, ",
        "axis         backbone: test_resnet, test_vit",
        "axis         lr: log from 0.0001 to 0.001",
        "epochs       at most 15 (3 a trial)",
        "images       952 to train and choose with, about 12138 passes over one image",
        "kept         weights of the best 4 trials; ensemble of 2",
    ):
        assert line in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]


def test_every_verb_and_its_options_are_in_the_readme() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("README.md is not written yet")
    text = readme.read_text()
    shown = {verb: one for verb, one in typer.main.get_command(app).commands.items() if not one.hidden}
    for verb, command in shown.items():
        assert f"rfray {verb}" in text
        for option in (name for part in command.params for name in part.opts if name.startswith("--")):
            assert option in text, f"{option} of rfray {verb}"


def write_images(folder: Path, count: int, suffix: str, seed: int) -> None:
    """Smooth pictures of their own; the format is all that differs between folders."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.{suffix}")


@pytest.fixture(scope="module")
def given_away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images are JPEG, fake ones PNG."""
    folder = tmp_path_factory.mktemp("given-away")
    for part, count in (("train", 40), ("test", 10)):
        write_images(folder / part / "real", count, "jpg", seed=count)
        write_images(folder / part / "fake", count, "png", seed=count + 1)
    return folder


@pytest.mark.slow
def test_a_sweep_over_images_whose_files_tell_is_stopped(given_away: Path, tmp_path: Path) -> None:
    sweep = SWEEP.replace("source: demo", f"train: {given_away}/train, test: {given_away}/test")
    (tmp_path / "sweep.yaml").write_text(sweep)
    done = rfray("tune", "sweep.yaml", here=tmp_path)
    assert done.returncode == 2
    assert "the audit of the images has found what would make the results mislead" in done.stderr
    assert "--accept-audit" in done.stderr
    assert "AUC 1.00" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs/small/trials").exists()
    assert json.loads((tmp_path / "runs/small/audit.json").read_text())["baseline"]["auc"] > 0.95
    # the sweep brings all of them through one codec: no error any more
    done = rfray(
        "audit", "sweep.yaml", "--set", "data.reencode={quality: 90, size: 64}", "--set", "name=b", here=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "keeps models from seeing it" in " ".join(done.stdout.split())


def test_the_audit_of_a_folder_names_copies_across_its_parts(given_away: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for part, seed in (("train", 0), ("test", 2)):
        write_images(folder / part / "real", 30, "jpg", seed)
        write_images(folder / part / "fake", 30, "jpg", seed + 1)
    shutil.copy(folder / "train/real/003.jpg", folder / "test/real/copy.jpg")
    with Image.open(folder / "train/fake/004.jpg") as picture:
        picture.save(folder / "test/fake/again.jpg", quality=50)
    done = rfray("audit", "images", here=tmp_path)
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert "Error: 2 of 62 test images are also among the training images (1 the same file, 1 re-encoded)" in said
    assert "test/fake/again.jpg and train/fake/004.jpg" in said
    assert "on sources that it has not seen can't be told: no class has images of two known sources" in said
    found = json.loads((tmp_path / "audits/images/audit.json").read_text())
    assert [finding["code"] for finding in found["findings"] if finding["grade"] == "error"] == ["test-in-training"]
    assert len(list((tmp_path / "audits/images/audit").glob("*.*g"))) == 5


def test_a_folder_without_test_images_is_audited_by_itself(given_away: Path, tmp_path: Path) -> None:
    done = rfray("audit", str(given_away / "train"), here=tmp_path)
    assert done.returncode == 2, done.stderr  # its files tell
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "audits/train/audit").glob("*.*g"))) == 5


def test_an_unknown_method_is_exit_code_2_and_names_the_choices(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    done = rfray("ensemble", "run", "--method", "weigthed", here=tmp_path)
    assert done.returncode == 2
    assert "--method weigthed: no such method; allowed: weighted, soft, calibrated" in done.stderr
    assert not run.leaderboard_csv.exists()


def test_runs_are_compared_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, said in (("first", FIRST), ("second", SECOND)):
        run = new_run(tmp_path / name)
        finish_trial(run, "001", 0.9, predictions(SECOND), predictions(said))
        as_predicted(run)
        write_ensemble(run, choose_members(run, 1))
        write_leaderboard(run)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["compare", "first", "second", "--top", "1", "--out", "both.csv"])
    assert done.exit_code == 0, done.output
    for number, name in enumerate(("first", "second")):  # before anything else
        assert done.stdout.splitlines()[number].startswith(f"{name}: No better than guessing on 6 test images: AUC ")
    assert "2 runs on 6 test images, ranked by val_auc" in done.stdout
    assert "On 6 test images the ensemble of first is tied with that of second: AUC 0.7778 against" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["both.csv", "both-tests.csv"]
    for words, said in [
        (["first"], f"given {tmp_path}/first alone; name two runs or more"),
        (["first", "third"], f"{tmp_path}/third: not a run folder (no sweep.yaml); `rfray tune SWEEP` makes one"),
        (["first", "second", "--out", "x.txt"], "--out x.txt: given .txt; allowed: .csv, .md"),
    ]:
        done = CliRunner().invoke(app, ["compare", *words])
        assert isinstance(done.exception, InputError)
        assert str(done.exception) == said


def test_the_options_of_ensemble_win_over_the_sweep(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    for trial_id, score, backbone in [("a", 0.9, "test_vit"), ("b", 0.8, "test_vit"), ("c", 0.7, "test_resnet")]:
        finish_trial(run, trial_id, score, predictions(FIRST), predictions(SECOND), backbone=backbone)
    as_predicted(run)
    words = ["ensemble", str(run.path), "--diverse", "1", "--method", "weighted", "--method", "calibrated"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "Only 2 trials with weights are there to choose from" in done.output
    assert "ensemble-weighted is a alone: on the val images no mixture has a better auc" in done.output
    written = json.loads(run.ensemble_file.read_text())
    votes = [(vote["name"], vote["members"]) for vote in (written, *written["others"])]
    assert votes == [
        ("ensemble-weighted", ["a"]),
        ("ensemble-calibrated", ["a", "c"]),
        ("ensemble", ["a", "c"]),
    ]
    assert "| ensemble-calibrated |" in run.leaderboard_md.read_text()
    # what an earlier call was asked for is not remembered
    CliRunner().invoke(app, ["ensemble", str(run.path)], catch_exceptions=False)
    written = json.loads(run.ensemble_file.read_text())
    assert (written["name"], written["members"], written["others"]) == ("ensemble", ["a", "b", "c"], [])
    assert "ensemble-calibrated" not in run.leaderboard_md.read_text()


def test_a_clearly_worse_trial_is_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    run, labels = new_run(tmp_path / "run"), [0] * 20 + [1] * 20
    right = np.linspace(0, 1, 40)
    worse = np.where(np.arange(40) % 2, right, right[::-1])
    finish_trial(run, "a", 0.9, predictions(right, labels), predictions(SECOND))
    finish_trial(run, "b", 0.8, predictions(worse, labels), predictions(FIRST))
    as_predicted(run)
    for words, members in [(["--leave-out-worse"], ["a"]), (["--keep-worse"], ["a", "b"]), ([], ["a", "b"])]:
        done = CliRunner().invoke(app, ["ensemble", str(run.path), *words], catch_exceptions=False)
        assert ("b is clearly worse than a on the val images (p = " in done.output) == (members == ["a"])
        assert "are there to choose from, so the ensemble has" in done.output
        assert json.loads(run.ensemble_file.read_text())["members"] == members


KEY = "s3://AKIA0:canary@bucket/x"


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "sweep.yaml", "--set", f"data.train={KEY}"],
        ["tune", "escaped.json"],
        ["tune", "sweep.yaml", "--run", KEY],
        ["tune", "sweep.yaml", "--address", "http://me:canary@127.0.0.1:1"],
        ["predict", KEY, "x.jpg"],
        ["predict", "x", KEY],
        ["leaderboard", KEY],
        ["compare", "x", KEY],
        ["fetch", KEY],
    ],
)
def test_a_key_in_an_address_is_not_shown(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "escaped.json").write_text(json.dumps({"data": {"train": KEY, "test": 0.2}}).replace("/", "\\/"))
    code, said = run_here(words, tmp_path, capfd)
    assert code == 2
    assert "a key in an address would be kept" in said
    assert "canary" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["escaped.json", "sweep.yaml"]
