"""What a model costs: parameters, multiply-adds, size on disk, time and memory."""

import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd

from btlib import DataError
from btlib.params import Head

BATCH = 32
"""Slices a step when throughput, memory and fit time are measured."""

COLUMNS = (
    *("model", "precision", "image_size", "parameters", "trainable", "macs", "file_mb"),
    *("latency_ms", "throughput_per_s", "peak_mb", "fit_seconds_per_100"),
)


def parameters(model) -> tuple[int, int]:
    """Count a model's weights: all of them, BatchNorm's statistics included, and those that a fit may change.

    Args:
        model: keras.Model.

    Used by notebooks 03 and 07.
    """
    return int(model.count_params()), sum(math.prod(w.shape) for w in model.trainable_weights)


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


def measure(model) -> dict[str, float]:
    """Measure a model on this machine, in the precision that it was built with.

    Args:
        model: keras.Model from slices (n, S, S, 1) to logits (n, k), with a fixed S.

    Returns:
        file_mb: its .keras file, in 10^6 bytes.
        latency_ms: a compiled forward pass of one slice, median after warm-up.
        throughput_per_s: slices a second in batches of 32, likewise.
        peak_mb: most main memory, in 10^6 bytes, that the process held during those passes, libraries included.
        fit_seconds_per_100: a fit's training steps for 100 slices in batches of 32, AdamW on what is trainable, median after
            warm-up, so without the trace of the first step; an epoch takes this times its hundreds of slices.

    Raises:
        DataError: the input size is not fixed.

    Used by `make bench`.
    """
    import keras
    import numpy as np

    from btlib import learners

    size = model.input_shape[1]
    if size is None:
        raise DataError(f"model {model.name}: input shape {model.input_shape} is not fixed")
    rng = np.random.default_rng(0)
    slices = rng.uniform(0, 255, (BATCH, size, size, 1)).astype("float32")
    labels = rng.integers(0, model.output_shape[-1], BATCH)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        file_mb = path.stat().st_size / 1e6
    with _Peak() as peak:
        one = _median_seconds(lambda: model.predict_on_batch(slices[:1]))
        many = _median_seconds(lambda: model.predict_on_batch(slices))
    learner = learners.copy_of(model, size)
    learner.compile(keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step = _median_seconds(lambda: learner.train_on_batch(slices, labels))
    return {
        "file_mb": file_mb,
        "latency_ms": 1000 * one,
        "throughput_per_s": BATCH / many,
        "peak_mb": peak.bytes / 1e6,
        "fit_seconds_per_100": 100 * step / BATCH,
    }


def table(names: list[str], image_size: int, precisions: list[str], head: Head) -> pd.DataFrame:
    """Measure models side by side, from random weights, each in a process of its own and one after the other.

    A process of its own: memory once taken by one model would count for the next.

    Args:
        names: keys of `models.REGISTRY`.
        image_size: side of the square slice, in pixels.
        precisions: such as "float32" and "mixed_bfloat16".
        head: the layers above the backbone.

    Returns:
        One row a model and precision: model, precision, image_size, parameters, trainable, macs (counts of one
        slice), and the keys of `measure`.

    Raises:
        ParamsError: a model has no such name or cannot take the image size; said before anything is measured.
        RuntimeError: a measurement failed; the message ends with what it said.

    Used by `make bench` and notebooks 03 and 07.
    """
    from btlib import models

    for name in names:
        models.check(name, image_size, pretrained=False)
    rows = [_measured(name, image_size, precision, head) for name in names for precision in precisions]
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(name: str, image_size: int, precision: str, head: Head) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        task = {"name": name, "image_size": image_size, "precision": precision, "head": head.model_dump()}
        program = "import sys; from btlib import cost; cost._measure_here(*sys.argv[1:])"
        command = [sys.executable, "-c", program, json.dumps(task), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode or not answer.exists():
            raise RuntimeError(f"{name} in {precision}: measuring ended with {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _measure_here(task: str, answer: str) -> None:
    import keras

    from btlib import models

    wanted = json.loads(task)
    keras.config.set_dtype_policy(wanted["precision"])
    model = models.build(wanted["name"], None, wanted["image_size"], Head(**wanted["head"]), seed=0)
    total, trainable = parameters(model)
    row = {
        "model": wanted["name"],
        "precision": wanted["precision"],
        "image_size": wanted["image_size"],
        "parameters": total,
        "trainable": trainable,
        "macs": macs(model),
        **measure(model),
    }
    Path(answer).write_text(json.dumps(row), encoding="utf-8")


def _median_seconds(call, least: int = 3, most: int = 30, budget: float = 3.0) -> float:
    """Return the median time of a call: at least `least` of them, then until `most` or `budget` seconds are reached."""
    # Two first: the one that traces, and one more, as a second input shape makes TensorFlow trace again.
    call()
    call()
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < budget):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class _Peak:
    """Watch the process's resident memory from a thread: what the system keeps as peak includes building the model."""

    def __enter__(self):
        import psutil

        self._process = psutil.Process()
        self.bytes = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()
