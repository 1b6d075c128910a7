"""Image files -> the speed of `rfray predict`'s members against their bare forward passes. Needs no Ray."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figure, alternate
from benchmarks.pictures import write_pictures

if TYPE_CHECKING:
    from rfray.models.bundle import LoadedBundle

# torch and timm are imported inside the functions: a list of the benchmarks needs neither.

MEMBERS = {"tf_efficientnet_lite0": 224, "mobilenetv3_large_100": 224, "resnet18": 192}
"""Backbone -> side of its pictures: an ensemble as sweeps find them, with two geometries."""
BATCH = 64


def predicting(folder: Path, rounds: int = 3, images: int | None = None) -> list[Figure]:
    """Time to predict `images` JPEGs of 256 px (by default 8,192 on a GPU, 384 on a CPU) with three members."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command has it, for both sides
    import torch

    from rfray.models.bundle import detect

    gpu, cores = torch.cuda.is_available(), os.cpu_count() or 1
    count = images or (8192 if gpu else 384)
    paths = sorted(str(path) for path in write_pictures(folder / "pictures", count).rglob("*.jpg"))
    bundle = _bundle()

    def real() -> float:
        began = time.perf_counter()
        for table, _ in detect(bundle, paths, BATCH, cores):
            assert not any(table["reason"])
        return time.perf_counter() - began

    def bare() -> float:
        batches = [
            torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
            for side in MEMBERS.values()
        ]
        began = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, len(paths), BATCH):
                size = min(BATCH, len(paths) - first)
                for detector, batch in zip(bundle.detectors, batches, strict=True):
                    p_fake = detector(batch[:size])
            p_fake.cpu()
        return time.perf_counter() - began

    seconds, reference_seconds = alternate(real, bare, rounds)
    fastest = len(paths) / min(seconds)
    what = f"predict {len(paths)} JPEGs of 256 px with {', '.join(MEMBERS)} ({fastest:.0f} images/s)"
    return [Figure(what, "the members' forward passes alone", seconds, reference_seconds, least_ratio=0.9)]


def _bundle() -> "LoadedBundle":
    """A vote of models that know nothing."""
    from rfray.data.geometry import Geometry
    from rfray.models.build import build_model
    from rfray.models.bundle import LoadedBundle
    from rfray.models.inference import Predictor, device_and_type
    from rfray.spec.sweep import CLASSES
    from rfray.spec.trial import Trial
    from rfray.store.bundle_record import Ensemble

    detectors, geometries = [], []
    device, dtype = device_and_type("auto")
    for backbone, side in MEMBERS.items():
        model, normalise = build_model(Trial(backbone=backbone, pretrained=False, image_size=side))
        detectors.append(Predictor(model.to(device).eval(), normalise, device, dtype))
        geometries.append(Geometry("scale", side, None))
    count = len(MEMBERS)
    vote = Ensemble(
        name="ensemble",
        members=list(MEMBERS),
        weights=[1 / count] * count,
        temperatures=[1.0] * count,
        threshold=0.5,
        val_score=None,
        classes=list(CLASSES),
        metric="auc",
        others=[],
    )
    return LoadedBundle(vote, detectors, geometries)
