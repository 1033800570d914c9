"""What a model costs on this machine: size on disk, time and memory, beside its counts."""

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
from btlib.models import counts
from btlib.params import Head

ROOT = Path(__file__).resolve().parent.parent
BATCH = 32
"""Slices a step when throughput, memory and fit time are measured."""


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

    from btlib.models import layers as learners

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


def table(
    names: list[str], image_size: int, precisions: list[str], head: Head, output_stride: int | None = None
) -> pd.DataFrame:
    """Measure models side by side, from random weights, each in a process of its own and one after the other.

    A process of its own: memory once taken by one model would count for the next.

    Args:
        names: keys of `models.REGISTRY`.
        image_size: side of the square slice, in pixels.
        precisions: such as "float32" and "mixed_bfloat16".
        head: the layers above the backbone.
        output_stride: of all of them; None for each one's own.

    Returns:
        One row a model and precision: model, precision, image_size, output_stride, parameters, trainable, macs (counts of one
        slice), and the keys of `measure`.

    Raises:
        ParamsError: a model has no such name or cannot have the image size or output stride; said before anything is measured.
        RuntimeError: a measurement failed; the message ends with what it said.

    Used by `make bench`.
    """
    from btlib.models import registry as models

    known = {name: models.check(name, image_size, None, output_stride) for name in names}
    rows = [
        _measured(name, image_size, output_stride or backbone.strides[0], precision, head)
        for name, backbone in known.items()
        for precision in precisions
    ]
    return pd.DataFrame(rows, columns=counts.COLUMNS)


def _measured(name: str, image_size: int, output_stride: int, precision: str, head: Head) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        task = {"name": name, "image_size": image_size, "output_stride": output_stride, "precision": precision}
        task["head"] = head.model_dump()
        program = "import sys; from benchmarks import cost; cost._measure_here(*sys.argv[1:])"
        command = [sys.executable, "-c", program, json.dumps(task), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, check=False)
        if done.returncode or not answer.exists():
            raise RuntimeError(f"{name} in {precision}: measuring ended with {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _measure_here(task: str, answer: str) -> None:
    import keras

    from btlib.models import registry as models

    wanted = json.loads(task)
    keras.config.set_dtype_policy(wanted["precision"])
    model = models.build(
        wanted["name"], None, wanted["image_size"], Head(**wanted["head"]), 0, 3, wanted["output_stride"]
    )
    row = {
        "model": wanted["name"],
        "precision": wanted["precision"],
        "image_size": wanted["image_size"],
        "output_stride": wanted["output_stride"],
        "parameters": model.count_params(),
        "trainable": sum(math.prod(weight.shape) for weight in model.trainable_weights),
        "macs": counts.macs(model),
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
