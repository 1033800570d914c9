"""Slices in batches of one size: a last, smaller batch would be traced and compiled anew."""

from collections.abc import Iterator

import numpy as np


def filled(images, size: int, rows=None) -> Iterator[tuple[slice, np.ndarray]]:
    """Go through slices in batches of one size; the last one is filled up with zeros.

    Args:
        images: (N, ...), an array or what is read lazily row by row, such as an h5py.Dataset.
        size: slices a batch, at least 1.
        rows: which of the slices, (n,) int, in this order; None for all.

    Yields:
        Where the batch's slices stand among `rows` (a slice of at most `size`), and (size, ...) of the images' dtype.

    `gradcam`, `faithfulness` and `reliance`.
    """
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        batch = np.stack([images[int(r)] for r in rows[start : start + size]])
        count = len(batch)
        if count < size:
            batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), batch.dtype)])
        yield slice(start, start + count), batch
