"""From a decoded slice to the square 8-bit picture a model is given."""

import numpy as np
from PIL import Image
from scipy import ndimage

from btlib import params

VERSION = 1
"""Raised when the same slice and parameters begin to give other pixels or another plane: caches are then made anew."""


def normalise(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stretch a slice's own intensities to 0..255 between two percentiles, so that scanner gain drops out.

    Args:
        image: (H, W), any real dtype, finite, any unit.
        low: percentile that becomes 0, 0 to 50.
        high: percentile that becomes 255, 50 to 100.

    Returns:
        uint8 (H, W); zeros where the slice is constant. Where the two percentiles meet (a few bright pixels on an
        even ground), the whole range is stretched instead.

    Notebook 02.
    """
    levels, where = _levels(image)
    bottom, top = np.percentile(image, (low, high)) if where is None else _percentiles(levels, where, (low, high))
    if top <= bottom:
        bottom, top = float(levels.min()), float(levels.max())
    if top <= bottom:
        return np.zeros(image.shape, np.uint8)
    # Halves first: the difference of two float64 extremes may overflow.
    scaled = np.clip((levels / 2 - bottom / 2) / (top / 2 - bottom / 2), 0, 1) * 255
    grey = np.rint(scaled).astype(np.uint8)
    return grey if where is None else grey[where]


def head_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return the square around the head: the largest connected bright region of the smoothed slice, and 2 % more.

    Args:
        image: uint8 (H, W), as `normalise` returns it.

    Returns:
        top, left, bottom, right in pixels, bottom and right exclusive. The square lies inside the slice where the
        slice has room for it, else it reaches beyond two opposite edges. A slice without a head (black, or noise all
        over) gives the smallest centred square that holds all of it.

    Notebook 02.
    """
    height, width = image.shape
    step = max(1, max(height, width) // 128)
    small = _shrink(image, step)
    smooth = ndimage.uniform_filter(small.astype(np.float32), 3, mode="constant")
    bright = smooth > _threshold(smooth)
    regions, count = ndimage.label(bright)
    if not count:
        return _square(0, 0, height, width, height, width)
    sizes = np.bincount(regions.ravel())[1:]
    rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
    if sizes.max() < 0.02 * small.size:
        return _square(0, 0, height, width, height, width)
    return _square(
        rows.start * step,
        columns.start * step,
        min(rows.stop * step, height),
        min(columns.stop * step, width),
        height,
        width,
        margin=0.02,
    )


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
    size = preprocessing.image_size
    picture = _resize(_cut(grey, box), size, Image.Resampling.BICUBIC)
    if mask is None:
        return picture, np.zeros((size, size), np.uint8)
    covered = _resize(_cut(np.asarray(mask, bool).astype(np.uint8) * 255, box), size, Image.Resampling.BOX)
    return picture, (covered > 127).astype(np.uint8)


def plane(image: np.ndarray) -> str:
    """Return "unknown": no data set here records the plane of a slice."""
    return "unknown"


def _levels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the distinct intensities of an integer slice and each pixel's place among them: far fewer to work on."""
    if image.dtype.kind == "b":
        image = image.astype(np.uint8)
    if image.dtype.kind in "iu" and int(image.max()) - int(image.min()) < 65_536:
        start = int(image.min())
        return np.arange(start, int(image.max()) + 1, dtype=np.float64), image.astype(np.int64) - start
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


def _shrink(image: np.ndarray, step: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).reduce(step)) if step > 1 else image


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


def _resize(picture: Image.Image, size: int, how: Image.Resampling) -> np.ndarray:
    return np.array(picture.resize((size, size), how))
