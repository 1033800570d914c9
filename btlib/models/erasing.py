"""Tumours erased from slices: where, and what is put in their place.

Slices (`image`) are uint8 (S, S); masks, regions to be filled and heads are bool (S, S). No function changes its arguments,
and what fills a region leaves the slice outside of it as it was. The same functions make training slices and judge the
network (`reliance.erased_slices`).
"""

import numpy as np
from scipy import fft, ndimage
from scipy.sparse import csgraph, linalg

TRAINED = ("surroundings", "grey", "mirrored")
"""Fills that training slices may get. `pasted` and `inpainted` are kept for judging and never trained on."""

SMOOTHING = 2.0
"""Standard deviation, in pixels, of the smoothing in `surroundings`."""


def head_of(image: np.ndarray) -> np.ndarray:
    """Return where the head is: the largest connected bright region of the smoothed slice, its holes filled.

    Bright is above half of Otsu's threshold, because fat is far brighter than the rest. A black slice has no head; one of
    a single grey is all head.
    """
    smooth = ndimage.uniform_filter(image, 3)
    regions, _ = ndimage.label(smooth > otsu(smooth) / 2)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    if not sizes.any():
        return np.zeros(image.shape, bool)
    holes, _ = ndimage.label(regions != sizes.argmax())
    edge = np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]])
    outside = np.isin(np.arange(holes.max() + 1), edge[edge > 0])
    return ~outside[holes]


def widen(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return a mask and all within some pixels (Euclidean): borders are drawn inside of what a tumour changes."""
    out = mask.copy()
    if pixels and mask.any():
        box = _box(mask, pixels)
        line = np.arange(-pixels, pixels + 1)
        out[box] = ndimage.binary_dilation(mask[box], line[:, None] ** 2 + line**2 <= pixels**2)
    return out


def elsewhere(mask: np.ndarray, head: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return a mask, not empty, moved to any place in the head where it neither covers nor touches itself, else None."""
    rows, columns = _box(mask, 0)
    shape = mask[rows, columns]
    forbidden = ~head | ndimage.binary_dilation(mask, np.ones((3, 3), bool))
    # Pixels of the shape that would lie on forbidden ones, for every place of its corner: a correlation.
    size = [fft.next_fast_len(n, real=True) for n in mask.shape]
    spectra = [fft.rfft2(a.astype(np.float32), size) for a in (forbidden, shape)]
    hits = fft.irfft2(spectra[0] * spectra[1].conj(), size)
    room = [whole - own + 1 for whole, own in zip(mask.shape, shape.shape, strict=True)]
    places = np.argwhere(hits[: room[0], : room[1]] < 0.5)
    if not len(places):
        return None
    top, left = places[rng.integers(len(places))]
    moved = np.zeros_like(mask)
    moved[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return moved


def filled(kind: str, image: np.ndarray, region: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Fill a region in one of the ways of `TRAINED`, with tissue that may be taken from within `head`."""
    if kind == "surroundings":
        return surroundings(image, region)
    fill = {"grey": grey, "mirrored": mirrored}[kind]
    return fill(image, region, head)


def surroundings(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fill a region with the nearest tissue around it, smoothed."""
    out = image.copy()
    if region.any():
        box = _box(region, round(4 * SMOOTHING))
        inside = region[box]
        nearest = ndimage.distance_transform_edt(inside, return_distances=False, return_indices=True)
        smooth = ndimage.gaussian_filter(image[box][tuple(nearest)].astype(np.float32), SMOOTHING)
        out[box][inside] = np.rint(smooth[inside])
    return out


def grey(image: np.ndarray, region: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Fill a region with one grey: the median of the head outside the region, 0 where there is no head outside."""
    seen = image[head & ~region]
    out = image.copy()
    out[region] = np.median(seen) if seen.size else 0
    return out


def mirrored(image: np.ndarray, region: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Fill a region with the tissue of the head's other side, mirrored.

    Mirrored left to right about the middle of the head. Where that lies in the region too (tumours in the middle) or
    outside the head, top to bottom; where that does as well, the surroundings.
    """
    out = surroundings(image, region)
    source = head & ~region
    if not source.any():
        return out
    rows, columns = np.nonzero(region)
    height, width = _box(head, 0)
    across = rows, width.start + width.stop - 1 - columns
    upright = height.start + height.stop - 1 - rows, columns
    for row, column in (upright, across):  # the last one that may be taken stays
        known = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
        known[known] = source[row[known], column[known]]
        out[rows[known], columns[known]] = image[row[known], column[known]]
    return out


def pasted(image: np.ndarray, region: np.ndarray, source: np.ndarray, donor: np.ndarray | None = None) -> np.ndarray:
    """Fill a region with the tissue at `source`, the region moved (`elsewhere`), of this slice or of a donor."""
    out = image.copy()
    out[region] = (image if donor is None else donor)[source]
    return out


def inpainted(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fill a region with the smoothest surface that meets its border: Laplace's equation.

    Source: the membrane interpolant of Perez et al. 2003, doi 10.1145/882262.882269, eq. 2.
    """
    from sklearn.feature_extraction.image import grid_to_graph

    out = image.copy()
    if not region.any():
        return out
    box = _box(region, 1)
    inside = region[box].ravel()
    # Each pixel is the mean of those of its four neighbours that exist.
    pixels = csgraph.laplacian(grid_to_graph(*region[box].shape, dtype=float)).tocsr()[inside]
    known = -pixels[:, ~inside] @ image[box].ravel()[~inside].astype(float)
    out[region] = np.rint(np.clip(linalg.spsolve(pixels[:, inside].tocsc(), known), 0, 255))
    return out


def noisy(image: np.ndarray, region: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise in a region, so that no fill is known by its smoothness; `sigma` in grey levels."""
    out = image.copy()
    noise = rng.standard_normal(np.count_nonzero(region), np.float32) * sigma
    out[region] = np.rint(np.clip(image[region] + noise, 0, 255))
    return out


def _box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the rectangle around a mask with a margin, cut at the edges of the slice."""
    ends = []
    for axis, length in zip((1, 0), mask.shape, strict=True):
        places = np.flatnonzero(mask.any(axis))
        ends.append(slice(max(places[0] - margin, 0), min(places[-1] + margin + 1, length)))
    return ends[0], ends[1]


def otsu(image: np.ndarray) -> int:
    """Return the grey level of a uint8 image that parts dark from bright with the largest variance between. Otsu 1979."""
    counts = np.bincount(image.ravel(), minlength=256)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    parts = below * (image.size - below)
    apart = (sums * image.size - sums[-1] * below).astype(float) ** 2
    return int(np.argmax(np.divide(apart, parts, out=np.zeros(256), where=parts > 0)))
