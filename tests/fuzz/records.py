"""Files of a run, a bundle or a folder of predictions -> what the commands say of them, or an error of rfray's own.

Some are damaged; others are rewritten, and every digest made to fit. The commands run in this process as `rfray` would.
"""

import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from ruamel.yaml import YAML
from safetensors.numpy import load, save

import rfray.cluster.connect
import rfray.inference.bulk
from rfray.cli import main
from rfray.errors import ClusterError, RfrayError
from rfray.evaluation.left_out import best_left_out
from rfray.inference.bulk import claim, vouch
from rfray.report.left_out import heat_map
from rfray.report.page import write_page
from rfray.spec.budget_defaults import read_budget
from rfray.spec.sweep_file import RESOLVED, resolved_text
from rfray.store.ownership import lease
from rfray.store.records import Measured, Measurements, Spent, Start, WarmStart, write_record
from rfray.store.run_dir import RunDir
from rfray.store.sealed import MARK, SEAL, seal, table_bytes
from rfray.store.storage import Storage
from rfray.tuning.budget import enough
from rfray.tuning.measuring import known_measurements
from rfray.tuning.recorder import remove_leftovers, repair, results
from rfray.tuning.warm_start import preview_warm_start, read_warm_start, warm_start
from tests.fuzz.mutate import WORDS, of_bytes, of_table, of_text, of_value, several
from tests.fuzz.runner import Check, Input, Make
from tests.pictures import write_folder
from tests.synthetic import add_probe, as_predicted, small_run
from tests.two_models import concluded, two_models

LONGEST = 100_000
"""Characters of what a command that fails says (our choice): the longest text put into a file is said once."""
BUDGET = read_budget("8m")


def prepare(folder: Path) -> tuple[Make, Check]:
    """See the package."""
    os.fsync = lambda _: None  # nothing here has to outlive the machine
    made = folder / "made"
    _write_runs(made)
    for module in (rfray.cluster.connect, rfray.inference.bulk):
        module.connected = _no_ray  # type: ignore[attr-defined]
    files = sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file())
    files = [file for file in files if not file.endswith((".png", ".jpg", ".html", ".lock", ".holder", ".bmp", ".md"))]

    def make(random: Random) -> Input:
        name = random.choice(files)
        if random.random() < 0.3:
            other = (made / random.choice(files)).read_bytes()
            return Input(f"damaged/{name}", of_bytes(random, (made / name).read_bytes(), [other]))
        return Input(f"rewritten/{name}", _rewritten(random, made / name))

    def check(given: Input) -> None:
        shutil.rmtree("work", ignore_errors=True)
        shutil.copytree(made, "work", copy_function=os.link)  # every writer of rfray makes new files
        how, _, name = given.target.partition("/")
        _write(Path("work", name), given.data)
        if how == "rewritten":
            _make_fit(Path("work", name))
        commands = COMMANDS[Path(name).parts[0]]
        commands[hashlib.sha256(given.data).digest()[0] % len(commands)]()

    return make, check


def _write_runs(made: Path) -> None:
    """small: trials that ended and one that did not; whole: a run with a bundle; shards: what it predicted."""
    small = concluded(as_predicted(small_run(made / "small")))
    trial = small.trial("005")
    trial.write_starts([Start("s", "0", "here", "1", "t")])
    start = trial.start().trial
    one = {"setting": start.digest, "backbone": "test_resnet", "image_size": 32, "device": "cpu", "device_memory": 0}
    measured = Measured(**one, memory=0, host_memory=10**8, micro_batch=8, images_per_second=10.0)
    write_record(small.measured_file, Measurements(measured=[measured]))
    write_record(small.budget_file, Spent(clock=10, gpus=1))
    write_record(small.warm_start_file, WarmStart(lines=["Warm start from x: 1 taken over"]))
    small.unreadable_file.write_text("path,reason,folder,label,digest,part\n")
    pictures = made / "pictures"
    for number, part in enumerate(("train", "test")):
        write_folder(pictures / part, per_class=12, seed=number)
    _write_whole(made, pictures)
    shards = made / "shards"
    claim(shards, str(made / "whole"), ["work/pictures/test"])
    paths = [str(file) for file in sorted((pictures / "test").rglob("*.bmp"))]
    table = pa.table({"path": paths, "p_fake": [0.5] * len(paths), "verdict": ["real"] * len(paths)})
    (shards / "part-000000.parquet").write_bytes(table_bytes(table))
    vouch(shards, 0)
    (made / "lease").mkdir()
    (made / "lease" / ".lock").write_text(json.dumps({"id": "a", "user": "b", "beat": 1.0}))


def _write_whole(made: Path, pictures: Path) -> None:
    """A run with a bundle, a probe, attributes, a list of images that were left out, and an evaluation."""
    known, unwanted = Path("known.csv"), Path("unwanted.txt")
    files = sorted(str(file.relative_to(pictures / "train")) for file in (pictures / "train").rglob("*.bmp"))
    rows = [f"{file},{number % 2},{number}" for number, file in enumerate(files)]
    known.write_text("\n".join(["path,even,number", *rows]))
    unwanted.write_text(files[0])
    run = two_models(made / "made", pictures, attributes=str(known), leave_out=str(unwanted))
    add_probe(run)
    concluded(run).path.rename(made / "whole")
    shutil.rmtree(made / "made")
    shutil.copytree(made, "work")
    _rfray(*EVALUATE)()
    Path("work/whole/evaluations").rename(made / "whole" / "evaluations")


def _no_ray(*_: object, **__: object) -> Any:
    raise ClusterError("no Ray is started here")


def _rfray(*words: str) -> Callable[[], None]:
    def run() -> None:
        said, code = io.StringIO(), 0
        with patch.object(sys, "argv", ["rfray", *words]), redirect_stdout(said), redirect_stderr(said):
            try:
                main()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        text = said.getvalue()
        assert code in (0, 1, 2), text
        assert "Traceback" not in text, text
        if code:
            assert f"\n{text}".count("\nrfray: ") == 1, text
            assert len(text) < LONGEST, text
        assert "\x1b[31m" not in text
        assert "\u202e" not in text

    return run


def _resume() -> None:
    """What `rfray tune` reads before the first trial starts."""
    run = RunDir("work/small")
    with suppress(RfrayError):
        read_warm_start(run)
    with suppress(RfrayError):
        known_measurements(run)
    with suppress(RfrayError):
        enough(run, BUDGET)
    with suppress(RfrayError):
        repair(run)
        remove_leftovers(run, run.sweep(), results(run))


def _warm_start() -> None:
    """What a sweep of somebody else's takes from the run."""
    original = RunDir("made/small")
    sweep = original.sweep()
    search = sweep.search.model_copy(update={"warm_start": ["work/small"], "trials": 5})
    own, console = RunDir("work/own"), Console(file=io.StringIO())
    own.path.mkdir()
    own.sweep_file.write_text(resolved_text(sweep))
    with suppress(RfrayError):
        preview_warm_start(own, sweep.model_copy(update={"search": search}))
    own.write_catalog(original.catalog())
    with suppress(RfrayError):
        warm_start(own, sweep.model_copy(update={"search": search}), console)


def _lease() -> None:
    with suppress(RfrayError), lease(Storage(f"file://{Path('work/lease').absolute()}"), "me", Path("work/note")):
        pass


def _page() -> None:
    """What the page of a run shows of its records, and the heat map of sources that were left out."""
    run = RunDir("work/whole")
    with suppress(RfrayError):
        write_page(run)
    with suppress(RfrayError):
        if (best := best_left_out(run)) is not None and best.found.pairs:
            heat_map(best.found, best.backbone)


EVALUATE = ("evaluate", "work/whole", "work/pictures/test")
COMMANDS = {
    "small": (
        _rfray("leaderboard", "work/small"),
        _rfray("ensemble", "work/small", "--format", "csv"),
        _resume,
        _warm_start,
    ),
    "whole": (
        _rfray("leaderboard", "work/whole"),
        _rfray("compare", "work/whole", "made/whole", "--out", "work/rows.csv"),
        _rfray("predict", "work/whole", "work/pictures/test/real/000.bmp"),
        _rfray("audit", "work/whole"),
        _page,
        _rfray(*EVALUATE),
    ),
    "shards": (_rfray("predict", "work/whole", "work/pictures/test", "--out", "work/shards/"),),
    "lease": (_lease,),
}


def _rewritten(random: Random, file: Path) -> bytes:
    """Another content of the same kind of file, which its digests do not fit yet."""
    data = file.read_bytes()
    match file.suffix:
        case ".json":
            return _json(of_value(random, json.loads(data)))
        case ".yaml":
            return _json(of_value(random, YAML(typ="safe", pure=True).load(data)))
        case ".parquet":
            return of_table(random, pq.read_table(io.BytesIO(data)), SEAL)
        case ".safetensors":
            return _other_tensors(random, load(data))
        case _:
            text = of_text(random, data.decode(), [data.decode()], [*WORDS, ",", ",,", "\n", "\r", "1e999"])
            return text.encode("utf-8", "surrogatepass")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _other_tensors(random: Random, tensors: dict[str, np.ndarray]) -> bytes:
    for _ in range(several(random)):
        name = random.choice(list(tensors)) if tensors else "x"
        tensor = tensors.get(name, np.zeros(3, np.float32))
        match random.randrange(5):
            case 0:
                tensors.pop(name, None)
            case 1:
                tensors[random.choice((f"{name}x", "", "classifier.weight", "head.linear.weight"))] = tensor
            case 2:
                tensors[name] = tensor.ravel()[: random.randrange(tensor.size + 1)].copy()
            case 3:
                tensors[name] = tensor.astype(random.choice((np.float64, np.int8, np.float16, np.bool_)))
            case _:
                tensors[name] = np.full_like(tensor, random.choice((0, 1, -1)))
    return save(tensors, random.choice((SEAL, {"tta": "flip"}, {}, {"epoch": "x"})))


def _write(file: Path, data: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def _make_fit(file: Path) -> None:
    """Makes all digests fit that vouch for the content of a file."""
    data = file.read_bytes()
    if file.suffix in (".parquet", ".safetensors") and MARK in data:
        _write(file, seal(data))
    elif file.suffix == ".yaml":
        _write(file, f"{RESOLVED}{hashlib.sha256(data).hexdigest()}\n".encode() + data)
    elif file.suffix == ".json" and file.name != "config.json":
        fields = json.loads(data)
        if isinstance(fields, dict):
            fields.pop("sha256", None)
            digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
            _write(file, _json({**fields, "sha256": digest}))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if file.name.startswith("part-"):
        _write(file.with_name("shards.csv"), f"0,{digest}\n".encode())
    for folder in file.parents:
        for name in ("result.json", "ensemble.json", "digests.json", "plan.json"):
            _vouch(folder / name, file, digest)


def _vouch(record: Path, file: Path, digest: str) -> None:
    """Puts the digest of a file into a record that has one of it."""
    if record == file or not record.exists():
        return
    fields = json.loads(record.read_text())
    known = fields["files"] if "files" in fields else fields["bundle"]["files"]
    name = file.relative_to(record.parent).as_posix()
    if isinstance(known, dict) and name in known:
        known[name] = [digest] if isinstance(known[name], list) else digest
    elif isinstance(known, str) and file.name == "files.parquet":
        fields["files"] = digest
    else:
        return
    _write(record, _json(fields))
    _make_fit(record)
