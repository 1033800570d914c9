"""Features of a layer and the gradient of a logit with respect to them, for each of Keras's backends."""

import weakref
from collections.abc import Callable

import keras

from btlib import DataError

_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def step_of(model, layer: str) -> Callable:
    """Compile, once for a model and layer, the function from slices to a layer's features and their gradients.

    Args:
        model: flat functional keras.Model from (n, S, S, 1) to logits (n, k). New weights need no new step.
        layer: name of a layer that leads to the logits.

    Returns:
        From float32 slices (n, S, S, 1) and (n, k), 1 for the logit that is explained, to features and gradients.

    Raises:
        DataError: the layer does not lead to the logits, or the backend has no gradients here.

    `gradcam.gradients`.
    """
    steps = _compiled.setdefault(model, {})
    if layer not in steps:
        backend = keras.backend.backend()
        if backend not in _BACKENDS:
            raise DataError(f"KERAS_BACKEND: got {backend}; gradients exist for {', '.join(_BACKENDS)}")
        steps[layer] = _BACKENDS[backend](*cut(model, layer))
    return steps[layer]


def cut(model, layer: str):
    """Cut the graph at a layer: a function up to it, which needs no gradients, and a model from it to the logits.

    Where branches run past the layer (a layer inside a residual block), their tensors cross the cut beside it: both ends
    are lists of the layer's output and these.

    Raises:
        DataError: the layer does not lead to the logits.

    `step_of`.
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
