"""Speed, measured: each figure a ratio of two things timed in one run, medians of several repeats."""

import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd

from btlib import files, gradcam, home, models, overlap, params, runs

COLUMNS = ["what", "against", "n", "seconds", "against_seconds", "ratio", "target", "repeats", "hardware", "commit"]


def run(sizes: tuple[int, ...] = (1000, 4000, 16000), repeats: int = 5) -> pd.DataFrame:
    """Measure everything, write reports/bench.csv and reports/bench.md, and return the table.

    Args:
        sizes: slices in each of the two sets of the overlap audit; its cost is compared with the size before.
        repeats: of each measurement but the audit's, which is long and taken once.

    Used by `make bench`.
    """
    rows = [start(repeats), *maps(repeats), *audits(sizes)]
    facts = {"hardware": runs.processor(), "commit": runs.commit()}
    table = pd.DataFrame([row | facts for row in rows])[COLUMNS]
    folder = home() / "reports"
    with files.replacing(folder / "bench.csv") as path:
        table.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
    shown = table.drop(columns=["hardware", "commit"]).fillna("").to_markdown(index=False, floatfmt=".3g")
    about = f"{facts['hardware']}, commit {facts['commit']}; written by `make bench`."
    files.write_text(
        folder / "bench.md", f"# Benchmarks\n\n{about} Made-up slices; speed does not depend on content.\n\n{shown}\n"
    )
    return table


def start(repeats: int) -> dict:
    """Time `python -m btlib --help` against an empty Python."""
    own = _median(lambda: subprocess.run([sys.executable, "-m", "btlib", "--help"], capture_output=True), repeats)
    bare = _median(lambda: subprocess.run([sys.executable, "-c", ""], capture_output=True), repeats)
    return _row("python -m btlib --help", "python -c ''", 1, own, bare, "under 1 s", repeats)


def maps(repeats: int, name: str = "efficientnet_lite0", size: int = 96) -> list[dict]:
    """Time Grad-CAM of 500 slices in batches against one slice a call: our own, and the usual eager recipe."""
    import keras
    import tensorflow as tf

    model = models.build(name, None, size, params.load(params.DEFAULT).head, 0)
    layer = models.REGISTRY[name].feature_layer
    images = np.random.default_rng(0).integers(0, 256, (500, size, size), np.uint8)
    both = keras.Model(model.inputs, [model.get_layer(layer).output, model.output])

    def recipe(image):
        """The map of one slice as keras.io's example makes it (F. Chollet, "Grad-CAM class activation visualization")."""
        with tf.GradientTape() as tape:
            features, logits = both(image[None, ..., None].astype("float32"))
            top = logits[:, 0]
        weights = tf.reduce_mean(tape.gradient(top, features), axis=(0, 1, 2))
        return np.asarray(tf.nn.relu(tf.reduce_sum(features[0] * weights, -1)))

    def batched():
        gradcam.maps(model, images, np.zeros(500, int), layer=layer)

    def single():
        for image in images[:50]:
            gradcam.maps(model, image[None], np.zeros(1, int), layer=layer)

    def eager():
        for image in images[:10]:
            recipe(image)

    ours, one, usual = (_median(f, repeats) / n for f, n in ((batched, 500), (single, 50), (eager, 10)))
    what = f"Grad-CAM in batches, {name}, {size} px, a slice"
    return [
        _row(what, "one slice a call, compiled", 500, ours, one, "5", repeats),
        _row(what, "keras.io's recipe, one slice at a time", 500, ours, usual, "5", repeats),
    ]


def audits(sizes: tuple[int, ...]) -> list[dict]:
    """Time the overlap audit of two sets of n made-up heads, each against the size before."""
    rows, before = [], float("nan")
    for n in sizes:
        a, b = (_heads(n, seed) for seed in (0, 1))
        begun = time.perf_counter()
        overlap.audit(a, b)
        seconds = time.perf_counter() - begun
        row = _row("overlap audit, n against n", "growth from the size before", n, seconds, before, "", 1)
        rows.append(row | {"ratio": seconds / before})
        before = seconds
    return rows


def _heads(n: int, seed: int, size: int = 96):
    """Heads that differ: a phantom's slices, each turned, bent and shaded at random."""
    from scipy import ndimage

    from btlib import phantom, preprocessing

    chosen = params.load(params.DEFAULT)
    base = [
        preprocessing.prepare(phantom.slice_of(chosen.data.phantom, p, s)[0], None, chosen.preprocessing)[0]
        for p in range(20)
        for s in range(chosen.data.phantom.slices_per_patient)
    ]
    rng = np.random.default_rng(seed)
    images = np.empty((n, size, size), np.uint8)
    for k in range(n):
        bend = ndimage.zoom(rng.normal(0, 2.5, (2, 6, 6)), (1, size / 6, size / 6), order=1)
        grid = np.mgrid[:size, :size] + bend
        picture = ndimage.map_coordinates(base[int(rng.integers(len(base)))].astype(np.float32), grid, order=1)
        images[k] = np.clip(picture + rng.normal(0, 12, (size, size)), 0, 255)
    return SimpleNamespace(images=images, manifest=pd.DataFrame({"image_id": [f"{seed}-{k}" for k in range(n)]}))


def _median(call, repeats: int) -> float:
    call()  # warm-up: compilers and caches
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _row(what, against, n, seconds, other, target, repeats) -> dict:
    ratio = other / seconds
    keys = ("what", "against", "n", "seconds", "against_seconds", "ratio", "target", "repeats")
    return dict(zip(keys, (what, against, n, seconds, other, ratio, target, repeats), strict=True))
