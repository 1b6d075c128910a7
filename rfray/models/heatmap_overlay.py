"""pictures + heatmaps -> small JPEGs. Needs no torch."""

import cv2
import numpy as np

LONGEST = 160
"""Longest side of a picture in the gallery, in pixels."""
QUALITY = 85
"""Of the JPEG encoder, 1 to 100."""
OPACITY = 0.7
"""Of the colour where the heatmap is 1: the picture stays visible below it."""


def shrink(picture: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """(height, width, 3) uint8 -> the same picture, its longest side at most `longest` pixels."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def place_heatmap(heatmap: np.ndarray, side: float, height: int, width: int) -> np.ndarray:
    """(S, S) of a model's input -> (height, width) float32 of the whole picture, 0 where the model saw nothing.

    The model saw the square of `side` pixels around the picture's middle, which may be larger than the picture.
    """
    length = max(1, round(side))
    scaled = cv2.resize(heatmap.astype(np.float32), (length, length), interpolation=cv2.INTER_LINEAR)
    out = np.zeros((height, width), np.float32)
    rows, columns = min(height, length), min(width, length)
    top, left = (height - rows) // 2, (width - columns) // 2
    above, before = (length - rows) // 2, (length - columns) // 2
    out[top : top + rows, left : left + columns] = scaled[above : above + rows, before : before + columns]
    return out


def overlay_heatmap(picture: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) in [0, 1] -> the picture in grey, the heatmap over it in colour."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    levels = (heatmap.clip(0, 1) * 255).round().astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = OPACITY * heatmap.clip(0, 1)[..., None]
    return np.asarray((1 - opacity) * grey + opacity * colours).round().astype(np.uint8)


def encode_jpeg(picture: np.ndarray) -> bytes:
    """(height, width, 3) uint8 RGB -> the bytes of a JPEG file."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return encoded.tobytes()
