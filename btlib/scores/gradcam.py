"""Class activation maps of the fitted models.

Grad-CAM itself is eight lines. With `top` the last layer that has places, `image` (1, S, S, 1) and class `k`,

    both = keras.Model(model.input, [model.get_layer(top).output, model.output])
    with tf.GradientTape() as tape:
        features, logits = both(image)
        logit = logits[:, k]
    weights = tf.reduce_mean(tape.gradient(logit, features), axis=(1, 2))
    coarse = tf.nn.relu(tf.einsum("nhwc,nc->nhw", features, weights))[..., None]
    heat = tf.image.resize(coarse, image.shape[1:3])[..., 0]
    heat = heat / tf.reduce_max(heat)

is what `maps(model, image[..., 0], k)` returns (a test compares the two); the rest of this module is other methods,
branches that run past the layer, batches, and input that has no map.
"""

import weakref
from collections.abc import Callable, Sequence

import keras
import numpy as np
from scipy import special

from btlib import DataError
from btlib.fitting import batches
from btlib.models.cams import METHODS

BATCH = 32
"""Slices a step."""

SCORECAM_CHANNELS = 32
"""Score-CAM tries this many channels, those that vary most over the slice (Faster Score-CAM), not all of them."""


def maps(model, images, classes=None, method: str = "gradcam", layer: str | None = None):
    """Return the class activation map of every slice.

    Args:
        model: flat functional keras.Model from (n, S, S, 1) to logits (n, k).
        images: (n, S, S), uint8 or float, 0 to 255.
        classes: (n,) int, the class that is explained, 0 to k - 1; one int for all; None: the predicted one.
        method: key of `cams.METHODS`.
        layer: name of the layer whose output is weighted; None: the last with places, (n, h, w, c) or (n, tokens, d).

    Returns:
        float32 (n, S, S), 0 to 1; each map's largest value is 1, or the map is zero everywhere.

    Raises:
        DataError: wrong shapes, values that are not finite, no such class, method or layer.

    Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74; the gradient is that of the logit.
    """
    coarse = coarse_maps(model, images, classes, [method], layer)[method]
    return enlarged(coarse, np.shape(images)[1])


def coarse_maps(model, images, classes, methods: Sequence[str], layer: str | None = None) -> dict:
    """Return the maps of several methods on the layer's own grid.

    Args:
        model, images, classes, layer: as `maps`.
        methods: keys of `cams.METHODS`.

    Returns:
        Method to float32 (n, h, w), 0 or more, on no common scale; (0, 1, 1) where there are no slices.

    Raises:
        DataError: as `maps`.
    """
    for method in methods:
        if method not in METHODS:
            raise DataError(f"method: got {method!r}; allowed: {', '.join(METHODS)}")
    images, layer = _checked(model, images), _layer(model, layer)
    classes = _classes(model, images, classes)
    coarse = {method: [] for method in methods}
    for some, features, slopes in _passes(model, images, classes, layer):
        for method in methods:
            scored = method == "scorecam"
            weights = _increases(model, images[some], classes[some], features) if scored else slopes
            coarse[method].append(np.maximum(METHODS[method](features, weights), 0))
    nothing = np.zeros((0, 1, 1), np.float32)
    return {method: np.concatenate(parts) if parts else nothing for method, parts in coarse.items()}


def enlarged(coarse, size: int) -> np.ndarray:
    """Return maps at the size of the slices, bilinear, each divided by its largest value.

    Args:
        coarse: float32 (n, h, w), 0 or more.
        size: S.

    Returns:
        float32 (n, S, S), 0 to 1; zeros where a map is zero.
    """
    return _normalised(_resized(coarse, size))


def to_grid(tokens: np.ndarray) -> np.ndarray:
    """Lay the patch tokens of a vision transformer, (n, t, d), out as a picture, (n, g, g, d).

    The last g * g of the t tokens are patches, row by row, those before them class tokens. Arrays that are pictures
    already, (n, h, w, c), come back unchanged.
    """
    if tokens.ndim == 4:
        return tokens
    side = int(np.sqrt(tokens.shape[1]))
    return tokens[:, -side * side :].reshape(len(tokens), side, side, -1)


_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def step_of(model, layer: str) -> Callable:
    """Compile, once for a model and layer, the function from slices to a layer's features and their gradients.

    Args:
        model: flat functional keras.Model from (n, S, S, 1) to logits (n, k). New weights need no new step.
        layer: name of a layer that leads to the logits.

    Returns:
        From float32 slices (n, S, S, 1) and (n, k), 1 for the logit that is explained, to features and gradients.

    Raises:
        DataError: the layer does not lead to the logits.
    """
    steps = _steps.setdefault(model, {})
    if layer not in steps:
        steps[layer] = _step(*cut(model, layer))
    return steps[layer]


def cut(model, layer: str):
    """Cut the graph at a layer: a model up to it, which needs no gradients, and one from it to the logits.

    Where branches run past the layer (a layer inside a residual block), their tensors cross the cut beside it: both ends
    are the layer's output and these.

    Raises:
        DataError: the layer does not lead to the logits.
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
    return keras.Model(model.input, ends), keras.Model(ends, model.outputs[0])


def _step(below, above):
    # `flatten`: Keras hands back a list of one as its one element; here both ends of the cut are always lists.
    if keras.config.backend() == "jax":
        return _step_of_jax(below, above)
    import tensorflow as tf

    @tf.function(reduce_retracing=False)
    def step(images, explained):
        features, *beside = keras.tree.flatten(below(images, training=False))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(features)
            logits = tf.cast(above([features, *beside], training=False), tf.float32)
            score = tf.reduce_sum(logits * explained)
        slopes = tape.gradient(score, features, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.cast(features, tf.float32), tf.cast(slopes, tf.float32)

    return step


def _step_of_jax(below, above):
    import jax

    def weights_of(model):
        return [[v.value for v in some] for some in (model.trainable_variables, model.non_trainable_variables)]

    @jax.jit
    def traced(weights, images, explained):
        features, *beside = keras.tree.flatten(below.stateless_call(*weights[0], images, training=False)[0])

        def score(features):
            logits, _ = above.stateless_call(*weights[1], [features, *beside], training=False)
            return (logits.astype("float32") * explained).sum()

        return features.astype("float32"), jax.grad(score)(features).astype("float32")

    return lambda images, explained: traced([weights_of(below), weights_of(above)], images, explained)


def _passes(model, images, classes, layer):
    step = step_of(model, layer)
    explained = np.eye(model.output_shape[-1], dtype=np.float32)[classes]
    size = max(1, min(BATCH, len(images)))
    both = zip(batches.filled(images, size), batches.filled(explained, size), strict=True)
    for (some, batch), (_, target) in both:
        count = some.stop - some.start
        outputs = step(batch[..., None].astype(np.float32), target)
        features, slopes = (np.asarray(a, np.float32)[:count] for a in outputs)
        if not (np.isfinite(features).all() and np.isfinite(slopes).all()):
            raise DataError(f"model {model.name}: features or gradients at {layer!r} are not finite; was it fitted?")
        yield some, to_grid(features), to_grid(slopes)


def _increases(model, images, classes, features):
    count = min(SCORECAM_CHANNELS, features.shape[-1])
    varying = np.argsort(-features.var((1, 2)), axis=1, kind="stable")[:, :count]
    size, rows = images.shape[1], np.arange(len(images))
    weights = np.zeros((len(images), 1, 1, features.shape[-1]), np.float32)
    gains = np.empty((len(images), count))
    for row in rows:
        channels = features[row][..., varying[row]].transpose(2, 0, 1)
        low = channels.min((1, 2), keepdims=True)
        shown = images[row] * _normalised(_resized(channels - low, size))
        gains[row] = logits_of(model, shown)[:, classes[row]]
    # Score-CAM subtracts the logit of an empty slice; the softmax that follows takes any constant out again.
    weights[rows[:, None], 0, 0, varying] = special.softmax(gains, axis=1)
    return weights


def logits_of(model, images) -> np.ndarray:
    """Return a model's logits for slices.

    Args:
        model: keras.Model from (n, S, S, 1) to logits (n, k).
        images: (n, S, S), uint8 or float, 0 to 255.

    Returns:
        float64 (n, k).
    """
    logits = np.empty((len(images), model.output_shape[-1]))
    for some, batch in batches.filled(images, max(1, min(BATCH, len(images)))):
        outputs = model.predict_on_batch(batch[..., None].astype(np.float32))
        logits[some] = np.asarray(outputs)[: some.stop - some.start]
    return logits


def _resized(pictures, size: int):
    grown = keras.ops.image.resize(pictures[..., None], (size, size), "bilinear", data_format="channels_last")
    return keras.ops.convert_to_numpy(grown)[..., 0]


def _normalised(pictures):
    peak = pictures.max((1, 2), keepdims=True)
    return np.divide(pictures, peak, out=np.zeros_like(pictures), where=peak > 0)


def _checked(model, images) -> np.ndarray:
    images = np.asarray(images)
    shape = model.input_shape
    if len(shape) != 4 or shape[-1] != 1:
        raise DataError(f"model {model.name}: takes {shape}; allowed: (None, S, S, 1)")
    fits = images.ndim == 3 and images.shape[1] == images.shape[2] and shape[1] in (None, images.shape[1])
    if not fits:
        raise DataError(f"images: got shape {images.shape}; allowed for {model.name}: (n, {shape[1]}, {shape[2]})")
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise DataError(f"images: got {images.dtype}, or values that are not finite; allowed: 0 to 255")
    return images


def _classes(model, images, classes) -> np.ndarray:
    count = model.output_shape[-1]
    if classes is None:
        return logits_of(model, images).argmax(1)
    classes = np.asarray(classes)
    if classes.dtype.kind not in "ui" or classes.shape not in ((), (len(images),)):
        raise DataError(f"classes: got {classes.dtype} {classes.shape}; allowed: one int, or ints ({len(images)},)")
    if classes.size and (classes.min() < 0 or classes.max() >= count):
        raise DataError(f"classes: got {classes.min()} to {classes.max()}; allowed: 0 to {count - 1}")
    return np.broadcast_to(classes, len(images))


def _layer(model, layer: str | None) -> str:
    ranks = {x.name: len(x.output.shape) for x in model.layers[1:] if hasattr(x.output, "shape")}
    places = [name for name, rank in ranks.items() if rank in (3, 4)]
    if layer is None and places:
        return places[-1]
    if ranks.get(layer) not in (3, 4):
        raise DataError(f"layer: got {layer!r}; {model.name} has these with places: {', '.join(places) or 'none'}")
    return layer
