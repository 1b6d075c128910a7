"""A folder of images -> a sweep over backbones and learning rates, as Ray Tune's PyTorch guide teaches it.

What rfray is compared with, and all that is in here is the guide's way: ImageFolder, random_split, DataLoader,
a checkpoint with every report, Tuner with its default settings.
https://docs.ray.io/en/latest/tune/examples/tune-pytorch-cifar.html
"""

import argparse
import tempfile
from pathlib import Path

import ray
import timm
import torch
from ray import tune
from sklearn.metrics import roc_auc_score
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn
from torch.utils.data import DataLoader, Subset, random_split
from torchvision import transforms
from torchvision.datasets import ImageFolder


def load_data(folder: str, side: int, val: float) -> tuple[Subset, Subset]:
    """What is learned from, with flips, and what is validated on, without."""
    resize = transforms.Resize((side, side))
    finish = [transforms.ToTensor(), transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    learned = ImageFolder(folder, transforms.Compose([resize, transforms.RandomHorizontalFlip(), *finish]))
    judged = ImageFolder(folder, transforms.Compose([resize, *finish]))
    cut = torch.Generator().manual_seed(0)
    train, val = random_split(range(len(learned)), [1 - val, val], generator=cut)
    return Subset(learned, train.indices), Subset(judged, val.indices)


def train(config: dict) -> None:
    """One trial."""
    torch.set_num_threads(1)
    train, val = load_data(config["folder"], config["side"], config["val"])
    train_loader = DataLoader(
        train, batch_size=config["batch_size"], shuffle=True, drop_last=True, num_workers=config["workers"]
    )
    val_loader = DataLoader(val, batch_size=2 * config["batch_size"], num_workers=config["workers"])
    model = timm.create_model(config["backbone"], num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"], weight_decay=0.05)
    criterion = nn.CrossEntropyLoss()
    for _ in range(config["epochs"]):
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
        model.eval()
        scores, truth = [], []
        with torch.no_grad():
            for images, labels in val_loader:
                scores.append(model(images).softmax(dim=1)[:, 0])  # ImageFolder sorts: 0 is fake
                truth.append(labels == 0)
        auc = roc_auc_score(torch.cat(truth), torch.cat(scores))
        with tempfile.TemporaryDirectory() as checkpoint:
            torch.save((model.state_dict(), optimizer.state_dict()), Path(checkpoint, "checkpoint.pt"))
            tune.report({"auc": auc}, checkpoint=tune.Checkpoint.from_directory(checkpoint))


def main() -> None:
    """Runs the sweep and prints the best trial."""
    parser = argparse.ArgumentParser(description="A sweep as Ray Tune's PyTorch guide teaches it.")
    parser.add_argument("folder", help="with one folder a class inside")
    parser.add_argument("storage", help="folder for what Ray Tune writes")
    parser.add_argument("--backbones", nargs="+", required=True)
    parser.add_argument("--lrs", nargs="+", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--val-fraction", type=float, required=True)
    parser.add_argument("--workers", type=int, required=True, help="of each DataLoader")
    parser.add_argument("--at-once", type=int, required=True, help="trials")
    given = vars(parser.parse_args())
    storage, at_once = given.pop("storage"), given.pop("at_once")
    axes = {"backbone": tune.grid_search(given.pop("backbones")), "lr": tune.grid_search(given.pop("lrs"))}
    ray.init(address="local", num_cpus=at_once)  # not one that somebody else has started
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={**given, **axes},
        tune_config=tune.TuneConfig(metric="auc", mode="max"),
        run_config=tune.RunConfig(storage_path=storage),
    )
    best = tuner.fit().get_best_result()
    print("Best:", best.config["backbone"], best.config["lr"], best.metrics["auc"])


if __name__ == "__main__":
    main()
