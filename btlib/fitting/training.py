"""Stages of fine-tuning: from a fit's parameters to a finished run, resumable at every epoch."""

import json
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from btlib import DataError, ParamsError, files, params, watched
from btlib.data import datasets, splits
from btlib.fitting import batches, runs
from btlib.models import augmentation, counts, layers
from btlib.models import registry as models


def prepare(study: params.Study) -> datasets.Dataset:
    """Make sure that every model's pretrained weights are here, then load the study's data set. Notebooks 03 to 06.

    WeightsError as `weights.ensure`, before any slice is read; DataError as `runs.check` and `datasets.load`.
    """
    runs.ensure_weights(study)
    runs.check(study, datasets.manifest(study.data))
    return datasets.load(study.data, study.preprocessing)


def find(study: params.Study, model: str, protocol: str, fold: int = 0, seed: int | None = None) -> runs.Run:
    """Return the run of one of the study's models under one split, fitting it if it is missing. Notebooks 03 to 06.

    Args:
        study: the parameters.
        model: as `gradcam.models` names it: NAME of the proposed model or a baseline, NAME/RECIPE or NAME/RECIPE/STRIDE.
        protocol, fold: which split.
        seed: None for the first of the protocol's seeds.
    """
    seed = runs.seeds_of(study, protocol)[0] if seed is None else seed
    fingerprint = datasets.fingerprint(study.data)
    return fit(study, runs.fit_of(study, fingerprint, study.model_of(model), protocol, fold, seed))


def fit(study: params.Study, wanted: runs.Fit) -> runs.Run:
    """Return the finished run of a fit: loaded where it is there, else fitted, going on from the last whole epoch."""
    if done := runs.load(wanted):
        return done
    with runs.claim(wanted) as folder:
        if done := runs.load(wanted):  # another process fitted it while this one waited
            return done
        data = datasets.load(study.data, wanted.preprocessing)
        author = datasets.author_folds(study.data) if wanted.protocol == "author_folds" else None
        slices = data.manifest[data.manifest["label"].isin(wanted.classes)]
        split = splits.make(slices, wanted.protocol, wanted.fold, wanted.seed, wanted.split, author)
        with shared_out(study.distribution, wanted.recipe.batch_size) as devices:
            done = fit_split(wanted, data, split, folder, devices)
        keras.backend.clear_session()  # not inside: it takes away the graph that the scope stands in
        return done


@contextmanager
def shared_out(distribution: str, batch_size: int):
    """Make what is built and fitted inside work on several devices, each of which takes its part of every batch.

    The model is copied to each, and gradients are summed after every step. Losses are close to those of one device, and
    not equal: sums round otherwise. ParamsError where the batch cannot be shared out evenly, or Keras runs on JAX.

    Args:
        distribution: "none", or "data_parallel": every GPU, or every logical CPU where there is no GPU.
        batch_size: slices a step, over all devices together; their number is yielded.
    """
    if distribution == "none":
        yield 1
        return
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ParamsError(f"distribution: got {distribution!r}; allowed with KERAS_BACKEND={backend}: none")
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if batch_size % (n := len(devices)):
        raise ParamsError(f"batch_size: got {batch_size}; allowed with {n} devices: a multiple of {n}")
    with tf.distribute.MirroredStrategy([device.name for device in devices]).scope():
        yield n


def progress(fits):
    """Go through fits with a progress bar in JupyterLab and none where nobody looks. Notebooks 03 and 04."""
    return tqdm(list(fits), "fits", unit="fit", disable=not watched())


def fit_split(
    wanted: runs.Fit, data: datasets.Dataset, split: pd.DataFrame, folder: Path, devices: int = 1
) -> runs.Run:
    """Fit under a split that is given, whatever the fit itself says of one.

    The run bears the fit's id. `split` is as `splits.make` returns it, `folder` is of `runs.claim`, and as many `devices`
    share each batch.
    """
    started, machine, recipe = time.monotonic(), runs.machine(), wanted.recipe
    table = data.manifest.set_index("image_id").assign(row=np.arange(len(data.manifest))).loc[split["image_id"]]
    table["role"] = split["role"].to_numpy()
    y = table["label"].map(wanted.classes.index).to_numpy()
    of_role = {role: (table["role"] == role).to_numpy() for role in splits.ROLES}
    parts = {role: (table["row"].to_numpy()[some], y[some]) for role, some in of_role.items()}

    keras.config.set_dtype_policy(recipe.precision)
    try:
        size, stride = wanted.preprocessing.image_size, wanted.output_stride
        model = models.build(wanted.model, wanted.weights, size, wanted.head, wanted.seed, len(wanted.classes), stride)
        macs, unknown = counts.macs_or_reason(model)
        costs = {"parameters": model.count_params(), "macs": macs} | ({"macs_unknown": unknown} if unknown else {})
        state = _State(folder, model)
        for norm in _norms(model):
            norm.synchronized = devices > 1  # batch statistics of the whole batch, as on one device
        for number, stage in enumerate(recipe.stages):
            if number >= state.stage:
                train = _train_head if stage.unfreeze == "head" else _train_stage
                train(wanted, model, data, parts, state, number, stage)
        for norm in _norms(model):
            norm.synchronized = False
        if recipe.renew_statistics:
            norms = learned_norms(model, wanted)
            renew_statistics(model, norms, data.images, parts["train"][0], recipe.batch_size)
        seen = table[table["role"] != "train"]
        logits = batches.predict(model, data.images, seen["row"].to_numpy())
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
    facts |= costs | {f"n_{role}": len(rows) for role, (rows, _) in parts.items()}
    run = runs.finish(wanted, folder, facts | machine)
    (run.folder / state.path.name).unlink()  # last: whatever fails before, the epochs are not lost
    return run


def learned_norms(model, wanted: runs.Fit) -> list:
    """Return the BatchNorm layers that some stage let learn; the others kept what the layers above them learned with."""
    depth, stages = models.depths(model, wanted.model), [stage.unfreeze for stage in wanted.recipe.stages]
    deepest = max(depth.values()) if "all" in stages else max((s for s in stages if s != "head"), default=0)
    learns = wanted.recipe.batchnorm == "train"
    return [n for n in _norms(model) if learns and depth[n.name] <= deepest]


def _norms(model) -> list:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def renew_statistics(model, norms: list, images, rows, batch_size: int) -> None:
    """Recompute BatchNorm's moving statistics as plain averages over clean training slices.

    Statistics gathered under augmentation, or before weights were averaged, do not fit clean slices.

    The model is changed in place: `norms` alone, of its layers. `rows` are the training slices among `images`, (N, S, S).
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
        model(batches.read(images, np.sort(order[k * batch_size : (k + 1) * batch_size])), training=True)
    for norm, trainable, momentum in before[0]:
        norm.trainable, norm.momentum = trainable, momentum
    for drop, rate in before[1]:
        drop.rate = rate


def run_epoch(trainer, slices: batches.Batches) -> dict[str, float]:
    """Take one optimizer step a batch, and return the means of "loss" and of the compiled metrics, by name.

    Keras's `fit` would wrap the batches in a tf.data pipeline. Nothing is gained by one, as a batch is read from memory
    in milliseconds; and closing it waited for a sleeping thread, in fits of these slices 44 s of a 145 s epoch.
    """
    strategy = getattr(trainer, "distribute_strategy", None)  # TensorFlow's backend alone has one
    if strategy is not None and strategy.num_replicas_in_sync > 1:  # `fit` alone shares a batch out over replicas
        return {k: float(v[0]) for k, v in trainer.fit(slices, verbose=0, shuffle=False).history.items()}
    steps = [trainer.train_on_batch(*slices[i], return_dict=True) for i in range(len(slices))]
    return {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}


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
        seconds = self.seconds + time.monotonic() - self.clock
        facts = {"stage": stage, "epoch": epoch, "history": self.history, "seconds": seconds}
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
    features = {role: batches.predict(backbone, data.images, parts[role][0]) for role in ("train", "validation")}
    keras.utils.set_random_seed(batches.number_of(wanted.seed, f"head {number}"))
    head.compile(_optimizer(wanted, stage, len(features["train"]), []), _loss(wanted), metrics=["accuracy"])
    targets = {role: np.eye(len(wanted.classes))[parts[role][1]] for role in features}
    validation = (features["validation"], targets["validation"]) if len(targets["validation"]) else None
    counts = targets["train"].sum(0)
    weight = (counts.sum() / len(counts) / counts)[parts["train"][1]] if wanted.recipe.class_weights else None
    done = head.fit(
        features["train"],
        targets["train"],
        wanted.recipe.batch_size,
        stage.epochs,
        verbose=0,
        validation_data=validation,
        sample_weight=weight,
    )
    rate, steps = head.optimizer._learning_rate, -(-len(features["train"]) // wanted.recipe.batch_size)
    for epoch in range(stage.epochs):
        row = {k: float(v[epoch]) for k, v in done.history.items()}
        begun = float(rate(epoch * steps)) if callable(rate) else stage.learning_rate
        state.history.append({"stage": number, "epoch": epoch, **row, "learning_rate": begun})
    state.next_stage(number)


def _train_stage(wanted, model, data, parts, state, number, stage):
    """Fit the layers that the stage thaws, epoch by epoch, under augmentation, in a copy of the model."""
    recipe, depth = wanted.recipe, models.depths(model, wanted.model)
    deepest = max(depth.values()) if stage.unfreeze == "all" else stage.unfreeze
    full = wanted.preprocessing.image_size
    size = stage.size_of(full)
    learner = state.model = layers.copy_of(model, size)
    for layer in learner.layers:
        frozen_norm = isinstance(layer, layers.FusedNorm) and recipe.batchnorm == "frozen"
        layer.trainable = depth.get(layer.name, deepest + 1) <= deepest and not frozen_norm
    masked = recipe.cam_loss > 0
    image = x = keras.Input((full, full, 1 + masked), name="slice")
    if wanted.augmentation:
        x = augmentation.Augment(wanted.augmentation, full, 0)(x)
    if size != full:
        x = keras.layers.Resizing(size, size, antialias=True, dtype="float32")(x)
    if masked:
        features = learner.get_layer(models.REGISTRY[wanted.model].feature_layer).output
        logits, features = keras.Model(learner.input, [learner.output, features])(x[..., :1])
        guide = layers.CamLoss(recipe.cam_loss, learner.get_layer("logits"), name="cam", dtype="float32")
        trainer = keras.Model(image, guide(logits, features, x[..., 1:]))
    else:
        trainer = keras.Model(image, learner(x))
    scale = {
        id(v): stage.layer_decay ** depth[layer.name] for layer in learner.layers for v in layer.trainable_variables
    }
    scales = [scale.get(id(v), 1.0) for v in trainer.trainable_variables]
    metrics = [layers.KnownAccuracy(name="accuracy")]
    trainer.compile(_optimizer(wanted, stage, len(parts["train"][0]), scales), _loss(wanted), metrics=metrics)
    trainer.optimizer.build(trainer.trainable_variables)
    beside = trainer.optimizer.variables
    if state.extra:
        for variable, value in zip(beside, state.extra.values(), strict=True):
            variable.assign(value)
    watch = _Watch(recipe, stage, state, model, trainer, number)
    shown = {"initial": state.epoch, "total": stage.epochs, "disable": not watched()}
    for epoch in tqdm(range(state.epoch, stage.epochs), wanted.title, **shown):
        begun, rate = time.monotonic(), float(trainer.optimizer.learning_rate)
        stream = f"stage {number} epoch {epoch}"
        _reseed(trainer, wanted.seed, stream)
        masks = data.masks if masked or recipe.erase else None
        slices = batches.Batches(data.images, parts["train"], wanted, stream, masks)
        row = {"stage": number, "epoch": epoch, **run_epoch(trainer, slices)}
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


class _Watch:
    """Validation after each epoch, of averaged weights where they are asked for; early stopping; plateau schedule."""

    def __init__(self, recipe, stage, state, model, trainer, number):
        self.recipe, self.stage, self.state, self.model, self.trainer = recipe, stage, state, model, trainer
        self.losses = [row["val_loss"] for row in state.history if row["stage"] == number and "val_loss" in row]
        self.averaged = keras.callbacks.SwapEMAWeights() if recipe.ema else None
        if self.averaged:
            self.averaged.set_model(trainer)

    def validate(self, images, part) -> dict:
        rows, y = part
        if not len(rows):
            return {}
        if self.averaged:
            self.averaged.on_test_begin()
        self.model.set_weights(self.state.model.get_weights())
        logits = batches.predict(self.model, images, rows).astype(np.float64)
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
    optimizer = layers.LayerwiseAdamW(
        rate, weight_decay=recipe.weight_decay, use_ema=bool(recipe.ema), ema_momentum=recipe.ema or 0.99
    )
    optimizer.scales = scales
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _reseed(model, seed: int, stream: str) -> None:
    """Set every random layer's state from seed and epoch, so that a resumed fit draws what an unbroken one does."""
    for i, variable in enumerate(v for v in model.variables if v.path.endswith("seed_generator_state")):
        variable.assign(np.array([batches.number_of(seed, f"{stream} {i}"), 0], dtype=np.uint32))


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.7g", lineterminator="\n")
