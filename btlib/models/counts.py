"""What a model costs: the columns of the table of costs, and multiply-adds."""

import contextlib
import math

COLUMNS = (
    "model",
    "precision",
    "image_size",
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
    """Count the multiply-adds of one slice's forward pass, layer by layer, as an empty slice goes through.

    Counted: convolutions, dense layers, attention with its two products of tokens by tokens, at any depth, as often as
    each is called. Left out, as in published counts: biases, normalisation, activations, pooling, and what a layer
    without weights does. Papers often call these figures FLOPs.

    Args:
        model: built keras.Model; it is left as it was.

    Returns:
        The count, or None where an input has no fixed size, or a layer is of a kind that this does not know.

    Source: Tan, Le, "EfficientNet", ICML 2019, table 2 (0.39 billion for B0). Used by notebooks 03 and 07.
    """
    import numpy as np

    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs or []]
    if not shapes or None in sum(shapes, ()):
        return None
    empty = [np.zeros((1, *shape), "float32") for shape in shapes]
    with _calls() as calls:
        model(empty if len(empty) > 1 else empty[0], training=False)
    products = [_products(layer, inputs, output) for layer, inputs, output in calls]
    called = {id(layer) for layer, _, _ in calls}
    uncalled = [w for layer in model._flatten_layers() if id(layer) not in called for w in _own_weights(layer)]
    return None if None in products or any(map(_is_matrix, uncalled)) else sum(products)


@contextlib.contextmanager
def _calls():
    """Note every call of every layer, nested ones too: layer, shapes of its inputs by name, shape of its output."""
    import keras

    original, calls = keras.Layer.__call__, []

    def noting(layer, *args, **kwargs):
        output = original(layer, *args, **kwargs)
        named = dict(zip(("query", "value"), args, strict=False)) | kwargs
        inputs = {name: tuple(tensor.shape) for name, tensor in named.items() if hasattr(tensor, "shape")}
        calls.append((layer, inputs, tuple(getattr(output, "shape", ()))))
        return output

    keras.Layer.__call__ = noting
    try:
        yield calls
    finally:
        keras.Layer.__call__ = original


def _products(layer, inputs: dict[str, tuple], output: tuple) -> int | None:
    """The multiply-adds of one call on one slice, parts that are layers themselves left to their own calls."""
    from keras import layers as known

    kernels = [w.shape for w in _own_weights(layer) if w.name.endswith("kernel")]
    if isinstance(layer, known.MultiHeadAttention) and len(inputs["query"]) == 3:
        pairs = inputs["query"][1] * inputs["value"][1]  # each query meets each key, and each weight its value
        return layer.num_heads * pairs * (layer.key_dim + layer.value_dim)
    if isinstance(layer, known.EinsumDense):
        summed, made = layer.equation.replace(".", "").split(",")[1].split("->")
        return math.prod(output) * math.prod(
            size for letter, size in zip(summed, layer.kernel.shape, strict=True) if letter not in made
        )
    last = getattr(layer, "data_format", None) != "channels_first"
    if isinstance(layer, (known.Conv2D, known.DepthwiseConv2D, known.Dense)) and last:
        # A kernel is applied once at every place of the output.
        return math.prod(output[1:-1]) * sum(map(math.prod, kernels))
    without = (known.MultiHeadAttention, known.GroupQueryAttention, known.Attention, known.AdditiveAttention, known.Dot)
    if isinstance(layer, known.Embedding):
        return 0  # rows are looked up
    return None if isinstance(layer, without) or any(map(_is_matrix, _own_weights(layer))) else 0


def _own_weights(layer) -> list:
    """The weights of a layer that are not those of a layer within it."""
    inner = {id(w) for part in layer._flatten_layers(include_self=False) for w in part.weights}
    return [w for w in layer.weights if id(w) not in inner]


def _is_matrix(weight) -> bool:
    """Whether a weight can take part in a matrix product; scales, shifts and a token stretch along one axis only."""
    return weight.name.endswith("kernel") or sum(size > 1 for size in weight.shape) > 1
