"""Stages of fine-tuning: from a fit's parameters to a finished run, resumable at every epoch."""

import json
import time
import zlib
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btlib import DataError, files, params, watched
from btlib.data import datasets, erasing, splits
from btlib.fitting import distribution, runs
from btlib.models import counts as cost
from btlib.models import layers as learners
from btlib.models import registry as models
from btlib.models import weights


def prepare(study: params.Study) -> datasets.Dataset:
    """Make sure that every model's pretrained weights are here, then load the study's data set.

    Args:
        study: the parameters.

    Raises:
        WeightsError: weights are missing and cannot be fetched; raised before any slice is read.
        DataError: the data set cannot be read, or cannot carry the study's protocols and recipes (`runs.check`).

    First call of notebooks 03 to 06.
    """
    wanted = [study.proposed, *study.baselines]
    for name in dict.fromkeys(m.model for m in wanted if m.weights):
        weights.ensure(models.REGISTRY[name].source)
    runs.check(study, datasets.manifest(study.data))
    return datasets.load(study.data, study.preprocessing)


def find(study: params.Study, model: str, protocol: str, fold: int = 0, seed: int | None = None) -> runs.Run:
    """Return the run of one of the study's models under one of its protocols, fitting it if it is missing.

    Args:
        study: the parameters.
        model: name of the proposed model or of a baseline, or NAME/RECIPE.
        protocol, fold: which split.
        seed: None for the first of the protocol's seeds.

    Notebooks 03 to 06.
    """
    seed = runs.seeds_of(study, protocol)[0] if seed is None else seed
    fingerprint = datasets.fingerprint(study.data)
    return fit(study, runs.fit_of(study, fingerprint, study.model_of(model), protocol, fold, seed))


def fit(study: params.Study, wanted: runs.Fit) -> runs.Run:
    """Return the finished run of a fit: loaded where it is there, else fitted, going on from the last whole epoch.

    Args:
        study: says where the data set lies.
        wanted: everything the result depends on.

    Raises:
        DataError, WeightsError: before any training.

    Notebooks 03 and 04, and `python -m btlib fit`.
    """
    if done := runs.load(wanted):
        return done
    with runs.claim(wanted) as folder:
        if done := runs.load(wanted):  # another process fitted it while this one waited
            return done
        data = datasets.load(study.data, wanted.preprocessing)
        author = datasets.author_folds(study.data) if wanted.protocol == "author_folds" else None
        slices = data.manifest[data.manifest["label"].isin(wanted.classes)]
        split = splits.make(slices, wanted.protocol, wanted.fold, wanted.seed, wanted.split, author)
        with distribution.scope(study.distribution, wanted.recipe.batch_size) as devices:
            done = fit_split(wanted, data, split, folder, devices)
        keras.backend.clear_session()  # not inside: it takes away the graph that the scope stands in
        return done


def progress(fits):
    """Go through fits with a progress bar in JupyterLab and none where nobody looks. Notebooks 03 and 04."""
    return tqdm(list(fits), "fits", unit="fit", disable=not watched())


def fit_split(
    wanted: runs.Fit, data: datasets.Dataset, split: pd.DataFrame, folder: Path, devices: int = 1
) -> runs.Run:
    """Fit under a split that is given, whatever the fit itself says of one.

    Args:
        wanted: the fit; its run will bear its id.
        data: the data set.
        split: image_id and role of every slice that takes part (`splits.make`).
        folder: of `runs.claim`, to work in.
        devices: accelerators that share each batch.

    Used by `fit`, and by `make bench`, which looks at its hold-out after each epoch.
    """
    started, machine = time.monotonic(), runs.machine()
    table = data.manifest.set_index("image_id").assign(row=np.arange(len(data.manifest))).loc[split["image_id"]]
    table["role"] = split["role"].to_numpy()
    y = table["label"].map(wanted.classes.index).to_numpy()
    parts = {
        r: (table.loc[table["role"] == r, "row"].to_numpy(), y[(table["role"] == r).to_numpy()]) for r in splits.ROLES
    }

    keras.config.set_dtype_policy(wanted.recipe.precision)
    try:
        model = models.build(
            wanted.model,
            wanted.weights,
            wanted.preprocessing.image_size,
            wanted.head,
            wanted.seed,
            len(wanted.classes),
            wanted.output_stride,
        )
        counts = {"parameters": model.count_params(), "macs": cost.macs(model)}
        state = _State(folder, model)
        for norm in _norms(model):
            norm.synchronized = devices > 1  # batch statistics of the whole batch, as on one device
        for number, stage in enumerate(wanted.recipe.stages):
            if number < state.stage:
                continue
            train = _train_head if stage.unfreeze == "head" else _train_stage
            train(wanted, model, data, parts, state, number, stage)
        for norm in _norms(model):
            norm.synchronized = False
        if wanted.recipe.renew_statistics:
            renew_statistics(
                model, learned_norms(model, wanted), data.images, parts["train"][0], wanted.recipe.batch_size
            )
        seen = table[table["role"] != "train"]
        logits = predict(model, data.images, seen["row"].to_numpy())
    finally:
        keras.config.set_dtype_policy("float32")
    columns = ["role", "label", "patient_id", "patient_group", "plane"]
    predictions = seen[columns].reset_index().assign(**dict(zip(runs.logits_of(wanted.classes), logits.T, strict=True)))
    with files.replacing(folder / "model.keras") as path:
        model.save(path)
    _write_csv(folder / "history.csv", pd.DataFrame(state.history))
    _write_csv(folder / "predictions.csv", predictions)
    seconds = state.seconds + time.monotonic() - started
    facts = {"title": wanted.title, "fit_seconds": round(seconds, 1), "devices": devices}
    facts |= counts | {f"n_{role}": len(rows) for role, (rows, _) in parts.items()}
    run = runs.finish(wanted, folder, facts | machine)
    (run.folder / state.path.name).unlink()  # last: whatever fails before, the epochs are not lost
    return run


def predict(model, images, rows=None, batch_size: int = 64, flip: bool = False) -> np.ndarray:
    """Return a model's logits for slices.

    Args:
        model: keras.Model from (n, S, S, 1) to logits.
        images: (N, S, S) uint8, read lazily.
        rows: which of them, (n,) int; None for all.
        batch_size: slices at a time.
        flip: whether to average with the logits of the left-right mirrored slices (test-time augmentation).

    Returns:
        (n, classes) float32.

    Notebooks 04 to 06.
    """
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    out = [np.zeros((0, model.output_shape[-1]), np.float32)]
    for start in range(0, len(rows), batch_size):
        batch = read(images, rows[start : start + batch_size])
        full = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        logits = np.asarray(model.predict_on_batch(full))  # one shape only: a second would be compiled anew
        if flip:
            logits = (logits + np.asarray(model.predict_on_batch(full[:, :, ::-1]))) / 2
        out.append(logits[: len(batch)])
    return np.concatenate(out)


def read(images, rows) -> np.ndarray:
    """Read slices as a batch: (n, S, S, 1) uint8, in the order of `rows`."""
    return np.stack([images[int(r)] for r in rows])[..., None]


def learned_norms(model, wanted: runs.Fit) -> list:
    """Return the BatchNorm layers that some stage of a fit let learn.

    The others kept the statistics that the layers above them learned with.

    Args:
        model: of the fit.
        wanted: its recipe says which stages thaw how deep, and whether BatchNorm learns at all.
    """
    depth, stages = models.depths(model, wanted.model), [stage.unfreeze for stage in wanted.recipe.stages]
    deepest = max(depth.values()) if "all" in stages else max((s for s in stages if s != "head"), default=0)
    learns = wanted.recipe.batchnorm == "train"
    return [n for n in _norms(model) if learns and depth[n.name] <= deepest]


def _norms(model) -> list:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def renew_statistics(model, norms: list, images, rows, batch_size: int) -> None:
    """Recompute BatchNorm's moving statistics as plain averages over clean training slices.

    Statistics gathered under augmentation, or before weights were averaged, do not fit clean slices.

    Args:
        model: changed in place; weights stay as they are.
        norms: its BatchNorm layers to renew, `learned_norms`; the others stay as they are.
        images: (N, S, S) uint8.
        rows: training slices.
        batch_size: slices at a time; a last, smaller batch is left out.
    """
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    before = [(n, n.trainable, n.momentum) for n in _norms(model)], [(d, d.rate) for d in drops]
    for norm in _norms(model):
        norm.trainable = norm in norms
    for drop in drops:
        drop.rate = 0
    order = np.random.default_rng(0).permutation(rows)
    for k in range(min(40, max(1, len(rows) // batch_size)) if norms else 0):
        for norm in norms:
            norm.momentum = k / (k + 1)
        model(read(images, np.sort(order[k * batch_size : (k + 1) * batch_size])), training=True)
    for norm, trainable, momentum in before[0]:
        norm.trainable, norm.momentum = trainable, momentum
    for drop, rate in before[1]:
        drop.rate = rate


def augmenter(augmentation: params.Augmentation, image_size: int, seed: int):
    """Return the layer that changes training slices at random.

    Args:
        augmentation: how much of what.
        image_size: S.
        seed: of its random numbers.

    Returns:
        keras.Layer from (n, S, S, 1), 0..255, to the same; it does nothing where training is off.

    Notebook 02 shows it.
    """
    return Augment(augmentation, image_size, seed, name="augment", dtype="float32")


class Augment(keras.layers.Layer):
    """Random flips, one affine change, and changes of intensity, drawn for every slice of a batch."""

    def __init__(self, augmentation: params.Augmentation, image_size: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.a, self.size = augmentation, image_size
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        """Take (n, S, S, 1) slices, or (n, S, S, 2) with their masks, which move with them and keep their values."""
        images = keras.ops.cast(images, "float32")
        if not training:
            return images
        moved = self.move(images)
        changed = self.intensities(moved[..., :1])
        return changed if moved.shape[-1] == 1 else keras.ops.concatenate([changed, moved[..., 1:]], axis=-1)

    def move(self, images):
        """Flip left-right, rotate, zoom and shift in one resampling; what comes from outside is black."""
        a, ops = self.a, keras.ops
        n = ops.shape(images)[0]
        angle = self.uniform(n, np.deg2rad(a.rotation_degrees))
        scale = 1 + self.uniform(n, a.zoom)
        mirror = ops.sign(self.uniform(n, 1.0)) if a.flip else ops.ones((n,))
        shift_x, shift_y = (self.uniform(n, a.shift * self.size) for _ in "xy")
        cos, sin, centre = ops.cos(angle) / scale, ops.sin(angle) / scale, (self.size - 1) / 2
        # Output to input: (x, y) -> (a0 x + a1 y + a2, b0 x + b1 y + b2), about the centre.
        a0, a1, b0, b1 = mirror * cos, -mirror * sin, sin, cos
        a2 = centre - (a0 + a1) * centre + shift_x
        b2 = centre - (b0 + b1) * centre + shift_y
        zero = ops.zeros((n,))
        transform = ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)
        return ops.image.affine_transform(
            images, transform, interpolation="bilinear", fill_mode="constant", fill_value=0
        )

    def intensities(self, images):
        """Change contrast, gamma, a smooth bias field and noise; stay within 0..255."""
        a, ops = self.a, keras.ops
        n = ops.shape(images)[0]
        x = images / 255

        def each(limit):
            return ops.reshape(self.uniform(n, limit), (n, 1, 1, 1))

        if a.gamma:
            x = ops.power(ops.clip(x, 1e-6, 1.0), ops.exp(each(a.gamma)))
        if a.bias_field:
            line = ops.reshape(ops.linspace(-1.0, 1.0, self.size), (1, self.size, 1, 1))
            across = ops.reshape(line, (1, 1, self.size, 1))
            x = x * (1 + each(a.bias_field) * line + each(a.bias_field) * across)
        if a.contrast:
            x = x * (1 + each(a.contrast))
        if a.noise:
            sigma = ops.abs(each(a.noise))
            x = x + sigma * keras.random.normal(ops.shape(x), seed=self.generator)
        return ops.clip(x, 0.0, 1.0) * 255

    def uniform(self, n, limit):
        """Return n numbers between -limit and limit."""
        return keras.random.uniform((n,), -limit, limit, seed=self.generator) if limit else keras.ops.zeros((n,))


class Batches(keras.utils.PyDataset):
    """The training slices of one epoch, in an order and a mixture that seed and epoch alone decide."""

    def __init__(self, images, part, wanted: runs.Fit, stream: str, masks=None):
        super().__init__()
        rows, y = part
        self.images, self.masks, self.recipe = images, masks, wanted.recipe
        self.seed, classes = _number(wanted.seed, stream), len(wanted.classes)
        self.rng = np.random.default_rng(self.seed)
        order = self.rng.permutation(len(rows))
        self.rows, self.target = rows[order], np.eye(classes, dtype=np.float32)[y[order]]
        share = np.bincount(y, minlength=classes) / len(y)
        self.weight = (1 / (classes * share))[y[order]] if self.recipe.class_weights else np.ones(len(y))
        self.mixup = wanted.augmentation.mixup if wanted.augmentation else 0
        self.mixes = self.rng.beta(self.mixup, self.mixup, len(self)) if self.mixup else np.ones(len(self))

    def __len__(self):
        # A last batch of another size would be compiled anew; over epochs every slice gets its turn.
        return max(1, len(self.rows) // self.recipe.batch_size)

    def __getitem__(self, number):
        some = slice(number * self.recipe.batch_size, (number + 1) * self.recipe.batch_size)
        x, target = read(self.images, self.rows[some]), self.target[some]
        if self.masks is not None:
            masks = read(self.masks, self.rows[some])
            if self.recipe.erase:
                rng = np.random.default_rng((self.seed, number))
                x, masks, target = erased(x, masks, target, self.recipe.erase, rng)
            x = np.concatenate([x, 255 * masks], axis=-1) if self.recipe.cam_loss else x
        if self.mixup:
            part = np.float32(self.mixes[number])
            x = part * x + (1 - part) * x[::-1]
            target = part * target + (1 - part) * target[::-1]
        return x, target, self.weight[some].astype(np.float32)


def erased(images, masks, targets, erase: params.Erase, rng):
    """Take the tumour, and with it the class, from some slices of a batch, and as large a shape elsewhere from others.

    Args:
        images: (n, S, S, 1) uint8.
        masks: (n, S, S, 1) uint8 of 0 and 1; a slice without a mask stays as it is.
        targets: (n, classes) float32.
        erase: which shares, by which fills.
        rng: numpy.random.Generator.

    Returns:
        Copies of the three: a slice without its tumour has an empty mask, and no class is likelier than another. The region
        is the mask widened by 1 to 4 pixels.

    Used by `Batches`; notebook 04 shows it.
    """
    images, masks, targets = images.copy(), masks.copy(), targets.copy()
    order = rng.permutation(len(images))
    n_tumor, n_elsewhere = (round(share * len(images)) for share in (erase.tumor, erase.elsewhere))
    for place, i in enumerate(order[: n_tumor + n_elsewhere]):
        image, mask = images[i, ..., 0], masks[i, ..., 0] > 0
        head = erasing.head_of(image)
        region = erasing.widen(mask, int(rng.integers(1, 5)))
        if place >= n_tumor and mask.any():
            region = erasing.elsewhere(region, head, rng)
        if not mask.any() or region is None:
            continue
        fill = erase.fills[rng.integers(len(erase.fills))]
        image = erasing.FILLS[fill](image, region, head & ~mask)
        images[i, ..., 0] = erasing.noisy(image, region, erase.noise * rng.random(), rng)
        if place < n_tumor:
            masks[i], targets[i] = 0, 1 / targets.shape[1]
    return images, masks, targets


class KnownAccuracy(keras.metrics.Mean):
    """Accuracy over the slices that have a class: those that lost their tumour have none."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Take (n, classes) targets and logits; weights are left out, as accuracy counts slices."""
        ops = keras.ops
        known = ops.max(y_true, -1) > 1.01 / y_true.shape[-1]
        right = ops.equal(ops.argmax(y_true, -1), ops.argmax(y_pred, -1))
        return super().update_state(ops.cast(right, "float32"), sample_weight=ops.cast(known, "float32"))


def run_epoch(trainer, batches: Batches) -> dict[str, float]:
    """Take one optimizer step a batch, and return the epoch's mean loss and metrics.

    Keras's `fit` would wrap the batches in a tf.data pipeline. Nothing is gained by one, as a batch is read from memory
    in milliseconds; and closing it waited for a sleeping thread, in fits of these slices 44 s of a 145 s epoch.

    Args:
        trainer: a compiled keras.Model.
        batches: of one size.

    Returns:
        "loss" and the compiled metrics by name, means over the batches.

    Used by `fit`.
    """
    strategy = getattr(trainer, "distribute_strategy", None)  # TensorFlow's backend alone has one
    if strategy is not None and strategy.num_replicas_in_sync > 1:  # `fit` alone shares a batch out over replicas
        return {k: float(v[0]) for k, v in trainer.fit(batches, verbose=0, shuffle=False).history.items()}
    steps = [trainer.train_on_batch(*batches[i], return_dict=True) for i in range(len(batches))]
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose step on each variable is scaled; lower layers of a pretrained backbone may learn more slowly."""

    scales: list[float] = []
    """One factor a trainable variable, in the model's order; empty for all 1."""

    def update_step(self, gradient, variable, learning_rate):
        scale = self.scales[self._get_variable_index(variable)] if self.scales else 1.0
        return super().update_step(gradient, variable, learning_rate * scale)


class _State:
    """What a fit needs to go on after it was killed: saved whole at the end of each epoch."""

    def __init__(self, folder: Path, model):
        self.path, self.model = folder / "state.npz", model
        self.stage, self.epoch, self.seconds, self.history, self.extra = 0, 0, 0.0, [], {}
        self.best = None
        if self.path.exists():
            try:
                self.read()
            except Exception as error:  # other code's or another program's: NumPy and Keras fail each in its way
                raise DataError(
                    f"{self.path}: is no state that this code left of the fit ({error}); remove it to fit from the start"
                ) from None
        self.clock = time.monotonic()

    def read(self):
        with np.load(self.path, allow_pickle=False) as saved:
            facts = json.loads(str(saved["facts"]))
            self.stage, self.epoch, self.seconds = facts["stage"], facts["epoch"], facts["seconds"]
            self.history = facts["history"]
            self.model.set_weights([saved[f"w{i}"] for i in range(len(self.model.weights))])
            self.extra = {k: saved[k] for k in saved.files if k[0] == "o"}
            if "b0" in saved.files:
                self.best = [saved[f"b{i}"] for i in range(len(self.model.weights))]

    def save(self, stage: int, epoch: int, beside=()):
        self.stage, self.epoch = stage, epoch
        facts = {
            "stage": stage,
            "epoch": epoch,
            "history": self.history,
            "seconds": self.seconds + time.monotonic() - self.clock,
        }
        arrays = {f"w{i}": w for i, w in enumerate(self.model.get_weights())}
        arrays |= {f"o{i}": np.asarray(v) for i, v in enumerate(beside)}
        arrays |= {f"b{i}": w for i, w in enumerate(self.best or [])}
        with files.replacing(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, facts=json.dumps(facts), **arrays)

    def next_stage(self, stage: int):
        self.best = None
        self.save(stage + 1, 0)
        self.extra = {}


def _train_head(wanted, model, data, parts, state, number, stage):
    """Fit the head alone, on features that the frozen backbone computes once, from slices without augmentation."""
    pool = model.get_layer("pool")
    backbone = keras.Model(model.input, pool.output)
    head = keras.Model(pool.output, model.output)
    features = {role: _features(backbone, data.images, parts[role][0]) for role in ("train", "validation")}
    keras.utils.set_random_seed(_number(wanted.seed, f"head {number}"))
    head.compile(_optimizer(wanted, stage, len(features["train"]), []), _loss(wanted), metrics=["accuracy"])
    targets = {role: np.eye(len(wanted.classes))[parts[role][1]] for role in features}
    validation = (features["validation"], targets["validation"]) if len(targets["validation"]) else None
    done = head.fit(
        features["train"],
        targets["train"],
        wanted.recipe.batch_size,
        stage.epochs,
        verbose=0,
        validation_data=validation,
    )
    for epoch in range(stage.epochs):
        row = {k: float(v[epoch]) for k, v in done.history.items()}
        state.history.append({"stage": number, "epoch": epoch, **row, "learning_rate": stage.learning_rate})
    state.next_stage(number)


def _features(backbone, images, rows, batch_size=64):
    parts = [np.zeros((0, *backbone.output_shape[1:]), np.float32)]
    for start in range(0, len(rows), batch_size):
        batch = read(images, rows[start : start + batch_size])
        full = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        parts.append(np.asarray(backbone.predict_on_batch(full))[: len(batch)])
    return np.concatenate(parts)


def _train_stage(wanted, model, data, parts, state, number, stage):
    """Fit the layers that the stage thaws, epoch by epoch, under augmentation, in a copy of the model."""
    recipe, depth = wanted.recipe, models.depths(model, wanted.model)
    deepest = max(depth.values()) if stage.unfreeze == "all" else stage.unfreeze
    full = wanted.preprocessing.image_size
    size = stage.size_of(full)
    learner = state.model = learners.copy_of(model, size)
    for layer in learner.layers:
        frozen_norm = isinstance(layer, learners.FusedNorm) and recipe.batchnorm == "frozen"
        layer.trainable = depth.get(layer.name, deepest + 1) <= deepest and not frozen_norm
    masked = recipe.cam_loss > 0
    image = x = keras.Input((full, full, 1 + masked), name="slice")
    if wanted.augmentation:
        x = augmenter(wanted.augmentation, full, 0)(x)
    if size != full:
        x = keras.layers.Resizing(size, size, antialias=True, dtype="float32")(x)
    if masked:
        features = learner.get_layer(models.REGISTRY[wanted.model].feature_layer).output
        logits, features = keras.Model(learner.input, [learner.output, features])(x[..., :1])
        guide = CamLoss(recipe.cam_loss, learner.get_layer("logits"), name="cam", dtype="float32")
        trainer = keras.Model(image, guide(logits, features, x[..., 1:]))
    else:
        trainer = keras.Model(image, learner(x))
    scale = {
        id(v): stage.layer_decay ** depth[layer.name] for layer in learner.layers for v in layer.trainable_variables
    }
    scales = [scale.get(id(v), 1.0) for v in trainer.trainable_variables]
    metrics = [KnownAccuracy(name="accuracy")]
    trainer.compile(_optimizer(wanted, stage, len(parts["train"][0]), scales), _loss(wanted), metrics=metrics)
    trainer.optimizer.build(trainer.trainable_variables)
    beside = trainer.optimizer.variables
    if state.extra:
        for variable, value in zip(beside, state.extra.values(), strict=True):
            variable.assign(value)
    watch = _Watch(recipe, stage, state, model, trainer, number)
    epochs = tqdm(
        range(state.epoch, stage.epochs), wanted.title, initial=state.epoch, total=stage.epochs, disable=not watched()
    )
    for epoch in epochs:
        begun, rate = time.monotonic(), float(trainer.optimizer.learning_rate)
        stream = f"stage {number} epoch {epoch}"
        _reseed(trainer, wanted.seed, stream)
        masks = data.masks if masked or recipe.erase else None
        batches = Batches(data.images, parts["train"], wanted, stream, masks)
        row = {"stage": number, "epoch": epoch, **run_epoch(trainer, batches)}
        row |= watch.validate(data.images, parts["validation"]) | {"seconds": round(time.monotonic() - begun, 2)}
        state.history.append(row | {"learning_rate": rate})
        if watch.stop():
            break
        if epoch + 1 < stage.epochs:  # the end of the stage is saved below, without the optimizer
            state.save(number, epoch + 1, beside)
    watch.end()
    model.set_weights(learner.get_weights())
    state.model = model
    state.next_stage(number)


class CamLoss(keras.layers.Layer):
    """Hands the logits through, and adds the loss of a class told from elsewhere than the tumour: a KL divergence.

    With global average pooling and one dense layer, a logit is the sum over places of what each adds to it: its class
    activation map (CAM; Zhou et al. 2016, eq. 2), which is Grad-CAM's map before ReLU (Selvaraju et al. 2017, section 3.1).
    The softmax over places of the map of the class that the model names is to be as the tumour's area is shared among them;
    less the mean of all classes' maps, which the softmax over classes does not see. A slice without a mask adds nothing.
    """

    def __init__(self, weight: float, dense, **kwargs):
        super().__init__(**kwargs)
        self.weight, self.dense = weight, dense

    def call(self, logits, features, masks):
        """Take (n, classes) logits, (n, h, w, d) features and (n, S, S, 1) masks, 0..255; return the logits."""
        ops, kernel = keras.ops, self.dense.kernel
        height, width = features.shape[1:3]
        named = ops.one_hot(ops.argmax(logits, -1), logits.shape[-1])
        weights = ops.matmul(named, ops.transpose(kernel - ops.mean(kernel, -1, keepdims=True)))
        cam = ops.sum(features * weights[:, None, None], -1) / (height * width)
        cover = ops.image.resize(masks / 255, (height, width), antialias=True)
        cam, cover = (ops.reshape(x, (-1, height * width)) for x in (cam, cover))
        share = cover / ops.maximum(ops.sum(cover, -1, keepdims=True), 1e-6)
        loss = ops.sum(share * (ops.log(ops.maximum(share, 1e-6)) - ops.log_softmax(cam)), -1)
        self.add_loss(self.weight * ops.mean(loss))
        return logits


class _Watch:
    """Validation after each epoch, of averaged weights where they are asked for; early stopping; plateau schedule."""

    def __init__(self, recipe, stage, state, model, trainer, number):
        self.recipe, self.stage, self.state, self.model, self.trainer = recipe, stage, state, model, trainer
        self.losses = [row["val_loss"] for row in state.history if row["stage"] == number and "val_loss" in row]
        self.averaged = keras.callbacks.SwapEMAWeights() if recipe.ema else None
        if self.averaged:
            self.averaged.set_model(trainer)

    def validate(self, images, part) -> dict:
        if self.averaged:
            self.averaged.on_test_begin()
        rows, y = part
        if not len(rows):
            return {}
        self.model.set_weights(self.state.model.get_weights())
        logits = predict(self.model, images, rows).astype(np.float64)
        self.losses.append(float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(y)), y])))
        if self.recipe.patience and self.losses[-1] == min(self.losses):
            self.state.best = self.model.get_weights()
        if self.averaged:
            self.averaged.on_test_end()
        return {"val_loss": self.losses[-1], "val_accuracy": float(np.mean(logits.argmax(1) == y))}

    def stop(self) -> bool:
        if not self.losses:
            return False
        since = len(self.losses) - 1 - int(np.argmin(self.losses))
        if self.stage.schedule == "plateau" and since and since % 3 == 0:
            self.trainer.optimizer.learning_rate = float(self.trainer.optimizer.learning_rate) / 3
        return bool(self.recipe.patience) and since >= self.recipe.patience

    def end(self):
        if self.averaged:
            self.averaged.on_test_begin()
        if self.state.best is not None:
            self.state.model.set_weights(self.state.best)


def _loss(wanted):
    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=wanted.recipe.label_smoothing)


def _optimizer(wanted, stage, n_train: int, scales: list[float]):
    recipe = wanted.recipe
    steps = max(1, n_train // recipe.batch_size)
    rate = stage.learning_rate
    if stage.schedule == "cosine":
        warm = round(stage.warmup_epochs * steps)
        rest = max(1, stage.epochs * steps - warm)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 100 if warm else rate, rest, warmup_target=rate if warm else None, warmup_steps=warm
        )
    optimizer = LayerwiseAdamW(
        rate, weight_decay=recipe.weight_decay, use_ema=bool(recipe.ema), ema_momentum=recipe.ema or 0.99
    )
    optimizer.scales = scales
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _reseed(model, seed: int, stream: str) -> None:
    """Set every random layer's state from seed and epoch, so that a resumed fit draws what an unbroken one does."""
    for i, variable in enumerate(v for v in model.variables if v.path.endswith("seed_generator_state")):
        variable.assign(np.array([_number(seed, f"{stream} {i}"), 0], dtype=np.uint32))


def _number(seed: int, stream: str) -> int:
    return zlib.crc32(f"{seed} {stream}".encode())


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g", lineterminator="\n")
