"""Tumours erased from slices: where, and what is put in their place.

Slices (`image`) are uint8 (S, S); masks, regions to be filled and heads are bool (S, S). No function changes its arguments,
and what fills a region leaves the slice outside of it as it was. The same functions make training slices and judge the network
(`reliance.erased_slices`), so the module needs nothing but NumPy and SciPy.
"""

import numpy as np
from scipy import fft, ndimage, sparse
from scipy.sparse import linalg

TRAINED = ("surroundings", "grey", "mirrored")
"""Fills that training slices may get. `pasted` and `inpainted` are kept for judging and never trained on."""

SMOOTHING = 2.0
"""Standard deviation, in pixels, of the smoothing in `surroundings`."""


def head_of(image: np.ndarray) -> np.ndarray:
    """Return where the head is: the largest connected bright region of the smoothed slice, its holes filled.

    Bright is above half of Otsu's threshold (Otsu 1979), which parts head from air; half, because fat is far brighter. A
    black slice has no head; one of a single grey is all head.
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
    """Return a mask, not empty, moved to another place in the head, where it neither covers nor touches itself.

    All such places are equally likely; None where there is none.
    """
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
    """Fill a region in one of the ways of `TRAINED`.

    Args:
        kind: its name.
        image, region: see above.
        head: where tissue may be taken from: without a tumour that is not to be copied.

    Raises:
        ValueError: no such fill, or the region is the whole slice.
    """
    if kind == "surroundings":
        return surroundings(image, region)
    if kind == "grey":
        return grey(image, region, head)
    if kind == "mirrored":
        return mirrored(image, region, head)
    raise ValueError(f"kind: got {kind!r}; allowed: {', '.join(TRAINED)}")


def surroundings(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fill a region with the nearest tissue around it, smoothed. ValueError where it is the whole slice."""
    _check_around(region)
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
    outside the head, top to bottom; where that does as well, the surroundings. ValueError as there.
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
    """Fill a region with tissue from elsewhere, of this slice or another.

    Args:
        image, region: see above.
        source: bool (S, S), the region's shape moved: `elsewhere`.
        donor: the slice that tissue is taken from; None for `image`.

    Raises:
        ValueError: source has another area than region.
    """
    taken = (image if donor is None else donor)[source]
    if len(taken) != np.count_nonzero(region):
        raise ValueError(f"source: has {len(taken)} pixels; allowed: the region's {np.count_nonzero(region)}")
    out = image.copy()
    out[region] = taken
    return out


def inpainted(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Fill a region with the smoothest surface that meets its border: Laplace's equation.

    ValueError where the region is the whole slice.

    Source: the membrane interpolant of Perez et al. 2003, doi 10.1145/882262.882269, eq. 2.
    """
    _check_around(region)
    out = image.copy()
    if not region.any():
        return out
    box = _box(region, 1)
    inside, grey_levels = region[box], image[box].astype(float)
    count = np.count_nonzero(inside)
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(count)
    # Each pixel is the mean of those of its four neighbours that exist.
    degree, known, pairs = np.zeros(count), np.zeros(count), []
    for here, there in _neighbours():
        own, other = number[here], number[there]
        at = own >= 0
        degree[own[at]] += 1
        border = at & (other < 0)
        np.add.at(known, own[border], grey_levels[there][border])
        pairs.append(np.stack([own[at & ~border], other[at & ~border]]))
    rows, columns = np.concatenate(pairs, axis=1)
    links = sparse.coo_array((np.ones(len(rows)), (rows, columns)), (count, count))
    equations = (sparse.diags_array(degree) - links).tocsc()
    out[box][inside] = np.rint(np.clip(linalg.spsolve(equations, known), 0, 255))
    return out


def noisy(image: np.ndarray, region: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise in a region, so that no fill is known by its smoothness; `sigma` in grey levels."""
    out = image.copy()
    noise = rng.standard_normal(np.count_nonzero(region), np.float32) * sigma
    out[region] = np.rint(np.clip(image[region] + noise, 0, 255))
    return out


def _check_around(region: np.ndarray) -> None:
    if region.all():
        raise ValueError("region: is the whole slice; allowed: one with something around it")


def _box(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Return the rectangle around a mask with a margin, cut at the edges of the slice."""
    ends = []
    for axis, length in zip((1, 0), mask.shape, strict=True):
        places = np.flatnonzero(mask.any(axis))
        ends.append(slice(max(places[0] - margin, 0), min(places[-1] + margin + 1, length)))
    return ends[0], ends[1]


def _neighbours():
    """Go through the four sides: the pixels that have a neighbour there, and these neighbours, as index pairs."""
    every, but_first, but_last = slice(None), slice(1, None), slice(None, -1)
    for here, there in ((but_first, but_last), (but_last, but_first)):
        yield (here, every), (there, every)
        yield (every, here), (every, there)


def otsu(image: np.ndarray) -> int:
    """Return the grey level that parts dark pixels from bright ones with the largest variance between the two.

    Args:
        image: uint8, of any shape.

    Source: Otsu 1979. Half of it parts head from air, as skin and fat are far brighter than the rest.
    """
    counts = np.bincount(image.ravel(), minlength=256)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    parts = below * (image.size - below)
    apart = (sums * image.size - sums[-1] * below).astype(float) ** 2
    return int(np.argmax(np.divide(apart, parts, out=np.zeros(256), where=parts > 0)))
