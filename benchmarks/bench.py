"""Speed, measured: each figure a ratio of two things timed in turns in one run, medians of several repeats."""

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from benchmarks import cost
from btlib import files, home, params
from btlib.data import datasets, splits
from btlib.fitting import runs
from btlib.models import counts
from btlib.models import registry as models
from btlib.scores import gradcam, localisation, overlap

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    *("line", "what", "against", "n", "seconds", "against_seconds", "ratio", "target", "met", "repeats"),
    *("load", "hardware", "commit"),
)
COST_MODELS = ("efficientnet_lite0", "efficientnet_lite2", "efficientnet_b0", "vgg16", "resnet152v2", "vit_b16")
PRECISIONS = ("float32", "mixed_bfloat16")
NETWORK = {"name": "efficientnet_lite0", "pretrained": "imagenet", "image_size": 160, "output_stride": 16}
"""The study's network, as `step` and `maps` time it."""

GROWTH, AUDITED = (1000, 4000, 16_000, 64_000), 16_000
"""Slices whose manifest, cache and split are compared, and the most that are audited."""


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
notebook is stopped at four times the seconds of the slowest fit that got there. A side that did not get there has the accuracy
of its best look, and all its seconds.
{f"On {machines[0]}." if len(machines) == 1 else "Rows were measured on several machines, which each names."}

{in_words(table)}

{shown.to_markdown(index=False, floatfmt=".3g")}
"""
    grown = _read("growth")
    return text + ("\n" + growth_in_words(grown) if len(grown) else "")


def in_words(table: pd.DataFrame) -> str:
    """Say what a user gains, by the rows that are faster than something else people use, and why targets are missed. Markdown."""
    gains = table[table["line"].isin(("step", "maps")) & (table["ratio"] > 1)]
    told = [f"{row.what}: {row.ratio:.3g} times as fast as {row.against}" for row in gains.itertuples()]
    missed = [
        f"`{line}`: {MISSED[line]}" for line in table.loc[table["met"] == "no", "line"].unique() if line in MISSED
    ]
    return f"""**What a user gains.** {"; ".join(told) or "Not measured yet"}.

**Targets missed.** {"; ".join(missed) or "None that is explained here"}."""


MISSED = {
    "accuracy": "recipe `guided` ends after ten epochs without having been there. Recipe `finetune`, whose maps no mask teaches, was "
    "there before the notebook; as other work slowed the notebook's last epoch, its ratio is at least 4.0, by the others",
    "decode": "of 8 ms that a slice takes of a core, 4.3 go into HDF5 (2.7 to inflate the image, the rest into mask, label, patient "
    "and their checks) and 3.5 into percentiles, the head's square and shrinking without aliasing, which the loop leaves out; "
    "inflating the image alone takes all cores more than half of the loop's time",
}
"""Where the time goes in lines that miss their target, by a profile of each."""


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
            lambda: datasets.build(data, how, table, target / "ours.npy"),
            functools.partial(_h5py_loop, root, table["path"], size, target / "loop.npz"),
            functools.partial(_floor, root, table["path"]),
        ]
        times = _medians(sides, repeats)
    kind = "made-up" if data.phantom else "Figshare"
    what = f"{kind} .mat to a {size}-pixel cache: percentiles, head crop, antialiasing, mask"
    resize = "cv2.resize" if _optional("cv2") else "PIL's resize"
    return [
        _row(what, f"h5py a file, np.array, {resize}; image and mask", n, times[0], times[1], repeats, least=2),
        _row(what, "the floor: read and inflate `image` alone, on all cores", n, times[0], times[2], repeats, 1 / 1.3),
    ]


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


def step(repeats: int = 20, batch: int = 32) -> list[dict]:
    """Time a training step of the study's network against Keras's and PyTorch's of the same weights, and this machine's peak.

    PyTorch takes part where it is installed (`benchmarks.in_pytorch`), after its logits were found to be equal.

    Raises:
        AssertionError: PyTorch's network answers otherwise.
    """
    import tensorflow as tf

    from benchmarks import in_pytorch

    trainer, plain, held = _trainers(batch)
    sides = {"ours": lambda: trainer.train_on_batch(*held), "in Keras as it comes": lambda: plain.train_on_batch(*held)}
    if _optional("torch"):
        net = in_pytorch.network(plain, NETWORK["image_size"], NETWORK["output_stride"])
        theirs = net.eval()(in_pytorch.pictures(held[0])).detach().numpy()
        np.testing.assert_allclose(theirs, plain.predict_on_batch(held[0]), atol=1e-3)
        sides["in PyTorch: channels last, compiled, equal logits"] = in_pytorch.step(net, *held)
    square = tf.random.normal((PEAK, PEAK))
    sides["peak"] = lambda: tf.matmul(square, square).numpy()
    times = dict(zip(sides, _medians(list(sides.values()), repeats), strict=True))
    own, peak = times.pop("ours"), times.pop("peak")
    what = f"training step, {NETWORK['name']} at stride {NETWORK['output_stride']}, {NETWORK['image_size']} px"
    rows = [_row(what, other, batch, own, seconds, repeats, least=1) for other, seconds in times.items()]
    products = 3 * batch * counts.macs(plain)
    against = (
        f"its {products / 1e9:.0f} billion multiply-adds (three forward passes) at the rate of a float32 matrix product"
    )
    return [*rows, _row(what, against, batch, own, peak * products / PEAK**3, repeats)]


PEAK = 3072
"""Side of the square matrices whose product tells a machine's peak."""


def _trainers(batch: int):
    """The study's network as a fit trains it, as Keras does, and a batch in memory."""
    import keras

    from btlib.models import layers as learners

    size = NETWORK["image_size"]
    plain = models.build(**NETWORK, head=params.load("figshare").head, seed=0, classes=3)
    fused = learners.copy_of(plain, size)
    for model in (fused, plain):
        model.compile(keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    return fused, plain, (rng.integers(0, 256, (batch, size, size, 1)).astype("float32"), rng.integers(0, 3, batch))


def kernels(repeats: int = 3) -> list[dict]:
    """Time a training step with oneDNN's kernels, which btlib asks TensorFlow for, against one without them.

    TensorFlow decides once, as it is imported: each side is a process of its own, and the two take turns.
    """

    def side(on: str) -> dict:
        return _child("_step_here", env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": on})

    made = [(side("1"), side("0")) for _ in range(repeats)]
    own, other = (statistics.median(pair[k]["seconds"] for pair in made) for k in (0, 1))
    what = f"training step, {NETWORK['name']}, {NETWORK['image_size']} px, with oneDNN's kernels"
    against = "without: TensorFlow's choice where there is no AVX-512"
    return [_row(what, against, 32, own, other, repeats, least=1)]


def _step_here() -> dict:
    """Median seconds of a training step in this process."""
    trainer, _, held = _trainers(32)
    return {"seconds": _medians([lambda: trainer.train_on_batch(*held)], 7)[0]}


HELD_OUT = 1000
"""Seed of the split at random that `accuracy` looks at; no table of the study uses it."""


def accuracy(
    fitted: list[params.Study] | None = None, least: float = 0.98, most: float = 4, size: int = 224
) -> list[dict]:
    """Time fits of the real slices against a plain Keras notebook on the way to 98 % of a hold-out; over an hour in all.

    All start from prepared slices in a cache, begin with the same weights, train on all slices but the hold-out, and look at
    it after each epoch: the first look at which `least` of it are right counts (time to accuracy, Coleman et al. 2017,
    DAWNBench). That is a measure of speed, not an accuracy to report: the best of many looks flatters. Nothing is chosen by
    it, as long as a recipe has no patience. Of a fit everything up to there counts, its looks, its start and the writing
    of its model too; of the notebook its epochs alone.

    Args:
        fitted: studies whose proposed models are fitted, a row each; the notebook takes the first one's backbone. None for
            the one of params/figshare.yaml and the same with recipe `finetune` at output stride 32; without its slices there
            are no rows.
        least: share of the hold-out, 0 to 1.
        most: how many times the seconds of the slowest fit that got there, or of the slowest where none did, the notebook is
            given; one that has not got there by then has a lower bound.
        size: of the notebook's slices, in pixels.
    """
    if fitted is None:
        study = params.load("figshare")
        fitted = [study, study.changed({"proposed.recipe": "finetune", "proposed.output_stride": 32})]
    if fitted[0].data.phantom is None and not datasets.folder(fitted[0].data).is_dir():
        return []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(home() / "data")
        path, env = Path(folder) / "accuracy" / params.RESOLVED, {**os.environ, "BTLIB_HOME": folder}
        ours = []
        for study in reversed(fitted):  # the first one's parameters stay, for the notebook
            params.write(study.model_copy(update={"profile": path.parent.name}), path)  # a profile's name is its file's
            ours.insert(0, _child("_fit_here", str(path), str(least), env=env))
        given = most * max(fit["seconds"] for fit in [f for f in ours if f["accuracy"] >= least] or ours)
        plain = _child("_notebook_here", str(path), str(least), str(given), str(size), env=env)
    way = f"plain Keras notebook ({size} px, Adam 1e-4, no augmentation): {plain['accuracy']:.2%} in {plain['epochs']} epochs"
    rows = []
    for study, fit in zip(fitted, ours, strict=True):
        epochs = sum(stage.epochs for stage in study.recipes[study.proposed.recipe].stages)
        found = f"{fit['accuracy']:.2%} of a hold-out in {fit['epochs']} of {epochs} epochs"
        what = f"a fit by recipe `{study.proposed.recipe}`, from prepared slices: {found}"
        row = _row(what, way, fit["n"], fit["seconds"], plain["seconds"], 1, least=4)
        rows.append(row if fit["accuracy"] >= least else row | {"met": "no"})
    return rows


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


def maps(repeats: int = 3, n: int = 500) -> list[dict]:
    """Time Grad-CAM of n slices, scored against masks, beside what others draw maps with, unscored."""
    import keras
    import tensorflow as tf

    from benchmarks import in_pytorch

    size = NETWORK["image_size"]
    model = models.build(**NETWORK, head=params.load("figshare").head, seed=0, classes=3)
    layer = models.REGISTRY[NETWORK["name"]].feature_layer
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (n, size, size), np.uint8), np.zeros((n, size, size), bool)
    masks[:, 40:70, 50:90] = True
    classes = rng.integers(0, 3, n)
    slices = images[..., None].astype("float32")
    both = keras.Model(model.inputs, [model.get_layer(layer).output, model.output])

    def ours():
        localisation.scores(gradcam.maps(model, images, classes, layer=layer), masks, tolerance=5)

    def recipe(count):
        """The map of one slice as keras.io's example makes it (F. Chollet, "Grad-CAM class activation visualization")."""
        for k in range(count):
            with tf.GradientTape() as tape:
                features, logits = both([slices[k : k + 1]])
                top = logits[:, classes[k]]
            weights = tf.reduce_mean(tape.gradient(top, features), axis=(0, 1, 2))
            np.asarray(tf.nn.relu(tf.reduce_sum(features[0] * weights, -1)))

    sides = {("keras.io's recipe, a slice at a time", 10): recipe}
    if _optional("tf_keras_vis"):
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.utils.scores import CategoricalScore

        explainer = Gradcam(model, clone=False)
        sides["tf-keras-vis, a batch of 32 at a time", 32] = lambda count: explainer(
            CategoricalScore(classes[:count].tolist()), slices[:count], penultimate_layer=layer
        )
    if _optional("pytorch_grad_cam"):
        net = in_pytorch.network(model, size, NETWORK["output_stride"])
        sides["pytorch-grad-cam, the same weights, a batch of 32 at a time", 32] = lambda count: in_pytorch.maps(
            net, slices[:count], classes[:count]
        )
    own, *times = _medians([ours, *(functools.partial(call, count) for (_, count), call in sides.items())], repeats)
    what = f"Grad-CAM and its scores, {NETWORK['name']} at stride {NETWORK['output_stride']}, {size} px"
    return [
        _row(what, f"{words} ({count} slices, scaled; no scores)", n, own, n / count * seconds, repeats, least=1)
        for (words, count), seconds in zip(sides, times, strict=True)
    ]


def predict(repeats: int = 3, n: int = 100) -> list[dict]:
    """Time `predict` of n pictures with the published model, from start to end, against loading Keras and the model alone."""
    from PIL import Image

    from btlib.deploy import publish

    model = "efficientnet_lite_figshare"
    load = f"import keras; keras.saving.load_model({str(publish.find(model))!r})"
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for k in range(n):
            Image.fromarray(rng.integers(0, 256, (512, 512), np.uint8)).save(Path(folder) / f"{k}.png")
        sides = [_python("-m", "btlib", "predict", model, folder), _python("-c", load)]
        own, other = _medians(sides, repeats)
    what = f"python -m btlib predict {model}, {n} pictures of 512 px, from start to end"
    return [_row(what, "loading Keras and the model alone", n, own, other, repeats, least=1 / 1.5)]


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
    """Write reports/growth.csv: time, cache and memory of what a study does to n slices before it fits, as n grows."""
    made = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            made.append(_child("_grow_here", str(n), env={**os.environ, "BTLIB_HOME": folder}))
        _write("growth", pd.DataFrame(made))
    rows = []
    for less, more in itertools.pairwise(made):
        for column in (c for c in more if c.endswith("_seconds") and more[c] is not None):
            times, n = more["slices"] / less["slices"], more["slices"]
            # The audit compares all with all; of all else linear is asked, within a quarter.
            least = None if column.startswith("audit") else 0.8 / times
            rows.append(
                _row(f"{column[:-8]}, 64 px", f"{less['slices']} slices", n, more[column], less[column], 1, least)
            )
    return rows


def _grow_here(n: str) -> dict:
    """Take n pictures through manifest, cache, split and audit in this process: seconds of each, and what it held most."""
    import resource

    names = ["meningioma", "glioma", "pituitary"]
    _scatter(home() / "data" / "grown", names, int(n))
    data = params.Data(
        source="folders", path="data/grown", phantom=None, labels={k: k for k in names}, unreadable="error"
    )
    study = params.load("figshare")
    how = study.preprocessing.model_copy(update={"image_size": 64})
    done = {}
    told = {"slices": int(n)}
    told["manifest_seconds"] = _seconds(lambda: done.update(table=datasets.manifest(data)))
    told["cache_seconds"] = _seconds(lambda: done.update(data=datasets.load(data, how)))
    told["split_seconds"] = _seconds(lambda: splits.make(done["table"], "image_holdout", 0, 0, study.split))
    told["cache_mb"] = done["data"].path.stat().st_size / 1e6
    told["peak_mb"] = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1) / 1e6
    )
    audited = int(n) <= AUDITED
    told["audit_seconds"] = _seconds(lambda: overlap.within(done["data"])) if audited else None
    return told


def _scatter(root: Path, names: list[str], n: int) -> None:
    """Write n heads that differ, small PNG files in class folders: made-up slices, each shaded and spoiled at random."""
    from PIL import Image

    from btlib.data import phantom

    made_up = params.load(params.DEFAULT).data.phantom.model_copy(update={"size": 64})
    base = [phantom.slice_of(made_up, patient, 0)[0] for patient in range(30)]
    base = [255 * picture / picture.max() for picture in base]
    resize, rng = _resizer(64), np.random.default_rng(0)
    for k in range(n):
        folder = root / names[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shade = np.asarray(resize(rng.integers(60, 256, (5, 5)).astype(np.uint8), False), float) / 255
        picture = base[k % len(base)] * shade + rng.normal(0, 6, (64, 64))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{k}.png")


def growth_in_words(table: pd.DataFrame) -> str:
    """State the slope of each cost over the number of slices, and what a million slices would need. Markdown.

    Args:
        table: reports/growth.csv.
    """
    slopes, lines = {}, []
    for column in [c for c in table if c not in ("slices", "audit_seconds")]:
        unit = "MB" if column.endswith("_mb") else "s"
        slope, base = np.polyfit(table["slices"] / 1000, table[column], 1)
        slopes[column] = slope
        lines.append(f"| {column} | {slope:.3g} {unit} | {base:.3g} {unit} |")
    million = {column: 1000 * slope for column, slope in slopes.items()}
    audited = table.dropna(subset="audit_seconds")
    most = audited.iloc[-1]
    hours = most["audit_seconds"] * (1e6 / most["slices"]) ** 2 / 3600
    return f"""## As the data set grows

Made-up pictures of 64 pixels in class folders, each number of them in a process of its own (`growth.csv`):

{table.to_markdown(index=False, floatfmt=".4g")}

A straight line through them:

| cost | for 1000 slices more | at none |
| --- | --- | --- |
{chr(10).join(lines)}

**1,000,000 slices**, by these slopes: {million["manifest_seconds"] / 60:.0f} minutes for the manifest,
{million["cache_seconds"] / 60:.0f} for the cache ({million["cache_mb"] / 1000:.1f} GB at 64 pixels, {million["cache_mb"] * 6.25 / 1000:.0f} GB at 160),
{million["split_seconds"]:.0f} seconds for a split, {(slopes["peak_mb"] * 1000 + table["peak_mb"].min()) / 1000:.1f} GB of memory.
The audit compares all with all: {hours:.0f} hours, if its time grows with the square from {int(most["slices"]):,} on. It gives first.
"""


LINES = {
    "start": start,
    "decode": decode,
    "step": step,
    "kernels": kernels,
    "maps": maps,
    "predict": predict,
    "report": report,
    "growth": growth,
    "cost": costs,
    "accuracy": accuracy,
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
    target = "" if met is None else f"at least {least:.3g}" if limit is None else f"under {limit} s"
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
