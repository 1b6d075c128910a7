"""A bundle of three untrained models -> how long clients of `rfray serve` wait, and how many images it judges."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure, timed
from benchmarks.pictures import write_pictures
from rfray.store.run_dir import RunDir
from tests.synthetic import FIRST, SECOND, as_predicted, finish_trial, new_run, predictions

BACKBONES = ("lcnet_050", "test_resnet", "mobilenetv3_small_050")
SIDE = 96
BATCH = 64
"""Images that the server predicts at once, at the most."""
ALLOWANCE = 3
"""The slowest of a hundred clients may wait so many times as long as the batches before it take."""
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=rfray"
wrk.body = io.open("{body}", "rb"):read("*a")
function done(summary, latency, requests)
  local errors = 0
  for _, count in pairs(summary.errors) do errors = errors + count end
  io.write(string.format('{{"median": %f, "p99": %f, "requests": %d, "errors": %d, "seconds": %f}}\\n',
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, summary.requests, errors, summary.duration / 1e6))
end
"""


def serving(folder: Path, rounds: int = 1, clients: int = 200, seconds: int = 20) -> list[Figure]:
    """Clients that each send an image as soon as the last one is answered, against single requests of whole batches."""
    pictures = sorted(write_pictures(folder / "pictures", BATCH).rglob("*.jpg"))
    run, queued = _bundle(folder / "run"), ceil(clients / BATCH)
    waits, bounds, served, bare, alone, crowded = [], [], [], [], [], []
    with _served(run) as address:
        for _ in range(rounds):
            single = _load(folder, address, pictures[:1], 1, max(1, seconds // 4))
            batch = _load(folder, address, pictures, 1, max(1, seconds // 4))
            many = _load(folder, address, pictures[:1], clients, seconds)
            bounds.append(ALLOWANCE * queued * batch["median"])
            waits.append(many["p99"] if not many["errors"] else many["seconds"])  # no answer is none within all of it
            served.append(1000 * many["seconds"] / many["requests"])
            bare.append(1000 / BATCH * _detection(run, pictures))
            alone.append(single["median"])
            crowded.append(many)
            print(f"  {waits[-1]:9.3f} s p99 {bounds[-1]:9.3f} s bound; {many}", flush=True)
    requests, errors = (sum(int(many[name]) for many in crowded) for name in ("requests", "errors"))
    usual = median(many["median"] for many in crowded)
    note = f"{errors} errors in {requests} requests, median {usual:.2f} s; one client alone {median(alone):.3f} s"
    each = f"{len(BACKBONES)} models at {SIDE} px, JPEGs of 256 px"
    return [
        Figure(
            f"p99 of {clients} clients with an image each, for {seconds} s, {each}",
            f"{ALLOWANCE} x {queued} requests of {BATCH} images",
            waits,
            bounds,
            least_ratio=1,
            note=note,
        ),
        Figure(
            f"1,000 images, by {clients} clients",
            "the same by `detect`, in one process",
            served,
            bare,
            note=f"{1000 / median(served):.0f} images/s",
        ),
    ]


def _bundle(folder: Path) -> RunDir:
    run = new_run(folder)
    for number, backbone in enumerate(BACKBONES):
        setting = {"backbone": backbone, "pretrained": False, "image_size": SIDE}
        finish_trial(run, f"{number:05d}-abcdef", 0.6, predictions(FIRST), predictions(SECOND), **setting)
    as_predicted(run)
    command = [sys.executable, "-m", "rfray.cli", "ensemble", str(run.path), "--top-k", str(len(BACKBONES))]
    subprocess.run([*command, "--format", "csv"], check=True, capture_output=True)
    return run


@contextmanager
def _served(run: RunDir) -> Iterator[str]:
    command = [sys.executable, "-m", "rfray.cli", "serve", str(run.path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[4]  # Serving 3 models at http://…
        finally:
            server.terminate()


def _load(folder: Path, address: str, pictures: list[Path], clients: int, seconds: int) -> dict[str, float]:
    """What wrk measures of requests with all of these pictures."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("serving is measured with wrk: apt install wrk")
    head = b'--rfray\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\n%s\r\n'
    body, script = folder / "body", folder / "script.lua"
    parts = (head % (picture.name.encode(), picture.read_bytes()) for picture in pictures)
    body.write_bytes(b"".join(parts) + b"--rfray--\r\n")
    script.write_text(SCRIPT.format(body=body))
    command = [wrk, f"-c{clients}", "-t1", f"-d{seconds}", "--timeout=120", f"-s{script}", f"{address}/predict"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])  # type: ignore[no-any-return]


def _detection(run: RunDir, pictures: list[Path]) -> float:
    """Seconds for the files, read by as many threads as there are cores; the second time, as the first one is slow."""
    from rfray.models.bundle import detect, load_bundle

    bundle = load_bundle(run.path)

    def work() -> None:
        for _ in detect(bundle, [str(picture) for picture in pictures] * 4, BATCH, os.cpu_count() or 1):
            pass

    work()
    return timed(work) / 4
