"""Speed, measured: each figure a ratio of two things timed in turns in one run, medians of several repeats."""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd

from benchmarks import cost
from btlib import files, home, params
from btlib.data import datasets, preprocessing, splits
from btlib.fitting import runs
from btlib.models import registry as models
from btlib.scores import gradcam, overlap

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    *("line", "what", "against", "n", "seconds", "against_seconds", "ratio", "target", "met", "repeats"),
    *("load", "hardware", "commit"),
)
COST_MODELS = ("efficientnet_lite0", "efficientnet_lite2", "efficientnet_b0", "vgg16", "resnet152v2", "vit_b16")
PRECISIONS = ("float32", "mixed_bfloat16")
GROWTH = (500, 1000, 2000, 4000)
"""Slices in the studies whose time, cache and memory are compared."""


def run(lines: list[str] | None = None) -> pd.DataFrame:
    """Measure some lines of the table, or all, and write each one's rows into reports/bench.csv and reports/bench.md.

    Args:
        lines: keys of `LINES`; None or empty for all. Rows of other lines stay as they were.

    Returns:
        All rows, `COLUMNS`: seconds and against_seconds are medians for n things; ratio says how many times as fast the
        first is; load is the machine's load average as the line began, beside which its cores are to be held.

    Raises:
        ParamsError: there is no such line.

    Used by `make bench`.
    """
    unknown = [line for line in lines or () if line not in LINES]
    if unknown:
        raise params.ParamsError(f"bench: got {unknown[0]!r}; allowed: {', '.join(LINES)}")
    table = _read("bench")
    table = table[table["line"].isin(list(LINES))]
    for line in lines or LINES:
        load = round(os.getloadavg()[0], 1)
        rows = pd.DataFrame([{"line": line, "load": load} | _facts() | row for row in LINES[line]()], columns=COLUMNS)
        table = pd.concat([t for t in (table[table["line"] != line], rows) if len(t)])
        table = table.sort_values("line", key=lambda names: names.map(list(LINES).index), kind="stable")
        _write("bench", table)
        files.write_text(home() / "reports" / "bench.md", page(table))
    return table


def _facts() -> dict[str, str]:
    return {"hardware": f"{runs.processor()}, {os.cpu_count()} cores", "commit": runs.commit()[:12]}


def page(table: pd.DataFrame) -> str:
    """Return bench.md: the table as a reader wants it, and what growth means for a million slices."""
    machines = table["hardware"].unique()
    hidden = ["commit"] if len(machines) > 1 else ["commit", "hardware"]
    shown = table.astype(object).where(table.notna(), "").drop(columns=hidden)
    text = f"""# Benchmarks

Written by `make bench`; one line again: `python -m benchmarks bench LINE`. The two sides of a row are timed in turns within
one run; `ratio` is how many times as fast the first is. `load` is the machine's load average of the minute before the line, in
which a line measured just before counts: where it is above the number of cores, something else was running, and seconds
are too long while ratios are rougher than they look. Slices are made up where a row does not say Figshare, but for
`accuracy`: there each side fits the Figshare slices once, up to the first look at which 98 % of a hold-out are right; the
notebook is stopped at three times the fit's seconds, and its accuracy is then that of its best look.
{f"On {machines[0]}." if len(machines) == 1 else "Rows were measured on several machines, which each names."}

{shown.to_markdown(index=False, floatfmt=".3g")}
"""
    grown = _read("growth")
    return text + ("\n" + growth_in_words(grown) if len(grown) else "")


def start(repeats: int = 7) -> list[dict]:
    """Time what a person waits for before anything happens: the command line's help, and the import."""
    rows = []
    for what, words in (
        ("python -m btlib --help", ["-m", "btlib", "--help"]),
        ("import btlib", ["-c", "import btlib"]),
    ):
        own, bare = _medians([_python(*words), _python("-c", "")], repeats)
        rows.append(_row(what, "python -c ''", 1, own, bare, repeats, limit=1))
    return rows


def decode(repeats: int = 5, most: int = 300, size: int = 224) -> list[dict]:
    """Time the cache of prepared slices against the usual loops and against reading the image alone.

    Real slices are taken where params/figshare.yaml finds them, else made-up ones of 512 pixels in the same files.
    """
    data = params.load("figshare").data
    if not datasets.folder(data).is_dir():
        made = params.Phantom(patients=60, slices_per_patient=4, size=512, seed=0, hospital="a", copies=0)
        path = "data/phantom_bench"
        data = data.model_copy(update={"source": "phantom", "path": path, "phantom": made})
    how = params.load("figshare").preprocessing.model_copy(update={"image_size": size})
    table = datasets.manifest(data)
    table = table.iloc[:: max(1, len(table) // most)].reset_index(drop=True)
    root, n = datasets.folder(data), len(table)

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        sides = [
            lambda: datasets.build(data, how, table, target / "ours.h5"),
            functools.partial(_h5py_loop, root, table["path"], size, target / "loop.npz"),
            functools.partial(_floor, root, table["path"]),
        ]
        if storage := _optional("hdf5storage"):
            sides.append(lambda: _hdf5storage_loop(storage, root, table["path"][::10], size))
        times = _medians(sides, repeats)
    kind = "made-up" if data.phantom else "Figshare"
    what = f"{kind} .mat to a {size}-pixel cache: percentiles, head crop, antialiasing, mask"
    resize = "cv2.resize" if _optional("cv2") else "PIL's resize"
    rows = [
        _row(what, f"h5py a file, np.array, {resize}; image and mask", n, times[0], times[1], repeats, least=3),
        _row(
            what, "the floor: read and inflate `image` alone, on all cores", n, times[0], times[2], repeats, least=0.667
        ),
    ]
    if len(times) > 3:
        rows.append(
            _row(what, f"hdf5storage a file, {resize}; a tenth of n, scaled", n, times[0], 10 * times[3], repeats, 3)
        )
    return rows


def _h5py_loop(root: Path, paths, size: int, target: Path) -> None:
    """What notebooks on these slices do."""
    resize = _resizer(size)
    images, masks, labels = [], [], []
    for path in paths:
        with h5py.File(root / path, "r") as file:
            image = np.array(file["cjdata"]["image"], dtype=np.float32).T
            mask = np.array(file["cjdata"]["tumorMask"]).T
            labels.append(int(file["cjdata"]["label"][0, 0]))
        image = (image - image.min()) / (image.max() - image.min()) * 255
        images.append(resize(image.astype(np.uint8), False))
        masks.append(resize(np.ascontiguousarray(mask), True))
    np.savez(target, images=np.array(images), masks=np.array(masks), labels=np.array(labels))


def _hdf5storage_loop(hdf5storage, root: Path, paths, size: int) -> None:
    resize = _resizer(size)
    for path in paths:
        found = hdf5storage.loadmat(str(root / path))["cjdata"][0]
        image, mask = (np.array(found[key]).reshape(np.array(found[key]).shape[-2:]) for key in ("image", "tumorMask"))
        image = image.astype(np.float32)
        image = (image - image.min()) / (image.max() - image.min()) * 255
        resize(image.astype(np.uint8), False)
        resize(np.ascontiguousarray(mask), True)


def _resizer(size: int):
    if cv2 := _optional("cv2"):
        cv2.setNumThreads(os.cpu_count() or 1)
        return lambda image, mask: cv2.resize(image, (size, size), interpolation=0 if mask else 1)
    from PIL import Image

    return lambda image, mask: np.asarray(Image.fromarray(image).resize((size, size), 0 if mask else 2))


def _floor(root: Path, paths) -> None:
    def one(path):
        with h5py.File.in_memory((root / path).read_bytes()) as file:
            dataset = file["cjdata"]["image"]
            return dataset[()]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, paths):
            pass


def epoch(repeats: int = 5, name: str = "efficientnet_lite0") -> list[dict]:
    """Time a training epoch from the cache on disk, augmented, against the same steps on one batch held in memory.

    And a step with the norm that a fit uses against one with Keras's.
    """
    import keras

    from btlib.fitting import training
    from btlib.models import layers as learners

    work = _training(name, n=512)
    trainer, batches = work.trainer, work.batches
    held = batches[0]

    def memory():
        for _ in range(len(batches)):
            trainer.train_on_batch(*held)

    own, other = _medians([lambda: training.run_epoch(trainer, batches), memory], repeats)
    what = f"training epoch, {name}, {work.size} px, batches of {work.batch} read from the cache"
    n = len(batches) * work.batch
    rows = [_row(what, "train_on_batch on one batch in memory", n, own, other, repeats, least=0.95)]

    plain = keras.Model(work.model.input, work.model(work.model.input))
    plain.compile(keras.optimizers.AdamW(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True))
    fused = learners.copy_of(work.model, work.size)
    fused.compile(keras.optimizers.AdamW(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True))
    sides = [lambda model=model: model.train_on_batch(*held) for model in (fused, plain)]
    what = f"training step, {name}, {work.size} px, BatchNorm as one operation"
    return [*rows, _row(what, "with Keras's BatchNorm", work.batch, *_medians(sides, 4 * repeats), 4 * repeats)]


def kernels(repeats: int = 3, name: str = "efficientnet_lite0") -> list[dict]:
    """Time a training step with oneDNN's kernels, which btlib asks TensorFlow for, against one without them.

    TensorFlow decides once, as it is imported: each side is a process of its own, and the two take turns.
    """

    def side(on: str) -> dict:
        return _child("_step_here", name, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": on})

    made = [(side("1"), side("0")) for _ in range(repeats)]
    own, other = (statistics.median(pair[k]["seconds"] for pair in made) for k in (0, 1))
    what = f"training step, {name}, 160 px, with oneDNN's kernels"
    against = "without: TensorFlow's choice where there is no AVX-512"
    return [_row(what, against, made[0][0]["batch"], own, other, repeats)]


def _step_here(name: str) -> dict:
    """Median seconds of a training step in this process, and its slices."""
    work = _training(name)
    held = work.batches[0]
    return {"seconds": _medians([lambda: work.trainer.train_on_batch(*held)], 7)[0], "batch": work.batch}


HELD_OUT = 1000
"""Seed of the split at random that `accuracy` looks at; no table of the study uses it."""


def accuracy(study: params.Study | None = None, least: float = 0.98, most: float = 3, size: int = 224) -> list[dict]:
    """Time a fit of the real slices against a plain Keras notebook on the way to 98 % of a hold-out; over an hour in all.

    Both start from prepared slices in a cache, begin with the same weights, train on all slices but the hold-out, and look at
    it after each epoch: the first look at which `least` of it are right counts (time to accuracy, Coleman et al. 2017,
    DAWNBench). That is a measure of speed, not an accuracy to report: the best of many looks flatters. Nothing is chosen by
    it, as long as the recipe has no patience. Of the fit everything up to there counts, its looks, its start and the writing
    of its model too; of the notebook its epochs alone.

    Args:
        study: None for params/figshare.yaml, whose slices must be there, else there are no rows.
        least: share of the hold-out, 0 to 1.
        most: how many times the fit's seconds the notebook is given; one that has not got there by then has a lower bound.
        size: of the notebook's slices, in pixels.
    """
    if study is None:
        study = params.load("figshare")
    if study.data.phantom is None and not datasets.folder(study.data).is_dir():
        return []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(home() / "data")
        path, env = Path(folder) / study.profile / params.RESOLVED, {**os.environ, "BTLIB_HOME": folder}
        params.write(study, path)
        ours = _child("_fit_here", str(path), str(least), env=env)
        plain = _child("_notebook_here", str(path), str(least), str(most * ours["seconds"]), str(size), env=env)
    epochs = sum(stage.epochs for stage in study.recipes[study.proposed.recipe].stages)
    what = f"the study's fit, from prepared slices: {ours['accuracy']:.2%} of a hold-out in {ours['epochs']} of {epochs} epochs"
    way = f"plain Keras notebook ({size} px, Adam 1e-4, no augmentation): {plain['accuracy']:.2%} in {plain['epochs']} epochs"
    row = _row(what, way, ours["n"], ours["seconds"], plain["seconds"], 1, least=3)
    return [row if ours["accuracy"] >= least else row | {"met": "no"}]


def _held_out(study: params.Study, data: datasets.Dataset) -> pd.DataFrame:
    """The split that `accuracy` looks at: its test slices are looked at after each epoch, all others are trained on."""
    split = splits.make(data.manifest, "image_holdout", 0, HELD_OUT, study.split)
    return split.assign(role=np.where(split["role"] == "test", "validation", "train"))


def _fit_here(path: str, least: str) -> dict:
    """Fit the study's proposed model in this process; after which epoch it is there, and its best look where it never is."""
    from btlib.fitting import training

    study = params.load(path)
    data = datasets.load(study.data, study.preprocessing)
    wanted = runs.fit_of(study, data.fingerprint, study.proposed, "image_holdout", 0, HELD_OUT)
    split = _held_out(study, data)
    begun = time.perf_counter()
    with runs.claim(wanted) as folder:
        run = training.fit_split(wanted, data, split, folder)
    seconds = time.perf_counter() - begun
    seen = run.history()
    there = seen["val_accuracy"] >= float(least)
    epoch = int(there.idxmax()) if there.any() else len(seen) - 1
    right = float(seen["val_accuracy"][epoch] if there.any() else seen["val_accuracy"].max())
    seconds -= float(seen["seconds"][epoch + 1 :].sum())
    return {"seconds": seconds, "accuracy": right, "epochs": epoch + 1, "n": run.provenance()["n_train"]}


def _notebook_here(path: str, least: str, most: str, image_size: str) -> dict:
    """Fine-tune as notebooks on these slices do, in this process: whole slices, one rate, `fit` on arrays in memory."""
    import keras

    from btlib.fitting import batches

    study, size = params.load(path), int(image_size)
    whole = study.preprocessing.model_copy(update={"image_size": size, "crop_to_head": False})
    data = datasets.load(study.data, whole)
    role = _held_out(study, data).set_index("image_id").loc[data.manifest["image_id"], "role"].to_numpy()
    y = data.manifest["label"].map(study.classes.index).to_numpy()
    parts = {part: np.flatnonzero(role == part) for part in ("train", "validation")}
    x, target = batches.read(data.images, parts["train"]), np.eye(len(study.classes))[y[parts["train"]]]
    model = models.build(study.proposed.model, study.proposed.weights, size, study.head, 0, len(study.classes))
    model.compile(keras.optimizers.Adam(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True))
    seconds, epoch, right, best = 0.0, 0, 0.0, 0.0
    while right < float(least) and seconds < float(most):
        seconds += _seconds(lambda: model.fit(x, target, batch_size=32, verbose=0))
        epoch += 1
        logits = batches.predict(model, data.images, parts["validation"])
        right = float((logits.argmax(1) == y[parts["validation"]]).mean())
        best = max(best, right)
    return {"seconds": seconds, "accuracy": best, "epochs": epoch}


def head(repeats: int = 3, epochs: int = 10, name: str = "efficientnet_lite0") -> list[dict]:
    """Time ten epochs of the head alone, on features computed once, against passing every epoch through the backbone.

    Ten epochs save nine passes of ten: the ratio nears 10 as the head's own share vanishes.
    """
    import keras

    from btlib.fitting import batches

    work = _training(name, augment=False, n=512)
    pool = work.model.get_layer("pool")
    backbone, top = keras.Model(work.model.input, pool.output), keras.Model(pool.output, work.model.output)
    rows, target, batch = work.batches.rows, work.batches.target, work.batch
    top.compile(keras.optimizers.AdamW(1e-3), keras.losses.CategoricalCrossentropy(from_logits=True))
    for layer in backbone.layers:
        layer.trainable = False
    trainer = keras.Model(work.model.input, work.model.output)
    trainer.compile(keras.optimizers.AdamW(1e-3), keras.losses.CategoricalCrossentropy(from_logits=True))

    def once():
        features = batches.predict(backbone, work.images, rows)
        top.fit(features, target, batch, epochs, verbose=0)

    def recomputed():
        trainer.fit(work.batches, epochs=epochs, verbose=0, shuffle=False)

    own, other = _medians([once, recomputed], repeats)
    what = f"head-only stage, {epochs} epochs, {name}, {work.size} px: features computed once"
    return [_row(what, "the frozen backbone every epoch", len(rows), own, other, repeats, least=10)]


def _training(name: str, augment: bool = True, size: int = 160, n: int | None = None):
    """A model, the quick profile's training slices (n of them, repeated) at the real profile's size, and their steps."""
    import keras

    from btlib.fitting import batches
    from btlib.models import augmentation
    from btlib.models import layers as learners

    study = params.load(params.DEFAULT)
    study = study.model_copy(update={"preprocessing": study.preprocessing.model_copy(update={"image_size": size})})
    data = datasets.load(study.data, study.preprocessing)
    chosen = study.proposed.model_copy(update={"model": name, "weights": None})
    wanted = runs.fit_of(study, data.fingerprint, chosen, "image_holdout", 0, 0)
    split = splits.make(data.manifest, wanted.protocol, 0, 0, wanted.split, None)
    row_of = pd.Series(np.arange(len(data.manifest)), index=data.manifest["image_id"])
    rows = row_of[split.loc[split["role"] == "train", "image_id"]].to_numpy()
    rows = rows if n is None else np.resize(rows, n)
    y = data.manifest["label"].map(wanted.classes.index).to_numpy()[rows]
    model = models.build(name, None, size, wanted.head, 0, len(wanted.classes))
    image = keras.Input((size, size, 1))
    learner = learners.copy_of(model, size)
    trainer = keras.Model(
        image, learner(augmentation.Augment(study.augmentation, size, 0)(image) if augment else image)
    )
    trainer.compile(keras.optimizers.AdamW(1e-4), keras.losses.CategoricalCrossentropy(from_logits=True))
    slices = batches.Batches(data.images, (rows, y), wanted, "bench")
    return SimpleNamespace(
        model=model, trainer=trainer, batches=slices, images=data.images, size=size, batch=wanted.recipe.batch_size
    )


def maps(repeats: int = 5, name: str = "efficientnet_lite0", size: int = 96) -> list[dict]:
    """Time Grad-CAM of 500 slices in batches against one slice a call: our own, and the usual eager recipe."""
    import keras
    import tensorflow as tf

    model = models.build(name, None, size, params.load(params.DEFAULT).head, 0, 3)
    layer = models.REGISTRY[name].feature_layer
    images = np.random.default_rng(0).integers(0, 256, (500, size, size), np.uint8)
    both = keras.Model(model.inputs, [model.get_layer(layer).output, model.output])

    def recipe(image):
        """The map of one slice as keras.io's example makes it (F. Chollet, "Grad-CAM class activation visualization")."""
        with tf.GradientTape() as tape:
            features, logits = both([image[None, ..., None].astype("float32")])
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

    ours, one, usual = _medians([batched, single, eager], repeats)
    what = f"Grad-CAM in batches, {name}, {size} px"
    return [
        _row(what, "one slice a call, compiled (50 slices, scaled)", 500, ours, 10 * one, repeats, least=5),
        _row(what, "keras.io's recipe, a slice at a time (10 slices, scaled)", 500, ours, 50 * usual, repeats, least=5),
    ]


def audits(sizes: tuple[int, ...] = (1000, 4000, 16000), repeats: int = 3) -> list[dict]:
    """Time the overlap audit of two sets of n made-up heads against all pairs of hashes, and of the real sets."""
    rows, before = _real_audit(repeats), None
    imagehash = _optional("imagehash")
    for n in sizes:
        a, b = (_heads(n, seed) for seed in (0, 1))
        own, hashed, turned = [], [], []
        for _ in range(repeats if n == sizes[0] else 1):
            own.append(_seconds(lambda a=a, b=b: overlap.audit(a, b)))
            if imagehash:
                hashed.append(_hash_pairs(imagehash, a, b, turns=1))
                turned.append(_hash_pairs(imagehash, a, b, turns=8))
        what, ours = "overlap audit, n against n heads", statistics.median(own)
        for times, how in ((hashed, "as they are"), (turned, "in the eight orientations that the audit looks at")):
            if times:
                against = f"all pairs by imagehash.phash, {how} ({HASHED} rows' pairs, scaled)"
                rows.append(_row(what, against, n, ours, statistics.median(times), len(own), least=10))
        if before:
            rows.append(_row(what, f"the same with {before[0]}", n, ours, before[1], len(own)))
        before = n, ours
    return rows


def _real_audit(repeats: int) -> list[dict]:
    """The audit as notebook 06 meets it, from the files on disk, where both real sets are there; else nothing."""
    study = params.load("figshare")
    both = study.external["bhuvaji"], study.data
    if any(map(datasets.absent, both)):
        return []
    tables = [datasets.manifest(data) for data in both]

    def decoded(folder):
        found = []
        for data, table in zip(both, tables, strict=True):
            path = Path(folder) / f"{len(found)}.h5"
            datasets.build(data, study.preprocessing, table, path)
            found.append(datasets.Dataset(table, "", path, h5py.File(path)))
        return found

    whole, part = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            sets = decoded(folder)
            part.append(time.perf_counter() - begun)
            overlap.audit(*sets)
            whole.append(time.perf_counter() - begun)
    what = f"decoding and overlap audit of {len(tables[0])} Kaggle against {len(tables[1])} Figshare slices"
    n = sum(map(len, tables))
    return [_row(what, "decoding alone", n, *map(statistics.median, (whole, part)), repeats, limit=60)]


HASHED = 200


def _hash_pairs(imagehash, a, b, turns: int) -> float:
    """Seconds for all pairs of close perceptual hashes, `turns` orientations of the second; a strip of pairs, scaled."""
    from PIL import Image

    def hashes(images, turned):
        ways = [(t, f) for t in (False, True) for f in (0, 1, 2, 3)][:turned]
        views = [np.flip(im.T if t else im, [i for i in (0, 1) if f >> i & 1]) for im in images for t, f in ways]
        return [imagehash.phash(Image.fromarray(np.ascontiguousarray(view))) for view in views]

    begun = time.perf_counter()
    first, second = hashes(a.images, 1), hashes(b.images, turns)
    made = time.perf_counter()
    strip = first[:HASHED]
    close = [(i, j // turns) for i, x in enumerate(strip) for j, y in enumerate(second) if x - y <= 8]
    del close
    return made - begun + (time.perf_counter() - made) * len(first) / len(strip)


def _heads(n: int, seed: int, size: int = 96):
    """Heads that differ: a phantom's slices, each turned, bent and shaded at random."""
    from scipy import ndimage

    from btlib.data import phantom

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


def report(repeats: int = 3) -> list[dict]:
    """Time `make report` with nothing to do against its first run, on a study like the quick one but smaller."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "BTLIB_HOME": folder}
        path = Path(folder) / "small.yaml"
        params.write(small(), path)
        study = _python("-m", "btlib", "study", str(path), env=env)
        first, again = _seconds(study), [_seconds(study) for _ in range(repeats)]
    what = "make report with nothing to do (a small study)"
    return [_row(what, "its first run, timed once", 1, statistics.median(again), first, repeats, limit=30)]


def small() -> params.Study:
    """Return the quick profile with fewer and smaller slices and no baselines: every notebook runs, in a minute or two.

    Used by `make bench` and by the test of the Slurm profile.
    """
    given = params.load(params.DEFAULT).model_dump()
    given["profile"] = "small"
    given["data"]["phantom"].update(patients=42, slices_per_patient=2, size=96)
    given["external"]["hospital_b"]["phantom"].update(patients=21, slices_per_patient=2, size=96, copies=14)
    given["preprocessing"]["image_size"] = 64
    given["recipes"]["guided"]["stages"] = [s | {"epochs": 2} for s in given["recipes"]["guided"]["stages"]]
    given["baselines"] = []
    given["gradcam"].update(methods=["gradcam", "layercam"], deletion_steps=3)
    given["statistics"]["bootstrap"] = 200
    return params.check(given, "small")


def precisions() -> list[dict]:
    """Probe the models of `COST_MODELS` on this machine: a training step in the best precision against float32."""
    table = probe(COST_MODELS, 96, 16)
    rows = []
    for name, group in table.groupby("model", sort=False):
        best, plain = (group[group[key]].iloc[0] for key in ("best", "reference"))
        least = 3 if name == "vgg16" else None
        what = f"training step, {name}, 96 px, batch of 16, in {best['precision']} (best)"
        row = _row(what, "float32", 16, best["seconds_per_step"], plain["seconds_per_step"], int(best["steps"]), least)
        rows.append(row | ({"target": "3 where the processor has AMX"} if least else {}))
    return rows


def probe(names, image_size: int, batch_size: int, seconds: float = 60) -> pd.DataFrame:
    """Find the fastest precision of each model here, by training steps; what was found once is kept for this machine.

    A recommendation only: a fit takes the precision of its parameter file, which is part of what the fit is.

    Args:
        names: keys of `models.REGISTRY`.
        image_size: side of the square slice, in pixels.
        batch_size: slices a step.
        seconds: for each model, shared between its precisions; tracing the first step comes on top.

    Returns:
        model, precision, seconds_per_step (median), steps (how many of them), best, reference (float32): the last two
        bool, one each a model.

    Raises:
        ParamsError: a model has no such name or cannot take the image size.

    Used by `python -m benchmarks probe` and `make bench`.
    """
    for name in names:
        models.check(name, image_size, pretrained=False)
    rows = []
    for name in names:
        kept = home() / "runs" / ".machine" / f"{_machine()}-{name}-{image_size}-{batch_size}.json"
        if not kept.exists():
            words = [name, str(image_size), str(batch_size), str(seconds)]
            files.write_text(kept, json.dumps(_child("_probe_here", *words)) + "\n")
        found = json.loads(kept.read_text(encoding="utf-8"))
        best = min(found, key=lambda row: row["seconds_per_step"])["precision"]
        rows += [
            {"model": name, **r, "best": r["precision"] == best, "reference": r["precision"] == "float32"}
            for r in found
        ]
    return pd.DataFrame(rows)


def _probe_here(name: str, image_size: str, batch_size: str, seconds: str) -> list[dict]:
    """A fit's training steps of both precisions in turns, in a process of its own."""
    import keras

    from btlib.models import layers as learners

    size, n = int(image_size), int(batch_size)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (n, size, size, 1)).astype("float32"), rng.integers(0, 3, n)
    head, trainers, times = params.load(params.DEFAULT).head, {}, {p: [] for p in PRECISIONS}
    for precision in PRECISIONS:
        keras.config.set_dtype_policy(precision)
        model = learners.copy_of(models.build(name, None, size, head, 0, 3), size)
        model.compile(keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        for _ in range(2):  # the second step may be traced again
            model.train_on_batch(x, y)
        trainers[precision] = model
    begun = time.perf_counter()
    while len(times["float32"]) < 3 or (len(times["float32"]) < 25 and time.perf_counter() - begun < float(seconds)):
        for precision, model in trainers.items():
            times[precision].append(_seconds(lambda model=model: model.train_on_batch(x, y)))
    return [
        {"precision": p, "seconds_per_step": float(f"{statistics.median(t):.4g}"), "steps": len(t)}
        for p, t in times.items()
    ]


def _machine() -> str:
    """Digits that change with what a speed depends on: processor, cores, versions."""
    from importlib.metadata import version

    return datasets.digits(
        runs.processor(), str(os.cpu_count()), *(version(p) for p in ("keras", "tensorflow", "numpy"))
    )


def costs(size: int = 224) -> list[dict]:
    """Write reports/cost.csv: what each model costs in each precision, written after each; notebook 07 shows it."""
    head, made = params.load(params.DEFAULT).head, []
    for name, stride in [*((name, None) for name in COST_MODELS), ("efficientnet_lite0", 16)]:
        for precision in PRECISIONS:
            made.append(cost.table([name], size, [precision], head, stride).assign(**_facts()))
            _write("cost", pd.concat(made))
    table = pd.concat(made)
    rows = []
    for (name, stride), group in table.groupby(["model", "output_stride"], sort=False):
        plain, half = (group.set_index("precision")["fit_seconds_per_100"][p] for p in PRECISIONS)
        rows.append(
            _row(
                f"fit of 100 slices, {name}, stride {stride}, {size} px, mixed_bfloat16", "float32", 100, half, plain, 3
            )
        )
    return rows


def growth(sizes: tuple[int, ...] = GROWTH) -> list[dict]:
    """Write reports/growth.csv and growth.svg: time, cache and memory of a one-epoch fit as the data set grows."""
    from btlib.figures import learning, theme

    made = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            # On one thread: how well a system spreads two threads over two cores is noise here.
            alone = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
            made.append(_child("_grow_here", str(n), env={**os.environ, **alone, "BTLIB_HOME": folder}))
        _write("growth", pd.DataFrame(made))
    table, rows = pd.DataFrame(made), []
    theme.use_theme()
    with files.replacing(home() / "reports" / "growth.svg") as path:
        learning.growth(table).savefig(path, metadata={"Date": None})
    for column, what in (("prepare_seconds", "cache of n slices"), ("fit_seconds", "fit of n slices, one epoch")):
        for (_, small_), (_, large) in zip(table.iloc[:-1].iterrows(), table.iloc[1:].iterrows(), strict=True):
            n = int(large["slices"])
            against = f"the same with {int(small_['slices'])}"
            rows.append(_row(f"{what}, 64 px", against, n, large[column], small_[column], 1))
    return rows


def _grow_here(n: str) -> dict:
    """Prepare and fit n made-up slices in this process; seconds without making the slices up, and what it held most."""
    import resource

    from btlib.fitting import training

    count = int(n)
    given = params.load(params.DEFAULT).model_dump()
    given["profile"], given["baselines"], given["external"] = "growth", [], {}
    given["data"]["phantom"].update(patients=count // 4, slices_per_patient=4, size=64)
    given["preprocessing"]["image_size"] = 64
    given["recipes"]["guided"]["stages"] = [given["recipes"]["guided"]["stages"][-1] | {"epochs": 1}]
    study = params.check(given, "growth")
    table = datasets.manifest(study.data)
    begun = time.perf_counter()
    data = datasets.load(study.data, study.preprocessing)
    prepared = time.perf_counter() - begun
    run = training.find(study, study.proposed.model, "image_holdout")
    return {
        "slices": len(table),
        "prepare_seconds": prepared,
        "cache_mb": data.path.stat().st_size / 1e6,
        "fit_seconds": run.provenance()["fit_seconds"],
        "epoch_seconds": float(run.history()["seconds"].sum()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e6,
    }


def growth_in_words(table: pd.DataFrame) -> str:
    """State the slope of each cost over the number of slices, and what a million slices would need. Markdown.

    Args:
        table: reports/growth.csv.
    """
    n = table["slices"] / 1000
    units = {"prepare_seconds": "s", "cache_mb": "MB", "epoch_seconds": "s", "fit_seconds": "s", "peak_mb": "MB"}
    slopes, lines = {}, []
    for column, unit in units.items():
        slope, base = np.polyfit(n, table[column], 1)
        rest = table[column] - (base + slope * n)
        fit = 1 - float((rest**2).sum() / ((table[column] - table[column].mean()) ** 2).sum())
        slopes[column] = slope
        lines.append(f"| {column} | {slope:.3g} {unit} | {base:.3g} {unit} | {fit:.3f} |")
    million = {k: 1000 * v for k, v in slopes.items()}
    area = (224 / 64) ** 2
    return f"""## As the data set grows

Made-up slices of 64 pixels, EfficientNet-Lite0, one epoch on one thread, each size in a process of its own (`growth.csv`):

![Time, cache and memory against the number of slices](growth.svg)

{table.to_markdown(index=False, floatfmt=".4g")}

A straight line through them; linear is what has an R2 near 1:

| cost | for 1000 slices more | at none | R2 |
| --- | --- | --- | --- |
{chr(10).join(lines)}

**1,000,000 slices**, by these slopes and in one process: {million["prepare_seconds"] / 3600:.1f} hours to prepare,
{million["cache_mb"] / 1000:.1f} GB of cache at 64 pixels ({million["cache_mb"] * area / 1000:.0f} GB at 224),
{million["epoch_seconds"] / 3600:.1f} hours an epoch at 64 pixels (about {million["epoch_seconds"] * area / 86400:.1f} days at
224, by the number of pixels). Peak memory differed by {table["peak_mb"].max() - table["peak_mb"].min():.0f} MB between the
least and the most of these runs, whatever the number of slices. Time gives first: such a fit needs accelerators, not
another input path. Of what is held in memory, the features of a head-only stage (1280 float32 a slice, 5 GB) and the
manifest grow; slices are read from the cache batch by batch, which stays fast while the cache fits the page cache, and
from then on is bound by the disk. The overlap audit compares all with all: its matrix products grow with the square,
though up to 16,000 heads its time grew more slowly (the rows `audit`).
"""


LINES = {
    "start": start,
    "decode": decode,
    "epoch": epoch,
    "kernels": kernels,
    "accuracy": accuracy,
    "precision": precisions,
    "head": head,
    "maps": maps,
    "audit": audits,
    "report": report,
    "growth": growth,
    "cost": costs,
}
"""What `python -m benchmarks bench` measures, by name."""


def _medians(sides: list, repeats: int, warm: bool = True) -> list[float]:
    """Median seconds of each call, taken in turns, so that whatever else the machine does meets all of them alike."""
    if warm:
        for call in sides:
            call()
    times = [[_seconds(call) for call in sides] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _seconds(call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _python(*words: str, env=None):
    def call():
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, cwd=ROOT, check=False)
        if done.returncode:
            raise RuntimeError(f"python {' '.join(words)} ended with {done.returncode}\n{done.stderr[-2000:]}")

    return call


def _child(function: str, *words: str, env=None):
    """What a function of this module returns in a process of its own: memory and policies start afresh there."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        program = (
            "import json, sys; from pathlib import Path; from benchmarks import bench\n"
            f"Path(sys.argv[1]).write_text(json.dumps(bench.{function}(*sys.argv[2:])))"
        )
        _python("-c", program, str(answer), *words, env=env)()
        return json.loads(answer.read_text(encoding="utf-8"))


def _optional(name: str):
    """A package that only a comparison needs, or None where it is not installed."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        return None


def _row(what, against, n, seconds, other, repeats, least=None, limit=None) -> dict:
    ratio = other / seconds
    met = None if least is None and limit is None else ratio >= least if limit is None else seconds < limit
    target = "" if met is None else f"at least {least:g}" if limit is None else f"under {limit} s"
    return {
        **{"what": what, "against": against, "n": n, "seconds": seconds, "against_seconds": other, "ratio": ratio},
        **{"target": target, "met": {None: "", True: "yes", False: "no"}[met], "repeats": repeats},
    }


def _read(name: str) -> pd.DataFrame:
    path = home() / "reports" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS if name == "bench" else ())


def _write(name: str, table: pd.DataFrame) -> None:
    with files.replacing(home() / "reports" / f"{name}.csv") as path:
        table.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
