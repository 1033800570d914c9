"""Class activation maps of the fitted models, and how well they point at the tumour."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import pandas as pd
from scipy import ndimage, special, stats

from btlib import DataError, params
from btlib.data.datasets import Dataset
from btlib.fitting import runs
from btlib.models import registry as models
from btlib.scores import metrics

SCORECAM_CHANNELS = 32
"""Score-CAM tries this many channels, those that vary most over the slice (Faster Score-CAM), not all of them."""

CASCADE_SLICES = 100
"""The cascade compares maps on at most this many test slices, evenly spread over them."""

SCORES = ("energy", "pointing", "pointing_tolerance", "iou", "insertion", "deletion")
"""The scores that are summarised, in the order of their columns."""

_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


# ---- maps -----------------------------------------------------------------------------------------------------------


def maps(model, images, classes=None, method: str = "gradcam", layer: str | None = None, batch_size: int = 32):
    """Return the class activation map of every slice.

    Args:
        model: flat functional keras.Model from (n, S, S, 1) to logits (n, k).
        images: (n, S, S), uint8 or float, 0 to 255.
        classes: (n,) int, the class that is explained, 0 to k - 1; one int for all; None: the predicted one.
        method: key of `METHODS`.
        layer: name of the layer whose output is weighted; None: the last with places, (n, h, w, c) or (n, tokens, d).
        batch_size: slices a step.

    Returns:
        float32 (n, S, S), 0 to 1; each map's largest value is 1, or the map is zero everywhere.

    Raises:
        DataError: wrong shapes, values that are not finite, no such class, method or layer.

    Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74; the gradient is that of the logit. Notebook 05.
    """
    return maps_of(model, images, classes, [method], layer, batch_size)[method]


def maps_of(model, images, classes, methods: Sequence[str], layer: str | None = None, batch_size: int = 32) -> dict:
    """Return the maps of several methods from one pass.

    Args:
        model, images, classes, layer, batch_size: as `maps`.
        methods: keys of `METHODS`.

    Returns:
        Method to float32 (n, S, S), as `maps`.

    Raises:
        DataError: as `maps`.

    Notebook 05.
    """
    for method in methods:
        if method not in METHODS:
            raise DataError(f"method: got {method!r}; allowed: {', '.join(METHODS)}")
    images, layer = _checked(model, images), _layer(model, layer)
    classes = _classes(model, images, classes, batch_size)
    size = images.shape[1]
    found = {m: np.zeros(images.shape[:3], np.float32) for m in methods}
    for part, features, gradients in _passes(model, images, classes, layer, batch_size):
        for method in methods:
            if method == "scorecam":
                gradients_ = _increases(model, images[part], classes[part], features, batch_size)
            else:
                gradients_ = gradients
            raw = np.maximum(METHODS[method](features, gradients_), 0)
            found[method][part] = _normalised(_resized(raw, size))
    return found


def gradcam(features, gradients):
    """Channels weighted by their mean gradient. Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74."""
    return (features * gradients.mean((1, 2), keepdims=True)).sum(-1)


def gradcam_plus_plus(features, gradients):
    """Channels weighted by their positive gradients. Chattopadhay et al. 2018, doi 10.1109/WACV.2018.00097."""
    below = 2 * gradients**2 + gradients**3 * features.sum((1, 2), keepdims=True)
    alpha = np.divide(gradients**2, below, out=np.zeros_like(gradients), where=below != 0)
    return (features * (alpha * np.maximum(gradients, 0)).sum((1, 2), keepdims=True)).sum(-1)


def hirescam(features, gradients):
    """Features times gradients, place by place. Draelos, Carin 2020, arXiv 2011.08891."""
    return (features * gradients).sum(-1)


def layercam(features, gradients):
    """Features times positive gradients, place by place. Jiang et al. 2021, doi 10.1109/TIP.2021.3089943."""
    return (features * np.maximum(gradients, 0)).sum(-1)


def scorecam(features, increases):
    """Channels weighted by what the logit gains when only they are shown. Wang et al. 2020, arXiv 1910.01279."""
    return (features * increases).sum(-1)


def eigencam(features, gradients):
    """First principal component of the features, no class involved. Muhammad, Yeasin 2020, arXiv 2008.00299."""
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(np.float64)
    # The component's score at each place is an eigenvector of the small (h * w)-square matrix of inner products.
    _, vectors = np.linalg.eigh(flat @ flat.transpose(0, 2, 1))
    projected = vectors[..., -1]
    # An eigenvector's sign is arbitrary; features are mostly positive, so their component is turned that way.
    sign = np.where(projected.sum(1, keepdims=True) < 0, -1, 1) * flat.any((1, 2))[:, None]
    return (projected * sign).reshape(features.shape[:3]).astype(features.dtype)


METHODS: dict[str, Callable] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "scorecam": scorecam,
    "eigencam": eigencam,
}
"""Name to method: from features and gradients, float32 (n, h, w, c), to a map (n, h, w) that may be negative."""


def to_grid(tokens: np.ndarray) -> np.ndarray:
    """Lay the patch tokens of a vision transformer out as a picture.

    Args:
        tokens: (n, t, d); the last g * g of the t tokens are patches, row by row, those before it class tokens.

    Returns:
        (n, g, g, d). Arrays that are pictures already, (n, h, w, c), come back unchanged. Notebook 05.
    """
    if tokens.ndim == 4:
        return tokens
    side = int(np.sqrt(tokens.shape[1]))
    return tokens[:, -side * side :].reshape(len(tokens), side, side, -1)


def gradients(model, images, classes, layer: str, batch_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's output and the gradient of one logit with respect to it.

    Args:
        model, images, classes, layer, batch_size: as `maps`; classes (n,) int.

    Returns:
        Features and gradients, float32, both (n, h, w, c); tokens come as a grid without the class token.

    Notebook 05.
    """
    images, layer = _checked(model, images), _layer(model, layer)
    classes = _classes(model, images, classes, batch_size)
    parts = [(f, g) for _, f, g in _passes(model, images, classes, layer, batch_size)]
    return np.concatenate([f for f, _ in parts]), np.concatenate([g for _, g in parts])


def _passes(model, images, classes, layer, batch_size):
    step = _step(model, layer)
    size = min(batch_size, len(images))
    for start in range(0, len(images), max(size, 1)):
        part = slice(start, min(start + size, len(images)))
        # The last batch is filled up: another size would be traced and compiled anew.
        rows = np.resize(np.arange(part.start, part.stop), size)
        chosen = np.eye(model.output_shape[-1], dtype=np.float32)[classes[rows]]
        found = step(images[rows][..., None].astype(np.float32), chosen)
        features, slopes = (np.asarray(a, np.float32)[: part.stop - start] for a in found)
        if not (np.isfinite(features).all() and np.isfinite(slopes).all()):
            raise DataError(f"model {model.name}: features or gradients at {layer!r} are not finite; was it fitted?")
        yield part, to_grid(features), to_grid(slopes)


def _step(model, layer: str) -> Callable:
    """Compile, once for a model and layer, the function from slices and chosen logits to features and gradients."""
    steps = _compiled.setdefault(model, {})
    if layer not in steps:
        backend = keras.backend.backend()
        if backend not in _BACKENDS:
            raise DataError(f"KERAS_BACKEND: got {backend}; gradients exist for {', '.join(_BACKENDS)}")
        steps[layer] = _BACKENDS[backend](*_cut(model, layer))
    return steps[layer]


def _cut(model, layer: str):
    """Cut the graph at a layer: a model up to it, which needs no gradients, and one from it to the logits.

    Where branches run past the layer (a layer inside a residual block), their tensors cross the cut beside it.
    """
    feature = model.get_layer(layer).output
    after, beside = {id(feature)}, {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if any(id(t) in after for t in node.input_tensors):
                after |= {id(t) for t in node.outputs}
                beside |= {id(t): t for t in node.input_tensors if id(t) not in after}
    if id(model.outputs[0]) not in after:
        raise DataError(f"layer: {layer!r} does not lead to the logits of {model.name}")
    ends = [feature, *beside.values()]
    below, above = keras.Model(model.input, ends), keras.Model(ends, model.outputs[0])

    # Keras hands back a list of one as its one element; here both ends of the cut are always lists.
    def run_below(images):
        return keras.tree.flatten(below(images, training=False))

    return run_below, above


def _tensorflow(below, above):
    import tensorflow as tf

    @tf.function(reduce_retracing=False)
    def step(images, chosen):
        features, *beside = below(images)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            logits = tf.cast(above([features, *beside], training=False), tf.float32)
            score = tf.reduce_sum(logits * chosen)
        slopes = tape.gradient(score, features, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.cast(features, tf.float32), tf.cast(slopes, tf.float32)

    return step


def _jax(below, above):
    import jax

    def score(features, beside, chosen, *state):
        logits, _ = above.stateless_call(*state, [features, *beside], training=False)
        return (logits * chosen).sum()

    # The weights are arguments: captured ones would be compiled in, and randomising them would change nothing.
    slope = jax.jit(jax.grad(score))

    def step(images, chosen):
        features, *beside = below(images)
        state = ([v.value for v in m] for m in (above.trainable_variables, above.non_trainable_variables))
        slopes = slope(features, beside, chosen, *state)
        return features.astype("float32"), slopes.astype("float32")

    return step


def _torch(below, above):
    import torch

    def step(images, chosen):
        with torch.no_grad():
            features, *beside = below(images)
        features = features.detach().requires_grad_()
        logits = above([features, *beside], training=False)
        score = (logits * torch.as_tensor(chosen, device=logits.device)).sum()
        (slopes,) = torch.autograd.grad(score, features)
        return features.detach().float().cpu().numpy(), slopes.float().cpu().numpy()

    return step


_BACKENDS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def _increases(model, images, classes, features, batch_size):
    count = min(SCORECAM_CHANNELS, features.shape[-1])
    chosen = np.argsort(-features.var((1, 2)), axis=1, kind="stable")[:, :count]
    size, rows = images.shape[1], np.arange(len(images))
    weights = np.zeros((len(images), 1, 1, features.shape[-1]), np.float32)
    gains = np.empty((len(images), count))
    for row in rows:
        channels = features[row][..., chosen[row]].transpose(2, 0, 1)
        low = channels.min((1, 2), keepdims=True)
        shown = images[row] * _normalised(_resized(channels - low, size))
        gains[row] = logits_of(model, shown, batch_size)[:, classes[row]]
    # Score-CAM subtracts the logit of an empty slice; the softmax that follows takes any constant out again.
    weights[rows[:, None], 0, 0, chosen] = special.softmax(gains, axis=1)
    return weights


def logits_of(model, images, batch_size: int = 32) -> np.ndarray:
    """Return the logits (n, k), float64, of slices (n, S, S). Notebook 05."""
    size, found = min(batch_size, len(images)), np.empty((len(images), model.output_shape[-1]))
    for start in range(0, len(images), max(size, 1)):
        part = images[start : start + size]
        # The last batch is filled up: another size would be traced and compiled anew.
        filled = part[np.resize(np.arange(len(part)), size)]
        found[start : start + size] = model.predict_on_batch(filled[..., None].astype(np.float32))[: len(part)]
    return found


def _resized(pictures, size: int):
    grown = keras.ops.image.resize(pictures[..., None], (size, size), "bilinear", data_format="channels_last")
    return keras.ops.convert_to_numpy(grown)[..., 0]


def _normalised(pictures):
    peak = pictures.max((1, 2), keepdims=True)
    return np.divide(pictures, peak, out=np.zeros_like(pictures), where=peak > 0)


def _checked(model, images) -> np.ndarray:
    images = np.asarray(images)
    wanted = model.input_shape
    if len(wanted) != 4 or wanted[-1] != 1:
        raise DataError(f"model {model.name}: takes {wanted}; allowed: (None, S, S, 1)")
    fits = images.ndim == 3 and images.shape[1] == images.shape[2] and wanted[1] in (None, images.shape[1])
    if not fits:
        raise DataError(f"images: got shape {images.shape}; allowed for {model.name}: (n, {wanted[1]}, {wanted[2]})")
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise DataError(f"images: got {images.dtype}, or values that are not finite; allowed: 0 to 255")
    return images


def _classes(model, images, classes, batch_size: int) -> np.ndarray:
    count = model.output_shape[-1]
    if classes is None:
        return logits_of(model, images, batch_size).argmax(1)
    classes = np.asarray(classes)
    if classes.dtype.kind not in "ui" or classes.shape not in ((), (len(images),)):
        raise DataError(f"classes: got {classes.dtype} {classes.shape}; allowed: one int, or ints ({len(images)},)")
    if classes.size and (classes.min() < 0 or classes.max() >= count):
        raise DataError(f"classes: got {classes.min()} to {classes.max()}; allowed: 0 to {count - 1}")
    return np.broadcast_to(classes, len(images))


def _layer(model, layer: str | None) -> str:
    ranks = {x.name: len(x.output.shape) for x in model.layers[1:] if hasattr(x.output, "shape")}
    places = [name for name, rank in ranks.items() if rank == 4] or [name for name, rank in ranks.items() if rank == 3]
    if layer is None and places:
        return places[-1]
    if ranks.get(layer) not in (3, 4):
        raise DataError(f"layer: got {layer!r}; {model.name} has these with places: {', '.join(places) or 'none'}")
    return layer


# ---- scores ---------------------------------------------------------------------------------------------------------


def localisation(maps, masks, tolerance: int) -> pd.DataFrame:
    """Score how well maps point at the tumour's mask.

    Args:
        maps: (n, S, S), 0 or more.
        masks: (n, S, S), nonzero inside; every mask has at least one pixel.
        tolerance: the pointing game's, in pixels of these S x S slices.

    Returns:
        One row a map, each column 0 to 1:
        energy: share of the map's sum that lies inside (Wang et al. 2020, arXiv 1910.01279);
        pointing, pointing_tolerance: whether the largest value lies inside, or within `tolerance` of it (Zhang et al.
        2018, doi 10.1007/s11263-017-1059-x); where several pixels are largest, the share of them;
        iou: overlap with the mask of the map's largest pixels, as many as the mask has; zeros are never among them,
        and pixels tied at the threshold count by their expectation;
        chance: the mask's share of the slice, which is the energy and the pointing score of a map without content.
        A map that is zero everywhere scores 0.

    Raises:
        DataError: shapes differ, or a mask is empty.

    Notebook 05.
    """
    maps, inside = np.asarray(maps, np.float64), np.asarray(masks) > 0
    if maps.shape != inside.shape or maps.ndim != 3:
        raise DataError(f"masks: got shape {inside.shape}; allowed: that of the maps, {maps.shape}")
    if len(maps) and not inside.any((1, 2)).all():
        raise DataError("masks: one is empty; such slices have no score and must be left out")
    near = np.stack([ndimage.distance_transform_edt(~m) <= tolerance for m in inside]) if len(maps) else inside
    top = (maps == maps.max((1, 2), keepdims=True)) & (maps > 0)
    return pd.DataFrame(
        {
            "energy": _share(maps, inside),
            "pointing": _share(top, inside),
            "pointing_tolerance": _share(top, near),
            "iou": _area_matched_iou(maps.reshape(len(maps), -1), inside.reshape(len(maps), -1)),
            "chance": inside.mean((1, 2)),
        }
    )


def _share(weights, inside):
    whole = weights.sum((1, 2), dtype=np.float64)
    part = (weights * inside).sum((1, 2), dtype=np.float64)
    return np.divide(part, whole, out=np.zeros(len(weights)), where=whole > 0)


def _area_matched_iou(maps, inside):
    area = inside.sum(1)
    threshold = np.sort(maps, axis=1)[np.arange(len(maps)), -area][:, None]
    above, tied = maps > threshold, (maps == threshold) & (threshold > 0)
    places = area - above.sum(1)
    taken = np.divide(places, tied.sum(1), out=np.zeros(len(maps)), where=tied.any(1))
    common = (above & inside).sum(1) + taken * (tied & inside).sum(1)
    highlighted = above.sum(1) + taken * tied.sum(1)
    return common / (area + highlighted - common)


def ends_of(model, images, batch_size: int = 32) -> np.ndarray:
    """Return the logits (3, n, k) of blurred, whole and black slices, where `faithfulness` begins and ends for any map.

    The blur is wider than in the paper (S / 16 instead of S / 45), because tumours are: less would leave them in view.

    Args:
        model, images, batch_size: as `maps`.

    Notebook 05.
    """
    images = _checked(model, images).astype(np.float32)
    black = np.zeros((1, *images.shape[1:]), np.float32)
    blurred, whole, black = np.split(
        logits_of(model, np.concatenate([_blurred(images), images, black]), batch_size), [len(images), 2 * len(images)]
    )
    return np.stack([blurred, whole, black.repeat(len(images), 0)])


def _blurred(images):
    return ndimage.gaussian_filter(images, (0, *[images.shape[1] / 16] * 2))


def faithfulness(
    model, images, maps, classes, steps: int, batch_size: int = 32, ends: np.ndarray | None = None
) -> pd.DataFrame:
    """Score how the class's probability follows the map: insertion and deletion.

    Pixels are shown (insertion, over a blurred slice) or blackened (deletion) in the order of the map, largest first,
    ties in a fixed random order; the score is the area under the probability's curve over the share of pixels.

    Args:
        model, images, batch_size: as `maps`.
        maps: (n, S, S).
        classes: (n,) int, the class whose probability is followed.
        steps: number of steps from the whole slice to none.
        ends: what `ends_of` returned for these slices, where several maps of them are scored; None to work it out.

    Returns:
        One row a slice: insertion (higher is better) and deletion (lower is better), both 0 to 1.

    Petsiuk, Das, Saenko 2018, arXiv 1806.07421. Notebook 05.
    """
    images = _checked(model, images).astype(np.float32)
    classes = _classes(model, images, classes, batch_size)
    size = images.shape[1]
    cuts = np.round(np.linspace(0, size * size, steps + 1))[1:-1, None, None, None]
    noise = np.random.default_rng(0).random(size * size)
    blurred, whole, black = ends_of(model, images, batch_size) if ends is None else ends
    areas = np.empty((2, len(images)))
    together = max(1, 512 // (2 * steps + 2))
    for start in range(0, len(images), together):
        part = slice(start, start + together)
        rank, seen = np.stack([_rank(m, noise) for m in maps[part]]), images[part]
        shown = rank < cuts
        inputs = np.stack([np.where(shown, seen, _blurred(seen)), np.where(shown, 0, seen)])
        inner = logits_of(model, inputs.reshape(-1, size, size), batch_size).reshape(2, steps - 1, len(seen), -1)
        outer = np.stack([[blurred[part], whole[part]], [whole[part], black[part]]])
        logits = np.concatenate([outer[:, :1], inner, outer[:, 1:]], axis=1)
        followed = special.softmax(logits, axis=-1)[..., np.arange(len(seen)), classes[part]]
        areas[:, part] = np.trapezoid(followed, dx=1 / steps, axis=1)
    return pd.DataFrame({"insertion": areas[0], "deletion": areas[1]})


def _rank(heat, noise):
    rank = np.empty(heat.size, np.int64)
    rank[np.lexsort((noise, -heat.ravel()))] = np.arange(heat.size)
    return rank.reshape(heat.shape)


def scores(model, images, masks, maps: dict, about: pd.DataFrame, tolerance: int, steps: int, batch_size: int = 32):
    """Score maps against masks, and by what the model does when the slice is altered along them.

    Args:
        model: the fitted model, also for maps that are controls.
        images, masks: (n, S, S). Slices whose mask is empty get no row.
        maps: method or control to (n, S, S).
        about: n rows, one a slice, with `class_index`, the class that was explained; its columns come first.
        tolerance, steps: as `localisation` and `faithfulness`.
        batch_size: slices a step.

    Returns:
        One row a slice and method: `about`, method, and the columns of `localisation` and `faithfulness`.

    Notebook 05.
    """
    images, masks = np.asarray(images), np.asarray(masks)
    keep = np.flatnonzero(masks.any((1, 2)))
    rows, found = about.iloc[keep].reset_index(drop=True), []
    classes, ends = rows.class_index.to_numpy(), ends_of(model, images[keep], batch_size)
    for method, heat in maps.items():
        pointed = localisation(heat[keep], masks[keep], tolerance)
        followed = faithfulness(model, images[keep], heat[keep], classes, steps, batch_size, ends)
        found.append(pd.concat([rows.assign(method=method), pointed, followed], axis=1))
    return pd.concat(found, ignore_index=True)


# ---- controls -------------------------------------------------------------------------------------------------------


def drawn_controls(classes, training_masks, training_labels) -> dict[str, np.ndarray]:
    """Return maps that no network had a part in.

    Args:
        classes: (n,) int, the class explained in each test slice.
        training_masks: (m, S, S) masks of training slices; test masks must not be among them.
        training_labels: (m,) int, their classes.

    Returns:
        Name to float32 (n, S, S): "uniform", which scores what chance does; "centred Gaussian", standard deviation a
        quarter of the side; "class-average mask", where tumours of that class lie in the training slices (all zero
        for a class that training slices have no mask of).

    Notebook 05.
    """
    masks, labels = np.asarray(training_masks) > 0, np.asarray(training_labels)
    size = masks.shape[1]
    from_centre = (np.arange(size) - (size - 1) / 2) / (size / 4)
    bell = np.exp(-(from_centre[:, None] ** 2 + from_centre**2) / 2).astype(np.float32)
    usual = np.zeros((max([*classes, *labels]) + 1, size, size), np.float32)
    for k in np.unique(labels):
        usual[k] = masks[labels == k].mean(0)
    shape = (len(classes), size, size)
    return {
        "uniform": np.broadcast_to(np.float32(1), shape),
        "centred Gaussian": np.broadcast_to(bell / bell.max(), shape),
        "class-average mask": _normalised(usual)[classes],
    }


@contextmanager
def altered(model, layers: Sequence[str], how: Callable):
    """Change the weights of some layers for the length of a `with` block; afterwards they are as before.

    Args:
        model: keras.Model.
        layers: names of layers.
        how: `randomised(seed)` or `shuffled(seed)`: from a weight variable to its new value.

    Adebayo et al. 2018, arXiv 1810.03292. Notebook 05.
    """
    weights = [w for name in layers for w in model.get_layer(name).weights]
    kept = [np.asarray(w) for w in weights]
    try:
        for weight in weights:
            weight.assign(how(weight))
        yield model
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
    """Return the steps of a cascading randomisation, from the head down.

    Args:
        depths: layer name to number of blocks between it and the head, 0 for the head, as `models.depths` returns.
        groups: the blocks are taken in at most this many groups of equal size.

    Returns:
        Step's name to all layers that are random by then: "head", "head and N of M blocks", ..., "whole network".

    Adebayo et al. 2018, arXiv 1810.03292. Notebook 05.
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
    """Compare maps with maps, slice by slice.

    Args:
        first, second: (n, S, S), 0 to 1.

    Returns:
        One row a slice: rank_correlation (Spearman's, -1 to 1, over places; 0 where a map is constant) and ssim
        (structural similarity, -1 to 1, Gaussian window of 1.5 pixels; Wang et al. 2004, doi 10.1109/TIP.2003.819861).

    Notebook 05.
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


# ---- the study ------------------------------------------------------------------------------------------------------


def test_slices(run: runs.Run, data: Dataset) -> pd.DataFrame:
    """Return the test slices of a run, one a row, in the order of the manifest.

    Returns:
        image_id, label, patient_id, plane, predicted, confidence (the predicted class's probability, 0 to 1),
        outcome ("right" or "wrong"), class_index (of the predicted class, the one that maps explain), row (in `data`).

    Notebook 05.
    """
    found = run.predictions("test")
    probabilities = metrics.softmax(found[runs.logits_of(run.fit.classes)].to_numpy())
    row = pd.Series(np.arange(len(data.manifest)), data.manifest["image_id"])
    classes = probabilities.argmax(1)
    predicted = np.array(run.fit.classes)[classes]
    return (
        found[["image_id", "label", "patient_id", "plane"]]
        .replace("", "unknown")
        .assign(
            predicted=predicted,
            confidence=probabilities.max(1),
            outcome=np.where(predicted == found["label"], "right", "wrong"),
            class_index=classes,
            row=row.loc[found["image_id"]].to_numpy(),
        )
        .sort_values("row", ignore_index=True)
    )


def pictures(run: runs.Run, data: Dataset, methods: Sequence[str], batch_size: int = 32) -> tuple:
    """Return the test slices of a run as pictures, with the maps of the predicted classes.

    Args:
        run: the fitted model.
        data: the data set, prepared as the run was.
        methods: keys of `METHODS`.
        batch_size: slices a step.

    Returns:
        images and masks, uint8 (n, S, S), and method to maps, float32 (n, S, S), in the order of `test_slices`.

    Notebook 05.
    """
    slices = test_slices(run, data)
    layer = models.REGISTRY[run.fit.model].feature_layer
    images, masks = _pixels(slices, data)
    return images, masks, maps_of(run.model(), images, slices["class_index"].to_numpy(), methods, layer, batch_size)


def _pixels(slices: pd.DataFrame, data: Dataset):
    return [pixels[slices["row"].to_numpy()] for pixels in (data.images, data.masks)]


def examine(
    study: params.Study, name: str, run: runs.Run, data: Dataset, batch_size: int = 32
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score a run's maps of all its test slices, and those of its controls; follow them as its weights are randomised.

    Controls that need a network, "random weights" and "head shuffled", are made with the first of the methods.

    Args:
        study: its `gradcam` section says which methods and how they are scored; its seed draws random weights.
        name: of the model, as in `gradcam.models`.
        run: the fitted model.
        data: the data set, prepared as the run was.
        batch_size: slices a step.

    Returns:
        Scores, as `scores` with model and kind ("map" or "control"), one row a slice and method; slices without a mask
        have none. And the cascade: model, step, number (0 for the head), image_id, patient_id, and `similarity`.

    Notebook 05.
    """
    slices, method = test_slices(run, data), study.gradcam.methods[0]
    classes = slices["class_index"].to_numpy()
    images, masks = _pixels(slices, data)
    model, layer = run.model(), models.REGISTRY[run.fit.model].feature_layer
    made = maps_of(model, images, classes, study.gradcam.methods, layer, batch_size)
    controls = drawn_controls(classes, *_training_masks(run, data))

    steps = cascade_steps(models.depths(model, run.fit.model))
    everything = [part for parts in list(steps.values())[-1:] for part in parts]
    for control, layers, how in [
        ("head shuffled", steps["head"], shuffled),
        ("random weights", everything, randomised),
    ]:
        with altered(model, layers, how(study.seed)):
            controls[control] = maps(model, images, classes, method, layer, batch_size)

    settings = study.gradcam.tolerance_px, study.gradcam.deletion_steps
    found = scores(model, images, masks, made | controls, slices.drop(columns="row"), *settings, batch_size)
    found = found.drop(columns="class_index").assign(kind=np.where(found["method"].isin(list(made)), "map", "control"))
    found.insert(0, "model", name)

    spread = np.unique(np.linspace(0, len(slices) - 1, min(CASCADE_SLICES, len(slices))).round().astype(int))
    about = slices.iloc[spread][["image_id", "patient_id"]].reset_index(drop=True)
    followed = []
    for number, (step, layers) in enumerate(steps.items()):
        with altered(model, layers, randomised(study.seed)):
            drawn = maps(model, images[spread], classes[spread], method, layer, batch_size)
        alike = similarity(made[method][spread], drawn)
        followed.append(pd.concat([about.assign(model=name, step=step, number=number), alike], axis=1))
    return found, pd.concat(followed, ignore_index=True)


def cascade_summary(table: pd.DataFrame, statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average the cascade of `examine` over slices, with intervals over patients.

    Returns:
        model, number, step, score ("rank_correlation" or "ssim"), slices, mean, low, high.

    Notebook 05.
    """
    rows = []
    for (model, number, step), part in table.groupby(["model", "number", "step"], sort=False):
        for score in ("rank_correlation", "ssim"):
            value = metrics.mean_interval(part[score], part["patient_id"], statistics.bootstrap, statistics.level, seed)
            rows.append((model, number, step, score, len(part), *value))
    return pd.DataFrame(rows, columns=["model", "number", "step", "score", "slices", "mean", "low", "high"])


def _training_masks(run: runs.Run, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    held_out = set(run.predictions()["image_id"])
    trained = ~data.manifest["image_id"].isin(held_out) & data.manifest["label"].isin(run.fit.classes)
    rows = np.flatnonzero(trained & (data.manifest["mask_area"] > 0))
    return data.masks[rows], data.manifest["label"].iloc[rows].map(run.fit.classes.index).to_numpy()


def summary(table: pd.DataFrame, statistics: params.Statistics, seed: int) -> pd.DataFrame:
    """Average scores over slices, with intervals over patients.

    Args:
        table: the scores of `examine`, of one model or several.
        statistics: bootstrap samples and level.
        seed: of the bootstrap.

    Returns:
        model, method, kind, by ("all", "label", "outcome", "plane"), group, score, slices, patients, mean, low, high.
        A group without slices has no row.

    Notebook 05.
    """
    rows = []
    whole = table.assign(all="all slices")
    for by in ("all", "label", "outcome", "plane"):
        for (model, method, kind, group), part in whole.groupby(["model", "method", "kind", by], sort=False):
            patients = part["patient_id"].to_numpy()
            for score in SCORES:
                value = metrics.mean_interval(part[score], patients, statistics.bootstrap, statistics.level, seed)
                count = len(part), len(np.unique(patients))
                rows.append((model, method, kind, by, group, score, *count, *value))
    columns = ["model", "method", "kind", "by", "group", "score", "slices", "patients", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def against_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method whether its energy and pointing exceed each control with intervals that do not overlap.

    Args:
        table: what `summary` returns.

    Returns:
        model, method, score, mean, low, high, control, control_mean, control_low, control_high, exceeds (bool).

    Notebook 05.
    """
    wanted = ["energy", "pointing", "pointing_tolerance"]
    whole = table[(table["by"] == "all") & table["score"].isin(wanted)]
    columns = ["model", "method", "score", "mean", "low", "high"]
    maps_, controls = (whole.loc[whole["kind"] == kind, columns] for kind in ("map", "control"))
    named = {"method": "control", "mean": "control_mean", "low": "control_low", "high": "control_high"}
    both = maps_.merge(controls.rename(columns=named), on=["model", "score"])
    return both.assign(exceeds=both["low"] > both["control_high"])[[*columns, *list(named.values()), "exceeds"]]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Say of every method whether energy and pointing exceed every control.

    Args:
        table: what `against_controls` returns.

    Returns:
        model, method, exceeds (bool: energy and pointing, without tolerance, against all controls), not_exceeded
        ("energy: uniform, head shuffled; pointing: uniform", or "none").

    Notebook 05; the report's statement.
    """
    rows = []
    strict = table[table["score"].isin(["energy", "pointing"])]
    for (model, method), part in strict.groupby(["model", "method"], sort=False):
        lost = part[~part["exceeds"]]
        missing = "; ".join(f"{score}: {', '.join(found['control'])}" for score, found in lost.groupby("score"))
        rows.append((model, method, lost.empty, missing or "none"))
    return pd.DataFrame(rows, columns=["model", "method", "exceeds", "not_exceeded"])


def findings(study: params.Study, table: pd.DataFrame, beaten: pd.DataFrame) -> str:
    """Write what was found, in Markdown: numbers of the first method, and whether each method beats its controls.

    Args:
        study: the parameters.
        table: what `summary` returns.
        beaten: what `verdicts` returns.

    Notebook 05.
    """
    lines, method = [], study.gradcam.methods[0]

    def said(part, score):
        mean, low, high = (100 * part.loc[part["score"] == score, c].item() for c in ("mean", "low", "high"))
        return f"{mean:.1f} % ({low:.1f} to {high:.1f} %)"

    for model in study.gradcam.models:
        rows = table[table["model"] == model]
        whole, outcomes = rows[rows["by"] == "all"], rows[(rows["by"] == "outcome") & (rows["method"] == method)]
        found, uniform = (whole[whole["method"] == m] for m in (method, "uniform"))
        by_outcome = [f"{said(part, 'energy')} where it is {o}" for o, part in outcomes.groupby("group", sort=True)]
        lines.append(
            f"- **{model}, {method}:** {said(found, 'energy')} of the map's energy lies inside the tumour"
            f" ({'; '.join(by_outcome)}); by chance, {said(uniform, 'energy')}. The largest value lies inside"
            f" on {said(found, 'pointing')} of slices, within {study.gradcam.tolerance_px} pixels of it on"
            f" {said(found, 'pointing_tolerance')}."
        )
    for _, row in beaten.iterrows():
        whether = "exceed" if row["exceeds"] else "do **not** exceed"
        but = "" if row["exceeds"] else f" (not exceeded: {row['not_exceeded']})"
        lines.append(
            f"- **{row['model']}, {row['method']}:** energy inside the mask and pointing game {whether} every control"
            f" with intervals that do not overlap{but}."
        )
    return "\n".join(lines)


def pick(slices: pd.DataFrame) -> pd.DataFrame:
    """Choose slices to show by rule: of each class, right and wrong, the most, the median and the least confident.

    Args:
        slices: what `test_slices` returns.

    Returns:
        Rows of `slices`, their index kept, with `rule` ("highest", "median" or "lowest"); a group of fewer than three
        slices gives what it has.

    Notebook 05.
    """
    found = []
    for label in sorted(slices["label"].unique()):
        for outcome in ("right", "wrong"):
            part = slices[(slices["label"] == label) & (slices["outcome"] == outcome)]
            part = part.sort_values("confidence", ascending=False, kind="stable")
            places = {0: "highest", (len(part) - 1) // 2: "median", len(part) - 1: "lowest"} if len(part) > 2 else None
            places = places or dict(zip(range(len(part)), ("highest", "lowest"), strict=False))
            found += [part.iloc[[place]].assign(rule=rule) for place, rule in places.items()]
    return pd.concat(found)
