"""Slices in batches: those that a fit learns from, and those that a model is asked about."""

import zlib
from collections.abc import Iterator

import keras
import numpy as np

from btlib.fitting import runs
from btlib.models import augmentation


def filled(images, size: int, rows=None) -> Iterator[tuple[slice, np.ndarray]]:
    """Go through slices in batches of one size; the last is filled up with zeros, as a smaller one would be compiled anew.

    Args:
        images: (N, ...).
        size: slices a batch, at least 1.
        rows: which of the slices, (n,) int, in this order; None for all.

    Yields:
        Where the batch's slices stand among `rows` (a slice of at most `size`), and (size, ...) of the images' dtype.
    """
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    for start in range(0, len(rows), size):
        batch = np.stack([images[int(r)] for r in rows[start : start + size]])
        count = len(batch)
        if count < size:
            batch = np.concatenate([batch, np.zeros((size - count, *batch.shape[1:]), batch.dtype)])
        yield slice(start, start + count), batch


def predict(model, images, rows=None, batch_size: int = 64, mirrored: bool = False) -> np.ndarray:
    """Return a model's logits for slices, (n, classes) float32, or what else it gives. Notebooks 04 to 06.

    Args:
        model: keras.Model from (n, S, S, 1) to logits, or its backbone alone, to features.
        images: (N, S, S) uint8.
        rows: which of them, (n,) int; None for all.
        batch_size: slices at a time.
        mirrored: whether to show the slices left-right mirrored.
    """
    out = [np.zeros((0, *model.output_shape[1:]), np.float32)]
    for some, batch in filled(images, batch_size, rows):
        logits = model.predict_on_batch((batch[:, :, ::-1] if mirrored else batch)[..., None])
        out.append(np.asarray(logits)[: some.stop - some.start])
    return np.concatenate(out)


def read(images, rows) -> np.ndarray:
    """Read slices as a batch: (n, S, S, 1) uint8, in the order of `rows`."""
    return np.stack([images[int(r)] for r in rows])[..., None]


class Batches(keras.utils.PyDataset):
    """The training slices of one epoch, in an order and a mixture that seed and epoch alone decide."""

    def __init__(self, images, part, wanted: runs.Fit, stream: str, masks=None):
        super().__init__()
        rows, y = part
        self.images, self.masks, self.recipe = images, masks, wanted.recipe
        self.seed, classes = number_of(wanted.seed, stream), len(wanted.classes)
        self.rng = np.random.default_rng(self.seed)
        order = self.rng.permutation(len(rows))
        self.rows, self.target = rows[order], np.eye(classes, dtype=np.float32)[y[order]]
        share = np.bincount(y, minlength=classes) / len(y)
        self.weight = (1 / (classes * share))[y[order]] if self.recipe.class_weights else np.ones(len(y))
        self.mixup = wanted.augmentation.mixup if wanted.augmentation else 0
        self.mixes = self.rng.beta(self.mixup, self.mixup, len(self)) if self.mixup else np.ones(len(self))

    def __len__(self):
        # A last batch of another size would be compiled anew; over epochs every slice gets its turn.
        return max(1, len(self.rows) // self.recipe.batch_size)

    def __getitem__(self, number):
        some = slice(number * self.recipe.batch_size, (number + 1) * self.recipe.batch_size)
        x, target = read(self.images, self.rows[some]), self.target[some]
        if self.masks is not None:
            masks = read(self.masks, self.rows[some])
            if self.recipe.erase:
                rng = np.random.default_rng((self.seed, number))
                x, masks, target = augmentation.erased(x, masks, target, self.recipe.erase, rng)
            x = np.concatenate([x, 255 * masks], axis=-1) if self.recipe.cam_loss else x
        if self.mixup:
            part = np.float32(self.mixes[number])
            x = part * x + (1 - part) * x[::-1]
            target = part * target + (1 - part) * target[::-1]
        return x, target, self.weight[some].astype(np.float32)


def number_of(seed: int, stream: str) -> int:
    """Return the seed of one stream of random numbers of a fit: an epoch's order, a layer's draws."""
    return zlib.crc32(f"{seed} {stream}".encode())
