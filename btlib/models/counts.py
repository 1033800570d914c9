"""What a model holds and computes: parameters and multiply-adds."""

import math

from btlib import DataError

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

_POSITIONAL = ("Conv2D", "DepthwiseConv2D", "Dense", "MultiHeadAttention", "ViTEncoderBlock", "ViTEncoder")


def parameters(model) -> tuple[int, int]:
    """Count a model's weights: all of them, BatchNorm's statistics included, and those that a fit may change.

    Args:
        model: keras.Model.

    Used by notebooks 03 and 07.
    """
    return int(model.count_params()), sum(math.prod(w.shape) for w in model.trainable_weights)


def macs(model) -> int:
    """Count the multiply-adds of one slice's forward pass, layer by layer, from the shapes in the graph.

    Counted: convolutions, dense layers, attention with its two products of tokens by tokens. Left out, as in published
    counts: biases, normalisation, activations, pooling. Papers often call these figures FLOPs.

    Args:
        model: functional keras.Model with fixed input height and width; nested models are entered.

    Raises:
        DataError: an input or a layer has no fixed size, or a layer with kernels is of a kind that this does not know.

    Source: Tan, Le, "EfficientNet", ICML 2019, table 2 (0.39 billion for B0). Used by notebooks 03 and 07.
    """
    return sum(_layer_macs(layer) for layer in model.layers)


def _layer_macs(layer) -> int:
    if hasattr(layer, "layers"):
        return macs(layer)
    # A kernel is applied once at every place of the output; what is no matrix product has no kernel.
    kernels = sum(math.prod(w.shape) for w in layer.weights if w.name == "kernel")
    if not kernels:
        return 0
    kind = type(layer).__name__
    if kind == "ViTPatchingAndEmbedding":
        return layer.num_patches * kernels
    if kind not in _POSITIONAL:
        raise DataError(f"layer {layer.name}: cannot count a {kind}; allowed: {', '.join(_POSITIONAL)}")
    first = getattr(layer, "data_format", None) == "channels_first"
    places = layer.output.shape[2:] if first else layer.output.shape[1:-1]
    if None in places:
        raise DataError(
            f"layer {layer.name}: output shape {layer.output.shape} is not fixed; give the model an input size"
        )
    total = math.prod(places) * kernels
    for part in layer._flatten_layers():
        if type(part).__name__ == "MultiHeadAttention":
            # Each query meets each key, and the weights so found meet each value; queries are the tokens themselves.
            total += 2 * places[0] ** 2 * part.num_heads * part.key_dim
    return total
