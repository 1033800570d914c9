"""From a decoded slice to the square 8-bit picture a model is given."""

import numpy as np
from PIL import Image
from scipy import ndimage

from btlib import params

VERSION = 2
"""Raised when the same slice and parameters begin to give other pixels or another plane: caches are then made anew."""

PLANES = {
    "axial": (
        "-17 -25 140 -2 28 -30 -63 -72 -67 -25 -33 9 13 78 -34 -37 -29 -3 107 -15 14 18 -3 -47 -12 -36 30 9 -4 1 -24 "
        "-71 -97 -52 -38 98 -65 8 30 -13 -36 -64 75 123 -20 -31 -8 99 -58 -63 -29 58 10 -37 -69"
    ),
    "coronal": (
        "7 22 76 137 34 80 82 62 61 51 -11 -28 -14 -203 -31 -43 -57 14 -52 -166 58 -7 80 -4 114 21 -8 -46 -62 10 -196 "
        "100 37 71 -9 -50 59 26 -13 -53 -30 8 -194 -96 19 -30 168 52 -36 54 -5 13 8 66 22"
    ),
    "sagittal": (
        "10 2 -216 -135 -62 -50 -19 10 6 -25 44 19 1 125 66 80 86 -11 -54 181 -73 -11 -77 50 -102 15 -22 38 66 -11 "
        "220 -30 60 -19 47 -48 6 -34 -17 66 66 56 119 -27 1 61 -160 -151 94 9 34 -71 -18 -29 48"
    ),
}
"""For each plane an intercept and the weights of 6 edge directions in 3 x 3 parts of the head, in hundredths: a
logistic regression on 800 Figshare slices told apart by eye, their mirror images and 150 phantoms."""


def normalise(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stretch a slice's own intensities to 0..255 between two percentiles, so that scanner gain drops out.

    Args:
        image: (H, W), any real dtype, finite, any unit.
        low, high: percentiles that become 0 and 255.

    Returns:
        uint8 (H, W); zeros where the slice is constant. Where the two percentiles meet (a few bright pixels on an
        even ground), the whole range is stretched instead.

    Notebook 02.
    """
    levels, where = _levels(image)
    bottom, top = np.percentile(image, (low, high)) if where is None else _percentiles(levels, where, (low, high))
    # Halves: the difference of two float64 extremes may overflow, and half of the least number above 0 is 0.
    if top / 2 <= bottom / 2:
        bottom, top = float(levels.min()), float(levels.max())
    if top / 2 <= bottom / 2:
        return np.zeros(image.shape, np.uint8)
    scaled = (np.clip(levels, bottom, top) / 2 - bottom / 2) / (top / 2 - bottom / 2) * 255
    grey = np.rint(scaled).astype(np.uint8)
    return grey if where is None else grey[where]


def head_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return the square around the head: the largest connected bright region of the smoothed slice, and 2 % more.

    Returns:
        top, left, bottom, right in pixels, bottom and right exclusive. The square lies inside the slice where the
        slice has room for it, else it reaches beyond two opposite edges. A slice without a head (black, or noise all
        over) gives the smallest centred square that holds all of it.

    Notebook 02.
    """
    height, width = image.shape
    whole = _square(0, 0, height, width, height, width)
    step = max(1, max(height, width) // 128)
    small = np.asarray(Image.fromarray(image).reduce(step))
    smooth = ndimage.uniform_filter(small.astype(np.float32), 3, mode="constant")
    bright = smooth > _threshold(smooth)
    regions, count = ndimage.label(bright)
    if not count:
        return whole
    sizes = np.bincount(regions.ravel())[1:]
    rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
    if sizes.max() < 0.02 * small.size:
        return whole
    bottom, right = min(rows.stop * step, height), min(columns.stop * step, width)
    return _square(rows.start * step, columns.start * step, bottom, right, height, width, margin=0.02)


def prepare(
    image: np.ndarray, mask: np.ndarray | None, preprocessing: params.Preprocessing
) -> tuple[np.ndarray, np.ndarray]:
    """Normalise, crop and resize a slice and its tumour mask alike; the shape of the head is kept.

    Args:
        image: (H, W), any real dtype, finite.
        mask: bool or 0/1 (H, W), or None for a slice without one.
        preprocessing: `image_size` is the side S in pixels.

    Returns:
        uint8 (S, S), shrunk with antialiasing, and uint8 (S, S) of 0 and 1: 1 where the tumour covers more than half
        of a pixel.

    Notebook 02.
    """
    grey = normalise(image, preprocessing.low_percentile, preprocessing.high_percentile)
    height, width = grey.shape
    box = head_box(grey) if preprocessing.crop_to_head else _square(0, 0, height, width, height, width)
    size = (preprocessing.image_size, preprocessing.image_size)
    picture = np.array(_cut(grey, box).resize(size, Image.Resampling.BICUBIC))
    if mask is None:
        return picture, np.zeros(size, np.uint8)
    covered = _cut(np.ascontiguousarray(mask, bool).view(np.uint8) * 255, box).resize(size, Image.Resampling.BOX)
    return picture, (np.asarray(covered) > 127).astype(np.uint8)


def plane(image: np.ndarray) -> str:
    """Infer the plane of a slice from the directions of its edges; no data set here records it. Notebook 01.

    Right for 98 % of 400 further Figshare slices, judged by eye, and 96 % of phantoms; where brain fills the picture
    or a tumour distorts it, a guess. For description only: no model is given it.

    Returns:
        "axial", "coronal" or "sagittal"; "unknown" for a slice without edges.

    Source: histograms of oriented gradients, Dalal and Triggs 2005.
    """
    step = max(1, max(image.shape) // 128)
    grey = normalise(np.ascontiguousarray(image[::step, ::step]), 0.5, 99.5)
    small = np.asarray(_cut(grey, head_box(grey)).resize((48, 48), Image.Resampling.BOX), np.float32)
    # Fat, vessels and enhancing tumours are brightest, and say nothing of the plane.
    down, right = np.gradient(np.minimum(small, 110))
    strength = np.hypot(down, right)
    if not strength.any():
        return "unknown"
    direction = (np.arctan2(down, right) % np.pi / np.pi * 6).astype(int) % 6
    parts = [np.where(direction == d, strength, 0).reshape(3, 16, 3, 16).sum((1, 3)) for d in range(6)]
    features = np.append(1, np.ravel(parts) / strength.sum() * 54)
    scores = {name: features @ np.array(weights.split(), float) for name, weights in PLANES.items()}
    return max(scores, key=scores.get)


def _levels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the distinct intensities of an integer slice and each pixel's place among them: far fewer to work on."""
    if image.dtype.kind == "b":
        image = image.astype(np.uint8)
    if image.dtype.kind in "iu" and int(image.max()) - int(image.min()) < 65_536:
        start = int(image.min())
        # MATLAB's slices come by columns: what follows is twice as fast by rows.
        where = image.astype(np.int64, order="C")
        where -= start
        return np.arange(start, int(image.max()) + 1, dtype=np.float64), where
    return image.astype(np.float64), None


def _percentiles(levels: np.ndarray, where: np.ndarray, wanted: tuple[float, float]) -> list[float]:
    """Percentiles as NumPy defines them (linear), from counts instead of sorting."""
    up_to = np.cumsum(np.bincount(where.ravel(), minlength=len(levels)))
    result = []
    for percent in wanted:
        rank = percent / 100 * (where.size - 1)
        below, above = (levels[np.searchsorted(up_to, r, side="right")] for r in (np.floor(rank), np.ceil(rank)))
        result.append(float(below + (above - below) * (rank - np.floor(rank))))
    return result


def _threshold(image: np.ndarray) -> float:
    """Half of Otsu's threshold (Otsu 1979), which parts head from air; half, because fat and skin are far brighter."""
    counts = np.bincount(image.astype(np.uint8).ravel(), minlength=256).astype(np.float64)
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return max(4.0, float(np.nanargmax(np.where(np.isnan(between), -1, between))) / 2)


def _square(top: int, left: int, bottom: int, right: int, height: int, width: int, margin: float = 0.0):
    side = int(np.ceil(max(bottom - top, right - left) * (1 + 2 * margin)))
    side = min(side, max(height, width))
    corner = []
    for first, last, length in ((top, bottom, height), (left, right, width)):
        start = (first + last - side) // 2
        corner.append(min(max(start, 0), length - side) if side <= length else (length - side) // 2)
    return corner[0], corner[1], corner[0] + side, corner[1] + side


def _cut(image: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """Cut a box out; what of it lies outside the slice is black."""
    top, left, bottom, right = box
    return Image.fromarray(np.ascontiguousarray(image)).crop((left, top, right, bottom))
