"""What a model costs: the columns of the table of costs, and multiply-adds."""

import contextlib
import math

COLUMNS = (
    "model",
    "precision",
    "image_size",
    "output_stride",
    "parameters",
    "trainable",
    "macs",
    "file_mb",
    "latency_ms",
    "throughput_per_s",
    "peak_mb",
    "fit_seconds_per_100",
)
"""The table that `make bench` writes of models, reports/cost.csv; notebook 07 reads it."""


def macs(model) -> int | None:
    """Return the multiply-adds of one slice's forward pass, or None where `macs_or_reason` cannot count them. Notebook 03."""
    return macs_or_reason(model)[0]


def macs_or_reason(model) -> tuple[int | None, str]:
    """Count the multiply-adds of one slice's forward pass, layer by layer, as an empty slice goes through.

    Counted: convolutions, dense layers, self-attention with its two products of tokens by tokens, at any depth, as often
    as each is called. Left out, as in published counts: biases, normalisation, activations, pooling, and what a layer
    without weights does. Papers often call these figures FLOPs.

    Returns:
        The count and "", or None and the reason: a layer with a matrix of weights of a kind that this does not know.
        Nothing is raised for one, so that it can be asked before a fit.

    Source: Tan, Le, "EfficientNet", ICML 2019, table 2 (0.39 billion for B0).
    """
    import numpy as np

    with _calls() as calls:
        model(np.zeros((1, *model.input_shape[1:]), "float32"), training=False)
    total = 0
    for layer, output in calls:
        products = _products(layer, output)
        if products is None:
            return None, f"layer {layer.name}: a {type(layer).__name__}'s multiply-adds are not known"
        total += products
    return total, ""


@contextlib.contextmanager
def _calls():
    """Note every call of every layer, nested ones too: the layer, and the shape of its output."""
    import keras

    original, calls = keras.Layer.__call__, []

    def noting(layer, *args, **kwargs):
        output = original(layer, *args, **kwargs)
        calls.append((layer, tuple(getattr(output, "shape", ()))))
        return output

    keras.Layer.__call__ = noting
    try:
        yield calls
    finally:
        keras.Layer.__call__ = original


def _products(layer, output: tuple) -> int | None:
    """The multiply-adds of one call on one slice, parts that are layers themselves left to their own calls."""
    from keras import layers as known

    own = _own_weights(layer)
    if isinstance(layer, known.MultiHeadAttention):
        tokens = output[1]  # each meets each key, and each weight its value
        return layer.num_heads * tokens**2 * (layer.key_dim + layer.value_dim)
    if isinstance(layer, known.EinsumDense):
        summed, made = layer.equation.replace(".", "").split(",")[1].split("->")
        return math.prod(output) * math.prod(
            size for letter, size in zip(summed, layer.kernel.shape, strict=True) if letter not in made
        )
    if isinstance(layer, (known.Conv2D, known.DepthwiseConv2D, known.Dense)):
        # A kernel is applied once at every place of the output.
        return math.prod(output[1:-1]) * sum(math.prod(w.shape) for w in own if w.name.endswith("kernel"))
    looked_up = isinstance(layer, known.Embedding)
    return None if any(map(_is_matrix, own)) and not looked_up else 0


def _own_weights(layer) -> list:
    """The weights of a layer that are not those of a layer within it."""
    inner = {id(w) for part in layer._flatten_layers(include_self=False) for w in part.weights}
    return [w for w in layer.weights if id(w) not in inner]


def _is_matrix(weight) -> bool:
    """Whether a weight can take part in a matrix product; scales, shifts and a token stretch along one axis only."""
    return weight.name.endswith("kernel") or sum(size > 1 for size in weight.shape) > 1
