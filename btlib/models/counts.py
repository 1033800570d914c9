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
    """Count the multiply-adds of one slice's forward pass, or return None where they cannot be counted.

    Arguments and what is counted: `macs_or_reason`, which says why. Used by notebooks 03 and 07.
    """
    return macs_or_reason(model)[0]


def macs_or_reason(model) -> tuple[int | None, str]:
    """Count the multiply-adds of one slice's forward pass, layer by layer, as an empty slice goes through.

    Counted: convolutions, dense layers, attention with its two products of tokens by tokens, at any depth, as often as
    each is called. Left out, as in published counts: biases, normalisation, activations, pooling, and what a layer
    without weights does. Papers often call these figures FLOPs.

    Args:
        model: built keras.Model with fixed input sizes; it is left as it was.

    Returns:
        The count and "", or None and the reason: an input without a fixed size, or a layer with a matrix of weights of
        a kind that this does not know. Nothing is raised for either, so that it can be asked before a fit.

    Source: Tan, Le, "EfficientNet", ICML 2019, table 2 (0.39 billion for B0). Used by notebooks 03 and 07.
    """
    import numpy as np

    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs or []]
    if not shapes or None in sum(shapes, ()):
        return None, f"model {model.name}: input {shapes} has no fixed size"
    empty = [np.zeros((1, *shape), "float32") for shape in shapes]
    with _calls() as calls:
        model(empty if len(empty) > 1 else empty[0], training=False)
    total, seen = 0, set()
    for layer, inputs, output in calls:
        seen.add(id(layer))
        products = _products(layer, inputs, output)
        if products is None:
            return None, f"layer {layer.name}: a {type(layer).__name__}'s multiply-adds are not known"
        total += products
    for layer in model._flatten_layers():
        if id(layer) not in seen and any(map(_is_matrix, _own_weights(layer))):
            return None, f"layer {layer.name}: a {type(layer).__name__} with weights, and no call of it was seen"
    return total, ""


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
    entered = next(iter(inputs.values()), ())
    first = getattr(layer, "data_format", None) == "channels_first"
    if isinstance(layer, known.MultiHeadAttention):
        if len(inputs["query"]) != 3:
            return None
        pairs = inputs["query"][1] * inputs["value"][1]  # each query meets each key, and each weight its value
        return layer.num_heads * pairs * (layer.key_dim + layer.value_dim)
    if isinstance(layer, known.EinsumDense):
        summed, made = layer.equation.replace(".", "").split(",")[1].split("->")
        return math.prod(output) * math.prod(
            size for letter, size in zip(summed, layer.kernel.shape, strict=True) if letter not in made
        )
    if isinstance(layer, (known.Conv1DTranspose, known.Conv2DTranspose, known.Conv3DTranspose)):
        return math.prod(entered[2:] if first else entered[1:-1]) * sum(map(math.prod, kernels))
    convolutions = (known.Conv1D, known.Conv2D, known.Conv3D, known.SeparableConv1D, known.SeparableConv2D)
    if isinstance(layer, (*convolutions, known.DepthwiseConv1D, known.DepthwiseConv2D, known.Dense)):
        # A kernel is applied once at every place of the output.
        return math.prod(output[2:] if first else output[1:-1]) * sum(map(math.prod, kernels))
    without = (known.Embedding,)  # rows are looked up
    others = (known.GroupQueryAttention, known.Attention, known.AdditiveAttention, known.Dot)
    if isinstance(layer, others) or (not isinstance(layer, without) and any(map(_is_matrix, _own_weights(layer)))):
        return None
    return 0


def _own_weights(layer) -> list:
    """The weights of a layer that are not those of a layer within it."""
    inner = {id(w) for part in layer._flatten_layers(include_self=False) for w in part.weights}
    return [w for w in layer.weights if id(w) not in inner]


def _is_matrix(weight) -> bool:
    """Whether a weight can take part in a matrix product; scales, shifts and a token stretch along one axis only."""
    return weight.name.endswith("kernel") or sum(size > 1 for size in weight.shape) > 1
