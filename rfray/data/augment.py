"""name of a policy -> a function that augments (side, side, 3) uint8 images; no other module imports albumentations.

A policy is a list of transforms, in the sweep file as here: `{Name: {argument: value}}`. The word `image_size` stands
for the trial's. OneOf, SomeOf and Sequential take a list of transforms under `transforms`.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for newer versions
import albumentations

from rfray.data.decoding import square
from rfray.errors import SweepError, first_line, nearest_first

TransformSpec = Mapping[str, Mapping[str, Any] | None]
"""{Name: {argument: value}}"""
PolicySpec = Sequence[TransformSpec]

_REFUSED = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D", "BaseCompose"}  # the base classes
_REFUSED |= {"Compose", "ReplayCompose", "Lambda"}  # these take no list, or no arguments that YAML can write
TRANSFORMS: dict[str, Any] = {
    name: found
    for name, found in vars(albumentations).items()
    if isinstance(found, type)
    and issubclass(found, albumentations.BasicTransform | albumentations.BaseCompose)
    and name not in _REFUSED
}
"""The transforms of albumentations that a policy may have."""

_SMOOTH = {"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR}
_FLIP: TransformSpec = {"HorizontalFlip": {"p": 0.5}}
_DEGRADATIONS: PolicySpec = [
    {"Downscale": {"scale_range": [0.4, 0.9], "interpolation_pair": _SMOOTH, "p": 1.0}},
    {"GaussianBlur": {"blur_limit": [3, 5], "p": 1.0}},
    {"GaussNoise": {"std_range": [0.01, 0.05], "p": 1.0}},
]
_ENCODERS: PolicySpec = [
    {"ImageCompression": {"compression_type": name, "quality_range": [30, 95], "p": 1.0}} for name in ("jpeg", "webp")
]

POLICIES: dict[str, PolicySpec] = {
    # no augmentation
    "none": [],
    # small changes, which keep most traces of manipulation
    "light": [_FLIP, {"RandomBrightnessContrast": {"brightness_limit": 0.15, "contrast_limit": 0.15, "p": 0.5}}],
    # large changes, as for photographs of objects: crops, rotations, colours, holes
    "strong": [
        {"RandomResizedCrop": {"size": ["image_size", "image_size"], "scale": [0.5, 1.0], "ratio": [0.85, 1.18]}},
        _FLIP,
        {"Rotate": {"limit": [-12, 12], "p": 0.3}},
        {"ColorJitter": {"brightness": [0.7, 1.3], "contrast": [0.7, 1.3], "saturation": [0.7, 1.3], "p": 0.7}},
        {"ToGray": {"p": 0.05}},
        {"CoarseDropout": {"hole_height_range": [0.1, 0.25], "hole_width_range": [0.1, 0.25], "p": 0.4}},
    ],
    # what happens to images on the internet: scaled down, blurred, encoded again
    "compression": [
        _FLIP,
        {"OneOf": {"p": 0.5, "transforms": _DEGRADATIONS}},
        {"OneOf": {"p": 0.7, "transforms": _ENCODERS}},
    ],
}
"""The built-in policies, for train images only. The strengths are rfray's own choice: a face stays recognisable."""


@dataclass
class Policy:
    """Augments one image at a time; the same seed gives the same changes."""

    transforms: albumentations.Compose
    side: int
    """Height and width of the images, in pixels."""

    def reseed(self, seed: int) -> None:
        """Starts the random choices anew from `seed`."""
        self.transforms.set_random_seed(seed)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(side, side, 3) uint8 -> the same shape and type, scaled back where a transform has changed the size.

        Raises SweepError where the transforms give anything but uint8 RGB.
        """
        changed = self.transforms(image=image)["image"]
        if changed.dtype != np.uint8 or changed.shape[2:] != (3,):
            raise SweepError(
                f"a uint8 image with 3 channels is turned into {changed.dtype} {changed.shape}; "
                "leave out Normalize, ToFloat, ToTensorV2 and the like: rfray normalises as the backbone wants it"
            )
        return square(changed, self.side)


def build_policy(
    name: str, own: Mapping[str, PolicySpec], side: int, probability: float | None = None
) -> Policy | None:
    """The policy called `name`, from the sweep's own or the built-in ones; None where it changes nothing.

    `probability` replaces that of every transform. Raises SweepError: unknown name, unknown transform, unknown or
    impossible argument.
    """
    policies = {**POLICIES, **own}
    if name not in policies:
        raise SweepError(f"no policy {name!r}; allowed: {nearest_first(name, policies)}")
    transforms = [_transform(entry, side, probability) for entry in policies[name]]
    return Policy(albumentations.Compose(transforms, seed=0), side) if transforms else None


def check_policy(name: str, own: Mapping[str, PolicySpec], side: int) -> None:
    """Builds a policy and applies it to an image. Raises SweepError as `build_policy`, or where that fails."""
    build_policy(name, own, side)  # with the probabilities as they are given, which may be wrong, too
    policy = build_policy(name, own, side, probability=1.0)  # so that every transform is used now, not in some trial
    if policy is None:
        return
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for seed in range(20):  # OneOf and SomeOf choose
        policy.reseed(seed)
        try:
            policy(image)
        except SweepError as error:
            raise SweepError(f"{name}: {error}") from None
        except Exception as error:  # a library runs what a sweep file says: anything may be raised
            raise SweepError(f"{name} fails on an image of {side} px: {_reason(error)}") from None


def _transform(entry: TransformSpec, side: int, probability: float | None) -> Any:
    """One transform of albumentations, which may have others inside."""
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise SweepError(f"an entry is one transform, {{Name: {{argument: value}}}}; given: {entry}")
    ((name, given),) = entry.items()
    if name not in TRANSFORMS:
        raise SweepError(f"albumentations has no transform {name!r}; allowed: {nearest_first(name, TRANSFORMS)}")
    if not isinstance(given, Mapping | None):
        raise SweepError(f"{name} takes {{argument: value}}; given: {given}")
    takes = inspect.signature(TRANSFORMS[name]).parameters
    arguments = {**(given or {}), **({} if probability is None else {"p": probability})}
    for key, value in arguments.items():
        if key not in takes:
            raise SweepError(f"{name} has no argument {key!r}; allowed: {nearest_first(key, takes)}")
        arguments[key] = _filled_in(value, side)
    if "transforms" in arguments:
        inside = arguments["transforms"]
        if not isinstance(inside, list | tuple) or not inside:
            raise SweepError(f"{name} takes a list of transforms; given: {inside}")
        arguments["transforms"] = [_transform(inner, side, probability) for inner in inside]
    try:
        return TRANSFORMS[name](**arguments)
    except Exception as error:  # a library gets arguments from a sweep file: anything may be raised
        raise SweepError(f"{name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """The first line of the message; of pydantic's, which albumentations uses, what was given and what is allowed."""
    if isinstance(error.__cause__, ValidationError):
        return "; ".join(
            f"{detail['loc'][0]}: given {detail['input']}; allowed: "
            + detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            for detail in error.__cause__.errors()
        )
    return first_line(error)


def _filled_in(value: Any, side: int) -> Any:
    if value == "image_size":
        return side
    if isinstance(value, list) and not any(isinstance(inner, dict) for inner in value):
        return tuple(_filled_in(inner, side) for inner in value)
    return value
