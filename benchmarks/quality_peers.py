"""A task (JSON) -> what a skilled user of another tool hands over when the time is up: the peers of `quality`.

python -m benchmarks.quality_peers WAY TASK.json, where WAY is one of three:
ray-tune   as Ray Tune's PyTorch guide teaches it: a function, random settings, ASHA, a checkpoint with every report;
           here with a time budget instead of a number of trials.
           https://docs.ray.io/en/latest/tune/examples/tune-pytorch-cifar.html
optuna     as Optuna's PyTorch example teaches it: an objective with a plain loop, TPE, the median pruner; here with a
           process for each slot, which share a journal.
           https://github.com/optuna/optuna-examples/blob/main/pytorch/pytorch_simple.py
random     the same with random settings, and no trial is stopped.

All of them train with the same function, and choose by the same rule: the best single model is the epoch with the best
AUC on val, the vote is the mean of the best trials. When the time is up, and not before, the images of the
valid folder are predicted, and step-<n>.parquet, vote.parquet and arm.json are written beside the task.
"""

import argparse
import functools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from sklearn.metrics import roc_auc_score
from timm.data import resolve_model_data_config
from torch import nn
from torch.utils.data import DataLoader, Subset, random_split
from torchvision import transforms
from torchvision.datasets import ImageFolder

# ray and optuna are imported inside the functions: each way takes the time to import its own tool alone.

Task = dict[str, Any]
"""The fields of `benchmarks.quality.Task`, and: seed; until, seconds since 1970; out, a folder."""
Judged = dict[str, Any]
"""An epoch that may be handed over: trial, backbone, auc (on val), ended (seconds since 1970), weights (a file)."""


def make_model(task: Task, backbone: str, pretrained: bool) -> nn.Module:
    """Two outputs: ImageFolder sorts the classes, so 0 is fake and 1 is real."""
    file = task["weights"][backbone] if pretrained else None
    if file is None:
        return timm.create_model(backbone, num_classes=2)
    return timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay={"file": file}, num_classes=2)


def to_tensor(task: Task, model: nn.Module, flips: bool) -> transforms.Compose:
    """What an image goes through: the size, flips where it is learned from, the normalisation of the weights."""
    config = resolve_model_data_config(model)
    return transforms.Compose(
        [
            transforms.Resize((task["side"], task["side"])),
            *([transforms.RandomHorizontalFlip()] if flips else []),
            transforms.ToTensor(),
            transforms.Normalize(config["mean"], config["std"]),
        ]
    )


def training(task: Task, backbone: str, lr: float, until: float = math.inf) -> Iterator[tuple[nn.Module, float]]:
    """The model after each epoch and its AUC on val; ends in the middle of an epoch where it is `until`."""
    torch.set_num_threads(1)
    torch.manual_seed(task["seed"])
    model = make_model(task, backbone, pretrained=True)
    learned = ImageFolder(task["train"], to_tensor(task, model, flips=True))
    judged = ImageFolder(task["train"], to_tensor(task, model, flips=False))
    cut = torch.Generator().manual_seed(task["seed"])
    shares = [1 - task["val"], task["val"]]
    train, val = random_split(range(len(learned)), shares, generator=cut)
    batch_size = task["batch_size"]
    train_loader = DataLoader(Subset(learned, train.indices), batch_size, shuffle=True, drop_last=True)
    val_loader = DataLoader(Subset(judged, val.indices), 2 * batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=task["weight_decay"])
    criterion = nn.CrossEntropyLoss()
    for _ in range(task["epochs"]):
        model.train()
        for images, labels in train_loader:
            if time.time() > until:
                return
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        truth, p_fake = predict(model, val_loader)
        if time.time() > until:
            return
        yield model, float(roc_auc_score(truth, p_fake))


@torch.no_grad()
def predict(model: nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (1 is fake) and p_fake of all images, in order."""
    model.eval()
    seen = [(labels == 0, model(images).softmax(dim=1)[:, 0]) for images, labels in loader]
    return torch.cat([labels for labels, _ in seen]), torch.cat([p_fake for _, p_fake in seen])


def by_ray_tune(task: Task) -> list[Judged]:
    """Ray Tune, as its guide teaches it."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    def train(config: dict) -> None:
        for model, auc in training(task, config["backbone"], config["lr"]):
            with tempfile.TemporaryDirectory() as checkpoint:
                torch.save(model.state_dict(), Path(checkpoint, "checkpoint.pt"))
                metrics = {"auc": auc, "ended": time.time()}
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(checkpoint))

    ray.init(address="local", num_cpus=task["slots"])  # not one that somebody else has started
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"backbone": tune.choice(list(task["weights"])), "lr": tune.loguniform(*task["lr"])},
        tune_config=tune.TuneConfig(
            metric="auc",
            mode="max",
            num_samples=-1,  # as many as there is time for
            time_budget_s=task["until"] - time.time(),
            search_alg=BasicVariantGenerator(random_state=task["seed"]),
            scheduler=ASHAScheduler(max_t=task["epochs"], grace_period=1, reduction_factor=2),
        ),
        run_config=tune.RunConfig(storage_path=str(Path(task["out"], "ray").absolute())),
    )
    return [
        {
            "trial": number,
            "backbone": result.config["backbone"],
            "auc": metrics["auc"],
            "ended": metrics["ended"],
            "weights": str(Path(checkpoint.path, "checkpoint.pt")),
        }
        for number, result in enumerate(tuner.fit())
        for checkpoint, metrics in result.best_checkpoints or []  # all of them: none is deleted
    ]


def by_optuna(task: Task, stopping: bool = True) -> list[Judged]:
    """Optuna and a plain loop, in a process for each slot; random settings and no stopping where not `stopping`."""
    import optuna

    optuna.create_study(study_name="sweep", storage=_journal(task), direction="maximize")
    context = multiprocessing.get_context("fork")  # nothing was computed yet, so torch has no threads
    slots = [context.Process(target=_optimize, args=(task, stopping, slot)) for slot in range(task["slots"])]
    for slot in slots:
        slot.start()
    for slot in slots:
        slot.join()
    if any(slot.exitcode for slot in slots):
        raise RuntimeError("a process of the search has failed")
    files = Path(task["out"]).glob("judged-*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _optimize(task: Task, stopping: bool, slot: int) -> None:
    import optuna

    out = Path(task["out"])

    def objective(trial: optuna.Trial) -> float:
        backbone = trial.suggest_categorical("backbone", list(task["weights"]))
        lr = trial.suggest_float("lr", *task["lr"], log=True)
        best = -math.inf
        for epoch, (model, auc) in enumerate(training(task, backbone, lr, task["until"]), 1):
            if auc > best:
                best = auc
                weights = out / f"trial-{trial.number}-{epoch}.pt"
                torch.save(model.state_dict(), weights)
                judged = {"trial": trial.number, "backbone": backbone, "auc": auc, "ended": time.time()}
                with (out / f"judged-{slot}.jsonl").open("a") as file:
                    file.write(json.dumps({**judged, "weights": str(weights)}) + "\n")
            trial.report(auc, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        if best == -math.inf:  # the time was up before the first epoch was over
            raise optuna.TrialPruned
        return best

    seed = task["seed"] * task["slots"] + slot
    sampler: Any = optuna.samplers.RandomSampler(seed)
    if stopping:
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # constant_liar: others run beside it
    pruner = optuna.pruners.MedianPruner() if stopping else optuna.pruners.NopPruner()
    study = optuna.load_study(study_name="sweep", storage=_journal(task), sampler=sampler, pruner=pruner)
    study.optimize(objective, timeout=max(0, task["until"] - time.time()))


def _journal(task: Task) -> Any:
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    return JournalStorage(JournalFileBackend(str(Path(task["out"], "journal.log"))))


def hand_over(task: Task, judged: list[Judged], ended: float) -> None:
    """Predicts the valid folder with whatever was the best so far at any time, and with the vote."""
    torch.set_num_threads(task["slots"])
    out = Path(task["out"])
    steps: list[Judged] = []
    for one in sorted(judged, key=lambda one: one["ended"]):
        if not steps or one["auc"] > steps[-1]["auc"]:
            steps.append(one)
    best_of: dict[int, Judged] = {}
    for one in sorted(judged, key=lambda one: -one["auc"]):
        best_of.setdefault(one["trial"], one)
    tables: dict[str, pd.DataFrame] = {}
    voters = list(best_of.values())[: task["top_k"]]
    for one in [*steps, *voters]:
        if one["weights"] not in tables:
            tables[one["weights"]] = _held_out(task, one)
    for number, one in enumerate(steps):
        tables[one["weights"]].to_parquet(out / f"step-{number}.parquet")
    vote = sum(tables[one["weights"]]["p_fake"] for one in voters) / len(voters)
    tables[voters[0]["weights"]].assign(p_fake=vote).to_parquet(out / "vote.parquet")
    record = {
        "ended": ended,
        "steps": [{"ended": one["ended"], "val_auc": one["auc"]} for one in steps],
        "trials": len(best_of),
    }
    (out / "arm.json").write_text(json.dumps(record, indent=1))


def _held_out(task: Task, one: Judged) -> pd.DataFrame:
    model = make_model(task, one["backbone"], pretrained=False)
    model.load_state_dict(torch.load(one["weights"], weights_only=True))
    images = ImageFolder(task["test"], to_tensor(task, model, flips=False))
    truth, p_fake = predict(model, DataLoader(images, 2 * task["batch_size"]))
    names = [Path(path).relative_to(task["test"]).as_posix() for path, _ in images.samples]
    return pd.DataFrame({"id": names, "label": truth.to(torch.int8), "p_fake": p_fake.double()})


WAYS = {
    "ray-tune": by_ray_tune,
    "optuna": by_optuna,
    "random": functools.partial(by_optuna, stopping=False),
}


def main() -> None:
    """Searches until the time is up, then predicts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality_peers", description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("task", type=Path, help="a JSON file")
    given = parser.parse_args()
    task = json.loads(given.task.read_text())
    judged = WAYS[given.way](task)
    ended = time.time()
    if not judged:
        raise SystemExit("no epoch was over when the time was up: give it more")
    hand_over(task, judged, ended)


if __name__ == "__main__":
    main()
