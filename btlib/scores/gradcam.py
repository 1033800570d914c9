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
branches that run past the layer, and batches.
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

SCORECAM_CHANNELS = 32
"""Score-CAM tries this many channels, those that vary most over the slice (Faster Score-CAM), not all of them."""


def maps(model, images, classes=None, method: str = "gradcam", layer: str | None = None) -> np.ndarray:
    """Return the class activation map of every slice, float32 (n, S, S), as `enlarged` does; arguments as `coarse_maps`.

    Selvaraju et al. 2017, doi 10.1109/ICCV.2017.74; the gradient is that of the logit.
    """
    coarse = coarse_maps(model, images, classes, [method], layer)[method]
    return enlarged(coarse, np.shape(images)[1])


def coarse_maps(model, images, classes, methods: Sequence[str], layer: str | None = None) -> dict:
    """Return the maps of several methods on the layer's own grid.

    Args:
        model: flat functional keras.Model from (n, S, S, 1) to logits (n, k).
        images: (n, S, S), uint8 or float, 0 to 255.
        classes: (n,) int, the class that is explained, 0 to k - 1; one int for all; None: the predicted one.
        methods: keys of `cams.METHODS`.
        layer: name of the layer whose output is weighted; None: the last with places, (n, h, w, c) or (n, tokens, d).

    Returns:
        Method to float32 (n, h, w), 0 or more, on no common scale; (0, 1, 1) where there are no slices.

    Raises:
        DataError: features or gradients are not finite.
    """
    step = step_of(model, layer or _last_with_places(model))
    if classes is None:
        classes = batches.predict(model, images).argmax(1)
    classes = np.broadcast_to(classes, len(images))
    explained = np.eye(model.output_shape[-1], dtype=np.float32)[classes]
    size = max(1, min(BATCH, len(images)))
    coarse = {method: [] for method in methods}
    for (some, batch), (_, target) in zip(batches.filled(images, size), batches.filled(explained, size), strict=True):
        outputs = step(batch[..., None].astype(np.float32), target)
        features, slopes = (to_grid(np.asarray(a, np.float32)[: some.stop - some.start]) for a in outputs)
        if not (np.isfinite(features).all() and np.isfinite(slopes).all()):
            raise DataError(f"model {model.name}: features or gradients are not finite; was it fitted?")
        for method in methods:
            scored = method == "scorecam"
            weights = _increases(model, images[some], classes[some], features) if scored else slopes
            coarse[method].append(np.maximum(METHODS[method](features, weights), 0))
    nothing = np.zeros((0, 1, 1), np.float32)
    return {method: np.concatenate(parts) if parts else nothing for method, parts in coarse.items()}


def enlarged(coarse, size: int) -> np.ndarray:
    """Return maps, float32 (n, h, w), 0 or more, at the size of the slices, bilinear, each divided by its largest value.

    The result is float32 (n, S, S), 0 to 1; a map that is zero stays zero.
    """
    grown = keras.ops.image.resize(coarse[..., None], (size, size), "bilinear", data_format="channels_last")
    grown = keras.ops.convert_to_numpy(grown)[..., 0]
    peak = grown.max((1, 2), keepdims=True)
    return np.divide(grown, peak, out=np.zeros_like(grown), where=peak > 0)


def to_grid(tokens: np.ndarray) -> np.ndarray:
    """Lay patch tokens of a vision transformer, (n, t, d), out as a picture, (n, g, g, d); pictures stay as they are.

    The last g * g of the t tokens are patches, row by row, those before them class tokens.
    """
    if tokens.ndim == 4:
        return tokens
    side = int(np.sqrt(tokens.shape[1]))
    return tokens[:, -side * side :].reshape(len(tokens), side, side, -1)


_steps: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def step_of(model, layer: str) -> Callable:
    """Compile, once for a model and layer, the function from slices to a layer's features and their gradients.

    It takes float32 slices (n, S, S, 1) and (n, k), 1 for the logit that is explained. New weights need no new one.
    """
    steps = _steps.setdefault(model, {})
    if layer not in steps:
        step = _step_of_jax if keras.config.backend() == "jax" else _step_of_tensorflow
        steps[layer] = step(*cut(model, layer))
    return steps[layer]


def cut(model, layer: str):
    """Cut the graph at a layer: a model up to it, which needs no gradients, and one from it to the logits.

    Where branches run past the layer (a layer inside a residual block), their tensors cross the cut beside it: both ends
    are the layer's output and these.
    """
    feature = model.get_layer(layer).output
    after, beside = {id(feature)}, {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if any(id(t) in after for t in node.input_tensors):
                after |= {id(t) for t in node.outputs}
                beside |= {id(t): t for t in node.input_tensors if id(t) not in after}
    ends = [feature, *beside.values()]
    return keras.Model(model.input, ends), keras.Model(ends, model.outputs[0])


def _step_of_tensorflow(below, above):
    import tensorflow as tf

    @tf.function(reduce_retracing=False)
    def step(images, explained):
        # `flatten`: Keras hands back a list of one as its one element; here both ends of the cut are always lists.
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


def _increases(model, images, classes, features):
    count = min(SCORECAM_CHANNELS, features.shape[-1])
    varying = np.argsort(-features.var((1, 2)), axis=1, kind="stable")[:, :count]
    size, rows = images.shape[1], np.arange(len(images))
    weights = np.zeros((len(images), 1, 1, features.shape[-1]), np.float32)
    gains = np.empty((len(images), count))
    for row in rows:
        channels = features[row][..., varying[row]].transpose(2, 0, 1)
        low = channels.min((1, 2), keepdims=True)
        shown = images[row] * enlarged(channels - low, size)
        gains[row] = batches.predict(model, shown, batch_size=count)[:, classes[row]]
    # Score-CAM subtracts the logit of an empty slice; the softmax that follows takes any constant out again.
    weights[rows[:, None], 0, 0, varying] = special.softmax(gains, axis=1)
    return weights


def _last_with_places(model) -> str:
    return [x.name for x in model.layers[1:] if len(getattr(x.output, "shape", ())) in (3, 4)][-1]
