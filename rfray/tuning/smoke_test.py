"""a checked sweep -> the size of its models, or an error: each of them takes a step."""

import torch

from rfray.errors import SweepError, TrialError
from rfray.models.build import build_model
from rfray.spec.sweep import Sweep
from rfray.spec.sweep_file import SweepFile
from rfray.spec.trial import Range
from rfray.training.optim import make_optimizer


def rehearse_models(file: SweepFile) -> dict[str, int]:
    """Each backbone builds and takes one step of two images at each size; backbone -> its number of parameters.

    Raises SweepError, a line per problem, with file, line and key.
    """
    trial = file.sweep.trial
    size = trial.axes().get("image_size", trial.choices("image_size"))
    sizes = [int(end) for end in size.bounds] if isinstance(size, Range) else size
    parameters: dict[str, int] = {}
    problems: list[str] = []
    for place, backbone in trial.written("backbone"):
        for side in sizes:
            try:
                parameters[backbone] = _one_step(file.sweep, backbone, side)
            except TrialError as error:
                problems.append(file.problem(("trial", *place), str(error)))
    if problems:
        raise SweepError("\n".join(problems))
    return parameters


def _one_step(sweep: Sweep, backbone: str, side: int) -> int:
    first = {name: sweep.trial.choices(name)[0] for name, axis in sweep.trial.axes().items() if isinstance(axis, list)}
    first |= {
        name: int(axis.bounds[0]) if axis.kind == "int" else axis.bounds[0]
        for name, axis in sweep.trial.axes().items()
        if isinstance(axis, Range)
    }
    trial = sweep.trial.trial({**first, "backbone": backbone, "image_size": side})
    model, normalise = build_model(trial, load_pretrained=trial.pretrained is True)
    try:
        optimizer = make_optimizer(trial, model)
        images = normalise(torch.zeros(2, 3, side, side, dtype=torch.uint8))
        torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
        optimizer.step()
    except Exception as error:  # whatever a model, or an optimizer, makes of a size that it can't take
        raise TrialError(f"{backbone} can't take a step at {side} px: {str(error).splitlines()[0]}") from error
    return sum(parameter.numel() for parameter in model.parameters())
