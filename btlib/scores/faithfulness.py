"""How the answer follows the map when slices change, and how the map follows the network when weights change."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import pandas as pd
from scipy import ndimage, special, stats

from btlib.fitting import batches


def ends_of(model, images) -> np.ndarray:
    """Return the logits (3, n, k) of blurred, whole and black slices, where `insertion_deletion` begins and ends."""
    images = np.asarray(images, np.float32)
    black = np.zeros((1, *images.shape[1:]), np.float32)
    logits = batches.predict(model, np.concatenate([_blurred(images), images, black]))
    blurred, whole, black = np.split(logits, [len(images), 2 * len(images)])
    return np.stack([blurred, whole, black.repeat(len(images), 0)])


def _blurred(images):
    # Wider than in the paper (S / 16 instead of S / 45), because tumours are: less would leave them in view.
    return ndimage.gaussian_filter(images, (0, *[images.shape[1] / 16] * 2))


def insertion_deletion(model, images, maps, classes, steps: int, ends: np.ndarray) -> pd.DataFrame:
    """Score how the class's probability follows the map: one row a slice, insertion and deletion, both 0 to 1.

    Pixels are shown (insertion, over a blurred slice) or blackened (deletion) in the order of the map, largest first,
    ties in a fixed random order; the score is the area under the probability's curve over the share of pixels. Insertion
    is better high, deletion low.

    Args:
        model: keras.Model from (n, S, S, 1) to logits.
        images, maps: (n, S, S); images 0 to 255.
        classes: (n,) int, the class whose probability is followed.
        steps: number of steps from the whole slice to none.
        ends: what `ends_of` returned for these slices.

    Petsiuk, Das, Saenko 2018, arXiv 1806.07421.
    """
    images = np.asarray(images, np.float32)
    classes, size = np.asarray(classes), images.shape[1]
    cuts = np.round(np.linspace(0, size * size, steps + 1))[1:-1, None, None, None]
    noise = np.random.default_rng(0).random(size * size)
    blurred, whole, black = ends
    areas = np.empty((2, len(images)))
    together = max(1, 512 // (2 * steps + 2))
    for start in range(0, len(images), together):
        some = slice(start, start + together)
        rank, seen = np.stack([_rank(m, noise) for m in maps[some]]), images[some]
        shown = rank < cuts
        inputs = np.stack([np.where(shown, seen, _blurred(seen)), np.where(shown, 0, seen)])
        inner = batches.predict(model, inputs.reshape(-1, size, size)).reshape(2, steps - 1, len(seen), -1)
        outer = np.stack([[blurred[some], whole[some]], [whole[some], black[some]]])
        logits = np.concatenate([outer[:, :1], inner, outer[:, 1:]], axis=1)
        followed = special.softmax(logits.astype(np.float64), axis=-1)[..., np.arange(len(seen)), classes[some]]
        areas[:, some] = np.trapezoid(followed, dx=1 / steps, axis=1)
    return pd.DataFrame({"insertion": areas[0], "deletion": areas[1]})


def _rank(heat, noise):
    return np.lexsort((noise, -heat.ravel())).argsort().reshape(heat.shape)


@contextmanager
def altered(model, layers: Sequence[str], how: Callable):
    """Change the weights of some layers, by `randomised(seed)` or `shuffled(seed)`, for the length of a `with` block."""
    weights = [w for name in layers for w in model.get_layer(name).weights]
    kept = [np.asarray(w) for w in weights]
    try:
        for weight in weights:
            weight.assign(how(weight))
        yield
    finally:
        for weight, value in zip(weights, kept, strict=True):
            weight.assign(value)


def randomised(seed: int) -> Callable:
    """Return what gives a weight a fresh start: kernels Glorot-uniform, scales and variances 1, biases and means 0."""
    seeds = np.random.default_rng(seed)

    def how(weight):
        if len(weight.shape) > 1:
            return keras.initializers.GlorotUniform(int(seeds.integers(2**31)))(weight.shape, weight.dtype)
        return np.full(weight.shape, weight.name in ("gamma", "scale", "moving_variance"), np.float32)

    return how


def shuffled(seed: int) -> Callable:
    """Return what puts the values of a weight in random order: same sizes, no meaning."""
    order = np.random.default_rng(seed)
    return lambda weight: order.permutation(np.asarray(weight).ravel()).reshape(weight.shape)


def cascade_steps(depths: dict[str, int], groups: int = 5) -> dict[str, list[str]]:
    """Return the steps of a cascading randomisation, from the head down: name to all layers that are random by then.

    Names are "head", "head and N of M blocks", ..., "whole network".

    Args:
        depths: layer name to number of blocks between it and the head, 0 for the head, as `models.depths` returns.
        groups: the blocks are taken in at most this many groups of equal size.

    Adebayo et al. 2018, arXiv 1810.03292.
    """
    deepest = max(depths.values())
    ends = sorted({0, *np.linspace(0, deepest, groups + 1).round().astype(int)[1:]})
    names = {0: "head", deepest: "whole network"}
    # Head first: one seed then draws the same weights for a layer at every step that includes it.
    downwards = sorted(depths, key=depths.get)
    return {
        names.get(end, f"head and {end} of {deepest} blocks"): [n for n in downwards if depths[n] <= end]
        for end in (int(e) for e in ends)
    }


def similarity(first, second) -> pd.DataFrame:
    """Compare maps with maps, (n, S, S), 0 to 1, slice by slice.

    One row a slice: rank_correlation (Spearman's, -1 to 1, over places; 0 where a map is constant) and ssim (structural
    similarity, -1 to 1, Gaussian window of 1.5 pixels; Wang et al. 2004, doi 10.1109/TIP.2003.819861).
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    flat = [stats.rankdata(a.reshape(len(a), -1), axis=1) for a in (first, second)]
    a, b = (r - r.mean(1, keepdims=True) for r in flat)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    correlation = np.divide((a * b).sum(1), spread, out=np.zeros(len(a)), where=spread > 0)

    def blur(pictures):
        return ndimage.gaussian_filter(pictures, (0, 1.5, 1.5))

    mean_1, mean_2 = blur(first), blur(second)
    cov = blur(first * second) - mean_1 * mean_2
    var = blur(first**2) - mean_1**2 + blur(second**2) - mean_2**2
    light = (2 * mean_1 * mean_2 + 0.01**2) / (mean_1**2 + mean_2**2 + 0.01**2)
    ssim = light * (2 * cov + 0.03**2) / (var + 0.03**2)
    return pd.DataFrame({"rank_correlation": correlation, "ssim": ssim.mean((1, 2))})
