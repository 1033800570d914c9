"""The head in a slice: cut out, described by a few numbers, turned, and rid of its window."""

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from btlib.models import erasing

GRID = 96
"""Pixels along a side of the head as it is compared."""
CELLS = 12
"""Cells along a side of a signature."""
ORIENTATIONS = (
    *("identity", "flip left-right", "flip up-down", "rotate 180"),
    *("transpose", "rotate 90", "rotate 270", "transpose and rotate 180"),
)
"""What may have been done to a slice: four of it as it is, and of it transposed (a MATLAB file read without care is)."""
INVERSE = np.array((0, 1, 2, 3, 4, 6, 5, 7))
"""The orientation that undoes each."""
WHOLE = ((0.0, 1.0), (0.0, 1.0))
"""All of a head: centre and length of what is looked at, down and across, in lengths of the head."""


def head(picture: np.ndarray) -> np.ndarray:
    """Cut a prepared slice, uint8 (H, W), to its head and stretch that to a square, uint8 (GRID, GRID)."""
    picture = np.ascontiguousarray(picture)
    return np.asarray(Image.fromarray(picture).resize((GRID, GRID), Image.Resampling.BILINEAR, box=_box(picture)))


def _box(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the head, in pixels: the rows and columns that are not air.

    Tight on all sides, unlike the square that models are given, so that a changed aspect ratio drops out too.
    """
    smooth = uniform_filter(picture, 3)
    head = smooth > erasing.otsu(smooth) / 2  # it moves with the noise in the air
    edges = []
    for axis in (0, 1):
        filled = head.mean(axis=axis) > 0.04
        edges.append((int(filled.argmax()), len(filled) - int(filled[::-1].argmax())))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def signatures(heads: np.ndarray, window=WHOLE) -> np.ndarray:
    """Describe heads, uint8 (n, GRID, GRID), by the ranks of 12 x 12 cells in a window, whatever their size and contrast.

    The result is float32 (n, 144), mean zero and length one, or all zero for a head without structure.
    """
    down, across = (_means(0.5 + centre - length / 2, 0.5 + centre + length / 2) for centre, length in window)
    from scipy.stats import rankdata  # here, as it takes a second to import

    result = np.zeros((len(heads), CELLS * CELLS), np.float32)
    for first in range(0, len(heads), 4096):
        cells = down @ heads[first : first + 4096].astype(np.float32) @ across.T
        # Whole grey levels: the ranks of noise in the air would weigh as much as the head.
        ranks = rankdata(np.rint(cells.reshape(len(cells), -1)), axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        result[first : first + 4096] = ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-6)
    return result


def _means(low: float, high: float) -> np.ndarray:
    """Return float32 (CELLS, GRID): weights of the means over equal parts of a stretch of the head, given in 0..1."""
    width = (high - low) * GRID / CELLS
    centre = low * GRID + (np.arange(CELLS) + 0.5) * width - 0.5
    weights = np.clip(1 - np.abs(np.arange(GRID) - centre[:, None]) / width, 0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def turned(images: np.ndarray, turn: int) -> np.ndarray:
    """Return square images (n, side, side) in one of `ORIENTATIONS`, given by its place."""
    images = images.swapaxes(1, 2) if turn >= 4 else images
    images = images[:, ::-1] if turn % 4 >= 2 else images
    return images[:, :, ::-1] if turn % 2 else images


def equalised(heads: np.ndarray) -> np.ndarray:
    """Replace grey levels of uint8 (n, side, side) by their ranks among a head's pixels, 0..255: any window drops out."""
    result = np.empty_like(heads)
    for one, picture in zip(result, heads, strict=True):
        counts = np.bincount(picture.ravel(), minlength=256)
        one[:] = ((np.cumsum(counts) - counts / 2) * (255 / picture.size)).astype(np.uint8)[picture]
    return result
