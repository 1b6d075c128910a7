"""a bundle -> one file with the whole ensemble in it, ONNX or .pt2 (torch.export), compared with the bundle.

Inputs: the squares that the members see, (B, 3, S, S) uint8 RGB, one input for each different geometry (such as
`square_96_scale`). Outputs: p_fake (B,) and the members' scores (B, k), float32. B is free. Decoding, `reencode` and
scaling stay outside; the file's metadata describe them, and hold classes, threshold and band.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.export import ExportedProgram

from rfray.data.geometry import Geometry
from rfray.errors import InputError, RfrayError, first_line, nearest_first
from rfray.models.bundle import LoadedBundle
from rfray.models.inference import scores_of
from rfray.stats.guessing import bundle_warning
from rfray.stats.voting import joined
from rfray.store.files import clear_left_over, no_room, replacing

TOLERANCE = 1e-4
"""Greatest difference allowed between a probability of the file and the bundle's; float32 alone makes about 1e-6."""
FULL = 1_000_000
"""With fewer free bytes a disk is taken for full (our choice)."""
TRIED = (1, 5)
"""Sizes of the batches that a new file is compared on: one image, and more than the export has seen."""
EXPORT_METADATA = "rfray.json"
"""The key of the metadata in ONNX, and the name of the extra file in .pt2."""


INPUTS = TypeAdapter(dict[str, Geometry])
"""Name of an input -> the geometry that makes it of a picture."""


class EnsembleModule(nn.Module):
    """The ensemble as one module on the CPU, in float32 but for the vote."""

    def __init__(self, bundle: LoadedBundle) -> None:
        super().__init__()
        self._ensemble, self._detectors = bundle.ensemble, bundle.detectors
        self.models = nn.ModuleList(detector.model for detector in bundle.detectors)
        self._inputs = [inputs_of(bundle).index(geometry) for geometry in bundle.geometries]

    def forward(self, *squares: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The module docstring's inputs -> its outputs."""
        pairs = zip(self._detectors, self._inputs, strict=True)
        scores = torch.stack([detector(squares[number]) for detector, number in pairs], dim=1)  # (B, k) float64
        p_fake = _tempered(scores, torch.tensor(self._ensemble.temperatures, dtype=torch.float64))
        weights = torch.tensor(self._ensemble.weights, dtype=torch.float64)
        p_fake = _tempered((p_fake * weights).sum(1) / weights.sum(), self._ensemble.temperature)
        return p_fake.float(), scores.float()


def _tempered(p_fake: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    return torch.sigmoid(torch.logit(p_fake, eps=1e-15) / temperature)


def inputs_of(bundle: LoadedBundle) -> list[Geometry]:
    """The different geometries, in order: each is an input."""
    return list(dict.fromkeys(bundle.geometries))


def geometries_in(metadata: str) -> dict[str, Geometry]:
    """The INPUTS in an exported file's EXPORT_METADATA."""
    return INPUTS.validate_python(json.loads(metadata)["inputs"])


def export_bundle(bundle: LoadedBundle, form: str, out: Path) -> float:
    """Writes `out` in one of EXPORTS; the greatest difference of a probability from the bundle's, on images of noise.

    The bundle's models are moved to the CPU.
    Raises RfrayError where a model can't be exported, or the file's probabilities are not the bundle's.
    """
    write, run, _ = EXPORTS[form]
    for detector in bundle.detectors:  # a .pt2 keeps contiguous tensors as plain bytes, and pickles others
        detector.model.float().cpu().to(memory_format=torch.contiguous_format)
    cpu = torch.device("cpu")
    bundle = replace(bundle, detectors=[replace(one, device=cpu, dtype=torch.float32) for one in bundle.detectors])
    inputs, batch, differences = inputs_of(bundle), torch.export.Dim("batch", min=1), []
    squares = tuple(torch.zeros((2, 3, one.side, one.side), dtype=torch.uint8) for one in inputs)
    shapes = (tuple({0: batch} for _ in squares),)
    clear_left_over(out)
    with replacing(out) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # torch's exporters describe their own steps
        try:
            program = torch.export.export(EnsembleModule(bundle).eval(), squares, dynamic_shapes=shapes)
            write(program, _metadata(bundle), temporary)
            for count in TRIED:
                random = torch.Generator().manual_seed(count)
                noise = [torch.randint(256, (count, *one.shape[1:]), generator=random).byte() for one in squares]
                p_fake, scores = run(temporary, [one.numpy() for one in noise])
                wanted = scores_of(bundle.detectors, bundle.geometries, dict(zip(inputs, noise, strict=True)))
                differences += [abs(scores.T - wanted).max(), abs(p_fake - joined(bundle.ensemble, wanted)).max()]
        except OSError:  # the disk's
            raise
        except Exception as error:  # of many kinds: it depends on the backbone, the exporter and the runtime
            if shutil.disk_usage(temporary.parent).free < FULL:  # torch only says that a position is not the expected
                weights = (weight for one in bundle.detectors for weight in one.model.parameters())
                raise no_room(out, sum(weight.nbytes for weight in weights)) from error
            members = ", ".join(bundle.ensemble.members)
            cause = first_line(error)
            raise RfrayError(f"{members} can't be exported to {form}: {cause}") from error
        finally:
            logging.disable(logging.NOTSET)
        if (difference := float(max(differences))) > TOLERANCE:
            raise RfrayError(f"{form}: its probabilities differ by {difference:.2g} from the bundle's; not written")
    return difference


def check_format(form: str) -> None:
    """Raises InputError where the format is unknown, or needs an extra that is not installed."""
    if form not in EXPORTS:
        raise InputError(f"--format {form}: no such format; allowed: {nearest_first(form, EXPORTS)}")
    if missing := [name for name in EXPORTS[form][2] if find_spec(name) is None]:
        raise InputError(f"--format {form} needs {', '.join(missing)}: pip install 'rfray[onnx]'")


def _write_onnx(program: ExportedProgram, metadata: str, file: Path) -> None:
    import onnx

    names, outputs = list(json.loads(metadata)["inputs"]), ["p_fake", "scores"]
    torch.onnx.export(
        program, (), str(file), input_names=names, output_names=outputs, dynamo=True, external_data=False, verbose=False
    )
    model = onnx.load(str(file))
    onnx.helper.set_model_props(model, {EXPORT_METADATA: metadata})
    onnx.save(model, str(file))


def _write_pt2(program: ExportedProgram, metadata: str, file: Path) -> None:
    with file.open("wb") as opened:  # torch takes a path only with the suffix .pt2
        torch.export.save(program, opened, extra_files={EXPORT_METADATA: metadata})


def run_onnx(file: Path, squares: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """p_fake (B,) and scores (B, k) of one batch, by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    p_fake, scores = session.run(["p_fake", "scores"], dict(zip(names, squares, strict=True)))
    return p_fake, scores


def run_pt2(file: Path, squares: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same by torch. Only for a file that was written just now: torch may unpickle parts of a .pt2."""
    with file.open("rb") as opened, torch.no_grad():
        p_fake, scores = torch.export.load(opened).module()(*map(torch.from_numpy, squares))
    return p_fake.numpy(), scores.numpy()


EXPORTS = {"onnx": (_write_onnx, run_onnx, ("onnx", "onnxscript", "onnxruntime")), "pt2": (_write_pt2, run_pt2, ())}
"""Format, which is also the files' suffix -> what writes and what runs a file, and the packages that it needs."""


def _metadata(bundle: LoadedBundle) -> str:
    """JSON: how the inputs are made of pictures, and what the user of the outputs has to know."""
    inputs = {f"square_{geometry.side}_{geometry.resize}": geometry for geometry in inputs_of(bundle)}
    said = bundle.ensemble.model_dump(mode="json", include={"classes", "members", "weights", "threshold", "unsure"})
    said["warning"] = bundle_warning(bundle.ensemble)
    return json.dumps({"inputs": INPUTS.dump_python(inputs, mode="json"), **said}, indent=1)
