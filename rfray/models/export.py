"""a bundle -> one file with the whole ensemble in it: ONNX or TorchScript, held against the bundle before it is left.

What goes in are the squares that the members see, (B, 3, S, S) uint8 RGB, an input for every geometry that differs
(`square_96_scale`, say); out come p_fake (B,) and the members' scores (B, k), float32. B is free. Decoding, `reencode`
and scaling stay outside: the file's metadata say what they are, with classes, threshold and band.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rfray.data.geometry import Geometry
from rfray.errors import InputError, RfrayError, nearest_first
from rfray.models.bundle import LoadedBundle
from rfray.spec.sweep import Reencode
from rfray.stats.voting import joined
from rfray.store.files import replacing

TOLERANCE = 1e-4
"""By how much a probability of the file may differ from the bundle's."""
TRIED = (1, 5)
"""Batches, in images, that a new file is tried with."""
METADATA = "rfray.json"
"""TorchScript's extra file, and the key of the metadata in ONNX."""

SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
"""Format -> what its files' names end in."""

Run = Callable[[list[np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""Squares, as the file takes them -> p_fake (B,), scores (B, k)."""


class Whole(nn.Module):
    """The ensemble as one module, in float32 but for the vote itself."""

    def __init__(self, bundle: LoadedBundle) -> None:
        super().__init__()
        self.models = nn.ModuleList(detector.model.float().cpu() for detector in bundle.detectors)
        self._detectors, self._ensemble = bundle.detectors, bundle.ensemble
        self._inputs = [inputs_of(bundle).index(geometry) for geometry in bundle.geometries]

    def forward(self, *squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the module."""
        ensemble = self._ensemble
        margins = []  # of two softmax outputs, the logit of the second is the difference of theirs
        for model, detector, place in zip(self.models, self._detectors, self._inputs, strict=True):
            images = detector.normalise(squares[place])
            margin = _margin(model(images))
            if detector.flip:
                mean = (torch.sigmoid(margin) + torch.sigmoid(_margin(model(images.flip(3))))) / 2
                margin = torch.logit(mean, eps=1e-15)
            margins.append(margin)
        scores = torch.sigmoid(torch.stack(margins, dim=1))
        temperatures = torch.tensor(ensemble.temperatures, dtype=torch.float64)
        weights = torch.tensor(ensemble.weights, dtype=torch.float64)
        p_fake = (torch.sigmoid(torch.stack(margins, dim=1) / temperatures) * weights).sum(1) / weights.sum()
        if ensemble.temperature != 1:
            p_fake = torch.sigmoid(torch.logit(p_fake, eps=1e-15) / ensemble.temperature)
        return p_fake.float(), scores.float()


def _margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1].double() - logits[:, 0].double()


def inputs_of(bundle: LoadedBundle) -> list[Geometry]:
    """The geometries that differ, each of which is an input, in order."""
    return list(dict.fromkeys(bundle.geometries))


def input_name(geometry: Geometry) -> str:
    """What an input is called."""
    return f"square_{geometry.side}_{geometry.resize}"


def geometries_in(metadata: str) -> dict[str, Geometry]:
    """Input -> the geometry that makes it of a picture, by the METADATA of an exported file."""
    inputs = json.loads(metadata)["inputs"]
    found = {}
    for name, how in inputs.items():
        reencode = None if how["reencode"] is None else Reencode(**how["reencode"])
        found[name] = Geometry(how["resize"], how["side"], reencode)
    return found


def export_bundle(bundle: LoadedBundle, form: str, out: Path) -> float:
    """Writes `out`; the greatest difference of a probability from the bundle's, on images of noise.

    Raises InputError for a format that is unknown or whose extra is not installed, RfrayError where a model can't be
    exported, or what comes out is not what the bundle says.
    """
    check_format(form)
    whole = Whole(bundle).eval()
    metadata, names = json.dumps(_metadata(bundle), indent=1), [input_name(one) for one in inputs_of(bundle)]
    with replacing(out) as temporary, _quietly(), torch.no_grad():
        try:
            FORMATS[form](whole, _noise(bundle, 2), names, metadata, temporary)
            run = READERS[form](temporary)
            difference = max(_difference(bundle, run, _noise(bundle, count)) for count in TRIED)
        except Exception as error:  # whatever one of timm's backbones makes an exporter or a runtime raise
            members = ", ".join(bundle.ensemble.members)
            raise RfrayError(f"{members} can't be exported to {form}: {_first_line(error)}") from error
        if difference > TOLERANCE:
            raise RfrayError(f"{form}: its probabilities differ by {difference:.2g} from the bundle's; not written")
    return difference


def check_format(form: str) -> None:
    """Raises InputError as `export_bundle`."""
    if form not in FORMATS:
        raise InputError(f"--format {form}: no such format; allowed: {nearest_first(form, FORMATS)}")
    needed = ("onnx", "onnxscript", "onnxruntime") if form == "onnx" else ()
    if lacking := [name for name in needed if find_spec(name) is None]:
        raise InputError(f"--format {form} needs {', '.join(lacking)}: pip install 'rfray[onnx]'")


def _to_onnx(whole: Whole, squares: list[torch.Tensor], names: list[str], metadata: str, file: Path) -> None:
    import onnx

    batch = torch.export.Dim("batch", min=1)
    torch.onnx.export(
        whole,
        tuple(squares),
        str(file),
        input_names=names,
        output_names=["p_fake", "scores"],
        dynamic_shapes=(tuple({0: batch} for _ in squares),),
        external_data=False,
        verbose=False,
    )
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {METADATA: metadata})
    onnx.save(model, str(file))


def _to_torchscript(whole: Whole, squares: list[torch.Tensor], names: list[str], metadata: str, file: Path) -> None:
    traced = torch.jit.trace(whole, tuple(squares), check_trace=False)
    torch.jit.save(torch.jit.freeze(traced), str(file), _extra_files={METADATA: metadata})


FORMATS: dict[str, Callable[[Whole, list[torch.Tensor], list[str], str, Path], None]] = {
    "onnx": _to_onnx,
    "torchscript": _to_torchscript,
}
"""Format -> what writes it."""


def _onnx_reader(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(squares: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        p_fake, scores = session.run(["p_fake", "scores"], dict(zip(names, squares, strict=True)))
        return p_fake, scores

    return run


def _torchscript_reader(file: Path) -> Run:
    model = torch.jit.load(str(file))

    def run(squares: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        p_fake, scores = model(*map(torch.from_numpy, squares))
        return p_fake.numpy(), scores.numpy()

    return run


READERS: dict[str, Callable[[Path], Run]] = {"onnx": _onnx_reader, "torchscript": _torchscript_reader}
"""Format -> what runs such a file."""


def _metadata(bundle: LoadedBundle) -> dict[str, Any]:
    """What a user of the file has to know, and what makes its inputs from pictures."""
    ensemble = bundle.ensemble
    inputs = {
        input_name(geometry): {
            "resize": geometry.resize,
            "side": geometry.side,
            "reencode": geometry.reencode.model_dump() if geometry.reencode else None,
        }
        for geometry in inputs_of(bundle)
    }
    known = ensemble.model_dump(mode="json", include={"classes", "members", "weights", "threshold", "unsure"})
    return {"inputs": inputs, **known}


def _noise(bundle: LoadedBundle, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    sides = [geometry.side for geometry in inputs_of(bundle)]
    return [torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator) for side in sides]


def _difference(bundle: LoadedBundle, run: Run, squares: list[torch.Tensor]) -> float:
    p_fake, scores = run([square.numpy() for square in squares])
    by_geometry = dict(zip(inputs_of(bundle), squares, strict=True))
    wanted = np.stack(
        [
            replace(detector, device=torch.device("cpu"), dtype=torch.float32)(by_geometry[geometry])
            for detector, geometry in zip(bundle.detectors, bundle.geometries, strict=True)
        ]
    )
    return float(max(abs(scores.T - wanted).max(), abs(p_fake - joined(bundle.ensemble, wanted)).max()))


@contextmanager
def _quietly() -> Iterator[None]:
    """torch's exporters tell of their own steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
