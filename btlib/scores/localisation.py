"""How well maps point at the tumour's mask, and the maps that need no network, without which a score means nothing."""

import numpy as np
import pandas as pd
from scipy import ndimage

from btlib.scores.gradcam import enlarged

SCORES = ("energy", "pointing", "pointing_tolerance", "iou")
"""The columns of `scores` that are summarised."""

CEILING = "ceiling"
"""The true mask on a map's grid: no map of that grid can be expected to do better."""


def scores(maps, masks, tolerance: int, distance=None) -> pd.DataFrame:
    """Score how well maps point at the tumour's mask.

    Args:
        maps: (n, S, S), 0 or more.
        masks: (n, S, S), nonzero inside; every mask has at least one pixel.
        tolerance: the pointing game's, in pixels of these S x S slices.
        distance: what `distances(masks)` returned, where several maps of the same slices are scored.

    Returns:
        One row a map, each column 0 to 1:
        energy: share of the map's sum that lies inside (energy-based pointing game: Wang et al. 2020, arXiv 1910.01279,
        section 4.4; relevance mass accuracy: Arras et al. 2022, doi 10.1016/j.inffus.2021.11.008);
        pointing, pointing_tolerance: whether the largest value lies inside, or within `tolerance` of it, or the share of
        several (pointing game: Zhang et al. 2018, doi 10.1007/s11263-017-1059-x, who allow 15 pixels);
        iou: intersection over union of the mask and the map's largest pixels, as many as the mask has, so that no
        threshold is chosen; zeros are never among them, and pixels tied at the threshold count by their expectation.
        A map that is zero everywhere scores 0.
    """
    maps, inside = np.asarray(maps, np.float32), np.asarray(masks) > 0
    near = (distances(inside) if distance is None else distance) <= tolerance
    top = (maps == maps.max((1, 2), keepdims=True)) & (maps > 0)
    flat = maps.reshape(len(maps), -1), inside.reshape(len(maps), -1)
    return pd.DataFrame(
        {
            "energy": _share(maps, inside),
            "pointing": _share(top, inside),
            "pointing_tolerance": _share(top, near),
            "iou": [_iou_of_equal_area(heat, mask) for heat, mask in zip(*flat, strict=True)],
        },
        dtype=float,
    )


def distances(masks) -> np.ndarray:
    """Return how far each pixel is from the mask, in pixels, float32 (n, S, S); 0 inside."""
    outside = np.asarray(masks) == 0
    return np.array([ndimage.distance_transform_edt(m) for m in outside], np.float32).reshape(outside.shape)


def _share(weights, inside):
    whole = weights.sum((1, 2), dtype=np.float64)
    within = (weights * inside).sum((1, 2), dtype=np.float64)
    return np.divide(within, whole, out=np.zeros(len(weights)), where=whole > 0)


def _iou_of_equal_area(heat, mask) -> float:
    area = np.count_nonzero(mask)
    threshold = np.partition(heat, -area)[-area]
    above, tied = heat > threshold, (heat == threshold) & (threshold > 0)
    places = area - np.count_nonzero(above)
    taken = places / np.count_nonzero(tied) if tied.any() else 0.0
    common = np.count_nonzero(above & mask) + taken * np.count_nonzero(tied & mask)
    highlighted = np.count_nonzero(above) + taken * np.count_nonzero(tied)
    return common / (area + highlighted - common)


def on_grid(pictures, grid: tuple[int, int]) -> np.ndarray:
    """Return what a map of a grid can show of pictures, (n, S, S), 0 or more: the mean over each cell, drawn as maps."""
    pictures = np.asarray(pictures, np.float32)
    size = pictures.shape[-1]
    down, across = (_cells(cells, size) for cells in grid)
    return enlarged(down @ pictures @ across.T, size)


def _cells(cells: int, size: int) -> np.ndarray:
    """The share (cells, size) that each of `size` pixels in a row has in each cell's mean."""
    ends = np.linspace(0, size, cells + 1)
    pixel = np.arange(size)
    overlap = np.minimum(ends[1:, None], pixel + 1) - np.maximum(ends[:-1, None], pixel)
    return (np.clip(overlap, 0, None) * cells / size).astype(np.float32)


def controls(images, masks, classes, groups, training, grid: tuple[int, int]) -> dict[tuple[str, str], np.ndarray]:
    """Return maps that no network had a part in, each as it is and on the grid of a network's map, and the ceiling.

    Args:
        images, masks: (n, S, S), uint8; masks are nonzero inside.
        classes, groups: (n,), the class explained in each slice, int, and its patient group.
        training: masks (m, S, S), classes (m,) int and patient groups (m,) of training slices.
        grid: cells down and across of the network's map.

    Returns:
        (name, grid in words) to float32 (n, S, S): "uniform", which scores what chance does; "centred Gaussian", standard
        deviation a quarter of the side; "class-average mask" (`class_average`); "brightness", the slice itself; "edges",
        the size of its gradient (Gaussian, 1/80 of the side and at least a pixel). And `CEILING`, on the map's grid alone.
    """
    images = np.asarray(images, np.float32)
    size = images.shape[1]
    from_centre = (np.arange(size) - (size - 1) / 2) / (size / 4)
    bell = np.exp(-(from_centre[:, None] ** 2 + from_centre**2) / 2)
    edges = [ndimage.gaussian_gradient_magnitude(image, max(1, size / 80)) for image in images]
    drawn = {
        "uniform": np.ones(images.shape, np.float32),
        "centred Gaussian": np.broadcast_to(np.float32(bell / bell.max()), images.shape),
        "class-average mask": class_average(classes, groups, *training),
        "brightness": images / 255,
        "edges": np.reshape(edges, images.shape),
    }
    words = in_words(grid)
    whole = {(name, in_words((size, size))): heat for name, heat in drawn.items()}
    cells = {(name, words): on_grid(heat, grid) for name, heat in drawn.items()}
    return whole | cells | {(CEILING, words): on_grid(np.asarray(masks) > 0, grid)}


def class_average(classes, groups, training_masks, training_classes, training_groups) -> np.ndarray:
    """Return the share of other patients' training slices of a slice's class that have tumour there, float32 (n, S, S).

    Arguments as for `controls`; zeros where there are no such slices.
    """
    masks = np.asarray(training_masks) > 0
    labels, owners = np.asarray(training_classes, int), np.asarray(training_groups)
    kinds = 1 + max([-1, *labels, *classes])
    sums = np.array([masks[labels == k].sum(0, dtype=np.float32) for k in range(kinds)])
    counts = np.bincount(labels, minlength=kinds)
    means = np.zeros((len(classes), *masks.shape[1:]), np.float32)
    for place, (k, group) in enumerate(zip(classes, groups, strict=True)):
        own = (labels == k) & (owners == group)
        if count := counts[k] - np.count_nonzero(own):
            means[place] = (sums[k] - masks[own].sum(0)) / count
    return means


def in_words(grid: tuple[int, int]) -> str:
    """Return a grid as tables write it: "10 x 10"."""
    return f"{grid[0]} x {grid[1]}"
