"""Tables of images made by hand, for the tests of the audit and of everything that shows it."""

from typing import Any

import numpy as np
import pandas as pd

from rfray.audit.audit import audit_images
from rfray.store.records import Audit

NO_PAIRS = pd.DataFrame({"first": [], "second": [], "kind": []}).astype({"first": int, "second": int, "kind": str})
ALL_READABLE = pd.DataFrame({"path": [], "reason": []}, dtype=str)


def image_table(per_class: int = 120, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Real and fake images in turn, the first sixth in train; their files' properties say nothing about the label."""
    n = 2 * per_class
    random = np.random.default_rng(seed)
    label = np.arange(n) % 2
    side = random.choice([160, 200, 256], n)
    file_bytes = random.integers(4000, 9000, n)
    table = {
        "path": [f"{'fake' if one else 'real'}/{number:04d}.jpg" for number, one in enumerate(label)],
        "label": label,
        "subfolder": "",
        "folder": "train",
        "part": np.where(np.arange(n) < per_class // 3, "train", "val"),
        "digest": [f"{number:064x}" for number in range(n)],
        "file_bytes": file_bytes,
        "width": side,
        "height": side,
        "format": "JPEG",
        "mode": "RGB",
        "bytes_per_pixel": file_bytes / side**2,
        "quantisation": random.choice(["aaaa", "bbbb"], n),
        "quality": random.choice([75.0, 90.0], n),
        "subsampling": "4:2:0",
        "progressive": False,
        "exif": False,
        "icc": False,
        "spectrum": list(random.normal(size=(n, 32)) + np.linspace(8, 3, 32)),
    }
    return pd.DataFrame({**table, **columns})


def pair_table(*pairs: tuple[int, int, str]) -> pd.DataFrame:
    """Pairs (first, second, kind)."""
    return pd.DataFrame(list(pairs), columns=["first", "second", "kind"])


def leaking_audit() -> Audit:
    """Two test images are in the training folder too, one of them named like markup; every fake is a PNG."""
    images = image_table(20)
    is_fake = images["label"] == 1
    images = images.assign(format=np.where(is_fake, "PNG", "JPEG"), quantisation=np.where(is_fake, "", "aaaa"))
    images.loc[30:, ["folder", "part"]] = "test", "test"
    images.loc[30, "path"] = "real/<b>|x.jpg"
    return audit_images(images, pair_table((30, 0, "exact"), (1, 31, "crop")), ALL_READABLE)
